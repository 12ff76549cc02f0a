"""The hub's files, from a local fake of it: fetched once, cached, and every failure one line."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.file_download
import numpy as np
import pytest

from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.teachers import load
from pd_jax.teachers.hub import Address, parse
from support import commands
from support.fake_hub import COMMIT, Hub, fake_hub
from support.sb3_models import make_model, random_observations

ADDRESS = "hf://someone/dqn-CartPole-v1/dqn-CartPole-v1.zip"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agents") / "dqn.zip"
    make_model("dqn", "cartpole").save(path)
    return path


@pytest.fixture(scope="module")
def served(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    teacher = commands.write_teacher(tmp_path_factory.mktemp("teacher") / "t.safetensors", "cartpole").read_bytes()
    files = {
        ADDRESS.removeprefix("hf://"): archive.read_bytes(),
        "someone/ours/some/folder/t.safetensors": teacher,
        "someone/huge/model.zip": b"x",
        **{
            f"zoo/dqn/{name}": content
            for name, content in {
                "dqn.zip": archive.read_bytes(),
                "dqn/policy.pth": b"x",
                "dqn/policy.optimizer.pth": b"x",
                "args.yml": b"x",
                "train_eval_metrics.zip": b"x",
                "vec_normalize.pkl": b"x",
                "replay.mp4": b"x",
            }.items()
        },
        **{f"zoo/many/{index:02}.zip": b"x" for index in range(12)},
        "zoo/two/a.cleanrl_model": b"x",
        "zoo/two/folder/b.ZIP": b"x",
        "zoo/two/notes.txt": b"x",
        "zoo/none/README.md": b"x",
    }
    with fake_hub(files) as hub:
        yield hub


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, served: Hub) -> pytest.MonkeyPatch:
    """The library's settings, which it takes from the environment when it is imported."""
    point_to(monkeypatch, served.endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 2)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    served.requests.clear()
    return monkeypatch


def point_to(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    for module in (huggingface_hub.file_download,):
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


def refusal(address: str, game: str | None = "cartpole") -> str:
    with pytest.raises(UserError) as refused:
        load(address, game)
    message = str(refused.value)
    assert "\n" not in message and message.isprintable()
    return message


def test_a_file_is_fetched_once_and_then_found_in_the_cache(settings, served, archive):
    teacher, local = load(ADDRESS, "cartpole"), load(archive, "cartpole")
    observations = random_observations(get_task("cartpole"), 8)
    np.testing.assert_array_equal(teacher(observations), local(observations))
    assert (teacher.sha256, teacher.source) == (local.sha256, ADDRESS)
    load(ADDRESS, "cartpole")
    assert sum(request.startswith("GET") and "/resolve/" in request for request in served.requests) == 1
    settings.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    served.requests.clear()
    assert load(ADDRESS, "cartpole").sha256 == local.sha256
    assert served.requests == []


def test_a_revision_and_a_folder_may_be_named(settings, served):
    assert load(f"hf://someone/ours/some/folder/t.safetensors@{COMMIT}").task.name == "cartpole"
    asked = [request for request in served.requests if "/resolve/" in request]
    assert asked and all(f"/resolve/{COMMIT}/some/folder/" in request for request in asked)
    assert refusal("hf://someone/ours/some/folder/t.safetensors", "pong").endswith("plays cartpole, not pong")


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("hf://nobody/nothing/m.zip", "there is no repository nobody/nothing, or it is private"),
        ("hf://someone/ours/m.zip", "someone/ours has no file 'm.zip'"),
        (f"{ADDRESS}@v9", "someone/dqn-CartPole-v1 has no revision 'v9'"),
        ("hf://someone/gated/m.zip", "someone/gated is gated: ask for access on its page"),
        ("hf://someone/huge/model.zip", f"has {2**40:,} bytes, more than any agent's"),
        ("hf://someone/broken/m.zip", "is not in the cache, and cannot be fetched from http://127.0.0.1:"),
        (
            "hf://someone/ours/m.onnx",
            "is none of the files that are read (.safetensors, .zip, .cleanrl_model, .pth, .pt",
        ),
    ],
)
def test_what_the_hub_does_not_give_is_said_in_one_line(settings, address, complaint):
    message = refusal(address)
    assert message.startswith(f"{address}: {complaint}"), message


@pytest.mark.parametrize(
    "address",
    ["hf://", "hf://a/m.zip", "hf://a/b/", "hf://a/b/../m.zip", "hf://a//m.zip", "hf://a/b/m.zip@", "hf://a/b/m\n.zip",
     "hf://a/b/m.zip@x@y", "hf://-a/b/m.zip", "hf://a/b/c//m.zip", "hf://a", "hf://a/b@", "hf://a/b.safetensors"],
)  # fmt: skip
def test_addresses_of_another_form_are_refused_without_asking(address, settings, served):
    assert "is not of the form hf://owner/repo[/file][@revision]" in refusal(address)
    assert served.requests == []


