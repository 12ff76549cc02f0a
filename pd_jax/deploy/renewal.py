"""``pd-jax renew``: champion and challenger. An exported student is distilled anew from its own weights, and its export
is replaced only by one that is not worse."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pd_jax.config.distill import DistillConfig
from pd_jax.config.export import ExportConfig
from pd_jax.config.loading import from_mapping, to_mapping
from pd_jax.config.renew import RenewConfig
from pd_jax.config.yaml import read_yaml
from pd_jax.deploy.export import FORMATS, REPORT_NAME, run_export
from pd_jax.deploy.proof import check_can_play, check_recording
from pd_jax.deploy.runtime_file import RUNTIME_NAME
from pd_jax.deploy.student import load_trained
from pd_jax.distill.session import distill
from pd_jax.distill.setup import make_setup
from pd_jax.environments.tasks import Task, get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.games import heeding, play_games
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.scores import Score
from pd_jax.runs.directory import RunDirectory, read_run
from pd_jax.runs.lineage import LINEAGE_NAME, file_sha256, parent_at, read_lineage, write_lineage
from pd_jax.system.computing import computing
from pd_jax.system.exchange import exchange
from pd_jax.system.files import to_json, write_atomically
from pd_jax.system.interrupts import Interrupts, stoppable
from pd_jax.system.progress import Progress, print_line, warn_if_unwritable
from pd_jax.teachers.files import params_fingerprint
from pd_jax.version import __version__

RENEWAL_NAME = "renewal.json"
_OWN = ("out", "resume", "init_from", "teacher", "data", "game", "seed", "hosts")
"""What a file of other settings cannot say: it is the renewal's, or follows from the run."""


