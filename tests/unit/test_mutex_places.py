"""Where a mutex lies: by name, inside memory, anonymous; and what is refused there."""

from __future__ import annotations

import array
import contextlib
import errno
import mmap
import multiprocessing.resource_tracker
import os
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk import runtime_directory
from kinfolk._native import unshare
from kinfolk.processes import keeping
from kinfolk.sync import names
from tests.conformance.peers import HANG, Peers, open_descriptors
from tests.unit.test_memory_space import in_a_tiny_one

PAGE = mmap.PAGESIZE
CLONE_NEWPID = 0x20000000
MAGIC, VERSION, KIND, SIZE, BOOT_ID, NAMESPACE = 0, 8, 12, 16, 24, 40  # of the header


@pytest.fixture
def name(unique_name: str) -> Iterator[str]:
    """A name that is unlinked at the end."""
    yield unique_name
    path = names.path_of("mutex", unique_name)
    if os.path.lexists(path):
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(runtime_directory.path_name())


# ── by name ──────────────────────────────────────────────────────────────────────────────────


def test_unrelated_processes_meet_at_a_name(name, peers):
    mutex = kin.Mutex(name)
    peer = peers.fork(lambda voice: kin.Mutex(name).acquire(timeout=0))
    peer.result()
    with mutex as held:  # that process has ended with it
        assert held.owner_died
        late = peers.fork(lambda voice: kin.Mutex(name).acquire(timeout=0))
        with pytest.raises(Exception, match="holds it for all the 0 s"):
            late.result()


def test_the_name_outlives_everybody(name, peers):
    peers.fork(lambda voice: kin.Mutex(name).acquire()).result()
    with kin.Mutex(name) as held:
        assert held.owner_died


@pytest.mark.parametrize("umask", [0, 0o777])
def test_its_file_is_ours_alone(name, umask):
    before = os.umask(umask)
    try:
        kin.Mutex(name)
    finally:
        os.umask(before)
    status = os.stat(names.path_of("mutex", name))
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_blocks * 512 >= kin.Mutex.SIZE


@pytest.mark.parametrize("odd", ["a/b", "..", "ü€😀", "x" * 5000, "new\nline", "\udcff", " "])
def test_odd_names(odd, unique_name):
    odd += unique_name
    mutex = kin.Mutex(odd)
    assert os.path.dirname(names.path_of("mutex", odd)) == runtime_directory.path_name()
    with mutex:
        assert kin.Mutex(odd).locked
    mutex.unlink()


@pytest.mark.parametrize("bad", ["", "a\0b", 3, b"x", ["x"]])
def test_bad_names(bad):
    with pytest.raises(kin.InvalidValue):
        kin.Mutex(bad)


def test_unlinked_it_stays_with_who_has_it(name):
    old = kin.Mutex(name)
    old.unlink()
    with pytest.raises(kin.NotFound):
        old.unlink()
    new = kin.Mutex(name)
    with old, new:
        assert old.locked
    with pytest.raises(kin.NotFound):  # that would be the other one's
        old.unlink()
    new.unlink()
    assert not os.path.lexists(names.path_of("mutex", name))


def test_only_names_are_unlinked():
    for mutex in (kin.Mutex(), kin.Mutex.inside(mmap.mmap(-1, PAGE))):
        with pytest.raises(kin.Unsupported, match="no name"):
            mutex.unlink()


def test_many_processes_make_it_at_the_same_moment(name, peers):
    def make(voice) -> int:
        voice.hear()
        for _ in range(50):
            with kin.Mutex(name).hold(timeout=HANG):
                pass
        return os.stat(names.path_of("mutex", name)).st_ino

    makers = [peers.fork(make) for _ in range(4)]
    for peer in makers:
        peer.say()
    assert len({peer.result() for peer in makers}) == 1


