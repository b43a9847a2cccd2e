"""A C program at one end of a ring, Python at the other: compiled as its user would, and under the sanitizers (see ring_peer.c)."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import struct
import subprocess
from pathlib import Path

import pytest

import kinfolk as kin
from tests.c_compiler import NATIVE, SANITIZERS
from tests.conformance.peers import HANG, readable, state, until
from tests.native.test_mutex_peer import as_its_user
from tests.native.test_ring import SOURCES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COUNT = 300
SIZES = "capacity=4096&arena=256K"

OF_PEERS = ("names", "presence", "error", "channel", "opening", "sending", "receiving")
HOW = pytest.mark.parametrize("how", ["plain", "address", "installed"])


@pytest.fixture(scope="module")
def compiled(c_compiler, tmp_path_factory):
    directory = tmp_path_factory.mktemp("ring_peer")

    def compile_to(source, how):
        flags, library = SANITIZERS.get(how, ()), []
        if how != "installed":
            stems = [*SOURCES, *(f"peer_{part}" for part in OF_PEERS)]
            library = c_compiler.objects([NATIVE / f"{stem}.c" for stem in stems], *flags)
        return as_its_user(c_compiler, directory / f"{source.stem}-{how}", source, library, flags)

    return compile_to


@pytest.fixture
def peer(compiled, name):
    """Start one: `peer(how, what, count)`. What still runs at the end is killed."""
    with contextlib.ExitStack() as stack:

        def start(how, what, count=COUNT, **options):
            command = [compiled(HERE / "ring_peer.c", how), what, f"ring:{name}", str(count)]
            return stack.enter_context(started(command, **options))

        yield start


@contextlib.contextmanager
def started(command, **options):
    environment = {**os.environ, "TSAN_OPTIONS": "detect_deadlocks=0"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, **options
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def name(unique_name):
    yield unique_name
    for made in (f"ring-{unique_name}", f"memory-of-ring-{unique_name}"):
        assert not (Path(f"/dev/shm/kinfolk-{os.geteuid()}") / made).exists(), "left behind"


def length_of(number):
    return 8 + number * 7919 % (60000 if number % 5 == 0 else 900)


def message(number):
    return struct.pack("Q", number) + bytes([number & 255]) * (length_of(number) - 8)


def checked(body):
    (number,) = struct.unpack_from("Q", body)
    assert bytes(body) == message(number)
    return number


def ended(process):
    """What it said, if it ended well."""
    said, _ = process.communicate(timeout=HANG)
    assert process.returncode == 0
    return said


def is_all_free(sender):
    """Whether half of the arena can be had twice: once the dead were looked for, which is when there is no room."""
    half = sender.limits.max_message
    for _ in range(2):
        try:
            with sender.reserve(half, timeout=0), sender.reserve(half, timeout=0):
                raise InterruptedError
        except kin.Timeout:
            pass
        except InterruptedError:
            return True
    return False


# ── both directions ──────────────────────────────────────────────────────────────────────────


@HOW
def test_python_receives(how, peer, name):
    process = peer(how, "send")
    with kin.open_receiver(f"ring:{name}?{SIZES}", timeout=HANG) as receiver:
        numbers = [checked(body) for body in receiver]
    assert numbers == list(range(COUNT))
    ended(process)


@HOW
def test_python_sends(how, peer, name):
    process = peer(how, "recv")
    assert process.stdout.readline() == "open\n"
    with kin.open_sender(f"ring:{name}", timeout=HANG) as sender:
        for number in range(COUNT):
            sender.send_bytes(message(number), timeout=HANG)
    assert ended(process) == f"{COUNT}\n"


def test_the_descriptor_tells_of_what_the_c_program_sends(peer, name):
    with kin.open_receiver(f"ring:{name}?{SIZES}", timeout=HANG) as receiver:
        assert not readable(receiver.fileno(), 0)
        process = peer("plain", "send", 1)
        assert readable(receiver.fileno())
        assert checked(receiver.recv(timeout=HANG)) == 0  # it may speak a moment before
        ended(process)


def test_messages_that_are_acknowledged(peer, name):
    with kin.open_receiver(f"ring:{name}?{SIZES}&acknowledge=yes", timeout=HANG) as receiver:
        process = peer("plain", "send")
        assert ended(peer("plain", "try")).startswith("messages of this ring have to be ack")
        for number in range(COUNT):
            with receiver.recv_message(timeout=HANG) as message_:
                assert checked(message_.object) == number
                del message_
        ended(process)


@HOW
def test_both_are_receivers(how, peer, name):
    """Each message comes to one of them; who began is not asked."""
    with kin.open_receiver(f"ring:{name}?{SIZES}", timeout=HANG) as receiver:
        others = [peer(how, "recv") for _ in range(2)]
        assert [other.stdout.readline() for other in others] == ["open\n"] * 2
        with kin.open_sender(f"ring:{name}"):  # or it may end before the second has come
            senders = [peer(how, "send") for _ in range(2)]
            assert [sender.stdout.readline() for sender in senders] == ["open\n"] * 2
        numbers = [checked(body) for body in receiver]
        for sender in senders:
            ended(sender)
    assert len(numbers) + sum(int(ended(other)) for other in others) == 2 * COUNT


def test_kinds_are_told(peer, name, compiled):
    receiver = [compiled(ROOT / "examples" / "ring_receiver.c", "address"), f"ring:{name}"]
    with started(receiver) as process:
        with kin.open_sender(f"ring:{name}", codec="json", timeout=HANG) as sender:
            sender.send({"any": "thing"})
            sender.send_bytes(b"x" * 9)
            sender.send_bytes(b"x" * 900_000)
        assert ended(process) == '{"any":"thing"}\n9 bytes\n900000 bytes, in place\n'


@pytest.mark.parametrize("size", [1, 40_000, 2_000_000])
def test_what_is_built_in_place_is_looked_at_in_place(name, compiled, size):
    sender = [compiled(ROOT / "examples" / "ring_sender.c", "address"), f"ring:{name}", "5"]
    with started([*sender, str(size)]) as process:
        with kin.open_receiver(f"ring:{name}", timeout=HANG) as receiver:
            for number in range(5):
                frame = receiver.recv(timeout=HANG)
                assert frame == bytes([number]) * size
                del frame
            with pytest.raises(kin.EndOfChannel):
                receiver.recv(timeout=HANG)
        ended(process)


# ── within one program ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", SANITIZERS)
def test_threads(how, peer):
    assert ended(peer(how, "threads")) == f"{COUNT}\n"


@pytest.mark.parametrize("how", ["plain", "address"])
def test_all_threads_are_told_of_the_end(how, peer):
    """Also that one who slept before another has found it."""
    assert ended(peer(how, "ends", 500)) == "1000\n"


@pytest.mark.parametrize("how", SANITIZERS)
def test_a_close_ends_the_wait_of_another_thread(how, peer):
    process = peer(how, "close", stdin=subprocess.PIPE)
    assert process.stdout.readline() == "waiting\n"
    tasks = f"/proc/{process.pid}/task"
    until(lambda: all(state(process.pid, int(task)) == "S" for task in os.listdir(tasks)), "asleep")
    said, _ = process.communicate("\n", timeout=HANG)
    assert (process.returncode, said) == (0, "1\n")


def test_opened_and_closed_often(peer):
    assert ended(peer("address", "cycles", 500)) == "0\n"


# ── ends, and deaths ─────────────────────────────────────────────────────────────────────────


def test_a_forked_child_sends_too(peer, name):
    process = peer("plain", "fork")
    with kin.open_receiver(f"ring:{name}?{SIZES}", timeout=HANG) as receiver:
        assert [checked(body) for body in receiver] == list(range(COUNT))
    ended(process)


def test_what_is_wrong_is_said(peer, name):
    assert ended(peer("plain", "try")) == "the time is up\n"
    Path(f"/dev/shm/kinfolk-{os.geteuid()}").mkdir(0o700, exist_ok=True)
    lies = Path(f"/dev/shm/kinfolk-{os.geteuid()}/ring-{name}")
    lies.write_text("a file")
    assert ended(peer("plain", "try")).startswith("this is no address of a ring")
    lies.unlink()


@HOW
def test_what_makes_no_sense_is_refused(how, peer):
    refused = "this end does not do that, or the room is not its own, or not any more"
    nothing, no_time, *rest = ended(peer(how, "wrong")).splitlines()
    assert nothing == "0"
    assert "a deadline on CLOCK_MONOTONIC" in no_time
    assert rest == [refused] * 3


def test_a_memory_that_others_may_write_is_refused(peer, name):
    with kin.open_receiver(f"ring:{name}"):
        memory = Path(f"/dev/shm/kinfolk-{os.geteuid()}/memory-of-ring-{name}")
        memory.chmod(0o602)
        assert "others may write there" in ended(peer("plain", "try"))
        memory.chmod(0o600)


def test_an_overwritten_ring_is_refused(peer, name):
    with kin.open_receiver(f"ring:{name}?{SIZES}"):
        memory = Path(f"/dev/shm/kinfolk-{os.geteuid()}/memory-of-ring-{name}")
        with memory.open("r+b") as file:
            file.seek(136)
            file.write(struct.pack("<Q", 12345))
        assert "is no ring" in ended(peer("plain", "try"))


def test_python_is_told_that_the_c_program_was_killed(peer, name):
    with kin.open_receiver(f"ring:{name}?{SIZES}", timeout=HANG) as receiver:
        process = peer("plain", "reserve")
        assert process.stdout.readline() == "reserved\n"
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0)
        process.kill()
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)


def test_the_c_program_is_told_that_python_was_killed(peer, name):
    process = peer("plain", "recv")
    assert process.stdout.readline() == "open\n"
    pid = os.fork()
    if pid == 0:
        try:
            sender = kin.open_sender(f"ring:{name}", timeout=HANG)
            sender.send_bytes(message(1))
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert ended(process) == "1\n"


@pytest.mark.parametrize("what", ["hold", "reserve"])
def test_blocks_of_a_killed_c_program_come_back(what, peer, name):
    with (
        kin.open_receiver(f"ring:{name}?{SIZES}", timeout=HANG) as receiver,
        kin.open_sender(f"ring:{name}") as sender,
    ):
        if what == "hold":
            sender.send_bytes(message(5))
        process = peer("plain", what)
        assert process.stdout.readline() == {"hold": "in place\n", "reserve": "reserved\n"}[what]
        with pytest.raises(kin.Timeout), sender.reserve(sender.limits.max_message, timeout=0):
            with sender.reserve(sender.limits.max_message, timeout=0):
                pass
        with contextlib.suppress(kin.Timeout):
            receiver.recv_bytes(timeout=0)
        process.kill()
        process.wait()
        assert is_all_free(sender)


def test_a_message_outlives_its_end(peer, name):
    with kin.open_receiver(f"ring:{name}?{SIZES}"), kin.open_sender(f"ring:{name}") as sender:
        sender.send_bytes(message(5))
        assert ended(peer("address", "keep")) == "in place\n"
        gc.collect()
        assert is_all_free(sender)
