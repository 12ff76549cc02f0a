"""``pd-jax video``: teacher and student side by side on the same start, as MP4, GIF and data."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pd_jax.config.loading import to_mapping
from pd_jax.config.video import VideoConfig
from pd_jax.deploy.audit.states import log_probabilities
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.report.page import PAGE_COMMANDS, renew_run_page
from pd_jax.resources.parts import evaluation_memory
from pd_jax.runs.directory import read_run
from pd_jax.system.computing import computing
from pd_jax.system.files import to_json, write_atomically
from pd_jax.system.interrupts import Interrupts, stoppable
from pd_jax.system.progress import Progress, print_warning
from pd_jax.system.text import printable
from pd_jax.version import __version__
from pd_jax.video import drawing
from pd_jax.video.files import all_or_none, find_ffmpeg, write_gif, write_mp4
from pd_jax.video.play import PLAYERS, Track, play_tracks, screen_size
from pd_jax.video.players import Players, load_players

FORMAT = "pd-jax video"
FORMAT_VERSION = 1
_ATARI_RATE = 15
"""Decisions a second at the pace of people: 60 frames, of which each decision takes four."""
_VECTOR_RATES = {"cartpole": 50, "acrobot": 15, "lunarlander": 50}
_GIF_RATE = 20
_PALETTE_FRAMES = 12
_HOLD_SECONDS = 1.5
_SCALE, _GRID_SCALE = 2.0, 1.5


@dataclasses.dataclass(frozen=True)
class Shown:
    """What is drawn of one start.

    Attributes:
      players: who plays.
      tracks: the teacher's and the student's.
    """

    players: Players
    tracks: tuple[Track, Track]


@stoppable
@computing()
def run_video(config: VideoConfig, *, stop: threading.Event | None = None) -> dict[str, Any]:
    """Plays, draws and writes.

    Args:
      config: whom to show, and how.
      stop: ends it as SIGTERM does once it is set, which another thread may do.

    Returns:
      what the ``.json`` beside the video holds.

    Raises:
      UserError: the run has not ended, there is no ffmpeg, the disk is full, or something the user gave does not fit.
        Nothing is left half-written.
      Interrupted: a signal came, or ``stop`` was set.
    """
    out = video_path(config)
    paths = {".json": out.with_suffix(".json")}
    is_gif_alone = out.suffix.lower() == ".gif"
    ffmpeg = None if is_gif_alone else find_ffmpeg()
    if ffmpeg is not None:
        paths[".mp4"] = out
    if config.gif:
        paths[".gif"] = out.with_suffix(".gif") if not is_gif_alone else out
    everyone = load_players(config)
    _check_out(out, paths)
    _check_memory(everyone)
    rate = _common_rate([players.task for players in everyone]) * Fraction(config.speed).limit_denominator(1000)
    every = max(1, math.ceil(rate / config.fps))
    with Interrupts() as interrupts, Progress(f"video of {printable(config.run)}") as progress:
        meter = progress.add("decisions", 0)
        decisions = None if config.length is None else config.start + max(1, math.ceil(config.length * rate))

        def on_progress(decided: int) -> None:
            meter.total = max(decisions or 0, decided)
            meter.set(decided)
            interrupts.check()

        shown = []
        for players in everyone:
            for pair in _play(config, players, decisions, progress, on_progress):
                shown.append(pair)
        film = _Cut(config, shown, rate, every)
        count = (0 if ffmpeg is None else len(film.steps)) + (len(film.gif_steps) if config.gif else 0)
        drawn = progress.add("frames", count)

        def told(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
            for frame in frames:
                interrupts.check()
                drawn.advance()
                yield frame

        progress.status("drawing")
        report = to_json(_report(config, shown, film, paths))
        with all_or_none(paths.values()) as files:
            write_atomically(files[paths[".json"]], json.dumps(report, ensure_ascii=False, indent=1) + "\n")
            if ffmpeg is not None:
                frames = told(film.draw(film.steps))
                write_mp4(files[paths[".mp4"]], frames, film.canvas.size, film.rate, ffmpeg, interrupts.check)
            if config.gif:
                some = film.gif_steps[:: max(1, len(film.gif_steps) // _PALETTE_FRAMES)]
                frames = told(film.draw(film.gif_steps))
                write_gif(files[paths[".gif"]], frames, list(film.draw(some)), film.gif_rate)
    _put_into_page(config, out)
    return report


def video_path(config: VideoConfig) -> Path:
    """The file that a video goes into. Raises a UserError if there is no such run."""
    return Path(config.out) if config.out is not None else read_run(config.run).video_path


def _put_into_page(config: VideoConfig, out: Path) -> None:
    """A run's own video is seen on its page, which was written before there was one."""
    run = read_run(config.run)
    if run.command not in PAGE_COMMANDS or out.absolute() != run.video_path.absolute():
        return
    try:
        renew_run_page(run)
    except OSError as error:
        print_warning(f"{run.report_path}: not written anew with the video: {error.strerror or error}")


