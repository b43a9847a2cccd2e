"""System V message queues: who is there, and what the killed leave."""

from __future__ import annotations

import contextlib
import time

import pytest
import sysv_ipc

import kinfolk as kin
from kinfolk.channels import sysv_queue
from tests.conformance.peers import HANG, thread_of, until_blocked
from tests.unit.sysv_queues import exists, id_of, queues

# ── presence ─────────────────────────────────────────────────────────────────────────────────


def test_a_blocked_receiver_learns_that_the_last_sender_was_killed(key, peers):
    receiver = kin.open_receiver(f"sysv-mq:{key}?lifetime=peers")

    def sends(voice):
        receiver.close()
        with kin.open_sender(f"sysv-mq:{key}?lifetime=peers", timeout=HANG) as sender:
            sender.send("x")
            voice.say()
            voice.hear()

    peer = peers.fork(sends)
    peer.hear()
    with receiver:
        assert receiver.recv(timeout=HANG) == "x"
        with thread_of(receiver.recv, timeout=HANG) as call:
            until_blocked(receiver)
            peer.kill(reap=False)
            with pytest.raises(kin.EndOfChannel):
                call.result()
    assert not exists(key)


def test_a_blocked_sender_learns_that_the_last_receiver_was_killed(key, peers):
    def receives(voice):
        with kin.open_receiver(f"sysv-mq:{key}?lifetime=peers&capacity=64"):
            voice.say()
            voice.hear()

    peer = peers.fork(receives)
    peer.hear()
    with kin.open_sender(f"sysv-mq:{key}?lifetime=peers", timeout=HANG) as sender:

        def fill():
            while True:
                sender.send_bytes(bytes(10), timeout=HANG)

        with thread_of(fill) as call:
            until_blocked(sender)
            peer.kill(reap=False)
            with pytest.raises(kin.BrokenChannel):
                call.result()
    assert not exists(key)


def test_without_the_watcher_a_blocked_receiver_learns_nothing(monkeypatch, peers):
    """The negative control of the two above."""
    monkeypatch.setattr(sysv_queue, "watching", lambda *fds, **options: contextlib.nullcontext())
    receiver, sender = kin.channel("sysv-mq:")
    start = time.monotonic()
    with receiver, thread_of(receiver.recv, timeout=0.3) as call:
        until_blocked(receiver)
        sender.close()
        with pytest.raises(kin.EndOfChannel):  # found at the last look, after the deadline
            call.result()
        assert time.monotonic() - start >= 0.3


def test_a_fork_while_somebody_is_blocked(peers):
    receiver, sender = kin.channel("sysv-mq:")

    def child(voice):
        with pytest.raises(kin.ForkedCopy):
            receiver.recv(timeout=0)
        receiver.close()
        own, other = kin.channel("sysv-mq:")
        other.close()
        with own, pytest.raises(kin.EndOfChannel):
            own.recv(timeout=HANG)
        sender.send("from the child")

    with receiver, thread_of(receiver.recv, timeout=HANG) as call:
        until_blocked(receiver)
        peer = peers.fork(child)
        peer.result()
        assert call.result() == "from the child"
        sender.close()
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)


def test_an_anonymous_queue_goes_with_its_last_peer(peers):
    receiver, sender = kin.channel("sysv-mq:")
    made = id_of(receiver)

    def child(voice):
        receiver.close()
        sender.send(1)
        sender.close()

    peer = peers.fork(child)
    peer.result()
    sender.close()
    assert made in queues()
    assert list(receiver) == [1]
    receiver.close()
    assert made not in queues()


def test_what_killed_peers_left_goes_with_the_next(peers):
    def dies(voice):
        ends = kin.channel("sysv-mq:")
        voice.say(id_of(ends[0]))
        voice.hear()

    peer = peers.fork(dies)
    made = peer.hear()
    for end in kin.channel("sysv-mq:"):
        end.close()
    assert made in queues()  # as long as somebody has it
    peer.kill()
    assert made in queues()
    for end in kin.channel("sysv-mq:"):
        end.close()
    assert made not in queues()


def test_what_killed_peers_left_under_a_key_is_not_delivered(key, peers):
    def dies(voice):
        with kin.open_receiver(f"sysv-mq:{key}?lifetime=peers"):
            with kin.open_sender(f"sysv-mq:{key}?lifetime=peers") as sender:
                sender.send("stale")
                voice.say()
                voice.hear()

    peer = peers.fork(dies)
    peer.hear()
    peer.kill()
    assert exists(key)
    with kin.open_receiver(f"sysv-mq:{key}?lifetime=peers") as receiver:
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0)
    assert not exists(key)


def test_peers_leave_a_queue_that_they_did_not_make(key):
    sysv_ipc.MessageQueue(key, sysv_ipc.IPC_CREX)
    kin.open_receiver(f"sysv-mq:{key}?lifetime=peers").close()
    assert exists(key)
