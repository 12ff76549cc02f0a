"""Fixtures that several test modules share."""

from __future__ import annotations

import atexit
import gc
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Many tests compile the same programs. Set before JAX is imported, and inherited by workers and subprocesses.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="pd-jax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

if "XLA_FLAGS" not in os.environ:
    # Compiling is most of what the tests do: they compile fast rather than well. Set to nothing, as for users.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    # Newer versions have no such flag.
    if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import hypothesis
import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pd_jax.environments.tasks import get_task
from pd_jax.networks.policy import PolicyNetwork
from pd_jax.networks.registry import make_network
from support import commands

TESTS = Path(__file__).parent

# JAX leaves millions of objects that stay. Looking through them for garbage again and again takes its time.
gc.set_threshold(200_000, 50, 100)

# How long a machine with other work to do takes says nothing about the code.
hypothesis.settings.register_profile(
    "any_machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any_machine")


@pytest.fixture(scope="module", autouse=True)
def let_go_of_programs() -> Iterator[None]:
    """JAX keeps every compiled program mapped into memory. Linux allows a process 65,530 maps."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_text().splitlines()) > 20_000:
        jax.clear_caches()


DRAWN = (
    *("report", "docs", "runs"),
    *("test_contradictions.py", "test_snapshots.py", "test_teachers.py", "test_zoo.py"),
)
"""Directories and files of tests that look at pictures, or are about how they are drawn."""


@pytest.fixture(scope="module", autouse=True)
def blank_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """A run draws itself when it ends. Where tests are about other things its pictures are there, and blank; figures
    are made as ever."""
    with pytest.MonkeyPatch.context() as patch:
        if not set(DRAWN) & set(request.path.relative_to(TESTS).parts):
            patch.setattr(Figure, "savefig", write_blank)
        yield


def write_blank(figure: Figure, path: Any, **options: Any) -> None:
    """Instead of ``Figure.savefig``."""
    Image.new("L", (1, 1)).save(path, "png")


@pytest.fixture(scope="session")
def random_policy() -> Callable[[str, str], tuple[PolicyNetwork, Any]]:
    """``(task name, network name) -> (network, variables)``: a network that has learnt nothing, the same every time."""

    def make(task_name: str, network_name: str) -> tuple[PolicyNetwork, Any]:
        task = get_task(task_name)
        network = make_network(network_name, task.num_actions)
        example = np.zeros((1, *task.observation_shape), task.observation_dtype)
        return network, jax.jit(network.init)(jax.random.key(0), example)

    return make


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Play of the bundled CartPole teacher: 8 lanes x 128 steps."""
    path = tmp_path_factory.mktemp("recording") / "cartpole"
    commands.succeed(
        "collect", {"teacher": "cartpole", "out": path, "steps": 1024, "rollout-length": 32, "env.num-lanes": 8}
    )
    return path


@pytest.fixture(scope="session")
def recorded_run_options(recording: Path) -> dict[str, Any]:
    """A distillation of a second from ``recording``, whose ring wraps and whose last round finds no more play."""
    return {
        "teacher": "cartpole",
        "data": recording,
        "student.network": "mlp",
        "student.mlp-hidden": 16,
        "learner.learning-rate": 1e-3,
        "learner.updates-per-call": 20,
        "replay.capacity": 768,
        "schedule.rounds": 5,
        "schedule.steps-per-round": 256,
        "schedule.updates-per-round": 200,
        "checkpoint.every-updates": 100,
    }


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, recorded_run_options: dict[str, Any]) -> Path:
    """That distillation, never interrupted. Not to be written to."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    commands.succeed("distill", recorded_run_options | commands.QUICK_EVALUATION | {"out": path})
    return path
