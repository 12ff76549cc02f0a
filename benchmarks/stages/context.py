"""What every stage is given."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import numpy as np

from benchmarks.harness.floors import Ceilings
from benchmarks.harness.material import Material
from benchmarks.harness.measure import rates, together
from benchmarks.harness.rows import Measured
from benchmarks.harness.sizes import Size

MOST_BATCHES = 16
"""Different batches kept for one call, which goes through them in turn."""


@dataclasses.dataclass
class Context:
    """What every stage is given.

    Attributes:
      size: how much to measure.
      turns: that competitors take.
      ceilings: of this machine.
      material: play, batches and replays.
      pytorch_store: PyTorch's replay, once it is made.
    """

    size: Size
    turns: int
    ceilings: Ceilings
    material: Material
    pytorch_store: Any = None

    @property
    def shares_cores(self) -> bool:
        """Whether EnvPool and the networks work on the same cores."""
        return jax.default_backend() == "cpu"

    def batches_per_call(self, flops: float, batch_size: int, most: int = 50) -> int:
        """How many batches a timed call goes through, of samples of so many operations each."""
        return max(1, min(most, round(self.size.call_flops / (flops * batch_size))))


def play_limit(stepping: list[float], decisions: int, seconds: Mapping[str, list[float]]) -> Measured:
    """The steps a second that play is allowed: of stepping alone, or of both on shared cores.

    Args:
      stepping: steps a second, of each turn.
      decisions: of a turn of ``inference``.
      seconds: of each turn; of ``inference`` where cores are shared.
    """
    if "inference" not in seconds:
        return Measured("stepping alone", tuple(stepping))
    both = together(stepping, rates(decisions, seconds["inference"]))
    return Measured("stepping + inference, each alone, on shared cores", tuple(both))


@dataclasses.dataclass(frozen=True)
class PyTorch:
    """The rival, if it is there.

    Attributes:
      module: :mod:`benchmarks.rivals.pytorch`, or None.
      missing: why it is not.
    """

    module: ModuleType | None
    missing: str

    @classmethod
    @functools.cache
    def find(cls) -> PyTorch:
        """Looks for it once, and sets it up."""
        if importlib.util.find_spec("torch") is None:
            return cls(None, "PyTorch is not installed")
        try:
            module = importlib.import_module("benchmarks.rivals.pytorch")
        except (ImportError, OSError) as error:
            # Such as one without the libraries that it was built against.
            reason, _, _ = str(error).partition("\n")
            return cls(None, f"PyTorch cannot be imported: {reason}")
        if jax.default_backend() not in ("cpu", "gpu"):
            return cls(None, f"PyTorch has no {jax.default_backend()} here")
        if cls.device() == "cuda" and not module.has_cuda():
            return cls(None, "PyTorch is installed without CUDA")
        module.prepare(cls.device())
        return cls(module, "")

    @staticmethod
    def device() -> str:
        """The device beside JAX's."""
        return "cuda" if jax.default_backend() == "gpu" else "cpu"

    def student(self, variables: Any, dtype: str = "float32", optimizer: str = "rmsprop") -> Any:
        """A student with our weights (without a device axis), or None."""
        if self.module is None:
            return None
        return self.module.Student(jax.tree.map(np.asarray, variables), self.device(), dtype, optimizer=optimizer)

    def measured(self, values: list[float] | None, dtype: str = "float32") -> Measured:
        """What a row has of it."""
        if self.module is None or values is None:
            return Measured("PyTorch", missing=self.missing)
        return Measured(self.module.describe(self.device(), dtype), tuple(values))
