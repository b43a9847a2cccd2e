"""`kin echo` and `kin ask` over every mechanism that goes both ways."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

import kinfolk
from kinfolk.cli import failures, serving
from tests.cli.conftest import Kin, one_line

FRAMED_ONLY = ("unix-dgram",)
TWO_WAY = ("unix", "abstract", "unix-seqpacket", "tcp", *FRAMED_ONLY)


@pytest.fixture(params=TWO_WAY)
def address(request, short_directory: Path, unique_name: str) -> str:
    match request.param:
        case "abstract":
            return f"unix:@{unique_name}"
        case "tcp":
            return "tcp:127.0.0.1:0"
    return f"{request.param}:{short_directory}/s"


def bare(address: str) -> tuple[str, ...]:
    """The options that are needed where bare bytes make no connection."""
    return ("--framed",) if address.startswith(FRAMED_ONLY) else ()


def test_an_echo(kin: Kin, address):
    server = kin.start("echo", *bare(address), address)
    there = server.listening()
    for message in ("hello", "进程", "two\nlines"):
        assert kin.succeed("ask", *bare(address), there, message) == f"{message}\n".encode()
    server.signal(signal.SIGTERM)
    assert server.end() == (0, b"", "")


@pytest.mark.parametrize(
    ("options", "size"), [(("--framed",), 0), (("--codec", "raw"), 0), (("--framed",), 150_000)]
)
def test_messages_of_any_size_come_back_whole(options, size, kin: Kin, address):
    server = kin.start("echo", *options, address)
    data = os.urandom(size)
    assert kin.succeed("ask", *options, server.listening(), stdin=data) == data


def test_bare_bytes_that_fill_every_buffer_come_back(kin: Kin, short_directory):
    """Both sides would block for ever, if the client did not read while it sends."""
    server = kin.start("echo", f"unix:{short_directory}/s")
    data = os.urandom(5_000_000)
    there = server.listening()
    assert kin.succeed("ask", "--bytes", len(data), there, stdin=data) == data


def test_objects_come_back_as_objects(kin: Kin, address):
    server = kin.start("echo", "--framed", "--verbose", address)
    there = server.listening()
    question = {"a": [1, None], "b": "ü"}
    answer = kin.succeed("ask", "--codec", "json", there, json.dumps(question))
    assert json.loads(answer) == question
    assert server.line() == f'new msg: "{question}"'
    with kinfolk.connect(there, codec="msgpack") as client:
        client.send([b"bytes", 2])
        assert client.recv() == [b"bytes", 2]


def test_many_clients_at_once_and_none_holds_up_another(kin: Kin, address):
    server = kin.start("echo", *bare(address), address)
    there = server.listening()
    options = {} if bare(address) else {"framing": "raw"}
    options["codec"] = "raw"
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(kinfolk.connect(there, **options))  # type: ignore[arg-type]
            for _ in range(20)
        ]
        with contextlib.suppress(kinfolk.Timeout):  # a client that sends and never reads
            while True:
                clients[0].send_bytes(bytes(4096), timeout=0.05)
        for number, client in enumerate(clients[1:]):
            client.send_bytes(b"%d" % number)
        for number, client in enumerate(clients[1:]):
            assert client.recv_bytes(timeout=60) == b"%d" % number
    assert kin.succeed("ask", *bare(address), there, "still there?") == b"still there?\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize("scheme", ["unix", "unix-seqpacket"])
def test_a_signal_removes_the_socket_and_ends_with_0(
    scheme, number, kin: Kin, socket_path, short_directory
):
    server = kin.start("echo", "--mode", "0640", f"{scheme}:{socket_path}")
    there = server.listening()
    status = socket_path.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o640
    with kinfolk.connect(there, framing="raw"):  # a silent client does not keep it
        server.signal(number)
        assert server.end() == (0, b"", "")
    assert not socket_path.exists()


def test_it_answers_at_once_and_the_socket_is_private(kin: Kin, short_directory):
    path = short_directory / "s"
    kin.start("echo", f"unix:{path}").listening()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(os.fspath(path))
        for word in (b"one", b"two"):  # no end of input before either answer
            client.sendall(word)
            assert client.recv(100) == word
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(kin: Kin, short_directory):
    address = f"unix:{short_directory}/s"
    server = kin.start("echo", address)
    server.listening()
    server.signal(signal.SIGKILL)
    server.end()
    assert (short_directory / "s").exists()
    server = kin.start("echo", address)
    server.listening()
    second = kin.run("echo", address)
    assert second.code == 6
    one_line(second)
    assert kin.succeed("ask", address, "alive") == b"alive\n"


def test_after_so_many_clients(kin: Kin, short_directory):
    address = f"unix:{short_directory}/s"
    server = kin.start("echo", "--count", "2", "--json", "--quiet", address)
    for message in ("one", "three"):
        assert kin.succeed("ask", address, message) == f"{message}\n".encode()
    code, out, err = server.end()
    report = json.loads(out)
    assert report.pop("seconds") >= 0
    assert (code, err) == (0, "")
    assert report == {
        "command": "echo",
        "address": address,
        "clients": 2,
        "failed": 0,
        "messages": 2,
        "bytes": 8,
    }
    assert not (short_directory / "s").exists()


def test_garbage_is_one_clients_error(kin: Kin, short_directory):
    address = f"unix:{short_directory}/s"
    server = kin.start("echo", "--framed", address)
    server.listening()
    with kinfolk.connect(address, framing="raw") as hostile:
        hostile.send_bytes(b"\xff" * 1000)
        with contextlib.suppress(kinfolk.EndOfChannel, kinfolk.BrokenChannel):
            assert hostile.recv_bytes(timeout=60) == b""
    assert server.line().startswith(f"kin echo: {address}: ")
    assert kin.succeed("ask", "--framed", address, "unharmed") == b"unharmed\n"


def test_no_descriptors_for_another_client(kin: Kin, short_directory):
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))

    address = f"unix:{short_directory}/s"
    server = kin.start("echo", address, preexec_fn=few)
    server.listening()
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(kinfolk.connect(address, framing="raw"))
        assert "Too many open files" in server.line()
    assert kin.succeed("ask", address, "room again") == b"room again\n"


def test_one_shortage_is_one_line(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(failures, "complain", lambda program, text: said.append(text))
    monkeypatch.setattr(serving, "_PAUSE", 0)

    class Short:
        """A listener without descriptors; the third try ends the server."""

        tries = 0

        async def aaccept(self) -> kinfolk.Connection:
            self.tries += 1
            if self.tries == 3:
                ended.set()
            raise kinfolk.LimitReached("can't accept")

    async def serve() -> None:
        server: Any = serving.Server(
            "kin echo", lambda client: asyncio.sleep(0), count=None, quiet=True
        )
        await server._accept_all(listener, asyncio.create_task(ended.wait()))

    ended, listener = asyncio.Event(), Short()
    asyncio.run(serve())
    assert listener.tries >= 3
    assert said == ["can't accept"]


# ── answers ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def listener(short_directory: Path):
    with kinfolk.listen(f"unix:{short_directory}/s", framing="raw") as listener:
        yield listener


def test_no_answer(kin: Kin, listener):
    client = kin.start("ask", listener.address, "anybody?")
    with listener.accept(timeout=60) as connection:
        assert connection.recv_bytes(timeout=60) == b"anybody?"
    ended = client.end()
    assert (ended.code, ended.out) == (3, b"")
    assert one_line(ended) == (
        f"kin ask: {listener.address}: no answer came: the server closed the connection"
    )


def test_an_answer_until_the_end(kin: Kin, listener):
    client = kin.start("ask", "--all", listener.address, "all?")
    with listener.accept(timeout=60) as connection:
        connection.recv_bytes(timeout=60)
        for piece in (b"one ", b"two "):
            connection.send_bytes(piece)
    assert client.end() == (0, b"one two \n", "")


def test_an_answer_of_a_known_length(kin: Kin, listener):
    client = kin.start("ask", "--bytes", "4", listener.address)
    client.process.stdin.write(b"4?")  # type: ignore[union-attr]
    client.process.stdin.close()  # type: ignore[union-attr]
    client.process.stdin = None
    with listener.accept(timeout=60) as connection:
        connection.recv_bytes(timeout=60)
        connection.send_bytes(b"on")
        connection.send_bytes(b"e!")
        assert client.end() == (0, b"one!", "")
    client = kin.start("ask", "--bytes", "4", listener.address, "4?")
    with listener.accept(timeout=60) as connection:
        connection.recv_bytes(timeout=60)
        connection.send_bytes(b"on")
    ended = client.end()
    assert ended.code == 3
    assert "only 2 bytes of an answer came" in one_line(ended)


def test_a_question_that_is_too_big_waits_for_no_answer(kin: Kin, short_directory):
    there = kin.start("echo", f"unix-seqpacket:{short_directory}/s").listening()
    ended = kin.run("ask", there, stdin=bytes(10_000_000))
    assert ended.code == 2
    assert "larger than the limit" in one_line(ended)


def test_a_report_of_an_answer(kin: Kin, short_directory):
    server = kin.start("echo", f"unix:{short_directory}/s")
    code, out, err = kin.run("ask", "--json", server.listening(), "hello")
    assert (code, out) == (0, b"hello\n")
    assert json.loads(err)["bytes"] == 5


def test_ctrl_c_while_no_answer_comes(kin: Kin, listener):
    client = kin.start("ask", listener.address, "anybody?")
    with listener.accept(timeout=60) as connection:
        connection.recv_bytes(timeout=60)
        client.signal(signal.SIGINT)
        assert client.end() == (130, b"", "")
