"""``pd-jax plan`` for the devices that there are, and what it refuses.

`tests/resources/test_compilers.py` has devices that are not there.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import types
from pathlib import Path
from typing import Any

import jax
import pytest

from pd_jax.cli import main
from pd_jax.config.loading import from_mapping
from pd_jax.config.plan import PlanConfig
from pd_jax.config.sections import ActorsConfig
from pd_jax.environments.tasks import get_task
from pd_jax.report.plans import plan_notes, print_plan, print_search
from pd_jax.resources.plan import compilers, plan, search
from pd_jax.resources.plan.devices import parse_topology, read_kinds
from pd_jax.resources.plan.programs import Run, programs_of
from pd_jax.resources.plan.summary import Plan, ProgramReport, Rates
from pd_jax.system.devices import DeviceGroup
from support.commands import options

CARTPOLE: dict[str, Any] = {
    "topology": "here",
    "game": ["cartpole", "acrobot"],
    "student.network": "mlp",
    "student.mlp-hidden": [16],
    "env.num-lanes": 8,
    "learner.batch-size": 16,
    "replay.capacity": 4096,
}
FIELDS = {
    "argument_bytes", "temporary_bytes", "code_bytes", "flops", "bytes_accessed", "ring_bytes", "ring_copies",
    "all_reduces", "estimated_seconds",
}  # fmt: skip


SENSES: dict[str, Any] = {"components": [2, 0], "noise": [0.1], "missing": 0.1, "delay": 1, "window": 3}
GAME: dict[str, Any] = {"env": {"num_lanes": 8}, "replay": {"capacity": 4096}, "schedule": {"rollout_length": 16}}
GAME |= {"evaluation": {"num_lanes": 8}}


def run_of(game: str, student: dict[str, Any], *, in_jit: bool) -> Run:
    config = from_mapping(PlanConfig, {"topology": "here", "game": [game], "student": student, **GAME})
    return Run(config.distillation((game,)), (get_task(game),), "net3", DeviceGroup.local(1), 1, in_jit)


@pytest.mark.parametrize(
    ("game", "student", "in_jit", "seen"),
    [
        ("cartpole", {"network": "mlp", "observation": SENSES}, True, (2,)),
        pytest.param(
            "cartpole",
            {"network": "mlp", "observation": SENSES, "memory": "gru"},
            False,
            None,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "pong", {"network": "mlp", "observation": {"source": "ram"}}, True, (128,), marks=pytest.mark.slow
        ),
        pytest.param("pong", {"network": "mlp", "observation": {"source": "ram"}}, False, None, marks=pytest.mark.slow),
        pytest.param(
            "pong_ram", {"network": "net3", "observation": {"source": "frames"}}, True, (84, 84), marks=pytest.mark.slow
        ),
        pytest.param(
            "pong_ram", {"network": "net3", "observation": {"source": "frames"}}, False, None, marks=pytest.mark.slow
        ),
        pytest.param(
            "pong",
            {"network": "net3", "observation": {"frames": 1, "size": 42}},
            True,
            (42, 42),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_students_senses_are_in_the_programs_that_are_planned(
    game: str, student: dict[str, Any], in_jit: bool, seen: tuple[int, ...] | None
) -> None:
    planned = {program.name: program for program in programs_of(run_of(game, student, in_jit=in_jit))}
    # Nobody relabels what only a student senses.
    assert list(planned) == [
        f"update {student['network']}",
        *(f"{name} {game}" for name in ("insert", "rollout", "evaluate")),
    ]
    lowered = {name: program.lower() for name, program in planned.items()}
    if seen is not None:
        # The play of eight lanes that a run would store: 16 steps of what the student sensed.
        trajectory = lowered[f"rollout {game}"].out_info[1]
        assert trajectory.observations.shape == (16, 8, *seen)
    # What the sensors have in mind is carried along, in play and in evaluations.
    evaluated = lowered[f"evaluate {game}"].out_info[0]
    sensors = jax.tree.leaves(evaluated.policy_state[0])
    assert sensors and all(leaf.shape[0] == 8 for leaf in sensors)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What was written and printed of a plan for the devices of the tests."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("pd_jax.commands.plan.print_line", lambda text, _: lines.append(text))
        assert main(["plan", *options(CARTPOLE | {"json": path})]) == 0
    return json.loads(path.read_text()), "\n".join(lines)


def test_a_plan_says_of_every_program_what_its_compiler_says(planned: tuple[dict[str, Any], str]) -> None:
    written, told = planned
    assert list(written["programs"]) == [
        "update mlp", "insert cartpole", "rollout cartpole", "evaluate cartpole", "relabel cartpole",
        "insert acrobot", "rollout acrobot", "evaluate acrobot", "relabel acrobot",
    ]  # fmt: skip
    assert told.splitlines() == [f"compiling: {name}" for name in written["programs"]]
    assert (written["topology"], written["devices"]) == ("here", len(jax.local_devices()))
    assert written["fits"] is True and 0 < written["needed_bytes"] < written["memory_bytes"]
    for report in written["programs"].values():
        assert set(report) >= FIELDS and report["fault"] == ""
        assert report["flops"] > 0 or report["name"].startswith("insert")
    update = written["programs"]["update mlp"]
    assert update["ring_copies"] == 0 and len(update["all_reduces"]) <= 1
    # Two games of 4,096 steps: vectors of 4 and 6 numbers, 2 and 3 outputs.
    assert update["ring_bytes"] == 4096 * 4 * (4 + 6 + 2 + 3) // len(jax.local_devices())
    assert written["rates"] is None, "nothing is known of this machine's speed"


def test_a_plan_is_printed_whole_whatever_reads_it(
    capfd: pytest.CaptureFixture[str], planned: tuple[dict[str, Any], str]
) -> None:
    print_plan(_plan_of(planned[0]))
    out = capfd.readouterr().out
    for name in ("update mlp", "relabel acrobot"):
        assert sum(line.strip().startswith(name) for line in out.splitlines()) == 1
    assert "memory of a device:" in out and "fits" in out and "speed: neither" in out


def _plan_of(written: dict[str, Any], **changes: Any) -> Plan:
    programs = {name: ProgramReport(**report) for name, report in written["programs"].items()}
    return dataclasses.replace(Plan(**{**written, "programs": programs}), **changes)


def test_what_cannot_be_compiled_is_one_line_and_the_others_are_still_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    report = plan.report_program

    def fail(program: Any, *arguments: Any) -> ProgramReport:
        if program.name.startswith(("insert", "relabel")):
            messages = {
                "insert": "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm\nmore",
                "relabel": "odd\nx",
            }

            def lower() -> Any:
                raise RuntimeError(messages[program.name.split()[0]])

            program = dataclasses.replace(program, lower=lower)
        return report(program, *arguments)

    monkeypatch.setattr(plan, "report_program", fail)
    one = CARTPOLE | {"game": ["cartpole"]}
    assert main(["plan", *options(one)]) == 0
    out = capfd.readouterr().out
    assert "insert cartpole: does not fit into the memory (RESOURCE_EXHAUSTED: Ran out of memory in memory" in out
    assert "relabel cartpole: cannot be compiled (odd)" in out
    assert "update mlp" in out and "does not fit" in out


def test_a_program_that_cannot_be_compiled_leaves_open_whether_all_fits(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    report = plan.report_program

    def fail(program: Any, *arguments: Any) -> ProgramReport:
        found = report(program, *arguments)
        return dataclasses.replace(found, fault="cannot be compiled (odd)") if "relabel" in program.name else found

    monkeypatch.setattr(plan, "report_program", fail)
    assert main(["plan", *options(CARTPOLE | {"game": ["cartpole"]})]) == 0
    assert "may fit" in capfd.readouterr().out


@pytest.mark.parametrize(("left", "capacity"), [(-400, 19_968), (0, 39_936), (800, 79_872), (-900, 0)])
def test_the_capacity_that_fits_leaves_what_all_else_takes(left: int, capacity: int) -> None:
    config = from_mapping(
        PlanConfig,
        {"topology": "here", "game": ["pong"], "env": {"num_lanes": 32}, "replay": {"capacity": 40_000}},
    ).distillation(("pong",))
    # 800 bytes for 40,000 steps; as many as 32 lanes of whole eights have.
    assert plan._largest_capacity(config, left, 800) == capacity
    assert (capacity % 256 == 0 and capacity <= 40_000 * (800 + left) / 800) or capacity == 0


def test_a_plan_that_does_not_fit_says_what_would(planned: tuple[dict[str, Any], str]) -> None:
    changed = _plan_of(planned[0], fits=False, largest_capacity=39_936)
    assert "replay.capacity: about 39,936 steps of each game fit" in plan_notes(changed)
    assert not any("replay.capacity" in line for line in plan_notes(_plan_of(planned[0])))


def test_rates_follow_from_seconds_cores_and_the_schedule() -> None:
    kinds = read_kinds()
    topology = parse_topology("v5e:4x8", kinds)
    config = from_mapping(
        PlanConfig,
        {
            "topology": "v5e:4x8",
            "game": ["pong", "breakout"],
            "env": {"num_lanes": 32},
            "schedule": {"steps_per_round": 10_240, "updates_per_round": 512},
            "learner": {"batch_size": 32},
        },
    )

    def report(name: str, seconds: float, games: tuple[str, ...]) -> ProgramReport:
        return ProgramReport(name=name, games=games, estimated_seconds=seconds, floor_seconds=seconds / 2)

    games = ("pong", "breakout")
    reports = {
        "update net2": report("update net2", 1e-4, games),
        "rollout pong": report("rollout pong", 1e-5, ("pong",)),
        "rollout breakout": report("rollout breakout", 3e-5, ("breakout",)),
    }
    tasks = tuple(map(plan.get_task, games))
    run = plan.Run(config.distillation(games), tasks, "dqn", devices("tpu"), 8, False)
    rates = plan._rates(run, reports, topology, 1600.0)
    assert rates is not None
    assert rates.steps_per_update == 40.0
    # 4 lanes of each game on each of 8 hosts, in four groups: 4 x 10 and 4 x 30 microseconds for 8 steps.
    decision = 160e-6 / 8
    assert rates.inference_steps_per_second == pytest.approx(8 / decision)
    assert rates.updates_per_second == pytest.approx(1 / (1e-4 + 40 * decision / 8))
    # Of each game three groups of one lane are with EnvPool at once, on 56 cores of each host.
    assert (rates.cores, rates.lanes_at_once) == (8 * 56, 8 * 6)
    assert rates.stepping_steps_per_second == 8 * 6 * 1600
    assert rates.cores_needed == pytest.approx(rates.updates_per_second * 40 / 1600)
    assert rates.bound_by == "stepping"
    assert rates.bound_updates_per_second == pytest.approx(8 * 6 * 1600 / 40)
    quick = plan._rates(run, reports, topology, 1e6)
    assert quick is not None and quick.bound_by == "inference"
    # On devices of their own, decisions cost the updates nothing.
    apart = dataclasses.replace(run, config=dataclasses.replace(run.config, actors=ActorsConfig(num_devices=1)))
    alone = plan._rates(apart, reports, topology, 1e6)
    assert alone is not None and alone.updates_per_second == pytest.approx(1e4)


def test_inside_jit_a_device_waits_for_environments() -> None:
    topology = parse_topology("h100:1", read_kinds())
    config = from_mapping(
        PlanConfig,
        {
            "topology": "h100:1",
            "game": ["pong"],
            "env": {"num_lanes": 32},
            "schedule": {"steps_per_round": 10_240, "updates_per_round": 512},
        },
    )
    reports = {
        "update net2": ProgramReport(name="update net2", games=("pong",), floor_seconds=1e-3),
        "rollout pong": ProgramReport(name="rollout pong", games=("pong",), floor_seconds=1e-5),
    }
    run = plan.Run(config.distillation(("pong",)), (plan.get_task("pong"),), "dqn", devices("gpu"), 1, True)
    rates = plan._rates(run, reports, topology, 1000.0)
    assert rates is not None
    # 20 steps for each update: 32 lanes step at once, and decide together.
    expected = 1e-3 + 20 / 32_000 + 20 / 32 * 1e-5
    assert rates.updates_per_second == pytest.approx(1 / expected)
    assert (rates.lanes_at_once, rates.bound_by) == (32, "updates")
    from_host = plan._rates(dataclasses.replace(run, in_jit=False), reports, topology, 1000.0)
    assert from_host is not None and from_host.updates_per_second == pytest.approx(1 / (1e-3 + 20 / 8 * 1e-5))


def devices(platform: str) -> Any:
    """As far as rates depend on them."""
    return types.SimpleNamespace(size=32, platform=platform)


def test_the_floor_is_arithmetic_or_traffic_and_then_the_links() -> None:
    kind = read_kinds()["v5e"]
    assert plan.floor_seconds(kind, 197e12, 1.0) == pytest.approx(1.0)
    assert plan.floor_seconds(kind, 1.0, 819e9) == pytest.approx(1.0)
    assert plan.floor_seconds(kind, None, None) == 0.0
    assert plan.link_seconds(kind.link_bandwidth, 8, 200_000_000_000) == pytest.approx(2 * 7 / 8)


def test_the_efficiency_is_what_the_all_reduce_leaves_of_an_update() -> None:
    by_floor = ProgramReport(name="update", games=(), floor_seconds=4.0, link_seconds=1.0)
    assert by_floor.efficiency == pytest.approx(3 / 4)
    # The compiler's estimate counts more than arithmetic and traffic.
    by_estimate = dataclasses.replace(by_floor, estimated_seconds=9.0)
    assert by_estimate.efficiency == pytest.approx(9 / 10)
    assert ProgramReport(name="update", games=()).efficiency is None


def test_a_search_puts_what_fits_and_learns_most_first(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], planned: tuple[dict[str, Any], str]
) -> None:
    tried: list[tuple[int, int]] = []

    def make(config: PlanConfig, on_program: Any) -> Plan:
        batch, lanes = config.learner.batch_size, config.env.num_lanes
        tried.append((batch, lanes))
        if batch == 32:
            raise plan.UserError("learner.batch_size: 32 does not split evenly")
        speed = 1000.0 / batch**0.5 * lanes
        rates = Rates(
            updates_per_second=speed, efficiency=None, steps_per_update=1.0, steps_per_second=speed,
            inference_steps_per_second=None,
            stepping_steps_per_second=None, lanes_at_once=lanes, cores_needed=1.0, cores=None, bound_by="updates",
            bound_updates_per_second=speed,
            bound_steps_per_second=speed,
        )  # fmt: skip
        return _plan_of(planned[0], minibatch=batch, lanes=(lanes,), rates=rates, fits=batch < 128)

    monkeypatch.setattr(search, "make_plan", make)
    config = from_mapping(
        PlanConfig,
        {"topology": "here", "game": ["cartpole"], "env": {"num_lanes": 8}, "learner": {"batch_size": 16}},
    )
    plans = search.search_plans(config, make(config, None), lambda name: None)
    assert tried[1:6] == [(8, 8), (32, 8), (64, 8), (128, 8), (64, 4)]
    # 128 learns more and does not fit; twice and four times the lanes do.
    assert (plans[0].minibatch, plans[0].lanes[0]) == (64, 32)
    assert [one.fits for one in plans] == sorted((one.fits for one in plans), reverse=True)
    print_search(plans)
    first = capfd.readouterr().out.splitlines()[5].split()
    assert first[:3] == ["64", "32", "yes"]
    assert any("bound by updates" in line for line in plan_notes(plans[0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topology": "v5:2x4"}, "topology: 'v5' is not a device; did you mean 'v5"),
        ({"topology": "v5e:3"}, "topology: the shape of v5e is 2 numbers"),
        ({"topology": "v5e:4x4"}, "env.num_lanes: 8 does not split evenly over 16 devices"),
        (
            {"topology": "h100:8", "learner.batch-size": 4, "replay.capacity": 512},
            "learner.batch_size: 4 does not split",
        ),
        ({"game": ["pongg"]}, "'pongg' is not a game; did you mean 'pong'?"),
        ({"student.network": "net9"}, "'net9' is not a"),
        ({"student.network": "net2", "student.mlp-hidden": None}, "'net2' sees frames"),
        ({"game": ["cartpole", "pong"]}, "shows frames"),
        ({"game": ["cartpole", "cartpole"]}, "cartpole is there 2 times"),
        ({"device-file": "/nowhere/devices.yaml"}, "/nowhere/devices.yaml"),
        (
            {"json": "/nowhere/else/plan.json"},
            "json: /nowhere/else/plan.json: cannot be written: No such file or directory",
        ),
        ({"json": "/proc/plan.json"}, "json: /proc/plan.json: cannot be written"),
        ({"topology": "here:2"}, "topology: here is all devices that there are, and has no shape, not 'here:2'"),
        ({"game": ["all", "pong"]}, "game: all is the 57 of Atari, and stands alone"),
        (
            {"topology": "h100:8", "learner.num-devices": 16},
            "learner.num_devices: 16 devices wanted, and the topology has",
        ),
        ({"actors.num-devices": 2}, "actors.num_devices: 2 "),
        ({"topology": "v5e:2x4", "env.stepping": "jit"}, "env.stepping: EnvPool's step inside jit exists for CPUs"),
        ({"teacher": ["a", "b", "c"]}, "2 games for 3 teachers"),
        ({"data": ["x", "y"]}, "recorded play has lanes of its own"),
        ({"teacher-network": "resnet"}, "'resnet' is not a network of frames"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    changes: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    values = {key: value for key, value in (CARTPOLE | changes).items() if value is not None}
    assert main(["plan", *options(values)]) == 2
    err = capfd.readouterr().err
    assert message in err and err.count("\n") == 1 and err.startswith("pd-jax plan: ")


def test_games_are_needed_and_teachers_files_are_not(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--topology", "here"]) == 2
    assert "game: is missing; give the games, or all for the 57 of Atari" in capfd.readouterr().err
    assert main(["plan", "--topology", "here", "--teacher", "runs/mine.safetensors"]) == 2
    assert "runs/mine.safetensors is no bundled teacher; teachers' files are not read" in capfd.readouterr().err


def test_an_existing_file_is_never_overwritten(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    path.write_text("mine")
    assert main(["plan", *options(CARTPOLE | {"json": path})]) == 2
    assert capfd.readouterr().err == f"pd-jax plan: json: {path} is there already; name another file\n"
    assert path.read_text() == "mine"


@pytest.mark.slow
def test_all_games_are_fifty_seven() -> None:
    config = from_mapping(PlanConfig, {"topology": "here", "game": ["all"]})
    tasks = plan._tasks(config)
    assert len({task.name for task in tasks}) == 57 and max(task.num_actions for task in tasks) == 18


def test_a_compiler_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = read_kinds()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for text, extra in (("v5e:2x4", "plan-tpu"), ("h100:8", "plan-cuda")):
        with pytest.raises(plan.UserError, match=rf"pip install 'pd-jax\[{extra}\]'"):
            compilers.devices_of(parse_topology(text, kinds))


def test_a_compiler_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(compilers.metadata, "version", lambda name: "0.0.1")
    with pytest.raises(plan.UserError, match=r"libtpu is 0\.0\.1, and JAX .* asks for [\d.]+\*; install that one"):
        compilers.devices_of(parse_topology("v5e:2x4", read_kinds()))


def test_the_help_names_the_devices(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--help"]) == 0
    out = capfd.readouterr().out
    assert "v5p:4x4x4" in out and "--search" in out and "--json" in out


def test_nothing_of_the_disk_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *options(CARTPOLE | {"topology": "v5:1x1"})]) == 2
    assert list(tmp_path.iterdir()) == []
