"""`kin relay`: between every kind of address, both ways where both can."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
from pathlib import Path

import pytest

import kinfolk
from tests.cli.conftest import Kin, one_line


@pytest.fixture(params=["unix", "unix-seqpacket", "tcp"])
def entry(request, short_directory: Path) -> str:
    return "tcp:127.0.0.1:0" if request.param == "tcp" else f"{request.param}:{short_directory}/in"


@pytest.mark.parametrize("options", [(), ("--framed",)])
@pytest.mark.parametrize("scheme", ["unix", "unix-seqpacket", "tcp"])
def test_both_ways(scheme, options, entry, kin: Kin, short_directory):
    there = "tcp:127.0.0.1:0" if scheme == "tcp" else f"{scheme}:{short_directory}/out"
    server = kin.start("echo", *options, there)
    relay = kin.start("relay", *options, entry, server.listening())
    here = relay.listening()
    for message in ("one", "three"):
        assert kin.succeed("ask", *options, here, message) == f"{message}\n".encode()
    relay.signal(signal.SIGTERM)
    assert relay.end() == (
        0,
        b"",
        "relayed 2 messages (8 bytes) forward, 2 messages (8 bytes) back\n",
    )
    assert not (short_directory / "in").exists()


def test_each_client_has_a_connection_of_its_own(kin: Kin, short_directory):
    there, here = f"unix:{short_directory}/out", f"unix:{short_directory}/in"
    with kinfolk.listen(there, framing="raw") as listener:
        relay = kin.start("relay", "--count", "2", "--json", "--quiet", here, there)
        with contextlib.ExitStack() as stack:
            pairs = []
            for _ in range(2):
                client = stack.enter_context(kinfolk.connect(here, framing="raw"))
                pairs.append((client, stack.enter_context(listener.accept(timeout=60))))
            for number, (client, upstream) in enumerate(pairs):
                client.send_bytes(b"%d" % number)
                assert upstream.recv_bytes(timeout=60) == b"%d" % number
            # An end of input is passed on, and the answer still comes back.
            client, upstream = pairs[0]
            client.send_eof()
            with pytest.raises(kinfolk.EndOfChannel):
                upstream.recv_bytes(timeout=60)
            upstream.send_bytes(b"late")
            assert client.recv_bytes(timeout=60) == b"late"
            # When one side has gone, the other is closed.
            upstream.close()
            pairs[1][0].close()
            with pytest.raises(kinfolk.EndOfChannel):
                client.recv_bytes(timeout=60)
            with pytest.raises(kinfolk.EndOfChannel):
                pairs[1][1].recv_bytes(timeout=60)
    code, out, err = relay.end()
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "command": "relay",
        "from": here,
        "to": there,
        "clients": 2,
        "failed": 0,
        "forward": {"messages": 2, "bytes": 2},
        "backward": {"messages": 1, "bytes": 4},
    }


def test_a_large_file_both_ways_at_once(kin: Kin, short_directory):
    kin.start("echo", f"unix:{short_directory}/out").listening()
    relay = kin.start("relay", "tcp:127.0.0.1:0", f"unix:{short_directory}/out")
    data = os.urandom(5_000_000)
    assert kin.succeed("ask", "--bytes", len(data), relay.listening(), stdin=data) == data


def test_a_server_that_is_not_there_is_one_clients_error(kin: Kin, short_directory):
    here, there = f"unix:{short_directory}/in", f"unix:{short_directory}/out"
    relay = kin.start("relay", "--timeout", "0.05", here, there)
    relay.listening()
    assert kin.run("ask", here, "too early").code == 3
    said = f"kin relay: {there}: no server is there: not within 0.05 s ("
    assert relay.line().startswith(said)
    kin.start("echo", there).listening()
    assert kin.succeed("ask", here, "now") == b"now\n"
    relay = kin.start("relay", "--count", "1", "--timeout", "0", here + "2", there + "2")
    relay.listening()
    kin.run("ask", here + "2", "nobody")
    assert relay.end().code == 1


@pytest.mark.parametrize("options", [(), ("--framed",)])
def test_one_way(options, kin: Kin, short_directory, tmp_path):
    here, there = f"fifo:{short_directory}/in", f"fifo:{short_directory}/out"
    original = tmp_path / "original"
    original.write_bytes(os.urandom(3_000_000))
    relay = kin.start("relay", "--json", *options, here, there)
    receiver = kin.start("recv", *options, there, tmp_path / "copy")
    kin.succeed("send", *options, here, original)
    assert receiver.end() == (0, b"", "")
    code, out, err = relay.end()
    assert (code, err) == (0, "")
    assert json.loads(out)["forward"]["bytes"] == 3_000_000
    digests = {
        hashlib.sha256((tmp_path / name).read_bytes()).digest() for name in ("original", "copy")
    }
    assert len(digests) == 1
    assert os.listdir(short_directory) == []


def test_from_a_fifo_into_a_queue(kin: Kin, short_directory, mq_name):
    with kinfolk.open_receiver(f"mq:{mq_name}", framing="raw") as queue:
        relay = kin.start("relay", f"fifo:{short_directory}/in", f"mq:{mq_name}")
        data = os.urandom(20_000)  # more than one of the queue's messages
        kin.succeed("send", f"fifo:{short_directory}/in", stdin=data)
        received = b""
        while len(received) < len(data):
            received += queue.recv_bytes(timeout=60)
        assert relay.end().code == 0
    assert received == data


def test_a_checked_transfer_into_a_queue(kin: Kin, short_directory, mq_name, tmp_path):
    """Its blocks are cut to what the queue carries; whoever receives finds the same checksum."""
    here, there = f"unix:{short_directory}/in", f"mq:{mq_name}"
    receiver = kin.start("recv", "--framed", there, tmp_path / "copy")
    relay = kin.start("relay", "--framed", here, there)
    data = os.urandom(200_000)
    kin.succeed("send", "--framed", here, stdin=data)
    assert receiver.end() == (0, b"", "")
    assert (tmp_path / "copy").read_bytes() == data
    assert relay.end().code == 0


def test_a_message_that_the_second_address_can_not_carry(kin: Kin, short_directory, mq_name):
    """Outside of a checked transfer a message is whole or an error."""
    here, there = f"fifo:{short_directory}/in", f"mq:{mq_name}"
    with kinfolk.open_receiver(there, codec="raw"):
        relay = kin.start("relay", "--codec", "raw", here, there)
        with kinfolk.open_sender(here, codec="raw", timeout=60) as sender:
            sender.send_bytes(bytes(20_000))
            ended = relay.end()
    assert ended.code == 2
    assert one_line(ended).startswith(f"kin relay: {there}: a message of 20000 bytes is larger")


def test_from_a_connection_into_a_fifo(kin: Kin, short_directory):
    """One of the two goes one way: nothing comes back."""
    relay = kin.start("relay", f"unix:{short_directory}/in", f"fifo:{short_directory}/out")
    receiver = kin.start("recv", f"fifo:{short_directory}/out")
    kin.succeed("send", f"unix:{short_directory}/in", stdin=b"one way")
    assert receiver.end() == (0, b"one way", "")
    assert relay.end().code == 0


def test_between_bare_bytes_and_messages(kin: Kin, short_directory):
    there = f"unix:{short_directory}/out"
    with kinfolk.listen(there, codec="raw") as listener:
        relay = kin.start("relay", f"unix:{short_directory}/in", f"{there}?framing=framed")
        relay.listening()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(f"{short_directory}/in")
            client.sendall(b"question")
            with listener.accept(timeout=60) as upstream:
                assert upstream.recv_bytes(timeout=60) == b"question"
                upstream.send_bytes(b"answer")
                assert client.recv(100) == b"answer"


def test_a_signal_ends_a_one_way_relay_well(kin: Kin, short_directory):
    relay = kin.start("relay", f"fifo:{short_directory}/in", f"fifo:{short_directory}/out")
    receiver = kin.start("recv", f"fifo:{short_directory}/out")
    with kinfolk.open_sender(f"fifo:{short_directory}/in", framing="raw") as sender:
        sender.send_bytes(b"taken")
        assert os.read(receiver.process.stdout.fileno(), 100) == b"taken"  # type: ignore[union-attr]
        relay.signal(signal.SIGINT)
        code, _, err = relay.end()
    assert (code, err) == (0, "relayed 1 messages (5 bytes)\n")
    assert receiver.end() == (0, b"", "")
    assert os.listdir(short_directory) == []


def test_nobody_receives_at_the_second_address_any_more(kin: Kin, short_directory):
    there = f"fifo:{short_directory}/out"
    with kinfolk.open_receiver(there, framing="raw") as receiver:
        relay = kin.start("relay", f"fifo:{short_directory}/in", there)
        sender = kin.start("send", f"fifo:{short_directory}/in", "/dev/zero")
        receiver.recv_bytes(timeout=60)
    ended = relay.end()
    assert ended.code == 3
    assert one_line(ended).startswith(f"kin relay: {there}: ")
    assert sender.end().code == 3
