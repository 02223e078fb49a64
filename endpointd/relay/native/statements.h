/* Prepared statements of the protocol: what clients call them, and what servers have of them.
 *
 * A statement is what stands in a Parse behind the name: a text and the types of its parameters.  Whoever prepares the same
 * shares it, and at every server it has the same name, made of its number.
 */
#ifndef ENDPOINTD_STATEMENTS_H
#define ENDPOINTD_STATEMENTS_H

#include "forgets.h"
#include "map.h"

enum {
    SERVER_NAME_BYTES_MAX = 32,
    NAMES_PER_CLIENT_MAX = 10000,
    BYTES_PER_CLIENT_MAX = 1 << 26, /* of its names and statements */
};

typedef struct {
    Map map;
    uint64_t last_number;
} Statements;

typedef struct {
    MapNode node;
    Statements *among; /* NULL: nobody else who prepares the same will share it */
    uint64_t number;
    Forgets *forgets; /* what it does, if it is one of these; then nobody shares it */
    uint32_t references;
    uint32_t len;
    uint8_t body[];
} Statement;

/* Return the statement of a Parse's *body*, which the caller then holds; NULL if there is no memory. */
Statement *statement_intern(Statements *statements, Slice body, const Forgets *forgets);
void statement_hold(Statement *statement);
void statement_release(Statement *statement);

/* A server says that what it has of a statement is out of date: whoever prepares it from now on has it anew. */
void statement_is_stale(Statement *statement);

/* The schema has changed: that may be true of all there are. */
void statements_are_stale(Statements *statements);

/* Write what servers call it, and the zero byte behind; return how many bytes these are. */
size_t statement_name(const Statement *statement, uint8_t name[SERVER_NAME_BYTES_MAX]);

void statements_free(Statements *statements);

/* What one client calls its statements. */
typedef struct {
    MapNode node;
    Statement *statement;
    uint32_t serial; /* of the Parse */
    uint8_t name[];
} NamedStatement;

typedef struct {
    Map map;
    uint64_t bytes; /* of the names, and of the statements, which others may share */
} Names;

NamedStatement *names_find(const Names *names, Slice name);

/* Have *name* stand for *statement*, which is held from now on.  NULL: there is no memory, or they are too many or too long. */
NamedStatement *names_set(Names *names, Slice name, Statement *statement, uint32_t serial);
/* Take one out, which is the caller's then: to be put back, if there is none of its name by then, or freed. */
void names_take(Names *names, NamedStatement *named);
void names_put_back(Names *names, NamedStatement *named);
void named_free(NamedStatement *named);
/* Take out all, which are a list by their nodes then; put all of a list back; free all of one. */
NamedStatement *names_take_all(Names *names);
void names_put_all_back(Names *names, NamedStatement *first);
void named_free_all(NamedStatement *first);
/* The Parse with this *serial*, of a name with this hash, failed. */
void names_undo(Names *names, uint32_t serial, uint32_t hash);
void names_free(Names *names);

/* What one server has. */
typedef struct Prepared Prepared;
struct Prepared {
    MapNode node;
    Statement *statement;
    Prepared *newer;
    Prepared *older;
};

typedef struct {
    Map map;
    Prepared *newest;
    Prepared *oldest;
} PreparedStatements;

/* Whether the server has it; it was used last then. */
bool prepared_use(PreparedStatements *prepared, Statement *statement);
bool prepared_add(PreparedStatements *prepared, Statement *statement);
/* It is no error if the server does not have it. */
void prepared_remove(PreparedStatements *prepared, Statement *statement);
void prepared_free(PreparedStatements *prepared);

#endif
