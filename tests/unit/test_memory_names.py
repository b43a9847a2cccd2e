"""What stands at a name: aliens, links, other users' memory, what is too small; and what can't be a name or a size."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk._native import sysv_shm_get, sysv_shm_remove
from kinfolk.marks import marked
from kinfolk.nameless_file import NamelessFile
from tests.conformance.peers import HANG, Peers, thread_of, until
from tests.other_user import User
from tests.unit.memories import NAMED, NewAddress, is_there, path_of


@pytest.fixture(params=NAMED)
def name(request: pytest.FixtureRequest, new_address: NewAddress) -> str:
    return new_address(request.param)


@pytest.fixture(params=["shm", "file"])
def path(request: pytest.FixtureRequest, new_address: NewAddress) -> Iterator[tuple[str, Path]]:
    """An address, and the file that it would be; what the test put there is removed."""
    address = new_address(request.param)
    found = path_of(address)
    assert found is not None
    yield address, found
    with contextlib.suppress(FileNotFoundError):
        found.rmdir() if found.is_dir() and not found.is_symlink() else found.unlink()


# ── no address, no size ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "address",
    [
        "",
        "frames",
        "shm",
        "shm:",
        "shm:/",
        "shm:frames",
        "shm:/a/b",
        "shm://a",
        "shm:/..",
        "shm:/.",
        "shm:/" + "x" * 256,
        "shm:/a%00b",
        "file:",
        "file:/",
        "file:/tmp/",
        "file:..",
        f"shm:/kinfolk-{os.geteuid()}",
        "sysv-shm:0",
        "sysv-shm:-1",
        "sysv-shm:key",
        "sysv-shm:0x100000000",
        "sysv-shm:/tmp#0",
        "sysv-shm:/tmp#256",
        "memfd:" + "x" * 250,
        "memfd:?lifetime=name",
        "sysv-shm:?lifetime=name",
        "file:/tmp/x?lifetime=peers",
        "posix:/x",
        "pipe:",
        "shm:/x?codec=raw",
        "shm:/x?mode=9",
        "shm:/x?lifetime=ever",
        None,
        5,
    ],
)
def test_what_is_no_address_is_refused(address: Any) -> None:
    with pytest.raises(kin.AddressError) as caught:
        kin.SharedMemory.create(address, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["memfd", "sysv-shm without a key", *NAMED])
@pytest.mark.parametrize("size", [0, -1, 2**63, 2**70, "", "-1", "lots", 1.5, True, b"1"])
def test_what_is_no_size_is_refused(new_address: NewAddress, kind: str, size: Any) -> None:
    with pytest.raises(kin.AddressError, match="makes no sense"):
        kin.SharedMemory.create(new_address(kind), size)


def test_a_size_is_needed(new_address: NewAddress) -> None:
    with pytest.raises(kin.InvalidValue, match="how large"):
        kin.SharedMemory.create(new_address("shm"))


def test_a_missing_file_makes_no_key(tmp_path: Path) -> None:
    with pytest.raises(kin.NotFound, match="ftok"):
        kin.SharedMemory.create(f"sysv-shm:{tmp_path}/none#1", 10)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(kin.NotFound, match=f"no directory {tmp_path}/none"):
        kin.SharedMemory.create(f"file:{tmp_path}/none/x", 10)
    with pytest.raises(kin.NotFound):
        kin.SharedMemory.attach(f"file:{tmp_path}/none/x")
    with pytest.raises(kin.NotFound, match="no such directory"):
        kin.SharedMemory.attach(f"file:{tmp_path}/none/x", timeout=HANG)


@pytest.mark.parametrize("owner", ["root", -1, 1.5])
def test_an_owner_is_a_number(new_address: NewAddress, owner: Any) -> None:
    with pytest.raises(kin.InvalidValue, match="no user's number"):
        kin.SharedMemory.attach(new_address("shm"), owner=owner)


# ── what is no memory ────────────────────────────────────────────────────────────────────────


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


ALIENS: dict[str, Callable[[Path], Any]] = {
    "directory": lambda path: path.mkdir(),
    "FIFO": os.mkfifo,
    "socket": _make_socket,
    "symbolic link": lambda path: path.symlink_to("/etc/passwd"),
    "symbolic link to nowhere": lambda path: path.symlink_to("/nowhere/at/all"),
    "symbolic link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("alien", ALIENS)
def test_what_is_no_memory_is_left_alone(path: tuple[str, Path], alien: str) -> None:
    address, where = path
    ALIENS[alien](where)
    before = where.lstat()
    with pytest.raises(kin.AddressError, match=alien.split(maxsplit=1)[0]):
        kin.SharedMemory.attach(address)
    for lifetime in ("name", "peers") if address.startswith("shm") else ("name",):
        with pytest.raises(kin.AlreadyExists):
            kin.SharedMemory.create(address, 10, lifetime=lifetime)
    assert where.lstat() == before


def test_what_is_empty_is_refused(path: tuple[str, Path]) -> None:
    address, where = path
    where.touch()
    with pytest.raises(kin.InvalidValue, match="it is empty"):
        kin.SharedMemory.attach(address)


def test_what_is_too_small_is_refused(name: str) -> None:
    with kin.SharedMemory.create(name, 100) as memory:
        with pytest.raises(kin.InvalidValue, match="it has 100 bytes, and 101 are needed"):
            kin.SharedMemory.attach(name, size=101)
        kin.SharedMemory.attach(name, size=100).close()
        memory.unlink()


def test_one_that_kin_did_not_make_can_be_attached_to(path: tuple[str, Path]) -> None:
    """As shm_open and ftruncate leave it: without space behind its pages."""
    address, where = path
    with where.open("wb") as file:
        file.truncate(100_000)
    with kin.SharedMemory.attach(address) as memory:
        assert where.stat().st_blocks * 512 >= 100_000
        memory.buf[99_999] = 1


def test_what_has_the_mark_and_no_user_is_stale_and_on_a_disk_never(
    path: tuple[str, Path],
) -> None:
    """There the mark might be anybody's."""
    address, where = path
    where.write_bytes(b"precious")
    where.chmod(marked(0o600))
    if address.startswith("file"):
        with kin.SharedMemory.attach(address) as memory:
            assert memory.lifetime == "name"
        with pytest.raises(kin.AlreadyExists):
            kin.SharedMemory.create(address, 10)
        assert where.read_bytes() == b"precious"
    else:
        with pytest.raises(kin.NotFound):
            kin.SharedMemory.attach(address)
        assert not where.exists()


