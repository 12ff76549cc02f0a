"""The command: what it says of bad input, and that it leaves everything as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from pd_jax import __version__
from pd_jax.cli import main
from pd_jax.config.commands import COMMANDS
from pd_jax.config.loading import load_config
from support.commands import QUICK_EVALUATION, contents, options, refusal, run, virtual_devices, write_teacher

LOSSES = "kl, nll, mse, reverse_kl, jsd, expected_entropy, huber, advantage_mse, advantage_huber"
MLP = ["--student.network", "mlp"]
LOOKS = {
    "lineage": ("config", "search"),
    "explain": ("config", "run", "language"),
    "configs": ("config", "out", "json"),
    "doctor": ("config", "out", "timeout", "json"),
    "completion": ("config",),
    "video": ("config", "seed", "out", "run", "lanes"),
    "push": ("config", "out", "run", "to", "send"),
}
"""Options of the commands that leave no run."""


def distill(out: Path, *more: str) -> list[str]:
    """A distillation that nothing is wrong with, but for ``more``."""
    return ["distill", "--teacher", "cartpole", "--out", str(out), *MLP, *more]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_option_and_needs_no_jax(command: str) -> None:
    code = "import sys; from pd_jax.cli import main; c = main(); print('jax' in sys.modules); raise SystemExit(c)"
    ended = run([sys.executable, "-c", code, command, "--help"], COLUMNS="200")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.endswith("\nFalse\n"), "no JAX for a page of help"
    assert f"usage: pd-jax {command} " in ended.stdout
    own = {"collect": "env.num-lanes", "report": "out"}.get(command, "evaluation.episodes")
    # What only looks has nothing to go on with.
    for name in LOOKS.get(command, ("config", "seed", "out", "resume", own)):
        assert f"--{name}" in ended.stdout


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_without_a_command_names_the_commands(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([option]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(f"  {command} " in out for command in COMMANDS)


def test_no_command_prints_the_usage_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: pd-jax COMMAND ")


def test_the_installed_command_prints_its_version() -> None:
    script = Path(sys.executable).with_name("pd-jax")
    for command in ([str(script)], [sys.executable, "-m", "pd_jax"]):
        ended = run([*command, "--version"])
        assert (ended.code, ended.stdout, ended.stderr) == (0, f"pd-jax {__version__}\n", "")


def test_a_reader_who_has_gone_is_not_told_of_a_traceback() -> None:
    shell = f"set -o pipefail; {sys.executable} -m pd_jax distill --help | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.returncode in (0, 1)


def test_a_full_stdout_is_told_of_in_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pd_jax", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.stderr.startswith("pd-jax: No space left on device\n")
    assert "Traceback" not in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["distill"], "; --resume goes on from the last checkpoint"),
        (["evaluate"], ""),
        (["report"], ""),
        (["teachers", "show", "pong"], ""),
    ],
)
def test_ctrl_c_at_the_wrong_moment_is_one_line(
    argv: list[str], hint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pd_jax.config.loading.load_config", interrupt)
    assert main(argv) == 128 + signal.SIGINT
    assert capsys.readouterr().err == f"pd-jax {' '.join(argv[:2])}: stopped at once{hint}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_wrong_moment_is_one_line(
    number: signal.Signals, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(number)
    monkeypatch.setattr("pd_jax.config.loading.load_config", lambda *_: os.kill(os.getpid(), number))
    assert main(["distill"]) == 128 + number
    assert capsys.readouterr().err == f"pd-jax distill: stopped by {number.name}; add --resume to go on\n"
    assert signal.getsignal(number) is before


def test_a_signal_that_others_turn_into_an_error_of_theirs_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(*_: Any) -> Any:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as interrupted:
            raise SystemError("AST constructor recursion depth mismatch (before=192, after=213)") from interrupted

    monkeypatch.setattr("pd_jax.config.loading.load_config", parse)
    assert main(["distill"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "pd-jax distill: stopped by SIGTERM; add --resume to go on\n"


class SignalsItselfAsItGoes:
    """Python drops what is raised while it is in a destructor."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_drops_ends_the_run_all_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_and_lose(*arguments: Any) -> Any:
        SignalsItselfAsItGoes()
        return load_config(*arguments)

    monkeypatch.setattr("pd_jax.config.loading.load_config", load_and_lose)
    argv = distill(tmp_path / "run", *options(QUICK_EVALUATION))
    assert main(argv) == 128 + signal.SIGTERM
    assert capfd.readouterr().err.endswith("pd-jax distill: stopped by SIGTERM; add --resume to go on\n")
    monkeypatch.undo()
    # The next command in this process owes the last one's signal nothing.
    assert main(["evaluate", *options(QUICK_EVALUATION | {"teacher": "cartpole"})]) == 0


