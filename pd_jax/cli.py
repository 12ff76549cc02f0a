"""The ``pd-jax`` command."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from pd_jax.errors import OUT_OF_MEMORY, UserError, is_out_of_memory, nearest
from pd_jax.system import compilation_cache, hosts
from pd_jax.system.interrupts import Interrupted, forget_interrupts, interrupt_now, raised_interrupt
from pd_jax.version import __version__

_ABOUT: Mapping[str, str] = {
    "train-teacher": "train a teacher with PQN or DQN",
    "collect": "record a teacher's play as a data set",
    "distill": "distil teachers into a student, from live or recorded play",
    "online": "distil a teacher into a student while the teacher is still learning",
    "sweep": "distil a grid of students, and compare them in one table",
    "evaluate": "score a teacher, a run's student, or one against the other",
    "report": "put the results of runs into the paper's tables",
    "teachers": "list the bundled teachers, show one, import others",
}


def run() -> NoReturn:
    """The ``pd-jax`` program: :func:`main`, and the end of the process."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal without ± shows a question mark there.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    code = main()
    hosts.for_all(lambda among: among.leave(code))
    waits = any(not thread.daemon and thread is not threading.main_thread() for thread in threading.enumerate())
    if waits or hosts.current() is not None:
        # After a failed save (a full disk) Orbax's threads wait for one another for minutes, and JAX's client aborts if
        # another process is gone when it says goodbye; all is said and written.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, 2 for a user's error, 128 + n after signal n."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command = _name_of_command(argv)
    forget_interrupts()
    # Before the commands install handlers of their own, there is nothing to save.
    previous = {number: signal.signal(number, interrupt_now) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = _dispatch(argv)
        # Not left to the interpreter's end, where nothing can be said about a full disk or a reader who has gone.
        sys.stdout.flush()
        return code
    except UserError as error:
        return _fail(command, str(error), 2)
    except Interrupted as interrupt:
        return _stopped(command, interrupt, argv)
    except KeyboardInterrupt:
        hint = "; --resume goes on from the last checkpoint" if _is_resumable(argv) else ""
        return _fail(command, f"stopped at once{hint}", 130)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{os.fspath(error.filename)}: " if isinstance(error.filename, str | os.PathLike) else ""
        return _fail(command, f"{where}{error.strerror or error}", 2)
    except Exception as error:
        # A collective fails at once when a process is lost; which one, the watching thread finds out.
        hosts.for_all(lambda among: among.wait_to_be_told())
        if isinstance(error, MemoryError | RuntimeError) and is_out_of_memory(error):
            return _fail(command, OUT_OF_MEMORY, 2)
        if (raised := raised_interrupt()) is not None:
            return _stopped(command, raised, argv)
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stopped(command: str, interrupt: Interrupted, argv: Sequence[str]) -> int:
    hint = "; add --resume to go on" if _is_resumable(argv) else ""
    return _fail(command, f"stopped by {interrupt}{hint}", 128 + interrupt.signal_number)


def _name_of_command(argv: Sequence[str]) -> str:
    """What messages call the command: its name, and that of ``teachers``' own command."""
    if argv[:1] == ["teachers"]:
        from pd_jax.config.teachers import TEACHERS_COMMANDS

        return " ".join(["teachers", *(name for name in argv[1:2] if name in TEACHERS_COMMANDS)])
    return argv[0] if argv and argv[0] in _ABOUT else ""


def _is_resumable(argv: Sequence[str]) -> bool:
    """Whether what the command line asks for leaves anything to go on from; an evaluation need not, a report never."""
    if argv[:1] in (["teachers"], ["report"]):
        return False
    return argv[:1] != ["evaluate"] or any(argument.split("=")[0] in ("--out", "--config") for argument in argv)


def _dispatch(argv: list[str]) -> int:
    if not argv:
        print(_usage(), file=sys.stderr)
        return 2
    from pd_jax.config.commands import COMMANDS
    from pd_jax.config.loading import load_config
    from pd_jax.system.text import show

    command, *options = argv
    if command in ("-h", "--help"):
        print(_usage())
    elif command == "--version":
        print(f"pd-jax {__version__}")
    elif command == "teachers":
        from pd_jax.commands.teachers import teachers

        _ignore_warnings_of_envpool()
        teachers(options)
    elif command not in COMMANDS:
        raise UserError(f"{show(command)} is not a command{nearest(command[:60], _ABOUT)} ({', '.join(_ABOUT)})")
    else:
        try:
            config = load_config(COMMANDS[command], options, command)
        except SystemExit:  # After --help.
            return 0
        _run(command, config)
    return 0


def _fail(command: str, message: str, code: int) -> int:
    print(f"{' '.join(filter(None, ('pd-jax', command)))}: {message}", file=sys.stderr)
    hosts.for_all(lambda among: among.say_ended(code, message))
    return code


def _run(command: str, config: Any) -> None:
    if command == "report":
        # Not among the runners, which take seconds to import JAX and EnvPool.
        from pd_jax.report.report import run_report

        run_report(config)
        return
    _ignore_warnings_of_envpool()
    compilation_cache.turn_on()
    if command == "distill":
        # Before anything of JAX's is touched.
        hosts.join(config.hosts)
    if config.resume and config.out is not None and not os.path.exists(os.path.join(config.out, "config.yaml")):
        # No error: a job that is restarted from outside needs one command.
        print(f"pd-jax {command}: {config.out}: nothing to resume; begins afresh", file=sys.stderr)
    _runner(command)(config)


def _ignore_warnings_of_envpool() -> None:
    # Gymnasium warns of EnvPool's float64 bounds at every start; EnvPool gives what its users cannot change.
    warnings.filterwarnings("ignore", message=".*precision lowered by casting.*")


def _runner(command: str) -> Callable[[Any], Any]:
    """A command's function, imported only now: a wrong option or ``--help`` needs no JAX, and no command the others."""
    if command == "train-teacher":
        from pd_jax.report.terminal import print_teacher
        from pd_jax.trainers.session import train_teacher

        return lambda config: print_teacher(train_teacher(config))
    if command == "collect":
        return _collect
    if command == "distill":
        from pd_jax.distill.session import distill

        return distill
    if command == "online":
        from pd_jax.online.session import online

        return online
    if command == "sweep":
        return _sweep
    from pd_jax.deploy.scoring import run_evaluate
    from pd_jax.report.terminal import print_evaluation

    return lambda config: print_evaluation(run_evaluate(config))


def _collect(config: Any) -> None:
    from pd_jax.distill.collect import collect

    header = collect(config)
    print(f"{config.out}: {header.steps * header.num_lanes:,} steps of {header.task}")


def _sweep(config: Any) -> None:
    from pd_jax.sweep.session import sweep

    cells = sweep(config)["cells"]
    failed = [cell["cell"] for cell in cells if "failure" in cell]
    if failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise UserError(f"{len(failed)} of {len(cells)} cells failed: {failed[0]}{more}; table.md has the reasons")


def _usage() -> str:
    width = max(map(len, _ABOUT))
    lines = [f"  {name:<{width}}  {about}" for name, about in _ABOUT.items()]
    return "\n".join(
        [
            "usage: pd-jax COMMAND [--config FILE] [OPTIONS]",
            "",
            "Policy distillation (Rusu et al., 2016) for accelerators.",
            "",
            *lines,
            "",
            "pd-jax COMMAND --help lists a command's options; pd-jax --version prints the version.",
            f"{compilation_cache.VARIABLE}=DIR (or off) says where compiled programs are kept for the next run.",
        ]
    )
