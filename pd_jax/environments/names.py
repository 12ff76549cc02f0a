"""Names that other libraries give to environments: which task of ours each stands for, or why it stands for none.

A name says which game is played, what an agent sees of it, what it can do, and for how many frames an action is held.
Whether actions stick, how many no-ops an episode begins with and how rewards are clipped are settings here.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from types import MappingProxyType

from pd_jax.errors import UserError

# The names of the Arcade Learning Environment, Gym and Gymnasium: `ALE/Pong-v5`, `PongNoFrameskip-v4`, `Pong-ram-v4`,
# and with the module that registers them, as Gymnasium takes it: `ale_py:ALE/Pong-v5`.
_ATARI = re.compile(
    r"(?:[a-z.]+:)?(?P<ale>ale/)?(?P<game>[a-z0-9]+?)(?P<ram>-ram)?(?P<skip>noframeskip|deterministic)?-v(?P<version>[0-9])"
)
_SUFFIX = re.compile(r"(?:NoFrameskip|Deterministic)?(?:-v[0-9]+)?$", re.IGNORECASE)
_SAME: Mapping[str, str] = MappingProxyType({"lunarlander-v2": "lunarlander"})
_OTHER: Mapping[str, str] = MappingProxyType(
    {
        "cartpole-v0": "ends after 200 steps; cartpole (CartPole-v1) ends after 500, and settings that are called "
        "max_episode_steps can cut its episodes at 200",
        "phys2d/cartpole-v0": "is another simulation than cartpole (CartPole-v1)",
        "phys2d/cartpole-v1": "is another simulation than cartpole (CartPole-v1)",
    }
)


def translate(name: str, spelling: str, atari: Container[str]) -> str:
    """What a game is called here that may have the name of another library's.

    Args:
      name: as it was given.
      spelling: the same in lower case and without underscores.
      atari: the spellings of Atari games.

    Returns:
      the spelling of our name or of EnvPool's; ``spelling`` where it is none of these names.

    Raises:
      UserError: it is the name of another task, though of a game that is known here.
    """
    bare = re.sub(r"^(gym|gymnasium):", "", spelling)
    if bare in _OTHER:
        raise UserError(f"{name!r} {_OTHER[bare]}")
    if bare in _SAME:
        return _SAME[bare]
    if spelling.startswith("minatar/") or spelling.endswith("-minatar"):
        raise UserError(
            f"{name!r} is a game of MinAtar, on a grid of 10 x 10; the games here are those of Atari itself"
        )
    match = _ATARI.fullmatch(spelling)
    if match is None or match["game"] not in atari:
        return bare
    game, is_ale, skip = match["game"], match["ale"] is not None, match["skip"]
    if match["version"] not in ("5" if is_ale else "04") or (is_ale and skip is not None):
        return bare
    if match["ram"]:
        raise UserError(f"{name!r} shows the 128 bytes of the console's memory; that is {game}_ram here")
    if skip is None and not is_ale:
        raise UserError(
            f"{name!r} holds an action for 2 to 4 frames, at random; {game} is played with 4, as "
            f"{without_suffix(name)}NoFrameskip-v4 is under the usual wrappers"
        )
    if skip == "deterministic" and game == "spaceinvaders":
        raise UserError(f"{name!r} holds an action for 3 frames; space_invaders is played with 4 here")
    return game


def without_suffix(name: str) -> str:
    """The name of a game without what says how it is played, such as ``"Pong"`` of ``"PongNoFrameskip-v4"``."""
    return _SUFFIX.sub("", name)
