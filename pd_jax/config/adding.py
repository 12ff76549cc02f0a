"""Games that are added to a student: the settings, and what of them the student's run says."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pd_jax.config.fields import Bounds, Choice, make_tuples
from pd_jax.config.games import not_one_each
from pd_jax.config.idle import Idle
from pd_jax.config.sections import CountOrZero, StudentConfig, Words
from pd_jax.config.yaml import read_yaml
from pd_jax.errors import UserError
from pd_jax.system.files import expand_home
from pd_jax.system.text import printable

_MULTI = ("multi3", "multi10")
# What another run does not take over: where it is, what it began with, and what is settled as a run begins.
_OWN = ("out", "init_from", "parts", "adding")


# Nor how its games were weighed: here they are old and new.
_BETWEEN = tuple(
    f"learner.{name}"
    for name in ("game_weights", "balance", "balance_rate", "gradnorm_alpha", "gradient_cosines_every")
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddingConfig:
    """How games are added to a student that plays others."""

    games: Words | None = None
    """Which of the games are added, the last ones; add_teacher fills it in."""
    learn: Annotated[Literal["all", "head"], Choice("what learns")] = "all"
    """All of the student, or the heads of the added games alone: nothing else changes then, to the last bit."""
    penalty: Annotated[Literal["none", "ewc", "distance"], Choice("a penalty")] = "none"
    """None learns the old games on, from their teachers' play. With a penalty only the added games are played, and
    weights are held near the old student's: by what each matters to its policies (ewc, Kirkpatrick et al. 2017), or all
    alike (distance)."""
    penalty_weight: Annotated[float, Bounds(0.0, 1e9)] = 0.01
    """What the penalty counts beside the loss: half of it times the sum of squared changes, each times its importance,
    whose mean is 1."""
    new_share: Annotated[float, Bounds(0.01, 0.99)] = 0.5
    """Share of the added games, all together, in the loss where the old ones are learnt on; where games alternate, of
    the turns."""
    old_steps: CountOrZero = 4_096
    """Control steps of each old game, from its recording or played at the start, from which ewc finds what matters and
    a run with a penalty measures what the student still knows; 0 measures nothing."""

    def __post_init__(self) -> None:
        make_tuples(self)

    @property
    def replays(self) -> bool:
        """Whether the old games are learnt on."""
        return self.learn == "all" and self.penalty == "none"

    @property
    def samples(self) -> bool:
        """Whether some play of the old games is looked at, and not learnt from."""
        return self.learn == "all" and self.penalty != "none" and self.old_steps > 0

    def describe(self) -> str:
        """How games are added, in a few words."""
        if self.learn == "head":
            return "the new head alone learns"
        if self.replays:
            return f"all of it learns, the old games on too; the new share is {self.new_share:g}"
        return f"all of it learns, from new play alone; {self.penalty} holds it, with weight {self.penalty_weight:g}"


def idle_adding(adding: AddingConfig, *, is_added: bool) -> Iterator[Idle]:
    """What the way of adding does not look at; of a run that adds nothing, all of it."""
    if not is_added:
        yield Idle("adding", "add_teacher", "says how a game is added; add --add-teacher")
        return
    if adding.learn == "head":
        yield Idle("adding.penalty", "adding.learn", "nothing that it would hold learns; adding.learn is 'head'")
    if adding.learn == "head" or adding.penalty == "none":
        because = "adding.learn" if adding.learn == "head" else "adding.penalty"
        value = "head" if adding.learn == "head" else "none"
        yield Idle("adding.penalty_weight", because, f"is for a penalty, and {because} is {value!r}")
        yield Idle("adding.old_steps", because, f"is for a penalty, and {because} is {value!r}")
    if not adding.replays:
        because = "adding.learn" if adding.learn == "head" else "adding.penalty"
        yield Idle("adding.new_share", because, "the old games are not learnt on, and take no part in the loss")


def adding_conflicts(config: Any) -> Iterator[tuple[str, str]]:
    """Yields, as `CommandConfig.conflicts` does, why games cannot be added so.

    Args:
      config: a `pd_jax.config.distill.DistillConfig`.
    """
    adding, is_merged = config.adding, config.adding.games is not None
    if config.add_data is not None and config.add_teacher is None:
        yield "add_data", "is the recorded play of an added game; add --add-teacher"
    if config.add_teacher is None and not is_merged:
        return
    key = "adding.games" if config.add_teacher is None else "add_teacher"
    if config.init_from is None:
        yield key, "games are added to a student; give the run that has it as --init-from RUN"
    if config.add_teacher is not None and is_merged:
        yield "adding.games", "is filled in from add_teacher; leave one out"
    if adding.penalty == "ewc" and adding.learn == "all" and not adding.old_steps:
        yield "adding.old_steps", "0, and ewc finds what matters from play of the old games"
    if config.student.quantisation != "none":
        yield "student.quantisation", "a student of 8 bits learns no game anew; add the game first"
    learner = config.learner
    if learner.game_weights is not None or learner.balance != "none":
        weighed = "learner.balance" if learner.game_weights is None else "learner.game_weights"
        yield weighed, "adding.new_share weighs the games where some are added; leave it out"
    if not adding.replays and learner.gradient_cosines_every:
        yield "learner.gradient_cosines_every", "the old games are not learnt on, and have no gradients; leave it out"
    if not adding.replays and config.behaviour.student_acts:
        yield (
            "behaviour.policy",
            f"{config.behaviour.policy!r} is for games that are all learnt; where old ones are not, the teacher plays",
        )
    if config.add_teacher is None or not config.teacher:
        return
    if config.data is not None and config.add_data is None and (adding.replays or adding.samples):
        yield "add_data", "missing: the old games are recorded; pd-jax collect records the added one too"
    if config.data is None and config.add_data is not None and (adding.replays or adding.samples):
        yield (
            "data",
            "missing: the added game is recorded; pd-jax collect records the old ones too, or drop --add-data",
        )


def uneven_adding(config: Any) -> Iterator[tuple[str, str]]:
    """Yields, as `CommandConfig.conflicts` does, the settings of which there is to be one for each teacher.

    Args:
      config: a `pd_jax.config.distill.DistillConfig` that adds games, before or after these are among its own.
    """
    added = config.add_teacher or ()
    teachers = (*config.teacher, *added)
    games, data = config.game, config.data
    if games is not None and len(games) not in (len(config.teacher), len(teachers)):
        yield from not_one_each("game", games, teachers)
    if data is not None and (added or config.adding.replays or config.adding.samples):
        yield from not_one_each("data", data, config.teacher)
    elif data is not None and len(data) != len(config.adding.games or ()):
        yield from not_one_each("data", data, config.adding.games or ())
    if config.add_data is not None:
        yield from not_one_each("add_data", config.add_data, added)
    if config.env.lanes is not None:
        yield from not_one_each("env.lanes", config.env.lanes, teachers)
    temperature = config.loss.temperature
    if isinstance(temperature, tuple) and len(temperature) > 1:
        yield from not_one_each("loss.temperature", temperature, teachers)


def with_added(config: Any) -> Any:
    """The same run with the added teachers among its own, after the others, and their recordings.

    Args:
      config: a `pd_jax.config.distill.DistillConfig`. Which games these are is known once the teachers are loaded:
        ``adding.games`` is left to whoever loads them.
    """
    if config.add_teacher is None:
        return config
    added = len(config.add_teacher)
    game = config.game
    if game is not None and len(game) == len(config.teacher):
        game = (*game, *(None,) * added)
    data = config.add_data
    if data is not None and (config.adding.replays or config.adding.samples):
        data = (*(config.data or ()), *data)
    teacher = (*config.teacher, *config.add_teacher)
    return dataclasses.replace(config, teacher=teacher, game=game, data=data, add_teacher=None, add_data=None)


def follow_run(from_file: dict[str, Any], overrides: Mapping[str, Any], flatten: Any) -> dict[str, Any]:
    """What was given, above what the run says that games are added to: all that is not given is as it is there.

    A run that goes on takes it from its own ``config.yaml``: the other run need not be there any more.

    Args:
      from_file: the values of a file, by dotted key.
      overrides: those of a command line.
      flatten: makes such values of a file's mapping; called with it and with what messages begin with.

    Returns:
      the values of the file, with the run's beneath them.

    Raises:
      UserError: there is no such run, or what it says is wrong.
    """
    given = from_file | dict(overrides)
    if given.get("add_teacher") is None or given.get("init_from") is None:
        return from_file
    out, source = given.get("out"), str(given["init_from"])
    path, is_own = os.path.join(expand_home(source), "config.yaml"), False
    if given.get("resume") and out is not None and _has_checkpoint(expand_home(str(out))):
        path, is_own = os.path.join(expand_home(str(out)), "config.yaml"), True
    if not os.path.exists(path):
        # Settings may be read before the other run is there; whoever carries them out says that it is not.
        return {"teacher": ()} | from_file
    base: dict[str, Any] = flatten(_read_distillation(path, source), f"{printable(path)}: ")
    added = len(base.pop("adding.games", None) or ())
    if is_own:
        for key in ("teacher", "game", "data"):
            if base.get(key) is not None:
                base[key] = base[key][: len(base[key]) - added]
        base["data"] = base["data"] or None
    else:
        base = {key: value for key, value in base.items() if key.partition(".")[0] not in _OWN and key not in _BETWEEN}
        _check_of_each_game(base, given, source)
        _fit_head(base)
    if "teacher" in given:
        _choose(base, given["teacher"])
    if "data" not in given and base.get("data") is not None:
        # Its lanes are what was recorded.
        base.pop("env.lanes", None)
    if base.get("env.lanes") is not None and not is_own:
        new = given["add_teacher"]
        base["env.lanes"] = (*base["env.lanes"], *base["env.lanes"][-1:] * (1 if isinstance(new, str) else len(new)))
    return base | from_file


def _check_of_each_game(base: Mapping[str, Any], given: Mapping[str, Any], source: str) -> None:
    """Raises a UserError where what the run says of its games, one by one, does not say what holds of these."""
    new, old = (
        (names,) if isinstance(names, str) else tuple(names) for names in (given["add_teacher"], base["teacher"])
    )
    for name in new:
        if name in old:
            raise UserError(f"add_teacher: {printable(source)} plays {name} already ({', '.join(old)})")
    temperature = base.get("loss.temperature")
    if isinstance(temperature, tuple | list) and len(temperature) > 1 and "loss.temperature" not in given:
        raise UserError(
            f"loss.temperature: {printable(source)} has one for each of its games; give auto, or one for each of those "
            "here, in the same order"
        )


def _choose(base: dict[str, Any], given: Any) -> None:
    """Takes what belongs to the run's teachers that were given, in their order; nothing if one is none of these."""
    wanted, there = (list(names) if isinstance(names, tuple | list) else [names] for names in (given, base["teacher"]))
    places = [there.index(name) for name in wanted if name in there]
    for key in ("game", "data", "env.lanes"):
        own = base.pop(key, None)
        if own is not None and len(places) == len(wanted):
            base[key] = tuple((own if isinstance(own, tuple | list) else [own])[place] for place in places)


