"""Agents of Dopamine's JAX side: they answer as their networks do, and nothing in a checkpoint is run."""

from __future__ import annotations

import collections
import io
import pickle
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict

from pd_jax.cli import main
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.teachers import Teacher, load
from pd_jax.teachers.files import save_teacher
from pd_jax.teachers.formats import format_of
from pd_jax.teachers.importers import import_teacher, pickles
from support import commands
from support.sb3_models import real_observations, varied_observations

SUPPORT = jnp.linspace(-10.0, 10.0, 51)


class Nature(nn.Module):
    """Their networks of one output layer: Flax's convolutions, which are padded unless they are told otherwise."""

    outputs: int

    @nn.compact
    def __call__(self, frame):
        x = features(frame)
        return nn.Dense(self.outputs)(x)


class Noisy(nn.Module):
    """A dense layer whose noise is off: what it adds to the means is multiplied by 0."""

    width: int

    @nn.compact
    def __call__(self, x):
        def param(name, shape, scale):
            return self.param(name, lambda key: scale * jax.random.normal(key, shape))

        shape = (x.shape[-1], self.width)
        kernel = param("kernel_mu", shape, shape[0] ** -0.5) + 0 * param("kernel_sigma", shape, 0.1)
        return x @ kernel + param("bias_mu", shape[1:], 0.1) + 0 * param("bias_sigma", shape[1:], 0.1)


# Flax names layers after their class.
NoisyNetwork = type("NoisyNetwork", (Noisy,), {"__module__": __name__, "__annotations__": {"width": "int"}})


class FullRainbow(nn.Module):
    """Advantages and values; each of them may be noisy."""

    actions: int
    is_noisy: bool

    @nn.compact
    def __call__(self, frame):
        dense = NoisyNetwork if self.is_noisy else nn.Dense
        x = features(frame, dense)
        advantages = dense(self.actions * 51)(x).reshape(self.actions, 51)
        values = dense(51)(x).reshape(1, 51)
        return values + advantages - advantages.mean(axis=0, keepdims=True)


def features(frame: Any, dense: Any = nn.Dense) -> Any:
    x = frame.astype(jnp.float32) / 255.0
    for width, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        x = nn.relu(nn.Conv(width, (size, size), (stride, stride))(x))
    return nn.relu(dense(512)(x.reshape(-1)))


def mean_of_atoms(logits: Any) -> Any:
    return (nn.softmax(logits.reshape(-1, 51)) * SUPPORT).sum(axis=1)


AGENTS: dict[str, tuple[Any, Any]] = {
    "dqn": (Nature(6), lambda outputs: outputs),
    "c51": (Nature(6 * 51), mean_of_atoms),
    "quantile": (Nature(6 * 200), lambda outputs: outputs.reshape(6, 200).mean(axis=1)),
    "full-rainbow": (FullRainbow(6, is_noisy=True), mean_of_atoms),
    "full-rainbow, no noise": (FullRainbow(6, is_noisy=False), mean_of_atoms),
}
FRAME = jnp.zeros((84, 84, 4), jnp.uint8)
FRAMES = varied_observations(get_task("pong"), 16)


