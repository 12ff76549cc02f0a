"""Settings from files and command lines: what is right goes through exactly, what is wrong gets one clear line."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.config.base import CommandConfig
from pd_jax.config.commands import COMMANDS
from pd_jax.config.distill import DistillConfig
from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.config.fields import Bounds, Field, check_value, fields
from pd_jax.config.loading import from_mapping, load_config, read_config, to_mapping, to_yaml
from pd_jax.config.report import ReportConfig
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.errors import UserError

REQUIRED = ["--teacher", "pong", "--out", "runs/x"]
TOP_KEYS = (
    "seed, profile, profile_seconds, track, track_project, protocol, teacher, out, resume, accept_other_teacher, "
    "init_from, game, data, data_order, epsilon, credibility, behaviour, env, actors, student, loss, learner, "
    "parts, replay, schedule, evaluation, checkpoint, hosts, video, add_teacher, add_data, adding"
)
STUDENT_KEYS = "network, mlp_hidden, channels, hidden, head_hidden, compute_dtype, quantisation"
LOSSES = "kl, nll, mse, reverse_kl, jsd, expected_entropy, huber, advantage_mse, advantage_huber"
NETWORKS = "(dqn, net1, net2, net3, multi3, multi10, mlp)"


def failure(config_class: type[CommandConfig], *argv: str) -> str:
    with pytest.raises(UserError) as error:
        load_config(config_class, argv, "distill")
    return str(error.value)


def distill_failure(*options: str) -> str:
    return failure(DistillConfig, *REQUIRED, *options)


@pytest.fixture
def pong(tmp_path: Path) -> Path:
    path = tmp_path / "pong.yaml"
    path.write_text("teacher: pong\nout: runs/pong\nstudent:\n  network: net1\nlearner:\n  batch_size: 64\n")
    return path


def test_options_go_before_the_file_and_the_file_before_defaults(pong: Path) -> None:
    argv = ["--config", str(pong), "--learner.batch-size", "128", "--seed", "3"]
    config = load_config(DistillConfig, argv, "distill")
    assert (config.learner.batch_size, config.student.network, config.seed) == (128, "net1", 3)
    untouched = DistillConfig(teacher="pong", out="runs/pong")
    assert dataclasses.replace(config, seed=0, learner=untouched.learner, student=untouched.student) == untouched


def test_every_spelling_of_an_option_is_understood() -> None:
    argv = ["--teacher=a=b", "--out", "-", "--learner.batch_size", "1_024", "--loss.temperature=1e-2", "--resume"]
    argv += [
        "--student.mlp-hidden",
        "64",
        "32",
        "--student.network=mlp",
        "--data",
        "None",
        "--seed",
        "1",
        "--seed",
        "2",
    ]
    config = load_config(DistillConfig, argv, "distill")
    assert (config.teacher, config.out, config.data) == (("a=b",), "-", None)
    assert (config.learner.batch_size, config.loss.temperature, config.seed) == (1024, (0.01,), 2)
    assert (config.student.mlp_hidden, config.resume) == ((64, 32), True)
    assert not load_config(DistillConfig, [*argv, "--no-resume"], "distill").resume


def test_one_game_is_a_word_and_several_are_a_list(tmp_path: Path) -> None:
    path = tmp_path / "games.yaml"
    path.write_text("teacher: [pong, breakout]\nout: x\nenv: {lanes: [8, 4]}\nloss: {temperature: 0.1}\n")
    several = read_config(DistillConfig, path)
    assert (several.teacher, several.env.lanes, several.loss.temperature) == (("pong", "breakout"), (8, 4), (0.1,))
    assert (several.lanes, several.num_games) == ((8, 4), 2)
    argv = ["--teacher", "pong", "breakout", "--out=x", "--env.lanes", "8", "4", "--loss.temperature", "0.1"]
    assert load_config(DistillConfig, argv, "distill") == several
    # An option replaces the whole list.
    one = load_config(DistillConfig, ["--config", str(path), "--teacher", "freeway", "--env.lanes", "None"], "distill")
    assert (one.teacher, one.lanes) == (("freeway",), (32,))
    written = to_mapping(one)
    assert (written["teacher"], written["loss"]["temperature"], written["game"]) == ("freeway", 0.1, None)
    assert to_mapping(several)["teacher"] == ["pong", "breakout"]
    assert DistillConfig(teacher="freeway", out="x", game="freeway").game == ("freeway",)
    listed = DistillConfig(teacher=["pong", "breakout"], out="x")  # type: ignore[arg-type]
    assert listed == DistillConfig(teacher=("pong", "breakout"), out="x")
    # Lists of other settings stay lists, however short.
    assert written["student"]["mlp_hidden"] == [128, 128]
    assert distill_failure("--game", "pong", "null") == "--game[1]: null is not text"
    assert distill_failure("--teacher") == "--teacher: needs a value"


def test_words_that_begin_with_one_dash_are_words() -> None:
    argv = ["--teacher", "-a", "-b", "--data=-", "--game", "pong", "--out", "-x", "--student.mlp-hidden", "1", "-2"]
    with pytest.raises(UserError, match=r"^--student.mlp-hidden\[1\]: -2 is out of range"):
        load_config(DistillConfig, argv, "distill")
    config = load_config(EvaluateConfig, ["--teacher", "-a", "-b", "--out", "-x"], "evaluate")
    assert (config.teacher, config.out) == (("-a", "-b"), "-x")


def test_flags_of_sections_have_a_negative() -> None:
    argv = ["--game", "pong", "--out", "x", "--pqn.no-clip-rewards", "--no_layer_norm"]
    config = load_config(TrainTeacherConfig, argv, "train-teacher")
    assert (config.pqn.clip_rewards, config.layer_norm, config.pqn.episodic_life) == (False, False, True)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ([], None),
        (["--layer-norm"], True),
        (["--no-layer-norm"], False),
        (["--layer-norm", "True"], True),
        (["--layer-norm=false"], False),
        (["--layer-norm", "--seed", "1"], True),
        (["--no-layer-norm", "--layer-norm=None"], None),
    ],
)
def test_a_flag_that_may_be_null_also_takes_a_value(options: list[str], value: bool | None) -> None:
    config = load_config(TrainTeacherConfig, ["--game", "pong", "--out", "x", *options], "train-teacher")
    assert config.layer_norm is value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--student.netwrok", "net3"], "--student.netwrok: no such option; did you mean '--student.network'?"),
        (["--network", "net3"], "--network: no such option; did you mean '--student.network'?"),
        (
            ["--no-learner.learning-rate-decay"],
            "--no-learner.learning-rate-decay: no such option; did you mean '--learner.no-learning-rate-decay'?",
        ),
        (["--otu=x"], "--otu: no such option; did you mean '--out'?"),
        (["--xyz"], "--xyz: no such option; --help lists them"),
        (["--"], "--: no such option; --help lists them"),
        (["-x"], "'-x': unexpected argument; settings are given as --name value"),
        (["extra"], "'extra': unexpected argument; settings are given as --name value"),
        (["--seed"], "--seed: needs a value"),
        (["--seed", "--resume"], "--seed: needs a value"),
        (["--config"], "--config: needs a value"),
        (["--config=a", "--config=b"], "--config: given twice"),
        (["--resume", "true"], "--resume: takes no value, got 'true'"),
        (["--no-resume=true"], "--no-resume: takes no value, got 'true'"),
        (["--learner.batch-size", "many"], "--learner.batch-size: 'many' is not a whole number"),
        (["--learner.batch_size", "1.5"], "--learner.batch-size: 1.5 is not a whole number"),
        (["--learner.batch-size", "true"], "--learner.batch-size: true is not a whole number"),
        (["--learner.batch-size", "None"], "--learner.batch-size: null is not a whole number"),
        (["--learner.batch-size", "0"], "--learner.batch-size: 0 is out of range (at least 1)"),
        (["--learner.batch-size", "-5"], "--learner.batch-size: -5 is out of range (at least 1)"),
        (["--env.num-lanes", "1e9"], "--env.num-lanes: 1000000000.0 is not a whole number"),
        (["--env.num-lanes", "99999"], "--env.num-lanes: 99999 is out of range (at most 65536)"),
        (["--loss.temperature", "0"], "--loss.temperature: 0 is out of range (at least 1e-12)"),
        (["--loss.temperature", "hot"], "--loss.temperature: 'hot' is not a number or auto or null"),
        (["--loss.temperature", "atuo"], "--loss.temperature: 'atuo' is not a number or auto or null"),
        (["--loss.beta", "0"], "--loss.beta: 0 is out of range (at least 1e-06)"),
        (["--loss.beta", "1"], "--loss.beta: 1 is out of range (at most 0.999999)"),
        (["--loss.target-entropy", "0"], "--loss.target-entropy: 0 is out of range (at least 0.001)"),
        (["--loss.target-entropy", "1.0"], "--loss.target-entropy: 1.0 is out of range (at most 0.99)"),
        (["--loss.delta", "0"], "--loss.delta: 0 is out of range (at least 1e-12)"),
        (
            ["--loss.kind", "revrse_kl"],
            f"--loss.kind: 'revrse_kl' is not a loss; did you mean 'reverse_kl'? ({LOSSES})",
        ),
        (
            ["--loss.weights", "gap"],
            "--loss.weights: 'gap' is not a weight of examples (none, action_gap, entropy)",
        ),
        (["--loss.temperature", ".nan"], "--loss.temperature: nan is not a finite number"),
        (["--learner.learning-rate=-1e-3"], "--learner.learning-rate: -0.001 is out of range (at least 1e-12)"),
        (["--learner.learning-rate", "1e999"], "--learner.learning-rate: inf is not a finite number"),
        (["--epsilon", "1.5"], "--epsilon: 1.5 is out of range (at most 1)"),
        (["--seed", "-1"], "--seed: -1 is out of range (at least 0)"),
        (["--env.max-noops", "0"], "--env.max-noops: 0 is out of range (at least 1)"),
        (["--student.mlp-hidden", "8", "x"], "--student.mlp-hidden[1]: 'x' is not a whole number"),
        (["--student.mlp-hidden"], "--student.mlp-hidden: 0 items, it takes 1 to 64"),
        (["--loss.kind", "KL"], f"--loss.kind: 'KL' is not a loss; did you mean 'kl'? ({LOSSES})"),
        (
            ["--learner.optimizer", "adamw"],
            "--learner.optimizer: 'adamw' is not an optimizer; did you mean 'adam'? (rmsprop, adam, muon)",
        ),
        (["--env.stepping", "gpu"], "--env.stepping: 'gpu' is not a way of stepping (auto, jit, host)"),
        (
            ["--student.compute-dtype", "bf16"],
            "--student.compute-dtype: 'bf16' is not a compute type; did you mean 'bfloat16'? (float32, bfloat16)",
        ),
        (
            ["--student.network", "resnet"],
            f"--student.network: 'resnet' is not a network; did you mean 'net3'? {NETWORKS}",
        ),
        (["--teacher="], "--teacher: is empty"),
        (["--out", "a\nb"], "--out: 'a\\nb' has characters that cannot be printed"),
        (["--out", "\udcff"], "--out: '\\udcff' has characters that cannot be printed"),
        (["--out", "x" * 5000], f"--out: '{'x' * 57}...' is longer than 4096 characters"),
    ],
)
def test_a_bad_option_is_refused(options: list[str], message: str) -> None:
    assert distill_failure(*options) == message


def test_a_teacher_of_one_game_is_refused_a_network_of_several() -> None:
    message = failure(TrainTeacherConfig, "--game", "pong", "--out", "x", "--network", "multi3")
    problem = "is a network for several games, and there is one (dqn, net1, net2, net3, mlp)"
    assert message == f"--network: 'multi3' {problem}"


def test_the_widths_of_a_student_are_what_its_network_stands_for_unless_they_are_given(tmp_path: Path) -> None:
    path = tmp_path / "widths.yaml"
    path.write_text("student: {network: multi3, channels: [8, 8, 16], hidden: 32, head_hidden: 0}\n")
    student = load_config(DistillConfig, [*REQUIRED, "--config", str(path)], "distill").student
    assert (student.channels, student.hidden, student.head_hidden) == ((8, 8, 16), 32, 0)
    path.write_text("student: {channels: null, hidden: null}\n")
    student = load_config(DistillConfig, [*REQUIRED, "--config", str(path)], "distill").student
    assert (student.channels, student.hidden, student.head_hidden) == (None, None, 128)
    options = ["--student.channels", "4", "5", "6", "--student.hidden", "7"]
    student = load_config(DistillConfig, [*REQUIRED, "--config", str(path), *options], "distill").student
    assert (student.channels, student.hidden) == ((4, 5, 6), 7)
    student = load_config(DistillConfig, [*REQUIRED, *options, "--student.channels", "null"], "distill").student
    assert (student.channels, student.hidden) == (None, 7)
    assert distill_failure("--student.channels", "4", "null", "6") == (
        "--student.channels[1]: null is not a whole number"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("student: {network: nte1}", f"student.network: 'nte1' is not a network; did you mean 'net1'? {NETWORKS}"),
        (
            "student: {netwrok: net1}",
            f"student.netwrok: no such key; did you mean 'network'? ({STUDENT_KEYS})",
        ),
        ("network: net1", f"network: no such key; did you mean 'student.network'? ({TOP_KEYS})"),
        ("zzz: 1", f"zzz: no such key ({TOP_KEYS})"),
        ("1: 1", f"1: no such key ({TOP_KEYS})"),
        ("null: 1", f"null: no such key ({TOP_KEYS})"),
        ("student.network: net1", f"student.network: no such key; did you mean 'student'? ({TOP_KEYS})"),
        (
            "student: net1",
            f"student: 'net1' is not a mapping of settings ({STUDENT_KEYS})",
        ),
        ("replay:", "replay: null is not a mapping of settings (capacity)"),
        ("learner: {batch_size: '64'}", "learner.batch_size: '64' is not a whole number"),
        ("learner: {batch_size: true}", "learner.batch_size: true is not a whole number"),
        ("learner: {batch_size: null}", "learner.batch_size: null is not a whole number"),
        ("learner: {batch_size: 64.0}", "learner.batch_size: 64.0 is not a whole number"),
        ("learner: {batch_size: [64]}", "learner.batch_size: a list is not a whole number"),
        ("learner: {batch_size: {a: 1}}", "learner.batch_size: a mapping is not a whole number"),
        ("learner: {max_grad_norm: no}", "learner.max_grad_norm: 'no' is not a number or null"),
        ("epsilon: null", "epsilon: null is not a number"),
        ("epsilon: true", "epsilon: true is not a number"),
        ("epsilon: .inf", "epsilon: inf is not a finite number"),
        ("resume: 1", "resume: 1 is not true or false"),
        ("resume: yes", "resume: 'yes' is not true or false"),
        ("game: 7", "game: 7 is not text or null"),
        ("loss: {kind: null}", f"loss.kind: null is not a loss ({LOSSES})"),
        ("student: {mlp_hidden: 64}", "student.mlp_hidden: 64 is not a list, each item a whole number"),
        ("student: {mlp_hidden: [64, 0]}", "student.mlp_hidden[1]: 0 is out of range (at least 1)"),
        (
            "replay: {capacity: 500}",
            "replay.capacity: 500 holds less than one rollout, 1024 steps "
            "(env.num_lanes 32 x schedule.rollout_length 32)",
        ),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content + "\n")
    assert distill_failure("--config", str(path)) == f"{path}: {message}"


def test_a_value_that_conflicts_is_blamed_on_where_it_came_from(pong: Path) -> None:
    argv = ["--config", str(pong)]
    option = failure(DistillConfig, *argv, "--learner.batch-size", "9000", "--replay.capacity", "8000")
    assert option == "--learner.batch-size: 9000 is more than replay.capacity (8000)"
    file = failure(DistillConfig, *argv, "--replay.capacity", "50")
    assert file == f"{pong}: learner.batch_size: 64 is more than replay.capacity (50)"
    default = failure(DistillConfig, *argv, "--learner.num-devices", "3")
    assert default == "env.num_lanes: 32 does not split evenly over 3 devices; 30 and 33 do"


def test_what_is_required_is_asked_for(tmp_path: Path) -> None:
    remedy = "missing; set it in the configuration file or give"
    assert failure(DistillConfig) == f"teacher: {remedy} --teacher"
    assert failure(DistillConfig, "--teacher", "x") == f"out: {remedy} --out"
    assert failure(TrainTeacherConfig, "--out", "x") == f"game: {remedy} --game"
    assert failure(EvaluateConfig) == "teacher: missing, and run too; give --teacher NAME_OR_FILE, --run DIR or both"
    path = tmp_path / "x.yaml"
    path.write_text("teacher: pong\n")
    assert failure(DistillConfig, "--config", str(path)) == f"{path}: out: {remedy} --out"
    with pytest.raises(UserError) as error:
        read_config(DistillConfig, path)
    assert str(error.value) == f"{path}: out: missing"


def test_a_missing_file_is_named_with_the_nearest(pong: Path) -> None:
    path = pong.with_name("pogn.yaml")
    assert distill_failure("--config", str(path)) == f"{path}: no such file; did you mean 'pong.yaml'?"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_option_with_a_description_and_exits_with_0(
    command: str, flag: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        load_config(COMMANDS[command], ["--bogus", flag], command)
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: pd-jax {command}" in text
    assert "YAML file of settings" in text
    for key, field in fields(COMMANDS[command]).items():
        if field.positional:
            assert re.search(rf"^\W*{key.upper()[:3]}.*\n?\W*[A-Z][a-z]+", text, flags=re.MULTILINE), key
            continue
        option = "--" + key.replace("_", "-")
        rows = re.findall(rf"^\W*{option}[ ,](.*(?:\n(?!\W*--).*)*)", text, flags=re.MULTILINE)
        assert len(rows) == 1, option
        words = " ".join(rows[0].split())
        assert "(default: " in words or "(required)" in words
    # What only looks leaves no run, and draws nothing at random.
    looks = command in ("lineage", "explain", "configs", "doctor", "completion")
    common = ("--config",) if looks else ("--config", "--out") if command == "push" else ("--config", "--out", "--seed")
    assert all(f" {option} " in text for option in common)


def test_mappings_of_python_are_checked_as_files_are() -> None:
    with pytest.raises(UserError, match=r"^learner\.learning_rate: inf is not a finite number$"):
        from_mapping(DistillConfig, {"learner": {"learning_rate": math.inf}})
    with pytest.raises(UserError, match=r"^here: seed: a huge number is out of range \(at most 2000000000\)$"):
        from_mapping(DistillConfig, {"seed": 10**5000}, "here: ")
    with pytest.raises(UserError, match=r"^epsilon: a huge number is not a finite number$"):
        from_mapping(DistillConfig, {"epsilon": 10**5000})
    with pytest.raises(UserError, match=r"^teacher: a PosixPath is not text$"):
        from_mapping(DistillConfig, {"teacher": Path("x")})
    assert from_mapping(DistillConfig, {"teacher": "a", "out": "b", "epsilon": 1}).epsilon == 1.0


def test_whole_numbers_become_floats_where_a_float_is_wanted() -> None:
    value = check_value(Field(float, bounds=Bounds(0, 2)), 1, "x")
    assert (type(value), value) == (float, 1.0)


def test_values_without_a_name_are_gathered_wherever_they_stand() -> None:
    argv = ["runs/a", "--out", "report", "runs/b", "--resume", "runs/c"]
    config = load_config(ReportConfig, argv, "report")
    assert (config.runs, config.out, config.resume) == (("runs/a", "runs/b", "runs/c"), "report", True)
    with pytest.raises(UserError, match=r"^runs: missing; set it in the configuration file or give RUNS$"):
        load_config(ReportConfig, ["--out", "report"], "report")
    with pytest.raises(UserError, match=r"^RUNS\[1\]: is empty$"):
        load_config(ReportConfig, ["a", ""], "report")


def test_a_command_line_may_name_thousands_of_runs() -> None:
    names = [f"runs/{index}" for index in range(4096)]
    assert load_config(ReportConfig, names, "report").runs == tuple(names)
    with pytest.raises(UserError, match=r"^RUNS: 4097 items, it takes 1 to 4096$"):
        load_config(ReportConfig, [*names, "one more"], "report")


def test_a_value_may_begin_with_a_dash() -> None:
    for argv in (["--teacher", "-x"], ["--teacher=-x"]):
        assert load_config(COMMANDS["distill"], [*argv, "--out", "-y"], "distill").teacher == ("-x",)


@pytest.mark.parametrize("name", ["a\xa0b", "\u3000", "\u200b", "\udcff", "", "x" * 5000])
@pytest.mark.parametrize("key", ["teacher", "game", "data"])
def test_a_bad_name_is_told_alike_however_it_was_given(key: str, name: str, tmp_path: Path) -> None:
    # A non-breaking space is what a name copied from a web page has.
    path = tmp_path / "names.yaml"
    messages = set()
    for value in (name, [name], (name,)):
        with pytest.raises(UserError) as error:
            from_mapping(DistillConfig, {"teacher": "pong", "out": "x"} | {key: value})
        messages.add(str(error.value))
        if not isinstance(value, tuple):
            path.write_text(yaml.safe_dump({key: value}), encoding="utf-8")
            messages.add(distill_failure("--config", str(path)).removeprefix(f"{path}: "))
    for spelling in ([f"--{key}", name], [f"--{key}={name}"]):
        messages.add(distill_failure(*spelling).removeprefix("--"))
    assert len(messages) == 1, messages
    assert messages.pop().startswith(f"{key}: ")
    # Of several, the one that is bad is named, alike again.
    with pytest.raises(UserError) as error:
        from_mapping(DistillConfig, {"teacher": "pong", "out": "x"} | {key: ["pong", name]})
    assert f"--{error.value}" == distill_failure(f"--{key}", "pong", name)
    assert str(error.value).startswith(f"{key}[1]: ")


def test_a_list_of_one_is_told_as_its_value_is_whatever_it_holds() -> None:
    for bad, problem in ((0, "0 is out of range (at least 1e-12)"), ("hot", "'hot' is not a number or auto or null")):
        for value in (bad, [bad], (bad,)):
            with pytest.raises(UserError) as error:
                from_mapping(DistillConfig, {"loss": {"temperature": value}})
            assert str(error.value) == f"loss.temperature: {problem}"
    with pytest.raises(UserError, match=r"^teacher: a list is not text$"):
        from_mapping(DistillConfig, {"teacher": [["pong"]]})
    with pytest.raises(UserError, match=r"^teacher: 0 items, it takes 1 to 64$"):
        from_mapping(DistillConfig, {"teacher": []})
    for nothing in (None, [None], (None,)):
        assert from_mapping(DistillConfig, {"teacher": "pong", "out": "x", "game": nothing}).game is None


# Of spaces, only the plain one can be printed.
NAMES = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1, max_size=12)


def possible(field: Field) -> st.SearchStrategy[Any]:
    if field.positional:
        # A name that begins with a dash is an option to tyro.
        names = NAMES.filter(lambda name: not name.startswith(("-", "~")))
        return st.lists(names, min_size=1, max_size=5).map(tuple) if field.many else names
    if field.many:
        items = possible(dataclasses.replace(field, many=False, optional=False))
        # As above.
        items = items.filter(lambda item: not str(item).startswith("-"))
        return st.lists(items, min_size=1, max_size=5).map(tuple)
    if field.choices:
        values: st.SearchStrategy[Any] = st.sampled_from(field.choices)
    elif field.kind is bool:
        values = st.booleans()
    elif field.kind is str:
        # That ~ stands for the home directory is for test_fields.py.
        values = NAMES.filter(lambda name: name not in ("None", "null", "Null", "NULL") and not name.startswith("~"))
    elif field.kind is int:
        assert field.bounds is not None
        values = st.integers(int(field.bounds.low), int(field.bounds.high))
    else:
        assert field.bounds is not None
        values = st.floats(field.bounds.low, field.bounds.high)
    return values | st.none() if field.optional else values


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A command and possible values of some of its settings by dotted key, all required ones among them."""
    command = draw(st.sampled_from(sorted(COMMANDS)))
    known = fields(COMMANDS[command])
    required = [key for key, field in known.items() if field.required]
    keys = draw(st.lists(st.sampled_from(sorted(known)), max_size=8, unique=True))
    values = {key: draw(possible(known[key])) for key in dict.fromkeys(required + keys)}
    if command == "train-teacher":
        # Options of the other algorithm are refused.
        other = "dqn." if values.get("algorithm", "pqn") == "pqn" else "pqn."
        values = {key: value for key, value in values.items() if not key.startswith(other)}
    return command, values


