"""Decisions that nobody took, for the tests of audits."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from pd_jax.deploy.audit.play import Play


def made_play(lengths: list[int], seed: int = 0, **columns: Any) -> Play:
    """Decisions of some games, with outputs and rewards from a generator; the last game was cut."""
    generator, count = np.random.default_rng(seed), sum(lengths)
    ends = np.cumsum(lengths) - 1
    terminated, truncated = np.zeros(count, bool), np.zeros(count, bool)
    terminated[ends[:-1]], truncated[ends[-1]] = True, True
    outputs = {who: generator.normal(size=(count, 3)).astype(np.float32) for who in ("student", "teacher")}
    ages = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
    play = Play(
        outputs=outputs,
        features=generator.normal(size=(count, 4)).astype(np.float32),
        actions=outputs["teacher"].argmax(axis=1).astype(np.int32),
        rewards=generator.choice([-2.0, 0.0, 1.0], size=count, p=[0.1, 0.6, 0.3]).astype(np.float32),
        lives_lost=generator.random(count) < 0.1,
        terminated=terminated,
        truncated=truncated,
        games=np.repeat(np.arange(len(lengths)), lengths).astype(np.int32),
        lanes=np.zeros(count, np.int32),
        steps=np.arange(count, dtype=np.int32),
        ages=ages,
        vectors=None,
        frames=None,
        returns=np.array([]),
    )
    return dataclasses.replace(play, **columns)
