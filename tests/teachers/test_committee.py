"""Several teachers of one game as one: how they are named, what they are together, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.config.credibility import CredibilityConfig
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.networks.partition import PartSizes
from pd_jax.runs.students import load_teacher
from pd_jax.teachers import from_function, load, make_committee
from pd_jax.teachers.committee import Committee, read_faults
from pd_jax.teachers.joined import split
from support.commands import refusal, write_teacher
from support.committees import EVALUATION, write_changed

OBSERVATIONS = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Teachers of CartPole: one like the bundled, one that does the opposite, and both without a score."""
    directory = tmp_path_factory.mktemp("members")
    return {
        "alike": write_changed(directory / "alike.safetensors", 0.5, 400.0),
        "opposite": write_changed(directory / "opposite.safetensors", -1.0, 10.0),
        "unscored": write_changed(directory / "unscored.safetensors", 2.0),
        "bad": write_changed(directory / "bad.safetensors", -2.0, 15.0),
    }


@pytest.mark.parametrize("name", ["a+b.safetensors", "pong+x", "x+pong+y"])
def test_a_file_that_is_there_is_itself_also_with_a_plus_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = split(name)
    (tmp_path / name).touch()
    assert len(whole) > 1 and split(name) == (name,)
    assert split(f"pong+{name}+freeway") == ("pong", name, "freeway")


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("pong", ("pong",)),
        ("Pong+freeway", ("Pong", "freeway")),
        ("hf://a/b/x+y.zip@main", ("hf://a/b/x+y.zip@main",)),
        ("hf://a/b+pong+hf://c/d", ("hf://a/b", "pong", "hf://c/d")),
        ("nothing+pong+none", ("nothing", "pong", "none")),
    ],
)
def test_names_and_addresses_are_told_apart(text: str, members: tuple[str, ...]) -> None:
    assert split(text) == members


def test_a_bad_one_among_good_ones_changes_nothing_and_with_the_plain_mean_it_does(files: dict[str, Path]) -> None:
    names = f"cartpole+{files['alike']}+{files['opposite']}"
    good, robust = load("cartpole"), load_teacher(names)
    plain = load_teacher(names, credibility=CredibilityConfig(by="none"))
    assert isinstance(robust, Committee) and robust.gives_logits and robust.metadata.output == "logits"
    best = np.asarray(good(OBSERVATIONS)).argmax(axis=1)
    probabilities = np.exp(np.asarray(robust(OBSERVATIONS)))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), best)
    assert probabilities.max(axis=1).mean() > 0.99
    # Of three policies that are sure, one is against: at most two thirds are left.
    assert np.exp(np.asarray(plain(OBSERVATIONS))).max(axis=1).mean() == pytest.approx(2 / 3, abs=0.01)
    assert robust.num_params == 3 * good.num_params and robust.labels == ("cartpole", "alike", "opposite")


def test_scores_are_read_from_the_files_or_given(files: dict[str, Path]) -> None:
    names, random = f"{files['alike']}+{files['opposite']}", get_task("cartpole").random_score
    assert random is not None and random > 10.0
    assert load(names).network.votes == (1.0, 0.0)
    votes = load(names, credibility=CredibilityConfig(by="score", scores=(random + 1, random + 4))).network.votes
    np.testing.assert_allclose(votes, (0.25, 1.0))
    assert load(names, credibility=CredibilityConfig(by="state")).network.votes == (1.0, 1.0)


