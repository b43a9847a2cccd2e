/* Watcher: the watcher of a process, for kinfolk.watcher.
 *
 *     Watcher()
 *       .watch(fds, events, eventfd, waker)   -> Watch   eventfd: -1 for none; waker: None for none,
 *                                                        that of a SysvQueue or of a Child
 *       .before_fork(), .after_fork_in_parent(), .after_fork_in_child()
 *       .stop()                               ends the thread
 *       .core                                 a capsule of the struct kin_watcher
 *     Watch
 *       .leave()                              also a context manager; what it watches for happens no more
 *                                             once it is left or dropped
 *
 * Rule: a watch is owned by its Watch from the system call on, and is left by one C function. So an
 * exception that a signal handler raises between any two instructions of Python leaves none behind.
 * For the same reason the hooks around fork are no Python functions.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>

#include "child_binding.h"
#include "heap_type_binding.h"
#include "sysv_wait_binding.h"
#include "watcher.h"
#include "watcher_binding.h"

int kin_add_watcher(PyObject *module);

struct watcher {
    PyObject_HEAD
    struct kin_watcher core;
    PyObject *watch_type;
};

struct watch {
    PyObject_HEAD
    struct watcher *watcher;
    PyObject *waker; /* a capsule: kept alive while the thread may use it */
    uint64_t number; /* 0: it watches nothing (any more) */
};

static PyObject *
fail(int error)
{
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* --------------------------------------------------------------------------------- a watch */

static void
leave(struct watch *self)
{
    if (self->number == 0)
        return;
    uint64_t number = self->number;
    self->number = 0;
    /* The mutex may be held by a thread that forks, and wants the GIL. */
    Py_BEGIN_ALLOW_THREADS
    kin_watcher_remove(&self->watcher->core, number);
    Py_END_ALLOW_THREADS
}

static void
watch_dealloc(PyObject *object)
{
    struct watch *self = (struct watch *)object;
    leave(self);
    Py_XDECREF(self->waker);
    Py_XDECREF((PyObject *)self->watcher);
    kin_release(object);
}

static PyObject *
watch_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    return Py_NewRef(object);
}

static PyObject *
watch_leave(PyObject *object, PyObject *unused)
{
    (void)unused;
    leave((struct watch *)object);
    Py_RETURN_NONE;
}

static PyObject *
watch_exit(PyObject *object, PyObject *unused)
{
    (void)unused;
    leave((struct watch *)object);
    Py_RETURN_NONE;
}

static PyMethodDef watch_methods[] = {
    {"leave", watch_leave, METH_NOARGS, PyDoc_STR("Watch no more.")},
    {"__enter__", watch_enter, METH_NOARGS, PyDoc_STR("Itself.")},
    {"__exit__", watch_exit, METH_VARARGS, PyDoc_STR("Watch no more; nothing of it happens later.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot watch_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("What is watched until it is left or dropped.")},
    {Py_tp_dealloc, watch_dealloc},
    {Py_tp_methods, watch_methods},
    {0, NULL},
};

static PyType_Spec watch_spec = {
    .name = "kinfolk._native.Watch",
    .basicsize = sizeof(struct watch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = watch_slots,
};

/* ------------------------------------------------------------------------------ the watcher */

static PyObject *
watcher_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, ":Watcher", names))
        return NULL;
    struct watcher *self = kin_allocate(type);
    if (self == NULL)
        return NULL;
    int error = kin_watcher_init(&self->core);
    PyObject *module = PyType_GetModule(type);
    self->watch_type = module == NULL ? NULL : PyObject_GetAttrString(module, "Watch");
    if (error != 0 || self->watch_type == NULL) {
        Py_DECREF(self);
        return error != 0 ? fail(error) : NULL;
    }
    return (PyObject *)self;
}

static void
watcher_dealloc(PyObject *object)
{
    struct watcher *self = (struct watcher *)object;
    kin_watcher_end(&self->core);
    Py_XDECREF(self->watch_type);
    kin_release(object);
}