def variables_of(name: str) -> Any:
    """Weights that keep the size of what passes through them, and biases that matter."""
    # Shapes alone: nothing is compiled.
    shapes = jax.eval_shape(AGENTS[name][0].init, jax.random.key(0), FRAME)
    rng = np.random.default_rng(0)

    def drawn(leaf):
        scale = 0.1 if leaf.ndim == 1 else (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree.map(drawn, shapes)


def answers(name: str, variables: Any, observations: np.ndarray) -> np.ndarray:
    network, reduce = AGENTS[name]
    # Weights that the program has for constants take it seconds more to compile.
    apply = jax.jit(jax.vmap(lambda weights, frame: reduce(network.apply(weights, frame)), in_axes=(None, 0)))
    return np.concatenate([apply(variables, part) for part in np.split(observations, max(1, len(observations) // 100))])


def bundle(variables: Any) -> dict[str, Any]:
    """What a checkpoint holds, with an optimiser's state and a log that are of no use here."""
    return {
        "state": np.zeros((84, 84, 4)),
        "training_steps": 3_000_000,
        "online_params": variables,
        "optimizer_state": optax.adam(1e-3).init({"x": jnp.ones(3)}),
        "target_params": variables,
        "current_iteration": 12,
        "logs": {"iteration_0": {"train_episode_returns": [np.float64(1.0), 2.0]}, "seen": {1, 2}},
    }


def saved(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    return {name: variables_of(name) for name in AGENTS}


def refusal(path: Path, game: str = "pong") -> str:
    with pytest.raises(UserError) as refused:
        load(path, game)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and message.isprintable()
    return message.removeprefix(f"{path}: ")


def assert_answers(path: Path, name: str, variables: Any, seen: np.ndarray) -> Teacher:
    teacher, theirs = load(path, "pong"), answers(name, variables, seen)
    # The mean of many quantiles hardly moves: the error has to be small beside that, too.
    np.testing.assert_allclose(teacher(seen), theirs, rtol=0, atol=min(1e-4, 0.05 * theirs.std(axis=0).min()))
    return teacher


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """A thousand stacks of Pong as random play shows them."""
    return real_observations(get_task("pong"), 1000)


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_answers_as_its_network_over_a_thousand_frames(name, weights, frames, tmp_path):
    path = saved(tmp_path / "ckpt.12", bundle(weights[name]))
    assert_answers(path, name, weights[name], frames)


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_answers_as_its_network_and_tells_what_is_known_of_it(name, weights, tmp_path):
    path = saved(tmp_path / "ckpt.12", bundle(weights[name]))
    teacher = assert_answers(path, name, weights[name], FRAMES)
    metadata = teacher.metadata
    algorithm = name.partition(",")[0]
    assert (metadata.source_format, metadata.algorithm, metadata.network) == ("dopamine", algorithm, "dqn_same")
    assert (metadata.env_steps, metadata.untrainable) == (
        3_000_000,
        "padded convolutions" if not metadata.support else "a categorical head",
    )
    # By Dopamine's settings; the checkpoint has no word of it.
    assert metadata.training_config == {"protocol": "modern", "sticky_action_probability": 0.25}
    assert metadata.named_protocol == "modern"
    save_teacher(tmp_path / "t.safetensors", *import_teacher(path, "pong"))
    np.testing.assert_array_equal(load(tmp_path / "t.safetensors")(FRAMES), teacher(FRAMES))


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    ("wrap", "to_leaf"),
    [(FrozenDict, jnp.asarray), (dict, np.asarray), (FrozenDict, np.asfortranarray)],
    ids=["jax", "numpy", "columns"],
)
def test_arrays_of_both_libraries_are_read_in_every_protocol(protocol, wrap, to_leaf, weights, tmp_path):
    variables = wrap(jax.tree.map(to_leaf, jax.device_get(weights["dqn"])))
    params, _ = import_teacher(saved(tmp_path / "ckpt.0", bundle(variables), protocol), "pong")
    theirs = weights["dqn"]["params"]
    np.testing.assert_array_equal(params["torso"]["conv2"]["kernel"], theirs["Conv_1"]["kernel"])
    np.testing.assert_array_equal(params["torso"]["fc1"]["kernel"], theirs["Dense_0"]["kernel"])
    np.testing.assert_array_equal(params["head"]["output"]["bias"], theirs["Dense_1"]["bias"])


def test_what_flax_wrote_of_the_parameters_alone_is_read_too(weights, tmp_path):
    for name in ("c51", "full-rainbow"):
        path = tmp_path / "agent.msgpack"
        path.write_bytes(flax.serialization.to_bytes(weights[name]))
        assert format_of(path) == "flax"
        teacher = load(path, "pong")
        assert (teacher.metadata.algorithm, teacher.metadata.env_steps) == (name, None)
        assert teacher.metadata.named_protocol == "modern"
        of_checkpoint = load(saved(tmp_path / "ckpt.1", bundle(weights[name])), "pong")
        jax.tree.map(np.testing.assert_array_equal, teacher.variables, of_checkpoint.variables)


def test_the_command_imports_what_the_others_take(weights, tmp_path, capfd):
    path = saved(tmp_path / "ckpt.99", bundle(weights["dqn"]))
    assert main(["teachers", "import", str(path), "--game", "pong", "--out", str(tmp_path / "t.safetensors")]) == 0
    assert "dqn_same for pong with" in capfd.readouterr().out
    before = commands.contents(tmp_path)
    options = ["--game", "breakout", "--out", str(tmp_path / "b.safetensors")]
    message = commands.refusal(capfd, "teachers", "import", str(path), *options)
    assert message == f"pd-jax teachers import: {path}: has 6 actions, breakout has 4"
    options = ["--game", "pong", "--out", str(tmp_path / "run"), "--teacher", str(tmp_path / "t.safetensors")]
    message = commands.refusal(capfd, "online", *options)
    assert message.endswith("say --protocol modern, or another one to mix them")
    message = commands.refusal(capfd, "online", *options, "--protocol", "modern")
    assert message.endswith("has padded convolutions; PQN trains plain networks with relu")
    assert commands.contents(tmp_path) == before


def changed(weights: Any, edit: Any) -> Any:
    tree = {"params": {name: dict(layer) for name, layer in weights["params"].items()}}
    edit(tree["params"])
    return tree


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda p: p.pop("Dense_1"), "layer 'Dense_1' is missing; the network holds 'Conv_0', 'Conv_1',"),
        (lambda p: p.update(Dense_7=p["Dense_1"]), "layer 'Dense_7' does not belong to the network; of Dopamine's JAX"),
        (lambda p: p["Conv_0"].pop("bias"), "layer 'Conv_0' is not made of a kernel and a bias: 'kernel'"),
        (
            lambda p: p["Dense_0"].update(kernel=np.ones((3136, 512), "f4")),
            "tensor 'Dense_0/kernel' has shape (3136, 512), the network needs (7744, 512)",
        ),
        (lambda p: p["Conv_1"].update(bias=np.full(64, np.nan, "f4")), "tensor 'Conv_1/bias' holds NaN"),
        (lambda p: p["Conv_1"].update(bias=np.arange(64)), "is a checkpoint of Dopamine's with an array of no floats"),
        (lambda p: p["Conv_1"].update(bias=np.ones(64, ">f4")), "is a checkpoint of Dopamine's with an array of no"),
        (lambda p: p["Conv_1"].update(bias=3.0), "layer 'Conv_1' is not made of a kernel and a bias"),
        (lambda p: p["Conv_1"].update(bias={1}), "is a checkpoint of Dopamine's with something else than an array"),
        (lambda p: p.update({"a\nb": p["Conv_1"]}), "is a checkpoint of Dopamine's with a layer without a proper name"),
        (lambda p: p.update(Dense_2=p["Dense_1"]), "has 6 advantages and 6 values, which do not fit together"),
        (lambda p: p.update(Dense_1={"kernel": np.ones((512, 918), "f4"), "bias": np.ones(918, "f4")}), "has 18 act"),
        (lambda p: p.clear(), "layer 'Conv_0' is missing; the network holds none"),
    ],
)
def test_another_network_is_refused(edit, complaint, weights, tmp_path):
    path = saved(tmp_path / "ckpt.3", bundle(changed(weights["dqn"], edit)))
    assert refusal(path).startswith(complaint)


def test_another_task_and_parameters_that_are_none_are_refused(weights, tmp_path):
    path = saved(tmp_path / "ckpt.3", bundle(weights["dqn"]))
    assert refusal(path, "cartpole").startswith("its network sees frames, and cartpole shows vectors; of Dopamine's")
    for value in (None, [], {"params": 3}, {}, {"x": {}}):
        path = saved(tmp_path / "ckpt.3", bundle(value))
        assert refusal(path).startswith("is a checkpoint of Dopamine's without layers by name; of Dopamine's JAX")
    noisy = changed(weights["full-rainbow"], lambda p: p["NoisyNetwork_1"].pop("bias_sigma"))
    path = saved(tmp_path / "ckpt.3", bundle(noisy))
    assert refusal(path).startswith("layer 'NoisyNetwork_1' is not made of means and deviations: 'bias_mu'")


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.path)!r}, 'w').write('ran')",)


