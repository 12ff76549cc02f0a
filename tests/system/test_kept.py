"""What is kept is made once for equal arguments, and what has no hash is made each time."""

from __future__ import annotations

import pytest

from pd_jax.system.kept import kept


def test_equal_arguments_give_the_same_object_until_there_are_too_many() -> None:
    made = []

    @kept(2)
    def make(name: object, *, size: int = 1) -> object:
        """Makes it."""
        made.append((name, size))
        return object()

    first = make("a", size=2)
    assert make("a", size=2) is first and make("a", size=3) is not first
    assert made == [("a", 2), ("a", 3)] and make.__doc__ == "Makes it."
    make("b")
    assert make("a", size=2) is not first, "the oldest of two has made room"
    assert make(["no hash"]) is not make(["no hash"]) and make("c", size=[]) is not None  # type: ignore[arg-type]


def test_a_type_error_of_the_function_is_its_own() -> None:
    calls = []

    @kept(2)
    def fail(name: str) -> None:
        calls.append(name)
        raise TypeError("unhashable, it says")

    with pytest.raises(TypeError, match="it says"):
        fail("a")
    assert calls == ["a"], "once"
