"""What waits in the buffers of the kernel, by its own word: ioctl(2), ioctl_pipe(2), unix(7), tcp(7)."""

from __future__ import annotations

import array
import fcntl
import termios


def bytes_waiting(fd: int) -> int:
    """FIONREAD: bytes that can be read from a descriptor now."""
    return _asked(fd, termios.FIONREAD)


def bytes_unread(fd: int) -> int:
    """SIOCOUTQ: bytes that a socket has sent and its peer not taken; some kinds count what the kernel adds to each packet."""
    return _asked(fd, termios.TIOCOUTQ)  # the same number


def _asked(fd: int, question: int) -> int:
    answer = array.array("i", [0])
    fcntl.ioctl(fd, question, answer)
    return answer[0]
