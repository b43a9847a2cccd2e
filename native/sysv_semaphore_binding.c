/* SysvSemaphore: what kinfolk.sync.sysv_semaphore is made of, a System V set by its id.
 *
 *     SysvSemaphore()                      closed; to be subclassed, see `_refused` and `_wait`
 *       ._open(id, n, undo), ._close()
 *       .acquire(timeout=None, *, index=0, count=1), .release(*, index=0, count=1)
 *       .__enter__(), .__exit__(), ._enter(timeout, index, count), ._exit(index, count), ._entered()
 *       ._operate(operations, timeout)     the bytes of a sembuf[]
 *       ._refused(errno, timeout)          of the subclass: raises what an errno means
 *       ._wait(taking, timeout)            of the subclass: has a taking take
 *       ._Taking                           of the subclass: SysvTaking
 *     SysvTaking(semaphore, operations)    see taking_binding.c
 *
 * How a set is made and looked at: sysv_sem_binding.c. sysv_ipc has no sets, nor a wait that others can end.
 *
 * Rule: operations that only take can be given back, for that never waits. Others, done in the instant of an interrupt, stay done: it
 * is as if that had come after them.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <string.h>

#include "arguments_binding.h"
#include "kernel_semaphores.h"
#include "object_binding.h"
#include "taking_binding.h"

int kin_add_sysv_semaphore(PyObject *module);

struct semaphore {
    PyObject_HEAD
    int set; /* -1: closed */
    int n;
    bool open;
    short flags; /* SEM_UNDO, or none */
    struct kin_entered entered;
};

struct taking {
    struct kin_taking base;
    int set;
    size_t count;
    struct sembuf *operations;
};

/* Without blocking: 0, EAGAIN, or an errno. */
static int
operate_on(int set, struct sembuf *operations, size_t count)
{
    static const struct timespec none = {0, 0};
    int result;
    do
        result = semtimedop(set, operations, count, &none);
    while (result < 0 && errno == EINTR);
    return result == 0 ? 0 : errno;
}

/* -------------------------------------------------------------------------------- the taking */

static int
taking_attempt(struct kin_taking *base)
{
    struct taking *self = (struct taking *)(void *)base;
    return operate_on(self->set, self->operations, self->count);
}

static int
taking_block(struct kin_taking *base, int milliseconds)
{
    struct taking *self = (struct taking *)(void *)base;
    return kin_set_wait(&base->wait, self->set, self->operations, self->count, milliseconds);
}

static void
taking_give_back(struct kin_taking *base)
{
    struct taking *self = (struct taking *)(void *)base;
    for (size_t i = 0; i < self->count; i++)
        if (self->operations[i].sem_op >= 0)
            return;
    for (size_t i = 0; i < self->count; i++)
        self->operations[i].sem_op = (short)-self->operations[i].sem_op;
    operate_on(self->set, self->operations, self->count);
}

static const struct kin_taking_kind taking_kind = {taking_attempt, taking_block, taking_give_back};

static PyObject *
taking_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"", "", NULL};
    PyObject *semaphore;
    const char *operations;
    Py_ssize_t size;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "Oy#:SysvTaking", names, &semaphore,
                                     &operations, &size) ||
        !kin_taking_is_of(type, semaphore, "SysvSemaphore"))
        return NULL;
    struct semaphore *whose = (struct semaphore *)semaphore;
    if (!whose->open)
        return kin_refuse(semaphore, EBADF, NULL);
    struct taking *self = kin_allocate(type);
    if (self == NULL)
        return NULL;
    self->set = whose->set;
    self->count = (size_t)size / sizeof(struct sembuf);
    self->operations = PyMem_Malloc((size_t)size + 1);
    int error = self->operations == NULL ? ENOMEM : kin_wait_init(&self->base.wait);
    if (error != 0) {
        Py_DECREF(self);
        return kin_refuse(semaphore, error, NULL);
    }
    memcpy(self->operations, operations, (size_t)size);
    kin_taking_begin(&self->base, semaphore, &taking_kind);
    return (PyObject *)self;
}

