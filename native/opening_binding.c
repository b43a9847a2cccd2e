/* Opening an object of kinfolk.sync, while somebody else may be making it: signal handlers run meanwhile.
 *
 *     object_maker(buffer, offset)        the thread that makes the object which lies there; 0 for none
 */

#include "opening_binding.h"

#include "placed_binding.h"

int kin_add_opening(PyObject *module);

bool
kin_opening_goes_on(enum kin_finding found)
{
    return found == KIN_INTERRUPTED && PyErr_CheckSignals() == 0;
}

PyObject *
kin_opening_found(enum kin_finding found)
{
    return found == KIN_INTERRUPTED ? NULL : PyLong_FromLong(found);
}

PyObject *
kin_opening_repair(PyObject *arguments, void (*repair)(void *memory, size_t room))
{
    struct kin_placed placed;
    PyObject *buffer;
    Py_ssize_t offset;
    if (!PyArg_ParseTuple(arguments, "On:_repair", &buffer, &offset) ||
        kin_place(&placed, buffer, offset) < 0)
        return NULL;
    repair(placed.memory, placed.room);
    kin_unplace(&placed);
    Py_RETURN_NONE;
}

static PyObject *
object_maker(PyObject *module, PyObject *args)
{
    struct kin_placed placed;
    PyObject *buffer;
    Py_ssize_t offset;
    (void)module;
    if (!PyArg_ParseTuple(args, "On:object_maker", &buffer, &offset) ||
        kin_place(&placed, buffer, offset) < 0)
        return NULL;
    uint32_t maker = kin_object_maker(placed.memory, placed.room);
    kin_unplace(&placed);
    return PyLong_FromUnsignedLong(maker);
}

static PyMethodDef functions[] = {
    {"object_maker", object_maker, METH_VARARGS, PyDoc_STR("Who makes what lies there.")},
    {NULL, NULL, 0, NULL},
};

int
kin_add_opening(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
