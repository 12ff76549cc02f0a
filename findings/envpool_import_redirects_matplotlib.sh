#!/usr/bin/env bash
# "import envpool" sets MPLBACKEND=Agg and MPLCONFIGDIR in the environment of the process, though nothing is drawn: it is
# the set-up of the renderer of its Jumanji tasks, which runs with the import, whether or not a task of Jumanji is made.
# A training script that imports envpool before matplotlib, and ends with plt.show(), shows no window and no error
# (matplotlib warns at most); its own matplotlibrc and fonts in the home directory are not read; and every process that
# it starts inherits both: a Jupyter kernel leaves a backend that is set as it is, and its notebooks show no pictures.
#
# Versions: envpool 1.2.5, matplotlib 3.11.2, Python 3.11, Linux.
# Seen: "envpool 1.2.5: MPLBACKEND None -> Agg, MPLCONFIGDIR None -> /tmp/envpool-jumanji-matplotlib, backend agg; the home's
# matplotlibrc is read: True without, False with"
# Expected: the variables stay as they are until something of Jumanji is drawn.
# Ends with 0 while this is so, and with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q envpool==1.2.5 matplotlib==3.11.2
# A user's own settings, where matplotlib looks for them.
mkdir -p "$folder/home/.config/matplotlib"
echo "lines.linewidth: 7.5" > "$folder/home/.config/matplotlib/matplotlibrc"
cat > "$folder/program.py" <<'PYTHON'
import os
import sys

NAMES = ("MPLBACKEND", "MPLCONFIGDIR")
before = [os.environ.get(name) for name in NAMES]
if sys.argv[1:] == ["with"]:
    import envpool

    version = envpool.__version__
after = [os.environ.get(name) for name in NAMES]
import matplotlib

own = matplotlib.rcParams["lines.linewidth"] == 7.5
if sys.argv[1:] != ["with"]:
    sys.exit(0 if own and after == before else 1)
backend = matplotlib.get_backend().lower()
changes = ", ".join(f"{name} {old} -> {new}" for name, old, new in zip(NAMES, before, after, strict=True))
print(
    f"envpool {version}: {changes}, backend {backend}; the home's matplotlibrc is read: True without, {own} with"
)
sys.exit(0 if before == [None, None] and after[0] == "Agg" and after[1] and not own else 1)
PYTHON
run() { env -u MPLBACKEND -u MPLCONFIGDIR -u XDG_CONFIG_HOME HOME="$folder/home" "$folder/env/bin/python" "$folder/program.py" "$@"; }
run without
run with
