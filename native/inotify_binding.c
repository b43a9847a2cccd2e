/* inotify(7), which Python's standard library lacks: two system calls, as they are.
 *
 *     inotify_init() -> int                    non-blocking, close-on-exec
 *     inotify_add_watch(fd, path, mask) -> int
 *
 * The events are read with os.read and need not be looked at: whoever waits tries again.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <sys/inotify.h>

int kin_add_inotify(PyObject *module);

static PyObject *
kin_inotify_init(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    return fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
}

static PyObject *
kin_inotify_add_watch(PyObject *module, PyObject *args)
{
    (void)module;
    int fd;
    PyObject *path;
    unsigned int mask;
    if (!PyArg_ParseTuple(args, "iO&I:inotify_add_watch", &fd, PyUnicode_FSConverter, &path, &mask))
        return NULL;
    int watch = inotify_add_watch(fd, PyBytes_AsString(path), mask);
    PyObject *result =
        watch < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(watch);
    Py_DECREF(path);
    return result;
}

static PyMethodDef functions[] = {
    {"inotify_init", kin_inotify_init, METH_NOARGS, PyDoc_STR("A new inotify descriptor.")},
    {"inotify_add_watch", kin_inotify_add_watch, METH_VARARGS,
     PyDoc_STR("Watch a path for the events of a mask; the watch's number.")},
    {NULL, NULL, 0, NULL},
};

int
kin_add_inotify(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
