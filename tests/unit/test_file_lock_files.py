"""What FileLock finds at its name: nothing, files of all sorts and owners, links; and what becomes of the name meanwhile."""

from __future__ import annotations

import errno
import os
import pickle
import socket
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.sync.file_lock import LockKind
from tests.conformance.peers import HANG, thread_of, until
from tests.other_user import User
from tests.unit.file_locks import (
    KINDS,
    each_kind,
    holding,
    is_free,
    let_go,
    open_here,
    until_waiting,
)
from tests.unit.refusals import refuse


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


# ── made, or found ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
@pytest.mark.parametrize("mode", [None, 0o660])
@pytest.mark.parametrize("shared", [False, True])
def test_what_is_missing_is_made_with_its_mode(path, umask, mode, shared):
    before = os.umask(umask)
    try:
        options: dict[str, Any] = {} if mode is None else {"mode": mode}
        with kin.FileLock(path, **options).hold(shared=shared):
            assert path.stat().st_mode & 0o7777 == mode or 0o600
    finally:
        os.umask(before)
    assert path.read_bytes() == b""


def test_unless_that_is_not_wanted(path):
    with pytest.raises(kin.NotFound, match="no such file"):
        kin.FileLock(path, create=False).acquire()
    assert not path.exists()
    path.touch()
    with kin.FileLock(path, create=False):
        pass


def test_of_several_who_make_it_one_does(path, peers):
    for _ in range(5):
        lock = kin.FileLock(path)
        made = [peers.fork(lambda _, lock=lock: inode_of(lock)) for _ in range(3)]
        assert len({peer.result() for peer in made}) == 1
        path.unlink()


def inode_of(lock: kin.FileLock) -> int:
    with lock:
        return os.fstat(lock.fileno()).st_ino


@each_kind
def test_a_file_that_is_there_is_no_lock(path, kind):
    """Whatever is written in it, and whoever left it: it is not touched."""
    path.write_text("4711\n")
    path.chmod(0o444)
    os.utime(path, (1, 1))
    with kin.FileLock(path, kind=kind).hold(shared=True, timeout=0):
        pass
    assert path.read_text() == "4711\n"
    assert path.stat().st_mtime == 1


def test_it_can_be_read_and_written(path):
    with kin.FileLock(path) as lock:
        os.pwrite(lock.fileno(), b"hello", 0)
    with lock.hold(shared=True):
        assert os.pread(lock.fileno(), 10, 0) == b"hello"
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.pwrite(lock.fileno(), b"HELLO", 0)


def test_a_relative_name_counts_from_where_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lock = kin.FileLock("here")
    monkeypatch.chdir("/")
    assert lock.path == f"{tmp_path}/here"
    with lock:
        assert (tmp_path / "here").exists()


@pytest.mark.parametrize("name", ["missing/file", "a file/file"])
def test_without_a_directory(tmp_path, name):
    (tmp_path / "a file").touch()
    with pytest.raises(kin.NotFound, match="no such directory"):
        kin.FileLock(tmp_path / name).acquire()


@pytest.mark.parametrize("kind", ["ofd", "posix"])
def test_a_directory_can_be_shared(tmp_path, kind, peers):
    lock = kin.FileLock(tmp_path, kind=kind)
    with lock.hold(shared=True):
        assert peers.fork(lambda _: is_free(tmp_path, kind, shared=True)).result()
    with pytest.raises(kin.Unsupported, match='kind="flock"'):
        lock.acquire()


def test_by_flock_also_exclusively(tmp_path, peers):
    with kin.FileLock(tmp_path, kind="flock"):
        assert not peers.fork(lambda _: is_free(tmp_path, "flock")).result()


# ── what can't be locked, or is not to be trusted ────────────────────────────────────────────


@pytest.mark.parametrize("what", ["a FIFO", "a socket", "a device"])
def test_what_is_no_file(path, what):
    listener = socket.socket(socket.AF_UNIX)
    if what == "a FIFO":
        os.mkfifo(path)
    elif what == "a socket":
        where = os.open(path.parent, os.O_PATH)
        listener.bind(f"/proc/self/fd/{where}/{path.name}")
        os.close(where)
    with listener, pytest.raises(kin.InvalidValue, match="neither a file nor a directory"):
        kin.FileLock(path if path.exists() else "/dev/null").acquire()
    path.unlink(missing_ok=True)


