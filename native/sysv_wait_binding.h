/* What bindings have to do with a struct kin_wait of sysv_wait.h. */

#ifndef KIN_SYSV_WAIT_BINDING_H
#define KIN_SYSV_WAIT_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* How watcher_binding.c gets at that of a Python object: by a capsule of this name. */
#define KIN_WAIT_CAPSULE "kinfolk._native.waker"

/* What a wait returns, in Python: True when it is done, False to be waited for again; NULL with an exception set, by a
 * signal handler or of an errno. */
PyObject *kin_wait_outcome(int result);

#endif
