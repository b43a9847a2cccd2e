"""Fixtures of everything that runs against every mechanism: imported by the conftest of each such suite.

A test that takes `link` runs once for each variant. Narrow it with `only(lambda variant: …)`
where a test is about one way of opening, and with `main_ways` where it is costly.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.link import REGISTERED, Link
from tests.conformance.mechanisms import TABLE, Place, Variant
from tests.conformance.peers import Peers

VARIANTS = [variant for scheme in REGISTERED for variant in TABLE.get(scheme, [])]

#: Files whose tests run against every way of opening in `make test`; others run against the main ways there, and
#: against every way in `make soak`. With more the suite would take longer than people wait.
EVERY_WAY = ("test_table", "test_endings", "test_connections")


def only(wanted: Callable[[Variant], bool]) -> pytest.MarkDecorator:
    """Run a test of `link` against these variants alone."""
    # with_args, for a mark that is called with one function decorates it
    return pytest.mark.variants.with_args(wanted)


#: for tests that are costly, or about how data travels and not about how it is opened
main_ways = only(lambda variant: variant.main)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One case of a test a variant."""
    if "variant" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("variants")
        wanted = marker.args[0] if marker else lambda variant: True
        chosen = [variant for variant in VARIANTS if wanted(variant)]
        every_way = marker is not None or metafunc.module.__name__.endswith(EVERY_WAY)
        metafunc.parametrize(
            "variant",
            [
                pytest.param(variant, marks=() if every_way or variant.main else pytest.mark.soak)
                for variant in chosen
            ],
            ids=[variant.id for variant in chosen],
        )


@pytest.fixture
def place() -> Iterator[Place]:
    """Where names may be put."""
    directory = Path(tempfile.mkdtemp(prefix="kf", dir="/tmp"))
    yield Place(directory)
    shutil.rmtree(directory)


@pytest.fixture
def peers() -> Iterator[Peers]:
    """The test's children."""
    children = Peers()
    yield children
    children.end()


@pytest.fixture
def link(variant: Variant, place: Place, peers: Peers) -> Iterator[Link]:
    """A fresh channel of each variant."""
    made = Link(variant, place, peers)
    yield made
    peers.end()
    made.close()


@pytest.fixture
def two_links(variant: Variant, place: Place, peers: Peers) -> Iterator[tuple[Link, Link]]:
    """Two channels of each variant."""
    made = Link(variant, place, peers), Link(variant, place, peers)
    yield made
    peers.end()
    for one in made:
        one.close()
