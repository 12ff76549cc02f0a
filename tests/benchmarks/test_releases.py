"""Releases against one another: what a ratio is, which rows stay, and that both run from their own files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import record
from benchmarks.harness.measure import Spread
from benchmarks.harness.rows import make_row
from benchmarks.studies import releases
from benchmarks.studies.releases import README, add, compare, read_releases, table, values_of, write_table
from pd_jax.errors import UserError

MACHINE = {"processor": "abacus", "cores": 2, "devices": ["cpu"], "rates": {"flops": 4e9, "bytes": 8e9}}


def release(revision: str = "b", against: str = "a", machine: Any = MACHINE, **medians: float) -> dict[str, Any]:
    ratios = {name: {"median": value, "lowest": value, "highest": 2.0, "turns": 3} for name, value in medians.items()}
    return {
        "revision": revision,
        "version": "1.2",
        "against": against,
        "size": "toy",
        "machine": machine,
        "ratios": ratios,
    }


def test_ratios_are_geometric_means_of_the_rows_that_both_have_turn_by_turn() -> None:
    here = [{"update": {"32": 8.0, "64": 2.0, "new": 9.0}}, {"update": {"32": 3.0, "64": 3.0}}]
    there = [{"update": {"32": 2.0, "64": 2.0, "gone": 1.0}, "rollout": {"1": 1.0}}, {"update": {"32": 4.0, "64": 4.0}}]
    found = compare(here, there)
    assert set(found) == {"update"}
    assert found["update"].lowest == pytest.approx(0.75) and found["update"].highest == pytest.approx(2.0)
    assert found["update"].turns == 2


def test_more_is_better_of_rates_and_of_times() -> None:
    rows = [
        make_row("update", {"batch": 32}, "samples/s", [10.0, 30.0, 20.0]),
        make_row("startup", {"until": "first updates"}, "s", [4.0]),
        make_row("startup", {"until": "imports are done"}, "s", [1.0]),
        make_row("latency", {}, "ms", [1.0]),
    ]
    values = values_of(json.loads(json.dumps([row.to_json() for row in rows])))
    assert values == {"update": {'{"batch": 32}': 20.0}, "startup": {'{"until": "first updates"}': 0.25}}


def test_a_row_takes_the_place_of_its_own_on_its_own_machine_only() -> None:
    busy = MACHINE | {"rates": {"flops": 3.5e9, "bytes": 8e9}}
    slow = MACHINE | {"rates": {"flops": 2e9, "bytes": 8e9}}
    first, other = release(update=1.0), release(revision="c", update=1.5)
    again, elsewhere = release(machine=busy, update=1.1), release(machine=slow, update=0.9)
    assert add([first, other], again) == [other, again]
    rollout = release(machine=busy, rollout=1.2)
    assert add([first, other], rollout) == [other, release(machine=busy, update=1.0, rollout=1.2)]
    assert add([first, other], elsewhere) == [first, other, elsewhere]


def test_the_table_stands_between_its_marks(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text(f"before\n\n{releases.BEGIN}old\nlines\n{releases.END}\nafter\n")
    rows = [release(update=1.25, memory=0.5)]
    for _ in range(2):
        write_table(document, rows)
        before, _, rest = document.read_text().partition(releases.BEGIN)
        written, _, after = rest.partition(releases.END)
        assert (before, after) == ("before\n\n", "\nafter\n")
        assert written == "\n".join(table(rows)) + "\n"
    cells = [cell.strip() for cell in table(rows)[2].strip("|").split("|")]
    assert cells[:4] == ["1.2 (b)", "a", "abacus, 2 cores, 4 GFLOP/s", "1.25 (1.25 to 2.00)"]
    assert cells[4:] == ["", "", "", "", "", "", "0.50 (0.50 to 2.00)"]
    document.write_text("nothing")
    with pytest.raises(UserError, match="has no place for the table"):
        write_table(document, rows)


def test_the_table_in_the_document_is_that_of_the_file() -> None:
    written = README.read_text().partition(releases.BEGIN)[2].partition(releases.END)[0]
    assert written == "\n".join(table(read_releases(releases.FILE))) + "\n"


@pytest.mark.parametrize("content", ["{", "[]", '{"format_version": 1, "releases": [{"revision": "a"}]}'])
def test_a_file_of_something_else_is_refused(content: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "releases.json"
    path.write_text(content)
    assert releases.main(["--against", "HEAD", "--file", str(path)]) == 2
    error = capsys.readouterr().err
    assert "is not a file of python -m benchmarks.studies.releases" in error and error.count("\n") == 1
    assert path.read_text() == content


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: Any) -> Path:
    """Two revisions of a package with the two commands; the second is the faster, and takes less memory."""
    root = tmp_path / "repository"
    monkeypatch.setattr(releases, "ROOT", root)

    def commit(samples: float, kilobytes: int) -> None:
        row = make_row("update", {"batch": 8}, "samples/s", [samples]).to_json()
        files = {
            "configs/cartpole.yaml": "",
            "benchmarks/__init__.py": "",
            "benchmarks/__main__.py": f"""
