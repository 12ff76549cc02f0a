"""What a sweep takes of memory and disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax

from pd_jax.distill.memory import distillation_parts
from pd_jax.distill.setup import DistillSetup
from pd_jax.errors import UserError
from pd_jax.networks.policy import count_params
from pd_jax.resources.memory import MemoryEstimate
from pd_jax.system.text import spell_bytes

# Frames of random play shrink 25 times (Enduro) to 130 times (Qbert) in a recording; vectors hardly.
FRAME_COMPRESSION = 20
# Orbax's own files.
_CHECKPOINT_OVERHEAD = 50_000


def students_memory(setup: DistillSetup, students: int) -> MemoryEstimate:
    """What some students take that train together."""
    policies = [(teacher.network.apply, teacher.variables) for teacher in setup.teachers]
    parts = distillation_parts(setup.config, setup.student, policies, setup.devices, students=students)
    return MemoryEstimate(parts, setup.devices)


def checkpoint_bytes(setup: DistillSetup) -> int:
    """The newest, the best and the one that is being written, each of the parameters and their moments."""
    config = setup.config
    num_params = count_params(jax.eval_shape(setup.student.init, jax.random.key(0)))
    moments = 2 if config.learner.optimizer == "adam" else 1
    return (4 * num_params * (1 + moments) + _CHECKPOINT_OVERHEAD) * (config.checkpoint.keep + 2)


def check_disk(out: Path, num_bytes: int, what: str) -> None:
    """Raises a UserError if what is still to be written does not fit on the disk.

    Args:
      out: where it is to go.
      num_bytes: of it.
      what: all that is to be there in the end, for the message.
    """
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if num_bytes > free:
        raise UserError(f"{out}: {what}, and {spell_bytes(free)} are free on that disk")
