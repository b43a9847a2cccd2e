/* How watcher_binding.c gets at the struct kin_wait of a Python object: by a capsule of this name. */

#ifndef KIN_SYSV_WAIT_BINDING_H
#define KIN_SYSV_WAIT_BINDING_H

#define KIN_WAIT_CAPSULE "kinfolk._native.waker"

#endif
