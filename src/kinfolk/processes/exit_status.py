"""How a process ended, or stopped, or went on: what wait(2) says, as a value.

    exited(n)     it ended itself                       exited 3
    signaled(s)   a signal ended it                     killed by SIGSEGV (core dumped)
    stopped(s)    a signal stopped it; it is alive      stopped by SIGTSTP
    continued     SIGCONT woke it; it is alive          continued
    unknown       nobody can say any more, and why      unknown: somebody else had collected it

Rules:
1. Unknown is a kind of its own, and never reads as success: not by `success`, nor as the code of a shell. Nor does a failure by being an
   object: a status is neither true nor false.
2. A status is compared by what happened, not by what it cost (`usage`).
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass, field
from typing import Literal, NoReturn, Self

from kinfolk.errors import InvalidValue
from kinfolk.signal_table import as_member, shown

Kind = Literal["exited", "signaled", "stopped", "continued", "unknown"]

#: What a shell's code is for a status that nobody knows: like timeout(1) and env(1), for what failed outside of the command.
UNKNOWN_SHELL_CODE = 125


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """What became of a process. Immutable, hashable; safe to share between threads."""

    kind: Kind
    #: what it exited with, 0 to 255; None unless it exited
    code: int | None = None
    #: the signal that ended or stopped it
    signal: int | None = None
    #: whether the kernel wrote a core
    core_dumped: bool = False
    #: why nobody knows
    why: str = ""
    #: what it used (getrusage(2)), its own waited-for children included; None when unknown. `ru_maxrss` is never less
    #: than what its starter had: the kernel counts the memory that it shared before execve(2)
    usage: resource.struct_rusage | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_wait(cls, word: int, usage: resource.struct_rusage | None = None) -> Self:
        """The status in a status word of wait(2)."""
        if os.WIFEXITED(word):
            return cls("exited", code=os.WEXITSTATUS(word), usage=usage)
        if os.WIFSIGNALED(word):
            dumped = os.WCOREDUMP(word)
            return cls(
                "signaled", signal=as_member(os.WTERMSIG(word)), core_dumped=dumped, usage=usage
            )
        if os.WIFSTOPPED(word):
            return cls("stopped", signal=as_member(os.WSTOPSIG(word)), usage=usage)
        return cls("continued", usage=usage)

    @classmethod
    def unknown(cls, why: str) -> Self:
        """The status of a process whose status is lost."""
        return cls("unknown", why=why)

    @property
    def known(self) -> bool:
        """Whether anybody can say."""
        return self.kind != "unknown"

    @property
    def success(self) -> bool:
        """Whether it exited with 0."""
        return self.kind == "exited" and self.code == 0

    @property
    def ended(self) -> bool:
        """Whether the process is gone, as opposed to stopped or continued."""
        return self.kind not in ("stopped", "continued")

    @property
    def shell_code(self) -> int:
        """As ``$?`` shows it: the code, 128 + signal, or 125 when unknown."""
        if self.code is not None:
            return self.code
        return UNKNOWN_SHELL_CODE if self.signal is None else 128 + self.signal

    def __bool__(self) -> NoReturn:
        """Raise InvalidValue: in C and in Python's os.system 0 is success, so ``if kin.system(…):`` could mean either."""
        raise InvalidValue(
            "the status of a process is neither true nor false", remedy="ask status.success"
        )

    def __str__(self) -> str:
        """For people: ``killed by SIGSEGV (core dumped)``."""
        match self.kind:
            case "exited":
                return f"exited {self.code}"
            case "signaled":
                return f"killed by {shown(self.signal)}" + " (core dumped)" * self.core_dumped
            case "stopped":
                return f"stopped by {shown(self.signal)}"
            case "continued":
                return "continued"
        return f"unknown: {self.why}"
