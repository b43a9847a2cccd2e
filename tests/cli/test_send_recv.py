"""`kin send` and `kin recv` over FIFOs and pipes: what arrives, what is reported, what is left."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import kinfolk
from tests.cli.conftest import Kin, one_line

LARGE = 3_000_017


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"fifo:{tmp_path}/channel"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory for a received file, with nothing else in it."""
    directory = tmp_path / "place"
    directory.mkdir()
    return directory


def file_of(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


@pytest.mark.parametrize("options", [(), ("--framed",), ("--codec", "raw")])
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_537, LARGE])
def test_a_file_goes_through(options, size, kin: Kin, address, tmp_path, place):
    original = file_of(tmp_path / "original", size)
    receiver = kin.start("recv", *options, address, place / "copy")
    assert kin.succeed("send", *options, address, original) == b""
    assert receiver.end() == (0, b"", "")
    assert (place / "copy").read_bytes() == original.read_bytes()
    assert os.listdir(place) == ["copy"]
    assert not (tmp_path / "channel").exists()


@pytest.mark.parametrize("options", [(), ("--framed",)])
def test_standard_input_to_standard_output(options, kin: Kin, address, tmp_path):
    data = os.urandom(LARGE)
    with open(tmp_path / "output", "wb") as output:
        receiver = kin.start("recv", *options, address, "-", stdout=output)
    kin.succeed("send", *options, address, stdin=data)
    assert receiver.end() == (0, b"", "")
    assert (tmp_path / "output").read_bytes() == data


def test_a_sender_may_come_first(kin: Kin, address):
    sender = kin.start("send", address)
    sender.wait_until_blocked()
    receiver = kin.start("recv", address)
    assert sender.end(b"early") == (0, b"", "")
    assert receiver.end() == (0, b"early", "")


def test_through_an_inherited_pipe(kin: Kin):
    reading, writing = os.pipe()
    sender = kin.start("send", f"pipe:{writing}", pass_fds=(writing,))
    receiver = kin.start("recv", f"pipe:{reading}", pass_fds=(reading,))
    os.close(reading)
    os.close(writing)
    assert sender.end(b"inherited") == (0, b"", "")
    assert receiver.end() == (0, b"inherited", "")


def test_what_has_come_is_out_at_once(kin: Kin, address):
    receiver = kin.start("recv", address)
    sender = kin.start("send", address)
    assert sender.process.stdin is not None
    assert receiver.process.stdout is not None
    for word in (b"one", b"two"):
        sender.process.stdin.write(word)
        assert os.read(receiver.process.stdout.fileno(), 100) == word
    sender.end(b"")


def test_options_may_stand_in_the_address(kin: Kin, address, tmp_path, place):
    receiver = kin.start("recv", f"{address}?framing=framed&mode=0620", place / "copy")
    receiver.wait_until((tmp_path / "channel").exists)
    assert (tmp_path / "channel").stat().st_mode & 0o777 == 0o620
    kin.succeed("send", f"{address}?framing=framed", stdin=b"framed")
    assert receiver.end() == (0, b"", "")
    assert (place / "copy").read_bytes() == b"framed"


# ── reports ──────────────────────────────────────────────────────────────────────────────────


def test_reports(kin: Kin, address, tmp_path, place):
    original = file_of(tmp_path / "original", 1000)
    digest = hashlib.sha256(original.read_bytes()).hexdigest()
    receiver = kin.start("recv", "--framed", "--json", address, place / "copy")
    sent = json.loads(kin.succeed("send", "--framed", "--json", address, original))
    code, out, err = receiver.end()
    received = json.loads(out)
    assert (code, err) == (0, "")
    for report, command, file in ((sent, "send", original), (received, "recv", place / "copy")):
        assert report.pop("seconds") >= 0
        assert report == {
            "command": command,
            "address": address,
            "file": str(file),
            "messages": 1,
            "bytes": 1000,
            "sha256": digest,
        }


def test_a_report_stays_out_of_the_data(kin: Kin, address):
    receiver = kin.start("recv", "--json", address)
    kin.succeed("send", address, stdin=b"data")
    code, out, err = receiver.end()
    assert (code, out) == (0, b"data")
    assert json.loads(err)["bytes"] == 4


