/* Condition: what kinfolk.sync.condition is made of.
 *
 *     Condition()                           closed; to be subclassed, see `_refused`
 *       ._open(buffer, offset, option)      -> a kin_finding; option: (members, the core of a Watcher)
 *       ._repair(buffer, offset)            after KIN_OTHER_BOOT, under a lock; then open again
 *       ._use(mutex)                        the Mutex that it goes with; once
 *       ._close()                           refused while a thread of this process is in a call
 *       .acquire(timeout=None), .release(), .__enter__(), .__exit__(), ._enter(timeout)      the mutex's
 *       .wait(timeout=None)                 -> whether it was notified, or something may have changed
 *       .notify(n=1), .notify_all()
 *       ._join(timeout)                     this process becomes a member, if it is none
 *       ._wake()                            wakes all, without the mutex, which is given up
 *       ._most                              as many members there can be
 *       ._refused(errno, argument)          of the subclass: raises what an errno of the core means
 *
 * Rules:
 * 1. Whoever waits keeps it open, and the mutex, too. Who acquires has joined before.
 * 2. Signal handlers run while the mutex is not held; when one of them raises, the mutex is acquired again first. If there was a
 *    notify, too, it is passed on, since nobody looks what it was for.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <limits.h>

#include "arguments_binding.h"
#include "condition_binding.h"
#include "heap_type_binding.h"
#include "opening_binding.h"
#include "own_methods_binding.h"
#include "timeout_binding.h"
#include "watcher_binding.h"

int kin_add_condition(PyObject *module);

/* A deadline that has passed: nothing is waited for. */
static const struct timespec AT_ONCE;

/* ------------------------------------------------------------------------ opening and closing */

static PyObject *
condition_open(PyObject *object, PyObject *args)
{
    struct kin_condition_handle *self = (struct kin_condition_handle *)object;
    PyObject *buffer, *watcher;
    unsigned members;
    Py_ssize_t offset;
    if (!PyArg_ParseTuple(args, "On(IO):_open", &buffer, &offset, &members, &watcher))
        return NULL;
    struct kin_watcher *core = PyCapsule_GetPointer(watcher, KIN_WATCHER_CAPSULE);
    if (core == NULL)
        return NULL;
    if (self->core.state != NULL)
        return kin_refuse(object, EEXIST, NULL);
    if (kin_place(&self->placed, buffer, offset) < 0)
        return NULL;
    const struct timespec patience = kin_object_patience();
    enum kin_finding found;
    do {
        Py_BEGIN_ALLOW_THREADS /* somebody else may be making it just now */
        found = kin_condition_open(&self->core, self->placed.memory, self->placed.room, members,
                                   core, &patience);
        Py_END_ALLOW_THREADS
    } while (kin_opening_goes_on(found));
    if (found == KIN_SOUND)
        self->watcher = Py_NewRef(watcher);
    else
        kin_unplace(&self->placed);
    return kin_opening_found(found);
}

static PyObject *
condition_repair(PyObject *object, PyObject *args)
{
    (void)object;
    return kin_opening_repair(args, kin_condition_repair);
}

static PyObject *
condition_use(PyObject *object, PyObject *args)
{
    struct kin_condition_handle *self = (struct kin_condition_handle *)object;
    PyObject *module = PyImport_ImportModule("kinfolk._native"), *mutex;
    PyObject *kind = module == NULL ? NULL : PyObject_GetAttrString(module, "Mutex");
    Py_XDECREF(module);
    if (kind == NULL)
        return NULL;
    bool given = PyArg_ParseTuple(args, "O!:_use", kind, &mutex);
    Py_DECREF(kind);
    if (!given)
        return NULL;
    if (self->mutex != NULL)
        return kin_refuse(object, EEXIST, NULL);
    self->mutex = (struct kin_mutex_handle *)Py_NewRef(mutex);
    Py_RETURN_NONE;
}