def test_a_mode_that_lets_nobody_in_is_said_of_its_name(
    path: tuple[str, Path], foreign_user: User
) -> None:
    """And not of the descriptor by which it was looked at before."""
    address, where = path
    where.write_bytes(b"x")
    where.chmod(0o600)
    if where.stat().st_uid != 0:
        pytest.skip("what is of neither root nor the user is refused before")

    def attach() -> str:
        with pytest.raises(kin.AccessDenied) as caught:
            kin.SharedMemory.attach(address)
        return str(caught.value)

    assert foreign_user.run(attach) == (
        f"{address}: can't attach: Permission denied (attach read-only)"
    )


def test_what_is_stale_and_another_user_s_stays_for_that_user(
    new_address: NewAddress, foreign_user: User
) -> None:
    address = new_address("shm")
    path = path_of(address)
    assert path is not None

    def leave() -> None:
        path.write_bytes(b"theirs")
        path.chmod(marked(0o666))

    foreign_user.run(leave)
    with pytest.raises(kin.NotFound):
        kin.SharedMemory.attach(address, owner=foreign_user.uid)
    assert path.exists()
    path.unlink()


# ── whose it is ──────────────────────────────────────────────────────────────────────────────


def test_another_user_s_memory_is_refused(name: str, foreign_user: User) -> None:
    foreign_user.run(_leave, name, 0o666)
    for how in ({}, {"read_only": True}):
        with pytest.raises(kin.UntrustedPeer, match=f"memory of user {foreign_user.uid}") as caught:
            kin.SharedMemory.attach(name, **how)
        assert f"owner={foreign_user.uid}" in caught.value.remedy
    with kin.SharedMemory.attach(name, owner=foreign_user.uid) as memory:
        assert memory.buf[0] == 7
        memory.unlink()


