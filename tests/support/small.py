"""``pd-jax`` at small sizes, for the commands that documents show: the same command, but for how long it takes.

Run as a program it is the command itself; ``python -m support.small ARGUMENTS``.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pd_jax.cli import main
from pd_jax.config.commands import TABLE, CommandGroup
from pd_jax.config.fields import fields
from pd_jax.config.loading import load_config
from pd_jax.errors import UserError
from pd_jax.system import own_modules

SIZES = {
    "schedule.rounds": 2,
    "schedule.steps_per_round": 1024,
    "schedule.updates_per_round": 20,
    "evaluation.episodes": 2,
    "evaluation.num_lanes": 2,
    "evaluation.max_episode_steps": 200,
    "evaluation.every_steps": 2048,
    "evaluation.progress_episodes": 2,
    "outside.episodes": 2,
    "pqn.total_steps": 4096,
    "dqn.total_steps": 4096,
    "dqn.learning_starts": 512,
    "dqn.replay_capacity": 20_480,
    "replay.capacity": 20_480,
    "steps": 2048,
    "record": 2048,
    "grid.seeds": 0,
    "decisions": 24_576,
    "proof.frames": 256,
    "calibration.frames": 256,
}
"""At most so much of each setting that a command has."""
IF_GIVEN = {"evaluation.every_rounds": 1}
"""At most so much where a command line has it."""


def settings_of(argv: Sequence[str]) -> tuple[str, list[str], Any]:
    """Name, options and settings class of a command line."""
    name, *options = argv
    command = TABLE[name]
    if isinstance(command, CommandGroup):
        own, *options = options or [command.default]
        name, command = f"{name} {own}", command.commands[own]
    return name, options, command.settings


def accepts(settings: Any, options: Sequence[str], name: str) -> bool:
    """Whether a command takes these options."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            load_config(settings, list(options), name)
    except UserError:
        return False
    return True


def afresh(options: Sequence[str]) -> list[str]:
    """Options without ``--resume``."""
    if "--resume" not in options:
        return list(options)
    place = options.index("--resume")
    rest = list(options[place + 1 :])
    return [*options[:place], *(rest[1:] if rest[:1] == ["auto"] else rest)]


def small(argv: Sequence[str]) -> list[str]:
    """A command line at small sizes. What is given beside ``--resume`` stays, since a run must not become shorter."""
    if argv[0].startswith("-"):
        return list(argv)
    name, options, settings = settings_of(argv)
    known = fields(settings)
    for key, most in (SIZES | IF_GIVEN).items():
        option = f"--{key.replace('_', '-')}"
        if key not in known:
            continue
        if option in options:
            place = options.index(option) + 1
            if "--resume" not in options and int(options[place]) > most:
                options[place] = str(most)
        # With --resume an option without effect is only warned of, but the run would be another one.
        elif key in SIZES and accepts(settings, [*afresh(options), option, str(most)], name):
            options += [option, str(most)]
    return [*name.split(), *options]


def make_room(argv: Sequence[str]) -> None:
    """Removes what stands at a command's ``out``: lines of a block may be alternatives, and share it."""
    if argv[0].startswith("-") or {"--resume", "--cells"} & set(argv):
        return
    name, options, settings = settings_of(argv)
    # The doctor only looks at it.
    if name != "doctor" and accepts(settings, options, name):
        out = Path(getattr(load_config(settings, options, name), "out", None) or "/nowhere")
        shutil.rmtree(out, ignore_errors=True) if out.is_dir() else out.unlink(missing_ok=True)


if __name__ == "__main__":
    own, sys.argv[1:] = own_modules.take_from(sys.argv[1:])
    own_modules.tell_others(own)
    own_modules.import_all()
    # Two processes of one run share their directory; whoever comes second must not remove it.
    if "--hosts.process-id" not in sys.argv:
        make_room(small(sys.argv[1:]))
    sys.exit(main(small(sys.argv[1:])))
