"""``pd-jax export``: a policy as files that run without JAX, proven to be it before they are left."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from pd_jax.config.export import ExportConfig
from pd_jax.deploy import c_file, onnx_file, runtime, stablehlo
from pd_jax.deploy.file_metadata import describe_policy, named_rules
from pd_jax.deploy.layers import Layer, layers_of
from pd_jax.deploy.policy import StudentPolicy, refuse_continuous, refuse_memory
from pd_jax.deploy.products import check_place, settings_of
from pd_jax.deploy.proof import (
    Agreement,
    ExportedPolicy,
    check_can_play,
    check_recording,
    compare,
    file_apply,
    games_fault,
    other_observations,
    own_play,
    recorded_play,
)
from pd_jax.deploy.quantised import QuantisedNetwork, calibrated, check_quantisable, is_trained, quantised
from pd_jax.deploy.runtime_file import RUNTIME_NAME, runtime_source
from pd_jax.deploy.stablehlo import StableHloPolicy, stablehlo_bytes
from pd_jax.deploy.student import load_trained
from pd_jax.environments.ale import check_backend
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.evaluation.games import heeding, play_games
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.scores import Score
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.networks.sensing import with_senses
from pd_jax.resources.parts import evaluation_memory
from pd_jax.runs.directory import read_run
from pd_jax.runs.lineage import LINEAGE_NAME, Parent, parent_at, teacher_parent, write_lineage
from pd_jax.runs.students import load_teacher
from pd_jax.system.computing import computing
from pd_jax.system.files import left_if_whole, to_json, write_atomically
from pd_jax.system.interrupts import Interrupts, stoppable
from pd_jax.system.progress import Progress
from pd_jax.teachers import Teacher
from pd_jax.teachers.files import params_fingerprint
from pd_jax.teachers.tasks import check_is_one, check_named_protocol, check_protocol, task_of
from pd_jax.types import PolicyApply
from pd_jax.version import __version__

REPORT_NAME = "export.json"
_OWN_PLAY_SEED_OFFSET = 2_000_000
_CALIBRATION_SEED_OFFSET = 2_100_000
_TEST_SEED_OFFSET = 2_200_000
# Frames are 28 KB each.
_TEST_FRAMES, _TEST_VECTORS = 8, 64
_MOST_TRIED = 8


class Format(NamedTuple):
    """A format of files: another one is another row of :data:`FORMATS`.

    Attributes:
      suffixes: of its files, by precision: ``float32``, and ``int8`` if it has integers.
      check: raises a UserError where a program is missing, or the policy cannot be written so.
      write: the bytes of a file in float32 with its metadata.
      read: the file as what plays.
      apply: what plays games by the file that was read.
      write_int8: the bytes of a file in integers.
      test: name and text of a program beside a file, of its name, observations ``[N, ...]`` and the outputs for them.
    """

    suffixes: Mapping[str, str]
    check: Callable[[GreedyPolicy], object]
    write: Callable[[GreedyPolicy, dict[str, Any], ExportConfig], bytes]
    read: Callable[[str], ExportedPolicy]
    apply: Callable[[Any, Task], PolicyApply]
    write_int8: Callable[[QuantisedNetwork, Task, dict[str, Any], ExportConfig], bytes] | None = None
    test: Callable[[str, Task, np.ndarray, np.ndarray], tuple[str, str]] | None = None


class _File(NamedTuple):
    """A file that is to be written.

    Attributes:
      format: its row of :data:`FORMATS`.
      precision: ``"float32"`` or ``"int8"``.
      name: of the file.
    """

    format: str
    precision: str
    name: str

    @property
    def key(self) -> str:
        """What the report calls it."""
        return self.format if self.precision == "float32" else f"{self.format}_{self.precision}"


def _check_onnx(policy: GreedyPolicy) -> None:
    onnx_file.check_available()
    layers_of(policy)


def _check_stablehlo(policy: GreedyPolicy) -> None:
    stablehlo.check_available()
    refuse_continuous(policy, "format: stablehlo")
    refuse_memory(policy, "format: stablehlo")
    layouts = policy.trained.student.layouts if isinstance(policy, StudentPolicy) else ()
    if policy.task.kind == "vector" and any(layout.in_bytes for layout in layouts):
        # Its vector goes through the bytes that it has in common with frames, whose shapes are not refined there.
        raise UserError(
            f"format: stablehlo: {policy.name} plays games of frames beside {policy.task.name}; onnx takes it"
        )


def _check_c(policy: GreedyPolicy) -> None:
    c_file.compiler()
    refuse_continuous(policy, "format: c")
    refuse_memory(policy, "format: c")
    layers_of(policy)


FORMATS: Mapping[str, Format] = {
    "onnx": Format(
        {"float32": ".onnx", "int8": ".int8.onnx"},
        _check_onnx,
        lambda policy, metadata, config: onnx_file.onnx_bytes(layers_of(policy), policy.task, metadata, config.opset),
        runtime.Policy.load,
        file_apply,
        lambda network, task, metadata, config: onnx_file.onnx_bytes(network, task, metadata, config.opset),
    ),
    "stablehlo": Format(
        {"float32": ".stablehlo"},
        _check_stablehlo,
        lambda policy, metadata, config: stablehlo_bytes(policy, metadata),
        StableHloPolicy,
        lambda file, task: file.apply,
    ),
    "c": Format(
        {"float32": ".h", "int8": "_int8.h"},
        _check_c,
        lambda policy, metadata, config: c_file.header_text(layers_of(policy), policy.task, metadata).encode(),
        c_file.CPolicy,
        file_apply,
        lambda network, task, metadata, config: c_file.header_text(network, task, metadata).encode(),
        c_file.test_program,
    ),
}


@stoppable
@computing()
def run_export(config: ExportConfig, *, stop: threading.Event | None = None) -> dict[str, Any]:
    """Writes a policy as files, one for each game and format, and proves each of them.

    Args:
      config: which policy, which formats, and what the files have to stand.
      stop: ends it as SIGTERM does once it is set, which another thread may do.

    Returns:
      what ``export.json`` holds.

    Raises:
      UserError: there is no such policy, it cannot be exported, or a file is not within the bounds. Nothing is left.
      Interrupted: a signal came, or ``stop`` was set. Nothing is left.
    """
    out = Path(config.out)
    check_place(config, "an export", REPORT_NAME, _own_names)
    if config.evaluation.episodes:
        check_can_play()
    policies = _load(config)
    for policy in policies:
        check_backend(config.env.backend, policy.shown)
        if policy.task.also:
            raise UserError(f"run: {policy.name} sees a console's memory beside frames, and files take one observation")
        for name in config.format:
            FORMATS[name].check(policy)
        _check_precision(policy, config)
        if config.data is not None:
            check_recording(config.data, policy.shown)
    _check_names([file for policy in policies for file in _files(config, policy.task)])
    players = [(policy.apply, policy.variables) for policy in policies]
    # All lanes play, also where there are fewer games.
    played = dataclasses.replace(config.evaluation, episodes=config.evaluation.num_lanes)
    memory = evaluation_memory(played, players, [policy.task for policy in policies])
    memory.check()
    title = ", ".join(policy.task.name for policy in policies)
    with (
        left_if_whole(out, replaces=config.resume) as directory,
        Interrupts() as interrupts,
        Progress(f"export {title}") as progress,
    ):
        memory.tell()
        games = {policy.task.name: _export(config, policy, directory, interrupts, progress) for policy in policies}
        report: dict[str, Any] = {
            "format_version": 2 if any(game["policy"]["format_version"] == 2 for game in games.values()) else 1,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "pd_jax_version": __version__,
            "settings": settings_of(config),
            "games": games,
        }
        if "onnx" in config.format:
            source = runtime_source()
            write_atomically(directory / RUNTIME_NAME, source)
            report["runtime"] = {"file": RUNTIME_NAME, "sha256": hashlib.sha256(source.encode()).hexdigest()}
        report = to_json(report)
        write_atomically(directory / REPORT_NAME, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        write_lineage(directory, "export", _parents(config, policies), name=out.absolute().name)
    return report


def _load(config: ExportConfig) -> list[GreedyPolicy]:
    """The policies that are exported, one for each game."""
    if config.run is None:
        assert config.teacher is not None
        teacher = load_teacher(config.teacher, config.game[0] if config.game else None)
        check_is_one(teacher, "teacher")
        if config.game:
            task_of(config.game[0], teacher)
        check_protocol(teacher, config)
        return [teacher]
    trained = load_trained(config.run, checkpoint=config.checkpoint)
    check_named_protocol(config.run, trained.config.protocol, config)
    student = StudentPolicy(trained, config.run, read_run(config.run).read_summary())
    return [student.for_game(game) for game in config.game or student.games]


def _export(
    config: ExportConfig, policy: GreedyPolicy, directory: Path, interrupts: Interrupts, progress: Progress
) -> dict[str, Any]:
    """Writes and proves the files of one game; what the report says of it."""
    task, protocol = policy.shown, Protocol.of(config, policy.shown)
    policy_score = None
    if config.evaluation.episodes:
        meter = progress.add(f"{task.name}: the policy's games", protocol.episodes)
        played = play_games(policy.player, policy.variables, task, protocol, on_progress=heeding(interrupts, meter))
        policy_score = Score.of(played.returns)
    metadata = to_json(describe_policy(policy, policy_score, protocol))
    wanted = _files(config, task)
    network, said = None, None
    if "int8" in config.precision:
        network, said = _quantised(config, policy, protocol)
    files: dict[str, ExportedPolicy] = {}
    entries: dict[str, Any] = {}
    for file in wanted:
        path, rules = directory / file.name, FORMATS[file.format]
        if file.precision == "float32":
            data = rules.write(policy, metadata, config)
        else:
            assert network is not None and rules.write_int8 is not None
            data = rules.write_int8(network, policy.task, metadata | {"quantisation": said}, config)
        path.write_bytes(data)
        files[file.name] = rules.read(str(path))
        entry = {"file": file.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        entries[file.key] = entry | {"format": file.format, "precision": file.precision}
        if file.format == "onnx":
            entries[file.key]["opset"] = config.opset
        if file.precision == "int8":
            entries[file.key]["quantisation"] = said
        if rules.test is not None:
            entries[file.key]["test"] = _write_test(config, policy, file, network, protocol, directory)
        interrupts.check()
    agreements = _compare(config, policy, files, protocol, interrupts, progress)
    for file in wanted:
        entry = entries[file.key]
        agreement = agreements[file.name]
        entry["frames"] = agreement.to_json()
        # Integers are not near: what they are for is to play as well.
        if file.precision == "float32" and (fault := agreement.fault(config.proof)):
            raise UserError(f"{file.name}: {fault}; nothing is left in {config.out}")
        if policy_score is not None:
            meter = progress.add(f"{file.name}: its games", protocol.episodes)
            played = play_games(
                with_senses(FORMATS[file.format].apply(files[file.name], task), policy.senses),
                {},
                task,
                protocol,
                on_progress=heeding(interrupts, meter),
            )
            score = Score.of(played.returns)
            entry["games"] = score.to_json()
            if fault := games_fault(score, policy_score, config.proof.max_loss):
                raise UserError(f"{file.name}: {fault}; nothing is left in {config.out}")
    return {
        "policy": metadata,
        "policy_games": None if policy_score is None else policy_score.to_json(),
        "protocol": named_rules(task, protocol),
        "frames_from": config.data or "the policy's own play",
        "files": entries,
    }


def _files(config: ExportConfig, task: Task) -> list[_File]:
    """Those of a game: of each format, in each precision that is wanted and that it has."""
    return [
        _File(name, precision, f"{task.name}{FORMATS[name].suffixes[precision]}")
        for name in config.format
        for precision in config.precision
        if precision in FORMATS[name].suffixes
    ]


def _check_names(files: Sequence[_File]) -> None:
    """Raises a UserError if two files of an export, or the names inside two headers, would be the same."""
    names = [file.name for file in files]
    # In C names of headers become names of functions.
    prefixes = [c_file.prefix_of(file.name.removesuffix(".h")) for file in files if file.format == "c"]
    for found in (names, prefixes):
        if repeated := sorted({name for name in found if found.count(name) > 1}):
            raise UserError(f"game: files of two games would be called {repeated[0]}; export one of them alone")


def _check_precision(policy: GreedyPolicy, config: ExportConfig) -> None:
    """Raises a UserError if the policy's layers cannot be written in a precision that is wanted."""
    if all("int8" not in FORMATS[name].suffixes for name in config.format):
        return
    if "int8" in config.precision:
        refuse_continuous(policy, "precision: int8")
        refuse_memory(policy, "precision: int8")
    layers = layers_of(policy)
    if "float32" in config.precision and is_trained(layers):
        raise UserError(
            f"precision: {policy.name} was trained with fake quantisation, and in float32 it would play otherwise; "
            "give --precision int8"
        )
    if "int8" in config.precision:
        check_quantisable(layers, policy.task)