static void
close_it(struct kin_condition_handle *self)
{
    if (self->core.state == NULL)
        return;
    struct kin_condition core = self->core;
    core.members.terms.guard = &core.guard;
    self->core.state = NULL;
    Py_BEGIN_ALLOW_THREADS /* the watcher may be held by a thread that forks, and wants the GIL */
    kin_condition_close(&core);
    Py_END_ALLOW_THREADS
    kin_unplace(&self->placed);
    Py_CLEAR(self->watcher);
}

static PyObject *
condition_close(PyObject *object, PyObject *unused)
{
    struct kin_condition_handle *self = (struct kin_condition_handle *)object;
    (void)unused;
    if (kin_sleepers_any(&self->sleepers))
        return kin_refuse(object, EBUSY, NULL);
    close_it(self);
    Py_RETURN_NONE;
}

static void
condition_dealloc(PyObject *object)
{
    struct kin_condition_handle *self = (struct kin_condition_handle *)object;
    close_it(self);
    Py_XDECREF((PyObject *)self->mutex);
    kin_release(object);
}

struct kin_mutex *
kin_condition_mutex(struct kin_condition_handle *self)
{
    if (self->core.state == NULL || self->mutex == NULL)
        kin_refuse((PyObject *)self, EBADF, NULL);
    else if (self->mutex->opened == NULL)
        kin_refuse((PyObject *)self->mutex, EBADF, NULL);
    else
        return &self->mutex->opened->mutex;
    return NULL;
}

/* ------------------------------------------------------------------------------------ waiting */

/* The mutex was released, and is acquired again, also if an exception is set. Whether there is one afterwards. */
static bool
come_back(struct kin_condition_handle *self, const struct kin_condition_wait *wait)
{
    if (!kin_mutex_reacquire(self->mutex))
        return false;
    if (!PyErr_Occurred())
        return true;
    if (kin_condition_was_notified(&self->core, wait))
        kin_condition_notify(&self->core, wait->mutex, 1, &AT_ONCE);
    return false;
}

/* Whether it was notified; −1 with an exception set. Neither it nor the mutex is closed meanwhile. */
static int
wait_for(struct kin_condition_handle *self, struct kin_mutex *mutex, const struct timespec *deadline)
{
    struct kin_condition_wait wait;
    int error;
    do {
        Py_BEGIN_ALLOW_THREADS
        error = kin_condition_begin(&self->core, mutex, &wait, deadline);
        Py_END_ALLOW_THREADS
    } while (error == EINTR && PyErr_CheckSignals() == 0); /* while somebody is slow with the guard */
    if (error == ETIMEDOUT)
        return 0;
    if (error == 0) {
        do {
            Py_BEGIN_ALLOW_THREADS
            error = kin_condition_sleep(&self->core, &wait, deadline);
            Py_END_ALLOW_THREADS
        } while (error == EINTR && PyErr_CheckSignals() == 0);
        if (wait.released && !come_back(self, &wait))
            return -1;
        if (kin_condition_was_notified(&self->core, &wait))
            return 1;
        if (error == ETIMEDOUT)
            return 0;
    }
    kin_refuse((PyObject *)self, error, NULL);
    return -1;
}

static PyObject *
condition_wait(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    struct kin_condition_handle *self = (struct kin_condition_handle *)object;
    struct timespec deadline;
    PyObject *timeout = kin_timeout_among("wait", arguments, count, names);
    if (timeout == NULL)
        return NULL;
    if (timeout != Py_None && !kin_read_timeout(timeout, &deadline))
        return kin_refuse(object, EINVAL, timeout);
    struct kin_mutex *mutex = kin_condition_mutex(self);
    if (mutex == NULL)
        return NULL;
    uint32_t entered = kin_sleepers_enter(&self->sleepers);
    uint32_t entered_mutex = kin_sleepers_enter(&self->mutex->sleepers);
    int result = wait_for(self, mutex, timeout == Py_None ? NULL : &deadline);
    kin_sleepers_leave(&self->mutex->sleepers, entered_mutex);
    kin_sleepers_leave(&self->sleepers, entered);
    return result < 0 ? NULL : PyBool_FromLong(result);
}

