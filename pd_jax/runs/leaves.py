"""How a training state is laid out in a checkpoint: named host arrays, and a record that can vouch for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """``{"params.conv1.kernel": leaf, ...}`` in flattening order."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator=".") or "state": leaf for path, leaf in paths}
    if len(named) != len(paths):
        raise ValueError("two leaves of the state have the same dotted name")
    return named


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def describe(leaf: Any) -> dict[str, Any]:
    """Shape and dtype as JSON. PRNG keys keep their own dtype and, where known, the name of their implementation."""
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    description = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
    if _is_key(leaf) and isinstance(leaf, jax.Array):
        description["impl"] = str(jax.random.key_impl(leaf))
    return description


def spell(description: Mapping[str, Any] | None) -> str:
    """A description for a message, such as ``float32 [8, 8, 4, 16]``."""
    return f"{description['dtype']} {description['shape']}" if description else "absent"


def to_host(leaf: Any) -> np.ndarray:
    """A private copy in host memory: the next update may donate, and so overwrite, the buffer it came from.

    Raises:
      ValueError: the leaf is split over processes.
      TypeError: it is not numeric.
    """
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        if not leaf.is_fully_replicated:
            raise ValueError("state that is split over processes cannot be saved; replicate it first")
        leaf = leaf.addressable_data(0)
    array = np.array(leaf)
    # bfloat16 and its kin have kind "V", as ml_dtypes registers them.
    if array.dtype.kind not in "biufcV":
        raise TypeError(f"a state of {type(leaf).__name__} cannot be saved; leaves must be numbers or arrays")
    return array


def storage_template(leaf: Any) -> np.ndarray:
    """What ``to_host`` makes of a leaf, by shape and dtype; takes no memory."""
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    elif not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return np.broadcast_to(np.zeros((), jnp.dtype(leaf.dtype)), leaf.shape)


def from_host(array: np.ndarray, leaf: Any, key_impl: str | None) -> Any:
    """Undoes ``to_host``, into the kind of thing the template's ``leaf`` is."""
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=key_impl)
    return array if hasattr(leaf, "dtype") else type(leaf)(array.item())


def checksum(array: np.ndarray) -> str:
    """SHA-256 of the elements in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _record_checksum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def seal(record: dict[str, Any]) -> dict[str, Any]:
    """Adds a checksum to a record of JSON values. Raises TypeError for other values."""
    record = json.loads(json.dumps(record))
    return {**record, "sha256": _record_checksum(record)}


def unseal(sealed: Mapping[str, Any]) -> dict[str, Any]:
    """Takes the checksum off again. Raises ValueError when it does not match."""
    record = {name: value for name, value in sealed.items() if name != "sha256"}
    if _record_checksum(record) != sealed.get("sha256"):
        raise ValueError("the metadata does not match its checksum")
    return record
