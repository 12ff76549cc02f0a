"""Recorded play on disk: TensorStore arrays beside a ``dataset.json`` that says how much of them counts.

A data set is a directory of six zarr v3 arrays, one for each field of :class:`~pd_jax.types.Trajectory`; of seven where
what a student senses is recorded beside what its teacher sees. After an
append is on disk, ``dataset.json`` is replaced, atomically; what lies beyond its ``steps`` does not exist. So a
recording that is killed loses no more than the append it was killed in, and can be read while it is being written.

Other programs open the directory as a zarr group, by a ``zarr.json`` that is replaced after ``dataset.json``: it never
tells of more steps than are whole.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import fcntl
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from pd_jax.environments.senses import Senses
from pd_jax.errors import UserError
from pd_jax.replay.header import GROWS, SENSED, DatasetHeader, dump_header, parse_header
from pd_jax.replay.zarr_group import dimension_names, dump_group
from pd_jax.types import Trajectory

_HEADER = b"dataset.json"
_GROUP = b"zarr.json"
# Frames of a chunk. On Pong (64 steps, zstd level 3) 0.5, 1.8 and 3.6 MB compress 198, 226 and 235 times.
_CHUNK_BYTES = 2 * 2**20
# Steps of all lanes that are looked through at once.
_CHECKED_STEPS = 4096
# What ``pd-jax collect`` writes beside its recording, and what it leaves when it is killed: no reason to refuse.
_HARMLESS = re.compile(r"(config\.yaml|lineage\.json)(\.\d+(-.+)?\.unfinished)?|\.lock|dataset\.json\.__lock")

PathLike = str | os.PathLike[str]


class DatasetWriter:
    """Records trajectories; a context manager. Its ``header`` is the one last committed.

    Args:
      path: a local directory, made if need be, or a TensorStore URL such as ``gs://bucket/pong``.
      header: what is recorded, with ``steps=0``. A continued recording takes over its plan and score.
      resume: continue the recording that is there, if there is one.

    Raises:
      UserError: the directory holds other things, another recording, or this one with ``resume`` False; another process
        is writing it; or it cannot be written.
    """

    def __init__(self, path: PathLike, header: DatasetHeader, resume: bool = False) -> None:
        self._path = os.fspath(path)
        self.header = parse_header(dump_header(header), self._path)
        with contextlib.ExitStack() as stack:
            with _explained(self._path, "cannot be opened for writing"):
                if "://" not in self._path:
                    _claim_directory(self._path, stack)
                self._root = _open_root(self._path)
                found = self._root.read(_HEADER).result()
            if found.state == "value":
                recorded = parse_header(found.value, self._path)
                _check_same_recording(recorded, self.header, self._path, resume)
                score = self.header.teacher_score or recorded.teacher_score
                continued = dataclasses.replace(
                    self.header,
                    steps=recorded.steps,
                    teacher_score=score,
                    recording_id=recorded.recording_id,
                    # Named now or then, the protocol is the same.
                    environment=recorded.environment,
                )
                # Once more: the score may take another format version than the settings alone.
                self.header = parse_header(dump_header(continued), self._path)
            with _explained(self._path, "cannot be opened for writing"):
                # Before the arrays: a recording that is killed while it is created can be resumed like any other.
                self._root.write(_HEADER, dump_header(self.header)).result()
                self._arrays = {name: self._open_array(name) for name in self.header.layouts()}
                self._metadata = {name: self._read_metadata(name) for name in self._arrays}
                self._root.write(_GROUP, dump_group(self.header, self._metadata)).result()
            self._cleanup = stack.pop_all()

    def append(self, trajectory: Trajectory) -> None:
        """Adds ``[T, L]`` steps of play and returns when they are on disk to stay.

        Args:
          trajectory: host arrays; T a multiple of ``chunk_length``, so that each chunk is written once and whole.

        Raises:
          UserError: the disk is full or failing, the teacher's outputs are not finite, or the header has further
            observations. What was committed before stays readable, and the recording can be resumed.
          ValueError: the arrays are not what the header says, or exceed ``planned_steps``.
        """
        if self.header.observations and self.header.unapplied:
            raise UserError(f"{self._path}: not recorded: {_missing(self.header)}")
        arrays = self._checked(trajectory)
        start, stop = self.header.steps, self.header.steps + len(arrays["rewards"])
        with _explained(self._path, f"steps {start} to {stop} could not be written"):
            committed = dataclasses.replace(self.header, steps=stop)
            writes = [self._arrays[name][start:stop].write(array) for name, array in arrays.items()]
            for write in writes:
                write.result()
            # As atomic as it has to be: TensorStore writes another file, syncs it, renames it, syncs the directory.
            self._root.write(_HEADER, dump_header(committed)).result()
        self.header = committed
        with _explained(self._path, f"steps {start} to {stop} are recorded, but zarr.json could not be written"):
            self._root.write(_GROUP, dump_group(committed, self._metadata)).result()

    def close(self) -> None:
        """Lets go of the directory; all that was appended is on disk already."""
        self._cleanup.close()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checked(self, trajectory: Trajectory) -> dict[str, np.ndarray]:
        header = self.header
        arrays = {name: np.asarray(getattr(trajectory, name)) for name in header.layouts()}
        length = len(arrays["rewards"])
        if length == 0 or length % header.chunk_length or header.steps + length > header.planned_steps:
            raise ValueError(f"{length} steps cannot be appended to {header.steps} of {header.planned_steps}")
        for name, (shape, dtype) in header.layouts().items():
            wanted = (length, header.num_lanes, *shape)
            if arrays[name].shape != wanted or arrays[name].dtype != dtype:
                raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}, not {dtype} {wanted}")
            if dtype == "float32" and not np.isfinite(arrays[name]).all():
                step, lane = np.argwhere(~np.isfinite(arrays[name]))[0][:2]
                raise UserError(
                    f"{self._path}: not recorded: {name} holds NaN or infinite values, the first at step "
                    f"{header.steps + step:,} of lane {lane}"
                )
        return arrays

    def _read_metadata(self, name: str) -> dict[str, Any]:
        metadata: dict[str, Any] = json.loads(self._root.read(f"{name}/zarr.json".encode()).result().value)
        return metadata

    def _open_array(self, name: str) -> ts.TensorStore:
        header = self.header
        if header.steps == 0 and self._root.read(f"{name}/zarr.json".encode()).result().state != "value":
            return _open_array(self._root, name, new=header)
        array = _open_array(self._root, name)
        _check_array(array, name, header, self._path)
        if array.shape[0] < header.planned_steps:
            # The plan has grown since.
            ends = [header.planned_steps] + [None] * (array.rank - 1)
            array = array.resize(exclusive_max=ends, resize_metadata_only=True).result()
        return array


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Recorded play, for reading.

    Attributes:
      path: that it was opened with.
      header: as it was then.
      arrays: by name, as long as planned; only the first ``num_steps`` steps are recorded.
      senses: of the student that it is read for; None reads what the task showed.
    """

    path: str
    header: DatasetHeader
    arrays: dict[str, ts.TensorStore]
    senses: Senses | None = None

    @classmethod
    def open(cls, path: PathLike) -> Dataset:
        """Opens a recording, complete or not, in a local directory or at a TensorStore URL.

        Raises a UserError if there is none, or if it is damaged or from a newer pd_jax.
        """
        path = os.fspath(path)
        if "://" not in path and not os.path.isdir(path):
            raise UserError(f"{path}: {'is not a directory' if os.path.exists(path) else 'no such data set'}")
        with _explained(path, "cannot be read"):
            root = _open_root(path)
            text = root.read(_HEADER).result()
        if text.state != "value":
            raise UserError(f"{path}: not a data set: it has no dataset.json")
        header = parse_header(text.value, path)
        arrays = {}
        for name in header.layouts():
            with _explained(path, f"{name} cannot be read"):
                arrays[name] = _open_array(root, name)
            _check_array(arrays[name], name, header, path)
        return cls(path, header, arrays)

    @property
    def num_steps(self) -> int:
        """Time steps per lane."""
        return self.header.steps

    @property
    def stack(self) -> int:
        """Steps in an observation of whoever it is read for."""
        if self.senses is not None:
            return self.senses.stack
        return 4 if len(self.header.observation_shape) == 2 else 1

    def sensed_by(self, senses: Senses) -> Dataset:
        """The same play as a student of these senses sees it.

        What it senses is read if it was recorded, and made from what the task showed where that is enough.

        Raises:
          UserError: it is not enough, and was not recorded; or the window is longer than the recording.
        """
        if self.num_steps < senses.stack:
            raise UserError(
                f"{self.path}: holds {self.num_steps} steps a lane, and the student sees {senses.stack} at once"
            )
        told = self.header.sensed
        recorded = told is not None and _sample_of(told["senses"]) == _sample_of(senses.told)
        if not recorded and not senses.is_of_shown_steps:
            has = "what the task shows alone" if told is None else "what another student senses"
            raise UserError(
                f"{self.path}: holds {has}, and not what the student senses ({senses.describe()}); record it with the "
                "same settings as options of pd-jax collect (--observation...), or play live"
            )
        return dataclasses.replace(self, senses=None if senses.is_plain else senses)

    def check_matches(
        self, task: str, num_actions: int, action_low: tuple[float, ...] = (), action_high: tuple[float, ...] = ()
    ) -> None:
        """Raises a UserError unless this is play of ``task`` with ``num_actions`` outputs that can be used here, and
        with actions of that range if the task is continuous."""
        if self.header.unapplied:
            raise UserError(f"{self.path}: {_missing(self.header)}")
        ranges = (("action_low", action_low), ("action_high", action_high))
        for name, wanted in (("task", task), ("num_actions", num_actions), *ranges):
            found = getattr(self.header, name)
            if found != wanted:
                raise UserError(f"{self.path}: recorded with {name} {found!r}, and the run has {name} {wanted!r}")

    def check_finite(self) -> None:
        """Raises a UserError if a number that was seen, or one of an action, is NaN or infinite.

        Whole numbers, as of frames, cannot be, and are not read. The teacher's outputs are looked at where they stand
        beside vectors, which are as many numbers; beside frames they are found when they are played.
        """
        sees_numbers = self.header.layouts()["observations"][1] == "float32"
        for name in ("observations", SENSED, "actions", *["teacher_q"] * sees_numbers):
            if name not in self.arrays or self.header.layouts()[name][1] != "float32":
                continue
            for start in range(0, self.num_steps, _CHECKED_STEPS):
                with _explained(self.path, "damaged"):
                    values = self.arrays[name][start : min(start + _CHECKED_STEPS, self.num_steps)].read().result()
                is_sound = np.isfinite(values).reshape(len(values), -1).all(axis=1)
                if not is_sound.all():
                    at = start + int(np.argmin(is_sound))
                    raise UserError(
                        f"{self.path}: {name} holds NaN or infinite values, the first at step {at:,} of a lane"
                    )

    def read(self, start: int, stop: int, lanes: slice = slice(None)) -> Trajectory:
        """Reads time steps ``0 <= start <= t < stop <= num_steps``, of some lanes (a host of a pod reads its own).

        Returns NumPy arrays, ``[stop - start, lanes, ...]``; raises a UserError that names the file of a chunk that is
        missing or damaged, or says that there are further observations, which a trajectory does not hold.
        """
        return self._start_reading(start, stop, lanes)()

    def trajectories(self, length: int, start: int = 0, lanes: slice = slice(None)) -> Iterator[Trajectory]:
        """Yields what :meth:`read` gives, from ``start`` on, ``length`` steps at a time, reading one ahead.

        The last is shorter where ``length`` does not divide the recording.
        """
        begins = range(start, self.num_steps, length)
        return self.stretches(((begin, min(begin + length, self.num_steps)) for begin in begins), lanes)

    def stretches(self, bounds: Iterable[tuple[int, int]], lanes: slice = slice(None)) -> Iterator[Trajectory]:
        """Yields what :meth:`read` gives from one time step to another, in any order, reading one ahead."""
        ahead: collections.deque[Callable[[], Trajectory]] = collections.deque()
        for start, stop in bounds:
            ahead.append(self._start_reading(start, stop, lanes))
            if len(ahead) == 2:
                yield ahead.popleft()()
        for wait in ahead:
            yield wait()

    def _start_reading(self, start: int, stop: int, lanes: slice) -> Callable[[], Trajectory]:
        """Starts to read and returns the function that waits for it."""
        if not 0 <= start < stop <= self.num_steps:
            raise ValueError(f"steps {start} to {stop} of a data set of {self.num_steps}")
        if self.header.observations and self.header.unapplied:
            raise UserError(f"{self.path}: {_missing(self.header)}")
        senses, told = self.senses, self.header.sensed
        is_recorded = senses is not None and told is not None and _sample_of(told["senses"]) == _sample_of(senses.told)
        unread = "observations" if is_recorded else SENSED
        pending = {name: array[start:stop, lanes].read() for name, array in self.arrays.items() if name != unread}

        def wait() -> Trajectory:
            with _explained(self.path, "damaged"):
                arrays: dict[str, Any] = {name: read.result() for name, read in pending.items()}
            if is_recorded:
                arrays["observations"] = arrays.pop(SENSED)
            elif senses is not None:
                arrays["observations"] = senses.of_samples(arrays["observations"])
            return Trajectory(**arrays)

        return wait


