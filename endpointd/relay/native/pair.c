#include "pair.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "engine.h"

/* What is told */

static void tell(Pair *pair, unsigned news)
{
    if (!pair->is_dropped || news == NEWS_GONE)
        reactor_tell(&pair->engine->reactor, &pair->party, news);
}

static void ready(Pair *pair)
{
    reactor_ready(&pair->engine->reactor, &pair->party);
}

Telling tell_text(Reactor *reactor, Party *party, SafePoint *point, Text **text)
{
    *text = safepoint_take_text(point);
    reactor_ready(reactor, party);
    return *text == NULL ? NOTHING_TO_TELL : point->texts != NULL ? TOLD_IN_PART : TOLD;
}

Telling pair_tell(Reactor *reactor, Party *party, uint32_t news, uint64_t *number, Text **text)
{
    (void)number; /* none of them has one */
    return news == NEWS_TEXT ? tell_text(reactor, party, &((Pair *)party)->point, text) : TOLD;
}

static void stop(Pair *pair, unsigned why)
{
    if (pair->is_stopped)
        return;
    pair->is_stopped = true;
    tell(pair, why);
}

static void pause_if_safe(Pair *pair)
{
    if (pair->is_paused)
        return;
    if (pair->point.is_streaming) {
        tell(pair, NEWS_STREAMING);
    } else if (safepoint_doing(&pair->point) == DOING_IDLE) {
        pair->is_paused = true;
        tell(pair, NEWS_PAUSED);
    }
}

/* From the client to the server */

static const uint8_t TERMINATE[] = {'X', 0, 0, 0, 4};

static void from_client(Pair *pair, const uint8_t *data, size_t len)
{
    SafePoint *point = &pair->point;
    bool leaves_server = pair->keeps_server && len == sizeof TERMINATE && memcmp(data, TERMINATE, len) == 0 &&
                         safepoint_doing(point) == DOING_IDLE;
    if (safepoint_client_sent(point, data, len, &pair->engine->frames) != SCAN_OK) {
        stop(pair, NEWS_CLIENT_NOT_UNDERSTOOD);
        return;
    }
    if (point->texts != NULL)
        tell(pair, NEWS_TEXT);
    if (leaves_server) {
        stop(pair, NEWS_CLIENT_ENDED);
        return;
    }
    pair->goodbye_is_known = point->client_terminated;
    pair->to_server_bytes += len;
    /* If that breaks the server may have said why: its end is told when it was read to the end. */
    end_write(&pair->server, &(struct iovec){.iov_base = (void *)data, .iov_len = len}, 1);
}

static void client_ended(Pair *pair)
{
    pair->client.has_ended = true;
    if (pair->is_stopped)
        return;
    if (safepoint_doing(&pair->point) == DOING_BUSY) {
        pair->goodbye_is_known = true;
        end_say_no_more(&pair->server);
        return;
    }
    stop(pair, NEWS_CLIENT_ENDED);
}

/* From the server to the client: in whole messages, so that an error can be put between two of them */

static void write_to_client(Pair *pair, const uint8_t *data, size_t len)
{
    struct iovec parts[] = {
        {.iov_base = pair->tail.at, .iov_len = pair->tail.len},
        {.iov_base = (void *)data, .iov_len = len},
    };
    pair->to_client_bytes += pair->tail.len + len;
    if (!end_write(&pair->client, parts, 2)) {
        pair->client.has_ended = true;
        stop(pair, NEWS_CLIENT_ENDED);
    }
    bytes_free(&pair->tail);
}

static void pass_on_whole_messages(Pair *pair, const uint8_t *data, size_t len)
{
    const Scanner *scanner = &pair->point.server;
    size_t whole = scanner->boundary > 0 ? (size_t)scanner->boundary : 0;
    if (whole > 0) {
        write_to_client(pair, data, whole);
        pair->client_is_mid_message = false;
    } else if (pair->client_is_mid_message) {
        write_to_client(pair, data, len);
        return;
    }
    if (pair->tail.len + (len - whole) + scanner->skip > HELD_BYTES_MAX) {
        write_to_client(pair, data + whole, len - whole);
        pair->client_is_mid_message = true;
    } else if (!bytes_append(&pair->tail, data + whole, len - whole)) {
        stop(pair, NEWS_SERVER_ENDED);
    }
}

