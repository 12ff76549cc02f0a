"""``pd-jax doctor`` where what reads settings, or prints tables, is itself what is broken."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pd_jax.resources.doctor.doctor import examine

_OUT, _TIMEOUT = "runs", 120.0


def print_diagnosis(options: Sequence[str]) -> int:
    """Prints it, by the default settings; of the options ``--json`` alone is heeded. Returns the exit code."""
    diagnosis = examine(out=_OUT, timeout=_TIMEOUT)
    print(json.dumps(diagnosis.as_json(), indent=2) if "--json" in options else "\n".join(diagnosis.lines()))
    return 0 if diagnosis.is_sound else 1
