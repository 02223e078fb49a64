#include "statements.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Statements */

static Statement *statement_new(Statements *statements, Slice body)
{
    Statement *made = malloc(sizeof *made + body.len);
    if (made == NULL)
        return NULL;
    made->among = NULL;
    made->forgets = NULL;
    made->number = ++statements->last_number;
    made->references = 1;
    made->len = (uint32_t)body.len;
    if (body.len > 0)
        memcpy(made->body, body.at, body.len);
    return made;
}

static Statement *statement_alone(Statements *statements, Slice body, const Forgets *forgets)
{
    Statement *made = statement_new(statements, body);
    if (made == NULL)
        return NULL;
    made->forgets = malloc(sizeof *forgets);
    if (made->forgets == NULL) {
        free(made);
        return NULL;
    }
    *made->forgets = *forgets;
    return made;
}

Statement *statement_intern(Statements *statements, Slice body, const Forgets *forgets)
{
    if (forgets->what != FORGETS_NOTHING)
        return statement_alone(statements, body, forgets);
    Statement *found = (Statement *)map_find(&statements->map, body);
    if (found != NULL) {
        found->references++;
        return found;
    }
    found = statement_new(statements, body);
    if (found == NULL)
        return NULL;
    if (!map_add(&statements->map, &found->node, (Slice){found->body, body.len})) {
        free(found);
        return NULL;
    }
    found->among = statements;
    return found;
}

void statement_hold(Statement *statement)
{
    statement->references++;
}

void statement_is_stale(Statement *statement)
{
    if (statement->among != NULL)
        map_remove(&statement->among->map, &statement->node);
    statement->among = NULL;
}

void statements_are_stale(Statements *statements)
{
    uint32_t from = 0;
    for (Statement *statement; (statement = (Statement *)map_take_any(&statements->map, &from)) != NULL;)
        statement->among = NULL;
}

void statement_release(Statement *statement)
{
    if (--statement->references > 0)
        return;
    statement_is_stale(statement);
    free(statement->forgets);
    free(statement);
}

size_t statement_name(const Statement *statement, uint8_t name[SERVER_NAME_BYTES_MAX])
{
    return (size_t)snprintf((char *)name, SERVER_NAME_BYTES_MAX, "pooled_%llx", (unsigned long long)statement->number) + 1;
}

void statements_free(Statements *statements)
{
    map_free(&statements->map);
}

/* Names */

NamedStatement *names_find(const Names *names, Slice name)
{
    return (NamedStatement *)map_find(&names->map, name);
}

static uint64_t bytes_of(const Statement *statement, size_t name_len)
{
    return sizeof(NamedStatement) + name_len + statement->len;
}

NamedStatement *names_set(Names *names, Slice name, Statement *statement, uint32_t serial)
{
    NamedStatement *named = names_find(names, name);
    uint64_t bytes = names->bytes + bytes_of(statement, name.len) - (named != NULL ? bytes_of(named->statement, name.len) : 0);
    if (bytes > BYTES_PER_CLIENT_MAX)
        return NULL;
    if (named == NULL) {
        if (names->map.len >= NAMES_PER_CLIENT_MAX || (named = malloc(sizeof *named + name.len)) == NULL)
            return NULL;
        if (name.len > 0)
            memcpy(named->name, name.at, name.len);
        if (!map_add(&names->map, &named->node, (Slice){named->name, name.len})) {
            free(named);
            return NULL;
        }
    } else {
        statement_release(named->statement);
    }
    statement_hold(statement);
    named->statement = statement;
    named->serial = serial;
    names->bytes = bytes;
    return named;
}

void named_free(NamedStatement *named)
{
    statement_release(named->statement);
    free(named);
}

void names_take(Names *names, NamedStatement *named)
{
    map_remove(&names->map, &named->node);
    names->bytes -= bytes_of(named->statement, named->node.key_len);
    named->node.next = NULL;
}

void names_put_back(Names *names, NamedStatement *named)
{
    Slice name = {named->name, named->node.key_len};
    if (names_find(names, name) != NULL || !map_add(&names->map, &named->node, name))
        named_free(named);
    else
        names->bytes += bytes_of(named->statement, name.len);
}

NamedStatement *names_take_all(Names *names)
{
    NamedStatement *first = NULL;
    uint32_t from = 0;
    for (MapNode *node; (node = map_take_any(&names->map, &from)) != NULL; first = (NamedStatement *)node)
        node->next = (MapNode *)first;
    names->bytes = 0;
    return first;
}

static NamedStatement *after(const NamedStatement *named)
{
    return (NamedStatement *)named->node.next;
}

void names_put_all_back(Names *names, NamedStatement *first)
{
    for (NamedStatement *next; first != NULL; first = next) {
        next = after(first);
        names_put_back(names, first);
    }
}

void named_free_all(NamedStatement *first)
{
    for (NamedStatement *next; first != NULL; first = next) {
        next = after(first);
        named_free(first);
    }
}

void names_undo(Names *names, uint32_t serial, uint32_t hash)
{
    MapNode *node = names->map.cap > 0 ? names->map.buckets[hash & (names->map.cap - 1)] : NULL;
    while (node != NULL && ((NamedStatement *)node)->serial != serial)
        node = node->next;
    if (node == NULL)
        return;
    names_take(names, (NamedStatement *)node);
    named_free((NamedStatement *)node);
}

void names_free(Names *names)
{
    uint32_t from = 0;
    for (NamedStatement *named; (named = (NamedStatement *)map_take_any(&names->map, &from)) != NULL;)
        named_free(named);
    map_free(&names->map);
}

/* What a server has */

static Slice key_of(Statement *const *statement)
{
    return (Slice){(const uint8_t *)statement, sizeof *statement};
}

static void unlink_prepared(PreparedStatements *prepared, Prepared *one)
{
    if (one->newer != NULL)
        one->newer->older = one->older;
    else
        prepared->newest = one->older;
    if (one->older != NULL)
        one->older->newer = one->newer;
    else
        prepared->oldest = one->newer;
}

static void link_newest(PreparedStatements *prepared, Prepared *one)
{
    one->newer = NULL;
    one->older = prepared->newest;
    if (prepared->newest != NULL)
        prepared->newest->newer = one;
    else
        prepared->oldest = one;
    prepared->newest = one;
}

bool prepared_use(PreparedStatements *prepared, Statement *statement)
{
    Prepared *one = (Prepared *)map_find(&prepared->map, key_of(&statement));
    if (one == NULL)
        return false;
    if (one != prepared->newest) {
        unlink_prepared(prepared, one);
        link_newest(prepared, one);
    }
    return true;
}

bool prepared_add(PreparedStatements *prepared, Statement *statement)
{
    Prepared *one = malloc(sizeof *one);
    if (one == NULL)
        return false;
    one->statement = statement;
    if (!map_add(&prepared->map, &one->node, key_of(&one->statement))) {
        free(one);
        return false;
    }
    statement_hold(statement);
    link_newest(prepared, one);
    return true;
}

static void drop(PreparedStatements *prepared, Prepared *one)
{
    unlink_prepared(prepared, one);
    map_remove(&prepared->map, &one->node);
    statement_release(one->statement);
    free(one);
}

void prepared_remove(PreparedStatements *prepared, Statement *statement)
{
    Prepared *one = (Prepared *)map_find(&prepared->map, key_of(&statement));
    if (one != NULL)
        drop(prepared, one);
}

void prepared_free(PreparedStatements *prepared)
{
    while (prepared->newest != NULL)
        drop(prepared, prepared->newest);
    map_free(&prepared->map);
}
