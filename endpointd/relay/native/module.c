/* endpointd.relay._native: the engine as Python has it.
 *
 * No Python object is touched while the engine's mutex is held, and the engine's thread touches none at all.
 */
#include "module.h"

#include <errno.h>

#include "engine.h"
#include "poolmodule.h"

static PyObject *facts_tuple(const Facts *facts)
{
    return Py_BuildValue("(KKKiNNNNNN)", (unsigned long long)facts->to_server_bytes,
                         (unsigned long long)facts->to_client_bytes, (unsigned long long)facts->held_bytes, (int)facts->doing,
                         flag(facts->is_awaited), flag(facts->is_streaming), flag(facts->may_have_committed),
                         flag(facts->client_terminated), flag(facts->client_has_ended), flag(facts->server_said_goodbye));
}

/* The engine */

typedef struct {
    PyObject_HEAD
    Engine *engine;
} CoreObject;

static int core_init(CoreObject *self, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    if (!PyArg_ParseTuple(args, "") || self->engine != NULL)
        return self->engine != NULL ? 0 : -1;
    self->engine = engine_open();
    if (self->engine == NULL) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

static void core_dealloc(CoreObject *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    if (self->engine != NULL) {
        PyThreadState *state = PyEval_SaveThread();
        engine_close(self->engine);
        PyEval_RestoreThread(state);
    }
    PyObject_Free(self);
    Py_DECREF((PyObject *)type);
}

static PyObject *core_fileno(CoreObject *self, PyObject *Py_UNUSED(args))
{
    return PyLong_FromLong(self->engine->reactor.news_fd);
}

/* How large the objects of an object's type are; -1 and an exception if that is not known. */
static long basic_size(PyObject *object)
{
    PyObject *size = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__basicsize__");
    long bytes = size != NULL ? PyLong_AsLong(size) : -1;
    Py_XDECREF(size);
    return bytes;
}

/* Find OpenSSL's connection in *tls*: None, or the object of Python's _ssl module and the context that it was made with.
 *
 * No interface of Python's gives it away.  It stands in that object behind one reference and before the context; and since the
 * context is known, whether it stands there is known too, before anything is done with it. */
bool connection_of(PyObject *tls, SSL **ssl)
{
    PyObject *object, *context;
    if (tls == Py_None)
        return true;
    if (!PyArg_ParseTuple(tls, "OO", &object, &context))
        return false;
    struct {
        PyObject_HEAD
        PyObject *socket;
        SSL *ssl;
        PyObject *context;
    } *inside = (void *)object;
    if (basic_size(object) >= (long)sizeof *inside && inside->context == context && inside->ssl != NULL) {
        *ssl = inside->ssl;
        return true;
    }
    if (!PyErr_Occurred()) {
        errno = ENOTSUP;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return false;
}

static PyObject *core_add(CoreObject *self, PyObject *args)
{
    Socket client = {0}, server = {0};
    int watch, keeps_server;
    Py_buffer welcome, server_rest, client_rest;
    PyObject *client_tls, *server_tls;
    if (!PyArg_ParseTuple(args, "iOiOipy*y*y*", &client.fd, &client_tls, &server.fd, &server_tls, &watch, &keeps_server, &welcome,
                          &server_rest, &client_rest))
        return NULL;
    if (!connection_of(client_tls, &client.ssl) || !connection_of(server_tls, &server.ssl)) {
        PyBuffer_Release(&welcome);
        PyBuffer_Release(&server_rest);
        PyBuffer_Release(&client_rest);
        return NULL;
    }
    PyThreadState *state = enter(&self->engine->reactor);
    uint64_t handle = engine_add(self->engine, client, server, watch, keeps_server, slice_of(&welcome), slice_of(&server_rest),
                                 slice_of(&client_rest));
    int why = errno;
    leave(&self->engine->reactor, state);
    PyBuffer_Release(&welcome);
    PyBuffer_Release(&server_rest);
    PyBuffer_Release(&client_rest);
    if (handle != 0)
        return PyLong_FromUnsignedLongLong(handle);
    errno = why;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *no_such_pair(void)
{
    PyErr_SetString(PyExc_KeyError, "the pair is over");
    return NULL;
}

/* Do one thing with a pair; False in *found* if there is none of this handle. */
static PyObject *with_pair(CoreObject *self, PyObject *args, void (*act)(Pair *pair))
{
    unsigned long long handle;
    if (!PyArg_ParseTuple(args, "K", &handle))
        return NULL;
    PyThreadState *state = enter(&self->engine->reactor);
    Pair *pair = engine_find(self->engine, handle);
    if (pair != NULL)
        act(pair);
    leave(&self->engine->reactor, state);
    if (pair == NULL)
        return no_such_pair();
    Py_RETURN_NONE;
}

static void cancel_begins(Pair *pair)
{
    safepoint_cancel_begins(&pair->point);
}

static void cancel_ended(Pair *pair)
{
    safepoint_cancel_ended(&pair->point);
}

static PyObject *core_pause(CoreObject *self, PyObject *args)
{
    return with_pair(self, args, pair_pause);
}

static PyObject *core_resume(CoreObject *self, PyObject *args)
{
    return with_pair(self, args, pair_resume);
}

static PyObject *core_close_server(CoreObject *self, PyObject *args)
{
    return with_pair(self, args, pair_close_server);
}

/* The server's descriptor, which is the caller's from then on; or None. */
static PyObject *core_take_server(CoreObject *self, PyObject *args)
{
    unsigned long long handle;
    int fd = -1;
    if (!PyArg_ParseTuple(args, "K", &handle))
        return NULL;
    PyThreadState *state = enter(&self->engine->reactor);
    Pair *pair = engine_find(self->engine, handle);
    if (pair != NULL)
        fd = pair_take_server(pair);
    leave(&self->engine->reactor, state);
    if (fd < 0)
        Py_RETURN_NONE;
    return PyLong_FromLong(fd);
}

static PyObject *core_cancel_begins(CoreObject *self, PyObject *args)
{
    return with_pair(self, args, cancel_begins);
}

static PyObject *core_cancel_ended(CoreObject *self, PyObject *args)
{
    return with_pair(self, args, cancel_ended);
}

static PyObject *facts_of(CoreObject *self, PyObject *args, bool halts)
{
    unsigned long long handle;
    Facts facts = {0};
    if (!PyArg_ParseTuple(args, "K", &handle))
        return NULL;
    PyThreadState *state = enter(&self->engine->reactor);
    Pair *pair = engine_find(self->engine, handle);
    if (pair != NULL && halts)
        pair_halt(pair);
    if (pair != NULL)
        facts = pair_facts(pair);
    leave(&self->engine->reactor, state);
    return pair != NULL ? facts_tuple(&facts) : no_such_pair();
}

static PyObject *core_halt(CoreObject *self, PyObject *args)
{
    return facts_of(self, args, true);
}

static PyObject *core_facts(CoreObject *self, PyObject *args)
{
    return facts_of(self, args, false);
}

static PyObject *core_drop(CoreObject *self, PyObject *args)
{
    unsigned long long handle;
    Py_buffer farewell;
    if (!PyArg_ParseTuple(args, "Ky*", &handle, &farewell))
        return NULL;
    PyThreadState *state = enter(&self->engine->reactor);
    Pair *pair = engine_find(self->engine, handle);
    if (pair != NULL && !pair->is_dropped)
        pair_drop(pair, slice_of(&farewell));
    leave(&self->engine->reactor, state);
    PyBuffer_Release(&farewell);
    Py_RETURN_NONE;
}

static PyObject *core_relaxes(CoreObject *self, PyObject *args)
{
    unsigned long long handle;
    unsigned relaxed, new = 0;
    if (!PyArg_ParseTuple(args, "KI", &handle, &relaxed))
        return NULL;
    PyThreadState *state = enter(&self->engine->reactor);
    Pair *pair = engine_find(self->engine, handle);
    if (pair != NULL)
        new = safepoint_relaxes(&pair->point, relaxed);
    leave(&self->engine->reactor, state);
    return PyLong_FromUnsignedLong(new);
}

/* A statement of one pair's that is to be looked at, or None. */
static PyObject *core_take_text(CoreObject *self, PyObject *args)
{
    unsigned long long handle;
    Text *text = NULL;
    if (!PyArg_ParseTuple(args, "K", &handle))
        return NULL;
    PyThreadState *state = enter(&self->engine->reactor);
    Pair *pair = engine_find(self->engine, handle);
    if (pair != NULL)
        text = safepoint_take_text(&pair->point);
    leave(&self->engine->reactor, state);
    if (text == NULL)
        Py_RETURN_NONE;
    return text_bytes(text);
}

/* One thing that is to be told: handle, what, and the statement if that is it; or None. */
static PyObject *core_next(CoreObject *self, PyObject *Py_UNUSED(args))
{
    uint64_t handle, number;
    Text *text;
    PyThreadState *state = enter(&self->engine->reactor);
    uint32_t news = reactor_take_news(&self->engine->reactor, &handle, &number, &text);
    leave(&self->engine->reactor, state);
    if (news == 0)
        Py_RETURN_NONE;
    if (text == NULL)
        return Py_BuildValue("(KIO)", (unsigned long long)handle, news, Py_None);
    return Py_BuildValue("(KIN)", (unsigned long long)handle, news, text_bytes(text));
}

static PyMethodDef core_methods[] = {
    {"fileno", (PyCFunction)(void (*)(void))core_fileno, METH_NOARGS, NULL},
    {"add", (PyCFunction)(void (*)(void))core_add, METH_VARARGS, NULL},
    {"pause", (PyCFunction)(void (*)(void))core_pause, METH_VARARGS, NULL},
    {"resume", (PyCFunction)(void (*)(void))core_resume, METH_VARARGS, NULL},
    {"close_server", (PyCFunction)(void (*)(void))core_close_server, METH_VARARGS, NULL},
    {"take_server", (PyCFunction)(void (*)(void))core_take_server, METH_VARARGS, NULL},
    {"cancel_begins", (PyCFunction)(void (*)(void))core_cancel_begins, METH_VARARGS, NULL},
    {"cancel_ended", (PyCFunction)(void (*)(void))core_cancel_ended, METH_VARARGS, NULL},
    {"halt", (PyCFunction)(void (*)(void))core_halt, METH_VARARGS, NULL},
    {"facts", (PyCFunction)(void (*)(void))core_facts, METH_VARARGS, NULL},
    {"drop", (PyCFunction)(void (*)(void))core_drop, METH_VARARGS, NULL},
    {"relaxes", (PyCFunction)(void (*)(void))core_relaxes, METH_VARARGS, NULL},
    {"take_text", (PyCFunction)(void (*)(void))core_take_text, METH_VARARGS, NULL},
    {"next", (PyCFunction)(void (*)(void))core_next, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot core_slots[] = {
    {Py_tp_init, (void *)core_init},
    {Py_tp_dealloc, (void *)core_dealloc},
    {Py_tp_methods, core_methods},
    {0, NULL},
};

static PyType_Spec core_spec = {
    .name = "endpointd.relay._native.Core",
    .basicsize = sizeof(CoreObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = core_slots,
};

/* The module */

static int add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromSpec(spec);
    if (type == NULL)
        return -1;
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return result;
}

/* Have TLS in the engine: by what the extension module at a path is linked with, or the program itself.  Returns what is missing. */
static PyObject *use_openssl(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *library;
    if (!PyArg_ParseTuple(args, "z", &library))
        return NULL;
    const char *missing = tls_load(library);
    if (missing == NULL)
        Py_RETURN_NONE;
    return PyUnicode_FromString(missing);
}

static int exec_module(PyObject *module)
{
    if (add_type(module, &core_spec) < 0 || add_type(module, &safepoint_spec) < 0 ||
        add_type(module, &pooler_spec) < 0)
        return -1;
    if (PyModule_AddIntConstant(module, "NOT_WATCHED", NOT_WATCHED) < 0 ||
        PyModule_AddIntConstant(module, "PAIR_BYTES", sizeof(Pair)) < 0)
        return -1;
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)exec_module},
    {0, NULL},
};

static PyMethodDef module_methods[] = {
    {"is_suspicious", pooler_is_suspicious, METH_VARARGS, NULL},
    {"forgets", pooler_forgets, METH_VARARGS, NULL},
    {"use_openssl", use_openssl, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "endpointd.relay._native",
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
