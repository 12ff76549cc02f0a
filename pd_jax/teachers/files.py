"""The teacher file: weights in safetensors, and one JSON string that says what they are.

Files come from other people, so everything in them is checked before it is used, and whatever is wrong with one is a
:class:`~pd_jax.errors.UserError` that names the file. Nothing in a file is ever executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import reprlib
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError, nearest
from pd_jax.teachers.metadata import Malformed, TeacherMetadata, checked_metadata, json_object, to_fields

__all__ = [
    "STORAGE_DTYPES",
    "TeacherMetadata",
    "check_params",
    "fingerprint",
    "naming",
    "open_regular_file",
    "params_fingerprint",
    "read_games",
    "read_teacher",
    "save_teacher",
]

STORAGE_DTYPES: Mapping[str, Any] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""How weights may be stored. They are float32 again once they are read."""
_DTYPES_IN_FILES = {
    "F32": STORAGE_DTYPES["float32"],
    "F16": STORAGE_DTYPES["float16"],
    "BF16": STORAGE_DTYPES["bfloat16"],
}

# Far above any teacher's metadata (some 10 kB), far below what would trouble a machine that parses a foreign file.
_MAX_HEADER_BYTES = 16 * 2**20

PathLike = str | os.PathLike[str]
Params = dict[str, Any]