def _quantised(
    config: ExportConfig, policy: GreedyPolicy, protocol: Protocol
) -> tuple[QuantisedNetwork, dict[str, Any]]:
    """The policy in integers, and what its files say of that."""
    layers: Sequence[Layer] = layers_of(policy)
    said: dict[str, Any] = {"bits": 8, "by": "training"}
    if not is_trained(layers):
        shown, source = _others(config, policy, protocol, config.calibration.frames, _CALIBRATION_SEED_OFFSET)
        layers = calibrated(layers, policy.task, shown, config.calibration.percentile)
        percentile = config.calibration.percentile
        said |= {"by": "calibration", "frames": len(shown), "frames_from": source, "percentile": percentile}
    network = quantised(layers, policy.task)
    return network, to_json(said | {"ranges": network.ranges})


def _write_test(
    config: ExportConfig,
    policy: GreedyPolicy,
    file: _File,
    network: QuantisedNetwork | None,
    protocol: Protocol,
    directory: Path,
) -> dict[str, Any]:
    """Writes the program that tests a file on observations of play; what the report says of it."""
    test = FORMATS[file.format].test
    assert test is not None
    wanted = _TEST_FRAMES if policy.task.kind == "atari" else _TEST_VECTORS
    shown, _ = _others(config, policy, protocol, _MOST_TRIED * wanted, _TEST_SEED_OFFSET)
    if file.precision == "float32":
        # Accelerators round products otherwise.
        with jax.default_matmul_precision("float32"):
            outputs = np.asarray(policy.outputs(shown))
    else:
        assert network is not None
        outputs = network.outputs(shown)
    # All through the play; where two actions are as good, another order of sums may choose the other one.
    clear = np.flatnonzero(c_file.clear_ones(outputs))
    if not len(clear):
        clear = np.arange(len(shown))
    chosen = clear[np.unique(np.linspace(0, len(clear) - 1, wanted).astype(int))]
    name, text = test(file.name, policy.task, shown[chosen], outputs[chosen])
    write_atomically(directory / name, text)
    return {"file": name, "sha256": hashlib.sha256(text.encode()).hexdigest(), "vectors": len(chosen)}


