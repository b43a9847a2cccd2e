"""Pipes and signals serve only parents, children and siblings."""

from __future__ import annotations

import os
import signal
import socket
import tempfile

from kinfolk.bench.claims.claim import Claim, Found

_WORD = b"through a pipe that was handed over"


def _test() -> Found:
    """A process that is nobody's relative here gets one end of a pipe, writes to it, and is sent a
    signal.
    """
    with tempfile.TemporaryDirectory(prefix="kfb") as directory:
        path = os.path.join(directory, "s")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            _stranger(path)
            connection, _ = listener.accept()
    with connection:
        pid = int(connection.recv(32))
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
        reading, writing = os.pipe()
        socket.send_fds(connection, [b"."], [writing])
        os.close(writing)
        data = os.read(reading, 100)
        os.close(reading)
        os.kill(pid, signal.SIGUSR1)
        answer = connection.recv(32)
    relative = parent == os.getpid()
    worked = data == _WORD and answer == b"SIGUSR1"
    sentence = (
        "To a process with another parent, in a session of its own: a pipe's end that was handed "
        "to it over a "
        f"Unix socket carried {len(data)} bytes, and SIGUSR1 "
        f"{'arrived' if worked else 'did not arrive'}. Descent is needed for neither: a descriptor "
        "can be passed "
        "(SCM_RIGHTS), and a signal needs the same user."
    )
    if relative:
        return Found("not measured", "the process that should be a stranger is a child", {})
    return Found("does not hold" if worked else "holds", sentence, {"bytes": float(len(data))})


def _stranger(path: str) -> None:
    """Start a process whose parent has ended: init, or the next subreaper, has adopted it."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                while os.getppid() == os.getsid(0):
                    os.sched_yield()  # until its parent, the leader of the session, has ended
                _be_a_stranger(path)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _be_a_stranger(path: str) -> None:
    signal.alarm(20)  # nobody waits for it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.send(str(os.getpid()).encode())
        _, (writing,), _, _ = socket.recv_fds(connection, 1, 1)
        os.write(writing, _WORD)
        signal.sigwait({signal.SIGUSR1})
        connection.send(b"SIGUSR1")


CLAIMS = (
    Claim(
        "relatives",
        "Pipes, signals and trace serve only parent and child, or siblings.",
        "传统的管道（Pipe）、信号（Signal）和跟踪（Trace），这三项通信手段只能用于父进程与子进程之间，或者兄弟进程之间",
        "A process whose parent has ended, in a session of its own, is handed the end of a pipe "
        "over a Unix socket, and is sent a signal. "
        "Trace is not tried: who may trace whom is a setting (yama), and the same user may where "
        "that is 0.",
        _test,
    ),
)
