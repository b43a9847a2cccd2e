"""Space is had before it is touched: a full /dev/shm is NoSpace with the figures, and never a SIGBUS."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.memory import named, space
from kinfolk.room import room_in_memory
from tests.conformance.peers import Peers
from tests.namespaces import CLONE_NEWNS, in_namespaces, mount_shared_memory
from tests.unit.memories import NewAddress, is_there
from tests.unit.refusals import refuse

PAGE = mmap.PAGESIZE


def in_a_tiny_one(
    peers: Peers, body: Callable[[], Any], size: int = 16 * PAGE, inodes: int = 0
) -> Any:
    """What a function returns in a process with a small /dev/shm."""

    def live() -> Any:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        mount_shared_memory(f"size={size},nr_inodes={inodes},mode=1777")
        return body()

    return in_namespaces(peers, CLONE_NEWNS, live)


def free() -> int:
    status = os.statvfs("/dev/shm")
    return status.f_bfree * status.f_frsize


# ── a full /dev/shm ──────────────────────────────────────────────────────────────────────────


def test_a_full_one_is_no_space_with_the_figures(peers: Peers) -> None:
    def create() -> tuple[str, str, int, list[str]]:
        kin.SharedMemory.create("shm:/first", 10 * PAGE).close()
        before = free()
        with pytest.raises(kin.NoSpace) as caught:
            kin.SharedMemory.create("shm:/second", 7 * PAGE)
        assert caught.value.errno == errno.ENOSPC
        return str(caught.value), caught.value.remedy, before - free(), os.listdir("/dev/shm")

    said, remedy, taken, names = in_a_tiny_one(peers, create)
    assert f"asked for {7 * PAGE}, free {6 * PAGE}, /dev/shm has {16 * PAGE} in all" in said
    assert "remount" in remedy
    assert (taken, names) == (0, ["first"])


def test_what_was_created_can_be_written_to_the_last_byte(peers: Peers) -> None:
    def fill() -> int:
        memory = kin.SharedMemory.create("shm:/all", 16 * PAGE)
        assert free() == 0
        memory.buf[:] = b"x" * len(memory.buf)
        return len(memory.buf)

    assert in_a_tiny_one(peers, fill) == 16 * PAGE


def test_without_a_reservation_it_is_a_sigbus(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: what ftruncate alone would have given."""
    monkeypatch.setattr(named, "refuse", lambda *_: None)
    monkeypatch.setattr(space, "allocate", lambda fd, at, size: os.ftruncate(fd, at + size))

    def fill() -> int:
        memory = kin.SharedMemory.create("shm:/all", 17 * PAGE)
        if (pid := os.fork()) == 0:
            memory.buf[:] = b"x" * len(memory.buf)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert in_a_tiny_one(peers, fill) == -signal.SIGBUS


