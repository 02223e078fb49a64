/* What a client says, one message after the other, as its server is to be told: poolmessages.c, and of some poolforgets.c. */
#ifndef ENDPOINTD_POOLMESSAGES_H
#define ENDPOINTD_POOLMESSAGES_H

#include "pooler.h"

/* Take as much of *data* as can be passed on now, and pass it on; return how much that is.  The rest waits for the rest of a
 * message, for a server, or for what somebody says of a statement. */
size_t take_messages(PoolClient *client, const uint8_t *data, size_t len);

/* The rest: between poolmessages.c and poolforgets.c. */

enum { NAMES_BYTES_MAX = 1 << 12 }; /* of a portal's name and a statement's */

typedef enum { TAKEN, INCOMPLETE, WAITS, SWALLOWED } Taking;

/* A message, as far as it is there. */
typedef struct {
    uint8_t kind;
    const uint8_t *at;
    size_t here;
    uint64_t total;
} Message;

/* Statements of a pool are called so at servers. */
static const char OURS[] = "pooled_";

/* No statement is called so. */
static const uint8_t NOBODY[] = "pooled_none";

static inline bool is_whole(const Message *message)
{
    return message->here == message->total;
}

static inline Slice payload_of(const Message *message)
{
    return (Slice){message->at + HEADER_BYTES, message->here - HEADER_BYTES};
}

/* Making messages for the server. */
void emit_header(Pooler *pooler, uint8_t kind, size_t payload_len);
void emit_close(Pooler *pooler, const uint8_t *name, size_t name_len);
Taking pass_on(PoolClient *client, const Message *message);

/* An answer is expected; if there is no memory for it the client is told so. */
void expect_one(PoolClient *client, Expected answer);

/* Have the client have a server; false: it waits. */
bool attach(PoolClient *client);

/* Whether what becomes of the names in a message depends on answers that are still to come: of statements that were prepared or
 * closed before the last Sync, which may not have been. */
bool must_wait_for_answers(PoolClient *client);

#endif
