"""Several teachers of one game as one: a teacher whose policy is the mixture of theirs."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.config.credibility import CredibilityConfig
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.networks.partition import PartSizes
from pd_jax.replay.observations import is_label
from pd_jax.system.progress import print_warning
from pd_jax.teachers import mixture
from pd_jax.teachers.metadata import TeacherMetadata
from pd_jax.teachers.teacher import Teacher
from pd_jax.version import __version__

_FAULT = 64.0
"""What the labels of a state are raised by for each place of a member that gave nonsense there: log probabilities are
at most 0, a policy does not change with a constant, and a power of two rounds the least."""


class Weighed(NamedTuple):
    """What members say of some states.

    Attributes:
      log_policies: float32 ``[M, N, A]``, of each at its own temperature.
      has: bool ``[M, N]``: who has one, because it is not left out and its outputs are finite.
      weights: float32 ``[M, N]``, what each counts; their sum is 1, or 0 where nobody has a policy.
      mixed: float32 ``[N, A]``, log probabilities of the mixture; NaN where nobody has one.
    """

    log_policies: Array
    has: Array
    weights: Array
    mixed: Array


@dataclasses.dataclass(frozen=True)
class CommitteeNetwork:
    """The networks of some teachers as one, which takes ``{"params": {...}, "committee": {"alive": bool [M]}}``.

    They are computed one after the other, each as it is alone: one program for networks that are alike, with their
    weights stacked, would hold the weights twice and is no faster (measured on two CPU cores).

    Attributes:
      networks: linen modules, or other objects with such an ``apply``.
      temperatures: of each.
      votes: what each counts by its score, at most 1; all 1 where scores do not count.
      by: as `pd_jax.config.credibility.CredibilityConfig` has it.
    """

    networks: tuple[Any, ...]
    temperatures: tuple[float, ...]
    votes: tuple[float, ...]
    by: str

    def weigh(self, variables: Any, observations: Array) -> Weighed:
        """What each member says, and what it counts.

        Args:
          variables: the committee's.
          observations: ``[N, ...]``.
        """
        each = [
            network.apply({"params": variables["params"][_key(place)]}, observations).astype(jnp.float32)
            for place, network in enumerate(self.networks)
        ]
        temperatures = jnp.asarray(self.temperatures, jnp.float32)
        log_policies, has = mixture.policies(jnp.stack(each), temperatures, variables["committee"]["alive"])
        weights = mixture.weights(log_policies, has, jnp.asarray(self.votes, jnp.float32), by=self.by)
        return Weighed(log_policies, has, weights, mixture.mix(log_policies, weights))

    def apply(self, variables: Any, observations: Array) -> Array:
        """Log probabilities of the mixture, float32 ``[N, A]``; a member does not count where its outputs are NaN or
        infinite, and where all are, so is the mixture."""
        return self.weigh(variables, observations).mixed

    def report(self, variables: Any, observations: Array) -> Array:
        """As :meth:`apply`, but that the log probabilities tell of members that do not count for their nonsense.

        They are raised by a constant, which changes nothing in a policy, and :func:`read_faults` takes it out again.
        """
        weighed = self.weigh(variables, observations)
        fails = variables["committee"]["alive"][:, None] & ~weighed.has
        place = jnp.where(fails.any(axis=0), 1.0 + jnp.argmax(fails, axis=0), 0.0)
        return weighed.mixed + _FAULT * place[:, None]


class Fault(NamedTuple):
    """Nonsense of a member's: its place, and the time step of the play."""

    member: int
    step: int


def read_faults(labels: Array) -> tuple[Array, list[Fault]]:
    """What :meth:`CommitteeNetwork.report` tells in the labels of some play, and the labels without it.

    Args:
      labels: float32 ``[T, L, A]``.

    Returns:
      the labels, and for each member that is told of, the first time step; in the order of the steps.
    """
    best = np.asarray(labels.max(axis=-1))
    with np.errstate(invalid="ignore"):
        told = np.where(best > _FAULT / 2, np.rint(best / _FAULT), 0.0)
    if not told.any():
        return labels, []
    steps, lanes = np.nonzero(told)
    faults: dict[int, int] = {}
    for step, lane in zip(steps.tolist(), lanes.tolist(), strict=True):
        faults.setdefault(int(told[step, lane]) - 1, step)
    return labels - (_FAULT * told)[..., None].astype(np.float32), [Fault(*item) for item in faults.items()]


