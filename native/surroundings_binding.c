/* What a child takes from its parent, looked up in one call, for kinfolk.processes.inheritance: it
 * is needed before every start.
 *
 *     surroundings() -> (standing, limits, umask, ignored, process_group, directory)
 *
 *     standing   of the calling thread, as lines: users, groups, capabilities, no_new_privs and
 *                seccomp as in proc_pid_status(5); the session; the root directory
 *     limits     soft and hard, 8 bytes each, -1 for none, of every number of getrlimit(2)
 *     umask      which no system call tells without changing it
 *     ignored    bit n-1: signal n is ignored (sigaction(2))
 *     directory  None when it has no name (any more)
 *
 * The first two are bytes, for all that is done with them is to compare them with those of before.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

int kin_add_surroundings(PyObject *module);

enum { USUAL = 8192, ROOT = 128, LIMITS = RLIMIT_RTTIME + 1 };

static const char *const STANDING[] = {
    "Uid:",    "Gid:",    "Groups:",     "CapInh:",  "CapPrm:",          "CapEff:",
    "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:",
};

/* /proc/thread-self/status, which ends with a zero, in `room` or in memory to be freed; NULL with
 * an exception. */
static char *
read_status(char *room)
{
    size_t size = USUAL, length = 0;
    char *status = room;
    int fd = open("/proc/thread-self/status", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return (char *)PyErr_SetFromErrno(PyExc_OSError);
    for (;;) {
        ssize_t count = read(fd, status + length, size - length - 1);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            PyErr_SetFromErrno(PyExc_OSError);
        if (count <= 0)
            break;
        length += (size_t)count;
        if (length < size - 1)
            continue;
        char *larger = realloc(status == room ? NULL : status, size *= 2); /* many groups */
        if (larger == NULL) {
            PyErr_NoMemory();
            break;
        }
        if (status == room)
            memcpy(larger, room, length);
        status = larger;
    }
    close(fd);
    status[length] = '\0';
    if (!PyErr_Occurred())
        return status;
    if (status != room)
        free(status);
    return NULL;
}

static bool
begins(const char *line, const char *with)
{
    return strncmp(line, with, strlen(with)) == 0;
}

/* Moves the lines that are wanted to the front; their length, or -1 with an exception. */
static Py_ssize_t
gather(char *status, unsigned int *umask, unsigned long long *ignored)
{
    char *to = status;
    bool seen = false;
    for (char *line = status, *next; *line != '\0'; line = next) {
        next = line + strcspn(line, "\n");
        next += *next == '\n';
        if (strchr("UGCNS", *line) == NULL) /* most are about memory */
            continue;
        if (begins(line, "Umask:")) {
            *umask = (unsigned int)strtoul(line + strlen("Umask:"), NULL, 8);
            seen = true;
        } else if (begins(line, "SigIgn:")) {
            *ignored = strtoull(line + strlen("SigIgn:"), NULL, 16);
        }
        for (size_t i = 0; i < sizeof STANDING / sizeof *STANDING; i++)
            if (begins(line, STANDING[i])) {
                memmove(to, line, (size_t)(next - line));
                to += next - line;
                break;
            }
    }
    if (!seen) {
        PyErr_SetString(PyExc_RuntimeError, "/proc does not tell the umask (Linux 4.7)");
        return -1;
    }
    return to - status;
}

static int
read_limits(int64_t (*limits)[2])
{
    for (int number = 0; number < LIMITS; number++) {
        struct rlimit limit;
        if (getrlimit((__rlimit_resource_t)number, &limit) < 0)
            return -1;
        limits[number][0] = limit.rlim_cur == RLIM_INFINITY ? -1 : (int64_t)limit.rlim_cur;
        limits[number][1] = limit.rlim_max == RLIM_INFINITY ? -1 : (int64_t)limit.rlim_max;
    }
    return 0;
}

static PyObject *
surroundings(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    char room[USUAL], root[ROOT], directory[PATH_MAX];
    int64_t limits[LIMITS][2];
    struct stat top;
    unsigned int umask = 0;
    unsigned long long ignored = 0;
    const char *here = getcwd(directory, sizeof directory);
    if (stat("/", &top) < 0 || read_limits(limits) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    int root_length = snprintf(root, sizeof root, "Session:\t%d\nRoot:\t%llu:%llu\n", getsid(0),
                               (unsigned long long)top.st_dev,
                               (unsigned long long)top.st_ino);
    char *status = read_status(room);
    if (status == NULL)
        return NULL;
    PyObject *result = NULL, *standing = NULL;
    Py_ssize_t length = gather(status, &umask, &ignored);
    if (length >= 0)
        standing = PyBytes_FromStringAndSize(NULL, length + root_length);
    if (standing != NULL) {
        char *text = PyBytes_AsString(standing);
        memcpy(text, status, (size_t)length);
        memcpy(text + length, root, (size_t)root_length);
        result = Py_BuildValue("Oy#IKiy", standing, (const char *)limits,
                               (Py_ssize_t)sizeof limits, umask, ignored, getpgrp(), here);
    }
    Py_XDECREF(standing);
    if (status != room)
        free(status);
    return result;
}

static PyMethodDef functions[] = {
    {"surroundings", surroundings, METH_NOARGS, PyDoc_STR("What a child takes from its parent.")},
    {NULL, NULL, 0, NULL},
};

int
kin_add_surroundings(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
