/* One end of a ring as a Python object: what the files of its type share, and the capsule for watcher_binding.c.
 *
 *     ring_binding.c             the type: opening, waiting, looking
 *     ring_operation_binding.c   put and take: one message, with any number of pieces
 *     ring_shortcuts_binding.c   send, recv and the like, at once
 *     ring_batches_binding.c     send_many and recv_many, at once
 *     ring_poll_binding.c        descriptors for who polls
 *     arena_binding.c            blocks for large messages, and their type
 *     arena_acknowledge_binding.c   messages that are acknowledged
 *
 * Rule: the lock of the ring is held without a look at Python's objects, apart from a new bytes object, and never waited for
 * with the GIL: its holder may be a thread of this process.
 */

#ifndef KIN_RING_BINDING_H
#define KIN_RING_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "placed_binding.h"
#include "ring.h"

#define KIN_RING_CAPSULE "kinfolk._native.kin_ring"
#define KIN_LOWERING_CAPSULE "kinfolk._native.kin_lowering" /* the number of an eventfd + 1 */

enum {
    KIN_RING_RAW = 0, /* kinds of codec.py: plain bytes, … */
    KIN_RING_MEMORY = 5, /* … and those that were reserved: read where they are */
    KIN_RING_GUARDS = 4,
    KIN_RING_PIECES = 512,
    KIN_RING_LONG = 64 * 1024, /* bytes that are copied without the GIL */
};

/* What outlives the object while a thread or the robust list may look at it. */
struct kin_opened_ring {
    struct kin_ring ring;
    struct kin_placed placed;
    PyObject *watcher; /* the capsule of the one that it watches by */
    int references;    /* the object, its blocks, and capsules */
    int inside;     /* threads in it without the GIL; a forked child has none of them */
};

struct kin_ring_object {
    PyObject_HEAD
    struct kin_opened_ring *opened; /* NULL: closed */
    bool sends;
    uint32_t departures, alarms; /* as they were when it was looked who is there */
    unsigned long long messages, size, waits; /* that went through shortcuts */
    PyObject *end;                     /* a weak reference; NULL: not shortened */
    PyObject *dropped;                 /* what to call when the end is no more */
    PyObject *guards[KIN_RING_GUARDS]; /* dicts and lists */
    Py_ssize_t (*sizes[KIN_RING_GUARDS])(PyObject *); /* of each, as its kind has it */
};

/* Raises what an errno means. */
PyObject *kin_ring_fail(int error);

/* The ring of an open end, that of this process; NULL with an exception set. */
struct kin_ring *kin_ring_of(struct kin_ring_object *self);

/* After `inside` went up, and the GIL is back. */
void kin_ring_come_out(struct kin_opened_ring *opened);

/* One reference less; the last unmaps it. */
void kin_ring_release(struct kin_opened_ring *opened);

/* Between enter and leave, which they do too. 0 or an errno. */
int kin_ring_put_and_leave(struct kin_ring *ring, const struct iovec *pieces, int count,
                           uint64_t length, uint8_t kind);
int kin_ring_copy_and_leave(struct kin_ring *ring, const struct kin_ring_frame *frame, void *to);

/* Of ring_look_binding.c. */
extern PyGetSetDef kin_ring_attributes[];
PyObject *kin_ring_py_waker(PyObject *self, void *unused);

/* Of ring_adopt_binding.c. */
PyObject *kin_ring_py_adopt(PyObject *unused, PyObject *buffer);

/* Of ring_poll_binding.c. */
PyObject *kin_ring_py_poll(PyObject *self, PyObject *unused);
PyObject *kin_ring_py_settle(PyObject *self, PyObject *descriptor);
PyObject *kin_ring_py_lowering(PyObject *unused, PyObject *descriptor);

/* Of ring_operation_binding.c. */
PyObject *kin_ring_py_put(PyObject *self, PyObject *args);
PyObject *kin_ring_py_take(PyObject *self, PyObject *unused);

/* Of arena_binding.c. */
PyObject *kin_ring_py_allocate(PyObject *self, PyObject *length);
PyObject *kin_ring_py_allocate_now(PyObject *self, PyObject *length);
PyObject *kin_ring_py_put_block(PyObject *self, PyObject *args);
PyObject *kin_ring_py_put_block_now(PyObject *self, PyObject *args);
PyObject *kin_ring_py_wait_for_block(PyObject *self, PyObject *args);
PyObject *kin_ring_py_give_up(PyObject *self, PyObject *unused);

/* Of arena_acknowledge_binding.c. */
PyObject *kin_ring_py_take_owed(PyObject *self, PyObject *unused);
PyObject *kin_ring_py_may_come(PyObject *self, PyObject *unused);

/* Whether messages of a kind are read where they are. */
bool kin_is_looked_at(uint8_t kind);

/* What a message in a block, which this process holds, is received as: the block itself, or a copy of its bytes. */
PyObject *kin_block_received(struct kin_opened_ring *opened, const struct kin_block *block,
                             uint8_t kind);

/* Reads a number of milliseconds, or None: then *deadline is NULL, else `time`. False with an exception set. */
bool kin_ring_deadline(PyObject *milliseconds, struct timespec *time,
                       const struct timespec **deadline);

/* Of ring_shortcuts_binding.c. Whether one may be taken now. */
bool kin_ring_is_clear(struct kin_ring_object *self);

/* Whether there is nothing by name but a timeout that makes sense: that may be left aside when nothing is waited for. */
bool kin_ring_is_simple(PyObject *const *values, PyObject *names);

/* What the method of the end says: that of its class, with the same arguments. */
PyObject *kin_ring_detour(struct kin_ring_object *self, const char *name, PyObject *const *arguments,
                          Py_ssize_t count, PyObject *names);

#define KIN_RING_SHORTCUT(name)                                                                 \
    PyObject *kin_ring_py_##name(PyObject *self, PyObject *const *arguments, Py_ssize_t count,  \
                                 PyObject *names)
KIN_RING_SHORTCUT(send_bytes);
KIN_RING_SHORTCUT(send);
KIN_RING_SHORTCUT(recv_bytes);
KIN_RING_SHORTCUT(recv);
PyObject *kin_ring_py_shorten(PyObject *self, PyObject *args);

/* Of ring_batches_binding.c. */
KIN_RING_SHORTCUT(send_many);
KIN_RING_SHORTCUT(recv_many);

#endif
