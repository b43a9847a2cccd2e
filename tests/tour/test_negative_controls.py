"""What the tour is worth: when something is broken, a check must say so.

Each case breaks one thing, in the parent before the fork, so that the children have it too.
"""

from __future__ import annotations

import fcntl
import os
import signal

import pytest

import kinfolk as kin
from kinfolk.tour import echo, ends, fifo, file, pipe, route, sysv_mq
from kinfolk.tour.links import Link
from kinfolk.tour.processes import PATIENCE
from kinfolk.tour.stop import Stop
from tests.tour.broken_processes import PROCESSES
from tests.tour.broken_sync import SYNC


def corrupt_one_byte(monkeypatch):
    """The receiver writes the first byte of each message wrongly to its file."""
    store = file._store
    monkeypatch.setattr(
        file, "_store", lambda fd, piece: store(fd, bytes([piece[0] ^ 1]) + piece[1:])
    )


def answer_something_else(monkeypatch):
    def answer(line, connection):
        with connection:
            heard = connection.recv(timeout=PATIENCE)
            connection.send("something else", timeout=PATIENCE)
            return heard

    monkeypatch.setattr(pipe, "_answer", answer)


def write_no_more_than_pipe_buf(monkeypatch):
    """Small writes are atomic, so nothing is mixed up."""
    monkeypatch.setattr(fifo, "_LARGE", 1024)


def deliver_half_a_message(monkeypatch):
    """A receiver that gives out what a killed sender left, as a naive one would."""
    recv_bytes = kin.Receiver.recv_bytes
    monkeypatch.setattr(
        kin.Receiver, "recv_bytes", lambda self, **how: recv_bytes(self, **how) + b"x" * 8
    )


def forget_the_mode(monkeypatch):
    serve = echo.serve
    monkeypatch.setattr(
        "kinfolk.tour.unix.serve",
        lambda line, address, count, options: serve(line, address, count, {}),
    )


def steal_live_names(monkeypatch):
    """As the source's server does: unlink, then bind."""
    listen = kin.listen

    def steal(address, **how):
        path = address.partition(":")[2]
        if os.path.exists(path):
            os.unlink(path)
        return listen(address, **how)

    monkeypatch.setattr(kin, "listen", steal)
    monkeypatch.setattr("kinfolk.tour.unix.PATIENCE", 1)  # for what can't be reached any more


def swap_two_numbers(monkeypatch):
    send = kin.Sender.send

    def swapped(self, obj, **how):
        send(self, {100: 101, 101: 100}.get(obj, obj), **how)

    monkeypatch.setattr(kin.Sender, "send", swapped)


def echo_one_byte_less(monkeypatch):
    def shorten(connection):
        for message in connection:
            connection.send_bytes(bytes(message)[:-1], timeout=PATIENCE)

    monkeypatch.setattr(echo, "_echo", shorten)


def forget_the_priority(monkeypatch):
    send = kin.Sender.send

    def forgetful(self, obj, *, priority=None, **how):
        send(self, obj, **how)

    monkeypatch.setattr(kin.Sender, "send", forgetful)


def ask_for_any_type(monkeypatch):
    work = sysv_mq._work
    monkeypatch.setattr(sysv_mq, "_work", lambda line, address, kind: work(line, address, 0))


def leave_memory_without_a_guard(monkeypatch):
    monkeypatch.setattr("kinfolk.memory.guard.start", lambda *_: None)
    monkeypatch.setattr("kinfolk.tour.shm.PATIENCE", 0.1)  # for what never goes


def seal_nothing(monkeypatch):
    create, add_seals = fcntl.fcntl, 1033
    monkeypatch.setattr(
        fcntl, "fcntl", lambda fd, what, *args: what == add_seals or create(fd, what, *args)
    )
    monkeypatch.setattr("kinfolk.memory.memfd._make_safe", lambda *_: None)


def map_a_copy(monkeypatch):
    attach = kin.SharedMemory.attach
    monkeypatch.setattr(kin.SharedMemory, "attach", lambda address: attach(address, private=True))


