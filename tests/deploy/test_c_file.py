"""C headers against the networks that they are written from, and what becomes of files that are none."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import pd_jax
from pd_jax.config.export import ExportConfig, ExportEvaluationConfig
from pd_jax.deploy import c_file
from pd_jax.deploy.c_file import CPolicy, header_text, prefix_of
from pd_jax.deploy.export import FORMATS, _check_names, _File
from pd_jax.deploy.layers import Dense, layers_of
from pd_jax.deploy.quantised import calibrated, quantised
from pd_jax.deploy.runtime import AlteredPolicyError, FramesError, NotAPolicyError
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.teachers.function import from_function
from support.c_compiler import QUICK, compile_program, needs_compiler, text_and_constants
from support.commands import contents, refusal, succeed
from support.policies import metadata_of, random_observations, random_student, random_teacher

pytestmark = needs_compiler
SMALL = {"channels": (4, 6, 8), "hidden": 16}
NORMALISED = {
    "normalisation": {
        "observation": {
            "mean": [1e6, 0.0, -1.0, 0.5],
            "variance": [1.0, 4.0, 0.1, 2.0],
            "count": 10,
            "epsilon": 1e-8,
            "clip": 1.5,
        }
    }
}
VECTOR: dict[str, dict[str, Any]] = {
    **{name: {"activation": name} for name in ("relu", "tanh", "elu", "leaky_relu", "silu", "gelu")},
    "normalised layers": {"layer_norm": True},
    "normalised observations": NORMALISED,
    "no layers": {"hidden_sizes": ()},
}
FRAMES: dict[str, dict[str, Any]] = {
    "net3, normalised": {"network": "net3", "layer_norm": True},
    "net3, deep head": {"network": "net3", "head_sizes": (16, 8), "activation": "tanh"},
}


def written(policy: GreedyPolicy, directory: Path, *, int8: bool = False) -> Path:
    """The header of a policy, with ranges of random observations if it is one of integers."""
    task, layers = policy.task, layers_of(policy)
    path = directory / f"{task.name}{'_int8' if int8 else ''}.h"
    network: Any = layers
    if int8:
        network = quantised(calibrated(layers, task, random_observations(task, 16), 100.0), task)
    path.write_text(header_text(network, task, metadata_of(task)))
    return path


def check_equal(policy: GreedyPolicy, path: Path) -> None:
    file, observations = CPolicy(path, flags=QUICK), random_observations(policy.task, 3)
    if policy.task.kind == "vector":
        observations[:, 0] += 1e6 if getattr(policy, "metadata", None) and policy.metadata.normalisation else 0.0
    wanted = np.asarray(policy.outputs(observations))
    assert wanted.std() > 1e-3
    outputs, actions = file.decide(observations)
    np.testing.assert_allclose(outputs, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(actions, outputs.argmax(axis=1))
    assert outputs.dtype == np.float32 and actions.dtype == np.int32
    np.testing.assert_array_equal(file.outputs(observations[:1]), outputs[:1])


@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_answered_as_jax_answers_them(name: str, tmp_path: Path) -> None:
    policy = random_teacher("pong", **FRAMES[name])
    check_equal(policy, written(policy, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("network", ["net2", "dqn", "dqn_same", "impala_torch", "impala_flax"])
def test_larger_networks_are_answered_as_jax_answers_them(network: str, tmp_path: Path) -> None:
    support = {"support": (-10.0, -2.5, 0.0, 1.0, 7.0)} if network == "dqn_same" else {}
    policy = random_teacher("pong", network=network, **support)
    check_equal(policy, written(policy, tmp_path))


@pytest.mark.parametrize("name", VECTOR)
def test_vectors_are_answered_as_jax_answers_them(name: str, tmp_path: Path) -> None:
    policy = random_teacher("cartpole", **{"network": "mlp", "hidden_sizes": (18, 5), **VECTOR[name]})
    check_equal(policy, written(policy, tmp_path))


def test_each_game_of_a_student_has_its_own_head_and_actions(tmp_path: Path) -> None:
    student = random_student(("breakout", "freeway"), network="multi10", **SMALL, head_hidden=8)
    for game in student.games:
        policy = student.for_game(game)
        check_equal(policy, written(policy, tmp_path))


def test_of_equals_the_first_is_chosen(tmp_path: Path) -> None:
    task = get_task("acrobot")
    # Kernel 0: outputs are the biases.
    for bias, wanted in (([1.0, 1.0, 1.0], 0), ([0.0, 2.0, 2.0], 1), ([-3.0, -4.0, -2.0], 2)):
        layer = Dense(np.zeros((6, 3), np.float32), np.array(bias, np.float32))
        (tmp_path / "a.h").write_text(header_text([layer], task, metadata_of(task)))
        outputs, actions = CPolicy(tmp_path / "a.h", flags=QUICK).decide(np.ones((1, 6), np.float32))
        assert outputs.tolist() == [bias] and actions.tolist() == [wanted]


def test_headers_of_both_precisions_are_one_program_in_c_and_in_cpp(tmp_path: Path) -> None:
    policy = random_teacher("cartpole", network="mlp", hidden_sizes=(16, 16))
    paths = [written(policy, tmp_path, int8=int8) for int8 in (False, True)]
    seen = random_observations(policy.task, 1)
    wanted = [int(CPolicy(path, flags=QUICK).act(seen)[0][0]) for path in paths]
    shown = ", ".join(f"{value:.9g}" for value in seen[0].tolist())
    program = f"""#include "cartpole.h"
