/* Semaphore: what kinfolk.sync.semaphore is made of.
 *
 *     Semaphore()                           closed; to be subclassed, see `_refused`
 *       ._open(buffer, offset, option)      -> a kin_finding; option: (initial, maximum, keeps, members, the
 *                                           core of a Watcher); 0: it is open, and keeps the buffer
 *       ._repair(buffer, offset)            after KIN_OTHER_BOOT, under a lock; then open again
 *       ._close()                           refused while a thread of this process is in a call
 *       .acquire(timeout=None, n=1), .release(n=1)
 *       .__enter__(), .__exit__()           acquire, itself; release, unless it was acquired by the parent
 *       ._enter(timeout, n), ._exit(n)      the same for several
 *       ._entered()                         a block has begun that was acquired for by a task
 *       .value
 *       ._now                               the value, without a look for the dead
 *       ._terms                             (initial, maximum, keeps, members), as it was made
 *       ._members()                         [(pid, balance), …]
 *       ._refused(errno, argument)          of the subclass: raises what an errno of the core means
 *
 * Rules:
 * 1. Nothing stands between a call and the core: with enough there, an acquire of one is a few instructions, and
 *    keeps the GIL. Whatever may take longer is done without it.
 * 2. A thread without the GIL counts as a sleeper: nobody closes under it.
 * 3. Whether it is open is looked at after the arguments are read: a number may be an object, whose methods close it.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>

#include "arguments_binding.h"
#include "futex.h"
#include "heap_type_binding.h"
#include "opening_binding.h"
#include "own_methods_binding.h"
#include "semaphore_binding.h"
#include "timeout_binding.h"
#include "watcher_binding.h"

int kin_add_semaphore(PyObject *module);

bool
kin_semaphore_is_open(struct kin_semaphore_handle *self)
{
    return self->core.state != NULL || kin_refuse((PyObject *)self, EBADF, NULL) != NULL;
}

/* ------------------------------------------------------------------------ opening and closing */

static PyObject *
semaphore_open(PyObject *object, PyObject *args)
{
    struct kin_semaphore_handle *self = (struct kin_semaphore_handle *)object;
    struct kin_semaphore_terms terms;
    PyObject *buffer, *watcher;
    Py_ssize_t offset;
    if (!PyArg_ParseTuple(args, "On(IIIIO):_open", &buffer, &offset, &terms.initial, &terms.maximum,
                          &terms.keeps, &terms.members, &watcher))
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
        found = kin_semaphore_open(&self->core, self->placed.memory, self->placed.room, &terms,
                                   core, &patience);
        Py_END_ALLOW_THREADS
    } while (kin_opening_goes_on(found));
    if (found == KIN_SOUND) {
        self->watcher = Py_NewRef(watcher);
    } else {
        self->core.state = NULL;
        kin_unplace(&self->placed);
    }
    return kin_opening_found(found);
}

static PyObject *
semaphore_repair(PyObject *object, PyObject *args)
{
    (void)object;
    return kin_opening_repair(args, kin_semaphore_repair);
}

static void
close_it(struct kin_semaphore_handle *self)
{
    if (self->core.state == NULL)
        return;
    struct kin_semaphore core = self->core;
    core.members.terms.guard = &core.guard;
    self->core.state = NULL;
    Py_BEGIN_ALLOW_THREADS /* the watcher may be held by a thread that forks, and wants the GIL */
    kin_semaphore_close(&core);
    Py_END_ALLOW_THREADS
    kin_unplace(&self->placed);
    Py_CLEAR(self->watcher);
}

static PyObject *
semaphore_close(PyObject *object, PyObject *unused)
{
    struct kin_semaphore_handle *self = (struct kin_semaphore_handle *)object;
    (void)unused;
    if (kin_sleepers_any(&self->sleepers))
        return kin_refuse(object, EBUSY, NULL);
    close_it(self);
    Py_RETURN_NONE;
}

static void
semaphore_dealloc(PyObject *object)
{
    close_it((struct kin_semaphore_handle *)object);
    kin_release(object);
}

/* ------------------------------------------------------------------------------- arguments */

uint32_t
kin_semaphore_read_count(struct kin_semaphore_handle *self, PyObject *count, uint32_t most)
{
    long long number;
    if (!kin_read_number(count, &number))
        return 0;
    if (number < 1 || number > most) {
        kin_refuse((PyObject *)self, EDOM, count);
        return 0;
    }
    return (uint32_t)number;
}

/* --------------------------------------------------------------------------------- acquiring */

