"""Stop `shm`: shared memory, System V's as the source shows it, then POSIX's, then a memfd. The source's 共享内存.

It shows
- one segment in several processes: what one writes, the others have, and nothing is copied (shmget(2), shmat(2));
- that it outlives its processes until it is removed, and that who attaches removes nothing (shm_overview(7));
- that who may only read can't write; that whoever finds a name finds all of it;
- memory without a name, whose descriptor is passed, and which nobody can cut short (memfd_create(2));
- memory that goes with its last user, although that is killed.
"""

from __future__ import annotations

import os
import time

import kinfolk as kin
from kinfolk.tour.evidence import segment_attachments
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk, outcome, unused_key, unused_name

_FIELDS = {"count": "q", "text": "24s"}
_SIZE = 1 << 20


def visit(narrator: Narrator, walk: Walk) -> None:
    """Walk through the kinds."""
    _system_v(narrator)
    _posix(narrator)
    _memfd(narrator)
    _last_user(narrator)


def _system_v(narrator: Narrator) -> None:
    address = f"sysv-shm:{unused_key()}"
    with kin.SharedMemory.create(address, 1) as memory:
        try:
            given = memory.size
        finally:
            memory.unlink()
    with kin.SharedMemory.create(address, _SIZE) as memory:
        try:
            _write_and_read(narrator, memory)
            _outliving(narrator, memory)
        finally:
            memory.unlink()
    left = outcome(lambda: kin.SharedMemory.attach(address).close())
    narrator.says(
        f"A segment of {given} byte takes a page of memory, because the kernel gives no less (shmget(2)); it says that it has {given}."
    )
    narrator.check("a segment of one byte has one byte", given == 1, str(given))
    narrator.check("after unlink() nobody finds the key any more", left == "NotFound", left)


def _write_and_read(narrator: Narrator, memory: kin.SharedMemory) -> None:
    before = segment_attachments(memory.id)
    with crew() as hands:
        writer = hands.start("writer", _write, memory.address, closes=[memory])
        writer.hear()
        during = segment_attachments(memory.id)
        reader = hands.start("reader", _read, memory.address, closes=[memory])
        read = reader.result()
        writer.tell("done")
        writer.result()
    after = segment_attachments(memory.id)
    narrator.says(
        f"Process {writer.pid} attached to {memory.address} ({memory.size:,} bytes, made by process {os.getpid()}) and "
        f"wrote; process {reader.pid} attached and read {read!r}. Nothing was sent."
    )
    narrator.says(f"The kernel counted {before}, then {during}, then {after} who were attached.")
    narrator.check(
        "what one process wrote, the other one read",
        read == (1, "written by one process"),
        repr(read),
    )
    narrator.check(
        "the kernel knows who is attached",
        (before, during, after) == (1, 2, 1),
        f"{before}, {during}, {after}",
    )


def _outliving(narrator: Narrator, memory: kin.SharedMemory) -> None:
    with crew() as hands:
        killed = hands.start("writer", _write, memory.address, closes=[memory])
        killed.hear()
        killed.kill()
        reader = hands.start("reader", _read, memory.address, closes=[memory])
        read = reader.result()
    narrator.says(
        f"Process {killed.pid} counted on and was killed (SIGKILL); process {reader.pid} attached afterwards and read "
        f"{read[0]}. Nobody kept the two apart but this order: shared memory has no lock."
    )
    narrator.check("what a killed process wrote is there", read[0] == 2, repr(read))


def _posix(narrator: Narrator) -> None:
    address = f"shm:/{unused_name()}"
    hidden: list[str] = []

    def prepare(memory: kin.SharedMemory) -> None:
        memory.struct(_FIELDS).text = b"prepared"
        hidden.append(outcome(lambda: kin.SharedMemory.attach(address).close()))

    with kin.SharedMemory.create(address, _SIZE, prepare=prepare) as memory:
        try:
            with crew() as hands:
                reader = hands.start("reader", _try_to_write, address, closes=[memory])
                found, met = reader.result()
            there = outcome(lambda: kin.SharedMemory.attach(address).close())
        finally:
            memory.unlink()
    narrator.says(
        f"{address} is the file /dev/shm{address[4:]}, mode 0600. While it was being prepared an attachment raised "
        f"{hidden[0]}; process {reader.pid}, for reading only, then found {found!r}, and met {met} when it wrote."
    )
    narrator.check(
        "nobody finds it before it is complete",
        (hidden[0], found) == ("NotFound", "prepared"),
        f"{hidden[0]}, {found!r}",
    )
    narrator.check("who may only read can't write", met == "TypeError", met or "nothing")
    narrator.check("who attached, and ended, has removed nothing", there == "", there)


