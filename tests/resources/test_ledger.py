"""Where the time goes: each moment belongs to one kind, whatever threads do, and nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pd_jax.actors.inference_time import RolloutTime
from pd_jax.resources import ledger as ledger_module
from pd_jax.resources.ledger import INPUT, PLAY, SCORING, TEACHER, Ledger


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(ledger_module, "time", clock)
    return clock


class Call:
    """A call of updates that returns at once and ends when the test says so: JAX waits for whatever has this method."""

    def __init__(self) -> None:
        self.done = threading.Event()

    def block_until_ready(self) -> Call:
        assert self.done.wait(60)
        return self

    def end(self, ledger: Ledger) -> None:
        """Ends it; returns once the ledger knows."""
        noted = ledger._calls - 1
        self.done.set()
        for _ in range(6000):
            if ledger._calls == noted:
                return
            threading.Event().wait(0.01)
        raise AssertionError("the end of a call was not noted")


def play_of(seconds: float, inference_share: float | None) -> RolloutTime:
    play = RolloutTime()
    play.count(seconds)
    play.inference_share = inference_share
    return play


def test_each_moment_belongs_to_what_the_training_is_held_up_by(clock: Clock) -> None:
    ledger, call = Ledger(), Call()
    ledger.plays = [play_of(10.0, 0.25)]
    clock.now += 50  # Before the first round nothing counts.
    ledger.begin_round(0)
    with ledger.during(INPUT):
        clock.now += 1
        with ledger.during(PLAY):
            clock.now += 8
        clock.now += 1
    assert ledger.update(lambda: ("state", call)) == ("state", call)
    clock.now += 20
    # The call still runs, so play that is waited for now holds nothing up.
    with ledger.during(PLAY):
        clock.now += 5
        call.end(ledger)
        clock.now += 4
    with ledger.during(SCORING):
        clock.now += 1000
    clock.now += 1
    assert ledger.take_values() == {
        "seconds/stepping": 9.0,  # Of 8 + 4 seconds of play.
        "seconds/inference": 3.0,
        "seconds/updates": 25.0,
        "seconds/input": 2.0,
        "seconds/played": 10.0,
    }
    assert set(ledger.take_values().values()) == {0.0}, "what was taken is not given again"
    # 12 + 25 + 2 seconds and one that belongs to nothing; scores do not count.
    assert ledger.shares() == pytest.approx(
        {"stepping": 9 / 40, "inference": 3 / 40, "updates": 25 / 40, "input": 2 / 40}
    )
    assert ledger.describe() == "bound by updates (62 %)"
    ledger.close()


def test_shares_are_of_the_last_rounds_and_those_of_a_summary_of_all_but_the_first(clock: Clock) -> None:
    ledger = Ledger()
    seconds = iter([(100.0, 0.0), (1.0, 3.0), (2.0, 2.0), (9.0, 1.0)])
    for number, (reading, teaching) in enumerate(seconds):
        ledger.begin_round(number)
        ledger.begin_round(number)  # Another run in lockstep says the same.
        with ledger.during(INPUT):
            clock.now += reading
        with ledger.during(TEACHER):
            clock.now += teaching
        if number == 0:
            assert ledger.describe() == "bound by input (100 %)"
        if number == 1:
            assert ledger.describe() == "bound by teacher (75 %)", "the first round, which compiles, is forgotten"
    assert ledger.shares() == pytest.approx({"input": 11 / 14, "updates": 0, "teacher": 3 / 14})
    ledger.close()
    clock.now += 1000  # The final games.
    assert ledger.summarise() == {
        "time_shares": pytest.approx({"input": 12 / 18, "updates": 0, "teacher": 6 / 18}),
        "bound_by": "input",
    }


def test_play_is_not_split_before_it_is_known_how(clock: Clock) -> None:
    ledger = Ledger()
    ledger.plays = [play_of(3.0, 0.5), play_of(1.0, None)]
    ledger.begin_round(0)
    with ledger.during(PLAY):
        clock.now += 4
    assert ledger.shares() == {"play": 1.0, "updates": 0.0, "input": 0.0}
    ledger.plays[1].inference_share = 0.1
    # Of four seconds in two threads inference took 1.5 + 0.1.
    assert ledger.shares() == pytest.approx({"stepping": 0.6, "inference": 0.4, "updates": 0.0, "input": 0.0})


def test_a_ledger_that_has_seen_no_training_says_nothing() -> None:
    ledger = Ledger()
    ledger.close()
    assert (ledger.describe(), ledger.shares(), ledger.summarise()) == ("", {}, {})


def test_a_call_that_fails_is_over(clock: Clock) -> None:
    ledger = Ledger()
    ledger.begin_round(0)

    def fail() -> tuple[None, None]:
        clock.now += 2
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        ledger.update(fail)
    clock.now += 5
    assert ledger.take_values()["seconds/updates"] == 2.0


def test_waiting_counts_and_what_is_done_with_the_items_does_not(clock: Clock) -> None:
    ledger = Ledger()
    ledger.begin_round(0)

    def items() -> Iterator[int]:
        for item in range(3):
            clock.now += 2
            yield item

    taken = []
    for item in ledger.waits(items(), INPUT):
        clock.now += 10
        taken.append(item)
    assert taken == [0, 1, 2]
    assert ledger.take_values()["seconds/input"] == 6.0


def test_stages_are_told_when_updates_begin() -> None:
    stages: list[str] = []
    ledger, call = Ledger(stages.append), Call()
    call.done.set()
    ledger.update(lambda: (None, call))
    ledger.close()
    assert stages == ["updates"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ledger")]
