"""What is broken for the stops about taking turns, and the check that must say so."""

from __future__ import annotations

import kinfolk as kin
from kinfolk.sync.lock_holds import Span
from kinfolk.tour import counter, file_lock, semaphores
from kinfolk.tour.processes import PATIENCE


def count_without_the_mutex(monkeypatch):
    work = counter._work
    monkeypatch.setattr(counter, "_work", lambda line, memory, mutex: work(line, memory, None))


def count_in_turns_always(monkeypatch):
    """With a lock, where there should be none."""
    count, mutex = counter._count, kin.Mutex()
    monkeypatch.setattr(counter, "_count", lambda given, **how: count(given or mutex, **how))


def tell_nobody(monkeypatch):
    monkeypatch.setattr(kin.Mutex, "owner_died", False)


def _impatiently(monkeypatch, stop, part):
    """For a part of a stop that waits for what never comes, and what follows it."""
    walk = getattr(stop, part)

    def hurry(*where):
        monkeypatch.setattr(stop, "PATIENCE", 0.1)
        walk(*where)

    monkeypatch.setattr(stop, part, hurry)


def put_in_one_more(monkeypatch):
    _impatiently(monkeypatch, semaphores, "_seats")
    seats = semaphores._seats

    def one_more(narrator, semaphore, *named):
        semaphore.release()
        seats(narrator, semaphore, *named)

    monkeypatch.setattr(semaphores, "_seats", one_more)


def put_back_before_dying(monkeypatch):
    _impatiently(monkeypatch, semaphores, "_killed_holder_of_posix")

    def take_and_put_back(line, seats):
        with seats:
            pass
        line.tell("all taken")
        line.hear()

    monkeypatch.setattr(semaphores, "_take_all", take_and_put_back)


def take_one_after_the_other(monkeypatch):
    def one_by_one(line, forks):
        line.tell("ready")
        forks.acquire(timeout=PATIENCE)
        forks.acquire(timeout=PATIENCE, index=1)
        return forks.values

    monkeypatch.setattr(semaphores, "_take_both", one_by_one)


def undo_nothing(monkeypatch):
    def take_for_good(line, seats):
        for _ in range(semaphores._SEATS):
            if isinstance(seats, kin.SysVSemaphore):
                seats.operate([(0, -1)], undo=False)
            else:
                seats.acquire()
        line.tell("all taken")
        line.hear()

    monkeypatch.setattr(semaphores, "_take_all", take_for_good)
    monkeypatch.setattr(semaphores, "PATIENCE", 0.1)  # for what never comes


def give_back_nothing(monkeypatch):
    made = kin.Semaphore
    monkeypatch.setattr(kin, "Semaphore", lambda value: made(value, undo=False))
    _impatiently(monkeypatch, semaphores, "_killed_holder_of_ours")


def lock_nothing(monkeypatch):
    monkeypatch.setattr("kinfolk.sync.lock_holds.OfdHold._set", lambda self, kind: True)


def lock_exclusively_always(monkeypatch):
    _impatiently(monkeypatch, file_lock, "_share")
    acquire = kin.FileLock.acquire
    monkeypatch.setattr(
        kin.FileLock, "acquire", lambda self, timeout, **how: acquire(self, timeout)
    )


def lock_the_whole_file_always(monkeypatch):
    monkeypatch.setattr("kinfolk.sync.file_lock.span", lambda start, length, subject: Span(0, 0))


def keep_what_is_inherited(monkeypatch):
    _impatiently(monkeypatch, file_lock, "_kill")
    monkeypatch.setattr("kinfolk.sync.lock_holds.Hold.after_fork_in_child", lambda self: None)


SYNC = [
    ("counter", count_without_the_mutex, "with a mutex it is exact"),
    ("counter", count_in_turns_always, "the count comes out short"),
    ("counter", tell_nobody, "goes to the next one, who is told"),
    ("semaphores", put_in_one_more, "with a POSIX semaphore of 0 who takes sleeps"),
    ("semaphores", put_back_before_dying, "what a killed process took of it is lost"),
    ("semaphores", take_one_after_the_other, "together or not at all"),
    ("semaphores", undo_nothing, "walked to its end"),
    ("semaphores", give_back_nothing, "walked to its end"),
    ("file-lock", lock_nothing, "under a lock none was lost"),
    ("file-lock", lock_exclusively_always, "walked to its end"),
    ("file-lock", lock_the_whole_file_always, "each for itself"),
    ("file-lock", keep_what_is_inherited, "did not keep it"),
]
