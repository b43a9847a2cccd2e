/* How every object of kinfolk.sync begins in shared memory, and how it is made and checked.
 *
 *      0  header   magic, version, kind, size │ boot id │ pid namespace, owner
 *     64  guard    a robust mutex: that of a Mutex itself, or the one that guards the rest
 *    128  …        what the object is otherwise; a Mutex ends here
 *
 * Rules:
 * 1. Zeroed memory is a blank object, and its guard a free mutex: whoever opens a blank one locks the guard,
 *    makes the rest, and writes `magic` last. When it is killed before that, the guard goes to the next one, who
 *    makes it anew. No other lock is needed, among whatever users.
 * 2. Nothing is believed before it was checked: alien memory is refused, and not written to.
 * 3. Thread ids mean something in one pid namespace, and until the next boot.
 */

#include "sync_object.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "mutex_word.h"

enum { MAKING = 5 }; /* seconds that a maker may take: microseconds, unless it is stopped */

/* The boot id as 16 bytes; all zero where /proc has none. False when it can't be had just now: then nothing may be
 * said about the boot of an object, nor one be made. */
static bool
read_boot_id(uint8_t id[16])
{
    static _Atomic uint64_t halves[2];
    static _Atomic bool known;
    uint64_t words[2] = {0, 0};
    if (!atomic_load_explicit(&known, memory_order_acquire)) {
        char text[36];
        uint8_t *bytes = (uint8_t *)words;
        int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
        if (fd < 0 && errno != ENOENT && errno != EACCES && errno != EPERM)
            return false;
        ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text);
        if (fd >= 0)
            close(fd);
        for (int i = 0, digit = 0; i < length && digit < 32; i++) {
            int value = text[i] >= 'a' ? text[i] - 'a' + 10 : text[i] - '0';
            if (text[i] == '-')
                continue;
            bytes[digit / 2] = (uint8_t)(bytes[digit / 2] << 4 | (value & 15));
            digit++;
        }
        for (int i = 0; i < 2; i++)
            atomic_store_explicit(&halves[i], words[i], memory_order_relaxed);
        atomic_store_explicit(&known, true, memory_order_release);
    }
    for (int i = 0; i < 2; i++)
        words[i] = atomic_load_explicit(&halves[i], memory_order_relaxed);
    memcpy(id, words, sizeof words);
    return true;
}

static uint64_t
magic_of(const struct kin_object *object)
{
    /* SYNC POINT: write_header */
    return atomic_load_explicit(&object->header.magic, memory_order_acquire);
}

/* How a header is that is made here and now. */
static struct kin_object_header
header_of(enum kin_kind kind, size_t size, uint64_t pid_namespace)
{
    struct kin_object_header header = {
        .version = KIN_OBJECT_VERSION,
        .kind = kind,
        .size = size,
        .pid_namespace = pid_namespace,
        .owner = (uint32_t)geteuid(),
    };
    read_boot_id(header.boot_id);
    return header;
}

static enum kin_finding
compare(const struct kin_object_header *header, const struct kin_object_header *ours)
{
    if (header->version != ours->version)
        return KIN_OTHER_VERSION;
    if (header->kind != ours->kind || header->size != ours->size)
        return KIN_OTHER_KIND;
    if (memcmp(header->boot_id, ours->boot_id, sizeof ours->boot_id) != 0)
        return KIN_OTHER_BOOT; /* before the namespace, whose number may be another's by now */
    return header->pid_namespace == ours->pid_namespace ? KIN_SOUND : KIN_OTHER_NAMESPACE;
}

/* Others may be at it: by words, which are whole at any moment. */
static uint64_t
word_at(const void *memory, size_t number)
{
    return __atomic_load_n((const uint64_t *)memory + number, __ATOMIC_RELAXED);
}

/* All but the node, which is its owner's, and means nothing without one. */
static bool
all_zero(const struct kin_object *object, size_t size)
{
    const size_t node = offsetof(struct kin_object, guard.node) / sizeof(uint64_t);
    for (size_t i = 0; i < size / sizeof(uint64_t); i++) /* sizes are multiples of 64 */
        if ((i < node || i > node + 1) && word_at(object, i) != 0)
            return false;
    return true;
}

/* The words of a header after `magic` that are the same for whoever makes it, but for the size, of which a kind may have several: up to
 * `owner`. */
enum {
    FIRST_WORD = 1,
    SIZE_WORD = offsetof(struct kin_object_header, size) / sizeof(uint64_t),
    OWNERS_WORD = offsetof(struct kin_object_header, owner) / sizeof(uint64_t),
};

/* Whether a header may be one that a maker was killed at, or is at just now. */
static bool
half_written(const struct kin_object_header *header, const struct kin_object_header *whole)
{
    for (size_t i = FIRST_WORD; i < OWNERS_WORD; i++) {
        uint64_t found = word_at(header, i);
        if (i != SIZE_WORD && found != 0 && found != word_at(whole, i))
            return false;
    }
    return word_at(header, OWNERS_WORD) >> 32 == 0 && word_at(header, OWNERS_WORD + 1) == 0;
}

static void
write_header(struct kin_object_header *header, const struct kin_object_header *whole)
{
    for (size_t i = FIRST_WORD; i < sizeof *header / sizeof(uint64_t); i++)
        __atomic_store_n((uint64_t *)header + i, word_at(whole, i), __ATOMIC_RELAXED);
    /* SYNC POINT: magic_of */
    atomic_store_explicit(&header->magic, KIN_OBJECT_MAGIC, memory_order_release);
}

