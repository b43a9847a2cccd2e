/* mq_timedsend(2), mq_timedreceive(2), mq_getsetattr(2) on a descriptor that the caller has.
 *
 *     mq_send(fd, message, priority)          BlockingIOError when the queue is full
 *     mq_receive(fd, size) -> (bytes, priority)    size: mq_msgsize; BlockingIOError when empty
 *     mq_attributes(fd) -> (mq_maxmsg, mq_msgsize, mq_curmsgs)
 *
 * posix_ipc opens, makes and unlinks queues by name, but can't use a descriptor that was
 * inherited, passed or duplicated. Nothing blocks, by a timeout that has passed long ago, not by
 * O_NONBLOCK: that would change the descriptor for everybody who shares it. So the GIL is kept.
 * The system calls themselves, because before glibc 2.34 the functions are in librt.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <mqueue.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int kin_add_posix_mq(PyObject *module);

static const struct timespec long_ago = {0, 0};

static PyObject *
fail(void)
{
    if (errno == ETIMEDOUT || errno == EINTR)
        errno = EAGAIN; /* not now; interrupted it was on the way to saying so */
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *
queue_send(PyObject *module, PyObject *args)
{
    (void)module;
    int fd;
    const char *message;
    Py_ssize_t length;
    unsigned int priority;
    if (!PyArg_ParseTuple(args, "iy#I:mq_send", &fd, &message, &length, &priority))
        return NULL;
    if (syscall(SYS_mq_timedsend, fd, message, (size_t)length, priority, &long_ago) < 0)
        return fail();
    Py_RETURN_NONE;
}

static PyObject *
queue_receive(PyObject *module, PyObject *args)
{
    (void)module;
    int fd;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "in:mq_receive", &fd, &size))
        return NULL;
    char few[16384];
    char *room = size <= (Py_ssize_t)sizeof few ? few : PyMem_Malloc((size_t)size);
    if (room == NULL)
        return PyErr_NoMemory();
    unsigned int priority = 0;
    long length = syscall(SYS_mq_timedreceive, fd, room, (size_t)size, &priority, &long_ago);
    PyObject *result = length < 0
                           ? fail()
                           : Py_BuildValue("y#I", room, (Py_ssize_t)length, priority);
    if (room != few)
        PyMem_Free(room);
    return result;
}

static PyObject *
queue_attributes(PyObject *module, PyObject *args)
{
    (void)module;
    int fd;
    struct mq_attr attributes;
    if (!PyArg_ParseTuple(args, "i:mq_attributes", &fd))
        return NULL;
    if (syscall(SYS_mq_getsetattr, fd, NULL, &attributes) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return Py_BuildValue("lll", attributes.mq_maxmsg, attributes.mq_msgsize, attributes.mq_curmsgs);
}

static PyMethodDef functions[] = {
    {"mq_send", queue_send, METH_VARARGS, PyDoc_STR("Send if there is room.")},
    {"mq_receive", queue_receive, METH_VARARGS, PyDoc_STR("Take a message if there is one.")},
    {"mq_attributes", queue_attributes, METH_VARARGS, PyDoc_STR("Depth, size, messages.")},
    {NULL, NULL, 0, NULL},
};

int
kin_add_posix_mq(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
