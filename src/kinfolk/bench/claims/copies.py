"""A message queue copies everything twice; shared memory copies nothing."""

from __future__ import annotations

import mmap
import os
import secrets
import time
from collections.abc import Callable

import posix_ipc
import sysv_ipc

from kinfolk.bench.claims import copying, sampled
from kinfolk.bench.claims.claim import Claim, Found
from kinfolk.bench.claims.semaphores import posix_semaphores
from kinfolk.bench.forked import together
from kinfolk.bench.statistics import middle

#: Bytes handed over.
_LARGE = 8 << 20
_ROUNDS = 7


def _queue_test() -> Found:
    """Each call copies what it says that it moved: one copy in, one copy out. What that costs,
    against one copy.
    """
    one, own = copying.kernel_copy(), copying.user_copy()
    name = f"/kfb-{secrets.token_hex(6)}"
    posix = posix_ipc.MessageQueue(name, posix_ipc.O_CREX, max_message_size=8192)
    posix.unlink()
    sysv = sysv_ipc.MessageQueue(None, sysv_ipc.IPC_CREX, max_message_size=8192)
    data = bytes(8192)
    messages = {size: data[:size] for size in copying.SIZES}
    moved = {"sent": 0, "received": 0}

    def through(
        send: Callable[[bytes], object], take: Callable[[], bytes]
    ) -> Callable[[int], None]:
        def call(size: int) -> None:
            send(messages[size])
            moved["sent"] += size
            moved["received"] += len(take())

        return call

    try:
        # The counting is in both loops, and costs the same for every size.
        costs = {
            "POSIX": copying.slope(through(posix.send, lambda: posix.receive()[0])),
            "System V": copying.slope(through(sysv.send, lambda: sysv.receive()[0])),
        }
    finally:
        posix.close()
        sysv.remove()
    copies = {kind: (cost - own) / one for kind, cost in costs.items()}
    counted = (moved["sent"] + moved["received"]) / moved["sent"]
    by_perf = _by_perf()
    figures = {
        "copies counted": counted,
        **{f"copies by perf, {kind}": round(number, 2) for kind, number in by_perf.items()},
        **{f"copies by cost, {kind}": round(number, 2) for kind, number in copies.items()},
        "ns a byte of one copy": round(one, 4),
        "ns a byte of the library's own copy": round(own, 4),
    }
    sentence = (
        f"Every byte crosses into the kernel and out of it: {counted:.0f} copies by the calls' own "
        "count; by perf's samples of routines that "
        f"copy, in copies' worth: {_told(by_perf) or 'not to be had here'}; by the whole cost of a "
        "byte, of which one copy is "
        f"{one:.3f} ns: {_told(copies)} (what Python's library copies of what it receives is taken "
        "off)."
    )
    return Found("holds" if counted == 2 else "does not hold", sentence, figures)


def _by_perf() -> dict[str, float]:
    """How many times the copying of one copy; empty where perf can't say."""
    one = sampled.copying_time("one copy")
    if one is None:
        return {}
    found = {kind: sampled.copying_time(kind) for kind in ("POSIX", "System V")}
    return {kind: spent / one for kind, spent in found.items() if spent is not None}


def _told(copies: dict[str, float]) -> str:
    return ", ".join(f"{kind} {number:.1f}" for kind, number in copies.items())


def _shared_test() -> Found:
    """What it costs to give 8 MiB to another process, beyond writing them once and reading them
    once.
    """
    alone = middle([_alone() for _ in range(_ROUNDS)])
    shared = middle([_shared() for _ in range(_ROUNDS)])
    piped = middle([_piped() for _ in range(_ROUNDS)])
    copy = middle([_plain_copy() for _ in range(_ROUNDS)])
    extra = {"shared memory": (shared - alone) / copy, "pipe": (piped - alone) / copy}
    figures = {
        "ms, written and read by one process": alone,
        "ms, shared memory": shared,
        "ms, pipe": piped,
        "ms, one copy": copy,
        "copies' worth, shared memory": extra["shared memory"],
        "copies' worth, pipe": extra["pipe"],
    }
    sentence = (
        "No byte was given to a system call. Beyond being written and read, which alone takes "
        f"{alone:.2f} ms, {_LARGE >> 20} MiB cost "
        f"{shared - alone:+.2f} ms through shared memory and {piped - alone:+.2f} ms through a "
        "pipe; "
        f"one copy of them is {copy:.2f} ms. What is left is the wake-up, and the cache of the "
        "other CPU."
    )
    # No copy is made, whatever it costs; where that is as much as copying, the caches see to it.
    cheap = extra["shared memory"] < max(1.0, extra["pipe"] / 2)
    return Found("holds" if cheap else "holds in part", sentence, figures)


