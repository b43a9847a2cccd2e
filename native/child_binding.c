/* Child: a child of this process, reaped once, for kinfolk.processes.direct.
 *
 *     Child(pid)                    opens its pidfd; raises OSError (EMFILE, …)
 *       .pidfd       once it was asked for, the caller's to close, after it was collected; -1: somebody
 *                    else has reaped it already, and its number may be another's
 *       .collect()   -> (errno, status word, usage as in struct_rusage), or None while it lives;
 *                       with an errno the rest means nothing: somebody else has collected it
 *       .abandon()      the pidfd is this object's, which closes it once the child was reaped
 *       .waker          a capsule, for Watcher: reaps as soon as it has ended
 *
 * Nothing here blocks, and the GIL is kept. Thread-safe.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <stdbool.h>
#include <unistd.h>

#include "child.h"
#include "child_binding.h"
#include "heap_type_binding.h"

int kin_add_child(PyObject *module);

struct child {
    PyObject_HEAD
    struct kin_child core;
    bool handed_out; /* the pidfd is the caller's */
};

static PyObject *
child_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    int pid;
    static char *names[] = {"pid", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "i:Child", names, &pid))
        return NULL;
    struct child *self = kin_allocate(type);
    if (self == NULL)
        return NULL;
    int error = kin_child_init(&self->core, pid);
    if (error != 0) {
        Py_DECREF(self);
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return (PyObject *)self;
}

static PyObject *
child_pidfd(PyObject *object, void *unused)
{
    (void)unused;
    struct child *self = (struct child *)object;
    self->handed_out = true;
    return PyLong_FromLong(self->core.pidfd);
}

static void
child_dealloc(PyObject *object)
{
    struct child *self = (struct child *)object;
    /* Whoever made this was interrupted; or it is the copy of a forked child. */
    bool ours = !self->handed_out || self->core.abandoned;
    if (ours && self->core.pidfd >= 0)
        close(self->core.pidfd);
    kin_release(object);
}

static double
seconds(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

static PyObject *
child_collect(PyObject *object, PyObject *unused)
{
    (void)unused;
    struct kin_child *core = &((struct child *)object)->core;
    if (!kin_child_collect(core))
        Py_RETURN_NONE;
    const struct rusage *usage = &core->usage;
    return Py_BuildValue("ii(ddllllllllllllll)", core->error, core->status,
                         seconds(usage->ru_utime), seconds(usage->ru_stime), usage->ru_maxrss,
                         usage->ru_ixrss, usage->ru_idrss, usage->ru_isrss, usage->ru_minflt,
                         usage->ru_majflt, usage->ru_nswap, usage->ru_inblock, usage->ru_oublock,
                         usage->ru_msgsnd, usage->ru_msgrcv, usage->ru_nsignals, usage->ru_nvcsw,
                         usage->ru_nivcsw);
}

static PyObject *
child_abandon(PyObject *object, PyObject *unused)
{
    (void)unused;
    kin_child_abandon(&((struct child *)object)->core);
    Py_RETURN_NONE;
}

/* ------------------------------------------------------------------------------- its waker */

static void
release_owner(PyObject *capsule)
{
    Py_XDECREF(PyCapsule_GetContext(capsule));
}

static PyObject *
child_waker(PyObject *object, void *unused)
{
    (void)unused;
    PyObject *capsule =
        PyCapsule_New(&((struct child *)object)->core, KIN_CHILD_CAPSULE, release_owner);
    if (capsule != NULL)
        PyCapsule_SetContext(capsule, Py_NewRef(object));
    return capsule;
}

static PyMethodDef methods[] = {
    {"collect", child_collect, METH_NOARGS, PyDoc_STR("What became of it; None while it lives.")},
    {"abandon", child_abandon, METH_NOARGS, PyDoc_STR("Nobody asks any more.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"pidfd", child_pidfd, NULL, PyDoc_STR("Its pidfd, or -1."), NULL},
    {"waker", child_waker, NULL, PyDoc_STR("What Watcher reaps it by."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A child of this process.")},
    {Py_tp_new, child_new},
    {Py_tp_dealloc, child_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.Child",
    .basicsize = sizeof(struct child),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int
kin_add_child(PyObject *module)
{
    return kin_add_type(module, &spec, "Child");
}
