#!/usr/bin/env bash
# JAX's check of random keys (jax_debug_key_reuse) takes a key that went through lax.optimization_barrier, which changes
# nothing, for one that has been used: the first use after the barrier is refused. The check was made to find keys that
# are used twice; here each is used once.
#
# Versions: jax 0.10.2, jaxlib 0.10.2, Python 3.11 (jax 0.12.0 on Python 3.12 is the same).
# Seen: a jitted function that draws from a key is accepted; the same function that puts a barrier before it raises
# "KeyReuseError: In jit, argument 0 is already consumed."
# Expected: what a barrier gives is as unused as what it was given.
# Ends with 0 while this is so, and with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2
cat > "$folder/draw.py" <<'PYTHON'
import sys

import jax
from jax import lax


def outcome(draw):
    try:
        jax.jit(draw)(jax.random.key(0))
    except jax.errors.KeyReuseError as error:
        return f"KeyReuseError: {str(error).splitlines()[0]}"
    return "accepted"


with jax.debug_key_reuse(True):
    plain = outcome(jax.random.uniform)
    behind_a_barrier = outcome(lambda key: jax.random.uniform(lax.optimization_barrier(key)))
print(f"plain: {plain}; behind a barrier: {behind_a_barrier}")
sys.exit(0 if plain == "accepted" and "already consumed" in behind_a_barrier else 1)
PYTHON
JAX_PLATFORMS=cpu "$folder/env/bin/python" "$folder/draw.py"
