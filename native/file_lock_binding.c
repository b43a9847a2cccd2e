/* LockedFile: a descriptor that a lock hangs on, and the waiting for that lock, for kinfolk.sync.lock_holds.
 *
 *     LockedFile()
 *       .open(path, flags) -> int                   the number, above 2; it is this object's
 *       .fileno() -> int                            -1 when it is closed
 *       .close()
 *       .wait(command, type, start, length, ms)     blocks; -> True: it is locked
 *       .wake()                                     ends the wait in another thread
 *
 * The object owns the number from the instant in which the kernel gives it: so an exception out of a signal handler, between any two
 * instructions of Python, leaves no descriptor behind. `command` is F_OFD_SETLKW, F_SETLKW, or -1 for flock(2). The wait returns
 * early for signals, whose Python handlers run before it returns, unless it has locked: then that is told first.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "file_lock.h"
#include "heap_type_binding.h"
#include "sysv_wait_binding.h"

int kin_add_file_lock(PyObject *module);

struct locked_file {
    PyObject_HEAD
    struct kin_wait wait;
    int fd;
};

static PyObject *
file_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, ":LockedFile", names))
        return NULL;
    struct locked_file *self = kin_allocate(type);
    if (self == NULL)
        return NULL;
    self->fd = -1;
    int error = kin_file_lock_init(&self->wait);
    if (error != 0) {
        Py_DECREF(self);
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return (PyObject *)self;
}

static void
give_back(struct locked_file *self)
{
    int fd = self->fd;
    self->fd = -1;
    if (fd >= 0)
        close(fd);
}

static void
file_dealloc(PyObject *object)
{
    give_back((struct locked_file *)object);
    kin_release(object);
}

/* Where a standard stream is closed its number is free, and would be taken for that stream (kinfolk.descriptors). */
static int
open_above_standard(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0 || fd > 2)
        return fd;
    int above = fcntl(fd, F_DUPFD_CLOEXEC, 3), error = errno;
    close(fd);
    errno = error;
    return above;
}

static PyObject *
file_open(PyObject *object, PyObject *args)
{
    struct locked_file *self = (struct locked_file *)object;
    PyObject *path;
    int flags, fd;
    if (!PyArg_ParseTuple(args, "O&i:open", PyUnicode_FSConverter, &path, &flags))
        return NULL;
    give_back(self);
    do {
        Py_BEGIN_ALLOW_THREADS
        fd = open_above_standard(PyBytes_AsString(path), flags);
        Py_END_ALLOW_THREADS
    } while (fd < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    Py_DECREF(path);
    if (fd >= 0) {
        self->fd = fd;
        return PyLong_FromLong(fd);
    }
    return PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *
file_fileno(PyObject *object, PyObject *unused)
{
    (void)unused;
    return PyLong_FromLong(((struct locked_file *)object)->fd);
}

static PyObject *
file_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    give_back((struct locked_file *)object);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *
file_wait(PyObject *object, PyObject *args)
{
    struct locked_file *self = (struct locked_file *)object;
    struct kin_file_lock lock = {.fd = self->fd};
    long long start, length;
    int milliseconds, result;
    if (!PyArg_ParseTuple(args, "iiLLi:wait", &lock.command, &lock.type, &start, &length,
                          &milliseconds))
        return NULL;
    lock.start = (off_t)start;
    lock.length = (off_t)length;
    Py_BEGIN_ALLOW_THREADS
    result = kin_file_lock_wait(&self->wait, &lock, milliseconds);
    Py_END_ALLOW_THREADS
    return kin_wait_outcome(result);
}

static PyObject *
file_wake(PyObject *object, PyObject *unused)
{
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    kin_wait_wake(&((struct locked_file *)object)->wait);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"open", file_open, METH_VARARGS, PyDoc_STR("Open a path; close-on-exec.")},
    {"fileno", file_fileno, METH_NOARGS, PyDoc_STR("The number, -1 when it is closed.")},
    {"close", file_close, METH_NOARGS, PyDoc_STR("Close it; closing twice does nothing.")},
    {"wait", file_wait, METH_VARARGS, PyDoc_STR("Block until it is locked.")},
    {"wake", file_wake, METH_NOARGS, PyDoc_STR("End the wait in another thread.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A descriptor that a lock hangs on, and the waiting for it.")},
    {Py_tp_new, file_new},
    {Py_tp_dealloc, file_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.LockedFile",
    .basicsize = sizeof(struct locked_file),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int
kin_add_file_lock(PyObject *module)
{
    return kin_add_type(module, &spec, "LockedFile");
}