def _sample_of(told: dict[str, Any]) -> dict[str, Any]:
    """What files say of senses, without how many samples are seen at once: stacks are made of recorded samples."""
    return {name: value for name, value in told.items() if name not in ("frames", "window")}


def _open_root(path: str) -> ts.KvStore:
    local = {"driver": "file", "path": os.path.abspath(path) + "/"}
    return ts.KvStore.open(path.rstrip("/") + "/" if "://" in path else local).result()


def _open_array(root: ts.KvStore, name: str, new: DatasetHeader | None = None) -> ts.TensorStore:
    """Opens an array of a data set, and makes it if a ``new`` header is given."""
    spec = {
        "driver": "zarr3",
        "kvstore": (root / f"{name}/").spec().to_json(),
        # By default TensorStore does not write chunks of zeros and reads absent ones as zeros: a loss would go unseen.
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": False,
    }
    if new is None:
        return ts.open(spec, open=True).result()
    return ts.open(spec | {"metadata": _array_metadata(new, name)}, create=True).result()


def _array_metadata(header: DatasetHeader, name: str) -> dict[str, Any]:
    """Returns the zarr v3 metadata of a new array, time-major, in chunks of time and a few lanes."""
    shape, dtype = header.layouts()[name]
    lane_bytes = header.chunk_length * math.prod(shape) * np.dtype(dtype).itemsize
    lanes = min(header.num_lanes, max(1, _CHUNK_BYTES // lane_bytes))
    return {
        "shape": [header.planned_steps, header.num_lanes, *shape],
        "dimension_names": dimension_names(header, name),
        "data_type": dtype,
        "fill_value": False if dtype == "bool" else 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [header.chunk_length, lanes, *shape]}},
        "codecs": [
            # A lane's frames one after the other: 10 % smaller than with the lanes interleaved.
            {"name": "transpose", "configuration": {"order": [1, 0, *range(2, 2 + len(shape))]}},
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": 3}},
            # Without it, zstd decodes a third of all flipped bits to wrong frames, silently.
            {"name": "crc32c"},
        ],
    }


