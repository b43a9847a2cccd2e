"""Handlers: who sent it, coalescing, everything put back; children that nobody hears of."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kinfolk as kin
from kinfolk import _native
from tests.conformance.peers import Peers, Voice, thread_of

pytestmark = pytest.mark.usefixtures("threads_at_rest")

CATCHABLE = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_DEFAULT, _IGNORED, _HANDLED = range(3)
SA_SIGINFO, SA_NOCLDWAIT, SA_RESTART = 4, 2, 0x10000000
SA_RESTORER = 0x04000000  # the C library's own

nothing = lambda arrived: None  # noqa: E731


def state(number: int) -> tuple[object, int, int, bytes]:
    """What Python and the kernel do with it: function, kind and flags, and the handler and its mask."""
    kind, flags, action = _native.signal_action(number)
    return signal.getsignal(number), kind, flags & ~SA_RESTORER, action[:16]


@contextlib.contextmanager
def untouched(number: int) -> Iterator[None]:
    before = state(number)
    yield
    assert state(number) == before


@pytest.mark.parametrize("number", CATCHABLE)
def test_every_signal_is_handled_and_put_back(number: int) -> None:
    came: list[kin.signals.Arrived] = []
    with untouched(number):
        with kin.signals.handle(number, came.append):
            kin.signals.send(os.getpid(), number, 11)
            assert len(came) == 1
        assert came[0] == kin.signals.Arrived(number, os.getpid(), os.getuid(), 11, -1)


@pytest.mark.parametrize("number", CATCHABLE)
def test_ignored_and_default_are_put_back(number: int) -> None:
    for block, kind in ((kin.signals.ignore, _IGNORED), (kin.signals.default, _DEFAULT)):
        with untouched(number), block(number):
            assert _native.signal_action(number)[0] == kind


def test_ignored_has_no_effect() -> None:
    with kin.signals.ignore(["TERM", "USR1"]):
        kin.signals.send(os.getpid(), "TERM")
        kin.signals.send(os.getpid(), "USR1")


def test_default_is_the_kernels(peers: Peers) -> None:
    def child(voice: Voice) -> None:
        with kin.signals.handle("USR1", nothing), kin.signals.default("USR1"):
            kin.signals.send(os.getpid(), "USR1")

    peer = peers.fork(child)
    peer.ended()
    assert peer.wait() == -signal.SIGUSR1


def test_who_sent_it(peers: Peers) -> None:
    came: list[kin.signals.Arrived] = []
    with kin.signals.handle("USR1", came.append):
        parent = os.getpid()
        for send in (
            lambda voice: os.kill(parent, signal.SIGUSR1),
            lambda voice: kin.signals.send(parent, "USR1", -5),
        ):
            peer = peers.fork(send)
            peer.result()
            assert came[-1].pid == peer.pid
            assert came[-1].uid == os.getuid()
        assert [arrived.value for arrived in came] == [None, -5]
        assert [arrived.origin for arrived in came] == ["kill", "sigqueue"]
        signal.raise_signal(signal.SIGUSR1)
        assert came[-1].origin == "tgkill"
        assert came[-1].pid == parent


def test_the_child_of_a_sigchld(peers: Peers) -> None:
    came: list[kin.signals.Arrived] = []
    with kin.signals.handle("CHLD", came.append):
        peer = peers.fork(lambda voice: None)
        peer.ended()
        peer.result()
        assert (came[-1].pid, came[-1].origin) == (peer.pid, "child")


def test_the_kernels_own_have_no_sender() -> None:
    came: list[kin.signals.Arrived] = []
    with kin.signals.handle("VTALRM", came.append):
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0001)
        while not came:
            pass
    assert (came[0].pid, came[0].uid, came[0].value) == (None, None, None)
    assert came[0].origin == "kernel"


def test_calls_coalesce() -> None:
    """Real-time signals too: so say the docstrings. What counts them is `stream`."""
    came: list[kin.signals.Arrived] = []
    with kin.signals.handle(["USR1", "RTMIN+2"], came.append):
        with kin.signals.blocked(["USR1", "RTMIN+2"]):
            for number in range(1000):
                kin.signals.send(os.getpid(), "RTMIN+2", number)
                kin.signals.send(os.getpid(), "USR1", number)
        real_time = [arrived.value for arrived in came if arrived.signal != signal.SIGUSR1]
        assert 1 <= len(real_time) < 1000
        assert real_time[-1] == 999
        # The kernel keeps the first of the pending ones of a standard signal.
        assert [arrived.value for arrived in came if arrived.signal == signal.SIGUSR1] == [0]


def test_what_nobody_sent_has_no_sender() -> None:
    """Python's own simulation of a signal, which passes the kernel by."""
    import _thread

    came: list[kin.signals.Arrived] = []
    with kin.signals.handle("INT", came.append):
        _thread.interrupt_main()
        assert came == [kin.signals.Arrived(signal.SIGINT)]
        assert came[0].origin == "unknown"
        assert str(came[0]) == "SIGINT (unknown)"


