"""kill -9 in the middle of a ring: at every instruction of what is done to it, and at random moments.

who is killed                                what the others find
before what he sent is committed             nothing of it
after that, having woken nobody yet          it, and are awake
before what he took is committed             it, still there
after that                                   the rest; his one call's worth went with him
asleep, or woken and not there yet           awake instead of him, if there is something for them
after he called who polls, or committed      their descriptors readable
while he makes it (a blank one)              a blank one
"""

from __future__ import annotations

import pytest

from tests.faults.harness import Build, broken

SOURCES = (
    *(
        "ring",
        "ring_wait",
        "ring_poll",
        "arena",
        "arena_ring",
        "arena_acknowledge",
        "arena_wait",
        "arena_fork",
        "arena_pages",
        "members_fork",
    ),
    *("members", "members_leave", "watcher", "mutex", "mutex_wait", "robust", "sync_object"),
    *("child", "sysv_wait", "signal_info"),
)

#: Every so many instructions, in the short run, from a random one on: ten to thirty. The long one takes each.
CASES = {
    "send": 16,
    "batch": 30,
    "receive": 30,
    "wake": 20,
    "wake-with-others": 30,
    "give-room": 30,
    "wait": 50,
    "wait-with-others": 50,
    "wait-for-room": 50,
    "time-out": 12,
    "alarm": 8,
    "call": 20,
    "call-others": 30,
    "call-for-room": 30,
    "make": 1500,
}

#: A mistake, the file and what is wrong in it, and the case that shows it.
MISTAKES = {
    "who was woken wakes nobody before he goes for it": (
        "ring_wait",
        "        kin_ring_wake(ring->mine);\n        return error;",
        "        return error;",
        "wait-with-others",
    ),
    "who sleeps has nothing pending": (
        "ring_wait",
        "        kin_robust_begin(thread, kin_ring_bell(ring->mine));\n        error",
        "        error",
        "wait-with-others",
    ),
    "who commits has nothing pending": (
        "ring",
        "        kin_robust_begin(thread, kin_ring_bell(ring->theirs));\n",
        "        (void)thread;\n",
        "wake",
    ),
    "who commits calls afterwards": (
        "ring",
        "bool polled = kin_ring_is_polled(ring->theirs);",
        "bool polled = false;",
        "call",
    ),
    "who polls does not look who is inside": (
        "ring_poll",
        "bool inside = kin_mutex_owner(kin_mutex_look(&ring->theirs->lock)) != 0;",
        "bool inside = false;",
        "call",
    ),
    "it is committed before it is written": (
        "ring",
        "    uint64_t at = ring->at + KIN_RING_FRAME;\n    for",
        "    uint64_t at = ring->at + KIN_RING_FRAME;\n"
        "    atomic_store(&ring->mine->position, ring->at + need);\n    for",
        "send",
    ),
}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    return Build(c_compiler, tmp_path_factory.mktemp("ring_kills"))


@pytest.fixture(scope="module")
def ring(build):
    return build("ring", "ring_cases.c", SOURCES)


@pytest.mark.parametrize("case", CASES)
def test_killed_at_every_instruction(case, ring):
    assert ring.steps(case, every=CASES[case]).flawless


@pytest.mark.parametrize("case", CASES)
def test_killed_at_any_moment(case, ring):
    assert ring.storm(case, 30, longest=200).flawless


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES)
def test_killed_at_each_instruction(case, ring):
    assert ring.steps(case).flawless


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES)
def test_killed_very_often(case, ring):
    assert ring.storm(case, 1000, longest=200).flawless


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake, build, tmp_path):
    stem, old, new, case = MISTAKES[mistake]
    source = broken(tmp_path, f"{stem}.c", (old, new))
    harness = build(
        f"broken-{list(MISTAKES).index(mistake)}", "ring_cases.c", SOURCES, **{stem: source}
    )
    assert harness.catches(case, every=5)
