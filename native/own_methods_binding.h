/* For types that are subclassed in Python, and called often. See own_methods_binding.c. */

#ifndef KIN_OWN_METHODS_BINDING_H
#define KIN_OWN_METHODS_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* What __init_subclass__ of such a type does: gives the subclass those of the methods that are named
 * in `often`, which ends with NULL, as its own. None, or NULL with an exception set. */
PyObject *kin_own_methods(PyObject *subclass, PyMethodDef *methods, const char *const *often);

#endif
