/* What is to be started, as one block of bytes. See launch_block.c. */

#ifndef KIN_LAUNCH_BLOCK_H
#define KIN_LAUNCH_BLOCK_H

#include <stddef.h>

#include "spawn.h"

/* The bytes that a plan takes; 0: more than a block can have. */
size_t kin_block_size(const struct kin_spawn *plan);

/* Writes as many. The i-th of plan->descriptors rides beside it, as the i-th. */
void kin_block_write(const struct kin_spawn *plan, unsigned char *block);

/* A plan that was read. Its texts lie in the block, which has to stay. */
struct kin_block_plan {
    struct kin_spawn plan;
    void *room; /* for everything else */
};

/* Reads a block, with the descriptors that came beside it. 0; EPROTO: it is no such block; ENOMEM.
 * To be released in any case. */
int kin_block_read(struct kin_block_plan *read, const unsigned char *block, size_t size,
                   const int *descriptors, size_t descriptor_count);

void kin_block_release(struct kin_block_plan *read);

#endif
