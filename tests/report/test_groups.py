"""What belongs together, what is averaged, and what is not."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.config.sections import LearnerConfig, StudentEvaluationConfig
from pd_jax.environments.tasks import PAPER_GAMES
from pd_jax.evaluation.scores import Score
from pd_jax.report.groups import build_report
from support.made_runs import report_of, result, write_distillation, write_evaluation


def test_seeds_of_one_design_are_pooled_and_their_spread_is_said(tmp_path: Path) -> None:
    students = {0: (14.0, 16.0), 1: (17.0, 19.0), 2: (20.0, 22.0)}
    runs = [
        write_distillation(tmp_path / str(seed), seed=seed, student=returns, teacher=(18.0 + seed, 20.0 + seed))
        for seed, returns in students.items()
    ]
    (section,) = report_of(*runs).sections
    (cell,) = section.cells
    # Seeds' means 15, 18 and 21; the teacher's 19, 20 and 21.
    assert (cell.student.mean, cell.spread, cell.student.episodes) == (18.0, 3.0, 6)
    assert cell.student.standard_error == pytest.approx(3 / math.sqrt(3))
    assert cell.teacher is not None
    assert cell.teacher.mean == 20.0
    assert cell.raw.value == pytest.approx(90.0)
    assert cell.normalised.value == pytest.approx(100 * (18 + 20.7) / (20 + 20.7))
    assert [item.seed for item in cell.results] == [0, 1, 2]


def test_a_setting_that_differs_within_a_game_makes_another_design(tmp_path: Path) -> None:
    rates = (1e-3, 1e-4)
    runs = [
        write_distillation(tmp_path / f"{game}-{rate}", game=game, learner=LearnerConfig(learning_rate=rate))
        for game in ("pong", "breakout")
        for rate in rates
    ]
    (section,) = report_of(*runs).sections
    assert [mean.design.settings for mean in section.means] == [
        (("learner.learning_rate", 1e-4),),
        (("learner.learning_rate", 1e-3),),
    ]
    assert all([cell.game for cell in mean.cells] == ["breakout", "pong"] for mean in section.means)


def test_a_setting_that_differs_between_games_alone_does_not_but_is_told_of(tmp_path: Path) -> None:
    runs = [
        write_distillation(tmp_path / game, game=game, learner=LearnerConfig(batch_size=size))
        for game, size in (("pong", 32), ("breakout", 64))
    ]
    report = report_of(*runs)
    ((mean,),) = [section.means for section in report.sections]
    assert mean.design.settings == ()
    assert len(mean.cells) == 2
    assert report.warnings == (
        "net2 (pong, breakout): its mean is over games whose runs differ in learner.batch_size",
    )  # fmt: skip


def test_losses_and_temperatures_stand_apart_in_the_papers_order() -> None:
    results = [
        result(loss=loss, temperature=t) for loss, t in (("mse", None), ("kl", 1.0), ("nll", None), ("kl", 0.01))
    ]
    (section,) = build_report(results).sections
    recipes = [cell.design.recipe for cell in section.cells]
    assert [(recipe.loss, recipe.temperature) for recipe in recipes] == [
        ("kl", 0.01),
        ("kl", 1.0),
        ("nll", None),
        ("mse", None),
    ]


def test_protocols_are_never_averaged(tmp_path: Path) -> None:
    runs = [
        write_distillation(tmp_path / str(epsilon), seed=seed, evaluation=StudentEvaluationConfig(epsilon=epsilon))
        for seed, epsilon in enumerate((0.05, 0.0))
    ]
    report = report_of(*runs)
    assert [section.rules.epsilon for section in report.sections] == [0.05, 0.0]
    assert all(len(section.cells[0].results) == 1 for section in report.sections)


def test_the_number_of_episodes_is_no_other_protocol(tmp_path: Path) -> None:
    runs = [write_distillation(tmp_path / str(n), seed=n, student=[float(n)] * n) for n in (2, 5)]
    ((cell,),) = [section.cells for section in report_of(*runs).sections]
    assert (cell.student.mean, cell.student.episodes) == (3.5, 7)


def test_two_scores_of_one_student_are_not_two_students(tmp_path: Path) -> None:
    trained = write_distillation(tmp_path / "run", student=(17.0, 19.0))
    longer = write_evaluation(tmp_path / "evaluation", trained, student=(10.0, 11.0, 12.0), teacher=(20.0, 22.0))
    report = report_of(trained, longer)
    ((cell,),) = [section.cells for section in report.sections]
    assert (cell.student.mean, cell.student.episodes, cell.spread) == (11.0, 3, None)
    (warning,) = report.warnings
    assert warning.startswith(f"{trained}: pong is left out: {longer} scored the same student, or one of the same seed")
    assert warning.endswith("(0), over more games")


def test_a_score_with_a_teacher_is_worth_more_than_one_without(tmp_path: Path) -> None:
    trained = write_distillation(tmp_path / "run", student=(17.0, 19.0))
    alone = write_evaluation(tmp_path / "evaluation", trained, student=(10.0, 11.0, 12.0), teacher=None)
    ((cell,),) = [section.cells for section in report_of(alone, trained).sections]
    assert (cell.student.mean, cell.raw.value) == (18.0, 90.0)


def test_a_teacher_that_met_the_same_games_is_counted_once() -> None:
    same = Score(20.0, 0.5, 19.0, 21.0, 30)
    ((cell,),) = [section.cells for section in build_report([result(seed=s, teacher=same) for s in range(3)]).sections]
    assert cell.teacher == same


def test_students_of_two_teachers_have_no_common_mean() -> None:
    results = [result(teacher_name=name, seed=seed) for name in ("early", "late") for seed in (0, 1)]
    (section,) = build_report(results).sections
    assert [(cell.teacher_name, len(cell.results)) for cell in section.cells] == [("early", 2), ("late", 2)]
    (mean,) = section.means
    assert mean.problem == "pong has students of different teachers"
    assert (mean.raw.value, mean.normalised.value, mean.paper) == (None, None, None)


def test_raw_scores_are_compared_where_all_are_positive() -> None:
    scores = {"breakout": (300.0, 400.0), "freeway": (33.0, 30.0), "pong": (9.0, 18.0)}
    results = [result(game=game, student=s, teacher=t, random_score=1.0) for game, (s, t) in scores.items()]
    (section,) = build_report(results).sections
    (mean,) = section.means
    assert (section.measure, section.not_positive) == ("raw", ())
    assert mean.raw.value == pytest.approx(100 * (0.75 * 1.1 * 0.5) ** (1 / 3))
    assert mean.normalised.value == pytest.approx(100 * (299 / 399 * 32 / 29 * 8 / 17) ** (1 / 3))


def test_one_score_that_is_not_positive_has_all_of_them_compared_above_random() -> None:
    results = [
        result(network="net1", student=18.0, teacher=20.0, random_score=-20.0),
        result(network="net2", student=-10.0, teacher=20.0, random_score=-20.0),
        result(network="net2", game="breakout", student=100.0, teacher=400.0, random_score=0.0),
        result(network="net3", student=-21.0, teacher=20.0, random_score=-20.0),
        result(network="net3", game="breakout", student=100.0, teacher=400.0, random_score=0.0),
    ]
    (section,) = build_report(results).sections
    assert section.measure == "normalised"
    assert [(cell.game, cell.design.recipe.network) for cell in section.not_positive] == [
        ("pong", "net2"),
        ("pong", "net3"),
    ]
    first, second, third = section.means
    assert (first.raw.value, first.normalised.value) == (pytest.approx(90.0), pytest.approx(95.0))
    assert (second.raw.value, second.floored) == (None, ())
    # 10 of 40 points and 100 of 400: a quarter each.
    assert second.normalised.value == pytest.approx(25.0)
    # Worse than random counts as 1 %.
    assert third.floored == ("pong",)
    assert third.normalised.value == pytest.approx(math.sqrt(1.0 * 25.0))


def test_a_teacher_with_a_negative_score_has_shares_above_random_alone() -> None:
    ((cell,),) = [s.cells for s in build_report([result(student=-90.0, teacher=-80.0, random_score=-500.0)]).sections]
    assert cell.raw.value is None
    assert cell.normalised.value == pytest.approx(100 * 410 / 420)


def test_without_a_teacher_or_a_random_score_nothing_is_made_up() -> None:
    ((cell,),) = [s.cells for s in build_report([result(student=-90.0, teacher=None)]).sections]
    assert (cell.raw.value, cell.normalised.value, cell.teacher) == (None, None, None)
    (section,) = build_report([result(game="alien", random_score=None)]).sections
    assert (section.measure, section.means[0].normalised.value) == ("raw", None)
    assert section.means[0].raw.value == pytest.approx(90.0)


def test_compression_is_the_papers_where_the_networks_are() -> None:
    results = [result(game=game, network=name) for game in PAPER_GAMES for name in ("net3", "net1", "mlp")]
    (section,) = build_report(results).sections
    shown = [(mean.design.recipe.network, mean.paper.percent if mean.paper else None) for mean in section.means]
    assert shown == [("net1", 108.3), ("net3", 83.9), ("mlp", None)]
    assert section.means[0].compression == pytest.approx(1_693_362 / 427_874)
    assert [cell.game for cell in section.cells if cell.design.recipe.network == "net1"] == list(PAPER_GAMES)


def test_a_student_of_three_games_stands_beside_the_papers() -> None:
    games = ("breakout", "freeway", "pong")
    results = [result(game=game, network="multi3", together=games) for game in games]
    ((mean,),) = [section.means for section in build_report(results).sections]
    assert mean.paper is not None
    assert mean.paper.percent == 116.9
    ((part,),) = [section.means for section in build_report(results[:2]).sections]
    assert part.paper is None, "two of its three games are another measurement"


def test_seeds_that_learnt_for_longer_are_told_of() -> None:
    results = [result(seed=0), dataclasses.replace(result(seed=1), env_steps=5000)]
    assert any("seeds with 1,000 to 5,000 env_steps" in warning for warning in build_report(results).warnings)


def test_teachers_alone_are_no_students() -> None:
    alone = dataclasses.replace(result(student=None), recipe=None)
    report = build_report([alone])
    assert (report.sections, report.teachers, report.runs) == ((), (alone,), (alone.run,))


def test_long_settings_get_a_letter_and_short_ones_do_not() -> None:
    long = {f"section.number_{index}": index for index in range(9)}
    results = [
        result(seed=seed, settings={key: value + seed // 2 for key, value in long.items()}) for seed in range(4)
    ] + [result(loss="nll")]
    (section,) = build_report(results).sections
    assert [(mean.design.letter, len(mean.cells[0].results)) for mean in section.means] == [("A", 2), ("B", 2), ("", 1)]
    results = [result(seed=seed, settings={"epsilon": seed / 10}) for seed in range(2)]
    (section,) = build_report(results).sections
    assert [(mean.design.letter, mean.design.describe_settings()) for mean in section.means] == [
        ("", "epsilon 0"),
        ("", "epsilon 0.1"),
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pong", "breakout", "alien"]),
            st.sampled_from(["net1", "net2"]),
            st.integers(0, 2),
            st.floats(-50, 50),
            st.floats(-50, 50) | st.none(),
            st.floats(-50, 50) | st.none(),
            st.sampled_from([0.0, 0.05]),
            st.dictionaries(st.sampled_from("ab"), st.integers(0, 2) | st.text(max_size=1) | st.none()),
        ),
        max_size=12,
    )
)
def test_every_student_is_in_one_cell_or_named_in_a_warning(rows: list[Any]) -> None:
    results = [
        result(
            game=game, network=network, seed=seed, student=student, teacher=teacher, random_score=random,
            epsilon=epsilon, settings=settings, run=f"run {index}.",
        )
        for index, (game, network, seed, student, teacher, random, epsilon, settings) in enumerate(rows)
    ]  # fmt: skip
    report = build_report(results)
    cells = [cell for section in report.sections for cell in section.cells]
    shown = [item.run for cell in cells for item in cell.results]
    left_out = {warning.split(":")[0] for warning in report.warnings if "is left out" in warning}
    assert len(shown) == len(set(shown))
    assert set(shown) | left_out == {item.run for item in results}
    for cell in cells:
        means = [item.student.mean for item in cell.results if item.student is not None]
        assert cell.student.mean == pytest.approx(np.mean(means))
        assert len({item.rules for item in cell.results}) == len({item.game for item in cell.results}) == 1
    for section in report.sections:
        for mean in section.means:
            assert mean.normalised.value is None or mean.normalised.value >= 1.0 - 1e-9


def test_the_papers_figure_is_for_students_of_the_very_same_games() -> None:
    three = ("breakout", "freeway", "pong")

    # Scored on three of the four games that it has learnt, it is another student than the paper's.
    results = [result(game=game, network="multi3", together=(*three, "qbert")) for game in three]
    ((mean,),) = [section.means for section in build_report(results).sections]
    assert mean.paper is None


def test_a_student_of_several_games_stands_beside_each_games_own_of_the_same_network() -> None:
    both = ("breakout", "pong")
    results = [
        result(game="pong", network="multi3", student=10.0, random_score=-20.0, together=both, temperature=1.0),
        result(game="breakout", network="multi3", student=30.0, random_score=2.0, together=both),
        result(game="pong", network="multi3", student=20.0, random_score=-20.0),
        # Of another network, loss or teacher they are no pairs.
        result(game="breakout", network="net2", student=40.0),
        result(game="breakout", network="multi3", loss="mse", student=40.0),
        result(game="breakout", network="multi3", student=40.0, teacher_name="another"),
    ]
    (section,) = build_report(results).sections
    (pair,) = section.interference
    assert (pair.together.student.mean, pair.alone.student.mean) == (10.0, 20.0)
    assert (pair.raw.value, pair.normalised.value) == pytest.approx((50.0, 75.0))
    # Half a width of 1 each: of 40 points above random 2.5 %, and of the three quarters of it that the other has.
    assert pair.normalised.low == pytest.approx(75.0 - math.hypot(2.5, 0.75 * 2.5))


def test_students_of_single_games_do_not_interfere() -> None:
    (section,) = build_report([result(game=game) for game in ("breakout", "pong")]).sections
    assert section.interference == ()
