"""The settings of the algorithms that train a teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from pd_jax.config.fields import Choice
from pd_jax.config.sections import Count, Lanes, Positive, Probability, Weight


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
    optimizer: Annotated[Literal["radam", "muon"], Choice("an optimizer")] = "radam"
    """RAdam, as its authors have it, or Muon, which leaves vectors and wide matrices to Adam at a tenth of the rate."""
    learning_rate: Positive = 2.5e-4
    """Of the optimizer; Muon wants ten times as much."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Proximal policy optimisation of a Gaussian policy, for tasks with continuous actions.

    The defaults are for MuJoCo's tasks on a few cores: small steps, many updates, little noise.
    """

    total_steps: Count = 1_000_000
    """Control steps in all lanes together, rounded up to whole rollouts."""
    num_lanes: Lanes = 32
    """Environments that play side by side."""
    rollout_length: Count = 64
    """Steps per lane between updates."""
    epochs: Count = 10
    """Passes over each rollout."""
    minibatches: Count = 16
    """Parts a rollout is split into; they must divide num_lanes x rollout_length."""
    gamma: Probability = 0.98
    """Discount per control step."""
    gae_lambda: Probability = 0.92
    """The lambda of generalised advantage estimates: 0 looks one step ahead, 1 to the end."""
    learning_rate: Positive = 1e-4
    """Of Adam."""
    learning_rate_decay: bool = True
    """Let the learning rate fall linearly to 0."""
    max_grad_norm: Positive = 0.5
    """Gradients with a larger global norm are scaled down to it."""
    clip: Positive = 0.1
    """How far the ratio of densities may leave 1 and still count."""
    clip_values: bool = True
    """Hold the critic's outputs within clip of what they were, too."""
    entropy_weight: Weight = 0.0
    """Of the policy's entropy in the loss."""
    value_weight: Weight = 0.5
    """Of the critic's error in the loss."""
    initial_std: Positive = 0.3
    """Standard deviation of the noise on every action at the start, in the units of the actions."""
    normalise_advantages: bool = True
    """Standardise the advantages of every minibatch."""
    normalise_observations: bool = True
    """Normalise observations by running statistics, which are frozen into the teacher file."""
    observation_clip: Positive | None = 10.0
    """Normalised observations are held within so many standard deviations; None leaves them."""
    normalise_rewards: bool = True
    """Divide rewards by the running standard deviation of the discounted return. Scores are of the rewards as they
    are."""
    activation: Annotated[Literal["tanh", "relu", "elu"], Choice("an activation")] = "relu"
    """Of the hidden layers of policy and critic."""

    @property
    def steps_per_rollout(self) -> int:
        """Control steps of one rollout in all lanes together."""
        return self.num_lanes * self.rollout_length

    @property
    def updates_per_rollout(self) -> int:
        """Minibatch updates after each rollout."""
        return self.epochs * self.minibatches

    @property
    def episodic_life(self) -> bool:
        """No task with continuous actions has lives."""
        return False


def pqn_conflicts(pqn: PQNConfig) -> Iterator[tuple[str, str]]:
    """Yields what is impossible together in PQN's settings."""
    if pqn.steps_per_rollout % pqn.minibatches:
        yield (
            "pqn.minibatches",
            f"{pqn.minibatches} do not divide a rollout of {pqn.steps_per_rollout} steps "
            f"(pqn.num_lanes {pqn.num_lanes} x pqn.rollout_length {pqn.rollout_length})",
        )


def ppo_conflicts(ppo: PPOConfig) -> Iterator[tuple[str, str]]:
    """Yields what is impossible together in PPO's settings."""
    if ppo.steps_per_rollout % ppo.minibatches:
        yield (
            "ppo.minibatches",
            f"{ppo.minibatches} do not divide a rollout of {ppo.steps_per_rollout} steps "
            f"(ppo.num_lanes {ppo.num_lanes} x ppo.rollout_length {ppo.rollout_length})",
        )


def dqn_conflicts(dqn: DQNConfig, num_games: int = 1) -> Iterator[tuple[str, str]]:
    """Yields what is impossible together in DQN's settings, for so many games."""
    steps = num_games * dqn.steps_per_rollout
    if steps % dqn.steps_per_update:
        games = f" x {num_games} games" if num_games > 1 else ""
        yield (
            "dqn.steps_per_update",
            f"{dqn.steps_per_update} does not divide a rollout of {steps} steps "
            f"(dqn.num_lanes {dqn.num_lanes} x dqn.rollout_length {dqn.rollout_length}{games})",
        )
    # Of 6 slots the 3 oldest may lack a part of their stack and the newest what follows it; of two neighbours among the
    # others at most one is a terminal observation.
    least = max(dqn.rollout_length, 6)
    if dqn.capacity_per_lane < least:
        yield (
            "dqn.replay_capacity",
            f"{dqn.replay_capacity} leaves {dqn.capacity_per_lane} steps to each of {dqn.num_lanes} lanes; "
            f"it takes {least}",
        )
    kept = dqn.capacity_per_lane * dqn.num_lanes
    if dqn.learning_starts > kept:
        yield "dqn.learning_starts", f"{dqn.learning_starts} is more than the replay holds ({kept})"
