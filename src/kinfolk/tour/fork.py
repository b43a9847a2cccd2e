"""Stop `fork`: one call, two returns. The source's chapter fork的最简单实例, and its word on copy-on-write.

It shows
- the source's program: n++ in the child, n-- in the parent, and each has an n of its own;
- that nothing is copied before it is written to: reading costs no page fault, writing costs one a page.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
from typing import NamedTuple

import kinfolk as kin
from kinfolk.tour.evidence import kibibytes
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk

#: The memory that is forked, and the part of it that the child writes to, in bytes.
_MEMORY, _WRITTEN = 32 << 20, 8 << 20

_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


class Half(NamedTuple):
    """What one of the two processes has to say."""

    pid: int
    ppid: int
    n: int


class Copied(NamedTuple):
    """What reading and writing cost the child."""

    faults_reading: int
    faults_writing: int
    #: KiB that it shared with nobody, before and after it wrote; 0 where the kernel does not say
    own_before: int
    own_after: int


def visit(narrator: Narrator, walk: Walk) -> None:
    """Walk through both parts."""
    _two_returns(narrator)
    _copy_on_write(narrator)


# ── the source's program ─────────────────────────────────────────────────────────────────────


def _two_returns(narrator: Narrator) -> None:
    with crew() as hands:
        program = hands.start("program", _program)
        child: Half = program.hear()
        parent, said = program.result()
    narrator.says(
        f"Before fork: n = 0. Process {parent.pid} called kin.fork() once, and it returned "
        f"twice: in {child.pid} "
        f"(ppid {child.ppid}), where n++ made n = {child.n}, and in {parent.pid}, where n-- made "
        f"n = {parent.n}."
    )
    narrator.check(
        "it returned in two processes, of which one is the other's child",
        child.pid != parent.pid and child.ppid == parent.pid == program.pid,
        f"{child} and {parent}",
    )
    narrator.check(
        "the parent was told who its child is", said == child.pid, f"{said}, not {child.pid}"
    )
    narrator.check(
        "each has its own n: 1 in the child, -1 in the parent",
        (child.n, parent.n) == (1, -1),
        f"{child.n} and {parent.n}",
    )


def _program(line: Line) -> tuple[Half, int]:
    n = 0
    with kin.fork() as side:
        if side.child is None:
            n += 1
            line.tell(Half(os.getpid(), os.getppid(), n))
            kin.exit_now(0)
        n -= 1
        side.child.wait(PATIENCE)
        return Half(os.getpid(), os.getppid(), n), side.child.pid


# ── copy-on-write ────────────────────────────────────────────────────────────────────────────


def _copy_on_write(narrator: Narrator) -> None:
    with crew() as hands:
        parent = hands.start("parent", _fork_with_memory)
        copied: Copied = parent.hear()
        unchanged = parent.result()
    pages, written = _MEMORY // mmap.PAGESIZE, _WRITTEN // mmap.PAGESIZE
    narrator.says(
        f"Process {parent.pid} forked with {_MEMORY >> 20} MiB in memory. Its child read all "
        f"{pages:,} pages: "
        f"{copied.faults_reading:,} page faults. It wrote to {written:,} of them: "
        f"{copied.faults_writing:,}, a copied page each."
    )
    if copied.own_after:
        narrator.says(
            f"What it shared with nobody (Private_Dirty) grew from {copied.own_before:,} to "
            f"{copied.own_after:,} KiB."
        )
        grown = copied.own_after - copied.own_before
        narrator.figure("private_kib_grown", grown)
        narrator.check(
            "as many KiB became its own as it wrote to",
            abs(grown - (_WRITTEN >> 10)) < _WRITTEN >> 11,
            f"{grown} and {_WRITTEN >> 10}",
        )
    narrator.figure("faults_reading", copied.faults_reading)
    narrator.figure("faults_writing", copied.faults_writing)
    narrator.check(
        "reading copied nothing", copied.faults_reading < pages // 8, f"{copied.faults_reading}"
    )
    narrator.check(
        "writing copied page by page",
        written <= copied.faults_writing < 2 * written,
        f"{copied.faults_writing}",
    )
    narrator.check("the parent's memory is as it was", unchanged)


def _fork_with_memory(line: Line) -> bool:
    with mmap.mmap(-1, _MEMORY, flags=_FLAGS) as memory:
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        _write(memory, _MEMORY, 1)
        with kin.fork() as side:
            if side.child is None:
                line.tell(_try_out(memory))
                kin.exit_now(0)
            side.child.wait(PATIENCE)
        return set(memory[:: mmap.PAGESIZE]) == {1}


def _try_out(memory: mmap.mmap) -> Copied:
    own_before = _private_dirty()
    start = _faults()
    _read(memory)
    between = _faults()
    _write(memory, _WRITTEN, 2)
    end = _faults()
    return Copied(between - start, end - between, own_before, _private_dirty())


def _read(memory: mmap.mmap) -> None:
    memory[:: mmap.PAGESIZE]


def _write(memory: mmap.mmap, size: int, value: int) -> None:
    for offset in range(0, size, mmap.PAGESIZE):
        memory[offset] = value


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _private_dirty() -> int:
    try:
        with open("/proc/self/smaps_rollup") as file:
            lines = dict(line.split(":", 1) for line in file if line.startswith("Private"))
    except OSError:  # a kernel without CONFIG_PROC_PAGE_MONITOR
        return 0
    return kibibytes(lines["Private_Dirty"])


STOP = Stop("fork", "one call, two returns, nothing copied yet", "fork的最简单实例", visit)
