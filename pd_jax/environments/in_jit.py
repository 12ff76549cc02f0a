"""EnvPool's step inside jit on a CPU, as a program that another process can take from the compilation cache.

EnvPool writes the address of its emulators into the program, and into the name of the function that it calls. Such a
program is another one in every process, and is compiled in each. Here the program holds a number instead, which counts
the pools of the process, and calls a function of this module; that one looks up whose number it is, in its own process,
and calls EnvPool with the address. What is looked up is never what was written down elsewhere: a number that no pool of
this process has, or has any more, is an error.

XLA calls with the structures of its foreign function interface (``xla/ffi/api/c_api.h``), which are stable: they grow
at the end, and say how large they are.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import ctypes
import itertools
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array

_TARGET = "pd_jax_envpool"
_INTERNAL = 13
"""The code of the error that nothing is known of."""


class _Sized(ctypes.Structure):
    """How each structure of the interface begins; the fields of a class come after those of its base."""

    _fields_ = [("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p)]


class _Buffers(_Sized):
    _fields_ = [("size", ctypes.c_int64), ("types", ctypes.c_void_p), ("values", ctypes.c_void_p)]


class _Attributes(_Sized):
    _fields_ = [
        ("size", ctypes.c_int64),
        ("types", ctypes.c_void_p),
        ("names", ctypes.c_void_p),
        ("values", ctypes.POINTER(ctypes.c_void_p)),
    ]


class _Frame(_Sized):
    _fields_ = [
        ("api", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
        ("future", ctypes.c_void_p),
    ]


class _Scalar(ctypes.Structure):
    _fields_ = [("dtype", ctypes.c_int), ("value", ctypes.POINTER(ctypes.c_int64))]


class _Api(_Sized):
    # The version in it has a size, an extension and two numbers.
    _fields_ = [("version", ctypes.c_byte * 24), ("internal", ctypes.c_void_p), ("create_error", ctypes.c_void_p)]


class _ErrorArguments(_Sized):
    _fields_ = [("message", ctypes.c_char_p), ("code", ctypes.c_int)]


_Handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)


class _Calls:
    """What the numbers in programs stand for, in this process. A number is never given again."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._functions: dict[int, Any] = {}
        self._addresses: dict[int, ctypes.c_int64] = {}
        self._lock = threading.Lock()
        self._first: Any = None
        self._handler = _Handler(self._call)

    def add(self, capsule: Any, address: int) -> int:
        """Takes up one of a pool's functions, and gives its number."""
        function = _Handler(_pointer_in(capsule))
        with self._lock:
            number = next(self._numbers)
            self._functions[number], self._addresses[number] = function, ctypes.c_int64(address)
            if self._first is None:
                # XLA asks it at once for which version of the interface it was built.
                self._first = function
                jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(self._handler), platform="cpu", api_version=1)
        return number

    def remove(self, number: int) -> None:
        """Of a pool that is closed."""
        with self._lock:
            self._functions.pop(number, None)
            self._addresses.pop(number, None)

    def end(self) -> None:
        """At the end of the process, when XLA's threads could not call Python any more: waits for what they do."""
        with self._lock:
            if self._first is None:
                return
            self._functions.clear()
            self._addresses.clear()
        arrays = []
        with contextlib.suppress(Exception):
            arrays = jax.live_arrays()
        for array in arrays:
            with contextlib.suppress(Exception):
                array.block_until_ready()

    def _call(self, pointer: int) -> int | None:
        """In a thread of XLA's; what it raised would be lost."""
        frame = _Frame.from_address(pointer)
        try:
            if frame.extension:
                answer: int | None = self._first(pointer)
                return answer
            given = _Scalar.from_address(frame.attributes.values[0])
            number = given.value[0]
            function, address = self._functions[number], self._addresses[number]
            # A copy with another value of the attribute: XLA's own is shared by all who run the program.
            copied = _Frame.from_buffer_copy(frame)
            scalar = _Scalar(given.dtype, ctypes.pointer(address))
            values = (ctypes.c_void_p * 1)(ctypes.addressof(scalar))
            copied.attributes.values = ctypes.cast(values, ctypes.POINTER(ctypes.c_void_p))
            answer = function(ctypes.addressof(copied))
            frame.future = copied.future
            return answer
        except KeyError:
            return _error(frame, b"the environment that this program steps is closed")
        except BaseException as error:
            return _error(frame, f"stepping inside jit failed: {error!r}".encode())


_calls = _Calls()
# Registered after JAX's own, so called before them.
atexit.register(_calls.end)


