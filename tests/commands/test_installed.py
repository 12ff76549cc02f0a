"""The wheel in an empty environment outside the repository: what a user does first works, from an empty directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPLAINED = "CartPole: the student scores "


def call(*argv: str | Path, cwd: Path, code: int = 0) -> str:
    """What a command prints, away from this environment."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "XLA_FLAGS")}
    ended = subprocess.run(
        list(map(str, argv)), cwd=cwd, env=kept | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=1200
    )
    assert ended.returncode == code, f"{argv}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    assert "Traceback" not in ended.stderr
    return ended.stdout if code == 0 else ended.stderr


@pytest.mark.slow
def test_a_wheel_is_installed_and_distils_by_the_name_of_a_settings_file(tmp_path: Path) -> None:
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(tmp_path)!r}))"
    wheel = tmp_path / call(sys.executable, "-c", code, cwd=ROOT).split()[-1]
    # The interpreter that this environment was made of.
    call(Path(sys.base_prefix) / "bin" / "python3", "-m", "venv", tmp_path / "environment", cwd=tmp_path)
    programs, work = tmp_path / "environment" / "bin", tmp_path / "work"
    call(programs / "pip", "install", "-q", "-c", ROOT / "requirements.lock", wheel, cwd=tmp_path)
    work.mkdir()
    program = programs / "pd-jax"
    version = call(program, "--version", cwd=work).split()[1]
    assert version in wheel.name
    assert "three minutes on two CPU cores" in call(program, "configs", cwd=work)
    told = json.loads(call(program, "doctor", "--json", cwd=work))
    by_name = {finding["about"]: finding for finding in told["findings"]}
    assert told["pd_jax"] == version and told["is_sound"] is True
    assert by_name["envpool"]["facts"] == {"steps": 16, "in_jit": True}
    assert set(by_name["extras"]["facts"]["missing"]) >= {"export", "sb3"}
    assert list(work.iterdir()) == []
    call(program, "distill", "--config", "cartpole", cwd=work)
    (game,) = json.loads((work / "runs" / "cartpole" / "summary.json").read_text())["games"].values()
    # Random play scores 22.
    assert game["teacher_score"] == 500.0 and game["student_score"] > 300.0
    assert EXPLAINED in call(program, "explain", "--run", "runs/cartpole", cwd=work)
    script = call(program, "completion", "bash", cwd=work)
    (work / "complete").write_text(f"{script}\nCOMP_WORDS=(pd-jax distill --config po); COMP_CWORD=3; _pd_jax\n")
    assert call("bash", "-c", 'source ./complete; echo "${COMPREPLY[@]}"', cwd=work) == "pong\n"
    assert "did you mean 'pong'" in call(program, "distill", "--config", "pogn", cwd=work, code=2)
