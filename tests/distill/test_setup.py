"""What is checked before a distillation begins. The refusals themselves are in ``test_cli.py``, as users meet them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import EnvConfig, LossConfig, ReplayConfig, StudentConfig
from pd_jax.distill.recorded import warn_of_other_play
from pd_jax.distill.setup import _warn_once, make_setup, warn_of_slow_dtype
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.replay.recordings import Dataset
from pd_jax.system.devices import DeviceGroup
from pd_jax.teachers import Teacher, from_function, load
from support.commands import succeed


def test_what_was_left_open_is_filled_in(recording: Path) -> None:
    config = DistillConfig(
        teacher="cartpole", out="-", data=str(recording), student=StudentConfig(network="mlp"),
        replay=ReplayConfig(capacity=1024),
    )  # fmt: skip
    setup = make_setup(config)
    assert (setup.config.game, setup.config.lanes) == (("cartpole",), (8,))
    assert setup.total_updates == 10 * 10_000
    # 128 steps of 8 lanes are all there is, though ten rounds of 54,000 were asked for.
    assert setup.total_env_steps([128]) == (1024,)
    live = make_setup(DistillConfig(teacher="cartpole", out="-", student=StudentConfig(network="mlp")))
    # 53 rollouts of 32 steps of 32 lanes give at least 54,000.
    assert live.total_env_steps([0]) == (10 * 53 * 32 * 32,)


TWO = ("cartpole", "acrobot")


def two_games(**changes: Any) -> DistillConfig:
    config = DistillConfig(teacher=TWO, out="-", student=StudentConfig(network="mlp", mlp_hidden=(8,)))
    return dataclasses.replace(config, **changes)


def test_several_games_have_lanes_rounds_and_totals_of_their_own(recording: Path, tmp_path: Path) -> None:
    env = EnvConfig(lanes=(16, 64))
    setup = make_setup(two_games(env=env))
    assert (setup.names, setup.config.game, setup.student.tasks) == (TWO, TWO, setup.tasks)
    # 106 rollouts of 32 steps of 16 lanes, and 27 of 64 lanes, give at least 54,000 each.
    assert setup.total_env_steps([0, 0]) == (10 * 106 * 512, 10 * 27 * 2048)
    other = tmp_path / "acrobot"
    succeed("collect", {"teacher": "acrobot", "out": other, "steps": 64, "rollout-length": 32, "env.num-lanes": 2})
    setup = make_setup(two_games(data=(str(recording), str(other))))
    assert setup.config.lanes == (8, 2), "those that were recorded"
    assert setup.total_env_steps([128, 32]) == (1024, 64)


def silent_teacher(game: str, kind: Any) -> Teacher:
    """One that says nothing, in Q-values (``"q"``) or logits."""
    num_actions = get_task(game).num_actions
    return from_function(
        lambda observations: np.zeros((len(observations), num_actions)),
        kind=kind, game=game, host=True, fingerprint="silent",
    )  # fmt: skip


def test_it_is_known_of_each_games_teacher_whether_it_gives_logits() -> None:
    setup = make_setup(two_games(), [silent_teacher("cartpole", "q"), silent_teacher("acrobot", "logits")])
    assert setup.gives_logits == (False, True)


def test_a_temperature_for_q_values_is_warned_of_where_a_teacher_gives_logits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _warn_once.cache_clear()
    for kind, temperature in (("q", 0.01), ("logits", 1.0), ("logits", None), ("logits", "auto")):
        loss = LossConfig(temperature=None if temperature is None else (temperature,))
        config = DistillConfig(teacher="silent", out="-", student=StudentConfig(network="mlp"), loss=loss)
        make_setup(config, silent_teacher("cartpole", kind))
    assert capsys.readouterr().err == ""
    config = dataclasses.replace(config, loss=LossConfig(temperature=(0.01,)))
    for _ in range(2):
        make_setup(config, silent_teacher("cartpole", "logits"))
    assert capsys.readouterr().err == (
        "warning: loss.temperature: 0.01 is for Q-values, and function gives logits: it leaves little but their first "
        "choice; 1 is the default for them\n"
    )


def test_teachers_in_hand_are_as_many_as_are_named() -> None:
    with pytest.raises(UserError, match=r"^teacher: 1 given, and 2 named \(cartpole, acrobot\)$"):
        make_setup(two_games(), load("cartpole"))


def test_play_that_scores_are_not_taken_by_is_warned_of(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def recorded(**rules: Any) -> Dataset:
        dataset = Dataset.open(recording)
        return dataclasses.replace(dataset, header=dataclasses.replace(dataset.header, environment=rules))

    dataset = recorded(sticky_action_probability=0.0, max_noops=30)
    config = DistillConfig(teacher="pong", out="x", data=str(recording))
    warn_of_other_play(dataset, get_task("pong"), config)
    assert capsys.readouterr().err == ""
    sticky = dataclasses.replace(config, env=EnvConfig(sticky_action_probability=0.25, max_noops=30))
    warn_of_other_play(dataset, get_task("pong"), sticky)
    assert capsys.readouterr().err == (
        f"warning: env.sticky_action_probability: 0.25 in scores, 0.0 in the play that {recording} holds\n"
    )
    # What CartPole has none of, and what a file of ours before did not say.
    warn_of_other_play(dataset, get_task("cartpole"), sticky)
    warn_of_other_play(recorded(), get_task("pong"), sticky)
    assert capsys.readouterr().err == ""


def test_bfloat16_on_a_cpu_is_warned_of_once_and_on_an_accelerator_never(capsys: pytest.CaptureFixture[str]) -> None:
    def setup_of(dtype: Any) -> None:
        network = StudentConfig(network="mlp", compute_dtype=dtype)
        make_setup(DistillConfig(teacher="cartpole", out="-", student=network))

    _warn_once.cache_clear()
    setup_of("float32")
    assert capsys.readouterr().err == ""
    setup_of("bfloat16")
    setup_of("bfloat16")
    assert capsys.readouterr().err == (
        "warning: student.compute_dtype: bfloat16 is slower than float32 on a CPU, where XLA multiplies in float32\n"
    )
    _warn_once.cache_clear()
    for platform in ("gpu", "tpu"):
        device: Any = SimpleNamespace(platform=platform)
        warn_of_slow_dtype(StudentConfig(compute_dtype="bfloat16"), DeviceGroup((device,)))
    assert capsys.readouterr().err == ""


def test_products_of_bfloat16_are_taken_in_float32_on_a_cpu_as_the_warning_says() -> None:
    """Once XLA's compiler for CPUs multiplies in bfloat16, the warning has to be looked at anew."""
    numbers = jnp.ones((256, 256), jnp.bfloat16)
    program = jax.jit(jnp.matmul).lower(numbers, numbers).compile().as_text() or ""
    products = re.findall(r"= (\w+)\[[\d,]+\]\S* dot\(", program)
    assert products == ["f32"] and "f32[256,256]{1,0} convert(" in program
