/* Statements that make a session forget what it has prepared, each alone: DEALLOCATE name, DEALLOCATE ALL, DISCARD ALL. */
#ifndef ENDPOINTD_FORGETS_H
#define ENDPOINTD_FORGETS_H

#include "words.h"

enum { FORGOTTEN_NAME_BYTES_MAX = 63 }; /* NAMEDATALEN - 1: a server cuts a longer name off */

typedef enum { FORGETS_NOTHING, FORGETS_ONE, FORGETS_ALL, DISCARDS_ALL } Forgetting;

typedef struct {
    uint8_t what;     /* Forgetting */
    bool is_replaced; /* the server is told to do something that does nothing in its stead */
    uint8_t len;
    uint8_t name[FORGOTTEN_NAME_BYTES_MAX]; /* of FORGETS_ONE, as the server understands it */
} Forgets;

/* What a statement forgets.  FORGETS_NOTHING too for what is not plain: several statements, names that are written in escapes,
 * are too long or, without quotes, not ASCII. */
Forgets forgets_of(Slice text);

#endif
