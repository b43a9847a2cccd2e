/* The descriptors of a child that is being started. See spawn_descriptors.c. */

#ifndef KIN_SPAWN_DESCRIPTORS_H
#define KIN_SPAWN_DESCRIPTORS_H

#include "spawn.h"

/* Puts every descriptor of the plan in its place, any permutation. -1, or the index of one that
 * could not be, with errno. */
int kin_spawn_arrange(const struct kin_spawn *plan);

/* Closes all others. */
void kin_spawn_close_others(const struct kin_spawn *plan);

/* Closes the numbers alone that the plan's descriptors had before. */
void kin_spawn_close_sources(const struct kin_spawn *plan);

/* Before `kin_spawn_arrange`: another descriptor, by a number at which the plan puts nothing, which
 * may be the same; -1 with errno. */
int kin_spawn_step_aside(const struct kin_spawn *plan, int fd);

#endif
