"""The measuring of ``python -m benchmarks``: turns, ratios, floors, growth, what is written, and what is refused."""

from __future__ import annotations

import errno
import itertools
import json
import os
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import benchmarks.__main__ as command
from benchmarks.harness import record
from benchmarks.harness import store as store_module
from benchmarks.harness.floors import Ceilings, Cost, forward_flops, measure_ceilings, training_flops
from benchmarks.harness.growth import find_growth
from benchmarks.harness.measure import Spread, percentile, rates, ratios, take_turns, together
from benchmarks.harness.peers import read_peers
from benchmarks.harness.rows import Measured, Row, make_row
from benchmarks.harness.sizes import find_size
from benchmarks.harness.store import OtherMachineError, Store
from benchmarks.stages import ABOUT, STAGES
from benchmarks.stages.best import BEST, best_rows
from benchmarks.stages.context import PyTorch
from benchmarks.studies.bfloat16 import operations_of
from benchmarks.studies.products import Part, parts_of
from pd_jax.errors import UserError
from pd_jax.networks.registry import make_network
from pd_jax.resources.traces import Span

FRAMES = (84, 84, 4)


def test_competitors_take_turns_and_nobody_always_follows_the_same_neighbour():
    calls: list[str] = []
    seconds = take_turns({name: lambda name=name: calls.append(name) for name in "abc"}, 3)
    assert calls[:3] == ["a", "b", "c"]  # warm-up
    assert calls[3:] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_timed_call_is_waited_for():
    class Dispatched:
        waits = 0

        def block_until_ready(self) -> None:
            Dispatched.waits += 1

    take_turns({"ours": lambda: {"result": Dispatched()}}, 4)
    assert Dispatched.waits == 5


def test_rates_ratios_and_limits_are_worked_out_turn_by_turn():
    assert rates(100, [0.5, 2.0]) == [200.0, 50.0]
    # The machine slows down to a quarter; the quotient of two medians of other turns would not be a half.
    assert ratios([8.0, 4.0, 2.0], [16.0, 8.0, 4.0]) == [0.5, 0.5, 0.5]
    # 10 ms of stepping and 20 ms of inference for every item.
    assert together([100.0], [50.0]) == [pytest.approx(1 / 0.030)]
    assert percentile([float(value) for value in range(101)], 99) == pytest.approx(99.0)
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == Spread(median=2.5, lowest=1.0, highest=10.0, turns=4)


def test_dqn_costs_what_counting_by_hand_gives():
    convolutions = 2 * (20 * 20 * 32 * 8 * 8 * 4 + 9 * 9 * 64 * 4 * 4 * 32 + 7 * 7 * 64 * 3 * 3 * 64)
    dense = 2 * (7 * 7 * 64 * 512 + 512 * 6)
    network = make_network("dqn", 6)
    assert forward_flops(network, FRAMES) == convolutions + dense
    assert training_flops(network, FRAMES) == 3 * (convolutions + dense) - 2 * 20 * 20 * 32 * 8 * 8 * 4


@pytest.mark.parametrize("name", ["dqn", "net1", "net2", "net3", "multi3"])
def test_operations_of_a_network_are_those_that_xla_counts(name: str):
    network = make_network(name, 6, convolution="native")
    frames = jnp.zeros((1, *FRAMES), jnp.uint8)
    variables = jax.eval_shape(network.init, jax.random.key(0), frames)
    counted = jax.jit(network.apply).lower(variables, frames).cost_analysis()["flops"]
    # XLA counts biases, ReLUs and the scaling of the kernels as well: well under one in fifty of them all.
    assert 0.97 < forward_flops(network, FRAMES) / counted <= 1.0


def test_a_sample_of_several_games_goes_through_one_head():
    of_each = [forward_flops(make_network("multi3", actions), FRAMES) for actions in (3, 18)]
    together = forward_flops(make_network("multi3", (3, 18)), (2, *FRAMES))
    assert together == sum(of_each) / 2


