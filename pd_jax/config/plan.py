"""The settings of ``pd-jax plan``: those of a distillation, and the devices that it is planned for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from pd_jax.config.distill import DistillConfig
from pd_jax.config.distillation import DistillationSettings
from pd_jax.config.fields import Choice
from pd_jax.config.games import not_one_each
from pd_jax.config.idle import Idle, idle_joint, idle_learner, idle_loss, idle_memory, idle_statistics, idle_student
from pd_jax.config.sections import Paths, PathText, Positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig(DistillationSettings):
    """Say what a distillation takes, and how fast it can be, on devices that need not be there."""

    topology: str
    """The devices: v5e:4x8, v5p:4x4x4, v6e:4x4, h100:8, h200:8, a100:8, or here."""
    teacher: Paths | None = None  # type: ignore[assignment]
    """As for distill; the files are not read, and none is needed where game is given."""
    out: PathText | None = None  # type: ignore[assignment]
    """As for distill; nothing is written there."""
    teacher_network: Annotated[Literal["dqn", "net1", "net2", "net3"], Choice("a network of frames")] = "dqn"
    """Network of the teachers of Atari games."""
    json: PathText | None = None
    """File to write everything to that is known of the programs."""
    steps_per_core: Positive = 1600.0
    """Control steps a second that EnvPool makes on a core of the host (measured: 1,500 to 1,700 of Pong), or
    ale-py, if env.backend says so."""
    search: bool = False
    """Try larger and smaller minibatches and numbers of lanes, and say which fits best."""
    device_file: PathText | None = None
    """File that says what is known of devices, instead of our own."""

    def distillation(self, games: tuple[str, ...]) -> DistillConfig:
        """The distillation that is planned, of some games; a name stands for each teacher."""
        names = [field.name for field in dataclasses.fields(DistillationSettings)]
        settings = {name: getattr(self, name) for name in names}
        return DistillConfig(**settings | {"teacher": games, "game": games, "out": self.out or "."})

    def idle(self) -> Iterator[Idle]:
        yield from super().idle()
        yield from idle_loss(self.loss)
        num_games = len(self.game or self.teacher or ())
        yield from idle_learner(self.learner, 2 if self.game == ("all",) else num_games)
        yield from idle_memory(self.student)
        yield from idle_statistics(self.student)
        yield from idle_joint(self.student, 2 if self.game == ("all",) else num_games)
        yield from idle_student(self.student, 2 if self.game == ("all",) else num_games)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if not self.teacher and not self.game:
            yield "game", "is missing; give the games, or all for the 57 of Atari"
        if self.teacher and self.game and self.game != ("all",):
            yield from not_one_each("game", self.game, self.teacher)
        if self.data is not None:
            yield "data", "recorded play has lanes of its own, which only the recording says; leave it out"
