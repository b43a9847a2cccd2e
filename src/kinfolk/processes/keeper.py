"""The program of the keeper: the small process that is parent, zygote and reaper of everything that its owner starts.

                     requests, replies                                 vfork, execve ──> a program
    owner <═══════════════════════════════════> keeper ──────────────┤
      ^  ^    a socket pair                       │ ^  ^               └ fork ──────────> a function
      │  └──────── its pidfd: is it dead? ────────┘ │  └── SIGCHLD, wait4 ── children, and orphans from below them
      │                                             │
      └─── status pipe of each child <── records ───┘

Theory of operation. The owner starts the keeper like any program, so it is small whatever the owner's size, and has one thread, whatever the
owner has. It sleeps in poll(2) over four descriptors: the line to the owner, the owner's pidfd, a signalfd for SIGCHLD, and the anchor's pidfd. A
request is answered before the next one is read. That loop, the start of programs and all reaping are in C (native/keeper_loop.c), for somebody
waits for each of their steps; what is left to Python is functions, modules, and the end. It is a *subreaper* (prctl(2)): an orphan below it gets it as its new parent,
so nothing below can leave by forking twice, and whatever ends there is reaped here.

Rules:
1. When the owner is dead, by its pidfd, everything below is killed, round after round until there is no child left; then the keeper ends. No
   matter how the owner died, and which of its threads started the keeper.
2. A child's status goes into that child's own pipe, once; then the pipe is closed. An orphan's is thrown away.
3. Programs and functions are killed by the kernel when the keeper dies (PR_SET_PDEATHSIG; the keeper has one thread, and starts them in it). What escapes
   then: what *they* had started, set-user-ID programs, and who has taken the signal back.
4. It leads a process group of its own in its owner's session: what a terminal or a shell sends to the owner's group does not
   reach it, and its children, which it puts into the owner's group, get it as they should. While there are any, one of its own making stands there
   too, the anchor: else the end of the last one could hang up the group (native/anchor.c). It is no child in any other sense, and ends last.
5. It decides nothing by itself: environment, directory, umask, streams, limits of a child come with each request.
6. Nothing is imported after the start but what `Preload` asks for, and cloudpickle with the first function. While a module is
   being imported, the owner's death is not seen.
7. A request that fails is Refused, whatever went wrong: it is no reason to end those that run.

    killed at …            then
    before it is a reaper  it has no children
    between vfork and      the child is killed by the kernel; the owner sees the end of the line
      the reply
    any later moment       the same; every status pipe ends without a record
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import resource
import select
import signal
import socket
import sys
import traceback
from typing import NoReturn

import msgspec

from kinfolk import _native
from kinfolk.ancillary import close_all
from kinfolk.deadlines import Deadline
from kinfolk.processes import felling, function_child, kernel_actions, standard_streams
from kinfolk.processes.keeper_messages import (
    DEAF_TO,
    LINE,
    OWNER,
    Abandon,
    Done,
    Failed,
    Goodbye,
    Preload,
    Refused,
    Reply,
    Request,
    SetLimit,
    StartFunction,
    StartProgram,
    decode_request,
    number_of,
    send,
)
from kinfolk.processes.launch import Launch, environment

#: Milliseconds until another look for what is below, where no SIGCHLD tells of it; doubled up to the second number.
_LOOK, _LOOK_MOST = 50, 800


class Keeper:
    """The state of this process."""

    #: whether the owner is outside of this pid namespace, and is told pids by the kernel
    _vouches = False

    def __init__(self, line: socket.socket, owner: int) -> None:
        """Take over the line and the owner's pidfd; become what orphans below get as their parent."""
        if not os.path.exists("/proc/thread-self/children"):
            raise RuntimeError(
                "/proc does not tell the children of a process (CONFIG_PROC_CHILDREN)"
            )
        self._line, self._owner = line, owner
        self._pid = os.getpid()
        self._self = os.pidfd_open(self._pid)
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
        self._ended = _native.open_signalfd((signal.SIGCHLD,))
        self._loop = _native.KeeperLoop(
            line.fileno(), owner, self._ended, signal.SIGKILL, self._vouches
        )
        self._adopt_orphans()
        self._usual = {number: kernel_actions.action(number) for number in map(int, DEAF_TO)}
        self._settle()

    def _settle(self) -> None:
        """Be ready for forks, whatever was imported: what a child would have to put right, or to copy, is seen to here."""
        for number in DEAF_TO:
            kernel_actions.to_ignored(number)
        # A module may have ignored SIGCHLD, or let it through: then no child's end is seen any more.
        kernel_actions.to_default(signal.SIGCHLD)
        signal.pthread_sigmask(signal.SIG_SETMASK, (signal.SIGCHLD,))
        self._loop.reap()  # who has ended, for what was pending is lost with that (sigaction(2))
        self._loop.forget_lost()
        self._actions = function_child.altered_signals()
        self._environment = environment()
        standard_streams.flush()  # else each child would write it out again
        gc.collect()
        gc.freeze()

    def _adopt_orphans(self) -> None:
        _native.set_child_subreaper(True)

    # ── the loop ─────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Serve until the owner has gone or says goodbye; then nothing is left below."""
        while (received := self._loop.next_request()) is not None:
            request, descriptors = self._decoded(*received)
            if request is None:
                continue
            self._serve(request, descriptors)
            if isinstance(request, Goodbye):
                break
        self.end_all()

    def _decoded(
        self, packet: bytes, descriptors: list[int], truncated: bool
    ) -> tuple[Request | None, list[int]]:
        """The request and its descriptors; None when it was refused. Raises for what has not even a number."""
        try:
            if truncated:
                close_all(descriptors)
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return decode_request(packet, descriptors)
        except Exception as error:
            self._refuse(number_of(packet), error)
            return None, []

    def _serve(self, request: Request, descriptors: list[int]) -> None:
        try:
            match request:
                case StartProgram():
                    self._loop.start_program(request.number, request.block, descriptors)
                case StartFunction():
                    self._start_function(request, descriptors)
                case Preload():
                    self._preload(request)
                case Abandon():
                    self._abandon(request.number)
                case SetLimit():
                    resource.setrlimit(request.resource, (request.soft, request.hard))
                    self._reply(Done(request.number))
                case Goodbye():
                    self._ask_to_end(request.grace)
        except Exception as error:
            if not isinstance(request, Abandon | Goodbye):
                self._refuse(request.number, error)
        finally:
            close_all(descriptors)

    def _reply(self, reply: Reply, *descriptors: int) -> None:
        with contextlib.suppress(ConnectionError):  # the owner has gone, or has no line any more
            send(self._line, reply, descriptors)

    def _refuse(self, number: int, error: BaseException, about: str = "") -> None:
        if isinstance(error, OSError) and error.errno and not about:
            self._reply(Refused(number, error.strerror or str(error), error.errno))
            return
        why = about + "".join(traceback.format_exception_only(error)).strip()
        self._reply(Refused(number, why.encode(errors="backslashreplace").decode()))

    # ── starting ─────────────────────────────────────────────────────────────────────────────

    def _start_function(self, request: StartFunction, descriptors: list[int]) -> None:
        if "cloudpickle" not in sys.modules:
            import cloudpickle  # noqa: F401 - what it has pickled needs it; here, once for all children

            self._settle()
        launch = _here(request.launch, descriptors)
        if launch.env == self._environment:  # it is looked at here, and not on cold pages there
            launch = msgspec.structs.replace(launch, env=None)
        reader, report = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            try:
                pid = self._fork(launch.process_group or 0)
            except OSError as error:
                os.close(report)
                self._reply(Failed(request.number, "vfork", error.errno or errno.EAGAIN, 0))
                return
            if pid == 0:
                try:
                    os.close(reader)
                    self._forget_in_child()
                    function_child.live(
                        request, launch, descriptors, report, self._pid, self._actions
                    )
                finally:
                    os._exit(1)
            self._loop.hand_over(request.number, pid, reader, report)
        finally:
            os.close(reader)

    def _fork(self, process_group: int) -> int:
        self._loop.expect(process_group)
        try:
            return os.fork()
        except OSError:
            if (
                not self._loop.end_anchor()
            ):  # which may have taken the last process that this user may have
                raise
            return os.fork()

    def _forget_in_child(self) -> None:
        """Close what is the keeper's alone, and hear what it is deaf to."""
        for fd in (self._line.detach(), self._owner, self._ended, self._self):
            os.close(fd)
        self._loop.close_own()
        kernel_actions.put_all_back(self._usual)

    def _preload(self, request: Preload) -> None:
        sys.path[:] = map(os.fsdecode, request.path)
        for name in request.modules:
            try:
                importlib.import_module(name)
            except BaseException as error:
                self._settle()
                self._refuse(request.number, error, f"{name}: ")
                return
        self._settle()
        self._reply(Done(request.number))

    def _abandon(self, number: int) -> None:
        if pid := self._loop.child_of(number):  # not reaped yet, so the pid is its own
            try:
                pidfd = os.pidfd_open(pid)
                try:
                    felling.kill_below(pid, pidfd)
                finally:
                    os.close(pidfd)
            finally:  # also where no descriptor is left to look around with
                os.kill(pid, signal.SIGKILL)

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def _ask_to_end(self, grace: float) -> None:
        """SIGTERM to everything below, and time for it; less when the owner dies."""
        if not self._loop.reap():
            return
        felling.signal_below(self._pid, self._self, signal.SIGTERM)
        felling.signal_below(self._pid, self._self, signal.SIGCONT)
        deadline = Deadline(grace)
        poll = select.poll()
        poll.register(self._owner, select.POLLIN)
        poll.register(self._ended, select.POLLIN)
        while self._loop.reap() and not deadline.passed():
            if any(fd == self._owner for fd, _ in poll.poll(deadline.milliseconds())):
                return

    def end_all(self) -> None:
        """Kill and reap until there is no child.

        What is killed hands its own children on to this process, so each round finds what the one before left. Who may not
        be killed (a set-user-ID program), or takes long to die, is waited for.
        """
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        pause = _LOOK
        while self._loop.reap():
            try:
                felling.kill_below(self._pid, self._self, spared=self._loop.anchor())
            except OSError:  # no descriptor is left to look around with
                self._loop.close_own()
            if self._loop.reap():
                pause = _LOOK if poll.poll(pause) else min(2 * pause, _LOOK_MOST)
        self._loop.end_anchor()


def _here(launch: Launch, descriptors: list[int]) -> Launch:
    """The launch with the numbers of this process, and bound to its life."""
    return msgspec.structs.replace(
        launch,
        descriptors=[(descriptors[place], there) for place, there in launch.descriptors],
        death_signal=signal.SIGKILL,
    )


def main(kind: type[Keeper] = Keeper) -> NoReturn:
    """Be the keeper of the process that has started this one."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="utf-8") as name:
        name.write("kin-keeper")
    code = 70  # EX_SOFTWARE of sysexits.h
    keeper = None
    try:
        keeper = kind(socket.socket(fileno=LINE), OWNER)
        keeper.run()
        code = 0
    except BaseException:
        traceback.print_exc()  # for the owner
        sys.stderr.flush()
        if keeper is not None:
            keeper.end_all()
    finally:
        os._exit(code)
