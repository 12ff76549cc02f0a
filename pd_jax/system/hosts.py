"""One program on several hosts: who takes part, who has been lost, and where all stop together.

Arrays are `pd_jax.system.devices`'s affair. Here the processes exchange words, through the key-value store that
`jax.distributed` keeps on process 0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

from pd_jax.errors import UserError
from pd_jax.system import launchers
from pd_jax.system.aborts import before_aborting
from pd_jax.system.addresses import Place, advice, fault_in_ring, own_address

LOST = 3
"""Exit code of a process that ended because another was lost."""
SHARED_WITHIN_SECONDS = 90.0
"""How long a host may take to see what another has written; NFS keeps what it knows of a directory for a minute."""
_BEAT_SECONDS = 1.0
_LOST_AFTER_SECONDS = 20.0
# The store that all words go through may be slow for once; a cable that is pulled answers nothing, not even an error.
_UNANSWERED_SECONDS = 40.0
# JAX's own patience must outlast ours: what it does at its end is to abort the process without naming anybody.
_JAX_PATIENCE_SECONDS = 100

_hosts: Hosts | None = None


class Launch(Protocol):
    """How processes find one another: `pd_jax.config.sections.HostsConfig`."""

    @property
    def coordinator(self) -> str | None: ...
    @property
    def num_processes(self) -> int | None: ...
    @property
    def process_id(self) -> int | None: ...
    @property
    def detect(self) -> bool | None: ...
    @property
    def start_timeout(self) -> int: ...


def current() -> Hosts | None:
    """This process's place among several; None where it is the only one."""
    return _hosts


def is_primary() -> bool:
    """Whether this process writes and prints: process 0, or the only one."""
    return _hosts is None or _hosts.process_id == 0


def is_launched_with_others(environment: Mapping[str, str]) -> bool:
    """Whether a launcher says that this process is one of several."""
    return launchers.what_launched(environment) is not None


def join(launch: Launch) -> None:
    """Joins the other processes, if there are any. To be called before JAX looks for devices.

    Raises:
      UserError: the settings are incomplete, or the environment does not say what they leave open.
    """
    global _hosts
    explicit = (launch.coordinator, launch.num_processes, launch.process_id)
    detected = explicit == (None, None, None)
    if detected and not launch.detect and (launch.detect is False or not is_launched_with_others(os.environ)):
        if launch.detect is None and (hint := launchers.hint_of_others(os.environ)) is not None:
            sys.stderr.write(f"warning: {hint}\n")
        return
    if not detected:
        _check_explicit(launch)
        if launch.num_processes == 1:
            return
    import jax
    from jax._src import distributed

    # Its handler would take the place of ours, and only note a SIGTERM that nobody asks it about.
    jax.config.update("jax_enable_preemption_service", False)
    arrived = threading.Event()
    signalled, wake = socket.socketpair()
    wake.setblocking(False)
    # The main thread will be in C++, where no handler of Python's runs.
    before = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_give_up_waiting, args=(arrived, signalled, launch), daemon=True).start()
    try:
        jax.distributed.initialize(
            *explicit,
            cluster_detection_method="deactivate" if None not in explicit else None,
            initialization_timeout=launch.start_timeout + 60,
            heartbeat_timeout_seconds=_JAX_PATIENCE_SECONDS,
        )
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if detected:
            raise launchers.cannot_join(os.environ, line) from error
        raise UserError(f"hosts: cannot join the other processes: {line}") from error
    finally:
        arrived.set()
        signal.set_wakeup_fd(before)
        wake.close()
    state = distributed.global_state
    if state.num_processes > 1:
        _hosts = Hosts(state.client, state.process_id, state.num_processes, state.coordinator_address or "")
        if state.process_id > 0 and state.coordinator_address is not None:
            # JAX's client ends the process by abort() as soon as its connection to process 0 breaks.
            before_aborting(functools.partial(_end_unless_answered, state.coordinator_address))
        if not own_address(name := socket.gethostname()):
            try:
                jax.local_devices()
            except RuntimeError as error:
                # Gloo, by which CPUs exchange gradients, cannot say so better than in a traceback.
                raise UserError(
                    f"hosts: the own name of this host, {name}, resolves to nothing: {advice(name)}"
                ) from error