#include "cartpole_int8.h"
int main(void) {{
  const float x[CARTPOLE_OBSERVATION] = {{{shown}}};
  float y[CARTPOLE_INT8_ACTIONS];
  return 10 * cartpole_act(x, y) + cartpole_int8_act(x, y);
}}
"""
    for name, command, flags in (
        ("both.c", None, ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror")),
        ("both.cc", "c++", ("-std=c++11", "-O2", "-Wall", "-Wextra", "-Werror")),
    ):
        if command and shutil.which(command) is None:
            continue
        (tmp_path / name).write_text(program)
        assert (
            subprocess.run([compile_program(tmp_path / name, flags, command)]).returncode == 10 * wanted[0] + wanted[1]
        )


@pytest.mark.parametrize("int8", [False, True])
def test_a_file_says_what_it_is_and_is_the_same_for_the_same_policy(int8: bool, tmp_path: Path) -> None:
    policy = random_teacher("cartpole", network="mlp", hidden_sizes=(5,))
    path = written(policy, tmp_path, int8=int8)
    said = metadata_of(policy.task) | {"licence": "*/ /* \\ ??/ Ä \n"}
    text = path.read_text()
    assert CPolicy(path, flags=QUICK).metadata == metadata_of(policy.task)
    (tmp_path / "odd.h").write_text(header_text(layers_of(policy), policy.task, said))
    assert CPolicy(tmp_path / "odd.h", flags=QUICK).metadata == said
    assert text == written(policy, tmp_path, int8=int8).read_text()
    last = text.rsplit("\n", 2)[1]
    assert hashlib.sha256(text.removesuffix(f"{last}\n").encode()).hexdigest() in last
    assert set(re.findall(r"#include <(.*)>", text)) == {"math.h", "stdint.h", "string.h"}


def test_frames_of_another_shape_or_dtype_are_refused(tmp_path: Path) -> None:
    file = CPolicy(written(random_teacher("cartpole"), tmp_path), flags=QUICK)
    for frames in (np.zeros((2, 5), np.float32), np.zeros(4, np.float32), np.zeros((2, 4))):
        with pytest.raises(FramesError, match=r"takes float32 \[N, 4\]$"):
            file.decide(frames)


def test_each_byte_that_is_another_one_is_found_before_anything_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(random_teacher("cartpole", network="mlp", hidden_sizes=(5,)), tmp_path)
    whole = path.read_bytes()
    monkeypatch.setattr(c_file.subprocess, "run", lambda *_, **__: pytest.fail("it was compiled"))
    generator = np.random.default_rng(0)
    first = whole.index(b"\n")
    for place in [*generator.integers(first, len(whole), 40), len(whole) - 1, len(whole) - 20]:
        altered = bytearray(whole)
        altered[place] ^= 1
        path.write_bytes(altered)
        with pytest.raises(AlteredPolicyError, match="take another copy"):
            CPolicy(path)
    for cut in (whole[:-1], whole[: len(whole) // 2], whole + b"\n"):
        path.write_bytes(cut)
        with pytest.raises(AlteredPolicyError):
            CPolicy(path)
    for other in (b"", b"int main(void) { return 0; }\n"):
        path.write_bytes(other)
        with pytest.raises(NotAPolicyError, match="is no policy"):
            CPolicy(path)
    with pytest.raises(NotAPolicyError, match="is not a file"):
        CPolicy(tmp_path)


def test_names_are_such_as_c_takes() -> None:
    assert prefix_of("pong") == "pong" and prefix_of("ms_pacman_int8") == "ms_pacman_int8"
    assert prefix_of("my-game.v5") == "my_game_v5"
    assert prefix_of("2048") == "game_2048" and prefix_of("_x") == "game_x" and prefix_of("é") == "game_"


def test_a_header_of_a_name_that_is_none_of_c_compiles(tmp_path: Path) -> None:
    policy = random_teacher("cartpole", network="mlp", hidden_sizes=(5,))
    text = header_text(layers_of(policy), policy.task, metadata_of(policy.task), prefix=prefix_of("9 lives-v1"))
    (tmp_path / "odd.h").write_text(text)
    file = CPolicy(tmp_path / "odd.h", flags=QUICK)
    assert file.prefix == "game_9_lives_v1"
    seen = random_observations(policy.task, 4)
    np.testing.assert_allclose(file.outputs(seen), policy.outputs(seen), rtol=1e-4, atol=1e-5)


def test_files_of_two_games_may_not_have_one_name() -> None:
    _check_names([_File("c", "float32", "pong.h"), _File("c", "int8", "pong_int8.h"), _File("onnx", "int8", "a.onnx")])
    for names, called in ((("pong_int8.h", "pong_int8.h"), "pong_int8.h"), (("a-b.h", "a_b.h"), "a_b")):
        with pytest.raises(UserError, match=f"would be called {called}; export one of them alone$"):
            _check_names([_File("c", "float32", name) for name in names])


def test_what_c_cannot_say_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function = from_function(lambda seen: jnp.zeros((len(seen), 2)), kind="q", game="cartpole", fingerprint="zeros")
    half = random_student(("pong",), network="net3", compute_dtype="bfloat16")
    for policy, why in ((function, "is a function"), (half, "computes in bfloat16")):
        with pytest.raises(UserError, match=rf"{why}.*; stablehlo takes it$"):
            FORMATS["c"].check(policy)
    task = get_task("cartpole")
    with pytest.raises(UserError, match="a weight is not a finite number"):
        header_text([Dense(np.full((4, 2), np.nan, np.float32), np.zeros(2, np.float32))], task, metadata_of(task))
    path = written(random_teacher("cartpole", network="mlp", hidden_sizes=(5,)), tmp_path)
    with pytest.raises(UserError, match=r"^format: .* does not compile the header: .*error"):
        CPolicy(path, flags=("-std=c99", "-Dcartpole_act=1+"))


def test_without_a_compiler_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = ["export", "--teacher", "cartpole", "--format", "c", "--out", str(tmp_path / "out")]
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    told = "there is no no-such-compiler: install one, or set CC"
    assert refusal(capfd, *argv) == f"pd-jax export: format: c is proven by a C compiler, and {told}"
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refusal(capfd, *argv).endswith("there is no cc: install one, or set CC")
    assert contents(tmp_path) == {}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CartPole's bundled teacher as C in both precisions. Not to be written to."""
    out = tmp_path_factory.mktemp("exported") / "out"
    few = {"proof.frames": 50, "evaluation.episodes": 4, "evaluation.num-lanes": 4, "calibration.frames": 200}
    games = {"evaluation.max-episode-steps": 60, "format": ["c"], "precision": ["float32", "int8"]}
    succeed("export", few | games | {"teacher": "cartpole", "out": out})
    return out


