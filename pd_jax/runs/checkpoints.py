"""Checkpoints: Orbax for asynchronous, atomic writing; checksums so that a damaged one is noticed and passed over."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import re
import shutil
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from pd_jax.errors import UserError
from pd_jax.runs.leaves import (
    PyTree,
    checksum,
    describe,
    from_host,
    named_leaves,
    seal,
    spell,
    storage_template,
    to_host,
    unseal,
)
from pd_jax.system.progress import print_warning


@dataclasses.dataclass(frozen=True)
class _NewestAndBest:
    """Orbax preservation policy: the newest ``keep`` steps, and the best.

    Orbax's own ``BestN`` reads scores from files that stop it from opening the directory when they are damaged.
    """

    keep: int
    keep_best: bool
    scores: Mapping[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [info.step for info in checkpoints]
        preserved = set(sorted(steps)[-self.keep :])
        if self.keep_best:
            preserved.add(_best(steps, self.scores))
        return [step in preserved for step in steps]


_turn = threading.Lock()
_last_to_save: weakref.ref[Checkpointer] | None = None


@contextlib.contextmanager
def _alone_in_process(checkpointer: Checkpointer) -> Iterator[None]:
    """Begins a save once no other of this process is saving; the other reports its own failure.

    Saves of several managers may hang in Orbax 0.12.8 otherwise.
    """
    global _last_to_save
    with _turn:
        last = None if _last_to_save is None else _last_to_save()
        if last is not None and last is not checkpointer:
            last.wait()
        _last_to_save = weakref.ref(checkpointer)
        yield


class Checkpointer:
    """Keeps the newest few checkpoints of a run, and the best one, in ``directory/<step>/``.

    Every checkpoint carries a SHA-256 of each array and of its own metadata, which ``restore`` verifies: Orbax reads an
    array with a flipped byte without complaint. A save that fails (a full disk) is a warning, not the end of training,
    and leaves the checkpoints before it as they were.

    State is written from the host's copy, one per run: with several processes only process 0 writes, and every process
    reads. What was saved on any number of devices restores on any other. Use as a context manager, or call ``close``.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 3,
        keep_best: bool = True,
        read_only: bool = False,
        warn: Callable[[str], None] = print_warning,
    ) -> None:
        """Opens a checkpoint directory, creating it unless ``read_only``.

        Args:
          directory: where the checkpoints are or will be.
          keep: how many of the newest checkpoints stay on disk, >= 1.
          keep_best: whether the one with the highest score stays as well.
          read_only: write, delete and tidy nothing: for reading a run that may still be training.
          warn: is told, in one line, of failed saves and of damaged checkpoints that were passed over.

        Raises:
          UserError: the directory cannot be created.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        _silence_orbax()
        self.directory = Path(directory).absolute()
        self._scores: dict[int, float] = {}
        self._policy = _NewestAndBest(keep, keep_best, self._scores)
        self._read_only = read_only or jax.process_index() != 0
        self._warn = warn
        self._damaged: set[int] = set()
        self._saving: int | None = None
        self._waiting = threading.RLock()
        if not self._read_only:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{self.directory}: cannot hold checkpoints: {error.strerror}") from error
            self._remove_unfinished()
        self._manager = self._open_manager()
        self._read_scores()

    def save(
        self, step: int, state: PyTree, metadata: Mapping[str, Any] | None = None, score: float | None = None
    ) -> bool:
        """Copies ``state`` to the host and writes it in the background.

        Waits first for the save before it, whose failure is reported through ``warn``.

        Args:
          step: larger than every step saved before; a step that is already on disk is not written again.
          state: pytree of arrays, typed PRNG keys and Python numbers, replicated when it spans processes.
          metadata: JSON values to get back from ``restore``.
          score: what "best" means, larger is better; None or NaN when there was no evaluation.

        Returns:
          Whether a write was begun.

        Raises:
          ValueError: ``step`` lies before the newest checkpoint, or ``state`` is split over processes.
          TypeError: a leaf is not numeric, or ``metadata`` is not JSON.
        """
        step = int(step)
        self.wait()
        if self._read_only:
            return False
        self._set_damaged_aside()
        self._remove_unfinished()
        steps = self._manager.all_steps()
        if step in steps:
            return False
        if steps and step < max(steps):
            raise ValueError(f"checkpoint {step} would come before checkpoint {max(steps)}, the newest")
        score = None if score is None or math.isnan(score) else float(score)
        named = named_leaves(state)
        arrays = {name: to_host(leaf) for name, leaf in named.items()}
        leaves = {name: {**describe(leaf), "sha256": checksum(arrays[name])} for name, leaf in named.items()}
        record = seal({"metadata": dict(metadata or {}), "score": score, "leaves": leaves})
        if score is not None:
            self._scores[step] = score
        self._saving = step
        try:
            with _alone_in_process(self):
                self._manager.save(
                    step,
                    args=ocp.args.Composite(
                        # Orbax refuses arrays without elements; their shape and dtype in the record are all there is.
                        state=ocp.args.StandardSave({name: array for name, array in arrays.items() if array.size}),
                        metadata=ocp.args.JsonSave(record),
                    ),
                    force=True,
                )
        except Exception as error:
            self._report_failed_save(error)
            return False
        return True

    def restore(
        self, template: PyTree, step: int | None = None, *, network: str | None = None
    ) -> tuple[PyTree, dict[str, Any], int] | None:
        """Reads the newest intact checkpoint, bit for bit.

        Args:
          template: pytree of the saved structure; leaves may be arrays or ``jax.ShapeDtypeStruct``.
          step: read this one and no other.
          network: the network the run wants, for the message when the checkpoint holds another. The checkpoint's own
            is taken from ``metadata["network"]``.

        Returns:
          ``(state, metadata, step)``, or None when there is no checkpoint. Leaves are NumPy arrays, except typed PRNG
          keys (on the default device) and Python numbers, which come back as what the template has.

        Raises:
          UserError: every checkpoint (or the one asked for) is damaged, the step asked for does not exist, or the
            checkpoint's tree, shapes or dtypes are not the template's.
        """
        self.wait()
        steps = self.steps()
        if step is not None and step not in steps:
            raise UserError(f"{self.directory}: has no checkpoint {step} ({_enumerate(steps) or 'it is empty'})")
        candidates = [step] if step is not None else sorted(steps, reverse=True)
        reasons: list[str] = []
        for index, candidate in enumerate(candidates):
            try:
                record = self._read_record(candidate)
                self._check_fits(candidate, record, template, network)
                state = self._read_state(candidate, record, template)
            except UserError:
                raise
            # Whatever a reader trips over in a damaged file (JSON, zstd, OCDBT, a checksum), the answer is the same.
            except Exception as error:
                reasons.append(f"{candidate}: {_cause(error)}")
                continue
            for reason in reasons:
                self._warn(f"{self.directory}: checkpoint {reason}; passed over for checkpoint {candidate}")
            self._damaged.update(candidates[:index])
            return state, record["metadata"], candidate
        if reasons:
            raise UserError(f"{self.directory}: no intact checkpoint ({'; '.join(reasons)})")
        return None

    def steps(self) -> list[int]:
        """Steps on disk in ascending order, without those that ``restore`` found damaged."""
        self.wait()
        return sorted(set(self._manager.all_steps()) - self._damaged)

    def best_step(self) -> int | None:
        """The step with the highest score (the newest of equals), or None when none was scored."""
        return _best(self.steps(), self._scores)

    def wait(self) -> None:
        """Blocks until the save in progress is on disk, or has failed and been reported."""
        with self._waiting:
            try:
                self._manager.wait_until_finished()
            except Exception as error:
                self._report_failed_save(error)
            self._saving = None

    def close(self) -> None:
        """Waits for the save in progress and ends Orbax's threads."""
        self.wait()
        self._manager.close()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open_manager(self) -> ocp.CheckpointManager:
        process = jax.process_index()
        return ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                create=False,
                read_only=self._read_only,
                lightweight_initialize=True,
                save_root_metadata=False,
                preservation_policy=self._policy,
                # Each process stands alone: no barrier that a dead or diskless neighbour could hold up.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process{process}"
                ),
            ),
        )

    def _report_failed_save(self, error: Exception) -> None:
        step, self._saving = self._saving, None
        # Closing repeats the error that is being reported.
        with contextlib.suppress(Exception):
            self._manager.close()
        # Orbax has already struck off the steps it meant to delete after this save; read the directory anew.
        self._manager = self._open_manager()
        self._read_scores()
        kept = _enumerate(sorted(self._manager.all_steps())) or "none before it"
        self._warn(f"{self.directory}: checkpoint {step} was not saved: {_cause(error)} (on disk: {kept})")

    def _set_damaged_aside(self) -> None:
        """Renames what ``restore`` passed over, so that training from an older step can save those steps again."""
        for step in self._damaged:
            source = self.directory / str(step)
            targets = (self.directory / f"damaged-{step}{suffix}" for suffix in ("", *(f".{n}" for n in range(2, 100))))
            try:
                source.rename(next(target for target in targets if not target.exists()))
            except OSError as error:
                self._warn(f"{source}: cannot be set aside: {error.strerror}")
        if self._damaged:
            self._damaged.clear()
            self._manager.reload()

    def _remove_unfinished(self) -> None:
        """Removes what kill -9 or a full disk left of a save.

        Orbax would do so when it opens the directory, but while threads of the failed save may still be writing there.
        """
        for path in self.directory.glob("*.orbax-checkpoint-tmp"):
            shutil.rmtree(path, ignore_errors=True)

    def _read_scores(self) -> None:
        self._scores.clear()
        for step in self._manager.all_steps():
            try:
                score = self._read_record(step)["score"]
            except Exception:
                continue  # Damaged: it has no score that could be trusted; restore will say so.
            if score is not None:
                self._scores[step] = score

    def _read_record(self, step: int) -> dict[str, Any]:
        args = ocp.args.Composite(metadata=ocp.args.JsonRestore())
        return unseal(self._manager.restore(step, args=args)["metadata"])

    def _check_fits(self, step: int, record: dict[str, Any], template: PyTree, network: str | None) -> None:
        stored = record["leaves"]
        wanted = {name: describe(leaf) for name, leaf in named_leaves(template).items()}
        differences = [
            f"{name} is {spell(stored.get(name))} there and {spell(wanted.get(name))} here"
            # The least nested names first: a parameter says more than the optimizer's moments of it.
            for name in sorted(stored | wanted, key=lambda name: name.count("."))
            if spell(stored.get(name)) != spell(wanted.get(name))
        ]
        holds = record["metadata"].get("network")
        if not differences and (network is None or holds is None or holds == network):
            return
        subject = f"network {holds}" if holds else "another network"
        wants = f"the run wants {network}" if network else "not the one of this run"
        reason = f" ({differences[0]})" if differences else ""
        raise UserError(f"{self.directory}: checkpoint {step} holds {subject}, {wants}{reason}")

    def _read_state(self, step: int, record: dict[str, Any], template: PyTree) -> PyTree:
        leaves, named = record["leaves"], named_leaves(template)
        specs = {name: storage_template(leaf) for name, leaf in named.items()}
        arrays = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore({name: spec for name, spec in specs.items() if spec.size})
            ),
        )["state"]
        restored = []
        for name, leaf in named.items():
            array = arrays[name] if specs[name].size else np.zeros_like(specs[name])
            if checksum(array) != leaves[name]["sha256"]:
                raise ValueError(f"{name} does not match its checksum")
            restored.append(from_host(array, leaf, leaves[name].get("impl")))
        return jax.tree.unflatten(jax.tree.structure(template), restored)