def test_our_memory_is_another_user_s_only_if_both_say_so(name: str, foreign_user: User) -> None:
    with kin.SharedMemory.create(name, 100) as memory:
        with pytest.raises(kin.AccessDenied):
            foreign_user.run(_look, name)
        memory.chmod(0o644)
        assert foreign_user.run(_look, name) == 0  # root's needs no owner=
        with pytest.raises(kin.AccessDenied, match="read-only"):
            foreign_user.run(_write, name)
        memory.chmod(0o666)
        foreign_user.run(_write, name)
        assert memory.buf[0] == 9
        with pytest.raises(kin.AccessDenied):
            foreign_user.run(_unlink, name)
        assert is_there(name)
        memory.unlink()


def test_a_plain_user_has_his_own(name: str, as_plain_user: User) -> None:

    def live() -> tuple[int, bool]:
        os.umask(0)
        with (
            kin.SharedMemory.create(name, 100) as memory,
            kin.SharedMemory.attach(name, read_only=True) as other,
        ):
            memory.buf[0] = 5
            mode, seen = memory.mode, other.buf[0] == 5
            memory.unlink()
        with kin.SharedMemory.create("memfd:", 10), kin.SharedMemory.create("sysv-shm:", 10):
            return mode, seen

    assert as_plain_user.run(live) == (0o600, True)
    assert not is_there(name)


def test_a_stranger_may_not_be_named_by_chance(name: str, foreign_user: User) -> None:
    foreign_user.run(_leave, name, 0o600)
    with pytest.raises(kin.UntrustedPeer):
        kin.SharedMemory.attach(name, owner=(foreign_user.uid or 0) + 1)
    foreign_user.run(_unlink, name)


def _leave(name: str, mode: int) -> None:
    with kin.SharedMemory.create(name, 100, mode=mode) as memory:
        memory.buf[0] = 7


def _look(name: str) -> int:
    with kin.SharedMemory.attach(name, read_only=True) as memory:
        return memory.buf[0]


def _write(name: str) -> None:
    with kin.SharedMemory.attach(name) as memory:
        memory.buf[0] = 9


def _unlink(name: str) -> None:
    with kin.SharedMemory.attach(name, read_only=True) as memory:
        memory.unlink()


# ── by descriptor ────────────────────────────────────────────────────────────────────────────


def test_a_descriptor_is_taken_over() -> None:
    memory = kin.SharedMemory.create("memfd:", 100)
    number = os.dup(memory.fileno())
    os.set_inheritable(number, True)
    with kin.SharedMemory.attach(f"memfd:{number}") as other:
        assert (other.fileno(), os.get_inheritable(number)) == (number, False)
        other.buf[0] = 3
        assert memory.buf[0] == 3
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    reader = kin.SharedMemory.attach(f"memfd:{os.dup(memory.fileno())}", read_only=True)
    assert fcntl.fcntl(reader.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    with pytest.raises(OSError, match="Invalid argument"):
        os.ftruncate(reader.fileno(), 5000)
    with pytest.raises(kin.AccessDenied, match="read-only"):
        kin.SharedMemory.attach(f"memfd:{reader.fileno()}")
    assert reader.buf[0] == 3
    reader.close()
    memory.close()


def test_nobody_can_make_a_memfd_smaller(peers: Peers) -> None:
    memory = kin.SharedMemory.create("memfd:", 10_000)

    def shrink(_: Any) -> None:
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fileno(), 100)
        with pytest.raises(PermissionError):
            fcntl.fcntl(memory.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)

    peers.fork(shrink).result()
    memory.buf[9999] = 1
    memory.close()


