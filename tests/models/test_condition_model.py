"""Every interleaving of the condition's steps with every death: nobody sleeps over what is there (see condition_model.py)."""

from __future__ import annotations

import pytest

from tests.models.condition_model import GIVE, TAKE, TAKE_BRIEFLY, Rules, explore

# Who does what, how many of them may die, whether all have joined before.
CASES = [
    ((GIVE, TAKE), 2, False),
    ((GIVE, TAKE, TAKE), 0, False),
    ((GIVE, TAKE, TAKE), 1, True),
    ((GIVE, GIVE, TAKE, TAKE), 0, True),
]
MORE = [
    ((GIVE, TAKE, TAKE), 1, False),
    ((GIVE, TAKE, TAKE), 2, True),
    ((GIVE, TAKE, TAKE_BRIEFLY), 1, False),
    ((GIVE, GIVE, TAKE, TAKE), 1, True),
]


@pytest.mark.parametrize(("tasks", "deaths", "joined"), CASES)
def test_nobody_is_forgotten(tasks, deaths, joined):
    found = explore(tasks, deaths, joined=joined)
    assert found.states > 300
    assert found.stuck == 0


@pytest.mark.soak
@pytest.mark.parametrize(("tasks", "deaths", "joined"), MORE)
def test_nobody_is_forgotten_among_more(tasks, deaths, joined):
    assert explore(tasks, deaths, joined=joined).stuck == 0


@pytest.mark.parametrize(
    ("rule", "tasks", "joined"),
    [
        ("watches", (GIVE, TAKE), False),
        ("tells", (GIVE, TAKE), False),
        ("announces", (GIVE, TAKE), False),
        ("joins_first", (GIVE, TAKE), False),
        ("turn_first", (GIVE, TAKE), False),
        ("remembers_first", (GIVE, TAKE), False),
        ("counts_sleepers", (GIVE, GIVE, TAKE, TAKE), True),
    ],
)
def test_each_rule_is_needed(rule, tasks, joined):
    deaths = len(tasks) == 2
    assert explore(tasks, deaths, joined=joined).stuck == 0
    assert explore(tasks, deaths, Rules(**{rule: False}), joined).stuck > 0
