/* What the types of kinfolk.sync have in common. See object_binding.c. */

#ifndef KIN_OBJECT_BINDING_H
#define KIN_OBJECT_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

/* Raises what an errno of the core means to its user, by `_refused(errno, timeout)` of the subclass; `timeout` may be
 * NULL. An exception that is set already stays. NULL, always. */
PyObject *kin_refuse(PyObject *object, int error, PyObject *timeout);

/* The threads of this process that sleep by an object; all zero at first. With the GIL. */
struct kin_sleepers {
    int count;
    uint32_t forks; /* … of the process that has this count */
};

/* What `leave` takes: in a child that was forked meanwhile, it leaves nothing. */
uint32_t kin_sleepers_enter(struct kin_sleepers *sleepers);
void kin_sleepers_leave(struct kin_sleepers *sleepers, uint32_t entered);
bool kin_sleepers_any(const struct kin_sleepers *sleepers);

#endif
