"""Every interleaving of the semaphore's steps with every death: nothing lost, nobody left asleep (see semaphore_model.py)."""

from __future__ import annotations

import pytest

from tests.models.semaphore_model import Rules, explore


@pytest.mark.parametrize(
    ("value", "rounds", "deaths", "leaves"),
    [(1, (1, 1), 2, 1), (1, (2, 1), 1, 0), (2, (2, 1), 1, 0)],
)
def test_nothing_goes_wrong(value, rounds, deaths, leaves):
    found = explore(value, rounds, deaths, leaves)
    assert found.states > 1000
    assert (found.wrong, found.crowded, found.stuck) == (0, 0, 0)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("value", "rounds", "deaths", "joined"),
    [(1, (2, 2), 2, False), (1, (1, 1, 1), 1, True), (2, (1, 1, 1), 1, True), (1, (2, 1, 1), 0, True)],
)  # fmt: skip
def test_nothing_goes_wrong_with_more(value, rounds, deaths, joined):
    found = explore(value, rounds, deaths, joined=joined)
    assert (found.wrong, found.crowded, found.stuck) == (0, 0, 0)


@pytest.mark.parametrize(
    ("rule", "rounds", "deaths"),
    [
        ("closes", (1, 1), 1),
        ("stamps", (1, 1), 1),
        ("settles", (1, 1), 1),
        ("always_tells", (1, 1, 1), 0),
        ("looks_before_waking", (1, 1, 1), 0),
        ("watches", (1, 1), 1),
        ("announces", (1, 1), 1),
        ("takes_turn_first", (1, 1), 1),
    ],
)
def test_each_rule_is_needed(rule, rounds, deaths):
    found = explore(1, rounds, deaths, rules=Rules(**{rule: False}), joined=not deaths)
    assert found.wrong + found.crowded + found.stuck > 0
