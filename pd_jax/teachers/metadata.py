"""What a teacher file says about its teacher, and the checks that keep others' files from saying anything else."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pd_jax.config.games import MLPS
from pd_jax.environments.protocols import PROTOCOLS, protocol_name
from pd_jax.errors import nearest
from pd_jax.replay.observations import (
    DTYPE,
    HOW_APPLIED,
    LABEL,
    MAIN,
    MAX_DIMENSION,
    SHAPE,
    Check,
    fault_in_fields,
    fault_in_normalisation,
    fault_in_observations,
    is_float32,
    is_label,
    unapplied,
)

FORMAT_VERSION = 6
"""Version 6 has policies of continuous tasks. Version 5 has statistics that are applied, further activations and layers
after convolutions. Version 4 has further observations, frozen statistics and the name of a score's protocol. Version 3
is of several games. Version 2 has activations, categorical heads, sources and half-precision weights; version 1 is read
as before."""
SEVERAL_GAMES_VERSION = 3
"""What a teacher of several games is written in that has nothing of a later version."""
ONE_GAME_VERSION = 2
"""What a teacher of one game is written in that has nothing of a later version."""
_STATISTICS_VERSION = 4
_WIDTHS_VERSION = 5

_MAX_ATOMS = 1024
_MAX_GAMES = 64


class Malformed(Exception):
    """What is wrong with a file or its metadata; becomes a UserError or a ValueError where the file is known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherMetadata:
    """What a teacher is, how it sees the game, how well it plays and where it comes from.

    Attributes:
      format_version: of the file that it was read from; one is written in the lowest version that holds it.
      name: of this teacher, e.g. ``"pong-dqn"``.
      game: the task it plays, e.g. ``"pong"``.
      env_id: the environment's id, e.g. ``"Pong-v5"``.
      network: a name that ``pd_jax.networks.registry.make_network`` knows.
      layer_norm: whether the network normalises its layers (PQN does).
      hidden_sizes: widths of an ``mlp``'s hidden layers, ``()`` for the other networks.
      activation: of an ``mlp``'s hidden layers and of ``head_sizes``: one of `ACTIVATIONS`; convolutions have ReLU.
      support: values of the atoms of a categorical head, ``()`` where the network gives its outputs directly.
      games: that the network plays, in the order of its heads; ``()`` for the network of a single game. All but the
        name, the game, its spec, its statistics, its score and its curve is then common to them: the steps are those of
        all games.
      channels, hidden, head_hidden: widths of a network of several games, as `pd_jax.networks.registry.make_network`
        takes them; None where its name says what they are. Since version 5 a single game's network may have them too.
      head_sizes: widths of the dense layers between a convolutional torso and the output layer, of a single game.
      num_actions: the number of actions, or of the components of one; but for ``"gaussian"``, that of the outputs.
      action_names: one per action or component, in order, e.g. ``("NOOP", "FIRE")``.
      action_low, action_high: of a continuous task, the range of each component; ``()`` of a discrete one.
      observation: ``kind`` (``"atari"`` or ``"vector"``), ``shape`` and ``dtype`` of what the network is given, and
        where they apply ``frame_stack``, ``frame_skip``, ``grey`` and ``scaling``.
      observations: what the network is given beside ``observation``, by name, each specified as that is. This version
        describes such a teacher and does not load it.
      normalisation: frozen statistics by the name of the observation that they normalise, ``"observation"`` for the
        main one: ``mean`` and ``variance``, a number or nested lists of the observation's shape, and ``count``, of the
        observations behind them. Those of an ``mlp``'s one observation are applied if they say how, with ``epsilon``
        and perhaps ``clip``: see `pd_jax.networks.normalisation`. Others are described, and their teachers not loaded.
      output: ``"q"`` for Q-values, ``"logits"`` for the logits of a policy; of a continuous task ``"gaussian"``, for D
        means and then D logarithms of standard deviations, or ``"means"``, for the D components of an action.
      squashed: whether actions are the range applied to the tanh of a sample (gaussian) or of the output layer (means).
      log_std_bounds: that the logarithms of a Gaussian's standard deviations are clipped to; None leaves them.
      simulator: that it was trained or scored on, e.g. ``"mujoco 3.6.0"``; ``""`` where none is told.
      algorithm: that trained it, e.g. ``"pqn"``.
      env_steps, seed: of its training, None where its source does not say.
      training_config: the settings of its training; any JSON.
      evaluation: ``mean``, ``standard_error``, ``ci95`` (``[low, high]``), ``episodes``, ``epsilon``, ``max_noops``,
        ``max_episode_steps`` and ``seed``; scores are unclipped returns. ``{}`` if it was never evaluated. Its
        ``protocol``, which may be absent, is the name of the rules that it was scored under, such as ``"modern"``.
      learning_curve: points of ``env_steps``, ``mean``, ``standard_error`` and ``episodes``.
      how_made: the command or the source it comes from.
      source_format: of the file that it was imported from, ``""`` if it was not.
      source_sha256: of that file, in hex.
      licence: of the weights.
      created: ISO 8601 date or time.
      pd_jax_version: that wrote the file.
    """

    format_version: int = ONE_GAME_VERSION
    name: str
    game: str
    env_id: str
    network: str
    layer_norm: bool
    hidden_sizes: tuple[int, ...] = ()
    activation: str = "relu"
    support: tuple[float, ...] = ()
    games: tuple[str, ...] = ()
    channels: tuple[int, ...] | None = None
    hidden: int | None = None
    head_hidden: int | None = None
    head_sizes: tuple[int, ...] = ()
    num_actions: int
    action_names: tuple[str, ...]
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    observation: dict[str, Any]
    observations: dict[str, Any] = dataclasses.field(default_factory=dict)
    normalisation: dict[str, Any] = dataclasses.field(default_factory=dict)
    output: str
    squashed: bool = False
    log_std_bounds: tuple[float, float] | None = None
    simulator: str = ""
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

    @property
    def is_continuous(self) -> bool:
        """Whether its actions are vectors of floats."""
        return self.output in CONTINUOUS_OUTPUTS

    @property
    def num_outputs(self) -> int:
        """O, the numbers that its network gives."""
        return (2 if self.output == "gaussian" else 1) * self.num_actions

    @property
    def named_protocol(self) -> str | None:
        """The protocol that the file names, of its score or else of its training: one of `PROTOCOLS`, or None."""
        for section in (self.evaluation, self.training_config):
            if section.get("protocol") in PROTOCOLS:
                return str(section["protocol"])
        return None

    @property
    def protocol(self) -> str | None:
        """The protocol that the file names, or that the numbers of its score amount to; None if it does not say."""
        if self.named_protocol is not None or self.observation["kind"] != "atari":
            return self.named_protocol
        env = self.training_config.get("env")
        # Scores are taken as games were played in training; that actions stuck stands there alone.
        return protocol_name((env if isinstance(env, dict) else {"sticky_action_probability": 0.0}) | self.evaluation)

    @property
    def unapplied(self) -> str:
        """What its network needs and this version cannot apply, in words; ``""`` if there is nothing."""
        statistics = self.normalisation
        if self.applied_statistics is not None:
            statistics = {name: value for name, value in statistics.items() if name != MAIN}
        return unapplied(self.observations, statistics)

    @property
    def applied_statistics(self) -> dict[str, Any] | None:
        """By which its network normalises what it sees; None if it takes observations as they are."""
        statistics: dict[str, Any] = self.normalisation.get(MAIN, {})
        is_applied = self.network in MLPS and not self.games and "epsilon" in statistics
        return statistics if is_applied else None

    @property
    def untrainable(self) -> str:
        """What its network has that the networks which are trained here do not, in words; ``""`` if nothing."""
        if self.is_continuous:
            return "continuous actions"
        if self.support:
            return "a categorical head"
        if self.network.startswith("impala"):
            return "residual blocks"
        if self.network == "dqn_same":
            return "padded convolutions"
        if self.head_sizes:
            return "dense layers between its convolutions and its outputs"
        if not self.games and (self.channels, self.hidden, self.head_hidden) != (None, None, None):
            return "layers of other widths"
        if self.activation != "relu":
            return f"{self.activation} units"
        return "normalised observations" if self.normalisation else ""


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


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # math.isfinite would raise OverflowError for an integer beyond float64.
    return (_is_int(value) or isinstance(value, float)) and abs(value) < math.inf


