"""Memory that goes to another process: by fork, kinfolk.spawn, multiprocessing, descriptors, ids."""

from __future__ import annotations

import copy
import ctypes
import multiprocessing
import pickle
import sys
from typing import Any

import pytest

import kinfolk as kin
from tests.conformance.peers import HANG, Peers, open_descriptors
from tests.unit.keepers import _the_keeper_ends, peers
from tests.unit.memories import EVERY, NewAddress, attached, is_there
from tests.unit.test_passing import stop_the_servers_of_multiprocessing

__all__ = ["_the_keeper_ends", "peers"]

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture(params=EVERY)
def address(request: pytest.FixtureRequest, new_address: NewAddress) -> str:
    return new_address(request.param)


def use(memory: kin.SharedMemory) -> tuple[int, bool, str]:
    """In a child that may have been started anew, so it must be importable."""
    with memory:
        seen = memory.buf[0]
        if not memory.read_only:
            memory.buf[1] = 8
        return seen, memory.read_only, memory.lifetime


def use_and_tell(memory: kin.SharedMemory, telling: Any) -> None:
    """Use it, and say what was seen, into a channel or a Pipe of multiprocessing."""
    telling.send(use(memory))
    telling.close()


def used_by_a_child(memory: kin.SharedMemory, **options: Any) -> tuple[int, bool, str]:
    """What a spawned child saw."""
    receiver, sender = kin.channel("pipe:")
    with receiver:
        child = kin.spawn(use_and_tell, memory, sender, **options)
        seen: tuple[int, bool, str] = receiver.recv(timeout=HANG)
        assert child.wait(HANG).success
        return seen


def use_array(memory: kin.SharedMemory, at: int) -> None:
    memory.array(100)[at] = at


@pytest.mark.parametrize("containment", ["keeper", "direct"])
def test_spawn_takes_it_along_and_it_stays_here(address: str, containment: Any) -> None:
    with kin.SharedMemory.create(address, 100) as memory:
        memory.buf[0] = 7
        for _ in range(2):  # it is shared, not moved
            assert used_by_a_child(memory, containment=containment)[:2] == (7, False)
        assert memory.buf[1] == 8


def test_several_workers_have_the_same(address: str) -> None:
    with kin.SharedMemory.create(address, 100) as memory:
        numbers = memory.array(100)
        workers = [kin.spawn(use_array, memory, at) for at in range(1, 4)]
        for worker in workers:
            assert worker.wait(HANG).success
        assert numbers[:5].tolist() == [0, 1, 2, 3, 0]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_multiprocessing_takes_it_along(address: str, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    hearing, telling = context.Pipe(duplex=False)
    try:
        with kin.SharedMemory.create(address, 100) as memory:
            memory.buf[0] = 7
            child = context.Process(target=use_and_tell, args=(memory, telling))
            child.start()
            telling.close()
            assert hearing.poll(HANG)
            assert hearing.recv()[:2] == (7, False)
            child.join(HANG)
            assert child.exitcode == 0
            assert memory.buf[1] == 8
            child.close()
    finally:
        hearing.close()
        stop_the_servers_of_multiprocessing()


@pytest.mark.parametrize("kind", ["shm", "sysv-shm", "file"])
def test_what_is_read_only_arrives_read_only(kind: str, new_address: NewAddress) -> None:
    address = new_address(kind)
    with (
        kin.SharedMemory.create(address, 100) as memory,
        kin.SharedMemory.attach(address, read_only=True) as reader,
    ):
        assert used_by_a_child(reader)[:2] == (0, True)
        assert memory.buf[1] == 0


@pytest.mark.parametrize("kind", ["shm", "sysv-shm"])
def test_on_its_way_it_is_used(kind: str, new_address: NewAddress) -> None:
    address = new_address(kind)
    memory = kin.SharedMemory.create(address, 100, lifetime="peers")
    here, there = kin.pair("unix:")
    child = kin.spawn(_until_told, memory, there)
    memory.close()
    assert is_there(address)
    here.send("go")
    assert here.recv(timeout=HANG) == "peers"
    assert child.wait(HANG).success
    here.close()
    assert not is_there(address)


def _until_told(memory: kin.SharedMemory, line: kin.Connection) -> None:
    with memory, line:
        line.recv(timeout=HANG)
        line.send(memory.lifetime)


def test_what_was_unlinked_can_be_passed_on(new_address: NewAddress) -> None:
    with kin.SharedMemory.create(new_address("shm"), 100) as memory:
        memory.buf[0] = 7
        memory.unlink()
        assert used_by_a_child(memory) == (7, False, "name")


def test_at_any_other_time_it_can_not_be_pickled(address: str) -> None:
    with kin.SharedMemory.create(address, 100) as memory:
        for copying in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(kin.UsageError, match="can't be pickled"):
                copying(memory)
    with pytest.raises(kin.Closed):
        pickle.dumps(memory)


def test_a_forked_copy_shares(address: str, peers: Peers) -> None:
    memory = kin.SharedMemory.create(address, 100)

    def write(_: Any) -> None:
        memory.buf[0] = 7
        memory.close()

    peers.fork(write).result()
    assert memory.buf[0] == 7
    memory.close()


def test_a_connection_carries_the_descriptor(peers: Peers) -> None:
    here, there = kin.pair("unix:")

    def receive(_: Any) -> int:
        here.close()
        _, numbers = there.recv_fds(timeout=HANG)
        with kin.SharedMemory.attach(f"memfd:{numbers[0]}") as memory:
            memory.buf[0] += 1
            return memory.size

    child = peers.fork(receive)
    there.close()
    with kin.SharedMemory.create("memfd:", 100) as memory:
        memory.buf[0] = 7
        here.send_fds(b"", [memory.fileno()], timeout=HANG)
        assert child.result() == 100
        assert memory.buf[0] == 8
    here.close()


def test_a_program_gets_it_by_its_number() -> None:
    script = """
import sys, kinfolk as kin
with kin.SharedMemory.attach("memfd:" + sys.argv[1]) as memory:
    memory.buf[0] += 1
"""
    with kin.SharedMemory.create("memfd:", 100) as memory:
        memory.buf[0] = 7
        argv = [sys.executable, "-c", script, str(memory.fileno())]
        assert kin.spawn(argv, pass_fds=[memory]).wait(HANG).success
        assert memory.buf[0] == 8


def test_a_program_gets_a_segment_by_its_id(peers: Peers) -> None:
    memory = kin.SharedMemory.create("sysv-shm:", 100)

    def attach(_: Any) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmat.restype = ctypes.c_void_p
        at = libc.shmat(memory.id, None, 0)
        return int(ctypes.cast(at, ctypes.POINTER(ctypes.c_ubyte))[0])

    memory.buf[0] = 7
    assert attached(memory.id) == 1
    assert peers.fork(attach).result() == 7
    memory.close()


def test_what_has_gone_on_the_way_is_said(new_address: NewAddress) -> None:
    from kinfolk.memory.shared_memory import _arrive

    memory = kin.SharedMemory.create("sysv-shm:", 100)
    make, arguments = memory._held().passable()
    memory.close()
    with pytest.raises(kin.NotFound, match="before it arrived"):
        _arrive("sysv-shm:", make, arguments)


def test_closing_gives_everything_back(address: str) -> None:
    def live() -> None:
        with kin.SharedMemory.create(address, 100) as memory:
            if not address.endswith(":"):
                kin.SharedMemory.attach(address, read_only=True).unlink()
            memory.remap()

    live()
    before = open_descriptors()
    for _ in range(3):
        live()
    assert open_descriptors() == before
