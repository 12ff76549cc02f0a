"""Inference and training of the paper's networks, by formulation of the convolution: matrix products against XLA's own.

    python -m benchmarks.studies.convolution

Training is one RMSProp update inside ``lax.scan``, as the learner runs it. The variants take turns, so that a machine
whose speed drifts does not favour one; each figure is the median over the turns, in samples a second.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from pd_jax.losses import kl_loss
from pd_jax.networks.registry import make_network

UPDATES_PER_CALL = 4


def main() -> None:
    """Prints the table and writes ``benchmarks/results/convolution.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["dqn", "net1", "net2", "net3"])
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    rows = []
    for network in options.networks:
        for batch in options.batches:
            variants = {
                f"{work}_{method}": make(network, batch, method)
                for work, make in (("inference", _inference), ("training", _training))
                for method in ("matmul", "native")
            }
            rates = _median_rates(variants, batch, options.turns)
            rows.append({"network": network, "batch": batch} | rates)
    table = Table("network", "batch", *(key for key in rows[0] if key not in ("network", "batch")))
    for row in rows:
        table.add_row(*(f"{value:,.0f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    print(record.write("convolution", rows))


def _median_rates(variants: dict[str, Callable[[], Any]], batch: int, turns: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for function in variants.values():
        jax.block_until_ready(function())
    for _ in range(turns):
        for name, function in variants.items():
            started = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - started)
    samples = batch * UPDATES_PER_CALL
    return {name: samples / statistics.median(times) for name, times in seconds.items()}


def _data(batch: int) -> tuple[jax.Array, jax.Array]:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (UPDATES_PER_CALL, batch, 84, 84, 4), dtype=np.uint8)
    return jnp.asarray(frames), jnp.asarray(generator.normal(size=(UPDATES_PER_CALL, batch, 6)), jnp.float32)


def _inference(name: str, batch: int, method: Any) -> Callable[[], Any]:
    network = make_network(name, 6, convolution=method)
    frames, _ = _data(batch)
    variables = network.init(jax.random.key(0), frames[0])
    run = jax.jit(lambda variables, frames: lax.map(lambda x: network.apply(variables, x), frames))
    return lambda: run(variables, frames)


def _training(name: str, batch: int, method: Any) -> Callable[[], Any]:
    network = make_network(name, 6, convolution=method)
    data = _data(batch)
    variables = network.init(jax.random.key(0), data[0][0])
    optimizer = optax.rmsprop(1e-4)

    def update(carry: Any, sample: Any) -> tuple[Any, None]:
        variables, state = carry
        frames, q_values = sample

        def loss(variables: Any) -> jax.Array:
            logits: Any = network.apply(variables, frames)
            return kl_loss(logits, q_values, temperature=0.01).mean()

        changes, state = optimizer.update(jax.grad(loss)(variables), state)
        return (optax.apply_updates(variables, changes), state), None

    run = jax.jit(lambda carry, data: lax.scan(update, carry, data)[0])
    carry = (variables, optimizer.init(variables))
    return lambda: run(carry, data)


if __name__ == "__main__":
    main()
