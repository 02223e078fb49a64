#include "scan.h"

#include <stdlib.h>
#include <string.h>

#define LENGTH_MIN 4u
#define LENGTH_MAX 0x7FFFFFFFu

void kinds_add(KindSet *set, const char *kinds)
{
    for (; *kinds != '\0'; kinds++) {
        uint8_t kind = (uint8_t)*kinds;
        set->bits[kind >> 6 & 1] |= UINT64_C(1) << (kind & 63);
    }
}

void frames_free(Frames *frames)
{
    free(frames->at);
    free(frames->part);
    memset(frames, 0, sizeof *frames);
}

void scanner_init(Scanner *scanner, const char *told, const char *collected)
{
    memset(scanner, 0, sizeof *scanner);
    kinds_add(&scanner->told, told);
    scanner_ask_for_collected(scanner, collected);
}

void scanner_free(Scanner *scanner)
{
    bytes_free(&scanner->part);
}

void scanner_ask_for_told(Scanner *scanner, const char *kinds)
{
    kinds_add(&scanner->told, kinds);
}

void scanner_ask_for_collected(Scanner *scanner, const char *kinds)
{
    kinds_add(&scanner->told, kinds);
    kinds_add(&scanner->collected, kinds);
}

static uint32_t length_at(const uint8_t *header)
{
    return (uint32_t)header[1] << 24 | (uint32_t)header[2] << 16 | (uint32_t)header[3] << 8 | header[4];
}

/* Keep so much of a payload that comes in several chunks; what is beyond COLLECTED_BYTES_MAX is not kept. */
static bool collect(Scanner *scanner, const uint8_t *data, uint64_t len)
{
    uint64_t room = COLLECTED_BYTES_MAX - scanner->part.len;
    uint32_t kept = (uint32_t)(len < room ? len : room);
    return bytes_append(&scanner->part, data, kept);
}

static Frame *frame_add(Frames *found, uint8_t kind, int64_t begin, int64_t end)
{
    if (found->len == found->cap) {
        size_t cap = found->cap ? found->cap * 2 : 32;
        Frame *grown = realloc(found->at, cap * sizeof *grown);
        if (grown == NULL)
            return NULL;
        found->at = grown;
        found->cap = cap;
    }
    Frame *frame = &found->at[found->len++];
    *frame = (Frame){.kind = kind, .begin = begin, .end = end};
    return frame;
}

/* Tell about the message that an earlier chunk began; its payload changes hands. */
static bool finish_part(Scanner *scanner, const uint8_t *chunk, uint64_t rest, Frames *found)
{
    if (scanner->has_part && !collect(scanner, chunk, rest))
        return false;
    Frame *frame = frame_add(found, scanner->last_kind, (int64_t)rest - scanner->length - 1, (int64_t)rest);
    if (frame == NULL)
        return false;
    if (scanner->has_part) {
        found->part = scanner->part.at;
        frame->payload = scanner->part.at;
        frame->payload_len = scanner->part.len;
        scanner->part = (Bytes){0};
        scanner->has_part = false;
    }
    return true;
}

/* Take up a message whose header is known: tell about it if it ends in this chunk, else remember what is missing. */
static ScanResult take_up(Scanner *scanner, const uint8_t *chunk, size_t len, int64_t begin, uint8_t kind, uint32_t length,
                          Frames *found)
{
    if (length < LENGTH_MIN || length > LENGTH_MAX)
        return SCAN_BROKEN;
    int64_t after = begin + length + 1;
    int64_t payload = begin + HEADER_BYTES;
    scanner->length = length;
    if (after > (int64_t)len) {
        scanner->skip = (uint64_t)(after - (int64_t)len);
        if (kind_in(&scanner->collected, kind)) {
            scanner->has_part = true;
            if (!collect(scanner, chunk + payload, (uint64_t)((int64_t)len - payload)))
                return SCAN_NO_MEMORY;
        }
        return SCAN_OK;
    }
    if (!kind_in(&scanner->told, kind))
        return SCAN_OK;
    Frame *frame = frame_add(found, kind, begin, after);
    if (frame == NULL)
        return SCAN_NO_MEMORY;
    if (kind_in(&scanner->collected, kind)) {
        frame->payload = chunk + payload;
        frame->payload_len = (size_t)(after - payload < COLLECTED_BYTES_MAX ? after - payload : COLLECTED_BYTES_MAX);
    }
    return SCAN_OK;
}

static ScanResult broken(Frames *found, ScanResult why)
{
    found->len = 0;
    return why;
}

ScanResult scanner_feed(Scanner *scanner, const uint8_t *chunk, size_t len, Frames *found)
{
    uint8_t kind = scanner->last_kind;
    uint64_t pos = 0;
    int64_t boundary = 0;

    found->len = 0;
    free(found->part);
    found->part = NULL;

    if (scanner->skip > 0) {
        if (scanner->skip > len) {
            scanner->skip -= len;
            scanner->boundary = 0;
            if (scanner->has_part && !collect(scanner, chunk, len))
                return SCAN_NO_MEMORY;
            return SCAN_OK;
        }
        pos = scanner->skip;
        scanner->skip = 0;
        boundary = (int64_t)pos;
        if (kind_in(&scanner->told, kind) && !finish_part(scanner, chunk, pos, found))
            return broken(found, SCAN_NO_MEMORY);
    } else if (scanner->head_len > 0) {
        size_t need = (size_t)HEADER_BYTES - scanner->head_len;
        if (len < need) {
            memcpy(scanner->head + scanner->head_len, chunk, len);
            scanner->head_len = (uint8_t)(scanner->head_len + len);
            scanner->boundary = 0;
            return SCAN_OK;
        }
        int64_t begin = -(int64_t)scanner->head_len;
        memcpy(scanner->head + scanner->head_len, chunk, need);
        scanner->head_len = 0;
        kind = scanner->head[0];
        uint32_t length = length_at(scanner->head);
        ScanResult result = take_up(scanner, chunk, len, begin, kind, length, found);
        if (result != SCAN_OK)
            return broken(found, result);
        if (scanner->skip > 0) {
            scanner->last_kind = kind;
            scanner->boundary = 0;
            return SCAN_OK;
        }
        pos = (uint64_t)(begin + length + 1);
        boundary = (int64_t)pos;
    }

    /* The one loop that runs once per row of a bulk result. */
    while (pos + HEADER_BYTES <= len) {
        kind = chunk[pos];
        uint32_t length = length_at(chunk + pos);
        uint64_t after = pos + length + 1;
        if (kind_in(&scanner->told, kind) || after > len || length < LENGTH_MIN) {
            ScanResult result = take_up(scanner, chunk, len, (int64_t)pos, kind, length, found);
            if (result != SCAN_OK)
                return broken(found, result);
            if (scanner->skip > 0)
                goto done;
        }
        pos = after;
        boundary = (int64_t)after;
    }
    if (pos < len) {
        scanner->head_len = (uint8_t)(len - pos);
        memcpy(scanner->head, chunk + pos, len - pos);
    }
done:
    scanner->last_kind = kind;
    scanner->boundary = boundary;
    return SCAN_OK;
}
