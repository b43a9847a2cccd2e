/* SemaphoreWait: one acquire of a Semaphore, by a helper thread.
 *
 *     SemaphoreWait(semaphore, n)           a BlockingCall (kinfolk.helper_threads)
 *       .attempt()                          -> whether it has taken them, without waiting
 *       .block(ms)                          the same, None: for ever
 *       .wake()                             ends that in another thread, or the next one
 *       .give_back()                        what it took, or still takes
 */

#include "semaphore_binding.h"

#include <errno.h>

#include "futex.h"
#include "heap_type_binding.h"

int kin_add_semaphore_wait(PyObject *module);

struct wait {
    PyObject_HEAD
    struct kin_semaphore_handle *semaphore;
    struct kin_semaphore_stop stop;
    uint32_t count;
    bool done, unwanted;
};

static PyObject *
wait_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"", "", NULL};
    PyObject *module = PyType_GetModule(type), *kind, *semaphore, *count;
    if (module == NULL || (kind = PyObject_GetAttrString(module, "Semaphore")) == NULL)
        return NULL;
    int parsed = PyArg_ParseTupleAndKeywords(args, keywords, "O!O:SemaphoreWait", names, kind,
                                             &semaphore, &count);
    Py_DECREF(kind);
    if (!parsed)
        return NULL;
    struct kin_semaphore_handle *handle = (struct kin_semaphore_handle *)semaphore;
    if (handle->core.state == NULL)
        return kin_refuse(semaphore, EBADF, NULL);
    uint32_t number = kin_semaphore_read_count(handle, count, handle->core.maximum);
    if (number == 0)
        return NULL;
    struct wait *self = kin_allocate(type);
    if (self != NULL) {
        self->semaphore = (struct kin_semaphore_handle *)Py_NewRef(semaphore);
        self->count = number;
    }
    return (PyObject *)self;
}

static void
wait_dealloc(PyObject *object)
{
    Py_XDECREF((PyObject *)((struct wait *)object)->semaphore);
    kin_release(object);
}

static void
give_back(struct wait *self)
{
    if (self->done && self->semaphore->core.state != NULL)
        kin_semaphore_release_here(self->semaphore, self->count);
    self->done = false;
}

static PyObject *
wait_attempt(PyObject *object, PyObject *unused)
{
    struct wait *self = (struct wait *)object;
    struct kin_semaphore_handle *semaphore = self->semaphore;
    int error = 0;
    (void)unused;
    if (semaphore->core.state == NULL)
        return kin_refuse((PyObject *)semaphore, EBADF, NULL);
    if (!self->done)
        error = kin_semaphore_try_here(semaphore, self->count);
    self->done = error == 0;
    if (error != 0 && error != EBUSY)
        return kin_refuse((PyObject *)semaphore, error, NULL);
    return PyBool_FromLong(self->done);
}

static PyObject *
wait_block(PyObject *object, PyObject *patience)
{
    struct wait *self = (struct wait *)object;
    struct kin_semaphore_handle *semaphore = self->semaphore;
    struct timespec deadline;
    if (semaphore->core.state == NULL)
        return kin_refuse((PyObject *)semaphore, EBADF, NULL);
    if (patience != Py_None) {
        long milliseconds = PyLong_AsLong(patience);
        if (PyErr_Occurred())
            return NULL;
        deadline = kin_timespec(kin_now() + (uint64_t)milliseconds * KIN_MILLISECOND);
    }
    int error;
    KIN_BEGIN_CALL(semaphore)
    error = kin_semaphore_acquire(&semaphore->core, self->count,
                                  patience == Py_None ? NULL : &deadline, &self->stop);
    KIN_END_CALL(semaphore)
    atomic_store(&self->stop.wanted, false);
    self->done = error == 0;
    if (self->unwanted)
        give_back(self);
    if (error != 0 && error != ECANCELED && error != ETIMEDOUT && error != EINTR)
        return kin_refuse((PyObject *)semaphore, error, NULL);
    return PyBool_FromLong(self->done);
}

static PyObject *
wait_wake(PyObject *object, PyObject *unused)
{
    struct wait *self = (struct wait *)object;
    (void)unused;
    if (self->semaphore->core.state != NULL)
        kin_semaphore_stop_wait(&self->semaphore->core, &self->stop);
    Py_RETURN_NONE;
}

static PyObject *
wait_give_back(PyObject *object, PyObject *unused)
{
    struct wait *self = (struct wait *)object;
    (void)unused;
    self->unwanted = true; /* it may be just about to take them */
    give_back(self);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"attempt", wait_attempt, METH_NOARGS, PyDoc_STR("Take, if there are enough.")},
    {"block", wait_block, METH_O, PyDoc_STR("Block until it is taken, woken, or out of time.")},
    {"wake", wait_wake, METH_NOARGS, PyDoc_STR("End the blocking in another thread.")},
    {"give_back", wait_give_back, METH_NOARGS, PyDoc_STR("Give back what was taken.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("One acquire of a semaphore, by a thread for another.")},
    {Py_tp_new, wait_new},
    {Py_tp_dealloc, wait_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.SemaphoreWait",
    .basicsize = sizeof(struct wait),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int
kin_add_semaphore_wait(PyObject *module)
{
    return kin_add_type(module, &spec, "SemaphoreWait");
}
