"""A C program takes the same mutex: compiled as its user would, and under the sanitizers (see mutex_peer.c)."""

from __future__ import annotations

import shutil
import signal
import struct
import subprocess
from pathlib import Path

import pytest

import kinfolk as kin
from tests.c_compiler import NATIVE, SANITIZERS
from tests.conformance.fixtures import peers as peers
from tests.conformance.peers import HANG, state, until

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TURNS = 3000
NUMBERS = struct.Struct("qq")


def installed_flags() -> list[str] | None:
    """What pkg-config says of the installed package; None in a source tree."""
    directory = Path(kin.__path__[0]) / "lib" / "pkgconfig"
    if not directory.exists():
        return None
    if shutil.which("pkg-config") is None:
        return [f"-I{directory.parent.parent}/include", f"-L{directory.parent}", "-lkinfolk"]
    command = ["pkg-config", "--cflags", "--libs", "kinfolk"]
    done = subprocess.run(
        command,
        env={"PKG_CONFIG_PATH": str(directory), "PATH": "/usr/local/bin:/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.split()


def as_its_user(compiler, program, source, library, flags):
    """Compile what asks for the public header alone, with objects of the library, or without any, with the installed one."""
    include = [ROOT / "include"]
    if not library:
        found = installed_flags()
        if found is None:
            pytest.skip("needs an installed kinfolk, with its library")
        include = [Path(flag[2:]) for flag in found if flag.startswith("-I")]
        library = [flag for flag in found if not flag.startswith("-I")]
    return compiler.program(program, [source], *flags, include=include, libraries=library)


@pytest.fixture(scope="module")
def peer_program(c_compiler, tmp_path_factory):
    directory = tmp_path_factory.mktemp("mutex_peer")

    def compile_to(how):
        flags, library = SANITIZERS.get(how, ()), []
        if how != "installed":
            stems = ("mutex", "mutex_wait", "robust", "sync_object")
            library = c_compiler.objects([NATIVE / f"{stem}.c" for stem in stems], *flags)
        return as_its_user(c_compiler, directory / how, HERE / "mutex_peer.c", library, flags)

    return compile_to


@pytest.fixture
def memory(unique_name):
    made = kin.SharedMemory.create(f"shm:/{unique_name}", 4096)
    yield made
    made.unlink()
    made.close()


def path_of(memory: kin.SharedMemory) -> str:
    return f"/dev/shm/{memory.address.removeprefix('shm:/')}"


def turn(mutex: kin.Mutex, memory: kin.SharedMemory) -> bool:
    with mutex as held:
        first, second = NUMBERS.unpack_from(memory.buf, kin.Mutex.SIZE)
        assert held.owner_died or first == second
        NUMBERS.pack_into(memory.buf, kin.Mutex.SIZE, first + 1, first + 1)
        return held.owner_died


HOW = pytest.mark.parametrize("how", ["plain", "address", "installed"])


@HOW
@pytest.mark.parametrize("first", ["python", "c"])
def test_both_take_turns(how, first, memory, peer_program):
    command = [peer_program(how), path_of(memory), "turns", str(TURNS)]
    if first == "c":  # it makes the mutex
        subprocess.run([*command[:-1], "0"], check=True, timeout=HANG)
    mutex = kin.Mutex.inside(memory)
    peers = [subprocess.Popen(command) for _ in range(2)]
    for _ in range(TURNS):
        turn(mutex, memory)
    assert [peer.wait(HANG) for peer in peers] == [0, 0]
    assert NUMBERS.unpack_from(memory.buf, kin.Mutex.SIZE) == (3 * TURNS, 3 * TURNS)
    mutex.close()


@HOW
def test_each_is_told_that_the_other_died(how, memory, peer_program, peers):
    program = peer_program(how)
    mutex = kin.Mutex.inside(memory)
    done = subprocess.run([program, path_of(memory), "dies"], check=False, timeout=HANG)
    assert done.returncode == -signal.SIGKILL
    assert turn(mutex, memory)
    assert not turn(mutex, memory)

    def dies(voice) -> None:
        mutex.acquire()
        voice.say()
        signal.pause()

    holder = peers.fork(dies)
    holder.hear()
    with subprocess.Popen(
        [program, path_of(memory), "waits"], stdout=subprocess.PIPE, text=True
    ) as waiter:
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == "waiting\n"
        until(lambda: state(waiter.pid) == "S", "the C program asleep")
        holder.kill()
        assert waiter.stdout.readline() == "its owner died\n"
    mutex.close()
