"""The event as a model: every interleaving of a few processes, with deaths at every step (native/event.c).

As in `mutex_model`: a state is the word, who sleeps on it, and where each process is; one step is one atomic instruction on the
word, or one system call, and a death is two: it dies, and the kernel looks at what was pending.

What must not be: that nobody can go on, and somebody still sleeps in whose wait it was set; or that a wait ends without that. Whether it was
is kept apart from the word (`due`), which may have been cleared since.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

SET, CLEAR, WAIT, WAIT_BRIEFLY = "set", "clear", "wait", "wait briefly"

#: As many sets as can be told apart.
_SETS = 4

_DEAD = ("wake for the dead", "dead")


class Word(NamedTuple):
    """The eight bytes."""

    clear: bool = True
    waiters: bool = False
    waking: bool = False
    generation: int = 0


class Process(NamedTuple):
    """Where one is: what it is at, the step of that, and what it remembers."""

    tasks: tuple[str, ...]
    at: str = "begin"
    seen: Word = Word()
    round: int = 0
    due: bool = False  # it was set while this one waited

    @property
    def task(self) -> str:
        """What it is at."""
        return self.tasks[0] if self.tasks else ""

    @property
    def waits(self) -> bool:
        """Whether it is within a wait."""
        return self.task in (WAIT, WAIT_BRIEFLY) and self.at not in ("begin", *_DEAD)


class State(NamedTuple):
    """Everything."""

    word: Word
    queue: tuple[int, ...]
    processes: tuple[Process, ...]
    deaths: int  # … that may still come
    wrong: bool = False  # a wait ended too early


class Rules(NamedTuple):
    """What the event does; a test takes one away to see that it matters."""

    #: the word is pending while it is set
    setter_pending: bool = True
    #: … and while it is waited for
    waiter_pending: bool = True
    #: who leaves a wait wakes all, if somebody has not come to it
    relays: bool = True
    #: who clears, or sets again, wakes all first
    finishes: bool = True
    #: WAKING is cleared after the waking, if nothing has changed since
    clears_last: bool = True
    #: a set is counted
    counts: bool = True
    #: … also in the four bytes that the kernel compares
    tells_apart: bool = True
    #: the kernel's four bytes are 0 while it is set
    zero: bool = True


EVENT = Rules()


def steps(state: State, me: int, rules: Rules) -> Iterator[State]:
    """What process ``me`` can do next; nothing when it sleeps or is done."""
    process = state.processes[me]
    match process.task if process.at not in _DEAD else process.at:
        case "set":
            yield _set(state, me, rules)
        case "clear":
            yield _clear(state, me, rules)
        case "wait" | "wait briefly":
            yield from _wait(state, me, rules)
        case "wake for the dead":
            yield _at(_wake(state, 1), me, "dead")


def _set(state: State, me: int, rules: Rules) -> State:
    word, process = state.word, state.processes[me]
    match process.at:
        case "begin":
            return _at(state, me, "change", seen=word)
        case "change":
            seen = process.seen
            if word != seen:
                return _at(state, me, "begin")
            if not word.clear:
                return (
                    _at(state, me, "wake") if word.waking and rules.finishes else _done(state, me)
                )
            counted = (word.generation + rules.counts) % _SETS
            new = Word(clear=False, waking=word.waiters, generation=counted)
            due = [one._replace(due=one.due or one.waits) for one in state.processes]
            state = state._replace(word=new, processes=tuple(due))
            return _at(state, me, "wake", seen=new) if new.waking else _done(state, me)
        case _:
            return _wake_all(state, me, rules, "")


def _clear(state: State, me: int, rules: Rules) -> State:
    word, process = state.word, state.processes[me]
    match process.at:
        case "begin":
            if word.clear:
                return _done(state, me)
            first = "wake" if word.waking and rules.finishes else "change"
            return _at(state, me, first, seen=word)
        case "change":
            if word != process.seen:
                return _at(state, me, "begin")
            # Without the rule it at least remembers that somebody sleeps.
            new = Word(waiters=word.waking, generation=word.generation)
            return _done(state._replace(word=new), me)
        case _:
            return _wake_all(state, me, rules, "begin")


def _wait(state: State, me: int, rules: Rules) -> Iterator[State]:
    word, process = state.word, state.processes[me]
    come = not word.clear or word.generation != process.round
    match process.at:
        case "begin":
            yield _at(state, me, "look", round=word.generation)
        case "look" if come:
            wrong = not process.due and word.clear
            yield _at(state._replace(wrong=state.wrong or wrong), me, "leave")
        case "look":
            yield _at(state, me, "sleep" if word.waiters else "mark", seen=word)
        case "mark":
            if word == process.seen:
                marked = word._replace(waiters=True)
                yield _at(state._replace(word=marked), me, "sleep", seen=marked)
            else:
                yield _at(state, me, "look")
        case "sleep":
            if word == process.seen or (word[:2] == process.seen[:2] and not rules.tells_apart):
                yield _at(state._replace(queue=(*state.queue, me)), me, "asleep")
            else:
                yield _at(state, me, "look")
        case "asleep" if process.task == WAIT_BRIEFLY:
            queue = tuple(one for one in state.queue if one != me)
            yield _at(state._replace(queue=queue), me, "leave")
        case "leave":
            if word.waking and rules.relays:
                yield _at(state, me, "wake", seen=word)
            else:
                yield _done(state, me)
        case "wake" | "cleared":
            yield _wake_all(state, me, rules, "")


def _wake_all(state: State, me: int, rules: Rules, following: str) -> State:
    """Two steps: all are woken, and WAKING is cleared. ``following`` is where it goes on; nowhere: it is done."""
    process = state.processes[me]
    if (process.at == "wake") == rules.clears_last:
        state = _wake(state, len(state.queue))
    elif state.word == process.seen:
        state = state._replace(word=state.word._replace(waking=False))
    if process.at == "wake":
        return _at(state, me, "cleared")
    return _at(state, me, following) if following else _done(state, me)


def _at(state: State, me: int, at: str, **known: object) -> State:
    processes = list(state.processes)
    processes[me] = processes[me]._replace(at=at, **known)  # type: ignore[arg-type]
    return state._replace(processes=tuple(processes))


def _done(state: State, me: int) -> State:
    """One task is over; the next one begins, if there is one."""
    processes = list(state.processes)
    processes[me] = Process(processes[me].tasks[1:])
    return state._replace(processes=tuple(processes))


def _wake(state: State, most: int) -> State:
    """FUTEX_WAKE."""
    processes = list(state.processes)
    for number in state.queue[:most]:
        processes[number] = processes[number]._replace(at="look")
    return state._replace(queue=state.queue[most:], processes=tuple(processes))


def death(state: State, me: int, rules: Rules) -> State | None:
    """The state after a SIGKILL; None for who is past it."""
    process, word = state.processes[me], state.word
    if not process.tasks or process.at in _DEAD:
        return None
    pending = (process.task == SET and rules.setter_pending) or (
        process.waits and rules.waiter_pending
    )
    # Before 6.2 for nothing but 0, and later for what nobody owns: here both times while it is set.
    woken = pending and not word.clear and rules.zero
    queue = tuple(one for one in state.queue if one != me)
    dead = state._replace(queue=queue, deaths=state.deaths - 1)
    return _at(dead, me, "wake for the dead" if woken else "dead", due=False)


class Found(NamedTuple):
    """What was seen."""

    states: int
    #: nobody can go on, and somebody sleeps who is to go
    stuck: int
    #: a wait ended though it had not come
    wrong: int


def explore(tasks: tuple[tuple[str, ...], ...], deaths: int, rules: Rules = EVENT) -> Found:
    """Every state of processes with these tasks, of whom so many may die."""
    first = State(Word(), (), tuple(Process(each) for each in tasks), deaths)
    visited = {first}
    todo = [first]
    stuck = wrong = 0
    numbers = range(len(tasks))
    while todo:
        state = todo.pop()
        wrong += state.wrong
        following = [new for me in numbers for new in steps(state, me, rules)]
        if not following and any(one.due for one in state.processes):
            stuck += 1
        if state.deaths:
            following += [new for me in numbers if (new := death(state, me, rules)) is not None]
        for new in following:
            if new not in visited:
                visited.add(new)
                todo.append(new)
    return Found(len(visited), stuck, wrong)
