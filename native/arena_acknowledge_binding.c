/* Ring.take_owed: messages that belong to who received them until he has acknowledged them. See ring_binding.c and
 * arena_acknowledge.c.
 *
 *     Claim                      of Ring.take_owed: this process's hold on one message
 *       .settle(done)            acknowledge it, or give it back; once. OSError: ESTALE, EBADF: it is not (any more) to be settled here
 *       .redelivered             whether somebody may have had it before
 *
 * Rules:
 * 1. What is returned is a copy. It is made while nobody else can receive the message. Where the guard of the arena is waited for the
 *    GIL is not held, and signal handlers run now and then.
 * 2. A claim that is garbage gives back: a signal handler may raise before anybody has it, and then nobody could.
 * 3. It is there before the message is taken, so nothing can fail in between.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "heap_type_binding.h"
#include "ring_binding.h"

int kin_add_claim(PyObject *module);

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
    int error = kin_ring_enter_soon(ring);
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
            error = kin_arena_join(arena);
        else if (error == EAGAIN && !looked) {
            looked = true;
            error = kin_arena_look(arena, KIN_LOOK_ALL);
        } else
            return error;
        if (error != 0)
            return error == EBUSY ? EAGAIN : error;
    }
}

struct claim {
    PyObject_HEAD
    struct kin_ring_object *end; /* NULL: it is on nothing */
    uint32_t unit, stamp, forks;
    bool settled, repeated;
};

static PyTypeObject *claim_type; /* of the one module that there is in a process; it lives as long */

/* NULL without memory for it: then it goes back. */
static PyObject *
copy_of(struct kin_ring *ring, const struct kin_block *block)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)block->length);
    if (bytes == NULL)
        return NULL;
    char *to = PyBytes_AsString(bytes);
    Py_BEGIN_ALLOW_THREADS
    memcpy(to, kin_arena_bytes(&ring->arena, block), block->length);
    Py_END_ALLOW_THREADS
    return bytes;
}

PyObject *
kin_ring_py_take_owed(PyObject *object, PyObject *unused)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    struct kin_ring *ring = kin_ring_of(self);
    struct claim *claim = ring == NULL ? NULL : kin_allocate(claim_type);
    (void)unused;
    if (claim == NULL)
        return NULL;
    struct kin_opened_ring *opened = self->opened;
    struct owed owed;
    PyObject *bytes = NULL;
    int error;
    opened->inside++;
    do {
        Py_BEGIN_ALLOW_THREADS
        error = take(ring, &owed);
        Py_END_ALLOW_THREADS
    } while (error == EINTR && PyErr_CheckSignals() == 0);
    if (error == 0) {
        claim->end = (struct kin_ring_object *)Py_NewRef(object);
        claim->unit = owed.block.unit;
        claim->stamp = owed.block.stamp;
        claim->forks = kin_robust_forks();
        claim->repeated = owed.repeated;
        bytes = copy_of(ring, &owed.block);
    }
    kin_ring_come_out(opened);
    if (bytes != NULL)
        return Py_BuildValue("iNN", (int)owed.kind, bytes, claim);
    Py_DECREF(claim);
    if (error == EAGAIN)
        Py_RETURN_NONE;
    return error == 0 || PyErr_Occurred() ? NULL : kin_ring_fail(error);
}

/* 0 or an errno; EBUSY with an exception set, by a signal handler. To give it back takes no wait. */
static int
settle(struct claim *claim, bool done)
{
    struct kin_opened_ring *opened = claim->end == NULL ? NULL : claim->end->opened;
    if (claim->settled || claim->forks != kin_robust_forks())
        return ESTALE;
    if (opened == NULL)
        return EBADF;
    struct kin_arena *arena = &opened->ring.arena;
    int error;
    claim->settled = true; /* also while another thread tries */
    opened->inside++;
    if (!done)
        error = kin_arena_return(arena, claim->unit, claim->stamp);
    else
        do {
            Py_BEGIN_ALLOW_THREADS
            error = kin_arena_acknowledge(arena, claim->unit, claim->stamp);
            Py_END_ALLOW_THREADS
        } while (error == EBUSY && PyErr_CheckSignals() == 0);
    kin_ring_come_out(opened);
    claim->settled = error == 0;
    return error;
}

static PyObject *
claim_settle(PyObject *object, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"done", NULL};
    int done;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$p:settle", names, &done))
        return NULL;
    int error = settle((struct claim *)object, done != 0);
    if (PyErr_Occurred())
        return NULL;
    if (error != 0)
        return kin_ring_fail(error);
    Py_RETURN_NONE;
}

static PyObject *
claim_redelivered(PyObject *object, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((struct claim *)object)->repeated);
}

static void
claim_dealloc(PyObject *object)
{
    struct claim *claim = (struct claim *)object;
    (void)settle(claim, false); /* rule 2; what can't be is another's, or went with its end */
    Py_XDECREF((PyObject *)claim->end);
    kin_release(object);
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

static PyMethodDef claim_methods[] = {
    {"settle", (PyCFunction)(void (*)(void))claim_settle, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("Acknowledge it, or give it back.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef claim_attributes[] = {
    {"redelivered", claim_redelivered, NULL, PyDoc_STR("Whether somebody may have had it."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot claim_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A hold on a message that is to be acknowledged.")},
    {Py_tp_dealloc, claim_dealloc},
    {Py_tp_methods, claim_methods},
    {Py_tp_getset, claim_attributes},
    {0, NULL},
};

static PyType_Spec claim_spec = {
    .name = "kinfolk._native.Claim",
    .basicsize = sizeof(struct claim),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = claim_slots,
};

int
kin_add_claim(PyObject *module)
{
    return kin_add_kept_type(module, &claim_spec, "Claim", &claim_type);
}
