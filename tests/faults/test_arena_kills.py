"""kill -9 in the middle of what is done to the arena of a ring: at every instruction, and at random moments.

who is killed                                what the others find
with a block that he reserved                it is free
before what he sent is committed             nothing of it, and the block is free
after that                                   the message, whole
before what he took is committed             it, still there
after that, reading it where it lies         the block is free; his one message went with him
before he wakes who sleeps for a block       they are awake
while he takes over what the dead had         all of it again, for the next
asleep himself                               the others get what there is
"""

from __future__ import annotations

import pytest

from tests.faults.harness import Build, broken

SOURCES = (
    *("ring", "ring_wait", "ring_poll", "ring_adopt"),
    *("arena", "arena_ring", "arena_acknowledge", "arena_wait", "arena_fork", "arena_pages"),
    *("members", "members_leave", "members_fork", "watcher"),
    *("mutex", "mutex_wait", "robust", "sync_object", "child", "sysv_wait", "signal_info"),
)

#: Every so many instructions, in the short run, from a random one on: ten to thirty. The long one takes each.
CASES = {
    "reserve": 50,
    "commit": 500,
    "receive": 100,
    "leave": 150,
    "give-back": 120,
    "wait": 1500,
    "adopt": 600,
    "make": 1500,
    "attach": 300,
    "join": 900,
    "fork": 200,
}

#: A mistake, the file and what is wrong in it, and the case that shows it.
MISTAKES = {
    "what the dead had is not taken back": (
        "arena",
        "            atomic_store_explicit(kin_arena_hold_word(arena, kin_arena_row(arena, row), hold, unit), 0,\n"
        "                                  memory_order_release);",
        "            (void)row;",
        "reserve",
    ),
    "what nobody has is not swept": (
        "arena",
        "        any |= kin_arena_free_if_unused(arena, unit, word);",
        "",
        "commit",
    ),
    "nobody looks who is dead before he sleeps": (
        "arena_wait",
        "error = kin_arena_look(arena, KIN_LOOK_TOLD);",
        "error = 0;",
        "give-back",
    ),
    "locks of before a reboot are kept": (
        "ring_adopt",
        "    kin_mutex_state_repair(&side->lock);\n",
        "",
        "adopt",
    ),
    "frames are not looked at": (
        "arena",
        "return kin_arena_is_sent(arena, unit, word, &length) || is_held",
        "return (length = 0) != 0 || is_held",
        "commit",
    ),
}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    return Build(c_compiler, tmp_path_factory.mktemp("arena_kills"))


@pytest.fixture(scope="module")
def arena(build):
    return build("arena", "arena_cases.c", SOURCES)


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
    stem, old, new, case = MISTAKES[mistake]
    source = broken(tmp_path, f"{stem}.c", (old, new))
    harness = build(
        f"broken-{list(MISTAKES).index(mistake)}", "arena_cases.c", SOURCES, **{stem: source}
    )
    assert harness.catches(case, every=5)