def leave_sigpipe_ignored(monkeypatch):
    def write(line):
        reading, writing = os.pipe()
        os.close(reading)
        os.write(writing, b"hello?")

    monkeypatch.setattr(ends, "_write_where_nobody_reads", write)


def take_a_stopped_process_for_dead(monkeypatch):
    """The sender is killed where it should only be stopped."""
    monkeypatch.setattr(signal, "SIGSTOP", signal.SIGKILL)


CASES = [
    ("file", corrupt_one_byte, "same SHA-256"),
    *PROCESSES,
    *SYNC,
    ("pipe", answer_something_else, "the parent read what its child wrote"),
    ("fifo", write_no_more_than_pipe_buf, "mixed up"),
    ("fifo", deliver_half_a_message, "of the killed one nothing was delivered"),
    ("shm", leave_memory_without_a_guard, "goes with its last user"),
    ("shm", seal_nothing, "nobody can cut it short"),
    ("mmap", map_a_copy, "what one process wrote, the other one has"),
    ("unix", forget_the_mode, "the mode that was asked for"),
    ("unix", steal_live_names, "a live name was not taken away"),
    ("unix", echo_one_byte_less, "the echo came back"),
    ("unix-dgram", swap_two_numbers, "they came in order"),
    ("unix-seqpacket", echo_one_byte_less, "every message came back whole"),
    ("mq", forget_the_priority, "the most urgent came first"),
    ("sysv-mq", ask_for_any_type, "the worker for type 2 got all of its own"),
    ("tcp", echo_one_byte_less, "the echo came back"),
    ("ends", leave_sigpipe_ignored, "SIGPIPE kills by default"),
    ("ends", take_a_stopped_process_for_dead, "a stopped sender is no dead one"),
]


@pytest.mark.parametrize(("name", "breaking", "sentence"), CASES)
def test_what_is_broken_is_seen(walk, monkeypatch, name, breaking, sentence):
    breaking(monkeypatch)
    ok, report = walk(name)
    assert not ok
    assert not report["ok"]
    (stop,) = report["stops"]
    assert not stop["ok"]
    failed = [check["check"] for check in stop["checks"] if not check["ok"]]
    assert any(sentence in check for check in failed), failed


def test_every_stop_has_a_negative_control():
    assert {name for name, _, _ in CASES} == {stop.name for stop in route.STOPS}


def test_the_rest_goes_on_after_a_failure(walk, monkeypatch):
    corrupt_one_byte(monkeypatch)
    ok, report = walk("file", "pipe")
    assert not ok
    assert [stop["ok"] for stop in report["stops"]] == [False, True]


def test_the_rest_goes_on_after_an_error_nobody_thought_of(walk, monkeypatch):
    def visit(narrator, walk):
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(route, "STOPS", (Stop("odd", "odd", "none", visit), *route.STOPS))
    ok, report = walk("odd", "pipe")
    assert not ok
    odd, following = report["stops"]
    assert odd["checks"][0]["detail"] == "ZeroDivisionError: of all things"
    assert "of all things" in odd["traceback"]
    assert following["ok"]


def test_a_stop_without_any_check_does_not_pass(walk, monkeypatch):
    monkeypatch.setattr(
        route, "STOPS", (Stop("idle", "idle", "none", lambda narrator, walk: None),)
    )
    ok, _ = walk("idle")
    assert not ok


def test_what_the_kernel_lacks_is_said_and_is_no_failure(walk, monkeypatch):
    def lacking(*_, **__):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(kin, "open_receiver", lacking)
    ok, report = walk("mq")
    assert ok
    assert report["stops"][0]["lacking"]
    assert not report["stops"][0]["checks"]


def test_a_mechanism_that_fails_is_a_row_and_a_failed_check(walk, monkeypatch):
    two = [Link("pipe", "pipe:", anonymous=True), Link("odd", "fifo:/tmp/x?no=1")]
    monkeypatch.setattr("kinfolk.tour.file.links", lambda directory: two)
    ok, report = walk("file")
    assert not ok
    (stop,) = report["stops"]
    assert [check["ok"] for check in stop["checks"]] == [False, True]
    assert "there is no option 'no'" in stop["figures"]["transfers"][1]["verdict"]
