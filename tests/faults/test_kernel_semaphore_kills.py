"""kill -9 around the kernel's semaphores: what libc's can't stand, and the System V ones can.

who is killed                          the others, by PosixSemaphore      by SysVSemaphore (undo)
who holds                              wait for ever                      go on
who was woken, and has not taken yet   sleep on: the wake-up is lost      go on
who waits                              go on                              go on
who makes a set, and has not filled it                                    complete it, at once

The left column is what the documentation says of PosixSemaphore, and the negative control of the right one.
"""

from __future__ import annotations

import os
import random
import signal
from typing import Any

import pytest
import sysv_ipc

import kinfolk as kin
from kinfolk.nameless_file import NamelessFile
from kinfolk.sync import sysv_set
from tests.conformance.peers import HANG, Peers, state, until
from tests.unit.semaphores import sem_key as sem_key
from tests.unit.semaphores import set_of, sets, value_of


@pytest.fixture
def made():
    semaphores = []

    def make(kind, value, **options):
        semaphores.append(
            kin.PosixSemaphore(None, value)
            if kind == "posix"
            else kin.SysVSemaphore(value=value, **options)
        )
        return semaphores[-1]

    yield make
    for semaphore in semaphores:
        semaphore.close()


def takes(semaphore, voice) -> None:
    semaphore.acquire()
    voice.say()
    signal.pause()


def waits(semaphore, voice) -> None:
    voice.say()
    semaphore.acquire(timeout=HANG)


# ── who holds ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("undo", [True, False])
def test_a_holder_is_killed(undo, made, peers):
    semaphore = made("sysv", 1, undo=undo)
    holder = peers.fork(lambda voice: takes(semaphore, voice))
    holder.hear()
    next_one = peers.fork(lambda voice: waits(semaphore, voice))
    next_one.hear()
    next_one.until_asleep()
    holder.kill()
    if undo:
        next_one.result()
    else:
        next_one.until_asleep()
        assert value_of(semaphore) == 0


def test_with_posix_it_is_gone(made, peers):
    semaphore = made("posix", 1)
    holder = peers.fork(lambda voice: takes(semaphore, voice))
    holder.hear()
    next_one = peers.fork(lambda voice: waits(semaphore, voice))
    next_one.hear()
    holder.kill()
    next_one.until_asleep()
    assert value_of(semaphore) == 0


# ── who was woken ────────────────────────────────────────────────────────────────────────────


def killed_awake(semaphore, peers: Peers) -> tuple[str, int]:
    """The first of two sleepers is woken, and killed before it runs: what the second one does, and the value."""
    cpu = min(os.sched_getaffinity(0))

    def idles(voice) -> None:
        os.sched_setaffinity(0, {cpu})
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # never before who is awake
        waits(semaphore, voice)

    def releases_and_kills(voice, pid: int) -> None:
        os.sched_setaffinity(0, {cpu})
        if isinstance(semaphore, kin.PosixSemaphore):
            semaphore.release()
        else:
            semaphore.operate([(0, 1)], undo=False)  # it stays, though this process ends
        os.kill(pid, signal.SIGKILL)

    first = peers.fork(idles)
    first.hear()
    first.until_asleep()
    second = peers.fork(lambda voice: waits(semaphore, voice))
    second.hear()
    second.until_asleep()
    peers.fork(releases_and_kills, first.pid).result()
    first.ended()
    until(lambda: state(second.pid) in "SZ", "the second one asleep, or at its end")
    return state(second.pid), value_of(semaphore)


def test_a_woken_waiter_is_killed(made, peers):
    for _ in range(5):
        assert killed_awake(made("sysv", 0), peers) == ("Z", 1)  # 1: the second one has ended, too


def test_with_posix_the_wake_up_goes_with_it(made, peers):
    until(
        lambda: killed_awake(made("posix", 0), peers) == ("S", 1),
        "a sleeper that sleeps on, although there is one to be had",
    )


# ── at random moments ────────────────────────────────────────────────────────────────────────


def kills(semaphore, peers: Peers, times: int) -> None:
    """Processes take and put back; one after the other is killed, and another comes."""

    def works(voice) -> None:
        voice.say()
        while True:
            with semaphore:
                os.sched_yield()

    chance = random.Random(times)
    workers = [peers.fork(works) for _ in range(3)]
    for peer in workers:
        peer.hear()
    for _ in range(times):
        for _ in range(chance.randrange(200)):
            os.sched_yield()
        victim = workers.pop(chance.randrange(3))
        victim.kill()
        workers.append(peers.fork(works))
        workers[-1].hear()
    for peer in workers:
        peer.kill()


def test_killed_at_random_moments_all_comes_back(made, peers):
    semaphore = made("sysv", 2)
    kills(semaphore, peers, 40)
    assert value_of(semaphore) == 2


