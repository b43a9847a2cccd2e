/* Event: what kinfolk.sync.event is made of.
 *
 *     Event()                               closed; to be subclassed, see `_refused`
 *       ._open(buffer, offset, None)        -> a kin_finding; 0: it is open, and keeps the buffer
 *       ._repair(buffer, offset)            after KIN_OTHER_BOOT, under a lock; then open again
 *       ._close()                           refused while this process waits for it
 *       .is_set(), .set(), .clear()
 *       .wait(timeout=None)                 -> whether it is set, or was meanwhile
 *       ._refused(errno, timeout)           of the subclass: raises what an errno of the core means
 *     EventWait(event)                      one wait, for a task: it blocks in one thread, and another can end it
 *       .block(milliseconds)                -> as wait; None waits for ever
 *       .wake()                             ends it, or keeps it from beginning
 *       .done                               whether what it waits for has come
 *
 * Rule: while somebody waits it stays open, so that nothing looks at memory that is gone.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>

#include "event.h"
#include "futex.h"
#include "heap_type_binding.h"
#include "object_binding.h"
#include "opening_binding.h"
#include "own_methods_binding.h"
#include "placed_binding.h"
#include "timeout_binding.h"

int kin_add_event(PyObject *module);

struct event {
    PyObject_HEAD
    struct kin_event_state *state; /* NULL: closed */
    struct kin_placed placed;
    struct kin_sleepers sleepers;
};

struct event_wait {
    PyObject_HEAD
    struct event *event;
    uint64_t round;
    struct kin_event_stop stop;
};

/* ------------------------------------------------------------------------ opening and closing */

static PyObject *
event_open(PyObject *object, PyObject *args)
{
    struct event *self = (struct event *)object;
    PyObject *buffer, *option;
    struct kin_placed placed;
    Py_ssize_t offset;
    if (!PyArg_ParseTuple(args, "OnO:_open", &buffer, &offset, &option))
        return NULL;
    if (self->state != NULL)
        return kin_refuse(object, EEXIST, NULL);
    if (kin_place(&placed, buffer, offset) < 0)
        return NULL;
    const struct timespec patience = kin_object_patience();
    enum kin_finding found;
    struct kin_event_state *state;
    do {
        Py_BEGIN_ALLOW_THREADS /* somebody else may be making it just now */
        found = kin_event_open(&state, placed.memory, placed.room, &patience);
        Py_END_ALLOW_THREADS
    } while (kin_opening_goes_on(found));
    if (found == KIN_SOUND) {
        self->state = state;
        self->placed = placed;
    } else {
        kin_unplace(&placed);
    }
    return kin_opening_found(found);
}

static void
repair(void *memory, size_t room)
{
    if (kin_object_look(memory, room, KIN_EVENT, sizeof(struct kin_event_object)) == KIN_OTHER_BOOT)
        kin_event_repair(memory);
}

static PyObject *
event_repair(PyObject *object, PyObject *args)
{
    (void)object;
    return kin_opening_repair(args, repair);
}

static void
close_it(struct event *self)
{
    if (self->state == NULL)
        return;
    self->state = NULL;
    kin_unplace(&self->placed);
}

static PyObject *
event_close(PyObject *object, PyObject *unused)
{
    struct event *self = (struct event *)object;
    (void)unused;
    if (kin_sleepers_any(&self->sleepers))
        return kin_refuse(object, EBUSY, NULL);
    close_it(self);
    Py_RETURN_NONE;
}

static void
event_dealloc(PyObject *object)
{
    close_it((struct event *)object);
    kin_release(object);
}

/* -------------------------------------------------------------------------------------- using */

static struct kin_event_state *
state_of(PyObject *object)
{
    struct kin_event_state *state = ((struct event *)object)->state;
    if (state == NULL)
        kin_refuse(object, EBADF, NULL);
    return state;
}