def test_without_a_score_scores_count_nothing_and_it_is_said(
    files: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    committee = load(f"{files['alike']}+{files['unscored']}")
    assert committee.network.votes == (1.0, 1.0)
    assert f"no score is known of {files['unscored']}, so that scores count nothing here" in capfd.readouterr().err


def test_committees_are_known_again_and_told_from_others(files: dict[str, Path]) -> None:
    names = f"cartpole+{files['alike']}"
    found = {
        load(names, credibility=credibility).sha256
        for credibility in (
            None,
            CredibilityConfig(),
            CredibilityConfig(by="none"),
            CredibilityConfig(scores=(100.0, 200.0)),
            CredibilityConfig(temperature=0.1),
        )
    }
    assert len(found) == 4
    assert load(f"{files['alike']}+cartpole").sha256 not in found
    found.add(load(f"cartpole+{files['unscored']}").sha256)
    assert len(found) == 5


def test_other_parts_are_the_same_committee(files: dict[str, Path]) -> None:
    committee = load(f"cartpole+{files['alike']}")
    assert isinstance(committee, Committee)
    committee.leave_out(0)
    assert committee.with_sizes(PartSizes()) is committee
    assert make_committee([member for member in committee.members]).sha256 == committee.sha256


@pytest.mark.parametrize("by", ["none", "both"])
def test_faults_are_told_in_the_labels_and_taken_out_again(by: str) -> None:
    def some(observations: Any) -> Any:
        # Nonsense right of 1, and no number right of 2.
        bad = jnp.where(observations[:, :1] > 2.0, jnp.nan, jnp.inf)
        return jnp.where(observations[:, :1] > 1.0, bad, observations[:, :2])

    def other(observations: Any) -> Any:
        return jnp.where(observations[:, :1] > 2.0, jnp.nan, observations[:, 1:3])

    members = [
        from_function(function, kind="logits", game="cartpole", fingerprint=name, name=name)
        for name, function in (("third", lambda x: x[:, 2:4]), ("some", some), ("other", other))
    ]
    committee = make_committee(members, CredibilityConfig(by=by))  # type: ignore[arg-type]
    seen = np.random.default_rng(1).uniform(-3, 3, (20, 5, 4)).astype(np.float32)
    flat = seen.reshape(-1, 4)
    labels = committee.network.report(committee.variables, flat).reshape(20, 5, 2)
    cleaned, faults = read_faults(labels)
    assert np.isfinite(cleaned).all()
    np.testing.assert_allclose(np.asarray(cleaned).reshape(-1, 2), committee(flat), atol=1e-5)
    # Of two that fail in a state, the first is told of.
    first = int(np.flatnonzero((seen[..., 0] > 1.0).any(axis=1))[0])
    assert [tuple(fault) for fault in faults] == [(1, first)]
    assert committee.leave_out(1) and not committee.leave_out(1)
    labels = committee.network.report(committee.variables, flat).reshape(20, 5, 2)
    second = int(np.flatnonzero((seen[..., 0] > 2.0).any(axis=1))[0])
    assert [tuple(fault) for fault in read_faults(labels)[1]] == [(2, second)]
    assert committee.leave_out(2) and not committee.leave_out(0)
    labels = committee.network.report(committee.variables, flat).reshape(20, 5, 2)
    alone = np.asarray(members[0](flat))
    np.testing.assert_allclose(np.exp(labels.reshape(-1, 2)), np.exp(alone) / np.exp(alone).sum(1, keepdims=True), 1e-5)
    assert read_faults(labels)[1] == []


def test_the_last_one_that_fails_gives_what_a_teacher_alone_gives() -> None:
    members = [
        from_function(lambda x: x[:, :2] * jnp.nan, kind="q", game="cartpole", fingerprint=name, name=name)
        for name in "ab"
    ]
    committee = make_committee(members)
    assert np.isnan(committee(OBSERVATIONS)).all()


@pytest.mark.parametrize(
    ("names", "credibility", "message"),
    [
        ("cartpole+nothing+{alike}", {}, "'nothing' is neither a bundled teacher nor a file"),
        ("cartpole++{alike}", {}, "a teacher is missing beside '+'"),
        ("cartpole+", {}, "a teacher is missing beside '+'"),
        ("cartpole+acrobot", {}, "cartpole plays cartpole, and acrobot acrobot"),
        ("{alike}+cartpole+{alike}", {}, "{alike} is the same teacher, twice"),
        ("cartpole+{alike}", {"scores": (1.0, 2.0, 3.0)}, "credibility.scores: 3 for the 2 teachers of"),
        ("cartpole+{alike}", {"temperature": (1.0, 2.0, 3.0)}, "credibility.temperature: 3 for the 2 teachers of"),
        ("cartpole+{unscored}", {"by": "score"}, "none is known of {unscored}; give --credibility.scores"),
        ("{bad}+{opposite}", {}, "none of the scores 15, 10 is above that of random play"),
        ("{bad}+{opposite}", {"by": "score"}, "none of the scores 15, 10 is above that of random play"),
        ("cartpole+{alike}", {"scores": (1.0, -2.0)}, "none of the scores 1, -2 is above"),
    ],
)
def test_what_does_not_go_together_is_refused(
    files: dict[str, Path], names: str, credibility: dict[str, Any], message: str
) -> None:
    told = {name: str(path) for name, path in files.items()}
    with pytest.raises(UserError) as refused:
        load_teacher(names.format(**told), credibility=CredibilityConfig(**credibility))
    assert message.format(**told) in str(refused.value) and "\n" not in str(refused.value)


def test_the_same_file_under_two_names_is_the_same_teacher(files: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(files["alike"].read_bytes())
    with pytest.raises(UserError, match="are the same teacher, twice"):
        load(f"{files['alike']}+{copy}")


def test_other_action_sets_are_refused() -> None:
    first, second = load("cartpole"), load("cartpole")
    second.sha256 = "0" * 64
    second.metadata = dataclasses.replace(second.metadata, action_names=("LEFT", "UP"))
    with pytest.raises(UserError, match="the actions of cartpole are LEFT, RIGHT, and those of cartpole LEFT, UP"):
        make_committee([first, second])
    with pytest.raises(UserError, match="1 teacher is no committee"):
        make_committee([first])
    second.metadata = first.metadata
    with pytest.raises(UserError, match="is several teachers already"):
        make_committee([first, make_committee([first, second])])


@pytest.mark.parametrize("command", ["distill", "collect", "evaluate", "sweep"])
def test_different_protocols_are_refused_unless_one_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    paths = [
        write_teacher(
            tmp_path / f"{name}.safetensors", "pong", training_config={"protocol": name}, evaluation=EVALUATION
        )
        for name in ("classic", "modern")
    ]
    out = tmp_path / "out"
    argv = [command, "--teacher", "+".join(map(str, paths)), "--out", str(out)]
    message = refusal(capfd, *argv)
    assert "is of protocol 'classic'" in message and "is of protocol 'modern'; say --protocol NAME" in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["distill", "--teacher", "cartpole", "--credibility.by", "none"], "credibility.by: is for several teachers"),
        (
            ["collect", "--teacher", "cartpole+{alike}", "--credibility.by", "state", "--credibility.scores", "1", "2"],
            "credibility.scores: is for credibility by score, and credibility.by is 'state'",
        ),
        (
            ["evaluate", "--teacher", "cartpole+{alike}", "pong+x", "--credibility.scores", "1", "2"],
            "credibility.scores: is of the teachers of one game, and 2 games have several",
        ),
        (["distill", "--teacher", "cartpole+{alike}", "--credibility.by", "stat"], "did you mean 'state'?"),
        (["distill", "--teacher", "cartpole+{alike}", "--credibility.scores", "1", "nan"], "'nan' is not a number"),
        (["distill", "--teacher", "cartpole+{alike}", "--credibility.temperature", "0"], "out of range"),
        (["distill", "--teacher", "cartpole+nothing", "--student.network", "mlp"], "'nothing' is neither a bundled"),
        (["export", "--teacher", "cartpole+{alike}"], "teacher: cartpole+{alike} is 2 teachers together"),
        (["online", "--teacher", "cartpole+{alike}"], "teacher: cartpole+{alike} is 2 teachers together"),
        (
            ["train-teacher", "--game", "cartpole", "--init-from", "cartpole+{alike}", "--network", "mlp"],
            "init_from: cartpole+{alike} is 2 teachers together",
        ),
        (
            ["distill", "--teacher", "cartpole", "--init-from", "cartpole+{alike}", "--student.network", "mlp"],
            "init_from: cartpole+{alike} is 2 teachers together",
        ),
    ],
)
def test_command_lines_are_refused_in_one_line_and_nothing_is_written(
    files: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    told = {name: str(path) for name, path in files.items()}
    out = tmp_path / "out"
    assert message.format(**told) in refusal(capfd, *[word.format(**told) for word in argv], "--out", str(out))
    assert not out.exists()
