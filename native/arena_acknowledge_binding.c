/* Ring.take_owed, Ring.acknowledge and their like: messages that belong to who received them until he has acknowledged them. See
 * ring_binding.c and arena_acknowledge.c.
 *
 * Rule: what is returned is a copy. It is made while nobody else can receive the message. All is done without the GIL, as the guard
 * of the arena is waited for.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ring_binding.h"

struct owed {
    struct kin_block block;
    uint8_t kind;
    bool repeated;
};

/* The next one out of the ring. */
static int
take_next(struct kin_ring *ring, struct owed *owed)
{
    struct kin_ring_frame frame;
    int error = kin_ring_enter(ring, 0);
    if (error != 0)
        return error;
    error = kin_ring_next(ring, &frame);
    if (error == 0 && frame.flags != KIN_RING_IN_BLOCK)
        error = EBADMSG;
    if (error == 0)
        error = kin_ring_next_block(ring, &frame, &owed->block);
    if (error != 0) {
        kin_ring_withdraw(ring);
        return error;
    }
    owed->kind = frame.kind;
    kin_ring_take(ring, &frame);
    kin_ring_leave(ring);
    return 0;
}

/* What was returned comes first. Also what the dead had, if there is nothing else. */
static int
take(struct kin_ring *ring, struct owed *owed)
{
    struct kin_arena *arena = &ring->arena;
    bool looked = false;
    for (;;) {
        *owed = (struct owed){.repeated = true};
        int error = kin_arena_take_returned(arena, &owed->block, &owed->kind);
        if (error == EAGAIN) {
            owed->repeated = false;
            error = take_next(ring, owed);
        }
        if (error == ENOENT)
            error = kin_members_join(&arena->members);
        else if (error == EAGAIN && !looked) {
            looked = true;
            error = kin_members_look(&arena->members, KIN_LOOK_ALL);
        } else
            return error;
        if (error != 0)
            return error;
    }
}

PyObject *
kin_ring_py_take_owed(PyObject *object, PyObject *unused)
{
    struct kin_ring *ring = kin_ring_of((struct kin_ring_object *)object);
    (void)unused;
    if (ring == NULL)
        return NULL;
    struct kin_opened_ring *opened = ((struct kin_ring_object *)object)->opened;
    struct owed owed;
    PyObject *bytes = NULL;
    int error;
    opened->inside++;
    do {
        Py_BEGIN_ALLOW_THREADS
        error = take(ring, &owed);
        Py_END_ALLOW_THREADS
    } while (error == EINTR && PyErr_CheckSignals() == 0);
    if (error == 0)
        bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)owed.block.length);
    char *to = bytes == NULL ? NULL : PyBytes_AsString(bytes);
    if (error == 0) {
        Py_BEGIN_ALLOW_THREADS
        if (to != NULL)
            memcpy(to, kin_arena_bytes(&ring->arena, &owed.block), owed.block.length);
        else
            kin_arena_return(&ring->arena, owed.block.unit, owed.block.stamp);
        Py_END_ALLOW_THREADS
    }
    kin_ring_come_out(opened);
    if (bytes != NULL)
        return Py_BuildValue("iNIIN", (int)owed.kind, bytes, owed.block.unit, owed.block.stamp,
                             PyBool_FromLong(owed.repeated));
    if (error == EAGAIN)
        Py_RETURN_NONE;
    return error == 0 || PyErr_Occurred() ? NULL : kin_ring_fail(error);
}

static PyObject *
settle_by(int (*how)(struct kin_arena *, uint32_t, uint32_t), PyObject *object, PyObject *args)
{
    struct kin_ring *ring = kin_ring_of((struct kin_ring_object *)object);
    unsigned int unit, stamp;
    if (ring == NULL || !PyArg_ParseTuple(args, "II", &unit, &stamp))
        return NULL;
    struct kin_opened_ring *opened = ((struct kin_ring_object *)object)->opened;
    int error;
    opened->inside++;
    Py_BEGIN_ALLOW_THREADS
    error = how(&ring->arena, unit, stamp);
    Py_END_ALLOW_THREADS
    kin_ring_come_out(opened);
    if (error != 0)
        return kin_ring_fail(error);
    Py_RETURN_NONE;
}

PyObject *
kin_ring_py_acknowledge(PyObject *object, PyObject *args)
{
    return settle_by(kin_arena_acknowledge, object, args);
}

PyObject *
kin_ring_py_give_back(PyObject *object, PyObject *args)
{
    return settle_by(kin_arena_return, object, args);
}

PyObject *
kin_ring_py_may_come(PyObject *object, PyObject *unused)
{
    struct kin_ring *ring = kin_ring_of((struct kin_ring_object *)object);
    (void)unused;
    if (ring == NULL)
        return NULL;
    struct kin_opened_ring *opened = ((struct kin_ring_object *)object)->opened;
    bool may;
    opened->inside++;
    Py_BEGIN_ALLOW_THREADS
    may = kin_arena_may_come(&ring->arena);
    Py_END_ALLOW_THREADS
    kin_ring_come_out(opened);
    return PyBool_FromLong(may);
}
