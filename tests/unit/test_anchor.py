"""The anchor: where no shell controls the owner's group, the end of a child hangs nobody up; each with a keeper that has none.

test ── forks ──> host, a subreaper ── forks ──> (leads a session, ends) ── forks ──> the owner, whose group is orphaned
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk import _native
from kinfolk.processes import felling, keeper_line, keeping
from tests.conformance.peers import HANG, Peer, Peers, Voice, state, until
from tests.other_user import User
from tests.unit.families import SYS_CLONE
from tests.unit.job_shell import Change, Terminal
from tests.unit.keepers import anchor_of, peers

__all__ = ["peers"]

SLEEP = ["sleep", "1000"]

WEAK = "tests.faults.weak_keepers:without_anchor"


def own(
    peers: Peers, body: Callable[[Voice], Any], after: Callable[[int], Any] = lambda pid: None
) -> Peer:
    """Be an owner in an orphaned group, which is no session's leader; SIGHUP waits, to be seen.

    What ``after`` gives, once the owner of that pid has ended, is the result.
    """

    def host(voice: Voice) -> Any:
        _native.set_child_subreaper(True)
        adopter = os.getpid()
        told, tell = os.pipe()
        leader = os.fork()
        if leader == 0:
            os.setsid()
            if owner := os.fork():
                os.write(tell, b"%d" % owner)
                os._exit(0)
            try:
                signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
                until(lambda: os.getppid() == adopter, "an orphan")
                try:
                    voice.say(body(voice))
                finally:
                    keeping.keeping().end(0)
            except BaseException as error:
                voice.say(error)
            finally:
                os._exit(0)
        os.waitpid(leader, 0)
        owner = int(os.read(told, 20))
        os.waitpid(owner, 0)
        result = after(owner)
        while pids := felling.children_of(os.getpid()):
            for pid in pids:
                if Path(f"/proc/{pid}/comm").read_text() != "kin-keeper\n":
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        return result

    return peers.fork(host)


def told_by(owner: Peer) -> Any:
    """What its body has returned."""
    told = owner.hear()
    owner.result()
    if isinstance(told, BaseException):
        raise told
    return told


def a_stopped_member() -> int:
    """Of the group of the caller, who is its parent."""
    pid = os.posix_spawnp(SLEEP[0], SLEEP, os.environ)
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    return pid


def hung_up(stopped: int) -> bool:
    """Whether the kernel has sent to all what it sends to a group that nobody controls any more."""
    return signal.SIGHUP in signal.sigpending() or state(stopped) != "T"


def the_anchor() -> int:
    keeper = keeping.keeping().keeper_pid
    assert keeper is not None
    until(lambda: anchor_of(keeper), "an anchor with its name")
    return anchor_of(keeper)


# ── what it is for ───────────────────────────────────────────────────────────────────────────


def program() -> None:
    kin.spawn(["true"]).wait(HANG)


def function() -> None:
    kin.spawn(len, ()).wait(HANG)


def killed_program() -> None:
    process = kin.spawn(SLEEP)
    process.signal(signal.SIGKILL)
    process.wait(HANG)


def killed_function() -> None:
    kin.spawn(os.abort, rlimits={"core": 0}).wait(HANG)


def one_after_another() -> None:
    first, second = kin.spawn(SLEEP), kin.spawn(SLEEP)
    for each in (first, second):
        each.signal(signal.SIGTERM)
        each.wait(HANG)


def no_program() -> None:
    with pytest.raises(kin.NotFound):
        kin.spawn(["no such program"])


def orphan() -> None:
    process = kin.spawn(["sh", "-c", "sleep 1000 & echo $!"], stdout=-1, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.wait(HANG)
    os.kill(pid, signal.SIGKILL)
    until(lambda: state(pid) == "X", "reaped")
    process.stdout.close()


def end_of_the_keeper() -> None:
    kin.spawn(SLEEP)
    kin.spawn(SLEEP)
    keeping.keeping().end(0)


ENDS = [
    program,
    function,
    killed_program,
    killed_function,
    one_after_another,
    no_program,
    orphan,
    end_of_the_keeper,
]


@pytest.mark.parametrize("end", ENDS)
def test_an_end_hangs_nobody_up(peers: Peers, end: Callable[[], None]) -> None:
    def body(voice: Voice) -> list[bool]:
        stopped = a_stopped_member()
        found = []
        for _ in range(2):  # the second time with an anchor that is there already
            end()
            found.append(hung_up(stopped))
        return found

    assert told_by(own(peers, body)) == [False, False]


@pytest.mark.parametrize("end", ENDS)
def test_without_an_anchor_it_does(peers: Peers, end: Callable[[], None]) -> None:
    def body(voice: Voice) -> bool:
        keeper_line.PROGRAMS["keeper"] = WEAK
        stopped = a_stopped_member()
        end()
        return hung_up(stopped)

    assert told_by(own(peers, body)) is True


def test_a_stopped_child_of_the_keeper_is_left_alone(peers: Peers) -> None:
    def body(voice: Voice) -> bool:
        with kin.spawn(SLEEP) as process:
            process.signal(signal.SIGSTOP)
            assert process.wait_change(HANG).kind == "stopped"
            program()
            return hung_up(process.pid)

    assert told_by(own(peers, body)) is False


@pytest.mark.parametrize("weak", [False, True])
def test_the_end_of_a_killed_owner_hangs_nobody_up(
    peers: Peers, tmp_path: Path, weak: bool
) -> None:
    def body(voice: Voice) -> None:
        if weak:
            keeper_line.PROGRAMS["keeper"] = WEAK
        stopped = a_stopped_member()
        kin.spawn(SLEEP)
        kin.spawn(SLEEP)
        keeper = keeping.keeping().keeper_pid
        report.write_text(f"{stopped} {keeper}")
        os.kill(os.getpid(), signal.SIGKILL)

    def after(owner: int) -> bool:
        stopped, keeper = map(int, report.read_text().split())
        os.waitpid(keeper, 0)  # adopted
        return state(stopped) == "T"

    report = tmp_path / "report"
    assert own(peers, body, after).result() is not weak


def test_it_goes_where_its_owner_goes(peers: Peers) -> None:
    def body(voice: Voice) -> list[bool]:
        program()
        found = []
        with kin.spawn(SLEEP):
            os.setpgid(0, 0)
            stopped = a_stopped_member()
            for end in (program, function):
                end()
                found.append(hung_up(stopped))
        return found

    assert told_by(own(peers, body)) == [False, False]


def test_killed_alone_it_is_made_anew(peers: Peers) -> None:
    def body(voice: Voice) -> tuple[bool, bool]:
        stopped = a_stopped_member()
        with kin.spawn(SLEEP) as process:
            first = the_anchor()
            os.kill(first, signal.SIGKILL)
            until(lambda: state(first) == "X", "reaped")
            until(lambda: os.getpgid(the_anchor()) == os.getpgrp(), "another")
            process.signal(signal.SIGTERM)
            process.wait(HANG)
        return hung_up(stopped), first == the_anchor()

    assert told_by(own(peers, body)) == (False, False)


# ── what it must not change ──────────────────────────────────────────────────────────────────


def test_it_stands_in_the_group_while_a_child_does(peers: Peers) -> None:
    def body(voice: Voice) -> None:
        with kin.spawn(SLEEP):
            first = the_anchor()
            assert os.getpgid(first) == os.getpgrp()
        keeper = keeping.keeping().keeper_pid
        until(lambda: os.getpgid(first) == keeper, "away")
        with kin.spawn(SLEEP, process_group=0), kin.spawn(SLEEP, new_session=True):
            assert os.getpgid(first) == keeper
        assert the_anchor() == first
        os.kill(os.getpid(), signal.SIGTSTP)  # nobody could continue us, so the kernel ignores it

    assert told_by(own(peers, body)) is None


def test_in_a_pid_namespace_nobody_needs_it(peers: Peers) -> None:
    def body(voice: Voice) -> Any:
        stopped = a_stopped_member()
        try:
            kin.spawn(["true"], containment="kernel").wait(HANG)
        except kin.Unsupported as error:
            return str(error)
        found = hung_up(stopped), felling.children_of(keeping.keeping("kernel").keeper_pid or 0)
        keeping.keeping("kernel").end(0)
        return found

    found = told_by(own(peers, body))
    if isinstance(found, str):
        pytest.skip(found)
    hangs_up, first = found
    assert not hangs_up
    assert len(first) == 1  # process 1 of the namespace


def test_a_job_stops_and_goes_on(peers: Peers) -> None:
    def job() -> int:
        status = kin.spawn(["cat"], stdout=kin.Redirect.DEVNULL).wait(HANG)
        keeping.keeping().end(0)
        return status.code or 0

    terminal = Terminal(peers)
    try:
        shell = terminal.run(job)
        until(lambda: _below(shell.pid, "cat"), "the program")
        (cat,) = _below(shell.pid, "cat")
        terminal.type("\x1a")
        assert shell.change() == Change("stopped", signal.SIGTSTP, True)
        until(lambda: state(cat) == "T", "stopped with it")
        shell.foreground()
        until(lambda: state(cat) != "T", "going on")
        terminal.type("a line\n\x04")
        assert shell.change() == Change("exited", 0, True)
    finally:
        terminal.close()


def _below(pid: int, name: str) -> list[int]:
    """Who is called that among the children of its children."""
    below = [each for child in felling.children_of(pid) for each in felling.children_of(child)]
    return [
        each
        for each in below
        if state(each) != "X" and Path(f"/proc/{each}/comm").read_text() == f"{name}\n"
    ]


# ── what it is ───────────────────────────────────────────────────────────────────────────────


def test_it_holds_nothing_and_hears_nothing(peers: Peers) -> None:
    def body(voice: Voice) -> None:
        with kin.spawn(SLEEP):
            pid = the_anchor()
            until(lambda: os.listdir(f"/proc/{pid}/fd") == [], "no descriptors")
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                os.kill(pid, number)
            os.killpg(os.getpgrp(), signal.SIGCHLD)
            assert state(pid) == "S"
        program()
        assert the_anchor() == pid

    assert told_by(own(peers, body)) is None


def test_the_tree_says_what_it_is() -> None:
    with kin.spawn(SLEEP):
        process = kin.process_tree().process(the_anchor())
        assert process.command == "[kin-anchor]"
    keeping.keeping().end(0)


@pytest.mark.parametrize("victim", ["owner", "keeper"])
def test_it_outlives_neither(peers: Peers, victim: str) -> None:
    def body(voice: Voice) -> None:
        kin.spawn(SLEEP)
        voice.say((os.getpid(), keeping.keeping().keeper_pid, the_anchor()))
        voice.hear()

    peer = own(peers, body)
    owner, keeper, anchor = peer.hear()
    os.kill(owner if victim == "owner" else keeper, signal.SIGKILL)
    until(lambda: state(anchor) in "XZ", "no anchor")
    if victim == "keeper":
        peer.say()
        assert told_by(peer) is None
    else:
        peer.result()
    assert state(anchor) == state(keeper) == "X"


def test_who_waits_in_the_keeper_does_not_see_it(peers: Peers, short_directory: Path) -> None:
    (short_directory / "kinfolk_test_waits.py").write_text(
        "import os\ntry:\n    found = os.waitpid(-1, os.WNOHANG)\nexcept ChildProcessError:\n    pass\n"
        "else:\n    raise ValueError(found)"
    )
    assert told_by(preloading(peers, short_directory, "kinfolk_test_waits", anew=False))


# ── where it can't be had ────────────────────────────────────────────────────────────────────


def preloading(peers: Peers, directory: Path, module: str, *, anew: bool = True) -> Peer:
    """An owner whose keeper starts something after it has imported a module; the anchor, which has to be made anew then."""

    def body(voice: Voice) -> int:
        program()
        function()
        if anew:
            os.kill(the_anchor(), signal.SIGKILL)
        sys.path.append(str(directory))
        kin.preload(module)
        program()
        function()
        keeper = keeping.keeping().keeper_pid
        assert keeper is not None
        return anchor_of(keeper)

    return own(peers, body)


#: Has the kernel refuse clone(2) with CLONE_PIDFD: a filter of seccomp(2).
FILTER = """
import ctypes, struct
code = b"".join(struct.pack("=HBBI", *each) for each in (
    (0x20, 0, 0, 0),            # the number of the call
    (0x15, 0, 3, {clone}),
    (0x20, 0, 0, 16),           # its first argument
    (0x45, 0, 1, 0x1000),
    (0x06, 0, 0, 0x50000 | 11),
    (0x06, 0, 0, 0x7fff0000),
))
held = ctypes.create_string_buffer(code)
program = struct.pack("HP", 6, ctypes.addressof(held))
prctl = ctypes.CDLL(None).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0
"""


@pytest.mark.skipif(not SYS_CLONE, reason="the number of clone(2) is not known here")
def test_without_it_children_are_started_all_the_same(peers: Peers, short_directory: Path) -> None:
    (short_directory / "kinfolk_test_filter.py").write_text(FILTER.format(clone=SYS_CLONE))
    assert told_by(preloading(peers, short_directory, "kinfolk_test_filter")) == 0


def test_it_does_not_take_the_last_process(
    peers: Peers, short_directory: Path, foreign_user: User
) -> None:
    (short_directory / "kinfolk_test_last.py").write_text(
        "import os, resource\nos.setgroups([])\n"
        f"os.setresgid({foreign_user.gid}, {foreign_user.gid}, {foreign_user.gid})\n"
        f"os.setresuid({foreign_user.uid}, {foreign_user.uid}, {foreign_user.uid})\n"
        f"resource.setrlimit({resource.RLIMIT_NPROC}, (2, 2))"
    )
    assert told_by(preloading(peers, short_directory, "kinfolk_test_last")) == 0
