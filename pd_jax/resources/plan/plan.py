"""What a distillation takes on some devices, and how fast it can be there, from what their compiler says.

Numbers of a compiler are no measurements. Nothing here has run: see `docs/plan.md`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import jax

from pd_jax.actors.stepping import stepping_options
from pd_jax.config.distill import DistillConfig, check_devices
from pd_jax.config.games import check_games, check_student_network
from pd_jax.config.mixed import check_mixed
from pd_jax.config.plan import PlanConfig
from pd_jax.config.sections import EnvConfig
from pd_jax.environments.tasks import ATARI_57, Task, get_task
from pd_jax.errors import UserError
from pd_jax.resources.liveness import tree_bytes
from pd_jax.resources.memory import host_memory_bytes
from pd_jax.resources.parts import ROLLOUTS, trajectory_of
from pd_jax.resources.plan.compilers import devices_of, memory_of, without_cache
from pd_jax.resources.plan.devices import DeviceKind, Topology, parse_topology, read_kinds
from pd_jax.resources.plan.hlo import (
    all_reduces,
    count_operations,
    other_collectives,
    product_flops,
    ring_copies,
    traffic_bytes,
)
from pd_jax.resources.plan.programs import Program, Run, programs_of
from pd_jax.resources.plan.summary import Plan, ProgramReport, Rates
from pd_jax.system.computing import computing
from pd_jax.system.devices import DeviceGroup
from pd_jax.teachers.teacher import bundled_names

_ALL = "all"
_TOO_LARGE = "does not fit into the memory"
# Two threads of a core step little more than one.
_THREADS_PER_CORE = 2


@computing()
def make_plan(config: PlanConfig, on_program: Callable[[str], None] = lambda name: None) -> Plan:
    """Compiles a run's programs for some devices, and adds up what their compiler says.

    Args:
      config: the run, and the devices.
      on_program: called with the name of each program before it is compiled.

    Raises:
      UserError: there is no such topology, its compiler is not installed, or the run cannot be dealt out to it.
    """
    topology = parse_topology(config.topology, read_kinds(config.device_file))
    tasks = _tasks(config)
    distillation = config.distillation(tuple(task.name for task in tasks))
    perceived = [distillation.student.observation.of(task).perceived for task in tasks]
    check_student_network(distillation.student.network, perceived)
    check_mixed(distillation, perceived)
    if topology.kind is not None:
        check_devices(distillation, _num_learners(distillation, topology.size, topology.num_hosts))
    _check_conflicts(distillation)
    in_jit = _steps_in_jit(distillation.env, topology)
    devices = devices_of(topology)
    learners = DeviceGroup(devices.devices[: _num_learners(distillation, devices.size, topology.num_hosts)])
    check_devices(distillation, learners.size)
    run = Run(distillation, tasks, config.teacher_network, learners, topology.num_hosts, in_jit)
    reports = {}
    with without_cache():
        for program in programs_of(run):
            on_program(program.name)
            reports[program.name] = report_program(program, topology, learners.size)
    return _add_up(run, topology, reports, config.steps_per_core)


def _steps_in_jit(env: EnvConfig, topology: Topology) -> bool:
    if topology.kind is not None and topology.kind.compiler == "cuda":
        # What is planned for a GPU is planned for an EnvPool that works there.
        return env.stepping != "host" and env.backend == "envpool"
    return stepping_options(env.stepping, None if topology.kind is None else "tpu", env.backend)["stepping"] == "jit"


def _num_learners(config: DistillConfig, num_devices: int, num_hosts: int) -> int:
    """The devices that share the updates; of each host, others may only play."""
    actors = config.actors.num_devices * num_hosts
    learners = config.learner.num_devices or num_devices - actors
    if learners < 1 or learners + actors > num_devices:
        key = "actors.num_devices" if actors else "learner.num_devices"
        besides = f"{actors} besides {max(learners, 1)} for the learner" if actors else f"{learners} devices"
        raise UserError(f"{key}: {besides} wanted, and the topology has {num_devices}")
    return learners


def report_program(program: Program, topology: Topology, num_devices: int) -> ProgramReport:
    """Compiles a program and reads what its compiler says; a failure becomes the report's ``fault``."""
    started = time.monotonic()
    try:
        lowered = program.lower()
        compiled = lowered.compile()
    except UserError:
        raise
    except Exception as error:
        # Whatever goes wrong in a compiler, the other programs are still reported.
        return ProgramReport(name=program.name, games=program.games, fault=_fault(error), ring_bytes=program.ring_bytes)
    seconds = time.monotonic() - started
    memory, text = compiled.memory_analysis(), compiled.as_text() or ""
    costs = _costs(compiled)
    is_estimate = costs.get("optimal_seconds", 0.0) > 0 and program.parts == 1
    # XLA's compiler for CUDA says neither.
    flops = costs.get("flops") or product_flops(lowered.as_text())
    counted = float(traffic_bytes(text, program.rings, program.turns, program.parts))
    accessed = costs.get("bytes accessed") or counted
    if program.parts > 1:
        # A loop over the parts of a minibatch, which XLA counts once.
        flops, accessed = product_flops(lowered.as_text()) * program.parts, counted
    if " conditional(" in text:
        # Games that alternate are branches, of each of which XLA counts all that it is given: every ring, whole.
        accessed = min(accessed, counted)
    reduced = tuple(all_reduces(text))
    has_room = memory is None or memory.temp_size_in_bytes >= program.ring_bytes
    report = ProgramReport(
        name=program.name,
        games=program.games,
        compile_seconds=seconds,
        flops=flops,
        bytes_accessed=accessed,
        operations=count_operations(text),
        ring_bytes=program.ring_bytes,
        ring_copies=len(ring_copies(text, program.rings, has_room=has_room)),
        all_reduces=reduced,
        collectives=tuple(other_collectives(text)),
        estimated_seconds=costs["optimal_seconds"] if is_estimate else None,
    )
    if topology.kind is not None and topology.link_bandwidth is not None:
        links = link_seconds(topology.link_bandwidth, num_devices, sum(reduced))
        # What stays in a TPU's fast memory is in XLA's traffic, and takes none of the memory's time.
        floor = floor_seconds(topology.kind, flops, min(accessed, counted)) + links
        report = dataclasses.replace(report, floor_seconds=floor, link_seconds=links)
    if memory is None:
        return report
    return dataclasses.replace(
        report,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes or None,
        aliased_bytes=memory.alias_size_in_bytes,
    )


