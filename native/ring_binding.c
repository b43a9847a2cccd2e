/* Ring: one end of a ring, for kinfolk.channels.ring.
 *
 *     Ring(sends)                           closed
 *       .open(buffer, capacity)             -> a kin_finding; 0: it is open, and keeps the buffer
 *       .close()                            waits for nobody: who is inside lets go of the buffer
 *       .put(kind, parts)                   -> whether there was room
 *       .take()                             -> (kind, bytes), or None
 *       .wait(milliseconds, alarm)          sleeps until either may do better; None: for ever
 *       .alarm()                            ends the wait in another thread
 *       .depart()                           has the other side look who is there
 *       .look()                             nothing but a departure or an alarm from now on is news
 *       .alarms, .depth, .capacity, .most, .messages, .size, .waker
 *
 *       .shorten(end, guards)               from then on, for an end of the channel:
 *       .send_bytes, .send, .send_many      quicker than its own; of the same meaning
 *       .recv_bytes, .recv, .recv_many
 *
 * The shortcuts do what is done at once, or after a short spin; everything else they leave to the method of the end that
 * they stand for, with the same arguments: to sleep, to refuse, to translate.
 *
 * Rules:
 * 1. Nothing is done by a shortcut while one of the `guards` (a dict or list) holds anything, or there is news of who is there.
 * 2. The lock of the ring is held without a look at Python's objects, apart from a new bytes object, and never waited for
 *    with the GIL: its holder may be a thread of this process.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "placed_binding.h"
#include "ring.h"
#include "ring_binding.h"
#include "timeout_binding.h"

int kin_add_ring(PyObject *module);

enum {
    MOST_GUARDS = 3,
    MOST_PIECES = 512,
    RAW = 0,               /* the kind of plain bytes, as in codec.py */
    BATCH = 64,            /* messages that a shortcut sends or takes at once */
    LONG_COPY = 64 * 1024, /* bytes; a longer one is not for shortcuts, which keep the GIL */
};

/* What outlives the object while a thread or the robust list may look at it. */
struct opened {
    struct kin_ring ring;
    struct kin_placed placed;
    int references; /* the object, and capsules */
    int inside;     /* threads in it without the GIL; a forked child has none of them */
};

struct ring {
    PyObject_HEAD
    struct opened *opened; /* NULL: closed */
    bool sends;
    uint32_t departures, alarms; /* as they were when it was looked who is there */
    unsigned long long messages, size; /* that went through shortcuts */
    PyObject *end;                     /* a weak reference; NULL: not shortened */
    PyObject *guards[MOST_GUARDS];
};

/* ------------------------------------------------------------------------ opening and closing */

static PyObject *
fail(int error)
{
    if (error == ENOMEM)
        return PyErr_NoMemory();
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *
ring_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"sends", NULL};
    int sends;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "p:Ring", names, &sends))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct ring *self = (struct ring *)allocate(type, 0);
    if (self != NULL)
        self->sends = sends != 0;
    return (PyObject *)self;
}

/* With the GIL, after one of the counts went down. */
static void
let_go(struct opened *opened)
{
    if (opened->references > 0 || opened->inside > 0)
        return;
    if (kin_ring_close(&opened->ring) != 0)
        return; /* a robust list points to it: it stays */
    kin_unplace(&opened->placed);
    free(opened);
}

static void
release(struct opened *opened)
{
    opened->references--;
    let_go(opened);
}

static void
leave(struct opened *opened)
{
    opened->inside--;
    let_go(opened);
}

static void
look(struct ring *self)
{
    struct kin_ring *ring = &self->opened->ring;
    self->departures = atomic_load_explicit(&ring->theirs->departures, memory_order_acquire);
    self->alarms = atomic_load_explicit(&ring->alarm, memory_order_acquire);
}

