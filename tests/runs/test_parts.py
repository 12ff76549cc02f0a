"""The sizes of parts: settled as a run begins, kept wherever it goes on, and refused where they make no sense."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pd_jax.config.distill import DistillConfig
from pd_jax.config.online import OnlineConfig
from pd_jax.config.sections import PartsConfig
from pd_jax.config.sweep import SweepConfig
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.config.yaml import read_yaml, write_yaml
from pd_jax.distill.counters import DistillCounters
from pd_jax.errors import UserError
from pd_jax.networks import partition
from pd_jax.networks.partition import PartSizes
from pd_jax.online.setup import make_online_setup
from pd_jax.runs.directory import _ADDED, RunDirectory
from pd_jax.runs.parts import EARLIER, settle
from pd_jax.runs.students import student_of
from pd_jax.sweep.setup import make_plan
from pd_jax.system import hosts
from pd_jax.trainers.setup import make_training_setup
from support.commands import QUICK_EVALUATION, contents, options, refusal, state_digests, succeed

OTHERS = PartSizes(convolution=4, inference=5, narrow=6, at_once=3, most=5, gradient=24)
"""Of a machine that there is not."""


def write_run(path: Path, parts: Any) -> None:
    path.mkdir()
    text = "# pd-jax distill\n" + write_yaml({"seed": 0} | ({} if parts is None else {"parts": parts}))
    (path / "config.yaml").write_text(text)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "machine_sizes", lambda: OTHERS)


def test_auto_is_the_machines_sizes_in_numbers_and_a_number_is_itself(tmp_path: Path, elsewhere: None) -> None:
    out = str(tmp_path / "run")
    assert vars(settle(PartsConfig(), out, resume=True)) == dataclasses.asdict(OTHERS)
    settled = settle(PartsConfig(most=7), out, resume=False)
    assert vars(settled) == dataclasses.asdict(OTHERS) | {"most": 7}
    assert settle(settled, out, resume=False) == settled


def test_a_run_keeps_its_sizes_on_another_machine(tmp_path: Path, elsewhere: None) -> None:
    there = {"convolution": 12, "inference": 14, "narrow": 20, "at_once": 1, "most": 3, "gradient": 48}
    write_run(tmp_path / "run", there)
    assert vars(settle(PartsConfig(), str(tmp_path / "run"), resume=True)) == there


def test_a_run_without_a_word_of_sizes_keeps_those_that_there_were(tmp_path: Path, elsewhere: None) -> None:
    write_run(tmp_path / "run", None)
    kept = {"convolution": 16, "inference": 16, "narrow": 32, "at_once": 2, "most": 8, "gradient": 64}
    assert vars(settle(PartsConfig(), str(tmp_path / "run"), resume=True)) == kept
    assert dataclasses.asdict(EARLIER) == _ADDED["parts"] == kept
    assert DistillCounters.from_metadata({"updates": 3}).parts == kept


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"most": -3}, "parts.most: -3 is out of range (at least 1)"),
        ({"most": "many"}, "parts.most: 'many' is not a whole number or auto"),
        (
            {"mist": 3},
            "parts.mist: no such key; did you mean 'most'? (convolution, inference, narrow, at_once, most, gradient)",
        ),
        (
            [16, 32],
            "parts: a list is not a mapping of settings (convolution, inference, narrow, at_once, most, gradient)",
        ),
    ],
)
def test_nonsense_in_a_runs_own_file_is_one_line(tmp_path: Path, parts: Any, problem: str) -> None:
    write_run(tmp_path / "run", parts)
    with pytest.raises(UserError) as error:
        settle(PartsConfig(), str(tmp_path / "run"), resume=True)
    assert str(error.value) == f"{tmp_path}/run/config.yaml: {problem}"


def test_all_processes_of_a_run_take_the_sizes_of_process_0(monkeypatch: pytest.MonkeyPatch, elsewhere: None) -> None:
    first = PartSizes(convolution=8, inference=8, narrow=8, at_once=8, most=16, gradient=256)
    monkeypatch.setattr(hosts, "from_primary", lambda what, value: json.dumps(dataclasses.asdict(first)))
    assert vars(settle(PartsConfig(), None, resume=False)) == dataclasses.asdict(first)
    assert settle(PartsConfig(most=4), None, resume=False).most == 4, "what one is told to, it says to the others"


def test_every_command_that_learns_has_the_settled_sizes_in_its_networks(tmp_path: Path, elsewhere: None) -> None:
    out, numbers = str(tmp_path / "run"), dataclasses.asdict(OTHERS)
    online = make_online_setup(OnlineConfig(game="pong", out=out))
    assert vars(online.config.parts) == numbers
    assert online.network.torso.sizes == online.student_setup.student.network.torso.sizes == OTHERS
    for games in ("pong", ("pong", "breakout")):
        training = make_training_setup(TrainTeacherConfig(game=games, out=out))
        assert vars(training.config.parts) == numbers
        assert training.student.network.torso.sizes == OTHERS
    (cell,) = make_plan(SweepConfig(teacher="pong", out=out)).cells
    assert vars(cell.config.parts) == numbers


def test_a_student_is_scored_with_the_sizes_of_its_run(elsewhere: None) -> None:
    config = DistillConfig(teacher="pong", game="pong", out="-", parts=PartsConfig(**dataclasses.asdict(OTHERS)))
    for parts, sizes in ((config.parts, OTHERS), (PartsConfig(), EARLIER)):
        own = dataclasses.replace(config, parts=parts)
        assert student_of(own, RunDirectory("-", "distill", {})).network.torso.sizes == sizes


def test_a_distillation_goes_on_with_its_sizes_and_with_no_others(
    tmp_path: Path, recorded_run_options: dict[str, Any], finished_run: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "run"
    settings = recorded_run_options | QUICK_EVALUATION | {"out": out, "schedule.rounds": 2}
    succeed("distill", settings | {"parts.most": 3})
    begun = read_yaml(out / "config.yaml")["parts"]
    assert begun["most"] == 3 and "auto" not in begun.values()
    before = contents(out)
    message = refusal(capfd, "distill", *options(settings | {"resume": True, "parts.most": 4}))
    assert "parts.most is 3 there and 4 here" in message
    assert contents(out) == before
    monkeypatch.setattr(partition, "machine_sizes", lambda: OTHERS)
    succeed("distill", settings | {"resume": True, "schedule.rounds": 5})
    assert read_yaml(out / "config.yaml")["parts"] == begun
    # No network of vectors is divided.
    assert state_digests(out) == state_digests(finished_run)
    # The file says something else than what was computed.
    text = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(text.replace("  most: 3", "  most: 5"))
    message = refusal(capfd, "distill", *options(settings | {"resume": True, "schedule.rounds": 6}))
    assert "parts.most is 5, and its checkpoint was made with 3" in message


def test_a_run_from_before_there_were_sizes_goes_on(
    tmp_path: Path, recorded_run_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "machine_sizes", lambda: OTHERS)
    out = tmp_path / "run"
    settings = recorded_run_options | QUICK_EVALUATION | {"out": out, "schedule.rounds": 1}
    kept = dataclasses.asdict(EARLIER)
    succeed("distill", settings | {f"parts.{name.replace('_', '-')}": size for name, size in kept.items()})
    config = read_yaml(out / "config.yaml")
    assert config.pop("parts") == kept
    (out / "config.yaml").write_text("# pd-jax distill\n" + write_yaml(config))
    succeed("distill", settings | {"resume": True, "schedule.rounds": 2})
    assert read_yaml(out / "config.yaml")["parts"] == kept
