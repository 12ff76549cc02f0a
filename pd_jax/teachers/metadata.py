"""What a teacher file says about its teacher, and the checks that keep others' files from saying anything else."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import reprlib
from collections.abc import Callable
from typing import Any

from pd_jax.errors import nearest

FORMAT_VERSION = 2
"""Version 2 has activations, categorical heads, sources and half-precision weights; version 1 is read as before."""

# Keeps a hostile file from asking for a network, or an observation, that does not fit in memory.
_MAX_DIMENSION = 2**16
_MAX_ATOMS = 1024


class Malformed(Exception):
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
      activation: of the hidden layers, ``"relu"`` or, for an ``mlp``, ``"tanh"``.
      support: values of the atoms of a categorical head, ``()`` where the network gives its outputs directly.
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
      source_format: of the file that it was imported from, ``""`` if it was not.
      source_sha256: of that file, in hex.
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
    activation: str = "relu"
    support: tuple[float, ...] = ()
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
    source_format: str = ""
    source_sha256: str = ""
    licence: str
    created: str
    pd_jax_version: str


def json_object(text: str | bytes, otherwise: str) -> dict[str, Any]:
    """Reads a JSON object that can be written and printed again; of anything else it says ``otherwise``."""
    try:
        value = json.loads(text)
        # Python's JSON lets NaN through, and half characters, which no terminal or report could print.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    # ValueError covers bad JSON, NaN, bad UTF-8 and half characters; RecursionError a thousand brackets.
    except (ValueError, RecursionError):
        raise Malformed(otherwise) from None
    if not isinstance(value, dict):
        raise Malformed(otherwise)
    return value


Check = tuple[str, Callable[[Any], bool]]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # math.isfinite would raise OverflowError for an integer beyond float64.
    return (_is_int(value) or isinstance(value, float)) and abs(value) < math.inf


def _is_float32(value: Any) -> bool:
    return _is_number(value) and abs(value) < 2.0**127


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
_SHA256: Check = ("64 hexadecimal digits", lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) is not None)
_DIMENSIONS: Check = (f"a list of whole numbers from 1 to {_MAX_DIMENSION}", _list_of(_COUNT[1]))

_FIELDS: dict[str, Check] = {
    "format_version": _VERSION, "name": _LABEL, "game": _LABEL, "env_id": _LABEL, "network": _LABEL,
    "layer_norm": _BOOL, "hidden_sizes": _DIMENSIONS, "num_actions": _COUNT,
    "action_names": ("a list of short printable texts", _list_of(_is_label)),
    "observation": _DICT, "output": ("'q' or 'logits'", lambda v: v in ("q", "logits")), "algorithm": _LABEL,
    "env_steps": _OPTIONAL_INT, "seed": _OPTIONAL_INT, "training_config": _DICT, "evaluation": _DICT,
    "learning_curve": ("a list of objects", _list_of(_DICT[1])), "how_made": _TEXT, "licence": _TEXT,
    "created": _LABEL, "pd_jax_version": _LABEL,
    "params_sha256": _SHA256,
}  # fmt: skip
_OPTIONAL_FIELDS: dict[str, Check] = {
    "activation": ("'relu' or 'tanh'", lambda v: v in ("relu", "tanh")),
    "support": (
        f"a list of 2 to {_MAX_ATOMS} numbers that rise, or none",
        lambda v: _list_of(_is_float32)(v) and len(v) <= _MAX_ATOMS and len(v) != 1 and list(v) == sorted(set(v)),
    ),
    "source_format": ("a short printable text", lambda v: v == "" or _is_label(v)),
    "source_sha256": (_SHA256[0], lambda v: v == "" or _SHA256[1](v)),
}
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
            raise Malformed(f"{where}: {name} is missing{nearest(name, fields)}")
        if not holds(fields[name]):
            raise Malformed(f"{where}: {name} is {reprlib.repr(fields[name])}, not {wanted}")


def _present(checks: dict[str, Check], fields: dict[str, Any]) -> dict[str, Check]:
    return {name: check for name, check in checks.items() if name in fields}


def checked_metadata(fields: dict[str, Any]) -> TeacherMetadata:
    """Makes metadata of a file's JSON object, or says which of its fields cannot be."""
    # The version comes first: of a newer format nothing else is known.
    _check(fields, {"format_version": _VERSION}, "metadata")
    if fields["format_version"] > FORMAT_VERSION:
        raise Malformed(
            f"is in teacher format {reprlib.repr(fields['format_version'])}, newer than the format {FORMAT_VERSION} "
            "that this pd_jax reads: upgrade pd_jax"
        )
    _check(fields, _FIELDS, "metadata")
    for name in sorted(fields.keys() - _FIELDS.keys() - _OPTIONAL_FIELDS.keys()):
        raise Malformed(f"metadata: {reprlib.repr(name)} is not a field{nearest(name, _FIELDS | _OPTIONAL_FIELDS)}")
    _check(fields, _present(_OPTIONAL_FIELDS, fields), "metadata")
    if len(fields["action_names"]) != fields["num_actions"]:
        raise Malformed(f"metadata: {len(fields['action_names'])} action_names for {fields['num_actions']} actions")
    observation = fields["observation"]
    _check(observation, _OBSERVATION | _present(_OBSERVATION_OPTIONAL, observation), "metadata: observation")
    if fields["evaluation"]:
        _check(fields["evaluation"], _EVALUATION, "metadata: evaluation")
    for index, point in enumerate(fields["learning_curve"]):
        _check(point, _SCORE | {"env_steps": _INT}, f"metadata: learning_curve[{index}]")
    values = {name: value for name, value in fields.items() if name != "params_sha256"}
    tuples = {name: tuple(fields.get(name, ())) for name in ("hidden_sizes", "action_names", "support")}
    return TeacherMetadata(**(values | tuples))
