/* System V shared memory as the kernel has it: shmget(2), shmat(2), shmctl(2).
 *
 *     sysv_shm_get(key, size, flags) -> id
 *     sysv_shm_status(id)            -> (size, attachments, uid, cuid, mode, key, creator's pid,
 *                                        when somebody attached last, or 0)
 *     sysv_shm_set_mode(id, mode)
 *     sysv_shm_remove(id)
 *     SysvAttachment(id, read_only)     the memory, as a buffer
 *         .populate()                   have all its pages
 *
 * Each raises OSError with the errno (sysv_ipc has none).
 *
 * There is no way to detach but to drop the object. Whatever looks into the memory refers to it, a
 * memoryview, an array, also one of NumPy that holds the object and no export of its buffer; so
 * the memory is there as long as anything can be looked into. (sysv_ipc detaches under its views.)
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#include "heap_type_binding.h"

int kin_add_sysv_shm(PyObject *module);

struct attachment {
    PyObject_HEAD
    void *address; /* NULL: not attached */
    Py_ssize_t size;
    int read_only;
};

static PyObject *
attachment_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"", "", NULL};
    int id, read_only;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "ip:SysvAttachment", names, &id, &read_only))
        return NULL;
    struct attachment *self = kin_allocate(type);
    if (self == NULL)
        return NULL;
    self->read_only = read_only;
    void *address = shmat(id, NULL, read_only ? SHM_RDONLY : 0);
    if (address == (void *)-1)
        goto failed;
    self->address = address;
    /* Of the segment that is attached: the size can't change, and the id is not given to another. */
    struct shmid_ds status;
    if (shmctl(id, IPC_STAT, &status) < 0)
        goto failed;
    self->size = (Py_ssize_t)status.shm_segsz;
    return (PyObject *)self;
failed:
    PyErr_SetFromErrno(PyExc_OSError);
    Py_DECREF(self);
    return NULL;
}

static void
attachment_dealloc(PyObject *object)
{
    struct attachment *self = (struct attachment *)object;
    if (self->address != NULL)
        shmdt(self->address);
    kin_release(object);
}

static int
attachment_get_buffer(PyObject *object, Py_buffer *view, int flags)
{
    struct attachment *self = (struct attachment *)object;
    return PyBuffer_FillInfo(view, object, self->address, self->size, self->read_only, flags);
}

static Py_ssize_t
attachment_length(PyObject *object)
{
    return ((struct attachment *)object)->size;
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

enum { STEP = 2 << 20 }; /* bytes, after which signals are looked for */

/* Have some pages. 0, or an errno. What others write there meanwhile stays. */
static int
populate(char *from, size_t size)
{
    if (madvise(from, size, MADV_POPULATE_WRITE) == 0)
        return 0;
    if (errno != EINVAL)
        return errno;
    long page = sysconf(_SC_PAGESIZE);
    for (size_t at = 0; at < size; at += (size_t)page)
        __atomic_fetch_or(from + at, 0, __ATOMIC_RELAXED);
    return 0;
}

static PyObject *
attachment_populate(PyObject *object, PyObject *none)
{
    (void)none;
    struct attachment *self = (struct attachment *)object;
    for (Py_ssize_t at = 0; at < self->size;) {
        Py_ssize_t size = self->size - at < STEP ? self->size - at : STEP;
        int error;
        Py_BEGIN_ALLOW_THREADS
        error = populate((char *)self->address + at, (size_t)size);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0)
            return NULL;
        if (error == EINTR)
            continue;
        if (error != 0) {
            errno = error;
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        at += size;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"populate", attachment_populate, METH_NOARGS,
     PyDoc_STR("Have all its pages; raises OSError.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_methods, methods},
    {Py_tp_doc, (void *)PyDoc_STR("The memory of a System V segment.")},
    {Py_tp_new, attachment_new},
    {Py_tp_dealloc, attachment_dealloc},
    {Py_bf_getbuffer, attachment_get_buffer},
    {Py_mp_length, attachment_length},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kinfolk._native.SysvAttachment",
    .basicsize = sizeof(struct attachment),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

static PyObject *
kin_sysv_shm_get(PyObject *module, PyObject *args)
{
    (void)module;
    int key, flags;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "ini:sysv_shm_get", &key, &size, &flags))
        return NULL;
    int id;
    Py_BEGIN_ALLOW_THREADS
    id = shmget(key, (size_t)size, flags);
    Py_END_ALLOW_THREADS
    return id < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(id);
}

static PyObject *
kin_sysv_shm_status(PyObject *module, PyObject *args)
{
    (void)module;
    int id;
    struct shmid_ds status;
    if (!PyArg_ParseTuple(args, "i:sysv_shm_status", &id))
        return NULL;
    if (shmctl(id, IPC_STAT, &status) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return Py_BuildValue("(nKIIIiiL)", (Py_ssize_t)status.shm_segsz,
                         (unsigned long long)status.shm_nattch, status.shm_perm.uid,
                         status.shm_perm.cuid, (unsigned int)status.shm_perm.mode,
                         status.shm_perm.__key, (int)status.shm_cpid, (long long)status.shm_atime);
}

static PyObject *
kin_sysv_shm_set_mode(PyObject *module, PyObject *args)
{
    (void)module;
    int id;
    unsigned int mode;
    struct shmid_ds status;
    if (!PyArg_ParseTuple(args, "iI:sysv_shm_set_mode", &id, &mode))
        return NULL;
    if (shmctl(id, IPC_STAT, &status) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    status.shm_perm.mode = (unsigned short)mode; /* the owner stays, as IPC_STAT told it */
    if (shmctl(id, IPC_SET, &status) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *
kin_sysv_shm_remove(PyObject *module, PyObject *args)
{
    (void)module;
    int id;
    if (!PyArg_ParseTuple(args, "i:sysv_shm_remove", &id))
        return NULL;
    if (shmctl(id, IPC_RMID, NULL) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"sysv_shm_get", kin_sysv_shm_get, METH_VARARGS, PyDoc_STR("shmget(2): the id.")},
    {"sysv_shm_status", kin_sysv_shm_status, METH_VARARGS,
     PyDoc_STR("shmctl(2), IPC_STAT: size, attachments, uid, cuid, mode, key, creator's pid, attached.")},
    {"sysv_shm_set_mode", kin_sysv_shm_set_mode, METH_VARARGS, PyDoc_STR("shmctl(2), IPC_SET.")},
    {"sysv_shm_remove", kin_sysv_shm_remove, METH_VARARGS, PyDoc_STR("shmctl(2), IPC_RMID.")},
    {NULL, NULL, 0, NULL},
};

int
kin_add_sysv_shm(PyObject *module)
{
    int result = kin_add_type(module, &spec, "SysvAttachment");
    return result == 0 ? PyModule_AddFunctions(module, functions) : result;
}
