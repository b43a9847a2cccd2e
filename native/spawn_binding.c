/* A kinfolk.processes.launch.Launch, put into force.
 *
 *     spawn(launch, started) -> (step, errno, item)
 *     pack_launch(launch) -> (block, descriptors)     for KeeperLoop in another process; raises
 *                                                     OSError, E2BIG, for what nobody could execute
 *     become(launch, parent, others) -> (step, errno, item)     all of it in this process, a fork of
 *                      `parent`, but the program, its environment and the actions of signals; of
 *                      `others`, a list of descriptors that it goes on using, those that were in
 *                      the way have another number then
 *
 * Without an env, the program gets that of this process, in a block too. On success of `spawn`
 * the pid is appended to the list `started` before anything can interrupt the call, and the errno is 0. Else no process is left; `step` is the field of the Launch that could not be
 * done, or "vfork", and `item` which of its elements (of descriptors: the number in the child). The
 * GIL is released meanwhile.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "launch_binding.h"
#include "launch_block.h"
#include "spawn_descriptors.h"

int kin_add_spawn(PyObject *module);

static PyObject *
spawn(struct kin_launch *launch, PyObject *started)
{
    const struct kin_spawn *plan = &launch->plan;
    struct kin_spawn_failure failure;
    pid_t pid;
    Py_BEGIN_ALLOW_THREADS
    pid = plan->death_signal != 0 ? kin_spawn_lasting(plan, &failure) : kin_spawn(plan, &failure);
    Py_END_ALLOW_THREADS
    if (pid < 0)
        return Py_BuildValue("sii", kin_spawn_step_name(failure.step), failure.error,
                             failure.item);
    PyObject *number = PyLong_FromLong(pid);
    if (number == NULL || PyList_Append(started, number) < 0) {
        Py_XDECREF(number);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        return NULL;
    }
    Py_DECREF(number);
    return Py_BuildValue("sii", "", 0, 0);
}

static PyObject *
kin_spawn_launch(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *object, *started;
    if (!PyArg_ParseTuple(args, "OO!:spawn", &object, &PyList_Type, &started))
        return NULL;
    struct kin_launch launch;
    PyObject *result = kin_launch_read(&launch, object) ? spawn(&launch, started) : NULL;
    kin_launch_release(&launch);
    return result;
}

static PyObject *
pack(const struct kin_spawn *plan)
{
    size_t size = kin_block_size(plan);
    if (size == 0) {
        errno = E2BIG;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *block = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    PyObject *descriptors = PyList_New((Py_ssize_t)plan->descriptor_count);
    bool made = block != NULL && descriptors != NULL;
    for (size_t i = 0; made && i < plan->descriptor_count; i++) {
        PyObject *number = PyLong_FromLong(plan->descriptors[i].here);
        made = number != NULL && PyList_SetItem(descriptors, (Py_ssize_t)i, number) == 0;
    }
    if (!made) {
        Py_XDECREF(block);
        Py_XDECREF(descriptors);
        return NULL;
    }
    kin_block_write(plan, (unsigned char *)PyBytes_AsString(block));
    return Py_BuildValue("NN", block, descriptors);
}

static PyObject *
kin_pack_launch(PyObject *module, PyObject *object)
{
    (void)module;
    struct kin_launch launch;
    PyObject *result = kin_launch_read(&launch, object) ? pack(&launch.plan) : NULL;
    kin_launch_release(&launch);
    return result;
}

/* Whatever of a list of descriptors lies where the plan puts something. */
static bool
step_aside(const struct kin_spawn *plan, PyObject *others, struct kin_spawn_failure *failure)
{
    for (Py_ssize_t i = 0; i < PyList_Size(others); i++) {
        int before = (int)PyLong_AsLong(PyList_GetItem(others, i));
        if (PyErr_Occurred())
            return false;
        int now = kin_spawn_step_aside(plan, before);
        if (now == before)
            continue;
        if (now < 0) {
            *failure = (struct kin_spawn_failure){errno, KIN_SPAWN_DESCRIPTORS, before};
            return false;
        }
        PyObject *number = PyLong_FromLong(now);
        if (number == NULL || PyList_SetItem(others, i, number) < 0)
            return false;
    }
    return true;
}

static PyObject *
kin_become(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *object, *others, *result = NULL;
    int parent;
    if (!PyArg_ParseTuple(args, "OiO!:become", &object, &parent, &PyList_Type, &others))
        return NULL;
    struct kin_launch launch;
    struct kin_spawn_failure failure = {0};
    if (kin_launch_read_state(&launch, object)) {
        bool became = step_aside(&launch.plan, others, &failure) &&
                      kin_spawn_become(&launch.plan, &failure, parent);
        const char *step = became ? "" : kin_spawn_step_name(failure.step);
        if (!PyErr_Occurred())
            result = Py_BuildValue("sii", step, failure.error, failure.item);
    }
    kin_launch_release(&launch);
    return result;
}

static PyMethodDef functions[] = {
    {"become", kin_become, METH_VARARGS, PyDoc_STR("Do to this process what a Launch says.")},
    {"spawn", kin_spawn_launch, METH_VARARGS, PyDoc_STR("Start a program as a Launch says.")},
    {"pack_launch", kin_pack_launch, METH_O, PyDoc_STR("A Launch as it goes to a keeper.")},
    {NULL, NULL, 0, NULL},
};

int
kin_add_spawn(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
