"""The settings of a sweep: its template, the variants of it, and the cells that are distillations."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from pd_jax.config.distill import DistillConfig
from pd_jax.config.distillation import DistillationSettings
from pd_jax.config.loading import load_config
from pd_jax.config.sections import EnvConfig, LearnerConfig, LossConfig, StudentConfig, StudentEvaluationConfig
from pd_jax.config.sweep import GridConfig, SweepConfig, Variant

SWEEP = SweepConfig(
    teacher=("pong", "breakout"),
    game=("pong", "breakout"),
    data=("a", "b"),
    out="runs/sweep",
    seed=7,
    epsilon=0.1,
    accept_other_teacher=True,
    env=EnvConfig(lanes=(8, 4), num_threads=3),
    loss=LossConfig(temperature=(0.5, 0.25)),
    grid=GridConfig(networks=("net1", "net3"), losses=("kl", "nll"), learning_rates=(1e-3, 1e-4), seeds=(1, 2, 3)),
)


def test_a_sweep_has_a_distillation_and_is_none() -> None:
    assert not isinstance(SWEEP, DistillConfig)
    template = SWEEP.template
    assert type(template) is DistillConfig
    for field in dataclasses.fields(DistillationSettings):
        assert getattr(template, field.name) == getattr(SWEEP, field.name)
    # What a distillation alone has, a cell does without.
    own = {field.name for field in dataclasses.fields(DistillConfig)}
    assert (
        own - {field.name for field in dataclasses.fields(DistillationSettings)}
        == {"video", "add_teacher", "add_data", "adding"}
        and not template.video
    )


def test_the_variants_are_the_product_of_the_axes_and_only_kl_has_temperatures() -> None:
    axes = itertools.product(("net1", "net3"), ("kl", "nll"), (1e-3, 1e-4), (1, 2, 3))
    expected = [Variant(network, loss, None, rate, seed) for network, loss, rate, seed in axes]  # type: ignore[arg-type]
    assert list(SWEEP.variants) == expected
    hot = dataclasses.replace(SWEEP, grid=dataclasses.replace(SWEEP.grid, temperatures=(0.1, 1.0), seeds=None))
    temperatures = [(variant.loss, variant.temperature) for variant in hot.variants if variant.network == "net1"]
    assert temperatures == [("kl", 0.1)] * 2 + [("kl", 1.0)] * 2 + [("nll", None)] * 2
    assert {variant.seed for variant in hot.variants} == {7}


def test_a_cell_is_its_template_with_one_teacher_and_the_variants_values() -> None:
    cell = SWEEP.cell(1, Variant("net3", "kl", None, 1e-4, 2))
    assert cell == DistillConfig(
        teacher="breakout",
        game="breakout",
        data="b",
        out="runs/sweep",
        seed=2,
        epsilon=0.1,
        accept_other_teacher=True,
        env=EnvConfig(num_lanes=4, num_threads=3),
        student=StudentConfig(network="net3"),
        loss=LossConfig(temperature=0.25),
        learner=LearnerConfig(learning_rate=1e-4),
        # Scored on the starts of seed 7, as every cell is.
        evaluation=StudentEvaluationConfig(seed_offset=1_000_005),
    )
    assert SWEEP.cell(1, Variant("net3", "nll", None, 1e-4, 2)).loss == LossConfig(kind="nll")
    assert SWEEP.cell(0, Variant("net3", "kl", 0.01, 1e-4, 2)).loss == LossConfig(temperature=0.01)


@pytest.mark.parametrize(
    ("index", "variant", "name"),
    [
        (0, Variant("net1", "kl", None, 2.5e-4, 0), "pong-net1-kl-t0.5-lr0.00025-seed0"),
        (1, Variant("net3", "kl", 0.01, 1e-4, 12), "breakout-net3-kl-t0.01-lr0.0001-seed12"),
        (1, Variant("net3", "nll", None, 1 / 3, 1), "breakout-net3-nll-lr0.3333333333333333-seed1"),
    ],
)
def test_a_cell_is_named_by_all_that_sets_it_apart(index: int, variant: Variant, name: str) -> None:
    assert SWEEP.cell_name(index, variant) == name


def test_what_is_impossible_in_a_cell_is_blamed_on_the_axis() -> None:
    argv = ["--teacher", "cartpole", "--game", "cartpole", "--out", "x", "--student.network", "mlp"]
    assert load_config(SweepConfig, argv, "sweep").grid.networks is None
    config = dataclasses.replace(load_config(SweepConfig, argv, "sweep"), grid=GridConfig(networks=("mlp", "net2")))
    assert list(config.conflicts()) == [
        ("grid.networks", "'net2' sees frames, and cartpole has none; use 'mlp'"),
    ]
