"""``pd-jax completion``: what bash says when Tab is pressed; and that zsh and fish are told as much."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from pd_jax.cli import main
from pd_jax.commands.shells import Line, lines, script
from pd_jax.config.commands import TABLE
from pd_jax.environments.tasks import TASKS
from pd_jax.teachers.catalogue import bundled_files

ROOT = Path(__file__).parents[2]
CASES: list[tuple[str, set[str] | None, set[str]]] = [
    # What is on the command line, all that is offered (None for any more), and what is among it.
    ("", set(TABLE), set()),
    ("di", {"distill"}, set()),
    ("-", {"--help", "--version"}, set()),
    ("distill --conf", {"--config"}, set()),
    (
        "distill --config quick/m",
        {
            "quick/memory_cartpole",
            "quick/memory_of_pong",
            "quick/mixed_pong_cartpole",
            "quick/multi3",
            "quick/multi10",
        },
        set(),
    ),
    ("distill --config ", None, {"pong", "cartpole", "quick/multi3", "a folder", "mine.yaml"}),
    ("plan --config po", {"pong"}, set()),
    ("distill --config=po", {"pong"}, set()),
    ("distill --teacher ", None, {"breakout", "mine.yaml"}),
    # Several may follow one another, and then comes an option.
    ("distill --teacher pong br", {"breakout"}, set()),
    ("distill --teacher pong --loss.k", {"--loss.kind"}, set()),
    ("distill --loss.weights ", {"none", "action_gap", "entropy"}, set()),
    ("distill --loss.kind kl ", set(), set()),
    ("distill --profile ", set(), set()),
    ("distill --no-prof", {"--no-profile"}, set()),
    ("train-teacher --game ", set(TASKS), set()),
    ("train-teacher --network ne", {"net1", "net2", "net3"}, set()),
    ("teachers ", {"list", "show", "import"}, set()),
    ("teachers sh", {"show"}, set()),
    ("teachers --js", {"--json"}, set()),
    ("teachers show ", None, set(bundled_files())),
    ("teachers show pong --pl", {"--plot"}, set()),
    ("monitor watch --pl", {"--play"}, set()),
    ("configs cartp", {"cartpole"}, set()),
    ("completion ", {"bash", "zsh", "fish"}, set()),
    ("explain --language ", {"en", "ja"}, set()),
    ("explain --run a", {"a folder"}, set()),
    ("report m", {"mine.yaml"}, set()),
    ("nonsense --x", set(), set()),
]


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What a real bash offers for each of them, in a directory with a file and a folder."""
    directory = tmp_path_factory.mktemp("completion")
    (directory / "mine.yaml").touch()
    (directory / "a folder").mkdir()
    (directory / "script").write_text(script("bash"))
    tries = []
    for line, _, _ in CASES:
        # As bash breaks it: at spaces, and around each equals sign.
        words = ["pd-jax", *re.findall(r"=|[^\s=]+", line)]
        words += [""] if not line or line.endswith(" ") else []
        tries.append(
            f"COMP_WORDS=({' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}; _pd_jax; "
            'printf "%s\\n" "${COMPREPLY[@]}"; echo @end'
        )
    text = "set -u; source ./script; complete -p pd-jax >&2\n" + "\n".join(tries)
    ended = subprocess.run(["bash", "-c", text], cwd=directory, capture_output=True, text=True, timeout=60)
    assert ended.stderr == "complete -F _pd_jax pd-jax\n"
    *answers, rest = ended.stdout.split("@end\n")
    assert rest == ""
    return {line: set(answer.split("\n")) - {""} for (line, _, _), answer in zip(CASES, answers, strict=True)}


@pytest.mark.parametrize(("line", "all_of_it", "among"), CASES)
def test_bash_offers_what_may_stand_there(
    line: str, all_of_it: set[str] | None, among: set[str], offered: dict[str, set[str]]
) -> None:
    assert among <= offered[line]
    if all_of_it is not None:
        assert offered[line] == all_of_it


def words_of(line: Line) -> set[str]:
    values = [values for values in [*line.options.values(), line.unnamed] if values is not None]
    return {*line.options, *(word for its in values for word in its.words)}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_is_told_of_every_command_option_and_name(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    told = set(re.split(r"[\s\"'|()]+", text))
    known = lines()
    assert {name.partition(" ")[0] for name in known} == set(TABLE)
    for name, line in known.items():
        wanted = words_of(line)
        if shell == "fish":
            own = set(re.split(r"[\s\"']+", "\n".join(re.findall(rf"__pd_jax_is '?{name}'?\" (.*)", text))))
            wanted = {word.removeprefix("--") for word in wanted}
            assert wanted <= own, name
        else:
            assert wanted <= told, name
    # Nothing of this machine is in it.
    assert str(ROOT) not in text and "/home" not in text


def test_a_shell_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "powershell"]) == 2
    assert "SHELL: 'powershell' is not a shell" in capsys.readouterr().err
    assert main(["completion"]) == 2
    assert "shell: missing" in capsys.readouterr().err
