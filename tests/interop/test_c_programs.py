"""The baseline: the C programs with each other, so that a later failure is known to be kinfolk's.

Real processes; nothing sleeps. A server's readiness line says when clients may come; a FIFO's open
waits for the other end by itself; an exit status says that a program is done.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.conftest import HANG_LIMIT, CProgram, Finish, Start

HERE = Path(__file__).resolve().parent
NAMES = sorted(source.stem for source in HERE.glob("*.c"))
PIPE_BUF = select.PIPE_BUF
BARE_BYTES = bytes(range(256)) + b"\0\n\xff" * 5


def file_of(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# Every program


@pytest.mark.parametrize("name", NAMES)
def test_compiles_and_explains_its_usage(name: str, c_program: CProgram, start: Start) -> None:
    process = start(c_program(name))
    output, complaint = process.communicate(timeout=HANG_LIMIT)
    assert process.returncode == 2
    assert output == b""
    assert f"usage: {name}".encode() in complaint


@pytest.mark.parametrize("name", NAMES)
def test_says_what_it_stands_for(name: str) -> None:
    source = (HERE / f"{name}.c").read_text()
    head = source[: source.index("*/")]
    assert head.startswith(f"/* {name} ")
    assert "Stands for the source's" in head or "Beyond the source" in head
    assert f"`{name}.c`" in (HERE / "README.md").read_text()


# FIFOs


@pytest.mark.parametrize("first", ["fifo_sender", "fifo_receiver"])
@pytest.mark.parametrize("size", [0, 1, 5_000_011])
def test_fifo_carries_a_file(
    first: str,
    size: int,
    c_program: CProgram,
    start: Start,
    finish: Finish,
    fifo: Path,
    tmp_path: Path,
) -> None:
    copy = tmp_path / "copy"
    content = os.urandom(size)
    original = file_of(tmp_path / "original", content)
    commands = {
        "fifo_sender": (c_program("fifo_sender"), fifo, original),
        "fifo_receiver": (c_program("fifo_receiver"), fifo, copy),
    }
    processes = {first: start(*commands.pop(first))}
    for name, command in commands.items():
        processes[name] = start(*command)

    assert finish(processes["fifo_sender"]) == b""
    assert finish(processes["fifo_receiver"]) == f"received {size} bytes\n".encode()
    assert copy.read_bytes() == content


def test_fifo_keeps_writes_up_to_pipe_buf_whole(
    c_program: CProgram, start: Start, finish: Finish, fifo: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    receiver = start(c_program("fifo_receiver"), fifo, copy)
    # Somebody must keep the FIFO open, or the receiver would see its end between two senders.
    holder = start("sh", "-c", 'exec 3>"$0"; echo open; read -r _', fifo, ready="open")

    letters = [bytes([ord("a") + i]) for i in range(16)]
    senders = [
        start(c_program("fifo_sender"), fifo, file_of(tmp_path / f"message-{i}", letter * PIPE_BUF))
        for i, letter in enumerate(letters)
    ]
    for sender in senders:
        finish(sender)
    holder.communicate(b"\n", timeout=HANG_LIMIT)

    assert finish(receiver) == f"received {len(letters) * PIPE_BUF} bytes\n".encode()
    received = copy.read_bytes()
    chunks = [received[at : at + PIPE_BUF] for at in range(0, len(received), PIPE_BUF)]
    assert sorted(chunks) == [letter * PIPE_BUF for letter in letters]


def test_fifo_sender_is_killed_when_its_reader_leaves(
    c_program: CProgram, start: Start, fifo: Path, tmp_path: Path
) -> None:
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        sender = start(
            c_program("fifo_sender"), fifo, file_of(tmp_path / "original", bytes(5_000_000))
        )
        assert select.select([reader], [], [], HANG_LIMIT)[0]
    finally:
        os.close(reader)
    assert sender.wait(HANG_LIMIT) == -signal.SIGPIPE


def test_fifo_sender_without_its_file_lets_no_receiver_through(
    c_program: CProgram, start: Start, fifo: Path, tmp_path: Path
) -> None:
    sender = start(c_program("fifo_sender"), fifo, tmp_path / "missing")
    _, complaint = sender.communicate(
        timeout=HANG_LIMIT
    )  # it would hang, if it opened the FIFO first
    assert sender.returncode == 1
    assert b"No such file or directory" in complaint


# Unix sockets: stream and seqpacket echo

ECHOES = ["unix_echo", "unix_seqpacket_echo"]


@pytest.mark.parametrize("echo", ECHOES)
def test_echo_serves_one_client_after_the_other(
    echo: str, c_program: CProgram, start: Start, finish: Finish, tmp_path: Path
) -> None:
    path = tmp_path / "echo.sock"
    server = start(c_program(f"{echo}_server"), path, ready="listening")
    messages = ["hello", "进程", "x" * 1024]
    for message in messages:
        client = start(c_program(f"{echo}_client"), path, message)
        assert finish(client) == f'echo msg: "{message}"\n'.encode()

    server.terminate()
    output, _ = server.communicate(timeout=HANG_LIMIT)
    assert output == "".join(f'new msg: "{message}"\n' for message in messages).encode()


@pytest.mark.parametrize("signo", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize("echo", ECHOES)
def test_echo_server_removes_its_socket_and_exits_0(
    echo: str, signo: signal.Signals, c_program: CProgram, start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "echo.sock"
    server = start(c_program(f"{echo}_server"), path, ready="listening")
    status = path.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o640

    server.send_signal(signo)
    _, complaint = server.communicate(timeout=HANG_LIMIT)
    assert server.returncode == 0
    assert not path.exists()
    if echo == "unix_echo":
        assert complaint == f"received signal: {signo.name}({signo.value})\n".encode()


@pytest.mark.parametrize("echo", ECHOES)
def test_echo_server_obeys_while_a_client_says_nothing(
    echo: str, c_program: CProgram, start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "echo.sock"
    server = start(c_program(f"{echo}_server"), path, ready="listening")
    kind = socket.SOCK_STREAM if echo == "unix_echo" else socket.SOCK_SEQPACKET
    with socket.socket(socket.AF_UNIX, kind) as silent:
        silent.connect(os.fspath(path))
        server.terminate()
        assert server.wait(HANG_LIMIT) == 0
    assert not path.exists()


@pytest.mark.parametrize("echo", ECHOES)
def test_echo_server_outlives_a_client_that_leaves_at_once(
    echo: str, c_program: CProgram, start: Start, finish: Finish, tmp_path: Path
) -> None:
    path = tmp_path / "echo.sock"
    start(c_program(f"{echo}_server"), path, ready="listening")
    kind = socket.SOCK_STREAM if echo == "unix_echo" else socket.SOCK_SEQPACKET
    with socket.socket(socket.AF_UNIX, kind) as hasty:
        hasty.connect(os.fspath(path))
    assert (
        finish(start(c_program(f"{echo}_client"), path, "still there?"))
        == b'echo msg: "still there?"\n'
    )


@pytest.mark.parametrize("echo", ECHOES)
def test_echo_server_replaces_a_dead_socket_and_nothing_else(
    echo: str, c_program: CProgram, start: Start, finish: Finish, tmp_path: Path
) -> None:
    path = tmp_path / "echo.sock"
    killed = start(c_program(f"{echo}_server"), path, ready="listening")
    killed.kill()
    killed.wait(HANG_LIMIT)
    assert path.exists()
    start(c_program(f"{echo}_server"), path, ready="listening")
    assert finish(start(c_program(f"{echo}_client"), path, "anew")) == b'echo msg: "anew"\n'

    precious = file_of(tmp_path / "precious", b"kept")
    refused = start(c_program(f"{echo}_server"), precious)
    _, complaint = refused.communicate(timeout=HANG_LIMIT)
    assert refused.returncode == 1
    assert b"is not a socket" in complaint
    assert precious.read_bytes() == b"kept"


def test_stream_echo_is_of_the_first_1024_bytes(
    c_program: CProgram, start: Start, finish: Finish, tmp_path: Path
) -> None:
    path = tmp_path / "echo.sock"
    start(c_program("unix_echo_server"), path, ready="listening")
    client = start(c_program("unix_echo_client"), path, "a" * 1024 + "b" * 1000)
    assert finish(client) == b'echo msg: "' + b"a" * 1024 + b'"\n'


def test_seqpacket_keeps_boundaries(
    c_program: CProgram, start: Start, finish: Finish, tmp_path: Path
) -> None:
    path = tmp_path / "echo.sock"
    start(c_program("unix_seqpacket_echo_server"), path, ready="listening")
    messages = ["one", "t" * 30_000, "three"]
    client = start(c_program("unix_seqpacket_echo_client"), path, *messages)
    assert finish(client) == "".join(f'echo msg: "{message}"\n' for message in messages).encode()


@pytest.mark.parametrize("echo", ECHOES)
def test_echo_client_without_a_server_fails(
    echo: str, c_program: CProgram, start: Start, tmp_path: Path
) -> None:
    client = start(c_program(f"{echo}_client"), tmp_path / "nobody.sock", "hello")
    _, complaint = client.communicate(timeout=HANG_LIMIT)
    assert client.returncode == 1
    assert b"connect" in complaint


# Unix datagrams


def test_datagrams_keep_boundaries_and_order(
    c_program: CProgram, start: Start, finish: Finish, tmp_path: Path
) -> None:
    path, output = tmp_path / "dgram.sock", tmp_path / "output"
    bodies = [BARE_BYTES, b"", os.urandom(100_000), *(b"%d" % i for i in range(40))]
    files = [file_of(tmp_path / f"body-{i}", body) for i, body in enumerate(bodies)]

    receiver = start(
        c_program("unix_dgram_receive"), path, output, str(len(bodies)), ready="listening"
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert finish(start(c_program("unix_dgram_send"), path, *files)) == b""

    assert finish(receiver) == b"".join(b"received %d bytes\n" % len(body) for body in bodies)
    assert output.read_bytes() == b"".join(bodies)
    assert not path.exists()


# Anonymous pipes


def test_two_pipes_carry_both_ways(c_program: CProgram, start: Start, finish: Finish) -> None:
    process = start(c_program("pipe_pair"), "parent_say_to_child", "child_say_to_parent")
    assert (
        finish(process)
        == b"recv_from_parent: parent_say_to_child\nrecv_from_child: child_say_to_parent\n"
    )


def test_two_programs_talk_through_descriptors_they_inherit(
    c_program: CProgram, start: Start, finish: Finish
) -> None:
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()
    try:
        child = start(
            c_program("pipe_pair"), "child", str(down_read), str(up_write), "c" * PIPE_BUF,
            pass_fds=(down_read, up_write),
        )  # fmt: skip
        parent = start(
            c_program("pipe_pair"), "parent", str(up_read), str(down_write), "p" * PIPE_BUF,
            pass_fds=(up_read, down_write),
        )  # fmt: skip
    finally:
        for fd in (down_read, down_write, up_read, up_write):
            os.close(fd)
    assert finish(child) == b"recv_from_parent: " + b"p" * PIPE_BUF + b"\n"
    assert finish(parent) == b"recv_from_child: " + b"c" * PIPE_BUF + b"\n"


def test_a_part_sees_that_the_other_left(c_program: CProgram, start: Start) -> None:
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()
    try:
        child = start(
            c_program("pipe_pair"),
            "child",
            str(down_read),
            str(up_write),
            "unsaid",
            pass_fds=(down_read, up_write),
        )
    finally:
        for fd in (down_read, down_write, up_read, up_write):
            os.close(fd)
    output, complaint = child.communicate(timeout=HANG_LIMIT)
    assert (child.returncode, output) == (1, b"")
    assert b"left without a message" in complaint


# POSIX message queues


@pytest.mark.parametrize("body", [BARE_BYTES, b""])
def test_posix_queue_wakes_a_waiting_receiver(
    body: bytes, mq_name: str, c_program: CProgram, start: Start, finish: Finish, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    receiver = start(c_program("mq_receive"), mq_name, output, ready="listening")
    assert (
        finish(start(c_program("mq_send"), mq_name, "7", file_of(tmp_path / "body", body))) == b""
    )
    assert finish(receiver) == b"received %d bytes priority 7\n" % len(body)
    assert output.read_bytes() == body


def test_posix_queue_orders_by_priority_then_age(
    mq_name: str, c_program: CProgram, start: Start, finish: Finish, tmp_path: Path
) -> None:
    files = [file_of(tmp_path / name, name.encode()) for name in ("a", "bb", "ccc", "dddd")]
    finish(start(c_program("mq_send"), mq_name, "1", *files[:2]))
    finish(start(c_program("mq_send"), mq_name, "9", *files[2:]))

    output = tmp_path / "output"
    lines = finish(start(c_program("mq_receive"), mq_name, output, "4")).splitlines()
    assert lines == [
        b"listening",
        b"received 3 bytes priority 9",
        b"received 4 bytes priority 9",
        b"received 1 bytes priority 1",
        b"received 2 bytes priority 1",
    ]
    assert output.read_bytes() == b"cccddddabb"


def test_posix_queue_holds_back_a_sender_when_full(
    mq_name: str, c_program: CProgram, start: Start, finish: Finish, tmp_path: Path
) -> None:
    most = int(Path("/proc/sys/fs/mqueue/msg_default").read_text())
    files = [file_of(tmp_path / f"body-{i}", b"%d," % i) for i in range(3 * most)]
    sender = start(c_program("mq_send"), mq_name, "0", *files)
    output = tmp_path / "output"
    finish(start(c_program("mq_receive"), mq_name, output, str(len(files))))
    finish(sender)
    assert output.read_bytes() == b"".join(file.read_bytes() for file in files)


def test_posix_queue_refuses_what_is_too_big(
    mq_name: str, c_program: CProgram, start: Start, tmp_path: Path
) -> None:
    largest = int(Path("/proc/sys/fs/mqueue/msgsize_default").read_text())
    sender = start(
        c_program("mq_send"), mq_name, "0", file_of(tmp_path / "body", bytes(largest + 1))
    )
    _, complaint = sender.communicate(timeout=HANG_LIMIT)
    assert sender.returncode == 1
    assert b"larger than this queue's messages" in complaint


# System V message queues


@pytest.mark.parametrize("body", [BARE_BYTES, b""])
def test_sysv_queue_wakes_a_waiting_receiver(
    body: bytes, sysv_key: int, c_program: CProgram, start: Start, finish: Finish, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    receiver = start(c_program("sysv_receive"), str(sysv_key), "5", output, ready="listening")
    assert (
        finish(start(c_program("sysv_send"), hex(sysv_key), "5", file_of(tmp_path / "body", body)))
        == b""
    )
    assert finish(receiver) == b"received %d bytes mtype 5\n" % len(body)
    assert output.read_bytes() == body


def test_sysv_queue_selects_by_type(
    sysv_key: int, c_program: CProgram, start: Start, finish: Finish, tmp_path: Path
) -> None:
    key = str(sysv_key)
    for mtype, name in (("3", "first"), ("1", "second!"), ("2", "third")):
        finish(start(c_program("sysv_send"), key, mtype, file_of(tmp_path / name, name.encode())))

    def received(mtype: str) -> bytes:
        output = tmp_path / "output"
        assert finish(start(c_program("sysv_receive"), key, mtype, output)).startswith(
            b"listening\nreceived "
        )
        return output.read_bytes()

    assert received("2") == b"third"  # that type
    assert received("-3") == b"second!"  # the lowest type up to 3
    assert received("0") == b"first"  # the oldest of what is left


def test_sysv_key_through_ftok(
    claim_sysv_key: Callable[[int], int],
    c_program: CProgram,
    start: Start,
    finish: Finish,
    tmp_path: Path,
) -> None:
    body = file_of(tmp_path / "body", b"by path")
    status = body.stat()
    key = claim_sysv_key(
        7 << 24 | (status.st_dev & 0xFF) << 16 | (status.st_ino & 0xFFFF)
    )  # glibc's ftok

    finish(start(c_program("sysv_send"), f"{body}#7", "1", body))
    output = tmp_path / "output"
    assert (
        finish(start(c_program("sysv_receive"), hex(key), "0", output))
        == b"listening\nreceived 7 bytes mtype 1\n"
    )
    assert output.read_bytes() == b"by path"


# TCP: there is no C receiver; the standard library plays it


@pytest.mark.parametrize("size", [0, 5_000_011])
def test_tcp_carries_a_file(
    size: int, c_program: CProgram, start: Start, finish: Finish, tmp_path: Path
) -> None:
    content = os.urandom(size)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(HANG_LIMIT)
        port = listener.getsockname()[1]
        sender = start(
            c_program("tcp_send"), "127.0.0.1", str(port), file_of(tmp_path / "original", content)
        )
        connection, _ = listener.accept()
    received = bytearray()
    with connection:
        connection.settimeout(HANG_LIMIT)
        while chunk := connection.recv(1 << 16):
            received += chunk
    finish(sender)
    assert received == content


# The fixtures themselves: what must fail, fails


def test_a_program_that_is_not_ready_fails_the_test(start: Start) -> None:
    with pytest.raises(pytest.fail.Exception, match="instead of 'listening'"):
        start("sh", "-c", "echo broken >&2", ready="listening")


def test_a_missing_compiler_is_named(
    c_program: CProgram, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match="install gcc"):
        c_program("never_compiled")