def _play(
    config: VideoConfig, players: Players, decisions: int | None, progress: Progress, on_progress: Any
) -> Iterator[Shown]:
    """The starts of one game."""
    played = {}
    for actor in PLAYERS:
        progress.status(f"the {actor} plays {players.task.name}")
        played[actor] = play_tracks(
            players.task,
            players.policies,
            actor,
            players.protocol,
            players.lanes,
            decisions=decisions,
            on_progress=on_progress,
        )
    for tracks in zip(*played.values(), strict=True):
        if max(len(track.actions) for track in tracks) <= config.start:
            raise UserError(
                f"start: {config.start}, and both games of lane {tracks[0].lane} end before, after "
                f"{' and '.join(str(len(track.actions)) for track in tracks)} decisions"
            )
        yield Shown(players, (tracks[0], tracks[1]))


class _Cut:
    """Which decisions are shown when, and how each looks.

    Attributes:
      canvas: draws them.
      steps: the decision of every frame of the video.
      rate: its frames a second.
      gif_steps, gif_rate: likewise.
    """

    def __init__(self, config: VideoConfig, shown: Sequence[Shown], rate: Fraction, every: int) -> None:
        self._config, self._shown, self._pace = config, shown, rate / Fraction(config.speed).limit_denominator(1000)
        last = max(len(track.film) for pair in shown for track in pair.tracks) - 1
        self.rate = rate / every
        steps = list(range(config.start, last, every))
        self.steps = [*steps, *[last] * max(1, round(self.rate * Fraction(_HOLD_SECONDS)))]
        gif_every = max(1, math.ceil(self.rate / _GIF_RATE))
        begin = min(round(config.gif_start * self.rate), len(self.steps) - 1)
        end = begin + max(1, round(config.gif_length * self.rate))
        self.gif_steps, self.gif_rate = self.steps[begin:end:gif_every], self.rate / gif_every
        self._bars = [_Bars(config, pair) for pair in shown]
        scale = config.scale or (_SCALE if len(shown) == 1 else _GRID_SCALE)
        self.canvas = drawing.Canvas([_about(pair, last + 1, len(shown)) for pair in shown], scale)

    def draw(self, steps: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames uint8 ``[H, W, 3]`` of decisions."""
        before: tuple[int, np.ndarray] | None = None
        for step in steps:
            if before is None or before[0] != step:
                moments = [self._moments(number, step) for number in range(len(self._shown))]
                before = (step, self.canvas.draw(moments))
            yield before[1]

    def _moments(self, number: int, step: int) -> tuple[drawing.Moment, drawing.Moment]:
        pair, bars = self._shown[number], self._bars[number]
        teacher, student = (self._moment(track, bars, step) for track in pair.tracks)
        return teacher, student

    def _moment(self, track: Track, bars: _Bars, step: int) -> drawing.Moment:
        count = len(track.actions)
        at, is_over = min(step, count - 1), track.has_ended and step >= count
        decided = min(step + 1, count)
        other = PLAYERS[1 - PLAYERS.index(track.actor)]
        differs = track.differs[:decided]
        shares, labels = bars.of(track, at)
        return drawing.Moment(
            screen=track.film[min(step, len(track.film) - 1)],
            shares=shares,
            labels=labels,
            action=None if is_over else int(track.actions[at]),
            wish=int(track.wishes(track.actor)[at]),
            other_wish=int(track.wishes(other)[at]),
            score=float(track.scores[count if is_over else at]),
            step=min(step, count),
            seconds=float(min(step, count) / self._pace),
            is_chance=bool(track.is_chance[at]),
            ending=("time is up" if track.was_cut else "game over") if is_over else None,
            differs=differs,
            agreement=float(1 - differs.mean()) if len(differs) else None,
        )


class _Bars:
    """Outputs as bars, all by one measure for each player."""

    def __init__(self, config: VideoConfig, pair: Shown) -> None:
        reading = pair.players.reading
        self._temperatures = {"teacher": reading.temperature, "student": reading.student_temperature}
        self._is_values = config.bars == "values"
        self._ends = {
            track.actor: (float(track.outputs[track.actor].min()), float(track.outputs[track.actor].max()))
            for track in pair.tracks
        }

    def of(self, track: Track, at: int) -> tuple[np.ndarray, list[str]]:
        """Lengths from 0 to 1 and labels of what who plays says of a decision."""
        own = track.outputs[track.actor][at]
        if self._is_values:
            low, high = self._ends[track.actor]
            return (own - low) / max(high - low, 1e-9), [f"{value:.3g}" for value in own]
        shares = np.exp(log_probabilities(own[None], self._temperatures[track.actor]))[0]
        return shares, [f"{100 * share:.0f} %" for share in shares]


def _about(pair: Shown, steps: int, pairs: int) -> drawing.Pair:
    players = pair.players
    task, protocol, lane = players.task, players.protocol, pair.tracks[0].lane
    start = f"same start: seed {protocol.seed + lane}, ε = {protocol.epsilon:g}"
    return drawing.Pair(
        title=_title(task),
        about=start,
        action_names=task.action_names,
        screen_size=screen_size(task),
        panels=(
            drawing.Panel("Teacher", _network(players.teacher), "student", drawing.TEACHER),
            drawing.Panel("Student", _network(players.student), "teacher", drawing.STUDENT),
        ),
        steps=steps,
    )


def _title(task: Task) -> str:
    """Such as ``Space Invaders``, or ``CartPole``."""
    name = task.env_id.partition("-")[0]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name) if task.is_console else name


def _network(policy: GreedyPolicy) -> str:
    """Such as ``net2, 111,798 parameters``."""
    name = policy.trained.network if hasattr(policy, "trained") else policy.metadata.network  # type: ignore[attr-defined]
    return f"{name}, {policy.num_params:,} parameters"


def _common_rate(tasks: Sequence[Task]) -> Fraction:
    """Decisions a second; where games of several paces are in one grid, the slowest one's."""
    return Fraction(min(_ATARI_RATE if task.is_console else _VECTOR_RATES[task.name] for task in tasks))


def _check_memory(everyone: Sequence[Players]) -> None:
    config = everyone[0].student.trained.config
    policies = [(policy.apply, policy.variables) for players in everyone for policy in players.policies.values()]
    tasks = [policy.task for players in everyone for policy in players.policies.values()]
    evaluation_memory(config.evaluation, policies, tasks).check()


def _check_out(out: Path, paths: dict[str, Path]) -> None:
    """Raises a UserError unless all files can be made, or are those of a video, which is to be replaced."""
    if ":/" in str(out):
        raise UserError(f"{out}: is an address; a video goes into a local file")
    if not out.parent.is_dir():
        raise UserError(f"{printable(str(out.parent))}: there is no such directory; make it, or choose another --out")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"{printable(str(out.parent))}: cannot be written; choose another --out")
    there = [path for path in paths.values() if os.path.lexists(path)]
    if not there:
        return
    for path in there:
        if not path.is_file():
            raise UserError(f"{printable(str(path))}: is no file; choose another --out")
    if not _is_ours(paths[".json"]):
        raise UserError(f"{printable(str(there[0]))}: is there, and no video of pd-jax; choose another --out")


