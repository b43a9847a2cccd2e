"""`kin bench`: small runs of real mechanisms; its files, its exit codes, and Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from kinfolk.bench.workloads import SUITES
from kinfolk.cli.bench import SUITES as NAMED
from tests.cli.conftest import HANG_LIMIT, Kin, one_line

TINY = ("--runs", 2, "--warmup", 0, "--time", 0.002, "--sizes", 48, "--quiet")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Of one small run."""
    path: Path = tmp_path_factory.mktemp("bench") / "results.json"
    ended = Kin().run("bench", "os.pipe", "pipe", *TINY, "--export-json", path)
    assert (ended.code, ended.err) == (0, "")
    return path


def test_the_suites_are_those_of_the_bench():
    assert set(NAMED) == set(SUITES)


def test_a_table_for_people(kin: Kin, results):
    shown = kin.succeed("bench", "--from", results).decode()
    assert "round trip: until the answer to a message is there" in shown
    assert re.search(r"^  os\.pipe +[\d.,]+", shown, re.MULTILINE)
    assert re.search(r"^  kin pipe +[\d.,]+", shown, re.MULTILINE)
    assert "cost of a message of 48 B in a stream" in shown
    assert "2 interleaved rounds after 0 of warm-up" in shown


def test_json_for_programs(kin: Kin, results):
    found = json.loads(kin.succeed("bench", "--from", results, "--json"))
    assert (found["format"], found["version"]) == ("kinfolk-bench", 1)
    cases = [result["case"] for result in found["results"]]
    assert {case["workload"] for case in cases} == {"round trip", "stream"}
    assert all(len(result["rounds"]) == 2 for result in found["results"])
    assert not found["interrupted"]


def test_a_run_that_has_to_end_in_time_says_what_it_left_out(kin: Kin):
    found = json.loads(
        kin.succeed("bench", "os.pipe", "pipe", *TINY, "--within", 0, "--runs", 1, "--json")
    )
    assert found["settings"]["within"] == 0
    assert len(found["results"]) == 1  # who knows how long a turn takes, before the first one?
    assert found["interrupted"]


def test_exports_of_an_earlier_run(kin: Kin, results, tmp_path):
    table, text = tmp_path / "a.csv", tmp_path / "a.md"
    shown = kin.succeed(
        "bench", "--from", results, "--export-csv", table, "--export-markdown", text
    ).decode()
    assert "kin pipe" in shown
    assert table.read_text().startswith("workload,subject,size,")
    assert "| os.pipe |" in text.read_text()


def test_an_export_to_standard_output_stands_there_alone(kin: Kin, results):
    shown = kin.succeed("bench", "--from", results, "--export-markdown", "-").decode()
    assert shown.startswith("**round trip")