def _best(steps: Sequence[int], scores: Mapping[int, float]) -> int | None:
    scored = [(scores[step], step) for step in steps if step in scores]
    return max(scored)[1] if scored else None


def _cause(error: Exception) -> str:
    """What went wrong at the root, in at most 160 characters of one line."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # TensorStore wraps: Error writing "w/0" in ... at "/path/": Failed to write: No space left [os_error_code='28'].
    line = re.sub(r" \[[a-z_ ]+='.*", "", line.rsplit('": ', 1)[-1])
    return line if len(line) <= 160 else line[:157] + "..."


def _enumerate(steps: Sequence[int]) -> str:
    return ", ".join(str(step) for step in steps)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def _silence_orbax() -> None:
    """Keeps Orbax's own noise off stderr: every failure also raises, and is reported once, by ``warn``.

    It logs tracebacks. And it writes and reads all arrays at once in an event loop that it closes at the first failure,
    after which each of the others prints one more traceback when it ends.
    """
    logging.getLogger("absl").addFilter(_not_from_orbax)
    # A save that fails leaves tasks behind whose errors nobody fetches; asyncio's message names Orbax's file.
    logging.getLogger("asyncio").addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.getMessage())
    previous = sys.unraisablehook
    if previous.__module__ == __name__:
        return

    def ignore_closed_loops(unraisable: sys.UnraisableHookArgs, /) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            previous(unraisable)

    sys.unraisablehook = ignore_closed_loops
