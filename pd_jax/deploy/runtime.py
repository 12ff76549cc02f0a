"""An exported policy at work: NumPy and ONNX Runtime are all that it needs.

``pd-jax export`` writes this module beside the policy as one file, ``pd_jax_runtime.py``, so that the machine it is put
to work on needs neither pd_jax nor JAX.

Example:
  Eight games side by side::

    policy = Policy.load("exports/pong/pong.onnx")
    state = policy.initial_state(8)
    actions, state = policy.act(frames, state)  # uint8 [8, 84, 84, 4] to int32 [8]
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import numpy as np

from pd_jax.environments.screens import FrameStack, shrink

__all__ = ["AlteredPolicyError", "FrameStack", "FramesError", "NotAPolicyError", "Policy", "PolicyError", "shrink"]

FORMAT_VERSION = 3
"""The newest format, of continuous actions; that of other files with memory is 2, and of those without 1."""
METADATA_KEY = "pd_jax"
_SEAL_KEY = b"pd_jax.sha256"


class PolicyError(Exception):
    """A file that cannot be put to work; the message is one line."""


class NotAPolicyError(PolicyError):
    """The file is none that ``pd-jax export`` wrote, or a newer version did."""


class AlteredPolicyError(PolicyError):
    """The file was cut short, or a byte of it is not what was written."""


class FramesError(PolicyError, ValueError):
    """Frames, or vectors, of another shape or dtype than the policy's."""


