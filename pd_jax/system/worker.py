"""A worker process: does the tasks that :mod:`pd_jax.system.workers` sends it, on its own cores, one after another.

It reads JSON lines from standard input and writes JSON lines to what was its standard output. What anybody prints goes
to standard error, whose lines the parent shows. It ends with its parent, however that ends.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from pd_jax.system import own_modules
from pd_jax.system.cores import stay_on
from pd_jax.system.interrupts import Interrupted
from pd_jax.system.progress import Meter, reporting_to

_REPORT_SECONDS = 0.5
Work = Callable[[Any, threading.Event], Any]
"""Does a task: takes its payload, and an event that is set when it is to stop. Returns what JSON can say."""


def main(function: str, cores: str) -> None:
    """The process; does not return.

    Args:
      function: ``module:name`` of a `Work`.
      cores: numbers, with commas between them; nothing leaves all.
    """
    if cores:
        # Before JAX or EnvPool start a thread.
        stay_on([int(core) for core in cores.split(",")])
    answers = os.dup(1)
    os.dup2(2, 1)
    # Gymnasium warns of EnvPool's float64 bounds at every start; EnvPool gives what its users cannot change.
    warnings.filterwarnings("ignore", message=".*precision lowered by casting.*")
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stop = threading.Event()
    threading.Thread(target=_listen, args=(tasks, stop), daemon=True).start()
    own_modules.import_all()
    module, name = function.split(":")
    work: Work = getattr(importlib.import_module(module), name)

    def answer(**message: Any) -> None:
        text = memoryview(f"{json.dumps(message)}\n".encode())
        while text:
            text = text[os.write(answers, text) :]

    while (task := tasks.get()) is not None:
        try:
            with reporting_to(_Reporter(answer)):
                result = work(task, stop)
        except Interrupted as interrupt:
            answer(stopped=int(interrupt.signal_number))
            break
        answer(result=result)
    # Nothing is left to say, and threads of libraries have been seen to wait for one another at the end of a process.
    sys.stderr.flush()
    os._exit(0)


class _Reporter:
    """Tells the parent now and then where a task is."""

    def __init__(self, answer: Callable[..., None]) -> None:
        self._answer = answer
        self._last = -_REPORT_SECONDS

    def __call__(self, meter: Meter) -> None:
        now = time.monotonic()
        if now - self._last >= _REPORT_SECONDS:
            self._last = now
            self._answer(meter=meter.name, completed=float(meter.completed), total=float(meter.total))


def _listen(tasks: queue.SimpleQueue[Any], stop: threading.Event) -> None:
    """Takes what the parent says. It reads by the descriptor: a buffered reader's lock would be held at the end."""
    rest = b""
    while chunk := _read():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "task" in message:
                tasks.put(message["task"])
            elif "stop" in message:
                stop.set()
            else:
                tasks.put(None)
    # The parent is gone, however it went. What is saved is saved; nobody waits for the rest, and whoever resumes must
    # not find the run in use.
    os._exit(1)


def _read() -> bytes:
    try:
        return os.read(0, 2**16)
    except OSError:
        return b""
