"""A daemon that says when it is ready: an echo server on a Unix socket.

    python examples/daemon.py DIRECTORY      0 once it answers; else it does not run, and a line says why
    kin ask unix:DIRECTORY/echo.sock hello
    kin daemon --stop --pidfile DIRECTORY/echo.pid

DIRECTORY gets the socket, the pid file, which is locked as long as the daemon lives, and its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import kinfolk as kin


async def echo(listener: kin.Listener) -> None:
    """Answer one client after the other."""
    async for client in listener:
        with contextlib.suppress(kin.BrokenChannel):  # it did not wait for its answer
            async with client:
                async for data in client:
                    await client.asend_bytes(data)


async def serve(socket: Path, daemon: kin.Daemon) -> None:
    async with kin.listen(f"unix:{socket}", framing="raw") as listener:
        async with kin.signals.stream("TERM") as orders, asyncio.TaskGroup() as tasks:
            echoing = tasks.create_task(echo(listener))
            daemon.ready()  # the process that was started exits with 0 now
            print("ready", flush=True)
            print("ended by", (await orders.arecv()).name, flush=True)
            echoing.cancel()


def main() -> None:
    directory = Path(sys.argv[1]).resolve()
    with kin.daemonize(
        until_ready=True, pidfile=directory / "echo.pid", log=directory / "echo.log", timeout=30
    ) as daemon:
        # From here on this is the daemon. An exception before ready() is told by the original, which exits with 1.
        asyncio.run(serve(directory / "echo.sock", daemon))


if __name__ == "__main__":
    main()
