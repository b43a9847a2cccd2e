"""``containment="keeper"``: children of the keeper, and this process's one keeper.

    start_program, start_function ── a request ──> keeper ── vfork, fork ──> the child
        └─ Kept(pidfd, status pipe) <── a reply ──┘ └── reaps it ── a record into the status pipe ──> Kept

Rules:
1. One keeper a process, started by the first request; another one when that has died, or when this process has become
   another than it was then (user, groups, capabilities, session, root): the old one serves those below it to their end.
2. One request at a time; waiting for the end of a child is no request: each has its own pipe.
3. A forked copy has no keeper: it starts its own. Of its parent's children it knows nothing but the pid.
4. At the exit of the interpreter everything below the keeper gets SIGTERM, and SIGKILL after `GRACE` seconds; then the keeper ends, and only
   then does the process. However the process ends, nothing is left, but for what rule 3 of keeper.py lets escape.
5. A status that the keeper did not live to tell is asked of the kernel (`lost_status`), else it is unknown.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from kinfolk.ancillary import MOST_DESCRIPTORS
from kinfolk.deadlines import NEVER
from kinfolk.descriptors import Descriptor
from kinfolk.errors import InvalidValue, KeeperDied, Unsupported, from_os_error
from kinfolk.identity import Identity, is_dead
from kinfolk.interest import Steps
from kinfolk.processes import inheritance
from kinfolk.processes.custody import Containment, Custody
from kinfolk.processes.descendants import Descendants
from kinfolk.processes.errand import Errand
from kinfolk.processes.exit_status import ExitStatus
from kinfolk.processes.interpreter import import_path
from kinfolk.processes.keeper_line import KeeperLine, NotRead
from kinfolk.processes.keeper_messages import (
    RECORD_SIZE,
    Failed,
    Kind,
    Preload,
    Record,
    Refused,
    Reply,
    Request,
    Started,
    StartProgram,
    Unable,
)
from kinfolk.processes.launch import Launch, raise_failed
from kinfolk.processes.lost_status import remembered
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import arun, run

T = TypeVar("T")

#: Seconds between SIGTERM and SIGKILL at the exit of the interpreter.
GRACE = 1.0

#: Seconds that whoever adopts the child of a dead keeper has to reap it, before its status is unknown.
_ADOPTION = 0.5


class Kept(Custody):
    """A child of the keeper."""

    def __init__(
        self, started: Started, pidfd: int, pipe: int, launch: Launch, containment: Containment
    ) -> None:
        """Take over its pidfd and its status pipe."""
        self.containment = containment
        identity = Identity(started.pid, started.start_time)
        super().__init__(
            identity,
            Descriptor(pidfd, f"the pidfd of {started.pid}"),
            Descriptor(pipe, f"the status pipe of {started.pid}"),
        )
        self._tree = Descendants(identity, leads=launch.new_session or launch.process_group == 0)
        self._changed: ExitStatus | None = None
        self._seen_dead: float | None = None

    def _collect(self) -> ExitStatus | None:
        while True:
            try:
                data = os.read(self._announcer.fileno(), RECORD_SIZE)
            except BlockingIOError:
                return None
            if not data:
                return self._after_the_keeper()
            record = Record.unpack(data)
            if record.kind == Kind.ENDED:
                return record.status()
            if record.kind == Kind.CHANGED:
                self._changed = record.status()

    def _after_the_keeper(self) -> ExitStatus | None:
        """The keeper has died: it may live on, or be somebody else's child, perhaps ours."""
        pidfd = self._pidfd.fileno()
        with contextlib.suppress(ChildProcessError):  # it is ours, if this process is a subreaper
            return _reaped(pidfd)
        if not is_dead(pidfd):
            return None
        status = remembered(pidfd)
        if status is None:
            now = time.monotonic()
            self._seen_dead = self._seen_dead or now
            if now - self._seen_dead > _ADOPTION:
                return ExitStatus.unknown("its keeper died, and who adopted it does not reap it")
        return status

    def _change(self) -> ExitStatus | None:
        changed, self._changed = self._changed, None
        return changed

    def abandon(self) -> None:
        """The keeper reaps it all the same."""
        self._pidfd.close()
        self._announcer.close()

    def signal_tree(self, number: int) -> None:
        """Send a signal to it and to everything below it."""
        self.check_owner()
        with self._lock:
            if number == signal.SIGKILL:
                self._tree.kill()
            else:
                self._tree.signal(number)

    def members(self) -> list[int]:
        """Who of them lives."""
        self.check_owner()
        with self._lock:
            return self._tree.members()

    def begun(self, call: Errand, launch: Launch) -> Steps[None]:
        """Wait until a function has what it needs. Raises what `launch.raise_failed` does, and KeeperDied."""
        if not (yield from call.begun(self._announcer.fileno(), launch)):
            raise KeeperDied("the keeper died while it started a child", subject=call.name)