def test_an_export_in_c_is_proven_and_tested_by_a_program_beside_it(exported: Path, tmp_path: Path) -> None:
    names = {"cartpole.h", "cartpole_test.c", "cartpole_int8.h", "cartpole_int8_test.c"}
    assert {path.name for path in exported.iterdir()} == names | {"export.json", "lineage.json"}
    report = json.loads((exported / "export.json").read_text())["games"]["cartpole"]
    directory = tmp_path / "copy"
    shutil.copytree(exported, directory)
    for key, stem in (("c", "cartpole"), ("c_int8", "cartpole_int8")):
        entry, header = report["files"][key], directory / f"{stem}.h"
        assert entry["frames"]["frames"] == 50 and entry["games"]["episodes"] == 4
        assert entry["test"]["vectors"] == 64 and entry["test"]["file"] == f"{stem}_test.c"
        for told in (entry, entry["test"]):
            assert told["sha256"] == hashlib.sha256((exported / told["file"]).read_bytes()).hexdigest()
        program = compile_program(directory / f"{stem}_test.c")
        ended = subprocess.run([program], text=True, capture_output=True)
        assert (ended.returncode, ended.stdout) == (0, "64 vectors are answered as they should be\n")
        # One weight more or less is found.
        text = header.read_text()
        kind = "float" if key == "c" else "int32_t"
        first = re.search(rf"static const {kind} \w+\[2\] = {{\n(-?[\d.e-]+),", text)
        assert first is not None
        altered = float(first[1]) + 1000 if key == "c" else int(first[1]) + 100_000
        header.write_text(f"{text[: first.start(1)]}{altered}{text[first.end(1) :]}")
        ended = subprocess.run([compile_program(directory / f"{stem}_test.c")], text=True, capture_output=True)
        assert ended.returncode == 1 and "vector 0: output 0 is" in ended.stdout
    assert report["files"]["c"]["frames"]["share_of_equal_actions"] == 1.0
    assert "quantisation" not in report["files"]["c"]
    said = report["files"]["c_int8"]["quantisation"]
    assert (said["bits"], said["by"], said["frames"]) == (8, "calibration", 200) and len(said["ranges"]) == 3
    assert CPolicy(exported / "cartpole_int8.h").metadata == report["policy"] | {"quantisation": said}
    assert CPolicy(exported / "cartpole.h").metadata == report["policy"]