# ── whole or not at all ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("existing", [None, b"what was there"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_recv_leaves_nothing(number, existing, kin: Kin, address, tmp_path, place):
    if existing is not None:
        (place / "copy").write_bytes(existing)
    receiver = kin.start("recv", address, place / "copy")
    with kinfolk.open_sender(address, framing="raw") as sender:
        for _ in range(20):  # more than the pipe holds: some of it is being written
            sender.send_bytes(bytes(65536))
        receiver.signal(number)
        assert receiver.end() == (128 + number, b"", "")
    assert os.listdir(place) == ([] if existing is None else ["copy"])
    if existing is not None:
        assert (place / "copy").read_bytes() == existing
    with contextlib.suppress(FileNotFoundError):  # SIGKILL leaves the FIFO, for the next receiver
        assert number == signal.SIGKILL or not (tmp_path / "channel").exists()
        (tmp_path / "channel").unlink()


@pytest.mark.parametrize("existing", [None, b"what was there"])
def test_a_sender_killed_in_the_middle_leaves_no_file(existing, kin: Kin, address, place):
    if existing is not None:
        (place / "copy").write_bytes(existing)
    receiver = kin.start("recv", "--framed", address, place / "copy")
    sender = kin.start("send", "--framed", address)
    assert sender.process.stdin is not None
    sender.process.stdin.write(bytes(1_000_000))
    sender.signal(signal.SIGKILL)
    sender.end()
    ended = receiver.end()
    assert ended.code == 4
    assert "the transfer was cut short" in one_line(ended)
    assert os.listdir(place) == ([] if existing is None else ["copy"])


def test_a_wrong_checksum_leaves_no_file(kin: Kin, address, place):
    receiver = kin.start("recv", "--framed", address, place / "copy")
    with kinfolk.open_sender(address, codec="msgpack") as sender:
        sender.send({"kinfolk": "transfer", "bytes": 5})
        sender.send_bytes(b"wrong")
        digest = hashlib.sha256(b"right").hexdigest()
        sender.send({"kinfolk": "end", "bytes": 5, "sha256": digest})
        ended = receiver.end()
    assert ended.code == 4
    assert "the SHA-256 of what was sent is another one" in one_line(ended)
    assert os.listdir(place) == []


@pytest.mark.parametrize(
    ("objects", "why"),
    [
        ([b"no header"], "not the beginning of a transfer"),
        ([{"kinfolk": "end"}], "not the beginning of a transfer"),
        ([{"kinfolk": "transfer"}, {"another": "object"}], "an object came instead"),
        ([{"kinfolk": "transfer"}, {"kinfolk": "transfer"}], "another transfer began"),
        ([{"kinfolk": "transfer"}, b"ab", {"kinfolk": "end", "bytes": 3}], "3 bytes were sent"),
        ([{"kinfolk": "transfer"}], "cut short"),
    ],
)
def test_what_is_no_transfer_is_said(objects, why, kin: Kin, address, place):
    receiver = kin.start("recv", "--framed", address, place / "copy")
    with kinfolk.open_sender(address, codec="msgpack") as sender:
        sender.send_many(objects)
    ended = receiver.end()
    assert ended.code == 4
    assert why in one_line(ended)
    assert os.listdir(place) == []


def test_bare_bytes_are_no_transfer(kin: Kin, address, place):
    receiver = kin.start("recv", "--framed", address, place / "copy")
    kin.run("send", address, stdin=b"bare bytes")
    ended = receiver.end()
    assert ended.code == 4
    assert "framing" in one_line(ended)


def test_a_replaced_file_keeps_its_mode_and_a_link_is_replaced_itself(
    kin: Kin, address, tmp_path, place
):
    (place / "copy").write_bytes(b"old")
    (place / "copy").chmod(0o604)
    (place / "target").write_bytes(b"untouched")
    (place / "link").symlink_to("target")
    for name in ("copy", "link", "new"):
        receiver = kin.start("recv", address, place / name, umask=0o027)
        kin.succeed("send", address, stdin=b"fresh")
        assert receiver.end() == (0, b"", "")
        assert (place / name).read_bytes() == b"fresh"
    assert stat.S_IMODE((place / "copy").stat().st_mode) == 0o604
    assert stat.S_IMODE((place / "new").stat().st_mode) == 0o640
    assert not (place / "link").is_symlink()
    assert (place / "target").read_bytes() == b"untouched"


def test_a_device_is_written_to_and_not_replaced(kin: Kin, address):
    receiver = kin.start("recv", address, "/dev/null")
    kin.succeed("send", address, stdin=b"into nothing")
    assert receiver.end() == (0, b"", "")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


# ── the other side goes ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", [(), ("--framed",)])
def test_nobody_receives_any_more(options, kin: Kin, address):
    framing = "framed" if options else "raw"
    with kinfolk.open_receiver(address, framing=framing, codec="msgpack" if options else "raw"):
        sender = kin.start("send", *options, address, "/dev/zero")
        sender.wait_until_blocked()
    ended = sender.end()
    assert ended.code == 3
    assert one_line(ended).startswith(f"kin send: {address}: no process receives any more: ")