static PyObject *
ring_open(PyObject *object, PyObject *args)
{
    struct ring *self = (struct ring *)object;
    PyObject *buffer;
    unsigned long long capacity;
    if (!PyArg_ParseTuple(args, "OK:open", &buffer, &capacity))
        return NULL;
    if (self->opened != NULL)
        return fail(EEXIST);
    struct opened *opened = calloc(1, sizeof *opened);
    if (opened == NULL)
        return PyErr_NoMemory();
    if (kin_place(&opened->placed, buffer, 0) < 0) {
        free(opened);
        return NULL;
    }
    enum kin_ring_way way = self->sends ? KIN_RING_SENDS : KIN_RING_RECEIVES;
    enum kin_finding found;
    Py_BEGIN_ALLOW_THREADS /* somebody else may be making it just now */
    found = kin_ring_open(&opened->ring, opened->placed.memory, opened->placed.room, way, capacity);
    Py_END_ALLOW_THREADS
    if (found == KIN_SOUND) {
        opened->references = 1;
        self->opened = opened;
        look(self);
    } else {
        kin_unplace(&opened->placed);
        free(opened);
    }
    return PyLong_FromLong(found);
}

static PyObject *
ring_close(PyObject *object, PyObject *unused)
{
    struct ring *self = (struct ring *)object;
    struct opened *opened = self->opened;
    (void)unused;
    self->opened = NULL;
    if (opened != NULL)
        leave(opened);
    Py_RETURN_NONE;
}

static int
ring_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct ring *self = (struct ring *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->end);
    for (int i = 0; i < MOST_GUARDS; i++)
        Py_VISIT(self->guards[i]);
    return 0;
}

static int
ring_clear(PyObject *object)
{
    struct ring *self = (struct ring *)object;
    Py_CLEAR(self->end);
    for (int i = 0; i < MOST_GUARDS; i++)
        Py_CLEAR(self->guards[i]);
    return 0;
}

static void
ring_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    ring_clear(object);
    if (((struct ring *)object)->opened != NULL)
        release(((struct ring *)object)->opened);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* The ring of an open end, that of this process; NULL with an exception set. */
static struct kin_ring *
ring_of(struct ring *self)
{
    if (self->opened == NULL) {
        fail(EBADF);
        return NULL;
    }
    if (self->opened->ring.forks != kin_robust_forks()) {
        self->opened->inside = 0;
        kin_ring_forked(&self->opened->ring);
    }
    return &self->opened->ring;
}

/* ------------------------------------------------------------------------------ one operation */

static int
put_and_leave(struct kin_ring *ring, const struct iovec *pieces, int count, uint64_t length,
              uint8_t kind)
{
    int error = kin_ring_put(ring, pieces, count, length, kind);
    if (error == 0)
        kin_ring_leave(ring);
    else
        kin_ring_withdraw(ring);
    return error;
}

/* Waits for the lock, if need be, without the GIL. 0 or an errno; −1 with an exception set, by a signal handler. */
static int
send_one(struct opened *opened, const struct iovec *pieces, int count, uint64_t length,
         uint8_t kind)
{
    struct kin_ring *ring = &opened->ring;
    int error = EBUSY;
    if (length <= LONG_COPY) {
        error = kin_ring_enter(ring, KIN_MUTEX_AWAKE);
        if (error == 0)
            return put_and_leave(ring, pieces, count, length, kind);
    }
    if (error != EBUSY)
        return error;
    opened->inside++;
    do {
        Py_BEGIN_ALLOW_THREADS
        error = kin_ring_enter(ring, 0);
        if (error == 0)
            error = put_and_leave(ring, pieces, count, length, kind);
        Py_END_ALLOW_THREADS
    } while (error == EINTR && PyErr_CheckSignals() == 0);
    leave(opened);
    return error == EINTR ? -1 : error;
}

/* Of the next message, inside. */
static int
copy_and_leave(struct kin_ring *ring, const struct kin_ring_frame *frame, void *to)
{
    if (to == NULL) {
        kin_ring_withdraw(ring);
        return ENOMEM;
    }
    kin_ring_copy(ring, frame, to);
    kin_ring_take(ring, frame);
    kin_ring_leave(ring);
    return 0;
}

/* The same while others are at it: the lock is waited for, and given back, without the GIL. So there is no bytes object to
 * copy to as yet. */