def test_nothing_in_a_checkpoint_is_run(weights, tmp_path):
    ran = tmp_path / "ran"
    beside = saved(tmp_path / "a", bundle(weights["dqn"]) | {"logs": Payload(ran)})
    assert load(beside, "pong").task.name == "pong"
    for name, edit in (
        ("b", lambda p: p.update(Conv_0=Payload(ran))),
        ("c", lambda p: p["Conv_0"].update(x=Payload(ran))),
    ):
        path = saved(tmp_path / name, bundle(changed(weights["dqn"], edit)))
        assert refusal(path).startswith("is a checkpoint of Dopamine's with something else than an array among its")
    assert "is a pickle, which could run anything and is not opened" in refusal(saved(tmp_path / "d", Payload(ran)))
    # What a frozen dict or an array would be made of may be anything, too.
    assert not ran.exists()
    pickle.loads((tmp_path / "d").read_bytes())
    assert ran.exists(), "the payload does run where pickles are trusted"


def array_state(shape: Any, content: Any, code: str = "f4") -> bytes:
    """A checkpoint whose only bias is an array put together by hand."""
    buffer = io.BytesIO()

    class Reduced:
        def __init__(self, function: Any, arguments: Any, state: Any) -> None:
            self.parts = function, arguments, state

        def __reduce__(self) -> Any:
            return self.parts

    function = np.zeros(1).__reduce__()[0]
    array = Reduced(function, (np.ndarray, (0,), b"b"), (1, shape, np.dtype(code), False, content))
    pickle._Pickler(buffer, 4).dump({"online_params": {"params": {"Conv_0": {"bias": array}}}})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("shape", "content", "complaint"),
    [
        ((2**40,), bytes(8), "an array without the numbers that its shape announces"),
        ((3,), bytes(8), "an array without the numbers that its shape announces"),
        ((-2,), bytes(8), "an array of an impossible shape"),
        ((2.0,), bytes(8), "an array of an impossible shape"),
        ((1,) * 5, bytes(4), "an array of an impossible shape"),
        ([2], bytes(8), "an array of an impossible shape"),
        ((2,), "text", "an array that an old version of pickle wrote"),
    ],
)
def test_arrays_that_announce_what_they_do_not_hold_are_refused(shape, content, complaint, tmp_path):
    path = tmp_path / "ckpt.1"
    path.write_bytes(array_state(shape, content))
    assert refusal(path) == f"is a checkpoint of Dopamine's with {complaint} among its weights"