def test_nested_and_put_back_in_turn() -> None:
    came: list[tuple[str, int | None]] = []

    def note(name: str) -> Callable[[kin.signals.Arrived], Any]:
        return lambda arrived: came.append((name, arrived.value))

    with untouched(signal.SIGUSR1), kin.signals.handle("USR1", note("outer")):
        with kin.signals.handle("USR1", note("inner")):
            kin.signals.send(os.getpid(), "USR1", 1)
        kin.signals.send(os.getpid(), "USR1", 2)
        with kin.signals.ignore("USR1"):
            kin.signals.send(os.getpid(), "USR1", 3)
        kin.signals.send(os.getpid(), "USR1", 4)
    assert came == [("inner", 1), ("outer", 2), ("outer", 4)]


def test_an_exception_of_the_function_comes_out_and_all_is_put_back() -> None:
    def refuse(arrived: kin.signals.Arrived) -> None:
        raise RuntimeError("no more")

    with untouched(signal.SIGUSR1):
        with pytest.raises(RuntimeError, match="no more"), kin.signals.handle("USR1", refuse):
            kin.signals.send(os.getpid(), "USR1")


def test_a_handler_that_raises_at_the_very_end_does_not_keep_its_place(peers: Peers) -> None:
    """signal.signal calls what is due before it sets anything; then it sets nothing."""

    def refuse(arrived: kin.signals.Arrived) -> None:
        raise RuntimeError("no more")

    def child(voice: Voice) -> None:
        raised = 0
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        with kin.signals.handle("ALRM", nothing):
            for number in itertools.count():
                if raised == 30:
                    break
                try:
                    with untouched(signal.SIGALRM), untouched(signal.SIGUSR1):
                        with kin.signals.handle(["ALRM", "USR1"], refuse):
                            signal.setitimer(signal.ITIMER_REAL, 0.00002 + number % 50 * 1e-6)
                except RuntimeError:
                    raised += 1
                assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
                assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
            signal.setitimer(signal.ITIMER_REAL, 0)

    peers.fork(child).result()


def test_all_or_none() -> None:
    with untouched(signal.SIGUSR1), pytest.raises(kin.InvalidValue):
        with kin.signals.handle(["USR1", "KILL"], nothing):
            pass


def test_what_can_not_be_called_is_refused() -> None:
    with untouched(signal.SIGUSR1), pytest.raises(kin.InvalidValue, match="can't be called"):
        with kin.signals.handle("USR1", None):  # type: ignore[arg-type]
            pass


# ------------------------------------------------------------------------- handlers set by C code


