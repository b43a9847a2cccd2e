"""A signal that has come: which, from whom, with what value, and why (siginfo_t of sigaction(2)).

Rules:
1. What the kernel does not say is None, never 0.
2. Who sent it is the kernel's word for kill(2) and tgkill(2) alone. What was queued (sigqueue(3)) carries what its sender wrote
   there, and a process of the same user, or root, may write anything: no reason to trust it further than that user.
"""

from __future__ import annotations

import signal as python
import struct
from dataclasses import dataclass
from typing import Self

from kinfolk.signal_table import name_of, number_of

# si_code (sigaction(2)); positive ones are the kernel's, with a meaning of their own for each signal.
SI_USER, SI_KERNEL = 0, 0x80
SI_QUEUE, SI_TIMER, SI_MESGQ, SI_ASYNCIO, SI_SIGIO, SI_TKILL = -1, -2, -3, -4, -5, -6

_ORIGINS = {
    SI_USER: "kill",
    SI_QUEUE: "sigqueue",
    SI_TIMER: "timer",
    SI_MESGQ: "message queue",
    SI_ASYNCIO: "asynchronous I/O",
    SI_SIGIO: "I/O",
    SI_TKILL: "tgkill",
}
_WITHOUT_SENDER = (SI_TIMER, SI_SIGIO)  # those two have other things in the same place
_WITHOUT_VALUE = (SI_SIGIO, SI_TKILL)

# signalfd(2): signo, errno, code, pid, uid, …, int
_RECORD = struct.Struct("=IiiII")
_VALUE = struct.Struct("=i")
_VALUE_AT = 44
RECORD_SIZE = 128


@dataclass(frozen=True, slots=True)
class Arrived:
    """One signal that has come. Immutable, hashable."""

    signal: int
    #: the process that sent it, or the child of a SIGCHLD; None when unknown, or in another pid namespace
    pid: int | None = None
    #: the real user id of that process
    uid: int | None = None
    #: what was queued with it (sigqueue(3)), a C int
    value: int | None = None
    #: si_code of sigaction(2): why it was sent
    code: int | None = None

    @property
    def name(self) -> str:
        """SIGTERM, SIGRTMIN+3."""
        return name_of(self.signal)

    @property
    def origin(self) -> str:
        """What sent it: "kill", "sigqueue", "tgkill", "timer", "message queue", "I/O", "child", "kernel"."""
        if self.code is None:
            return "unknown"
        if self.code > 0:
            return "child" if self._of_a_child else "kernel"
        return _ORIGINS.get(self.code, "sigqueue")

    @property
    def _of_a_child(self) -> bool:
        return self.signal == python.SIGCHLD and self.code is not None and 0 < self.code < SI_KERNEL

    @classmethod
    def from_kernel(cls, signal: int, code: int, pid: int, uid: int, value: int) -> Self:
        """From the fields of a siginfo_t, of which only some mean anything, depending on the code."""
        bare = cls(signal, code=code)
        if code > 0 and not bare._of_a_child:
            return bare
        sent = code not in _WITHOUT_SENDER
        valued = code < 0 and code not in _WITHOUT_VALUE
        return cls(
            signal,
            pid=pid if sent and pid > 0 else None,
            uid=uid if sent else None,
            value=value if valued else None,
            code=code,
        )

    @classmethod
    def from_record(cls, record: bytes) -> Self:
        """From what was read of a signalfd."""
        number, _, code, pid, uid = _RECORD.unpack_from(record)
        (value,) = _VALUE.unpack_from(record, _VALUE_AT)
        return cls.from_kernel(number_of(number), code, pid, uid, value)

    def __str__(self) -> str:
        """SIGUSR1 from process 4711 of user 1000 (sigqueue), value 7."""
        text = self.name
        if self.pid is not None:
            text += f" {'of' if self._of_a_child else 'from'} process {self.pid}"
        if self.uid is not None:
            text += f" of user {self.uid}"
        text += f" ({self.origin})"
        return text if self.value is None else f"{text}, value {self.value}"
