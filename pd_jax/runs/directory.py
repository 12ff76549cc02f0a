"""The directory a run lives in: its configuration, its results, and a lock that keeps a second process out."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pd_jax.config.yaml import read_yaml, write_yaml
from pd_jax.errors import UserError
from pd_jax.runs.lineage import LINEAGE_NAME, VIDEO_NAMES
from pd_jax.runs.summary import Summary
from pd_jax.system.files import _UNFINISHED, expand_home, to_json, to_plain, write_atomically
from pd_jax.system.text import printable, show
from pd_jax.teachers.hub import download_student, is_address, naming_address

# Where a run is, and how it is carried out: none of these changes what it computes.
NEVER_COMPARED = frozenset(
    {"out", "env.num_threads", "env.stepping", "env.backend"}
    # What a protocol stands for is compared.
    | {"protocol"}
    # One by one: the checkpoint that `evaluate` scores is a setting of that name.
    | {f"checkpoint.{name}" for name in ("every_updates", "every_steps", "every_seconds", "keep", "replay")}
    | {"checkpoint.on_divergence", "checkpoint.max_roll_backs"}
)
OF_ONE_START = (
    *("resume", "accept_other_teacher", "hosts", "profile", "profile_seconds", "video", "jobs", "cells"),
    *("track", "track_project"),
    # Among the teachers and the recordings of the run, once they are added.
    *("add_teacher", "add_data"),
)
"""What somebody says once; left out of ``config.yaml``, so that a later run from this file does not do it unasked, nor
wait for others. That a run is traced, tracked or shown, or by how many processes, makes it no other run."""

_ADDED = {
    "data_order": "recorded",
    "init_from": None,
    "env.fire_reset": True,
    "pqn.optimizer": "radam",
    "student.quantisation": "none",
    "student.layer_norm": False,
    "student.memory": "none",
    "student.memory_size": 128,
    "learner.sequence_length": 16,
    "learner.burn_in": 8,
    "student.observation": {
        **{"source": "same", "frames": None, "size": None, "components": None, "window": None},
        **{"noise": 0.0, "missing": 0.0, "delay": 0, "also": "none", "also_components": None, "last_actions": 0},
    },
    "student.observation.last_actions": 0,
    "student.observation.also": "none",
    "student.observation.also_components": None,
    "student.extra_hidden": [64],
    "student.joint_hidden": 128,
    "student.actions": "auto",
    "student.normalisation": {"source": "auto", "mean": None, "variance": None, "epsilon": 1e-8, "clip": None},
    "loss.beta": 0.5,
    "loss.delta": 1.0,
    "loss.weights": "none",
    "observation": {
        **{"source": "same", "frames": None, "size": None, "components": None, "window": None},
        **{"noise": 0.0, "missing": 0.0, "delay": 0, "also": "none", "also_components": None},
    },
    "observation.also": "none",
    "observation.also_components": None,
    "learner.sampling": "uniform",
    "learner.sampling_candidates": 4,
    "learner.sampling_exponent": 0.6,
    "learner.sampling_correction": 0.4,
    "learner.random_shift": 0,
    "learner.average_decay": None,
    "learner.game_weights": None,
    "learner.balance": "none",
    "learner.balance_rate": 0.025,
    "learner.gradnorm_alpha": 1.5,
    "learner.gradient_cosines_every": 0,
    "credibility": {"by": "both", "scores": None, "temperature": None},
    "adding": {
        **{"games": None, "learn": "all", "penalty": "none", "penalty_weight": 0.01, "new_share": 0.5},
        "old_steps": 4096,
    },
    "parts": {"convolution": 16, "inference": 16, "narrow": 32, "at_once": 2, "most": 8, "gradient": 64},
}
"""Settings that came later, by what runs did that were begun before and have no word of them."""

_LOCK = ".lock"
_PREPARATION = ".lock-preparation"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_WAIT_SECONDS = 0.5
_HEADER = re.compile(r"# pd-jax ([a-z-]+)\b")
_ABSENT = object()


class RunDirectory:
    """Paths and small files of one run.

    Attributes:
      path: the directory.
      command: the ``pd-jax`` subcommand that made it.
      config: the resolved configuration, plain YAML values.
      config_path, metrics_path, summary_path, details_path, report_path, plot_path, cosines_path, video_path,
        lineage_path: files in it, whether they exist yet or not. Beside the video are a GIF and a JSON of its name.
      checkpoints, tensorboard: directories in it, made by whoever writes there.
    """

    def __init__(self, path: str | os.PathLike[str], command: str, config: Mapping[str, Any]) -> None:
        """Names the paths; ``create`` and ``read_run`` are the ways to get one that is checked.

        Args:
          path: the directory.
          command: the subcommand, such as ``distill``.
          config: the resolved configuration, nested mappings of plain values.
        """
        self.path = Path(path)
        self.command = command
        self.config = dict(config)
        self.config_path = self.path / "config.yaml"
        self.metrics_path = self.path / "metrics.jsonl"
        self.summary_path = self.path / "summary.json"
        self.details_path = self.path / "details.json"
        self.report_path = self.path / "report.html"
        self.plot_path = self.path / "progress.png"
        self.cosines_path = self.path / "gradient_cosines.png"
        self.video_path = self.path / "video.mp4"
        self.lineage_path = self.path / LINEAGE_NAME
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tb"
        self._lock: int | None = None

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        command: str,
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        may_change: Collection[str] = (),
        check: Callable[[Mapping[str, Any]], None] | None = None,
        is_primary: bool = True,
        shared: bool = False,
    ) -> RunDirectory:
        """Makes a run's directory, or takes up the run in it, and locks it until ``close`` or the process's end.

        With ``resume`` and nothing there, a run is begun: a job that is restarted from outside needs one command.

        Args:
          path: may exist if it is empty, or holds this very run and ``resume`` is given.
          command: the subcommand, such as ``distill``.
          config: the resolved configuration, nested mappings of plain values.
          resume: continue the run that is there.
          may_change: dotted keys (a whole section, or one field) whose new value replaces the old one on ``resume``,
            beside ``NEVER_COMPARED``.
          check: is shown the configuration of the run that is there before it is replaced; may raise UserError.
          is_primary: False in all but one process of a multi-process run: these only name the paths.
          shared: others that say so too may use the directory at the same time; see :meth:`preparing`.

        Raises:
          UserError: the directory holds something else, belongs to a running process, or cannot be written. Nothing
            in it was changed.
        """
        _check_is_local(path)
        config = {key: value for key, value in to_plain(config).items() if key not in OF_ONE_START}
        run = cls(path, command, config)
        if not is_primary:
            return run
        if run._is_there(may_change) and not resume:
            raise run._in_use() or run._needs_resume()
        _make_directory(run.path)
        run._acquire_lock(shared=shared)
        try:
            # Looked at again under the lock: another process may have begun, or gone on, in the meantime.
            if run._is_there(may_change) and not resume:
                raise run._needs_resume()
            if check is not None and run.config_path.exists():
                check(read_run(path).config)
            text = f"# pd-jax {command}\n{write_yaml(config)}"
            if not run.config_path.exists() or run.config_path.read_text(encoding="utf-8") != text:
                run.lineage_path.unlink(missing_ok=True)
                write_atomically(run.config_path, text)
        except OSError as error:
            run.close()
            raise UserError(f"{run.path}: cannot be written: {error.strerror}") from error
        except BaseException:
            run.close()
            raise
        return run

    @property
    def is_complete(self) -> bool:
        """Whether the run has ended and was summarised."""
        return self.summary_path.exists()

    @property
    def is_in_use(self) -> bool:
        """Whether a process is at work on it."""
        return self._in_use() is not None

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replaces ``summary.json`` as a whole; a reader sees the old file or the new one. NaN becomes null.

        Args:
          summary: a :class:`pd_jax.runs.summary.Summary`, or what else a command leaves, of plain values.
        """
        # Written anew once all is.
        self.lineage_path.unlink(missing_ok=True)
        write_atomically(self.summary_path, json.dumps(to_json(summary), indent=2, ensure_ascii=False) + "\n")

    def read_summary(self) -> Summary | None:
        """The summary, or None when the run has not ended.

        Raises:
          UserError: the file is not JSON, or is not the summary of a run that ends in scores.
        """
        summary = self.read_summary_json()
        return None if summary is None else Summary.from_json(summary, f"{printable(str(self.summary_path))}: ")

    def read_summary_json(self) -> dict[str, Any] | None:
        """What ``summary.json`` holds, unchecked; None when the run has not ended.

        Raises:
          UserError: the file is not a JSON object.
        """
        try:
            summary = json.loads(self.summary_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{self.summary_path}: is not a summary: {error}") from error
        if not isinstance(summary, dict):
            where = printable(str(self.summary_path))
            raise UserError(f"{where}: is not a summary: it holds {show(summary)}, not a mapping")
        return summary

    def remove_results(self) -> None:
        """Removes summary, details, page, picture, video and lineage: a run that goes on has no results yet."""
        videos = [self.path / name for name in VIDEO_NAMES]
        results = (self.lineage_path, self.summary_path, self.details_path, self.report_path, self.plot_path)
        pictures = self.path.glob("committee_*.png")
        for path in (*results, self.cosines_path, *videos, *pictures):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def preparing(self, check: Callable[[], None], say: Callable[[str], None]) -> Iterator[None]:
        """Among processes that share the directory, what only one may do at a time; others wait here.

        The kernel drops the lock with the process, however it ends, and the next one goes on.

        Args:
          check: called now and then while this waits; may raise.
          say: is told once whom this waits for; or that the file system has no locks, and nobody waits.
        """
        path, told = self.path / _PREPARATION, False
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _sign(lock)
                    break
                except BlockingIOError:
                    if not told:
                        say(f"waits for {_owner(lock)}, which prepares {self.path}")
                        told = True
                    check()
                    time.sleep(_WAIT_SECONDS)
                except OSError as error:
                    if error.errno not in _NO_LOCKS:
                        raise
                    say(f"{self.path}: this file system has no locks; let one process record before others start")
                    break
            yield
        finally:
            os.close(lock)

    def close(self) -> None:
        """Gives up the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _is_there(self, may_change: Collection[str]) -> bool:
        """Whether this very run is in the directory; raises if anything else is. Looks, and touches nothing."""
        try:
            names = {entry.name for entry in os.scandir(self.path)}
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            raise UserError(f"{self.path}: is a file; --out takes a directory") from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from error
        if self.config_path.name not in names:
            # A run killed in its first moment leaves a lock and an unfinished file.
            own = (_LOCK, _PREPARATION)
            foreign = sorted(name for name in names if name not in own and not name.endswith(_UNFINISHED))
            if foreign:
                raise UserError(f"{self.path}: is not empty and holds no run ({foreign[0]}); choose another --out")
            return False
        there = read_run(self.path)
        if there.command != self.command:
            raise UserError(
                f"{self.path}: holds a run of pd-jax {there.command}, not {self.command}; choose another --out"
            )
        ignored = {*NEVER_COMPARED, *may_change}
        different = sorted(differences(there.config, self.config), key=lambda one: _rank(one[0]))
        for key, old, new in different:
            if old is _ABSENT and key in _ADDED and new == _ADDED[key]:
                continue
            # Its default was another one once, and most runs have it without need.
            if key == "loss.target_entropy" and not (
                _finds_temperature(there.config) or _finds_temperature(self.config)
            ):
                continue
            if not any(key == name or key.startswith(f"{name}.") for name in ignored):
                raise UserError(
                    f"{self.path}: holds a different run: {key} is {quote(old)} there and {quote(new)} here; "
                    "choose another --out"
                )
        return True

    def _needs_resume(self) -> UserError:
        holds = "a finished run" if self.is_complete else "a run"
        return UserError(f"{self.path}: holds {holds}; add --resume to continue it, or choose another --out")

    def _in_use(self) -> UserError | None:
        """The error to raise if another process holds the lock."""
        try:
            lock = os.open(self.path / _LOCK, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return UserError(f"{self.path}: is in use by {_owner(lock)}")
        except OSError:
            return None
        finally:
            os.close(lock)
        return None

    def _acquire_lock(self, *, shared: bool) -> None:
        try:
            lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from error
        try:
            # The kernel drops the lock with the process, however it ends.
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(lock)
            os.close(lock)
            raise UserError(f"{self.path}: is in use by {owner}") from None
        except OSError as error:
            # Some network file systems have no locks; a run there goes unguarded rather than not at all.
            if error.errno not in _NO_LOCKS:
                os.close(lock)
                raise UserError(f"{self.path}: cannot be locked: {error.strerror}") from error
        self._lock = lock
        try:
            _sign(lock)
        except OSError as error:
            self.close()
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from error


def _sign(lock: int) -> None:
    """Writes into a lock whose it is; of several that share it, the last one."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _owner(lock: int) -> str:
    return os.pread(lock, 200, 0).decode(errors="replace").strip() or "another process"


def read_run(path: str | os.PathLike[str]) -> RunDirectory:
    """Opens a run for reading, without locking it; it may still be going.

    Args:
      path: its directory; or the address of a repository on the hub that ``pd-jax push`` made, ``hf://owner/repo`` with
        ``@revision`` or without, which is fetched.

    Returns:
      the paths in it, and its configuration.

    Raises:
      UserError: ``path`` is not a run directory, or its configuration cannot be read; or there is no such repository.
    """
    text = os.fspath(path)
    if is_address(text):
        local = download_student(text)
        with naming_address(text, local):
            return read_run(local)
    run = RunDirectory(expand_home(text), "", {})
    if not run.config_path.exists():
        problem = "it has no config.yaml" if run.path.is_dir() else "there is no such directory"
        raise UserError(f"{run.path}: is not a run directory: {problem}")
    config = read_yaml(run.config_path)
    with open(run.config_path, encoding="utf-8") as file:
        header = _HEADER.match(file.readline())
    if header is None:
        raise UserError(f"{run.path}: is not a run directory: its config.yaml does not begin with # pd-jax COMMAND")
    return RunDirectory(run.path, header[1], config)


def _check_is_local(path: str | os.PathLike[str]) -> None:
    scheme, separator, _ = os.fspath(path).partition("://")
    if separator:
        raise UserError(
            f"{os.fspath(path)}: {scheme} is not supported: a run is locked, renamed and appended to, which object "
            "stores cannot do; write to a disk that outlives the job, and copy it from there"
        )


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made: {error.strerror}") from error


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys of nested mappings of plain values that are not alike, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            dotted = f"{key}.{name}" if key else str(name)
            yield from differences(old.get(name, _ABSENT), new.get(name, _ABSENT), dotted)
    # True is not 1, though Python says so; 1.0 is.
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        yield key, old, new


def _finds_temperature(config: Mapping[str, Any]) -> bool:
    """Whether a run, or a cell of a sweep, finds a temperature from the play; no other has a use for a target."""
    loss, grid = config.get("loss") or {}, config.get("grid") or {}
    by_hand = loss.get("temperature") is not None
    kinds = [loss.get("kind"), *(grid.get("losses") or ())]
    is_of_advantages = any(str(kind).startswith("advantage") for kind in kinds)
    return "auto" in str([loss.get("temperature"), grid.get("temperatures")]) or (is_of_advantages and not by_hand)


def _rank(key: str) -> int:
    """Where a setting that differs is named among others: which games there are settles settings that were left out,
    and what a student sees settles whose statistics it has."""
    if key in ("game", "teacher"):
        return 0
    return 2 if key.startswith("student.normalisation") else 1


def quote(value: Any) -> str:
    """A value of :func:`differences` for a message."""
    return "absent" if value is _ABSENT else repr(value)
