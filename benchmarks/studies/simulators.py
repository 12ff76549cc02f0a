r"""Scores of the same policies in EnvPool and in Gymnasium: the bundled teacher, and agents of Stable-Baselines3.

    pip install mujoco==3.6.0 imageio
    python -m benchmarks.studies.simulators --out runs/simulators

Agents are trained by Stable-Baselines3 in Gymnasium, saved, imported, and scored three ways: imported, in EnvPool;
imported, in Gymnasium; and in Gymnasium by the library itself. All play without noise, from starts that are drawn anew.
Gymnasium's MuJoCo should be the one that EnvPool is built with; the result says which ones they were. What has been
trained is kept in ``OUT``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from pd_jax.environments.spaces import simulator_of
from pd_jax.errors import UserError
from pd_jax.evaluation.evaluator import evaluate
from pd_jax.teachers import Teacher, load
from pd_jax.teachers.files import save_teacher
from pd_jax.teachers.importers import import_teacher

Act = Callable[[np.ndarray], np.ndarray]
"""Observations ``[L, D]`` as Gymnasium gives them, to actions ``[L, components]``."""
SEED = 1_000_003


class Agent(NamedTuple):
    """One that Stable-Baselines3 trains.

    Attributes:
      algorithm: its class, in small letters.
      env_id: Gymnasium's id, which is EnvPool's too.
      steps: that it is trained for.
    """

    algorithm: str
    env_id: str
    steps: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.algorithm}-{self.env_id}-{self.steps}"

    @classmethod
    def parse(cls, text: str) -> Agent:
        """Of ``ALGORITHM:ENV_ID:STEPS``."""
        algorithm, env_id, steps = text.split(":")
        return cls(algorithm, env_id, int(steps))


def main(argv: Sequence[str] | None = None) -> None:
    """Scores the policies, prints their table and writes ``benchmarks/results/simulators.json`` as each is scored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the agents")
    parser.add_argument("--teachers", nargs="*", default=["half_cheetah_v5"], help="bundled ones of Gymnasium's tasks")
    parser.add_argument(
        "--agents",
        nargs="*",
        type=Agent.parse,
        metavar="ALGORITHM:ENV_ID:STEPS",
        default=[Agent("ppo", "Hopper-v5", 100_000), Agent("sac", "Pendulum-v1", 5_000)],
    )
    parser.add_argument("--episodes", type=int, default=100, help="of each score")
    parser.add_argument("--lanes", type=int, default=10)
    parser.add_argument("--name", default="simulators", help="of the result file")
    options = parser.parse_args(argv)

    rows: list[dict[str, Any]] = []
    for policy in [*options.teachers, *options.agents]:
        print(policy if isinstance(policy, str) else policy.name, file=sys.stderr, flush=True)
        rows.append(score_bundled(policy, options) if isinstance(policy, str) else score_agent(policy, options))
        settings = {"episodes": options.episodes, "lanes": options.lanes, "seed": SEED}
        path = record.write(options.name, {"settings": settings, "versions": versions(), "rows": rows})
    Console().print(draw_table(rows))
    print(path)


def versions() -> dict[str, str]:
    """Of what plays and what trained."""
    names = ("envpool", "gymnasium", "mujoco", "stable-baselines3")
    return {name: importlib.metadata.version(name) for name in names}


