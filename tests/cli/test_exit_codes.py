"""The table of exit codes: the page says what the code does, and every error has its number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk.cli.exit_codes import MEANINGS, ExitCode, code_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "exit-codes.md"


def test_the_page_shows_the_table():
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(str(int(code)), code.name, meaning) for code, meaning in MEANINGS.items()]


def test_every_code_has_a_meaning():
    assert set(MEANINGS) == set(ExitCode)


def test_no_code_can_be_taken_for_a_signal():
    assert max(ExitCode) < 128


def errors() -> list[type[kin.KinfolkError]]:
    found = [kin.KinfolkError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return found


@pytest.mark.parametrize("kind", errors(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_number_of_its_own_kind(kind):
    expected = {
        kin.BrokenChannel: ExitCode.GONE,
        kin.EndOfChannel: ExitCode.GONE,
        kin.CorruptChannel: ExitCode.CORRUPT,
        kin.DecodeError: ExitCode.CORRUPT,
        kin.AccessDenied: ExitCode.DENIED,
        kin.UntrustedPeer: ExitCode.DENIED,
        kin.Busy: ExitCode.BUSY,
        kin.NotFound: ExitCode.MISSING,
        kin.Timeout: ExitCode.TIMEOUT,
    }.get(kind, ExitCode.USAGE if issubclass(kind, kin.UsageError) else ExitCode.FAILED)
    assert code_of(kind("what happened")) is expected
