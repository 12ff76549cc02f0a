"""Idle settings: those that nothing looks at, because of what another one says.

One rule is for all of them, and `pd_jax.config.loading` keeps it: an option that is idle is refused, with the setting
that leaves it so. It is a warning where it stands in a file, which may serve several runs, and where a run is gone on
with, which may have begun with it. What is impossible together is another matter: that is a conflict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, cast

from pd_jax.config.games import MLPS
from pd_jax.config.own_networks import own_networks
from pd_jax.config.sections import (
    BehaviourConfig,
    EvaluationConfig,
    LearnerConfig,
    LossConfig,
    LossKind,
    StudentConfig,
    needs_temperature,
)
from pd_jax.environments.tasks import known_task

_MULTI = ("multi3", "multi10")


class Idle(NamedTuple):
    """A setting that nothing looks at.

    Attributes:
      key: the dotted key; of a section, all that is in it.
      because: the dotted key of the setting that leaves it idle.
      why: what a message says after the key.
    """

    key: str
    because: str
    why: str

    def covers(self, key: str) -> bool:
        """Whether it is this key, or its section."""
        return key == self.key or key.startswith(f"{self.key}.")


def idle_loss(loss: LossConfig, kinds: Sequence[str] = (), because: str = "loss.kind") -> Iterator[Idle]:
    """What the loss does not have.

    Args:
      loss: the section.
      kinds: those of the students, if it is not the section's alone.
      because: the key that names them.
    """
    kinds = kinds or (loss.kind,)
    named = f"{because} is {', '.join(kinds)}"
    if not any(needs_temperature(kind, loss.weights) for kind in kinds):
        yield Idle("loss.temperature", because, f"is of policies and advantages, and {named}")
    if not any(dataclasses.replace(loss, kind=cast(LossKind, kind)).is_auto for kind in kinds):
        yield Idle("loss.target_entropy", "loss.temperature", "is for a temperature that is auto, and none is")
    for key, own in (("beta", ("jsd",)), ("delta", ("huber", "advantage_huber"))):
        if not set(kinds) & set(own):
            yield Idle(f"loss.{key}", because, f"is a setting of {' and '.join(own)}, and {named}")


def idle_learner(learner: LearnerConfig, num_games: int) -> Iterator[Idle]:
    """What the optimizer does not have, and a schedule of games where there is one."""
    yield from idle_optimizer("learner", learner.optimizer, {"rmsprop": ("rmsprop_decay", "rmsprop_epsilon")})
    if num_games == 1:
        yield Idle("learner.games", "teacher", "a student of one game has no schedule of games")
    if learner.sampling == "uniform":
        for name in ("sampling_candidates", "sampling_exponent", "sampling_correction"):
            yield Idle(f"learner.{name}", "learner.sampling", "is for examples that are preferred, and none are")
    yield from _idle_balance(learner, num_games)


def _idle_balance(learner: LearnerConfig, num_games: int) -> Iterator[Idle]:
    """What is between games, where an update sees one; and what is of weights that are learnt, where none are."""
    between = ("game_weights", "balance", "balance_rate", "gradnorm_alpha")
    if num_games == 1:
        for name in (*between, "gradient_cosines_every"):
            yield Idle(f"learner.{name}", "teacher", "is between games, and a student of one game has no others")
    elif learner.games == "alternating":
        for name in between:
            why = "is between the games of one update, and learner.games is 'alternating'"
            yield Idle(f"learner.{name}", "learner.games", why)
    else:
        for name, kinds in (("balance_rate", ("uncertainty", "gradnorm")), ("gradnorm_alpha", ("gradnorm",))):
            if learner.balance not in kinds:
                why = f"is a setting of {' and '.join(kinds)}, and learner.balance is {learner.balance!r}"
                yield Idle(f"learner.{name}", "learner.balance", why)


def idle_optimizer(section: str, chosen: str, settings: Mapping[str, Sequence[str]]) -> Iterator[Idle]:
    """What belongs to another optimizer than the chosen one; ``settings`` has each one's own."""
    for optimizer, names in settings.items():
        if optimizer != chosen:
            for name in names:
                yield Idle(
                    f"{section}.{name}",
                    f"{section}.optimizer",
                    f"is a setting of {optimizer}, and {section}.optimizer is {chosen!r}",
                )


