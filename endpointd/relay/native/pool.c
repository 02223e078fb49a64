#include <stdlib.h>
#include <string.h>

#include "pooler.h"

enum { LINGER_SERVER_MS = 1000 };

static const uint8_t TERMINATE_MESSAGE[] = {'X', 0, 0, 0, 4};
static const uint8_t SYNC_MESSAGE[] = {'S', 0, 0, 0, 4};

/* Servers */

static void leave_idle(PoolServer *server)
{
    Pool *pool = server->pool;
    if (!server->is_idle)
        return;
    server->is_idle = false;
    pool->idle--;
    if (server->next != NULL)
        server->next->previous = server->previous;
    else
        pool->idle_last = server->previous;
    if (server->previous != NULL)
        server->previous->next = server->next;
    else
        pool->idle_first = server->next;
    server->next = server->previous = NULL;
}

static void enter_idle(PoolServer *server)
{
    Pool *pool = server->pool;
    server->is_idle = true;
    server->idle_since_ms = reactor_now_ms();
    pool->idle++;
    server->next = pool->idle_first;
    if (pool->idle_first != NULL)
        pool->idle_first->previous = server;
    else
        pool->idle_last = server;
    pool->idle_first = server;
}

static void die(PoolServer *server)
{
    Pool *pool = server->pool;
    if (server->is_dead)
        return;
    leave_idle(server);
    server->is_dead = true;
    pool->servers--;
    end_close(&server->end);
    if (!end_is_closed(&server->end))
        deadlines_add(&pool->pooler->reactor.lingering, &server->end, reactor_now_ms() + LINGER_SERVER_MS);
    reactor_tell(&pool->pooler->reactor, &server->party, NEWS_SERVER_GONE);
    reactor_ready(&pool->pooler->reactor, &pool->party);
}

static void tell_to_end(PoolServer *server)
{
    end_write(&server->end, &(struct iovec){(void *)TERMINATE_MESSAGE, sizeof TERMINATE_MESSAGE}, 1);
}

/* Close it as a client would whose transaction is over. */
static void say_goodbye(PoolServer *server)
{
    tell_to_end(server);
    die(server);
}

void pool_server_let_end(PoolServer *server)
{
    if (server->is_told_to_end)
        return;
    server->is_told_to_end = server->is_retired = true;
    tell_to_end(server);
}

static void give(PoolServer *server, PoolClient *client)
{
    leave_idle(server);
    server->client = client;
    client->server = server;
    client->transactions++;
}

/* A server that no client has: what becomes of it. */
static void free_up(PoolServer *server)
{
    Pool *pool = server->pool;
    if (server->is_dead || server->client != NULL || server->cancels > 0)
        return;
    bool is_old = pool->age_max_ms > 0 && pool->pooler->now_ms - server->since_ms > pool->age_max_ms;
    if (server->end.is_broken || server->end.has_ended || server->end.hangs_up) {
        die(server);
    } else if (server->is_retired || pool->is_closed || is_old || pool->servers > pool->size_max) {
        say_goodbye(server);
    } else if (server->was_cancelled) {
        /* The request may have been felt by nobody yet.  Whoever answers this has. */
        server->was_cancelled = false;
        server->is_settling = true;
        scanner_init(&server->scanner, "", "Z");
        end_write(&server->end, &(struct iovec){(void *)SYNC_MESSAGE, sizeof SYNC_MESSAGE}, 1);
    } else if (!server->is_settling && !server->is_paused && !server->is_idle) {
        enter_idle(server);
        if (pool->waiting_first != NULL)
            pool_serve(pool);
    }
}

/* What a server says that no client has. */
static void unasked(PoolServer *server, const uint8_t *data, size_t len)
{
    Frames *frames = &server->pool->pooler->frames;
    if (!server->is_settling || scanner_feed(&server->scanner, data, len, frames) != SCAN_OK) {
        die(server); /* a reason to leave, or parameters that have changed */
        return;
    }
    if (frames->len == 0 || !scanner_at_boundary(&server->scanner))
        return;
    const Frame *last = &frames->at[frames->len - 1];
    server->is_settling = false;
    scanner_free(&server->scanner);
    server->is_retired = server->is_retired || last->payload_len != 1 || last->payload[0] != 'I';
    free_up(server);
}

void pool_server_serve(PoolServer *server)
{
    End *end = &server->end;
    if (server->client != NULL) {
        pool_client_serve(server->client);
        return;
    }
    end_flush(end);
    Pooler *pooler = server->pool->pooler;
    while (end->can_read && server->client == NULL && !server->is_dead && !end_is_closed(end)) {
        uint8_t *data;
        size_t len = pooler_receive(pooler, end, &data);
        if (len > 0)
            unasked(server, data, len);
        if (end->has_ended && server->client == NULL)
            die(server);
    }
    if (server->client == NULL)
        free_up(server);
}

void pool_server_kill(PoolServer *server)
{
    server->is_retired = true;
    if (server->client != NULL)
        pool_client_stop(server->client, NEWS_SERVER_ENDED);
    else if (!server->is_dead)
        say_goodbye(server);
}

void pool_server_retire(PoolServer *server)
{
    server->is_retired = true;
    free_up(server);
}

