"""What a setting may be, read from the types of the configuration dataclasses, and the check of a value against it."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

import tyro

from pd_jax.errors import UserError, nearest
from pd_jax.system.files import expand_home
from pd_jax.system.text import show

_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_MAX_ITEMS = 64
_MAX_TEXT = 4096
# What tyro.conf.Positional adds to a type.
_POSITIONAL = typing.get_args(tyro.conf.Positional[str])[1]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The range of a number, both ends included. It stands in the type of a field: ``Annotated[int, Bounds(1, 9)]``."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class MaxItems:
    """The length of a list, where it may be longer than usual."""

    number: int


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the choices of a field are called, which words of the same sort get an explanation instead, which others the
    user has added, and how to add one."""

    noun: str
    refused: tuple[tuple[str, str], ...] = ()
    added: Callable[[], tuple[str, ...]] = tuple
    to_add: str = ""


@dataclasses.dataclass(frozen=True)
class OneOrMany:
    """A single value may stand for a list of one. It is in the type of a field, as `Bounds` is."""


@dataclasses.dataclass(frozen=True)
class FilePath:
    """A text may name a file or a directory, so that ``~`` stands for the home directory. It is in the type of a field,
    as `Bounds` is."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One setting.

    Attributes:
      kind: int, float, bool or str; of the items if ``many``.
      choices: the words allowed, empty if any text is.
      words: those that may stand in the place of a number.
      choice: how messages speak of them.
      bounds: the range of a number.
      optional: whether None is allowed.
      many: whether it is a tuple of ``kind``.
      one_or_many: whether a single value may stand for a tuple of one.
      required: whether it has no default.
      is_path: whether it may name a file or a directory.
      positional: whether the command line takes it without a name; if ``many``, all that have none.
      max_items: the longest tuple, if ``many``.
    """

    kind: type[Any]
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    choice: Choice = Choice("one of the choices")
    bounds: Bounds | None = None
    optional: bool = False
    many: bool = False
    one_or_many: bool = False
    required: bool = False
    is_path: bool = False
    positional: bool = False
    max_items: int = _MAX_ITEMS


def sections(config_class: type) -> Mapping[str, type]:
    """The fields of a dataclass that are dataclasses themselves, with their types."""
    return _sections(config_class)


def fields(config_class: type) -> Mapping[str, Field]:
    """Every setting of a dataclass and its sections by dotted key (``"student.network"``), in order."""
    return _fields(config_class)


@functools.cache
def _sections(config_class: type) -> Mapping[str, type]:
    hints = typing.get_type_hints(config_class)
    return {name: hint for name, hint in hints.items() if isinstance(hint, type) and dataclasses.is_dataclass(hint)}


@functools.cache
def _fields(config_class: type) -> Mapping[str, Field]:
    hints = typing.get_type_hints(config_class, include_extras=True)
    found: dict[str, Field] = {}
    for item in dataclasses.fields(config_class):
        if item.name in sections(config_class):
            found |= {f"{item.name}.{key}": field for key, field in fields(hints[item.name]).items()}
        else:
            required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            found[item.name] = dataclasses.replace(_from_hint(hints[item.name]), required=required)
    return found


def _from_hint(hint: Any) -> Field:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        field = _from_hint(args[0])
        for extra in args[1:]:
            if isinstance(extra, Bounds):
                field = dataclasses.replace(field, bounds=extra)
            elif isinstance(extra, Choice):
                field = dataclasses.replace(field, choice=extra)
            elif isinstance(extra, OneOrMany):
                field = dataclasses.replace(field, one_or_many=True)
            elif isinstance(extra, FilePath):
                field = dataclasses.replace(field, is_path=True)
            elif isinstance(extra, MaxItems):
                field = dataclasses.replace(field, max_items=extra.number)
        return dataclasses.replace(field, positional=_POSITIONAL in args[1:])
    if origin in (typing.Union, types.UnionType):
        if typing.get_origin(args[1]) is Literal:
            return dataclasses.replace(_from_hint(args[0]), words=typing.get_args(args[1]))
        return dataclasses.replace(_from_hint(args[0]), optional=True)
    if origin is tuple:
        return dataclasses.replace(_from_hint(args[0]), many=True)
    if origin is Literal:
        return Field(str, choices=args)
    return Field(hint)


