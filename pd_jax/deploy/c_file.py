"""A policy's layers as one C99 header without dependencies, and how a C compiler's work on it is read back.

The header holds the weights as constants, and a function that decides on one observation. It keeps nothing between two
calls and takes no memory but the stack's. `pd_jax.deploy.c_source` holds the C that layers are written in.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pd_jax.deploy.c_source import Source, numbers
from pd_jax.deploy.layers import Layer
from pd_jax.deploy.quantised import QuantisedNetwork
from pd_jax.deploy.runtime import AlteredPolicyError, FramesError, NotAPolicyError, checked_metadata
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.version import __version__

FLAGS = ("-std=c99", "-O3", "-Wall", "-Wextra", "-Werror")
"""What headers are compiled with for their proof: nothing of the machine that exports."""
_FIRST_LINE = "/* A policy that pd-jax export wrote as C99. Apache-2.0. */"
_METADATA_LINE = "/* pd_jax "
_LAST_LINE = re.compile(rb"/\* sha256 ([0-9a-f]{64}) of all that is above this line \*/\n\Z")
_LARGEST_DIFFERENCE = 1e-4
_LONGEST_RUN = 255


def compiler() -> list[str]:
    """The command of the machine's C compiler: ``$CC``, or ``cc``.

    Raises:
      UserError: there is none.
    """
    command = shlex.split(os.environ.get("CC") or "cc")
    if not command or shutil.which(command[0]) is None:
        name = command[0] if command else "cc"
        raise UserError(f"format: c is proven by a C compiler, and there is no {name}: install one, or set CC")
    return command


def prefix_of(name: str) -> str:
    """What names in the header of a game begin with: the game's own, as far as C takes it.

    Args:
      name: of the game, with ``_int8`` behind it for integers.
    """
    safe = re.sub(r"[^0-9A-Za-z_]", "_", name)
    # What begins with an underscore or a digit is C's own, or none of its names.
    return safe if safe[:1].isalpha() else f"game_{safe.lstrip('_')}"


def header_text(
    network: Sequence[Layer] | QuantisedNetwork, task: Task, metadata: dict[str, Any], *, prefix: str | None = None
) -> str:
    """One C99 header: ``int PREFIX_act(const uint8_t *frames, float *outputs)``, or of a ``const float *observation``.

    Args:
      network: the policy's layers, see `pd_jax.deploy.layers.layers_of`; or the same in integers.
      task: what it plays.
      metadata: goes into a comment as JSON.
      prefix: of its names; by default the game's name as :func:`prefix_of` gives it.

    Returns:
      the text, which :class:`CPolicy` takes as a file. Equal arguments give equal texts.

    Raises:
      UserError: a layer cannot be written, or a weight is no number.
    """
    prefix = prefix or prefix_of(f"{task.name}_int8" if isinstance(network, QuantisedNetwork) else task.name)
    source = Source(prefix, task)
    for part in network.steps if isinstance(network, QuantisedNetwork) else network:
        source.write(part)
    # Neither the end of the comment nor the beginning of another is in it; in JSON it says the same.
    said = json.dumps(metadata, allow_nan=False, sort_keys=True).replace("/", "\\u002f")
    whole = "\n".join(
        [
            _FIRST_LINE,
            f"{_METADATA_LINE}{said} */",
            "",
            *_usage(prefix, task, source),
            f"#ifndef {prefix.upper()}_H",
            f"#define {prefix.upper()}_H",
            "",
            *source.lines(),
            "",
            f"#endif /* {prefix.upper()}_H */",
            "",
        ]
    )
    return f"{whole}/* sha256 {hashlib.sha256(whole.encode()).hexdigest()} of all that is above this line */\n"


def _usage(prefix: str, task: Task, source: Source) -> list[str]:
    shown = f"{' x '.join(map(str, task.observation_shape))} {'bytes' if task.kind == 'atari' else 'floats'}"
    rule = ": height, width and the frames of a stack, oldest first" if task.kind == "atari" else ""
    name = re.sub(r"[^\w .-]", "_", task.name, flags=re.ASCII)
    return [
        f"/* {prefix}_act takes one observation of {name}, {shown}{rule}.",
        f"   It writes {task.num_actions} outputs, and returns the number of the largest, of equals the first.",
        f"   It needs about {source.stack_bytes:,} bytes of stack, keeps nothing between calls, and runs in threads.",
        "   Written by pd-jax " + __version__ + "; link with -lm. -O3 makes it fast. */",
        "",
    ]


def test_program(header: str, task: Task, observations: np.ndarray, outputs: np.ndarray) -> tuple[str, str]:
    """A C program that shows a header some observations, and returns 0 if it answers as it should.

    Args:
      header: name of the file beside it.
      task: what it plays.
      observations: ``[N, ...]``.
      outputs: float32 ``[N, actions]`` that are expected, each to 1e-4 of the largest for that observation, or to 1e-4
        where all are below 1.

    Returns:
      its name and its text.
    """
    stem = header.removesuffix(".h")
    prefix = prefix_of(stem)
    count, size = len(observations), int(np.prod(task.observation_shape))
    is_frames = task.kind == "atari"
    kind = "uint8_t" if is_frames else "float"
    if is_frames:
        # Frame by frame, where the next place mostly looks like the one before.
        planes = observations.transpose(0, 3, 1, 2).reshape(-1)
        stored = _runs(planes)
        read = [
            "    /* Runs of equal places, frame by frame, into stacks. */",
            "    for (i = 0; i < SIZE; i++) {",
            "      if (left == 0) { left = stored[next]; value = stored[next + 1]; next += 2; }",
            f"      shown[i % (SIZE / {task.observation_shape[-1]}) * {task.observation_shape[-1]} "
            f"+ i / (SIZE / {task.observation_shape[-1]})] = value;",
            "      left--;",
            "    }",
        ]
        state = ["  long next = 0;", "  uint8_t left = 0, value = 0;"]
    else:
        stored = observations.reshape(-1)
        read = ["    for (i = 0; i < SIZE; i++) shown[i] = stored[vector * SIZE + i];"]
        state = []
    text = "\n".join(
        [
            f"/* {count} observations and what {prefix}_act has to answer; returns 0 if it does.",
            f"   cc -std=c99 -O2 {stem}_test.c -lm -o {stem}_test && ./{stem}_test */",
            f'#include "{header}"',
            "#include <stdio.h>",
            "",
            f"enum {{ VECTORS = {count}, SIZE = {size}, ACTIONS = {task.num_actions} }};",
            "",
            f"static const {kind} stored[] = {{\n{numbers(stored)}}};",
            f"static const float expected[] = {{\n{numbers(np.asarray(outputs, np.float32))}}};",
            f"static const int actions[] = {{\n{numbers(np.asarray(outputs).argmax(axis=1))}}};",
            f"static {kind} shown[SIZE];",
            "",
            "int main(void)",
            "{",
            "  int vector, i, wrong = 0;",
            *state,
            "  for (vector = 0; vector < VECTORS; vector++) {",
            "    const float *wanted = expected + vector * ACTIONS;",
            "    float outputs[ACTIONS], bound = 1.0f;",
            "    int action;",
            *read,
            f"    action = {prefix}_act(shown, outputs);",
            "    for (i = 0; i < ACTIONS; i++) if (fabsf(wanted[i]) > bound) bound = fabsf(wanted[i]);",
            "    for (i = 0; i < ACTIONS; i++) {",
            f"      if (!(fabsf(outputs[i] - wanted[i]) <= {_LARGEST_DIFFERENCE:g}f * bound)) {{",
            '        printf("vector %d: output %d is %g, not %g\\n", vector, i, outputs[i], wanted[i]);',
            "        wrong = 1;",
            "      }",
            "    }",
            "    if (action != actions[vector]) {",
            '      printf("vector %d: action %d, not %d\\n", vector, action, actions[vector]);',
            "      wrong = 1;",
            "    }",
            "  }",
            '  if (!wrong) printf("%d vectors are answered as they should be\\n", VECTORS);',
            "  return wrong;",
            "}",
            "",
        ]
    )
    return f"{stem}_test.c", text


def clear_ones(outputs: np.ndarray) -> np.ndarray:
    """Which observations have one best action by more than what another order of sums may change: bool ``[N]``.

    Args:
      outputs: float32 ``[N, actions]``.
    """
    if outputs.shape[1] < 2:
        return np.ones(len(outputs), bool)
    best = np.sort(outputs, axis=1)
    bound = np.maximum(1.0, np.abs(outputs).max(axis=1))
    return np.asarray(best[:, -1] - best[:, -2] > 4 * _LARGEST_DIFFERENCE * bound)


def _runs(values: np.ndarray) -> np.ndarray:
    """Lengths and values of runs of equal bytes, one after another: uint8 ``[2 * runs]``."""
    begins = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    pairs: list[int] = []
    for length, value in zip(np.diff([*begins, len(values)]), values[begins], strict=True):
        whole, rest = divmod(int(length), _LONGEST_RUN)
        pairs += [_LONGEST_RUN, int(value)] * whole + ([rest, int(value)] if rest else [])
    return np.array(pairs, np.uint8)


class CPolicy:
    """A header that ``pd-jax export`` wrote, compiled by the machine's C compiler.

    Args:
      path: of the header.
      flags: for the compiler.

    Attributes:
      metadata: all that the file says of the policy.

    Raises:
      NotAPolicyError: it is another file, or of a newer version.
      AlteredPolicyError: it was cut short or altered. Nothing of it is compiled.
      UserError: there is no compiler, or it does not take the header.
      OSError: it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, flags: Sequence[str] = FLAGS) -> None:
        self.path = os.fspath(path)
        text = read_header(self.path)
        self.metadata = _metadata_of(text, self.path)
        guard = re.search(r"^#ifndef (\w+)_H$", text, re.MULTILINE)
        function = re.search(r"^static inline int (\w+)_act\(", text, re.MULTILINE)
        if guard is None or function is None or function[1].upper() != guard[1]:
            raise NotAPolicyError(f"{self.path}: does not say what its policy is")
        self.prefix = function[1]
        observation = self.metadata["observation"]
        self._shape, self._dtype = tuple(observation["shape"]), np.dtype(observation["dtype"])
        self._num_actions = len(self.metadata["action_names"])
        self._decide = _compiled(text, self.prefix, self._dtype, int(np.prod(self._shape)), self._num_actions, flags)

    def initial_state(self, num_lanes: int) -> None:
        """What the first :meth:`act` of an episode takes: None, as the policy has no memory."""
        return None

    def act(self, frames: np.ndarray, state: None = None) -> tuple[np.ndarray, None]:
        """Greedy actions int32 ``[N]``, as `pd_jax.deploy.runtime.Policy.act` gives them."""
        return self.decide(frames)[1], state

    def outputs(self, frames: np.ndarray) -> np.ndarray:
        """Float32 ``[N, actions]``, as `pd_jax.deploy.runtime.Policy.outputs` gives them."""
        return self.decide(frames)[0]

    def decide(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What :meth:`outputs` gives, and the actions of :meth:`act`.

        Raises:
          FramesError: another shape or dtype.
        """
        frames = np.ascontiguousarray(frames)
        if frames.dtype != self._dtype or frames.shape[1:] != self._shape:
            wanted = f"{self._dtype} [{', '.join(map(str, ('N', *self._shape)))}]"
            raise FramesError(f"frames are {frames.dtype} {list(frames.shape)}; {self.path} takes {wanted}")
        outputs = np.empty((len(frames), self._num_actions), np.float32)
        actions = np.empty(len(frames), np.int32)
        self._decide(frames.ctypes.data, len(frames), outputs.ctypes.data, actions.ctypes.data)
        return outputs, actions


def read_header(path: str) -> str:
    """The text of a header, if it is the one that was written.

    Raises:
      NotAPolicyError, AlteredPolicyError, OSError: as :class:`CPolicy`.
    """
    # A pipe would be waited for.
    if os.path.exists(path) and not os.path.isfile(path):
        raise NotAPolicyError(f"{path}: is not a file")
    with open(path, "rb") as file:
        data = file.read()
    if not data.startswith(_FIRST_LINE.encode()):
        raise NotAPolicyError(f"{path}: is no policy that pd-jax export wrote as C")
    found = _LAST_LINE.search(data)
    if found is None or hashlib.sha256(data[: found.start()]).hexdigest() != found[1].decode():
        raise AlteredPolicyError(f"{path}: was cut short or altered after pd-jax export wrote it; take another copy")
    return data.decode("ascii")


def _metadata_of(text: str, path: str) -> dict[str, Any]:
    line = text.split("\n", 2)[1]
    return checked_metadata(line.removeprefix(_METADATA_LINE).removesuffix(" */"), path)


def _compiled(text: str, prefix: str, dtype: np.dtype[Any], size: int, actions: int, flags: Sequence[str]) -> Any:
    """A function of addresses: observations, how many, outputs, actions."""
    kind = "uint8_t" if dtype == np.uint8 else "float"
    # As many as a caller has, so that Python is asked once for a batch.
    program = f"""#include "policy.h"
void decide(const {kind} *observations, long count, float *outputs, int32_t *actions);
void decide(const {kind} *observations, long count, float *outputs, int32_t *actions)
{{
  long i;
  for (i = 0; i < count; i++) actions[i] = {prefix}_act(observations + i * {size}, outputs + i * {actions});
}}
"""
    command = compiler()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "policy.h").write_text(text)
        (directory / "policy.c").write_text(program)
        ended = subprocess.run(
            [*command, *flags, "-shared", "-fPIC", "policy.c", "-o", "policy.so", "-lm"],
            cwd=directory,
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            said = next((line for line in ended.stderr.splitlines() if "error" in line), "it said nothing")
            raise UserError(f"format: {' '.join(command)} does not compile the header: {said[:300]}")
        # What is loaded stays, also when its file is gone.
        function = ctypes.CDLL(str(directory / "policy.so")).decide
    function.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    function.restype = None
    return function
