"""The condition as a model: every interleaving of a few processes, with deaths at every step (native/condition.c, members.c).

Some give, others take: who takes waits while as many were taken as were given. A state is all of the shared memory, who sleeps on
`turn`, where each process is, and what its watcher knows. One step is one atomic instruction on what others look at, or one
system call; what is done with a mutex held alone is one step, too. The mutexes are those of `mutex_model`, and taken for granted: a
dead owner's is free.

What must not be: that nobody can go on, and there is something to be taken, and somebody who would take it sleeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

GIVE, TAKE, TAKE_BRIEFLY = "give", "take", "take briefly"

NOBODY = -1


class Process(NamedTuple):
    """Where one is: the step that it takes next, and what it remembers."""

    task: str
    at: str = "join"
    turn: int = 0
    seen: int = 0
    released: bool = False
    dropping: int = NOBODY
    changes: int = 0  # as of which it knows the rows
    watched: frozenset[int] = frozenset()
    told: frozenset[int] = frozenset()
    watcher_wakes: bool = False  # the watcher has counted, and has yet to wake

    @property
    def lives(self) -> bool:
        """Whether it was not killed."""
        return self.at != "dead"


class State(NamedTuple):
    """Everything."""

    processes: tuple[Process, ...]
    deaths: int  # … that may still come
    mutex: int = NOBODY
    guard: int = NOBODY
    turn: int = 0
    notified: int = 0
    changes: int = 0
    sleepers: bool = False
    given: int = 0
    taken: int = 0
    rows: frozenset[int] = frozenset()
    queue: tuple[int, ...] = ()


class Rules(NamedTuple):
    """What the condition does; a test takes one away to see that it matters."""

    #: who waits watches the others
    watches: bool = True
    #: who drops the dead counts `notified`
    tells: bool = True
    #: who becomes a member wakes the others
    announces: bool = True
    #: who changes something has become a member before
    joins_first: bool = True
    #: `turn` is taken before it is looked at anything
    turn_first: bool = True
    #: `notified` is remembered before the mutex is released
    remembers_first: bool = True
    #: `sleepers` is cleared only when fewer were woken than there would have been
    counts_sleepers: bool = True


CONDITION = Rules()


def steps(state: State, me: int, rules: Rules) -> Iterator[State]:
    """What process ``me``, or its watcher, can do next; nothing when it sleeps, is done, or waits for a mutex."""
    process = state.processes[me]
    yield from _watcher(state, me)
    if process.at in _JOINING:
        yield from _join(state, me, rules)
    elif process.at in _LOOKING:
        yield from _look(state, me, rules)
    elif process.task == GIVE:
        yield from _give(state, me, rules)
    else:
        yield from _take(state, me, rules)


def _watcher(state: State, me: int) -> Iterator[State]:
    process = state.processes[me]
    if not process.lives:
        return
    if process.watcher_wakes:
        yield _set(_wake(state, len(state.queue))[0], me, watcher_wakes=False)
        return
    for other in process.watched - process.told:
        if not state.processes[other].lives:
            told = _set(state, me, told=process.told | {other}, watcher_wakes=True)
            yield told._replace(turn=state.turn + 1)


_JOINING = ("join", "announce count", "announce")


def _join(state: State, me: int, rules: Rules) -> Iterator[State]:
    process = state.processes[me]
    match process.at:
        case "join" if process.task == GIVE and not rules.joins_first and state.mutex != me:
            yield _set(state, me, at="lock")
        case "join" if state.guard == NOBODY:
            joined = state._replace(rows=state.rows | {me}, changes=state.changes + 1)
            following = "announce count" if rules.announces else "joined"
            yield _set(joined, me, at=following if rules.announces else _after_join(state, me))
        case "announce count":
            yield _set(state._replace(turn=state.turn + 1), me, at="announce")
        case "announce":
            yield _set(_wake(state, len(state.queue))[0], me, at=_after_join(state, me))


def _after_join(state: State, me: int) -> str:
    return "notify" if state.mutex == me else "lock"


_LOOKING = ("look", "drop", "drop count", "drop wake", "drop free")


def _look(state: State, me: int, rules: Rules) -> Iterator[State]:
    """Watches all others, and drops those of whose death it was told, each in some steps, with the guard."""
    process = state.processes[me]
    dead = process.dropping
    match process.at:
        case "look" if not rules.watches:
            yield _set(state, me, at="looked")
        case "look" if state.changes != process.changes:
            if state.guard == NOBODY:  # it compares with the rows, and opens pidfds
                watched = state.rows - {me}
                told = process.told & watched
                yield _set(state, me, changes=state.changes, watched=watched, told=told)
        case "look":
            # Whoever was dead already when it was to be watched is found so, too.
            known = process.told | {one for one in process.watched if _is_dead(state, one)}
            for other in process.watched & known:
                yield _set(state, me, at="drop", dropping=other)
            if not process.watched & process.told:
                yield _set(state, me, at="looked")
        case "drop" if state.guard == NOBODY:
            forgotten = _set(
                state, me, watched=process.watched - {dead}, told=process.told - {dead}
            )
            if dead in state.rows:
                yield _set(forgotten._replace(guard=me), me, at="drop count")
            else:
                yield _set(forgotten, me, at="look")
        case "drop count":
            counted = state._replace(notified=state.notified + rules.tells, turn=state.turn + 1)
            yield _set(counted, me, at="drop wake")
        case "drop wake":
            yield _set(_wake(state, len(state.queue))[0], me, at="drop free")
        case "drop free":
            rows, changes = state.rows - {dead}, state.changes + 1
            yield _set(state._replace(rows=rows, changes=changes, guard=NOBODY), me, at="look")


def _is_dead(state: State, who: int) -> bool:
    return not state.processes[who].lives


def _give(state: State, me: int, rules: Rules) -> Iterator[State]:
    process = state.processes[me]
    match process.at:
        case "lock" if state.mutex == NOBODY:
            yield _set(state._replace(mutex=me), me, at="change")
        case "change":
            following = "notify" if me in state.rows or not state.rows else "join"
            yield _set(state._replace(given=state.given + 1), me, at=following)
        case "notify" if state.sleepers:
            counted = state._replace(notified=state.notified + 1)
            yield _set(counted, me, at="count")
        case "notify":
            yield _set(state, me, at="unlock")
        case "count":
            yield _set(state._replace(turn=state.turn + 1), me, at="wake")
        case "wake":
            woken, count = _wake(state, 1)
            if count < 1 or not rules.counts_sleepers:
                woken = woken._replace(sleepers=False)
            yield _set(woken, me, at="unlock")
        case "unlock":
            yield _set(state._replace(mutex=NOBODY), me, at="done")


def _take(state: State, me: int, rules: Rules) -> Iterator[State]:
    process = state.processes[me]
    notified = state.notified != process.seen
    match process.at:
        case "lock" if state.mutex == NOBODY:
            yield _set(state._replace(mutex=me), me, at="check")
        case "check" if state.given > state.taken:
            yield _set(state._replace(taken=state.taken + 1, mutex=NOBODY), me, at="done")
        case "check":
            begun = state._replace(sleepers=True)
            yield _begin_turn(_set(begun, me, seen=state.notified, released=False), me, rules)
        case "take turn":
            following = "look" if rules.turn_first else "sleep"
            yield _set(state, me, at=following, turn=state.turn)
        case "looked" if process.released and notified:
            yield _set(state, me, at="lock")
        case "looked" if not process.released:
            following = "sleep" if rules.turn_first else "take turn"
            released = state._replace(mutex=NOBODY)
            at = following if rules.remembers_first else "remember"
            yield _set(released, me, at=at, released=True)
        case "looked":
            yield _set(state, me, at="sleep" if rules.turn_first else "take turn")
        case "remember":
            yield _set(state, me, at="sleep", seen=state.notified, turn=state.turn)
        case "sleep" if state.turn == process.turn:
            yield _set(state._replace(queue=(*state.queue, me)), me, at="asleep")
        case "sleep":
            yield _begin_turn(state, me, rules)
        case "woken":
            yield _begin_turn(state, me, rules)
        case "asleep" if process.task == TAKE_BRIEFLY:
            queue = tuple(one for one in state.queue if one != me)
            yield _set(state._replace(queue=queue), me, at="late")
        case "late" if state.mutex == NOBODY:
            if notified:
                yield _set(state._replace(mutex=me), me, at="check")
            else:
                yield _set(state, me, at="done")


def _begin_turn(state: State, me: int, rules: Rules) -> State:
    return _set(state, me, at="take turn" if rules.turn_first else "look")


def _set(state: State, me: int, **known: object) -> State:
    processes = list(state.processes)
    processes[me] = processes[me]._replace(**known)  # type: ignore[arg-type]
    return state._replace(processes=tuple(processes))


def _wake(state: State, most: int) -> tuple[State, int]:
    """FUTEX_WAKE, and how many it reached."""
    processes = list(state.processes)
    woken = state.queue[:most]
    for number in woken:
        processes[number] = processes[number]._replace(at="woken")
    new = state._replace(queue=state.queue[most:], processes=tuple(processes))
    return new, len(woken)


def death(state: State, me: int) -> State | None:
    """The state after a SIGKILL; None for who is dead already. Who is done lives on."""
    if not state.processes[me].lives:
        return None
    return _set(
        state._replace(
            deaths=state.deaths - 1,
            queue=tuple(one for one in state.queue if one != me),
            mutex=NOBODY if state.mutex == me else state.mutex,
            guard=NOBODY if state.guard == me else state.guard,
        ),
        me,
        **Process(state.processes[me].task, "dead")._asdict(),
    )


class Found(NamedTuple):
    """What was seen."""

    states: int
    #: nobody can go on, and somebody sleeps who would have something to take
    stuck: int


def explore(
    tasks: tuple[str, ...], deaths: int, rules: Rules = CONDITION, joined: bool = False
) -> Found:
    """Every state of processes with these tasks, of whom so many may die; they may have ``joined`` before."""
    first = State(tuple(Process(task) for task in tasks), deaths)
    if joined:
        ready = tuple(Process(task, "lock") for task in tasks)
        first = State(ready, deaths, rows=frozenset(range(len(tasks))), changes=1)
    visited = {first}
    todo = [first]
    stuck = 0
    numbers = range(len(tasks))
    while todo:
        state = todo.pop()
        following = [new for me in numbers for new in steps(state, me, rules)]
        if not following and state.given > state.taken:
            stuck += any(one.at == "asleep" for one in state.processes)
        if state.deaths:
            following += [new for me in numbers if (new := death(state, me)) is not None]
        for new in following:
            if new not in visited:
                visited.add(new)
                todo.append(new)
    return Found(len(visited), stuck)