class Widths(contextlib.AbstractContextManager[None]):
    """Has JAX take a pool's arrays of 64 bits as they are, within a ``with``; without such arrays nothing changes.

    MuJoCo's observations, rewards and actions are float64, which JAX is told not to have. EnvPool writes them whatever
    is declared of the result's type, and so they are declared as they are, and rounded in the same program.

    Args:
      action_type: NumPy's, of the pool's actions.
      is_wide: whether any of the pool's arrays has 64 bits.
    """

    def __init__(self, action_type: Any, *, is_wide: bool) -> None:
        self._action_type = action_type
        self._is_wide = is_wide
        self._entered: list[Any] = []

    def __enter__(self) -> None:
        context = jax.enable_x64(True) if self._is_wide else contextlib.nullcontext()
        context.__enter__()
        self._entered.append(context)

    def __exit__(self, *error: object) -> None:
        self._entered.pop().__exit__(*error)

    def widened(self, actions: Any) -> Any:
        """Actions in the pool's own type."""
        return actions.astype(self._action_type) if self._is_wide else actions

    def narrowed(self, outputs: Any) -> Any:
        """A pool's outputs in the types of 32 bits."""
        return jax.tree.map(_narrow, outputs) if self._is_wide else outputs


def widths_of(pool: Any) -> Widths:
    """What a pool's arrays are in."""
    types = [np.dtype(dtype) for _, (_, specs, _) in pool._xla() for side in specs for dtype, _ in side]
    (action_type, _) = dict(pool._xla())["send"][1][0][-1]
    return Widths(np.dtype(action_type), is_wide=any(dtype.itemsize == 8 for dtype in types))


def _narrow(leaf: Array) -> Array:
    if leaf.dtype.itemsize < 8:
        return leaf
    return leaf.astype(np.float32 if np.issubdtype(leaf.dtype, np.floating) else np.int32)


class _Forgotten:
    """Pools that nobody holds any more and nobody has closed: a program may still be stepping them.

    The last few are kept; of older ones programs fail as of closed ones.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pools: collections.deque[tuple[list[int], Any]] = collections.deque()

    def add(self, numbers: list[int], pool: Any) -> None:
        """Keeps a pool, whose functions have these numbers, for some time."""
        self._pools.append((numbers, pool))
        while len(self._pools) > self._most:
            old, _ = self._pools.popleft()
            for number in old:
                _calls.remove(number)


_forgotten = _Forgotten(4)


class InJit:
    """The step of a pool.

    A program goes on after the call of it has returned. So a pool outlives this object, unless it was closed.

    Args:
      pool: EnvPool's, of the kind that `gymnasium` has.

    Attributes:
      handle: uint8, what :meth:`step` is given first; threading it through is what orders the calls.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.handle = np.zeros(ctypes.sizeof(ctypes.c_void_p), np.uint8)
        methods = dict(zip(("receive", "send"), (method for _, method in pool._xla()), strict=True))
        self._numbers: list[int] = []
        self._width = widths_of(pool)
        with self._width:
            self._receive = self._function(*methods["receive"])
            self._send = self._function(*methods["send"])

    def step(self, handle: Array, actions: Array) -> tuple[Array, Any]:
        """As that of EnvPool's ``xla()``, to be traced; of 32 bits, whatever EnvPool's arrays have."""
        with self._width:
            given = self._pool._from(self._width.widened(actions))
            self._pool._check_action(given)
            handle, *state = self._receive(self._send(handle, *given))
            return handle, self._width.narrowed(self._pool._to(state, reset=False, return_info=True))

    def close(self) -> None:
        """What was compiled with :meth:`step` fails from now on."""
        for number in self._numbers:
            _calls.remove(number)
        self._numbers = []

    def __del__(self) -> None:
        # At the end of the process there may be nothing left to keep it in.
        if getattr(self, "_numbers", None) and _forgotten is not None:
            _forgotten.add(self._numbers, self._pool)

    def _function(self, handle: bytes, specs: Any, capsules: Any) -> Callable[..., Any]:
        number = _calls.add(capsules[0], int.from_bytes(handle, sys.byteorder))
        self._numbers.append(number)
        taken, given = (
            [(tuple(shape), jax.dtypes.canonicalize_dtype(dtype)) for dtype, shape in side] for side in specs
        )
        results = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in given]
        layouts = [[tuple(range(len(shape))) for shape, _ in side] for side in (taken, given)]
        is_single = len(results) == 1
        call = jax.ffi.ffi_call(
            _TARGET,
            results[0] if is_single else results,
            has_side_effect=True,
            input_layouts=layouts[0],
            output_layouts=layouts[1][0] if is_single else layouts[1],
            input_output_aliases={0: 0},
        )
        return lambda *arguments: call(*arguments, handle=np.int64(number))


def _pointer_in(capsule: Any) -> int:
    python = ctypes.pythonapi
    name, pointer = python.PyCapsule_GetName, python.PyCapsule_GetPointer
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address: int = pointer(capsule, name(capsule))
    return address


def _error(frame: _Frame, message: bytes) -> int | None:
    """An error of XLA's."""
    arguments = _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, message, _INTERNAL)
    create = _Handler(_Api.from_address(frame.api).create_error)
    error: int | None = create(ctypes.addressof(arguments))
    return error
