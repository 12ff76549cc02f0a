"""Policies as play sees them: with a state for every lane, which goes from one step to the next.

Most policies have none: a function of variables and observations is a :class:`Stateless` policy. A policy that
remembers keeps what it remembers there, one that senses less than it is shown keeps what its sensors do.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jax import Array

from pd_jax.types import PolicyApply

if TYPE_CHECKING:
    # EnvPool takes seconds to import.
    from pd_jax.environments.envpool import TimeStep


@runtime_checkable
class LanePolicy(Protocol):
    """Decides for lanes that play side by side. Hashable, for ``jax.jit``; equal ones are compiled once."""

    def start(self, num_lanes: int) -> Any:
        """The state of lanes before their first step: a pytree of arrays ``[L, ...]``; None of a policy without."""
        ...

    def decide(self, variables: Any, timestep: TimeStep, state: Any, key: Array) -> tuple[Array, Any]:
        """What it gives for what the lanes show, to be traced.

        Args:
          variables: the policy's.
          timestep: what the lanes show; where it ``is_first``, an episode begins, and the policy forgets.
          state: as :meth:`start` or the step before gave it.
          key: PRNG key of this step, for policies with noise in their senses.

        Returns:
          outputs, float32 ``[L, ...]``, and the state for the next step, of the shapes of ``state``.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Stateless:
    """A function of variables and observations as a policy of lanes."""

    apply: PolicyApply

    def start(self, num_lanes: int) -> None:
        """There is no state."""
        return None

    def decide(self, variables: Any, timestep: TimeStep, state: None, key: Array) -> tuple[Array, None]:
        """Its outputs for the observations."""
        return self.apply(variables, timestep.observations), None


def as_lane_policy(policy: PolicyApply | LanePolicy) -> LanePolicy:
    """The policy of lanes that a function is, or the policy itself."""
    return policy if isinstance(policy, LanePolicy) else Stateless(policy)


def note_actions(policy: PolicyApply | LanePolicy, state: Any, actions: Any) -> Any:
    """The state of a policy after what it, or whoever else acts, has decided was played.

    Args:
      policy: one that sees its last actions has a method ``note`` of its own, ``(state, actions) -> state``; to others
        it makes no difference.
      state: as the decision left it.
      actions: that were played, ``[L]`` or ``[L, components]``.
    """
    note = getattr(policy, "note", None)
    return state if note is None else note(state, actions)
