/* What can be read off a Ring: see ring_binding.c. */

#include <errno.h>

#include "ring_binding.h"

static PyObject *
number(struct kin_ring_object *self, unsigned long long value)
{
    return self->opened == NULL ? kin_ring_fail(EBADF) : PyLong_FromUnsignedLongLong(value);
}

static PyObject *
ring_alarms(PyObject *object, void *unused)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    (void)unused;
    return number(self, self->opened == NULL ? 0 : atomic_load(&self->opened->ring.alarm));
}

static PyObject *
ring_depth(PyObject *object, void *unused)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    (void)unused;
    return number(self, self->opened == NULL ? 0 : kin_ring_depth(&self->opened->ring) +
                            kin_arena_depth(&self->opened->ring.arena));
}

static PyObject *
ring_capacity(PyObject *object, void *unused)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    (void)unused;
    return number(self, self->opened == NULL ? 0 : self->opened->ring.capacity);
}

static PyObject *
ring_most(PyObject *object, void *unused)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    (void)unused;
    return number(self, self->opened == NULL ? 0 : kin_ring_most(&self->opened->ring));
}

static PyObject *
ring_arena(PyObject *object, void *unused)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    (void)unused;
    return number(self, self->opened == NULL ? 0 : 2 * kin_arena_most(&self->opened->ring.arena));
}

static PyObject *
ring_most_in_block(PyObject *object, void *unused)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    (void)unused;
    return number(self, self->opened == NULL ? 0 : kin_arena_most(&self->opened->ring.arena));
}

static PyObject *
ring_acknowledged(PyObject *object, void *unused)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    (void)unused;
    return number(self, self->opened != NULL && self->opened->ring.acknowledged);
}

#define COUNT(name)                                                                             \
    static PyObject *ring_##name(PyObject *object, void *unused)                                \
    {                                                                                           \
        (void)unused;                                                                           \
        return PyLong_FromUnsignedLongLong(((struct kin_ring_object *)object)->name);           \
    }

COUNT(messages)
COUNT(size)
COUNT(waits)

PyGetSetDef kin_ring_attributes[] = {
    {"alarms", ring_alarms, NULL, PyDoc_STR("How often `alarm` was called."), NULL},
    {"depth", ring_depth, NULL, PyDoc_STR("Bytes that wait in it."), NULL},
    {"capacity", ring_capacity, NULL, PyDoc_STR("Bytes that fit."), NULL},
    {"most", ring_most, NULL, PyDoc_STR("Bytes in the largest message that takes no block."), NULL},
    {"arena", ring_arena, NULL, PyDoc_STR("Bytes of blocks."), NULL},
    {"acknowledged", ring_acknowledged, NULL, PyDoc_STR("1: its messages are."), NULL},
    {"most_in_block", ring_most_in_block, NULL, PyDoc_STR("Bytes in the largest block."), NULL},
    {"messages", ring_messages, NULL, PyDoc_STR("That went through the shortcuts."), NULL},
    {"waits", ring_waits, NULL, PyDoc_STR("How often a shortcut slept."), NULL},
    {"size", ring_size, NULL, PyDoc_STR("Bytes of them."), NULL},
    {"waker", kin_ring_py_waker, NULL, PyDoc_STR("What Watcher wakes it by."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
