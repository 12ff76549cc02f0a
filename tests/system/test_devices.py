"""Devices side by side: the helpers on one device, and eight virtual ones against one in a process of their own."""

from __future__ import annotations

import gc
import json
import re
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.errors import UserError
from pd_jax.replay import rings
from pd_jax.system import devices as devices_module
from pd_jax.system.devices import (
    AXIS,
    Bound,
    DeviceGroup,
    default_platform,
    platform_of,
    put_beside,
    quick_to_compile,
    target_platform,
    tracing_for,
)
from pd_jax.types import Trajectory
from support.commands import run, virtual_devices
from support.platforms import GroupOfTpus, make_tpu_the_default

ONE = DeviceGroup.local(1)

EIGHT_DEVICES = """
import dataclasses, functools, json, re, sys
import jax, jax.numpy as jnp, numpy as np
from pd_jax.replay import rings
from pd_jax.config.sections import LearnerConfig, StudentConfig
from pd_jax.system.devices import AXIS, DeviceGroup, put_beside
from pd_jax.learner.learner import Learner
from pd_jax.losses import kl_loss
from pd_jax.networks.registry import make_network
from pd_jax.networks.student import Student, make_student
from pd_jax.environments.tasks import get_task
from pd_jax.types import Batch, Trajectory

BATCH, LANES, STEPS, ACTIONS = 16, 8, 12, 6
COUNTS = tuple(map(int, sys.argv[1].split(",")))


def make_learner(devices, student, temperature=0.1, mask=None, **options):
    loss = lambda logits, q: kl_loss(logits, q, temperature=temperature, mask=mask)
    config = LearnerConfig(batch_size=BATCH, learning_rate=1e-3, max_grad_norm=10.0, **options)
    learner = Learner(student, loss, config, devices, total_updates=10)
    return learner, learner.init(jax.random.key(0))


def bits_that_differ(state):
    leaves = jax.tree.leaves((state.variables, state.optimizer_state, state.updates))
    return sum(int((np.asarray(leaf).view(np.int32) != np.asarray(leaf)[:1].view(np.int32)).sum()) for leaf in leaves)


def flat(state, devices):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(devices.first(state.variables))])


def train(num_devices, updates, dtype):
    # Layers and moments in a precision of choice; the loss itself is always float32.
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(0)
        devices = DeviceGroup.local(num_devices)
        network = make_network("net3", ACTIONS)
        network = network.clone(torso=network.torso.clone(dtype=dtype), head=network.head.clone(dtype=dtype))
        learner, state = make_learner(devices, Student(network, (get_task("pong"),)))
        state = jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.dtype == "float32" else leaf, state)
        before = flat(state, devices)
        for _ in range(updates):
            frames = rng.integers(0, 256, (8, 84, 84, 4)).astype(np.uint8)
            batch = Batch(frames[None], rng.standard_normal((1, 8, ACTIONS)).astype(np.float32))
            batch = devices.split(batch, axis=1)
            state, metrics = learner.update(state, batch)
        text = learner._update.lower(state, batch).compile().as_text()
        after = flat(state, devices)
        assert after.dtype == dtype
        report = {
            "metrics": {name: float(devices.first(value).squeeze()) for name, value in metrics.items()},
            "bits_that_differ": bits_that_differ(state),
            "all_reduces": len(re.findall(r" all-reduce(?:-start)?[(]", text)),
            "moved": float(np.abs(after - before).max()),
        }
        return after, report


def compare_devices(updates, dtype):
    by_one, one = train(1, updates, dtype)
    several = {1: one}
    for num_devices in COUNTS if updates > 10 else (8,):
        after, report = train(num_devices, updates, dtype)
        several[num_devices] = report | {"difference": float(np.abs(after - by_one).max())}
    return several


def from_replay():
    devices = DeviceGroup.local(8)
    task = dataclasses.replace(get_task("cartpole"), observation_shape=(3,), num_actions=ACTIONS)
    learner, state = make_learner(devices, Student(make_network("mlp", ACTIONS, hidden_sizes=(8,)), (task,)))
    store = devices.replicate(rings.init(LANES // 8, STEPS, (3,), jnp.float32, ACTIONS))
    lanes = np.broadcast_to(np.arange(LANES, dtype=np.float32)[:, None], (STEPS, LANES, ACTIONS))
    trajectory = Trajectory(
        observations=lanes[..., :3], teacher_q=lanes, rewards=lanes[..., 0], actions=lanes[..., 0].astype(np.int32),
        is_first=np.zeros((STEPS, LANES), bool), is_decision=np.ones((STEPS, LANES), bool),
    )
    insert = devices.map(rings.insert, donate=(0,))
    pieces = devices.split(trajectory, axis=1)
    store = insert(store, pieces)
    state, _ = learner.update_from_replay(state, (store,), 2)
    with jax.transfer_guard("disallow"):
        store = insert(store, pieces)
        state, metrics = learner.update_from_replay(state, (store,), 2)
        jax.block_until_ready(state)
    sample = devices.map(lambda key, store: rings.sample(store, key, 4))
    drawn = sample(devices.replicate(jax.random.key(0)), store).teacher_q
    lanes_drawn = [sorted({int(q) for q in np.asarray(part)[:, 0]}) for part in drawn]
    updates = np.asarray(state.updates).tolist()
    return {"bits_that_differ": bits_that_differ(state), "updates": updates, "lanes_drawn": lanes_drawn}


@functools.cache
def games(num_devices, schedule, accumulate=1):
    # A student of two games that differ in everything, from given minibatches and then from replays.
    rng = np.random.default_rng(1)
    devices = DeviceGroup.local(num_devices)
    student = make_student(StudentConfig(network="mlp", mlp_hidden=(8,)), [get_task("cartpole"), get_task("acrobot")])
    temperature = np.array([0.1, 1.0], np.float32)[:, None, None]
    options = {"games": schedule, "accumulate": accumulate}
    learner, state = make_learner(devices, student, temperature, student.mask[:, None], **options)
    before = flat(state, devices)
    for _ in range(4):
        teacher_q = rng.standard_normal((2, BATCH, 3)).astype(np.float32) * student.mask[:, None]
        batch = Batch(rng.standard_normal((2, BATCH, 6)).astype(np.float32), teacher_q)
        batch = devices.split(batch, axis=1)
        state, metrics = learner.update(state, batch)
    after = flat(state, devices)
    text = learner._update.lower(state, batch).compile().as_text()
    report = {
        "metrics": {name: np.asarray(devices.first(value)).tolist() for name, value in metrics.items()},
        "all_reduces": [len(re.findall(r" all-reduce(?:-start)?[(]", text))],
    }
    if num_devices > 1:
        stores = []
        for lanes, size, actions in ((8, 4, 2), (16, 6, 3)):
            slots = (STEPS, lanes)
            trajectory = Trajectory(
                observations=rng.standard_normal((*slots, size)).astype(np.float32),
                teacher_q=rng.standard_normal((*slots, actions)).astype(np.float32),
                is_first=np.zeros(slots, bool), is_decision=np.ones(slots, bool),
                actions=np.zeros(slots, np.int32), rewards=np.zeros(slots, np.float32),
            )
            store = devices.replicate(rings.init(lanes // num_devices, STEPS, (size,), jnp.float32, actions))
            stores.append(devices.map(rings.insert)(store, devices.split(trajectory, axis=1)))
        state, _ = learner.update_from_replay(state, tuple(stores), 3)
        with jax.transfer_guard("disallow"):
            state, metrics = learner.update_from_replay(state, tuple(stores), 3)
            jax.block_until_ready((state, metrics))
        text = learner._update_many[3, None].lower(state, tuple(stores)).compile().as_text()
        report["all_reduces"].append(len(re.findall(r" all-reduce(?:-start)?[(]", text)))
        report["updates"] = np.asarray(state.updates).tolist()
        report["finite"] = bool(np.isfinite(flat(state, devices)).all() and np.isfinite(metrics["game_loss"]).all())
    return before, after, report | {"bits_that_differ": bits_that_differ(state)}


def compare_games(schedule, accumulate=1):
    before, by_one, one = games(1, schedule)
    _, by_eight, eight = games(8, schedule, accumulate)
    moved, difference = (float(np.abs(by_one - other).max()) for other in (before, by_eight))
    return {"one": one, "eight": eight, "moved": moved, "difference": difference}


def sampled(num_devices, schedule):
    # Losses of updates that draw their own minibatches, of two games whose lanes and minibatch 8 devices can share.
    rng = np.random.default_rng(2)
    devices = DeviceGroup.local(num_devices)
    student = make_student(StudentConfig(network="mlp", mlp_hidden=(8,)), [get_task("cartpole"), get_task("acrobot")])
    learner, state = make_learner(devices, student, 1.0, student.mask[:, None], games=schedule)
    stores = []
    for lanes, size, actions in ((8, 4, 2), (24, 6, 3)):
        slots = (STEPS, lanes)
        trajectory = Trajectory(
            observations=rng.standard_normal((*slots, size)).astype(np.float32),
            teacher_q=rng.standard_normal((*slots, actions)).astype(np.float32),
            is_first=rng.random(slots) < 0.1, is_decision=rng.random(slots) < 0.7,
            actions=np.zeros(slots, np.int32), rewards=np.zeros(slots, np.float32),
        )
        store = devices.replicate(rings.init(lanes // num_devices, STEPS, (size,), jnp.float32, actions))
        stores.append(devices.map(rings.insert)(store, devices.split(trajectory, axis=1)))
    losses = []
    for _ in range(50):
        state, metrics = learner.update_from_replay(state, tuple(stores), 2)
        losses += [float(metrics[name][0]) for name in ("loss", "agreement")]
    text = learner._update_many[2, None].lower(state, tuple(stores)).compile().as_text()
    return {
        "losses": losses, "bits_that_differ": bits_that_differ(state), "parameters": flat(state, devices).tolist(),
        "all_reduces": len(re.findall(r" all-reduce(?:-start)?[(]", text)),
    }


def helpers():
    devices = DeviceGroup.local(8)
    array = np.arange(3 * 16 * 2).reshape(3, 16, 2)
    split = devices.split(array, axis=1)
    total = devices.map(lambda x: jax.lax.psum(x.sum(), AXIS))(split)
    first = devices.first(split)
    return {
        "split": bool((np.asarray(split) == array.reshape(3, 8, 2, 2).swapaxes(0, 1)).all()),
        "homes": [int(shard.device.id) for shard in split.addressable_shards],
        "total": np.asarray(total).tolist() == [int(array.sum())] * 8,
        "first": bool((np.asarray(first) == array[:, :2]).all()) and [d.id for d in first.devices()] == [0],
        "key": jax.random.key_data(devices.first(devices.replicate(jax.random.key(5)))).tolist(),
        "left": put_beside(array, split) is array and put_beside(array, [array, first]).devices() == {jax.devices()[0]},
    }


print(json.dumps({
    "games": {schedule: compare_games(schedule) for schedule in ("together", "alternating")},
    "accumulated": {"together": compare_games("together", 2)},
    "sampled": {
        schedule: [sampled(n, schedule) for n in counts]
        for schedule, counts in (("together", (1, *COUNTS)), ("alternating", (1, 8)))
    },
    "devices": jax.device_count(), "helpers": helpers(), "replay": from_replay(),
    "frames": {dtype: compare_devices(updates, dtype) for dtype, updates in (("float32", 5), ("float64", 30))},
}))
"""


