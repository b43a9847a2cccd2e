"""Both ways: pairs, listeners, callers; each direction has its own end."""

from __future__ import annotations

import asyncio
import os

import pytest

import kinfolk as kin
from tests.conformance.fixtures import only
from tests.conformance.link import Link
from tests.conformance.peers import HANG, thread_of, until_blocked
from tests.conformance.test_endings import sends_until_it_breaks
from tests.conformance.test_messages import pattern

duplex = only(lambda variant: variant.duplex)
listening = only(lambda variant: variant.way == "listener")


@duplex
def test_ask_and_answer(link: Link):
    def answering(connection, voice):
        for question in iter(lambda: connection.recv(timeout=HANG), None):
            connection.send(["answer", question])

    connection, peer = link.from_peer(answering)
    for number in range(100):
        connection.send(number, timeout=HANG)
        assert connection.recv(timeout=HANG) == ["answer", number]
    connection.send(None)
    peer.result()


@duplex
def test_both_directions_at_once(link: Link):
    """Each is full while the other flows: neither waits for the other."""
    size = link.prepared(lambda end: min(20_000, end.limits.max_message))

    def both_ways(connection, voice):
        with thread_of(
            lambda: [connection.send_bytes(pattern(size, n), timeout=HANG) for n in range(60)]
        ) as sending:
            for number in range(60):
                assert connection.recv_bytes(timeout=HANG) == pattern(size, number)
            sending.result()
        return connection.statistics().messages_received

    connection, peer = link.from_peer(both_ways)
    assert both_ways(connection, None) == 60
    assert peer.result() == 60


@duplex
def test_ending_one_direction(link: Link):
    one, other = link.both()
    one.send("last words")
    refused = None
    try:
        one.send_eof()
    except kin.Unsupported as error:
        refused = error
    assert other.recv(timeout=HANG) == "last words"
    if refused is not None:
        assert refused.remedy
        return
    with pytest.raises(kin.EndOfChannel):
        other.recv(timeout=HANG)
    other.send("I go on")
    assert one.recv(timeout=HANG) == "I go on"
    with pytest.raises(kin.KinfolkError):
        one.send("more")


@duplex
def test_closing_ends_both(link: Link):
    one, other = link.both()
    one.send("before")
    with thread_of(one.recv) as call:
        until_blocked(one)
        one.close()
        assert isinstance(call.raised(), kin.Closed)
    assert other.recv(timeout=HANG) == "before"
    with pytest.raises(kin.EndOfChannel):
        other.recv(timeout=HANG)
    with pytest.raises(kin.BrokenChannel):
        sends_until_it_breaks(other)


@listening
def test_many_clients_at_once(link: Link):
    """Each has a connection of its own, and order and peers are not mixed up."""

    def calling(voice, who):
        with kin.connect(link.address, timeout=HANG, **link.options) as connection:
            for number in range(20):
                connection.send([who, number], timeout=HANG)
                assert connection.recv(timeout=HANG) == [who, number, "answer"]
            return connection.peer

    def serve(connection):
        with connection:
            for who, number in connection:
                connection.send([who, number, "answer"], timeout=HANG)

    with kin.listen(link.address, timeout=HANG, **link.options) as listener:
        clients = [link.peers.fork(calling, who) for who in range(8)]
        served = [thread_of(serve, listener.accept(timeout=HANG)) for _ in clients]
        calls = [context.__enter__() for context in served]
        for client in clients:
            client.result()
        for call in calls:
            call.result()
        for context in served:
            context.__exit__(None, None, None)
        with pytest.raises(kin.Timeout):
            listener.accept(timeout=0)


@listening
def test_a_listener_closes_under_a_blocked_accept(link: Link):
    listener = kin.listen(link.address, timeout=HANG, **link.options)
    with thread_of(listener.accept) as call:
        call.thread.join(0.01)
        listener.close()
        assert isinstance(call.raised(), kin.Closed)
    with pytest.raises(kin.Closed):
        listener.accept()
    assert link.name_exists() in (False, None)
    with pytest.raises(kin.Timeout):
        kin.connect(link.address, timeout=0.02, **link.options)


@listening
def test_a_second_listener_is_busy(link: Link):
    with kin.listen(link.address, timeout=HANG, **link.options):
        with pytest.raises(kin.Busy) as caught:
            kin.listen(link.address, timeout=0.05, **link.options)
        assert caught.value.remedy
    with kin.listen(link.address, timeout=HANG, **link.options):
        pass


@listening
def test_connections_outlive_their_listener(link: Link):
    with kin.listen(link.address, timeout=HANG, **link.options) as listener:
        with thread_of(kin.connect, link.address, timeout=HANG, **link.options) as call:
            accepted = listener.accept(timeout=HANG)
            connected = call.result()
    with accepted, connected:
        connected.send("still there")
        assert accepted.recv(timeout=HANG) == "still there"


@listening
def test_awaiting_connections(link: Link):
    async def body():
        with kin.listen(link.address, timeout=HANG, **link.options) as listener:
            given_up = asyncio.create_task(listener.aaccept())
            await asyncio.sleep(0)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            accepting = asyncio.create_task(listener.aaccept(timeout=HANG))
            async with (
                await kin.aconnect(link.address, timeout=HANG, **link.options) as connected,
                await accepting as accepted,
            ):
                await connected.asend("x")
                assert await accepted.arecv() == "x"

    asyncio.run(body())


@duplex
def test_peer_is_who_the_kernel_says(link: Link):
    connection, peer = link.from_peer(lambda connection, voice: voice.hear())
    known = connection.peer
    if known is not None and not link.variant.anonymous:
        assert known == kin.Peer(peer.pid, os.getuid(), os.getgid())
    peer.say()
    peer.result()
