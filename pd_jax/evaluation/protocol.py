"""The protocol of a score: how its games are played, worked out from settings and task in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any
from typing import Protocol as StructuralType

from pd_jax.config.sections import EmulatorConfig, EvaluationConfig
from pd_jax.environments.protocols import CUSTOM, protocol_name
from pd_jax.environments.tasks import Task
from pd_jax.system.values import count, number, section


class ScoredSettings(StructuralType):
    """Settings of a command that scores somebody."""

    @property
    def seed(self) -> int: ...
    @property
    def evaluation(self) -> EvaluationConfig: ...
    @property
    def env(self) -> EmulatorConfig: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """How games are played, whoever plays; None stands for what a report cannot know, or what a game does not have.

    Attributes:
      epsilon: chance of a random action.
      max_noops: the most no-ops at the start of a game.
      sticky_action_probability: chance that the action before is repeated.
      max_episode_steps: control steps after which a game is cut; None is the task's own limit too.
      fire_reset: whether FIRE opens a game that has it.
    """

    epsilon: float | None
    max_noops: int | None
    sticky_action_probability: float | None
    max_episode_steps: int | None
    fire_reset: bool = True

    def describe(self) -> str:
        """Such as ``ε = 0.05, up to 30 no-ops``."""
        if protocol_name(dataclasses.asdict(self)) == "modern":
            return f"ε = {self.epsilon:g}, modern (sticky actions, no no-ops)" if self.epsilon is not None else "modern"
        parts = ["unknown ε" if self.epsilon is None else f"ε = {self.epsilon:g}"]
        if self.max_noops is not None:
            parts.append(f"up to {self.max_noops:,} no-ops")
        if self.sticky_action_probability:
            parts.append(f"sticky actions ({self.sticky_action_probability:g})")
        if not self.fire_reset:
            parts.append("no FIRE at the start")
        if self.max_episode_steps is not None:
            parts.append(f"games cut after {self.max_episode_steps:,} steps")
        return ", ".join(parts)

    @classmethod
    def of_run(cls, config: Mapping[str, Any], summary: Mapping[str, Any], task: Task | None, where: str) -> Rules:
        """What a run's own files say of a game that it scored, with what its task makes no difference to left out.

        Args:
          config: its ``config.yaml``.
          summary: its ``summary.json``.
          task: the game; None for one that is not known here.
          where: what messages begin with.

        Raises:
          UserError: a value has another type.
        """
        evaluation, env = section(config, "evaluation", where), section(config, "env", where)
        told = {name: value for name, value in summary.items() if value is not None}
        values: dict[str, Any] = {
            "epsilon": told.get("evaluation_epsilon", told.get("epsilon", evaluation.get("epsilon"))),
            "max_noops": told.get("max_noops", env.get("max_noops")),
            "sticky_action_probability": env.get("sticky_action_probability"),
            "max_episode_steps": evaluation.get("max_episode_steps") or env.get("max_episode_steps"),
        }
        is_atari = task is None or task.is_console
        limit = count(values, "max_episode_steps", where)
        noops, sticky = count(values, "max_noops", where), number(values, "sticky_action_probability", where)
        return cls(
            epsilon=number(values, "epsilon", where),
            max_noops=noops if is_atari else None,
            sticky_action_probability=sticky if is_atari else None,
            max_episode_steps=None if task is not None and limit == task.max_episode_steps else limit,
            # Runs from before there was such a setting pressed it.
            fire_reset=not is_atari or env.get("fire_reset", True) is not False,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """All that a score depends on beside the policy and the task; who is compared has one in common.

    Attributes:
      episodes: whole games wanted; rounded up to the same number for every lane.
      num_lanes: games played side by side.
      epsilon: chance of a random action.
      seed: of the emulators and of the exploration; lane i has it plus i.
      max_episode_steps: control steps after which a game is cut.
      max_noops: the most no-ops at the start of a game.
      sticky_action_probability: chance that the action before is repeated.
      fire_reset: whether FIRE opens a game that has it.
      num_threads: of EnvPool, which changes no score and is no part of :meth:`to_json`.
      backend: EnvPool or ale-py, likewise.
    """

    episodes: int
    num_lanes: int
    epsilon: float
    seed: int
    max_episode_steps: int
    max_noops: int
    sticky_action_probability: float
    fire_reset: bool = True
    num_threads: int = dataclasses.field(default=0, compare=False)
    backend: str = dataclasses.field(default="envpool", compare=False)

    @classmethod
    def of(cls, config: ScoredSettings, task: Task, *, episodes: int | None = None, seed_offset: int = 0) -> Protocol:
        """The protocol that settings ask for.

        A game is cut where ``evaluation.max_episode_steps`` says; without it where the section ``env`` does, if it has
        such a setting; without that at the task's own limit.

        Args:
          config: of a command.
          task: the game.
          episodes: games wanted, instead of those that the settings want in the end.
          seed_offset: moves the starts on from those of other scores of the same run.
        """
        evaluation, env = config.evaluation, config.env
        limit: int | None = getattr(env, "max_episode_steps", None)
        return cls(
            episodes=evaluation.episodes if episodes is None else episodes,
            num_lanes=evaluation.num_lanes,
            epsilon=evaluation.epsilon,
            seed=config.seed + evaluation.seed_offset + seed_offset,
            max_episode_steps=evaluation.max_episode_steps or limit or task.max_episode_steps,
            max_noops=env.max_noops,
            sticky_action_probability=env.sticky_action_probability,
            fire_reset=env.fire_reset,
            num_threads=env.num_threads,
            backend=env.backend,
        )

    @property
    def name(self) -> str:
        """``classic``, ``modern`` or ``custom``, of Atari; how sure a score is, and ε, are no part of that."""
        return protocol_name(dataclasses.asdict(self)) or CUSTOM

    @property
    def environment_options(self) -> dict[str, Any]:
        """Keyword arguments of `pd_jax.environments.envpool.Environment`."""
        return {
            "max_noops": self.max_noops,
            "max_episode_steps": self.max_episode_steps,
            "sticky_action_probability": self.sticky_action_probability,
            "fire_reset": self.fire_reset,
            "num_threads": self.num_threads,
            "backend": self.backend,
        }

    def to_json(self) -> dict[str, Any]:
        """What a score is kept with; ``fire_reset`` only where there was none, as there always was one before."""
        left_out = {"num_threads", "backend"} | ({"fire_reset"} if self.fire_reset else set())
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Protocol:
        """What :meth:`to_json` made. Raises TypeError for other keys."""
        return cls(**entry)
