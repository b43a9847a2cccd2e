"""What the tests of System V queues share."""

from __future__ import annotations

import contextlib
import os

import pytest
import sysv_ipc

import kinfolk as kin


@pytest.fixture
def key():
    key = 1 + int.from_bytes(os.urandom(4), "little") % 0x7FFFFFF0
    yield key
    with contextlib.suppress(sysv_ipc.ExistentialError):
        sysv_ipc.MessageQueue(key).remove()


@pytest.fixture
def ends(key):
    with (
        kin.open_receiver(f"sysv-mq:{key}") as receiver,
        kin.open_sender(f"sysv-mq:{key}") as sender,
    ):
        yield receiver, sender


def exists(key):
    try:
        sysv_ipc.MessageQueue(key)
    except sysv_ipc.ExistentialError:
        return False
    return True


def queues():
    with open("/proc/sysvipc/msg") as file:
        return {int(line.split()[1]) for line in file.readlines()[1:]}


def id_of(end):
    """The id, which the public interface does not tell; other queues of the host come and go meanwhile."""
    return end._receiving._queue._id
