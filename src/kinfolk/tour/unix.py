"""Stop `unix`: stream sockets with a name in the file system. The source's Unix domain socket.

It shows
- the source's echo server and client, and who each of them knows the other to be;
- the mode of the socket's file (the source's chmod 0640), there from the beginning;
- a stale name, at which bind(2) fails as the source says, replaced; a live one never;
- a descriptor that goes to a stranger.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile

import kinfolk as kin
from kinfolk.tour.echo import ask, serve
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk, outcome, scratch_directory

_MODE = 0o640
_SECRET = b"written by the server, read by the client"


def visit(narrator: Narrator, walk: Walk) -> None:
    """Walk through the three parts."""
    with scratch_directory() as directory:
        _echo(narrator, f"{directory}/echo.sock")
        _stale_and_live(narrator, f"{directory}/name.sock")
        _descriptor(narrator, f"{directory}/fds.sock")


# ── the source's echo server and client ──────────────────────────────────────────────────────


def _echo(narrator: Narrator, path: str) -> None:
    with crew() as hands:
        server = hands.start("server", serve, f"unix:{path}", 1, {"mode": _MODE})
        server.hear()
        mode = stat.S_IMODE(os.stat(path).st_mode)
        with kin.connect(f"unix:{path}", timeout=PATIENCE) as connection:
            peer = connection.peer
            answer = ask(connection, b"hello")
            long = os.urandom(1 << 20)
            whole = ask(connection, long) == long
        clients = server.result()
    narrator.says(
        f"Server {server.pid} listened at {path} (mode {mode:04o}); this process, {os.getpid()}, "
        f"asked b'hello' and got {answer!r}, then 1 MiB there and back."
    )
    narrator.says(
        f"The kernel vouched (SO_PEERCRED): the client saw {peer}, the server {clients[0]}."
    )
    narrator.check("the echo came back", answer == b"hello", repr(answer))
    narrator.check("1 MiB came back as one message", whole)
    narrator.check(
        "the socket's file had the mode that was asked for", mode == _MODE, f"{mode:04o}"
    )
    me = (os.getpid(), os.geteuid(), os.getegid())
    narrator.check("the server knew its client", clients == [me], f"{clients} instead of {me}")
    narrator.check(
        "the client knew its server", peer is not None and peer.pid == server.pid, str(peer)
    )
    narrator.check("the server removed its name when it ended", not os.path.exists(path))


# ── names that are there already ─────────────────────────────────────────────────────────────


def _stale_and_live(narrator: Narrator, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)  # closed without unlink: what a killed server leaves
    with socket.socket(socket.AF_UNIX) as plain:
        plain_error = errno.errorcode.get(_bind_error(plain, path), "nothing")
    with kin.listen(f"unix:{path}", timeout=PATIENCE), crew() as hands:
        rival = hands.start("rival", _listen_too, path)
        told = rival.result()
        still = outcome(lambda: kin.connect(f"unix:{path}", timeout=PATIENCE).close())
    narrator.says(
        f"A killed server leaves its name: bind(2) there gave {plain_error}, and the source unlinks "
        "first, whoever listens. kinfolk asked the kernel whether anybody does, and took it over."
    )
    narrator.says(
        f"While it listened, process {rival.pid} tried to take the name and was told {told}."
    )
    narrator.check("bind(2) refuses a name that exists", plain_error == "EADDRINUSE", plain_error)
    narrator.check("a live name was not taken away", told == "Busy", told or "it listened")
    narrator.check("its listener could be reached afterwards", not still, still)


def _bind_error(sock: socket.socket, path: str) -> int:
    try:
        sock.bind(path)
    except OSError as error:
        return error.errno or 0
    return 0


def _listen_too(line: Line, path: str) -> str:
    return outcome(lambda: kin.listen(f"unix:{path}", timeout=PATIENCE).close())


# ── a descriptor ─────────────────────────────────────────────────────────────────────────────


def _descriptor(narrator: Narrator, path: str) -> None:
    with crew() as hands:
        server = hands.start("server", _hand_over, path)
        server.hear()
        with kin.connect(f"unix:{path}", timeout=PATIENCE) as connection:
            label, fds = connection.recv_fds(timeout=PATIENCE)
        server.result()
    read = []
    for fd in fds:
        with open(fd, "rb") as file:
            read.append(file.read())
    narrator.says(
        f"Server {server.pid} sent an open descriptor of a file without a name (SCM_RIGHTS); here it "
        f"became number {fds[0] if fds else '-'}, and outlived the server."
    )
    narrator.check("message and descriptor came together", (label, len(fds)) == (b"file", 1))
    narrator.check("what the server wrote was read here", read == [_SECRET], repr(read))


def _hand_over(line: Line, path: str) -> None:
    with (
        tempfile.TemporaryFile() as file,
        kin.listen(f"unix:{path}", timeout=PATIENCE) as listener,
    ):
        file.write(_SECRET)
        file.seek(0)
        line.tell("listening")
        with listener.accept(timeout=PATIENCE) as connection:
            connection.send_fds(b"file", [file.fileno()], timeout=PATIENCE)


STOP = Stop("unix", "an echo server, and who is at the other end", "Unix domain socket", visit)
