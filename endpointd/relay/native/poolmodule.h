/* What module.c adds of the pooler to the module. */
#ifndef ENDPOINTD_POOLMODULE_H
#define ENDPOINTD_POOLMODULE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

extern PyType_Spec pooler_spec;

/* Whether a statement has words that have to be looked at: for tests, which compare it with the grammar. */
PyObject *pooler_is_suspicious(PyObject *module, PyObject *args);
/* What a statement forgets, and the name, for the same tests. */
PyObject *pooler_forgets(PyObject *module, PyObject *args);

#endif