@dataclasses.dataclass(frozen=True)
class Export:
    """An export as it lies on disk, each of its files what was written.

    Attributes:
      path: its directory.
      report: what its ``export.json`` holds.
      sha256: of that file, which names all others by their hashes.
    """

    path: Path
    report: Mapping[str, Any]
    sha256: str

    @property
    def settings(self) -> Mapping[str, Any]:
        """With which it was made."""
        settings: Mapping[str, Any] = self.report["settings"]
        return settings

    @property
    def games(self) -> tuple[str, ...]:
        """That it plays."""
        return tuple(self.report["games"])

    def players(self, game: str) -> dict[str, str]:
        """The files that play one of its games in a comparison, by precision: the first of each.

        Others of the same precision have stood the proof that they are the same policy.
        """
        players: dict[str, str] = {}
        for name, entry in self.report["games"][game]["files"].items():
            players.setdefault(entry.get("precision", "float32"), name)
        return players

    def play(self, game: str, name: str) -> tuple[Any, Task]:
        """What plays a game by one of its files, as `pd_jax.evaluation.games.play_games` takes it."""
        rules, task = FORMATS[_format_of(name)], get_task(game)
        return rules.apply(rules.read(str(self.path / self.report["games"][game]["files"][name]["file"])), task), task


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a renewal is going to do, checked.

    Attributes:
      config: the renewal's.
      champion: the export that may be replaced.
      distillation: the new run's settings.
      challenger: settings of its export.
    """

    config: RenewConfig
    champion: Export
    distillation: DistillConfig
    challenger: ExportConfig


@dataclasses.dataclass(frozen=True)
class _Scored:
    """What a protocol is worked out from."""

    seed: int
    evaluation: Any
    env: Any


@stoppable
@computing()
def run_renew(config: RenewConfig, *, stop: threading.Event | None = None) -> dict[str, Any]:
    """Distils, exports, compares, and replaces the export if the new one is not worse.

    Whenever it ends, the directory ``config.export`` holds the old export or the new one, whole.

    Args:
      config: the renewal's.
      stop: ends it as SIGTERM does once it is set, which another thread may do.

    Returns:
      what ``renewal.json`` holds.

    Raises:
      UserError: run, export, teachers and settings do not fit together, and nothing was written; or the new run
        diverged, its export did not stand its proof, or a disk is full. The export is as it was.
      Interrupted: a signal came, or ``stop`` was set; it can be gone on with.
    """
    out = Path(config.out)
    # What was decided stands, whatever has become of run and export since.
    decided = _read_decision(out) if config.resume else None
    _check_places(config)
    if decided is None:
        check_can_play()
    plan = None if decided is not None else _make_plan(config)
    with RunDirectory.create(out, "renew", to_mapping(config), resume=config.resume) as run:
        if plan is not None:
            decided = _challenge(plan, out)
            _write(out, decided)
        assert decided is not None
        if decided["decision"] == "replace" and not decided["replaced"]:
            with Interrupts():
                decided = decided | {"replaced": True, "before": _replace(decided, Path(config.export), out)}
                _write(out, decided)
        if not run.lineage_path.exists():
            _leave_lineage(decided, Path(config.export), out)
    return decided


def _check_places(config: RenewConfig) -> None:
    """Raises a UserError if renewal, run and export would lie in one another, or the renewal is there already."""
    out = os.path.realpath(config.out)
    for key, other in (("export", config.export), ("run", config.run)):
        place = os.path.realpath(other)
        if os.path.commonpath([out, place]) in (out, place):
            raise UserError(f"out: {config.out} and {key} ({other}) lie in one another; choose another --out")
    if not config.resume and (Path(out) / RENEWAL_NAME).exists():
        raise UserError(f"{config.out}: holds a renewal; add --resume to go on with it, or choose another --out")


def _make_plan(config: RenewConfig) -> _Plan:
    """Checks all that a renewal refers to, and writes nothing."""
    champion = read_export(config.export)
    if champion.settings.get("run") is None:
        raise UserError(f"export: {config.export} is of a teacher; what is renewed is a student's")
    old = read_run(config.run)
    if old.command != "distill":
        raise UserError(
            f"run: {config.run} is a run of pd-jax {old.command}; what is renewed is a distillation's student"
        )
    _check_is_of(champion, config.run)
    distillation = _distillation(config, old)
    settings = {**champion.settings, "run": str(Path(config.out) / "run"), "out": str(Path(config.out) / "export")}
    challenger = from_mapping(
        ExportConfig, settings | {"resume": True}, f"{Path(config.export) / REPORT_NAME}: settings."
    )
    for game in champion.games:
        if challenger.data is not None:
            # Not after hours of training.
            check_recording(challenger.data, get_task(game))
    return _Plan(config, champion, distillation, challenger)


def read_export(path: str | os.PathLike[str]) -> Export:
    """Reads an export, and checks each of its files.

    Raises:
      UserError: there is none, a file of it was altered or is missing, or the directory holds more than an export.
    """
    directory = Path(path)
    where = f"export: {directory}"
    if not directory.is_dir():
        raise UserError(
            f"{where}: is not a directory" if directory.exists() else f"{where}: there is no such directory"
        )
    try:
        data = (directory / REPORT_NAME).read_bytes()
        report = json.loads(data)
        files = [entry for game in report["games"].values() for entry in game["files"].values()]
        files += [entry["test"] for entry in files if "test" in entry]
        own = {str(entry["file"]): str(entry["sha256"]) for entry in files}
        if "runtime" in report:
            own[RUNTIME_NAME] = report["runtime"]["sha256"]
        hashes = [game["policy"]["hashes"]["parameters"] for game in report["games"].values()]
        is_export = (
            bool(hashes) and isinstance(report["settings"], dict) and all(Path(name).name == name for name in own)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_export = False
    if not is_export:
        raise UserError(f"{where}: is no export of pd-jax export: it has no whole {REPORT_NAME}")
    lineage = read_lineage(directory)
    if lineage is not None:
        own = {**lineage.files, **own}
    for name, digest in own.items():
        if not (directory / name).is_file():
            raise UserError(f"export: {directory / name}: is missing")
        if file_sha256(directory / name) != digest:
            raise UserError(f"export: {directory / name}: was altered after pd-jax export wrote it")
    if more := sorted({*os.listdir(directory)} - {*own, REPORT_NAME, LINEAGE_NAME}):
        raise UserError(f"{where}: holds more than an export ({more[0]}), which would go with it")
    # What is hashed is what was read.
    return Export(directory, report, file_sha256(directory / REPORT_NAME))


def _check_is_of(champion: Export, run: str) -> None:
    """Raises a UserError unless an export is of the student that a run has."""
    checkpoint = champion.settings.get("checkpoint")
    trained = load_trained(run, checkpoint="best" if checkpoint == "best" else "newest")
    own = params_fingerprint(trained.variables["params"])
    for game, entry in champion.report["games"].items():
        there = str(entry["policy"]["hashes"]["parameters"])
        if game not in trained.names or there != own:
            raise UserError(
                f"export: {champion.path} is not of the student that {run} has now (parameters {there[:12]} of {game} "
                f"there, {own[:12]} of {', '.join(trained.names)} here); give the run that it was exported from"
            )


def _distillation(config: RenewConfig, old: RunDirectory) -> DistillConfig:
    """The new run's settings, checked with all that they refer to."""
    mapping, where = dict(old.config), f"{old.config_path}: "
    if config.settings is not None:
        where = f"{config.settings}: "
        changes = read_yaml(config.settings)
        for key in _OWN:
            if key in changes:
                raise UserError(f"{where}{key}: is no setting of a renewal's run that can be changed here")
        mapping = _merged(mapping, changes)
    settings = from_mapping(DistillConfig, mapping, where)
    data = config.data if config.data is not None or config.teacher is not None else settings.data
    schedule = {name: value for name, value in vars(config.schedule).items() if value is not None}
    learner = {name: value for name, value in vars(config.learner).items() if value is not None}
    distillation = dataclasses.replace(
        settings,
        out=str(Path(config.out) / "run"),
        resume=True,
        init_from=config.run,
        teacher=config.teacher or settings.teacher,
        data=data,
        data_order=settings.data_order if data is not None else "recorded",
        seed=settings.seed + 1 if config.seed is None else config.seed,
        schedule=dataclasses.replace(settings.schedule, **schedule),
        learner=dataclasses.replace(settings.learner, **learner),
    )
    for key, problem in distillation.conflicts():
        raise UserError(f"{key}: {problem}")
    make_setup(distillation)
    return distillation


