"""Learning curves in text: every mark stands where its number says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.report.terminal_plot import draw_curve, format_count

numbers = st.floats(-1e6, 1e6)


def test_a_curve_stands_where_its_numbers_say() -> None:
    curve = [(0.0, 0.0, 0.0, 0.0), (50.0, 10.0, 5.0, 15.0), (100.0, 20.0, 20.0, 20.0)]
    assert draw_curve(curve, references={"human": 20.0, "random": 0.0}, width=5, height=5) == [
        "20.0 ┤····● human",
        "     │  │",
        "10.0 ┤  ●",
        "     │  │",
        " 0.0 ┤●···· random",
        "     └─────",
        "      0100 steps",
    ]


def test_references_on_one_row_share_it() -> None:
    lines = draw_curve([(1.0, 0.0, 0.0, 0.0)], references={"random": 9.9, "human": 10.0}, width=3, height=3)
    assert lines[0].endswith("··· random, human")


def test_a_level_curve_and_an_empty_one_can_be_drawn() -> None:
    assert draw_curve([]) == []
    lines = draw_curve([(10.0, 500.0, 500.0, 500.0), (20.0, 500.0, 500.0, 500.0)], width=10, height=3)
    assert [line.count("●") for line in lines] == [0, 2, 0, 0, 0]
    assert lines[0].startswith("501.0 ┤") and lines[2].startswith("499.0 ┤")


@given(
    rows=st.lists(st.tuples(st.integers(0, 2**63 - 1), numbers, numbers, numbers), min_size=1, max_size=20),
    references=st.dictionaries(st.sampled_from(["random", "human"]), numbers),
    height=st.integers(2, 20),
)
def test_any_curve_fits_its_frame_and_shows_its_last_point(rows, references, height) -> None:
    curve = [(step, *sorted(scores)) for step, *scores in sorted(rows)]
    curve = [(step, score, low, high) for step, low, score, high in curve]
    lines = draw_curve(curve, references=references, width=30, height=height)
    assert len(lines) == height + 2
    axis = lines[height].index("└")
    assert all(line[axis] in "┤│" for line in lines[:height])
    last_column = [line.ljust(axis + 31)[axis + 30] for line in lines[:height]]
    assert curve[-1][0] == 0 or "●" in last_column


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"), (9_999, "9,999"), (10_000, "10 k"), (301_056, "301 k"), (999_499, "999 k"), (999_500, "1.0 M"),
        (2_000_896, "2.0 M"), (3e9, "3.0 G"),
    ],
)  # fmt: skip
def test_counts_are_short(count: float, text: str) -> None:
    assert format_count(count) == text
