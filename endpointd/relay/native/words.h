/* What is looked for in the payload of messages.  Letters count as in Python's regular expressions over bytes: ASCII alone. */
#ifndef ENDPOINTD_WORDS_H
#define ENDPOINTD_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that are somebody else's. */
typedef struct {
    const uint8_t *at;
    size_t len;
} Slice;

bool slice_is(Slice slice, const char *word);
bool slice_begins(Slice slice, const char *word);
bool slice_has(Slice slice, const char *word);

/* Take what stands before the next zero byte off the front of *rest; all of it if there is none. */
Slice slice_string(Slice *rest);

/* Whether a statement may end a transaction block, or is too long to be seen whole (relay/block.py). */
bool may_end(Slice text);

/* Which settings a statement speaks of that may weaken commits: what relay/relaxed.py has to look at. */
enum {
    RELAXES_COMMITS = 1,  /* synchronous_commit */
    RELAXES_WARNINGS = 2, /* client_min_messages */
};
unsigned speaks_of(Slice text);

/* The fields of an ErrorResponse or NoticeResponse that matter here (PostgreSQL documentation, "Error and Notice Message
 * Fields").  All are empty if it is not well formed. */
typedef struct {
    Slice severity; /* not translated: V, or S of a server that sends no V */
    Slice sqlstate; /* C */
    Slice routine;  /* R */
} ReportFields;

ReportFields read_report(Slice payload);

#endif
