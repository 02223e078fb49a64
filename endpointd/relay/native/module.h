/* What the parts of the extension module have in common. */
#ifndef ENDPOINTD_MODULE_H
#define ENDPOINTD_MODULE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdlib.h>

#include "safepoint.h"
#include "tls.h"

extern PyType_Spec safepoint_spec;

/* Find the connection of a pair of ssl's own objects, None: there is none.  False: an exception is set. */
bool connection_of(PyObject *tls, SSL **ssl);

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