class Policy:
    """A policy read from a file; made by :meth:`load`.

    Attributes:
      path: of the file.
      metadata: all that the file says of the policy: game, rule of the frames, scores, hashes, versions.
      game: name of the game.
      action_names: one for each action, in the order of their numbers.
      action_range: of continuous actions the lowest and the highest, float32 ``[D]`` each; None of others.
      state_size: numbers that each lane carries from step to step: its memory, and behind it the last actions, of a
        policy that has such; 0 of others.
      last_actions: how many of its last actions the policy sees.
    """

    def __init__(self, path: str, metadata: dict[str, Any], session: Any) -> None:
        self.path = path
        self.metadata = metadata
        self.game: str = metadata["game"]
        self.action_names: tuple[str, ...] = tuple(metadata["action_names"])
        told = metadata.get("action_range")
        self.action_range: tuple[np.ndarray, np.ndarray] | None = (
            None if told is None else (np.asarray(told["low"], np.float32), np.asarray(told["high"], np.float32))
        )
        self._shape = tuple(metadata["observation"]["shape"])
        self._dtype = np.dtype(metadata["observation"]["dtype"])
        self.state_size: int = metadata.get("memory", {}).get("state_size", 0)
        self.last_actions: int = metadata.get("memory", {}).get("last_actions", 0)
        self._session = session

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, num_threads: int = 1) -> Policy:
        """Reads a policy and checks its hash; nothing of the file is used before that.

        The hash tells damage. It does not tell who wrote a file: take files from whom you trust.

        Args:
          path: a ``.onnx`` file of ``pd-jax export``.
          num_threads: that one decision is computed by. One is the fastest for single decisions of small networks.

        Returns:
          the policy.

        Raises:
          NotAPolicyError: it is another file, or of a newer version.
          AlteredPolicyError: it was cut short or altered.
          PolicyError: this version of ONNX Runtime cannot run it.
          OSError: it cannot be read.
        """
        path = os.fspath(path)
        data = read_sealed(path)
        # Late: a file that is none is said to be so without it.
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
        options.log_severity_level = 3
        if not _sums_bytes():
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise PolicyError(f"{path}: ONNX Runtime {onnxruntime.__version__} cannot run it: {reason}") from error
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        return cls(path, checked_metadata(text, path), session)

    def initial_state(self, num_lanes: int) -> np.ndarray | None:
        """What the first :meth:`act` of an episode takes: zeros, float32 ``[N, state_size]``; None without memory.

        Where a game opens in one lane while others go on, that lane is set back: ``state[lane] = 0``.
        """
        return np.zeros((num_lanes, self.state_size), np.float32) if self.state_size else None

    def act(self, frames: np.ndarray, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """The greedy actions: of equals the first.

        Args:
          frames: uint8 ``[N, 84, 84, 4]``, oldest frame first, or float32 ``[N, D]``.
          state: what :meth:`initial_state` or the call before gave; None is that of an episode that opens.

        Returns:
          int32 ``[N]``, and the state for the next call; of continuous actions float32 ``[N, D]``: those without noise.

        Raises:
          FramesError: another shape or dtype.
        """
        if self.state_size:
            _, actions, state = self.step(frames, state)
            return actions, state
        (actions,) = self._session.run(["actions"], {"observations": self._checked(frames)})
        return self._typed(actions), state

    def outputs(self, frames: np.ndarray) -> np.ndarray:
        """Float32 ``[N, actions]``: the Q-values or logits that actions are chosen by.

        Of continuous actions: a Gaussian's means and logarithms of standard deviations, ``[N, 2 D]``, or actions.

        Args:
          frames: as for :meth:`act`.

        Raises:
          FramesError: another shape or dtype.
          PolicyError: the policy has memory; :meth:`step` takes its state.
        """
        return self.decide(frames)[0]

    def decide(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What :meth:`outputs` gives, and the actions of :meth:`act`.

        Args:
          frames: as for :meth:`act`.

        Raises:
          FramesError, PolicyError: as :meth:`outputs`.
        """
        if self.state_size:
            raise PolicyError(f"{self.path}: has memory: what it gives depends on its state; take step or act")
        outputs, actions = self._session.run(["outputs", "actions"], {"observations": self._checked(frames)})
        return outputs, self._typed(actions)

    def step(
        self, frames: np.ndarray, state: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Outputs, greedy actions, and the state for the next call; of a policy without memory None.

        Args:
          frames, state: as for :meth:`act`.

        Raises:
          FramesError: another shape or dtype, of frames or state.
        """
        if not self.state_size:
            return (*self.decide(frames), None)
        frames = self._checked(frames)
        state = self.initial_state(len(frames)) if state is None else state
        shape = (len(frames), self.state_size)
        if not isinstance(state, np.ndarray) or state.dtype != np.float32 or state.shape != shape:
            raise FramesError(f"{self.game}: the state of {len(frames)} lanes is float32 {list(shape)} of NumPy")
        names = ["outputs", "actions", "next_state"]
        outputs, actions, state = self._session.run(names, {"observations": frames, "state": state})
        return outputs, self._typed(actions), state

    def played(self, state: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The state for the next call where other actions were played than those that :meth:`act` gave: of a policy
        that sees its last actions. Others need no telling.

        Args:
          state: what :meth:`act` gave.
          actions: that were played instead, int ``[N]``, or of continuous actions float32 ``[N, D]``.
        """
        if not self.last_actions:
            return state
        count = len(self.action_names)
        if self.action_range is None:
            newest = np.eye(count, dtype=np.float32)[actions]
        else:
            low, high = self.action_range
            newest = (np.asarray(actions, np.float32) - (high + low) / 2) / ((high - low) / 2)
        place = self.state_size - self.last_actions * count
        return np.concatenate([state[:, :place], newest, state[:, place + count :]], axis=1)

    def _typed(self, actions: np.ndarray) -> np.ndarray:
        return actions.astype(np.int32) if self.action_range is None else actions

    def _checked(self, frames: np.ndarray) -> np.ndarray:
        is_one = isinstance(frames, np.ndarray) and frames.dtype == self._dtype
        if not is_one or frames.shape[1:] != self._shape or not frames.size:
            raise FramesError(self._fault(frames))
        return np.ascontiguousarray(frames)

    def _fault(self, frames: Any) -> str:
        """What is wrong with frames. Apart, as words take a tenth of a small network's decision."""
        wanted = f"{self.game} takes {self._dtype} [{', '.join(map(str, ('N', *self._shape)))}], N at least 1"
        if not isinstance(frames, np.ndarray):
            return f"{type(frames).__name__} is no array of NumPy; {wanted}"
        single = "; one observation is a batch of one: frames[None]" if frames.shape == self._shape else ""
        return f"frames are {frames.dtype} {list(frames.shape)}; {wanted}{single}"


def _sums_bytes() -> bool:
    """Whether this machine's processor has an instruction for sums of products of bytes.

    Where x86 has none, ONNX Runtime's own way overflows unless it is told to take a slower one. Other processors do not
    heed that.
    """
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return "_vnni" in file.read()
    except OSError:
        return False


def seal(model: bytes) -> bytes:
    """A serialised ONNX model with its SHA-256 as its last piece of metadata.

    A message of protocol buffers may be followed by another, whose lists are added to those before: so the sealed file
    is an ONNX file like any other.
    """
    return model + _seal_of(model)


def read_sealed(path: str) -> bytes:
    """The bytes of a sealed file, if they are those that were written.

    Raises:
      NotAPolicyError, AlteredPolicyError, OSError: as :meth:`Policy.load`.
    """
    # A pipe would be waited for.
    if os.path.exists(path) and not os.path.isfile(path):
        raise NotAPolicyError(f"{path}: is not a file")
    with open(path, "rb") as file:
        data = file.read()
    # An ONNX file begins with the version of its representation, one byte, and with what made it.
    if data[:1] + data[2:10] != b"\x08\x12\x06pd_jax":
        raise NotAPolicyError(f"{path}: is no policy that pd-jax export wrote")
    size = len(_seal_of(b""))
    if data[-size:] != _seal_of(data[:-size]):
        raise AlteredPolicyError(f"{path}: was cut short or altered after pd-jax export wrote it; take another copy")
    return data


def checked_metadata(text: str | None, path: str) -> dict[str, Any]:
    """What a file says of its policy.

    Raises:
      NotAPolicyError: it says nothing, or in a newer format.
    """
    try:
        metadata: dict[str, Any] = json.loads(text or "")
        version = int(metadata["format_version"])
        if version > FORMAT_VERSION:
            raise NotAPolicyError(f"{path}: is in format {version}, newer than the format {FORMAT_VERSION} read here")
        observation = metadata["observation"]
        sizes = [int(size) for size in observation["shape"]]
        is_whole = observation["dtype"] in ("uint8", "float32") and len(sizes) in (1, 3)
        is_whole &= "memory" not in metadata or int(metadata["memory"]["state_size"]) > 0
        names = [metadata["game"], *metadata["action_names"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_whole, names = False, []
    if not is_whole or not all(isinstance(name, str) for name in names):
        raise NotAPolicyError(f"{path}: does not say what its policy is")
    return metadata


def _seal_of(model: bytes) -> bytes:
    """The model's hash as ONNX's ``metadata_props`` (field 14) with a key (1) and a value (2)."""
    digest = hashlib.sha256(model).hexdigest().encode()
    entry = b"".join([b"\x0a", bytes([len(_SEAL_KEY)]), _SEAL_KEY, b"\x12", bytes([len(digest)]), digest])
    return b"".join([b"\x72", bytes([len(entry)]), entry])
