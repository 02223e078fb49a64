/* The beginning of a message of a server's that is held back, so that last words can be put between two messages. */
#ifndef ENDPOINTD_TAIL_H
#define ENDPOINTD_TAIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HELD_BYTES_MAX = 1 << 16 }; /* a longer message is passed on as it comes */

typedef struct {
    uint8_t *at;
    uint32_t len;
    uint32_t cap;
} Tail;

/* Hold back some more.  False: there is no memory. */
bool tail_hold_back(Tail *tail, const uint8_t *data, size_t len);

void tail_free(Tail *tail);

#endif
