"""Every interleaving of the event's steps with every death: nobody sleeps who was to go (see event_model.py)."""

from __future__ import annotations

import pytest

from tests.models.event_model import CLEAR, SET, WAIT, WAIT_BRIEFLY, Rules, explore

CASES = [
    (((SET,), (WAIT,), (WAIT,)), 2),
    (((SET, CLEAR), (WAIT,), (WAIT,)), 1),
    (((SET,), (CLEAR,), (WAIT,), (WAIT,)), 1),
    (((SET,), (SET, CLEAR), (WAIT,), (WAIT_BRIEFLY,)), 1),
    (((SET, CLEAR, SET), (WAIT, WAIT)), 2),
]
MORE = [
    (((SET,), (CLEAR,), (WAIT,), (WAIT,), (WAIT,)), 2),
    (((SET, CLEAR), (SET, CLEAR), (WAIT, WAIT), (WAIT,)), 1),
    (((SET, CLEAR, SET), (SET,), (WAIT,), (WAIT_BRIEFLY, WAIT)), 2),
]


@pytest.mark.parametrize(("tasks", "deaths"), CASES)
def test_nothing_goes_wrong(tasks, deaths):
    found = explore(tasks, deaths)
    assert found.states > 300
    assert (found.stuck, found.wrong) == (0, 0)


@pytest.mark.soak
@pytest.mark.parametrize(("tasks", "deaths"), MORE)
def test_nothing_goes_wrong_with_more(tasks, deaths):
    found = explore(tasks, deaths)
    assert (found.stuck, found.wrong) == (0, 0)


@pytest.mark.parametrize(
    ("rule", "tasks", "deaths"),
    [
        ("setter_pending", ((SET,), (WAIT,)), 1),
        ("waiter_pending", ((SET,), (WAIT,), (WAIT,)), 2),
        ("relays", ((SET,), (WAIT,), (WAIT,)), 1),
        ("finishes", ((SET,), (CLEAR,), (WAIT,), (WAIT,)), 1),
        ("clears_last", ((SET,), (WAIT,), (WAIT,)), 1),
        ("counts", ((SET, CLEAR), (WAIT,)), 0),
        ("tells_apart", ((SET, CLEAR), (WAIT,), (WAIT,)), 0),
        ("zero", ((SET,), (WAIT,)), 1),
    ],
)
def test_each_rule_is_needed(rule, tasks, deaths):
    assert explore(tasks, deaths).stuck == 0
    assert explore(tasks, deaths, Rules(**{rule: False})).stuck > 0
