"""``pd-jax doctor``: prints what is installed, what is wrong and what to do."""

from __future__ import annotations

import json
import sys

from pd_jax.config.doctor import DoctorConfig
from pd_jax.resources.doctor.doctor import examine
from pd_jax.system.progress import print_line


def run(config: DoctorConfig) -> int:
    """Prints it; returns 1 if the main job cannot run, else 0."""

    def say(about: str) -> None:
        if sys.stderr.isatty():
            print_line(f"\x1b[2K\rlooks at {about} ...\x1b[1A", sys.stderr)

    diagnosis = examine(out=config.out, timeout=config.timeout, say=say)
    if sys.stderr.isatty():
        print("\x1b[2K\r", end="", file=sys.stderr)
    print(json.dumps(diagnosis.as_json(), indent=2) if config.json else "\n".join(diagnosis.lines()))
    return 0 if diagnosis.is_sound else 1
