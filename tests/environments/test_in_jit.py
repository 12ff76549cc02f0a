"""The step inside jit as a program that processes share: none of them ever steps another's emulators."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.environments import in_jit
from pd_jax.environments.envpool import Environment, TimeStep
from pd_jax.environments.tasks import get_task

_STEPS = 5
_PLAY = """
import sys

import jax
import jax.numpy as jnp
import numpy as np

from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import get_task

environment = Environment(get_task("cartpole"), 3, int(sys.argv[1]))
handle, timestep = environment.reset()
step = jax.jit(lambda handle, timestep: environment.step(handle, jnp.ones(3, jnp.int32), timestep))
for _ in range(5):
    handle, timestep = step(handle, timestep)
np.save(sys.argv[2], np.asarray(timestep.observations))
"""


def compiled_step(environment: Environment):
    ones = jnp.ones(environment.num_lanes, jnp.int32)
    return jax.jit(lambda handle, timestep: environment.step(handle, ones, timestep))


def stepped_from_the_host(seed: int) -> TimeStep:
    environment = Environment(get_task("cartpole"), 3, seed)
    _, timestep = environment.reset()
    for _ in range(_STEPS):
        timestep = environment.step_host(np.ones(3, np.int32), np.asarray(timestep.is_last))
    return timestep


def test_a_program_of_one_process_steps_the_emulators_of_the_next(tmp_path: Path):
    cache, programs = tmp_path / "cache", []
    environment = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONPATH": ":".join(sys.path)}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PATH": ""}
    for seed in (1, 70):
        out = tmp_path / f"{seed}.npy"
        subprocess.run([sys.executable, "-c", _PLAY, str(seed), str(out)], env=environment, check=True, timeout=120)
        np.testing.assert_array_equal(np.load(out), stepped_from_the_host(seed).observations)
        programs.append(sorted(path.name for path in cache.glob("*-cache")))
    assert programs[0] == programs[1], "the second process compiled something anew"


def test_no_address_is_part_of_a_program():
    environment = Environment(get_task("cartpole"), 2, 0)
    (_, (address, _, _)), *_ = environment._pools[0]._xla()
    text = compiled_step(environment).lower(*environment.reset()).as_text()
    assert "pd_jax_envpool" in text
    assert str(int.from_bytes(address, sys.byteorder)) not in text


def test_each_program_steps_its_own_lanes():
    environments = [Environment(get_task("cartpole"), 3, seed) for seed in (3, 40)]
    steps = [compiled_step(environment) for environment in environments]
    at = [environment.reset() for environment in environments]
    for _ in range(_STEPS):
        at = [step(*each) for step, each in zip(steps, at, strict=True)]
    for (_, timestep), seed in zip(at, (3, 40), strict=True):
        np.testing.assert_array_equal(timestep.observations, stepped_from_the_host(seed).observations)


@pytest.mark.slow
def test_lanes_that_nobody_holds_outlive_the_programs_that_step_them():
    def play(seed: int):
        environment = Environment(get_task("cartpole"), 3, seed)
        handle, timestep = environment.reset()
        ones = jnp.ones(3, jnp.int32)

        def step(state, _):
            return environment.step(state[0], ones, state[1]), None

        # The environment is gone as soon as this returns, with most of the steps before it.
        return jax.jit(lambda *state: jax.lax.scan(step, state, length=20_000)[0])(handle, timestep)

    wanted = [np.asarray(jax.block_until_ready(play(5))[1].observations)]
    found = [np.asarray(play(5)[1].observations) for _ in range(3)]
    for observations in found:
        np.testing.assert_array_equal(observations, wanted[0])


def test_only_the_last_of_forgotten_lanes_can_be_stepped():
    def forgotten(seed: int):
        environment = Environment(get_task("cartpole"), 3, seed)
        state = environment.reset()
        # The program holds nothing of the environment but the numbers of its functions.
        program = compiled_step(environment).lower(*state).compile()
        return program, jax.block_until_ready(program(*state)), weakref.ref(environment)

    # Lanes of other tests are forgotten before these.
    gc.collect()
    kept = [forgotten(seed) for seed in range(6)]
    jax.clear_caches()
    gc.collect()
    assert not any(environment() for _, _, environment in kept), "somebody holds them"
    (oldest, state, _), (newest, other, _) = kept[0], kept[-1]
    jax.block_until_ready(newest(*other))
    with pytest.raises(jax.errors.JaxRuntimeError, match="closed"):
        jax.block_until_ready(oldest(*state))


def test_a_program_of_closed_lanes_fails():
    environment = Environment(get_task("cartpole"), 2, 0)
    step, at = compiled_step(environment), environment.reset()
    at = jax.block_until_ready(step(*at))
    environment.close()
    with pytest.raises(jax.errors.JaxRuntimeError, match="closed"):
        jax.block_until_ready(step(*at))


@pytest.mark.slow
def test_a_process_may_end_while_it_plays():
    code = _PLAY.split("for _")[0] + "for _ in range(200):\n    handle, timestep = step(handle, timestep)\n"
    command = [sys.executable, "-c", code, "0"]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0


_PLAY_ON_A_THREAD = """
import sys

