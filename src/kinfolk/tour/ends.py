"""Stop `ends`: what each side sees when the other is killed. The source's signal信号 (SIGPIPE).

The source warns of SIGPIPE: who writes where nobody reads any more is killed, unless he provides
for it. Here the other side is killed with SIGKILL, against which nobody can provide.

It shows, for every mechanism,
- that a stopped sender (SIGSTOP) is no dead one: its receiver goes on waiting;
- that a killed one is: EndOfChannel for the receiver who waits for it, in how many milliseconds;
- that a killed receiver is BrokenChannel for a sender that waits for room;
- and what the bare system call does: SIGPIPE.

Message queues, which outlive everybody unless told otherwise, are opened with lifetime="peers".
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import kinfolk as kin
from kinfolk.tour.links import Link, links
from kinfolk.tour.narrator import Column, Narrator
from kinfolk.tour.processes import PATIENCE, ChildFailed, Line, crew, how_it_ended
from kinfolk.tour.stop import Stop, Walk, scratch_directory

#: Seconds for which a receiver waits for a stopped sender before it believes that this is no end.
_STOPPED = 0.1

_COLUMNS = (
    Column("mechanism", "mechanism", number=False),
    Column("stopped", "the sender is stopped", number=False),
    Column("sender_killed", "the sender is killed", number=False),
    Column("sender_ms", "ms", "{:.1f}".format),
    Column("receiver_killed", "the receiver is killed", number=False),
    Column("receiver_ms", "ms", "{:.1f}".format),
)


def visit(narrator: Narrator, walk: Walk) -> None:
    """Kill either side of every mechanism."""
    _sigpipe(narrator)
    narrator.says(
        "In kinfolk the kernel's own word is waited for (a hang-up, a pidfd), never a clock. The other "
        "side was killed while this one waited; milliseconds from the signal to the error:"
    )
    rows: list[dict[str, Any]] = []
    problems: list[tuple[str, Exception]] = []
    with scratch_directory() as directory:
        for link in links(directory, ending=True):
            try:
                rows.append(
                    {"mechanism": link.label, **_kill_the_sender(link), **_kill_the_receiver(link)}
                )
            except (kin.KinfolkError, ChildFailed, OSError) as error:
                problems.append((link.label, error))
    narrator.table("ends", _COLUMNS, rows)
    for label, problem in problems:
        narrator.unavailable(label, problem)
    for key, wanted, sentence in (
        ("stopped", "Timeout", "a stopped sender is no dead one"),
        ("sender_killed", "EndOfChannel", "a killed sender is EndOfChannel for who waits for it"),
        ("receiver_killed", "BrokenChannel", "a killed receiver is BrokenChannel for who sends"),
    ):
        others = [f"{row['mechanism']}: {row[key]}" for row in rows if row[key] != wanted]
        narrator.check(
            f"{sentence}, over all {len(rows)}", bool(rows) and not others, ", ".join(others)
        )


# ── the bare system call ─────────────────────────────────────────────────────────────────────


def _sigpipe(narrator: Narrator) -> None:
    with crew() as hands:
        writer = hands.start("writer", _write_where_nobody_reads)
        with contextlib.suppress(ChildFailed):  # it is killed, as the source says
            writer.result()
    narrator.says(
        f"Process {writer.pid} wrote into a pipe that nobody read: it {how_it_ended(writer.status)}."
    )
    killed_by_it = writer.status is not None and os.WTERMSIG(writer.status) == signal.SIGPIPE
    narrator.check(
        "the source's SIGPIPE kills by default", killed_by_it, how_it_ended(writer.status)
    )


def _write_where_nobody_reads(line: Line) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, C programs do not
    reading, writing = os.pipe()
    os.close(reading)
    os.write(writing, b"hello?")


# ── either side of a channel ─────────────────────────────────────────────────────────────────


def _kill_the_sender(link: Link) -> dict[str, Any]:
    with link.laid(), crew() as hands:
        receiver = hands.start("receiver", _receive_to_the_end, link)
        receiver.hear()
        sender = hands.start("sender", _send_one, link)
        link.release()
        receiver.hear()  # the first message came: now it waits for a second
        sender.signal(signal.SIGSTOP)
        receiver.tell("stopped")
        stopped = receiver.hear()
        killed = sender.kill()
        error, moment = receiver.result()
    return {"stopped": stopped, "sender_killed": error, "sender_ms": (moment - killed) * 1000}


def _receive_to_the_end(line: Line, link: Link) -> tuple[str, float]:
    with link.open_receiver() as receiver:
        line.tell("ready")
        receiver.recv_bytes(timeout=PATIENCE)
        line.tell("received")
        line.hear()
        line.tell(_error_of(lambda: receiver.recv_bytes(timeout=_STOPPED))[0])
        return _error_of(lambda: receiver.recv_bytes(timeout=PATIENCE))


def _send_one(line: Line, link: Link) -> None:
    with link.open_sender() as sender:
        sender.send_bytes(b"first", timeout=PATIENCE)
        _wait_for_the_signal()


def _kill_the_receiver(link: Link) -> dict[str, Any]:
    with link.laid(), crew() as hands:
        receiver = hands.start("receiver", _receive_one, link)
        receiver.hear()
        sender = hands.start("sender", _send_until_refused, link)
        link.release()
        receiver.hear()
        sender.hear()  # no room: it waits
        killed = receiver.kill()
        error, moment = sender.result()
    return {"receiver_killed": error, "receiver_ms": (moment - killed) * 1000}


def _receive_one(line: Line, link: Link) -> None:
    with link.open_receiver() as receiver:
        line.tell("ready")
        receiver.recv_bytes(timeout=PATIENCE)
        line.tell("received")
        _wait_for_the_signal()


def _send_until_refused(line: Line, link: Link) -> tuple[str, float]:
    with link.open_sender() as sender:
        size = min(4_096, sender.limits.max_message)
        with contextlib.suppress(kin.Timeout):
            while True:
                sender.send_bytes(bytes(size), timeout=_STOPPED)
        line.tell("full")
        while True:
            error, moment = _error_of(lambda: sender.send_bytes(bytes(size), timeout=PATIENCE))
            if error:
                return error, moment


def _error_of(call: Callable[[], object]) -> tuple[str, float]:
    try:
        call()
    except kin.KinfolkError as error:
        return type(error).__name__, time.monotonic()
    return "", time.monotonic()


def _wait_for_the_signal() -> None:
    while True:
        signal.pause()


STOP = Stop("ends", "what each side sees when the other is killed", "signal信号 (SIGPIPE)", visit)
