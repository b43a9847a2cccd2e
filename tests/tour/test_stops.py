"""Every stop is walked with real processes; all of its checks must hold and nothing may stay."""

from __future__ import annotations

import pytest

import kinfolk as kin
import kinfolk.tour
from kinfolk.channels.mechanisms import SCHEMES
from kinfolk.tour.links import links
from kinfolk.tour.processes import crew

NAMES = [name for name, _, _ in kinfolk.tour.stops()]


@pytest.mark.parametrize("name", NAMES)
def test_stop_passes(walk, name):
    ok, report = walk(name)
    (stop,) = report["stops"]
    failed = [check for check in stop["checks"] if not check["ok"]]
    assert not failed, stop["traceback"]
    assert ok
    assert stop["checks"], "a stop without a check shows nothing"


def test_every_mechanism_is_on_the_tour(scratch):
    schemes = {link.address.partition(":")[0] for link in links(str(scratch))}
    assert schemes == set(SCHEMES)


def test_every_mechanism_has_a_stop_or_shares_one():
    assert set(SCHEMES) <= set(NAMES)


def test_file_went_over_every_mechanism(walk, small_file):
    _, report = walk("file")
    transfers = report["stops"][0]["figures"]["transfers"]
    labels = [transfer["mechanism"] for transfer in transfers]
    assert len(set(labels)) == len(labels)
    assert {label.split(" ")[0] for label in labels} == set(SCHEMES)
    for transfer in transfers:
        assert transfer["bytes"] == small_file.stat().st_size
        assert transfer["messages"] == -(-transfer["bytes"] // transfer["message_size"])
        assert transfer["mib_per_second"] > 0


def test_ends_were_seen_on_every_mechanism(walk):
    _, report = walk("ends")
    rows = report["stops"][0]["figures"]["ends"]
    assert {row["mechanism"].split(" ")[0] for row in rows} == set(SCHEMES)


@pytest.mark.parametrize("ending", [False, True])
@pytest.mark.parametrize("scheme", ["mq", "sysv-mq"])
def test_a_queue_goes_although_everybody_was_killed(scratch, scheme, ending):
    def hold(line, link):
        with link.open_receiver(), link.open_sender() as sender:
            sender.send("left behind")
            line.tell("there")
            line.hear()

    queue = next(
        link for link in links(str(scratch), ending=ending) if link.address.startswith(scheme + ":")
    )
    with queue.laid() as link, crew() as hands:
        child = hands.start("holder", hold, link)
        child.hear()
        child.kill()
    with pytest.raises(kin.Timeout):
        kin.open_sender(queue.address, timeout=0)


def test_what_the_source_leaves_out_is_told(small_file, capsys):
    assert kinfolk.tour.run(("exit",), str(small_file), False)
    assert "The source's own listing ends one line earlier" in " ".join(
        capsys.readouterr().out.split()
    )


def test_an_empty_file_arrives_too(walk, small_file):
    small_file.write_bytes(b"")
    ok, report = walk("file")
    assert ok, report["stops"][0]
