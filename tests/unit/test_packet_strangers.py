"""Packet sockets among hostile peers and other users."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk.channels import packet_reader, stream_terms, unix_dgram
from kinfolk.channels.codec import PICKLE, RAW
from tests.other_user import User
from tests.unit.packets import (
    FRIENDLY,
    PATIENCE,
    SCHEMES,
    ended_well,
    open_descriptors,
    packet,
    send_packets,
    sock_of,
)

# ── hostile and foreign peers ────────────────────────────────────────────────────────────────

GARBAGE = {
    "another magic": packet(RAW, b"x", magic=b"kC"),
    "too short": b"kP",
    "unknown flags": packet(RAW, b"x", flags=2),
    "reserved bytes": packet(RAW, b"x", zero=1),
    "a longer length": packet(RAW, b"x", size=2),
    "a shorter length": packet(RAW, b"xx", size=1),
    "2**63": packet(RAW, b"x", size=2**63),
    "2**64-1": packet(RAW, b"", size=2**64 - 1),
    "descriptors that did not come": packet(RAW, b"x", riding=3),
    "memory that did not come": packet(RAW, b"", flags=1, size=1000),
    "longer than any of ours": packet(RAW, bytes(190_000), size=200_000),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("scheme", SCHEMES)
def test_garbage_is_a_clear_error_and_the_next_message_whole(scheme: str, garbage: bytes) -> None:
    receiver, sender = kin.channel(f"{scheme}:")
    with receiver, sender:
        sock_of(sender).send(garbage)
        sender.send("after")
        with pytest.raises(kin.CorruptChannel):
            receiver.recv(timeout=PATIENCE)
        assert receiver.recv(timeout=PATIENCE) == "after"


def test_descriptors_of_garbage_are_closed() -> None:
    receiver, sender = kin.channel("unix-seqpacket:")
    with receiver, sender:
        before = open_descriptors()
        socket.send_fds(sock_of(sender), [b"garbage"], [0, 1, 2])
        with pytest.raises(kin.CorruptChannel):
            receiver.recv(timeout=PATIENCE)
        assert open_descriptors() == before


def open_to_all(path: Path) -> None:
    path.parent.chmod(0o755)


EVIL = packet(PICKLE, pickle.dumps("evil"))


def test_a_pickle_of_a_foreign_user_is_dropped(foreign_user: User, socket_path: Path) -> None:
    open_to_all(socket_path)
    with kin.open_receiver(f"unix-dgram:{socket_path}", mode=0o666) as receiver:
        path = str(socket_path)
        uid = foreign_user.run(send_packets, path, EVIL, FRIENDLY)
        assert receiver.recv(timeout=PATIENCE) == "friendly"
        assert receiver.statistics().dropped == 1
        foreign_user.run(send_packets, path, FRIENDLY)
        message = receiver._receiving.try_receive()
        assert message is not None
        assert message.sender is not None
        assert message.sender.uid == uid != os.getuid()
        # The positive control: from our own user it is taken.
        send_packets(path, EVIL)
        assert receiver.recv(timeout=PATIENCE) == "evil"


def test_without_the_check_it_would_be_loaded(
    foreign_user: User, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(packet_reader, "is_trusted", lambda uid: True)
    open_to_all(socket_path)
    with kin.open_receiver(f"unix-dgram:{socket_path}", mode=0o666) as receiver:
        foreign_user.run(send_packets, str(socket_path), EVIL)
        assert receiver.recv(timeout=PATIENCE) == "evil"


def test_a_pickle_that_nobody_vouches_for_is_dropped() -> None:
    receiver, sender = kin.channel("unix-dgram:")
    with receiver, sender:
        # A peer that holds a copy of our socket may have turned its credentials off.
        receiver._receiving._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)  # type: ignore[attr-defined]
        sender.send(["pickle"])
        sender.send_bytes(b"bytes")
        assert receiver.recv_bytes(timeout=PATIENCE) == b"bytes"
        assert receiver.statistics().dropped == 1


def test_a_flood_of_foreign_pickles_does_not_outlast_a_timeout(foreign_user: User) -> None:
    receiver, sender = kin.channel("unix-dgram:")
    with receiver, sender:

        def flood() -> None:
            with contextlib.suppress(kin.BrokenChannel, kin.Timeout):
                for _ in range(500):
                    sender.send(["evil"], timeout=0)

        for _ in range(3):
            foreign_user.run(flood)
            with pytest.raises(kin.Timeout):
                receiver.recv(timeout=0.01)
        assert receiver.statistics().dropped > 64
        sender.send("ours")
        assert receiver.recv(timeout=PATIENCE) == "ours"


def test_messages_behind_a_flood_come_before_the_end(foreign_user: User) -> None:
    """A reader that takes breath after 64 dropped pickles has not seen the socket empty."""
    receiver, sender = kin.channel("unix-dgram:", capacity=1 << 20)
    with receiver:

        def flood() -> None:
            for _ in range(200):
                sender.send(["evil"], timeout=0)

        foreign_user.run(flood)
        sender.send("ours")
        sender.close()
        assert receiver.recv(timeout=PATIENCE) == "ours"
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=PATIENCE)


@pytest.mark.parametrize(("codec", "comes_in"), [("pickle", False), ("msgpack", True)])
def test_a_foreign_user_comes_in_only_without_pickles(
    codec: str, comes_in: bool, foreign_user: User, socket_path: Path
) -> None:
    open_to_all(socket_path)
    with kin.listen(f"unix-seqpacket:{socket_path}", mode=0o666, codec=codec) as listener:

        def visit() -> int:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(str(socket_path))
                sock.send(FRIENDLY)
            return os.getuid()

        uid = foreign_user.run(visit)
        if comes_in:
            with listener.accept(timeout=PATIENCE) as connection:
                assert connection.recv(timeout=PATIENCE) == "friendly"
                assert connection.peer is not None
                assert connection.peer.uid == uid
        else:
            with pytest.raises(kin.Timeout):
                listener.accept(timeout=0.2)
            assert listener._transport.refused == 1


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_squatter_gets_no_pickles(
    scheme: str,
    checked: bool,
    foreign_user: User,
    short_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short_directory.chmod(0o777)
    path = short_directory / "s"
    ready, go = os.pipe(), os.pipe()

    def squat() -> bool:
        kind = socket.SOCK_DGRAM if scheme == "unix-dgram" else socket.SOCK_SEQPACKET
        with socket.socket(socket.AF_UNIX, kind) as sock:
            sock.bind(str(path))
            path.chmod(0o666)
            if scheme == "unix-dgram":
                os.mkfifo(short_directory / ".s.presence", 0o666)
                (short_directory / ".s.presence").chmod(0o666)
                os.open(short_directory / ".s.presence", os.O_RDONLY | os.O_NONBLOCK)
            else:
                sock.listen()
            os.write(ready[1], b".")
            os.read(go[0], 1)
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                return bool(sock.recv(100) if scheme == "unix-dgram" else sock.accept()[0].recv(9))
        return False

    def visitor() -> None:
        os.read(ready[0], 1)
        try:
            if checked:
                with pytest.raises(kin.UntrustedPeer, match="user"):
                    kin.open_sender(f"{scheme}:{path}", timeout=PATIENCE)
            else:
                kin.open_sender(f"{scheme}:{path}", timeout=PATIENCE).send("secret")
        finally:
            os.write(go[1], b".")

    if not checked:  # the negative control
        monkeypatch.setattr(unix_dgram, "check_object", lambda *_, **__: None)
        monkeypatch.setattr(stream_terms, "check_peer", lambda *_: None)
    pid = os.fork()
    if pid == 0:
        try:
            visitor()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert foreign_user.run(squat) is not checked
    assert ended_well(pid)
    for fd in (*ready, *go):
        os.close(fd)


def test_presence_of_a_foreign_user_is_refused(foreign_user: User, short_directory: Path) -> None:
    """He could end our channels, or keep them from ending."""
    short_directory.chmod(0o777)
    fifo = short_directory / ".s.presence"

    def squat() -> None:
        os.mkfifo(fifo)
        fifo.chmod(0o666)

    foreign_user.run(squat)
    before = open_descriptors()
    with pytest.raises(kin.UntrustedPeer):
        kin.open_receiver(f"unix-dgram:{short_directory}/s")
    assert not (short_directory / "s").exists()
    assert open_descriptors() == before