static PyObject *
watcher_watch(PyObject *object, PyObject *args)
{
    struct watcher *self = (struct watcher *)object;
    struct kin_watch terms = {0};
    unsigned int events;
    PyObject *fds, *waker;
    if (!PyArg_ParseTuple(args, "O!IiO:watch", &PyTuple_Type, &fds, &events, &terms.event_fd,
                          &waker))
        return NULL;
    terms.events = events;
    if (PyCapsule_IsValid(waker, KIN_CHILD_CAPSULE)) {
        terms.child = PyCapsule_GetPointer(waker, KIN_CHILD_CAPSULE);
    } else if (waker != Py_None) {
        terms.wait = PyCapsule_GetPointer(waker, KIN_WAIT_CAPSULE);
        if (terms.wait == NULL)
            return NULL;
    }
    struct watch *watch = kin_allocate((PyTypeObject *)self->watch_type);
    if (watch == NULL)
        return NULL;
    watch->watcher = (struct watcher *)Py_NewRef(object);
    watch->waker = Py_NewRef(waker);
    for (Py_ssize_t i = 0; i < PyTuple_Size(fds); i++) {
        long fd = PyLong_AsLong(PyTuple_GetItem(fds, i));
        int error = 0;
        if (!PyErr_Occurred()) {
            terms.fd = (int)fd;
            Py_BEGIN_ALLOW_THREADS
            error = kin_watcher_add(&self->core, &terms, &watch->number);
            Py_END_ALLOW_THREADS
        }
        if (error != 0)
            fail(error);
        if (PyErr_Occurred()) {
            Py_DECREF(watch); /* and with it what was added */
            return NULL;
        }
    }
    return (PyObject *)watch;
}

static PyObject *
watcher_before_fork(PyObject *object, PyObject *unused)
{
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    kin_watcher_before_fork(&((struct watcher *)object)->core);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *
watcher_after_fork_in_parent(PyObject *object, PyObject *unused)
{
    (void)unused;
    kin_watcher_after_fork_in_parent(&((struct watcher *)object)->core);
    Py_RETURN_NONE;
}

static PyObject *
watcher_after_fork_in_child(PyObject *object, PyObject *unused)
{
    (void)unused;
    kin_watcher_after_fork_in_child(&((struct watcher *)object)->core);
    Py_RETURN_NONE;
}

static PyObject *
watcher_stop(PyObject *object, PyObject *unused)
{
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    kin_watcher_stop(&((struct watcher *)object)->core);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static void
release_owner(PyObject *capsule)
{
    Py_XDECREF(PyCapsule_GetContext(capsule));
}

static PyObject *
watcher_core(PyObject *object, void *unused)
{
    struct watcher *self = (struct watcher *)object;
    (void)unused;
    PyObject *capsule = PyCapsule_New(&self->core, KIN_WATCHER_CAPSULE, release_owner);
    if (capsule != NULL)
        PyCapsule_SetContext(capsule, Py_NewRef(object));
    return capsule;
}

static PyMethodDef methods[] = {
    {"watch", watcher_watch, METH_VARARGS, PyDoc_STR("Watch descriptors, each once.")},
    {"before_fork", watcher_before_fork, METH_NOARGS, PyDoc_STR("End the thread, and hold still.")},
    {"after_fork_in_parent", watcher_after_fork_in_parent, METH_NOARGS,
     PyDoc_STR("Go on; start the thread if there are watches.")},
    {"after_fork_in_child", watcher_after_fork_in_child, METH_NOARGS,
     PyDoc_STR("Forget all watches; close descriptors.")},
    {"stop", watcher_stop, METH_NOARGS, PyDoc_STR("End the thread; the watches stay.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"core", watcher_core, NULL, PyDoc_STR("For objects of C that watch."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The watcher of a process.")},
    {Py_tp_new, watcher_new},
    {Py_tp_dealloc, watcher_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.Watcher",
    .basicsize = sizeof(struct watcher),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int
kin_add_watcher(PyObject *module)
{
    if (kin_add_type(module, &watch_spec, "Watch") < 0)
        return -1;
    return kin_add_type(module, &spec, "Watcher");
}
