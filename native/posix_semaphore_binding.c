/* PosixSemaphore: what kinfolk.sync.posix_semaphore is made of, a sem_t in a buffer.
 *
 *     PosixSemaphore()                     closed; to be subclassed, see `_refused` and `_wait`
 *       ._open(buffer, offset, value)      -> a kin_finding; value None: one that lies there, else it is made there, and
 *                                        KIN_OTHER_KIND says that one lies there already
 *       ._close()
 *       .acquire(timeout=None), .release()
 *       .__enter__(), .__exit__(), ._enter(timeout)
 *       ._value                            sem_getvalue(3)
 *       ._refused(errno, timeout)          of the subclass: raises what an errno means
 *       ._wait(taking, timeout)            of the subclass: has a taking take
 *       ._Taking                           of the subclass: PosixTaking
 *     PosixTaking(semaphore)               see taking_binding.c
 *     posix_semaphore(value)               the bytes of a new one
 *     POSIX_SEMAPHORE                      (size, alignment, greatest value)
 *
 * Rule: a taking holds the buffer itself. So a semaphore can be closed while another thread waits, and its memory stays.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <limits.h>
#include <stdalign.h>
#include <string.h>

#include "kernel_semaphores.h"
#include "object_binding.h"
#include "own_methods_binding.h"
#include "placed_binding.h"
#include "taking_binding.h"
#include "timeout_binding.h"

int kin_add_posix_semaphore(PyObject *module);

struct semaphore {
    PyObject_HEAD
    struct kin_placed placed;
    sem_t *sem; /* NULL: closed */
    struct kin_entered entered;
};

struct taking {
    struct kin_taking base;
    struct kin_placed placed;
};

/* -------------------------------------------------------------------------------- the taking */

static sem_t *
sem_of(struct kin_taking *base)
{
    return ((struct taking *)(void *)base)->placed.memory;
}

static int
attempt_on(sem_t *sem)
{
    int result;
    do
        result = sem_trywait(sem);
    while (result < 0 && errno == EINTR);
    return result == 0 ? 0 : errno;
}

static int
taking_attempt(struct kin_taking *base)
{
    return attempt_on(sem_of(base));
}

static int
taking_block(struct kin_taking *base, int milliseconds)
{
    return kin_sem_wait(&base->wait, sem_of(base), milliseconds);
}

static void
taking_give_back(struct kin_taking *base)
{
    sem_post(sem_of(base));
}

static const struct kin_taking_kind taking_kind = {taking_attempt, taking_block, taking_give_back};

static PyObject *
taking_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"", NULL};
    PyObject *semaphore;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O:PosixTaking", names, &semaphore))
        return NULL;
    if (!kin_taking_is_of(type, semaphore, "PosixSemaphore"))
        return NULL;
    struct semaphore *whose = (struct semaphore *)semaphore;
    if (whose->sem == NULL)
        return kin_refuse(semaphore, EBADF, NULL);
    struct taking *self = kin_allocate(type);
    if (self == NULL)
        return NULL;
    Py_ssize_t offset = (char *)whose->sem - (char *)whose->placed.view.buf;
    int error = kin_sem_wait_init(&self->base.wait);
    if (error != 0 || kin_place(&self->placed, whose->placed.view.obj, offset) < 0) {
        Py_DECREF(self);
        return error != 0 ? kin_refuse(semaphore, error, NULL) : NULL;
    }
    kin_taking_begin(&self->base, semaphore, &taking_kind);
    return (PyObject *)self;
}

static void
taking_dealloc(PyObject *object)
{
    struct taking *self = (struct taking *)object;
    kin_unplace(&self->placed);
    kin_taking_end(&self->base);
    kin_release(object);
}

static PyType_Slot taking_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("One call that takes from a sem_t.")},
    {Py_tp_new, taking_new},
    {Py_tp_dealloc, taking_dealloc},
    {Py_tp_methods, kin_taking_methods},
    {Py_tp_getset, kin_taking_attributes},
    {0, NULL},
};

static PyType_Spec taking_spec = {
    .name = "kinfolk._native.PosixTaking",
    .basicsize = sizeof(struct taking),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = taking_slots,
};

/* ------------------------------------------------------------------------- opening and closing */

static bool
is_blank(const sem_t *sem)
{
    static const sem_t blank;
    return memcmp(sem, &blank, sizeof blank) == 0;
}

