/* kinfolk for C programs: the robust mutex, the same that kinfolk.Mutex takes in Python, and the ends of rings (below).
 *
 *     pkg-config --cflags --libs kinfolk        (see docs/howto/c-programs.md)
 *
 * A mutex lies in memory that processes share: KIN_MUTEX_SIZE bytes, at a multiple of
 * KIN_MUTEX_ALIGNMENT, zeroed before its first use. A process reaches it by a struct kin_mutex of its
 * own, its *handle*, which any of its threads may use.
 *
 *     struct kin_mutex mutex;
 *     if (kin_mutex_open(&mutex, memory, size) != KIN_SOUND) …
 *     int error = kin_mutex_lock(&mutex, NULL);
 *     if (error == EOWNERDEAD)                  the lock is held, and what it guards may be half done
 *         repair();
 *     if (error == 0 || error == EOWNERDEAD)
 *         kin_mutex_unlock(&mutex);
 *
 * It belongs to the thread that locked it. When that thread ends without unlocking, by SIGKILL or by
 * returning, the kernel releases it (set_robust_list(2)), and the next one is told.
 *
 * 64-bit Linux with glibc. Whoever may write to the memory can do to the processes that use it what
 * it likes, as with a robust pthread_mutex_t: share it with nobody that you do not trust.
 */

#ifndef KINFOLK_H
#define KINFOLK_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { KIN_MUTEX_SIZE = 128, KIN_MUTEX_ALIGNMENT = 64 };

/* What kin_mutex_open finds. */
enum kin_finding {
    KIN_SOUND = 0,
    KIN_MISPLACED,         /* not at a multiple of the alignment, or the memory ends before it */
    KIN_ALIEN,             /* neither zeroed nor written by kinfolk, or damaged */
    KIN_OTHER_VERSION,     /* by a kinfolk with another layout */
    KIN_OTHER_KIND,        /* another kind of object, or one of another size */
    KIN_OTHER_NAMESPACE,   /* of another pid namespace, whose thread ids mean nothing here */
    KIN_OTHER_BOOT,        /* of the time before the last boot: kin_mutex_repair */
    KIN_UNSUPPORTED,       /* this thread has no robust list: not started by glibc */
    KIN_TOO_MANY,          /* it is blank, and this thread holds too many to make it */
    KIN_EXHAUSTED,         /* there is no descriptor, or memory, to find out which boot this is */
    KIN_BEING_MADE,        /* a thread that lives has been making it for 5 s: was it stopped? */
    KIN_INTERRUPTED,       /* by a signal handler; kin_mutex_open goes on, and never says so */
    KIN_OTHER_TERMS,       /* a ring whose messages are acknowledged, or one whose are not */
};

struct kin_mutex_state; /* in shared memory; native/mutex.h draws it */

/* A handle. Its fields are private; it stays where it is while it is open, and is not shared. */
struct kin_mutex {
    struct kin_mutex_state *state;
    uint64_t pid_namespace;
    uint64_t holder;         /* the thread of this process that holds it, and which process */
    uint64_t last;           /* the word as it was when it was locked last */
    struct kin_mutex *older; /* what the holder locked before, and holds */
    void *below;             /* what stood on the holder's robust list before */
    int owner_died;          /* whether the holder was told so */
    int spins;               /* how long spinning has paid, lately */
};

/* Opens the mutex that lies in `memory`, of which `room` bytes are there; makes it if they are zero. */
enum kin_finding kin_mutex_open(struct kin_mutex *mutex, void *memory, size_t room);

/* After KIN_OTHER_BOOT: makes it usable again; who held it then counts as dead. The caller sees to it
 * that nobody else does the same, or uses it, meanwhile. */
void kin_mutex_repair(void *memory);

/* 0 or EBUSY: a thread of this process holds it. Afterwards its memory may be unmapped. */
int kin_mutex_close(struct kin_mutex *mutex);

/* Locks, waiting until `deadline` on CLOCK_MONOTONIC, or for ever (NULL). It is held afterwards if
 * this returned 0 or EOWNERDEAD, and else is not:
 *     0
 *     EOWNERDEAD       locked, and the last holder ended while it held it
 *     ETIMEDOUT
 *     EINTR            a signal handler has run
 *     EDEADLK          this thread holds it already
 *     ENOTRECOVERABLE  somebody has given it up
 *     EXDEV            this process, by now, is in another pid namespace than the mutex
 *     ENOTSUP          this thread has no robust list
 *     ENOLCK           this thread holds 1,024 already
 *     EILSEQ           the memory was overwritten while this thread held it
 */
int kin_mutex_lock(struct kin_mutex *mutex, const struct timespec *deadline);

/* The same without waiting: EBUSY when it is held. */
int kin_mutex_trylock(struct kin_mutex *mutex);

/* 0; EPERM: this thread does not hold it, by this handle; EILSEQ: the memory was overwritten. */
int kin_mutex_unlock(struct kin_mutex *mutex);

/* Unlocks for good: from now on everybody gets ENOTRECOVERABLE, sleepers too. As unlock. */
int kin_mutex_give_up(struct kin_mutex *mutex);

/* The thread id of whoever holds it just now; 0 when nobody does. */
uint32_t kin_mutex_holder(const struct kin_mutex *mutex);

/* Whether the calling thread holds it and got EOWNERDEAD when it locked. */
int kin_mutex_owner_died(const struct kin_mutex *mutex);

