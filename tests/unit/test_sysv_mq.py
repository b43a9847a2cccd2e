"""System V message queues: what is peculiar to them. The rest is in tests/conformance."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
import sysv_ipc

import kinfolk as kin
from kinfolk.channels import sysv_queue
from kinfolk.channels.queue_limits import kernel_number
from kinfolk.channels.queue_transport import FOOTER_SIZE
from tests.conformance.peers import HANG, state, thread_of, until, until_blocked
from tests.unit.test_mq import in_own_ipc_namespace


@pytest.fixture
def key():
    key = 1 + int.from_bytes(os.urandom(4), "little") % 0x7FFFFFF0
    yield key
    with contextlib.suppress(sysv_ipc.ExistentialError):
        sysv_ipc.MessageQueue(key).remove()


@pytest.fixture
def ends(key):
    with (
        kin.open_receiver(f"sysv-mq:{key}") as receiver,
        kin.open_sender(f"sysv-mq:{key}") as sender,
    ):
        yield receiver, sender


def exists(key):
    try:
        sysv_ipc.MessageQueue(key)
    except sysv_ipc.ExistentialError:
        return False
    return True


def queues():
    with open("/proc/sysvipc/msg") as file:
        return {int(line.split()[1]) for line in file.readlines()[1:]}


def id_of(end):
    """The id, which the public interface does not tell; other queues of the host come and go meanwhile."""
    return end._receiving._queue._id


# ── keys ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("0", "IPC_PRIVATE"),
        ("0x0", "IPC_PRIVATE"),
        ("nothing", "0x4d2"),
        ("-5", "32 bits"),
        (str(2**32), "32 bits"),
        ("/tmp#0", "255"),
        ("/tmp#256", "255"),
        ("/tmp#", "255"),
    ],
)
def test_wrong_keys_say_what_a_key_is(wrong, says):
    with pytest.raises(kin.AddressError, match=says):
        kin.open_receiver(f"sysv-mq:{wrong}")


def test_one_key_has_many_spellings(key):
    with (
        kin.open_receiver(f"sysv-mq:{key}") as receiver,
        kin.open_sender(f"sysv-mq:{key:#x}") as sender,
    ):
        sender.send("found")
        assert receiver.recv(timeout=0) == "found"


def test_keys_of_files(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(kin.NotFound, match="create the file"):
        kin.open_receiver(f"sysv-mq:{path}#7")
    path.touch()
    for project in ("7", "0xc8", "A"):
        number = ord(project) if project == "A" else int(project, 0)
        key = sysv_ipc.ftok(str(path), number, silence_warning=True)
        with kin.open_receiver(f"sysv-mq:{path}#{project}") as receiver:
            assert exists(key)
            receiver.unlink()
            assert not exists(key)


def test_the_highest_key():
    with kin.open_receiver("sysv-mq:0xfffffffe") as receiver:
        assert exists(-2)
        receiver.unlink()


# ── limits, owners ───────────────────────────────────────────────────────────────────────────


def test_the_limits_are_the_kernels(ends):
    receiver, sender = ends
    most = min(kernel_number("kernel.msgmax"), kernel_number("kernel.msgmnb"))
    assert receiver.limits.max_message == sender.limits.max_message == most - FOOTER_SIZE
    assert receiver.limits.capacity == kernel_number("kernel.msgmnb")
    with pytest.raises(kin.MessageTooBig, match="msgmax"):
        sender.send_bytes(bytes(sender.limits.max_message + 1))
    with pytest.raises(kin.Unsupported, match="no descriptor"):
        receiver.fileno()


def test_capacity_is_msg_qbytes(key):
    with kin.open_receiver(f"sysv-mq:{key}?capacity=100") as receiver:
        assert sysv_ipc.MessageQueue(key).max_size == 100
        assert receiver.limits.max_message == 100 - FOOTER_SIZE
        with kin.open_sender(f"sysv-mq:{key}") as sender:
            sender.send_bytes(bytes(90))
            assert sender.statistics().depth == 1
            with pytest.raises(kin.Timeout):
                sender.send_bytes(bytes(90), timeout=0)
        with pytest.raises(kin.AddressError, match="capacity=101 was asked"):
            kin.open_sender(f"sysv-mq:{key}?capacity=101")


def test_beyond_the_sysctls_names_them(key, as_plain_user):
    beyond = kernel_number("kernel.msgmnb") + 1
    with pytest.raises(kin.LimitReached, match=f"sysctl kernel.msgmnb={beyond}"):
        as_plain_user.run(kin.open_receiver, f"sysv-mq:{key}?capacity={beyond}")
    beyond = kernel_number("kernel.msgmax") + 1
    with pytest.raises(kin.LimitReached, match=f"sysctl kernel.msgmax={beyond}"):
        kin.open_receiver(f"sysv-mq:{key}?framing=raw&max_message={beyond}")
    with pytest.raises(kin.LimitReached, match="capacity=200"):
        kin.open_receiver(f"sysv-mq:{key}?framing=raw&capacity=100&max_message=200")
    assert not exists(key)


_TOO_MANY = """
import kinfolk as kin
with open("/proc/sys/kernel/msgmni", "w") as file:
    file.write("1")
