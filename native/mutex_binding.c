/* Mutex: what kinfolk.sync.mutex is made of.
 *
 *     Mutex()                               closed; to be subclassed, see `_refused`
 *       ._open(buffer, offset, strict)      -> a kin_finding; 0: it is open, and keeps the buffer
 *       ._repair(buffer, offset)            after KIN_OTHER_BOOT, under a lock; then open again
 *       ._close()                           refused while this process holds it or waits for it
 *       .acquire(timeout=None), .release(), .give_up()
 *       .__enter__(), .__exit__()           acquire, itself; release, unless it was given up
 *       ._enter(timeout)                    __enter__ with a timeout
 *       .locked, .owner_died
 *       ._holder, ._held_before_fork        a thread id, or 0; whether it is a copy of a held one
 *       ._refused(errno, timeout)           of the subclass: raises what an errno of the core means
 *       ._held                              whether this thread holds it, by this object
 *       ._gave_up()                         of the subclass: called when it was given up
 *       ._dropped()                         of the subclass: called when it is dropped while it is held
 *
 * Rules:
 * 1. Nothing stands between a call and the core: with nobody in the way, an acquire is a few instructions, and
 *    keeps the GIL. It is released to sleep.
 * 2. A mutex that is held or waited for keeps its memory: `_close` refuses, and who drops the object leaves the
 *    handle and the buffer where they are, for they stand in the thread's robust list.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <stdlib.h>

#include "exception_binding.h"
#include "heap_type_binding.h"
#include "mutex_binding.h"
#include "opening_binding.h"
#include "own_methods_binding.h"
#include "sync_object.h"
#include "timeout_binding.h"

int kin_add_mutex(PyObject *module);

/* ------------------------------------------------------------------------ opening and closing */

static PyObject *
mutex_open(PyObject *object, PyObject *args)
{
    struct kin_mutex_handle *self = (struct kin_mutex_handle *)object;
    PyObject *buffer;
    Py_ssize_t offset;
    int strict;
    if (!PyArg_ParseTuple(args, "Onp:_open", &buffer, &offset, &strict))
        return NULL;
    if (self->opened != NULL)
        return kin_refuse((PyObject *)self, EEXIST, NULL);
    struct kin_mutex_opened *opened = calloc(1, sizeof *opened);
    if (opened == NULL)
        return PyErr_NoMemory();
    if (kin_place(&opened->placed, buffer, offset) < 0) {
        free(opened);
        return NULL;
    }
    const struct timespec patience = kin_object_patience();
    enum kin_finding found;
    do {
        Py_BEGIN_ALLOW_THREADS /* somebody else may be making it just now */
        found = kin_object_open(&opened->mutex, opened->placed.memory, opened->placed.room,
                                KIN_MUTEX, sizeof(struct kin_object), NULL, NULL, &patience);
        Py_END_ALLOW_THREADS
    } while (kin_opening_goes_on(found));
    if (found == KIN_SOUND) {
        self->opened = opened;
        self->flags = strict ? KIN_MUTEX_STRICT : 0;
    } else {
        kin_unplace(&opened->placed);
        free(opened);
    }
    return kin_opening_found(found);
}

static void
repair(void *memory, size_t room)
{
    if (kin_object_look(memory, room, KIN_MUTEX, sizeof(struct kin_object)) == KIN_OTHER_BOOT)
        kin_mutex_repair(memory);
}

static PyObject *
mutex_repair(PyObject *object, PyObject *args)
{
    (void)object;
    return kin_opening_repair(args, repair);
}

/* 0, or EBUSY. */
static int
close_it(struct kin_mutex_handle *self)
{
    struct kin_mutex_opened *opened = self->opened;
    if (opened == NULL)
        return 0;
    int error = kin_mutex_close(&opened->mutex);
    if (error != 0)
        return error;
    self->opened = NULL;
    kin_unplace(&opened->placed);
    free(opened);
    return 0;
}

static PyObject *
mutex_close(PyObject *object, PyObject *unused)
{
    struct kin_mutex_handle *self = (struct kin_mutex_handle *)object;
    (void)unused;
    int error = kin_sleepers_any(&self->sleepers) ? EBUSY : close_it(self);
    if (error != 0)
        return kin_refuse((PyObject *)self, error, NULL);
    Py_RETURN_NONE;
}

/* No Python runs, in which the exception of a signal handler would be lost, but to warn. */
static void
mutex_finalize(PyObject *object)
{
    if (close_it((struct kin_mutex_handle *)object) == 0)
        return;
    struct kin_exception before = kin_set_aside();
    PyObject *result = PyObject_CallMethod(object, "_dropped", NULL);
    if (result == NULL)
        PyErr_WriteUnraisable(object);
    Py_XDECREF(result);
    kin_set_again(&before);
}

