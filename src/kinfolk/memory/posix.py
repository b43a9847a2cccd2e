"""``shm:/name`` — POSIX shared memory (shm_overview(7)): a file in /dev/shm, as shm_open(3) makes it.

Options: size, mode, lifetime. With lifetime="name", the default, it stays until `unlink`. With "peers" the last user
removes it, and who creates another one removes those whose users were all killed.
"""

from __future__ import annotations

import contextlib
import os
import stat

from kinfolk import runtime_directory
from kinfolk.errors import AddressError
from kinfolk.marks import is_marked
from kinfolk.memory import named
from kinfolk.memory.address import Address
from kinfolk.memory.contract import Attaching, Kind, Segment
from kinfolk.memory.membership import remove_if_unused

_DIRECTORY = "/dev/shm"
_LONGEST_NAME = 255


class Posix(Kind):
    """POSIX shared memory."""

    scheme = "shm"

    def check(self, address: Address) -> None:
        """One slash, and then no other."""
        name = address.name
        if not name.startswith("/") or "/" in name[1:] or name in {"/", "/.", "/.."}:
            raise AddressError(
                "this is no name of shared memory",
                subject=str(address),
                why="it is one slash, and then no other (shm_overview(7))",
                remedy="write shm:/name",
            )
        if _DIRECTORY + name == runtime_directory.path_name():
            raise AddressError(
                "the name is kinfolk's own", subject=str(address), remedy="choose another one"
            )
        length = len(os.fsencode(name)) - 1
        if length > _LONGEST_NAME:
            raise AddressError(
                f"the name has {length} bytes, and {_LONGEST_NAME} is the limit",
                subject=str(address),
                remedy="choose a shorter one",
            )

    def create(self, address: Address, size: int) -> Segment:
        """A file in /dev/shm that has no name yet."""
        if address.options.lifetime == "peers":
            sweep()
        return named.create(address, self.path(address), size, on_disk=False)

    def attach(self, address: Address, how: Attaching) -> Segment:
        """The file in /dev/shm."""
        return named.attach(address, self.path(address), how, on_disk=False)

    def path(self, address: Address) -> str:
        """Where shm_open(3) has it."""
        return _DIRECTORY + address.name


def sweep() -> None:
    """Remove the memory of this user whose users were all killed."""
    with contextlib.suppress(OSError), os.scandir(_DIRECTORY) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and is_marked(status.st_mode):
                    remove_if_unused(entry.path)


KIND: Kind = Posix()
