"""``dataset.json``: what a recording holds, how much of it counts, and the checks that a file from others needs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import reprlib
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np

from pd_jax.environments.protocols import PROTOCOLS, protocol_name
from pd_jax.errors import UserError
from pd_jax.replay.observations import (
    DTYPE,
    LABEL,
    MAIN,
    SHAPE,
    Check,
    fault_in_fields,
    fault_in_normalisation,
    fault_in_observations,
    is_float32,
    unapplied,
)

FORMAT_VERSION = 3
"""Version 3 has continuous actions. Version 2 has further observations, frozen statistics and the name of the protocol
of the teacher's score."""
_VERSION_2 = 2
PLAIN_VERSION = 1
"""What a recording that has none of these is written in, to the same bytes as before there was version 2."""

SENSED = "sensed"
"""The further observation that this version records and reads: what a student with senses of its own sensed."""

# Fields that may differ between the parts of an interrupted recording.
GROWS = frozenset({"planned_steps", "steps", "teacher_score"})
# What version 2 added. At its default a field is left out of the recording's identity.
_OF_VERSION_2 = frozenset({"observations", "normalisation"})
_OF_CONTINUOUS = frozenset({"action_low", "action_high"})
"""What version 3 added, of continuous tasks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetHeader:
    """What was recorded, and how much of it.

    Attributes:
      task, env_id: e.g. ``"pong"`` and ``"Pong-v5"``.
      num_actions: A, the teacher's outputs.
      action_low, action_high: of a continuous task, the range of each component of an action; ``()`` of others.
      observation_shape, observation_dtype: of one stored observation, e.g. ``(84, 84)`` and ``"uint8"``: the newest
        frame, not the stack.
      num_lanes: L, the environments played side by side.
      teacher, teacher_fingerprint: its name, and the SHA-256 of its file.
      teacher_output: ``"q"`` or ``"logits"``, what ``teacher_q`` holds; of a continuous task ``"gaussian"`` or
        ``"means"``, as `pd_jax.networks.continuous` has them.
      epsilon, seed: of the play.
      environment: how it ran, such as its no-ops and step limit; with ``protocol`` where the settings named one.
      recording_id: drawn when the recording was begun; two with the same settings are still two recordings.
      chunk_length: time steps of a chunk; every append is a multiple of it.
      planned_steps: time steps per lane that the recording is to have, a multiple of ``chunk_length``.
      steps: time steps per lane recorded so far.
      teacher_score: the teacher's evaluation, if there is one. Its ``protocol``, which may be absent, is the name of
        the rules that it was scored under, such as ``"no-op starts"``.
      observations: what is stored beside the main observation, by name: ``{"shape": [...], "dtype": ...}`` of each. Of
        ``"sensed"``, which a student with senses of its own sensed, ``"senses"`` says which these are
        (`pd_jax.environments.senses.Senses.told`). With others this version reads the header, and neither records nor
        reads the play.
      normalisation: frozen statistics by the name of the observation, ``"observation"`` for the main one: ``mean`` and
        ``variance``, a number or nested lists of the stored shape, and ``count``, of the observations behind them. What
        is stored is not normalised. This version does not distil from such a recording.
      format_version: of the file that it was read from; one is written in the lowest version that holds it.
    """

    task: str
    env_id: str
    num_actions: int
    observation_shape: tuple[int, ...]
    observation_dtype: str
    num_lanes: int
    teacher: str
    teacher_fingerprint: str
    teacher_output: str
    epsilon: float
    seed: int
    environment: dict[str, Any]
    recording_id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    chunk_length: int
    planned_steps: int
    steps: int = 0
    teacher_score: dict[str, Any] | None = None
    observations: dict[str, Any] = dataclasses.field(default_factory=dict)
    normalisation: dict[str, Any] = dataclasses.field(default_factory=dict)
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    format_version: int = PLAIN_VERSION

    @property
    def identity(self) -> str:
        """SHA-256 of what makes this recording the one it is, in hex; not of how long it has grown."""
        fields = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in GROWS
            and (value != {} or name not in _OF_VERSION_2)
            and (value != () or name not in _OF_CONTINUOUS)
        }
        # Not the file's own: a score with a protocol lifts that, and leaves the play what it was.
        fields["format_version"] = PLAIN_VERSION
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @property
    def named_protocol(self) -> str | None:
        """The protocol that the recording names: one of `PROTOCOLS`, or None."""
        named = self.environment.get("protocol")
        return named if isinstance(named, str) and named in PROTOCOLS else None

    @property
    def protocol(self) -> str | None:
        """The protocol that the play's own numbers amount to; None of no Atari game, or where some are not told."""
        return protocol_name(self.environment) if len(self.observation_shape) == 2 else None

    @property
    def complete(self) -> bool:
        """Whether all the planned steps are recorded."""
        return self.steps >= self.planned_steps

    @property
    def unapplied(self) -> str:
        """What a run would have to apply and this version cannot, in words; ``""`` if there is nothing."""
        others = {name: told for name, told in self.observations.items() if not self._is_sensed(name)}
        return unapplied(others, self.normalisation)

    @property
    def sensed(self) -> dict[str, Any] | None:
        """What is told of the further observation ``"sensed"``; None if there is none."""
        return self.observations.get(SENSED) if self._is_sensed(SENSED) else None

    def _is_sensed(self, name: str) -> bool:
        told = self.observations.get(name)
        return name == SENSED and isinstance(told, dict) and isinstance(told.get("senses"), dict)

    def layouts(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Returns, by array, the shape behind ``[T, L]`` and the dtype."""
        sensed = self.sensed
        return {
            "observations": (self.observation_shape, self.observation_dtype),
            "is_first": ((), "bool"),
            "is_decision": ((), "bool"),
            "actions": ((len(self.action_low),), "float32") if self.action_low else ((), "int32"),
            "rewards": ((), "float32"),
            "teacher_q": ((self.num_actions,), "float32"),
            **({} if sensed is None else {SENSED: (tuple(sensed["shape"]), sensed["dtype"])}),
        }


def dump_header(header: DatasetHeader) -> bytes:
    """Returns the bytes of ``dataset.json``, in the lowest format version that holds the header."""
    has_protocol = isinstance(header.teacher_score, dict) and "protocol" in header.teacher_score
    # Also of what cannot be, such as None: the reader's checks say so.
    is_new = has_protocol or header.observations != {} or header.normalisation != {}
    version = FORMAT_VERSION if header.action_low else _VERSION_2 if is_new else PLAIN_VERSION
    fields = dataclasses.asdict(header) | {"format_version": version, "complete": header.complete}
    left_out = (_OF_VERSION_2 if version == PLAIN_VERSION else frozenset()) | (
        frozenset() if version == FORMAT_VERSION else _OF_CONTINUOUS
    )
    fields = {name: value for name, value in fields.items() if name not in left_out}
    return json.dumps(fields, indent=1, allow_nan=False, default=lambda value: np.asarray(value).item()).encode()


def parse_header(text: bytes, path: str) -> DatasetHeader:
    """Reads what :func:`dump_header` wrote; raises a UserError that names ``path`` if it is anything else."""
    where = f"{path}: dataset.json"
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{where}: damaged: not JSON") from None
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if type(version) is not int or version < 1:
        raise UserError(f"{where}: not a data set of pd_jax")
    if version > FORMAT_VERSION:
        raise UserError(f"{where}: format {version}, and this pd_jax reads {FORMAT_VERSION}: upgrade pd_jax")
    for name, holds in _CHECKS.items():
        if name not in fields or not holds(fields[name]):
            raise UserError(f"{where}: {name} is {reprlib.repr(fields[name]) if name in fields else 'missing'}")
    fields["observation_shape"] = tuple(fields["observation_shape"])
    added = {name: fields[name] for name in sorted(_OF_VERSION_2 & fields.keys())}
    if added and version == PLAIN_VERSION:
        raise UserError(f"{where}: {next(iter(added))} is of format {_VERSION_2}, the file of format {version}")
    if _OF_CONTINUOUS & fields.keys():
        if version < FORMAT_VERSION:
            raise UserError(f"{where}: action_low is of format {FORMAT_VERSION}, the file of format {version}")
        if fault := _fault_of_actions(fields):
            raise UserError(f"{where}: {fault}")
        added |= {name: tuple(fields[name]) for name in sorted(_OF_CONTINUOUS)}
    if version > PLAIN_VERSION and (fault := _fault_of_version_2(fields)):
        raise UserError(f"{where}: {fault}")
    header = DatasetHeader(**{name: fields[name] for name in _CHECKS}, **added)
    if header.planned_steps % header.chunk_length or header.steps % header.chunk_length:
        counts = f"steps {header.steps} and planned_steps {header.planned_steps}"
        raise UserError(f"{where}: {counts} are not both multiples of the chunk length, {header.chunk_length}")
    return header


def _fault_of_version_2(fields: dict[str, Any]) -> str:
    score, observations = fields["teacher_score"] or {}, fields.get("observations", {})
    if "protocol" in score and (fault := fault_in_fields({"protocol": score["protocol"]}, {"protocol": LABEL})):
        return f"teacher_score{fault}"
    if fault := fault_in_observations(observations, {"shape": SHAPE, "dtype": DTYPE}, {"senses": _SENSES}):
        return fault
    shapes = {name: specification["shape"] for name, specification in observations.items()}
    shapes[MAIN] = fields["observation_shape"]
    return fault_in_normalisation(fields.get("normalisation", {}), shapes)


_SENSES: Check = ("an object", lambda value: isinstance(value, dict))


def _fault_of_actions(fields: dict[str, Any]) -> str:
    """What is wrong with the range of continuous actions; ``""`` if nothing is."""
    low, high = (fields.get(name) for name in ("action_low", "action_high"))
    for name, value in (("action_low", low), ("action_high", high)):
        if not isinstance(value, list) or not value or not all(map(is_float32, value)):
            return f"{name} is {reprlib.repr(value)}"
    assert isinstance(low, list) and isinstance(high, list)
    if len(low) != len(high) or not all(least < most for least, most in zip(low, high, strict=True)):
        return "action_low is not below action_high"
    outputs = {"gaussian": 2 * len(low), "means": len(low)}.get(fields["teacher_output"])
    if fields["num_actions"] != outputs:
        return f"num_actions is {fields['num_actions']}, with {len(low)} components in an action"
    return ""


def _is_count(value: Any, least: int = 1) -> bool:
    return type(value) is int and least <= value < 2**40


# By field: what a value read from dataset.json has to be.
_CHECKS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("task", "env_id", "teacher", "teacher_fingerprint", "teacher_output", "recording_id"),
        lambda value: isinstance(value, str) and value.isprintable(),
    ),
    **dict.fromkeys(("num_actions", "num_lanes", "chunk_length", "planned_steps", "format_version"), _is_count),
    "observation_shape": lambda value: isinstance(value, list | tuple) and all(map(_is_count, value)),
    "observation_dtype": lambda value: value in ("uint8", "float32"),
    "environment": lambda value: isinstance(value, dict),
    "epsilon": lambda value: type(value) in (int, float) and 0 <= value <= 1,
    "seed": lambda value: type(value) is int,
    "steps": lambda value: _is_count(value, least=0),
    "teacher_score": lambda value: value is None or isinstance(value, dict),
}
