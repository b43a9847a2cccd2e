"""kill -9 in the middle of a condition: at every instruction of what is done with it, and at random moments.

who is killed                              who waits
before it has changed anything             waits on
… after that, whether it has notified or not   goes on
waiting, asleep, or woken and not there yet    goes on, if one of them was to
becoming a member, or leaving              is not concerned
"""

from __future__ import annotations

import mmap
import random

import pytest

import kinfolk as kin
from tests.conformance.peers import Peers
from tests.faults.harness import Build, broken

SOURCES = (
    *("condition", "members", "members_leave", "watcher", "child", "sysv_wait"),
    *("mutex", "mutex_wait", "robust", "sync_object"),
)

#: Every so many instructions, in the short run; the long one takes each.
CASES = {
    "notify": 20,
    "notify-all": 20,
    "change": 8,
    "change-alongside": 8,
    "wait": 200,
    "wait-for-all": 200,
    "woken": 40,
    "wait-for-dying": 200,
    "time-out": 80,
    "interrupt": 200,
    "join": 300,
    "leave": 30,
}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    return Build(c_compiler, tmp_path_factory.mktemp("condition_kills"))


@pytest.fixture(scope="module")
def condition(build):
    return build("condition", "condition_cases.c", SOURCES)


@pytest.mark.parametrize("case", CASES)
def test_nobody_is_stuck_wherever_one_is_killed(case, condition):
    assert condition.steps(case, every=CASES[case]).flawless


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES)
def test_nobody_is_stuck_at_any_instruction(case, condition):
    assert condition.steps(case).flawless


def test_the_waiter_is_killed_asleep_and_awake(condition):
    outcome = condition.steps("wait-for-all", every=400)
    assert 0 < outcome.asleep < outcome.points


AT_RANDOM = {"notify": 300, "change": 100, "wait": 300, "wait-for-dying": 300}  # longest, µs


@pytest.mark.parametrize("case", AT_RANDOM)
def test_kills_at_random(case, condition):
    assert condition.storm(case, 50, longest=AT_RANDOM[case]).flawless


@pytest.mark.soak
@pytest.mark.parametrize("case", AT_RANDOM)
def test_two_thousand_kills_at_random(case, condition):
    assert condition.storm(case, 2000, longest=AT_RANDOM[case]).flawless


LOOK = "int error = kin_members_look(&condition->members, KIN_LOOK_TOLD, deadline);"


@pytest.mark.parametrize(
    ("case", "source", "old", "new"),
    [
        ("woken", "condition.c", LOOK, "int error = 0;"),
        ("woken", "watcher.c", "        kin_futex_wake(watch->turn, INT_MAX);\n", ""),
        # Each takes away something that keeps those who wait from sleeping for ever.
        ("change", "condition.c", LOOK, "int error = 0;"),
        ("change", "condition.c", "kin_condition_wake(condition); /* rule 4 */", "(void)condition;"),
        ("change", "watcher.c", "        kin_futex_wake(watch->turn, INT_MAX);\n", ""),
        ("change", "members.c", "    kin_members_wake(members, INT_MAX); /* rule 1: and only then may other threads go by it */", "    {}"),
    ],
    ids=["woken unwatched", "woken dies in silence", "watches nobody", "says nothing", "wakes nobody", "comes in silence"],
)  # fmt: skip
def test_a_broken_one_is_caught(case, source, old, new, build, tmp_path, request):
    path = broken(tmp_path, source, (old, new))
    name = f"broken-{request.node.callspec.id.replace(' ', '-')}"
    harness = build(name, "condition_cases.c", SOURCES, **{source.removesuffix(".c"): path})
    # Some need another thread or process at the right place, too.
    assert harness.catches(case, every=3)


# ── processes of Python ──────────────────────────────────────────────────────────────────────


class Store:
    """Things to be had, in shared memory: how many."""

    def __init__(self) -> None:
        """Empty."""
        # Written by one store, so that it is old or new when its writer is killed: struct.pack_into writes zeros first.
        self._number = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")
        self._condition = kin.Condition()

    def _count(self) -> int:
        return self._number[0]

    def give(self, turns: int) -> None:
        for _ in range(turns):
            with self._condition:
                self._number[0] += 1
                self._condition.notify()

    def take(self, turns: int) -> None:
        for _ in range(turns):
            with self._condition:
                self._condition.wait_for(self._count)
                self._number[0] -= 1

    def give_and_take(self) -> None:
        """For ever; never more taken than given."""
        while True:
            self.give(1)
            self.take(1)

    def close(self) -> None:
        self._condition.close()


TURNS = 100


def kill_once(peers: Peers, dice: random.Random) -> None:
    """Kill who gives and takes among others, who have to come to their end."""
    store = Store()
    victim = peers.fork(lambda _: store.give_and_take())
    takers = [peers.fork(lambda _: store.take(TURNS)) for _ in range(2)]
    giver = peers.fork(lambda _: store.give(2 * TURNS))
    for _ in range(dice.randrange(200_000)):
        pass
    victim.kill()
    for peer in (giver, *takers):
        peer.result()
    store.close()


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
