"""Where a distillation stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pd_jax.distill.setup import DistillSetup
from pd_jax.errors import UserError
from pd_jax.replay.recordings import Dataset
from pd_jax.runs.counters import StudentCounters
from pd_jax.system.progress import print_warning


@dataclasses.dataclass
class GameCounters:
    """Where one of a run's games stands.

    Attributes:
      name: the game's.
      env_steps: control steps stored so far, in all lanes together.
      teacher_sha256: of the teacher's file.
      recording: identity of the data set, empty for live play.
      recorded_steps: time steps per lane of it that the run uses; it may have grown since.
      stopped_at: the step, counted as ``env_steps``, at which the teacher's outputs became NaN or infinite and its play
        was stopped; None if that has not happened.
      stopped_seeing: where what was seen then was NaN or infinite, in words; empty if the outputs alone were.
      left_out: of a committee, the teachers that gave NaN or infinite outputs and do not count since: ``teacher`` and
        ``sha256`` of each, and the ``step``, counted as ``env_steps``.
      temperature: that was found from the play; None if none is to be, or none has been yet.
      temperature_of: the teacher whose outputs it was found from, by its fingerprint; of one that learns, by its steps.
      before: of an old game that others are added to, the student's score before, as `Score.to_json` has it.
      unseen: of a student with senses of its own, what is left of the loss because it does not see what the teacher
        goes by, as `pd_jax.evaluation.irreducible.Unseen.to_json` has it.
    """

    name: str = ""
    env_steps: int = 0
    teacher_sha256: str = ""
    recording: str = ""
    recorded_steps: int = 0
    stopped_at: int | None = None
    stopped_seeing: str = ""
    left_out: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    temperature: float | None = None
    temperature_of: str = ""
    before: dict[str, Any] | None = None
    unseen: dict[str, Any] | None = None

    def summarise(self, *, is_one_of_several: bool) -> dict[str, Any]:
        """What the summary says of the game beside its scores."""
        steps = {"env_steps": self.env_steps} if is_one_of_several else {}
        left_out = {entry["teacher"]: entry["step"] for entry in self.left_out}
        stopped: dict[str, Any] = {} if self.stopped_at is None else {"play_stopped_at": self.stopped_at}
        stopped |= {"play_stopped_seeing": self.stopped_seeing} if self.stopped_seeing else {}
        unseen = {} if self.unseen is None else {"unseen": self.unseen}
        return steps | stopped | unseen | ({"teachers_left_out": left_out} if left_out else {})


@dataclasses.dataclass(kw_only=True)
class DistillCounters(StudentCounters):
    """Where a distillation stands.

    Attributes:
      games: one for each, in the order of the student's heads.
      roll_backs: times it diverged and went on from an earlier checkpoint.
    """

    games: list[GameCounters] = dataclasses.field(default_factory=list)
    roll_backs: int = 0

    @property
    def env_steps(self) -> int:
        """Control steps stored so far, in all lanes of all games together."""
        return sum(game.env_steps for game in self.games)

    @property
    def step(self) -> int:
        """Updates."""
        return self.updates

    def note_play(self, games: Sequence[GameCounters], places: Sequence[int] | None = None) -> None:
        """Takes over where the play of every game stands, or of those at some places."""
        own_games = self.games if places is None else [self.games[place] for place in places]
        for own, played in zip(own_games, games, strict=True):
            own.env_steps, own.stopped_at = played.env_steps, played.stopped_at
            own.stopped_seeing = played.stopped_seeing
            own.left_out = list(played.left_out)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> DistillCounters:
        """What :meth:`to_metadata` made, also before there were several games."""
        of_run = {field.name: metadata[field.name] for field in dataclasses.fields(cls) if field.name in metadata}
        games = metadata.get("games")
        if games is None:
            names = {field.name for field in dataclasses.fields(GameCounters)}
            games = [{name: value for name, value in metadata.items() if name in names}]
        return cls(**of_run | {"games": [GameCounters(**game) for game in games]})

    @classmethod
    def begin(cls, setup: DistillSetup) -> DistillCounters:
        """Where a run stands that has done nothing yet."""
        games = []
        for name, teacher, dataset in zip(setup.names, setup.teachers, setup.datasets, strict=True):
            game = GameCounters(name=name, teacher_sha256=teacher.sha256)
            if dataset is not None:
                game.recording, game.recorded_steps = dataset.header.identity, dataset.num_steps
            games.append(game)
        start = None if setup.start is None else setup.start.to_json()
        return cls(network=setup.network, parts=dict(vars(setup.config.parts)), games=games, init_from=start)

    def check_goes_on(self, setup: DistillSetup, path: Path) -> None:
        """Checks that a run can go on as it was begun.

        Args:
          setup: with which it is to go on.
          path: the run's directory, for messages.

        Raises:
          UserError: with other games, or the same in another order; other teachers, unless these
            are accepted; or other recordings.
        """
        # Checkpoints from before there were several games do not name theirs.
        begun, wanted = [game.name for game in self.games], list(setup.names)
        if begun not in (wanted, [""]):
            raise UserError(
                f"{path}: was begun with {', '.join(begun)}, not with {', '.join(wanted)}; "
                "games cannot be added, dropped or reordered: choose another --out"
            )
        for index, game in enumerate(self.games):
            game.name = wanted[index]
            teacher, of_game = setup.teachers[index], f" for {game.name}" if len(wanted) > 1 else ""
            if game.teacher_sha256 != teacher.sha256:
                changed = f"({game.teacher_sha256[:12]}, now {teacher.sha256[:12]})"
                if not setup.config.accept_other_teacher:
                    raise UserError(
                        f"{path}: was begun with another teacher file{of_game} {changed}; "
                        "--accept-other-teacher goes on with it"
                    )
                print_warning(f"{path}: goes on with another teacher file{of_game} {changed}")
                # The other one may well do better.
                game.teacher_sha256, game.stopped_at, game.left_out = teacher.sha256, None, []
                game.stopped_seeing = ""
            _check_recording(game, setup.datasets[index], path, of_game)


def _check_recording(game: GameCounters, dataset: Dataset | None, path: Path, of_game: str) -> None:
    if game.recording != (dataset.header.identity if dataset is not None else ""):
        begun = "live play" if not game.recording else "another recording"
        now = "live play" if dataset is None else dataset.path
        raise UserError(f"{path}: was begun with {begun}{of_game}, not with {now}")
    if dataset is not None and dataset.num_steps < game.recorded_steps:
        raise UserError(
            f"{dataset.path}: holds {dataset.num_steps} steps a lane; {path} was begun with {game.recorded_steps}"
        )
