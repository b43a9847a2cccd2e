"""Many clients at once, until a signal or a count ends it: what `kin echo` and `kin relay` are made of.

Rules:
1. SIGINT, SIGTERM and SIGHUP (unless ignored: nohup) mean: remove the name, let go of the clients, end well. They are obeyed from
   before the name is made, so that it can't be left behind.
2. A client's error is that client's: it is said in a line, and the others go on.
3. Without descriptors for another client, it waits until one leaves, and does not spin.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import kinfolk as kin
from kinfolk.cli import failures
from kinfolk.cli.signals import ENDING

#: Seconds until another try when the kernel had no room for one more client.
_PAUSE = 1.0


class Server:
    """Serves the clients of one address."""

    def __init__(
        self,
        program: str,
        handle: Callable[[kin.Connection], Awaitable[None]],
        *,
        count: int | None,
        quiet: bool,
    ) -> None:
        """``handle`` serves one client and closes it; after ``count`` clients the server ends."""
        self._program, self._handle, self._count, self._quiet = program, handle, count, quiet
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""
        self.clients = 0
        self.failed = 0

    def run(self, address: str, **options: Any) -> None:
        """Serve until it ends. Raises what listening raises."""
        asyncio.run(self._serve(address, options))

    async def _serve(self, address: str, options: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in ENDING:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, ended.set)
        with kin.listen(address, **options) as listener:
            self.address = listener.address
            if not self._quiet:
                failures.say(f"listening on {listener.address}")
            ending = asyncio.create_task(ended.wait())
            await self._accept_all(listener, ending)
        await self._let_go(ending)

    async def _accept_all(self, listener: kin.Listener, ending: asyncio.Task[Any]) -> None:
        said = False  # of one shortage, one line
        while not ending.done() and self.clients != self._count:
            accepting = asyncio.create_task(listener.aaccept())
            await asyncio.wait({accepting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not accepting.done():
                accepting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    (await accepting).close()
                return
            try:
                connection = accepting.result()
            except kin.LimitReached as error:
                if not said:
                    failures.complain(self._program, error.explain())
                said = True
                await asyncio.wait(
                    {*self._tasks, ending}, timeout=_PAUSE, return_when=asyncio.FIRST_COMPLETED
                )
                continue
            said = False
            self.clients += 1
            task = asyncio.create_task(self._client(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _client(self, connection: kin.Connection) -> None:
        try:
            async with connection:
                await self._handle(connection)
        except kin.KinfolkError as error:
            self.failed += 1
            failures.complain(self._program, error.explain())

    async def _let_go(self, ending: asyncio.Task[Any]) -> None:
        """Wait for the last clients, unless a signal has ended them all."""
        while self._tasks and not ending.done():
            await asyncio.wait({*self._tasks, ending}, return_when=asyncio.FIRST_COMPLETED)
        for task in (*self._tasks, ending):
            task.cancel()
        await asyncio.gather(*self._tasks, ending, return_exceptions=True)
