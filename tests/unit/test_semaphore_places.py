"""Where a semaphore lies: by name, inside memory, anonymous; and what is refused there."""

from __future__ import annotations

import contextlib
import errno
import mmap
import multiprocessing.resource_tracker
import os
import random
import resource
import signal
import stat
import struct
from collections.abc import Callable, Iterator

import pytest

import kinfolk as kin
from kinfolk import runtime_directory
from kinfolk._native import unshare
from kinfolk.processes import keeping
from kinfolk.sync import names
from tests.conformance.peers import HANG, Peers, open_descriptors, thread_of
from tests.unit.test_memory_space import in_a_tiny_one
from tests.unit.test_semaphore import holder, until_asleep

PAGE = mmap.PAGESIZE
CLONE_NEWPID = 0x20000000
MAGIC, VERSION, KIND, SIZE, BOOT_ID, NAMESPACE = 0, 8, 12, 16, 24, 40  # of the header
WORD, ROWS = 128, 256  # what follows the guard, and the table of members


@pytest.fixture
def name(unique_name: str) -> Iterator[str]:
    """A name that is unlinked at the end."""
    yield unique_name
    path = names.path_of("semaphore", unique_name)
    if os.path.lexists(path):
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(runtime_directory.path_name())


# ── by name ──────────────────────────────────────────────────────────────────────────────────


def test_unrelated_processes_meet_at_a_name(name, peers):
    semaphore = kin.Semaphore(2, name)

    def give(voice) -> None:
        kin.Semaphore(name=name).release()
        voice.say()
        voice.hear()

    peer = peers.fork(give)
    peer.hear()
    assert semaphore.value == 3
    peer.say()
    peer.result()
    assert semaphore.value == 3


def test_the_name_and_its_value_outlive_everybody(name, peers):
    peers.fork(lambda voice: kin.Semaphore(2, name).release(5)).result()
    assert kin.Semaphore(name=name).value == 7
    peers.fork(lambda voice: kin.Semaphore(2, name).acquire()).result()
    assert kin.Semaphore(2, name).value == 7


@pytest.mark.parametrize("umask", [0, 0o777])
def test_its_file_is_ours_alone(name, umask):
    before = os.umask(umask)
    try:
        kin.Semaphore(1, name)
    finally:
        os.umask(before)
    status = os.stat(names.path_of("semaphore", name))
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_blocks * 512 >= kin.Semaphore.SIZE


def test_one_for_another_number_of_processes(name):
    for members in (1, 200):
        made = kin.Semaphore(3, name, members=members)
        size = os.stat(names.path_of("semaphore", name)).st_size
        assert size == kin.Semaphore.size(members)
        with kin.Semaphore(name=name) as found:  # as large as it is
            assert made.value == found.value == 2
        with pytest.raises(kin.InvalidValue, match=f"made with members={members}"):
            kin.Semaphore(name=name, members=64)
        made.unlink()


@pytest.mark.parametrize("bad", ["", "a\0b", 3, b"x", ["x"]])
def test_bad_names(bad):
    with pytest.raises(kin.InvalidValue):
        kin.Semaphore(1, bad)


def test_unlinked_it_stays_with_who_has_it(name):
    old = kin.Semaphore(1, name)
    old.unlink()
    with pytest.raises(kin.NotFound):
        old.unlink()
    new = kin.Semaphore(5, name)
    with old:
        assert new.value == 5
    with pytest.raises(kin.NotFound):  # that would be the other one's
        old.unlink()
    new.unlink()
    assert not os.path.lexists(names.path_of("semaphore", name))


def test_many_processes_make_it_at_the_same_moment(name, peers):
    def make(voice) -> None:
        voice.hear()
        for _ in range(50):
            with kin.Semaphore(1, name).hold(timeout=HANG):
                pass

    makers = [peers.fork(make) for _ in range(4)]
    for peer in makers:
        peer.say()
    for peer in makers:
        peer.result()
    assert kin.Semaphore(name=name).value == 1


@pytest.mark.parametrize(
    ("content", "mode", "error"),
    [
        (bytes(100), 0o600, kin.CorruptObject),
        (bytes(2 * PAGE), 0o666, kin.UntrustedPeer),
        (b"something else " * 600, 0o600, kin.CorruptObject),
    ],
)
def test_planted_files_are_refused(content, mode, error, name):
    path = names.path_of("semaphore", name)
    with contextlib.suppress(FileExistsError):
        os.mkdir(runtime_directory.path_name(), 0o700)
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)
    before = open_descriptors()
    with pytest.raises(error):
        kin.Semaphore(1, name)
    assert open_descriptors() == before


def test_a_name_of_another_user(name, foreign_user):
    kin.Semaphore(1, name)
    os.chown(names.path_of("semaphore", name), foreign_user.uid, foreign_user.gid)
    with pytest.raises(kin.UntrustedPeer, match="others may write"):
        kin.Semaphore(1, name)


