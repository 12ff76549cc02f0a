"""``pd-jax renew``: what is not worse replaces the champion, what is worse does not, and the export is always whole."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pd_jax
from pd_jax.cli import main
from pd_jax.config.distill import DistillConfig
from pd_jax.config.export import ExportConfig
from pd_jax.config.loading import load_config
from pd_jax.config.renew import RenewConfig
from pd_jax.config.sections import StudentConfig
from pd_jax.config.yaml import read_yaml
from pd_jax.deploy import renewal
from pd_jax.deploy.lineage import verify_lineage
from pd_jax.deploy.renewal import compare_games, read_export, run_renew
from pd_jax.deploy.runtime import Policy
from pd_jax.errors import UserError
from pd_jax.evaluation.evaluator import EpisodeScores
from pd_jax.system import exchange as exchange_module
from pd_jax.system.exchange import exchange
from pd_jax.system.interrupts import Interrupted
from pd_jax.teachers.files import params_fingerprint, read_teacher, save_teacher
from support.commands import contents, options, refusal, run, succeed
from support.made_runs import write_student_run

FEW = {"proof.frames": 20, "evaluation.episodes": 0, "evaluation.num-lanes": 4}
GAMES = {"evaluation.episodes": 8, "evaluation.num-lanes": 4, "evaluation.max-episode-steps": 40}
# A file of settings for what has no option of its own: the new run's games take longer than all its updates.
QUICK = "evaluation: {episodes: 4, num_lanes: 4, max_episode_steps: 40}\n"


@pytest.fixture(scope="module")
def champion(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of ``finished_run``. Not to be written to."""
    out = tmp_path_factory.mktemp("exports") / "pole"
    succeed("export", FEW | {"run": finished_run, "out": out})
    return out


@pytest.fixture
def export(champion: Path, tmp_path: Path) -> Path:
    """The champion in the field."""
    return Path(shutil.copytree(champion, tmp_path / "field" / "pole"))


@pytest.fixture
def values(finished_run: Path, export: Path, tmp_path: Path) -> dict[str, Any]:
    """A renewal by the same teacher and the same recording."""
    settings = tmp_path / "settings.yaml"
    settings.write_text(QUICK)
    own = {"run": finished_run, "export": export, "settings": settings, "out": tmp_path / "renewal"}
    return GAMES | own | {"schedule.rounds": 1, "schedule.updates-per-round": 60}


