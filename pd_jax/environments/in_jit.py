"""EnvPool's step inside jit on a CPU, as a program that another process can take from the compilation cache.

EnvPool writes the address of its emulators into the program, and into the name of the function that it calls. Such a
program is another one for every pool in every process, and is compiled for each. Here the handle, which goes through
the program as an array, holds a number that counts the pools of the process. The program calls a function of this
module, once a step; that one looks up whose number it is, and calls EnvPool with the address, to send the actions and
to receive what came of them. A number that no pool of this process has, or has any more, is an error, and so is that of
a pool whose arrays are not those of the program.

XLA calls with the structures of its foreign function interface (``xla/ffi/api/c_api.h``), which are stable: they grow
at the end, and say how large they are.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import ctypes
import functools
import itertools
import sys
import threading
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import mlir

_TARGET = "pd_jax_envpool"
_INTERNAL = 13
"""The code of the error that nothing is known of."""


class _Sized(ctypes.Structure):
    """How each structure of the interface begins; the fields of a class come after those of its base."""

    _fields_ = [("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p)]


class _Buffer(_Sized):
    # Its rank and its dimensions come after these.
    _fields_ = [("dtype", ctypes.c_int), ("data", ctypes.c_void_p)]


class _Buffers(_Sized):
    _fields_ = [("size", ctypes.c_int64), ("types", ctypes.c_void_p), ("values", ctypes.POINTER(ctypes.c_void_p))]


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
_S64 = 5
"""XLA's number of the type int64."""


class _Function:
    """One of a pool's functions.

    Args:
      capsule: that EnvPool gives of it.
      address: of the pool, which the function takes as its only attribute.
    """

    def __init__(self, capsule: Any, address: int) -> None:
        self._call = _Handler(_pointer_in(capsule))
        self._address = ctypes.c_int64(address)
        self._scalar = _Scalar(_S64, ctypes.pointer(self._address))
        self._values = (ctypes.c_void_p * 1)(ctypes.addressof(self._scalar))
        self._attribute = ctypes.cast(self._values, ctypes.POINTER(ctypes.c_void_p))

    def __call__(self, frame: _Frame, *, arguments: int, results: int) -> int | None:
        """Calls with the first so many of a frame's buffers."""
        # A copy: XLA's own attributes are shared by all who run the program, and hold no address.
        copied = _Frame.from_buffer_copy(frame)
        copied.attributes.values = self._attribute
        copied.arguments.size, copied.results.size = arguments, results
        error: int | None = self._call(ctypes.addressof(copied))
        frame.future = copied.future
        return error


class _Calls:
    """What the numbers in handles stand for, in this process. A number is never given again."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._steps: dict[int, tuple[_Function, _Function, int, Any]] = {}
        self._awaited: dict[int, Array] = {}
        # Again by the same thread: garbage may be collected under it, and pools be forgotten.
        self._lock = threading.RLock()
        self._first: Any = None
        self._handler = _Handler(self._call)
        self._of_thread = threading.local()

    def add(self, send: Any, receive: Any, address: int, kind: int, pool: Any) -> int:
        """Takes up a pool, of two functions, whose arrays are of a kind, and gives its number."""
        step = _Function(send, address), _Function(receive, address), kind, pool
        with self._lock:
            number = next(self._numbers)
            self._steps[number] = step
            if self._first is None:
                # XLA asks it at once for which version of the interface it was built.
                self._first = _Handler(_pointer_in(send))
                jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(self._handler), platform="cpu", api_version=1)
        return number

    def wait_for(self, number: int, handle: Array) -> None:
        """Has the end of the process wait for a program, whose handle this is to be."""
        with self._lock:
            self._awaited[number] = handle

    def remove(self, number: int) -> None:
        """Of a pool that is closed."""
        with self._lock:
            self._steps.pop(number, None)
            handle: Any = self._awaited.get(number)
            if handle is not None and (handle.is_deleted() or handle.is_ready()):
                self._awaited.pop(number, None)

    def end(self) -> None:
        """At the end of the process, when XLA's threads could not call Python any more: waits for what they do."""
        with self._lock:
            if self._first is None:
                return
            self._steps.clear()
            arrays = list(self._awaited.values())
        with contextlib.suppress(Exception):
            arrays += jax.live_arrays()
        for array in arrays:
            with contextlib.suppress(Exception):
                array.block_until_ready()

    def _call(self, pointer: int) -> int | None:
        """In a thread of XLA's; what it raised would be lost."""
        frame = _Frame.from_address(pointer)
        try:
            self._keep_thread()
            if frame.extension:
                answer: int | None = self._first(pointer)
                return answer
            handle = _Buffer.from_address(frame.arguments.values[0])
            # The pool is held until it has been stepped, whoever closes it meanwhile.
            send, receive, kind, _pool = self._steps[ctypes.c_int64.from_address(handle.data).value]
            if kind != _Scalar.from_address(frame.attributes.values[0]).value[0]:
                # EnvPool would write beyond the end of these arrays.
                return _error(frame, b"the handle is of an environment with other arrays")
            error = send(frame, arguments=frame.arguments.size, results=1)
            return error or receive(frame, arguments=1, results=frame.results.size)
        except KeyError:
            return _error(frame, b"the environment that this program steps is closed")
        except BaseException as error:
            return _error(frame, f"stepping inside jit failed: {error!r}".encode())

    def _keep_thread(self) -> None:
        """Has Python keep what it knows of a thread of XLA's until the thread ends.

        Else it is made at each call and unmade after it, memory included, which takes longer than all else here.
        """
        if not hasattr(self._of_thread, "is_kept"):
            self._of_thread.is_kept = True
            # Python's own threads have frames below these.
            if sys._getframe(1).f_back is None:
                _ensure()


