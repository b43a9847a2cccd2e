"""`fork`: who is who, how the child ends, what it inherits, and what is said of threads.

Each test forks in a peer, a process of one thread; the runner itself may have others (faulthandler's).
"""

from __future__ import annotations

import atexit
import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from kinfolk.errors import InvalidValue, LimitReached
from kinfolk.processes.direct import Direct
from kinfolk.processes.exit_handlers import exit as kin_exit
from kinfolk.processes.exit_handlers import on_exit
from kinfolk.processes.exit_status import ExitStatus
from kinfolk.processes.forking import ForkSide, ForkWithThreads, fork
from kinfolk.processes.launch import Launch
from kinfolk.processes.process import Process
from tests.conformance.peers import HANG, FailedInPeer, Peers, Voice, readable, state, until


@pytest.fixture
def alone(peers: Peers, tmp_path: Path) -> Callable[..., Any]:
    """Call a function in a process of one thread, whose output goes to files, and which has no exit handlers of the runner."""

    def call(function: Callable[..., Any], *args: Any) -> Any:
        def body(voice: Voice) -> Any:
            atexit._clear()
            for number, name in ((1, "out"), (2, "err")):
                file = os.open(tmp_path / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
                os.dup2(file, number)
                os.close(file)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            return function(*args)

        return peers.fork(body).result()

    return call


def status_of(side: ForkSide) -> ExitStatus:
    assert side.child is not None
    return side.child.wait(HANG)


def ended_by(block: Callable[[], Any]) -> ExitStatus:
    """How a child ends whose block this is."""
    with fork() as side:
        if side.is_child:
            block()
    return status_of(side)


# ----------------------------------------------------------------------------------- who is who


def test_each_side_knows_which_it_is(alone: Callable[..., Any], tmp_path: Path) -> None:
    def body() -> tuple[ExitStatus, bool]:
        parent = os.getpid()
        with fork() as side:
            if side.is_child:
                assert side.child is None
                assert os.getppid() == parent
                (tmp_path / "pid").write_text(str(os.getpid()))
        (tmp_path / "after").open("a").write("the parent alone gets here\n")
        status = status_of(side)
        assert side.child is not None
        return status, (tmp_path / "pid").read_text() == str(side.child.pid)

    assert alone(body) == (ExitStatus("exited", code=0), True)
    assert (tmp_path / "after").read_text().count("\n") == 1


def test_by_pattern(alone: Callable[..., Any]) -> None:
    def body() -> ExitStatus:
        match fork():
            case ForkSide(child=None):
                os._exit(5)
            case ForkSide(child=Process() as child):
                return child.wait(HANG)
        raise AssertionError

    assert alone(body).code == 5


def test_a_side_is_neither_true_nor_false(alone: Callable[..., Any]) -> None:
    def body() -> ExitStatus:
        with fork() as side, pytest.raises(InvalidValue, match="is_child"):
            bool(side)
        return status_of(side)

    assert alone(body).success


# --------------------------------------------------------------------------- how the child ends


def raises(error: BaseException) -> NoReturn:
    raise error


@pytest.mark.parametrize(
    ("block", "ends", "shown"),
    [
        (lambda: None, "exited 0", ""),
        (sys.exit, "exited 0", ""),
        (lambda: sys.exit(7), "exited 7", ""),
        (lambda: sys.exit(-1), "exited 255", ""),
        (lambda: sys.exit(256 + 3), "exited 3", ""),  # as the kernel has it
        (lambda: sys.exit("a text"), "exited 1", "a text\n"),
        (lambda: kin_exit(3), "exited 3", ""),
        (lambda: raises(ValueError("this")), "exited 1", "ValueError: this\n"),
        (lambda: raises(KeyboardInterrupt()), "killed by SIGINT", "KeyboardInterrupt\n"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "killed by SIGTERM", ""),
    ],
)
def test_the_block_ends_the_child_as_a_script_ends(
    alone: Callable[..., Any], tmp_path: Path, block: Callable[[], Any], ends: str, shown: str
) -> None:
    def told() -> None:
        on_exit(lambda status, arg: os.write(1, str(status).encode()), None)
        block()

    assert str(alone(ended_by, told)) == ends
    if ends != "killed by SIGTERM":  # nobody has handled it
        assert (tmp_path / "out").read_text() == ends
    err = (tmp_path / "err").read_text()
    assert err.endswith(shown)
    assert bool(err) == bool(shown)


def test_the_child_flushes_waits_for_its_threads_and_runs_its_handlers(
    alone: Callable[..., Any], tmp_path: Path
) -> None:
    def block() -> None:
        def thread() -> None:
            threading.main_thread().join(0.01)
            print("thread")

        on_exit(lambda status, arg: print("handler", status), None)
        threading.Thread(target=thread).start()
        print("block")

    assert alone(ended_by, block).success
    assert (tmp_path / "out").read_text() == "block\nthread\nhandler exited 0\n"


def test_a_child_whose_output_is_lost_does_not_succeed(alone: Callable[..., Any]) -> None:
    def block() -> None:
        sys.stdout = open("/dev/full", "w")  # noqa: SIM115
        print("lost")

    assert alone(ended_by, block).code == 120


def test_a_child_of_a_thread_ends_with_its_status(alone: Callable[..., Any]) -> None:
    """Python would end it as a thread: with 0, whatever it was to end with."""

    def in_thread(leave: Callable[[], Any], by_block: bool) -> list[ExitStatus]:
        found = []

        def body() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ForkWithThreads)
                side = fork()
            if side.is_child and not by_block:
                leave()
            with side:
                if side.is_child:
                    leave()
            found.append(status_of(side))

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        return found

    assert [status.code for status in alone(in_thread, lambda: sys.exit(6), True)] == [6]
    assert [status.code for status in alone(in_thread, lambda: kin_exit(6), False)] == [6]
    assert [status.code for status in alone(in_thread, lambda: sys.exit(6), False)] == [0]


