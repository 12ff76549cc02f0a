"""The losses against float64 NumPy with gradients derived by hand, on random, extreme and padded inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import ArrayLike

from pd_jax.losses import kl_loss, masked_log_softmax, mse_loss, nll_loss

TEMPERATURES = [0.01, 1.0, 5.0]
Loss = Callable[..., jax.Array]
LOSSES: dict[str, Loss] = {
    "nll": nll_loss,
    "mse": mse_loss,
    **{f"kl_{temperature}": partial(kl_loss, temperature=temperature) for temperature in TEMPERATURES},
}
no_deadline = settings(deadline=None)  # the first example of each shape waits for the compiler
jitted_kl_loss = jax.jit(kl_loss)
almost_greedy_kl_loss = partial(kl_loss, temperature=1e-4)
GARBAGE = [np.nan, np.inf, -np.inf, 3e38, -3e38]


def f32(values: ArrayLike) -> np.ndarray:
    return np.asarray(values, np.float32)


def log_softmax_64(row: np.ndarray) -> np.ndarray:
    shifted = row - row.max()
    return shifted - np.log(np.exp(shifted).sum())


def expected_row(name: str, student: np.ndarray, teacher: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss of one row of existing actions and its gradient in the student, float64, from the formulas of the paper."""
    student, teacher = student.astype(np.float64), teacher.astype(np.float64)
    log_student = log_softmax_64(student)
    if name == "mse":
        return float(((teacher - student) ** 2).sum()), 2 * (student - teacher)
    if name == "nll":
        best = int(np.flatnonzero(teacher == teacher.max())[0])
        return float(-log_student[best]), np.exp(log_student) - np.eye(len(student))[best]
    log_teacher = log_softmax_64((teacher - teacher.max()) / float(name.removeprefix("kl_")))
    kept = np.exp(log_teacher) > 0
    value = (np.exp(log_teacher[kept]) * (log_teacher[kept] - log_student[kept])).sum()
    return float(value), np.exp(log_student) - np.exp(log_teacher)


