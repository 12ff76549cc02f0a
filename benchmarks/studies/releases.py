"""This revision against an earlier one: stages, the whole main job and its memory, side by side in one run.

    python -m benchmarks.studies.releases --against v0.1.0
    python -m benchmarks.studies.releases --table          # writes the table anew, measures nothing

The earlier revision is unpacked beside this one. Both run the stages of ``python -m benchmarks`` and the job that they
start up, each from its own files and in processes of its own, by turns: who begins changes with every turn. Each stage
warms itself up; the job is run with an empty compilation cache, and once more with the one that is filled then. A ratio
is that of a turn, over all rows that both have (their geometric mean), and above 1 this revision is better: faster, or
with less memory. The row goes to benchmarks/results/releases.json, in the place of an earlier one of the same two
revisions on the same machine (columns that are not measured stay), and the table of benchmarks/README.md is written
from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import record
from benchmarks.harness.measure import Spread, ratios
from benchmarks.harness.rows import Row, is_time
from benchmarks.harness.sizes import find_size
from pd_jax.errors import UserError
from pd_jax.system.compilation_cache import VARIABLE as COMPILATION_CACHE
from pd_jax.system.files import write_atomically
from pd_jax.version import __version__

ROOT = Path(__file__).parents[2]
FILE = record.RESULTS / "releases.json"
README = ROOT / "benchmarks" / "README.md"
FORMAT_VERSION = 1
COLUMNS: Mapping[str, str] = {
    "update": "updates",
    "rollout": "rollouts",
    "inference": "inference",
    "evaluation": "evaluation",
    "startup": "start-up",
    "main job": "main job, nothing compiled",
    "main job again": "compiled before",
    "memory": "memory",
}
"""What is compared, and what the table calls it; the first ones are stages."""
JOB = ("main job", "main job again", "memory")
BEGIN, END = "<!-- releases.json: begin -->\n", "<!-- releases.json: end -->\n"
_KIBIBYTE = 1024
_POLL_SECONDS = 0.02

Values = dict[str, dict[str, float]]
"""By column, by row in words: rates, or one over times or bytes, so that more is better."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 for a user's error."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.releases",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--against", metavar="REVISION", help="of git: a tag or a commit")
    what.add_argument("--table", action="store_true", help="only write the table of the file")
    parser.add_argument("--size", default="auto", help="as of python -m benchmarks")
    parser.add_argument("--columns", nargs="+", choices=list(COLUMNS), default=list(COLUMNS), metavar="NAME")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--turns-of-stages", type=int, default=2, help="within each turn")
    parser.add_argument("--file", type=Path, default=FILE, help="of the rows; the table is written for the default one")
    options = parser.parse_args(argv)
    try:
        if not options.table:
            _measure(options)
        if options.file == FILE:
            write_table(README, read_releases(FILE))
    except UserError as error:
        print(f"python -m benchmarks.studies.releases: {error}", file=sys.stderr)
        return 2
    return 0


def _measure(options: argparse.Namespace) -> None:
    if min(options.turns, options.turns_of_stages) < 1:
        raise UserError("--turns and --turns-of-stages: must be at least 1")
    releases = read_releases(options.file)
    size = find_size(options.size)
    revision = find_revision(options.against)
    machine = record.machine()
    with tempfile.TemporaryDirectory() as directory:
        earlier = Path(directory) / "earlier"
        unpack(revision, earlier)
        checkouts = [ROOT, earlier]
        measured: dict[Path, list[Values]] = {ROOT: [], earlier: []}
        for turn in range(options.turns):
            for checkout in checkouts[:: -1 if turn % 2 else 1]:
                started = time.monotonic()
                out = Path(directory) / f"{turn}-{checkout.name}"
                measured[checkout].append(_turn(checkout, out, size.name, size.start_up_config, options))
                seconds = time.monotonic() - started
                print(f"turn {turn + 1} of {options.turns}: {checkout.name}, {seconds:.0f} s", flush=True)
    compared = compare(measured[ROOT], measured[earlier])
    row = {
        "revision": machine["revision"],
        "version": __version__,
        "against": revision,
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "size": size.name,
        "load_average": os.getloadavg(),
        "machine": machine,
        "ratios": {column: dataclasses.asdict(spread) for column, spread in compared.items()},
    }
    write_releases(options.file, add(releases, row))
    print("\n".join(table([row])))


def _turn(checkout: Path, out: Path, size: str, config: str, options: argparse.Namespace) -> Values:
    """What one revision reaches in a turn."""
    stages = [name for name in options.columns if name not in JOB]
    values: Values = {}
    if stages:
        command = ["benchmarks", "--size", size, "--turns", str(options.turns_of_stages), "--out", str(out)]
        run([*command, "--stages", *stages], checkout)
        (path,) = out.glob("benchmarks*.json")
        content = json.loads(path.read_text())
        values = values_of([row for stage in content["stages"].values() for row in stage["rows"]])
    # Of its own, and empty at first: what other runs have compiled is of no use to this one.
    cache = {COMPILATION_CACHE: str(out / "compiled")}
    wanted = set(JOB) & set(options.columns)
    for name in ("main job", *(["main job again"] if "main job again" in wanted else [])) if wanted else ():
        job = ["pd_jax", "distill", "--config", str(checkout / "configs" / config), "--out", str(out / name)]
        started = time.perf_counter()
        peak_bytes = run(job, checkout, cache)
        values[name] = {"seconds": 1.0 / (time.perf_counter() - started)}
        values.setdefault("memory", {"peak bytes": 1.0 / peak_bytes})
    return {column: values[column] for column in options.columns if column in values}


