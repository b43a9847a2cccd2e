/* Blocks of a ring's arena as Python objects, for kinfolk.channels.ring_transport.
 *
 *     Block                          of Ring.allocate: writable, until it is sealed; of Ring.take: read-only
 *       memoryview(block), …         keeps it, and the memory of the ring mapped, until it is garbage, in any order
 *       .fill(parts, at)             copies pieces in, one behind the other, from a position on
 *       .seal()                      no view that is made from now on may write
 *       .release()                   now, not when it is garbage: nobody looks into it
 *
 * Rules:
 * 1. As long as the object lives this process holds the block, also after it was sent, and after the end was closed: so whatever
 *    looks into it never sees the memory of another message.
 * 2. Large copies are made without the GIL. */

#include <errno.h>
#include <string.h>

#include "heap_type_binding.h"
#include "ring_binding.h"

int kin_add_block(PyObject *module);

enum { OUT_OF_BAND = 0x80 }; /* kinds of codec.py that have buffers, which are read where they are */

struct block_object {
    PyObject_HEAD
    struct kin_opened_ring *opened; /* NULL: released */
    struct kin_block block;
    Py_ssize_t exports;
    bool sealed;
};

static PyTypeObject *block_type; /* of the one module that there is in a process; it lives as long */

/* -------------------------------------------------------------------------------- getting one */

static PyObject *
object_of(struct kin_opened_ring *opened, const struct kin_block *block, bool sealed)
{
    struct block_object *self = kin_allocate(block_type);
    if (self == NULL) {
        kin_arena_release(&opened->ring.arena, block);
        return NULL;
    }
    opened->references++;
    self->opened = opened;
    self->block = *block;
    self->sealed = sealed;
    return (PyObject *)self;
}

PyObject *
kin_ring_py_allocate(PyObject *object, PyObject *length)
{
    struct kin_ring *ring = kin_ring_of((struct kin_ring_object *)object);
    unsigned long long wanted = ring == NULL ? 0 : PyLong_AsUnsignedLongLong(length);
    if (ring == NULL || PyErr_Occurred())
        return NULL;
    struct kin_opened_ring *opened = ((struct kin_ring_object *)object)->opened;
    struct kin_block block;
    int error;
    opened->inside++;
    Py_BEGIN_ALLOW_THREADS
    error = kin_arena_allocate(&ring->arena, wanted, &block);
    Py_END_ALLOW_THREADS
    PyObject *made = error == 0 ? object_of(opened, &block, false) : NULL;
    kin_ring_come_out(opened);
    if (error == EAGAIN)
        Py_RETURN_NONE;
    return error == 0 ? made : kin_ring_fail(error);
}

PyObject *
kin_ring_py_allocate_now(PyObject *object, PyObject *length)
{
    if (!kin_ring_is_clear((struct kin_ring_object *)object))
        Py_RETURN_NONE;
    return kin_ring_py_allocate(object, length);
}

PyObject *
kin_ring_py_wait_for_block(PyObject *object, PyObject *args)
{
    struct kin_ring *ring = kin_ring_of((struct kin_ring_object *)object);
    unsigned long long length;
    unsigned int alarm;
    PyObject *milliseconds;
    struct timespec time;
    const struct timespec *deadline;
    if (ring == NULL ||
        !PyArg_ParseTuple(args, "KOI:wait_for_block", &length, &milliseconds, &alarm) ||
        !kin_ring_deadline(milliseconds, &time, &deadline))
        return NULL;
    struct kin_opened_ring *opened = ((struct kin_ring_object *)object)->opened;
    int error;
    opened->inside++;
    Py_BEGIN_ALLOW_THREADS
    error = kin_arena_wait(&ring->arena, length, alarm, deadline);
    Py_END_ALLOW_THREADS
    kin_ring_come_out(opened);
    if (error == EINTR && PyErr_CheckSignals() < 0)
        return NULL;
    if (error != 0 && error != EINTR && error != ETIMEDOUT && error != ECANCELED)
        return kin_ring_fail(error);
    Py_RETURN_NONE;
}

