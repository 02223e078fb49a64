#include "poolforgets.h"

#include <stdlib.h>
#include <string.h>

enum {
    STATEMENT_BYTES_MAX = 1 << 20, /* of a Query or Parse that is seen whole */
    ASKED_BYTES_MAX = 1 << 14,     /* a longer suspicious statement pins, whatever it says */
};

/* Making messages */

void emit_header(Pooler *pooler, uint8_t kind, size_t payload_len)
{
    size_t length = payload_len + 4;
    uint8_t header[HEADER_BYTES] = {kind, (uint8_t)(length >> 24), (uint8_t)(length >> 16), (uint8_t)(length >> 8),
                                    (uint8_t)length};
    emit_copy(pooler, header, sizeof header);
}

void emit_close(Pooler *pooler, const uint8_t *name, size_t name_len)
{
    emit_header(pooler, 'C', 1 + name_len);
    emit_copy(pooler, "S", 1);
    emit_copy(pooler, name, name_len);
}

static void emit_parse(Pooler *pooler, const uint8_t *name, size_t name_len, Slice body)
{
    emit_header(pooler, 'P', name_len + body.len);
    emit_copy(pooler, name, name_len);
    emit_copy(pooler, body.at, body.len);
}

static void out_of_memory(PoolClient *client)
{
    pool_client_stop(client, NEWS_LIMIT);
}

void expect_one(PoolClient *client, Expected answer)
{
    if (!expect(client, answer))
        out_of_memory(client);
}

/* Statements */

static void emit_close_of(PoolClient *client, Statement *statement)
{
    uint8_t name[SERVER_NAME_BYTES_MAX];
    emit_close(client->pool->pooler, name, statement_name(statement, name));
    expect_one(client, (Expected){.kind = '3', .is_swallowed = true, .statement = statement});
}

/* Prepare a statement at the client's server, which lacks it.  *named*: what the client asked for; NULL: it is not told. */
static void prepare(PoolClient *client, Statement *statement, const NamedStatement *named)
{
    PoolServer *server = client->server;
    Pool *pool = client->pool;
    if (server->prepared.map.len >= pool->statements_max && server->prepared.oldest != NULL) {
        emit_close_of(client, server->prepared.oldest->statement);
        prepared_remove(&server->prepared, server->prepared.oldest->statement);
        pool->counts.evicted++;
    }
    if (server->forgets)
        emit_close_of(client, statement);
    uint8_t name[SERVER_NAME_BYTES_MAX];
    emit_parse(pool->pooler, name, statement_name(statement, name), (Slice){statement->body, statement->len});
    pool->counts.parses++;
    if (!prepared_add(&server->prepared, statement))
        out_of_memory(client);
    Expected answer = {.kind = '1', .is_swallowed = named == NULL, .statement = statement};
    if (named != NULL) {
        answer.serial = named->serial;
        answer.name_hash = named->node.hash;
    }
    expect_one(client, answer);
}

static void need(PoolClient *client, Statement *statement)
{
    if (!prepared_use(&client->server->prepared, statement))
        prepare(client, statement, NULL);
}

/* Have the server's unnamed statement be the client's. */
static void need_unnamed(PoolClient *client)
{
    PoolServer *server = client->server;
    if (server->unnamed_of == client->party.handle && server->unnamed_serial == client->unnamed_serial)
        return;
    emit_parse(client->pool->pooler, (const uint8_t *)"", 1, (Slice){client->unnamed, client->unnamed_len});
    expect_one(client, (Expected){.kind = '1', .is_swallowed = true});
    server->unnamed_of = client->party.handle;
    server->unnamed_serial = client->unnamed_serial;
}

static void forget_statements(PoolClient *client)
{
    PoolServer *server = client->server;
    prepared_free(&server->prepared);
    server->forgets = true;
    server->unnamed_of = 0;
    client->may_redefine = true;
    client->has_unnamed = false;
}

/* What statements do to the session */

static void pin(PoolClient *client, Verdict verdict)
{
    client->outlasts_discard = client->outlasts_discard || (verdict & OUTLASTS_DISCARD) != 0;
    if ((verdict & REASON_MASK) == 0)
        return;
    client->pins_since_discard = true;
    if (client->pinned != 0)
        return;
    client->pinned = client->pin_told = verdict & REASON_MASK;
    client->pool->pinned++;
    reactor_tell(&client->pool->pooler->reactor, &client->party, NEWS_PINNED);
}