def save_teacher(
    path: PathLike,
    params: Mapping[str, Any],
    metadata: TeacherMetadata | Sequence[TeacherMetadata],
    *,
    dtype: str = "float32",
) -> None:
    """Writes a teacher to ``path``, all or nothing: a reader sees the old file or the new one, never a part.

    Args:
      path: the file; its directory is made if need be.
      params: nested dict of arrays of any float dtype, stored under names joined by ``/``.
      metadata: checked as :func:`read_teacher` checks it; the file gets the lowest format version that holds it. Of a
        network of several games, that of every game, in the order of its heads.
      dtype: of the weights in the file, ``"float32"``, ``"float16"`` or ``"bfloat16"``. The checksum is of what is
        read back: the rounded weights, as float32.

    Raises:
      UserError: a weight is NaN or infinite, there is no such dtype, a weight overflows it or a whole tensor rounds to
        zeros in it, or the file cannot be written.
      ValueError: the metadata or the tree could not be read back.
    """
    path = Path(path)
    arrays = _stored(params, dtype, path)
    try:
        sha256 = params_fingerprint(_nested(arrays))
        games = [metadata] if isinstance(metadata, TeacherMetadata) else metadata
        fields = to_fields(games) | {"params_sha256": sha256}
        # The default lets NumPy and JAX scalars in; of anything else it makes a ValueError.
        text = json.dumps(fields, allow_nan=False, default=lambda value: np.asarray(value).item())
        checked_metadata(json_object(text, "metadata: cannot be written as UTF-8"))
        # A single metadata key: safetensors writes several in random order, and equal teachers should be equal files.
        data = safetensors.numpy.save(arrays, metadata={"pd_jax": text})
        if int.from_bytes(data[:8], "little") > _MAX_HEADER_BYTES:
            raise Malformed(f"metadata: takes more than {_MAX_HEADER_BYTES} bytes")
    except Malformed as problem:
        raise ValueError(str(problem)) from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace_file(path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_teacher(path: PathLike, game: str | None = None) -> tuple[Params, TeacherMetadata]:
    """Reads and checks a teacher file.

    Args:
      path: the file.
      game: name or EnvPool id of one of the games of a network of several; the file of a single game says what it is.

    Returns:
      The parameters, a nested dict of finite float32 arrays, and the metadata. Whether the one fits the network that
      the other names is for :func:`check_params`.

    Raises:
      UserError: the file is missing, damaged, foreign, or from a newer pd_jax; or it is of several games, and ``game``
        is none of them.
    """
    params, games = read_games(path)
    if len(games) == 1:
        return params, games[0]
    names = ", ".join(metadata.game for metadata in games)
    with naming(path):
        if game is None:
            raise Malformed(f"is a network of several games; say which one is meant with --game ({names})")
        task = get_task(game)
        for metadata in games:
            if metadata.game in (task.name, task.env_id):
                return params, metadata
        raise Malformed(f"is a network of several games, and {task.name} is none of them ({names})")


def read_games(path: PathLike) -> tuple[Params, tuple[TeacherMetadata, ...]]:
    """As :func:`read_teacher`, with the metadata of every game in the file."""
    with naming(path):
        return _parse(_read_teacher_file(path))


def fingerprint(path: PathLike) -> str:
    """Returns the SHA-256 of the file's bytes, in hex; raises a UserError if it cannot be read."""
    with naming(path), open_regular_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def params_fingerprint(params: Mapping[str, Any]) -> str:
    """Returns the SHA-256, in hex, of the parameters' names, shapes and float32 values, whatever holds them."""
    digest = hashlib.sha256()
    for name, array in sorted(_float32(params).items()):
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def check_params(params: Mapping[str, Any], expected_shapes: Mapping[str, Any], path: PathLike) -> None:
    """Checks the parameters read from ``path`` against the nested dict of the shapes that a network has.

    Raises:
      UserError: a tensor is missing, is one too many, or has another shape.
    """
    found = {name: tuple(np.shape(leaf)) for name, leaf in _flattened(params).items()}
    expected = {name: tuple(shape) for name, shape in _flattened(expected_shapes).items()}
    with naming(path):
        for name in sorted(expected.keys() - found.keys()):
            raise Malformed(f"tensor {name!r} {expected[name]} is missing{nearest(name, found)}")
        for name in sorted(found.keys() - expected.keys()):
            raise Malformed(f"tensor {name!r} {found[name]} does not belong to the network")
        for name, shape in expected.items():
            if found[name] != shape:
                raise Malformed(f"tensor {name!r} has shape {found[name]}, the network needs {shape}")


@contextlib.contextmanager
def naming(path: PathLike) -> Iterator[None]:
    """Turns what is `Malformed` into a UserError that names the file."""
    try:
        yield
    except Malformed as problem:
        raise UserError(f"{os.fspath(path)}: {problem}") from None


def open_regular_file(path: PathLike) -> io.BufferedReader:
    """Opens a file for reading.

    Raises:
      Malformed: there is no such file, it is not a regular one, or it cannot be read.
    """
    try:
        # Asked first: opening a FIFO would wait for a writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Malformed("is a directory, not a file" if os.path.isdir(path) else "is not a regular file")
        return open(path, "rb")
    except FileNotFoundError:
        raise Malformed("no such file") from None
    except OSError as error:
        raise Malformed(f"cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise Malformed("is not a file name") from None


def _read_teacher_file(path: PathLike) -> bytes:
    """Reads a file whole; a foreign one is refused after its header, however large it is."""
    with open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        header_bytes = int.from_bytes(start, "little")
        if size == 0:
            raise Malformed("is empty")
        if size < 8 or header_bytes > min(size - 8, _MAX_HEADER_BYTES):
            raise Malformed("not a pd_jax teacher, or cut short: it does not hold the header that it announces")
        start += file.read(header_bytes)
        _metadata_of_header(start[8:])
        return start + file.read()


def _metadata_of_header(header: bytes) -> str:
    """Returns the JSON string that makes a safetensors file ours."""
    fields = json_object(header, "not a pd_jax teacher (its header is not safetensors)")
    metadata = fields.get("__metadata__")
    text = metadata.get("pd_jax") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise Malformed("not a pd_jax teacher (a safetensors file without pd_jax metadata)")
    return text


def _parse(data: bytes) -> tuple[Params, tuple[TeacherMetadata, ...]]:
    header_bytes = int.from_bytes(data[:8], "little")
    fields = json_object(_metadata_of_header(data[8 : 8 + header_bytes]), "metadata: not JSON")
    metadata = checked_metadata(fields)
    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise Malformed(f"damaged or cut short ({' '.join(str(error).split())})") from None
    arrays = {}
    for name, tensor in sorted(tensors):
        if tensor["dtype"] not in _DTYPES_IN_FILES:
            raise Malformed(f"tensor {name!r} is {tensor['dtype']}, not one of {', '.join(_DTYPES_IN_FILES)}")
        try:
            stored = np.frombuffer(tensor["data"], dtype=_DTYPES_IN_FILES[tensor["dtype"]])
            arrays[name] = stored.reshape(tensor["shape"]).astype("<f4", copy=False)
        except (ValueError, OverflowError):
            raise Malformed(f"tensor {name!r} has the impossible shape {reprlib.repr(tensor['shape'])}") from None
        if not np.isfinite(arrays[name]).all():
            raise Malformed(f"tensor {name!r} holds NaN or infinite weights")
    if not arrays:
        raise Malformed("holds no weights")
    params = _nested(arrays)
    if params_fingerprint(params) != fields["params_sha256"]:
        raise Malformed("damaged: its weights are not those that were saved (SHA-256 differs)")
    return params, metadata


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dicts to one with names joined by ``/``."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if not isinstance(key, str) or not key or "/" in key:
            raise ValueError(f"{key!r} cannot name a parameter: names are non-empty strings without '/'")
        if isinstance(value, Mapping):
            leaves |= _flattened(value, f"{prefix}{key}/")
        else:
            leaves[prefix + key] = value
    return leaves


def _nested(leaves: Mapping[str, np.ndarray]) -> Params:
    """Undoes :func:`_flattened`."""
    tree: Params = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise Malformed(f"tensor {name!r} lies inside another tensor")
        if not all(name.split("/")) or last in node:
            raise Malformed(f"tensor {name!r} is no place in a tree of parameters")
        node[last] = leaf
    return tree


def _float32(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    # Not np.ascontiguousarray: it turns a scalar into a vector of one. Values beyond float32 become inf, which the
    # callers look for, so NumPy need not warn.
    with np.errstate(over="ignore"):
        return {name: np.asarray(leaf).astype("<f4", order="C") for name, leaf in _flattened(params).items()}


def _stored(params: Mapping[str, Any], dtype: str, path: Path) -> dict[str, np.ndarray]:
    """The flattened parameters in the dtype they are to have in the file."""
    if dtype not in STORAGE_DTYPES:
        raise UserError(f"{path}: not written: {dtype!r} is not one of {', '.join(STORAGE_DTYPES)}")
    arrays = {}
    for name, array in _float32(params).items():
        if not np.isfinite(array).all():
            raise UserError(f"{path}: not written: {name} holds NaN or infinite weights (the training diverged)")
        with np.errstate(over="ignore", under="ignore"):
            arrays[name] = array.astype(STORAGE_DTYPES[dtype])
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"{path}: not written: {name} holds weights too large for {dtype}; use another dtype")
        if array.any() and not arrays[name].any():
            raise UserError(f"{path}: not written: {name} would be all zeros in {dtype}; use another dtype")
    return arrays


def _replace_file(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself lasts only once the directory is on disk.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
