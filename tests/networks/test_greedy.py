"""Policies of networks, asked for outputs from outside of jit. Actions and refusals are tested with their students."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from support.platforms import TracedPolicy, make_tpu_the_default


def test_outputs_are_computed_as_suits_the_device_of_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    make_tpu_the_default(monkeypatch)
    told = TracedPolicy()
    teacher = told.teacher()
    told.platforms.clear()
    observations = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(teacher.outputs(observations), [[1.0, 1.0]])
    assert told.platforms == {"tpu"}
    teacher.variables = jax.device_put(teacher.variables, jax.devices("cpu")[0])
    np.testing.assert_array_equal(teacher.outputs(observations), [[1.0, 1.0]])
    assert told.platforms == {"tpu", "cpu"}
