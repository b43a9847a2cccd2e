"""The processes of a stage: forked, each with a part to play, each with a line to the stage.

    stage ── Command(count) ──> participant: plays its part so often
          <── Usage ───────────

Rules:
1. A participant opens its end, says so, and then does what it is told, again and again, until the
   line ends.
2. One that fails says why in a line and ends. One that dies is noticed by the end of its line.
3. The stage waits for all at once: the failure of one is heard while another hangs because of it,
   and of several the first one counts.
4. All are reaped when the stage leaves. When all went well they close their ends first, as programs
   do; else they are killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import time
import traceback
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import msgspec

import kinfolk as kin
from kinfolk.bench.accounting import Usage, resident_bytes
from kinfolk.bench.cases import Failure
from kinfolk.bench.placement import Placement, place

#: Milliseconds that the others have, when one has failed, to say that they have, too, and earlier.
_CAUSE = 1000

#: Seconds that participants have to close their ends.
_LEAVE = 2.0

_LENGTH = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()


class Part(Protocol):
    """What a participant plays."""

    def open(self) -> None:
        """Open its ends; in its own process."""

    def play(self, count: int) -> Usage:
        """Send, take or ask so often."""

    def close(self) -> None:
        """Close its ends."""


class Member(NamedTuple):
    """A participant, as the stage sees it."""

    role: str
    pid: int
    commands: int
    reports: int


class Broken(Exception):
    """A participant failed; the failure says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class Cast:
    """All the participants of a stage; a context manager."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._members: list[Member] = []

    def __enter__(self) -> Cast:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for member in self._members:
            os.close(member.commands)
        until = time.monotonic() + (_LEAVE if kind is None else 0)
        for member in self._members:
            # Its last report is the end of the line; who does not come to it hangs.
            patience = max(0.0, until - time.monotonic())
            if not select.select([member.reports], [], [], patience)[0] or kind is not None:
                os.kill(member.pid, signal.SIGKILL)
        for member in self._members:
            os.waitpid(member.pid, 0)
            os.close(member.reports)
        self._members.clear()

    def start(self, role: str, part: Part) -> None:
        """Fork a participant."""
        theirs, commands = os.pipe()
        reports, says = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for member in self._members:
                    os.close(member.commands)
                    os.close(member.reports)
                os.close(commands)
                os.close(reports)
                place(len(self._members), self._placement)
                status = _live(part, theirs, says)
            finally:
                os._exit(status)
        os.close(theirs)
        os.close(says)
        self._members.append(Member(role, pid, commands, reports))

    def opened(self) -> None:
        """Wait until all have opened their ends. Raises Broken."""
        self._collect(str)

    def play(self, count: int) -> dict[str, list[Usage]]:
        """Have all play ``count`` times; what they report, by role. Raises Broken."""
        for member in reversed(self._members):  # those that receive stand behind those that send
            with contextlib.suppress(BrokenPipeError):  # its last words are on the other line
                os.write(member.commands, _LENGTH.pack(count))
        found: dict[str, list[Usage]] = {}
        for member, usage in self._collect(Usage):
            found.setdefault(member.role, []).append(usage)
        return found

    def memory(self) -> int:
        """Bytes that all together have gained since each opened its ends."""
        for member in self._members:
            os.write(member.commands, _LENGTH.pack(0))
        return sum(gained for _, gained in self._collect(int))

    def _collect(self, kind: type[Any]) -> list[tuple[Member, Any]]:
        """One report of each. Raises Broken with what went wrong first: the others may have failed
        because of it.
        """
        poll = select.poll()
        waiting = {member.reports: member for member in self._members}
        for number in waiting:
            poll.register(number, select.POLLIN)
        found: list[tuple[Member, Any]] = []
        failures: list[_Failed] = []
        while waiting and (heard := poll.poll(_CAUSE if failures else None)):
            for number, _ in heard:
                poll.unregister(number)
                member = waiting.pop(number)
                report = _heard(member, kind)
                if isinstance(report, _Failed):
                    failures.append(report)
                else:
                    found.append((member, report))
        if failures:
            raise Broken(min(failures, key=lambda failed: failed.moment).failure)
        return found


class _Failed(NamedTuple):
    """A member that has failed."""

    failure: Failure
    #: when, in ns; 0 for one that died of it, which is the cause of whatever else is reported
    moment: int


def _heard(member: Member, kind: type[Any]) -> Any:
    header = _read(member.reports, _LENGTH.size)
    report = _read(member.reports, _LENGTH.unpack(header)[0]) if header else b""
    if not report:
        return _Failed(Failure("failed", f"the {member.role} {_how_it_ended(member.pid)}"), 0)
    failure, moment, content = msgspec.msgpack.decode(
        report, type=tuple[Failure | None, int, msgspec.Raw]
    )
    if failure is not None:
        text = f"{member.role}: {failure.text}"
        return _Failed(msgspec.structs.replace(failure, text=text), moment)
    return msgspec.msgpack.decode(content, type=kind)


def _how_it_ended(pid: int) -> str:
    """In words; it is left to be reaped by who leaves the cast."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if ended is not None and ended.si_code != os.CLD_EXITED:
        return f"was killed by {signal.Signals(ended.si_status).name}"
    return "ended without a word"


def _live(part: Part, commands: int, says: int) -> int:
    """A participant, from its fork to its end; the exit code."""
    # What the stage does when it is ended is its own.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    try:
        before = resident_bytes()
        part.open()
        _say(says, "opened")
        while command := _read(commands, _LENGTH.size):
            count = _LENGTH.unpack(command)[0]
            _say(says, part.play(count) if count else max(0, resident_bytes() - before))
        part.close()
    except Exception as error:  # whatever a peer raises: it is the result
        with contextlib.suppress(OSError):
            _say(says, None, failure_of(error))
        return 1
    return 0


def failure_of(error: Exception) -> Failure:
    """An error as a result."""
    if isinstance(error, kin.Unsupported | kin.MessageTooBig | kin.Busy):
        return Failure("unsupported", error.why or error.what)
    if isinstance(error, ModuleNotFoundError):
        return Failure("missing", f"{error.name} is not installed")
    text = traceback.format_exception_only(error)[-1].strip()
    return Failure("failed", str(error) if isinstance(error, kin.KinfolkError) else text)


def _say(line: int, content: object, failure: Failure | None = None) -> None:
    report = _encoder.encode((failure, time.monotonic_ns(), content))
    _write(line, (_LENGTH.pack(len(report)), report))


def _write(line: int, pieces: Iterable[bytes]) -> None:
    rest = memoryview(b"".join(pieces))
    while rest:
        rest = rest[os.write(line, rest) :]


def _read(line: int, size: int) -> bytes:
    """So many bytes, or none at the end of the line."""
    data = b""
    while len(data) < size:
        piece = os.read(line, size - len(data))
        if not piece:
            return b""
        data += piece
    return data
