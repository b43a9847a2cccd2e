/* SysvQueue: one direction of one end of a System V queue, for kinfolk.channels.sysv_mq.
 *
 *     SysvQueue(id)
 *       .receive(type, size)           -> (type, bytes), or None when no such message is there
 *       .send(message)                 -> False when there is no room; message: a long, then text
 *       .wait_for_message(type, ms)    blocks; -> True: one without text was taken, receive has it
 *       .wait_to_send(message, ms)     blocks; -> True: it was sent
 *       .wake()                        ends the wait in another thread
 *       .status()                      -> SysvStatus as a tuple, from IPC_STAT
 *       .waker                         a capsule, for Watcher
 *
 * receive and send never block and keep the GIL; the waits release it. The owner lets one
 * operation in at a time; wake is for any thread. A wait returns early for signals, whose Python
 * handlers run before it returns, unless it has taken or sent: then what it did is told first.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <sys/ipc.h>
#include <sys/msg.h>

#include "heap_type_binding.h"
#include "sysv_wait.h"
#include "sysv_wait_binding.h"

int kin_add_sysv_wait(PyObject *module);

struct queue {
    PyObject_HEAD
    struct kin_wait wait;
    int id;
    bool holds; /* a message without text was taken while waiting: of type `held_type` */
    long held_type;
    struct kin_sysv_message *room; /* for what is received */
    Py_ssize_t room_size;          /* of its text */
};

static PyObject *
queue_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    int id;
    static char *names[] = {"id", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "i:SysvQueue", names, &id))
        return NULL;
    struct queue *self = kin_allocate(type);
    if (self == NULL)
        return NULL;
    self->id = id;
    int error = kin_wait_init(&self->wait);
    if (error != 0) {
        Py_DECREF(self);
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return (PyObject *)self;
}

static void
queue_dealloc(PyObject *object)
{
    PyMem_Free(((struct queue *)object)->room);
    kin_release(object);
}

static bool
make_room(struct queue *self, Py_ssize_t size)
{
    if (size <= self->room_size && self->room != NULL)
        return true;
    struct kin_sysv_message *room = PyMem_Realloc(self->room, sizeof *room + (size_t)size);
    if (room == NULL) {
        PyErr_NoMemory();
        return false;
    }
    self->room = room;
    self->room_size = size;
    return true;
}

static PyObject *
queue_receive(PyObject *object, PyObject *args)
{
    struct queue *self = (struct queue *)object;
    long type;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "ln:receive", &type, &size))
        return NULL;
    if (self->holds) {
        self->holds = false;
        return Py_BuildValue("ly#", self->held_type, "", (Py_ssize_t)0);
    }
    if (!make_room(self, size))
        return NULL;
    ssize_t length;
    do
        length = msgrcv(self->id, self->room, (size_t)self->room_size, type, IPC_NOWAIT);
    while (length < 0 && errno == EINTR);
    if (length >= 0)
        return Py_BuildValue("ly#", self->room->type, self->room->text, (Py_ssize_t)length);
    if (errno == ENOMSG)
        Py_RETURN_NONE;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* The message in a bytes object: a long, then the text. NULL with an exception set. */
static const struct kin_sysv_message *
message_in(PyObject *bytes, size_t *length)
{
    char *start;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(bytes, &start, &size) < 0)
        return NULL;
    if (size < (Py_ssize_t)sizeof(struct kin_sysv_message)) {
        PyErr_SetString(PyExc_ValueError, "a message begins with its type, a long");
        return NULL;
    }
    *length = (size_t)size - sizeof(struct kin_sysv_message);
    return (const struct kin_sysv_message *)(void *)start; /* bytes are aligned for any type */
}

static PyObject *
queue_send(PyObject *object, PyObject *bytes)
{
    struct queue *self = (struct queue *)object;
    size_t length;
    const struct kin_sysv_message *message = message_in(bytes, &length);
    if (message == NULL)
        return NULL;
    int result;
    do
        result = msgsnd(self->id, message, length, IPC_NOWAIT);
    while (result < 0 && errno == EINTR);
    if (result == 0)
        Py_RETURN_TRUE;
    if (errno == EAGAIN)
        Py_RETURN_FALSE;
    return PyErr_SetFromErrno(PyExc_OSError);
}

