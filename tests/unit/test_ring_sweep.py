"""Rings whose peers were all killed are removed by who opens another one; what somebody holds, or others made, is not."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk import runtime_directory
from kinfolk.channels import presence, ring_memory, ring_sweep
from tests.conformance.peers import HANG

SIZES = "capacity=4096&arena=64K"


def files_of(name: str) -> list[str]:
    """Those that there are of a ring."""
    paths = presence.presence_path("ring", name), ring_memory.path_of(name)
    return [path for path in paths if os.path.lexists(path)]


def forked(function: Callable[[], object]) -> int:
    """The pid of a child that has called it, and sleeps."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            kept = function()
            os.write(writing, b"x")
            signal.pause()
            del kept
        os._exit(1)
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    return pid


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def abandoned(name: str) -> None:
    """Both sides were killed, with messages in it."""

    def send() -> kin.Sender:
        sender = kin.open_sender(f"ring:{name}", timeout=HANG)
        sender.send(b"x" * 10_000)
        return sender

    receiver = forked(lambda: kin.open_receiver(f"ring:{name}?{SIZES}"))
    kill(forked(send), receiver)
    assert len(files_of(name)) == 2


def test_it_is_removed_by_who_opens_another(unique_name: str) -> None:
    dead, alive, other = (f"{unique_name}-{each}" for each in ("dead", "alive", "other"))
    with (
        kin.open_receiver(f"ring:{alive}?{SIZES}") as receiver,
        kin.open_sender(f"ring:{alive}") as sender,
    ):
        abandoned(dead)
        with kin.open_receiver(f"ring:{other}?{SIZES}"):
            assert not files_of(dead)
            assert len(files_of(other)) == 2
        assert len(files_of(alive)) == 2
        sender.send("still")
        assert receiver.recv(timeout=HANG) == "still"
        abandoned(dead)
        with kin.open_sender(f"ring:{alive}"):  # a sender does it, too
            assert not files_of(dead)


@pytest.mark.parametrize("kept", [0, 1], ids=["receiver", "sender"])
def test_what_somebody_holds_stays(unique_name: str, kept: int) -> None:
    held = f"{unique_name}-held"
    ends = [
        forked(lambda: kin.open_receiver(f"ring:{held}?{SIZES}")),
        forked(lambda: kin.open_sender(f"ring:{held}", timeout=HANG)),
    ]
    kill(ends.pop(1 - kept))
    for _ in range(3):
        with kin.open_receiver(f"ring:{unique_name}?{SIZES}"):
            assert len(files_of(held)) == 2
    kill(*ends)
    with kin.open_receiver(f"ring:{unique_name}?{SIZES}"):
        assert not files_of(held)


def test_without_a_look_who_is_there_it_would_go(
    unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence.FifoEnd, "alone", lambda _: True)
    monkeypatch.setattr(presence.FifoEnd, "_has_copies", lambda *_: False)
    held = f"{unique_name}-held"
    receiver = forked(lambda: kin.open_receiver(f"ring:{held}?{SIZES}"))
    with kin.open_receiver(f"ring:{unique_name}?{SIZES}"):
        assert not files_of(held)
    kill(receiver)


def test_names_that_look_alike(unique_name: str) -> None:
    """The presence of `memory-X` lies where the memory of X would, and the other way round."""
    dead, alive = unique_name, f"memory-{unique_name}-2"
    with kin.open_receiver(f"ring:{alive}?{SIZES}"):
        abandoned(dead)
        with kin.open_receiver(f"ring:{unique_name}-other?{SIZES}"):
            assert not files_of(dead)
        assert len(files_of(alive)) == 2


def test_what_is_not_kinfolks_stays(unique_name: str) -> None:
    with kin.open_receiver(f"ring:{unique_name}?{SIZES}"):
        directory = Path(runtime_directory.path_name())
        strange = [directory / f"ring-{unique_name}-{each}" for each in range(3)]
        os.mkfifo(strange[0], 0o600)  # without the mark
        strange[1].write_bytes(b"")
        strange[2].symlink_to(directory / f"ring-{unique_name}")
        try:
            with kin.open_sender(f"ring:{unique_name}"):
                pass
            assert all(os.path.lexists(each) for each in strange)
        finally:
            for each in strange:
                each.unlink()


def test_few_are_looked_at(unique_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(presence, "sweep", lambda path, _: looked.append(path))
    with contextlib.ExitStack() as rings:
        for number in range(ring_sweep.FEW):
            rings.enter_context(kin.open_receiver(f"ring:{unique_name}-{number}?{SIZES}"))
        looked.clear()
        rings.enter_context(kin.open_receiver(f"ring:{unique_name}?{SIZES}"))
    assert ring_sweep.FEW - 1 <= len(looked) <= ring_sweep.FEW  # it may have drawn its own
    assert len(set(looked)) == len(looked)


def test_opening_while_it_is_swept(unique_name: str) -> None:
    """Who opens the abandoned name gets a ring that stays his, whoever sweeps at the same time."""
    for _ in range(20):
        abandoned(unique_name)
        start = threading.Barrier(2)
        seen: list[int] = []

        def others(start: threading.Barrier = start, seen: list[int] = seen) -> None:
            start.wait(HANG)
            for number in range(5):
                with kin.open_receiver(f"ring:{unique_name}-{number}?{SIZES}"):
                    seen.append(number)

        thread = threading.Thread(target=others)
        thread.start()
        start.wait(HANG)
        with (
            kin.open_receiver(f"ring:{unique_name}?{SIZES}", timeout=HANG) as receiver,
            kin.open_sender(f"ring:{unique_name}", timeout=HANG) as sender,
        ):
            sender.send("mine")
            assert receiver.recv(timeout=HANG) == "mine"
            thread.join(HANG)
            assert seen == list(range(5))
            assert len(files_of(unique_name)) == 2
