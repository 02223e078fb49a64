#include "tail.h"

#include <stdlib.h>
#include <string.h>

bool tail_hold_back(Tail *tail, const uint8_t *data, size_t len)
{
    size_t needed = tail->len + len;
    if (len == 0)
        return true;
    if (tail->at == NULL || needed > tail->cap) {
        size_t cap = tail->cap ? tail->cap : 64;
        while (cap < needed)
            cap *= 2;
        uint8_t *grown = realloc(tail->at, cap);
        if (grown == NULL)
            return false;
        tail->at = grown;
        tail->cap = (uint32_t)cap;
    }
    memcpy(tail->at + tail->len, data, len);
    tail->len = (uint32_t)needed;
    return true;
}

void tail_free(Tail *tail)
{
    free(tail->at);
    *tail = (Tail){0};
}
