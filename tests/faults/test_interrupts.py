"""A KeyboardInterrupt at any instruction of a call, as Ctrl-C raises it: never two messages mixed, nor half of one."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.processes.felling import children_of
from kinfolk.processes.keeping import keeping
from tests.conformance.peers import HANG, Call, until
from tests.faults.test_interrupted_waits import in_finalizer

OURS = os.path.dirname(kin.__file__)

MIB = 1 << 20


class Interrupt(KeyboardInterrupt):
    """Not pytest's."""


def afterwards(end: kin.Sender | kin.Receiver, long: bytes) -> str:
    """Go on after an interrupt; empty, or the error that says why not."""
    try:
        if isinstance(end, kin.Sender):
            end.send_bytes(b"after" * MIB, timeout=HANG)
        else:
            assert end.recv_bytes(timeout=HANG) == long
    except (kin.BrokenChannel, kin.CorruptChannel) as error:
        return str(error)
    return ""


class Blow:
    """An interrupt at one of the points at which Python looks for signals."""

    #: such points that were passed
    passed = 0


@contextmanager
def struck_at(point: int) -> Iterator[Blow]:
    """Raise an Interrupt at that point of kinfolk's code: where a function begins, or one in C has returned. Not in finalizers,
    where nobody hears of it.
    """
    blow = Blow()

    def look(frame: FrameType, event: str, _: object) -> None:
        ours = frame.f_code.co_filename.startswith(OURS) and event in ("call", "c_return")
        if ours and not in_finalizer(frame):
            blow.passed += 1
            if blow.passed == point:
                raise Interrupt

    sys.setprofile(look)
    try:
        yield blow
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("address", ["pipe:?senders=one", "pipe:", "unix:"])
@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_interrupts_in_long_messages_never_mix_two(address: str, side: str) -> None:
    """Wherever a KeyboardInterrupt strikes: what is received was sent, or the end says that it is torn."""

    def interrupt(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGVTALRM, interrupt)
    outcomes: list[str] = []
    try:
        for number in range(25):
            receiver, sender = kin.channel(address, codec="raw")
            with receiver, sender:
                long = bytes([number]) * (2 * MIB)

                def peer(
                    receiver: Any = receiver, sender: Any = sender, long: bytes = long
                ) -> list[bytes]:
                    got = []
                    try:
                        if side == "sender":
                            while True:
                                got.append(receiver.recv_bytes(timeout=HANG))
                        while True:
                            sender.send_bytes(long, timeout=HANG)
                    except (kin.EndOfChannel, kin.BrokenChannel, kin.Closed):
                        return got

                call = Call(peer)
                try:
                    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0002 + number * 0.0002)
                    while True:
                        if side == "sender":
                            sender.send_bytes(long)
                        else:
                            assert receiver.recv_bytes() == long
                except Interrupt:
                    pass
                finally:
                    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                outcomes.append(afterwards(sender if side == "sender" else receiver, long))
                (sender if side == "sender" else receiver).close()
                assert set(call.result()) <= {long, b"after" * MIB}
    finally:
        signal.signal(signal.SIGVTALRM, before)
    if (
        address != "unix:"
    ):  # where nearly all the time is spent in system calls whose outcome an interrupt takes away
        assert "" in outcomes
    # or the message in flight is lost, and the stream goes on
    said = ("torn", "ended after", "left in the middle", "do not add up")
    assert all(any(word in outcome for word in said) for outcome in outcomes if outcome), outcomes


@pytest.mark.parametrize("address", ["pipe:?capacity=1MiB", "pipe:?capacity=1MiB&senders=one"])
def test_an_interrupt_anywhere_in_receiving_leaves_no_descriptor(address: str) -> None:
    """Of whoever has sent a part of a message, a pidfd is open until the rest of it is here."""
    before = Counter(descriptors())
    for point in itertools.count(1):
        receiver, sender = kin.channel(address, codec="raw")
        with receiver, sender:
            sender.send_bytes(b"long" * 20_000)
            with suppress(Interrupt), struck_at(point) as blow:
                receiver.recv_bytes()
        assert Counter(descriptors()) == before, point
        if blow.passed < point:
            break
    assert point > 50


def lock(path: Path) -> None:
    with kin.FileLock(path):
        pass


def memory(_: Path) -> None:
    with kin.SharedMemory.create("memfd:", 4096):
        pass


def ring_in_a_file(path: Path) -> None:
    kin.open_receiver(f"file:{path}").close()


def channel_of(address: str) -> Callable[[Path], None]:
    def make(_: Path) -> None:
        receiver, sender = kin.channel(address)
        sender.close()
        receiver.close()

    return make


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    "make",
    [lock, memory, ring_in_a_file, *map(channel_of, ("pipe:", "unix:", "ring:"))],
    ids=["lock", "memory", "file:", "pipe:", "unix:", "ring:"],
)
def test_an_interrupt_anywhere_in_making_leaves_no_descriptor(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    """What was opened has an owner at once (`kinfolk.descriptors.Descriptor.opened`)."""
    make(tmp_path / "before")
    before = Counter(descriptors())
    for point in itertools.count(1):
        with suppress(Interrupt), struck_at(point) as blow:
            make(tmp_path / str(point))
        gc.collect()
        assert Counter(descriptors()) == before, point
        if blow.passed < point:
            break
    assert point > 50


def descriptors() -> list[str]:
    """What this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the directory's own
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return found


@pytest.mark.parametrize(
    ("containment", "what"), [("keeper", "program"), ("keeper", "function"), ("direct", "program")]
)
def test_an_interrupt_anywhere_in_a_start_leaves_no_child(containment: str, what: str) -> None:
    """In a process of its own, for an interrupt between a system call and its caller may cost two descriptors."""
    call = f"from {__name__} import interrupt_starts; interrupt_starts({containment!r}, {what!r})"
    subprocess.run([sys.executable, "-W", "ignore", "-c", call], check=True, timeout=2 * HANG)


def interrupt_starts(containment: Any, what: str) -> None:
    """Python looks for Ctrl-C where a function begins and where one in C has returned: whoever has no Process has no child,
    and it makes no difference that somebody keeps the traceback, as the prompt does, and so all that stands in its frames.
    """
    program: Any = ["sleep", "1000"] if what == "program" else signal.pause
    kept: list[BaseException] = []
    with kin.spawn(program, containment=containment):  # the keeper runs by now
        parent = keeping().keeper_pid if containment == "keeper" else os.getpid()
    assert parent is not None
    before = set(children_of(parent))

    def started() -> kin.Process | None:
        try:
            return kin.spawn(program, containment=containment)
        except Interrupt as error:
            kept.append(error)
            return None

    for stop_at in itertools.count(1):
        with struck_at(stop_at) as blow:
            process = started()
        if process is not None and blow.passed < stop_at:
            break
        if process is not None:  # it struck when there was one
            process.stop(0)
        if containment == "keeper":
            kin.preload()  # the keeper has seen to what it was asked before
        until(lambda: set(children_of(parent)) <= before, f"no child, interrupted at {stop_at}")
    assert process is not None
    assert stop_at > 50
    process.stop(0)
