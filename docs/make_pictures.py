"""Draws the pictures of the documents.

    python docs/make_pictures.py [RUN]

writes ``docs/pictures/frame_to_gradient.svg``: the way of one frame from EnvPool to a gradient, module by module; and
``docs/pictures/temperature.svg``: what the temperature makes of the Pong teacher's outputs for one state. With a run of
``configs/pong.yaml`` it writes ``docs/pictures/pong.gif`` too, which opens the front page; that is::

    pd-jax video --run RUN --lanes 1 --start 75 --length 21 --gif-length 21 --out docs/pictures/pong.gif
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from pd_jax.config.video import VideoConfig
from pd_jax.video.video import run_video

PICTURES = Path(__file__).parent / "pictures"
INK, PAPER = "#1f2937", "#ffffff"
PLAY, STORE, LEARN = "#dbeafe", "#dcfce7", "#fde8d0"
"""Colours of what plays, what stores and what learns."""
LEGEND = {"plays": PLAY, "stores": STORE, "learns": LEARN}


@dataclasses.dataclass(frozen=True)
class Stop:
    """A module on the way of a frame.

    Attributes:
      module: relative to ``pd_jax``.
      does: what it does with the frame, a line or two.
      gives: what it hands on.
      colour: of its box.
    """

    module: str
    does: str
    gives: str
    colour: str


WAY = (
    Stop("environments.envpool", "steps the emulators,\nall lanes at once", "stack of\n4 frames", PLAY),
    Stop("actors.rollout", "the teacher labels and acts\nε-greedily: one lax.scan", "newest frames,\nQ-values", PLAY),
    Stop("distill.experience", "collects a round of play\nfor each game's replay", "rollout", STORE),
    Stop("replay.replay", "owns the rings, split\nover the devices", "rollout of\na device", STORE),
    Stop("replay.rings", "keeps every frame once;\nrebuilds the stacks it draws", "minibatch", STORE),
    Stop("learner.update", "runs the student; then one\nall-reduce, one step", "outputs,\nQ-values", LEARN),
    Stop("losses", "KL from the sharpened\nteacher to the student", "loss of\nan example", LEARN),
    Stop("learner.gradients", "the gradient of the mean\nloss, whole or in parts", "", LEARN),
)
"""From EnvPool to the gradient, in order."""

_WIDTH, _HEIGHT, _GAP, _DESCENT = 2.75, 1.2, 1.2, 1.9
_PER_ROW = 4


def main(argv: Sequence[str]) -> None:
    """Draws all pictures; that of a game needs a run."""
    PICTURES.mkdir(exist_ok=True)
    print(draw_way(PICTURES / "frame_to_gradient.svg"))
    print(draw_temperatures(PICTURES / "temperature.svg", *pong_q_values()))
    for run in argv:
        print(show_game(run, PICTURES / "pong.gif"))


def show_game(run: str, path: Path) -> Path:
    """Shows teacher and student on a start on which both win points, and what they want differs now and then."""
    run_video(VideoConfig(run=run, out=str(path), lanes=(1,), start=75, length=21.0, gif_length=21.0))
    return path


def draw_way(path: Path) -> Path:
    """Draws the way of a frame; the file's kind follows from its suffix."""
    rows = -(-len(WAY) // _PER_ROW)
    width = _PER_ROW * _WIDTH + (_PER_ROW - 1) * _GAP
    # Letters as outlines, and nothing that differs between two drawings: the same picture is the same file.
    with plt.rc_context({"svg.fonttype": "path", "svg.hashsalt": "pd_jax", "font.family": "DejaVu Sans"}):
        figure = plt.figure(figsize=(width + 0.2, (rows - 1) * _DESCENT + _HEIGHT + 0.2), facecolor=PAPER)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        places = [_place(number) for number in range(len(WAY))]
        for number, (stop, place) in enumerate(zip(WAY, places, strict=True)):
            _draw_stop(axes, number + 1, stop, place)
            if number + 1 < len(WAY):
                _draw_arrow(axes, place, places[number + 1], stop.gives)
        _draw_legend(axes)
        axes.set_xlim(-0.1, width + 0.1)
        axes.set_ylim(-(rows - 1) * _DESCENT - 0.1, _HEIGHT + 0.1)
        # What it shows, for those who cannot see it, and for the test that asks whether it is of today.
        description = " > ".join(stop.module for stop in WAY)
        metadata = {"Description": description} | ({"Date": None} if path.suffix == ".svg" else {})
        figure.savefig(path, metadata=metadata, dpi=110)
        plt.close(figure)
    return path


def pong_q_values(decisions: int = 128) -> tuple[list[str], np.ndarray]:
    """Names of Pong's actions, and the bundled teacher's Q-values in the state of its play with the median gap."""
    from pd_jax.actors import LivePlay
    from pd_jax.config import OneGameEnvConfig
    from pd_jax.teachers import load

    teacher = load("pong")
    lanes = OneGameEnvConfig(num_lanes=1)
    play = LivePlay(teacher, teacher.task, lanes, rollout_length=decisions, epsilon=0.0, seed=0)
    with contextlib.closing(play):
        q_values = np.asarray(next(iter(play.rollouts(1))).teacher_q)[:, 0]
    best = np.sort(q_values, axis=1)
    return list(teacher.task.action_names), q_values[np.argsort(best[:, -1] - best[:, -2])[decisions // 2]]


def draw_temperatures(path: Path, actions: list[str], q_values: np.ndarray) -> Path:
    """Draws one state's Q-values, and the policies made of them at three temperatures."""
    with plt.rc_context({"svg.fonttype": "path", "svg.hashsalt": "pd_jax", "font.family": "DejaVu Sans"}):
        figure, panels = plt.subplots(1, 4, figsize=(11, 2.6), sharey=True, facecolor=PAPER, layout="constrained")
        bars = [("Q-values of one state", q_values)]
        for temperature in (1.0, 0.1, 0.01):
            shares = np.exp((q_values - q_values.max()) / temperature)
            bars.append((f"policy at τ = {temperature:g}", shares / shares.sum()))
        for axes, (title, values) in zip(panels, bars, strict=True):
            colours = [LEARN if value == values.max() else PLAY for value in values]
            axes.barh(actions, values, color=colours, edgecolor=INK, linewidth=0.8)
            axes.set_title(title, color=INK, size=11)
            axes.spines[["top", "right"]].set_visible(False)
            if values is not q_values:
                axes.set_xlim(0, 1)
        panels[0].invert_yaxis()
        figure.savefig(path, metadata={"Description": "temperature", "Date": None}, dpi=110)
        plt.close(figure)
    return path


def _place(number: int) -> tuple[float, float]:
    """Lower left corner of a box: rows from left to right and back, so that no arrow crosses another."""
    row, column = divmod(number, _PER_ROW)
    column = column if row % 2 == 0 else _PER_ROW - 1 - column
    return column * (_WIDTH + _GAP), -row * _DESCENT


def _draw_stop(axes: Axes, number: int, stop: Stop, place: tuple[float, float]) -> None:
    x, y = place
    box = FancyBboxPatch(
        place, _WIDTH, _HEIGHT, boxstyle="round,pad=0,rounding_size=0.12", facecolor=stop.colour, edgecolor=INK
    )
    axes.add_patch(box)
    name = f"{number}  {stop.module.replace('.', '/')}.py"
    axes.text(x + _WIDTH / 2, y + _HEIGHT - 0.27, name, ha="center", va="center", weight="bold", size=11, color=INK)
    axes.text(x + _WIDTH / 2, y + 0.45, stop.does, ha="center", va="center", size=11, color=INK, linespacing=1.35)


def _draw_legend(axes: Axes) -> None:
    """What the colours mean, in the space between the first two rows."""
    middle = (_HEIGHT - _DESCENT) / 2
    for number, (word, colour) in enumerate(LEGEND.items()):
        x = number * 1.2
        square = FancyBboxPatch(
            (x, middle - 0.11), 0.22, 0.22, boxstyle="round,pad=0,rounding_size=0.04", facecolor=colour, edgecolor=INK
        )
        axes.add_patch(square)
        axes.text(x + 0.32, middle, word, ha="left", va="center", size=10.5, color=INK)


def _draw_arrow(axes: Axes, place: tuple[float, float], target: tuple[float, float], gives: str) -> None:
    arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.4, "shrinkA": 2, "shrinkB": 2}
    (x, y), (to_x, to_y) = place, target
    if y == to_y:
        rightwards = to_x > x
        begin, end = (x + _WIDTH, to_x) if rightwards else (x, to_x + _WIDTH)
        middle = y + _HEIGHT / 2
        axes.annotate("", xy=(end, middle), xytext=(begin, middle), arrowprops=arrow)
        axes.text((begin + end) / 2, middle + 0.09, gives, ha="center", va="bottom", size=9.5, color=INK)
    else:
        middle = x + _WIDTH / 2
        axes.annotate("", xy=(middle, to_y + _HEIGHT), xytext=(middle, y), arrowprops=arrow)
        axes.text(middle + 0.1, (y + to_y + _HEIGHT) / 2, gives, ha="left", va="center", size=9.5, color=INK)


if __name__ == "__main__":
    main(sys.argv[1:])