/* Sleeps: 0; an errno; -1 with an exception set, by a signal handler. Neither that nor another thread closes it
 * meanwhile. */
static int
sleep_for(struct kin_semaphore_handle *self, uint32_t count, const struct timespec *deadline)
{
    uint32_t entered = kin_sleepers_enter(&self->sleepers);
    int error;
    do {
        Py_BEGIN_ALLOW_THREADS
        error = kin_semaphore_acquire(&self->core, count, deadline, NULL);
        Py_END_ALLOW_THREADS
    } while (error == EINTR && PyErr_CheckSignals() == 0);
    kin_sleepers_leave(&self->sleepers, entered);
    return error == EINTR ? -1 : error;
}

int
kin_semaphore_try_here(struct kin_semaphore_handle *self, uint32_t count)
{
    int error;
    KIN_BEGIN_CALL(self)
    error = kin_semaphore_try(&self->core, count);
    KIN_END_CALL(self)
    return error;
}

/* `timeout` may be NULL. */
static bool
acquire(struct kin_semaphore_handle *self, PyObject *timeout, uint32_t count)
{
    struct timespec deadline;
    bool now = false;
    if (timeout == Py_None)
        timeout = NULL;
    if (timeout != NULL) {
        if (!kin_read_timeout(timeout, &deadline))
            return kin_refuse((PyObject *)self, EINVAL, timeout) != NULL;
        now = kin_has_passed(&deadline);
    }
    if (!kin_semaphore_is_open(self))
        return false;
    int error = count == 1 ? kin_semaphore_take_one(&self->core) : EBUSY;
    if (error == EBUSY)
        error = now ? kin_semaphore_try_here(self, count)
                    : sleep_for(self, count, timeout == NULL ? NULL : &deadline);
    if (error > 0)
        kin_refuse((PyObject *)self, error == EBUSY ? ETIMEDOUT : error, timeout);
    return error == 0;
}

static PyObject *
semaphore_acquire(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    static const char *const expected[] = {"timeout", "n"};
    struct kin_semaphore_handle *self = (struct kin_semaphore_handle *)object;
    PyObject *values[2] = {NULL, NULL};
    uint32_t number = 1;
    if (count != 0 || names != NULL) {
        if (!kin_semaphore_is_open(self) ||
            !kin_read_arguments("acquire", expected, 2, values, arguments, count, names))
            return NULL;
        if (values[1] != NULL)
            number = kin_semaphore_read_count(self, values[1], self->core.maximum);
        if (number == 0)
            return NULL;
    }
    if (!acquire(self, values[0], number))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
enter(struct kin_semaphore_handle *self, PyObject *timeout, uint32_t count)
{
    if (!acquire(self, timeout, count))
        return NULL;
    kin_entered_add(&self->entered);
    return Py_NewRef((PyObject *)self);
}

static PyObject *
semaphore_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    return enter((struct kin_semaphore_handle *)object, NULL, 1);
}

static PyObject *
semaphore_enter_for(PyObject *object, PyObject *args)
{
    struct kin_semaphore_handle *self = (struct kin_semaphore_handle *)object;
    PyObject *timeout, *count;
    if (!PyArg_ParseTuple(args, "OO:_enter", &timeout, &count) || !kin_semaphore_is_open(self))
        return NULL;
    uint32_t number = kin_semaphore_read_count(self, count, self->core.maximum);
    return number == 0 ? NULL : enter(self, timeout, number);
}

/* --------------------------------------------------------------------------------- releasing */

int
kin_semaphore_release_here(struct kin_semaphore_handle *self, uint32_t count)
{
    int error = count == 1 ? kin_semaphore_give_one(&self->core) : EBUSY;
    if (error == EBUSY) {
        do {
            KIN_BEGIN_CALL(self)
            error = kin_semaphore_release(&self->core, count);
            KIN_END_CALL(self)
        } while (error == EINTR && PyErr_CheckSignals() == 0);
    }
    return error;
}

static PyObject *
semaphore_release(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    static const char *const expected[] = {"n"};
    struct kin_semaphore_handle *self = (struct kin_semaphore_handle *)object;
    PyObject *values[1] = {NULL};
    uint32_t number = 1;
    if (count != 0 || names != NULL) {
        if (!kin_read_arguments("release", expected, 1, values, arguments, count, names))
            return NULL;
        if (values[0] != NULL)
            number = kin_semaphore_read_count(self, values[0], KIN_SEMAPHORE_MOST);
        if (number == 0)
            return NULL;
    }
    if (!kin_semaphore_is_open(self))
        return NULL;
    int error = kin_semaphore_release_here(self, number);
    if (error != 0)
        return kin_refuse(object, error, NULL);
    Py_RETURN_NONE;
}

