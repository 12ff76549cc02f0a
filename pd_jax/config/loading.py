"""Reads settings from YAML files and command lines, and writes them back.

Every failure is a `UserError` of one line that names the file or the option, the key, the value and what would be
right.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import tyro

from pd_jax.config.adding import follow_run
from pd_jax.config.base import CommandConfig, Settings
from pd_jax.config.fields import Field, check_home, check_value, fields, sections
from pd_jax.config.protocols import follow_protocol
from pd_jax.config.shipped import find_settings
from pd_jax.config.yaml import parse_scalar, read_yaml, write_yaml
from pd_jax.errors import UserError, nearest
from pd_jax.system.text import printable, show

C = TypeVar("C", bound=Settings)

_AUTO = "auto"
"""Of ``resume``: go on or begin, whichever it is. That is what true means too; schedulers' recipes spell it out."""


def load_config(config_class: type[C], argv: Sequence[str], command: str) -> C:
    """Settings of one command: its defaults, then the file that ``--config`` names, then the options.

    Args:
      config_class: one of `pd_jax.config.commands.COMMANDS`, or another command's settings.
      argv: the command line after the command's name.
      command: the command's name, for ``--help``, and for which of the files that come with pd_jax are its.

    Returns:
      the settings, checked.

    Raises:
      UserError: the file or an option is wrong.
      SystemExit: with code 0, after printing ``--help``.
    """
    if "-h" in argv or "--help" in argv:
        _print_help(config_class, command)
    path, overrides = _read_argv(config_class, argv)
    where = f"{printable(path)}: " if path is not None else ""
    file = read_yaml(find_settings(path, command)) if path is not None else {}
    from_file = _flatten(config_class, file, where)
    origins = {key: where + key for key in from_file} | {key: _option(key) for key in overrides}
    if "add_teacher" in fields(config_class):
        from_file = follow_run(from_file, overrides, lambda mapping, of: _flatten(config_class, mapping, of))
    follow_protocol(from_file, overrides, origins)
    _require(config_class, from_file | overrides, where, "; set it in the configuration file or give {}")
    config: C = _build(config_class, from_file | overrides)
    config = _without_conflicts(config, origins, "")
    _check_idle(config, from_file, overrides, origins)
    return config


def read_config(config_class: type[C], path: str | Path) -> C:
    """Settings from a YAML file alone, such as a run's ``config.yaml``.

    Args:
      config_class: one of `pd_jax.config.commands.COMMANDS`.
      path: the file.

    Returns:
      the settings, checked.

    Raises:
      UserError: the file cannot be read, or is wrong.
    """
    return from_mapping(config_class, read_yaml(path), f"{printable(str(path))}: ")


def from_mapping(config_class: type[C], mapping: Mapping[Any, Any], where: str = "") -> C:
    """Settings from a nested mapping; absent keys take their defaults.

    Args:
      config_class: one of `pd_jax.config.commands.COMMANDS`.
      mapping: what `to_mapping` gives, or a part of it.
      where: what messages begin with, such as ``"configs/pong.yaml: "``.

    Returns:
      the settings, checked.

    Raises:
      UserError: a key is unknown or missing, a value has the wrong type or is impossible.
    """
    values = _flatten(config_class, mapping, where)
    follow_protocol(values, {}, {key: where + key for key in values})
    _require(config_class, values, where, "")
    config: C = _build(config_class, values)
    return _without_conflicts(config, {}, where)


def to_mapping(config: CommandConfig) -> dict[str, Any]:
    """A nested mapping of plain values with every key; `from_mapping` gives ``config`` back.

    Args:
      config: of any command.

    Returns:
      what YAML and JSON can hold.
    """
    return _plain(config)


def to_yaml(config: CommandConfig) -> str:
    """YAML text with every key, in the order of the dataclass; `read_config` gives ``config`` back.

    Args:
      config: of any command.

    Returns:
      several lines.
    """
    return write_yaml(to_mapping(config))


