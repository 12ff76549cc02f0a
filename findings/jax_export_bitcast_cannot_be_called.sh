#!/usr/bin/env bash
# jax.export takes lax.bitcast_convert_type from bytes to float32 with a symbolic batch, says the right shape of the
# result, and writes an artifact that no batch can be given to: shape refinement fails when it is called. The same
# export with a fixed batch works, and so does a symbolic one between types of one width. Whoever ships a policy whose
# state or frames go through bytes finds out at the receiver, not at the export.
#
# Versions: jax 0.10.2, jaxlib 0.10.2, Python 3.11, on a CPU.
# Seen: uint8 [b, 4] to float32 [b] is exported with out_avals float32[b]; calling it with uint8 [3, 4] raises
# "ValueError: Error refining shapes. Define JAX_DUMP_IR_TO to dump the module." uint8 [3, 4] exported as it is, and
# uint32 [b], are called without trouble and give the bytes' floats.
# Expected: an error when it is exported, or a call that works.
# Ends with 0 while this is so, and with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2
cat > "$folder/program.py" <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax

(batch,) = export.symbolic_shape("b")
numbers = np.array([1.5, -2.0, 3.25], np.float32)


def called(taken, shape):
    """What an exported conversion of the numbers' bytes gives, or what it raises."""
    convert = jax.jit(lambda x: lax.bitcast_convert_type(x, jnp.float32))
    exported = export.export(convert)(jax.ShapeDtypeStruct(shape, taken.dtype))
    try:
        result = np.asarray(jax.jit(exported.call)(taken))
        return f"{exported.out_avals[0].shape}: {'the floats' if (result == numbers).all() else result}"
    except ValueError as error:
        return f"{exported.out_avals[0].shape}: ValueError: {str(error)[:22]}"


told = {
    "uint8 [3, 4]": called(numbers.view(np.uint8).reshape(3, 4), (3, 4)),
    "uint32 [b]": called(numbers.view(np.uint32), (batch,)),
    "uint8 [b, 4]": called(numbers.view(np.uint8).reshape(3, 4), (batch, 4)),
}
for name, what in told.items():
    print(f"{name} -> {what}")
wanted = ["(3,): the floats", "(b,): the floats", "(b,): ValueError: Error refining shapes."]
sys.exit(0 if list(told.values()) == wanted else 1)
PYTHON
JAX_PLATFORMS=cpu "$folder/env/bin/python" "$folder/program.py"
