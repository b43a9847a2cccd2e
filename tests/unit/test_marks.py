"""What carries a mark of ours, and what never does: C programs' queues of any mode, and names after chmod -R 1777."""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import posix_ipc
import pytest
import sysv_ipc

import kinfolk as kin
from kinfolk import marks
from kinfolk.channels.address import parse
from kinfolk.channels.posix_queue import make_or_open
from kinfolk.channels.presence import presence_path
from kinfolk.channels.sysv_queue import private_presence
from tests.conformance.peers import HANG, Peers, Voice, open_descriptors
from tests.unit.sysv_queues import exists, queues

# What C programs say to msgget(2), and two that look like ours.
SYSV_MODES = [0o777, 0o700, 0o711, 0o755, 0o666, 0o611, 0o677]
# What chmod(1) of a whole directory leaves: not ours, whatever else is there.
CHMODS = [0o1777, 0o1600, 0o1666, 0o2777, 0o3777, 0o3770, 0o7777, 0o1711]

IPC_CREAT = 0o1000


def by_c(key: int, mode: int) -> int:
    """msgget(2), as a C program calls it."""
    libc = ctypes.CDLL(None, use_errno=True)
    number: int = libc.msgget(ctypes.c_int(key), IPC_CREAT | mode)
    assert number >= 0, os.strerror(ctypes.get_errno())
    return number


@pytest.fixture
def name(unique_name: str) -> Iterator[str]:
    yield "/" + unique_name
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_message_queue("/" + unique_name)


@pytest.fixture
def theirs(name: str) -> Iterator[posix_ipc.MessageQueue]:
    """Another program's queue."""
    queue = posix_ipc.MessageQueue(
        name, posix_ipc.O_CREX, mode=0o600, max_messages=2, max_message_size=64
    )
    yield queue
    queue.close()


def left_by_killed(address: str, peers: Peers) -> None:
    """A queue of ours with a message in it, and its presence, without anybody."""

    def dies(voice: Voice) -> None:
        with kin.open_receiver(address), kin.open_sender(address) as sender:
            sender.send("stale")
            voice.say()
            voice.hear()

    peer = peers.fork(dies)
    peer.hear()
    peer.kill()


# ── System V ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lifetime", ["name", "peers"])
@pytest.mark.parametrize("mode", SYSV_MODES)
def test_a_queue_of_a_c_program_stays_with_what_is_in_it(
    key: int, mode: int, lifetime: str
) -> None:
    number = by_c(key, mode)
    theirs = sysv_ipc.MessageQueue(key)
    theirs.send(b"from C")
    address = f"sysv-mq:{key}?framing=raw&lifetime={lifetime}"
    for turn in range(2):
        with kin.open_receiver(address, timeout=HANG) as receiver:
            if turn == 0:
                assert receiver.recv(timeout=0) == b"from C"
            with kin.open_sender(address, timeout=HANG) as sender:
                sender.send(b"to C")
                assert theirs.receive(block=False) == (b"to C", 1)
            theirs.send(b"again")
            assert receiver.recv(timeout=HANG) == b"again"
        assert number in queues()
        assert theirs.id == sysv_ipc.MessageQueue(key).id == number


@pytest.mark.parametrize("mode", [0o777, 0o700])
def test_a_queue_that_a_c_program_made_in_place_of_ours_stays(
    key: int, mode: int, peers: Peers
) -> None:
    """The presence of killed members lies there, so that the first member of all looks for what they left."""
    address = f"sysv-mq:{key}?framing=raw&lifetime=peers"
    left_by_killed(f"sysv-mq:{key}?lifetime=peers", peers)
    sysv_ipc.MessageQueue(key).remove()
    number = by_c(key, mode)
    sysv_ipc.MessageQueue(key).send(b"from C")
    with kin.open_receiver(address) as receiver:
        assert receiver.recv(timeout=0) == b"from C"
    assert number in queues()


