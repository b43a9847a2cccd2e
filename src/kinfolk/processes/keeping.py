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

import contextlib
import functools
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from kinfolk import _native, exit_hooks
from kinfolk.ancillary import MOST_DESCRIPTORS
from kinfolk.deadlines import NEVER
from kinfolk.descriptors import Descriptor
from kinfolk.errors import (
    InvalidValue,
    KeeperDied,
    KinfolkError,
    Unsupported,
    from_os_error,
    is_bare,
)
from kinfolk.identity import Identity, is_dead
from kinfolk.interest import Steps
from kinfolk.processes import inheritance, mark
from kinfolk.processes.custody import Containment, Custody
from kinfolk.processes.descendants import Descendants
from kinfolk.processes.errand import Errand
from kinfolk.processes.exit_status import ExitStatus
from kinfolk.processes.handover import Handover
from kinfolk.processes.interpreter import check_names, import_path
from kinfolk.processes.keeper_line import KeeperLine, NotRead
from kinfolk.processes.keeper_messages import (
    RECORD_SIZE,
    Done,
    Failed,
    Kind,
    Preload,
    Record,
    Refused,
    Reply,
    Request,
    SetLimit,
    Started,
    StartProgram,
    Unable,
)
from kinfolk.processes.launch import Launch, environment, raise_failed
from kinfolk.processes.lost_status import Orphaned
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import arun, run

T = TypeVar("T")

#: Seconds between SIGTERM and SIGKILL at the exit of the interpreter.
GRACE = 1.0


