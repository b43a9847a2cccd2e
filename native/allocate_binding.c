/* fallocate(2): space for a file, so that its pages can be touched without SIGBUS.
 *
 *     allocate(fd, offset, length)
 *
 * os.posix_fallocate writes into each block where the file system can't do it (posix_fallocate(3)).
 * Into a file that others have mapped, that would write back bytes which they have just replaced;
 * this one says EOPNOTSUPP.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>

int kin_add_allocate(PyObject *module);

static PyObject *
allocate(PyObject *module, PyObject *args)
{
    (void)module;
    int fd, result;
    long long offset, length;
    if (!PyArg_ParseTuple(args, "iLL:allocate", &fd, &offset, &length))
        return NULL;
    do {
        Py_BEGIN_ALLOW_THREADS
        result = fallocate(fd, 0, (off_t)offset, (off_t)length);
        Py_END_ALLOW_THREADS
    } while (result < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    if (PyErr_Occurred())
        return NULL;
    if (result < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"allocate", allocate, METH_VARARGS,
     PyDoc_STR("Reserve length bytes of a file from an offset on; raises OSError.")},
    {NULL, NULL, 0, NULL},
};

int
kin_add_allocate(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
