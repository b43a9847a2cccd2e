"""iceoryx2: publish and subscribe over shared memory; received samples are read in place.

Without overflow and with a publisher that retries until there is room, so that nothing is lost:
what the other subjects do unasked. Polled, an end asks again and again, as in its examples; with
events, it sleeps in a Listener until the other side notifies it, for each message and for each that
was taken.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

from kinfolk.bench.subject import Inlet, Outlet, Subject, Terms, Wiring

#: Messages that may wait.
_DEPTH = 16


class _Service(Wiring):
    """One publish-subscribe service; with ``events``, an event service beside it."""

    def __init__(self, terms: Terms, *, events: bool) -> None:
        self._terms, self._events = terms, events

    def _node(self) -> Any:
        import iceoryx2 as iox2

        iox2.set_log_level(iox2.LogLevel.Fatal)
        return iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)

    def _data(self, node: Any) -> Any:
        import iceoryx2 as iox2

        shape = self._terms.shape
        name = iox2.ServiceName.new(f"kinfolk/{self._terms.name}")
        builder = node.service_builder(name).publish_subscribe(iox2.Slice[ctypes.c_uint8])
        return (
            builder.enable_safe_overflow(False)
            .subscriber_max_buffer_size(_DEPTH)
            .subscriber_max_borrowed_samples(2)
            .max_publishers(shape.senders)
            .max_subscribers(shape.receivers)
            .open_or_create()
        )

    def _arrivals(self, node: Any) -> Any:
        import iceoryx2 as iox2

        name = iox2.ServiceName.new(f"kinfolk/{self._terms.name}")
        return node.service_builder(name).event().open_or_create()

    def inlet(self, number: int) -> Inlet:
        node = self._node()
        service = self._data(node)
        subscriber = service.subscriber_builder().buffer_size(_DEPTH).create()
        receive = subscriber.receive
        listener = self._arrivals(node).listener_builder().create() if self._events else None
        held: list[Any] = [node, service, subscriber, None]
        # Not payload().as_memory_view(): that one's elements can't be looked at one by one.
        in_place = (ctypes.c_ubyte * self._terms.size).from_address
        as_array = _array_of if self._terms.objects else _same

        def take() -> Any:
            while (sample := receive()) is None:
                if listener is not None:
                    listener.blocking_wait()
            held[-1] = sample  # it is read where it lies, and given back with the next one
            return as_array(in_place(sample.payload_ptr))

        def close() -> None:
            held[-1] = None
            for port in (subscriber, listener):
                if port is not None:
                    port.delete()

        return Inlet(take, close=close)

    def remove(self) -> None:
        self._node().try_cleanup_dead_nodes()  # what processes that were killed have left

    def outlet(self, number: int) -> Outlet:
        import iceoryx2 as iox2

        node = self._node()
        service = self._data(node)
        publisher = (
            service.publisher_builder()
            .initial_max_slice_len(self._terms.size)
            .backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        notifier = self._arrivals(node).notifier_builder().create() if self._events else None
        loan, size = publisher.loan_slice_uninit, self._terms.size
        held = [node, service]

        def send(data: Any) -> None:
            sample = loan(size)
            ctypes.memmove(sample.payload_ptr, data, size)
            sample.assume_init().send()
            if notifier is not None:
                notifier.notify()

        def send_array(array: Any) -> None:
            send(array.ctypes.data)

        @contextlib.contextmanager
        def reserve(size: int) -> Iterator[Any]:
            sample = loan(size)
            yield (ctypes.c_ubyte * size).from_address(sample.payload_ptr)
            sample.assume_init().send()
            if notifier is not None:
                notifier.notify()

        while not service.dynamic_config.number_of_subscribers:
            pass  # what is published before somebody subscribes, nobody gets
        publisher.update_connections()

        def close() -> None:
            held.clear()
            for port in (publisher, notifier):
                if port is not None:
                    port.delete()

        return Outlet(send_array if self._terms.objects else send, close, reserve=reserve)


def _same(memory: Any) -> Any:
    return memory


def _array_of(memory: Any) -> Any:
    import numpy as np

    return np.frombuffer(memory, dtype=np.uint8)


_MEETS = frozenset({"unrelated", "c-peers"})

SUBJECTS = (
    Subject(
        "iceoryx2 polled",
        "peer",
        lambda terms: _Service(terms, events=False),
        "loan, write in place, send; receive until there is one, read in place",
        waiting="spinning",
        package="iceoryx2",
        module="iceoryx2",
        many_receivers=False,
        objects=True,
        in_place=True,
        meets=_MEETS,
    ),
    Subject(
        "iceoryx2 events",
        "peer",
        lambda terms: _Service(terms, events=True),
        "as polled, and an event for each message, on which the receiver sleeps",
        package="iceoryx2",
        module="iceoryx2",
        many_receivers=False,
        objects=True,
        in_place=True,
        meets=_MEETS,
    ),
)
