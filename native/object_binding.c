/* What the types of kinfolk.sync have in common: errors that the subclass in Python words, and threads that sleep by
 * them, so that nobody closes what is slept on. A forked child has none of its parent's.
 */

#include "object_binding.h"

#include "robust.h"

PyObject *
kin_refuse(PyObject *object, int error, PyObject *timeout)
{
    if (PyErr_Occurred())
        return NULL;
    PyObject *result =
        PyObject_CallMethod(object, "_refused", "iO", error, timeout ? timeout : Py_None);
    if (result != NULL) {
        Py_DECREF(result);
        PyErr_SetString(PyExc_SystemError, "_refused has to raise");
    }
    return NULL;
}

uint32_t
kin_sleepers_enter(struct kin_sleepers *sleepers)
{
    if (!kin_sleepers_any(sleepers))
        *sleepers = (struct kin_sleepers){.forks = kin_robust_forks()};
    sleepers->count++;
    return sleepers->forks;
}

void
kin_sleepers_leave(struct kin_sleepers *sleepers, uint32_t entered)
{
    if (sleepers->forks == entered)
        sleepers->count--;
}

bool
kin_sleepers_any(const struct kin_sleepers *sleepers)
{
    return sleepers->count > 0 && sleepers->forks == kin_robust_forks();
}
