"""What is broken for the stop about the ring, and the check that must say so."""

from __future__ import annotations

import contextlib

import kinfolk as kin
from kinfolk.tour import ring
from kinfolk.tour.processes import PATIENCE


def acknowledge_before_the_work(monkeypatch):
    @contextlib.contextmanager
    def early(receiver, acknowledge):
        message = receiver.recv_message(timeout=PATIENCE)
        message.acknowledge()
        yield message.object, message.redelivered

    following = ring._next
    monkeypatch.setattr(
        ring, "_next", lambda end, sure: early(end, sure) if sure else following(end, sure)
    )


def mark_nothing(monkeypatch):
    monkeypatch.setattr("kinfolk.channels.delivery.Delivery.redelivered", False)


def acknowledge_always(monkeypatch):
    film = ring._film
    monkeypatch.setattr(ring, "_film", lambda *, acknowledge: film(acknowledge=True))


def copy_the_frames(monkeypatch):
    recv_message = kin.Receiver.recv_message
    monkeypatch.setattr(
        kin.Receiver, "recv_message", lambda self, **how: recv_message(self, **how, copy=True)
    )


def tear_a_frame(monkeypatch):
    look = ring._look

    def torn(frame, redelivered):
        mine = frame.copy()
        mine[-1, -1] ^= 1
        return look(mine, redelivered)

    monkeypatch.setattr(ring, "_look", torn)


RING = [
    ("ring", acknowledge_before_the_work, "no frame is lost"),
    ("ring", mark_nothing, "comes again, marked"),
    ("ring", acknowledge_always, "just that one is lost"),
    ("ring", copy_the_frames, "no frame was copied"),
    ("ring", tear_a_frame, "no frame is torn"),
]
