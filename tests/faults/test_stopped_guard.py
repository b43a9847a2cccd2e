"""A process that is stopped (SIGSTOP) while it has the guard of an object: others keep their time, can be interrupted, and leave.

What they give up meanwhile is given up: it is there for others when the stopped one goes on, or dies, though who gave it up lives.
Each test sees first that the guard can't be had.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk.channels import ring_memory
from kinfolk.sync import names
from tests.c_compiler import NATIVE
from tests.faults.harness import HERE

HANG = 30
SHORT = 0.2  # seconds that somebody waits in vain
LARGE = 20_000  # bytes that take a block
ARENA, UNIT = 64 << 10, 4096  # bytes
SOURCES = ("mutex", "mutex_wait", "robust")


@pytest.fixture(scope="module")
def holder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program."""
    made = tmp_path_factory.mktemp("guard") / "guard_holder"
    sources = [HERE / "guard_holder.c", *(NATIVE / f"{stem}.c" for stem in SOURCES)]
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-pthread", f"-I{NATIVE}"]
    subprocess.run(["cc", *flags, *sources, "-o", made], check=True)
    return made


class Stopped:
    """A process that has the guard, and is stopped until the end of the block; or killed there."""

    def __init__(self, program: Path, path: str, end: signal.Signals = signal.SIGCONT) -> None:
        self._process = subprocess.Popen([program, path])
        self._end = end
        stopped = os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED)
        assert stopped is not None
        assert stopped.si_code == os.CLD_STOPPED

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(self._end)
        assert self._process.wait(HANG) == (0 if self._end == signal.SIGCONT else -signal.SIGKILL)


@pytest.fixture(params=[signal.SIGCONT, signal.SIGKILL], ids=["goes on", "dies"])
def stop(request: pytest.FixtureRequest, holder: Path) -> Callable[[str], Stopped]:
    """Stop somebody with the guard of what lies in a file."""
    return lambda path: Stopped(holder, path, request.param)


class Interrupted(Exception):
    """Raised by a signal handler."""


@contextlib.contextmanager
def interrupted() -> Iterator[None]:
    """What the block does would wait for ever; a signal handler ends it."""

    def handle(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, SHORT, SHORT)
    try:
        with pytest.raises(Interrupted):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ring_of(name: str, options: str = "") -> str:
    return f"ring:{name}?arena={ARENA}&capacity=4096{options}"


def keeps_its_time(sender: kin.Sender) -> None:
    """The guard can't be had."""
    with pytest.raises(kin.Timeout):
        sender.send_bytes(bytes(LARGE), timeout=SHORT)


def send_memory(sender: kin.Sender) -> None:
    """What is read where it lies."""
    with sender.reserve(LARGE, timeout=HANG) as view:
        view[:3] = b"abc"