static int
take_from_others(struct opened *opened, struct kin_ring_frame *frame, PyObject **bytes)
{
    struct kin_ring *ring = &opened->ring;
    void *copy = NULL;
    int error;
    opened->inside++;
    do {
        Py_BEGIN_ALLOW_THREADS
        error = kin_ring_enter(ring, 0);
        if (error == 0 && (error = kin_ring_next(ring, frame)) != 0)
            kin_ring_withdraw(ring);
        else if (error == 0)
            error = copy_and_leave(ring, frame, copy = malloc((size_t)frame->length + 1));
        Py_END_ALLOW_THREADS
    } while (error == EINTR && PyErr_CheckSignals() == 0);
    leave(opened);
    if (error == 0 && (*bytes = PyBytes_FromStringAndSize(copy, frame->length)) == NULL)
        error = -1;
    free(copy);
    return error == EINTR ? -1 : error;
}

/* As send_one. */
static int
take_one(struct opened *opened, struct kin_ring_frame *frame, PyObject **bytes)
{
    struct kin_ring *ring = &opened->ring;
    int error = kin_ring_enter(ring, KIN_MUTEX_AWAKE);
    if (error != 0)
        return error == EBUSY ? take_from_others(opened, frame, bytes) : error;
    error = kin_ring_next(ring, frame);
    if (error != 0) {
        kin_ring_withdraw(ring);
        return error;
    }
    *bytes = PyBytes_FromStringAndSize(NULL, frame->length);
    if (*bytes == NULL) {
        kin_ring_withdraw(ring);
        return -1;
    }
    void *to = PyBytes_AsString(*bytes);
    if (frame->length <= LONG_COPY)
        return copy_and_leave(ring, frame, to);
    opened->inside++;
    Py_BEGIN_ALLOW_THREADS
    copy_and_leave(ring, frame, to);
    Py_END_ALLOW_THREADS
    leave(opened);
    return 0;
}

static PyObject *
ring_put(PyObject *object, PyObject *args)
{
    struct kin_ring *ring = ring_of((struct ring *)object);
    unsigned char kind;
    PyObject *parts;
    if (ring == NULL || !PyArg_ParseTuple(args, "bO!:put", &kind, &PyTuple_Type, &parts))
        return NULL;
    Py_ssize_t count = PyTuple_Size(parts), held = 0;
    if (count > MOST_PIECES)
        return fail(E2BIG);
    Py_buffer *views = PyMem_Calloc((size_t)count + 1, sizeof *views);
    struct iovec *pieces = PyMem_Calloc((size_t)count + 1, sizeof *pieces);
    uint64_t length = 0;
    int error = views == NULL || pieces == NULL ? ENOMEM : 0;
    for (; error == 0 && held < count; held++) {
        if (PyObject_GetBuffer(PyTuple_GetItem(parts, held), &views[held], PyBUF_SIMPLE) < 0) {
            error = -1;
            break;
        }
        pieces[held] = (struct iovec){views[held].buf, (size_t)views[held].len};
        length += (uint64_t)views[held].len;
    }
    if (error == 0)
        error = send_one(((struct ring *)object)->opened, pieces, (int)count, length, kind);
    while (held > 0)
        PyBuffer_Release(&views[--held]);
    PyMem_Free(views);
    PyMem_Free(pieces);
    if (error == 0)
        Py_RETURN_TRUE;
    if (error == EAGAIN)
        Py_RETURN_FALSE;
    return error > 0 ? fail(error) : NULL;
}

static PyObject *
ring_take(PyObject *object, PyObject *unused)
{
    struct ring *self = (struct ring *)object;
    struct kin_ring_frame frame;
    PyObject *bytes = NULL;
    (void)unused;
    if (ring_of(self) == NULL)
        return NULL;
    int error = take_one(self->opened, &frame, &bytes);
    if (error == 0)
        return Py_BuildValue("iN", (int)frame.kind, bytes);
    if (error == EAGAIN)
        Py_RETURN_NONE;
    return error > 0 ? fail(error) : NULL;
}

/* ----------------------------------------------------------------------------------- waiting */

