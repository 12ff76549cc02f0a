"""The parameters of a student whose games become more, fewer or others: heads come and go, the torso stays.

A network of several games has its heads stacked, one of a single game has a plain one. With the same layers they are
the same head in two shapes, and :func:`heads_of` goes between them. Where the added games show longer vectors, the
torso's first layer has rows that no old game reaches: these are new parameters, as new heads are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np


def heads_of(params: Mapping[str, Any], places: Sequence[int], *, several: bool) -> dict[str, Any]:
    """The parameters of a student for some of its games, in any order: the torso as it is, and their heads.

    Args:
      params: of a student of one game or of several, arrays with shapes and indices.
      places: of the games that are wanted, on its game axis; of a student of one game just 0.
      several: whether they are for a network of several games; otherwise there is one place.

    Returns:
      parameters, which share arrays with those given.
    """
    head = params["head"]
    stacked = {name: layer for name, layer in head.items() if not name.startswith("output")}
    if "output" in head:
        own = jax.tree.map(lambda leaf: leaf[None], stacked) if several else stacked
        return {**params, "head": {**own, "output0" if several else "output": head["output"]}}
    index: Any = np.array(places) if several else places[0]
    own = jax.tree.map(lambda leaf: leaf[index], stacked)
    names = [f"output{number}" for number in range(len(places))] if several else ["output"]
    outputs = {name: head[f"output{place}"] for name, place in zip(names, places, strict=True)}
    return {**params, "head": own | outputs}


def grown(fresh: Any, old: Any) -> Any:
    """The parameters of a student that plays more games: those of the old one where it has them, others fresh.

    Args:
      fresh: of a fresh student of all games, NumPy arrays; the old student's games come first.
      old: of the old student as one of several games, see :func:`heads_of`.

    Returns:
      NumPy arrays, in the shapes of ``fresh``.
    """
    if isinstance(fresh, Mapping):
        return {name: grown(leaf, old[name]) if name in old else leaf for name, leaf in fresh.items()}
    whole = np.array(fresh)
    whole[tuple(slice(size) for size in old.shape)] = old
    return whole


def old_elements(whole: Any, old: Any) -> Any:
    """Which parameters of a student that plays more games are the old one's.

    Args:
      whole: of the student of all games, arrays or shapes.
      old: as for :func:`grown`, arrays or shapes.

    Returns:
      in the structure of ``whole``, bool arrays that broadcast to its shapes, as small as that allows.
    """
    if isinstance(whole, Mapping):
        return {
            name: old_elements(leaf, old[name]) if name in old else jax.tree.map(lambda _: np.array(False), leaf)
            for name, leaf in whole.items()
        }
    is_old = np.array(True)
    for axis, (now, before) in enumerate(zip(whole.shape, old.shape, strict=True)):
        if now != before:
            is_old = is_old & (np.arange(now) < before).reshape(-1, *(1,) * (len(whole.shape) - axis - 1))
    return is_old