first = kin.open_receiver("sysv-mq:1")
try:
    kin.open_receiver("sysv-mq:2")
except kin.NoSpace as error:
    print(error)
"""


def test_too_many_queues_names_the_limit():
    output = in_own_ipc_namespace(_TOO_MANY)
    assert "kernel.msgmni is 1" in output
    assert "sysctl kernel.msgmni=2" in output


_GROWN = """
import kinfolk as kin, sysv_ipc
receiver = kin.open_receiver("sysv-mq:1?framing=raw")
for name, number in (("msgmax", 60000), ("msgmnb", 100000)):
    with open(f"/proc/sys/kernel/{name}", "w") as file:
        file.write(str(number))
queue = sysv_ipc.MessageQueue(1, max_message_size=60000)
queue.max_size = 100000
queue.send(b"x" * 50000)
print(len(receiver.recv(timeout=5)))
"""


def test_a_limit_that_was_raised_meanwhile():
    assert in_own_ipc_namespace(_GROWN) == "50000\n"


def test_the_mode_is_exact(key):
    before = os.umask(0o077)
    try:
        kin.open_receiver(f"sysv-mq:{key}?mode=0640").close()
    finally:
        os.umask(before)
    assert sysv_ipc.MessageQueue(key).mode == 0o640


def test_another_users_queue_is_refused(key, foreign_user):
    foreign_user.run(lambda: sysv_ipc.MessageQueue(key, sysv_ipc.IPC_CREX, 0o666).id)
    for opening in (kin.open_receiver, kin.open_sender):
        with pytest.raises(kin.UntrustedPeer, match=f"user {foreign_user.uid}"):
            opening(f"sysv-mq:{key}", timeout=1)
    kin.open_sender(f"sysv-mq:{key}?codec=msgpack").close()


def test_a_creator_who_gave_his_queue_away_is_refused_all_the_same(key, foreign_user):
    def squat():
        queue = sysv_ipc.MessageQueue(key, sysv_ipc.IPC_CREX, 0o600)
        queue.uid = 0

    foreign_user.run(squat)
    assert sysv_ipc.MessageQueue(key).uid == 0
    with pytest.raises(kin.UntrustedPeer, match=f"user {foreign_user.uid}"):
        kin.open_receiver(f"sysv-mq:{key}")


def test_ours_is_closed_to_others(key, foreign_user):
    with kin.open_receiver(f"sysv-mq:{key}"):
        with pytest.raises(kin.AccessDenied, match="mode"):
            foreign_user.run(lambda: kin.open_sender(f"sysv-mq:{key}?codec=msgpack", timeout=1))


# ── types ────────────────────────────────────────────────────────────────────────────────────


def test_types(key, ends):
    _, sender = ends
    for kind in (7, 5, None, 6, 5):
        sender.send(kind, priority=kind)
    with (
        kin.open_receiver(f"sysv-mq:{key}", type=-6) as low,
        kin.open_receiver(f"sysv-mq:{key}?type=7") as seven,
    ):
        assert [low.recv(timeout=0) for _ in range(4)] == [None, 5, 5, 6]
        with pytest.raises(kin.Timeout):
            low.recv(timeout=0.01)
        assert seven.recv(timeout=0) == 7
    with kin.open_sender(f"sysv-mq:{key}", type=9) as nine:
        nine.send("nine")
        assert sysv_ipc.MessageQueue(key).receive(type=9)[1] == 9
    for wrong in (0, -1):
        with pytest.raises(kin.InvalidValue, match="type"):
            sender.send("x", priority=wrong)


def test_a_receiver_of_one_type_sleeps_while_others_come(key, ends):
    _, sender = ends
    with kin.open_receiver(f"sysv-mq:{key}?type=2") as second:
        with thread_of(second.recv, timeout=HANG) as call:
            until_blocked(second)
            sender.send("not this", priority=1)
            sender.send("this", priority=2)
            assert call.result() == "this"


def test_raw_is_bare(key):
    with kin.open_receiver(f"sysv-mq:{key}?framing=raw") as receiver:
        peer = sysv_ipc.MessageQueue(key)
        peer.send(b"from C", type=3)
        assert receiver.recv(timeout=0) == b"from C"
        with kin.open_sender(f"sysv-mq:{key}?framing=raw") as sender:
            sender.send(b"to C", priority=9)
        assert peer.receive() == (b"to C", 9)


def test_an_empty_message_of_a_c_program_is_received_also_when_nobody_waits_for_it_any_more(key):
    """Waiting for it takes it: it fits into no room at all."""
    with kin.open_receiver(f"sysv-mq:{key}?framing=raw") as receiver:
        peer = sysv_ipc.MessageQueue(key)
        with thread_of(receiver.recv, timeout=HANG) as call:
            until_blocked(receiver)
            peer.send(b"")
            assert call.result() == b""

        async def cancelled():
            task = asyncio.create_task(receiver.arecv())
            while receiver.statistics().waits < 2:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            peer.send(b"")
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                return await task
            return await receiver.arecv(timeout=HANG)

        assert asyncio.run(cancelled()) == b""
        assert receiver.statistics().depth == 0


# ── waking ───────────────────────────────────────────────────────────────────────────────────


def test_close_wakes_at_every_moment(key):
    with kin.open_receiver(f"sysv-mq:{key}?capacity=64") as first:
        with kin.open_sender(f"sysv-mq:{key}") as filler:
            with contextlib.suppress(kin.Timeout):
                while True:
                    filler.send_bytes(b"x" * 10, timeout=0)
        for number in range(600):
            end: kin.Receiver | kin.Sender
            if number % 2:
                end = receiver = kin.open_receiver(f"sysv-mq:{key}?type=5")
                body = receiver.recv
            else:
                end = sender = kin.open_sender(f"sysv-mq:{key}")
                body = functools.partial(sender.send_bytes, b"y" * 10)
            with thread_of(body) as call:
                for _ in range(random.randrange(3000)):
                    pass
                end.close()
                with pytest.raises(kin.Closed):
                    call.result()
        first.unlink()


def test_deadlines_end_every_wait(ends):
    receiver, _ = ends
    for _ in range(300):
        timeout = random.random() * 0.003
        start = time.monotonic()
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=timeout)
        assert time.monotonic() - start >= timeout


def test_a_timer_every_100_microseconds(ends):
    receiver, sender = ends
    ticks = 0

    def tick(*_):
        nonlocal ticks
        ticks += 1

    before = signal.signal(signal.SIGUSR1, tick)
    over = threading.Event()

    victim = threading.get_ident()

    def storm():
        while not over.is_set():
            signal.pthread_kill(victim, signal.SIGUSR1)
            time.sleep(0.0001)

    def send():
        for number in range(2000):
            sender.send_bytes(b"%8d" % number + bytes(2000))

    stormy = threading.Thread(target=storm)
    stormy.start()
    try:
        with thread_of(send) as call:
            for number in range(2000):
                assert receiver.recv_bytes(timeout=HANG)[:8] == b"%8d" % number
            call.result()
    finally:
        over.set()
        stormy.join()
        signal.signal(signal.SIGUSR1, before)
    assert ticks > 10


def test_handlers_run_while_a_call_is_blocked(ends):
    receiver, _ = ends

    class Interrupted(Exception):
        pass

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    main = threading.main_thread().native_id
    try:

        def send_signal():
            until_blocked(receiver)
            until(lambda: state(os.getpid(), main) == "S", "the main thread asleep")
            os.kill(os.getpid(), signal.SIGUSR1)

        with thread_of(send_signal) as call:
            with pytest.raises(Interrupted):
                receiver.recv(timeout=HANG)
            call.result()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_sigurg_ignored_blocked_or_handled(ends):
    receiver, _ = ends
    seen = []
    before = signal.getsignal(signal.SIGURG)
    try:
        for disposition in (signal.SIG_IGN, signal.SIG_DFL, lambda *_: seen.append(1)):
            signal.signal(signal.SIGURG, disposition)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG})
            with pytest.raises(kin.Timeout):
                receiver.recv(timeout=0.005)
            assert signal.SIGURG in signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGURG})
        assert seen, "the handler that the user set was replaced"
        assert signal.getsignal(signal.SIGURG) is disposition
    finally:
        signal.signal(signal.SIGURG, before or signal.SIG_DFL)


def test_a_send_that_timed_out_is_not_delivered(key):
    with kin.open_receiver(f"sysv-mq:{key}?capacity=64") as receiver:
        with kin.open_sender(f"sysv-mq:{key}") as sender:
            got = []

            def drain():
                while (number := receiver.recv(timeout=HANG)) is not None:
                    got.append(number)
                    time.sleep(random.random() * 0.002)

            sent = []
            with thread_of(drain) as call:
                for number in range(1500):
                    with contextlib.suppress(kin.Timeout):
                        sender.send(number, timeout=random.random() * 0.002)
                        sent.append(number)
                sender.send(None, timeout=HANG)
                call.result()
    assert got == sent
    assert len(sent) < 1500


def test_unlink_wakes_who_is_blocked(ends):
    receiver, sender = ends
    with thread_of(receiver.recv, timeout=HANG) as call:
        until_blocked(receiver)
        sender.unlink()
        with pytest.raises(kin.BrokenChannel, match="removed"):
            call.result()
    with pytest.raises(kin.BrokenChannel, match="removed"):
        sender.send(1)
    with pytest.raises(kin.NotFound):
        sender.unlink()


def test_a_blocked_thread_uses_no_processor(ends):
    receiver, sender = ends

    def cpu():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    with thread_of(receiver.recv, timeout=HANG) as call:
        until_blocked(receiver)
        before = cpu()
        time.sleep(0.3)
        assert cpu() - before < 0.1
        sender.send(1)
        call.result()


# ── presence ─────────────────────────────────────────────────────────────────────────────────


def test_a_blocked_receiver_learns_that_the_last_sender_was_killed(key, peers):
    receiver = kin.open_receiver(f"sysv-mq:{key}?lifetime=peers")

    def sends(voice):
        receiver.close()
        with kin.open_sender(f"sysv-mq:{key}?lifetime=peers", timeout=HANG) as sender:
            sender.send("x")
            voice.say()
            voice.hear()

    peer = peers.fork(sends)
    peer.hear()
    with receiver:
        assert receiver.recv(timeout=HANG) == "x"
        with thread_of(receiver.recv, timeout=HANG) as call:
            until_blocked(receiver)
            peer.kill(reap=False)
            with pytest.raises(kin.EndOfChannel):
                call.result()
    assert not exists(key)


def test_a_blocked_sender_learns_that_the_last_receiver_was_killed(key, peers):
    def receives(voice):
        with kin.open_receiver(f"sysv-mq:{key}?lifetime=peers&capacity=64"):
            voice.say()
            voice.hear()

    peer = peers.fork(receives)
    peer.hear()
    with kin.open_sender(f"sysv-mq:{key}?lifetime=peers", timeout=HANG) as sender:

        def fill():
            while True:
                sender.send_bytes(bytes(10), timeout=HANG)

        with thread_of(fill) as call:
            until_blocked(sender)
            peer.kill(reap=False)
            with pytest.raises(kin.BrokenChannel):
                call.result()
    assert not exists(key)


def test_without_the_watcher_a_blocked_receiver_learns_nothing(monkeypatch, peers):
    """The negative control of the two above."""
    monkeypatch.setattr(sysv_queue, "watching", lambda *fds, **options: contextlib.nullcontext())
    receiver, sender = kin.channel("sysv-mq:")
    start = time.monotonic()
    with receiver, thread_of(receiver.recv, timeout=0.3) as call:
        until_blocked(receiver)
        sender.close()
        with pytest.raises(kin.EndOfChannel):  # found at the last look, after the deadline
            call.result()
        assert time.monotonic() - start >= 0.3


def test_a_fork_while_somebody_is_blocked(peers):
    receiver, sender = kin.channel("sysv-mq:")

    def child(voice):
        with pytest.raises(kin.ForkedCopy):
            receiver.recv(timeout=0)
        receiver.close()
        own, other = kin.channel("sysv-mq:")
        other.close()
        with own, pytest.raises(kin.EndOfChannel):
            own.recv(timeout=HANG)
        sender.send("from the child")

    with receiver, thread_of(receiver.recv, timeout=HANG) as call:
        until_blocked(receiver)
        peer = peers.fork(child)
        peer.result()
        assert call.result() == "from the child"
        sender.close()
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)


def test_an_anonymous_queue_goes_with_its_last_peer(peers):
    receiver, sender = kin.channel("sysv-mq:")
    made = id_of(receiver)

    def child(voice):
        receiver.close()
        sender.send(1)
        sender.close()

    peer = peers.fork(child)
    peer.result()
    sender.close()
    assert made in queues()
    assert list(receiver) == [1]
    receiver.close()
    assert made not in queues()


def test_what_killed_peers_left_goes_with_the_next(peers):
    def dies(voice):
        ends = kin.channel("sysv-mq:")
        voice.say(id_of(ends[0]))
        voice.hear()

    peer = peers.fork(dies)
    made = peer.hear()
    for end in kin.channel("sysv-mq:"):
        end.close()
    assert made in queues()  # as long as somebody has it
    peer.kill()
    assert made in queues()
    for end in kin.channel("sysv-mq:"):
        end.close()
    assert made not in queues()


def test_what_killed_peers_left_under_a_key_is_not_delivered(key, peers):
    def dies(voice):
        with kin.open_receiver(f"sysv-mq:{key}?lifetime=peers"):
            with kin.open_sender(f"sysv-mq:{key}?lifetime=peers") as sender:
                sender.send("stale")
                voice.say()
                voice.hear()

    peer = peers.fork(dies)
    peer.hear()
    peer.kill()
    assert exists(key)
    with kin.open_receiver(f"sysv-mq:{key}?lifetime=peers") as receiver:
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0)
    assert not exists(key)


def test_peers_leave_a_queue_that_they_did_not_make(key):
    sysv_ipc.MessageQueue(key, sysv_ipc.IPC_CREX)
    kin.open_receiver(f"sysv-mq:{key}?lifetime=peers").close()
    assert exists(key)


def test_a_private_queue_of_somebody_else_is_never_swept():
    other = sysv_ipc.MessageQueue(sysv_ipc.IPC_PRIVATE, sysv_ipc.IPC_CREX)
    try:
        os.makedirs(os.path.dirname(sysv_queue.private_presence(other.id)), 0o700, exist_ok=True)
        os.mkfifo(sysv_queue.private_presence(other.id), 0o1600)
        for end in kin.channel("sysv-mq:"):
            end.close()
        assert other.id in queues()
    finally:
        other.remove()


# ── asyncio ──────────────────────────────────────────────────────────────────────────────────


def test_many_tasks_wait_at_once():
    async def main():
        channels = [kin.channel("sysv-mq:") for _ in range(12)]
        tasks = [asyncio.create_task(receiver.arecv()) for receiver, _ in channels]
        await asyncio.sleep(0.01)
        for number, (_, sender) in enumerate(channels):
            await sender.asend(number)
        got = await asyncio.gather(*tasks)
        for receiver, sender in channels:
            sender.close()
            with pytest.raises(kin.EndOfChannel):
                await receiver.arecv(timeout=HANG)
            receiver.close()
        return got

    assert asyncio.run(main()) == list(range(12))
    assert len([one for one in threading.enumerate() if one.name == "kinfolk helper"]) <= 8


def test_timeouts_and_closing_on_asyncio(ends):
    receiver, sender = ends

    async def main():
        with pytest.raises(kin.Timeout):
            await receiver.arecv(timeout=0.01)
        async with asyncio.timeout(HANG):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await receiver.arecv()
            await sender.asend("still whole")
            assert await receiver.arecv() == "still whole"
            task = asyncio.create_task(receiver.arecv())
            await asyncio.sleep(0.01)
            receiver.close()
            with pytest.raises(kin.Closed):
                await task

    asyncio.run(main())


def test_a_send_that_was_done_when_it_was_cancelled_returns_and_the_next_await_is_cancelled(key):
    """Sending and cancelling meet: either not sent and cancelled, or sent and cancelled one await later."""
    outcomes = set()

    async def one(receiver, sender, number):
        # The queue is full; the receiver makes room while the task is being cancelled.
        returned = False

        async def body():
            nonlocal returned
            await sender.asend(number)
            returned = True
            await asyncio.sleep(HANG)

        task = asyncio.create_task(body())
        waits = sender.statistics().waits
        while sender.statistics().waits == waits:
            await asyncio.sleep(0)
        await asyncio.sleep(random.random() * 0.001)
        first = receiver.recv(timeout=0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        outcomes.add(returned)
        if not returned:
            await sender.asend(number)
        return first

    async def main():
        with kin.open_receiver(f"sysv-mq:{key}?capacity=32&codec=raw&framing=raw") as receiver:
            with kin.open_sender(f"sysv-mq:{key}?framing=raw") as sender:
                sender.send(b"%20d" % 0)
                number = 0
                while number < 300 or (number < 20_000 and outcomes != {False, True}):
                    number += 1
                    assert int(await one(receiver, sender, b"%20d" % number)) == number - 1
                receiver.unlink()

    asyncio.run(main())
    assert outcomes == {False, True}, "the two never met"


_EXIT = """
import asyncio, os, threading, time
import kinfolk as kin
receiver, sender = kin.channel("sysv-mq:")
async def main():
    task = asyncio.create_task(receiver.arecv())
    await asyncio.sleep(0.01)
    os.write(1, b"waiting\\n")
    %s
try:
    asyncio.run(main())
finally:
    receiver.close(), sender.close()
"""


@pytest.mark.parametrize(
    "how", ["return", "loop = asyncio.get_running_loop(); loop.stop(); await task"]
)
def test_an_interpreter_ends_though_somebody_waits(how):
    process = subprocess.run(
        [sys.executable, "-c", _EXIT % how], check=False, capture_output=True, timeout=HANG
    )
    assert process.stdout == b"waiting\n"
    assert process.returncode in {0, 1}


_EXIT_BLOCKED = """
import os, threading
import kinfolk as kin
receiver, sender = kin.channel("sysv-mq:")
print(receiver._receiving._queue._id)
threading.Thread(target=receiver.recv, daemon=True).start()
while not receiver.statistics().waits:
    pass
"""


def test_an_interpreter_ends_though_a_daemon_thread_is_blocked():
    script = [sys.executable, "-c", _EXIT_BLOCKED]
    process = subprocess.run(script, check=True, stdout=subprocess.PIPE, timeout=HANG)
    for end in kin.channel("sysv-mq:"):
        end.close()  # sweeps
    assert int(process.stdout) not in queues()
