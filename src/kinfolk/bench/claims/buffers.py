"""A pipe's buffer is limited, and is one page."""

from __future__ import annotations

import fcntl
import os

from kinfolk.bench.claims.claim import Claim, Found


def _filled(chunk: int) -> int:
    """Bytes that a new pipe takes, by writes of so many, until it would block."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    taken = 0
    try:
        while True:
            taken += os.write(writing, bytes(chunk))
    except BlockingIOError:
        return taken
    finally:
        os.close(reading)
        os.close(writing)


def _largest() -> int:
    """Bytes that a user may ask for."""
    try:
        with open("/proc/sys/fs/pipe-max-size", encoding="ascii") as file:
            return int(file.read())
    except OSError:
        return 1 << 20


def _test() -> Found:
    page = os.sysconf("SC_PAGE_SIZE")
    reading, writing = os.pipe()
    try:
        capacity = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
        largest = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _largest())
    finally:
        os.close(reading)
        os.close(writing)
    filled = {chunk: _filled(chunk) for chunk in (1, page // 2 + 1, page)}
    figures = {
        "page": float(page),
        "capacity": float(capacity),
        "largest": float(largest),
        **{f"filled by writes of {chunk}": float(taken) for chunk, taken in filled.items()},
    }
    worst = min(filled.values())
    sentence = (
        f"Limited, yes; one page, no: a new pipe holds {capacity:,} bytes, {capacity // page} "
        f"pages, and took {filled[page]:,} before "
        f"it blocked ({worst:,} where writes of {page // 2 + 1:,} leave half of each page empty); "
        f"fcntl(2) F_SETPIPE_SZ made it {largest:,} without a privilege."
    )
    return Found("does not hold" if capacity > page else "holds", sentence, figures)


CLAIMS = (
    Claim(
        "pipe-page",
        "A pipe has a buffer of one page, which is rather limited.",
        "管道：在创建时分配一个page大小的内存，缓存区大小比较有限",
        "F_GETPIPE_SZ, F_SETPIPE_SZ, and writes to a pipe that nobody reads until EAGAIN.",
        _test,
    ),
)
