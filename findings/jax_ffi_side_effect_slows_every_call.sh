#!/usr/bin/env bash
# One jax.ffi.ffi_call with has_side_effect=True in a program has JAX call all of that program from Python: the fast way
# of jax.jit is not taken, at any call, and the time grows with each argument. The documentation of has_side_effect
# speaks of dead code alone. The same XLA program without JAX's effect, by a primitive whose lowering is
# jax.ffi.ffi_lowering(has_side_effect=True), is called as fast as one that has none, and XLA leaves nothing out.
#
# Versions: jax 0.10.2, jaxlib 0.10.2, Python 3.11, on a CPU.
# Seen: jaxlib's own lapack_spotrf_ffi of a 2 x 2 matrix, beside 16 scalars that are passed through: 26 us a call without,
# 246 us with has_side_effect=True, 26 us by the primitive (median of 500).
# Expected: a few microseconds more for the effect, or a word of it in the documentation.
# Ends with 0 while the effect costs more than three times the call, and with 1 once it does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2
cat > "$folder/program.py" <<'PYTHON'
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir

SHAPES = [jax.ShapeDtypeStruct((2, 2), np.float32), jax.ShapeDtypeStruct((), np.int32)]
LOWER = np.uint8(ord("L"))


def by_ffi_call(has_side_effect):
    """A Cholesky factor, and the other arguments as they are."""
    call = jax.ffi.ffi_call(
        "lapack_spotrf_ffi", SHAPES, has_side_effect=has_side_effect, input_output_aliases={0: 0}
    )
    return jax.jit(lambda matrix, *others: (call(matrix, uplo=LOWER)[0], *others))


def by_primitive():
    """The same XLA program as with the side effect, of which JAX knows nothing."""
    primitive = Primitive("factor")
    primitive.multiple_results = True
    primitive.def_abstract_eval(lambda matrix: [jax.core.ShapedArray(each.shape, each.dtype) for each in SHAPES])
    lower = jax.ffi.ffi_lowering("lapack_spotrf_ffi", has_side_effect=True, operand_output_aliases={0: 0})
    mlir.register_lowering(primitive, lambda context, matrix: lower(context, matrix, uplo=LOWER), platform="cpu")
    return jax.jit(lambda matrix, *others: (primitive.bind(matrix)[0], *others))


def seconds(program, arguments):
    """Of a call until it returns."""
    each = []
    for _ in range(520):
        started = time.perf_counter()
        results = program(*arguments)
        each.append(time.perf_counter() - started)
        jax.block_until_ready(results)
    return statistics.median(each[20:])


# jaxlib registers its functions when one is first used.
jax.block_until_ready(jnp.linalg.cholesky(jnp.eye(2)))
arguments = [4 * jnp.eye(2), *map(jnp.float32, range(16))]
programs = {"without": by_ffi_call(False), "has_side_effect=True": by_ffi_call(True), "by a primitive": by_primitive()}
for program in programs.values():
    assert np.asarray(program(*arguments)[0]).tolist() == [[2.0, 0.0], [0.0, 2.0]]
custom_calls = [programs[name].lower(*arguments).as_text() for name in ("has_side_effect=True", "by a primitive")]
assert all("has_side_effect = true" in text for text in custom_calls)
told = {name: min(seconds(program, arguments) for _ in range(3)) for name, program in programs.items()}
for name, each in told.items():
    print(f"{name}: {1e6 * each:.0f} us a call")
is_slow = told["has_side_effect=True"] > 3 * told["without"]
is_fast_by_primitive = told["by a primitive"] < 2 * told["without"]
sys.exit(0 if is_slow and is_fast_by_primitive else 1)
PYTHON
JAX_PLATFORMS=cpu "$folder/env/bin/python" "$folder/program.py"