def test_a_vector_network_has_a_cost_too():
    network = make_network("mlp", 2, hidden_sizes=(16, 8))
    forward = 2 * (4 * 16 + 16 * 8 + 8 * 2)
    assert forward_flops(network, (4,), "float32") == forward
    assert training_flops(network, (4,), "float32") == 3 * forward - 2 * 4 * 16


def test_the_floor_is_the_slower_of_operations_and_bytes():
    ceilings = Ceilings({"float32": 100.0, "bfloat16": 1000.0}, bytes=20.0)
    floor = ceilings.floor(Cost(flops=10.0, bytes=4.0), seconds=0.4)
    assert (floor.seconds, floor.flops_share, floor.bytes_share) == pytest.approx((0.2, 0.25, 0.5))
    assert ceilings.floor(Cost(flops=10.0, dtype="bfloat16"), seconds=0.4).flops_share == pytest.approx(0.025)


def test_ceilings_are_beyond_what_any_machine_does_in_python():
    ceilings = measure_ceilings(128, 2**20)
    assert set(ceilings.flops) == {"float32", "bfloat16"}
    assert min(*ceilings.flops.values(), ceilings.bytes) > 1e7


def test_a_row_compares_rates_and_times_the_same_way_round():
    faster = make_row(
        "update",
        {"batch": 32},
        "samples/s",
        [20.0, 30.0],
        limit=Measured("limit", (40.0, 40.0)),
        rival=_rival(10.0, 10.0),
    )
    assert faster.limit is not None and faster.rival is not None
    assert faster.limit.ratio == Spread(0.625, 0.5, 0.75, 2)
    assert faster.rival.ratio == Spread(2.5, 2.0, 3.0, 2)
    quicker = make_row("latency", {}, "ms", [1.0, 2.0], rival=_rival(4.0, 4.0))
    assert quicker.rival is not None and quicker.rival.ratio == Spread(3.0, 2.0, 4.0, 2)


def test_a_row_survives_the_result_file():
    ceilings = Ceilings({"float32": 100.0}, bytes=20.0)
    row = make_row(
        "update",
        {"network": "dqn", "batch": 32},
        "samples/s",
        [20.0, 30.0],
        rival=Measured("PyTorch", missing="PyTorch is not installed"),
        cost=Cost(1.0, 2.0),
        ceilings=ceilings,
        note="so",
    )
    assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row
    assert row.rival is not None and row.rival.value is None and row.rival.missing == "PyTorch is not installed"


def _rival(*values: float) -> Measured:
    return Measured("PyTorch", values)


def test_each_side_is_compared_at_its_own_best_batch():
    speed = {
        ("ours", 32): [5.0, 7.0],
        ("ours", 64): [2.0, 2.0],
        ("PyTorch", 32): [1.0, 1.0],
        ("PyTorch", 64): [3.0, 2.0],
    }
    *by_batch, best = best_rows("update", {}, "samples/s", speed, lambda values: _rival(*(values or ())))
    assert [row.setting["batch"] for row in by_batch] == [32, 64]
    assert best.setting["batch"] == BEST
    assert best.rival is not None and best.rival.ratio == Spread.of([5.0 / 3.0, 7.0 / 2.0])
    assert best.note == "ours at 32, the rival at 64"


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.5])
def test_growth_finds_the_power_that_cost_follows(power: float):
    # Seconds of a call are size ** power, so that size ** (1 - power) items are done in one.
    rows = [_row("update", size ** (1 - power), batch=size, network="dqn") for size in (32, 64, 256)]
    rows += [_row("update", 7.0, batch=BEST, network="dqn"), _row("update", 7.0, batch=32, network="net3")]
    (growth,) = find_growth(rows)
    assert (growth.sizes, growth.setting) == ((32, 64, 256), {"network": "dqn"})
    assert growth.exponent == pytest.approx(power)
    assert growth.worst_step == pytest.approx(max(2 ** (power - 1), 4 ** (power - 1)))


