"""Opening by address: the same errors for every mechanism, and nothing left behind."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.channels.opening import mechanism_of
from tests.conformance.peers import HANG, Call, open_descriptors

OPENINGS: list[Callable[..., Any]] = [
    kin.channel,
    kin.pair,
    kin.open_sender,
    kin.open_receiver,
    kin.connect,
    kin.listen,
]


@pytest.mark.parametrize("opening", OPENINGS, ids=lambda opening: opening.__name__)
def test_what_every_opening_refuses(opening: Callable[..., Any]) -> None:
    with pytest.raises(kin.AddressError, match=r"no mechanism 'carrier-pigeon'.*pipe:"):
        opening("carrier-pigeon:home")
    with pytest.raises(kin.AddressError, match="no option 'colour'"):
        opening("pipe:", colour="red")
    with pytest.raises(kin.AddressError, match="takes no option 'mode'"):
        opening("pipe:?mode=0600")
    with pytest.raises(kin.AddressError, match="bare bytes"):
        opening("pipe:?framing=raw&codec=pickle")


def test_the_defaults_are_filled_in() -> None:
    _, address = mechanism_of("pipe:")
    assert (address.options.framing, address.options.codec) == ("framed", "pickle")
    assert address.options.lifetime == "peers"
    _, address = mechanism_of("pipe:?framing=raw")
    assert address.options.codec == "raw"
    _, address = mechanism_of("fifo:/x", lifetime="name", codec="json")
    assert (address.options.lifetime, address.options.codec) == ("name", "json")


def test_an_end_says_where_and_how_it_was_opened(socket_path: Path) -> None:
    with kin.open_receiver(f"fifo:{socket_path}?codec=json") as receiver:
        assert receiver.address == f"fifo:{socket_path}"
        assert receiver.codec == "json"
        assert repr(receiver) == f"<kinfolk.Receiver fifo:{socket_path}>"
    assert repr(receiver).endswith(" closed>")


def test_the_address_of_an_end_opens_its_other_end(short_directory: Path) -> None:
    path = f"{short_directory}/a%3Fb %2541"
    with kin.open_receiver(f"fifo:{path}") as receiver:
        assert [entry.name for entry in short_directory.iterdir()] == ["a?b %41"]
        with kin.open_sender(receiver.address, timeout=HANG) as sender:
            sender.send("x")
        assert receiver.recv() == "x"


def test_a_pair_is_named_with_or_without_a_colon() -> None:
    for name in ("pipe", "pipe:", "pipe:?codec=raw"):
        one, other = kin.pair(name)
        with one, other:
            one.send(b"there")
            other.send(b"back")
            assert (other.recv(), one.recv()) == (b"there", b"back")


@pytest.mark.parametrize("opening", [kin.connect, kin.listen])
def test_one_way_mechanisms_say_what_goes_both_ways(opening: Callable[..., Any]) -> None:
    for address in ("pipe:", "fifo:/tmp/x"):
        with pytest.raises(kin.Unsupported) as caught:
            opening(address)
        assert caught.value.remedy
        assert str(caught.value).startswith(address.removesuffix(":"))


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf")])
def test_senseless_timeouts_are_refused_before_anything_is_made(
    socket_path: Path, timeout: float
) -> None:
    for opening in (kin.open_sender, kin.open_receiver):
        with pytest.raises(kin.InvalidValue):
            opening(f"fifo:{socket_path}", timeout=timeout)
    assert not socket_path.exists()


def test_no_os_error_leaves_bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe2", none_left)
    monkeypatch.setattr(os, "mkfifo", none_left)
    for opening, address in (
        (kin.channel, "pipe:"),
        (kin.pair, "pipe:"),
        (kin.open_receiver, f"fifo:{tmp_path}/f"),
    ):
        with pytest.raises(kin.LimitReached, match=r"can't open: .*ulimit -n"):
            opening(address)


def test_opening_on_asyncio_lets_others_run(socket_path: Path) -> None:
    address = f"fifo:{socket_path}"

    async def test() -> None:
        opening = asyncio.ensure_future(kin.aopen_sender(address, timeout=HANG))
        await asyncio.sleep(0)
        assert not opening.done()
        async with await kin.aopen_receiver(address) as receiver, await opening as sender:
            await sender.asend("x")
            assert await receiver.arecv() == "x"

    asyncio.run(test())


def test_a_cancelled_opening_leaves_nothing(socket_path: Path) -> None:
    address = f"fifo:{socket_path}"

    async def test() -> None:
        before = open_descriptors()
        opening = asyncio.ensure_future(kin.aopen_sender(address))
        await asyncio.sleep(0.01)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        with pytest.raises(kin.Timeout):
            await kin.aopen_sender(address, timeout=0.01)
        assert open_descriptors() == before

    asyncio.run(test())


def test_many_wait_for_one_receiver(socket_path: Path) -> None:
    address = f"fifo:{socket_path}"
    calls = [Call(kin.open_sender, address, timeout=HANG) for _ in range(5)]
    with kin.open_receiver(address) as receiver:
        for number, call in enumerate(calls):
            with call.result() as sender:
                sender.send(number)
        assert sorted(receiver) == [0, 1, 2, 3, 4]
