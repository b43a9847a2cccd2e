/* What goes to a keeper, read back: test_launch_block.py compiles and runs it under the sanitizers.
 *
 *     launch_block_test WHAT ROUNDS
 *
 *     whole     a plan comes back as it was
 *     damaged   a block that was cut or altered anywhere is refused, or read within its bounds
 *     packets   the same of the packet around it
 *
 * Each block lies in memory of exactly its size, so that a byte read too far is seen. Ends with 0, or
 * a sentence and 1.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keeper_wire.h"
#include "launch_block.h"

#define CHECK(condition)                                                                        \
    do                                                                                          \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                             \
            exit(1);                                                                            \
        }                                                                                       \
    while (0)

enum { DESCRIPTORS = 3 };

static const int numbers[DESCRIPTORS] = {7, 8, 9};

static char *executables[] = {"/bin/a", "/usr/bin/a", NULL};
static char *argv[] = {"a", "", "two words", NULL};
static char *envp[] = {"PATH=/bin", "EMPTY=", NULL};
static struct kin_spawn_limit limits[] = {
    {RLIMIT_NOFILE, {10, RLIM_INFINITY}},
    {RLIMIT_CORE, {0, 0}},
};
static const gid_t groups[] = {4, 0xfffffffe};

static struct kin_spawn
plan_of(struct kin_spawn_descriptor *pairs)
{
    for (int i = 0; i < DESCRIPTORS; i++)
        pairs[i] = (struct kin_spawn_descriptor){.here = 100 + i, .there = 5 * i};
    return (struct kin_spawn){
        .executables = executables,
        .argv = argv,
        .envp = envp,
        .cgroup_procs = "/sys/fs/cgroup/x/cgroup.procs",
        .cwd = "/tmp",
        .descriptors = pairs,
        .descriptor_count = DESCRIPTORS,
        .limits = limits,
        .limit_count = 2,
        .groups = groups,
        .group_count = 2,
        .nice = -3,
        .process_group = 4711,
        .umask = 027,
        .terminal = -1,
        .new_session = true,
        .set_uid = true,
        .uid = 12,
        .set_gid = true,
        .gid = 0xfffffffe,
        .blocked = 1ULL << 63,
        .ignored = 5,
    };
}

static unsigned char *
block_of(const struct kin_spawn *plan, size_t *size)
{
    *size = kin_block_size(plan);
    unsigned char *block = malloc(*size);
    CHECK(*size > 0 && block != NULL);
    kin_block_write(plan, block);
    return block;
}

static void
same_texts(char *const *one, char *const *other)
{
    for (; *one != NULL && *other != NULL; one++, other++)
        CHECK(strcmp(*one, *other) == 0);
    CHECK(*one == NULL && *other == NULL);
}

static void
whole(void)
{
    struct kin_spawn_descriptor pairs[DESCRIPTORS];
    struct kin_spawn plan = plan_of(pairs);
    struct kin_block_plan read;
    size_t size;
    unsigned char *block = block_of(&plan, &size);
    CHECK(kin_block_read(&read, block, size, numbers, DESCRIPTORS) == 0);
    const struct kin_spawn *found = &read.plan;
    same_texts(found->executables, executables);
    same_texts(found->argv, argv);
    same_texts(found->envp, envp);
    CHECK(strcmp(found->cgroup_procs, plan.cgroup_procs) == 0 && strcmp(found->cwd, "/tmp") == 0);
    CHECK(found->descriptor_count == DESCRIPTORS && found->limit_count == 2);
    for (int i = 0; i < DESCRIPTORS; i++)
        CHECK(found->descriptors[i].here == numbers[i] && found->descriptors[i].there == 5 * i);
    for (int i = 0; i < 2; i++) {
        CHECK(found->limits[i].resource == limits[i].resource);
        CHECK(memcmp(&found->limits[i].limit, &limits[i].limit, sizeof(struct rlimit)) == 0);
        CHECK(found->groups[i] == groups[i]);
    }
    CHECK(found->group_count == 2 && found->nice == -3 && found->process_group == 4711);
    CHECK(found->umask == 027 && found->new_session && found->set_uid && found->set_gid);
    CHECK(found->uid == 12 && found->gid == 0xfffffffe && found->blocked == 1ULL << 63);
    CHECK(found->ignored == 5 && found->ignored_as_here == 0);
    CHECK(found->terminal == -1 && found->death_signal == 0);
    kin_block_release(&read);

    /* One descriptor has not come along. */
    CHECK(kin_block_read(&read, block, size, numbers, DESCRIPTORS - 1) == EPROTO);
    kin_block_release(&read);
    free(block);

    plan = (struct kin_spawn){
        .executables = executables, .argv = argv, .envp = argv + 3, .group_count = -1,
        .process_group = -1, .umask = -1, .terminal = -1,
    };
    block = block_of(&plan, &size);
    CHECK(kin_block_read(&read, block, size, NULL, 0) == 0);
    CHECK(read.plan.envp[0] == NULL && read.plan.cwd == NULL && read.plan.cgroup_procs == NULL);
    CHECK(read.plan.group_count == -1 && read.plan.process_group == -1 && read.plan.umask == -1);
    kin_block_release(&read);
    free(block);
}

