"""The program imports those of EnvPool's families that it has tasks of, and nobody loses the others."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import json, sys
from pd_jax.environments.families import import_few
import_few()
import_few()
from pd_jax.environments.tasks import TASKS, get_task
import envpool
own = [task for task in TASKS.values() if not task.is_continuous]
made = [envpool.make_spec(task.env_id).config.num_envs for task in own]
others = sorted(name for name in sys.modules if name.startswith("envpool.") and name.endswith(".registration"))
drawing = "matplotlib" in sys.modules
known = get_task("up_n_down").num_actions
cheetah = get_task("half_cheetah_v5")
from pd_jax.environments.spaces import register
register(cheetah.env_id)
made.append(envpool.make_spec(cheetah.env_id).config.num_envs)
own.append(cheetah)
import envpool.toy_text.registration
print(json.dumps([len(made) == len(own), others, drawing, known, "Taxi-v3" in envpool.list_all_envs()]))
"""
FEW = [f"envpool.{name}registration" for name in ("atari.", "box2d.", "classic_control.", "")]


@pytest.mark.slow
def test_tasks_are_there_and_other_families_on_request() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [True, FEW, False, 6, True]