def expected(
    name: str, student: np.ndarray, teacher: np.ndarray, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """``expected_row`` over ``[batch, actions]``; absent actions are cut out before anything is computed."""
    mask = np.ones(student.shape, bool) if mask is None else np.broadcast_to(mask, student.shape)
    values, gradients = np.zeros(len(student)), np.zeros(student.shape)
    for row, present in enumerate(mask):
        values[row], gradients[row, present] = expected_row(name, student[row, present], teacher[row, present])
    return values, gradients


@partial(jax.jit, static_argnums=0)
def evaluate(
    loss: Loss, student: np.ndarray, teacher: np.ndarray, mask: np.ndarray | None
) -> tuple[jax.Array, jax.Array]:
    """The loss of each row, and the gradient of their sum in the student."""
    values, pullback = jax.vjp(lambda student: loss(student, teacher, mask=mask), student)
    return values, pullback(jnp.ones_like(values))[0]


def assert_matches_numpy(
    name: str, student: np.ndarray, teacher: np.ndarray, mask: np.ndarray | None = None, gradient_rtol: float = 1e-5
) -> None:
    values, gradients = evaluate(LOSSES[name], student, teacher, mask)
    expected_values, expected_gradients = expected(name, student, teacher, mask)
    assert values.dtype == jnp.float32
    assert gradients.dtype == student.dtype
    np.testing.assert_allclose(values, expected_values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.float64(gradients), expected_gradients, rtol=gradient_rtol, atol=1e-5)


def random_mask(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """About half of the actions, and at least one in each row."""
    mask = rng.random(shape) < 0.5
    mask[np.arange(shape[0]), rng.integers(shape[1], size=shape[0])] = True
    return mask


def rows(actions: st.SearchStrategy[int], limit: int = 1000) -> st.SearchStrategy[np.ndarray]:
    """float32 ``[4, actions]``, multiples of 1/64 so that sums with small integers are exact."""
    integers = st.integers(-64 * limit, 64 * limit)
    return actions.flatmap(lambda n: hnp.arrays(np.int64, (4, n), elements=integers)).map(lambda array: f32(array / 64))


def pairs(limit: int = 1000) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Student and teacher of one shape; few shapes, because each is compiled."""
    return st.sampled_from([1, 6, 18]).flatmap(lambda n: st.tuples(*[rows(st.just(n), limit)] * 2))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("teacher_scale", [1e-3, 1e-1, 1.0, 30.0, 1e6])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_match_float64_numpy_on_random_inputs(
    name: str, teacher_scale: float, masked: bool
) -> None:
    rng = np.random.default_rng(0)
    student = f32(rng.normal(scale=3.0, size=(64, 18)))
    teacher = f32(rng.normal(loc=10 * teacher_scale, scale=teacher_scale, size=(64, 18)))
    assert_matches_numpy(name, student, teacher, random_mask(rng, student.shape) if masked else None)


EXTREME_ROWS = [
    [0.0, 1e6, -1e6, 5e5],  # a gap of 1e6
    [1e7, 1.1e7, 1e7, 1.1e7],  # a gap of 1e6 far from zero
    [1e6, 1e6, 0.0, -1e6],  # a tie of the best two at 1e6
    [1e30, -1e30, 1e-30, 0.0],  # large and small
    [1e30, 1e30, 9.9e29, 0.0],  # huge
    [7.25, 7.25, 7.25, 7.25],  # all equal
    [-1e30, -1e30, -1e30, -1e30],  # all equal and huge
    [0.0, 0.0, 0.0, 0.0],  # all zero
    [1.0, 1.0000001, 1.0000002, 1.0],  # a gap below the float32 spacing of most
    [0.01, 0.0, -0.01, 0.02],  # a gap of one temperature
    [1e-40, 0.0, -1e-40, 1e-40],  # subnormal
]


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_match_float64_numpy_on_extreme_inputs(name: str) -> None:
    # A squared difference of 1e30 has no float32; it has its own test.
    extreme = [f32(row) for row in EXTREME_ROWS if name != "mse" or max(map(abs, row)) < 1e18]
    student, teacher = np.split(np.array(list(itertools.product(extreme, extreme))), 2, axis=1)
    assert_matches_numpy(name, student[:, 0], teacher[:, 0])


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "mse"])
def test_a_teacher_gap_beyond_float32_is_an_ordinary_certainty(name: str) -> None:
    student = f32([[0.5, 1.0, -2.0], [-1e30, 3.0, 1e6]])
    assert_matches_numpy(name, student, f32([[3e38, -3e38, 0.0]] * 2))
    assert_matches_numpy(name, student, f32([[-3e37, 3e37, 3e37]] * 2))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [0.0, -3.5, 1e6, 1e15])
def test_a_single_action_costs_only_a_squared_difference(name: str, value: float) -> None:
    student, teacher = f32([[2.0]]), f32([[value]])
    assert_matches_numpy(name, student, teacher)
    if name != "mse":
        assert evaluate(LOSSES[name], student, teacher, None)[0] == 0.0


def test_mse_of_an_unrepresentable_square_is_infinite_with_an_exact_gradient() -> None:
    values, gradients = evaluate(mse_loss, f32([[1e30, 3.0]]), f32([[-1e30, 1.0]]), None)
    assert values == np.inf
    np.testing.assert_allclose(gradients, [[4e30, 4.0]], rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_half_precision_inputs_are_computed_in_float32(name: str, dtype: jnp.dtype, masked: bool) -> None:
    rng = np.random.default_rng(1)
    student = np.asarray(rng.normal(scale=3.0, size=(32, 6)), dtype=dtype)
    teacher = np.asarray(rng.normal(loc=100.0, scale=1.0, size=(32, 6)), dtype=dtype)
    teacher[0] = [60000.0, -60000.0, 0.0, 1.0, 60000.0, 6e-5] if name != "mse" else 100.0
    mask = random_mask(rng, student.shape) if masked else None
    # The gradient has the student's dtype, whose rounding is all that separates it from NumPy's.
    assert_matches_numpy(name, student, teacher, mask, gradient_rtol=float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_absent_actions_may_hold_anything(name: str, garbage: float) -> None:
    rng = np.random.default_rng(2)
    student, teacher = f32(rng.normal(size=(2, 16, 6)))
    mask = random_mask(rng, student.shape)
    mask[0] = np.arange(6) == 3
    student, teacher = np.where(mask, student, f32(garbage)), np.where(mask, teacher, f32(garbage))
    assert_matches_numpy(name, student, teacher, mask)
    _, gradients = evaluate(LOSSES[name], student, teacher, mask)
    assert np.all(np.asarray(gradients)[~mask] == 0.0)


@pytest.mark.parametrize("garbage", GARBAGE)
def test_masked_log_softmax_gives_absent_actions_probability_zero_and_no_gradient(garbage: float) -> None:
    logits = jnp.array([[1.0, garbage, 3.0], [garbage, garbage, 1e30]])
    mask = jnp.array([[True, False, True], [False, False, True]])
    log_probs = np.asarray(masked_log_softmax(logits, mask))
    np.testing.assert_allclose(log_probs[0, [0, 2]], log_softmax_64(np.array([1.0, 3.0])), rtol=1e-6)
    assert log_probs[1, 2] == 0.0
    assert np.all(log_probs[~mask] == -np.inf)
    gradient = jax.grad(lambda logits: masked_log_softmax(logits, mask)[0, 0])(logits)
    np.testing.assert_allclose(gradient, [[1 / (1 + np.exp(-2.0)), 0.0, -1 / (1 + np.exp(-2.0))], [0.0] * 3], rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    student, teacher = f32(np.random.default_rng(3).normal(size=(2, 8, 6)))
    gradient = jax.grad(lambda teacher: LOSSES[name](student, teacher).sum())(teacher)
    assert np.all(gradient == 0.0)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "nll"])
def test_a_nan_of_an_existing_action_is_not_hidden(name: str) -> None:
    assert np.isnan(LOSSES[name](f32([[1.0, 2.0]]), f32([[np.nan, 1.0]])))


@pytest.mark.parametrize("name", LOSSES)
def test_games_with_their_own_action_sets_equal_games_computed_alone(name: str) -> None:
    rng = np.random.default_rng(4)
    student, teacher = f32(rng.normal(size=(2, 3, 8, 6)))
    action_counts = [6, 4, 1]
    mask = (np.arange(6) < np.array(action_counts)[:, None])[:, None, :]
    together = LOSSES[name](student, teacher, mask=mask)
    assert together.shape == (3, 8)
    for game, count in enumerate(action_counts):
        alone = LOSSES[name](student[game, :, :count], teacher[game, :, :count])
        np.testing.assert_allclose(together[game], alone, rtol=1e-5, atol=1e-6)


def test_kl_takes_one_temperature_per_game() -> None:
    student, teacher = f32(np.random.default_rng(5).normal(size=(2, 3, 8, 6)))
    temperatures = f32([0.01, 1.0, 5.0])
    together = jitted_kl_loss(student, teacher, temperature=temperatures[:, None, None])
    for game, temperature in enumerate(temperatures):
        alone = jitted_kl_loss(student[game], teacher[game], temperature=temperature)
        np.testing.assert_allclose(together[game], alone, rtol=1e-5, atol=1e-6)


def test_kl_keeps_its_gradient_where_rounding_would_make_it_negative() -> None:
    rng = np.random.default_rng(6)
    teacher = f32(rng.normal(size=(256, 6)))
    student = f32(teacher + rng.normal(scale=1e-4, size=teacher.shape))
    values, gradients = evaluate(LOSSES["kl_1.0"], student, teacher, None)
    _, expected_gradients = expected("kl_1.0", student, teacher, None)
    assert np.all(values >= 0.0)
    np.testing.assert_allclose(gradients, expected_gradients, atol=5e-7)
    assert np.all(np.abs(gradients).max(axis=-1) > 1e-6)


@given(pair=pairs(), temperature=st.sampled_from(TEMPERATURES))
@no_deadline
def test_kl_is_at_least_twice_the_squared_total_variation(
    pair: tuple[np.ndarray, np.ndarray], temperature: float
) -> None:
    """Pinsker's inequality: KL is never negative, and is zero only where the two policies are the same."""
    student, teacher = pair
    values, gradients = evaluate(LOSSES[f"kl_{temperature}"], student, teacher, None)
    student_policy = np.exp([log_softmax_64(row) for row in student.astype(np.float64)])
    difference = student_policy - np.exp([log_softmax_64(row / temperature) for row in teacher.astype(np.float64)])
    total_variation = np.abs(difference).sum(axis=-1) / 2
    assert np.all(np.isfinite(gradients))
    assert np.all(np.asarray(values) >= np.maximum(2 * total_variation**2 - 1e-5, 0.0))


@given(
    teacher=rows(st.sampled_from([1, 6, 18])),
    shift=st.integers(-100, 100),
    temperature=st.sampled_from(TEMPERATURES),
)
@no_deadline
def test_kl_is_zero_where_the_student_equals_the_sharpened_teacher(
    teacher: np.ndarray, shift: int, temperature: float
) -> None:
    # Rounding each logit moves the policy by the spacing of the largest: subtract the best first, as the loss does.
    student = (teacher - teacher.max(axis=-1, keepdims=True)) / f32(temperature) + f32(shift)
    values, gradients = evaluate(LOSSES[f"kl_{temperature}"], student, teacher, None)
    np.testing.assert_allclose(values, 0.0, atol=1e-5)
    np.testing.assert_allclose(gradients, 0.0, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@given(pair=pairs(), shift=st.integers(-1000, 1000))
@no_deadline
def test_policies_ignore_a_constant_and_squared_differences_a_common_one(
    name: str, pair: tuple[np.ndarray, np.ndarray], shift: int
) -> None:
    student, teacher = pair
    values, gradients = evaluate(LOSSES[name], student, teacher, None)
    shifts = [(shift, shift)] if name == "mse" else [(shift, 0), (0, shift), (shift, -shift)]
    for student_shift, teacher_shift in shifts:
        shifted = evaluate(LOSSES[name], student + f32(student_shift), teacher + f32(teacher_shift), None)
        np.testing.assert_array_equal(shifted[0], values)
        np.testing.assert_array_equal(shifted[1], gradients)


@pytest.mark.parametrize("name", LOSSES)
@given(pair=pairs(), data=st.data())
@no_deadline
def test_padding_with_absent_actions_changes_nothing(
    name: str, pair: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    student, teacher = pair
    width = 19
    slots = np.sort(data.draw(st.permutations(range(width)))[: student.shape[1]])
    garbage = data.draw(hnp.arrays(np.float32, (2, 4, width), elements=st.floats(width=32, allow_subnormal=False)))
    garbage[0][:, slots], garbage[1][:, slots] = student, teacher
    mask = np.isin(np.arange(width), slots)
    values, gradients = evaluate(LOSSES[name], student, teacher, None)
    padded_values, padded_gradients = evaluate(LOSSES[name], garbage[0], garbage[1], mask)
    np.testing.assert_allclose(padded_values, values, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.asarray(padded_gradients)[:, slots], gradients, rtol=1e-6, atol=1e-6)
    assert np.all(np.asarray(padded_gradients)[:, ~mask] == 0.0)


@given(pair=pairs(limit=20))
@no_deadline
def test_nll_is_the_limit_of_kl_for_a_vanishing_temperature(pair: tuple[np.ndarray, np.ndarray]) -> None:
    student, teacher = pair
    # With tied best actions the limit is their mean instead, so the first of them is raised above the others.
    best = teacher.argmax(axis=-1)
    teacher[np.arange(len(teacher)), best] += 1 / 64
    limit = evaluate(almost_greedy_kl_loss, student, teacher, None)
    for kl, nll in zip(limit, evaluate(nll_loss, student, teacher, None), strict=True):
        np.testing.assert_allclose(kl, nll, rtol=1e-5, atol=1e-5)


@given(pair=pairs(), exponent=st.integers(-20, 20), temperature=st.sampled_from(TEMPERATURES))
@no_deadline
def test_kl_depends_only_on_the_ratio_of_q_values_to_temperature(
    pair: tuple[np.ndarray, np.ndarray], exponent: int, temperature: float
) -> None:
    student, teacher = pair
    scale = f32(2.0**exponent)
    scaled = jitted_kl_loss(student, teacher * scale, temperature=f32(temperature) * scale)
    np.testing.assert_array_equal(scaled, jitted_kl_loss(student, teacher, temperature=f32(temperature)))


@given(
    student=hnp.arrays(np.float32, (4, 6), elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)),
    teacher=hnp.arrays(np.float32, (4, 6), elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)),
)
@settings(no_deadline, max_examples=200)
def test_policy_losses_are_finite_at_any_scale(student: np.ndarray, teacher: np.ndarray) -> None:
    for name in ("nll", "kl_0.01"):
        values, gradients = evaluate(LOSSES[name], student, teacher, None)
        assert np.all(np.isfinite(values)) and np.all(np.asarray(values) >= 0.0)
        assert np.all(np.abs(gradients) <= 1.0 + 1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_inputs_that_break_the_contract_are_refused(name: str) -> None:
    loss = LOSSES[name]
    with pytest.raises(AssertionError):
        loss(jnp.zeros((4, 6)), jnp.zeros((4, 5)))
    with pytest.raises(AssertionError):
        loss(jnp.zeros((4, 6)), jnp.zeros((1, 6)))
    with pytest.raises(AssertionError):
        loss(jnp.zeros((4, 6), jnp.int32), jnp.zeros((4, 6)))
    with pytest.raises(AssertionError):
        loss(jnp.zeros((4, 6)), jnp.zeros((4, 6)), mask=jnp.ones((4, 5), bool))
    with pytest.raises(AssertionError):
        loss(jnp.zeros((4, 6)), jnp.zeros((4, 6)), mask=jnp.ones((4, 6)))


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan")])
def test_kl_refuses_a_temperature_that_is_not_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature is {temperature}; it must be above 0"):
        kl_loss(jnp.zeros((4, 6)), jnp.zeros((4, 6)), temperature=temperature)
