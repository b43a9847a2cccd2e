"""Every mechanism by its scheme, each loaded when first asked for.

A program that uses one mechanism does not pay for the others: all of them took two thirds of the time of
``import kinfolk``, which each start of `kin` pays. Who gives up the right to read Python's files (chroot, setuid) opens an end
before, or imports the mechanism.
"""

from __future__ import annotations

from functools import cache

from kinfolk.channels.contract import Mechanism

#: In the order in which people meet them.
SCHEMES = (
    *("pipe", "fifo", "unix", "unix-seqpacket", "unix-dgram", "tcp", "mq", "sysv-mq"),
    *("ring", "file"),
)


@cache
def load(scheme: str) -> Mechanism:
    """The mechanism of a scheme. Raises KeyError where there is none."""
    match scheme:
        case "pipe":
            from kinfolk.channels.pipe import MECHANISM
        case "fifo":
            from kinfolk.channels.fifo import MECHANISM
        case "unix":
            from kinfolk.channels.unix_stream import MECHANISM
        case "unix-seqpacket":
            from kinfolk.channels.unix_seqpacket import MECHANISM
        case "unix-dgram":
            from kinfolk.channels.unix_dgram import MECHANISM
        case "tcp":
            from kinfolk.channels.tcp import MECHANISM
        case "mq":
            from kinfolk.channels.mq import MECHANISM
        case "sysv-mq":
            from kinfolk.channels.sysv_mq import MECHANISM
        case "ring":
            from kinfolk.channels.ring import MECHANISM
        case "file":
            from kinfolk.channels.file import MECHANISM
        case _:
            raise KeyError(scheme)
    return MECHANISM