def test_it_is_reserved_also_where_the_look_came_too_early(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody takes the rest between the look at what is free and the reservation."""
    monkeypatch.setattr(named, "refuse", lambda *_: None)

    def create() -> tuple[int, list[str]]:
        with pytest.raises(kin.NoSpace, match=f"free {16 * PAGE}"):
            kin.SharedMemory.create("shm:/x", 17 * PAGE)
        with pytest.raises(kin.NoSpace):
            kin.SharedMemory.create("shm:/x", 64 << 20)  # of several steps
        return free(), os.listdir("/dev/shm")

    assert in_a_tiny_one(peers, create) == (16 * PAGE, [])


def test_growing_is_refused_and_changes_nothing(peers: Peers) -> None:
    def grow() -> tuple[int, int]:
        memory = kin.SharedMemory.create("shm:/x", 10 * PAGE)
        with pytest.raises(kin.NoSpace, match=f"asked for {7 * PAGE}, free {6 * PAGE}"):
            memory.resize(17 * PAGE)
        memory.resize(16 * PAGE)
        memory.buf[:] = b"x" * memory.size
        return memory.size, free()

    assert in_a_tiny_one(peers, grow) == (16 * PAGE, 0)


def test_no_more_files_is_no_space(peers: Peers) -> None:
    def create() -> str:
        def fill() -> list[kin.SharedMemory]:
            return [kin.SharedMemory.create(f"shm:/{number}", 1) for number in range(10)]

        with pytest.raises(kin.NoSpace, match="takes no more files") as caught:
            fill()
        return caught.value.remedy

    assert "remove" in in_a_tiny_one(peers, create, inodes=5)


def test_no_room_for_members_is_no_space(peers: Peers) -> None:
    def create() -> list[str]:
        kept = [kin.SharedMemory.create(f"shm:/{number}", 1) for number in range(3)]
        for number in range(2):
            with contextlib.suppress(kin.NoSpace):
                kept.append(
                    kin.SharedMemory.create(f"sysv-shm:{9871 + number}", 1, lifetime="peers")
                )
        for each in kept:
            if each.address.startswith("sysv"):
                each.unlink()
        return [each.address for each in kept]

    made = in_a_tiny_one(peers, create, inodes=5)
    assert made == ["shm:/0", "shm:/1", "shm:/2"]
    with open("/proc/sysvipc/shm") as table:
        assert not re.search(r"^ *987[12] ", table.read(), re.MULTILINE)


def test_what_was_made_without_space_gets_it_when_attached_to(peers: Peers) -> None:
    """As shm_open and ftruncate leave it, or the standard library."""

    def attach() -> tuple[int, int, list[str]]:
        refusals = []
        with open("/dev/shm/sparse", "wb") as file:
            file.truncate(16 * PAGE)
        with kin.SharedMemory.attach("shm:/sparse") as memory:
            left = free()
            memory.buf[:] = b"x" * memory.size
        os.truncate("/dev/shm/sparse", 0)
        os.truncate("/dev/shm/sparse", 16 * PAGE)
        with kin.SharedMemory.attach("shm:/sparse", read_only=True) as memory:
            also = free()
            assert not any(memory.buf)
        os.truncate("/dev/shm/sparse", 0)
        os.truncate("/dev/shm/sparse", 17 * PAGE)
        for how in ({}, {"read_only": True}, {"private": True}):
            try:
                kin.SharedMemory.attach("shm:/sparse", **how)
            except kin.NoSpace as error:
                refusals.append(str(error))
        return left, also, refusals

    left, also, refusals = in_a_tiny_one(peers, attach)
    assert (left, also) == (0, 0)
    assert len(refusals) == 3
    assert all(f"asked for {17 * PAGE}" in said for said in refusals)


HOWS: list[dict[str, bool]] = [{}, {"read_only": True}, {"private": True}]


@pytest.mark.parametrize("how", HOWS, ids=str)
@pytest.mark.parametrize("scheme", ["shm:", "file:/dev/shm"])
def test_what_there_is_no_room_for_is_refused_before_any_is_taken(
    scheme: str, how: dict[str, bool], peers: Peers
) -> None:
    """Filling it to the brim and then failing would be a SIGBUS for everybody else in there."""
    if scheme.startswith("file") and how:
        pytest.skip("a file that is only read may keep its holes")

    def attach() -> tuple[str, int]:
        with open("/dev/shm/sparse", "wb") as file:
            file.write(b"x" * PAGE)
            file.truncate(64 << 20)
        before = free()
        with pytest.raises(kin.NoSpace) as caught:
            kin.SharedMemory.attach(f"{scheme}/sparse", **how)
        return caught.value.why, before - free()

    said, taken = in_a_tiny_one(peers, attach, size=8 << 20)
    assert f"asked for {(64 << 20) - PAGE}, free {(8 << 20) - PAGE}" in said
    assert taken == 0


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_so_it_is_when_somebody_else_made_it_larger(how: dict[str, bool], peers: Peers) -> None:
    def remap() -> tuple[int, int]:
        maker = kin.SharedMemory.create("shm:/x", PAGE)
        memory = kin.SharedMemory.attach("shm:/x", **how)
        os.ftruncate(maker.fileno(), 64 << 20)
        before = free()
        for _ in range(2):
            with pytest.raises(kin.NoSpace, match=f"asked for {(64 << 20) - PAGE}"):
                memory.remap()
        return memory.size, before - free()

    assert in_a_tiny_one(peers, remap, size=8 << 20) == (PAGE, 0)


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_a_sparse_memfd_of_a_peer_takes_no_memory_that_there_is_not(
    how: dict[str, bool], peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends by the OOM killer. Were the look forgotten, nothing would be taken here."""
    reserved: list[int] = []
    monkeypatch.setattr(space, "allocate", lambda fd, at, size: reserved.append(at))

    def attach(_: Any) -> tuple[str, bool, int]:
        refuse("madvise", errno.ENOMEM)
        number = os.memfd_create("peer", os.MFD_ALLOW_SEALING)
        os.write(number, b"x" * PAGE)
        os.ftruncate(number, 1 << 40)
        with pytest.raises(kin.NoSpace) as caught:
            kin.SharedMemory.attach(f"memfd:{number}", **how)
        return caught.value.why, os.fstat(number).st_size == 1 << 40, len(reserved)

    said, kept, steps = peers.fork(attach).result()
    assert f"asked for {(1 << 40) - PAGE}, free " in said
    assert (kept, steps) == (True, 0)  # the descriptor stays the caller's


# ── memory that there is not ─────────────────────────────────────────────────────────────────


def bounded(peers: Peers, body: Callable[[], Any]) -> None:
    """Run it in a peer that can't take much: were the look forgotten, the whole machine would pay for it."""

    def live(_: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
        body()

    peers.fork(live).result()


@pytest.mark.parametrize("kind", ["memfd", "sysv-shm", "sysv-shm without a key", "shm"])
def test_more_than_the_machine_has_is_refused_before_it_is_tried(
    kind: str, new_address: NewAddress, peers: Peers
) -> None:
    """Reserving it would end by the OOM killer."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")

    def create() -> None:
        for size in (16 * total, 2**62):
            with pytest.raises(kin.NoSpace, match="memory and swap has"):
                kin.SharedMemory.create(new_address(kind), size)

    bounded(peers, create)


def test_so_is_growing_to_it(peers: Peers) -> None:
    def grow() -> None:
        with kin.SharedMemory.create("memfd:", 100) as memory:
            with pytest.raises(kin.NoSpace, match="memory and swap has"):
                memory.resize(2**50)
            assert memory.size == 100

    bounded(peers, grow)


def test_more_than_a_disk_has_is_refused(new_address: NewAddress, peers: Peers) -> None:
    def create() -> None:
        with pytest.raises(kin.NoSpace, match=r"asked for \d+, free \d+, /.* has \d+ in all"):
            kin.SharedMemory.create(new_address("file"), 2**60)

    bounded(peers, create)


def group(path: Path, limit: str, used: int = 0, cached: int = 0) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.max").write_text(limit + "\n")
    (path / "memory.current").write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"anon 1\nactive_file 0\ninactive_file {cached}\n")


def test_the_tightest_control_group_counts(tmp_path: Path) -> None:
    table, mount = tmp_path / "cgroup", tmp_path / "mount"
    table.write_text("4:memory:/old\n0::/a/b/c\n")
    group(mount / "a", "1000", used=400, cached=100)
    group(mount / "a/b", "800", used=300, cached=50)
    group(mount / "a/b/c", "max", used=300)
    room = space.room_in_cgroups(str(table), (str(mount), str(tmp_path / "none")))
    assert (room.free, room.total) == (550, 800)
    group(mount / "a/b", "200", used=300)
    assert space.room_in_cgroups(str(table), (str(mount),)).free == 0
    with pytest.raises(kin.NoSpace, match="asked for 1, free 0, control group has 200 in all"):
        space.refuse(1, space.room_in_cgroups(str(table), (str(mount),)), "memfd:")


def test_without_limits_there_is_room(tmp_path: Path) -> None:
    table = tmp_path / "cgroup"
    table.write_text("")
    assert space.room_in_cgroups(str(table), (str(tmp_path),)).free > 2**60
    assert room_in_memory().free < room_in_memory().total


# ── System V ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lifetime", ["name", "peers", None])
@pytest.mark.parametrize("old_kernel", [False, True])
def test_the_pages_of_a_segment_are_there(
    old_kernel: bool, lifetime: Any, new_address: NewAddress, peers: Peers
) -> None:
    """Before Linux 5.14 madvise(2) can't have them all; then each is touched."""
    address = new_address("sysv-shm without a key" if lifetime is None else "sysv-shm")

    def create(_: Any) -> int:
        if old_kernel:
            refuse("madvise", errno.EINVAL)
        with kin.SharedMemory.create(address, (5 << 20) + 1, lifetime=lifetime) as memory:
            resident = _resident(memory.id)
            assert not any(memory.buf[::PAGE])
            return resident

    assert peers.fork(create).result() >= (5 << 20) + PAGE


def test_a_segment_whose_pages_can_not_be_had_is_no_space(
    new_address: NewAddress, peers: Peers
) -> None:
    for how in ({}, {"lifetime": "peers"}):
        address = new_address("sysv-shm")

        def create(_: Any, address: str = address, how: Any = how) -> None:
            refuse("madvise", errno.ENOMEM)
            with pytest.raises(kin.NoSpace, match=r"asked for 100000, free .* memory and swap"):
                kin.SharedMemory.create(address, 100_000, **how)

        peers.fork(create).result()
        assert not is_there(address)


def _resident(number: int) -> int:
    """Bytes of a segment that are in memory, or in swap."""
    with open("/proc/sysvipc/shm") as table:
        rows = {int(words[1]): words for words in map(str.split, list(table)[1:])}
    return int(rows[number][14]) + int(rows[number][15])


# ── interrupts ───────────────────────────────────────────────────────────────────────────────


def test_a_quick_timer_does_not_keep_it_from_being_made(peers: Peers) -> None:
    """fallocate(2) gives up at a signal, with all that it has done: in one call it might begin anew for ever."""

    def create(_: Any) -> int:
        ticks = 0

        def tick(*_: Any) -> None:
            nonlocal ticks
            ticks += 1

        signal.signal(signal.SIGALRM, tick)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        with kin.SharedMemory.create("memfd:", 64 << 20) as memory:
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert os.fstat(memory.fileno()).st_blocks * 512 >= memory.size
        return ticks

    assert peers.fork(create).result() >= 0


def test_an_interrupt_ends_it_and_leaves_nothing(peers: Peers) -> None:
    def create(_: Any) -> bool:
        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        before = os.listdir("/proc/self/fd")
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        try:
            kin.SharedMemory.create("memfd:", 256 << 20).close()
        except KeyboardInterrupt:
            pass
        return os.listdir("/proc/self/fd") == before

    assert peers.fork(create).result()
