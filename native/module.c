/* kinfolk._native: what Python's standard library lacks, and nothing else.
 *
 * This file only puts the module together. Each type has a *_binding.c of its own that turns the
 * functions of one core file into a Python type; it offers one function
 *
 *     int kin_add_<type>(PyObject *module);        0, or -1 with an exception set
 *
 * declared and listed below. The algorithms are in the core files, which never see Python.h.
 *
 * Multi-phase initialisation (PEP 489): no state outside the module object, so that each
 * interpreter of a process may have its own.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* One line a type: its declaration here, its slot below. */
int kin_add_inotify(PyObject *module);
int kin_add_try_read(PyObject *module);
int kin_add_finally(PyObject *module);
int kin_add_holding(PyObject *module);
int kin_add_posix_mq(PyObject *module);
int kin_add_signal(PyObject *module);
int kin_add_sysv_wait(PyObject *module);
int kin_add_allocate(PyObject *module);
int kin_add_sysv_shm(PyObject *module);
int kin_add_watcher(PyObject *module);
int kin_add_child(PyObject *module);
int kin_add_spawn(PyObject *module);
int kin_add_keeper(PyObject *module);
int kin_add_surroundings(PyObject *module);
int kin_add_containment(PyObject *module);
int kin_add_opening(PyObject *module);
int kin_add_mutex(PyObject *module);
int kin_add_ring(PyObject *module);
int kin_add_block(PyObject *module);
int kin_add_claim(PyObject *module);
int kin_add_semaphore(PyObject *module);
int kin_add_semaphore_wait(PyObject *module);
int kin_add_event(PyObject *module);
int kin_add_condition(PyObject *module);
int kin_add_file_lock(PyObject *module);
int kin_add_posix_semaphore(PyObject *module);
int kin_add_sysv_semaphore(PyObject *module);
int kin_add_sysv_sem(PyObject *module);

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, kin_add_inotify},
    {Py_mod_exec, kin_add_try_read},
    {Py_mod_exec, kin_add_finally},
    {Py_mod_exec, kin_add_holding},
    {Py_mod_exec, kin_add_posix_mq},
    {Py_mod_exec, kin_add_signal},
    {Py_mod_exec, kin_add_sysv_wait},
    {Py_mod_exec, kin_add_allocate},
    {Py_mod_exec, kin_add_sysv_shm},
    {Py_mod_exec, kin_add_watcher},
    {Py_mod_exec, kin_add_child},
    {Py_mod_exec, kin_add_spawn},
    {Py_mod_exec, kin_add_keeper},
    {Py_mod_exec, kin_add_surroundings},
    {Py_mod_exec, kin_add_containment},
    {Py_mod_exec, kin_add_opening},
    {Py_mod_exec, kin_add_mutex},
    {Py_mod_exec, kin_add_ring},
    {Py_mod_exec, kin_add_block},
    {Py_mod_exec, kin_add_claim},
    {Py_mod_exec, kin_add_semaphore},
    {Py_mod_exec, kin_add_semaphore_wait},
    {Py_mod_exec, kin_add_event},
    {Py_mod_exec, kin_add_condition},
    {Py_mod_exec, kin_add_file_lock},
    {Py_mod_exec, kin_add_posix_semaphore},
    {Py_mod_exec, kin_add_sysv_semaphore},
    {Py_mod_exec, kin_add_sysv_sem},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "kinfolk._native",
    .m_doc = PyDoc_STR("The compiled part of kinfolk. Private: use the names of kinfolk itself."),
    .m_size = 0,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void);

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
