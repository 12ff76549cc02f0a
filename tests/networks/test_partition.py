"""Parts that a CPU takes batches in, against whole batches; and that nothing is divided anywhere else."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.config.sections import PartsConfig
from pd_jax.losses import kl_loss
from pd_jax.networks import partition
from pd_jax.networks.partition import (
    PartitionedTorso,
    PartSizes,
    gradient_parts,
    in_one_part,
    machine_sizes,
    part_sizes,
    with_sizes,
)
from pd_jax.networks.registry import make_network
from pd_jax.networks.torsos import AtariTorso, TorsoSpec
from pd_jax.system.devices import target_platform, tracing_for
from support.platforms import operations


def frames(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, 84, 84, 4)).astype(np.uint8)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_torso_that_divides_its_batches_is_the_plain_one_in_all_but_rounding(layer_norm: bool) -> None:
    spec, observations = TorsoSpec((4, 5, 6), 7), frames(50)
    plain, divided = (kind(spec, layer_norm=layer_norm, method="matmul") for kind in (AtariTorso, PartitionedTorso))
    variables = jax.jit(plain.init)(jax.random.key(0), observations[:1])
    own = jax.jit(divided.init)(jax.random.key(0), observations)
    jax.tree.map(np.testing.assert_array_equal, own, variables)
    np.testing.assert_allclose(
        jax.jit(divided.apply)(variables, observations), jax.jit(plain.apply)(variables, observations), atol=1e-5
    )


@pytest.mark.parametrize("count", [31, 32, 50, pytest.param(256, marks=pytest.mark.slow)])
def test_batches_that_go_through_in_parts_and_in_groups_of_them_are_the_same(count: int) -> None:
    """The last part of 50 is smaller than the others; 256 are eight groups, but for gradients."""
    observations = frames(count)
    teacher_q = np.random.default_rng(1).standard_normal((count, 6)).astype(np.float32)
    network = make_network("net3", 6, convolution="matmul")
    variables = jax.jit(network.init)(jax.random.key(0), observations[:1])

    def found(network: Any) -> Any:
        def loss(variables: Any) -> jax.Array:
            return kl_loss(network.apply(variables, observations), teacher_q, temperature=1.0).mean()

        return jax.jit(lambda variables: (network.apply(variables, observations), jax.grad(loss)(variables)))(variables)

    whole = found(in_one_part(network))
    for own, expected in zip(jax.tree.leaves(found(network)), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "sizes", [PartSizes(8, 8, 8, 4, 3, 40), PartSizes(24, 7, 40, 1, 16, 512), PartSizes(1, 1, 1, 1, 1, 1)]
)
def test_parts_of_other_sizes_are_the_same_in_all_but_rounding(sizes: PartSizes) -> None:
    observations, network = frames(120), make_network("net3", 6, channels=(2, 3, 2), hidden=8, convolution="matmul")
    variables = jax.jit(network.init)(jax.random.key(0), observations[:1])

    def found(network: Any) -> Any:
        def loss(variables: Any) -> jax.Array:
            return (network.apply(variables, observations) ** 2).mean()

        return jax.jit(lambda variables: (network.apply(variables, observations), jax.grad(loss)(variables)))(variables)

    for own, expected in zip(
        jax.tree.leaves(found(with_sizes(network, sizes))), jax.tree.leaves(found(in_one_part(network))), strict=True
    ):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_sizes_say_how_many_examples_are_taken_at_once() -> None:
    network, observations = make_network("net3", 6, convolution="matmul"), frames(256)
    variables = jax.eval_shape(network.init, jax.random.key(0), observations)

    def products(sizes: PartSizes, of: Any = lambda loss: loss) -> tuple[int, int]:
        def loss(variables: Any) -> jax.Array:
            return with_sizes(network, sizes).apply(variables, observations).sum()

        counted = operations(of(loss), variables)
        return counted["scan"], counted["dot_general"]

    # Three convolutions of each part that is begun together, and two dense layers.
    assert products(PartSizes(narrow=16, at_once=4)) == (1, 4 * 3 + 2)
    assert products(PartSizes(narrow=128, at_once=1)) == (1, 1 * 3 + 2)
    assert products(PartSizes(narrow=64, at_once=4)) == (0, 4 * 3 + 2), "all at once"
    # Wide networks have their own; and of a small batch each core has some.
    network = make_network("net3", 6, channels=(17, 4, 4), convolution="matmul")
    variables = jax.eval_shape(network.init, jax.random.key(0), observations)
    assert products(PartSizes(inference=64)) == (1, 2 * 3 + 2)
    assert products(PartSizes(inference=256)) == (0, 2 * 3 + 2)
    assert products(PartSizes(inference=64, at_once=1)) == (1, 1 * 3 + 2)
    _, four = products(PartSizes(most=4), jax.grad)
    _, eight = products(PartSizes(most=8), jax.grad)
    # A part more takes three products forwards, and twice as many backwards.
    assert eight - four == 4 * (3 + 6)


def test_sizes_say_how_many_gradients_are_taken_at_once() -> None:
    network = make_network("net3", 6)
    for gradient, parts in ((32, 16), (64, 8), (128, 4), (512, 1), (1_024, 1)):
        assert gradient_parts(with_sizes(network, PartSizes(gradient=gradient)), 512, platform="cpu") == parts
    # No fewer than what keeps the cores busy.
    assert gradient_parts(with_sizes(network, PartSizes(at_once=4, gradient=32)), 512, platform="cpu") == 1


def test_what_is_never_divided_has_no_sizes() -> None:
    for network in (make_network("mlp", 6), object()):
        assert with_sizes(network, PartSizes(most=3)) is network
    network = make_network("net3", 6)
    assert with_sizes(network, PartSizes()) is network
    assert with_sizes(network, PartSizes(most=3)) == with_sizes(network, PartSizes(most=3)) != network


def test_large_minibatches_of_frames_are_taken_in_parts_on_a_cpu() -> None:
    frames, vectors = make_network("net3", 6), make_network("mlp", 6)

    def parts(network: Any, batch_size: int, num_games: int = 1, platform: str = "cpu") -> int:
        return gradient_parts(network, batch_size, num_games, platform=platform)

    assert [parts(frames, size) for size in (1, 32, 128, 192, 256, 1_000, 4_096)] == [1, 1, 2, 3, 4, 20, 64]
    assert [parts(frames, 32, games) for games in (1, 2, 3, 5, 10)] == [1, 1, 2, 4, 8]
    # Parts of one or two examples would be worse than none.
    assert parts(frames, 131) == parts(frames, 2 * 101) == 1
    assert parts(vectors, 4_096) == 1
    assert parts(make_network("net3", 6, convolution="native"), 4_096) == 1
    for platform in ("gpu", "tpu"):
        assert parts(frames, 4_096, platform=platform) == 1
        assert parts(make_network("net3", 6, convolution="matmul"), 4_096, platform=platform) == 64


@pytest.mark.parametrize("platform", ["gpu", "tpu", "cpu"])
def test_a_batch_is_divided_and_convolved_as_suits_the_platform_that_is_traced_for(platform: str) -> None:
    network, observations = make_network("net3", 6), frames(256)
    variables = jax.eval_shape(network.init, jax.random.key(0), observations)

    def loss(variables: Any) -> jax.Array:
        return network.apply(variables, observations).sum()

    with tracing_for(platform):
        forwards, gradient = operations(loss, variables), operations(jax.grad(loss), variables)
    if platform == "cpu":
        # Three convolutions of each of two parts in the scan over groups, and two dense layers.
        assert forwards["conv_general_dilated"] == 0 and forwards["scan"] == 1 and forwards["dot_general"] == 8
        # Of eight parts each convolution is there once forwards, and backwards twice, but for the first one's frames.
        assert gradient["conv_general_dilated"] == 0 and gradient["scan"] == 0 and gradient["dot_general"] > 8 * 3
    else:
        assert forwards["conv_general_dilated"] == 3 and forwards["scan"] == 0 and forwards["dot_general"] == 2
        assert gradient["conv_general_dilated"] == 3 + 3 + 2


def test_a_formulation_that_is_asked_for_is_taken_on_every_platform() -> None:
    observations = frames(2)
    for platform in ("cpu", "gpu"):
        for convolution, count in (("matmul", 0), ("native", 3)):
            network = make_network("net3", 6, convolution=convolution)  # type: ignore[arg-type]
            variables = jax.eval_shape(network.init, jax.random.key(0), observations)
            with tracing_for(platform):
                assert operations(network.apply, variables, observations)["conv_general_dilated"] == count


def test_two_platforms_never_share_a_traced_program() -> None:
    network, observations = make_network("net3", 6), frames(2)
    apply = jax.jit(network.apply)
    variables = jax.jit(network.init)(jax.random.key(0), observations)
    counts, outputs = [], []
    for platform in ("tpu", "cpu", "tpu", "cpu"):
        with tracing_for(platform):
            counts.append(apply.lower(variables, observations).as_text().count("stablehlo.convolution"))
            outputs.append(np.asarray(apply(variables, observations)))
    assert counts == [3, 0, 3, 0]
    np.testing.assert_array_equal(outputs[0], outputs[2])
    np.testing.assert_array_equal(outputs[1], outputs[3])
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)
    assert target_platform() == jax.devices()[0].platform


@pytest.mark.parametrize(
    ("cores", "cache", "expected"),
    [
        (2, 2**19, PartSizes()),
        (2, 2**20, PartSizes()),
        (2, 2**21, PartSizes(inference=32, gradient=128)),
        (2, None, PartSizes()),
        (64, None, PartSizes()),
        (1, 2**21, PartSizes(inference=32, at_once=1)),
        (8, 2**19, PartSizes(at_once=8, gradient=128)),
        (8, 2**20, PartSizes(at_once=8, gradient=256, most=16)),
        (3, 1_310_720, PartSizes(at_once=3, gradient=112)),
        (192, 2**21, PartSizes(inference=32, at_once=32, gradient=512, most=32)),
    ],
)
def test_sizes_follow_the_caches_and_the_cores(
    cores: int, cache: int | None, expected: PartSizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two are the machines whose sizes all had before; those of the others are worked out by hand."""
    monkeypatch.setattr(partition, "xla_threads", lambda: cores)
    monkeypatch.setattr(partition, "cache_bytes", lambda level: {2: cache}[level])
    assert machine_sizes() == expected
    assert part_sizes(PartsConfig()) == expected
    assert part_sizes(PartsConfig(most=5)) == dataclasses.replace(expected, most=5)
    assert part_sizes(PartsConfig(most=5), PartSizes(gradient=7)) == PartSizes(most=5, gradient=7)
