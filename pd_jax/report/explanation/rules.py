"""Which sentences there are to say of a run: each follows from its figures, by the thresholds that stand here.

`docs/explain.md` lists them for users.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pd_jax.config.games import MLPS
from pd_jax.environments.tasks import TASKS
from pd_jax.report.explanation.facts import Facts
from pd_jax.report.explanation.remarks import Count, Duration, Names, Percent, Remark, Score, Times, Value
from pd_jax.report.forgetting import forgotten_in
from pd_jax.runs.summary import GameSummary, Summary

SURE = 2.0
"""Standard errors of a difference beyond which two scores count as different."""
FEW_GAMES = 10
"""Games below which a score says little, whatever they are like."""
NEARLY, BELOW, HARDLY = 95.0, 75.0, 25.0
"""Per cent of the way from random play to the teacher: nearly as good from the first, well below it from the second,
and next to nothing learnt below the third."""
UNCERTAIN = 0.1
"""Half the student's 95 % interval, as a share of what lies between random play and the teacher."""
STILL_FALLING = 0.05
"""By how much of itself the mean loss is lower in the last tenth of a run than in the one before, if it still falls."""
NEVER_FELL = 0.1
"""By how much of itself the mean loss is lower in the last tenth than in the first, if it has fallen at all."""
STILL_RISING = 0.05
"""By how much of its range the best score in the last third of a teacher's curve is above the best before, if it still
rises."""
AGREES = 0.9
"""The share of its decisions in which a student agrees with its teacher from which on it makes few mistakes."""
SMALL = 5.0
"""How many times smaller than its teacher a student is that may be too small."""
MOST = 0.5
"""The share of the time that something takes which is what to make faster."""
FORGETS = 5.0
"""Per cent of what a score lay above random play that are lost, from which on something counts as forgotten."""
_LARGER = {"net3": "net2", "net2": "net1", "net1": "dqn"}
_SHOWN_GAMES = 4


def remarks(facts: Facts) -> Iterator[Remark]:
    """All there is to say of a run, in order."""
    yield from _done(facts)
    if facts.state != "finished":
        yield from _unfinished(facts)
        return
    if facts.command == "sweep":
        yield from _of_sweep(facts)
    elif facts.summary is not None and facts.command == "train-teacher":
        yield from _of_teacher(facts, facts.summary)
    elif facts.summary is not None and facts.summary.is_comparison:
        yield from _of_student(facts, facts.summary)
    elif facts.summary is not None:
        yield from _of_scores(facts.summary)


# What was done.


def _done(facts: Facts) -> Iterator[Remark]:
    games = Names(tuple(_games(facts)))
    kinds = {"train-teacher": "teacher", "online": "online", "evaluate": "evaluate", "sweep": "sweep"}
    several = "distill_several" if len(games.values) > 1 else "distill"
    if facts.state != "finished":
        yield Remark("goal", f"goal_{kinds.get(facts.command, several)}", {"games": games})
        return
    yield Remark("done", f"done_{kinds.get(facts.command, several)}", {"games": games})
    summary = facts.summary
    if summary is None or facts.command == "evaluate":
        return
    if summary.env_steps is not None and summary.updates is not None and summary.wall_seconds is not None:
        values = {
            "steps": Count(summary.env_steps),
            "updates": Count(summary.updates),
            "time": Duration(summary.wall_seconds),
        }
        recorded = facts.config.get("data") is not None
        kind = "teacher" if facts.command == "train-teacher" else "recorded" if recorded else "student"
        yield Remark("done", f"work_{kind}", values)
    if facts.config.get("init_from") is not None:
        yield Remark("done", "started_from")
    yield from _changed_games(facts)
    if facts.command == "distill" and facts.config.get("data") is None:
        policy = facts.about("behaviour", str) or facts.setting("behaviour.policy", str)
        if policy in ("mixture", "student"):
            yield Remark("done", f"behaviour_{policy}")
    if summary.student_parameters and summary.teacher_parameters and summary.compression is not None:
        sizes = {"student": Count(summary.student_parameters), "teacher": Count(summary.teacher_parameters)}
        if summary.compression >= 1.05:
            yield Remark("done", "size_smaller", sizes | {"times": Times(summary.compression)})
        else:
            yield Remark("done", "size_alike", sizes)