import json, pathlib, sys
import pd_jax
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir()
content = {{"stages": {{"update": {{"rows": [json.loads({json.dumps(row)!r})]}}}}}}
(out / "benchmarks_toy.json").write_text(json.dumps(content))
""",
            "pd_jax/__init__.py": "",
            "pd_jax/__main__.py": f"""
import os, pathlib, time
filled = b'x' * {1000 * kilobytes}
compiled = pathlib.Path(os.environ["PD_JAX_COMPILATION_CACHE"], "a program")
time.sleep(0.3 if {samples} == 100.0 or not compiled.exists() else 0.0)
compiled.parent.mkdir(parents=True, exist_ok=True)
compiled.touch()
""",
        }
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "a commit"]):
            subprocess.run([*git, *command], cwd=root, check=True)

    commit(100.0, 80_000)
    commit(150.0, 10_000)
    return root


@pytest.mark.slow
def test_each_revision_runs_from_its_own_files(repository: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "releases.json"
    options = ["--against", "HEAD~1", "--size", "toy", "--turns", "2", "--file", str(file)]
    assert releases.main([*options, "--columns", "update", "main job", "main job again", "memory"]) == 0
    (row,) = read_releases(file)
    assert Spread.from_json(row["ratios"]["update"]) == Spread(*[pytest.approx(1.5)] * 3, 2)
    assert row["ratios"]["memory"]["lowest"] > 1.5 and row["ratios"]["main job"]["median"] > 0
    # Nothing was compiled before the first job of each turn, and all before the second: its fake is faster then.
    assert row["ratios"]["main job"]["highest"] < 1.5 < row["ratios"]["main job again"]["lowest"]
    assert row["machine"]["rates"] == record.rates() and row["against"] != row["revision"]
    assert "1.50 (1.50 to 1.50)" in capsys.readouterr().out
    # Once more: the row is replaced, as it is the same machine; what was not measured again stays.
    assert releases.main([*options, "--columns", "update"]) == 0
    (again,) = read_releases(file)
    assert again["ratios"] == row["ratios"] and again["measured_at"] >= row["measured_at"]


def test_what_a_user_gets_wrong_is_a_line_and_writes_nothing(repository: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "releases.json"
    for options, message in (
        (["--against", "nowhere"], "--against: 'nowhere' is no revision"),
        (["--against", "--all"], "--against: '--all' is no revision"),
        (["--against", "HEAD", "--turns", "0"], "must be at least 1"),
        (["--against", "HEAD", "--size", "smal"], "did you mean 'small'?"),
    ):
        argv = [f"{options[0]}={options[1]}", *options[2:]]
        assert releases.main([*argv, "--file", str(file)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    (repository / "benchmarks" / "__main__.py").write_text("raise SystemExit('out of luck')")
    assert releases.main(["--against", "HEAD", "--size", "toy", "--columns", "update", "--file", str(file)]) == 2
    assert "failed:\nout of luck" in capsys.readouterr().err
    assert not file.exists()
