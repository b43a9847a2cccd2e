"""The semaphore as a model: every interleaving of a few processes, with deaths at every step (native/semaphore.c, members.c).

A state is the word, the rows, who sleeps, who watches whom, and where each process is. One step is one atomic access to
what is shared, or one system call. `explore` visits every state that can be reached, and collects those that must not be: the
value and what all hold do not add up; more are in it than there may be; nobody can go on, but somebody still waits.

The kernel and the watchers are part of it: sleeping compares and queues in one step, waking takes the first of the queue; a death
is noticed some time later, by the watcher of each process that has looked at the dead one's row by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

NOBODY = -1


class Word(NamedTuple):
    """The eight bytes. An intent is due when ``due`` is None."""

    value: int
    sleepers: bool = False
    closed: bool = True
    due: int | None = 0
    row: int = 0
    stamp: int = 0


class Row(NamedTuple):
    """Of one process, each its own; ``used`` from when it has joined until it is dropped."""

    used: bool = False
    held: int = 0
    stamp: int = 0


class Process(NamedTuple):
    """Where one is: the step that it takes next, and what it remembers."""

    at: str
    rounds: int
    word: Word = Word(0)
    found: Row = Row()
    due: int = 0
    turn: int = 0
    woken: int = 0
    #: how far the settling goes on, once done
    then: str = ""
    watches: frozenset[int] = frozenset()
    #: those whose death its watcher has told of, and will tell of
    told: frozenset[int] = frozenset()
    to_tell: frozenset[int] = frozenset()


class State(NamedTuple):
    """Everything."""

    word: Word
    rows: tuple[Row, ...]
    intent: int
    turn: int
    guard: int
    queue: tuple[int, ...]
    processes: tuple[Process, ...]
    deaths: int
    leaves: int


class Rules(NamedTuple):
    """What the semaphore does; a test takes one away to see that it matters."""

    #: what is due is not added to once it may be settled
    closes: bool = True
    #: a row has a stamp, which settling compares
    stamps: bool = True
    #: a word is settled before another one's change is made
    settles: bool = True
    #: who goes to sleep changes the word, also if the flag is set already
    always_tells: bool = True
    #: the word is looked at before anybody is woken, and cleared only if it has stayed
    looks_before_waking: bool = True
    #: who sleeps watches the others
    watches: bool = True
    #: who joins wakes who sleeps
    announces: bool = True
    #: `turn` is taken before the look
    takes_turn_first: bool = True


SEMAPHORE = Rules()


def steps(state: State, me: int, rules: Rules) -> Iterator[State]:
    """What process ``me`` can do next; nothing when it sleeps or is done."""
    word, rows, process = state.word, state.rows, state.processes[me]
    row = rows[me]

    def go(at: str, **changes: Any) -> State:
        return _put(state, me, process._replace(at=at, **changes))

    def enter_settling(then: str) -> State:
        return go("settle" if rules.settles else then, then=then, word=state.word)

    mine = word.row == me and (not word.closed or (not rules.closes and word.due is not None))
    match process.at:
        case "join":
            yield go("announce")._replace(rows=_replace(rows, me, row._replace(used=True)))
        case "announce":
            yield _woken(go("look"), 99) if rules.announces else go("look")
        # ── waiting ──
        case "look":
            yield go("watch", turn=state.turn)
        case "watch":
            known = process.watches
            if rules.watches:
                known = frozenset(i for i, one in enumerate(rows) if one.used and i != me)
            late = frozenset(i for i in known - process.watches if _is_dead(state, i))
            at = "drop" if process.told else "take"
            yield go(at, watches=known, to_tell=process.to_tell | late)
        case "take":
            if word.value == 0:
                yield go("tell")
            elif mine and word.due is not None:
                new = word._replace(value=word.value - 1, due=word.due + 1)
                yield go("hold")._replace(word=new)
            else:
                yield enter_settling("take anew")
        case "take anew":
            if word != process.word or word.value == 0:
                yield go("take")
            else:
                new = Word(word.value - 1, word.sleepers, False, 1, me, row.stamp + 1)
                yield go("hold")._replace(word=new)
        case "tell":
            if word.sleepers and not rules.always_tells:
                yield go("sleep")
            else:
                yield enter_settling("tell anew")
        case "tell anew":
            if word != process.word or word.value > 0:
                yield go("look")
            else:
                new = Word(word.value, True, False, 0, me, row.stamp + 1)
                yield go("sleep" if rules.takes_turn_first else "turn")._replace(word=new)
        case "turn":
            yield go("sleep", turn=state.turn)
        case "sleep":
            if state.turn != process.turn:
                yield go("look")
            else:
                yield go("asleep")._replace(queue=(*state.queue, me))
        case "asleep":
            if state.leaves:
                left = tuple(one for one in state.queue if one != me)
                yield _done(go("give"), me)._replace(queue=left, leaves=state.leaves - 1)
        # ── holding, and giving back ──
        case "hold":
            yield go("give")
        case "give":
            if mine and word.due is not None:
                new = word._replace(value=word.value + 1, due=word.due - 1)
                yield _given(state, me, new)
            else:
                yield enter_settling("give anew")
        case "give anew":
            if word != process.word:
                yield go("give")
            else:
                new = Word(word.value + 1, word.sleepers, False, -1, me, row.stamp + 1)
                yield _given(state, me, new)
        case "before waking":
            yield go("count", word=word) if word.sleepers else _done(state, me)
        case "count":
            yield go("wake")._replace(turn=state.turn + 1)
        case "wake":
            following = _futex_wake(state, 1)
            woken = len(state.queue) - len(following.queue)
            at = "clear" if rules.looks_before_waking else "look late"
            yield _put(following, me, following.processes[me]._replace(at=at, woken=woken))
        case "look late":
            yield go("clear", word=word)
        case "clear":
            may = process.woken == 0 and word == process.word
            cleared = word._replace(sleepers=False) if may else word
            yield _done(state, me)._replace(word=cleared)
        # ── settling what stands in the word ──
        case "settle":
            closed = word._replace(closed=True) if rules.closes else word
            yield go("settle: row", word=closed)._replace(word=closed)
        case "settle: row":
            seen = process.word
            found = rows[seen.row]
            settled = found.stamp == seen.stamp if rules.stamps else seen.due == 0
            due = state.intent if seen.due is None else seen.due
            yield go(process.then if settled else "settle: look", found=found, due=due)
        case "settle: look":
            yield go("settle" if word != process.word else "settle: add")
        case "settle: add":
            seen, found = process.word, process.found
            if rows[seen.row] == found:
                added = found._replace(held=found.held + process.due, stamp=seen.stamp)
                yield go(process.then)._replace(rows=_replace(rows, seen.row, added))
            else:
                yield go(process.then)
        # ── dropping the dead ──
        case "drop":
            if state.guard == NOBODY:
                yield go("drop: settle")._replace(guard=me)
        case "drop: settle":
            dead = min(process.told)
            if rows[dead].used:
                yield enter_settling("drop: intent")
            else:
                yield go("drop: leave")
        case "drop: intent":
            yield go("drop: put")._replace(intent=-rows[min(process.told)].held)
        case "drop: put":
            dead = min(process.told)
            held = rows[dead].held
            if word != process.word:
                yield go("drop: settle")
            elif held == 0:
                yield go("drop: free")
            else:
                back = max(held, 0)
                new = Word(word.value + back, word.sleepers, True, None, dead, rows[dead].stamp + 1)
                yield go("drop: settle")._replace(word=new)
        case "drop: free":
            dead = min(process.told)
            freed = _replace(rows, dead, rows[dead]._replace(used=False))
            yield _woken(go("drop: leave")._replace(rows=freed), 99)
        case "drop: leave":
            dead = min(process.told)
            yield go("look", told=process.told - {dead})._replace(guard=NOBODY)


def _replace(rows: tuple[Row, ...], which: int, new: Row) -> tuple[Row, ...]:
    return (*rows[:which], new, *rows[which + 1 :])


#: What a process remembers beyond the step that it is at; the rest is forgotten, to have fewer states.
_REMEMBERS = {
    "watch": {"turn"},
    "drop": {"turn"},
    "take": {"turn"},
    "take anew": {"turn", "word"},
    "tell": {"turn"},
    "tell anew": {"turn", "word"},
    "sleep": {"turn"},
    "give anew": {"word"},
    "count": {"word"},
    "wake": {"word"},
    "look late": {"woken"},
    "clear": {"word", "woken"},
    "settle": {"turn", "then"},
    "settle: row": {"turn", "then", "word"},
    "settle: look": {"turn", "then", "word", "found", "due"},
    "settle: add": {"turn", "then", "word", "found", "due"},
    "drop: intent": {"word"},
    "drop: put": {"word"},
}


def _put(state: State, me: int, process: Process) -> State:
    remembered = _REMEMBERS.get(process.at, set())
    if "turn" in remembered and process.then in ("give anew", "drop: intent"):
        remembered = remembered - {"turn"}
    if process.at != "dead":
        process = Process(
            process.at,
            process.rounds,
            watches=process.watches,
            told=process.told,
            to_tell=process.to_tell,
            **{name: getattr(process, name) for name in remembered},
        )
    processes = (*state.processes[:me], process, *state.processes[me + 1 :])
    return state._replace(processes=processes)


def _is_dead(state: State, who: int) -> bool:
    return state.processes[who].at == "dead"


def _given(state: State, me: int, word: Word) -> State:
    given = state._replace(word=word)
    process = state.processes[me]
    return (
        _put(given, me, process._replace(at="before waking")) if word.sleepers else _done(given, me)
    )


def _done(state: State, me: int) -> State:
    """One round is over; the next one begins, if there is one."""
    process = state.processes[me]
    left = process.rounds - 1
    return _put(state, me, process._replace(at="look" if left else "done", rounds=left))


def _futex_wake(state: State, most: int) -> State:
    for who in state.queue[:most]:
        state = _put(state, who, state.processes[who]._replace(at="look"))
    return state._replace(queue=state.queue[most:])


def _woken(state: State, most: int) -> State:
    return _futex_wake(state._replace(turn=state.turn + 1), most)


def death(state: State, me: int) -> State | None:
    """The state after a SIGKILL; None for who is past it."""
    if state.processes[me].at in ("done", "dead"):
        return None
    dead = _put(state, me, Process("dead", 0))
    for who, process in enumerate(state.processes):
        if who != me and process.at not in ("done", "dead") and me in process.watches:
            dead = _put(dead, who, process._replace(to_tell=process.to_tell | {me}))
    return dead._replace(
        deaths=state.deaths - 1,
        queue=tuple(one for one in state.queue if one != me),
        guard=NOBODY if state.guard == me else state.guard,
    )


def tellings(state: State) -> Iterator[State]:
    """What the watchers can do next: tell of a death, and wake all."""
    for who, process in enumerate(state.processes):
        for dead in process.to_tell:
            told = process._replace(to_tell=process.to_tell - {dead}, told=process.told | {dead})
            yield _woken(_put(state, who, told), 99)


def total(state: State) -> int:
    """The value and what all hold, and are due."""
    word = state.word
    found = state.rows[word.row]
    due = state.intent if word.due is None else word.due
    unsettled = found.stamp != word.stamp
    return word.value + sum(row.held for row in state.rows) + (due if unsettled else 0)


class Found(NamedTuple):
    """What was seen."""

    states: int
    #: something was lost, or made
    wrong: int
    #: too many in it at once
    crowded: int
    #: nobody can go on, and somebody still waits
    stuck: int


#: Those who are in it, but for what is in their way out.
_INSIDE = {"hold", "give", "give anew"}


def explore(
    value: int,
    rounds: tuple[int, ...],
    deaths: int,
    leaves: int = 0,
    rules: Rules = SEMAPHORE,
    *,
    joined: bool = False,
) -> Found:
    """Every state of processes that take one and give it back, so many times each; they join first, unless they have ``joined``.

    With other rules than those of the semaphore, until something goes wrong.
    """
    processes = tuple(Process("look" if joined else "join", count) for count in rounds)
    rows = (Row(used=joined),) * len(rounds)
    first = State(Word(value), rows, 0, 0, NOBODY, (), processes, deaths, leaves)
    visited = {first}
    todo = [first]
    wrong = crowded = stuck = 0
    numbers = range(len(rounds))
    while todo and (rules is SEMAPHORE or not (wrong or crowded or stuck)):
        state = todo.pop()
        inside = sum(
            one.at in _INSIDE or (one.at.startswith("settle") and one.then == "give anew")
            for one in state.processes
        )
        crowded += inside > value
        wrong += total(state) != value
        following = [new for me in numbers for new in steps(state, me, rules)]
        following += tellings(state)
        if not following and any(one.at not in ("done", "dead") for one in state.processes):
            stuck += 1
        if state.deaths:
            following += [new for me in numbers if (new := death(state, me)) is not None]
        for new in following:
            if new not in visited:
                visited.add(new)
                todo.append(new)
    return Found(len(visited), wrong, crowded, stuck)