@pytest.fixture(scope="module")
def eight() -> dict[str, Any]:
    """What a process with eight virtual devices reports."""
    return report_of_eight("8")


@pytest.fixture(scope="module")
def eight_and_fewer() -> dict[str, Any]:
    """That and what two and four of them learn from many minibatches."""
    return report_of_eight("2,4,8")


def report_of_eight(counts: str) -> dict[str, Any]:
    done = run([sys.executable, "-c", EIGHT_DEVICES, counts], **virtual_devices(8))
    assert done.code == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert report["devices"] == 8
    return report


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", ["2", "4", "8"])
def test_so_do_two_and_four(eight_and_fewer, num_devices):
    check_same_student(eight_and_fewer["frames"]["float64"], num_devices)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_minibatches_give_the_same_student_on_one_and_on_eight_devices(eight, dtype):
    """5 updates of net3 in float32, and 30 in float64.

    Devices add in different orders. In float32 it takes some fifty updates until one of the millions of activations is
    so close to 0 that this decides on its gradient; from there on students differ by more than rounding.
    """
    check_same_student(eight["frames"][dtype], "8")


def check_same_student(frames: dict[str, Any], num_devices: str) -> None:
    one, report = (frames[count] for count in ("1", num_devices))
    assert one["moved"] > 1e-3
    assert report["difference"] < 1e-5
    assert report["metrics"] == pytest.approx(one["metrics"], rel=1e-4)
    assert report["bits_that_differ"] == 0, "every device holds the same student"
    assert report["all_reduces"] == 1


