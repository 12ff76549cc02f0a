"""Pickles from strangers, read as data: their instructions are followed, and nothing that they name is called.

A pickle is a program. Containers and plain values are built; what the program would look up becomes a :class:`Name`,
and what it would make by calling something a :class:`Made`, which only says what it would have been.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from pd_jax.teachers.metadata import Malformed

# A network's pickle has some hundreds; a training's log, of which each score is one or a few, a million or two.
_MAX_INSTRUCTIONS = 2**22
# What reading a damaged pickle comes across.
_DAMAGE = (ValueError, IndexError, TypeError, KeyError, OverflowError, UnicodeError, AttributeError, EOFError)


@dataclasses.dataclass(frozen=True)
class Name:
    """A class or function that a pickle names, such as ``torch.nn.modules.activation.ReLU``."""

    path: str


@dataclasses.dataclass
class Made:
    """What a pickle would have made by calling something: that, its arguments, and the state it would have got."""

    function: str
    arguments: Any = ()
    state: Any = None


def interpret(file: BinaryIO, machine: PickleMachine, what: str) -> Any:
    """Follows one pickle to its end.

    Args:
      file: stands behind the pickle afterwards.
      machine: new for each pickle.
      what: the file is meant to be, for messages.

    Raises:
      Malformed: it is none, is cut short or damaged, or has instructions that no file of weights has.
    """
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if opcode.name == "STOP":
                return machine.stack.pop()
            if count > _MAX_INSTRUCTIONS:
                raise Malformed("is a pickle of more instructions than any agent's; not followed to its end")
            machine.step(opcode.name, argument)
    except _DAMAGE as error:
        raise Malformed(f"not {what}, or a damaged one ({one_line(error)})") from None
    raise Malformed(f"not {what}, or one that was cut short")


def one_line(error: BaseException) -> str:
    """What an exception says, in a few words without line breaks."""
    return " ".join(str(error).split())[:120] or type(error).__name__


_VALUES = frozenset(
    "INT LONG LONG1 LONG4 BININT BININT1 BININT2 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Made("builtins.set"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})


class PickleMachine:
    """The stack, its marks and the memo of a pickle; of its instructions those that make something are only noted.

    Attributes:
      stack: of what was built and is not yet part of something else.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Follows one instruction."""
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name in _PUTS:
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in _GETS:
            stack.append(self._memo[argument])
        elif name not in ("PROTO", "FRAME"):
            action = getattr(self, f"_{name.lower()}", None)
            if action is None:
                raise Malformed(f"is a pickle with the instruction {name}, which no file of weights has; not followed")
            action(argument)

    def call(self, path: str, arguments: Any) -> Any:
        """What stands for the result of a call; here an ordered dict is a dict, and anything else is only noted."""
        return {} if path == "collections.OrderedDict" and not arguments else Made(path, arguments)

    def persistent(self, identity: Any) -> Any:
        """What stands for an object that the pickle names and does not hold; there are none here."""
        raise Malformed("is a pickle of objects that it does not hold; not followed")

    def _marked(self) -> list[Any]:
        """What lies above the last mark; both go."""
        place = self._marks.pop()
        items = self.stack[place:]
        del self.stack[place:]
        return items

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _list(self, _: Any) -> None:
        self.stack.append(self._marked())

    def _dict(self, _: Any) -> None:
        items = self._marked()
        self.stack.append({})
        self._set(items)

    def _frozenset(self, _: Any) -> None:
        self._marked()
        self.stack.append(Made("builtins.frozenset"))

    def _additems(self, _: Any) -> None:
        self._marked()

    def _append(self, _: Any) -> None:
        item = self.stack.pop()
        self._extend([item])

    def _appends(self, _: Any) -> None:
        self._extend(self._marked())

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._marked())

    def _set(self, items: list[Any]) -> None:
        """Pairs go into a dict; what would be another object's, or has no plain key, is of no use here."""
        if isinstance(self.stack[-1], dict):
            pairs = zip(items[::2], items[1::2], strict=True)
            self.stack[-1].update((key, value) for key, value in pairs if isinstance(key, str | int | float))

    def _global(self, argument: str) -> None:
        self.stack.append(Name(argument.replace(" ", ".")))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Name(f"{module}.{name}"))

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.call(function.path if isinstance(function, Name) else "", arguments))

    def _newobj(self, _: Any) -> None:
        self._reduce(None)

    def _newobj_ex(self, _: Any) -> None:
        self.stack.pop()
        self._reduce(None)

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Made):
            self.stack[-1].state = state

    def _binpersid(self, _: Any) -> None:
        self.stack.append(self.persistent(self.stack.pop()))
