#!/usr/bin/env bash
# gymnasium.make_vec(id, max_episode_steps=N) cuts every lane's episodes after N steps, and the vector environment's own
# spec still says the limit of the registry: N stands among the environment's keyword arguments, where nobody looks.
# gymnasium.make(id, max_episode_steps=N), of one environment, says N. Whoever reads the limit from envs.spec (to scale
# returns, to size buffers, to tell a time limit from a fall, to write it into the header of a recording) takes 200 for 7.
#
# Versions: gymnasium 1.4.0, Python 3.11, Linux.
# Seen: "gymnasium 1.4.0: one environment says 7; of a vector sync says 200, its lanes [7, 7], and ends after 7; async says
# 200 and ends after 7"
# Expected: the vector's spec says 7.
# Ends with 0 while this is so, and with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q gymnasium==1.4.0
cat > "$folder/program.py" <<'PYTHON'
import sys

import gymnasium

LIMIT, TASK = 7, "Pendulum-v1"


def ends_after(envs):
    envs.reset(seed=0)
    for steps in range(1, 1_000):
        *_, terminated, truncated, _ = envs.step(envs.action_space.sample())
        if terminated.any() or truncated.any():
            return steps
    return None


if __name__ == "__main__":
    one = gymnasium.make(TASK, max_episode_steps=LIMIT).spec.max_episode_steps
    registered = gymnasium.spec(TASK).max_episode_steps
    told, holds = [], one == LIMIT
    for mode in ("sync", "async"):
        envs = gymnasium.make_vec(TASK, num_envs=2, vectorization_mode=mode, max_episode_steps=LIMIT)
        says, steps = envs.spec.max_episode_steps, ends_after(envs)
        lanes = f", its lanes {[each.spec.max_episode_steps for each in envs.envs]}," if mode == "sync" else ""
        told.append(f"{mode} says {says}{lanes} and ends after {steps}")
        holds = holds and says == registered != LIMIT and steps == LIMIT
        envs.close()
    print(f"gymnasium {gymnasium.__version__}: one environment says {one}; of a vector {'; '.join(told)}")
    sys.exit(0 if holds else 1)
PYTHON
"$folder/env/bin/python" "$folder/program.py"
