"""Names that other libraries give to environments."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.config.commands import COMMANDS
from pd_jax.config.loading import load_config
from pd_jax.environments.tasks import ATARI_57, PAPER_GAMES, TASKS, get_task
from pd_jax.errors import UserError

# As the Arcade Learning Environment spells them.
SPELT_BY_ALE = {name: task.env_id.removesuffix("-v5") for name, task in TASKS.items() if task.kind == "atari"}


@pytest.mark.parametrize("name", PAPER_GAMES)
def test_the_papers_games_are_known_by_the_names_of_gym_and_ale(name: str) -> None:
    spelt = SPELT_BY_ALE[name]
    for form in ("{}NoFrameskip-v4", "{}NoFrameskip-v0", "ALE/{}-v5", "ale_py:ALE/{}-v5", " {}NOFRAMESKIP-V4 "):
        assert get_task(form.format(spelt)) is TASKS[name]


@pytest.mark.parametrize("name", ["alien", "up_n_down", "jamesbond", "yars_revenge", "tutankham"])
def test_so_are_other_games_of_atari(name: str) -> None:
    assert name in ATARI_57
    spelt = "".join(word.capitalize() for word in name.split("_"))
    for form in ("{}NoFrameskip-v4", "{}Deterministic-v4", "ALE/{}-v5"):
        assert get_task(form.format(spelt)) == get_task(name)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("LunarLander-v2", "lunarlander"),
        ("LunarLander-v3", "lunarlander"),
        ("CartPole-v1", "cartpole"),
        ("gymnasium:CartPole-v1", "cartpole"),
        ("gym:LunarLander-v2", "lunarlander"),
        ("Acrobot-v1", "acrobot"),
        ("PongDeterministic-v4", "pong"),
        ("PongDeterministic-v0", "pong"),
    ],
)
def test_names_of_gymnasium_are_known(given: str, name: str) -> None:
    assert get_task(given) is TASKS[name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Pong-v4", "holds an action for 2 to 4 frames, at random; pong is played with 4, as PongNoFrameskip-v4 is"),
        ("Breakout-v0", "as BreakoutNoFrameskip-v4 is under the usual wrappers"),
        ("Alien-v4", "holds an action for 2 to 4 frames, at random"),
        ("Pong-ram-v4", "shows the 128 bytes of the console's memory"),
        ("Pong-ramNoFrameskip-v4", "shows the 128 bytes of the console's memory"),
        ("ALE/Pong-ram-v5", "shows the 128 bytes of the console's memory"),
        ("SpaceInvadersDeterministic-v4", "holds an action for 3 frames; space_invaders is played with 4 here"),
        ("CartPole-v0", "ends after 200 steps; cartpole (CartPole-v1) ends after 500"),
        ("phys2d/CartPole-v1", "is another simulation than cartpole"),
        ("MinAtar/Breakout-v1", "is a game of MinAtar, on a grid of 10 x 10"),
        ("Breakout-MinAtar", "is a game of MinAtar, on a grid of 10 x 10"),
    ],
)
def test_the_name_of_another_task_is_refused_with_what_is_different(name: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        get_task(name)
    assert str(error.value).startswith(f"{name!r} ")
    assert words in str(error.value)


@pytest.mark.parametrize("command", ["train-teacher", "collect", "distill", "online", "sweep", "evaluate"])
def test_every_command_takes_these_names_for_its_game(command: str) -> None:
    argv = ["--out", "x", *([] if command in ("train-teacher", "online") else ["--teacher", "pong"])]
    load_config(COMMANDS[command], [*argv, "--game", "PongNoFrameskip-v4"], command)
    with pytest.raises(UserError, match=r"^--game: 'Pong-v4' holds an action for 2 to 4 frames"):
        load_config(COMMANDS[command], [*argv, "--game", "Pong-v4"], command)


def test_a_game_that_is_named_twice_is_seen_to_be() -> None:
    with pytest.raises(UserError, match=r"^--game: pong is there 2 times"):
        argv = ["--teacher", "a", "b", "--game", "PongNoFrameskip-v4", "ALE/Pong-v5", "--out=x"]
        load_config(COMMANDS["distill"], argv, "distill")


def test_the_papers_games_take_no_import_of_envpool() -> None:
    code = (
        "import sys; from pd_jax.environments.tasks import get_task; "
        "[get_task(name) for name in ('PongNoFrameskip-v4', 'ALE/SpaceInvaders-v5', 'CartPole-v1')]; "
        "print('envpool' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@given(
    st.sampled_from(["", "ALE/", "ale_py:ALE/", "MinAtar/", "x:"]),
    st.sampled_from([*SPELT_BY_ALE.values(), "CartPole", "LunarLander", "Nothing", "-", ""]),
    st.sampled_from(["", "-ram", "NoFrameskip", "Deterministic", "-ramDeterministic"]),
    st.sampled_from(["", "-v", "-v0", "-v4", "-v5", "-v55"]),
)
def test_any_mixture_of_their_parts_is_a_task_of_that_game_or_a_one_line_error(
    prefix: str, game: str, how: str, version: str
) -> None:
    name = f"{prefix}{game}{how}{version}"
    try:
        assert get_task(name).env_id.partition("-")[0] == game
    except UserError as error:
        assert str(error).isprintable() and repr(name) in str(error)  # noqa: PT017
