"""Peers beside ours: what is counted, what is compared, and what is said when one cannot run.

Real checkouts of the peers are no part of the tests. Made-up ones, with the names that the loops use, stand for them.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import Path

import pytest

from benchmarks.rivals import peers, running
from benchmarks.rivals.running import OurSchedule, Peer, Phase
from benchmarks.rivals.window import Window
from pd_jax.errors import UserError

GAME = """
import gymnasium, numpy

class Pong(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, (210, 160, 3), numpy.uint8)
    action_space = gymnasium.spaces.Discrete(6)
    ale = type("Lives", (), {"lives": lambda self: 0})()

    def get_action_meanings(self):
        return ["NOOP"] * 6

    def reset(self, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}

gymnasium.register("PongNoFrameskip-v4", entry_point=lambda: Pong())
"""
OPENCV = """
import types, numpy
INTER_AREA = COLOR_RGB2GRAY = 0
ocl = types.SimpleNamespace(setUseOpenCL=lambda use: None)
cvtColor = lambda frame, code: frame[..., 0]
resize = lambda frame, size, interpolation: numpy.ascontiguousarray(frame[:84, :84])
"""
QDAGGER = """
from dataclasses import dataclass
import sys, time
import tyro
import torch
from huggingface_hub import hf_hub_download
from rich.progress import track
from cleanrl.dqn_atari import QNetwork as TeacherModel
from cleanrl_utils.buffers import ReplayBuffer
from cleanrl_utils.evals.dqn_eval import evaluate

@dataclass
class Args:
    env_id: str = "BreakoutNoFrameskip-v4"
    buffer_size: int = 1000000
    batch_size: int = 32
    num_envs: int = 1
    train_frequency: int = 3

class QNetwork(torch.nn.Module):
    def __init__(self, env):
        raise AssertionError("the student is to be another one")

if __name__ == "__main__":
    args = tyro.cli(Args)
    assert (args.env_id, args.batch_size, evaluate("file")) == ("PongNoFrameskip-v4", 8, [21.0])
    path = hf_hub_download(repo_id="cleanrl/a-teacher", filename="dqn_atari.cleanrl_model")
    teacher = torch.load(path)
    envs = type("Envs", (), {"single_action_space": type("Space", (), {"n": 6})})
    TeacherModel(envs).load_state_dict(teacher)
    student = QNetwork(envs)
    assert sum(weights.numel() for weights in student.parameters()) == NET2
    device, rb = torch.device("cpu"), ReplayBuffer()
    for global_step in track(range(500), description="filling teacher's replay buffer"):
        assert global_step >= 250
        time.sleep(0.01)
    for global_step in track(range(100000), description="offline student training"):
        rb.sample(args.batch_size)
        time.sleep(0.01)
    for global_step in track(range(100000), description="online student training"):
        student(torch.zeros(1, 4, 84, 84))
        if global_step % args.train_frequency == 0:
            rb.sample(args.batch_size)
        time.sleep(0.005)
    assert global_step < 99999, "it was ended by time"
"""
TEACHER_MODEL = """
import torch

class QNetwork(torch.nn.Module):
    def __init__(self, env):
        super().__init__()
        self.layer = torch.nn.Linear(2, env.single_action_space.n)
"""
TEACHER_DISTILL = """
from stable_baselines3 import PPO

class TeacherDistill(PPO):
    def __init__(self, policy, env, n_steps, **kwargs):
        # One epoch, so that its count of updates is one for each rollout.
        super().__init__(policy, env, n_steps=n_steps, n_epochs=1, batch_size=n_steps * env.num_envs, **kwargs)

    def set_teacher(self, teacher):
        assert sum(weights.numel() for weights in teacher.policy.parameters()) > 1_000_000
        assert sum(weights.numel() for weights in self.policy.parameters()) == NET2
"""
# By hand: 8x8x4x16 + 16, 4x4x16x16 + 16, 3x3x16x16 + 16, 784x128 + 128, then the heads: 6 actions, or 6 and a value.
NET2_TORSO = 4_112 + 4_112 + 2_320 + 100_480
NET2_OF_Q_VALUES, NET2_OF_ACTOR_AND_CRITIC = NET2_TORSO + 129 * 6, NET2_TORSO + 129 * 7


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A game and an image library, which this environment lacks and the peers need."""
    metadata = {"ale_py-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: ale-py\nVersion: 1\n"}
    folder = write(tmp_path / "libraries", {"ale_py.py": GAME, "cv2.py": OPENCV, **metadata})
    monkeypatch.setenv("PYTHONPATH", str(folder))


