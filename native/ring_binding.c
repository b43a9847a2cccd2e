/* Ring: one end of a ring, for kinfolk.channels.ring.
 *
 *     Ring(sends)                           closed
 *       .sizes(capacity, arena)             -> bytes that need memory, and of all; of any
 *       .adopt(buffer)                      -> a kin_finding; of a file that nobody has open, in any boot
 *       .open(buffer, file, capacity, arena, acknowledged, watcher)   -> a kin_finding; 0: it is open, and keeps the buffer
 *       .close()                            waits for nobody: who is inside lets go of the buffer
 *       .put(kind, parts)                   -> whether there was room
 *       .take()                             -> (kind, bytes or a Block), or None
 *       .allocate(length)                   -> a Block for a large message, or None
 *       .put_block(kind, block)             -> whether there was room
 *       .wait_for_block(length, milliseconds, alarm)   as wait; then allocate, or .give_up()
 *       .take_owed()                        -> (kind, bytes, Claim), or None
 *       .may_come()                         whether others may give one back; then `wait` is for that, too
 *       .wait(milliseconds, alarm)          sleeps until either may do better; None: for ever
 *       .poll()                             -> a new descriptor that speaks of news
 *       .settle(descriptor)                 it is silent until there is news, but True: there is something
 *       .lowering(eventfd)                  what Watcher reads that by: it may be written to again
 *       .alarm()                            ends the wait in another thread
 *       .depart()                           has the other side look who is there
 *       .look()                             nothing but a departure or an alarm from now on is news
 *       .alarms, .depth, .capacity, .arena, .most, .most_in_block, .messages, .size, .waits, .waker
 *
 *       .shorten(end, guards, dropped)      from then on, for an end of the channel, until it is `dropped`, which raises:
 *       .send_bytes, .send, .send_many      quicker than its own; of the same meaning
 *       .recv_bytes, .recv, .recv_many */

#include <errno.h>
#include <stdlib.h>

#include "heap_type_binding.h"
#include "ring_binding.h"
#include "watcher_binding.h"

int kin_add_ring(PyObject *module);

/* ------------------------------------------------------------------------ opening and closing */

PyObject *
kin_ring_fail(int error)
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
    struct kin_ring_object *self = kin_allocate(type);
    if (self != NULL)
        self->sends = sends != 0;
    return (PyObject *)self;
}

/* With the GIL, after one of the counts went down. */
static void
let_go(struct kin_opened_ring *opened)
{
    if (opened->references > 0 || opened->inside > 0)
        return;
    if (kin_ring_close(&opened->ring) != 0)
        return; /* a robust list points to it: it stays */
    kin_unplace(&opened->placed);
    Py_XDECREF(opened->watcher);
    free(opened);
}

void
kin_ring_release(struct kin_opened_ring *opened)
{
    opened->references--;
    let_go(opened);
}

void
kin_ring_come_out(struct kin_opened_ring *opened)
{
    opened->inside--;
    let_go(opened);
}

static void
look(struct kin_ring_object *self)
{
    struct kin_ring *ring = &self->opened->ring;
    self->departures = atomic_load_explicit(&ring->theirs->departures, memory_order_acquire);
    self->alarms = atomic_load_explicit(&ring->alarm, memory_order_acquire);
}

static PyObject *
ring_open(PyObject *object, PyObject *args)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    PyObject *buffer, *watcher;
    unsigned long long capacity, arena;
    int file, acknowledged;
    if (!PyArg_ParseTuple(args, "OiKKpO:open", &buffer, &file, &capacity, &arena, &acknowledged,
                          &watcher))
        return NULL;
    struct kin_watcher *core = PyCapsule_GetPointer(watcher, KIN_WATCHER_CAPSULE);
    if (core == NULL)
        return NULL;
    if (self->opened != NULL)
        return kin_ring_fail(EEXIST);
    struct kin_opened_ring *opened = calloc(1, sizeof *opened);
    if (opened == NULL)
        return PyErr_NoMemory();
    if (kin_place(&opened->placed, buffer, 0) < 0) {
        free(opened);
        return NULL;
    }
    enum kin_ring_way way = self->sends ? KIN_RING_SENDS : KIN_RING_RECEIVES;
    const struct timespec patience = kin_object_patience();
    struct kin_ring_terms terms = {capacity, arena, acknowledged != 0, &patience};
    enum kin_finding found;
    do {
        Py_BEGIN_ALLOW_THREADS /* somebody else may be making it just now */
        found = kin_ring_open(&opened->ring, opened->placed.memory, opened->placed.room, way,
                              &terms, core);
        Py_END_ALLOW_THREADS
    } while (found == KIN_INTERRUPTED && PyErr_CheckSignals() == 0);
    if (found == KIN_SOUND) {
        kin_ring_lies_in(&opened->ring, file);
        opened->references = 1;
        opened->watcher = Py_NewRef(watcher);
        self->opened = opened;
        self->alarms = UINT32_MAX; /* nobody has looked */
    } else {
        kin_unplace(&opened->placed);
        free(opened);
    }
    return PyErr_Occurred() ? NULL : PyLong_FromLong(found);
}

