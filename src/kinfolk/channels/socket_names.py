"""Names of Unix sockets: made, probed, removed. Shared by stream, seqpacket and datagram sockets.

    /run/app.sock       a file of type socket; it outlives the socket, and then is *stale*
    @app                an abstract name: no file and no mode, and gone with its last holder

A socket file is made complete before it has its name, all under `runtime_directory.lock()`:

    fchmod on the socket, bind       /run/.app.sock.5f0c…   never more permissions than asked for
    chmod to what the umask took     /run/.app.sock.5f0c…   exactly what was asked for
    listen                           /run/.app.sock.5f0c…   whoever finds the name can connect
    link, or rename over a stale one /run/app.sock

Rules:
1. What is at the name already is replaced only if it is a socket, ours, and nobody holds it.
2. Whether somebody does is asked by connect(2) with a *datagram* socket: ECONNREFUSED when nobody, EPROTOTYPE from
   a stream or seqpacket socket, listening or not yet; so a probe is never taken for a client.
3. The last holder of a socket removes its name: after closing its own descriptor it asks as in rule 2. A forked
   copy that closes finds its parent still there, and the other way round.
4. The directory is opened once; everything in it happens through that descriptor, and the final name is never
   followed if it is a symlink. getsockname(2) therefore tells the temporary name, here and to a peer.

A kill leaves at worst a temporary file, or a stale name, which the next `bind` replaces. Programs that are not kinfolk take no
lock: one that makes the same name between the probe and the rename, in some microseconds, would lose it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

from kinfolk import runtime_directory
from kinfolk.channels.address import Address
from kinfolk.errors import AddressError, Busy, NotFound, Unsupported, UntrustedPeer
from kinfolk.interest import Steps, ready
from kinfolk.rendezvous import NotYet, retry, wait_for_path

#: unix(7): sun_path has 108 bytes, and portable programs need one of them for a NUL.
LONGEST = 107

DEFAULT_MODE = 0o600

_PATIENCE = 50  # tries of 1 ms to get the lock for removing a name
_LISTENING_SOON = 0.005  # between bind(2) and listen(2) of an alien; no event tells


def sockaddr(address: Address) -> bytes:
    """What connect(2) takes for the name of an address. Raises AddressError for one that is empty or too long."""
    name = os.fsencode(address.name)
    if name in (b"", b"@"):
        raise AddressError(
            "the name is missing",
            subject=str(address),
            remedy=f"write {address.scheme}:/path/of/the/socket, or {address.scheme}:@name",
        )
    if len(name) > LONGEST:
        raise AddressError(
            f"the name has {len(name)} bytes, and a socket's can have {LONGEST}",
            subject=str(address),
            why="so large is sun_path, see unix(7)",
            remedy="choose a shorter path, or a relative one from a working directory nearby",
        )
    return b"\0" + name[1:] if name.startswith(b"@") else name


def is_abstract(address: Address) -> bool:
    """Whether the name is no file."""
    return address.name.startswith("@")


@dataclass(frozen=True, slots=True)
class SocketName:
    """A name that `bind` made. It holds nothing open, and may be handed to other processes."""

    #: None for an abstract name
    path: str | None
    device: int = 0
    inode: int = 0
    owner: int = 0

    def release(self) -> None:
        """Remove the name if nobody holds its socket any more: call this after closing it. Never raises or waits."""
        # Under another user's lock the probe and the removal would not be one step.
        if self.path is None or os.geteuid() != self.owner:
            return
        # Whatever goes wrong, a stale name stays for the next to replace.
        with contextlib.suppress(OSError, NotYet):
            if not self._is_there() or is_held(self.path):
                return
            with _lock_soon():
                if self._is_there() and not is_held(self.path):
                    os.unlink(self.path)

    def unlink(self) -> None:
        """Remove the name whoever holds its socket, if it still is that socket's. Raises Unsupported, OSError."""
        if self.path is None:
            raise Unsupported(
                "an abstract name can't be removed",
                remedy="it vanishes when its last holder closes it",
            )
        if self._is_there():
            os.unlink(self.path)

    def _is_there(self) -> bool:
        assert self.path is not None
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == (self.device, self.inode)


def _lock_soon() -> runtime_directory.Lock:
    """The lock, which others hold for microseconds; NotYet if one of them is stopped with it."""
    for _ in range(_PATIENCE):
        with contextlib.suppress(NotYet):
            return runtime_directory.try_lock()
        time.sleep(0.001)
    return runtime_directory.try_lock()


def bind(sock: socket.socket, address: Address, *, backlog: int | None = None) -> Steps[SocketName]:
    """Give a fresh Unix socket its name, and let it listen if there is a ``backlog``.

    The mode is the option's, whatever the umask, else 0600. Raises Busy when a live socket has the name, AddressError
    when something else has, UntrustedPeer when another user's has, NotFound for a missing directory.
    """
    where = sockaddr(address)
    if is_abstract(address):
        return _bind_abstract(sock, where, address, backlog)
    return _bind_path(sock, address, backlog)


def _bind_abstract(
    sock: socket.socket, where: bytes, address: Address, backlog: int | None
) -> Steps[SocketName]:
    if address.options.mode is not None:
        raise AddressError(
            "an abstract name has no mode",
            subject=str(address),
            why="every user of this network namespace can connect to it",
            remedy=f"use {address.scheme}:/path, or tell users apart by their credentials (peer)",
        )
    try:
        sock.bind(where)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _busy(address) from None
        raise
    if backlog is not None:
        sock.listen(backlog)
    return ready(SocketName(None))