static PyObject *
ring_wait(PyObject *object, PyObject *args)
{
    struct kin_ring *ring = ring_of((struct ring *)object);
    PyObject *milliseconds;
    unsigned int alarm;
    if (ring == NULL || !PyArg_ParseTuple(args, "OI:wait", &milliseconds, &alarm))
        return NULL;
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    if (milliseconds != Py_None) {
        long patience = PyLong_AsLong(milliseconds);
        if (patience == -1 && PyErr_Occurred())
            return NULL;
        deadline.tv_sec += patience / 1000;
        deadline.tv_nsec += patience % 1000 * 1000000;
        if (deadline.tv_nsec >= 1000000000) {
            deadline.tv_nsec -= 1000000000;
            deadline.tv_sec++;
        }
    }
    struct opened *opened = ((struct ring *)object)->opened;
    int error;
    opened->inside++;
    Py_BEGIN_ALLOW_THREADS
    error = kin_ring_spin(ring, kin_ring_most(ring))
                ? 0
                : kin_ring_wait(ring, alarm, milliseconds == Py_None ? NULL : &deadline);
    Py_END_ALLOW_THREADS
    leave(opened);
    if (error == EINTR && PyErr_CheckSignals() < 0)
        return NULL;
    if (error != 0 && error != EINTR && error != ETIMEDOUT && error != ECANCELED)
        return fail(error);
    Py_RETURN_NONE;
}

static PyObject *
ring_alarm(PyObject *object, PyObject *unused)
{
    struct ring *self = (struct ring *)object;
    (void)unused;
    if (ring_of(self) == NULL)
        return NULL;
    struct opened *opened = self->opened;
    opened->inside++;
    Py_BEGIN_ALLOW_THREADS
    kin_ring_alarm(&opened->ring);
    Py_END_ALLOW_THREADS
    leave(opened);
    Py_RETURN_NONE;
}

static PyObject *
ring_depart(PyObject *object, PyObject *unused)
{
    struct kin_ring *ring = ring_of((struct ring *)object);
    (void)unused;
    if (ring == NULL)
        return NULL;
    atomic_fetch_add_explicit(&ring->mine->departures, 1, memory_order_release);
    Py_RETURN_NONE;
}

static PyObject *
ring_look(PyObject *object, PyObject *unused)
{
    struct ring *self = (struct ring *)object;
    (void)unused;
    if (ring_of(self) == NULL)
        return NULL;
    look(self);
    Py_RETURN_NONE;
}

/* --------------------------------------------------------------------------------- shortcuts */

static PyObject *
ring_shorten(PyObject *object, PyObject *args)
{
    struct ring *self = (struct ring *)object;
    PyObject *end, *guards;
    if (!PyArg_ParseTuple(args, "OO!:shorten", &end, &PyTuple_Type, &guards))
        return NULL;
    Py_ssize_t count = PyTuple_Size(guards);
    if (count > MOST_GUARDS)
        return fail(E2BIG);
    PyObject *reference = PyWeakref_NewRef(end, NULL);
    if (reference == NULL)
        return NULL;
    ring_clear(object);
    self->end = reference;
    for (Py_ssize_t i = 0; i < count; i++)
        self->guards[i] = Py_NewRef(PyTuple_GetItem(guards, i));
    Py_RETURN_NONE;
}

/* Whether a shortcut may be taken: rule 1. */
static inline bool
is_clear(struct ring *self)
{
    if (self->opened == NULL || self->end == NULL ||
        self->opened->ring.forks != kin_robust_forks())
        return false;
    for (int i = 0; i < MOST_GUARDS && self->guards[i] != NULL; i++) {
        PyObject *guard = self->guards[i];
        if ((PyDict_Check(guard) ? PyDict_Size(guard) : PyList_Size(guard)) != 0)
            return false;
    }
    const struct kin_ring *ring = &self->opened->ring;
    return atomic_load_explicit(&ring->theirs->departures, memory_order_acquire) ==
               self->departures &&
           atomic_load_explicit(&ring->alarm, memory_order_relaxed) == self->alarms;
}