class Committee(Teacher):
    """Teachers of one game whose mixture labels observations with log probabilities.

    Args:
      members: two or more, of the same game and actions, none of them twice.
      source: what the user called them.
      credibility: what each counts.

    Attributes:
      credibility: the same.
      labels: a short name of each member, no two alike.
      left_out: places of those that do not count any more, in the order in which they were left out.

    Raises:
      UserError: the members do not go together, or the credibility is not of so many, or would be nobody's.
    """

    def __init__(self, members: Sequence[Teacher], source: str, credibility: CredibilityConfig) -> None:
        _check_go_together(members, source)
        self.credibility = credibility
        self.labels = _labels(members)
        self.left_out: tuple[int, ...] = ()
        self._members = tuple(members)
        votes, temperatures = _votes(members, source, credibility), _temperatures(members, source, credibility)
        network = CommitteeNetwork(tuple(member.network for member in members), temperatures, votes, credibility.by)
        sha256 = _digest(members, network)
        params = {_key(place): member.variables["params"] for place, member in enumerate(members)}
        super().__init__(_metadata(members, credibility, sha256), params, source, sha256, network)
        self._mark()

    @property
    def members(self) -> tuple[Teacher, ...]:
        """The teachers that are in it."""
        return self._members

    @property
    def num_params(self) -> int:
        """Number of scalars of all members."""
        return sum(member.num_params for member in self.members)

    def with_sizes(self, sizes: PartSizes) -> Committee:
        """The same teachers, whose large batches a CPU divides into parts of other sizes."""
        members = [member.with_sizes(sizes) for member in self.members]
        if all(own is other for own, other in zip(self.members, members, strict=True)):
            return self
        committee = Committee(members, self.source, self.credibility)
        committee.leave_out_all(self.left_out)
        return committee

    def leave_out(self, member: int) -> bool:
        """Has a member count no more; the last one stays. Returns whether it was there and has been left out.

        Whoever has taken the variables has to take them anew.
        """
        if member in self.left_out or len(self.left_out) == len(self.members) - 1:
            return False
        self.leave_out_all((*self.left_out, member))
        return True

    def leave_out_all(self, members: Collection[int]) -> None:
        """Has these members count no more, and all others count."""
        self.left_out = tuple(members)
        self._mark()

    def _mark(self) -> None:
        alive = np.array([place not in self.left_out for place in range(len(self.members))])
        self.variables = {"params": self.variables["params"], "committee": {"alive": jnp.asarray(alive)}}


def make_committee(
    teachers: Sequence[Teacher], credibility: CredibilityConfig | None = None, *, name: str | None = None
) -> Committee:
    """Several teachers of one game as one, for ``distill(config, teacher=...)`` and its like.

    Args:
      teachers: two or more, from `load` or from `from_function`.
      credibility: what each counts; None is the default.
      name: what messages call them; None is their own sources, joined by ``+``.

    Returns:
      a teacher whose outputs are the log probabilities of their mixture.

    Raises:
      UserError: they are of different games or actions, one is there twice, or the credibility does not fit.
    """
    source = name or "+".join(teacher.source for teacher in teachers)
    return Committee(teachers, source, credibility or CredibilityConfig())


def load_committee(
    text: str,
    names: Sequence[str],
    load_one: Callable[[str], Teacher],
    credibility: CredibilityConfig | None = None,
) -> Committee:
    """Loads several teachers of one game.

    Args:
      text: that names them all.
      names: what it names.
      load_one: loads one by its name.
      credibility: what each counts; None is the default.

    Raises:
      UserError: one of them is not there or damaged, or they do not go together.
    """
    members = []
    for name in names:
        try:
            members.append(load_one(name))
        except UserError as error:
            raise UserError(f"{text}: {error}") from None
    credibility = credibility or CredibilityConfig()
    committee = Committee(members, text, credibility)
    missing = _unscored(members, credibility) if credibility.by == "both" else []
    if missing:
        print_warning(
            f"{text}: no score is known of {', '.join(missing)}, so that scores count nothing here; "
            "--credibility.scores gives them"
        )
    return committee


def _key(place: int) -> str:
    return f"member{place}"


def _check_go_together(members: Sequence[Teacher], source: str) -> None:
    if len(members) < 2:
        raise UserError(f"{source}: {len(members)} teacher is no committee; give two or more")
    first, seen = members[0], dict[str, Teacher]()
    for member in members:
        if len(member.members) > 1:
            raise UserError(f"{source}: {member.source} is several teachers already; give them one by one")
        if member.sha256 in seen:
            other = seen[member.sha256].source
            twice = member.source if other == member.source else f"{other} and {member.source}"
            raise UserError(f"{source}: {twice} {'is' if other == member.source else 'are'} the same teacher, twice")
        seen[member.sha256] = member
        if member.task.name != first.task.name:
            raise UserError(
                f"{source}: {first.source} plays {first.task.name}, and {member.source} {member.task.name}; teachers "
                "that are joined by + are of one game, and those of several games stand beside one another"
            )
        if member.metadata.is_continuous:
            raise UserError(
                f"{source}: {member.source} has continuous actions; teachers that are joined by + choose among actions"
            )
        if tuple(member.metadata.action_names) != tuple(first.metadata.action_names):
            raise UserError(
                f"{source}: the actions of {first.source} are {', '.join(first.metadata.action_names)}, and those of "
                f"{member.source} {', '.join(member.metadata.action_names)}"
            )


