"""Whose memory is attached to. Its owner may change what is in it at any time, and cut a named one short."""

from __future__ import annotations

import os

from kinfolk.errors import UntrustedPeer


def check_owner(owners: set[int], named: int | None, subject: str) -> None:
    """Raise UntrustedPeer when it belongs to anybody but us, root, and the user who was named."""
    strangers = owners - {os.geteuid(), 0, named}
    if strangers:
        stranger = strangers.pop()
        raise UntrustedPeer(
            f"this is memory of user {stranger}",
            subject=subject,
            why=f"this process is of user {os.geteuid()}, and a name may be anybody's",
            remedy=f"if that is meant, attach with owner={stranger}",
        )
