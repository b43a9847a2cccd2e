"""kill -9 in the middle of a mutex: at every instruction of what is done to it, and at random moments.

who is killed                          what the next one finds
before it has it, or after             free
while it has it                        free, and is told
asleep, or woken and not there yet     what it would have found without it; no wake-up goes with the dead
when it has released, and not woken    awake
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

SOURCES = ("mutex", "mutex_wait", "robust", "sync_object")

#: Every so many instructions, in the short run; the long one takes each.
CASES = {
    "lock": 1,
    "unlock": 1,
    "wake": 1,
    "wait": 8,
    "wait-behind": 12,
    "wait-for-dying": 12,
    "repair": 12,
    "strict": 12,
    "give-up": 4,
    "hear-of-giving-up": 12,
    "time-out": 20,
    "interrupt": 12,
    "several": 12,
    "starving": 30,
    "make": 200,
}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    return Build(c_compiler, tmp_path_factory.mktemp("mutex_kills"))


@pytest.fixture(scope="module")
def mutex(build):
    return build("mutex", "mutex_cases.c", SOURCES)


@pytest.fixture(scope="module")
def plain(build):
    """The negative control: one that the kernel knows nothing of."""
    return build("plain", "mutex_cases.c", SOURCES, "-DPLAIN")


@pytest.mark.parametrize("case", CASES)
def test_nobody_is_stuck_wherever_one_is_killed(case, mutex):
    assert mutex.steps(case, every=CASES[case]).flawless


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES)
def test_nobody_is_stuck_at_any_instruction(case, mutex):
    assert mutex.steps(case).flawless


def test_the_waiter_is_killed_asleep_and_awake(mutex):
    outcome = mutex.steps("wait", every=20)
    assert 0 < outcome.asleep < outcome.points


@pytest.mark.parametrize("case", ["lock", "unlock", "wake"])
def test_with_a_plain_mutex_they_are(case, plain):
    assert plain.steps(case, broken=True).stuck > 0


@pytest.mark.parametrize(("case", "count"), [("turns", 400), ("wait", 200), ("wake", 200)])
def test_kills_at_random(case, count, mutex):
    assert mutex.storm(case, count, longest=1000 if case == "turns" else 200).flawless


@pytest.mark.soak
@pytest.mark.parametrize("case", ["turns", "wait", "wake"])
def test_ten_thousand_kills_at_random(case, mutex):
    assert mutex.storm(case, 10_000, longest=1000 if case == "turns" else 200).flawless


def test_kills_at_random_with_a_plain_mutex(plain):
    assert plain.storm("turns", 400, longest=1000, broken=True).stuck > 0


@pytest.mark.parametrize(
    ("case", "source", "old", "new"),
    [
        # Each is something that keeps a wake-up, or the mutex, from dying with somebody.
        ("lock", "mutex.c", "    kin_robust_begin(thread, &state->node);\n    /* A guess", "    /* A guess"),
        ("several", "mutex.c", "    kin_robust_begin(thread, &state->node);\n    int error", "    int error"),
        ("strict", "mutex_wait.c", "    kin_futex_wake(&state->word, 1);\n    return error;", "    (void)state;\n    return error;"),
        ("wait", "mutex_wait.c", "kin_mutex_releases(word) | (word & KIN_WAITERS) | wait", "kin_mutex_releases(word) | wait"),
        ("give-up", "mutex.c", "for_good ? KIN_OWNER_DIED : 0", "for_good ? FUTEX_TID_MASK : 0"),
    ],
)  # fmt: skip
def test_a_broken_one_is_caught(case, source, old, new, build, tmp_path):
    path = broken(tmp_path, source, (old, new))
    harness = build(f"broken-{case}", "mutex_cases.c", SOURCES, **{source.removesuffix(".c"): path})
    assert not harness.steps(case, broken=True).flawless


# ── processes of Python ──────────────────────────────────────────────────────────────────────

PAIR = struct.Struct("qq")  # two numbers, which are equal when nobody is at them


def take_turns(mutex: kin.Mutex, memory: mmap.mmap, turns: int | None) -> int:
    """Change what the mutex guards; how often one had died at it."""
    told = 0
    while turns is None or turns > 0:
        with mutex as held:
            first, second = PAIR.unpack_from(memory)
            if held.owner_died:
                told += 1
            else:
                assert first == second
            struct.pack_into("q", memory, 0, first + 1)
            struct.pack_into("q", memory, 8, first + 1)
        turns = None if turns is None else turns - 1
    return told


def kill_once(peers: Peers, dice: random.Random) -> int:
    """Kill who takes turns with others, who have to come to their end; how often one was told."""
    mutex, memory = kin.Mutex(), mmap.mmap(-1, mmap.PAGESIZE)
    victim = peers.fork(lambda _: take_turns(mutex, memory, None))
    others = [peers.fork(lambda _: take_turns(mutex, memory, 500)) for _ in range(2)]
    for _ in range(dice.randrange(100_000)):
        pass
    victim.kill()
    told = sum(other.result() for other in others) + take_turns(mutex, memory, 1)
    mutex.close()
    return told


def kill_at_random(kills: int) -> int:
    told = 0
    dice = random.Random(kills)
    for _ in range(kills):
        peers = Peers()
        try:
            told += kill_once(peers, dice)
        finally:
            peers.end()
    return told


def test_python_killed_at_random():
    assert kill_at_random(40) <= 40


@pytest.mark.soak
def test_python_killed_two_thousand_times():
    assert 0 < kill_at_random(2000) <= 2000
