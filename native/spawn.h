/* Starting a program without copying the starter. See spawn.c. */

#ifndef KIN_SPAWN_H
#define KIN_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/types.h>

/* What can fail before the program begins, in this order. */
enum kin_spawn_step {
    KIN_SPAWN_VFORK,
    KIN_SPAWN_NEW_SESSION,
    KIN_SPAWN_PROCESS_GROUP,
    KIN_SPAWN_TERMINAL,
    KIN_SPAWN_CGROUP,
    KIN_SPAWN_DESCRIPTORS,
    KIN_SPAWN_RLIMITS,
    KIN_SPAWN_NICE,
    KIN_SPAWN_GROUPS,
    KIN_SPAWN_GID,
    KIN_SPAWN_UID,
    KIN_SPAWN_CWD,
    KIN_SPAWN_DEATH_SIGNAL,
    KIN_SPAWN_EXECUTABLES,
};

struct kin_spawn_descriptor {
    int here;     /* its number in the starter; changed while descriptors are sorted */
    int there;    /* its number in the child: no two alike, in ascending order */
    bool pending; /* used while they are sorted: not yet in its place */
};

struct kin_spawn_limit {
    int resource;
    struct rlimit limit;
};

struct kin_spawn {
    char *const *executables; /* tried in order, ends with NULL; NULL for kin_spawn_become */
    char *const *argv;
    char *const *envp;
    const char *cgroup_procs; /* the path of a cgroup.procs; NULL: stay */
    const char *cwd;          /* NULL: stay */
    struct kin_spawn_descriptor *descriptors;
    size_t descriptor_count;
    const struct kin_spawn_limit *limits;
    size_t limit_count;
    const gid_t *groups;
    int group_count;     /* -1: keep them */
    int nice;            /* is added; 0: keep */
    int process_group;   /* 0: a new one; -1: stay */
    int umask;           /* -1: keep */
    int terminal;        /* a descriptor in the starter; -1: none */
    int death_signal;    /* 0: none */
    bool new_session;
    bool set_uid, set_gid;
    uid_t uid;
    gid_t gid;
    const unsigned long *cpus; /* of sched_setaffinity(2); NULL: those of the starter */
    size_t cpus_size;
    unsigned long long blocked; /* bit n-1: signal n is blocked in the child */
    /* Likewise: it is ignored in the child; it is, if the starter ignores it. All others are at their
     * default. */
    unsigned long long ignored, ignored_as_here;
};

/* The field of a kinfolk.processes.launch.Launch that it is about, or "vfork". */
const char *kin_spawn_step_name(enum kin_spawn_step step);

/* Written by the child into the memory of its starter. */
struct kin_spawn_failure {
    volatile int error; /* an errno; 0: none */
    volatile enum kin_spawn_step step;
    volatile int item; /* which limit or executable, or which number in the child; else 0 */
};

/* Everything of a plan but signals' actions, CPUs and execve, in this very process, which is a fork
 * of `parent`, has one thread, and goes on as it is: what is not listed stays open, and of what is
 * only the number `there`. False with *failure written; then the process is good for nothing but its
 * end. `plan->descriptors` is used up. */
bool kin_spawn_become(const struct kin_spawn *plan, struct kin_spawn_failure *failure,
                      pid_t parent);

/* Returns once the program has begun or failed to. The pid, or -1 with *failure written; then no
 * process is left. The caller has to wait for it. `plan->descriptors` is used up. */
pid_t kin_spawn(const struct kin_spawn *plan, struct kin_spawn_failure *failure);

/* The same by a thread that is made for it and ends when the child has ended, unless the calling
 * one is the main thread, which lives as long as the process: for death signals. */
pid_t kin_spawn_lasting(const struct kin_spawn *plan, struct kin_spawn_failure *failure);

#endif
