"""Sockets are the general interface, and the slower one; Unix sockets beat TCP over loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator

import posix_ipc

from kinfolk.bench.claims.claim import Claim, Found, Holds
from kinfolk.bench.forked import together
from kinfolk.bench.kernel_subjects import tcp_pair, writer_to
from kinfolk.bench.statistics import Interval, middle, paired_ratio

_ROUNDS, _TRIPS = 7, 600
_SMALL, _STREAM = 48, 64 << 20
_PIECE = 64 << 10

Side = tuple[Callable[[bytes], object], Callable[[int], bytes]]


@contextlib.contextmanager
def _pipes() -> Iterator[tuple[Side, Side]]:
    (a, b), (c, d) = os.pipe(), os.pipe()
    try:
        yield (
            (writer_to(b), lambda size: os.read(c, size)),
            (writer_to(d), lambda size: os.read(a, size)),
        )
    finally:
        for number in (a, b, c, d):
            os.close(number)


@contextlib.contextmanager
def _sockets(
    make: Callable[[], tuple[socket.socket, socket.socket]],
) -> Iterator[tuple[Side, Side]]:
    here, there = make()
    with here, there:
        yield (here.sendall, here.recv), (there.sendall, there.recv)


@contextlib.contextmanager
def _queues() -> Iterator[tuple[Side, Side]]:
    made = [posix_ipc.MessageQueue(None, posix_ipc.O_CREX, max_message_size=8192) for _ in range(2)]
    for queue in made:
        queue.unlink()
    forth, back = made
    try:
        yield (
            (forth.send, lambda _: bytes(back.receive()[0])),
            (back.send, lambda _: bytes(forth.receive()[0])),
        )
    finally:
        forth.close()
        back.close()


_KINDS: dict[str, Callable[[], contextlib.AbstractContextManager[tuple[Side, Side]]]] = {
    "pipe": _pipes,
    "POSIX queue": _queues,
    "Unix socket": lambda: _sockets(socket.socketpair),
    "TCP over loopback": lambda: _sockets(tcp_pair),
}


def _round_trip(kind: str) -> float:
    """Microseconds."""
    with _KINDS[kind]() as ((send, take), (answer, hear)):

        def asking() -> float:
            data = bytes(_SMALL)
            times = []
            for _ in range(_TRIPS):
                begun = time.perf_counter_ns()
                send(data)
                take(_SMALL)
                times.append(time.perf_counter_ns() - begun)
            return middle(times) / 1e3

        def answering() -> int:
            for _ in range(_TRIPS):
                answer(hear(_SMALL))
            return 0

        return float(str(together(asking, answering)[0]))


def _throughput(kind: str) -> float:
    """MiB a second."""
    with _KINDS[kind]() as ((send, _), (_, hear)):

        def sending() -> int:
            data = bytes(_PIECE)
            for _ in range(_STREAM // _PIECE):
                send(data)
            return 0

        def taking() -> float:
            begun, got = time.perf_counter(), 0
            while got < _STREAM:
                got += len(hear(_PIECE))
            return got / 2**20 / (time.perf_counter() - begun)

        return float(str(together(sending, taking)[1]))


def _rounds(measure: Callable[[str], float], kinds: tuple[str, ...]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(_ROUNDS):
        place = number % len(kinds)
        for kind in kinds[place:] + kinds[:place]:
            found[kind].append(measure(kind))
    return found


def _slower_test() -> Found:
    trips = _rounds(_round_trip, ("pipe", "POSIX queue", "Unix socket", "TCP over loopback"))
    rates = _rounds(_throughput, ("pipe", "Unix socket"))
    slower = paired_ratio(trips["Unix socket"], trips["pipe"])
    faster = paired_ratio(rates["Unix socket"], rates["pipe"])
    figures = {f"round trip, µs, {kind}": middle(times) for kind, times in trips.items()}
    figures |= {f"MiB/s, {kind}": middle(values) for kind, values in rates.items()}
    sentence = (
        f"A round trip of {_SMALL} bytes takes {_list(trips)} µs: a Unix socket {_said(slower)} "
        "times a pipe's. "
        f"In bulk, {_PIECE >> 10} KiB at a time, it moves {_said(faster)} times as much as a pipe."
    )
    return Found(_held(_more(slower), _less(faster)), sentence, figures)


def _tcp_test() -> Found:
    trips = _rounds(_round_trip, ("Unix socket", "TCP over loopback"))
    rates = _rounds(_throughput, ("Unix socket", "TCP over loopback"))
    trip = paired_ratio(trips["TCP over loopback"], trips["Unix socket"])
    rate = paired_ratio(rates["Unix socket"], rates["TCP over loopback"])
    figures = {f"round trip, µs, {kind}": middle(times) for kind, times in trips.items()}
    figures |= {f"MiB/s, {kind}": middle(values) for kind, values in rates.items()}
    sentence = (
        f"Round trips of {_SMALL} bytes: TCP takes {_said(trip)} times as long as a Unix socket "
        f"({_list(trips)} µs). "
        f"In bulk the Unix socket moves {_said(rate)} times as much ({_list(rates)} MiB/s)."
    )
    return Found(_held(_more(trip), _more(rate)), sentence, figures)


def _more(interval: Interval) -> bool:
    """Whether a ratio is above 1, and not by chance."""
    return interval.certain and interval.ratio > 1


def _less(interval: Interval) -> bool:
    return interval.certain and interval.ratio < 1


def _held(*halves: bool) -> Holds:
    if all(halves):
        return "holds"
    return "holds in part" if any(halves) else "does not hold"


def _said(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.ratio:.2f}"
    return f"{interval.ratio:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def _list(found: dict[str, list[float]]) -> str:
    return ", ".join(f"{kind} {middle(values):,.1f}" for kind, values in found.items())


CLAIMS = (
    Claim(
        "sockets-slow",
        "Sockets are the more general interface, and less efficient.",
        "套接字：作为更通用的接口，传输效率低，主要用于不通机器或跨网络的通信",
        f"Two processes on two CPUs, the kernel's own calls without any library; {_ROUNDS} "
        "interleaved rounds, ratios with 95 % intervals.",
        _slower_test,
    ),
    Claim(
        "unix-beats-tcp",
        "A Unix domain socket is more efficient than TCP over loopback: no protocol stack, no "
        "checksums.",
        "但是UNIX Domain Socket用于IPC更有效率：不需要经过网络协议栈",
        f"As above, with TCP_NODELAY; {_ROUNDS} interleaved rounds, ratios with 95 % intervals.",
        _tcp_test,
    ),
)