def planted(name: str, how: str, target: Path) -> None:
    path = names.path_of("mutex", name)
    with contextlib.suppress(FileExistsError):
        os.mkdir(runtime_directory.path_name(), 0o700)
    match how:
        case "symlink":
            target.write_bytes(bytes(PAGE))
            os.symlink(target, path)
        case "dangling":
            os.symlink(target, path)
        case "fifo":
            os.mkfifo(path, 0o600)
        case "short":
            Path(path).write_bytes(bytes(100))
            os.chmod(path, 0o600)
        case "open":
            Path(path).write_bytes(bytes(PAGE))
            os.chmod(path, 0o666)
        case "text":
            Path(path).write_bytes(b"something else " * 300)
            os.chmod(path, 0o600)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("symlink", kin.UntrustedPeer),
        ("dangling", kin.UntrustedPeer),
        ("fifo", kin.CorruptObject),
        ("short", kin.CorruptObject),
        ("open", kin.UntrustedPeer),
        ("text", kin.CorruptObject),
    ],
)
def test_planted_names_are_refused(how, error, name, tmp_path):
    planted(name, how, tmp_path / "target")
    before = open_descriptors()
    with pytest.raises(error) as caught:
        kin.Mutex(name)
    del caught
    assert open_descriptors() == before
    if how == "symlink":
        assert (tmp_path / "target").read_bytes() == bytes(PAGE)  # not touched
    assert not (tmp_path / "target").exists() or how == "symlink"


def test_a_name_of_another_user(name, foreign_user):
    planted(name, "text", Path())
    path = names.path_of("mutex", name)
    Path(path).write_bytes(bytes(PAGE))
    os.chown(path, foreign_user.uid, foreign_user.gid)
    with pytest.raises(kin.UntrustedPeer, match="others may write"):
        kin.Mutex(name)


def test_for_a_plain_user(as_plain_user, unique_name):
    def body() -> bool:
        mutex = kin.Mutex(unique_name)
        try:
            with mutex, kin.Mutex() as other:
                return mutex.locked and other.locked
        finally:
            mutex.unlink()

    assert as_plain_user.run(body)


def test_a_full_dev_shm_is_no_space(peers: Peers):
    def body() -> tuple[int, list[str]]:
        os.mkdir(runtime_directory.path_name(), 0o700)
        fill = os.open("/dev/shm/fill", os.O_CREAT | os.O_WRONLY)
        with contextlib.suppress(OSError):
            while os.write(fill, bytes(PAGE)):
                pass
        with pytest.raises(kin.NoSpace) as caught:
            kin.Mutex("full")
        return caught.value.errno or 0, os.listdir("/dev/shm")

    code, left = in_a_tiny_one(peers, body)
    assert code == errno.ENOSPC
    assert "fill" in left


# ── inside memory ────────────────────────────────────────────────────────────────────────────


