/* A kinfolk.processes.launch.Launch as the plan of spawn.c. See launch_binding.c. */

#ifndef KIN_LAUNCH_BINDING_H
#define KIN_LAUNCH_BINDING_H

#include <Python.h>

#include <stdbool.h>

#include "spawn.h"

struct kin_launch {
    struct kin_spawn plan;
    PyObject *kept; /* the objects whose insides the plan points to */
    char **executables, **argv, **envp;
    char *cgroup_procs;
    struct kin_spawn_limit *limits;
    gid_t *groups;
};

/* Without an env, that of this process. False with an exception set. To be released in any case. */
bool kin_launch_read(struct kin_launch *launch, PyObject *object);

/* For kin_spawn_become: all but the program and its environment. */
bool kin_launch_read_state(struct kin_launch *launch, PyObject *object);

void kin_launch_release(struct kin_launch *launch);

#endif
