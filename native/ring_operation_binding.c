/* Ring.put and Ring.take: one message, whatever it is made of. They try, and never sleep for room or a message.
 *
 * Nobody waits for the lock of a ring with the GIL, nor for the GIL with the lock. So while others are at it, what is sent is
 * put in without the GIL, and what is received comes by way of plain memory.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ring_binding.h"

int
kin_ring_put_and_leave(struct kin_ring *ring, const struct iovec *pieces, int count, uint64_t length,
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
send_one(struct kin_opened_ring *opened, const struct iovec *pieces, int count, uint64_t length,
         uint8_t kind)
{
    struct kin_ring *ring = &opened->ring;
    int error = EBUSY;
    if (length <= KIN_RING_LONG) {
        error = kin_ring_enter(ring, KIN_MUTEX_AWAKE);
        if (error == 0)
            return kin_ring_put_and_leave(ring, pieces, count, length, kind);
    }
    if (error != EBUSY)
        return error;
    opened->inside++;
    do {
        Py_BEGIN_ALLOW_THREADS
        error = kin_ring_enter_soon(ring);
        if (error == 0)
            error = kin_ring_put_and_leave(ring, pieces, count, length, kind);
        Py_END_ALLOW_THREADS
    } while (error == EINTR && PyErr_CheckSignals() == 0);
    kin_ring_come_out(opened);
    return error == EINTR ? -1 : error;
}

/* Of the next message, inside. */
int
kin_ring_copy_and_leave(struct kin_ring *ring, const struct kin_ring_frame *frame, void *to)
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

/* The next message, inside: if it is in a block, that is taken. 0, EAGAIN, another errno; all of these withdraw. */
static int
next_or_block(struct kin_ring *ring, struct kin_ring_frame *frame, struct kin_block *block)
{
    int error = kin_ring_next(ring, frame);
    if (error == 0 && frame->flags & ~KIN_RING_IN_BLOCK)
        error = EBADMSG;
    if (error == 0 && frame->flags & KIN_RING_IN_BLOCK)
        error = kin_ring_next_block(ring, frame, block);
    if (error != 0) {
        kin_ring_withdraw(ring);
    } else if (frame->flags & KIN_RING_IN_BLOCK) {
        kin_ring_take(ring, frame);
        kin_ring_leave(ring);
    }
    return error;
}

/* The same while others are at it: the lock is waited for, and given back, without the GIL. So there is no bytes object to
 * copy to as yet. */
static int
take_from_others(struct kin_opened_ring *opened, struct kin_ring_frame *frame,
                 struct kin_block *block, PyObject **bytes)
{
    struct kin_ring *ring = &opened->ring;
    void *copy = NULL;
    int error;
    opened->inside++;
    do {
        Py_BEGIN_ALLOW_THREADS
        error = kin_ring_enter_soon(ring);
        if (error == 0)
            error = next_or_block(ring, frame, block);
        if (error == 0 && !(frame->flags & KIN_RING_IN_BLOCK))
            error = kin_ring_copy_and_leave(ring, frame, copy = malloc((size_t)frame->length + 1));
        Py_END_ALLOW_THREADS
    } while (error == EINTR && PyErr_CheckSignals() == 0);
    kin_ring_come_out(opened);
    if (error == 0 && !(frame->flags & KIN_RING_IN_BLOCK) &&
        (*bytes = PyBytes_FromStringAndSize(copy, frame->length)) == NULL)
        error = -1;
    free(copy);
    return error == EINTR ? -1 : error;
}

/* As send_one. What is in a block is in `block` then, else in *bytes. */
static int
take_one(struct kin_opened_ring *opened, struct kin_ring_frame *frame, struct kin_block *block,
         PyObject **bytes)
{
    struct kin_ring *ring = &opened->ring;
    int error = kin_ring_enter(ring, KIN_MUTEX_AWAKE);
    if (error != 0)
        return error == EBUSY ? take_from_others(opened, frame, block, bytes) : error;
    error = next_or_block(ring, frame, block);
    if (error != 0 || frame->flags & KIN_RING_IN_BLOCK)
        return error;
    *bytes = PyBytes_FromStringAndSize(NULL, frame->length);
    if (*bytes == NULL) {
        kin_ring_withdraw(ring);
        return -1;
    }
    void *to = PyBytes_AsString(*bytes);
    if (frame->length <= KIN_RING_LONG)
        return kin_ring_copy_and_leave(ring, frame, to);
    opened->inside++;
    Py_BEGIN_ALLOW_THREADS
    kin_ring_copy_and_leave(ring, frame, to);
    Py_END_ALLOW_THREADS
    kin_ring_come_out(opened);
    return 0;
}

PyObject *
kin_ring_py_put(PyObject *object, PyObject *args)
{
    struct kin_ring *ring = kin_ring_of((struct kin_ring_object *)object);
    unsigned char kind;
    PyObject *parts;
    if (ring == NULL || !PyArg_ParseTuple(args, "bO!:put", &kind, &PyTuple_Type, &parts))
        return NULL;
    Py_ssize_t count = PyTuple_Size(parts), held = 0;
    if (count > KIN_RING_PIECES)
        return kin_ring_fail(E2BIG);
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
        error = send_one(((struct kin_ring_object *)object)->opened, pieces, (int)count, length, kind);
    while (held > 0)
        PyBuffer_Release(&views[--held]);
    PyMem_Free(views);
    PyMem_Free(pieces);
    if (error == 0)
        Py_RETURN_TRUE;
    if (error == EAGAIN)
        Py_RETURN_FALSE;
    return error > 0 ? kin_ring_fail(error) : NULL;
}

PyObject *
kin_ring_py_take(PyObject *object, PyObject *unused)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    struct kin_ring_frame frame;
    PyObject *body = NULL;
    (void)unused;
    if (kin_ring_of(self) == NULL)
        return NULL;
    struct kin_opened_ring *opened = self->opened;
    struct kin_block block;
    int error = take_one(opened, &frame, &block, &body);
    if (error == ENOENT) { /* its first block */
        opened->inside++;
        Py_BEGIN_ALLOW_THREADS
        error = kin_arena_join(&opened->ring.arena);
        Py_END_ALLOW_THREADS
        kin_ring_come_out(opened);
        if (error == 0)
            error = take_one(opened, &frame, &block, &body);
        else if (error == EBUSY)
            error = EAGAIN;
    }
    if (error == 0 && frame.flags & KIN_RING_IN_BLOCK) {
        body = kin_block_received(opened, &block, frame.kind);
        error = body == NULL ? -1 : 0;
    }
    if (error == 0)
        return Py_BuildValue("iN", (int)frame.kind, body);
    if (error == EAGAIN)
        Py_RETURN_NONE;
    return error > 0 ? kin_ring_fail(error) : NULL;
}
