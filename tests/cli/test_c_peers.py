"""The C programs of tests/interop with `kin`, in both directions, and the tools that everybody has.

They know nothing of kinfolk: what passes here are bare bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import HANG_LIMIT, Kin

LARGE = 5_000_011
MESSAGES = [b"one", os.urandom(5_000), bytes(range(256)), b"last"]


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "original"
    path.write_bytes(os.urandom(LARGE))
    return path


@pytest.fixture
def message_files(tmp_path: Path) -> list[Path]:
    files = []
    for number, message in enumerate(MESSAGES):
        files.append(tmp_path / f"message-{number}")
        files[-1].write_bytes(message)
    return files


# ── the source's sender and receiver: a FIFO ─────────────────────────────────────────────────


@pytest.mark.parametrize("first", ["kin", "c"])
def test_from_a_c_sender(first, kin: Kin, c_program, start, finish, fifo, original, tmp_path):
    running = {}
    for side in sorted(("kin", "c"), key=lambda side: side != first):
        if side == "kin":
            running[side] = kin.start("recv", f"fifo:{fifo}", tmp_path / "copy")
        else:
            running[side] = start(c_program("fifo_sender"), fifo, original)
    assert finish(running["c"]) == b""
    assert running["kin"].end() == (0, b"", "")
    assert (tmp_path / "copy").read_bytes() == original.read_bytes()
    if not fifo.exists():
        os.mkfifo(fifo)  # the fixture removes it


@pytest.mark.parametrize("first", ["kin", "c"])
def test_to_a_c_receiver(first, kin: Kin, c_program, start, finish, fifo, original, tmp_path):
    running = {}
    for side in sorted(("kin", "c"), key=lambda side: side != first):
        if side == "kin":
            running[side] = kin.start("send", f"fifo:{fifo}", original)
        else:
            running[side] = start(c_program("fifo_receiver"), fifo, tmp_path / "copy")
    assert running["kin"].end() == (0, b"", "")
    assert finish(running["c"]) == b"received %d bytes\n" % LARGE
    assert (tmp_path / "copy").read_bytes() == original.read_bytes()


def test_the_fifo_that_kin_makes_serves_a_c_sender(
    kin: Kin, c_program, start, finish, original, tmp_path
):
    receiver = kin.start("recv", f"fifo:{tmp_path}/made", tmp_path / "copy")
    receiver.wait_until((tmp_path / "made").exists)
    finish(start(c_program("fifo_sender"), tmp_path / "made", original))
    assert receiver.end() == (0, b"", "")
    assert (tmp_path / "copy").read_bytes() == original.read_bytes()


# ── the source's echo server and client ──────────────────────────────────────────────────────

ECHOES = [("unix", "unix_echo"), ("unix-seqpacket", "unix_seqpacket_echo")]


@pytest.mark.parametrize(("scheme", "program"), ECHOES)
def test_c_clients_of_our_server(
    scheme, program, kin: Kin, c_program, start, finish, short_directory
):
    path = short_directory / "s"
    kin.start("echo", "--mode", "0640", f"{scheme}:{path}").listening()
    for message in ("hello", "进程", "x" * 1024):
        client = start(c_program(f"{program}_client"), path, message)
        assert finish(client) == f'echo msg: "{message}"\n'.encode()


@pytest.mark.parametrize(("scheme", "program"), ECHOES)
def test_our_client_of_a_c_server(scheme, program, kin: Kin, c_program, start, short_directory):
    path = short_directory / "s"
    server = start(c_program(f"{program}_server"), path, ready="listening")
    messages = ["hello", "进程", "x" * 1024]
    for message in messages:
        assert kin.succeed("ask", f"{scheme}:{path}", message) == f"{message}\n".encode()
    server.terminate()
    output, _ = server.communicate(timeout=HANG_LIMIT)
    assert output == "".join(f'new msg: "{message}"\n' for message in messages).encode()


@pytest.mark.parametrize(("scheme", "program"), ECHOES)
def test_a_relay_between_c_programs(
    scheme, program, kin: Kin, c_program, start, finish, short_directory
):
    start(c_program(f"{program}_server"), short_directory / "out", ready="listening")
    relay = kin.start("relay", f"{scheme}:{short_directory}/in", f"{scheme}:{short_directory}/out")
    relay.listening()
    for message in ("hello", "again"):
        client = start(c_program(f"{program}_client"), short_directory / "in", message)
        assert finish(client) == f'echo msg: "{message}"\n'.encode()


# ── beyond the source: datagrams, queues, pipes, TCP ─────────────────────────────────────────


def test_datagrams_from_c(kin: Kin, c_program, start, finish, message_files, short_directory):
    path = short_directory / "s"
    receiver = kin.start("recv", "--messages", len(MESSAGES), f"unix-dgram:{path}")
    receiver.wait_until(path.exists)
    assert finish(start(c_program("unix_dgram_send"), path, *message_files)) == b""
    assert receiver.end() == (0, b"".join(MESSAGES), "")


def test_datagrams_to_c(
    kin: Kin, c_program, start, finish, message_files, short_directory, tmp_path
):
    path, count = short_directory / "s", str(len(MESSAGES))
    receiver = start(
        c_program("unix_dgram_receive"), path, tmp_path / "output", count, ready="listening"
    )
    for file in message_files:
        kin.succeed("send", f"unix-dgram:{path}", file)
    lines = b"".join(b"received %d bytes\n" % len(message) for message in MESSAGES)
    assert finish(receiver) == lines
    assert (tmp_path / "output").read_bytes() == b"".join(MESSAGES)


def test_a_posix_queue_from_c(kin: Kin, c_program, start, finish, mq_name, message_files):
    finish(start(c_program("mq_send"), mq_name, "3", *message_files))
    received = kin.succeed("recv", "--messages", len(MESSAGES), f"mq:{mq_name}")
    assert received == b"".join(MESSAGES)


def test_a_posix_queue_to_c(kin: Kin, c_program, start, finish, mq_name, message_files, tmp_path):
    output = tmp_path / "output"
    receiver = start(c_program("mq_receive"), mq_name, output, "4", ready="listening")
    for file in message_files:
        kin.succeed("send", "--priority", "5", f"mq:{mq_name}", file)
    lines = b"".join(b"received %d bytes priority 5\n" % len(message) for message in MESSAGES)
    assert finish(receiver) == lines
    assert output.read_bytes() == b"".join(MESSAGES)


def test_a_system_v_queue_from_c(kin: Kin, c_program, start, finish, sysv_key, message_files):
    finish(start(c_program("sysv_send"), str(sysv_key), "4", *message_files))
    address = f"sysv-mq:{sysv_key}?type=4"
    received = kin.succeed("recv", "--messages", len(MESSAGES), address)
    assert received == b"".join(MESSAGES)


def test_a_system_v_queue_to_c(
    kin: Kin, c_program, start, finish, sysv_key, message_files, tmp_path
):
    output = tmp_path / "output"
    receiver = start(c_program("sysv_receive"), str(sysv_key), "6", output, "4", ready="listening")
    for file in message_files:
        kin.succeed("send", "--priority", "6", f"sysv-mq:{sysv_key}", file)
    lines = b"".join(b"received %d bytes mtype 6\n" % len(message) for message in MESSAGES)
    assert finish(receiver) == lines
    assert output.read_bytes() == b"".join(MESSAGES)


def test_tcp_from_c(kin: Kin, c_program, start, finish, original, tmp_path):
    receiver = kin.start("recv", "tcp:127.0.0.1:0", tmp_path / "copy")
    port = receiver.listening().rpartition(":")[2]
    finish(start(c_program("tcp_send"), "127.0.0.1", port, original))
    assert receiver.end() == (0, b"", "")
    assert (tmp_path / "copy").read_bytes() == original.read_bytes()


def test_pipes_of_a_c_program(kin: Kin, c_program, start, finish):
    """The C program's child is played by two `kin`, one for each of its pipes."""
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()
    receiver = kin.start("recv", f"pipe:{down_read}", pass_fds=(down_read,))
    sender = kin.start("send", f"pipe:{up_write}", pass_fds=(up_write,))
    parent = start(
        c_program("pipe_pair"), "parent", str(up_read), str(down_write), "down",
        pass_fds=(up_read, down_write),
    )  # fmt: skip
    for fd in (down_read, down_write, up_read, up_write):
        os.close(fd)
    assert sender.end(b"up") == (0, b"", "")
    assert finish(parent) == b"recv_from_child: up\n"
    assert receiver.end() == (0, b"down", "")


