/* The native side of a Mutex, for what waits by one. See mutex_binding.c. */

#ifndef KIN_MUTEX_BINDING_H
#define KIN_MUTEX_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include "mutex.h"
#include "object_binding.h"
#include "placed_binding.h"

/* What a robust list may point to: it outlives the object if need be. */
struct kin_mutex_opened {
    struct kin_mutex mutex;
    struct kin_placed placed;
};

struct kin_mutex_handle {
    PyObject_HEAD
    struct kin_mutex_opened *opened; /* NULL: closed */
    unsigned flags;
    struct kin_sleepers sleepers;
    bool lost; /* within the block of a `with`: it is not held any more */
};

/* Acquires it again, whatever signal handlers do meanwhile: what they raise is kept, with the one that was set before as its
 * context. It counts its sleepers. True: it is held. False: it can't be, for good; and an exception is set. */
bool kin_mutex_reacquire(struct kin_mutex_handle *self);

#endif
