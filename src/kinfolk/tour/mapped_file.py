"""Stop `mmap`: a file in the memory of several processes. The source's 总结 (mmap函数，几个进程可以映射同一内存区).

It shows
- that what one process writes, the others have at once, and programs that read the file too (mmap(2));
- that it is on the disk once it was flushed (msync(2)), and outlives them all;
- a private copy, which changes for nobody else;
- that an array keeps its memory: to close under it is an error, and not a crash;
- that space is had before it is used: more than there is is an error, and not a SIGBUS.
"""

from __future__ import annotations

import os

import kinfolk as kin
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import Line, crew
from kinfolk.tour.stop import Stop, Walk, outcome, scratch_directory

_SIZE = 256 << 10
_TEXT = b"one file, two processes"


def visit(narrator: Narrator, walk: Walk) -> None:
    """Walk through the parts."""
    with scratch_directory() as directory:
        address = f"file:{directory}/mapped"
        with kin.SharedMemory.create(address, _SIZE) as memory:
            _share(narrator, memory)
            _private(narrator, memory)
        _closing(narrator, address)
        _space(narrator, directory)


def _share(narrator: Narrator, memory: kin.SharedMemory) -> None:
    with crew() as hands:
        writer = hands.start("writer", _write, memory.address, closes=[memory])
        writer.result()
    seen = bytes(memory.buf[: len(_TEXT)])
    memory.flush()
    with open(memory.address.partition(":")[2], "rb") as file:
        read = file.read(len(_TEXT))
    narrator.says(
        f"Process {writer.pid} wrote into the mapped file {memory.address} and ended. Process {os.getpid()} has it mapped, too, and saw "
        f"{seen.decode()!r}; read(2) found the same in the file."
    )
    narrator.check("what one process wrote, the other one has", seen == _TEXT, repr(seen))
    narrator.check("and so has the file", read == _TEXT, repr(read))


def _private(narrator: Narrator, memory: kin.SharedMemory) -> None:
    with kin.SharedMemory.attach(memory.address, private=True) as own:
        own.buf[0] = ord("O")
        mine, theirs = chr(own.buf[0]), chr(memory.buf[0])
    narrator.says(
        f"In a private copy the first letter became {mine!r}; the others still have {theirs!r}."
    )
    narrator.check("a private copy changes for nobody else", (mine, theirs) == ("O", "o"), theirs)


def _closing(narrator: Narrator, address: str) -> None:
    memory = kin.SharedMemory.attach(address)
    looking = memory.struct({"first": "s"})
    met = outcome(memory.close)
    letter = looking.first
    del looking
    then = outcome(memory.close)
    narrator.says(
        f"close() under a record that looks into the memory raised {met}, and the record still read {letter.decode()!r}; once that was "
        "dropped, it closed."
    )
    narrator.check(
        "to close under what looks into it is an error", (met, letter) == ("StillInUse", b"o"), met
    )
    narrator.check("afterwards it can be closed", then == "", then)


def _space(narrator: Narrator, directory: str) -> None:
    status = os.statvfs(directory)
    there = status.f_blocks * status.f_frsize
    address = f"file:{directory}/huge"
    met = outcome(lambda: kin.SharedMemory.create(address, 2 * there + 1).close())
    narrator.says(
        f"A file twice as large as its disk ({there:,} bytes): {met}, before a byte of it was used."
    )
    narrator.check(
        "more than there is can't be had",
        met == "NoSpace" and not os.path.exists(f"{directory}/huge"),
        met or "it could",
    )


def _write(line: Line, address: str) -> None:
    with kin.SharedMemory.attach(address) as memory:
        memory.buf[: len(_TEXT)] = _TEXT


STOP = Stop("mmap", "A mapped file: memory that is kept", "总结 (mmap)", visit)
