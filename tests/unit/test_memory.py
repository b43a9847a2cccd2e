"""Shared memory of every kind: one interface."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import signal
import stat
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import kinfolk as kin
from tests.conformance.peers import Peers
from tests.unit.memories import EVERY, NAMED, WITH_DESCRIPTOR, NewAddress, is_there, path_of

PAGE = mmap.PAGESIZE


@pytest.fixture(params=EVERY)
def address(request: pytest.FixtureRequest, new_address: NewAddress) -> str:
    return new_address(request.param)


@pytest.fixture(params=NAMED)
def name(request: pytest.FixtureRequest, new_address: NewAddress) -> str:
    return new_address(request.param)


@pytest.fixture
def memory(address: str) -> Iterator[kin.SharedMemory]:
    with kin.SharedMemory.create(address, 3 * PAGE + 5) as made:
        yield made


# ── making ───────────────────────────────────────────────────────────────────────────────────


def test_it_is_zeroed_and_as_large_as_was_asked(memory: kin.SharedMemory) -> None:
    assert memory.size == len(memory.buf) == 3 * PAGE + 5
    assert bytes(memory.buf) == bytes(memory.size)
    assert not memory.read_only
    assert not memory.closed


def test_it_is_of_several_processes(memory: kin.SharedMemory, peers: Peers) -> None:
    def write(_: Any) -> None:
        memory.buf[:5] = b"child"

    peers.fork(write).result()
    assert bytes(memory.buf[:5]) == b"child"


def test_a_name_leads_to_the_same_memory(name: str, peers: Peers) -> None:
    memory = kin.SharedMemory.create(name, 100)
    memory.buf[:3] = b"one"

    def attach(_: Any) -> tuple[bytes, int]:
        with kin.SharedMemory.attach(name) as other:
            other.buf[3:6] = b"two"
            return bytes(other.buf[:3]), other.size

    assert peers.fork(attach).result() == (b"one", 100)
    assert bytes(memory.buf[:6]) == b"onetwo"
    memory.unlink()


def test_a_name_that_is_taken_is_left_as_it_is(name: str) -> None:
    with kin.SharedMemory.create(name, 100) as memory:
        memory.buf[0] = 7
        with pytest.raises(kin.AlreadyExists, match="100 bytes") as caught:
            kin.SharedMemory.create(name, 200)
        assert isinstance(caught.value, FileExistsError)
        assert (memory.buf[0], memory.size) == (7, 100)
        memory.unlink()


def test_a_name_that_is_not_there_is_not_found(name: str) -> None:
    with pytest.raises(kin.NotFound, match="no such memory") as caught:
        kin.SharedMemory.attach(name)
    assert isinstance(caught.value, FileNotFoundError)


def test_without_a_name_it_is_a_memfd() -> None:
    with kin.SharedMemory.create(size=10) as memory:
        assert memory.address == "memfd:"
        assert os.readlink(f"/proc/self/fd/{memory.fileno()}").startswith("/memfd:kinfolk")
    with kin.SharedMemory.create("memfd:frames", 10) as memory:
        assert os.readlink(f"/proc/self/fd/{memory.fileno()}").startswith("/memfd:frames")


def test_options_stand_in_the_address_or_in_the_call(new_address: NewAddress) -> None:
    address = new_address("shm")
    with kin.SharedMemory.create(f"{address}?size=64K&mode=0640") as memory:
        assert (memory.size, memory.mode) == (65536, 0o640)
        assert memory.address == address
        with pytest.raises(kin.AddressError, match="given twice"):
            kin.SharedMemory.attach(f"{address}?size=64K", size=5)
        with pytest.raises(kin.AddressError, match="takes no option 'mode'"):
            kin.SharedMemory.attach(f"{address}?mode=0640")
        memory.unlink()


def test_text_is_a_size() -> None:
    with kin.SharedMemory.create("memfd:", "1.5K") as memory:
        assert memory.size == 1536


def test_a_key_is_also_made_of_a_file(tmp_path: Any) -> None:
    path = tmp_path / "source"
    path.touch()
    with kin.SharedMemory.create(f"sysv-shm:{path}#7", 100) as memory:
        with kin.SharedMemory.attach(f"sysv-shm:{path}#7") as other:
            assert other.id == memory.id
        memory.unlink()


# ── looking into it ──────────────────────────────────────────────────────────────────────────


def test_an_array_copies_nothing(memory: kin.SharedMemory) -> None:
    numbers = memory.array((4, 5), "<i4", offset=8)
    numbers[:] = np.arange(20).reshape(4, 5)
    assert bytes(memory.buf[8:88]) == np.arange(20, dtype="<i4").tobytes()
    assert memory.array(3).tolist() == [0, 0, 0]
    assert memory.array((), "f8").shape == ()
    assert memory.array((0, 3), "f8").size == 0


@pytest.mark.parametrize(
    ("shape", "dtype", "offset", "why"),
    [
        (3 * PAGE + 6, "u1", 0, "and there are"),
        (1, "u1", 3 * PAGE + 5, "and there are"),
        ((2**40, 2**40), "f8", 0, "and there are"),
        ((-1,), "u1", 0, "negative length"),
        (1, "u1", -1, "negative"),
        (1, "f8", 4, "no multiple of 8"),
        (1, "O", 0, "Python objects"),
        (1, "nonsense", 0, "nonsense"),
        ("ab", "u1", 0, "interpreted as an integer"),
        (1, "u1", 0.5, "interpreted as an integer"),
        ((0, 2**70), "u1", 0, "no such array"),
        ((0, 2**62, 8), "u1", 0, "no such array"),
        ((1,) * 70, "u1", 0, "no such array"),
        (1, "9" * 5000, 0, "no such array"),
        (1, "(((((", 0, "no such array"),
        (1, {"names": 5}, 0, "no such array"),
        (1, [("a", "u1"), ("a", "u1")], 0, "no such array"),
        (1, "u1", 2**70, "and there are"),
        (1, "u1", None, "interpreted as an integer"),
        (None, "u1", 0, "interpreted as an integer"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(
    memory: kin.SharedMemory, shape: Any, dtype: Any, offset: Any, why: str
) -> None:
    with pytest.raises(kin.InvalidValue, match=why):
        memory.array(shape, dtype, offset)


def test_a_record_is_laid_out_as_in_c(memory: kin.SharedMemory) -> None:
    record = memory.struct({"count": "q", "name": "13s", "position": "3d"}, offset=16)
    record.count, record.name, record.position = -3, b"kin", (0.5, 1.5, 2.5)
    assert int.from_bytes(memory.buf[16:24], "little", signed=True) == -3
    assert bytes(memory.buf[24:28]) == b"kin\0"
    assert memory.array(3, "f8", 40).tolist() == [0.5, 1.5, 2.5]


def test_read_only_is_really_read_only(name: str) -> None:
    memory = kin.SharedMemory.create(name, 100)
    with kin.SharedMemory.attach(name, read_only=True) as other:
        assert other.read_only
        with pytest.raises(TypeError):
            other.buf[0] = 1
        numbers = other.array(3)
        with pytest.raises(ValueError, match="read-only"):
            numbers[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            numbers.flags.writeable = True
        with pytest.raises(ValueError, match="read-only"):
            np.ndarray(3, "u1", other.buf)[0] = 1
        with pytest.raises(kin.Unsupported, match="read-only"):
            other.struct({"n": "q"}).n = 1
        with pytest.raises(TypeError):
            ctypes.c_char.from_buffer(other.buf)
        memory.buf[0] = 9
        assert other.buf[0] == 9
    memory.unlink()


def test_the_pages_of_a_read_only_attachment_can_not_be_written(name: str, peers: Peers) -> None:
    """The kernel's word: a write past Python is a SIGSEGV, so that Python is not all that stands before it."""
    memory = kin.SharedMemory.create(name, 100)

    def write(_: Any) -> None:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        other = kin.SharedMemory.attach(name, read_only=True)
        where = np.frombuffer(other.buf, "u1").ctypes.data
        ctypes.memset(where, 1, 1)

    peer = peers.fork(write)
    assert peer.wait() == -signal.SIGSEGV
    assert memory.buf[0] == 0
    memory.unlink()


