/* Shortcuts: what an end of a channel does at once, after a short spin, or a sleep without a time limit, without Python's code in between.
 *
 *     end.send_bytes(data)  ──> here ── done at once ──────────────────────────> back
 *                                └── else: type(end).send_bytes(end, data) ──> turnstile, steps, sleep, errors
 *
 * Rules:
 * 1. They mean what the methods mean that they stand for. All that is not simple is left to these, with the same arguments: to
 *    sleep, to refuse, to translate.
 * 2. None is taken while one of the guards (a dict or list) holds anything, or, for one that sends, there is news of who
 *    is there.
 */

#include <errno.h>

#include "ring_binding.h"
#include "timeout_binding.h"

PyObject *
kin_ring_py_shorten(PyObject *object, PyObject *args)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    PyObject *end, *guards, *dropped;
    if (!PyArg_ParseTuple(args, "OO!O:shorten", &end, &PyTuple_Type, &guards, &dropped))
        return NULL;
    Py_ssize_t count = PyTuple_Size(guards);
    if (count > KIN_RING_GUARDS)
        return kin_ring_fail(E2BIG);
    PyObject *reference = PyWeakref_NewRef(end, NULL);
    if (reference == NULL)
        return NULL;
    Py_CLEAR(self->end);
    self->end = reference;
    Py_CLEAR(self->dropped);
    self->dropped = Py_NewRef(dropped);
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_CLEAR(self->guards[i]);
        self->guards[i] = Py_NewRef(PyTuple_GetItem(guards, i));
        self->sizes[i] = PyDict_Check(self->guards[i]) ? PyDict_Size : PyList_Size;
    }
    Py_RETURN_NONE;
}

/* Whether nothing has changed since it was looked who is there, and that is watched. */
static inline bool
is_watched(const struct kin_ring_object *self)
{
    const struct kin_ring *ring = &self->opened->ring;
    return atomic_load_explicit(&ring->theirs->departures, memory_order_acquire) ==
               self->departures &&
           atomic_load_explicit(&ring->alarm, memory_order_relaxed) == self->alarms;
}

/* Whether a shortcut may be taken: rule 1. */
bool
kin_ring_is_clear(struct kin_ring_object *self)
{
    if (self->opened == NULL || self->end == NULL ||
        self->opened->ring.forks != kin_robust_forks())
        return false;
    for (int i = 0; i < KIN_RING_GUARDS && self->guards[i] != NULL; i++)
        if (self->sizes[i](self->guards[i]) != 0)
            return false;
    if (!self->sends)
        return true; /* what is there is received, whoever is there */
    return is_watched(self);
}

/* What the method of the end says: that of its class, with the same arguments. The end is there no more when just its method was
 * kept: a reference to it would be a cycle, and an end that is dropped is to be closed at once. */
PyObject *
kin_ring_detour(struct kin_ring_object *self, const char *name, PyObject *const *arguments, Py_ssize_t count,
       PyObject *names)
{
    PyObject *end = self->end == NULL ? Py_None : PyWeakref_GetObject(self->end);
    Py_ssize_t named = names == NULL ? 0 : PyTuple_Size(names);
    if (end == NULL)
        return kin_ring_fail(EBADF);
    if (end == Py_None)
        return PyObject_CallNoArgs(self->dropped); /* which raises */
    Py_INCREF(end);
    PyObject *result = NULL;
    PyObject *method = PyObject_GetAttrString((PyObject *)Py_TYPE(end), name);
    PyObject *positional = PyTuple_New(count + 1), *by_name = named == 0 ? NULL : PyDict_New();
    if (method == NULL || positional == NULL || (named != 0 && by_name == NULL))
        goto done;
    PyTuple_SetItem(positional, 0, Py_NewRef(end));
    for (Py_ssize_t i = 0; i < count; i++)
        PyTuple_SetItem(positional, i + 1, Py_NewRef(arguments[i]));
    for (Py_ssize_t i = 0; i < named; i++)
        if (PyDict_SetItem(by_name, PyTuple_GetItem(names, i), arguments[count + i]) < 0)
            goto done;
    result = PyObject_Call(method, positional, by_name);
done:
    Py_XDECREF(method);
    Py_XDECREF(positional);
    Py_XDECREF(by_name);
    Py_DECREF(end);
    return result;
}

/* Whether there is nothing by name but a timeout that makes sense: that may be left aside when nothing is waited for. */
bool
kin_ring_is_simple(PyObject *const *values, PyObject *names)
{
    if (names == NULL)
        return true;
    if (PyTuple_Size(names) != 1 ||
        PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "timeout") != 0)
        return false;
    struct timespec unused;
    return values[0] == Py_None || kin_read_timeout(values[0], &unused);
}

/* After EAGAIN: waits until it is worth another try. False: not like this; perhaps with an exception, of a signal handler. */
static bool
wait_shortly(struct kin_ring_object *self, uint64_t need, bool for_ever)
{
    struct kin_opened_ring *opened = self->opened;
    if (kin_ring_spin(&opened->ring, need))
        return true;
    if (!for_ever || !is_watched(self))
        return false;
    int error;
    self->waits++;
    opened->inside++;
    Py_BEGIN_ALLOW_THREADS
    error = kin_ring_wait(&opened->ring, self->alarms, NULL);
    Py_END_ALLOW_THREADS
    kin_ring_come_out(opened);
    if (error == EINTR && PyErr_CheckSignals() < 0)
        return false;
    return (error == 0 || error == EINTR) && self->opened == opened;
}

