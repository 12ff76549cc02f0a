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

from pd_jax.losses import (
    action_gap_weights,
    advantage_huber_loss,
    advantage_mse_loss,
    entropy_weights,
    expected_entropy_loss,
    huber_loss,
    jsd_loss,
    kl_loss,
    masked_log_softmax,
    mse_loss,
    nll_loss,
    policy_entropy,
    reverse_kl_loss,
)

TEMPERATURES = [0.01, 1.0, 5.0]
Loss = Callable[..., jax.Array]
LOSSES: dict[str, Loss] = {
    "nll": nll_loss,
    "mse": mse_loss,
    **{f"kl_{temperature}": partial(kl_loss, temperature=temperature) for temperature in TEMPERATURES},
    "huber_1": partial(huber_loss, delta=1.0),
    "huber_0.05": partial(huber_loss, delta=0.05),
    "reverse-kl_0.01": partial(reverse_kl_loss, temperature=0.01),
    "reverse-kl_1": partial(reverse_kl_loss, temperature=1.0),
    "expected-entropy_0.01": partial(expected_entropy_loss, temperature=0.01),
    "expected-entropy_5": partial(expected_entropy_loss, temperature=5.0),
    "jsd_0.01_0.5": partial(jsd_loss, temperature=0.01, beta=0.5),
    "jsd_1_0.001": partial(jsd_loss, temperature=1.0, beta=0.001),
    "jsd_5_0.9": partial(jsd_loss, temperature=5.0, beta=0.9),
    "advantage-mse_0.01": partial(advantage_mse_loss, temperature=0.01),
    "advantage-mse_5": partial(advantage_mse_loss, temperature=5.0),
    "advantage-huber_0.01_1": partial(advantage_huber_loss, temperature=0.01, delta=1.0),
    "advantage-huber_1_3": partial(advantage_huber_loss, temperature=1.0, delta=3.0),
}
OF_Q = ("mse", "huber_1", "huber_0.05")
# What they cost grows with the teacher's gap, whatever the student does.
UNBOUNDED = [name for name in LOSSES if name.startswith(("reverse", "expected", "advantage"))]
POLICIES = [name for name in LOSSES if name.startswith(("kl", "reverse", "expected", "jsd"))]
no_deadline = settings(deadline=None)  # the first example of each shape waits for the compiler
jitted_kl_loss, jitted_reverse_kl_loss = jax.jit(kl_loss), jax.jit(reverse_kl_loss)
jitted_expected_entropy_loss, jitted_entropy = jax.jit(expected_entropy_loss), jax.jit(policy_entropy)
jitted_jsd_loss = jax.jit(jsd_loss, static_argnames="beta")
almost_greedy_kl_loss = partial(kl_loss, temperature=1e-4)
GARBAGE = [np.nan, np.inf, -np.inf, 3e38, -3e38]


def f32(values: ArrayLike) -> np.ndarray:
    return np.asarray(values, np.float32)


def log_softmax_64(row: np.ndarray) -> np.ndarray:
    shifted = row - row.max()
    return shifted - np.log(np.exp(shifted).sum())


def huber_64(differences: np.ndarray, delta: float) -> tuple[float, np.ndarray]:
    size = np.abs(differences)
    values = np.where(size <= delta, differences**2 / 2, delta * (size - delta / 2))
    return float(values.sum()), np.clip(differences, -delta, delta)


