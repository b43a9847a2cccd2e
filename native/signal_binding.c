/* Signals beyond what Python's signal module offers, for kinfolk.signals.
 *
 *     signal_action(signal) -> (kind, flags, action)   kind: 0 default, 1 ignored, 2 a handler;
 *                                                      action: the bytes of a struct sigaction
 *     set_signal_action(signal, action)                puts such bytes back
 *     set_signal_actions({signal: action, …})          all of them, for a forked child, whose every
 *                                                      touch of an object costs a page
 *     record_signal(signal)                            see signal_info.c
 *     recorded_signal(signal) -> (code, pid, uid, value) | None
 *     signals_after_fork()
 *     queue_signal(pidfd, signal, value, flags)        sigqueue(3) by pidfd
 *     open_signalfd(signals) -> fd                     non-blocking, close-on-exec; of a sequence
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/signalfd.h>

#include "signal_info.h"

int kin_add_signal(PyObject *module);

static PyObject *
outcome(int error)
{
    if (error == 0)
        Py_RETURN_NONE;
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* The number of a signal that may index a table, or -1 with an exception set. */
static int
number_in(PyObject *object)
{
    long number = PyLong_AsLong(object);
    if (number == -1 && PyErr_Occurred())
        return -1;
    if (number < 1 || number >= NSIG) {
        PyErr_SetString(PyExc_ValueError, "no signal has this number");
        return -1;
    }
    return (int)number;
}

static PyObject *
signal_action(PyObject *module, PyObject *number)
{
    (void)module;
    struct sigaction action = {0};
    int signal_number = number_in(number);
    if (signal_number < 0)
        return NULL;
    if (sigaction(signal_number, NULL, &action) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    int kind = 2;
    if (!(action.sa_flags & SA_SIGINFO) && action.sa_handler == SIG_DFL)
        kind = 0;
    else if (!(action.sa_flags & SA_SIGINFO) && action.sa_handler == SIG_IGN)
        kind = 1;
    return Py_BuildValue("iiy#", kind, action.sa_flags, (const char *)&action,
                         (Py_ssize_t)sizeof action);
}

/* False with an exception set. */
static bool
put_back(PyObject *number, PyObject *action_bytes)
{
    struct sigaction action;
    char *bytes;
    Py_ssize_t size;
    int signal_number = number_in(number);
    if (signal_number < 0 || PyBytes_AsStringAndSize(action_bytes, &bytes, &size) < 0)
        return false;
    if (size != (Py_ssize_t)sizeof action) {
        PyErr_SetString(PyExc_ValueError, "not what signal_action gave");
        return false;
    }
    memcpy(&action, bytes, sizeof action);
    if (sigaction(signal_number, &action, NULL) == 0)
        return true;
    PyErr_SetFromErrno(PyExc_OSError);
    return false;
}

static PyObject *
set_signal_action(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *number, *action;
    if (!PyArg_ParseTuple(args, "OO:set_signal_action", &number, &action) ||
        !put_back(number, action))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
set_signal_actions(PyObject *module, PyObject *actions)
{
    (void)module;
    PyObject *number, *action;
    Py_ssize_t at = 0;
    if (!PyDict_Check(actions)) {
        PyErr_SetString(PyExc_TypeError, "a dict of actions is needed");
        return NULL;
    }
    while (PyDict_Next(actions, &at, &number, &action))
        if (!put_back(number, action))
            return NULL;
    Py_RETURN_NONE;
}

static PyObject *
record_signal(PyObject *module, PyObject *number)
{
    (void)module;
    int signal_number = number_in(number);
    return signal_number < 0 ? NULL : outcome(kin_signal_record(signal_number));
}

static PyObject *
recorded_signal(PyObject *module, PyObject *number)
{
    (void)module;
    struct kin_signal_info info;
    int signal_number = number_in(number);
    if (signal_number < 0)
        return NULL;
    if (!kin_signal_recorded(signal_number, &info))
        Py_RETURN_NONE;
    return Py_BuildValue("iiIi", info.code, info.pid, info.uid, info.value);
}

static PyObject *
signals_after_fork(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    kin_signal_after_fork();
    Py_RETURN_NONE;
}

static PyObject *
queue_signal(PyObject *module, PyObject *args)
{
    (void)module;
    int pidfd, signal_number, value;
    unsigned int flags;
    if (!PyArg_ParseTuple(args, "iiiI:queue_signal", &pidfd, &signal_number, &value, &flags))
        return NULL;
    return outcome(kin_signal_queue(pidfd, signal_number, value, flags));
}

static PyObject *
open_signalfd(PyObject *module, PyObject *numbers)
{
    (void)module;
    sigset_t mask;
    sigemptyset(&mask);
    Py_ssize_t count = PySequence_Size(numbers);
    if (count < 0)
        return NULL;
    for (Py_ssize_t index = 0; index < count; index++) {
        PyObject *item = PySequence_GetItem(numbers, index);
        int signal_number = item == NULL ? -1 : number_in(item);
        Py_XDECREF(item);
        if (signal_number < 0)
            return NULL;
        if (sigaddset(&mask, signal_number) < 0)
            return PyErr_SetFromErrno(PyExc_OSError);
    }
    int fd = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
    return fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
}

static PyMethodDef functions[] = {
    {"signal_action", signal_action, METH_O, PyDoc_STR("What the kernel does with a signal.")},
    {"set_signal_action", set_signal_action, METH_VARARGS, PyDoc_STR("Put an action back.")},
    {"set_signal_actions", set_signal_actions, METH_O, PyDoc_STR("Put actions back.")},
    {"record_signal", record_signal, METH_O, PyDoc_STR("Record who sends it from now on.")},
    {"recorded_signal", recorded_signal, METH_O, PyDoc_STR("The latest arrival, or None.")},
    {"signals_after_fork", signals_after_fork, METH_NOARGS, PyDoc_STR("In a forked child.")},
    {"queue_signal", queue_signal, METH_VARARGS, PyDoc_STR("sigqueue(3) by pidfd.")},
    {"open_signalfd", open_signalfd, METH_O, PyDoc_STR("A descriptor that signals are read from.")},
    {NULL, NULL, 0, NULL},
};

int
kin_add_signal(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
