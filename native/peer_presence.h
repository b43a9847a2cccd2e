/* Who is there in a channel, for C programs: the FIFO of src/kinfolk/channels/presence.py. */

#ifndef KIN_PEER_PRESENCE_H
#define KIN_PEER_PRESENCE_H

#include <sys/types.h>

#include "peer_names.h"

/* A read end (a receiver's) or a write end (a sender's). It stays where it is. */
struct kin_presence {
    char path[KIN_NAME_ROOM];
    int fd; /* −1: it has left */
    dev_t device;
    ino_t inode;
    struct kin_presence *next;
};

/* Joins. EAGAIN: nobody receives yet, or somebody has the lock: try again; EACCES; EINVAL: what lies there is no FIFO; or an
 * errno. `if_first` is called with the lock when nobody else is a member. */
int kin_presence_try_receiver(struct kin_presence *presence, const char *path,
                              void (*if_first)(void *), void *argument);
int kin_presence_try_sender(struct kin_presence *presence, const char *path);

/* A receiver asks: has some sender come, and the last gone? A sender: has the last receiver gone? */
bool kin_presence_others_gone(const struct kin_presence *presence);

/* In a forked child: it is a member too. */
void kin_presence_forked(struct kin_presence *presence);

/* Closes; `if_last` is called with the lock for the last member of all, who also removes the name. */
void kin_presence_leave(struct kin_presence *presence, void (*if_last)(void *), void *argument);

/* A receiver leaves because all senders have; false if `found`, with the lock, that it is not so. */
bool kin_presence_end(struct kin_presence *presence, bool (*found)(void *), void (*if_last)(void *),
                      void *argument);

#endif