/* ------------------------------------------------------------------------------------- waking */

bool
kin_condition_is_joined(struct kin_condition_handle *self, PyObject *timeout)
{
    struct timespec deadline;
    if (self->core.state != NULL && kin_members_row(&self->core.members) != NULL)
        return true;
    if (timeout != Py_None && !kin_read_timeout(timeout, &deadline))
        return kin_refuse((PyObject *)self, EINVAL, timeout) != NULL;
    if (self->core.state == NULL)
        return kin_refuse((PyObject *)self, EBADF, NULL) != NULL;
    uint32_t entered = kin_sleepers_enter(&self->sleepers);
    int error;
    do {
        Py_BEGIN_ALLOW_THREADS
        error = kin_condition_join(&self->core, timeout == Py_None ? NULL : &deadline);
        Py_END_ALLOW_THREADS
    } while (error == EINTR && PyErr_CheckSignals() == 0);
    kin_sleepers_leave(&self->sleepers, entered);
    return error == 0 || kin_refuse((PyObject *)self, error, timeout) != NULL;
}

/* The guard is to be waited for. */
static int
notify_without_the_gil(struct kin_condition_handle *self, struct kin_mutex *mutex, int count)
{
    uint32_t entered = kin_sleepers_enter(&self->sleepers);
    uint32_t entered_mutex = kin_sleepers_enter(&self->mutex->sleepers);
    int error;
    do {
        Py_BEGIN_ALLOW_THREADS
        error = kin_condition_notify(&self->core, mutex, count, NULL);
        Py_END_ALLOW_THREADS
    } while (error == EINTR && PyErr_CheckSignals() == 0);
    kin_sleepers_leave(&self->mutex->sleepers, entered_mutex);
    kin_sleepers_leave(&self->sleepers, entered);
    return error;
}

static PyObject *
notify(struct kin_condition_handle *self, int count)
{
    struct kin_mutex *mutex = kin_condition_mutex(self);
    if (mutex == NULL || !kin_condition_is_joined(self, Py_None))
        return NULL;
    int error = kin_condition_notify(&self->core, mutex, count, &AT_ONCE);
    if (error == ETIMEDOUT)
        error = notify_without_the_gil(self, mutex, count);
    if (error != 0)
        return kin_refuse((PyObject *)self, error, NULL);
    Py_RETURN_NONE;
}

static PyObject *
condition_notify(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    static const char *const expected[] = {"n"};
    PyObject *values[1] = {NULL};
    int number = 1;
    if (!kin_read_arguments("notify", expected, 1, values, arguments, count, names))
        return NULL;
    if (values[0] != NULL) {
        long long given;
        if (!kin_read_number(values[0], &given))
            return NULL;
        if (given < 1)
            return kin_refuse(object, EDOM, values[0]);
        number = given > INT_MAX ? INT_MAX : (int)given;
    }
    return notify((struct kin_condition_handle *)object, number);
}

static PyObject *
condition_notify_all(PyObject *object, PyObject *const *arguments, Py_ssize_t count,
                     PyObject *names)
{
    if (!kin_read_arguments("notify_all", NULL, 0, NULL, arguments, count, names))
        return NULL;
    return notify((struct kin_condition_handle *)object, INT_MAX);
}