def test_what_came_unsealed_is_sealed() -> None:
    number = os.memfd_create("alien", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(number, 10_000)
    other = os.dup(number)
    with kin.SharedMemory.attach(f"memfd:{number}") as memory:
        with pytest.raises(PermissionError):
            os.ftruncate(other, 100)
        assert os.fstat(other).st_blocks * 512 >= 10_000
        memory.buf[9999] = 1
    os.close(other)


def test_what_can_be_cut_short_is_refused() -> None:
    numbers = [
        os.memfd_create("unsealable", os.MFD_CLOEXEC),
        os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600),
    ]
    for number in numbers:
        os.ftruncate(number, 100)
        with pytest.raises(kin.UntrustedPeer, match="cut it short"):
            kin.SharedMemory.attach(f"memfd:{number}")
        os.fstat(number)  # it stays the caller's
        os.close(number)


def test_huge_pages_are_refused() -> None:
    try:
        number = os.memfd_create("huge", os.MFD_HUGETLB | os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    except OSError as error:
        pytest.skip(f"no huge pages here: {error}")
    with pytest.raises(kin.UntrustedPeer, match="huge pages"):
        kin.SharedMemory.attach(f"memfd:{number}")
    os.close(number)


def test_what_is_sealed_against_writing_can_be_read() -> None:
    number = os.memfd_create("sealed", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(number, b"for ever")
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    fcntl.fcntl(number, fcntl.F_ADD_SEALS, seals)
    with kin.SharedMemory.attach(f"memfd:{os.dup(number)}", read_only=True) as memory:
        assert bytes(memory.buf) == b"for ever"
    other = os.dup(number)
    with pytest.raises(kin.AccessDenied):
        kin.SharedMemory.attach(f"memfd:{other}")
    os.close(number)


@pytest.mark.parametrize("which", ["label", "999", "file", "pipe", "99999999999999999999"])
def test_what_is_no_memfd_is_refused(which: str, tmp_path: Path) -> None:
    opened = list(os.pipe())
    if which == "file":
        opened.append(os.open(tmp_path, os.O_RDONLY))
    name = {"file": str(opened[-1]), "pipe": str(opened[0])}.get(which, which)
    with pytest.raises(kin.AddressError, match="descriptor"):
        kin.SharedMemory.attach(f"memfd:{name}")
    for number in opened:
        os.close(number)


def test_what_has_no_name_can_not_be_found() -> None:
    with pytest.raises(kin.AddressError, match="number of its descriptor"):
        kin.SharedMemory.attach("memfd:")
    with pytest.raises(kin.AddressError, match="can't be found"):
        kin.SharedMemory.attach("sysv-shm:")


# ── complete before it has its name ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_whoever_finds_it_finds_what_was_prepared(kind: str, new_address: NewAddress) -> None:
    address = new_address(kind)

    def prepare(memory: kin.SharedMemory) -> None:
        assert not is_there(address)
        memory.array(100)[:] = 7

    with (
        kin.SharedMemory.create(address, 100, prepare=prepare) as memory,
        kin.SharedMemory.attach(address) as other,
    ):
        assert bytes(other.buf) == b"\7" * 100
        memory.unlink()


@pytest.mark.parametrize("kind", ["shm", "file", "memfd", "sysv-shm without a key"])
def test_a_preparation_that_fails_leaves_nothing(kind: str, new_address: NewAddress) -> None:
    address = new_address(kind)
    kept: list[Any] = []

    def prepare(memory: kin.SharedMemory) -> None:
        kept.append(memory.array(3))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        kin.SharedMemory.create(address, 100, prepare=prepare)
    if not address.endswith(":"):
        assert not is_there(address)
    kept[0][:] = 1  # it has its own hold


def test_a_key_can_not_wait_for_a_preparation(new_address: NewAddress) -> None:
    with pytest.raises(kin.Unsupported, match="before it has its key"):
        kin.SharedMemory.create(new_address("sysv-shm"), 100, prepare=print)


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_one_of_many_creators_wins(kind: str, new_address: NewAddress, peers: Peers) -> None:
    address = new_address(kind)

    def create(voice: Any, number: int) -> int | None:
        voice.say()
        voice.hear()
        try:
            with kin.SharedMemory.create(
                address, 1 << 20, prepare=lambda memory: memory.buf.__setitem__(0, number)
            ):
                return number
        except kin.AlreadyExists:
            with kin.SharedMemory.attach(address) as memory:
                assert memory.size == 1 << 20
                assert memory.buf[0] > 0
            return None

    crowd = [peers.fork(create, number) for number in range(1, 7)]
    for peer in crowd:
        peer.hear()
    for peer in crowd:
        peer.say()
    (winner,) = [number for peer in crowd if (number := peer.result()) is not None]
    with kin.SharedMemory.attach(address) as memory:
        assert memory.buf[0] == winner
        memory.unlink()


@pytest.mark.parametrize("kind", NAMED)
def test_who_waits_finds_it_whole(kind: str, new_address: NewAddress, peers: Peers) -> None:
    address = new_address(kind)

    def wait(voice: Any) -> tuple[int, int]:
        voice.say()
        with kin.SharedMemory.attach(address, timeout=HANG) as memory:
            return memory.size, memory.buf[9_999_999] if kind != "sysv-shm" else 4

    waiting = peers.fork(wait)
    waiting.hear()
    waiting.until_asleep()
    prepare = None if kind == "sysv-shm" else lambda memory: memory.buf.__setitem__(9_999_999, 4)
    with kin.SharedMemory.create(address, 10_000_000, prepare=prepare) as memory:
        assert waiting.result() == (10_000_000, 4)
        memory.unlink()


def test_waiting_has_an_end(name: str) -> None:
    with pytest.raises(kin.Timeout, match="attach"):
        kin.SharedMemory.attach(name, timeout=0.01)
    for timeout in (-1, "soon", float("nan")):
        with pytest.raises(kin.InvalidValue, match="makes no sense"):
            kin.SharedMemory.attach(name, timeout=timeout)  # type: ignore[arg-type]


def test_a_task_waits_too(name: str) -> None:
    import asyncio

    async def wait() -> int:
        waiting = asyncio.create_task(kin.SharedMemory.aattach(name, timeout=HANG))
        await asyncio.sleep(0)
        made = kin.SharedMemory.create(name, 100)
        with await waiting as memory:
            made.unlink()
            return memory.size

    assert asyncio.run(wait()) == 100


def test_where_no_file_can_be_without_a_name_a_hidden_one_is_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def no_tmpfile(path: Any, flags: int, *args: Any, **how: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *args, **how)

    monkeypatch.setattr(os, "open", no_tmpfile)
    with kin.SharedMemory.create(f"file:{tmp_path}/x", 100) as memory:
        assert [each.name for each in tmp_path.iterdir()] == ["x"]
        with pytest.raises(kin.AlreadyExists):
            kin.SharedMemory.create(f"file:{tmp_path}/x", 100)
        file = NamelessFile(f"{tmp_path}/x")
        with pytest.raises(FileExistsError):
            file.link()
        file.close()
        memory.unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_is_taken_says_by_whom(new_address: NewAddress, foreign_user: User) -> None:
    address = new_address("sysv-shm")
    key = int(address.partition(":")[2], 16)
    number = foreign_user.run(sysv_shm_get, key, 100, 0o1000 | 0o600)
    with pytest.raises(kin.AlreadyExists, match=f"user {foreign_user.uid} has 100 bytes"):
        kin.SharedMemory.create(address, 100)
    sysv_shm_remove(number)


def test_an_attachment_does_not_hold_up_a_thread(new_address: NewAddress) -> None:
    address = new_address("shm")
    with thread_of(kin.SharedMemory.attach, address, timeout=HANG) as call:
        made = kin.SharedMemory.create(address, mmap.PAGESIZE)
        call.result().close()
    made.unlink()
    until(lambda: not is_there(address), "the name is removed")
