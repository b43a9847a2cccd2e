"""The options that several commands share, so that each has one name and one meaning."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

import kinfolk as kin

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]


def address(name: str = "address") -> Decorator:
    """An address, such as fifo:/tmp/f."""
    return click.argument(name, metavar="ADDRESS")


def timeout(what: str) -> Decorator:
    """How long to wait without anything moving."""
    return click.option(
        "--timeout",
        type=float,
        metavar="SECONDS",
        callback=seconds("0 to try once, or leave it out to wait for ever"),
        help=f"Give up {what}; without it, wait for ever.",
    )


def seconds(otherwise: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """The callback of an option that takes a time, 0 or more; ``otherwise`` says what else can be given."""

    def check(_: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
        if value is not None and not 0 <= value < math.inf:
            raise kin.InvalidValue(
                f"{parameter.opts[0]} {value:g} makes no sense",
                remedy=f"give seconds such as 2.5, {otherwise}",
            )
        return value

    return check


class WholeNumber(click.IntRange):
    """A range of numbers, by a name that means something to who reads of a wrong one."""

    name = "whole number"


class Pid(click.IntRange):
    """The number of a process."""

    name = "pid"

    def __init__(self) -> None:
        super().__init__(min=1)


def framed() -> Decorator:
    """Messages of kinfolk instead of bare bytes."""
    return click.option("--framed", is_flag=True, help="Messages of kinfolk instead of bare bytes.")


def codec(what: str) -> Decorator:
    """Objects instead of bytes."""
    return click.option(
        "--codec", type=click.Choice(["raw", "json", "msgpack", "pickle"]), help=what
    )


def mode(what: str) -> Decorator:
    """Permission bits of what is created."""
    return click.option("--mode", metavar="OCTAL", help=f"Permissions of {what} (default 0600).")


def as_json(where: str) -> Decorator:
    """A report for programs."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help=f"Report what was done as one JSON object on {where}.",
    )


def quiet(what: str) -> Decorator:
    """Less on standard error."""
    return click.option("-q", "--quiet", is_flag=True, help=f"No {what}.")


def count(what: str) -> Decorator:
    """End after so many."""
    return click.option(
        "--count", type=WholeNumber(min=1), metavar="N", help=f"End after N {what}."
    )