def _others(
    config: ExportConfig, policy: GreedyPolicy, protocol: Protocol, count: int, seed_offset: int
) -> tuple[np.ndarray, str]:
    """Observations that are not compared, and where they come from: the recording behind those, or own play."""
    if config.data is not None:
        shown = other_observations(
            recorded_play(config.data, policy.shown, policy.senses), count, skip=config.proof.frames
        )
        if len(shown) == count:
            # A path would be the exporting machine's own.
            return shown, os.path.basename(os.path.abspath(config.data))
    return other_observations(own_play(policy, protocol, config.seed + seed_offset), count), "the policy's own play"


def _compare(
    config: ExportConfig,
    policy: GreedyPolicy,
    files: dict[str, ExportedPolicy],
    protocol: Protocol,
    interrupts: Interrupts,
    progress: Progress,
) -> dict[str, Agreement]:
    if config.data is not None:
        batches = recorded_play(config.data, policy.shown, policy.senses)
    else:
        batches = own_play(policy, protocol, config.seed + _OWN_PLAY_SEED_OFFSET)
    meter = progress.add(f"{policy.task.name}: frames", config.proof.frames)

    def on_progress(shown: int) -> None:
        meter.set(shown)
        interrupts.check()

    return compare(policy, files, batches, config.proof.frames, on_progress)


def _parents(config: ExportConfig, policies: Sequence[GreedyPolicy]) -> list[Parent]:
    """What the files are of, for their lineage."""
    (policy, *_) = policies
    if config.run is None:
        assert isinstance(policy, Teacher)
        return [teacher_parent(policy.source, config.out, game=policy.task.name, sha256=policy.sha256)]
    assert isinstance(policy, StudentPolicy)
    about = {
        "checkpoint": config.checkpoint,
        "updates": policy.trained.counters.updates,
        "parameters_sha256": params_fingerprint(policy.variables["params"]),
    }
    return [parent_at("run", config.run, config.out, about)]


def _own_names(report: Any) -> set[str]:
    """The files of an export that its report names."""
    entries = [entry for game in report["games"].values() for entry in game["files"].values()]
    own = {entry["file"] for entry in entries} | {entry["test"]["file"] for entry in entries if "test" in entry}
    return own | {REPORT_NAME, RUNTIME_NAME, LINEAGE_NAME}
