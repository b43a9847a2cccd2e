"""A one-way link over every mechanism that kinfolk has, with names that nobody else has.

    with Link("fifo", "fifo:/tmp/…/fifo").laid() as link, crew() as hands:
        the receiving process:  link.open_receiver()
        the sending process:    link.open_sender()
        whoever is neither:     link.release()

Rules:
1. A link is laid before the fork, because an anonymous pipe is inherited and has no other address.
2. Each process drops, with `release`, what it inherited and does not use: else it counts as a peer.
3. Nothing of it stays, whoever was killed when: after the crew, the name of a queue is removed.
4. A mechanism that is new in kinfolk gets its address here, in `links`, and is on the tour.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import kinfolk as kin
from kinfolk.channels.mechanisms import SCHEMES
from kinfolk.tour.processes import PATIENCE
from kinfolk.tour.stop import unused_key, unused_name


class Link:
    """One way from a process to another."""

    def __init__(
        self,
        label: str,
        address: str,
        *,
        anonymous: bool = False,
        elsewhere: bool = False,
        worth_while: int = 256 << 10,
    ) -> None:
        """Over ``address``; an ``anonymous`` one is inherited; one ``elsewhere`` is no file.

        ``worth_while`` is a message size in bytes above which there is nothing to be gained.
        """
        self.label, self.address, self.worth_while = label, address, worth_while
        self._anonymous, self._elsewhere = anonymous, elsewhere
        self._ends: tuple[kin.Receiver, kin.Sender] | None = None

    @contextlib.contextmanager
    def laid(self) -> Iterator[Link]:
        """Make what is to be inherited, and at the end remove what is left."""
        if self._anonymous:
            self._ends = kin.channel(self.address)
        try:
            yield self
        finally:
            self.release()
            if self._elsewhere:
                self._remove()

    def open_receiver(self) -> kin.Receiver:
        """In the process that receives."""
        if self._ends is None:
            return kin.open_receiver(self.address, timeout=PATIENCE)
        (receiver, sender), self._ends = self._ends, None
        sender.close()
        return receiver

    def open_sender(self) -> kin.Sender:
        """In the process that sends; waits for the receiver."""
        if self._ends is None:
            return kin.open_sender(self.address, timeout=PATIENCE)
        (receiver, sender), self._ends = self._ends, None
        receiver.close()
        return sender

    def release(self) -> None:
        """In a process that neither sends nor receives, after the forks."""
        if self._ends is not None:
            for end in self._ends:
                end.close()
            self._ends = None

    def _remove(self) -> None:
        """Join once more, so that the name is there, and take it away."""
        with contextlib.suppress(kin.KinfolkError):  # why it can't be opened was said before
            with kin.open_receiver(self.address, timeout=PATIENCE) as last:
                if not last.limits.presence:
                    last.unlink()  # else closing the last end does it


def links(directory: str, *, ending: bool = False) -> list[Link]:
    """A fresh link for each mechanism in kinfolk's registry, its files in ``directory``.

    An ``ending`` one ends with its peers, also where a name outlives them unless one says so.
    Raises Unsupported when a mechanism has no address here.
    """
    return [link for scheme in SCHEMES for link in _links_of(scheme, directory, ending)]


def _links_of(scheme: str, directory: str, ending: bool) -> list[Link]:
    lifetime = "?lifetime=peers" if ending else ""
    match scheme:
        case "pipe":
            # One process sends: then a pipe carries long frames instead of chunks of PIPE_BUF bytes.
            return [Link("pipe", "pipe:?senders=one", anonymous=True)]
        case "unix":
            return [
                Link("unix", f"unix:{directory}/unix"),
                Link("unix @abstract", f"unix:@{unused_name()}"),
            ]
        case "fifo":
            return [Link(scheme, f"{scheme}:{directory}/{scheme}")]
        case "unix-seqpacket" | "unix-dgram":
            # Larger packets travel as memfds, which pays for much larger ones only.
            return [Link(scheme, f"{scheme}:{directory}/{scheme}", worth_while=64 << 10)]
        case "mq":
            return [Link(scheme, f"mq:/{unused_name()}{lifetime}", elsewhere=True)]
        case "sysv-mq":
            return [Link(scheme, f"sysv-mq:{unused_key()}{lifetime}", elsewhere=True)]
        case "file":
            # It has no end, whatever one says.
            return [] if ending else [Link(scheme, f"file:{directory}/ring")]
        case "tcp":
            return [Link(scheme, f"tcp:127.0.0.1:{unused_port()}")]
        case "ring":
            return [Link(scheme, f"ring:{unused_name()}")]
    raise kin.Unsupported(
        "the tour has no address for this mechanism",
        subject=f"{scheme}:",
        remedy="add one to kinfolk/tour/links.py",
    )


def unused_port() -> int:
    """A port of the loopback that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
