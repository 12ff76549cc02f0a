"""The one place where work is mapped over devices.

`jax.pmap` has been ``jit(shard_map)`` since JAX 0.9.2, so it costs nothing over the newer interface; nothing outside
this module depends on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pd_jax.errors import UserError

AXIS = "devices"
"""Name of the mapped axis, for ``lax.pmean`` and ``lax.axis_index``."""


@dataclasses.dataclass(frozen=True)
class DeviceGroup:
    """Devices that run one program side by side. Every array they share has a leading axis of their number.

    Attributes:
      devices: the devices, in order.
    """

    devices: tuple[jax.Device, ...]

    @classmethod
    def local(cls, num_devices: int | None = None) -> DeviceGroup:
        """The first ``num_devices`` of this machine's devices, or all of them.

        Raises:
          UserError: there are not that many.
        """
        devices = jax.local_devices()
        if num_devices is not None and num_devices > len(devices):
            kind = devices[0].platform
            raise UserError(f"learner.num_devices: {num_devices} devices wanted, {len(devices)} {kind} found")
        return cls(tuple(devices[:num_devices]))

    @property
    def size(self) -> int:
        """Number of devices."""
        return len(self.devices)

    @property
    def sharding(self) -> NamedSharding:
        """Where arrays with a leading device axis live: one slice per device."""
        return NamedSharding(Mesh(np.array(self.devices), (AXIS,)), PartitionSpec(AXIS))

    def map(self, function: Callable[..., Any], donate: tuple[int, ...] = ()) -> Callable[..., Any]:
        """Compiles ``function`` to run on every device over its slice of each argument's leading axis.

        Args:
          function: per-device; may use collectives over ``AXIS``.
          donate: positions of arguments whose buffers the result may take over.
        """

        def per_device(*arguments: Any) -> Any:
            # Taking the device axis off is free, but XLA then fuses that reshape into the first in-place write of a
            # donated array, and copies the array to do so: the whole replay, twice for every rollout inserted.
            arguments = tuple(lax.optimization_barrier(x) if i in donate else x for i, x in enumerate(arguments))
            return function(*arguments)

        return jax.pmap(per_device, axis_name=AXIS, devices=self.devices, donate_argnums=donate)

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of every leaf on every device: ``[...]`` becomes ``[D, ...]``."""
        return jax.device_put(
            jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (self.size, *jnp.shape(leaf))), tree), self.sharding
        )

    def split(self, tree: Any, axis: int = 0) -> Any:
        """Deals an axis out over the devices: ``[..., n, ...]`` becomes ``[D, ..., n / D, ...]``."""

        def deal(leaf: Any) -> Any:
            shape = jnp.shape(leaf)
            parts = leaf.reshape(*shape[:axis], self.size, shape[axis] // self.size, *shape[axis + 1 :])
            return jnp.moveaxis(parts, axis, 0)

        return jax.device_put(jax.tree.map(deal, tree), self.sharding)

    def first(self, tree: Any) -> Any:
        """The first device's slice of every leaf, on that device and without moving the others.

        Indexing a sharded array with an integer would gather all of it first.
        """
        return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data[0], tree)
