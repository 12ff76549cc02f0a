"""CleanRL's QDagger (``qdagger_dqn_atari_impalacnn.py`` or its JAX twin) on Pong, with the paper's networks.

Runs under the peer's interpreter (gymnasium 0.29, ale-py, OpenCV, torch, tensorboard, tyro, huggingface_hub; jax, flax
and optax for the twin), started by ``benchmarks.rivals.peers``. The script of the checkout runs as it stands, with its
own defaults, but for what ``replaced`` in the report lists. Its three phases iterate over ``rich.progress.track``: that
is where their time is taken and where they are ended. Each is entered in its middle, where epsilon is what it is on
average while the teacher plays, and what it stays at while the student does.
"""

from __future__ import annotations

import ast
import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.rivals.window import Window, parser, write_report

_GAME = "PongNoFrameskip-v4"
_SCRIPTS = {"torch": "qdagger_dqn_atari_impalacnn.py", "jax": "qdagger_dqn_atari_jax_impalacnn.py"}
_PHASES = {
    "filling teacher's replay buffer": "teacher's play",
    "offline student training": "offline updates",
    "online student training": "live",
}
_PACKAGES = {
    "torch": ("torch", "gymnasium", "ale-py", "numpy"),
    "jax": ("jax", "flax", "optax", "torch", "gymnasium", "ale-py", "numpy"),
}
_BUFFER_SIZE = 100_000


def torch_student() -> Any:
    """The class that is net2 to a script that calls ``QNetwork(envs)``."""
    import torch

    from benchmarks.rivals.net2 import torso

    class QNetwork(torch.nn.Module):
        def __init__(self, env: Any) -> None:
            super().__init__()
            self.network = torch.nn.Sequential(torso(), torch.nn.Linear(128, env.single_action_space.n))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x / 255.0)

    return QNetwork


def jax_student() -> Any:
    """The class that is net2 to a script that calls ``QNetwork(channelss=..., action_dim=...)``."""
    import flax.linen as nn
    import jax.numpy as jnp

    class QNetwork(nn.Module):
        action_dim: int
        channelss: tuple[int, ...] = ()

        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = jnp.transpose(x, (0, 2, 3, 1)) / 255.0
            for size, stride in ((8, 4), (4, 2), (3, 1)):
                x = nn.relu(nn.Conv(16, (size, size), (stride, stride), padding="VALID")(x))
            x = nn.relu(nn.Dense(128)(x.reshape(x.shape[0], -1)))
            return nn.Dense(self.action_dim)(x)

    return QNetwork


def save_torch_teacher(path: Path, num_actions: int) -> None:
    """Fresh weights of CleanRL's DQN, as its PyTorch script saves them."""
    import torch
    from cleanrl.dqn_atari import QNetwork

    envs = SimpleNamespace(single_action_space=SimpleNamespace(n=num_actions))
    torch.save(QNetwork(envs).state_dict(), path)


def save_jax_teacher(path: Path, num_actions: int) -> None:
    """Fresh weights of CleanRL's DQN, as its JAX script saves them."""
    import flax.serialization
    import jax
    from cleanrl.dqn_atari_jax import QNetwork

    params = QNetwork(action_dim=num_actions).init(jax.random.PRNGKey(0), jax.numpy.zeros((1, 4, 84, 84)))
    path.write_bytes(flax.serialization.to_bytes(params))