def floor_seconds(kind: DeviceKind, flops: float | None, num_bytes: float | None) -> float:
    """What a program takes at the least, its all-reduces aside: its arithmetic or its memory traffic.

    Args:
      kind: of the device.
      flops, num_bytes: of one device; None if unknown.
    """
    return max((flops or 0.0) / kind.peak_flops, (num_bytes or 0.0) / kind.memory_bandwidth)


def link_seconds(link_bandwidth: float, num_devices: int, reduced_bytes: int) -> float:
    """What all-reduces take at the least: a ring of devices moves ``2 (D - 1) / D`` times their bytes over each link.

    Args:
      link_bandwidth: bytes a second.
      num_devices: D.
      reduced_bytes: of the all-reduces.
    """
    return 2 * (num_devices - 1) / num_devices * reduced_bytes / link_bandwidth


def _add_up(run: Run, topology: Topology, reports: dict[str, ProgramReport], steps_per_core: float) -> Plan:
    config, games = run.config, range(len(run.tasks))
    kind, hosts = topology.kind, run.num_hosts
    rings_bytes = sum(tree_bytes(run.stored(game)) for game in games)
    update = next(iter(reports.values()))
    resident = update.argument_bytes or rings_bytes + tree_bytes(run.learner_state)
    teachers = {game: tree_bytes(run.teacher(game)[1]) for game in games}
    resident += sum(teachers.values()) + sum(_rollout_bytes(run, reports, game) for game in games)
    # Labels are given anew by `online`, not here.
    own = [one for name, one in reports.items() if not name.startswith("relabel")]
    temporaries = max((one.temporary_bytes or 0) + (one.output_bytes or 0) for one in own)
    needed = resident + temporaries + sum(one.code_bytes or 0 for one in own)
    available = memory_of(kind) if kind is not None else _memory_here(run)
    faults = [one.fault for one in reports.values() if one.fault]
    fits = None if available is None else needed <= available
    if any(fault.startswith(_TOO_LARGE) for fault in faults):
        fits = False
    elif faults and fits:
        # Nothing is known of what a program takes that could not be compiled for another reason.
        fits = None
    first = run.devices.devices[0]
    return Plan(
        topology=topology.name,
        device=first.device_kind,
        devices=topology.size if kind is not None else run.devices.size,
        learners=run.devices.size,
        hosts=hosts,
        games=tuple(task.name for task in run.tasks),
        student=config.student.network,
        minibatch=config.learner.batch_size,
        lanes=config.lanes,
        memory_bytes=available,
        resident_bytes=resident,
        needed_bytes=needed,
        fits=fits,
        largest_capacity=None if available is None else _largest_capacity(config, available - needed, rings_bytes),
        programs=reports,
        rates=_rates(run, reports, topology, steps_per_core),
        versions={"jax": jax.__version__, "compiler": _compiler_version(first.platform)},
    )