class _Action(ctypes.Structure):
    """struct sigaction of glibc, as far as it is needed."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
_libc = ctypes.CDLL(None, use_errno=True)


def set_by_c(number: int, handler: object, flags: int = 0, masked: int = 0) -> None:
    action = _Action(ctypes.cast(handler, ctypes.c_void_p), flags=flags)  # type: ignore[arg-type]
    action.mask[masked // 8] |= (1 << ((masked - 1) % 8)) if masked else 0
    assert _libc.sigaction(number, ctypes.byref(action), None) == 0


@pytest.mark.parametrize("block", ["handle", "ignore", "default", "nested"])
def test_a_handler_of_c_code_is_put_back(block: str) -> None:
    calls: list[int] = []
    by_c = _HANDLER(calls.append)
    before = _native.signal_action(signal.SIGUSR1)[2]
    set_by_c(signal.SIGUSR1, by_c, SA_RESTART, masked=signal.SIGUSR2)
    try:
        with untouched(signal.SIGUSR1):
            with contextlib.ExitStack() as inside:
                if block in ("handle", "nested"):
                    inside.enter_context(kin.signals.handle("USR1", nothing))
                if block in ("ignore", "nested"):
                    inside.enter_context(kin.signals.ignore("USR1"))
                if block in ("default", "nested"):
                    inside.enter_context(kin.signals.default("USR1"))
                else:
                    kin.signals.send(os.getpid(), "USR1")
            assert not calls
            kin.signals.send(os.getpid(), "USR1")
            assert calls == [signal.SIGUSR1]
            assert _native.signal_action(signal.SIGUSR1)[1] & SA_RESTART
    finally:
        _native.set_signal_action(signal.SIGUSR1, before)


def test_negative_control_python_alone_loses_a_handler_of_c_code() -> None:
    by_c = _HANDLER(lambda number: None)
    before = _native.signal_action(signal.SIGUSR1)[2]
    set_by_c(signal.SIGUSR1, by_c)
    try:
        outside = state(signal.SIGUSR1)
        old = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, old)
        assert state(signal.SIGUSR1) != outside
    finally:
        _native.set_signal_action(signal.SIGUSR1, before)


def test_siginterrupt_is_put_back() -> None:
    with kin.signals.handle("USR1", nothing):
        signal.siginterrupt(signal.SIGUSR1, False)
        with untouched(signal.SIGUSR1), kin.signals.handle("USR1", nothing):
            pass
        assert _native.signal_action(signal.SIGUSR1)[1] & (SA_RESTART | SA_SIGINFO)


# --------------------------------------------------------------------------- faults, threads, fork


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS])
def test_a_real_fault_still_ends_the_process(peers: Peers, number: int) -> None:
    def child(voice: Voice) -> None:
        with kin.signals.handle(["SEGV", "BUS"], nothing):
            kin.signals.send(os.getpid(), number)  # sent by a process, it is a signal like others
            voice.say("handled")
            import mmap
            import tempfile

            if number == signal.SIGSEGV:
                ctypes.string_at(8)
            with tempfile.TemporaryFile() as file:
                file.truncate(mmap.PAGESIZE)
                mapped = mmap.mmap(file.fileno(), mmap.PAGESIZE)
                file.truncate(0)
                mapped[0]  # beyond the end of the file

    peer = peers.fork(child)
    assert peer.hear() == "handled"
    peer.ended()
    assert peer.wait() == -number


def test_only_the_main_thread_may(peers: Peers) -> None:
    def install(block: Callable[..., Any]) -> None:
        with block("USR1"):
            pass

    for block in (
        lambda signals: kin.signals.handle(signals, nothing),
        kin.signals.ignore,
        kin.signals.default,
    ):
        with untouched(signal.SIGUSR1), thread_of(install, block) as call:
            error = call.raised()
        assert isinstance(error, kin.Unsupported)
        assert "main thread" in str(error)
        assert "stream" in str(error)


def test_put_back_from_another_thread_is_refused_and_can_be_done_again() -> None:
    block = kin.signals.handle("USR1", nothing)
    before, action = state(signal.SIGUSR1), _native.signal_action(signal.SIGUSR1)[2]
    block.__enter__()
    inside = state(signal.SIGUSR1)
    with thread_of(block.__exit__, None, None, None) as call:
        assert isinstance(call.raised(), kin.Unsupported)
    assert state(signal.SIGUSR1) == inside
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    _native.set_signal_action(signal.SIGUSR1, action)
    assert state(signal.SIGUSR1) == before


def test_signals_to_all_threads_at_once(peers: Peers) -> None:
    """Several threads record at once; what is told afterwards is one of the arrivals, whole."""

    def child(voice: Voice) -> int:
        torn = []

        def check(arrived: kin.signals.Arrived) -> None:
            if arrived.value is not None and (arrived.pid, arrived.uid) != (os.getpid(), 0):
                torn.append(arrived)

        end = threading.Event()
        with kin.signals.handle("RTMIN+5", check):
            threads = [threading.Thread(target=end.wait) for _ in range(4)]
            for thread in threads:
                thread.start()
            for number in range(3000):
                kin.signals.send(os.getpid(), "RTMIN+5", number, timeout=10)
                os.kill(os.getpid(), signal.SIGRTMIN + 5)
            end.set()
            for thread in threads:
                thread.join()
        return len(torn) if os.getuid() == 0 else 0

    assert peers.fork(child).result() == 0


def test_a_forked_child_has_the_handlers(peers: Peers) -> None:
    came: list[kin.signals.Arrived] = []

    def child(voice: Voice) -> int | None:
        kin.signals.send(os.getpid(), "USR1", 3)
        return came[0].value

    with kin.signals.handle("USR1", came.append):
        assert peers.fork(child).result() == 3
        assert not came


# ------------------------------------------------------------------------------------- SIGCHLD


def test_children_reaped_unseen(peers: Peers) -> None:
    def child(voice: Voice) -> list[bool]:
        answers = [kin.signals.children_are_reaped_unseen()]
        with kin.signals.ignore("CHLD"):
            answers.append(kin.signals.children_are_reaped_unseen())
            if (pid := os.fork()) == 0:
                os._exit(3)
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                answers.append(True)
        answers.append(kin.signals.children_are_reaped_unseen())
        by_c = _HANDLER(lambda number: None)
        set_by_c(signal.SIGCHLD, by_c, SA_NOCLDWAIT)
        answers.append(kin.signals.children_are_reaped_unseen())
        return answers

    assert peers.fork(child).result() == [False, True, True, False, True]
