/* Holding: a `with` block in which something is held, that no signal handler gets in between.
 *
 *     with Holding(enter, entering, leave, leaving) as held:      held = enter(*entering) … leave(*leaving)
 *
 * A handler, so also Ctrl-C, runs between two instructions of Python. So what a generator (contextlib) acquires before its `yield`
 * stays acquired when an exception comes in between; and it may come before the first instruction behind the `yield`, too. Here
 * nothing lies between the acquisition and the block, nor between the block and the release.
 *
 * Rule: `enter` and `leave` are functions of C, and the arguments of `leave` are plain numbers, or none: what is written in Python
 * would be interrupted. (Finally calls again what was; a release can't be repeated.)
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "heap_type_binding.h"

int kin_add_holding(PyObject *module);

struct holding {
    PyObject_HEAD
    PyObject *enter, *entering, *leave, *leaving;
};

static PyObject *
holding_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"", "", "", "", NULL};
    PyObject *enter, *entering, *leave, *leaving;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO!OO!:Holding", names, &enter, &PyTuple_Type,
                                     &entering, &leave, &PyTuple_Type, &leaving))
        return NULL;
    struct holding *self = kin_allocate(type);
    if (self == NULL)
        return NULL;
    self->enter = Py_NewRef(enter);
    self->entering = Py_NewRef(entering);
    self->leave = Py_NewRef(leave);
    self->leaving = Py_NewRef(leaving);
    return (PyObject *)self;
}

static int
holding_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct holding *self = (struct holding *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->enter);
    Py_VISIT(self->entering);
    Py_VISIT(self->leave);
    Py_VISIT(self->leaving);
    return 0;
}

static int
holding_clear(PyObject *object)
{
    struct holding *self = (struct holding *)object;
    Py_CLEAR(self->enter);
    Py_CLEAR(self->entering);
    Py_CLEAR(self->leave);
    Py_CLEAR(self->leaving);
    return 0;
}

static void
holding_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    holding_clear(object);
    kin_release(object);
}

static PyObject *
holding_enter(PyObject *object, PyObject *unused)
{
    struct holding *self = (struct holding *)object;
    (void)unused;
    return PyObject_Call(self->enter, self->entering, NULL);
}

static PyObject *
holding_exit(PyObject *object, PyObject *const *exception, Py_ssize_t count)
{
    struct holding *self = (struct holding *)object;
    (void)exception;
    (void)count;
    PyObject *result = PyObject_Call(self->leave, self->leaving, NULL);
    if (result == NULL)
        return NULL;
    Py_DECREF(result);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"__enter__", holding_enter, METH_NOARGS, PyDoc_STR("Acquire; what the block gets.")},
    {"__exit__", (PyCFunction)(void (*)(void))holding_exit, METH_FASTCALL, PyDoc_STR("Release.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Holds something for a block.")},
    {Py_tp_new, holding_new},
    {Py_tp_traverse, holding_traverse},
    {Py_tp_clear, holding_clear},
    {Py_tp_dealloc, holding_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.Holding",
    .basicsize = sizeof(struct holding),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
kin_add_holding(PyObject *module)
{
    return kin_add_type(module, &spec, "Holding");
}
