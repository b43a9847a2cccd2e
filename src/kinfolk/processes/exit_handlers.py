"""Exit handlers: functions that run when this process ends by itself, as atexit(3) and on_exit(3) have them.

    kin.at_exit(f) ──┐                      ┌── the main thread returns, sys.exit, an uncaught exception ──> Python's atexit ──┐
    kin.on_exit(f) ──┴─> one list, no limit ┼── kin.exit in the main thread: a SystemExit, so finally and with run ────────────┼─> the list,
                                            └── kin.exit in another thread, or at the end of a fork's block ── `finish` ───────┘   last in first out

Rules:
1. Each handler runs once, last in, first out; what a handler registers runs next.
2. One that raises is shown on standard error, and does not stop the others.
3. The list is one entry of Python's atexit, made with the first handler: what was registered there later runs before it, what
   was registered earlier runs after it.
4. A forked child inherits the list (fork(2) copies memory), but for handlers registered with ``inherited=False``.
5. None runs when the process is killed, is ended by a signal that is not handled, calls `exit_now` or os._exit, or executes
   another program. Children of multiprocessing end by os._exit too (before 3.14).
6. Who begins to run them ends the process. Another thread that calls `exit` meanwhile just ends.

A signal is handled when a Python handler raises: SIGINT's own raises KeyboardInterrupt; for others say, for instance,
``signal.signal(signal.SIGTERM, lambda number, frame: kin.exit(128 + number))``.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeVar

from kinfolk.errors import InvalidValue, UsageError
from kinfolk.processes import main_outcome, standard_streams
from kinfolk.processes.exit_status import ExitStatus

A = TypeVar("A")
OnExit = TypeVar("OnExit", bound=Callable[[ExitStatus, Any], object])
AtExit = TypeVar("AtExit", bound=Callable[[], object])


class _Handler(NamedTuple):
    function: Callable[..., object]
    #: (arg,) of on_exit, () of at_exit
    args: tuple[object, ...]
    inherited: bool

    def run(self, status: ExitStatus) -> None:
        if self.args:
            self.function(status, *self.args)
        else:
            self.function()


class _List:
    """The handlers of this process."""

    def __init__(self, handlers: list[_Handler], runner: int | None) -> None:
        self.handlers = handlers
        self.hooked = False  # into Python's atexit, by this process
        self.over = False  # all have run
        self.runner = runner  # the thread that runs them
        self.lock = threading.RLock()  # for a moment; a signal handler may register, too
        self.ending = threading.Lock()  # taken by the runner, for good
        if runner is not None:
            self.ending.acquire()

    def add(self, handler: _Handler) -> None:
        if not callable(handler.function):
            raise InvalidValue(
                f"{handler.function!r} can't be called",
                remedy="give a function",
            )
        main_outcome.watch()
        with self.lock:
            if self.over:
                raise UsageError(
                    "too late for an exit handler",
                    why="all of them have run",
                    remedy="register it earlier, or from another exit handler",
                )
            if not self.hooked:
                atexit.register(
                    _run
                )  # in a child again: whoever clears atexit there took the parent's
                self.hooked = True
            self.handlers.append(handler)

    def take(self) -> _Handler | None:
        with self.lock:
            if self.handlers:
                return self.handlers.pop()
            self.over = True
            return None


_list = _List([], None)

#: decided by `finish`; else it is the main thread's
_status: ExitStatus | None = None


def on_exit(function: OnExit, arg: object, *, inherited: bool = True) -> OnExit:
    """Have ``function(status, arg)`` called when this process ends by itself; returns ``function``.

    As on_exit(3). ``status`` is an `ExitStatus`: what the process ends with, exited n or killed by SIGINT; unknown when it is ended by a
    SystemExit that `exit` has not raised. A forked child calls it at its own end, too, unless ``inherited`` is false. The
    same function may be registered several times. Thread-safe.

    Raises InvalidValue, and UsageError when the handlers have run.
    """
    _list.add(_Handler(function, (arg,), inherited))
    return function


def at_exit(function: AtExit, *, inherited: bool = True) -> AtExit:
    """Have ``function()`` called when this process ends by itself; returns ``function``.

    As atexit(3). The list, the order and the errors are those of `on_exit`; there is no limit of 32.
    """
    _list.add(_Handler(function, (), inherited))
    return function


def forget_exit_handler(function: Callable[..., object]) -> int:
    """Take back every registration of ``function``; how many there were. Thread-safe."""
    with _list.lock:
        before = len(_list.handlers)
        _list.handlers[:] = [each for each in _list.handlers if each.function != function]
        return before - len(_list.handlers)


def exit(status: int | ExitStatus = 0) -> NoReturn:  # noqa: A001 - the name of exit(3)
    """End this process with ``status``, after its exit handlers; standard streams are flushed.

    As exit(3). A number is 0 to 255; an `ExitStatus` counts as a shell shows it (128 + signal, 125 when unknown), so that
    ``kin.exit(process.wait())`` passes on what became of a child.

    In the main thread it raises a SystemExit, as sys.exit does: ``finally`` and ``with`` run, threads that are not
    daemons are waited for. In another thread, and in a child forked by one, it ends the process at once, as in C:
    the other threads are cut off where they stand.

    Raises InvalidValue, and UsageError in an exit handler.
    """
    code = _code_of(status)
    if _list.runner == threading.get_ident():
        raise UsageError(
            "an exit handler can't exit",
            why="the process is ending already, with a status of its own",
            remedy="return, or call kin.exit_now, which skips the other handlers",
        )
    if main_outcome.in_main_thread():
        raise main_outcome.Leaving(code)
    finish(ExitStatus("exited", code=code))


def exit_now(status: int | ExitStatus = 0) -> NoReturn:
    """End this process at once: no exit handler runs, nothing is flushed, no ``finally`` runs. _exit(2).

    ``status`` is as in `exit`. Raises InvalidValue.
    """
    os._exit(_code_of(status))


def finish(status: ExitStatus) -> NoReturn:
    """End this process from where it stands, in any thread: exit handlers, Python's atexit, standard streams, the end.

    When another thread is doing so already, it only ends the calling thread. With the status of a signal, the process
    dies of it.
    """
    global _status  # noqa: PLW0603
    # The main one must not unwind: it waits for the end.
    if not _list.ending.acquire(threading.current_thread() is threading.main_thread()):
        raise SystemExit
    try:
        _status = status
        _list.runner = threading.get_ident()
        atexit._run_exitfuncs()
        _run()  # where somebody has cleared atexit, as multiprocessing does
        with contextlib.suppress(OSError, ValueError):
            standard_streams.flush()
        if status.signal is not None:
            _die_of(status.signal)
    finally:
        os._exit(status.shell_code)


def drop_inherited() -> None:
    """Forget all handlers; for a forked child that is to have none."""
    with _list.lock:
        _list.handlers.clear()


def _run() -> None:
    """Run what is in the list; called by Python's atexit, or by `finish`."""
    if _list.runner != threading.get_ident():
        _list.ending.acquire()  # never given back: who has it ends the process
        _list.runner = threading.get_ident()
    status = main_outcome.status() if _status is None else _status
    while (
        handler := _list.take()
    ) is not None:  # in a child that a handler forks it is another list
        try:
            handler.run(status)
        except BaseException:
            _show(handler.function)