def _largest_capacity(config: DistillConfig, left: int, rings_bytes: int) -> int:
    """Steps of each game for which there is room beside all else, so many that lanes share them evenly.

    Args:
      config: of the run.
      left: bytes of one device; negative if they are missing.
      rings_bytes: of all replays on one device.
    """
    room = config.replay.capacity * max(0, rings_bytes + left) // rings_bytes
    # A TPU fills a lane's share up to a multiple of 8.
    dealt = math.lcm(*config.lanes) * 8
    return room // dealt * dealt


def _rollout_bytes(run: Run, reports: dict[str, ProgramReport], game: int) -> int:
    """What the rollouts of a game take on the first device of a host: those in hand, and those ahead of the updates."""
    config, task = run.config, run.tasks[game]
    one = tree_bytes(trajectory_of(task, run.play_lanes(game), config.schedule.rollout_length))
    report = _report_of(reports, "insert", task)
    if report.argument_bytes is not None and report.aliased_bytes is not None:
        # As it lies there, in tiles; each device of a host is given its share of the lanes.
        share = report.argument_bytes - report.aliased_bytes
        one = max(one, share * run.devices.size // run.num_hosts)
    ahead = 0
    if config.plays_ahead(run.devices.platform):
        room = config.actors.queue_mib * 2**20 // config.num_games
        ahead = max(1, min(config.rollouts_per_round(game), room // one))
    return (ROLLOUTS + ahead) * one


def _rates(run: Run, reports: dict[str, ProgramReport], topology: Topology, steps_per_core: float) -> Rates | None:
    config, games, hosts = run.config, range(len(run.tasks)), run.num_hosts
    report = next(iter(reports.values()))
    update = report.seconds
    if update is None:
        return None
    steps = sum(config.rollouts_per_round(game) * config.steps_per_rollout(game) for game in games)
    per_update = steps / config.schedule.updates_per_round
    decision = _decision_seconds(run, reports)
    cores = None if topology.cores_per_host is None else topology.cores_per_host // _THREADS_PER_CORE
    lanes = sum(run.lanes_at_once(game) for game in games)
    stepping_rate = None if cores is None else hosts * min(cores, lanes) * steps_per_core
    inference_rate = None if not decision else hosts / decision
    # What the first device of each host does, of which the others wait for its share of each update.
    parts = {"updates": update}
    if not config.actors.num_devices:
        if inference_rate is not None:
            parts["inference"] = per_update / inference_rate
        if run.in_jit and stepping_rate is not None:
            # A rollout stands in the device's queue while EnvPool steps.
            parts["stepping"] = per_update / stepping_rate
    alone = 1.0 / sum(parts.values())
    limits = {max(parts, key=lambda name: parts[name]): alone}
    if stepping_rate is not None:
        limits["stepping"] = min(limits.get("stepping", math.inf), stepping_rate / per_update)
    if inference_rate is not None:
        limits["inference"] = min(limits.get("inference", math.inf), inference_rate / per_update)
    bound = min(limits, key=lambda name: limits[name])
    return Rates(
        updates_per_second=alone,
        efficiency=report.efficiency,
        steps_per_update=per_update,
        steps_per_second=alone * per_update,
        inference_steps_per_second=inference_rate,
        stepping_steps_per_second=stepping_rate,
        lanes_at_once=hosts * lanes,
        cores_needed=alone * per_update / steps_per_core,
        cores=None if cores is None else hosts * cores,
        bound_by=bound,
        bound_updates_per_second=limits[bound],
        bound_steps_per_second=limits[bound] * per_update,
    )


def _decision_seconds(run: Run, reports: dict[str, ProgramReport]) -> float | None:
    """Seconds of a device for one decision of one lane, on average over the games; None if they are not known."""
    seconds, lanes = 0.0, 0
    for game, task in enumerate(run.tasks):
        report = _report_of(reports, "rollout", task)
        if report.seconds is None:
            return None
        seconds += run.num_groups(game) * report.seconds
        lanes += run.play_lanes(game)
    return seconds / lanes


def _report_of(reports: dict[str, ProgramReport], kind: str, task: Task) -> ProgramReport:
    (report,) = (one for one in reports.values() if one.name.startswith(kind) and task.name in one.games)
    return report


def _tasks(config: PlanConfig) -> tuple[Task, ...]:
    games = config.game or config.teacher or ()
    if tuple(games) == (_ALL,):
        games = ATARI_57
    elif _ALL in games:
        raise UserError(f"game: {_ALL} is the 57 of Atari, and stands alone")
    unknown = [name for name in games if config.game is None and name not in bundled_names()]
    if unknown:
        raise UserError(
            f"game: is missing, and {unknown[0]} is no bundled teacher; teachers' files are not read, so give the games"
        )
    tasks = tuple(get_task(name) for name in games)
    check_games(tasks, mixes=True)
    return tasks


def _check_conflicts(config: DistillConfig) -> None:
    for key, problem in config.conflicts():
        raise UserError(f"{key}: {problem}")


def _memory_here(run: Run) -> int | None:
    if run.devices.platform == "cpu":
        return host_memory_bytes() // run.devices.size
    limit = (run.devices.devices[0].memory_stats() or {}).get("bytes_limit")
    return None if not limit else int(limit)


def _compiler_version(platform: str) -> str:
    names = {"tpu": ("libtpu",), "gpu": ("jax-cuda13-plugin", "jax-cuda12-plugin")}.get(platform, ("jaxlib",))
    for name in names:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _costs(stage: Any) -> dict[str, float]:
    """Of a lowered or compiled program; nothing where its compiler says nothing."""
    try:
        costs = stage.cost_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return {}
    costs = costs[0] if isinstance(costs, Sequence) and costs else costs
    return {name: float(value) for name, value in (costs or {}).items() if math.isfinite(float(value))}


def _fault(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if "RESOURCE_EXHAUSTED" in text or "Ran out of memory" in text or isinstance(error, MemoryError):
        return f"{_TOO_LARGE} ({text[:160]})"
    return f"cannot be compiled ({text[:200]})"
