"""The settings of ``pd-jax train-teacher``, and what is impossible in them together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from pd_jax.config.algorithms import (
    DQNConfig,
    PPOConfig,
    PQNConfig,
    dqn_conflicts,
    ppo_conflicts,
    pqn_conflicts,
)
from pd_jax.config.base import TrackedConfig
from pd_jax.config.fields import Choice
from pd_jax.config.games import MLPS, game_conflicts
from pd_jax.config.guidance import GuidanceConfig, guidance_conflicts, idle_guidance
from pd_jax.config.idle import ATARI_KEYS, Idle, idle_atari, idle_optimizer, idle_progress
from pd_jax.config.own_networks import own_networks
from pd_jax.config.protocols import ProtocolSettings, idle_backend, protocol_conflicts
from pd_jax.config.sections import (
    EmulatorConfig,
    EvaluationConfig,
    PartsConfig,
    PathText,
    StudentNetwork,
    TeacherCheckpointConfig,
    TeacherEvaluationConfig,
    Width,
    WidthOrZero,
    Words,
)
from pd_jax.environments.tasks import get_task


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTeacherConfig(ProtocolSettings, TrackedConfig):
    """Train a teacher."""

    game: Words
    """Name or EnvPool id of the game; or of several, which one network learns at once, with a head for each."""
    out: PathText
    """Directory of the run."""
    resume: bool = False
    """Go on with the run that is in the directory."""
    init_from: PathText | None = None
    """Name or file of a teacher whose weights to start from, of the same games, or a distill run; None starts from
    scratch. A student that gives logits needs guidance.teacher."""
    algorithm: Annotated[Literal["pqn", "dqn", "ppo"], Choice("an algorithm")] = "pqn"
    """Parallelised Q-learning, or deep Q-learning with a replay and a target network; or proximal policy optimisation,
    for tasks with continuous actions."""
    network: StudentNetwork = "dqn"
    """The paper's networks by name, or mlp for vector observations and mlp_bits for a console's memory; multi3 and
    multi10 are for several games."""
    mlp_hidden: tuple[Width, ...] = (128, 128)
    """Units of mlp's hidden layers."""
    channels: tuple[Width, ...] | None = None
    """Of the three convolutions, in networks of several games; None is what the network's name stands for."""
    hidden: Width | None = None
    """Units of the dense layer after the convolutions, in networks of several games; None is what the network's name
    stands for."""
    head_hidden: WidthOrZero | None = None
    """Units of the hidden layer of each game's head; None is 128, 0 leaves it out. A single game's head has none."""
    layer_norm: bool | None = None
    """Normalise each hidden layer; None does so for pqn, which has no target network and relies on it, but goes on as
    init_from is under guidance.teacher."""
    pqn: PQNConfig = dataclasses.field(default_factory=PQNConfig)
    dqn: DQNConfig = dataclasses.field(default_factory=DQNConfig)
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)
    guidance: GuidanceConfig = dataclasses.field(default_factory=GuidanceConfig)
    parts: PartsConfig = dataclasses.field(default_factory=PartsConfig)
    env: EmulatorConfig = dataclasses.field(default_factory=EmulatorConfig)
    evaluation: TeacherEvaluationConfig = dataclasses.field(default_factory=TeacherEvaluationConfig)
    checkpoint: TeacherCheckpointConfig = dataclasses.field(default_factory=TeacherCheckpointConfig)

    @property
    def learning(self) -> PQNConfig | DQNConfig | PPOConfig:
        """The settings of the algorithm in use."""
        if self.algorithm == "ppo":
            return self.ppo
        return self.pqn if self.algorithm == "pqn" else self.dqn

    @property
    def other_algorithms(self) -> tuple[str, ...]:
        """Those whose settings do not matter."""
        return tuple(name for name in ("pqn", "dqn", "ppo") if name != self.algorithm)

    @property
    def uses_layer_norm(self) -> bool:
        """``layer_norm``, or what the algorithm wants."""
        return self.algorithm == "pqn" if self.layer_norm is None else self.layer_norm

    @property
    def num_games(self) -> int:
        """Games that the network learns."""
        return len(self.game)

    @property
    def steps_per_iteration(self) -> int:
        """Control steps of one rollout in all lanes of all games together."""
        return self.num_games * self.learning.steps_per_rollout

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from self.tracking_conflicts()
        name, learning = self.algorithm, self.learning
        if self.steps_per_iteration >= 2**31:
            lanes = f"{name}.num_lanes {learning.num_lanes}"
            yield f"{name}.rollout_length", f"{learning.rollout_length} x {lanes} is more than 2^31 steps"
            return
        if name == "ppo":
            yield from ppo_conflicts(self.ppo)
            yield from self._policy_conflicts()
        else:
            yield from pqn_conflicts(self.pqn) if name == "pqn" else dqn_conflicts(self.dqn, self.num_games)
        if not isinstance(learning, PPOConfig) and learning.epsilon_end > learning.epsilon_start:
            yield (
                f"{name}.epsilon_end",
                f"{learning.epsilon_end} is more than {name}.epsilon_start ({learning.epsilon_start})",
            )
        yield from guidance_conflicts(self.guidance, name, self.num_games)
        yield from unsure_scores(self.evaluation)
        yield from learnt_games_conflicts(self)
        yield from protocol_conflicts(self)

    def _policy_conflicts(self) -> Iterator[tuple[str, str]]:
        """Yields what does not go with PPO, which trains one policy from scratch."""
        if self.num_games > 1:
            yield "algorithm", "ppo trains one task at a time; pqn and dqn train several games"
        if self.init_from is not None:
            yield "init_from", "ppo begins from scratch: a teacher file has no critic"
        if self.network in own_networks():
            yield "network", f"ppo trains an mlp, and {self.network!r} is one of your own; pqn and dqn train these"
        if self.layer_norm:
            yield "layer_norm", "is for pqn and dqn; ppo normalises what the policy sees"

    def idle(self) -> Iterator[Idle]:
        yield from super().idle()
        for other in self.other_algorithms:
            yield Idle(other, "algorithm", f"is a setting of {other}, and algorithm is {self.algorithm!r}")
        # One of the user's own may take it.
        if self.network not in (*MLPS, *own_networks()):
            yield Idle("mlp_hidden", "network", f"is a setting of mlp, and network is {self.network!r}")
        own = {"rmsprop": ("rmsprop_decay", "rmsprop_epsilon"), "adam": ("adam_epsilon",)}
        yield from idle_optimizer("dqn", self.dqn.optimizer, own)
        if not self.ppo.normalise_observations:
            why = "is of normalised observations, and ppo.normalise_observations is false"
            yield Idle("ppo.observation_clip", "ppo.normalise_observations", why)
        if self.num_games == 1:
            yield Idle("dqn.games", "game", "a network of one game has no schedule of games")
        yield from idle_guidance(self.guidance)
        yield from idle_progress(self.evaluation, "every_steps")
        yield from idle_atari(self.game, "game", (*ATARI_KEYS, "pqn.episodic_life", "dqn.episodic_life"))
        yield from idle_backend(self)


