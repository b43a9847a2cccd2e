"""The options of a start, checked before anything is done, and made a `Launch`.

Rules:
1. A bad value is an InvalidValue that says what, why and what to give instead; nothing was started, nothing stays open.
2. What is not asked for is left open: whoever starts it sees to it that it is as in this process now (inheritance.py).
3. Security first: ``user`` brings its own groups along, unless they are named; else a child would keep root's.
"""

from __future__ import annotations

import codecs
import difflib
import grp
import os
import pwd
import resource
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict, TypeGuard, TypeVar

from kinfolk.errors import InvalidValue
from kinfolk.processes import ignored_signals, mark, resource_limits
from kinfolk.processes.custody import Containment
from kinfolk.processes.launch import Launch
from kinfolk.processes.program import (
    USUAL_PATH,
    Word,
    candidates,
    encode,
    encode_environment,
    encode_words,
)
from kinfolk.processes.streams import HasDescriptor, MovesToChild, Stream, Streams

T = TypeVar("T")


class Options(TypedDict, total=False):
    """The options of a start. All of them may be left out."""

    #: the whole environment; None: that of this process
    env: Mapping[str, str] | Mapping[bytes, bytes] | None
    #: the working directory, entered as the child's user; a relative program is looked for there
    cwd: Word | None
    #: None: that of this process; or a descriptor, a file, an end of a channel, PIPE, DEVNULL, for stderr also STDOUT
    stdin: Stream
    stdout: Stream
    stderr: Stream
    #: whether the file objects of PIPE take text
    text: bool
    #: its encoding (UTF-8)
    encoding: str | None
    #: further descriptors, files, ends of channels; they keep their numbers
    pass_fds: Iterable[int | HasDescriptor | MovesToChild]
    #: bits that new files do not get (umask(2))
    umask: int | None
    #: a name or number; brings its group and supplementary groups along
    user: str | int | None
    group: str | int | None
    #: supplementary groups; [] for none
    extra_groups: Iterable[str | int] | None
    #: is added to the niceness, -40 to 40 (nice(2))
    nice: int
    #: {"nofile": 1024, resource.RLIMIT_CORE: (0, 0)}: soft and hard, or both in one; None for no limit
    rlimits: Mapping[str | int, int | tuple[int | None, int | None] | None]
    #: whether it leads a new session (setsid(2)), and so a new process group
    new_session: bool
    #: joins this process group; 0 leads a new one
    process_group: int | None
    #: the directory of a cgroup of version 2 (cgroups(7))
    cgroup: Word | None


def prepared(
    argv: Sequence[Word], options: Options, containment: Containment, *, detach: bool = False
) -> tuple[Launch, Streams]:
    """Check everything; the launch, and the streams, of which ``started`` or ``failed`` has to be called.

    Raises InvalidValue, LimitReached.
    """
    words = encode_words(argv)
    fields: dict[str, Any] = {"argv": words}
    for name in options:  # only what is given costs anything
        fields |= _CHECKS.get(name, _unknown)(options, name)
    lines = fields.get("env")
    fields["executables"] = candidates(words[0], None if lines is None else _path_in(lines))
    if containment == "direct" and not detach:
        fields["death_signal"] = signal.SIGKILL
    elif not detach:
        fields["rlimits"] = [*fields.get("rlimits", ()), *mark.limits()]
    fields["ignored"] = ignored_signals.interrupts()
    fields["ignored_as_here"] = True
    streams = _streams(options)  # the last to fail, for it leaves something open
    fields["descriptors"] = [(here, there) for there, here in streams.numbers.items()]
    return Launch(**fields), streams


#: Fields of the launch.
Fields = dict[str, object]


def _unknown(_: Options, name: str) -> Fields:
    close = difflib.get_close_matches(name, _CHECKS, 1, 0.65)  # timeout is not stdout
    known = f"did you mean {close[0]}?" if close else ", ".join(_CHECKS)
    raise InvalidValue(f"there is no option {name!r}", remedy=known)


def _number(
    name: str,
    value: object,
    low: int,
    high: int,
    meaning: str,
    shown: Callable[[int], str] = str,
) -> int | None:
    if value is None:
        return None
    if not _is_number(value) or not low <= value <= high:
        given = shown(value) if _is_number(value) else repr(value)
        raise InvalidValue(
            f"{name}={given} makes no sense",
            remedy=f"give {meaning}, from {shown(low)} to {shown(high)}",
        )
    return int(value)


def _is_number(value: object) -> TypeGuard[int]:
    """True and False are none: who gives them takes the option for a switch."""
    return isinstance(value, int) and not isinstance(value, bool)


def _several(name: str, value: Iterable[T]) -> list[T]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InvalidValue(f"{name}={value!r} makes no sense", remedy=f"give a list: [{value!r}]")
    return list(value)


def _path_in(lines: list[bytes]) -> bytes:
    """The PATH of the child's own environment, which is where execvpe looks."""
    for line in lines:
        if line.startswith(b"PATH="):
            return line[5:]
    return USUAL_PATH


def _env(options: Options, _: str) -> Fields:
    env = options["env"]
    return {} if env is None else {"env": encode_environment(env)}


def _word(options: Options, name: str) -> Fields:
    value: Word | None = options.get(name)  # type: ignore[assignment]
    return {} if value is None else {name: encode(value, name)}


def _umask(options: Options, name: str) -> Fields:
    meaning = "permission bits such as 0o077"
    return {name: _number(name, options["umask"], 0, 0o777, meaning, oct)}


def _nice(options: Options, name: str) -> Fields:
    return {name: _number(name, options["nice"], -40, 40, "what to add to the niceness") or 0}


