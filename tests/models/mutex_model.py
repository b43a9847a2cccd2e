"""The robust mutex as a model: every interleaving of a few processes, with deaths at every step (native/mutex.c).

A state is the word, who sleeps on it, and where each process is. One step is one atomic instruction on the word, or one
system call; what a process does between two of them nobody sees. `explore` visits every state that can be reached, and
collects those that must not be: two who hold it, and a state in which nobody can go on but somebody still sleeps.

The kernel is part of it: sleeping compares and queues in one step, waking takes the first of the queue, and a death is two steps: what
is done to the word, and the wake-up that follows (handle_futex_death).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

FREE = 0  # as an owner; processes count from 1


class Word(NamedTuple):
    """The eight bytes."""

    owner: int = FREE
    waiters: bool = False
    died: bool = False
    releases: int = 0

    def same_four(self, other: Word) -> bool:
        """Whether the kernel, which sees only four of them, takes it for the same."""
        return self[:3] == other[:3]


ZERO = Word()


class Process(NamedTuple):
    """Where one is: the step that it takes next, and what it remembers."""

    at: str
    rounds: int
    seen: Word = ZERO
    woken: int = 0  # how many its wake-up reached
    was_woken: bool = False


class State(NamedTuple):
    """Everything."""

    word: Word
    queue: tuple[int, ...]
    processes: tuple[Process, ...]
    deaths: int  # … that may still come
    leaves: int  # waiters that may still run out of time


class Rules(NamedTuple):
    """What the mutex does; a test takes one away to see that it matters."""

    counts_releases: bool = True
    #: who takes a free word keeps WAITERS
    keeps_waiters: bool = True
    #: the word is pending while it is waited for and released
    pending: bool = True
    #: WAITERS is cleared only when nobody was woken
    asks_before_clearing: bool = True
    #: who was woken leaves only if he finds an owner
    looks_before_leaving: bool = True


MUTEX = Rules()

#: Steps in which the word is pending, so that the kernel looks at it when the process dies.
PENDING = {"look", "take", "mark", "sleep", "asleep", "release", "wake", "clear"}


def steps(state: State, me: int, rules: Rules) -> Iterator[State]:
    """What process ``me`` can do next; nothing when it sleeps or is done."""
    word, process = state.word, state.processes[me - 1]

    def after(at: str, new: Word = word, seen: Word = ZERO, woken: int = 0) -> State:
        changed = process._replace(at=at, seen=seen, woken=woken, was_woken=False)
        return _put(state._replace(word=new), me, changed)

    match process.at:
        case "look":
            if state.leaves and process.was_woken and not rules.looks_before_leaving:
                yield _left(state, me)
            yield after("take" if word.owner == FREE else "mark", seen=word)
        case "take":
            seen = process.seen
            if word != seen:
                yield after("look")
            else:
                kept = seen.waiters and rules.keeps_waiters
                yield after("hold", Word(me, kept, False, seen.releases))
        case "mark":
            seen = process.seen
            if seen.waiters:
                yield from steps(_at(state, me, "sleep"), me, rules)
            elif word != seen:
                yield after("look")
            else:
                marked = seen._replace(waiters=True)
                yield after("sleep", marked, seen=marked)
        case "sleep":
            if word.same_four(process.seen):
                yield after("asleep")._replace(queue=(*state.queue, me))
            else:
                yield after("look")
        case "hold":
            yield after("release")
        case "release":
            if not word.waiters:
                yield _done(after("look", Word(releases=word.releases)), me)
            else:
                counted = (word.releases + rules.counts_releases) % 8
                left = Word(waiters=True, releases=counted)
                yield after("wake", left, seen=left)
        case "wake":
            following = wake(state)
            count = len(state.queue) - len(following.queue)
            yield _put(following, me, process._replace(at="clear", woken=count))
        case "clear":
            may = process.woken == 0 or not rules.asks_before_clearing
            new = Word(releases=word.releases) if may and word == process.seen else word
            yield _done(after("look", new), me)
        case "wake for the dead":
            yield _at(wake(state), me, "dead")
        case "asleep":
            if state.leaves:
                yield _left(state, me)


def _put(state: State, me: int, process: Process) -> State:
    processes = list(state.processes)
    processes[me - 1] = process
    return state._replace(processes=tuple(processes))


def _at(state: State, me: int, at: str) -> State:
    return _put(state, me, state.processes[me - 1]._replace(at=at))


def _done(state: State, me: int) -> State:
    """One round is over; the next one begins, if there is one."""
    left = state.processes[me - 1].rounds - 1
    return _put(state, me, Process("look" if left else "done", left))


def _left(state: State, me: int) -> State:
    """It waits no longer."""
    queue = tuple(one for one in state.queue if one != me)
    return _done(state._replace(queue=queue, leaves=state.leaves - 1), me)


def wake(state: State) -> State:
    """FUTEX_WAKE of one."""
    if not state.queue:
        return state
    first, *rest = state.queue
    woken = state.processes[first - 1]._replace(at="look", was_woken=True)
    return _put(state._replace(queue=tuple(rest)), first, woken)


def death(state: State, me: int, rules: Rules) -> State | None:
    """The state after a SIGKILL and what the kernel does to the word then; None for who is past it."""
    word, process = state.word, state.processes[me - 1]
    if process.at in ("done", "dead", "wake for the dead"):
        return None
    queue = tuple(one for one in state.queue if one != me)
    dead = state._replace(queue=queue, deaths=state.deaths - 1)
    dead = _put(dead, me, Process("dead", 0))
    pending = process.at in PENDING and rules.pending
    if word.owner == me and (pending or process.at == "hold"):
        dead = dead._replace(word=Word(FREE, word.waiters, True, word.releases))
        return _at(dead, me, "wake for the dead") if word.waiters else dead
    if pending and word.owner == FREE:
        return _at(dead, me, "wake for the dead")
    return dead


class Found(NamedTuple):
    """What was seen."""

    states: int
    #: two in it at once
    shared: int
    #: nobody can go on, and somebody still waits
    stuck: int


def explore(rounds: tuple[int, ...], deaths: int, leaves: int = 0, rules: Rules = MUTEX) -> Found:
    """Every state of processes that take turns, so many each, of whom so many may die, or run out of time."""
    first = State(ZERO, (), tuple(Process("look", count) for count in rounds), deaths, leaves)
    visited = {first}
    todo = [first]
    shared = stuck = 0
    numbers = range(1, len(rounds) + 1)
    while todo:
        state = todo.pop()
        shared += sum(one.at in ("hold", "release") for one in state.processes) > 1
        following = [new for me in numbers for new in steps(state, me, rules)]
        if not following and any(one.at not in ("done", "dead") for one in state.processes):
            stuck += 1
        if state.deaths:
            following += [new for me in numbers if (new := death(state, me, rules)) is not None]
        for new in following:
            if new not in visited:
                visited.add(new)
                todo.append(new)
    return Found(len(visited), shared, stuck)