def test_the_report(kin: Kin, results, tmp_path):
    pytest.importorskip("plotly", reason="plotly is not installed (kinfolk[report])")
    kin.succeed("bench", "--from", results, "--report", tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")


def test_compare_ends_with_1_when_something_is_worse(kin: Kin, results, tmp_path):
    # Of a single round: there the threshold alone decides, whatever else this machine does.
    old = json.loads(results.read_text())
    for result in old["results"]:
        del result["rounds"][1:]
    results = tmp_path / "one.json"
    results.write_text(json.dumps(old))
    assert kin.run("bench", "--from", results, "--compare", results).code == 0
    for result in old["results"]:
        if result["case"]["subject"] == "kin pipe":
            for found in result["rounds"]:
                found["round_trip"] = found.get("round_trip", 1) / 100
    fast = tmp_path / "fast.json"
    fast.write_text(json.dumps(old))
    worse = kin.run("bench", "--from", results, "--compare", fast)
    assert worse.code == 1
    assert re.search(r"round trip/kin pipe/48B: × \d+.*worse", worse.err)
    assert kin.run("bench", "--from", results, "--compare", fast, "--threshold", 1e6).code == 0


def test_list(kin: Kin):
    shown = kin.succeed("bench", "--list").decode()
    assert re.search(r"^kin pipe +kinfolk ", shown, re.MULTILINE)
    found = json.loads(kin.succeed("bench", "--list", "--json"))["subjects"]
    assert {"os.pipe", "kin tcp", "mp.Queue", "pyzmq ipc"} <= {each["name"] for each in found}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["bench", "nonesuch"], 2, "there is no mechanism 'nonesuch'"),
        (["bench", "--sizes", "big"], 2, "size 'big' makes no sense"),
        (["bench", "--shapes", "4"], 2, "shape '4' makes no sense"),
        (["bench", "--runs", "0"], 2, "--runs"),
        (["bench", "--time", "-1"], 2, "--time -1 makes no sense"),
        (["bench", "--threshold", "0.5"], 2, "--threshold 0.5 makes no sense"),
        (["bench", "--from", "/nowhere"], 7, "/nowhere"),
        (["bench", "--from", "/dev/null"], 2, "no results of kin bench"),
        (["bench", "pipe", "--from", "/dev/null"], 2, "--from measures nothing"),
        (["bench", "--json", "--export-csv", "-"], 2, "can't all go to standard output"),
        (["bench", "--export-csv", "-", "--report", "-"], 2, "can't all go to standard output"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_line(kin: Kin, words, code, said):
    ended = kin.run(*words)
    assert ended.code == code
    assert said in one_line(ended)


def test_a_report_that_cannot_be_written_is_said_before_anything_is_measured(kin: Kin):
    ended = kin.run("bench", "os.pipe", *TINY, "--export-json", "/nowhere/a.json")
    assert ended.code == 7
    assert ended.out == b""
    assert "/nowhere/a.json" in one_line(ended)


def test_a_report_without_plotly_is_said_before_anything_is_measured(kin: Kin, tmp_path):
    (tmp_path / "plotly.py").write_text("raise ImportError('this is not plotly')")
    page, kept = tmp_path / "page.html", tmp_path / "kept.json"
    ended = kin.run(
        "bench", "os.pipe", *TINY, "--report", page, "--export-json", kept,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )  # fmt: skip
    assert (ended.code, ended.out) == (7, b"")
    assert "pip install kinfolk[report]" in one_line(ended)
    assert not kept.exists()


def test_a_comparison_of_runs_that_have_nothing_in_common_is_none(kin: Kin, results, tmp_path):
    found = json.loads(results.read_text())
    for each in found["results"]:
        each["case"]["subject"] = "renamed"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(found))
    ended = kin.run("bench", "--from", results, "--compare", other)
    assert ended.code == 2
    assert "no case was measured both then and now" in ended.err


def stages_of(pid: int) -> set[int]:
    """The processes that measure: children of the keeper, which is the child of `kin bench`."""
    found: set[int] = set()
    for keeper in children_of(pid):
        found |= set(children_of(keeper))
    return found


def children_of(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_was_measured(number, kin: Kin, tmp_path):
    kept = tmp_path / "kept.json"
    running = kin.start(
        "bench", "os.pipe", "--runs", 500, "--warmup", 0, "--time", 0.002, "--sizes", 48,
        "--export-json", kept,
    )  # fmt: skip
    seen: set[int] = set()

    def two_are_over() -> bool:
        seen.update(stages_of(running.process.pid))
        return len(seen) > 2

    running.wait_until(two_are_over)
    running.signal(number)
    ended = running.end()
    assert ended.code == 128 + number
    assert "interrupted; what was measured is kept" in ended.err
    found = json.loads(kept.read_text())
    assert found["interrupted"]
    assert found["results"]
    assert "os.pipe" in ended.out.decode()
    deadline = time.monotonic() + HANG_LIMIT
    while any(
        Path(f"/proc/{pid}").exists() for pid in seen
    ):  # the keeper may end what was just begun
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_other_commands_do_not_load_the_bench(kin: Kin):
    look = (
        "import sys, kinfolk.cli.main as m; m.run(['--version']); "
        "print('kinfolk.bench' in sys.modules)"
    )
    ended = kin.start(command=(sys.executable, "-c", look)).end()
    assert ended.out.decode().splitlines()[-1] == "False"