def _changed_games(facts: Facts) -> Iterator[Remark]:
    """What was added to the games of the network that it started from, and what was left out."""
    about: Mapping[str, Any] = {} if facts.summary is None else facts.summary.about
    adding, begun = about.get("adding"), about.get("init_from")
    if isinstance(adding, dict) and isinstance(adding.get("games"), list):
        games = {"games": Names(tuple(title(str(game)) for game in adding["games"]))}
        way = "head" if adding.get("learn") == "head" else "all" if adding.get("penalty") == "none" else "held"
        yield Remark("done", f"added_{way}", games)
    if isinstance(begun, dict) and isinstance(begun.get("left_out"), list) and begun["left_out"]:
        yield Remark("done", "left_out", {"games": Names(tuple(title(str(game)) for game in begun["left_out"]))})


def _games(facts: Facts) -> list[str]:
    if facts.summary is not None:
        return [title(game) for game in facts.summary.games]
    if facts.sweep is not None:
        return list(dict.fromkeys(title(str(cell.get("game"))) for cell in facts.sweep["cells"]))
    for key in ("game", "teacher"):
        value = facts.config.get(key)
        names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        # A teacher may be a file, which says nothing of its game.
        known = [title(name) for name in names if isinstance(name, str) and name in TASKS]
        if known:
            return known
    return []


def title(game: str) -> str:
    """Such as ``Space Invaders``."""
    own = {"cartpole": "CartPole", "lunarlander": "LunarLander", "qbert": "Q*bert", "ms_pacman": "Ms. Pac-Man"}
    return own.get(game) or (game.replace("_", " ").title() if game.islower() else game)


# A run that has not ended.


def _unfinished(facts: Facts) -> Iterator[Remark]:
    step, planned = facts.step, facts.planned
    unit = "steps" if facts.command == "train-teacher" else "updates"
    resume = _resume(facts)
    if facts.command == "evaluate" or facts.command == "sweep":
        yield Remark("result", "no_result_running" if facts.state == "running" else "no_result")
        if facts.state != "running":
            yield Remark("next", "resume", {}, resume)
        return
    if facts.state == "not_begun" or step == 0:
        yield Remark("result", "running_begins" if facts.state == "running" else "not_begun")
        if facts.state != "running":
            yield Remark("next", "resume", {}, resume)
        return
    if planned:
        values = {"step": Count(step), "planned": Count(planned), "percent": Percent(100 * step / planned)}
        yield Remark("result", f"{facts.state}_{unit}", values)
    else:
        yield Remark("result", f"{facts.state}_somewhere", {"step": Count(step)})
    yield from _on_the_way(facts)
    if facts.state == "running":
        yield Remark("next", "wait")
    elif facts.state == "diverged":
        yield from _after_divergence(facts)
    elif facts.checkpoint is None:
        yield Remark("limits", "nothing_saved")
        yield Remark("next", "begin_anew", {}, resume)
    else:
        yield Remark("limits", f"saved_{unit}", {"step": Count(facts.checkpoint)})
        yield Remark("next", "resume", {}, resume)