void pool_server_pause(PoolServer *server, bool is_paused)
{
    server->is_paused = is_paused;
    if (server->client != NULL)
        reactor_ready(&server->pool->pooler->reactor, &server->client->party);
    else if (is_paused)
        leave_idle(server);
    else
        free_up(server);
}

void pool_server_cancel_begins(PoolServer *server)
{
    server->cancels++;
}

void pool_server_cancel_ended(PoolServer *server, bool is_over)
{
    server->cancels--;
    server->was_cancelled = true;
    if (!is_over)
        server->is_retired = true; /* it may be felt at any time */
    if (server->client != NULL)
        reactor_ready(&server->pool->pooler->reactor, &server->client->party);
    else
        free_up(server);
}

void pool_server_free(PoolServer *server)
{
    end_close_now(&server->end);
    prepared_free(&server->prepared);
    scanner_free(&server->scanner);
    free(server);
}

/* Clients and servers */

static void enqueue(PoolClient *client)
{
    Pool *pool = client->pool;
    client->is_waiting = true;
    client->waiting_since_ms = reactor_now_ms();
    client->next = NULL;
    client->previous = pool->waiting_last;
    if (pool->waiting_last != NULL)
        pool->waiting_last->next = client;
    else
        pool->waiting_first = client;
    pool->waiting_last = client;
    pool->waiting++;
}

void pool_stop_waiting(PoolClient *client)
{
    Pool *pool = client->pool;
    if (!client->is_waiting)
        return;
    client->is_waiting = false;
    pool->waiting--;
    if (client->next != NULL)
        client->next->previous = client->previous;
    else
        pool->waiting_last = client->previous;
    if (client->previous != NULL)
        client->previous->next = client->next;
    else
        pool->waiting_first = client->next;
    client->next = client->previous = NULL;
}

static void ask_for_servers(Pool *pool)
{
    uint32_t before = pool->asked;
    while (!pool->is_closed && pool->dialled < pool->waiting && pool->servers + pool->dialled < pool->size_max) {
        pool->dialled++;
        pool->asked++;
    }
    if (pool->asked > before)
        reactor_tell(&pool->pooler->reactor, &pool->party, NEWS_WANTS_SERVER);
}

bool pool_attach(PoolClient *client)
{
    Pool *pool = client->pool;
    if (client->server != NULL)
        return true;
    if (client->is_waiting)
        return false;
    if (pool->waiting_first == NULL && pool->idle_first != NULL) {
        give(pool->idle_first, client);
        return true;
    }
    enqueue(client);
    ask_for_servers(pool);
    return false;
}

void pool_serve(Pool *pool)
{
    while (pool->waiting_first != NULL && pool->idle_first != NULL) {
        PoolClient *client = pool->waiting_first;
        pool->counts.waits++;
        pool->counts.waited_ms += (uint64_t)(reactor_now_ms() - client->waiting_since_ms);
        pool_stop_waiting(client);
        give(pool->idle_first, client);
        reactor_ready(&pool->pooler->reactor, &client->party);
    }
    ask_for_servers(pool);
}

void pool_settle(Pool *pool)
{
    if (pool->is_closed && pool->parties == 0 && !pool->party.has_news && !pool->party.is_ready)
        reactor_bury(&pool->pooler->reactor, &pool->party);
}

static PoolServer *take_server(PoolClient *client)
{
    PoolServer *server = client->server;
    expected_clear(client);
    client->server = NULL;
    server->client = NULL;
    return server;
}

void pool_detach(PoolClient *client)
{
    PoolServer *server = take_server(client);
    if (server->end.can_read) /* nobody will be told of that again */
        reactor_ready(&server->pool->pooler->reactor, &server->party);
    free_up(server);
}

void pool_abandon(PoolClient *client)
{
    bool is_idle = safepoint_doing(&client->point) != DOING_BUSY;
    PoolServer *server = take_server(client);
    if (is_idle && !server->end.has_ended)
        say_goodbye(server);
    else
        die(server);
}

void pool_dial_failed(Pool *pool)
{
    if (pool->dialled > 0)
        pool->dialled--;
    reactor_ready(&pool->pooler->reactor, &pool->party);
}

void pool_bury(Pool *pool, Party *party)
{
    if (party->is_buried)
        return;
    pool->parties--;
    reactor_bury(&pool->pooler->reactor, party);
    reactor_ready(&pool->pooler->reactor, &pool->party);
}

void pool_tick(Pool *pool, int64_t now_ms)
{
    while (pool->wait_max_ms > 0 && pool->waiting_first != NULL &&
           now_ms - pool->waiting_first->waiting_since_ms >= pool->wait_max_ms) {
        PoolClient *client = pool->waiting_first;
        pool_stop_waiting(client);
        pool_client_stop(client, NEWS_WAITED_TOO_LONG);
    }
    while (pool->idle_max_ms > 0 && pool->idle_last != NULL && pool->servers > pool->idle_min &&
           now_ms - pool->idle_last->idle_since_ms >= pool->idle_max_ms)
        say_goodbye(pool->idle_last);
    while (pool->age_max_ms > 0 && pool->idle_last != NULL && now_ms - pool->idle_last->since_ms >= pool->age_max_ms)
        say_goodbye(pool->idle_last);
}

void pool_close(Pool *pool)
{
    pool->is_closed = true;
    while (pool->idle_first != NULL)
        say_goodbye(pool->idle_first);
    reactor_ready(&pool->pooler->reactor, &pool->party);
}