def score_bundled(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """A bundled teacher's row."""
    return _row(name, 0, load(name), options)


def score_agent(agent: Agent, options: argparse.Namespace) -> dict[str, Any]:
    """An agent's row; it is trained if it is not there yet."""
    model = train(agent, options.out / f"{agent.name}.zip")
    teacher_file = options.out / f"{agent.name}.safetensors"
    save_teacher(teacher_file, *import_teacher(options.out / f"{agent.name}.zip", agent.env_id, "none"))
    label = f"{agent.algorithm.upper()} of Stable-Baselines3"
    row = _row(label, agent.steps, load(teacher_file), options)

    def act(observations: np.ndarray) -> np.ndarray:
        actions: np.ndarray = model.predict(observations, deterministic=True)[0]
        return actions

    returns = play_in_gymnasium(act, agent.env_id, options.episodes, options.lanes)
    scores = {**row["scores"], "library": _score(returns)}
    return {**row, "scores": scores, "library_difference": difference(scores["envpool"], scores["library"])}


def train(agent: Agent, path: Path) -> Any:
    """The model of the library, from its archive if that is there."""
    import stable_baselines3
    import torch

    torch.set_num_threads(1)
    algorithm = getattr(stable_baselines3, agent.algorithm.upper())
    if not path.exists():
        model = algorithm("MlpPolicy", gymnasium.make(agent.env_id), device="cpu", seed=0)
        model.learn(agent.steps).save(path)
    return algorithm.load(path, device="cpu")


def _row(label: str, steps: int, teacher: Teacher, options: argparse.Namespace) -> dict[str, Any]:
    """The scores of a policy that is a teacher here, in both simulators, and what they run on."""
    env_id = teacher.task.env_id

    def act(observations: np.ndarray) -> np.ndarray:
        return teacher.act(observations.astype(np.float32))[0]

    scores = {
        "envpool": _score(
            evaluate(teacher, episodes=options.episodes, num_lanes=options.lanes, epsilon=0.0, seed=SEED).returns
        ),
        "gymnasium": _score(play_in_gymnasium(act, env_id, options.episodes, options.lanes)),
    }
    here = simulator_of(env_id)
    return {
        "policy": label,
        "env_id": env_id,
        "trained_steps": steps,
        "file_says": teacher.metadata.simulator,
        "envpool_runs_on": here,
        "gymnasium_runs_on": f"mujoco {versions()['mujoco']}" if here else "",
        "scores": scores,
        "difference": difference(scores["envpool"], scores["gymnasium"]),
    }


def play_in_gymnasium(act: Act, env_id: str, episodes: int, lanes: int) -> np.ndarray:
    """Returns of whole episodes of Gymnasium's own environments, as many in every lane.

    Args:
      act: the policy.
      env_id: Gymnasium's.
      episodes: wanted; rounded up to a multiple of the lanes.
      lanes: stepped side by side.

    Raises:
      UserError: Gymnasium cannot make it.
    """
    try:
        envs = gymnasium.make_vec(env_id, lanes, vectorization_mode="sync")
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError(f"{env_id}: {error}") from None
    wanted = -(-episodes // lanes)
    finished: list[list[float]] = [[] for _ in range(lanes)]
    returns, was_last = np.zeros(lanes), np.zeros(lanes, bool)
    observations = envs.reset(seed=SEED)[0]
    while min(map(len, finished)) < wanted:
        observations, rewards, terminated, truncated, _ = envs.step(act(observations))
        # The step after an episode's last one resets the lane, and its action and reward are nobody's.
        returns = np.where(was_last, 0.0, returns + rewards)
        was_last = terminated | truncated
        for lane in np.flatnonzero(was_last):
            finished[lane].append(float(returns[lane]))
    envs.close()
    return np.array([lane[:wanted] for lane in finished]).ravel()


def _score(returns: np.ndarray) -> dict[str, float]:
    error = float(np.std(returns, ddof=1)) / math.sqrt(len(returns))
    return {"mean": float(np.mean(returns)), "standard_error": error, "episodes": len(returns)}


def difference(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float | None]:
    """Of two means: the first less the second, its standard error, and how many of these it is; None of no error."""
    error = math.hypot(one["standard_error"], other["standard_error"])
    mean = one["mean"] - other["mean"]
    return {"mean": mean, "standard_error": error, "in_standard_errors": mean / error if error else None}


def draw_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows for a terminal."""
    shown = Table("policy", "task", "EnvPool", "Gymnasium", "the library in Gymnasium", "difference in errors")
    for row in rows:
        found = [row["scores"].get(name) for name in ("envpool", "gymnasium", "library")]
        texts = ["" if each is None else f"{each['mean']:.1f} ± {each['standard_error']:.1f}" for each in found]
        apart = [row[name]["in_standard_errors"] for name in ("difference", "library_difference") if name in row]
        errors = ", ".join("none" if each is None else f"{each:+.2f}" for each in apart)
        shown.add_row(row["policy"], row["env_id"], *texts, errors)
    return shown


if __name__ == "__main__":
    main()
