"""The one place where work is mapped over devices, and where it is known what kind of device a program is for.

`jax.pmap` has been ``jit(shard_map)`` since JAX 0.9.2, so it costs nothing over the newer interface; nothing outside
this module depends on it.

Some of what is traced has a formulation for CPUs and another for accelerators. Which of them is taken follows the
devices that the program is for, never the process's default: a CPU may play beside a TPU that learns, and a program may
be compiled for devices that are not there. :func:`target_platform` says it to what is being traced;
:meth:`DeviceGroup.map` and :func:`tracing_for` set it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pd_jax.errors import UserError
from pd_jax.system.kept import kept

AXIS = "devices"
"""Name of the mapped axis, for ``lax.pmean`` and ``lax.axis_index``."""
# Part of the keys of all of JAX's caches: what was traced for one platform is never taken for another.
_traced_for = jax.make_user_context(None)


def default_platform() -> str:
    """The platform of the device that JAX takes unless told otherwise: ``cpu``, ``gpu`` or ``tpu``."""
    config: Any = jax.config
    default = config.jax_default_device
    if isinstance(default, jax.Device):
        return default.platform
    return jax.devices(default)[0].platform


def target_platform() -> str:
    """The platform that is being traced for: the one of :func:`tracing_for`, outside of it the default one."""
    return _traced_for.value or default_platform()


@contextlib.contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """What is traced in this context, in this thread, is for a platform: ``cpu``, ``gpu`` or ``tpu``.

    Calls of compiled functions belong into it too: it decides which of their programs is taken.
    """
    # Of the default platform, programs that were traced outside of any context serve as well.
    with _traced_for(None if platform == default_platform() else platform):
        yield


def mean_over_devices(tree: Any) -> Any:
    """The mean over ``AXIS`` of arrays of one dtype, in exactly one all-reduce on every platform.

    A TPU's compiler makes one all-reduce of those of all arrays. As one vector they would have to be laid out anew:
    13 % of the bytes of an update of ``dqn``, and where the vector's length has a small factor the compiler may pad it
    eighteenfold. Elsewhere a vector costs nothing but its copy, and CUDA's compiler makes several all-reduces of more
    than 30 MB otherwise.

    Args:
      tree: a pytree of arrays ``[...]``.
    """
    if target_platform() == "tpu":
        return lax.pmean(tree, AXIS)
    flat, unravel = ravel_pytree(tree)
    return unravel(lax.pmean(flat, AXIS))


def platform_of(tree: Any) -> str:
    """The platform that computations on some arrays run on: that of the first one committed to a device.

    Args:
      tree: a pytree; without such an array, computations run on the default device.
    """
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and leaf.committed:
            return next(iter(leaf.devices())).platform
    return default_platform()


def put_beside(tree: Any, others: Any) -> Any:
    """Puts arrays where others are. What a program gives back lies where those of its arguments do that are committed
    to a device: without this the second call of a loop would be compiled for other places than the first.

    Args:
      tree: a pytree.
      others: a pytree; nothing is moved if the first array that is committed to devices is split over them, or if
        there is none.
    """
    for leaf in jax.tree.leaves(others):
        if isinstance(leaf, jax.Array) and leaf.committed:
            return jax.device_put(tree, leaf.sharding) if leaf.sharding.is_fully_replicated else tree
    return tree


def quick_to_compile(platform: str) -> tuple[tuple[str, Any], ...]:
    """Options for the compiler of a program that runs once: on a CPU less is done to make it fast, and its numbers are
    the same. Where ``XLA_FLAGS`` says how much is to be done, that stays.

    Args:
      platform: what is compiled for.
    """
    name = "xla_backend_optimization_level"
    return ((name, 1),) if platform == "cpu" and name not in os.environ.get("XLA_FLAGS", "") else ()


def _barrier(tree: Any) -> Any:
    """What is computed from a tree is not merged with what it was computed from, random keys aside.

    JAX's check of keys (``jax_debug_key_reuse``) takes one that went through a barrier for used up.
    """
    leaves, structure = jax.tree.flatten(tree)
    others = [index for index, leaf in enumerate(leaves) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    for index, leaf in zip(others, lax.optimization_barrier([leaves[index] for index in others]), strict=True):
        leaves[index] = leaf
    return jax.tree.unflatten(structure, leaves)


@dataclasses.dataclass(frozen=True)
class DeviceGroup:
    """Devices that run one program side by side. Every array they share has a leading axis of their number.

    With several processes a group spans all of them, and every array that this process sees has a leading axis of the
    group's devices in this process: its slices of what the devices share.

    Attributes:
      devices: the devices of all processes, in order.
    """

    devices: tuple[jax.Device, ...]

    @classmethod
    def everywhere(cls, num_devices: int | None = None) -> DeviceGroup:
        """The first ``num_devices`` of all processes' devices, as many of each process, or all of them.

        Raises:
          UserError: there are not that many, or they are not the same number in every process.
        """
        processes = jax.process_count()
        if processes == 1:
            return cls.local(num_devices)
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        each = len(jax.local_devices()) if num_devices is None else num_devices // processes
        chosen: list[jax.Device] = []
        for process in range(processes):
            own = [device for device in devices if device.process_index == process]
            if len(own) < each or (num_devices is None and len(own) != each):
                raise UserError(f"process {process} has {len(own)} devices, and each is to have {each}")
            chosen += own[:each]
        if num_devices is not None and (len(chosen) != num_devices or not chosen):
            raise UserError(f"learner.num_devices: {num_devices} is no multiple of the {processes} processes")
        return cls(tuple(chosen))

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
    def platform(self) -> str:
        """What the devices are: ``cpu``, ``gpu`` or ``tpu``."""
        return self.devices[0].platform

    @property
    def here(self) -> DeviceGroup:
        """The devices of this process: work on them starts no collective and waits for no other process."""
        return DeviceGroup(tuple(d for d in self.devices if d.process_index == d.client.process_index()))

    @property
    def num_processes(self) -> int:
        """Processes that the group spans."""
        return self.size // self.here.size

    @property
    def sharding(self) -> NamedSharding:
        """Where this process's arrays with a leading device axis live: one slice per device."""
        return NamedSharding(Mesh(np.array(self.here.devices), (AXIS,)), PartitionSpec(AXIS))

    def map(self, function: Callable[..., Any], donate: tuple[int, ...] = ()) -> Any:
        """Compiles ``function`` to run on every device over its slice of each argument's leading axis.

        Args:
          function: per-device; may use collectives over ``AXIS``. It is traced for the platform of the devices. Of
            equal functions, and of :class:`Bound` ones with equal arguments, what was compiled is taken again.
          donate: positions of arguments whose buffers the result may take over.
        """
        make = _kept_mapped if _is_known_again(function) else _mapped
        return make(self.devices, self.platform, function, donate)

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of every leaf on every device: ``[...]`` becomes ``[D, ...]``."""
        size = self.here.size
        return jax.device_put(
            jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *jnp.shape(leaf))), tree), self.sharding
        )

    def replicated_shapes(self, tree: Any) -> Any:
        """What :meth:`replicate` would give, as ``jax.ShapeDtypeStruct``."""
        size, sharding = self.here.size, self.sharding
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype, sharding=sharding), tree)

    def split(self, tree: Any, axis: int = 0) -> Any:
        """Deals an axis out over this process's devices: ``[..., n, ...]`` becomes ``[D, ..., n / D, ...]``."""
        return jax.device_put(_deal(tree, axis, self.here.size), self.sharding)

    def first(self, tree: Any) -> Any:
        """The first device's slice of every leaf, on that device and without moving the others.

        Indexing a sharded array with an integer would gather all of it first.
        """
        return _heads(jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, tree))

    def fetch_first(self, tree: Any) -> Any:
        """As :meth:`first`, in arrays of NumPy: for metrics, of which nothing is to be compiled for each shape."""
        return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_shards[0].data)[0], tree)

    def on_every(
        self, function: Callable[..., Any], compiler_options: tuple[tuple[str, Any], ...] = ()
    ) -> Callable[..., Any]:
        """Compiles a function of arrays without a device axis; its result is as :meth:`replicate` gives it.

        Beside it, a program would be compiled for each shape that is replicated. As in :meth:`map`, that of an equal
        function is taken again.
        """
        make = _kept_copied if _is_known_again(function) else _copied
        copies = make(self.here.size, function, compiler_options)
        return lambda *arguments: jax.device_put(copies(*arguments), self.sharding)