static PyObject *
ring_sizes(PyObject *unused, PyObject *args)
{
    unsigned long long capacity, arena;
    (void)unused;
    if (!PyArg_ParseTuple(args, "KK:sizes", &capacity, &arena))
        return NULL;
    struct kin_ring_terms terms = {.capacity = capacity, .arena = arena};
    return Py_BuildValue("KK", (unsigned long long)kin_ring_head(&terms),
                         (unsigned long long)kin_ring_room(&terms));
}

static PyObject *
ring_close(PyObject *object, PyObject *unused)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    struct kin_opened_ring *opened = self->opened;
    (void)unused;
    if (opened == NULL)
        Py_RETURN_NONE;
    self->opened = NULL;
    opened->references++;
    Py_BEGIN_ALLOW_THREADS
    kin_arena_return_all(&opened->ring.arena); /* now, not when the last view goes */
    Py_END_ALLOW_THREADS
    opened->references--;
    if (opened->inside > 0 && opened->ring.forks == kin_robust_forks()) {
        Py_BEGIN_ALLOW_THREADS /* the reference keeps it */
        kin_ring_alarm(&opened->ring); /* a shortcut may sleep */
        Py_END_ALLOW_THREADS
    }
    kin_ring_release(opened);
    Py_RETURN_NONE;
}

static int
ring_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->end);
    Py_VISIT(self->dropped);
    for (int i = 0; i < KIN_RING_GUARDS; i++)
        Py_VISIT(self->guards[i]);
    return 0;
}

static int
ring_clear(PyObject *object)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    Py_CLEAR(self->end);
    Py_CLEAR(self->dropped);
    for (int i = 0; i < KIN_RING_GUARDS; i++)
        Py_CLEAR(self->guards[i]);
    return 0;
}

static void
ring_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    ring_clear(object);
    if (((struct kin_ring_object *)object)->opened != NULL)
        kin_ring_release(((struct kin_ring_object *)object)->opened);
    kin_release(object);
}

struct kin_ring *
kin_ring_of(struct kin_ring_object *self)
{
    if (self->opened == NULL) {
        kin_ring_fail(EBADF);
        return NULL;
    }
    if (self->opened->ring.forks != kin_robust_forks()) {
        self->opened->inside = 0;
        self->alarms = UINT32_MAX; /* what was watched is not watched here */
        kin_ring_forked(&self->opened->ring);
    }
    return &self->opened->ring;
}

/* ----------------------------------------------------------------------------------- waiting */

bool
kin_ring_deadline(PyObject *milliseconds, struct timespec *time, const struct timespec **deadline)
{
    *deadline = NULL;
    if (milliseconds == Py_None)
        return true;
    long patience = PyLong_AsLong(milliseconds);
    if (patience == -1 && PyErr_Occurred())
        return false;
    clock_gettime(CLOCK_MONOTONIC, time);
    time->tv_sec += patience / 1000;
    time->tv_nsec += patience % 1000 * 1000000;
    if (time->tv_nsec >= 1000000000) {
        time->tv_nsec -= 1000000000;
        time->tv_sec++;
    }
    *deadline = time;
    return true;
}

static PyObject *
ring_wait(PyObject *object, PyObject *args)
{
    struct kin_ring *ring = kin_ring_of((struct kin_ring_object *)object);
    PyObject *milliseconds;
    unsigned int alarm;
    if (ring == NULL || !PyArg_ParseTuple(args, "OI:wait", &milliseconds, &alarm))
        return NULL;
    struct timespec time;
    const struct timespec *deadline;
    if (!kin_ring_deadline(milliseconds, &time, &deadline))
        return NULL;
    struct kin_opened_ring *opened = ((struct kin_ring_object *)object)->opened;
    int error;
    opened->inside++;
    Py_BEGIN_ALLOW_THREADS
    error = kin_ring_spin(ring, kin_ring_most(ring))
                ? 0
                : kin_ring_wait(ring, alarm, deadline);
    Py_END_ALLOW_THREADS
    kin_ring_come_out(opened);
    if (error == EINTR && PyErr_CheckSignals() < 0)
        return NULL;
    if (error != 0 && error != EINTR && error != ETIMEDOUT && error != ECANCELED)
        return kin_ring_fail(error);
    Py_RETURN_NONE;
}

static PyObject *
ring_alarm(PyObject *object, PyObject *unused)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    (void)unused;
    if (kin_ring_of(self) == NULL)
        return NULL;
    struct kin_opened_ring *opened = self->opened;
    opened->inside++;
    Py_BEGIN_ALLOW_THREADS
    kin_ring_alarm(&opened->ring);
    Py_END_ALLOW_THREADS
    kin_ring_come_out(opened);
    Py_RETURN_NONE;
}

