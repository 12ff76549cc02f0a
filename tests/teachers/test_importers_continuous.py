"""Agents of continuous actions: what Stable-Baselines3, rsl_rl and rl_games answer, the imported teacher answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC, TRPO
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from torch import nn

from pd_jax.errors import UserError
from pd_jax.teachers import load
from pd_jax.teachers.files import save_teacher
from pd_jax.teachers.importers import import_teacher
from support.sb3_models import Still, randomise, rewrite, with_data

GAME, SIZE, COMPONENTS = "Pendulum-v1", 3, 1
CLASSES = {"ppo": PPO, "a2c": A2C, "trpo": TRPO, "sac": SAC, "td3": TD3, "ddpg": DDPG, "tqc": TQC}
OBSERVATIONS = np.random.default_rng(0).normal(size=(64, SIZE)).astype(np.float32)
TOLERANCE = 1e-4


def env(bound: float = 2.0, size: int = SIZE, components: int = COMPONENTS) -> gymnasium.Env:
    seen = spaces.Box(-np.inf, np.inf, (size,), np.float32)
    return Still(seen, spaces.Box(-bound, bound, (components,), np.float32))


def make(algorithm: str, **kwargs: Any) -> Any:
    if algorithm in ("sac", "td3", "ddpg", "tqc"):
        kwargs.setdefault("buffer_size", 4)
    elif algorithm != "a2c":
        kwargs = {"n_steps": 8, "batch_size": 8} | kwargs
    kwargs.setdefault("policy_kwargs", {"net_arch": [32, 16]})
    model = CLASSES[algorithm]("MlpPolicy", kwargs.pop("env", None) or env(), device="cpu", **kwargs)
    randomise(model.policy)
    return model


def saved(model: Any, path: Path) -> Path:
    model.save(path)
    return path


def library_outputs(model: Any, observations: np.ndarray) -> np.ndarray:
    """Means and log standard deviations as the library's policy has them; of a deterministic one its actions."""
    policy, seen = model.policy, torch.as_tensor(observations)
    policy.set_training_mode(False)
    with torch.no_grad():
        if hasattr(policy, "action_net"):
            normal = policy.get_distribution(seen).distribution
            return torch.cat([normal.mean, normal.stddev.log()], dim=-1).numpy()
        if isinstance(model, SAC | TQC):
            mean, log_std, _ = policy.actor.get_action_dist_params(seen)
            return torch.cat([mean, log_std], dim=-1).numpy()
    return model.predict(observations, deterministic=True)[0]


@pytest.mark.parametrize("algorithm", sorted(CLASSES))
def test_an_imported_agent_answers_and_acts_as_the_library_does(algorithm, tmp_path):
    model = make(algorithm)
    teacher = load(saved(model, tmp_path / "model.zip"), GAME)
    theirs = library_outputs(model, OBSERVATIONS)
    assert theirs.std(axis=0).max() > 1e-2
    np.testing.assert_allclose(teacher(OBSERVATIONS), theirs, atol=TOLERANCE)
    actions, _ = teacher.act(OBSERVATIONS)
    np.testing.assert_allclose(actions, model.predict(OBSERVATIONS, deterministic=True)[0], atol=TOLERANCE)
    metadata = teacher.metadata
    is_deterministic, is_squashed = algorithm in ("td3", "ddpg"), algorithm in ("sac", "tqc", "td3", "ddpg")
    assert metadata.output == ("means" if is_deterministic else "gaussian")
    assert metadata.squashed == is_squashed and metadata.algorithm == algorithm
    assert metadata.activation == ("relu" if is_squashed else "tanh")
    assert (metadata.action_low, metadata.action_high) == ((-2.0,), (2.0,))
    save_teacher(tmp_path / "teacher.safetensors", *import_teacher(tmp_path / "model.zip", GAME))
    np.testing.assert_array_equal(load(tmp_path / "teacher.safetensors")(OBSERVATIONS), teacher(OBSERVATIONS))


def test_a_standard_deviation_beyond_the_bounds_of_sac_is_clipped_as_it_is_there(tmp_path):
    model = make("sac")
    with torch.no_grad():
        model.policy.actor.log_std.bias += 20.0
    teacher = load(saved(model, tmp_path / "model.zip"), GAME)
    theirs = library_outputs(model, OBSERVATIONS)
    assert (theirs[:, COMPONENTS:] == 2.0).all()
    np.testing.assert_allclose(teacher(OBSERVATIONS), theirs, atol=TOLERANCE)


@pytest.mark.parametrize("algorithm", ["ppo", "sac", "td3"])
def test_a_policy_that_was_saved_alone_is_read(algorithm, tmp_path):
    model = make(algorithm)
    path = tmp_path / "policy.pth"
    model.policy.save(path)
    torch.save(model.policy.state_dict(), tmp_path / "weights.pt")
    expected = load(saved(model, tmp_path / "model.zip"), GAME)(OBSERVATIONS)
    for file in (path, tmp_path / "weights.pt"):
        np.testing.assert_array_equal(load(file, GAME)(OBSERVATIONS), expected)


