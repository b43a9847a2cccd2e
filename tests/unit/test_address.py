"""Addresses: what they may say, and that what they are called in messages is an address again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kinfolk as kin
from kinfolk.addresses import read_mode, read_size
from kinfolk.channels.address import Options, parse, restrict

NAMES = st.text(
    st.characters(min_codepoint=1, exclude_categories=["Cs"]) | st.sampled_from("%?&=/\n\x85\u2028")
)


@given(name=NAMES)
def test_the_text_of_an_address_is_the_address(name: str) -> None:
    address = parse("fifo:" + name.replace("%", "%25").replace("?", "%3F"))
    assert address.name == (name[2:] if name.startswith("///") else name)
    assert parse(str(address)).name in (address.name, address.name[2:])
    assert len(("x" + str(address)).splitlines()) == 1


@given(raw=st.binary(min_size=1).filter(lambda raw: b"\0" not in raw))
def test_a_name_may_be_any_bytes(raw: bytes) -> None:
    import os
    from urllib.parse import quote_from_bytes

    address = parse("fifo:/" + quote_from_bytes(raw))
    assert os.fsencode(address.name) == b"/" + raw or raw.startswith(b"//")
    str(address).encode()  # and can be printed


@pytest.mark.parametrize(
    ("text", "scheme", "name"),
    [
        ("pipe:", "pipe", ""),
        ("fifo:/tmp/f", "fifo", "/tmp/f"),
        ("fifo:///tmp/f", "fifo", "/tmp/f"),
        ("fifo://tmp/f", "fifo", "//tmp/f"),
        ("unix:@abstract", "unix", "@abstract"),
        ("unix-dgram:/a b", "unix-dgram", "/a b"),
        ("tcp:[::1]:80", "tcp", "[::1]:80"),
        ("sysv-mq:/etc/passwd#k", "sysv-mq", "/etc/passwd#k"),
        ("fifo:/a%3Fb?mode=0600", "fifo", "/a?b"),
        ("fifo:/a:b", "fifo", "/a:b"),
    ],
)
def test_scheme_and_name(text: str, scheme: str, name: str) -> None:
    address = parse(text)
    assert (address.scheme, address.name) == (scheme, name)


@pytest.mark.parametrize("text", ["", "pipe", "/tmp/f", "Pipe:", ":x", "fi fo:/x", "fifo:/a%00b"])
def test_no_address(text: str) -> None:
    with pytest.raises(kin.AddressError) as caught:
        parse(text)
    assert len(str(caught.value).splitlines()) == 1


def test_options_in_the_address_and_in_the_call_are_the_same() -> None:
    wanted = Options(codec="msgpack", mode=0o640, capacity=1 << 20, senders="one", type=-3)
    text = "pipe:?codec=msgpack&mode=0640&capacity=1M&senders=one&type=-3"
    assert parse(text).options == wanted
    given = {"codec": "msgpack", "mode": 0o640, "capacity": 1 << 20, "senders": "one", "type": -3}
    assert parse("pipe:", **given).options == wanted
    assert parse(text, **given).options == wanted
    assert parse("pipe:", codec=None).options == Options()


@pytest.mark.parametrize(
    ("text", "given", "says"),
    [
        ("pipe:?mode=0600", {"mode": 0o640}, "given twice"),
        ("pipe:?mode=0600&mode=0666", {}, "given twice, as 0600 and 0666"),
        ("pipe:?colour=red", {}, "no option 'colour'"),
        ("pipe:", {"colour": "red"}, "no option 'colour'"),
        ("pipe:?codec", {}, "can't be read"),
        ("pipe:?=1", {}, "no option ''"),
        ("pipe:?codec=", {}, "one of"),
        ("pipe:?codec=PICKLE", {}, "one of"),
        ("pipe:?mode=0888", {}, "mode=0888 makes no sense: a mode is octal, such as 0640"),
        ("pipe:", {"mode": 0o1777}, "mode=1777"),
        ("pipe:?mode=01777", {}, "between"),
        ("pipe:?capacity=-1", {}, "capacity=-1"),
        ("pipe:?capacity=0", {}, "positive"),
        ("pipe:?capacity=1Q", {}, "number of bytes"),
        ("pipe:?capacity=" + "9" * 400, {}, "makes no sense"),
        ("pipe:?capacity=9223372036854775808", {}, "too large"),
        ("pipe:", {"capacity": float("inf")}, "makes no sense"),
        ("pipe:", {"capacity": object()}, "makes no sense"),
        ("pipe:", {"capacity": True}, "capacity=True makes no sense: it must be a whole number"),
        ("pipe:", {"max_message": 1.5}, "max_message=1.5 makes no sense: it must be a whole"),
        ("pipe:", {"max_message": b"1"}, "it must be a whole number"),
        ("pipe:", {"mode": True}, "mode=True makes no sense: it must be a whole number"),
        ("pipe:", {"mode": 384.0}, "it must be a whole number"),
        ("pipe:?depth=1.5", {}, "depth=1.5 makes no sense: it must be a whole number"),
        ("pipe:?type=9223372036854775808", {}, "long"),
        ("pipe:?senders=two", {}, "one, many"),
    ],
)
def test_wrong_options_say_which(text: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(kin.AddressError, match=says):
        parse(text, **given)


def test_the_same_twice_is_no_contradiction() -> None:
    assert parse("pipe:?mode=0600&mode=600").options.mode == 0o600


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("64K", 65536),
        ("1.5M", 3 << 19),
        ("2GiB", 2 << 30),
        ("2gb", 2 << 30),
        (" 8 k", 8192),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert read_size(text) == size


def test_modes_are_octal_in_text_only() -> None:
    assert read_mode("640") == read_mode("0640") == read_mode(0o640) == 0o640


def test_a_mechanism_says_what_it_takes() -> None:
    address = parse("pipe:?mode=0600")
    with pytest.raises(kin.AddressError, match=r"takes no option 'mode'.*it takes capacity, codec"):
        restrict(address, frozenset({"codec", "capacity"}))
    restrict(parse("pipe:?codec=raw"), frozenset({"codec", "capacity"}))


@pytest.mark.parametrize("half", [0xD800, 0xDBFF, 0xDC00, 0xDC7F, 0xDD00, 0xDFFF])
@pytest.mark.parametrize("scheme", ["fifo", "unix", "unix-dgram", "mq", "sysv-mq"])
def test_half_a_surrogate_pair_is_in_no_name(scheme: str, half: int) -> None:
    with pytest.raises(kin.AddressError, match="half of a surrogate pair") as caught:
        kin.open_receiver(f"{scheme}:/tmp/{chr(half)}")
    str(caught.value).encode()  # it can be shown


def test_bytes_that_are_no_text_are_a_name(short_directory: Path) -> None:
    with kin.open_receiver(f"fifo:{short_directory}/\udc80\udcff"):
        assert os.listdir(os.fsencode(short_directory)) == [b"\x80\xff"]
