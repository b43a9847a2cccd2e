/* The arguments of methods of C that are called often, and mostly without any. */

#include "arguments_binding.h"

#include <limits.h>

bool
kin_read_arguments(const char *method, const char *const *expected, Py_ssize_t most,
                   PyObject **values, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    Py_ssize_t named = names == NULL ? 0 : PyTuple_Size(names);
    if (count > most) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd arguments", method, most);
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        values[i] = arguments[i];
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GetItem(names, i);
        Py_ssize_t which = 0;
        while (which < most && PyUnicode_CompareWithASCIIString(name, expected[which]) != 0)
            which++;
        if (which == most || values[which] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected or repeated argument '%U'",
                         method, name);
            return false;
        }
        values[which] = arguments[count + i];
    }
    return true;
}

int
kin_read_number(PyObject *object, void *number)
{
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (value == -1 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_TypeError))
            return 0;
        PyErr_Clear();
        value = LLONG_MIN;
    }
    if (overflow != 0)
        value = overflow < 0 ? LLONG_MIN : LLONG_MAX;
    *(long long *)number = value;
    return 1;
}