# Counts its calls, and what is known of the thread goes when each was taken back. This one never is.
_ensure = ctypes.PyDLL(None).PyGILState_Ensure


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
        self._pools: collections.deque[tuple[int, Any]] = collections.deque()

    def add(self, number: int, pool: Any) -> None:
        """Keeps a pool, which has this number, for some time."""
        self._pools.append((number, pool))
        while len(self._pools) > self._most:
            old, _ = self._pools.popleft()
            _calls.remove(old)


_forgotten = _Forgotten(4)


class InJit:
    """The step of a pool.

    A program goes on after the call of it has returned. So a pool outlives this object, unless it was closed.

    Args:
      pool: EnvPool's, of the kind that `gymnasium` has.

    Attributes:
      handle: uint8, what :meth:`step` is given first; threading it through is what orders the calls.
      kind: a number for the shapes and types of its arrays.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        (receive, send) = (method for _, method in pool._xla())
        address, (_, results), (received, *_) = receive
        _, (actions, _), (sent, *_) = send
        self._is_watched = True
        arrays = [(str(np.dtype(dtype)), tuple(shape)) for dtype, shape in (*actions, *results)]
        # The same in all processes.
        self.kind = zlib.crc32(repr(arrays).encode())
        self._number = _calls.add(sent, received, int.from_bytes(address, sys.byteorder), self.kind, pool)
        self._is_open = True
        self.handle = np.frombuffer(np.int64(self._number).tobytes(), np.uint8)
        self._width = widths_of(pool)
        with self._width:
            self._results = tuple((tuple(shape), jax.dtypes.canonicalize_dtype(dtype)) for dtype, shape in results)

    def step(self, handle: Array, actions: Array) -> tuple[Array, Any]:
        """As that of EnvPool's ``xla()``, to be traced; of 32 bits, whatever EnvPool's arrays have.

        Raises:
          ValueError: actions of another number of lanes, beyond whose end EnvPool would read.
        """
        lanes = self._pool.config["num_envs"]
        if len(actions) != lanes:
            raise ValueError(f"actions of {len(actions)} lanes, of an environment of {lanes}")
        with self._width:
            given = self._pool._from(self._width.widened(actions))
            self._pool._check_action(given)
            handle, *state = self._called(handle, *given)
            return handle, self._width.narrowed(self._pool._to(state, reset=False, return_info=True))

    def unwatched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function to be traced, whose calls JAX keeps no account of: such calls take a millisecond of Python's.

        The end of the process waits for them if it is told, by :meth:`wait_for`, what of. The function has to return
        the handle of its last step: JAX leaves out what nothing comes of.
        """

        @functools.wraps(function)
        def traced(*arguments: Any, **named: Any) -> Any:
            before, self._is_watched = self._is_watched, False
            try:
                return function(*arguments, **named)
            finally:
                self._is_watched = before

        return traced

    def wait_for(self, handle: Array) -> None:
        """Has the end of the process wait for the program that gives this handle, and no longer for one before."""
        _calls.wait_for(self._number, handle)

    def close(self) -> None:
        """What was compiled with :meth:`step` fails from now on."""
        _calls.remove(self._number)
        self._is_open = False

    def __del__(self) -> None:
        # At the end of the process there may be nothing left to keep it in.
        if getattr(self, "_is_open", False) and _forgotten is not None:
            _forgotten.add(self._number, self._pool)

    def _called(self, *arguments: Array) -> list[Array]:
        config: Any = jax.config
        if not self._is_watched and not config.jax_disable_jit:
            return _unwatched.bind(*arguments, kind=self.kind, results=self._results)
        results = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in self._results]
        call = jax.ffi.ffi_call(_TARGET, results, has_side_effect=True, input_output_aliases=_ALIASES)
        return list(call(*arguments, **_attributes(self.kind)))


_ALIASES = {0: 0}
_unwatched = Primitive(_TARGET)
"""As `jax.ffi.ffi_call`, without the effect that JAX would watch. XLA is told of it."""
_unwatched.multiple_results = True


def _attributes(kind: int) -> dict[str, Any]:
    """Of a program's call. EnvPool's functions take an address by this name, and get it when they are called."""
    return {"handle": np.int64(kind)}


@_unwatched.def_abstract_eval
def _shapes(*arguments: Any, kind: int, results: Any) -> list[Any]:
    return [jax.core.ShapedArray(shape, dtype) for shape, dtype in results]


def _lowered(context: mlir.LoweringRuleContext, *arguments: Any, kind: int, results: Any) -> Any:
    lower = jax.ffi.ffi_lowering(_TARGET, has_side_effect=True, operand_output_aliases=_ALIASES)
    return lower(context, *arguments, **_attributes(kind))


mlir.register_lowering(_unwatched, _lowered, platform="cpu")


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
