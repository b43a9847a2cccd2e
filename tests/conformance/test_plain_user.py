"""The core of the contract, both ends without any privileges."""

from __future__ import annotations

import os

import pytest

import kinfolk as kin
from tests.conformance.fixtures import main_ways
from tests.conformance.link import Link
from tests.conformance.peers import HANG
from tests.conformance.test_messages import pattern
from tests.other_user import User


@main_ways
def test_as_a_plain_user(link: Link, as_plain_user: User):
    large = link.prepared(lambda end: min(end.limits.max_message, 300_000))

    def sending(sender, voice):
        assert os.geteuid() != 0
        sender.send_many(range(5))
        sender.send_bytes(pattern(large))
        voice.hear()

    def receiving(receiver, voice):
        assert os.geteuid() != 0
        assert [receiver.recv(timeout=HANG) for _ in range(5)] == list(range(5))
        assert receiver.recv_bytes(timeout=HANG) == pattern(large)
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0.01)
        voice.say("received")
        if receiver.limits.presence:
            with pytest.raises(kin.EndOfChannel):
                receiver.recv(timeout=HANG)

    os.chmod(link.place.directory, 0o1777)
    link.become = as_plain_user.become
    reader = link.fork("receiver", receiving)
    writer = link.fork("sender", sending)
    link.release()
    assert reader.hear() == "received"
    writer.say()
    writer.result()
    reader.result()
