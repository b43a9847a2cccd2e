"""Ends that move to children of multiprocessing, and second ends in this process."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from tests.conformance.peers import HANG, open_descriptors

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
