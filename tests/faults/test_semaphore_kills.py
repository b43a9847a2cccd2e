"""kill -9 in the middle of a semaphore: at every instruction of what is done to it, and at random moments.

who is killed                          what the others find
before it takes, or after it gave      all of it
while it holds some                    all of it, once they look; who sleeps looks at once
asleep, or woken and not there yet     what they would have found without it; no wake-up goes with the dead
when it has given, and not woken       what it gave, awake
while it joins, leaves, drops others   a row that is free, or is dropped
while it makes it (a blank one)        a blank one
"""

from __future__ import annotations

import mmap
import random
import struct

import pytest

import kinfolk as kin
from tests.conformance.peers import Peers
from tests.faults.harness import Build, broken

SOURCES = (
    *("semaphore", "semaphore_wait", "members", "members_leave", "watcher"),
    *("mutex", "mutex_wait", "robust", "sync_object", "child", "sysv_wait", "signal_info"),
)

#: Every so many instructions: in the short run, in the long one.
CASES = {
    "take": (20, 1),
    "give": (4, 1),
    "take-after-another": (40, 1),
    "take-many": (40, 1),
    "give-many": (20, 1),
    "make": (500, 1),
    "join": (150, 1),
    "join-and-give": (200, 1),
    "join-among-threads": (100, 1),
    "leave": (30, 1),
    "leave-holding": (30, 1),
    "wait": (250, 1),
    "wait-cold": (4000, 20),
    "wait-at-first": (1500, 3),
    "wait-behind": (100, 1),
    "woken": (150, 1),
    "wait-for-all": (50, 1),
    "wake-or-die": (3, 1),
    "wake": (10, 1),
    "wake-several": (10, 1),
    "time-out": (100, 1),
    "interrupt": (400, 1),
    "reclaim": (1000, 3),
    "reclaim-many": (1500, 3),
    "wait-for-dying": (300, 1),
}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    return Build(c_compiler, tmp_path_factory.mktemp("semaphore_kills"))


@pytest.fixture(scope="module")
def semaphore(build):
    return build("semaphore", "semaphore_cases.c", SOURCES)


@pytest.fixture(scope="module")
def keeping(build):
    """The negative control: one to which nothing comes back."""
    return build("keeping", "semaphore_cases.c", SOURCES, "-DKEEPS")


@pytest.mark.parametrize("case", CASES)
def test_nobody_is_stuck_wherever_one_is_killed(case, semaphore):
    assert semaphore.steps(case, every=CASES[case][0]).flawless


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES)
def test_nobody_is_stuck_at_any_instruction(case, semaphore):
    assert semaphore.steps(case, every=CASES[case][1]).flawless


def test_the_waiter_is_killed_asleep_and_awake(semaphore):
    outcome = semaphore.steps("wait", every=300)
    assert 0 < outcome.asleep < outcome.points


@pytest.mark.parametrize("case", ["take", "reclaim", "wait-for-dying"])
def test_without_giving_back_they_are(case, keeping):
    assert keeping.steps(case, every=10, broken=True).stuck > 0


@pytest.mark.parametrize(
    ("case", "count"), [("turns", 100), ("wait", 60), ("wake", 60), ("wait-for-all", 60)]
)
def test_kills_at_random(case, count, semaphore):
    assert semaphore.storm(case, count, longest=1000 if case == "turns" else 200).flawless


@pytest.mark.soak
@pytest.mark.parametrize("case", ["turns", "wait", "wake", "wait-for-all", "wake-several"])
def test_two_thousand_kills_at_random(case, semaphore):
    assert semaphore.storm(case, 2000, longest=1000 if case == "turns" else 200).flawless


UNWATCHED = ("if (watched->number == 0 && !watched->is_dead)", "if (false)")
SILENT = ("        kin_futex_wake(watch->turn, INT_MAX);\n", "")
ANNOUNCED = "    kin_members_wake(members, INT_MAX); /* rule 1: and only then may other threads go by it */\n"
LEFT = """    leave(members);
    if (row == NULL)
"""
EARLY = """    atomic_store(&members->joined,
                 (uint64_t)kin_robust_forks() << 32 | (uint64_t)(row - members->state->rows + 1));
"""


