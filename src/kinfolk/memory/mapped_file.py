"""``file:/path`` — a mapped file (mmap(2)): memory that is kept on a disk, whatever ends.

Options: size, mode. It stays until `unlink`. Created anew it is all zeros; any file can be attached to, also privately:
then changes are this process's own, and neither the file nor anybody else sees them.

Rules:
1. What is written is in the file for everybody at once; it is on the disk after `flush`.
2. An error of the disk is a SIGBUS: no mapping can tell it in another way. That a file is cut short under its users, too;
   only who may write to it can do that.
"""

from __future__ import annotations

import os

from kinfolk.errors import AddressError
from kinfolk.memory import named
from kinfolk.memory.address import Address
from kinfolk.memory.contract import Attaching, Kind, Segment


class MappedFile(Kind):
    """Mapped files."""

    scheme = "file"

    def check(self, address: Address) -> None:
        """A path that does not end in a directory."""
        if os.path.basename(address.name) in {"", ".", ".."}:
            raise AddressError(
                "this is no file's path", subject=str(address), remedy="write file:/path"
            )
        if address.options.lifetime == "peers":
            raise AddressError(
                "a file outlives its users",
                subject=str(address),
                why="to keep what is in it is what it is for",
                remedy="leave lifetime out, or use shm:/name",
            )

    def create(self, address: Address, size: int) -> Segment:
        """A new file that has no name yet."""
        return named.create(address, self.path(address), size, on_disk=True)

    def attach(self, address: Address, how: Attaching) -> Segment:
        """A file that is there."""
        return named.attach(address, self.path(address), how, on_disk=True)

    def path(self, address: Address) -> str:
        """From the present directory on, for good."""
        return os.path.join(os.getcwd(), address.name)


KIND: Kind = MappedFile()