def _list_of(check: Callable[[Any], bool], least: int = 0) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and len(value) >= least and all(map(check, value))


_INT: Check = ("a whole number from 0 to 2^63 - 1", lambda v: _is_int(v) and 0 <= v < 2**63)
_OPTIONAL_INT: Check = (f"{_INT[0]}, or null", lambda v: v is None or _INT[1](v))
_VERSION: Check = ("a whole number >= 1", lambda v: _is_int(v) and v >= 1)
_COUNT: Check = (f"a whole number from 1 to {MAX_DIMENSION}", lambda v: _is_int(v) and 1 <= v <= MAX_DIMENSION)
_NUMBER: Check = ("a finite number", _is_number)
_BOOL: Check = ("true or false", lambda v: isinstance(v, bool))
_TEXT: Check = ("a text", lambda v: isinstance(v, str))
_DICT: Check = ("an object", lambda v: isinstance(v, dict))
_SHA256: Check = ("64 hexadecimal digits", lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) is not None)
_DIMENSIONS: Check = (f"a list of whole numbers from 1 to {MAX_DIMENSION}", _list_of(_COUNT[1]))

CONTINUOUS_OUTPUTS = ("gaussian", "means")
"""Kinds of outputs of a continuous task, since version 6."""
ACTIVATIONS = ("relu", "tanh", "elu", "leaky_relu", "silu", "gelu")
"""That a teacher's hidden layers may have; the first two before version 5."""

