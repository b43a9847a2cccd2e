"""Which file a program's name means: the one that execvp(3) of this machine's C library would execute, or its error."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.processes import keeping
from kinfolk.processes.exit_status import ExitStatus
from tests.conformance.peers import HANG, Peers, Voice
from tests.other_user import User
from tests.unit.keepers import _the_keeper_ends as _the_keeper_ends

_libc = ctypes.CDLL(None, use_errno=True)

#: What a program says by its exit code: in which directory it stands.
CODES = {"good": 11, "later": 12, "here": 13}

WAYS: list[dict[str, Any]] = [{"containment": "keeper"}, {"containment": "direct"}]
ways = pytest.mark.parametrize("way", WAYS, ids=["keeper", "direct"])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Directories with a program `prog` in each, which can be executed in some."""
    for name, code in CODES.items():
        write(tmp_path / name / "prog", f"#!/bin/sh\nexit {code}\n")
    write(tmp_path / "plain" / "prog", "#!/bin/sh\nexit 99\n", 0o644)
    write(tmp_path / "orphaned" / "prog", "#!/no/such/interpreter\n")
    write(tmp_path / "closed" / "other", "")
    (tmp_path / "directory" / "prog").mkdir(parents=True)
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / "prog").symlink_to("nowhere")
    (tmp_path / "looping").mkdir()
    (tmp_path / "looping" / "prog").symlink_to("prog")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "below").symlink_to(tmp_path / "good")
    tmp_path.chmod(0o755)
    return tmp_path


def write(path: Path, text: str, mode: int = 0o755) -> None:
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(mode)