def qdagger(folder: Path, script: str = QDAGGER) -> Peer:
    checkout = write(
        folder,
        {
            "cleanrl/qdagger_dqn_atari_impalacnn.py": script.replace("NET2", str(NET2_OF_Q_VALUES)),
            "cleanrl/dqn_atari.py": TEACHER_MODEL,
            "cleanrl_utils/buffers.py": "class ReplayBuffer:\n    def sample(self, size):\n        return size\n",
            "cleanrl_utils/evals/dqn_eval.py": "evaluate = None\n",
        },
    )
    (peer,) = peers.chosen_peers(None, checkout, ["torch"])
    return peer


def sb3_distill(folder: Path) -> Peer:
    source = TEACHER_DISTILL.replace("NET2", str(NET2_OF_ACTOR_AND_CRITIC))
    checkout = write(
        folder,
        {
            "sb3_distill/__init__.py": "from sb3_distill.teacher_distill import TeacherDistill\n",
            "sb3_distill/teacher_distill.py": source,
        },
    )
    (peer,) = peers.chosen_peers(checkout, None, [])
    return peer


def run(peer: Peer, batch_size: int = 8, seconds: float = 1.0) -> running.PeerReport:
    return running.run_peer(peer, sys.executable, warm_up_seconds=0.2, seconds=seconds, batch_size=batch_size)


def test_a_window_counts_from_the_first_note_after_the_warm_up_to_the_first_after_its_seconds() -> None:
    now = [100.0]
    window = Window(2.0, 3.0, clock=lambda: now[0])
    goes_on = []
    for now[0], steps, updates in [(101.9, 5, 1), (102.5, 7, 2), (105.4, 30, 9), (105.5, 41, 12), (109.0, 50, 20)]:
        goes_on.append(window.note(steps, updates))
    assert goes_on == [True, True, True, False, False]
    assert window.counts() == {"seconds": 3.0, "steps": 34, "updates": 10}


def test_a_window_waits_for_what_was_dispatched_before_it_looks_at_the_clock() -> None:
    now = [0.0]

    def settle() -> None:
        now[0] += 0.5

    window = Window(0.0, 1.0, settle, clock=lambda: now[0])
    window.note(0, 0)
    now[0] = 2.0
    window.note(8, 4)
    assert window.counts()["seconds"] == 2.0


def test_a_window_that_was_not_filled_has_no_counts() -> None:
    window = Window(0.0, 1e9)
    window.note(0, 0)
    with pytest.raises(RuntimeError, match="ended before its time"):
        window.counts()


@pytest.mark.slow
def test_the_script_of_qdagger_runs_with_our_student_and_a_fresh_teacher(tmp_path: Path, libraries: None) -> None:
    report = run(qdagger(tmp_path / "cleanrl"))
    assert set(report.phases) == {"teacher's play", "offline updates", "live"}
    live = report.phases["live"]
    assert report.steps_per_update == 3
    # A window may begin and end anywhere between two updates.
    assert abs(live.steps - 3 * live.updates) <= 3
    assert live.seconds >= 1.0
    # It sleeps for 5 ms a step.
    assert 0 < live.steps_per_second < 200
    play, offline = report.phases["teacher's play"], report.phases["offline updates"]
    assert play.updates == 0 < play.steps
    assert offline.steps == 0 < offline.updates
    assert report.about["versions"]["torch"]
    assert any("hub" in sentence for sentence in report.about["replaced"])


def test_a_script_without_a_student_to_replace_is_refused(tmp_path: Path, libraries: None) -> None:
    with pytest.raises(UserError, match="has no class QNetwork"):
        run(qdagger(tmp_path / "cleanrl", QDAGGER.replace("class QNetwork", "class Network")))


