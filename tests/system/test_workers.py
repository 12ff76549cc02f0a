"""Worker processes: what they give back, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from pd_jax.system.cores import usable_cores
from pd_jax.system.interrupts import Interrupted, Interrupts, stopped_by
from pd_jax.system.workers import Advanced, Began, Ended, Event, Said, Task, Workers
from support import worker_tasks

TASKS = "support.worker_tasks:work"
JOBS = min(2, len(usable_cores()))


def do(*tasks: dict[str, Any], jobs: int = JOBS) -> list[Event]:
    named = [Task(f"task {index}", payload) for index, payload in enumerate(tasks)]
    with Workers(TASKS, jobs) as workers, Interrupts() as interrupts:
        return list(workers.run(named, interrupts))


def ends(events: Sequence[Event]) -> dict[str, Ended]:
    return {event.task.name: event for event in events if isinstance(event, Ended)}


def is_there(process: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_task_is_done_once_by_few_processes_on_cores_of_their_own() -> None:
    events = do(*({"do": "echo", "value": value} for value in range(5)))
    results = {name: end.result for name, end in ends(events).items()}
    assert {name: result["value"] for name, result in results.items()} == {f"task {n}": n for n in range(5)}
    assert len({result["process"] for result in results.values()}) == JOBS
    began = {event.task.name: event.cores for event in events if isinstance(event, Began)}
    assert {name: sorted(cores) for name, cores in began.items()} == {
        name: result["cores"] for name, result in results.items()
    }
    shares = set(began.values())
    assert sorted(core for share in shares for core in share) == sorted(usable_cores())
    said = [event.line for event in events if isinstance(event, Said)]
    assert sorted(said) == sorted(f"{word} {n}" for word in ("said", "printed") for n in range(5))
    assert not any(is_there(result["process"]) for result in results.values())


def test_a_fault_ends_its_own_task_alone() -> None:
    events = do({"do": "fail"}, {"do": "echo", "value": 1}, {"do": "echo", "value": 2}, jobs=1)
    first, *others = ends(events).values()
    assert first.failure == "its process ended with exit code 1; what it said is on standard error"
    assert [other.result["value"] for other in others] == [1, 2]
    assert "KeyError: 'a fault of the program'" in [event.line for event in events if isinstance(event, Said)]


@pytest.mark.parametrize(
    ("number", "failure"),
    [
        (signal.SIGKILL, "its process was killed by SIGKILL, as where memory runs out"),
        (signal.SIGTERM, "its process was stopped by SIGTERM"),
    ],
)
def test_a_worker_that_is_killed_ends_its_own_task_alone(number: int, failure: str) -> None:
    seen = []
    with Workers(TASKS, 1) as workers, Interrupts() as interrupts:
        for event in workers.run([Task("waits", {"do": "wait"}), Task("next", {"do": "echo", "value": 1})], interrupts):
            seen.append(event)
            if isinstance(event, Advanced) and event.task.name == "waits":
                os.kill(workers.processes[0], number)
    found = ends(seen)
    assert found["waits"].failure == failure
    assert found["next"].result["value"] == 1


def test_half_an_answer_is_none() -> None:
    (end,) = ends(do({"do": "break off"})).values()
    assert end.failure == "its process was killed by SIGKILL, as where memory runs out"


def test_all_end_when_told_and_none_is_left() -> None:
    stop, seen, processes = threading.Event(), [], []
    with stopped_by(stop), Workers(TASKS, JOBS) as workers, Interrupts() as interrupts:
        tasks = [Task(str(number), {"do": "wait"}) for number in range(3)]
        with pytest.raises(Interrupted):
            for event in workers.run(tasks, interrupts):
                seen.append(event)
                if isinstance(event, Advanced):
                    processes = workers.processes
                    stop.set()
        assert workers.processes == []
    assert processes and not any(map(is_there, processes))
    assert ends(seen) == {}, "what was stopped has not ended"


def test_workers_do_not_outlive_a_parent_that_is_killed() -> None:
    code = """
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.workers import Advanced, Task, Workers
with Workers("support.worker_tasks:work", 1) as workers, Interrupts() as interrupts:
    for event in workers.run([Task("waits", {"do": "wait"})], interrupts):
        if isinstance(event, Advanced):
            print(workers.processes[0], flush=True)
"""
    path = os.pathsep.join(sys.path)
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    try:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert is_there(worker)
    finally:
        parent.kill()
        parent.communicate()
    wait_for(lambda: not is_there(worker))


@pytest.mark.skipif(len(usable_cores()) < 2, reason="one core has one share")
def test_a_sum_on_some_of_the_cores_has_the_bits_of_one_on_all() -> None:
    (end,) = ends(do({"do": "sum"}, jobs=2)).values()
    assert end.result == worker_tasks.digest_of_sum()
