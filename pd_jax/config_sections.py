"""The settings of single concerns (environments, learner, schedule, ...), which commands share.

A field's type says which values are possible (`Bounds`); its docstring is its ``--help`` text.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pd_jax.config_fields import Bounds, Choice, MaxItems, OneOrMany, make_tuples

# Counters on devices are int32.
Count = Annotated[int, Bounds(1, 2**31 - 1)]
CountOrZero = Annotated[int, Bounds(0, 2**31 - 1)]
Lanes = Annotated[int, Bounds(1, 2**16)]
Width = Annotated[int, Bounds(1, 2**16)]
WidthOrZero = Annotated[int, Bounds(0, 2**16)]
Probability = Annotated[float, Bounds(0.0, 1.0)]
# Wide enough for any sane rate, scale or temperature, and neither 0 nor infinite as a float32.
Positive = Annotated[float, Bounds(1e-12, 1e6)]
Seconds = Annotated[float, Bounds(1e-3, 1e9)]
# EnvPool takes 32-bit seeds; this leaves room for adding the offset and the lane.
Seed = Annotated[int, Bounds(0, 2 * 10**9)]
SeedOffset = Annotated[int, Bounds(0, 10**8)]
Loss = Annotated[Literal["kl", "nll", "mse"], Choice("a loss")]
if TYPE_CHECKING:
    # What one may give from Python. There is always a tuple afterwards: make_tuples sees to it.
    Words = str | tuple[str, ...]
    PerGameLanes = int | tuple[int, ...]
    PerGamePositive = float | tuple[float, ...]
else:
    Words = Annotated[tuple[str, ...], OneOrMany()]
    PerGameLanes = Annotated[tuple[Lanes, ...], OneOrMany()]
    PerGamePositive = Annotated[tuple[Positive, ...], OneOrMany()]
RunDirectories = tyro.conf.Positional[Annotated[tuple[str, ...], MaxItems(4096), tyro.conf.arg(metavar="RUN...")]]
StudentNetwork = Annotated[
    Literal["dqn", "net1", "net2", "net3", "multi3", "multi10", "mlp"],
    Choice("a network"),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmulatorConfig:
    """How environments run."""

    num_threads: Annotated[int, Bounds(0, 1024)] = 0
    """EnvPool's threads; 0 leaves the choice to EnvPool (one per core)."""
    sticky_action_probability: Probability = 0.0
    """Chance that a frame repeats the previous action (Atari only)."""
    # EnvPool 1.2.5 crashes on 0.
    max_noops: Annotated[int, Bounds(1, 1000)] = 30
    """An episode starts with up to this many no-ops (Atari only)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneGameEnvConfig(EmulatorConfig):
    """How environments run, and how many."""

    num_lanes: Lanes = 32
    """Environments that play side by side, on all devices together."""
    stepping: Annotated[Literal["jit", "host"], Choice("a way of stepping")] = "jit"
    """Step EnvPool inside the jitted rollout, or from the host. Trajectories are the same."""
    max_episode_steps: Count | None = None
    """Control steps after which an episode is cut; None is the task's own limit (Atari: 27,000, 30 minutes of play)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvConfig(OneGameEnvConfig):
    """How environments run, and how many."""

    lanes: PerGameLanes | None = None
    """Environments of each game, in the games' order; None is num_lanes of every game."""

    def __post_init__(self) -> None:
        make_tuples(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """The network that learns."""

    network: StudentNetwork = "net2"
    """The paper's networks by name, or mlp for vector observations."""
    mlp_hidden: tuple[Width, ...] = (128, 128)
    """Units of mlp's hidden layers."""
    channels: tuple[Width, ...] | None = None
    """Of the three convolutions, whatever the network's name stands for; None is what it stands for."""
    hidden: Width | None = None
    """Units of the dense layer after the convolutions; None is what the network's name stands for."""
    head_hidden: WidthOrZero = 128
    """Units of the hidden layer of each game's head (several games, multi3 and multi10); 0 leaves it out."""
    compute_dtype: Annotated[Literal["float32", "bfloat16"], Choice("a compute type")] = "float32"
    """Type of the activations; parameters and losses are float32 always."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BehaviourConfig:
    """Whose actions are played in live play, and so whose states are learnt from; the teacher labels them all."""

    policy: Annotated[Literal["teacher", "student", "mixture"], Choice("a behaviour")] = "teacher"
    """Teacher is the paper's; student is DAgger's (Ross et al. 2011); a mixture decides at every step of every lane."""
    student_share_start: Probability = 0.0
    """Chance that the student acts, in the first round (mixture only)."""
    student_share_end: Probability = 1.0
    """Chance that the student acts, once it has changed (mixture only)."""
    student_share_change_fraction: Probability = 0.5
    """Share of the rounds over which it changes, linearly (mixture only)."""

    @property
    def student_acts(self) -> bool:
        """Whether any action may be the student's."""
        return self.policy != "teacher"

    @property
    def student_share_changes(self) -> bool:
        """Whether the student's share depends on the round, and on how many there are to be."""
        return self.policy == "mixture" and self.student_share_start != self.student_share_end

    def student_share(self, finished_rounds: int, rounds: int) -> float:
        """Chance that an action is the student's in the round after ``finished_rounds`` of ``rounds``.

        It is 1 - β of DAgger (Ross, Gordon and Bagnell 2011, algorithm 3.1), whose policy in round i is the mixture
        ``β_i expert + (1 - β_i) student``.
        """
        if self.policy != "mixture":
            return float(self.student_acts)
        changing = self.student_share_change_fraction * rounds
        if finished_rounds >= changing:
            return self.student_share_end
        changed = finished_rounds / changing
        return (1 - changed) * self.student_share_start + changed * self.student_share_end


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the student is asked to match."""

    kind: Loss = "kl"
    """KL from the sharpened teacher, NLL of its best action, or MSE on its Q-values."""
    temperature: PerGamePositive | None = None
    """The teacher's outputs are divided by it (kl only): one number for all games, or one for each in their order; None
    is 0.01 for Q-values and 1.0 for logits."""

    def __post_init__(self) -> None:
        make_tuples(self)

    def temperature_for(self, game: int = 0, *, teacher_gives_logits: bool) -> float:
        """The temperature of a game; Q-values are flat and need sharpening (Rusu et al. 2016), logits do not."""
        if self.temperature is not None:
            assert isinstance(self.temperature, tuple)
            return self.temperature[game if len(self.temperature) > 1 else 0]
        return 1.0 if teacher_gives_logits else 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """The student's updates."""

    batch_size: Count = 32
    """Samples in a minibatch, on all devices together."""
    optimizer: Annotated[Literal["rmsprop", "adam"], Choice("an optimizer")] = "rmsprop"
    """RMSProp is the paper's."""
    learning_rate: Positive = 2.5e-4
    """The paper's is between 1e-4 and 1e-3."""
    learning_rate_decay: bool = False
    """Let the learning rate fall linearly to 0 over all updates of the schedule."""
    rmsprop_decay: Probability = 0.95
    """Share of the old mean of squared gradients that is kept at each update."""
    rmsprop_epsilon: Positive = 1e-6
    """Added under the root to the mean of squared gradients: gradients well below 1e-3 move a weight less."""
    max_grad_norm: Positive | None = None
    """Gradients with a larger global norm are scaled down to it; None leaves them."""
    games: Annotated[Literal["together", "alternating"], Choice("a schedule of games")] = "together"
    """Whether every update sees a minibatch of every game, or of one game after another, as the paper has it."""
    updates_per_call: Count = 50
    """Updates in one jitted call."""
    num_devices: Lanes | None = None
    """Devices to share lanes and minibatches; None is all there are."""

    def learning_rate_after(self, updates: int, total_updates: int) -> float:
        """The learning rate of the next update, as `pd_jax.learner` has it, without asking a device that is busy."""
        fallen = updates / total_updates if self.learning_rate_decay else 0.0
        return self.learning_rate * max(0.0, 1.0 - fallen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """The store of played steps."""

    capacity: Count = 540_000
    """Control steps kept of each game, in all lanes together (540,000: 10 hours at 15 Hz, 3.8 GB of frames)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Rounds of play, each followed by updates."""

    rounds: Count = 10
    """Times that play and updates take turns."""
    steps_per_round: Count = 54_000
    """Control steps of each game in a round, in all lanes together, rounded up to whole rollouts (lanes x rollout
    length)."""
    updates_per_round: Count = 10_000
    """Minibatch updates after the play of a round."""
    rollout_length: Count = 32
    """Steps per lane in one jitted rollout."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The protocol of a score."""

    episodes: Count = 30
    """Whole episodes whose mean return is the score; rounded up to the same number for every lane."""
    num_lanes: Lanes = 10
    """Environments that play these side by side."""
    epsilon: Probability = 0.05
    """Chance of a random action."""
    seed_offset: SeedOffset = 1_000_000
    """Added to the run's seed, so that evaluation does not replay training's episodes."""
    max_episode_steps: Count | None = None
    """Control steps after which an episode is cut; None is the task's own limit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentEvaluationConfig(EvaluationConfig):
    """The protocol of a score, and when to take one on the way."""

    every_rounds: CountOrZero = 0
    """Rounds between evaluations on the way; 0 evaluates at the end only."""
    progress_episodes: Count = 10
    """Episodes of an evaluation on the way."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherEvaluationConfig(EvaluationConfig):
    """The protocol of a score, and when to take one on the way."""

    every_steps: CountOrZero = 1_000_000
    """Control steps between evaluations on the way; 0 evaluates at the end only."""
    progress_episodes: Count = 10
    """Episodes of an evaluation on the way."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the student is saved."""

    every_updates: Count = 10_000
    """Updates between checkpoints: the most that a crash can cost."""
    every_seconds: Seconds | None = None
    """Save as well once the last checkpoint is this old; None goes by the updates alone."""
    keep: Count = 3
    """Newest checkpoints kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillCheckpointConfig(CheckpointConfig):
    """When the student is saved, what with it, and what becomes of one that diverges."""

    replay: bool = False
    """Save the replay of live play too, so that a run that is resumed need not play it anew."""
    on_divergence: Annotated[Literal["stop", "roll_back"], Choice("an answer to divergence")] = "stop"
    """When the loss or a weight is NaN or infinite: end the run, or go on from the newest checkpoint with other
    samples. The bad state is kept in diverged/ either way."""
    max_roll_backs: Count = 3
    """Times a run is rolled back before it ends after all (roll_back only)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherCheckpointConfig:
    """When the teacher in training is saved."""

    every_steps: Count = 1_000_000
    """Control steps between checkpoints: the most that a crash can cost."""
    every_seconds: Seconds | None = None
    """Save as well once the last checkpoint is this old; None goes by the steps alone."""
    keep: Count = 3
    """Newest checkpoints kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QLearningConfig:
    """What every algorithm that trains a teacher takes."""

    total_steps: Count = 10_000_000
    """Control steps in all lanes of all games together, rounded up to whole rollouts."""
    num_lanes: Lanes = 128
    """Environments of each game that play side by side."""
    rollout_length: Count = 32
    """Steps per lane between updates."""
    gamma: Probability = 0.99
    """Discount per control step."""
    learning_rate: Positive = 2.5e-4
    """Of the optimizer."""
    epsilon_start: Probability = 1.0
    """Chance of a random action at the start."""
    epsilon_end: Probability = 0.001
    """Chance of a random action once it has decayed."""
    epsilon_decay_fraction: Probability = 0.1
    """Share of the training in which it decays."""
    clip_rewards: bool = True
    """Learn from the sign of rewards."""
    episodic_life: bool = True
    """Let the loss of a life end an episode in training (Atari only)."""

    @property
    def steps_per_rollout(self) -> int:
        """Control steps of one rollout in all lanes together."""
        return self.num_lanes * self.rollout_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class PQNConfig(QLearningConfig):
    """Parallelised Q-learning: Q(lambda) on vectorised environments, without replay or target network.

    The defaults are its authors' for Atari (Gallici et al. 2024).
    """

    epochs: Count = 2
    """Passes over each rollout."""
    minibatches: Count = 32
    """Parts a rollout is split into, each with equally many steps of every game; they must divide num_lanes x
    rollout_length."""
    td_lambda: Probability = 0.65
    """The lambda of Q(lambda): 0 is one-step Q-learning, 1 the whole return."""
    learning_rate: Positive = 2.5e-4
    """Of the RAdam optimizer."""
    learning_rate_decay: bool = True
    """Let the learning rate fall linearly to 0."""
    max_grad_norm: Positive = 10.0
    """Gradients with a larger global norm are scaled down to it."""

    @property
    def updates_per_rollout(self) -> int:
        """Minibatch updates after each rollout."""
        return self.epochs * self.minibatches


@dataclasses.dataclass(frozen=True, kw_only=True)
class DQNConfig(QLearningConfig):
    """Deep Q-learning from a replay, with a target network.

    The defaults are those of Mnih et al. (2015), in control steps and updates, but for the lanes: there was one.
    """

    total_steps: Count = 50_000_000
    """Control steps in all lanes of all games together, rounded up to whole rollouts."""
    num_lanes: Lanes = 32
    """Environments of each game that play side by side."""
    rollout_length: Count = 8
    """Steps per lane between updates: the policy that plays is that much older than in strict alternation."""
    steps_per_update: Count = 4
    """Control steps in all lanes of all games together for each update; must divide num_lanes x rollout_length x
    games."""
    games: Annotated[Literal["together", "alternating"], Choice("a schedule of games")] = "together"
    """Of several games: whether every update sees a minibatch of each, or of one game after another, as the paper has
    it."""
    batch_size: Count = 32
    """Transitions in a minibatch; with all games together, of each game."""
    replay_capacity: Count = 1_000_000
    """Control steps kept of each game, in all its lanes together (7.1 GB of Atari)."""
    learning_starts: Count = 50_000
    """Control steps of each game the replay must hold before updates begin, or go on in a run that is resumed."""
    target_every: Count = 10_000
    """Updates between copies of the network into the target network."""
    double: bool = False
    """Double Q-learning: the network chooses what the target network values (van Hasselt et al. 2016). The teachers of
    the policy distillation paper were without."""
    optimizer: Annotated[Literal["rmsprop", "adam"], Choice("an optimizer")] = "rmsprop"
    """RMSProp, centred by the mean gradient as in the paper, or Adam."""
    learning_rate_decay: bool = False
    """Let the learning rate fall linearly to 0 over the updates of the training."""
    rmsprop_decay: Probability = 0.95
    """Share of the old means of gradients and squared gradients that is kept at each update."""
    rmsprop_epsilon: Positive = 0.01 / 32**2
    """Added under the root to the gradients' variance. The paper's is 0.01 for gradients summed over 32 samples; here
    they are averaged."""
    adam_epsilon: Positive = 1.5e-4
    """Added to the root of the mean of squared gradients (1.5e-4: Hessel et al. 2018)."""
    max_grad_norm: Positive | None = None
    """Gradients with a larger global norm are scaled down to it; None leaves them to the Huber loss."""
    epsilon_end: Probability = 0.1
    """Chance of a random action once it has decayed."""
    epsilon_decay_fraction: Probability = 0.02
    """Share of the training in which it decays (1 of 50 million steps)."""

    @property
    def updates_per_rollout(self) -> int:
        """Minibatch updates after each rollout, once there are enough steps in the replay."""
        return self.steps_per_rollout // self.steps_per_update

    @property
    def capacity_per_lane(self) -> int:
        """Steps of each lane that the replay keeps."""
        return self.replay_capacity // self.num_lanes