def test_what_is_private_nobody_else_sees(new_address: NewAddress) -> None:
    for kind in ("shm", "file"):
        address = new_address(kind)
        memory = kin.SharedMemory.create(address, 2 * PAGE)
        with kin.SharedMemory.attach(address, private=True) as own:
            memory.buf[0] = 1
            own.buf[PAGE] = 2
            assert (own.buf[0], own.buf[PAGE], memory.buf[PAGE]) == (1, 2, 0)
            with pytest.raises(kin.Unsupported, match="kept nowhere"):
                own.flush()
            with pytest.raises(kin.Unsupported, match="private copy"):
                own.resize(3 * PAGE)
        memory.unlink()
    with pytest.raises(kin.UsageError, match="exclude"):
        kin.SharedMemory.attach(new_address("shm"), private=True, read_only=True)
    with pytest.raises(kin.AddressError, match="can't be private"):
        kin.SharedMemory.attach(new_address("sysv-shm"), private=True)


# ── changing it ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", WITH_DESCRIPTOR)
def test_it_grows(kind: str, new_address: NewAddress) -> None:
    with kin.SharedMemory.create(new_address(kind), 100) as memory:
        memory.buf[99] = 7
        before = memory.array(100)
        memory.resize("20K")
        assert (memory.size, memory.buf[99], memory.buf[100], len(before)) == (20480, 7, 0, 100)
        before[0] = 3  # what was mapped before is the same memory
        memory.buf[1] = 4
        assert (memory.buf[0], before[1]) == (3, 4)
        memory.resize(20480)
        with pytest.raises(kin.Unsupported, match="SIGBUS"):
            memory.resize(100)
        for size in (0, -1, "huge", None, 2**70):
            with pytest.raises(kin.InvalidValue, match="makes no sense"):
                memory.resize(size)  # type: ignore[arg-type]


