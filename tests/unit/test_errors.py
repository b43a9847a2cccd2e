"""Every error is what Python people catch, says one line, travels between processes."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import socket

import pytest

import kinfolk as kin
from kinfolk import errors
from kinfolk.errors import KinfolkError, from_os_error


def every_error() -> list[type[KinfolkError]]:
    found: list[type[KinfolkError]] = [KinfolkError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return sorted(set(found), key=lambda kind: kind.__name__)


ALSO = {
    "Closed": ValueError,
    "AddressError": ValueError,
    "InvalidValue": ValueError,
    "Unsupported": ValueError,
    "MessageTooBig": ValueError,
    "BufferTooSmall": ValueError,
    "CodecError": ValueError,
    "StillInUse": BufferError,
    "ForkedCopy": RuntimeError,
    "EndOfChannel": EOFError,
    "BrokenChannel": BrokenPipeError,
    "CorruptChannel": ValueError,
    "DecodeError": ValueError,
    "UntrustedPeer": PermissionError,
    "Timeout": TimeoutError,
    "Busy": OSError,
    "NotFound": FileNotFoundError,
    "AlreadyExists": FileExistsError,
    "AccessDenied": PermissionError,
    "NoSpace": OSError,
    "LimitReached": OSError,
    "KernelError": OSError,
}


@pytest.mark.parametrize("name", sorted(ALSO))
def test_an_error_is_also_what_people_catch_already(name: str) -> None:
    kind = getattr(kin, name)
    assert issubclass(kind, KinfolkError)
    assert issubclass(kind, ALSO[name])


def test_the_tree_in_the_docstring_names_each_error() -> None:
    assert errors.__doc__ is not None
    ours = [kind for kind in every_error() if kind.__module__ == "kinfolk.errors"]
    assert len(ours) > len(ALSO)
    assert [kind.__name__ for kind in ours if kind.__name__ not in errors.__doc__] == []


def test_each_kind_of_fault_is_a_family() -> None:
    families = (errors.UsageError, errors.PeerError, errors.SystemProblem)
    for kind in every_error():
        if kind not in (KinfolkError, *families):
            assert sum(issubclass(kind, family) for family in families) == 1, kind


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_an_error_travels(kind: type[KinfolkError]) -> None:
    error = kind("it broke", subject="pipe:", why="of this", remedy="do that", code=errno.EIO)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert getattr(twin, "errno", None) == getattr(error, "errno", None)


def test_the_line_says_what_where_why_and_the_remedy() -> None:
    error = kin.Busy("it is taken", subject="fifo:/x", why="by 7", remedy="wait")
    assert str(error) == "fifo:/x: it is taken: by 7 (wait)"
    assert str(kin.Busy("it is taken")) == "it is taken"
    assert str(kin.Busy("it is taken", subject="pipe:")) == "pipe: it is taken"


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    error = kin.DecodeError("can't", subject="fifo:/a\nb", why="one\r\ntwo\u2028three")
    assert len(str(error).splitlines()) == 1


def test_what_is_too_long_to_read_is_shortened_in_the_middle() -> None:
    path = "/begin" + "x" * 5000 + "end"
    error = kin.NotFound(f"can't start {path}: gone", subject=path, why=f"no {path}", remedy="look")
    assert len(str(error)) < 2000
    assert str(error).count("/beginx") == str(error).count("…") == str(error).count("xend") == 3
    assert str(error).endswith("(look)")
    assert error.subject == error.filename == path
    assert pickle.loads(pickle.dumps(error)).subject == path
    many = "word " * 500
    assert many in str(kin.Busy(many))


def test_a_descriptor_that_was_opened_anew_is_not_shown_as_a_path() -> None:
    for filename, shown in (("/proc/self/fd/5", ""), ("/etc/x", " [/etc/x]")):
        refused = PermissionError(errno.EACCES, "no", filename)
        said = str(kin.errors.from_os_error(refused, "can't attach", "shm:/x"))
        assert said == f"shm:/x: can't attach: Permission denied{shown}"


def test_an_os_error_has_its_number_and_name() -> None:
    error = kin.NotFound("no name", subject="/x")
    assert (error.errno, error.filename) == (errno.ENOENT, "/x")
    assert error.strerror == str(error)
    assert kin.Timeout("late").errno == errno.ETIMEDOUT
    assert kin.LimitReached("many", code=errno.ENFILE).errno == errno.ENFILE


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EPIPE, kin.BrokenChannel),
        (errno.ENOENT, kin.NotFound),
        (errno.EACCES, kin.AccessDenied),
        (errno.ENOSPC, kin.NoSpace),
        (errno.EMFILE, kin.LimitReached),
        (errno.EADDRINUSE, kin.Busy),
        (errno.EMSGSIZE, kin.MessageTooBig),
        (errno.EXDEV, kin.KernelError),
    ],
)
def test_translation_of_a_number(code: int, kind: type[KinfolkError]) -> None:
    error = from_os_error(OSError(code, os.strerror(code)), "can't send", "pipe:")
    assert type(error) is kind
    assert os.strerror(code) in str(error)
    assert str(error).startswith("pipe: can't send: ")
    if isinstance(error, OSError):
        assert error.errno == code


def test_translation_says_the_file_once_and_prefers_the_remedy_given() -> None:
    raw = OSError(errno.ENOENT, "gone", "/tmp/f")
    assert str(from_os_error(raw, "can't open", "fifo:/tmp/f")).count("/tmp/f") == 1
    assert "[/tmp/f]" in str(from_os_error(raw, "can't open", "mq:/x"))
    full = OSError(errno.ENOSPC, "full")
    assert "(buy a disk)" in str(from_os_error(full, "can't write", "file:x", "buy a disk"))
    assert "quota" in str(from_os_error(full, "can't write", "file:x"))


def test_translation_leaves_our_own_errors() -> None:
    error = kin.Busy("taken")
    assert from_os_error(error, "can't open") is error


def test_translation_of_errors_without_a_number_of_errno() -> None:
    assert "strange" in str(from_os_error(OSError("strange"), "can't"))
    name = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert "Name or service not known" in str(from_os_error(name, "can't connect", "tcp:x:1"))
