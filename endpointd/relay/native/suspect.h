/* Which statements may leave something in a session that its next user would find, or its own user would miss.
 *
 * Most are harmless by their words alone.  What Python found of the others (pooling/statestatements.py) is kept by their text.
 */
#ifndef ENDPOINTD_SUSPECT_H
#define ENDPOINTD_SUSPECT_H

#include "map.h"

/* Whether a statement has words that somebody who knows the grammar has to look at.  Never false for one that matters. */
bool is_suspicious(Slice text);

/* What was found: 0 or why the session is to be pinned, and what else is to be known of it. */
typedef uint8_t Verdict;
enum {
    FORGETS_STATEMENTS = 0x80, /* DISCARD ALL, DEALLOCATE: what is prepared at the server may be gone */
    OUTLASTS_DISCARD = 0x40,   /* it leaves something that DISCARD ALL does not undo */
    REASON_MASK = 0x3F,
};

typedef struct {
    Map map;
    size_t bytes;
} Verdicts;

/* False: it is not known. */
bool verdicts_find(const Verdicts *verdicts, Slice text, Verdict *verdict);
void verdicts_add(Verdicts *verdicts, Slice text, Verdict verdict);
void verdicts_free(Verdicts *verdicts);

#endif