def test_for_a_plain_user(as_plain_user, unique_name):
    def body() -> bool:
        semaphore = kin.Semaphore(1, unique_name)
        try:
            with semaphore, kin.Semaphore() as other:
                return semaphore.value == other.value == 0
        finally:
            semaphore.unlink()

    assert as_plain_user.run(body)


def test_a_full_dev_shm_is_no_space(peers: Peers):
    def body() -> int:
        os.mkdir(runtime_directory.path_name(), 0o700)
        fill = os.open("/dev/shm/fill", os.O_CREAT | os.O_WRONLY)
        with contextlib.suppress(OSError):
            while os.write(fill, bytes(PAGE)):
                pass
        with pytest.raises(kin.NoSpace) as caught:
            kin.Semaphore(1, "full")
        return caught.value.errno or 0

    assert in_a_tiny_one(peers, body) == errno.ENOSPC


# ── inside memory ────────────────────────────────────────────────────────────────────────────


def test_several_in_one_segment():
    step = kin.Semaphore.size(4)
    memory = kin.SharedMemory.create("memfd:", 8 * step)
    semaphores = [kin.Semaphore.inside(memory, i * step, i, members=4) for i in range(8)]
    for semaphore in semaphores[1::2]:
        semaphore.acquire()
    assert [semaphore.value for semaphore in semaphores] == [0, 0, 2, 2, 4, 4, 6, 6]
    with pytest.raises(kin.StillInUse):
        memory.close()
    for semaphore in semaphores:
        semaphore.close()
    memory.close()


def test_in_a_segment_that_another_process_attached_to(peers, unique_name):
    memory = kin.SharedMemory.create(f"shm:/{unique_name}", 2 * PAGE)

    def other(voice) -> None:
        attached = kin.SharedMemory.attach(f"shm:/{unique_name}")
        kin.Semaphore.inside(attached, 128).acquire()
        voice.say()
        signal.pause()

    semaphore = kin.Semaphore.inside(memory, 128, 1)
    peer = peers.fork(other)
    peer.hear()
    assert semaphore.value == 0
    peer.kill()
    with semaphore:
        pass
    semaphore.close()
    memory.unlink()
    memory.close()


def test_two_users_share_it(peers, foreign_user):
    """Each watches the other, though only one may send signals."""
    memory = mmap.mmap(-1, 2 * PAGE)
    semaphore = kin.Semaphore.inside(memory, 0, 1)

    def other(voice) -> None:
        os.setgid(foreign_user.gid)
        os.setuid(foreign_user.uid)
        semaphore.acquire()
        voice.say()
        semaphore.acquire()  # waits for the other one's

    peer = peers.fork(other)
    peer.hear()
    peer.until_asleep()
    with thread_of(semaphore.acquire) as call:
        until_asleep(call)
        peer.kill()
        call.result()


@pytest.mark.parametrize("offset", [1, 8, 32, -64, PAGE, 2 * PAGE, 2**62])
def test_offsets_where_none_can_lie(offset):
    with pytest.raises(kin.InvalidValue, match=f"{kin.Semaphore.SIZE} bytes, at a multiple of 64"):
        kin.Semaphore.inside(mmap.mmap(-1, 2 * PAGE), offset)


def test_memory_that_may_not_be_written():
    read_only = mmap.mmap(-1, 2 * PAGE, prot=mmap.PROT_READ)
    for nothing in (None, b"bytes" * 2000, read_only, bytearray(2 * PAGE)):
        with pytest.raises(kin.InvalidValue):
            kin.Semaphore.inside(nothing)


def test_alien_memory_is_refused_and_not_written_to():
    for where in (0, 5, 63, 72, WORD, ROWS, ROWS + 70):
        memory = mmap.mmap(-1, 2 * PAGE)
        memory[where] = 1
        before = memory[:]
        with pytest.raises(kin.CorruptObject):
            kin.Semaphore.inside(memory)
        assert memory[:] == before


@pytest.mark.parametrize(
    ("at", "form", "error", "said"),
    [
        (MAGIC, "Q", kin.CorruptObject, "no semaphore"),
        (VERSION, "I", kin.CorruptObject, "another layout"),
        (KIND, "I", kin.CorruptObject, "another object"),
        (SIZE, "Q", kin.CorruptObject, "another object"),
        (NAMESPACE, "Q", kin.Unsupported, "pid namespace"),
        (WORD + 20, "I", kin.CorruptObject, "no semaphore"),  # the greatest value
        (ROWS - 64 + 8, "I", kin.CorruptObject, "no semaphore"),  # the number of rows
    ],
)
def test_a_header_that_is_not_ours(at, form, error, said):
    memory = mmap.mmap(-1, 2 * PAGE)
    semaphore = kin.Semaphore.inside(memory)
    struct.pack_into(form, memory, at, (struct.unpack_from(form, memory, at)[0] + 7) % 2**32)
    with pytest.raises(error, match=said):
        kin.Semaphore.inside(memory)
    with semaphore:  # who has it open does not look again
        pass


