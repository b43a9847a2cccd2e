"""Ends in other processes: bare forks, multiprocessing's ways to start, clones."""

from __future__ import annotations

import multiprocessing
import pickle
from multiprocessing import forkserver, resource_tracker
from typing import Any

import pytest

import kinfolk as kin
from tests.conformance import targets
from tests.conformance.fixtures import main_ways
from tests.conformance.link import Link
from tests.conformance.peers import HANG, FailedInPeer, thread_of, until_blocked
from tests.conformance.test_endings import sends_until_it_breaks
from tests.conformance.test_flow import fill, size_that_fits


def hold(voice, *ends):
    """Hold copies of ends until told to close them, one by one."""
    voice.say("holding")
    for end in ends:
        voice.hear()
        end.close()
        voice.say("closed")


def test_a_copy_of_a_sender_counts_until_it_is_closed(link: Link):
    receiver, sender = link.both()
    child = link.peers.fork(hold, receiver, sender)
    child.hear()
    child.say()
    child.hear()  # the receiver's copy is gone, so the child only sends
    sender.send("x")
    assert receiver.recv(timeout=HANG) == "x"
    sender.close()
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0.02)
    child.say()
    child.hear()
    if receiver.limits.presence:
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)
    child.result()


def test_a_copy_of_a_receiver_counts_until_it_is_closed(link: Link):
    receiver, sender = link.both()
    child = link.peers.fork(hold, sender, receiver)
    child.hear()
    child.say()
    child.hear()
    receiver.close()
    sender.send("nobody reads it, but somebody could", timeout=HANG)
    child.say()
    child.hear()
    if sender.limits.presence:
        with pytest.raises(kin.BrokenChannel):
            sends_until_it_breaks(sender)
    child.result()


def test_closing_copies_takes_nothing_from_the_parent(link: Link):
    """Neither the name, nor the connection, nor what waits."""
    receiver, sender = link.both()
    sender.send("before")
    child = link.peers.fork(hold, sender, receiver)
    child.hear()
    child.say()
    child.say()
    child.result()
    sender.send("after")
    assert [receiver.recv(timeout=HANG) for _ in range(2)] == ["before", "after"]
    if not link.variant.anonymous:
        assert link.name_exists() in (True, None) or link.variant.duplex


def test_a_fork_while_a_thread_is_inside(link: Link):
    """The copy of what was in use is ForkedCopy; the parent's goes on as if nothing had been."""
    receiver, sender = link.both()
    size = size_that_fits(sender)
    taken = fill(sender, size)

    def use(voice):
        outcome = []
        try:
            sender.send_bytes(bytes(size), timeout=0)
        except kin.KinfolkError as error:
            outcome = [type(error).__name__, error.remedy]
        sender.close()
        receiver.close()
        return outcome

    with thread_of(sender.send_bytes, bytes(size), timeout=HANG) as call:
        until_blocked(sender)
        name, remedy = link.peers.fork(use).result()
        assert name == "ForkedCopy"
        assert remedy
        for _ in range(taken):
            receiver.recv_bytes(timeout=HANG)
        call.result()
    assert receiver.recv_bytes(timeout=HANG) == bytes(size)
    with thread_of(receiver.recv) as call:
        until_blocked(receiver)
        child = link.peers.fork(lambda voice: receiver.recv(timeout=0))
        with pytest.raises(FailedInPeer) as caught:
            child.result()
        assert isinstance(caught.value.error, kin.ForkedCopy | kin.Busy)
        sender.send("for the parent")
        assert call.result() == "for the parent"


# --------------------------------------------------------------------------- multiprocessing


@pytest.fixture(scope="module")
def no_helpers_are_left():
    yield
    # Neither has a public way to be ended, and both would outlive the suite.
    for helper in (forkserver._forkserver, resource_tracker._resource_tracker):
        getattr(helper, "_stop")()  # noqa: B009