def _bind_path(sock: socket.socket, address: Address, backlog: int | None) -> Steps[SocketName]:
    path = os.path.abspath(address.name)
    head, base = os.path.split(path)
    if not base or address.name.endswith(("/", "/.", "/..")):
        raise AddressError(
            "this is a directory", subject=str(address), remedy="add the socket's name"
        )
    try:
        directory = os.open(head, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(
            "there is no such directory", subject=head, remedy="create it first"
        ) from None
    try:
        with (yield from runtime_directory.lock()):
            temporary = _temporary(base, directory)
            sock_mode = DEFAULT_MODE if address.options.mode is None else address.options.mode
            os.fchmod(sock.fileno(), sock_mode)
            sock.bind(f"/proc/self/fd/{directory}/{temporary}")
            try:
                status = _set_mode(temporary, directory, sock_mode)
                if backlog is not None:
                    sock.listen(backlog)
                _put_in_place(temporary, base, directory, address)
            finally:
                with contextlib.suppress(FileNotFoundError):  # renamed
                    os.unlink(temporary, dir_fd=directory)
        return SocketName(path, status.st_dev, status.st_ino, os.geteuid())
    finally:
        os.close(directory)


def _temporary(base: str, directory: int) -> str:
    """A name that nobody guesses; begins like the final one, for those who list sockets."""
    suffix = f".{secrets.token_hex(6)}"
    room = LONGEST - len(f"/proc/self/fd/{directory}/.{suffix}")
    start = os.fsdecode(os.fsencode(base)[:room])
    return f".{start}{suffix}"


def _set_mode(name: str, directory: int, mode: int) -> os.stat_result:
    """Undo what the umask took away, on the file itself and not on a name that might be changed."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
            os.chmod(f"/proc/self/fd/{fd}", mode)
        return os.fstat(fd)
    finally:
        os.close(fd)


def _put_in_place(temporary: str, base: str, directory: int, address: Address) -> None:
    try:
        # link, unlike rename, never replaces anything.
        os.link(temporary, base, src_dir_fd=directory, dst_dir_fd=directory)
        return
    except FileExistsError:
        _check_replaceable(base, directory, address)
    os.rename(temporary, base, src_dir_fd=directory, dst_dir_fd=directory)


def _check_replaceable(base: str, directory: int, address: Address) -> None:
    try:
        found = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return
    try:
        status = os.fstat(found)
        check_socket(status, address)
        if status.st_uid != os.geteuid():
            raise UntrustedPeer(
                f"the name belongs to user {status.st_uid}",
                subject=str(address),
                why=f"this process is of user {os.geteuid()}",
                remedy="choose another name, or let its owner remove it",
            )
        if _has_holder(f"/proc/self/fd/{found}"):
            raise _busy(address)
    finally:
        os.close(found)


def check_socket(status: os.stat_result, address: Address) -> None:
    """Raise AddressError when what is at the name is no socket, which is never replaced."""
    if not stat.S_ISSOCK(status.st_mode):
        raise AddressError(
            f"there is a {_KINDS.get(stat.S_IFMT(status.st_mode), 'device')} at that name, not a socket",
            subject=str(address),
            remedy="choose another name, or remove it",
        )


def is_held(path: str) -> bool:
    """Whether some process holds the socket of this file, listening or not. Raises FileNotFoundError; a symlink is not followed."""
    found = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return _has_holder(f"/proc/self/fd/{found}")
    finally:
        os.close(found)


def _has_holder(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        # Any other answer (EPROTOTYPE, EPERM from a connected datagram socket, EACCES) is no proof of its death.
        return probe.connect_ex(path) != errno.ECONNREFUSED


def connecting(address: Address, attempt: Callable[[bytes], socket.socket]) -> Steps[socket.socket]:
    """A connected socket: calls ``attempt`` with the sockaddr until somebody is there.

    ``attempt`` makes a socket and connects it, or lets the OSError of connect(2) through with nothing left open.
    A missing name, a stale one, and a full backlog count as not there yet. Raises AddressError, NotFound.
    """
    where = sockaddr(address)

    def once() -> socket.socket:
        try:
            return attempt(where)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
            raise _not_yet(address, error) from None
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                raise AddressError(
                    "the socket there is of another type",
                    subject=str(address),
                    remedy="one of unix:, unix-seqpacket: and unix-dgram: reaches it",
                ) from None
            raise

    return retry(once) if is_abstract(address) else wait_for_path(address.name, once)


def _not_yet(address: Address, error: OSError) -> NotYet:
    if is_abstract(address) or isinstance(error, FileNotFoundError):
        return NotYet()
    try:
        check_socket(os.stat(address.name), address)
        coming = isinstance(error, BlockingIOError) or _has_holder(address.name)
    except FileNotFoundError:
        coming = True
    # A stale name is replaced by a rename, of which the kernel tells; a listen(2) is not told of.
    return NotYet(again_in=_LISTENING_SOON if coming else None)


def _busy(address: Address) -> Busy:
    return Busy(
        "a live socket has this name",
        subject=str(address),
        remedy="choose another name, or end the process that has it (ss -xlp)",
    )


_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "FIFO",
}
