"""Named pipes: the name, who may have it, and processes that share nothing else."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk import marks
from kinfolk._native import try_read
from kinfolk.channels.pipe_transport import flags_of
from tests.conformance.peers import (
    HANG,
    Call,
    Peers,
    Voice,
    open_descriptors,
    readable,
    until,
    until_blocked,
)
from tests.other_user import User

MIB = 1 << 20


@pytest.fixture
def path(socket_path: Path) -> Path:
    """In a directory that has to be empty again at the end."""
    return socket_path


@pytest.fixture
def address(path: Path) -> str:
    return f"fifo:{path}"


# ---------------------------------------------------------------------------------------- opening


def test_a_sender_waits_for_its_receiver_and_gives_up_in_time(address: str, path: Path) -> None:
    before = open_descriptors()
    with pytest.raises(kin.Timeout, match=f"{address}: open"):
        kin.open_sender(address, timeout=0.01)
    assert open_descriptors() == before
    call = Call(kin.open_sender, address)
    with kin.open_receiver(address) as receiver, call.result() as sender:
        sender.send("x")
        assert receiver.recv(timeout=HANG) == "x"


def test_a_half_open_fifo_never_hangs(address: str, path: Path) -> None:
    """With open(2) alone each of these would wait for somebody at the other end."""
    os.mkfifo(path, 0o600)
    with pytest.raises(kin.Timeout):
        kin.open_sender(address, timeout=0)
    with kin.open_receiver(address, timeout=0) as receiver:
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0.01)
    path.unlink()


def test_a_receiver_without_sender_yet_has_no_end(address: str) -> None:
    with kin.open_receiver(address) as receiver:
        for _ in range(3):
            with pytest.raises(kin.Timeout):
                receiver.recv(timeout=0.001)
        assert not readable(receiver.fileno(), 0)
        before = receiver.statistics().waits  # 3, if each came to wait in its millisecond
        call = Call(receiver.recv)
        until_blocked(receiver, before + 1)
        kin.open_sender(address).close()  # came, said nothing, went
        assert isinstance(call.raised(), kin.EndOfChannel)
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=0)


def test_a_sender_that_comes_and_goes_unseen_is_received(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the read that finds nobody and the look whether somebody had been there."""
    with kin.open_receiver(address) as receiver:

        def read_and_then_a_sender_comes(fd: int, size: int) -> bytes | None:
            data = try_read(fd, size)
            monkeypatch.undo()
            with kin.open_sender(address) as sender:
                sender.send("quick")
            return data

        monkeypatch.setattr("kinfolk.channels.pipe_receiver.try_read", read_and_then_a_sender_comes)
        assert receiver.recv(timeout=0) == "quick"
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=0)


def test_a_second_sender_joins_before_the_first_one_leaves(address: str) -> None:
    with kin.open_receiver(address) as receiver:
        first = kin.open_sender(address)
        second = kin.open_sender(address)
        first.send(1)
        first.close()
        second.send(2)
        assert [receiver.recv(), receiver.recv()] == [1, 2]
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0.001)
        second.close()
        with pytest.raises(kin.EndOfChannel):
            receiver.recv()


def test_the_end_is_not_taken_back_by_a_later_sender(address: str) -> None:
    with kin.open_receiver(address) as receiver:
        kin.open_sender(address).close()
        with pytest.raises(kin.EndOfChannel):
            receiver.recv()
        # Whoever comes now would send to somebody who has said goodbye: he waits for the next receiver.
        with pytest.raises(kin.Timeout):
            kin.open_sender(address, timeout=0)
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=0)
        with kin.open_receiver(address) as following, kin.open_sender(address) as late:
            receiver.close()
            late.send("x")
            assert following.recv(timeout=HANG) == "x"


def test_a_fifo_needs_a_path_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(kin.AddressError, match="needs a path"):
        kin.open_receiver("fifo:")
    with pytest.raises(FileNotFoundError):
        kin.open_receiver(f"fifo:{tmp_path}/no/f", timeout=0.1)
    with pytest.raises(kin.NotFound, match="no such directory"):
        kin.open_sender(f"fifo:{tmp_path}/no/f")
    with pytest.raises(kin.Unsupported, match="one way"):
        kin.pair(f"fifo:{tmp_path}/f")


def test_a_relative_path_stays_what_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    receiver = kin.open_receiver(f"fifo:{path.name}")
    monkeypatch.chdir("/")
    receiver.close()
    assert not path.exists()