def start(method: str, target, *args):
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=target, args=args)
    process.start()
    return process


def join(process) -> None:
    process.join(HANG)
    assert process.exitcode == 0
    process.close()


@main_ways
@pytest.mark.usefixtures("no_helpers_are_left")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_ends_as_arguments_of_a_process(two_links, method):
    """Both directions at once: the child gets a receiver and a sender."""
    there, back = two_links
    child_receives, sender = there.both()
    receiver, child_sends = back.both()
    process = start(method, targets.double, child_receives, child_sends)
    child_receives.close()
    child_sends.close()
    for number in range(5):
        sender.send(number, timeout=HANG)
        assert receiver.recv(timeout=HANG) == 2 * number
    sender.send(None)
    assert receiver.recv(timeout=HANG) == ["end", 5]
    if receiver.limits.presence:
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)
    join(process)


def test_an_end_is_no_pickle_elsewhere(link: Link):
    for end in link.both():
        with pytest.raises(kin.UsageError) as caught:
            pickle.dumps(end)
        assert caught.value.remedy


# ------------------------------------------------------------------------------------ clones


def cloned(end):
    """A clone, or None where there is none, which is said with a remedy (a Connection has no such method)."""
    if not hasattr(end, "clone"):
        return None
    refused = None
    try:
        return end.clone()
    except kin.Unsupported as error:
        refused = error
    assert refused.remedy
    return None


def shares(end, call) -> bool:
    """Whether a clone may be used beside the first end; if not, it is Busy and says so."""
    limits, scheme = end.limits, end.limits.mechanism
    if isinstance(end, kin.Sender):
        together = limits.senders == "many" and scheme not in ("unix", "tcp")  # streams
    else:
        together = limits.receivers == "many"
    if not together:
        with pytest.raises(kin.Busy) as caught:
            call()
        assert caught.value.remedy
    return together


def test_a_clone_of_a_sender(link: Link):
    receiver, sender = link.both()
    if (second := cloned(sender)) is None:
        return
    with second:
        sender.send("one")
        if shares(sender, lambda: second.send("two")):
            second.send("two")
            large = min(50_000, sender.limits.max_message)
            with (
                thread_of(sender.send_bytes, bytes(large), timeout=HANG) as a,
                thread_of(second.send_bytes, b"1" * large, timeout=HANG) as b,
            ):
                assert [receiver.recv(timeout=HANG) for _ in range(2)] == ["one", "two"]
                got = {receiver.recv_bytes(timeout=HANG) for _ in range(2)}
                a.result()
                b.result()
            assert got == {bytes(large), b"1" * large}
        else:
            assert receiver.recv(timeout=HANG) == "one"
        sender.close()
        second.send("three")
    assert receiver.recv(timeout=HANG) == "three"
    if receiver.limits.presence:
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)


def test_a_clone_of_a_receiver(link: Link):
    receiver, sender = link.both()
    if (second := cloned(receiver)) is None:
        return
    with second:
        for number in range(6):
            sender.send(number)
        assert receiver.recv(timeout=HANG) == 0
        if shares(receiver, lambda: second.recv(timeout=0)):
            assert second.recv(timeout=HANG) == 1
            assert receiver.recv(timeout=HANG) == 2
        else:
            assert [receiver.recv(timeout=HANG) for _ in range(2)] == [1, 2]
        receiver.close()
        # What the first has not received is there for the second, or the second says that it can't
        # go on: it is never lost in silence in the hands of the first.
        if second.limits.mechanism in ("unix", "tcp"):
            with pytest.raises(kin.ForkedCopy):
                second.recv(timeout=HANG)
            return
        assert [second.recv(timeout=HANG) for _ in range(3)] == [3, 4, 5]
        sender.send("still received")
        assert second.recv(timeout=HANG) == "still received"
    if sender.limits.presence:
        with pytest.raises(kin.BrokenChannel):
            sends_until_it_breaks(sender)