def _merged(mapping: Mapping[str, Any], changes: Mapping[Any, Any]) -> dict[str, Any]:
    """A nested mapping with other values in the place of some."""
    merged = dict(mapping)
    for key, value in changes.items():
        there = merged.get(key)
        is_section = isinstance(there, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(there, value) if is_section else value  # type: ignore[arg-type]
    return merged


def _challenge(plan: _Plan, out: Path) -> dict[str, Any]:
    """Makes the challenger, as far as it is not there, and compares it with the champion."""
    total = plan.distillation.schedule.rounds * plan.distillation.schedule.updates_per_round
    run = out / "run"
    summary = read_run(run).read_summary_json() if (run / "config.yaml").exists() else None
    if summary is None or summary.get("updates") != total:
        distill(plan.distillation)
    challenger = None
    with contextlib.suppress(UserError):
        challenger = read_export(plan.challenger.out)
        _check_is_of(challenger, str(run))
    if challenger is None:
        run_export(plan.challenger)
        challenger = read_export(plan.challenger.out)
        _check_is_of(challenger, str(run))
    return _compare(plan, challenger)


def _compare(plan: _Plan, challenger: Export) -> dict[str, Any]:
    """Plays both from the same starts, by their files, and decides."""
    config, champion, games = plan.config, plan.champion, {}
    scored = _Scored(plan.distillation.seed, config.evaluation, plan.challenger.env)
    with Interrupts() as interrupts, Progress(f"renew {', '.join(champion.games)}") as progress:
        players = [(game, *one) for game in champion.games for one in champion.players(game).items()]
        for game, precision, name in players:
            protocol, title = Protocol.of(scored, get_task(game)), _title(champion, game, precision)
            returns = {}
            for who, export in (("champion", champion), ("challenger", challenger)):
                apply, task = export.play(game, name)
                meter = progress.add(f"{title}: the {who}'s games", protocol.episodes)
                played = play_games(apply, {}, task, protocol, on_progress=heeding(interrupts, meter))
                returns[who] = played.returns
            entry = compare_games(config, returns["champion"], returns["challenger"], get_task(game).random_score)
            games[title] = {"game": game, "file": name, **entry, "protocol": protocol.to_json()}
    worse = [game for game, entry in games.items() if entry["fault"] is not None]
    report: dict[str, Any] = to_json(
        {
            "format_version": 1,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "pd_jax_version": __version__,
            "rule": config.rule,
            "margin": config.margin if config.rule == "not_worse" else None,
            "champion": _describe(champion, config.run),
            "challenger": _describe(challenger, plan.distillation.out),
            "teacher": [os.path.basename(os.path.normpath(name)) for name in plan.distillation.teacher],
            "games": games,
            "decision": "keep" if worse else "replace",
            "because": "; ".join(f"{game}: {games[game]['fault']}" for game in worse) or None,
            "replaced": False,
            "before": None,
        }
    )
    return report


def _format_of(name: str) -> str:
    """The row of `FORMATS` that a file is of, by its name in a report, such as ``onnx`` or ``onnx_int8``."""
    return name.removesuffix("_int8")


def _title(export: Export, game: str, precision: str) -> str:
    """What a comparison is called: by its game, and by its precision where there are two."""
    return game if len(export.players(game)) == 1 else f"{game} ({precision})"


def compare_games(
    config: RenewConfig, champion: np.ndarray, challenger: np.ndarray, random_score: float | None
) -> dict[str, Any]:
    """Compares returns of games from the same starts, pair by pair, and applies the rule.

    The interval is a percentile bootstrap of the mean of the differences.

    Args:
      config: of the renewal: the rule, and the margin.
      champion, challenger: float64 ``[games]``; the same place is the same start.
      random_score: of random play, which margin leaves out of account; None where it is not known, or not below the
        champion's, and then margin is of the champion's score.

    Returns:
      both scores, the difference with its interval, and the ``fault`` that keeps the challenger out, or None.
    """
    scores = Score.of(champion), Score.of(challenger)
    difference = Score.of(np.asarray(challenger, np.float64) - np.asarray(champion, np.float64))
    assert difference.low is not None
    mean = scores[0].mean
    above = mean - random_score if random_score is not None and mean > random_score else abs(mean)
    allowed = config.margin * above if config.rule == "not_worse" else 0.0
    is_in = difference.low >= -allowed if config.rule == "not_worse" else difference.low > 0
    fault = None
    if not is_in:
        wanted = f"{-allowed:,.2f} is the least that margin {config.margin:g} allows"
        fault = (
            f"the difference is {difference.mean:,.2f} with a 95 % interval from {difference.low:,.2f}, and "
            f"{wanted if config.rule == 'not_worse' else 'rule better wants it above 0'}"
        )
    return {
        "champion": scores[0].to_json(),
        "challenger": scores[1].to_json(),
        "difference": difference.to_json(),
        "random_score": random_score,
        "allowed_loss": allowed,
        "fault": fault,
    }


def _describe(export: Export, run: str) -> dict[str, Any]:
    entry = next(iter(export.report["games"].values()))["policy"]
    return {
        "export": export.path.absolute().name,
        "export_sha256": export.sha256,
        "run": os.path.basename(os.path.abspath(run)),
        "updates": entry["source"].get("updates"),
        "parameters_sha256": entry["hashes"]["parameters"],
    }


def _replace(decided: Mapping[str, Any], export: Path, out: Path) -> str:
    """Puts the challenger into the champion's place, and the champion beside it; goes on where it was killed.

    Returns:
      the name of the directory that the champion is in now.
    """
    # Of a link, what it leads to changes.
    export = Path(os.path.realpath(export))
    staged, aside = export.with_name(f".{export.name}.renewed"), export.with_name(f".{export.name}.replaced")
    champion, challenger = decided["champion"]["export_sha256"], decided["challenger"]["export_sha256"]
    with _explained(export):
        if not export.exists() and _sha256_of(aside) == champion and _sha256_of(staged) == challenger:
            os.rename(staged, export)
        there = _sha256_of(export)
        if there not in (champion, challenger):
            raise UserError(f"export: {export} is another one by now than was compared; it stays")
        if there == champion:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(staged)
            try:
                _stage(decided, out, staged, export)
                if not exchange(staged, export):
                    _exchange_in_two_steps(staged, export, aside)
            except BaseException:
                if _sha256_of(staged) != champion and export.exists():
                    shutil.rmtree(staged, ignore_errors=True)
                raise
        before = export.with_name(f"{export.name}.before-{champion[:8]}")
        for place in (staged, aside):
            if _sha256_of(place) == champion:
                number = 2
                while before.exists():
                    before = export.with_name(f"{export.name}.before-{champion[:8]}-{number}")
                    number += 1
                os.rename(place, before)
        return before.name


def _exchange_in_two_steps(staged: Path, export: Path, aside: Path) -> None:
    """For file systems that know no exchange. Killed between the steps, `_replace` takes the second when it goes on."""
    os.rename(export, aside)
    try:
        os.rename(staged, export)
    except BaseException:
        os.rename(aside, export)
        raise


def _stage(decided: Mapping[str, Any], out: Path, staged: Path, export: Path) -> None:
    """A copy of the challenger beside the champion, on disk to stay, whose lineage is that of its new place."""
    staged.mkdir()
    for path in sorted((out / "export").iterdir()):
        shutil.copyfile(path, staged / path.name)
    (staged / LINEAGE_NAME).unlink(missing_ok=True)
    about = {name: decided["challenger"][name] for name in ("updates", "parameters_sha256")}
    replaces = {name: decided["champion"][name] for name in ("export_sha256", "parameters_sha256", "updates")}
    parents = [parent_at("run", out / "run", export, {"checkpoint": _checkpoint(out), **about})]
    write_lineage(staged, "export", parents, {"replaces": replaces}, name=export.name)
    for path in (*staged.iterdir(), staged):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _checkpoint(out: Path) -> str:
    report = json.loads((out / "export" / REPORT_NAME).read_text(encoding="utf-8"))
    return str(report["settings"]["checkpoint"])


def _leave_lineage(decided: Mapping[str, Any], export: Path, out: Path) -> None:
    champion = export if decided["before"] is None else Path(os.path.realpath(export)).with_name(decided["before"])
    about = {name: decided[name] for name in ("decision", "replaced")}
    with warn_if_unwritable(out / LINEAGE_NAME):
        parents = [parent_at("champion", champion, out), parent_at("challenger", out / "export", out)]
        write_lineage(out, "renewal", parents, about)


def _sha256_of(directory: Path) -> str | None:
    """Of an export's report; None where there is none."""
    try:
        return file_sha256(directory / REPORT_NAME)
    except OSError:
        return None


def _read_decision(out: Path) -> dict[str, Any] | None:
    """What a renewal that is gone on with has decided; None if it has not come so far."""
    path = out / RENEWAL_NAME
    try:
        decided = json.loads(path.read_text(encoding="utf-8"))
        known = decided["decision"] in ("keep", "replace") and isinstance(decided["replaced"], bool)
        known = known and all(isinstance(decided[who]["export_sha256"], str) for who in ("champion", "challenger"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not what pd-jax renew wrote") from error
    if not known:
        raise UserError(f"{path}: is not what pd-jax renew wrote")
    print_line(f"{path}: goes on from what was decided", sys.stderr)
    return dict(decided)


def _write(out: Path, decided: Mapping[str, Any]) -> None:
    with _explained(out):
        (out / LINEAGE_NAME).unlink(missing_ok=True)
        write_atomically(out / RENEWAL_NAME, json.dumps(to_json(decided), indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns an OSError into a UserError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}; the export is whole") from error
