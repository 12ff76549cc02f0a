"""Checkpoints survive kill -9, full disks and damaged files."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pd_jax.errors import UserError
from pd_jax.runs.checkpoints import Checkpointer
from support.commands import run, virtual_devices


def make_state(seed: int, width: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    params = {
        "conv1": {
            "kernel": jnp.asarray(rng.normal(size=(8, 8, 4, width)), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=width), jnp.bfloat16),
        }
    }
    return {
        "params": params,
        "optimizer": optax.adam(1e-3).init(params),
        "key": jax.random.key(seed),
        "lane_keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        "updates": seed,
        "nothing_yet": np.zeros((0, 5), np.uint8),
        "nan_payload": np.array([0x7FC00001], np.uint32).view(np.float32),
    }


def as_bytes(state: dict[str, Any]) -> list[tuple[str, bytes]]:
    def raw(leaf: Any) -> tuple[str, bytes]:
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return str(leaf.dtype), np.asarray(jax.random.key_data(leaf)).tobytes()
        return str(np.asarray(leaf).dtype), np.asarray(leaf).tobytes()

    return [raw(leaf) for leaf in jax.tree.leaves(state)]


def save_three(directory: Path) -> None:
    with Checkpointer(directory) as checkpointer:
        for step in (10, 20, 30):
            checkpointer.save(step, make_state(step), {"network": "net1"}, score=float(-step))


def restored(
    checkpointer: Checkpointer, template: Any, step: int | None = None, **options: Any
) -> tuple[Any, dict[str, Any], int]:
    result = checkpointer.restore(template, step, **options)
    assert result is not None
    return result


def largest_file(directory: Path) -> Path:
    return max((path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    save_three(directory)
    return directory


@pytest.fixture
def saved(saved_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_once, tmp_path / "checkpoints"))


@pytest.fixture
def warnings() -> list[str]:
    return []


def test_round_trip_is_bit_exact_and_keeps_types(saved: Path) -> None:
    state, metadata, step = restored(Checkpointer(saved), make_state(0))
    expected = make_state(30)
    assert (metadata, step) == ({"network": "net1"}, 30)
    assert str(jax.tree.structure(state)) == str(jax.tree.structure(expected))
    assert as_bytes(state) == as_bytes(expected)
    assert type(state["updates"]) is int
    assert jax.random.uniform(state["key"]) == jax.random.uniform(expected["key"])
    assert jax.random.key_impl(state["lane_keys"]) == "rbg"


def test_a_template_of_shapes_is_enough(saved: Path) -> None:
    template = jax.eval_shape(lambda: {name: leaf for name, leaf in make_state(0).items() if name != "updates"})
    state, _, _ = restored(Checkpointer(saved), {**template, "updates": 0})
    assert as_bytes(state) == as_bytes(make_state(30))


def test_saved_state_is_the_one_at_the_call_though_its_buffers_change_at_once(tmp_path: Path) -> None:
    array = np.zeros(500_000, np.float32)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"w": array})
        array[:] = 1
        state, _, _ = restored(checkpointer, {"w": array})
    assert not state["w"].any()


def test_state_saved_on_two_devices_restores_on_one(tmp_path: Path) -> None:
    script = f"""
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from pd_jax.runs.checkpoints import Checkpointer
mesh = jax.make_mesh((2,), ("d",))
rows = jax.device_put(np.arange(8.0, dtype=np.float32), NamedSharding(mesh, PartitionSpec("d")))
whole = jax.device_put(np.arange(3), NamedSharding(mesh, PartitionSpec()))
with Checkpointer({str(tmp_path)!r}) as checkpointer:
    checkpointer.save(1, {{"rows": rows, "whole": whole}})