/* What the method of the end says: that of its class, with the same arguments. */
static PyObject *
detour(struct ring *self, const char *name, PyObject *const *arguments, Py_ssize_t count,
       PyObject *names)
{
    PyObject *end = self->end == NULL ? Py_None : PyWeakref_GetObject(self->end);
    Py_ssize_t named = names == NULL ? 0 : PyTuple_Size(names);
    if (end == Py_None || end == NULL)
        return fail(EBADF);
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
static bool
is_simple(PyObject *const *values, PyObject *names)
{
    if (names == NULL)
        return true;
    if (PyTuple_Size(names) != 1 ||
        PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "timeout") != 0)
        return false;
    struct timespec unused;
    return values[0] == Py_None || kin_read_timeout(values[0], &unused);
}

static bool
send_shortly(struct ring *self, PyObject *data)
{
    struct opened *opened = self->opened;
    char *start;
    Py_ssize_t length;
    PyBytes_AsStringAndSize(data, &start, &length);
    if (length > LONG_COPY || (uint64_t)length > kin_ring_most(&opened->ring))
        return false;
    struct iovec piece = {start, (size_t)length};
    for (;;) {
        int error = kin_ring_enter(&opened->ring, KIN_MUTEX_AWAKE);
        if (error == 0)
            error = put_and_leave(&opened->ring, &piece, 1, (uint64_t)length, RAW);
        if (error == 0) {
            self->messages++;
            self->size += (unsigned long long)length;
            return true;
        }
        if (error != EAGAIN || !kin_ring_spin(&opened->ring, kin_ring_framed((uint64_t)length)))
            return false;
    }
}

static PyObject *
send_by(const char *name, PyObject *object, PyObject *const *arguments, Py_ssize_t count,
        PyObject *names)
{
    struct ring *self = (struct ring *)object;
    if (count == 1 && PyBytes_CheckExact(arguments[0]) && is_clear(self) &&
        is_simple(arguments + 1, names) && send_shortly(self, arguments[0]))
        Py_RETURN_NONE;
    return detour(self, name, arguments, count, names);
}

static PyObject *
ring_send_bytes(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    return send_by("send_bytes", object, arguments, count, names);
}

static PyObject *
ring_send(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    return send_by("send", object, arguments, count, names);
}

/* A new reference; NULL without an exception: not like this. */
static PyObject *
take_shortly(struct ring *self)
{
    struct opened *opened = self->opened;
    struct kin_ring *ring = &opened->ring;
    struct kin_ring_frame frame;
    for (;;) {
        int error = kin_ring_enter(ring, KIN_MUTEX_AWAKE);
        if (error != 0)
            return NULL;
        error = kin_ring_next(ring, &frame);
        PyObject *bytes = NULL;
        if (error == 0 && frame.kind == RAW && frame.length <= LONG_COPY) {
            bytes = PyBytes_FromStringAndSize(NULL, frame.length);
            if (bytes != NULL) {
                copy_and_leave(ring, &frame, PyBytes_AsString(bytes));
                self->messages++;
                self->size += frame.length;
                return bytes;
            }
            PyErr_Clear(); /* the detour says so */
        }
        kin_ring_withdraw(ring);
        if (error != EAGAIN || !kin_ring_spin(ring, 1))
            return NULL;
    }
}

static PyObject *
receive_by(const char *name, PyObject *object, PyObject *const *arguments, Py_ssize_t count,
           PyObject *names)
{
    struct ring *self = (struct ring *)object;
    if (count == 0 && is_clear(self) && is_simple(arguments, names)) {
        PyObject *bytes = take_shortly(self);
        if (bytes != NULL)
            return bytes;
    }
    return detour(self, name, arguments, count, names);
}

static PyObject *
ring_recv_bytes(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    return receive_by("recv_bytes", object, arguments, count, names);
}

static PyObject *
ring_recv(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    return receive_by("recv", object, arguments, count, names);
}

/* -------------------------------------------------------------------------------- several at once */

/* How many of the list, from `first` on, went out at once: 0: none. */
static Py_ssize_t
send_batch(struct ring *self, PyObject *list, Py_ssize_t first, Py_ssize_t last)
{
    struct kin_ring *ring = &self->opened->ring;
    if (kin_ring_enter(ring, KIN_MUTEX_AWAKE) != 0)
        return 0;
    Py_ssize_t at = first;
    for (; at < last; at++) {
        PyObject *data = PyList_GetItem(list, at);
        if (!PyBytes_CheckExact(data))
            break;
        struct iovec piece = {PyBytes_AsString(data), (size_t)PyBytes_Size(data)};
        if (piece.iov_len > LONG_COPY ||
            kin_ring_put(ring, &piece, 1, piece.iov_len, RAW) != 0)
            break;
        self->size += piece.iov_len;
    }
    kin_ring_leave(ring);
    self->messages += (unsigned long long)(at - first);
    return at - first;
}