class Keeping:
    """This process's keeper, and those before it. Thread-safe."""

    def __init__(self, containment: Containment) -> None:
        self._containment: Containment = containment
        self._turn = Turnstile("the keeper", lambda: None)
        self._line: KeeperLine | None = None
        self._former: list[KeeperLine] = []
        self._modules: list[str] = []
        self._umask = 0

    def run(self, steps: Steps[T]) -> T:
        """Drive requests in the calling thread."""
        return run(steps, self._turn, NEVER, "the keeper")

    async def arun(self, steps: Steps[T]) -> T:
        """Drive requests in the current task."""
        return await arun(steps, self._turn, NEVER, "the keeper")

    def start_program(self, launch: Launch) -> Steps[Kept]:
        """Start a program. Raises what `launch.start` does, and KeeperDied."""
        line = yield from self._ready()
        launch = self._completed(launch, line)
        sent, descriptors = _leaving(launch)
        reply, received = yield from self._ask(lambda n: StartProgram(n, sent), descriptors)
        return self._child(launch, reply, received)

    def start_function(self, launch: Launch, call: Errand) -> Steps[Kept]:
        """Start a function. The same."""
        line = yield from self._ready()
        launch = self._completed(launch, line)
        request, descriptors = call.request(launch, sys.argv)
        _check_number(descriptors)
        reply, received = yield from self._ask(request, descriptors)
        child = self._child(launch, reply, received)
        try:
            yield from child.begun(call, launch)
        except BaseException:
            child.signal_tree(signal.SIGKILL)
            child.abandon()
            raise
        return child

    def preload(self, modules: Sequence[str]) -> Steps[None]:
        """Import modules in the keeper, and in every later one. Raises InvalidValue when one can't be imported."""
        yield from self._ready()
        yield from self._import(modules)
        self._modules += [name for name in modules if name not in self._modules]

    def _import(self, modules: Sequence[str]) -> Steps[None]:
        reply, _ = yield from self._ask(lambda n: Preload(n, list(modules), import_path()))
        if isinstance(reply, Refused):
            raise InvalidValue(
                "a module can't be preloaded", why=reply.why, remedy="see that it can be imported"
            )

    def _completed(self, launch: Launch, line: KeeperLine) -> Launch:
        own_group = self._containment == "keeper"
        return inheritance.completed(launch, self._umask, line.limits, own_group=own_group)

    def _child(self, launch: Launch, reply: Reply, received: list[int]) -> Kept:
        match reply:
            case Started():
                pidfd, pipe = received
                return Kept(reply, pidfd, pipe, launch, self._containment)
            case Failed():
                raise_failed(launch, reply.step, reply.code, reply.item)
            case Unable():
                raise Unsupported(
                    f"containment={self._containment!r} can't be had here",
                    why=reply.why,
                    remedy='use containment="keeper", or ask the administrator for user namespaces',
                )
            case Refused():
                raise from_os_error(
                    OSError(reply.code, reply.why), "the keeper can't start a child"
                )
        raise TypeError(reply)

    # ── the keeper itself ────────────────────────────────────────────────────────────────────

    def _ready(self) -> Steps[KeeperLine]:
        """A keeper that stands where this process stands now."""
        standing, self._umask = inheritance.look()
        if self._line is not None and self._line.standing != standing:
            self._former.append(self._line)
            self._line = None
        return (yield from self._present())

    def _present(self) -> Steps[KeeperLine]:
        if self._line is None:
            self._line = KeeperLine(self._containment)
            for name in tuple(self._modules):
                try:
                    yield from self._import([name])
                except InvalidValue as error:
                    self._modules.remove(name)
                    warnings.warn(f"in the keeper that follows, {error}", stacklevel=2)
        return self._line

    def _ask(
        self, request: Callable[[int], Request], descriptors: Sequence[int] = ()
    ) -> Steps[tuple[Reply, list[int]]]:
        """Ask the keeper; once more, when it had died before it read that."""
        line = yield from self._present()
        try:
            try:
                return (yield from line.exchange(request, descriptors))
            except NotRead:
                self._lose(line)
                line = yield from self._present()
                return (yield from line.exchange(request, descriptors))
        except NotRead:
            error = KeeperDied("the keeper does not run", why=line.ending())
            self._lose(line)
            raise error from None
        except KeeperDied:
            self._lose(line)
            raise
        except OSError as error:
            raise from_os_error(error, "the keeper can't be asked") from error

    def _lose(self, line: KeeperLine) -> None:
        line.discard()
        if self._line is line:
            self._line = None

    @property
    def keeper_pid(self) -> int | None:
        """Of the keeper that is in use; None before the first request."""
        line = self._line
        return None if line is None else line.pid

    def end(self, grace: float = GRACE) -> None:
        """End every keeper of this process, and everything below: SIGTERM, then SIGKILL after ``grace`` seconds."""
        self._modules.clear()
        for line in self._take_lines():
            line.goodbye(grace)

    def forget(self) -> None:
        """In a forked child: give back what it has of its parent's."""
        for line in self._take_lines():
            line.forget()

    def _take_lines(self) -> list[KeeperLine]:
        lines = [*self._former, *([self._line] if self._line else [])]
        self._former, self._line = [], None
        return lines


