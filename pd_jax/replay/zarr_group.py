"""``zarr.json`` at the top of a recording: what zarr-python, xarray and others open the directory by.

pd_jax itself goes by ``dataset.json`` and reads no ``zarr.json`` but those of the arrays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from pd_jax.replay.header import DatasetHeader


def dump_group(header: DatasetHeader, arrays: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Returns the bytes of a zarr v3 group with what a recording holds among its attributes.

    The metadata of the arrays are in it once more, in the form that zarr-python calls consolidated. There the arrays
    are as long as the recording is whole, and not as long as planned: what is not recorded yet would read as zeros.

    Args:
      header: of the recording, with the ``steps`` that are whole.
      arrays: the ``zarr.json`` of each array, by name.
    """
    metadata = {
        name: {
            **array,
            "shape": [header.steps, *array["shape"][1:]],
            # Recordings of old name two dimensions, and xarray wants names for all.
            "dimension_names": dimension_names(header, name),
        }
        for name, array in arrays.items()
    }
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": _attributes(header),
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": metadata},
    }
    return json.dumps(group, indent=1, allow_nan=False, default=lambda value: np.asarray(value).item()).encode()


def dimension_names(header: DatasetHeader, array: str) -> list[str]:
    """Names for the dimensions of an array of a recording, such as ``["time", "lane", "action"]``."""
    shape, _ = header.layouts()[array]
    if array == "teacher_q":
        own = ["action"]
    else:
        # No other shape has a task of pd_jax.
        known = {0: [], 1: ["feature"], 2: ["height", "width"]}
        own = known.get(len(shape)) or [f"observation_{axis}" for axis in range(len(shape))]
    return ["time", "lane", *own]


def _attributes(header: DatasetHeader) -> dict[str, Any]:
    return {
        "whole_steps": header.steps,
        "planned_steps": header.planned_steps,
        "complete": header.complete,
        "game": header.task,
        "env_id": header.env_id,
        "protocol": {"epsilon": header.epsilon, **header.environment},
        "seed": header.seed,
        "teacher": header.teacher,
        "teacher_fingerprint": header.teacher_fingerprint,
        "teacher_output": header.teacher_output,
        "teacher_score": header.teacher_score,
        "recording_id": header.recording_id,
    }
