"""What is said of a run in plain words: the right advice, in both languages, and no number that is not the run's."""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pd_jax.cli import main
from pd_jax.config.commands import COMMANDS
from pd_jax.config.distill import DistillConfig
from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.config.loading import load_config, to_mapping
from pd_jax.config.online import OnlineConfig
from pd_jax.config.sections import (
    BehaviourConfig,
    DistillCheckpointConfig,
    EvaluationConfig,
    ScheduleConfig,
    StudentConfig,
)
from pd_jax.config.sweep import SweepConfig
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.scores import Score
from pd_jax.report.explanation import english, japanese
from pd_jax.report.explanation.explain import explain, say, spell
from pd_jax.report.explanation.facts import read_facts
from pd_jax.report.explanation.remarks import Percent, Remark
from pd_jax.report.explanation.rules import remarks
from pd_jax.runs.directory import RunDirectory
from support.made_runs import write_distillation, write_evaluation
from support.summaries import summary_of

LANGUAGES = {"en": english, "ja": japanese}
Maker = Callable[[Path], Path]


def curve(losses: Sequence[float | None], agreement: float | Sequence[float] = 0.8) -> list[dict[str, Any]]:
    """Lines of metrics, one each 50 updates."""
    agreements = agreement if isinstance(agreement, Sequence) else [agreement] * len(losses)
    return [
        {"step": 50 * (index + 1), "time": 1.0, "loss": loss, "agreement": share}
        for index, (loss, share) in enumerate(zip(losses, agreements, strict=True))
    ]


FALLING = curve([2.0 * 0.97**step for step in range(100)])
FLAT = curve([2.0] + [0.5] * 99)
AGREEING = curve([2.0] + [0.5] * 99, 0.95)
STUCK = curve([1.0] * 100, 0.5)