def plus(number: Any, array: jax.Array, times: int = 1) -> jax.Array:
    return array + times * number


def test_equal_functions_are_compiled_once_and_what_closures_hold_is_not_kept() -> None:
    assert ONE.map(rings.insert) is ONE.map(rings.insert)
    assert ONE.map(Bound(plus, (2,))) is ONE.map(Bound(plus, (2,)))
    others = Bound(plus, (3,)), Bound(plus, (2,), (("times", 2),)), Bound(plus, (np.float32([2.0]),))
    assert all(ONE.map(other) is not ONE.map(Bound(plus, (2,))) for other in others)
    assert ONE.map(Bound(plus, (2,)), donate=(0,)) is not ONE.map(Bound(plus, (2,)))
    array = np.ones((1, 3), np.float32)
    found = [np.asarray(ONE.map(each)(array))[0, 0] for each in (Bound(plus, (2,)), *others)]
    assert found == [3.0, 4.0, 5.0, 3.0]
    held = np.zeros(3, np.float32)
    watched = weakref.ref(held)
    mapped = ONE.map(lambda array, held=held: array + held)
    assert np.asarray(mapped(array)).tolist() == [[1.0, 1.0, 1.0]]
    del mapped, held
    jax.clear_caches()
    gc.collect()
    assert watched() is None