static PyObject *
ring_send_many(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    struct ring *self = (struct ring *)object;
    if (count != 1 || !PyList_CheckExact(arguments[0]) || !is_clear(self) ||
        !is_simple(arguments + 1, names))
        return detour(self, "send_many", arguments, count, names);
    PyObject *list = arguments[0];
    Py_ssize_t all = PyList_Size(list), sent = 0, now;
    do {
        Py_ssize_t last = all - sent > BATCH ? sent + BATCH : all;
        now = send_batch(self, list, sent, last);
        sent += now;
    } while (now > 0 && sent < all);
    if (sent == all)
        return PyLong_FromSsize_t(sent);
    if (sent == 0)
        return detour(self, "send_many", arguments, count, names);
    PyObject *rest = PyList_GetSlice(list, sent, all), *outcome = NULL;
    if (rest != NULL) {
        PyObject *others[2] = {rest, names == NULL ? NULL : arguments[1]};
        outcome = detour(self, "send_many", others, 1, names);
        Py_DECREF(rest);
    }
    if (outcome == NULL)
        return NULL;
    Py_ssize_t more = PyLong_AsSsize_t(outcome);
    Py_DECREF(outcome);
    return PyLong_FromSsize_t(sent + more);
}

/* Adds what is there, up to `most` in all. Whether there may be more of its kind. */
static bool
take_batch(struct ring *self, PyObject *list, Py_ssize_t most)
{
    struct kin_ring *ring = &self->opened->ring;
    struct kin_ring_frame frame;
    if (kin_ring_enter(ring, KIN_MUTEX_AWAKE) != 0)
        return false;
    Py_ssize_t count = PyList_Size(list), before = count;
    while (count < most && count - before < BATCH && kin_ring_next(ring, &frame) == 0 &&
           frame.kind == RAW && frame.length <= LONG_COPY) {
        PyObject *bytes = PyBytes_FromStringAndSize(NULL, frame.length);
        if (bytes == NULL || PyList_Append(list, bytes) < 0) {
            Py_XDECREF(bytes);
            PyErr_Clear();
            break;
        }
        kin_ring_copy(ring, &frame, PyBytes_AsString(bytes));
        Py_DECREF(bytes);
        kin_ring_take(ring, &frame);
        self->size += frame.length;
        count++;
    }
    kin_ring_leave(ring);
    self->messages += (unsigned long long)(count - before);
    return count < most && count - before == BATCH;
}

static PyObject *
ring_recv_many(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    struct ring *self = (struct ring *)object;
    if (count == 1 && PyLong_CheckExact(arguments[0]) && is_clear(self) &&
        is_simple(arguments + 1, names)) {
        Py_ssize_t most = PyLong_AsSsize_t(arguments[0]);
        if (most == -1 && PyErr_Occurred())
            PyErr_Clear();
        PyObject *list = most < 1 ? NULL : PyList_New(0);
        if (list == NULL && most >= 1)
            return NULL;
        while (list != NULL && take_batch(self, list, most))
            ;
        if (list != NULL && PyList_Size(list) > 0)
            return list;
        Py_XDECREF(list);
    }
    return detour(self, "recv_many", arguments, count, names);
}

/* ----------------------------------------------------------------------------------- looking */

static PyObject *
number(struct ring *self, unsigned long long value)
{
    return self->opened == NULL ? fail(EBADF) : PyLong_FromUnsignedLongLong(value);
}

static PyObject *
ring_alarms(PyObject *object, void *unused)
{
    struct ring *self = (struct ring *)object;
    (void)unused;
    return number(self, self->opened == NULL ? 0 : atomic_load(&self->opened->ring.alarm));
}

