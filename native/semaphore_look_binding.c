/* What a Semaphore tells of itself: .value, ._now, ._terms, ._members(). See semaphore_binding.c. */

#include "semaphore_binding.h"

static PyObject *
semaphore_value(PyObject *object, void *unused)
{
    struct kin_semaphore_handle *self = (struct kin_semaphore_handle *)object;
    uint32_t value;
    int error;
    (void)unused;
    if (!kin_semaphore_is_open(self))
        return NULL;
    KIN_BEGIN_CALL(self)
    error = kin_semaphore_value(&self->core, &value);
    KIN_END_CALL(self)
    return error != 0 ? kin_refuse(object, error, NULL) : PyLong_FromUnsignedLong(value);
}

static PyObject *
semaphore_now(PyObject *object, void *unused)
{
    struct kin_semaphore_handle *self = (struct kin_semaphore_handle *)object;
    (void)unused;
    if (!kin_semaphore_is_open(self))
        return NULL;
    return PyLong_FromUnsignedLong(kin_semaphore_now(&self->core));
}

static PyObject *
semaphore_terms(PyObject *object, void *unused)
{
    struct kin_semaphore_handle *self = (struct kin_semaphore_handle *)object;
    (void)unused;
    if (!kin_semaphore_is_open(self))
        return NULL;
    return Py_BuildValue("IIII", self->core.initial, self->core.maximum, self->core.keeps,
                         self->core.members.count);
}

PyObject *
kin_semaphore_members(PyObject *object, PyObject *unused)
{
    struct kin_semaphore_handle *self = (struct kin_semaphore_handle *)object;
    (void)unused;
    if (!kin_semaphore_is_open(self))
        return NULL;
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < self->core.members.count; i++) {
        struct kin_member *row = &self->core.members.state->rows[i];
        uint32_t pid = __atomic_load_n(&row->pid, __ATOMIC_RELAXED);
        if (pid == 0)
            continue;
        PyObject *pair = Py_BuildValue("Ii", pid, kin_semaphore_held(&self->core, row));
        if (pair == NULL || PyList_Append(list, pair) < 0)
            Py_CLEAR(list);
        Py_XDECREF(pair);
    }
    return list;
}

PyGetSetDef kin_semaphore_attributes[] = {
    {"value", semaphore_value, NULL, PyDoc_STR("How many can be acquired just now."), NULL},
    {"_now", semaphore_now, NULL, PyDoc_STR("The value, without a look for the dead."), NULL},
    {"_terms", semaphore_terms, NULL, PyDoc_STR("As what it was made."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