GAMES = (
    "(beam_rider, breakout, enduro, freeway, ms_pacman, pong, qbert, riverraid, seaquest, space_invaders, cartpole, "
    "acrobot, lunarlander, half_cheetah_v5, cartpole_swingup_v1, or another game or task by its EnvPool id)"
)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        pytest.param(
            ["distil"],
            "pd-jax: 'distil' is not a command; did you mean 'distill'? (train-teacher, collect, distill, online, "
            "sweep, evaluate, export, audit, video, monitor, renew, lineage, plan, explain, push, report, teachers, "
            "configs, doctor, completion)",
            id="command",
        ),
        pytest.param(
            ["train-teacher", "--game", "pogn", "--out", "{out}"],
            f"pd-jax train-teacher: --game: 'pogn' is not a game; did you mean 'pong'? {GAMES}",
            id="game",
        ),
        pytest.param(
            distill(Path("{out}"), "--game", "cartpol"),
            f"pd-jax distill: --game: 'cartpol' is not a game; did you mean 'cartpole'? {GAMES}",
            id="game to distil",
        ),
        pytest.param(
            distill(Path("{out}"), "--student.netwrok", "net1"),
            "pd-jax distill: --student.netwrok: no such option; did you mean '--student.network'?",
            id="option",
        ),
        pytest.param(
            ["distill", "--teacher", "cartpole", "--out", "{out}", "--student.network", "net9"],
            "pd-jax distill: --student.network: 'net9' is not a network; did you mean 'net3'? "
            "(dqn, net1, net2, net3, multi3, multi10, mlp, mlp_bits)",
            id="network",
        ),
        pytest.param(
            distill(Path("{out}"), "--learner.batch-size", "many"),
            "pd-jax distill: --learner.batch-size: 'many' is not a whole number",
            id="type",
        ),
        pytest.param(
            distill(Path("{out}"), "--loss.temperature", "0"),
            "pd-jax distill: --loss.temperature: 0 is out of range (at least 1e-12)",
            id="temperature 0",
        ),
        pytest.param(
            distill(Path("{out}"), "--loss.temperature=-0.5"),
            "pd-jax distill: --loss.temperature: -0.5 is out of range (at least 1e-12)",
            id="temperature below 0",
        ),
        pytest.param(
            distill(Path("{out}"), "--behaviour.policy", "students"),
            "pd-jax distill: --behaviour.policy: 'students' is not a behaviour; did you mean 'student'? "
            "(teacher, student, mixture)",
            id="behaviour",
        ),
        pytest.param(
            distill(Path("{out}"), "--behaviour.student-share-end", "1.5"),
            "pd-jax distill: --behaviour.student-share-end: 1.5 is out of range (at most 1)",
            id="share",
        ),
        pytest.param(
            distill(Path("{out}"), "--learner.batch-size", "4096", "--replay.capacity", "2048"),
            "pd-jax distill: --learner.batch-size: 4096 is more than replay.capacity (2048)",
            id="batch",
        ),
        pytest.param(
            distill(Path("{out}"), "--env.num-lanes", "16", "--learner.num-devices", "3"),
            "pd-jax distill: --env.num-lanes: 16 does not split evenly over 3 devices; 15 and 18 do",
            id="lanes",
        ),
        pytest.param(
            distill(Path("{out}"), "--learner.num-devices", "32"),
            "pd-jax distill: learner.num_devices: 32 devices wanted, 1 cpu found",
            id="devices",
        ),
        pytest.param(
            ["distill", "--teacher", "cartpol", "--out", "{out}", *MLP],
            "pd-jax distill: 'cartpol' is neither a bundled teacher nor a file; did you mean 'cartpole'? (bundled: ",
            id="teacher's name",
        ),
        pytest.param(
            ["distill", "--teacher", "{tmp}/none.safetensors", "--out", "{out}"],
            "pd-jax distill: {tmp}/none.safetensors: no such file",
            id="teacher's file",
        ),
        pytest.param(
            ["evaluate", "--teacher", "{tmp}", "--out", "{out}"],
            "pd-jax evaluate: {tmp}: is a directory, not a file",
            id="teacher is a directory",
        ),
        pytest.param(
            distill(Path("{out}"), "--game", "acrobot"),
            "pd-jax distill: teacher cartpole: plays cartpole with 2 actions; acrobot has 3",
            id="actions",
        ),
        pytest.param(
            ["collect", "--teacher", "cartpole", "--out", "{out}", "--game", "breakout"],
            "pd-jax collect: teacher cartpole: plays cartpole with 2 actions; breakout has 4",
            id="actions to collect",
        ),
        pytest.param(
            ["evaluate", "--teacher", "cartpole", "--out", "{out}", "--game", "pong"],
            "pd-jax evaluate: teacher cartpole: plays cartpole with 2 actions; pong has 6",
            id="actions to evaluate",
        ),
        pytest.param(
            ["distill", "--teacher", "cartpole", "--out", "{out}", "--student.network", "net2"],
            "pd-jax distill: student.network: 'net2' sees frames, and cartpole has none; use 'mlp'",
            id="network for frames",
        ),
        pytest.param(
            distill(Path("{out}"), "--data", "{tmp}/none"),
            "pd-jax distill: {tmp}/none: no such data set",
            id="no data set",
        ),
        pytest.param(
            distill(Path("{out}"), "--data", "{tmp}"),
            "pd-jax distill: {tmp}: not a data set: it has no dataset.json",
            id="not a data set",
        ),
        pytest.param(
            ["evaluate", "--run", "{tmp}/none", "--out", "{out}"],
            "pd-jax evaluate: {tmp}/none: is not a run directory: there is no such directory",
            id="no run",
        ),
        pytest.param(
            ["evaluate", "--out", "{out}"],
            "pd-jax evaluate: teacher: missing, and run too; give --teacher NAME_OR_FILE, --run DIR or both",
            id="nothing to evaluate",
        ),
        pytest.param(
            ["distill", "--config", "{tmp}/none.yaml"],
            "pd-jax distill: {tmp}/none.yaml: ",
            id="no configuration",
        ),
        pytest.param(
            distill(Path("/proc/nowhere")),
            "pd-jax distill: /proc/nowhere: cannot be made: No such file or directory",
            id="a directory that cannot be",
        ),
        pytest.param(
            ["collect", "--teacher", "cartpole", "--out", "/proc/nowhere"],
            "pd-jax collect: /proc/nowhere: cannot be made: No such file or directory",
            id="a recording that cannot be",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line_before_anything_is_made(
    argv: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fill(text: str) -> str:
        return text.replace("{out}", str(tmp_path / "out")).replace("{tmp}", str(tmp_path))

    assert refusal(capfd, *map(fill, argv)).startswith(fill(message))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("studnet: {network: mlp}", "studnet: no such key; did you mean 'student'? ("),
        ("student: {netwrok: mlp}", "student.netwrok: no such key; did you mean 'network'? ("),
        ("learner: {batch_size: 32.5}", "learner.batch_size: 32.5 is not a whole number"),
        ("student: mlp", "student: 'mlp' is not a mapping of settings ("),
        ("loss: {temperature: 0.0}", "loss.temperature: 0.0 is out of range (at least 1e-12)"),
        ("loss: {kind: kll}", f"loss.kind: 'kll' is not a loss; did you mean 'kl'? ({LOSSES})"),
        ("replay: {capacity: 1}", "learner.batch_size: 32 is more than replay.capacity (1)"),
        ("a: [", "line 1: "),
    ],
)
def test_bad_settings_in_a_file_are_named_with_file_key_and_value(
    text: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "bad.yaml", tmp_path / "out"
    file.write_text(text)
    refused = refusal(capfd, "distill", "--config", str(file), "--teacher", "cartpole", "--out", str(out))
    assert message in refused
    assert refused.startswith((f"pd-jax distill: {file}: ", "pd-jax distill: learner.batch_size: "))
    assert not out.exists()


def test_damaged_and_foreign_teacher_files_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = write_teacher(tmp_path / "whole.safetensors", "cartpole").read_bytes()
    foreign = safetensors.numpy.save({"weight": safetensors.numpy.load(whole)["head/output/kernel"]})
    files = {
        "cut short": (whole[:-40], "damaged or cut short"),
        "cut shorter": (whole[:20], "not a pd_jax teacher, or cut short"),
        "empty": (b"", "is empty"),
        "text": (b"these are no weights, but a text of some length", "not a pd_jax teacher"),
        "someone else's": (foreign, "not a pd_jax teacher (a safetensors file without pd_jax metadata)"),
        "one bit": (whole[:-1] + bytes([whole[-1] ^ 1]), "damaged: its weights are not those that were saved"),
    }
    for name, (content, message) in files.items():
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(content)
        for command in (["distill", *MLP], ["collect"], ["evaluate"]):
            refused = refusal(capfd, *command, "--teacher", str(file), "--out", str(tmp_path / "out"))
            assert refused.startswith(f"pd-jax {command[0]}: {file}: {message}")
    assert not (tmp_path / "out").exists()


def test_a_teacher_whose_action_set_is_not_its_games_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    teacher = write_teacher(tmp_path / "t.safetensors", "cartpole", num_actions=3, action_names=("L", "R", "NOOP"))
    message = refusal(capfd, "distill", "--teacher", str(teacher), "--out", str(tmp_path / "out"), *MLP)
    assert message == f"pd-jax distill: {teacher}: has 3 actions, cartpole has 2"
    assert not (tmp_path / "out").exists()


def test_a_replay_larger_than_the_machine_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    teacher, out = write_teacher(tmp_path / "pong.safetensors", "pong"), tmp_path / "out"
    argv = ["distill", "--teacher", str(teacher), "--out", str(out), "--replay.capacity", "2_000_000_000"]
    # 84 x 84 bytes, six float32 and a byte of flags a step.
    size = 2_000_000_000 * (84 * 84 + 6 * 4 + 1) / 2**30
    message = f"pd-jax distill: replay.capacity: 2000000000 steps of pong take {size:,.1f} GiB; in all the run takes "
    assert refusal(capfd, *argv).startswith(message)
    assert not out.exists()


def test_a_data_set_that_does_not_fit_the_run_is_refused(
    recording: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    acrobot = str(write_teacher(tmp_path / "acrobot.safetensors", "acrobot"))
    other = str(write_teacher(tmp_path / "other.safetensors", "cartpole"))
    before = contents(recording)

    def refused(teacher: str, *more: str) -> str:
        argv = ["--teacher", teacher, "--data", str(recording), "--out", str(out), *MLP, *more]
        return refusal(capfd, "distill", *argv).removeprefix(f"pd-jax distill: {recording}: ")

    assert refused(acrobot) == "recorded with task 'cartpole', and the run has task 'acrobot'"
    assert refused(other).startswith("was recorded with the teacher 'cartpole-mlp' of another fingerprint (")
    assert refused("cartpole", "--schedule.rollout-length", "129").startswith("holds 128 steps a lane, less than one ")
    assert refused("cartpole", "--learner.batch-size", "2048").startswith("holds 1024 steps, less than learner.batch")
    message = refused("cartpole", "--replay.capacity", "255")
    assert message == f"pd-jax distill: replay.capacity: 255 holds less than one rollout of {recording}, 256 steps"
    assert not out.exists()
    assert contents(recording) == before


def test_the_directory_of_another_run_is_never_touched(
    finished_run: Path,
    recording: Path,
    recorded_run_options: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = contents(finished_run), contents(recording)
    same = options(recorded_run_options | QUICK_EVALUATION | {"out": finished_run})

    def refused(*argv: str) -> str:
        return refusal(capfd, *argv).removeprefix(f"pd-jax {argv[0]}: {finished_run}: ")

    assert refused("distill", *same) == "holds a finished run; add --resume to continue it, or choose another --out"
    for more in ([], ["--resume"]):
        message = refused("distill", *same, "--seed", "7", *more)
        assert message == "holds a different run: seed is 0 there and 7 here; choose another --out"
        message = refused("collect", "--teacher", "cartpole", "--out", str(finished_run), *more)
        assert message == "holds a run of pd-jax distill, not collect; choose another --out"
        message = refused("train-teacher", "--game", "pong", "--out", str(finished_run), *more)
        assert message == "holds a run of pd-jax distill, not train-teacher; choose another --out"
        message = refused("evaluate", "--teacher", "cartpole", "--out", str(finished_run), *more)
        assert message == "holds a run of pd-jax distill, not evaluate; choose another --out"
        message = refusal(capfd, *distill(recording, *more))
        assert (
            message == f"pd-jax distill: {recording}: holds a run of pd-jax collect, not distill; choose another --out"
        )
    assert (contents(finished_run), contents(recording)) == before


def test_a_directory_of_other_things_and_a_file_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear all,")
    for command in (["distill", *MLP], ["collect"], ["evaluate"]):
        argv = [*command, "--teacher", "cartpole", "--out"]
        message = refusal(capfd, *argv, str(tmp_path))
        assert message.endswith(f"{tmp_path}: is not empty and holds no run (letter.txt); choose another --out")
        assert refusal(capfd, *argv, str(file)).endswith(f"{file}: is a file; --out takes a directory")
    assert contents(tmp_path) == {"letter.txt": b"Dear all,"}


SEVERAL_DEVICES = """
import sys
from pd_jax.cli import main
argv, lanes = sys.argv[2:], sys.argv[1].split(",")
raise SystemExit(" ".join(str(main([*argv, "--env.num-lanes", number])) for number in lanes))
"""


def test_eight_devices_share_a_run_and_refuse_lanes_that_do_not_divide(tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = {
        "learner.updates-per-call": 10,
        "schedule.rounds": 2,
        "schedule.steps-per-round": 256,
        "schedule.updates-per-round": 20,
        "replay.capacity": 1024,
    } | QUICK_EVALUATION
    ended = run(
        [sys.executable, "-c", SEVERAL_DEVICES, "12,16", *distill(out, *options(settings))],
        **virtual_devices(8),
    )
    # The exit codes of the two runs, which Python prints as the reason of the process's end.
    assert ended.stderr.endswith("\n2 0\n"), ended.stderr
    problem = "env.num_lanes: 12 does not split evenly over 8 devices; 8 and 16 do"
    assert ended.stderr.startswith(f"pd-jax distill: {problem}\n")
    assert "cartpole" in ended.stdout
    assert '"devices": 8' in (out / "summary.json").read_text()
