"""Other users: what they may not send us, what we do not send them, and what is theirs or ours by name.

We are root or a plain user, *they* are another plain user, each in a real process of its own.
A pickle is refused in both directions, whatever the mechanism; msgpack goes where the modes let it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import stat
from collections.abc import Callable
from typing import Any

import posix_ipc
import pytest
import sysv_ipc

import kinfolk as kin
from kinfolk.channels import ring_memory, sending
from kinfolk.channels.address import parse
from kinfolk.channels.codec import PICKLE
from kinfolk.channels.contract import Message
from tests.conformance.fixtures import main_ways, only
from tests.conformance.link import Link
from tests.conformance.peers import HANG, Peer
from tests.other_user import User

for _late in ("encodings.ascii", "encodings.idna"):
    importlib.import_module(_late)  # another user may be unable to read it

#: A third user: we, when we are not root, and whom they do not trust.
SOMEBODY = User(65533, 65533)
WE = pytest.mark.parametrize("we", [User(), SOMEBODY], ids=["root", "plain user"])

named = only(lambda variant: variant.way == "named" and variant.scheme != "tcp")
with_files = only(
    lambda variant: (
        variant.id
        in ("fifo-named", "unix-named", "unix-seqpacket-named", "unix-dgram-named", "file-named")
    )
)
connecting = only(
    lambda variant: variant.id in ("unix-listener", "unix-seqpacket-caller", "unix-dgram-listener")
)


def meets_nobody(link: Link) -> bool:
    """Whether the presence beside the name is for processes of one user alone, as `limits` say."""
    peers_of_queues = link.variant.scheme.endswith("mq") and not link.outlives
    return peers_of_queues or link.address.startswith(("unix-dgram:@", "ring:", "file:"))


def open_to_all(link: Link) -> None:
    path = parse(link.address).name
    if path.startswith("/tmp/"):
        os.chmod(os.path.dirname(path), 0o777)


def running(link: Link, user: User, function: Callable[..., Any], *args: Any) -> Peer:
    """A peer that is this user and runs `function(voice, *args)`."""

    def body(voice: Any) -> Any:
        user.become()
        return function(voice, *args)

    return link.peers.fork(body)


def received(voice: Any, opened: Callable[[], Any], count: int) -> list[Any]:
    """Open, say so, and take so many messages; DecodeError counts as one."""
    with opened() as receiver:
        voice.say("open")
        things = []
        for _ in range(count):
            try:
                things.append(receiver.recv(timeout=HANG))
            except kin.DecodeError as error:
                things.append(type(error))
        return things


def sent(voice: Any, opened: Callable[[], Any], *things: Any) -> None:
    with opened() as sender:
        for thing in things:
            sender.send(thing, timeout=HANG)


def receiver_of(link: Link, **options: Any) -> Callable[[], Any]:
    return lambda: kin.open_receiver(link.address, timeout=HANG, **options)


def sender_of(link: Link, **options: Any) -> Callable[[], Any]:
    return lambda: kin.open_sender(link.address, timeout=HANG, **options)


def error_of(peer: Peer) -> BaseException:
    """The exception that ended what the peer ran."""
    with pytest.raises(AssertionError) as caught:
        peer.result()
    error = getattr(caught.value, "error", None)
    assert isinstance(error, BaseException), caught.value
    return error


# --------------------------------------------------------------------------- what may be sent


@named
@WE
def test_msgpack_goes_through_where_the_mode_allows(link: Link, we: User, foreign_user: User):
    open_to_all(link)
    if meets_nobody(link):
        return
    for receives, sends in ((we, foreign_user), (foreign_user, we)):
        to = running(link, receives, received, receiver_of(link, codec="msgpack", mode=0o666), 2)
        assert to.hear() == "open"
        running(link, sends, sent, sender_of(link, codec="msgpack"), {"a": 1}, b"raw").result()
        assert to.result() == [{"a": 1}, b"raw"]
        if link.outlives:
            _remove(link)


def _remove(link: Link) -> None:
    """The name may outlive its users, and the next test case is of other users."""
    name = parse(link.address).name
    if link.variant.scheme == "mq":
        posix_ipc.unlink_message_queue(name)
    elif link.variant.scheme == "sysv-mq":
        sysv_ipc.MessageQueue(int(name)).remove()
    elif link.outlives:
        os.unlink(name)


@named
@WE
def test_our_pickles_do_not_go_to_them(link: Link, we: User, foreign_user: User):
    """They have the name, and we are about to send there."""
    open_to_all(link)
    if meets_nobody(link):
        return
    they = running(
        link,
        foreign_user,
        received,
        receiver_of(link, codec="msgpack", mode=0o666),
        1,
    )
    assert they.hear() == "open"
    error = error_of(running(link, we, sent, sender_of(link, codec="pickle"), "secret"))
    assert isinstance(error, kin.UntrustedPeer), error
    assert "msgpack" in error.remedy


@named
@WE
def test_their_pickles_are_not_loaded(link: Link, we: User, foreign_user: User):
    """They write what the library would not: the kind of a pickle, on a channel of msgpack."""
    open_to_all(link)
    if meets_nobody(link):
        return

    def forge(voice: Any) -> None:
        vars(sending)["encode"] = lambda obj, codec: Message(PICKLE, (pickle.dumps(obj),))
        sent(voice, sender_of(link, codec="msgpack"), "a forged pickle", "another")

    def forge_and_go_on(voice: Any) -> None:
        honest = vars(sending)["encode"]
        forge(voice)
        vars(sending)["encode"] = honest
        sent(voice, sender_of(link, codec="msgpack"), "honest")

    # Where the kernel says who sent each message, a pickle of theirs is dropped unseen.
    count = 1 if link.variant.scheme in ("unix-dgram", "unix-seqpacket") else 3
    to = running(link, we, received, receiver_of(link, codec="msgpack", mode=0o666), count)
    assert to.hear() == "open"
    # A first sender that stays, so that the channel does not end between two of theirs.
    with sender_of(link, codec="msgpack")():
        running(link, foreign_user, forge_and_go_on).result()
        got = to.result()
    assert got.count("honest") == 1
    assert got.count(kin.DecodeError) == count - 1


@named
@WE
def test_pickles_and_names_open_to_others_do_not_go_together(
    link: Link, we: User, foreign_user: User
):
    """A receiver of pickles, with a mode that lets others write: refused, or they are, one by one."""
    open_to_all(link)
    if link.address.partition(":")[2].startswith("@") or meets_nobody(link):
        return
    vouched = link.variant.scheme.startswith("unix")
    to = running(link, we, received, receiver_of(link, codec="pickle", mode=0o666), 1)
    if not vouched:
        error = error_of(to)
        assert isinstance(error, kin.UntrustedPeer)
        assert "msgpack" in error.remedy
        return
    assert to.hear() == "open"
    with sender_of(link, codec="msgpack")():  # so that the channel does not end with them
        they = running(link, foreign_user, sent, sender_of(link, codec="pickle"), *["evil"] * 3)
        with contextlib.suppress(AssertionError):  # refused at once, or broken, or dropped unseen
            they.result()
        running(link, we, sent, sender_of(link, codec="pickle"), "ours").result()
        assert to.result() == ["ours"]


@named
@WE
def test_ours_is_closed_to_them(link: Link, we: User, foreign_user: User):
    """Without mode= nobody else comes in, with no codec at all."""
    open_to_all(link)
    if link.address.partition(":")[2].startswith("@") or meets_nobody(link):
        return
    to = running(link, we, received, receiver_of(link, codec="msgpack"), 1)
    assert to.hear() == "open"
    error = error_of(running(link, foreign_user, sent, sender_of(link, codec="msgpack"), "x"))
    assert isinstance(error, (kin.AccessDenied, kin.UntrustedPeer)), error
    assert error.remedy or error.why
    running(link, we, sent, sender_of(link, codec="msgpack"), "ours").result()
    assert to.result() == ["ours"]


@connecting
@WE
def test_connections(link: Link, we: User, foreign_user: User):
    """Who listens and who calls each refuse the other, if pickles would go over it."""
    open_to_all(link)

    def listen(voice: Any, codec: str, count: int) -> list[Any]:
        with kin.listen(link.address, codec=codec, mode=None if abstract else 0o666) as listener:
            voice.say("open")
            things: list[Any] = []
            while len(things) < count:
                with listener.accept(timeout=HANG) as connection:
                    # who refused us has left without a word
                    with contextlib.suppress(kin.EndOfChannel):
                        things.append(connection.recv(timeout=HANG))
                        connection.send("welcome")
                        voice.hear()
            return things

    def call(voice: Any, codec: str) -> Any:
        with kin.connect(link.address, codec=codec, timeout=HANG) as connection:
            connection.send(codec)
            return connection.recv(timeout=HANG)

    abstract = "@" in link.address
    for door, caller in ((foreign_user, we), (we, foreign_user)):
        listening = running(link, door, listen, "msgpack", 1)
        listening.hear()
        if caller is we:
            error = error_of(running(link, caller, call, "pickle"))
            assert isinstance(error, kin.UntrustedPeer), error
            assert "msgpack" in error.remedy
        calling = running(link, caller, call, "msgpack")
        assert calling.result() == "welcome"
        listening.say()
        assert listening.result() == ["msgpack"]
    # Ours takes pickles: they are turned away unseen, and our own user is served.
    listening = running(link, we, listen, "pickle", 1)
    listening.hear()
    error = error_of(running(link, foreign_user, call, "msgpack"))
    assert isinstance(error, (kin.EndOfChannel, kin.BrokenChannel, kin.UntrustedPeer)), error
    calling = running(link, we, call, "pickle")
    assert calling.result() == "welcome"
    listening.say()
    assert listening.result() == ["pickle"]


@pytest.mark.parametrize("opening", [kin.open_receiver, kin.open_sender, kin.listen, kin.connect])
def test_tcp_never_takes_pickles(opening: Callable[..., Any]):
    for address in ("tcp:127.0.0.1:9", "tcp:[::1]:9", "tcp:localhost:9"):
        with pytest.raises(kin.UntrustedPeer, match="msgpack"):
            opening(address, codec="pickle", timeout=0)
    for both in (kin.channel, kin.pair):
        with pytest.raises(kin.UntrustedPeer, match="msgpack"):
            both("tcp:", codec="pickle")


# ------------------------------------------------------------------------------------- names


@named
@WE
def test_a_name_of_theirs_is_no_place_to_receive(link: Link, we: User, foreign_user: User):
    open_to_all(link)
    if meets_nobody(link):
        return
    they = running(link, foreign_user, received, receiver_of(link, codec="msgpack", mode=0o666), 1)
    they.hear()
    for codec in ("msgpack", "pickle"):
        error = error_of(running(link, we, received, receiver_of(link, codec=codec), 1))
        assert isinstance(error, (kin.UntrustedPeer, kin.Busy)), error
        assert error.remedy
    running(link, we, sent, sender_of(link, codec="msgpack"), "still theirs").result()
    assert they.result() == ["still theirs"]


@with_files
@WE
def test_planted_symlinks_are_not_followed(link: Link, we: User, foreign_user: User):
    """To a file of ours, to a FIFO or socket of ours, to nothing; neither made, changed nor used."""
    open_to_all(link)
    path = parse(link.address).name
    directory = os.path.dirname(path)
    file, nothing, other = (f"{directory}/{name}" for name in ("file", "nothing", "other"))

    def ours(voice: Any) -> None:
        with open(file, "w", encoding="utf-8") as made:
            made.write("ours")
        os.chmod(file, 0o640)
        address = f"{link.variant.scheme}:{other}"
        with kin.open_receiver(address):
            voice.say("there")
            voice.hear()

    owner = running(link, we, ours)
    owner.hear()
    for target in (file, nothing, other):
        for linked in (path, f"{directory}/.{os.path.basename(path)}.presence"):
            if linked != path and link.variant.scheme != "unix-dgram":
                continue
            running(link, foreign_user, lambda voice, *p: os.symlink(*p), target, linked).result()
            error = error_of(running(link, we, received, receiver_of(link), 1))
            assert isinstance(error, kin.KinfolkError), error
            assert not isinstance(error, kin.Timeout)
            assert os.path.islink(linked)
            os.unlink(linked)
    assert not os.path.lexists(nothing)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o640
    owner.say()
    owner.result()
    assert sorted(os.listdir(directory)) == (["file", "other"] if link.outlives else ["file"])


def modes_of(link: Link) -> dict[str, int]:
    """Permission bits of what was made, by name."""
    name = parse(link.address).name
    if link.variant.scheme == "mq":
        queue = posix_ipc.MessageQueue(name)
        try:
            return {name: os.fstat(queue.mqd).st_mode & 0o777}
        finally:
            queue.close()
    if link.variant.scheme == "sysv-mq":
        return {name: sysv_ipc.MessageQueue(int(name)).mode & 0o666}
    if link.variant.scheme == "ring":
        path = ring_memory.path_of(name)
        return {path: os.stat(path).st_mode & 0o777}
    if name.startswith("@"):
        return {}
    with os.scandir(os.path.dirname(name)) as found:
        return {one.name: one.stat(follow_symlinks=False).st_mode & 0o777 for one in found}


@named
@pytest.mark.parametrize("umask", [0, 0o077, 0o277])
def test_modes_are_exact_under_any_umask(link: Link, umask: int):
    before = os.umask(umask)
    try:
        for mode in (None, 0o640, 0o666):
            if mode is not None and (
                "@" in link.address or link.variant.scheme in ("ring", "file")
            ):
                continue  # for one user alone
            codec = "pickle" if mode in (None, 0o600) else "msgpack"
            with kin.open_receiver(link.address, mode=mode, codec=codec, timeout=HANG):
                modes = modes_of(link)
                assert set(modes.values()) <= {0o600 if mode is None else mode}, modes
                assert modes or "@" in link.address
            if link.outlives:
                _remove(link)
    finally:
        os.umask(before)


# ------------------------------------------------------------------- without any privileges


@main_ways
def test_everything_works_for_a_plain_user(link: Link, as_plain_user: User):
    """The part of the suite that says whether a mechanism works at all."""
    open_to_all(link)

    def body() -> list[Any]:
        receiver, sender = link.both()
        things = ["text", {"a": [1, 2]}, b"bytes"]
        sender.send_many(things)
        got: list[Any] = []
        while len(got) < len(things):
            got += receiver.recv_many(9, timeout=HANG)
        peer = link.peers.fork(lambda voice: os.geteuid())
        assert peer.result() == os.geteuid()
        link.renew()
        sender, child = link.to_peer(lambda receiver, voice: receiver.recv(timeout=HANG))
        sender.send("to a child")
        got.append(child.result())
        link.peers.end()
        link.close()
        return got

    assert as_plain_user.run(body) == ["text", {"a": [1, 2]}, b"bytes", "to a child"]
