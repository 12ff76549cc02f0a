"""Which runs are aggregated over seeds and games, and against what."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from pd_jax.cli import main
from pd_jax.environments.tasks import get_task
from pd_jax.evaluation.aggregates import performance_profile
from pd_jax.report.aggregates import aggregates_of, improvements_of
from pd_jax.report.groups import build_report
from pd_jax.report.tables import print_report
from support.made_runs import result, write_distillation

GAMES = ("pong", "breakout", "freeway")
# By network, the scores of three seeds in each of the games.
STUDENTS = {
    "net2": ((17.0, 18.0, 19.0), (50.0, 60.0, 70.0), (20.0, 21.0, 22.0)),
    "net3": ((9.0, 18.0, 16.0), (30.0, 55.0, 40.0), (19.0, 20.0, 21.0)),
}
TEACHERS = {"pong": 20.0, "breakout": 100.0, "freeway": 25.0}
RANDOM = {"pong": -20.0, "breakout": 0.0, "freeway": 0.0}


def results(networks=("net2", "net3"), seeds=(0, 1, 2), games=GAMES):
    return [
        result(
            game=game,
            network=network,
            seed=seed,
            student=STUDENTS[network][GAMES.index(game)][seed],
            teacher=TEACHERS[game],
            random_score=RANDOM[game],
        )
        for network in networks
        for seed in seeds
        for game in games
    ]


def shares(network):
    columns = [
        (np.array(own) - RANDOM[game]) / (TEACHERS[game] - RANDOM[game])
        for game, own in zip(GAMES, STUDENTS[network], strict=True)
    ]
    return np.stack(columns, axis=1)


def test_each_design_is_compared_with_its_teachers_and_with_humans() -> None:
    (section,) = build_report(results()).sections
    found = {(own.design.recipe.network, own.reference): own for own in aggregates_of(section)}
    assert set(found) == {(network, reference) for network in STUDENTS for reference in ("teacher", "human")}
    own = found["net3", "teacher"]
    order = [GAMES.index(game) for game in own.games]
    np.testing.assert_allclose(own.scores, shares("net3")[:, order])
    assert own.iqm.value == pytest.approx(100 * scipy.stats.trim_mean(shares("net3").ravel(), 0.25))
    assert own.optimality_gap.value == pytest.approx(100 * (1 - shares("net3").mean())), "none is above its teacher"
    assert own.iqm.low < own.iqm.value < own.iqm.high
    human = found["net2", "human"]
    place = human.games.index("breakout")
    assert human.scores[0, place] == pytest.approx(50.0 / get_task("breakout").human_score)


def test_pairs_of_designs_are_compared_game_by_game() -> None:
    (section,) = build_report(results()).sections
    (pair,) = improvements_of(section)
    ours, theirs = (shares(design.recipe.network) for design in (pair.design, pair.other))
    u = [scipy.stats.mannwhitneyu(x, y).statistic / 9 for x, y in zip(ours.T, theirs.T, strict=True)]
    assert pair.probability.value == pytest.approx(100 * np.mean(u))
    assert pair.games == tuple(sorted(GAMES))


def test_only_seeds_that_every_game_has_are_aggregated() -> None:
    kept = [each for each in results(["net2"]) if not (each.game == "pong" and each.seed == 1)]
    (section,) = build_report(kept).sections
    own = next(own for own in aggregates_of(section) if own.reference == "teacher")
    place = own.games.index("pong")
    assert own.seeds == 2
    np.testing.assert_allclose(own.scores[:, place], shares("net2")[[0, 2], 0])


@pytest.mark.parametrize(
    "few", [{"seeds": (0,)}, {"seeds": (0, 1), "games": ("pong",)}], ids=["one seed", "two seeds of one game"]
)
def test_too_few_runs_are_not_aggregated(few) -> None:
    (section,) = build_report(results(["net2"], **few)).sections
    assert aggregates_of(section) == () and improvements_of(section) == ()


def test_games_without_a_human_or_a_score_of_random_play_are_left_to_the_teacher_or_out() -> None:
    no_human = [result(game=game, network="mlp", seed=seed) for game in ("cartpole", "acrobot") for seed in (0, 1)]
    assert {own.reference for own in aggregates_of(build_report(no_human).sections[0])} == {"teacher"}
    no_random = [result(game=game, seed=seed, random_score=None) for game in GAMES for seed in (0, 1)]
    assert aggregates_of(build_report(no_random).sections[0]) == ()


def test_a_profile_has_its_share_of_runs_within_its_interval() -> None:
    (section,) = build_report(results()).sections
    own = aggregates_of(section)[0]
    thresholds, share, (low, high) = own.profile()
    np.testing.assert_allclose(share, performance_profile(own.scores, thresholds / 100))
    assert (low <= share + 1e-12).all() and (share <= high + 1e-12).all()
    assert thresholds[0] == 0 and share[-1] == 0 and thresholds[-1] >= 100


def test_the_command_shows_three_seeds_of_three_games(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for network, scores in STUDENTS.items():
        for game, own in zip(GAMES, scores, strict=True):
            for seed, score in enumerate(own):
                student, teacher = (score - 1, score + 1), (TEACHERS[game],) * 2
                path = tmp_path / "runs" / f"{network}-{game}-{seed}"
                write_distillation(path, network=network, game=game, seed=seed, student=student, teacher=teacher)
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr().out
    assert "Seeds and games together" in printed and "Probability of improvement" in printed
    assert "3 seeds x 3" in printed and "profiles.png" in printed
    (section,) = json.loads((tmp_path / "report" / "report.json").read_text())["sections"]
    assert [own["reference"] for own in section["aggregates"]] == ["teacher", "human"] * 2
    assert (tmp_path / "report" / "profiles.png").read_bytes().startswith(b"\x89PNG")
    assert "profiles.png" in (tmp_path / "report" / "report.md").read_text()


def test_a_report_of_single_seeds_says_nothing_of_it() -> None:
    printed = io.StringIO()
    print_report(build_report(results(seeds=(0,))), file=printed)
    assert "Seeds and games" not in printed.getvalue() and "improvement" not in printed.getvalue()
