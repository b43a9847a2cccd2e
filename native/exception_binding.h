/* An exception that is set aside, while something is done that may set another. See exception_binding.c. */

#ifndef KIN_EXCEPTION_BINDING_H
#define KIN_EXCEPTION_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

struct kin_exception {
    PyObject *kind, *value, *trace;
};

/* The one that is set, if any; none is set any more. */
struct kin_exception kin_set_aside(void);

/* Sets it again, or makes it the context of another that has been set since. */
void kin_set_again(struct kin_exception *first);

#endif