@pytest.mark.slow
def test_teacher_distill_is_counted_by_whole_rollouts(tmp_path: Path, libraries: None) -> None:
    peer = sb3_distill(tmp_path / "sb3_distill")
    peer = dataclasses.replace(peer, options=("--num-envs", "2"))
    report = run(peer)
    live = report.phases["live"]
    assert report.steps_per_update == 8
    assert live.updates >= 1
    assert live.steps == 8 * live.updates
    assert report.about["settings"]["steps of each per update"] == 4


def test_a_peer_that_fails_shows_its_last_lines(tmp_path: Path, libraries: None) -> None:
    script = QDAGGER.replace("    rb.sample", "    raise OSError('the disk is gone')\n        rb.sample")
    with pytest.raises(UserError) as caught:
        run(qdagger(tmp_path / "cleanrl", script))
    first, *rest = str(caught.value).splitlines()
    assert first == "QDagger (PyTorch): ended with code 1; its last lines:"
    assert rest[-1] == "  OSError: the disk is gone"
    assert len(rest) <= 15


def test_a_peer_that_hangs_is_ended(tmp_path: Path, libraries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_START_UP_SECONDS", 0.5)
    peer = qdagger(tmp_path / "cleanrl", "import time\nclass QNetwork: pass\ntime.sleep(1000)\n")
    with pytest.raises(UserError, match=r"was not done after 1 s"):
        running.run_peer(peer, sys.executable, warm_up_seconds=0.0, seconds=0.1, batch_size=8)


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "there is nobody to compare with: give --sb3-distill CHECKOUT, --cleanrl CHECKOUT or both"),
        (["--cleanrl", "absent"], "absent: no such directory; it must be a checkout of CleanRL"),
        (
            ["--sb3-distill", "empty"],
            "empty: has no sb3_distill/teacher_distill.py; it must be a checkout of sb3-distill",
        ),
        (["--sb3-distill", "there", "--python", "absent/python"], "--python absent/python: no such program"),
        (["--sb3-distill", "there", "--turns", "0"], "--seconds and --turns must be more than 0"),
        (["--sb3-distill", "there", "--config", "absent.yaml"], "absent.yaml: no such file"),
        (["--sb3-distill", "there", "--config", "net3.yaml"], "net3.yaml: the peers distil the teacher pong into net2"),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(
    argv: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    write(Path("there"), {"sb3_distill/teacher_distill.py": ""})
    write(Path(), {"net3.yaml": "teacher: pong\nout: unused\nstudent:\n  network: net3\n"})
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(SystemExit) as ended:
        peers.main(argv)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_link_to_an_interpreter_is_not_followed(tmp_path: Path) -> None:
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    assert running.find_python(str(link)) == str(link)


def test_the_revision_of_a_checkout_says_whether_it_was_changed(tmp_path: Path) -> None:
    write(tmp_path, {"file.py": "1\n"})
    assert running.revision(tmp_path) is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    clean = running.revision(tmp_path)
    assert clean is not None and len(clean) == 10
    (tmp_path / "file.py").write_text("2\n")
    assert running.revision(tmp_path) == f"{clean} (changed)"


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        # 10,240 steps and 4,500 updates: a fifth of both.
        (Fraction(10_240, 4_500), OurSchedule(2_048, 900)),
        (Fraction(4), OurSchedule(2_048, 512)),
        # 80 steps an update: neither 2,048 nor any rollouts before 2,560 are whole updates.
        (Fraction(80), OurSchedule(2_560, 32)),
        (Fraction(3), OurSchedule(3_072, 1_024)),
    ],
)
def test_our_rounds_have_exactly_the_ratio_that_is_asked_for(ratio: Fraction, expected: OurSchedule) -> None:
    found = OurSchedule.of_ratio(ratio, rollout_steps=512, at_least=2_048)
    assert found == expected
    assert Fraction(found.steps, found.updates) == ratio


def test_whole_rounds_leave_out_the_first_and_what_has_only_begun(tmp_path: Path) -> None:
    path, schedule = tmp_path / "metrics.jsonl", OurSchedule(steps=400, updates=100)
    assert running.whole_rounds(path, schedule, 1.0) is None
    ends = [(50, 30.0), (100, 40.0), (150, 42.0), (200, 44.0), (250, 47.0), (300, 50.0), (350, 51.0)]
    lines = [json.dumps({"step": step, "time": 0.0, "wall_seconds": wall}) for step, wall in ends]
    lines.insert(2, json.dumps({"step": 100, "time": 0.0, "score": 3.0}))
    path.write_text("\n".join([*lines, '{"step": 400, "wall_sec']))
    # Rounds 2 and 3 end at 44 and 50 s; the first ended at 40.
    assert running.whole_rounds(path, schedule, 9.0) == Phase(10.0, 800, 200)
    assert running.whole_rounds(path, schedule, 10.1) is None