static PyObject *
ring_depart(PyObject *object, PyObject *unused)
{
    struct kin_ring *ring = kin_ring_of((struct kin_ring_object *)object);
    (void)unused;
    if (ring == NULL)
        return NULL;
    atomic_fetch_add_explicit(&ring->mine->departures, 1, memory_order_release);
    Py_RETURN_NONE;
}

static PyObject *
ring_look(PyObject *object, PyObject *unused)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    (void)unused;
    if (kin_ring_of(self) == NULL)
        return NULL;
    look(self);
    Py_RETURN_NONE;
}

/* A capsule keeps the memory, as the watcher may be about to look at it. */
static void
release_opened(PyObject *capsule)
{
    kin_ring_release(PyCapsule_GetContext(capsule));
}

PyObject *
kin_ring_py_waker(PyObject *object, void *unused)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    (void)unused;
    if (kin_ring_of(self) == NULL)
        return NULL;
    PyObject *capsule = PyCapsule_New(&self->opened->ring, KIN_RING_CAPSULE, release_opened);
    if (capsule != NULL) {
        self->opened->references++;
        PyCapsule_SetContext(capsule, self->opened);
    }
    return capsule;
}

#define QUICK(name) {#name, (PyCFunction)(void (*)(void))kin_ring_py_##name, METH_FASTCALL | METH_KEYWORDS,

static PyMethodDef methods[] = {
    {"open", ring_open, METH_VARARGS, PyDoc_STR("Open what lies there, or make it.")},
    {"sizes", ring_sizes, METH_VARARGS | METH_STATIC, PyDoc_STR("Bytes of memory.")},
    {"adopt", kin_ring_py_adopt, METH_O | METH_STATIC, PyDoc_STR("Take back what the dead had.")},
    {"close", ring_close, METH_NOARGS, PyDoc_STR("Let go of the memory.")},
    {"put", kin_ring_py_put, METH_VARARGS, PyDoc_STR("Send, if there is room.")},
    {"take", kin_ring_py_take, METH_NOARGS, PyDoc_STR("Take a message if one is there.")},
    {"allocate", kin_ring_py_allocate, METH_O, PyDoc_STR("A block, if there is one.")},
    {"allocate_now", kin_ring_py_allocate_now, METH_O,
     PyDoc_STR("The same, if nobody is inside the end, and all is as it was.")},
    {"put_block_now", kin_ring_py_put_block_now, METH_VARARGS, PyDoc_STR("Likewise.")},
    {"take_owed", kin_ring_py_take_owed, METH_NOARGS,
     PyDoc_STR("A message that is to be acknowledged, if one is there.")},
    {"may_come", kin_ring_py_may_come, METH_NOARGS, PyDoc_STR("Whether others may give one back.")},
    {"put_block", kin_ring_py_put_block, METH_VARARGS, PyDoc_STR("Send one, if there is room.")},
    {"wait_for_block", kin_ring_py_wait_for_block, METH_VARARGS,
     PyDoc_STR("Block until it may be worth another try.")},
    {"give_up", kin_ring_py_give_up, METH_NOARGS, PyDoc_STR("Ask for no block any more.")},
    {"wait", ring_wait, METH_VARARGS, PyDoc_STR("Block until it may be worth another try.")},
    {"poll", kin_ring_py_poll, METH_NOARGS, PyDoc_STR("A new descriptor that speaks of news.")},
    {"settle", kin_ring_py_settle, METH_O, PyDoc_STR("Silence it; whether there is anything.")},
    {"lowering", kin_ring_py_lowering, METH_O | METH_STATIC, PyDoc_STR("For Watcher.watch.")},
    {"alarm", ring_alarm, METH_NOARGS, PyDoc_STR("End the waits in other threads.")},
    {"depart", ring_depart, METH_NOARGS, PyDoc_STR("Have the other side look who is there.")},
    {"look", ring_look, METH_NOARGS, PyDoc_STR("From now on is what is news.")},
    {"shorten", kin_ring_py_shorten, METH_VARARGS, PyDoc_STR("Stand in for methods of an end.")},
    QUICK(send_bytes) PyDoc_STR("Sender.send_bytes")},
    QUICK(send) PyDoc_STR("Sender.send")},
    QUICK(send_many) PyDoc_STR("Sender.send_many")},
    QUICK(recv_bytes) PyDoc_STR("Receiver.recv_bytes")},
    QUICK(recv) PyDoc_STR("Receiver.recv")},
    QUICK(recv_many) PyDoc_STR("Receiver.recv_many")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("One end of a ring in shared memory.")},
    {Py_tp_new, ring_new},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_traverse, ring_traverse},
    {Py_tp_clear, ring_clear},
    {Py_tp_methods, methods},
    {Py_tp_getset, kin_ring_attributes},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.Ring",
    .basicsize = sizeof(struct kin_ring_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
kin_add_ring(PyObject *module)
{
    return kin_add_type(module, &spec, "Ring");
}
