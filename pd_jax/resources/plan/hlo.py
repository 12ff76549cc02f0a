"""What a compiled program says of itself: copies of a replay's rings, and all-reduces with their bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([\w-]+)\((.*)$")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_SHAPE = re.compile(r"\b(pred|bf16|[fsuc]\d+)\[([\d,]*)\]")
_CALLED = re.compile(r"calls=%?([\w.-]+)")
_OPERAND = re.compile(r"%([\w.-]+)")
_INNER = re.compile(r"(?:calls|to_apply|condition)=%?([\w.-]+)")
_DOT = re.compile(
    r"stablehlo\.dot_general .*contracting_dims = \[([\d, ]*)\] x .*: \(tensor<(\S+?)>, .*-> tensor<(\S+?)>"
)
_CONVOLUTION = re.compile(
    r"stablehlo\.convolution.*\]x\[([^\]]*)\]->.*: \(tensor<.*?>, tensor<(\S+?)>\) -> tensor<(\S+?)>"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_LOOP_BODY = re.compile(r"body=%?([\w.-]+)")
_ELEMENT_BY_ELEMENT = frozenset(
    {"bitcast", "reshape", "copy", "convert", "add", "subtract", "multiply", "divide", "maximum", "minimum", "negate"}
)
# Of the first operand they read no more than they give.
_LOOK_UP = frozenset({"slice", "dynamic-slice", "gather"})
_FREE = frozenset({"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "while", "conditional", "call"})
# Of a TPU. A compiler moves what is small between it and the memory as it sees fit.
_FAST_MEMORY = re.compile(r"S\(1\)")
_IN_FAST_MEMORY = re.compile(r"\b[a-z]+\d*\[\d[\d,]*\]\{[^{}]*S\(1\)[^{}]*\}")
_BYTES = {"pred": 1, "bf16": 2}
# What makes an array of its own from another one of the same size. Asynchronous copies are counted where they begin.
_COPIES = frozenset({"copy", "copy-start", "transpose", "convert", "reverse", "gather", "concatenate", "select"})
_MOVES = frozenset({"copy", "copy-start", "transpose", "reverse"})
# Of these the result is the operand, written in part.
_IN_PLACE = frozenset({"dynamic-update-slice", "bitcast", "parameter", "get-tuple-element", "tuple"})


class RingShape(NamedTuple):
    """An array that nothing is to copy, in whatever order its axes lie.

    Attributes:
      dtype: ``u8`` or another of XLA's types.
      axes: lengths of its axes but for those of 1, the smallest first.
    """

    dtype: str
    axes: tuple[int, ...]

    @classmethod
    def of(cls, dtype: str, shape: Sequence[int]) -> RingShape:
        """Of an array of that shape."""
        return cls(dtype, tuple(sorted(length for length in shape if length > 1)))

    @property
    def nbytes(self) -> int:
        """Of the array."""
        return math.prod(self.axes) * _bytes_of(self.dtype)


class Instruction(NamedTuple):
    """One operation of a program, in the computation that it stands in."""

    computation: str
    name: str
    result: str
    opcode: str
    rest: str
    is_root: bool


def instructions(text: str) -> Iterator[Instruction]:
    """The operations of a compiled program, from what ``compiled.as_text()`` gives."""
    computation = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            computation = match.group(1)
        elif match := _INSTRUCTION.match(line):
            name, result, opcode, rest = match.groups()
            yield Instruction(computation, name, result, opcode, rest, line.lstrip().startswith("ROOT "))


def ring_copies(text: str, rings: Collection[RingShape], *, has_room: bool = True) -> list[str]:
    """The operations that make an array as large as a ring, and are no write in place.

    A small ring that is moved to a TPU's fast memory or from there is not copied: it shows in the traffic alone.

    Args:
      text: of a compiled program.
      rings: the columns of a replay on one device.
      has_room: whether the program's temporaries are large enough for a ring. Where they are not, what was written in
        place lies where it was: XLA for CPUs puts a copy behind it, onto itself.

    Returns:
      the operations' names; none for a program that reads and writes rings where they are.
    """
    known = list(instructions(text))
    by_name = {one.name: one for one in known}
    roots = {one.computation: one for one in known if one.is_root}
    called = {match.group(1) for one in known if one.opcode == "fusion" and (match := _CALLED.search(one.rest))}
    found = []
    for one in known:
        # Within a fusion nothing is written down but its root.
        if one.computation in called or not _is_ring(one.result, rings):
            continue
        opcode = one.opcode
        if opcode == "fusion" and (match := _CALLED.search(one.rest)):
            root = roots.get(match.group(1))
            if root is None or root.opcode in _IN_PLACE:
                continue
            found.append(one.name)
        elif opcode in _COPIES:
            operands = [by_name[name] for name in _operands(one) if name in by_name]
            if any(_FAST_MEMORY.search(each.result) for each in (one, *operands)):
                continue
            if not has_room and any(_writes_in_place(each, roots) for each in operands):
                continue
            found.append(one.name)
    return found


def _writes_in_place(one: Instruction, roots: Mapping[str, Instruction]) -> bool:
    match = _CALLED.search(one.rest) if one.opcode == "fusion" else None
    root = one if match is None else roots.get(match.group(1))
    return root is not None and root.opcode == "dynamic-update-slice"


def all_reduces(text: str) -> list[int]:
    """The bytes of every all-reduce, of one device's operand."""
    return [
        sum(_sizes_in_bytes(one.result)) // (2 if one.opcode == "all-reduce-start" and _is_pair(one.result) else 1)
        for one in instructions(text)
        if one.opcode in ("all-reduce", "all-reduce-start")
    ]