def check_value(field: Field, value: Any, where: str) -> Any:
    """Returns ``value`` as the field holds it: a whole number as float where a float is wanted, a list as a tuple.

    Args:
      field: the setting.
      value: what a file or a command line says; lists for fields with ``many``.
      where: what messages begin with, such as ``"--epsilon"``.

    Raises:
      UserError: the type is wrong or the value impossible.
    """
    # The command line gives every value of a list in a list, None too.
    if field.optional and (value is None or (field.many and value in ([None], (None,)))):
        return None
    if field.many:
        return _check_items(field, value, where)
    if field.choices:
        return _check_choice(field, value, where)
    if isinstance(value, str) and value in field.words:
        return value
    given = value
    if field.kind is float and type(value) is int:
        value = float(value) if abs(value) < 2**1000 else math.inf
    if type(value) is not field.kind:
        others = "".join(f" or {word}" for word in (*field.words, *["null"] * field.optional))
        raise UserError(f"{where}: {show(given)} is not {_TYPE_NAMES[field.kind]}{others}")
    if field.kind is str:
        text = _check_text(value, where)
        return check_home(text, where) if field.is_path else text
    if field.kind is float and not math.isfinite(value):
        raise UserError(f"{where}: {show(given)} is not a finite number")
    if field.bounds is not None and not field.bounds.low <= value <= field.bounds.high:
        low = value < field.bounds.low
        limit = field.kind(field.bounds.low if low else field.bounds.high)
        # Such as 0.9999999, which is not 1.
        limit_text = f"{limit:g}" if field.kind is float and float(f"{limit:g}") == limit else str(limit)
        raise UserError(f"{where}: {show(given)} is out of range (at {'least' if low else 'most'} {limit_text})")
    return value


def _check_items(field: Field, value: Any, where: str) -> tuple[Any, ...]:
    if field.one_or_many and not (isinstance(value, list | tuple) and len(value) != 1):
        # A list of one is told as the value it stands for: a command line does not say which of the two is meant.
        (value,) = value if isinstance(value, list | tuple) else (value,)
        return (check_value(dataclasses.replace(field, many=False), value, where),)
    if not isinstance(value, list | tuple):
        raise UserError(f"{where}: {show(value)} is not a list, each item {_TYPE_NAMES[field.kind]}")
    if not 1 <= len(value) <= field.max_items:
        raise UserError(f"{where}: {len(value)} items, it takes 1 to {field.max_items}")
    item_field = dataclasses.replace(field, many=False, optional=False)
    return tuple(check_value(item_field, item, f"{where}[{index}]") for index, item in enumerate(value))


def _check_choice(field: Field, value: Any, where: str) -> str:
    choices = (*field.choices, *field.choice.added())
    if isinstance(value, str) and value in choices:
        return value
    for word, reason in field.choice.refused:
        if value == word:
            raise UserError(f"{where}: {value!r} {reason} ({', '.join(choices)})")
    hint = nearest(value[:100], choices) if isinstance(value, str) else ""
    more = f"; {field.choice.to_add}" if field.choice.to_add and isinstance(value, str) and not hint else ""
    raise UserError(f"{where}: {show(value)} is not {field.choice.noun}{hint} ({', '.join(choices)}){more}")


def _check_text(value: str, where: str) -> str:
    if not value:
        raise UserError(f"{where}: is empty")
    if len(value) > _MAX_TEXT:
        raise UserError(f"{where}: {show(value)} is longer than {_MAX_TEXT} characters")
    if not value.isprintable():
        raise UserError(f"{where}: {show(value)} has characters that cannot be printed")
    return value


def check_home(path: str, where: str) -> str:
    """The path with the home directory for ``~``, and that of a user for ``~user``.

    Neither a file nor ``--out=~/x`` meets a shell that would see to it.

    Raises:
      UserError: there is no such user, nor a file or directory of that very name.
    """
    expanded = expand_home(path)
    if not expanded.startswith("~") or os.path.lexists(path):
        return expanded
    user = path.partition(os.sep)[0][1:]
    problem = f"there is no user {show(user)}" if user else "there is no home directory (HOME)"
    raise UserError(f"{where}: {show(path)}: {problem}; a name that begins with ~ is given as {show('./' + path)}")


def expand_homes(settings: Any) -> None:
    """Puts the home directory in the place of ``~`` in all of a dataclass's own paths."""
    for name, field in fields(type(settings)).items():
        if not field.is_path or "." in name:
            continue
        value = getattr(settings, name)
        if isinstance(value, str):
            object.__setattr__(settings, name, expand_home(value))
        elif isinstance(value, tuple):
            object.__setattr__(settings, name, tuple(map(expand_home, value)))


def make_tuples(settings: Any) -> None:
    """Turns single values, and lists, into the tuples that `OneOrMany` fields hold; a frozen dataclass's last word."""
    for name, field in fields(type(settings)).items():
        if not field.one_or_many or "." in name:
            continue
        value = getattr(settings, name)
        if isinstance(value, str | int | float):
            object.__setattr__(settings, name, (value,))
        elif isinstance(value, list):
            object.__setattr__(settings, name, tuple(value))
