"""The teacher file: float32 weights in safetensors, and one JSON string that says what they are.

Files come from other people, so everything in them is checked before it is used, and whatever is wrong with one is a
:class:`~pd_jax.errors.UserError` that names the file. Nothing in a file is ever executed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import reprlib
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from pd_jax.errors import UserError, nearest

FORMAT_VERSION = 1

# Far above any teacher's metadata (some 10 kB), far below what would trouble a machine that parses a foreign file.
_MAX_HEADER_BYTES = 16 * 2**20
# Keeps a hostile file from asking for a network, or an observation, that does not fit in memory.
_MAX_DIMENSION = 2**16

PathLike = str | os.PathLike[str]
Params = dict[str, Any]


class _Malformed(Exception):
    """What is wrong with a file or its metadata; becomes a UserError or a ValueError where the file is known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherMetadata:
    """What a teacher is, how it sees the game, how well it plays and where it comes from.

    Attributes:
      format_version: of the file format.
      name: of this teacher, e.g. ``"pong-dqn"``.
      game: the task it plays, e.g. ``"pong"``.
      env_id: the environment's id, e.g. ``"Pong-v5"``.
      network: a name that ``pd_jax.networks.make_network`` knows.
      layer_norm: whether the network normalises its layers (PQN does).
      hidden_sizes: widths of an ``mlp``'s hidden layers, ``()`` for the other networks.
      num_actions: the number of outputs.
      action_names: one per output, in order, e.g. ``("NOOP", "FIRE")``.
      observation: ``kind`` (``"atari"`` or ``"vector"``), ``shape`` and ``dtype`` of what the network is given, and
        where they apply ``frame_stack``, ``frame_skip``, ``grey`` and ``scaling``.
      output: ``"q"`` for Q-values, ``"logits"`` for the logits of a policy.
      algorithm: that trained it, e.g. ``"pqn"``.
      env_steps, seed: of its training, None where its source does not say.
      training_config: the settings of its training; any JSON.
      evaluation: ``mean``, ``standard_error``, ``ci95`` (``[low, high]``), ``episodes``, ``epsilon``, ``max_noops``,
        ``max_episode_steps`` and ``seed``; scores are unclipped returns. ``{}`` if it was never evaluated.
      learning_curve: points of ``env_steps``, ``mean``, ``standard_error`` and ``episodes``.
      how_made: the command or the source it comes from.
      licence: of the weights.
      created: ISO 8601 date or time.
      pd_jax_version: that wrote the file.
    """

    format_version: int = FORMAT_VERSION
    name: str
    game: str
    env_id: str
    network: str
    layer_norm: bool
    hidden_sizes: tuple[int, ...] = ()
    num_actions: int
    action_names: tuple[str, ...]
    observation: dict[str, Any]
    output: str
    algorithm: str
    env_steps: int | None
    seed: int | None
    training_config: dict[str, Any]
    evaluation: dict[str, Any]
    learning_curve: list[dict[str, Any]]
    how_made: str
    licence: str
    created: str
    pd_jax_version: str


def save_teacher(path: PathLike, params: Mapping[str, Any], metadata: TeacherMetadata) -> None:
    """Writes a teacher to ``path``, all or nothing: a reader sees the old file or the new one, never a part.

    Args:
      path: the file; its directory is made if need be.
      params: nested dict of arrays of any float dtype, stored as float32 under names joined by ``/``.
      metadata: checked as :func:`read_teacher` checks it.

    Raises:
      UserError: a weight is NaN or infinite, or the file cannot be written.
      ValueError: the metadata or the tree could not be read back.
    """
    path = Path(path)
    arrays = _float32(params)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(f"{path}: not written: {name} holds NaN or infinite weights (the training diverged)")
    fields = dataclasses.asdict(metadata) | {"params_sha256": params_fingerprint(params)}
    try:
        # The default lets NumPy and JAX scalars in; of anything else it makes a ValueError.
        text = json.dumps(fields, allow_nan=False, default=lambda value: np.asarray(value).item())
        _checked_metadata(_json_object(text, "metadata: cannot be written as UTF-8"))
        _nested(arrays)
    except _Malformed as problem:
        raise ValueError(str(problem)) from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A single metadata key: safetensors writes several in random order, and equal teachers should be equal files.
        _replace_file(path, safetensors.numpy.save(arrays, metadata={"pd_jax": text}))
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_teacher(path: PathLike) -> tuple[Params, TeacherMetadata]:
    """Reads and checks a teacher file.

    Returns:
      The parameters, a nested dict of finite float32 arrays, and the metadata. Whether the one fits the network that
      the other names is for :func:`check_params`.

    Raises:
      UserError: the file is missing, damaged, foreign, or from a newer pd_jax.
    """
    with _naming(path):
        return _parse(_read_regular_file(path))