/* False: somebody has to say first what *text* does. */
static bool judge(PoolClient *client, Slice text, Verdict *verdict)
{
    *verdict = 0;
    if (!is_suspicious(text))
        return true;
    if (text.len > ASKED_BYTES_MAX) {
        *verdict = PINNED_LONG_STATEMENT | OUTLASTS_DISCARD | FORGETS_STATEMENTS;
        return true;
    }
    if (verdicts_find(&client->pool->pooler->verdicts, text, verdict))
        return true;
    client->is_asking = true;
    reactor_tell(&client->pool->pooler->reactor, &client->party, NEWS_QUESTION);
    return false;
}

bool attach(PoolClient *client)
{
    bool was_attached = client->server != NULL;
    if (!pool_attach(client))
        return false;
    if (!was_attached)
        emit_begin(client->pool->pooler, &client->server->end);
    return true;
}

/* Attach the client, and go by what was found of its statement; false: it waits. */
static bool admit(PoolClient *client, Slice text, bool is_unnamed)
{
    Verdict verdict;
    if (!judge(client, text, &verdict) || !attach(client))
        return false;
    pin(client, verdict);
    if (is_unnamed)
        client->unnamed_pins = (verdict & REASON_MASK) != 0;
    if (verdict & FORGETS_STATEMENTS)
        forget_statements(client);
    return true;
}

/* Each kind of message */

Taking pass_on(PoolClient *client, const Message *message)
{
    emit(client->pool->pooler, message->at, message->here);
    client->skip = message->total - message->here;
    return TAKEN;
}

/* A statement that is too long to be looked at: what it does to the session nobody knows. */
static bool is_too_long(PoolClient *client, const Message *message)
{
    if (message->total <= STATEMENT_BYTES_MAX)
        return false;
    pin(client, PINNED_LONG_STATEMENT | OUTLASTS_DISCARD);
    return true;
}

static Taking queried(PoolClient *client)
{
    client->has_unnamed = false;
    client->server->unnamed_of = 0;
    expect_one(client, (Expected){.kind = 'Z'});
    return TAKEN;
}

static Taking query(PoolClient *client, const Message *message)
{
    if (message->total > STATEMENT_BYTES_MAX) {
        if (!attach(client))
            return WAITS;
        (void)is_too_long(client, message);
        forget_statements(client);
    } else {
        if (!is_whole(message))
            return INCOMPLETE;
        Slice rest = payload_of(message), text = slice_string(&rest);
        bool is_it;
        Taking taking = query_forgets(client, message, text, &is_it);
        if (is_it)
            return taking == TAKEN ? queried(client) : taking;
        if (!admit(client, text, false))
            return WAITS;
    }
    (void)queried(client);
    return pass_on(client, message);
}

static bool keep_unnamed(PoolClient *client, Slice body)
{
    if (client->unnamed_cap < body.len || (client->unnamed_cap > 4096 && body.len < 1024)) {
        uint8_t *kept = malloc(body.len + 64);
        if (kept == NULL)
            return false;
        free(client->unnamed);
        client->unnamed = kept;
        client->unnamed_cap = (uint32_t)body.len + 64;
    }
    if (body.len > 0)
        memcpy(client->unnamed, body.at, body.len);
    client->unnamed_len = (uint32_t)body.len;
    client->has_unnamed = true;
    return true;
}

bool must_wait_for_answers(PoolClient *client)
{
    client->needs_answers = client->expected.risky > 0;
    return client->needs_answers;
}

static Taking parse_unnamed(PoolClient *client, const Message *message, Slice body, const Forgets *forgets)
{
    if (!keep_unnamed(client, body) || !unnamed_forgets(client, forgets)) {
        out_of_memory(client);
        return WAITS;
    }
    client->unnamed_serial = ++client->serial;
    client->unnamed_is_new = true;
    client->server->unnamed_of = client->party.handle;
    client->server->unnamed_serial = client->unnamed_serial;
    expect_one(client, (Expected){.kind = '1', .serial = client->serial});
    if (!forgets->is_replaced)
        return pass_on(client, message);
    emit_parse(client->pool->pooler, (const uint8_t *)"", 1, body);
    return TAKEN;
}

