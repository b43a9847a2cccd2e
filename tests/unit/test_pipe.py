"""Anonymous pipes: what is theirs alone, beyond the contract that tests/conformance holds them to."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

import kinfolk as kin
from tests.conformance.peers import (
    open_descriptors,
)
from tests.other_user import User

Ends = tuple[kin.Receiver, kin.Sender]
MIB = 1 << 20


def fill(sender: kin.Sender) -> int:
    """Send until there is no room; how many."""
    count = 0
    while True:
        try:
            sender.send(b"%d" % count, timeout=0)
        except kin.Timeout:
            return count
        count += 1


# -------------------------------------------------------------------------------------- adoption


def test_an_inherited_end_is_opened_by_its_number() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    with kin.open_receiver(f"pipe:{reading}") as receiver:
        with kin.open_sender(f"pipe:{writing}", capacity="256K") as sender:
            assert not os.get_inheritable(writing)
            sender.send({"a": 1})
            assert sender.limits.capacity == 256 << 10
        assert receiver.recv() == {"a": 1}
        with pytest.raises(kin.EndOfChannel):
            receiver.recv()
    for number in (reading, writing):
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(number)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("pipe:", "number of its descriptor"),
        ("pipe:x", "number of its descriptor"),
        ("pipe:-1", "number of its descriptor"),
        ("pipe:999999", "is not open"),
        ("pipe:99999999999999999999", "is not open"),
    ],
)
def test_what_can_not_be_adopted(address: str, says: str) -> None:
    for opening in (kin.open_receiver, kin.open_sender):
        with pytest.raises(kin.AddressError, match=says):
            opening(address)


def test_the_wrong_end_and_no_pipe_are_not_adopted_and_stay_open() -> None:
    reading, writing = os.pipe()
    event = os.eventfd(0)
    with pytest.raises(kin.AddressError, match="not the write end"):
        kin.open_sender(f"pipe:{reading}")
    with pytest.raises(kin.AddressError, match="not the read end"):
        kin.open_receiver(f"pipe:{writing}")
    with pytest.raises(kin.AddressError, match="not the read end"):
        kin.open_receiver(f"pipe:{event}")
    for number in (reading, writing, event):
        os.close(number)


def test_a_new_pipe_has_no_name() -> None:
    with pytest.raises(kin.AddressError, match="no name"):
        kin.channel("pipe:7")


# -------------------------------------------------------------------------------------- capacity


def test_the_capacity_is_the_kernels_word() -> None:
    receiver, sender = kin.channel("pipe:?capacity=100000", codec="raw")
    with receiver, sender:
        assert sender.limits.capacity == 131072  # rounded up
        assert sender.limits.capacity == fcntl.fcntl(sender.fileno(), fcntl.F_GETPIPE_SZ)
        assert fill(sender) == sender.limits.depth == 32


def test_a_plain_user_is_told_the_limit(as_plain_user: User) -> None:
    with open("/proc/sys/fs/pipe-max-size", encoding="ascii") as file:
        most = int(file.read())

    def ask() -> str:
        before = open_descriptors()
        with pytest.raises(kin.LimitReached) as caught:
            kin.channel("pipe:", capacity=most * 4)
        assert open_descriptors() == before
        return str(caught.value)

    said = as_plain_user.run(ask)
    assert str(most) in said
    assert f"sysctl fs.pipe-max-size={most * 4}" in said


@pytest.mark.parametrize("capacity", [1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1])
def test_more_than_any_pipe_holds(capacity: int) -> None:
    with pytest.raises(kin.LimitReached, match="can't be made"):
        kin.channel("pipe:", capacity=capacity)


def test_a_pair_that_can_not_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = os.pipe2

    def once(flags: int) -> tuple[int, int]:
        if made:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made.append(1)
        return real(flags)

    before = open_descriptors()
    monkeypatch.setattr(os, "pipe2", once)
    with pytest.raises(kin.LimitReached):
        kin.pair("pipe:")
    assert open_descriptors() == before