static PyObject *
semaphore_open(PyObject *object, PyObject *args)
{
    struct semaphore *self = (struct semaphore *)object;
    PyObject *buffer, *value;
    Py_ssize_t offset;
    if (!PyArg_ParseTuple(args, "OnO:_open", &buffer, &offset, &value))
        return NULL;
    if (self->sem != NULL)
        return kin_refuse(object, EEXIST, NULL);
    unsigned long initial = value == Py_None ? 0 : PyLong_AsUnsignedLong(value);
    if (PyErr_Occurred())
        return NULL;
    struct kin_placed placed;
    if (kin_place(&placed, buffer, offset) < 0)
        return NULL;
    enum kin_finding found = KIN_SOUND;
    sem_t *sem = placed.memory;
    if (placed.room < sizeof *sem || (uintptr_t)sem % alignof(sem_t) != 0)
        found = KIN_MISPLACED;
    else if (value == Py_None)
        found = kin_sem_is_one(sem) ? KIN_SOUND : KIN_ALIEN;
    else if (!is_blank(sem))
        found = kin_sem_is_one(sem) ? KIN_OTHER_KIND : KIN_ALIEN;
    else if (initial > UINT_MAX || !kin_sem_make(sem, (unsigned)initial))
        found = KIN_ALIEN;
    if (found == KIN_SOUND) {
        self->placed = placed;
        self->sem = sem;
    } else
        kin_unplace(&placed);
    return PyLong_FromLong(found);
}

static void
close_it(struct semaphore *self)
{
    if (self->sem != NULL) {
        self->sem = NULL;
        kin_unplace(&self->placed);
    }
}

static PyObject *
semaphore_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    close_it((struct semaphore *)object);
    Py_RETURN_NONE;
}

static void
semaphore_dealloc(PyObject *object)
{
    close_it((struct semaphore *)object);
    kin_release(object);
}

/* -------------------------------------------------------------------------- acquire, release */

/* Of the type that the subclass names; or NULL with an exception set. */
static PyObject *
taking_for(PyObject *semaphore)
{
    PyObject *type = PyObject_GetAttrString(semaphore, "_Taking"), *taking = NULL;
    if (type != NULL && PyType_Check(type) &&
        PyType_GetSlot((PyTypeObject *)type, Py_tp_new) == (void *)taking_new)
        taking = PyObject_CallFunctionObjArgs(type, semaphore, NULL);
    else if (type != NULL)
        PyErr_SetString(PyExc_SystemError, "_Taking has to be PosixTaking");
    Py_XDECREF(type);
    return taking;
}

static bool
acquire(PyObject *object, PyObject *timeout)
{
    struct semaphore *self = (struct semaphore *)object;
    if (!kin_taking_timeout(object, timeout))
        return false;
    if (self->sem == NULL)
        return kin_refuse(object, EBADF, NULL) != NULL;
    int error = attempt_on(self->sem);
    if (error == 0)
        return true;
    if (error != EAGAIN)
        return kin_refuse(object, error, NULL) != NULL;
    return kin_take(object, taking_for(object), timeout);
}

static PyObject *
semaphore_acquire(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    PyObject *timeout = kin_timeout_among("acquire", arguments, count, names);
    if (timeout == NULL || !acquire(object, timeout))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
semaphore_release(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    struct semaphore *self = (struct semaphore *)object;
    (void)arguments;
    if (count != 0 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "release() takes no arguments");
        return NULL;
    }
    if (self->sem == NULL)
        return kin_refuse(object, EBADF, NULL);
    if (sem_post(self->sem) < 0)
        return kin_refuse(object, errno, NULL);
    Py_RETURN_NONE;
}

static PyObject *
semaphore_enter_within(PyObject *object, PyObject *timeout)
{
    if (!acquire(object, timeout))
        return NULL;
    kin_entered_add(&((struct semaphore *)object)->entered);
    return Py_NewRef(object);
}

static PyObject *
semaphore_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    return semaphore_enter_within(object, Py_None);
}

static PyObject *
semaphore_exit(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    (void)arguments;
    (void)count;
    if (!kin_entered_remove(&((struct semaphore *)object)->entered))
        return kin_refuse(object, ECHILD, NULL);
    return semaphore_release(object, NULL, 0, NULL);
}

