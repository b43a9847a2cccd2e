"""Who leaves last, and what he takes with him: never a name that somebody still needs, never a message.

A copy of an end counts from the moment that there is one, also when its process has not yet run a single instruction, or when
the descriptor is still on its way to it.
"""

from __future__ import annotations

import pytest

import kinfolk as kin
from tests.conformance import targets
from tests.conformance.fixtures import only
from tests.conformance.link import Link
from tests.conformance.peers import HANG
from tests.conformance.test_forking import join, no_helpers_are_left, start
from tests.other_user import User

__all__ = ["no_helpers_are_left"]  # a fixture

#: A name of which the last peer takes leave.
with_peers = only(
    lambda variant: variant.way == "named" and "kept" not in variant.id
    and not variant.id.startswith(("mq-named", "sysv-mq-named", "file-named"))
)  # fmt: skip


@with_peers
def test_a_parent_that_closes_before_its_child_has_begun(link: Link):
    """Without the look for copies it takes the name along in most of the rounds."""
    for _ in range(10):
        receiver = link.receiver()
        child = link.peers.fork(lambda voice, receiver=receiver: receiver.recv(timeout=HANG))
        receiver.close()
        link.sender().send("to the child", timeout=HANG)
        assert child.result() == "to the child"
        link.renew()


@with_peers
@pytest.mark.usefixtures("no_helpers_are_left")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_parent_that_closes_while_the_end_is_on_its_way(two_links, method):
    there, back = two_links
    receiver, child_sends = there.receiver(), None
    answers = back.receiver()
    child_sends = back.sender()
    process = start(method, targets.double, receiver, child_sends)
    receiver.close()
    child_sends.close()
    with kin.open_sender(there.address, timeout=HANG) as sender:
        sender.send(21, timeout=HANG)
        assert answers.recv(timeout=HANG) == 42
        sender.send(None)
        assert answers.recv(timeout=HANG) == ["end", 1]
    join(process)
    if method == "fork":  # it ended without closing: the next receiver takes it over, and along
        there.receiver().close()
    if method == "spawn" and there.name_exists() is not None:  # a forked one ends without closing
        assert not there.name_exists(), "the last one left the name behind"


@with_peers
def test_whoever_comes_after_the_end_is_received_by_the_next(link: Link):
    """A receiver that has said goodbye is sent nothing any more: what was committed is delivered."""
    count = 40

    def sending(voice):
        for number in range(count):
            while True:
                try:
                    with kin.open_sender(link.address, timeout=HANG) as sender:
                        sender.send(number, timeout=HANG)
                    break
                except kin.BrokenChannel:
                    pass  # it came just when a receiver left, and says so: not committed

    peer = link.peers.fork(sending)
    received = []
    while len(received) < count:
        with kin.open_receiver(link.address, timeout=HANG) as receiver:
            try:
                while True:
                    received.append(receiver.recv(timeout=HANG))
            except kin.EndOfChannel:
                pass
    peer.result()
    assert received == list(range(count))


@with_peers
def test_the_last_may_be_another_user(link: Link, foreign_user: User):
    """Who may not remove the name leaves it, without an error, to its owner's next receiver."""
    if link.variant.scheme not in ("fifo", "unix-dgram") or ":@" in link.address:
        pytest.skip("there is no file that the last one removes")
    link.place.directory.chmod(0o755)
    link.options |= {"mode": 0o666, "codec": "msgpack"}
    receiver = link.receiver()

    def last(voice):
        foreign_user.become()
        with kin.open_sender(link.address, timeout=HANG, codec="msgpack") as sender:
            sender.send("from somebody else")
            voice.say()
            voice.hear()

    peer = link.peers.fork(last)
    peer.hear()
    assert receiver.recv(timeout=HANG) == "from somebody else"
    receiver.close()
    peer.say()
    peer.result()
    with kin.open_receiver(link.address, timeout=HANG, **link.options):
        pass
