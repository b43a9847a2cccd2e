"""``memfd:`` — memory without a name (memfd_create(2)), for a process and those that inherit it or are passed its descriptor.

    memfd:        new; memfd:LABEL is the same, and LABEL shows in /proc/PID/maps
    memfd:N       attach: the one with descriptor number N, inherited or received (send_fds); it is taken over

Options: size. It goes with its last descriptor and mapping, whatever ends whoever had them.

Rules:
1. It is sealed against shrinking, and against other seals: nobody who has it can hurt us by cutting it short. What comes
   from elsewhere gets that seal too, or is refused.
2. It grows with `resize`; what others have mapped stays as it is until they map it anew.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

from kinfolk import memfd
from kinfolk.descriptors import Descriptor
from kinfolk.errors import AddressError, UntrustedPeer, from_os_error
from kinfolk.memory.address import Address
from kinfolk.memory.contract import Attaching, Kind, Segment
from kinfolk.memory.file_segment import FileSegment
from kinfolk.memory.named import check_size
from kinfolk.memory.space import refuse_beyond_memory, reserve
from kinfolk.memory.trust import check_owner
from kinfolk.room import room_in_memory

_LONGEST_LABEL = 249  # memfd_create(2)


class Memfd(Kind):
    """Memory without a name."""

    scheme = "memfd"

    def check(self, address: Address) -> None:
        """A label has its length, and nothing else to be wrong."""
        if len(os.fsencode(address.name)) > _LONGEST_LABEL:
            raise AddressError(
                f"a label can have {_LONGEST_LABEL} bytes",
                subject=str(address),
                remedy="choose a shorter one, or none",
            )
        if address.options.lifetime == "name":
            raise AddressError(
                "memory without a name lives as long as its users",
                subject=str(address),
                remedy="leave lifetime out, or use shm:/name",
            )

    def create(self, address: Address, size: int) -> Segment:
        """A new one, sealed."""
        subject = str(address)
        refuse_beyond_memory(size, subject)
        descriptor = memfd.create(Descriptor, subject, address.name or "kinfolk")
        try:
            reserve(descriptor.fileno(), 0, size, room_in_memory, subject)
            mode = 0o600 if address.options.mode is None else address.options.mode
            os.fchmod(descriptor.fileno(), mode)  # for who opens /proc/PID/fd
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor.fileno(), fcntl.F_ADD_SEALS, seals)
            return FileSegment(descriptor, subject)
        except BaseException:
            descriptor.close()
            raise

    def attach(self, address: Address, how: Attaching) -> Segment:
        """Take over the descriptor with the number in the address. It stays the caller's when this raises."""
        number = _number(address)
        status = os.fstat(number)
        check_owner({status.st_uid}, how.owner, str(address))
        _make_safe(number, str(address))
        check_size(status.st_size, address)
        only_reads = how.read_only or how.private
        if not only_reads and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
            raise from_os_error(
                PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
                "its descriptor is for reading only",
                str(address),
                "attach read-only",
            )
        descriptor = Descriptor(_for_reading(number) if how.read_only else number, str(address))
        try:
            segment = FileSegment(
                descriptor, str(address), read_only=how.read_only, private=how.private
            )
            segment.look()
        except BaseException:
            if descriptor.fileno() == number:
                descriptor.detach()
            descriptor.close()
            raise
        if descriptor.fileno() == number:
            os.set_inheritable(number, False)
        else:
            os.close(number)
        return segment


def _number(address: Address) -> int:
    """The number in an address, if it is a memfd's."""
    if not address.name.isdecimal():
        raise AddressError(
            "memory without a name is attached to by the number of its descriptor",
            subject=str(address),
            remedy="write memfd:N for one that was inherited or received, or use shm:/name",
        )
    number = int(address.name)
    try:
        fcntl.fcntl(number, fcntl.F_GET_SEALS)
    except (OSError, OverflowError) as error:
        is_open = isinstance(error, OSError) and error.errno != errno.EBADF
        raise AddressError(
            f"descriptor {number} is {'no memfd' if is_open else 'not open'}",
            subject=str(address),
            remedy="inherit one (pass_fds=), or receive one (recv_fds)",
        ) from None
    return number


def _make_safe(number: int, subject: str) -> None:
    """Rule 1. Raises UntrustedPeer."""
    why = ""
    if os.fstatvfs(number).f_bsize != mmap.PAGESIZE:
        why = "it is made of huge pages, and one that can't be had is a SIGBUS"
    elif not fcntl.fcntl(number, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        try:
            fcntl.fcntl(number, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        except OSError:  # EPERM: sealed against seals, or open for reading only
            why = "who has it may cut it short, and that is a SIGBUS here"
    if why:
        raise UntrustedPeer(
            "this memory can't be attached to safely",
            subject=subject,
            why=why,
            remedy="have it made by kin.SharedMemory.create('memfd:'), or with MFD_ALLOW_SEALING and F_SEAL_SHRINK",
        )


def _for_reading(number: int) -> int:
    """A descriptor by which nothing can be written: the one that came, or another one."""
    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        return number
    return os.open(f"/proc/self/fd/{number}", os.O_RDONLY | os.O_CLOEXEC)


KIND: Kind = Memfd()