PyObject *
kin_wait_outcome(int result)
{
    if (result == KIN_WAIT_DONE)
        Py_RETURN_TRUE;
    if (result < 0) {
        errno = -result;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (PyErr_CheckSignals() < 0)
        return NULL;
    Py_RETURN_FALSE;
}

static PyObject *
queue_wait_for_message(PyObject *object, PyObject *args)
{
    struct queue *self = (struct queue *)object;
    long type;
    int milliseconds;
    if (!PyArg_ParseTuple(args, "li:wait_for_message", &type, &milliseconds))
        return NULL;
    long taken = 0;
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = kin_wait_for_message(&self->wait, self->id, type, milliseconds, &taken);
    Py_END_ALLOW_THREADS
    if (result == KIN_WAIT_DONE) {
        self->holds = true;
        self->held_type = taken;
    }
    return kin_wait_outcome(result);
}

static PyObject *
queue_wait_to_send(PyObject *object, PyObject *args)
{
    struct queue *self = (struct queue *)object;
    PyObject *bytes;
    int milliseconds;
    size_t length;
    if (!PyArg_ParseTuple(args, "Si:wait_to_send", &bytes, &milliseconds))
        return NULL;
    const struct kin_sysv_message *message = message_in(bytes, &length);
    if (message == NULL)
        return NULL;
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = kin_wait_to_send(&self->wait, self->id, message, length, milliseconds);
    Py_END_ALLOW_THREADS
    return kin_wait_outcome(result);
}

static PyObject *
queue_wake(PyObject *object, PyObject *unused)
{
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    kin_wait_wake(&((struct queue *)object)->wait);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *
queue_status(PyObject *object, PyObject *unused)
{
    (void)unused;
    struct msqid_ds status;
    if (msgctl(((struct queue *)object)->id, IPC_STAT, &status) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return Py_BuildValue("kkkkkki", (unsigned long)status.msg_qnum,
                         (unsigned long)status.__msg_cbytes, (unsigned long)status.msg_qbytes,
                         (unsigned long)status.msg_perm.uid, (unsigned long)status.msg_perm.cuid,
                         (unsigned long)status.msg_perm.mode & 0777, (int)status.msg_perm.__key);
}

/* ------------------------------------------------------------------------------- its waker */

static void
release_owner(PyObject *capsule)
{
    Py_XDECREF(PyCapsule_GetContext(capsule));
}

static PyObject *
queue_waker(PyObject *object, void *unused)
{
    (void)unused;
    PyObject *capsule =
        PyCapsule_New(&((struct queue *)object)->wait, KIN_WAIT_CAPSULE, release_owner);
    if (capsule != NULL)
        PyCapsule_SetContext(capsule, Py_NewRef(object));
    return capsule;
}

static PyMethodDef methods[] = {
    {"receive", queue_receive, METH_VARARGS, PyDoc_STR("Take a message if one is there.")},
    {"send", queue_send, METH_O, PyDoc_STR("Send if there is room.")},
    {"wait_for_message", queue_wait_for_message, METH_VARARGS,
     PyDoc_STR("Block until a message may be there.")},
    {"wait_to_send", queue_wait_to_send, METH_VARARGS, PyDoc_STR("Block, and send.")},
    {"wake", queue_wake, METH_NOARGS, PyDoc_STR("End the wait in another thread.")},
    {"status", queue_status, METH_NOARGS, PyDoc_STR("What IPC_STAT says.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"waker", queue_waker, NULL, PyDoc_STR("What Watcher wakes it by."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("One direction of one end of a System V queue.")},
    {Py_tp_new, queue_new},
    {Py_tp_dealloc, queue_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.SysvQueue",
    .basicsize = sizeof(struct queue),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int
kin_add_sysv_wait(PyObject *module)
{
    return kin_add_type(module, &spec, "SysvQueue");
}
