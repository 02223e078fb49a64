/* Bytes that are kept until more of them have come. */
#ifndef ENDPOINTD_BYTES_H
#define ENDPOINTD_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint8_t *at;
    uint32_t len;
    uint32_t cap;
} Bytes;

/* Keep some more.  False: there is no memory. */
bool bytes_append(Bytes *bytes, const uint8_t *data, size_t len);

void bytes_free(Bytes *bytes);

#endif