def test_others_map_what_was_added(new_address: NewAddress) -> None:
    address = new_address("shm")
    with (
        kin.SharedMemory.create(address, 100) as memory,
        kin.SharedMemory.attach(address) as other,
        kin.SharedMemory.attach(address, read_only=True) as reader,
    ):
        memory.resize(5000)
        memory.buf[4999] = 8
        assert (other.size, len(other.buf)) == (100, 100)
        assert other.remap() == 5000
        assert other.buf[4999] == 8
        assert reader.remap() == reader.size == 5000
        assert reader.buf[4999] == 8
        assert reader.remap() == 5000
        with pytest.raises(kin.Unsupported, match="read-only"):
            reader.resize(9000)
        other.resize(6000)  # to less than somebody else has made of it meanwhile
        memory.resize(9000)
        other.resize(7000)
        assert other.size == 9000
        memory.unlink()


@pytest.mark.parametrize("kind", ["sysv-shm", "sysv-shm without a key"])
def test_a_system_v_segment_keeps_its_size(kind: str, new_address: NewAddress) -> None:
    with kin.SharedMemory.create(new_address(kind), 100) as memory:
        with pytest.raises(kin.Unsupported, match="keeps its size"):
            memory.resize(200)
        assert memory.remap() == 100


def test_permissions_are_those_that_were_asked_for(address: str) -> None:
    before = os.umask(0)
    try:
        with kin.SharedMemory.create(address, 100) as memory:
            assert memory.mode == 0o600
            memory.chmod("0640")
            assert memory.mode == 0o640
            for mode in (0o1000, -1, "rw", None):
                with pytest.raises(kin.InvalidValue, match="makes no sense"):
                    memory.chmod(mode)  # type: ignore[arg-type]
            _unlink(memory)
        os.umask(0o777)
        with kin.SharedMemory.create(address, 100, mode=0o664) as memory:
            assert memory.mode == 0o664
    finally:
        os.umask(before)


def test_a_file_is_kept(new_address: NewAddress) -> None:
    address = new_address("file")
    path = path_of(address)
    assert path is not None
    with kin.SharedMemory.create(address, 3 * PAGE) as memory:
        memory.buf[PAGE + 1] = 5
        memory.flush()
        memory.flush(PAGE + 1, 1)
        memory.flush(3 * PAGE)
        assert path.read_bytes()[PAGE + 1] == 5
        for offset, size in ((-1, 1), (0, -1), (0, 3 * PAGE + 1), (3 * PAGE + 1, None)):
            with pytest.raises(kin.InvalidValue, match="not in it"):
                memory.flush(offset, size)
        for wrong in ("", 1.5, b"x", []):
            with pytest.raises(kin.InvalidValue, match="make no sense"):
                memory.flush(wrong)  # type: ignore[arg-type]
            with pytest.raises(kin.InvalidValue, match="make no sense"):
                memory.flush(0, wrong)  # type: ignore[arg-type]
        with pytest.raises(kin.InvalidValue, match="make no sense"):
            memory.flush(None)  # type: ignore[arg-type]
    with kin.SharedMemory.attach(address) as memory:
        assert memory.buf[PAGE + 1] == 5
        memory.unlink()
    assert not path.exists()


def test_memory_has_nowhere_to_be_flushed_to(memory: kin.SharedMemory) -> None:
    memory.buf[0] = 1
    memory.flush()


def test_any_file_can_be_looked_into(tmp_path: Any) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"hello, kin")
    path.chmod(0o444)
    with kin.SharedMemory.attach(f"file:{path}", read_only=True) as memory:
        assert bytes(memory.buf) == b"hello, kin"