def _plain(settings: Any) -> dict[str, Any]:
    known = fields(type(settings))
    plain: dict[str, Any] = {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if dataclasses.is_dataclass(value):
            value = _plain(value)
        elif isinstance(value, tuple):
            # A run of one game says so in the words it always had.
            value = value[0] if known[item.name].one_or_many and len(value) == 1 else list(value)
        plain[item.name] = value
    return plain


def _flatten(config_class: type, mapping: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Checked values of a nested mapping, by dotted key."""
    known = fields(config_class)
    values: dict[str, Any] = {}

    def visit(section_class: type, section: Mapping[Any, Any], prefix: str) -> None:
        names = [field.name for field in dataclasses.fields(section_class)]
        for name, value in section.items():
            label = printable(name) if isinstance(name, str) else show(name)
            if name not in names:
                hint = _nearest_key(name, names, known) if isinstance(name, str) else ""
                raise UserError(f"{where}{prefix}{label}: no such key{hint} ({', '.join(names)})")
            inner = sections(section_class).get(name)
            if inner is None:
                value = True if prefix + name == "resume" and value == _AUTO else value
                values[prefix + name] = check_value(known[prefix + name], value, f"{where}{prefix}{name}")
            elif isinstance(value, Mapping):
                visit(inner, value, f"{prefix}{name}.")
            else:
                keys = ", ".join(field.name for field in dataclasses.fields(inner))
                raise UserError(f"{where}{prefix}{name}: {show(value)} is not a mapping of settings ({keys})")

    visit(config_class, mapping, "")
    return values


def _nearest_key(name: str, siblings: Sequence[str], known: Mapping[str, Field]) -> str:
    """A hint: the key of this very name in another section, else the most similar one beside it."""
    elsewhere = [key for key in known if key.rpartition(".")[2] == name]
    return f"; did you mean {elsewhere[0]!r}?" if elsewhere else nearest(name[:100], siblings)


def _require(config_class: type, values: Mapping[str, Any], where: str, remedy: str) -> None:
    for key, field in fields(config_class).items():
        if field.required and key not in values:
            option = key.upper() if field.positional else _option(key)
            raise UserError(f"{where}{key}: missing{remedy.format(option)}")


def _check_idle(
    config: Settings, from_file: Mapping[str, Any], overrides: Mapping[str, Any], origins: Mapping[str, str]
) -> None:
    """Refuses options that nothing looks at, and warns of such settings of a file: see `pd_jax.config.idle`."""
    # Late: what draws bars is not needed to read settings.
    from pd_jax.system.progress import print_warning

    found = list(config.idle())
    for key, origin in origins.items():
        idle = next((idle for idle in found if idle.covers(key)), None)
        if idle is None:
            continue
        value = overrides.get(key, from_file.get(key))
        if value == _default_of(type(config), key) and idle.because not in from_file:
            # It says what holds anyway: a script gives all runs the same options.
            continue
        if key in overrides and value is not None and not getattr(config, "resume", False):
            raise UserError(f"{origin}: {idle.why}")
        # A run's own file has all settings. And an option that leaves some of a file idle was given for this run.
        if value != _default_of(type(config), key) and (key in overrides or idle.because not in overrides):
            print_warning(f"{origin}: {idle.why}")


def _default_of(config_class: type, key: str) -> Any:
    """The value of a setting that is not given."""
    section, _, name = key.partition(".")
    field = next(field for field in dataclasses.fields(config_class) if field.name == section)
    made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return functools.reduce(getattr, name.split("."), made) if name else made


def _build(config_class: type, values: Mapping[str, Any]) -> Any:
    """The dataclass with the values given by dotted key, and defaults for all others."""
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        inner = sections(config_class).get(field.name)
        if inner is not None:
            prefix = f"{field.name}."
            own = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
            arguments[field.name] = _build(inner, own)
        elif field.name in values:
            arguments[field.name] = values[field.name]
    return config_class(**arguments)


def _without_conflicts(config: C, origins: Mapping[str, str], where: str) -> C:
    for key, problem in config.conflicts():
        raise UserError(f"{origins.get(key, where + key)}: {problem}")
    return config


class _Switch(NamedTuple):
    """What an option sets: a key, and for a flag the value that it sets the key to."""

    key: str
    flag: bool | None = None


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def _switches(config_class: type) -> dict[str, _Switch]:
    """Every option as tyro spells it, such as ``--learner.batch-size`` and ``--pqn.no-clip-rewards``."""
    switches: dict[str, _Switch] = {}
    for key, field in fields(config_class).items():
        if field.kind is bool:
            section, dot, name = key.rpartition(".")
            switches[_option(key)] = _Switch(key, True)
            switches[_option(f"{section}{dot}no-{name}")] = _Switch(key, False)
        else:
            switches[_option(key)] = _Switch(key)
    return switches


def _read_argv(config_class: type, argv: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """Checks a command line; returns the file named by ``--config`` and the other values by dotted key.

    The options are spelt as tyro spells them, which prints ``--help``. It would find the same faults, but report them
    in boxes of several lines and without ranges.
    """
    switches, known = _switches(config_class), fields(config_class)
    path: str | None = None
    values: dict[str, Any] = {}
    unnamed: dict[str, list[str]] = {}
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        name, equals, inline = token.partition("=")
        option = name.replace("_", "-")
        if not token.startswith("--"):
            key = _next_positional(known, values)
            if key is None:
                raise UserError(f"{show(token)}: unexpected argument; settings are given as --name value")
            if known[key].many:
                unnamed.setdefault(key, []).append(token)
            else:
                values[key] = check_value(known[key], token, key.upper())
            continue
        if option == "--config":
            if path is not None:
                raise UserError("--config: given twice")
            path = check_home(inline if equals else _next_value(option, rest), option)
            continue
        if option not in switches:
            raise UserError(f"{printable(name)}: no such option{_nearest_option(option, switches, known)}")
        switch = switches[option]
        field = known[switch.key]
        is_value = bool(rest) and not rest[0].startswith("--") and _next_positional(known, values) is None
        has_value = bool(equals) or is_value
        if switch.flag is not None and not (field.optional and switch.flag and has_value):
            if has_value and option == "--resume" and (inline if equals else rest[0]) == _AUTO:
                rest = rest if equals else rest[1:]
            elif has_value:
                raise UserError(f"{option}: takes no value, got {show(inline if equals else rest[0])}")
            values[switch.key] = switch.flag
        elif field.many:
            texts = [inline] if equals else []
            while rest and not rest[0].startswith("--"):
                texts.append(rest.pop(0))
            if field.one_or_many and not texts:
                raise UserError(f"{option}: needs a value")
            items = [_parse(field, text) for text in texts]
            is_one = field.one_or_many and len(items) == 1
            values[switch.key] = check_value(field, items[0] if is_one else items, option)
        else:
            text = inline if equals else _next_value(option, rest)
            values[switch.key] = check_value(field, _parse(field, text), option)
    for key, given in unnamed.items():
        values[key] = check_value(known[key], given, key.upper())
    return path, values


def _next_positional(known: Mapping[str, Field], values: Mapping[str, Any]) -> str | None:
    """The key that a value without a name is for."""
    return next((key for key, field in known.items() if field.positional and (field.many or key not in values)), None)


def _next_value(option: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("--"):
        raise UserError(f"{option}: needs a value")
    return rest.pop(0)


def _parse(field: Field, text: str) -> Any:
    """What a text means for a field: words stay words, even those that look like numbers."""
    if field.kind is not str:
        return parse_scalar(text)
    return None if field.optional and text and parse_scalar(text) is None else text


def _nearest_option(option: str, switches: Mapping[str, _Switch], known: Mapping[str, Field]) -> str:
    names = ["config", "help", *(switch.removeprefix("--") for switch in switches)]
    name = option.removeprefix("--")
    section, dot, last = name.removeprefix("no-").rpartition(".")
    negated = f"--{section}{dot}no-{last}"
    if name.startswith("no-") and negated in switches:
        return f"; did you mean {negated!r}?"
    elsewhere = [_option(key) for key in known if _option(key).rpartition(".")[2] == name]
    # Compared without the dashes, which make any two options look alike.
    hint = f"; did you mean {elsewhere[0]!r}?" if elsewhere else nearest(name[:100], names).replace("n '", "n '--")
    return hint or "; --help lists them"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ConfigFile:
    config: str | None = None
    """YAML file of settings, or the name of one that comes with pd-jax, such as pong; options override it."""


def _print_help(config_class: type[Settings], command: str) -> None:
    """Prints tyro's help, in which ``--config`` stands beside the settings, and exits with code 0."""
    with_file = dataclasses.make_dataclass(
        config_class.__name__, [], bases=(config_class, _ConfigFile), frozen=True, kw_only=True
    )
    with_file.__doc__ = config_class.__doc__
    required = {key: tyro.MISSING for key, field in fields(config_class).items() if field.required}
    tyro.cli(with_file, default=with_file(**required), args=["--help"], prog=f"pd-jax {command}")
