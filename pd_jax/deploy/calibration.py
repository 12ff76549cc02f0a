"""Thresholds for `pd_jax.deploy.monitor`, worked out from healthy play. NumPy alone.

Decisions along an episode are alike, so that tests for independent numbers cry wolf. Three things are done about it:
means over blocks of decisions of one lane are tested instead of decisions; the thresholds are those that streams stay
below which are put together from long pieces of the recorded blocks, with their order in them; and the mean that a
stream is compared with is taken from other lanes than the stream, so that its own error is in the thresholds too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pd_jax.errors import UserError

HORIZON_DECISIONS = 200_000
"""Length of the streams that are put together; of small blocks it is a thousand."""
_STREAMS, _MOST_BLOCKS = 300, 1000
_MIN_STRANDS, _MIN_STRAND_BLOCKS = 8, 4
# Of the model that tells signals from others: what of a block's deviations counts, and its ridge.
_CONTEXT_CLIP, _CONTEXT_RIDGE = 3.0, 0.1
_LEAST_REST = 0.05
_EULER = 0.5772156649015329


class Block(NamedTuple):
    """Means over successive decisions of a lane.

    Attributes:
      lane: its number.
      values: ``[S]`` of the signals; NaN where there was nothing to take a mean of.
      weights: ``[S]``: how much there was.
    """

    lane: int
    values: np.ndarray
    weights: np.ndarray


class Blocks:
    """Adds up signals, lane by lane, into blocks of ``size`` decisions."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._sums = self._weights = self._counts = np.zeros(0)

    def add(self, values: np.ndarray, weights: np.ndarray, decided: np.ndarray) -> list[Block]:
        """Takes in a step, ``[N, S]``, ``[N, S]`` and ``[N]``, and returns the blocks that are full now."""
        if not len(self._counts):
            self._sums, self._weights = np.zeros(values.shape), np.zeros(values.shape)
            self._counts = np.zeros(len(values), int)
        self._sums += values * weights
        self._weights += weights
        self._counts += decided
        full = np.flatnonzero(self._counts >= self._size)
        blocks = []
        for lane in full:
            total = self._weights[lane].copy()
            means = np.divide(self._sums[lane], total, out=np.full(len(total), np.nan), where=total > 0)
            blocks.append(Block(int(lane), means, total))
        self._sums[full], self._weights[full], self._counts[full] = 0.0, 0.0, 0
        return blocks