def test_a_relative_path_is_of_the_directory_of_then(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with kin.SharedMemory.create("file:here", 10) as memory:
        monkeypatch.chdir("/")
        memory.unlink()
    assert not (tmp_path / "here").exists()


def test_unlinking_takes_it_from_nobody(name: str) -> None:
    with kin.SharedMemory.create(name, 100) as memory, kin.SharedMemory.attach(name) as other:
        memory.unlink()
        assert not is_there(name)
        memory.buf[0] = 3
        assert other.buf[0] == 3
        with pytest.raises(kin.NotFound):
            other.unlink()
        with kin.SharedMemory.create(name, 200) as another:
            with pytest.raises(kin.NotFound):  # this name is not its own any more
                memory.unlink()
            assert is_there(name)
            another.unlink()


@pytest.mark.parametrize("kind", ["memfd", "sysv-shm without a key"])
def test_without_a_name_there_is_none_to_remove(kind: str, new_address: NewAddress) -> None:
    with (
        kin.SharedMemory.create(new_address(kind), 100) as memory,
        pytest.raises(kin.Unsupported, match="close it"),
    ):
        memory.unlink()


# ── the end ──────────────────────────────────────────────────────────────────────────────────

LOOKS: list[Any] = [
    lambda memory: memory.buf,
    lambda memory: memory.buf[3:5],
    lambda memory: memory.array(3),
    lambda memory: memory.array((2, 2), "f4")[1:].T,
    lambda memory: np.frombuffer(memory.buf, "u1"),
    lambda memory: np.ndarray(
        3, "u1", memory.buf
    ),  # of a buffer, this keeps the object and no export
    lambda memory: memory.struct({"n": "q"}),
    lambda memory: memory.struct({"n": "q"}, count=2)[1],
]


@pytest.mark.parametrize("look", LOOKS)
def test_closing_under_what_looks_into_it_raises(memory: kin.SharedMemory, look: Any) -> None:
    looking = look(memory)
    with pytest.raises(kin.StillInUse, match="still looks into it") as caught:
        memory.close()
    assert isinstance(caught.value, BufferError)
    assert not memory.closed
    memory.buf[0] = 1  # nothing has happened to it
    del looking
    memory.close()
    memory.close()
    assert memory.closed


@pytest.mark.parametrize("look", LOOKS)
def test_what_looks_into_it_keeps_it_mapped(address: str, look: Any) -> None:
    with kin.SharedMemory.create(address, 100) as memory:
        memory.buf[:] = b"x" * 100
        looking = look(memory)
    assert memory.closed
    del memory
    gc.collect()
    seen = looking if isinstance(looking, kin.Record) else bytes(memoryview(looking))
    assert "x" in repr(seen) or "8680820740569200760" in repr(seen)


def test_garbage_does_not_count(memory: kin.SharedMemory) -> None:
    circle: list[Any] = [memory.array(3)]
    circle.append(circle)
    del circle
    memory.close()


def test_what_was_mapped_before_it_grew_counts() -> None:
    memory = kin.SharedMemory.create("memfd:", 100)
    before = memory.array(3)
    memory.resize(5000)
    with pytest.raises(kin.StillInUse):
        memory.close()
    del before
    memory.close()


def test_what_is_closed_says_so(memory: kin.SharedMemory) -> None:
    memory.close()
    uses: list[Any] = [
        lambda: memory.buf,
        lambda: memory.array(3),
        lambda: memory.struct({"n": "q"}),
        lambda: memory.resize(10),
        memory.remap,
        lambda: memory.chmod(0o600),
        lambda: memory.mode,
        lambda: memory.id,
        lambda: memory.read_only,
        lambda: memory.lifetime,
        memory.fileno,
        memory.flush,
        memory.unlink,
        memory.__enter__,
    ]
    for use in uses:
        with pytest.raises(kin.Closed, match="this memory is closed"):
            use()
    assert repr(memory).endswith(" closed>")
    assert memory.size == 3 * PAGE + 5


def test_descriptors_and_ids(memory: kin.SharedMemory) -> None:
    if memory.address.startswith("sysv"):
        assert memory.id >= 0
        with pytest.raises(kin.Unsupported, match="pass its id"):
            memory.fileno()
    else:
        assert stat.S_ISREG(os.fstat(memory.fileno()).st_mode)
        assert not os.get_inheritable(memory.fileno())
        with pytest.raises(kin.Unsupported, match="only System V"):
            memory.id  # noqa: B018


def _unlink(memory: kin.SharedMemory) -> None:
    if not memory.address.endswith(":"):
        memory.unlink()