PyObject *
kin_ring_py_give_up(PyObject *object, PyObject *unused)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    (void)unused;
    if (self->opened == NULL)
        Py_RETURN_NONE; /* with the end */
    struct kin_opened_ring *opened = self->opened;
    opened->inside++;
    Py_BEGIN_ALLOW_THREADS
    kin_arena_give_up(&opened->ring.arena);
    Py_END_ALLOW_THREADS
    kin_ring_come_out(opened);
    Py_RETURN_NONE;
}

static PyObject *
copy_of(struct kin_opened_ring *opened, const struct kin_block *block)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)block->length);
    if (bytes == NULL)
        return NULL;
    char *to = PyBytes_AsString(bytes);
    opened->inside++;
    Py_BEGIN_ALLOW_THREADS
    memcpy(to, kin_arena_bytes(&opened->ring.arena, block), block->length);
    kin_arena_release(&opened->ring.arena, block);
    Py_END_ALLOW_THREADS
    kin_ring_come_out(opened);
    return bytes;
}

bool
kin_is_looked_at(uint8_t kind)
{
    return kind == KIN_RING_MEMORY || kind & OUT_OF_BAND;
}

PyObject *
kin_block_received(struct kin_opened_ring *opened, const struct kin_block *block, uint8_t kind)
{
    if (!block->in_place || !kin_is_looked_at(kind)) {
        PyObject *bytes = copy_of(opened, block);
        if (bytes != NULL)
            return bytes;
        PyErr_Clear(); /* where it is, it needs no memory */
    } else {
        opened->inside++;
        Py_BEGIN_ALLOW_THREADS
        kin_arena_touch(&opened->ring.arena, block);
        Py_END_ALLOW_THREADS
        kin_ring_come_out(opened);
    }
    return object_of(opened, block, true);
}

/* ------------------------------------------------------------------------------------ sending */

static int
put_and_leave(struct kin_ring *ring, const struct kin_block *block, uint8_t kind)
{
    int error = kin_ring_put_block(ring, block, kind);
    if (error == 0)
        kin_ring_leave(ring);
    else
        kin_ring_withdraw(ring);
    return error;
}

/* Waits for the lock, if need be, without the GIL. As Ring.put. */
static int
put_block(struct kin_opened_ring *opened, const struct kin_block *block, uint8_t kind)
{
    struct kin_ring *ring = &opened->ring;
    int error = kin_ring_enter(ring, KIN_MUTEX_AWAKE);
    if (error == 0)
        return put_and_leave(ring, block, kind);
    if (error != EBUSY)
        return error;
    opened->inside++;
    do {
        Py_BEGIN_ALLOW_THREADS
        error = kin_ring_enter_soon(ring);
        if (error == 0)
            error = put_and_leave(ring, block, kind);
        Py_END_ALLOW_THREADS
    } while (error == EINTR && PyErr_CheckSignals() == 0);
    kin_ring_come_out(opened);
    return error == EINTR ? -1 : error;
}

PyObject *
kin_ring_py_put_block(PyObject *object, PyObject *args)
{
    struct kin_ring *ring = kin_ring_of((struct kin_ring_object *)object);
    unsigned char kind;
    struct block_object *block;
    if (ring == NULL || !PyArg_ParseTuple(args, "bO!:put_block", &kind, block_type, &block))
        return NULL;
    struct kin_opened_ring *opened = ((struct kin_ring_object *)object)->opened;
    if (block->opened != opened || block->block.forks != kin_robust_forks())
        return kin_ring_fail(EINVAL);
    int error = put_block(opened, &block->block, kind);
    if (error == 0)
        Py_RETURN_TRUE;
    if (error == EAGAIN)
        Py_RETURN_FALSE;
    return error > 0 ? kin_ring_fail(error) : NULL;
}

PyObject *
kin_ring_py_put_block_now(PyObject *object, PyObject *args)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    unsigned char kind;
    struct block_object *block;
    if (!PyArg_ParseTuple(args, "bO!:put_block_now", &kind, block_type, &block))
        return NULL;
    if (!kin_ring_is_clear(self) || block->opened != self->opened ||
        block->block.forks != kin_robust_forks() ||
        kin_ring_enter(&self->opened->ring, KIN_MUTEX_AWAKE) != 0 ||
        put_and_leave(&self->opened->ring, &block->block, kind) != 0)
        Py_RETURN_FALSE;
    self->messages++;
    self->size += block->block.length;
    Py_RETURN_TRUE;
}

