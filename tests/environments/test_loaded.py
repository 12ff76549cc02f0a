"""EnvPool is imported, and what others draw is drawn as before."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PROGRAM = """
import json, os, sys
import pd_jax.environments.envpool
seen = [os.environ.get(name) for name in ("MPLBACKEND", "MPLCONFIGDIR")]
print(json.dumps([*seen, "envpool.entry" in sys.modules]))
"""


def test_matplotlib_is_left_as_it_was() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MPL")}
    for given in ({}, {"MPLBACKEND": "svg", "MPLCONFIGDIR": "/nowhere"}):
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment | given, capture_output=True, text=True, check=True
        )
        assert json.loads(ended.stdout) == [given.get("MPLBACKEND"), given.get("MPLCONFIGDIR"), True]
