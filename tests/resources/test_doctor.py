"""The doctor: what is broken is a line with what to do, whatever way it is broken, and nothing waits for it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pd_jax.cli import main
from pd_jax.resources.doctor import doctor, packages, plain, surroundings
from pd_jax.resources.doctor.children import Told, ask
from pd_jax.resources.doctor.findings import Diagnosis, Finding
from pd_jax.system import accelerators, compilation_cache
from support.commands import run

ROOT = Path(__file__).parents[2]
GIB = 2**30
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def broken(directory: Path, **modules: str) -> dict[str, str]:
    """An environment in which these modules are found first, with this code in them."""
    for name, code in modules.items():
        (directory / f"{name}.py").write_text(code)
    return {**os.environ, "PYTHONPATH": str(directory)}


def test_each_package_is_imported_for_itself_however_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {
        "sound_one": "print('a library that talks')",
        "missing_part": "import there_is_no_such_module",
        "wrong": "raise RuntimeError('built for\\nanother NumPy')",
        "ending": "raise SystemExit(0)",
        "crashing": "import os; os.abort()",
        "sound_two": "",
    }
    broken(tmp_path, **modules)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    wanted = [packages.Requirement(name, (), "", "") for name in modules]
    monkeypatch.setattr(packages, "requirements", lambda *_: wanted)
    monkeypatch.setattr(packages, "version_of", lambda _: "1.0")
    found = doctor._check_imports(20.0)
    assert found.status == "broken"
    assert found.facts["faults"] == {
        "missing_part": "ModuleNotFoundError: No module named 'there_is_no_such_module'",
        "wrong": "RuntimeError: built for another NumPy",
        "ending": "SystemExit: 0",
        "crashing": "ended by SIGABRT",
    }
    assert "--force-reinstall" in found.remedy and "missing-part" not in found.says
    assert "\n" not in found.says


def test_what_hangs_is_given_up_with_all_that_it_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    )
    code += f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid)); time.sleep(600)"
    start = time.monotonic()
    told = ask("imports", "hanging", timeout=2.0, environment=broken(tmp_path, hanging=code))
    assert told.failure == "no answer in 2 s" and time.monotonic() - start < 30
    assert told.get("begins") == "hanging"
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 20
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


def is_alive(process: int) -> bool:
    """Whether it runs; one that was killed and that nobody has asked for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("code", "says", "remedy"),
    [
        ("raise ImportError('jaxlib is version 0.4.1, but jax requires >= 0.10')", "jaxlib is version", "JAX anew"),
        ("import os, sys; sys.stderr.write('F0000 parse_flags.cc:200] Unknown flag in XLA_FLAGS: --x\\n'); os.abort()",
         "SIGABRT (F0000 parse_flags.cc:200] Unknown flag in XLA_FLAGS: --x)", "unset XLA_FLAGS"),
        ("import time; time.sleep(600)", "no answer in 2 s", "another process may hold the device"),
        ("def devices(): raise RuntimeError('no TPU')", "RuntimeError: no TPU", "install JAX anew"),
    ],
)  # fmt: skip
def test_a_jax_that_finds_no_device_is_a_line(
    code: str, says: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", broken(tmp_path, jax=code)["PYTHONPATH"])
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    # Long enough for what ends by itself, in a process that has to start first.
    found = doctor._check_devices(2.0 if "sleep" in code else 60.0)
    assert (found.status, found.about) == ("broken", "devices")
    assert says in found.says and remedy in found.remedy


def answer(monkeypatch: pytest.MonkeyPatch, *lines: Mapping[str, Any], failure: str = "") -> None:
    monkeypatch.setattr(doctor, "ask", lambda *_, **__: Told(list(lines), failure))


@pytest.mark.parametrize(
    ("lines", "failure", "status", "says"),
    [
        ([{"steps": 16, "varies": True}, {"in_jit": True}], "", "ok", "inside a compiled program"),
        ([{"steps": 16, "varies": True}], "", "ok", "from the host, as it does beside this device"),
        ([{"steps": 16, "varies": True}, {"in_jit": False}], "", "warning", "other frames"),
        ([{"steps": 16, "varies": True}], "ended by SIGSEGV", "warning", "compiled program: ended by SIGSEGV"),
        ([], "ImportError: libz", "broken", "Pong is not played: ImportError: libz"),
    ],
)
def test_envpool_is_as_good_as_what_it_has_shown(
    lines: list[Any], failure: str, status: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, *lines, failure=failure)
    found = doctor._check_envpool(1.0)
    assert found.status == status and says in found.says
    assert bool(found.remedy) == (status != "ok")


def test_devices_are_counted_and_a_gpu_that_is_left_out_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(accelerators, "GPU_FILES", (str(tmp_path / "nvidia0"),))
    monkeypatch.setattr(accelerators, "TPU_FILES", ())
    cpu = {"platform": "cpu", "kinds": ["cpu"], "limits": [None]}
    answer(monkeypatch, cpu, {"computes": True})
    assert doctor._check_devices(1.0).status == "ok"
    (tmp_path / "nvidia0").touch()
    found = doctor._check_devices(1.0)
    assert found.status == "warning" and found.remedy == "pip install 'pd-jax[cuda]'"
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert doctor._check_devices(1.0).status == "ok"
    gpus = {"platform": "gpu", "kinds": ["H100", "H100"], "limits": [70 * GIB, 70 * GIB]}
    answer(monkeypatch, gpus, {"computes": True})
    assert doctor._check_devices(1.0).says == "gpu: 2 x H100, 140.0 GiB in all"
    answer(monkeypatch, gpus, {"computes": False})
    assert doctor._check_devices(1.0).status == "broken"


def test_a_line_of_requirements_is_understood() -> None:
    parse = packages.parse
    assert parse("jax[cuda13]>=0.10.0; extra == 'cuda'") == packages.Requirement("jax", ("cuda13",), "0.10.0", "cuda")
    assert parse("PyYAML>=6.0.2") == packages.Requirement("pyyaml", (), "6.0.2", "")
    assert parse('ml_dtypes ; python_version < "3.12"') == packages.Requirement("ml-dtypes", (), "", "")
    assert parse("???") is None


def test_what_is_needed_is_what_the_project_says() -> None:
    needed = [its for its in packages.requirements() if not its.extra]
    assert {its.name for its in needed} == {packages.parse(text).name for text in PROJECT["dependencies"]}  # type: ignore[union-attr]
    assert all(its.is_met for its in needed)
    # What it would import is there.
    assert all(importlib.util.find_spec(its.module) is not None for its in needed)
    # Each extra says what it is for.
    assert set(PROJECT["optional-dependencies"]) - set(packages.UNLOCKS) == set()


def test_versions_that_are_missing_or_old_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages.check_packages().status == "ok"
    versions = {"jax": "0.9.1", "optax": None}
    real = packages.version_of
    monkeypatch.setattr(packages, "version_of", lambda name: versions[name] if name in versions else real(name))
    found = packages.check_packages()
    assert found.status == "broken"
    assert found.says == "not there: optax; too old: jax 0.9.1 (at least 0.10.0)"


@pytest.mark.parametrize(
    ("versions", "status"),
    [
        ({"jax": "0.10.2", "jaxlib": "0.10.2"}, "ok"),
        ({"jax": "0.10.2", "jaxlib": "0.10.2", "jax-cuda13-plugin": "0.10.2", "jax-cuda13-pjrt": "0.10.2"}, "ok"),
        ({"jax": "0.10.2", "jaxlib": "0.10.1"}, "warning"),
        ({"jax": "0.10.2", "jaxlib": "0.10.2", "jax-cuda13-plugin": "0.9.0"}, "warning"),
    ],
)
def test_parts_of_jax_that_are_not_of_one_version_are_told(
    versions: dict[str, str], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "version_of", versions.get)
    found = packages.check_plugins()
    assert found is not None and found.status == status
    assert all(version in found.says for version in versions.values())


def test_extras_that_are_not_there_say_what_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"torch": "2.13.0"}
    monkeypatch.setattr(packages, "version_of", there.get)
    found = packages.check_extras()
    assert found.status == "note" and found.facts["there"] == ["sb3"]
    assert "GPUs" in found.says and "hub" in found.facts["missing"]


