"""Messages in sealed memory: what is accepted, what is refused, and that nothing of it stays."""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import gc
import mmap
import os
import resource
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk import memfd
from kinfolk.channels import packet_reader
from kinfolk.channels.packet_format import HEADER

# At the top, for it starts threads, and these are none that a test left.
numpy = pytest.importorskip("numpy")

BODY = b"kinfolk!" * 1000


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:kinfolk")


def make(body: bytes = BODY, seals: int = memfd.SEALS) -> int:
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, body)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@pytest.fixture
def few_descriptors() -> Iterator[Callable[[int], None]]:
    """Call it with a number: so many more descriptors can be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def allow(more: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        listed = os.listdir("/proc/self/fd")  # and what listed them, closed again
        used = {int(name) for name in listed if os.path.exists(f"/proc/self/fd/{name}")}
        free = (number for number in range(1 << 16) if number not in used)
        for _ in range(more):
            next(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next(free), before[1]))

    yield allow
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


# ── what kinfolk makes ───────────────────────────────────────────────────────────────────────


def test_what_is_sealed_can_be_viewed_and_not_changed() -> None:
    descriptor = memfd.sealed([b"one ", memoryview(b"two"), bytearray(b" three")], "test")
    view = memfd.view(descriptor.fileno(), 13, "test")
    with pytest.raises(PermissionError):
        os.pwrite(descriptor.fileno(), b"x", 0)
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor.fileno(), size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(descriptor.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
    descriptor.close()
    assert view.readonly
    assert bytes(view) == b"one two three"


def test_many_small_parts() -> None:
    parts = [bytes([number % 256]) * (number % 7) for number in range(5000)]
    descriptor = memfd.sealed(parts, "test")
    whole = b"".join(parts)
    assert memfd.view(descriptor.fileno(), len(whole), "test") == whole
    descriptor.close()


def test_a_view_keeps_its_memory_and_nothing_else_does() -> None:
    descriptors = open_descriptors()
    descriptor = memfd.sealed([BODY], "test")
    piece = memfd.view(descriptor.fileno(), len(BODY), "test")[8:16]
    descriptor.close()
    gc.collect()
    assert mappings() == 1
    assert bytes(piece) == b"kinfolk!"
    del piece
    gc.collect()
    assert mappings() == 0
    assert open_descriptors() == descriptors


def test_no_mapping_to_be_had_the_bytes_are_copied(
    few_descriptors: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor = memfd.sealed([BODY], "test")
    os.lseek(descriptor.fileno(), 100, os.SEEK_SET)  # a peer shares the offset

    def no_mapping(*_: object, **__: object) -> mmap.mmap:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(memfd, "_map", no_mapping)
    few_descriptors(0)
    view = memfd.view(descriptor.fileno(), len(BODY), "test")
    assert view == BODY
    assert view.readonly
    descriptor.close()


def test_no_descriptor_left_to_make_one(few_descriptors: Callable[[int], None]) -> None:
    few_descriptors(0)
    with pytest.raises(OSError, match="Too many open files") as caught:
        memfd.sealed([BODY], "test")
    assert caught.value.errno == errno.EMFILE


def test_no_memory_is_a_clear_error_and_leaves_nothing() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    descriptors = open_descriptors()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(kin.NoSpace, match="no memory for a message of 1048576 bytes"):
            memfd.sealed([bytes(1 << 20)], "test")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert open_descriptors() == descriptors


# ── what a hostile peer makes ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "missing", [fcntl.F_SEAL_SEAL, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE]
)
def test_a_missing_seal_is_refused(missing: int) -> None:
    fd = make(seals=memfd.SEALS & ~missing)
    with pytest.raises(kin.CorruptChannel, match="not sealed"):
        memfd.view(fd, len(BODY), "test")
    os.close(fd)


def test_without_the_check_a_peer_could_change_what_was_received(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The negative control of the seals."""
    monkeypatch.setattr(memfd, "_check", lambda *_: None)
    fd = make(seals=0)
    view = memfd.view(fd, len(BODY), "test")
    os.pwrite(fd, b"changed!", 0)
    assert bytes(view[:8]) == b"changed!"
    os.close(fd)


@pytest.mark.parametrize("announced", [0, len(BODY) - 1, len(BODY) + 1, 2**63, 2**64 - 1])
def test_another_size_than_announced_is_refused(announced: int) -> None:
    fd = make()
    with pytest.raises(kin.CorruptChannel, match="were announced"):
        memfd.view(fd, announced, "test")
    os.close(fd)


def test_a_future_write_seal_is_not_enough() -> None:
    """It leaves a mapping that exists already writable."""
    f_seal_future_write = 0x10
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, BODY)
    with mmap.mmap(fd, len(BODY)) as writable:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, memfd.SEALS & ~fcntl.F_SEAL_WRITE | f_seal_future_write)
        with pytest.raises(kin.CorruptChannel, match="not sealed"):
            memfd.view(fd, len(BODY), "test")
        writable[0] = 0
    os.close(fd)


def test_files_pipes_and_sockets_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(BODY)
    numbers = [os.open(path, os.O_RDWR), *os.pipe()]
    numbers += [one.detach() for one in socket.socketpair()]
    with tempfile.TemporaryFile(dir="/dev/shm") as shared:  # tmpfs knows of seals, too
        shared.write(BODY)
        shared.flush()
        for fd in (*numbers, shared.fileno()):
            with pytest.raises(kin.CorruptChannel, match="not sealed"):
                memfd.view(fd, len(BODY), "test")
    for fd in numbers:
        os.close(fd)


