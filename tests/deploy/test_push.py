"""A student goes to a local fake of the hub and comes back the same; whatever is wrong is one line and nothing sent."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.file_download
import jax
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

import pd_jax
from pd_jax.cli import main
from pd_jax.config.push import PushConfig
from pd_jax.config.sections import StudentConfig
from pd_jax.deploy.push import run_push
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.runs.directory import read_run
from pd_jax.teachers.hub import PUBLICATION_NAME
from support.commands import QUICK_EVALUATION, contents, options, refusal, succeed
from support.fake_hub import COMMIT, Hub, fake_hub
from support.made_runs import write_student_run

TOKEN = "hf_" + "S3cretOfNobody" * 2
NAMES = {"README.md", "config.yaml", "summary.json", "model.safetensors", PUBLICATION_NAME}
SMALL = StudentConfig(network="mlp", mlp_hidden=(8,))


@pytest.fixture(scope="module")
def one_game(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an untrained student of CartPole. Not to be written to."""
    return write_student_run(tmp_path_factory.mktemp("runs") / "one", ["cartpole"], SMALL)


@pytest.fixture(scope="module")
def two_games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student_run(tmp_path_factory.mktemp("runs") / "two", ["cartpole", "acrobot"], SMALL)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub of which the library and this machine's token are."""
    files = {
        "me/theirs/weights.bin": b"x",
        "me/theirs/README.md": b"theirs",
        "me/empty/.gitattributes": b"",
        "them/open/README.md": b"x",
    }
    with fake_hub(files, tokens={TOKEN: ("me", "ours")}) as served:
        point_to(monkeypatch, served.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 5)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


