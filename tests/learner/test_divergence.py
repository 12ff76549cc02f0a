"""Broken training states are noticed."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from pd_jax.errors import UserError
from pd_jax.learner.divergence import check_loss, check_weights


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(UserError, match=r"^the loss became -?(nan|inf) by update 7; .*: go slower$"):
        check_loss(bad, "update 7", "go slower")
    weights = {"kernel": jnp.ones((3, 2)).at[2, 1].set(bad), "bias": jnp.zeros(2, jnp.bfloat16)}
    with pytest.raises(UserError, match=r"^the weights became NaN or infinite by step 9; .*: go slower$"):
        check_weights(weights, "step 9", "go slower")


def test_what_is_finite_passes() -> None:
    check_loss(1e30, "update 7", "")
    check_weights({"kernel": jnp.full(3, 1e38), "bias": jnp.zeros(2, jnp.bfloat16)}, "update 7", "")
