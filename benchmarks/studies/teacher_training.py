"""Environment steps a second of PQN training, with our convolutions and with plain JAX's, and what bounds them.

    python -m benchmarks.studies.teacher_training

At PQN's setting for Atari a whole iteration (play, targets, epochs) runs as `pd-jax train-teacher` runs it, once with
convolutions as the trainer makes them on this platform and once with XLA's own inside the same scans. The two take
turns, so that a machine whose speed drifts does not favour one. Then the parts of an iteration are timed alone, at the
same sizes: stepping without a network, inference without an environment, and the updates.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from pd_jax.config.algorithms import PQNConfig
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import Task, get_task
from pd_jax.networks.convolutions import ConvolutionMethod
from pd_jax.networks.registry import make_network
from pd_jax.resources import pace
from pd_jax.trainers import pqn

VARIANTS: dict[str, ConvolutionMethod] = {"ours": "auto", "plain": "native"}


def main() -> None:
    """Prints the tables and writes ``benchmarks/results/teacher_training.json``."""
    options = _options()
    task, config = get_task(options.game), _config(options)
    trainings = {name: Training(task, config, options.network, method) for name, method in VARIANTS.items()}
    seconds = _take_turns({name: training.iterate for name, training in trainings.items()}, options.turns)
    parts = _take_turns(
        {(name, part): run for name, training in trainings.items() for part, run in training.parts().items()},
        options.turns,
    )
    rates = {name: [config.steps_per_rollout / each for each in times] for name, times in seconds.items()}
    ratios = [ours / plain for ours, plain in zip(rates["ours"], rates["plain"], strict=True)]
    results = {
        "settings": {name: value for name, value in vars(options).items() if name != "name"},
        "env_steps_per_second": {name: _spread(values) for name, values in rates.items()},
        "ours_over_plain": _spread(ratios),
        "iterations": {name: _breakdown(name, seconds[name], parts) for name in VARIANTS},
    }
    _print(results)
    for training in trainings.values():
        training.close()
    print(record.write(options.name, results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="pong")
    parser.add_argument("--network", default="dqn")
    parser.add_argument("--num-lanes", type=int, default=128)
    parser.add_argument("--rollout-length", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--minibatches", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--name", default="teacher_training", help="of the result file")
    parser.add_argument("--quick", action="store_true", help="16 lanes, 8 steps, 4 minibatches, 2 turns: a minute")
    options = parser.parse_args()
    if options.quick:
        options.num_lanes, options.rollout_length, options.minibatches, options.turns = 16, 8, 4, 2
        options.name = "teacher_training_quick"
    return options


def _config(options: argparse.Namespace) -> PQNConfig:
    return PQNConfig(
        num_lanes=options.num_lanes,
        rollout_length=options.rollout_length,
        epochs=options.epochs,
        minibatches=options.minibatches,
    )


class Training:
    """A training with one formulation of the convolutions, and its parts alone."""

    def __init__(self, task: Task, config: PQNConfig, network: str, method: ConvolutionMethod) -> None:
        self.config = config
        self.network = make_network(network, task.num_actions, layer_norm=True, convolution=method)
        self.environment = Environment(task, config.num_lanes, 0, episodic_life=True)
        self.play = pqn.start(self.environment, config, jax.random.key(0))
        self.state = pqn.init(self.network, self.play.timestep.observations, config, jax.random.key(1))
        self._iterate = pqn.make_iteration(self.network, self.environment, config)
        self._learn = jax.jit(pqn.make_learn(self.network, config))

    def iterate(self) -> float:
        """Seconds of one iteration."""
        started = time.perf_counter()
        self.state, self.play, metrics = self._iterate(self.state, self.play)
        jax.block_until_ready((self.state, self.play, metrics))
        return time.perf_counter() - started

    def parts(self) -> dict[str, Callable[[], float]]:
        """What gives the seconds of each part of an iteration, at its sizes."""
        length = self.config.rollout_length
        transitions = self._transitions()

        def updates() -> float:
            started = time.perf_counter()
            jax.block_until_ready(self._learn(self.state, transitions))
            return time.perf_counter() - started

        return {
            "stepping": lambda: length * pace.stepping_seconds(self.environment, length),
            # One decision more for the value of what the last step showed.
            "inference": lambda: (
                (length + 1) * pace.inference_seconds(self.network, self.state.variables, self.environment, length)
            ),
            "updates": updates,
        }

    def close(self) -> None:
        """Ends the environment."""
        jax.block_until_ready(self.play)
        self.environment.close()

    def _transitions(self) -> pqn.Transitions:
        """A rollout as the updates see it. The frames are the ones shown now, over and over."""
        length, lanes = self.config.rollout_length, self.config.num_lanes
        timestep: Any = self.play.timestep
        zeros = jnp.zeros((length, lanes), jnp.float32)
        return pqn.Transitions(
            observations=jnp.broadcast_to(timestep.observations, (length, *timestep.observations.shape)),
            actions=jnp.zeros((length, lanes), jnp.int32),
            rewards=zeros,
            next_value=zeros,
            terminated=jnp.zeros((length, lanes), bool),
            is_last=jnp.zeros((length, lanes), bool),
            weight=zeros + 1.0,
        )


def _take_turns(functions: dict[Any, Callable[[], float]], turns: int) -> dict[Any, list[float]]:
    """Seconds by function and turn, after one turn in which everything is compiled."""
    seconds: dict[Any, list[float]] = {name: [] for name in functions}
    for turn in range(turns + 1):
        for name, function in functions.items():
            taken = function()
            if turn:
                seconds[name].append(taken)
    return seconds


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _breakdown(name: str, seconds: list[float], parts: dict[Any, list[float]]) -> dict[str, Any]:
    medians = {part: statistics.median(times) for (owner, part), times in parts.items() if owner == name}
    total = math.fsum(medians.values())
    return {
        "seconds": _spread(seconds),
        "seconds_alone": medians,
        "shares": {part: value / total for part, value in medians.items()},
        # Near 1 where the parts, one after the other, are all there is.
        "parts_over_whole": total / statistics.median(seconds),
        "bound_by": max(medians, key=lambda part: medians[part]),
    }


def _print(results: dict[str, Any]) -> None:
    table = Table("", "steps/s", "low", "high", "stepping", "inference", "updates", "parts / whole")
    for name in VARIANTS:
        rate, iteration = results["env_steps_per_second"][name], results["iterations"][name]
        shares = (f"{100 * iteration['shares'][part]:.0f} %" for part in ("stepping", "inference", "updates"))
        numbers = (f"{rate[key]:,.0f}" for key in ("median", "low", "high"))
        table.add_row(name, *numbers, *shares, f"{iteration['parts_over_whole']:.2f}")
    Console().print(table)
    ratio = results["ours_over_plain"]
    print(f"ours / plain: {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f} over the turns)")


if __name__ == "__main__":
    main()