def _check_explicit(launch: Launch) -> None:
    names = ("coordinator", "num_processes", "process_id")
    # One process needs nobody to meet.
    needed = ("num_processes",) if launch.num_processes == 1 else names
    missing = [f"hosts.{name}" for name in needed if getattr(launch, name) is None]
    if missing:
        raise UserError(f"{missing[0]}: missing; coordinator, num_processes and process_id go together")
    assert launch.num_processes is not None
    host, _, port = (launch.coordinator or "localhost:0").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"hosts.coordinator: {launch.coordinator!r} is not HOST:PORT")
    if (launch.process_id or 0) >= launch.num_processes:
        raise UserError(f"hosts.process_id: {launch.process_id} is not below hosts.num_processes")
    if launch.process_id == 0 and launch.num_processes > 1:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", int(port)))
            except (OSError, OverflowError) as error:
                # Tried here first: JAX's own service has ended the process without a word that helps.
                raise UserError(f"hosts.coordinator: cannot listen at port {port}: {error}") from error


def _give_up_waiting(arrived: threading.Event, signalled: socket.socket, launch: Launch) -> None:
    """Ends the process when the others do not come in time, or on a signal, whose number ``signalled`` receives."""
    until = time.monotonic() + launch.start_timeout
    while not arrived.is_set():
        if time.monotonic() > until:
            wanted = "all" if launch.num_processes is None else f"all {launch.num_processes}"
            where, remedy = f" at {launch.coordinator}", ""
            if launch.coordinator is None:
                said = launchers.what_launched(os.environ)
                where, remedy = f" ({said})" if said else "", "; --hosts.no-detect has each run alone"
            message = f"not {wanted} processes met{where} within {launch.start_timeout} s{remedy}"
            _end_at_once(f"hosts.start_timeout: {message}", 2)
        if select.select([signalled], [], [], 0.1)[0]:
            for number in signalled.recv(64):
                if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    name = signal.Signals(number).name
                    _end_at_once(f"stopped by {name} before all processes met; add --resume to go on", 128 + number)
    signalled.close()


def _lost_coordinator(name: str = "", how: str = "") -> None:
    if _hosts is not None and _hosts.code is not None:
        os._exit(_hosts.code)
    _end_at_once(f"process 0{name} has been lost{how}; run the same command again with --resume on all hosts", LOST)


def _end_unless_answered(address: str) -> None:
    if not _answers(address):
        _lost_coordinator()


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return True
    except OSError:
        return False


def _end_at_once(message: str, code: int) -> NoReturn:
    # Not sys.exit: the main thread may wait for a collective that never ends.
    with contextlib.suppress(OSError):
        os.write(2, f"pd-jax: {message}\n".encode())
    os._exit(code)


@dataclasses.dataclass
class _Meeting:
    """What processes agree to do together, again and again.

    Attributes:
      boundaries: calls of updates that have ended.
      held: times it has been done.
      planned: after how many calls it is to be done next, and what.
    """

    boundaries: int = 0
    held: int = 0
    planned: tuple[int, str] | None = None


class Stopping(Protocol):
    """What is needed here of `pd_jax.system.interrupts.Interrupts`."""

    @property
    def requested(self) -> bool: ...
    def check(self) -> None: ...