def _session(options: Options, _: str) -> Fields:
    session = bool(options.get("new_session", False))
    meaning = "the id of a process group, 0 for a new one"
    group = _number("process_group", options.get("process_group"), 0, 1 << 22, meaning)
    if session and group:
        raise InvalidValue(
            f"new_session=True and process_group={group} exclude each other",
            why="a new session has a process group of its own",
            remedy="leave one of them out",
        )
    return {"new_session": session, "process_group": None if session else group}


def _of_streams(_options: Options, _name: str) -> Fields:
    return {}


def _streams(options: Options) -> Streams:
    encoding = options.get("encoding") or ("utf-8" if options.get("text") else None)
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except (LookupError, TypeError) as error:
            raise InvalidValue(
                f"encoding={encoding!r} makes no sense", why=str(error), remedy="give utf-8"
            ) from error
    streams = Streams(encoding=encoding)
    try:
        streams.add_standard(options.get("stdin"), options.get("stdout"), options.get("stderr"))
        if "pass_fds" in options:
            streams.add_passed(_several("pass_fds", options["pass_fds"]))
    except BaseException:
        streams.failed()
        raise
    return streams


# ── limits ───────────────────────────────────────────────────────────────────────────────────


def _rlimits(options: Options, _: str) -> Fields:
    wanted = options["rlimits"] or {}
    if not isinstance(wanted, Mapping):
        raise InvalidValue(f"rlimits={wanted!r} is no mapping", remedy='give {"nofile": 1024}')
    limits = []
    for what, value in wanted.items():
        number = resource_limits.number_of(what)
        if number is None:
            raise InvalidValue(
                f"there is no limit {what!r}",
                remedy=f"one of {', '.join(sorted(resource_limits.NUMBERS))}",
            )
        pair = value if isinstance(value, tuple | list) else (value, value)
        if len(pair) != 2:
            raise InvalidValue(f"the limit {what!r}: {value!r}", remedy="give (soft, hard)")
        soft, hard = (_limit(what, each) for each in pair)
        if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > hard):
            raise InvalidValue(
                f"the limit {what!r}: {value!r}", why="soft is above hard", remedy="lower soft"
            )
        limits.append((number, soft, hard))
    return {"rlimits": limits}


def _limit(what: str | int, value: object) -> int:
    if value is None or value == resource.RLIM_INFINITY:
        return resource.RLIM_INFINITY
    if not _is_number(value) or not 0 <= value < 1 << 63:
        raise InvalidValue(
            f"the limit {what!r}: {value!r}", remedy="give a number, or None for no limit"
        )
    return value


# ── users ────────────────────────────────────────────────────────────────────────────────────

#: -1 means "unchanged" to the kernel.
_MOST_ID = (1 << 32) - 2


def _credentials(options: Options, _: str) -> Fields:
    """uid, gid and supplementary groups, each None where it is to stay as it is."""
    user, group = options.get("user"), options.get("group")
    extra = options.get("extra_groups")
    entry = None if user is None else _user(user)
    uid = entry.pw_uid if isinstance(entry, pwd.struct_passwd) else entry
    gid = None if group is None else _group(group)
    if gid is None and entry is not None:
        gid = entry.pw_gid if isinstance(entry, pwd.struct_passwd) else None
        if gid is None:
            raise InvalidValue(
                f"user={user!r} has no group that is known here",
                why="it would keep those of this process",
                remedy="give group= and extra_groups= too",
            )
    groups: list[int] | None = None
    if extra is not None:
        groups = [_group(each) for each in _several("extra_groups", extra)]
    elif isinstance(entry, pwd.struct_passwd) and gid is not None:
        groups = os.getgrouplist(entry.pw_name, gid)
    elif entry is not None:
        groups = []
    # What is so already needs no privileges.
    if uid is not None and set(os.getresuid()) == {uid}:
        uid = None
    if gid is not None and set(os.getresgid()) == {gid}:
        gid = None
    if groups is not None and set(groups) | {os.getgid()} == set(os.getgroups()) | {os.getgid()}:
        groups = None
    return {"uid": uid, "gid": gid, "groups": groups}


def _user(user: str | int) -> pwd.struct_passwd | int:
    """Its entry, or its number when there is none. Raises InvalidValue."""
    if isinstance(user, str):
        try:
            return pwd.getpwnam(user)
        except (KeyError, ValueError) as error:
            raise InvalidValue(
                f"there is no user {user!r}", remedy="give a name of getent passwd, or a number"
            ) from error
    number = _number("user", user, 0, _MOST_ID, "a name or a number")
    try:
        return pwd.getpwuid(number or 0)
    except KeyError:
        return number or 0


def _group(group: str | int) -> int:
    if isinstance(group, str):
        try:
            return grp.getgrnam(group).gr_gid
        except (KeyError, ValueError) as error:
            raise InvalidValue(
                f"there is no group {group!r}", remedy="give a name of getent group, or a number"
            ) from error
    number = _number("group", group, 0, _MOST_ID, "a name or a number")
    if number is None:
        raise InvalidValue("a group is None", remedy="give a name or a number")
    return number


# ── which option is checked by what ──────────────────────────────────────────────────────────

_CHECKS: dict[str, Callable[[Options, str], Fields]] = {
    "env": _env,
    "cwd": _word,
    "stdin": _of_streams,
    "stdout": _of_streams,
    "stderr": _of_streams,
    "text": _of_streams,
    "encoding": _of_streams,
    "pass_fds": _of_streams,
    "umask": _umask,
    "user": _credentials,
    "group": _credentials,
    "extra_groups": _credentials,
    "nice": _nice,
    "rlimits": _rlimits,
    "new_session": _session,
    "process_group": _session,
    "cgroup": _word,
}
