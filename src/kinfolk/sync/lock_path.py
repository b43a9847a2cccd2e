"""The file that is locked: found by its name, or made; and whether the name is still its.

    O_PATH ── a regular file or a directory, of a user we trust ── /proc/self/fd/N opened ── lock ── still the name's? ──> locked
      └ none: made without a name, 0600, linked                                                └ no: from the top

Rules:
1. A lock is on a file, not on its name. Who replaces the file (a rename, as editors save) or removes it leaves those who hold it with a file that
   nobody will find: so it is looked at again *after* it was locked.
2. A symbolic link at the name is not followed, nor is anything opened that is no regular file or directory.
3. Another user's file is refused unless he was named; root's is not. That of ours is taken whatever its mode is: who may open it may lock it.
4. What is made has its mode, whatever the umask, before it has its name. Nothing is ever written into it.
5. It is opened for writing only where the lock needs that, so that no one who watches the file sees a write.
"""

from __future__ import annotations

import errno
import os
import stat

from kinfolk._native import LockedFile
from kinfolk.errors import (
    AccessDenied,
    InvalidValue,
    KinfolkError,
    NotFound,
    Unsupported,
    UntrustedPeer,
    from_os_error,
)
from kinfolk.nameless_file import NamelessFile
from kinfolk.ownership import check_owner

Inode = tuple[int, int]

#: Why a file that exists may not be opened for writing, and yet for reading.
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY)


def absolute(path: str | os.PathLike[str]) -> str:
    """A name as it counts from the root. Raises InvalidValue, NotFound when the present directory was removed."""
    name = ""
    try:
        name = os.fspath(path)
        sound = isinstance(name, str) and bool(name) and b"\0" not in os.fsencode(name)
    except (TypeError, UnicodeEncodeError):
        sound = False
    if not sound:
        raise InvalidValue(
            "this is no file name",
            subject=repr(path),
            remedy="name a file, such as /srv/data/lock",
        )
    try:
        return name if os.path.isabs(name) else os.path.join(os.getcwd(), name)
    except OSError as error:
        raise from_os_error(
            error, "it counts from the present directory, and that can't be told", name
        ) from error


class LockPath:
    """A name in the file system, and how what is found there is opened."""

    def __init__(self, path: str, *, mode: int, create: bool, owner: int | None) -> None:
        """``owner``: a user, besides ourselves and root, whose file it may be."""
        self.path = path
        self._mode, self._create, self._owner = mode, create, owner

    def open(self, *, writable: bool, must: bool) -> LockedFile:
        """The file, made if there is none; ``writable`` if that is allowed, or else not at all if it ``must`` be.

        Raises NotFound, UntrustedPeer, AccessDenied, InvalidValue, Unsupported, NoSpace, LimitReached.
        """
        try:
            while True:
                opened = self._found(writable, must)
                if opened is not None:
                    return opened
                self._make()
        except KinfolkError:
            raise
        except OSError as error:
            raise self._failed(error) from error

    def has_name(self, inode: Inode) -> bool:
        """Whether the name is this file's. Raises AccessDenied."""
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._failed(error) from error
        return (status.st_dev, status.st_ino) == inode

    def unlink(self, inode: Inode) -> None:
        """Remove the name, if it is this file's. Raises NotFound, AccessDenied."""
        if not self.has_name(inode):
            raise NotFound("this file has lost its name already", subject=self.path)
        try:
            os.unlink(self.path)
        except OSError as error:
            raise from_os_error(error, "can't remove it", self.path) from error

    def _found(self, writable: bool, must: bool) -> LockedFile | None:
        """What has the name, None when nothing has."""
        there, opened = LockedFile(), LockedFile()
        try:
            # Closing a path descriptor drops no lock of this process, and opening one opens no device.
            number = there.open(self.path, os.O_PATH | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        status = os.fstat(number)
        self._check(status)
        again = f"/proc/self/fd/{number}"
        if writable and not stat.S_ISDIR(status.st_mode):
            try:
                opened.open(again, os.O_RDWR)
                return opened
            except OSError as error:
                if error.errno not in _READ_ONLY:
                    raise
                if must:
                    raise self._read_only(error) from error
        elif writable and must:
            raise Unsupported(
                "a directory can't be locked exclusively like this",
                subject=self.path,
                why="it can't be opened for writing",
                remedy='use kind="flock", or lock a file in it',
            )
        opened.open(again, os.O_RDONLY)
        return opened

    def _check(self, status: os.stat_result) -> None:
        if stat.S_ISLNK(status.st_mode):
            raise UntrustedPeer(
                "its name is a symbolic link, which is not followed",
                subject=self.path,
                remedy="remove the link, or name the file that it leads to",
            )
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise InvalidValue(
                "this is neither a file nor a directory",
                subject=self.path,
                why="a device, a pipe or a socket has that name",
                remedy="name a file",
            )
        check_owner({status.st_uid}, self._owner, "a file", self.path, "name it")

    def _make(self) -> None:
        """Make a new, empty file under the name, unless somebody was quicker."""
        if not self._create:
            raise NotFound(
                "there is no such file", subject=self.path, remedy="make it, or say create=True"
            )
        file = NamelessFile(self.path)
        try:
            number = file.descriptor.fileno()
            os.fchmod(number, self._mode)  # the umask may have taken more than it should
            file.link()
        except FileExistsError:
            return
        finally:
            file.close()

    def _read_only(self, error: OSError) -> AccessDenied:
        return AccessDenied(
            "it can't be locked exclusively",
            subject=self.path,
            why=f"for that it has to be opened for writing: {os.strerror(error.errno or 0)}",
            remedy='lock it with shared=True, or use kind="flock"',
            code=error.errno,
        )

    def _failed(self, error: OSError) -> KinfolkError:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return NotFound(
                "there is no such directory",
                subject=self.path,
                remedy="make it, or name a file in another one",
            )
        if error.errno == errno.ENAMETOOLONG:
            return InvalidValue(
                "it is too long for the name of a file",
                subject=self.path,
                why="its file system, or the kernel, takes no longer one: mostly 255 bytes, 4,095 with its directories",
                remedy="give a shorter one",
            )
        return from_os_error(error, "it can't be opened to be locked", self.path)