/* Pass on what stands before the place from which nothing may reach the client. */
static void pass_on_until(Pair *pair, const uint8_t *data, int64_t place)
{
    if (place < 0) {
        int64_t left = (int64_t)pair->tail.len + place;
        pair->tail.len = left > 0 ? (uint32_t)left : 0;
        place = 0;
    }
    write_to_client(pair, data, (size_t)place);
}

static void from_server(Pair *pair, const uint8_t *data, size_t len)
{
    SafePoint *point = &pair->point;
    int64_t unconfirmed;
    if (safepoint_server_sent(point, data, len, &pair->engine->frames, &unconfirmed) != SCAN_OK) {
        stop(pair, NEWS_SERVER_ENDED);
        return;
    }
    if (unconfirmed != CONFIRMED) {
        pass_on_until(pair, data, unconfirmed);
        stop(pair, point->is_in_doubt ? NEWS_COMMIT_IN_DOUBT : NEWS_COMMIT_UNCONFIRMED);
        return;
    }
    if (point->server.boundary == (int64_t)len) {
        write_to_client(pair, data, len);
        pair->client_is_mid_message = false;
    } else {
        pass_on_whole_messages(pair, data, len);
    }
    if (pair->is_pausing && !pair->is_stopped)
        pause_if_safe(pair);
}

/* Reading */

static void deliver(Pair *pair, const End *from, const uint8_t *data, size_t len)
{
    if (from == &pair->client)
        from_client(pair, data, len);
    else
        from_server(pair, data, len);
}

static bool wants(const Pair *pair, const End *from)
{
    if (end_is_closed(from) || from->has_ended || from->is_closing)
        return false;
    if (from->is_finishing)
        return true;
    if (pair->is_stopped)
        return false;
    if (from == &pair->server)
        return pair->client.out_len == 0;
    return !pair->is_paused && pair->server.out_len == 0 && pair->point.texts_bytes < TEXTS_BYTES_MAX;
}

static void ended(Pair *pair, End *from)
{
    from->can_read = false;
    if (from->is_finishing) {
        from->has_ended = true;
        end_close(from);
    } else if (from == &pair->client) {
        client_ended(pair);
    } else {
        from->has_ended = true;
        stop(pair, NEWS_SERVER_ENDED);
    }
}

static void failed(Pair *pair, End *from)
{
    from->can_read = false;
    from->has_ended = from->is_broken = true;
    if (from->is_finishing)
        end_close_now(from);
    else
        stop(pair, from == &pair->client ? NEWS_CLIENT_ENDED : NEWS_SERVER_ENDED);
}

/* Take what came from the network. */
static void take_in(Pair *pair, End *from, const uint8_t *data, size_t len)
{
    if (from->tls == NULL) {
        deliver(pair, from, data, len);
        return;
    }
    Buffer *plain = &pair->engine->plain;
    TlsState state = end_open(from, data, len, plain);
    if (plain->len > 0)
        deliver(pair, from, plain->bytes, plain->len);
    if (state == TLS_ENDED)
        ended(pair, from);
    else if (state == TLS_BROKEN)
        failed(pair, from);
}

static void read_some(Pair *pair, End *from)
{
    Engine *engine = pair->engine;
    for (int reads = 0; reads < READS_PER_TURN && from->can_read && wants(pair, from);) {
        ssize_t len = recv(from->fd, engine->buffer, sizeof engine->buffer, MSG_DONTWAIT);
        if (len < 0 && errno == EINTR)
            continue;
        reads++;
        if (len > 0) {
            /* Less than there was room for was all there was, unless the end stands behind it. */
            from->can_read = len == sizeof engine->buffer || from->hangs_up || from->is_broken;
            if (!from->is_finishing)
                take_in(pair, from, engine->buffer, (size_t)len);
        } else if (len == 0 && from->tls != NULL && !from->is_finishing) {
            failed(pair, from); /* without TLS's own goodbye: anybody on the way could have made that end */
        } else if (len == 0) {
            ended(pair, from);
        } else if (errno != EAGAIN && errno != EWOULDBLOCK) {
            failed(pair, from);
        } else {
            from->can_read = false;
            if (from->is_broken)
                ended(pair, from);
        }
    }
}

