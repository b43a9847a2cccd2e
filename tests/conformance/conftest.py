"""The fixtures of the suite, and the line that counts its cases."""

from __future__ import annotations

from tests.conformance.fixtures import link, peers, place, pytest_generate_tests, two_links
from tests.conformance.link import REGISTERED

__all__ = ["link", "peers", "place", "pytest_generate_tests", "two_links"]

_SUITES = ("tests/conformance/", "tests/faults/", "tests/leaks/")


def pytest_terminal_summary(terminalreporter) -> None:
    """Say how many cases held every mechanism to the contract."""
    passed = [
        report
        for report in terminalreporter.stats.get("passed", [])
        if report.when == "call" and report.nodeid.startswith(_SUITES)
    ]
    if passed:
        terminalreporter.write_line(
            f"conformance: {len(passed)} cases over {len(REGISTERED)} mechanisms"
            f" ({', '.join(scheme + ':' for scheme in REGISTERED)})"
        )