/* ----------------------------------------------------------------------------------- the type */

static int
block_buffer(PyObject *object, Py_buffer *view, int flags)
{
    struct block_object *self = (struct block_object *)object;
    if (self->opened == NULL) {
        PyErr_SetString(PyExc_BufferError, "this block was released");
        view->obj = NULL;
        return -1;
    }
    void *bytes = kin_arena_bytes(&self->opened->ring.arena, &self->block);
    if (PyBuffer_FillInfo(view, object, bytes, (Py_ssize_t)self->block.length, self->sealed,
                          flags) < 0)
        return -1;
    self->exports++;
    return 0;
}

static void
block_let_buffer_go(PyObject *object, Py_buffer *view)
{
    (void)view;
    ((struct block_object *)object)->exports--;
}

static PyObject *
block_fill(PyObject *object, PyObject *args)
{
    struct block_object *self = (struct block_object *)object;
    PyObject *parts;
    Py_ssize_t at, held = 0;
    if (!PyArg_ParseTuple(args, "O!n:fill", &PyTuple_Type, &parts, &at))
        return NULL;
    if (self->opened == NULL || self->sealed || at < 0)
        return kin_ring_fail(EBADF);
    struct kin_opened_ring *opened = self->opened;
    Py_ssize_t count = PyTuple_Size(parts);
    Py_buffer *views = PyMem_Calloc((size_t)count + 1, sizeof *views);
    if (views == NULL)
        return PyErr_NoMemory();
    int error = 0;
    uint64_t end = (uint64_t)at;
    for (; error == 0 && held < count; held++) {
        if (PyObject_GetBuffer(PyTuple_GetItem(parts, held), &views[held], PyBUF_SIMPLE) < 0) {
            error = -1;
            break;
        }
        end += (uint64_t)views[held].len;
    }
    if (error == 0 && end > self->block.length)
        error = EMSGSIZE;
    if (error == 0) {
        char *to = (char *)kin_arena_bytes(&opened->ring.arena, &self->block) + at;
        self->exports++;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < count; i++) {
            memcpy(to, views[i].buf, (size_t)views[i].len);
            to += views[i].len;
        }
        Py_END_ALLOW_THREADS
        self->exports--;
    }
    while (held > 0)
        PyBuffer_Release(&views[--held]);
    PyMem_Free(views);
    if (error != 0)
        return error > 0 ? kin_ring_fail(error) : NULL;
    Py_RETURN_NONE;
}

static PyObject *
block_seal(PyObject *object, PyObject *unused)
{
    (void)unused;
    ((struct block_object *)object)->sealed = true;
    Py_RETURN_NONE;
}

static void
let_go(struct block_object *self)
{
    struct kin_opened_ring *opened = self->opened;
    self->opened = NULL;
    kin_arena_release(&opened->ring.arena, &self->block);
    kin_ring_release(opened);
}

static PyObject *
block_release(PyObject *object, PyObject *unused)
{
    struct block_object *self = (struct block_object *)object;
    (void)unused;
    if (self->exports > 0)
        return kin_ring_fail(EBUSY);
    if (self->opened != NULL)
        let_go(self);
    Py_RETURN_NONE;
}

static void
block_dealloc(PyObject *object)
{
    if (((struct block_object *)object)->opened != NULL)
        let_go((struct block_object *)object);
    kin_release(object);
}

static PyMethodDef methods[] = {
    {"fill", block_fill, METH_VARARGS, PyDoc_STR("Copy pieces in.")},
    {"seal", block_seal, METH_NOARGS, PyDoc_STR("Read-only from now on.")},
    {"release", block_release, METH_NOARGS, PyDoc_STR("Give it back, if nobody looks into it.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A message in the shared memory of a ring.")},
    {Py_tp_dealloc, block_dealloc},
    {Py_tp_methods, methods},
    {Py_bf_getbuffer, block_buffer},
    {Py_bf_releasebuffer, block_let_buffer_go},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.Block",
    .basicsize = sizeof(struct block_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

int
kin_add_block(PyObject *module)
{
    return kin_add_kept_type(module, &spec, "Block", &block_type);
}