class Hosts:
    """This process among several.

    A thread of each tells the others every second that it lives, and ends the process by :data:`LOST` when one of them
    has been silent for 20 s, or has said that it ended. It speaks through process 0; another thread ends the process
    when that has not answered for 40 s.

    Args:
      client: of JAX's coordination service.
      process_id: this process's number.
      num_processes: of all.
      coordinator: ``HOST:PORT`` of process 0; ``""`` if it is not known.

    Attributes:
      leaving: whether the end of another process is expected.
      code: by which this process ends, once it is known.
      stopping: knows whether this process has been asked to stop, once somebody notes its signals.
    """

    def __init__(self, client: Any, process_id: int, num_processes: int, coordinator: str = "") -> None:
        self.process_id = process_id
        self.num_processes = num_processes
        self.leaving = False
        self.code: int | None = None
        self.stopping: Stopping | None = None
        self._client = client
        self._coordinator = coordinator
        self._meetings: dict[str, _Meeting] = {}
        self._tell(f"name/{process_id}", socket.gethostname())
        self._answers = 0
        self._names: dict[int, str] = {}
        watch = threading.Thread(target=self._watch, daemon=True, name="hosts")
        watch.start()
        if process_id > 0:
            threading.Thread(target=self._guard, args=(watch,), daemon=True, name="answers").start()

    def wait_for_primary(self, what: str) -> None:
        """Returns once process 0 has called this with the same words, which are used once in a run; it never waits."""
        self.from_primary(what, "here")

    def wait_for_all(self, what: str) -> None:
        """Returns once every process has called this with the same words, which are used once in a run."""
        self._tell(f"here/{what}/{self.process_id}", "1")
        for process in range(self.num_processes):
            self.ask(f"here/{what}/{process}")

    def from_primary(self, what: str, value: str) -> str:
        """The value that process 0 calls this with, by words that are used once in a run; it never waits."""
        if self.process_id > 0:
            return self.ask(f"value/{what}")
        self._tell(f"value/{what}", value)
        return value

    def from_all(self, what: str, value: str) -> list[str]:
        """The values that all processes call this with, by process, by words that are used once in a run."""
        self._tell(f"value/{what}/{self.process_id}", value)
        return [self.ask(f"value/{what}/{process}") for process in range(self.num_processes)]

    def check_same(self, what: str, value: str, problem: str) -> None:
        """Raises a UserError that tells the ``problem`` unless process 0 has the same value."""
        if (first := self.from_primary(what, value)) != value:
            raise UserError(f"{problem} ({first} in process 0, {value} in process {self.process_id})")

    def check_cpus_can_meet(self) -> None:
        """Raises a UserError if CPUs of other hosts could not reach this one; the others are told that it ended."""
        here = Place.here(self._coordinator).to_json() if self._coordinator else ""
        places = self.from_all("place", here)
        fault = fault_in_ring([Place.from_json(place) for place in places]) if all(places) else None
        if fault is not None and fault[0] == self.process_id:
            raise UserError(fault[1])

    def meet(self, what: str, wish: str | None) -> str | None:
        """What all processes do now of what one of them has wished for, if anything.

        To be called once after each call of updates. A call ends when all have dispatched it, and its metrics are
        fetched after the next is dispatched: processes are at most two calls apart. So one that has a wish proposes the
        third call from here, and all the others read that before they get there. Until then further wishes are lost.

        Args:
          what: the kind of wish.
          wish: of this process.
        """
        meeting = self._meetings.setdefault(what, _Meeting())
        meeting.boundaries += 1
        if meeting.planned is None:
            key = f"meet/{what}/{meeting.held}"
            said = self._look(key)
            if said is None and wish is not None:
                with contextlib.suppress(Exception):  # Another process was first.
                    self._client.key_value_set(f"pd/{key}", f"{meeting.boundaries + 3} {wish}")
                said = self.ask(key)
            if said is None:
                return None
            boundary, agreed = said.split(" ", 1)
            meeting.planned = int(boundary), agreed
        boundary_of_all, agreed = meeting.planned
        if meeting.boundaries < boundary_of_all:
            return None
        meeting.planned = None
        meeting.held += 1
        return agreed

    def ask(self, key: str) -> str:
        """What another process says under a key, once it does.

        A signal does not end the wait at once: the others are likely to come, and then all can stop and save together.
        """
        patient_until: float | None = None
        while (said := self._look(key)) is None:
            if self.stopping is not None and self.stopping.requested:
                patient_until = patient_until or time.monotonic() + _LOST_AFTER_SECONDS
                if time.monotonic() > patient_until:
                    self.stopping.check()
            time.sleep(0.05)
        return said

    def say_ended(self, code: int, message: str) -> None:
        """Tells the others that this process ends on its own, and why."""
        if not self.leaving:
            self.code = code
            with contextlib.suppress(Exception):
                self._tell(f"ended/{self.process_id}", f"{code} {message}")
                # They read it from process 0, which must not be gone by then.
                time.sleep(3 * _BEAT_SECONDS if self.process_id == 0 else 0)

    def leave(self, code: int) -> None:
        """Waits for the others to have ended their work, unless they have been told of an end of this process alone.

        Args:
          code: by which this process is about to end.
        """
        self.leaving = True
        if self.code is None:
            self.code = code
            with contextlib.suppress(Exception):
                self._client.wait_at_barrier("pd/leave", timeout_in_ms=60_000)

    def wait_to_be_told(self) -> None:
        """Gives the watching thread the time to find out whom this process has lost, and to end it."""
        time.sleep(_LOST_AFTER_SECONDS + 10)

    def _watch(self) -> None:
        others = [process for process in range(self.num_processes) if process != self.process_id]
        seen = {process: ("", time.monotonic()) for process in others}
        count = 0
        while True:
            count += 1
            try:
                self._client.key_value_set(f"pd/beat/{self.process_id}", str(count), allow_overwrite=True)
                for process in others:
                    self._look_after(process, seen)
                self._answers += 1
            except Exception as error:
                if self.leaving:
                    return
                if "NOT_FOUND" not in str(error):
                    _lost_coordinator()
            time.sleep(_BEAT_SECONDS)

    def _guard(self, watch: threading.Thread) -> None:
        """Ends the process when the watching thread waits for process 0 in vain.

        Beats are counted, and not seconds: a process that was stopped for a while has missed nothing.
        """
        answers, silent = -1, 0
        while watch.is_alive():
            time.sleep(_BEAT_SECONDS)
            answers, silent = self._answers, silent + 1 if answers == self._answers else 0
            if silent * _BEAT_SECONDS >= _UNANSWERED_SECONDS:
                _lost_coordinator(
                    f" ({self._names.get(0, 'unknown host')})", f": no answer for {_UNANSWERED_SECONDS:.0f} s"
                )

    def _look_after(self, process: int, seen: dict[int, tuple[str, float]]) -> None:
        ended = self._look(f"ended/{process}")
        if ended is not None and not self.leaving:
            code, message = ended.split(" ", 1)
            _end_at_once(f"process {process} has ended: {message}", int(code))
        if process not in self._names and (name := self._look(f"name/{process}")) is not None:
            self._names[process] = name
        beat, now = self._look(f"beat/{process}") or "", time.monotonic()
        if beat != seen[process][0]:
            seen[process] = beat, now
        elif now - seen[process][1] > _LOST_AFTER_SECONDS and not self.leaving:
            name = self._names.get(process, "unknown host")
            message = f"process {process} ({name}) has been lost: silent for {_LOST_AFTER_SECONDS:.0f} s"
            _end_at_once(f"{message}; run the same command again with --resume on all hosts", LOST)

    def _look(self, key: str) -> str | None:
        try:
            said: str = self._client.key_value_try_get(f"pd/{key}")
            return said
        except Exception as error:
            if "NOT_FOUND" in str(error):
                return None
            raise

    def _tell(self, key: str, value: str) -> None:
        self._client.key_value_set(f"pd/{key}", value, allow_overwrite=True)


