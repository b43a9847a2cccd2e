"""POSIX message queues: what is peculiar to them. The rest is in tests/conformance."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import multiprocessing
import os
import random
import resource
import shutil
import stat
import subprocess
import sys
from multiprocessing import resource_tracker

import posix_ipc
import pytest

import kinfolk as kin
from kinfolk.channels import queue_transport
from kinfolk.channels.presence import presence_path
from kinfolk.channels.queue_limits import RLIMIT_MSGQUEUE
from kinfolk.sysctl import kernel_number
from tests.conformance.peers import HANG, FailedInPeer, readable


@pytest.fixture
def name(unique_name):
    yield "/" + unique_name
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_message_queue("/" + unique_name)


def mode_of(name):
    queue = posix_ipc.MessageQueue(name, read=True, write=False)
    try:
        return stat.S_IMODE(os.fstat(queue.mqd).st_mode)
    finally:
        queue.close()


def exists(name):
    try:
        posix_ipc.MessageQueue(name).close()
    except posix_ipc.ExistentialError:
        return False
    return True


# ── names, modes, limits ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wrong", ["x", "/", "/..", "/a/b", "//a", "/" + "n" * 256])
def test_wrong_names_say_what_a_name_is(wrong):
    with pytest.raises(kin.AddressError, match=r"mq:/name|shorter"):
        kin.open_receiver(f"mq:{wrong}")


def test_the_limits_are_the_kernels(name):
    with kin.open_receiver(f"mq:{name}") as receiver:
        assert receiver.limits.depth == min(
            kernel_number("fs.mqueue.msg_default"), kernel_number("fs.mqueue.msg_max")
        )
        size = min(
            kernel_number("fs.mqueue.msgsize_default"), kernel_number("fs.mqueue.msgsize_max")
        )
        assert receiver.limits.max_message == size - queue_transport.FOOTER_SIZE
    with kin.open_receiver(f"mq:{name}", framing="raw") as receiver:
        assert receiver.limits.max_message == size


def test_options_make_the_queue(name):
    with kin.open_receiver(f"mq:{name}?depth=3&max_message=100") as receiver:
        assert (receiver.limits.depth, receiver.limits.max_message) == (3, 100)
        with kin.open_sender(f"mq:{name}") as sender:
            for _ in range(3):
                sender.send_bytes(bytes(100))
            assert sender.statistics().depth == 3
            with pytest.raises(kin.Timeout):
                sender.send_bytes(b"x", timeout=0)
            with pytest.raises(kin.MessageTooBig, match="msgsize_max") as caught:
                sender.send_bytes(bytes(101))
            assert "101" in str(caught.value)
            assert "100" in str(caught.value)


def test_beyond_the_sysctl_names_it(name, as_plain_user):
    beyond = kernel_number("fs.mqueue.msg_max") + 1
    with pytest.raises(kin.LimitReached) as caught:
        as_plain_user.run(kin.open_receiver, f"mq:{name}?depth={beyond}")
    assert f"sysctl fs.mqueue.msg_max={beyond}" in str(caught.value)
    assert f"is {beyond - 1}" in str(caught.value)
    assert caught.value.errno == errno.EINVAL
    beyond = kernel_number("fs.mqueue.msgsize_max") + 1
    with pytest.raises(kin.LimitReached) as caught:
        as_plain_user.run(kin.open_receiver, f"mq:{name}?framing=raw&max_message={beyond}")
    assert f"sysctl fs.mqueue.msgsize_max={beyond}" in str(caught.value)
    assert not exists(name)


def test_bytes_of_a_user_are_limited(name, peers):
    def child(voice):
        resource.setrlimit(RLIMIT_MSGQUEUE, (10_000, 10_000))
        kin.open_receiver(f"mq:{name}?depth=10&max_message=8000")

    with pytest.raises(FailedInPeer) as caught:
        peers.fork(child).result()
    error = caught.value.error
    assert isinstance(error, kin.LimitReached)
    assert error.errno == errno.EMFILE
    assert "RLIMIT_MSGQUEUE" in str(error)
    assert "10000" in str(error)
    assert "ulimit -q" in str(error)


def test_without_a_descriptor_left_it_says_so(name, peers):
    def child(voice):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        kin.open_receiver(f"mq:{name}")

    with pytest.raises(FailedInPeer) as caught:
        peers.fork(child).result()
    assert isinstance(caught.value.error, kin.LimitReached)
    assert "ulimit -n" in str(caught.value.error)


_TOO_MANY = """
import os, sys
import kinfolk as kin
import kinfolk.channels.mq  # while its files can be read
with open("/proc/sys/fs/mqueue/queues_max", "w") as file:
    file.write("1")
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
first = kin.open_receiver("mq:/first")
try:
    kin.open_receiver("mq:/second")
