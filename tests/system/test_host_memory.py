"""What is given back to the operating system holds nothing, and is given back."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.replay.replay import Replay, RingSize
from pd_jax.system import host_memory
from pd_jax.system.devices import DeviceGroup
from pd_jax.types import Trajectory

PAGE = mmap.PAGESIZE
needs_glibc = pytest.mark.skipif(host_memory._glibc() is None, reason="needs Linux and glibc")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@needs_glibc
@given(first=st.integers(0, 3 * PAGE), size=st.integers(0, 5 * PAGE))
def test_only_whole_pages_among_the_bytes_are_let_go_of(first: int, size: int) -> None:
    memory = mmap.mmap(-1, 8 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    values = np.frombuffer(memory, np.uint8)
    values[:] = 1
    library = host_memory._glibc()
    assert library is not None
    host_memory._forget(library, values.ctypes.data + first, size)
    pages = values.reshape(8, PAGE)
    inside = [first <= page * PAGE and (page + 1) * PAGE <= first + size for page in range(8)]
    assert [not page.any() for page in pages] == inside
    assert [bool(page.all()) for page in pages] == [not within for within in inside]


@needs_glibc
def test_an_empty_replay_takes_what_is_stored_in_it() -> None:
    capacity, frame = 4_000, (84, 84)
    size = 2 * capacity * 84 * 84
    ring = RingSize(2, capacity, frame, np.uint8, 3)
    # What is compiled for it stays, and what is freed is not to be taken for it.
    Replay([ring], DeviceGroup.local(1))
    host_memory.release_freed()
    before = resident_bytes()
    replay = Replay([ring], DeviceGroup.local(1))
    assert resident_bytes() - before < size / 4
    stored = jax.tree.map(np.asarray, replay.stored[0])
    assert all(not leaf.any() for leaf in jax.tree.leaves(stored))
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (64, 2, *frame), np.uint8)
    flags = np.ones((64, 2), bool)
    zeros: Any = np.zeros((64, 2))
    played: Any = (frames, flags, flags, zeros.astype(np.int32), zeros.astype(np.float32), np.ones((64, 2, 3), "f4"))
    replay.insert(0, Trajectory(*played))
    kept = replay.to_host()[0]
    np.testing.assert_array_equal(kept.observations[:, :64], frames.transpose(1, 0, 2, 3).reshape(2, 64, -1))
    assert not np.asarray(kept.observations[:, 64:]).any()


def test_what_compiling_took_is_given_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[int] = []
    monkeypatch.setattr(host_memory, "release_freed", lambda: released.append(1))
    host_memory.release_compiled()
    released.clear()
    host_memory.release_compiled()
    assert released == []
    # Of a shape that nobody else asks for.
    jax.jit(lambda x: x * 3 + 1)(jnp.zeros(1237)).block_until_ready()
    host_memory.release_compiled()
    host_memory.release_compiled()
    assert released == [1]


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "_glibc", lambda: None)
    host_memory.release_freed()
    zeros = jnp.zeros(PAGE)
    host_memory.forget_zeros({"zeros": zeros})
    assert not np.asarray(zeros).any()
