"""Programs for platforms that are not there, and policies that say which one they are traced for."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from pd_jax.system import devices
from pd_jax.system.devices import DeviceGroup, target_platform
from pd_jax.teachers import Teacher, from_function


@dataclasses.dataclass(frozen=True)
class GroupOfTpus(DeviceGroup):
    """This machine's devices, which say that they are TPUs."""

    @property
    def platform(self) -> str:
        return "tpu"


def make_tpu_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as anyone can ask: the CPU is a device beside it."""
    monkeypatch.setattr(devices, "default_platform", lambda: "tpu")


class TracedPolicy:
    """A policy of CartPole that notes for which platforms it is traced.

    Attributes:
      platforms: so far.
    """

    def __init__(self) -> None:
        self.platforms: set[str] = set()

    def __call__(self, variables: Any, observations: jax.Array) -> jax.Array:
        self.platforms.add(target_platform())
        return observations[:, :2] * variables["scale"]

    def variables(self, device: jax.Device | None = None) -> dict[str, jax.Array]:
        """Committed to a device, or to none."""
        return {"scale": jnp.ones(()) if device is None else jax.device_put(1.0, device)}

    def teacher(self) -> Teacher:
        """The policy as a teacher, for whose sake it was traced once already."""
        return from_function(self, kind="q", game="cartpole", variables=self.variables())


def operations(function: Callable[..., Any], *arguments: Any) -> collections.Counter[str]:
    """How often each of JAX's primitives is in what is traced of a function now, inner functions included."""
    return collections.Counter(_names(jax.make_jaxpr(function)(*arguments).jaxpr))


def _names(jaxpr: Jaxpr) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            for each in value if isinstance(value, tuple | list) else (value,):
                if isinstance(each, ClosedJaxpr):
                    yield from _names(each.jaxpr)
                elif isinstance(each, Jaxpr):
                    yield from _names(each)
