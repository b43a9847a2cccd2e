/* What the keeper's loop reads and writes itself, in bytes. See keeper_wire.c. */

#ifndef KIN_KEEPER_WIRE_H
#define KIN_KEEPER_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

/* Whether a packet is a StartProgram; then its number and its block, which lies in the packet. */
bool kin_wire_is_program(const unsigned char *packet, size_t size, uint64_t *number,
                         const unsigned char **block, size_t *block_size);

/* A reply. */
struct kin_wire_reply {
    unsigned char bytes[320];
    size_t size;
};

void kin_wire_started(struct kin_wire_reply *reply, uint64_t number, pid_t pid);
void kin_wire_failed(struct kin_wire_reply *reply, uint64_t number, const char *step, int error,
                     int item);
void kin_wire_refused(struct kin_wire_reply *reply, uint64_t number, int error);

enum kin_wire_kind { KIN_WIRE_CHANGED = 3, KIN_WIRE_ENDED = 4 };

/* A record of a status pipe. */
struct kin_wire_record {
    int32_t kind, word, unused[2];
    double user, system;
    int64_t usage[14];
};

/* `usage` is NULL but for the end. */
void kin_wire_record(struct kin_wire_record *record, enum kin_wire_kind kind, int word,
                     const struct rusage *usage);

#endif