except kin.NoSpace as error:
    print(error)
"""


def test_too_many_queues_names_the_limit():
    output = in_own_ipc_namespace(_TOO_MANY)
    assert "fs.mqueue.queues_max is 1" in output
    assert "sysctl fs.mqueue.queues_max=2" in output


def in_own_ipc_namespace(script):
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-i", "true"], check=False).returncode:
        pytest.skip("needs unshare(1) and the right to make an IPC namespace")
    run = [unshare, "-i", sys.executable, "-W", "ignore", "-c", script]
    return subprocess.run(run, check=True, stdout=subprocess.PIPE, timeout=HANG).stdout.decode()


def test_a_smaller_queue_is_joined_only_when_nothing_was_asked(name):
    with kin.open_receiver(f"mq:{name}?depth=2&max_message=50"):
        for option, asked in (("depth", 3), ("max_message", 51)):
            for opening in (kin.open_receiver, kin.open_sender):
                with pytest.raises(kin.AddressError, match=f"{option}={asked} was asked"):
                    opening(f"mq:{name}", **{option: asked})
        with kin.open_receiver(f"mq:{name}") as joined:
            assert (joined.limits.depth, joined.limits.max_message) == (2, 50)
        kin.open_receiver(f"mq:{name}?depth=2&max_message=40").close()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o200])
def test_the_mode_is_exact_whatever_the_umask(name, mode):
    before = os.umask(0o077)
    try:
        with kin.open_receiver(f"mq:{name}", mode=mode, codec="msgpack"):
            pass
    finally:
        os.umask(before)
    os.umask(before)
    queue = posix_ipc.MessageQueue(name)
    assert stat.S_IMODE(os.fstat(queue.mqd).st_mode) == mode
    queue.close()


def test_pickles_and_a_mode_for_others_do_not_go_together(name):
    with pytest.raises(kin.UntrustedPeer, match="msgpack"):
        kin.open_receiver(f"mq:{name}?mode=0622")
    assert not exists(name)


def test_another_users_queue_is_refused(name, foreign_user):
    def squat():
        before = os.umask(0)
        posix_ipc.MessageQueue(name, posix_ipc.O_CREX, mode=0o666).close()
        os.umask(before)

    foreign_user.run(squat)
    for opening in (kin.open_receiver, kin.open_sender):
        with pytest.raises(kin.UntrustedPeer, match=f"user {foreign_user.uid}"):
            opening(f"mq:{name}", timeout=1)
    with pytest.raises(kin.UntrustedPeer):
        kin.open_receiver(f"mq:{name}", codec="msgpack")
    kin.open_sender(f"mq:{name}", codec="msgpack").close()


def test_ours_is_closed_to_others(name, foreign_user):
    with kin.open_receiver(f"mq:{name}"):
        with pytest.raises(kin.AccessDenied, match="mode"):
            foreign_user.run(lambda: kin.open_sender(f"mq:{name}?codec=msgpack", timeout=1))
    posix_ipc.unlink_message_queue(name)
    with kin.open_receiver(f"mq:{name}?mode=0622&codec=msgpack") as receiver:
        foreign_user.run(
            lambda: kin.open_sender(f"mq:{name}?codec=msgpack", timeout=HANG).send("hello")
        )
        assert receiver.recv(timeout=HANG) == "hello"


# ── messages ─────────────────────────────────────────────────────────────────────────────────


def test_priorities(name):
    with kin.open_receiver(f"mq:{name}") as receiver, kin.open_sender(f"mq:{name}") as sender:
        for text, priority in (("a", None), ("b", 7), ("c", 32767), ("d", 7), ("e", 0)):
            sender.send(text, priority=priority)
        assert [receiver.recv(timeout=0) for _ in range(5)] == ["c", "b", "d", "a", "e"]
        for wrong in (-1, 32768):
            with pytest.raises(kin.InvalidValue, match="32767"):
                sender.send("x", priority=wrong)
        assert sender.statistics().depth == 0


def test_raw_is_bare(name):
    with kin.open_receiver(f"mq:{name}", framing="raw") as receiver:
        peer = posix_ipc.MessageQueue(name)
        peer.send(b"from C", priority=3)
        peer.send(b"")
        assert receiver.recv(timeout=0) == b"from C"
        assert receiver.recv(timeout=0) == b""
        with kin.open_sender(f"mq:{name}", framing="raw") as sender:
            sender.send(b"to C", priority=9)
            with pytest.raises(kin.Unsupported, match="framed"):
                sender.send(b"")
        assert peer.receive(0) == (b"to C", 9)
        peer.close()


@pytest.mark.parametrize("alien", [b"", b"x", b"\x01kQ", b"bare bytes of a C program"])
def test_aliens_are_told_from_messages(name, alien):
    with kin.open_receiver(f"mq:{name}") as receiver, kin.open_sender(f"mq:{name}") as sender:
        peer = posix_ipc.MessageQueue(name)
        peer.send(alien)
        peer.close()
        sender.send("ours")
        with pytest.raises(kin.CorruptChannel, match="raw"):
            receiver.recv(timeout=0)
        assert receiver.recv(timeout=0) == "ours"


def test_arrays_are_aligned(name):
    numpy = pytest.importorskip("numpy")
    with kin.open_receiver(f"mq:{name}") as receiver, kin.open_sender(f"mq:{name}") as sender:
        sender.send(numpy.arange(100.0))
        array = receiver.recv(timeout=0)
        assert array.flags.aligned
        assert not array.flags.writeable
        assert array.sum() == 4950


# ── lifetimes ────────────────────────────────────────────────────────────────────────────────


def test_a_name_and_what_is_in_it_outlive_everybody(name):
    with kin.open_receiver(f"mq:{name}"), kin.open_sender(f"mq:{name}") as sender:
        sender.send("later")
    assert mode_of(name) == 0o600
    with kin.open_receiver(f"mq:{name}") as receiver:
        assert receiver.recv(timeout=0) == "later"
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0.01)
        receiver.unlink()
        with pytest.raises(kin.NotFound):
            receiver.unlink()


def test_peers_take_their_queue_with_them(name):
    with kin.open_receiver(f"mq:{name}?lifetime=peers") as receiver:
        with kin.open_sender(f"mq:{name}?lifetime=peers") as sender:
            sender.send(1)
        assert exists(name)
        assert list(receiver) == [1]  # and at the end the last of them has left
        assert not exists(name)
    assert not os.path.exists(presence_path("mq", name))


def test_peers_leave_a_queue_that_they_did_not_make(name):
    posix_ipc.MessageQueue(name, posix_ipc.O_CREX, mode=0o600).close()
    with kin.open_receiver(f"mq:{name}?lifetime=peers"):
        pass
    assert exists(name)


def test_what_killed_peers_left_is_not_delivered(name, peers):
    def dies(voice):
        with kin.open_receiver(f"mq:{name}?lifetime=peers"):
            with kin.open_sender(f"mq:{name}?lifetime=peers") as sender:
                sender.send("stale")
                voice.say()
                voice.hear()

    peer = peers.fork(dies)
    peer.hear()
    peer.kill()
    assert exists(name)
    with kin.open_receiver(f"mq:{name}?lifetime=peers") as receiver:
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0)
    assert not exists(name)


def test_coming_and_going_at_once_never_strands_anybody(name, peers):
    """The last one removes the queue while the next one joins: both or neither see the new one."""

    def comes_and_goes(voice, seed):
        for number in range(150):
            with kin.open_receiver(f"mq:{name}?lifetime=peers", timeout=HANG):
                with kin.open_sender(f"mq:{name}?lifetime=peers", timeout=HANG) as sender:
                    sender.send((seed, number), timeout=HANG)
                    # Whoever is here now sees it, or the queue has gone with the last one.
                    assert exists(name)

    crowd = [peers.fork(lambda voice, seed=seed: comes_and_goes(voice, seed)) for seed in range(3)]
    received = 0
    while not all(readable(peer.pidfd, 0) for peer in crowd):
        with kin.open_receiver(f"mq:{name}?lifetime=peers", timeout=HANG) as receiver:
            with contextlib.suppress(kin.Timeout, kin.EndOfChannel):
                while True:  # so that nobody blocks on a full queue
                    receiver.recv(timeout=0.01)
                    received += 1
    for peer in crowd:
        peer.result()
    assert received
    assert not exists(name)


def test_anonymous_queues_end_with_their_peers(peers):
    receiver, sender = kin.channel("mq:")

    def child(voice):
        receiver.close()
        sender.send("x")
        voice.say()
        voice.hear()

    peer = peers.fork(child)
    sender.close()
    peer.hear()
    assert receiver.recv(timeout=HANG) == "x"
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0.01)
    peer.kill(reap=False)
    with receiver, pytest.raises(kin.EndOfChannel):
        receiver.recv(timeout=HANG)


def test_an_anonymous_queue_takes_no_lifetime():
    with pytest.raises(kin.AddressError, match="as long as its peers"):
        kin.channel("mq:?lifetime=name")


def answer(connection):
    connection.send(connection.recv() + 1)


def test_ends_travel_to_a_spawned_process():
    here, there = kin.pair("mq:")
    process = multiprocessing.get_context("spawn").Process(target=answer, args=(there,))
    process.start()
    there.close()
    here.send(41)
    assert here.recv(timeout=HANG) == 42
    process.join(HANG)
    process.close()
    with pytest.raises(kin.EndOfChannel):
        here.recv(timeout=HANG)
    here.close()
    getattr(resource_tracker._resource_tracker, "_stop")()  # noqa: B009, the process that spawning left


# ── cancellation ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mechanism", ["mq:", "sysv-mq:"])
def test_cancelled_receives_lose_and_double_nothing(mechanism):
    rounds = 3000

    async def main():
        receiver, sender = kin.channel(mechanism)
        got = []

        async def send_all():
            for number in range(rounds):
                await sender.asend(number)
                if number % 3 == 0:
                    await asyncio.sleep(random.random() * 0.0003)
            sender.close()

        sending = asyncio.create_task(send_all())
        cancelled = 0
        while True:
            task = asyncio.create_task(receiver.arecv())
            if random.random() < 0.5:
                await asyncio.sleep(0)
            else:
                await asyncio.wait((task,), timeout=random.random() * 0.0003)
            task.cancel()
            try:
                got.append(await task)
            except asyncio.CancelledError:
                cancelled += 1
            except kin.EndOfChannel:
                break
        await sending
        receiver.close()
        return got, cancelled

    got, cancelled = asyncio.run(main())
    assert got == list(range(rounds))
    assert cancelled > 0


@pytest.mark.parametrize("mechanism", ["mq:?depth=2&max_message=200", "sysv-mq:?capacity=64"])
def test_cancelled_sends_are_not_delivered_and_others_are_once(mechanism):
    rounds = 3000

    async def main():
        receiver, sender = kin.channel(mechanism)
        sent, got = [], []

        async def receive_all():
            async for number in receiver:
                got.append(number)
                if number % 5 == 0:
                    await asyncio.sleep(random.random() * 0.0003)

        receiving = asyncio.create_task(receive_all())
        for number in range(rounds):
            task = asyncio.create_task(sender.asend(number))
            if random.random() < 0.5:
                await asyncio.sleep(0)
            else:
                await asyncio.wait((task,), timeout=random.random() * 0.0003)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                continue
            sent.append(number)
        sender.close()
        await receiving
        receiver.close()
        return sent, got

    sent, got = asyncio.run(main())
    assert got == sent
    assert len(sent) < rounds