def default_of(config_class: type, key: str) -> Any:
    """What a setting is where it is not given."""
    section, *names = key.split(".")
    field = next(field for field in dataclasses.fields(config_class) if field.name == section)
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return functools.reduce(getattr, names, value)


def nested(values: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        functools.reduce(lambda branch, section: branch.setdefault(section, {}), sections, tree)[name] = value
    return tree


def as_argv(command: str, values: dict[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        field = fields(COMMANDS[command])[key]
        if field.positional:
            # Left out, it is null.
            yield from value if field.many else () if value is None else (value,)
            continue
        option = "--" + key.replace("_", "-")
        section, dot, name = option[2:].rpartition(".")
        # Of a switch that may be null, tyro makes an option with a value.
        if isinstance(value, bool) and not field.optional:
            yield option if value else f"--{section}{dot}no-{name}"
        elif isinstance(value, tuple):
            yield option
            yield from map(str, value)
        else:
            yield f"{option}={value}"


@settings(deadline=None, max_examples=15)
@given(changes())
def test_file_and_command_line_and_tyro_alone_give_the_same_settings(change: tuple[str, dict[str, Any]]) -> None:
    command, values = change
    config_class, argv = COMMANDS[command], list(as_argv(command, values))
    try:
        config = from_mapping(config_class, nested(values))
    except UserError as error:  # Possible alone, impossible together: the same is said of the options.
        with pytest.raises(UserError) as other:
            load_config(config_class, argv, command)
        # Options are spelt with dashes, and what needs no name in capitals.
        said = str(other.value).lstrip("-").replace("-", "_").lower()
        assert said == str(error).replace("-", "_").lower()  # noqa: PT017
        return
    # What holds anyway may be said.
    idle = [
        key
        for key, value in values.items()
        if value is not None
        and value != default_of(config_class, key)
        and any(one.covers(key) for one in config.idle())
    ]
    if idle and not values.get("resume"):  # What was typed is not left without effect.
        with pytest.raises(UserError) as other:
            load_config(config_class, argv, command)
        assert str(other.value).partition(": ")[0] == "--" + idle[0].replace("_", "-")
        return
    assert config == load_config(config_class, argv, command)
    assert config == tyro.cli(config_class, args=argv)
    for key, value in values.items():
        assert functools.reduce(getattr, key.split("."), config) == value


@settings(deadline=None, max_examples=60)
@given(changes())
def test_what_is_written_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, change: tuple[str, dict[str, Any]]
) -> None:
    command, values = change
    try:
        config = from_mapping(COMMANDS[command], nested(values))
    except UserError:
        return
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert read_config(COMMANDS[command], path) == config
    assert load_config(COMMANDS[command], ["--config", str(path)], command) == config
    assert from_mapping(COMMANDS[command], to_mapping(config)) == config
    assert repr(read_config(COMMANDS[command], path)) == repr(config)


KEYS = sorted({part for config_class in COMMANDS.values() for key in fields(config_class) for part in key.split(".")})
WORDS = st.sampled_from(["net2", "kl", "pong", "cartpole", "64", "0", "-1", "1e-3", "None", "null", ".nan", "true"])
JUNK = WORDS | NAMES | st.none() | st.booleans() | st.integers() | st.floats() | st.integers(1, 9)
TREES = st.recursive(
    JUNK,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | NAMES | st.integers() | st.none(), inner, max_size=4)
    ),
    max_leaves=12,
)
TOKENS = st.one_of(
    WORDS,
    st.text(max_size=8),
    st.sampled_from(["--config", "--config=configs", "--help", "-h", "--", "-", "--no-resume", "--resume=1", "="]),
    st.sampled_from(sorted({key for config_class in COMMANDS.values() for key in fields(config_class)})).flatmap(
        lambda key: st.sampled_from([f"--{key}", f"--{key.replace('_', '-')}", f"--{key}=1", f"--{key}=", f"--{key}x"])
    ),
)


