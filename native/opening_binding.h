/* Opening an object of kinfolk.sync, while somebody else may be making it. See opening_binding.c. */

#ifndef KIN_OPENING_BINDING_H
#define KIN_OPENING_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>

#include "sync_object.h"

/* Whether to open again: Python's signal handlers have run, and raised nothing. */
bool kin_opening_goes_on(enum kin_finding found);

/* What `_open` returns; NULL after KIN_INTERRUPTED, of which the exception is set. */
PyObject *kin_opening_found(enum kin_finding found);

/* What `_repair` does with its arguments (buffer, offset): has it repaired, if it is of another boot, by a function that
 * looks whether it is. */
PyObject *kin_opening_repair(PyObject *arguments, void (*repair)(void *memory, size_t room));

#endif
