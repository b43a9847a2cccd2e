"""``sysv-shm:KEY`` — System V shared memory (shmget(2), sysvipc(7)), as the source shows it.

    sysv-shm:1234        a segment by its key, decimal or hexadecimal (0x4d2)
    sysv-shm:/path#7     by the key that ftok(3) makes of a file and a project number (or one letter)
    sysv-shm:            a new one without a key (IPC_PRIVATE), for forks, spawned functions, and C programs that get its id

Options: size, mode, lifetime. With lifetime="name", the default for a key, it stays until `unlink`. With "peers" the last
user of kinfolk's removes it; programs that are attached by other means keep what they have.

Rules:
1. The kernel gives it its key at once: there is no moment at which it is complete and has none. But it is all zeros, and has its
   size and its mode, whatever the umask.
2. Who may have written to it is told by its owner, and its creator, who keeps the owner's rights.
3. There is no file system that could be full; whether the machine has the memory is looked at before (`kinfolk.memory.space`).
   What is created here has its pages then. What a C program made gets each when it is touched, as shmget(2) has it.
"""

from __future__ import annotations

import contextlib
import errno
import os

from kinfolk import marks, runtime_directory
from kinfolk._native import sysv_shm_get, sysv_shm_remove
from kinfolk.descriptors import Descriptor
from kinfolk.errors import AddressError, AlreadyExists, KinfolkError, from_os_error
from kinfolk.memory.address import Address, Lifetime
from kinfolk.memory.contract import Attaching, Kind, Segment
from kinfolk.memory.membership import Membership, remove_if_unused
from kinfolk.memory.named import check_size, missing
from kinfolk.memory.space import refuse_beyond_memory
from kinfolk.memory.sysv_limits import refused
from kinfolk.memory.sysv_segment import (
    GONE,
    Status,
    SysvSegment,
    remove_if_abandoned,
    remove_if_ours,
    status_of,
    sweep,
)
from kinfolk.memory.trust import check_owner
from kinfolk.nameless_file import NamelessFile
from kinfolk.rendezvous import NotYet
from kinfolk.sysv_keys import key_of

_IPC_CREAT, _IPC_EXCL, _IPC_PRIVATE = 0o1000, 0o2000, 0


class Sysv(Kind):
    """System V shared memory."""

    scheme = "sysv-shm"

    def is_named_at_once(self, address: Address) -> bool:
        """Rule 1."""
        return bool(address.name)

    def check(self, address: Address) -> None:
        """A key is a number, or comes of a file."""
        if address.name:
            _key_of(address)
        elif address.options.lifetime == "name":
            raise AddressError(
                "a segment without a key lives as long as its users",
                subject=str(address),
                remedy="leave lifetime out, or write sysv-shm:KEY",
            )

    def create(self, address: Address, size: int) -> Segment:
        """shmget(2) with IPC_EXCL, attach, and have its pages."""
        refuse_beyond_memory(size, str(address))
        segment = _create(address, size)
        try:
            segment.reserve()
        except BaseException:
            with contextlib.suppress(OSError):
                sysv_shm_remove(segment.identifier())
            segment.close()
            raise
        return segment

    def attach(self, address: Address, how: Attaching) -> Segment:
        """shmget(2) without IPC_CREAT, and attach."""
        subject = str(address)
        if not address.name:
            raise AddressError(
                "a segment without a key can't be found",
                subject=subject,
                remedy="fork, pass it to a spawned function, or create it with a key",
            )
        if how.private:
            raise AddressError(
                "System V memory can't be private",
                subject=subject,
                remedy="copy it, or use file: or shm:",
            )
        try:
            return _attach(address, how)
        except KinfolkError:
            raise
        except PermissionError as error:
            remedy = "let its owner chmod() it" if how.read_only else "attach read-only"
            raise from_os_error(error, "can't attach", subject, remedy) from error
        except OSError as error:
            if error.errno == errno.ENOENT or error.errno in GONE:
                raise missing(subject) from None
            raise


def _key_of(address: Address) -> int:
    return key_of(address.scheme, address.name, "kin.SharedMemory.create('sysv-shm:')")


# ── creating ─────────────────────────────────────────────────────────────────────────────────


def _create(address: Address, size: int) -> SysvSegment:
    if not address.name:
        return _create_keyless(address, size)
    if address.options.lifetime == "peers":
        return _create_for_peers(address, size)
    return _first(address, _new(address, _key_of(address), size), "name")


def _create_keyless(address: Address, size: int) -> SysvSegment:
    sweep()
    number = _new(address, _IPC_PRIVATE, size, for_peers=True)
    segment = _first(address, number, "peers")
    sysv_shm_remove(number)
    return segment


def _create_for_peers(address: Address, size: int) -> SysvSegment:
    key = _key_of(address)
    number = _new(address, key, size, for_peers=True)
    try:
        # Before it is attached: who is killed until then leaves what nobody ever had, and the next may remove.
        membership = _first_member(number, key)
    except BaseException:
        with contextlib.suppress(OSError):
            sysv_shm_remove(number)
        raise
    return _first(address, number, "peers", membership)


