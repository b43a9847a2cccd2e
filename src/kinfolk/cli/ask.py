"""`kin ask`: one message to a server, and its answer.

The writing side stays open while the answer is awaited: a server that answers before the end of its input is
served too, and one that closes early is no error once it has answered. Sending and receiving go on at the same time,
so that a server which answers while it reads (echo) and a large message don't wait for each other.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import click

import kinfolk as kin
from kinfolk.cli import ends, parameters
from kinfolk.cli.ends import Style
from kinfolk.cli.reports import Report, print_bytes
from kinfolk.cli.shown import as_json_line, from_json
from kinfolk.cli.source import Source

_BLOCK = 1 << 20


@click.command(short_help="Send a message to a server, and print its answer.")
@parameters.address()
@click.argument("message", required=False)
@parameters.framed()
@parameters.codec(
    "Send MESSAGE, a JSON text, as an object, and print the answer as JSON; raw sends bytes."
)
@click.option(
    "--bytes",
    "size",
    type=parameters.WholeNumber(min=1),
    metavar="N",
    help="The answer has N bytes: wait for all of them.",
)
@click.option(
    "--all",
    "until_end",
    is_flag=True,
    help="The answer ends when the server closes: wait for that.",
)
@parameters.timeout("when the server or its answer is not there for so long")
@parameters.as_json("standard error, for the answer is on standard output")
def command(
    address: str,
    message: str | None,
    framed: bool,
    codec: str | None,
    size: int | None,
    until_end: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Send MESSAGE (or standard input) to the server at ADDRESS, and print what it answers.

    The answer is the first message that comes back; on a byte stream, what comes in one piece, unless --bytes or --all says more.
    """
    style = ends.style_of(address, framed, codec)
    body = _body(message)
    request = from_json(body) if style is Style.OBJECTS else body
    _check(address, style, request, size, until_end)
    report = Report("ask", address=address.partition("?")[0])
    asking = _Asking(address, style, timeout, None if until_end else size or 1)
    answers = asyncio.run(asking.ask(request, ends.opening(style, framed, codec)))
    shown = [each if isinstance(each, bytes) else as_json_line(each) for each in answers]
    for answer in shown:
        report.add(len(answer))
        print_bytes(answer)
    if message not in (None, "-") and not shown[-1].endswith(b"\n"):
        # A message in words: its answer on a line. A message from a file: the bare answer.
        print_bytes(b"\n")
    if as_json:
        report.finish(to_stderr=True)


def _check(address: str, style: Style, request: Any, size: int | None, until_end: bool) -> None:
    if size is not None and until_end:
        raise kin.UsageError("--bytes and --all exclude each other", remedy="give one of them")
    if ends.has_boundaries(address, style):
        if size is not None:
            raise kin.UsageError(
                "--bytes is for bare bytes on a stream",
                subject=address,
                why="here an answer is one message",
                remedy="leave it out",
            )
    elif request == b"":
        raise kin.UsageError(
            "an empty message is none on a byte stream",
            subject=address,
            remedy="add --framed on both sides",
        )


def _body(message: str | None) -> bytes:
    if message not in (None, "-"):
        return os.fsencode(str(message))
    with Source(None) as source:
        return b"".join(bytes(block) for block in source.blocks(_BLOCK, filled=False))


class _Asking:
    """One question: where, how, and how much of an answer."""

    def __init__(
        self, address: str, style: Style, timeout: float | None, least: int | None
    ) -> None:
        """``least`` is how many bytes a bare answer has at least; None: until the server ends."""
        self._address, self._style, self._timeout, self._least = address, style, timeout, least
        self._boundaries = ends.has_boundaries(address, style)

    async def ask(self, request: Any, options: dict[str, Any]) -> list[Any]:
        """The answer, in the pieces in which it came. Raises Timeout, EndOfChannel, and what sending raises."""
        with ends.within(self._timeout, "no server is there", self._address):
            connection = await kin.aconnect(self._address, timeout=self._timeout, **options)
        async with connection:
            sending = asyncio.create_task(self._send(connection, request))
            answers: list[Any] = []
            try:
                while not self._enough(answers, sending):
                    answers.append(await self._next(connection, sending))
            except (kin.EndOfChannel, kin.BrokenChannel) as error:
                if not answers or self._least not in (1, None):
                    raise self._too_little(answers) from error
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            return answers

    async def _send(self, connection: kin.Connection, request: Any) -> None:
        if isinstance(request, bytes):
            await connection.asend_bytes(request)
        else:
            await connection.asend(request)

    async def _next(self, connection: kin.Connection, sending: asyncio.Task[None]) -> Any:
        """The next piece; or the error, if the question can't be sent and no answer is to be expected."""
        receive = connection.arecv_bytes if self._style is Style.RAW else connection.arecv
        receiving = asyncio.create_task(receive(timeout=self._timeout))
        try:
            if not sending.done():
                await asyncio.wait({receiving, sending}, return_when=asyncio.FIRST_COMPLETED)
            failure = sending.exception() if sending.done() else None
            if failure is not None and not isinstance(failure, kin.BrokenChannel):
                raise failure
            with ends.within(self._timeout, "no answer came", self._address):
                return await receiving
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    def _enough(self, answers: list[Any], sending: asyncio.Task[None]) -> bool:
        if not answers or self._least is None or not sending.done():
            return False
        return self._boundaries or sum(map(len, answers)) >= self._least

    def _too_little(self, answers: list[Any]) -> kin.EndOfChannel:
        what = "no answer came"
        if answers:
            what = f"only {sum(map(len, answers))} bytes of an answer came"
        return kin.EndOfChannel(what, subject=self._address, why="the server closed the connection")