@each_kind
@pytest.mark.parametrize("target", ["there", "missing"])
def test_a_symbolic_link_is_not_followed(tmp_path, path, kind, target):
    (tmp_path / "there").touch()
    path.symlink_to(target)
    with pytest.raises(kin.UntrustedPeer, match="symbolic link"):
        kin.FileLock(path, kind=kind).acquire()
    assert not (tmp_path / "missing").exists()


def test_another_users_file_is_refused(path, foreign_user: User):
    path.touch(0o666)
    path.chmod(0o666)
    assert foreign_user.uid is not None
    os.chown(path, foreign_user.uid, -1)
    with pytest.raises(kin.UntrustedPeer, match=f"owner={foreign_user.uid}"):
        kin.FileLock(path).acquire()
    with kin.FileLock(path, owner=foreign_user.uid):
        pass
    assert open_here(path) == 0


def test_roots_is_not(short_directory, as_plain_user: User, foreign_user: User):
    path = short_directory / "file"
    short_directory.chmod(0o755)
    path.touch()
    path.chmod(0o644)

    def lock_it() -> list[str]:
        said = []
        for kind in KINDS:
            lock = kin.FileLock(path, kind=kind)
            with lock.hold(shared=True):
                pass
            try:
                with lock:
                    said.append("exclusive")
            except kin.AccessDenied as error:
                said.append(str(error))
        return said

    said = as_plain_user.run(lock_it)
    assert "opened for writing" in said[0]
    assert "shared=True" in said[0]
    assert said[1] == "exclusive"  # flock(2) asks for no right to write
    assert "opened for writing" in said[2]


def test_a_directory_that_one_may_not_write_to(short_directory, as_plain_user: User):
    short_directory.chmod(0o755)

    def lock_it() -> None:
        kin.FileLock(short_directory / "file").acquire()

    if as_plain_user.uid is None:
        short_directory.chmod(0o555)
    with pytest.raises(kin.AccessDenied, match="Permission denied"):
        as_plain_user.run(lock_it)


@each_kind
@pytest.mark.parametrize(
    ("call", "code", "command", "raised"),
    [
        ("openat", errno.EMFILE, None, kin.LimitReached),
        ("openat", errno.EACCES, None, kin.AccessDenied),
        ("lock", errno.ENOLCK, None, kin.LimitReached),
        ("lock", errno.EOPNOTSUPP, None, kin.Unsupported),
        ("lock", errno.EINVAL, None, kin.Unsupported),
        ("lock", errno.EBADF, None, kin.AccessDenied),
        ("lock", errno.EIO, None, kin.KernelError),
        ("lock", errno.EDEADLK, None, kin.Deadlock),
    ],
)
def test_the_kernel_says_no(path, kind, call, code, command, raised, peers):
    path.touch()
    numbers = {"ofd": ("fcntl", 37), "flock": ("flock", None), "posix": ("fcntl", 6)}

    def lock_it(_: Any) -> tuple[str, int]:
        name, command = numbers[kind] if call == "lock" else (call, None)
        refuse(name, code, command=command)
        try:
            kin.FileLock(path, kind=kind).acquire()
        except kin.KinfolkError as error:
            assert "\n" not in str(error)
            return type(error).__name__, held(path)
        return "", 0

    assert peers.fork(lock_it).result() == (raised.__name__, 0)


def held(path: Path) -> int:
    """How many descriptors are of a file, without opening anything."""
    found = 0
    for number in range(100):
        try:
            found += os.fstat(number).st_ino == path.stat().st_ino
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("call", "code", "raised"),
    [
        ("fchmod", errno.EPERM, kin.AccessDenied),
        ("linkat", errno.ENOSPC, kin.NoSpace),
        ("linkat", errno.EDQUOT, kin.NoSpace),
        ("linkat", errno.EROFS, kin.KernelError),
    ],
)
def test_it_can_not_be_made(path, call, code, raised, peers):
    def lock_it(_: Any) -> str:
        refuse(call, code)
        try:
            kin.FileLock(path).acquire()
        except kin.KinfolkError as error:
            return type(error).__name__
        return ""

    assert peers.fork(lock_it).result() == raised.__name__
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(("kind", "command"), [("ofd", 38), ("posix", 7)])
def test_the_wait_itself_is_refused(path, kind, command, peers):
    """F_OFD_SETLKW, F_SETLKW; flock(2) can't be told from its trial."""

    def wait(_: Any) -> str:
        refuse("fcntl", errno.ENOLCK, command=command)
        try:
            kin.FileLock(path, kind=kind).acquire()
        except kin.KinfolkError as error:
            return type(error).__name__
        return ""

    with kin.FileLock(path, kind=kind):
        assert peers.fork(wait).result() == "LimitReached"


