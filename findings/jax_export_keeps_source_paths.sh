#!/usr/bin/env bash
# A function that jax.export serialises carries the absolute paths of the sources it was traced from, in the bytes that
# are meant to be handed on: they tell the folders, and with them user names, of the machine that exported, and the same
# program exported from two folders is two different files. jax_hlo_source_file_canonicalization_regex takes them out.
#
# Versions: jax 0.10.2 with jaxlib 0.10.2 and flatbuffers 25.12.19, Python 3.11, Linux.
# Seen: "jax 0.10.2: the folder of the source is in the file: True; with the regex: False; the same from two folders: False,
# with the regex: True".
# Expected: nothing of the exporting machine in the file, and equal files of equal programs.
# Ends with 0 while this is so, and with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 flatbuffers==25.12.19
mkdir "$folder/one" "$folder/other"
cat > "$folder/one/policy.py" <<'PYTHON'
import os
import sys

import jax
import jax.numpy as jnp
from jax import export

if sys.argv[2] == "regex":
    jax.config.update("jax_hlo_source_file_canonicalization_regex", ".*/")


def policy(observations):
    return jnp.tanh(observations @ observations.T).sum(axis=1)


observations = jax.ShapeDtypeStruct((4, 3), jnp.float32)
with open(sys.argv[1], "wb") as file:
    file.write(export.export(jax.jit(policy))(observations).serialize())
print(jax.__version__)
PYTHON
cp "$folder/one/policy.py" "$folder/other/policy.py"
for from in one other; do
  for how in plain regex; do
    version=$(JAX_PLATFORMS=cpu "$folder/env/bin/python" "$folder/$from/policy.py" "$folder/$from.$how" "$how")
  done
done
has() { grep -qaF "$folder/one" "$1" && echo True || echo False; }
same() { cmp -s "$folder/one.$1" "$folder/other.$1" && echo True || echo False; }
said="the folder of the source is in the file: $(has "$folder/one.plain"); with the regex: $(has "$folder/one.regex")"
said="$said; the same from two folders: $(same plain), with the regex: $(same regex)"
echo "jax $version: $said"
[ "$said" = "the folder of the source is in the file: True; with the regex: False; the same from two folders: False, with the regex: True" ]