def point_to(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


def push(run: Path, to: str = "hf://me/student", **given: Any) -> Any:
    settings: dict[str, Any] = {"licence": "apache-2.0", "timeout_seconds": 20.0, "send": True}
    return run_push(PushConfig(run=str(run), to=to, **settings | given))


def seen(game: str, count: int = 16) -> np.ndarray:
    task = get_task(game)
    return np.random.default_rng(1).normal(size=(count, *task.observation_shape)).astype(np.float32)


def assert_same(policy: Any, other: Any, game: str) -> None:
    np.testing.assert_array_equal(np.asarray(policy.outputs(seen(game))), np.asarray(other.outputs(seen(game))))


def test_what_is_pushed_comes_back_the_same_as_student_and_as_teacher(hub, one_game, two_games):
    for run, games in ((one_game, ["cartpole"]), (two_games, ["cartpole", "acrobot"])):
        address = f"hf://me/{run.name}"
        pushed = push(run, address)
        assert {*hub.newest(f"me/{run.name}")} == NAMES | {".gitattributes"}
        assert {name: hub.newest(f"me/{run.name}")[name] for name in NAMES} == dict(pushed.files)
        assert len(hub.history[f"me/{run.name}"]) == 2 and pushed.outcome.is_new
        commit = hub.history[f"me/{run.name}"][-1][0]
        for game in games:
            own = pd_jax.load_student(run, game=game)
            for at in ("", "@main", f"@{commit}"):
                assert_same(pd_jax.load_student(address + at, game=game), own, game)
                assert_same(pd_jax.load_teacher(address + at, game), own, game)
        student = pd_jax.load_student(address, game=games[0])
        assert student.summary == read_run(run).read_summary() and student.source == address
        assert student.trained.counters.updates == 100


def test_the_best_checkpoint_is_published_without_scores_that_are_not_its_own(hub, tmp_path):
    run = write_student_run(tmp_path / "scored", ["cartpole"], SMALL, score=0.5)
    pushed = push(run, checkpoint="best")
    metadata = yaml.safe_load(pushed.card.split("---\n")[1])
    assert "model-index" not in metadata and "12.0" not in pushed.card
    assert_same(pd_jax.load_student("hf://me/student"), pd_jax.load_student(run, checkpoint="best"), "cartpole")


def test_a_folder_that_push_left_is_loaded_as_the_repository_is(one_game, tmp_path):
    out = tmp_path / "folder"
    pushed = push(one_game, out=str(out), send=False)
    assert contents(out) == dict(pushed.files) and pushed.outcome is None
    own = pd_jax.load_student(one_game)
    assert_same(pd_jax.load_student(out), own, "cartpole")
    assert_same(pd_jax.load_teacher(out), own, "cartpole")
    with pytest.raises(UserError, match="leave out --checkpoint best"):
        pd_jax.load_student(out, checkpoint="best")
    with pytest.raises(UserError, match="is what pd-jax push left; give the run itself"):
        push(out, send=False)


@pytest.mark.slow
def test_commands_take_the_address_where_they_take_a_run_or_a_teacher(hub, one_game, tmp_path, capfd):
    push(one_game)
    capfd.readouterr()
    address = "hf://me/student"
    succeed("evaluate", {"run": address, "out": tmp_path / "by-address"} | QUICK_EVALUATION)
    succeed("evaluate", {"run": one_game, "out": tmp_path / "by-run"} | QUICK_EVALUATION)
    scores = [json.loads((tmp_path / name / "summary.json").read_text())["games"] for name in ("by-address", "by-run")]
    assert scores[0] == scores[1]
    succeed("evaluate", {"teacher": address, "game": "cartpole"} | QUICK_EVALUATION)
    succeed("export", {"run": address, "out": tmp_path / "export", "evaluation.episodes": 0, "proof.frames": 200,
                       "evaluation.num-lanes": 2})  # fmt: skip
    lineage = json.loads((tmp_path / "export" / "lineage.json").read_text())
    assert [(parent["name"], parent["at"]) for parent in lineage["parents"]] == [(address, None)]
    start = {"student.network": "mlp", "student.mlp-hidden": 8, "init-from": address, "teacher": "cartpole"}
    quick = {"schedule.rounds": 1, "schedule.steps-per-round": 512, "schedule.updates-per-round": 2}
    lanes = {"env.num-lanes": 4, "schedule.rollout-length": 16}
    succeed("distill", start | quick | lanes | QUICK_EVALUATION | {"out": tmp_path / "next"})
    summary = json.loads((tmp_path / "next" / "summary.json").read_text())
    params = jax.tree.map(np.asarray, pd_jax.load_student(one_game).variables["params"])
    assert summary["init_from"]["parameters_sha256"] == pd_jax.teachers.files.params_fingerprint(params)
    assert summary["init_from"]["updates"] == 100


def test_a_dry_run_shows_the_card_and_the_files_and_asks_nobody(hub, one_game, capfd):
    assert main(["push", *options({"run": str(one_game), "to": "hf://me/student", "licence": "mit"})]) == 0
    out, err = capfd.readouterr()
    assert hub.requests == [] and err == ""
    assert out.startswith("---\nlicense: mit\n") and "## Limits" in out
    for name in NAMES:
        assert re.search(rf"^  {re.escape(name)} +[0-9.]+ kB$", out, re.MULTILINE), name
    assert out.rstrip().splitlines()[-1].startswith("hf://me/student: nothing was sent; ")


def test_the_token_is_nowhere_but_with_the_hub(hub, one_game, tmp_path, capfd, monkeypatch):
    given = {"run": str(one_game), "licence": "mit", "send": True, "out": str(tmp_path / "out")}
    assert main(["push", *options(given | {"to": "hf://me/student"})]) == 0
    said = [*capfd.readouterr()]
    # The hub itself echoes what it was sent.
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}x")
    said.append(refusal(capfd, "push", *options(given | {"to": "hf://me/other", "out": str(tmp_path / "no")})))
    assert "it does not know the token" in said[-1] and not (tmp_path / "no").exists()
    assert TOKEN not in "".join(said)
    written = [path for place in (tmp_path, one_game) for path in place.rglob("*") if path.is_file()]
    assert len(written) > 5 and not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert all(TOKEN.encode() not in body for body in hub.bodies)


def test_without_a_token_nothing_is_asked(hub, one_game, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"^send: there is no token: set HF_TOKEN, or log in with 'hf auth login'$"):
        push(one_game)
    assert hub.requests == []


