"""`run` and `stops`: what the command shell builds on."""

from __future__ import annotations

import io
import json
import os
import signal
import sys

import pytest
from rich.console import Console

import kinfolk as kin
import kinfolk.tour
from kinfolk.tour import route
from kinfolk.tour.file import file_to_move
from kinfolk.tour.narrator import Account, Column, Narrator
from kinfolk.tour.processes import Child, crew
from kinfolk.tour.stop import Stop, scratch_directory


def test_stops_are_listed_with_the_file_first():
    listed = kinfolk.tour.stops()
    assert listed[0][0] == "file"
    names = [name for name, _, _ in listed]
    assert len(set(names)) == len(names)
    for name, title, chapter in listed:
        assert name
        assert title
        assert chapter


def test_json_has_the_same_keys_everywhere(walk):
    _, report = walk("pipe", "file")
    assert set(report) == {"kinfolk", "kernel", "ok", "stops"}
    assert (report["kinfolk"], report["kernel"]) == (kin.__version__, os.uname().release)
    assert [stop["name"] for stop in report["stops"]] == ["file", "pipe"]  # the order of the tour
    types = {
        "name": str,
        "title": str,
        "chapter": str,
        "ok": bool,
        "seconds": float,
        "said": list,
        "figures": dict,
        "checks": list,
        "lacking": list,
        "traceback": str,
    }
    for stop in report["stops"]:
        assert {key: type(value) for key, value in stop.items()} == types
        for check in stop["checks"]:
            assert {key: type(value) for key, value in check.items()} == {
                "check": str,
                "ok": bool,
                "detail": str,
            }


def test_text_is_plain_in_a_pipe(scratch, small_file, capsys):
    assert kinfolk.tour.run(["pipe"], str(small_file), False)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert text.startswith("1/1 pipe: ")
    assert "\n  ✓ the child read what its parent wrote\n" in text
    assert text.rstrip().splitlines()[-1].startswith("12 of 12 checks held at 1 stop, in ")


def test_an_unknown_stop_is_refused_before_anything_is_shown(capsys):
    with pytest.raises(kin.InvalidValue, match="did you mean unix-dgram"):
        kinfolk.tour.run(["pipe", "unix-dgrm"], None, False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: None, kin.NotFound),
        (lambda path: path.mkdir(), kin.InvalidValue),
        (os.mkfifo, kin.InvalidValue),
    ],
    ids=["missing", "directory", "fifo"],
)
def test_a_file_that_cannot_be_moved_is_refused(tmp_path, capsys, make, error):
    path = tmp_path / "cargo"
    make(path)
    with pytest.raises(error, match="--file"):
        kinfolk.tour.run(["file"], str(path), False)
    assert capsys.readouterr().out == ""
    if path.is_fifo():
        path.unlink()


def test_there_is_always_a_file_to_move():
    path = file_to_move(None)
    assert os.path.getsize(path) > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_tour_in_order(scratch, monkeypatch, number):
    """Children are reaped and names removed, as at the end of every stop."""

    def visit(narrator, walk):
        with scratch_directory(), crew() as hands:
            child = hands.start("sleeper", lambda line: line.hear())
            children.append(child)
            os.kill(os.getpid(), number)
            child.hear()

    children: list[Child] = []
    monkeypatch.setattr(route, "STOPS", (Stop("slow", "slow", "none", visit),))
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        kinfolk.tour.run([], None, False)
    assert children[0].status is not None
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)] == handlers


# ── how the narrator prints ──────────────────────────────────────────────────────────────────


def narrate(encoding: str = "utf-8", **console) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    narrator = Narrator(
        Console(file=file, highlight=False, width=60, **console), Account("x", "title µ", "管道")
    )
    narrator.heading(1, 2)
    narrator.says("a sentence " * 10)
    narrator.table(
        "t", (Column("a", "name", number=False), Column("b", "µs", "{:.1f}".format)), [{"a": "→"}]
    )
    narrator.check("it holds", True, "hidden")
    narrator.check("it does not", False, "shown")
    narrator.finish(0.5)
    file.flush()
    return raw.getvalue().decode(encoding)


def test_a_pipe_gets_one_line_a_sentence():
    text = narrate()
    assert "\x1b" not in text
    assert "  " + "a sentence " * 10 in text
    assert "✓ it holds\n" in text
    assert "✗ it does not (shown)\n" in text


def test_a_terminal_gets_colour_unless_it_is_unwanted(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[1;32m✓" in narrate(force_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    text = narrate(force_terminal=True)
    assert "✓ " in text
    assert ";32m" not in text


def test_a_narrow_encoding_is_no_crash():
    text = narrate(encoding="ascii")
    assert "? it holds" in text


def test_tables_are_figures_too():
    account = Account("x", "y", "z")
    narrator = Narrator(Console(quiet=True), account)
    narrator.table("t", (Column("a", "A"),), [{"a": 1, "b": 2}])
    assert account.figures == {"t": [{"a": 1, "b": 2}]}


def test_progress_is_silent_in_a_pipe():
    file = io.StringIO()
    narrator = Narrator(Console(file=file), Account("x", "y", "z"))
    with narrator.progress(10) as advance:
        advance("pipe", 10)
    assert file.getvalue() == ""


def test_json_is_ascii_and_so_fits_any_output(scratch, small_file, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert kinfolk.tour.run(["pipe"], str(small_file), True)
    assert json.loads(raw.getvalue())["stops"][0]["chapter"] == "使用管道"