class Usual(NamedTuple):
    """What blocks of healthy play are like, signal by signal; ``[S]`` each but for ``explained``.

    How the world answers, and how far from the usual its frames are, depends on where in the game one is. So such
    signals are told from others, by a linear model of blocks, and what is left is tested.

    Attributes:
      means, deviations: of the blocks' values; a deviation of 0 stands for a signal that cannot be watched.
      weights: what a block usually has.
      explained: ``[S, S]``: a column for each signal, of what a deviation of each other explains of its.
      rests: deviation of what is left.
    """

    means: np.ndarray
    deviations: np.ndarray
    weights: np.ndarray
    explained: np.ndarray
    rests: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray, floors: np.ndarray, contexts: np.ndarray) -> Usual:
        """Of blocks ``[n, S]``.

        Args:
          values, weights: theirs.
          floors: ``[S]``, least deviations.
          contexts: bool ``[S, S]``: whether the signal of a row may explain that of a column.
        """
        total = weights.sum(axis=0)
        means = (np.where(weights > 0, values, 0.0) * weights).sum(axis=0) / np.where(total > 0, total, 1.0)
        usual_weights = np.where(total > 0, weights.mean(axis=0), 1.0)
        ones = np.ones(len(means))
        raw = cls(means, ones, usual_weights, np.zeros(contexts.shape), ones)
        deviations = np.sqrt((raw._deviations(values, weights) ** 2).mean(axis=0))
        raw = raw._replace(deviations=np.where(total > 0, np.maximum(deviations, floors), 0.0))
        found = raw._deviations(values, weights)
        known = np.clip(found, -_CONTEXT_CLIP, _CONTEXT_CLIP)
        products, moments = known.T @ known / len(known), known.T @ found / len(known)
        explained = np.zeros(contexts.shape)
        for signal in np.flatnonzero(contexts.any(axis=0) & (raw.deviations > 0)):
            others = np.flatnonzero(contexts[:, signal] & (raw.deviations > 0))
            ridge = products[np.ix_(others, others)] + _CONTEXT_RIDGE * np.eye(len(others))
            explained[others, signal] = np.linalg.solve(ridge, moments[others, signal])
        left = found - known @ explained
        rests = np.maximum(np.sqrt((left**2).mean(axis=0)), _LEAST_REST)
        return raw._replace(explained=explained, rests=np.where(contexts.any(axis=0), rests, 1.0))

    def standardise(self, values: np.ndarray, weights: np.ndarray, clip: float) -> np.ndarray:
        """Blocks ``[..., S]`` in deviations; NaN where there is no value, or the signal cannot be watched.

        A block with little to tell by counts for less, and none for more than ``clip``: one that is strange is no
        change.
        """
        found = self._deviations(values, weights)
        left = (found - np.clip(found, -_CONTEXT_CLIP, _CONTEXT_CLIP) @ self.explained) / self.rests
        is_known = (weights > 0) & (self.deviations > 0)
        clipped: np.ndarray = np.where(is_known, np.clip(left, -clip, clip), np.nan)
        return clipped

    def _deviations(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """As they are, before anything is explained; 0 where there is nothing."""
        certainty = np.sqrt(np.minimum(1.0, weights / self.weights))
        scales = np.where(self.deviations > 0, self.deviations, np.inf)
        found: np.ndarray = np.where(weights > 0, (values - self.means) * certainty / scales, 0.0)
        return found


class Limits(NamedTuple):
    """What is usual, and how far from it is an alarm.

    Attributes:
      usual: blocks.
      above, below: thresholds of Page and Hinkley's test for rises and for falls, in deviations, ``[S]``; infinite for
        signals that only explain others.
      blocks: number of them that this was learnt from.
    """

    usual: Usual
    above: np.ndarray
    below: np.ndarray
    blocks: int


def page_hinkley(deviations: np.ndarray, seen: int, slack: float) -> tuple[np.ndarray, np.ndarray]:
    """What `river.drift.PageHinkley` (Page 1954) compares with its threshold, for rises and for falls.

    Args:
      deviations: ``[..., T]``.
      seen: zeros that the test has seen before: its mean is one of all it has seen.
      slack: its ``delta``.

    Returns:
      ``[..., T]`` each, at least 0.
    """
    steps = np.arange(1, deviations.shape[-1] + 1)
    from_mean = deviations - np.cumsum(deviations, axis=-1) / (seen + steps)
    found = []
    for sign in (1.0, -1.0):
        sums = np.cumsum(sign * from_mean - slack, axis=-1)
        found.append(sums - np.minimum(np.minimum.accumulate(sums, axis=-1), 0.0))
    return found[0], found[1]


def fit_limits(
    blocks: Sequence[Block],
    *,
    block_size: int,
    episode_length: float,
    floors: np.ndarray,
    contexts: np.ndarray,
    is_tested: np.ndarray,
    slack: float,
    clip: float,
    false_alarms_per_million: float,
    seed: int,
) -> Limits:
    """Works out what is usual, and thresholds that it stays below.

    Args:
      blocks: of healthy play, in the order of time.
      block_size: decisions in each.
      episode_length: mean, in decisions: blocks are taken together in pieces of about that length.
      floors: ``[S]``, least deviations.
      contexts: bool ``[S, S]``: whether the signal of a row may explain that of a column.
      is_tested: bool ``[S]``: the others only explain.
      slack: of the test: what it does not add up.
      clip: most deviations that a block counts for.
      false_alarms_per_million: decisions; of all signals together, which share it equally (Bonferroni).
      seed: of the streams.

    Raises:
      UserError: there are too few blocks.
    """
    strands = _strands(blocks, block_size)
    values, weights = (np.concatenate([each[part] for each in strands]) for part in (0, 1))
    usual = Usual.of(values, weights, floors, contexts)
    count = min(_MOST_BLOCKS, max(1, round(HORIZON_DECISIONS / block_size)))
    tests = 2 * max(1, int((is_tested & (usual.deviations > 0)).sum()))
    expected = false_alarms_per_million * count * block_size / 1e6 / tests
    generator = np.random.default_rng(seed)
    piece = max(1, round(episode_length / block_size))
    maxima = np.zeros((2, _STREAMS, len(floors)))
    for stream in range(_STREAMS):
        order = generator.permutation(len(strands))
        half = len(order) // 2
        learnt = [np.concatenate([strands[index][part] for index in order[:half]]) for part in (0, 1)]
        played = _made_up([strands[index] for index in order[half:]], count, piece, generator)
        deviations = np.nan_to_num(Usual.of(learnt[0], learnt[1], floors, contexts).standardise(*played, clip))
        for direction, statistic in enumerate(page_hinkley(deviations.T, len(values), slack)):
            maxima[direction, stream] = statistic.max(axis=1)
    # Maxima of many steps of a sum that drifts back are Gumbel's, as those of exponential tails (Siegmund 1985).
    scale = maxima.std(axis=1) * math.sqrt(6.0) / math.pi
    place = maxima.mean(axis=1) - _EULER * scale
    # Where almost none is allowed: -log(1 - p) is p.
    thresholds = np.maximum(place - scale * math.log(expected), clip + 1.0)
    above, below = np.where(is_tested & (usual.deviations > 0), thresholds, np.inf)
    return Limits(usual, above, below, len(values))


def _strands(blocks: Sequence[Block], block_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Values and weights ``[n, S]`` of each lane, in pieces where there are few lanes."""
    lanes = sorted({block.lane for block in blocks})
    pieces = _pieces(len(lanes))
    strands = []
    for lane in lanes:
        own = [block for block in blocks if block.lane == lane]
        values, weights = np.stack([each.values for each in own]), np.stack([each.weights for each in own])
        for index in np.array_split(np.arange(len(own)), pieces):
            if len(index) >= _MIN_STRAND_BLOCKS:
                strands.append((values[index], weights[index]))
    if len(strands) < _MIN_STRANDS:
        raise UserError(
            f"too little play: {len(strands)} stretches of at least {_MIN_STRAND_BLOCKS} blocks of {block_size} "
            f"decisions of one lane to calibrate on, and {_MIN_STRANDS} are needed; give more decisions, or smaller "
            "blocks"
        )
    return strands


def _pieces(lanes: int) -> int:
    return max(1, -(-_MIN_STRANDS // max(1, lanes)))


def blocks_needed(lanes: int) -> int:
    """Blocks of each of so many lanes that are enough for `fit_limits`."""
    return _MIN_STRAND_BLOCKS * _pieces(lanes)


def are_enough(blocks: Sequence[int]) -> bool:
    """Whether so many blocks, of each lane, are enough for `fit_limits`."""
    pieces = _pieces(sum(1 for count in blocks if count))
    lengths = [len(each) for count in blocks for each in np.array_split(np.arange(count), pieces)]
    return sum(length >= _MIN_STRAND_BLOCKS for length in lengths) >= _MIN_STRANDS


def _made_up(
    strands: Sequence[tuple[np.ndarray, np.ndarray]], count: int, piece: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights ``[count, S]`` of a stream of pieces of strands, wherever these begin."""
    lengths = [len(values) for values, _ in strands]
    piece = min(piece, *lengths)
    ends = np.cumsum(lengths)
    beginnings = np.concatenate(
        [np.arange(end - length, end - piece + 1) for end, length in zip(ends, lengths, strict=True)]
    )
    starts = generator.choice(beginnings, size=-(-count // piece))
    index = (starts[:, None] + np.arange(piece)).reshape(-1)[:count]
    values, weights = (np.concatenate([each[part] for each in strands])[index] for part in (0, 1))
    return values, weights
