"""A run's programs, compiled for TPUs and GPUs that are not there, by their own compilers.

They are skipped where the compilers are not installed: ``pip install -e '.[plan-tpu,plan-cuda]'``. With them, run
``JAX_PLATFORMS=cpu python -m pytest tests/resources/test_compilers.py``; ``-m slow`` compiles every network, and for
256 v5e and 64 v5p.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import export
from jax.sharding import SingleDeviceSharding

from pd_jax.config.loading import from_mapping
from pd_jax.config.plan import PlanConfig
from pd_jax.deploy.stablehlo import stablehlo_bytes
from pd_jax.distill.memory import distillation_parts
from pd_jax.environments.tasks import ATARI_57, get_task
from pd_jax.replay import transitions
from pd_jax.resources.plan.compilers import devices_of
from pd_jax.resources.plan.devices import parse_topology, read_kinds
from pd_jax.resources.plan.hlo import RingShape
from pd_jax.resources.plan.plan import make_plan, report_program
from pd_jax.resources.plan.programs import Program, Run, programs_of
from pd_jax.resources.plan.summary import ProgramReport
from pd_jax.system.devices import tracing_for
from support.policies import metadata_of, random_teacher

HAS_TPU = importlib.util.find_spec("libtpu") is not None
HAS_CUDA = importlib.util.find_spec("jax_cuda13_plugin") is not None
TPU = pytest.mark.skipif(not HAS_TPU, reason="libtpu is not installed")
CUDA = pytest.mark.skipif(not HAS_CUDA, reason="XLA's compiler for CUDA is not installed")
BOTH = [pytest.param("v5e:2x2", marks=TPU), pytest.param("h100:4", marks=CUDA)]
# No layer has as many rows as a ring of so many steps.
CAPACITY, LANES = 1056, 2


def run_for(topology: str, *games: str, network: str = "net2", share: int = 8, **learner: Any) -> Run:
    """A run with 2 lanes of 1,056 steps of each game and some samples on each device."""
    found = parse_topology(topology, read_kinds())
    config = from_mapping(
        PlanConfig,
        {
            "topology": topology,
            "game": list(games),
            "student": {"network": network, "compute_dtype": learner.pop("compute_dtype", "float32")},
            "env": {"num_lanes": LANES * found.size},
            "learner": {"batch_size": share * found.size, "updates_per_call": 4} | learner,
            "replay": {"capacity": CAPACITY * LANES * found.size},
        },
    )
    devices = devices_of(found)
    in_jit = devices.platform == "gpu"
    return Run(config.distillation(games), tuple(map(get_task, games)), "dqn", devices, found.num_hosts, in_jit)


def compiled(run: Run, *kinds: str) -> dict[str, ProgramReport]:
    """What the compiler says of the programs of some kinds, the first of each."""
    found: dict[str, ProgramReport] = {}
    kind = parse_topology("v5e:2x2", read_kinds())
    for program in programs_of(run):
        word = program.name.split()[0]
        if word in kinds and word not in found:
            found[word] = report_program(program, kind, run.devices.size)
            print(program.name, found[word])
            assert found[word].fault == ""
    return found


def check_in_place(report: ProgramReport, allowed: float = 0.02) -> None:
    """No ring is copied, and what comes and goes is no ring either."""
    assert report.ring_copies == 0
    assert report.temporary_bytes is not None and report.temporary_bytes < allowed * report.ring_bytes


@pytest.mark.parametrize("topology", BOTH)
def test_an_update_has_one_all_reduce_and_copies_no_ring(topology: str) -> None:
    run = run_for(topology, "pong")
    update = compiled(run, "update")["update"]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.learner_state.variables))
    # Gradients, and the means of loss and agreement.
    assert update.all_reduces == (4 * (parameters + 2),)
    assert update.collectives == () and update.ring_copies == 0
    # Its own minibatch and activations: the ring has 15 MB.
    assert update.temporary_bytes is not None and update.temporary_bytes < 0.4 * update.ring_bytes
    # The state is taken over: every parameter, both of the optimizer's numbers of it, and no copy beside them.
    assert update.aliased_bytes is not None and update.aliased_bytes >= 2 * 4 * parameters
    assert update.output_bytes is not None and update.output_bytes < 0.2 * update.aliased_bytes
    # What `distill` says before it begins is no less than what the compiler takes.
    teachers = [run.teacher(0)]
    parts = distillation_parts(run.config, run.student, teachers, run.devices)
    estimate = sum(part.num_bytes for part in parts if part.name in ("replay", "student", "activations"))
    assert update.argument_bytes is not None
    assert estimate >= run.devices.size * (update.argument_bytes + update.temporary_bytes)


@pytest.mark.parametrize("topology", BOTH)
def test_a_policy_that_a_cpu_exported_compiles_to_the_platforms_own_convolutions(topology: str) -> None:
    policy = random_teacher("pong", network="net2")
    program = export.deserialize(bytearray(stablehlo_bytes(policy, metadata_of(policy.task))))
    here = SingleDeviceSharding(devices_of(parse_topology(topology, read_kinds())).devices[0])
    observations = jax.ShapeDtypeStruct((8, 84, 84, 4), jnp.uint8, sharding=here)
    text = jax.jit(program.call, out_shardings=here).lower(observations).compile().as_text()
    assert text is not None
    if topology == "v5e:2x2":
        # A TPU's dense layers are convolutions, too. Without it, it would round all factors to bfloat16.
        assert text.count("operand_precision={highest,highest}") == len(re.findall(r" convolution\(", text)) == 5
    else:
        assert len(re.findall(r"__cudnn\$conv|[ _]convolution\(", text)) >= 3


@pytest.mark.parametrize("topology", BOTH)
def test_insertion_and_relabelling_write_in_place(topology: str) -> None:
    reports = compiled(run_for(topology, "pong"), "insert", "relabel")
    rollout = 32 * LANES * 7168
    for report in reports.values():
        assert report.ring_copies == 0
        assert report.temporary_bytes is not None and report.temporary_bytes < 6 * rollout < 0.3 * report.ring_bytes
    # Of a relabelled replay only the labels are given back.
    for name, written in (("insert", reports["insert"].ring_bytes), ("relabel", 4 * 6 * CAPACITY * LANES)):
        aliased = reports[name].aliased_bytes
        assert aliased is not None and aliased >= written


@pytest.mark.parametrize("topology", BOTH)
def test_what_plays_and_what_scores_compile(topology: str) -> None:
    reports = compiled(run_for(topology, "pong"), "rollout", "evaluate")
    assert set(reports) == {"rollout", "evaluate"}
    assert all(report.all_reduces == () for report in reports.values())


@pytest.mark.parametrize("topology", BOTH)
@pytest.mark.parametrize("schedule", ["together", "alternating"])
def test_a_student_of_two_games_has_one_all_reduce_as_well(topology: str, schedule: str) -> None:
    run = run_for(topology, "pong", "breakout", network="net3", share=4, games=schedule)
    update = compiled(run, "update")["update"]
    assert update.all_reduces is not None and len(update.all_reduces) == 1
    assert update.ring_copies == 0


@pytest.mark.parametrize("topology", BOTH)
def test_bfloat16_stays_bfloat16(topology: str) -> None:
    run = run_for(topology, "pong", compute_dtype="bfloat16")
    program = next(iter(programs_of(run)))
    lowered = program.lower()
    products = re.findall(r"stablehlo\.(?:dot_general|convolution).*-> tensor<(?:\d+x)*(\w+)>", lowered.as_text())
    assert len(products) >= 10 and set(products) == {"bf16"}
    text = lowered.compile().as_text()
    assert text is not None
    # Of the large arrays between layers, forwards and backwards, most are no wider: 8 samples x 20 x 20 x 16 and so on.
    wide = re.findall(r"f32\[(8,20,20,16|8,9,9,32|8,7,7,32)\]", text)
    narrow = re.findall(r"bf16\[(8,20,20,16|8,9,9,32|8,7,7,32)\]", text)
    print(len(wide), "wide and", len(narrow), "narrow activations")
    assert len(narrow) > len(wide)


@pytest.mark.parametrize("topology", BOTH)
def test_transitions_of_q_learning_are_drawn_and_written_in_place(topology: str) -> None:
    found = parse_topology(topology, read_kinds())
    devices = devices_of(found)
    with tracing_for(devices.platform):
        stored = jax.eval_shape(functools.partial(transitions.init, LANES, CAPACITY, (84, 84), jnp.uint8))

    def draw_and_write(stored: Any, key: Any, steps: Any) -> Any:
        stored = transitions.insert(stored, steps)
        batch = transitions.sample(stored, key, 16)
        return stored, jax.tree.map(lambda leaf: leaf.astype(jnp.float32).sum(), batch)

    def of(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((devices.size, 8, LANES, *shape), dtype)

    steps = transitions.Steps(of("uint8", 84, 84), of(bool), of(bool), of(bool), of("int32"), of("float32"))
    lead = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct((devices.size, *x.shape), x.dtype), tree)  # noqa: E731
    keys = lead(jax.eval_shape(lambda: jax.random.key(0)))
    frames = stored.observations
    program = Program(
        "transitions",
        lambda: devices.map(draw_and_write, donate=(0,)).lower(lead(stored), keys, steps),
        frozenset({RingShape.of("u8", frames.shape)}),
        frames.size,
        ("pong",),
    )
    report = report_program(program, found, devices.size)
    assert report.fault == "" and report.ring_copies == 0
    assert report.temporary_bytes is not None and report.temporary_bytes < 0.3 * report.ring_bytes


@TPU
def test_what_is_too_large_is_told_and_does_not_end_the_plan() -> None:
    config = from_mapping(
        PlanConfig,
        {
            "topology": "v5e:2x2",
            "game": ["pong"],
            "student": {"network": "net3"},
            "env": {"num_lanes": 8},
            "learner": {"batch_size": 32, "updates_per_call": 2},
            "replay": {"capacity": 12_000_000},
        },
    )
    plan = make_plan(config)
    assert plan.fits is False and plan.needed_bytes > 20e9
    assert plan.programs["rollout pong"].fault == ""
    assert any(fault.startswith("update net3: does not fit into the memory") for fault in plan.faults)


@pytest.mark.slow
@pytest.mark.parametrize("topology", [*BOTH, pytest.param("v5p:2x2x1", marks=TPU), pytest.param("v6e:2x2", marks=TPU)])
@pytest.mark.parametrize("network", ["net1", "net2", "net3", "dqn"])
def test_every_network_has_one_all_reduce_and_copies_no_ring(topology: str, network: str) -> None:
    reports = compiled(run_for(topology, "pong", network=network), "update", "insert", "relabel")
    assert reports["update"].all_reduces is not None and len(reports["update"].all_reduces) == 1
    assert [report.ring_copies for report in reports.values()] == [0, 0, 0]


@pytest.mark.slow
@TPU
@pytest.mark.parametrize(("topology", "size"), [("v5e:2x4", 8), ("v5p:4x4x4", 64), ("v5e:16x16", 256)])
def test_pods_have_one_all_reduce_too(topology: str, size: int) -> None:
    run = run_for(topology, "pong")
    assert run.devices.size == size
    update = compiled(run, "update")["update"]
    print(f"{topology}: compiled in {update.compile_seconds:.0f} s")
    assert update.all_reduces is not None and len(update.all_reduces) == 1
    assert update.ring_copies == 0


@pytest.mark.slow
@pytest.mark.parametrize("topology", [pytest.param("v5p:4x4x4", marks=TPU), pytest.param("h100:8", marks=CUDA)])
def test_57_games_have_one_all_reduce_and_little_beside_their_replays(topology: str) -> None:
    run = run_for(topology, *ATARI_57, network="multi10", games="alternating")
    update = compiled(run, "update")["update"]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.learner_state.variables))
    # Gradients of the 57 heads beside those of the rest; as one vector of an odd length they took 18 times as much.
    assert update.all_reduces is not None and len(update.all_reduces) == 1
    assert 4 * parameters <= update.all_reduces[0] <= 4 * (parameters + 2 + 3 * 57)
    assert update.temporary_bytes is not None and update.temporary_bytes < 6 * 4 * parameters
    assert update.ring_copies == 0