def write_metrics(run: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return run


def student(metrics: Sequence[Mapping[str, Any]] = FLAT, **settings: Any) -> Maker:
    """A finished distillation; by default of 20 games, whose scores are 19 and 21 by turns."""
    games = {"teacher": [19.0, 21.0] * 10} | {
        key: settings.pop(key) for key in ("teacher", "student") if key in settings
    }
    about = {"behaviour": settings.pop("policy", "teacher")} | settings.pop("about", {})
    settings["behaviour"] = BehaviourConfig(policy=about["behaviour"])
    return lambda path: write_metrics(write_distillation(path, summary=about, **games, **settings), metrics)


def added(way: Mapping[str, Any], percent: float) -> Maker:
    """A run that added Pong to a student of Breakout and left Freeway out."""

    def write(path: Path) -> Path:
        several_games(2)(path)
        told = json.loads((path / "summary.json").read_text())
        told["games"]["breakout"] |= {"score_before": 480.0, "forgotten": 1.0, "forgotten_percent": percent}
        told |= {"adding": {"games": ["pong"], **way}, "init_from": {"source": "old", "left_out": ["freeway"]}}
        (path / "summary.json").write_text(json.dumps(told))
        return path

    return write


def several_games(count: int) -> Maker:
    games = ["pong", "breakout", "freeway", "enduro", "qbert", "seaquest"][:count]

    def write(path: Path) -> Path:
        config = DistillConfig(
            teacher=tuple(games), game=tuple(games), out=str(path), student=StudentConfig(network="multi10")
        )
        content = summary_of(
            {game: [500.0, 502.0] * 10 for game in games},
            # The first is learnt best.
            {game: [480.0 - 60 * index, 482.0 - 60 * index] * 10 for index, game in enumerate(games)},
            random_scores={game: get_task(game).random_score or 0.0 for game in games},
            student_parameters=2_000_000,
            teacher_parameters=1_900_000,
        )
        with RunDirectory.create(path, "distill", to_mapping(config)) as run:
            run.write_summary(content.to_json())
        return write_metrics(path, FLAT)

    return write


def unfinished(
    metrics: Sequence[Mapping[str, Any]],
    *,
    saved: int | None = None,
    teacher: bool = False,
    games: Sequence[str] = ("pong",),
    **settings: Any,
) -> Maker:
    """A run without a summary, of 24 rounds of 300 updates; or of a teacher's 10,000 steps."""

    def write(path: Path) -> Path:
        config: Any = DistillConfig(
            teacher=tuple(games),
            out=str(path),
            schedule=ScheduleConfig(rounds=24, updates_per_round=300),
            **settings,
        )
        if teacher:
            config = TrainTeacherConfig(game="breakout", out=str(path))
        command = "train-teacher" if teacher else "distill"
        RunDirectory.create(path, command, to_mapping(config)).close()
        if metrics:
            write_metrics(path, metrics)
        if saved is not None:
            (path / "checkpoints" / str(saved)).mkdir(parents=True)
        return path

    return write


def trained(scores: Sequence[float], points: Sequence[float], game: str = "pong") -> Maker:
    def write(path: Path) -> Path:
        score = Score.of(scores)
        entry = {"game": game, **score.entries("teacher"), "episodes": score.episodes, "epsilon": 0.05}
        entry |= {"wall_seconds": 600.0, "env_steps": 123_456, "updates": 7_890, "algorithm": "pqn"}
        entry["learning_curve"] = [{"env_steps": i, "mean": mean, "episodes": 10} for i, mean in enumerate(points)]
        with RunDirectory.create(
            path, "train-teacher", to_mapping(TrainTeacherConfig(game=game, out=str(path)))
        ) as run:
            run.write_summary(entry)
        return path

    return write


def learnt_online(path: Path) -> Path:
    config = OnlineConfig(game="cartpole", out=str(path), student=StudentConfig(network="mlp"))
    content = summary_of(
        {"cartpole": [500.0] * 10},
        {"cartpole": [490.0, 500.0] * 5},
        random_scores={"cartpole": 22.2},
        student_parameters=386,
        teacher_parameters=17_922,
    )
    with RunDirectory.create(path, "online", to_mapping(config)) as run:
        run.write_summary(content.to_json())
    return write_metrics(path, AGREEING)


def evaluated(path: Path) -> Path:
    of = write_distillation(path.with_name("of"))
    return write_evaluation(path, of, student=[17.0, 19.0] * 5, teacher=[19.0, 21.0] * 5)


def evaluated_alone(path: Path) -> Path:
    of = write_distillation(path.with_name("of"))
    return write_evaluation(path, of, student=[17.0, 19.0] * 5, teacher=None)


def swept(*, failure: bool = False, left: bool = False) -> Maker:
    def write(path: Path) -> Path:
        RunDirectory.create(path, "sweep", to_mapping(SweepConfig(teacher="pong", out=str(path)))).close()
        cells: list[dict[str, Any]] = [
            {"cell": name, "game": "pong", "seed": 0, "student_score": score}
            for name, score in (("a", 9.0), ("b", 3.0))
        ]
        cells += [{"cell": "c", "game": "pong", "seed": 1, "failure": "it diverged"}] * failure
        cells += [{"cell": "d", "game": "pong", "seed": 1}] * left
        key = "geometric_mean_percent_normalised_floored"
        rows = [
            {"network": "net2", "loss": "kl", "temperature": 0.01, key: 91.7},
            {"network": "net2", "loss": "mse", "temperature": None, key: 12.2},
        ]
        (path / "table.json").write_text(json.dumps({"cells": cells, "rows": rows}))
        return path

    return write


BAD = [-19.0, -17.0] * 10
CLOSE = [18.0, 20.2] * 10
MIDDLE = [8.0, 12.0] * 10
CASES: dict[str, tuple[Maker, set[str], set[str]]] = {
    "as good": (
        student(AGREEING, student=[18.9, 20.9] * 10, policy="mixture"),
        {"level_as_good", "the_teacher", "use_it", "smaller", "behaviour_mixture", "one_seed", "another_seed"},
        {"longer", "larger", "uncertain", "still_learns"},
    ),
    "better": (student(student=[20.9, 21.0] * 10), {"level_better", "use_it"}, {"longer"}),
    "nearly as good": (student(student=CLOSE), {"level_nearly", "use_it"}, {"longer", "dagger"}),
    "worse, and still learning": (
        student(FALLING, student=MIDDLE),
        {"level_below", "still_learns", "longer", "dagger"},
        {"use_it", "perhaps_too_small", "larger", "never_learnt"},
    ),
    "worse, and learns no more": (
        student(FLAT, student=MIDDLE),
        {"perhaps_too_small", "larger", "longer"},
        {"still_learns", "agrees_but_fails", "loss_kl"},
    ),
    "worse, though it agrees": (
        student(AGREEING, student=MIDDLE),
        {"agrees_but_fails", "dagger"},
        {"perhaps_too_small", "larger", "longer"},
    ),
    "worse, and plays itself already": (
        student(AGREEING, student=MIDDLE, policy="student"),
        {"agrees_but_fails", "behaviour_student"},
        {"dagger"},
    ),
    "as large as its teacher": (
        student(FLAT, student=MIDDLE, network="dqn"),
        {"size_alike", "agreement"},
        {"size_smaller", "perhaps_too_small", "larger"},
    ),
    "far worse": (student(student=[-8.0, -6.0] * 10), {"level_well_below"}, {"level_hardly"}),
    "another loss": (student(student=BAD, loss="mse"), {"level_hardly", "loss_kl"}, {"use_it"}),
    "it never learnt": (
        student(STUCK, student=BAD),
        {"never_learnt", "lower_rate"},
        {"perhaps_too_small", "longer", "larger", "still_learns"},
    ),
    "few updates": (student(curve([1.0, 0.8]), student=BAD), {"still_learns", "longer"}, {"larger", "never_learnt"}),
    "an uncertain score": (
        student(student=[-20.0, 21.0] * 5 + [21.0] * 4, teacher=[19.0, 21.0] * 7),
        {"uncertain", "more_games", "level_well_below"},
        {"use_it", "few_games"},
    ),
    "few games": (
        student(student=[-5.0, 21.0, 20.0], teacher=[20.0, 21.0, 19.0]),
        {"level_unclear", "few_games", "more_games"},
        {"use_it", "uncertain"},
    ),
    "one game": (student(student=[20.0], teacher=[20.0]), {"level_unclear", "few_games"}, {"level_as_good", "use_it"}),
    "games that are cut off": (
        student(
            student=[1.0, 1.2] * 10,
            teacher=[1.0, 1.2] * 10,
            game="freeway",
            evaluation=EvaluationConfig(max_episode_steps=50),
        ),
        {"measured_cut_off"},
        {"measured", "teacher_below_human"},
    ),
    "a weak teacher": (
        student(student=[9.0, 11.0] * 5, teacher=[9.0, 11.0] * 5, game="breakout"),
        {"level_as_good", "teacher_below_human", "measured"},
        {"teacher_is_random"},
    ),
    "a teacher without skill": (
        student(student=[1.0, 1.2] * 5, teacher=[1.0, 1.2] * 5, game="breakout"),
        {"teacher_is_random", "level_unknown"},
        {"level_as_good", "use_it"},
    ),
    "no random score": (student(game="Tetris-v5", student=CLOSE), {"scores", "level_nearly"}, {"scores_and_random"}),
    "CartPole": (
        student(game="cartpole", network="mlp", teacher=[500.0] * 10, student=[200.0, 210.0] * 5),
        {"wider", "level_well_below"},
        {"larger"},
    ),
    "begun from another": (student(init_from="x"), {"started_from"}, set()),
    "a recording": (student(student=MIDDLE, data="x"), {"work_recorded"}, {"work_student", "dagger"}),
    **{
        f"bound by {name}": (
            student(about={"time_shares": {name: 0.7}, "bound_by": name}),
            {f"time_{name}"},
            {f"time_{other}" for other in ("stepping", "inference", "updates", "input") if other != name},
        )
        for name in ("stepping", "inference", "updates", "input")
    },
    "bound by nothing much": (
        student(about={"time_shares": {"updates": 0.4}, "bound_by": "updates"}),
        set(),
        {"time_updates"},
    ),
    "three games": (several_games(3), {"done_distill_several", "mean_of_games", "worst_game"}, {"done_distill"}),
    "three games, stopped": (
        unfinished(FALLING[:5], games=("pong", "breakout", "freeway")),
        {"goal_distill_several"},
        {"done_distill_several", "goal_distill"},
    ),
    "a head for another game": (
        added({"learn": "head"}, 0.0),
        {"added_head", "left_out", "not_forgotten"},
        {"added_all", "added_held", "forgotten"},
    ),
    "another game beside the old ones": (
        added({"learn": "all", "penalty": "none"}, 5.1),
        {"added_all", "forgotten"},
        set(),
    ),
    "another game with a penalty": (added({"learn": "all", "penalty": "ewc"}, 4.9), {"added_held"}, {"forgotten"}),
    "a share of what was forgotten that means nothing": (
        added({"learn": "head"}, float("nan")),
        {"added_head"},
        {"forgotten", "not_forgotten"},
    ),
    "six games": (several_games(6), {"mean_of_games"}, set()),
    "online": (learnt_online, {"done_online", "another_seed", "use_it"}, {"smaller", "done_distill"}),
    "evaluated": (evaluated, {"done_evaluate", "level_below"}, {"one_seed", "work_student"}),
    "evaluated alone": (evaluated_alone, {"student_alone"}, {"teacher_alone", "one_seed"}),
    "a teacher that still learns": (
        trained([15.0, 16.0] * 10, [-20.0, 0.0, 15.0]),
        {"done_teacher", "work_teacher", "curve_rises", "teacher_above_human", "train_longer", "distil_it"},
        {"curve_flat"},
    ),
    "a teacher that learns no more": (
        trained([9.0, 11.0] * 10, [1.0, 10.0, 10.5, 10.0, 9.0, 10.4], "breakout"),
        {"curve_flat", "teacher_under_human"},
        {"curve_rises", "train_longer"},
    ),
    "a teacher without a curve": (
        trained([9.0, 11.0] * 10, [10.0], "breakout"),
        {"train_longer"},
        {"curve_flat", "curve_rises"},
    ),
    "a teacher that has learnt nothing": (
        trained([-20.7, -20.8] * 10, [-21.0, -21.0, -21.0]),
        {"teacher_learnt_nothing"},
        {"teacher_under_human", "teacher_above_human"},
    ),
    "a teacher of an unknown game": (trained([5.0, 6.0], [1.0, 5.0, 5.0], "Tetris-v5"), {"teacher_score"}, set()),
    "a sweep": (swept(), {"sweep_best", "sweep_worst", "sweep_few_seeds", "sweep_report"}, {"sweep_failed"}),
    "a sweep with a failure": (swept(failure=True), {"sweep_failed"}, {"no_result"}),
    "a sweep that has not ended": (swept(left=True), {"no_result", "resume"}, {"sweep_best"}),
    "begun": (unfinished([]), {"not_begun", "resume"}, {"wait"}),
    "stopped": (
        unfinished(FALLING[:30], saved=1200),
        {"stopped_updates", "saved_updates", "resume", "agreement_stayed"},
        {"lower_rate", "measured"},
    ),
    "stopped while it got better": (
        unfinished(curve([1.0] * 20, [0.3 + 0.02 * step for step in range(20)]), saved=600),
        {"agreement_rose"},
        {"agreement_stayed"},
    ),
    "stopped before it was saved": (
        unfinished(FALLING[:5]),
        {"nothing_saved", "begin_anew"},
        {"saved_updates", "resume"},
    ),
    "diverged": (
        unfinished([*FALLING[:30], {"step": 1550, "time": 1.0, "loss": None}], saved=1200),
        {"diverged_updates", "diverged", "lower_rate", "roll_back"},
        {"resume", "stopped_updates"},
    ),
    "diverged, and had rolled back": (
        unfinished(
            [{"step": 50, "time": 1.0, "loss": None}], checkpoint=DistillCheckpointConfig(on_divergence="roll_back")
        ),
        {"diverged_updates", "lower_rate"},
        {"roll_back"},
    ),
    "a teacher, stopped": (
        unfinished(
            [{"step": 5000, "time": 1.0, "loss": 0.4}, {"step": 5000, "time": 1.0, "score/breakout": 12.5}],
            saved=4096,
            teacher=True,
        ),
        {"stopped_steps", "saved_steps", "score_so_far"},
        {"stopped_updates"},
    ),
    "a teacher, diverged": (
        unfinished([{"step": 5000, "time": 1.0, "loss": None}], teacher=True),
        {"diverged_steps", "lower_rate"},
        {"roll_back"},
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All of them, in directories of their own."""
    return {name: make(tmp_path_factory.mktemp("run") / "run") for name, (make, _, _) in CASES.items()}


def keys_of(run: Path) -> list[str]:
    return [remark.key for remark in remarks(read_facts(run))]


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_follows_from_the_figures(case: str, runs: dict[str, Path]) -> None:
    keys, (_, said, unsaid) = keys_of(runs[case]), CASES[case]
    assert said - set(keys) == set() and unsaid & set(keys) == set(), keys


RUNNING = {"running_updates", "running_begins", "running_steps", "no_result_running", "wait"}
SELDOM = {
    *("running_somewhere", "stopped_somewhere", "diverged_somewhere"),
    *("teacher_alone", "goal_online", "goal_evaluate"),
}


def test_every_sentence_is_said_of_some_run_and_every_language_has_it(runs: dict[str, Path]) -> None:
    said = {key for run in runs.values() for key in keys_of(run)}
    assert set(english.SENTENCES) == set(japanese.SENTENCES) == said | RUNNING | SELDOM
    for key, sentence in english.SENTENCES.items():
        names = [sorted(set(names_in(text))) for text in (sentence, japanese.SENTENCES[key])]
        assert names[0] == names[1], key
    assert english.TITLES.keys() == japanese.TITLES.keys()


def names_in(text: str) -> Iterator[str]:
    return (name for _, name, _, _ in string.Formatter().parse(text) if name)


def test_sentences_end_as_sentences_do() -> None:
    for key, text in english.SENTENCES.items():
        assert re.search(r"[a-z0-9})%][.:]$", text), key
    for key, text in japanese.SENTENCES.items():
        # Polite throughout, and with wide punctuation.
        assert re.search(r"(です|ます|でした|ました|ません|ください)[。：]$", text), key
        assert not re.search(r"[(),:]|[^\x00-\x7f] [^\x00-\x7f]", text), key


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from numbers_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def known_numbers(run: Path) -> set[float]:
    """What a sentence may say: what the run's files hold, as it is, in per cent, in minutes and hours; counts of what
    is in them; and the published scores of the games."""
    facts = read_facts(run)
    held = [*numbers_in(facts.config), *numbers_in(list(facts.metrics))]
    if facts.summary is not None:
        held += numbers_in(facts.summary.to_json())
        held += [len(facts.summary.games)]
        for game in facts.summary.games:
            task = get_task(game)
            held += [score for score in (task.random_score, task.human_score) if score is not None]
    if facts.sweep is not None:
        cells = facts.sweep["cells"]
        held += numbers_in(dict(facts.sweep))
        held += [sum(name in cell for cell in cells) for name in ("student_score", "failure")]
        held += [len({cell["seed"] for cell in cells if "student_score" in cell})]
    if facts.planned:
        held += [facts.planned, facts.step, facts.step / facts.planned, facts.checkpoint or 0]
    shares = [value for _, value in facts.series("agreement")]
    tenth = len(shares) // 10
    held += [sum(part) / tenth for part in (shares[:tenth], shares[-tenth:]) if tenth]
    return {scale * number for number in held for scale in (1, 100, 1 / 60, 1 / 3600) if math.isfinite(number)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_number_is_said_that_the_run_does_not_hold(case: str, language: str, runs: dict[str, Path]) -> None:
    known = known_numbers(runs[case])
    for remark in remarks(read_facts(runs[case])):
        if remark.key in ("lower_rate", "wider"):  # "ten times lower" is a digit in Japanese.
            continue
        sentence = spell(remark, LANGUAGES[language])
        # Of the scale: zero to one hundred is said in digits in Japanese; and "1回だけ", "1つ".
        text = re.sub(
            r"0、教師を100|1回だけ|1つの|1ゲームは|分の1|net\d|multi10|Tetris-v5|「[^」]*」|mlp[^.]*at|τ = [\d.]+",
            "",
            sentence,
        )
        for spelled in re.findall(r"-?\d[\d,]*(?:\.\d+)?", re.sub(r"recipe: .*?(?= On|, at)", "", text)):
            value = float(spelled.replace(",", ""))
            half = 0.5 * 10 ** -len(spelled.partition(".")[2]) + 1e-9
            assert any(abs(value - number) <= half for number in known), (spelled, sentence)


@pytest.mark.parametrize("case", CASES)
def test_what_is_to_be_tried_can_be_typed(case: str, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs[case].parent)
    for remark in remarks(read_facts(runs[case])):
        if remark.command:
            name, *argv = remark.command
            config: Any = load_config(COMMANDS[name], argv, name)
            assert list(config.conflicts()) == []
            if name in ("distill", "online", "train-teacher", "export"):
                # Nothing that is there is written over, unless it is gone on with.
                resumes = remark.key in ("resume", "begin_anew")
                assert (Path(config.out) == runs[case]) == resumes


def test_noise_of_continuous_actions_is_not_told_as_chance(tmp_path: Path) -> None:
    content = summary_of(
        {"half_cheetah_v5": [5000.0, 5100.0] * 10},
        {"half_cheetah_v5": [4900.0, 5000.0] * 10},
        random_scores={"half_cheetah_v5": -273.9},
        student_parameters=5_702,
        teacher_parameters=73_484,
        evaluation_epsilon=0.05,
    )
    for name, student in (
        ("told", StudentConfig(network="mlp", actions="means")),
        ("known", StudentConfig(network="mlp")),
    ):
        config = DistillConfig(teacher=("half_cheetah_v5",), out=str(tmp_path / name), student=student)
        with RunDirectory.create(tmp_path / name, "distill", to_mapping(config)) as run:
            run.write_summary(content.to_json())
        assert "measured_by_chance" not in keys_of(tmp_path / name)


@pytest.mark.parametrize("actions", [{}, {"actions": "continuous"}])
def test_an_evaluation_says_of_tasks_that_are_not_bundled_whether_noise_is_chance(
    tmp_path: Path, actions: dict[str, str]
) -> None:
    returns = {"hopper_v5": [900.0, 1000.0] * 10}
    content = summary_of(returns, returns, student_parameters=100, teacher_parameters=1_000, epsilon=0.05, **actions)
    config = EvaluateConfig(teacher="hopper.safetensors", out=str(tmp_path / "e"))
    with RunDirectory.create(tmp_path / "e", "evaluate", to_mapping(config)) as run:
        run.write_summary(content.to_json())
    assert ("measured_by_chance" in keys_of(tmp_path / "e")) == (not actions)


def test_a_run_that_is_at_work_is_waited_for(tmp_path: Path) -> None:
    config = DistillConfig(teacher="pong", out="x", schedule=ScheduleConfig(rounds=24, updates_per_round=300))
    with RunDirectory.create(tmp_path / "a", "distill", to_mapping(config)):
        assert {"running_begins"} <= set(keys_of(tmp_path / "a"))
        write_metrics(tmp_path / "a", FALLING[:30])
        keys = keys_of(tmp_path / "a")
        assert {"running_updates", "wait"} <= set(keys) and "resume" not in keys
        assert any("1,500 of 7,200" in line for line in explain(tmp_path / "a"))
    with RunDirectory.create(tmp_path / "b", "train-teacher", to_mapping(TrainTeacherConfig(game="pong", out="x"))):
        write_metrics(tmp_path / "b", [{"step": 5000, "time": 1.0, "loss": 0.4}])
        assert {"running_steps", "wait"} <= set(keys_of(tmp_path / "b"))
    with RunDirectory.create(tmp_path / "c", "sweep", to_mapping(SweepConfig(teacher="pong", out="x"))):
        assert {"no_result_running"} <= set(keys_of(tmp_path / "c"))


def test_of_many_games_the_best_and_the_worst_are_told(runs: dict[str, Path]) -> None:
    text = "\n".join(explain(runs["six games"]))
    told = re.findall(r"^- (\S+): the student scores", text, re.MULTILINE)
    assert told == ["Pong", "Breakout", "Seaquest", "Q*bert"]


def test_of_a_long_run_the_beginning_and_the_end_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = unfinished(curve([1.0] * 300, [0.1] * 40 + [0.5] * 220 + [0.9] * 40))(tmp_path / "run")
    size = (run / "metrics.jsonl").stat().st_size // 300
    monkeypatch.setattr("pd_jax.report.explanation.facts._HEAD_BYTES", 10 * size)
    monkeypatch.setattr("pd_jax.report.explanation.facts._TAIL_BYTES", 20 * size)
    facts = read_facts(run)
    steps = [line["step"] for line in facts.metrics]
    assert steps == sorted(steps) and len(steps) < 32 and steps[0] == 50 and steps[-1] == 15_000
    assert "in 10 % of the decisions that it learned from, and lately in 90 %" in "\n".join(explain(run))


def test_settings_that_are_not_what_they_should_be_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "# pd-jax distill\nschedule: {rounds: many, updates_per_round: [3]}\nstudent: 5\nteacher: {a: b}\n"
    )
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": "x"}\n[]\n\xff\n{"step": 50, "loss": "NaN"}\n{"step": 100}\n')
    for language in LANGUAGES:
        assert any("100" in line for line in explain(tmp_path, language))
    assert "stopped_somewhere" in keys_of(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is not a run directory: it has no config.yaml"),
        ({"config.yaml": "# pd-jax collect\nseed: 0\n"}, "holds a run of pd-jax collect; those of distill, online, "),
        ({"config.yaml": "# pd-jax distill\nseed: 0\n", "summary.json": "{"}, "is not a summary"),
        (
            {"config.yaml": "# pd-jax distill\nseed: 0\n", "summary.json": '{"games": {"pong": 3}}'},
            "3 is not a mapping of scores",
        ),
        ({"config.yaml": "# pd-jax sweep\nseed: 0\n", "table.json": '{"cells": 3}'}, "is not the table of a sweep"),
        ({"config.yaml": "# pd-jax sweep\nseed: 0\n", "table.json": "[" * 100_000}, "is not the table of a sweep"),
    ],
)
def test_what_is_no_run_is_one_line(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        explain(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_command_prints_it_in_the_language_that_is_asked_for(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(runs["as good"])
    assert main(["explain", "--run", run]) == 0
    assert capsys.readouterr().out.splitlines() == say(read_facts(run), "en")
    assert main(["explain", "--run", run, "--language", "ja"]) == 0
    out = capsys.readouterr().out
    assert "行ったこと" in out and "pd-jax export --run" in out and "{" not in out
    assert main(["explain", "--run", run, "--language", "fr"]) == 2
    assert "'fr' is not a language" in capsys.readouterr().err


def test_a_name_cannot_bring_lines_or_codes_of_a_terminal(tmp_path: Path) -> None:
    name = "x\n\x1b[31m"
    config = DistillConfig(teacher="pong", out="x")
    content = summary_of({name: [1.0, 2.0]}, {name: [1.0, 2.0]}, student_parameters=1, teacher_parameters=1)
    with RunDirectory.create(tmp_path / "run", "distill", to_mapping(config)) as run:
        run.write_summary(content.to_json())
    assert all(line.isprintable() for line in explain(tmp_path / "run"))


def test_a_score_that_is_just_short_does_not_look_whole() -> None:
    from pd_jax.report.explanation.explain import spell_value

    values = [(99.6, "99.6"), (100.0, "100"), (0.4, "0.4"), (-0.02, "0.0"), (98.5, "98"), (-3.4, "-3")]
    assert [spell_value(Percent(value), english) for value, _ in values] == [text for _, text in values]
    assert spell(Remark("done", "size_alike", {"student": Percent(5), "teacher": Percent(5)}), english)