/* ------------------------------------------------------------------------------------------- rings
 *
 * The channel `ring:NAME` of Python's kin.open_sender and kin.open_receiver. Any number of processes of one user send
 * and receive, in C and in Python; each message goes to one of them. Receivers make it, senders wait for one.
 *
 *     struct kin_end *receiver;
 *     struct kin_message message;
 *     enum kin_error error = kin_open_receiver(&receiver, "ring:jobs", NULL, NULL);
 *     while (error == KIN_OK && (error = kin_recv(receiver, &message, NULL)) == KIN_OK) {
 *         use(message.bytes, message.length);
 *         kin_release_message(&message);
 *     }
 *     if (error != KIN_END_OF_CHANNEL)
 *         fprintf(stderr, "%s\n", kin_error_text(error));
 *     kin_close(receiver);
 *
 * Deadlines are times of CLOCK_MONOTONIC; NULL waits for ever, &(struct timespec){0} not at all. Any thread may use an
 * end. So may a forked child, which closes its copy by itself; its first call by an end is to be alone.
 */

enum kin_error {
    KIN_OK = 0,
    KIN_TIMED_OUT,
    KIN_INTERRUPTED_CALL, /* a signal handler has run, and nothing was sent or received */
    KIN_END_OF_CHANNEL,   /* every sender has gone, and all was received */
    KIN_BROKEN_CHANNEL,   /* every receiver has gone */
    KIN_CLOSED,           /* another thread closes the end */
    KIN_TOO_BIG,          /* it will never fit */
    KIN_CORRUPT,          /* the memory was overwritten, or is no ring */
    KIN_OTHER_KINFOLK,    /* made by a kinfolk with another layout, or before a reboot, or in another pid namespace */
    KIN_UNTRUSTED,        /* the name is another user's, or others may write there */
    KIN_BAD_ADDRESS,      /* not ring:NAME, or sizes, or a deadline, that can't be */
    KIN_WRONG_END,        /* a receiver does not send, nor a sender receive; a room is another process's, or gone */
    KIN_NO_SPACE,         /* /dev/shm is full */
    KIN_LIMIT,            /* no descriptor, thread or memory left; or 64 processes have blocks */
    KIN_NOT_HERE,         /* it takes Linux 5.16, and threads that glibc has started */
    KIN_ACKNOWLEDGED,     /* messages of this ring have to be acknowledged, which a receiver in C can't */
    KIN_SYSTEM,           /* `errno` says what */
};

/* A sentence without a full stop, in English. Never NULL. */
const char *kin_error_text(enum kin_error error);

/* How the bytes of a message are to be read: what recv() of Python makes of them. */
enum kin_encoding {
    KIN_BYTES = 0,   /* a bytes object, and what send_bytes() sends */
    KIN_PICKLE = 1,
    KIN_MSGPACK = 2,
    KIN_JSON = 3,
    KIN_MEMORY = 5,  /* a memoryview of where it lies */
    KIN_BUFFERS = 128, /* added: a table of buffers comes first (src/kinfolk/channels/codec.py draws it) */
};

struct kin_end; /* of a channel, in this process */

/* Bytes, for a ring that is not there yet: powers of two, or 0 for Python's defaults (1 MiB, 256 MiB). */
struct kin_sizes {
    uint64_t capacity, arena;
};

/* Opens an end; *end is NULL after an error. `address` is ring:NAME, without options and %-escapes, and NAME one that has at
 * most 200 bytes when it is quoted as in a URL. A sender waits until a receiver is there. */
enum kin_error kin_open_receiver(struct kin_end **end, const char *address,
                                 const struct kin_sizes *sizes, const struct timespec *deadline);
enum kin_error kin_open_sender(struct kin_end **end, const char *address,
                               const struct timespec *deadline);

/* Leaves the channel. Calls in other threads return KIN_CLOSED; none may begin from now on. Messages and rooms that were got
 * by it stay, each until it is released. NULL is no error. */
void kin_close(struct kin_end *end);

/* The largest message, in bytes. */
uint64_t kin_most(const struct kin_end *end);

/* Sends, waiting for room. KIN_OK: it is received as long as a receiver lives. Else nothing was sent. */
enum kin_error kin_send(struct kin_end *sender, enum kin_encoding encoding, const void *bytes,
                        size_t length, const struct timespec *deadline);

/* A message that was received. */
struct kin_message {
    const void *bytes;
    size_t length;
    uint8_t encoding; /* enum kin_encoding, with or without KIN_BUFFERS */
    uint8_t in_place; /* 1: in the shared memory, where nobody writes until it is released */
    struct kin_end *end;  /* private, and what follows */
    uint64_t block[4];
};

/* Receives the next message. Large ones are looked at where they are. Each is to be released. */
enum kin_error kin_recv(struct kin_end *receiver, struct kin_message *message,
                        const struct timespec *deadline);
void kin_release_message(struct kin_message *message);

/* Shared memory in which a message is built. */
struct kin_room {
    void *bytes;
    size_t length;
    struct kin_end *end; /* private, and what follows */
    uint64_t block[4];
};

/* Gets room for a message, waiting for it; to be sent or dropped. A forked child can do neither. */
enum kin_error kin_reserve(struct kin_end *sender, struct kin_room *room, size_t length,
                           const struct timespec *deadline);

/* Sends what was built; the room is gone if it returns KIN_OK, and else stays. */
enum kin_error kin_commit(struct kin_room *room, enum kin_encoding encoding,
                          const struct timespec *deadline);
void kin_drop(struct kin_room *room);

#ifdef __cplusplus
}
#endif

#endif
