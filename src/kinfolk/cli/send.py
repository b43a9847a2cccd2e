"""`kin send`: a file, or standard input, into a channel."""

from __future__ import annotations

from contextlib import AbstractContextManager

import click

import kinfolk as kin
from kinfolk.cli import ends, parameters
from kinfolk.cli.ends import Sending, Style
from kinfolk.cli.progress import Progress
from kinfolk.cli.reports import Report
from kinfolk.cli.source import Source
from kinfolk.cli.transfer import Checksum, header

#: What is read at once: more costs memory, less costs calls.
_BLOCK = 128 << 10
#: The largest message that is filled before it goes out.
_LARGEST_FILLED = 1 << 20


@click.command(short_help="Send a file, or standard input.")
@parameters.address()
@click.argument("file", required=False)
@parameters.framed()
@parameters.codec(
    "Messages instead of bare bytes: raw for blocks of bytes; else each line is a JSON text, sent as an object."
)
@click.option(
    "--block",
    type=parameters.WholeNumber(min=1),
    metavar="BYTES",
    help="The largest message, where boundaries arrive.",
)
@click.option(
    "--priority", type=int, metavar="N", help="Priority on mq:, message type on sysv-mq:."
)
@click.option(
    "--listen", is_flag=True, help="Wait for the receiver to connect, instead of connecting to it."
)
@parameters.mode("the socket that --listen makes")
@parameters.timeout("when nothing moves for so long")
@parameters.quiet("progress bar")
@parameters.as_json("standard output")
def command(
    address: str,
    file: str | None,
    framed: bool,
    codec: str | None,
    block: int | None,
    priority: int | None,
    listen: bool,
    mode: str | None,
    timeout: float | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Send FILE, or standard input, to the receiver at ADDRESS, once that is there.

    Bare bytes unless --framed or --codec says otherwise: cat, socat and C programs are receivers too.
    """
    style = ends.style_of(address, framed, codec)
    if mode is not None and not listen:
        raise kin.UsageError(
            "--mode is for what --listen makes", remedy="leave it out, or give it to the receiver"
        )
    options = ends.opening(style, framed, codec, mode=mode)
    with (
        Source(file) as source,
        ends.sender_to(address, style, listen=listen, timeout=timeout, **options) as end,
    ):
        report = Report("send", address=end.address, file=source.name)
        moving = _Moving(end, report, timeout, priority)
        try:
            with Progress(
                f"to {end.address}", source.size, quiet=quiet, data_on_terminal=source.is_terminal
            ) as progress:
                facts = _send(
                    moving, source, style, block, ends.has_boundaries(address, style), progress
                )
                ends.finish_sending(end, timeout)
        except kin.BrokenChannel as error:
            raise _nobody_receives(error, report, source) from error
    if as_json:
        report.finish(to_stderr=False, **facts)


class _Moving:
    """An end, and what every message to it has in common."""

    def __init__(
        self, end: Sending, report: Report, timeout: float | None, priority: int | None
    ) -> None:
        self.end, self.report, self._timeout, self._priority = end, report, timeout, priority

    def _within(self) -> AbstractContextManager[None]:
        return ends.within(self._timeout, "the receiver takes nothing more", self.end.address)

    def bytes(self, data: memoryview) -> None:
        with self._within():
            self.end.send_bytes(data, timeout=self._timeout, priority=self._priority)
        self.report.add(len(data))

    def object(self, obj: object, *, counts: bool = True) -> None:
        with self._within():
            self.end.send(obj, timeout=self._timeout, priority=self._priority)
        if counts:
            self.report.add(0)


def _send(
    moving: _Moving,
    source: Source,
    style: Style,
    block: int | None,
    boundaries: bool,
    progress: Progress,
) -> dict[str, str]:
    if style is Style.OBJECTS:
        for obj in source.objects():
            moving.object(obj)
        moving.report.bytes = moving.end.statistics().bytes_sent
        return {}
    checksum = Checksum()
    filled = boundaries and style is not Style.CHECKED
    largest = moving.end.limits.max_message
    size = min(block or (_LARGEST_FILLED if filled else _BLOCK), largest)
    if style is Style.CHECKED:
        moving.object(header(source.size), counts=False)
    anything = False
    for data in source.blocks(size, filled=filled):
        moving.bytes(data)
        progress.advance(len(data))
        anything = True
        if style is Style.CHECKED:
            checksum.update(data)
    if style is Style.CHECKED:
        moving.object(checksum.trailer(), counts=False)
        return {"sha256": checksum.sha256}
    if filled and not anything and moving.end.limits.empty_messages:
        moving.bytes(memoryview(b""))  # an empty file is an empty message
    return {}


def _nobody_receives(error: kin.BrokenChannel, report: Report, source: Source) -> kin.BrokenChannel:
    of = f" of {source.size}" if source.size is not None else ""
    return kin.BrokenChannel(
        "no process receives any more",
        subject=error.subject,
        why=f"the receiver left when {report.bytes}{of} bytes were on their way",
        remedy="start the receiver again, then send again",
    )