"""
    assert run([sys.executable, "-c", script], **virtual_devices(2)).code == 0
    template = {"rows": np.zeros(8, np.float32), "whole": np.zeros(3, np.int32)}
    state, _, _ = restored(Checkpointer(tmp_path, read_only=True), template)
    np.testing.assert_array_equal(state["rows"], np.arange(8))
    np.testing.assert_array_equal(state["whole"], np.arange(3))


def test_nothing_there_is_none(tmp_path: Path) -> None:
    assert Checkpointer(tmp_path / "absent", read_only=True).restore({}) is None
    assert not (tmp_path / "absent").exists()
    assert Checkpointer(tmp_path).restore({"w": 1.0}) is None
    assert Checkpointer(tmp_path).best_step() is None


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    scores = [1.0, 9.0, 2.0, None, float("nan"), 9.0, 3.0, 4.0, 5.0]
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for step, score in enumerate(scores[:5]):
            checkpointer.save(step, {"w": step}, score=score)
        assert checkpointer.steps() == [1, 3, 4]
    # The best of an earlier process is still known to the next, and yields to a later equal.
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        assert checkpointer.best_step() == 1
        for step, score in list(enumerate(scores))[5:]:
            checkpointer.save(step, {"w": step}, score=score)
        assert checkpointer.steps() == [5, 7, 8]
        assert checkpointer.best_step() == 5
        assert restored(checkpointer, {"w": 0}, step=5)[0] == {"w": 5}
    with Checkpointer(tmp_path, keep=1, keep_best=False) as checkpointer:
        checkpointer.save(9, {"w": 9})
        assert checkpointer.steps() == [9]


def test_a_step_is_written_once_and_never_out_of_order(saved: Path) -> None:
    with Checkpointer(saved) as checkpointer:
        assert not checkpointer.save(30, make_state(1))
        with pytest.raises(ValueError, match="checkpoint 15 would come before checkpoint 30"):
            checkpointer.save(15, make_state(1))
        assert restored(checkpointer, make_state(0))[0]["updates"] == 30


def test_a_reader_changes_nothing(saved: Path) -> None:
    (saved / "40.orbax-checkpoint-tmp").mkdir()
    before = sorted(saved.rglob("*"))
    with Checkpointer(saved, read_only=True) as checkpointer:
        assert checkpointer.steps() == [10, 20, 30]
        assert not checkpointer.save(50, make_state(1))
    assert sorted(saved.rglob("*")) == before
    Checkpointer(saved).close()
    assert not (saved / "40.orbax-checkpoint-tmp").exists()


def truncate(step: Path) -> None:
    path = largest_file(step)
    os.truncate(path, path.stat().st_size // 2)


def empty_every_file(step: Path) -> None:
    for path in step.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)


def empty_directory(step: Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


def flip_a_bit_of_an_array(step: Path) -> None:
    path = largest_file(step / "state")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_the_metadata(step: Path) -> None:
    path = step / "metadata" / "metadata"
    path.write_text(path.read_text().replace("net1", "net3"))


def exchange_two_checkpoints_arrays(step: Path) -> None:
    shutil.rmtree(step / "state")
    shutil.copytree(step.parent / "10" / "state", step / "state")


DAMAGES = [
    truncate,
    empty_every_file,
    empty_directory,
    flip_a_bit_of_an_array,
    change_the_metadata,
    exchange_two_checkpoints_arrays,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    saved: Path, warnings: list[str], damage: Callable[[Path], None]
) -> None:
    damage(saved / "30")
    with Checkpointer(saved, warn=warnings.append) as checkpointer:
        state, _, step = restored(checkpointer, make_state(0), network="net1")
        assert step == 20
        assert as_bytes(state) == as_bytes(make_state(20))
        assert len(warnings) == 1
        assert re.search(r"checkpoint 30: .+; passed over for checkpoint 20$", warnings[0])
        assert "\n" not in warnings[0]
        # Training goes on from 20 and reaches 30 again.
        assert checkpointer.save(30, make_state(31))
        assert restored(checkpointer, make_state(0))[0]["updates"] == 31
    assert (saved / "damaged-30").is_dir()
    assert Checkpointer(saved).steps() == [10, 20, 30]


def test_any_flipped_byte_is_noticed_or_harmless(saved: Path) -> None:
    rng = np.random.default_rng(0)
    files = [path for path in (saved / "30").rglob("*") if path.is_file() and path.stat().st_size]
    template, expected = make_state(0), {step: as_bytes(make_state(step)) for step in (20, 30)}
    for path in files:
        content = path.read_bytes()
        for position in rng.integers(len(content), size=3):
            flipped = bytearray(content)
            flipped[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            state, _, step = restored(Checkpointer(saved, read_only=True, warn=lambda _: None), template)
            assert as_bytes(state) == expected[step], f"{path} at {position}"
        path.write_bytes(content)


def test_a_reader_leaves_damage_where_it_is(saved: Path, warnings: list[str]) -> None:
    truncate(saved / "30")
    with Checkpointer(saved, read_only=True, warn=warnings.append) as checkpointer:
        assert restored(checkpointer, make_state(0))[2] == 20
        checkpointer.save(40, make_state(40))
    assert sorted(path.name for path in saved.iterdir()) == ["10", "20", "30"]


def test_when_every_checkpoint_is_damaged_the_error_names_them(saved: Path) -> None:
    for step in (10, 20, 30):
        truncate(saved / str(step))
    with pytest.raises(UserError, match=r"no intact checkpoint \(30: .+; 20: .+; 10: "):
        Checkpointer(saved).restore(make_state(0))


def test_a_step_asked_for_has_no_substitute(saved: Path) -> None:
    truncate(saved / "30")
    with pytest.raises(UserError, match=r"no intact checkpoint \(30: "):
        Checkpointer(saved).restore(make_state(0), step=30)
    with pytest.raises(UserError, match=r"has no checkpoint 25 \(10, 20, 30\)"):
        Checkpointer(saved).restore(make_state(0), step=25)


@pytest.mark.parametrize(
    ("template", "network", "difference"),
    [
        (make_state(0, width=8), "net2", "params.conv1.bias is bfloat16 [4] there and bfloat16 [8] here"),
        ({**make_state(0), "extra": np.zeros(2)}, "net2", "extra is absent there and float64 [2] here"),
        ({"params": make_state(0)["params"]}, "net2", "there and absent here"),
        ({**make_state(0), "key": jax.random.key(0, impl="rbg")}, "net2", "key is key<fry> [] there and key<rbg>"),
        (make_state(0), "net2", ""),
    ],
)
def test_another_network_is_an_error_and_not_damage(
    saved: Path, warnings: list[str], template: dict[str, Any], network: str, difference: str
) -> None:
    with pytest.raises(UserError, match="checkpoint 30 holds network net1, the run wants net2") as caught:
        Checkpointer(saved, warn=warnings.append).restore(template, network=network)
    assert difference in str(caught.value)
    assert not warnings


def test_a_failed_save_warns_and_leaves_the_others_and_the_next_save_works(
    saved: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: warnings.append(repr(unraisable)))
    # A file-size limit fails writes as a full disk does, in whichever thread makes them.
    big = {**make_state(40), "ballast": np.random.default_rng(0).bytes(2_000_000)}
    big["ballast"] = np.frombuffer(big["ballast"], np.uint8)
    with Checkpointer(saved, warn=warnings.append) as checkpointer:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
            checkpointer.save(40, big, score=100.0)
            checkpointer.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert len(warnings) == 1
        assert re.search(r"checkpoint 40 was not saved: .*File too large \(on disk: 10, 20, 30\)$", warnings[0])
        assert checkpointer.steps() == [10, 20, 30]
        assert checkpointer.best_step() == 10
        assert restored(checkpointer, make_state(0))[2] == 30
        assert checkpointer.save(50, big)
    assert len(warnings) == 1
    assert capfd.readouterr() == ("", "")
    # TensorStore's threads may put a file of the failed save back after its removal; it goes with the next opening.
    assert sorted(path.name for path in saved.iterdir() if path.name.isdigit()) == ["10", "20", "30", "50"]


def test_a_directory_that_cannot_be_made_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot hold checkpoints: Not a directory"):
        Checkpointer(tmp_path / "file" / "checkpoints")


def test_leaves_that_are_no_numbers_are_refused_at_once(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(TypeError, match="str cannot be saved"):
        checkpointer.save(1, {"name": "net1"})


def test_nothing_is_printed_by_a_good_save(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_three(tmp_path)
    assert capfd.readouterr() == ("", "")


KILL_LOOP = """
import sys, numpy as np
from pd_jax.runs.checkpoints import Checkpointer
with Checkpointer(sys.argv[1]) as checkpointer:
    restored = checkpointer.restore({"w": np.zeros(300_000), "step": 0})
    step = restored[2] if restored else 0
    print("ready", step, flush=True)
    while True:
        step += 1
        checkpointer.save(step, {"w": np.full(300_000, step, float), "step": step})
        # The save before this one is complete: killed from here on, at most this one may be lost.
        print("saved", step - 1, flush=True)
