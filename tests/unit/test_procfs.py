"""Readers of /proc: typed, and at home with processes that vanish, hide, or have hostile names."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kinfolk as kin
from kinfolk.identity import start_time
from kinfolk.inspection.procfs import LONGEST, Gone, Procfs, parse_stat, parse_status, text
from tests.conformance.peers import Peers, state, until
from tests.other_user import User
from tests.unit.fake_proc import FakeProc
from tests.unit.families import libc

PROC = Procfs()
PR_SET_NAME = 15
numbers = st.integers(-(2**63), 2**64 - 1)


# ------------------------------------------------------------------------------------ the parsers


NAMES = st.lists(
    st.sampled_from([b") ", b" (", b"(", b")", b" ", b"\n", b"S", b"1", b"\xff"])
    | st.binary(max_size=4).filter(lambda piece: b"\0" not in piece),
    max_size=12,
).map(b"".join)


@given(
    name=NAMES,
    letter=st.sampled_from("RSDZTtXxKWPI"),
    pid=st.integers(1, 2**22),
    values=st.lists(numbers, min_size=49, max_size=60),
)
def test_stat_whatever_the_name(name, letter, pid, values):
    line = b"%d (%s) %s %s\n" % (pid, name, letter.encode(), " ".join(map(str, values)).encode())
    stat = parse_stat(line)
    assert (stat.pid, stat.state, os.fsencode(stat.name)) == (pid, letter, name)
    assert (stat.parent, stat.group, stat.session, stat.terminal) == tuple(values[:4])
    assert (stat.thread_count, stat.start_time) == (values[16], values[18])
    assert stat.exit_signal == values[34]


@given(st.binary(max_size=400))
def test_what_is_no_stat_is_refused(data):
    for parse in (parse_stat, parse_status):
        with pytest.raises(ValueError):  # noqa: PT011
            parse(data)
    with pytest.raises(ValueError):  # noqa: PT011
        parse_stat(b"1 (x) S " + data.replace(b")", b"")[:40])


@given(
    NAMES.map(lambda name: name.replace(b"\n", b"\\n")),  # as the kernel writes it there
    st.lists(st.integers(0, 2**64 - 1), min_size=5, max_size=5),
)
def test_status_whatever_the_name(name, masks):
    lines = [b"Name:\t" + name, b"TracerPid:\t9", b"Uid:\t1\t2\t3\t4", b"NSpid:\t70\t1"]
    lines += [
        b"%s:\t%016x" % pair
        for pair in zip((b"SigPnd", b"ShdPnd", b"SigBlk", b"SigIgn", b"SigCgt"), masks, strict=True)
    ]
    status = parse_status(b"\n".join(lines))
    assert (status.real_uid, status.uid, status.tracer, status.namespace_pids) == (1, 2, 9, (70, 1))
    assert status.signals == tuple(masks)


def test_masks_that_the_kernel_leaves_out_are_unknown():
    assert parse_status(b"Name:\tx\nUid:\t0\t0\t0\t0\nSigPnd:\t0\n").signals is None


# ------------------------------------------------------------------------------------ real processes


def test_what_this_process_is():
    with PROC.open(os.getpid()) as files:
        stat, status = files.stat(), files.status()
        assert stat is not None
        assert status is not None
        assert (stat.pid, stat.parent) == (os.getpid(), os.getppid())
        assert (stat.group, stat.session) == (os.getpgrp(), os.getsid(0))
        assert stat.start_time == start_time(os.getpid())
        assert stat.exit_signal == signal.SIGCHLD
        assert not stat.kernel_thread
        assert (status.real_uid, status.uid) == (os.getuid(), os.geteuid())
        assert files.exe() == os.readlink("/proc/self/exe")
        assert files.arguments() == tuple(
            text(argument) for argument in Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
        )
        control_group = files.control_group()
        assert control_group is None or control_group.startswith("/")


def test_every_process_of_the_machine_can_be_read():
    seen = 0
    for pid in PROC.pids():
        try:
            with PROC.open(pid) as files:
                for read in (files.stat, files.status, files.arguments, files.wchan, files.exe):
                    read()
                files.environ()
                files.control_group()
                files.threads()
                seen += 1
        except Gone:
            continue
    assert seen >= 2
    assert os.getpid() in PROC.pids()


HOSTILE = b") R 1 (\n\xff\x1b"


def test_a_hostile_name(peers: Peers):
    def child(voice: Any) -> None:
        libc.prctl(PR_SET_NAME, HOSTILE, 0, 0, 0)
        voice.say()
        voice.hear()

    peer = peers.fork(child)
    peer.hear()
    with PROC.open(peer.pid) as files:
        stat, status = files.stat(), files.status()
    assert stat is not None
    assert os.fsencode(stat.name) == HOSTILE
    assert (stat.pid, stat.parent) == (peer.pid, os.getpid())
    assert status is not None
    assert status.uid == os.geteuid()


@pytest.mark.parametrize(
    "argument",
    [b"a\nb", b"\xff\xfe", b"", b"x" * 100_000],
    ids=["newline", "bytes", "empty", "long"],
)
def test_arguments_and_environment_as_they_are(argument):
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", argument, b"end"]
    environment = {b"HOSTILE": b"=\n\xff", b"PATH": os.environb[b"PATH"]}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
        with PROC.open(process.pid) as files:
            until(lambda: (files.arguments() or ("",))[-1] == "end", "exec is through")
            arguments, environ = files.arguments(), files.environ()
        process.communicate()
    assert arguments is not None
    assert [os.fsencode(each) for each in arguments[-2:]] == [argument, b"end"]
    assert environ is not None
    assert os.fsencode(environ["HOSTILE"]) == b"=\n\xff"


def test_no_more_than_the_limit_is_read():
    size = 100_000
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", *["y" * size] * 5]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        with PROC.open(process.pid) as files:
            until(files.arguments, "exec is through")
            arguments = files.arguments()
        process.communicate()
    assert arguments is not None
    assert size < len("\0".join(arguments)) <= LONGEST


def test_signals_of_a_thread_and_of_the_process(peers: Peers):
    def child(voice: Any) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, lambda *_: None)
        threading.Thread(target=voice.hear, daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGHUP)
        voice.say()
        signal.pause()

    peer = peers.fork(child)
    peer.hear()
    hangup = 1 << (signal.SIGHUP - 1)
    with PROC.open(peer.pid) as files:
        threads = files.threads()
        masks = {tid: status.signals for tid in threads if (status := files.status(tid))}
    assert threads[0] == peer.pid
    assert len(masks) == 2
    main, other = masks[peer.pid], masks[threads[1]]
    assert main is not None
    assert other is not None
    assert main.blocked & hangup
    assert not other.blocked & hangup
    assert main.pending & hangup
    assert not main.shared_pending & hangup
    assert main.ignored & 1 << (signal.SIGUSR1 - 1)
    assert main.caught & 1 << (signal.SIGUSR2 - 1)


def test_where_it_sleeps(peers: Peers):
    peer = peers.fork(lambda voice: signal.pause())
    with PROC.open(peer.pid) as files:
        until(lambda: "pause" in (files.wchan() or ""), "asleep in pause")
    with PROC.open(os.getpid()) as files:
        assert files.wchan(threading.get_native_id()) == ""


def test_a_zombie_has_neither_program_nor_arguments(peers: Peers):
    peer = peers.fork(lambda voice: None)
    peer.ended()
    until(lambda: state(peer.pid) == "Z", "a zombie")
    with PROC.open(peer.pid) as files:
        stat = files.stat()
        assert stat is not None
        assert stat.state == "Z"
        assert (files.arguments(), files.exe()) == ((), None)
        assert not files.environ()


# ------------------------------------------------------------------------------------ gone, hidden


def test_who_vanishes_between_two_reads_is_gone(peers: Peers):
    peer = peers.fork(lambda voice: voice.hear())
    with PROC.open(peer.pid) as files:
        assert files.stat() is not None
        peer.kill()
        for read in (files.stat, files.status, files.arguments, files.wchan, files.threads):
            with pytest.raises(Gone):
                read()
        assert files.exe() is None
    with pytest.raises(Gone):
        PROC.open(peer.pid)


LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.access(LAST_PID, os.W_OK),
    reason="only root may choose the next pid (ns_last_pid)",
)
def test_files_stay_with_their_process_when_its_pid_is_given_away_again(peers: Peers):
    first = peers.fork(lambda voice: voice.hear())
    with PROC.open(first.pid) as files:
        first.kill()
        stranger = None
        for _ in range(1000):  # somebody else may start a process at the same moment
            LAST_PID.write_text(str(first.pid - 1))
            other = peers.fork(lambda voice: voice.hear())
            stranger = start_time(first.pid)  # the control: by its number, another one answers
            if stranger is not None:
                break
            other.kill()
        assert stranger is not None
        with pytest.raises(Gone):
            files.stat()


@pytest.mark.parametrize("missing", ["stat", "status", "cmdline"])
def test_a_file_that_is_not_there_means_gone(missing, tmp_path):
    FakeProc(tmp_path).add(5, 1)
    (tmp_path / "5" / missing).unlink()
    with Procfs(str(tmp_path)).open(5) as files, pytest.raises(Gone):
        (files.stat(), files.status(), files.arguments())


def test_what_some_kernels_do_not_have_is_unknown(tmp_path):
    FakeProc(tmp_path).add(5, 1)
    (tmp_path / "5" / "cgroup").unlink()
    with Procfs(str(tmp_path)).open(5) as files:
        assert (files.control_group(), files.wchan(), files.environ()) == (None, None, None)


def test_without_a_proc_file_system(tmp_path):
    with pytest.raises(kin.NotFound, match="mount -t proc"):
        Procfs(str(tmp_path / "nowhere")).pids()
    assert Procfs(str(tmp_path)).pids() == []


def test_without_descriptors(peers: Peers):
    def child(voice: Any) -> str:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        with pytest.raises(kin.LimitReached) as raised:
            PROC.open(os.getpid())
        return str(raised.value)

    assert "ulimit -n" in peers.fork(child).result()


def test_what_a_plain_user_may_not_know_is_unknown(as_plain_user: User):
    def look() -> tuple[bool, object, object, bool]:
        with PROC.open(1) as files:
            return files.stat() is not None, files.exe(), files.environ(), bool(files.status())

    if as_plain_user == User() and os.stat("/proc/1").st_uid == os.geteuid():
        pytest.skip("process 1 is this user's own")
    assert as_plain_user.run(look) == (True, None, None, True)


@pytest.mark.parametrize("hidepid", ["1", "2"])
def test_hidden_processes(hidepid, foreign_user: User, peers: Peers, short_directory):
    """hidepid=1: they are there, and that is all; 2: they are not even there."""

    def child(voice: Any) -> tuple[bool, object, bool]:
        mount_proc(short_directory, f"hidepid={hidepid}")
        foreign_user.become()
        procfs = Procfs(str(short_directory))
        listed = 1 in procfs.pids()
        with procfs.open(os.getpid()) as files:
            own = files.stat() is not None
        try:
            with procfs.open(1) as files:
                return listed, files.stat(), own
        except Gone:
            return listed, Gone.__name__, own

    short_directory.chmod(0o755)
    expected = (True, None, True) if hidepid == "1" else (False, "Gone", True)
    assert peers.fork(child).result() == expected


def mount_proc(path: Path, options: str) -> None:
    """Mount a proc file system that only this process sees. Its end unmounts it."""
    new_namespace, recursive, private = 0x00020000, 0x4000, 1 << 18
    assert libc.unshare(new_namespace) == 0
    assert libc.mount(b"none", b"/", None, recursive | private, None) == 0
    assert libc.mount(b"proc", bytes(path), b"proc", 0, options.encode()) == 0