# ------------------------------------------------------------------------------ what it inherits


def doubled(make: Callable[[], Any]) -> None:
    sys.stdout.write("printed once\n")
    make()


def test_what_was_printed_is_written_once(alone: Callable[..., Any], tmp_path: Path) -> None:
    alone(doubled, lambda: ended_by(lambda: None))
    assert (tmp_path / "out").read_text() == "printed once\n"


def test_os_fork_writes_it_twice(alone: Callable[..., Any], tmp_path: Path) -> None:
    """Negative control of the test above."""

    def make() -> None:
        if (pid := os.fork()) == 0:
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        sys.stdout.flush()

    alone(doubled, make)
    assert (tmp_path / "out").read_text() == "printed once\n" * 2


@pytest.mark.parametrize("inherited", [True, False])
def test_exit_handlers_can_be_left_behind(
    alone: Callable[..., Any], tmp_path: Path, inherited: bool
) -> None:
    def body() -> None:
        on_exit(lambda status, arg: print(arg, status), "inherited")
        with fork(exit_handlers=inherited) as side:
            if side.is_child:
                on_exit(lambda status, arg: print(arg, status), "its own")
        status_of(side)

    alone(body)
    assert (tmp_path / "out").read_text().splitlines() == [
        "its own exited 0",
        *["inherited exited 0"] * inherited,
    ]


def test_the_mask_is_as_before_on_both_sides(alone: Callable[..., Any]) -> None:
    def body() -> bool:
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1})
        with fork() as side:
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            assert mask == {signal.SIGUSR1}
        return status_of(side).success

    assert alone(body)


def test_a_status_that_nobody_collects_is_never_wrong(alone: Callable[..., Any]) -> None:
    def body() -> ExitStatus:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as the source's program has it
        return ended_by(lambda: None)

    status = alone(body)
    # Since Linux 6.15 the kernel remembers it for who holds a pidfd.
    assert status == ExitStatus("exited", code=0) or "SIGCHLD" in status.why


# --------------------------------------------------------------------------------------- threads


