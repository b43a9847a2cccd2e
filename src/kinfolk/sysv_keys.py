"""Keys of System V objects (sysvipc(7)), as they stand in an address: a number, or ``path#proj`` by way of ftok(3)."""

from __future__ import annotations

import sysv_ipc

from kinfolk.addresses import written
from kinfolk.errors import AddressError, from_os_error


def key_of(scheme: str, name: str, keyless: str, *, prefix: str | None = None) -> int:
    """The key in the name of an address, as the kernel has it: a signed number. Raises AddressError, NotFound.

    ``keyless`` says how an object without a key is got, ``prefix`` what people write before a key, by default the scheme.
    """
    subject = written(scheme, name)
    prefix = f"{scheme}:" if prefix is None else prefix
    path, hash_sign, project = name.rpartition("#")
    if hash_sign:
        return _key_of_file(prefix, subject, path, project)
    try:
        number = int(name, 16 if name[:2].lower() == "0x" else 10)
    except ValueError:
        raise AddressError(
            "this is no key",
            subject=subject,
            remedy=f"write {prefix}1234, {prefix}0x4d2, or {prefix}/path#7 for ftok(3)",
        ) from None
    if number == 0:
        raise AddressError(
            "key 0 is IPC_PRIVATE, which makes a new one every time",
            subject=subject,
            remedy=f"choose another key, or use {keyless} for one without",
        )
    if not 0 < number < 2**32:
        raise AddressError("a key has 32 bits", subject=subject, remedy="choose a smaller one")
    return _signed(number)


def _key_of_file(prefix: str, subject: str, path: str, project: str) -> int:
    try:
        number = ord(project) if len(project) == 1 and not project.isdecimal() else int(project, 0)
    except ValueError:
        number = 0
    if not 1 <= number <= 255:
        raise AddressError(
            f"{project!r} is no project of ftok(3)",
            subject=subject,
            remedy=f"write {prefix}/path#7, with a number from 1 to 255 or one letter",
        )
    try:
        key: int = sysv_ipc.ftok(path, number, silence_warning=True)
    except OSError as error:
        raise from_os_error(
            error, "ftok can't make a key", subject, "create the file first, on both sides"
        ) from error
    return _signed(key)


def _signed(key: int) -> int:
    return (key + 2**31) % 2**32 - 2**31
