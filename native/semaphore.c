/* The semaphore: a count from which several may take, and to which what a dead process took comes back.
 *
 *                  value │ row │ due │ stamp                             row 0          row 1
 *                  ──────┼─────┼─────┼──────                             held 0 │ 4     held 1 │ 7    stamps: so far
 *                    3   │  0  │  0  │  5
 *      0 takes two   1   │  0  │  2  │  5       one exchange each        0 │ 4          1 │ 7
 *      1 takes one   1   │  0  │  2  │  5  CLOSED                        2 │ 5
 *                    0   │  1  │  1  │  8                                2 │ 5          1 │ 7
 *      1 gives two   2   │  1  │ −1  │  8                                2 │ 5          1 │ 7
 *      1 dies        2   │  1  │ −1  │  8  CLOSED                                       0 │ 8
 *      0 dies, too   2   │  1  │ −1  │  8  CLOSED                        2 │ 5    what 0 held comes back:
 *                    4   │  0  │INTENT│ 6  CLOSED   intent −2            0 │ 6
 *
 *      value + what all hold stays the same, whoever takes, gives, or dies
 *
 * What a process holds has to stand in two places: in the value, where others see it, and in its own row
 * (members.c), from which it comes back. Two words can't be changed at once, so the first one says what is still to
 * be added to the second.
 *
 * Rules:
 * 1. A change is one atomic exchange of the word: of the value, and of what is *due* to the row of who makes it.
 *    From then on it is done, for everybody.
 * 2. Whoever makes the next one adds to what is due, if it is the same process, and it has room. Another one first
 *    *closes* the word, so that nothing is added any more, and *settles* it: adds what is due to the balance of the
 *    row, if need be for somebody who is stopped, or dead. The stamp, one more for each that is settled, lets that
 *    happen once, whoever tries. So at every instruction at most one row is not settled, and the word says which,
 *    and by how much.
 * 3. So changes need no lock, and nobody waits for one who is in the middle. What does not fit stands in `intent`,
 *    written under the guard, and only once what stood there is settled. An old one that is read by mistake does no
 *    harm: then the stamp has moved on.
 * 4. A balance is changed by nothing else. A row passes to another process with a balance of 0, and keeps its stamp.
 * 5. The dead are dropped under the guard: what they held goes back to the value. Who has given more than it took
 *    owes nothing.
 * 6. `keeps`: nothing is due, and so nothing comes back; for who takes here and gives there.
 *
 * Who sleeps, and who is woken: semaphore_wait.c.
 */

#include "semaphore_word.h"

#include <limits.h>

/* -------------------------------------------------------------------------------- changing */

static int
enter(struct kin_semaphore *semaphore, const struct timespec *deadline)
{
    /* Who died with the guard has left nothing that rule 2 does not cover. */
    int error = kin_mutex_lock(&semaphore->guard, deadline);
    return error == EOWNERDEAD ? 0 : error;
}

/* 0 and the value after a change by `count`, or why there is none. */
static inline int
look_through(const struct kin_semaphore *semaphore, uint64_t word, int32_t count, uint32_t *value)
{
    int64_t left = (int64_t)kin_value_in(word) - count;
    if (left < 0)
        return EBUSY;
    if (left > semaphore->maximum && count < 0)
        return EOVERFLOW;
    *value = (uint32_t)left;
    return 0;
}

/* Whether a row can hold so many more, and what is due besides. */
static bool
in_range(const struct kin_member *row, int32_t count)
{
    int64_t held = (int64_t)kin_held_in(kin_balance(row)) + count;
    return held <= KIN_MOST_HELD && held >= -(int64_t)KIN_MOST_HELD;
}

/* Of a word that is not the row's own, or has no room. With the guard if the count does not fit: 0, an errno, or
 * KIN_MOVED_ON. */
static __attribute__((noinline)) int
change_anew(struct kin_semaphore *semaphore, struct kin_member *row, int32_t count, uint64_t *word)
{
    uint32_t value;
    int error = kin_semaphore_make_ready(semaphore, word);
    if (error == 0)
        error = look_through(semaphore, *word, count, &value);
    if (error == 0 && !in_range(row, count))
        error = ERANGE;
    if (error != 0)
        return error;
    if (!kin_fits(count))
        atomic_store_explicit(&semaphore->state->intent, count, memory_order_relaxed);
    uint64_t flags = *word & (KIN_SLEEPERS | KIN_SEVERAL);
    return kin_semaphore_put(semaphore, *word, row, kin_fits(count) ? count : KIN_INTENT,
                             value | flags)
               ? 0
               : KIN_MOVED_ON;
}

