/* The capsule of Watcher.core: the struct kin_watcher of this process, for objects of C that watch. It keeps the Watcher. */

#ifndef KIN_WATCHER_BINDING_H
#define KIN_WATCHER_BINDING_H

#define KIN_WATCHER_CAPSULE "kinfolk._native.kin_watcher"

#endif
