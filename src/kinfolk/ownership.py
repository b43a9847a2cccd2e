"""Whose a kernel object is: a name, or a key, may be anybody's. Its owner may change what is in it at any time."""

from __future__ import annotations

import os

from kinfolk.errors import UntrustedPeer


def check_owner(owners: set[int], named: int | None, what: str, subject: str, remedy: str) -> None:
    """Raise UntrustedPeer when it belongs to anybody but us, root, and the user who was named.

    ``what`` it is, as in "memory"; ``remedy`` is the verb of "… with owner=1000".
    """
    strangers = owners - {os.geteuid(), 0, named}
    if strangers:
        stranger = strangers.pop()
        raise UntrustedPeer(
            f"this is {what} of user {stranger}",
            subject=subject,
            why=f"this process is of user {os.geteuid()}, and a name may be anybody's",
            remedy=f"if that is meant, {remedy} with owner={stranger}",
        )
