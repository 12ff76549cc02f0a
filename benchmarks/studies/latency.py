"""One decision at a time, on one core: the same policy by JAX, PyTorch, ONNX Runtime and C, in float32 and in int8.

    python -m benchmarks.studies.latency

Each way is a process of its own that holds the policy and nothing else, pinned to the same core as all others. Of each
network they take turns; a turn is some hundred decisions on frames of the bundled teacher's play, each timed alone. The
first turn warms up and is not counted. C is a program of its own, compiled for this machine.

`teacher` is the bundled teacher of Pong, which has LayerNorm. The others have random weights, by seed: what they decide
is nothing, and how long they take does not depend on it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WAYS = ("JAX", "PyTorch", "ONNX Runtime", "ONNX Runtime int8", "C", "C int8")
RATIOS = (
    ("ONNX Runtime", "JAX"),
    ("ONNX Runtime", "PyTorch"),
    ("ONNX Runtime int8", "ONNX Runtime"),
    ("C", "ONNX Runtime"),
    ("C int8", "C"),
)
_C_FLAGS = ("-O3", "-march=native", "-Wall", "-Wextra", "-Werror")
_FRAMES = 64
_PROGRAM = """#define _GNU_SOURCE
#include "@HEADER@"
#include <stdio.h>
#include <time.h>
static uint8_t frames[@COUNT@][28224];
int main(int count, char **names)
{
  FILE *file = fopen(names[1], "rb");
  float outputs[64];
  long wanted, i;
  char line[256];
  if (count != 2 || file == NULL || fread(frames, 28224, @COUNT@, file) != @COUNT@) return 1;
  fclose(file);
  printf("ready\\n");
  fflush(stdout);
  while (scanf("%ld", &wanted) == 1 && wanted > 0) {
    printf("[");
    for (i = 0; i < wanted; i++) {
      struct timespec a, b;
      volatile int action;
      clock_gettime(CLOCK_MONOTONIC, &a);
      action = @PREFIX@_act(frames[i % @COUNT@], outputs);
      clock_gettime(CLOCK_MONOTONIC, &b);
      (void)action;
      printf("%s%ld", i ? "," : "", (b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec);
    }
    printf("]\\n");
    fflush(stdout);
  }
  file = fopen("/proc/self/status", "r");
  while (file != NULL && fgets(line, sizeof line, file)) if (sscanf(line, "VmHWM: %ld", &wanted) == 1) break;
  printf("%ld\\n", wanted);
  return 0;
}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes ``benchmarks/results/latency.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["teacher", "dqn", "net1", "net2", "net3"])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--decisions", type=int, default=300, help="of each way in a turn")
    parser.add_argument("--quick", action="store_true", help="a toy size, which only shows that all of it runs")
    parser.add_argument("--worker", nargs=2, metavar=("WAY", "DIRECTORY"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        work(options.worker[0], Path(options.worker[1]))
        return
    if options.quick:
        options.networks, options.turns, options.decisions = ["net3"], 2, 20
    from rich.console import Console
    from rich.table import Table

    from benchmarks.harness import record

    rows = []
    with tempfile.TemporaryDirectory() as name:
        frames = _frames()
        for network in options.networks:
            directory = Path(name) / network
            directory.mkdir()
            rows.append(measure(network, directory, frames, options.turns, options.decisions))
    table = Table("network", "", "p50, µs", "p99, µs", "bytes", "peak, MiB")
    for row in rows:
        for way, told in row["ways"].items():
            figures = (
                f"{told['p50_us']:.1f}",
                f"{told['p99_us']:.1f}",
                f"{told['bytes']:,}",
                f"{told['peak_mib']:.0f}",
            )
            table.add_row(row["network"], way, *figures)
    Console().print(table)
    for row in rows:
        print(row["network"], {who: round(ratio, 2) for who, ratio in row["ratios"].items()})
    print(record.write("latency_quick" if options.quick else "latency", rows))


def measure(network: str, directory: Path, frames: np.ndarray, turns: int, decisions: int) -> dict[str, Any]:
    """One row: all ways of a network that are there."""
    sizes, weights = prepare(network, directory, frames)
    core = max(os.sched_getaffinity(0))
    workers = {way: _start(way, directory, core) for way in WAYS if way in sizes}
    times: dict[str, list[list[float]]] = {way: [] for way in workers}
    try:
        names = list(workers)
        for turn in range(turns + 1):
            first = turn % len(names)
            for way in names[first:] + names[:first]:
                nanoseconds = json.loads(_ask(workers[way], str(decisions)))
                if turn:
                    times[way].append([value / 1e3 for value in nanoseconds])
        peaks = {way: int(_ask(worker, "0")) / 1024 for way, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.kill()
            worker.communicate()
    medians = {way: [statistics.median(turn) for turn in each] for way, each in times.items()}
    told = {
        way: {
            "p50_us": float(np.percentile(np.concatenate(each), 50)),
            "p99_us": float(np.percentile(np.concatenate(each), 99)),
            "p50_us_of_turns": medians[way],
            "bytes": sizes[way],
            "peak_mib": peaks[way],
        }
        for way, each in times.items()
    }
    ratios = {
        f"{over} / {under}": statistics.median(a / b for a, b in zip(medians[over], medians[under], strict=True))
        for over, under in RATIOS
        if over in medians and under in medians
    }
    return {"network": network, "weights": weights, "decisions": turns * decisions, "ways": told, "ratios": ratios}


def _frames() -> np.ndarray:
    """Of play: uint8 ``[64, 84, 84, 4]``."""
    from pd_jax.config.evaluate import EvaluateConfig
    from pd_jax.config.sections import EvaluationConfig
    from pd_jax.deploy.proof import other_observations, own_play
    from pd_jax.evaluation.protocol import Protocol
    from pd_jax.teachers import load

    teacher = load("pong")
    settings = EvaluateConfig(teacher="pong", evaluation=EvaluationConfig(episodes=4, num_lanes=4))
    batches = own_play(teacher, Protocol.of(settings, teacher.task), seed=0)
    return other_observations(batches, 16 * _FRAMES)[::16]


def prepare(network: str, directory: Path, frames: np.ndarray) -> tuple[dict[str, int], str]:
    """Writes the policy as each way takes it.

    Returns:
      bytes of each way that is there, and where the weights are from.
    """
    import dataclasses

    import jax
    from safetensors.numpy import save_file

    from benchmarks.stages.context import PyTorch
    from pd_jax.deploy.c_file import compiler, header_text
    from pd_jax.deploy.layers import layers_of
    from pd_jax.deploy.onnx_file import onnx_bytes
    from pd_jax.deploy.quantised import calibrated, quantised
    from pd_jax.deploy.runtime_file import runtime_source
    from pd_jax.environments.tasks import get_task
    from pd_jax.networks.registry import make_network
    from pd_jax.teachers import load
    from pd_jax.teachers.files import save_teacher

    bundled, task = load("pong"), get_task("pong")
    params, metadata, weights = bundled.variables["params"], bundled.metadata, "of the bundled teacher"
    if network != "teacher":
        made = make_network(network, task.num_actions)
        params = jax.jit(made.init)(jax.random.key(0), frames[:1])["params"]
        metadata, weights = dataclasses.replace(metadata, network=network, layer_norm=False), "random, seed 0"
    save_teacher(directory / "policy.safetensors", params, metadata)
    policy = load(directory / "policy.safetensors")
    layers = layers_of(policy)
    integers = quantised(calibrated(layers, task, frames, 100.0), task)
    said = {
        "format_version": 1,
        "game": task.name,
        "action_names": list(task.action_names),
        "observation": {"shape": list(task.observation_shape), "dtype": task.observation_dtype},
    }
    frames.tofile(directory / "frames.bin")
    (directory / "pd_jax_runtime.py").write_text(runtime_source())
    sizes = {"JAX": (directory / "policy.safetensors").stat().st_size}
    flat, _ = jax.tree_util.tree_flatten_with_path(policy.variables["params"])
    save_file({jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}, directory / "weights.safetensors")
    if PyTorch.find().module is not None:
        sizes["PyTorch"] = (directory / "weights.safetensors").stat().st_size
    for way, stem, form in (("", "policy", layers), (" int8", "policy_int8", integers)):
        data = onnx_bytes(form, task, said)
        (directory / f"{stem}.onnx").write_bytes(data)
        sizes[f"ONNX Runtime{way}"] = len(data)
        if shutil.which(compiler()[0]) is None:
            continue
        (directory / f"{stem}.h").write_text(header_text(form, task, said, prefix=stem))
        program = _PROGRAM.replace("@HEADER@", f"{stem}.h").replace("@COUNT@", str(len(frames)))
        (directory / f"{stem}.c").write_text(program.replace("@PREFIX@", stem))
        command = [*compiler(), *_C_FLAGS, f"{stem}.c", "-o", stem, "-lm"]
        subprocess.run(command, cwd=directory, check=True)
        told = subprocess.run(["size", stem], cwd=directory, check=True, capture_output=True, text=True)
        sizes[f"C{way}"] = int(told.stdout.splitlines()[1].split()[0])
    return sizes, weights


def _start(way: str, directory: Path, core: int) -> subprocess.Popen[str]:
    """A process on one core that says when it is ready."""
    command = [sys.executable, "-m", "benchmarks.studies.latency", "--worker", way, str(directory)]
    if way.startswith("C"):
        command = [str(directory / ("policy_int8" if "int8" in way else "policy")), str(directory / "frames.bin")]
    worker = subprocess.Popen(
        ["taskset", "-c", str(core), *command],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert worker.stdout is not None
    if (line := worker.stdout.readline()) != "ready\n":
        raise RuntimeError(f"{shlex.join(command)}: {line!r}")
    return worker


def _ask(worker: subprocess.Popen[str], text: str) -> str:
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(f"{text}\n")
    worker.stdin.flush()
    return worker.stdout.readline()


def work(way: str, directory: Path) -> None:
    """A worker: reads how many decisions to take, and writes how many nanoseconds each took; 0 ends it.

    Nothing is imported but what the way needs: the peak of the process's memory is told at the end.
    """
    frames = np.fromfile(directory / "frames.bin", np.uint8).reshape(-1, 1, 84, 84, 4)
    decide = {"JAX": _by_jax, "PyTorch": _by_pytorch}.get(way, _by_onnx_runtime)(way, directory)
    decide(frames[0])
    print("ready", flush=True)
    while wanted := int(input()):
        nanoseconds = []
        for index in range(wanted):
            shown = frames[index % len(frames)]
            started = time.perf_counter_ns()
            decide(shown)
            nanoseconds.append(time.perf_counter_ns() - started)
        print(json.dumps(nanoseconds), flush=True)
    status = Path("/proc/self/status").read_text().splitlines()
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")), flush=True)


Decide = Callable[[np.ndarray], Any]


def _by_jax(way: str, directory: Path) -> Decide:
    import jax

    from pd_jax.networks.greedy import greedy_actions
    from pd_jax.system.devices import tracing_for
    from pd_jax.teachers import load

    policy = load(directory / "policy.safetensors")
    # One program from frames to actions.
    program = jax.jit(lambda variables, shown: greedy_actions(policy.apply(variables, shown)))

    def decide(shown: np.ndarray) -> Any:
        with tracing_for("cpu"):
            return np.asarray(program(policy.variables, shown))

    return decide


def _by_pytorch(way: str, directory: Path) -> Decide:
    import torch
    from safetensors.numpy import load_file

    from benchmarks.rivals.pytorch import Network

    params: dict[str, Any] = {}
    for path, leaf in load_file(directory / "weights.safetensors").items():
        *folders, name = path.strip("[]'").split("']['")
        mapping = params
        for folder in folders:
            mapping = mapping.setdefault(folder, {})
        mapping[name] = leaf
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    network = Network({"params": params}).to(memory_format=torch.channels_last)

    def decide(shown: np.ndarray) -> Any:
        # Frames as they come are channels last: that is a view.
        with torch.inference_mode():
            return int(network(torch.from_numpy(shown).permute(0, 3, 1, 2)).argmax())

    return decide


def _by_onnx_runtime(way: str, directory: Path) -> Decide:
    # As the field has it: one file, and neither pd_jax nor JAX.
    sys.path.insert(0, str(directory))
    import pd_jax_runtime  # type: ignore[import-not-found]

    policy = pd_jax_runtime.Policy.load(directory / ("policy_int8.onnx" if "int8" in way else "policy.onnx"))
    return lambda shown: policy.act(shown)


if __name__ == "__main__":
    main()
