"""The file of a run, its tables and exports, and what has changed since another run."""

from __future__ import annotations

import csv
import io
import json

import pytest

import kinfolk as kin
from kinfolk.bench import choosing, comparing, results
from kinfolk.bench.cases import METRICS, Case, Failure
from kinfolk.bench.exporting import conditions, to_csv, to_markdown
from kinfolk.bench.results import Result
from kinfolk.bench.tables import number, tables
from kinfolk.bench.text import lines
from tests.unit import bench_schema
from tests.unit.bench_documents import document, full, stream, trip


def test_what_is_written_is_read():
    assert results.decode(results.encode(full()), "x") == full()


def test_a_field_that_is_new_is_passed_over():
    data = json.loads(results.encode(full()))
    data["colour"] = data["machine"]["colour"] = "red"
    assert results.decode(json.dumps(data).encode(), "x") == full()


def test_the_schema_in_the_documentation_is_that_of_the_file():
    """One that differs is a new one: raise VERSION if a field goes or changes its meaning, then
    `python -m tests.unit.bench_schema`.
    """
    assert json.loads(bench_schema.PATH.read_text()) == bench_schema.schema()


def test_the_schema_names_version_and_every_field():
    described = json.loads(bench_schema.PATH.read_text())["$defs"]
    assert described["Document"]["properties"]["version"]["const"] == results.VERSION
    written = json.loads(results.encode(full()))
    assert set(written) == set(described["Document"]["properties"])
    assert set(written["results"][0]) == set(described["Result"]["properties"])
    assert set(written["results"][0]["case"]) == set(described["Case"]["properties"])


def test_another_version_is_refused_with_a_sentence():
    data = json.loads(results.encode(full()))
    assert data["version"] == results.VERSION == 1
    data["version"] = 2
    with pytest.raises(kin.InvalidValue, match="of version 2: this kinfolk reads version 1"):
        results.decode(json.dumps(data).encode(), "x")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b'{"format": "kinfolk-bench"', b"\xff", b"null"]
)
def test_what_is_no_result_is_refused(data):
    with pytest.raises(kin.InvalidValue, match="no results of kin bench"):
        results.decode(data, "x")


def test_results_that_lack_something_are_refused():
    with pytest.raises(kin.InvalidValue, match="no results of kin bench"):
        results.decode(b'{"format": "kinfolk-bench", "version": 1}', "x")


def test_every_round_is_kept_and_the_median_is_the_figure():
    result = trip("a", 3, 100, 5)
    assert result.values("round_trip") == [3, 100, 5]
    assert result.figure("round_trip") == 5
    assert result.main == "round_trip"
    assert all(metric in METRICS for metric in result.rounds[0])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0, "0"), (0.00123, "0.0012"), (1.2345, "1.23"), (999, "999"),
     (156_789, "157,000"), (1_234_567, "1,230,000")],
)  # fmt: skip
def test_numbers_have_three_digits_that_count(value, shown):
    assert number(value) == shown


def test_the_tables_mark_the_best_of_each_way_of_waiting():
    found = list(tables(document(trip("kin pipe", 10), trip("os.pipe", 5), trip("racer", 1))))
    cells = {row.subject: row.cells[0] for row in found[0].rows}
    assert {name: cell.best for name, cell in cells.items()} == {
        "kin pipe": False, "os.pipe": True, "racer": False,
    }  # fmt: skip


def test_a_failure_stands_in_the_table_with_its_reason():
    hung = Result(Case("round trip", "racer", 48), failure=Failure("hung", "silent for 20 s"))
    found = document(trip("os.pipe", 5), hung)
    row = next(tables(found)).rows[1]
    assert (row.cells[0].text, row.cells[0].note) == ("hung", "silent for 20 s")
    assert any("silent for 20 s" in line for line in lines(found))


def test_csv_has_each_figure_of_each_round():
    rows = list(csv.DictReader(io.StringIO(to_csv(full()))))
    assert {row["round"] for row in rows} == {"", "1", "2", "3", "tail"}
    taken = [
        r["value"]
        for r in rows
        if r["subject"] == "os.pipe" and r["metric"] == "round_trip" and r["size"] == "48"
    ]
    assert list(map(float, taken)) == [10, 11, 12]
    assert [row["failure"] for row in rows if row["failure"]] == [
        "hung: asleep </script><b>in</b> futex_do_wait"
    ]


def test_markdown_has_the_tables_the_claims_and_the_machine():
    text = to_markdown(full())
    assert "| kin pipe |" in text
    assert "**A <claim>.** holds. It was so: 3 & 4." in text
    assert "Abacus 3000" in text
    assert "Not installed: pynng" in text


