"""``pd-jax sweep`` through the real command: its cells, its table, and what signals and bad settings do to it."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

import pd_jax.sweep.session
from pd_jax.cli import main
from pd_jax.config.loading import load_config
from pd_jax.config.sweep import SweepConfig
from pd_jax.config.yaml import read_yaml
from pd_jax.distill.session import distill
from pd_jax.replay.recordings import Dataset
from pd_jax.sweep.setup import make_plan
from pd_jax.system.devices import DeviceGroup
from support import commands
from support.commands import checkpoint_steps, contents, options, read_lines, refusal, state_digests, stop_when, succeed

CONFIG = Path(__file__).parents[2] / "configs" / "quick" / "sweep_cartpole.yaml"
# The file's grid with one seed, in seconds.
QUICK = {
    "config": CONFIG,
    "record": 2048,
    "grid.seeds": 1,
    "replay.capacity": 2048,
    "schedule.steps-per-round": 1024,
    "schedule.updates-per-round": 150,
    "checkpoint.every-updates": 100,
    **commands.QUICK_EVALUATION,
}
CELLS = [f"cartpole-mlp-{loss}-lr0.001-seed1" for loss in ("kl-t0.1", "kl-t1", "nll")]
ONE_CELL = {"teacher": "cartpole", "student.network": "mlp"}


@pytest.fixture(scope="module")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three cells, never interrupted. Not to be written to."""
    path = tmp_path_factory.mktemp("sweeps") / "finished"
    succeed("sweep", QUICK | {"out": path})
    return path


@pytest.mark.slow
def test_the_recording_holds_what_students_sense(tmp_path: Path) -> None:
    sensed = {"student.observation.components": [0, 2], "student.observation.noise": 0.01}
    quick = {"record": 512, "grid.losses": "kl", "grid.temperatures": 1.0, "schedule.steps-per-round": 512}
    quick |= {"schedule.updates-per-round": 5, "schedule.rounds": 1}
    succeed("sweep", QUICK | quick | sensed | {"out": tmp_path / "noisy"})
    assert Dataset.open(tmp_path / "noisy" / "data" / "cartpole").header.sensed is not None
    assert "failure" not in read_table(tmp_path / "noisy")["cells"][0]


