"""A pid file: who has its lock, what is left of it after each death, what is refused."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk import record_locks
from kinfolk.processes.pid_file import PidFile
from tests.conformance.peers import FailedInPeer, Peer, Peers, state, until
from tests.other_user import User


@pytest.fixture
def path(short_directory: Path) -> Path:
    return short_directory / "app.pid"


@pytest.fixture
def runs(path: Path, peers: Peers) -> Callable[[], Peer]:
    """Starts a process that has locked the file until it is told to return."""

    def start() -> Peer:
        def live(voice: Any) -> None:
            with PidFile(path):
                voice.say()
                voice.hear()

        peer = peers.fork(live)
        peer.hear()
        return peer

    return start


def locks(path: Path) -> list[tuple[str, int]]:
    """What /proc/locks has on a file: the kind and the pid of each."""
    inode = path.stat().st_ino
    with open("/proc/locks", encoding="ascii") as file:
        rows = [line.split() for line in file]
    return [(row[3], int(row[4])) for row in rows if row[5].endswith(f":{inode}")]


def hidden(path: Path) -> list[str]:
    return [entry.name for entry in path.parent.iterdir() if entry != path]


# ------------------------------------------------------------------------------ lock, read, holder


def test_it_holds_the_pid_and_a_write_lock_of_that_process(path: Path) -> None:
    with PidFile(path) as pid_file:
        assert path.read_text() == f"{os.getpid()}\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert pid_file.locked
    assert not path.exists()
    assert not pid_file.locked


def test_the_lock_is_seen_by_the_kernel_and_by_others(path: Path, runs: Any) -> None:
    peer = runs()
    assert locks(path) == [("WRITE", peer.pid)]
    pid_file = PidFile(path)
    assert pid_file.holder() == kin.Identity.of(peer.pid)
    assert pid_file.read() == peer.pid
    peer.say()
    peer.wait()
    assert pid_file.holder() is None
    assert pid_file.read() is None


def test_a_second_one_is_told_who_runs(path: Path, runs: Any) -> None:
    peer = runs()
    who = kin.Identity.of(peer.pid)
    assert who is not None
    for attempt in (PidFile(path).lock, PidFile(path).refuse_if_held, PidFile(path).remove_stale):
        with pytest.raises(kin.Busy) as caught:
            attempt()
        assert f"process {who.pid} (start time {who.start_time}) has locked it" in str(caught.value)
        assert f"kin daemon --stop --pidfile {path}" in str(caught.value)
    assert path.read_text() == f"{peer.pid}\n"
    assert hidden(path) == []


def test_without_the_lock_a_second_one_starts(path: Path, peers: Peers) -> None:
    """Negative control of the one before."""

    def live(voice: Any) -> None:
        record_locks.try_to_set = lambda *args: True
        PidFile(path).lock()
        voice.say()
        voice.hear()

    first = peers.fork(live)
    first.hear()
    with PidFile(path):
        assert path.read_text() == f"{os.getpid()}\n"
    first.say()
    first.wait()


@pytest.mark.parametrize("end", ["killed", "exit_now"])
def test_what_a_dead_process_left_is_replaced(
    path: Path, runs: Any, peers: Peers, end: str
) -> None:
    if end == "killed":
        peer = runs()
        peer.kill(reap=False)  # a zombie has no locks
        pid = peer.pid
    else:

        def leave(voice: Any) -> int:
            PidFile(path).lock()
            return os.getpid()

        pid = peers.fork(leave).result()
    pid_file = PidFile(path)
    assert pid_file.read() == pid
    assert pid_file.holder() is None
    with pid_file:
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("text", ["", "\0\0\0\0", "1\n", "0\n", "-3\n", "99999999999999999999\n"])
def test_what_stands_in_a_stale_file_does_not_matter(path: Path, text: str) -> None:
    path.write_text(text)
    pid_file = PidFile(path)
    assert pid_file.holder() is None
    assert pid_file.read() == (int(text) if text.strip().isdigit() else None)
    with pid_file:
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("text", ["nonsense\n", "1 2\n", "1\n2\n", "1" * 33, "x" * 5000])
def test_a_file_that_holds_something_else_is_not_touched(path: Path, text: str) -> None:
    """Whoever has mistyped the name of a pid file keeps his file."""
    path.write_text(text)
    pid_file = PidFile(path)
    for use in (pid_file.lock, pid_file.refuse_if_held, pid_file.remove_stale):
        with pytest.raises(kin.UntrustedPeer, match="holds something other than a pid"):
            use()
    assert pid_file.holder() is None
    with pytest.raises(kin.UntrustedPeer, match="holds something other than a pid"):
        kin.stop_daemon(path)
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["", "\0\0\0\0"])
def test_what_holds_nothing_is_not_removed_by_a_stop(path: Path, text: str) -> None:
    """It may be somebody's, who is about to write to it; a number is the negative control."""
    path.write_text(text)
    assert kin.stop_daemon(path) is None
    assert path.read_text() == text
    path.write_text("1\n")
    assert kin.stop_daemon(path) is None
    assert not path.exists()


