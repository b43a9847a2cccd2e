"""faster-fifo: a ring of bytes under a pthread mutex and condition variables.

Its readme calls get_many the fast way to receive. What it carries is pickled by default; bytes are
given to it as they are by ``loads`` and ``dumps`` of our own, which is documented, and is faster.
"""

from __future__ import annotations

from typing import Any

from kinfolk.bench.subject import Inlet, Outlet, Subject, Terms, Wiring

#: Bytes of its ring: some messages, at least, and its default at least.
_MESSAGES, _DEFAULT = 8, 1_000_000

#: Seconds; its calls have a timeout of 10 s by default, and raise Empty or Full.
_FOR_EVER = 1e6


def _same(data: Any) -> Any:
    return data


class _Queue(Wiring):
    def __init__(self, terms: Terms) -> None:
        import faster_fifo
        import faster_fifo_reduction  # noqa: F401 - its readme: makes the queue picklable

        room = max(_DEFAULT, _MESSAGES * (terms.size + 64))
        raw = {} if terms.objects else {"loads": bytes, "dumps": _same}
        self._queue = faster_fifo.Queue(max_size_bytes=room, **raw)

    def inlet(self, number: int) -> Inlet:
        get, get_many = self._queue.get, self._queue.get_many
        return Inlet(
            lambda: get(timeout=_FOR_EVER),
            lambda: get_many(timeout=_FOR_EVER, max_messages_to_get=1000),
        )

    def outlet(self, number: int) -> Outlet:
        put, put_many = self._queue.put, self._queue.put_many
        return Outlet(
            lambda data: put(data, timeout=_FOR_EVER),
            send_many=lambda batch: put_many(batch, timeout=_FOR_EVER),
        )


SUBJECTS = (
    Subject(
        "faster-fifo",
        "peer",
        _Queue,
        "put and get_many, as its readme advises; bytes without pickle",
        package="faster-fifo",
        module="faster_fifo",
        objects=True,
    ),
)
