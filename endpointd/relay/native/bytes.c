#include "bytes.h"

#include <stdlib.h>
#include <string.h>

bool bytes_append(Bytes *bytes, const uint8_t *data, size_t len)
{
    size_t needed = bytes->len + len;
    if (len == 0)
        return true;
    if (bytes->at == NULL || needed > bytes->cap) {
        size_t cap = bytes->cap ? bytes->cap : 64;
        while (cap < needed)
            cap *= 2;
        uint8_t *grown = realloc(bytes->at, cap);
        if (grown == NULL)
            return false;
        bytes->at = grown;
        bytes->cap = (uint32_t)cap;
    }
    memcpy(bytes->at + bytes->len, data, len);
    bytes->len = (uint32_t)needed;
    return true;
}

void bytes_free(Bytes *bytes)
{
    free(bytes->at);
    *bytes = (Bytes){0};
}
