"""Settings without effect: an option is refused, a file and a run that is gone on with are warned of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pd_jax.config.commands import COMMANDS, TABLE, TEACHERS
from pd_jax.config.fields import fields
from pd_jax.config.loading import load_config, to_mapping, to_yaml
from pd_jax.config.yaml import parse_scalar, write_yaml
from pd_jax.errors import UserError

ROOT = Path(__file__).parents[2]
ALL = {**COMMANDS, **{f"teachers {name}": command.settings for name, command in TEACHERS.commands.items()}}
REQUIRED: dict[str, list[str]] = {
    "train-teacher": ["--game", "cartpole", "--network", "mlp", "--out=x"],
    "collect": ["--teacher", "cartpole", "--out=x"],
    "distill": ["--teacher", "cartpole", "--student.network", "mlp", "--out=x"],
    "online": ["--game", "cartpole", "--student.network", "mlp", "--out=x"],
    "sweep": ["--teacher", "cartpole", "--student.network", "mlp", "--out=x"],
    "evaluate": ["--teacher", "cartpole"],
    "export": ["--teacher", "cartpole", "--out=x"],
    "audit": ["--policy", "cartpole", "--teacher", "cartpole", "--game", "cartpole", "--out=x"],
    "video": ["--run=x"],
    "plan": ["--topology", "v5e:2x2", "--game", "pong"],
    "report": ["runs"],
    "teachers show": ["pong"],
    "teachers import": ["agent.zip", "--game", "pong", "--out=x.safetensors"],
}
ATARI = ["env.sticky_action_probability=0.25", "env.max_noops=5"]
SHARES = ["student_share_start=0.1", "student_share_end=0.5", "student_share_change_fraction=1.0"]
STUDENTS = [
    ("loss.kind=nll", "loss.temperature=0.1"),
    ("loss.kind=mse", "loss.temperature=0.1"),
    ("loss.kind=huber", "loss.temperature=auto"),
    ("loss.kind=nll loss.weights=action_gap", "loss.temperature=auto"),
    ("", "loss.target_entropy=0.2"),
    ("loss.kind=advantage_mse loss.temperature=0.1", "loss.target_entropy=0.2"),
    ("", "loss.beta=0.2"),
    ("loss.kind=jsd", "loss.delta=2.0"),
    ("loss.kind=mse", "loss.delta=2.0"),
    ("learner.optimizer=adam", "learner.rmsprop_decay=0.9"),
    ("learner.optimizer=adam", "learner.rmsprop_epsilon=0.1"),
    ("", "learner.games=alternating"),
    ("student.network=mlp", "student.head_hidden=5"),
    ("", "student.normalisation.clip=5.0"),
    ("student.normalisation.source=none", "student.normalisation.epsilon=0.1"),
    *(("", key) for key in ATARI),
]
DISTILLATIONS = [
    *STUDENTS,
    ("data=recording", "epsilon=0.1"),
    ("data=recording", "env.num_lanes=64"),
    ("data=recording", "env.lanes=64"),
    ("env.lanes=32", "env.num_lanes=64"),
    *(("", f"behaviour.{share}") for share in SHARES),
    *(("behaviour.policy=student", f"behaviour.{share}") for share in SHARES),
    ("actors.overlap=false", "actors.queue_mib=7"),
    ("", "evaluation.progress_episodes=5"),
    ("", "checkpoint.max_roll_backs=5"),
    ("", "profile_seconds=2.0"),
    ("", "accept_other_teacher=true"),
    ("", "data_order=shuffled"),
]
IDLE: list[tuple[str, str, str]] = [
    *(("distill", *case) for case in DISTILLATIONS),
    *(("online", *case) for case in STUDENTS),
    *(("sweep", *case) for case in DISTILLATIONS if case[0] != "behaviour.policy=student" and "data" not in case[0]),
    ("distill", "game=CartPole-v1", "env.max_noops=5"),
    ("sweep", "together=true record=1024", "jobs=2"),
    ("online", "teacher_network=net1 game=pong student.network=net2", "mlp_hidden=8"),
    ("online", "", "pqn.episodic_life=false"),
    *(
        ("online", "teacher_snapshots=a,b", key)
        for key in ("teacher_network=mlp", "mlp_hidden=8", "layer_norm=true", "pqn.total_steps=64")
    ),
    ("online", "", "profile_seconds=2.0"),
    ("sweep", "grid.losses=kl", "loss.kind=mse"),
    ("sweep", "grid.losses=nll", "loss.temperature=0.1"),
    ("sweep", "grid.losses=nll,huber", "loss.beta=0.2"),
    ("sweep", "grid.temperatures=0.1", "loss.temperature=0.2"),
    ("sweep", "grid.temperatures=0.1", "loss.target_entropy=0.2"),
    ("sweep", "grid.learning_rates=0.1", "learner.learning_rate=0.2"),
    ("train-teacher", "", "dqn.batch_size=8"),
    ("train-teacher", "algorithm=dqn", "pqn.epochs=1"),
    ("train-teacher", "algorithm=dqn dqn.optimizer=adam", "dqn.rmsprop_decay=0.5"),
    ("train-teacher", "algorithm=dqn dqn.optimizer=adam", "dqn.rmsprop_epsilon=0.5"),
    ("train-teacher", "algorithm=dqn", "dqn.adam_epsilon=0.5"),
    ("train-teacher", "algorithm=dqn", "dqn.games=alternating"),
    ("train-teacher", "game=pong network=net1", "mlp_hidden=8"),
    ("train-teacher", "", "pqn.episodic_life=false"),
    ("train-teacher", "", "guidance.fade=return_ratio"),
    ("train-teacher", "", "guidance.loss.temperature=0.1"),
    ("train-teacher", "guidance.teacher=cartpole", "guidance.loss.beta=0.3"),
    ("train-teacher", "guidance.teacher=cartpole guidance.loss.kind=mse", "guidance.learner_temperature=0.1"),
    ("train-teacher", "evaluation.every_steps=0", "evaluation.progress_episodes=5"),
    *(("train-teacher", "", key) for key in ATARI),
    *(("collect", "", key) for key in ATARI),
    *(("evaluate", "", key) for key in ATARI),
    ("evaluate", "", "profile_seconds=2.0"),
    *(("export", "", key) for key in ATARI),
    ("export", "format=stablehlo", "opset=18"),
    ("export", "evaluation.episodes=0", "evaluation.seed_offset=1"),
    ("export", "evaluation.episodes=0", "proof.max_loss=0.5"),
    *(("audit", "", key) for key in ATARI),
    ("audit", "", "outside.sticky_action_probability=0.5"),
    ("audit", "", "outside.max_noops=5"),
    ("audit", "", "outside.modes=1"),
    ("audit", "", "outside.difficulties=1"),
    ("audit", "", "outside.occlusion=0.5"),
    ("audit", "", "bounds.reference=0.5"),
    ("video", "gif=false", "gif_start=1.0"),
    ("video", "gif=false", "gif_length=5.0"),
    ("audit", "outside.episodes=0", "outside.noise=0.5"),
    ("audit", "outside.episodes=0", "bounds.outside=0.5"),
    ("plan", "loss.kind=mse", "loss.temperature=0.1"),
    ("plan", "", "student.mlp_hidden=8"),
    ("teachers show", "", "epsilon=0.1"),
    ("teachers show", "", "seed=1"),
    ("teachers import", "", "epsilon=0.1"),
    ("teachers import", "", "seed=1"),
]
# What gives each of some settings its effect.
EFFECTIVE: list[tuple[str, str, str]] = [
    ("distill", "", "loss.temperature=0.1"),
    ("distill", "loss.kind=nll loss.weights=entropy", "loss.temperature=auto"),
    ("distill", "loss.kind=advantage_huber", "loss.target_entropy=0.2"),
    ("distill", "loss.kind=advantage_huber", "loss.delta=2.0"),
    ("distill", "loss.kind=huber", "loss.delta=2.0"),
    ("distill", "loss.kind=jsd", "loss.beta=0.2"),
    ("online", "loss.temperature=auto game=cartpole student.network=mlp", "loss.target_entropy=0.2"),
    ("sweep", "grid.temperatures=0.1,auto", "loss.target_entropy=0.2"),
    ("sweep", "grid.losses=kl,jsd", "loss.beta=0.2"),
    ("distill", "", "learner.rmsprop_decay=0.9"),
    ("distill", "behaviour.policy=mixture", "behaviour.student_share_end=0.5"),
    ("distill", "", "student.mlp_hidden=8"),
    ("distill", "", "env.num_lanes=64"),
    ("distill", "", "epsilon=0.1"),
    # Scores are played as the section env says, whatever learning is from.
    ("distill", "data=recording teacher=pong student.network=net2", "env.sticky_action_probability=0.25"),
    ("distill", "data=recording", "env.num_threads=1"),
    ("distill", "data=recording", "schedule.rollout_length=16"),
    ("distill", "evaluation.every_rounds=1", "evaluation.progress_episodes=5"),
    ("distill", "checkpoint.on_divergence=roll_back", "checkpoint.max_roll_backs=5"),
    ("distill", "profile=true", "profile_seconds=2.0"),
    ("distill", "teacher=pong student.network=multi3", "student.head_hidden=5"),
    ("distill", "teacher=mine.zip student.network=net2", "env.max_noops=5"),
    ("sweep", "grid.losses=kl", "loss.temperature=0.1"),
    ("sweep", "record=1000", "epsilon=0.1"),
    ("sweep", "grid.seeds=3", "seed=1"),
    ("train-teacher", "game=pong network=net1", "env.max_noops=5"),
    ("train-teacher", "algorithm=dqn", "dqn.rmsprop_decay=0.5"),
    ("evaluate", "out=x", "resume=true"),
    ("export", "", "opset=18"),
    ("export", "", "evaluation.seed_offset=1"),
    ("audit", "", "outside.noise=0.5"),
    ("audit", "reference=cartpole", "bounds.reference=0.5"),
    ("video", "", "gif_length=5.0"),
    ("teachers show", "states=10", "epsilon=0.1"),
    ("teachers import", "evaluate_episodes=10", "seed=1"),
    # Said to be nothing, which undoes what a file says.
    ("distill", "loss.kind=mse", "loss.temperature=null"),
]


def argv_of(command: str, *assignments: str) -> list[str]:
    """``"loss.kind=mse"`` and others of its kind as options, after what the command needs."""
    argv = list(REQUIRED[command])
    for key, _, value in (word.partition("=") for text in assignments for word in text.split()):
        option = f"--{key.replace('_', '-')}"
        section, dot, name = option.removeprefix("--").rpartition(".")
        field = fields(ALL[command])[key]
        if field.kind is bool and not field.optional:
            argv.append(option if value == "true" else f"--{section}{dot}no-{name}")
        else:
            argv += [option, *value.split(",")]
    return argv


@pytest.mark.parametrize(("command", "because", "idle"), IDLE)
def test_an_option_without_effect_is_refused_and_in_a_file_it_is_a_warning(
    command: str, because: str, idle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = idle.partition("=")[0]
    with pytest.raises(UserError) as error:
        load_config(ALL[command], argv_of(command, because, idle), command)
    option, _, why = str(error.value).partition(": ")
    assert option == f"--{key.replace('_', '-')}"
    mapping = to_mapping(load_config(ALL[command], argv_of(command, because), command))
    *sections, name = key.split(".")
    section = mapping
    for part in sections:
        section = section[part]
    value = parse_scalar(idle.partition("=")[2])
    section[name] = [value] if fields(ALL[command])[key].many else value
    file = tmp_path / "settings.yaml"
    file.write_text(write_yaml(mapping))
    # All settings are there, and one line is about the one that was changed.
    load_config(ALL[command], ["--config", str(file)], command)
    assert capsys.readouterr().err == f"warning: {file}: {key}: {why}\n"


def test_a_file_that_contradicts_itself_is_warned_of_and_one_that_an_option_overrules_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("teacher: cartpole\nout: x\nstudent: {network: mlp}\nloss: {kind: mse, temperature: 0.1}\n")
    config: Any = load_config(COMMANDS["distill"], ["--config", str(file)], "distill")
    assert (config.loss.kind, config.loss.temperature) == ("mse", (0.1,))
    warning = f"warning: {file}: loss.temperature: is of policies and advantages, and loss.kind is mse\n"
    assert capsys.readouterr().err == warning
    load_config(COMMANDS["distill"], ["--config", str(file), "--loss.kind", "nll"], "distill")
    assert capsys.readouterr().err == ""


def test_a_grid_leaves_the_one_network_of_a_sweep_without_effect() -> None:
    argv = ["--teacher", "pong", "--out=x", "--grid.networks", "net2", "--student.network", "net1"]
    with pytest.raises(UserError, match=r"^--student.network: grid.networks has those of all cells$"):
        load_config(COMMANDS["sweep"], argv, "sweep")


@pytest.mark.parametrize(("command", "because", "used"), EFFECTIVE)
def test_an_option_with_an_effect_is_taken(
    command: str, because: str, used: str, capsys: pytest.CaptureFixture[str]
) -> None:
    load_config(ALL[command], argv_of(command, because, used), command)
    assert capsys.readouterr().err == ""


def test_a_run_that_began_with_such_an_option_goes_on_and_is_warned(capsys: pytest.CaptureFixture[str]) -> None:
    argv = argv_of("distill", "loss.kind=mse loss.temperature=0.1")
    config: Any = load_config(COMMANDS["distill"], [*argv, "--resume"], "distill")
    assert config.loss.temperature == (0.1,)
    warning = "warning: --loss.temperature: is of policies and advantages, and loss.kind is mse\n"
    assert capsys.readouterr().err == warning


@pytest.mark.parametrize("file", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_our_own_files_have_no_setting_without_effect(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = file.read_text().splitlines()[0].partition(" --")[0].removeprefix("# pd-jax ")
    group, _, own = command.partition(" ")
    entry: Any = TABLE[group]
    config_class = entry.commands[own].settings if own else entry.settings
    required = ["--run", "runs/x"] if command == "evaluate" else []
    config: Any = load_config(config_class, ["--config", str(file), *required], command)
    assert capsys.readouterr().err == ""
    # Nor has what a run writes of itself, which has all settings.
    whole = tmp_path / "config.yaml"
    whole.write_text(to_yaml(config))
    load_config(config_class, ["--config", str(whole)], command)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("evaluate", ["--env.max-noops", "30"]),
        ("collect", ["--env.sticky-action-probability", "0"]),
        ("distill", ["--learner.games", "together"]),
        ("distill", ["--no-accept-other-teacher"]),
        ("distill", ["--evaluation.every-rounds", "0", "--evaluation.progress-episodes", "10"]),
        ("evaluate", ["--no-resume"]),
    ],
)
def test_an_option_that_says_what_holds_anyway_passes(
    command: str, option: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    load_config(ALL[command], [*REQUIRED[command], *option], command)
    assert capfd.readouterr().err == ""


def test_the_default_beside_a_file_that_leaves_it_without_effect_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("env: {lanes: [8]}\n")
    with pytest.raises(UserError, match=r"--env\.num-lanes"):
        load_config(ALL["distill"], [*REQUIRED["distill"], "--config", str(path), "--env.num-lanes", "32"], "distill")