static void
taking_dealloc(PyObject *object)
{
    struct taking *self = (struct taking *)object;
    PyMem_Free(self->operations);
    kin_taking_end(&self->base);
    kin_release(object);
}

static PyType_Slot taking_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("One call that operates on a System V set.")},
    {Py_tp_new, taking_new},
    {Py_tp_dealloc, taking_dealloc},
    {Py_tp_methods, kin_taking_methods},
    {Py_tp_getset, kin_taking_attributes},
    {0, NULL},
};

static PyType_Spec taking_spec = {
    .name = "kinfolk._native.SysvTaking",
    .basicsize = sizeof(struct taking),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = taking_slots,
};

/* Of the type that the subclass names; or NULL with an exception set. */
static PyObject *
taking_for(PyObject *semaphore, const struct sembuf *operations, size_t count)
{
    PyObject *type = PyObject_GetAttrString(semaphore, "_Taking"), *taking = NULL;
    if (type != NULL && PyType_Check(type) &&
        PyType_GetSlot((PyTypeObject *)type, Py_tp_new) == (void *)taking_new)
        taking = PyObject_CallFunction(type, "Oy#", semaphore, (const char *)operations,
                                       (Py_ssize_t)(count * sizeof *operations));
    else if (type != NULL)
        PyErr_SetString(PyExc_SystemError, "_Taking has to be SysvTaking");
    Py_XDECREF(type);
    return taking;
}

/* ------------------------------------------------------------------------- opening and closing */

static PyObject *
semaphore_open(PyObject *object, PyObject *args)
{
    struct semaphore *self = (struct semaphore *)object;
    int undo;
    if (!PyArg_ParseTuple(args, "iip:_open", &self->set, &self->n, &undo))
        return NULL;
    self->flags = undo ? SEM_UNDO : 0;
    self->open = true;
    Py_RETURN_NONE;
}

static PyObject *
semaphore_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    ((struct semaphore *)object)->open = false;
    Py_RETURN_NONE;
}

/* -------------------------------------------------------------------------------- operating */

static bool
operate(PyObject *object, struct sembuf *operations, size_t count, PyObject *timeout)
{
    struct semaphore *self = (struct semaphore *)object;
    if (!kin_taking_timeout(object, timeout))
        return false;
    if (!self->open)
        return kin_refuse(object, EBADF, NULL) != NULL;
    int error = operate_on(self->set, operations, count);
    if (error == 0)
        return true;
    if (error != EAGAIN)
        return kin_refuse(object, error, NULL) != NULL;
    return kin_take(object, taking_for(object, operations, count), timeout);
}

static PyObject *
semaphore_operate(PyObject *object, PyObject *args)
{
    const char *operations;
    Py_ssize_t size;
    PyObject *timeout;
    if (!PyArg_ParseTuple(args, "y#O:_operate", &operations, &size, &timeout))
        return NULL;
    struct sembuf *copy = PyMem_Malloc((size_t)size + 1);
    if (copy == NULL)
        return PyErr_NoMemory();
    memcpy(copy, operations, (size_t)size);
    bool done = operate(object, copy, (size_t)size / sizeof *copy, timeout);
    PyMem_Free(copy);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

/* One operation on one semaphore: `sign` times `count`. False with an exception set. */
static bool
change(PyObject *object, int sign, long long index, long long count, PyObject *timeout)
{
    const struct semaphore *self = (const struct semaphore *)object;
    if (index < 0 || (self->open && index >= self->n))
        return kin_refuse(object, EFBIG, NULL) != NULL;
    if (count < 1 || count > INT16_MAX)
        return kin_refuse(object, EDOM, NULL) != NULL;
    struct sembuf operation = {(unsigned short)index, (short)(sign * (int)count), self->flags};
    return operate(object, &operation, 1, timeout);
}

static PyObject *
semaphore_acquire(PyObject *object, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"timeout", "index", "count", NULL};
    PyObject *timeout = Py_None;
    long long index = 0, count = 1;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|O$O&O&:acquire", names, &timeout,
                                     kin_read_number, &index, kin_read_number, &count) ||
        !change(object, -1, index, count, timeout))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
