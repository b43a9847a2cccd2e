/* An exception that is set aside, and comes back as `raise` in an `except` block would have it: as the context of a later one. */

#include "exception_binding.h"

struct kin_exception
kin_set_aside(void)
{
    struct kin_exception one;
    PyErr_Fetch(&one.kind, &one.value, &one.trace);
    return one;
}

void
kin_set_again(struct kin_exception *first)
{
    if (!PyErr_Occurred() || first->kind == NULL) {
        if (first->kind != NULL)
            PyErr_Restore(first->kind, first->value, first->trace);
        return;
    }
    struct kin_exception second = kin_set_aside();
    PyErr_NormalizeException(&first->kind, &first->value, &first->trace);
    PyErr_NormalizeException(&second.kind, &second.value, &second.trace);
    if (first->trace != NULL)
        PyException_SetTraceback(first->value, first->trace);
    PyException_SetContext(second.value, Py_NewRef(first->value));
    PyErr_Restore(second.kind, second.value, second.trace);
    Py_DECREF(first->kind);
    Py_DECREF(first->value);
    Py_XDECREF(first->trace);
}