def libcs(program: str, path: str | None, cwd: Path) -> int | ExitStatus:
    """What execvpe(3) makes of it in a child there: its errno, or how the program ended."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.chdir(cwd)
        if path is None:
            os.environ.pop("PATH")
        else:
            os.environ["PATH"] = path
        argv = (ctypes.c_char_p * 2)(program.encode(), None)
        _libc.execvp(program.encode(), argv)
        os.write(writer, str(ctypes.get_errno()).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        said = file.read()
    status = ExitStatus.from_wait(os.waitpid(pid, 0)[1])
    if not said:
        return status
    # It gives the last error, which may be of a directory that is none: then too there is no such program.
    return errno.ENOENT if "/" not in program and int(said) == errno.ENOTDIR else int(said)


def ours(program: str, path: str | None, cwd: Path, **options: Any) -> int | ExitStatus:
    environment = {name: value for name, value in os.environ.items() if name != "PATH"}
    if path is not None:
        environment["PATH"] = path
    try:
        return kin.spawn([program], env=environment, cwd=cwd, **options).wait(HANG)
    except OSError as error:
        assert isinstance(error, kin.KinfolkError)
        return error.errno or 0


PATHS = {
    "found": "{home}/good",
    "the first": "{home}/good:{home}/later",
    "after a missing directory": "/no/such/directory:{home}/later",
    "after a file": "{home}/file:{home}/later",
    "after one that may not be executed": "{home}/plain:{home}/later",
    "after a directory of that name": "{home}/directory:{home}/later",
    "after a dangling link": "{home}/dangling:{home}/later",
    "after one without its interpreter": "{home}/orphaned:{home}/later",
    "a loop ends the search": "{home}/looping:{home}/later",
    "nowhere": "{home}/empty:/no/such/directory:{home}/file",
    "none may be executed": "{home}/plain:{home}/empty",
    "none may be executed, then nothing": "{home}/empty:{home}/plain:/no/such/directory",
    "none may be executed, one has no interpreter": "{home}/plain:{home}/orphaned",
    "a directory alone": "{home}/directory",
    "no interpreter": "{home}/orphaned",
    "empty": "",
    "an empty entry": ":/no/such/directory",
    "an empty entry in between": "/no/such/directory::{home}/later",
    "an empty entry at the end": "/no/such/directory:",
    "relative to the working directory": "../good",
    "by a link": "{home}/deep/below",
    "with slashes at its end": "{home}/good//",
}


@ways
@pytest.mark.parametrize("place", ["here", "empty"])
@pytest.mark.parametrize("which", PATHS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_name_is_searched_for_as_by_the_c_library(home, which, place, way):
    path = PATHS[which].format(home=home)
    expected = libcs("prog", path, home / place)
    assert ours("prog", path, home / place, **way) == expected


@ways
@pytest.mark.parametrize("place", [".", "deep", "empty"])
@pytest.mark.parametrize(
    "program",
    [
        *(
            "./prog",
            "good/prog",
            "../good/prog",
            "below/prog",
            "plain/prog",
            "good/",
            "good/prog/x",
        ),
        *("", "x" * 300, "true"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_with_a_slash_begins_where_the_child_stands(home, program, place, way):
    """And one without is not taken from there."""
    path = f"{home}/good:/usr/bin:/bin"
    expected = libcs(program, path, home / place)
    if program == "":
        with pytest.raises(kin.InvalidValue):
            kin.spawn([program], **way)
    else:
        assert ours(program, path, home / place, **way) == expected


@ways
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_a_path_the_usual_one_is_searched(home, way):
    assert libcs("true", None, home) == ours("true", None, home, **way) == ExitStatus("exited", 0)


@ways
def test_the_directory_may_be_relative_too(home, way, monkeypatch):
    monkeypatch.chdir(home)
    assert ours("./prog", "", Path("here"), **way) == ExitStatus("exited", CODES["here"])
    assert ours("prog", "", Path("here"), **way) == ExitStatus("exited", CODES["here"])
    assert ours("prog", "../later", Path("here"), **way) == ExitStatus("exited", CODES["later"])


@ways
@pytest.mark.parametrize(
    ("path", "code", "subject"),
    [
        ("{home}/plain:{home}/empty", errno.EACCES, "{home}/plain/prog"),
        ("{home}/empty:{home}/orphaned:{home}/file", errno.ENOENT, "{home}/orphaned/prog"),
        ("{home}/empty:{home}/file", errno.ENOENT, "prog"),
        ("{home}/empty", errno.ENOENT, "{home}/empty/prog"),
        ("", errno.EACCES, "./prog"),
    ],
)
def test_the_error_names_the_file(home, way, path, code, subject):
    place = home / ("plain" if path == "" else "empty")
    with pytest.raises((kin.NotFound, kin.AccessDenied)) as caught:
        kin.spawn(["prog"], env={"PATH": path.format(home=home)}, cwd=place, **way)
    error = caught.value
    assert (error.errno, error.subject) == (code, subject.format(home=home))


#: A directory that may not be searched is no finding: the C library says EACCES there, and people that the command is not found.
CLOSED = {
    "{home}/closed:{home}/later": ("exited 12", ""),
    "{home}/closed:{home}/empty": (errno.ENOENT, "prog"),
    "{home}/closed:{home}/plain": (errno.EACCES, "{home}/plain/prog"),
    "{home}/closed:{home}/orphaned": (errno.ENOENT, "{home}/orphaned/prog"),
}


@pytest.mark.parametrize("path", CLOSED)
def test_a_directory_that_may_not_be_searched(home, path, as_plain_user: User) -> None:
    def body() -> tuple[int | str, str]:
        (home / "closed").chmod(0)
        try:
            environment = {"PATH": path.format(home=home)}
            process = kin.spawn(["prog"], env=environment, cwd="/", containment="direct")
        except kin.KinfolkError as error:
            return getattr(error, "errno", 0), error.subject
        else:
            return str(process.wait(HANG)), ""
        finally:
            (home / "closed").chmod(0o755)

    if as_plain_user.uid is not None:
        os.chown(home / "closed", as_plain_user.uid, -1)
        for above in home.parents:
            if above.owner() == "root" and not above.stat().st_mode & 1:
                above.chmod(above.stat().st_mode | 0o111)
    code, subject = CLOSED[path]
    assert as_plain_user.run(body) == (code, subject.format(home=home))


def test_a_keeper_that_is_new_searches_as_well(peers: Peers, home: Path) -> None:
    """The search is the owner's, in the child's PATH; the keeper's own plays no part."""

    def body(voice: Voice) -> list[Any]:
        os.environ["PATH"] = f"{home}/good"
        first = kin.spawn(["prog"]).wait(HANG).code
        os.environ["PATH"] = f"{home}/later"
        second = kin.spawn(["prog"]).wait(HANG).code
        keeping.keeping().end(0)
        return [first, second]

    assert peers.fork(body).result() == [CODES["good"], CODES["later"]]
