"""Walks the tour in this process, and sees that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kinfolk.tour

Walked = dict[str, Any]


@pytest.fixture
def scratch(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for everything that the tour puts into files; it must be empty again."""
    monkeypatch.setattr(tempfile, "tempdir", str(short_directory))
    yield short_directory
    assert [entry.name for entry in short_directory.iterdir()] == []
    with pytest.raises(ChildProcessError):  # nobody to be waited for: everybody was
        os.waitpid(-1, os.WNOHANG)


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    """What the first stop moves: no multiple of any message size."""
    path = tmp_path / "cargo"
    path.write_bytes(os.urandom(1_234_567))
    return path


@pytest.fixture
def walk(
    scratch: Path, small_file: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[bool, Walked]]:
    """Visit the named stops: what `run` returned, and the JSON that it printed."""

    def walk_them(*names: str) -> tuple[bool, Walked]:
        ok = kinfolk.tour.run(names, str(small_file), True)
        return ok, json.loads(capsys.readouterr().out)

    return walk_them
