"""Stop `unix-seqpacket`: a connection that keeps messages apart. The source's Unix domain socket.

The source names two kinds, for streams and for datagrams; this is the third, which is both: a
connection with an end, like a stream, and messages with boundaries, like datagrams.

It shows
- what a plain stream does to two messages, and what a plain seqpacket socket does;
- messages of many sizes that come back from a server one by one, empty ones among them.
"""

from __future__ import annotations

import os
import socket

import kinfolk as kin
from kinfolk.tour.echo import ask, serve
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import PATIENCE, crew
from kinfolk.tour.stop import Stop, Walk, scratch_directory

_SIZES = (1, 0, 5, 4_096, 0, 65_537, 1 << 20)


def visit(narrator: Narrator, walk: Walk) -> None:
    """Walk through the parts."""
    glued = _two_messages(socket.SOCK_STREAM)
    apart = _two_messages(socket.SOCK_SEQPACKET)
    narrator.says(
        f"Plain sockets: b'one' and b'two' were read as {glued!r} from a stream, and as {apart!r} from "
        "a seqpacket socket."
    )
    with scratch_directory() as directory, crew() as hands:
        address = f"unix-seqpacket:{directory}/socket"
        server = hands.start("server", serve, address, 1, {})
        server.hear()
        with kin.connect(address, timeout=PATIENCE) as connection:
            sent = [os.urandom(size) for size in _SIZES]
            one_by_one = [ask(connection, message) for message in sent]
            for message in sent[:4]:
                connection.send_bytes(message, timeout=PATIENCE)
            in_a_row = [connection.recv_bytes(timeout=PATIENCE) for _ in sent[:4]]
            peer = connection.peer
        server.result()
    narrator.says(
        f"Server {server.pid} sent back {len(one_by_one)} messages of "
        f"{', '.join(f'{len(message):,}' for message in one_by_one)} bytes, and four in a row."
    )
    narrator.check("a stream glues what was sent apart", glued == [b"onetwo"], repr(glued))
    narrator.check("seqpacket keeps it apart", apart == [b"one", b"two"], repr(apart))
    narrator.check("every message came back whole, also empty and large ones", one_by_one == sent)
    narrator.check("those in a row came in order and apart", in_a_row == sent[:4])
    narrator.check(
        "the client knew its server", peer is not None and peer.pid == server.pid, str(peer)
    )


def _two_messages(kind: socket.SocketKind) -> list[bytes]:
    here, there = socket.socketpair(socket.AF_UNIX, kind)
    with there:
        with here:
            here.send(b"one")
            here.send(b"two")
        return list(iter(lambda: there.recv(100), b""))


STOP = Stop(
    "unix-seqpacket", "a connection that keeps its messages apart", "Unix domain socket", visit
)
