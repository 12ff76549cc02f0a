"""Tasks done side by side by worker processes, each on cores of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import IO, Any

from pd_jax.system.cores import keep_xla_threads, share_cores, usable_cores, xla_threads
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Meter, Progress

# `-m` would put the working directory first, where a file may be called as a module is.
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from pd_jax.system.worker import main
main(*sys.argv[2:])
"""
_POLL_SECONDS = 0.2
# After a process ended, for what it printed last; a child of its own may hold the pipe open.
_LAST_WORDS_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Task:
    """Something to do.

    Attributes:
      name: for messages.
      payload: what the function is given; as JSON can say it.
    """

    name: str
    payload: Any


@dataclasses.dataclass(frozen=True)
class Began:
    """A task was given to a worker, on these cores."""

    task: Task
    cores: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Advanced:
    """Where a task is: what it counts, how much of it is done, and how much there is."""

    task: Task
    meter: str
    completed: float
    total: float


@dataclasses.dataclass(frozen=True)
class Said:
    """A line that a worker printed; of no task while it starts or ends."""

    task: Task | None
    line: str

    @property
    def text(self) -> str:
        """With whose it is."""
        return f"{self.task.name}: {self.line}" if self.task else self.line


@dataclasses.dataclass(frozen=True)
class Ended:
    """A task is over: its function returned ``result``, or its process ended, and ``failure`` says how."""

    task: Task
    result: Any = None
    failure: str | None = None


Event = Began | Advanced | Said | Ended


class TaskMeters:
    """Where the tasks in hand are, each on a meter of its own."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._meters: dict[str, Meter] = {}

    def show(self, event: Advanced) -> None:
        """A task has advanced, or begun to count something else."""
        name = f"{event.task.name} {event.meter}"
        meter = self._meters.get(event.task.name)
        if meter is None:
            self._meters[event.task.name] = self._progress.add(name, event.total, completed=event.completed)
        elif meter.name != name or event.completed < meter.completed:
            meter.name = name
            meter.reset(event.total, completed=event.completed)
        else:
            meter.total = event.total
            meter.set(event.completed)

    def remove(self, task: Task) -> None:
        """A task is over."""
        if (meter := self._meters.pop(task.name, None)) is not None:
            self._progress.remove(meter)


class Workers:
    """Worker processes; a context manager, after which there are none.

    A worker is started for the first task that falls to it, and does one after another. In each, XLA has as many
    threads as in this process, but they run on the worker's cores alone: so what is computed is the same, bit for bit,
    however many workers there are.
    """

    def __init__(self, function: str, jobs: int) -> None:
        """Starts nothing yet.

        Args:
          function: ``module:name`` of a `pd_jax.system.worker.Work`.
          jobs: workers at once, at most one for each usable core.
        """
        self._function = function
        # All of them, even if a container may take the time of fewer: others would be pinned to the same first ones.
        self._free = deque(share_cores(usable_cores(), jobs))
        self._workers: list[_Worker] = []
        self._events: queue.SimpleQueue[tuple[_Worker, str, Any]] = queue.SimpleQueue()

    def run(self, tasks: Sequence[Task], interrupts: Interrupts) -> Iterator[Event]:
        """Does all tasks, and yields what happens.

        A worker that dies ends its own task alone.

        Raises:
          Interrupted: an end was asked for; what the tasks in hand had to save was saved, and they have not ended.
        """
        waiting, stopping = deque(tasks), False
        while True:
            if not stopping:
                yield from self._deal_out(waiting)
            if not self._workers:
                break
            with contextlib.suppress(queue.Empty):
                yield from self._take(*self._events.get(timeout=_POLL_SECONDS), stopping=stopping)
            if interrupts.requested and not stopping:
                stopping = True
                waiting.clear()
                for worker in self._workers:
                    worker.send(stop=True)
                    if worker.task is None:
                        worker.send(end=True)
        interrupts.check()

    @property
    def processes(self) -> list[int]:
        """Their process numbers."""
        return [worker.process.pid for worker in self._workers]

    def _deal_out(self, waiting: deque[Task]) -> Iterator[Event]:
        """Gives every worker without a task the next one, and ends those for which there is none."""
        while waiting and self._free:
            self._workers.append(_Worker(self._function, self._free.popleft(), self._events))
            yield self._give(self._workers[-1], waiting.popleft())
        for worker in self._workers:
            if worker.task is None and not worker.is_ending:
                if waiting:
                    yield self._give(worker, waiting.popleft())
                else:
                    worker.is_ending = True
                    worker.send(end=True)

    def _give(self, worker: _Worker, task: Task) -> Began:
        worker.task = task
        worker.send(task=task.payload)
        return Began(task, worker.cores)

    def _take(self, worker: _Worker, kind: str, value: Any, *, stopping: bool) -> Iterator[Event]:
        task = worker.task
        if kind == "line":
            yield Said(task, value)
        elif kind == "end":
            self._workers.remove(worker)
            self._free.append(worker.cores)
            if task is not None and not (stopping and worker.stopped_by is not None):
                yield Ended(task, failure=worker.describe_end())
        elif "stopped" in value:
            # The process ends now, and its cores are free after that.
            worker.stopped_by, worker.is_ending = value["stopped"], True
        elif task is not None and "result" in value:
            worker.task = None
            if stopping:
                worker.send(end=True)
            yield Ended(task, value["result"])
        elif task is not None:
            yield Advanced(task, value["meter"], value["completed"], value["total"])

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()


class _Worker:
    """One process, and the threads that listen to it."""

    def __init__(
        self, function: str, cores: tuple[int, ...], events: queue.SimpleQueue[tuple[_Worker, str, Any]]
    ) -> None:
        self.cores = cores
        self.task: Task | None = None
        self.stopped_by: int | None = None
        self.is_ending = False
        self._events = events
        environment = dict(os.environ)
        keep_xla_threads(environment, xla_threads())
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path), function, ",".join(map(str, cores))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            # Ctrl-C is the parent's to heed, which tells its workers.
            start_new_session=True,
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        said = threading.Thread(target=self._listen, args=(self.process.stderr, "line"), daemon=True)
        said.start()
        threading.Thread(target=self._follow, args=(self.process.stdout, said), daemon=True).start()

    def send(self, **message: Any) -> None:
        """Tells the process something; that it has died is learnt from its streams."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(f"{json.dumps(message)}\n".encode())
            self.process.stdin.flush()

    def describe_end(self) -> str:
        """Why a task did not end, its process being over."""
        code = self.process.returncode
        if self.stopped_by is not None or code < 0:
            number = -code if self.stopped_by is None else self.stopped_by
            name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
            memory = ", as where memory runs out" if number == signal.SIGKILL else ""
            return f"its process was {'stopped' if self.stopped_by else 'killed'} by {name}{memory}"
        return f"its process ended with exit code {code}; what it said is on standard error"

    def _listen(self, stream: IO[bytes], kind: str) -> None:
        for line in stream:
            if kind == "answer" and not line.endswith(b"\n"):
                # It died in the middle of it.
                break
            text = line.decode(errors="replace").rstrip("\r\n")
            self._events.put((self, kind, json.loads(text) if kind == "answer" else text))

    def _follow(self, stream: IO[bytes], said: threading.Thread) -> None:
        self._listen(stream, "answer")
        self.process.wait()
        said.join(_LAST_WORDS_SECONDS)
        stream.close()
        self._events.put((self, "end", None))
