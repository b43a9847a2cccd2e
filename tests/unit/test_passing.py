"""Ends that move to children of multiprocessing, and second ends in this process."""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from tests.conformance.peers import HANG, open_descriptors, readable
from tests.unit.streams import no_more_descriptors

METHODS = ["fork", "spawn", "forkserver"]


def echo(receiver: kin.Receiver, sender: kin.Sender) -> None:
    """Send back what comes; in a child that was started anew, so it must be importable."""
    with receiver, sender:
        while (obj := receiver.recv(timeout=HANG)) != "stop":
            sender.send((obj, os.get_inheritable(receiver.fileno())))


def answer(connection: kin.Connection) -> None:
    with connection:
        connection.send(connection.recv())


@pytest.fixture(params=METHODS)
def context(request: pytest.FixtureRequest) -> Any:
    if request.param == "fork":
        pytest.importorskip("multiprocessing.popen_fork")
    return multiprocessing.get_context(request.param)


def stop_the_servers_of_multiprocessing() -> None:
    from multiprocessing import forkserver, resource_tracker

    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_both_ends_move_to_a_child(context: Any) -> None:
    to_child, sender = kin.channel("pipe:")
    receiver, from_child = kin.channel("pipe:")
    child = context.Process(target=echo, args=(to_child, from_child))
    child.start()
    to_child.close()
    from_child.close()
    with sender, receiver:
        sender.send({"a": 1})
        assert receiver.recv(timeout=HANG) == ({"a": 1}, False)
        sender.send(
            "stop"
        )  # a forked child has copies of these ends too, so that none of them is an end
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)
    child.join(HANG)
    assert child.exitcode == 0
    child.close()
    stop_the_servers_of_multiprocessing()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_connection_moves_to_a_child(context: Any) -> None:
    here, there = kin.pair("pipe:")
    child = context.Process(target=answer, args=(there,))
    child.start()
    there.close()
    with here:
        here.send("x")
        assert here.recv(timeout=HANG) == "x"
    child.join(HANG)
    child.close()
    stop_the_servers_of_multiprocessing()


@pytest.mark.parametrize("lifetime", ["peers", "name"])
def test_the_end_of_a_fifo_remembers_its_name(socket_path: Path, lifetime: str) -> None:
    receiver = kin.open_receiver(f"fifo:{socket_path}", lifetime=lifetime)
    clone = receiver.clone()
    receiver.close()
    assert socket_path.exists()
    clone.close()
    assert socket_path.exists() == (lifetime == "name")
    if lifetime == "name":
        socket_path.unlink()


def test_an_end_is_not_pickled_at_any_other_time() -> None:
    receiver, sender = kin.channel("pipe:")
    with receiver, sender:
        for end in (receiver, sender):
            with pytest.raises(kin.UsageError, match="can't be pickled"):
                pickle.dumps(end)
            with pytest.raises(kin.UsageError, match="can't be pickled"):
                copy.copy(end)
        with pytest.raises(kin.CodecError, match="can't be pickled"):
            sender.send(receiver)


def test_a_clone_keeps_the_channel_open() -> None:
    receiver, sender = kin.channel("pipe:", codec="msgpack")
    second = sender.clone()
    assert second.codec == "msgpack"
    assert second.fileno() != sender.fileno()
    sender.close()
    second.send([1])
    second.close()
    assert receiver.recv() == [1]
    with pytest.raises(kin.EndOfChannel):
        receiver.recv()
    receiver.close()


def test_a_closed_end_has_no_second() -> None:
    before = open_descriptors()
    receiver, sender = kin.channel("pipe:")
    receiver.close()
    sender.close()
    for end in (receiver, sender):
        with pytest.raises(kin.Closed):
            end.clone()
    assert open_descriptors() == before


MECHANISMS = ["pipe:", "unix:", "unix-seqpacket:", "unix-dgram:", "mq:", "tcp:"]


@pytest.mark.parametrize("mechanism", [*MECHANISMS, "sysv-mq:"])
def test_a_closed_end_of_any_kind_has_no_second(mechanism: str) -> None:
    before = open_descriptors()
    receiver, sender = kin.channel(mechanism)
    here, there = kin.pair(mechanism)
    for end in (receiver, sender, here, there):
        end.close()
        with pytest.raises(kin.Closed):
            end.clone()
    assert open_descriptors() == before