def _show(function: Callable[..., object]) -> None:
    """What a handler raised, on standard error, if there is one."""
    with contextlib.suppress(Exception):
        if sys.stderr is not None:
            sys.stderr.write(f"Exception ignored in exit handler {function!r}:\n")
            traceback.print_exc(file=sys.stderr)


def _die_of(number: int) -> None:
    """Take the default action of a signal; in a thread that may not set it, the code has to do."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
        os.kill(os.getpid(), number)


def _code_of(status: int | ExitStatus) -> int:
    if isinstance(status, ExitStatus) and status.ended:
        return status.shell_code
    if isinstance(status, int) and 0 <= status <= 255:
        return int(status)
    raise InvalidValue(
        f"{status!s} is no exit status",
        why="the kernel keeps eight bits of it: 256 would read as success",
        remedy="give 0 to 255, or the ExitStatus of a process that has ended",
    )


def _after_fork_in_child() -> None:
    global _list, _status  # noqa: PLW0603
    kept = [each for each in _list.handlers if each.inherited]
    # Forked by a handler: the child goes on with those that are left, as in C.
    forked_by_handler = _list.runner == threading.get_ident()
    _list = _List(kept, _list.runner if forked_by_handler else None)
    if not forked_by_handler:
        _status = None


os.register_at_fork(after_in_child=_after_fork_in_child)