def test_a_run_that_goes_on_is_the_same_student_and_another_is_refused(hub, one_game, tmp_path):
    push(one_game)
    first = hub.newest("me/student")
    # Trained on and scored again: other weights of the same settings.
    again = write_student_run(tmp_path / "one", ["cartpole"], SMALL, updates=200)
    pushed = push(again)
    assert not pushed.outcome.is_new and pushed.outcome.removed == ()
    assert len(hub.history["me/student"]) == 3 and hub.newest("me/student") != first
    other = write_student_run(tmp_path / "other", ["cartpole"], StudentConfig(network="mlp", mlp_hidden=(4,)))
    written = len(hub.written)
    with pytest.raises(UserError, match=r"^to: hf://me/student holds another student; choose another repository"):
        push(other)
    assert len(hub.written) == written and len(hub.history["me/student"]) == 3
    push(other, replace=True)
    assert_same(pd_jax.load_student("hf://me/student"), pd_jax.load_student(other), "cartpole")


def test_what_is_not_ours_is_left_alone_unless_it_is_to_be_replaced(hub, one_game):
    with pytest.raises(
        UserError, match=r"^to: hf://me/theirs holds something else \(README\.md, weights\.bin\); choose"
    ):
        push(one_game, "hf://me/theirs")
    assert hub.written == [] and hub.newest("me/theirs")["README.md"] == b"theirs"
    pushed = push(one_game, "hf://me/theirs", replace=True)
    assert pushed.outcome.removed == ("weights.bin",) and {*hub.newest("me/theirs")} == NAMES
    assert len(hub.history["me/theirs"]) == 2
    push(one_game, "hf://me/empty")
    assert {*hub.newest("me/empty")} == NAMES | {".gitattributes"}


