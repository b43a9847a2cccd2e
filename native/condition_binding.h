/* What the files of a Condition share. See condition_binding.c. */

#ifndef KIN_CONDITION_BINDING_H
#define KIN_CONDITION_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include "condition.h"
#include "mutex_binding.h"
#include "object_binding.h"
#include "placed_binding.h"

struct kin_condition_handle {
    PyObject_HEAD
    struct kin_condition core; /* its state is NULL: closed */
    struct kin_placed placed;
    PyObject *watcher; /* the capsule */
    struct kin_mutex_handle *mutex; /* NULL as long as `_use` was not called */
    struct kin_sleepers sleepers;
};

/* Its mutex; NULL with an exception set when one of them is closed. */
struct kin_mutex *kin_condition_mutex(struct kin_condition_handle *self);

/* True if this process is a member, by now; else an exception is set, also at the end of `timeout`, as of `acquire`. */
bool kin_condition_is_joined(struct kin_condition_handle *self, PyObject *timeout);

/* Methods, of condition_mutex_binding.c. */
PyObject *kin_condition_acquire(PyObject *object, PyObject *const *arguments, Py_ssize_t count,
                                PyObject *names);
PyObject *kin_condition_release(PyObject *object, PyObject *unused);
PyObject *kin_condition_enter_within(PyObject *object, PyObject *timeout);
PyObject *kin_condition_enter(PyObject *object, PyObject *unused);
PyObject *kin_condition_exit(PyObject *object, PyObject *exception);

#endif
