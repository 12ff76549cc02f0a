"""Whether a run fits into the memory of its devices and its host, from the sizes of what it allocates."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Sequence

import jax

from pd_jax.errors import UserError
from pd_jax.system.devices import DeviceGroup
from pd_jax.system.host_memory import CGROUP_LIMITS, container_limits, physical_bytes
from pd_jax.system.progress import print_line

_GIB = 2**30
_MIB = 2**20
_CGROUP_LIMITS = CGROUP_LIMITS


@dataclasses.dataclass(frozen=True)
class Part:
    """Something that a run keeps in memory.

    Attributes:
      name: a word for it, such as ``replay``.
      num_bytes: what it takes, on all devices together.
      subject: what it is and which setting makes it smaller, up to the number: ``replay.capacity: 9 steps of pong
        take``; nothing if no setting does.
      on_host: whether it is in the host's memory, whatever the devices are.
    """

    name: str
    num_bytes: int
    subject: str = ""
    on_host: bool = False


def largest(parts: Iterable[Part]) -> Part:
    """The one of several that takes the most: for those of which there is never more than one at a time."""
    return max(parts, key=lambda part: part.num_bytes)


@dataclasses.dataclass(frozen=True)
class _Memory:
    """A memory, and what is to be in it.

    Attributes:
      parts: the largest first.
      available: bytes; None if unknown.
      where: in words.
    """

    parts: tuple[Part, ...]
    available: int | None
    where: str

    @property
    def total(self) -> int:
        return sum(part.num_bytes for part in self.parts)

    @property
    def share(self) -> float:
        """How full it will be; 0 if unknown."""
        return self.total / self.available if self.available else 0.0

    def describe_parts(self) -> str:
        """Such as ``replay 3.8, student 0.1``, in the total's unit; what is below 1 % of it, or shows as 0, is one."""
        least = max(self.total / 100, 0.05 * _GIB if self.total >= _GIB else 0.5 * _MIB)
        shown = [part for part in self.parts if part.num_bytes >= least]
        others = self.total - sum(part.num_bytes for part in shown)
        texts = [f"{part.name} {self.number(part.num_bytes)}" for part in shown]
        return ", ".join(texts + [f"others {self.number(others)}"] * (others > 0))

    def number(self, num_bytes: int) -> str:
        """Such as ``3.8``, in the unit of the total."""
        return f"{num_bytes / _GIB:,.1f}" if self.total >= _GIB else f"{num_bytes / _MIB:,.0f}"

    @property
    def unit(self) -> str:
        return "GiB" if self.total >= _GIB else "MiB"


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """What a run takes, part by part.

    The parts on the devices are summed over all of them and compared with what all of them have: a device that has more
    than its share, such as the first one, where teachers play, is not looked at alone. What else the machine runs is
    not known here.

    Attributes:
      parts: what the run keeps; several may have the same name.
      devices: that it runs on.
    """

    parts: tuple[Part, ...]
    devices: DeviceGroup

    @property
    def total(self) -> int:
        """Bytes, on the devices and on the host together."""
        return sum(part.num_bytes for part in self.parts)

    def bytes_of(self, name: str) -> int:
        """What the parts of that name take."""
        return sum(part.num_bytes for part in self.parts if part.name == name)

    @property
    def share(self) -> float:
        """How full the fuller one of the memories will be; 0 if unknown."""
        return max(memory.share for memory in self._memories())

    @classmethod
    def together(cls, estimates: Sequence[MemoryEstimate], *more: Part) -> MemoryEstimate:
        """What several processes take at once, on the same devices, and ``more`` beside them."""
        return cls((*(part for estimate in estimates for part in estimate.parts), *more), estimates[0].devices)

    @property
    def fits(self) -> bool:
        """Whether there is as much memory, where that is known."""
        return self.share <= 1

    def check(self) -> None:
        """Raises a UserError, in one line with all the numbers, if there is less memory than the run takes."""
        for memory in self._memories():
            if memory.share > 1:
                assert memory.available is not None  # It has a share.
                worst = next((part for part in memory.parts if part.subject), memory.parts[0])
                raise UserError(
                    f"{worst.subject} {memory.number(worst.num_bytes)} {memory.unit}; in all the run takes "
                    f"{memory.number(memory.total)} {memory.unit} ({memory.describe_parts()}), "
                    f"and there are {memory.available / _GIB:,.1f} GiB ({memory.where})"
                )

    def describe(self) -> str:
        """One line, such as ``memory: 4.1 of 24.0 GiB (replay 3.8, programs 0.3)``."""
        texts = []
        memories = self._memories()
        for memory in memories:
            size = f"{memory.number(memory.total)} {memory.unit}"
            if memory.available is not None:
                size = f"{size.removesuffix(' GiB')} of {memory.available / _GIB:,.1f} GiB"
            where = f" on {memory.where}" if len(memories) > 1 else ""
            texts.append(f"{size}{where} ({memory.describe_parts()})")
        return f"memory: {', '.join(texts)}"

    def tell(self) -> None:
        """Prints that line on stderr, once for all processes of a run."""
        if jax.process_index() == 0:
            print_line(self.describe(), sys.stderr)

    def _memories(self) -> list[_Memory]:
        size, platform = self.devices.size, self.devices.devices[0].platform
        if platform == "cpu":
            # Virtual CPU devices share the machine's.
            return [_Memory(_merged(self.parts), host_memory_bytes(), f"{size} cpu")]
        on_host = [part for part in self.parts if part.on_host]
        on_devices = [part for part in self.parts if not part.on_host]
        return [
            _Memory(_merged(on_devices), _device_memory_bytes(self.devices), f"{size} {platform}"),
            _Memory(_merged(on_host), host_memory_bytes(), "the host"),
        ]


def host_memory_bytes() -> int:
    """This machine's physical memory, or what a container leaves of it."""
    return min([physical_bytes(), *container_limits(_CGROUP_LIMITS)])


def _device_memory_bytes(devices: DeviceGroup) -> int | None:
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in devices.devices]
    return sum(limits) if all(limits) else None


def _merged(parts: Sequence[Part]) -> tuple[Part, ...]:
    """With one part of each name, whose subject is the largest one's; the largest first."""
    merged = []
    for name in dict.fromkeys(part.name for part in parts):
        alike = [part for part in parts if part.name == name]
        total = sum(part.num_bytes for part in alike)
        merged.append(dataclasses.replace(largest(alike), num_bytes=total))
    return tuple(sorted(merged, key=lambda part: -part.num_bytes))
