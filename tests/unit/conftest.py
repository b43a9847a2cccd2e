"""What the unit tests share: real processes at the other end."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from kinfolk.signals.mask import refuse_other_takers
from tests.conformance.peers import Peers
from tests.unit.memories import new_address as new_address
from tests.unit.packets import fork as fork
from tests.unit.sysv_queues import ends as ends
from tests.unit.sysv_queues import key as key


@pytest.fixture
def peers() -> Iterator[Peers]:
    """Forks peers; none is left at the end."""
    children = Peers()
    try:
        yield children
    finally:
        children.end()


@pytest.fixture
def threads_at_rest() -> None:
    """Threads of the test runner block all signals, once they have begun: signals are for the test."""
    refuse_other_takers(frozenset({signal.SIGUSR1}))
