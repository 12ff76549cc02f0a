"""``pd-jax audit``: what its page names first, what it leaves, and that it leaves nothing where something is wrong."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pd_jax
from pd_jax.cli import main
from pd_jax.config.audit import AuditConfig
from pd_jax.config.sections import StudentConfig
from pd_jax.deploy.audit.card import policy_card
from pd_jax.deploy.policy import StudentPolicy
from pd_jax.deploy.signals import Decisions
from pd_jax.deploy.thresholds import fit_thresholds
from pd_jax.system.interrupts import Interrupted
from pd_jax.teachers.files import params_fingerprint, save_teacher
from support.cartpole_players import GATE, UNITS, cartpole_params, write_cartpole_teacher
from support.commands import contents, options, refusal, succeed, write_teacher
from support.made_runs import write_distillation, write_student_run

FEW = {
    "evaluation.episodes": 8,
    "evaluation.num-lanes": 8,
    "evaluation.max-episode-steps": 150,
    "outside.episodes": 0,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teachers that are right, wrong in one region, and of logits; and the run of a student of each of the former two.

    The students are of logits that have learnt their teachers' sharpened policies to the letter. Not to be written to.
    """
    path = tmp_path_factory.mktemp("made")
    write_cartpole_teacher(path / "right.safetensors", "right")
    write_cartpole_teacher(path / "wrong.safetensors", "wrong", is_wrong=True)
    write_cartpole_teacher(path / "logits.safetensors", "logits", output="logits")
    student = StudentConfig(network="mlp", mlp_hidden=(UNITS,))
    for name, changes in (("right", {}), ("wrong", {"is_wrong": True}), ("biased", {"raised": 8.0})):
        params = cartpole_params(scale=100.0, **changes)
        write_student_run(path / name, ("cartpole",), student, params=params)
    return path


def audit(made: Path, run: str, teacher: str, out: Path, **more: Any) -> dict[str, Any]:
    values = {"run": made / run, "teacher": made / f"{teacher}.safetensors", "out": out}
    succeed("audit", FEW | values | more)
    report: dict[str, Any] = json.loads((out / "audit.json").read_text())
    return report


