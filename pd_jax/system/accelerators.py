"""Which accelerators this machine has, by the files of their drivers: JAX's plugins are slow to find none."""

from __future__ import annotations

import glob
import importlib.util
import os
import sys

GPU_FILES = (
    "/dev/nvidia[0-9]*",
    "/dev/nvidiactl",
    "/proc/driver/nvidia/version",
    # Jetson, and Linux on Windows.
    "/dev/nvmap",
    "/dev/dxg",
    # AMD's.
    "/dev/kfd",
)
TPU_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*")
_CHOSEN_BY = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "PJRT_NAMES_AND_LIBRARY_PATHS", "TPU_LIBRARY_PATH")
_PLUGINS = ("jax_plugins", "libtpu")


def is_there(files: tuple[str, ...]) -> bool:
    """Whether there is one of these files, which may be patterns."""
    return any(glob.glob(pattern) for pattern in files)


def spare_the_search() -> None:
    """Has JAX look for no accelerator on a machine without any; to be called before JAX is imported.

    The compilers of TPUs and GPUs, which `pd-jax plan` takes, come with JAX's plugins for these. Where there is no such
    device each of them says so by a traceback, and libtpu asks the network for seconds.
    """
    if "jax" in sys.modules or any(os.environ.get(name) for name in _CHOSEN_BY):
        return
    if not any(importlib.util.find_spec(name) for name in _PLUGINS):
        return
    if not is_there(GPU_FILES) and not is_there(TPU_FILES):
        os.environ["JAX_PLATFORMS"] = "cpu"