/* Touches everything, so that a sanitizer sees what lies outside. */
static size_t
touch(const struct kin_spawn *plan)
{
    size_t sum = 0;
    char *const *const lists[] = {plan->executables, plan->argv, plan->envp};
    for (int i = 0; i < 3; i++)
        for (char *const *text = lists[i]; *text != NULL; text++)
            sum += strlen(*text);
    sum += plan->cwd == NULL ? 0 : strlen(plan->cwd);
    sum += plan->cgroup_procs == NULL ? 0 : strlen(plan->cgroup_procs);
    for (size_t i = 0; i < plan->limit_count; i++)
        sum += (size_t)plan->limits[i].limit.rlim_cur;
    for (int i = 0; i < plan->group_count; i++)
        sum += plan->groups[i];
    CHECK(plan->executables[0] != NULL && plan->argv[0] != NULL);
    CHECK(plan->descriptor_count <= DESCRIPTORS);
    for (size_t i = 0; i < plan->descriptor_count; i++) {
        CHECK(plan->descriptors[i].here == numbers[i]);
        CHECK(plan->descriptors[i].there > (i == 0 ? -1 : plan->descriptors[i - 1].there));
    }
    CHECK(-40 <= plan->nice && plan->nice <= 40 && plan->umask <= 0777);
    return sum;
}

/* Whether it was taken. */
static bool
try(const unsigned char *block, size_t size)
{
    struct kin_block_plan read;
    unsigned char *exact = malloc(size > 0 ? size : 1);
    CHECK(exact != NULL);
    memcpy(exact, block, size);
    int error = kin_block_read(&read, exact, size, numbers, DESCRIPTORS);
    CHECK(error == 0 || error == EPROTO);
    static volatile size_t sink;
    if (error == 0)
        sink += touch(&read.plan);
    kin_block_release(&read);
    free(exact);
    return error == 0;
}

static void
damaged(int rounds)
{
    struct kin_spawn_descriptor pairs[DESCRIPTORS];
    struct kin_spawn plan = plan_of(pairs);
    size_t size;
    unsigned char *block = block_of(&plan, &size), *copy = malloc(size + 8);
    CHECK(copy != NULL);
    memset(copy, 0, size + 8);
    memcpy(copy, block, size);
    for (size_t length = 0; length < size; length++)
        CHECK(!try(block, length));
    for (size_t more = 1; more <= 8; more++)
        CHECK(!try(copy, size + more));
    for (size_t at = 0; at < size; at++)
        for (int value = 0; value < 256; value++) {
            copy[at] = (unsigned char)value;
            try(copy, size);
            copy[at] = block[at];
        }
    static const uint32_t nasty[] = {0, 1, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, 0x10000};
    for (int round = 0; round < rounds; round++) {
        memcpy(copy, block, size);
        for (int changes = 1 + rand() % 4; changes > 0; changes--) {
            uint32_t value = rand() % 2 ? nasty[rand() % 7] : (uint32_t)rand() % 64;
            size_t at = (size_t)rand() % (rand() % 2 ? size - 3 : 76);
            memcpy(copy + at / 4 * 4, &value, sizeof value);
        }
        try(copy, rand() % 4 ? size : (size_t)rand() % size);
    }
    free(block);
    free(copy);
}

static void
packets(int rounds)
{
    unsigned char whole_packet[] = {0x93, 0, 0xcd, 1, 2, 0xc4, 3, 'a', 'b', 'c'};
    const unsigned char *block;
    uint64_t number;
    size_t size;
    CHECK(kin_wire_is_program(whole_packet, sizeof whole_packet, &number, &block, &size));
    CHECK(number == 0x102 && size == 3 && memcmp(block, "abc", 3) == 0);
    for (int round = 0; round < rounds; round++) {
        size_t length = (size_t)rand() % (sizeof whole_packet + 1);
        unsigned char *packet = malloc(length > 0 ? length : 1);
        CHECK(packet != NULL);
        memcpy(packet, whole_packet, length);
        for (int changes = rand() % 3; changes > 0 && length > 0; changes--)
            packet[(size_t)rand() % length] =
                (unsigned char)(rand() % 2 ? 0xc0 + rand() % 16 : rand());
        if (kin_wire_is_program(packet, length, &number, &block, &size))
            CHECK(block + size == packet + length && block > packet);
        free(packet);
    }
}

int
main(int argc, char **arguments)
{
    CHECK(argc == 3);
    int rounds = atoi(arguments[2]);
    srand(4711);
    if (strcmp(arguments[1], "whole") == 0)
        whole();
    else if (strcmp(arguments[1], "damaged") == 0)
        damaged(rounds);
    else
        packets(rounds);
    return 0;
}
