#!/usr/bin/env bash
# Two Flax modules with the same fields are equal, and have the same hash. Their "apply" methods are not equal: Python
# compares the objects that methods are bound to by identity. So a function that takes "module.apply" as a static
# argument of jax.jit is traced and compiled again for a module that was made anew, as a program does that reads the
# same model twice; the module itself as the static argument is found again. Nothing says so: calls are slow.
#
# Versions: flax 0.12.8, jax 0.10.2, Python 3.11, Linux.
# Seen: "flax 0.12.8, jax 0.10.2: modules equal True, hashes equal True, apply equal False; traced 2 times with apply as
# the static argument, 1 time with the module"
# Expected: what is equal is compiled once, or the methods are documented to be told apart.
# Ends with 0 while this is so, and with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q flax==0.12.8 jax==0.10.2 jaxlib==0.10.2
cat > "$folder/program.py" <<'PYTHON'
import functools
import sys

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp


class Network(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width)(x)


traced = {"apply": 0, "module": 0}


@functools.partial(jax.jit, static_argnums=0)
def by_apply(apply, variables, x):
    traced["apply"] += 1
    return apply(variables, x)


@functools.partial(jax.jit, static_argnums=0)
def by_module(module, variables, x):
    traced["module"] += 1
    return module.apply(variables, x)


first, second = Network(3), Network(3)
x = jnp.ones((2, 4))
variables = first.init(jax.random.key(0), x)
for network in (first, second):
    by_apply(network.apply, variables, x)
    by_module(network, variables, x)
equal, hashes, methods = first == second, hash(first) == hash(second), first.apply == second.apply
print(
    f"flax {flax.__version__}, jax {jax.__version__}: modules equal {equal}, hashes equal {hashes}, apply equal {methods}; "
    f"traced {traced['apply']} times with apply as the static argument, {traced['module']} time with the module"
)
sys.exit((equal, hashes, methods, traced["apply"], traced["module"]) != (True, True, False, 2, 1))
PYTHON
JAX_PLATFORMS=cpu "$folder/env/bin/python" "$folder/program.py"