static int
change_by_intent(struct kin_semaphore *semaphore, struct kin_member *row, int32_t count,
                 uint64_t *word, const struct timespec *deadline)
{
    int error = enter(semaphore, deadline);
    if (error != 0)
        return error;
    do
        error = change_anew(semaphore, row, count, word);
    while (error == KIN_MOVED_ON);
    kin_mutex_unlock(&semaphore->guard);
    return error;
}

int
kin_semaphore_change(struct kin_semaphore *semaphore, struct kin_member *row, int32_t count,
                     uint64_t *word, const struct timespec *deadline)
{
    uint32_t value, number = (uint32_t)(row - semaphore->members.state->rows);
    int error;
    do {
        *word = kin_semaphore_look(semaphore);
        error = look_through(semaphore, *word, count, &value);
        if (error != 0)
            return error;
        int32_t due = semaphore->keeps ? 0 : kin_due_in(*word) + count;
        if (semaphore->keeps ||
            (kin_row_in(*word) == number && !(*word & KIN_CLOSED) && kin_fits(due))) {
            uint64_t rest = *word & ~(uint64_t)(KIN_SEMAPHORE_MOST | kin_due(-1));
            if (kin_semaphore_exchange(semaphore, *word, rest | value | kin_due(due)))
                return 0;
            error = KIN_MOVED_ON;
        } else
            error = kin_fits(count) ? change_anew(semaphore, row, count, word)
                                    : change_by_intent(semaphore, row, count, word, deadline);
    } while (error == KIN_MOVED_ON);
    return error;
}

/* ---------------------------------------------------------------------------- taking it back */

/* With the guard: the row holds nothing, and nothing is due to it. What it held goes back to the value, if
 * `returns`. How much that was. */
static int32_t
clear_balance(struct kin_semaphore *semaphore, const struct kin_member *row, bool returns)
{
    int32_t all = 0, held;
    uint64_t word;
    while (kin_semaphore_make_ready(semaphore, &word) == 0 &&
           (held = kin_held_in(kin_balance(row))) != 0) {
        uint32_t value = kin_value_in(word);
        uint32_t room = value < semaphore->maximum ? semaphore->maximum - value : 0;
        int32_t back = !returns || held < 0 ? 0 : (uint32_t)held < room ? held : (int32_t)room;
        uint64_t flags = word & (KIN_SLEEPERS | KIN_SEVERAL);
        atomic_store_explicit(&semaphore->state->intent, -held, memory_order_relaxed);
        if (kin_semaphore_put(semaphore, word, row, KIN_INTENT, (value + (uint32_t)back) | flags))
            all += back;
    }
    return all;
}

static bool
left(struct kin_members *members, struct kin_member *row, bool is_dead)
{
    struct kin_semaphore *semaphore =
        (struct kin_semaphore *)(void *)((char *)members - offsetof(struct kin_semaphore, members));
    if (!is_dead && kin_semaphore_held(semaphore, row) > 0)
        return false; /* it lives, and has it */
    if (clear_balance(semaphore, row, is_dead) > 0)
        kin_members_wake(members, INT_MAX);
    return true;
}

int32_t
kin_semaphore_held(struct kin_semaphore *semaphore, const struct kin_member *row)
{
    uint64_t word, balance;
    uint32_t number = (uint32_t)(row - semaphore->members.state->rows);
    do {
        word = kin_semaphore_look(semaphore);
        balance = kin_balance(row);
    } while (kin_semaphore_look(semaphore) != word);
    bool is_due = kin_row_in(word) == number &&
                  kin_stamp_of(balance) != (uint32_t)(word >> KIN_STAMP_SHIFT);
    int32_t due = !is_due ? 0 : kin_due_in(word) != KIN_INTENT
                                    ? kin_due_in(word)
                                    : atomic_load_explicit(&semaphore->state->intent,
                                                           memory_order_relaxed);
    return kin_held_in(balance) + due;
}

/* ------------------------------------------------------------------------------------ giving */

static void
wake(struct kin_semaphore *semaphore, uint32_t count)
{
    /* Before anybody is woken: who comes to sleep after that changes the word, and it is not cleared then. */
    uint64_t word = kin_semaphore_look(semaphore);
    long most = word & KIN_SEVERAL ? INT_MAX : (long)count;
    if (word & KIN_SLEEPERS && kin_members_wake(&semaphore->members, (int)most) < most)
        atomic_compare_exchange_strong_explicit(&semaphore->state->word, &word,
                                                word & ~(KIN_SLEEPERS | KIN_SEVERAL),
                                                memory_order_relaxed, memory_order_relaxed);
}

