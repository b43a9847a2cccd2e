/* What a keeper says to its owner. See keeper_reply.c. */

#ifndef KIN_KEEPER_REPLY_H
#define KIN_KEEPER_REPLY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "keeper_loop.h"
#include "keeper_wire.h"

/* 0, or why it was not sent. `about`: whose credentials go along, if the keeper vouches. */
int kin_keeper_reply(const struct kin_keeper *keeper, const struct kin_wire_reply *bytes,
                     const int *descriptors, size_t count, pid_t about);

void kin_keeper_refuse(const struct kin_keeper *keeper, uint64_t number, int error);

/* Gives the owner a child's pidfd and the read end of its status pipe: 0, or an errno. */
int kin_keeper_introduce(const struct kin_keeper *keeper, uint64_t number, pid_t pid, int reader);

#endif
