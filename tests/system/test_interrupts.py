"""Signals are noted, and acted on where it is safe."""

from __future__ import annotations

import os
import signal

import pytest

from pd_jax.system.interrupts import Interrupted, Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_waits_until_it_is_asked_for(number: signal.Signals) -> None:
    # Under nohup SIGHUP is ignored, here too.
    before = signal.signal(number, signal.default_int_handler)
    try:
        with Interrupts() as interrupts:
            interrupts.check()
            os.kill(os.getpid(), number)
            assert interrupts.requested
            with pytest.raises(Interrupted, match=number.name) as raised:
                interrupts.check()
        assert raised.value.signal_number == number
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_a_second_ctrl_c_ends_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)


def test_what_is_to_outlive_its_terminal_ignores_that_it_is_closed() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupts.requested and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
