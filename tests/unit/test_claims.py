"""One process at a time: what the record locks say between processes, threads, forks and duplicates."""

from __future__ import annotations

import fcntl
import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import kinfolk as kin
from kinfolk import record_locks
from kinfolk.channels import claims
from kinfolk.channels.claims import RECEIVING, SENDING, Claim, Membership
from tests.conformance.peers import Call, Peers

Ends = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Ends]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def taken(fd: int, direction: int) -> bool:
    """Whether this process gets the claim, which it gives back."""
    claim = Claim(fd, direction, "pipe:")
    try:
        claim.take()
    except kin.Busy:
        return False
    claim.release()
    return True


def test_the_record_is_laid_out_as_the_kernel_has_it(pipe: Ends) -> None:
    for start in (5, 1 << 40):
        asked = record_locks._FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)
        answer = record_locks._FLOCK.unpack(fcntl.fcntl(pipe[0], fcntl.F_GETLK, asked))
        assert answer == (fcntl.F_UNLCK, os.SEEK_SET, start, 1, 0)


@pytest.mark.parametrize("direction", [RECEIVING, SENDING])
def test_one_process_at_a_time(pipe: Ends, peers: Peers, direction: int) -> None:
    fd = pipe[direction]
    claim = Claim(fd, direction, "fifo:/x")
    assert claim.take()
    assert not claim.take()

    def other(voice: Any) -> str:
        try:
            Claim(fd, direction, "fifo:/x").take()
        except kin.Busy as error:
            return str(error)
        return "taken"

    said = peers.fork(other).result()
    assert f"process {os.getpid()} does" in said
    assert said.startswith("fifo:/x: another process ")
    claim.release()
    assert peers.fork(other).result() == "taken"
    assert claim.take()


def test_the_two_directions_are_two_claims(pipe: Ends, peers: Peers) -> None:
    claim = Claim(pipe[0], RECEIVING, "pipe:")
    claim.take()
    assert peers.fork(lambda voice: taken(pipe[1], SENDING)).result()
    assert not peers.fork(lambda voice: taken(pipe[0], RECEIVING)).result()


def test_a_forked_copy_has_not_got_it(pipe: Ends, peers: Peers) -> None:
    claim = Claim(pipe[0], RECEIVING, "pipe:")
    claim.take()

    def child(voice: Any) -> None:
        with pytest.raises(kin.Busy):
            claim.take()
        voice.say("busy")
        voice.hear()
        assert claim.take()  # the parent has given it back
        voice.say("taken")
        voice.hear()

    peer = peers.fork(child)
    assert peer.hear() == "busy"
    claim.release()
    peer.say()
    assert peer.hear() == "taken"
    with pytest.raises(kin.Busy, match=f"process {peer.pid} does"):
        claim.take()
    peer.kill(reap=False)  # and a zombie holds nothing
    assert claim.take()


def test_a_kill_gives_it_back(pipe: Ends, peers: Peers) -> None:
    def child(voice: Any) -> None:
        claim = Claim(pipe[1], SENDING, "pipe:")
        claim.take()
        voice.say()
        voice.hear()

    peer = peers.fork(child)
    peer.hear()
    assert not taken(pipe[1], SENDING)
    peer.kill()
    assert taken(pipe[1], SENDING)


@pytest.mark.parametrize("direction", [RECEIVING, SENDING])
def test_closing_a_duplicate_loses_nothing(pipe: Ends, peers: Peers, direction: int) -> None:
    """The kernel drops all locks of a process on an inode when that closes any descriptor of it."""
    fd = pipe[direction]
    claim = Claim(fd, direction, "pipe:")
    claim.take()
    duplicate = os.dup(fd)
    second = Claim(duplicate, direction, "pipe:")
    second.closing()
    os.close(duplicate)
    assert peers.fork(lambda voice: taken(fd, direction)).result()  # negative control: it is lost
    second.closed()
    assert not peers.fork(lambda voice: taken(fd, direction)).result()
    assert not claim.take()


def test_a_claim_that_somebody_took_meanwhile_is_busy_at_the_next_use(
    pipe: Ends, peers: Peers
) -> None:
    claim = Claim(pipe[0], RECEIVING, "pipe:")
    claim.take()
    duplicate = os.dup(pipe[0])
    second = Claim(duplicate, RECEIVING, "pipe:")

    def child(voice: Any) -> None:
        voice.hear()
        mine = Claim(pipe[0], RECEIVING, "pipe:")
        mine.take()
        voice.say()
        voice.hear()

    peer = peers.fork(child)
    second.closing()
    os.close(duplicate)
    peer.say()
    peer.hear()
    second.closed()
    with pytest.raises(kin.Busy):
        claim.take()