def other_collectives(text: str) -> list[str]:
    """Kinds of the other operations that wait for other devices, one for each of them."""
    kinds = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")
    opcodes = (one.opcode.removesuffix("-start") for one in instructions(text))
    return [opcode for opcode in opcodes if opcode in kinds]


def _is_ring(result: str, rings: Collection[RingShape]) -> bool:
    shapes = (
        RingShape.of(dtype, list(map(int, filter(None, dims.split(","))))) for dtype, dims in _SHAPE.findall(result)
    )
    return any(shape in rings for shape in shapes)


def bytes_moved(known: Sequence[Instruction]) -> list[int]:
    """The sizes of what a program writes down once more as it is, in the same order or another.

    Args:
      known: all :func:`instructions` of a program.

    Returns:
      bytes, one for each operation that does nothing but copy, turn or reverse an array, alone or as a fusion.
    """
    bodies: dict[str, set[str]] = {}
    for one in known:
        bodies.setdefault(one.computation, set()).add(one.opcode)
    sizes = []
    for one in executed(known):
        match = _CALLED.search(one.rest) if one.opcode == "fusion" else None
        opcodes = {one.opcode} if match is None else bodies.get(match.group(1), set())
        if opcodes & _MOVES and opcodes <= _MOVES | _FREE | {"reshape"}:
            size = sum(_sizes_in_bytes(one.result))
            sizes.append(size // 2 if one.opcode == "copy-start" else size)
    return sizes


def _sizes_in_bytes(result: str) -> list[int]:
    return [_count(dims) * _bytes_of(dtype) for dtype, dims in _SHAPE.findall(result)]


def _is_pair(result: str) -> bool:
    """Whether an asynchronous operation's result names its operand beside what comes of it, as for CUDA."""
    shapes = _SHAPE.findall(result)
    return len(shapes) == 2 and shapes[0] == shapes[1]


def _count(dims: str) -> int:
    return math.prod(int(number) for number in dims.split(",") if number)


def _bytes_of(dtype: str) -> int:
    return _BYTES.get(dtype) or max(1, int(re.sub(r"\D", "", dtype)) // 8)


def count_operations(text: str) -> int:
    """How many operations a compiled program starts one after another, with the bodies of loops counted once."""
    return len(executed(list(instructions(text))))


def traffic_bytes(text: str, rings: Collection[RingShape], turns: int = 1, parts: int = 1) -> int:
    """What the operations of a compiled program read and write, for one turn of its loop if it has one.

    For compilers that do not say. Of what is only sliced the slices are counted, of what is written in place what is
    written, and of the branches of a conditional their mean, since one of them runs. What comes before the loop and
    after it is shared by its turns. What a cache keeps from one operation to the next is counted again;
    what lies in a TPU's fast memory is not, but for its way there and back.

    Args:
      text: of a compiled program.
      rings: as for :func:`ring_copies`. Of them nothing is counted but what is looked up.
      turns: of the loop.
      parts: turns of a loop within it.
    """
    known = list(instructions(text))
    traffic = _Traffic(known, rings)
    shares = _shares(known, turns, parts)
    return round(sum(shares.get(one.computation, 1.0) * traffic.of(one) for one in executed(known)))


class _Traffic:
    """What single operations read and write."""

    def __init__(self, known: Sequence[Instruction], rings: Collection[RingShape]) -> None:
        self._by_name = {one.name: one for one in known}
        self._bodies: dict[str, list[Instruction]] = {}
        for one in known:
            self._bodies.setdefault(one.computation, []).append(one)
        self._sizes = {one.name: sum(_sizes_in_bytes(_IN_FAST_MEMORY.sub("", one.result))) for one in known}
        self._rings = {one.name for one in known if _is_ring(one.result, rings)}

    def of(self, one: Instruction) -> int:
        """Bytes read and written."""
        names = _operands(one)
        if one.opcode.endswith("-done"):
            return 0
        if one.opcode.endswith("-start"):
            # Its result names the operand as well, and what is moved is no larger than either.
            moved = min((size for size in _sizes_in_bytes(one.result) if size > 8), default=0)
            return moved if _IN_FAST_MEMORY.search(one.result) else 2 * moved
        body = self._body(one)
        if body is None:
            return self._written(one) + sum(self._read(name, [one]) for name in dict.fromkeys(names))
        parameters = {int(inner.rest.split(")")[0]): inner for inner in body if inner.opcode == "parameter"}
        read = (self._read(parameters[index].name, body) for index in range(len(names)) if index in parameters)
        root = next((inner for inner in body if inner.is_root), body[-1])
        return self._written(root) + sum(read)

    def _body(self, one: Instruction) -> list[Instruction] | None:
        match = _CALLED.search(one.rest) if one.opcode == "fusion" else None
        return self._bodies.get(match.group(1)) if match else None

    def _whole(self, name: str) -> int:
        return 0 if name in self._rings else self._sizes.get(name, 0)

    def _written(self, root: Instruction) -> int:
        operands = [self._by_name[name] for name in _operands(root) if name in self._by_name]
        if root.opcode == "tuple":
            return sum(map(self._written, operands))
        if root.opcode == "bitcast" and operands:
            return self._written(operands[0])
        if root.opcode == "dynamic-update-slice" and len(operands) > 1:
            return self._sizes[operands[1].name]
        return self._whole(root.name)

    def _read(self, name: str, readers: Sequence[Instruction]) -> int:
        """What some operations of one computation read of an array."""
        total, whole = 0, self._whole(name)
        for one in readers:
            operands = _operands(one)
            if name not in operands:
                continue
            if one.opcode in _LOOK_UP and operands[0] == name:
                total += self._sizes[one.name]
            elif one.opcode in _ELEMENT_BY_ELEMENT and not one.is_root and len(readers) > 1:
                # Within a fusion no more is computed than is read of it.
                total += self._read(one.name, readers)
            elif one.opcode != "dynamic-update-slice" or operands[0] != name:
                total += whole
        return total if name in self._rings else min(total, whole)


def _operands(one: Instruction) -> list[str]:
    return _OPERAND.findall(one.rest.split("), ")[0])


def _shares(known: Sequence[Instruction], turns: int, parts: int) -> dict[str, float]:
    """How often each computation runs for one turn of the program's loop, where that is not once.

    The branches of a conditional run equally often.
    """
    shares: dict[str, float] = {}
    conditionals = []
    for one in known:
        if one.opcode == "conditional" and (match := _BRANCHES.search(one.rest)):
            conditionals.append((one.computation, _OPERAND.findall(match.group(1))))
    # A conditional within a branch runs as often as the branch does: as many passes as they are nested at the most.
    for _ in conditionals:
        for computation, names in conditionals:
            shares |= dict.fromkeys(names, shares.get(computation, 1.0) / len(names))
    loops = {one.computation: match.group(1) for one in known if (match := _loop(one))}
    bodies = set(loops.values())
    for computation, body in loops.items():
        if computation not in bodies:
            shares[computation] = 1.0 / turns
            # A loop in a loop's body, such as that over the parts of a minibatch.
            if body in loops:
                shares[loops[body]] = float(parts)
    return shares


def _loop(one: Instruction) -> re.Match[str] | None:
    return _LOOP_BODY.search(one.rest) if one.opcode == "while" else None


def executed(known: Sequence[Instruction]) -> list[Instruction]:
    """What does something: not within a fusion or a reduction, and more than a name for a part of something.

    Args:
      known: all :func:`instructions` of a program.
    """
    inner = {name for one in known if one.opcode != "while" for name in _INNER.findall(one.rest)}
    return [one for one in known if one.computation not in inner and one.opcode not in _FREE]


def product_flops(text: str) -> float:
    """The arithmetic of the products and convolutions of a program before it is compiled, from its StableHLO.

    The bodies of loops and of functions are counted once. For compilers that do not say.

    Args:
      text: what ``lowered.as_text()`` gives.
    """
    total = 0.0
    for line in text.splitlines():
        if match := _DOT.search(line):
            contracted = [int(number) for number in match.group(1).split(",") if number.strip()]
            left, out = _dims(match.group(2)), _dims(match.group(3))
            total += 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)
        elif match := _CONVOLUTION.search(line):
            axes = [axis.strip() for axis in match.group(1).split(",")]
            kernel, out = _dims(match.group(2)), _dims(match.group(3))
            total += 2.0 * math.prod(out) * math.prod(kernel) / kernel[axes.index("o")]
    return total


def _dims(tensor: str) -> list[int]:
    """Of ``32x84x84x4xf32``."""
    return [int(number) for number in tensor.split("x")[:-1]]
