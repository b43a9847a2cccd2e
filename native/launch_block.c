/* What is to be started, as one block of bytes: how a plan (spawn.h) goes to another process of the
 * same build.
 *
 *     0        header   magic, counts, numbers
 *     HEADER   limits   {resource, soft, hard}, 24 bytes each
 *              theres   4 bytes each: the numbers of the descriptors in the child
 *              groups   4 bytes each
 *              texts    each ends with a zero: executables, argv, envp, cgroup_procs, cwd
 *     size
 *
 * Rules:
 * 1. A block is read as if anybody had written it: no count is believed beyond what the block has
 *    room for, every text ends inside, it is used to its last byte, and each number is in the
 *    range that launch_binding.c allows.
 * 2. Descriptors are named by their place among those that come along, so none can be named that
 *    did not.
 * 3. A death signal and a terminal are not in it: they are between a child and its parent.
 */

#include "launch_block.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAGIC = 0x316e696b, /* "kin1": its number changes with the layout */
    LARGEST = 64 << 20, /* of what execve(2) takes at most, 6 MiB, a multiple */
    PID_MAX = 1 << 22,
    NICEST = 40,
};

enum { NEW_SESSION = 1, SET_UID = 2, SET_GID = 4, HAS_GROUPS = 8, HAS_CGROUP = 16, HAS_CWD = 32 };

struct header {
    uint32_t magic, flags;
    uint32_t executables, argv, env, limits, descriptors, groups; /* how many */
    int32_t nice, process_group, umask;
    uint32_t uid, gid, zero;
    uint64_t blocked, ignored;
};

struct limit {
    int32_t resource, zero;
    uint64_t soft, hard;
};

/* ------------------------------------------------------------------------------- to write it */

static size_t
texts_size(char *const *texts, uint32_t *count)
{
    size_t size = 0;
    for (*count = 0; texts[*count] != NULL && size <= LARGEST; ++*count)
        size += strlen(texts[*count]) + 1;
    return size;
}

static size_t
text_size(const char *text)
{
    return text == NULL ? 0 : strlen(text) + 1;
}

static size_t
plan_groups(const struct kin_spawn *plan)
{
    return plan->group_count > 0 ? (size_t)plan->group_count : 0;
}

static size_t
arrays_size(size_t limits, size_t descriptors, size_t groups)
{
    return limits * sizeof(struct limit) + (descriptors + groups) * sizeof(uint32_t);
}

size_t
kin_block_size(const struct kin_spawn *plan)
{
    uint32_t unused;
    size_t size = sizeof(struct header);
    size += arrays_size(plan->limit_count, plan->descriptor_count, plan_groups(plan));
    size += texts_size(plan->executables, &unused);
    size += texts_size(plan->argv, &unused);
    size += texts_size(plan->envp, &unused);
    size += text_size(plan->cgroup_procs) + text_size(plan->cwd);
    return size <= LARGEST ? size : 0;
}

static void
put(unsigned char **at, const void *data, size_t size)
{
    memcpy(*at, data, size);
    *at += size;
}

static void
put_number(unsigned char **at, uint32_t number)
{
    put(at, &number, sizeof number);
}

static void
put_texts(unsigned char **at, char *const *texts)
{
    for (; *texts != NULL; texts++)
        put(at, *texts, strlen(*texts) + 1);
}

void
kin_block_write(const struct kin_spawn *plan, unsigned char *block)
{
    struct header header = {
        .magic = MAGIC,
        .flags = (plan->new_session ? NEW_SESSION : 0) | (plan->set_uid ? SET_UID : 0) |
                 (plan->set_gid ? SET_GID : 0) | (plan->group_count >= 0 ? HAS_GROUPS : 0) |
                 (plan->cgroup_procs != NULL ? HAS_CGROUP : 0) | (plan->cwd != NULL ? HAS_CWD : 0),
        .limits = (uint32_t)plan->limit_count,
        .descriptors = (uint32_t)plan->descriptor_count,
        .groups = (uint32_t)plan_groups(plan),
        .nice = plan->nice,
        .process_group = plan->process_group,
        .umask = plan->umask,
        .uid = plan->uid,
        .gid = plan->gid,
        .blocked = plan->blocked,
        .ignored = plan->ignored,
    };
    texts_size(plan->executables, &header.executables);
    texts_size(plan->argv, &header.argv);
    texts_size(plan->envp, &header.env);
    put(&block, &header, sizeof header);
    for (size_t i = 0; i < plan->limit_count; i++) {
        const struct kin_spawn_limit *each = &plan->limits[i];
        struct limit limit = {each->resource, 0, each->limit.rlim_cur, each->limit.rlim_max};
        put(&block, &limit, sizeof limit);
    }
    for (size_t i = 0; i < plan->descriptor_count; i++)
        put_number(&block, (uint32_t)plan->descriptors[i].there);
    for (size_t i = 0; i < header.groups; i++)
        put_number(&block, plan->groups[i]);
    put_texts(&block, plan->executables);
    put_texts(&block, plan->argv);
    put_texts(&block, plan->envp);
    if (plan->cgroup_procs != NULL)
        put(&block, plan->cgroup_procs, strlen(plan->cgroup_procs) + 1);
    if (plan->cwd != NULL)
        put(&block, plan->cwd, strlen(plan->cwd) + 1);
}

/* -------------------------------------------------------------------------------- to read it */

/* What is left of a block. */
struct rest {
    const unsigned char *at, *end;
};