def all_blocks(sender: kin.Sender) -> None:
    """Nobody has any."""
    with contextlib.ExitStack() as rooms:
        for _ in range(ARENA // UNIT):
            rooms.enter_context(sender.reserve(UNIT, timeout=HANG))


# ── a ring ───────────────────────────────────────────────────────────────────────────────────


def test_a_view_is_given_up(unique_name, stop):
    with (
        kin.open_receiver(ring_of(unique_name)) as receiver,
        kin.open_sender(f"ring:{unique_name}") as sender,
    ):
        send_memory(sender)
        view = receiver.recv(timeout=HANG)
        assert bytes(view[:3]) == b"abc"
        with stop(ring_memory.path_of(unique_name)):
            keeps_its_time(sender)
            del view
        all_blocks(sender)


def test_who_sleeps_for_a_block_gets_what_was_given_up(unique_name, holder):
    with (
        kin.open_receiver(ring_of(unique_name)) as receiver,
        kin.open_sender(f"ring:{unique_name}") as sender,
        kin.open_sender(f"ring:{unique_name}") as other,
    ):
        room = contextlib.ExitStack()
        room.enter_context(sender.reserve(ARENA // 2, timeout=HANG))
        room.enter_context(sender.reserve(ARENA // 2, timeout=HANG))
        thread = threading.Thread(target=other.send_bytes, args=(bytes(LARGE),))
        thread.start()
        while not other.statistics().waits:
            pass
        with Stopped(holder, ring_memory.path_of(unique_name)), contextlib.suppress(Interrupted):
            with room:
                raise Interrupted  # what was built is dropped
        thread.join(HANG)
        assert not thread.is_alive()
        assert len(receiver.recv(timeout=HANG)) == LARGE


def test_an_end_closes_and_its_peers_hear_of_it(unique_name, stop):
    receiver = kin.open_receiver(ring_of(unique_name))
    sender = kin.open_sender(f"ring:{unique_name}")
    send_memory(sender)
    view = receiver.recv(timeout=HANG)
    sender.send_bytes(b"last", timeout=HANG)
    with stop(ring_memory.path_of(unique_name)):
        keeps_its_time(sender)
        sender.close()
        assert receiver.recv(timeout=HANG) == b"last"
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)
        del view
        receiver.close()


def test_what_a_closed_end_had_is_there_for_others(unique_name, stop, peers):
    def hold(voice) -> None:
        with kin.open_receiver(ring_of(unique_name)) as receiver:
            view = receiver.recv(timeout=HANG)
            voice.say()
            voice.hear()
            del view
        voice.say()
        voice.hear()  # and lives on

    with kin.open_receiver(ring_of(unique_name)):
        peer = peers.fork(hold)
        with kin.open_sender(f"ring:{unique_name}") as sender:
            send_memory(sender)
            peer.hear()
            with stop(ring_memory.path_of(unique_name)):
                keeps_its_time(sender)
                peer.say()
                peer.hear()
            all_blocks(sender)
        peer.say()
        peer.result()


def test_who_comes_keeps_its_time_and_can_be_interrupted(unique_name, stop):
    with (
        kin.open_receiver(ring_of(unique_name)) as receiver,
        kin.open_sender(f"ring:{unique_name}") as sender,
    ):
        sender.send_bytes(bytes(LARGE), timeout=HANG)
        with stop(ring_memory.path_of(unique_name)):
            with pytest.raises(kin.Timeout):  # for its first block it has to join
                receiver.recv(timeout=SHORT)
            with interrupted():
                receiver.recv()
            with kin.open_sender(f"ring:{unique_name}") as another:
                keeps_its_time(another)
                with interrupted():
                    another.send_bytes(bytes(LARGE))
        assert len(receiver.recv(timeout=HANG)) == LARGE


def test_a_fork_is_not_kept_waiting(unique_name, stop):
    with (
        kin.open_receiver(ring_of(unique_name)) as receiver,
        kin.open_sender(f"ring:{unique_name}") as sender,
    ):
        send_memory(sender)
        view = receiver.recv(timeout=HANG)
        with stop(ring_memory.path_of(unique_name)):
            keeps_its_time(sender)
            child = os.fork()
            if child == 0:
                faulthandler.disable()
                os._exit(view[0])  # not to be read: SIGSEGV, and no other message
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGSEGV
        child = os.fork()
        if child == 0:
            os._exit(view[0])
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == ord("a")
        del view
        all_blocks(sender)


# ── messages that are acknowledged ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["given back", "dropped", "closed"])
def test_a_message_is_given_back(unique_name, stop, how):
    address = ring_of(unique_name)
    with (
        kin.open_receiver(address, acknowledge=True) as receiver,
        kin.open_receiver(address, acknowledge=True) as other,
        kin.open_sender(f"ring:{unique_name}") as sender,
    ):
        sender.send("job", timeout=HANG)
        delivery = receiver.recv_message(timeout=HANG)
        with stop(ring_memory.path_of(unique_name)):
            with interrupted():
                delivery.acknowledge()
            if how == "given back":
                delivery.give_back()
            elif how == "dropped":
                del delivery
            else:
                receiver.close()
            with pytest.raises(kin.Timeout):
                other.recv_message(timeout=SHORT)
        with other.recv_message(timeout=HANG) as again:
            assert again.object == "job"
            assert again.redelivered
        sender.close()
        with pytest.raises(kin.EndOfChannel):
            other.recv_message(timeout=HANG)
        if how != "closed":
            with pytest.raises(kin.EndOfChannel):
                receiver.recv_message(timeout=HANG)


def test_who_waits_for_one_gets_what_was_given_back(unique_name, holder):
    address = ring_of(unique_name)
    with (
        kin.open_receiver(address, acknowledge=True) as receiver,
        kin.open_receiver(address, acknowledge=True) as other,
        kin.open_sender(f"ring:{unique_name}") as sender,
    ):
        sender.send("job", timeout=HANG)
        delivery = receiver.recv_message(timeout=HANG)
        came: list[object] = []

        def wait() -> None:
            with other.recv_message() as message:
                came.append(message.object)

        thread = threading.Thread(target=wait)
        thread.start()
        while not other.statistics().waits:
            pass
        with Stopped(holder, ring_memory.path_of(unique_name)):
            delivery.give_back()
        thread.join(HANG)
        assert came == ["job"]


def test_the_end_is_not_taken_for_granted(unique_name, stop):
    address = ring_of(unique_name)
    with (
        kin.open_receiver(address, acknowledge=True) as receiver,
        kin.open_receiver(address, acknowledge=True) as other,
    ):
        with kin.open_sender(f"ring:{unique_name}") as sender:
            sender.send("job", timeout=HANG)
            delivery = receiver.recv_message(timeout=HANG)
        with stop(ring_memory.path_of(unique_name)), pytest.raises(kin.Timeout):
            other.recv_message(timeout=SHORT)
        delivery.acknowledge()
        with pytest.raises(kin.EndOfChannel):
            other.recv_message(timeout=HANG)


# ── a semaphore, a condition ─────────────────────────────────────────────────────────────────


@pytest.fixture
def path(unique_name: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Of an object of the kind that the test is about; removed in the end."""
    made = names.path_of(request.param, unique_name)
    yield made
    with contextlib.suppress(FileNotFoundError):
        os.unlink(made)


@pytest.mark.parametrize("path", ["semaphore"], indirect=True)
def test_who_comes_to_a_semaphore(unique_name, path, stop):
    semaphore = kin.Semaphore(100, unique_name)
    with stop(path):
        for timeout in (0, SHORT):
            with pytest.raises(kin.Timeout):
                semaphore.acquire(timeout=timeout)
        with interrupted():
            semaphore.acquire()
        with interrupted():
            semaphore.release()
        assert semaphore.value == 100
    semaphore.acquire(timeout=HANG)
    with stop(path):
        semaphore.acquire(timeout=HANG)  # which takes no guard
        with pytest.raises(kin.Timeout):
            semaphore.acquire(timeout=SHORT, n=50)  # that does
        semaphore.release()
        semaphore.release()
        semaphore.close()
    with kin.Semaphore(name=unique_name) as again:
        assert [pid for pid, _ in again._members()] == [os.getpid()]
        assert again.value == 99
    again.close()


@pytest.mark.parametrize("path", ["condition"], indirect=True)
def test_who_comes_to_a_condition(unique_name, path, stop):
    condition = kin.Condition(name=unique_name)
    with stop(path):
        with interrupted():
            kin.Condition(name=unique_name)
        child = os.fork()
        if child == 0:
            try:
                with pytest.raises(kin.Timeout):
                    condition.acquire(timeout=SHORT)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with condition:
        with stop(path):
            assert not condition.wait(timeout=SHORT)
            with interrupted():
                condition.wait()
            with interrupted():
                condition.notify()
        condition.notify()
    with stop(path):
        condition.close()


@pytest.mark.parametrize("path", ["semaphore"], indirect=True)
def test_other_threads_go_on(unique_name, path, stop):
    """Who waits for the guard has not the GIL; nor does he keep another from giving up in time."""
    semaphore = kin.Semaphore(1, unique_name)
    with stop(path):
        thread = threading.Thread(target=semaphore.acquire)
        thread.start()
        with pytest.raises(kin.Timeout):
            semaphore.acquire(timeout=SHORT)
        assert thread.is_alive()
    thread.join(HANG)
    assert not thread.is_alive()
    semaphore.release()
    semaphore.close()
