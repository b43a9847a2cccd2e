/* What every type of this module does alike: it is made from its spec (a heap type, as the limited
 * API has them), and each of its objects holds on to it. */

#ifndef KIN_HEAP_TYPE_BINDING_H
#define KIN_HEAP_TYPE_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* For tp_new: an object whose fields are all zero; NULL with an exception set. */
static inline void *
kin_allocate(PyTypeObject *type)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    return allocate(type, 0);
}

/* The end of tp_dealloc. */
static inline void
kin_release(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* Gives the module a type, and `kept` a reference instead of the one that it had: 0, or -1 with an exception set. */
static inline int
kin_add_kept_type(PyObject *module, PyType_Spec *spec, const char *name, PyTypeObject **kept)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    int result = type == NULL ? -1 : PyModule_AddObjectRef(module, name, type);
    Py_XDECREF((PyObject *)*kept);
    *kept = (PyTypeObject *)type;
    return result;
}

/* The same for a type of which the module's own reference is enough. */
static inline int
kin_add_type(PyObject *module, PyType_Spec *spec, const char *name)
{
    PyTypeObject *type = NULL;
    int result = kin_add_kept_type(module, spec, name, &type);
    Py_XDECREF((PyObject *)type);
    return result;
}

#endif