# -------------------------------------------------------------------------------- one receiver


def test_a_second_receiver_is_busy_and_leaves_the_name(
    address: str, path: Path, peers: Peers
) -> None:
    with kin.open_receiver(address) as receiver:

        def child(voice: Voice) -> str:
            receiver.close()
            with pytest.raises(kin.Busy) as caught:
                kin.open_receiver(address)
            return str(caught.value)

        assert f"process {os.getpid()} does" in peers.fork(child).result()
        with pytest.raises(kin.Busy, match="another end"):
            kin.open_receiver(address)
        assert path.exists()
        with kin.open_sender(address) as sender:
            sender.send("x")
            assert receiver.recv() == "x"


def test_a_child_may_receive_before_its_parent_has_closed(address: str, peers: Peers) -> None:
    """Opened for the child: there is no moment at which that is too early."""
    with kin.open_receiver(address) as receiver, kin.open_sender(address) as sender:
        sender.send("x")

        def child(voice: Voice) -> Any:
            return receiver.recv(timeout=HANG)

        assert peers.fork(child).result() == "x"


def test_a_name_whose_receiver_was_passed_on_is_busy_too(address: str, peers: Peers) -> None:
    receiver, sender = kin.channel(address)

    def child(voice: Voice) -> None:
        voice.say(receiver.recv(timeout=HANG))
        voice.hear()

    with sender:
        sender.send("x")
        peer = peers.fork(child)
        receiver.close()
        assert peer.hear() == "x"
        with pytest.raises(kin.Busy, match=f"process {peer.pid} does"):
            kin.open_receiver(address)
        peer.say()
        peer.result()


def test_a_receiver_takes_over_after_a_kill(address: str, path: Path, peers: Peers) -> None:
    def child(voice: Voice) -> None:
        with kin.open_receiver(address) as receiver:
            voice.say(receiver.recv())
            voice.hear()

    peer = peers.fork(child)
    sender = kin.open_sender(address)
    sender.send("first")
    assert peer.hear() == "first"
    sender.send("second")
    big = Call(sender.send_bytes, bytes(MIB))
    peer.kill(reap=False)
    assert isinstance(big.raised(), kin.BrokenChannel)
    with kin.open_receiver(address) as receiver:
        call = Call(sender.send, "third")
        # The pipe lived on in the sender: what was in it is received, but not the half message.
        assert [receiver.recv(timeout=HANG) for _ in range(2)] == ["second", "third"]
        call.result()
        sender.close()
    assert not path.exists()


@pytest.mark.parametrize("left", [0o600, 0o644])
def test_a_fifo_that_a_killed_receiver_left_gets_the_mode_that_is_asked_for(
    address: str, path: Path, left: int
) -> None:
    """As if it had been killed between making the FIFO and giving it its mode; or had wanted another one."""
    os.mkfifo(path)
    marks.mark(str(path), left)
    with kin.open_receiver(address, mode=0o640, codec="msgpack"):
        assert stat.S_IMODE(path.stat().st_mode) == marks.marked(0o640)
        # Somebody is in it: it stays as it is.
        with pytest.raises(kin.Busy):
            kin.open_receiver(address, mode=0o600)
        assert stat.S_IMODE(path.stat().st_mode) == marks.marked(0o640)


def test_a_fork_of_the_receiver_may_take_over(address: str, path: Path, peers: Peers) -> None:
    receiver = kin.open_receiver(address)
    sender = kin.open_sender(address)

    def child(voice: Voice) -> Any:
        with receiver:
            sender.close()
            voice.hear()
            return receiver.recv(timeout=HANG)

    peer = peers.fork(child)
    receiver.close()
    sender.send("x")
    peer.say()
    assert peer.result() == "x"
    sender.close()
    assert not path.exists()


# -------------------------------------------------------------------------------- several senders


