#include <stdlib.h>
#include <string.h>

#include "poolmessages.h"

static void tell(PoolClient *client, uint32_t news)
{
    if (!client->is_dropped || news == NEWS_GONE)
        reactor_tell(&client->pool->pooler->reactor, &client->party, news);
}

void pool_client_stop(PoolClient *client, uint32_t why)
{
    if (client->is_stopped)
        return;
    client->is_stopped = true;
    pool_stop_waiting(client);
    tell(client, why);
}

/* Whether all that it has said was passed on, but for a message that will never be whole. */
static bool has_said_all(const PoolClient *client)
{
    return client->in.len == 0 || client->needs_more;
}

void pool_client_look(PoolClient *client)
{
    if (client->is_stopped)
        return;
    Doing doing = safepoint_doing(&client->point);
    PoolServer *server = client->server;
    if (server != NULL && doing == DOING_IDLE && client->pinned == 0 && server->cancels == 0 && client->tail.len == 0 &&
        !client->is_mid_message) {
        pool_detach(client);
        server = NULL;
    } else if (doing != DOING_BUSY && client->expected.len > 0) {
        expected_clear(client); /* everything is answered */
    }
    bool is_leaving = client->point.client_terminated || (client->end.has_ended && has_said_all(client));
    bool is_awaited = server != NULL && doing == DOING_BUSY && client->point.outstanding.len > 0 && !client->point.copying_in;
    if (is_leaving && is_awaited) /* perhaps in vain, as for what stands behind an error */
        pool_server_let_end(server);
    if (is_leaving && !is_awaited && !client->is_waiting && !client->is_asking) {
        pool_client_stop(client, NEWS_CLIENT_ENDED);
    } else if (client->is_pausing && !client->is_paused) {
        if (client->point.is_streaming) {
            tell(client, NEWS_STREAMING);
        } else if (server == NULL || doing == DOING_IDLE) {
            client->is_paused = true;
            pool_stop_waiting(client);
            tell(client, NEWS_PAUSED);
        }
    }
}

/* What it says */

static void take_kept(PoolClient *client)
{
    Bytes *in = &client->in;
    size_t taken = take_messages(client, in->at, in->len);
    in->len -= (uint32_t)taken;
    if (in->len == 0)
        bytes_free(in);
    else if (taken > 0)
        memmove(in->at, in->at + taken, in->len);
}

static void from_client(PoolClient *client, const uint8_t *data, size_t len)
{
    bool is_kept = true;
    if (client->in.len > 0) {
        is_kept = bytes_append(&client->in, data, len);
        if (is_kept)
            take_kept(client);
    } else {
        size_t taken = take_messages(client, data, len);
        if (taken < len)
            is_kept = bytes_append(&client->in, data + taken, len - taken);
    }
    if (!is_kept)
        pool_client_stop(client, NEWS_LIMIT);
    pool_client_look(client);
}

/* Whether what it said already can be passed on. */
static bool can_go_on(const PoolClient *client)
{
    return client->in.len > 0 && !client->needs_more && !client->is_waiting && !client->is_asking && !client->is_stopped &&
           !client->is_paused && !client->point.client_terminated && !(client->needs_answers && client->expected.risky > 0) &&
           (client->server == NULL || client->server->end.out_len == 0);
}

void pool_client_go_on(PoolClient *client)
{
    if (!can_go_on(client))
        return;
    take_kept(client);
    pool_client_look(client);
}

Slice pool_client_question(const PoolClient *client)
{
    Slice rest = {client->in.at, client->in.len};
    if (!client->is_asking || rest.len < HEADER_BYTES)
        return (Slice){client->in.at, 0};
    uint8_t kind = rest.at[0];
    uint32_t length = (uint32_t)rest.at[1] << 24 | (uint32_t)rest.at[2] << 16 | (uint32_t)rest.at[3] << 8 | rest.at[4];
    rest.at += HEADER_BYTES;
    rest.len = length - 4 < rest.len - HEADER_BYTES ? length - 4 : rest.len - HEADER_BYTES;
    if (kind == 'P')
        slice_string(&rest);
    return slice_string(&rest);
}

/* Reading */

static bool wants_client(const PoolClient *client)
{
    const End *end = &client->end;
    const PoolServer *server = client->server;
    if (end_is_closed(end) || end->has_ended || end->is_closing)
        return false;
    if (end->is_finishing)
        return true;
    if (client->is_stopped || client->is_paused || client->is_waiting || client->is_asking || client->point.client_terminated ||
        client->point.texts_bytes >= TEXTS_BYTES_MAX || (client->in.len > 0 && !client->needs_more))
        return false;
    if (server == NULL)
        return true;
    if (server->is_paused && safepoint_doing(&client->point) == DOING_IDLE)
        return false;
    return server->end.out_len == 0;
}

static bool wants_server(const PoolClient *client)
{
    const PoolServer *server = client->server;
    return server != NULL && !client->is_stopped && client->end.out_len == 0 && !end_is_closed(&server->end);
}

static void client_ended(PoolClient *client)
{
    End *end = &client->end;
    if (end->is_finishing) {
        end_close(end);
        return;
    }
    if (end->is_broken)
        pool_client_stop(client, NEWS_CLIENT_ENDED);
    pool_client_look(client);
}

