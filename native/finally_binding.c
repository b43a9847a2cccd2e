/* Finally: a `finally` that no signal handler gets in between.
 *
 *     with Finally(function, argument):      function(argument) is called when the block ends
 *
 *     class Lock(Leaving): …
 *     with Lock():                           the same for a type in Python: its _leave(list) is called, each time with the same list,
 *                                            which is empty at first: there it notes what it has begun to leave
 *
 * A handler, so also Ctrl-C, runs between two instructions of Python, and the first of them is the
 * start of a Python function. So in `finally: leave(token)` a KeyboardInterrupt may come before
 * `leave` has done anything, and what was to be left stays occupied for ever. Here nothing lies
 * between the end of the block and the call; and when the call itself is ended by an exception, it
 * is made again, and the exception raised afterwards. So the function has to be one that may be
 * repeated.
 *
 * A loop does not stand in the block itself, but in a function that is called there: the jump back at
 * its end is where Python looks for signals, and since CPython 3.12 it may lie outside of the block.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "heap_type_binding.h"

int kin_add_finally(PyObject *module);

enum { TRIES = 8 }; /* each but the first needs one more interrupt, within microseconds */

struct finally {
    PyObject_HEAD
    PyObject *function, *argument;
};

static PyObject *
finally_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"", "", NULL};
    PyObject *function, *argument;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO:Finally", names, &function, &argument))
        return NULL;
    struct finally *self = kin_allocate(type);
    if (self == NULL)
        return NULL;
    self->function = Py_NewRef(function);
    self->argument = Py_NewRef(argument);
    return (PyObject *)self;
}

static int
finally_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct finally *self = (struct finally *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->function);
    Py_VISIT(self->argument);
    return 0;
}

static int
finally_clear(PyObject *object)
{
    struct finally *self = (struct finally *)object;
    Py_CLEAR(self->function);
    Py_CLEAR(self->argument);
    return 0;
}

static void
finally_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    finally_clear(object);
    kin_release(object);
}

static PyObject *
finally_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    return Py_NewRef(object);
}

/* Calls it until it is not ended by an exception. None; or NULL with the last exception set. */
static PyObject *
call_through(PyObject *function, PyObject *argument)
{
    PyObject *kind = NULL, *value = NULL, *trace = NULL; /* of what ended the last try */
    for (int tries = 0; tries < TRIES; tries++) {
        PyObject *result = PyObject_CallFunctionObjArgs(function, argument, NULL);
        if (result != NULL) {
            Py_DECREF(result);
            break;
        }
        Py_XDECREF(kind);
        Py_XDECREF(value);
        Py_XDECREF(trace);
        PyErr_Fetch(&kind, &value, &trace);
    }
    if (kind == NULL)
        Py_RETURN_NONE;
    PyErr_Restore(kind, value, trace);
    return NULL;
}

static PyObject *
finally_exit(PyObject *object, PyObject *unused)
{
    struct finally *self = (struct finally *)object;
    (void)unused;
    return call_through(self->function, self->argument);
}

static PyMethodDef methods[] = {
    {"__enter__", finally_enter, METH_NOARGS, PyDoc_STR("Itself.")},
    {"__exit__", finally_exit, METH_VARARGS, PyDoc_STR("Call the function.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Calls a function when a block ends, however it does.")},
    {Py_tp_new, finally_new},
    {Py_tp_traverse, finally_traverse},
    {Py_tp_clear, finally_clear},
    {Py_tp_dealloc, finally_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.Finally",
    .basicsize = sizeof(struct finally),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

/* ---------------------------------------------------------------------------------- Leaving */

static PyObject *
leaving_exit(PyObject *object, PyObject *const *exception, Py_ssize_t count)
{
    (void)exception;
    (void)count;
    PyObject *function = PyObject_GetAttrString(object, "_leave");
    PyObject *begun = function == NULL ? NULL : PyList_New(0);
    PyObject *result = begun == NULL ? NULL : call_through(function, begun);
    Py_XDECREF(begun);
    Py_XDECREF(function);
    return result;
}

static void
leaving_dealloc(PyObject *object)
{
    kin_release(object);
}

static PyMethodDef leaving_methods[] = {
    {"__exit__", (PyCFunction)(void (*)(void))leaving_exit, METH_FASTCALL,
     PyDoc_STR("__exit__($self, *exception)\n--\n\nLeave, whatever interrupts that.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot leaving_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("What is left at the end of a block, by `_leave` of the subclass.")},
    {Py_tp_dealloc, leaving_dealloc},
    {Py_tp_methods, leaving_methods},
    {0, NULL},
};

static PyType_Spec leaving_spec = {
    .name = "kinfolk._native.Leaving",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = leaving_slots,
};

int
kin_add_finally(PyObject *module)
{
    int result = kin_add_type(module, &spec, "Finally");
    return result == 0 ? kin_add_type(module, &leaving_spec, "Leaving") : result;
}
