/* Watcher: the watcher of a process, for kinfolk.watcher, which serialises all calls.
 *
 *     Watcher()
 *       .add(fd, events, eventfd, waker)  -> number   eventfd: -1 for none; waker: None for none,
 *                                                     that of a SysvQueue or of a Child
 *       .remove(number)
 *       .stop(), .resume(), .clear()      around fork
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>

#include "child_binding.h"
#include "sysv_wait_binding.h"
#include "watcher.h"

int kin_add_watcher(PyObject *module);

struct watcher {
    PyObject_HEAD
    struct kin_watcher core;
    PyObject *wakers; /* number -> capsule: kept alive while the thread may use them */
};

static PyObject *
fail(int error)
{
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *
watcher_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, ":Watcher", names))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct watcher *self = (struct watcher *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    int error = kin_watcher_init(&self->core);
    self->wakers = PyDict_New();
    if (error != 0 || self->wakers == NULL) {
        Py_DECREF(self);
        return error != 0 ? fail(error) : NULL;
    }
    return (PyObject *)self;
}

static void
watcher_dealloc(PyObject *object)
{
    struct watcher *self = (struct watcher *)object;
    PyTypeObject *type = Py_TYPE(object);
    kin_watcher_stop(&self->core);
    kin_watcher_clear(&self->core);
    Py_XDECREF(self->wakers);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyObject *
watcher_add(PyObject *object, PyObject *args)
{
    struct watcher *self = (struct watcher *)object;
    struct kin_watch watch = {0};
    unsigned int events;
    PyObject *waker;
    if (!PyArg_ParseTuple(args, "iIiO:add", &watch.fd, &events, &watch.event_fd, &waker))
        return NULL;
    watch.events = events;
    if (PyCapsule_IsValid(waker, KIN_CHILD_CAPSULE)) {
        watch.child = PyCapsule_GetPointer(waker, KIN_CHILD_CAPSULE);
    } else if (waker != Py_None) {
        watch.wait = PyCapsule_GetPointer(waker, KIN_WAIT_CAPSULE);
        if (watch.wait == NULL)
            return NULL;
    }
    uint64_t number;
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = kin_watcher_add(&self->core, &watch, &number);
    Py_END_ALLOW_THREADS
    if (error != 0)
        return fail(error);
    PyObject *key = PyLong_FromUnsignedLongLong(number);
    if (key != NULL && PyDict_SetItem(self->wakers, key, waker) == 0)
        return key;
    kin_watcher_remove(&self->core, number);
    Py_XDECREF(key);
    return NULL;
}

static PyObject *
watcher_remove(PyObject *object, PyObject *key)
{
    struct watcher *self = (struct watcher *)object;
    unsigned long long number = PyLong_AsUnsignedLongLong(key);
    if (PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    kin_watcher_remove(&self->core, number);
    Py_END_ALLOW_THREADS
    if (PyDict_DelItem(self->wakers, key) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_KeyError))
            return NULL;
        PyErr_Clear(); /* forgotten at a fork */
    }
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

static PyObject *
watcher_resume(PyObject *object, PyObject *unused)
{
    (void)unused;
    int error = kin_watcher_resume(&((struct watcher *)object)->core);
    if (error != 0)
        return fail(error);
    Py_RETURN_NONE;
}

static PyObject *
watcher_clear(PyObject *object, PyObject *unused)
{
    (void)unused;
    struct watcher *self = (struct watcher *)object;
    kin_watcher_clear(&self->core);
    PyDict_Clear(self->wakers);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"add", watcher_add, METH_VARARGS, PyDoc_STR("Watch a descriptor, once.")},
    {"remove", watcher_remove, METH_O, PyDoc_STR("Watch no more; nothing of it happens later.")},
    {"stop", watcher_stop, METH_NOARGS, PyDoc_STR("End the thread; the watches stay.")},
    {"resume", watcher_resume, METH_NOARGS, PyDoc_STR("Start it if there are watches.")},
    {"clear", watcher_clear, METH_NOARGS, PyDoc_STR("Forget all watches; close descriptors.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The watcher of a process.")},
    {Py_tp_new, watcher_new},
    {Py_tp_dealloc, watcher_dealloc},
    {Py_tp_methods, methods},
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
    PyObject *type = PyType_FromSpec(&spec);
    int result = type == NULL ? -1 : PyModule_AddObjectRef(module, "Watcher", type);
    Py_XDECREF(type);
    return result;
}
