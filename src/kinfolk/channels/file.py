"""``file:/path`` — a ring in a mapped file: what was sent outlives everybody.

Options: capacity (bytes for small messages, 1 MiB) and arena (for blocks, 256 MiB), rounded up to powers of two; max_message, mode,
codec, framing; acknowledge on its receivers. Receivers make the file, 0600, senders wait for it; after that all of them come and go. Any number of processes send
and receive, and each message goes to one of them. See `kinfolk.channels.ring_transport`, and docs/design/ring.md.

Rules:
1. The file stays until `unlink`: absence blocks, nobody's exit is an end. A full one blocks its senders.
2. What a send that returned has sent is there after the end of all processes, whatever ended them. After a power cut there is what
   fsync(2) of the file had written; what was sent since may be missing or damaged.
3. A message that a receiver has taken is gone, also if he is killed before he has looked at it; unless receivers acknowledge.
4. It is for one machine, and one user: whoever may write to the file can do with the others what he likes.
5. The file must not be made shorter: for who uses it then that is a SIGBUS, as for any mapped file. Only its user can.
"""

from __future__ import annotations

import os

from kinfolk.channels import ring_file
from kinfolk.channels.address import Address
from kinfolk.channels.contract import Duplex, Mechanism, ReceiveTransport, SendTransport
from kinfolk.channels.ring_acknowledging import receiver_of
from kinfolk.channels.ring_options import (
    for_sender,
    refuse_acknowledging,
    refuse_others,
    sizes_of,
    terms_of,
)
from kinfolk.channels.ring_transport import RingSender
from kinfolk.errors import AddressError
from kinfolk.interest import Steps
from kinfolk.rendezvous import retry, wait_for_path


class FileMechanism(Mechanism):
    """Rings in mapped files."""

    scheme = "file"
    options = frozenset(
        {"codec", "framing", "capacity", "arena", "max_message", "lifetime", "mode", "acknowledge"}
    )
    default_lifetime = "name"
    remedy = "open two files, one each way, or use unix:/path"

    def completed(self, address: Address) -> Address:
        """A file outlives its peers."""
        if os.path.basename(address.name) in {"", ".", ".."}:
            raise AddressError(
                "this is no file's path", subject=str(address), remedy="write file:/path"
            )
        if address.options.lifetime == "peers":
            raise AddressError(
                "a file outlives its peers",
                subject=str(address),
                why="to keep what was sent is what it is for",
                remedy="leave lifetime out, or use ring:NAME",
            )
        refuse_others(address)
        return super().completed(address)

    def open_receiver(self, address: Address) -> Steps[ReceiveTransport]:
        """Make the file, or join as one of its receivers."""
        path, sizes, subject = _path_of(address), sizes_of(address), str(address)
        mode = 0o600 if address.options.mode is None else address.options.mode
        terms = terms_of(address)
        memory = yield from retry(
            lambda: ring_file.make_or_open(path, sizes, terms.acknowledge, mode, subject)
        )
        return receiver_of(memory, None, path, subject, sizes, terms)

    def open_sender(self, address: Address) -> Steps[SendTransport]:
        """Wait for the file, and join."""
        path, sizes, subject = _path_of(address), sizes_of(address), str(address)
        refuse_acknowledging(address)
        memory = yield from wait_for_path(path, lambda: ring_file.open_existing(path, subject))
        return RingSender(memory, None, path, subject, sizes, terms_of(address))

    def channel(self, address: Address) -> Steps[tuple[ReceiveTransport, SendTransport]]:
        """Both ends."""
        receiver = yield from self.open_receiver(address)
        try:
            return receiver, (yield from self.open_sender(for_sender(address)))
        except BaseException:
            receiver.close()
            raise

    def pair(self, address: Address) -> Steps[tuple[Duplex, Duplex]]:
        """Not of one file: an end would receive what it sent itself."""
        raise self._lacks("a ring goes one way only", address)
        yield


def _path_of(address: Address) -> str:
    """From the present directory on, for good."""
    return os.path.join(os.getcwd(), address.name)


MECHANISM: Mechanism = FileMechanism()
