"""Waiting for a name to appear, or for somebody to come to it.

Where the name is a path, the kernel tells: inotify(7) on its directory (something was created or renamed
there) and on the file itself (somebody opened it). Where nothing tells, abstract sockets, TCP ports, queues, there is
only trying again, from 1 ms, doubling up to 50 ms; this happens while an end is being opened, never
afterwards, and the death of a peer is never learned like this.

Rules:
1. The watch is set before the attempt, so that what happens between them is not missed.
2. An attempt that finds nobody raises `NotYet`, and leaves nothing open.
3. When there is no inotify to be had (fs.inotify.max_user_instances, max_user_watches, a directory that may
   not be read), trying again replaces it.
4. Directory and file may be new ones after each event, and are watched anew.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import TypeVar

from kinfolk._native import inotify_add_watch, inotify_init
from kinfolk.descriptors import Descriptor
from kinfolk.errors import NotFound
from kinfolk.interest import Interest, Steps

T = TypeVar("T")

_SHORTEST, _LONGEST = 0.001, 0.05

# inotify(7)
_IN_ATTRIB, _IN_OPEN, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE_SELF = 0x4, 0x20, 0x80, 0x100, 0x400
_IN_MOVE_SELF = 0x800
_IN_DONT_FOLLOW, _IN_EXCL_UNLINK = 0x02000000, 0x04000000

_DIRECTORY_EVENTS = (
    _IN_CREATE | _IN_MOVED_TO | _IN_ATTRIB | _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_EXCL_UNLINK
)
_FILE_EVENTS = _IN_OPEN | _IN_ATTRIB | _IN_DELETE_SELF | _IN_DONT_FOLLOW


class NotYet(Exception):
    """Nobody is there yet. ``again_in`` is seconds when no event on the path will tell of it."""

    def __init__(self, again_in: float | None = None) -> None:
        super().__init__()
        self.again_in = again_in


def wait_for_path(path: str, attempt: Callable[[], T]) -> Steps[T]:
    """Call ``attempt`` until it does not raise NotYet; between the calls, wait for events on ``path``.

    Raises NotFound when the directory does not exist, and what the attempt raises.
    """
    try:
        return attempt()
    except NotYet:
        directory = os.path.dirname(path) or "."
        if not os.path.isdir(directory):
            raise _no_directory(directory) from None
    try:
        inotify = Descriptor(inotify_init(), "inotify")
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        return (yield from retry(attempt))
    try:
        return (yield from _watch(inotify.fileno(), directory, path, attempt))
    except _CannotWatch:
        pass
    finally:
        inotify.close()
    return (yield from retry(attempt))


def _no_directory(directory: str) -> NotFound:
    return NotFound("there is no such directory", subject=directory, remedy="create it first")


class _CannotWatch(Exception):
    """The directory may not be read, or the user's watches are used up."""


def _set_watches(inotify: int, directory: str, path: str) -> None:
    # Watching the same one again changes nothing.
    try:
        inotify_add_watch(inotify, directory, _DIRECTORY_EVENTS)
        try:
            inotify_add_watch(inotify, path, _FILE_EVENTS)
        except FileNotFoundError:
            return
        except (
            PermissionError
        ):  # who may write there, but not read, sees from the directory that it is opened
            inotify_add_watch(inotify, directory, _DIRECTORY_EVENTS | _IN_OPEN)
    except FileNotFoundError:
        raise _no_directory(directory) from None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.ENOSPC):
            raise _CannotWatch from None
        raise


def _watch(inotify: int, directory: str, path: str, attempt: Callable[[], T]) -> Steps[T]:
    while True:
        _set_watches(inotify, directory, path)
        try:
            return attempt()
        except NotYet as not_yet:
            again_in = not_yet.again_in
        yield Interest(readable=(inotify,), again_in=again_in)
        with contextlib.suppress(BlockingIOError):
            os.read(inotify, 1 << 16)


def retry(attempt: Callable[[], T]) -> Steps[T]:
    """Call ``attempt`` until it does not raise NotYet, with pauses from 1 to 50 ms."""
    pause = _SHORTEST
    while True:
        try:
            return attempt()
        except NotYet as not_yet:
            yield Interest(again_in=not_yet.again_in or pause)
        pause = min(_LONGEST, pause * 2)
