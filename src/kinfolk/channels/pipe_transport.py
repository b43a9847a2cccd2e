"""Messages over the descriptors of a pipe, anonymous or named: what `pipe:` and `fifo:` share.

The pipe is used in packet mode (O_DIRECT, pipe(7)): one write of at most PIPE_BUF bytes is one packet, and one read
takes one packet. So a chunk costs one system call on either side, the receiver never reads ahead (a killed one
loses at most the message it was assembling), and a receiver that takes over finds the next header where a packet begins.

    senders="many"  every chunk is one packet of at most PIPE_BUF bytes; any number of processes may send
    senders="one"   messages up to PIPE_BUF as above; larger ones in chunks of up to 1 MiB: the header is a packet, the
                    body follows as a plain stream (O_DIRECT off meanwhile). A second sending process raises Busy
    framing="raw"   bare bytes, as cat and C programs write them

Rules:
1. Descriptors are non-blocking; waiting is the driver's (`kinfolk.waiting`).
2. A send that is given up after its first chunk is aborted before the next one begins; a raw one is finished.
3. What a dead process left incomplete is dropped: its death is seen by a pidfd, and because it may have written until
   then, only after the pipe was read empty once more.
4. In the body of a long chunk nobody else can find his way: who is there says so by a flag of the open file
   description, which outlives him. A process that takes over from one killed there refuses to go on.
5. What a process owes or has half received is not its forked copy's.
"""

from __future__ import annotations

import fcntl
import os

from kinfolk.channels.presence import FifoEnd
from kinfolk.descriptors import Descriptor

#: Set while one is in the body of a long chunk; it means nothing else on a pipe.
INSIDE = os.O_APPEND

#: A FIFO's path, and whether its name is kept; None for an anonymous pipe.
PipeName = tuple[str, bool] | None


def flags_of(fd: int) -> int:
    """The flags of an open file description, which all copies of a descriptor share (F_GETFL)."""
    return fcntl.fcntl(fd, fcntl.F_GETFL)


def set_flags(fd: int, on: int = 0, off: int = 0) -> None:
    """Set some of them, and clear others (F_SETFL)."""
    flags = flags_of(fd)
    wanted = (flags | on) & ~off
    if wanted != flags:
        fcntl.fcntl(fd, fcntl.F_SETFL, wanted)


def owned(fd: int, name: PipeName, subject: str) -> Descriptor:
    """The owner of a descriptor that came from another process."""
    end = Descriptor(fd, subject)
    if name is None:
        return end
    path, keep_name = name
    return FifoEnd(end, path, keep_name=keep_name)


def name_of(descriptor: Descriptor) -> PipeName:
    """What `owned` needs to know beside the number."""
    if not isinstance(descriptor, FifoEnd):
        return None
    return descriptor.path, descriptor.keep_name


def unlink(descriptor: Descriptor) -> bool:
    """Remove the name of a FIFO; whether it has one."""
    if not isinstance(descriptor, FifoEnd):
        return False
    descriptor.unlink()
    return True
