"""Shared memory by hand: a place for one message, and two semaphores that say whose turn it is.

    put: free.acquire()  copy in   filled.release()
    take: filled.acquire()  copy out  free.release()

The textbook's way to use shared memory. A process that is killed between its two steps blocks the
other one for ever.
"""

from __future__ import annotations

import mmap

import posix_ipc


class SharedSlot:
    """One message of one size; made before a fork, used on both sides."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._memory = mmap.mmap(-1, max(size, 1))
        self._free = posix_ipc.Semaphore(None, posix_ipc.O_CREX, initial_value=1)
        self._filled = posix_ipc.Semaphore(None, posix_ipc.O_CREX, initial_value=0)
        # Mapped already, so they need no names: nothing is left by whoever is killed.
        self._free.unlink()
        self._filled.unlink()

    def put(self, data: bytes) -> None:
        """Wait until it is empty, and copy a message in."""
        self._free.acquire()
        self._memory[: self._size] = data
        self._filled.release()

    def take(self) -> bytes:
        """Wait for a message, and copy it out."""
        self._filled.acquire()
        data = self._memory[: self._size]
        self._free.release()
        return data

    def close(self) -> None:
        """Give it back."""
        self._memory.close()
        self._free.close()
        self._filled.close()
