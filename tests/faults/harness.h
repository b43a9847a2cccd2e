/* What is done to an object in shared memory while a process is killed in the middle of it.
 *
 * A *case* says who does what. The harness (harness.c) plays it again and again, and kills the victim each time at
 * another moment: at every instruction, or at random.
 *
 *      harness       prepare                                unblock                    check
 *      EARLY         before ── act ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ── ends
 *      victim              ready ──────── act ─ ─ ─ ─ ─ ─ ✝
 *      NEXT                      before ── act ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ── ends
 *      ALONGSIDE                 before ── act ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ── ends
 *      MEANWHILE                              before ── act ─ ─ ─ ─ ─ ─ ─ ─ ─ ── ends
 *      AFTERWARDS                                                before ── act ── ends
 *
 * `unblock` is called when the victim sleeps in `act`, or is dead; MEANWHILE is just before that. Whoever does not
 * end then is stuck. Everybody is a process of his own.
 */

#ifndef HARNESS_H
#define HARNESS_H

#include <stddef.h>

enum when { NOBODY, EARLY, NEXT, ALONGSIDE, MEANWHILE, AFTERWARDS };

enum { MOST_BYSTANDERS = 4 };

struct bystander {
    enum when when;
    void (*before)(void *shared); /* may be NULL; is over before anything else goes on */
    void (*act)(void *shared); /* EARLY, NEXT, MEANWHILE: it sleeps or has ended before it goes on */
};

struct fault_case {
    const char *name;
    size_t size;                    /* of the shared memory, which is zeroed */
    void (*prepare)(void *shared);  /* may be NULL */
    void (*ready)(void *shared);    /* may be NULL */
    void (*act)(void *shared);
    void (*unblock)(void *shared);  /* may be NULL */
    int (*check)(const void *shared); /* may be NULL; 0: all is well */
    struct bystander bystanders[MOST_BYSTANDERS];
};

/* Of the file of cases that the harness is linked with; the last one has no name. */
extern const struct fault_case fault_cases[];

/* Ends this process: what it saw must not be. */
_Noreturn void violated(const char *what);

#endif
