/* What watcher_binding.c needs to know of child_binding.c: the capsule around a kin_child. */

#ifndef KIN_CHILD_BINDING_H
#define KIN_CHILD_BINDING_H

#define KIN_CHILD_CAPSULE "kinfolk._native.kin_child"

#endif
