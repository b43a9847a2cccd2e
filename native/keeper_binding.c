/* KeeperLoop: the loop of a keeper, for kinfolk.processes.keeper.
 *
 *     KeeperLoop(line, owner, ended, death_signal, vouches)     see struct kin_keeper
 *       .next_request() -> (packet, descriptors, truncated), or None     serves programs until another
 *                                  request comes, whose descriptors are the caller's; None: it is over
 *       .start_program(number, block, descriptors)            for one that came in memory
 *       .hand_over(number, pid, reader, report)               a forked child; takes `report`
 *       .reap() -> whether any child is left
 *       .forget_lost()                                        who was reaped by somebody else
 *       .child_of(number) -> its pid, 0 for none
 *       .close_own()                                          status pipes, the anchor's pidfd
 *       .expect(process_group)                                before a child is forked that is to join it
 *       .anchor() -> its pid, 0 for none
 *       .end_anchor() -> whether there was one
 *
 * The descriptors stay the caller's. For one thread: the GIL is released in `next_request` alone.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <unistd.h>

#include "heap_type_binding.h"
#include "keeper_loop.h"

int kin_add_keeper(PyObject *module);

struct keeper_loop {
    PyObject_HEAD
    struct kin_keeper core;
    struct kin_keeper_request request;
};

static PyObject *
keeper_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"line", "owner", "ended", "death_signal", "vouches", NULL};
    int line, owner, ended, death_signal, vouches;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iiiip:KeeperLoop", names, &line, &owner,
                                     &ended, &death_signal, &vouches))
        return NULL;
    struct keeper_loop *self = kin_allocate(type);
    if (self == NULL)
        return NULL;
    self->core.line = line;
    self->core.owner = owner;
    self->core.ended = ended;
    self->core.death_signal = death_signal;
    self->core.vouches = vouches != 0;
    kin_keeper_init(&self->core);
    return (PyObject *)self;
}

static void
keeper_dealloc(PyObject *object)
{
    kin_keeper_release(&((struct keeper_loop *)object)->core);
    kin_release(object);
}

/* (packet, descriptors, truncated) */
static PyObject *
build_request(const struct kin_keeper_request *request)
{
    PyObject *descriptors = PyList_New((Py_ssize_t)request->descriptor_count);
    bool made = descriptors != NULL;
    for (size_t i = 0; made && i < request->descriptor_count; i++) {
        PyObject *number = PyLong_FromLong(request->descriptors[i]);
        made = number != NULL && PyList_SetItem(descriptors, (Py_ssize_t)i, number) == 0;
    }
    PyObject *result = NULL;
    if (made)
        result = Py_BuildValue("y#OO", (const char *)request->packet, (Py_ssize_t)request->size,
                               descriptors, request->truncated ? Py_True : Py_False);
    Py_XDECREF(descriptors);
    for (size_t i = 0; result == NULL && i < request->descriptor_count; i++)
        close(request->descriptors[i]);
    return result;
}

static PyObject *
keeper_next_request(PyObject *object, PyObject *unused)
{
    (void)unused;
    struct keeper_loop *self = (struct keeper_loop *)object;
    for (;;) {
        enum kin_keeper_event event;
        int error;
        Py_BEGIN_ALLOW_THREADS
        event = kin_keeper_next(&self->core, &self->request);
        error = errno;
        Py_END_ALLOW_THREADS
        switch (event) {
        case KIN_KEEPER_REQUEST:
            return build_request(&self->request);
        case KIN_KEEPER_OVER:
            Py_RETURN_NONE;
        case KIN_KEEPER_INTERRUPTED:
            if (PyErr_CheckSignals() < 0)
                return NULL;
            break;
        case KIN_KEEPER_FAILED:
            errno = error;
            return PyErr_SetFromErrno(PyExc_OSError);
        }
    }
}

