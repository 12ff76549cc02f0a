"""Ten steps of Gymnasium's MuJoCo from the state in which EnvPool opens an episode: the fixture of
``tests/environments/test_gymnasium.py``.

Run as a program it makes the fixture anew; that needs ``gymnasium[mujoco]``, which the tests do not::

    python tests/support/gymnasium_mujoco.py tests/fixtures/gymnasium_mujoco.npz
"""

from __future__ import annotations

import sys
from typing import Any

import envpool
import numpy as np

HIDDEN = {"HalfCheetah-v5": 1, "Hopper-v5": 1, "Walker2d-v5": 1, "Swimmer-v5": 2, "InvertedPendulum-v5": 0}
"""By id, coordinates of the state that an observation leaves out: where the body is, which moves nothing else."""
SEED, STEPS = 3, 10


def actions_of(env_id: str) -> np.ndarray:
    """Drawn actions, float32 ``[STEPS, components]``: what both are given."""
    space: Any = envpool.make_spec(env_id).action_space
    drawn = np.random.default_rng(0).uniform(space.low, space.high, (STEPS, *space.shape))
    return drawn.astype(np.float32)


def record() -> dict[str, np.ndarray]:
    """By id and name, the first observation, and the observations and rewards of the steps."""
    import gymnasium
    import mujoco

    found: dict[str, np.ndarray] = {"versions": np.array([gymnasium.__version__, mujoco.__version__])}
    for env_id, hidden in HIDDEN.items():
        first = envpool.make(env_id, env_type="gymnasium", num_envs=1, seed=SEED).reset()[0][0]
        environment: Any = gymnasium.make(env_id).unwrapped
        environment.reset(seed=0)
        places, speeds = environment.model.nq - hidden, environment.model.nv
        state = np.concatenate([np.zeros(hidden), first[:places]])
        environment.set_state(state, first[places : places + speeds])
        steps = [environment.step(action.astype(np.float64)) for action in actions_of(env_id)]
        found[f"{env_id} first"] = first
        found[f"{env_id} observations"] = np.array([step[0] for step in steps])
        found[f"{env_id} rewards"] = np.array([step[1] for step in steps])
    return found


if __name__ == "__main__":
    np.savez_compressed(sys.argv[1], **record())
