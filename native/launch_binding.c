/* A kinfolk.processes.launch.Launch as the plan of spawn.c. See launch_binding.h.
 *
 * The fields are looked up by name; what is out of range is a ValueError or an OverflowError, for
 * kinfolk.processes.options has checked what users give. The plan points into Python's objects,
 * which are kept until the release.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "launch_binding.h"

#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

void
kin_launch_release(struct kin_launch *launch)
{
    free(launch->executables);
    free(launch->argv);
    free(launch->envp);
    free(launch->cgroup_procs);
    free(launch->plan.descriptors);
    free(launch->limits);
    free(launch->groups);
    Py_XDECREF(launch->kept);
}

/* A borrowed reference, kept until the release; NULL with an exception set. */
static PyObject *
field(struct kin_launch *launch, PyObject *object, const char *name)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    if (value == NULL)
        return NULL;
    int appended = PyList_Append(launch->kept, value);
    Py_DECREF(value);
    return appended < 0 ? NULL : value;
}

static void *
room_for(Py_ssize_t count, size_t size) /* one more, which is zero */
{
    void *room = calloc((size_t)count + 1, size);
    if (room == NULL)
        PyErr_NoMemory();
    return room;
}

/* The bytes in an object, which must have no zero inside. */
static char *
text_of(PyObject *bytes)
{
    char *text;
    return PyBytes_AsStringAndSize(bytes, &text, NULL) < 0 ? NULL : text;
}

static bool
get_texts(struct kin_launch *launch, PyObject *object, const char *name, char ***texts)
{
    PyObject *list = field(launch, object, name);
    if (list == NULL)
        return false;
    Py_ssize_t count = PyList_Size(list);
    if (count < 0 || (*texts = room_for(count, sizeof **texts)) == NULL)
        return false;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyList_GetItem(list, i);
        if (PyList_Append(launch->kept, item) < 0) /* the list may change meanwhile */
            return false;
        if (((*texts)[i] = text_of(item)) == NULL)
            return false;
    }
    return true;
}

/* An optional number: `otherwise` for None. */
static bool
get_number(struct kin_launch *launch, PyObject *object, const char *name, long long otherwise,
           long long low, long long high, long long *number)
{
    PyObject *value = field(launch, object, name);
    if (value == NULL)
        return false;
    if (value == Py_None) {
        *number = otherwise;
        return true;
    }
    *number = PyLong_AsLongLong(value);
    if (PyErr_Occurred())
        return false;
    if (*number < low || *number > high) {
        PyErr_Format(PyExc_ValueError, "%s is out of range", name);
        return false;
    }
    return true;
}

static int
by_target(const void *left, const void *right)
{
    const struct kin_spawn_descriptor *a = left, *b = right;
    return (a->there > b->there) - (a->there < b->there);
}

static bool
get_descriptors(struct kin_launch *launch, PyObject *object)
{
    PyObject *list = field(launch, object, "descriptors");
    Py_ssize_t count = list == NULL ? -1 : PyList_Size(list);
    struct kin_spawn_descriptor *found;
    if (count < 0 || (found = room_for(count, sizeof *found)) == NULL)
        return false;
    launch->plan.descriptors = found;
    launch->plan.descriptor_count = (size_t)count;
    for (Py_ssize_t i = 0; i < count; i++)
        if (!PyArg_ParseTuple(PyList_GetItem(list, i), "ii", &found[i].here, &found[i].there))
            return false;
    qsort(found, (size_t)count, sizeof *found, by_target);
    for (Py_ssize_t i = 0; i < count; i++)
        if (found[i].there < 0 || (i > 0 && found[i - 1].there == found[i].there)) {
            PyErr_SetString(PyExc_ValueError, "a number in the child is negative or stands twice");
            return false;
        }
    return true;
}

static bool
get_limits(struct kin_launch *launch, PyObject *object)
{
    PyObject *list = field(launch, object, "rlimits");
    Py_ssize_t count = list == NULL ? -1 : PyList_Size(list);
    if (count < 0 || (launch->limits = room_for(count, sizeof *launch->limits)) == NULL)
        return false;
    for (Py_ssize_t i = 0; i < count; i++) {
        int resource;
        long long soft, hard;
        if (!PyArg_ParseTuple(PyList_GetItem(list, i), "iLL", &resource, &soft, &hard))
            return false;
        launch->limits[i] = (struct kin_spawn_limit){
            resource,
            {soft < 0 ? RLIM_INFINITY : (rlim_t)soft, hard < 0 ? RLIM_INFINITY : (rlim_t)hard},
        };
    }
    launch->plan.limits = launch->limits;
    launch->plan.limit_count = (size_t)count;
    return true;
}

static bool
get_groups(struct kin_launch *launch, PyObject *object)
{
    PyObject *list = field(launch, object, "groups");
    launch->plan.group_count = -1;
    if (list == NULL || list == Py_None)
        return list != NULL;
    Py_ssize_t count = PyList_Size(list);
    if (count < 0 || (launch->groups = room_for(count, sizeof *launch->groups)) == NULL)
        return false;
    for (Py_ssize_t i = 0; i < count; i++) {
        launch->groups[i] = (gid_t)PyLong_AsUnsignedLong(PyList_GetItem(list, i));
        if (PyErr_Occurred())
            return false;
    }
    launch->plan.groups = launch->groups;
    launch->plan.group_count = (int)count;
    return true;
}

