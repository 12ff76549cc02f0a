"""The bundled teachers' learning curves and their table in the documents, from what their files say.

    python -m benchmarks.studies.learning_curves

Run it after a teacher was added or replaced: it draws ``benchmarks/results/teachers.png``, and writes the table that
``pd-jax teachers`` prints between the ``<!-- teachers -->`` marks of ``docs/teachers.md``.

    python -m benchmarks.studies.learning_curves --run runs/train-pong-dqn --name pong_dqn

writes down and draws the curve of a training that is not bundled, finished or not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml

from benchmarks.harness import record
from benchmarks.harness.record import RESULTS
from pd_jax.environments.tasks import get_task
from pd_jax.report.figures import plot_learning_curve, plot_learning_curves
from pd_jax.report.teachers import fingerprints, markdown_table
from pd_jax.teachers.catalogue import bundled

DOCUMENT = Path(__file__).parents[2] / "docs" / "teachers.md"
BEGIN, END = "<!-- teachers -->\n", "\n<!-- /teachers -->"


def main() -> None:
    """Writes what was asked for, and prints where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="directory of a training; by default, the bundled teachers")
    parser.add_argument("--name", help="of the files about that training")
    options = parser.parse_args()
    if (options.run is None) != (options.name is None):
        parser.error("--run and --name go together")
    if options.run is None:
        draw_bundled()
    else:
        draw_run(options.run, options.name)


def draw_run(run: Path, name: str) -> None:
    """Writes ``results/NAME.json`` and ``results/NAME.png``."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    task = get_task(config["game"])
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    keys = ("step", *(f"{what}/{task.name}" for what in ("score", "score_low", "score_high")))
    curve = [[line[key] for key in keys] for line in lines if keys[1] in line]
    print(record.write(name, {"config": config, "columns": keys, "curve": curve}))
    references = {"random": task.random_score, "human": task.human_score}
    figure = RESULTS / f"{name}.png"
    plot_learning_curve(
        curve,
        figure,
        title=f"{config['algorithm'].upper()}, {task.name}",
        references={name: score for name, score in references.items() if score is not None},
    )
    print(figure)


def draw_bundled() -> None:
    """Writes the figure and the table of the teachers that come with the package."""
    entries = bundled()
    curves = {
        f"{entry.name} ({entry.metadata.algorithm.upper()})": (entry.curve, entry.references) for entry in entries
    }
    figure = RESULTS / "teachers.png"
    # The fingerprints tell whether the figure is of today's files.
    plot_learning_curves(curves, figure, description=fingerprints(entries))
    print(figure)
    before, _, after = split(DOCUMENT.read_text())
    DOCUMENT.write_text(join(before, markdown_table(entries), after))
    print(DOCUMENT)


def split(document: str) -> tuple[str, str, str]:
    """What precedes the table, the table, and what follows it."""
    before, rest = document.split(BEGIN)
    table, after = rest.split(END)
    return before, table, after


def join(before: str, table: str, after: str) -> str:
    """Undoes :func:`split`."""
    return before + BEGIN + table + END + after


if __name__ == "__main__":
    main()
