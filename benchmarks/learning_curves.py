"""The bundled teachers' learning curves and their table in the README, from what their files say.

    python -m benchmarks.learning_curves

Run it after a teacher was added or replaced: it draws ``benchmarks/results/teachers.png``, and writes the table that
``pd-jax teachers`` prints between the README's ``<!-- teachers -->`` marks.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.record import RESULTS
from pd_jax.reporting.plots import plot_learning_curves
from pd_jax.reporting.teachers import fingerprints, markdown_table
from pd_jax.teachers.catalogue import bundled

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- teachers -->\n", "\n<!-- /teachers -->"


def main() -> None:
    """Writes the figure and the table, and prints where."""
    entries = bundled()
    curves = {
        f"{entry.name} ({entry.metadata.algorithm.upper()})": (entry.curve, entry.references) for entry in entries
    }
    figure = RESULTS / "teachers.png"
    # The fingerprints tell whether the figure is of today's files.
    plot_learning_curves(curves, figure, description=fingerprints(entries))
    print(figure)
    before, _, after = split(README.read_text())
    README.write_text(join(before, markdown_table(entries), after))
    print(README)


def split(readme: str) -> tuple[str, str, str]:
    """What precedes the table, the table, and what follows it."""
    before, rest = readme.split(BEGIN)
    table, after = rest.split(END)
    return before, table, after


def join(before: str, table: str, after: str) -> str:
    """Undoes :func:`split`."""
    return before + BEGIN + table + END + after


if __name__ == "__main__":
    main()
