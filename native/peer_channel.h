/* Between the files peer_*.c: an end of a ring in a C program. */

#ifndef KIN_PEER_CHANNEL_H
#define KIN_PEER_CHANNEL_H

#include "local_lock.h"
#include "peer_presence.h"
#include "ring.h"

struct kin_end {
    struct kin_ring ring;
    void *memory;
    size_t size;
    int file; /* that it lies in: who sends or receives calls those who poll by it */
    char memory_path[KIN_NAME_ROOM];
    _Atomic uint32_t references; /* the end, its messages and rooms */
    _Atomic uint32_t inside;     /* calls */
    _Atomic bool closing, ended;

    /* Who is there; with the lock. */
    struct kin_local_lock lock;
    struct kin_presence presence;
    uint64_t watch;                        /* its number; 0: none */
    uint32_t watched_alarm, watched_forks; /* since when */
    /* As it was when it was looked last; UINT64_MAX: not yet, or they had gone. */
    _Atomic uint64_t known;
};

/* What an errno of the ring or the system means. */
enum kin_error kin_peer_error(int error);

/* One process has one watcher. NULL: there is no descriptor for it. */
struct kin_watcher *kin_peer_watcher(void);

/* Begins a call, by an end of that way. */
enum kin_error kin_peer_begin(struct kin_end *end, enum kin_ring_way way);
void kin_peer_leave(struct kin_end *end);

/* Whether the others have gone; and the alarm from which on there may be news. */
enum kin_error kin_peer_look(struct kin_end *end, uint32_t *alarm, bool *gone);

/* What `known` is when there is no news. */
uint64_t kin_peer_news(struct kin_end *end, uint32_t alarm);

/* One reference less; the last unmaps. */
void kin_peer_release(struct kin_end *end);

/* The name of the ring's memory goes: for the presence. */
void kin_peer_forget(void *end);

#endif
