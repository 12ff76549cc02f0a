"""What a plan says: of each program, of memory and of speed."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramReport:
    """What the compiler says of a program, of one device. None is what it does not say.

    Attributes:
      name: the program's.
      games: that run it.
      fault: why it could not be compiled; "" if it could.
      compile_seconds: on this machine.
      argument_bytes, output_bytes, temporary_bytes, code_bytes: memory; outputs without those that take over arguments.
      aliased_bytes: of arguments that outputs take over.
      flops, bytes_accessed: with the body of a loop counted once: of one update, or one step. XLA's compiler for CUDA
        says neither: there they are counted, of products and convolutions, and of what operations read and write.
      operations: that are started one after another, with the body of a loop counted once.
      ring_bytes: of the rings that it may not copy.
      ring_copies: operations that copy one all the same.
      all_reduces: bytes of each.
      collectives: other operations that wait for other devices.
      estimated_seconds: the compiler's own estimate, with the body of a loop counted once. None where it does not know
        every operation, which shows as a negative figure.
      floor_seconds: what arithmetic, memory and links take at the least, by the vendor's figures.
      link_seconds: of that, what the all-reduces take.
    """

    name: str
    games: tuple[str, ...]
    fault: str = ""
    compile_seconds: float = 0.0
    argument_bytes: int | None = None
    output_bytes: int | None = None
    temporary_bytes: int | None = None
    code_bytes: int | None = None
    aliased_bytes: int | None = None
    flops: float | None = None
    bytes_accessed: float | None = None
    operations: int | None = None
    ring_bytes: int = 0
    ring_copies: int | None = None
    all_reduces: tuple[int, ...] | None = None
    collectives: tuple[str, ...] | None = None
    estimated_seconds: float | None = None
    floor_seconds: float | None = None
    link_seconds: float | None = None

    @property
    def seconds(self) -> float | None:
        """The larger one of estimate and floor."""
        known = [value for value in (self.estimated_seconds, self.floor_seconds) if value is not None]
        return max(known) if known else None

    @property
    def efficiency(self) -> float | None:
        """``u / (u + a)``, of the u seconds of a program beside the a of its all-reduces; None if unknown."""
        if self.floor_seconds is None or self.link_seconds is None:
            return None
        alone = max(self.estimated_seconds or 0.0, self.floor_seconds - self.link_seconds)
        return alone / (alone + self.link_seconds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """How fast a run can be, at the most.

    Attributes:
      updates_per_second: by the updates, and by the play that shares the first device of each host.
      efficiency: the share of an update's time that is not the all-reduce's, if nothing hides it; None if unknown.
      steps_per_update: control steps of all games that the schedule plays for each update.
      steps_per_second: control steps of all games that keep such updates busy.
      inference_steps_per_second: that the first devices can decide.
      stepping_steps_per_second: that EnvPool can step, on the cores that there are, and of the lanes that it steps at
        once. None if unknown.
      lanes_at_once: these lanes, of all hosts together.
      cores_needed: of all hosts together, that EnvPool then steps on.
      cores: that there are.
      bound_by: updates, stepping or inference.
      bound_updates_per_second, bound_steps_per_second: that are left by that.
    """

    updates_per_second: float
    efficiency: float | None
    steps_per_update: float
    steps_per_second: float
    inference_steps_per_second: float | None
    stepping_steps_per_second: float | None
    lanes_at_once: int
    cores_needed: float
    cores: int | None
    bound_by: str
    bound_updates_per_second: float
    bound_steps_per_second: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A run on some devices.

    Attributes:
      topology: their name.
      device: what the compiler calls them.
      devices: how many.
      learners: of them, that share the updates.
      hosts: machines that they are in.
      games, student, minibatch, lanes: of the run; lanes of each game.
      memory_bytes: of one device; None if unknown.
      resident_bytes: what the first device of a host keeps: replay, student, teachers and rollouts.
      needed_bytes: with the temporaries of the largest program and the code of all.
      fits: whether there is as much; None if unknown.
      largest_capacity: steps of each game in the replay for which there is room; None if unknown.
      programs: by name.
      rates: None if nothing is known of the update's time.
      versions: of JAX and the compiler.
    """

    topology: str
    device: str
    devices: int
    learners: int
    hosts: int
    games: tuple[str, ...]
    student: str
    minibatch: int
    lanes: tuple[int, ...]
    memory_bytes: int | None
    resident_bytes: int
    needed_bytes: int
    fits: bool | None
    largest_capacity: int | None
    programs: dict[str, ProgramReport]
    rates: Rates | None
    versions: dict[str, str]

    @property
    def faults(self) -> list[str]:
        """A line for each program that could not be compiled."""
        return [f"{one.name}: {one.fault}" for one in self.programs.values() if one.fault]

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` writes; see ``docs/plan.md``."""
        return dataclasses.asdict(self)