def test_huge_pages_are_refused() -> None:
    """Nobody promises that there are any when they are read."""
    huge = 2 << 20
    try:
        fd = os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
    except OSError as error:
        pytest.skip(f"no huge pages here: {error}")
    os.ftruncate(fd, huge)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, memfd.SEALS)
    with pytest.raises(kin.CorruptChannel, match="huge pages"):
        memfd.view(fd, huge, "test")
    os.close(fd)


def test_a_hole_reads_as_zeros() -> None:
    fd = os.memfd_create("hole", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 1 << 16)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, memfd.SEALS)
    assert memfd.view(fd, 1 << 16, "test") == bytes(1 << 16)
    os.close(fd)


# ── on a channel ─────────────────────────────────────────────────────────────────────────────


def hostile_packet(
    size: int, *fds: int, flags: int = 1, riding: int = 0
) -> tuple[bytes, list[int]]:
    return HEADER.pack(b"kP", flags, 0, riding, 0, size), list(fds)


@pytest.mark.parametrize("case", ["unsealed", "wrong size", "a file", "nothing", "2**63", "two"])
def test_hostile_memory_on_a_channel(case: str, tmp_path: Path) -> None:
    receiver, sender = kin.channel("unix-seqpacket:")
    (tmp_path / "file").write_bytes(BODY)
    descriptors = open_descriptors()
    size, fds = {
        "unsealed": lambda: (len(BODY), [make(seals=0)]),
        "wrong size": lambda: (len(BODY) + 1, [make()]),
        "a file": lambda: (len(BODY), [os.open(tmp_path / "file", os.O_RDONLY)]),
        "nothing": lambda: (len(BODY), []),
        "2**63": lambda: (2**63, [make()]),
        "two": lambda: (len(BODY), [make(), make()]),
    }[case]()
    header, _ = hostile_packet(size)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with receiver, sender:
        sender._sending._socket.sendmsg([header], rights)  # type: ignore[attr-defined]
        for fd in fds:
            os.close(fd)
        with pytest.raises(kin.CorruptChannel):
            receiver.recv(timeout=5)
        assert open_descriptors() == descriptors
        sender.send("the next one is whole")
        assert receiver.recv(timeout=5) == "the next one is whole"


def test_good_memory_by_hand_is_taken() -> None:
    """The positive control of the hostile ones."""
    receiver, sender = kin.channel("unix-seqpacket:")
    fd = make()
    header, fds = hostile_packet(len(BODY), fd)
    with receiver, sender:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        sender._sending._socket.sendmsg([header], rights)  # type: ignore[attr-defined]
        os.close(fd)
        assert receiver.recv_bytes(timeout=5) == BODY


@pytest.mark.parametrize("address", ["unix-seqpacket:", "unix-dgram:"])
def test_memory_outlives_its_sender_and_nothing_stays(address: str) -> None:
    descriptors = open_descriptors()
    receiver, sender = kin.channel(address)
    body = os.urandom(1 << 20)
    pid = os.fork()
    if pid == 0:
        receiver.close()
        sender.send_bytes(body)
        os.kill(os.getpid(), 9)
    sender.close()
    os.waitpid(pid, 0)
    message = receiver.recv_bytes(timeout=30)
    assert message == body
    with pytest.raises(kin.EndOfChannel):
        receiver.recv(timeout=30)
    receiver.close()
    gc.collect()
    assert mappings() == 0
    assert open_descriptors() == descriptors


def test_a_receiver_without_descriptors_keeps_the_message(
    few_descriptors: Callable[[int], None],
) -> None:
    receiver, sender = kin.channel("unix-seqpacket:")
    body = os.urandom(1 << 20)
    with receiver, sender:
        sender.send_bytes(body)
        few_descriptors(0)
        with pytest.raises(kin.LimitReached, match="no room for the descriptors"):
            receiver.recv(timeout=5)
        few_descriptors(1)
        assert receiver.recv_bytes(timeout=5) == body


def test_without_the_look_ahead_it_would_be_lost(
    few_descriptors: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the one before."""
    monkeypatch.setattr(packet_reader.PacketReader, "_check_descriptors_fit", lambda _: None)
    receiver, sender = kin.channel("unix-seqpacket:")
    with receiver, sender:
        sender.send_bytes(bytes(1 << 20))
        few_descriptors(0)
        with pytest.raises(kin.LimitReached):
            receiver.recv(timeout=5)
        few_descriptors(1)
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0)


def test_arrays_lie_in_the_senders_memory() -> None:
    receiver, sender = kin.channel("unix-seqpacket:")
    with receiver, sender:
        sender.send({"frame": numpy.arange(1 << 20)})
        frame = receiver.recv(timeout=30)["frame"]
        assert mappings() == 1
        assert not frame.flags.writeable
        assert frame.ctypes.data % 16 == 0
        assert ctypes.c_int64.from_address(frame.ctypes.data + 8).value == 1
        assert frame.sum() == (1 << 20) * ((1 << 20) - 1) // 2
        del frame
        gc.collect()
        assert mappings() == 0
