/* What the types over the kernel's semaphores share. See taking_binding.c. */

#ifndef KIN_TAKING_BINDING_H
#define KIN_TAKING_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

#include "heap_type_binding.h"
#include "sysv_wait.h"

struct kin_taking;

/* What differs between the kinds. */
struct kin_taking_kind {
    int (*attempt)(struct kin_taking *taking); /* without blocking: 0, EAGAIN, or an errno */
    int (*block)(struct kin_taking *taking, int milliseconds); /* without the GIL, as kin_sem_wait */
    void (*give_back)(struct kin_taking *taking);
};

/* How an object of such a type begins. */
struct kin_taking {
    PyObject_HEAD
    PyObject *semaphore; /* whose */
    const struct kin_taking_kind *kind;
    struct kin_wait wait;
    bool done;
};

extern PyMethodDef kin_taking_methods[];
extern PyGetSetDef kin_taking_attributes[];

/* All but the wait. */
void kin_taking_begin(struct kin_taking *taking, PyObject *semaphore,
                      const struct kin_taking_kind *kind);
void kin_taking_end(struct kin_taking *taking);

/* Whether a semaphore is of the type that has this name in the module of a taking's; else an exception is set. */
bool kin_taking_is_of(PyTypeObject *taking_type, PyObject *semaphore, const char *name);

/* A timeout argument: true for None, and for one that makes sense. Else an exception is set. */
bool kin_taking_timeout(PyObject *semaphore, PyObject *timeout);

/* Takes, waiting by the `_wait` of the semaphore's subclass. `taking` is stolen, and may be NULL with an exception set. False with one
 * set: nothing was taken, or it was given back. */
bool kin_take(PyObject *semaphore, PyObject *taking, PyObject *timeout);

/* `with` blocks that this process has entered: what a forked child leaves were its parent's. */
struct kin_entered {
    uint32_t forks; /* of the process that has this count */
    unsigned count;
};

void kin_entered_add(struct kin_entered *entered);

/* False: this process entered none. */
bool kin_entered_remove(struct kin_entered *entered);

#endif
