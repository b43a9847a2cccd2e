/* The word of a semaphore, and the balances that belong to it. See semaphore.c.
 *
 *      word      63 … 43   42 … 33   32 … 27   26       25        24         23 … 0
 *                stamp   │ row     │ due     │ CLOSED │ SEVERAL │ SLEEPERS │ value
 *
 *      balance   63 … 32             │ 31 … 0
 *                stamp               │ how many this process holds; negative: has given more than it took
 */

#ifndef KIN_SEMAPHORE_WORD_H
#define KIN_SEMAPHORE_WORD_H

#include <errno.h>

#include "kin_semaphore.h"

enum { KIN_DUE_SHIFT = 27, KIN_ROW_SHIFT = 33, KIN_STAMP_SHIFT = 43 };
enum { KIN_DUE_MASK = 63, KIN_ROW_MASK = 1023, KIN_STAMP_MASK = (1 << 21) - 1 };
enum { KIN_MOST_DUE = 31, KIN_INTENT = -32 }; /* that is in `intent` */

#define KIN_SLEEPERS (UINT64_C(1) << 24)
#define KIN_SEVERAL (UINT64_C(1) << 25) /* one of the sleepers wants several */
#define KIN_CLOSED (UINT64_C(1) << 26)  /* nothing is added to what is due */

_Static_assert(KIN_MOST_MEMBERS <= KIN_ROW_MASK + 1, "a row has a number in the word");

/* What kin_semaphore_settle returns when the word has changed meanwhile. */
enum { KIN_MOVED_ON = -1 };

static inline uint64_t
kin_semaphore_look(const struct kin_semaphore *semaphore)
{
    /* SYNC POINT: kin_semaphore_exchange */
    return atomic_load_explicit(&semaphore->state->word, memory_order_acquire);
}

/* SYNC POINT: kin_semaphore_look. Who takes sees what those did who gave before. */
static inline bool
kin_semaphore_exchange(struct kin_semaphore *semaphore, uint64_t word, uint64_t new)
{
    return atomic_compare_exchange_strong_explicit(&semaphore->state->word, &word, new,
                                                   memory_order_acq_rel, memory_order_relaxed);
}

static inline uint32_t
kin_value_in(uint64_t word)
{
    return (uint32_t)word & KIN_SEMAPHORE_MOST;
}

static inline uint32_t
kin_row_in(uint64_t word)
{
    return (uint32_t)(word >> KIN_ROW_SHIFT) & KIN_ROW_MASK;
}

static inline int32_t
kin_due_in(uint64_t word)
{
    uint32_t due = (uint32_t)(word >> KIN_DUE_SHIFT) & KIN_DUE_MASK;
    return (int32_t)(due ^ 32) - 32;
}

static inline uint64_t
kin_due(int32_t due)
{
    return (uint64_t)((uint32_t)due & KIN_DUE_MASK) << KIN_DUE_SHIFT;
}

static inline bool
kin_fits(int32_t due)
{
    return due >= -KIN_MOST_DUE && due <= KIN_MOST_DUE;
}

static inline uint32_t
kin_stamp_of(uint64_t balance)
{
    return (uint32_t)(balance >> 32) & KIN_STAMP_MASK;
}

static inline int32_t
kin_held_in(uint64_t balance)
{
    return (int32_t)(uint32_t)balance;
}

static inline uint64_t
kin_balance(const struct kin_member *row)
{
    return atomic_load_explicit(&row->balance, memory_order_acquire);
}

/* Sees to it that the balance has changed as a closed word says. 0; KIN_MOVED_ON: it is another word by now; EILSEQ. */
static inline int
kin_semaphore_settle(struct kin_semaphore *semaphore, uint64_t word)
{
    uint32_t number = kin_row_in(word), stamp = (uint32_t)(word >> KIN_STAMP_SHIFT);
    if (number >= semaphore->members.count)
        return EILSEQ;
    struct kin_member *row = &semaphore->members.state->rows[number];
    uint64_t found = kin_balance(row);
    if (kin_stamp_of(found) == stamp)
        return 0;
    int32_t due = kin_due_in(word);
    if (due == KIN_INTENT) /* acquire: the word is looked at after this */
        due = atomic_load_explicit(&semaphore->state->intent, memory_order_acquire);
    if (kin_semaphore_look(semaphore) != word)
        return KIN_MOVED_ON; /* so it was settled */
    if (((kin_stamp_of(found) + 1) & KIN_STAMP_MASK) != stamp)
        return EILSEQ;
    uint64_t settled = (uint64_t)((uint32_t)(found >> 32) + 1) << 32 |
                       (uint32_t)((uint32_t)found + (uint32_t)due);
    /* If it fails, another one was quicker. */
    atomic_compare_exchange_strong_explicit(&row->balance, &found, settled, memory_order_acq_rel,
                                            memory_order_relaxed);
    return 0;
}

/* Closes the word and settles it: *word is as it is then. 0 or EILSEQ. */
static inline int
kin_semaphore_make_ready(struct kin_semaphore *semaphore, uint64_t *word)
{
    int error;
    do {
        *word = kin_semaphore_look(semaphore);
        error = KIN_MOVED_ON;
        if (*word & KIN_CLOSED ||
            kin_semaphore_exchange(semaphore, *word, *word | KIN_CLOSED)) {
            *word |= KIN_CLOSED;
            error = kin_semaphore_settle(semaphore, *word);
        }
    } while (error == KIN_MOVED_ON);
    return error;
}

/* Makes a word that is ready another one, with this value and these flags, by which so much is due to `row`. False:
 * it is another one already. */
static inline bool
kin_semaphore_put(struct kin_semaphore *semaphore, uint64_t word, const struct kin_member *row,
                  int32_t due, uint64_t value_and_flags)
{
    uint64_t number = (uint64_t)(row - semaphore->members.state->rows);
    /* It stays as it is as long as the word does. */
    uint64_t stamp = (kin_stamp_of(kin_balance(row)) + 1) & KIN_STAMP_MASK;
    return kin_semaphore_exchange(semaphore, word,
                                  value_and_flags | (due == KIN_INTENT ? KIN_CLOSED : 0) |
                                      kin_due(due) | number << KIN_ROW_SHIFT |
                                      stamp << KIN_STAMP_SHIFT);
}

/* Takes `count`, if they are there, or gives as many as −count. 0; EBUSY: they are not; EOVERFLOW; ERANGE; EILSEQ;
 * or as kin_mutex_lock, with the deadline, where `count` does not fit into the word. *word is that by which it was decided. */
int kin_semaphore_change(struct kin_semaphore *semaphore, struct kin_member *row, int32_t count,
                         uint64_t *word, const struct timespec *deadline);

#endif
