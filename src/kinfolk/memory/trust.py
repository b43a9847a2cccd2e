"""Whose memory is attached to. Its owner may change what is in it at any time, and cut a named one short."""

from __future__ import annotations

from kinfolk import ownership


def check_owner(owners: set[int], named: int | None, subject: str) -> None:
    """Raise UntrustedPeer when it belongs to anybody but us, root, and the user who was named."""
    ownership.check_owner(owners, named, "memory", subject, "attach")