@pytest.mark.slow
def test_our_run_is_timed_and_stopped(tmp_path: Path) -> None:
    config = write(tmp_path, {"config.yaml": "teacher: cartpole\nout: unused\nenv:\n  num_lanes: 4\n"}) / "config.yaml"
    small = ["--student.network", "mlp", "--replay.capacity", "1024", "--schedule.rollout-length", "8"]
    phase = running.run_ours(config, OurSchedule(steps=64, updates=50), seconds=0.2, options=small)
    assert phase.seconds >= 0.2
    assert phase.steps / phase.updates == pytest.approx(64 / 50)


def test_our_run_that_is_refused_says_why(tmp_path: Path) -> None:
    config = write(tmp_path, {"config.yaml": "teacher: cartpoel\nout: unused\n"}) / "config.yaml"
    with pytest.raises(UserError, match=r"pd-jax distill: ended with code 2; its last lines:\n.*cartpoel"):
        running.run_ours(config, OurSchedule(steps=64, updates=50), seconds=0.1)


def test_ratios_are_of_the_same_turn() -> None:
    main_job, ours = peers._MAIN_JOB, peers.ours_at(4)

    def turn(peer: tuple[float, float], job: tuple[float, float], equal: tuple[float, float]) -> dict[str, object]:
        phases = {"live": Phase(10.0, *peer), "offline updates": Phase(5.0, 0, 20)}
        return {"peer": phases, main_job: {"live": Phase(20.0, *job)}, ours: {"live": Phase(4.0, *equal)}}

    turns = [
        turn((100, 25), (600, 300), (80, 20)),
        turn((200, 50), (400, 200), (400, 100)),
        turn((400, 100), (2400, 1200), (480, 120)),
    ]
    summary = peers.summarise(turns, {"peer": 4})  # type: ignore[arg-type]
    live = summary["loops"]["peer"]["live"]
    assert live["steps_per_second"] == {"median": 20.0, "lowest": 10.0, "highest": 40.0}
    assert live["steps_per_update"] == 4.0
    offline = summary["loops"]["peer"]["offline updates"]
    assert (offline["steps_per_update"], offline["updates_per_second"]["median"]) == (0.0, 4.0)
    # Steps a second of ours in the main job: 30, 20, 120 beside 10, 20, 40; at the peer's ratio: 20, 100, 120.
    assert summary["ours_over_peer"]["peer"][main_job]["steps_per_second"] == {
        "median": 3.0,
        "lowest": 1.0,
        "highest": 3.0,
    }
    # Updates: 15, 10, 60 beside 2.5, 5, 10.
    assert summary["ours_over_peer"]["peer"][main_job]["updates_per_second"]["lowest"] == 2.0
    assert summary["ours_over_peer"]["peer"][ours]["steps_per_second"] == {"median": 3.0, "lowest": 2.0, "highest": 5.0}


def test_the_parts_of_our_loop_are_fitted_to_its_ratios() -> None:
    # 0.5 ms a step and 8 ms an update, by hand: 1,000 x 0.5 + 500 x 8 = 4.5 s; 6,400 x 0.5 + 200 x 8 = 4.8 s.
    phases = [Phase(4.5, 1_000, 500), Phase(4.8, 6_400, 200), Phase(9.6, 12_800, 400)]
    assert peers.seconds_of_parts(phases) == pytest.approx((0.5e-3, 8e-3))
    main_job, ours = peers._MAIN_JOB, peers.ours_at(32)
    # A peer with 10 updates a second: 5 times as many take 20 ms each, of which 32 steps take 16.
    turn = {"peer": {"live": Phase(2.0, 640, 20)}, main_job: {"live": phases[0]}, ours: {"live": phases[1]}}
    parts = peers.summarise([turn], {"peer": 32})["our_parts"]
    assert parts["update_ms_for_the_bar"]["peer"] == pytest.approx(4.0)