def expected_row(name: str, student: np.ndarray, teacher: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss of one row of existing actions and its gradient in the student, float64, from the formulas of the papers."""
    student, teacher = student.astype(np.float64), teacher.astype(np.float64)
    kind, *numbers = name.split("_")
    settings = [float(number) for number in numbers]
    log_student, best = log_softmax_64(student), int(np.flatnonzero(teacher == teacher.max())[0])
    if kind == "mse":
        return float(((teacher - student) ** 2).sum()), 2 * (student - teacher)
    if kind == "huber":
        return huber_64(student - teacher, settings[0])
    if kind == "nll":
        return float(-log_student[best]), np.exp(log_student) - np.eye(len(student))[best]
    sharpened = (teacher - teacher.max()) / settings[0]
    if kind.startswith("advantage"):
        differences = student - student[best] - sharpened
        value, gradient = float((differences**2).sum()), 2 * differences
        if kind == "advantage-huber":
            value, gradient = huber_64(differences, settings[1])
        gradient = gradient.copy()
        gradient[best] -= gradient.sum()
        return value, gradient
    log_teacher = log_softmax_64(sharpened)
    p, s = np.exp(log_teacher), np.exp(log_student)
    if kind == "kl":
        kept = p > 0
        return float((p[kept] * (log_teacher[kept] - log_student[kept])).sum()), s - p
    if kind in ("reverse-kl", "expected-entropy"):
        costs = (log_student if kind == "reverse-kl" else 0.0) - log_teacher
    else:
        beta = settings[1]
        with np.errstate(divide="ignore"):
            log_mixture = np.logaddexp(np.log(beta) + log_teacher, np.log1p(-beta) + log_student)
        costs = np.where(s > 0, log_student - log_mixture, 0.0)
        of_teacher = (p[p > 0] * (log_teacher - log_mixture)[p > 0]).sum()
        value = beta * of_teacher + (1 - beta) * (s * costs).sum()
        # d/dπ of the whole is (1 - β) log π/m: what the mixture does to both terms cancels.
        return float(value), (1 - beta) * s * (costs - (s * costs).sum())
    costs = np.where(s > 0, costs, 0.0)
    # The sum by pairs: in float64 too, π (c - Σ π c) would lose what is small beside gaps of 1e8.
    return float((s * costs).sum()), (s[:, None] * s * (costs[:, None] - costs)).sum(axis=1)


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
    if name.startswith(("reverse", "expected", "advantage")):
        # Each is a sum over actions, of terms as large as the row's largest gradient: no float32 sum is more exact.
        largest = np.maximum(1.0, np.abs(expected_gradients).max(axis=-1, keepdims=True))
        if student.dtype == np.float16:
            expected_gradients = expected_gradients.clip(-65504, 65504)
        gradients, expected_gradients = np.float64(gradients) / largest, expected_gradients / largest
    elif student.dtype == np.float16:
        expected_gradients = expected_gradients.clip(-65504, 65504)
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
    # A squared difference of 1e30 has no float32, and a gap of 1e30 / 0.01 is cut off; they have their own tests.
    largest = 1e16 if "mse" in name else 1e27 if name in UNBOUNDED else np.inf
    extreme = [f32(row) for row in EXTREME_ROWS if max(map(abs, row)) < largest]
    student, teacher = np.split(np.array(list(itertools.product(extreme, extreme))), 2, axis=1)
    assert_matches_numpy(name, student[:, 0], teacher[:, 0])


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in (*OF_Q, *UNBOUNDED)])
def test_a_teacher_gap_beyond_float32_is_an_ordinary_certainty(name: str) -> None:
    student = f32([[0.5, 1.0, -2.0], [-1e30, 3.0, 1e6]])
    assert_matches_numpy(name, student, f32([[3e38, -3e38, 0.0]] * 2))
    assert_matches_numpy(name, student, f32([[-3e37, 3e37, 3e37]] * 2))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [0.0, -3.5, 1e6, 1e15])
def test_a_single_action_costs_only_a_squared_difference(name: str, value: float) -> None:
    student, teacher = f32([[2.0]]), f32([[value]])
    assert_matches_numpy(name, student, teacher)
    if name not in OF_Q:
        assert evaluate(LOSSES[name], student, teacher, None)[0] == 0.0


@pytest.mark.parametrize("name", UNBOUNDED)
def test_a_gap_that_has_no_float32_costs_much_and_has_a_finite_gradient(name: str) -> None:
    student = f32([[0.5, 1.0, -2.0], [-1e30, 3.0, 1e6], [0.0, 0.0, 0.0]])
    for teacher in (f32([[3e38, -3e38, 0.0]] * 3), f32([[-3e37, 3e37, 3e37]] * 3)):
        values, gradients = evaluate(LOSSES[name], student, teacher, None)
        assert np.all(np.isfinite(gradients))
        assert np.all(np.isfinite(values)) or "mse" in name
        # The least likely of the teacher's actions is the one whose output is to fall most.
        assert np.asarray(gradients)[2].argmax() == teacher[2].argmin()


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
    shifts = [(shift, shift)] if name in OF_Q else [(shift, 0), (0, shift), (shift, -shift)]
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


@pytest.mark.parametrize("name", LOSSES)
@given(pair=pairs(limit=20), masked=st.booleans(), seed=st.integers(0, 2**16))
@no_deadline
def test_values_and_gradients_match_float64_numpy_on_any_inputs(
    name: str, pair: tuple[np.ndarray, np.ndarray], masked: bool, seed: int
) -> None:
    mask = random_mask(np.random.default_rng(seed), pair[0].shape) if masked else None
    assert_matches_numpy(name, *pair, mask)


@given(pair=pairs(limit=2))
@no_deadline
def test_jsd_is_symmetric_at_a_half_bounded_and_becomes_kl_at_its_ends(pair: tuple[np.ndarray, np.ndarray]) -> None:
    student, teacher = pair
    loss = partial(jitted_jsd_loss, temperature=1.0)
    np.testing.assert_allclose(loss(student, teacher, beta=0.5), loss(teacher, student, beta=0.5), atol=1e-6)
    assert np.all(np.asarray(loss(student, teacher, beta=0.2)) <= -0.2 * np.log(0.2) - 0.8 * np.log(0.8) + 1e-6)
    forward, reverse = (
        values(student, teacher, temperature=1.0) for values in (jitted_kl_loss, jitted_reverse_kl_loss)
    )
    np.testing.assert_allclose(loss(student, teacher, beta=1e-4) / 1e-4, forward, rtol=0.02, atol=2e-2)
    np.testing.assert_allclose(loss(student, teacher, beta=1 - 1e-4) / 1e-4, reverse, rtol=0.02, atol=2e-2)


@given(pair=pairs(limit=20))
@no_deadline
def test_reverse_kl_is_kl_turned_round_and_expected_entropy_is_it_without_the_students_own(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    student, teacher = pair
    reverse = jitted_reverse_kl_loss(student, teacher, temperature=1.0)
    np.testing.assert_allclose(reverse, jitted_kl_loss(teacher, student, temperature=1.0), rtol=1e-5, atol=1e-5)
    own = jitted_entropy(student, temperature=1.0)
    cross = jitted_expected_entropy_loss(student, teacher, temperature=1.0)
    np.testing.assert_allclose(cross, reverse + own, rtol=1e-5, atol=1e-5)


@given(pair=pairs(limit=20), temperature=st.sampled_from(TEMPERATURES))
@no_deadline
def test_advantages_agree_exactly_where_the_students_policy_is_the_teachers(
    pair: tuple[np.ndarray, np.ndarray], temperature: float
) -> None:
    _, teacher = pair
    student = (teacher - teacher.max(axis=-1, keepdims=True)) / f32(temperature) + f32(7.0)
    for loss in (advantage_mse_loss, partial(advantage_huber_loss, delta=1.0)):
        np.testing.assert_allclose(loss(student, teacher, temperature=temperature), 0.0, atol=1e-4)


def test_huber_on_advantages_pulls_at_a_far_action_and_the_best_alone() -> None:
    # The last action is 1,000 too bad for the teacher; the student has the others right.
    loss = partial(advantage_huber_loss, teacher_q=f32([3, 2, 1, -1000]), temperature=1.0, delta=1.0)
    np.testing.assert_allclose(jax.grad(loss)(f32([3, 2, 1, 0])), [-1, 0, 0, 1], atol=1e-6)


@pytest.mark.parametrize("kind", [reverse_kl_loss, expected_entropy_loss, advantage_mse_loss, kl_loss])
@pytest.mark.parametrize("factor", [2.0**-10, 2.0**10])
def test_losses_with_a_temperature_do_not_see_a_common_factor_of_outputs_and_temperature(
    kind: Loss, factor: float
) -> None:
    student, teacher = f32(np.random.default_rng(7).normal(size=(2, 8, 6)))
    values = kind(student, teacher, temperature=f32(0.03))
    np.testing.assert_array_equal(kind(student, teacher * f32(factor), temperature=f32(0.03 * factor)), values)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
def test_weights_are_gaps_and_reciprocals_of_entropies_of_the_actions_that_exist(dtype: jnp.dtype) -> None:
    rng = np.random.default_rng(8)
    teacher = np.asarray(rng.normal(size=(64, 6)), dtype=dtype)
    mask = random_mask(rng, teacher.shape)
    teacher[0], mask[0] = 2.0, True
    gaps, weights, entropies = np.zeros(64), np.zeros(64), np.zeros(64)
    for row, present in enumerate(mask):
        outputs = np.sort(teacher[row, present].astype(np.float64))
        log_p = log_softmax_64(outputs / 0.5)
        entropies[row] = -(np.exp(log_p) * log_p).sum()
        gaps[row] = outputs[-1] - outputs[-2] if len(outputs) > 1 else 0.0
        weights[row] = 1 / ((entropies[row] / np.log(len(outputs)) if len(outputs) > 1 else 0.0) + 0.1)
    teacher = np.where(mask, teacher, np.asarray(np.nan, dtype=dtype))
    np.testing.assert_allclose(action_gap_weights(teacher, mask=mask), gaps, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(policy_entropy(teacher, temperature=0.5, mask=mask), entropies, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(entropy_weights(teacher, temperature=0.5, mask=mask), weights, rtol=1e-5)


def test_weights_of_extreme_outputs_are_finite() -> None:
    extreme = f32([*EXTREME_ROWS, [3e38, -3e38, 0.0, 1.0]])
    for weights in (action_gap_weights(extreme), entropy_weights(extreme, temperature=0.01)):
        assert np.all(np.isfinite(weights)) and np.all(np.asarray(weights) >= 0.0)
    assert np.isnan(action_gap_weights(f32([[np.nan, 1.0]]))[0])


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5, float("nan")])
def test_a_share_of_the_mixture_is_between_0_and_1(beta: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        jsd_loss(f32([[0.0]]), f32([[0.0]]), temperature=1.0, beta=beta)


def test_deltas_and_temperatures_are_above_0() -> None:
    with pytest.raises(ValueError, match="delta"):
        huber_loss(f32([[0.0]]), f32([[0.0]]), delta=0.0)
    for loss in (reverse_kl_loss, expected_entropy_loss, advantage_mse_loss, partial(jsd_loss, beta=0.5)):
        with pytest.raises(ValueError, match="temperature"):
            loss(f32([[0.0]]), f32([[0.0]]), temperature=-1.0)