_FIELDS: dict[str, Check] = {
    "format_version": _VERSION, "name": LABEL, "game": LABEL, "env_id": LABEL, "network": LABEL,
    "layer_norm": _BOOL, "hidden_sizes": _DIMENSIONS, "num_actions": _COUNT,
    "action_names": ("a list of short printable texts", _list_of(is_label)),
    "observation": _DICT, "output": ("'q' or 'logits'", lambda v: v in ("q", "logits")), "algorithm": LABEL,
    "env_steps": _OPTIONAL_INT, "seed": _OPTIONAL_INT, "training_config": _DICT, "evaluation": _DICT,
    "learning_curve": ("a list of objects", _list_of(_DICT[1])), "how_made": _TEXT, "licence": _TEXT,
    "created": LABEL, "pd_jax_version": LABEL,
    "params_sha256": _SHA256,
}  # fmt: skip
_OPTIONAL_FIELDS: dict[str, Check] = {
    "activation": ("'relu' or 'tanh'", lambda v: v in ACTIVATIONS[:2]),
    "support": (
        f"a list of 2 to {_MAX_ATOMS} numbers that rise, or none",
        lambda v: _list_of(is_float32)(v) and len(v) <= _MAX_ATOMS and len(v) != 1 and list(v) == sorted(set(v)),
    ),
    "source_format": ("a short printable text", lambda v: v == "" or is_label(v)),
    "source_sha256": (_SHA256[0], lambda v: v == "" or _SHA256[1](v)),
}
_GAME_FIELDS = ("name", "game", "env_id", "num_actions", "action_names", "observation", "evaluation", "learning_curve")
"""What a file of several games says of each of them, in its list of games."""
_OF_VERSION_4 = ("observations", "normalisation")
"""What version 4 added, of each game where there are several."""
_WIDTH: Check = (f"{_COUNT[0]}, or null", lambda v: v is None or _COUNT[1](v))
_SEVERAL_GAMES_FIELDS: dict[str, Check] = {
    "games": (f"a list of 2 to {_MAX_GAMES} objects", lambda v: _list_of(_DICT[1], 2)(v) and len(v) <= _MAX_GAMES),
    "channels": (f"{_DIMENSIONS[0]}, or null", lambda v: v is None or _DIMENSIONS[1](v)),
    "hidden": _WIDTH,
    "head_hidden": (
        f"a whole number from 0 to {MAX_DIMENSION}, or null", lambda v: v is None or v == 0 or _COUNT[1](v)
    ),
}  # fmt: skip
_OF_VERSION_5: dict[str, Check] = {
    **{name: _SEVERAL_GAMES_FIELDS[name] for name in ("channels", "hidden", "head_hidden")},
    "head_sizes": _DIMENSIONS,
}
"""What version 5 added, of a single game."""
_RANGE: Check = ("a list of finite numbers", _list_of(is_float32, least=1))
_OF_VERSION_6: dict[str, Check] = {
    "action_low": _RANGE,
    "action_high": _RANGE,
    "squashed": _BOOL,
    "log_std_bounds": (
        "a list of two numbers that rise, or null",
        lambda v: v is None or (_list_of(is_float32)(v) and len(v) == 2 and v[0] < v[1]),
    ),
    "simulator": ("a short printable text", lambda v: v == "" or is_label(v)),
}
"""What version 6 added, of a continuous task, of which all but the last is to be told."""
_ACTIVATION: dict[str, Check] = {"activation": (f"one of {', '.join(ACTIVATIONS)}", lambda v: v in ACTIVATIONS)}
_OBSERVATION: dict[str, Check] = {
    "kind": ("'atari' or 'vector'", lambda v: v in ("atari", "vector")),
    "shape": (_DIMENSIONS[0], _list_of(_COUNT[1], least=1)),
    "dtype": DTYPE,
}
_OBSERVATION_OPTIONAL: dict[str, Check] = {"frame_stack": _COUNT, "frame_skip": _COUNT, "grey": _BOOL}
# Of further observations, of which nothing else may be said.
_FURTHER = _OBSERVATION | {"shape": SHAPE}
_FURTHER_OPTIONAL = _OBSERVATION_OPTIONAL | {"scaling": LABEL}
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