static PyObject *
condition_join(PyObject *object, PyObject *timeout)
{
    if (!kin_condition_is_joined((struct kin_condition_handle *)object, timeout))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
condition_wake(PyObject *object, PyObject *unused)
{
    struct kin_condition_handle *self = (struct kin_condition_handle *)object;
    (void)unused;
    if (self->core.state != NULL)
        kin_condition_wake(&self->core);
    Py_RETURN_NONE;
}

static PyObject *
condition_most(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLong(((struct kin_condition_handle *)object)->core.members.count);
}

static PyObject *condition_init_subclass(PyObject *type, PyObject *unused);

static PyMethodDef methods[] = {
    {"__init_subclass__", condition_init_subclass, METH_CLASS | METH_NOARGS,
     PyDoc_STR("Give a subclass methods of its own.")},
    {"_open", condition_open, METH_VARARGS, PyDoc_STR("Open what lies there, or make it.")},
    {"_repair", condition_repair, METH_VARARGS, PyDoc_STR("Make what was of another boot usable.")},
    {"_use", condition_use, METH_VARARGS, PyDoc_STR("Take a mutex for its own.")},
    {"_close", condition_close, METH_NOARGS, PyDoc_STR("Let go of the memory.")},
    {"wait", (PyCFunction)(void (*)(void))condition_wait, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("wait($self, timeout=None)\n--\n\n"
               "Release the mutex, wait for a notify, and acquire the mutex again. False after `timeout`\n"
               "seconds without one; None waits for ever.\n\n"
               "True means: look whether there is what you wait for. It also comes without a notify, when\n"
               "another process that uses the condition has died; and the mutex may tell that its owner\n"
               "did. `wait_for` looks by itself.\n\n"
               "Raises NotOwner when this thread does not hold the mutex, OwnerDied when that was given\n"
               "up meanwhile (then it is not held any more), InvalidValue, LimitReached, Closed. Signal\n"
               "handlers run without the mutex; what they raise comes once it is held again. futex(2)")},
    {"notify", (PyCFunction)(void (*)(void))condition_notify, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("notify($self, n=1)\n--\n\n"
               "Wake `n` of those who wait, or all, if they are fewer; sometimes some more.\n\n"
               "Raises NotOwner when this thread does not hold the mutex, InvalidValue, LimitReached,\n"
               "Closed.")},
    {"notify_all", (PyCFunction)(void (*)(void))condition_notify_all, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("notify_all($self)\n--\n\nWake all who wait. Raises as `notify`.")},
    {"acquire", (PyCFunction)(void (*)(void))kin_condition_acquire, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("acquire($self, timeout=None)\n--\n\n"
               "Acquire the mutex, waiting up to `timeout` seconds; None waits for ever, 0 tries.\n\n"
               "Raises as Mutex.acquire, and LimitReached when too many processes use the condition.")},
    {"release", kin_condition_release, METH_NOARGS,
     PyDoc_STR("release($self)\n--\n\nRelease the mutex. Raises as Mutex.release.")},
    {"_enter", kin_condition_enter_within, METH_O, PyDoc_STR("__enter__ with a timeout.")},
    {"__enter__", kin_condition_enter, METH_NOARGS,
     PyDoc_STR("__enter__($self)\n--\n\nAcquire the mutex; gives it.")},
    {"__exit__", kin_condition_exit, METH_VARARGS,
     PyDoc_STR("__exit__($self, *exception)\n--\n\nRelease the mutex, unless it was given up.")},
    {"_join", condition_join, METH_O, PyDoc_STR("Let others watch this process.")},
    {"_wake", condition_wake, METH_NOARGS, PyDoc_STR("Wake all, without the mutex.")},
    {NULL, NULL, 0, NULL},
};

static PyObject *
condition_init_subclass(PyObject *type, PyObject *unused)
{
    static const char *const often[] = {"wait", "notify", "notify_all", NULL};
    (void)unused;
    return kin_own_methods(type, methods, often);
}

static PyGetSetDef attributes[] = {
    {"_most", condition_most, NULL, PyDoc_STR("As many processes may use it at a time."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A condition in shared memory.")},
    {Py_tp_dealloc, condition_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.Condition",
    .basicsize = sizeof(struct kin_condition_handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int
kin_add_condition(PyObject *module)
{
    return kin_add_type(module, &spec, "Condition");
}
