"""Any Python function of observations as a teacher: a Flax or JAX function, or one that runs on the host."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pd_jax.environments.tasks import Task, get_task
from pd_jax.errors import UserError
from pd_jax.networks.continuous import OutputKind
from pd_jax.teachers.metadata import CONTINUOUS_OUTPUTS, TeacherMetadata
from pd_jax.teachers.teacher import Teacher
from pd_jax.version import __version__


class FunctionNetwork:
    """A function in the place of a linen module.

    Args:
      apply: ``({"params": variables}, observations [N, ...]) -> float32 [N, actions]``, which can be traced.
    """

    def __init__(self, apply: Callable[[Any, Any], Any]) -> None:
        self.apply = apply


def from_function(
    fn: Callable[..., Any],
    *,
    kind: OutputKind,
    game: str,
    variables: Any = None,
    fingerprint: str | None = None,
    host: bool = False,
    name: str = "function",
    squashed: bool = False,
) -> Teacher:
    """Makes a teacher of a function, for ``distill(config, teacher=...)`` and its like.

    A run that is resumed, or that learns from a recording, has to know that its teacher is still the same one. Where
    its ``variables`` are given, they tell; otherwise the caller names the function, with a ``fingerprint`` that changes
    whenever the function does.

    Args:
      fn: ``fn(observations)``, or ``fn(variables, observations)`` if variables are given, such as the ``apply`` of a
        linen module. Observations are uint8 ``[N, 84, 84, 4]``, oldest frame first, or float32 ``[N, D]``; it returns
        ``[N, actions]`` for any N.
      kind: ``"q"`` if it returns Q-values, ``"logits"`` if these are a policy's; of a continuous task ``"gaussian"`` if
        it returns D means and then D logarithms of standard deviations, and ``"means"`` if it returns actions.
      game: what it plays, by name or EnvPool id.
      variables: a pytree of arrays, which are passed to a jit-compiled function instead of being compiled into it.
      fingerprint: any text that stands for this function; with variables, it adds to what they tell.
      host: whether ``fn`` is not JAX's, but takes and returns NumPy arrays: PyTorch, NumPy, a remote call. It is called
        back from compiled code, one batch at a time, so the device waits for it at every step.
      name: of the teacher, for reports.
      squashed: whether the samples of a Gaussian go through tanh.

    Returns:
      a teacher whose network is the function.

    Raises:
      UserError: no such game, neither variables nor a fingerprint, a kind that is neither, or outputs of another shape.
    """
    task = get_task(game)
    known = CONTINUOUS_OUTPUTS if task.is_continuous else ("q", "logits")
    if kind not in known:
        raise UserError(f"from_function: kind: {kind!r} is neither {known[0]!r} nor {known[1]!r}")
    width = task.most_outputs if kind == "gaussian" else task.num_actions
    if host and variables is not None:
        raise UserError("from_function: variables go to functions of JAX; give those of the host a fingerprint")
    if variables is None and not fingerprint:
        raise UserError(
            "from_function: give variables=..., or fingerprint='any text that you change when the function changes': "
            "a resumed run has to know its teacher again"
        )
    apply = _on_host(fn, task, width) if host else _traced(fn, has_variables=variables is not None)
    params = {} if variables is None else variables
    _check_outputs(fn if host else None, apply, params, task, width)
    sha256 = _digest(f"{kind} squashed" if squashed else kind, task, params, fingerprint or "")
    return Teacher(_metadata(task, kind, name, sha256, squashed=squashed), params, name, sha256, FunctionNetwork(apply))


def _traced(fn: Callable[..., Any], *, has_variables: bool) -> Callable[[Any, Any], Any]:
    def apply(variables: Any, observations: Any) -> Any:
        outputs = fn(variables["params"], observations) if has_variables else fn(observations)
        return jnp.asarray(outputs).astype(jnp.float32)

    return apply


def _on_host(fn: Callable[..., Any], task: Task, width: int) -> Callable[[Any, Any], Any]:
    def call(observations: Any) -> np.ndarray:
        # A copy: PyTorch warns of memory that it may not write to.
        return _called(fn, np.array(observations), task, width)

    def apply(variables: Any, observations: Any) -> Any:
        shape = jax.ShapeDtypeStruct((observations.shape[0], width), jnp.float32)
        return jax.pure_callback(call, shape, observations, vmap_method="sequential")

    return apply


def _called(fn: Callable[..., Any], observations: np.ndarray, task: Task, width: int) -> np.ndarray:
    outputs = np.asarray(fn(observations))
    wanted = (len(observations), width)
    if outputs.shape != wanted:
        raise UserError(f"from_function: it returned {list(outputs.shape)}, and {task.name} needs {list(wanted)}")
    return outputs.astype(np.float32)


def _check_outputs(
    host: Callable[..., Any] | None, apply: Callable[[Any, Any], Any], params: Any, task: Task, width: int
) -> None:
    """Asks for the outputs of two observations, before anything depends on them."""
    observations = np.zeros((2, *task.observation_shape), task.observation_dtype)
    if host is not None:
        _called(host, observations, task, width)
        return
    outputs = jax.eval_shape(apply, {"params": params}, observations)
    if outputs.shape != (2, width):
        raise UserError(
            f"from_function: it returns {list(outputs.shape)} for 2 observations, and {task.name} needs {[2, width]}"
        )


def _digest(kind: str, task: Task, variables: Any, fingerprint: str) -> str:
    """Hex SHA-256 of what tells one function from another."""
    digest = hashlib.sha256(f"{kind}\n{task.name}\n{fingerprint}\n".encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _metadata(task: Task, kind: str, name: str, sha256: str, *, squashed: bool) -> TeacherMetadata:
    return TeacherMetadata(
        name=name,
        game=task.name,
        env_id=task.env_id,
        network="function",
        layer_norm=False,
        num_actions=task.num_actions,
        action_names=task.action_names,
        observation={"kind": task.kind, "shape": list(task.observation_shape), "dtype": task.observation_dtype},
        action_low=task.action_low,
        action_high=task.action_high,
        output=kind,
        squashed=squashed,
        algorithm="unknown",
        env_steps=None,
        seed=None,
        training_config={},
        evaluation={},
        learning_curve=[],
        how_made="pd_jax.teachers.from_function",
        source_format="function",
        source_sha256=sha256,
        licence="that of the function",
        created="unknown",
        pd_jax_version=__version__,
    )