static Taking parse_named(PoolClient *client, Slice name, Slice body, const Forgets *forgets)
{
    Pooler *pooler = client->pool->pooler;
    NamedStatement *named = names_find(&client->names, name);
    if (named != NULL && !client->may_redefine) {
        /* The server says, as ever, that there is one of this name. */
        uint8_t taken[SERVER_NAME_BYTES_MAX];
        need(client, named->statement);
        emit_parse(pooler, taken, statement_name(named->statement, taken), body);
        expect_one(client, (Expected){.kind = '1'});
        return TAKEN;
    }
    Statement *statement = statement_intern(&pooler->statements, body, forgets);
    if (statement == NULL || (named = names_set(&client->names, name, statement, ++client->serial)) == NULL) {
        if (statement != NULL)
            statement_release(statement);
        out_of_memory(client);
        return WAITS;
    }
    bool is_there = prepared_use(&client->server->prepared, statement);
    if (is_there && (client->point.status == 'E' || client->expected.ends > 0 || client->has_executed)) {
        /* In a transaction that has failed nothing is prepared, and whether this one has, or what is there is out of date by
         * then, only the server knows. */
        emit_close_of(client, statement);
        prepared_remove(&client->server->prepared, statement);
        is_there = false;
    }
    if (is_there) {
        /* It is there.  What says so, in its turn, is the answer to a message that does nothing. */
        emit_close(pooler, NOBODY, sizeof NOBODY);
        expect_one(client, (Expected){.kind = '3', .is_flipped = true, .serial = client->serial, .name_hash = named->node.hash});
    } else {
        prepare(client, statement, named);
    }
    statement_release(statement);
    return TAKEN;
}

static Taking parse(PoolClient *client, const Message *message)
{
    if (message->total > STATEMENT_BYTES_MAX) {
        pool_client_stop(client, NEWS_LIMIT);
        return WAITS;
    }
    if (!is_whole(message))
        return INCOMPLETE;
    Slice rest = payload_of(message), name = slice_string(&rest), body = rest, text = slice_string(&rest), sent;
    Forgets forgets;
    uint8_t replaced[REPLACED_BYTES_MAX];
    if (name.len > 0 && must_wait_for_answers(client))
        return WAITS;
    if (parse_forgets(client, name, body, &forgets, replaced, &sent)) {
        if (must_wait_for_answers(client) || !attach(client))
            return WAITS;
        client->unnamed_pins = client->unnamed_pins && name.len > 0;
    } else {
        forgets = (Forgets){.what = FORGETS_NOTHING};
        if (!admit(client, text, name.len == 0))
            return WAITS;
    }
    client->is_open = true;
    return name.len == 0 ? parse_unnamed(client, message, sent, &forgets) : parse_named(client, name, sent, &forgets);
}

/* Name the statement as the server does, in a message that has *before* in front of the name; the rest is passed on as it is. */
static Taking rename_in(PoolClient *client, const Message *message, Slice before, Slice name, Slice rest, bool has_answer)
{
    Pooler *pooler = client->pool->pooler;
    Statement *statement = NULL;
    uint8_t ours[SERVER_NAME_BYTES_MAX];
    const uint8_t *new_name = NOBODY;
    size_t new_len = sizeof NOBODY;
    if (!(name.len == 0 && client->unnamed_is_new) && must_wait_for_answers(client))
        return WAITS;
    if (name.len > 0) {
        NamedStatement *named = names_find(&client->names, name);
        if (named == NULL && !slice_begins(name, OURS)) { /* the server says so */
            if (has_answer)
                expect_one(client, (Expected){.kind = '2'});
            return pass_on(client, message);
        }
        if (named != NULL) {
            statement = named->statement;
            need(client, statement);
            new_len = statement_name(statement, ours);
            new_name = ours;
        }
    } else if (client->has_unnamed) {
        need_unnamed(client);
        if (has_answer)
            expect_one(client, (Expected){.kind = '2'});
        return pass_on(client, message);
    }
    emit_header(pooler, message->kind, (size_t)message->total - HEADER_BYTES - (name.len + 1) + new_len);
    emit_copy(pooler, before.at, before.len);
    emit_copy(pooler, new_name, new_len);
    emit(pooler, rest.at, rest.len);
    client->skip = message->total - message->here;
    if (has_answer)
        expect_one(client, (Expected){.kind = '2', .statement = statement});
    return TAKEN;
}

static bool has_zero(Slice slice)
{
    return slice.len > 0 && memchr(slice.at, 0, slice.len) != NULL;
}

