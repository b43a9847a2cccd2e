"""Stop `unix-dgram`: datagrams that are neither lost nor reordered. The source's Unix domain socket.

The source says that datagrams of this kind are reliable too: "消息既不会丢失也不会顺序错乱". Put to
the test with numbers and a reader that is slower than the writer.

It shows
- how many messages the kernel holds before it makes the sender wait;
- that after many such waits every number has come, in order, once.
"""

from __future__ import annotations

import os

import kinfolk as kin
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk, scratch_directory

_COUNT = 3_000
#: How often the reader waits until the writer says that it can't go on.
_STALLS = 5


def visit(narrator: Narrator, walk: Walk) -> None:
    """Send numbers to a slow reader."""
    with scratch_directory() as directory, crew() as hands:
        address = f"unix-dgram:{directory}/socket"
        with kin.open_receiver(address, timeout=PATIENCE) as receiver:
            sender = hands.start("sender", _send_numbers, address, closes=[receiver])
            got: list[int] = []
            full_at: list[int] = []
            for _ in range(_STALLS):
                full_at.append(sender.hear())
                got.append(receiver.recv(timeout=PATIENCE))
            while len(got) < _COUNT:
                got.append(receiver.recv(timeout=PATIENCE))
            refused = sender.result()
            try:
                after = f"one more: {receiver.recv(timeout=PATIENCE)}"
            except kin.EndOfChannel:
                after = ""
    narrator.says(
        f"Process {sender.pid} sent the numbers 0 to {_COUNT - 1:,} to this one ({os.getpid()}), which "
        f"did not read until the kernel refused a message: number {full_at[0]} was the first."
    )
    narrator.says(
        f"The sender was made to wait {refused} times; no datagram was dropped for it, as UDP would."
    )
    narrator.figure("held_by_the_kernel", full_at[0])
    narrator.figure("refused", refused)
    narrator.check(
        "the sender was made to wait for the slow reader", refused >= _STALLS, f"{refused}"
    )
    narrator.check("no number was lost, none came twice", sorted(got) == list(range(_COUNT)))
    narrator.check("they came in order", got == sorted(got))
    narrator.check("the sender's end ended the channel", not after, after)


def _send_numbers(line: Line, address: str) -> int:
    refused = 0
    with kin.open_sender(address, timeout=PATIENCE) as sender:
        for number in range(_COUNT):
            try:
                sender.send(number, timeout=0)
            except kin.Timeout:
                refused += 1
                if refused <= _STALLS:
                    line.tell(number)
                sender.send(number, timeout=PATIENCE)
    return refused


STOP = Stop("unix-dgram", "datagrams to a slow reader", "Unix domain socket", visit)
