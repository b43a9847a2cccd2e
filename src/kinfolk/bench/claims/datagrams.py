"""Unix datagrams are reliable and come in order; UDP over loopback, which looks alike, is not."""

from __future__ import annotations

import select
import socket

from kinfolk.bench.claims.claim import Claim, Found
from kinfolk.bench.forked import together

_SENT = 20_000
_SIZE = 512

#: Every so many messages the receiver looks away for so many seconds.
_PAUSE_EVERY, _PAUSE = 2_000, 0.01

_END = b"end"


def _through(receiving: socket.socket, sending: socket.socket) -> tuple[int, int]:
    """How many arrive at a receiver that is slower than its sender, and how many of them out of
    order.
    """

    def send() -> int:
        for number in range(_SENT):
            sending.send(number.to_bytes(8, "little").ljust(_SIZE, b"."))
        return 0

    def take() -> list[int]:
        arrived, late, last = 0, 0, -1
        # What is lost says nothing: it is over when nothing has come for a while.
        while select.select([receiving], [], [], 1.0)[0]:
            number = int.from_bytes(receiving.recv(_SIZE)[:8], "little")
            arrived += 1
            late += number < last
            last = max(last, number)
            if number == _SENT - 1:
                break
            if arrived % _PAUSE_EVERY == 0:
                select.select([], [], [], _PAUSE)
        return [arrived, late]

    with receiving, sending:
        _, counts = together(send, take)
    assert isinstance(counts, list)
    return int(counts[0]), int(counts[1])


def _udp() -> tuple[socket.socket, socket.socket]:
    receiving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiving.bind(("127.0.0.1", 0))
    sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sending.connect(receiving.getsockname())
    return receiving, sending


def _test() -> Found:
    unix, unix_late = _through(*socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
    udp, udp_late = _through(*_udp())
    figures = {
        "sent": float(_SENT),
        "arrived, Unix": float(unix),
        "out of order, Unix": float(unix_late),
        "arrived, UDP": float(udp),
        "out of order, UDP": float(udp_late),
    }
    sentence = (
        f"Of {_SENT:,} datagrams to a receiver that looked away now and then, {unix:,} arrived "
        f"over a Unix socket, {unix_late} of them out "
        f"of order: its sender waits. Over UDP on loopback {udp:,} arrived."
    )
    return Found("holds" if unix == _SENT and not unix_late else "does not hold", sentence, figures)


CLAIMS = (
    Claim(
        "datagrams",
        "Unix datagrams are reliable: none is lost, and none comes out of order.",
        "面向数据报的UNIX Domain Socket也是可靠的，消息既不会丢失也不会顺序错乱",
        f"{_SENT:,} numbered datagrams of {_SIZE} bytes to a receiver that pauses; the same over "
        "UDP.",
        _test,
    ),
)