semaphore_release(PyObject *object, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"index", "count", NULL};
    long long index = 0, count = 1;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|$O&O&:release", names, kin_read_number,
                                     &index, kin_read_number, &count) ||
        !change(object, 1, index, count, Py_None))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
enter(PyObject *object, PyObject *timeout, long long index, long long count)
{
    if (!change(object, -1, index, count, timeout))
        return NULL;
    kin_entered_add(&((struct semaphore *)object)->entered);
    return Py_NewRef(object);
}

static PyObject *
leave(PyObject *object, long long index, long long count)
{
    if (!kin_entered_remove(&((struct semaphore *)object)->entered))
        return kin_refuse(object, ECHILD, NULL);
    if (!change(object, 1, index, count, Py_None))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
semaphore_enter_within(PyObject *object, PyObject *args)
{
    PyObject *timeout;
    long long index, count;
    if (!PyArg_ParseTuple(args, "OO&O&:_enter", &timeout, kin_read_number, &index, kin_read_number,
                          &count))
        return NULL;
    return enter(object, timeout, index, count);
}

static PyObject *
semaphore_leave(PyObject *object, PyObject *args)
{
    long long index, count;
    if (!PyArg_ParseTuple(args, "O&O&:_exit", kin_read_number, &index, kin_read_number, &count))
        return NULL;
    return leave(object, index, count);
}

static PyObject *
semaphore_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    return enter(object, Py_None, 0, 1);
}

static PyObject *
semaphore_exit(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    (void)arguments;
    (void)count;
    return leave(object, 0, 1);
}

static PyObject *
semaphore_entered(PyObject *object, PyObject *unused)
{
    (void)unused;
    kin_entered_add(&((struct semaphore *)object)->entered);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"_open", semaphore_open, METH_VARARGS, PyDoc_STR("Be the set of an id.")},
    {"_close", semaphore_close, METH_NOARGS, PyDoc_STR("Be none any more.")},
    {"_operate", semaphore_operate, METH_VARARGS, PyDoc_STR("Several operations as one.")},
    {"acquire", (PyCFunction)(void (*)(void))semaphore_acquire, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("acquire($self, timeout=None, *, index=0, count=1)\n--\n\n"
               "Take `count` from one semaphore, waiting up to `timeout` seconds; None waits for ever, 0 tries.\n\n"
               "Raises Timeout, NotFound when the set was removed, InvalidValue, LimitReached, AccessDenied,\n"
               "Closed. A wait lets Python's signal handlers run, and ends by what they raise: then nothing\n"
               "was taken. Any thread may. semop(2)")},
    {"release", (PyCFunction)(void (*)(void))semaphore_release, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("release($self, *, index=0, count=1)\n--\n\n"
               "Put `count` into one semaphore, and let those who wait have them. Raises as `acquire`. semop(2)")},
    {"_enter", semaphore_enter_within, METH_VARARGS, PyDoc_STR("__enter__, with all it takes.")},
    {"_exit", semaphore_leave, METH_VARARGS, PyDoc_STR("__exit__, with all it takes.")},
    {"_entered", semaphore_entered, METH_NOARGS, PyDoc_STR("What was acquired is a block's.")},
    {"__enter__", semaphore_enter, METH_NOARGS,
     PyDoc_STR("__enter__($self)\n--\n\nTake one from the first semaphore; itself.")},
    {"__exit__", (PyCFunction)(void (*)(void))semaphore_exit, METH_FASTCALL,
     PyDoc_STR("__exit__($self, *exception)\n--\n\nPut it back.")},
    {NULL, NULL, 0, NULL},
};

static void
semaphore_dealloc(PyObject *object)
{
    kin_release(object);
}

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A System V semaphore set.")},
    {Py_tp_dealloc, semaphore_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.SysvSemaphore",
    .basicsize = sizeof(struct semaphore),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

/* ------------------------------------------------------------------------------- the module */

int
kin_add_sysv_semaphore(PyObject *module)
{
    int result = kin_add_type(module, &taking_spec, "SysvTaking");
    if (result == 0)
        result = kin_add_type(module, &spec, "SysvSemaphore");
    return result;
}