static PyObject *
ring_depth(PyObject *object, void *unused)
{
    struct ring *self = (struct ring *)object;
    (void)unused;
    return number(self, self->opened == NULL ? 0 : kin_ring_depth(&self->opened->ring));
}

static PyObject *
ring_capacity(PyObject *object, void *unused)
{
    struct ring *self = (struct ring *)object;
    (void)unused;
    return number(self, self->opened == NULL ? 0 : self->opened->ring.capacity);
}

static PyObject *
ring_most(PyObject *object, void *unused)
{
    struct ring *self = (struct ring *)object;
    (void)unused;
    return number(self, self->opened == NULL ? 0 : kin_ring_most(&self->opened->ring));
}

static PyObject *
ring_messages(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((struct ring *)object)->messages);
}

static PyObject *
ring_size(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((struct ring *)object)->size);
}

/* A capsule keeps the memory, as the watcher may be about to look at it. */
static void
release_opened(PyObject *capsule)
{
    release(PyCapsule_GetContext(capsule));
}

static PyObject *
ring_waker(PyObject *object, void *unused)
{
    struct ring *self = (struct ring *)object;
    (void)unused;
    if (ring_of(self) == NULL)
        return NULL;
    PyObject *capsule = PyCapsule_New(&self->opened->ring, KIN_RING_CAPSULE, release_opened);
    if (capsule != NULL) {
        self->opened->references++;
        PyCapsule_SetContext(capsule, self->opened);
    }
    return capsule;
}

#define QUICK(name) {#name, (PyCFunction)(void (*)(void))ring_##name, METH_FASTCALL | METH_KEYWORDS,

static PyMethodDef methods[] = {
    {"open", ring_open, METH_VARARGS, PyDoc_STR("Open what lies there, or make it.")},
    {"close", ring_close, METH_NOARGS, PyDoc_STR("Let go of the memory.")},
    {"put", ring_put, METH_VARARGS, PyDoc_STR("Send, if there is room.")},
    {"take", ring_take, METH_NOARGS, PyDoc_STR("Take a message if one is there.")},
    {"wait", ring_wait, METH_VARARGS, PyDoc_STR("Block until it may be worth another try.")},
    {"alarm", ring_alarm, METH_NOARGS, PyDoc_STR("End the waits in other threads.")},
    {"depart", ring_depart, METH_NOARGS, PyDoc_STR("Have the other side look who is there.")},
    {"look", ring_look, METH_NOARGS, PyDoc_STR("From now on is what is news.")},
    {"shorten", ring_shorten, METH_VARARGS, PyDoc_STR("Stand in for methods of an end.")},
    QUICK(send_bytes) PyDoc_STR("Sender.send_bytes")},
    QUICK(send) PyDoc_STR("Sender.send")},
    QUICK(send_many) PyDoc_STR("Sender.send_many")},
    QUICK(recv_bytes) PyDoc_STR("Receiver.recv_bytes")},
    QUICK(recv) PyDoc_STR("Receiver.recv")},
    QUICK(recv_many) PyDoc_STR("Receiver.recv_many")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"alarms", ring_alarms, NULL, PyDoc_STR("How often `alarm` was called."), NULL},
    {"depth", ring_depth, NULL, PyDoc_STR("Bytes that wait in it."), NULL},
    {"capacity", ring_capacity, NULL, PyDoc_STR("Bytes that fit."), NULL},
    {"most", ring_most, NULL, PyDoc_STR("Bytes in the largest message."), NULL},
    {"messages", ring_messages, NULL, PyDoc_STR("That went through the shortcuts."), NULL},
    {"size", ring_size, NULL, PyDoc_STR("Bytes of them."), NULL},
    {"waker", ring_waker, NULL, PyDoc_STR("What Watcher wakes it by."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("One end of a ring in shared memory.")},
    {Py_tp_new, ring_new},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_traverse, ring_traverse},
    {Py_tp_clear, ring_clear},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.Ring",
    .basicsize = sizeof(struct ring),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
kin_add_ring(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&spec);
    int result = type == NULL ? -1 : PyModule_AddObjectRef(module, "Ring", type);
    Py_XDECREF(type);
    return result;
}