@dataclasses.dataclass(frozen=True)
class Bound:
    """A function whose first arguments are given, as `functools.partial` has it. Equal ones have equal arguments, so
    that what is compiled of them is found again.

    Attributes:
      function: a plain one, of a module.
      arguments: the first ones, hashable.
      keywords: names and values, hashable.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*self.arguments, *arguments, **dict(self.keywords))


def _is_known_again(function: Callable[..., Any]) -> bool:
    """Whether another function may equal this one. Closures never do, and what they hold is not to be kept."""
    is_plain = inspect.isfunction(function) and function.__closure__ is None and function.__name__ != "<lambda>"
    return is_plain or isinstance(function, Bound)


def _mapped(
    devices: tuple[jax.Device, ...], platform: str, function: Callable[..., Any], donate: tuple[int, ...]
) -> Any:
    def per_device(*arguments: Any) -> Any:
        # Taking the device axis off is free, but XLA then fuses that reshape into the first in-place write of a
        # donated array, and copies the array to do so: the whole replay, twice for every rollout inserted.
        arguments = tuple(_barrier(x) if i in donate else x for i, x in enumerate(arguments))
        with tracing_for(platform):
            return function(*arguments)

    return jax.pmap(per_device, axis_name=AXIS, devices=devices, donate_argnums=donate)


def _copied(size: int, function: Callable[..., Any], compiler_options: tuple[tuple[str, Any], ...]) -> Any:
    def copies(*arguments: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)), function(*arguments))

    return jax.jit(copies, compiler_options=dict(compiler_options) or None)


_kept_mapped, _kept_copied = kept(16)(_mapped), kept(16)(_copied)


@jax.jit
def _heads(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


# One program for all leaves: one by one, each of their reshapes would be compiled, and called, on its own.
@functools.partial(jax.jit, static_argnums=(1, 2))
def _deal(tree: Any, axis: int, size: int) -> Any:
    def deal(leaf: Array) -> Array:
        shape = leaf.shape
        parts = leaf.reshape(*shape[:axis], size, shape[axis] // size, *shape[axis + 1 :])
        return jnp.moveaxis(parts, axis, 0)

    return jax.tree.map(deal, tree)