def read_table(path: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((path / "table.json").read_text())
    return table


def failure(capfd: pytest.CaptureFixture[str], out: Path, **changes: Any) -> str:
    """The message of a sweep that is refused, and that leaves nothing behind."""
    values = ONE_CELL | {"out": out} | changes
    if "grid.networks" in changes:
        # With networks in the grid, the one of all cells is an option without effect.
        values = {key: value for key, value in values.items() if key != "student.network"}
    message = refusal(capfd, "sweep", *options(values))
    assert not out.exists()
    return message.removeprefix("pd-jax sweep: ")


def test_every_cell_is_a_run_of_its_own(finished_sweep: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sorted(path.name for path in (finished_sweep / "cells").iterdir()) == sorted(CELLS)
    names = {path.name for path in finished_sweep.iterdir()} - {".lock"}
    assert names == {"config.yaml", "cells", "data", "teachers", "table.md", "table.json", "report.html"}
    cell = finished_sweep / "cells" / CELLS[1]
    config = read_yaml(cell / "config.yaml")
    assert (config["seed"], config["loss"]["kind"], config["loss"]["temperature"]) == (1, "kl", 1.0)
    assert config["data"] == str(finished_sweep / "data" / "cartpole")
    capfd.readouterr()
    assert main(["evaluate", "--run", str(cell), *options(commands.QUICK_EVALUATION)]) == 0
    assert capfd.readouterr().out.startswith("cartpole student: ")


def test_the_table_is_what_the_cells_say(finished_sweep: Path) -> None:
    table = read_table(finished_sweep)
    assert [cell["cell"] for cell in table["cells"]] == CELLS
    for cell in table["cells"]:
        summary = json.loads((finished_sweep / "cells" / cell["cell"] / "summary.json").read_text())
        assert summary["games"]["cartpole"].items() <= cell.items()
        # Games of at most 40 steps of reward 1, in which the teacher never drops the pole.
        assert (cell["teacher_score"], cell["updates"], cell["env_steps"]) == (40.0, 300, 2048)
    assert [(row["loss"], row["temperature"]) for row in table["rows"]] == [("kl", 0.1), ("kl", 1.0), ("nll", None)]
    for row, cell in zip(table["rows"], table["cells"], strict=True):
        assert row["games"]["cartpole"]["percent"] == pytest.approx(100 * cell["student_score"] / 40)
    markdown = (finished_sweep / "table.md").read_text()
    assert all(f"| {name} " in markdown for name in CELLS)


def test_a_cell_is_the_run_that_distill_alone_would_make(finished_sweep: Path, tmp_path: Path) -> None:
    cell, alone = finished_sweep / "cells" / CELLS[1], tmp_path / "alone"
    # From its own settings, and with a teacher that plays: its score is the one that was taken for all cells.
    succeed("distill", {"config": cell / "config.yaml", "out": alone})
    assert state_digests(alone) == state_digests(cell)
    of_alone, of_cell = (json.loads((path / "summary.json").read_text()) for path in (alone, cell))
    assert of_alone["games"] == of_cell["games"]


def test_a_stopped_sweep_goes_on_to_the_same_table(
    finished_sweep: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    argv = ["sweep", *options(QUICK | {"out": out, "resume": True})]
    second = out / "cells" / CELLS[1]
    ended = stop_when(lambda: read_lines(second), signal.SIGTERM, *argv)
    assert ended.code == 128 + signal.SIGTERM
    assert ended.stderr.endswith("pd-jax sweep: stopped by SIGTERM; add --resume to go on\n")
    assert "cell 2 of 3, about 0:" in ended.stderr
    assert "Traceback" not in ended.stderr
    (saved,) = checkpoint_steps(second)
    assert 0 < saved <= 300
    assert not (out / "cells" / CELLS[2]).exists()
    first = contents(out / "cells" / CELLS[0])
    capfd.readouterr()
    assert main(argv) == 0
    printed, errors = capfd.readouterr()
    assert contents(out / "cells" / CELLS[0]) == first, "a finished cell is left alone"
    assert f"resumed at update {saved:,}" in errors
    assert "cell 2 of 3" in errors
    assert "cell 1 of 3" not in errors
    assert read_table(out) == read_table(finished_sweep)
    assert (out / "table.md").read_bytes() == (finished_sweep / "table.md").read_bytes()
    assert printed == (out / "table.md").read_text() + f"{out}: table.md, table.json, cells/\n"
    for name in CELLS:
        assert state_digests(out / "cells" / name) == state_digests(finished_sweep / "cells" / name)


@pytest.mark.slow
def test_a_stopped_recording_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    one_cell = {"grid.temperatures": 0.1, "grid.losses": "kl", "schedule.updates-per-round": 20}
    longer = {"record": 32_768, "replay.capacity": 32_768}
    argv = QUICK | one_cell | longer | {"out": out, "resume": True}
    data = out / "data" / "cartpole"

    def is_recording() -> bool:
        return (data / "dataset.json").exists() and json.loads((data / "dataset.json").read_text())["steps"] > 0

    assert stop_when(is_recording, signal.SIGTERM, "sweep", *options(argv)).code == 128 + signal.SIGTERM
    recorded = Dataset.open(data).header
    assert 0 < recorded.steps < recorded.planned_steps == 32_768 // 16
    assert not (out / "cells").exists()
    succeed("sweep", argv)
    header = Dataset.open(data).header
    assert (header.steps, header.recording_id) == (32_768 // 16, recorded.recording_id)
    assert "student_score" in read_table(out)["cells"][0]


def test_a_grid_can_grow_and_not_shrink(
    finished_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    shutil.copytree(finished_sweep, out)
    before = contents(out)
    dropped = QUICK | {"out": out, "resume": True, "grid.losses": ["nll", "kl"], "grid.temperatures": 2}
    assert refusal(capfd, "sweep", *options(dropped)) == (
        f"pd-jax sweep: grid: drops cells that {out} has ({CELLS[0]} and 1 more); a sweep can only grow, keep them or "
        "choose another --out"
    )
    assert contents(out) == before
    runs: list[str] = []

    def noted(config: Any, *rest: Any, **more: Any) -> Any:
        runs.append(Path(config.out).name)
        return distill(config, *rest, **more)

    monkeypatch.setattr(pd_jax.sweep.session, "distill", noted)
    # Neither is the teacher asked again.
    monkeypatch.setattr(pd_jax.sweep.session, "score_teacher", None)
    succeed("sweep", QUICK | {"out": out, "resume": True, "grid.losses": ["mse", "kl", "nll"]})
    assert runs == ["cartpole-mlp-mse-lr0.001-seed1"]
    table = read_table(out)
    assert [cell["cell"] for cell in table["cells"]] == [*runs, *CELLS]
    assert table["cells"][1:] == read_table(finished_sweep)["cells"]


def test_another_sweep_is_not_written_over(finished_sweep: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = contents(finished_sweep)
    assert refusal(capfd, "sweep", *options(QUICK | {"out": finished_sweep})).endswith(
        f"{finished_sweep}: holds a run; add --resume to continue it, or choose another --out"
    )
    other = QUICK | {"out": finished_sweep, "resume": True, "learner.batch-size": 32}
    assert refusal(capfd, "sweep", *options(other)).endswith(
        "holds a different run: learner.batch_size is 64 there and 32 here; choose another --out"
    )
    assert refusal(capfd, "distill", *options(ONE_CELL | {"out": finished_sweep})).endswith(
        f"{finished_sweep}: holds a run of pd-jax sweep, not distill; choose another --out"
    )
    teacher = commands.write_teacher(finished_sweep.parent / "other.safetensors", "cartpole")
    assert f"{finished_sweep}: was begun with another teacher of cartpole (" in refusal(
        capfd, "sweep", *options(QUICK | {"out": finished_sweep, "resume": True, "teacher": teacher})
    )
    assert contents(finished_sweep) == before


def test_a_cell_that_diverges_stops_no_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    grid = {"grid.losses": "mse", "grid.learning-rates": ["1e6", "1e-3"]}
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.read_text().replace("  temperatures: [0.1, 1.0]\n", ""))
    assert main(["sweep", *options(QUICK | grid | {"config": config, "out": out, "learner.optimizer": "rmsprop"})]) == 2
    printed, errors = capfd.readouterr()
    bad, good = read_table(out)["cells"]
    assert bad["failure"].startswith("the loss became ")
    assert "student_score" in good
    assert f"| {bad['cell']} | failed " in printed
    assert f"Failed: {bad['cell']}: the loss became " in printed
    assert errors.endswith(f"pd-jax sweep: 1 of 2 cells failed: {bad['cell']}; table.md has the reasons\n")
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: 1 GiB"), OSError(28, "No space left")]
)
def test_a_cell_that_runs_out_of_something_stops_no_other(
    error: Exception, finished_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep"
    shutil.copytree(finished_sweep, out)
    for name in CELLS[:2]:
        (out / "cells" / name / "summary.json").unlink()

    def failing(config: Any, *rest: Any, **more: Any) -> Any:
        if config.out.endswith(CELLS[0]):
            raise error
        return distill(config, *rest, **more)

    monkeypatch.setattr(pd_jax.sweep.session, "distill", failing)
    argv = ["sweep", *options(QUICK | {"out": out, "resume": True})]
    assert main(argv) == 2
    first, *others = read_table(out)["cells"]
    assert first["failure"] == ("No space left" if isinstance(error, OSError) else pd_jax.errors.OUT_OF_MEMORY)
    assert others == read_table(finished_sweep)["cells"][1:]
    # A fault of the program is not passed off as one of the cell.
    error = KeyError("x")
    with pytest.raises(KeyError):
        main(argv)


def test_bad_settings_are_one_line_and_leave_nothing_behind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"

    def refused(**changes: Any) -> str:
        return failure(capfd, out, **{key.replace("__", ".").replace("_", "-"): v for key, v in changes.items()})

    empty = tmp_path / "empty.yaml"
    empty.write_text("grid:\n  networks: []\n")
    assert refused(config=empty) == f"{empty}: grid.networks: 0 items, it takes 1 to 64"
    assert refused(grid__seeds=["0", "1", "0"]) == "--grid.seeds: 0 is there twice"
    assert refused(grid__temperatures=["0.01", "1e-2"]) == "--grid.temperatures: 0.01 is there twice"
    assert refused(teacher=["cartpole", "cartpole"]) == "--teacher: 'cartpole' is there twice"
    assert refused(grid__losses=["nll", "mse"], grid__temperatures="1") == (
        "--grid.temperatures: policies and advantages have a temperature, and the grid has nll, mse"
    )
    assert refused(grid__losses=["kl", "nlll"]).startswith(
        "--grid.losses[1]: 'nlll' is not a loss; did you mean 'nll'?"
    )
    mlp = "'mlp' sees vectors, and pong shows frames; use one of dqn, net1, net2, net3"
    assert refused(teacher="pong", grid__networks=["net1", "mlp"]) == f"grid.networks: {mlp}"
    assert refused(teacher="pong", game="pong", grid__networks=["net1", "mlp"]) == f"--grid.networks: {mlp}"
    assert refused(teacher="pong") == f"student.network: {mlp}"
    assert refused(teacher=["cartpole", "acrobot"], game="cartpole") == (
        "--game: 1 game for 2 teachers: acrobot has none; give one for each teacher, in the same order"
    )
    assert refused(grid__seeds=["2000000"]).startswith(
        "--grid.seeds: 2000000 is out of reach: all cells are scored on "
    )
    assert refused(together=True, record=1024, checkpoint__on_divergence="roll_back") == (
        "--together: true, and checkpoint.on_divergence is 'roll_back', which is for students that learn alone"
    )


@pytest.mark.parametrize(("answer", "together"), [("stop", True), ("roll_back", False)])
def test_on_an_accelerator_students_train_together_unless_one_may_be_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, together: bool
) -> None:
    monkeypatch.setattr(DeviceGroup, "platform", "gpu")
    argv = options(QUICK | {"checkpoint.on-divergence": answer, "out": tmp_path / "sweep"})
    assert make_plan(load_config(SweepConfig, argv, "sweep")).together is together


def test_recordings_that_do_not_fit_are_refused(
    tmp_path: Path, recording: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    two = {"teacher": ["cartpole", "acrobot"]}
    assert failure(capfd, out, **two, data=recording) == (
        "--data: 1 data set for 2 teachers: acrobot has none; give one for each teacher, in the same order"
    )
    nowhere = tmp_path / "nowhere"
    assert failure(capfd, out, **two, data=[recording, nowhere]) == f"{nowhere}: no such data set"
    assert failure(capfd, out, **two, data=[recording, recording]) == (
        f"{recording}: recorded with task 'cartpole', and the run has task 'acrobot'"
    )
    assert failure(capfd, out, data=recording, record=1024) == (
        "--record: there is a recording already, in data; give one of the two"
    )


def test_two_teachers_of_one_game_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = commands.write_teacher(tmp_path / "other.safetensors", "cartpole")
    assert failure(capfd, tmp_path / "sweep", teacher=["cartpole", other]) == (
        f"teacher: 'cartpole' and '{other}' both play cartpole; a sweep takes one teacher of each game"
    )


def test_what_does_not_fit_is_refused_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    # 2^31 - 1 steps of four float32, two float32 outputs and a byte of flags are 50 GiB.
    message = failure(capfd, out, **{"replay.capacity": 2**31 - 1, "record": 4096})
    assert message.startswith("replay.capacity: 2147483647 steps of cartpole take 50.0 GiB; in all the run takes ")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    # 34 bytes a step: the vector, ten bytes beside it and two outputs. One checkpoint more than the three kept, and one
    # that is being written, of 17,410 parameters with one moment each and the files around them.
    assert failure(capfd, out, record=4_000_000) == (
        f"{out}: the recording takes up to 136.0 MB and the checkpoints of 1 cell up to 946.4 kB, and 1.0 MB are free "
        "on that disk"
    )


def test_the_grid_is_printed_before_anything_is_done(finished_sweep: Path, tmp_path: Path) -> None:
    config = load_config(SweepConfig, options(QUICK | {"out": tmp_path / "sweep", "grid.learning-rates": ["1e-3"]}), "")
    plan = make_plan(config)
    grid, recording, checkpoints, memory = plan.describe()
    assert grid == "3 cells: 1 game (cartpole), 2 losses (kl, nll), 2 temperatures (0.1, 1); 300 updates each"
    assert recording == "recording of cartpole: 2,048 steps, up to about 69.6 kB"
    # 386 parameters with two moments each, four bytes each, and 50 kB around them; three checkpoints of three cells.
    assert checkpoints == "checkpoints: up to about 491.7 kB"
    assert memory == plan.memory.describe()
    assert not (tmp_path / "sweep").exists()
    arrays = {name: text for name, text in contents(finished_sweep / "data").items() if "/c/" in name}
    assert sum(map(len, arrays.values())) <= plan.recording_bytes