def test_several_in_one_segment():
    memory = kin.SharedMemory.create("memfd:", PAGE)
    step = kin.Mutex.SIZE
    mutexes = [kin.Mutex.inside(memory, i * step) for i in range(PAGE // step)]
    for mutex in mutexes[::2]:
        mutex.acquire()
    assert [mutex.locked for mutex in mutexes] == [i % 2 == 0 for i in range(len(mutexes))]
    with pytest.raises(kin.StillInUse):
        memory.close()
    for mutex in mutexes[::2]:
        mutex.release()
    for mutex in mutexes:
        mutex.close()
    memory.close()


def test_in_a_segment_that_another_process_attached_to(peers, unique_name):
    memory = kin.SharedMemory.create(f"shm:/{unique_name}", PAGE)

    def other(voice) -> None:
        attached = kin.SharedMemory.attach(f"shm:/{unique_name}")
        kin.Mutex.inside(attached, 128).acquire()
        voice.say()
        signal.pause()

    mutex = kin.Mutex.inside(memory, 128)
    peer = peers.fork(other)
    peer.hear()
    assert mutex.locked
    peer.kill()
    with mutex as held:
        assert held.owner_died
    mutex.close()
    memory.unlink()
    memory.close()


@pytest.mark.parametrize("offset", [1, 8, 32, -64, PAGE - 64, PAGE, PAGE + 64, 2**62, -(2**62)])
def test_offsets_where_none_can_lie(offset):
    with pytest.raises(kin.InvalidValue, match=r"128 bytes, at a multiple of 64"):
        kin.Mutex.inside(mmap.mmap(-1, PAGE), offset)


@pytest.mark.parametrize("offset", ["0", 1.5, None, 2**70])
def test_offsets_that_are_none(offset):
    with pytest.raises(kin.InvalidValue):
        kin.Mutex.inside(mmap.mmap(-1, PAGE), offset)


def test_memory_that_is_none_or_may_not_be_written():
    read_only = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ)
    memory = kin.SharedMemory.create("memfd:", PAGE)
    for nothing in (None, 5, b"bytes" * 100, read_only, memory.buf.toreadonly()):
        with pytest.raises(kin.InvalidValue):
            kin.Mutex.inside(nothing)
    del nothing
    memory.close()


@pytest.mark.parametrize("how", ["bytearray", "array", "mmap", "segment"])
def test_memory_that_is_not_shared(how, tmp_path):
    """It would lock nothing: after a fork each process has its own."""
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    memory: object
    match how:
        case "bytearray":
            memory = bytearray(PAGE)
        case "array":
            memory = array.array("Q", bytes(PAGE))
        case "mmap":
            with path.open("r+b") as file:
                memory = mmap.mmap(file.fileno(), PAGE, flags=mmap.MAP_PRIVATE)
        case _:
            memory = kin.SharedMemory.attach(f"file:{path}", private=True)
    with pytest.raises(kin.InvalidValue, match="private"):
        kin.Mutex.inside(memory)
    if isinstance(memory, kin.SharedMemory):
        memory.close()


def test_alien_memory_is_refused_and_not_written_to():
    for where in (0, 5, 30, 63, 72, 76, 127):
        memory = mmap.mmap(-1, PAGE)
        memory[where] = 1
        before = memory[:]
        with pytest.raises(kin.CorruptObject):
            kin.Mutex.inside(memory)
        assert memory[:] == before


@pytest.mark.parametrize(
    ("at", "form", "error", "said"),
    [
        (MAGIC, "Q", kin.CorruptObject, "no mutex"),
        (VERSION, "I", kin.CorruptObject, "another layout"),
        (KIND, "I", kin.CorruptObject, "another object"),
        (SIZE, "Q", kin.CorruptObject, "another object"),
        (NAMESPACE, "Q", kin.Unsupported, "pid namespace"),
    ],
)
def test_a_header_that_is_not_ours(at, form, error, said):
    memory = mmap.mmap(-1, PAGE)
    mutex = kin.Mutex.inside(memory)
    struct.pack_into(form, memory, at, struct.unpack_from(form, memory, at)[0] + 7)
    with pytest.raises(error, match=said):
        kin.Mutex.inside(memory)
    with mutex:  # who has it open does not look again
        pass


@pytest.mark.parametrize("was_held", [False, True])
def test_from_before_a_reboot_it_is_repaired(was_held):
    memory = mmap.mmap(-1, PAGE)
    kin.Mutex.inside(memory)
    memory[BOOT_ID] ^= 0xFF
    if was_held:
        struct.pack_into("I", memory, 64, 4711 | 1 << 31)
        struct.pack_into("QQ", memory, 64 + 24, 0xDEAD0, 0xBEEF0)
    with kin.Mutex.inside(memory) as held:
        assert held.owner_died is was_held
    with kin.Mutex.inside(memory) as held:
        assert not held.owner_died


#: A fresh interpreter: the boot's id is read from /proc for the first object, and kept.
NO_DESCRIPTOR_LEFT = """
import mmap, os, resource, sys
import kinfolk as kin

kin.Mutex, kin.LimitReached  # imported while that can be done
memory = mmap.mmap(int(sys.argv[1]), mmap.PAGESIZE)
highest = max(os.dup(0) for _ in range(8))
resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, highest + 1))
for before in (memory[:], bytes(mmap.PAGESIZE)):
    memory[:] = before
    try:
        kin.Mutex.inside(memory)
    except kin.LimitReached as error:
        assert memory[:] == before
        print(error.errno)
os.close(highest)
kin.Mutex.inside(memory).acquire(timeout=0)
print("made")
"""


def test_without_a_free_descriptor_none_is_from_before_a_reboot():
    """Else a held one would be repaired, under its holder."""
    file = os.memfd_create("memory")
    os.truncate(file, PAGE)
    with mmap.mmap(file, PAGE) as memory:
        mutex = kin.Mutex.inside(memory)
        ended = subprocess.run(
            [sys.executable, "-c", NO_DESCRIPTOR_LEFT, str(file)],
            pass_fds=[file],
            capture_output=True,
            text=True,
            timeout=HANG,
            check=False,
        )
        mutex.close()
    os.close(file)
    assert ended.stderr == ""
    assert ended.stdout == f"{errno.EMFILE}\n{errno.EMFILE}\nmade\n"


def test_zeroed_while_it_is_held(peers):
    """As a program may do that clears all of its memory: an error, and nothing that points to nowhere."""

    def body(voice) -> None:
        memory, other = mmap.mmap(-1, PAGE), kin.Mutex()
        mutex = kin.Mutex.inside(memory)
        with other:
            mutex.acquire()
            with other_mutex():
                memory[:] = bytes(PAGE)
                with pytest.raises(kin.CorruptObject, match="overwritten"):
                    mutex.acquire()
            with pytest.raises(kin.CorruptObject, match="overwritten"):
                mutex.release()
        mutex.close()
        memory.close()
        with other:
            pass

    def other_mutex() -> kin.Mutex:
        return kin.Mutex()

    peers.fork(body).result()


def test_another_pid_namespace_by_now(peers):
    """A process that was forked into one with a mutex that it had open."""

    def body(voice) -> str:
        mutex = kin.Mutex()
        mutex.acquire()
        mutex.release()
        try:
            unshare(CLONE_NEWPID)
        except PermissionError:
            return "skip"
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                mutex.acquire()
            except kin.Unsupported:
                code = 0
            finally:
                os._exit(code)
        return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    result = peers.fork(body).result()
    if result == "skip":
        pytest.skip("needs the right to make a pid namespace")
    assert result == "0"


# ── anonymous, and passed on ─────────────────────────────────────────────────────────────────


def test_an_anonymous_one_can_not_be_cut_short():
    mutex = kin.Mutex()
    file = mutex._place._file
    assert file is not None
    number = file.fileno()
    for size in (0, 2 * PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(number, size)
    mutex.close()


def take_and_end(*mutexes: kin.Mutex) -> None:
    """What a started process does."""
    for mutex in mutexes:
        mutex.acquire(timeout=0)
    os._exit(0)


@pytest.fixture
def started() -> Iterator[Callable[..., int | None]]:
    """Starts a process of multiprocessing's; gives its exit code."""

    def start(function: Callable[..., object], *args: object) -> int | None:
        child = multiprocessing.get_context("spawn").Process(target=function, args=args)
        child.start()
        child.join(HANG)
        code = child.exitcode
        child.close()
        return code

    yield start
    multiprocessing.resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def test_passed_to_a_process_that_multiprocessing_starts(name, started):
    mutexes = (kin.Mutex(), kin.Mutex(name), kin.Mutex(strict=True))
    assert started(take_and_end, *mutexes) == 0
    for mutex in mutexes[:2]:
        with mutex as held:
            assert held.owner_died
    with pytest.raises(kin.OwnerDied):
        mutexes[2].acquire()


def test_an_unlinked_one_is_passed_all_the_same(name, started):
    mutex = kin.Mutex(name)
    mutex.unlink()
    with kin.Mutex(name):
        assert started(take_and_end, mutex) == 0
    with mutex as held:
        assert held.owner_died


def test_passed_to_a_process_that_kinfolk_starts():
    memory = kin.SharedMemory.create("memfd:", PAGE)
    mutexes = (kin.Mutex(), kin.Mutex.inside(memory, 256))
    try:
        assert kin.spawn(take_and_end, *mutexes).wait(timeout=HANG).code == 0
        for mutex in mutexes:  # shared, and not moved
            with mutex as held:
                assert held.owner_died
    finally:
        keeping.keeping().end(0)


def test_dropped_ones_leave_no_descriptor(name):
    before = open_descriptors()
    for _ in range(20):
        kin.Mutex()
        kin.Mutex(name)
        kin.Mutex().close()
    assert open_descriptors() == before
