/* The descriptors of a child that is being started. See spawn_descriptors.c. */

#ifndef KIN_SPAWN_DESCRIPTORS_H
#define KIN_SPAWN_DESCRIPTORS_H

#include "spawn.h"

/* Puts every descriptor of the plan in its place, any permutation. -1, or the index of one that
 * could not be, with errno. */
int kin_spawn_arrange(const struct kin_spawn *plan);

/* Closes all others. */
void kin_spawn_close_others(const struct kin_spawn *plan);

#endif