class Kept(Custody):
    """A child of the keeper."""

    def __init__(
        self,
        started: Started,
        pidfd: int,
        pipe: int,
        launch: Launch,
        containment: Containment,
        keeper: int,
    ) -> None:
        """Take over its pidfd and its status pipe."""
        self.containment = containment
        super().__init__(
            Identity(started.pid, 0),
            Descriptor(pidfd, f"the pidfd of {started.pid}"),
            Descriptor(pipe, f"the status pipe of {started.pid}"),
        )
        self._mark, self._keeper = mark.of(launch), keeper
        self._tree: Descendants | None = None
        self._changed: ExitStatus | None = None
        self._orphaned: Orphaned | None = None

    def _collect(self) -> ExitStatus | None:
        while True:
            data = _native.try_read(self._announcer.fileno(), RECORD_SIZE)
            if data is None:
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
        self._orphaned = self._orphaned or Orphaned()
        return self._orphaned.status(pidfd)

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
                self._below().kill()
            else:
                self._below().signal(number)

    def members(self) -> list[int]:
        """Who of them lives."""
        self.check_owner()
        with self._lock:
            return self._below().members()

    def _below(self) -> Descendants:
        if self._tree is None:
            self._tree = Descendants(self.identity, orphans=self._orphans)
        return self._tree

    def _orphans(self) -> Sequence[Identity]:
        """Who stems from it and was adopted."""
        if self._mark is None:
            return ()
        # With "kernel" the process that is known here is the porter, and the keeper its child.
        return mark.orphans(self._mark, self._keeper, inside=self.containment == "kernel")

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

    def run(self, steps: Steps[T]) -> T:
        """Drive requests in the calling thread."""
        return run(steps, self._turn, NEVER, "the keeper")

    async def arun(self, steps: Steps[T]) -> T:
        """Drive requests in the current task."""
        return await arun(steps, self._turn, NEVER, "the keeper")

    def start_program(self, launch: Launch, handover: Handover) -> Steps[Kept]:
        """Start a program. Raises what `launch.start` does, and KeeperDied."""
        launch = yield from self._completed(launch)
        try:
            block, descriptors = _native.pack_launch(launch)
        except OSError as error:
            raise_failed(launch, "executables", error.errno or 0, 0)
        if len(descriptors) >= MOST_DESCRIPTORS:
            raise _too_many(descriptors)
        start = functools.partial(StartProgram, block=block)
        return (yield from self._started(launch, start, descriptors, handover))

    def start_function(self, launch: Launch, call: Errand, handover: Handover) -> Steps[Kept]:
        """Start a function. The same. What can't begin is left to who gives up the ``handover``."""
        launch = yield from self._completed(launch)
        if launch.env is None:
            launch = msgspec.structs.replace(launch, env=environment())
        request, descriptors = call.request(launch)
        if len(descriptors) >= MOST_DESCRIPTORS:
            raise _too_many(descriptors)
        child = yield from self._started(launch, request, descriptors, handover)
        yield from child.begun(call, launch)
        return child

    def preload(self, modules: Sequence[str]) -> Steps[None]:
        """Import modules in the keeper, and in every later one. Raises InvalidValue when one can't be imported."""
        check_names(modules)
        yield from self._renewed(inheritance.look())
        yield from self._import(modules)
        self._modules += [name for name in modules if name not in self._modules]

    def _import(self, modules: Sequence[str]) -> Steps[None]:
        reply, _ = yield from self._ask(lambda n: Preload(n, list(modules), import_path()))
        if isinstance(reply, Refused):
            raise InvalidValue(
                "a module can't be preloaded", why=reply.why, remedy="see that it can be imported"
            )

    def _completed(self, launch: Launch) -> Steps[Launch]:
        """The launch with what the keeper can't know, which is there then, and stands where this process stands."""
        around = inheritance.look()
        line = self._line
        if line is None or line.standing != around.standing:
            line = yield from self._renewed(around)
        if line.compared != around.limits:
            yield from self._follow(line, around.limits)
        own_group = self._containment == "keeper"
        return inheritance.completed(launch, around, line.limits, own_group=own_group)

    def _follow(self, line: KeeperLine, now: bytes) -> Steps[None]:
        """Have the keeper follow its owner in the limits that hold for what it does itself."""
        for limit in inheritance.followed(now, line.limits):
            reply, _ = yield from self._ask(functools.partial(_limit, *limit))
            if isinstance(reply, Done):
                line.limits = inheritance.with_limit(line.limits, *limit)
        line.compared = now

    def _started(
        self,
        launch: Launch,
        request: Callable[[int], Request],
        descriptors: Sequence[int],
        handover: Handover,
    ) -> Steps[Kept]:
        """The child that was asked for. Whoever is interrupted before it is in the ``handover`` leaves none."""
        reply: Reply | None = None
        try:
            reply, received = yield from self._ask(request, descriptors)
            child = self._child(launch, reply, received)
            handover.custody, child.unheard = child, True
            return child
        except BaseException as error:
            expected = isinstance(error, KinfolkError | OSError) and not isinstance(reply, Started)
            if not expected and self._line is not None:
                self._line.abandon()
            raise

    def _child(self, launch: Launch, reply: Reply, received: list[int]) -> Kept:
        match reply:
            case Started():
                pidfd, pipe = received
                keeper = self.keeper_pid or 0
                return Kept(reply, pidfd, pipe, launch, self._containment, keeper)
            case Failed():
                raise_failed(launch, reply.step, reply.code, reply.item)
            case Unable():
                raise Unsupported(
                    f"containment={self._containment!r} can't be had here",
                    why=reply.why,
                    remedy='use containment="keeper", or ask the administrator for user namespaces',
                )
            case Refused():
                why = OSError(reply.code, reply.why) if reply.code else OSError(reply.why)
                raise from_os_error(why, "the keeper can't start a child")
        raise TypeError(reply)

    # ── the keeper itself ────────────────────────────────────────────────────────────────────

    def _renewed(self, around: inheritance.Surroundings) -> Steps[KeeperLine]:
        """A keeper that stands where this process stands."""
        if self._line is not None and self._line.standing != around.standing:
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
        line = self._line or (yield from self._present())
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
            if not is_bare(error):
                raise
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


def _limit(resource: int, soft: int, hard: int, number: int) -> SetLimit:
    return SetLimit(number, resource, soft, hard)


def _too_many(descriptors: list[int]) -> InvalidValue:
    return InvalidValue(
        f"{len(descriptors)} descriptors can't go to one child",
        why=f"the kernel lets {MOST_DESCRIPTORS} ride on one message, and one is kept for a large request",
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
exit_hooks.register(_at_exit)