static PyObject *
semaphore_entered(PyObject *object, PyObject *unused)
{
    (void)unused;
    kin_entered_add(&((struct semaphore *)object)->entered);
    Py_RETURN_NONE;
}

static PyObject *
semaphore_value(PyObject *object, void *unused)
{
    struct semaphore *self = (struct semaphore *)object;
    int value = 0;
    (void)unused;
    if (self->sem == NULL)
        return kin_refuse(object, EBADF, NULL);
    sem_getvalue(self->sem, &value);
    return PyLong_FromLong(value);
}

static PyObject *semaphore_init_subclass(PyObject *type, PyObject *unused);

static PyMethodDef methods[] = {
    {"__init_subclass__", semaphore_init_subclass, METH_CLASS | METH_NOARGS,
     PyDoc_STR("Give a subclass methods of its own.")},
    {"_open", semaphore_open, METH_VARARGS, PyDoc_STR("Open what lies there, or make it.")},
    {"_close", semaphore_close, METH_NOARGS, PyDoc_STR("Let go of the memory.")},
    {"acquire", (PyCFunction)(void (*)(void))semaphore_acquire, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("acquire($self, timeout=None)\n--\n\n"
               "Take one, waiting up to `timeout` seconds; None waits for ever, 0 tries.\n\n"
               "Raises Timeout, Closed. A wait lets Python's signal handlers run, and ends by what they\n"
               "raise: then nothing was taken. Any thread may. sem_wait(3)")},
    {"release", (PyCFunction)(void (*)(void))semaphore_release, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("release($self)\n--\n\n"
               "Put one in, whoever took it, and let one of those who wait have it.\n\n"
               "Raises LimitReached at 2,147,483,647, Closed. sem_post(3)")},
    {"_enter", semaphore_enter_within, METH_O, PyDoc_STR("__enter__ with a timeout.")},
    {"_entered", semaphore_entered, METH_NOARGS, PyDoc_STR("What was acquired is a block's.")},
    {"__enter__", semaphore_enter, METH_NOARGS,
     PyDoc_STR("__enter__($self)\n--\n\nAcquire; itself.")},
    {"__exit__", (PyCFunction)(void (*)(void))semaphore_exit, METH_FASTCALL,
     PyDoc_STR("__exit__($self, *exception)\n--\n\nRelease.")},
    {NULL, NULL, 0, NULL},
};

static PyObject *
semaphore_init_subclass(PyObject *type, PyObject *unused)
{
    static const char *const often[] = {"acquire", "release", NULL};
    (void)unused;
    return kin_own_methods(type, methods, often);
}

static PyGetSetDef attributes[] = {
    {"_value", semaphore_value, NULL, PyDoc_STR("How many can be taken just now."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A sem_t in shared memory.")},
    {Py_tp_dealloc, semaphore_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.PosixSemaphore",
    .basicsize = sizeof(struct semaphore),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

/* ------------------------------------------------------------------------------- the module */

static PyObject *
new_posix_semaphore(PyObject *module, PyObject *value)
{
    (void)module;
    sem_t sem;
    unsigned long initial = PyLong_AsUnsignedLong(value);
    if (PyErr_Occurred())
        return NULL;
    if (initial > UINT_MAX || !kin_sem_make(&sem, (unsigned)initial)) {
        errno = EINVAL;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyBytes_FromStringAndSize((const char *)&sem, sizeof sem);
}

static PyMethodDef functions[] = {
    {"posix_semaphore", new_posix_semaphore, METH_O, PyDoc_STR("The bytes of a new one.")},
    {NULL, NULL, 0, NULL},
};

int
kin_add_posix_semaphore(PyObject *module)
{
    PyObject *figures = Py_BuildValue("nnl", (Py_ssize_t)sizeof(sem_t), (Py_ssize_t)alignof(sem_t),
                                      (long)SEM_VALUE_MAX);
    int result = figures == NULL ? -1 : PyModule_AddObjectRef(module, "POSIX_SEMAPHORE", figures);
    Py_XDECREF(figures);
    if (result == 0)
        result = kin_add_type(module, &taking_spec, "PosixTaking");
    if (result == 0)
        result = kin_add_type(module, &spec, "PosixSemaphore");
    return result == 0 ? PyModule_AddFunctions(module, functions) : result;
}