def test_nothing_is_locked_on_a_number_after_it_was_closed(
    pipe: Ends, peers: Peers, tmp_path: Any
) -> None:
    one, other = os.dup(pipe[1]), os.dup(pipe[1])
    first, second = Claim(one, SENDING, "pipe:"), Claim(other, SENDING, "pipe:")
    first.take()
    first.closing()
    os.close(one)
    with open(tmp_path / "file", "wb") as file:  # gets the number
        assert file.fileno() == one
        second.closed()

        def child(voice: Any) -> bool:
            return record_locks.ask(one, fcntl.F_GETLK, fcntl.F_WRLCK, 0, 0) is None

        assert peers.fork(child).result()
    os.close(other)


def test_two_ends_of_one_process_may_share_unless_sole(pipe: Ends) -> None:
    first = Claim(pipe[0], RECEIVING, "pipe:", sole=True)
    shared = Claim(pipe[0], RECEIVING, "pipe:")
    assert shared.take()
    with pytest.raises(kin.Busy, match="another end receives here"):
        first.take()
    shared.closed()
    assert first.take()
    assert Claim(pipe[1], SENDING, "pipe:", sole=True).take()


def test_a_sole_claim_keeps_its_place_when_locks_are_lost(pipe: Ends) -> None:
    first = Claim(pipe[0], RECEIVING, "pipe:", sole=True)
    second = Claim(pipe[0], RECEIVING, "pipe:", sole=True)
    third = Claim(pipe[0], RECEIVING, "pipe:", sole=True)
    first.take()
    third.closed()
    with pytest.raises(kin.Busy):
        second.take()


def test_threads_make_and_close_ends_at_the_same_time() -> None:
    def busy() -> None:
        for _ in range(150):
            receiver, sender = kin.channel("pipe:", codec="raw")
            with receiver, sender:
                sender.send(b"x")
                receiver.recv()

    for call in [Call(busy) for _ in range(4)]:
        call.result()


def a_channel_of_its_own(voice: Any) -> bool:
    """In a child that was forked while another thread may have been making an end."""
    receiver, sender = kin.channel("pipe:", codec="raw")
    with receiver, sender:
        sender.send(b"x")
        return bool(receiver.recv() == b"x")


def test_an_inode_is_forgotten_with_the_last_that_is_held_on_it() -> None:
    gc.collect()
    before = set(claims._inodes)
    receiver, sender = kin.channel("pipe:", codec="raw")
    with receiver, sender:
        sender.send(b"x")
        assert set(claims._inodes) - before
    del receiver, sender
    gc.collect()
    assert not set(claims._inodes) - before


def test_who_forks_while_threads_make_ends(peers: Peers) -> None:
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            receiver, sender = kin.channel("pipe:", codec="raw")
            receiver.close()
            sender.close()

    calls = [Call(busy) for _ in range(2)]
    try:
        for _ in range(20):
            assert peers.fork(a_channel_of_its_own).result()
    finally:
        stop.set()
    for call in calls:
        call.result()


def test_members_see_each_other_in_this_process_and_in_others(pipe: Ends, peers: Peers) -> None:
    mine = Membership(pipe[0])
    assert not mine.others()
    here = Membership(pipe[1])
    assert mine.others()
    here.closed()
    assert not mine.others()

    def child(voice: Any) -> None:
        voice.say(mine.others())  # by the fork it has become a member of its own
        voice.hear()

    peer = peers.fork(child)
    assert peer.hear()
    assert mine.others()
    peer.say()
    peer.result()
    assert not mine.others()


def test_a_killed_member_is_none(pipe: Ends, peers: Peers) -> None:
    mine = Membership(pipe[0])

    def child(voice: Any) -> None:
        voice.say()
        voice.hear()

    peer = peers.fork(child)
    peer.hear()
    assert mine.others()
    peer.kill(reap=False)
    assert not mine.others()


def test_locks_of_pids_that_are_not_seen_from_here_count(
    pipe: Ends, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a process of another pid namespace the kernel tells the pid 0."""
    real = fcntl.fcntl

    def foreign(fd: int, command: int, argument: Any = 0) -> Any:
        answer = real(fd, command, argument)
        if command == fcntl.F_GETLK and isinstance(answer, bytes):
            kind, whence, start, length, _ = record_locks._FLOCK.unpack(answer)
            return record_locks._FLOCK.pack(kind, whence, start, length, 0)
        return answer

    def child(voice: Any) -> None:
        claim = Claim(pipe[0], RECEIVING, "pipe:")
        member = Membership(pipe[0])
        claim.take()
        voice.say()
        voice.hear()
        del member

    mine = Membership(pipe[1])
    peer = peers.fork(child)
    peer.hear()
    monkeypatch.setattr(fcntl, "fcntl", foreign)
    assert mine.others()
    with pytest.raises(kin.Busy, match="only one can at a time"):
        Claim(pipe[0], RECEIVING, "pipe:").take()
