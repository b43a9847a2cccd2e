"""A file that appears whole or not at all, seen from inside: every step, and a kill at each of them."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

import kinfolk
from kinfolk.cli.output import WholeFile, output_to

NAMED = "a file system without O_TMPFILE"


@pytest.fixture(params=["O_TMPFILE", NAMED])
def file_system(request, monkeypatch):
    """The kernel's own way, and the one for file systems that refuse it (NFS, some FUSE)."""
    if request.param == NAMED:
        real = os.open

        def refuse(path, flags, *arguments, **options):
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return real(path, flags, *arguments, **options)

        monkeypatch.setattr(os, "open", refuse)
    return request.param


@pytest.mark.parametrize("existing", [None, b"old"])
def test_it_has_its_name_only_when_committed(file_system, existing, tmp_path):
    path = tmp_path / "file"
    if existing is not None:
        path.write_bytes(existing)
    with output_to(str(path)) as output:
        output.write(b"new")
        assert (path.read_bytes() if path.exists() else None) == existing
        output.commit()
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("existing", [None, b"old"])
def test_it_leaves_nothing_when_it_is_given_up(file_system, existing, tmp_path):
    path = tmp_path / "file"
    if existing is not None:
        path.write_bytes(existing)

    def give_up() -> None:
        with output_to(str(path)) as output:
            output.write(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        give_up()
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([existing] if existing else [])


def test_a_name_that_somebody_takes_meanwhile_is_replaced(file_system, tmp_path):
    with output_to(str(tmp_path / "file")) as output:
        output.write(b"new")
        (tmp_path / "file").write_bytes(b"somebody's")
        output.commit()
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_that_goes_away_is_an_error(file_system, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    with output_to(str(place / "file")) as output:
        output.write(b"new")
        for entry in place.iterdir():
            entry.unlink()
        place.rmdir()
        with pytest.raises(kinfolk.NotFound):
            output.commit()


_STEPS = ("write", "fsync", "link", "rename", "close")


@pytest.mark.parametrize("existing", [None, b"old"])
@pytest.mark.parametrize("step", _STEPS)
def test_killed_at_each_step(step, existing, tmp_path):
    """The file is the old one, or the new one; between two names there may be a complete spare."""
    path = tmp_path / "file"
    if existing is not None:
        path.write_bytes(existing)
    pid = os.fork()
    if pid == 0:
        _receive_and_die_before(step, str(path))
    os.waitpid(pid, 0)
    assert (path.read_bytes() if path.exists() else None) in (existing, b"new")
    spare = [entry for entry in tmp_path.iterdir() if entry != path]
    assert [entry.read_bytes() for entry in spare] == [b"new"] * len(spare)
    assert not spare or step == "rename"


def _receive_and_die_before(step: str, path: str) -> None:
    def die(*_arguments, **_options):
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        with output_to(path) as output:
            assert isinstance(output, WholeFile)
            if step == "write":
                setattr(os, step, die)
            output.write(b"new")
            setattr(os, step, die)
            output.commit()
    finally:
        os._exit(1)


def test_a_relative_name(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with output_to("file") as output:
        output.write(b"here")
        output.commit()
    assert (tmp_path / "file").read_bytes() == b"here"
