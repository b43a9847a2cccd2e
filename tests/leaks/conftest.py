"""The same channels as in tests/conformance."""

from __future__ import annotations

from tests.conformance.fixtures import link, peers, place, pytest_generate_tests, two_links

__all__ = ["link", "peers", "place", "pytest_generate_tests", "two_links"]