def _memfd(narrator: Narrator) -> None:
    here, there = kin.pair("unix:")
    with here, there, crew() as hands:
        child = hands.start("receiver", _receive_and_cut, there, closes=[here])
        with kin.SharedMemory.create("memfd:", _SIZE) as memory:
            here.send_fds(b"", [memory.fileno()], timeout=PATIENCE)
            child.hear()
            last = memory.buf[_SIZE - 1]
            child.tell("cut")
            met = child.result()
    narrator.says(
        f"Memory without a name went to process {child.pid} as a descriptor. It wrote the last byte, and then tried to cut the memory "
        f"short, which would be a SIGBUS here: {met}."
    )
    narrator.check("what was passed as a descriptor is the same memory", last == 7, str(last))
    narrator.check("nobody can cut it short", met == "PermissionError", met or "it could")


def _last_user(narrator: Narrator) -> None:
    address = f"shm:/{unused_name()}"
    path = f"/dev/shm{address[4:]}"
    with crew() as hands:
        creator = hands.start("creator", _create_for_peers, address)
        creator.hear()
        user = hands.start("user", _use, address)
        user.hear()
        creator.kill()
        stayed = os.path.exists(path)
        moment = user.kill()
        gone = _vanishes(path)
        took = time.monotonic() - moment
    narrator.says(
        f'With lifetime="peers" it stayed when its creator, process {creator.pid}, was killed, because process {user.pid} used it; '
        f"{took * 1000:.0f} ms after that one was killed, too, its name had gone."
    )
    narrator.figure("gone_after_seconds", took)
    narrator.check("it stays while somebody uses it", stayed)
    narrator.check("it goes with its last user, although that was killed", gone)


def _vanishes(path: str) -> bool:
    deadline = time.monotonic() + PATIENCE
    while os.path.exists(path):
        if time.monotonic() > deadline:
            os.unlink(path)
            return False
        time.sleep(0.001)
    return True


# ── in the children ──────────────────────────────────────────────────────────────────────────


def _write(line: Line, address: str) -> None:
    with kin.SharedMemory.attach(address) as memory:
        record = memory.struct(_FIELDS)
        record.count += 1
        record.text = b"written by one process"
        line.tell("written")
        line.hear()


def _read(line: Line, address: str) -> tuple[int, str]:
    with kin.SharedMemory.attach(address, read_only=True) as memory:
        record = memory.struct(_FIELDS)
        return record.count, record.text.rstrip(b"\0").decode()


def _try_to_write(line: Line, address: str) -> tuple[str, str]:
    with kin.SharedMemory.attach(address, read_only=True) as memory:
        found = memory.struct(_FIELDS).text.rstrip(b"\0").decode()
        try:
            memory.buf[0] = 1
        except TypeError as error:
            return found, type(error).__name__
        return found, ""


def _receive_and_cut(line: Line, connection: kin.Connection) -> str:
    _, numbers = connection.recv_fds(timeout=PATIENCE)
    with kin.SharedMemory.attach(f"memfd:{numbers[0]}") as memory:
        memory.buf[memory.size - 1] = 7
        line.tell("written")
        line.hear()
        try:
            os.ftruncate(memory.fileno(), 0)
        except PermissionError as error:
            return type(error).__name__
        return ""


def _create_for_peers(line: Line, address: str) -> None:
    with kin.SharedMemory.create(address, _SIZE, lifetime="peers"):
        line.tell("created")
        line.hear()


def _use(line: Line, address: str) -> None:
    with kin.SharedMemory.attach(address):
        line.tell("attached")
        line.hear()


STOP = Stop("shm", "Shared memory: one piece in several processes", "共享内存", visit)