class RslRl(nn.Module):
    """An actor of rsl_rl 1 to 3: layers by number, a standard deviation, a critic that nobody needs."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(SIZE, 16), nn.ELU(), nn.Linear(16, 8), nn.ELU(), nn.Linear(8, COMPONENTS))
        self.critic = nn.Sequential(nn.Linear(SIZE, 4), nn.ELU(), nn.Linear(4, 1))
        self.std = nn.Parameter(torch.ones(COMPONENTS))


class RlGames(nn.Module):
    """The model of rl_games around an actor that is an MLP."""

    def __init__(self) -> None:
        super().__init__()
        network = nn.Module()
        network.actor_mlp = nn.Sequential(nn.Linear(SIZE, 16), nn.ELU(), nn.Linear(16, 8), nn.ELU())
        network.mu, network.value = nn.Linear(8, COMPONENTS), nn.Linear(8, 1)
        network.sigma = nn.Parameter(torch.full((COMPONENTS,), -0.5))
        self.a2c_network = network


def statistics() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(SIZE, generator=generator), torch.rand(SIZE, generator=generator) + 0.5


def rsl_rl_checkpoint(kind: str) -> tuple[dict[str, Any], np.ndarray]:
    """A checkpoint, and what its actor gives for the observations."""
    module = RslRl()
    randomise(module)
    with torch.no_grad():
        module.std.copy_(torch.tensor([0.4]))
    mean, variance = statistics()
    buffers = {"_mean": mean[None], "_var": variance[None], "_std": variance.sqrt()[None], "count": torch.tensor(77)}
    tensors, about = dict(module.state_dict()), {"iter": 12, "infos": None, "optimizer_state_dict": {"state": {}}}
    seen = torch.as_tensor(OBSERVATIONS)
    if kind != "plain":
        seen = (seen - mean) / (variance.sqrt() + 1e-2)
    checkpoint: dict[str, Any] = {"model_state_dict": tensors, **about}
    if kind == "beside":
        checkpoint["obs_norm_state_dict"] = buffers
    if kind == "inside":
        tensors |= {f"actor_obs_normalizer.{name}": value for name, value in buffers.items()}
        tensors |= {f"critic_obs_normalizer.{name}": value for name, value in buffers.items()}
        tensors["log_std"] = tensors.pop("std").log()
    if kind == "version 4":
        actor = {name.replace("actor.", "mlp."): value for name, value in tensors.items() if name.startswith("actor.")}
        actor |= {f"obs_normalizer.{name}": value for name, value in buffers.items()}
        actor["distribution.std_param"] = tensors["std"]
        checkpoint = {"actor_state_dict": actor, "critic_state_dict": {}, **about}
    with torch.no_grad():
        means = module.actor(seen).numpy()
    return checkpoint, np.concatenate([means, np.full_like(means, np.log(0.4))], axis=1)


@pytest.mark.parametrize("kind", ["plain", "beside", "inside", "version 4"])
def test_an_actor_of_rsl_rl_answers_as_its_layers_do(kind, tmp_path):
    checkpoint, expected = rsl_rl_checkpoint(kind)
    torch.save(checkpoint, tmp_path / "model_12.pt")
    teacher = load(tmp_path / "model_12.pt", GAME)
    np.testing.assert_allclose(teacher(OBSERVATIONS), expected, atol=TOLERANCE)
    np.testing.assert_allclose(teacher.act(OBSERVATIONS)[0], np.clip(expected[:, :1], -2, 2), atol=TOLERANCE)
    metadata = teacher.metadata
    assert (metadata.source_format, metadata.activation, metadata.squashed) == ("rsl_rl", "elu", False)
    assert bool(metadata.normalisation) == (kind != "plain")


def rl_games_checkpoint(*, normalised: bool) -> tuple[dict[str, Any], np.ndarray]:
    module = RlGames()
    randomise(module)
    with torch.no_grad():
        module.a2c_network.sigma.fill_(-0.5)
    mean, variance = (array.double() for array in statistics())
    tensors, seen = dict(module.state_dict()), torch.as_tensor(OBSERVATIONS)
    if normalised:
        buffers = {"running_mean": mean, "running_var": variance, "count": torch.tensor(50.0, dtype=torch.float64)}
        tensors |= {f"running_mean_std.{name}": value for name, value in buffers.items()}
        tensors |= {f"value_mean_std.{name}": torch.ones(1) for name in buffers}
        seen = torch.clamp((seen - mean.float()) / torch.sqrt(variance.float() + 1e-5), -5.0, 5.0)
    with torch.no_grad():
        network = module.a2c_network
        means = network.mu(network.actor_mlp(seen)).numpy()
    # What is between -1 and 1 there is between -2 and 2 in Pendulum.
    expected = np.concatenate([2 * means, np.full_like(means, -0.5 + np.log(2.0))], axis=1)
    return {"model": tensors, "epoch": 9, "frame": 1000, "optimizer": {"state": {}}}, expected


@pytest.mark.parametrize("normalised", [True, False])
def test_an_actor_of_rl_games_answers_as_its_layers_do_in_the_range_of_the_task(normalised, tmp_path):
    checkpoint, expected = rl_games_checkpoint(normalised=normalised)
    torch.save(checkpoint, tmp_path / "robot.pth")
    teacher = load(tmp_path / "robot.pth", GAME)
    np.testing.assert_allclose(teacher(OBSERVATIONS), expected, atol=TOLERANCE)
    assert teacher.metadata.normalisation.get("observation", {}).get("clip") == (5.0 if normalised else None)


def normalised_ppo(path: Path) -> Path:
    """An archive that shows the use of ``VecNormalize``."""
    return rewrite(
        saved(make("ppo"), path), path.with_name("normalised.zip"), data=with_data(_last_original_obs={"a": 1})
    )


def test_statistics_of_vec_normalize_are_taken_from_numbers(tmp_path):
    path = normalised_ppo(tmp_path / "model.zip")
    mean, variance = (array.numpy() for array in statistics())
    numbers = {"mean": mean, "variance": variance, "count": 9.0, "epsilon": 1e-8, "clip": 10.0}
    np.savez(tmp_path / "statistics.npz", **numbers)
    params, metadata = import_teacher(path, GAME, tmp_path / "statistics.npz")
    save_teacher(tmp_path / "teacher.safetensors", params, metadata)
    seen = np.clip((OBSERVATIONS - mean) / np.sqrt(variance + 1e-8), -10, 10).astype(np.float32)
    expected = library_outputs(make("ppo"), seen)
    np.testing.assert_allclose(load(tmp_path / "teacher.safetensors")(OBSERVATIONS), expected, atol=TOLERANCE)


def broken(change: str, path: Path) -> tuple[Path, str, Any]:
    """A file that does not fit, what it is said to play, and statistics."""
    checkpoint, _ = rsl_rl_checkpoint("inside")
    tensors = checkpoint["model_state_dict"]
    if change == "range":
        return saved(make("sac", env=env(bound=1.0)), path), GAME, None
    if change == "components":
        return saved(make("td3", env=env(components=2)), path), GAME, None
    if change == "observations":
        return saved(make("ppo", env=env(size=4)), path), GAME, None
    if change == "discrete":
        return saved(make("ppo", env=env(size=4)), path), "cartpole", None
    if change == "vec normalize":
        return normalised_ppo(path), GAME, None
    if change == "pickled statistics":
        path.with_name("vecnormalize.pkl").write_bytes(b"\x80\x04N.")
        return normalised_ppo(path), GAME, path.with_name("vecnormalize.pkl")
    if change == "use_sde":
        return saved(make("sac", use_sde=True), path), GAME, None
    if change == "two statistics":
        np.savez(path.with_name("s.npz"), mean=np.zeros(SIZE), variance=np.ones(SIZE), count=1.0)
        torch.save(checkpoint, path)
        return path, GAME, path.with_name("s.npz")
    if change == "statistics of another size":
        tensors["actor_obs_normalizer._mean"] = torch.zeros(1, 5)
    if change == "no deviation":
        del tensors["log_std"]
    if change == "recurrent":
        tensors["memory_a.rnn.weight_ih_l0"] = torch.zeros(4, SIZE)
    torch.save(checkpoint, path)
    return path, GAME, None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("range", r"its actions are low -1; those of \w+ are low -2"),
        ("components", r"its actions have shape \[2\]; those of \w+ have \[1\]"),
        ("observations", "sees observations of shape .4.; .* shows vectors of 3"),
        ("discrete", "its actions are a Box space; cartpole has 2 discrete ones"),
        ("vec normalize", "was trained with VecNormalize, whose statistics are not in the archive"),
        ("pickled statistics", "is a pickle, which could run anything and is not opened"),
        ("use_sde", "uses state-dependent exploration"),
        ("two statistics", "holds the statistics of its observations itself"),
        ("statistics of another size", "'actor_obs_normalizer._mean' has 5 numbers; .* shows 3"),
        ("no deviation", "tensor 'log_std' is missing"),
        ("recurrent", "its actor is recurrent"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(change, message, tmp_path):
    path, game, numbers = broken(change, tmp_path / "model.zip")
    with pytest.raises(UserError, match=message) as refused:
        import_teacher(path, game, numbers)
    assert "\n" not in str(refused.value)
