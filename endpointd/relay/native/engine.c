#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

static const Trade RELAY = {
    .name = "endpointd relay",
    .serve = pair_serve,
    .tell = pair_tell,
    .settle = pair_settle,
    .free = pair_free,
};

/* Leave an end to the caller again. */
static void forget_end(End *end)
{
    if (end->epoll_fd >= 0)
        epoll_ctl(end->epoll_fd, EPOLL_CTL_DEL, end->fd, NULL);
    end->fd = -1;
}

/* Have two sockets be a pair's ends; if that cannot be done they are nobody's. */
static bool take_sockets(Engine *engine, Pair *pair, Socket client, Socket server)
{
    end_init(&pair->client, &pair->party, client.fd);
    end_init(&pair->server, &pair->party, server.fd);
    if (!reactor_watch(&engine->reactor, &pair->client) || !reactor_watch(&engine->reactor, &pair->server))
        return false;
    /* Last, because it cannot be taken back. */
    Tls *client_tls = NULL, *server_tls = NULL;
    if ((client.ssl != NULL && (client_tls = tls_prepare(&engine->sealed)) == NULL) ||
        (server.ssl != NULL && (server_tls = tls_prepare(&engine->sealed)) == NULL)) {
        tls_free(client_tls);
        errno = ENOMEM;
        return false;
    }
    pair->client.tls = client_tls;
    pair->server.tls = server_tls;
    if (client_tls != NULL)
        tls_take(client_tls, client.ssl);
    if (server_tls != NULL)
        tls_take(server_tls, server.ssl);
    return true;
}

uint64_t engine_add(Engine *engine, Socket client, Socket server, int watch, bool keeps_server, Slice welcome,
                    Slice server_rest, Slice client_rest)
{
    Pair *pair = calloc(1, sizeof *pair);
    if (pair == NULL || !reactor_prepare(&engine->reactor)) {
        free(pair);
        return 0;
    }
    pair->engine = engine;
    pair->keeps_server = keeps_server;
    safepoint_init(&pair->point, watch);
    if (!take_sockets(engine, pair, client, server)) {
        int why = errno;
        /* An event may be on its way already: it has to find a pair. */
        forget_end(&pair->client);
        forget_end(&pair->server);
        reactor_bury(&engine->reactor, &pair->party);
        errno = why;
        return 0;
    }
    reactor_admit(&engine->reactor, &pair->party);
    pair_start(pair, welcome, server_rest, client_rest);
    return pair->party.handle;
}

Engine *engine_open(void)
{
    return reactor_new(sizeof(Engine), &RELAY);
}

void engine_close(Engine *engine)
{
    reactor_close(&engine->reactor);
    frames_free(&engine->frames);
    buffer_free(&engine->sealed);
    buffer_free(&engine->plain);
    free(engine);
}