def _check_array(array: ts.TensorStore, name: str, header: DatasetHeader, path: str) -> None:
    shape, dtype = header.layouts()[name]
    wanted = (header.num_lanes, *shape)
    if array.shape[1:] != wanted or array.shape[:1] < (header.steps,) or array.dtype.numpy_dtype != dtype:
        found = f"{array.dtype.name} {list(array.shape)}"
        raise UserError(f"{path}: damaged: {name} is {found}, dataset.json says {dtype} {[header.steps, *wanted]}")


def _missing(header: DatasetHeader) -> str:
    return f"needs {header.unapplied}, which this pd_jax cannot apply: upgrade pd_jax"


@contextlib.contextmanager
def _explained(path: str, what: str) -> Iterator[None]:
    """Turns the errors of TensorStore and of the system into a UserError of one line."""
    try:
        yield
    # Of TensorStore mostly ValueError, whatever went wrong: "NOT_FOUND: chunk ... is missing [key='value'] [...]".
    except (ValueError, IndexError, RuntimeError, NotImplementedError, OSError) as error:
        reason = re.sub(r"^([A-Z_]+:|\[Errno \d+\]) | \[\w+='.*", "", " ".join(str(error).split()))
        raise UserError(f"{path}: {what}: {reason}") from error


def _claim_directory(path: str, stack: contextlib.ExitStack) -> None:
    """Refuses a directory of other things, and makes this process the only writer until it ends or closes ``stack``."""
    os.makedirs(path, exist_ok=True)
    foreign = sorted(name for name in os.listdir(path) if not _HARMLESS.fullmatch(name))
    if foreign and not os.path.exists(os.path.join(path, _HEADER.decode())):
        raise UserError(f"{path}: holds {foreign[0]!r} and no data set: choose another directory")
    lock = stack.enter_context(open(os.path.join(path, ".lock"), "w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{path}: another process is writing this data set") from None
    # What a killed process has half written, TensorStore 0.1.86 overwrites from its start, and so keeps a longer end.
    for unfinished in Path(path).rglob("*.__lock"):
        unfinished.unlink()


def _check_same_recording(recorded: DatasetHeader, header: DatasetHeader, path: str, resume: bool) -> None:
    for name, old in dataclasses.asdict(recorded).items():
        new = getattr(header, name)
        if name == "environment":
            old, new = ({key: value for key, value in each.items() if key != "protocol"} for each in (old, new))
        if old != new and name not in GROWS | {"recording_id", "format_version"}:
            raise UserError(f"{path}: holds another recording, its {name} is {old!r}: choose another directory")
    if not resume:
        progress = f"{recorded.steps} of {recorded.planned_steps} steps"
        raise UserError(f"{path}: holds this recording already, {progress}: continue it with --resume")
    if header.planned_steps < recorded.steps:
        raise UserError(f"{path}: already holds {recorded.steps} steps, more than the {header.planned_steps} planned")