def to_fields(metadata: Sequence[TeacherMetadata]) -> dict[str, Any]:
    """The JSON object of a file: of one teacher, or of those that one network is for its several games.

    Raises:
      ValueError: they do not tell the same of what is common to them.
    """
    if len(metadata) == 1:
        if metadata[0].games:
            raise ValueError(f"{metadata[0].name} is one of the games {metadata[0].games}; give all of them")
        version = _version(metadata, ONE_GAME_VERSION)
        left_out = {*_SEVERAL_GAMES_FIELDS, *_OF_VERSION_5}
        left_out -= _OF_VERSION_5.keys() if version >= _WIDTHS_VERSION else set()
        left_out |= _OF_VERSION_6.keys() if version < FORMAT_VERSION else set()
        left_out |= set(_OF_VERSION_4) if version < _STATISTICS_VERSION else set()
        fields = dataclasses.asdict(metadata[0]) | {"format_version": version}
        return {name: value for name, value in fields.items() if name not in left_out}
    if any(each.head_sizes for each in metadata):
        raise ValueError("a network of several games has no head_sizes")
    if any(each.is_continuous for each in metadata):
        raise ValueError("a teacher of several games has discrete actions")
    version = _version(metadata, SEVERAL_GAMES_VERSION)
    games = [dataclasses.asdict(each) | {"format_version": version} for each in metadata]
    for each in games:
        for name in ("head_sizes", *_OF_VERSION_6):
            del each[name]
    own = {*_GAME_FIELDS, *_OF_VERSION_4}
    common = [{name: value for name, value in each.items() if name not in own} for each in games]
    if any(each != common[0] for each in common) or common[0]["games"] != tuple(each.game for each in metadata):
        raise ValueError("the games of one network differ in what is common to them")
    told = (*_GAME_FIELDS, *(_OF_VERSION_4 if version >= _STATISTICS_VERSION else ()))
    listed = [{name: each[name] for name in told} for each in games]
    return common[0] | {"games": listed}


def _version(metadata: Sequence[TeacherMetadata], least: int) -> int:
    """The lowest version that holds a file."""
    if any(each.is_continuous for each in metadata):
        return FORMAT_VERSION
    if any(map(_needs_version_5, metadata)):
        return _WIDTHS_VERSION
    return _STATISTICS_VERSION if any(map(_needs_version_4, metadata)) else least


def _needs_version_5(metadata: TeacherMetadata) -> bool:
    # Values that cannot be are for the checks that follow, in any version.
    statistics = metadata.normalisation.values() if isinstance(metadata.normalisation, dict) else ()
    is_applied = any(isinstance(value, dict) and not HOW_APPLIED.keys().isdisjoint(value) for value in statistics)
    widths = (metadata.channels, metadata.hidden, metadata.head_hidden)
    has_widths = metadata.head_sizes != () or (widths != (None, None, None) and not metadata.games)
    return is_applied or has_widths or metadata.activation in ACTIVATIONS[2:]


def _needs_version_4(metadata: TeacherMetadata) -> bool:
    # Also of what cannot be, such as None: the checks that follow say so.
    is_new = metadata.observations != {} or metadata.normalisation != {}
    return is_new or (isinstance(metadata.evaluation, Mapping) and "protocol" in metadata.evaluation)


def checked_metadata(fields: dict[str, Any]) -> tuple[TeacherMetadata, ...]:
    """Makes metadata of a file's JSON object, for every game in it, or says which of its fields cannot be."""
    # The version comes first: of a newer format nothing else is known.
    _check(fields, {"format_version": _VERSION}, "metadata")
    if fields["format_version"] > FORMAT_VERSION:
        raise Malformed(
            f"is in teacher format {reprlib.repr(fields['format_version'])}, newer than the format {FORMAT_VERSION} "
            "that this pd_jax reads: upgrade pd_jax"
        )
    version = fields["format_version"]
    if version <= ONE_GAME_VERSION or (version > SEVERAL_GAMES_VERSION and "games" not in fields):
        return (_checked(fields, "metadata"),)
    _check(fields, _SEVERAL_GAMES_FIELDS, "metadata")
    common = {name: value for name, value in fields.items() if name != "games"}
    for name in (*_GAME_FIELDS, *(_OF_VERSION_4 if version > SEVERAL_GAMES_VERSION else ())):
        if name in common:
            raise Malformed(f"metadata: {name} is beside the games, not in them")
    if "head_sizes" in common:
        raise Malformed("metadata: a network of several games has no head_sizes")
    if fields.get("output") in CONTINUOUS_OUTPUTS:
        raise Malformed("metadata: a network of several games has discrete actions")
    widths = {name: common.pop(name) for name in ("channels", "hidden", "head_hidden")}
    widths["channels"] = None if widths["channels"] is None else tuple(widths["channels"])
    each = [_checked(common | own, f"metadata: games[{index}]") for index, own in enumerate(fields["games"])]
    games = tuple(metadata.game for metadata in each)
    if len(set(games)) < len(games):
        raise Malformed(f"metadata: has a game twice ({reprlib.repr(games)})")
    return tuple(dataclasses.replace(metadata, games=games, **widths) for metadata in each)


