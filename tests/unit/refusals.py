"""A kernel that says no: one system call of this process fails from now on, by a seccomp filter (seccomp(2)).

For forked children: there is no way back. The filter is a few words of BPF, loaded as any user may.
"""

from __future__ import annotations

import ctypes
import os
import struct

import pytest

_NUMBERS: dict[str, dict[str, int]] = {
    "x86_64": {
        "openat": 257,
        "fcntl": 72,
        "flock": 73,
        "mmap": 9,
        "madvise": 28,
        "fchmod": 91,
        "linkat": 265,
        "fallocate": 285,
        "memfd_create": 319,
        "shmget": 29,
        "shmat": 30,
        "shmctl": 31,
        "msync": 26,
        "clone": 56,
        "clone3": 435,
        "vfork": 58,
        "mkdir": 83,
        "unlink": 87,
        "semget": 64,
        "semctl": 66,
        "semtimedop": 220,
        "pwrite64": 18,
        "timer_create": 222,
        "newfstatat": 262,
    },
    "aarch64": {
        "openat": 56,
        "fcntl": 25,
        "flock": 32,
        "mmap": 222,
        "madvise": 233,
        "fchmod": 52,
        "linkat": 37,
        "fallocate": 47,
        "memfd_create": 279,
        "shmget": 194,
        "shmat": 196,
        "shmctl": 195,
        "msync": 227,
        "clone": 220,
        "clone3": 435,
        "semget": 190,
        "semctl": 191,
        "semtimedop": 192,
        "pwrite64": 68,
        "timer_create": 107,
        "newfstatat": 79,
    },
}

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_NUMBER, _ARGUMENTS = 0, 16  # offsets in struct seccomp_data


def refuse(
    call: str, code: int, *, of_files: bool = False, command: int | None = None, at: int = 1
) -> None:
    """Let a system call fail with an errno; ``of_files``: mmap(2) of descriptors alone; with a ``command``: if that is the second
    argument, or the one ``at`` another place.
    """
    numbers = _NUMBERS.get(os.uname().machine)
    if numbers is None or call not in numbers:
        pytest.skip(f"the number of {call} is not known for {os.uname().machine}")
    lines = [(_LOAD, 0, 0, _NUMBER), (_EQUAL, 0, -1, numbers[call])]
    if of_files:
        lines += [(_LOAD, 0, 0, _ARGUMENTS + 4 * 8), (_EQUAL, -1, 0, 0xFFFFFFFF)]
    if command is not None:
        lines += [(_LOAD, 0, 0, _ARGUMENTS + 8 * at), (_EQUAL, 0, -1, command)]
    lines += [(_RETURN, 0, 0, _ERRNO | code), (_RETURN, 0, 0, _ALLOW)]
    # -1 jumps to the end, which allows.
    end = len(lines) - 1
    program = b"".join(
        struct.pack("HBBI", op, *(end - line - 1 if to < 0 else to for to in (yes, no)), value)
        for line, (op, yes, no, value) in enumerate(lines)
    )
    kept = ctypes.create_string_buffer(program)
    filter_ = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, filtering = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, filtering, filter_):
        pytest.skip(f"no seccomp here: {os.strerror(ctypes.get_errno())}")
