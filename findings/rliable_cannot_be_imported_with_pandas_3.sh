#!/usr/bin/env bash
# rliable, whose definitions most papers of reinforcement learning report by, cannot be imported with what pip installs
# beside it: it asks for arch before 8, arch 7.2.0 asks for pandas from 1.4 on without an upper bound, and pandas 3 has
# changed a decorator that arch 7.2.0 uses while it is imported. With pandas 2 the same packages work.
#
# Versions: rliable 1.2.0, arch 7.2.0, pandas 3.1.1 and 2.3.3, numpy 2.4.6, scipy 1.17.1, Python 3.11, Linux.
# Seen: "rliable 1.2.0, arch 7.2.0: with pandas 3.1.1: TypeError: deprecate_kwarg() missing 1 required positional argument:
# 'new_arg_name'; with pandas 2.3.3: interquartile mean 2.5".
# Expected: the second with both, or a bound in arch's or rliable's metadata that keeps pandas 3 away.
# Ends with 0 while this is so, and with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
cat > "$folder/iqm.py" <<'PYTHON'
import numpy as np

try:
    from rliable import library, metrics  # noqa: F401
except TypeError as error:
    print(f"TypeError: {error}")
else:
    print(f"interquartile mean {metrics.aggregate_iqm(np.array([[1.0, 2.0], [3.0, 40.0]])):g}")
PYTHON
said="rliable 1.2.0, arch 7.2.0:"
for pandas in 3.1.1 2.3.3; do
  "$folder/env/bin/pip" install -q rliable==1.2.0 arch==7.2.0 "pandas==$pandas" numpy==2.4.6 scipy==1.17.1
  "$folder/env/bin/pip" check > /dev/null
  said="$said with pandas $pandas: $("$folder/env/bin/python" -W ignore "$folder/iqm.py");"
done
echo "${said%;}"
wanted="rliable 1.2.0, arch 7.2.0: with pandas 3.1.1: TypeError: deprecate_kwarg() missing 1 required positional argument:"
[ "${said%;}" = "$wanted 'new_arg_name'; with pandas 2.3.3: interquartile mean 2.5" ]