static Taking bind(PoolClient *client, const Message *message)
{
    Slice rest = payload_of(message), portal = rest;
    bool is_there = has_zero(rest);
    if (is_there) {
        slice_string(&rest);
        is_there = has_zero(rest);
    }
    if (!is_there && !is_whole(message) && message->here < NAMES_BYTES_MAX)
        return INCOMPLETE;
    if (!attach(client))
        return WAITS;
    client->is_open = true;
    if (!is_there) { /* what it is the server may say */
        expect_one(client, (Expected){.kind = '2'});
        return pass_on(client, message);
    }
    portal.len = (size_t)(rest.at - portal.at);
    Slice name = slice_string(&rest);
    Taking taking = rename_in(client, message, portal, name, rest, true);
    portal.len--;
    if (taking == TAKEN && !bound_forgets(client, portal, name))
        pool_client_stop(client, NEWS_LIMIT);
    return taking;
}

static Taking execute(PoolClient *client, const Message *message)
{
    bool is_it;
    Taking taking = execute_forgets(client, message, &is_it);
    if (is_it)
        return taking;
    if (!attach(client))
        return WAITS;
    client->is_open = client->has_executed = true;
    return pass_on(client, message);
}

/* Describe and Close. */
static Taking of_statement_or_portal(PoolClient *client, const Message *message)
{
    if (!is_whole(message)) {
        if (message->total <= STATEMENT_BYTES_MAX)
            return INCOMPLETE;
        pool_client_stop(client, NEWS_LIMIT);
        return WAITS;
    }
    if (!attach(client))
        return WAITS;
    client->is_open = true;
    Slice rest = payload_of(message), before = {rest.at, rest.len > 0 ? 1 : 0};
    bool is_close = message->kind == 'C', is_statement = rest.len > 1 && rest.at[0] == 'S' && has_zero(rest);
    if (!is_statement) {
        if (is_close)
            expect_one(client, (Expected){.kind = '3'});
        return pass_on(client, message);
    }
    rest.at++;
    rest.len--;
    Slice name = slice_string(&rest);
    if (!is_close)
        return rename_in(client, message, before, name, rest, false);
    if (name.len == 0) {
        client->has_unnamed = false;
        client->server->unnamed_of = 0;
        expect_one(client, (Expected){.kind = '3'});
        return pass_on(client, message);
    }
    if (must_wait_for_answers(client))
        return WAITS;
    NamedStatement *named = names_find(&client->names, name);
    if (named != NULL)
        names_take(&client->names, named);
    expect_one(client, (Expected){.kind = '3', .closed = named});
    emit_close(client->pool->pooler, NOBODY, sizeof NOBODY);
    return TAKEN;
}

/* A message that the server would do nothing with. */
static Taking drop(PoolClient *client, const Message *message)
{
    client->skip = message->total - message->here;
    client->drops = client->skip > 0;
    return SWALLOWED;
}

static Taking take_message(PoolClient *client, const Message *message)
{
    if (client->is_skipped && strchr("PBDCEHQF", message->kind) != NULL && message->kind != 0)
        return drop(client, message);
    switch (message->kind) {
    case 'Q':
        return query(client, message);
    case 'P':
        return parse(client, message);
    case 'B':
        return bind(client, message);
    case 'D':
    case 'C':
        return of_statement_or_portal(client, message);
    case 'E':
        return execute(client, message);
    case 'X':
        return is_whole(message) ? SWALLOWED : INCOMPLETE;
    case 'H':
        if (client->server == NULL && !client->is_open) /* there is nothing to flush, and no need of a server for it */
            return drop(client, message);
        break;
    case 'd':
    case 'c':
    case 'f':
        if (client->server == NULL) /* COPY has failed already: a server would ignore it too */
            return drop(client, message);
        break;
    default:
        break;
    }
    if (!attach(client))
        return WAITS;
    if (message->kind == 'S' || message->kind == 'F')
        expect_one(client, (Expected){.kind = 'Z'});
    return pass_on(client, message);
}

/* What was cancelled while it waited */

static const uint8_t CANCELLED[] = "SERROR\0VERROR\0C57014\0Mcanceling statement due to user request\0"
                                   "FendpointdRpool_client_cancel_waiting\0";

static void say_cancelled(PoolClient *client)
{
    Pooler *pooler = client->pool->pooler;
    if (client->is_told_cancelled)
        return;
    client->is_told_cancelled = true;
    emit_header(pooler, 'E', sizeof CANCELLED);
    emit_copy(pooler, CANCELLED, sizeof CANCELLED);
}

