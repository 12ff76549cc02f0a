"""Files that other programs read, and that are there as a whole or not at all."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pd_jax.errors import UserError
from pd_jax.system.interrupts import Interrupted
from pd_jax.video.files import all_or_none, find_ffmpeg, write_gif, write_mp4

SIZE = (64, 48)


def frames(count: int) -> list[np.ndarray]:
    """A square on its way to the right."""
    found = []
    for index in range(count):
        picture = np.full((SIZE[1], SIZE[0], 3), (20, 30, 40), np.uint8)
        picture[10:26, 2 + 3 * index : 18 + 3 * index] = (250, 170, 20)
        found.append(picture)
    return found


def decoded(path: Path) -> np.ndarray:
    """All frames of a video, as ffmpeg reads them."""
    command = [find_ffmpeg(), "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, SIZE[1], SIZE[0], 3)


def test_a_video_has_the_frames_that_it_was_given(tmp_path: Path) -> None:
    path, given = tmp_path / "a <b> & 'c'.mp4", frames(12)
    write_mp4(path, given, SIZE, Fraction(15, 2), find_ffmpeg())
    found = decoded(path)
    assert len(found) == 12
    # The codec keeps less of colours than of light.
    assert np.abs(found.mean(axis=3) - np.stack(given).mean(axis=3)).mean() < 6
    content = path.read_bytes()
    # Browsers play what they have of it: the index comes before the pictures.
    assert content.index(b"moov") < content.index(b"mdat")
    said = subprocess.run([find_ffmpeg(), "-i", str(path)], capture_output=True, text=True).stderr
    assert "7.50 fps" in said and "h264" in said and "yuv420p" in said
    again = tmp_path / "again.mp4"
    write_mp4(again, given, SIZE, Fraction(15, 2), find_ffmpeg())
    assert again.read_bytes() == content
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([path.name, again.name])


def test_an_animation_shows_the_frames_that_it_was_given(tmp_path: Path) -> None:
    path, given = tmp_path / "a.gif", frames(9)
    given[4] = given[3]
    write_gif(path, iter(given), given[::4], Fraction(15))
    with Image.open(path) as image:
        shown, durations = [], []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            shown += [np.asarray(image.convert("RGB"))] * round(image.info["duration"] / 66)
            durations.append(image.info["duration"])
        assert image.info["loop"] == 0
    # 9 frames at 15 a second, in hundredths.
    assert sum(durations) == 600
    np.testing.assert_array_equal(np.stack(shown), np.stack(given))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("a.mp4: ffmpeg: No space left on device")])
def test_what_fails_midway_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    paths = [tmp_path / name for name in ("a.json", "a.mp4", "a.gif")]
    paths[1].write_text("before")

    def broken() -> Iterator[np.ndarray]:
        yield from frames(3)
        raise error

    with pytest.raises(type(error)), all_or_none(paths) as found:
        found[paths[0]].write_text("{}")
        write_gif(found[paths[2]], frames(2), frames(1), Fraction(15))
        write_mp4(found[paths[1]], broken(), SIZE, Fraction(15), find_ffmpeg())
    assert paths[1].read_text() == "before" and list(tmp_path.iterdir()) == [paths[1]]
    with all_or_none(paths) as found:
        for path in paths:
            found[path].write_text(path.name)
        # Nobody sees one of them before the others.
        assert paths[1].read_text() == "before" and not paths[0].exists()
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["a.gif", "a.json", "a.mp4"]


def test_a_full_disk_for_the_last_file_is_one_line(tmp_path: Path) -> None:
    paths = [tmp_path / "a.json", tmp_path / "a.mp4"]
    message = f"^{re.escape(str(tmp_path))}: cannot be written: No space left on device$"
    with pytest.raises(UserError, match=message), all_or_none(paths) as found:
        found[paths[1]].write_text("whole")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def fake_ffmpeg(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        # As ffmpeg says it on a full disk: it has written a part, and reads no more.
        (
            'for last; do :; done; head -c 99 >"$last"; echo "[out#0/mp4 @ 0x1] Error writing trailer: No space left '
            'on device" >&2; exit 228',
            "ffmpeg: No space left on device",
        ),
        ("echo 'Unknown encoder libx264' >&2; exit 1", "ffmpeg: Unknown encoder"),
        ("exit 3", "ffmpeg: ended with code 3"),
        # Where files may not grow so large.
        ("kill -XFSZ $$", "ffmpeg: ended by SIGXFSZ"),
    ],
)
def test_what_ffmpeg_says_is_one_line(tmp_path: Path, script: str, message: str) -> None:
    program = fake_ffmpeg(tmp_path / "ffmpeg", script)
    out = tmp_path / "out"
    out.mkdir()
    # More than a pipe holds.
    many = [np.zeros((SIZE[1], SIZE[0], 3), np.uint8)] * 100
    with pytest.raises(UserError) as error, all_or_none([out / "a.mp4"]) as found:
        write_mp4(found[out / "a.mp4"], many, SIZE, Fraction(15), program)
    assert str(error.value) == f"a.mp4: {message}"
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("frames", [1, 100], ids=["at its end", "in the middle"])
def test_an_ffmpeg_that_stands_still_is_ended_when_somebody_asks(tmp_path: Path, frames: int) -> None:
    program = fake_ffmpeg(tmp_path / "ffmpeg", f"echo $$ >{tmp_path / 'number'}; exec sleep 600")
    begun = time.monotonic()

    def check() -> None:
        if time.monotonic() - begun > 1:
            raise Interrupted(signal.SIGTERM)

    many = [np.zeros((SIZE[1], SIZE[0], 3), np.uint8)] * frames
    with pytest.raises(Interrupted), all_or_none([tmp_path / "a.mp4"]) as found:
        write_mp4(found[tmp_path / "a.mp4"], many, SIZE, Fraction(15), program, check)
    assert time.monotonic() - begun < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "number").read_text()), 0)


def test_an_animation_on_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"GIF89a")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    message, path = r"^a\.gif: cannot be written: No space left on device$", tmp_path / "a.gif"
    with pytest.raises(UserError, match=message), all_or_none([path]) as found:
        write_gif(found[path], frames(2), frames(1), Fraction(15))
    assert list(tmp_path.iterdir()) == []


def test_ffmpeg_is_that_of_the_package_or_that_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "imageio_ffmpeg" in find_ffmpeg()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "imageio_ffmpeg" else find_spec(name))
    program = fake_ffmpeg(tmp_path / "ffmpeg", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_ffmpeg() == program
    monkeypatch.setenv("PATH", "")
    assert shutil.which("ffmpeg") is None
    with pytest.raises(UserError, match=r"imageio-ffmpeg is not installed: pip install 'pd-jax\[video\]'; or give"):
        find_ffmpeg()
