/* What the types of a semaphore share. See semaphore_binding.c. */

#ifndef KIN_SEMAPHORE_BINDING_H
#define KIN_SEMAPHORE_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "object_binding.h"
#include "placed_binding.h"
#include "kin_semaphore.h"
#include "taking_binding.h"

struct kin_semaphore_handle {
    PyObject_HEAD
    struct kin_semaphore core; /* its state is NULL: closed */
    struct kin_placed placed;
    PyObject *watcher; /* the capsule */
    struct kin_sleepers sleepers;
    struct kin_entered entered;
};

/* Around what may take longer: without the GIL, and so that nobody closes meanwhile. */
#define KIN_BEGIN_CALL(self)                                                                    \
    {                                                                                           \
        uint32_t entered_ = kin_sleepers_enter(&(self)->sleepers);                              \
        Py_BEGIN_ALLOW_THREADS
#define KIN_END_CALL(self)                                                                      \
        Py_END_ALLOW_THREADS                                                                    \
        kin_sleepers_leave(&(self)->sleepers, entered_);                                        \
    }

/* Else an exception is set. */
bool kin_semaphore_is_open(struct kin_semaphore_handle *semaphore);

/* A count from 1 to `most`; 0 with an exception set. */
uint32_t kin_semaphore_read_count(struct kin_semaphore_handle *semaphore, PyObject *count,
                                  uint32_t most);

/* As kin_semaphore_try. */
int kin_semaphore_try_here(struct kin_semaphore_handle *semaphore, uint32_t count);

/* Gives back so many: 0 or an errno; EINTR with an exception set, by a signal handler. */
int kin_semaphore_release_here(struct kin_semaphore_handle *semaphore, uint32_t count);

/* semaphore_look_binding.c */
PyObject *kin_semaphore_members(PyObject *semaphore, PyObject *unused);
extern PyGetSetDef kin_semaphore_attributes[];

#endif
