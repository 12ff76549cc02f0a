#!/usr/bin/env bash
# libtpu's compiler lays a flat vector out anew as a matrix of seven columns, padded to 128 of them, when a small piece
# of it is taken out as a matrix of seven columns and the lengths happen to divide: 56 MB become 1,024 MB of
# temporaries. One element more, or a piece that begins one later, and it takes none. So gradients that were flattened
# for one all-reduce (jax.flatten_util.ravel_pytree) can fill a TPU's memory by the accident of how many there are.
#
# Versions: jax 0.10.2, jaxlib 0.10.2, libtpu 0.0.42.1, Python 3.11, no TPU (compiled for v5e:2x2).
# Seen: f32[14000000], of which 896 elements from 7,000 on are reshaped to [128, 7]: temporaries of 1,024.1 MB, and an
# array [2000000,7] in the program. Of 14,000,001 elements, or from 7,001 on: 0.0 MB.
# Expected: to slice before reshaping costs no more than the slice.
# Ends with 0 while this is so, and with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.42.1
cat > "$folder/program.py" <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

device = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]


def shape(*axes):
    return jax.ShapeDtypeStruct(axes, jnp.float32, sharding=SingleDeviceSharding(device))


def temporaries(length, begin):
    def update(vector, weights):
        mean = vector * 0.5
        return weights + mean[begin : begin + 896].reshape(128, 7), mean.sum()

    compiled = jax.jit(update).lower(shape(length), shape(128, 7)).compile()
    megabytes = compiled.memory_analysis().temp_size_in_bytes / 1e6
    print(f"{4 * length / 1e6:.1f} MB, from {begin:,} on: {megabytes:,.1f} MB of temporaries")
    return megabytes


padded, longer, later = temporaries(14_000_000, 7_000), temporaries(14_000_001, 7_000), temporaries(14_000_000, 7_001)
sys.exit(0 if padded > 1000 and longer < 1 and later < 1 else 1)
PYTHON
export JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost TPU_WORKER_ID=0
export TPU_ACCELERATOR_TYPE=v5litepod-4 TF_CPP_MIN_LOG_LEVEL=3
"$folder/env/bin/python" "$folder/program.py"
