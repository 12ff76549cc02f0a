"""``lineage.json`` and ``pd-jax lineage``: the chain is whole, and each altered byte is named with its file."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import pd_jax
from pd_jax.cli import main
from pd_jax.deploy import lineage as verification
from pd_jax.deploy.lineage import verify_lineage
from pd_jax.runs import lineage as lineage_module
from pd_jax.runs.directory import RunDirectory, read_run
from pd_jax.runs.lineage import code, parent_at, read_lineage, teacher_parent, write_lineage
from pd_jax.runs.students import load_teacher
from pd_jax.teachers.files import params_fingerprint
from support.commands import QUICK_EVALUATION, checkpoint_steps, options, succeed, write_teacher

FEW = {"proof.frames": 20, "evaluation.episodes": 0, "evaluation.num-lanes": 4}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher file, a recording of its play, a run from both, another that starts from it, and its export. Not to be
    written to."""
    root = tmp_path_factory.mktemp("chain")
    teacher = write_teacher(root / "teachers" / "own.safetensors", "cartpole")
    succeed(
        "collect",
        {"teacher": teacher, "out": root / "play", "steps": 256, "rollout-length": 32, "env.num-lanes": 4},
    )
    values = {
        "teacher": teacher, "data": root / "play", "student.network": "mlp", "student.mlp-hidden": 8,
        "learner.updates-per-call": 5, "replay.capacity": 256, "schedule.rounds": 1, "schedule.steps-per-round": 256,
        "schedule.updates-per-round": 10, **QUICK_EVALUATION,
    }  # fmt: skip
    succeed("distill", values | {"out": root / "runs" / "first"})
    succeed("distill", values | {"out": root / "runs" / "second", "init-from": root / "runs" / "first"})
    succeed("export", FEW | {"run": root / "runs" / "second", "out": root / "exports" / "second"})
    return root


@pytest.fixture
def copy(chain: Path, tmp_path: Path) -> Path:
    """The chain, to be altered."""
    return Path(shutil.copytree(chain, tmp_path / "chain"))


