"""Whatever a user does wrong: one line that says what to do, the right number, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import kinfolk
from kinfolk.cli import recv, send
from kinfolk.cli.main import run
from tests.cli.conftest import COMMAND, Ended, Kin, one_line

LOADED = recv, send  # before a test becomes a user who may not read their files

LONG = "x" * 300

# command line, exit code, what the line has to say; {dir} is a directory of the test's own.
WRONG: list[tuple[str, int, str]] = [
    # the command line
    ("nonsense", 2, "kin: no such command 'nonsense'"),
    ("--nonsense", 2, "kin: no such option"),
    ("send", 2, "missing argument 'ADDRESS' (see kin send --help)"),
    ("recv", 2, "missing argument 'ADDRESS'"),
    ("echo", 2, "missing argument 'ADDRESS'"),
    ("ask", 2, "missing argument 'ADDRESS'"),
    ("relay fifo:{dir}/f", 2, "missing argument 'ADDRESS'"),
    ("send fifo:{dir}/f a b", 2, "unexpected extra argument"),
    ("send --fram fifo:{dir}/f", 2, "--framed"),
    ("recv --timeout soon fifo:{dir}/f", 2, "'soon' is not a valid float"),
    ("recv --timeout -1 fifo:{dir}/f", 2, "--timeout -1 makes no sense (give seconds"),
    ("recv --timeout nan fifo:{dir}/f", 2, "--timeout nan makes no sense"),
    ("recv --mode 0999 fifo:{dir}/f", 2, "mode=0999 makes no sense: a mode is octal, such as 0640"),
    ("recv --mode 0640 fifo:{dir}/f?mode=0600", 2, "mode is given twice, as 0600 and 0640"),
    ("recv --mode 7777 fifo:{dir}/f", 2, "mode=7777 makes no sense"),
    ("recv --codec xml fifo:{dir}/f", 2, "'xml' is not one of"),
    ("recv --codec json --messages 0 fifo:{dir}/f", 2, "0 is not in the range"),
    ("recv --messages 2 fifo:{dir}/f", 2, "--messages has nothing to count"),
    ("recv --framed --messages 2 fifo:{dir}/f", 2, "--messages has nothing to count"),
    ("recv --connect fifo:{dir}/f", 2, "--connect is for connections"),
    ("send --listen fifo:{dir}/f /dev/null", 2, "--listen is for connections"),
    ("send --mode 0600 fifo:{dir}/f /dev/null", 2, "--mode is for what --listen makes"),
    ("send --priority 1 --timeout 0 fifo:{dir}/ready {dir}/file", 2, "there are no priorities here"),
    ("ask --bytes 3 --all unix:{dir}/s hello", 2, "--bytes and --all exclude each other"),
    ("ask --framed --bytes 3 unix:{dir}/s hello", 2, "--bytes is for bare bytes"),
    ("ask unix:{dir}/s", 2, "an empty message is none on a byte stream"),
    ("ask --codec json unix:{dir}/s {no", 2, "the message is no JSON text"),
    ("relay --count 1 fifo:{dir}/f fifo:{dir}/g", 2, "--count is for clients"),
    ("relay unix:{dir}/s unix:{dir}/s?mode=0640", 2, "both addresses are the same"),
    ("recv mq:/kinfolk-never {dir}/copy", 2, "(say --messages N, or --framed on both sides)"),
    ("recv sysv-mq:77 {dir}/copy", 2, "the file would never be whole"),
    ("recv unix-dgram:{dir}/s {dir}/copy", 2, "the file would never be whole"),
    ("recv --codec raw mq:/kinfolk-never {dir}/copy", 2, "the file would never be whole"),
    ("tour --list pipe", 2, "--list takes neither a STOP nor --file"),
    ("tour nonsense", 2, "the tour has no stop 'nonsense'"),
    ("tree abc", 2, "'abc' is not a valid pid"),
    ("recv --framed --messages x fifo:{dir}/f", 2, "'x' is not a valid whole number"),
    ("run --grace nan true", 125, "--grace nan makes no sense (give seconds"),
    # addresses
    ("recv nonsense", 2, "'nonsense': this is no address"),
    ("recv Fifo:/tmp/f", 2, "this is no address"),
    ("recv smoke:signals", 2, "there is no mechanism 'smoke'"),
    ("recv fifo:", 2, "a FIFO needs a path"),
    ("recv fifo:{dir}/f?nonsense=1", 2, "there is no option 'nonsense'"),
    ("recv fifo:{dir}/f?depth=1", 2, "takes no option 'depth'"),
    ("recv fifo:{dir}/f?mode", 2, "its options can't be read"),
    ("recv --mode 0600 fifo:{dir}/f?mode=0640", 2, "mode is given twice"),
    ("recv --framed fifo:{dir}/f?framing=raw", 2, "framing is given twice"),
    ("recv fifo:{dir}/f?framing=raw&codec=json", 2, "framing=raw moves bare bytes"),
    ("recv pipe:", 2, "descriptor"),
    ("recv pipe:77", 2, "descriptor 77 is not open"),
    ("echo fifo:{dir}/f", 2, "use unix:"),
    ("echo mq:/kinfolk-never", 2, "one way"),
    ("echo unix-dgram:{dir}/s", 2, "use unix-seqpacket:"),
    ("echo --mode 0600 tcp:127.0.0.1:0", 2, "takes no option 'mode'"),
    ("echo tcp:127.0.0.1", 2, "tcp:127.0.0.1"),
    ("echo tcp:127.0.0.1:99999", 2, "99999"),
    ("recv unix:{dir}/" + LONG, 2, LONG),
    ("echo unix:{dir}/" + LONG, 2, LONG),
    ("recv mq:/" + LONG, 2, LONG),
    ("recv sysv-mq:nonsense", 2, "nonsense"),
    ("ask fifo:{dir}/f hello", 2, "one way"),
    # files
    ("send fifo:{dir}/f {dir}/missing", 7, "{dir}/missing: can't be read: No such file"),
    ("send fifo:{dir}/f {dir}", 1, "{dir}: can't be read: it is a directory (name a file)"),
    ("send fifo:{dir}/f {dir}/file/below", 1, "can't be read: Not a directory"),
    ("send fifo:{dir}/f {dir}/" + LONG, 1, "can't be read: File name too long"),
    ("recv fifo:{dir}/f {dir}", 1, "{dir}: can't be written: it is a directory"),
    ("recv fifo:{dir}/f {dir}/missing/copy", 7, "can't be written: No such file"),
    ("recv fifo:{dir}/f {dir}/file/copy", 1, "can't be written: Not a directory"),
    ("recv fifo:{dir}/f /proc/copy", 7, "/proc/copy: can't be written"),
    ("tour --file {dir}/missing", 7, "{dir}/missing"),
    # names
    ("recv fifo:{dir}/missing/f", 7, "No such file"),
    ("recv fifo:{dir}/file", 2, "{dir}/file"),
    ("recv fifo:{dir}", 2, "{dir}"),
    ("recv fifo:{dir}/" + LONG, 1, "File name too long"),
    # the moment
    ("recv --timeout 0.05 fifo:{dir}/f", 124, "nothing came: not within 0.05 s"),
    ("send --timeout 0.05 fifo:{dir}/f {dir}/file", 124, "no receiver came: not within 0.05 s"),
    ("send --timeout 0 fifo:{dir}/f {dir}/file", 124, "no receiver came: not within 0 s"),
    ("ask --timeout 0.05 unix:{dir}/s hello", 124, "unix:{dir}/s: no server is there"),
    ("ask --timeout 0.05 unix:{dir}/listens hello", 124, "no answer came: not within 0.05 s"),
    ("send --timeout 0.05 unix:{dir}/s {dir}/file", 124, "no receiver came"),
    ("recv --timeout 0.05 unix:{dir}/s", 124, "no sender came"),
    ("recv --timeout 0.05 tcp:127.0.0.1:1", 124, "no sender came"),
    ("echo unix:{dir}/listens", 6, "unix:{dir}/listens"),
    ("echo unix:{dir}/file", 2, "{dir}/file"),
    ("recv unix:{dir}/listens", 6, "unix:{dir}/listens"),
    ("relay unix:{dir}/listens unix:{dir}/s", 6, "unix:{dir}/listens"),
    ("echo unix:{dir}/missing/s", 7, "{dir}/missing: there is no such directory"),
    ("recv --timeout 0 fifo:{dir}/busy", 6, "another process receives here"),
]  # fmt: skip


@pytest.fixture
def directory(short_directory: Path):
    """What the table of mistakes needs."""
    tmp_path = short_directory
    (tmp_path / "file").write_bytes(b"content")
    with (
        kinfolk.open_receiver(f"fifo:{tmp_path}/ready", framing="raw"),
        kinfolk.open_receiver(f"fifo:{tmp_path}/busy", framing="raw"),
        kinfolk.listen(f"unix:{tmp_path}/listens", framing="raw"),
    ):
        yield tmp_path


@pytest.mark.parametrize(("line", "code", "says"), WRONG, ids=[wrong[0][:60] for wrong in WRONG])
def test_one_line_and_a_number(line, code, says, kin: Kin, directory):
    words = [word.replace("{dir}", str(directory)) for word in line.split()]
    ended = kin.run(*words)
    said = one_line(ended)
    assert (ended.code, ended.out) == (code, b"")
    assert says.replace("{dir}", str(directory)) in said
    assert said.startswith("kin: " if words[0].endswith("nonsense") else f"kin {words[0]}: ")


@pytest.mark.parametrize("command", ["send", "recv"])
def test_an_empty_name_of_a_file_is_refused_before_anything_moves(command, kin: Kin, directory):
    ended = kin.run(command, f"fifo:{directory}/f", "")  # "$UNSET" in a script
    assert (ended.code, one_line(ended)[:25]) == (2, f"kin {command}: FILE is empty: ")


def test_nothing_but_kin_is_a_question_for_help(kin: Kin):
    ended = kin.run()
    assert (ended.code, ended.out) == (2, b"")
    assert ended.err.startswith("Usage: kin ")


def test_control_characters_do_not_reach_the_terminal(kin: Kin, tmp_path):
    ended = kin.run("send", f"fifo:{tmp_path}/f", f"{tmp_path}/two\nlines\x1b[31m\x07")
    assert "lines\\x1b[31m\\x07: can't be read" in one_line(ended)


def test_a_file_name_that_is_no_utf8(kin: Kin, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    assert "/\\xff: can't be read" in one_line(kin.run("send", f"fifo:{tmp_path}/f", name))


def test_a_line_that_is_no_json(kin: Kin, directory):
    with kinfolk.open_receiver(f"fifo:{directory}/objects", codec="json"):
        ended = kin.run("send", "--codec", "json", f"fifo:{directory}/objects", stdin=b"1\n{no\n")
    assert ended.code == 2
    assert "line 2 is no JSON text" in one_line(ended)


def test_nobody_receives_within_the_time(kin: Kin, directory):
    """The receiver is there, but takes nothing."""
    address = f"fifo:{directory}/ready"
    ended = kin.run("send", "--timeout", "0.1", address, "/dev/zero")
    assert ended.code == 124
    assert f"{address}: the receiver takes nothing more: not within 0.1 s" in one_line(ended)


# ── files that can't be used ─────────────────────────────────────────────────────────────────


@pytest.fixture
def forbidden(short_directory: Path) -> Path:
    """What a plain user may not read, and where he may not write."""
    short_directory.chmod(0o755)
    (short_directory / "secret").touch(mode=0)
    (short_directory / "closed").mkdir(mode=0o555)
    return short_directory


@pytest.mark.parametrize(
    "line",
    [
        "send fifo:{dir}/f {dir}/secret",
        "recv fifo:/tmp/f {dir}/closed/f",
        "recv fifo:{dir}/closed/f",
    ],
)
def test_permission_denied(line, forbidden, as_plain_user):
    words = line.replace("{dir}", str(forbidden)).split()

    def attempt() -> tuple[int, str]:
        with tempfile.TemporaryFile() as said:
            os.dup2(said.fileno(), 2)
            code = run(words)
            said.seek(0)
            return code, said.read().decode()

    code, said = as_plain_user.run(attempt)
    assert code == 5
    assert one_line(Ended(code, b"", said)).endswith("Permission denied")


def test_a_full_disk_behind_standard_output(kin: Kin, directory):
    address = f"fifo:{directory}/f"
    with open("/dev/full", "wb") as full:
        receiver = kin.start("recv", address, stdout=full)
        kin.run("send", address, "/dev/zero")
        ended = receiver.end()
    assert ended.code == 1
    assert "standard output: can't be written: No space left" in one_line(ended)


def test_a_full_disk_behind_a_help(kin: Kin):
    with open("/dev/full", "wb") as full:
        ended = kin.run("--help", stdout=full)
    assert ended.code == 1
    assert "No space left" in one_line(ended)


@pytest.fixture
def tiny_disk(tmp_path: Path):
    """A file system of 64 KiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs a small file system, and only root may mount one")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_behind_a_file(kin: Kin, directory, tiny_disk):
    (tiny_disk / "copy").write_bytes(b"old")
    address = f"fifo:{directory}/f"
    receiver = kin.start("recv", address, tiny_disk / "copy")
    sender = kin.run("send", address, "/dev/zero")
    ended = receiver.end()
    assert (ended.code, sender.code) == (1, 3)
    assert f"{tiny_disk}/copy: can't be written: No space left" in one_line(ended)
    assert os.listdir(tiny_disk) == ["copy"]
    assert (tiny_disk / "copy").read_bytes() == b"old"


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_standard_descriptor(closed, kin: Kin, directory):
    """The channel must not get its number: what is for the user would go into it."""
    address = f"fifo:{directory}/f"
    command = f'exec "$@" {closed}<&-'
    words = ["sh", "-c", command, "sh", *kin_words("recv", address)]
    receiver = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    sender = kin.run("send", address, stdin=b"data")
    out, err = receiver.communicate(timeout=60)
    if closed == 1:
        assert (receiver.returncode, out) == (1, b"")
        assert b"standard output: can't be written: Bad file descriptor" in err
    else:
        assert (receiver.returncode, out, err, sender.code) == (0, b"data", b"", 0)


