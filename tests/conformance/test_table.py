"""The table of variants is whole, and what a mechanism can't open is refused with a remedy."""

from __future__ import annotations

import pytest

import kinfolk as kin
from tests.conformance.fixtures import VARIANTS
from tests.conformance.link import REGISTERED
from tests.conformance.mechanisms import TABLE, Place, Variant
from tests.conformance.peers import HANG


@pytest.mark.parametrize("scheme", REGISTERED)
def test_every_mechanism_of_the_registry_is_in_the_table(scheme):
    assert TABLE.get(scheme), (
        f"{scheme}: is registered in kinfolk.channels.opening and untested:"
        " give it its variants in tests/conformance/mechanisms.py"
    )
    assert all(variant.scheme == scheme for variant in TABLE[scheme])


def test_identifiers_are_unique():
    names = [variant.id for variants in TABLE.values() for variant in variants]
    assert len(set(names)) == len(names)
    assert VARIANTS


def _refused(opening, *args, **named):
    with pytest.raises((kin.Unsupported, kin.AddressError)) as caught:
        opening(*args, **named)
    assert caught.value.remedy, caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", REGISTERED)
def test_openings_outside_the_table_are_refused_with_a_remedy(scheme, place: Place):
    ways = {variant.way for variant in TABLE[scheme]}
    address = TABLE[scheme][0].address(place).partition("?")[0]
    if "named" not in ways:
        _refused(kin.open_receiver, address, timeout=HANG)
        _refused(kin.open_sender, address, timeout=HANG)
    if "channel" not in ways:
        _refused(kin.channel, f"{scheme}:")
    if "pair" not in ways:
        _refused(kin.pair, scheme)
    if not ways & {"listener", "caller"}:
        _refused(kin.listen, address, timeout=HANG)
        _refused(kin.connect, address, timeout=HANG)


@pytest.mark.parametrize("scheme", [s for s in REGISTERED if s not in ("pipe", "tcp")])
def test_a_pair_is_two_directions_and_never_one_name(scheme, place: Place):
    """Two ends that sent to one name would receive their own messages."""
    address = TABLE[scheme][0].address(place).partition("?")[0]
    _refused(kin.pair, address)


def test_limits_are_complete(variant: Variant, link):
    receiver, sender = link.both()
    for end in (receiver, sender):
        limits = end.limits
        assert limits.mechanism == variant.scheme
        assert limits.max_message > 0
        assert limits.capacity or limits.depth, "memory has to be bounded by something"
        assert limits.senders in ("one", "many")
        assert limits.receivers in ("one", "many")
        assert all(note.endswith(".") for note in limits.notes)
        assert end.address.startswith(f"{variant.scheme}:")
        assert variant.scheme in repr(end)
        assert not end.closed
    for what in ("presence", "receivers", "empty_messages", "descriptors", "priorities"):
        assert getattr(receiver.limits, what) == getattr(sender.limits, what), what
    assert receiver.limits.max_message == sender.limits.max_message


@pytest.mark.parametrize("scheme", REGISTERED)
def test_options_that_it_does_not_take_are_refused_by_name(scheme, place: Place):
    address = TABLE[scheme][0].address(place).partition("?")[0]
    with pytest.raises(kin.AddressError, match="nonsense"):
        kin.open_receiver(f"{address}?nonsense=1")
    with pytest.raises(kin.AddressError, match="capacity"):
        kin.open_receiver(f"{address}?capacity=-1")
    with pytest.raises(kin.AddressError, match="codec"):
        kin.open_receiver(address, codec="marshal")
