#include "pooler.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { TICK_MS = 250 };

static void free_party(Party *party)
{
    switch (party->kind) {
    case PARTY_CLIENT:
        pool_client_free((PoolClient *)party);
        break;
    case PARTY_SERVER:
        pool_server_free((PoolServer *)party);
        break;
    default:
        free(party);
    }
}

/* Return something new of *size* bytes that is a party, and can be let in. */
static void *new_party(Pooler *pooler, size_t size, uint8_t kind)
{
    Party *party = calloc(1, size);
    if (party == NULL || !reactor_prepare(&pooler->reactor)) {
        free(party);
        return NULL;
    }
    party->kind = kind;
    return party;
}

/* Have a socket be the end of a party, and let that in.  False and errno: the party is freed. */
static bool let_in(Pooler *pooler, Party *party, End *end, Socket socket)
{
    end_init(end, party, socket.fd);
    Tls *tls = socket.ssl != NULL ? tls_prepare(&pooler->sealed) : NULL;
    if ((socket.ssl != NULL && tls == NULL) || !reactor_watch(&pooler->reactor, end)) {
        int why = errno;
        tls_free(tls);
        free(party);
        errno = why;
        return false;
    }
    if (tls != NULL) { /* last, because it cannot be taken back */
        end->tls = tls;
        tls_take(tls, socket.ssl);
    }
    reactor_admit(&pooler->reactor, party);
    return true;
}

uint64_t pooler_add_pool(Pooler *pooler)
{
    Pool *pool = new_party(pooler, sizeof *pool, PARTY_POOL);
    if (pool == NULL)
        return 0;
    pool->pooler = pooler;
    reactor_admit(&pooler->reactor, &pool->party);
    return pool->party.handle;
}

uint64_t pooler_add_client(Pooler *pooler, Pool *pool, Socket socket, int watch, Slice rest)
{
    Bytes in = {0};
    if (!bytes_append(&in, rest.at, rest.len))
        return 0;
    PoolClient *client = new_party(pooler, sizeof *client, PARTY_CLIENT);
    if (client == NULL || !let_in(pooler, &client->party, &client->end, socket)) {
        bytes_free(&in);
        return 0;
    }
    client->pool = pool;
    pool->parties++;
    pool->clients++;
    safepoint_init(&client->point, watch);
    safepoint_tell_statements(&client->point);
    client->in = in;
    client->end.can_read = true;
    reactor_ready(&pooler->reactor, &client->party);
    return client->party.handle;
}

uint64_t pooler_add_server(Pooler *pooler, Pool *pool, Socket socket, bool is_paused)
{
    PoolServer *server = new_party(pooler, sizeof *server, PARTY_SERVER);
    if (server == NULL || !let_in(pooler, &server->party, &server->end, socket))
        return 0;
    server->pool = pool;
    pool->parties++;
    server->is_paused = is_paused;
    server->since_ms = server->idle_since_ms = reactor_now_ms();
    pool->servers++;
    if (pool->dialled > 0)
        pool->dialled--;
    reactor_ready(&pooler->reactor, &server->party);
    return server->party.handle;
}

/* What goes with the news of a party. */
static Telling tell(Reactor *reactor, Party *party, uint32_t news, uint64_t *number, Text **text)
{
    if (party->kind == PARTY_POOL) {
        Pool *pool = (Pool *)party;
        *number = pool->asked;
        pool->asked = 0;
        return TOLD;
    }
    if (party->kind == PARTY_SERVER)
        return TOLD;
    PoolClient *client = (PoolClient *)party;
    switch (news) {
    case NEWS_TEXT:
        return tell_text(reactor, party, &client->point, text);
    case NEWS_QUESTION:
        *text = text_of(pool_client_question(client));
        return TOLD;
    case NEWS_PINNED:
        *number = client->pin_told;
        return TOLD;
    default:
        *number = client->server != NULL ? client->server->party.handle : 0;
        return TOLD;
    }
}

static void settle(Party *party)
{
    if (party->kind == PARTY_CLIENT) {
        pool_client_settle((PoolClient *)party);
    } else if (party->kind == PARTY_SERVER) {
        PoolServer *server = (PoolServer *)party;
        if (server->is_dead && !party->is_ready && !party->has_news && end_is_closed(&server->end))
            pool_bury(server->pool, party);
    } else {
        pool_settle((Pool *)party);
    }
}

/* Receiving */