def _has_checkpoint(out: str) -> bool:
    checkpoints = os.path.join(out, "checkpoints")
    has_any = os.path.isdir(checkpoints) and any(name.isdigit() for name in os.listdir(checkpoints))
    return has_any and os.path.isfile(os.path.join(out, "config.yaml"))


def _read_distillation(path: str, source: str) -> Mapping[str, Any]:
    """What a run's ``config.yaml`` holds."""
    with open(path, encoding="utf-8", errors="replace") as file:
        first = file.readline().strip()
    if first != "# pd-jax distill":
        raise UserError(f"init_from: {printable(source)}: games are added to the student of a run of pd-jax distill")
    return read_yaml(path)


def _fit_head(base: dict[str, Any]) -> None:
    """Has the heads of several games be such as the student of one game has."""
    if len(base.get("teacher") or ()) == 1 and base.get("student.network") not in _MULTI:
        base["student.head_hidden"] = 0


def check_head(student: StudentConfig, old: Sequence[str], source: str) -> None:
    """Raises a UserError where the student of one game has another head than one of several games."""
    if len(old) == 1 and student.network not in _MULTI and student.head_hidden:
        raise UserError(
            f"init_from: {printable(source)}: its student of {old[0]} alone has no hidden layer in its head; "
            f"with --student.head-hidden 0 the added games have none either, {student.head_hidden} is for several games"
        )