def _write(memory: mmap.mmap, value: int) -> None:
    memory.seek(0)
    memory.write(_FILLINGS[value % 2])


_FILLINGS = (b"\x11" * _LARGE, b"\x22" * _LARGE)


def _read(memory: mmap.mmap, value: int) -> None:
    if not _FILLINGS[value % 2].startswith(memory):
        raise ValueError("what was read is not what was written")


def _alone() -> float:
    memory = mmap.mmap(-1, _LARGE)
    _write(memory, 0)  # its pages are there
    begun = time.perf_counter()
    _write(memory, 1)
    _read(memory, 1)
    return (time.perf_counter() - begun) * 1e3


def _shared() -> float:
    memory = mmap.mmap(-1, _LARGE)
    _write(memory, 0)
    go, done = posix_semaphores()

    def writer() -> float:
        done.acquire()  # the reader is there
        begun = time.perf_counter()
        _write(memory, 1)
        go.release()
        done.acquire()
        return (time.perf_counter() - begun) * 1e3

    def reader() -> int:
        _read(memory, 0)  # its pages are mapped here, too
        done.release()
        go.acquire()
        _read(memory, 1)
        done.release()
        return 0

    took, _ = together(writer, reader)
    return float(str(took))


def _piped() -> float:
    reading, writing = os.pipe()
    go, done = posix_semaphores()
    memory = mmap.mmap(-1, _LARGE)
    _write(memory, 0)

    def writer() -> float:
        go.acquire()
        begun = time.perf_counter()
        _write(memory, 1)
        rest = memoryview(memory)
        while rest:
            rest = rest[os.write(writing, rest) :]
        done.acquire()
        return (time.perf_counter() - begun) * 1e3

    def reader() -> int:
        room = mmap.mmap(-1, _LARGE)
        _write(room, 0)
        go.release()
        got, view = 0, memoryview(room)
        while got < _LARGE:
            got += os.readv(reading, [view[got:]])
        view.release()
        _read(room, 1)
        done.release()
        return 0

    try:
        took, _ = together(writer, reader)
    finally:
        os.close(reading)
        os.close(writing)
    return float(str(took))


def _plain_copy() -> float:
    source, target = mmap.mmap(-1, _LARGE), mmap.mmap(-1, _LARGE)
    _write(source, 0)
    _write(target, 1)
    begun = time.perf_counter()
    memoryview(target)[:] = memoryview(source)
    return (time.perf_counter() - begun) * 1e3


CLAIMS = (
    Claim(
        "queue-copies",
        "A message queue copies each message twice, which costs CPU time.",
        "消息队列：信息复制两次，额外的CPU消耗；不合适频繁或信息量大的通信",
        "The bytes that the calls say they have moved are added up; and the slope of CPU time over "
        "the size of send and receive "
        "is divided by that of pwrite and pread of a memfd, which copy once; so are perf's samples "
        "of the routines that copy.",
        _queue_test,
    ),
    Claim(
        "shared-copies",
        "Shared memory needs no copy: the buffer is in the processes' own address space.",
        "共享内存：无须复制，共享缓冲区直接付附加到进程虚拟地址空间，速度快",
        f"{_LARGE >> 20} MiB are written by one process and read by another, in place or through a "
        f"pipe; medians of {_ROUNDS}.",
        _shared_test,
    ),
)