def kin_words(*words: str) -> list[str]:
    return [*COMMAND, *words]


# ── bugs ─────────────────────────────────────────────────────────────────────────────────────

_BUGGY = """
import sys
from kinfolk.cli import send
from kinfolk.cli.main import main
send.Source = None  # calling it is the bug
sys.argv = ["kin", *sys.argv[1:]]
main()
"""


def buggy(*words: str, **environment: str) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-c", _BUGGY, *words],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    return result.returncode, result.stderr


def test_a_bug_asks_to_be_reported():
    code, err = buggy("send", "fifo:/tmp/f")
    assert code == 70
    assert err.startswith("kin send: a bug of kinfolk: TypeError: ")
    assert "please report it" in err
    assert err.count("\n") == 1


def test_who_asks_for_a_traceback_gets_one():
    for code, err in (
        buggy("--traceback", "send", "fifo:/tmp/f"),
        buggy("send", "fifo:/tmp/f", KIN_DEBUG="1"),
    ):
        assert code == 70
        assert "Traceback" in err
    code, err = buggy("send", "fifo:/tmp/f", KIN_DEBUG="0")
    assert "Traceback" not in err


SCRIPT = str(Path(sys.executable).with_name("kin"))


@pytest.mark.parametrize("program", [(SCRIPT,), ("-m", "kinfolk")], ids=["kin", "control"])
def test_ctrl_c_while_it_starts(program, kin: Kin):
    """It ends by the signal without a word; the control, which has Python's own handler, shows a traceback."""
    starting = kin.start("--help", command=(sys.executable, "-X", "importtime", *program))
    while "click." not in (line := starting.line()):
        assert line, "it ended"
    starting.signal(
        signal.SIGSTOP
    )  # so that it comes in the middle of importing, however slow we are
    starting.signal(signal.SIGINT)
    starting.signal(signal.SIGCONT)
    code, out, err = starting.end()
    assert (code, out) == (128 + signal.SIGINT, b"")
    assert ("KeyboardInterrupt" in err) is (program[0] == "-m")
