"""How much memory a function takes: against sums by hand, and against what XLA allocates for it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from pd_jax.config.sections import StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.networks.registry import make_network
from pd_jax.networks.student import Student, make_student
from pd_jax.resources.liveness import peak_bytes, tree_bytes
from pd_jax.resources.parts import forward_bytes, minibatch_bytes
from pd_jax.system.devices import tracing_for

VECTOR = jax.ShapeDtypeStruct((1000,), jnp.float32)


def test_a_tree_takes_what_its_arrays_do() -> None:
    tree = {"a": jnp.zeros((3, 5)), "b": (jnp.zeros(7, jnp.uint8), jax.random.key(0))}
    # A key is two numbers of 32 bits.
    assert tree_bytes(tree) == tree_bytes(jax.eval_shape(lambda: tree)) == 60 + 7 + 8


def test_an_array_is_let_go_of_after_its_last_use() -> None:
    assert peak_bytes(lambda x: jnp.sin(x), VECTOR) == 4000
    # One is read while the next is written.
    assert peak_bytes(lambda x: jnp.sin(jnp.sin(jnp.sin(jnp.sin(x)))), VECTOR) == 8000

    def kept(x: Any) -> Any:
        first, second = jnp.sin(x), jnp.cos(x)
        return jnp.sin(first) + second + first

    # Both, the sine of the first, and its sum with the second.
    assert peak_bytes(kept, VECTOR) == 16000
    assert peak_bytes(lambda x: (jnp.sin(x), jnp.cos(x), jnp.exp(x)), VECTOR) == 12000


def test_what_a_function_calls_is_counted_once() -> None:
    inner = jax.jit(lambda x: jnp.sin(jnp.sin(x)))
    assert peak_bytes(inner, VECTOR) == 8000
    assert peak_bytes(lambda x: lax.cond(x[0] > 0, inner, jnp.sin, x), VECTOR) == pytest.approx(8000, abs=16)


def test_a_loop_takes_its_results_and_one_iteration() -> None:
    def stacked(x: Any) -> Any:
        return lax.scan(lambda carry, _: (carry + 1, jnp.sin(jnp.sin(carry))), x, length=50)[1]

    # 50 rows, the carry, and within an iteration the next carry, a row and what it is made of.
    assert peak_bytes(stacked, VECTOR) == pytest.approx(50 * 4000 + 4000 + 12000, abs=16)


@pytest.mark.parametrize(
    ("games", "network", "batch"),
    [(("pong",), "net2", 32), (("breakout", "pong"), "multi3", 16), (("cartpole", "acrobot"), "mlp", 4096)],
)
def test_an_update_and_a_decision_take_what_xla_allocates_for_them(
    games: tuple[str, ...], network: str, batch: int
) -> None:
    student = make_student(StudentConfig(network=network), list(map(get_task, games)))  # type: ignore[arg-type]
    variables = jax.eval_shape(student.init, jax.random.key(0))
    shape = (len(games), batch, *student.observation_shape)
    observations = jax.ShapeDtypeStruct(shape, jnp.dtype(student.observation_dtype))

    def loss(variables: Any, observations: Any) -> Any:
        return (jnp.where(student.mask[:, None], student.apply(variables, observations), 0.0) ** 2).sum()

    allocated = jax.jit(jax.grad(loss)).lower(variables, observations).compile().memory_analysis()
    estimate = minibatch_bytes(student, batch) - 2 * tree_bytes(observations)
    assert 0.6 < allocated.temp_size_in_bytes / estimate < 1.5

    one = jax.ShapeDtypeStruct((batch, *student.tasks[0].observation_shape), observations.dtype)
    allocated = jax.jit(student.policy(0)).lower(variables, one).compile().memory_analysis()
    assert 0.5 < allocated.temp_size_in_bytes / forward_bytes(student.policy(0), variables, student.tasks[0], batch) < 2


def test_what_a_minibatch_takes_is_of_the_platform_that_is_asked_for() -> None:
    students = {
        method: Student(make_network("net3", 6, convolution=method), (get_task("pong"),))
        for method in ("auto", "native", "matmul")
    }
    by_matmul, by_native = (minibatch_bytes(students[method], 32) for method in ("matmul", "native"))
    # Patches side by side take more than what they are patches of.
    assert by_matmul > 1.2 * by_native
    for platform, expected in (("cpu", by_matmul), ("tpu", by_native), ("cpu", by_matmul)):
        with tracing_for(platform):
            assert minibatch_bytes(students["auto"], 32) == expected