def test_devices_are_compared_though_their_minibatch_grows():
    rows = [_row("devices", 100.0, devices=count, batch=32 * count, network="net2") for count in (1, 2, 4)]
    (growth,) = find_growth(rows)
    assert growth.sizes == (1, 2, 4)
    assert growth.exponent == pytest.approx(1.0)


def _row(stage: str, rate: float, **setting: Any) -> Row:
    return make_row(stage, setting, "samples/s", [rate])


def test_results_of_another_machine_or_size_are_not_mixed_with_these(tmp_path: Path):
    path, toy = tmp_path / "benchmarks.json", find_size("toy")
    store = Store(path, toy)
    store.add("envpool", [_row("envpool", 5.0, lanes=2)], seconds=1.0, turns=1, ceilings=Ceilings({}, 1.0))
    assert Store(path, toy).rows == store.rows
    with pytest.raises(UserError, match="of size toy, not small"):
        Store(path, find_size("small"))
    content = json.loads(path.read_text())
    content["machine"]["cores"] = 12345
    path.write_text(json.dumps(content))
    with pytest.raises(OtherMachineError, match=r"another machine \(cores: 12345"):
        Store(path, toy)
    row = store.rows[0].to_json()
    del row["limit"]
    wrong = (
        {"machine": None},
        {"machine": {}},
        {"stages": []},
        {"stages": {"envpool": 5}},
        {"stages": {"envpool": {"rows": [row]}}},
    )
    for damaged in ("[1]", '{"half":', *(json.dumps(content | change) for change in wrong)):
        path.write_text(damaged)
        with pytest.raises(UserError, match="not a result file"):
            Store(path, toy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "updat"], "'updat' is not a stage; did you mean 'update'?"),
        (["--size", "smal"], "'smal' is not a size; did you mean 'small'?"),
        (["--turns", "0"], "--turns: must be at least 1, got 0"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(arguments: list[str], message: str, tmp_path: Path, capsys: Any):
    assert command.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_results_is_refused(tmp_path: Path, capsys: Any):
    (tmp_path / "out").write_text("")
    assert command.main(["--size", "toy", "--out", str(tmp_path / "out")]) == 2
    assert "is not a directory" in capsys.readouterr().err


def test_where_nothing_can_be_written_nothing_is_measured(capsys: Any):
    assert command.main(["--size", "toy", "--out", "/proc/nowhere"]) == 2
    error = capsys.readouterr().err
    assert "nothing can be written to /proc/nowhere" in error and error.count("\n") == 1


def test_a_disk_that_fills_up_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: Any):
    store = Store(tmp_path / "benchmarks.json", find_size("toy"))
    first = [_row("envpool", 5.0, lanes=2)]
    store.add("envpool", first, seconds=1.0, turns=1, ceilings=Ceilings({}, 1.0))

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"benchmarks.json cannot be written: No space left"):
        store.add("replay", [_row("replay", 5.0)], seconds=1.0, turns=1, ceilings=Ceilings({}, 1.0))
    assert [path.name for path in tmp_path.iterdir()] == ["benchmarks.json"]
    assert Store(tmp_path / "benchmarks.json", find_size("toy")).rows == first


