/* Whether what a client has under way may end its transaction block: the twin of relay/block.py, where the reasons are. */
#ifndef ENDPOINTD_BLOCK_H
#define ENDPOINTD_BLOCK_H

#include "words.h"

/* A prepared statement that may end a block. */
typedef struct StatementName StatementName;

typedef struct {
    StatementName *endings;
    uint16_t endings_count;
    enum { UNNAMED_UNKNOWN, UNNAMED_HARMLESS, UNNAMED_ENDS } unnamed;
    bool is_bound;   /* something was bound to the unnamed portal since the last Sync */
    bool is_pending; /* what is bound to it is an ending, and was not executed yet */
    bool is_lost;    /* an ending is where it is not followed: everything may be one from now on */
    bool is_open;    /* something is prepared, bound or executed that no Sync has followed yet */
} Block;

void block_free(Block *block);

static inline bool block_is_followed(const Block *block)
{
    return block->endings != NULL;
}

/* Take note of a message; each returns whether it may end a block. */
bool block_prepared(Block *block, Slice payload);
bool block_bound(Block *block, Slice payload);
bool block_executed(Block *block, Slice payload);
bool block_synced(Block *block);

#endif
