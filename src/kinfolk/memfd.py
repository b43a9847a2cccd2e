"""A message in memory of its own: what is too large for a packet rides as a sealed memfd.

    sender     memfd_create ── write ── seal ── its descriptor rides on a packet (SCM_RIGHTS) ── close
    receiver                                                            check ── map ── close

Sealed (memfd_create(2), fcntl(2)), it can't be written, grown or shrunk any more, by anybody: the receiver reads the
sender's memory in place, and can't be hurt by it (a file cut short under a mapping is a SIGBUS). The kernel
frees it with the last descriptor and mapping, whoever is killed in between.

Rules:
1. Nothing is mapped before it was checked: that it is a memfd of ordinary pages, with all four seals, and as large
   as announced. (A huge page that can't be had is a SIGBUS too, so memfds of such are refused.)
2. The mapping is private and read-only, and lives as long as a view of it. (A shared one of a sealed file
   needs Linux 6.7; without a write the two are the same.)
3. Where there is no mapping to be had, the bytes are copied out instead: no message is lost to a limit. (Before
   3.13, Python keeps a descriptor for each mapping.)
"""

from __future__ import annotations

import errno
import fcntl
import io
import mmap
import os
import sys
from collections.abc import Sequence

from kinfolk.descriptors import AnyDescriptor, Descriptor
from kinfolk.errors import CorruptChannel, NoSpace

Buffer = bytes | bytearray | memoryview

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

_MFD_NOEXEC_SEAL = 0x8  # Linux 6.3; sysctl vm.memfd_noexec=2 asks for it
_NO_MAPPING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_NO_MEMORY = (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT, errno.EFBIG)


def sealed(parts: Sequence[Buffer], subject: str) -> Descriptor:
    """A sealed memfd that holds the parts, one after the other.

    Raises NoSpace when there is no memory for it, LimitReached (as OSError, EMFILE) without a descriptor.
    """
    try:
        descriptor = create(Descriptor, "memfd")
    except OSError as error:
        raise _no_memory(error, parts, subject) from error
    try:
        # Large parts are written from where they are, small ones are gathered before.
        with io.BufferedWriter(io.FileIO(descriptor.fileno(), "w", closefd=False)) as file:
            file.writelines(parts)
        fcntl.fcntl(descriptor.fileno(), fcntl.F_ADD_SEALS, SEALS)
    except OSError as error:
        descriptor.close()
        raise _no_memory(error, parts, subject) from error
    except BaseException:
        descriptor.close()
        raise
    return descriptor


def create(kind: type[AnyDescriptor], name: str, label: str = "kinfolk") -> AnyDescriptor:
    """An empty one that can be sealed; ``name`` is for messages, the ``label`` shows in /proc. Raises OSError."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return kind.opened(name, os.memfd_create, label, flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return kind.opened(name, os.memfd_create, label, flags)


def _no_memory(error: OSError, parts: Sequence[Buffer], subject: str) -> OSError:
    if error.errno not in _NO_MEMORY:
        return error
    return NoSpace(
        f"there is no memory for a message of {sum(map(len, parts))} bytes",
        subject=subject,
        why=os.strerror(error.errno or 0),
        remedy="send it in pieces, or raise what limits this process (cgroup, ulimit -f)",
        code=error.errno,
    )


def view(fd: int, size: int, subject: str) -> memoryview:
    """The ``size`` bytes of a memfd that came from a peer, read-only; ``fd`` may be closed afterwards.

    Raises CorruptChannel for anything but a sealed memfd of this size.
    """
    _check(fd, size, subject)
    try:
        return memoryview(_map(fd, size))
    except OSError as error:
        if error.errno not in _NO_MAPPING:
            raise
    copy = bytearray(size)
    with io.FileIO(fd, "r", closefd=False) as file:
        file.seek(0)  # the offset is shared with the sender, who may have left it anywhere
        room = memoryview(copy)
        while room:
            room = room[file.readinto(room) or _gone(subject) :]
    return memoryview(copy).toreadonly()


def _check(fd: int, size: int, subject: str) -> None:
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        seals = 0  # EINVAL: no file in memory
    status = os.fstat(fd)
    if seals & SEALS != SEALS:
        why = f"it is not sealed (seals {seals:#x})"
    elif os.fstatvfs(fd).f_bsize != mmap.PAGESIZE:
        why = "it is made of huge pages"
    elif status.st_size != size or size == 0:
        why = f"it has {status.st_size} bytes, and {size} were announced"
    else:
        return
    raise CorruptChannel(
        "the memory that came with a message is not what kinfolk sends", subject=subject, why=why
    )


def _map(fd: int, size: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ, trackfd=False)
    return mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ)


def _gone(subject: str) -> int:
    raise CorruptChannel("a sealed memfd ended early", subject=subject)
