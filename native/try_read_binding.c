/* read(2) that gives None instead of raising when there is nothing now.
 *
 *     try_read(fd, size) -> bytes | None
 *
 * A receiver that waits for its messages meets "nothing now" before each of them; making and
 * catching a BlockingIOError there costs more than the system call. For non-blocking descriptors.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <unistd.h>

enum { SMALL = 4096 }; /* what a packet of a pipe holds at most */

int kin_add_try_read(PyObject *module);

static PyObject *
outcome(ssize_t count)
{
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        Py_RETURN_NONE;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *
kin_try_read(PyObject *module, PyObject *args)
{
    (void)module;
    int fd;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "in:try_read", &fd, &size))
        return NULL;
    if (size < 0) {
        PyErr_SetString(PyExc_ValueError, "size is negative");
        return NULL;
    }
    ssize_t count;
    if (size <= SMALL) { /* so little is copied sooner than the GIL is given away and taken back */
        char buffer[SMALL];
        do
            count = read(fd, buffer, (size_t)size);
        while (count < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
        if (PyErr_Occurred())
            return NULL;
        return count < 0 ? outcome(count) : PyBytes_FromStringAndSize(buffer, count);
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (bytes == NULL)
        return NULL;
    char *start = PyBytes_AsString(bytes);
    do {
        Py_BEGIN_ALLOW_THREADS
        count = read(fd, start, (size_t)size);
        Py_END_ALLOW_THREADS
    } while (count < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    if (count == size)
        return bytes;
    PyObject *result = NULL;
    if (!PyErr_Occurred())
        result = count < 0 ? outcome(count) : PyBytes_FromStringAndSize(start, count);
    Py_DECREF(bytes);
    return result;
}

static PyMethodDef functions[] = {
    {"try_read", kin_try_read, METH_VARARGS,
     PyDoc_STR("Up to size bytes of a non-blocking descriptor; None when there are none now.")},
    {NULL, NULL, 0, NULL},
};

int
kin_add_try_read(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