def test_how_many_rounds_there_were_is_said_also_when_time_was_up():
    assert conditions(document(trip("a", 1, 2), trip("b", 1, 2))).startswith("2 interleaved")
    assert conditions(document(trip("a", 1, 2), trip("b", 1))).startswith("1 to 2 interleaved")


# ── comparing ────────────────────────────────────────────────────────────────────────────────


def changes(old, new, **options):
    found = comparing.compare(old, new, **{"threshold": 1.1, **options})
    return {each.case.subject: each.change for each in found}


def test_a_run_compared_with_itself_has_changed_nothing():
    found = comparing.compare(full(), full(), threshold=1.1)
    assert {each.change for each in found} == {"same"}
    assert comparing.regressions(found) == []


def test_a_slower_mechanism_is_worse_and_a_faster_one_better():
    old = document(
        trip("os.pipe", 10, 10, 10), trip("kin pipe", 20, 20.2, 19.8), trip("kin mq", 30, 31, 29)
    )
    new = document(
        trip("os.pipe", 10, 10, 10),
        trip("kin pipe", 30, 30.2, 29.8),
        trip("kin mq", 15, 15.5, 14.5),
    )
    assert changes(old, new) == {"os.pipe": "same", "kin pipe": "worse", "kin mq": "better"}
    (worst,) = comparing.regressions(comparing.compare(old, new, threshold=1.1))
    assert worst.ratio is not None
    assert worst.ratio.ratio == pytest.approx(1.5, rel=0.01)
    assert "× 1.50" in comparing.sentence(worst)


def test_a_rate_that_has_fallen_is_worse():
    old, new = document(stream("kin pipe", 100, 101, 99)), document(stream("kin pipe", 50, 51, 49))
    assert changes(old, new) == {"kin pipe": "worse"}
    assert changes(new, old) == {"kin pipe": "better"}


def test_a_machine_that_is_slower_as_a_whole_is_no_regression():
    old = document(trip("os.pipe", 10, 10, 10), trip("kin pipe", 20, 20, 20))
    new = document(trip("os.pipe", 30, 30, 30), trip("kin pipe", 60, 60, 60))
    assert changes(old, new)["kin pipe"] == "same"
    assert changes(old, new, absolute=True)["kin pipe"] == "worse"


def test_what_chance_can_do_is_no_regression():
    old, new = document(trip("kin pipe", 10, 20, 12)), document(trip("kin pipe", 18, 11, 24))
    assert changes(old, new) == {"kin pipe": "same"}


def test_with_one_round_the_threshold_decides():
    old = document(trip("kin pipe", 10))
    assert changes(old, document(trip("kin pipe", 10.5))) == {"kin pipe": "same"}
    assert changes(old, document(trip("kin pipe", 11.5))) == {"kin pipe": "worse"}
    assert changes(old, document(trip("kin pipe", 11.5)), threshold=1.2) == {"kin pipe": "same"}


def test_what_could_be_measured_and_fails_now_is_a_regression():
    failed = Result(Case("round trip", "kin pipe", 48), failure=Failure("hung", "asleep"))
    found = comparing.compare(document(trip("kin pipe", 10)), document(failed), threshold=1.1)
    assert [each.change for each in found] == ["broken"]
    assert comparing.regressions(found) == found
    assert "fails now" in comparing.sentence(found[0])
    assert changes(document(failed), document(trip("kin pipe", 10))) == {"kin pipe": "mended"}


def test_what_is_new_or_gone_is_said_and_is_no_regression():
    found = changes(document(trip("kin pipe", 10)), document(trip("kin mq", 10)))
    assert found == {"kin pipe": "gone", "kin mq": "new"}


# ── choosing ─────────────────────────────────────────────────────────────────────────────────


def advised(need: str, *found: Result) -> tuple[str, ...]:
    run = document(*found)
    (question,) = choosing.questions(run)
    by_need = {each.need.words: each.choices for each in choosing.advice(run)}
    return by_need[need][question].best if question in by_need.get(need, {}) else ()


def test_the_best_that_meets_the_need():
    found = trip("os.pipe", 5), trip("kin pipe", 10), trip("kin mq", 20), trip("racer", 1)
    assert advised("nothing more", *found) == ("os.pipe",)
    assert advised("crash-safe", *found) == ("kin pipe",)
    assert advised("crash-safe, unrelated processes", *found) == ("kin mq",)
    assert advised("a CPU may be burnt (spinning)", *found) == ("racer",)


def test_what_is_as_good_is_named_too():
    assert advised("nothing more", trip("os.pipe", 10), trip("kin pipe", 10.5)) == (
        "os.pipe",
        "kin pipe",
    )
    assert advised("nothing more", stream("os.pipe", 100), stream("kin pipe", 50)) == ("os.pipe",)