def test_many_senders_stay_whole_when_one_is_killed_in_the_middle_of_megabytes(
    address: str, peers: Peers
) -> None:
    receiver = kin.open_receiver(address, codec="raw", capacity=MIB)

    def send(voice: Voice, number: int) -> None:
        receiver.close()
        with kin.open_sender(address, codec="raw") as sender:
            voice.say()
            for turn in range(12):
                sender.send_bytes(bytes([number]) * (1 + (turn * 50021) % 200_000))

    def victim(voice: Voice) -> None:
        receiver.close()
        with kin.open_sender(address, codec="raw") as sender:
            voice.say()
            sender.send_bytes(b"\xff" * (64 * MIB))

    killed = peers.fork(victim)
    killed.hear()
    until(lambda: receiver.statistics().depth, "some of it is there")
    senders = [peers.fork(send, number) for number in range(4)]
    for peer in senders:
        peer.hear()
    got = [receiver.recv_bytes(timeout=HANG)]
    killed.kill(reap=False)
    got += [bytes(message) for message in receiver]
    for peer in senders:
        peer.result()
    by_sender: dict[int, list[int]] = {number: [] for number in range(4)}
    for message in got:
        assert len(set(message)) == 1, "two messages in one"
        by_sender[message[0]].append(len(message))
    wanted = [1 + (turn * 50021) % 200_000 for turn in range(12)]
    assert by_sender == dict.fromkeys(range(4), wanted)
    assert receiver.statistics().dropped == 1
    receiver.close()


# -------------------------------------------------------------------------------------- the name


def test_who_leaves_last_removes_the_name(address: str, path: Path, peers: Peers) -> None:
    receiver = kin.open_receiver(address)

    def child(voice: Voice) -> None:
        receiver.close()
        with kin.open_sender(address) as sender:
            sender.send("x")
            voice.say()
            voice.hear()

    peer = peers.fork(child)
    peer.hear()
    receiver.close()
    assert path.exists()
    peer.say()
    peer.result()
    assert not path.exists()


def test_the_name_stays_while_the_other_end_of_this_process_is_open(
    address: str, path: Path
) -> None:
    receiver, sender = kin.channel(address)
    clone = sender.clone()
    sender.close()
    clone.close()
    assert path.exists()
    with kin.open_sender(address) as again:
        again.send("x")
    receiver.close()
    assert not path.exists()


def test_a_name_left_by_killed_processes_is_taken_over_and_removed(
    address: str, path: Path, peers: Peers
) -> None:
    def child(voice: Voice) -> None:
        receiver, sender = kin.channel(address)
        sender.send("lost with the pipe")
        voice.say()
        voice.hear()
        receiver.close()

    peer = peers.fork(child)
    peer.hear()
    peer.kill()
    assert path.exists()
    with pytest.raises(kin.Timeout):
        kin.open_sender(address, timeout=0.01)  # a name is not a receiver
    with kin.open_receiver(address) as receiver, kin.open_sender(address) as sender:
        sender.send("new")
        assert receiver.recv(timeout=HANG) == "new"
    assert not path.exists()


def test_unlink_is_explicit(address: str, path: Path) -> None:
    receiver, sender = kin.channel(address)
    with receiver, sender:
        sender.unlink()
        assert not path.exists()
        receiver.unlink()
        sender.send("still")
        assert receiver.recv() == "still"


