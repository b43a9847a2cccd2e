/* What watcher_binding.c needs to know of ring_binding.c: the capsule around a kin_ring. */

#ifndef KIN_RING_BINDING_H
#define KIN_RING_BINDING_H

#define KIN_RING_CAPSULE "kinfolk._native.kin_ring"

#endif