def test_from_before_a_reboot_it_is_repaired(peers):
    """Everybody of then is gone, whatever processes have their numbers now."""
    memory = mmap.mmap(-1, 2 * PAGE)
    semaphore = kin.Semaphore.inside(memory, 0, 3)
    peers.fork(lambda voice: semaphore.acquire(n=2)).result()
    semaphore.acquire()
    memory[BOOT_ID] ^= 0xFF
    again = kin.Semaphore.inside(memory)
    assert (again.value, again._members()) == (3, [])


def test_overwritten_it_hurts_nobody(peers):
    """Whatever lies there: an error, or a value; never a crash, nor a wait that can't be ended."""

    def body(voice) -> None:
        dice = random.Random(7)
        for _ in range(200):
            memory = mmap.mmap(-1, 2 * PAGE)
            semaphore = kin.Semaphore.inside(memory, 0, 3, members=4)
            with semaphore:
                for at in range(WORD, kin.Semaphore.size(4), 8):
                    if dice.random() < 0.3:
                        struct.pack_into("Q", memory, at, dice.getrandbits(64))
                with contextlib.suppress(kin.KinfolkError):
                    semaphore.acquire(timeout=0)
                with contextlib.suppress(kin.KinfolkError):
                    _ = semaphore.value, semaphore.held, repr(semaphore)
                with contextlib.suppress(kin.KinfolkError):
                    semaphore.acquire(timeout=0, n=100)
                memory[WORD : kin.Semaphore.size(4)] = bytes(kin.Semaphore.size(4) - WORD)
            semaphore.close()

    peers.fork(body).result()


def test_another_pid_namespace_by_now(peers):
    def body(voice) -> str:
        semaphore = kin.Semaphore()
        with semaphore:
            pass
        try:
            unshare(CLONE_NEWPID)
        except PermissionError:
            return "skip"
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                semaphore.acquire()
            except kin.Unsupported:
                code = 0
            finally:
                os._exit(code)
        return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    result = peers.fork(body).result()
    if result == "skip":
        pytest.skip("needs the right to make a pid namespace")
    assert result == "0"


# ── limits ───────────────────────────────────────────────────────────────────────────────────


def test_without_descriptors_nobody_is_watched_and_nothing_is_lost(peers):
    semaphore = kin.Semaphore(1)
    peer = holder(peers, semaphore, 1)

    def body(voice) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        with pytest.raises(kin.LimitReached, match="ulimit -n"):
            semaphore.acquire()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        voice.say()
        semaphore.acquire()
        semaphore.release()

    other = peers.fork(body)
    other.hear()
    other.until_asleep()
    peer.say()
    peer.result()
    other.result()
    assert semaphore.value == 1


def test_a_fork_that_costs_the_watcher_is_told(as_plain_user):
    """Who waits looks again, and is refused as long as there can be no thread; later, it goes on."""

    def body() -> bool:
        semaphore = kin.Semaphore(0)
        pid = os.fork()
        if pid == 0:
            semaphore.release(0 + 1)
            semaphore.acquire()
            signal.pause()
        while len(semaphore._members()) == 0 or semaphore.value:
            os.sched_yield()
        soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        with thread_of(semaphore.acquire) as call:
            until_asleep(call)
            resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
            with pytest.raises(OSError):  # noqa: PT011 - the number may be lost on Python 3.11.2
                os.fork()
            refused = isinstance(call.raised(), kin.LimitReached)
            resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
        with thread_of(semaphore.acquire) as call:
            until_asleep(call)
            semaphore.release()
            call.result()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return refused

    assert as_plain_user.run(body)


# ── anonymous, and passed on ─────────────────────────────────────────────────────────────────


def take_and_end(*semaphores: kin.Semaphore) -> None:
    """What a started process does."""
    for semaphore in semaphores:
        semaphore.acquire(timeout=0)
        semaphore.release(3)
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
    semaphores = (
        kin.Semaphore(1),
        kin.Semaphore(1, name, members=3),
        kin.Semaphore(1, undo=False, members=100),
    )
    assert started(take_and_end, *semaphores) == 0
    assert [semaphore.value for semaphore in semaphores] == [3, 3, 3]


def test_passed_to_a_process_that_kinfolk_starts():
    memory = kin.SharedMemory.create("memfd:", 2 * PAGE)
    semaphores = (kin.Semaphore(1), kin.Semaphore.inside(memory, 256, 1))
    try:
        assert kin.spawn(take_and_end, *semaphores).wait(timeout=HANG).code == 0
        assert [semaphore.value for semaphore in semaphores] == [3, 3]
    finally:
        keeping.keeping().end(0)


def test_dropped_ones_leave_no_descriptor(name):
    before = open_descriptors()
    for _ in range(20):
        kin.Semaphore()
        kin.Semaphore(1, name)
        kin.Semaphore().close()
    assert open_descriptors() == before