def test_a_pytorch_that_cannot_be_imported_is_named_as_missing(monkeypatch: Any):
    monkeypatch.setitem(sys.modules, "benchmarks.rivals.pytorch", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    PyTorch.find.cache_clear()
    found = PyTorch.find()
    PyTorch.find.cache_clear()
    assert found.module is None and found.missing.startswith("PyTorch cannot be imported: import of benchmarks")


def test_finished_stages_outlast_failures_and_interruptions(tmp_path: Path, monkeypatch: Any, capsys: Any):
    ran: list[str] = []
    interrupts = iter([True, False])

    def stage(name: str) -> Any:
        def run(context: Any) -> list[Row]:
            ran.append(name)
            if name == "replay" and ran.count(name) == 1:
                raise RuntimeError("out of luck")
            if name == "update" and next(interrupts):
                raise KeyboardInterrupt
            return [_row(name, float(len(ran)), batch=8)]

        return run

    stages = MappingProxyType({name: stage(name) for name in ("envpool", "replay", "update", "games")})
    monkeypatch.setattr(command, "STAGES", stages)
    monkeypatch.setattr(store_module, "STAGES", stages)
    options = ["--size", "toy", "--out", str(tmp_path)]
    assert command.main(options) == 130
    assert _stages(tmp_path) == {"envpool": True, "replay": False}
    assert "failed: replay" in capsys.readouterr().out
    assert command.main([*options, "--resume"]) == 0
    assert ran == ["envpool", "replay", "update", "replay", "update", "games"]
    assert command.main([*options, "--stages", "games"]) == 0
    assert _stages(tmp_path) == dict.fromkeys(stages, True)
    rows = json.loads((tmp_path / "benchmarks_toy.json").read_text())["stages"]["games"]["rows"]
    assert [row["ours"]["median"] for row in rows] == [7.0]
    assert "not measured" not in capsys.readouterr().out
    # What was measured before stays until it is measured anew, and is told apart from what was.
    interrupts = iter([True, False])
    assert command.main(options) == 130
    assert _stages(tmp_path) == dict.fromkeys(stages, True)
    assert "of an earlier run: update, games" in capsys.readouterr().out
    assert _medians(tmp_path) == {"envpool": 8.0, "replay": 9.0, "update": 5.0, "games": 7.0}
    assert command.main([*options, "--resume"]) == 0
    assert _medians(tmp_path) == {"envpool": 8.0, "replay": 9.0, "update": 11.0, "games": 12.0}
    assert "earlier run" not in capsys.readouterr().out


def test_results_of_another_machine_stay_where_they_are(tmp_path: Path, monkeypatch: Any, capsys: Any):
    def stage(context: Any) -> list[Row]:
        return [_row("games", 3.0, games=2)]

    stages = MappingProxyType({"games": stage})
    monkeypatch.setattr(command, "STAGES", stages)
    monkeypatch.setattr(store_module, "STAGES", stages)
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert command.main(["--size", "toy"]) == 0
    path = tmp_path / "benchmarks_toy.json"
    content = json.loads(path.read_text())
    content["machine"]["processor"] = "abacus"
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert command.main(["--size", "toy"]) == 0
    assert "has another machine's results; those of this one go to runs/benchmarks" in capsys.readouterr().err
    assert json.loads(path.read_text()) == content
    there = json.loads((tmp_path / "runs" / "benchmarks" / "benchmarks_toy.json").read_text())
    assert there["machine"]["processor"] != "abacus" and set(there["stages"]) == {"games"}
    assert command.main(["--size", "toy", "--out", str(tmp_path)]) == 2
    assert "is of another machine (processor: abacus" in capsys.readouterr().err


def test_machines_of_one_processor_are_told_apart_by_what_they_do_a_second(tmp_path: Path, monkeypatch: Any):
    def open_store(flops: float, num_bytes: float) -> Store:
        monkeypatch.setattr(record, "rates", lambda: {"flops": flops, "bytes": num_bytes})
        return Store(tmp_path / "benchmarks.json", find_size("toy"))

    def add(store: Store, stage: str) -> None:
        store.add(stage, [_row(stage, 5.0)], seconds=1.0, turns=1, ceilings=Ceilings({}, 1.0))

    add(open_store(100e9, 10e9), "envpool")
    # As busy as it may be, it is the same machine.
    add(open_store(130e9, 7.5e9), "replay")
    content = (tmp_path / "benchmarks.json").read_text()
    for flops, num_bytes, told in (
        (50e9, 10e9, "100 GFLOP/s, here 50 GFLOP/s"),
        (100e9, 21e9, "10 GB/s, here 21 GB/s"),
        (200e9, 10e9, "100 GFLOP/s, here 200 GFLOP/s"),
        # 1.3 times the second run's rate, but 1.7 times the first one's: machines are not walked through.
        (169e9, 10e9, "100 GFLOP/s, here 169 GFLOP/s"),
    ):
        with pytest.raises(OtherMachineError, match=rf"another machine \(measured rate: {told}\)"):
            open_store(flops, num_bytes)
    assert (tmp_path / "benchmarks.json").read_text() == content
    assert set(json.loads(content)["stages"]) == {"envpool", "replay"}
    # Before there were rates nobody could tell.
    without = json.loads(content)
    del without["machine"]["rates"]
    (tmp_path / "benchmarks.json").write_text(json.dumps(without))
    with pytest.raises(OtherMachineError, match=r"measured rate: none, here 100 GFLOP/s"):
        open_store(100e9, 10e9)


def test_measured_rates_hardly_change():
    # Not those that are kept for the process. On a busy machine a moment may be slower than another.
    measured = [record.rates.__wrapped__() for _ in range(2)]
    while (changes := _changes(measured))[-1] > record.RATE_TOLERANCE and len(measured) < 8:
        measured.append(record.rates.__wrapped__())
    assert min(rates[name] for rates in measured for name in ("flops", "bytes")) > 1e8
    assert min(changes) < record.RATE_TOLERANCE, measured
    assert record.machine()["rates"] == record.rates()


def _changes(measured: list[dict[str, float]]) -> list[float]:
    """From each to the next: the larger rate over the smaller one, of whichever changed more."""
    return [
        max(max(one[name], other[name]) / min(one[name], other[name]) for name in ("flops", "bytes"))
        for one, other in itertools.pairwise(measured)
    ]


def _stages(directory: Path) -> dict[str, bool]:
    stages = json.loads((directory / "benchmarks_toy.json").read_text())["stages"]
    return {name: "rows" in stage for name, stage in stages.items()}


def _medians(directory: Path) -> dict[str, float]:
    stages = json.loads((directory / "benchmarks_toy.json").read_text())["stages"]
    return {name: stage["rows"][0]["ours"]["median"] for name, stage in stages.items()}


def test_every_stage_is_explained_and_sizes_can_be_run():
    assert list(ABOUT) == list(STAGES)
    for name, field in itertools.product(("toy", "small", "full"), ("lanes", "batches", "games", "devices")):
        assert sorted(getattr(find_size(name), field))[0] >= 1
    for size in map(find_size, ("toy", "small", "full")):
        assert max(size.games) <= 10 and all(16 % count == 0 for count in size.devices)
        assert set(size.growing_networks) <= set(size.networks)


def test_the_peers_loops_become_rows(tmp_path: Path):
    machine = {
        "processor": "abacus",
        "cores": 2,
        "devices": ["cpu"],
        "rates": {"flops": 4e9, "bytes": 8e9},
        "revision": "1234567",
    }
    missing = read_peers(tmp_path, machine)
    assert missing.rows == [] and "no peers.json" in missing.note

    def spread(median: float) -> dict[str, float]:
        return {"median": median, "lowest": median / 2, "highest": median * 2}

    def loop(steps: float, updates: float) -> dict[str, Any]:
        return {"live": {"steps_per_second": spread(steps), "updates_per_second": spread(updates)}}

    results = {
        "settings": {"turns": 3, "student": "net2"},
        "loops": {"theirs": loop(100.0, 10.0), "ours, 10 to 1": loop(700.0, 60.0)},
        "ours_over_peer": {
            "theirs": {"ours, 10 to 1": {"steps_per_second": spread(7.0), "updates_per_second": spread(6.0)}}
        },
    }
    (tmp_path / "peers.json").write_text(json.dumps({"machine": machine, "results": results}))
    peers = read_peers(tmp_path, machine | {"revision": "89abcde"})
    assert peers.note == "peers' loops: revision 1234567"
    steps, updates = peers.rows
    assert (steps.unit, steps.ours.median) == ("steps/s", 700.0)
    assert updates.rival is not None and updates.rival.name == "theirs"
    assert updates.rival.value == Spread(10.0, 5.0, 20.0, 3) and updates.rival.ratio == Spread(6.0, 3.0, 12.0, 3)
    elsewhere = read_peers(tmp_path, machine | {"cores": 64})
    assert elsewhere.rows == [] and "of another machine (cores: 2)" in elsewhere.note
    slower = read_peers(tmp_path, machine | {"rates": {"flops": 2e9, "bytes": 8e9}})
    assert slower.rows == [] and "of another machine (measured rate: 4 GFLOP/s)" in slower.note
    for damaged in ("{}", "[]", json.dumps({"machine": machine, "results": []})):
        (tmp_path / "peers.json").write_text(damaged)
        with pytest.raises(UserError, match="is not what"):
            read_peers(tmp_path, machine)


def test_operations_of_an_update_are_told_apart_by_layer_and_direction() -> None:
    program = """
  %dot.1 = f32[400,128]{1,0} dot(%x, %k), metadata={op_name="jit(f)/loss/jvp(Net)/torso/conv1/dot_general"}
  %fusion.2 = f32[64,128]{1,0} fusion(%x), calls=%c, backend_config={"fusion_config":{"kind":"__ynn_fusion"}}, metadata={op_name="jit(f)/loss/transpose(jvp(Net))/torso/conv1/dot_general"}
  ROOT %dot.3 = f32[400,64]{1,0} dot(%x, %k), metadata={op_name="jit(f)/loss/transpose(jvp(Net))/torso/conv1/dot_general"}
  %sum.6 = f32[128]{0} fusion(%x), calls=%d, backend_config={"fusion_config":{"kind":"__ynn_fusion"}}, metadata={op_name="jit(f)/loss/transpose(jvp(Net))/torso/conv1/reduce_sum"}
  %add.4 = f32[400,128]{1,0} add(%x, %k), metadata={op_name="jit(f)/loss/jvp(Net)/torso/conv1/add"}
  %add.5 = (f32[400,128]{1,0}) add(%x, %k), metadata={op_name="jit(f)/optimizer/add"}
"""  # noqa: E501
    spans = [
        Span(name, "f", 0.0, 2e6)
        for name in ("dot.1", "dot.1", "fusion.2", "dot.3", "add.4", "sum.6", "add.5", "gone.7")
    ]
    parts = parts_of(spans, program, {"conv1": 64 * 128}, {"conv1": 1e6}, count=2)
    assert parts[0] == Part("conv1: forwards", 2e-3, 1e6)
    assert set(parts[1:]) == {
        Part("conv1: weights' gradient", 1e-3, 1e6),
        Part("conv1: inputs' gradient", 1e-3, 1e6),
        Part("layers, beside products", 2e-3),
        Part("optimizer", 1e-3),
        Part("other", 1e-3),
    }


def test_a_program_tells_in_which_type_it_multiplies() -> None:
    program = """
      %dot.1 = f32[32,6]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
      ROOT %dot.2 = bf16[32,6]{1,0} dot(%c, %d), lhs_contracting_dims={1}, rhs_contracting_dims={0}
      %conv = f32[2,20,20,16]{3,2,1,0} convolution(%e, %f), window={size=8x8 stride=4x4}
      %c = bf16[32,6]{1,0} convert(%dot.1)
      %convert_fusion = f32[32]{0} fusion(%c), kind=kLoop, calls=%dot
    """
    assert operations_of(program) == {"products": ["bf16", "f32", "f32"], "conversions": 1}
