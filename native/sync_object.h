/* How every object of kinfolk.sync begins in shared memory, and how it is made and checked.
 * See sync_object.c. */

#ifndef KIN_SYNC_OBJECT_H
#define KIN_SYNC_OBJECT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "mutex.h"

enum kin_kind {
    KIN_MUTEX = 1,
    KIN_CONDITION = 2,
    KIN_EVENT = 3,
    KIN_SEMAPHORE = 4,
};

enum { KIN_OBJECT_VERSION = 1, KIN_OBJECT_ALIGNMENT = 64 };

#define KIN_OBJECT_MAGIC UINT64_C(0x316b6e79736e696b) /* "kinsynk1" */

struct kin_object_header {
    _Atomic uint64_t magic; /* written last: until then, the object is being made */
    uint32_t version;
    uint32_t kind;
    uint64_t size; /* of the object, from here */
    uint8_t boot_id[16];
    uint64_t pid_namespace; /* the inode of /proc/self/ns/pid */
    uint32_t owner;         /* effective user id of who made it */
    uint32_t unused;
    uint64_t identity; /* of a mutex that a condition goes with: see condition.c; else 0 */
};

/* The beginning of every object; what it is otherwise follows at the next multiple of 64 bytes. */
struct kin_object {
    struct kin_object_header header;
    struct kin_mutex_state guard; /* a Mutex is just this */
};

_Static_assert(sizeof(struct kin_object_header) == 64, "one cache line");
_Static_assert(sizeof(struct kin_object) == KIN_MUTEX_SIZE, "what kinfolk.h says");

/* Writes what follows after struct kin_object, which is all zero, or half written by a maker that
 * was killed. The guard is held. */
typedef void kin_object_format(struct kin_object *object, void *argument);

/* Until when an opening that begins now waits for somebody else who makes the object. */
struct timespec kin_object_patience(void);

/* Opens the object that lies in `memory`, making it if it is blank: `guard` becomes its mutex. `size`
 * is that of the object, `format` may be NULL. KIN_OTHER_BOOT: nothing was changed; to be repaired.
 * KIN_INTERRUPTED: to be called again, with the same `patience`; NULL has no end. */
enum kin_finding kin_object_open(struct kin_mutex *guard, void *memory, size_t room,
                                 enum kin_kind kind, size_t size, kin_object_format *format,
                                 void *argument, const struct timespec *patience);

/* The same for a kind of which there are several sizes: `size` is that of one to be made, and becomes that of the one that is there. */
enum kin_finding kin_object_open_sized(struct kin_mutex *guard, void *memory, size_t room,
                                       enum kin_kind kind, size_t *size, kin_object_format *format,
                                       void *argument, const struct timespec *patience);

/* The size of the object of a kind that lies there; `otherwise` if there is none. */
size_t kin_object_size(const void *memory, size_t room, enum kin_kind kind, size_t otherwise);

/* The thread that makes the object which lies there, or has its guard; 0 for none. */
uint32_t kin_object_maker(const void *memory, size_t room);

/* Looks, and changes nothing; KIN_SOUND too for memory that is blank. */
enum kin_finding kin_object_look(const void *memory, size_t room, enum kin_kind kind, size_t size);

/* After KIN_OTHER_BOOT, under a lock that keeps out everybody who might do the same. `repair` makes
 * the rest one of now; it may be NULL. */
void kin_object_repair(struct kin_object *object, kin_object_format *repair, void *argument);

#endif