_TUPLES = ("hidden_sizes", "action_names", "support", "head_sizes", "action_low", "action_high")


def _checked(fields: dict[str, Any], where: str) -> TeacherMetadata:
    is_continuous = fields["format_version"] >= FORMAT_VERSION and fields.get("output") in CONTINUOUS_OUTPUTS
    _check(fields, _FIELDS | ({"output": _TEXT} if is_continuous else {}), where)
    is_version_4 = fields["format_version"] >= _STATISTICS_VERSION
    is_version_5 = fields["format_version"] >= _WIDTHS_VERSION
    optional = _OPTIONAL_FIELDS | (_OF_VERSION_5 | _ACTIVATION if is_version_5 else {})
    optional |= _OF_VERSION_6 if is_continuous else {}
    known = {*_FIELDS, *optional, *(_OF_VERSION_4 if is_version_4 else ())}
    for name in sorted(fields.keys() - known):
        raise Malformed(f"{where}: {reprlib.repr(name)} is not a field{nearest(name, sorted(known))}")
    _check(fields, _present(optional, fields), where)
    if len(fields["action_names"]) != fields["num_actions"]:
        raise Malformed(f"{where}: {len(fields['action_names'])} action_names for {fields['num_actions']} actions")
    if is_continuous and (fault := _fault_of_actions(fields)):
        raise Malformed(f"{where}: {fault}")
    observation = fields["observation"]
    _check(observation, _OBSERVATION | _present(_OBSERVATION_OPTIONAL, observation), f"{where}: observation")
    if fields["evaluation"]:
        _check(fields["evaluation"], _EVALUATION, f"{where}: evaluation")
    if is_version_4 and (fault := _fault_of_version_4(fields)):
        raise Malformed(f"{where}: {fault}")
    for index, point in enumerate(fields["learning_curve"]):
        _check(point, _SCORE | {"env_steps": _INT}, f"{where}: learning_curve[{index}]")
    values = {name: value for name, value in fields.items() if name != "params_sha256"}
    tuples = {name: tuple(fields.get(name, ())) for name in _TUPLES}
    for name in ("channels", "log_std_bounds"):
        if values.get(name) is not None:
            tuples[name] = tuple(values[name])
    return TeacherMetadata(**(values | tuples))


def _fault_of_actions(fields: dict[str, Any]) -> str:
    """What is wrong with what a file says of continuous actions; ``""`` if nothing is."""
    for name in ("action_low", "action_high"):
        if name not in fields:
            return f"{name} is missing"
        if len(fields[name]) != fields["num_actions"]:
            return f"{name} has {len(fields[name])} numbers for {fields['num_actions']} components"
    if not all(low < high for low, high in zip(fields["action_low"], fields["action_high"], strict=True)):
        return "action_low is not below action_high"
    if fields["output"] == "means" and fields.get("log_std_bounds") is not None:
        return "log_std_bounds are of a Gaussian, and its output is 'means'"
    has_other_head = fields.get("support") or fields.get("head_sizes") or fields["network"] != "mlp"
    return "continuous actions are those of an mlp with a plain output layer" if has_other_head else ""


def _fault_of_version_4(fields: dict[str, Any]) -> str:
    # Before, whatever else an evaluation said was let through; a protocol misspelt would be lost.
    if fields["evaluation"] and (fault := fault_in_fields(fields["evaluation"], _EVALUATION, {"protocol": LABEL})):
        return f"evaluation{fault}"
    observations = fields.get("observations", {})
    if fault := fault_in_observations(observations, _FURTHER, _FURTHER_OPTIONAL):
        return fault
    shapes = {name: specification["shape"] for name, specification in observations.items()}
    shapes[MAIN] = fields["observation"]["shape"]
    how = HOW_APPLIED if fields["format_version"] >= _WIDTHS_VERSION else None
    return fault_in_normalisation(fields.get("normalisation", {}), shapes, how)