def test_updates_from_a_replay_leave_the_same_student_on_every_device(eight):
    assert eight["replay"]["bits_that_differ"] == 0


@pytest.mark.parametrize(
    ("layout", "schedule"), [("games", "together"), ("games", "alternating"), ("accumulated", "together")]
)
def test_a_student_of_two_games_is_the_same_on_one_device_and_on_eight(eight, schedule, layout):
    report = eight[layout][schedule]
    assert report["moved"] > 1e-3 and report["difference"] < 1e-5
    for name, value in report["one"]["metrics"].items():
        np.testing.assert_allclose(report["eight"]["metrics"][name], value, rtol=1e-4, err_msg=name)
    assert report["eight"]["all_reduces"] == [1, 1], "of an update, and of a call of several"
    assert report["eight"]["updates"] == [10] * 8 and report["eight"]["finite"]
    assert report["eight"]["bits_that_differ"] == 0


@pytest.mark.parametrize("schedule", ["together", "alternating"])
def test_a_hundred_updates_from_replays_give_the_same_student_on_one_and_on_eight_devices(eight, schedule):
    check_same_losses(eight, schedule)


@pytest.mark.slow
def test_so_do_those_on_two_and_four(eight_and_fewer):
    check_same_losses(eight_and_fewer, "together")


