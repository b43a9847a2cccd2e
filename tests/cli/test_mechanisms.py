"""`kin send` and `kin recv` over every mechanism, in every way that data travels."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import posix_ipc
import pytest
import sysv_ipc

from tests.cli.conftest import Kin, one_line

MECHANISMS = [
    *("fifo", "unix", "abstract", "unix-seqpacket", "unix-dgram", "mq", "sysv-mq", "tcp"),
    "file",
]
QUEUES = ("mq", "sysv-mq")
STREAMS = ("fifo", "unix", "tcp")


@pytest.fixture(params=MECHANISMS)
def address(request, short_directory: Path, unique_name: str):
    match request.param:
        case "abstract":
            yield f"unix:@{unique_name}"
        case "mq":
            yield f"mq:/{unique_name}"
            with contextlib.suppress(posix_ipc.ExistentialError):
                posix_ipc.unlink_message_queue(f"/{unique_name}")
        case "sysv-mq":
            key = 0x4B000000 | hash(unique_name) & 0xFFFFFF
            yield f"sysv-mq:{key}"
            with contextlib.suppress(sysv_ipc.ExistentialError):
                sysv_ipc.MessageQueue(key).remove()
        case "tcp":
            yield "tcp:127.0.0.1:0"
        case scheme:
            yield f"{scheme}:{short_directory}/s"


def scheme_of(address: str) -> str:
    return address.partition(":")[0]


def transfer(kin: Kin, address: str, data: bytes, copy: Path, options, more_send=(), more_recv=()):
    """Send data to a file: what both sides ended with."""
    receiver = kin.start("recv", *options, *more_recv, address, copy)
    if address.startswith("tcp:"):
        # A stream that is one connection says which port the kernel chose.
        address = receiver.listening()
    sender = kin.run("send", *options, *more_send, address, stdin=data)
    return sender, receiver.end()


@pytest.mark.parametrize("size", [0, 1, 8193, 1_000_003])
def test_a_checked_transfer(size, kin: Kin, address, tmp_path):
    data = os.urandom(size)
    sender, receiver = transfer(kin, address, data, tmp_path / "copy", ["--framed"])
    assert (sender, receiver) == ((0, b"", ""), (0, b"", ""))
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize("size", [1, 8193, 1_000_003])
def test_bare_bytes(size, kin: Kin, address, tmp_path):
    data = os.urandom(size)
    pieces = [] if scheme_of(address) in (*STREAMS, "unix-seqpacket") else ["--messages"]
    if pieces:
        pieces.append(str(-(-size // 4000)))
    block = ["--block", "4000"] if pieces else []
    sender, receiver = transfer(kin, address, data, tmp_path / "copy", [], block, pieces)
    assert (sender, receiver) == ((0, b"", ""), (0, b"", ""))
    assert (tmp_path / "copy").read_bytes() == data


def test_bare_messages_keep_their_boundaries(kin: Kin, address, tmp_path):
    if scheme_of(address) in STREAMS:
        pytest.skip("bare bytes have no boundaries on a stream")
    options = ["--messages", "2"]
    sender, receiver = transfer(
        kin, address, b"abcdefgh", tmp_path / "copy", [], ["--block", "3"], options
    )
    assert receiver == (0, b"", "")
    assert (tmp_path / "copy").read_bytes() == b"abcdef"
    assert sender.code in (0, 3)  # where one left before the last was sent


def test_a_queue_for_its_peers_ends_with_them(kin: Kin, unique_name):
    address = f"mq:/{unique_name}?lifetime=peers"
    receiver = kin.start("recv", "--codec", "raw", address)
    kin.succeed("send", "--codec", "raw", address, stdin=b"for us alone")
    assert receiver.end() == (0, b"for us alone", "")
    with pytest.raises(posix_ipc.ExistentialError):
        posix_ipc.MessageQueue(f"/{unique_name}")


def test_from_a_queue_without_an_end_to_standard_output(kin: Kin, mq_name):
    receiver = kin.start("recv", f"mq:{mq_name}")
    for word in (b"one", b"two"):
        kin.succeed("send", f"mq:{mq_name}", stdin=word)
        assert os.read(receiver.process.stdout.fileno(), 100) == word  # type: ignore[union-attr]
    receiver.signal(2)
    assert receiver.end() == (130, b"", "")


def test_a_priority(kin: Kin, mq_name):
    for priority in (1, 9, 5):
        word = b"%d" % priority
        receiver_first = kin.start("recv", "--messages", "1", f"mq:{mq_name}", "/dev/null")
        kin.succeed("send", f"mq:{mq_name}", stdin=b"makes the queue")
        assert receiver_first.end().code == 0
        kin.succeed("send", "--priority", str(priority), f"mq:{mq_name}", stdin=word)
        assert kin.succeed("recv", "--messages", "1", f"mq:{mq_name}") == word


def test_a_connection_that_closes_early_is_said(kin: Kin, short_directory):
    address = f"unix:{short_directory}/s"
    receiver = kin.start("recv", address)
    sender = kin.start("send", address, "/dev/zero")
    assert os.read(receiver.process.stdout.fileno(), 1) == b"\0"  # type: ignore[union-attr]
    receiver.process.kill()
    receiver.end()
    ended = sender.end()
    assert ended.code == 3
    assert "no process receives any more" in one_line(ended)
    (short_directory / "s").unlink(missing_ok=True)