class Phases:
    """Stands for ``rich.progress.track``: lets every phase of the script run for its time, and keeps its window.

    Attributes:
      updates: that the script has made.
      windows: by name of the phase.
    """

    def __init__(self, seconds: dict[str, tuple[float, float]], settle: Callable[[], Any] | None) -> None:
        """Takes the seconds of each phase's warm-up and of its window, and what waits for a dispatched update."""
        self._seconds, self._settle = seconds, settle
        self.updates = 0
        self.windows: dict[str, Window] = {}

    def track(self, sequence: Sequence[int], description: str = "", **_: Any) -> Iterator[int]:
        """The second half of the sequence, until the time of the phase that is described is over."""
        name = _PHASES[description]
        window = self.windows[name] = Window(*self._seconds[name], self._settle)
        for steps, item in enumerate(sequence[len(sequence) // 2 :]):
            if not window.note(0 if name == "offline updates" else steps, self.updates):
                return
            yield item

    def count_samples_of(self, buffer: Any) -> None:
        """Has every minibatch that is drawn from a replay counted as an update, which each of them becomes."""
        sample = buffer.sample

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.updates += 1
            return sample(*args, **kwargs)

        buffer.sample = counted


def without_class(source: str, name: str, path: Path) -> Any:
    """Compiles a script without one of its classes, for somebody else to provide it."""
    tree = ast.parse(source, str(path))
    kept = [node for node in tree.body if not (isinstance(node, ast.ClassDef) and node.name == name)]
    if len(kept) + 1 != len(tree.body):
        raise SystemExit(f"{path}: has no class {name}")
    tree.body = kept
    return compile(tree, str(path), "exec")


def main() -> None:
    """Runs the script to the end of its time and writes the report."""
    options = parser(__doc__)
    options.add_argument("--backend", choices=list(_SCRIPTS), required=True)
    arguments = options.parse_args()
    path = (arguments.checkout / "cleanrl" / _SCRIPTS[arguments.backend]).resolve()
    sys.path.insert(0, str(arguments.checkout.resolve()))
    import ale_py  # noqa: F401  # registers the games
    import cleanrl_utils.buffers
    import gymnasium
    import huggingface_hub
    import rich.progress
    import torch

    settle = None
    if arguments.backend == "jax":
        import cleanrl_utils.evals.dqn_jax_eval as evaluation
        import jax

        def settle() -> None:
            jax.block_until_ready(jax.live_arrays())

        student, save_teacher = jax_student(), save_jax_teacher
    else:
        import cleanrl_utils.evals.dqn_eval as evaluation

        student, save_teacher = torch_student(), save_torch_teacher
    short = arguments.warm_up_seconds / 2, arguments.seconds / 4
    phases = Phases(
        {"teacher's play": short, "offline updates": short, "live": (arguments.warm_up_seconds, arguments.seconds)},
        settle,
    )
    phases.count_samples_of(cleanrl_utils.buffers.ReplayBuffer)
    env = gymnasium.make(_GAME)
    num_actions = int(env.action_space.n)
    env.close()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)  # Its runs/ go here.

        def save_fresh_teacher(**_: Any) -> str:
            file = Path(directory) / "teacher.cleanrl_model"
            save_teacher(file, num_actions)
            return str(file)

        rich.progress.track = phases.track  # type: ignore[assignment]
        huggingface_hub.hf_hub_download = save_fresh_teacher
        evaluation.evaluate = lambda *args, **kwargs: [21.0]
        sys.argv = [str(path), "--env-id", _GAME, "--buffer-size", str(_BUFFER_SIZE)]
        sys.argv += ["--batch-size", str(arguments.batch_size)]
        script = {"__name__": "__main__", "__file__": str(path), "QNetwork": student}
        exec(without_class(path.read_text(), "QNetwork", path), script)
    defaults: Any = script["args"]
    write_report(
        arguments.report,
        phases.windows,
        steps_per_update=defaults.train_frequency,
        versions={name: importlib.metadata.version(name) for name in _PACKAGES[arguments.backend]},
        settings={
            "environments": f"{defaults.num_envs}; it takes no more",
            "train_frequency": defaults.train_frequency,
            "batch_size": defaults.batch_size,
            "torch threads": torch.get_num_threads(),
            "device": str(script.get("device", "JAX's default")),
        },
        replaced=[
            "the teacher has fresh weights of CleanRL's DQN instead of those of the Hugging Face hub",
            "the student is net2 instead of the Impala CNN",
            "the teacher is not scored; its return counts as 21",
            f"the replays hold {_BUFFER_SIZE:,} instead of 1,000,000 steps",
            "every phase is entered in its middle and ended by time; no progress bar",
        ],
    )


if __name__ == "__main__":
    main()
