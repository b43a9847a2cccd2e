"""Messages of a ring that are acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading

import pytest

import kinfolk as kin
from tests.faults.test_interrupted_waits import TIMEOUTS, Storm

np = pytest.importorskip("numpy")

HANG = 30


@pytest.fixture
def ends():
    receiver, sender = kin.channel("ring:", acknowledge=True, arena="1M")
    with receiver, sender:
        yield receiver, sender


def in_child(function):
    """Run it in a forked child, which has to end well."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("what", [b"", b"x", {"job": 1}, "x" * 200_000])
def test_what_is_acknowledged_never_comes_again(ends, what):
    receiver, sender = ends
    sender.send(what)
    with receiver.recv_message(timeout=HANG) as message:
        assert message.object == what
        assert not message.redelivered
    receiver.close()
    sender.close()


def test_what_is_not_comes_again_and_says_so(ends):
    receiver, sender = ends
    other = receiver.clone()
    sender.send("first")
    sender.send(np.arange(50_000))
    taken = [receiver.recv_message(timeout=HANG) for _ in range(2)]
    assert [message.redelivered for message in taken] == [False, False]
    receiver.close()  # which gives them back, the oldest first
    with other:
        again = [other.recv_message(timeout=HANG) for _ in range(2)]
        assert [message.redelivered for message in again] == [True, True]
        assert again[0].object == "first"
        assert again[1].object.sum() == taken[1].object.sum()
        for message in again:
            message.acknowledge()
        sender.close()
        with pytest.raises(kin.EndOfChannel):
            other.recv_message(timeout=HANG)


def test_a_block_that_raises_gives_back(ends):
    receiver, sender = ends
    sender.send("x")
    with pytest.raises(ZeroDivisionError), receiver.recv_message(timeout=HANG):
        raise ZeroDivisionError
    assert receiver.recv_message(timeout=HANG).redelivered


def test_any_order(ends):
    receiver, sender = ends
    sender.send_many(range(100))
    messages = [receiver.recv_message(timeout=HANG) for _ in range(100)]
    for message in messages[::-2]:
        message.acknowledge()
    for message in messages[::2]:
        message.give_back()
    again = [receiver.recv_message(timeout=0) for _ in range(50)]
    assert sorted(message.object for message in again) == list(range(0, 100, 2))
    with pytest.raises(kin.Timeout):
        receiver.recv_message(timeout=0)


@pytest.mark.parametrize("waits", [True, False])
def test_who_dies_has_not_acknowledged(ends, waits):
    receiver, sender = ends
    here, there = os.pipe()
    sender.send("job")

    def work():
        held = receiver.recv_message(timeout=HANG)
        os.write(there, b".")
        signal.pause()
        held.acknowledge()

    pid = in_child(work)
    os.read(here, 1)
    os.close(here)
    os.close(there)
    found = []

    def receive():
        found.append(receiver.recv_message(timeout=HANG))

    thread = threading.Thread(target=receive)
    if waits:
        thread.start()
        while not receiver.statistics().waits:
            pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if not waits:
        thread.start()
    thread.join(HANG)
    assert found[0].object == "job"
    assert found[0].redelivered


def test_who_is_given_back_to_sleeps(ends):
    """Nobody dies here: it is told."""
    receiver, sender = ends
    sender.send("job")
    message = receiver.recv_message(timeout=HANG)
    other = receiver.clone()
    found = []
    thread = threading.Thread(target=lambda: found.append(other.recv_message(timeout=HANG)))
    thread.start()
    while not other.statistics().waits:
        pass
    message.give_back()
    thread.join(HANG)
    assert found[0].redelivered
    found[0].acknowledge()
    other.close()


def test_the_end_waits_until_all_is_acknowledged(ends):
    receiver, sender = ends
    here, there = os.pipe()
    back, go = os.pipe()
    sender.send("job")

    def work():
        message = receiver.recv_message(timeout=HANG)
        os.write(there, b".")
        os.read(back, 1)
        message.acknowledge()
        os.read(back, 1)

    pid = in_child(work)
    sender.close()
    os.read(here, 1)
    over = []

    def receive():
        with pytest.raises(kin.EndOfChannel):
            receiver.recv_message(timeout=HANG)
        over.append(True)

    thread = threading.Thread(target=receive)
    thread.start()
    # The child has a copy of the sender, too.
    os.write(go, b".")
    while not receiver.statistics().waits:
        pass
    os.write(go, b".")
    thread.join(HANG)
    assert over
    assert ended(pid) == 0
    for number in (here, there, back, go):
        os.close(number)


def test_who_has_some_himself_does_not_wait_for_the_end(ends):
    receiver, sender = ends
    sender.send("job")
    message = receiver.recv_message(timeout=HANG)
    sender.close()
    with pytest.raises(kin.EndOfChannel):
        receiver.recv_message(timeout=HANG)
    message.acknowledge()


def test_acknowledged_once_and_here(ends):
    receiver, sender = ends
    sender.send_many("ab")
    message, other = (receiver.recv_message(timeout=HANG) for _ in range(2))

    def in_a_copy():
        with pytest.raises(kin.UsageError):
            message.acknowledge()

    assert ended(in_child(in_a_copy)) == 0
    message.acknowledge()
    with pytest.raises(kin.UsageError):
        message.acknowledge()
    with pytest.raises(kin.UsageError):
        message.give_back()
    receiver.close()
    with pytest.raises(kin.UsageError, match="closed"):
        other.acknowledge()


