"""Whose a kernel object is, and what it lets others do: a name, or a key, may be anybody's.

Its owner may change what is in it at any time.
"""

from __future__ import annotations

import os
from typing import Any

from kinfolk.addresses import read_mode
from kinfolk.errors import InvalidValue, UntrustedPeer


def mode_of(mode: Any, subject: str) -> int:
    """The permission bits that were asked for, as a number or as octal text. Raises InvalidValue."""
    try:
        return read_mode(mode)
    except (ValueError, TypeError) as error:
        raise InvalidValue(
            f"mode={mode!r} makes no sense",
            subject=subject,
            why=str(error),
            remedy="give it as 0o600",
        ) from None


def check_user(owner: Any, subject: str) -> None:
    """Raise InvalidValue for an ``owner=`` that is no user; None is nobody besides us."""
    if owner is None:
        return
    if not isinstance(owner, int) or isinstance(owner, bool) or owner < 0:
        raise InvalidValue(
            f"owner={owner!r} is no user's number", subject=subject, remedy="see id -u NAME"
        )


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