@pytest.mark.parametrize("mode", [0o777, 0o700, 0o600])
def test_a_queue_without_a_key_of_a_c_program_is_not_swept(mode: int) -> None:
    """Even if there is a presence of its id, left by one that had it before."""
    number = by_c(0, mode)
    path = private_presence(number)
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        os.mkfifo(path)
        marks.mark(path, 0o600)
        for end in kin.channel("sysv-mq:"):
            end.close()
        assert number in queues()
        assert not os.path.exists(path)
    finally:
        sysv_ipc.remove_message_queue(number)


def test_a_key_of_ours_without_its_presence_is_nobodys(key: int, peers: Peers) -> None:
    """Better left than guessed: somebody may have removed the presence, or made a queue that looks like ours."""
    left_by_killed(f"sysv-mq:{key}?lifetime=peers", peers)
    os.unlink(presence_path("sysv-mq", f"{key:#x}"))
    with kin.open_receiver(f"sysv-mq:{key}?lifetime=peers") as receiver:
        assert receiver.recv(timeout=0) == "stale"
    assert exists(key)


# ── POSIX ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lifetime", ["name", "peers"])
@pytest.mark.parametrize("mode", CHMODS)
def test_a_queue_after_a_chmod_stays(
    theirs: posix_ipc.MessageQueue, name: str, mode: int, lifetime: str
) -> None:
    os.fchmod(theirs.mqd, mode)
    inode = os.fstat(theirs.mqd).st_ino
    assert stat.S_IMODE(os.fstat(theirs.mqd).st_mode) == mode
    theirs.send(b"from C")
    address = f"mq:{name}?framing=raw&lifetime={lifetime}"
    for turn in range(2):
        with kin.open_receiver(address, timeout=HANG) as receiver:
            if turn == 0:
                assert receiver.recv(timeout=0) == b"from C"
            with kin.open_sender(address, timeout=HANG) as sender:
                sender.send(b"to C")
                assert theirs.receive(0) == (b"to C", 0)
        still = posix_ipc.MessageQueue(name)
        status = os.fstat(still.mqd)
        still.close()
        assert (status.st_ino, stat.S_IMODE(status.st_mode)) == (inode, mode)


def test_a_name_of_ours_without_its_presence_is_nobodys(name: str, peers: Peers) -> None:
    left_by_killed(f"mq:{name}?lifetime=peers", peers)
    os.unlink(presence_path("mq", name))
    with kin.open_receiver(f"mq:{name}?lifetime=peers") as receiver:
        assert receiver.recv(timeout=0) == "stale"
    posix_ipc.MessageQueue(name).close()


# ── presence, and FIFOs ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", CHMODS)
def test_a_fifo_after_a_chmod_stays_as_it_is(socket_path: Path, mode: int) -> None:
    os.mkfifo(socket_path, 0o600)
    socket_path.chmod(mode)
    inode = socket_path.stat().st_ino
    address = f"fifo:{socket_path}?codec=msgpack"
    for _ in range(2):
        with kin.open_receiver(address, mode=0o640) as receiver, kin.open_sender(address) as sender:
            sender.send("x")
            assert receiver.recv(timeout=HANG) == "x"
        assert socket_path.stat().st_ino == inode
        assert stat.S_IMODE(socket_path.stat().st_mode) == mode
    socket_path.unlink()


@pytest.mark.parametrize("mechanism", ["mq", "sysv-mq"])
def test_what_a_presence_after_a_chmod_belongs_to_is_not_removed(
    mechanism: str, key: int, name: str, peers: Peers
) -> None:
    """Nobody can tell any more that it is ours."""
    address = f"mq:{name}" if mechanism == "mq" else f"sysv-mq:{key}"
    path = presence_path(mechanism, name if mechanism == "mq" else f"{key:#x}")
    left_by_killed(f"{address}?lifetime=peers", peers)
    os.chmod(path, 0o1777)
    try:
        with kin.open_receiver(f"{address}?lifetime=peers") as receiver:
            assert receiver.recv(timeout=0) == "stale"
        with kin.open_receiver(address), kin.open_sender(address):
            pass
        assert os.path.exists(path)
    finally:
        os.unlink(path)


