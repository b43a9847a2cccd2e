"""Runs a function or a program as another user, in a real process of its own."""

from __future__ import annotations

import os
import pickle
import pwd
import select
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn


class FailedAsUser(AssertionError):
    """The function raised what can't be pickled, or its process died."""


class User(NamedTuple):
    """A user id to run things as. None of both ids: who we are already."""

    uid: int | None = None
    gid: int | None = None

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = 30) -> Any:
        """Call `function(*args)` in a forked child that is this user; its result or exception.

        It is a fork, so that `function` may be a closure and needs no file that the user can't
        read; what the function imports late, it must be able to read.
        """
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            # Python warns of forking with threads. The child runs the function and _exits.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            os.close(reader)
            self._run_in_child(writer, function, args)
        os.close(writer)
        try:
            answer = _read_all(reader, timeout)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise FailedAsUser(f"not done within {timeout} s as {self}: {function}") from None
        finally:
            os.close(reader)
            _, status = os.waitpid(pid, 0)
        if not answer:
            code = os.waitstatus_to_exitcode(status)
            raise FailedAsUser(f"the process running {function} as {self} ended with {code}")
        result, error = pickle.loads(answer)
        if error is not None:
            raise error
        return result

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program as this user; the caller waits for it."""
        if self.uid is not None:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return subprocess.Popen(command, **options)

    def become(self) -> None:
        """Turn this process into one of that user, for good: real, effective and saved ids."""
        if self.uid is not None and self.gid is not None:
            os.setgroups([])
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)

    def _run_in_child(
        self, writer: int, function: Callable[..., Any], args: Sequence[Any]
    ) -> NoReturn:
        code = 1
        try:
            try:
                self.become()
                answer = pickle.dumps((function(*args), None))
            except BaseException as error:  # whatever it is, it goes to the parent
                try:
                    pickle.loads(answer := pickle.dumps((None, error)))
                except Exception:
                    text = FailedAsUser(traceback.format_exc())
                    answer = pickle.dumps((None, text))
            with open(writer, "wb") as file:
                file.write(answer)
            sys.stdout.flush()
            sys.stderr.flush()
            code = 0
        finally:
            os._exit(code)


def _read_all(reader: int, timeout: float) -> bytes:
    end = time.monotonic() + timeout
    chunks: list[bytes] = []
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while True:
        if not poll.poll(max(0, end - time.monotonic()) * 1000):
            raise TimeoutError
        chunk = os.read(reader, 1 << 16)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)


def nobody() -> User:
    """The unprivileged user that every Linux has."""
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return User(65534, 65534)
    return User(entry.pw_uid, entry.pw_gid)


def why_no_other_user() -> str:
    """Empty if this process may become somebody else, else the reason."""
    if os.geteuid() != 0:
        return "needs a second user id, and only root may take one (this run is not root)"
    try:
        nobody().run(os.geteuid)
    except OSError as error:
        return f"needs a second user id, and the kernel refuses it to this root: {error}"
    return ""
