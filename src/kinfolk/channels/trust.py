"""Who may send a pickle, and who may own a name.

Loading a pickle runs whatever it says, so a pickle is taken only from a process of our own effective user,
or of root. Who that is, the kernel says: SO_PEERCRED on stream and seqpacket sockets (in both directions, as anybody may
squat an abstract name), SCM_CREDENTIALS on datagrams; for FIFOs and queues, which carry no credentials, the owner and
the permission bits of the object tell who could have written to it.
"""

from __future__ import annotations

import os
import socket
import stat
import struct

from kinfolk.channels.address import Codec
from kinfolk.errors import UntrustedPeer
from kinfolk.identity import Peer

_UCRED = struct.Struct("@iII")


def peer_of(sock: socket.socket) -> Peer:
    """The process at the other end of a connected Unix socket, as it was when it connected or listened."""
    return Peer(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def is_trusted(uid: int) -> bool:
    """Whether a process of this user may send us a pickle."""
    return uid in (os.geteuid(), 0)


def check_peer(peer: Peer, codec: Codec, subject: str) -> None:
    """Raise UntrustedPeer when this peer may not take part in a channel with this codec."""
    if codec == "pickle" and not is_trusted(peer.uid):
        raise UntrustedPeer(
            f"the peer is process {peer.pid} of user {peer.uid}",
            subject=subject,
            why=f"pickles are exchanged only with processes of user {os.geteuid()} or root",
            remedy="open both ends with codec=msgpack",
        )


_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def check_memory(owner: int, mode: int, subject: str) -> None:
    """Raise UntrustedPeer when memory that peers share is, or could be written by, another user: whatever the codec."""
    check_object(owner, 0, "pickle", subject, receiving=True)
    if mode & _OTHERS_WRITE:
        raise UntrustedPeer(
            f"users beside the owner may write here (mode {stat.S_IMODE(mode):04o})",
            subject=subject,
            why="who may write into this memory can confuse all who read it",
            remedy="chmod 0600 it, if nobody else has it open",
        )


def check_object(owner: int, mode: int, codec: Codec, subject: str, *, receiving: bool) -> None:
    """Raise UntrustedPeer when a named object could have been filled, or squatted, by another user.

    ``owner`` and ``mode`` are the object's. A sender may use another user's name if it sends no pickles; a receiver may
    not, for it would take messages that were meant for that user, or for nobody.
    """
    if not is_trusted(owner) and (receiving or codec == "pickle"):
        raise UntrustedPeer(
            f"the name belongs to user {owner}",
            subject=subject,
            why=f"this process is of user {os.geteuid()}",
            remedy="choose another name"
            if receiving
            else "if that is meant, send with codec=msgpack",
        )
    if codec == "pickle" and mode & _OTHERS_WRITE:
        raise UntrustedPeer(
            f"users beside the owner may write here (mode {stat.S_IMODE(mode):04o})",
            subject=subject,
            why="pickles are taken only from processes of our own user or root",
            remedy="open both ends with codec=msgpack, or chmod 0600 the name",
        )