def how_many_more() -> int:
    """How many descriptors this process may still open."""
    opened = []
    with contextlib.suppress(OSError):
        while True:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    for fd in opened:
        os.close(fd)
    return len(opened)


def second_of(end: Any) -> Any:
    """A clone made with as few free descriptors as it needs; with fewer, nothing may be left of the attempt."""
    for left in range(10):
        spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(left)]
        with no_more_descriptors():
            for fd in spare:
                os.close(fd)
            still = []
            for _ in range(2):  # a first attempt may make what the end keeps for later ones
                try:
                    return end.clone()
                except kin.LimitReached as error:
                    assert "ulimit" in str(error)
                    still.append(how_many_more())
            kept = end.limits.mechanism in {"unix", "tcp"}
            assert still[0] == still[1] >= left - kept
    raise AssertionError("a clone needs more than ten descriptors")


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_second_end_without_descriptors_for_it(mechanism: str) -> None:
    """A clone that fails has opened nothing; and what was read ahead is neither lost nor received twice."""
    receiver, sender = kin.channel(mechanism)
    here, there = kin.pair(mechanism)
    sender.send_many([1, 2, 3])
    there.send_many([1, 2, 3])
    assert receiver.recv(timeout=HANG) == here.recv(timeout=HANG) == 1
    for first in (receiver, here):
        with no_more_descriptors(), pytest.raises(kin.LimitReached):
            first.clone()
        assert first.recv(timeout=HANG) == 2
        with second_of(first) as second:
            first.close()
            assert second.recv(timeout=HANG) == 3
    with second_of(sender):
        sender.close()
    there.close()


@pytest.mark.parametrize("mechanism", [*MECHANISMS, "sysv-mq:"])
def test_a_connection_has_a_second_both_ways(mechanism: str) -> None:
    before = open_descriptors()
    here, there = kin.pair(mechanism)
    with there:
        second = here.clone()
        here.close()
        second.send("there")
        assert there.recv(timeout=HANG) == "there"
        there.send("back")
        assert second.recv(timeout=HANG) == "back"
        second.close()
        with pytest.raises(kin.EndOfChannel):
            there.recv(timeout=HANG)
    assert open_descriptors() == before


@pytest.mark.parametrize("mechanism", ["unix:", "mq:", "unix-dgram:"])
def test_a_descriptor_to_wait_on_needs_some(mechanism: str) -> None:
    receiver, sender = kin.channel(mechanism)
    with receiver, sender:
        spare = os.dup(0)
        with no_more_descriptors():
            with pytest.raises(kin.LimitReached, match="ulimit"):
                receiver.fileno()
            os.close(spare)
            with pytest.raises(kin.LimitReached):
                receiver.fileno()
            assert how_many_more() == 1
        sender.send(1)
        assert readable(receiver.fileno())
        assert receiver.recv(timeout=HANG) == 1


@pytest.mark.parametrize("scheme", ["unix", "unix-seqpacket", "unix-dgram", "tcp"])
def test_a_listener_is_not_passed_on(scheme: str, socket_path: Path) -> None:
    address = "tcp:127.0.0.1:0" if scheme == "tcp" else f"{scheme}:{socket_path}"
    with kin.listen(address) as listener:
        process = multiprocessing.get_context("spawn").Process(target=print, args=(listener,))
        with pytest.raises(kin.UsageError, match=r"can't be passed on.*listen in the other"):
            process.start()
        with pytest.raises(kin.UsageError, match="can't be passed on"):
            copy.copy(listener)
    assert listener.address
    with pytest.raises(kin.Closed):
        listener.fileno()
    stop_the_servers_of_multiprocessing()


def test_a_closed_end_without_descriptors_has_no_second(key: int) -> None:
    """A queue by number could be held again."""
    receiver = kin.open_receiver(f"sysv-mq:{key}", lifetime="name")
    receiver.close()
    with pytest.raises(kin.Closed):
        receiver.clone()