def check_same_losses(report_of_process: dict[str, Any], schedule: str) -> None:
    by_one, *by_more = report_of_process["sampled"][schedule]
    assert len(set(by_one["losses"][::2])) > 40, "every update has another minibatch"
    for report in by_more:
        np.testing.assert_allclose(report["losses"], by_one["losses"], atol=1e-5)
        np.testing.assert_allclose(report["parameters"], by_one["parameters"], atol=1e-5)
        assert (report["bits_that_differ"], report["all_reduces"]) == (0, 1)


def test_each_device_learns_from_its_own_lanes(eight):
    assert eight["replay"]["lanes_drawn"] == [[lane] for lane in range(8)]
    assert eight["replay"]["updates"] == [4] * 8


def test_arrays_are_dealt_out_and_taken_back_by_device(eight):
    key = jax.random.key_data(jax.random.key(5)).tolist()
    yes = dict.fromkeys(("split", "total", "first", "left"), True)
    assert eight["helpers"] == {**yes, "homes": list(range(8)), "key": key}


def test_replicate_and_first_are_inverse_and_split_adds_a_device_axis():
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": np.int32(4)}
    jax.tree.map(np.testing.assert_array_equal, ONE.first(ONE.replicate(tree)), tree)
    array = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(ONE.split(array, axis=1), array[None])


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"learner\.num_devices: 99 devices wanted, 1 cpu found"):
        DeviceGroup.local(99)


def test_inserting_into_a_large_ring_copies_nothing_but_the_rollout():
    lanes, capacity, steps = 4, 2_000, 16
    store = ONE.replicate(rings.init(lanes, capacity, (84, 84), jnp.uint8, 6))
    trajectory = Trajectory(
        observations=jnp.ones((steps, lanes, 84, 84), jnp.uint8),
        is_first=jnp.zeros((steps, lanes), bool),
        is_decision=jnp.ones((steps, lanes), bool),
        actions=jnp.zeros((steps, lanes), jnp.int32),
        rewards=jnp.zeros((steps, lanes)),
        teacher_q=jnp.zeros((steps, lanes, 6)),
    )
    insert, pieces = ONE.map(rings.insert, donate=(0,)), ONE.split(trajectory, axis=1)
    store = insert(store, pieces)
    address = store.observations.addressable_shards[0].data.unsafe_buffer_pointer()
    memory = insert.lower(store, pieces).compile().memory_analysis()
    for _ in range(3):
        store = insert(store, pieces)
    assert store.observations.addressable_shards[0].data.unsafe_buffer_pointer() == address
    ring, rollout = store.observations.nbytes, pieces.observations.nbytes
    assert memory.alias_size_in_bytes >= ring > 50 * rollout
    assert memory.temp_size_in_bytes < 6 * rollout


def test_what_is_traced_is_for_the_platform_of_its_context_and_caches_keep_platforms_apart() -> None:
    traced: list[str] = []

    @jax.jit
    def inner(x: jax.Array) -> jax.Array:
        traced.append(target_platform())
        return x + 1.0

    @jax.jit
    def outer(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda carry, _: (inner(carry), None), x, length=2)[0]

    assert target_platform() == default_platform() == "cpu"
    for platform in ("cpu", "tpu", "gpu", "cpu", "tpu"):
        with tracing_for(platform):
            assert target_platform() == platform
            assert outer(jnp.ones(3)).tolist() == [3.0] * 3
    assert outer(jnp.ones(3)).tolist() == [3.0] * 3
    assert traced == ["cpu", "tpu", "gpu"]
    with tracing_for("tpu"):
        with tracing_for("cpu"):
            assert inner(jnp.ones(3)).tolist() == [2.0] * 3
        with pytest.raises(ZeroDivisionError), tracing_for("gpu"):
            _ = 1 // 0
        assert target_platform() == "tpu"
    assert len(traced) == 3 and target_platform() == "cpu"


def test_a_platform_is_that_of_one_thread() -> None:
    seen: list[str] = []
    with tracing_for("tpu"):
        thread = threading.Thread(target=lambda: seen.append(target_platform()))
        thread.start()
        thread.join()
    assert seen == ["cpu"]


