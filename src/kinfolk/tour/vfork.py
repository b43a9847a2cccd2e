"""Stop `vfork`: is it needless? The source's chapter fork和vfrok, put to the test.

The source: fork once copied everything, so there was vfork, which copies nothing and shares the memory until exec; since fork
copies on write, vfork's advantage is gone.

It shows, in a small process and in one with 1 GiB resident (less where the machine has not that much to spare),
- how long /bin/true takes from its start to its end: by fork and exec, and by the ways that stand on vfork;
- what fork copies even so: the page tables, which are as large as the memory is.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import kinfolk as kin
from kinfolk.tour.evidence import kibibytes, status_line
from kinfolk.tour.narrator import Column, Narrator
from kinfolk.tour.processes import PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk

#: Bytes: what is made resident, and what a machine must have left for it to be so.
_WANTED = 1 << 30
_LEFT_FREE = 3

_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE

#: Starts of each way, the first of which is no measure; and seconds after which the fewer do.
_ROUNDS, _FEWER, _ENOUGH = 12, 4, 0.1

#: From this ratio on, vfork has an advantage.
_ADVANTAGE = 1.5

_COLUMNS = (
    Column("way", "/bin/true, started by", number=False),
    Column("small_ms", "ms in a small process", "{:.2f}".format),
    Column("large_ms", "ms with the memory", "{:.2f}".format),
    Column("ratio", "to posix_spawn", "{:.1f} ×".format),
)


class Measured(NamedTuple):
    """What the measuring process found. Seconds by way."""

    small: dict[str, float]
    large: dict[str, float]
    failed: int
    #: bytes: what was asked for, and by how much the process grew
    asked: int
    resident: int
    #: KiB by which the page tables grew, here and in a forked child
    tables: int
    tables_of_fork: int


def visit(narrator: Narrator, walk: Walk) -> None:
    """Measure, and say whether the source's word holds."""
    with crew() as hands:
        found: Measured = hands.start("measurer", _measure, _affordable()).result()
    fork, spawn = found.large["fork + exec"], found.large["posix_spawn"]
    rows: list[dict[str, Any]] = [
        {
            "way": way,
            "small_ms": found.small[way] * 1000,
            "large_ms": seconds * 1000,
            "ratio": seconds / spawn,
        }
        for way, seconds in found.large.items()
    ]
    mib = found.resident >> 20
    narrator.says(
        f"/bin/true from its start to its end, in medians of up to {_ROUNDS - 1}; the memory was "
        f"{mib:,} MiB:"
    )
    narrator.table("starts", _COLUMNS, rows)
    holds = fork / spawn < _ADVANTAGE
    narrator.says(
        f"Copy-on-write spares the copy of the pages, not of their tables: of {found.tables:,} "
        "KiB for this memory a forked "
        f"child got {found.tables_of_fork:,}, and exec threw them away. vfork copies neither."
    )
    narrator.says(
        "The source's word that vfork has lost its advantage "
        f"{'holds' if holds else 'does not hold'} here: "
        f"fork and exec took {fork / spawn:.1f} times as long as posix_spawn, with {mib:,} MiB."
    )
    narrator.figure("resident_mib", mib)
    narrator.figure("page_tables_kib", found.tables)
    narrator.figure("holds", holds)
    narrator.check("every /bin/true ran and exited with 0", not found.failed, f"{found.failed} not")
    narrator.check(
        "the memory was resident meanwhile",
        found.resident > 0.9 * found.asked,
        f"{mib} of {found.asked >> 20} MiB",
    )
    narrator.check(
        "fork copied the page tables of all of it",
        found.tables_of_fork > found.tables // 2,
        f"{found.tables_of_fork:,} of {found.tables:,} KiB",
    )


# ── measuring ────────────────────────────────────────────────────────────────────────────────


