"""Owned descriptors: closed once, never used after."""

from __future__ import annotations

import os

import pytest

import kinfolk as kin
from kinfolk.descriptors import Descriptor
from tests.conformance.peers import Peers


def make() -> Descriptor:
    return Descriptor(os.eventfd(0), "thing")


def test_closing_forgets_the_number() -> None:
    owned = make()
    number = owned.fileno()
    owned.close()
    with os.fdopen(os.dup(0), "rb") as other:  # the number is somebody else's now
        assert other.fileno() == number
        owned.close()
        os.fstat(number)  # and still open
    assert owned.closed
    with pytest.raises(kin.Closed, match="thing is closed"):
        owned.fileno()


def test_detaching_gives_the_number_away() -> None:
    owned = make()
    number = owned.detach()
    owned.close()
    os.close(number)
    with pytest.raises(kin.Closed):
        owned.detach()


def test_what_is_dropped_is_closed_with_a_warning() -> None:
    owned = make()
    number = owned.fileno()
    held = [owned]
    del owned
    with pytest.warns(ResourceWarning, match="unclosed thing"):
        held.clear()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)


def test_a_duplicate_is_close_on_exec_and_its_own() -> None:
    one = make()
    two = one.duplicate()
    one.close()
    assert not os.get_inheritable(two.fileno())
    two.close()


def test_a_forked_child_closes_its_own_copy(peers: Peers) -> None:
    owned = make()

    def child(voice: object) -> bool:
        owned.close()
        return owned.closed

    assert peers.fork(child).result()
    os.fstat(owned.fileno())
    owned.close()
