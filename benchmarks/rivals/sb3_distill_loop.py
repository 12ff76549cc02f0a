"""The teacher-distill of sb3-distill, as its example sets it up, on Pong and with the paper's networks.

Runs under the peer's interpreter (stable-baselines3, gymnasium, ale-py, OpenCV), started by
``benchmarks.rivals.peers``. Nothing of the loop is ours but a callback that counts: ``TeacherDistill.learn`` collects
rollouts of the teacher in worker processes and takes one gradient step over each.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any

import ale_py  # noqa: F401  # registers the games, in the workers too: they import this module
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack, VecNormalize

from benchmarks.rivals.net2 import torso
from benchmarks.rivals.window import Window, parser, write_report

_PACKAGES = ("stable_baselines3", "torch", "gymnasium", "ale-py", "numpy")


class Net2(BaseFeaturesExtractor):
    """The torso of the paper's net2, which the actor's and the critic's linear heads share."""

    def __init__(self, observation_space: Any, features_dim: int = 128) -> None:
        """Makes the torso for stacks of four 84x84 frames."""
        super().__init__(observation_space, features_dim)
        self.layers = torso(observation_space.shape[0], features_dim)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """``[N, 4, 84, 84]`` float32 in [0, 1] to ``[N, 128]``."""
        return self.layers(observations)


class _Count(BaseCallback):
    """Notes every rollout's start, where the update before is done, and ends the learning once the time is over."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self._window = window
        self._goes_on = True

    def _on_rollout_start(self) -> None:
        self._goes_on = self._window.note(self.num_timesteps, self.model._n_updates)

    def _on_step(self) -> bool:
        return self._goes_on


def main() -> None:
    """Learns until the time is over and writes the report."""
    options = parser(__doc__)
    options.add_argument("--num-envs", type=int, default=16, help="worker processes; those of its example")
    arguments = options.parse_args()
    n_steps, rest = divmod(arguments.batch_size, arguments.num_envs)
    if rest:
        options.error(f"a batch of {arguments.batch_size} is no whole number of steps in {arguments.num_envs} workers")
    sys.path.insert(0, str(arguments.checkout))
    from sb3_distill import TeacherDistill

    env = make_atari_env(
        "PongNoFrameskip-v4",
        n_envs=arguments.num_envs,
        seed=100,
        vec_env_cls=SubprocVecEnv,
        wrapper_kwargs={"clip_reward": False, "terminal_on_life_loss": True},
    )
    env = VecFrameStack(VecNormalize(env, norm_obs=False), n_stack=4)
    student = TeacherDistill(
        "CnnPolicy",
        env,
        policy_kwargs={"features_extractor_class": Net2, "net_arch": [], "optimizer_kwargs": {"eps": 1e-5}},
        n_steps=n_steps,
        learning_rate=3e-4,
        gamma=0.999,
        ent_coef=0.01,
    )
    student.set_teacher(PPO("CnnPolicy", env))
    window = Window(arguments.warm_up_seconds, arguments.seconds)
    student.learn(total_timesteps=10**9, callback=_Count(window))
    env.close()
    write_report(
        arguments.report,
        {"live": window},
        steps_per_update=arguments.batch_size,
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
        settings={
            "environments": f"{arguments.num_envs} worker processes",
            "steps of each per update": n_steps,
            "batch_size": arguments.batch_size,
            "torch threads": torch.get_num_threads(),
            "device": str(student.device),
        },
        replaced=[
            "the teacher has fresh weights (PPO's CnnPolicy: the DQN's torso, an actor's and a critic's head)",
            "the student's torso is net2",
            f"rollouts of {n_steps} instead of 5 steps, so that an update sees {arguments.batch_size} of them",
            "no TensorBoard",
        ],
    )


if __name__ == "__main__":
    main()
