/* Methods of C that are called without a detour.
 *
 * CPython (3.11 to 3.14) specializes the call of a method of C only if the method was defined for just the type of
 * the object: an inherited one takes 30 ns more, twice as long. So a subclass gets descriptors of its own. That also asks for
 * METH_FASTCALL | METH_KEYWORDS, even for a method without arguments.
 */

#include "own_methods_binding.h"

#include <string.h>

static int
give(PyObject *subclass, PyMethodDef *method)
{
    PyObject *now = PyObject_GetAttrString(subclass, method->ml_name);
    if (now == NULL)
        return -1;
    int result = 0;
    if (PyObject_TypeCheck(now, &PyMethodDescr_Type)) { /* else the subclass has overridden it */
        PyObject *own = PyDescr_NewMethod((PyTypeObject *)subclass, method);
        result = own == NULL ? -1 : PyObject_SetAttrString(subclass, method->ml_name, own);
        Py_XDECREF(own);
    }
    Py_DECREF(now);
    return result;
}

PyObject *
kin_own_methods(PyObject *subclass, PyMethodDef *methods, const char *const *often)
{
    for (; *often != NULL; often++)
        for (PyMethodDef *method = methods; method->ml_name != NULL; method++)
            if (strcmp(method->ml_name, *often) == 0 && give(subclass, method) < 0)
                return NULL;
    Py_RETURN_NONE;
}
