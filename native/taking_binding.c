/* Taking from a semaphore of the kernel's, by PosixSemaphore and SysvSemaphore.
 *
 *     Taking          one call that takes; what may wait for it is its BlockingCall (kinfolk.helper_threads)
 *       .attempt()    -> True: it has taken
 *       .block(ms)    blocks, None: for ever; -> True: it has taken
 *       .wake()       ends that in another thread
 *       .done         whether it has taken
 *       .give_back()  what it took, if it did; then it did not
 *
 *      acquire, __enter__ ── there at once? ───────────────────────────────────────────> taken
 *              │ no                                                                         ▲
 *              └──> _wait(taking, timeout), in Python: steps, deadlines, closing ── returns ┘
 *                       └── raises: what was taken meanwhile is given back ───────────────> not taken
 *
 * Rule: between what takes and what returns to the caller there is no Python, whose signal handlers may raise at any
 * instruction; or else it is given back. So who gets a KeyboardInterrupt from `with semaphore:` has taken nothing.
 */

#include "taking_binding.h"

#include <errno.h>
#include <limits.h>

#include "object_binding.h"
#include "robust.h"
#include "timeout_binding.h"

/* --------------------------------------------------------------------------------- its methods */

void
kin_taking_begin(struct kin_taking *taking, PyObject *semaphore,
                 const struct kin_taking_kind *kind)
{
    taking->semaphore = Py_NewRef(semaphore);
    taking->kind = kind;
}

bool
kin_taking_is_of(PyTypeObject *taking_type, PyObject *semaphore, const char *name)
{
    PyObject *module = PyType_GetModule(taking_type);
    PyObject *type = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    int is = type == NULL ? -1 : PyObject_IsInstance(semaphore, type);
    Py_XDECREF(type);
    if (is == 0)
        PyErr_Format(PyExc_TypeError, "a %s is wanted", name);
    return is == 1;
}

void
kin_taking_end(struct kin_taking *taking)
{
    Py_XDECREF(taking->semaphore);
}

static PyObject *
taking_attempt(PyObject *object, PyObject *unused)
{
    struct kin_taking *self = (struct kin_taking *)object;
    (void)unused;
    if (self->done)
        Py_RETURN_TRUE;
    int error = self->kind->attempt(self);
    self->done = error == 0;
    if (error != 0 && error != EAGAIN)
        return kin_refuse(self->semaphore, error, NULL);
    return PyBool_FromLong(self->done);
}

static PyObject *
taking_block(PyObject *object, PyObject *patience)
{
    struct kin_taking *self = (struct kin_taking *)object;
    long milliseconds = KIN_WAIT_FOREVER;
    if (patience != Py_None) {
        milliseconds = PyLong_AsLong(patience);
        if (PyErr_Occurred())
            return NULL;
        milliseconds = milliseconds > INT_MAX ? INT_MAX : milliseconds;
    }
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = self->kind->block(self, (int)milliseconds);
    Py_END_ALLOW_THREADS
    self->done = result == KIN_WAIT_DONE;
    if (result < 0)
        return kin_refuse(self->semaphore, -result, NULL);
    /* What was taken is told first. */
    if (!self->done && PyErr_CheckSignals() < 0)
        return NULL;
    return PyBool_FromLong(self->done);
}

static PyObject *
taking_wake(PyObject *object, PyObject *unused)
{
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    kin_wait_wake(&((struct kin_taking *)object)->wait);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static void
give_back(struct kin_taking *taking)
{
    if (taking->done) {
        taking->done = false;
        taking->kind->give_back(taking);
    }
}

static PyObject *
taking_give_back(PyObject *object, PyObject *unused)
{
    (void)unused;
    give_back((struct kin_taking *)object);
    Py_RETURN_NONE;
}

static PyObject *
taking_done(PyObject *object, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((struct kin_taking *)object)->done);
}

PyMethodDef kin_taking_methods[] = {
    {"attempt", taking_attempt, METH_NOARGS, PyDoc_STR("Take, if it can be had now.")},
    {"block", taking_block, METH_O, PyDoc_STR("Block until it is taken, woken, or out of time.")},
    {"wake", taking_wake, METH_NOARGS, PyDoc_STR("End the blocking in another thread.")},
    {"give_back", taking_give_back, METH_NOARGS, PyDoc_STR("Give back what was taken.")},
    {NULL, NULL, 0, NULL},
};

PyGetSetDef kin_taking_attributes[] = {
    {"done", taking_done, NULL, PyDoc_STR("Whether it was taken."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* ------------------------------------------------------------------------------------- taking */

bool
kin_taking_timeout(PyObject *semaphore, PyObject *timeout)
{
    struct timespec deadline;
    if (timeout == Py_None || kin_read_timeout(timeout, &deadline))
        return true;
    return kin_refuse(semaphore, EINVAL, timeout) != NULL;
}

bool
kin_take(PyObject *semaphore, PyObject *taking, PyObject *timeout)
{
    if (taking == NULL)
        return false;
    PyObject *waited = PyObject_CallMethod(semaphore, "_wait", "OO", taking, timeout);
    if (waited == NULL) {
        PyObject *kind, *value, *trace;
        PyErr_Fetch(&kind, &value, &trace);
        give_back((struct kin_taking *)taking);
        PyErr_Restore(kind, value, trace);
    }
    Py_DECREF(taking);
    Py_XDECREF(waited);
    return waited != NULL;
}

/* -------------------------------------------------------------------------------- with blocks */

void
kin_entered_add(struct kin_entered *entered)
{
    (void)kin_thread(); /* from the first on, forks are counted */
    if (entered->forks != kin_robust_forks())
        *entered = (struct kin_entered){.forks = kin_robust_forks()};
    entered->count++;
}

bool
kin_entered_remove(struct kin_entered *entered)
{
    if (entered->forks != kin_robust_forks() || entered->count == 0)
        return false;
    entered->count--;
    return true;
}