def _score(member: Teacher) -> float | None:
    mean = member.metadata.evaluation.get("mean")
    return None if mean is None else float(mean)


def _unscored(members: Sequence[Teacher], credibility: CredibilityConfig) -> list[str]:
    """Who has no score, or none that anything is known to compare it with."""
    if members[0].task.random_score is None:
        return [member.source for member in members]
    return [] if credibility.scores else [member.source for member in members if _score(member) is None]


def _votes(members: Sequence[Teacher], source: str, credibility: CredibilityConfig) -> tuple[float, ...]:
    """What each counts by its score above random play, the best 1."""
    given = credibility.scores
    if given is not None and len(given) != len(members):
        raise UserError(f"credibility.scores: {len(given)} for the {len(members)} teachers of {source}")
    missing, task = _unscored(members, credibility), members[0].task
    if credibility.by == "score" and missing:
        if task.random_score is None:
            raise UserError(f"credibility.by: 'score', and what random play scores in {task.name} is not known")
        raise UserError(
            f"credibility.by: 'score', and none is known of {', '.join(missing)}; give --credibility.scores"
        )
    if credibility.by in ("none", "state") or missing:
        return (1.0,) * len(members)
    assert task.random_score is not None
    scores = given or [score for member in members if (score := _score(member)) is not None]
    above = [max(0.0, float(score) - task.random_score) for score in scores]
    if not max(above) > 0.0:
        raise UserError(
            f"{source}: none of the scores {', '.join(f'{score:g}' for score in scores)} is above that of random play "
            f"({task.random_score:g}), and nobody would count"
        )
    return tuple(each / max(above) for each in above)


def _temperatures(members: Sequence[Teacher], source: str, credibility: CredibilityConfig) -> tuple[float, ...]:
    given = credibility.temperature
    if given is None:
        return tuple(1.0 if member.gives_logits else 0.01 for member in members)
    assert isinstance(given, tuple)
    if len(given) not in (1, len(members)):
        raise UserError(f"credibility.temperature: {len(given)} for the {len(members)} teachers of {source}")
    return given * (len(members) if len(given) == 1 else 1)


def _digest(members: Sequence[Teacher], network: CommitteeNetwork) -> str:
    """Hex SHA-256 of the members' own, and of all that their mixture depends on."""
    lines = ["committee", network.by]
    for member, temperature, vote in zip(members, network.temperatures, network.votes, strict=True):
        lines.append(f"{member.sha256} {temperature!r} {vote!r}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _labels(members: Sequence[Teacher]) -> tuple[str, ...]:
    """File names without what all of them end in; of a run's file, the run's."""
    found: list[str] = []
    for member in members:
        path = os.path.normpath(member.source)
        if os.path.basename(path) in ("teacher.safetensors", "model.safetensors"):
            path = os.path.dirname(path) or path
        label = os.path.basename(path).removesuffix(".safetensors")
        label = "".join(letter if letter.isprintable() else "?" for letter in label)[:60] or "teacher"
        count = sum(other == label or other.startswith(f"{label} (") for other in found)
        found.append(f"{label} ({count + 1})" if count else label)
    return tuple(found)


def _metadata(members: Sequence[Teacher], credibility: CredibilityConfig, sha256: str) -> TeacherMetadata:
    first: TeacherMetadata = members[0].metadata
    task: Task = members[0].task
    name = " + ".join(member.name for member in members)
    named = {member.metadata.named_protocol for member in members} - {None}
    training: dict[str, Any] = {
        "members": [
            {"name": member.name, "source": os.path.basename(member.source.rstrip("/")), "sha256": member.sha256}
            for member in members
        ],
        "credibility": dataclasses.asdict(credibility),
        **({"protocol": named.pop()} if len(named) == 1 else {}),
    }
    return TeacherMetadata(
        name=name if is_label(name) else f"{len(members)} teachers of {task.name}",
        game=task.name,
        env_id=task.env_id,
        network="committee",
        layer_norm=False,
        num_actions=task.num_actions,
        action_names=tuple(first.action_names),
        observation=first.observation,
        output="logits",
        algorithm="committee",
        env_steps=None,
        seed=None,
        training_config=training,
        evaluation={},
        learning_curve=[],
        how_made=f"{len(members)} teachers as one, by credibility {credibility.by}",
        source_format="committee",
        source_sha256=sha256,
        licence="; ".join(dict.fromkeys(member.metadata.licence for member in members)),
        created="unknown",
        pd_jax_version=__version__,
    )