static bool
get_signals(struct kin_launch *launch, PyObject *object, const char *name, unsigned long long *mask)
{
    PyObject *list = field(launch, object, name);
    Py_ssize_t count = list == NULL ? -1 : PyList_Size(list);
    for (Py_ssize_t i = 0; i < count; i++) {
        long number = PyLong_AsLong(PyList_GetItem(list, i));
        if (PyErr_Occurred())
            return false;
        if (number < 1 || number > 64) {
            PyErr_SetString(PyExc_ValueError, "no such signal");
            return false;
        }
        *mask |= 1ULL << (number - 1);
    }
    return count >= 0;
}

static bool
get_ignored(struct kin_launch *launch, PyObject *object)
{
    /* See ignored_signals.py; 32 and 33 are the C library's. */
    static const int told[] = {SIGPIPE, SIGXFSZ, SIGCHLD, SIGINT, SIGQUIT, 32, 33};
    long long as_here;
    if (!get_signals(launch, object, "ignored", &launch->plan.ignored) ||
        !get_number(launch, object, "ignored_as_here", 0, 0, 1, &as_here))
        return false;
    if (as_here) {
        launch->plan.ignored_as_here = ~0ULL;
        for (size_t i = 0; i < sizeof told / sizeof *told; i++)
            launch->plan.ignored_as_here &= ~(1ULL << (told[i] - 1));
    }
    return true;
}

static bool
get_paths(struct kin_launch *launch, PyObject *object)
{
    PyObject *cwd = field(launch, object, "cwd");
    PyObject *cgroup = cwd == NULL ? NULL : field(launch, object, "cgroup");
    if (cgroup == NULL)
        return false;
    if (cwd != Py_None && (launch->plan.cwd = text_of(cwd)) == NULL)
        return false;
    if (cgroup == Py_None)
        return true;
    const char *directory = text_of(cgroup);
    if (directory == NULL)
        return false;
    static const char NAME[] = "/cgroup.procs";
    size_t length = strlen(directory);
    launch->cgroup_procs = malloc(length + sizeof NAME);
    if (launch->cgroup_procs == NULL) {
        PyErr_NoMemory();
        return false;
    }
    memcpy(launch->cgroup_procs, directory, length);
    memcpy(launch->cgroup_procs + length, NAME, sizeof NAME);
    launch->plan.cgroup_procs = launch->cgroup_procs;
    return true;
}

static bool
get_numbers(struct kin_launch *launch, PyObject *object)
{
    enum { PID_MAX = 1 << 22 };
    const long long id_max = 0xfffffffeLL; /* -1 means "unchanged" to the kernel */
    struct kin_spawn *plan = &launch->plan;
    long long session, group, terminal, mask, nice, death, uid, gid;
    if (!get_number(launch, object, "new_session", 0, 0, 1, &session) ||
        !get_number(launch, object, "process_group", -1, 0, PID_MAX, &group) ||
        !get_number(launch, object, "terminal", -1, 0, INT_MAX, &terminal) ||
        !get_number(launch, object, "umask", -1, 0, 0777, &mask) ||
        !get_number(launch, object, "nice", 0, -40, 40, &nice) ||
        !get_number(launch, object, "death_signal", 0, 0, 64, &death) ||
        !get_number(launch, object, "uid", -1, 0, id_max, &uid) ||
        !get_number(launch, object, "gid", -1, 0, id_max, &gid))
        return false;
    plan->new_session = session != 0;
    plan->process_group = (int)group;
    plan->terminal = (int)terminal;
    plan->umask = (int)mask;
    plan->nice = (int)nice;
    plan->death_signal = (int)death;
    plan->set_uid = uid >= 0;
    plan->uid = (uid_t)uid;
    plan->set_gid = gid >= 0;
    plan->gid = (gid_t)gid;
    return true;
}

/* Another thread may set a variable meanwhile, which moves the array; the strings stay, for glibc
 * frees none. */
static bool
copy_environ(struct kin_launch *launch)
{
    Py_ssize_t count = 0;
    while (environ != NULL && environ[count] != NULL)
        count++;
    if ((launch->envp = room_for(count, sizeof *launch->envp)) == NULL)
        return false;
    for (Py_ssize_t i = 0; i < count; i++)
        launch->envp[i] = environ[i];
    return true;
}

static bool
get_programs(struct kin_launch *launch, PyObject *object)
{
    struct kin_spawn *plan = &launch->plan;
    if (!get_texts(launch, object, "argv", &launch->argv) ||
        !get_texts(launch, object, "executables", &launch->executables))
        return false;
    if (launch->argv[0] == NULL || launch->executables[0] == NULL) {
        PyErr_SetString(PyExc_ValueError, "there is no program to start");
        return false;
    }
    PyObject *env = field(launch, object, "env");
    if (env == NULL)
        return false;
    if (env == Py_None ? !copy_environ(launch) : !get_texts(launch, object, "env", &launch->envp))
        return false;
    plan->argv = launch->argv;
    plan->executables = launch->executables;
    plan->envp = launch->envp;
    return true;
}

bool
kin_launch_read_state(struct kin_launch *launch, PyObject *object)
{
    memset(launch, 0, sizeof *launch);
    launch->kept = PyList_New(0);
    return launch->kept != NULL && get_descriptors(launch, object) && get_limits(launch, object) &&
           get_groups(launch, object) &&
           get_signals(launch, object, "blocked", &launch->plan.blocked) &&
           get_paths(launch, object) && get_numbers(launch, object);
}

bool
kin_launch_read(struct kin_launch *launch, PyObject *object)
{
    return kin_launch_read_state(launch, object) && get_ignored(launch, object) &&
           get_programs(launch, object);
}
