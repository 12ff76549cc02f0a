"""What is around all that computes: devices that are there, and the settings of JAX that the program is written for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax

from pd_jax.errors import UserError

_INSTALL = {
    "cuda": "install pd-jax[cuda]",
    "gpu": "install pd-jax[cuda]",
    "tpu": "install pd-jax[tpu]",
    "rocm": "install JAX for ROCm",
}


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """In this context, and in this thread, JAX has this program's settings, whatever the process has set.

    A user's process, or a variable such as ``JAX_ENABLE_X64``, may have JAX count in 64 bits, refuse implicit
    promotions of dtypes or ranks, forbid implicit transfers, or draw other random numbers. What a run computes depends
    on none of them: so it can be resumed under others. It takes some 80 microseconds to enter: around a run or a
    thread's work, not around a step.

    Raises:
      UserError: there are no devices of the kind that the process asks for.
    """
    check_devices()
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.transfer_guard("allow"),
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
    ):
        yield


def check_devices() -> None:
    """Raises a UserError, in words of the variable, if JAX is asked for devices that are not there."""
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:
        # JAX 0.10 asserts where its plugin for CUDA finds no driver, and says nothing.
        said = (str(error).splitlines() or [""])[0].split(" (set JAX_PLATFORMS")[0]
        # Of "gpu" it says that there is no backend "rocm".
        reason = f" ({said})" if said and "list of known backends" not in said else ""
        config: Any = jax.config
        wanted = config.jax_platforms
        if not wanted and (name := os.environ.get("JAX_PLATFORM_NAME")):
            raise UserError(f"JAX_PLATFORM_NAME: there is no {name!r} on this machine; unset it") from error
        if not wanted:
            raise UserError(f"JAX finds no devices{reason}") from error
        install = next((f"{_INSTALL[name]}, " for name in wanted.split(",") if name in _INSTALL), "")
        raise UserError(
            f"JAX_PLATFORMS: there is no {wanted!r} on this machine{reason}; "
            f"{install}set JAX_PLATFORMS=cpu, which is always there, or unset it"
        ) from error
