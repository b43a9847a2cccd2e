"""What the unit tests share: real processes at the other end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.peers import Peers
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
