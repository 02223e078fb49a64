/* What a server says to the client that has it, less what the client does not know that it was asked for. */
#include <stdlib.h>
#include <string.h>

#include "pooler.h"

/* Expected answers */

bool expect(PoolClient *client, Expected answer)
{
    ExpectedAnswers *expected = &client->expected;
    if (expected->begin + expected->len == expected->cap) {
        if (expected->begin > expected->cap / 2) {
            memmove(expected->at, expected->at + expected->begin, expected->len * sizeof *expected->at);
            expected->begin = 0;
        } else {
            uint32_t cap = expected->cap ? expected->cap * 2 : 8;
            Expected *grown = realloc(expected->at, cap * sizeof *grown);
            if (grown == NULL)
                return false;
            expected->at = grown;
            expected->cap = cap;
        }
    }
    if (answer.statement != NULL)
        statement_hold(answer.statement);
    if (answer.kind == 'Z') {
        answer.is_risky = expected->is_risky;
        expected->risky += answer.is_risky;
        expected->ends++;
        expected->is_risky = client->unnamed_is_new = client->is_open = client->has_executed = client->is_skipped = false;
    } else if (answer.kind == '1' || answer.closed != NULL || answer.is_swallowed || answer.is_flipped) {
        expected->is_risky = true;
    }
    expected->at[expected->begin + expected->len++] = answer;
    return true;
}

static Expected pop(ExpectedAnswers *expected)
{
    Expected first = expected->at[expected->begin++];
    expected->risky -= first.is_risky;
    expected->ends -= first.kind == 'Z';
    if (--expected->len == 0)
        expected->begin = 0;
    return first;
}

static void let_go(Expected *answer)
{
    if (answer->statement != NULL)
        statement_release(answer->statement);
    answer->statement = NULL;
    if (answer->closed != NULL)
        named_free_all(answer->closed);
    answer->closed = NULL;
}

void expected_clear(PoolClient *client)
{
    while (client->expected.len > 0) {
        Expected answer = pop(&client->expected);
        let_go(&answer);
    }
    client->expected.is_risky = client->is_open = client->has_executed = client->is_skipped = false;
    if (client->expected.cap > 16) {
        free(client->expected.at);
        client->expected = (ExpectedAnswers){0};
    }
}

void expected_swallowed(PoolClient *client)
{
    ExpectedAnswers *expected = &client->expected;
    Expected *at = expected->at + expected->begin;
    uint32_t left = client->point.swallowed, kept = 0;
    bool keeps_first = client->point.swallowed_behind_first;
    client->point.swallowed = 0;
    if (left == 0 || expected->len == 0)
        return;
    for (uint32_t i = 0; i < expected->len; i++) {
        if (at[i].kind == 'Z' && left > 0 && !keeps_first) {
            left--;
            expected->ends--;
            expected->risky -= at[i].is_risky;
            continue;
        }
        keeps_first = keeps_first && at[i].kind != 'Z';
        at[kept++] = at[i];
    }
    expected->len = kept;
}

static void undo_one(PoolClient *client, Expected *answer)
{
    PoolServer *server = client->server;
    if (answer->kind == '1' && answer->statement == NULL)
        server->unnamed_of = 0;
    else if (answer->kind == '1')
        prepared_remove(&server->prepared, answer->statement);
    else if (answer->kind == '3' && answer->is_swallowed && answer->statement != NULL)
        server->forgets = true; /* it was to be closed, and is not */
    if (answer->serial != 0) {
        names_undo(&client->names, answer->serial, answer->name_hash);
        if (answer->serial == client->unnamed_serial)
            client->has_unnamed = false;
    }
    if (answer->closed != NULL)
        names_put_all_back(&client->names, answer->closed);
    answer->closed = NULL;
}

