/* The arguments of methods of C that are called often. See arguments_binding.c. */

#ifndef KIN_ARGUMENTS_BINDING_H
#define KIN_ARGUMENTS_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

/* Those of a METH_FASTCALL | METH_KEYWORDS method, by position or by the names `expected`, of which there are `most`:
 * borrowed, into `values`, which are NULL before. False with a TypeError set. */
bool kin_read_arguments(const char *method, const char *const *expected, Py_ssize_t most,
                        PyObject **values, PyObject *const *arguments, Py_ssize_t count,
                        PyObject *names);

/* A whole number, cut to what a long long holds, or LLONG_MIN for what is none: so whoever asks refuses all alike that are
 * too small or too large. For "O&", too. 0 with an exception set, of an object's own. */
int kin_read_number(PyObject *object, void *number);

#endif
