/* What the parts of the extension module have in common. */
#ifndef ENDPOINTD_MODULE_H
#define ENDPOINTD_MODULE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdlib.h>

#include "reactor.h"
#include "safepoint.h"
#include "tls.h"

extern PyType_Spec safepoint_spec;

/* Find the connection of a pair of ssl's own objects, None: there is none.  False: an exception is set. */
bool connection_of(PyObject *tls, SSL **ssl);

/* The thread may have the mutex for as long as it serves one party: nobody waits for it with the GIL. */
static inline PyThreadState *enter(Reactor *reactor)
{
    if (reactor_try_enter(reactor))
        return NULL;
    PyThreadState *state = PyEval_SaveThread();
    reactor_enter(reactor);
    return state;
}

static inline void leave(Reactor *reactor, PyThreadState *state)
{
    reactor_leave(reactor);
    if (state != NULL)
        PyEval_RestoreThread(state);
}

static inline Slice slice_of(const Py_buffer *buffer)
{
    return (Slice){buffer->buf, (size_t)buffer->len};
}

static inline PyObject *flag(bool is_so)
{
    return PyBool_FromLong(is_so);
}

/* A statement that was taken, which is freed, as bytes. */
static inline PyObject *text_bytes(Text *text)
{
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)text->bytes, (Py_ssize_t)text->len);
    free(text);
    return bytes;
}

#endif