def test_other_threads_are_warned_of_by_name(alone: Callable[..., Any]) -> None:
    def body() -> list[str]:
        go = threading.Event()
        thread = threading.Thread(target=go.wait, name="the worker")
        thread.start()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with fork() as side:
                pass
        status_of(side)
        go.set()
        thread.join()
        with fork() as side:  # and not when it has gone: warnings are errors here
            pass
        assert status_of(side).success
        return [f"{each.category.__name__} {each.filename}: {each.message}" for each in caught]

    (said,) = alone(body)
    assert said.startswith(f"ForkWithThreads {__file__}: forking with 1 other threads running")
    assert "the worker" in said
    assert "kinfolk.spawn" in said


def test_a_warning_made_an_error_leaves_no_child(alone: Callable[..., Any]) -> None:
    def body() -> str:
        go = threading.Event()
        thread = threading.Thread(target=go.wait)
        thread.start()
        with pytest.raises(ForkWithThreads):
            fork()
        go.set()
        thread.join()
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text()

    assert alone(body) == ""


def test_threads_of_kinfolk_are_none_to_warn_of(alone: Callable[..., Any]) -> None:
    def body() -> list[str]:
        child = Process(Direct(Launch([b"sleep", b"100"], [b"/bin/sleep"])), "sleep")
        names = [
            Path(f"/proc/self/task/{task}/comm").read_text().strip()
            for task in os.listdir("/proc/self/task")
            if int(task) != os.getpid()
        ]
        with fork() as side:
            pass
        assert status_of(side).success
        child.kill()
        child.wait(HANG)
        return names

    assert alone(body) == ["kinfolk-watcher"]


# ----------------------------------------------------------------------------------- containment


@pytest.mark.parametrize("detach", [False, True])
def test_the_child_ends_when_its_parent_is_killed_unless_detached(
    peers: Peers, detach: bool
) -> None:
    def body(voice: Voice) -> None:
        side = fork(detach=detach)
        if side.is_child:
            signal.pause()
            os._exit(0)
        assert side.child is not None
        child = side.child.pid
        until(lambda: state(child) == "S", "the child asleep")
        voice.say(child)
        voice.hear()

    peer = peers.fork(body)
    pid = peer.hear()
    child = os.pidfd_open(pid)
    try:
        peer.kill()  # the kernel has signalled its children before it could be reaped
        if detach:
            assert state(pid) == "S"
            signal.pidfd_send_signal(child, signal.SIGKILL)
        assert readable(child)
    finally:
        os.close(child)


@pytest.mark.parametrize("detach", [False, True])
def test_the_child_ends_when_its_parent_exits_unless_detached(detach: bool) -> None:
    program = f"""
        import os, signal, threading, warnings
        from kinfolk.processes.forking import fork
        warnings.simplefilter("ignore")
        def body():
            side = fork(detach={detach})
            if side.is_child:
                os.close(1)
                signal.pause()
            print(side.child.pid, flush=True)
            keep.append(side)
        keep = []
        thread = threading.Thread(target=body)  # for a thread's child the kernel does nothing
        thread.start()
        thread.join()
    """
    shown = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        timeout=HANG,
        check=True,
    )
    pid = int(shown.stdout)
    if detach:
        assert state(pid) == "S"
        os.kill(pid, signal.SIGKILL)
    until(lambda: state(pid) in "ZX", "the child ended")


# ---------------------------------------------------------------------------------------- limits


def test_no_more_processes(as_plain_user: Any) -> None:
    def body() -> tuple[str, int | None]:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        try:
            fork()
        except LimitReached as error:
            return str(error), error.errno
        os._exit(1)

    said, code = as_plain_user.run(body)
    assert code is not None
    assert "ulimit -u" in said


def test_no_more_processes_whatever_handlers_do(as_plain_user: Any) -> None:
    """They run between the fork that failed and Python's look at errno (3.11.2)."""

    def body() -> int | None:
        os.register_at_fork(after_in_parent=lambda: os.listdir("/") and None)  # sets errno to 0
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        try:
            fork()
        except LimitReached as error:
            return error.errno
        os._exit(1)

    assert as_plain_user.run(body) == errno.EAGAIN


def test_a_full_disk_is_said_before_there_is_a_child(alone: Callable[..., Any]) -> None:
    def body() -> None:
        sys.stdout = open("/dev/full", "w")  # noqa: SIM115
        print("lost")
        fork()

    with pytest.raises(FailedInPeer, match="what was printed can't be written"):
        alone(body)