def _reaped(pidfd: int) -> ExitStatus | None:
    """Reap a child of this very process, if it has ended. Raises ChildProcessError for another's."""
    end = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    if end is None:
        return None
    if end.si_code == os.CLD_EXITED:
        return ExitStatus.from_wait(end.si_status << 8)
    return ExitStatus.from_wait(end.si_status | (0x80 if end.si_code == os.CLD_DUMPED else 0))


def _leaving(launch: Launch) -> tuple[Launch, list[int]]:
    """The launch as it travels, and the descriptors beside it."""
    places = [(place, there) for place, (_, there) in enumerate(launch.descriptors)]
    descriptors = [here for here, _ in launch.descriptors]
    _check_number(descriptors)
    return msgspec.structs.replace(launch, descriptors=places), descriptors


def _check_number(descriptors: list[int]) -> None:
    if len(descriptors) >= MOST_DESCRIPTORS:  # one is kept for a large request
        raise InvalidValue(
            f"{len(descriptors)} descriptors can't go to one child",
            why=f"the kernel lets {MOST_DESCRIPTORS} ride on one message",
            remedy='pass fewer, or use containment="direct"',
        )


_KINDS: tuple[Containment, ...] = ("keeper", "kernel")
_keepings = {kind: Keeping(kind) for kind in _KINDS}


def keeping(containment: Containment = "keeper") -> Keeping:
    """This process's."""
    return _keepings[containment]


def _after_fork_in_child() -> None:
    for kind, former in list(_keepings.items()):
        _keepings[kind] = Keeping(kind)
        former.forget()


def _at_exit() -> None:
    for each in _keepings.values():
        each.end()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