static enum kin_finding
check(const struct kin_object *object, size_t room, enum kin_kind kind, size_t size,
      uint64_t pid_namespace)
{
    if ((uintptr_t)object % KIN_OBJECT_ALIGNMENT != 0 || room < size)
        return KIN_MISPLACED;
    struct kin_object_header ours = header_of(kind, size, pid_namespace);
    if (!read_boot_id(ours.boot_id))
        return KIN_EXHAUSTED;
    for (;;) {
        uint64_t magic = magic_of(object);
        if (magic == KIN_OBJECT_MAGIC)
            return compare(&object->header, &ours);
        if (magic != 0)
            return KIN_ALIEN;
        /* Blank. While somebody makes it, or after he was killed at it, its guard is not zero; of the rest nothing can
         * be said then. */
        if (atomic_load_explicit(&object->guard.word, memory_order_acquire) != 0)
            return half_written(&object->header, &ours) ? KIN_SOUND : KIN_ALIEN;
        if (all_zero(object, size))
            return KIN_SOUND;
        if (magic_of(object) == 0 && object->guard.word == 0)
            return KIN_ALIEN; /* and not because somebody has begun in between */
    }
}

enum kin_finding
kin_object_look(const void *memory, size_t room, enum kin_kind kind, size_t size)
{
    struct kin_thread *thread = kin_thread();
    if (thread == NULL)
        return KIN_UNSUPPORTED;
    return check(memory, room, kind, size, thread->pid_namespace);
}

struct timespec
kin_object_patience(void)
{
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += MAKING;
    return deadline;
}

uint32_t
kin_object_maker(const void *memory, size_t room)
{
    const struct kin_object *object = memory;
    return room < sizeof *object ? 0 : kin_mutex_owner(kin_mutex_look(&object->guard));
}

/* Or just gone: then the next attempt tells more. */
static bool
is_alive(uint32_t thread)
{
    return thread == 0 || kill((pid_t)thread, 0) == 0 || errno == EPERM;
}

static enum kin_finding
make(struct kin_mutex *guard, struct kin_object *object, enum kin_kind kind, size_t size,
     kin_object_format *format, void *argument, const struct timespec *patience)
{
    int error = kin_mutex_lock(guard, patience);
    switch (error) {
    case 0:
    case EOWNERDEAD:
        break;
    case EINTR:
        return KIN_INTERRUPTED;
    case ENOLCK:
        return KIN_TOO_MANY;
    case ETIMEDOUT:
        return is_alive(kin_mutex_holder(guard)) ? KIN_BEING_MADE : KIN_ALIEN;
    default:
        return KIN_ALIEN;
    }
    if (magic_of(object) == 0) {
        struct kin_object_header header = header_of(kind, size, guard->pid_namespace);
        if (format != NULL)
            format(object, argument);
        write_header(&object->header, &header);
    }
    kin_mutex_unlock(guard);
    return KIN_SOUND;
}

enum kin_finding
kin_object_open(struct kin_mutex *guard, void *memory, size_t room, enum kin_kind kind, size_t size,
                kin_object_format *format, void *argument, const struct timespec *patience)
{
    struct kin_object *object = memory;
    enum kin_finding found = kin_object_look(memory, room, kind, size);
    if (found == KIN_SOUND)
        found = kin_mutex_bind(guard, &object->guard);
    if (found == KIN_SOUND && magic_of(object) == 0)
        found = make(guard, object, kind, size, format, argument, patience);
    /* Again: if it was blank, somebody else may have made another one since. */
    return found == KIN_SOUND ? kin_object_look(memory, room, kind, size) : found;
}

size_t
kin_object_size(const void *memory, size_t room, enum kin_kind kind, size_t otherwise)
{
    const struct kin_object *object = memory;
    bool is_one = (uintptr_t)memory % KIN_OBJECT_ALIGNMENT == 0 && room >= sizeof *object &&
                  magic_of(object) == KIN_OBJECT_MAGIC && object->header.kind == kind &&
                  object->header.size >= sizeof *object &&
                  object->header.size % KIN_OBJECT_ALIGNMENT == 0;
    return is_one ? object->header.size : otherwise;
}

enum kin_finding
kin_object_open_sized(struct kin_mutex *guard, void *memory, size_t room, enum kin_kind kind,
                      size_t *size, kin_object_format *format, void *argument,
                      const struct timespec *patience)
{
    size_t made = kin_object_size(memory, room, kind, *size), before;
    enum kin_finding found;
    do {
        before = *size = made;
        found = kin_object_open(guard, memory, room, kind, *size, format, argument, patience);
        /* Again if somebody has just made one of another size. */
        made = kin_object_size(memory, room, kind, *size);
    } while (found == KIN_OTHER_KIND && made != before);
    return found;
}

void
kin_object_repair(struct kin_object *object, kin_object_format *repair, void *argument)
{
    struct kin_thread *thread = kin_thread();
    struct kin_object_header *header = &object->header;
    struct kin_object_header ours =
        header_of(header->kind, header->size, thread == NULL ? 0 : thread->pid_namespace);
    kin_mutex_state_repair(&object->guard);
    if (repair != NULL)
        repair(object, argument);
    header->pid_namespace = ours.pid_namespace;
    /* Last: until then it is of another boot, and whoever comes repairs it again. */
    atomic_thread_fence(memory_order_release);
    memcpy(header->boot_id, ours.boot_id, sizeof ours.boot_id);
}

enum kin_finding
kin_mutex_open(struct kin_mutex *mutex, void *memory, size_t room)
{
    const struct timespec patience = kin_object_patience();
    enum kin_finding found;
    do
        found = kin_object_open(mutex, memory, room, KIN_MUTEX, sizeof(struct kin_object), NULL,
                                NULL, &patience);
    while (found == KIN_INTERRUPTED);
    return found;
}

void
kin_mutex_repair(void *memory)
{
    kin_object_repair(memory, NULL, NULL);
}
