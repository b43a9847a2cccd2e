"""The private directory of this user's kinfolk processes: /dev/shm/kinfolk-UID.

It holds what must stand beside objects that have no directory of their own (the presence of a queue or an abstract
socket), and it is the lock under which names are made and replaced. It lies in /dev/shm
because that is shared by just the processes that share POSIX queues and shared memory; $XDG_RUNTIME_DIR is set for some of
a user's processes and not for others, and they would not meet.

Rules:
1. It is ours alone: mode 0700, owned by our effective user, no symlink; else it is refused, never repaired.
2. It is made when first needed, and removed when its last use finds it empty.
3. The lock is flock(2) on the directory itself, so that it leaves no file, and ends with its holder. It is held for
   microseconds, and never while waiting. What is made in the directory is made under it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from types import TracebackType

from kinfolk.descriptors import Descriptor
from kinfolk.errors import UntrustedPeer
from kinfolk.interest import Steps
from kinfolk.rendezvous import NotYet, retry

_PARENT = "/dev/shm"
_PATIENCE = 0.1  # seconds that leaving waits for the lock before it leaves the name to the next
_SQUATTED = errno.ELOOP, errno.ENOTDIR


def path_name() -> str:
    """Where the directory lies; it exists while something in it, or the lock, is in use."""
    return f"{_PARENT}/kinfolk-{os.geteuid()}"


def _open() -> Descriptor:
    name = path_name()
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700)
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            directory = Descriptor.opened("runtime directory", os.open, name, flags)
        except FileNotFoundError:
            continue  # removed by somebody's last use, just now
        except PermissionError as error:
            if not _mended(name):
                raise _squatted(name, str(error.strerror)) from error
            continue
        except OSError as error:
            if error.errno not in _SQUATTED:
                raise
            raise _squatted(name, error.strerror or "it can't be opened") from error
        try:
            status = os.fstat(directory.fileno())
            ours = status.st_uid == os.geteuid() and not status.st_mode & 0o077
            if ours and status.st_mode & 0o700 != 0o700:
                os.fchmod(directory.fileno(), 0o700)  # as in _mended
        except BaseException:
            directory.close()
            raise
        if ours:
            return directory
        directory.close()
        raise _squatted(
            name, f"it is of user {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"
        )


def _mended(name: str) -> bool:
    """Whether it was ours, and made under a umask that left its owner out. Only its owner may replace it meanwhile."""
    try:
        status = os.lstat(name)
    except FileNotFoundError:
        return True
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not ours or status.st_mode & 0o700 == 0o700:
        return False
    with contextlib.suppress(FileNotFoundError):
        os.chmod(name, 0o700)
    return True


def _squatted(name: str, why: str) -> UntrustedPeer:
    return UntrustedPeer(
        "the directory of kinfolk's own things can't be used",
        subject=name,
        why=why,
        remedy="remove it, as root if need be",
    )


class Lock:
    """The lock of this user's kinfolk processes, held until the end of a with block."""

    def __init__(self, descriptor: Descriptor) -> None:
        """Made by `lock`."""
        self._descriptor = descriptor

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # not empty: others use it
            os.rmdir(path_name())
        # Unlocked and not only closed: a child forked just now has the same lock with its copy.
        fcntl.flock(self._descriptor.fileno(), fcntl.LOCK_UN)
        self._descriptor.close()


def lock() -> Steps[Lock]:
    """Take the lock. The directory may vanish after the block: ask for `path` again."""
    return retry(try_lock)


def try_lock() -> Lock:
    """Take the lock if it is free. Raises NotYet, for which no event tells when it will be."""
    descriptor = _open()
    try:
        fcntl.flock(descriptor.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor.fileno()).st_ino == os.stat(path_name()).st_ino:
            return Lock(descriptor)
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        descriptor.close()
        raise
    descriptor.close()
    raise NotYet(again_in=0.001)


@contextlib.contextmanager
def lock_for_leaving() -> Iterator[bool]:
    """Take the lock for the block, if it can be had soon; whether it was. Never raises: to leave is more important."""
    lock = _wait_for_lock()
    if lock is None:
        yield False
        return
    with lock:
        yield True


def _wait_for_lock() -> Lock | None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return try_lock()
        except NotYet as not_yet:
            if time.monotonic() > deadline:
                return None
            time.sleep(not_yet.again_in or 0)
        except OSError:
            return None  # no descriptor left, for one: to close is more important