int
kin_semaphore_give_one(struct kin_semaphore *semaphore)
{
    struct kin_member *row = kin_members_row(&semaphore->members);
    uint64_t word;
    if (row == NULL)
        return EBUSY;
    int error = kin_semaphore_change(semaphore, row, -1, &word, NULL);
    if (error == 0 && word & KIN_SLEEPERS)
        wake(semaphore, 1);
    return error == ERANGE ? EBUSY : error;
}

int
kin_semaphore_release(struct kin_semaphore *semaphore, uint32_t count)
{
    struct kin_member *row;
    uint64_t word;
    int error;
    while ((row = kin_members_row(&semaphore->members)) == NULL)
        if ((error = kin_members_join(&semaphore->members, NULL)) != 0)
            return error;
    error = kin_semaphore_change(semaphore, row, -(int32_t)count, &word, NULL);
    if (error == ERANGE && (error = enter(semaphore, NULL)) == 0) { /* it has only ever given */
        clear_balance(semaphore, row, false);
        kin_mutex_unlock(&semaphore->guard);
        error = kin_semaphore_change(semaphore, row, -(int32_t)count, &word, NULL);
    }
    if (error == 0 && word & KIN_SLEEPERS)
        wake(semaphore, count);
    return error;
}

/* ------------------------------------------------------------------------------- the handle */

size_t
kin_semaphore_size(uint32_t members)
{
    return offsetof(struct kin_semaphore_object, members) + kin_members_size(members);
}

static void
format(struct kin_object *object, void *argument)
{
    struct kin_semaphore_object *semaphore = (struct kin_semaphore_object *)(void *)object;
    const struct kin_semaphore_terms *terms = argument;
    /* Others may look whether it is blank. */
    __atomic_store_n(&semaphore->state.initial, terms->initial, __ATOMIC_RELAXED);
    __atomic_store_n(&semaphore->state.maximum, terms->maximum, __ATOMIC_RELAXED);
    __atomic_store_n(&semaphore->state.keeps, terms->keeps, __ATOMIC_RELAXED);
    atomic_store_explicit(&semaphore->state.word, terms->initial | KIN_CLOSED,
                          memory_order_relaxed);
    kin_members_format(&semaphore->members, terms->members);
}

/* Fills a handle for memory in which one has been found. */
static bool
bind(struct kin_semaphore *semaphore, struct kin_semaphore_object *object, size_t size,
     struct kin_watcher *watcher)
{
    struct kin_members_terms terms = {&semaphore->guard, watcher, left};
    semaphore->state = &object->state;
    semaphore->initial = object->state.initial;
    semaphore->maximum = object->state.maximum;
    semaphore->keeps = object->state.keeps;
    return semaphore->maximum <= KIN_SEMAPHORE_MOST && semaphore->initial <= semaphore->maximum &&
           kin_members_bind(&semaphore->members, &object->members,
                            size - offsetof(struct kin_semaphore_object, members), &terms) &&
           kin_semaphore_size(semaphore->members.count) == size;
}

enum kin_finding
kin_semaphore_open(struct kin_semaphore *semaphore, void *memory, size_t room,
                   const struct kin_semaphore_terms *terms, struct kin_watcher *watcher,
                   const struct timespec *patience)
{
    struct kin_semaphore_terms wanted = *terms;
    size_t size = kin_semaphore_size(terms->members);
    *semaphore = (struct kin_semaphore){0};
    enum kin_finding found = kin_object_open_sized(&semaphore->guard, memory, room, KIN_SEMAPHORE,
                                                   &size, format, &wanted, patience);
    if (found == KIN_SOUND && !bind(semaphore, memory, size, watcher))
        return KIN_ALIEN;
    return found;
}

void
kin_semaphore_close(struct kin_semaphore *semaphore)
{
    kin_members_close(&semaphore->members);
    semaphore->state = NULL;
}

static void
repair(struct kin_object *object, void *argument)
{
    struct kin_semaphore semaphore = {0};
    const size_t *size = argument;
    if (!bind(&semaphore, (struct kin_semaphore_object *)(void *)object, *size, NULL))
        return; /* which opening it says, too */
    kin_members_repair(&semaphore.members);
    uint64_t word = kin_semaphore_look(&semaphore);
    atomic_store_explicit(&semaphore.state->word, word & ~(KIN_SLEEPERS | KIN_SEVERAL),
                          memory_order_relaxed);
    atomic_store_explicit(&semaphore.state->starving, 0, memory_order_relaxed);
}

void
kin_semaphore_repair(void *memory, size_t room)
{
    size_t size = kin_object_size(memory, room, KIN_SEMAPHORE, 0);
    if (kin_object_look(memory, room, KIN_SEMAPHORE, size) == KIN_OTHER_BOOT)
        kin_object_repair(memory, repair, &size);
}
