"""A policy as a StableHLO program: what JAX, and what else reads StableHLO, runs on CPUs, GPUs and TPUs.

The file is what `jax.export` serialises, which ``jax.export.deserialize`` reads as it is; behind it stand the metadata
and a hash of it all.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from pd_jax.deploy.runtime import AlteredPolicyError, FramesError, NotAPolicyError, checked_metadata
from pd_jax.environments.tasks import Task, get_task
from pd_jax.errors import ObservationsError, UserError
from pd_jax.networks.greedy import GreedyPolicy, check_observations, greedy_actions
from pd_jax.system.computing import computing
from pd_jax.system.devices import tracing_for

PLATFORMS = ("cpu", "cuda", "tpu")
_MAGIC = b"pd_jax stablehlo"
_LENGTH_BYTES, _HASH_BYTES = 8, 32
_MOST_METADATA = 2**24


def check_available() -> None:
    """Raises a UserError unless the package that `jax.export` serialises by is installed."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError("format: stablehlo needs flatbuffers, which is not installed: pip install 'pd-jax[export]'")


def stablehlo_bytes(policy: GreedyPolicy, metadata: dict[str, Any]) -> bytes:
    """A program ``observations [N, ...] -> (outputs float32 [N, actions], actions int32 [N])`` with its weights inside.

    It is one program for all `PLATFORMS`: convolutions are StableHLO's own, and products are taken in full float32,
    which accelerators round otherwise.

    Args:
      policy: one that plays a single game.
      metadata: goes into the file as JSON.

    Returns:
      the bytes, which :class:`StableHloPolicy` takes as a file.

    Raises:
      UserError: its function cannot be exported for every platform and any batch.
    """
    task = policy.task
    variables = jax.tree.map(np.asarray, policy.variables)

    def decide(observations: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = policy.apply(jax.tree.map(jnp.asarray, variables), observations)
        return outputs, greedy_actions(outputs)

    (count,) = export.symbolic_shape("N")
    shape = jax.ShapeDtypeStruct((count, *task.observation_shape), task.observation_dtype)
    # Nothing of the machine that exports: what is traced for accelerators has no formulation of a CPU's.
    with tracing_for("tpu"), jax.default_matmul_precision("float32"), _without_folders():
        try:
            program = export.export(jax.jit(decide), platforms=PLATFORMS)(shape)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{policy.name}: cannot be exported for {', '.join(PLATFORMS)} and any batch: {reason[:300]}"
            ) from error
    said = json.dumps(metadata, allow_nan=False, sort_keys=True).encode()
    body = b"".join([bytes(program.serialize()), said, len(said).to_bytes(_LENGTH_BYTES, "big")])
    return b"".join([body, hashlib.sha256(body).digest(), _MAGIC])


@contextlib.contextmanager
def _without_folders() -> Iterator[None]:
    """What is lowered names source files without the folders of the machine that exports."""
    config: Any = jax.config
    name = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(config, name)
    config.update(name, ".*/")
    try:
        yield
    finally:
        config.update(name, before)


class StableHloPolicy:
    """A StableHLO file that ``pd-jax export`` wrote, run by JAX on this machine's devices.

    Args:
      path: of the file.

    Attributes:
      metadata: all that the file says of the policy.
      task: the game it plays.

    Raises:
      NotAPolicyError: it is another file, or of a newer version.
      AlteredPolicyError: it was cut short or altered.
      OSError: it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        program, text = _read(self.path)
        self.metadata = checked_metadata(text, self.path)
        self.task: Task = get_task(self.metadata["game"])
        self._call = export.deserialize(bytearray(program)).call
        self._jitted = jax.jit(self._call)

    def apply(self, variables: Any, observations: Any) -> Any:
        """One-hot float32 ``[N, actions]`` of the file's own actions, to be traced; ``variables`` are ignored."""
        return jax.nn.one_hot(self._call(observations)[1], self.task.num_actions)

    def initial_state(self, num_lanes: int) -> None:
        """What the first :meth:`act` of an episode takes: None, as the policy has no memory."""
        return None

    def act(self, frames: Any, state: None = None) -> tuple[np.ndarray, None]:
        """Greedy actions int32 ``[N]``, as `pd_jax.deploy.runtime.Policy.act` gives them."""
        return self.decide(frames)[1], state

    def outputs(self, frames: Any) -> np.ndarray:
        """Float32 ``[N, actions]``, as `pd_jax.deploy.runtime.Policy.outputs` gives them."""
        return self.decide(frames)[0]

    @computing()
    def decide(self, frames: Any) -> tuple[np.ndarray, np.ndarray]:
        """What :meth:`outputs` gives, and the actions of :meth:`act`.

        Raises:
          FramesError: another shape or dtype.
        """
        try:
            check_observations(frames, self.task, self.path)
        except ObservationsError as error:
            raise FramesError(str(error)) from None
        outputs, actions = self._jitted(frames)
        return np.asarray(outputs), np.asarray(actions)


def _read(path: str) -> tuple[bytes, str]:
    """The serialised program and the metadata of a file whose hash is right."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise NotAPolicyError(f"{path}: is not a file")
    with open(path, "rb") as file:
        data = file.read()
    if not data.endswith(_MAGIC):
        raise NotAPolicyError(f"{path}: is no policy that pd-jax export wrote as StableHLO, or was cut short")
    end = len(data) - len(_MAGIC) - _HASH_BYTES
    body = data[: max(end, 0)]
    if hashlib.sha256(body).digest() != data[end : end + _HASH_BYTES]:
        raise AlteredPolicyError(f"{path}: was altered after pd-jax export wrote it; take another copy")
    length = int.from_bytes(body[-_LENGTH_BYTES:], "big")
    if not 0 < length <= min(_MOST_METADATA, len(body) - _LENGTH_BYTES):
        raise NotAPolicyError(f"{path}: does not say what its policy is")
    start = len(body) - _LENGTH_BYTES - length
    return body[:start], body[start:-_LENGTH_BYTES].decode()
