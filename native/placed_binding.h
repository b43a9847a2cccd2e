/* Where in a Python buffer an object of kinfolk.sync lies. See placed_binding.c. */

#ifndef KIN_PLACED_BINDING_H
#define KIN_PLACED_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../include/kinfolk.h" /* enum kin_finding: what may be found there */

struct kin_placed {
    Py_buffer view; /* keeps the memory mapped until kin_unplace */
    void *memory;
    size_t room; /* bytes from there to its end; 0 for a place outside */
};

/* A writable buffer, and an offset in it. 0, or -1 with an exception set. */
int kin_place(struct kin_placed *placed, PyObject *buffer, Py_ssize_t offset);

void kin_unplace(struct kin_placed *placed);

#endif
