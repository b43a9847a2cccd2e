/* `timeout=` of methods of C: one meaning everywhere, that of kinfolk.deadlines. */

#ifndef KIN_TIMEOUT_BINDING_H
#define KIN_TIMEOUT_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <time.h>

/* The one argument of a METH_FASTCALL | METH_KEYWORDS method, `timeout`, by position or name: borrowed, and None
 * when it was not given. NULL with a TypeError set for any other. */
PyObject *kin_timeout_among(const char *method, PyObject *const *arguments, Py_ssize_t count,
                            PyObject *names);

/* A deadline on CLOCK_MONOTONIC, so many seconds from now. False for what is no number, negative or not finite; an
 * exception is set only where reading it was interrupted. The number may be an object, whose methods do anything: whether
 * something is open is looked at afterwards. */
bool kin_read_timeout(PyObject *timeout, struct timespec *deadline);

#endif