def run(command: Sequence[str], checkout: Path, variables: Mapping[str, str] = types.MappingProxyType({})) -> int:
    """``python -m COMMAND`` with the files of a checkout; returns the bytes of memory that it had at its peak.

    Args:
      variables: of the environment, besides those that are there.

    Raises:
      UserError: it failed.
    """
    peak_bytes = 0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=checkout,
            env={**os.environ, **variables, "PYTHONPATH": str(checkout)},
            stdout=said,
            stderr=said,
        )
        try:
            while process.poll() is None:
                peak_bytes = max(peak_bytes, _peak_bytes(process.pid))
                time.sleep(_POLL_SECONDS)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            said.seek(0)
            raise UserError(f"python -m {' '.join(command)} of {checkout} failed:\n{said.read()[-2000:]}")
    return peak_bytes


def _peak_bytes(pid: int) -> int:
    """Of memory, that a process has had so far. What the kernel tells of one that has ended counts its parent's too."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return max(
        (int(line.split()[1]) * _KIBIBYTE for line in status.splitlines() if line.startswith("VmHWM")), default=0
    )


def find_revision(name: str) -> str:
    """The short name of a commit.

    Raises:
      UserError: there is none of that name.
    """
    found = _git("rev-parse", "--verify", "--quiet", "--short", "--end-of-options", f"{name}^{{commit}}")
    if found.returncode:
        raise UserError(f"--against: {name!r} is no revision of the repository of {ROOT}")
    return found.stdout.decode().strip()


def unpack(revision: str, directory: Path) -> None:
    """Writes the files of a revision to a new directory."""
    with tempfile.TemporaryFile() as archive:
        subprocess.run(["git", "archive", "--format=tar", revision], cwd=ROOT, stdout=archive, check=True)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as files:
            files.extractall(directory, filter="data")


def _git(*command: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, check=False)


def values_of(rows: Sequence[Mapping[str, Any]]) -> Values:
    """Of the rows of a result file of ``python -m benchmarks``."""
    values: Values = {}
    for row in map(Row.from_json, rows):
        if row.stage in COLUMNS and row.setting.get("until") != "imports are done":
            rate = 1.0 / row.ours.median if is_time(row.unit) else row.ours.median
            values.setdefault(row.stage, {})[json.dumps(dict(row.setting), sort_keys=True)] = rate
    return values


def compare(here: Sequence[Values], there: Sequence[Values]) -> dict[str, Spread]:
    """Ratios by column: of each turn the geometric mean over the rows that both have.

    Args:
      here, there: the values of each turn, in which both took part.
    """
    found = {}
    for column in COLUMNS:
        turns = [
            _geometric_mean(ratios([own[column][name] for name in common], [other[column][name] for name in common]))
            for own, other in zip(here, there, strict=True)
            if (common := sorted(own.get(column, {}).keys() & other.get(column, {}).keys()))
        ]
        if turns:
            found[column] = Spread.of(turns)
    return found


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def add(releases: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows with one more, which takes the place of one of the same revisions, size and machine.

    Columns that were not measured this time stay as they were.
    """
    same = ("revision", "against", "size")
    others: list[Mapping[str, Any]] = []
    ratios: dict[str, Any] = {}
    for other in releases:
        if any(other[key] != row[key] for key in same) or record.difference(other["machine"], row["machine"]):
            others.append(other)
        else:
            ratios |= other["ratios"]
    return [*others, {**row, "ratios": ratios | row["ratios"]}]


def read_releases(path: Path) -> list[Mapping[str, Any]]:
    """The rows that were measured; none if there is no file.

    Raises:
      UserError: it cannot be read, or is another one.
    """
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text())
        releases: list[Mapping[str, Any]] = list(content["releases"])
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError
        table(releases)
        for release in releases:
            record.difference(release["machine"], release["machine"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a file of python -m benchmarks.studies.releases") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return releases


def write_releases(path: Path, releases: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows, in the place of the file only once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"format_version": FORMAT_VERSION, "releases": releases}, indent=1) + "\n")


def table(releases: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of the table, in Markdown."""
    if not releases:
        return ["None has been measured yet."]
    lines = [
        "| revision | against | machine | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (3 + len(COLUMNS)) + "|",
    ]
    for release in releases:
        machine, measured = release["machine"], release["ratios"]
        rate = f"{machine['rates']['flops'] / 1e9:.0f} GFLOP/s"
        cells = [
            f"{release['version']} ({release['revision']})",
            str(release["against"]),
            f"{machine['processor']}, {machine['cores']} cores, {rate}",
            *(_cell(Spread.from_json(measured[column])) if column in measured else "" for column in COLUMNS),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.lowest:.2f} to {spread.highest:.2f})"


def write_table(path: Path, releases: Sequence[Mapping[str, Any]]) -> None:
    """Puts the table between its two marks in a document.

    Raises:
      UserError: the marks are not there.
    """
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{path} has no place for the table")
    path.write_text("\n".join([before + BEGIN.rstrip("\n"), *table(releases), END + after]))


if __name__ == "__main__":
    raise SystemExit(main())
