#include "safepoint.h"

#include <stdlib.h>
#include <string.h>

/* Kinds of messages (PostgreSQL documentation, "Message Formats"). */
enum {
    QUERY = 'Q',
    FUNCTION_CALL = 'F',
    SYNC = 'S',
    FLUSH = 'H',
    PARSE = 'P',
    BIND = 'B',
    EXECUTE = 'E',
    COPY_DATA = 'd',
    COPY_DONE = 'c',
    COPY_FAIL = 'f',
    TERMINATE = 'X',

    READY_FOR_QUERY = 'Z',
    ERROR_RESPONSE = 'E',
    NOTICE_RESPONSE = 'N',
    COMMAND_COMPLETE = 'C',
    COPY_IN_RESPONSE = 'G',
    COPY_BOTH_RESPONSE = 'W',
    PARSE_COMPLETE = '1',
    BIND_COMPLETE = '2',
    CLOSE_COMPLETE = '3',
};

#define SYNC_WAIT_ROUTINE "SyncRepWaitForLSN"
#define QUERY_CANCELED "57014"

/* Outstanding */

static uint8_t *outstanding_kinds(Outstanding *queue)
{
    return queue->heap != NULL ? queue->heap : queue->few;
}

static bool outstanding_push(Outstanding *queue, uint8_t kind)
{
    uint32_t cap = queue->heap != NULL ? queue->cap : sizeof queue->few;
    if (queue->begin + queue->len == cap) {
        uint8_t *kinds = outstanding_kinds(queue);
        if (queue->begin > cap / 2) {
            memmove(kinds, kinds + queue->begin, queue->len);
        } else {
            uint8_t *grown = malloc((size_t)cap * 2);
            if (grown == NULL)
                return false;
            memcpy(grown, kinds + queue->begin, queue->len);
            free(queue->heap);
            queue->heap = grown;
            queue->cap = cap * 2;
        }
        queue->begin = 0;
    }
    outstanding_kinds(queue)[queue->begin + queue->len++] = kind;
    return true;
}

static void outstanding_clear(Outstanding *queue)
{
    free(queue->heap);
    *queue = (Outstanding){0};
}

static void outstanding_pop(Outstanding *queue)
{
    if (queue->len <= 1) {
        outstanding_clear(queue);
    } else {
        queue->begin++;
        queue->len--;
    }
}

static bool outstanding_first_is(Outstanding *queue, uint8_t kind)
{
    return queue->len > 0 && outstanding_kinds(queue)[queue->begin] == kind;
}

/* The safe point */

void safepoint_init(SafePoint *point, int watch)
{
    memset(point, 0, sizeof *point);
    scanner_init(&point->client, "QFScfXH", watch != NOT_WATCHED ? "QP" : "");
    scanner_init(&point->server, "GW", "ZNE");
    point->is_watched = watch != NOT_WATCHED;
    point->relaxed = watch != NOT_WATCHED ? (uint8_t)watch : 0;
    point->may_end_block = true;
    point->status = 'I';
}

void safepoint_tell_statements(SafePoint *point)
{
    scanner_ask_for_told(&point->server, "123");
    scanner_ask_for_collected(&point->server, "C");
}

void safepoint_free(SafePoint *point)
{
    scanner_free(&point->client);
    scanner_free(&point->server);
    outstanding_clear(&point->outstanding);
    block_free(&point->block);
    for (Text *text; (text = safepoint_take_text(point)) != NULL;)
        free(text);
}

static void believe_again(SafePoint *point)
{
    if (point->cancels == 0)
        point->is_in_doubt = false;
}

void safepoint_cancel_begins(SafePoint *point)
{
    point->cancels++;
    if (point->relaxed & RELAXES_WARNINGS) {
        scanner_ask_for_collected(&point->server, "C");
        point->is_in_doubt = true;
    }
}

void safepoint_cancel_ended(SafePoint *point)
{
    point->cancels--;
    if (safepoint_doing(point) == DOING_IDLE)
        believe_again(point);
}

unsigned safepoint_relaxes(SafePoint *point, unsigned relaxed)
{
    unsigned new = relaxed & ~(unsigned)point->relaxed;
    point->relaxed |= (uint8_t)new;
    return new;
}

