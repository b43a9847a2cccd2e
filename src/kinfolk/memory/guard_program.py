"""The guard's own program: waits until nobody uses a piece of memory any more, and removes its name. See `kinfolk.memory.guard`.

    python -I -S guard_program.py PATH [SHMID KEY]        the file as standard input

It imports next to nothing, and nothing of kinfolk, for it may stay for days. What it holds is the file alone: no
terminal, no directory, nobody's pipe.
"""

import fcntl
import os
import sys


def main() -> None:
    """Step aside, wait, remove."""
    if os.fork():  # nobody has to wait for us
        os._exit(0)
    os.setsid()
    os.chdir("/")
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 0:
            try:
                os.close(number)
            except OSError:  # the one that lists them
                continue
    fcntl.flock(0, fcntl.LOCK_EX)  # every user has it shared
    path, segment = sys.argv[1], sys.argv[2:]
    if segment:  # also when who made it was killed before the file had its name
        _remove_segment(int(segment[0]), int(segment[1]))
    if _is_ours(path):
        os.unlink(path)
        if segment:
            _remove_if_empty(os.path.dirname(path))


def _is_ours(path: str) -> bool:
    try:
        there, ours = os.lstat(path), os.fstat(0)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _remove_if_empty(directory: str) -> None:
    """The runtime directory, under its lock (see kinfolk.runtime_directory)."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        os.rmdir(directory)
    except OSError:  # others use it
        return


def _remove_segment(number: int, key: int) -> None:
    import ctypes

    remove, look = 0, 2  # IPC_RMID, IPC_STAT
    status = (ctypes.c_int * 64)()  # struct shmid_ds, which begins with the key
    libc = ctypes.CDLL(None)
    if libc.shmctl(number, look, status) == 0 and status[0] == key:
        libc.shmctl(number, remove, None)


if __name__ == "__main__":
    main()
