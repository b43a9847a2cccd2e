"""A file that has no name until it is complete: whoever finds the name finds all of it.

    O_TMPFILE in the directory ── size, space, contents, mode ── linkat(2) ──> the name, unless somebody has it

Until the last step a kill at any instruction leaves nothing. Where the file system lacks O_TMPFILE (open(2)), a hidden
file beside the name is linked and removed; of those, a SIGKILL leaves one behind.

Rules:
1. A name that is taken, be it by a symbolic link to nowhere, is never replaced or followed: FileExistsError.
2. The file is 0600 until it gets its mode, whatever the umask.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets

from kinfolk.descriptors import Descriptor

_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR)  # of the file system, of the kernel


class NamelessFile:
    """A new, empty file, of which ``path`` is to be the name. Raises OSError."""

    def __init__(self, path: str, made_in: str | None = None) -> None:
        """Make it, open for reading and writing, in the directory of the path, or another one of the same file system."""
        self.path = path
        self._spare: str | None = None
        directory, base = os.path.split(path)
        directory = made_in or directory or "."
        try:
            flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
            self.descriptor = Descriptor.opened(path, os.open, directory, flags, 0o600)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            spare = os.path.join(directory, f".{base[:200]}-{secrets.token_hex(8)}")
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            self.descriptor = Descriptor.opened(path, os.open, spare, flags, 0o600)
            self._spare = spare

    def link(self) -> None:
        """Give it its name. Raises FileExistsError when that is taken, OSError."""
        if self._spare is not None:
            os.link(self._spare, self.path, follow_symlinks=False)
            self._drop_spare()
            return
        number = self.descriptor.fileno()
        # With a directory given, Python calls linkat(2) and says AT_SYMLINK_FOLLOW; without, link(2), which does
        # not follow. The path is absolute: the directory itself plays no part.
        os.link(f"/proc/self/fd/{number}", self.path, src_dir_fd=number, follow_symlinks=True)

    def close(self) -> None:
        """Give up what was not linked; what was keeps its name."""
        self._drop_spare()
        self.descriptor.close()

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            with contextlib.suppress(OSError):
                os.unlink(spare)