@pytest.mark.parametrize(
    ("physical", "limits", "free", "status"),
    [
        (16 * GIB, [], 8 * GIB, "ok"),
        (16 * GIB, [GIB // 2], 8 * GIB, "broken"),
        (16 * GIB, [3 * GIB // 2], 8 * GIB, "warning"),
        (16 * GIB, [], GIB // 2, "warning"),
        (16 * GIB, [2**63], None, "ok"),
    ],
)
def test_memory_is_what_the_container_leaves(
    physical: int, limits: list[int], free: int | None, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surroundings, "physical_bytes", lambda: physical)
    monkeypatch.setattr(surroundings, "container_limits", lambda: limits)
    monkeypatch.setattr(surroundings, "_available_bytes", lambda: free)
    found = surroundings.check_memory()
    assert found.status == status
    assert found.facts["limit_bytes"] == min([physical, *limits])


def test_one_core_needs_two_threads_for_some_games(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "usable_cores", lambda: (0,))
    monkeypatch.setattr("pd_jax.system.cores.usable_cores", lambda: (0,))
    found = surroundings.check_cores({})
    assert found.status == "warning" and "PJRT_NPROC=2" in found.remedy
    assert surroundings.check_cores({"PJRT_NPROC": "2"}).status == "ok"


def test_the_cache_is_found_measured_and_not_made(tmp_path: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    found = surroundings.check_cache(environment)
    assert found.status == "ok" and found.facts["bytes"] == 0 and list(tmp_path.iterdir()) == []
    directory = Path(found.facts["directory"])
    directory.mkdir(parents=True)
    (directory / "program").write_bytes(bytes(3 * 2**20))
    assert "3 MiB" in surroundings.check_cache(environment).says
    # It is the directory that runs use.
    assert compilation_cache.place(environment).directory == directory
    assert surroundings.check_cache({"PD_JAX_COMPILATION_CACHE": "off"}).facts == {"directory": None}
    assert surroundings.check_cache({"JAX_COMPILATION_CACHE_DIR": str(directory)}).facts["bytes"] == 3 * 2**20
    # Under a file there can be no directory; one that was asked for stops a run.
    wrong = str(directory / "program" / "x")
    assert surroundings.check_cache({"PD_JAX_COMPILATION_CACHE": wrong}).status == "broken"
    assert surroundings.check_cache({"XDG_CACHE_HOME": wrong}).status == "warning"


def test_whether_runs_can_be_written_is_tried_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert surroundings.check_out(str(tmp_path / "a" / "b")).status == "ok"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert surroundings.check_out(str(tmp_path / "file" / "x")).status == "broken"
    # No user can write there, root neither.
    assert surroundings.check_out("/proc/x").status == "broken"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=GIB // 2))
    assert surroundings.check_out(str(tmp_path)).status == "warning"


@pytest.mark.parametrize(
    ("variables", "status", "says"),
    [
        ({"HOME": "/x"}, "ok", "none"),
        ({"XLA_FLAGS": "--xla_dump_to=x"}, "note", "XLA_FLAGS=--xla_dump_to=x"),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}, "warning", "8 devices"),
        ({"XLA_FLAGS": "--xla_backend_optimization_level=0"}, "warning", "slow"),
        ({"JAX_DISABLE_JIT": "1"}, "warning", "many times slower"),
        ({"JAX_DISABLE_JIT": "false"}, "note", "JAX_DISABLE_JIT=false"),
        ({"JAX_SECRET_TOKEN": "abc"}, "note", "JAX_SECRET_TOKEN=..."),
    ],
)
def test_variables_of_note_are_told_and_secrets_are_not(variables: dict[str, str], status: str, says: str) -> None:
    found = surroundings.check_variables(variables)
    assert found.status == status and says in found.says and "abc" not in found.says


def test_a_check_that_fails_itself_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Finding:
        raise ValueError("an odd\nmachine")

    for name in ("check_python", "check_cores", "check_memory", "check_cache", "check_out", "check_variables"):
        monkeypatch.setattr(surroundings, name, fail)
    monkeypatch.setattr(doctor, "_check_imports", lambda _: Finding("imports", "ok", ""))
    answer(monkeypatch, failure="gone")
    found = {one.about: one for one in doctor.examine(out="x", timeout=1.0).findings}
    assert len(found) == 12
    assert found["memory"].says == "could not be looked at: ValueError: an odd machine"
    assert found["devices"].status == "broken" and found["extras"].status == "note"
    # It would say the same again, and what to do would be wrong.
    assert found["envpool"].says == "not tried: it rests on devices"


def test_the_exit_code_is_1_only_if_the_main_job_cannot_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = [Finding("memory", "warning", "little", "get more"), Finding("extras", "note", "there: none\nhub  Hub")]
    monkeypatch.setattr("pd_jax.commands.doctor.examine", lambda **_: Diagnosis("1.2", findings))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "warning  memory  little\n                 -> get more\n" in out and out.endswith("can run; see memory\n")
    findings.append(Finding("jax", "broken", "gone", "install it"))
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["is_sound"] is False and told["pd_jax"] == "1.2"
    assert [one["status"] for one in told["findings"]] == ["warning", "note", "broken"]
    assert main(["doctor", "--timeout", "0"]) == 2
    assert "is out of range" in capsys.readouterr().err


def test_it_works_where_what_reads_settings_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: Any) -> Any:
        raise ImportError("libfoo.so: cannot open shared object file", name="tyro")

    monkeypatch.setattr("pd_jax.config.loading.load_config", load)
    monkeypatch.setattr(plain, "examine", lambda **_: Diagnosis("1.2", [Finding("imports", "broken", "tyro", "x")]))
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["says"] == "tyro"
    # Others name it, in one line.
    assert main(["report", "x"]) == 2
    assert capsys.readouterr().err == (
        "pd-jax report: libfoo.so: cannot open shared object file; pd-jax doctor says what is missing or broken\n"
    )


def test_a_fault_of_our_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> Any:
        raise ImportError("cannot import name 'x'", name="pd_jax.config.base")

    monkeypatch.setattr("pd_jax.config.loading.load_config", load)
    with pytest.raises(ImportError):
        main(["report", "x"])


def test_it_imports_nothing_but_pythons_own() -> None:
    code = (
        "import sys; before = set(sys.modules); import pd_jax.resources.doctor.plain; "
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    ended = run([sys.executable, "-c", code], PYTHONPATH=str(ROOT))
    assert ended.stdout == "['pd_jax']\n", ended.stderr


@pytest.mark.slow
def test_on_this_machine_pong_is_played_inside_a_compiled_program() -> None:
    ended = run([sys.executable, "-m", "pd_jax", "doctor", "--json"], XLA_FLAGS="", JAX_PLATFORMS="cpu")
    told = {one["about"]: one for one in json.loads(ended.stdout)["findings"]}
    assert ended.code == 0, ended.stdout
    assert told["envpool"]["facts"] == {"steps": 16, "in_jit": True}
    assert told["devices"]["facts"]["computes"] is True and told["imports"]["facts"]["faults"] == {}
