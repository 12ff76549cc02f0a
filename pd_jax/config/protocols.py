"""The protocol by name: what it sets, what contradicts it, and which one settings amount to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pd_jax.config.base import Settings
from pd_jax.config.fields import Choice
from pd_jax.config.idle import Idle
from pd_jax.environments.protocols import CUSTOM, PROTOCOLS, STARTS, ProtocolName, protocol_name
from pd_jax.errors import UserError

_LIMITS = ("env.max_episode_steps", "evaluation.max_episode_steps")
KEYS = (*(f"env.{name}" for name in STARTS), *_LIMITS)
"""The settings that a protocol has a word on; the limits only where a command has them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtocolSettings(Settings):
    """What every command takes that plays games of Atari."""

    protocol: Annotated[ProtocolName, Choice("a protocol")] | None = None
    """Rules of play by name (Atari only): classic, up to 30 no-ops (Mnih et al. 2015); modern, sticky actions of 0.25
    without no-ops or FIRE (Machado et al. 2018); custom, what env says, whatever teachers and recordings have. None is
    what env says as well, and refuses those that name another protocol."""

    def __post_init__(self) -> None:
        super().__post_init__()
        env: Any = getattr(self, "env", None)
        rules = PROTOCOLS.get(self.protocol or "")
        if rules is not None and env is not None:
            # What stands at its default follows the protocol.
            defaults = {field.name: field.default for field in dataclasses.fields(env)}
            follows = {name: getattr(rules, name) for name in STARTS if getattr(env, name) == defaults[name]}
            object.__setattr__(self, "env", dataclasses.replace(env, **follows))

    @property
    def protocol_name(self) -> str:
        """The protocol of the play, by name: the one that the settings name, or that they amount to."""
        return self.protocol or played_protocol(self)


def played_protocol(settings: Any) -> str:
    """The protocol that the section ``env`` amounts to, and the limit of ``evaluation`` where there is one."""
    rules = {name: getattr(settings.env, name) for name in STARTS}
    for key in _LIMITS:
        rules["max_episode_steps"] = rules.get("max_episode_steps") or _value(settings, key)
    return protocol_name(rules) or CUSTOM


def protocol_conflicts(settings: Any) -> Iterator[tuple[str, str]]:
    """Yields what contradicts the protocol that is named, and how ale-py cannot be stepped."""
    if settings.protocol in PROTOCOLS:
        for key in KEYS:
            value = _value(settings, key)
            if problem := _contradiction(settings.protocol, key, value):
                yield key, problem
    if settings.env.backend == "ale" and settings.env.stepping == "jit":
        yield "env.stepping", "'jit', and env.backend is 'ale', which is stepped from the host; leave one out"


def idle_backend(settings: Any) -> Iterator[Idle]:
    """What is EnvPool's alone, beside ale-py."""
    if settings.env.backend == "ale":
        yield Idle("env.num_threads", "env.backend", "is EnvPool's; with env.backend 'ale' each lane has a thread")


def follow_protocol(from_file: dict[str, Any], overrides: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    """Checks what was given beside a protocol, and takes out of a file what a protocol on the command line replaces.

    Only here is it known what was given, and what is a default.

    Args:
      from_file: the values of a file, by dotted key.
      overrides: those of a command line.
      origins: what messages call each key.

    Raises:
      UserError: a setting of the same file or command line, or an option beside a file's protocol, says otherwise.
    """
    name = overrides.get("protocol", from_file.get("protocol"))
    if name not in PROTOCOLS:
        return
    if "protocol" in overrides:
        for key in KEYS:
            from_file.pop(key, None)
    for key, value in (from_file | dict(overrides)).items():
        if key in KEYS and (problem := _contradiction(name, key, value)):
            raise UserError(f"{origins.get(key, key)}: {problem}")


def _contradiction(name: str, key: str, value: Any) -> str:
    """What is wrong with a setting beside a protocol; ``""`` if nothing."""
    setting = key.rpartition(".")[2]
    wanted = getattr(PROTOCOLS[name], setting)
    if value == wanted or (value is None and key in _LIMITS):
        return ""
    return f"{_spell(value)}, and protocol {name!r} has {_spell(wanted)}; leave it out, or say protocol custom"


def _spell(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def _value(settings: Any, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section, None), name, None)
