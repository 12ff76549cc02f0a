"""EnvPool is imported, and what others draw is drawn as before."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, sys
import pd_jax.environments.envpool
seen = [os.environ.get(name) for name in ("MPLBACKEND", "MPLCONFIGDIR")]
print(json.dumps([*seen, "envpool.entry" in sys.modules, "matplotlib" in sys.modules]))
"""


def test_matplotlib_is_left_as_it_was() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MPL")}
    for given in ({}, {"MPLBACKEND": "svg", "MPLCONFIGDIR": "/nowhere"}):
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment | given, capture_output=True, text=True, check=True
        )
        assert json.loads(ended.stdout) == [given.get("MPLBACKEND"), given.get("MPLCONFIGDIR"), True, False]


DRAWING = """
import hashlib, os, sys
{imported}
lanes = envpool.make_gymnasium("Game2048-v1", num_envs=1, seed=3, render_mode="rgb_array")
lanes.reset()
assert not [name for name in ("MPLBACKEND", "MPLCONFIGDIR") if name in os.environ] or "{imported}" == "import envpool"
print(lanes.render().std() > 0, hashlib.sha256(lanes.render().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_what_envpool_draws_itself_it_draws_as_ever() -> None:
    imports = ("from pd_jax.environments.loaded import envpool", "import envpool")
    ours, plain = (
        subprocess.run(
            [sys.executable, "-c", DRAWING.format(imported=imported)],
            env={name: value for name, value in os.environ.items() if not name.startswith("MPL")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for imported in imports
    )
    assert ours == plain and ours.startswith("True")