/* The end of a block, in which so many were held. */
static PyObject *
leave(struct kin_semaphore_handle *self, uint32_t count)
{
    if (!kin_semaphore_is_open(self))
        return NULL;
    /* A forked child leaves a block that its parent entered, and is in. */
    int error = EPERM;
    if (kin_entered_remove(&self->entered))
        error = kin_semaphore_release_here(self, count);
    if (error != 0)
        return kin_refuse((PyObject *)self, error, NULL);
    Py_RETURN_NONE;
}

static PyObject *
semaphore_exit(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    (void)arguments;
    (void)count;
    return leave((struct kin_semaphore_handle *)object, 1);
}

static PyObject *
semaphore_exit_of(PyObject *object, PyObject *count)
{
    struct kin_semaphore_handle *self = (struct kin_semaphore_handle *)object;
    uint32_t number = kin_semaphore_read_count(self, count, KIN_SEMAPHORE_MOST);
    return number == 0 ? NULL : leave(self, number);
}

static PyObject *
semaphore_entered(PyObject *object, PyObject *unused)
{
    (void)unused;
    kin_entered_add(&((struct kin_semaphore_handle *)object)->entered);
    Py_RETURN_NONE;
}

static PyObject *semaphore_init_subclass(PyObject *type, PyObject *unused);

static PyMethodDef methods[] = {
    {"__init_subclass__", semaphore_init_subclass, METH_CLASS | METH_NOARGS,
     PyDoc_STR("Give a subclass methods of its own.")},
    {"_open", semaphore_open, METH_VARARGS, PyDoc_STR("Open what lies there, or make it.")},
    {"_repair", semaphore_repair, METH_VARARGS,
     PyDoc_STR("Make what was of another boot usable.")},
    {"_close", semaphore_close, METH_NOARGS, PyDoc_STR("Let go of the memory.")},
    {"_members", kin_semaphore_members, METH_NOARGS, PyDoc_STR("Who uses it, and holds how many.")},
    {"acquire", (PyCFunction)(void (*)(void))semaphore_acquire, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("acquire($self, timeout=None, n=1)\n--\n\n"
               "Take one, or `n` at once, waiting up to `timeout` seconds; None waits for ever, 0 tries.\n\n"
               "Raises Timeout, InvalidValue for an `n` that can never be there, LimitReached when as\n"
               "many processes use it as it was made for, or when a descriptor or thread for watching\n"
               "them can't be had, CorruptObject, Closed. A wait lets Python's signal handlers run, and\n"
               "ends by what they raise. futex(2)")},
    {"release", (PyCFunction)(void (*)(void))semaphore_release, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("release($self, n=1)\n--\n\n"
               "Give one back, or `n`; or add them: whoever releases need not have acquired.\n\n"
               "Raises InvalidValue when a bounded one would have more than it began with,\n"
               "LimitReached beyond 16,777,215, CorruptObject, Closed, and what a signal handler raises\n"
               "while another process is slow to let this one in; then nothing was released.")},
    {"__enter__", semaphore_enter, METH_NOARGS,
     PyDoc_STR("__enter__($self)\n--\n\nAcquire one; itself.")},
    {"__exit__", (PyCFunction)(void (*)(void))semaphore_exit, METH_FASTCALL,
     PyDoc_STR("__exit__($self, *exception)\n--\n\n"
               "Release one. Raises as `release`, and ForkedCopy when the block was entered by the\n"
               "parent, before the fork.")},
    {"_entered", semaphore_entered, METH_NOARGS, PyDoc_STR("A block has begun.")},
    {"_enter", semaphore_enter_for, METH_VARARGS, PyDoc_STR("__enter__, with all it takes.")},
    {"_exit", semaphore_exit_of, METH_O, PyDoc_STR("__exit__, of so many.")},
    {NULL, NULL, 0, NULL},
};

static PyObject *
semaphore_init_subclass(PyObject *type, PyObject *unused)
{
    static const char *const often[] = {"acquire", "release", NULL};
    (void)unused;
    return kin_own_methods(type, methods, often);
}

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A semaphore in shared memory.")},
    {Py_tp_dealloc, semaphore_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, kin_semaphore_attributes},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.Semaphore",
    .basicsize = sizeof(struct kin_semaphore_handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int
kin_add_semaphore(PyObject *module)
{
    return kin_add_type(module, &spec, "Semaphore");
}
