#!/usr/bin/env bash
# The step in which a game ends shows the frame before it: ale-py's vector environment returns the new frame in every step
# but the last one of a game, where it returns the former frame again. Who builds on it (a value of the last observation,
# a picture of how a game ended, a comparison with another build of the emulator) never sees the screen of the end.
#
# Versions: ale-py 0.12.1, gymnasium 1.4.0, numpy 2.4.6, Python 3.11, Linux.
# Seen: "ale-py 0.12.1: game over after 3056 frames; frames that differ before: 0; at the end it is the emulator's screen:
# False, the screen before: True (8 pixels differ)", in a game of Pong without a move, frame by frame.
# Expected: the emulator's own screen in the last step too, as in all the steps before.
# Ends with 0 while this is so, and with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q ale-py==0.12.1 gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/program.py" <<'PYTHON'
import sys

import ale_py
import numpy as np
from ale_py.vector_env import AtariVectorEnv

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
lanes = AtariVectorEnv(
    "pong", 1, num_threads=1, frameskip=1, maxpool=False, stack_num=1, img_height=210, img_width=160, noop_max=0,
    use_fire_reset=False, repeat_action_probability=0.0,
)  # fmt: skip
console = ale_py.ALEInterface()
console.setFloat("repeat_action_probability", 0.0)
console.loadROM(ale_py.roms.get_rom_path("pong"))
lanes.reset(seed=0)
console.reset_game()
frames, differ, before = 0, 0, None
while not console.game_over():
    shown, _, terminated, _, _ = lanes.step(np.zeros(1, np.int32))
    console.act(console.getMinimalActionSet()[0])
    screen, shown = console.getScreenGrayscale().reshape(210, 160), shown[0, 0]
    frames += 1
    if not console.game_over():
        differ += int((shown != screen).any())
        before = screen.copy()
at_end, is_former = bool((shown == screen).all()), bool((shown == before).all())
print(
    f"ale-py {ale_py.__version__}: game over after {frames} frames; frames that differ before: {differ}; at the end it is "
    f"the emulator's screen: {at_end}, the screen before: {is_former} ({int((screen != before).sum())} pixels differ)"
)
sys.exit(0 if terminated[0] and not differ and is_former and not at_end else 1)
PYTHON
"$folder/env/bin/python" "$folder/program.py"
