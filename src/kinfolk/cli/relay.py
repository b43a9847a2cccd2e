"""`kin relay`: joins two addresses.

    both two-way     clients ──> first address: we listen ──> a connection to the second for each client, and back
    otherwise        senders ──> first address: we receive ──> second address: we send

Rules:
1. What one side says is passed on as it came: bare bytes as bytes, messages as messages, objects as objects.
2. When one side has ended what it says, the other is told, and may go on answering. When one side has gone, the
   other's connection is closed.
3. SIGINT, SIGHUP and SIGTERM end it well. Of a message that was received then, none is lost before a second signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass
from typing import Any

import click

import kinfolk as kin
from kinfolk.cli import ends, failures, parameters, signals
from kinfolk.cli.ends import Style
from kinfolk.cli.exit_codes import ExitCode
from kinfolk.cli.forwarding import Passage
from kinfolk.cli.reports import amount, emit
from kinfolk.cli.serving import Server


@click.command(short_help="Join two addresses.")
@parameters.address("first")
@parameters.address("second")
@parameters.framed()
@parameters.codec("Objects that may pass; pickle only between programs of your own.")
@parameters.mode("what is made at the first address")
@parameters.count("clients")
@parameters.timeout("on a client or message when the second address is not there for so long")
@parameters.quiet("lines about what is listened to and what was relayed")
@parameters.as_json("standard output, at the end")
def command(
    first: str,
    second: str,
    framed: bool,
    codec: str | None,
    mode: str | None,
    count: int | None,
    timeout: float | None,
    quiet: bool,
    as_json: bool,
) -> ExitCode:
    """Pass what comes at the first ADDRESS on to the second, and back where both go both ways.

    Between two-way addresses it listens at the first and connects to the second, anew for each client. Otherwise it receives
    from the first and sends to the second until the first ends.
    """
    if first.partition("?")[0] == second.partition("?")[0]:
        raise kin.UsageError(
            "both addresses are the same",
            subject=first,
            why="it would relay to itself",
            remedy="give two",
        )
    entry = _Side(first, ends.style_of(first, framed, codec))
    exit_ = _Side(second, ends.style_of(second, framed, codec))
    entering = ends.opening(entry.style, framed, codec, mode=mode)
    leaving = ends.opening(exit_.style, framed, codec)
    counts = {"forward": _Count(), "backward": _Count()}
    facts: dict[str, Any] = {"command": "relay", "from": first, "to": second}
    code = ExitCode.OK
    done = "relayed {forward} forward, {backward} back"
    if {ends.scheme_of(first), ends.scheme_of(second)} <= ends.TWO_WAY:
        server = _both_ways(entry, exit_, entering, leaving, counts, count, timeout, quiet)
        facts |= {"clients": server.clients, "failed": server.failed}
        code = ExitCode.FAILED if count is not None and server.failed else ExitCode.OK
    else:
        if count is not None:
            raise kin.UsageError(
                "--count is for clients",
                subject=first,
                why="one of the addresses goes one way",
                remedy="leave it out",
            )
        _one_way(entry, exit_, entering, leaving, counts["forward"], timeout)
        done = "relayed {forward}"
    if as_json:
        emit(facts | {name: vars(each) for name, each in counts.items()}, to_stderr=False)
    elif not quiet:
        failures.say(done.format(**counts))
    return code


@dataclass(frozen=True)
class _Side:
    address: str
    style: Style


@dataclass
class _Count:
    messages: int = 0
    bytes: int = 0

    def __str__(self) -> str:
        return f"{self.messages} messages ({amount(self.bytes)})"

    def add(self, message: object) -> None:
        self.messages += 1
        self.bytes += len(message) if isinstance(message, bytes) else 0


# ── both ways ────────────────────────────────────────────────────────────────────────────────


def _both_ways(
    entry: _Side,
    exit_: _Side,
    entering: dict[str, Any],
    leaving: dict[str, Any],
    counts: dict[str, _Count],
    count: int | None,
    timeout: float | None,
    quiet: bool,
) -> Server:
    async def join(client: kin.Connection) -> None:
        with ends.within(timeout, "no server is there", exit_.address):
            upstream = await kin.aconnect(exit_.address, timeout=timeout, **leaving)
        async with upstream:
            pumps = [
                asyncio.create_task(
                    _pump(
                        Passage(client, entry.style, upstream, exit_.style),
                        upstream,
                        counts["forward"],
                    )
                ),
                asyncio.create_task(
                    _pump(
                        Passage(upstream, exit_.style, client, entry.style),
                        client,
                        counts["backward"],
                    )
                ),
            ]
            try:
                done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
            for pump in done:
                with contextlib.suppress(kin.BrokenChannel):  # one side has gone: rule 2
                    pump.result()

    server = Server("kin relay", join, count=count, quiet=quiet)
    server.run(entry.address, **entering)
    return server


async def _pump(passage: Passage, sink: kin.Connection, count: _Count) -> None:
    while True:
        try:
            message = await passage.receive()
        except kin.EndOfChannel:
            sink.send_eof()
            return
        await passage.pass_on(message)
        count.add(message)


# ── one way ──────────────────────────────────────────────────────────────────────────────────


def _one_way(
    entry: _Side,
    exit_: _Side,
    entering: dict[str, Any],
    leaving: dict[str, Any],
    count: _Count,
    timeout: float | None,
) -> None:
    with (
        ends.receiver_from(
            entry.address, entry.style, connect=False, timeout=None, **entering
        ) as source,
        ends.sender_to(
            exit_.address, exit_.style, listen=False, timeout=timeout, **leaving
        ) as sink,
    ):
        try:
            passage = Passage(source, entry.style, sink, exit_.style)
            asyncio.run(_pump_until_ended(passage, count))
        finally:
            signals.raise_when_ended()  # asyncio has put the default actions back
        ends.finish_sending(sink, timeout)


async def _pump_until_ended(passage: Passage, count: _Count) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end(number: int) -> None:
        if ended.is_set():
            signals.die_of(number)
        ended.set()

    for number in signals.ENDING:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, end, number)
    ending = asyncio.create_task(ended.wait())
    while not ended.is_set():
        receiving = asyncio.create_task(passage.receive())
        await asyncio.wait({receiving, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not receiving.done():
            receiving.cancel()
        try:
            message = await receiving
        except (kin.EndOfChannel, asyncio.CancelledError):
            break
        await passage.pass_on(message)
        count.add(message)
    ending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ending