static void
mutex_dealloc(PyObject *object)
{
    close_it((struct kin_mutex_handle *)object); /* held: its memory stays, see rule 2 */
    kin_release(object);
}

/* --------------------------------------------------------------------------------- acquiring */

/* Sleeps: 0 or EOWNERDEAD; an errno; -1 with an exception set, by a signal handler. */
static int
sleep_for(struct kin_mutex_handle *self, const struct timespec *deadline)
{
    struct kin_mutex *mutex = &self->opened->mutex;
    uint32_t entered = kin_sleepers_enter(&self->sleepers);
    int error;
    do {
        Py_BEGIN_ALLOW_THREADS
        error = kin_mutex_take(mutex, deadline, self->flags);
        Py_END_ALLOW_THREADS
    } while (error == EINTR && PyErr_CheckSignals() == 0);
    kin_sleepers_leave(&self->sleepers, entered);
    return error == EINTR ? -1 : error;
}

static bool
was_taken(const struct kin_mutex_handle *self, int error)
{
    return error == 0 || (error == EOWNERDEAD && !(self->flags & KIN_MUTEX_STRICT));
}

static bool
acquire(struct kin_mutex_handle *self, PyObject *timeout)
{
    struct timespec deadline;
    if (timeout == Py_None)
        timeout = NULL;
    if (timeout != NULL && !kin_read_timeout(timeout, &deadline))
        return kin_refuse((PyObject *)self, EINVAL, timeout) != NULL;
    if (self->opened == NULL)
        return kin_refuse((PyObject *)self, EBADF, NULL) != NULL;
    int error = kin_mutex_take(&self->opened->mutex, NULL, self->flags | KIN_MUTEX_AWAKE);
    if (error == EBUSY)
        error = sleep_for(self, timeout == NULL ? NULL : &deadline);
    if (was_taken(self, error)) {
        if (self->lost)
            self->lost = false;
        return true;
    }
    return error > 0 && kin_refuse((PyObject *)self, error, timeout) != NULL;
}

bool
kin_mutex_reacquire(struct kin_mutex_handle *self)
{
    uint32_t entered = kin_sleepers_enter(&self->sleepers);
    struct kin_exception before = kin_set_aside();
    int error;
    for (;;) {
        Py_BEGIN_ALLOW_THREADS
        error = kin_mutex_take(&self->opened->mutex, NULL, self->flags);
        Py_END_ALLOW_THREADS
        if (error != EINTR)
            break;
        if (PyErr_CheckSignals() < 0) {
            kin_set_again(&before);
            before = kin_set_aside();
        }
    }
    kin_sleepers_leave(&self->sleepers, entered);
    bool held = was_taken(self, error);
    if (!held) {
        self->lost = error != EDEADLK; /* else a signal handler has taken it */
        kin_refuse((PyObject *)self, error, NULL);
    }
    kin_set_again(&before);
    return held;
}

static PyObject *
mutex_acquire(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    PyObject *timeout = kin_timeout_among("acquire", arguments, count, names);
    if (timeout == NULL || !acquire((struct kin_mutex_handle *)object, timeout))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
mutex_enter_within(PyObject *object, PyObject *timeout)
{
    return acquire((struct kin_mutex_handle *)object, timeout) ? Py_NewRef(object) : NULL;
}

static PyObject *
mutex_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    return mutex_enter_within(object, Py_None);
}

/* --------------------------------------------------------------------------------- releasing */

static PyObject *
release(struct kin_mutex_handle *self, int (*how)(struct kin_mutex *))
{
    int error = self->opened == NULL ? EBADF : how(&self->opened->mutex);
    if (error != 0)
        return kin_refuse((PyObject *)self, error, NULL);
    Py_RETURN_NONE;
}

static PyObject *
mutex_release(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    (void)arguments;
    if (count != 0 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "release() takes no arguments");
        return NULL;
    }
    return release((struct kin_mutex_handle *)object, kin_mutex_unlock);
}

static PyObject *
mutex_give_up(PyObject *object, PyObject *unused)
{
    struct kin_mutex_handle *self = (struct kin_mutex_handle *)object;
    (void)unused;
    PyObject *result = release(self, kin_mutex_give_up);
    if (result == NULL)
        return NULL;
    self->lost = true;
    Py_DECREF(result);
    return PyObject_CallMethod(object, "_gave_up", NULL);
}

static PyObject *
mutex_exit(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    struct kin_mutex_handle *self = (struct kin_mutex_handle *)object;
    (void)arguments;
    (void)count;
    if (self->lost)
        Py_RETURN_NONE;
    return release(self, kin_mutex_unlock);
}

/* --------------------------------------------------------------------------------- looking */

static PyObject *
mutex_holder(PyObject *object, void *unused)
{
    const struct kin_mutex_handle *self = (const struct kin_mutex_handle *)object;
    (void)unused;
    return PyLong_FromUnsignedLong(self->opened ? kin_mutex_holder(&self->opened->mutex) : 0);
}