def test_lifetime_name_outlives_everybody(address: str, path: Path) -> None:
    receiver = kin.open_receiver(address, lifetime="name")
    sender = kin.open_sender(address, lifetime="name", timeout=0)
    sender.send("x")
    sender.close()
    assert receiver.recv() == "x"
    with pytest.raises(kin.Timeout):  # nobody's leaving is an end
        receiver.recv(timeout=0.01)
    clone = receiver.clone()
    receiver.close()
    late = kin.open_sender(address, lifetime="name", timeout=0)
    clone.close()
    late.send("for the next")  # nobody's absence is an error
    with kin.open_receiver(address, lifetime="name") as again:
        assert again.recv() == "for the next"
    late.close()
    assert path.exists()
    assert not late.limits.presence
    path.unlink()


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_the_mode_is_what_was_asked_for(address: str, path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        private = kin.open_receiver(address)
        assert stat.S_IMODE(path.stat().st_mode) & 0o777 == 0o600
        private.close()
        shared = kin.open_receiver(address, mode=0o622, codec="msgpack")
        assert stat.S_IMODE(path.stat().st_mode) & 0o777 == 0o622
        shared.close()
    finally:
        os.umask(before)


def test_a_receiver_that_can_not_be_opened_takes_its_name_away(address: str, path: Path) -> None:
    before = open_descriptors()
    with pytest.raises(kin.UntrustedPeer, match="may write here"):
        kin.open_receiver(address, mode=0o622)  # for pickles
    with pytest.raises(kin.LimitReached):
        kin.open_receiver(address, capacity=1 << 40)
    assert not path.exists()
    assert open_descriptors() == before


# ----------------------------------------------------------------------------------- other users


def test_a_name_of_another_user_is_refused(address: str, path: Path, foreign_user: User) -> None:
    path.parent.chmod(0o777)
    foreign_user.run(os.mkfifo, path, 0o600)
    for codec in ("pickle", "msgpack"):
        with pytest.raises(kin.UntrustedPeer, match="belongs to user"):
            kin.open_receiver(address, codec=codec)
    assert path.stat().st_uid == foreign_user.uid
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(kin.UntrustedPeer, match="belongs to user"):
        kin.open_sender(address, timeout=1)
    with kin.open_sender(address, codec="msgpack", timeout=1) as sender:
        sender.send("meant")
    os.close(reader)
    path.unlink()


def test_another_user_sends_where_he_may_but_no_pickles(
    address: str, path: Path, foreign_user: User
) -> None:
    path.parent.chmod(0o755)
    with kin.open_receiver(address, mode=0o622, codec="msgpack") as receiver:

        def other() -> str:
            with pytest.raises(kin.UntrustedPeer) as caught:
                kin.open_sender(address, timeout=5)
            with kin.open_sender(address, codec="msgpack", timeout=5) as sender:
                sender.send("hello")
            return str(caught.value)

        assert "may write here" in foreign_user.run(other)
        assert receiver.recv(timeout=HANG) == "hello"


def test_another_user_may_not_where_the_mode_is_0600(
    address: str, path: Path, foreign_user: User
) -> None:
    path.parent.chmod(0o755)
    with kin.open_receiver(address):

        def other() -> None:
            with pytest.raises(kin.AccessDenied):
                kin.open_sender(address, timeout=5)

        foreign_user.run(other)


@pytest.mark.parametrize("kind", ["symlink", "file"])
def test_what_is_no_fifo_is_refused(address: str, path: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    path.symlink_to(target) if kind == "symlink" else path.write_text("precious")
    for opening in (kin.open_receiver, kin.open_sender):
        with pytest.raises(kin.AddressError, match="no FIFO"):
            opening(address, timeout=1)
    assert path.read_text() == "precious"
    path.unlink()


# ------------------------------------------------------------------------------------------- raw


def test_cat_is_a_peer_in_both_directions(address: str, path: Path) -> None:
    data = os.urandom(300_000)
    with kin.open_receiver(address, framing="raw") as receiver:
        with subprocess.Popen(["sh", "-c", f"cat > {path}"], stdin=subprocess.PIPE) as cat:
            call = Call(cat.communicate, data)
            got = b"".join(receiver)
            call.result()
        assert got == data
    assert not path.exists()
    os.mkfifo(path, 0o600)
    opening = Call(kin.open_sender, address, framing="raw", timeout=HANG)
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
        with opening.result() as sender:
            assert not flags_of(sender.fileno()) & os.O_DIRECT
            call = Call(sender.send_bytes, data)
            assert cat.stdout is not None
            got = cat.stdout.read(len(data))
            call.result()
    assert got == data
    path.unlink()


def test_a_framed_receiver_tells_raw_bytes(address: str, path: Path) -> None:
    with kin.open_receiver(address) as receiver:
        path.write_bytes(b"plain text, as echo would write it\n")
        with pytest.raises(kin.CorruptChannel, match="framing=raw"):
            receiver.recv(timeout=HANG)
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)


def test_raw_takes_no_empty_message(address: str) -> None:
    receiver, sender = kin.channel(address, framing="raw")
    with receiver, sender:
        with pytest.raises(kin.Unsupported, match="without bytes"):
            sender.send_bytes(b"")
        assert not sender.limits.empty_messages


# ------------------------------------------------------------------------ programs that just end


def test_ctrl_c_removes_the_name(address: str, path: Path) -> None:
    script = f"""
import kinfolk as kin
from kinfolk._native import try_read
with kin.open_receiver({address!r}) as receiver:
    print("there", flush=True)
    for _ in receiver: pass
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"there\n"
        with kin.open_sender(address) as sender:
            until(lambda: sender.statistics().depth == 0, "idle")
            program.send_signal(signal.SIGINT)
            program.communicate(timeout=HANG)
    assert not path.exists()