# ── where the kernel refuses ─────────────────────────────────────────────────────────────────


@pytest.fixture
def without_setgid(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a service with RestrictSUIDSGID= or DynamicUser= (systemd.exec(5)): EPERM for whoever asks for S_ISGID."""

    def refusing(call: Callable[..., None]) -> Callable[..., None]:
        def refuse(target: int | str, mode: int) -> None:
            if mode & stat.S_ISGID:
                raise PermissionError(1, os.strerror(1))
            call(target, mode)

        return refuse

    for call in ("mkfifo", "chmod", "fchmod"):
        monkeypatch.setattr(os, call, refusing(getattr(os, call)))


def test_where_set_group_id_is_refused_a_fifo_goes_all_the_same(
    socket_path: Path, without_setgid: None
) -> None:
    with kin.open_receiver(f"fifo:{socket_path}"):
        assert marks.is_marked(socket_path.stat().st_mode)
    assert not socket_path.exists()


def test_where_set_group_id_is_refused_a_queue_goes_all_the_same(
    name: str, without_setgid: None
) -> None:
    with kin.open_receiver(f"mq:{name}?lifetime=peers"):
        posix_ipc.MessageQueue(name).close()
    with pytest.raises(posix_ipc.ExistentialError):
        posix_ipc.MessageQueue(name)


def test_a_queue_that_can_not_get_its_mode_leaves_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, os.strerror(1))

    before = open_descriptors()
    for lifetime, call in (("name", "fchmod"), ("peers", "chmod")):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, refuse)
            with pytest.raises(PermissionError):
                make_or_open(parse(f"mq:{name}?lifetime={lifetime}"))
        with pytest.raises(posix_ipc.ExistentialError):
            posix_ipc.MessageQueue(name)
    assert open_descriptors() == before


def test_where_the_group_is_not_ours_a_fifo_goes_all_the_same(
    socket_path: Path, peers: Peers
) -> None:
    """In a directory with S_ISGID: chmod(2) silently drops that bit from the file (and says nothing)."""
    if os.geteuid() != 0:
        pytest.skip("needs root")

    def child(_: Voice) -> tuple[bool, int]:
        os.chown(socket_path.parent, 4711, 4712)
        socket_path.parent.chmod(0o2770)
        os.setgroups([])
        os.setresgid(4711, 4711, 4711)
        os.setresuid(4711, 4711, 4711)
        with kin.open_receiver(f"fifo:{socket_path}"):
            status = socket_path.stat()
            return marks.is_marked(status.st_mode), status.st_gid

    assert peers.fork(child).result() == (True, 4712)
    assert not socket_path.exists()


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_a_kill_before_the_mode_is_set_leaves_the_mark(
    name: str, socket_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch, peers: Peers
) -> None:
    """No umask takes it away."""

    def victim(_: Voice, address: str) -> None:
        os.umask(umask)
        monkeypatch.setattr(marks, "mark", lambda *_: os.kill(os.getpid(), 9))
        kin.open_receiver(address)

    peers.fork(victim, f"fifo:{socket_path}").wait()
    assert marks.is_marked(socket_path.stat().st_mode)
    kin.open_receiver(f"fifo:{socket_path}").close()
    assert not socket_path.exists()


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o777, 0o000])
def test_every_mode_can_be_marked(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "x"
    path.touch()
    marks.mark(str(path), mode)
    assert marks.is_marked(path.stat().st_mode)
    assert marks.is_marked(marks.marked(mode))
    assert stat.S_IMODE(path.stat().st_mode) & 0o666 == mode & 0o666
