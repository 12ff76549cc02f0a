"""Statistics of the observations that an agent was trained on, from a file of numbers: JSON or NumPy's ``.npz``.

Both have ``mean``, ``variance`` and ``count``, and may have ``epsilon`` (1e-8 by default, as in Stable-Baselines3 and
Gymnasium) and ``clip`` (by default nothing is clipped). ``docs/teachers.md`` has the lines that write one.
"""

from __future__ import annotations

import io
import math
import os
from typing import Any

import numpy as np

from pd_jax.environments.tasks import Task
from pd_jax.replay.observations import HOW_APPLIED, fault_in_statistics
from pd_jax.teachers.files import PathLike, naming, open_regular_file
from pd_jax.teachers.importers import archives
from pd_jax.teachers.metadata import Malformed, json_object

NONE = "none"
"""In the place of a file: the agent saw observations as they are."""
_MAX_BYTES = 2**24
_MAX_HEADER_BYTES = 2**12
_FIELDS = ("mean", "variance", "count", "epsilon", "clip")
_READ = (*_FIELDS, "var")
_FORM = "JSON with mean, variance and count, or an .npz file of NumPy's with these arrays"


def read_statistics(path: PathLike, task: Task) -> dict[str, Any]:
    """Reads a file.

    Args:
      path: of the file, or `NONE`.
      task: that the agent plays.

    Returns:
      What `TeacherMetadata.normalisation` holds: the statistics of the main observation, with an ``epsilon``; ``{}``
      if they are `NONE`.

    Raises:
      UserError: the task shows frames, whose pixels no network of ours takes normalised; the file is missing or
        damaged, holds something else than such numbers, or they are not of the task's observations. The message
        begins with ``path``.
    """
    if os.fspath(path) == NONE:
        return {}
    with naming(path):
        with open_regular_file(path) as file:
            data = file.read(_MAX_BYTES + 1)
        if task.kind == "atari":
            raise Malformed(f"statistics are for observations that are vectors; {task.name} shows frames")
        if data.startswith(b"\x80"):
            raise Malformed(
                "is a pickle, which could run anything and is not opened; docs/teachers.md has the lines that export "
                "its numbers"
            )
        if len(data) > _MAX_BYTES:
            raise Malformed(f"has more than {_MAX_BYTES:,} bytes; statistics of {task.name} have a few numbers")
        fields = _arrays(data) if data.startswith(b"PK") else json_object(data, f"is not {_FORM}")
        if "var" in fields and "variance" not in fields:
            raise Malformed("calls the variance 'var', as running statistics do; here it is called 'variance'")
        if fault := fault_in_statistics(fields, task.observation_shape, HOW_APPLIED):
            raise Malformed(f"statistics{fault}")
    return {"observation": {"epsilon": 1e-8} | fields}


def _arrays(data: bytes) -> dict[str, Any]:
    """The numbers of an ``.npz`` file, as JSON would have them."""
    members = archives.read_members(io.BytesIO(data), {f"{name}.npy": _MAX_BYTES for name in _READ})
    if not members:
        raise Malformed(f"is not {_FORM}")
    return {name.removesuffix(".npy"): _array(name, content).tolist() for name, content in members.items()}


def _array(name: str, data: bytes) -> np.ndarray:
    """One array, read by its header; one that announces objects or more than it holds is refused."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, is_fortran, dtype = read(file, max_header_size=_MAX_HEADER_BYTES)
    # What the header's own parser comes across.
    except Exception as error:
        raise Malformed(f"{name}: is no array of NumPy's ({' '.join(str(error).split())[:80]})") from None
    if dtype.kind not in "fiu" or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise Malformed(f"{name}: is not an array of numbers, or cut short")
    array = np.frombuffer(data, dtype, offset=file.tell())
    return array.reshape(shape, order="F" if is_fortran else "C")
