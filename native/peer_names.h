/* The directory of this user's kinfolk processes, for C programs: src/kinfolk/runtime_directory.py has the rules. */

#ifndef KIN_PEER_NAMES_H
#define KIN_PEER_NAMES_H

#include <stdbool.h>

#include "../include/kinfolk.h"

enum { KIN_NAME_ROOM = 300 }; /* bytes for a path in the directory */

/* The directory's path, and that of what a mechanism calls so. False: no name of a ring. */
bool kin_names_path(char path[KIN_NAME_ROOM], const char *mechanism, const char *name);

/* Its lock. Names are made and removed with it. */
struct kin_names_lock {
    int directory;
};

/* EAGAIN: somebody has it; EACCES: it is another user's; else an errno. */
int kin_names_try_lock(struct kin_names_lock *lock);
void kin_names_unlock(struct kin_names_lock *lock);

/* Waits for it briefly: leaving is more important. Whether it was had. */
bool kin_names_lock_to_leave(struct kin_names_lock *lock);

/* From 1 ms on, twice as long each time, up to 50 ms. False when the deadline has passed. */
bool kin_names_pause(uint32_t *milliseconds, const struct timespec *deadline);

#endif
