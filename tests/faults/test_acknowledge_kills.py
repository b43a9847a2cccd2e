"""kill -9 in the middle of what is done to messages that are acknowledged: at every instruction, and at random moments.

who is killed                                what the others find
before what he took is committed             it, still in the ring
after that, not having acknowledged it       it again, and it says so
after that, having acknowledged it           nothing of it, and its block is free
giving it back, or closing                   it again; who sleeps for it gets it
while others wait for him to acknowledge     it again, or the end
"""

from __future__ import annotations

import pytest

from tests.faults.harness import Build, broken
from tests.faults.test_arena_kills import SOURCES

#: Every so many instructions, in the short run, from a random one on: ten to thirty. The long one takes each.
CASES = {
    "take": 200,
    "take-again": 200,
    "acknowledge": 60,
    "return": 50,
    "leave": 250,
    "return-to": 60,
    "end": 150,
    "wait": 800,
    "return-held": 60,
    "release-held": 20,
    "leave-held": 250,
    "tidy": 100,
}

#: Cases in which somebody has the guard, for whom nobody waits.
HELD = ("return-held", "leave-held")

#: A mistake, what is wrong in arena_acknowledge.c, and the case that shows it.
MISTAKES = {
    "what the dead had is not returned": (
        "        if (owes(arena, kin_arena_row(arena, row), unit))\n            give_back",
        "        if (unit > arena->shape.units)\n            give_back",
        "take",
    ),
    "it is taken away before it is returned": (
        "        if (!(word & KIN_BLOCK_RETURNED))\n            say_returned(arena, unit);\n"
        "        forgive_others(arena, UINT32_MAX, unit);\n",
        "        forgive_others(arena, UINT32_MAX, unit);\n"
        "        if (!(word & KIN_BLOCK_RETURNED))\n            say_returned(arena, unit);\n",
        "return",
    ),
    "what lies in the ring is returned too": (
        "!kin_arena_is_sent(arena, unit, word, &length) &&\n",
        "(length = 1) != 0 &&\n",
        "take",
    ),
    "it is received again before it is owed": (
        "    kin_arena_owe(arena, row, block);\n    atomic_fetch_and",
        "    atomic_fetch_and_explicit(&entry->word, ~(uint64_t)(KIN_BLOCK_RETURNED | KIN_BLOCK_DROPPED),\n"
        "                              memory_order_release);\n"
        "    kin_arena_owe(arena, row, block);\n    atomic_fetch_and",
        "take-again",
    ),
}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    return Build(c_compiler, tmp_path_factory.mktemp("acknowledge_kills"))


@pytest.fixture(scope="module")
def arena(build):
    return build("acknowledge", "acknowledge_cases.c", SOURCES)


@pytest.mark.parametrize("case", CASES)
def test_killed_at_every_instruction(case, arena):
    assert arena.steps(case, every=CASES[case]).flawless


@pytest.mark.parametrize("case", CASES)
def test_killed_at_any_moment(case, arena):
    assert arena.storm(case, 30, longest=200).flawless


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES)
def test_killed_at_each_instruction(case, arena):
    assert arena.steps(case).flawless


@pytest.mark.parametrize("case", HELD)
def test_who_gives_up_sleeps_for_nobody(case, arena, build, tmp_path):
    assert arena.steps(case, every=500).asleep == 0
    waits = broken(
        tmp_path,
        "arena_wait.c",
        (
            "    kin_arena_leave_over(arena);\n"
            "    int error = kin_mutex_take(&arena->guard, NULL, KIN_MUTEX_AWAKE);",
            "    kin_arena_leave_over(arena);\n"
            "    int error = kin_mutex_take(&arena->guard, NULL, 0);",
        ),
    )
    harness = build("waiting", "acknowledge_cases.c", SOURCES, arena_wait=waits)
    assert harness.steps(case, every=500).asleep


def test_what_is_tidied_up_is_said_last(build, tmp_path):
    early = broken(
        tmp_path,
        "arena_wait.c",
        (
            "    kin_members_sweep(&arena->members);\n    kin_arena_return",
            "    atomic_store(&arena->state->tidied, left_over);\n"
            "    kin_members_sweep(&arena->members);\n    kin_arena_return",
        ),
    )
    outcome = build("early", "acknowledge_cases.c", SOURCES, arena_wait=early).steps(
        "tidy", every=5, broken=True
    )
    assert outcome.stuck + outcome.violated


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake, build, tmp_path):
    old, new, case = MISTAKES[mistake]
    source = broken(tmp_path, "arena_acknowledge.c", (old, new))
    harness = build(
        f"broken-{list(MISTAKES).index(mistake)}",
        "acknowledge_cases.c",
        SOURCES,
        arena_acknowledge=source,
    )
    assert harness.catches(case, every=5)