def test_an_export_in_c_is_made_again_in_its_own_directory(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    settings = json.loads((out / "export.json").read_text())["settings"]
    evaluation = ExportEvaluationConfig(episodes=4, num_lanes=4, max_episode_steps=60)
    config = pd_jax.ExportConfig(
        teacher="cartpole",
        format=("c",),
        precision=("float32", "int8"),
        out=str(out),
        resume=True,
        evaluation=evaluation,
    )
    assert isinstance(config, ExportConfig) and settings["precision"] == ["float32", "int8"]
    with pytest.raises(UserError, match="holds an export of other settings"):
        pd_jax.run_export(config)
    (out / "cartpole_other.c").write_text("mine")
    with pytest.raises(UserError, match=r"holds more than an export \(cartpole_other.c\)"):
        pd_jax.run_export(config)


@pytest.mark.parametrize("flags", [(), ("-DPOLICY_INT8",)])
def test_a_c_program_balances_cartpole_through_a_pipe(flags: tuple[str, ...], exported: Path, tmp_path: Path) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    source = tmp_path / "pipe.c"
    shutil.copy(Path(__file__).parents[2] / "docs" / "cartpole_pipe.c", source)
    program = compile_program(source, ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{exported}", *flags))
    environment = gymnasium.make("CartPole-v1")
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        for seed in range(2):
            observation, _ = environment.reset(seed=seed)
            steps, ended = 0, False
            while not ended:
                process.stdin.write(" ".join(f"{value:.9g}" for value in observation.tolist()) + "\n")
                process.stdin.flush()
                observation, _, terminated, truncated, _ = environment.step(int(process.stdout.readline()))
                steps, ended = steps + 1, terminated or truncated
            assert steps == 500
        process.stdin.close()
    assert process.returncode == 0


@pytest.mark.skipif(shutil.which("size") is None, reason="there is no `size`")
def test_small_policies_fit_where_they_are_put_to_work(tmp_path: Path) -> None:
    net3 = random_teacher("pong", network="net3")
    student = random_student(("cartpole",), network="mlp", mlp_hidden=(16, 16))
    for policy, int8, limit in ((net3, True, 80_000), (student, False, 4_096), (student, True, 4_096)):
        header = written(policy, tmp_path, int8=int8)
        kind = "const uint8_t" if policy.task.kind == "atari" else "const float"
        call = f"int act({kind} *x, float *y) {{ return {header.stem}_act(x, y); }}\n"
        (tmp_path / "sized.c").write_text(f'#include "{header.name}"\n{call}')
        assert text_and_constants(tmp_path / "sized.c") <= limit, (policy.name, int8)
