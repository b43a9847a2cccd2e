"""`kin recv`: what comes through a channel, to a file or standard output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import click

import kinfolk as kin
from kinfolk.cli import ends, parameters
from kinfolk.cli.ends import Receiving, Style
from kinfolk.cli.output import Output, output_to
from kinfolk.cli.progress import Progress
from kinfolk.cli.reports import Report
from kinfolk.cli.shown import as_json_line
from kinfolk.cli.transfer import Checksum, cut_short, read_header


@click.command(short_help="Receive into a file, or to standard output.")
@parameters.address()
@click.argument("file", required=False)
@parameters.framed()
@parameters.codec(
    "Messages instead of bare bytes: raw writes them one after the other; else each object is a line of JSON."
)
@click.option(
    "--messages", type=parameters.WholeNumber(min=1), metavar="N", help="End after N messages."
)
@click.option(
    "--connect", is_flag=True, help="Connect to a sender that listens, instead of listening."
)
@parameters.mode("the FIFO, socket or queue")
@parameters.timeout("when nothing comes for so long")
@parameters.quiet("progress bar")
@parameters.as_json("standard output, or standard error if that has the data")
def command(
    address: str,
    file: str | None,
    framed: bool,
    codec: str | None,
    messages: int | None,
    connect: bool,
    mode: str | None,
    timeout: float | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Receive at ADDRESS until the sender ends, into FILE or to standard output.

    FILE appears whole, when everything has come, or not at all.
    """
    style = ends.style_of(address, framed, codec)
    _check(address, style, file, messages)
    options = ends.opening(style, framed, codec, mode=mode)
    with (
        output_to(file) as output,
        ends.receiver_from(address, style, connect=connect, timeout=timeout, **options) as end,
    ):
        report = Report("recv", address=end.address, file=output.name)
        on_terminal = output.is_data_stream and os.isatty(1)
        with Progress(
            f"from {end.address}", None, quiet=quiet, data_on_terminal=on_terminal
        ) as progress:
            facts = _receive(
                _messages(end, style, messages, timeout),
                style,
                output,
                report,
                progress,
                end.address,
            )
        output.commit()
    if as_json:
        report.finish(to_stderr=output.is_data_stream, **facts)


def _check(address: str, style: Style, file: str | None, messages: int | None) -> None:
    if messages is not None and not (
        ends.has_boundaries(address, style) and style is not Style.CHECKED
    ):
        raise kin.UsageError(
            "--messages has nothing to count",
            subject=address,
            why="a transfer ends by itself"
            if style is Style.CHECKED
            else "bare bytes have no boundaries here",
            remedy="leave it out, or receive messages of kinfolk: --codec raw",
        )
    if file not in (None, "-") and messages is None and ends.never_ends(address, style):
        raise kin.UsageError(
            "the file would never be whole",
            subject=address,
            why="nothing says that everything has come: a queue outlives its senders",
            remedy="say --messages N, or --framed on both sides",
        )


def _messages(
    end: Receiving, style: Style, most: int | None, timeout: float | None
) -> Iterator[Any]:
    """Bytes, or objects; until the channel ends, or there were as many as asked for."""
    count = 0
    while most is None or count < most:
        try:
            with ends.within(timeout, "nothing came", end.address):
                if style in (Style.RAW, Style.MESSAGES):
                    message = end.recv_bytes(timeout=timeout)
                else:
                    message = end.recv(timeout=timeout)
        except kin.EndOfChannel:
            if most is not None:
                raise _too_few(count, most, end.address) from None
            return
        count += 1
        yield message


def _receive(
    incoming: Iterator[Any],
    style: Style,
    output: Output,
    report: Report,
    progress: Progress,
    address: str,
) -> dict[str, str]:
    if style is Style.CHECKED:
        return _receive_checked(incoming, output, report, progress, address)
    for each in incoming:
        data = as_json_line(each) if style is Style.OBJECTS else each
        output.write(data)
        report.add(len(data))
        progress.advance(len(data))
    return {}


def _receive_checked(
    incoming: Iterator[Any], output: Output, report: Report, progress: Progress, address: str
) -> dict[str, str]:
    first = next(incoming, None)
    if first is None:
        raise cut_short(0, address)
    progress.expect(read_header(first, address))
    checksum = Checksum()
    for each in incoming:
        if not isinstance(each, bytes):
            checksum.verify(each, address)
            return {"sha256": checksum.sha256}
        output.write(each)
        checksum.update(each)
        report.add(len(each))
        progress.advance(len(each))
    raise cut_short(report.bytes, address)


def _too_few(count: int, asked: int, address: str) -> kin.CorruptChannel:
    return kin.CorruptChannel(
        f"{count} of {asked} messages came",
        subject=address,
        why="the senders have gone",
        remedy="send the others again",
    )
