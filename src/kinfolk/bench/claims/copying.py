"""What copies cost here: the slope of a cost over the size is what each byte costs, whatever a call
costs by itself.

    time │            ·  send and receive: two copies
         │        ·
         │    ·          · one copy
         │·     ·
         └──────────── bytes

Rules:
1. A slope is taken from medians of many calls at several sizes, all of which fit into the first
   caches, by least squares.
2. The kernel's copy is measured by pwrite(2) and pread(2) of a memfd whose pages are there: one
   copy each, and nothing else that grows with the size.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence

#: Bytes: up to what every POSIX and System V queue takes by default.
SIZES = (512, 1024, 2048, 3072, 4096, 6144, 8000)

_CALLS, _ROUNDS = 60, 15


def slope(call: Callable[[int], object], sizes: Sequence[int] = SIZES) -> float:
    """Nanoseconds for each byte of a call that is given a size."""
    costs: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(_ROUNDS):
        for size in sizes:
            begun = time.thread_time_ns()
            for _ in range(_CALLS):
                call(size)
            costs[size].append((time.thread_time_ns() - begun) / _CALLS)
    points = [(size, min(taken)) for size, taken in costs.items()]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def kernel_copy() -> float:
    """Nanoseconds for each byte that the kernel copies, from and to a process, on the average."""
    fd = os.memfd_create("kinfolk-copy")
    try:
        data, room = bytes(max(SIZES)), bytearray(max(SIZES))
        os.pwrite(fd, data, 0)
        views = {size: (memoryview(data)[:size], [memoryview(room)[:size]]) for size in SIZES}
        inward = slope(lambda size: os.pwrite(fd, views[size][0], 0))
        outward = slope(lambda size: os.preadv(fd, views[size][1], 0))
        return (inward + outward) / 2
    finally:
        os.close(fd)


def user_copy() -> float:
    """Nanoseconds for each byte of a copy into a new bytes object, which Python's libraries make
    when they receive.
    """
    view = memoryview(bytearray(max(SIZES)))
    return slope(lambda size: bytes(view[:size]))
