"""A path that is to stay the same one when this process, or its copy, changes its directory."""

from __future__ import annotations

import os

from kinfolk.errors import from_os_error


def absolute(path: str) -> str:
    """The path from the root. Raises NotFound for a relative one in a directory that was removed."""
    if os.path.isabs(path):
        return path
    try:
        return os.path.join(os.getcwd(), path)
    except OSError as error:
        what = "a relative path leads nowhere: this process stands in a directory that was removed"
        raise from_os_error(error, what, path, "give an absolute one") from error