def test_who_locks_a_file_of_another_kind_is_no_daemon(path: Path, peers: Peers) -> None:
    path.write_text("notes\n")

    def live(voice: Any) -> None:
        with open(path, "r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            voice.say()
            voice.hear()

    peer = peers.fork(live)
    peer.hear()
    assert PidFile(path).holder() == kin.Identity.of(peer.pid)
    with pytest.raises(kin.UntrustedPeer):
        kin.stop_daemon(path)
    peer.say()
    peer.result()


def test_a_forked_child_has_not_got_the_lock_and_does_not_end_it(path: Path, peers: Peers) -> None:
    with PidFile(path) as pid_file:

        def child(voice: Any) -> tuple[bool, Any, Any]:
            seen = pid_file.locked, pid_file.holder(), PidFile(path).holder()
            pid_file.release()
            return seen

        here = kin.Identity.own()
        assert peers.fork(child).result() == (False, here, here)
        assert locks(path) == [("WRITE", os.getpid())]
        assert path.exists()


def test_a_forked_child_may_not_start_under_the_name(path: Path, peers: Peers) -> None:
    with PidFile(path) as pid_file, pytest.raises(FailedInPeer, match="has locked it"):
        peers.fork(lambda voice: pid_file.lock()).result()


def test_asking_by_another_object_does_not_lose_the_lock(path: Path) -> None:
    """The kernel drops a process's locks on a file when it closes any descriptor of it."""
    with PidFile(path):
        for _ in range(2):
            other = PidFile(path)
            assert other.holder() == kin.Identity.own()
            assert other.read() == os.getpid()
            for refused in (other.lock, other.refuse_if_held, other.remove_stale):
                with pytest.raises(kin.Busy):
                    refused()
        assert locks(path) == [("WRITE", os.getpid())]
        path.read_text()
        assert locks(path) == [], "negative control: opening it by other means loses the lock"


def test_the_lock_stays_through_exec(path: Path, peers: Peers) -> None:
    def replaced(voice: Any) -> None:
        pid_file = PidFile(path)
        pid_file.lock()
        os.set_inheritable(pid_file.fileno(), True)
        os.execv("/bin/sleep", ["sleep", "100"])

    peer = peers.fork(replaced)
    until(lambda: Path(f"/proc/{peer.pid}/comm").read_text() == "sleep\n", "the exec")
    assert locks(path) == [("WRITE", peer.pid)]
    with pytest.raises(kin.Busy):
        PidFile(path).lock()
    peer.kill()
    assert PidFile(path).holder() is None


def test_a_relative_name_counts_from_where_it_was_given(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    pid_file = PidFile("app.pid")
    os.chdir("/")
    with pid_file:
        assert path.exists()


def test_locking_twice_is_locking_once(path: Path) -> None:
    with PidFile(path) as pid_file:
        pid_file.lock()
        assert locks(path) == [("WRITE", os.getpid())]
    pid_file.release()


def test_a_file_that_somebody_else_made_in_the_meantime_is_not_removed(path: Path) -> None:
    pid_file = PidFile(path)
    pid_file.lock()
    path.unlink()
    path.write_text("another's\n")
    pid_file.release()
    assert path.read_text() == "another's\n"


def test_standard_streams_that_are_closed_stay_free(path: Path, peers: Peers) -> None:
    def live(voice: Any) -> int:
        os.close(0)
        with PidFile(path) as pid_file:
            assert locks(path) == [("WRITE", os.getpid())]
            return pid_file.fileno()

    assert peers.fork(live).result() > 2


# ---------------------------------------------------------------------------------- file systems


@pytest.fixture
def no_tmpfile(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(name: Any, flags: int, *args: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no nameless files here")
        return real(name, flags, *args, **named)

    monkeypatch.setattr(os, "open", refusing)


@pytest.mark.usefixtures("no_tmpfile")
def test_without_nameless_files_it_works_by_a_hidden_one(path: Path, runs: Any) -> None:
    peer = runs()
    assert path.read_text() == f"{peer.pid}\n"
    assert locks(path) == [("WRITE", peer.pid)]
    with pytest.raises(kin.Busy):
        PidFile(path).lock()
    peer.kill()
    with PidFile(path):
        assert hidden(path) == []


# ----------------------------------------------------------------------------------------- refused


def test_what_is_no_regular_file_is_refused(path: Path) -> None:
    target = path.parent / "target"
    target.write_text("1\n")
    makers: list[Callable[[], Any]] = [
        lambda: path.symlink_to(target),
        lambda: path.symlink_to(path.parent / "nothing"),
        lambda: os.mkfifo(path),
        path.mkdir,
    ]
    for make in makers:
        make()
        pid_file = PidFile(path)
        for use in (pid_file.lock, pid_file.read, pid_file.holder, pid_file.remove_stale):
            with pytest.raises(kin.UntrustedPeer, match=r"symbolic link|no regular file"):
                use()
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert target.read_text() == "1\n"
    assert not (path.parent / "nothing").exists()


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(kin.InvalidValue, match="no file name"):
        PidFile(name)


def test_a_directory_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(kin.NotFound, match=r"no such directory \(make it"):
        PidFile(path.parent / "no" / "x.pid").lock()
    path.write_text("")
    with pytest.raises(kin.NotFound, match="no such directory"):
        PidFile(path / "x.pid").lock()


def test_a_directory_that_may_not_be_written_is_said(as_plain_user: User, path: Path) -> None:
    path.parent.chmod(0o555)
    try:
        with pytest.raises(kin.AccessDenied, match=f"{path}: the pid file can't be used"):
            as_plain_user.run(lambda: PidFile(path).lock())
    finally:
        path.parent.chmod(0o755)


def test_another_users_file_is_refused(foreign_user: User, short_directory: Path) -> None:
    short_directory.chmod(0o1777)
    path = short_directory / "app.pid"

    def leave_one() -> None:
        path.write_text("1\n")

    foreign_user.run(leave_one)
    for use in (PidFile(path).lock, PidFile(path).holder, PidFile(path).refuse_if_held):
        with pytest.raises(kin.UntrustedPeer, match=f"belongs to user {foreign_user.uid}"):
            use()
    assert path.read_text() == "1\n"


def test_anybody_may_ask_who_runs_as_root(foreign_user: User, path: Path, runs: Any) -> None:
    path.parent.chmod(0o755)
    peer = runs()
    assert foreign_user.run(lambda: PidFile(path).holder()) == kin.Identity.of(peer.pid)
    with pytest.raises(kin.UntrustedPeer):
        foreign_user.run(lambda: PidFile(path).refuse_if_held())
    with pytest.raises(kin.AccessDenied):
        foreign_user.run(lambda: PidFile(path).lock())


def test_a_readers_lock_is_not_taken_for_a_daemon(
    foreign_user: User, path: Path, peers: Peers
) -> None:
    """Who may read the file can lock it shared: it must not be signalled for that by who stops the daemon."""
    path.parent.chmod(0o755)
    path.write_text("1\n")
    path.chmod(0o644)

    def lock_shared(voice: Any) -> None:
        foreign_user.become()
        with path.open() as file:
            fcntl.lockf(file, fcntl.LOCK_SH)
            voice.say()
            voice.hear()

    reader = peers.fork(lock_shared)
    reader.hear()
    assert PidFile(path).holder() is None
    assert kin.stop_daemon(path) is None
    with pytest.raises(kin.Busy, match=f"process {reader.pid} .*, which is not its daemon"):
        PidFile(path).lock()
    reader.say()
    assert reader.wait() == 0
    PidFile(path).remove_stale()


# ------------------------------------------------------------------------------------ crash points


def die_after(module: Any, name: str, is_it: Callable[..., bool] = lambda *args: True) -> None:
    """In a child: be killed as soon as that function of a module has done its work."""
    real = getattr(module, name)

    def wrapped(*args: Any, **named: Any) -> Any:
        result = real(*args, **named)
        if is_it(*args):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, name, wrapped)


def nameless(path: Any, flags: int, *args: Any) -> bool:
    return flags & os.O_TMPFILE == os.O_TMPFILE


STEPS: dict[str, tuple[Any, ...]] = {
    "made": (os, "open", nameless),
    "public": (os, "fchmod"),
    "written": (os, "write"),
    "locked": (record_locks, "try_to_set"),
    "old one removed": (os, "unlink"),
    "named": (os, "link"),
}


@pytest.mark.parametrize("stale", [False, True], ids=["fresh", "stale"])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_after_any_step_leaves_what_the_next_start_can_use(
    path: Path, peers: Peers, step: str, stale: bool
) -> None:
    if stale:
        path.write_text("1\n")

    def start(voice: Any) -> None:
        die_after(*STEPS[step])
        PidFile(path).lock()

    dies = stale or step != "old one removed"
    assert peers.fork(start).wait() == (-signal.SIGKILL if dies else 0)
    assert hidden(path) == []
    if path.exists():  # whole, or as it was
        assert path.read_text().strip().isdigit()
    assert PidFile(path).holder() is None
    with PidFile(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_of_many_starts_at_a_time_one_wins(path: Path, peers: Peers) -> None:
    """With a stale file in the way, which all of them want to replace."""
    path.write_text("1\n")

    def start(voice: Any) -> str:
        voice.say()
        voice.hear()
        try:
            PidFile(path).lock()
        except kin.Busy:
            voice.say("busy")
        else:
            voice.say("locked")
        return str(voice.hear())

    starters = [peers.fork(start) for _ in range(8)]
    for starter in starters:
        starter.hear()
    for starter in starters:
        starter.say("go")
    answers = [starter.hear() for starter in starters]
    winners = [s for s, answer in zip(starters, answers, strict=True) if answer == "locked"]
    assert len(winners) == 1
    assert locks(path) == [("WRITE", winners[0].pid)]
    assert path.read_text() == f"{winners[0].pid}\n"
    for starter in starters:
        starter.say("end")
        starter.wait()


def test_a_start_that_was_overtaken_does_not_remove_the_others_file(
    path: Path, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at a stale file and the removal, another start has replaced it."""
    path.write_text("1\n")
    real, others = PidFile._lock_at, []

    def overtaken(self: PidFile, *args: Any) -> Any:
        found = real(self, *args)
        if not others:
            others.append(None)
            others[0] = runs()
        return found

    monkeypatch.setattr(PidFile, "_lock_at", overtaken)
    with pytest.raises(kin.Busy, match="its daemon is running"):
        PidFile(path).lock()
    assert path.read_text() == f"{others[0].pid}\n"
    assert locks(path) == [("WRITE", others[0].pid)]


def test_while_one_start_removes_a_stale_file_no_other_does(
    path: Path, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first would remove the file of the second, which runs by then."""
    path.write_text("1\n")
    real, said = os.unlink, []

    def unlink(name: Any) -> None:
        with pytest.raises(FailedInPeer) as caught:
            peers.fork(lambda voice: PidFile(path).lock()).result()
        said.append(str(caught.value.error))
        real(name)

    monkeypatch.setattr(os, "unlink", unlink)
    PidFile(path).remove_stale()
    assert f"process {os.getpid()} (start time" in said[0]
    assert "which is not its daemon, has locked it (try again" in said[0]


# ------------------------------------------------------------------------------------------- stop


def test_stop_ends_who_runs_and_removes_what_it_left(path: Path, runs: Any) -> None:
    peer = runs()
    assert kin.stop_daemon(path) == signal.SIGTERM
    assert peer.wait() == -signal.SIGTERM
    assert not path.exists()
    assert kin.stop_daemon(path) is None


def test_stop_of_nobody_removes_a_stale_file_and_signals_nobody(path: Path, peers: Peers) -> None:
    innocent = peers.fork(lambda voice: voice.hear())
    path.write_text(f"{innocent.pid}\n")
    assert kin.stop_daemon(path) is None
    assert not path.exists()
    innocent.say()
    assert innocent.wait() == 0


@pytest.fixture
def deaf(path: Path, peers: Peers) -> Peer:
    def live(voice: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        PidFile(path).lock()
        voice.say()
        voice.hear()

    peer = peers.fork(live)
    peer.hear()
    return peer


def test_stop_kills_what_does_not_end(path: Path, deaf: Peer) -> None:
    assert kin.stop_daemon(path, grace=0) == signal.SIGKILL
    assert deaf.wait() == -signal.SIGKILL


def test_stop_gives_up_in_time(path: Path, deaf: Peer) -> None:
    with pytest.raises(kin.Timeout, match=f"^{path}: the daemon does not end: not within 0.01 s"):
        kin.stop_daemon(path, grace=60, timeout=0.01)
    assert PidFile(path).holder() == kin.Identity.of(deaf.pid)


def test_a_stopped_one_is_woken_to_end_well(path: Path, peers: Peers) -> None:
    def live(voice: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(7))
        PidFile(path).lock()
        voice.say()
        voice.hear()

    peer = peers.fork(live)
    peer.hear()
    peer.signal(signal.SIGSTOP)
    until(lambda: state(peer.pid) == "T", "stopped")
    assert kin.stop_daemon(path) == signal.SIGTERM
    assert peer.wait() == 7


def test_a_process_does_not_stop_itself(path: Path) -> None:
    with PidFile(path), pytest.raises(kin.UsageError, match="this process is that daemon"):
        kin.stop_daemon(path)


def test_stop_by_who_may_not_is_said(foreign_user: User, path: Path, runs: Any) -> None:
    path.parent.chmod(0o755)
    runs()
    with pytest.raises(kin.AccessDenied, match="can't be stopped"):
        foreign_user.run(lambda: kin.stop_daemon(path))
