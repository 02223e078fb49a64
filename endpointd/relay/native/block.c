#include "block.h"

#include <stdlib.h>
#include <string.h>

#include "scan.h"

enum { NAMES_MAX = 256 };

struct StatementName {
    StatementName *next;
    size_t len;
    uint8_t name[];
};

void block_free(Block *block)
{
    while (block->endings != NULL) {
        StatementName *first = block->endings;
        block->endings = first->next;
        free(first);
    }
}

static bool is_ending(const Block *block, Slice name)
{
    for (const StatementName *each = block->endings; each != NULL; each = each->next)
        if (each->len == name.len && (name.len == 0 || memcmp(each->name, name.at, name.len) == 0))
            return true;
    return false;
}

/* Follow a statement by its name; where that cannot be done, nothing is followed any longer. */
static void follow(Block *block, Slice name)
{
    if (is_ending(block, name))
        return;
    StatementName *added = malloc(sizeof *added + name.len);
    if (added == NULL) {
        block->is_lost = true;
        return;
    }
    added->next = block->endings;
    added->len = name.len;
    if (name.len > 0)
        memcpy(added->name, name.at, name.len);
    block->endings = added;
    block->is_lost = ++block->endings_count > NAMES_MAX;
}

bool block_prepared(Block *block, Slice payload)
{
    block->is_open = true;
    Slice text = payload;
    Slice name = slice_string(&text);
    bool ends = payload.len >= COLLECTED_BYTES_MAX || may_end(text);
    if (name.len == 0)
        block->unnamed = ends ? UNNAMED_ENDS : UNNAMED_HARMLESS;
    if (ends && !block->is_lost)
        follow(block, name);
    return ends || block->is_lost;
}

bool block_bound(Block *block, Slice payload)
{
    block->is_open = true;
    Slice rest = payload;
    Slice portal = slice_string(&rest);
    Slice statement = slice_string(&rest);
    bool ends = statement.len == 0 && block->unnamed != UNNAMED_UNKNOWN ? block->unnamed == UNNAMED_ENDS
                                                                        : is_ending(block, statement);
    if (portal.len == 0) {
        block->is_bound = true;
        block->is_pending = ends;
    }
    return ends || block->is_lost;
}

bool block_executed(Block *block, Slice payload)
{
    block->is_open = true;
    Slice rest = payload;
    Slice portal = slice_string(&rest);
    bool ends = portal.len > 0 || block->is_pending || !block->is_bound;
    if (portal.len == 0)
        block->is_pending = false;
    return ends || block->is_lost;
}

bool block_synced(Block *block)
{
    block->is_open = false;
    block->is_lost = block->is_lost || block->is_pending;
    block->unnamed = UNNAMED_UNKNOWN;
    block->is_bound = block->is_pending = false;
    return block->is_lost;
}
