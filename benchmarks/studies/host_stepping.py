"""How much of what EnvPool allows is left where the host steps it: on a CPU, and beside another device.

    python -m benchmarks.studies.host_stepping

On a CPU, rollouts are compared with stepping and inference, each alone and one after the other, and with the barest
loop there can be: a compiled decision, EnvPool's send, its receive. Beside another device, inference is made to take as
long as stepping: a group's actions are held back until a device that decides for one group after another would have
them. EnvPool has one core there, and what is left for a device to do besides runs on the others. All take turns.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from benchmarks.harness.measure import Spread, Work, take_turns
from benchmarks.stages.inference import scanned_inference
from pd_jax.actors import rollout
from pd_jax.environments.envpool import Environment, Received
from pd_jax.environments.tasks import get_task
from pd_jax.teachers import load

STEPS = 64


class BesideADevice(Environment):
    """Lanes whose actions come from a device that takes ``seconds`` for the decision of a group.

    Attributes:
      seconds: the device decides for one group after another.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seconds = 0.0
        self._free = 0.0
        self._ready = [0.0 for _ in self.groups]

    def receive(self, group: int) -> Received:
        """Hands the frames to the device, which is busy for a while."""
        received = super().receive(group)
        self._free = max(time.perf_counter(), self._free) + self.seconds
        self._ready[group] = self._free
        return received

    def send(self, group: int, actions: np.ndarray) -> None:
        """Waits until the device has decided."""
        if (left := self._ready[group] - time.perf_counter()) > 0:
            time.sleep(left)
        super().send(group, actions)


def main() -> None:
    """Prints both tables and writes ``benchmarks/results/host_stepping.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--groups", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--name", default="host_stepping", help="of the result file")
    options = parser.parse_args()
    found = {"on a CPU": _on_cpu(options.lanes, options.turns)}
    found["beside a device"] = _beside(options.lanes, options.groups, options.turns)
    for title, rows in found.items():
        table = Table(title, "steps/s", "of what is allowed (lowest to highest)")
        for name, row in rows.items():
            share = row["of_allowed"]
            table.add_row(
                name,
                f"{row['steps_per_second']['median']:,.0f}",
                f"{share['median']:.3f} ({share['lowest']:.3f} to {share['highest']:.3f})",
            )
        Console().print(table)
    print(record.write(options.name, {"lanes": options.lanes, "turns": options.turns, **found}))


def _on_cpu(lanes: int, turns: int) -> dict[str, Any]:
    """Rollouts of the bundled teacher, and the barest loop."""
    teacher, task = load("pong"), get_task("pong")
    environments = [Environment(task, lanes, 0, stepping="host") for _ in range(3)]
    for environment in environments:
        environment.reset()
    decide = jax.jit(lambda variables, stacks: teacher.apply(variables, stacks.transpose(0, 2, 3, 1)).argmax(-1))
    stacks = np.random.default_rng(0).integers(256, size=(STEPS, lanes, 84, 84, 4), dtype=np.uint8)
    bare = environments[2]
    bare.send(0, np.zeros(lanes, np.int32))
    seen = bare.receive(0).observations

    def bare_loop() -> None:
        nonlocal seen
        for _ in range(STEPS):
            bare.send(0, np.asarray(decide(teacher.variables, seen)))
            seen = bare.receive(0).observations

    works: dict[str, Work] = {
        "rollouts": _rollouts(environments[0], teacher.apply, teacher.variables),
        "stepping": _stepping(environments[1]),
        "inference": scanned_inference(teacher.network, teacher.variables, stacks, 1),
        "bare loop": bare_loop,
    }
    seconds = take_turns(works, turns)
    for environment in environments:
        environment.close()
    both = [step + infer for step, infer in zip(seconds["stepping"], seconds["inference"], strict=True)]
    return {name: _row(lanes, seconds[name], both) for name in ("rollouts", "bare loop", "stepping", "inference")}


def _beside(lanes: int, groups: list[int], turns: int) -> dict[str, Any]:
    """Rollouts beside a device whose inference takes as long as stepping."""
    task = get_task("pong")
    alone = Environment(task, lanes, 0, stepping="host", num_threads=1)
    alone.reset()
    step = _stepping(alone)
    step()
    started = time.perf_counter()
    step()
    seconds_of_step = (time.perf_counter() - started) / STEPS
    works: dict[str, Work] = {"stepping": step}
    beside = []
    for count in groups:
        environment = BesideADevice(task, lanes, 0, stepping="host", num_groups=count, num_threads=1)
        environment.seconds = seconds_of_step / count
        works[f"{count} groups"] = _rollouts(environment, _nothing, {})
        beside.append(environment)
    seconds = take_turns(works, turns)
    alone.close()
    for environment in beside:
        environment.close()
    return {name: _row(lanes, own, seconds["stepping"]) for name, own in seconds.items()}


def _nothing(variables: Any, observations: jax.Array) -> jax.Array:
    """A policy that costs nothing and plays at random: all exploration, or the first action."""
    return jnp.zeros((len(observations), 6)) + observations[:, :1, 0, 0].astype(jnp.float32) * 0


def _rollouts(environment: Environment, apply: Any, variables: Any) -> Work:
    play = rollout.make_rollout(environment, apply, STEPS)
    state = rollout.start(environment, jax.random.key(0))

    def work() -> object:
        nonlocal state
        state, trajectory, _ = play(variables, state, 0.05 if variables else 1.0)
        return trajectory

    return work


def _stepping(environment: Environment) -> Work:
    generator = np.random.default_rng(0)

    def work() -> None:
        for _ in range(STEPS):
            environment.send(0, generator.integers(6, size=environment.num_lanes, dtype=np.int32))
            environment.receive(0)

    return work


def _row(lanes: int, seconds: list[float], allowed: list[float]) -> dict[str, Any]:
    rates = Spread.of([lanes * STEPS / own for own in seconds])
    shares = Spread.of([limit / own for limit, own in zip(allowed, seconds, strict=True)])
    return {"steps_per_second": vars(rates), "of_allowed": vars(shares)}


if __name__ == "__main__":
    main()