import jax
import jax.numpy as jnp

from pd_jax.environments import in_jit
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import get_task

kept = []
ensure = in_jit._ensure
in_jit._ensure = lambda: kept.append(ensure())
environment = Environment(get_task("cartpole"), 3, 0)


def play(state):
    def step(state, _):
        # Work enough that XLA does it in a thread of its own.
        weights = jnp.outer(state[1].observations[0], jnp.ones(256)).T
        sums = weights @ weights.T @ weights
        return environment.step(state[0], jnp.int32(sums[0, 0] > 1e9) + jnp.ones(3, jnp.int32), state[1]), None

    return jax.lax.scan(step, state, length=int(sys.argv[1]))[0]


program = jax.jit(environment.unwatched(play) if "unwatched" in sys.argv else play)
state = environment.reset()
"""


def test_what_python_knows_of_a_thread_of_xlas_is_made_once():
    code = _PLAY_ON_A_THREAD + "jax.block_until_ready(program(state))\nprint(len(kept))\n"
    command = [sys.executable, "-c", code, "400"]
    done = subprocess.run(command, timeout=120, check=True, capture_output=True, text=True)
    assert 1 <= int(done.stdout) <= 50, "for each thread once, of 400 calls"


def test_a_process_may_end_while_what_jax_does_not_watch_plays():
    code = _PLAY_ON_A_THREAD + "environment.wait_for(program(state)[0])\n"
    command = [sys.executable, "-c", code, "100_000", "unwatched"]
    done = subprocess.run(command, timeout=120, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_play_that_jax_does_not_watch_is_the_same():
    played = []
    for is_watched in (True, False):
        environment = Environment(get_task("cartpole"), 3, 7)
        step = lambda *state, to=environment: to.step(state[0], jnp.ones(3, jnp.int32), state[1])  # noqa: E731
        step = step if is_watched else environment.unwatched(step)
        state, program = environment.reset(), jax.jit(step)
        assert bool(program.trace(*state).jaxpr.effects) == is_watched
        for _ in range(_STEPS):
            state = program(*state)
        played.append(state[1])
    jax.tree.map(np.testing.assert_array_equal, *played)


def test_a_program_steps_whose_handle_it_is_given():
    environments = [Environment(get_task("cartpole"), 3, seed) for seed in (3, 40)]
    step = compiled_step(environments[0])
    at = environments[1].reset()
    for _ in range(_STEPS):
        at = step(*at)
    np.testing.assert_array_equal(at[1].observations, stepped_from_the_host(40).observations)
    assert compiled_step(environments[1]).lower(*at).as_text() == step.lower(*at).as_text()


def test_a_handle_of_other_arrays_is_an_error():
    three, four = (Environment(get_task("cartpole"), lanes, 0) for lanes in (3, 4))
    _, timestep = three.reset()
    with pytest.raises(jax.errors.JaxRuntimeError, match="the handle is of an environment with other arrays"):
        jax.block_until_ready(compiled_step(three)(four.reset()[0], timestep))


def test_actions_of_another_number_of_lanes_are_refused():
    environment = Environment(get_task("cartpole"), 3, 0)
    with pytest.raises(ValueError, match="actions of 2 lanes, of an environment of 3"):
        jax.jit(lambda *state: environment.step(state[0], jnp.ones(2, jnp.int32), state[1]))(*environment.reset())


_CLOSED_AT_WORK = """
state = program(environment.reset())
environment.close()
del environment
gc.collect()
try:
    jax.block_until_ready(state)
except jax.errors.JaxRuntimeError as error:
    print("closed" in str(error))
"""
_FORGOTTEN_AT_WORK = """
for seed in range(8):
    environment = Environment(get_task("cartpole"), 3, seed)
    program = jax.jit(environment.unwatched(play))
    environment.wait_for(program(environment.reset())[0])
"""


@pytest.mark.parametrize(("code", "told"), [(_CLOSED_AT_WORK, "True\n"), (_FORGOTTEN_AT_WORK, "")])
def test_lanes_are_there_as_long_as_a_step_of_theirs_lasts(code: str, told: str):
    code = "import gc\n" + _PLAY_ON_A_THREAD + code
    command = [sys.executable, "-c", code, "100_000", "unwatched"]
    done = subprocess.run(command, timeout=120, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "")


def test_garbage_may_be_collected_while_pools_are_counted():
    with in_jit._calls._lock:
        for seed in range(6):
            environment = Environment(get_task("cartpole"), 1, seed)
            del environment
            gc.collect()


def test_without_jit_play_is_the_same():
    environments = [Environment(get_task("cartpole"), 3, 3) for _ in range(2)]
    ones = jnp.ones(3, jnp.int32)
    wanted, found = (
        to.unwatched(lambda handle, timestep, to=to: to.step(handle, ones, timestep)) for to in environments
    )
    state = jax.jit(wanted)(*environments[0].reset())
    with jax.disable_jit():
        also = found(*environments[1].reset())
    jax.tree.map(np.testing.assert_array_equal, also[1], state[1])