def _measure(line: Line, size: int) -> Measured:
    with contextlib.suppress(OSError):  # should memory run out all the same, this one is to go
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    program = shutil.which("true") or "/bin/true"
    small, failed_small = _medians(program)
    line.alive()
    before, tables, in_child = _resident(), _page_tables(), _page_tables_of_a_fork()
    with _memory(size) as asked:
        resident = _resident() - before
        large, failed_large = _medians(program)
        tables = _page_tables() - tables
        in_child = _page_tables_of_a_fork() - in_child
    return Measured(small, large, failed_small + failed_large, asked, resident, tables, in_child)


def _medians(program: str) -> tuple[dict[str, float], int]:
    """Of each way, in seconds; and how many starts did not end well.

    One after the other, not in turn: a fork ends the thread by which kin.spawn learns of ends, and the next start has to make
    it anew.
    """
    medians: dict[str, float] = {}
    failed = 0
    for way, start in WAYS.items():
        times: list[float] = []
        while len(times) < _FEWER or (len(times) < _ROUNDS and sum(times) < _ENOUGH):
            began = time.perf_counter()
            failed += not start(program)
            times.append(time.perf_counter() - began)
        medians[way] = statistics.median(times[1:])
    return medians, failed


def _fork_and_exec(program: str) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            os.execv(program, [program])
        finally:
            os._exit(127)
    return os.waitpid(pid, 0)[1] == 0


def _posix_spawn(program: str) -> bool:
    pid = os.posix_spawn(program, [program], os.environ)
    return os.waitpid(pid, 0)[1] == 0


def _kin_spawn(program: str) -> bool:
    return kin.spawn([program], containment="direct").wait(PATIENCE).success


#: glibc's posix_spawn and kinfolk's own start both are a vfork and an exec.
WAYS: dict[str, Callable[[str], bool]] = {
    "fork + exec": _fork_and_exec,
    "posix_spawn": _posix_spawn,
    'kin.spawn(…, containment="direct")': _kin_spawn,
}


def _page_tables_of_a_fork() -> int:
    reading, writing = os.pipe()
    with open(reading, "rb") as answer, open(writing, "wb") as question:
        side = kin.fork()
        if side.child is None:
            question.write(str(_page_tables()).encode())
            question.flush()
            kin.exit_now(0)
        question.close()
        text = answer.read()
        side.child.wait(PATIENCE)
    return int(text)


# ── memory ───────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _memory(size: int) -> Iterator[int]:
    """So much resident memory, or half of it, and so on, where there may be no more."""
    memory: mmap.mmap | None = None
    while memory is None:
        try:
            memory = mmap.mmap(-1, size, flags=_FLAGS)
        except OSError:
            if size <= mmap.PAGESIZE:
                raise
            size //= 2
    with memory:
        yield size


def _resident() -> int:
    return kibibytes(status_line("self", "VmRSS")) << 10


def _page_tables() -> int:
    return kibibytes(status_line("self", "VmPTE"))


def _affordable() -> int:
    """Bytes, whole MiB: what leaves most of the free memory to others, also in our control group."""
    with open("/proc/meminfo") as file:
        free = dict(line.split(":", 1) for line in file)
    rooms = [kibibytes(free["MemAvailable"]) << 10, *_rooms_of_cgroups()]
    affordable = min(rooms) // (1 + _LEFT_FREE)
    return max(1, min(_WANTED, affordable) >> 20) << 20


def _rooms_of_cgroups() -> Iterator[int]:
    """Bytes that each control group above us has left (cgroups(7), version 2)."""
    with contextlib.suppress(OSError):
        with open("/proc/self/cgroup") as file:
            paths = [line.split("::", 1)[1].strip() for line in file if line.startswith("0::")]
        for path in paths:
            parts = [part for part in path.split("/") if part]
            for depth in range(len(parts) + 1):
                directory = "/".join(["/sys/fs/cgroup", *parts[:depth]])
                with contextlib.suppress(OSError, ValueError):  # the topmost has no limit, or "max"
                    limit = int(_text(f"{directory}/memory.max"))
                    yield max(0, limit - int(_text(f"{directory}/memory.current")))


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


STOP = Stop("vfork", "has copy-on-write made it needless?", "fork和vfrok", visit)