def _first_member(number: int, key: int) -> Membership:
    path = _members_of(number)
    members, membership = NamelessFile(path, made_in=os.path.dirname(os.path.dirname(path))), None
    try:
        fd = members.descriptor.fileno()
        marks.mark(fd, 0o600)
        membership = Membership.begin(fd, path, lambda: remove_if_ours(number), (number, key))
        with runtime_directory.lock_for_leaving() as locked:
            if not locked:
                raise NotYet
            members.link()
    except BaseException:
        if membership is not None:
            membership.leave()
        raise
    finally:
        members.close()
    return membership


def _first(
    address: Address, number: int, lifetime: Lifetime, membership: Membership | None = None
) -> SysvSegment:
    """Attach to what was created just now; it is removed when that fails."""
    subject = str(address)
    try:
        return SysvSegment(
            number,
            subject,
            read_only=False,
            anonymous=not address.name,
            lifetime=lifetime,
            membership=membership,
        )
    except BaseException as error:
        with contextlib.suppress(OSError):
            sysv_shm_remove(number)
        if membership is not None:
            membership.leave()
        if isinstance(error, PermissionError) and not isinstance(error, KinfolkError):
            raise from_os_error(
                error, "can't attach to what was created", subject, "give a mode= that lets you in"
            ) from error
        raise


def _new(address: Address, key: int, size: int, *, for_peers: bool = False) -> int:
    mode = 0o600 if address.options.mode is None else address.options.mode
    mode = marks.sysv_marked(mode) if for_peers else marks.unmarked(mode)
    while True:
        try:
            return sysv_shm_get(key, size, _IPC_CREAT | _IPC_EXCL | mode)
        except FileExistsError:
            _refuse_existing(key, str(address))
        except OSError as error:
            raise refused(error, size, str(address)) from error


def _refuse_existing(key: int, subject: str) -> None:
    """Raise AlreadyExists; what has lifetime="peers" and no user left is removed first. Raises NotYet."""
    there: Status | None = None
    with contextlib.suppress(OSError):
        number = sysv_shm_get(key, 0, 0)
        there = status_of(number)
        if there.ours:
            with runtime_directory.try_lock():
                if _remove_if_stale(number):
                    return
    why = "another user's segment has it"
    if there is not None:
        why = f"user {there.owner} has {there.size} bytes there, {there.attachments} attached"
    raise AlreadyExists("the key is taken", subject=subject, why=why)


# ── attaching ────────────────────────────────────────────────────────────────────────────────


def _attach(address: Address, how: Attaching) -> SysvSegment:
    subject, key = str(address), _key_of(address)
    number = sysv_shm_get(key, 0, 0)
    status = status_of(number)
    for user in (status.owner, status.creator):
        check_owner({user}, how.owner, subject)
    check_size(status.size, address)
    membership, for_peers = None, status.for_peers
    if status.ours:
        membership = _join(number, subject)
        for_peers = membership is not None
    try:
        return SysvSegment(
            number,
            subject,
            read_only=how.read_only,
            anonymous=False,
            lifetime="peers" if for_peers else "name",
            membership=membership,
        )
    except BaseException:
        if membership is not None:
            membership.leave()
        raise


def _join(number: int, subject: str) -> Membership | None:
    """Be one of its users; None for what is not ours. Raises NotFound for what has no user, which is removed; NotYet."""
    path = _members_of(number)
    with runtime_directory.try_lock():
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            members = Descriptor.opened(subject, os.open, path, flags)
        except FileNotFoundError:
            if _is_being_made(number, subject):
                raise NotYet from None
            return None  # somebody else's who gave it such a mode
        try:
            return Membership.join(members.fileno(), path, lambda: remove_if_ours(number))
        except FileNotFoundError:
            raise missing(subject) from None
        finally:
            members.close()


def _is_being_made(number: int, subject: str) -> bool:
    """Whether members are still to come. Raises NotFound for what has gone, or was left in the making and is removed."""
    status = status_of(number)
    if status.key == _IPC_PRIVATE or remove_if_abandoned(number):
        raise missing(subject)
    return not status.attached_at


# ── the users of a segment ───────────────────────────────────────────────────────────────────


def _members_of(number: int) -> str:
    """The file by which its users are known, in this IPC namespace: some of them share a /dev/shm."""
    namespace = os.stat("/proc/self/ns/ipc").st_ino
    return f"{runtime_directory.path_name()}/sysv-shm-{namespace}-{number}"


def _remove_if_stale(number: int) -> bool:
    """Remove it if its users have all gone, or its maker before there were any; whether it was. Raises OSError."""
    try:
        return remove_if_unused(_members_of(number), also=lambda: remove_if_ours(number))
    except FileNotFoundError:
        return remove_if_abandoned(number)


KIND: Kind = Sysv()