def idle_student(
    student: StudentConfig, num_games: int, networks: Sequence[str] = (), because: str = "student.network"
) -> Iterator[Idle]:
    """Widths that the student's network does not have.

    Args:
      student: the section.
      num_games: of one student.
      networks: those of the students, if it is not the section's alone.
      because: the key that names them.
    """
    networks = networks or (student.network,)
    named = f"{because} is {', '.join(networks)}"
    # One of the user's own may take it. Of several games, one may show vectors beside others that show frames.
    if num_games == 1 and not {*MLPS, *own_networks()} & set(networks):
        yield Idle("student.mlp_hidden", because, f"is a setting of mlp, and {named}")
    if num_games == 1 and not set(networks) & set(_MULTI):
        why = f"the head of one game has a hidden layer in multi3 and multi10 alone, and {named}"
        yield Idle("student.head_hidden", because, why)


def idle_memory(student: StudentConfig) -> Iterator[Idle]:
    """What is of sequences, where a student has no memory."""
    if student.memory == "none":
        for key in ("student.memory_size", "learner.sequence_length", "learner.burn_in"):
            yield Idle(key, "student.memory", "is for a student with memory, and student.memory is 'none'")


def idle_statistics(student: StudentConfig) -> Iterator[Idle]:
    """What is of given statistics, where a student takes none or its teacher's. Those that a run has taken stand in its
    file, with their source."""
    source = student.normalisation.source
    if source in ("auto", "none"):
        for name in ("mean", "variance", "epsilon", "clip"):
            why = f"is for student.normalisation.source 'given', and that is {source!r}"
            yield Idle(f"student.normalisation.{name}", "student.normalisation.source", why)


def idle_joint(student: StudentConfig, num_games: int) -> Iterator[Idle]:
    """Layers of students with several torsos, where there is one. Of several games the kinds are not known yet."""
    because, also = "student.observation.last_actions", "student.observation.also"
    if student.observation.also == "none":
        yield Idle("student.observation.also_components", also, f"is for what {also} adds, and that is 'none'")
    if student.observation.last_actions or student.observation.also != "none":
        return
    yield Idle("student.extra_hidden", because, f"is for what is seen beside, and {because} is 0")
    if num_games == 1:
        yield Idle("student.joint_hidden", because, f"is for students with several torsos, and {because} is 0")


def idle_behaviour(behaviour: BehaviourConfig) -> Iterator[Idle]:
    """The student's share, where none is drawn."""
    if behaviour.policy != "mixture":
        for name in ("student_share_start", "student_share_end", "student_share_change_fraction"):
            yield Idle(
                f"behaviour.{name}",
                "behaviour.policy",
                f"is for a mixture, and behaviour.policy is {behaviour.policy!r}",
            )


def idle_progress(evaluation: EvaluationConfig, interval: str) -> Iterator[Idle]:
    """Episodes of scores on the way, where there are none; ``interval`` is the setting that says when to take them."""
    if getattr(evaluation, interval) == 0:
        yield Idle(
            "evaluation.progress_episodes",
            f"evaluation.{interval}",
            f"evaluation.{interval} is 0, and no score is taken on the way",
        )


def idle_atari(games: Sequence[str], because: str, keys: Sequence[str]) -> Iterator[Idle]:
    """What only an Atari game has, where all games are known to be others.

    Args:
      games: names of games, and of teachers that may be called as their games are.
      because: the key that names them.
      keys: of the settings.
    """
    tasks = [known_task(game) for game in games]
    if tasks and all(task is not None and not task.is_console for task in tasks):
        for key in keys:
            yield Idle(key, because, f"is for games of Atari, and {because} is {', '.join(games)}")


ATARI_KEYS = ("protocol", "env.sticky_action_probability", "env.max_noops", "env.fire_reset", "env.backend")
