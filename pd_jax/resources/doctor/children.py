"""Starts probes, and waits for them no longer than is wanted."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pd_jax.resources.doctor.probes import MARK

_ROOT = Path(__file__).parents[3]
_CODE = f"import sys; sys.path.append({str(_ROOT)!r}); from pd_jax.resources.doctor.probes import main; main()"
# After a kill; a process that waits for a device may not even end then.
_GRACE_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Told:
    """What a probe has told.

    Attributes:
      lines: as it wrote them.
      failure: how it ended, if not by itself; empty if it came to its end.
    """

    lines: Sequence[Mapping[str, Any]]
    failure: str

    def get(self, name: str) -> Any:
        """A fact; None if it was not told."""
        return next((line[name] for line in self.lines if name in line), None)


def ask(probe: str, *arguments: str, timeout: float, environment: Mapping[str, str] | None = None) -> Told:
    """Runs a probe.

    Args:
      probe: its name.
      arguments: that it takes.
      timeout: seconds after which it is killed, with all that it has started.
      environment: ``os.environ`` by default.
    """
    # -P: what lies in the directory where this is called is no package of ours.
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _CODE, probe, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=None if environment is None else dict(environment),
        start_new_session=True,
    )
    failure = ""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        failure = f"no answer in {timeout:g} s"
        out, err = _kill(process)
    except BaseException:
        _kill(process)
        raise
    lines = [json.loads(line.removeprefix(MARK)) for line in out.split("\n") if line.startswith(MARK)]
    told = Told(lines, failure)
    if failure or told.get("ended"):
        return told
    return Told(lines, told.get("raised") or _how_it_ended(process.returncode, err))


def _kill(process: subprocess.Popen[str]) -> tuple[str, str]:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.communicate(timeout=_GRACE_SECONDS)
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace") if isinstance(error.stdout, bytes) else "", ""


def _how_it_ended(code: int, err: str) -> str:
    said = [line.strip() for line in err.splitlines() if line.strip()]
    end = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    # A fatal error of C++ is followed by a stack; what says what is wrong is marked by an F.
    fatal = [line for line in said if line.startswith("F") and line[1:2].isdigit()] or said[-1:]
    return " ".join([end, *(f"({line[:300]})" for line in fatal[:1])])