def lineage(capfd: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(["lineage", *map(str, argv)])
    out, err = capfd.readouterr()
    return code, out, err


def flip(path: Path) -> None:
    """Changes one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_chain_goes_from_the_teachers_file_to_the_export(chain: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = lineage(capfd, chain / "exports" / "second")
    assert (code, err) == (0, "")
    own = pd_jax.load_student(chain / "runs" / "first").variables["params"]
    file = hashlib.sha256((chain / "teachers" / "own.safetensors").read_bytes()).hexdigest()[:12]
    lines = [line.split(": ")[0] for line in out.splitlines()]
    assert lines[0].startswith("export second (pd_jax ") and lines[0].endswith(", this very code)")
    assert lines[1].startswith("└─ run second (") and lines[1].endswith(", distill)")
    assert lines[2] == f"   ├─ teacher of cartpole own.safetensors ({file})"
    assert lines[3:5] == [
        "   ├─ recording of cartpole play (recording)",
        f"   │  └─ teacher of cartpole own.safetensors ({file})",
    ]
    assert lines[5] == f"   └─ start first ({params_fingerprint(own)[:12]}, distill)"
    assert lines[6:] == [
        f"      ├─ teacher of cartpole own.safetensors ({file})",
        "      └─ recording of cartpole play (recording)",
        f"         └─ teacher of cartpole own.safetensors ({file})",
    ]
    states = [line.split(": ", 1)[1] for line in out.splitlines()]
    assert all(state.endswith("intact") for state in states), states


def test_what_is_written_is_each_files_own_hash_and_nothing_of_the_machine(chain: Path) -> None:
    for place in ("play", "runs/first", "runs/second", "exports/second"):
        directory = chain / place
        found = read_lineage(directory)
        assert found is not None
        # Worked out by another program.
        names = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
        names = {name for name in names if not name.startswith(("tb/", ".lock", "lineage.json"))}
        assert found.files.keys() == names
        command = ["sha256sum", *sorted(names)]
        told = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout
        assert dict(reversed(line.split("  ", 1)) for line in told.splitlines()) == found.files
        text = (directory / "lineage.json").read_text()
        assert str(chain) not in text and str(Path.home()) not in text.replace('"/root"', "")
        assert found.code == code()
    assert {"config.yaml", "summary.json", "metrics.jsonl", "report.html"} <= read_lineage(
        chain / "runs" / "first"
    ).files.keys()  # type: ignore[union-attr]


def test_the_code_is_told_by_its_revision() -> None:
    checkout = Path(pd_jax.__file__).parents[1]
    command = ["git", "-c", "safe.directory=*", "rev-parse", "HEAD"]
    told = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert code()["revision"] == (told.stdout.strip() if told.returncode == 0 else None)
    assert code()["pd_jax"] == pd_jax.__version__


@pytest.mark.parametrize(
    "name",
    [
        "teachers/own.safetensors",
        "play/dataset.json",
        "play/config.yaml",
        "play/zarr.json",
        "play/actions/zarr.json",
        "runs/first/config.yaml",
        "runs/first/summary.json",
        "runs/first/metrics.jsonl",
        "runs/first/lineage.json",
        "runs/second/config.yaml",
        "runs/second/report.html",
        "exports/second/cartpole.onnx",
        "exports/second/pd_jax_runtime.py",
        "exports/second/export.json",
    ],
)
def test_one_altered_bit_is_named_with_its_file(name: str, copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flip(copy / name)
    code, out, err = lineage(capfd, copy / "exports" / "second")
    assert code == 2 and out
    assert err.startswith("pd-jax lineage: 1 file is not what was written: ") and err.count("\n") == 1
    assert f"{copy / name}: altered" in err


def test_one_altered_bit_of_each_file_of_a_checkpoint_and_a_recording_is_named(
    copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = copy / "runs" / "second"
    (step,) = checkpoint_steps(run)
    files = [path for path in (run / "checkpoints" / str(step)).rglob("*") if path.is_file() and path.stat().st_size]
    files += [path for path in (copy / "play").rglob("c/*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        before = path.read_bytes()
        flip(path)
        assert verify_lineage(copy / "exports" / "second").all_faults == (f"{path}: altered",)
        path.write_bytes(before)


def test_an_altered_lineage_of_the_product_itself_is_named(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = copy / "exports" / "second" / "lineage.json"
    text = path.read_text()
    for altered in (
        text.replace("\n", " \n", 1),
        text.replace("a", "b", 1),
        text[:-1],
        "",
        "[]",
        '{"format_version": 1}',
    ):
        path.write_text(altered)
        assert lineage(capfd, path.parent) == (2, "", f"pd-jax lineage: {path}: altered: it is not what was written\n")
    fields = json.loads(text) | {"format_version": 99}
    path.write_text(json.dumps(fields))
    assert "is in format 99, and this pd_jax reads 1: upgrade pd_jax" in lineage(capfd, path.parent)[2]
    # A file somewhere else is no business of a lineage's.
    path.write_text(text.replace('"cartpole.onnx"', '"../cartpole.onnx"'))
    assert lineage(capfd, path.parent)[0] == 2


def test_missing_and_further_files_are_named(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export = copy / "exports" / "second"
    (export / "cartpole.onnx").unlink()
    (export / "notes.txt").write_text("mine")
    code, out, err = lineage(capfd, export)
    assert code == 2 and err.endswith(f"1 file is not what was written: {export / 'cartpole.onnx'}: missing\n")
    assert "2 files intact, 1 file not; 1 file more that it does not know (notes.txt)" in out.splitlines()[0]
    (copy / "runs" / "second" / "lineage.json").unlink()
    assert f"{copy / 'runs' / 'second' / 'lineage.json'}: missing" in lineage(capfd, export)[2]


def test_a_parent_that_is_not_there_is_told_and_found_by_search(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export, away = copy / "exports" / "second", copy / "away"
    away.mkdir()
    shutil.move(copy / "teachers" / "own.safetensors", away / "own.safetensors")
    shutil.move(copy / "runs" / "first", away / "first")
    code, out, err = lineage(capfd, export)
    assert (code, err) == (0, "")
    assert out.count("not at hand") == 5, "the teacher four times, and the first run"
    assert out.count(": ") == 9, "what the run that is not at hand came from is told all the same"
    code, out, err = lineage(capfd, export, "--search", away)
    assert (code, err, out.count("not at hand")) == (0, "", 0)
    flip(away / "own.safetensors")
    code, out, err = lineage(capfd, export, "--search", away)
    assert code == 2 and f"{away / 'own.safetensors'}: altered" in err
    # An export alone in the field.
    alone = Path(shutil.copytree(export, copy.parent / "field" / "second"))
    code, out, _ = lineage(capfd, alone)
    assert (code, out.count("intact"), out.count("not at hand")) == (0, 1, 8)
    assert lineage(capfd, alone, "--search", copy / "runs", copy)[0] == 0


def test_a_run_that_has_gone_on_is_another_and_has_a_lineage_of_its_own(
    copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = copy / "runs" / "first"
    before = read_lineage(run)
    values = {
        "config": run / "config.yaml", "out": run, "teacher": copy / "teachers" / "own.safetensors",
        "data": copy / "play", "resume": True,
    }  # fmt: skip
    succeed("distill", values | {"schedule.rounds": 2})
    after = read_lineage(run)
    assert before is not None and after is not None
    assert (before.about["updates"], after.about["updates"]) == (10, 20)
    assert lineage(capfd, run)[0] == 0
    code, out, _ = lineage(capfd, copy / "exports" / "second")
    assert code == 0
    (line,) = [line for line in out.splitlines() if "start first" in line]
    assert line.endswith("is another by now: it has gone on since")


def test_a_run_that_was_scored_again_is_the_same_and_its_files_are_still_verified(
    copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = copy / "runs" / "second"
    before = read_lineage(run)
    succeed(
        "distill",
        {
            "config": run / "config.yaml", "out": run, "teacher": copy / "teachers" / "own.safetensors",
            "data": copy / "play", "init-from": copy / "runs" / "first", "resume": True,
        },
    )  # fmt: skip
    after = read_lineage(run)
    assert before is not None and after is not None and before.sha256 != after.sha256
    code, out, _ = lineage(capfd, copy / "exports" / "second")
    (line,) = [line for line in out.splitlines() if "run second" in line]
    assert code == 0 and line.endswith("scored or reported again since, the same student")
    checkpoint = max(
        (path for path in (run / "checkpoints").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    flip(checkpoint)
    code, _, err = lineage(capfd, copy / "exports" / "second")
    assert code == 2 and checkpoint.name in err


def test_a_run_that_is_taken_further_has_none_until_it_ends(copy: Path) -> None:
    path = copy / "runs" / "first"
    run, whole = read_run(path), (path / "lineage.json").read_bytes()
    schedule = run.config["schedule"] | {"rounds": 2}
    for change in (
        run.remove_results,
        lambda: run.write_summary({"games": {}}),
        lambda: RunDirectory.create(
            path, "distill", run.config | {"schedule": schedule}, resume=True, may_change={"schedule"}
        ).close(),
    ):
        (path / "lineage.json").write_bytes(whole)
        change()
        assert not (path / "lineage.json").exists()


def test_a_recording_that_grows_has_its_lineage_anew(chain: Path, copy: Path) -> None:
    play = copy / "play"
    values = {
        "teacher": chain / "teachers" / "own.safetensors", "out": play, "steps": 512, "rollout-length": 32,
        "env.num-lanes": 4, "resume": True,
    }  # fmt: skip
    before = read_lineage(play)
    succeed("collect", values)
    after = read_lineage(play)
    assert before is not None and after is not None
    assert (before.about["steps"], after.about["steps"]) == (256, 512)
    assert verify_lineage(play).all_faults == ()
    text = (play / "lineage.json").read_bytes()
    succeed("collect", values)
    assert (play / "lineage.json").read_bytes() == text, "whole already"


def test_a_bundled_teacher_is_known_by_its_name(finished_run: Path) -> None:
    found = read_lineage(finished_run)
    assert found is not None
    teacher, recording = found.parents
    zoo = Path(pd_jax.__file__).parent / "teachers" / "zoo" / "cartpole.safetensors"
    assert (teacher.name, teacher.sha256) == ("cartpole", hashlib.sha256(zoo.read_bytes()).hexdigest())
    assert recording.about["steps"] == 1024
    lines = list(verify_lineage(finished_run).lines())
    assert "teacher of cartpole cartpole (" in lines[1] and lines[1].endswith(", bundled): intact")


def test_a_bundled_teacher_that_is_another_is_altered_only_where_the_code_is_the_same(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = Path(pd_jax.__file__).parent / "teachers" / "zoo" / "cartpole.safetensors"
    other = Path(shutil.copy(zoo, tmp_path))
    flip(other)
    monkeypatch.setattr(verification, "bundled_files", lambda: {"cartpole": other})
    found = verify_lineage(finished_run)
    assert found.parents[0].faults == (f"{other}: altered",)
    monkeypatch.setattr(verification, "code", lambda: code() | {"source_sha256": "another"})
    found = verify_lineage(finished_run)
    assert found.all_faults == ()
    assert found.parents[0].state == "not at hand: this pd_jax comes with another of this name"


def test_a_bundled_name_is_that_teacher_also_where_a_run_is_called_so(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run, tmp_path / "cartpole")
    monkeypatch.chdir(tmp_path)
    zoo = Path(pd_jax.__file__).parent / "teachers" / "zoo" / "cartpole.safetensors"
    assert load_teacher("cartpole").sha256 == hashlib.sha256(zoo.read_bytes()).hexdigest()
    own = params_fingerprint(pd_jax.load_student("cartpole").variables["params"])
    assert load_teacher("./cartpole").sha256 == own
    parent = teacher_parent("./cartpole", tmp_path / "next", sha256=own)
    assert (parent.at, parent.about["parameters_sha256"]) == ("../cartpole", own)
    assert parent.lineage is not None and parent.lineage.kind == "distill"


def test_what_has_no_lineage_is_said_to_have_none(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = copy / "runs" / "second"
    (run / "lineage.json").unlink()
    told = "has no lineage.json: it was made before there was one, is not finished, or is no run, recording or export"
    assert lineage(capfd, run) == (2, "", f"pd-jax lineage: {run}: {told}\n")
    gone = copy / "gone"
    assert lineage(capfd, gone) == (2, "", f"pd-jax lineage: {gone}: there is no such directory\n")
    assert lineage(capfd, run / "config.yaml")[2].endswith("config.yaml: is not a directory\n")
    # The export of such a run says what its run was.
    succeed("export", FEW | {"run": run, "out": copy / "exports" / "third"})
    code, out, _ = lineage(capfd, copy / "exports" / "third")
    assert code == 0 and "had no lineage.json" in out


def test_the_way_to_a_parent_tells_nothing_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "ada"))
    own, other = tmp_path / "home" / "ada" / "runs" / "pong", tmp_path / "home" / "bob" / "teacher"
    for path in (own, other):
        path.mkdir(parents=True)

    def way(path: Path, beside: Path) -> Any:
        return parent_at("teacher", path, beside).at

    assert way(own, own.parent / "next") == "../pong"
    assert way(own.parents[1] / "teachers", own) == "../../teachers"
    assert way(other, own) is None, "by way of another user's home"
    assert way(Path("/etc"), own) is None, "by way of the root"
    assert way(own, tmp_path / "elsewhere") is None, "it would tell the user's name"


def test_a_lineage_that_cannot_be_written_is_a_warning(
    finished_run: Path,
    recorded_run_options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lineage_module, "write_atomically", full)
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    succeed("distill", recorded_run_options | QUICK_EVALUATION | {"out": run, "resume": True})
    assert f"warning: {run / 'lineage.json'}: cannot be written: No space left on device" in capfd.readouterr().err
    assert (run / "summary.json").exists() and not (run / "lineage.json").exists()
    # An export is whole or not at all.
    assert main(["export", *options(FEW | {"run": run, "out": tmp_path / "export"})]) == 2
    assert not (tmp_path / "export").exists()


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "product").mkdir()
    (tmp_path / "product" / "file").write_text("1")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_text("2")
    (tmp_path / "product" / "link").symlink_to(tmp_path / "elsewhere")
    assert write_lineage(tmp_path / "product", "export", []).files.keys() == {"file"}
