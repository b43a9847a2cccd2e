/* System V semaphore sets as the kernel has them: semget(2), semctl(2).
 *
 *     sysv_sem_get(key, n, flags)             -> id
 *     sysv_sem_status(id)                     -> (semaphores, uid, cuid, mode, key, sem_otime, sem_ctime)
 *     sysv_sem_set_mode(id, mode), sysv_sem_remove(id)
 *     sysv_sem_values(id)                     -> a tuple
 *     sysv_sem_set_values(id, values)         the bytes of as many unsigned shorts as there are semaphores
 *     sysv_sem_set_value(id, index, value)
 *     sysv_sem_about(id, index)               -> (pid, waiting for more, waiting for zero)
 *     sysv_sem_stamp(id, value)               sets sem_otime; `value` is that of the first semaphore
 *
 * Each raises OSError with the errno.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <stdint.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <time.h>

int kin_add_sysv_sem(PyObject *module);

union semun { /* as semctl(2) wants its caller to define it */
    int val;
    struct semid_ds *buf;
    unsigned short *array;
};

static PyObject *
fail(void)
{
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *
set_get(PyObject *module, PyObject *args)
{
    (void)module;
    int key, n, flags;
    if (!PyArg_ParseTuple(args, "iii:sysv_sem_get", &key, &n, &flags))
        return NULL;
    int set = semget(key, n, flags);
    return set < 0 ? fail() : PyLong_FromLong(set);
}

static PyObject *
set_status(PyObject *module, PyObject *args)
{
    (void)module;
    int set;
    struct semid_ds status;
    if (!PyArg_ParseTuple(args, "i:sysv_sem_status", &set))
        return NULL;
    if (semctl(set, 0, IPC_STAT, (union semun){.buf = &status}) < 0)
        return fail();
    return Py_BuildValue("(kIIIiLL)", (unsigned long)status.sem_nsems, status.sem_perm.uid,
                         status.sem_perm.cuid, (unsigned int)status.sem_perm.mode,
                         status.sem_perm.__key, (long long)status.sem_otime,
                         (long long)status.sem_ctime);
}

static PyObject *
set_set_mode(PyObject *module, PyObject *args)
{
    (void)module;
    int set;
    unsigned int mode;
    struct semid_ds status;
    if (!PyArg_ParseTuple(args, "iI:sysv_sem_set_mode", &set, &mode))
        return NULL;
    if (semctl(set, 0, IPC_STAT, (union semun){.buf = &status}) < 0)
        return fail();
    status.sem_perm.mode = (unsigned short)mode; /* the owner stays, as IPC_STAT told it */
    if (semctl(set, 0, IPC_SET, (union semun){.buf = &status}) < 0)
        return fail();
    Py_RETURN_NONE;
}

static PyObject *
set_remove(PyObject *module, PyObject *args)
{
    (void)module;
    int set;
    if (!PyArg_ParseTuple(args, "i:sysv_sem_remove", &set))
        return NULL;
    if (semctl(set, 0, IPC_RMID) < 0)
        return fail();
    Py_RETURN_NONE;
}

/* How many semaphores a set has; -1 with an exception set. */
static int
count_of(int set)
{
    struct semid_ds status;
    if (semctl(set, 0, IPC_STAT, (union semun){.buf = &status}) < 0) {
        fail();
        return -1;
    }
    return (int)status.sem_nsems;
}

static PyObject *
set_values(PyObject *module, PyObject *args)
{
    (void)module;
    int set;
    if (!PyArg_ParseTuple(args, "i:sysv_sem_values", &set))
        return NULL;
    int n = count_of(set); /* the kernel writes as many as there are */
    if (n < 0)
        return NULL;
    unsigned short *values = PyMem_Calloc((size_t)n + 1, sizeof *values);
    if (values == NULL)
        return PyErr_NoMemory();
    PyObject *result = NULL;
    if (semctl(set, 0, GETALL, (union semun){.array = values}) < 0)
        fail();
    else
        result = PyTuple_New(n);
    for (int i = 0; result != NULL && i < n; i++) {
        PyObject *value = PyLong_FromLong(values[i]);
        if (value == NULL || PyTuple_SetItem(result, i, value) < 0)
            Py_CLEAR(result);
    }
    PyMem_Free(values);
    return result;
}

static PyObject *
set_set_values(PyObject *module, PyObject *args)
{
    (void)module;
    int set;
    const char *values;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "iy#:sysv_sem_set_values", &set, &values, &size))
        return NULL;
    int n = count_of(set);
    if (n < 0)
        return NULL;
    if (size != n * (Py_ssize_t)sizeof(unsigned short)) {
        errno = EINVAL;
        return fail();
    }
    /* The bytes of a bytes object are aligned for anything, and only read. */
    if (semctl(set, 0, SETALL, (union semun){.array = (unsigned short *)(uintptr_t)values}) < 0)
        return fail();
    Py_RETURN_NONE;
}

static PyObject *
set_set_value(PyObject *module, PyObject *args)
{
    (void)module;
    int set, index, value;
    if (!PyArg_ParseTuple(args, "iii:sysv_sem_set_value", &set, &index, &value))
        return NULL;
    if (semctl(set, index, SETVAL, (union semun){.val = value}) < 0)
        return fail();
    Py_RETURN_NONE;
}

static PyObject *
set_about(PyObject *module, PyObject *args)
{
    (void)module;
    int set, index;
    if (!PyArg_ParseTuple(args, "ii:sysv_sem_about", &set, &index))
        return NULL;
    int pid = semctl(set, index, GETPID), more = semctl(set, index, GETNCNT),
        zero = semctl(set, index, GETZCNT);
    if (pid < 0 || more < 0 || zero < 0)
        return fail();
    return Py_BuildValue("(iii)", pid, more, zero);
}

static PyObject *
set_stamp(PyObject *module, PyObject *args)
{
    static const struct timespec none = {0, 0};
    (void)module;
    int set, value;
    if (!PyArg_ParseTuple(args, "ii:sysv_sem_stamp", &set, &value))
        return NULL;
    struct sembuf pass[] = {{0, -1, 0}, {0, 1, 0}}, zero = {0, 0, 0};
    if (semtimedop(set, value > 0 ? pass : &zero, value > 0 ? 2 : 1, &none) < 0)
        return fail();
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"sysv_sem_get", set_get, METH_VARARGS, PyDoc_STR("semget(2): the id.")},
    {"sysv_sem_status", set_status, METH_VARARGS,
     PyDoc_STR("IPC_STAT: semaphores, uid, cuid, mode, key, sem_otime, sem_ctime.")},
    {"sysv_sem_set_mode", set_set_mode, METH_VARARGS, PyDoc_STR("IPC_SET.")},
    {"sysv_sem_remove", set_remove, METH_VARARGS, PyDoc_STR("IPC_RMID.")},
    {"sysv_sem_values", set_values, METH_VARARGS, PyDoc_STR("GETALL.")},
    {"sysv_sem_set_values", set_set_values, METH_VARARGS, PyDoc_STR("SETALL, of the bytes of unsigned shorts.")},
    {"sysv_sem_set_value", set_set_value, METH_VARARGS, PyDoc_STR("SETVAL.")},
    {"sysv_sem_about", set_about, METH_VARARGS, PyDoc_STR("GETPID, GETNCNT, GETZCNT.")},
    {"sysv_sem_stamp", set_stamp, METH_VARARGS,
     PyDoc_STR("Set sem_otime by operations that change nothing.")},
    {NULL, NULL, 0, NULL},
};

int
kin_add_sysv_sem(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
