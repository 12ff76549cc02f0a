"""Charts of a page: read back out of their SVG."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.report.charts import Line, interval_rail, line_chart, short, ticks


def drawn(chart: str) -> ElementTree.Element:
    """The SVG, which is well-formed."""
    found = re.search(r"<svg.*</svg>", chart, re.DOTALL)
    assert found is not None
    return ElementTree.fromstring(found[0])


def path_of(chart: str, css_class: str) -> np.ndarray:
    """``[points, (x, y)]`` of a line."""
    (element,) = (each for each in drawn(chart).iter("path") if each.get("class") == css_class)
    numbers = re.findall(r"[-\d.]+", element.get("d") or "")
    return np.array(numbers, float).reshape(-1, 2)


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), most=st.integers(3, 8))
def test_ticks_are_round_evenly_spaced_within_the_ends_and_not_too_many(low: float, span: float, most: int) -> None:
    found = ticks(low, low + span, most)
    assert 1 <= len(found) <= most + 1
    assert all(low - 1e-6 * span <= tick <= low + span + 1e-6 * span for tick in found)
    steps = np.diff(found)
    # Neighbours far from 0 are rounded themselves.
    np.testing.assert_allclose(steps, steps[:1].repeat(len(steps)), rtol=1e-6, atol=4 * np.spacing(abs(low) + span))
    for step in steps[:1]:
        mantissa = step / 10 ** np.floor(np.log10(step) + 1e-9)
        assert min(abs(mantissa - round_one) for round_one in (1, 2, 5, 10)) < 1e-4


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (7200, "7.2k"), (1e6, "1M"), (0.05, "0.05"), (-20.0, "−20"), (3e9, "3G")]
)
def test_numbers_on_an_axis_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_heights_are_in_proportion_and_a_logarithm_is_one() -> None:
    points = np.array([[0.0, 1.0], [50.0, 10.0], [100.0, 100.0]])
    plain = path_of(line_chart("t", [Line("a", points, "own")], x_label="x", about="a"), "own")
    log = path_of(line_chart("t", [Line("a", points, "own")], x_label="x", about="a", is_log=True), "own")
    assert np.diff(plain[:, 0])[0] == pytest.approx(np.diff(plain[:, 0])[1], abs=0.2)
    ratio = (plain[1, 1] - plain[2, 1]) / (plain[0, 1] - plain[1, 1])
    assert ratio == pytest.approx(10, rel=0.05), "90 to 9"
    assert np.diff(log[:, 1])[0] == pytest.approx(np.diff(log[:, 1])[1], abs=0.2)
    assert plain[0, 1] > plain[2, 1], "up is more"


def test_many_points_are_their_means_over_a_band_and_a_spike_does_not_flatten_the_rest() -> None:
    heights = np.ones(5000)
    heights[::2], heights[2500] = 2.0, 1e9
    chart = line_chart("t", [Line("a", np.column_stack([np.arange(5000), heights]), "own")], x_label="x", about="a")
    assert len(chart) < 20_000
    line = path_of(chart, "own")
    assert len(line) == 100
    # Half-way between 1 and 2, which the axis shows.
    assert np.ptp(line[:40, 1]) < 1.0
    assert any(each.get("class") == "own band" for each in drawn(chart).iter("path"))


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((0, 2)),
        np.array([[np.nan, 1.0]]),
        np.array([[1.0, np.nan], [2.0, np.inf]]),
    ],
)
def test_of_nothing_there_is_nothing_to_draw(points: np.ndarray) -> None:
    chart = line_chart("Loss", [Line("a", points, "own")], x_label="x", about="a")
    assert "Nothing was recorded" in chart and "<svg" not in chart


@pytest.mark.parametrize("points", [[[5.0, 3.0]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1e-300], [2.0, 1e-300]]])
@pytest.mark.parametrize("is_log", [False, True])
def test_one_point_or_points_all_alike_are_drawn(points: list[list[float]], is_log: bool) -> None:
    chart = line_chart("t", [Line("a", np.array(points), "own")], x_label="x", about="a", is_log=is_log)
    assert "nan" not in chart and "inf" not in chart
    if "<svg" in chart:
        drawn(chart)


def test_names_are_text() -> None:
    hostile = '"><script>alert(1)</script>'
    lines = [Line(hostile, np.array([[0.0, 1.0], [1.0, 2.0]]), "own"), Line.level(hostile, 1.5, "taught", (1.0, None))]
    chart = line_chart(hostile, lines, x_label=hostile, about=hostile)
    assert "<script" not in chart
    assert drawn(chart).get("aria-label") == hostile


def test_marks_on_a_rail_stay_on_it() -> None:
    rail = drawn(interval_rail((0.0, 10.0), [("own", 5.0, -100.0, 100.0), ("taught", 50.0, None, None)], line=10.0))
    for mark in rail.iter("rect"):
        assert float(mark.get("x") or 0) >= -1.5 and float(mark.get("x") or 0) + float(mark.get("width") or 0) <= 102
    middle = next(mark for mark in rail.iter("rect") if mark.get("class") == "own")
    assert float(middle.get("x") or 0) + 0.5 == 50.0