@pytest.fixture(scope="module")
def healthy(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The audit of a student that is like its teacher. Not to be written to."""
    out = tmp_path_factory.mktemp("healthy") / "out"
    values = {"outside.episodes": 4, "outside.noise": 0.1}
    audit(made, "right", "right", out, **values)
    return out


class Elements(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def first_finding(out: Path) -> str:
    """What the page names first."""
    page = (out / "audit.html").read_text()
    first = re.search(r'<li class="first">.*?<p>(.*?)</p>', page, re.DOTALL)
    assert first is not None
    return first.group(1).replace("\N{NO-BREAK SPACE}", " ")


def test_a_student_that_is_like_its_teacher_has_no_findings(healthy: Path) -> None:
    report = json.loads((healthy / "audit.json").read_text())
    assert report["findings"] == []
    assert "Nothing stands out" in (healthy / "audit.html").read_text()
    assert report["agreement"]["overall"]["agreement"]["value"] == 1.0
    # One that is the same plays the same games.
    assert report["scores"]["student"]["returns"] == report["scores"]["teacher"]["returns"]
    assert report["states"]["count"] == sum(report["scores"]["student"]["returns"])
    (noise,) = report["outside"]
    assert noise["name"] == "noise of 10 % of the spread" and noise["student"]["episodes"] == 4
    scored = pd_jax.evaluate(
        pd_jax.load_student(str(report["settings"]["run"])),
        episodes=8,
        num_lanes=8,
        seed=report["protocol"]["seed"],
        environment_options={"max_episode_steps": 150},
    )
    assert report["scores"]["student"]["returns"] == scored.returns.tolist()


def test_a_raised_bias_is_named_first(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = audit(made, "biased", "right", tmp_path / "out")
    finding = report["findings"][0]
    assert finding["kind"] == "bias" and finding["sentence"].startswith("Chooses RIGHT in ")
    assert finding["measured"] > finding["baseline"] + 0.05
    assert first_finding(tmp_path / "out").startswith("Chooses RIGHT in ")
    assert f"1. {finding['sentence']}" in capsys.readouterr().out


def test_a_teacher_that_is_wrong_in_one_region_is_named_first_and_where(made: Path, tmp_path: Path) -> None:
    report = audit(made, "wrong", "wrong", tmp_path / "out", reference=made / "right.safetensors")
    assert report["agreement"]["overall"]["agreement"]["value"] == 1.0, "the student does as it was taught"
    kinds = [finding["kind"] for finding in report["findings"]]
    assert kinds[0] == "teacher_return" and "teacher_reference" in kinds
    told = first_finding(tmp_path / "out")
    edge = re.search(r"cart position is above ([0-9.]+) ", told)
    assert edge is not None and abs(float(edge.group(1)) - GATE) < 0.15, told
    assert "The student copies 100 % of these choices" in told
    beside = report["findings"][kinds.index("teacher_reference")]["sentence"]
    assert "chooses otherwise than right in " in beside and "cart position is above" in beside


def test_of_logits_it_is_said_that_their_returns_tell_nothing(made: Path, tmp_path: Path) -> None:
    report = audit(made, "right", "logits", tmp_path / "out", steps=200)
    assert "logits" in report["teacher_errors"]["by_return"]["why_not"]
    assert report["scores"]["student"] is None and report["temperature"] == {"teacher": 1.0, "student": 1.0}
    assert "The play was cut" in (tmp_path / "out" / "audit.html").read_text()
    # The least of a card: without scores.
    assert json.loads((tmp_path / "out" / "policy_card.json").read_text())["scores"]["student"] is None


def test_the_page_asks_for_nothing_and_forbids_it(healthy: Path, tmp_path: Path) -> None:
    page = Elements((healthy / "audit.html").read_text())
    policy = [values["content"] for tag, values in page.tags if values.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    for tag, values in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "audio", "video", "form", "a"), tag
        for name in ("src", "href", "srcset", "action", "data", "poster", "background"):
            assert (values.get(name) or "data:").startswith("data:"), (tag, values)
    text = (healthy / "audit.html").read_text()
    assert "url(" not in text and "@import" not in text and "://" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_names_that_are_markup_stay_text(made: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>&\"'"
    write_cartpole_teacher(tmp_path / "evil.safetensors", evil)
    succeed(
        "audit",
        FEW
        | {"policy": made / "right.safetensors", "teacher": tmp_path / "evil.safetensors", "out": tmp_path / "out"}
        | {"reference": tmp_path / "evil.safetensors", "steps": 100},
    )
    page = Elements((tmp_path / "out" / "audit.html").read_text())
    assert evil in page.text and "script" not in {tag for tag, _ in page.tags}


def test_the_card_says_what_the_documents_say_that_it_does(healthy: Path, made: Path) -> None:
    card = json.loads((healthy / "policy_card.json").read_text())
    document = Path("docs/audit.md").read_text()
    for section, content in card.items():
        assert f"`{section}`" in document, section
        for key in content if isinstance(content, dict) else ():
            assert f"`{key}`" in document, (section, key)
    report = json.loads((healthy / "audit.json").read_text())
    assert card == json.loads(json.dumps(policy_card(report)))
    assert card["scope"]["game"] == "cartpole" and card["scope"]["protocol"]["max_episode_steps"] == 150
    assert card["scores"]["student"]["mean"] == np.mean(report["scores"]["student"]["returns"])
    assert card["meta"]["teacher_licence"] == "Apache-2.0"
    file = made / "right.safetensors"
    assert card["provenance"]["teacher"]["file_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert card["provenance"]["taught_by_sha256"] == "0" * 64 and card["monitoring"]["thresholds"] is None
    assert report["teacher"]["taught_the_student"] is False


def made_thresholds(student: StudentPolicy, path: Path) -> Path:
    """Thresholds of the monitor's, of play that nobody played."""
    generator = np.random.default_rng(0)
    outputs = generator.normal(size=(400, 4, 2)).astype(np.float32)
    sights = generator.normal(size=(400, 4, 3)).astype(np.float32)
    is_first = np.zeros((400, 4), bool)
    is_first[::40] = True
    play = Decisions(outputs, outputs.argmax(-1), is_first, np.ones((400, 4), bool), np.tanh(sights), sights)
    policy = {"name": "made", "game": "cartpole", "parameters": params_fingerprint(student.variables["params"])}
    fit_thresholds(play, action_names=("LEFT", "RIGHT"), temperature=1.0, policy=policy, about={}, block_size=32).save(
        path
    )
    return path


def test_thresholds_and_a_recording_become_part_of_it(made: Path, recording: Path, tmp_path: Path) -> None:
    thresholds = made_thresholds(pd_jax.load_student(made / "right"), tmp_path / "thresholds.json")
    report = audit(
        made, "right", "right", tmp_path / "out", data=recording, thresholds=tmp_path / "thresholds.json", steps=300
    )
    assert report["states"]["of"] == "a recording" and 300 <= report["states"]["count"] < 308
    card = json.loads((tmp_path / "out" / "policy_card.json").read_text())
    signals = json.loads(thresholds.read_text())["signals"]
    assert card["monitoring"]["thresholds"]["signals"] == signals and signals
    digest = hashlib.sha256((tmp_path / "thresholds.json").read_bytes()).hexdigest()
    assert card["monitoring"]["thresholds"]["sha256"] == digest
    assert card["provenance"]["audited_on_recording"]["identity"] == report["states"]["recording"]["identity"]


def test_it_is_made_again_for_the_same_settings_alone(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = options(FEW | {"steps": 60, "run": made / "right", "teacher": made / "right.safetensors", "out": out})
    assert main(["audit", *argv]) == 0
    assert set(contents(out)) == {"audit.html", "audit.json", "policy_card.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    problem = f"pd-jax audit: {out}: holds this audit; add --resume to make it again, or choose another --out"
    assert refusal(capfd, "audit", *argv) == problem
    other = refusal(capfd, "audit", *argv, "--resume", "--clusters", "3")
    assert other == f"pd-jax audit: {out}: holds an audit of other settings; choose another --out"
    before = json.loads((out / "audit.json").read_text())
    assert main(["audit", *argv, "--resume"]) == 0
    after = json.loads((out / "audit.json").read_text())
    assert {**after, "created": ""} == {**before, "created": ""}, "the same play, the same numbers"
    (out / "mine.txt").write_text("mine")
    message = refusal(capfd, "audit", *argv, "--resume")
    assert message == f"pd-jax audit: {out}: holds more than an audit (mine.txt); choose another --out"


def test_a_signal_leaves_nothing(made: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    config = AuditConfig(
        run=str(made / "right"), teacher=str(made / "right.safetensors"), out=str(tmp_path / "a" / "out")
    )
    with pytest.raises(Interrupted):
        pd_jax.run_audit(config, stop=stop)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_audited_is_refused_in_one_line_and_nothing_is_made(
    made: Path, recording: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    unfinished = write_distillation(tmp_path / "unfinished")
    acrobot = write_teacher(tmp_path / "acrobot.safetensors", "acrobot")
    two = StudentConfig(network="mlp", mlp_hidden=(4,), head_hidden=4)
    both = write_student_run(tmp_path / "both", ("cartpole", "acrobot"), two)
    pong = write_teacher(tmp_path / "pong.safetensors", "pong")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "text.json").write_text("text")
    made_thresholds(pd_jax.load_student(made / "biased"), tmp_path / "another.json")
    run, right = ["--run", str(made / "right")], ["--teacher", str(made / "right.safetensors")]
    before, out = contents(tmp_path), ["--out", str(tmp_path / "out")]
    for argv, message in (
        (["--run", str(unfinished), *out], f"{unfinished}: has no checkpoint yet"),
        (["--run", str(tmp_path / "nowhere"), *out], "no such"),
        ([*run, *right, *out, "--game", "acrobot"], "its student plays cartpole, not acrobot"),
        ([*run, *right, *out, "--game", "bong"], "'bong' is not a game"),
        (["--run", str(both), *out], "its student plays cartpole, acrobot; choose one with --game"),
        ([*run, *out, "--teacher", str(acrobot)], "plays acrobot with 3 actions; cartpole has 2"),
        ([*run, *right, *out, "--reference", str(acrobot)], "plays acrobot with 3 actions; cartpole has 2"),
        (["--run", str(both), "--game", "acrobot", *out, "--data", str(recording)], "is a recording of cartpole"),
        ([*run, *right, *out, "--data", str(tmp_path)], "not a data set"),
        ([*run, *right, "--out", str(tmp_path / "full")], "is not empty (notes.txt); choose another --out"),
        ([*run, *right, "--out", str(acrobot)], "is a file; --out takes a directory"),
        ([*run, *right, "--out", "gs://bucket/out"], "is an address"),
        ([*run, *right, *out, "--thresholds", str(tmp_path / "none.json")], "No such file"),
        ([*run, *right, *out, "--thresholds", str(tmp_path / "another.json")], "thresholds of another policy, made"),
        ([*run, *right, *out, "--thresholds", str(tmp_path / "list.json")], "no thresholds of pd-jax monitor"),
        ([*run, *right, *out, "--thresholds", str(tmp_path / "text.json")], "no thresholds of pd-jax monitor"),
        (["--policy", str(pong), "--teacher", str(pong), *out, "--outside.modes", "7"], "pong has no mode 7 (0, 1)"),
        (["--policy", str(pong), "--teacher", str(pong), *out, "--outside.difficulties", "9"], "has no difficulty 9"),
        ([*right, *out], "give one of --run DIR and --policy NAME_OR_FILE"),
        (["--policy", str(pong), *out], "only a run names its own: give --teacher NAME_OR_FILE"),
        ([*run, *right, *out, "--checkpoint", "best"], "no checkpoint has a score"),
    ):
        error = refusal(capfd, "audit", *argv)
        assert error.startswith("pd-jax audit: ") and message in error, error
        assert contents(tmp_path) == before, argv


@pytest.mark.slow
def test_a_raised_bias_of_a_pong_player_is_named_first_and_without_it_nothing_is(tmp_path: Path) -> None:
    teacher = pd_jax.load_teacher("pong")
    params = jax.tree.map(np.array, teacher.variables["params"])
    reports = {}
    for name, raised in (("same", 0.0), ("raised", 0.01)):
        params["head"]["output"]["bias"][4] += raised
        save_teacher(tmp_path / f"{name}.safetensors", params, teacher.metadata)
        quick = {"steps": 4000, "outside.episodes": 0, "policy": tmp_path / f"{name}.safetensors", "teacher": "pong"}
        succeed("audit", quick | {"out": tmp_path / name})
        reports[name] = json.loads((tmp_path / name / "audit.json").read_text())
        page = (tmp_path / name / "audit.html").read_text()
        assert len(reports[name]["worst"]) == (20 if raised else 0) and page.count("data:image/png") >= 4 * 12
    assert reports["same"]["findings"] == []
    assert reports["raised"]["agreement"]["overall"]["agreement"]["value"] > 0.6
    assert first_finding(tmp_path / "raised").startswith("Chooses RIGHTFIRE in ")