@pytest.mark.parametrize(
    ("case", "source", "changes", "every"),
    [
        # Who sleeps by a flag in the word alone loses the wake-up of one who is killed between giving and waking …
        ("wake-or-die", "members.c", [UNWATCHED], 1),
        ("wake-or-die", "watcher.c", [SILENT], 1),
        # … that of one who was woken in his place, and what nobody is left to give back.
        ("woken", "members.c", [UNWATCHED], 10),
        ("woken", "watcher.c", [SILENT], 10),
        ("wait-for-dying", "members.c", [UNWATCHED], 20),
        ("join-and-give", "members.c", [(ANNOUNCED, "")], 20),
        ("join-among-threads", "members.c", [(LEFT, EARLY + LEFT)], 7),
        ("take-after-another", "semaphore_word.h", [("    if (kin_stamp_of(found) == stamp)\n", "    if (true)\n")], 20),
        ("take", "semaphore.c", [("(value + (uint32_t)back) | flags", "value | flags")], 20),
        ("reclaim", "semaphore.c", [("state->intent, -held,", "state->intent, -held + 1,")], 20),
    ],
    ids=[
        *("giver unwatched", "giver dies in silence", "woken unwatched", "woken dies in silence"),
        *("holder unwatched", "newcomers unheard of", "threads too early"),
        *("not settled", "nothing back", "twice back"),
    ],
)  # fmt: skip
def test_a_broken_one_is_caught(case, source, changes, every, build, tmp_path, request):
    changed = broken(tmp_path, source, *changes)
    flags = ["-include", str(changed)] if source.endswith(".h") else []
    parts = {} if flags else {source.removesuffix(".c"): changed}
    name = f"broken-{request.node.callspec.id.replace(' ', '-')}"
    harness = build(name, "semaphore_cases.c", SOURCES, *flags, **parts)
    # Some need another thread or process at the right place, too.
    assert harness.catches(case, every=every)


# ── processes of Python ──────────────────────────────────────────────────────────────────────

COUNT = struct.Struct("q")


def counted(memory: mmap.mmap) -> int:
    (first,), (second,) = COUNT.unpack_from(memory), COUNT.unpack_from(memory, 8)
    return max(first, second)


def take_turns(semaphore: kin.Semaphore, memory: mmap.mmap, turns: int | None) -> None:
    """Take one of one, and change what it guards: two numbers, since one may be half written when somebody is killed."""
    while turns is None or turns > 0:
        with semaphore:
            count = counted(memory) + 1
            COUNT.pack_into(memory, 0, count)
            COUNT.pack_into(memory, 8, count)
        turns = None if turns is None else turns - 1


def kill_once(peers: Peers, dice: random.Random) -> None:
    """Kill who takes turns with others, who have to come to their end; and nothing is lost, or made."""
    semaphore, memory = kin.Semaphore(1), mmap.mmap(-1, mmap.PAGESIZE)
    victim = peers.fork(lambda _: take_turns(semaphore, memory, None))
    others = [peers.fork(lambda _: take_turns(semaphore, memory, 200)) for _ in range(2)]
    for _ in range(dice.randrange(100_000)):
        pass
    victim.kill()
    for other in others:
        other.result()
    take_turns(semaphore, memory, 1)
    assert semaphore.value == 1
    assert counted(memory) >= 401
    semaphore.close()


def kill_at_random(kills: int) -> None:
    dice = random.Random(kills)
    for _ in range(kills):
        peers = Peers()
        try:
            kill_once(peers, dice)
        finally:
            peers.end()


def test_python_killed_at_random():
    kill_at_random(20)


@pytest.mark.soak
def test_python_killed_two_thousand_times():
    kill_at_random(2000)
