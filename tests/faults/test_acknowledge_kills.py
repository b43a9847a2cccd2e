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
}

#: A mistake, what is wrong in arena_acknowledge.c, and the case that shows it.
MISTAKES = {
    "what the dead had is not returned": (
        "        if (owes(arena, kin_arena_row(arena, row), unit))\n            give_back",
        "        if (unit > arena->shape.units)\n            give_back",
        "take",
    ),
    "it is taken away before it is returned": (
        "    struct kin_arena_entry *entry = &arena->entries[unit];\n"
        "    uint64_t word = kin_arena_word(arena, unit), length;\n",
        "    struct kin_arena_entry *entry = &arena->entries[unit];\n"
        "    uint64_t word = kin_arena_word(arena, unit), length;\n"
        "    kin_arena_free_if_unused(arena, unit, word);\n"
        "    owes_no_more(arena, row, unit);\n",
        "return",
    ),
    "what lies in the ring is returned too": (
        "!kin_arena_is_sent(arena, unit, word, &length) &&\n",
        "(length = 1) != 0 &&\n",
        "take",
    ),
    "it is received again before it is owed": (
        "    kin_arena_owe(arena, row, block);\n    atomic_fetch_and",
        "    atomic_fetch_and_explicit(&entry->word, ~(uint64_t)KIN_BLOCK_RETURNED, memory_order_release);\n"
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
