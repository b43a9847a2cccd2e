"""Lending the terminal of standard input to a job, as a shell does (tcsetpgrp(3)).

    our group is in the foreground ── lend ──> the job's is; Ctrl-C and Ctrl-Z go there, and it may read
                                  <── take_back ── it stopped or ended

Rules:
1. It is lent only while it is ours: a job of a shell that was put into the background gets no terminal.
2. It is taken back only from whom it was lent to, or from a group that is gone: the shell may have taken it meanwhile.
3. SIGTTOU and SIGTTIN have to be blocked: the kernel sends them to a background group that calls tcsetpgrp, or reads.
"""

from __future__ import annotations

import os

#: Standard input.
TERMINAL = 0

#: The number of a group that has none here, as in `unshare --pid --fork`: of our own as well as of any other.
_OUTSIDE = 0


def is_ours() -> bool:
    """Whether standard input is our session's terminal, with our group in its foreground."""
    own = os.getpgrp()
    try:
        return os.tcgetpgrp(TERMINAL) == own and (own != _OUTSIDE or _may_read())
    except OSError:  # no terminal, or another session's, or it hung up
        return False


def lend(group: int) -> bool:
    """Put a group into the foreground if ours is there; whether it is."""
    return is_ours() and _set(group)


def take_back(group: int) -> bool:
    """Put our own group into the foreground, from that one or from one that is gone; whether it was there."""
    try:
        holder = os.tcgetpgrp(TERMINAL)
    except OSError:
        return False
    return (holder == group or _is_gone(holder)) and _set(os.getpgrp())


def _set(group: int) -> bool:
    try:
        os.tcsetpgrp(TERMINAL, group)
    except OSError:  # it hung up just now, or the group has gone
        return False
    return True


def _is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _may_read() -> bool:
    """What the kernel says to a read of nothing: it refuses it in the background. Raises OSError without a terminal."""
    terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        os.read(terminal, 0)
    except BlockingIOError:  # somebody else is reading
        return True
    except OSError:
        return False
    finally:
        os.close(terminal)
    return True
