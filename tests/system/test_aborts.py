"""pd_jax.system.aborts, in processes of their own: a handler of SIGABRT is for good."""

from __future__ import annotations

import signal
import sys

import pytest

from support.commands import run

PROGRAM = """
import os, threading
from pd_jax.system.aborts import before_aborting
before_aborting(lambda: {action})
thread = threading.Thread(target=os.abort)
thread.start()
thread.join()
"""


@pytest.mark.parametrize(
    ("action", "code"),
    [("os._exit(3)", 3), ("os.write(2, b'told')", -signal.SIGABRT)],
)
def test_a_process_that_is_aborted_in_another_thread_has_a_last_word(action: str, code: int) -> None:
    ended = run([sys.executable, "-c", PROGRAM.format(action=action)])
    assert ended.code == code
    assert ("told" in ended.stderr) is (code != 3)