/* The server does nothing of what stands before the next Sync. */
static void undo(PoolClient *client, Slice report)
{
    ExpectedAnswers *expected = &client->expected;
    uint32_t count = 0;
    while (count < expected->len && expected->at[expected->begin + count].kind != 'Z')
        count++;
    client->is_skipped = client->is_open && count == expected->len;
    for (uint32_t i = count; i > 0; i--) /* what was said last is undone first */
        undo_one(client, &expected->at[expected->begin + i - 1]);
    for (uint32_t i = 0; i < count; i++) {
        Expected answer = pop(expected);
        if (answer.kind == '2' && i == 0 && answer.statement != NULL && slice_has(report, "RevalidateCachedQuery"))
            statement_is_stale(answer.statement);
        let_go(&answer);
    }
}

/* DISCARD ALL was executed: what pinned the client is gone, unless that outlasts it.  The server is closed all the same. */
static void unpin(PoolClient *client)
{
    if (client->pinned == 0 || client->outlasts_discard || client->pins_since_discard)
        return;
    client->pinned = 0;
    client->pool->pinned--;
    client->server->is_retired = true;
}

static bool tells_of_change(Slice tag)
{
    return slice_begins(tag, "ALTER ") || slice_begins(tag, "CREATE ") || slice_begins(tag, "DROP ") ||
           slice_begins(tag, "COMMIT PREPARED");
}

/* What was prepared before a change of the schema PostgreSQL refuses to execute if its result has other columns since ("cached plan
 * must not change result type").  A client that prepares afterwards must not be given it.  Whoever prepares between the change
 * and its commit, elsewhere, has the old one still; so this is done at both. */
static void look_for_changes(PoolClient *client, const Frame *frame)
{
    if (frame->kind != 'C' && !(frame->kind == 'Z' && client->has_changed_schema))
        return;
    Slice payload = {frame->payload, frame->payload_len};
    bool is_change = frame->kind == 'C' && tells_of_change(payload);
    bool is_end = client->has_changed_schema && slice_begins(payload, frame->kind == 'C' ? "COMMIT" : "I");
    if (!is_change && !is_end)
        return;
    statements_are_stale(&client->pool->pooler->statements);
    client->has_changed_schema = is_change;
}

/* What is to become of an answer.  *first*: its first byte, if that can be changed still. */
typedef enum { PASSED, LEFT_OUT, DEALLOCATED_ONE, DEALLOCATED_ALL } Fate;

static Fate answered(PoolClient *client, const Frame *frame, uint8_t *first_byte)
{
    ExpectedAnswers *expected = &client->expected;
    Fate fate = PASSED;
    if (frame->kind == 'E') {
        undo(client, (Slice){frame->payload, frame->payload_len});
        expected_swallowed(client);
        return PASSED;
    }
    if (frame->kind == 'C' && !(expected->len > 0 && expected->at[expected->begin].kind == 'C'))
        return PASSED;
    if (frame->kind == 0 || strchr("ZC123", frame->kind) == NULL)
        return PASSED;
    for (bool is_it = false; expected->len > 0 && !is_it;) {
        Expected answer = pop(expected);
        is_it = answer.kind == frame->kind;
        if (is_it) {
            if (answer.is_swallowed)
                fate = LEFT_OUT;
            if (answer.is_flipped && first_byte != NULL)
                *first_byte = '1';
            if (answer.forgets == DISCARDS_ALL)
                unpin(client);
            else if (answer.forgets != FORGETS_NOTHING)
                fate = answer.forgets == FORGETS_ALL ? DEALLOCATED_ALL : DEALLOCATED_ONE;
        }
        let_go(&answer);
    }
    return fate;
}

/* Passing on */

/* What is sent stands at places of the chunk; negative ones are in the tail. */
static void pass(PoolClient *client, const uint8_t *data, int64_t from, int64_t to)
{
    Pooler *pooler = client->pool->pooler;
    if (from < 0 && to > from) {
        int64_t until = to < 0 ? to : 0;
        emit(pooler, client->tail.at + client->tail.len + from, (size_t)(until - from));
        client->to_client_bytes += (uint64_t)(until - from);
        from = until;
    }
    if (to > from) {
        emit(pooler, data + from, (size_t)(to - from));
        client->to_client_bytes += (uint64_t)(to - from);
    }
}

