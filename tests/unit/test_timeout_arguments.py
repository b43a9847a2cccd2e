"""A timeout may be any object that is a number, and what its methods do is done in the middle of a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kinfolk as kin


class Number:
    """A number of seconds; reading it does something."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def __float__(self) -> float:
        self._act()
        return 0.0


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture(
    params=[
        (kin.Mutex, "acquire"),
        (kin.Event, "wait"),
        (kin.Condition, "acquire"),
        (kin.Condition, "wait"),
        (kin.Semaphore, "acquire"),
        (kin.PosixSemaphore, "acquire"),
        (kin.SysVSemaphore, "acquire"),
    ],
    ids=lambda param: f"{param[0].__name__}.{param[1]}",
)
def waiting(request) -> Iterator[tuple[Any, Callable[[Any], object]]]:
    """An object, and a method of it that takes a timeout."""
    kind, name = request.param
    made = kind()
    yield made, getattr(made, name)
    made.close()


def test_closed_by_its_timeout(waiting):
    """Refused, and no crash."""
    made, wait = waiting
    with pytest.raises(kin.Closed):
        wait(Number(made.close))


def test_an_interrupted_timeout_is_no_wrong_one(waiting):
    _, wait = waiting
    with pytest.raises(KeyboardInterrupt):
        wait(Number(interrupt))


def test_a_condition_that_is_held_is_closed_by_no_timeout():
    """That is StillInUse, and so the timeout no number."""
    condition = kin.Condition()
    with condition, pytest.raises(kin.InvalidValue):
        condition.wait(Number(condition.close))  # type: ignore[arg-type]
    condition.close()
