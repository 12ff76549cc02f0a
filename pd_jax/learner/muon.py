"""Muon (Jordan et al. 2024), which students and teachers may learn by: momentum made orthogonal, matrix by matrix."""

from __future__ import annotations

import math
from typing import Any

import jax
import optax
import optax.contrib
from jax import Array

# Inputs and outputs from which on a matrix is left to Adam: Newton and Schulz would take longer than all the rest of an
# update, and students learn more in the same time without.
_WIDE = 256


def muon(learning_rate: optax.Schedule, *, vectors: float = 1.0) -> optax.GradientTransformation:
    """Muon for matrices; Adam for vectors, and for matrices that are too wide for Muon, those at a tenth of the rate.

    Args:
      learning_rate: of Muon, by the number of updates so far.
      vectors: share of it that biases and scales are learnt at.
    """
    # With rows and columns scaled beforehand, three steps of Newton and Schulz do what five do otherwise; they are
    # what an update of Muon costs beside one of Adam.
    narrow = optax.contrib.muon(
        learning_rate,
        ns_steps=3,
        preconditioning="aol",
        muon_weight_dimension_numbers=_matrices,
        adam_learning_rate=lambda count: learning_rate(count) * vectors,
    )
    wide = optax.adam(lambda count: learning_rate(count) / 10.0)
    either = optax.partition({"muon": narrow, "wide": wide}, _labels)

    def suited(tree: Any) -> optax.GradientTransformation:
        # Without wide ones the state is that of Muon alone.
        return either if "wide" in jax.tree.leaves(_labels(tree)) else narrow

    return optax.GradientTransformation(
        lambda params: suited(params).init(params),
        lambda updates, state, params=None: suited(updates).update(updates, state, params),
    )


def _labels(params: Any) -> Any:
    """Which matrices are wide; all else is ``muon``, which leaves biases to Adam itself."""

    def of(leaf: Array) -> str:
        inputs, outputs = math.prod(leaf.shape[1 if leaf.ndim == 3 else 0 : -1]), leaf.shape[-1] if leaf.ndim else 1
        return "wide" if leaf.ndim >= 2 and min(inputs, outputs) >= _WIDE else "muon"

    return jax.tree.map(of, params)


def _matrices(params: Any) -> Any:
    """What Muon is to see as a matrix: inputs by outputs of every layer, of each game apart. Adam takes the others."""

    def of(leaf: Array) -> Any:
        # What is not Muon's to update has been masked.
        if isinstance(leaf, optax.MaskedNode) or leaf.ndim < 2:
            return None
        # Kernels are [in, out], HWIO, or of several games' heads [G, in, out].
        inputs = (1,) if leaf.ndim == 3 else tuple(range(leaf.ndim - 1))
        return optax.contrib.MuonDimensionNumbers(inputs, leaf.ndim - 1)

    return jax.tree.map(of, params, is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode))
