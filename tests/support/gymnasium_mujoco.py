"""Ten steps of Gymnasium's MuJoCo from the state in which EnvPool opens an episode: the fixture of
``tests/environments/test_gymnasium.py``.

Run as a program it adds those of the MuJoCo that is installed to the fixture. That has to be the one that EnvPool is
built with, 3.6.0 of EnvPool 1.2.5 and 3.11.0 of EnvPool 1.2.7; Gymnasium takes any. The tests need none::

    pip install envpool==1.2.5 gymnasium==1.4.0 mujoco==3.6.0 imageio
    PYTHONPATH=tests python tests/support/gymnasium_mujoco.py tests/fixtures/gymnasium_mujoco.npz
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import envpool
import numpy as np

HIDDEN = {
    "Ant-v5": 2,
    "HalfCheetah-v5": 1,
    "Hopper-v5": 1,
    "Humanoid-v5": 2,
    "HumanoidStandup-v5": 2,
    "InvertedPendulum-v5": 0,
    "Swimmer-v5": 2,
    "Walker2d-v5": 1,
}
"""By id, coordinates of the state that an observation leaves out: where the body is, which moves nothing else."""
SEED, STEPS = 3, 10


def actions_of(env_id: str) -> np.ndarray:
    """Drawn actions, float32 ``[STEPS, components]``: what both are given."""
    space: Any = envpool.make_spec(env_id).action_space
    drawn = np.random.default_rng(0).uniform(space.low, space.high, (STEPS, *space.shape))
    return drawn.astype(np.float32)


def record() -> dict[str, np.ndarray]:
    """By simulator, id and name, the first observation, and the observations and rewards of the steps."""
    import gymnasium
    import mujoco

    found: dict[str, np.ndarray] = {}
    for env_id, hidden in HIDDEN.items():
        first = envpool.make(env_id, env_type="gymnasium", num_envs=1, seed=SEED).reset()[0][0]
        environment: Any = gymnasium.make(env_id).unwrapped
        environment.reset(seed=0)
        places, speeds = environment.model.nq - hidden, environment.model.nv
        state = np.concatenate([np.zeros(hidden), first[:places]])
        environment.set_state(state, first[places : places + speeds])
        steps = [environment.step(action.astype(np.float64)) for action in actions_of(env_id)]
        name = f"mujoco {mujoco.__version__} {env_id}"
        found[f"{name} first"] = first
        found[f"{name} observations"] = np.array([step[0] for step in steps])
        found[f"{name} rewards"] = np.array([step[1] for step in steps])
    return found


if __name__ == "__main__":
    path = Path(sys.argv[1])
    before = dict(np.load(path)) if path.exists() else {}
    np.savez_compressed(path, **before | record())