def wait_for_shared(path: Path) -> None:
    """Returns once this process sees a file that process 0 has written; network file systems may take a while.

    Raises:
      UserError: it does not within :data:`SHARED_WITHIN_SECONDS`.
    """
    until = time.monotonic() + SHARED_WITHIN_SECONDS
    while not path.exists():
        if time.monotonic() > until:
            raise UserError(
                f"{path}: process 0 has written it, and this process ({socket.gethostname()}) does not see it; "
                "--out must be in a file system that all hosts share"
            )
        time.sleep(0.1)


def follow_primary(what: str, path: Path) -> None:
    """Waits, in a process other than 0, for a file that process 0 writes, and has all that is printed go beside it.

    Args:
      what: words by which process 0 says that it is there; see :meth:`Hosts.wait_for_primary`.
      path: the file.
    """
    for_all(lambda among: among.wait_for_primary(what))
    wait_for_shared(path)
    log_to_file(path.parent)


def log_to_file(path: Path) -> None:
    """Has all that this process prints from now on go to a file, unless it is process 0."""
    if _hosts is None or _hosts.process_id == 0:
        return
    logs = path / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    file = os.open(logs / f"process-{_hosts.process_id}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def wait_for_all(what: str) -> None:
    """:meth:`Hosts.wait_for_all`, where there are several processes."""
    if _hosts is not None:
        _hosts.wait_for_all(what)


def from_primary(what: str, value: str) -> str:
    """:meth:`Hosts.from_primary`, where there are several processes."""
    return value if _hosts is None else _hosts.from_primary(what, value)


def for_all(function: Callable[[Hosts], None]) -> None:
    """Calls the function with this process's place, where there are several."""
    if _hosts is not None:
        function(_hosts)