void pair_settle(Party *party)
{
    Pair *pair = (Pair *)party;
    if (!pair->is_dropped)
        return;
    if (end_is_closed(&pair->client) && !pair->is_gone) {
        pair->is_gone = true;
        tell(pair, NEWS_GONE);
    }
    if (end_is_closed(&pair->client) && end_is_closed(&pair->server) && !party->has_news && !party->is_ready)
        reactor_bury(&pair->engine->reactor, party);
}

void pair_serve(Party *party)
{
    Pair *pair = (Pair *)party;
    if (!end_flush(&pair->client)) {
        pair->client.has_ended = true;
        stop(pair, NEWS_CLIENT_ENDED);
    }
    end_flush(&pair->server);
    read_some(pair, &pair->client);
    read_some(pair, &pair->server);
    if (pair->client.has_ended && pair->client.is_gone && !pair->client.is_broken && !pair->client.is_finishing)
        failed(pair, &pair->client); /* it had said that it says no more: that is not read any longer */
    if ((pair->client.can_read && wants(pair, &pair->client)) || (pair->server.can_read && wants(pair, &pair->server)))
        ready(pair);
}

/* An owner's words */

void pair_start(Pair *pair, Slice welcome, Slice server_rest, Slice client_rest)
{
    /* Our own words, of a login: they are none of what the session's state follows from.  If that breaks its end is read. */
    if (welcome.len > 0)
        end_write(&pair->client, &(struct iovec){.iov_base = (void *)welcome.at, .iov_len = welcome.len}, 1);
    if (server_rest.len > 0)
        from_server(pair, server_rest.at, server_rest.len);
    if (client_rest.len > 0 && !pair->is_stopped)
        from_client(pair, client_rest.at, client_rest.len);
}

void pair_pause(Pair *pair)
{
    if (pair->is_stopped)
        return;
    pair->is_pausing = true;
    pause_if_safe(pair);
}

void pair_resume(Pair *pair)
{
    pair->is_pausing = pair->is_paused = false;
    pair->party.news &= ~(uint32_t)(NEWS_PAUSED | NEWS_STREAMING);
    ready(pair);
}

void pair_halt(Pair *pair)
{
    pair->is_stopped = true;
}

void pair_drop(Pair *pair, Slice farewell)
{
    pair_halt(pair);
    if (farewell.len > 0 && !pair->client_is_mid_message)
        end_write(&pair->client, &(struct iovec){.iov_base = (void *)farewell.at, .iov_len = farewell.len}, 1);
    reactor_let_finish(&pair->engine->reactor, &pair->client);
    reactor_let_leave(&pair->engine->reactor, &pair->server);
    pair->is_dropped = true;
    pair->party.news = 0;
    safepoint_free(&pair->point);
    ready(pair);
}

void pair_close_server(Pair *pair)
{
    if (!pair->server.is_closing)
        reactor_let_leave(&pair->engine->reactor, &pair->server);
}

int pair_take_server(Pair *pair)
{
    End *server = &pair->server;
    bool is_open = !end_is_closed(server) && !server->has_ended && !server->is_broken && !server->is_closing &&
                   !server->says_no_more && !server->hangs_up;
    bool is_clean = safepoint_doing(&pair->point) == DOING_IDLE && pair->tail.len == 0 && server->out_len == 0;
    if (!pair->keeps_server || !pair->is_stopped || pair->is_dropped || pair->goodbye_is_known || !is_open || !is_clean)
        return -1;
    return end_give_away(server);
}

Facts pair_facts(const Pair *pair)
{
    const SafePoint *point = &pair->point;
    return (Facts){
        .to_server_bytes = pair->to_server_bytes,
        .to_client_bytes = pair->to_client_bytes,
        .held_bytes = (uint64_t)pair->tail.len + pair->client.out_len + pair->server.out_len,
        .doing = safepoint_doing(point),
        .is_awaited = point->outstanding.len > 0,
        .is_streaming = point->is_streaming,
        .may_have_committed = safepoint_may_have_committed(point),
        .client_terminated = point->client_terminated,
        .client_has_ended = pair->client.has_ended,
        .server_said_goodbye = point->server_said_goodbye,
    };
}

void pair_free(Party *party)
{
    Pair *pair = (Pair *)party;
    end_close_now(&pair->client);
    end_close_now(&pair->server);
    bytes_free(&pair->tail);
    safepoint_free(&pair->point);
    free(pair);
}
