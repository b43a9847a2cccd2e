/* The keeper's loop: starts programs, reaps, and tells their owner. See keeper_loop.c. */

#ifndef KIN_KEEPER_LOOP_H
#define KIN_KEEPER_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "anchor.h"
#include "one_cpu.h"

enum {
    KIN_KEEPER_PACKET = 32 * 1024, /* the largest */
    KIN_KEEPER_DESCRIPTORS = 253,  /* SCM_MAX_FD */
    KIN_KEEPER_ROWS = 512,
};

struct kin_keeper_child;

/* Filled in by who makes it, down to `vouches`; the rest is zero, until `kin_keeper_init`. */
struct kin_keeper {
    int line;         /* to the owner: a socket of whole packets, blocking */
    int owner;        /* his pidfd */
    int ended;        /* a signalfd for SIGCHLD, which is blocked; not blocking */
    int death_signal; /* what programs get when this thread ends; 0: nothing */
    bool vouches;     /* the owner is outside of this pid namespace: the kernel tells him pids */
    bool alone;       /* the line has ended */
    struct kin_one_cpu cpus;
    struct kin_anchor anchor;
    struct kin_keeper_child *children[KIN_KEEPER_ROWS]; /* by pid */
};

/* Before its first use. */
void kin_keeper_init(struct kin_keeper *keeper);

enum kin_keeper_event {
    KIN_KEEPER_REQUEST,     /* one that is not for this loop */
    KIN_KEEPER_OVER,        /* the owner is dead; or the line has ended, and no child is left */
    KIN_KEEPER_INTERRUPTED, /* by a signal: go on */
    KIN_KEEPER_FAILED,      /* errno says why */
};

struct kin_keeper_request {
    unsigned char packet[KIN_KEEPER_PACKET];
    size_t size;
    int descriptors[KIN_KEEPER_DESCRIPTORS]; /* the caller's */
    size_t descriptor_count;
    bool truncated; /* for want of descriptors here: there are fewer than were sent */
};

/* Serves until there is something to tell. */
enum kin_keeper_event kin_keeper_next(struct kin_keeper *keeper,
                                      struct kin_keeper_request *request);

/* Before a child is made that is to join this process group: sees to the anchor. */
void kin_keeper_expect(struct kin_keeper *keeper, int process_group);

/* Starts a program as a block says, and replies. The descriptors stay the caller's. */
void kin_keeper_start_program(struct kin_keeper *keeper, uint64_t number,
                              const unsigned char *block, size_t size, const int *descriptors,
                              size_t descriptor_count);

/* Takes over a new child and the write end of its status pipe, and tells the owner, who gets its
 * pidfd and the read end, which stays the caller's too. */
void kin_keeper_hand_over(struct kin_keeper *keeper, uint64_t number, pid_t pid, int reader,
                          int report);

/* Reaps whatever has ended, orphans too; whether there is any child left. Never blocks. */
bool kin_keeper_reap(struct kin_keeper *keeper);

/* Closes the status pipes of those whom somebody else has reaped: a module while it was imported, or the
 * kernel, if it had SIGCHLD ignored. */
void kin_keeper_forget_lost(struct kin_keeper *keeper);

/* The child that was started for a request, until it is reaped; 0: there is none. */
pid_t kin_keeper_child_of(const struct kin_keeper *keeper, uint64_t number);

/* Closes the status pipes and the anchor's pidfd: in a forked copy, or when no descriptor is left. */
void kin_keeper_close_own(struct kin_keeper *keeper);

/* Forgets the children. */
void kin_keeper_release(struct kin_keeper *keeper);

#endif