static void read_client(PoolClient *client)
{
    End *end = &client->end;
    for (int reads = 0; reads < READS_PER_TURN && end->can_read && wants_client(client); reads++) {
        uint8_t *data;
        bool had_ended = end->has_ended;
        size_t len = pooler_receive(client->pool->pooler, end, &data);
        if (len > 0 && !end->is_finishing)
            from_client(client, data, len);
        if (end->has_ended && !had_ended)
            client_ended(client);
    }
}

static void read_server(PoolClient *client)
{
    for (int reads = 0; reads < READS_PER_TURN && wants_server(client) && client->server->end.can_read; reads++) {
        End *end = &client->server->end;
        uint8_t *data;
        size_t len = pooler_receive(client->pool->pooler, end, &data);
        if (len > 0) {
            pool_client_from_server(client, data, len);
            pool_client_look(client);
        }
        if (end->has_ended && client->server != NULL && &client->server->end == end)
            pool_client_stop(client, NEWS_SERVER_ENDED);
    }
}

void pool_client_serve(PoolClient *client)
{
    if (!end_flush(&client->end)) {
        client->end.has_ended = true;
        pool_client_stop(client, NEWS_CLIENT_ENDED);
    }
    if (client->server != NULL)
        end_flush(&client->server->end);
    pool_client_go_on(client);
    read_client(client);
    read_server(client);
    pool_client_look(client);
    bool can_read = (client->end.can_read && wants_client(client)) || can_go_on(client) ||
                    (wants_server(client) && client->server->end.can_read);
    if (can_read)
        reactor_ready(&client->pool->pooler->reactor, &client->party);
}

/* An owner's words */

void pool_client_pause(PoolClient *client)
{
    client->is_pausing = true;
    pool_client_look(client);
}

void pool_client_resume(PoolClient *client)
{
    client->is_pausing = client->is_paused = false;
    client->party.news &= ~(uint32_t)(NEWS_PAUSED | NEWS_STREAMING);
    reactor_ready(&client->pool->pooler->reactor, &client->party);
}

void pool_client_halt(PoolClient *client)
{
    client->is_stopped = true;
    pool_stop_waiting(client);
}

void pool_client_cancel_waiting(PoolClient *client)
{
    if (!client->is_waiting || client->is_stopped)
        return;
    pool_stop_waiting(client);
    client->is_cancelled = true;
    reactor_ready(&client->pool->pooler->reactor, &client->party);
}

int64_t pool_client_waited_ms(const PoolClient *client)
{
    return reactor_now_ms() - client->waiting_since_ms;
}

void pool_client_close_server(PoolClient *client)
{
    if (client->server != NULL && client->is_paused)
        pool_abandon(client);
}

static void release_server(PoolClient *client)
{
    const PoolServer *server = client->server;
    if (server == NULL)
        return;
    bool is_clean = client->pinned == 0 && safepoint_doing(&client->point) == DOING_IDLE && client->tail.len == 0 &&
                    !client->is_mid_message && server->end.out_len == 0;
    if (is_clean)
        pool_detach(client);
    else
        pool_abandon(client);
}

void pool_client_drop(PoolClient *client, Slice farewell)
{
    pool_client_halt(client);
    if (farewell.len > 0 && !client->is_mid_message)
        end_write(&client->end, &(struct iovec){(void *)farewell.at, farewell.len}, 1);
    release_server(client);
    reactor_let_finish(&client->pool->pooler->reactor, &client->end);
    client->is_dropped = true;
    client->is_asking = false;
    client->party.news = 0;
    client->pool->clients--;
    client->pool->pinned -= client->pinned != 0;
    safepoint_free(&client->point);
    reactor_ready(&client->pool->pooler->reactor, &client->party);
    reactor_ready(&client->pool->pooler->reactor, &client->pool->party);
}

void pool_client_settle(PoolClient *client)
{
    if (!client->is_dropped || !end_is_closed(&client->end))
        return;
    if (!client->is_gone) {
        client->is_gone = true;
        tell(client, NEWS_GONE);
    }
    if (!client->party.has_news && !client->party.is_ready)
        pool_bury(client->pool, &client->party);
}

Facts pool_client_facts(const PoolClient *client)
{
    const SafePoint *point = &client->point;
    bool waits = client->in.len > 0 && !client->needs_more;
    return (Facts){
        .to_server_bytes = client->to_server_bytes,
        .to_client_bytes = client->to_client_bytes,
        .held_bytes = (uint64_t)client->tail.len + client->in.len + client->end.out_len + client->unnamed_cap,
        .doing = client->server != NULL ? safepoint_doing(point) : DOING_IDLE,
        .is_awaited = point->outstanding.len > 0 || waits,
        .is_streaming = point->is_streaming,
        .may_have_committed = client->server != NULL && safepoint_may_have_committed(point),
        .client_terminated = point->client_terminated,
        .client_has_ended = client->end.has_ended,
        .server_said_goodbye = point->server_said_goodbye,
    };
}

void pool_client_free(PoolClient *client)
{
    end_close_now(&client->end);
    expected_clear(client);
    free(client->expected.at);
    names_free(&client->names);
    free(client->unnamed);
    free(client->forgetting);
    bytes_free(&client->in);
    bytes_free(&client->tail);
    safepoint_free(&client->point);
    free(client);
}
