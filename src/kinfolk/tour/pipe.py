"""Stop `pipe`: parent and child talk through anonymous pipes. The source's chapter 使用管道.

It shows
- the source's exchange (parent_say_tochild, child_say_to_parent) over two pipes, without its sleep;
- the trap of one pipe for both ways: who writes and then reads gets his own words back;
- the pipe that does not block (the source's O_NONBLOCK), empty and full;
- how much a pipe holds: the source says one page.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import time
from collections.abc import Iterator

import kinfolk as kin
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk, outcome

_FROM_PARENT, _FROM_CHILD = "parent_say_tochild", "child_say_to_parent"


def visit(narrator: Narrator, walk: Walk) -> None:
    """Walk through the four parts."""
    _two_pipes(narrator)
    _one_pipe(narrator)
    _not_blocking(narrator)
    _capacity(narrator)


# ── two pipes, one each way ──────────────────────────────────────────────────────────────────


def _two_pipes(narrator: Narrator) -> None:
    mine, childs = kin.pair("pipe:")
    with mine, childs, crew() as hands:
        child = hands.start("child", _answer, childs, closes=[mine])
        childs.close()
        mine.send(_FROM_PARENT, timeout=PATIENCE)
        answer = mine.recv(timeout=PATIENCE)
        heard = child.result()
        try:
            after = repr(mine.recv(timeout=PATIENCE))
        except kin.EndOfChannel:
            after = "EndOfChannel"
    narrator.says(
        f"Two pipes: process {os.getpid()} wrote {_FROM_PARENT!r} into one, its child {child.pid} "
        f"read it there and wrote {_FROM_CHILD!r} into the other. No sleep: a read waits by itself."
    )
    narrator.check("the child read what its parent wrote", heard == _FROM_PARENT, repr(heard))
    narrator.check("the parent read what its child wrote", answer == _FROM_CHILD, repr(answer))
    narrator.check(
        "when the child had ended, the parent was told so", after == "EndOfChannel", after
    )


def _answer(line: Line, connection: kin.Connection) -> object:
    with connection:
        heard = connection.recv(timeout=PATIENCE)
        connection.send(_FROM_CHILD, timeout=PATIENCE)
        return heard


# ── one pipe for both ways ───────────────────────────────────────────────────────────────────


def _one_pipe(narrator: Narrator) -> None:
    with crew() as hands, _raw_pipe() as (reading, writing):
        child = hands.start("child", _look_into, reading)
        os.write(writing, _FROM_PARENT.encode())
        own_words = os.read(reading, 100).decode()  # what the source's sleep(1) is to prevent
        child.tell("look now")
        left = child.result()
    narrator.says(
        f"One pipe for both, without the source's sleep: the parent wrote, read, and got its own "
        f"{own_words!r}; child {child.pid} then found nothing. A pipe has no sides, only bytes."
    )
    narrator.check("the parent took back its own words", own_words == _FROM_PARENT, own_words)
    narrator.check("nothing was left for the child", left == b"", repr(left))

    with crew() as hands:
        receiver, sender = kin.channel("pipe:")
        with receiver, sender:
            sender.send("taken")
            receiver.recv(timeout=PATIENCE)
            child = hands.start("second receiver", _receive_too, receiver, closes=[sender])
            told = child.result()
    narrator.says(
        f"kinfolk lets one process read a pipe at a time; child {child.pid} was told: {told}"
    )
    narrator.check(
        "a second reading process is told that, and by whom, before it takes a byte",
        told.startswith("Busy") and str(os.getpid()) in told,
        told,
    )


def _look_into(line: Line, reading: int) -> bytes:
    line.hear()
    os.set_blocking(reading, False)
    with contextlib.suppress(BlockingIOError):
        return os.read(reading, 100)
    return b""


def _receive_too(line: Line, receiver: kin.Receiver) -> str:
    with receiver:
        try:
            return f"received {receiver.recv(timeout=PATIENCE)!r}"
        except kin.KinfolkError as error:
            return f"{type(error).__name__}: {error.why}"


# ── not blocking ─────────────────────────────────────────────────────────────────────────────


def _not_blocking(narrator: Narrator) -> None:
    with _raw_pipe() as (reading, _):
        flags = fcntl.fcntl(reading, fcntl.F_GETFL)
        fcntl.fcntl(reading, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        try:
            raw = repr(os.read(reading, 1))
        except BlockingIOError as error:
            raw = f"EAGAIN ({error.strerror})"
    receiver, sender = kin.channel("pipe:")
    with receiver, sender:
        empty = outcome(lambda: receiver.recv(timeout=0))
        waited = time.monotonic()
        patient = outcome(lambda: receiver.recv(timeout=0.05))
        waited = time.monotonic() - waited
        sent = 0
        full = ""
        while not full and sent < 10_000:
            full = outcome(lambda: sender.send_bytes(bytes(1000), timeout=0))
            sent += not full
        got = sum(1 for _ in range(sent) if len(receiver.recv_bytes(timeout=PATIENCE)) == 1000)
    narrator.says(
        f"O_NONBLOCK: read(2) of an empty pipe gave {raw} at once. In kinfolk the wait is the "
        f"call's own: timeout=0 tries, timeout=0.05 waited {waited * 1000:.0f} ms, None waits."
    )
    narrator.says(
        f"A full one: after {sent} messages of 1,000 bytes send(timeout=0) raised {full}; the "
        "refused one was not sent, not even in part."
    )
    narrator.check("read(2) of the empty pipe did not block", raw.startswith("EAGAIN"), raw)
    narrator.check("recv(timeout=0) of an empty channel raises Timeout", empty == "Timeout", empty)
    narrator.check(
        "recv(timeout=0.05) waits as long, and no shorter",
        patient == "Timeout" and waited >= 0.05,
        f"{patient} after {waited} s",
    )
    narrator.check(
        "send(timeout=0) into a full one raises Timeout, and what was sent before is whole",
        full == "Timeout" and got == sent,
        f"{full}; {got} of {sent} arrived",
    )


# ── how much it holds ────────────────────────────────────────────────────────────────────────


def _capacity(narrator: Narrator) -> None:
    with _raw_pipe() as (_, writing):
        os.set_blocking(writing, False)
        held = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                held += os.write(writing, bytes(mmap.PAGESIZE))
        said = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
    receiver, sender = kin.channel("pipe:", capacity="256K")
    with receiver, sender:
        wider = receiver.limits.capacity
    pages = held // mmap.PAGESIZE
    narrator.says(
        f"The source says that a pipe is one page. Written until it was full, this one held "
        f"{held:,} bytes: {pages} pages of {mmap.PAGESIZE:,}. With capacity=256K: {wider:,} bytes."
    )
    narrator.figure("bytes_until_full", held)
    narrator.figure("page", mmap.PAGESIZE)
    narrator.figure("pages", pages)
    narrator.check("it held what fcntl(F_GETPIPE_SZ) says", held == said, f"{held} and {said}")
    narrator.check("its size can be set", wider == 256 << 10, f"{wider} bytes")


@contextlib.contextmanager
def _raw_pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


STOP = Stop("pipe", "parent and child, through anonymous pipes", "使用管道", visit)