def test_addresses_are_taken_apart():
    assert parse("hf://a/b/c/d.zip@refs/pr/1") == Address("a/b", "c/d.zip", "refs/pr/1")
    assert parse("hf://a/b/d.zip") == Address("a/b", "d.zip", None)
    assert parse("hf://a/b") == Address("a/b", None, None)
    assert parse("hf://a/b@v1") == Address("a/b", None, "v1")


@pytest.mark.parametrize("at", ["", f"@{COMMIT}"])
def test_a_repository_without_a_file_stands_for_its_one_agent(at, settings, served, archive):
    address = f"hf://zoo/dqn{at}"
    assert load(address, "cartpole").sha256 == load(archive, "cartpole").sha256
    assert any(f"/resolve/{at[1:] or 'main'}/dqn.zip" in request for request in served.requests)
    # What is in the cache is listed without a network.
    settings.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    served.requests.clear()
    assert load(address, "cartpole").source == address and served.requests == []


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        (
            "hf://zoo/two",
            "zoo/two has 2 files that may be meant; choose one: hf://zoo/two/a.cleanrl_model, "
            "hf://zoo/two/folder/b.ZIP",
        ),
        (
            f"hf://zoo/two@{COMMIT}",
            f"zoo/two has 2 files that may be meant; choose one: hf://zoo/two/a.cleanrl_model@{COMMIT}",
        ),
        ("hf://zoo/many", "zoo/many has 12 files that may be meant; choose one: hf://zoo/many/00.zip, "),
        ("hf://zoo/none", "zoo/none has no file that is read (.safetensors, .zip, .cleanrl_model, "),
        ("hf://nobody/nothing", "there is no repository nobody/nothing, or it is private"),
        ("hf://zoo/two@v9", "zoo/two has no revision 'v9'"),
        ("hf://someone/gated", "someone/gated is gated: ask for access on its page"),
    ],
)
def test_a_repository_in_which_one_has_to_choose_is_refused_with_a_list(settings, address, complaint):
    message = refusal(address)
    assert message.startswith(f"{address}: {complaint}"), message
    assert message.endswith(", and 2 more") == (address == "hf://zoo/many")


def test_a_repository_that_cannot_be_listed_says_why(settings):
    settings.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert refusal("hf://zoo/dqn") == "hf://zoo/dqn: is not in the cache, and HF_HUB_OFFLINE forbids fetching it"
    settings.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with fake_hub({}, stalls=True) as stalled:
        point_to(settings, stalled.endpoint)
        started = time.monotonic()
        complaint = f"hf://zoo/dqn: is not in the cache, and cannot be fetched from {stalled.endpoint}: "
        assert refusal("hf://zoo/dqn").startswith(complaint)
        assert time.monotonic() - started < 20


def test_offline_what_is_not_cached_is_refused(settings, served):
    settings.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert refusal(ADDRESS) == f"{ADDRESS}: is not in the cache, and HF_HUB_OFFLINE forbids fetching it"
    assert served.requests == []


def test_without_a_network_the_cache_is_used_and_its_lack_is_said(settings):
    load(ADDRESS, "cartpole")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    point_to(settings, f"http://127.0.0.1:{port}")
    assert load(ADDRESS, "cartpole").task.name == "cartpole"
    address = "hf://someone/other/m.zip"
    complaint = f"{address}: is not in the cache, and cannot be fetched from http://127.0.0.1:{port}: "
    assert refusal(address).startswith(complaint)


def test_a_hub_that_does_not_answer_is_given_up(settings):
    with fake_hub({}, stalls=True) as stalled:
        point_to(settings, stalled.endpoint)
        started = time.monotonic()
        complaint = f"{ADDRESS}: is not in the cache, and cannot be fetched from {stalled.endpoint}: "
        assert refusal(ADDRESS).startswith(complaint)
        # One question of 2 seconds.
        assert time.monotonic() - started < 20


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert refusal(ADDRESS).endswith("is fetched with huggingface_hub: pip install 'pd-jax[hub]'")


@pytest.mark.slow
def test_the_command_takes_the_librarys_environment(served, tmp_path):
    python = [sys.executable, "-m", "pd_jax", "evaluate", "--teacher", ADDRESS, "--game", "cartpole"]
    quick = commands.options({"evaluation.episodes": 2, "evaluation.num-lanes": 2, "evaluation.max-episode-steps": 10})
    environment = {"HF_ENDPOINT": served.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    ended = commands.run([*python, *quick], **environment)
    assert ended.code == 0, ended.stderr
    again = commands.run(
        [*python, *quick], **environment | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    )
    assert again.code == 0, again.stderr