/* Instead of an answer. */
static void say(PoolClient *client, Fate fate)
{
    static const uint8_t one[] = "C\0\0\0\017DEALLOCATE", all[] = "C\0\0\0\023DEALLOCATE ALL";
    if (fate == LEFT_OUT)
        return;
    size_t len = fate == DEALLOCATED_ALL ? sizeof all : sizeof one;
    emit_copy(client->pool->pooler, fate == DEALLOCATED_ALL ? all : one, len);
    client->to_client_bytes += len;
}

static void flush(PoolClient *client)
{
    if (!emit_flush(client->pool->pooler)) {
        client->end.has_ended = true;
        pool_client_stop(client, NEWS_CLIENT_ENDED);
    }
}

/* Where the last ReadyForQuery among *frames* ends; if there is none, beyond all that can be there. */
static int64_t end_of_answers(const Frames *frames)
{
    for (size_t i = frames->len; i > 0; i--)
        if (frames->at[i - 1].kind == 'Z')
            return frames->at[i - 1].end;
    return INT64_MAX;
}

void pool_client_from_server(PoolClient *client, uint8_t *data, size_t len)
{
    Pooler *pooler = client->pool->pooler;
    SafePoint *point = &client->point;
    Frames *frames = &pooler->frames;
    int64_t unconfirmed;
    if (safepoint_server_sent(point, data, len, frames, &unconfirmed) != SCAN_OK) {
        pool_client_stop(client, NEWS_SERVER_ENDED);
        return;
    }
    int64_t whole = point->server.boundary, from = -(int64_t)client->tail.len;
    int64_t until = unconfirmed != CONFIRMED ? unconfirmed : whole;
    emit_begin(pooler, &client->end);
    for (size_t i = 0; i < frames->len && (client->expected.len > 0 || client->is_open); i++) {
        const Frame *frame = &frames->at[i];
        look_for_changes(client, frame);
        int64_t in_tail = (int64_t)client->tail.len + frame->begin;
        uint8_t *first = frame->begin >= 0 ? data + frame->begin : in_tail >= 0 ? client->tail.at + in_tail : NULL;
        Fate fate = answered(client, frame, first);
        if (fate != PASSED && frame->end <= until) {
            pass(client, data, from, frame->begin);
            say(client, fate);
            from = frame->end;
        }
    }
    point->swallowed = 0;
    if (unconfirmed != CONFIRMED) {
        pass(client, data, from, until);
        flush(client);
        pool_client_stop(client, point->is_in_doubt ? NEWS_COMMIT_IN_DOUBT : NEWS_COMMIT_UNCONFIRMED);
        return;
    }
    int64_t answered_until = end_of_answers(frames);
    if (client->pinned == 0 && safepoint_doing(point) == DOING_IDLE && answered_until < whole) {
        /* What the server says unasked is not for a client that has it no longer: it says why it ends, as a rule. */
        client->server->is_retired = true;
        pass(client, data, from, answered_until);
        flush(client);
        client->is_mid_message = false;
        bytes_free(&client->tail);
        return;
    }
    bool is_too_long = (uint64_t)((int64_t)len - whole) + client->tail.len + point->server.skip > HELD_BYTES_MAX;
    bool goes_on = whole == 0 && (client->is_mid_message || is_too_long);
    if (whole > 0) {
        client->is_mid_message = false;
        goes_on = is_too_long && (int64_t)len > whole;
    }
    if (goes_on) {
        pass(client, data, from, (int64_t)len);
        client->is_mid_message = true;
        flush(client);
        bytes_free(&client->tail);
        return;
    }
    if (whole > 0) {
        pass(client, data, from, whole);
        flush(client);
        bytes_free(&client->tail);
    }
    if (!bytes_append(&client->tail, data + whole, (size_t)((int64_t)len - whole)))
        pool_client_stop(client, NEWS_SERVER_ENDED);
}
