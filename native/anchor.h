/* A process that keeps a process group from being orphaned while it stands in it. See anchor.c. */

#ifndef KIN_ANCHOR_H
#define KIN_ANCHOR_H

#include <stdbool.h>
#include <sys/types.h>

struct kin_anchor {
    pid_t pid;   /* 0: there is none */
    pid_t group; /* that it stands in; 0: its parent's, where it has no effect */
    int pidfd;   /* readable once somebody has killed it; -1: nobody looks */
    char *stack; /* stays for the next one; NULL: none yet */
    /* Read by the anchor itself, so they stay as they are. */
    pid_t parent;
    bool has_close_range;
};

/* Before its first use. */
void kin_anchor_init(struct kin_anchor *anchor);

/* Has it stand in a group of this session, and makes it if there is none and the kernel allows it.
 * For the main thread, whose end is its end. */
void kin_anchor_enter(struct kin_anchor *anchor, pid_t group);

/* Takes it out of the group. */
void kin_anchor_leave(struct kin_anchor *anchor);

/* When its pidfd is readable: another one, in the same place. */
void kin_anchor_replace(struct kin_anchor *anchor);

/* Takes it out of the group and ends it; whether there was one. */
bool kin_anchor_end(struct kin_anchor *anchor);

/* Closes the pidfd: in a forked copy, or when no descriptor is left. The anchor stands. */
void kin_anchor_look_away(struct kin_anchor *anchor);

#endif