def test_plain_receiving_is_refused_and_loses_nothing(ends):
    receiver, sender = ends
    sender.send("x")
    for name in ("recv", "recv_bytes"):
        with pytest.raises(kin.UsageError, match="acknowledged"):
            getattr(receiver, name)(timeout=0)
    with pytest.raises(kin.Unsupported):
        receiver.fileno()
    assert not receiver.recv_message(timeout=0).redelivered


@pytest.mark.parametrize("address", ["ring:", "pipe:", "mq:"])
def test_elsewhere_nothing_is_acknowledged(address):
    receiver, sender = kin.channel(address)
    with receiver, sender:
        sender.send("x")
        with pytest.raises(kin.Unsupported, match="acknowledged"):
            receiver.recv_message(timeout=0)
        assert receiver.recv(timeout=HANG) == "x"


def test_all_receivers_or_none():
    name = f"ring:test-acknowledged-{os.getpid()}"
    with kin.open_receiver(name, acknowledge=True):
        with pytest.raises(kin.UsageError, match="terms"):
            kin.open_receiver(name)
        with pytest.raises(kin.AddressError, match="receivers"):
            kin.open_sender(name, acknowledge=True)
        with kin.open_sender(name) as sender, kin.open_receiver(f"{name}?acknowledge=yes") as other:
            sender.send("x")
            other.recv_message(timeout=HANG).acknowledge()
    with kin.open_receiver(name), pytest.raises(kin.UsageError, match="terms"):
        kin.open_receiver(name, acknowledge=True)


def test_awaited(ends):
    receiver, sender = ends

    async def body():
        waiting = asyncio.create_task(receiver.arecv_message(timeout=HANG))
        while not receiver.statistics().waits:
            await asyncio.sleep(0)
        await sender.asend("x")
        async with await waiting as message:
            assert message.object == "x"

    asyncio.run(body())


def test_blocks_come_back(ends):
    receiver, sender = ends
    for number in range(2000):  # more than there are units
        sender.send(number)
        with receiver.recv_message(timeout=HANG) as message:
            assert message.object == number


def test_what_is_given_back_after_the_end_comes_again(ends):
    """Whoever has some himself does not wait for the end, and yet loses nothing."""
    receiver, sender = ends
    sender.send("job")
    sender.close()
    message = receiver.recv_message(timeout=HANG)
    with pytest.raises(kin.EndOfChannel):
        receiver.recv_message(timeout=HANG)
    message.give_back()
    with receiver.recv_message(timeout=HANG) as again:
        assert (again.object, again.redelivered) == ("job", True)
    with pytest.raises(kin.EndOfChannel):
        receiver.recv_message(timeout=HANG)


def test_what_is_dropped_is_given_back(ends):
    receiver, sender = ends
    sender.send("job")
    receiver.recv_message(timeout=HANG)
    again = receiver.recv_message(timeout=HANG)
    assert (again.object, again.redelivered) == ("job", True)


def test_what_was_settled_settles_nothing_that_comes_later(ends):
    receiver, sender = ends
    sender.send("job")
    first = receiver.recv_message(timeout=HANG)
    first.give_back()
    second = receiver.recv_message(timeout=HANG)
    with pytest.raises(kin.UsageError):
        first.acknowledge()
    del first
    with pytest.raises(kin.Timeout):
        receiver.recv_message(timeout=0)
    second.acknowledge()


def test_a_copy_of_it_in_a_child_gives_nothing_back(ends):
    receiver, sender = ends
    sender.send("job")
    message = receiver.recv_message(timeout=HANG)
    here, there = os.pipe()

    def receive_it_too():
        nonlocal message
        os.read(here, 1)
        own = receiver.recv_message(timeout=HANG)
        del message
        with pytest.raises(kin.Timeout):
            receiver.recv_message(timeout=0)
        own.acknowledge()

    pid = in_child(receive_it_too)
    message.give_back()
    os.write(there, b".")
    assert ended(pid) == 0
    os.close(here)
    os.close(there)


class Unloadable:
    def __reduce__(self):
        return int, ("no number",)


def test_what_can_not_be_decoded_can_be_settled(ends):
    receiver, sender = ends
    sender.send(Unloadable())
    with (
        pytest.raises(kin.DecodeError, match="ring:"),
        receiver.recv_message(timeout=HANG) as message,
    ):
        assert message.object
    with receiver.recv_message(timeout=HANG) as again:
        assert again.redelivered
    with pytest.raises(kin.Timeout):
        receiver.recv_message(timeout=0)


@pytest.mark.parametrize("fails", [False, True])
def test_interrupts_leave_nothing_with_nobody(ends, fails):
    receiver, sender = ends
    storm = Storm()

    def work():
        for timeout in TIMEOUTS:
            with contextlib.suppress(kin.Timeout):
                sender.send_bytes(bytes(10), timeout=timeout)
            with contextlib.suppress(kin.Timeout, ZeroDivisionError):
                with receiver.recv_message(timeout=timeout):
                    if fails:
                        raise ZeroDivisionError

    with storm.raging():
        storm.until(300, work)
    gc.collect()
    with contextlib.suppress(kin.Timeout):
        while True:
            receiver.recv_message(timeout=0).acknowledge()
    assert sender.statistics().depth == 0
    with sender.reserve(sender.limits.max_message, timeout=HANG):
        pass  # so all blocks are free