def test_what_is_mapped_is_traced_for_the_platform_of_the_devices() -> None:
    traced: list[tuple[str, str]] = []

    @jax.jit
    def shared(x: jax.Array) -> jax.Array:
        traced.append(("shared", target_platform()))
        return x * 2.0

    def function(x: jax.Array) -> jax.Array:
        traced.append(("mapped", target_platform()))
        return jax.lax.psum(shared(x), AXIS)

    for group in (ONE, GroupOfTpus(ONE.devices)):
        mapped = group.map(function)
        assert mapped(np.ones((1, 2))).tolist() == [[2.0, 2.0]]
        # In another thread, and around another platform's trace, too.
        with tracing_for("gpu"):
            assert mapped.lower(np.ones((1, 3))).as_text()
    assert traced[:2] == [("mapped", "cpu"), ("shared", "cpu")]
    assert {name for _, name in traced} == {"cpu", "tpu"}
    assert target_platform() == "cpu"


def test_computations_are_on_the_platform_that_their_arrays_are_committed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    here = jax.device_put({"a": 1.0, "key": jax.random.key(0)}, jax.devices()[0])
    anywhere = {"a": np.ones(2), "b": jnp.ones(2), "key": jax.random.key(0), "text": "none"}
    with jax.default_device(jax.devices()[0]):
        assert default_platform() == "cpu"
    with jax.default_device("cpu"):
        assert default_platform() == target_platform() == "cpu"
    make_tpu_the_default(monkeypatch)
    assert platform_of(here) == platform_of(anywhere | here) == "cpu"
    assert platform_of(here["key"]) == "cpu"
    assert platform_of(anywhere) == platform_of(None) == target_platform() == "tpu"


def test_arrays_are_put_beside_those_that_are_committed_and_whole() -> None:
    loose, ours = {"a": np.ones(3, np.float32), "key": jax.random.key(0)}, ONE.first(ONE.replicate(jnp.ones(2)))
    moved = put_beside(loose, {"unplaced": jnp.ones(2), "ours": ours})
    assert all(leaf.committed and leaf.sharding == ours.sharding for leaf in jax.tree.leaves(moved))
    assert put_beside(loose, jnp.ones(2)) is loose and put_beside(loose, np.ones(2)) is loose


def test_how_much_compiling_is_worth_is_for_xla_flags_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    assert quick_to_compile("cpu") == (("xla_backend_optimization_level", 1),) and quick_to_compile("cuda") == ()
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    assert quick_to_compile("cpu") == ()


def test_no_other_module_asks_for_the_processs_own_platform() -> None:
    package = Path(devices_module.__file__).parents[1]
    modules = {str(path.relative_to(package)): path.read_text() for path in package.rglob("*.py")}
    asking = [name for name, text in modules.items() if re.search(r"default_backend|default_platform\(", text)]
    assert asking == ["system/devices.py"]


def test_metrics_are_fetched_as_the_first_device_has_them():
    tree = {"a": np.arange(3, dtype=np.float32), "b": np.float32(2)}
    fetched = ONE.fetch_first(ONE.replicate(tree))
    assert all(isinstance(leaf, np.ndarray | np.float32) for leaf in jax.tree.leaves(fetched))
    jax.tree.map(np.testing.assert_array_equal, fetched, tree)


def test_a_function_is_computed_once_for_every_device():
    def function(key: Any) -> Any:
        return {"key": key, "numbers": jax.random.normal(key, (3, 2))}

    ours, theirs = ONE.on_every(function)(jax.random.key(3)), ONE.replicate(jax.jit(function)(jax.random.key(3)))
    np.testing.assert_array_equal(ours["numbers"], theirs["numbers"])
    assert ours["numbers"].sharding == theirs["numbers"].sharding
    assert (jax.random.key_data(ours["key"]) == jax.random.key_data(theirs["key"])).all()