def test_nobody_reads_standard_output_any_more(kin: Kin, address):
    receiver = kin.start("recv", address)
    sender = kin.start("send", address, "/dev/zero")
    assert receiver.process.stdout is not None
    assert os.read(receiver.process.stdout.fileno(), 1) == b"\0"
    receiver.process.stdout.close()
    receiver.process.wait()
    assert receiver.process.returncode == -signal.SIGPIPE
    assert receiver.process.stderr is not None
    assert receiver.process.stderr.read() == b""
    assert sender.end().code == 3


def test_a_help_that_nobody_reads_ends_quietly(kin: Kin):
    reading, writing = os.pipe()
    os.close(reading)
    ended = kin.run("--help", stdout=writing)
    os.close(writing)
    assert ended == (128 + signal.SIGPIPE, b"", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", ["send", "recv"])
def test_ended_while_it_waits(command, number, kin: Kin, address, tmp_path):
    waiting = kin.start(command, address)
    waiting.wait_until_blocked()
    waiting.signal(number)
    assert waiting.end() == (128 + number, b"", "")
    assert not (tmp_path / "channel").exists()


def test_a_hangup_that_is_ignored_stays_ignored(kin: Kin, address):
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    receiver = kin.start("recv", address, preexec_fn=ignore)
    receiver.wait_until_blocked()
    receiver.signal(signal.SIGHUP)
    kin.succeed("send", address, stdin=b"nohup")
    assert receiver.end() == (0, b"nohup", "")


def test_a_signal_while_the_interpreter_ends_is_no_traceback():
    ended = subprocess.run(
        [sys.executable, "-c", _SIGNALLED_AT_EXIT, "--version"], capture_output=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (-signal.SIGTERM, b"")


_SIGNALLED_AT_EXIT = """
import atexit, os, signal
from kinfolk.cli.main import main
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
main()
"""


# ── messages and objects, with programs of the library's users ───────────────────────────────


def test_objects_from_a_program(kin: Kin, address):
    receiver = kin.start("recv", "--codec", "msgpack", address)
    with kinfolk.open_sender(address, codec="msgpack") as sender:
        sender.send_many([{"a": [1, 2.5, None]}, "späť", [b"\xff"]])
    assert receiver.end() == (0, '{"a": [1, 2.5, null]}\n"späť"\n["\\\\xff"]\n'.encode(), "")


def test_objects_to_a_program(kin: Kin, address):
    with kinfolk.open_receiver(address, codec="json") as receiver:
        sender = kin.start("send", "--codec", "json", address)
        ended = sender.end(b'{"job": 1}\n\n"two"\n3')
        assert ended == (0, b"", "")
        assert list(receiver) == [{"job": 1}, "two", 3]


@pytest.mark.parametrize(("codec", "code"), [("pickle", 0), ("msgpack", 4)])
def test_pickles_only_when_asked_for(codec, code, kin: Kin, address):
    receiver = kin.start("recv", "--codec", codec, address)
    with kinfolk.open_sender(address, codec="pickle") as sender:
        sender.send([1, 2])
    ended = receiver.end()
    assert ended.code == code
    assert ended.out == b"" if code else b"[1, 2]\n"
    assert not code or "codec=pickle" in one_line(ended)


def test_so_many_messages(kin: Kin, address):
    receiver = kin.start("recv", "--codec", "raw", "--messages", "2", address)
    sender = kin.start("send", "--codec", "raw", "--block", "3", address)
    sender.end(b"abcdefghi")
    assert receiver.end() == (0, b"abcdef", "")


def test_too_few_messages(kin: Kin, address, place):
    receiver = kin.start("recv", "--codec", "raw", "--messages", "9", address, place / "copy")
    kin.succeed("send", "--codec", "raw", address, stdin=b"one")
    ended = receiver.end()
    assert ended.code == 4
    assert "1 of 9 messages came" in one_line(ended)
    assert os.listdir(place) == []


def test_blocks_do_not_depend_on_the_speed_of_the_input(kin: Kin, address):
    with kinfolk.open_receiver(address, codec="raw") as receiver:
        sender = kin.start("send", "--codec", "raw", "--block", "4", address)
        assert sender.process.stdin is not None

        def type_slowly(stdin=sender.process.stdin) -> None:
            for byte in b"slowly":
                stdin.write(bytes([byte]))
            stdin.close()

        typist = threading.Thread(target=type_slowly)
        typist.start()
        assert list(receiver) == [b"slow", b"ly"]
        typist.join()
        sender.process.stdin = None
        assert sender.end() == (0, b"", "")
