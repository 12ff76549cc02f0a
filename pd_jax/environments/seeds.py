"""Seeds of emulators, none of which is used twice in a run."""

from __future__ import annotations


def fresh_seed(seed: int, env_steps: int, game: int = 0) -> int:
    """A seed for play that goes on after ``env_steps`` steps; 0 keeps ``seed`` for the first game.

    Emulators cannot be saved: whoever resumes plays new games, and should not play the first ones again. Lane i has
    the seed plus i, and steps are counted in all lanes together, so no lane gets the seed of another before. Games
    differ in theirs too: teachers that play side by side do not explore in step.
    """
    # EnvPool's seeds are 31 bits wide, and the lanes' numbers, of which there are at most 2**16, are added to them.
    return (seed + env_steps + game * 2**16) % (2**31 - 2**16)
