"""A pid file: the number of the one process that runs under this name, and a lock that says whether it does.

    lock()   no file ────────────────────> a file without a name: written, locked ── linkat ──> the name
             a file that is locked ──────> Busy, naming the process that has locked it
             a file that is not: stale ──> unlink it, and again from the top

    byte 0 of the file is locked by who runs; byte 2^40 by who is just replacing or removing a stale one

Rules:
1. The lock says who runs, never the number in the file. It is a record lock (fcntl(2)): it belongs to one process, ends with
   it however that ends, is not shared with a forked child, and stays through execve(2). F_GETLK names its holder.
2. A file has its name once it is whole and locked. A kill at any instruction leaves no file, or one that nobody has locked,
   which the next start replaces. (Where the file system lacks O_TMPFILE, it may leave a hidden file beside it.)
3. A name is taken away by who runs under it, or from a file of which byte 0 is free, and never will be locked again: it is
   locked before the file has its name. Byte 2^40 parts those who do the latter.
4. The kernel drops the lock when its process closes *any* descriptor of the file: here it is opened once. A daemon
   that opens its pid file by other means, or closes all its descriptors, has given up its lock.
5. What is no regular file, and what another user made, is refused; a symbolic link is not followed. Root's may be asked.
   A file that holds anything but a number is nobody's pid file, and is neither replaced nor removed.
6. Who may merely read the file can lock it shared. That stops a start, which says so, and is not taken for a daemon.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import weakref
from types import TracebackType
from typing import NamedTuple, Self

from kinfolk import record_locks
from kinfolk.descriptors import Descriptor
from kinfolk.errors import (
    Busy,
    InvalidValue,
    KinfolkError,
    NotFound,
    UntrustedPeer,
    from_os_error,
)
from kinfolk.identity import Identity
from kinfolk.nameless_file import NamelessFile
from kinfolk.processes.absolute_path import absolute

_RUNNING, _REPLACING = 0, 1 << 40  # the bytes
_LONGEST = 32  # bytes of a number and its newline, with room to spare


class _Lock(NamedTuple):
    """What another process has on the file."""

    pid: int  # 0: it has no number in this pid namespace
    daemons: bool


class PidFile:
    """A pid file of this user's. One thread at a time; a forked child has a copy without the lock.

    As a context manager it is locked inside the block.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name it; nothing is opened. A relative path counts from the present directory, for good. Raises InvalidValue, NotFound."""
        name = os.fspath(path)
        if not name or "\0" in name:
            raise InvalidValue(
                "this is no file name",
                subject=repr(name),
                remedy="name a file, such as /run/app.pid",
            )
        self.path = absolute(name)
        self._descriptor: Descriptor | None = None
        self._pid = 0

    @property
    def locked(self) -> bool:
        """Whether this process has locked it by this object."""
        return self._descriptor is not None and self._pid == os.getpid()

    def lock(self) -> None:
        """Write the file with the pid of this process, and lock it until `release` or the end of the process.

        Raises Busy, naming the process that has it; UntrustedPeer, NotFound (no such directory), AccessDenied, NoSpace.
        """
        if self.locked:
            return
        if self._descriptor is not None:  # the copy of a forked child
            self._descriptor.close()
            self._descriptor = None
        try:
            while not self._make():
                self.remove_stale()
        except KinfolkError:
            raise
        except OSError as error:
            raise self._failed(error) from error
        self._pid = os.getpid()

    def _make(self) -> bool:
        """Make the file under its name, locked; False when the name is taken."""
        file = NamelessFile(self.path)
        try:
            number = file.descriptor.fileno()
            os.fchmod(number, 0o644)  # whatever the umask: others may see who runs
            os.write(number, b"%d\n" % os.getpid())
            _lock_byte(file.descriptor, _RUNNING)
            file.link()
        except FileExistsError:
            file.close()
            return False
        except BaseException:
            file.close()
            raise
        _locked_here[_inode(os.fstat(number))] = self
        self._descriptor = file.descriptor
        return True

    def remove_stale(self) -> None:
        """Remove the file of a process that has ended. Raises Busy when one runs, or is just starting; UntrustedPeer."""
        found = self._open(os.O_RDWR)
        if found is None:
            return
        with contextlib.closing(found):
            self._refuse(self._lock_at(found, _RUNNING))
            self._refuse_other_content(found)
            if not _lock_byte(found, _REPLACING):
                self._refuse(self._lock_at(found, _REPLACING))
                return  # he is done
            self._unlink(found)

    def _unlink(self, locked: Descriptor) -> None:
        """Rule 3: take the name away from the file of a descriptor, if it has it."""
        with contextlib.suppress(FileNotFoundError):
            if _inode(os.lstat(self.path)) == _inode(os.fstat(locked.fileno())):
                os.unlink(self.path)

    def refuse_if_held(self) -> None:
        """Raise now what `lock` would raise of a file that is there: Busy, UntrustedPeer, AccessDenied."""
        found = self._open(os.O_RDWR)
        if found is not None:
            with contextlib.closing(found):
                self._refuse(self._lock_at(found, _RUNNING))
                self._refuse_other_content(found)

    def refuse_other_content(self) -> None:
        """Raise UntrustedPeer when the file that is there holds something other than a pid. Raises AccessDenied."""
        if not self._is_locked_here():
            found = self._open(os.O_RDONLY)
            if found is not None:
                with contextlib.closing(found):
                    self._refuse_other_content(found)

    def release(self) -> None:
        """Remove the file and let go of the lock. Does nothing without the lock, so not in a forked child."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if self._pid == os.getpid():
            # A daemon that is another user by now may not, and leaves it stale.
            with contextlib.suppress(OSError):
                self._unlink(descriptor)
            _locked_here.pop(_inode(os.fstat(descriptor.fileno())), None)
        descriptor.close()

    def fileno(self) -> int:
        """The descriptor that the lock hangs on, -1 without one."""
        return -1 if self._descriptor is None else self._descriptor.fileno()

    def read(self) -> int | None:
        """The number in the file, None when there is no file or no number. That process may be gone: see `holder`.

        Raises UntrustedPeer, AccessDenied.
        """
        if self._is_locked_here():
            return os.getpid()
        found = self._open(os.O_RDONLY)
        if found is None:
            return None
        with contextlib.closing(found):
            word = os.read(found.fileno(), _LONGEST).strip()
        return int(word) if word.isdigit() else None

    def holder(self) -> Identity | None:
        """The process that has locked the file, None when none has: then nobody runs under this name.

        Raises Busy for one in a pid namespace that has no number for it here; UntrustedPeer, AccessDenied.
        """
        while True:
            pid = self._ask()
            if pid is None:
                return None
            who = Identity.of(pid)
            if who is not None and self._ask() == pid:  # else it was another one's number meanwhile
                return who

    def _ask(self) -> int | None:
        if self._is_locked_here():
            return os.getpid()
        found = self._open(os.O_RDONLY)
        if found is None:
            return None
        with contextlib.closing(found):
            lock = self._lock_at(found, _RUNNING)
        if lock is None or not lock.daemons:
            return None
        if lock.pid == 0:
            raise self._busy(lock)
        return lock.pid

    def _is_locked_here(self) -> bool:
        """Whether this process has the lock, by whatever object: then to open and close the file would lose it."""
        with contextlib.suppress(OSError):
            owner = _locked_here.get(_inode(os.lstat(self.path)))
            return owner is not None and owner.locked
        return False

    def _open(self, flags: int) -> Descriptor | None:
        """The file by rule 5, None when there is none. Raises Busy where closing it would be the end of our own lock."""
        try:
            # A path descriptor first: to open a FIFO or a device does something, and closing this one drops no lock.
            there = os.open(self.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(error) from error
        try:
            self._check(
                os.fstat(there), (os.geteuid(),) if flags & os.O_RDWR else (os.geteuid(), 0)
            )
            if self._is_locked_here():
                raise self._busy(_Lock(os.getpid(), daemons=True))
            number = os.open(f"/proc/self/fd/{there}", flags | os.O_CLOEXEC)
            return Descriptor(number, f"pid file {self.path}")
        except KinfolkError:
            raise
        except OSError as error:
            raise self._failed(error) from error
        finally:
            os.close(there)

    def _check(self, status: os.stat_result, trusted: tuple[int, ...]) -> None:
        why = ""
        if stat.S_ISLNK(status.st_mode):
            why = "it is a symbolic link"
        elif not stat.S_ISREG(status.st_mode):
            why = "it is no regular file"
        elif status.st_uid not in trusted:
            why = f"it belongs to user {status.st_uid}"
        if why:
            remedy = "do it as its owner, or give another file, in a directory that only you can write to"
            raise self._unfit(why, remedy)

    def _refuse_other_content(self, file: Descriptor) -> None:
        """Raise UntrustedPeer for a file that somebody keeps something in."""
        content = os.pread(file.fileno(), _LONGEST + 1, 0)
        word = content.strip(b"\0 \t\r\n")  # a crash of the machine can leave zeros
        if len(content) > _LONGEST or (word and not word.removeprefix(b"-").isdigit()):
            raise self._unfit(
                "it holds something other than a pid", "give another file, or remove it"
            )

    def _unfit(self, why: str, remedy: str) -> UntrustedPeer:
        what = "can't be used as a pid file"
        return UntrustedPeer(what, subject=self.path, why=why, remedy=remedy)

    def _lock_at(self, file: Descriptor, byte: int) -> _Lock | None:
        """What another process has locked there; None when none has."""
        try:
            found = record_locks.ask(file.fileno(), fcntl.F_GETLK, fcntl.F_WRLCK, byte, 1)
        except OSError as error:
            raise self._failed(error) from error
        if found is None:
            return None
        return _Lock(found.pid, daemons=found.exclusive and byte == _RUNNING)

    def _refuse(self, lock: _Lock | None) -> None:
        if lock is not None:
            raise self._busy(lock)

    def _busy(self, lock: _Lock) -> Busy:
        who = Identity.of(lock.pid) if lock.pid else None
        name = f"process {lock.pid}" if lock.pid else "a process of another pid namespace"
        started = "" if who is None else f" (start time {who.start_time})"
        if not lock.daemons:
            return Busy(
                "the pid file can't be replaced just now",
                subject=self.path,
                why=f"{name}{started}, which is not its daemon, has locked it",
                remedy="try again, end that process, or give another file",
            )
        return Busy(
            "its daemon is running",
            subject=self.path,
            why=f"{name}{started} has locked it",
            remedy=f"end it first: kin daemon --stop --pidfile {self.path}",
        )

    def _failed(self, error: OSError) -> KinfolkError:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return NotFound(
                "the pid file can't be made",
                subject=self.path,
                why="there is no such directory",
                remedy="make it, or give a file in another one",
            )
        return from_os_error(error, "the pid file can't be used", self.path)

    def __enter__(self) -> Self:
        self.lock()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<kinfolk.PidFile {self.path}{' locked' if self.locked else ''}>"


#: by (device, inode): what this process has locked; a forked child finds it, too, and has no lock
_locked_here: weakref.WeakValueDictionary[tuple[int, int], PidFile] = weakref.WeakValueDictionary()


def _lock_byte(file: Descriptor, byte: int) -> bool:
    return record_locks.try_to_set(file.fileno(), fcntl.F_SETLK, fcntl.F_WRLCK, byte, 1)


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