def _is_ours(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _report(config: VideoConfig, shown: Sequence[Shown], film: _Cut, paths: dict[str, Path]) -> dict[str, Any]:
    """What is shown, in numbers."""
    left_out = ("run", "out", "teacher")
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "files": sorted(path.name for path in paths.values()),
        "run": os.path.basename(os.path.abspath(config.run)),
        "settings": {name: value for name, value in to_mapping(config).items() if name not in left_out},
        "versions": {"pd_jax": __version__, "jax": jax.__version__, "numpy": np.__version__},
        "width": film.canvas.size[0],
        "height": film.canvas.size[1],
        "frames": len(film.steps),
        "frames_per_second": float(film.rate),
        "pairs": [_report_pair(config, pair) for pair in shown],
    }


def _report_pair(config: VideoConfig, pair: Shown) -> dict[str, Any]:
    players, lane = pair.players, pair.tracks[0].lane
    report: dict[str, Any] = {
        "game": players.task.name,
        "env_id": players.task.env_id,
        "action_names": list(players.task.action_names),
        "lane": lane,
        "seed": players.protocol.seed + lane,
        "protocol": ({"name": players.protocol.name} if players.task.is_console else {}) | players.protocol.to_json(),
        "temperature": dataclasses.asdict(players.reading),
        "taught_the_student": players.taught_by,
    }
    for track in pair.tracks:
        policy = players.policies[track.actor]
        report[track.actor] = {
            "network": _network(policy).partition(",")[0],
            "parameters": policy.num_params,
            "score": float(track.scores[-1]),
            "has_ended": track.has_ended,
            "was_cut": track.was_cut,
            "decisions": len(track.actions),
            "agreement": float(1 - track.differs.mean()),
            "differing_steps": np.flatnonzero(track.differs).tolist(),
            "random_steps": np.flatnonzero(track.is_chance).tolist(),
            "actions": track.actions.tolist(),
        }
    return report


def warn_of_another_teacher(report: dict[str, Any]) -> None:
    """Says so where a teacher that is shown is not the one that the student has learnt from."""
    for game in dict.fromkeys(pair["game"] for pair in report["pairs"] if pair["taught_the_student"] is False):
        print_warning(f"{game}: the teacher that is shown is not the one that the student learnt from")
