/* The safe point as Python has it: for tests, which compare it with the other one (tests/endpointd/twins.py). */
#include "module.h"

typedef struct {
    PyObject_HEAD
    SafePoint point;
    Frames frames;
} SafePointObject;

static int point_init(SafePointObject *self, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    int watch;
    if (!PyArg_ParseTuple(args, "i", &watch))
        return -1;
    safepoint_free(&self->point);
    safepoint_init(&self->point, watch);
    return 0;
}

static void point_dealloc(SafePointObject *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    safepoint_free(&self->point);
    frames_free(&self->frames);
    PyObject_Free(self);
    Py_DECREF((PyObject *)type);
}

static PyObject *scan_error(ScanResult result)
{
    if (result == SCAN_NO_MEMORY)
        return PyErr_NoMemory();
    PyErr_SetString(PyExc_ValueError, "no chain of messages");
    return NULL;
}

static PyObject *point_client_sent(SafePointObject *self, PyObject *args)
{
    Py_buffer chunk;
    if (!PyArg_ParseTuple(args, "y*", &chunk))
        return NULL;
    ScanResult result = safepoint_client_sent(&self->point, chunk.buf, (size_t)chunk.len, &self->frames);
    PyBuffer_Release(&chunk);
    if (result != SCAN_OK)
        return scan_error(result);
    PyObject *texts = PyList_New(0);
    for (Text *text; texts != NULL && (text = safepoint_take_text(&self->point)) != NULL;) {
        PyObject *bytes = text_bytes(text);
        if (bytes == NULL || PyList_Append(texts, bytes) < 0)
            Py_CLEAR(texts);
        Py_XDECREF(bytes);
    }
    return texts;
}

static PyObject *point_server_sent(SafePointObject *self, PyObject *args)
{
    Py_buffer chunk;
    if (!PyArg_ParseTuple(args, "y*", &chunk))
        return NULL;
    int64_t unconfirmed;
    ScanResult result = safepoint_server_sent(&self->point, chunk.buf, (size_t)chunk.len, &self->frames, &unconfirmed);
    PyBuffer_Release(&chunk);
    if (result != SCAN_OK)
        return scan_error(result);
    if (unconfirmed == CONFIRMED)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(unconfirmed);
}

static PyObject *point_relaxes(SafePointObject *self, PyObject *args)
{
    unsigned relaxed;
    if (!PyArg_ParseTuple(args, "I", &relaxed))
        return NULL;
    return PyLong_FromUnsignedLong(safepoint_relaxes(&self->point, relaxed));
}

static PyObject *point_cancel_begins(SafePointObject *self, PyObject *Py_UNUSED(args))
{
    safepoint_cancel_begins(&self->point);
    Py_RETURN_NONE;
}

static PyObject *point_cancel_ended(SafePointObject *self, PyObject *Py_UNUSED(args))
{
    safepoint_cancel_ended(&self->point);
    Py_RETURN_NONE;
}

static PyObject *point_state(SafePointObject *self, PyObject *Py_UNUSED(args))
{
    const SafePoint *point = &self->point;
    return Py_BuildValue("(LKiNNNNNN)", (long long)point->server.boundary, (unsigned long long)point->server.skip,
                         (int)safepoint_doing(point), flag(point->outstanding.len > 0), flag(point->is_streaming),
                         flag(safepoint_may_have_committed(point)), flag(point->client_terminated),
                         flag(point->server_said_goodbye), flag(point->is_in_doubt));
}

static PyMethodDef point_methods[] = {
    {"client_sent", (PyCFunction)(void (*)(void))point_client_sent, METH_VARARGS, NULL},
    {"server_sent", (PyCFunction)(void (*)(void))point_server_sent, METH_VARARGS, NULL},
    {"relaxes", (PyCFunction)(void (*)(void))point_relaxes, METH_VARARGS, NULL},
    {"cancel_begins", (PyCFunction)(void (*)(void))point_cancel_begins, METH_NOARGS, NULL},
    {"cancel_ended", (PyCFunction)(void (*)(void))point_cancel_ended, METH_NOARGS, NULL},
    {"state", (PyCFunction)(void (*)(void))point_state, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot point_slots[] = {
    {Py_tp_init, (void *)point_init},
    {Py_tp_dealloc, (void *)point_dealloc},
    {Py_tp_methods, point_methods},
    {0, NULL},
};

PyType_Spec safepoint_spec = {
    .name = "endpointd.relay._native.SafePoint",
    .basicsize = sizeof(SafePointObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = point_slots,
};