static size_t decrypt(Pooler *pooler, End *end, size_t len, uint8_t **data)
{
    TlsState state = end_open(end, pooler->buffer, len, &pooler->plain);
    *data = pooler->plain.bytes;
    if (state != TLS_GOES_ON) {
        end->can_read = true; /* so that it is asked once more, and the end is told */
        end->has_ended = true;
        end->is_broken = end->is_broken || state == TLS_BROKEN;
    }
    return pooler->plain.len;
}

size_t pooler_receive(Pooler *pooler, End *end, uint8_t **data)
{
    *data = pooler->buffer;
    while (!end->has_ended || end->tls == NULL) {
        ssize_t len = recv(end->fd, pooler->buffer, sizeof pooler->buffer, MSG_DONTWAIT);
        if (len < 0 && errno == EINTR)
            continue;
        if (len > 0) {
            /* Less than there was room for was all there was, unless the end stands behind it. */
            end->can_read = len == sizeof pooler->buffer || end->hangs_up || end->is_broken;
            if (end->tls == NULL)
                return (size_t)len;
            size_t plain = decrypt(pooler, end, (size_t)len, data);
            if (plain > 0)
                return plain;
            if (end->can_read)
                continue;
            return 0;
        }
        end->can_read = false;
        bool is_nothing_now = len < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
        if (!is_nothing_now || end->is_broken)
            end->has_ended = true;
        /* TLS that ends without its own goodbye: anybody on the way could have made that end. */
        if (end->has_ended && (len < 0 || end->tls != NULL))
            end->is_broken = true;
        return 0;
    }
    end->can_read = false;
    return 0;
}

/* Sending */

void emit_begin(Pooler *pooler, End *to)
{
    pooler->to = to;
    pooler->parts_len = 0;
    pooler->arena_len = 0;
}

bool emit_flush(Pooler *pooler)
{
    bool is_sent = end_write(pooler->to, pooler->parts, pooler->parts_len);
    pooler->parts_len = 0;
    pooler->arena_len = 0;
    return is_sent;
}

void emit(Pooler *pooler, const void *bytes, size_t len)
{
    if (len == 0)
        return;
    if (pooler->parts_len > 0) {
        struct iovec *last = &pooler->parts[pooler->parts_len - 1];
        if ((const uint8_t *)last->iov_base + last->iov_len == bytes) {
            last->iov_len += len;
            return;
        }
    }
    if (pooler->parts_len == POOL_PARTS_MAX)
        emit_flush(pooler);
    pooler->parts[pooler->parts_len++] = (struct iovec){.iov_base = (void *)bytes, .iov_len = len};
}

void emit_copy(Pooler *pooler, const void *bytes, size_t len)
{
    if (pooler->arena_len + len > POOL_ARENA_BYTES || pooler->parts_len == POOL_PARTS_MAX)
        emit_flush(pooler);
    if (len > POOL_ARENA_BYTES) {
        emit(pooler, bytes, len);
        emit_flush(pooler);
        return;
    }
    uint8_t *at = pooler->arena + pooler->arena_len;
    memcpy(at, bytes, len);
    pooler->arena_len += len;
    emit(pooler, at, len);
}

/* Serving */

static void serve(Party *party)
{
    if (party->kind == PARTY_CLIENT)
        pool_client_serve((PoolClient *)party);
    else if (party->kind == PARTY_SERVER)
        pool_server_serve((PoolServer *)party);
    else
        pool_serve((Pool *)party);
}

static void turned(Reactor *reactor)
{
    Pooler *pooler = (Pooler *)reactor;
    pooler->now_ms = reactor_now_ms();
    if (pooler->now_ms < pooler->tick_at_ms)
        return;
    pooler->tick_at_ms = pooler->now_ms + TICK_MS;
    for (uint32_t i = 0; i < reactor->parties_len; i++)
        if (reactor->parties[i] != NULL && reactor->parties[i]->kind == PARTY_POOL)
            pool_tick((Pool *)reactor->parties[i], pooler->now_ms);
}

/* Its life */

static const Trade POOLING = {
    .name = "endpointd pool",
    .tick_ms = TICK_MS,
    .serve = serve,
    .tell = tell,
    .settle = settle,
    .free = free_party,
    .turned = turned,
};

Pooler *pooler_open(void)
{
    return reactor_new(sizeof(Pooler), &POOLING);
}

void pooler_close(Pooler *pooler)
{
    reactor_close(&pooler->reactor);
    frames_free(&pooler->frames);
    buffer_free(&pooler->sealed);
    buffer_free(&pooler->plain);
    statements_free(&pooler->statements);
    verdicts_free(&pooler->verdicts);
    free(pooler);
}
