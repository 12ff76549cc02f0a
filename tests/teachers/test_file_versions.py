"""Versions 4 and 5 of the teacher file: what they hold is read back, and is of no version before."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pd_jax.cli import main
from pd_jax.errors import UserError
from pd_jax.teachers import load
from pd_jax.teachers.checks import build_network
from pd_jax.teachers.files import read_teacher, save_teacher
from pd_jax.teachers.metadata import TeacherMetadata, to_fields
from support.commands import refusal as refusal_of_command
from support.commands import write_teacher
from support.teacher_files import (
    INVENTORY,
    METADATA,
    PARAMS,
    STATISTICS,
    assert_same_params,
    new,
    refusal,
    teacher_file,
    with_metadata,
)

__all__ = ["teacher_file"]

NAMES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8).filter(
    lambda n: n != "observation"
)
FINITE = st.floats(-1e30, 1e30)


@st.composite
def normalised(draw, shape):
    """Statistics of an observation, in numbers or in lists of its shape."""

    def filled(values):
        lists = np.asarray(draw(st.lists(values, min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))))
        return lists.reshape(shape).tolist()

    mean = draw(FINITE) if draw(st.booleans()) else filled(FINITE)
    variance = draw(st.floats(0, 1e30)) if draw(st.booleans()) else filled(st.floats(0, 1e30))
    return {"mean": mean, "variance": variance, "count": draw(st.integers(1, 2**63 - 1) | st.floats(1e-4, 1e18))}


@st.composite
def of_version_4(draw):
    """Changes to the metadata that take version 4, and those that happen not to."""
    shapes = draw(st.dictionaries(NAMES, st.lists(st.integers(1, 3), min_size=1, max_size=3), max_size=3))
    observations = {name: {"kind": "vector", "shape": shape, "dtype": "float32"} for name, shape in shapes.items()}
    for specification in observations.values():
        specification.update(draw(st.sampled_from([{}, {"frame_stack": 4}, {"grey": False, "scaling": "1/255"}])))
    shapes = shapes | {"observation": [4]}
    of = draw(st.lists(st.sampled_from(sorted(shapes)), unique=True))
    return {
        "observation": {"kind": "vector", "shape": [4], "dtype": "float32"},
        "observations": observations,
        "normalisation": {name: draw(normalised(shapes[name])) for name in of},
        "evaluation": METADATA.evaluation | draw(st.sampled_from([{}, {"protocol": "no-op starts"}])),
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=of_version_4())
def test_what_version_4_holds_is_read_back_and_other_teachers_stay_in_version_2(tmp_path, changes):
    metadata = dataclasses.replace(METADATA, **changes)
    save_teacher(tmp_path / "t", PARAMS, metadata)
    params, read = read_teacher(tmp_path / "t")
    assert_same_params(params, PARAMS)
    is_new = changes["observations"] or changes["normalisation"] or "protocol" in changes["evaluation"]
    assert read == dataclasses.replace(metadata, format_version=4 if is_new else 2)
    once = (tmp_path / "t").read_bytes()
    save_teacher(tmp_path / "t", params, read)
    assert (tmp_path / "t").read_bytes() == once


def test_a_plain_teacher_has_the_fields_that_it_had_in_version_2():
    # As files were written before there was version 4, in their order.
    fields = (
        "format_version name game env_id network layer_norm hidden_sizes activation support num_actions action_names "
        "observation output algorithm env_steps seed training_config evaluation learning_curve how_made "
        "source_format source_sha256 licence created pd_jax_version"
    )
    assert list(to_fields([METADATA])) == fields.split()


APPLIED = {"observation": {"mean": 0.5, "variance": [1.0] * 4, "count": 9, "epsilon": 1e-8, "clip": 10.0}}


@pytest.mark.parametrize(
    "changes",
    [
        {"normalisation": APPLIED},
        {"normalisation": {"observation": {"mean": 0, "variance": 1, "count": 1, "epsilon": 0}}},
        {"network": "dqn", "hidden": 256},
        {"network": "dqn", "head_sizes": (32, 16), "activation": "tanh"},
        *({"activation": name} for name in ("elu", "leaky_relu", "silu", "gelu")),
    ],
)
def test_what_version_5_holds_is_read_back_and_is_none_of_version_4(tmp_path, changes):
    observation = {"observation": {"kind": "vector", "shape": [4], "dtype": "float32"}}
    metadata = dataclasses.replace(METADATA, **(observation | changes))
    save_teacher(tmp_path / "t", PARAMS, metadata)
    assert read_teacher(tmp_path / "t")[1] == dataclasses.replace(metadata, format_version=5)
    assert metadata.untrainable != "" and METADATA.untrainable == ""
    with_metadata(tmp_path / "t", format_version=4)
    with pytest.raises(UserError, match=r"is not a field|not 'relu' or 'tanh'"):
        read_teacher(tmp_path / "t")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalisation": {"observation": APPLIED["observation"] | {"clip": -1}}}, "clip is -1, not a number above 0"),
        (
            {"normalisation": {"observation": APPLIED["observation"] | {"epsilon": None}}},
            "epsilon is None, not a number",
        ),
        ({"hidden": 0}, "hidden is 0, not a whole number"),
        ({"head_sizes": [0]}, "head_sizes is [0], not a list of whole numbers"),
        ({"activation": "mish"}, "activation is 'mish', not one of relu, tanh, elu"),
        ({"observation": {"kind": "vector", "shape": [3], "dtype": "float32"}}, "variance is [1.0, 1.0, 1.0, 1.0]"),
    ],
)
def test_wrong_fields_of_version_5_are_named(tmp_path, changes, message):
    observation = {"kind": "vector", "shape": [4], "dtype": "float32"}
    save_teacher(tmp_path / "t", PARAMS, dataclasses.replace(METADATA, observation=observation, normalisation=APPLIED))
    with_metadata(tmp_path / "t", **changes)
    assert message in refusal(tmp_path / "t")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (new(observatoins={}), "metadata: 'observatoins' is not a field; did you mean 'observation"),
        (new([]), "metadata: observations is [], not an object of at most 64 fields"),
        (new({str(i): INVENTORY for i in range(65)}), "metadata: observations is {'0': "),
        (new({"": INVENTORY}), "metadata: observations: '' is not a short printable name"),
        (new({"\x1b[2J": INVENTORY}), r"metadata: observations: '\x1b[2J' is not a short printable name"),
        (new({"observation": INVENTORY}), "metadata: observations: 'observation' is the name of the main one"),
        (new({"map": 3}), "metadata: observations: map is 3, not an object"),
        (new({"map": {"kind": "atari", "dtype": "uint8"}}), "metadata: observations: map: shape is missing"),
        (
            new({"map": INVENTORY | {"shpae": [3]}}),
            "metadata: observations: map: 'shpae' is not a field; did you mean 's",
        ),
        (new({"map": INVENTORY | {"kind": "text"}}), "metadata: observations: map: kind is 'text', not 'atari' or"),
        (new({"map": INVENTORY | {"dtype": []}}), "metadata: observations: map: dtype is [], not 'uint8' or 'float32'"),
        (new({"map": INVENTORY | {"shape": []}}), "metadata: observations: map: shape is [], not a list of 1 to 8"),
        (new({"map": INVENTORY | {"shape": [True]}}), "metadata: observations: map: shape is [True], not a list of 1"),
        (new({"map": INVENTORY | {"shape": [2] * 9}}), "metadata: observations: map: shape is [2, 2, 2, 2, 2, 2, ...]"),
        (new({"map": INVENTORY | {"shape": [60000] * 2}}), "metadata: observations: map: shape is [60000, 60000], not"),
        (new({"map": INVENTORY | {"frame_stack": 0}}), "metadata: observations: map: frame_stack is 0, not a whole"),
        (new({"map": INVENTORY | {"scaling": "\n"}}), r"metadata: observations: map: scaling is '\n', not a short"),
        (new(normalisation=[3]), "metadata: normalisation is [3], not an object"),
        (
            new(normalisation={"inventroy": STATISTICS}),
            "metadata: normalisation: 'inventroy' is not an observation; did you mean 'inventory'?",
        ),
        (new(normalisation={"inventory": 1}), "metadata: normalisation: inventory is 1, not an object"),
        (
            new(normalisation={"inventory": STATISTICS | {"std": 1}}),
            "metadata: normalisation: inventory: 'std' is not a field",
        ),
        (new(normalisation={"inventory": {"mean": 0}}), "metadata: normalisation: inventory: variance is missing"),
        (
            new(normalisation={"inventory": STATISTICS | {"mean": [0.0]}}),
            "metadata: normalisation: inventory: mean is [0.0], not a finite number, or lists of them in the shape [2]",
        ),
        (
            new(normalisation={"inventory": STATISTICS | {"mean": [[0.0, 0.0]]}}),
            "metadata: normalisation: inventory: mean is [[0.0, 0.0]], not",
        ),
        (
            new(normalisation={"inventory": STATISTICS | {"mean": [0, True]}}),
            "metadata: normalisation: inventory: mean is [0, True], not",
        ),
        (
            new(normalisation={"inventory": STATISTICS | {"mean": 1e39}}),
            "metadata: normalisation: inventory: mean is 1e+39, not a finite number",
        ),
        (
            new(normalisation={"inventory": STATISTICS | {"variance": [1, -1]}}),
            "metadata: normalisation: inventory: variance is [1, -1], not a finite number >= 0, or lists",
        ),
        (
            new(normalisation={"inventory": STATISTICS | {"count": 0}}),
            "metadata: normalisation: inventory: count is 0, not a number above 0 and below 2^63",
        ),
        (
            new(normalisation={"observation": STATISTICS}),
            "metadata: normalisation: observation: mean is [0.0, 1.0], not a finite number, or lists of them in the "
            "shape [84, 84, 4]",
        ),
        (
            new(evaluation=METADATA.evaluation | {"protocol": ""}),
            "metadata: evaluation: protocol is '', not a short printable text",
        ),
        (
            new(evaluation=METADATA.evaluation | {"protocl": "no-op starts"}),
            "metadata: evaluation: 'protocl' is not a field; did you mean 'protocol'?",
        ),
    ],
)
def test_wrong_fields_of_version_4_are_named_and_not_written(teacher_file, tmp_path, changes, message):
    with_metadata(teacher_file, format_version=4, **changes)
    assert refusal(teacher_file).startswith(message)
    if changes.keys() <= {field.name for field in dataclasses.fields(TeacherMetadata)}:
        with pytest.raises(ValueError) as caught:
            save_teacher(tmp_path / "new", PARAMS, dataclasses.replace(METADATA, **changes))
        assert str(caught.value).startswith(message)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("field", ["observations", "normalisation"])
@pytest.mark.parametrize("nothing", [None, [], 0, ""])
def test_nothing_of_another_type_is_not_taken_for_no_observations(tmp_path, field, nothing):
    with pytest.raises(ValueError, match=f"metadata: {field} is "):
        save_teacher(tmp_path / "t", PARAMS, dataclasses.replace(METADATA, **{field: nothing}))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("field", ["observations", "normalisation"])
def test_fields_of_version_4_are_none_of_the_versions_before(teacher_file, version, field):
    with_metadata(teacher_file, format_version=version, **{field: {}})
    assert refusal(teacher_file).startswith(f"metadata: {field!r} is not a field")


def test_the_versions_before_let_an_evaluation_say_more(teacher_file):
    evaluation = METADATA.evaluation | {"protocol": {"starts": "no-op"}}
    with_metadata(teacher_file, evaluation=evaluation)
    assert read_teacher(teacher_file)[1].evaluation == evaluation


def test_statistics_that_no_reader_would_take_are_not_written(tmp_path):
    shape = [2**9, 2**9]
    many = np.full(shape, 1.2345678901234567).tolist()
    names = ("a", "b", "c")
    metadata = dataclasses.replace(
        METADATA,
        observations={name: INVENTORY | {"shape": shape} for name in names},
        normalisation={name: {"mean": many, "variance": many, "count": 1} for name in names},
    )
    with pytest.raises(ValueError, match="metadata: takes more than 16777216 bytes"):
        save_teacher(tmp_path / "t", PARAMS, metadata)
    wide = [2**9, 2**9 + 1]
    metadata = dataclasses.replace(
        METADATA,
        observations={"a": INVENTORY | {"shape": wide}},
        normalisation={"a": {"mean": np.zeros(wide).tolist(), "variance": 1, "count": 1}},
    )
    with pytest.raises(ValueError, match="normalisation: a: mean is "):
        save_teacher(tmp_path / "t", PARAMS, metadata)
    assert not os.listdir(tmp_path)


NEEDS = [
    ({"observations": {"inventory": INVENTORY}}, "the further observations ['inventory']"),
    (
        {"normalisation": {"observation": {"mean": 0, "variance": 1, "count": 9}}},
        "frozen normalisation of ['observation']",
    ),
    (
        {"observations": {"inventory": INVENTORY}, "normalisation": {"inventory": STATISTICS}},
        "the further observations ['inventory'] and frozen normalisation of ['inventory']",
    ),
]


@pytest.mark.parametrize(("changes", "needs"), NEEDS)
def test_a_teacher_that_needs_what_cannot_be_applied_is_shown_and_not_used(tmp_path, capfd, changes, needs):
    path = write_teacher(tmp_path / "t.safetensors", "cartpole", **changes)
    message = f"needs {needs}, which this pd_jax cannot apply: upgrade pd_jax"
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: {message}"
    with pytest.raises(UserError) as caught:
        build_network(read_teacher(path)[1])
    assert str(caught.value) == message
    for argv in (["evaluate", "--teacher", str(path)], ["teachers", "show", str(path), "--states", "10"]):
        assert refusal_of_command(capfd, *argv).endswith(message)
    assert main(["teachers", "show", str(path)]) == 0
    shown = capfd.readouterr().out
    assert ("inventory" in shown) == ("inventory" in needs)
    assert ("of 9 observations" in shown or "of 100 observations" in shown) == ("normalisation" in needs)


def test_a_protocol_is_shown_and_keeps_no_teacher_from_use(tmp_path, capfd):
    path = write_teacher(
        tmp_path / "t.safetensors", "cartpole", evaluation=METADATA.evaluation | {"protocol": "human starts"}
    )
    assert load(path).metadata.format_version == 4
    assert main(["teachers", "show", str(path)]) == 0
    assert "over 30 episodes under human starts; ε = 0.05" in capfd.readouterr().out
