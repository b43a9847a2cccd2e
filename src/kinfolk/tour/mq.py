"""Stop `mq`: POSIX message queues, whose messages have priorities. The source's 总结 (消息队列).

The source only names message queues, as one of System V's three; this is the later kind, with a
name, priorities, and a descriptor that can be waited for (mq_overview(7)).

It shows
- that the most urgent message comes first, whatever was sent first;
- that queue and messages outlive every process, until somebody removes the name;
- the kernel's limits, and what a full queue does.
"""

from __future__ import annotations

import os

import kinfolk as kin
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk, outcome, unused_name

#: What is sent, in this order, with its priority.
_SENT = [("later", 1), ("at once", 9), ("soon", 5), ("at once, too", 9)]
_EXPECTED = ["at once", "at once, too", "soon", "later"]


def visit(narrator: Narrator, walk: Walk) -> None:
    """Walk through the parts."""
    address = f"mq:/{unused_name()}"
    with kin.open_receiver(address, timeout=PATIENCE) as receiver:
        try:
            _priorities(narrator, address, receiver)
            _outliving(narrator, address)
            _limits(narrator, address, receiver)
        finally:
            receiver.unlink()
    left = outcome(lambda: kin.open_sender(address, timeout=0).close())
    narrator.check("after unlink() nobody finds the name any more", left == "Timeout", left)


def _priorities(narrator: Narrator, address: str, receiver: kin.Receiver) -> None:
    with crew() as hands:
        sender = hands.start("sender", _send, address, _SENT, closes=[receiver])
        sender.result()
    got = [receiver.recv(timeout=PATIENCE) for _ in _SENT]
    narrator.says(
        f"Process {sender.pid} sent {', '.join(f'{text!r} with {number}' for text, number in _SENT)}, and "
        f"ended. Process {os.getpid()} then received {', '.join(map(repr, got))}."
    )
    narrator.check("the most urgent came first, equals in their order", got == _EXPECTED, repr(got))


def _outliving(narrator: Narrator, address: str) -> None:
    with crew() as hands:
        sender = hands.start("sender", _send, address, [("for whoever comes", 0)])
        sender.result()
        reader = hands.start("reader", _read_one, address)
        read = reader.result()
    narrator.says(
        f"Process {sender.pid} sent one more and ended; process {reader.pid}, started afterwards, "
        f"opened the name and received {read!r}."
    )
    narrator.check(
        "a message waited for its reader in the kernel", read == "for whoever comes", read
    )


def _limits(narrator: Narrator, address: str, receiver: kin.Receiver) -> None:
    limits = receiver.limits
    with kin.open_sender(address, timeout=PATIENCE) as sender:
        sent = 0
        full = ""
        while not full and sent < 100_000:
            full = outcome(lambda: sender.send_bytes(b"x", timeout=0))
            sent += not full
        too_big = outcome(lambda: sender.send_bytes(bytes(limits.max_message + 1), timeout=0))
    for _ in range(sent):
        receiver.recv_bytes(timeout=PATIENCE)
    narrator.says(
        f"The kernel keeps {limits.depth} messages of up to {limits.max_message:,} bytes here "
        f"(/proc/sys/fs/mqueue): the next send(timeout=0) raised {full}, a larger one {too_big}."
    )
    narrator.figure("depth", limits.depth)
    narrator.figure("max_message", limits.max_message)
    narrator.check(
        "a full queue makes its senders wait, after as many messages as its limits say",
        full == "Timeout" and sent == limits.depth,
        f"{full} after {sent}",
    )
    narrator.check("a message above the limit is refused", too_big == "MessageTooBig", too_big)


def _send(line: Line, address: str, messages: list[tuple[str, int]]) -> None:
    with kin.open_sender(address, timeout=PATIENCE) as sender:
        for text, priority in messages:
            sender.send(text, priority=priority, timeout=PATIENCE)


def _read_one(line: Line, address: str) -> object:
    with kin.open_receiver(address, timeout=PATIENCE) as receiver:
        return receiver.recv(timeout=PATIENCE)


STOP = Stop("mq", "POSIX queues: urgent messages first", "总结 (消息队列)", visit)