Text *text_of(Slice statement)
{
    Text *text = malloc(sizeof *text + statement.len);
    if (text == NULL)
        return NULL;
    text->next = NULL;
    text->len = statement.len;
    if (statement.len > 0)
        memcpy(text->bytes, statement.at, statement.len);
    return text;
}

Text *safepoint_take_text(SafePoint *point)
{
    Text *first = point->texts;
    if (first != NULL) {
        point->texts = first->next;
        point->texts_bytes -= first->len;
    }
    return first;
}

/* The client's direction */

/* Keep a statement that speaks of a setting of which it is not yet known that the client relaxes it. */
static bool look_through(SafePoint *point, Slice statement)
{
    if ((speaks_of(statement) & ~(unsigned)point->relaxed) == 0)
        return true;
    Text *text = text_of(statement);
    if (text == NULL)
        return false;
    if (point->texts == NULL)
        point->texts = text;
    else
        point->texts_last->next = text;
    point->texts_last = text;
    point->texts_bytes += text->len;
    return true;
}

/* Take in what a watched client sends: whether it may end the block that it is in, and whether it is to be looked at. */
static bool follow(SafePoint *point, const Frame *frame)
{
    Slice payload = {frame->payload, frame->payload_len};
    Block *block = &point->block;
    bool ends = false, is_kept = true;
    switch (frame->kind) {
    case QUERY:
        block->is_open = false; /* its answer comes after whatever was sent before */
        ends = !point->may_end_block && may_end(payload);
        is_kept = look_through(point, payload);
        break;
    case PARSE:
        ends = block_prepared(block, payload);
        if (block_is_followed(block))
            scanner_ask_for_collected(&point->client, "BE");
        is_kept = look_through(point, payload);
        break;
    case BIND:
        ends = block_bound(block, payload);
        break;
    case EXECUTE:
        ends = block_executed(block, payload);
        break;
    case SYNC:
        ends = block_synced(block);
        break;
    default:
        break;
    }
    point->may_end_block = point->may_end_block || ends;
    return is_kept;
}

/* CopyDone or CopyFail: what was outstanding is the command itself and Syncs that the server swallowed. */
static void copy_ended(SafePoint *point)
{
    Outstanding *outstanding = &point->outstanding;
    point->copying_in = false;
    if (outstanding->len > 0 && !outstanding_first_is(outstanding, SYNC)) {
        point->swallowed += outstanding->len - 1;
        point->swallowed_behind_first = true;
        outstanding->len = 1;
    } else {
        point->swallowed += outstanding->len;
        point->swallowed_behind_first = false;
        outstanding_clear(outstanding);
        point->unsynced = true;
    }
}

/* Whether a client that stops behind a message of this kind has nothing unfinished, as far as its own direction tells. */
static bool is_closing(uint8_t kind)
{
    switch (kind) {
    case 0:
    case QUERY:
    case FUNCTION_CALL:
    case SYNC:
    case COPY_DATA:
    case COPY_DONE:
    case COPY_FAIL:
    case TERMINATE:
        return true;
    default:
        return false;
    }
}

/* Whether the client, by the kinds of what it said, has nothing unfinished.  A Flush where there is nothing to flush changes
 * nothing. */
static bool is_closed(const SafePoint *point)
{
    uint8_t kind = point->client.last_kind;
    return is_closing(kind) || (kind == FLUSH && point->only_flushed);
}

ScanResult safepoint_client_sent(SafePoint *point, const uint8_t *chunk, size_t len, Frames *scratch)
{
    bool was_closed = is_closed(point) && point->client.skip == 0;
    int64_t closed_until = was_closed ? -(int64_t)point->client.head_len : INT64_MIN;
    ScanResult result = scanner_feed(&point->client, chunk, len, scratch);
    if (result != SCAN_OK)
        return result;
    for (size_t i = 0; i < scratch->len; i++) {
        const Frame *frame = &scratch->at[i];
        if (is_closing(frame->kind) || (frame->kind == FLUSH && frame->begin == closed_until))
            closed_until = frame->end;
        if ((frame->payload_len > 0 || frame->kind == SYNC) && !follow(point, frame))
            return SCAN_NO_MEMORY;
        switch (frame->kind) {
        case QUERY:
        case FUNCTION_CALL:
        case SYNC:
            if (!outstanding_push(&point->outstanding, frame->kind))
                return SCAN_NO_MEMORY;
            break;
        case PARSE:
        case BIND:
        case EXECUTE:
        case FLUSH:
            break;
        case TERMINATE:
            point->client_terminated = true;
            break;
        default:
            if (point->copying_in)
                copy_ended(point);
        }
    }
    if (point->client.boundary > 0)
        point->only_flushed = point->client.last_kind == FLUSH && closed_until == point->client.boundary;
    return SCAN_OK;
}

