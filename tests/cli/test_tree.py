"""`kin tree`: one line a process, whatever it is called; what is wrong with it; the same as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kinfolk
from kinfolk.cli import main
from kinfolk.cli.process_columns import COLUMNS, DEFAULT, DEFAULT_JSON, age_of, parse
from kinfolk.cli.process_drawing import draw, glyphs_for
from kinfolk.inspection.procfs import Procfs
from kinfolk.inspection.tree import read_tree
from tests.cli.conftest import HANG_LIMIT, Kin, one_line
from tests.conformance.peers import Peers, state, until
from tests.other_user import User
from tests.unit import families
from tests.unit.conftest import peers as peers
from tests.unit.fake_proc import FakeProc
from tests.unit.families import family, orphan_of

UTF8 = {**os.environ, "LC_ALL": "C.UTF-8"}
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "kin-tree.md"


def lines(out: bytes) -> list[str]:
    assert out.endswith(b"\n")
    return out.decode().removesuffix("\n").split("\n")


def row(shown: list[str], pid: int) -> str:
    (one,) = [line for line in shown if line.split()[0] == str(pid)]
    return one


@contextlib.contextmanager
def sleeper(*arguments: bytes, name: bytes | None = None) -> Iterator[int]:
    """A process with these arguments."""
    code = "import ctypes, sys; "
    if name is not None:
        code += f"ctypes.CDLL(None).prctl(15, {name!r}, 0, 0, 0); "
    code += "print(flush=True); sys.stdin.read()"
    command: list[str | bytes] = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process.pid
        process.communicate()


# ------------------------------------------------------------------------------------ the tree


def test_everybody_is_there_below_its_parent(kin: Kin):
    with sleeper(b"x") as pid:
        shown = lines(kin.succeed("tree", env=UTF8))
    assert shown[0].split() == [name.upper() for name in DEFAULT]
    own, child = row(shown, os.getpid()), row(shown, pid)
    assert shown.index(own) < shown.index(child)
    assert "─ " in child
    assert child.endswith(" x")
    assert not any("[kthreadd]" in line for line in shown)


def test_the_processes_below_one(kin: Kin):
    with sleeper(b"x") as pid:
        shown = lines(kin.succeed("tree", "--noheadings", pid, os.getpid()))
        assert shown[0].split()[0] == str(os.getpid())
        assert any(line.split()[0] == str(pid) for line in shown[1:])
        alone = lines(kin.succeed("tree", "-n", pid))
        assert [line.split()[0] for line in alone] == [str(pid)]
        above = lines(kin.succeed("tree", "-n", "--parents", pid))
    assert [line.split()[0] for line in above[-2:]] == [str(os.getpid()), str(pid)]
    assert len(above) == len(kinfolk.process_tree().ancestors(own())) + 2


def own() -> kinfolk.ProcessInfo:
    return kinfolk.process_tree().process(os.getpid())


def test_kernel_threads_only_when_asked_for(kin: Kin):
    if not any(process.kernel_thread for process in kinfolk.process_tree()):
        pytest.skip("no kernel threads in this pid namespace")
    assert "[kthreadd]" in kin.succeed("tree", "--all").decode()


def test_threads(kin: Kin, peers: Peers):
    def child(voice: Any) -> None:
        threading.Thread(target=families.pause_in_thread, daemon=True).start()
        voice.say(sorted(map(int, os.listdir("/proc/self/task"))))
        voice.hear()

    peer = peers.fork(child)
    threads = peer.hear()
    shown = lines(kin.succeed("tree", "-n", "--threads", peer.pid))
    assert [int(line.split()[0]) for line in shown] == threads
    assert re.search(r"\{.*\}$", shown[1])
    facts = json.loads(kin.succeed("tree", "--threads", "--json", peer.pid))
    assert [each["tid"] for each in facts["processes"][0]["thread_list"]] == threads


def test_of_one_user(kin: Kin):
    uid = os.geteuid()
    facts = json.loads(kin.succeed("tree", "--json", "--user", uid))
    mine = {each["pid"] for each in facts["processes"] if each["uid"] == uid}
    assert os.getpid() in mine
    parents = {each["ppid"] for each in facts["processes"]}
    assert {each["pid"] for each in facts["processes"]} - mine <= parents
    assert lines(kin.succeed("tree", "--user", "4294967294")) == [
        " ".join(name.upper() for name in DEFAULT)
    ]


def test_columns(kin: Kin):
    shown = lines(kin.succeed("tree", "-o", "name,pid,wchan,exe", os.getpid()))
    assert shown[0].split() == ["NAME", "PID", "WCHAN", "EXE"]
    assert os.readlink("/proc/self/exe") in row_of(shown, 1, os.getpid())
    every = lines(kin.succeed("tree", "-o", ",".join(COLUMNS), os.getpid()))
    assert every[0].split() == [name.upper() for name in COLUMNS]


def row_of(shown: list[str], column: int, pid: int) -> str:
    (one,) = [line for line in shown[1:] if f" {pid} " in line[:60]]
    return one


def test_the_page_names_every_column_and_cause():
    page = PAGE.read_text()
    table = page.split("### Columns\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| .* \| (.*?) ?\|$", table, re.MULTILINE)
    named = {name: shown for names, shown in rows for name in re.findall(r"`(\w+)`", names)}
    assert set(named) == set(COLUMNS)
    assert {name for name, shown in named.items() if "text" in shown} == set(DEFAULT)
    assert {name for name, shown in named.items() if "JSON" in shown} == set(DEFAULT_JSON)
    causes = re.findall(
        r"^\| `([a-z ]+)` \|", page.split("### Zombies")[1].split("###")[0], re.MULTILINE
    )
    assert set(causes) == {cause.value for cause in kinfolk.ZombieCause}


# ------------------------------------------------------------------------------------ what is wrong


def test_stopped_ones_are_marked(kin: Kin, peers: Peers):
    peer = peers.fork(lambda voice: families.pause())
    peer.signal(signal.SIGSTOP)
    until(lambda: state(peer.pid) == "T", "stopped")
    assert " stopped " in lines(kin.succeed("tree", "-n", peer.pid))[0]


def test_an_orphan_and_who_adopted_it(kin: Kin, peers: Peers):
    peer = peers.fork(orphan_of(own_session=True))
    daemon = peer.hear()
    (line,) = lines(kin.succeed("tree", "-n", "-o", "note,adopted", daemon))
    assert line.split() == ["adopted", "by", str(peer.pid), str(peer.pid)]
    (facts,) = json.loads(kin.succeed("tree", "--json", daemon))["processes"]
    assert facts["adopted"]["adopter"] == facts["ppid"] == peer.pid
    assert facts["adopted"]["certainty"] == "certain"
    peer.say()
    peer.result()


def test_a_zombie_is_explained_and_cured_by_what_is_said(kin: Kin, peers: Peers):
    with family(peers, families.one_signal_for_two) as members:
        shown = lines(kin.succeed("tree", "-n", members.parent))
        assert f"unreaped by {members.parent}" in row(shown, members.child)
        told = kin.succeed("tree", "--zombies", members.parent).decode()
        assert f"zombie {members.child} " in told
        assert f"process {members.parent}" in told
        assert "does nothing" in told
        first = re.findall(r"^  type: (.*)$", told, re.MULTILINE)[0]
        assert first == f"kill -CHLD {members.parent}"
        subprocess.run(["sh", "-c", first], check=True)
        members.until_collected()
        assert kin.succeed("tree", "--zombies", members.parent) == b"no zombies\n"


def test_zombies_as_json(kin: Kin, peers: Peers):
    with family(peers, families.blocked) as members:
        facts = json.loads(kin.succeed("tree", "--zombies", "--json", members.parent))
        assert set(facts) == {"command", "version", "zombies", "unreadable"}
        (zombie,) = facts["zombies"]
        assert (zombie["pid"], zombie["reaper"]) == (members.child, members.parent)
        assert zombie["cause"] == "blocked"
        assert zombie["cures"][0]["command"] == f"kill {members.parent}"
        whole = json.loads(kin.succeed("tree", "--json", members.parent))
        assert whole["zombies"] == facts["zombies"]
        assert (whole["command"], whole["version"]) == ("tree", 1)
        parent, child = whole["processes"]
        assert set(parent) == set(DEFAULT_JSON)
        assert (child["ppid"], child["state"]) == (parent["pid"], "zombie")


def test_many_zombies_of_one_parent_stand_together(kin: Kin, peers: Peers):
    def parent(voice: Any) -> None:
        children = [families.fork() for _ in range(15)]
        for child in children:
            families.until_ended(child)
        voice.say()
        voice.hear()
        for child in children:
            os.waitpid(child, 0)

    peer = peers.fork(parent)
    peer.hear()
    until(lambda: state(peer.pid) == "S", "asleep")
    told = kin.succeed("tree", "--zombies", peer.pid).decode()
    assert "and 5 more of the same parent" in told
    assert told.count("who must reap") == 1
    peer.say()
    peer.result()


# ------------------------------------------------------------------------------------ hostile names

HOSTILE = [
    b"\x1b[2J\x1b]0;owned\x07",
    b"two\nlines\r\n 1 root running",
    b"\xff\xfe\x80",
    "\u202egnitset\u2028\u0085".encode(),
    b"x" * 100_000,
    "日本語".encode(),
]


def test_one_process_is_one_harmless_line(kin: Kin):
    with contextlib.ExitStack() as running:
        pids = [running.enter_context(sleeper(hostile, b"end")) for hostile in HOSTILE]
        for environment in (UTF8, {**os.environ, "LC_ALL": "C"}):
            out = kin.succeed("tree", "-n", *pids, env=environment)
            shown = out.decode("ascii" if environment is not UTF8 else "utf-8").split("\n")
            assert [line.split()[0] for line in shown[:-1]] == [str(pid) for pid in pids]
            assert all(line.endswith(" end") and line.isprintable() for line in shown[:-1])
        facts = json.loads(kin.succeed("tree", "--json", *pids))
    commands = [each["command"][-2:] for each in facts["processes"]]
    assert commands == [[each.decode("utf-8", "backslashreplace"), "end"] for each in HOSTILE]


def test_a_hostile_name(kin: Kin):
    with sleeper(name=b") R 1 (\n\xff\x1b[") as pid:
        (line,) = lines(kin.succeed("tree", "-n", "-o", "name,pid", pid))
        assert line.split()[-1] == str(pid)
        assert "\\n\\xff\\x1b" in line
        (facts,) = json.loads(kin.succeed("tree", "--json", "-o", "name,pid", pid))["processes"]
        assert facts == {"name": ") R 1 (\n\\xff\x1b[", "pid": pid}


# ------------------------------------------------------------------------------------ how it is drawn


def test_lines_by_the_locale(kin: Kin):
    plain = kin.succeed("tree", env={**os.environ, "LC_ALL": "C"})
    assert b"|- " in plain or b"`- " in plain
    assert plain.isascii()
    assert "─ " in kin.succeed("tree", env=UTF8).decode()


@pytest.mark.parametrize("no_colour", [False, True])
def test_on_a_terminal_it_is_cut_and_coloured(no_colour, kin: Kin):
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 60))
    environment = {**UTF8, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    environment.pop("NO_COLOR", None)
    if no_colour:
        environment["NO_COLOR"] = "1"
    with sleeper(b"y" * 200, b"\x1b[31m") as pid:
        os.kill(pid, signal.SIGSTOP)
        until(lambda: state(pid) == "T", "stopped")
        running = kin.start("tree", pid, stdout=theirs, env=environment)
        os.close(theirs)
        shown = read_until_closed(ours)
        os.kill(pid, signal.SIGCONT)
    assert running.end().code == 0
    bare = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert len(bare) == 2
    assert len(bare[1]) == 60
    assert bare[1].endswith("…")
    assert ("\x1b[33m" in shown) is not no_colour


def read_until_closed(fd: int) -> str:
    shown, deadline = b"", time.monotonic() + HANG_LIMIT
    while select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            data = os.read(fd, 65536)
        except OSError:  # EIO: nobody has the other side open
            break
        shown += data
    os.close(fd)
    return shown.decode()


def test_a_deep_and_a_wide_tree(tmp_path):
    """1,500 processes: no line is long because the tree is deep, and nothing recurses."""
    fake = FakeProc(tmp_path)
    fake.add(1, 0, start=0)
    for pid in range(2, 1201):
        fake.add(pid, pid - 1, start=pid)
    for pid in range(1201, 1501):
        fake.add(pid, 1, start=pid)
    tree = read_tree(Procfs(str(tmp_path)))
    for glyphs in (glyphs_for("utf-8"), glyphs_for("ascii")):
        drawn = list(draw(tree, tree.roots, None, DEFAULT, glyphs=glyphs, headings=True))
        assert len(drawn) == 1501
        assert max(len(line.text) for line in drawn) < 250


def test_branches(tmp_path):
    fake = FakeProc(tmp_path)
    for pid, parent in ((1, 0), (2, 1), (3, 2), (4, 2), (5, 4), (6, 1), (7, 6), (8, 0)):
        fake.add(pid, parent, start=pid, name=b"p%d" % pid)
    tree = read_tree(Procfs(str(tmp_path)))
    drawn = draw(tree, tree.roots, None, ["name"], glyphs=glyphs_for("utf-8"), headings=False)
    assert [line.text for line in drawn] == [
        "p1",
        "├─ p2",
        "│  ├─ p3",
        "│  └─ p4",
        "│     └─ p5",
        "└─ p6",
        "   └─ p7",
        "p8",
    ]


def test_ages():
    assert [age_of(seconds) for seconds in (0.9, 59, 60, 3599, 3600, 86400 * 3)] == [
        *("0s", "59s", "1m", "59m", "1h", "3d")
    ]


def test_columns_may_have_spaces_and_capitals():
    assert parse("PID, Command") == ("pid", "command")


# ------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["99999999"], 7, "process 99999999: there is no such process"),
        (["0"], 2, ""),
        (["-5"], 2, ""),
        (["me"], 2, ""),
        (["--user", "no such user"], 7, "no such user: there is no such user"),
        (["--user", "99999999999999999999"], 0, None),
        (["-o", "pid,what"], 2, "-o: there is no column 'what'"),
        (["-o", ""], 2, "-o: there is no column ''"),
        (["--zombies", "-o", "pid"], 2, "--zombies takes neither"),
        (["--zombies", "--threads"], 2, "--zombies takes neither"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line(words, code, said, kin: Kin):
    ended = kin.run("tree", *words)
    assert ended.code == code
    if said is not None:
        assert one_line(ended).startswith(f"kin tree: {said}")


def test_nobody_reads_any_more(kin: Kin):
    reader, writer = os.pipe()
    os.close(reader)
    running = kin.start("tree", stdout=writer)
    os.close(writer)
    ended = running.end()
    assert (ended.code, ended.err) == (128 + signal.SIGPIPE, "")


def test_a_plain_user_sees_what_he_may(as_plain_user: User, peers: Peers):
    def look() -> tuple[int, str]:
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(writer)
        code = main.run(["tree", "-n", "-o", "exe,pid,state,user", "1", str(os.getpid())])
        os.close(1)
        with open(reader) as file:
            return code, file.read()

    if as_plain_user == User() and os.stat("/proc/1").st_uid == os.geteuid():
        pytest.skip("process 1 is this user's own")
    code, out = as_plain_user.run(look)
    assert code == 0
    first = out.splitlines()[0].split()
    assert first[:2] == ["?", "1"]
