"""PQN with a teacher beside it: rewards and a teacher's outputs in one loss, in shares that change with the training.

Kickstarting (Schmitt et al. 2018, arXiv 1803.03835) adds a distillation loss that fades to that of reinforcement
learning; QDagger (Agarwal et al. 2022, arXiv 2206.01626) has it fade as the student's returns come up to the teacher's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array, lax

from pd_jax.actors import rollout
from pd_jax.config.algorithms import PQNConfig
from pd_jax.config.guidance import GuidanceConfig
from pd_jax.environments.envpool import Environment
from pd_jax.learner.objective import Objective, make_objective
from pd_jax.networks.student import Student
from pd_jax.teachers import Teacher
from pd_jax.trainers import pqn
from pd_jax.trainers.algorithm import Iteration, Unrolled, epsilon_at, game_metrics
from pd_jax.trainers.pqn import PQNState, Samples
from pd_jax.types import PolicyApply

LAST_RETURNS = 32
"""Games that ended last, whose mean return is the learner's."""
_LEAST_RETURNS = 10
"""Until so many have ended, the learner's return is what it was at the start."""
_MEASURED = 256
"""Steps of each rollout in which learner and teacher are compared."""


@flax.struct.dataclass
class GuidedState:
    """What training goes on from, besides the lanes.

    Attributes:
      pqn: the learner's.
      temperature: float32 scalar, what the teacher's outputs are divided by.
      learner_temperature: float32 scalar, what the learner's Q-values are divided by to be logits of its policy.
      teacher_return: float32 scalar, the teacher's score.
      start_return: float32 scalar, the learner's score at the start, or that of random play.
      returns: float32 ``[LAST_RETURNS]``, of the games that ended last, the newest at the end.
      num_returns: int32 scalar, how many of these there are.
    """

    pqn: PQNState
    temperature: Array
    learner_temperature: Array
    teacher_return: Array
    start_return: Array
    returns: Array
    num_returns: Array

    @property
    def variables(self) -> Any:
        """The network's."""
        return self.pqn.variables

    @property
    def env_steps(self) -> Array:
        """Control steps taken in all lanes together."""
        return self.pqn.env_steps


@flax.struct.dataclass
class GuidedSamples:
    """What is regressed on what, and what the teacher says there: float32 ``[..., B, A]``."""

    samples: Samples
    teacher_q: Array


def piecewise_linear(points: Sequence[tuple[float, float]], progress: Array) -> Array:
    """The value of a schedule, float32, on the lines between its points and beyond the ends at these.

    Args:
      points: ``(progress, value)``, the progress rising.
      progress: of the training, 0 to 1.
    """
    places, values = zip(*points, strict=True)
    return jnp.interp(progress, jnp.array(places, jnp.float32), jnp.array(values, jnp.float32))


def return_ratio(student: Array, teacher: Array, random: float) -> Array:
    """The learner's share of its teacher's return above random play, in [0, 1].

    QDagger's ratio is that of the returns themselves, which says nothing where they are negative, as in Pong.

    Args:
      student, teacher: mean returns.
      random: that of random play; 0 gives QDagger's.
    """
    return jnp.clip((student - random) / (teacher - random), 0.0, 1.0)


def last_returns(returns: Array, count: Array, finished: rollout.FinishedEpisodes) -> tuple[Array, Array]:
    """The returns of the games that ended last, the newest at the end, and how many there are.

    Args:
      returns: float32 ``[K]``, those so far; what is not there yet is at the front.
      count: int32 scalar, how many of them there are.
      finished: games that have ended since.
    """
    kept = len(returns)
    is_there = jnp.arange(kept) >= kept - count
    ended = jnp.concatenate([is_there, finished.mask.reshape(-1)])
    values = jnp.concatenate([returns, finished.returns.reshape(-1)])
    # Stable: what is there stays in its order, behind what is not.
    order = jnp.argsort(ended, stable=True)[-kept:]
    num = jnp.minimum(ended.sum(), kept).astype(jnp.int32)
    return jnp.where(jnp.arange(kept) >= kept - num, values[order], 0.0), num


