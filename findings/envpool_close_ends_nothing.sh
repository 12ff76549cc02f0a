#!/usr/bin/env bash
# close() of a Gymnasium environment of EnvPool ends nothing: its worker threads stay, and it goes on stepping. They end
# with the object. A program that makes one pool after another and closes each, as Gymnasium's interface asks for, keeps
# the threads and emulators of all that something still refers to (a list of environments, a traceback, a jitted step).
#
# Versions: envpool 1.2.5, gymnasium 1.4.0, numpy 2.4.6, Python 3.11, Linux.
# Seen: "envpool 1.2.5: threads before 2, with a pool 7, after close() 7, without the object 2; stepped after close(): True"
# (a machine may have other threads before; the differences are 5, 0 and -5, for 4 workers and one more).
# Expected: the threads end at close(), and a step afterwards is refused.
# Ends with 0 while this is so, and with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q envpool==1.2.5 gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/program.py" <<'PYTHON'
import gc
import os
import sys
import warnings

import envpool
import numpy as np

warnings.simplefilter("ignore")


def threads():
    return len(os.listdir("/proc/self/task"))


before = threads()
pool = envpool.make("CartPole-v1", env_type="gymnasium", num_envs=8, num_threads=4)
pool.reset()
made = threads()
pool.close()
closed = threads()
observations, *_ = pool.step(np.zeros(8, np.int32))
steps = observations.shape == (8, 4)
del pool
gc.collect()
gone = threads()
print(
    f"envpool {envpool.__version__}: threads before {before}, with a pool {made}, after close() {closed}, without the "
    f"object {gone}; stepped after close(): {steps}"
)
sys.exit(0 if made > before and closed == made and gone == before and steps else 1)
PYTHON
"$folder/env/bin/python" "$folder/program.py"
