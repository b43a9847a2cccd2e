"""What children of multiprocessing run: importable by name, unlike what stands in a test module."""

from __future__ import annotations

from tests.conformance.peers import HANG


def double(receiver, sender) -> None:
    """Answer each number with its double, None with the count of numbers."""
    count = 0
    while (number := receiver.recv(timeout=HANG)) is not None:
        sender.send(2 * number)
        count += 1
    sender.send(["end", count])
