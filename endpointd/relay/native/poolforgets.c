/* What a client calls its statements the server does not know.  So a DEALLOCATE becomes a statement that does nothing, where and when
 * the server allows a DEALLOCATE, and whose tag is put right; the names are forgotten when the server comes to it. */
#include "poolforgets.h"

#include <stdlib.h>
#include <string.h>

/* As DEALLOCATE it is allowed everywhere but in a failed transaction, and takes part in none. */
static const char NOTHING_DONE[] = "UNLISTEN pooled_nothing";

static Slice name_of(const Forgets *forgets)
{
    return (Slice){forgets->name, forgets->len};
}

static NamedStatement *find(const PoolClient *client, const Forgets *forgets)
{
    return names_find(&client->names, name_of(forgets));
}

/* The names that are forgotten are the caller's: of all, or of the one. */
static NamedStatement *take_names(PoolClient *client, const Forgets *forgets)
{
    if (forgets->what != FORGETS_ONE)
        return names_take_all(&client->names);
    NamedStatement *named = find(client, forgets);
    if (named != NULL)
        names_take(&client->names, named);
    return named;
}

/* What is about to be executed forgets, if it succeeds, what is taken from the client now. */
static void expect_forgetting(PoolClient *client, const Forgets *forgets)
{
    PoolServer *server = client->server;
    if (forgets->what == DISCARDS_ALL)
        client->pins_since_discard = client->has_unnamed && client->unnamed_pins;
    if (!forgets->is_replaced && forgets->what != FORGETS_ONE) {
        prepared_free(&server->prepared);
        server->forgets = true;
    }
    uint8_t tag = forgets->is_replaced || forgets->what == DISCARDS_ALL ? forgets->what : FORGETS_NOTHING;
    expect_one(client, (Expected){.kind = 'C', .forgets = tag, .closed = take_names(client, forgets)});
}

/* So that the tag of an earlier statement is not taken for that of the next one. */
static void part_from_earlier(PoolClient *client)
{
    emit_close(client->pool->pooler, NOBODY, sizeof NOBODY);
    expect_one(client, (Expected){.kind = '3', .is_swallowed = true});
}

Taking query_forgets(PoolClient *client, const Message *message, Slice text, bool *is_it)
{
    Forgets forgets = forgets_of(text);
    *is_it = forgets.what != FORGETS_NOTHING;
    if (!*is_it)
        return TAKEN;
    if (must_wait_for_answers(client))
        return WAITS;
    bool is_known = forgets.what != FORGETS_ONE || find(client, &forgets) != NULL;
    if (!is_known && slice_begins(name_of(&forgets), OURS)) {
        *is_it = false;
        return TAKEN;
    }
    if (!attach(client))
        return WAITS;
    forgets.is_replaced = is_known && (forgets.what == FORGETS_ONE || (forgets.what == FORGETS_ALL && client->pinned == 0));
    if (client->is_open)
        part_from_earlier(client);
    client->has_unnamed = false;
    if (is_known) /* else the server says that there is none, or it is one of its own */
        expect_forgetting(client, &forgets);
    if (!forgets.is_replaced)
        return pass_on(client, message);
    emit_header(client->pool->pooler, 'Q', sizeof NOTHING_DONE);
    emit_copy(client->pool->pooler, NOTHING_DONE, sizeof NOTHING_DONE);
    return TAKEN;
}