def fingerprint(path: PathLike) -> str:
    """Returns the SHA-256 of the file's bytes, in hex; raises a UserError if it cannot be read."""
    with _naming(path):
        return hashlib.sha256(_read_regular_file(path, teachers_only=False)).hexdigest()


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
    with _naming(path):
        for name in sorted(expected.keys() - found.keys()):
            raise _Malformed(f"tensor {name!r} {expected[name]} is missing{nearest(name, found)}")
        for name in sorted(found.keys() - expected.keys()):
            raise _Malformed(f"tensor {name!r} {found[name]} does not belong to the network")
        for name, shape in expected.items():
            if found[name] != shape:
                raise _Malformed(f"tensor {name!r} has shape {found[name]}, the network needs {shape}")


@contextlib.contextmanager
def _naming(path: PathLike) -> Iterator[None]:
    try:
        yield
    except _Malformed as problem:
        raise UserError(f"{os.fspath(path)}: {problem}") from None


def _read_regular_file(path: PathLike, teachers_only: bool = True) -> bytes:
    """Reads a file whole; a foreign one is refused after its header, however large it is."""
    try:
        # Asked first: opening a FIFO would wait for a writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _Malformed("is a directory, not a file" if os.path.isdir(path) else "is not a regular file")
        with open(path, "rb") as file:
            if not teachers_only:
                return file.read()
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            header_bytes = int.from_bytes(start, "little")
            if size == 0:
                raise _Malformed("is empty")
            if size < 8 or header_bytes > min(size - 8, _MAX_HEADER_BYTES):
                raise _Malformed("not a pd_jax teacher, or cut short: it does not hold the header that it announces")
            start += file.read(header_bytes)
            _metadata_of_header(start[8:])
            return start + file.read()
    except FileNotFoundError:
        raise _Malformed("no such file") from None
    except OSError as error:
        raise _Malformed(f"cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise _Malformed("is not a file name") from None


def _metadata_of_header(header: bytes) -> str:
    """Returns the JSON string that makes a safetensors file ours."""
    fields = _json_object(header, "not a pd_jax teacher (its header is not safetensors)")
    metadata = fields.get("__metadata__")
    text = metadata.get("pd_jax") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise _Malformed("not a pd_jax teacher (a safetensors file without pd_jax metadata)")
    return text


def _parse(data: bytes) -> tuple[Params, TeacherMetadata]:
    header_bytes = int.from_bytes(data[:8], "little")
    fields = _json_object(_metadata_of_header(data[8 : 8 + header_bytes]), "metadata: not JSON")
    metadata = _checked_metadata(fields)
    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise _Malformed(f"damaged or cut short ({' '.join(str(error).split())})") from None
    arrays = {}
    for name, tensor in sorted(tensors):
        if tensor["dtype"] != "F32":
            raise _Malformed(f"tensor {name!r} is {tensor['dtype']}, not F32")
        try:
            arrays[name] = np.frombuffer(tensor["data"], dtype="<f4").reshape(tensor["shape"])
        except (ValueError, OverflowError):
            raise _Malformed(f"tensor {name!r} has the impossible shape {reprlib.repr(tensor['shape'])}") from None
        if not np.isfinite(arrays[name]).all():
            raise _Malformed(f"tensor {name!r} holds NaN or infinite weights")
    if not arrays:
        raise _Malformed("holds no weights")
    params = _nested(arrays)
    if params_fingerprint(params) != fields["params_sha256"]:
        raise _Malformed("damaged: its weights are not those that were saved (SHA-256 differs)")
    return params, metadata


def _json_object(text: str | bytes, otherwise: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        # Python's JSON lets NaN through, and half characters, which no terminal or report could print.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    # ValueError covers bad JSON, NaN, bad UTF-8 and half characters; RecursionError a thousand brackets.
    except (ValueError, RecursionError):
        raise _Malformed(otherwise) from None
    if not isinstance(value, dict):
        raise _Malformed(otherwise)
    return value


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
                raise _Malformed(f"tensor {name!r} lies inside another tensor")
        if not all(name.split("/")) or last in node:
            raise _Malformed(f"tensor {name!r} is no place in a tree of parameters")
        node[last] = leaf
    return tree


def _float32(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    # Not np.ascontiguousarray: it turns a scalar into a vector of one. Values beyond float32 become inf, which the
    # callers look for, so NumPy need not warn.
    with np.errstate(over="ignore"):
        return {name: np.asarray(leaf).astype("<f4", order="C") for name, leaf in _flattened(params).items()}


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


Check = tuple[str, Callable[[Any], bool]]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # math.isfinite would raise OverflowError for an integer beyond float64.
    return (_is_int(value) or isinstance(value, float)) and abs(value) < math.inf


def _is_label(value: Any) -> bool:
    # Labels end up in terminals, tables and file names: no control characters.
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()


def _list_of(check: Callable[[Any], bool], least: int = 0) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and len(value) >= least and all(map(check, value))


_INT: Check = ("a whole number from 0 to 2^63 - 1", lambda v: _is_int(v) and 0 <= v < 2**63)
_OPTIONAL_INT: Check = (f"{_INT[0]}, or null", lambda v: v is None or _INT[1](v))
_VERSION: Check = ("a whole number >= 1", lambda v: _is_int(v) and v >= 1)
_COUNT: Check = (f"a whole number from 1 to {_MAX_DIMENSION}", lambda v: _is_int(v) and 1 <= v <= _MAX_DIMENSION)
_NUMBER: Check = ("a finite number", _is_number)
_BOOL: Check = ("true or false", lambda v: isinstance(v, bool))
_LABEL: Check = ("a short printable text", _is_label)
_TEXT: Check = ("a text", lambda v: isinstance(v, str))
_DICT: Check = ("an object", lambda v: isinstance(v, dict))
_DIMENSIONS: Check = (f"a list of whole numbers from 1 to {_MAX_DIMENSION}", _list_of(_COUNT[1]))

_FIELDS: dict[str, Check] = {
    "format_version": _VERSION, "name": _LABEL, "game": _LABEL, "env_id": _LABEL, "network": _LABEL,
    "layer_norm": _BOOL, "hidden_sizes": _DIMENSIONS, "num_actions": _COUNT,
    "action_names": ("a list of short printable texts", _list_of(_is_label)),
    "observation": _DICT, "output": ("'q' or 'logits'", lambda v: v in ("q", "logits")), "algorithm": _LABEL,
    "env_steps": _OPTIONAL_INT, "seed": _OPTIONAL_INT, "training_config": _DICT, "evaluation": _DICT,
    "learning_curve": ("a list of objects", _list_of(_DICT[1])), "how_made": _TEXT, "licence": _TEXT,
    "created": _LABEL, "pd_jax_version": _LABEL,
    "params_sha256": ("64 hexadecimal digits", lambda v: isinstance(v, str) and len(v) == 64),
}  # fmt: skip
_OBSERVATION: dict[str, Check] = {
    "kind": ("'atari' or 'vector'", lambda v: v in ("atari", "vector")),
    "shape": (_DIMENSIONS[0], _list_of(_COUNT[1], least=1)),
    "dtype": ("'uint8' or 'float32'", lambda v: v in ("uint8", "float32")),
}
_OBSERVATION_OPTIONAL: dict[str, Check] = {"frame_stack": _COUNT, "frame_skip": _COUNT, "grey": _BOOL}
_SCORE: dict[str, Check] = {"mean": _NUMBER, "standard_error": _NUMBER, "episodes": _INT}
_EVALUATION: dict[str, Check] = _SCORE | {
    "ci95": ("a list of two finite numbers", lambda v: _list_of(_is_number)(v) and len(v) == 2),
    "epsilon": ("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1),
    "max_noops": _INT, "max_episode_steps": _INT, "seed": _INT,
}  # fmt: skip


def _check(fields: dict[str, Any], checks: dict[str, Check], where: str) -> None:
    for name, (wanted, holds) in checks.items():
        if name not in fields:
            raise _Malformed(f"{where}: {name} is missing{nearest(name, fields)}")
        if not holds(fields[name]):
            raise _Malformed(f"{where}: {name} is {reprlib.repr(fields[name])}, not {wanted}")


def _checked_metadata(fields: dict[str, Any]) -> TeacherMetadata:
    # The version comes first: of a newer format nothing else is known.
    _check(fields, {"format_version": _VERSION}, "metadata")
    if fields["format_version"] > FORMAT_VERSION:
        raise _Malformed(
            f"is in teacher format {reprlib.repr(fields['format_version'])}, newer than the format {FORMAT_VERSION} "
            "that this pd_jax reads: upgrade pd_jax"
        )
    _check(fields, _FIELDS, "metadata")
    for name in sorted(fields.keys() - _FIELDS.keys()):
        raise _Malformed(f"metadata: {reprlib.repr(name)} is not a field{nearest(name, _FIELDS)}")
    if len(fields["action_names"]) != fields["num_actions"]:
        raise _Malformed(f"metadata: {len(fields['action_names'])} action_names for {fields['num_actions']} actions")
    observation = fields["observation"]
    optional = {name: check for name, check in _OBSERVATION_OPTIONAL.items() if name in observation}
    _check(observation, _OBSERVATION | optional, "metadata: observation")
    if fields["evaluation"]:
        _check(fields["evaluation"], _EVALUATION, "metadata: evaluation")
    for index, point in enumerate(fields["learning_curve"]):
        _check(point, _SCORE | {"env_steps": _INT}, f"metadata: learning_curve[{index}]")
    values = {name: value for name, value in fields.items() if name != "params_sha256"}
    tuples = {name: tuple(fields[name]) for name in ("hidden_sizes", "action_names")}
    return TeacherMetadata(**(values | tuples))