"""


def test_kill_at_any_moment_loses_at_most_the_save_in_progress(tmp_path: Path, warnings: list[str]) -> None:
    rng = np.random.default_rng(1)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", KILL_LOOP, str(tmp_path)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.1, 0.6))
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().splitlines()
        process.wait()
        promised = [int(line.split()[1]) for line in lines if re.fullmatch(r"saved \d+", line)]
        with Checkpointer(tmp_path, read_only=True, warn=warnings.append) as checkpointer:
            found = checkpointer.restore({"w": np.zeros(300_000), "step": 0})
        if promised and promised[-1] > 0:
            assert found is not None
            state, _, step = found
            assert step >= promised[-1]
            assert state["step"] == step
            assert (state["w"] == step).all()
    assert not warnings


def test_several_of_one_process_save_in_turns(tmp_path: Path) -> None:
    def save_often(name: str) -> list[int]:
        with Checkpointer(tmp_path / name, keep=2) as checkpointer:
            for step in range(1, 16):
                assert checkpointer.save(step, {"weights": np.full(100, step, np.float32)}, {"step": step})
            return checkpointer.steps()

    names = ["first", "second", "third"]
    with ThreadPoolExecutor(len(names)) as threads:
        assert list(threads.map(save_often, names)) == [[14, 15]] * 3
    for name in names:
        with Checkpointer(tmp_path / name, keep=2, read_only=True) as checkpointer:
            restored = checkpointer.restore({"weights": np.zeros(100, np.float32)})
            assert restored is not None and (restored[0]["weights"] == 15).all() and restored[1] == {"step": 15}


def test_a_save_that_fails_keeps_no_other_waiting_and_is_told_by_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, list[str]] = {"full": [], "other": []}
    with (
        Checkpointer(tmp_path / "full", warn=told["full"].append) as full,
        Checkpointer(tmp_path / "other", warn=told["other"].append) as other,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(full._manager, "wait_until_finished", _no_space)
            assert full.save(1, make_state(1))
            assert other.save(1, make_state(1))
            other.wait()
        assert (other.steps(), told["other"]) == ([1], [])
        assert len(told["full"]) == 1 and "No space left" in told["full"][0]


def _no_space() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