/* The server's direction */

/* Whether a message says that a transaction has ended well, while a wait for copies may have been cancelled. */
static bool is_success_in_doubt(SafePoint *point, const Frame *frame)
{
    Slice payload = {frame->payload, frame->payload_len};
    if (frame->kind == COMMAND_COMPLETE)
        return point->status != 'T' || slice_begins(payload, "COMMIT") || slice_begins(payload, "PREPARE");
    if (frame->kind != READY_FOR_QUERY)
        return false;
    if (slice_begins(payload, "I"))
        return true;
    believe_again(point);
    return false;
}

static void ready(SafePoint *point, const Frame *frame)
{
    point->status = frame->payload_len > 0 ? frame->payload[0] : 0;
    point->copying_in = point->unsynced = point->is_streaming = false;
    outstanding_pop(&point->outstanding);
    if (point->outstanding.len == 0 && !point->block.is_open)
        point->may_end_block = !point->is_watched || !(point->status == 'T' || point->status == 'E');
}

static void failed(SafePoint *point, const Frame *frame)
{
    ReportFields report = read_report((Slice){frame->payload, frame->payload_len});
    point->server_said_goodbye = slice_is(report.severity, "FATAL") || slice_is(report.severity, "PANIC");
    if (slice_is(report.sqlstate, QUERY_CANCELED))
        point->is_in_doubt = false; /* the request was felt */
    if (point->copying_in && outstanding_first_is(&point->outstanding, SYNC)) {
        point->swallowed += point->outstanding.len;
        point->swallowed_behind_first = false;
        outstanding_clear(&point->outstanding);
        point->unsynced = true;
    }
    point->copying_in = point->is_streaming = false;
}

static bool is_wait_cancelled(const Frame *frame)
{
    Slice payload = {frame->payload, frame->payload_len};
    return slice_has(payload, SYNC_WAIT_ROUTINE) && slice_is(read_report(payload).routine, SYNC_WAIT_ROUTINE);
}

ScanResult safepoint_server_sent(SafePoint *point, const uint8_t *chunk, size_t len, Frames *scratch, int64_t *unconfirmed)
{
    *unconfirmed = CONFIRMED;
    ScanResult result = scanner_feed(&point->server, chunk, len, scratch);
    if (result != SCAN_OK)
        return result;
    for (size_t i = 0; i < scratch->len; i++) {
        const Frame *frame = &scratch->at[i];
        point->server_said_goodbye = false;
        if (point->is_in_doubt && *unconfirmed == CONFIRMED && is_success_in_doubt(point, frame))
            *unconfirmed = frame->begin;
        switch (frame->kind) {
        case READY_FOR_QUERY:
            ready(point, frame);
            break;
        case ERROR_RESPONSE:
            failed(point, frame);
            break;
        case NOTICE_RESPONSE:
            if (*unconfirmed == CONFIRMED && is_wait_cancelled(frame))
                *unconfirmed = frame->end;
            break;
        case COMMAND_COMPLETE:
            point->server_said_goodbye = point->is_streaming;
            break;
        case PARSE_COMPLETE:
        case BIND_COMPLETE:
        case CLOSE_COMPLETE:
            break; /* for pools */
        default:
            point->copying_in = true;
            if (frame->kind == COPY_BOTH_RESPONSE) {
                point->is_streaming = true;
                scanner_ask_for_told(&point->server, "C");
            }
        }
    }
    return SCAN_OK;
}

Doing safepoint_doing(const SafePoint *point)
{
    if (point->outstanding.len > 0 || point->copying_in || point->unsynced || point->block.is_open ||
        !scanner_at_boundary(&point->client) || !is_closed(point) || !scanner_at_boundary(&point->server))
        return DOING_BUSY;
    if (point->status == 'I')
        return DOING_IDLE;
    return point->status != 0 ? DOING_IN_TRANSACTION : DOING_BUSY;
}