bool parse_forgets(const PoolClient *client, Slice name, Slice body, Forgets *forgets, uint8_t *replaced, Slice *sent)
{
    Slice types = body;
    *forgets = forgets_of(slice_string(&types));
    *sent = body;
    if (forgets->what == FORGETS_NOTHING || sizeof NOTHING_DONE + types.len > REPLACED_BYTES_MAX)
        return false;
    if (forgets->what == FORGETS_ONE && find(client, forgets) == NULL) {
        if (slice_begins(name_of(forgets), OURS))
            return false;
        if (client->pinned != 0) { /* it may be one that was prepared by PREPARE */
            forgets->what = FORGETS_NOTHING;
            return true;
        }
    }
    /* One that has a name may still be there when the session is pinned. */
    bool is_all = forgets->what == FORGETS_ALL && name.len == 0 && client->pinned == 0;
    forgets->is_replaced = forgets->what == FORGETS_ONE || is_all;
    if (forgets->is_replaced) {
        memcpy(replaced, NOTHING_DONE, sizeof NOTHING_DONE);
        if (types.len > 0)
            memcpy(replaced + sizeof NOTHING_DONE, types.at, types.len);
        *sent = (Slice){replaced, sizeof NOTHING_DONE + types.len};
    }
    return true;
}

static bool has_forgetting(PoolClient *client)
{
    if (client->forgetting == NULL)
        client->forgetting = calloc(1, sizeof *client->forgetting);
    return client->forgetting != NULL;
}

bool unnamed_forgets(PoolClient *client, const Forgets *forgets)
{
    if (forgets->what == FORGETS_NOTHING && client->forgetting == NULL)
        return true;
    if (!has_forgetting(client))
        return false;
    client->forgetting->unnamed = *forgets;
    return true;
}

static bool is_bound(const struct PoolForgetting *forgetting, Slice portal)
{
    return forgetting->bound.what != FORGETS_NOTHING && portal.len == forgetting->portal_len &&
           (portal.len == 0 || memcmp(portal.at, forgetting->portal, portal.len) == 0);
}

bool bound_forgets(PoolClient *client, Slice portal, Slice statement)
{
    const Forgets *forgets = NULL;
    if (statement.len > 0) {
        const NamedStatement *named = names_find(&client->names, statement);
        forgets = named != NULL ? named->statement->forgets : NULL;
    } else if (client->has_unnamed && client->forgetting != NULL) {
        forgets = &client->forgetting->unnamed;
    }
    if (forgets == NULL || forgets->what == FORGETS_NOTHING) {
        if (client->forgetting != NULL && is_bound(client->forgetting, portal))
            client->forgetting->bound.what = FORGETS_NOTHING;
        return true;
    }
    if (portal.len > FORGOTTEN_NAME_BYTES_MAX || !has_forgetting(client))
        return false;
    client->forgetting->bound = *forgets;
    client->forgetting->portal_len = (uint8_t)portal.len;
    if (portal.len > 0)
        memcpy(client->forgetting->portal, portal.at, portal.len);
    return true;
}

Taking execute_forgets(PoolClient *client, const Message *message, bool *is_it)
{
    struct PoolForgetting *forgetting = client->forgetting;
    *is_it = forgetting != NULL && forgetting->bound.what != FORGETS_NOTHING;
    if (!*is_it)
        return TAKEN;
    if (!is_whole(message) && message->total <= NAMES_BYTES_MAX)
        return INCOMPLETE;
    Slice payload = payload_of(message);
    *is_it = is_whole(message) && is_bound(forgetting, slice_string(&payload));
    if (!*is_it)
        return TAKEN;
    if (must_wait_for_answers(client) || !attach(client))
        return WAITS;
    client->is_open = client->has_executed = true;
    Forgets forgets = forgetting->bound;
    forgetting->bound.what = FORGETS_NOTHING;
    part_from_earlier(client);
    if (forgets.what == FORGETS_ONE && find(client, &forgets) == NULL) {
        /* In these words the server says that there is none; if there is no portal either it says that first. */
        Pooler *pooler = client->pool->pooler;
        expect_one(client, (Expected){.kind = 'C', .is_swallowed = true});
        emit(pooler, message->at, message->here);
        emit_header(pooler, 'D', 1 + (size_t)forgets.len + 1);
        emit_copy(pooler, "S", 1);
        emit_copy(pooler, forgets.name, forgets.len);
        emit_copy(pooler, "", 1);
        return TAKEN;
    }
    expect_forgetting(client, &forgets);
    return pass_on(client, message);
}