static PyObject *
event_is_set(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    (void)arguments;
    if (count != 0 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "is_set() takes no arguments");
        return NULL;
    }
    const struct kin_event_state *state = state_of(object);
    return state == NULL ? NULL : PyBool_FromLong(kin_event_is_set(state));
}

static PyObject *
event_set(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    (void)arguments;
    if (count != 0 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "set() takes no arguments");
        return NULL;
    }
    struct kin_event_state *state = state_of(object);
    int error = state == NULL ? 0 : kin_event_set(state);
    if (error != 0)
        return kin_refuse(object, error, NULL);
    return state == NULL ? NULL : Py_NewRef(Py_None);
}

static PyObject *
event_clear(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    (void)arguments;
    if (count != 0 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "clear() takes no arguments");
        return NULL;
    }
    struct kin_event_state *state = state_of(object);
    if (state == NULL)
        return NULL;
    kin_event_clear(state);
    Py_RETURN_NONE;
}

/* 0, ETIMEDOUT, ECANCELED; -1 with an exception set. */
static int
wait_for(struct event *self, uint64_t round, const struct timespec *deadline,
         struct kin_event_stop *stop)
{
    uint32_t entered = kin_sleepers_enter(&self->sleepers);
    int error;
    do {
        Py_BEGIN_ALLOW_THREADS
        error = kin_event_wait(self->state, round, deadline, stop);
        Py_END_ALLOW_THREADS
    } while (error == EINTR && PyErr_CheckSignals() == 0);
    kin_sleepers_leave(&self->sleepers, entered);
    if (error == 0 || error == ETIMEDOUT || error == ECANCELED)
        return error;
    if (error != EINTR)
        kin_refuse((PyObject *)self, error, NULL);
    return -1;
}

static PyObject *
event_wait(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    struct timespec deadline;
    PyObject *timeout = kin_timeout_among("wait", arguments, count, names);
    if (timeout == NULL)
        return NULL;
    if (timeout != Py_None && !kin_read_timeout(timeout, &deadline))
        return kin_refuse(object, EINVAL, timeout);
    const struct kin_event_state *state = state_of(object);
    if (state == NULL)
        return NULL;
    if (kin_event_is_set(state))
        Py_RETURN_TRUE;
    int error = wait_for((struct event *)object, kin_event_round(state),
                         timeout == Py_None ? NULL : &deadline, NULL);
    return error < 0 ? NULL : PyBool_FromLong(error == 0);
}

static PyObject *event_init_subclass(PyObject *type, PyObject *unused);

static PyMethodDef event_methods[] = {
    {"__init_subclass__", event_init_subclass, METH_CLASS | METH_NOARGS,
     PyDoc_STR("Give a subclass methods of its own.")},
    {"_open", event_open, METH_VARARGS, PyDoc_STR("Open what lies there, or make it.")},
    {"_repair", event_repair, METH_VARARGS, PyDoc_STR("Make what was of another boot usable.")},
    {"_close", event_close, METH_NOARGS, PyDoc_STR("Let go of the memory.")},
    {"is_set", (PyCFunction)(void (*)(void))event_is_set, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("is_set($self)\n--\n\n"
               "Whether it is set just now. Raises Closed.")},
    {"set", (PyCFunction)(void (*)(void))event_set, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("set($self)\n--\n\n"
               "Let everybody go who waits, and who will wait until it is cleared. When it returns\n"
               "they are awake.\n\n"
               "Whoever finds it set also finds what was written before. Raises Closed. futex(2)")},
    {"clear", (PyCFunction)(void (*)(void))event_clear, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("clear($self)\n--\n\n"
               "From now on, who comes has to wait. Who has waited when it was set goes all the same.\n\n"
               "Raises Closed.")},
    {"wait", (PyCFunction)(void (*)(void))event_wait, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("wait($self, timeout=None)\n--\n\n"
               "Wait until it is set; whether it is, or was in the meantime. False after `timeout` seconds\n"
               "without it; None waits for ever, 0 looks.\n\n"
               "Raises InvalidValue, Closed. A wait lets Python's signal handlers run, and ends by what they\n"
               "raise. futex(2)")},
    {NULL, NULL, 0, NULL},
};

