"""``thresholds.json``: what `pd_jax.deploy.monitor` compares a policy's play with. NumPy alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pd_jax.deploy.calibration import Block, Blocks, Limits, Usual, are_enough, blocks_needed, fit_limits
from pd_jax.deploy.signals import Decisions, SignalModel, pack, unpack
from pd_jax.errors import UserError
from pd_jax.system.files import to_json, write_atomically
from pd_jax.system.text import printable

FORMAT = "pd_jax monitor"
FORMAT_VERSION = 1
SLACK = 0.5
CLIP = 6.0
_MODEL_SHARE = 0.25
_LEAST_BLOCKS = 50
_COLUMNS = ("mean", "deviation", "weight", "rest", "above", "below")


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What healthy play of one policy looks like, and how far from it is an alarm.

    Attributes:
      model: how decisions become signals.
      limits: of the signals, in the order of ``model.names``.
      block_size: decisions of a block.
      slack, clip: of the test, in deviations of blocks.
      false_alarms_per_million: decisions, as stated: of all signals together.
      policy: ``name``, ``game``, the SHA-256 of its ``parameters``, and ``quantisation`` of an exported file in 8-bit
        integers (None or missing in others).
      about: all else that the file says: ``protocol``, ``play``, ``decisions``, ``created``, ``versions``.
    """

    model: SignalModel
    limits: Limits
    block_size: int
    slack: float
    clip: float
    false_alarms_per_million: float
    policy: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def game(self) -> str:
        """The game's name."""
        return str(self.policy["game"])

    def check_policy(self, parameters: str, name: str, where: str) -> None:
        """Raises a UserError unless the policy with this SHA-256 of its parameters is the one they are for."""
        if parameters != self.policy["parameters"]:
            raise UserError(
                f"{where}: thresholds of another policy, {self.policy['name']}, and this is {name}; "
                "pd-jax monitor fit makes them"
            )

    def check_quantisation(self, quantisation: Any, where: str) -> str | None:
        """A warning where an integer file and its float policy, whose parameters are the same, are mixed up.

        Args:
          quantisation: of the policy that is watched: ``metadata["quantisation"]`` of an exported one, or None.
          where: what messages call these thresholds.
        """
        ours = self.policy.get("quantisation")
        if bool(ours) == bool(quantisation):
            return None
        kinds = ("the policy in floating point", "a file in 8-bit integers")
        return (
            f"{where}: thresholds of {kinds[bool(ours)]}, and this is {kinds[bool(quantisation)]}: "
            "fit them on the file that is at work (pd-jax monitor fit --policy FILE)"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, in one step."""
        write_atomically(Path(path), json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n")

    def to_json(self) -> dict[str, Any]:
        """What is in the file."""
        usual, limits = self.limits.usual, self.limits
        columns = (usual.means, usual.deviations, usual.weights, usual.rests, limits.above, limits.below)
        signals = {
            # Infinite is null: of signals that only explain others.
            name: dict(zip(_COLUMNS, (float(f"{column[index]:.9g}") for column in columns), strict=True))
            for index, name in enumerate(self.model.names)
        }
        entry = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "policy": dict(self.policy),
            **self.about,
            "false_alarms_per_million": self.false_alarms_per_million,
            "block_size": self.block_size,
            "blocks": self.limits.blocks,
            "slack": self.slack,
            "clip": self.clip,
            "signals": signals,
            "explained": pack(usual.explained),
            "model": self.model.to_json(),
        }
        return sealed(to_json(entry))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Thresholds:
        """Reads the file.

        Raises:
          UserError: there is none, it is not ours, altered, damaged, or of a newer pd_jax.
        """
        where = printable(os.fspath(path))
        if os.path.exists(path) and not os.path.isfile(path):
            raise UserError(f"{where}: is not a file")
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{where}: no thresholds of pd-jax monitor") from None
        except OSError as error:
            raise UserError(f"{where}: {error.strerror}") from None
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or entry.get("format") != FORMAT:
            raise UserError(f"{where}: no thresholds of pd-jax monitor, or damaged")
        version = entry.get("format_version")
        if type(version) is int and version > FORMAT_VERSION:
            raise UserError(f"{where}: format {version}, and this pd_jax reads {FORMAT_VERSION}: upgrade pd_jax")
        if "sha256" not in entry:
            raise UserError(
                f"{where}: has no sha256: was altered after pd-jax monitor fit wrote it, or is of an older pd_jax; "
                "make it anew"
            )
        if entry["sha256"] != sealed(entry)["sha256"]:
            raise UserError(f"{where}: was altered after pd-jax monitor fit wrote it; make it anew")
        try:
            return cls._from_json(entry)
        except KeyError as error:
            raise UserError(f"{where}: damaged: has no {printable(str(error.args[0]))}") from None
        except (ValueError, TypeError, AttributeError, IndexError, OverflowError):
            raise UserError(f"{where}: damaged: what it says is no thresholds") from None

    @classmethod
    def _from_json(cls, entry: Mapping[str, Any]) -> Thresholds:
        model = SignalModel.from_json(entry["model"])
        if set(model.names) != set(entry["signals"]):
            raise ValueError("signals of another model")
        rows = [entry["signals"][name] for name in model.names]
        columns = [np.array([np.inf if row[key] is None else float(row[key]) for row in rows]) for key in _COLUMNS]
        means, deviations, weights, rests, above, below = columns
        explained = unpack(entry["explained"])
        is_sound = np.isfinite([means, deviations, weights, rests]).all() and (deviations >= 0).all()
        is_sound &= (np.stack([weights, rests, above, below]) > 0).all()
        if not is_sound or explained.shape != (len(rows), len(rows)):
            raise ValueError("limits that are none")
        usual = Usual(means, deviations, weights, explained, rests)
        policy = {key: str(entry["policy"][key]) for key in ("name", "game", "parameters")}
        size, blocks = int(entry["block_size"]), int(entry["blocks"])
        if min(size, blocks) < 1:
            raise ValueError("no blocks")
        own = {
            "format",
            "format_version",
            "sha256",
            "policy",
            "block_size",
            "blocks",
            "slack",
            "clip",
            "signals",
            "explained",
            "model",
        }
        return cls(
            model,
            Limits(usual, above, below, blocks),
            size,
            float(entry["slack"]),
            float(entry["clip"]),
            float(entry["false_alarms_per_million"]),
            policy | {key: value for key, value in entry["policy"].items() if key not in policy},
            {key: value for key, value in entry.items() if key not in own | {"false_alarms_per_million"}},
        )


def sealed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of ``thresholds.json`` with the SHA-256 of all else in it: JSON without spaces, keys in order."""
    rest = {key: value for key, value in entry.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return {**rest, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def fit_thresholds(
    play: Decisions,
    *further: Decisions,
    action_names: Sequence[str],
    temperature: float,
    policy: Mapping[str, Any],
    about: Mapping[str, Any],
    block_size: int = 256,
    slack: float = SLACK,
    clip: float = CLIP,
    false_alarms_per_million: float = 1.0,
    seed: int = 0,
) -> Thresholds:
    """Thresholds from healthy play.

    A quarter of the play, of lanes of its own where there are several, says what features, frames and responses are
    like; the rest is what that model has not seen, as all that it will be shown, and says what is usual.

    Args:
      play: stretches ``[T, N, ...]``; the first step begins an episode.
      further: more of the same, to calibrate on.
      action_names: of the game.
      temperature: for the entropy of outputs.
      policy, about: as in `Thresholds`; the numbers of decisions are added.
      block_size: decisions of a block.
      slack, clip: of the test.
      false_alarms_per_million: decisions, of all signals together.
      seed: of the calibration.

    Raises:
      UserError: there is too little play, or some of it is not finite.
    """
    for stretch in (play, *further):
        for name, vectors in zip(stretch._fields, stretch, strict=True):
            if vectors is not None and not np.isfinite(vectors).all():
                raise UserError(f"{name} that are not finite, in the play that thresholds are made from")
    steps, lanes = play.outputs.shape[:2]
    decided = int(sum(stretch.is_decided.sum() for stretch in (play, *further)))
    if lanes > 1:
        split = _model_lanes(lanes)
        learnt, rest = play.lanes(slice(None, split)), play.lanes(slice(split, None))
    else:
        split = round(steps * _MODEL_SHARE)
        learnt, rest = (
            Decisions(*(None if each is None else each[part] for each in play))  # type: ignore[arg-type]
            for part in (slice(None, split), slice(split, None))
        )
    calibrating = [rest, *further]
    counts = np.concatenate([stretch.is_decided.sum(axis=0) for stretch in calibrating])
    if decided < _LEAST_BLOCKS * block_size or not are_enough((counts // block_size).tolist()):
        least = int(counts.min())
        # With so many the shortest lane has enough, as unequal as they are; very little play says nothing of that.
        scale = (blocks_needed(len(counts)) + 1) * block_size / least if least >= block_size else 0.0
        raise _too_little(decided, block_size, lanes, math.ceil(decided * scale))
    model = SignalModel.fit(learnt, action_names, temperature)
    blocks: list[Block] = []
    floors: list[np.ndarray] = []
    for stretch in calibrating:
        own, floor = measured_blocks(model, stretch, block_size)
        first = 1 + max((block.lane for block in blocks), default=-1)
        blocks += [block._replace(lane=block.lane + first) for block in own]
        floors.append(floor)
    calibrated = int(sum(stretch.is_decided.sum() for stretch in calibrating))
    episodes = int(sum((stretch.is_first & stretch.is_decided).sum() for stretch in calibrating))
    limits = fit_limits(
        blocks,
        block_size=block_size,
        episode_length=calibrated / max(1, episodes),
        floors=np.max(floors, axis=0),
        contexts=model.contexts,
        is_tested=~model.is_context,
        slack=slack,
        clip=clip,
        false_alarms_per_million=false_alarms_per_million,
        seed=seed,
    )
    about = {**about, "decisions": decided, "calibrated_on": calibrated, "episodes": episodes}
    return Thresholds(model, limits, block_size, slack, clip, false_alarms_per_million, policy, about)


def enough_decisions(block_size: int, lanes: int, *, spare: int = 1) -> int:
    """Decisions of so many lanes, all together, that are enough to make thresholds from.

    Args:
      block_size: decisions of a block.
      lanes: number of them.
      spare: blocks more for each lane: lanes decide in almost as many steps, but not in as many.
    """
    if lanes > 1:
        blocks = lanes * (blocks_needed(lanes - _model_lanes(lanes)) + spare)
    else:
        blocks = math.ceil((blocks_needed(1) + spare) / (1 - _MODEL_SHARE))
    return max(_LEAST_BLOCKS, blocks) * block_size


def check_enough(decisions: int, block_size: int, lanes: int, *, spare: int = 1) -> None:
    """Raises a UserError where there are not enough decisions to make thresholds from; as `enough_decisions`."""
    if decisions < enough_decisions(block_size, lanes, spare=spare):
        raise _too_little(decisions, block_size, lanes)


def _too_little(decisions: int, block_size: int, lanes: int, least: int = 0) -> UserError:
    enough = max(least, enough_decisions(block_size, lanes))
    return UserError(
        f"too little play: {decisions:,} decisions in {lanes} lane{'s' * (lanes != 1)}, and with blocks of "
        f"{block_size:,} {enough:,} are enough; give as many, or smaller blocks"
    )


def _model_lanes(lanes: int) -> int:
    return max(1, round(lanes * _MODEL_SHARE))


def measured_blocks(model: SignalModel, play: Decisions, block_size: int) -> tuple[list[Block], np.ndarray]:
    """The blocks of some play, and least deviations of a block: a signal that never moved is none of certainty."""
    adder, blocks, memory = Blocks(block_size), [], None
    sums = np.zeros((3, len(model.names)))
    is_binary = np.ones(len(model.names), bool)
    for step in range(len(play.outputs)):
        decisions = play.step(step)
        values, weights, memory = model.measure(decisions, memory)
        blocks += adder.add(values, weights, decisions.is_decided)
        counted = weights > 0
        sums += np.stack([counted, values * counted, values**2 * counted]).sum(axis=1)
        is_binary &= ((values == 0) | (values == 1) | ~counted).all(axis=0)
    total = np.maximum(sums[0], 1.0)
    means = sums[1] / total
    # Laplace's rule: what never happened in n decisions may happen in the next, once in n + 2.
    share = (sums[1] + 1) / (total + 2)
    variances = np.where(is_binary, share * (1 - share), np.maximum(sums[2] / total - means**2, 0.0))
    independent = np.sqrt(variances / block_size)
    return blocks, np.where(is_binary, independent, independent / 4) + 1e-9 * (1 + np.abs(means))