/* The end of a message that is refused.  A Flush asks for what there is to say, and what ends it all may come only behind that. */
static void answer_cancelled(PoolClient *client)
{
    static const uint8_t ready[] = {'Z', 0, 0, 0, 5, 'I'};
    Pooler *pooler = client->pool->pooler;
    if (client->refused == 0 || strchr("QFSXH", client->refused) == NULL)
        return;
    emit_begin(pooler, &client->end);
    say_cancelled(client);
    if (client->refused != 'H') {
        client->is_cancelled = client->is_told_cancelled = false;
        emit_copy(pooler, ready, sizeof ready);
    }
    emit_flush(pooler);
}

/* Drop messages up to the one that a ReadyForQuery answers, and give that. */
static size_t refuse_messages(PoolClient *client, const uint8_t *data, size_t len)
{
    size_t pos = 0;
    while (client->is_cancelled && pos < len) {
        if (client->skip == 0) {
            if (len - pos < HEADER_BYTES) {
                client->needs_more = true;
                return pos;
            }
            const uint8_t *at = data + pos;
            client->skip = ((uint64_t)at[1] << 24 | (uint64_t)at[2] << 16 | (uint64_t)at[3] << 8 | at[4]) + 1;
            client->refused = at[0];
            if (client->skip < HEADER_BYTES || at[0] == 'X') {
                client->skip = 0;
                client->refused = 'X';
                answer_cancelled(client); /* what is no message, or says goodbye, is looked at as ever */
                return pos;
            }
        }
        size_t passed = client->skip < len - pos ? (size_t)client->skip : len - pos;
        client->skip -= passed;
        pos += passed;
        if (client->skip == 0)
            answer_cancelled(client);
    }
    return pos;
}

static size_t pass_messages(PoolClient *client, const uint8_t *data, size_t len);

size_t take_messages(PoolClient *client, const uint8_t *data, size_t len)
{
    client->needs_more = client->needs_answers = false;
    size_t refused = refuse_messages(client, data, len);
    return refused + (client->is_cancelled ? 0 : pass_messages(client, data + refused, len - refused));
}

static size_t pass_messages(PoolClient *client, const uint8_t *data, size_t len)
{
    Pooler *pooler = client->pool->pooler;
    size_t pos = 0;
    bool is_broken = false;
    emit_begin(pooler, client->server != NULL ? &client->server->end : NULL);
    while (pos < len && !client->is_stopped && !client->point.client_terminated) {
        if (client->skip > 0) {
            size_t passed = client->skip < len - pos ? (size_t)client->skip : len - pos;
            if (!client->drops)
                emit(pooler, data + pos, passed);
            client->skip -= passed;
            client->drops = client->drops && client->skip > 0;
            pos += passed;
            continue;
        }
        const uint8_t *at = data + pos;
        if (len - pos < HEADER_BYTES) {
            client->needs_more = true;
            break;
        }
        uint32_t length = (uint32_t)at[1] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 8 | at[4];
        bool is_known = at[0] != 0 && strchr("QPBDCEHSFdcfX", at[0]) != NULL;
        if (!is_known || length < 4 || length > 0x7FFFFFFF || (at[0] == 'X' && length > NAMES_BYTES_MAX)) {
            is_broken = true;
            break;
        }
        uint64_t total = (uint64_t)length + 1;
        Message message = {at[0], at, total < len - pos ? (size_t)total : len - pos, total};
        Taking taking = take_message(client, &message);
        client->needs_more = taking == INCOMPLETE;
        if (taking == INCOMPLETE || taking == WAITS)
            break;
        pos += message.here;
        if (message.kind == 'X')
            break;
    }
    if (pos > 0) {
        if (safepoint_client_sent(&client->point, data, pos, &pooler->frames) != SCAN_OK)
            is_broken = true;
        expected_swallowed(client);
        if (client->point.texts != NULL)
            reactor_tell(&pooler->reactor, &client->party, NEWS_TEXT);
        client->to_server_bytes += pos;
        if (client->server != NULL)
            emit_flush(pooler); /* if that breaks its end is told when it was read to the end */
    }
    if (is_broken)
        pool_client_stop(client, NEWS_CLIENT_NOT_UNDERSTOOD);
    return pos;
}