def test_other_pickles_and_damaged_ones_are_refused(weights, tmp_path, monkeypatch):
    layers = changed(weights["dqn"], lambda p: p["Dense_0"].clear())
    whole = pickle.dumps(bundle(layers) | {"target_params": {}}, 4)
    path = tmp_path / "ckpt.1"
    for content in (pickle.dumps([1.0]), pickle.dumps({"weights": [1.0]}), whole[:-1], whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert refusal(path).startswith("is a pickle, which could run anything and is not opened; save weights with")
    monkeypatch.setattr(pickles, "_MAX_INSTRUCTIONS", 2000)
    path.write_bytes(b"\x80\x04" + b"N" * 2002 + b".")
    assert "is a pickle of more instructions than any agent's; not followed to its end" in refusal(path)
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        data[int(rng.integers(2, len(data)))] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(data))
        refusal(path)


def test_dicts_that_are_in_one_another_many_times_over_are_not_followed(tmp_path):
    tree: Any = {}
    for _ in range(7):
        tree = {f"n{index}": tree for index in range(1000)}
    path = saved(tmp_path / "ckpt.1", {"online_params": tree})
    assert refusal(path) == "is a checkpoint of Dopamine's with more names than any network's layers"
    loop: dict[str, Any] = {}
    loop["params"] = loop
    path = saved(tmp_path / "ckpt.1", {"online_params": loop})
    assert refusal(path) == "is a checkpoint of Dopamine's with more names than any network's layers"
    path = saved(tmp_path / "ckpt.1", {"online_params": collections.OrderedDict()})
    assert refusal(path).startswith("is a checkpoint of Dopamine's without layers by name")
