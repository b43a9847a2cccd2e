"""Signals are no means of exchanging data."""

from __future__ import annotations

import os
import signal

import kinfolk as kin
from kinfolk.bench.claims.claim import Claim, Found

_SENT = 1_000


def _arrived(number: int) -> int:
    """How many of a thousand signals with a value arrive at a process that was busy meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        for value in range(_SENT):
            kin.signals.send(os.getpid(), number, value=value)
        arrived = 0
        while signal.sigtimedwait({number}, 0) is not None:
            arrived += 1
        return arrived
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _test() -> Found:
    plain = _arrived(signal.SIGUSR1)
    real_time = _arrived(signal.SIGRTMIN + 1)
    figures = {
        "sent": float(_SENT),
        "standard signals that arrived": float(plain),
        "real-time signals that arrived": float(real_time),
    }
    sentence = (
        f"Of {_SENT:,} SIGUSR1 to a process that was busy meanwhile {plain} arrived; of {_SENT:,} "
        "real-time "
        f"signals {real_time:,}, each with a number of its own: a number a message, as many as "
        "RLIMIT_SIGPENDING allows, and nobody waits when it is full."
    )
    lost = plain < _SENT and real_time < _SENT
    return Found("holds" if lost else "holds in part", sentence, figures)


CLAIMS = (
    Claim(
        "signal-data",
        "Signals are not fit for exchanging data, but for interrupting and ending processes.",
        "信号: 不适用于信息交换，更适用于进程中断控制，比如非法内存访问，杀死某个进程等",
        f"{_SENT:,} signals with a value are sent to a process that blocks them, which then takes "
        "what is pending.",
        _test,
    ),
)
