"""Waiting for signals: each with its sender and its value, none lost, by threads and tasks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator

import pytest

import kinfolk as kin
from kinfolk.signals import Arrived
from tests.conformance.peers import (
    HANG,
    Peers,
    Voice,
    open_descriptors,
    readable,
    thread_of,
    until,
)

pytestmark = pytest.mark.usefixtures("threads_at_rest")

WAITABLE = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
SI_USER, SI_QUEUE, SI_TKILL = 0, -1, -6


def mask() -> set[int]:
    return set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))


def me(signal_number: int, value: int | None = None, code: int = SI_QUEUE) -> Arrived:
    """What arrives when this process sends to itself."""
    return Arrived(signal_number, os.getpid(), os.getuid(), value, code)


def asleep_in_poll(pid: int, thread: int | None = None) -> bool:
    with open(f"/proc/{pid}/task/{thread or pid}/wchan") as file:
        return "poll" in file.read()


# ------------------------------------------------------------------------------ what arrives


@pytest.mark.parametrize("number", WAITABLE)
def test_every_signal_arrives_with_its_sender_and_its_value(number: int) -> None:
    before = mask()
    with kin.signals.stream(number) as stream:
        for value in (0, 1, -1, 2**31 - 1, -(2**31)):
            kin.signals.send(os.getpid(), number, value)
            assert stream.recv(timeout=HANG) == me(number, value)
        os.kill(os.getpid(), number)
        assert stream.recv(timeout=HANG) == me(number, code=SI_USER)
    assert mask() == before


def test_from_another_process(peers: Peers) -> None:
    def child(voice: Voice, parent: int) -> None:
        kin.signals.send(parent, "USR1")
        voice.hear()
        kin.signals.send(parent, "USR1", 5)

    with kin.signals.stream("USR1") as stream:
        peer = peers.fork(child, os.getpid())
        assert stream.recv(timeout=HANG) == Arrived(10, peer.pid, os.getuid(), None, SI_USER)
        peer.say()
        assert stream.recv(timeout=HANG) == Arrived(10, peer.pid, os.getuid(), 5, SI_QUEUE)


def test_from_a_thread_a_timer_and_a_child(peers: Peers) -> None:
    with kin.signals.stream(["USR2", "CHLD", "VTALRM"]) as stream:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)
        assert stream.recv(timeout=HANG) == me(signal.SIGUSR2, code=SI_TKILL)

        peer = peers.fork(lambda voice: None)
        peer.ended()
        child = stream.recv(timeout=HANG)
        assert (child.signal, child.pid, child.origin) == (signal.SIGCHLD, peer.pid, "child")
        assert str(child) == f"SIGCHLD of process {peer.pid} of user {os.getuid()} (child)"
        peer.result()

        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0001)
        while not readable(stream.fileno(), 0):
            sum(range(1000))
        timer = stream.recv(timeout=HANG)
        assert (timer.pid, timer.uid, timer.value, timer.origin) == (None, None, None, "kernel")


def test_real_time_ones_are_queued_in_order_and_lower_ones_first() -> None:
    with kin.signals.stream(["RTMIN+1", "RTMIN+2"]) as stream:
        for value in range(100):
            kin.signals.send(os.getpid(), "RTMIN+2", value)
            kin.signals.send(os.getpid(), "RTMIN+1", value)
        came = [stream.recv(timeout=HANG) for _ in range(200)]
        low, high = signal.SIGRTMIN + 1, signal.SIGRTMIN + 2
        assert came == [me(low, n) for n in range(100)] + [me(high, n) for n in range(100)]
        with pytest.raises(kin.Timeout):
            stream.recv(timeout=0)


def test_standard_ones_are_merged_by_the_kernel() -> None:
    with kin.signals.stream("USR1") as stream:
        for value in range(10):
            kin.signals.send(os.getpid(), "USR1", value)
        assert stream.recv(timeout=HANG) == me(signal.SIGUSR1, 0)
        with pytest.raises(kin.Timeout):
            stream.recv(timeout=0)


# ---------------------------------------------------------------------------------- waiting


def test_wait_times_out_and_unblocks() -> None:
    before, descriptors = mask(), open_descriptors()
    for timeout in (0, 0.001):
        with pytest.raises(kin.Timeout, match="SIGUSR1 SIGUSR2: no signal came: not within"):
            kin.signals.wait(["USR2", "USR1"], timeout=timeout)
        with pytest.raises(kin.Timeout, match=f"wait longer, or see .* process {os.getpid()}"):
            kin.signals.wait(["USR2", "USR1"], timeout)
        with pytest.raises(kin.Timeout, match="SIGUSR1: no signal came"):
            asyncio.run(kin.signals.await_("USR1", timeout))
    assert mask() == before
    assert open_descriptors() == descriptors


def test_wait_gives_one_and_leaves_the_others() -> None:
    with kin.signals.blocked(["USR1", "USR2"]):
        kin.signals.send(os.getpid(), "USR1")
        kin.signals.send(os.getpid(), "USR2")
        assert kin.signals.wait(["USR1", "USR2"], timeout=HANG).name == "SIGUSR1"
        assert signal.sigpending() == {signal.SIGUSR2}
        assert kin.signals.wait("USR2", timeout=HANG).name == "SIGUSR2"


def test_wait_takes_what_came_while_it_slept(peers: Peers) -> None:
    def child(voice: Voice) -> Arrived:
        return kin.signals.wait(["TERM", "HUP"])

    peer = peers.fork(child)
    until(lambda: asleep_in_poll(peer.pid), "the peer waits")
    kin.signals.send(peer.pid, "TERM", 9)
    arrived = peer.result()
    assert (arrived.name, arrived.pid, arrived.value) == ("SIGTERM", os.getpid(), 9)


def test_what_is_pending_afterwards_goes_its_usual_way() -> None:
    came: list[Arrived] = []
    with kin.signals.handle("USR1", came.append):
        with kin.signals.stream("USR1") as stream:
            kin.signals.send(os.getpid(), "USR1", 1)
            stream.recv(timeout=HANG)
            kin.signals.send(os.getpid(), "USR1", 2)
            assert not came
        assert [arrived.value for arrived in came] == [2]


def test_other_signals_interrupt_the_waiting_and_it_goes_on(peers: Peers) -> None:
    """EINTR: handlers run meanwhile, the wait is not ended by them, nor made longer."""

    def child(voice: Voice) -> tuple[int, Arrived]:
        hits: list[Arrived] = []
        with kin.signals.handle("ALRM", hits.append):
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            with pytest.raises(kin.Timeout):
                kin.signals.wait("USR1", timeout=0.02)
            with kin.signals.blocked("USR1"):
                voice.say()
                arrived = kin.signals.wait("USR1")
            signal.setitimer(signal.ITIMER_REAL, 0)
        return len(hits), arrived

    peer = peers.fork(child)
    peer.hear()
    kin.signals.send(peer.pid, "USR1", 3)
    hits, arrived = peer.result()
    assert hits
    assert arrived.value == 3


def test_ctrl_c_ends_a_wait(peers: Peers) -> None:
    def child(voice: Voice) -> bool:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(kin.Timeout):  # makes the thread's own eventfd
            kin.signals.wait("USR1", timeout=0.001)
        before, descriptors = mask(), open_descriptors()
        voice.say()
        try:
            kin.signals.wait("USR1")
        except KeyboardInterrupt:
            pass
        return (mask(), open_descriptors()) == (before, descriptors)

    peer = peers.fork(child)
    peer.hear()
    until(lambda: asleep_in_poll(peer.pid), "the peer waits")
    kin.signals.send(peer.pid, "INT")
    assert peer.result() is True


@pytest.mark.parametrize("signals", ["KILL", ["STOP"], [], "NONE", 0, None])
def test_what_can_not_be_waited_for(signals: object) -> None:
    with pytest.raises(kin.InvalidValue):
        kin.signals.stream(signals)  # type: ignore[arg-type]


def test_an_ignored_sigchld_never_comes_and_that_is_said(peers: Peers) -> None:
    def child(voice: Voice) -> str:
        with kin.signals.ignore("CHLD"):
            with pytest.raises(kin.Unsupported, match="SIGCHLD would never come") as raised:
                kin.signals.wait("CHLD", timeout=0)
            # The negative control: the kernel sends nothing.
            with kin.signals.stream("USR1"), kin.signals.blocked("CHLD"):
                if (pid := os.fork()) == 0:
                    os._exit(0)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
                assert not signal.sigpending()
        return str(raised.value)

    assert 'default("CHLD")' in peers.fork(child).result()


def test_other_ignored_signals_are_waited_for() -> None:
    with kin.signals.ignore("USR1"), kin.signals.stream(["USR1", "PIPE", "WINCH"]) as stream:
        for name in ("USR1", "PIPE", "WINCH"):
            kin.signals.send(os.getpid(), name, 1)
            assert stream.recv(timeout=HANG).name == f"SIG{name}"


# --------------------------------------------------------------------- streams, threads, fork


def test_iterating() -> None:
    with kin.signals.stream("RTMIN") as stream:
        for value in range(5):
            kin.signals.send(os.getpid(), "RTMIN", value)
        assert [arrived.value for arrived in itertools.islice(stream, 5)] == [0, 1, 2, 3, 4]


def test_another_thread_may_read_and_a_close_wakes_it() -> None:
    with kin.signals.stream("USR1") as stream:
        with thread_of(stream.recv) as call:
            kin.signals.send(os.getpid(), "USR1", 4)
            assert call.result() == me(signal.SIGUSR1, 4)
        with thread_of(stream.recv) as call:
            until(
                lambda: asleep_in_poll(os.getpid(), call.thread.native_id), "the other thread waits"
            )
            stream.close()
            assert isinstance(call.raised(), kin.Closed)
        for use in (stream.recv, stream.fileno):
            with pytest.raises(kin.Closed):
                use()
        assert stream.closed
        assert signal.SIGUSR1 not in mask()


def test_closed_from_another_thread_the_mask_waits_for_its_own() -> None:
    stream = kin.signals.stream("USR1")
    with thread_of(stream.close) as call:
        call.result()
    assert signal.SIGUSR1 in mask()
    stream.close()
    assert signal.SIGUSR1 not in mask()


def test_one_that_is_dropped_warns_and_unblocks() -> None:
    descriptors = open_descriptors()
    with pytest.warns(ResourceWarning, match="unclosed <kinfolk.signals.Stream SIGUSR1>"):
        kin.signals.stream("USR1")
    assert signal.SIGUSR1 not in mask()
    assert open_descriptors() == descriptors


def test_a_forked_child_reads_its_own(peers: Peers) -> None:
    def child(voice: Voice) -> list[int | None]:
        with pytest.raises(kin.Timeout):  # the parent's are the parent's
            stream.recv(timeout=0)
        kin.signals.send(os.getpid(), "USR1", 8)
        got = [stream.recv(timeout=HANG).value]
        stream.close()
        return [*got, *mask()]

    with kin.signals.stream("USR1") as stream:
        kin.signals.send(os.getpid(), "USR1", 7)
        assert peers.fork(child).result() == [8]
        assert stream.recv(timeout=HANG).value == 7


def test_programs_started_inside_inherit_the_mask() -> None:
    """As the docstring of `blocked` says of everything that kinfolk.spawn does not start."""
    with kin.signals.blocked("USR1"):
        shown = subprocess.check_output(["grep", "SigBlk", "/proc/self/status"])
    assert int(shown.split()[1], 16) & 1 << (signal.SIGUSR1 - 1)


# ----------------------------------------------------------------------------------- asyncio


def test_async_for() -> None:
    async def main() -> list[int | None]:
        values = []
        async with kin.signals.stream(["RTMIN+3", "TERM"]) as stream:
            for value in range(100):
                await kin.signals.asend(os.getpid(), "RTMIN+3", value)
            async for arrived in stream:
                values.append(arrived.value)
                if arrived.value == 99:
                    break
        return values

    assert asyncio.run(main()) == list(range(100))


def test_awaited_while_others_run() -> None:
    async def main() -> Arrived:
        waiting = asyncio.create_task(kin.signals.await_("USR1", timeout=HANG))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        kin.signals.send(os.getpid(), "USR1", 6)
        return await waiting

    before = mask()
    assert asyncio.run(main()) == me(signal.SIGUSR1, 6)
    assert mask() == before


def test_an_awaited_wait_times_out() -> None:
    async def main() -> None:
        with pytest.raises(kin.Timeout):
            await kin.signals.await_("USR1", timeout=0.001)

    asyncio.run(main())


def test_a_cancelled_wait_loses_no_signal() -> None:
    """Cancelled at every moment around the arrival: what it did not return is there for the next one."""

    async def main() -> tuple[int, int]:
        returned = cancelled = 0
        with kin.signals.blocked("RTMIN+4"):
            for round_ in range(300):
                waiting = asyncio.create_task(kin.signals.await_("RTMIN+4"))
                for _ in range(round_ % 3):
                    await asyncio.sleep(0)
                kin.signals.send(os.getpid(), "RTMIN+4", round_)
                for _ in range(round_ % 5):
                    await asyncio.sleep(0)
                waiting.cancel()
                try:
                    arrived = await waiting
                    returned += 1
                except asyncio.CancelledError:
                    cancelled += 1
                    arrived = await kin.signals.await_("RTMIN+4", timeout=HANG)
                assert arrived.value == round_
            with pytest.raises(kin.Timeout):
                await kin.signals.await_("RTMIN+4", timeout=0)
        return returned, cancelled

    returned, cancelled = asyncio.run(main())
    assert returned
    assert cancelled


# ------------------------------------------------------------------------------ each one counts


def send_many(voice: Voice, target: int, count: int) -> None:
    signal.alarm(0)  # a million take longer than what hangs
    for value in range(count):
        kin.signals.send(target, "RTMIN+6", value, timeout=None)


def count_from(peers: Peers, senders: int, each: int) -> None:
    """Several senders; each one's arrive all, in its order."""
    with kin.signals.stream("RTMIN+6") as stream:
        pids = {peers.fork(send_many, os.getpid(), each).pid: 0 for _ in range(senders)}
        for _ in range(senders * each):
            arrived = stream.recv(timeout=HANG)
            assert arrived.pid is not None
            assert arrived.value == pids[arrived.pid]
            pids[arrived.pid] += 1
        assert set(pids.values()) == {each}
        with pytest.raises(kin.Timeout):
            stream.recv(timeout=0)


@pytest.fixture
def short_queue() -> Iterator[None]:
    """So that senders meet the limit, and wait."""
    soft, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (min(soft, 64), hard))
    yield
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (soft, hard))


@pytest.mark.usefixtures("short_queue")
def test_thousands_are_all_counted(peers: Peers) -> None:
    count_from(peers, 2, 1500)


@pytest.mark.soak
def test_a_million_are_all_counted(peers: Peers) -> None:
    count_from(peers, 2, 500_000)


def test_negative_control_handlers_do_not_count(peers: Peers) -> None:
    came: list[Arrived] = []
    with kin.signals.handle("RTMIN+6", came.append):
        with kin.signals.blocked("RTMIN+6"):
            peers.fork(send_many, os.getpid(), 1000).result()
        assert len(came) < 1000
