"""Whatever a user does wrong: one line that says what to do, the right number, no traceback."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import kinfolk
from tests.cli.conftest import Ended, Kin, one_line

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
    ("recv --timeout -1 fifo:{dir}/f", 2, "timeout=-1.0 makes no sense"),
    ("recv --timeout nan fifo:{dir}/f", 2, "timeout=nan makes no sense"),
    ("recv --mode 0999 fifo:{dir}/f", 2, "mode=0999 makes no sense"),
    ("recv --mode 7777 fifo:{dir}/f", 2, "mode=7777 makes no sense"),
    ("recv --codec xml fifo:{dir}/f", 2, "'xml' is not one of"),
    ("recv --codec json --messages 0 fifo:{dir}/f", 2, "0 is not in the range"),
    ("recv --messages 2 fifo:{dir}/f", 2, "--messages has nothing to count"),
    ("recv --framed --messages 2 fifo:{dir}/f", 2, "--messages has nothing to count"),
    ("recv --connect fifo:{dir}/f", 2, "--connect is for connections"),
    ("send --listen fifo:{dir}/f /dev/null", 2, "--listen is for connections"),
    ("send --mode 0600 fifo:{dir}/f /dev/null", 2, "--mode is for what --listen makes"),
    ("send --priority 1 --timeout 0 fifo:{dir}/ready {dir}/file", 2, "there are no priorities here"),
    ("tour nonsense", 2, "the tour has no stop 'nonsense'"),
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
    ("recv fifo:{dir}/file", 1, "{dir}/file"),
    ("recv fifo:{dir}", 1, "{dir}"),
    ("recv fifo:{dir}/" + LONG, 1, "File name too long"),
    # the moment
    ("recv --timeout 0.05 fifo:{dir}/f", 124, "not ready within 0.05 s"),
    ("send --timeout 0.05 fifo:{dir}/f {dir}/file", 124, "not ready within 0.05 s"),
    ("send --timeout 0 fifo:{dir}/f {dir}/file", 124, "not ready within 0 s"),
    ("recv --timeout 0 fifo:{dir}/busy", 6, "another process receives here"),
]  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path):
    """What the table of mistakes needs."""
    (tmp_path / "file").write_bytes(b"content")
    with (
        kinfolk.open_receiver(f"fifo:{tmp_path}/ready", framing="raw"),
        kinfolk.open_receiver(f"fifo:{tmp_path}/busy", framing="raw"),
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


def test_nothing_but_kin_is_a_question_for_help(kin: Kin):
    ended = kin.run()
    assert (ended.code, ended.out) == (2, b"")
    assert ended.err.startswith("Usage: kin ")


def test_control_characters_do_not_reach_the_terminal(kin: Kin, tmp_path):
    ended = kin.run("send", f"fifo:{tmp_path}/f", f"{tmp_path}/two\nlines\x1b[31m\x07")
    assert "two\\nlines\\x1b[31m\\x07: can't be read" in one_line(ended)


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
    assert f"{address}: send: not ready within 0.1 s" in one_line(ended)


# ── files that can't be used ─────────────────────────────────────────────────────────────────


def test_permission_denied(kin: Kin, tmp_path, as_plain_user):
    def attempt() -> list[Ended]:
        words = [
            ("send", f"fifo:{place}/f", f"{place}/secret"),
            ("recv", f"fifo:{place}/f", f"{place}/closed/copy"),
            ("recv", f"fifo:{place}/closed/f"),
        ]
        return [kin.run(*each) for each in words]

    import tempfile

    with tempfile.TemporaryDirectory(prefix="kf") as place:
        os.chmod(place, 0o777)
        Path(place, "secret").write_bytes(b"secret")
        Path(place, "secret").chmod(0)
        Path(place, "closed").mkdir(mode=0o500)
        Path(place, "closed").chmod(0o555 if os.geteuid() == 0 else 0o500)
        results = as_plain_user.run(attempt)
        for ended in results:
            assert ended.code == 5
            assert "ermission denied" in one_line(ended)


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


def test_a_file_system_without_nameless_files(kin: Kin, directory):
    """Where O_TMPFILE is unknown, a hidden file is written and renamed."""
    place = Path("/proc/self/fd")  # procfs knows neither: both ways fail, in one line
    ended = kin.run("recv", f"fifo:{directory}/f", place / "copy")
    assert ended.code in (5, 7)
    one_line(ended)


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
    from tests.cli.conftest import COMMAND

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
    import sys

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
