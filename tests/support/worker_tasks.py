"""What workers do in tests of them."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from typing import Any

from pd_jax.system.cores import usable_cores
from pd_jax.system.interrupts import Interrupts, stopped_by
from pd_jax.system.progress import Progress


def work(payload: Any, stop: threading.Event) -> Any:
    """Does what a test asks for."""
    what = payload["do"]
    if what == "echo":
        print("printed", payload["value"])
        print("said", payload["value"], file=sys.stderr)
        return {"value": payload["value"], "process": os.getpid(), "cores": sorted(usable_cores())}
    if what == "fail":
        raise KeyError("a fault of the program")
    if what == "break off":
        # In the middle of an answer, which goes to the one pipe beside the standard streams.
        pipes = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and is_pipe(fd)]
        for pipe in pipes:
            os.write(pipe, b'{"result": [1, 2')
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "sum":
        return digest_of_sum()
    assert what == "wait"
    with stopped_by(stop), Interrupts() as interrupts, Progress("waits") as progress:
        meter = progress.add("steps", 10**9)
        while True:
            meter.advance()
            interrupts.check()
            time.sleep(0.01)


def is_pipe(descriptor: int) -> bool:
    """Whether it is one."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
    except OSError:
        return False


def digest_of_sum() -> str:
    """The bits of some sums, which XLA takes in one part with one thread, and in several with more."""
    import jax
    import numpy as np

    sums = [jax.jit(jax.numpy.sum)(row) for row in np.random.default_rng(0).standard_normal((20, 10**5), np.float32)]
    return hashlib.sha256(np.asarray(sums).tobytes()).hexdigest()