/* The next text, which lies in the block; NULL when it does not end there. */
static char *
next_text(struct rest *rest)
{
    char *text = (char *)(uintptr_t)rest->at;
    const unsigned char *zero =
        rest->at == rest->end ? NULL : memchr(rest->at, 0, (size_t)(rest->end - rest->at));
    if (zero == NULL)
        return NULL;
    rest->at = zero + 1;
    return text;
}

/* Their addresses, and a NULL; where the next array begins, or NULL. */
static char **
next_texts(struct rest *rest, char **array, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if ((array[i] = next_text(rest)) == NULL)
            return NULL;
    array[count] = NULL;
    return array + count + 1;
}

static void
take(struct rest *rest, void *data, size_t size)
{
    memcpy(data, rest->at, size);
    rest->at += size;
}

static bool
within(int64_t number, int64_t low, int64_t high)
{
    return low <= number && number <= high;
}

static bool
sensible(const struct header *header, size_t left, size_t descriptor_count)
{
    /* The least that each takes; the counts have 32 bits, so the sum can't overflow. */
    uint64_t least = (uint64_t)header->executables + header->argv + header->env;
    least += (uint64_t)header->limits * sizeof(struct limit);
    least += ((uint64_t)header->descriptors + header->groups) * sizeof(uint32_t);
    return least <= left && header->executables > 0 && header->argv > 0 &&
           header->descriptors <= descriptor_count && within(header->nice, -NICEST, NICEST) &&
           within(header->process_group, -1, PID_MAX) && within(header->umask, -1, 0777);
}

static bool
read_arrays(struct kin_spawn *plan, const struct header *header, struct rest *rest,
            const int *descriptors, struct kin_spawn_limit *limits,
            struct kin_spawn_descriptor *pairs, gid_t *groups)
{
    for (uint32_t i = 0; i < header->limits; i++) {
        struct limit limit;
        take(rest, &limit, sizeof limit);
        limits[i] = (struct kin_spawn_limit){limit.resource, {limit.soft, limit.hard}};
    }
    for (uint32_t i = 0; i < header->descriptors; i++) {
        int32_t there;
        take(rest, &there, sizeof there);
        if (there < 0 || (i > 0 && there <= pairs[i - 1].there)) /* in ascending order */
            return false;
        pairs[i] = (struct kin_spawn_descriptor){.here = descriptors[i], .there = there};
    }
    for (uint32_t i = 0; i < header->groups; i++) {
        uint32_t group;
        take(rest, &group, sizeof group);
        groups[i] = group;
    }
    plan->limits = limits;
    plan->limit_count = header->limits;
    plan->descriptors = pairs;
    plan->descriptor_count = header->descriptors;
    plan->groups = groups;
    plan->group_count = header->flags & HAS_GROUPS ? (int)header->groups : -1;
    return true;
}

static bool
read_texts(struct kin_spawn *plan, const struct header *header, struct rest *rest, char **texts)
{
    char **executables = texts, **argv, **envp;
    if ((argv = next_texts(rest, executables, header->executables)) == NULL ||
        (envp = next_texts(rest, argv, header->argv)) == NULL ||
        next_texts(rest, envp, header->env) == NULL)
        return false;
    plan->executables = executables;
    plan->argv = argv;
    plan->envp = envp;
    if (header->flags & HAS_CGROUP && (plan->cgroup_procs = next_text(rest)) == NULL)
        return false;
    if (header->flags & HAS_CWD && (plan->cwd = next_text(rest)) == NULL)
        return false;
    return rest->at == rest->end;
}

int
kin_block_read(struct kin_block_plan *read, const unsigned char *block, size_t size,
               const int *descriptors, size_t descriptor_count)
{
    struct header header;
    struct rest rest = {block, block + size};
    memset(read, 0, sizeof *read);
    if (size < sizeof header || size > LARGEST)
        return EPROTO;
    take(&rest, &header, sizeof header);
    if (header.magic != MAGIC || !sensible(&header, size - sizeof header, descriptor_count))
        return EPROTO;

    /* In the order of their alignment. */
    size_t texts = (size_t)header.executables + header.argv + header.env + 3;
    size_t limits_at = texts * sizeof(char *);
    size_t pairs_at = limits_at + header.limits * sizeof(struct kin_spawn_limit);
    size_t groups_at = pairs_at + header.descriptors * sizeof(struct kin_spawn_descriptor);
    char *room = read->room = malloc(groups_at + header.groups * sizeof(gid_t));
    if (room == NULL)
        return ENOMEM;
    struct kin_spawn *plan = &read->plan;
    plan->nice = header.nice;
    plan->process_group = header.process_group;
    plan->umask = header.umask;
    plan->terminal = -1;
    plan->new_session = (header.flags & NEW_SESSION) != 0;
    plan->set_uid = (header.flags & SET_UID) != 0;
    plan->set_gid = (header.flags & SET_GID) != 0;
    plan->uid = header.uid;
    plan->gid = header.gid;
    plan->blocked = header.blocked;
    plan->ignored = header.ignored;
    return read_arrays(plan, &header, &rest, descriptors, (void *)(room + limits_at),
                       (void *)(room + pairs_at), (void *)(room + groups_at)) &&
                   read_texts(plan, &header, &rest, (char **)(void *)room)
               ? 0
               : EPROTO;
}

void
kin_block_release(struct kin_block_plan *read)
{
    free(read->room);
}
