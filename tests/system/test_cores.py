"""Cores, and their shares."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.system import cores
from pd_jax.system.cores import cache_bytes, count_cores, describe_cores, share_cores, usable_cores, xla_threads


@given(numbers=st.lists(st.integers(0, 300), min_size=1, max_size=130, unique=True), data=st.data())
def test_shares_are_all_cores_in_order_and_as_even_as_can_be(numbers: list[int], data: st.DataObject) -> None:
    shares = share_cores(numbers, data.draw(st.integers(1, len(numbers))))
    assert [core for share in shares for core in share] == numbers
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_cores_in_words() -> None:
    assert describe_cores([3]) == "core 3"
    assert describe_cores([0, 1, 2, 3]) == "cores 0-3"
    assert describe_cores([8, 1, 0]) == "cores 0-1, 8"


@pytest.mark.parametrize(
    ("text", "expected"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 4), ("", 4), ("x y", 4)]
)
def test_a_container_may_allow_the_time_of_fewer_cores(
    text: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: (0, 1, 2, 3))
    monkeypatch.setattr(cores, "_CGROUP_1", tmp_path / "none")
    limit = tmp_path / "cpu.max"
    limit.write_text(text)
    monkeypatch.setattr(cores, "_CGROUP_2", limit)
    assert count_cores() == expected


def test_a_core_has_its_part_of_the_caches_for_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_CACHES", str(tmp_path / "cpu{}"))
    monkeypatch.setattr(cores, "usable_cores", lambda: (0, 1))
    assert cache_bytes(2) is None

    def write(core: int, index: int, level: str, kind: str, size: str, shared: str) -> None:
        cache = tmp_path / f"cpu{core}" / f"index{index}"
        cache.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
            (cache / name).write_text(f"{text}\n")

    write(0, 0, "1", "Data", "48K", "0")
    write(0, 1, "1", "Instruction", "32K", "0")
    write(0, 2, "2", "Unified", "2048K", "0")
    write(0, 3, "3", "Unified", "32M", "0-6,8")
    write(1, 2, "2", "Unified", "1M", "1-2")
    write(1, 3, "3", "Unified", "?", "1")
    assert [cache_bytes(level) for level in (1, 2, 3, 4)] == [48 * 2**10, 2**19, 4 * 2**20, None]


def test_xla_has_the_threads_that_it_is_told_to_have_and_one_for_each_core_otherwise() -> None:
    assert xla_threads({}) == len(usable_cores())
    assert xla_threads({"NPROC": "3"}) == 3
    assert xla_threads({"NPROC": "3", "PJRT_NPROC": "5"}) == 5
    assert xla_threads({"PJRT_NPROC": "many"}) == len(usable_cores())
