"""A teacher, or its student, playing live."""

from __future__ import annotations

import dataclasses
import math
import operator
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from pd_jax.actors import rollout
from pd_jax.actors.inference_time import InferenceProbe, RolloutTime
from pd_jax.actors.stepping import stepping_options
from pd_jax.config.sections import OneGameEnvConfig
from pd_jax.environments.envpool import Environment
from pd_jax.environments.senses import Senses
from pd_jax.environments.tasks import Task
from pd_jax.networks.lane_policy import LanePolicy
from pd_jax.networks.sensing import with_senses
from pd_jax.system.devices import platform_of, tracing_for
from pd_jax.teachers import Committee, Teacher
from pd_jax.teachers.committee import CommitteeNetwork, Fault, read_faults
from pd_jax.types import PolicyApply, Trajectory

_MOST_TOGETHER = 8
_SMALL = 4 * 2**20
"""Bytes of the observations of rollouts that are played in one call, at most."""


class LivePlay:
    """A teacher that plays epsilon-greedily while the student learns, or that labels what the student plays.

    A member of a committee that gives NaN or infinite outputs does not count in those states, and from the next rollout
    on nowhere: it is left out, until one is left.

    Args:
      teacher: who plays and labels.
      task: what it plays.
      env: lanes and emulator settings.
      rollout_length: steps per lane of one rollout.
      epsilon: chance of a random action.
      seed: of the emulators and the exploration.
      student: the student's policy of this task, if it is to act once :meth:`let_act` has said how; of what it senses.
      senses: the student's; what it senses is what the rollouts have as observations.
      keeps_shown: whether what the task shows is kept beside.
      device: that decides, and that the rollouts are left on; the default device if None.

    Attributes:
      finished_returns: unclipped returns of the games that ended since the list was last cleared.
      time: that the rollouts took.
    """

    def __init__(
        self,
        teacher: Teacher,
        task: Task,
        env: OneGameEnvConfig,
        *,
        rollout_length: int,
        epsilon: float,
        seed: int,
        student: PolicyApply | LanePolicy | None = None,
        senses: Senses | None = None,
        keeps_shown: bool = False,
        device: jax.Device | None = None,
    ) -> None:
        self.num_lanes = env.num_lanes
        self.time = RolloutTime()
        self._device = device
        self._acting: rollout.ActingStudent | None = None
        self.finished_returns: list[float] = []
        self._faults: list[Fault] = []
        self._steps = 0
        self._teacher = teacher
        self._variables = self._put(teacher.variables)
        self._student = student
        self._rollout_length = rollout_length
        self._epsilon = epsilon
        stepping = stepping_options(env.stepping, device.platform if device else None, env.backend)
        self._senses = senses = None if senses is None or senses.is_plain else senses
        samples = [(task.frame_shape, task.observation_dtype)]
        samples += [] if senses is None else [(senses.sample_shape, senses.dtype)]
        size = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in samples)
        self._together = max(1, min(_MOST_TOGETHER, _SMALL // (size * rollout_length * env.num_lanes)))
        options = env.environment_options() | ({} if senses is None else {"beside": senses.beside})
        self._environment = Environment(task, env.num_lanes, seed, **options, **stepping)
        network = teacher.network
        self._apply = network.report if isinstance(network, CommitteeNetwork) else network.apply
        self._lanes = self._put(rollout.start(self._environment, jax.random.key(seed), self._apply, student, senses))
        self._rollout = rollout.make_rollout(
            self._environment, self._apply, rollout_length, student=student, senses=senses, keeps_shown=keeps_shown
        )

    def rollouts(self, count: int) -> Iterator[Trajectory]:
        """Plays ``count`` rollouts, each going on where the one before ended.

        On a CPU small ones are played several in one call, and are NumPy's. Who stops in the middle loses those that
        were played in the same call.
        """
        while count > 0:
            played = self._play(count)
            for trajectory, returns in played:
                self.finished_returns.extend(map(float, returns))
                yield self._heard(trajectory)
                self._steps += self._rollout_length * self.num_lanes
            count -= len(played)

    def _play(self, count: int) -> list[tuple[Trajectory, np.ndarray]]:
        """The next rollouts, ``count`` at most, with the returns of the games that ended in each."""
        started = time.monotonic()
        with jax.profiler.TraceAnnotation("rollout"), tracing_for(platform_of(self._lanes)):
            most = self._most_together(count)
            arguments = self._variables, self._lanes, self._epsilon, self._acting
            if most == 1:
                self._lanes, trajectory, finished = self._rollout(*arguments)
                returns, mask = np.asarray(finished.returns), np.asarray(finished.mask)
                played = [(trajectory, returns[mask])]
            else:
                count = min(count, most)
                assert isinstance(self._rollout, rollout.JitRollout)
                self._lanes, *kept = self._rollout.several(most, count, *arguments)
                trajectories, finished = jax.tree.map(np.asarray, kept)
                each = (jax.tree.map(operator.itemgetter(number), trajectories) for number in range(count))
                returns, masks = finished.returns, finished.mask
                played = [(one, returns[number][masks[number]]) for number, one in enumerate(each)]
        self.time.count(time.monotonic() - started, len(played))
        return played

    def _most_together(self, count: int) -> int:
        """How many rollouts are compiled as one call, where so many are wanted."""
        if count == 1 or self._device is not None or isinstance(self._teacher, Committee):
            # Of one rollout of a committee is heard who plays the next.
            return 1
        if not isinstance(self._rollout, rollout.JitRollout) or platform_of(self._lanes) != "cpu":
            return 1
        return self._together

    def let_act(self, student: rollout.ActingStudent) -> None:
        """Has the student act, as it is now, from the next call of :meth:`rollouts` on; until then the teacher acts."""
        self._acting = student = self._put(student)
        # What comes out of a rollout is committed to the device that the student is committed to. Lanes that differed
        # in that before the first rollout would have the second one compiled anew.
        self._lanes = jax.device_put(self._lanes, jax.tree.leaves(student.variables)[0].sharding)

    def let_teach(self, variables: Any) -> None:
        """Has the teacher play and label with other variables from the next call of :meth:`rollouts` on.

        One that learns has such.
        """
        self._variables = self._put(variables)

    def take_faults(self) -> list[Fault]:
        """Members of a committee that were left out since this was last asked, each with the step at which it gave
        NaN or infinite outputs: control steps of all lanes since this play began."""
        faults, self._faults = self._faults, []
        return faults

    def _heard(self, trajectory: Trajectory) -> Trajectory:
        """The play with its labels as they are learnt, once it was heard which members of a committee failed."""
        if not isinstance(self._teacher, Committee):
            return trajectory
        labels, faults = read_faults(trajectory.teacher_q)
        if not faults:
            return trajectory
        for fault in faults:
            if self._teacher.leave_out(fault.member):
                self._faults.append(Fault(fault.member, self._steps + fault.step * self.num_lanes))
        self._variables = self._put(self._teacher.variables)
        return dataclasses.replace(trajectory, teacher_q=labels)

    def probe_inference(self) -> InferenceProbe | None:
        """What times the decisions of the play alone; None for a function of the user's, which only the play calls."""
        if self._teacher.metadata.source_format == "function":
            return None
        lanes = self._lanes
        policies: list[tuple[PolicyApply | LanePolicy, Any, Any]] = [(self._apply, self._variables, lanes.policy_state)]
        if self._student is not None and self._acting is not None:
            state = lanes.student_state if self._senses is None else (lanes.sensor_state, lanes.student_state)
            policies.append((with_senses(self._student, self._senses), self._acting.variables, state))
        return InferenceProbe(tuple(policies), lanes.timestep)

    def note_inference(self, seconds: float) -> None:
        """Sets the share of inference in the play's time, where one decision takes so many seconds."""
        usual = self.time.usual_seconds
        if usual is not None:
            self.time.inference_share = min(1.0, self._rollout_length * seconds / usual)

    def _put(self, tree: Any) -> Any:
        """Commits to the device, if one was named; computation follows what it is given."""
        return tree if self._device is None else jax.device_put(tree, self._device)

    def close(self) -> None:
        """Waits for the last step and ends EnvPool's threads."""
        jax.block_until_ready(self._lanes)
        self._environment.close()
