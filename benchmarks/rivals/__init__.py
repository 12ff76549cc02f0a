"""What a user would pick instead, as small reference scripts of our own."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType

import jax


@functools.cache
def find_pytorch() -> tuple[ModuleType | None, str]:
    """:mod:`benchmarks.rivals.pytorch`, or None and the reason why it cannot compete here."""
    if importlib.util.find_spec("torch") is None:
        return None, "PyTorch is not installed"
    module = importlib.import_module("benchmarks.rivals.pytorch")
    if jax.default_backend() not in ("cpu", "gpu"):
        return None, f"PyTorch has no {jax.default_backend()} here"
    if jax.default_backend() == "gpu" and not module.has_cuda():
        return None, "PyTorch is installed without CUDA"
    return module, ""
