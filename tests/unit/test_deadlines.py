"""One meaning of timeout= everywhere."""

from __future__ import annotations

import math
import sys
import time
import unittest.mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kinfolk as kin
from kinfolk.deadlines import NEVER, Deadline, deadline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, in the first element."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("timeout", [-1, -1e-9, math.inf, -math.inf, math.nan])
def test_what_makes_no_sense_is_refused(timeout: float) -> None:
    with pytest.raises(kin.InvalidValue, match="makes no sense"):
        Deadline(timeout)


@pytest.mark.parametrize("timeout", [1e306, 10**400, sys.maxsize, 3.2e9])
def test_an_enormous_timeout_is_an_enormous_wait(timeout: float) -> None:
    due = Deadline(timeout)
    assert not due.passed()
    assert due.milliseconds() == 2**31 - 1
    assert due.remaining() is not None


def test_none_never_comes() -> None:
    assert deadline(None) is NEVER
    assert NEVER.remaining() is None
    assert NEVER.milliseconds() is None
    assert not NEVER.passed()


def test_zero_has_passed_at_once() -> None:
    due = deadline(0)
    assert due.passed()
    assert due.milliseconds() == 0
    assert due.remaining() == 0


def test_it_passes_on_the_monotonic_clock(clock: list[float]) -> None:
    due = Deadline(2.5)
    clock[0] += 2.4
    assert not due.passed()
    assert due.milliseconds() == 101 or due.milliseconds() == 100
    clock[0] += 0.2
    assert due.passed()
    assert due.milliseconds() == 0
    assert due.remaining() == 0


@given(timeout=st.floats(0, 1e6), elapsed=st.floats(0, 1e6))
def test_a_wait_of_so_many_milliseconds_never_ends_early(timeout: float, elapsed: float) -> None:
    due = Deadline(0)
    due.at = 1000 + timeout
    with unittest.mock.patch("time.monotonic", return_value=1000 + elapsed):
        milliseconds = due.milliseconds()
        assert milliseconds is not None
        assert milliseconds >= 0
        assert 1000 + elapsed + milliseconds / 1000 >= due.at - 1e-6
        assert (milliseconds == 0) == due.passed()
