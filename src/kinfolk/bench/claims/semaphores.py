"""Two semaphores, by which two processes of a test take turns."""

from __future__ import annotations

import posix_ipc


def posix_semaphores() -> tuple[posix_ipc.Semaphore, posix_ipc.Semaphore]:
    """Two at 0, which no name leads to."""
    made = [posix_ipc.Semaphore(None, posix_ipc.O_CREX, initial_value=0) for _ in range(2)]
    for semaphore in made:
        semaphore.unlink()
    return made[0], made[1]