def test_a_video_is_sent_and_one_that_is_gone_is_taken_away(hub, one_game, tmp_path):
    run = tmp_path / "one"
    shutil.copytree(one_game, run)
    video = b"\x00\x00\x00\x18ftypmp42" + b"frames" * 100
    (run / "video.mp4").write_bytes(video)
    pushed = push(run)
    assert hub.newest("me/student")["replay.mp4"] == video and "`replay.mp4` shows it at play" in pushed.card
    (run / "video.mp4").unlink()
    pushed = push(run)
    assert "replay.mp4" not in hub.newest("me/student") and "replay.mp4" not in pushed.card
    assert pushed.outcome.removed == ("replay.mp4",)
    (run / "video.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"video\.mp4: is no MP4 file"):
        push(run)


@pytest.mark.parametrize("where", ["whoami", "models/me", "create", "preupload", "batch", "/lfs/", "commit"])
@pytest.mark.parametrize("how", ["stalls", "fails"])
def test_a_hub_that_stalls_or_fails_at_any_step_is_given_up_and_nothing_is_half_sent(hub, one_game, where, how):
    setattr(hub, how, where)
    started = time.monotonic()
    with pytest.raises(UserError) as refused:
        push(one_game, timeout_seconds=0.5)
    assert time.monotonic() - started < 15
    message = str(refused.value)
    assert message.startswith(f"send: {hub.endpoint}, ") and "\n" not in message
    assert ("it said nothing for 0.5 s" if how == "stalls" else "it answered with 503") in message
    assert [*hub.newest("me/student")] == [".gitattributes"] if "me/student" in hub.history else True
    # Where a commit was asked for and not answered, only the hub knows.
    is_sent = where in ("preupload", "batch", "/lfs/", "commit")
    assert ("me/student" in hub.history) == is_sent
    assert message.endswith("nothing was sent") == (not is_sent)
    # All is as before for whoever uses the library next.
    hub.stalls = hub.fails = ""
    if not is_sent:
        push(one_game)
    else:
        push(one_game, timeout_seconds=20.0)
    assert {*hub.newest("me/student")} == NAMES | {".gitattributes"}


def test_a_hub_that_is_not_there_is_one_line(hub, one_game, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    point_to(monkeypatch, f"http://127.0.0.1:{port}")
    with pytest.raises(
        UserError, match=f"^send: http://127.0.0.1:{port}, asked who the token is of: it cannot be reach"
    ):
        push(one_game)


def test_what_was_changed_meanwhile_is_not_taken_away(hub, one_game, monkeypatch):
    push(one_game)
    listing = hub._listing

    def then_changed(path: str) -> Any:
        answer = listing(path)
        hub.history["me/student"].append(("f" * 40, {"new.bin": b"x"}))
        return answer

    monkeypatch.setattr(hub, "_listing", then_changed)
    with pytest.raises(UserError, match="me/student was changed meanwhile; push again"):
        push(one_game, replace=True)
    assert hub.newest("me/student") == {"new.bin": b"x"}


@pytest.mark.parametrize(
    ("to", "complaint"),
    [
        ("me/student", "to: 'me/student' is not of the form hf://owner/name"),
        ("hf://me", "to: 'hf://me' is not of the form hf://owner/name"),
        ("hf://me/a/b", "to: 'hf://me/a/b' is not of the form hf://owner/name"),
        ("hf://me/a@v1", "to: 'hf://me/a@v1' is not of the form hf://owner/name"),
        ("hf://../student", "'hf://../student' is not of the form hf://owner/repo"),
        ("hf://me/a--b", "'me/a--b' is no name of a repository: it has '--'"),
        ("hf://me/a.git", "'me/a.git' is no name of a repository: it has '--' or '..', or ends with '.git'"),
        ("hf://me/a.", "'me/a.' is no name of a repository: owner/name, of letters"),
    ],
)
def test_a_repository_that_cannot_be_is_one_line(hub, one_game, to, complaint):
    with pytest.raises(UserError) as refused:
        push(one_game, to)
    assert str(refused.value).startswith(complaint) and hub.requests == []


def test_who_may_not_write_there_is_told_and_nothing_is_made(hub, one_game):
    with pytest.raises(UserError, match="the token may not write to them/new"):
        push(one_game, "hf://them/new")
    assert "them/new" not in hub.history
    push(one_game, "hf://ours/new", private=True)
    assert hub.private == {"ours/new"}


def test_a_run_that_is_none_to_publish_is_one_line(one_game, tmp_path):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(one_game, unfinished)
    (unfinished / "summary.json").unlink()
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    ahead = write_student_run(tmp_path / "ahead", ["cartpole"], SMALL)
    told = json.loads((ahead / "summary.json").read_text())
    (ahead / "summary.json").write_text(json.dumps(told | {"updates": 50}))
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "config.yaml").write_text("# pd-jax train-teacher\ngame: cartpole\n")
    for given, complaint in (
        ({"run": unfinished}, f"{unfinished}: has not ended, and has no scores yet: it has no summary.json"),
        ({"run": tmp_path / "no"}, f"{tmp_path / 'no'}: is not a run directory: there is no such directory"),
        ({"run": ahead}, f"{ahead}: its scores are of 50 updates, and its newest checkpoint has 100; resume it"),
        ({"run": teacher}, f"{teacher}: is a run of pd-jax train-teacher; push publishes students"),
        ({"run": "hf://me/student"}, "run: 'hf://me/student' is an address; give a run's directory"),
        ({"out": str(full)}, f"{full}: is not empty (mine.txt); choose another --out"),
        ({"out": "hf://me/x"}, "out: 'hf://me/x' is an address; give a directory, and the address as --to"),
        ({"licence": None}, "licence: is that of the teachers, which is not one that the hub knows (not stated); say "),
        ({"licence": "Apache"}, "licence: 'Apache' is no identifier that the hub knows"),
    ):
        with pytest.raises(UserError) as refused:
            push(**{"run": one_game, "send": False, "out": str(tmp_path / "out")} | given)
        assert str(refused.value).startswith(complaint), refused.value
        assert not (tmp_path / "out").exists()
    assert contents(full) == {"mine.txt": b"mine"}


def test_settings_without_effect_are_refused(one_game, capfd):
    for name in ("replace", "private"):
        given = options({"run": str(one_game), "to": "hf://me/a", name: True})
        assert refusal(capfd, "push", *given) == f"pd-jax push: --{name}: is for what is sent; add --send"


# What others may have put there.


def altered(files: dict[str, bytes], name: str, content: bytes) -> dict[str, bytes]:
    """A publication with another file, whose hash says so."""
    found = json.loads(files[PUBLICATION_NAME])
    found["files"][name] = hashlib.sha256(content).hexdigest()
    return files | {name: content, PUBLICATION_NAME: json.dumps(found).encode()}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda files: files | {"model.safetensors": files["model.safetensors"][:-1]}, "damaged or cut short"),
        (lambda files: files | {"model.safetensors": b"\x80\x04\x95harmless."}, "not a pd_jax teacher"),
        (
            lambda files: files | {"config.yaml": files["config.yaml"] + b"\n"},
            "config.yaml is not the one that was pushed",
        ),
        (
            lambda files: altered(files, "config.yaml", files["config.yaml"].replace(b"- 8\n", b"- 9\n")),
            "model.safetensors: tensor",
        ),
        (
            lambda files: altered(files, "config.yaml", files["config.yaml"].replace(b"cartpole", b"acrobot")),
            "model.safetensors is a mlp for cartpole, and its config.yaml says mlp for acrobot",
        ),
        (
            lambda files: altered(files, "config.yaml", b"# pd-jax distill\na: &a [x]\nb: *a\n"),
            "alias *a is not allowed",
        ),
        (
            lambda files: altered(files, "config.yaml", b"# pd-jax distill\n!!python/object/apply:os.system [true]\n"),
            "tag",
        ),
        (lambda files: altered(files, "config.yaml", b"rm: -rf\n"), "does not begin with # pd-jax COMMAND"),
        (lambda files: files | {PUBLICATION_NAME: b"[" * 100_000}, f"{PUBLICATION_NAME}: is not JSON"),
        (lambda files: files | {PUBLICATION_NAME: b'{"format_version": 99, "games": []}'}, "is of a newer pd_jax"),
        (lambda files: files | {PUBLICATION_NAME: b"{}"}, "is nothing that pd-jax push made"),
        (
            lambda files: {name: files[name] for name in files if name != "config.yaml"},
            "holds no student that pd-jax push sent (no config.yaml)",
        ),
    ],
)
def test_a_repository_of_others_is_checked_before_it_is_used(hub, one_game, change, complaint):
    push(one_game)
    hub.history["me/student"].append(("d" * 40, change(dict(hub.newest("me/student")))))
    with pytest.raises(UserError) as refused:
        pd_jax.load_student("hf://me/student")
    message = str(refused.value)
    assert complaint in message and "\n" not in message and len(message) < 1000, message


