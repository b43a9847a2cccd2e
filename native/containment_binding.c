/* What keeps descendants together, as the kernel offers it; Python's standard library has none of it.
 *
 *     set_child_subreaper(on)      orphans below come to this process (prctl(2), PR_SET_CHILD_SUBREAPER)
 *     set_death_signal(signal)     sent to this process when the thread that forked it ends
 *                                  (PR_SET_PDEATHSIG)
 *     unshare(flags)               namespaces of its own (unshare(2))
 *     mount_proc()                 the /proc of this process's own pid namespace, seen by nobody outside
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>

int kin_add_containment(PyObject *module);

static PyObject *
outcome(int result)
{
    if (result < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *
set_child_subreaper(PyObject *module, PyObject *on)
{
    (void)module;
    int truth = PyObject_IsTrue(on);
    return truth < 0 ? NULL : outcome(prctl(PR_SET_CHILD_SUBREAPER, (long)truth, 0L, 0L, 0L));
}

static PyObject *
set_death_signal(PyObject *module, PyObject *number)
{
    (void)module;
    long signal_number = PyLong_AsLong(number);
    if (signal_number == -1 && PyErr_Occurred())
        return NULL;
    return outcome(prctl(PR_SET_PDEATHSIG, signal_number, 0L, 0L, 0L));
}

static PyObject *
kin_unshare(PyObject *module, PyObject *flags)
{
    (void)module;
    long number = PyLong_AsLong(flags);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    return outcome(unshare((int)number));
}

static PyObject *
mount_proc(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    if (mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return outcome(-1);
    return outcome(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
}

static PyMethodDef functions[] = {
    {"set_child_subreaper", set_child_subreaper, METH_O, PyDoc_STR("Adopt orphans below, or not.")},
    {"set_death_signal", set_death_signal, METH_O, PyDoc_STR("What the parent's end sends here.")},
    {"unshare", kin_unshare, METH_O, PyDoc_STR("Namespaces of one's own.")},
    {"mount_proc", mount_proc, METH_NOARGS, PyDoc_STR("/proc of one's own pid namespace.")},
    {NULL, NULL, 0, NULL},
};

int
kin_add_containment(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
