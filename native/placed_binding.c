/* Where in a Python buffer an object of kinfolk.sync lies.
 *
 * As long as the buffer is held its owner can't unmap or move it: closing an mmap raises BufferError then. So the object, not
 * its user, keeps the memory where the kernel and the robust list expect it.
 */

#include "placed_binding.h"

int
kin_place(struct kin_placed *placed, PyObject *buffer, Py_ssize_t offset)
{
    if (PyObject_GetBuffer(buffer, &placed->view, PyBUF_WRITABLE) < 0)
        return -1;
    Py_ssize_t length = placed->view.len;
    placed->room = offset < 0 || offset >= length ? 0 : (size_t)(length - offset);
    placed->memory = (char *)placed->view.buf + (placed->room == 0 ? 0 : offset);
    return 0;
}

void
kin_unplace(struct kin_placed *placed)
{
    PyBuffer_Release(&placed->view);
}
