"""Which games pull against each other: the cosines between their gradients, out of a run's metrics, and on its page."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from pd_jax.report.charts import COLOURS, Line, line_chart
from pd_jax.report.document import MINUS, NOTHING, SPACE

COSINE, NORM = "gradient_cosine", "gradient_norm"
"""What the metrics' names begin with: ``gradient_cosine/LAYER/GAME,GAME`` and ``gradient_norm/LAYER/GAME``."""
MOST_PAIRS = COLOURS
"""Pairs of games whose cosines are drawn over time."""
_MOST_ROWS = 15


@dataclasses.dataclass(frozen=True, eq=False)
class Conflicts:
    """What a run measured, T times, of L layers and G games.

    Attributes:
      games, layers: their names; the last layer is all of them together.
      updates: float ``[T]``, after how many.
      cosines: float ``[T, L, G, G]``; NaN where a game was not looked at, or had no gradient.
      norms: float ``[T, L, G]``.
    """

    games: tuple[str, ...]
    layers: tuple[str, ...]
    updates: np.ndarray
    cosines: np.ndarray
    norms: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """Cosines ``[L, G, G]``, means over the measurements that have them; NaN where none has."""
        known = np.isfinite(self.cosines)
        total, count = np.where(known, self.cosines, 0.0).sum(0), known.sum(0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    @property
    def errors(self) -> np.ndarray:
        """Standard errors of the means ``[L, G, G]``, as if measurements were alike; NaN of fewer than two."""
        known = np.isfinite(self.cosines)
        count = known.sum(0)
        squares = np.where(known, (self.cosines - self.means) ** 2, 0.0).sum(0)
        return np.where(count > 1, np.sqrt(squares / (np.maximum(count - 1, 1) * np.maximum(count, 1))), np.nan)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Places of every two games, those first that pull against each other most, in all layers together."""
        mean = np.nan_to_num(self.means[-1], nan=1.0)
        each = itertools.combinations(range(len(self.games)), 2)
        return tuple(sorted(each, key=lambda pair: (float(mean[pair]), pair)))

    def name(self, pair: tuple[int, int]) -> str:
        """Of two games."""
        return " and ".join(self.games[place] for place in pair)


def read_conflicts(records: Sequence[Mapping[str, Any]]) -> Conflicts | None:
    """What the lines of ``metrics.jsonl`` have of it; None if they have nothing.

    Args:
      records: the lines. The last measurement says which games and layers there are.
    """
    lines = [record for record in records if any(name.startswith(f"{NORM}/") for name in record)]
    if not lines:
        return None
    names = [name.split("/", 2) for name in lines[-1] if name.startswith(f"{NORM}/")]
    layers = tuple(dict.fromkeys(name[1] for name in names if len(name) == 3))
    games = tuple(dict.fromkeys(name[2] for name in names if len(name) == 3))
    if not layers:
        return None
    cosines = np.full((len(lines), len(layers), len(games), len(games)), np.nan)
    norms = np.full(cosines.shape[:3], np.nan)
    for (row, line), (place, layer) in itertools.product(enumerate(lines), enumerate(layers)):
        for first, game in enumerate(games):
            norms[row, place, first] = _number(line.get(f"{NORM}/{layer}/{game}"))
            if norms[row, place, first] > 0:
                cosines[row, place, first, first] = 1.0
            for second in range(first + 1, len(games)):
                cosine = _number(line.get(f"{COSINE}/{layer}/{game},{games[second]}"))
                cosines[row, place, first, second] = cosines[row, place, second, first] = cosine
    updates = np.array([float(line["step"]) for line in lines])
    return Conflicts(games, layers, updates, cosines, norms)


def conflicts_section(records: Sequence[Mapping[str, Any]]) -> str:
    """The part of a run's page; nothing where nothing was measured.

    Args:
      records: the lines of its metrics.
    """
    conflicts = read_conflicts(records)
    if conflicts is None:
        return ""
    shown = conflicts.pairs[:MOST_PAIRS]
    chart = line_chart(
        "Cosine between gradients, all shared layers",
        [
            *(
                Line(
                    conflicts.name(pair),
                    np.column_stack([conflicts.updates, conflicts.cosines[:, -1, pair[0], pair[1]]]),
                    f"line{place % COLOURS}",
                )
                for place, pair in enumerate(shown)
            ),
            Line.level("at right angles", 0.0, "quiet"),
        ],
        x_label="updates",
        about="the cosine between the gradients of two games, over the updates",
    )
    head, rest = _table(conflicts, conflicts.pairs[:_MOST_ROWS]), conflicts.pairs[_MOST_ROWS:]
    more = f"<details><summary>{len(rest)} other pairs</summary>{_table(conflicts, rest)}</details>" if rest else ""
    drawn = (
        f'<p class="note">Drawn: the {len(shown)} pairs with the least mean.</p>'
        if len(shown) < len(conflicts.pairs)
        else ""
    )
    return (
        '<section class="long"><h2>Which games pull against each other</h2>'
        '<p class="note">The cosine between the gradients of two games in each layer that they share: 1 pulls the same '
        f"way, {MINUS}1 the opposite way, and 0 at right angles. Means over {len(conflicts.updates):,} measurements, "
        "with the standard error of the last column. Each is of one minibatch: its noise scatters the cosines, "
        f'and draws their mean towards 0.</p>{head}{more}<div class="charts">{chart}</div>{drawn}</section>'
    )


def _table(conflicts: Conflicts, pairs: Sequence[tuple[int, int]]) -> str:
    """A row for every two games, a column for every layer."""
    means, errors = conflicts.means, conflicts.errors
    rows = []
    for pair in pairs:
        cells = []
        for place in range(len(conflicts.layers)):
            value, error = float(means[place][pair]), float(errors[place][pair])
            if not math.isfinite(value):
                cells.append(f"<td>{NOTHING}</td>")
                continue
            is_last = place == len(conflicts.layers) - 1
            beside = f"{SPACE}±{SPACE}{error:.2f}" if is_last and math.isfinite(error) else ""
            # A few thousandths less than 0 are 0.00, and not less than it.
            text = f"{round(value, 2) + 0.0:.2f}".replace("-", MINUS)
            along = " along" if value > 0 else ""
            cells.append(f'<td class="heat{along}" style="--heat:{round(100 * abs(value))}%">{text}{beside}</td>')
        rows.append(f"<tr><th>{escape(conflicts.name(pair))}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{escape(_layer(layer))}</th>" for layer in conflicts.layers)
    return f'<div class="scroll"><table class="confusion"><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def _layer(name: str) -> str:
    return "all shared layers" if name == "torso" else name


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else math.nan