def assert_one_line(error: UserError) -> None:
    assert str(error).isprintable()
    assert 0 < len(str(error)) < 1000


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(COMMANDS)), TREES)
def test_any_yaml_is_settings_or_a_one_line_error(
    tmp_path_factory: pytest.TempPathFactory, command: str, tree: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    try:
        assert isinstance(read_config(COMMANDS[command], path), COMMANDS[command])
    except UserError as error:
        assert_one_line(error)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(COMMANDS)), st.booleans(), st.lists(TOKENS, max_size=6))
def test_any_command_line_is_settings_or_a_one_line_error_or_help(
    command: str, complete: bool, tokens: list[str]
) -> None:
    required = [
        token for key, field in fields(COMMANDS[command]).items() if field.required for token in (f"--{key}", "x")
    ]
    try:
        config = load_config(COMMANDS[command], required * complete + tokens, command)
        assert isinstance(config, COMMANDS[command])
    except UserError as error:
        assert_one_line(error)
    except SystemExit as stop:
        assert stop.code == 0  # noqa: PT017
        assert {"-h", "--help"} & set(tokens)


@pytest.mark.parametrize("spelling", [["--resume"], ["--resume", "auto"], ["--resume=auto"], ["--config", "auto.yaml"]])
def test_resume_auto_says_what_resume_says(
    spelling: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "auto.yaml").write_text("resume: auto\n")
    for command in ("distill", "sweep", "collect", "train-teacher"):
        required = ["--game", "pong"] if command == "train-teacher" else ["--teacher", "pong"]
        config = load_config(COMMANDS[command], [*required, *spelling, "--out", "run", "--seed", "3"], command)
        assert (config.resume, config.out, config.seed) == (True, "run", 3)
    with pytest.raises(UserError, match=r"--resume: takes no value, got 'never'"):
        load_config(COMMANDS["distill"], ["--resume", "never"], "distill")