def _on_the_way(facts: Facts) -> Iterator[Remark]:
    """How it is getting on, of what metrics have."""
    agreement = facts.series("agreement")
    if facts.state != "diverged" and len(agreement) >= 10:
        first, last = _mean(agreement[: len(agreement) // 10]), _mean(agreement[-len(agreement) // 10 :])
        key = "agreement_rose" if last > first else "agreement_stayed"
        yield Remark("result", key, {"first": Percent(100 * first), "last": Percent(100 * last)})
    for name in sorted({key for line in facts.metrics for key in line if key.startswith("score/")})[:_SHOWN_GAMES]:
        _, score = facts.series(name)[-1] if facts.series(name) else (0, None)
        if score is not None:
            values = {"game": Names((title(name.partition("/")[2]),)), "score": Score(score)}
            yield Remark("result", "score_so_far", values)


def _after_divergence(facts: Facts) -> Iterator[Remark]:
    yield Remark("limits", "diverged")
    yield from _lower_rate(facts)
    if facts.command in ("distill", "online") and facts.setting("checkpoint.on_divergence", str) == "stop":
        yield Remark("next", "roll_back", {}, _again(facts, "calm", "--checkpoint.on-divergence", "roll_back"))


def _lower_rate(facts: Facts) -> Iterator[Remark]:
    section = "learner" if facts.command != "train-teacher" else facts.setting("algorithm", str) or "pqn"
    rate = facts.setting(f"{section}.learning_rate", float)
    if rate is not None:
        option = (f"--{section}.learning-rate", f"{rate / 10:g}")
        yield Remark("next", "lower_rate", {}, _again(facts, "calm", *option))


# A student.


def _of_student(facts: Facts, summary: Summary) -> Iterator[Remark]:
    yield from _measured(facts, summary)
    games = summary.games
    percents = {name: share for name, game in games.items() if (share := _share(game)) is not None}
    shown = games if len(games) <= _SHOWN_GAMES else _extremes(games, percents)
    for name, game in shown.items():
        yield from _of_game(name, game)
    for name, game in shown.items():
        if (own := forgotten_in(game)) is not None and own.percent is not None:
            key = "forgotten" if own.percent > FORGETS else "not_forgotten"
            values = {"game": Names((title(name),)), "before": Score(own.before), "percent": Percent(own.percent)}
            yield Remark("result", key, values)
    if len(games) > 1:
        mean = summary.above_random["geometric_mean_percent_normalised_floored"]
        if mean is not None:
            yield Remark("result", "mean_of_games", {"games": Count(len(games)), "percent": Percent(mean)})
    if facts.command == "evaluate":
        yield from _uncertain(games)
        return
    worst = min(percents, key=percents.__getitem__, default=None)
    is_good = bool(percents) and all(_level(game) in ("better", "as_good", "nearly") for game in games.values())
    yield from _limits(facts, summary, worst, is_good=is_good)
    yield from _next_for_student(facts, summary, worst, is_good=is_good)


def _measured(facts: Facts, summary: Summary) -> Iterator[Remark]:
    episodes = {game.episodes for game in summary.games.values()}
    limit = _cut_off(facts)
    if len(episodes) == 1 and limit is not None:
        yield Remark("result", "measured_cut_off", {"episodes": Count(*episodes), "steps": Count(limit)})
    elif len(episodes) == 1:
        key = "measured" if summary.is_comparison else "measured_alone"
        yield Remark("result", key, {"episodes": Count(*episodes)})
    epsilon = facts.about("evaluation_epsilon", float)
    if epsilon is None:
        epsilon = facts.about("epsilon", float)
    # Of continuous actions it scales noise, and is no chance.
    if epsilon and not _is_continuous(facts, summary):
        yield Remark("result", "measured_by_chance", {"percent": Percent(100 * epsilon)})


def _is_continuous(facts: Facts, summary: Summary) -> bool:
    """Whether actions are continuous, as far as an evaluation's summary, a run's settings, and the tasks of bundled
    teachers say it."""
    is_told = facts.setting("student.actions", str) in ("gaussian", "squashed", "means")
    is_told = is_told or facts.about("actions", str) == "continuous"
    return is_told or any(name in TASKS and TASKS[name].is_continuous for name in summary.games)


def _cut_off(facts: Facts) -> int | None:
    """After how many decisions games were cut off; None if they were played to their end."""
    limit = facts.setting("evaluation.max_episode_steps", int)
    return facts.setting("env.max_episode_steps", int) if limit is None else limit


def _extremes(games: Mapping[str, GameSummary], percents: Mapping[str, float]) -> dict[str, GameSummary]:
    """Of many games the two that went best and the two that went worst."""
    order = sorted(percents, key=percents.__getitem__)
    return {name: games[name] for name in [*order[::-1][:2], *order[:2][::-1]]}


def _of_game(name: str, game: GameSummary) -> Iterator[Remark]:
    if game.teacher is None or game.student is None:
        return
    named = Names((title(name),))
    scores: dict[str, Value] = {
        "game": named,
        "student": Score(game.student.mean),
        "teacher": Score(game.teacher.mean),
    }
    if game.random_score is None:
        yield Remark("result", "scores", scores)
    else:
        yield Remark("result", "scores_and_random", scores | {"random": Score(game.random_score)})
    level = _level(game)
    share = _share(game)
    percent: dict[str, Value] = {} if share is None else {"percent": Percent(share)}
    yield Remark("result", f"level_{level}", {"game": named} | percent)


def _share(game: GameSummary) -> float | None:
    """Per cent of the way from random play to the teacher, or of the teacher's score where random play's is unknown."""
    normalised = game.percent_of_teacher_normalised
    return game.percent_of_teacher if game.random_score is None else normalised


def _level(game: GameSummary) -> str:
    """How good a student is beside its teacher, in one word."""
    share = _share(game)
    if game.teacher is None or game.student is None or share is None:
        return "unknown"
    if min(game.teacher.episodes, game.student.episodes) < 2:
        return "unclear"
    errors = [score.standard_error for score in (game.teacher, game.student)]
    difference = game.student.mean - game.teacher.mean
    error = None if None in errors else math.hypot(*(error for error in errors if error is not None))
    if error is not None and difference > SURE * error:
        return "better"
    if error is not None and abs(difference) <= SURE * error:
        return "as_good" if share >= NEARLY else "unclear"
    if share >= NEARLY:
        return "nearly"
    return "below" if share >= BELOW else "well_below" if share >= HARDLY else "hardly"


def _uncertain(games: Mapping[str, GameSummary]) -> Iterator[Remark]:
    """Whether more games would say more: because there are few, or of the score that is least certain."""
    fewest = min((game.episodes for game in games.values()), default=FEW_GAMES)
    if fewest < FEW_GAMES:
        yield Remark("limits", "few_games", {"episodes": Count(fewest)})
        return
    widest: tuple[float, GameSummary] | None = None
    for game in games.values():
        student, teacher = game.student, game.teacher
        if student is None or teacher is None or student.low is None or student.high is None:
            continue
        distance = teacher.mean - (game.random_score or 0.0)
        if distance > 0 and (width := (student.high - student.low) / 2 / distance) > (widest or (UNCERTAIN,))[0]:
            widest = width, game
    if widest is not None and (student := widest[1].student) is not None:
        ends = {"low": Score(student.low or 0.0), "high": Score(student.high or 0.0)}
        yield Remark("limits", "uncertain", {"episodes": Count(student.episodes), **ends})


def _limits(facts: Facts, summary: Summary, worst: str | None, *, is_good: bool) -> Iterator[Remark]:
    for name, game in summary.games.items():
        if game.teacher is not None and game.random_score is not None and game.teacher.mean <= game.random_score:
            yield Remark("limits", "teacher_is_random", {"game": Names((title(name),))})
    yield from _uncertain(summary.games)
    if worst is not None and len(summary.games) > 1 and not is_good:
        yield Remark("limits", "worst_game", {"game": Names((title(worst),))})
    agreement = _end_of(facts.series("agreement"))
    if not is_good:
        if _never_fell(facts):
            yield Remark("limits", "never_learnt")
        elif _still_falls(facts):
            yield Remark("limits", "still_learns")
        elif agreement is not None and agreement >= AGREES:
            yield Remark("limits", "agrees_but_fails", {"percent": Percent(100 * agreement)})
        elif agreement is not None and (summary.compression or 0.0) >= SMALL:
            values = {"percent": Percent(100 * agreement), "times": Times(summary.compression or 0.0)}
            yield Remark("limits", "perhaps_too_small", values)
        elif agreement is not None:
            yield Remark("limits", "agreement", {"percent": Percent(100 * agreement)})
    else:
        yield Remark("limits", "the_teacher")
        for name, game in summary.games.items():
            human = TASKS[name].human_score if name in TASKS else None
            is_whole = _cut_off(facts) is None
            if human is not None and is_whole and game.teacher is not None and game.teacher.mean < human:
                values = {"game": Names((title(name),)), "teacher": Score(game.teacher.mean), "human": Score(human)}
                yield Remark("limits", "teacher_below_human", values)
    yield from _time(facts)
    yield Remark("limits", "one_seed")


def _time(facts: Facts) -> Iterator[Remark]:
    """What most of the time went into."""
    shares = None if facts.summary is None else facts.summary.about.get("time_shares")
    bound = facts.about("bound_by", str)
    share = shares.get(bound) if isinstance(shares, Mapping) else None
    if bound in ("stepping", "inference", "updates", "input") and type(share) is float and share >= MOST:
        yield Remark("limits", f"time_{bound}", {"percent": Percent(100 * share)})


def _still_falls(facts: Facts) -> bool:
    """Whether the loss still falls at the end; of a short run, whether it has fallen at all."""
    losses = [value for _, value in facts.series("loss")]
    tenth = len(losses) // 10
    if tenth < 2:
        return len(losses) >= 2 and losses[0] > 0 and losses[-1] < losses[0] * (1 - STILL_FALLING)
    before, last = _average(losses[-2 * tenth : -tenth]), _average(losses[-tenth:])
    return before > 0 and last < before * (1 - STILL_FALLING)


def _never_fell(facts: Facts) -> bool:
    """Whether the loss is no lower at the end than at the beginning."""
    losses = [value for _, value in facts.series("loss")]
    tenth = len(losses) // 10
    if tenth < 1:
        return False
    first, last = _average(losses[:tenth]), _average(losses[-tenth:])
    return first > 0 and last > first * (1 - NEVER_FELL)


def _next_for_student(facts: Facts, summary: Summary, worst: str | None, *, is_good: bool) -> Iterator[Remark]:
    where = facts.path
    if facts.command == "distill" and not is_good:
        yield from _to_do_better(facts, summary, worst)
    if is_good:
        yield Remark("next", "use_it", {}, ("export", "--run", where, "--out", f"{where.rstrip('/')}-export"))
        smaller = {larger: name for name, larger in _LARGER.items()}.get(facts.setting("student.network", str) or "")
        if smaller is not None and facts.command == "distill" and not _has_own_sizes(facts):
            yield Remark(
                "next", "smaller", {"network": Names((smaller,))}, _again(facts, smaller, "--student.network", smaller)
            )
    if any(_uncertain(summary.games)):
        episodes = max(100, 4 * max(game.episodes for game in summary.games.values()))
        argv = ("evaluate", "--run", where, "--evaluation.episodes", str(episodes))
        yield Remark("next", "more_games", {}, (*argv, *_teachers(facts)))
    if facts.command in ("distill", "online"):
        seed = facts.setting("seed", int) or 0
        yield Remark("next", "another_seed", {}, _again(facts, f"seed{seed + 1}", "--seed", str(seed + 1)))


def _teachers(facts: Facts) -> tuple[str, ...]:
    value = facts.config.get("teacher")
    names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return ("--teacher", *map(str, names)) if names and facts.command == "distill" else ()


def _has_own_sizes(facts: Facts) -> bool:
    return any(facts.config.get("student", {}).get(name) is not None for name in ("channels", "hidden"))


def _to_do_better(facts: Facts, summary: Summary, worst: str | None) -> Iterator[Remark]:
    kind, rounds = facts.setting("loss.kind", str), facts.setting("schedule.rounds", int)
    recorded = facts.config.get("data") is not None
    if _never_fell(facts):
        yield from _lower_rate(facts)
    if kind in ("mse", "huber", "nll"):
        yield Remark("next", "loss_kl", {}, _again(facts, "kl", "--loss.kind", "kl"))
    if _never_fell(facts):
        return
    agreement = _end_of(facts.series("agreement"))
    if rounds is not None and (_still_falls(facts) or agreement is None or agreement < AGREES):
        hardly = worst is not None and _level(summary.games[worst]) == "hardly"
        more = (4 if hardly else 2) * rounds
        yield Remark("next", "longer", {}, _again(facts, "longer", "--schedule.rounds", str(more)))
    if facts.setting("behaviour.policy", str) == "teacher" and not recorded:
        yield Remark("next", "dagger", {}, _again(facts, "mixture", "--behaviour.policy", "mixture"))
    network = facts.setting("student.network", str) or ""
    if _still_falls(facts) or (agreement is not None and agreement >= AGREES) or _has_own_sizes(facts):
        return
    if network in _LARGER:
        larger = _LARGER[network]
        yield Remark(
            "next", "larger", {"network": Names((larger,))}, _again(facts, larger, "--student.network", larger)
        )
    elif network in MLPS and (summary.compression or 0.0) > 1:
        sizes = facts.config.get("student", {}).get("mlp_hidden")
        if isinstance(sizes, list) and sizes and all(type(size) is int for size in sizes):
            doubled = [str(2 * size) for size in sizes]
            yield Remark("next", "wider", {}, _again(facts, "wider", "--student.mlp-hidden", *doubled))


# A teacher, an evaluation of one, a sweep.


def _of_teacher(facts: Facts, summary: Summary) -> Iterator[Remark]:
    yield from _measured(facts, summary)
    for name, game in summary.games.items():
        if game.teacher is None:
            continue
        task = TASKS.get(name)
        random = game.random_score if game.random_score is not None or task is None else task.random_score
        human = None if task is None else task.human_score
        values: dict[str, Value] = {"game": Names((title(name),)), "teacher": Score(game.teacher.mean)}
        values |= {} if random is None else {"random": Score(random)}
        if random is None:
            yield Remark("result", "teacher_score", values)
            continue
        yield Remark("result", "teacher_score_and_random", values)
        sure = SURE * (game.teacher.standard_error or 0.0)
        if game.teacher.mean - sure <= random:
            yield Remark("result", "teacher_learnt_nothing", {"game": values["game"]})
        elif human is not None and _cut_off(facts) is None:
            key = "teacher_above_human" if game.teacher.mean >= human else "teacher_under_human"
            yield Remark("result", key, {"game": values["game"], "human": Score(human)})
    rises = _still_rises(facts)
    if rises is not None:
        yield Remark("limits", "curve_rises" if rises else "curve_flat")
    yield from _time(facts)
    yield Remark("limits", "one_seed")
    algorithm, planned = facts.setting("algorithm", str) or "pqn", facts.planned
    # Of a curve that says nothing, what it is compared with does.
    falls_short = _cut_off(facts) is None and any(_is_below_human(name, game) for name, game in summary.games.items())
    if (rises or (rises is None and falls_short)) and planned is not None:
        option = (f"--{algorithm}.total-steps", str(2 * planned))
        yield Remark("next", "train_longer", {}, _again(facts, "longer", *option))
    if len(summary.games) == 1:
        (game_name,) = summary.games
        # Settings that come with pd-jax: the defaults are at the paper's scale.
        settings = "cartpole" if game_name in TASKS and TASKS[game_name].kind != "atari" else "pong"
        out = f"{facts.path.rstrip('/')}-student"
        argv = ("distill", "--config", settings, "--teacher", facts.path, "--out", out)
        yield Remark("next", "distil_it", {}, argv)


def _is_below_human(name: str, game: GameSummary) -> bool:
    human = TASKS[name].human_score if name in TASKS else None
    return human is not None and game.teacher is not None and game.teacher.mean < human


def _still_rises(facts: Facts) -> bool | None:
    """Whether the score still rises at the end of the curve; None of a curve of less than three points."""
    curve = None if facts.summary is None else facts.summary.about.get("learning_curve")
    points = [point.get("mean") for point in curve if isinstance(point, Mapping)] if isinstance(curve, list) else []
    scores = [float(score) for score in points if isinstance(score, int | float) and math.isfinite(score)]
    third = len(scores) // 3
    if third < 1:
        return None
    best, before = max(scores[-third:]), max(scores[:-third])
    return best - before > STILL_RISING * (max(scores) - min(scores)) and best > before


def _of_scores(summary: Summary) -> Iterator[Remark]:
    """An evaluation of a student or a teacher alone."""
    for name, game in summary.games.items():
        score = game.student or game.teacher
        if score is not None:
            who = "student" if game.student is not None else "teacher"
            values = {"game": Names((title(name),)), who: Score(score.mean), "episodes": Count(score.episodes)}
            yield Remark("result", f"{who}_alone", values)


def _of_sweep(facts: Facts) -> Iterator[Remark]:
    if facts.sweep is None:
        return
    rows, cells = facts.sweep["rows"], facts.sweep["cells"]
    failed = [cell for cell in cells if "failure" in cell]
    done = [cell for cell in cells if "student_score" in cell]
    yield Remark("done", "sweep_cells", {"cells": Count(len(done))})
    key = "geometric_mean_percent_normalised_floored"
    scored = [row for row in rows if type(row.get(key)) is float]
    if scored:
        best, worst = max(scored, key=lambda row: row[key]), min(scored, key=lambda row: row[key])
        yield Remark("result", "sweep_best", {"recipe": Names((_recipe(best),)), "percent": Percent(best[key])})
        if worst is not best:
            yield Remark("result", "sweep_worst", {"recipe": Names((_recipe(worst),)), "percent": Percent(worst[key])})
    seeds = {cell.get("seed") for cell in done}
    if failed:
        yield Remark("limits", "sweep_failed", {"cells": Count(len(failed))})
    if len(seeds) < 3:
        yield Remark("limits", "sweep_few_seeds", {"seeds": Count(len(seeds))})
    yield Remark("next", "sweep_report", {}, ("report", facts.path))


def _recipe(row: Mapping[str, Any]) -> str:
    """Such as ``net2, kl, τ = 0.01``."""
    texts = [str(row.get("network")), str(row.get("loss"))]
    if isinstance(temperature := row.get("temperature"), int | float):
        texts.append(f"τ = {temperature:g}")
    return ", ".join(texts)


# What to try.


def _again(facts: Facts, suffix: str, *options: str) -> tuple[str, ...]:
    """The same run with something else, in a directory beside it."""
    where = facts.path.rstrip("/")
    return (facts.command, "--config", f"{where}/config.yaml", "--out", f"{where}-{suffix}", *options)


def _resume(facts: Facts) -> tuple[str, ...]:
    where = facts.path.rstrip("/")
    return (facts.command, "--config", f"{where}/config.yaml", "--out", where, "--resume")


def spell_command(argv: Sequence[str]) -> str:
    """As it is typed."""
    return " ".join(["pd-jax", *map(shlex.quote, argv)])


def _mean(points: Sequence[tuple[int, float]]) -> float:
    return _average([value for _, value in points])


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _end_of(points: Sequence[tuple[int, float]]) -> float | None:
    """The mean of the last tenth; None of less than ten."""
    return _mean(points[-(len(points) // 10) :]) if len(points) >= 10 else None