static PyObject *
mutex_held_before_fork(PyObject *object, void *unused)
{
    const struct kin_mutex_handle *self = (const struct kin_mutex_handle *)object;
    (void)unused;
    const struct kin_mutex *mutex = self->opened == NULL ? NULL : &self->opened->mutex;
    return PyBool_FromLong(mutex != NULL && mutex->holder != 0 &&
                           kin_robust_holder_here(mutex) == 0);
}

static PyObject *
mutex_held(PyObject *object, void *unused)
{
    const struct kin_mutex_handle *self = (const struct kin_mutex_handle *)object;
    (void)unused;
    if (self->opened == NULL)
        return kin_refuse(object, EBADF, NULL);
    return PyBool_FromLong(kin_mutex_is_held(&self->opened->mutex));
}

static PyObject *
mutex_locked(PyObject *object, void *unused)
{
    const struct kin_mutex_handle *self = (const struct kin_mutex_handle *)object;
    (void)unused;
    if (self->opened == NULL)
        return kin_refuse(object, EBADF, NULL);
    return PyBool_FromLong(kin_mutex_holder(&self->opened->mutex) != 0);
}

static PyObject *
mutex_owner_died(PyObject *object, void *unused)
{
    const struct kin_mutex_handle *self = (const struct kin_mutex_handle *)object;
    (void)unused;
    return PyBool_FromLong(self->opened != NULL && kin_mutex_owner_died(&self->opened->mutex));
}

static PyObject *mutex_init_subclass(PyObject *type, PyObject *unused);

static PyMethodDef methods[] = {
    {"__init_subclass__", mutex_init_subclass, METH_CLASS | METH_NOARGS,
     PyDoc_STR("Give a subclass methods of its own.")},
    {"_open", mutex_open, METH_VARARGS, PyDoc_STR("Open what lies there, or make it.")},
    {"_repair", mutex_repair, METH_VARARGS, PyDoc_STR("Make what was of another boot usable.")},
    {"_close", mutex_close, METH_NOARGS, PyDoc_STR("Let go of the memory.")},
    {"acquire", (PyCFunction)(void (*)(void))mutex_acquire, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("acquire($self, timeout=None)\n--\n\n"
               "Take it, waiting up to `timeout` seconds; None waits for ever, 0 tries.\n\n"
               "Raises Timeout, Deadlock when this thread has it already, OwnerDied when it was given\n"
               "up (a strict one: when its owner died), LimitReached when this thread holds 1,024,\n"
               "Closed. A wait lets Python's signal handlers run, and ends by what they raise. futex(2)")},
    {"release", (PyCFunction)(void (*)(void))mutex_release, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("release($self)\n--\n\n"
               "Let the next one have it.\n\n"
               "Raises NotOwner when this thread does not hold it, ForkedCopy when it was acquired\n"
               "before the fork, by the parent, CorruptObject when its memory was overwritten, Closed.")},
    {"give_up", mutex_give_up, METH_NOARGS,
     PyDoc_STR("give_up($self)\n--\n\n"
               "Let nobody ever have it again: who waits or comes gets OwnerDied. Raises as `release`.")},
    {"_enter", mutex_enter_within, METH_O, PyDoc_STR("__enter__ with a timeout.")},
    {"__enter__", mutex_enter, METH_NOARGS, PyDoc_STR("__enter__($self)\n--\n\nAcquire; itself.")},
    {"__exit__", (PyCFunction)(void (*)(void))mutex_exit, METH_FASTCALL,
     PyDoc_STR("__exit__($self, *exception)\n--\n\nRelease, unless it was given up.")},
    {NULL, NULL, 0, NULL},
};

static PyObject *
mutex_init_subclass(PyObject *type, PyObject *unused)
{
    static const char *const often[] = {"acquire", "release", NULL};
    (void)unused;
    return kin_own_methods(type, methods, often);
}

static PyGetSetDef attributes[] = {
    {"locked", mutex_locked, NULL, PyDoc_STR("Whether somebody holds it just now."), NULL},
    {"owner_died", mutex_owner_died, NULL,
     PyDoc_STR("Whether this thread holds it, after one that died holding it."), NULL},
    {"_held", mutex_held, NULL, PyDoc_STR("Whether this thread holds it, by this object."), NULL},
    {"_holder", mutex_holder, NULL, PyDoc_STR("The thread id of the holder, or 0."), NULL},
    {"_held_before_fork", mutex_held_before_fork, NULL,
     PyDoc_STR("Whether this is a copy of what another process held when it forked."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A robust mutex in shared memory.")},
    {Py_tp_finalize, mutex_finalize},
    {Py_tp_dealloc, mutex_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.Mutex",
    .basicsize = sizeof(struct kin_mutex_handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int
kin_add_mutex(PyObject *module)
{
    return kin_add_type(module, &spec, "Mutex");
}
