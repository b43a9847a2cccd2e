"""What the tests of stream sockets share."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import kinfolk as kin
from kinfolk.channels.framing import FIRST, HEADER, LAST, MAGIC
from tests.conformance.peers import (
    HANG,
    socket_of,
)

LARGE = 3 << 20  # no socket buffer holds it


def header(flags=FIRST | LAST, kind=0, length=0, total=None, sender=1, nonce=2, sequence=3):
    total = length if total is None else total
    return HEADER.pack(MAGIC, flags, kind, length, sender, nonce, sequence, total)


@contextmanager
def against(
    peer_address: str = "unix:", **options
) -> Iterator[tuple[kin.Connection, socket.socket]]:
    """A connection whose other end is a bare socket."""
    near, far = kin.pair(peer_address, **options)
    bare = socket_of(far)
    bare.settimeout(HANG)
    far.close()
    with near, bare:
        yield near, bare


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """EMFILE for whoever opens one."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    free = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest)]  # fills the gaps
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in free:
            os.close(fd)
