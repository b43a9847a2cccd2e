"""Descriptors of a ring's ends, for event loops; and who waits for a large block."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading

import pytest

import kinfolk as kin

HANG = 30


@pytest.fixture
def ends():
    receiver, sender = kin.channel("ring:?capacity=4096&arena=64K")
    with receiver, sender:
        yield receiver, sender


def ready(number, event, seconds):
    poll = select.poll()
    poll.register(number, event)
    return bool(poll.poll(seconds * 1000))


def test_a_sender_in_another_process_is_heard(ends):
    receiver, sender = ends
    number = receiver.fileno()
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            sender.send_bytes(b"x")
            os.kill(os.getpid(), signal.SIGKILL)
        assert ready(number, select.POLLIN, HANG)
        assert receiver.recv_bytes(timeout=HANG) == b"x"
        os.waitpid(pid, 0)
    with pytest.raises(kin.Timeout):
        receiver.recv_bytes(timeout=0)  # it may have been received before its sender was out
    assert not ready(number, select.POLLIN, 0)


def test_each_of_several_is_told(ends):
    receiver, sender = ends
    other = receiver.clone()
    with other:
        numbers = [receiver.fileno(), other.fileno()]
        sender.send("x")
        assert all(ready(number, select.POLLIN, 0) for number in numbers)
        assert other.recv(timeout=0) == "x"
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0)
        assert not any(ready(number, select.POLLIN, 0) for number in numbers)


def test_a_forked_copy_has_its_own(ends):
    receiver, sender = ends
    before = receiver.fileno()
    sender.send("for the parent")
    pid = os.fork()
    if pid == 0:
        good = ready(receiver.fileno(), select.POLLIN, HANG)
        os._exit(0 if good else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert ready(before, select.POLLIN, 0)
    assert receiver.recv(timeout=0) == "for the parent"
    assert not ready(before, select.POLLIN, 0)


def test_a_large_message_and_its_end_are_told(ends):
    receiver, sender = ends
    number = receiver.fileno()
    sender.send_bytes(bytes(20_000))
    assert ready(number, select.POLLIN, 0)
    assert len(receiver.recv_bytes(timeout=0)) == 20_000
    assert not ready(number, select.POLLIN, 0)
    sender.close()
    assert ready(number, select.POLLIN, HANG)


def test_room_is_told_across_processes(ends):
    receiver, sender = ends
    number = sender.fileno()
    assert ready(number, select.POLLOUT, 0)
    while True:
        try:
            sender.send_bytes(bytes(500), timeout=0)
        except kin.Timeout:
            break
    assert not ready(number, select.POLLOUT, 0)
    pid = os.fork()
    if pid == 0:
        while True:
            try:
                receiver.recv_bytes(timeout=0)
            except kin.Timeout:
                os._exit(0)
    assert ready(number, select.POLLOUT, HANG)
    sender.send_bytes(bytes(500), timeout=0)
    os.waitpid(pid, 0)


def threads():
    return sum("helper" in thread.name for thread in threading.enumerate())


def test_tasks_need_no_thread():
    before = threads()
    channels = [kin.channel("ring:?capacity=4096&arena=64K") for _ in range(10)]

    async def body():
        tasks = [asyncio.create_task(receiver.arecv(timeout=HANG)) for receiver, _ in channels]
        while not all(receiver.statistics().waits for receiver, _ in channels):
            await asyncio.sleep(0)
        helpers = threads()
        for number, (_, sender) in enumerate(channels):
            sender.send(number)
        assert await asyncio.gather(*tasks) == list(range(10))
        return helpers

    assert asyncio.run(body()) == before
    for ends in channels:
        for end in ends:
            end.close()


def test_where_there_is_no_instance_a_task_has_a_thread(ends, monkeypatch):
    receiver, sender = ends
    polling = receiver._receiving._polling

    def refused():
        raise OSError(24, "none")

    monkeypatch.setattr(type(polling), "fileno", lambda self: refused())

    async def body():
        task = asyncio.create_task(receiver.arecv(timeout=HANG))
        while not receiver.statistics().waits:
            await asyncio.sleep(0)
        sender.send("x")
        return await task

    assert asyncio.run(body()) == "x"


# ── a large block ────────────────────────────────────────────────────────────────────────────


def units(sender, count):
    return sender._sending._native.allocate(count * 4096)


def test_who_has_waited_for_a_large_block_gets_it_before_small_ones(ends):
    receiver, sender = ends
    halves = [units(sender, 8), units(sender, 4), units(sender, 4)]
    large = sender.clone()
    with large:
        got = []

        def reserve():
            with large.reserve(8 * 4096, timeout=HANG):
                got.append("large")

        thread = threading.Thread(target=reserve)
        thread.start()
        while not large.statistics().waits:
            pass
        while sender._sending._native.allocate(4096) is not None:
            pass  # it has not looked yet
        halves[1].release()  # enough for a small one
        assert units(sender, 1) is None
        halves[2].release()
        thread.join(HANG)
        assert got == ["large"]
        receiver.recv(timeout=0)
        assert units(sender, 1) is not None


def test_who_gives_up_lets_the_others_go(ends):
    _, sender = ends
    halves = [units(sender, 8), units(sender, 8)]
    halves[0].release()
    small = units(sender, 1)
    with pytest.raises(kin.Timeout), sender.reserve(8 * 4096, timeout=0.05):
        pass
    assert small is not None
    assert units(sender, 1) is not None
    del halves


def test_who_dies_lets_the_others_go(ends):
    _, sender = ends
    whole = [units(sender, 8), units(sender, 4)]
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(there, b".")
        with sender.reserve(8 * 4096):
            os._exit(1)
    os.read(here, 1)
    while units(sender, 1) is not None:
        pass  # until it waits
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert units(sender, 1) is not None
    os.close(here)
    os.close(there)
    del whole