@pytest.mark.soak
def test_killed_at_random_moments_very_often(made, peers):
    semaphore = made("sysv", 2)
    kills(semaphore, peers, 2000)
    assert value_of(semaphore) == 2


def test_with_posix_some_do_not(made, peers):
    """The negative control."""
    semaphore = made("posix", 100)

    def are_missing() -> bool:
        kills(semaphore, peers, 5)
        return value_of(semaphore) < 100

    until(are_missing, "one that is missing")


# ── who makes a set ──────────────────────────────────────────────────────────────────────────

#: What the maker calls, in this order; he is killed before each of them.
STEPS = ("sysv_sem_set_values", "sysv_sem_stamp", "sysv_sem_set_mode")


def killed_making(step: str, peers: Peers, mark: int = sysv_set.MAKING, **options: Any) -> None:
    """A process makes a set, and is killed before a step of it."""

    def make(voice) -> None:
        sysv_set.MAKING = mark
        setattr(sysv_set, step, lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
        kin.SysVSemaphore(**options)

    assert peers.fork(make).wait() == -signal.SIGKILL


@pytest.mark.parametrize("step", STEPS)
def test_a_maker_is_killed_and_the_next_one_completes_it(step, sem_key, peers):
    """At once, for the maker held a lock."""
    killed_making(step, peers, key=sem_key, n=2, value=[3, 0])
    left = set_of(sem_key)
    assert left is not None
    with pytest.raises(kin.Timeout):
        kin.SysVSemaphore(sem_key, n=2, value=[3, 0], mode=0o640).operate([(1, -1)], timeout=0)
    semaphore = kin.SysVSemaphore(sem_key, value=None)
    assert (semaphore.id, semaphore.values, semaphore.n) == (left, (3, 0), 2)
    mode = 0o600 if step == "sysv_sem_set_mode" else 0o640  # there it was complete but for its mark
    assert sysv_set.status_of(left).mode == mode


def test_what_was_left_with_other_terms_is_made_anew(sem_key, peers):
    killed_making(STEPS[0], peers, key=sem_key, n=2)
    left = set_of(sem_key)
    assert kin.SysVSemaphore(sem_key, n=3, value=7).values == (7, 7, 7)
    assert set_of(sem_key) != left


def test_what_was_left_is_not_there_for_who_makes_none(sem_key, peers):
    killed_making(STEPS[0], peers, key=sem_key)
    with pytest.raises(kin.NotFound):
        kin.SysVSemaphore(sem_key, value=None)
    assert set_of(sem_key) is None


def test_in_use_by_a_c_program_it_is_left_as_it_is(sem_key, peers):
    """It waits for sem_otime, and may begin before the mark is taken away."""
    killed_making(STEPS[2], peers, key=sem_key, value=3)
    peers.fork(lambda voice: sysv_ipc.Semaphore(sem_key).acquire()).result()
    assert kin.SysVSemaphore(sem_key, value=9).values == (2,)


def test_without_the_mark_it_could_not_be_told(sem_key, peers, monkeypatch):
    """The negative control: as any other program would have left it."""
    killed_making(STEPS[0], peers, mark=0, key=sem_key)
    monkeypatch.setattr(sysv_set, "PATIENCE", 0.05)
    with pytest.raises(kin.CorruptObject, match=f"ipcrm -s {set_of(sem_key)}"):
        kin.SysVSemaphore(sem_key)


@pytest.mark.parametrize("step", STEPS)
def test_a_maker_of_one_without_a_key_is_killed(step, peers):
    before = sets()
    killed_making(step, peers)
    assert len(sets() - before) == 1
    kin.SysVSemaphore().close()
    assert sets() == before


def test_a_maker_is_killed_before_it_is_known_who_uses_it(peers, monkeypatch):
    before = sets()

    def make(voice) -> None:
        monkeypatch.setattr(NamelessFile, "link", lambda self: os.kill(os.getpid(), signal.SIGKILL))
        kin.SysVSemaphore()

    assert peers.fork(make).wait() == -signal.SIGKILL
    assert len(sets() - before) == 1
    kin.SysVSemaphore().close()
    assert sets() == before


def test_all_users_of_one_without_a_key_are_killed(peers):
    """The next one that is made removes it; and not one that is in use."""
    before = sets()

    def use(voice) -> None:
        semaphore = kin.SysVSemaphore()
        voice.say(semaphore.id)
        signal.pause()

    killed, lives = peers.fork(use), peers.fork(use)
    number, other = killed.hear(), lives.hear()
    killed.kill()
    assert number in sets()
    kin.SysVSemaphore().close()
    assert sets() == before | {other}
    lives.kill()
    kin.SysVSemaphore().close()
    assert sets() == before