@dataclasses.dataclass(frozen=True, eq=False)
class GuidedPQN:
    """PQN as `pd_jax.trainers.algorithm.Algorithm` has it, with a teacher beside it.

    Args:
      teacher: that guides.
      config: how.
      student: the learner's network, with its game.
    """

    teacher: Teacher
    config: GuidanceConfig
    student: Student

    @property
    def random_return(self) -> float:
        """The score of random play; 0 where it is not known."""
        return self.student.tasks[0].random_score or 0.0

    @property
    def default_temperature(self) -> float:
        """What the teacher's outputs are divided by, where it is not found from the play."""
        return self.config.loss.temperature_for(teacher_gives_logits=self.teacher.gives_logits)

    @property
    def default_learner_temperature(self) -> float:
        """What the learner's Q-values are divided by, where no student's policy says so."""
        if self.config.learner_temperature is not None:
            return self.config.learner_temperature
        return 0.01 if self.teacher.gives_logits else self.default_temperature

    def init(self, network: Any, observations: Array, config: PQNConfig, key: Array) -> GuidedState:
        """A fresh state; what the start of a run finds out is still to be filled in."""
        return GuidedState(
            pqn=pqn.init(network, observations, config, key),
            temperature=jnp.float32(self.default_temperature),
            learner_temperature=jnp.float32(self.default_learner_temperature),
            teacher_return=jnp.float32(self.random_return),
            start_return=jnp.float32(self.random_return),
            returns=jnp.zeros(LAST_RETURNS, jnp.float32),
            num_returns=jnp.int32(0),
        )

    def warm_start(self, state: GuidedState, variables: Any) -> GuidedState:
        """A fresh state with another network's weights."""
        return dataclasses.replace(state, pqn=pqn.warm_start(state.pqn, variables))

    def start(self, environment: Environment, config: PQNConfig, key: Array) -> rollout.LaneState:
        """Resets every lane."""
        return pqn.start(environment, config, key)

    def updates_done(self, state: GuidedState, config: PQNConfig, num_games: int = 1) -> int:
        """Updates behind a state."""
        return pqn.updates_done(state.pqn, config, num_games)

    def resume_note(self, config: PQNConfig) -> str:
        """What a run that is resumed begins afresh."""
        return pqn.resume_note(config)

    def make_iteration(self, network: Any, environment: Environment, config: PQNConfig) -> Iteration:
        """Builds one iteration, as `pd_jax.trainers.pqn.make_iteration` does.

        Its metrics have the coefficients beside ``loss``, which is that of Q-learning alone: ``reward_weight``,
        ``distillation_weight`` (after fading), ``teacher_share``, ``return_ratio``; ``distillation_loss`` and
        ``agreement`` after the updates, over some steps of the rollout; and ``teacher_is_sound``, False where the
        teacher's outputs were NaN or infinite.
        """
        acts = self.config.teacher_acts
        unroll = pqn.make_play(network.apply, environment, config, self.teacher.apply if acts else None)

        def coefficients(state: GuidedState) -> dict[str, Array]:
            return self.coefficients(state, config) | {"epsilon": epsilon_at(state.env_steps, config)}

        def finish(
            state: GuidedState, unrolled: Unrolled, values: dict[str, Array], teacher_variables: Any
        ) -> tuple[GuidedState, rollout.LaneState, dict[str, Array]]:
            after, records, finished = unrolled
            transitions = pqn.transitions_of(network, state.variables, after, records, config)
            learnt, metrics = self._learn(network.apply, state, transitions, values, teacher_variables, config)
            returns, num_returns = last_returns(state.returns, state.num_returns, finished)
            state = dataclasses.replace(state, pqn=learnt, returns=returns, num_returns=num_returns)
            return state, after, game_metrics(finished) | values | metrics

        def iteration(
            state: GuidedState, lanes: rollout.LaneState, teacher_variables: Any
        ) -> tuple[GuidedState, rollout.LaneState, dict[str, Array]]:
            values = coefficients(state)
            acting = rollout.ActingStudent(teacher_variables, values["teacher_share"]) if acts else None
            unrolled = unroll(state.variables, lanes, values["epsilon"], acting)
            return finish(state, unrolled, values, teacher_variables)

        whole = iteration
        if environment.stepping == "jit":
            whole = jax.jit(iteration, donate_argnums=(0, 1))
        else:
            coefficients, finish = jax.jit(coefficients), jax.jit(finish, donate_argnums=(0, 1))
        return lambda state, lanes: whole(state, lanes, self.teacher.variables)

    def coefficients(self, state: GuidedState, config: PQNConfig) -> dict[str, Array]:
        """What rewards, distillation and the teacher's play count in the next iteration, and the return ratio."""
        progress = jnp.minimum(state.env_steps / config.total_steps, 1.0)
        weight = piecewise_linear(self.config.points("distillation_weight"), progress)
        mean = state.returns.sum() / jnp.maximum(state.num_returns, 1)
        own = jnp.where(state.num_returns >= _LEAST_RETURNS, mean, state.start_return)
        ratio = return_ratio(own, state.teacher_return, self.random_return)
        # A teacher that is no better than random play has nothing that one could come up to.
        ratio = jnp.where(state.teacher_return > self.random_return, ratio, 1.0)
        return {
            "reward_weight": piecewise_linear(self.config.points("reward_weight"), progress),
            "distillation_weight": weight * (1.0 - ratio) if self.config.fade == "return_ratio" else weight,
            "teacher_share": piecewise_linear(self.config.points("teacher_share"), progress),
            "return_ratio": ratio,
        }

    def objective(self, state: GuidedState) -> Objective:
        """The distillation's loss of logits, or of Q-values, and teacher outputs, ``[B, A]`` each."""
        return make_objective(self.config.loss, self.student, (self.teacher.gives_logits,), state.temperature)

    def _learn(
        self,
        apply: PolicyApply,
        state: GuidedState,
        transitions: pqn.Transitions,
        values: dict[str, Array],
        teacher_variables: Any,
        config: PQNConfig,
    ) -> tuple[PQNState, dict[str, Array]]:
        """The targets and the epochs."""
        samples = pqn.labelled(transitions, config)
        key, *epoch_keys = jax.random.split(state.pqn.key, config.epochs + 1)
        order = pqn.shuffled(epoch_keys, config)
        teacher_q = self._labels(samples.observations, values["distillation_weight"], teacher_variables, config)
        objective, by_teacher = self.objective(state), GuidedSamples(samples, teacher_q)
        # Policies are compared in units of τ, and their loss is brought into those of Q: its gradient in the Q-values
        # is then the difference of two probabilities, as large as that of an error of Q, whatever τ is.
        divisor = jnp.float32(1.0) if self.config.loss.gives_q else state.learner_temperature

        def distillation(q_values: Array, own: GuidedSamples) -> Array:
            counts = own.samples.weight
            if objective.weigh is not None:
                counts = counts * objective.weigh(own.teacher_q)
            each = objective.loss(q_values / divisor, own.teacher_q)
            return jnp.sum(counts * each) / jnp.maximum(counts.sum(), 1e-6)

        def loss(variables: Any, own: GuidedSamples) -> tuple[Array, dict[str, Array]]:
            q_values = apply(variables, own.samples.observations)
            regression = pqn.regression_losses(q_values, own.samples)
            total = values["reward_weight"] * regression
            if self.config.distils:
                total = total + values["distillation_weight"] * divisor * distillation(q_values, own)
            return total, {"loss": regression, "mean_q": q_values.mean()}

        fit = pqn.make_epochs(loss, pqn.make_optimizer(config))
        (variables, optimizer_state), metrics = fit(
            (state.variables, state.pqn.optimizer_state),
            order,
            lambda rows: jax.tree.map(lambda leaf: leaf[rows], by_teacher),
        )
        some: Samples = jax.tree.map(lambda leaf: leaf[order.reshape(-1)[:_MEASURED]], samples)
        measured = GuidedSamples(some, self.teacher.apply(teacher_variables, some.observations))
        q_values = apply(variables, some.observations)
        alike = (q_values.argmax(axis=-1) == measured.teacher_q.argmax(axis=-1)) * some.weight
        metrics |= {
            "distillation_loss": distillation(q_values, measured),
            "agreement": alike.sum() / jnp.maximum(some.weight.sum(), 1.0),
            "teacher_is_sound": jnp.isfinite(measured.teacher_q).all() & jnp.isfinite(teacher_q).all(),
        }
        learnt = PQNState(variables, optimizer_state, state.env_steps + config.steps_per_rollout, key)
        return learnt, metrics | {"updates": jnp.int32(config.updates_per_rollout)}

    def _labels(self, observations: Array, weight: Array, teacher_variables: Any, config: PQNConfig) -> Array:
        """The teacher's outputs, float32 ``[N, A]``; zeros, unasked, while they count for nothing."""

        def ask(observations: Array) -> Array:
            parts = observations.reshape(config.minibatches, -1, *observations.shape[1:])
            outputs: Array = lax.map(lambda part: self.teacher.apply(teacher_variables, part), parts)
            return outputs.reshape(len(observations), -1)

        def nothing(observations: Array) -> Array:
            return jnp.zeros((len(observations), self.student.num_actions), jnp.float32)

        return lax.cond(weight > 0.0, ask, nothing, observations) if self.config.distils else nothing(observations)