static PyObject *
event_init_subclass(PyObject *type, PyObject *unused)
{
    static const char *const often[] = {"is_set", "set", "clear", "wait", NULL};
    (void)unused;
    return kin_own_methods(type, event_methods, often);
}

static PyType_Slot event_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("An event in shared memory.")},
    {Py_tp_dealloc, event_dealloc},
    {Py_tp_methods, event_methods},
    {0, NULL},
};

static PyType_Spec event_spec = {
    .name = "kinfolk._native.Event",
    .basicsize = sizeof(struct event),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = event_slots,
};

/* ----------------------------------------------------------------------------- a wait of a task */

static PyObject *
wait_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"", NULL};
    PyObject *module = PyType_GetModule(type), *event;
    PyObject *kind = module == NULL ? NULL : PyObject_GetAttrString(module, "Event");
    if (kind == NULL)
        return NULL;
    bool given = PyArg_ParseTupleAndKeywords(args, keywords, "O!:EventWait", names, kind, &event);
    Py_DECREF(kind);
    const struct kin_event_state *state = given ? state_of(event) : NULL;
    if (state == NULL)
        return NULL;
    struct event_wait *self = kin_allocate(type);
    if (self == NULL)
        return NULL;
    self->event = (struct event *)Py_NewRef(event);
    self->round = kin_event_round(state);
    return (PyObject *)self;
}

static void
wait_dealloc(PyObject *object)
{
    struct event_wait *self = (struct event_wait *)object;
    Py_XDECREF((PyObject *)self->event);
    kin_release(object);
}

static PyObject *
wait_block(PyObject *object, PyObject *milliseconds)
{
    struct event_wait *self = (struct event_wait *)object;
    struct timespec deadline;
    long patience = milliseconds == Py_None ? -1 : PyLong_AsLong(milliseconds);
    if (PyErr_Occurred() || state_of((PyObject *)self->event) == NULL)
        return NULL;
    if (patience >= 0)
        deadline = kin_timespec(kin_now() + (uint64_t)patience * KIN_MILLISECOND);
    int error = wait_for(self->event, self->round, patience < 0 ? NULL : &deadline, &self->stop);
    return error < 0 ? NULL : PyBool_FromLong(error == 0);
}

static PyObject *
wait_wake(PyObject *object, PyObject *unused)
{
    struct event_wait *self = (struct event_wait *)object;
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    kin_event_stop_wait(self->event->state, &self->stop);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *
wait_done(PyObject *object, void *unused)
{
    const struct event_wait *self = (const struct event_wait *)object;
    const struct kin_event_state *state = state_of((PyObject *)self->event);
    (void)unused;
    return state == NULL ? NULL : PyBool_FromLong(kin_event_has_come(state, self->round));
}

static PyMethodDef wait_methods[] = {
    {"block", wait_block, METH_O, PyDoc_STR("Wait.")},
    {"wake", wait_wake, METH_NOARGS, PyDoc_STR("End the wait, or keep it from beginning.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef wait_attributes[] = {
    {"done", wait_done, NULL, PyDoc_STR("Whether it has come."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot wait_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("One wait for an event, for a task.")},
    {Py_tp_new, wait_new},
    {Py_tp_dealloc, wait_dealloc},
    {Py_tp_methods, wait_methods},
    {Py_tp_getset, wait_attributes},
    {0, NULL},
};

static PyType_Spec wait_spec = {
    .name = "kinfolk._native.EventWait",
    .basicsize = sizeof(struct event_wait),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = wait_slots,
};

int
kin_add_event(PyObject *module)
{
    int result = kin_add_type(module, &event_spec, "Event");
    return result < 0 ? -1 : kin_add_type(module, &wait_spec, "EventWait");
}
