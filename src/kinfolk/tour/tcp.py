"""Stop `tcp`: the same echo over the loopback, compared. The source's Unix domain socket, 总结.

The source says that a Unix socket is the more efficient one between processes of one host, as it
has no protocol stack, packets, checksums and acknowledgements. Here both carry the same.

It shows
- the same server and client, with another address;
- what a round trip takes over either;
- what TCP does not know: who is at the other end. So it carries no pickles.
"""

from __future__ import annotations

import os

import kinfolk as kin
from kinfolk.tour.echo import ask, round_trip, serve
from kinfolk.tour.narrator import Column, Narrator
from kinfolk.tour.processes import PATIENCE, crew
from kinfolk.tour.stop import Stop, Walk, outcome, scratch_directory

#: Bytes in a message, and how many round trips are timed.
_TRIALS = ((48, 1_000), (4_096, 1_000), (256 << 10, 100))

_COLUMNS = (
    Column("bytes", "message size", "{:,}".format),
    Column("unix_us", "unix, µs there and back", "{:.1f}".format),
    Column("tcp_us", "tcp, µs there and back", "{:.1f}".format),
    Column("ratio", "tcp / unix", "{:.2f}".format),
)


def visit(narrator: Narrator, walk: Walk) -> None:
    """Ask the same of both."""
    with scratch_directory() as directory, crew() as hands:
        unix_server = hands.start("Unix server", serve, f"unix:{directory}/echo.sock", 1, {})
        tcp_server = hands.start("TCP server", serve, "tcp:127.0.0.1:0", 2, {})
        unix_address, tcp_address = unix_server.hear(), tcp_server.hear()
        with kin.connect(tcp_address, timeout=PATIENCE) as tcp:
            answer, peer = ask(tcp, b"hello"), tcp.peer
        with (
            kin.connect(unix_address, timeout=PATIENCE) as unix,
            kin.connect(tcp_address, timeout=PATIENCE) as tcp,
        ):
            rows = [_trial(unix, tcp, size, count) for size, count in _TRIALS]
        unix_server.result()
        tcp_server.result()
    pickles = outcome(lambda: kin.connect(tcp_address, codec="pickle", timeout=0).close())
    narrator.says(
        f"Server {tcp_server.pid} listened at {tcp_address} (port 0: the kernel chose); process "
        f"{os.getpid()} asked b'hello' and got {answer!r}. Then the same of Unix server {unix_server.pid}:"
    )
    narrator.table("round_trips", _COLUMNS, rows)
    slower = sum(row["ratio"] > 1 for row in rows)
    narrator.says(
        f"The source expects the Unix socket to be faster; here and now it was in {slower} of "
        f"{len(rows)} trials. Small messages cost mostly the waking of the other process."
    )
    narrator.check("the echo came back", answer == b"hello", repr(answer))
    narrator.check("TCP vouches for nobody at the other end", peer is None, str(peer))
    narrator.check("so a pickle can't be asked for over it", pickles == "UntrustedPeer", pickles)


def _trial(unix: kin.Connection, tcp: kin.Connection, size: int, count: int) -> dict[str, float]:
    unix_us, tcp_us = (round_trip(each, size, count) * 1e6 for each in (unix, tcp))
    return {"bytes": size, "unix_us": unix_us, "tcp_us": tcp_us, "ratio": tcp_us / unix_us}


STOP = Stop("tcp", "the same echo over the loopback, compared", "Unix domain socket, 总结", visit)