# ── the name, meanwhile ──────────────────────────────────────────────────────────────────────


@each_kind
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_who_waited_locks_what_has_the_name_by_then(path, kind, how, peers):
    """Without looking again there would be two who have it: one of a file that nobody finds any more."""
    lock = kin.FileLock(path, kind=kind)
    peer = peers.fork(holding(lock))
    peer.hear()
    old = path.stat().st_ino
    with thread_of(inode_of, lock) as call:
        until_waiting(path)
        if how == "removed":
            kept = os.open(path, os.O_RDONLY)  # so that its number is not used again
            path.unlink()
        else:
            kept = os.open(path.parent, os.O_RDONLY)
            (path.parent / "new").touch()
            (path.parent / "new").rename(path)
        let_go(peer)
        assert call.result() == path.stat().st_ino != old
        os.close(kept)


def test_unlink(path, peers):
    lock = kin.FileLock(path)

    def wait(voice: Any) -> bool:
        with lock:
            voice.say(os.fstat(lock.fileno()).st_ino)
            voice.hear()
            return os.path.samestat(os.fstat(lock.fileno()), path.stat())

    with lock:
        old = os.dup(lock.fileno())
        peer = peers.fork(wait)
        until_waiting(path)
        lock.unlink()
        assert not path.exists()
        with pytest.raises(kin.NotFound, match="lost its name already"):
            lock.unlink()
    assert peer.hear() != os.fstat(old).st_ino
    assert not is_free(path)
    peer.say()
    assert peer.result()
    os.close(old)


@pytest.mark.parametrize("kind", ["ofd", "posix"])
def test_a_part_of_a_file_is_not_unlinked(path, kind):
    lock = kin.FileLock(path, kind=kind, length=1)
    with lock, pytest.raises(kin.Unsupported, match="lock all of it exclusively"):
        lock.unlink()
    lock = kin.FileLock(path, kind=kind)
    with lock.hold(shared=True), pytest.raises(kin.Unsupported):
        lock.unlink()
    assert path.exists()


def take_turns_and_remove(path: Path, kind: LockKind, journal: Path, turns: int) -> None:
    """Each turn makes the file and removes it; who is alone can make and remove a directory."""
    lock = kin.FileLock(path, kind=kind)
    for _ in range(turns):
        with lock.hold(timeout=HANG):
            journal.mkdir()
            journal.rmdir()
            lock.unlink()


@each_kind
def test_the_race_of_those_who_remove_what_they_locked(path, kind, peers):
    journal = path.parent / "alone"
    several = [
        peers.fork(lambda _: take_turns_and_remove(path, kind, journal, 30)) for _ in range(3)
    ]
    for peer in several:
        peer.result()
    assert not path.exists()


def test_without_looking_again_there_are_two(path, peers, monkeypatch):
    """The negative control."""
    monkeypatch.setattr("kinfolk.sync.lock_path.LockPath.has_name", lambda *_: True)
    journal = path.parent / "alone"

    def run(_: Any) -> bool:
        try:
            monkeypatch.setattr(
                "kinfolk.sync.lock_path.LockPath.unlink", lambda self, inode: os.unlink(self.path)
            )
            take_turns_and_remove(path, "ofd", journal, 30)
        except OSError:  # it is there already, or gone already
            return True
        return False

    def two_at_once() -> bool:
        found = [peer.result() for peer in [peers.fork(run) for _ in range(3)]]
        if journal.exists():
            journal.rmdir()
        return any(found)

    until(two_at_once, "two at once")


# ── on its way to another process ────────────────────────────────────────────────────────────


def its_parts(lock: kin.FileLock) -> None:
    assert is_free(Path(lock.path), start=4, length=1)
    assert not is_free(Path(lock.path), start=5)
    with pytest.raises(kin.Timeout):
        lock.acquire(0)


def test_it_is_passed_as_what_it_names(path, peers):
    lock = kin.FileLock(path, start=5, length=5)
    with lock:
        copy = pickle.loads(pickle.dumps(lock))
        assert not copy.held
        assert repr(copy) == f"<FileLock {path} bytes 5-9 (ofd), not held here>"
        peers.fork(lambda _: its_parts(copy)).result()
