/* Shortcuts for several messages: send_many and recv_many. The rules are those of ring_shortcuts_binding.c.
 *
 * A lock is held for BATCH messages at most, and those are committed together. What could not be handed to the caller is not
 * taken, and stays.
 */

#include "ring_binding.h"

enum { BATCH = 128 };

/* How many of the list, from `first` on, went out at once: 0: none. */
static Py_ssize_t
send_batch(struct kin_ring_object *self, PyObject *list, Py_ssize_t first, Py_ssize_t last)
{
    struct kin_ring *ring = &self->opened->ring;
    if (kin_ring_enter(ring, KIN_MUTEX_AWAKE) != 0)
        return 0;
    Py_ssize_t at = first;
    for (; at < last; at++) {
        PyObject *data = PyList_GetItem(list, at);
        if (!PyBytes_CheckExact(data))
            break;
        struct iovec piece = {PyBytes_AsString(data), (size_t)PyBytes_Size(data)};
        if (piece.iov_len > KIN_RING_LONG ||
            kin_ring_put(ring, &piece, 1, piece.iov_len, KIN_RING_RAW) != 0)
            break;
        self->size += piece.iov_len;
    }
    kin_ring_leave(ring);
    self->messages += (unsigned long long)(at - first);
    return at - first;
}

PyObject *
kin_ring_py_send_many(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    if (count != 1 || !PyList_CheckExact(arguments[0]) || !kin_ring_is_clear(self) ||
        !kin_ring_is_simple(arguments + 1, names))
        return kin_ring_detour(self, "send_many", arguments, count, names);
    PyObject *list = arguments[0];
    Py_ssize_t all = PyList_Size(list), sent = 0, now;
    do {
        Py_ssize_t last = all - sent > BATCH ? sent + BATCH : all;
        now = send_batch(self, list, sent, last);
        sent += now;
    } while (now > 0 && sent < all);
    if (sent == all)
        return PyLong_FromSsize_t(sent);
    if (sent == 0)
        return kin_ring_detour(self, "send_many", arguments, count, names);
    PyObject *rest = PyList_GetSlice(list, sent, all), *outcome = NULL;
    if (rest != NULL) {
        PyObject *others[2] = {rest, names == NULL ? NULL : arguments[1]};
        outcome = kin_ring_detour(self, "send_many", others, 1, names);
        Py_DECREF(rest);
    }
    if (outcome == NULL)
        return NULL;
    Py_ssize_t more = PyLong_AsSsize_t(outcome);
    Py_DECREF(outcome);
    return PyLong_FromSsize_t(sent + more);
}

/* The bytes of the next message, inside: copied once where it does not lie around the end. */
static PyObject *
next_bytes(const struct kin_ring *ring, const struct kin_ring_frame *frame)
{
    const unsigned char *there = kin_ring_whole(ring, frame);
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)there, frame->length);
    if (bytes != NULL && there == NULL)
        kin_ring_copy(ring, frame, PyBytes_AsString(bytes));
    return bytes;
}

/* Puts it where there is a place for it, or behind. False: it was not put. Either way it is nobody's any more. */
static bool
put_into(PyObject *list, Py_ssize_t at, Py_ssize_t places, PyObject *bytes)
{
    if (at < places)
        return PyList_SetItem(list, at, bytes) == 0;
    int error = PyList_Append(list, bytes);
    Py_DECREF(bytes);
    return error == 0;
}

/* Takes what is there, from the `count`-th on, up to `most` in all. How many there are then. */
static Py_ssize_t
take_batch(struct kin_ring_object *self, PyObject *list, Py_ssize_t places, Py_ssize_t count, Py_ssize_t most)
{
    struct kin_ring *ring = &self->opened->ring;
    struct kin_ring_frame frame;
    Py_ssize_t before = count;
    if (kin_ring_enter(ring, KIN_MUTEX_AWAKE) != 0)
        return count;
    while (count < most && count - before < BATCH && kin_ring_next(ring, &frame) == 0 &&
           frame.kind == KIN_RING_RAW && frame.flags == 0 && frame.length <= KIN_RING_LONG) {
        PyObject *bytes = next_bytes(ring, &frame);
        if (bytes == NULL || !put_into(list, count, places, bytes)) {
            PyErr_Clear(); /* it is not taken, and the detour says so */
            break;
        }
        kin_ring_take(ring, &frame);
        self->size += frame.length;
        count++;
    }
    kin_ring_leave(ring);
    self->messages += (unsigned long long)(count - before);
    return count;
}

/* A new list, empty when there is none at once. NULL: with an exception. */
static PyObject *
take_many(struct kin_ring_object *self, Py_ssize_t most)
{
    Py_ssize_t places = most > BATCH ? BATCH : most, count = 0, before;
    PyObject *list = PyList_New(places);
    if (list == NULL)
        return NULL;
    do {
        before = count;
        count = take_batch(self, list, places, count, most);
    } while (count < most && count - before == BATCH);
    if (count < places && PyList_SetSlice(list, count, places, NULL) < 0)
        Py_CLEAR(list);
    return list;
}

PyObject *
kin_ring_py_recv_many(PyObject *object, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    struct kin_ring_object *self = (struct kin_ring_object *)object;
    if (count == 1 && PyLong_CheckExact(arguments[0]) && kin_ring_is_clear(self) &&
        kin_ring_is_simple(arguments + 1, names)) {
        Py_ssize_t most = PyLong_AsSsize_t(arguments[0]);
        if (most == -1 && PyErr_Occurred())
            PyErr_Clear();
        PyObject *list = most < 1 ? NULL : take_many(self, most);
        if (list == NULL && most >= 1)
            return NULL;
        if (list != NULL && PyList_Size(list) > 0)
            return list;
        Py_XDECREF(list);
    }
    return kin_ring_detour(self, "recv_many", arguments, count, names);
}