static bool
send_shortly(struct kin_ring_object *self, PyObject *data, bool for_ever)
{
    struct kin_opened_ring *opened = self->opened;
    char *start;
    Py_ssize_t length;
    PyBytes_AsStringAndSize(data, &start, &length);
    if (length > KIN_RING_LONG || (uint64_t)length > kin_ring_most(&opened->ring))
        return false;
    struct iovec piece = {start, (size_t)length};
    for (;;) {
        int error = kin_ring_enter(&opened->ring, KIN_MUTEX_AWAKE);
        if (error == 0)
            error = kin_ring_put_and_leave(&opened->ring, &piece, 1, (uint64_t)length, KIN_RING_RAW);
        if (error == 0) {
            self->messages++;
            self->size += (unsigned long long)length;
            return true;
        }
        if (error != EAGAIN || !wait_shortly(self, kin_ring_framed((uint64_t)length), for_ever) ||
            !kin_ring_is_clear(self))
            return false;
    }
}

static PyObject *
send_by(const char *name, PyObject *object, PyObject *const *arguments, Py_ssize_t count,
        PyObject *names)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    if (count == 1 && PyBytes_CheckExact(arguments[0]) && kin_ring_is_clear(self) &&
        kin_ring_is_simple(arguments + 1, names) && send_shortly(self, arguments[0], names == NULL))
        Py_RETURN_NONE;
    if (PyErr_Occurred())
        return NULL;
    return kin_ring_detour(self, name, arguments, count, names);
}

PyObject *
kin_ring_py_send_bytes(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    return send_by("send_bytes", object, arguments, count, names);
}

PyObject *
kin_ring_py_send(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    return send_by("send", object, arguments, count, names);
}

/* The object of a message in a block, inside; leaves. NULL without an exception: not like this, and withdrawn. */
static PyObject *
take_block(struct kin_ring_object *self, const struct kin_ring_frame *frame)
{
    struct kin_opened_ring *opened = self->opened;
    struct kin_ring *ring = &opened->ring;
    struct kin_block block;
    if (kin_ring_next_block(ring, frame, &block) != 0) {
        kin_ring_withdraw(ring);
        return NULL;
    }
    /* Taken, wherever it lies: what is held and not taken, another end of this process may receive meanwhile, under the same bit. */
    kin_ring_take(ring, frame);
    kin_ring_leave(ring);
    self->messages++;
    self->size += block.length;
    PyObject *body = kin_block_received(opened, &block, frame->kind);
    if (body != NULL && frame->kind == KIN_RING_MEMORY) {
        PyObject *view = PyMemoryView_FromObject(body);
        Py_DECREF(body);
        return view;
    }
    PyObject *end = Py_XNewRef(PyWeakref_GetObject(self->end)), *object = NULL;
    if (body != NULL && end != NULL)
        object = PyObject_CallMethod(end, "_unpacked", "iO", (int)frame->kind, body);
    Py_XDECREF(body);
    Py_XDECREF(end);
    return object;
}

/* A new reference; NULL without an exception: not like this. */
static PyObject *
take_shortly(struct kin_ring_object *self, bool for_ever, bool decodes)
{
    struct kin_opened_ring *opened = self->opened;
    struct kin_ring *ring = &opened->ring;
    struct kin_ring_frame frame;
    for (;;) {
        int error = kin_ring_enter(ring, KIN_MUTEX_AWAKE);
        if (error != 0)
            return NULL;
        error = kin_ring_next(ring, &frame);
        PyObject *bytes = NULL;
        if (error == 0 && frame.kind == KIN_RING_RAW && frame.flags == 0 &&
            frame.length <= KIN_RING_LONG) {
            bytes = PyBytes_FromStringAndSize(NULL, frame.length);
            if (bytes != NULL) {
                kin_ring_copy_and_leave(ring, &frame, PyBytes_AsString(bytes));
                self->messages++;
                self->size += frame.length;
                return bytes;
            }
            PyErr_Clear(); /* the detour says so */
        }
        if (error == 0 && decodes && frame.flags == KIN_RING_IN_BLOCK && kin_is_looked_at(frame.kind))
            return take_block(self, &frame);
        kin_ring_withdraw(ring);
        if (error != EAGAIN || !wait_shortly(self, 1, for_ever) || !kin_ring_is_clear(self))
            return NULL;
    }
}

static PyObject *
receive_by(const char *name, bool decodes, PyObject *object, PyObject *const *arguments,
           Py_ssize_t count, PyObject *names)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    if (count == 0 && kin_ring_is_clear(self) && kin_ring_is_simple(arguments, names)) {
        PyObject *bytes = take_shortly(self, names == NULL, decodes);
        if (bytes != NULL || PyErr_Occurred())
            return bytes;
    }
    return kin_ring_detour(self, name, arguments, count, names);
}

PyObject *
kin_ring_py_recv_bytes(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    return receive_by("recv_bytes", false, object, arguments, count, names);
}

PyObject *
kin_ring_py_recv(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    return receive_by("recv", true, object, arguments, count, names);
}