# ── cat and socat ────────────────────────────────────────────────────────────────────────────


def test_from_cat(kin: Kin, start, fifo, original, tmp_path):
    receiver = kin.start("recv", f"fifo:{fifo}", tmp_path / "copy")
    with open(original, "rb") as file:
        subprocess.run(
            ["sh", "-c", 'exec cat >"$0"', fifo], stdin=file, check=True, timeout=HANG_LIMIT
        )
    assert receiver.end() == (0, b"", "")
    assert (tmp_path / "copy").read_bytes() == original.read_bytes()
    if not fifo.exists():
        os.mkfifo(fifo)


def test_to_cat(kin: Kin, fifo, original, tmp_path):
    with open(tmp_path / "copy", "wb") as copy:
        cat = subprocess.Popen(["cat", fifo], stdout=copy)
        assert kin.succeed("send", f"fifo:{fifo}", original) == b""
        assert cat.wait(HANG_LIMIT) == 0
    assert (tmp_path / "copy").read_bytes() == original.read_bytes()


@pytest.fixture
def socat():
    if shutil.which("socat") is None:
        pytest.skip("needs socat, which is not installed: apt-get install socat")
    running: list[subprocess.Popen[bytes]] = []

    def run(*words: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["socat", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def test_from_a_socat_that_connects(kin: Kin, socat, original, short_directory, tmp_path):
    path = short_directory / "s"
    receiver = kin.start("recv", f"unix:{path}", tmp_path / "copy")
    receiver.wait_until(path.exists)
    assert socat("-u", f"OPEN:{original}", f"UNIX-CONNECT:{path}").wait(HANG_LIMIT) == 0
    assert receiver.end() == (0, b"", "")
    assert (tmp_path / "copy").read_bytes() == original.read_bytes()


def test_to_a_socat_that_listens(kin: Kin, socat, original, short_directory, tmp_path):
    path = short_directory / "s"
    listening = socat("-u", f"UNIX-LISTEN:{path}", f"CREATE:{tmp_path}/copy")
    kin.succeed("send", f"unix:{path}", original)
    assert listening.wait(HANG_LIMIT) == 0
    assert (tmp_path / "copy").read_bytes() == original.read_bytes()


def test_from_a_socat_that_listens(kin: Kin, socat, original, short_directory, tmp_path):
    path = short_directory / "s"
    socat("-u", f"OPEN:{original}", f"UNIX-LISTEN:{path}")
    kin.succeed("recv", "--connect", f"unix:{path}", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == original.read_bytes()


def test_to_a_socat_that_connects(kin: Kin, socat, original, short_directory, tmp_path):
    path = short_directory / "s"
    sender = kin.start("send", "--listen", "--mode", "0600", f"unix:{path}", original)
    sender.wait_until(path.exists)
    connecting = socat("-u", f"UNIX-CONNECT:{path}", f"CREATE:{tmp_path}/copy")
    assert sender.end() == (0, b"", "")
    assert connecting.wait(HANG_LIMIT) == 0
    assert (tmp_path / "copy").read_bytes() == original.read_bytes()


def test_socat_asks_our_server(kin: Kin, socat, short_directory):
    path = short_directory / "s"
    kin.start("echo", f"unix:{path}").listening()
    client = socat("-", f"UNIX-CONNECT:{path}")
    assert client.stdin is not None
    assert client.stdout is not None
    for word in (b"one\n", b"two\n"):
        client.stdin.write(word)
        assert os.read(client.stdout.fileno(), 100) == word
