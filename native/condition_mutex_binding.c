/* The mutex of a Condition: its methods that are the mutex's.
 *
 * In C, as those of the mutex are: so no signal handler comes between an acquire and the block of a `with`, and what it raises finds
 * the mutex either free or inside the block.
 */

#include "condition_binding.h"

#include <errno.h>

#include "timeout_binding.h"

PyObject *
kin_condition_acquire(PyObject *object, PyObject *const *arguments, Py_ssize_t count,
                      PyObject *names)
{
    struct kin_condition_handle *self = (struct kin_condition_handle *)object;
    PyObject *timeout = kin_timeout_among("acquire", arguments, count, names);
    if (timeout == NULL || !kin_condition_is_joined(self, timeout) || kin_condition_mutex(self) == NULL)
        return NULL;
    return PyObject_CallMethod((PyObject *)self->mutex, "acquire", "O", timeout);
}

PyObject *
kin_condition_release(PyObject *object, PyObject *unused)
{
    struct kin_condition_handle *self = (struct kin_condition_handle *)object;
    (void)unused;
    if (kin_condition_mutex(self) == NULL)
        return NULL;
    return PyObject_CallMethod((PyObject *)self->mutex, "release", NULL);
}

PyObject *
kin_condition_enter_within(PyObject *object, PyObject *timeout)
{
    struct kin_condition_handle *self = (struct kin_condition_handle *)object;
    if (!kin_condition_is_joined(self, timeout) || kin_condition_mutex(self) == NULL)
        return NULL;
    return PyObject_CallMethod((PyObject *)self->mutex, "_enter", "O", timeout);
}

PyObject *
kin_condition_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    return kin_condition_enter_within(object, Py_None);
}

PyObject *
kin_condition_exit(PyObject *object, PyObject *exception)
{
    struct kin_condition_handle *self = (struct kin_condition_handle *)object;
    if (self->mutex == NULL)
        return kin_refuse(object, EBADF, NULL);
    PyObject *leave = PyObject_GetAttrString((PyObject *)self->mutex, "__exit__");
    PyObject *result = leave == NULL ? NULL : PyObject_Call(leave, exception, NULL);
    Py_XDECREF(leave);
    return result;
}
