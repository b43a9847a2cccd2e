"""Every interleaving of the mutex's steps with every death: never two in it, never a wake-up lost (see mutex_model.py)."""

from __future__ import annotations

import pytest

from tests.models.mutex_model import Rules, explore


@pytest.mark.parametrize(
    ("rounds", "deaths", "leaves"), [((2, 2), 2, 1), ((1, 1, 1), 2, 0), ((1, 1, 1), 1, 1)]
)
def test_nothing_goes_wrong(rounds, deaths, leaves):
    found = explore(rounds, deaths, leaves)
    assert found.states > 1000
    assert (found.shared, found.stuck) == (0, 0)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("rounds", "deaths", "leaves"),
    [((2, 2, 2), 1, 0), ((2, 1, 1), 2, 1), ((1, 1, 1, 1), 2, 0), ((2, 1, 1, 1), 1, 0)],
)
def test_nothing_goes_wrong_with_more(rounds, deaths, leaves):
    found = explore(rounds, deaths, leaves)
    assert (found.shared, found.stuck) == (0, 0)


@pytest.mark.parametrize(
    ("rule", "rounds", "leaves"),
    [
        ("keeps_waiters", (1, 1, 1), 0),
        ("pending", (1, 1), 0),
        ("asks_before_clearing", (1, 1, 1), 0),
        ("looks_before_leaving", (1, 1, 1), 1),
        pytest.param("counts_releases", (2, 1, 1, 1), 0, marks=pytest.mark.soak),
    ],
)
def test_each_rule_is_needed(rule, rounds, leaves):
    rules = Rules(**{rule: False})
    assert explore(rounds, 1, leaves, rules).stuck > 0
