"""Copy-on-write has made vfork needless."""

from __future__ import annotations

import os
import time

from kinfolk.bench.claims.claim import Claim, Found
from kinfolk.bench.statistics import Interval, paired_ratio

_TRUE = "/bin/true"

#: Bytes resident in the parent, and rounds.
_SIZES = (0, 256 << 20)
_ROUNDS = 9


def _by_vfork() -> float:
    """Milliseconds; glibc's posix_spawn shares the parent's memory until exec, as vfork does."""
    begun = time.perf_counter()
    pid = os.posix_spawn(_TRUE, [_TRUE], os.environ)
    os.waitpid(pid, 0)
    return (time.perf_counter() - begun) * 1e3


def _by_fork() -> float:
    begun = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        try:
            os.execv(_TRUE, [_TRUE])
        finally:
            os._exit(127)
    os.waitpid(pid, 0)
    return (time.perf_counter() - begun) * 1e3


def _compared(size: int) -> tuple[float, float, Interval]:
    ballast = bytearray(size)
    ballast[::4096] = b"x" * len(ballast[::4096])  # every page is there
    shared, copied = [], []
    for _ in range(_ROUNDS):
        shared.append(_by_vfork())
        copied.append(_by_fork())
        ballast[::4096] = b"y" * len(
            ballast[::4096]
        )  # what fork has write-protected, is written again
    return min(shared), min(copied), paired_ratio(copied, shared)


def _test() -> Found:
    figures: dict[str, float] = {}
    told = []
    ratios = {}
    for size in _SIZES:
        vfork, fork, ratio = _compared(size)
        ratios[size] = ratio
        words = f"{size >> 20} MiB resident" if size else "a small parent"
        figures |= {
            f"ms, {words}, vfork": vfork,
            f"ms, {words}, fork": fork,
            f"ratio, {words}": ratio.ratio,
        }
        told.append(f"{ratio.ratio:.1f} times with {words} ({fork:.1f} against {vfork:.1f} ms)")
    sentence = (
        f"fork and exec takes {' and '.join(told)} as long as posix_spawn, which is vfork's way: "
        "copy-on-write saves copying "
        "the pages, and not the tables of them, which grow with the parent."
    )
    largest = ratios[max(_SIZES)]
    return Found("does not hold" if largest.ratio > 1.5 else "holds", sentence, figures)


CLAIMS = (
    Claim(
        "vfork",
        "Copy-on-write has made vfork needless.",
        "所以我们现在也很少去用vfork，因为vfork的优势已经不复存在了",
        f"{_TRUE} by posix_spawn and by fork and exec in turn, from a small parent and from one "
        f"with {_SIZES[-1] >> 20} MiB; "
        f"the fastest of {_ROUNDS}, and the ratio of all.",
        _test,
    ),
)
