/* endpointd.relay._native.Pooler: transaction pooling as Python has it.  As in module.c, no Python object is touched while the
 * mutex is held. */
#include "poolmodule.h"

#include <errno.h>

#include "module.h"

#include "pooler.h"

typedef struct {
    PyObject_HEAD
    Pooler *pooler;
} PoolerObject;

static int pooler_init(PoolerObject *self, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    if (!PyArg_ParseTuple(args, "") || self->pooler != NULL)
        return self->pooler != NULL ? 0 : -1;
    self->pooler = pooler_open();
    if (self->pooler == NULL) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

static void pooler_dealloc(PoolerObject *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    if (self->pooler != NULL) {
        PyThreadState *state = PyEval_SaveThread();
        pooler_close(self->pooler);
        PyEval_RestoreThread(state);
    }
    PyObject_Free(self);
    Py_DECREF((PyObject *)type);
}

static PyObject *pooler_fileno(PoolerObject *self, PyObject *Py_UNUSED(args))
{
    return PyLong_FromLong(self->pooler->reactor.news_fd);
}

/* Finding */

static void *find(PoolerObject *self, unsigned long long handle, int kind)
{
    Party *party = reactor_find(&self->pooler->reactor, handle);
    return party != NULL && (int)party->kind == kind ? party : NULL;
}

static PyObject *nobody(void)
{
    PyErr_SetString(PyExc_KeyError, "it is over");
    return NULL;
}

static PyObject *done(bool is_found)
{
    if (!is_found)
        return nobody();
    Py_RETURN_NONE;
}

static PyObject *handle_or_error(uint64_t handle, int why)
{
    if (handle != 0)
        return PyLong_FromUnsignedLongLong(handle);
    errno = why;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* Pools */

static PyObject *set_pool(PoolerObject *self, unsigned long long handle, PyObject *args, Py_ssize_t skipped)
{
    unsigned size_max, idle_min, statements_max;
    long long wait_max_ms, idle_max_ms, age_max_ms;
    PyObject *rest = PySequence_GetSlice(args, skipped, PyTuple_Size(args));
    if (rest == NULL)
        return NULL;
    int is_read = PyArg_ParseTuple(rest, "IIILLL", &size_max, &idle_min, &statements_max, &wait_max_ms, &idle_max_ms,
                                   &age_max_ms);
    Py_DECREF(rest);
    if (!is_read)
        return NULL;
    PyThreadState *state = enter(&self->pooler->reactor);
    Pool *pool = find(self, handle, PARTY_POOL);
    if (pool != NULL) {
        pool->size_max = size_max;
        pool->idle_min = idle_min;
        pool->statements_max = statements_max;
        pool->wait_max_ms = wait_max_ms;
        pool->idle_max_ms = idle_max_ms;
        pool->age_max_ms = age_max_ms;
        reactor_ready(&self->pooler->reactor, &pool->party);
    }
    leave(&self->pooler->reactor, state);
    return pool != NULL ? PyLong_FromUnsignedLongLong(handle) : nobody();
}

static PyObject *pooler_add_pool_(PoolerObject *self, PyObject *args)
{
    PyThreadState *state = enter(&self->pooler->reactor);
    uint64_t handle = pooler_add_pool(self->pooler);
    int why = errno;
    leave(&self->pooler->reactor, state);
    return handle != 0 ? set_pool(self, handle, args, 0) : handle_or_error(0, why);
}

static PyObject *pooler_set_pool(PoolerObject *self, PyObject *args)
{
    PyObject *first = PyTuple_Size(args) > 0 ? PyTuple_GetItem(args, 0) : NULL;
    unsigned long long handle = first != NULL ? PyLong_AsUnsignedLongLong(first) : 0;
    if (PyErr_Occurred())
        return NULL;
    return set_pool(self, handle, args, 1);
}

static PyObject *with_pool(PoolerObject *self, PyObject *args, void (*act)(Pool *pool))
{
    unsigned long long handle;
    if (!PyArg_ParseTuple(args, "K", &handle))
        return NULL;
    PyThreadState *state = enter(&self->pooler->reactor);
    Pool *pool = find(self, handle, PARTY_POOL);
    if (pool != NULL)
        act(pool);
    leave(&self->pooler->reactor, state);
    return done(pool != NULL);
}

static PyObject *pooler_close_pool(PoolerObject *self, PyObject *args)
{
    return with_pool(self, args, pool_close);
}

static PyObject *pooler_dial_failed(PoolerObject *self, PyObject *args)
{
    return with_pool(self, args, pool_dial_failed);
}

static PyObject *pooler_pool_facts(PoolerObject *self, PyObject *args)
{
    unsigned long long handle;
    if (!PyArg_ParseTuple(args, "K", &handle))
        return NULL;
    Pool found = {0};
    PyThreadState *state = enter(&self->pooler->reactor);
    Pool *pool = find(self, handle, PARTY_POOL);
    int64_t longest_wait_ms = 0;
    if (pool != NULL) {
        found = *pool;
        if (pool->waiting_first != NULL)
            longest_wait_ms = pool_client_waited_ms(pool->waiting_first);
    }
    leave(&self->pooler->reactor, state);
    if (pool == NULL)
        return nobody();
    const PoolCounts *counts = &found.counts;
    return Py_BuildValue("(IIIIIILKKKK)", found.clients, found.waiting, found.pinned, found.servers, found.idle, found.dialled, (long long)longest_wait_ms,
                         (unsigned long long)counts->waits, (unsigned long long)counts->waited_ms,
                         (unsigned long long)counts->parses, (unsigned long long)counts->evicted);
}

/* Coming in */

static PyObject *pooler_add_client_(PoolerObject *self, PyObject *args)
{
    unsigned long long handle;
    int watch;
    Socket socket = {0};
    PyObject *tls;
    Py_buffer rest;
    if (!PyArg_ParseTuple(args, "KiOiy*", &handle, &socket.fd, &tls, &watch, &rest))
        return NULL;
    if (!connection_of(tls, &socket.ssl)) {
        PyBuffer_Release(&rest);
        return NULL;
    }
    PyThreadState *state = enter(&self->pooler->reactor);
    Pool *pool = find(self, handle, PARTY_POOL);
    uint64_t client = pool != NULL ? pooler_add_client(self->pooler, pool, socket, watch, slice_of(&rest)) : 0;
    int why = errno;
    leave(&self->pooler->reactor, state);
    PyBuffer_Release(&rest);
    return pool != NULL ? handle_or_error(client, why) : nobody();
}

static PyObject *pooler_add_server_(PoolerObject *self, PyObject *args)
{
    unsigned long long handle;
    int is_paused;
    Socket socket = {0};
    PyObject *tls;
    if (!PyArg_ParseTuple(args, "KiOp", &handle, &socket.fd, &tls, &is_paused) || !connection_of(tls, &socket.ssl))
        return NULL;
    PyThreadState *state = enter(&self->pooler->reactor);
    Pool *pool = find(self, handle, PARTY_POOL);
    uint64_t server = pool != NULL ? pooler_add_server(self->pooler, pool, socket, is_paused != 0) : 0;
    int why = errno;
    leave(&self->pooler->reactor, state);
    return pool != NULL ? handle_or_error(server, why) : nobody();
}

/* Servers */

static PyObject *with_server(PoolerObject *self, PyObject *args, void (*act)(PoolServer *server))
{
    unsigned long long handle;
    if (!PyArg_ParseTuple(args, "K", &handle))
        return NULL;
    PyThreadState *state = enter(&self->pooler->reactor);
    PoolServer *server = find(self, handle, PARTY_SERVER);
    if (server != NULL)
        act(server);
    leave(&self->pooler->reactor, state);
    Py_RETURN_NONE; /* one that is over is no error */
}

static PyObject *pooler_kill(PoolerObject *self, PyObject *args)
{
    return with_server(self, args, pool_server_kill);
}

static PyObject *pooler_retire(PoolerObject *self, PyObject *args)
{
    return with_server(self, args, pool_server_retire);
}

static void hold(PoolServer *server)
{
    pool_server_pause(server, true);
}

static void unhold(PoolServer *server)
{
    pool_server_pause(server, false);
}

static PyObject *pooler_pause_server(PoolerObject *self, PyObject *args)
{
    return with_server(self, args, hold);
}

static PyObject *pooler_resume_server(PoolerObject *self, PyObject *args)
{
    return with_server(self, args, unhold);
}

/* The client that has it, and why that is pinned; or None. */
static PyObject *pooler_client_of(PoolerObject *self, PyObject *args)
{
    unsigned long long handle, client = 0;
    int pinned = 0;
    if (!PyArg_ParseTuple(args, "K", &handle))
        return NULL;
    PyThreadState *state = enter(&self->pooler->reactor);
    const PoolServer *server = find(self, handle, PARTY_SERVER);
    if (server != NULL && server->client != NULL) {
        client = server->client->party.handle;
        pinned = server->client->pinned;
    }
    leave(&self->pooler->reactor, state);
    if (client == 0)
        Py_RETURN_NONE;
    return Py_BuildValue("(Ki)", client, pinned);
}

/* Clients */

static PyObject *with_client(PoolerObject *self, PyObject *args, void (*act)(PoolClient *client))
{
    unsigned long long handle;
    if (!PyArg_ParseTuple(args, "K", &handle))
        return NULL;
    PyThreadState *state = enter(&self->pooler->reactor);
    PoolClient *client = find(self, handle, PARTY_CLIENT);
    if (client != NULL)
        act(client);
    leave(&self->pooler->reactor, state);
    return done(client != NULL);
}

static PyObject *pooler_pause(PoolerObject *self, PyObject *args)
{
    return with_client(self, args, pool_client_pause);
}

static PyObject *pooler_resume(PoolerObject *self, PyObject *args)
{
    return with_client(self, args, pool_client_resume);
}

static PyObject *pooler_close_server(PoolerObject *self, PyObject *args)
{
    return with_client(self, args, pool_client_close_server);
}

static PyObject *facts_of(PoolerObject *self, PyObject *args, bool halts)
{
    unsigned long long handle;
    Facts facts = {0};
    if (!PyArg_ParseTuple(args, "K", &handle))
        return NULL;
    PyThreadState *state = enter(&self->pooler->reactor);
    PoolClient *client = find(self, handle, PARTY_CLIENT);
    if (client != NULL && halts)
        pool_client_halt(client);
    if (client != NULL)
        facts = pool_client_facts(client);
    leave(&self->pooler->reactor, state);
    if (client == NULL)
        return nobody();
    return Py_BuildValue("(KKKiNNNNNN)", (unsigned long long)facts.to_server_bytes, (unsigned long long)facts.to_client_bytes,
                         (unsigned long long)facts.held_bytes, (int)facts.doing, flag(facts.is_awaited),
                         flag(facts.is_streaming), flag(facts.may_have_committed), flag(facts.client_terminated),
                         flag(facts.client_has_ended), flag(facts.server_said_goodbye));
}

static PyObject *pooler_halt(PoolerObject *self, PyObject *args)
{
    return facts_of(self, args, true);
}

static PyObject *pooler_facts(PoolerObject *self, PyObject *args)
{
    return facts_of(self, args, false);
}

/* The server that it has, or 0; why it is pinned, or 0; for how many ms it has waited for a server, or -1; and how many
 * transactions it had a server for. */
static PyObject *pooler_standing(PoolerObject *self, PyObject *args)
{
    unsigned long long handle, server = 0, transactions = 0;
    long long waited_ms = -1;
    int pinned = 0;
    if (!PyArg_ParseTuple(args, "K", &handle))
        return NULL;
    PyThreadState *state = enter(&self->pooler->reactor);
    const PoolClient *client = find(self, handle, PARTY_CLIENT);
    if (client != NULL) {
        server = client->server != NULL ? client->server->party.handle : 0;
        pinned = client->pinned;
        transactions = client->transactions;
        waited_ms = client->is_waiting ? pool_client_waited_ms(client) : -1;
    }
    leave(&self->pooler->reactor, state);
    return client != NULL ? Py_BuildValue("(KiLK)", server, pinned, waited_ms, transactions) : nobody();
}

static PyObject *pooler_drop(PoolerObject *self, PyObject *args)
{
    unsigned long long handle;
    Py_buffer farewell;
    if (!PyArg_ParseTuple(args, "Ky*", &handle, &farewell))
        return NULL;
    PyThreadState *state = enter(&self->pooler->reactor);
    PoolClient *client = find(self, handle, PARTY_CLIENT);
    if (client != NULL && !client->is_dropped)
        pool_client_drop(client, slice_of(&farewell));
    leave(&self->pooler->reactor, state);
    PyBuffer_Release(&farewell);
    Py_RETURN_NONE;
}

/* A cancel request for a client is about to be sent: return the server that has what it is for, which nobody else is given
 * until cancel_ended; 0 if it has none: what it waits with is refused. */
static PyObject *pooler_cancel_begins(PoolerObject *self, PyObject *args)
{
    unsigned long long handle, server = 0;
    if (!PyArg_ParseTuple(args, "K", &handle))
        return NULL;
    PyThreadState *state = enter(&self->pooler->reactor);
    PoolClient *client = find(self, handle, PARTY_CLIENT);
    if (client != NULL && !client->is_dropped && client->server != NULL) {
        safepoint_cancel_begins(&client->point);
        pool_server_cancel_begins(client->server);
        server = client->server->party.handle;
    } else if (client != NULL && !client->is_dropped) {
        pool_client_cancel_waiting(client);
    }
    leave(&self->pooler->reactor, state);
    return PyLong_FromUnsignedLongLong(server);
}

static PyObject *pooler_cancel_ended(PoolerObject *self, PyObject *args)
{
    unsigned long long handle, server_handle;
    int is_over;
    if (!PyArg_ParseTuple(args, "KKp", &handle, &server_handle, &is_over))
        return NULL;
    PyThreadState *state = enter(&self->pooler->reactor);
    PoolClient *client = find(self, handle, PARTY_CLIENT);
    PoolServer *server = find(self, server_handle, PARTY_SERVER);
    if (client != NULL && !client->is_dropped)
        safepoint_cancel_ended(&client->point);
    if (server != NULL)
        pool_server_cancel_ended(server, is_over != 0);
    leave(&self->pooler->reactor, state);
    Py_RETURN_NONE;
}

static PyObject *pooler_relaxes(PoolerObject *self, PyObject *args)
{
    unsigned long long handle;
    unsigned relaxed, new = 0;
    if (!PyArg_ParseTuple(args, "KI", &handle, &relaxed))
        return NULL;
    PyThreadState *state = enter(&self->pooler->reactor);
    PoolClient *client = find(self, handle, PARTY_CLIENT);
    if (client != NULL)
        new = safepoint_relaxes(&client->point, relaxed);
    leave(&self->pooler->reactor, state);
    return PyLong_FromUnsignedLong(new);
}

static PyObject *pooler_take_text(PoolerObject *self, PyObject *args)
{
    unsigned long long handle;
    Text *text = NULL;
    if (!PyArg_ParseTuple(args, "K", &handle))
        return NULL;
    PyThreadState *state = enter(&self->pooler->reactor);
    PoolClient *client = find(self, handle, PARTY_CLIENT);
    if (client != NULL)
        text = safepoint_take_text(&client->point);
    leave(&self->pooler->reactor, state);
    if (text == NULL)
        Py_RETURN_NONE;
    return text_bytes(text);
}

/* Say what a statement does, of which a client was asked. */
static PyObject *pooler_judged(PoolerObject *self, PyObject *args)
{
    unsigned long long handle;
    Py_buffer text;
    unsigned char verdict;
    if (!PyArg_ParseTuple(args, "Ky*b", &handle, &text, &verdict))
        return NULL;
    PyThreadState *state = enter(&self->pooler->reactor);
    PoolClient *client = find(self, handle, PARTY_CLIENT);
    verdicts_add(&self->pooler->verdicts, slice_of(&text), verdict);
    if (client != NULL && client->is_asking) {
        client->is_asking = false;
        reactor_ready(&self->pooler->reactor, &client->party);
    }
    leave(&self->pooler->reactor, state);
    PyBuffer_Release(&text);
    Py_RETURN_NONE;
}

/* One thing that is to be told: handle, what, a number, and a statement if that is it; or None. */
static PyObject *pooler_next(PoolerObject *self, PyObject *Py_UNUSED(args))
{
    uint64_t handle, number;
    Text *text;
    PyThreadState *state = enter(&self->pooler->reactor);
    uint32_t news = reactor_take_news(&self->pooler->reactor, &handle, &number, &text);
    leave(&self->pooler->reactor, state);
    if (news == 0)
        Py_RETURN_NONE;
    if (text == NULL)
        return Py_BuildValue("(KIKO)", (unsigned long long)handle, news, (unsigned long long)number, Py_None);
    return Py_BuildValue("(KIKN)", (unsigned long long)handle, news, (unsigned long long)number, text_bytes(text));
}

#define METHOD(name, function, flags) {name, (PyCFunction)(void (*)(void))function, flags, NULL}

static PyMethodDef pooler_methods[] = {
    METHOD("fileno", pooler_fileno, METH_NOARGS),
    METHOD("add_pool", pooler_add_pool_, METH_VARARGS),
    METHOD("set_pool", pooler_set_pool, METH_VARARGS),
    METHOD("close_pool", pooler_close_pool, METH_VARARGS),
    METHOD("dial_failed", pooler_dial_failed, METH_VARARGS),
    METHOD("pool_facts", pooler_pool_facts, METH_VARARGS),
    METHOD("add_client", pooler_add_client_, METH_VARARGS),
    METHOD("add_server", pooler_add_server_, METH_VARARGS),
    METHOD("kill", pooler_kill, METH_VARARGS),
    METHOD("retire", pooler_retire, METH_VARARGS),
    METHOD("pause_server", pooler_pause_server, METH_VARARGS),
    METHOD("resume_server", pooler_resume_server, METH_VARARGS),
    METHOD("client_of", pooler_client_of, METH_VARARGS),
    METHOD("pause", pooler_pause, METH_VARARGS),
    METHOD("resume", pooler_resume, METH_VARARGS),
    METHOD("close_server", pooler_close_server, METH_VARARGS),
    METHOD("halt", pooler_halt, METH_VARARGS),
    METHOD("facts", pooler_facts, METH_VARARGS),
    METHOD("standing", pooler_standing, METH_VARARGS),
    METHOD("drop", pooler_drop, METH_VARARGS),
    METHOD("cancel_begins", pooler_cancel_begins, METH_VARARGS),
    METHOD("cancel_ended", pooler_cancel_ended, METH_VARARGS),
    METHOD("relaxes", pooler_relaxes, METH_VARARGS),
    METHOD("take_text", pooler_take_text, METH_VARARGS),
    METHOD("judged", pooler_judged, METH_VARARGS),
    METHOD("next", pooler_next, METH_NOARGS),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot pooler_slots[] = {
    {Py_tp_init, (void *)pooler_init},
    {Py_tp_dealloc, (void *)pooler_dealloc},
    {Py_tp_methods, pooler_methods},
    {0, NULL},
};

PyType_Spec pooler_spec = {
    .name = "endpointd.relay._native.Pooler",
    .basicsize = sizeof(PoolerObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = pooler_slots,
};

PyObject *pooler_is_suspicious(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer text;
    if (!PyArg_ParseTuple(args, "y*", &text))
        return NULL;
    bool is_so = is_suspicious(slice_of(&text));
    PyBuffer_Release(&text);
    return PyBool_FromLong(is_so);
}

PyObject *pooler_forgets(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer text;
    if (!PyArg_ParseTuple(args, "y*", &text))
        return NULL;
    Forgets found = forgets_of(slice_of(&text));
    PyBuffer_Release(&text);
    return Py_BuildValue("(iy#)", (int)found.what, (const char *)found.name,
                         (Py_ssize_t)(found.what == FORGETS_ONE ? found.len : 0));
}