def test_names_that_lead_elsewhere_are_none(hub, one_game, tmp_path):
    push(one_game)
    files = dict(hub.newest("me/student"))
    model = files.pop("model.safetensors")
    for name in ("../../harmless.safetensors", "/tmp/harmless.safetensors", "a\\..\\b.safetensors", "a//b.safetensors"):
        hub.history["me/student"].append(("d" * 40, files | {name: model}))
        with pytest.raises(UserError, match="has no file that is read"):
            pd_jax.load_teacher("hf://me/student")
    assert not [path for path in tmp_path.rglob("harmless*")]


@pytest.mark.parametrize("header", ["X-Repo-Commit", "ETag", "X-Linked-Etag"])
def test_tags_that_lead_elsewhere_are_refused(hub, one_game, tmp_path, header):
    push(one_game)
    hub.headers = {header: '"../../../harmless"' if "tag" in header.lower() else "../../../harmless"}
    for load in (pd_jax.load_student, pd_jax.load_teacher):
        with pytest.raises(UserError, match="which is no tag"):
            load("hf://me/student")
    assert not [path for path in tmp_path.rglob("harmless*")]


def test_files_that_are_too_large_are_not_fetched(hub, one_game):
    push(one_game)
    hub.headers = {"X-Linked-Size": str(2**25), "X-Linked-Etag": '"abc"'}
    with pytest.raises(UserError, match=r"has 33,554,432 bytes, more than any publication\.json"):
        pd_jax.load_student("hf://me/student")
    assert not [request for request in hub.requests if request.startswith("GET") and "/resolve/" in request]