static PyObject *
keeper_start_program(PyObject *object, PyObject *args)
{
    struct keeper_loop *self = (struct keeper_loop *)object;
    unsigned long long number;
    const char *block;
    Py_ssize_t size;
    PyObject *list;
    int descriptors[KIN_KEEPER_DESCRIPTORS];
    if (!PyArg_ParseTuple(args, "Ky#O!:start_program", &number, &block, &size, &PyList_Type, &list))
        return NULL;
    Py_ssize_t count = PyList_Size(list);
    if (count > KIN_KEEPER_DESCRIPTORS) {
        PyErr_SetString(PyExc_ValueError, "too many descriptors");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        descriptors[i] = (int)PyLong_AsLong(PyList_GetItem(list, i));
        if (PyErr_Occurred())
            return NULL;
    }
    kin_keeper_start_program(&self->core, number, (const unsigned char *)block, (size_t)size,
                             descriptors, (size_t)count);
    Py_RETURN_NONE;
}

static PyObject *
keeper_hand_over(PyObject *object, PyObject *args)
{
    unsigned long long number;
    int pid, reader, report;
    if (!PyArg_ParseTuple(args, "Kiii:hand_over", &number, &pid, &reader, &report))
        return NULL;
    kin_keeper_hand_over(&((struct keeper_loop *)object)->core, number, pid, reader, report);
    Py_RETURN_NONE;
}

static PyObject *
keeper_reap(PyObject *object, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(kin_keeper_reap(&((struct keeper_loop *)object)->core));
}

static PyObject *
keeper_forget_lost(PyObject *object, PyObject *unused)
{
    (void)unused;
    kin_keeper_forget_lost(&((struct keeper_loop *)object)->core);
    Py_RETURN_NONE;
}

static PyObject *
keeper_child_of(PyObject *object, PyObject *number)
{
    unsigned long long wanted = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred())
        return NULL;
    return PyLong_FromLong(kin_keeper_child_of(&((struct keeper_loop *)object)->core, wanted));
}

static PyObject *
keeper_close_own(PyObject *object, PyObject *unused)
{
    (void)unused;
    kin_keeper_close_own(&((struct keeper_loop *)object)->core);
    Py_RETURN_NONE;
}

static PyObject *
keeper_expect(PyObject *object, PyObject *process_group)
{
    long number = PyLong_AsLong(process_group);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    kin_keeper_expect(&((struct keeper_loop *)object)->core, (int)number);
    Py_RETURN_NONE;
}

static PyObject *
keeper_anchor(PyObject *object, PyObject *unused)
{
    (void)unused;
    return PyLong_FromLong(((struct keeper_loop *)object)->core.anchor.pid);
}

static PyObject *
keeper_end_anchor(PyObject *object, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(kin_anchor_end(&((struct keeper_loop *)object)->core.anchor));
}

static PyMethodDef methods[] = {
    {"next_request", keeper_next_request, METH_NOARGS, PyDoc_STR("Serve until another request.")},
    {"start_program", keeper_start_program, METH_VARARGS, PyDoc_STR("Start one, and reply.")},
    {"hand_over", keeper_hand_over, METH_VARARGS, PyDoc_STR("Take over a child, and reply.")},
    {"reap", keeper_reap, METH_NOARGS, PyDoc_STR("Reap; whether any child is left.")},
    {"forget_lost", keeper_forget_lost, METH_NOARGS, PyDoc_STR("Who was reaped by others.")},
    {"child_of", keeper_child_of, METH_O, PyDoc_STR("The child of a request; 0: none.")},
    {"close_own", keeper_close_own, METH_NOARGS, PyDoc_STR("Close status pipes, and its pidfd.")},
    {"expect", keeper_expect, METH_O, PyDoc_STR("A child is to join a process group.")},
    {"anchor", keeper_anchor, METH_NOARGS, PyDoc_STR("The pid of the anchor; 0: none.")},
    {"end_anchor", keeper_end_anchor, METH_NOARGS, PyDoc_STR("End it; whether there was one.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The loop of a keeper.")},
    {Py_tp_new, keeper_new},
    {Py_tp_dealloc, keeper_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.KeeperLoop",
    .basicsize = sizeof(struct keeper_loop),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int
kin_add_keeper(PyObject *module)
{
    return kin_add_type(module, &spec, "KeeperLoop");
}
