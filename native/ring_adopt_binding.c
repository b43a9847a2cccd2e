/* Ring.adopt(buffer) -> a kin_finding: see ring_adopt.c. Under the lock of the file. */

#include "ring_binding.h"

PyObject *
kin_ring_py_adopt(PyObject *unused, PyObject *buffer)
{
    struct kin_placed placed;
    (void)unused;
    if (kin_place(&placed, buffer, 0) < 0)
        return NULL;
    enum kin_finding found;
    Py_BEGIN_ALLOW_THREADS /* it reads what may have to come from a disk */
    found = kin_ring_adopt(placed.memory, placed.room);
    Py_END_ALLOW_THREADS
    kin_unplace(&placed);
    return PyLong_FromLong(found);
}
