#!/usr/bin/env bash
# JAX writes what it compiles for devices that are not there (jax.experimental.topologies) into its persistent
# compilation cache, and can never read it back: the next process finds the entry, fails to load it with a warning, and
# compiles anew. The cache fills with programs that nobody can use, and ahead-of-time compiling for a pod costs the same
# every time.
#
# Versions: jax 0.10.2, jaxlib 0.10.2, libtpu 0.0.42.1, Python 3.11, no TPU.
# Seen: two processes compile the same program for v5e:2x2 with the same cache. The first leaves one entry. The second
# says "Error reading persistent compilation cache entry for 'jit_program': JaxRuntimeError: INVALID_ARGUMENT:
# PjRtCompiler must be constructed with a Client to call DeserializeLoadedExecutable." and compiles for as long.
# Expected: either no entry, or one that is read.
# Ends with 0 while this is so, and with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.42.1
cat > "$folder/program.py" <<'PYTHON'
import os
import sys
import time
import warnings

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
device = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]


@jax.jit
def program(x):
    return jnp.tanh(x @ x)


shape = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=SingleDeviceSharding(device))
started = time.perf_counter()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    program.lower(shape).compile()
seconds = time.perf_counter() - started
entries = [name for name in os.listdir(sys.argv[1]) if name.startswith("jit_program") and name.endswith("-cache")]
failures = [str(one.message) for one in caught if "DeserializeLoadedExecutable" in str(one.message)]
print(f"{seconds:.2f} s, {len(entries)} entry, {len(failures)} failure to read it: {''.join(failures)[:170]}")
sys.exit(0 if (len(entries), len(failures)) == (1, int(sys.argv[2])) else 1)
PYTHON
export JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost TPU_WORKER_ID=0
export TPU_ACCELERATOR_TYPE=v5litepod-4 TF_CPP_MIN_LOG_LEVEL=3
mkdir "$folder/cache"
for failures in 0 1; do
  "$folder/env/bin/python" "$folder/program.py" "$folder/cache" "$failures"
done
