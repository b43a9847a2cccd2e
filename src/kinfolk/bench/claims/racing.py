"""Shared memory leaves it to the processes not to disturb each other; a semaphore is a lock, and
carries no data.
"""

from __future__ import annotations

import mmap
import time

import kinfolk as kin
from kinfolk.bench.claims.claim import Claim, Found
from kinfolk.bench.claims.semaphores import posix_semaphores
from kinfolk.bench.forked import together

_ADDITIONS = 100_000

#: How often two processes may happen to run one after the other before it is believed that nothing
#: is lost.
_TRIES = 50


def _counted(lock: kin.Mutex | None) -> int:
    """Two processes add 1 to a number in shared memory, so often each; the number."""
    numbers = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
    ready = memoryview(mmap.mmap(-1, mmap.PAGESIZE))

    def adding(which: int) -> int:
        ready[which] = 1
        while not (ready[0] and ready[1]):
            pass
        for _ in range(_ADDITIONS):
            if lock is None:
                numbers[0] += 1
            else:
                with lock:
                    numbers[0] += 1
        return 0

    together(lambda: adding(0), lambda: adding(1))
    return int(numbers[0])


def _race_test() -> Found:
    due, tries = 2 * _ADDITIONS, 0
    bare = due
    while bare == due and tries < _TRIES:
        tries += 1
        bare = _counted(None)
    locked = _counted(kin.Mutex())
    figures = {
        "due": float(due),
        "without a lock": float(bare),
        "with kin.Mutex": float(locked),
        "tries until some were lost": float(tries),
    }
    sentence = (
        f"Two processes added 1 to the same number {_ADDITIONS:,} times each: without a lock "
        f"{due - bare:,} of {due:,} additions were "
        f"lost, with kin.Mutex {due - locked:,}."
    )
    return Found("holds" if bare < due == locked else "does not hold", sentence, figures)


def _semaphore_test() -> Found:
    """What a semaphore can tell, and how fast it can be told."""
    forth, back = posix_semaphores()
    rounds = 2_000

    def asking() -> float:
        begun = time.perf_counter()
        for _ in range(rounds):
            forth.release()
            back.acquire()
        return (time.perf_counter() - begun) / rounds * 1e6

    def answering() -> int:
        for _ in range(rounds):
            forth.acquire()
            back.release()
        return 0

    took, _ = together(asking, answering)
    microseconds = float(str(took))
    sentence = (
        "A release carries nothing but that it happened: the value is one number, to which "
        "releases add up. As a signal between "
        f"two processes, there and back, it takes {microseconds:.1f} µs; the data have to lie "
        "elsewhere."
    )
    return Found("holds", sentence, {"round trip of two semaphores, µs": microseconds})


CLAIMS = (
    Claim(
        "shared-locks",
        "Shared memory needs locks: the operating system does not synchronise the processes.",
        "但进程间的同步问题操作系统无法实现，必须各进程利用同步工具解决",
        "Two processes on two CPUs add to one number in an anonymous shared mapping, with and "
        "without a mutex.",
        _race_test,
    ),
    Claim(
        "semaphore-data",
        "A semaphore carries no data: it is a lock, a means of synchronisation.",
        "信号量：常作为一种锁机制，防止某进程正在访问共享资源时，其他进程也访问该资源",
        "Two POSIX semaphores between two processes, released and acquired in turn; what "
        "sem_post(3) takes is no argument.",
        _semaphore_test,
    ),
)
