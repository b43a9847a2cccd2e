/* `timeout=` of methods of C: one meaning everywhere, that of kinfolk.deadlines. */

#include "timeout_binding.h"

#include <math.h>

#define LONGEST 1e10 /* seconds, some centuries; as in deadlines.py */

enum { SECOND = 1000000000 };

PyObject *
kin_timeout_among(const char *method, PyObject *const *arguments, Py_ssize_t count,
                  PyObject *names)
{
    Py_ssize_t named = names == NULL ? 0 : PyTuple_Size(names);
    if (count + named == 0)
        return Py_None;
    if (count + named > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes one argument, timeout", method);
        return NULL;
    }
    if (named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "timeout") != 0) {
        PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", method,
                     PyTuple_GetItem(names, 0));
        return NULL;
    }
    return arguments[0];
}

bool
kin_read_timeout(PyObject *timeout, struct timespec *deadline)
{
    double seconds = PyFloat_AsDouble(timeout);
    if (PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_Exception)) /* and no Ctrl-C */
            PyErr_Clear();
        return false;
    }
    if (!(seconds >= 0) || isinf(seconds))
        return false;
    if (seconds > LONGEST)
        seconds = LONGEST;
    clock_gettime(CLOCK_MONOTONIC, deadline);
    double whole = floor(seconds);
    deadline->tv_sec += (time_t)whole;
    deadline->tv_nsec += (long)((seconds - whole) * SECOND);
    if (deadline->tv_nsec >= SECOND) {
        deadline->tv_nsec -= SECOND;
        deadline->tv_sec++;
    }
    return true;
}
