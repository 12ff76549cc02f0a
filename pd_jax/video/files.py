"""Pictures into MP4 and GIF, and files that are all there as a whole, or none of them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from pd_jax.errors import UserError
from pd_jax.system.text import printable

_INSTALL = "pip install 'pd-jax[video]'"
_QUALITY = "22"
"""Of H.264, where 18 is as good as the pictures and 28 shows blocks."""
_PATIENCE = 0.2
"""Seconds that ffmpeg is waited for until somebody may end it."""


def find_ffmpeg() -> str:
    """The program that imageio-ffmpeg brings along, or that of the machine.

    Raises:
      UserError: there is none.
    """
    problem = "is not installed"
    if importlib.util.find_spec("imageio_ffmpeg") is not None:
        import imageio_ffmpeg

        try:
            return str(imageio_ffmpeg.get_ffmpeg_exe())
        except RuntimeError:
            problem = "has no program for this machine"
    if (found := shutil.which("ffmpeg")) is not None:
        return found
    raise UserError(
        f"an MP4 needs ffmpeg, and imageio-ffmpeg {problem}: {_INSTALL}; or give --out FILE.gif, which needs none"
    )


def write_mp4(
    path: Path,
    frames: Iterable[np.ndarray],
    size: tuple[int, int],
    rate: Fraction,
    ffmpeg: str,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Writes a video that browsers and phones play (H.264, 4:2:0).

    Args:
      path: the file, for :func:`all_or_none` to put into its place.
      frames: uint8 ``[height, width, 3]``.
      size: width and height, both even.
      rate: frames a second.
      ffmpeg: the program.
      check: is called several times a second while ffmpeg is waited for; what it raises ends ffmpeg and the video.

    Raises:
      UserError: ffmpeg fails, or the disk is full.
    """
    width, height = size
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "-"]
    # An index at the front, so that it plays while it loads; no date and no version, so that it is the same each time.
    wanted = ["-an", "-c:v", "libx264", "-preset", "medium", "-crf", _QUALITY, "-pix_fmt", "yuv420p"]
    wanted += ["-movflags", "+faststart", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1"]
    with tempfile.TemporaryFile() as said:
        command = [ffmpeg, "-hide_banner", "-nostats", "-loglevel", "error", "-y", *given, *wanted, str(path)]
        try:
            # In a session of its own: Ctrl-C is for this process, which says what becomes of the video.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
            )
        except OSError as error:
            raise UserError(f"{ffmpeg}: cannot be run: {error.strerror}") from error
        assert process.stdin is not None
        try:
            # Its end comes first where it fails, and is told below.
            with contextlib.suppress(BrokenPipeError):
                for frame in frames:
                    _feed(process.stdin, frame, check)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            code = _code(process, check)
        except BaseException:
            process.kill()
            process.wait()
            raise
        said.seek(0)
        words = said.read().decode(errors="replace").strip().splitlines()
        if code != 0:
            raise UserError(f"{printable(path.name)}: ffmpeg: {_reason(words, code)}")


def _feed(pipe: IO[bytes], frame: np.ndarray, check: Callable[[], None]) -> None:
    """Gives ffmpeg a frame, however long it takes to read it."""
    number = pipe.fileno()
    os.set_blocking(number, False)
    left = memoryview(frame.tobytes())
    while left:
        check()
        if select.select([], [number], [], _PATIENCE)[1]:
            with contextlib.suppress(BlockingIOError):
                left = left[os.write(number, left) :]


def _code(process: subprocess.Popen[bytes], check: Callable[[], None]) -> int:
    """Waits for ffmpeg's end."""
    while True:
        check()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_PATIENCE)


def write_gif(path: Path, frames: Iterable[np.ndarray], some: Sequence[np.ndarray], rate: Fraction) -> None:
    """Writes an animation that begins anew at its end.

    All frames have one palette; where a picture stays as it was, nothing is written.

    Args:
      path: likewise.
      frames: uint8 ``[height, width, 3]``, at least one.
      some: of them, from all parts, whose colours become the palette.
      rate: frames a second, at most 50: browsers slow faster ones down.

    Raises:
      UserError: the disk is full.
    """
    palette = Image.fromarray(np.concatenate(some)).quantize(255, dither=Image.Dither.NONE)
    pictures = list(_pictures(frames, palette))
    ends = [round(Fraction(count) / rate * 100) for count in range(len(pictures) + 1)]
    durations = [10 * (end - begin) for begin, end in zip(ends, ends[1:], strict=False)]
    with _told(path.name):
        pictures[0].save(
            path,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=durations,
            loop=0,
            disposal=1,
            transparency=_SAME,
            optimize=False,
        )


_SAME = 255
"""The colour of a palette that stands for what is there already."""


def _pictures(frames: Iterable[np.ndarray], palette: Image.Image) -> Iterator[Image.Image]:
    """Frames in the palette's colours, what has not changed since the one before left out."""
    last: np.ndarray | None = None
    for frame in frames:
        indices = np.asarray(Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE))
        shown = indices if last is None else np.where(indices == last, _SAME, indices).astype(np.uint8)
        last = indices
        picture = Image.fromarray(shown, mode="P")
        picture.putpalette(palette.getpalette() or [])
        yield picture


@contextlib.contextmanager
def all_or_none(paths: Iterable[Path]) -> Iterator[dict[Path, Path]]:
    """Files of one directory that all take their places at the end of the context, or none if it ends by an exception.

    Args:
      paths: of one directory, which is there.

    Yields:
      by path, where to write its file.

    Raises:
      UserError: the directory cannot be written.
    """
    paths = list(paths)
    parent = paths[0].parent
    with _told(str(parent)), tempfile.TemporaryDirectory(dir=parent, prefix=f".{paths[0].stem}.unfinished-") as name:
        files = {path: Path(name) / path.name for path in paths}
        yield files
        for path, file in files.items():
            with open(file, "rb+") as written:
                os.fsync(written.fileno())
            os.replace(file, path)


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{printable(name)}: cannot be written: {error.strerror or error}") from error


def _reason(words: Sequence[str], code: int) -> str:
    """What ffmpeg says is wrong, on one line: the last line tells the least."""
    known = ("No space left on device", "Permission denied", "Unknown encoder", "File too large", "Disk quota exceeded")
    for name in known:
        if any(name in line for line in words):
            return name
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return printable(words[0]) if words else f"ended with code {code}"
