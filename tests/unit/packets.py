"""What the tests of packet sockets share."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.channels.codec import JSON
from kinfolk.channels.packet_format import HEADER

SCHEMES = ["unix-seqpacket", "unix-dgram"]
PATIENCE = 30  # seconds; only a hang lasts so long

Start = Callable[[Callable[[], object]], int]


def packet(kind: int, body: bytes, *, size: int | None = None, **fields: Any) -> bytes:
    given = {"magic": b"kP", "flags": 0, "riding": 0, "zero": 0} | fields
    length = len(body) if size is None else size
    return (
        HEADER.pack(given["magic"], given["flags"], kind, given["riding"], given["zero"], length)
        + body
    )


def sock_of(end: Any) -> socket.socket:
    """The socket under a sender."""
    return end._sending._socket


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def fork() -> Iterator[Start]:
    """Runs a function in a forked child, which then exits with 0; what is left is killed."""
    children: list[int] = []

    def start(function: Callable[[], object]) -> int:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                function()
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
        return pid

    yield start
    for pid in children:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def ended_well(*pids: int) -> bool:
    """Waits for all of them, whatever the first says."""
    return not any([os.waitpid(pid, 0)[1] for pid in pids])  # noqa: C419


def fill(sender: kin.Sender, body: bytes) -> int:
    count = 0
    with contextlib.suppress(kin.Timeout):
        while True:
            sender.send_bytes(body, timeout=0)
            count += 1
    return count


def send_packets(path: str, *packets: bytes) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(path)
        for one in packets:
            sock.send(one)
    return os.getuid()


FRIENDLY = packet(JSON, b'"friendly"')
