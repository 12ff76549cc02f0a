"""Settings from files and command lines: what is right goes through exactly, what is wrong gets one clear line."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest
import yaml

from pd_jax.config.base import CommandConfig
from pd_jax.config.commands import COMMANDS
from pd_jax.config.distill import DistillConfig
from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.config.fields import Bounds, Field, check_value, fields
from pd_jax.config.loading import from_mapping, load_config, read_config, to_mapping
from pd_jax.config.report import ReportConfig
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.errors import UserError

REQUIRED = ["--teacher", "pong", "--out", "runs/x"]
TOP_KEYS = (
    "seed, profile, profile_seconds, track, track_project, protocol, teacher, out, resume, accept_other_teacher, "
    "init_from, game, data, data_order, epsilon, credibility, behaviour, env, actors, student, loss, learner, "
    "parts, replay, schedule, evaluation, checkpoint, hosts, video, add_teacher, add_data, adding"
)
STUDENT_KEYS = (
    "network, mlp_hidden, channels, hidden, head_hidden, layer_norm, compute_dtype, actions, normalisation, "
    "quantisation, memory, memory_size, extra_hidden, joint_hidden, observation"
)
LOSSES = "kl, nll, mse, reverse_kl, jsd, expected_entropy, huber, advantage_mse, advantage_huber"
NETWORKS = "(dqn, net1, net2, net3, multi3, multi10, mlp, mlp_bits)"


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
        (["--learner.average-decay", "1"], "--learner.average-decay: 1 is out of range (at most 0.9999999)"),
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
