/* An exception that is set aside. See aside_binding.c. */

#ifndef KIN_ASIDE_BINDING_H
#define KIN_ASIDE_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

struct kin_exception {
    PyObject *kind, *value, *trace;
};

/* Takes the one that is set, if there is one: afterwards none is. */
struct kin_exception kin_set_aside(void);

/* Sets the first one again, or makes it the context of another that has been set since. */
void kin_set_again(struct kin_exception *first);

#endif