def unsure_scores(evaluation: EvaluationConfig) -> Iterator[tuple[str, str]]:
    """Yields the scores that could not stand in a teacher's file, for want of a standard error."""
    for key in ("episodes", "progress_episodes"):
        if getattr(evaluation, key) < 2:
            yield f"evaluation.{key}", "1 episode says nothing about how sure a score is; at least 2"


def learnt_games_conflicts(config: TrainTeacherConfig) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with the games that a network is to learn from rewards, or with the network for them."""
    problems = [problem for game in config.game for problem in game_conflicts(game, "network", config.network)]
    if not any(key == "game" for key, _ in problems):
        names = [get_task(game).name for game in config.game]
        kinds = {get_task(game).kind: get_task(game).name for game in config.game}
        if twice := next((name for name in names if names.count(name) > 1), None):
            problems = [("game", f"{twice} is there {names.count(twice)} times; a network has one head for a game")]
        elif len(kinds) > 1:
            what = f"{kinds['atari']} shows frames and {kinds['vector']} vectors"
            problems = [("game", f"{what}; the games of one network share what sees them")]
    yield from problems
    if not any(key == "game" for key, _ in problems):
        yield from _action_conflicts(config)
    if len(config.game) == 1:
        if config.network in ("multi3", "multi10"):
            choices = "dqn, net1, net2, net3, mlp"
            yield "network", f"{config.network!r} is a network for several games, and there is one ({choices})"
        for key in ("channels", "hidden", "head_hidden"):
            if getattr(config, key) is not None:
                yield key, "is for networks of several games, and there is one"


def _action_conflicts(config: TrainTeacherConfig) -> Iterator[tuple[str, str]]:
    """Yields the algorithm that cannot learn what the games let one do."""
    for task in map(get_task, config.game):
        if task.is_continuous and config.algorithm != "ppo":
            what = f"{config.algorithm} learns the values of single actions, and those of {task.name} are continuous"
            yield "algorithm", f"{what}; --algorithm ppo is for these"
        elif config.algorithm == "ppo" and not task.is_continuous:
            what = f"ppo is for continuous actions, and {task.name} has {task.num_actions} single ones"
            yield "algorithm", f"{what} (pqn, dqn)"
