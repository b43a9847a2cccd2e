"""Stop `fifo`: processes that share nothing but a name. The source's chapter 命名管道.

It shows
- the source's sender and receiver: a file goes through a FIFO, and the receiver's end is its end;
- the source's warning: several processes that write more than PIPE_BUF at a time get mixed up;
- the same in kinfolk, where chunks are smaller than that: messages stay whole;
- and they do so when a sender is killed half way through a message of megabytes.
"""

from __future__ import annotations

import itertools
import os
import select
import signal

import kinfolk as kin
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk, scratch_directory

#: One write of a writer, in bytes: more than PIPE_BUF, and more than a pipe holds.
_LARGE = 256 << 10
_WRITERS = 4
_EACH = 4

#: The message in whose middle a sender is killed: many times what a pipe holds.
_HUGE = 8 << 20


def visit(narrator: Narrator, walk: Walk) -> None:
    """Walk through the four parts."""
    with scratch_directory() as directory:
        _sender_and_receiver(narrator, f"{directory}/letters")
        _mixed_up(narrator, f"{directory}/mixed")
        _whole(narrator, f"{directory}/whole")


# ── the source's sender and receiver ─────────────────────────────────────────────────────────


def _sender_and_receiver(narrator: Narrator, path: str) -> None:
    lines = [f"line {number} of a log" for number in range(200)]
    with crew() as hands:
        # The sender first, as in the source: it waits until somebody receives.
        sending = hands.start("sender", _send_lines, path, lines)
        with kin.open_receiver(f"fifo:{path}", timeout=PATIENCE) as receiver:
            mode = os.stat(path).st_mode & 0o777
            got = [receiver.recv(timeout=PATIENCE) for _ in lines]
            after = _end_of(receiver)
        sending.result()
    narrator.says(
        f"Process {sending.pid} opened {path} for sending and waited; process {os.getpid()} made "
        f"it (mode {mode:04o}) and received {len(got)} lines. Then the sender ended: {after}."
    )
    narrator.check("every line arrived, in order", got == lines)
    narrator.check("the sender's end ended the channel", after == "EndOfChannel", after)
    narrator.check("the FIFO was only its owner's to use", mode == 0o600, f"mode {mode:04o}")
    narrator.check("its name went with the last process that used it", not os.path.exists(path))


def _send_lines(line: Line, path: str, lines: list[str]) -> None:
    with kin.open_sender(f"fifo:{path}", timeout=PATIENCE) as sender:
        sender.send_many(lines, timeout=PATIENCE)


def _end_of(receiver: kin.Receiver) -> str:
    try:
        return f"one more: {receiver.recv(timeout=PATIENCE)!r}"
    except kin.KinfolkError as error:
        return type(error).__name__


# ── several writers, as the source warns ─────────────────────────────────────────────────────


def _mixed_up(narrator: Narrator, path: str) -> None:
    os.mkfifo(path, 0o600)
    with crew() as hands:
        writers = [
            hands.start(f"writer {number}", _write_letters, path, 65 + number)
            for number in range(_WRITERS)
        ]
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
            for writer in writers:
                writer.hear()  # it has the FIFO open
            for writer in writers:
                writer.tell("go")
            os.set_blocking(file.fileno(), True)
            data = b"".join(iter(lambda: file.read(1 << 20), b""))
        for writer in writers:
            writer.result()
    runs = [len(list(run)) for _, run in itertools.groupby(data)]
    pieces = [run for run in runs if run % _LARGE]
    narrator.says(
        f"The source's warning: {_WRITERS} processes wrote {_EACH} times {_LARGE:,} bytes of their "
        f"own letter with plain write(2). All {len(data):,} bytes came, but torn into {len(runs)} "
        f"runs of one letter, {len(pieces)} of them no whole write."
    )
    narrator.figure("raw_writes", _WRITERS * _EACH)
    narrator.figure("raw_runs", len(runs))
    narrator.check("no byte was lost", len(data) == _WRITERS * _EACH * _LARGE, f"{len(data)}")
    narrator.check(
        f"writes of more than PIPE_BUF ({select.PIPE_BUF} bytes) were mixed up", bool(pieces)
    )


def _write_letters(line: Line, path: str, letter: int) -> None:
    with open(path, "wb", buffering=0) as file:
        line.tell("open")
        line.hear()
        for _ in range(_EACH):
            rest = memoryview(bytes([letter]) * _LARGE)
            while rest:
                rest = rest[os.write(file.fileno(), rest) :]


# ── several senders in kinfolk, and one that is killed ───────────────────────────────────────


def _whole(narrator: Narrator, path: str) -> None:
    with crew() as hands:
        with kin.open_receiver(f"fifo:{path}", timeout=PATIENCE) as receiver:
            victim = hands.start(
                "victim", _send_letters, path, ord("x"), _HUGE, 1, closes=[receiver]
            )
            select.select([receiver], [], [], PATIENCE)
            # Something is in the pipe; so the victim is inside its message, of which a pipe holds
            # a small part only.
            inside = receiver.statistics().depth or 0
            senders = [
                hands.start(
                    f"sender {number}",
                    _send_letters,
                    path,
                    65 + number,
                    _LARGE,
                    _EACH,
                    closes=[receiver],
                )
                for number in range(_WRITERS)
            ]
            for sender in senders:
                sender.hear()  # it has joined: the victim is not the last one to leave
            victim.kill()
            got = [receiver.recv_bytes(timeout=PATIENCE) for _ in range(_WRITERS * _EACH)]
            after = _end_of(receiver)
            dropped = receiver.statistics().dropped
        for sender in senders:
            sender.result()
    whole = sum(len(set(message)) == 1 and len(message) == _LARGE for message in got)
    narrator.says(
        f"In kinfolk every write is a chunk of at most PIPE_BUF bytes that names its sender. Sender "
        f"{victim.pid} was killed ({signal.Signals.SIGKILL.name}) inside a message of {_HUGE:,} "
        f"bytes, while {_WRITERS} others sent {_EACH} of {_LARGE:,} bytes each."
    )
    narrator.says(
        f"The receiver got {whole} whole messages of {len(got)}, and dropped {dropped} that was never finished."
    )
    narrator.figure("dropped", dropped)
    narrator.check("the victim was killed in the middle of its message", inside > 0)
    narrator.check(
        "every message of the living arrived whole",
        whole == len(got) == _WRITERS * _EACH,
        f"{whole}",
    )
    narrator.check("of the killed one nothing was delivered", b"x" * 8 not in b"".join(got))
    narrator.check("its unfinished message was dropped, and counted", dropped == 1, f"{dropped}")
    narrator.check(
        "when the last sender had gone, the channel ended", after == "EndOfChannel", after
    )


def _send_letters(line: Line, path: str, letter: int, size: int, count: int) -> None:
    with kin.open_sender(f"fifo:{path}", timeout=PATIENCE) as sender:
        line.tell("joined")
        for _ in range(count):
            sender.send_bytes(bytes([letter]) * size, timeout=PATIENCE)


STOP = Stop("fifo", "strangers with a common name, and many writers at once", "命名管道", visit)
