/* Ring.poll, Ring.settle and Ring.lowering: see ring_binding.c and ring_poll.c. None of them waits. */

#include "ring_binding.h"

PyObject *
kin_ring_py_poll(PyObject *object, PyObject *unused)
{
    struct kin_ring *ring = kin_ring_of((struct kin_ring_object *)object);
    (void)unused;
    int made = ring == NULL ? -1 : kin_ring_poll(ring);
    if (ring != NULL && made < 0)
        return kin_ring_fail(-made);
    return ring == NULL ? NULL : PyLong_FromLong(made);
}

PyObject *
kin_ring_py_settle(PyObject *object, PyObject *descriptor)
{
    struct kin_ring *ring = kin_ring_of((struct kin_ring_object *)object);
    long poll = ring == NULL ? -1 : PyLong_AsLong(descriptor);
    if (ring == NULL || PyErr_Occurred())
        return NULL;
    return PyBool_FromLong(kin_ring_settle(ring, (int)poll));
}

/* The number is in the pointer, which is not NULL then. */
PyObject *
kin_ring_py_lowering(PyObject *unused, PyObject *descriptor)
{
    long number = PyLong_AsLong(descriptor);
    (void)unused;
    if (PyErr_Occurred())
        return NULL;
    return PyCapsule_New((void *)(intptr_t)(number + 1), KIN_LOWERING_CAPSULE, NULL);
}
