"""The ``pd-jax`` command."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeVar

from pd_jax.commands.usage import group_usage, program_usage
from pd_jax.config.commands import TABLE, Command, CommandGroup
from pd_jax.errors import OUT_OF_MEMORY, UserError, is_out_of_memory, nearest
from pd_jax.system import hosts, own_modules, streams
from pd_jax.system.interrupts import Interrupted, forget_interrupts, interrupt_now, raised_interrupt, stopping_signals
from pd_jax.system.text import show
from pd_jax.version import __version__

E = TypeVar("E")
_HELP = ("-h", "--help")


def run() -> NoReturn:
    """The ``pd-jax`` program: :func:`main`, and the end of the process."""
    streams.prepare()
    code = main()
    # What could not be written so far has been told, and would be a traceback at the interpreter's end.
    streams.outlast("stdout")
    hosts.for_all(lambda among: among.leave(code))
    waits = any(not thread.daemon and thread is not threading.main_thread() for thread in threading.enumerate())
    if waits or hosts.current() is not None:
        # Orbax's threads have been seen to wait for one another for minutes at the end of a process, and JAX's client
        # to abort it; all is said and written.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, 2 for a user's error, 3 for something to look at, 128 + n after
    signal n."""
    argv = list(sys.argv[1:] if argv is None else argv)
    own: list[str] = []
    told = os.environ.get(own_modules.VARIABLE)
    forget_interrupts()
    # Before the commands install handlers of their own, there is nothing to save.
    previous = {number: signal.signal(number, interrupt_now) for number in stopping_signals()}
    try:
        own, argv = own_modules.take_from(argv)
        if own:
            own_modules.tell_others(own)
        code = _dispatch(argv)
        # Not left to the interpreter's end, where nothing can be said about a full disk or a reader who has gone.
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except UserError as error:
        return _fail(argv, str(error), 2)
    except Interrupted as interrupt:
        return _stopped(argv, interrupt)
    except KeyboardInterrupt:
        hint = "; --resume goes on from the last checkpoint" if _is_resumable(argv) else ""
        return _fail(argv, f"stopped at once{hint}", 130)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "pd_jax":
            raise
        # A package that is not there, or is broken: no fault of what was asked for.
        if argv[:1] == ["doctor"]:
            from pd_jax.resources.doctor.plain import print_diagnosis

            return print_diagnosis(argv[1:])
        return _fail(argv, f"{error}; pd-jax doctor says what is missing or broken", 2)
    except OSError as error:
        where = f"{os.fspath(error.filename)}: " if isinstance(error.filename, str | os.PathLike) else ""
        return _fail(argv, f"{where}{error.strerror or error}", 2)
    except Exception as error:
        # A collective fails at once when a process is lost; which one, the watching thread finds out.
        hosts.for_all(lambda among: among.wait_to_be_told())
        if isinstance(error, MemoryError | RuntimeError) and is_out_of_memory(error):
            return _fail(argv, OUT_OF_MEMORY, 2)
        if (raised := raised_interrupt()) is not None:
            return _stopped(argv, raised)
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if own:
            _restore(own_modules.VARIABLE, told)


def _restore(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value


def _dispatch(argv: list[str]) -> int:
    if not argv:
        print(program_usage(), file=sys.stderr)
        return 2
    if argv[0] in _HELP:
        print(program_usage())
        return 0
    if argv[0] == "--version":
        print(f"pd-jax {__version__}")
        return 0
    entry, options = _find(TABLE, argv[0]), argv[1:]
    if isinstance(entry, Command):
        return _run((argv[0],), entry, options)
    if options and options[0] in _HELP:
        print(group_usage(argv[0], entry))
        return 0
    name = entry.default if not options or options[0].startswith("-") else options.pop(0)
    return _run((argv[0], name), _find(entry.commands, name), options)


def _find(commands: Mapping[str, E], name: str) -> E:
    if name not in commands:
        raise UserError(f"{show(name)} is not a command{nearest(name[:60], commands)} ({', '.join(commands)})")
    return commands[name]


def _run(words: Sequence[str], command: Command, options: Sequence[str]) -> int:
    # Late, as all that takes time to import: a signal on the way is one line.
    from pd_jax.commands.runner import import_own_modules, run_command
    from pd_jax.config.loading import load_config
    from pd_jax.system.progress import print_warning

    # Settings may name what they register.
    import_own_modules(command)
    try:
        config = load_config(command.settings, options, " ".join(words))
    except SystemExit:  # After --help.
        return 0
    # What is on disk is made, whoever can be told of it. Of other commands the words are all that they make.
    out = getattr(config, "out", None)
    if out is not None:
        streams.outlast("stdout")
    code = run_command(words, command, config)
    if (fault := streams.fault_in("stdout")) is not None and not isinstance(fault, BrokenPipeError):
        print_warning(f"standard output: {fault.strerror}; what was made is in {out}")
    return code


def _stopped(argv: Sequence[str], interrupt: Interrupted) -> int:
    hint = "; add --resume to go on" if _is_resumable(argv) else ""
    return _fail(argv, f"stopped by {interrupt}{hint}", 128 + interrupt.signal_number)


def _fail(argv: Sequence[str], message: str, code: int) -> int:
    print(f"{' '.join(['pd-jax', *_command_words(argv)])}: {message}", file=sys.stderr)
    hosts.for_all(lambda among: among.say_ended(code, message))
    return code


def _command_words(argv: Sequence[str]) -> Sequence[str]:
    """The beginning of a command line that names a command, and one of its own commands if it is a group."""
    entry = TABLE.get(argv[0]) if argv else None
    if entry is None:
        return ()
    return argv[:2] if isinstance(entry, CommandGroup) and set(argv[1:2]) & set(entry.commands) else argv[:1]


def _is_resumable(argv: Sequence[str]) -> bool:
    """Whether what the command line asks for leaves anything to go on from; an evaluation need not, a report never."""
    entry = TABLE.get(argv[0]) if argv else None
    if not isinstance(entry, Command) or not (entry.computes and entry.resumes):
        return False
    return argv[0] != "evaluate" or any(argument.split("=")[0] in ("--out", "--config") for argument in argv)
