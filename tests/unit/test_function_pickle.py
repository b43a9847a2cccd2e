"""What may be the argument of a function in a new process: sockets may, files may not, and nothing turns into something else."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import socket
import sys
from typing import Any

import cloudpickle
import pytest

import kinfolk as kin
from kinfolk.processes import keeping
from tests.conformance.peers import HANG, Peers, Voice, open_descriptors
from tests.unit.keepers import _the_keeper_ends as _the_keeper_ends
from tests.unit.keepers import output_of

WAYS: list[dict[str, Any]] = [{"containment": "keeper"}, {"containment": "direct"}]
ways = pytest.mark.parametrize("way", WAYS, ids=["keeper", "direct"])


@ways
@pytest.mark.parametrize("timeout", [None, 0.0, 7.0])
def test_a_socket_arrives_and_stays(way, timeout):
    kin.spawn(["true"]).wait()  # the keeper
    ours, theirs = socket.socketpair()
    before = open_descriptors()

    def answers(sock: socket.socket) -> None:
        was = sock.gettimeout()
        sock.settimeout(HANG)
        sock.sendall(repr((was, sock.recv(100))).encode())

    theirs.settimeout(timeout)
    with ours, theirs:
        process = kin.spawn(answers, theirs, **way)
        ours.settimeout(HANG)
        ours.sendall(b"to you")
        assert ours.recv(100) == repr((timeout, b"to you")).encode()
        assert process.wait(HANG).success
        theirs.setblocking(True)
        theirs.sendall(b"and from us")  # it is open here as well
        assert ours.recv(100) == b"and from us"
        assert open_descriptors() == before


@ways
def test_a_listening_socket_in_a_closure(way):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serves() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"served")

        process = kin.spawn(serves, **way)
        with socket.create_connection(server.getsockname(), timeout=HANG) as client:
            assert client.recv(100) == b"served"
        assert process.wait(HANG).success


def test_a_closed_socket_is_said():
    sock = socket.socket()
    sock.close()
    with pytest.raises(kin.CodecError, match="the socket is closed"):
        kin.spawn(print, sock)


def test_without_a_descriptor_for_a_socket(peers: Peers) -> None:
    def body(voice: Voice) -> None:
        kin.spawn(len, ()).wait(HANG)
        mine, other = socket.socketpair()
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, highest + 1))
        held = []
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            pass
        with mine, other, pytest.raises(kin.LimitReached, match="socket"):
            kin.spawn(print, mine)
        for number in held:
            os.close(number)
        keeping.keeping().end(0)

    peers.fork(body).result()


#: Mode and buffering.
OPENINGS = {
    "text": ("r", -1),
    "text to write": ("w", -1),
    "binary": ("rb", -1),
    "binary to write": ("wb", -1),
    "both": ("r+b", -1),
    "bare": ("rb", 0),
}


@pytest.mark.parametrize("how", OPENINGS)
def test_a_file_is_refused(tmp_path, how):
    path = tmp_path / "file"
    path.write_text("content")
    before = open_descriptors()
    with open(path, *OPENINGS[how]) as file:
        for call in (lambda: kin.spawn(print, file), lambda: kin.spawn(lambda: [file])):
            with pytest.raises(kin.CodecError, match="a file can't go") as raised:
                call()
            assert "pass_fds" in str(raised.value)
    assert open_descriptors() == before


def test_cloudpickle_would_copy_it(tmp_path):
    """The negative control: the child would have its content of that moment, in memory."""
    path = tmp_path / "file"
    path.write_text("content")
    with open(path) as file:
        assert type(pickle.loads(cloudpickle.dumps(file))).__name__ == "StringIO"


@ways
def test_what_the_error_advises_works(tmp_path, way):
    path = tmp_path / "file"
    path.write_text("content")

    def reads(number: int) -> None:
        with open(number) as file:
            print(file.read())

    with open(path) as file:
        assert output_of(reads, file.fileno(), pass_fds=[file], **way) == "content\n"


def test_the_standard_streams_are_the_childs(monkeypatch):
    def prints(out: Any) -> None:
        print("here", file=out)

    with open(1, "w", closefd=False) as stdout:  # pytest's is another one
        monkeypatch.setattr(sys, "stdout", stdout)
        assert output_of(prints, stdout) == "here\n"
        monkeypatch.undo()


def test_a_connection_of_multiprocessing_is_refused():
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        with pytest.raises(kin.CodecError, match=r"kin\.channel"):
            kin.spawn(print, theirs)
        # The negative control: what arrives has the number alone, which is nobody's or another's there.
        copy = pickle.loads(cloudpickle.dumps(theirs))
        assert copy.fileno() == theirs.fileno()
        copy._handle = None


def test_a_process_is_refused():
    process = kin.spawn(["true"])
    with pytest.raises(kin.CodecError, match="identity"):
        kin.spawn(print, process)
    process.wait()
    assert output_of(print, process.identity) == f"{process.identity}\n"
