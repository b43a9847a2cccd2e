"""The echo server and client of the source, which the socket stops share.

a forked child:  serve(line, address, …)    accepts, sends back what it gets, until the client ends
the walker:      with kin.connect(address) as connection: ask(connection, message)
"""

from __future__ import annotations

import time
from typing import Any

import kinfolk as kin
from kinfolk.tour.processes import PATIENCE, Line


def serve(line: Line, address: str, connections: int, options: dict[str, Any]) -> list[object]:
    """Serve so many connections one after the other; who the clients were.

    Tells where it listens, as soon as it does.
    """
    clients: list[object] = []
    with kin.listen(address, timeout=PATIENCE, **options) as listener:
        line.tell(listener.address)
        for _ in range(connections):
            with listener.accept(timeout=PATIENCE) as connection:
                clients.append(connection.peer)
                _echo(connection)
    return clients


def _echo(connection: kin.Connection) -> None:
    while True:
        try:
            message = connection.recv_bytes(timeout=PATIENCE)
        except kin.EndOfChannel:
            return
        connection.send_bytes(message, timeout=PATIENCE)


def ask(connection: kin.Connection, message: bytes) -> bytes:
    """Send a message, and wait for what comes back."""
    connection.send_bytes(message, timeout=PATIENCE)
    return connection.recv_bytes(timeout=PATIENCE)


def round_trip(connection: kin.Connection, size: int, count: int) -> float:
    """Seconds that a message of ``size`` bytes takes there and back: the mean of ``count``."""
    message = bytes(size)
    ask(connection, message)
    started = time.perf_counter()
    for _ in range(count):
        ask(connection, message)
    return (time.perf_counter() - started) / count