def test_offline_a_student_that_was_fetched_is_used_again(hub, one_game, monkeypatch):
    push(one_game)
    pd_jax.load_student("hf://me/student")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert_same(pd_jax.load_student("hf://me/student"), pd_jax.load_student(one_game), "cartpole")
    assert hub.requests == []
    with pytest.raises(UserError, match=r"^send: HF_HUB_OFFLINE forbids it$"):
        push(one_game)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("hf://me/theirs", "holds no student that pd-jax push sent"),
        ("hf://me/nothing", "there is no repository me/nothing, or it is private"),
        ("hf://me/theirs/README.md", "names a file; a student is a repository: hf://me/theirs"),
        ("hf://me/theirs@v9", "me/theirs has no revision 'v9'"),
        ("hf://me", "is not of the form hf://owner/repo"),
    ],
)
def test_an_address_that_holds_no_student_is_one_line(hub, capfd, address, complaint):
    assert complaint in refusal(capfd, "evaluate", "--run", address)


# The card.


def test_the_card_is_the_hubs_own(one_game, two_games):
    for run, ids in ((one_game, ["CartPole-v1"]), (two_games, ["CartPole-v1", "Acrobot-v1"])):
        pushed = push(run, send=False)
        card = ModelCard(pushed.card)
        data = card.data
        assert (data.license, data.library_name, data.pipeline_tag) == (
            "apache-2.0",
            "pd-jax",
            "reinforcement-learning",
        )
        assert {"deep-reinforcement-learning", "reinforcement-learning", "policy-distillation", *ids} <= {*data.tags}
        results = data.eval_results
        assert [result.dataset_type for result in results] == ids
        for result, name in zip(results, ["cartpole", "acrobot"], strict=False):
            game = read_run(run).read_summary().games[name].student
            # Returns of these runs are given in `write_student_run`: two games, 2 apart.
            deviation = np.std([game.mean - 1, game.mean + 1], ddof=1)
            assert result.metric_value == f"{game.mean:.2f} +/- {deviation:.2f}"
            assert (result.task_type, result.metric_type, result.verified) == (
                "reinforcement-learning",
                "mean_reward",
                False,
            )
        index = yaml.safe_load(pushed.card.split("---\n")[1])["model-index"]
        name, parsed = model_index_to_eval_results(index)
        assert eval_results_to_model_index(name, parsed) == index


def test_the_cards_python_is_true(hub, one_game):
    pushed = push(one_game)
    (code,) = re.findall(r"```python\n(.*?)```", pushed.card, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["actions"].shape == (8,)
    assert_same(names["teacher"], names["student"], "cartpole")


def test_nothing_of_this_machine_is_in_what_is_sent(recorded_run_options, tmp_path):
    out = tmp_path / "a-run"
    teacher = tmp_path / "secret-place" / "my teacher.safetensors"
    teacher.parent.mkdir()
    shutil.copy(pd_jax.teachers.catalogue.bundled_files()["cartpole"], teacher)
    settings = recorded_run_options | QUICK_EVALUATION | {"out": out, "teacher": str(teacher)}
    succeed("distill", settings | {"schedule.rounds": 1})
    pushed = push(out, send=False, licence=None)
    for content in pushed.files.values():
        assert b"secret-place" not in content and str(tmp_path).encode() not in content
    config = yaml.safe_load(pushed.files["config.yaml"])
    assert (config["out"], config["teacher"], config["data"]) == ("runs/a-run", "my teacher.safetensors", "cartpole")
    # The very teacher, from its file: it is described, and its licence is the student's.
    assert ModelCard(pushed.card).data.license == "apache-2.0"
    assert "cartpole-mlp" in pushed.card and "trained by pqn" in pushed.card


def test_names_that_are_markup_stay_text(tmp_path):
    name = "<script>alert(1)</script>|*b*"
    run = write_student_run(tmp_path / "run", ["cartpole"], SMALL)
    told = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(told | {"teacher": name}))
    text = push(run, send=False).card
    assert "<script>" not in text and "&lt;script&gt;alert\\(1\\)&lt;/script&gt;\\|\\*b\\*" in text
    assert COMMIT not in text