@pytest.fixture(scope="module")
def renewed(finished_run: Path, champion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A renewal that has replaced a champion, which is in ``field/pole``. Not to be written to."""
    root = tmp_path_factory.mktemp("renewed")
    shutil.copytree(champion, root / "field" / "pole")
    (root / "settings.yaml").write_text(QUICK)
    own = {"run": finished_run, "export": root / "field" / "pole", "settings": root / "settings.yaml"}
    argv = options(GAMES | own | {"out": root / "renewal", "schedule.rounds": 1, "schedule.updates-per-round": 60})
    assert main(["renew", *argv]) == 0
    return root


def test_what_is_not_worse_replaces_the_champion(renewed: Path, champion: Path, finished_run: Path) -> None:
    out, field = renewed / "renewal", renewed / "field"
    report = json.loads((out / "renewal.json").read_text())
    assert (report["decision"], report["replaced"], report["because"]) == ("replace", True, None)
    entry = report["games"]["cartpole"]
    # Every game is cut after 40 steps, which both reach.
    assert (entry["champion"]["mean"], entry["challenger"]["mean"], entry["difference"]["episodes"]) == (40, 40, 8)
    assert entry["difference"]["ci95"] == [0, 0]
    # 5 % of what lies above random play, which keeps the pole up for 22.2 steps.
    assert entry["allowed_loss"] == pytest.approx(0.05 * (40 - 22.2))
    assert {path.name for path in field.iterdir()} == {"pole", report["before"]}
    assert contents(field / report["before"]) == contents(champion)
    # What is deployed is the challenger, with a lineage of its own.
    own, deployed = contents(out / "export"), contents(field / "pole")
    assert {name for name in own if own[name] != deployed[name]} == {"lineage.json"} and own.keys() == deployed.keys()
    student = pd_jax.load_student(out / "run")
    told = Policy.load(field / "pole" / "cartpole.onnx").metadata["hashes"]["parameters"]
    assert told == params_fingerprint(student.variables["params"]) == report["challenger"]["parameters_sha256"]
    first = pd_jax.load_student(finished_run).variables["params"]
    assert student.summary is not None
    assert student.summary["init_from"]["parameters_sha256"] == params_fingerprint(first)
    config = read_yaml(out / "run" / "config.yaml")
    assert (config["seed"], config["schedule"]["rounds"], config["learner"]["learning_rate"]) == (1, 1, 1e-3)


def test_the_lineage_goes_from_the_deployed_file_back_to_the_first_teacher(renewed: Path) -> None:
    for place in (renewed / "field" / "pole", renewed / "renewal"):
        verified = verify_lineage(place)
        assert verified.all_faults == ()
        text = "\n".join(verified.lines())
        assert "start finished" in text and "teacher of cartpole cartpole" in text and "recording of cartpole" in text
        assert "another by now" not in text
    deployed = list(verify_lineage(renewed / "field" / "pole").lines())
    assert all(line.endswith("intact") for line in deployed), deployed
    assert len(deployed) == 9, "the export; two runs, each with teacher, recording and the teacher of that"
    path = renewed / "renewal" / "renewal.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"replace", b"repla\xc3\xa9"))
    assert verify_lineage(path.parent).all_faults == (f"{path}: altered",)
    path.write_bytes(data)


def test_what_a_damaged_teacher_teaches_is_kept_out(
    values: dict[str, Any], champion: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    zoo = Path(pd_jax.__file__).parent / "teachers" / "zoo" / "cartpole.safetensors"
    params, metadata = read_teacher(zoo)
    # What it thinks best is the worst.
    for name in ("kernel", "bias"):
        params["head"]["output"][name] = -params["head"]["output"][name]
    save_teacher(tmp_path / "damaged.safetensors", params, metadata)
    argv = options(values | {"teacher": tmp_path / "damaged.safetensors", "schedule.updates-per-round": 600})
    assert main(["renew", *argv]) == 3
    told = capfd.readouterr().out.splitlines()[-1]
    assert told.startswith(f"{values['export']}: stays; cartpole: the difference is -")
    report = json.loads((values["out"] / "renewal.json").read_text())
    entry = report["games"]["cartpole"]
    assert (report["decision"], report["replaced"], report["before"]) == ("keep", False, None)
    assert entry["difference"]["ci95"][0] < -entry["allowed_loss"] < 0
    assert entry["challenger"]["mean"] < 30 < entry["champion"]["mean"] == 40
    assert report["teacher"] == ["damaged.safetensors"]
    # The old run's recording is of another teacher's play.
    assert read_yaml(values["out"] / "run" / "config.yaml")["data"] is None
    # The decision stands, however often it is asked for.
    assert main(["renew", *argv, "--resume"]) == 3
    assert contents(values["export"]) == contents(champion)
    assert [path.name for path in values["export"].parent.iterdir()] == ["pole"]
    assert verify_lineage(values["out"]).all_faults == ()


def test_both_play_from_the_same_starts(finished_run: Path, champion: Path) -> None:
    # The champion against itself; so many random actions that games differ.
    games = {"evaluation.episodes": 4, "evaluation.num-lanes": 4, "evaluation.epsilon": 0.6}
    export, own = read_export(champion), {"run": finished_run, "export": champion, "out": "out"}
    plan = renewal._Plan(
        load_config(RenewConfig, options(games | own), "renew"),
        export,
        DistillConfig(teacher="cartpole", out="out/run", seed=5),
        ExportConfig(run=str(finished_run), out="out/export"),
    )
    report = renewal._compare(plan, export)
    entry = report["games"]["cartpole"]
    assert entry["champion"]["standard_error"] > 0, "games differ"
    assert entry["difference"]["ci95"] == [0, 0], "pairs of them do not"
    assert entry["protocol"]["seed"] == 3_000_005


def test_the_rule_is_that_of_pairs(values: dict[str, Any]) -> None:
    config = load_config(RenewConfig, options(values), "renew")
    champion = np.array([10.0, 20, 30, 40])
    # Unpaired, the spread of 13 would hide a difference of 1.
    entry = compare_games(config, champion, champion + 1, None)
    assert (entry["fault"], entry["difference"]["ci95"], entry["allowed_loss"]) == (None, [1, 1], 0.05 * 25)
    assert compare_games(config, champion, champion - 1.25, None)["fault"] is None, "just what margin allows"
    assert "-1.26 with a 95 % interval from -1.26" in compare_games(config, champion, champion - 1.26, None)["fault"]
    # Above random play of 15 there are 10, and below it nothing: then the score counts.
    assert compare_games(config, champion, champion, 15.0)["allowed_loss"] == pytest.approx(0.5)
    assert compare_games(config, champion, champion, 26.0)["allowed_loss"] == pytest.approx(1.25)
    assert compare_games(config, -champion, -champion, -50.0)["allowed_loss"] == pytest.approx(1.25)
    better = load_config(RenewConfig, options(values | {"rule": "better"}), "renew")
    assert compare_games(better, champion, champion + 1, None)["fault"] is None
    assert "rule better wants it above 0" in compare_games(better, champion, champion, None)["fault"]
    # A lower end by hand: with two games a third of the resamples or so have one twice.
    wide = compare_games(config, np.array([10.0, 10]), np.array([8.0, 14]), None)
    assert wide["difference"]["mean"] == 1 and wide["difference"]["ci95"] == [-2, 4] and wide["fault"] is not None


def test_one_game_that_is_worse_blocks_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = StudentConfig(network="mlp", mlp_hidden=(8,), head_hidden=4)
    source = write_student_run(tmp_path / "run", ("cartpole", "acrobot"), student)
    succeed("export", FEW | {"run": source, "out": tmp_path / "export"})
    both = read_export(tmp_path / "export")
    own = {"run": source, "export": tmp_path / "export", "out": tmp_path / "out"}
    config = load_config(RenewConfig, options(own), "renew")
    plan = renewal._Plan(
        config,
        both,
        DistillConfig(teacher=("cartpole", "acrobot"), out=str(tmp_path / "out" / "run")),
        ExportConfig(run=str(source), out=str(tmp_path / "out" / "export")),
    )
    for worse in ((), ("acrobot",), ("cartpole", "acrobot")):
        played: list[str] = []

        def play(apply: Any, variables: Any, task: Any, protocol: Any, on_progress: Any, played: list[str] = played,
                 worse: tuple[str, ...] = worse) -> EpisodeScores:  # fmt: skip
            is_challenger = played.count(task.name) == 1
            played.append(task.name)
            lost = 50.0 if is_challenger and task.name in worse else 0.0
            return EpisodeScores(np.array([100.0, 120.0]) - lost, np.array([1, 1]))

        monkeypatch.setattr(renewal, "play_games", play)
        report = renewal._compare(plan, both)
        assert report["decision"] == ("keep" if worse else "replace")
        assert [game for game, entry in report["games"].items() if entry["fault"]] == sorted(worse, reverse=True)


def test_files_of_both_precisions_are_compared(finished_run: Path, tmp_path: Path) -> None:
    games = {"evaluation.episodes": 2, "evaluation.max-episode-steps": 20}
    kinds = {"format": ["c", "onnx"], "precision": ["float32", "int8"]}
    succeed("export", FEW | games | kinds | {"run": finished_run, "out": tmp_path / "export"})
    (tmp_path / "export" / "lineage.json").unlink()
    export = read_export(tmp_path / "export")
    assert export.players("cartpole") == {"float32": "c", "int8": "c_int8"}, "as good as those of ONNX"
    own = {"run": finished_run, "export": tmp_path / "export", "out": tmp_path / "out", "evaluation.episodes": 2}
    plan = renewal._Plan(
        load_config(RenewConfig, options(own), "renew"),
        export,
        DistillConfig(teacher="cartpole", out=str(tmp_path / "out" / "run")),
        ExportConfig(run=str(finished_run), out=str(tmp_path / "out" / "export")),
    )
    report = renewal._compare(plan, export)
    assert {title: entry["file"] for title, entry in report["games"].items()} == {
        "cartpole (float32)": "c",
        "cartpole (int8)": "c_int8",
    }
    assert all(entry["difference"]["ci95"] == [0, 0] for entry in report["games"].values())
    header = tmp_path / "export" / "cartpole_int8.h"
    header.write_text(header.read_text() + " ")
    with pytest.raises(UserError, match=r"cartpole_int8\.h: was altered after pd-jax export wrote it"):
        read_export(tmp_path / "export")


def test_a_renewal_that_is_stopped_goes_on(values: dict[str, Any], champion: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        run_renew(load_config(RenewConfig, options(values), "renew"), stop=stop)
    assert contents(values["export"]) == contents(champion)
    assert not (values["out"] / "renewal.json").exists()
    assert main(["renew", *options(values | {"resume": True})]) == 0
    assert contents(values["export"]) != contents(champion)


def test_killed_at_any_step_the_export_is_whole_and_one_of_the_two(
    renewed: Path, champion: Path, tmp_path: Path
) -> None:
    # As it was before it replaced anything.
    out = Path(shutil.copytree(renewed / "renewal", tmp_path / "renewal"))
    here = Path(__file__).parents[1]
    command = [sys.executable, "-m", "support.killed_renewals", str(champion), str(out), str(tmp_path / "scratch")]
    ended = run(command, PYTHONPATH=f"{here.parent}:{here}")
    assert ended.code == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    for exchanges, _, code, killed, after, kept, is_tidy in lines:
        # Where nothing exchanges directories, there is a moment between two renames.
        assert killed in ("champion", "challenger") or (killed == "missing" and not exchanges)
        assert (after, kept, is_tidy) == ("challenger", "champion", True)
        assert code in (0, 9)
    assert {killed for exchanges, _, _, killed, *_ in lines if exchanges} == {"champion", "challenger"}
    assert sum(killed == "missing" for *_, killed, _, _, _ in lines) == 2
    assert sum(code == 9 for _, _, code, *_ in lines) > 30


def test_a_full_disk_leaves_the_champion(
    renewed: Path, export: Path, champion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = json.loads((renewed / "renewal" / "renewal.json").read_text())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(renewal.shutil, "copyfile", full)
    with pytest.raises(UserError, match=r"pole: cannot be written: No space left on device; the export is whole"):
        renewal._replace(decided, export, renewed / "renewal")
    assert contents(export) == contents(champion)
    assert [path.name for path in export.parent.iterdir()] == ["pole"]


def test_another_export_that_was_put_there_meanwhile_stays(renewed: Path, export: Path) -> None:
    decided = json.loads((renewed / "renewal" / "renewal.json").read_text())
    report = json.loads((export / "export.json").read_text())
    (export / "export.json").write_text(json.dumps(report))
    before = contents(export)
    with pytest.raises(UserError, match=r"is another one by now than was compared; it stays"):
        renewal._replace(decided, export, renewed / "renewal")
    assert contents(export) == before


def test_a_renewal_that_is_done_is_not_begun_again(
    renewed: Path, values: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capfd, "renew", *options(values | {"out": renewed / "renewal"}))
    told = "holds a renewal; add --resume to go on with it, or choose another --out"
    assert message.endswith(f"{renewed / 'renewal'}: {told}")


def test_a_link_to_an_export_stays_a_link(renewed: Path, export: Path) -> None:
    decided = json.loads((renewed / "renewal" / "renewal.json").read_text())
    link = export.parents[1] / "current"
    link.symlink_to(export)
    renewal._replace(decided, link, renewed / "renewal")
    assert link.is_symlink()
    assert read_export(link).sha256 == decided["challenger"]["export_sha256"]


def test_bad_input_is_refused_and_nothing_is_written(
    values: dict[str, Any], finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export, before = values["export"], contents(tmp_path)

    def told(**changes: Any) -> str:
        given = values | {name.replace("__", "."): value for name, value in changes.items()}
        return refusal(capfd, "renew", *options(given)).removeprefix("pd-jax renew: ")

    assert told(export=tmp_path / "gone") == f"export: {tmp_path / 'gone'}: there is no such directory"
    assert told(export=finished_run).startswith(f"export: {finished_run}: is no export of pd-jax export")
    assert told(run=tmp_path / "gone") == f"{tmp_path / 'gone'}: is not a run directory: there is no such directory"
    assert told(teacher="acrobot").endswith("teacher acrobot: plays acrobot with 3 actions; cartpole has 2")
    assert "teacher" in told(teacher=["cartpole", "acrobot"])
    for inside in (export, export / "x", export.parent, finished_run / "x"):
        assert told(out=inside).endswith("lie in one another; choose another --out")
    assert told(evaluation__episodes=1).startswith("--evaluation.episodes: 1 episode says nothing")
    assert told(rule="nicer").startswith("--rule: 'nicer' is not a rule")
    assert contents(tmp_path) == before
    settings = values["settings"]
    for text, message in (
        ("out: elsewhere\n", "out: is no setting of a renewal's run that can be changed here"),
        ("learner: {learning_rat: 1}\n", "learner.learning_rat: no such key; did you mean 'learning_rate'?"),
        ("student: {mlp_hidden: [8]}\n", "tensor 'head/output/kernel' has shape (16, 2), the network needs (8, 2)"),
    ):
        settings.write_text(text)
        assert message in told()
    settings.write_text(QUICK)
    (export / "notes.txt").write_text("mine")
    assert told() == f"export: {export}: holds more than an export (notes.txt), which would go with it"
    (export / "notes.txt").unlink()
    data = bytearray((export / "cartpole.onnx").read_bytes())
    data[100] ^= 1
    (export / "cartpole.onnx").write_bytes(data)
    assert told() == f"export: {export / 'cartpole.onnx'}: was altered after pd-jax export wrote it"
    (export / "cartpole.onnx").unlink()
    assert told() == f"export: {export / 'cartpole.onnx'}: is missing"
    assert not values["out"].exists()


def test_an_export_of_another_student_and_a_run_without_one_are_refused(
    values: dict[str, Any], finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    student = StudentConfig(network="mlp", mlp_hidden=(16,))
    other = write_student_run(tmp_path / "other", ("cartpole",), student)
    message = refusal(capfd, "renew", *options(values | {"run": other}))
    assert "is not of the student that" in message and message.endswith("give the run that it was exported from")
    shutil.rmtree(other / "checkpoints")
    assert refusal(capfd, "renew", *options(values | {"run": other})).endswith(f"{other}: has no checkpoint yet")
    succeed("export", FEW | {"teacher": "cartpole", "out": tmp_path / "teachers"})
    message = refusal(capfd, "renew", *options(values | {"export": tmp_path / "teachers"}))
    assert message.endswith("is of a teacher; what is renewed is a student's")
    message = refusal(capfd, "renew", *options(values | {"out": finished_run}))
    assert message.endswith("lie in one another; choose another --out")
    elsewhere = shutil.copytree(finished_run, tmp_path / "elsewhere")
    message = refusal(capfd, "renew", *options(values | {"out": elsewhere}))
    assert "holds a run of pd-jax distill, not renew" in message
    values["out"].mkdir()
    (values["out"] / "config.yaml").write_text("# pd-jax renew\n")
    (values["out"] / "renewal.json").write_text("{}")
    message = refusal(capfd, "renew", *options(values | {"resume": True}))
    assert message.endswith("renewal.json: is not what pd-jax renew wrote")


def test_directories_change_places_or_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.mkdir()
        (path / path.name).touch()
    assert exchange(one, other)
    assert ((one / "other").exists(), (other / "one").exists()) == (True, True)
    with pytest.raises(FileNotFoundError):
        exchange(one, tmp_path / "gone")

    class Old:
        pass

    monkeypatch.setattr(exchange_module.ctypes, "CDLL", lambda *_, **__: Old())
    assert not exchange(one, other)
    assert (one / "other").exists()
