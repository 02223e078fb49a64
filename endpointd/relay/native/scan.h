/* Where messages begin and end in one direction of a connection: the twin of pgwire/framing.py (Scanner).
 *
 * A message is one byte of kind, four bytes of length that count themselves, and payload (PostgreSQL documentation, "Message
 * Formats").  Payload is neither looked at nor copied, but for the kinds that are collected.
 */
#ifndef ENDPOINTD_SCAN_H
#define ENDPOINTD_SCAN_H

#include "bytes.h"

enum {
    HEADER_BYTES = 5,
    COLLECTED_BYTES_MAX = 1 << 16, /* of a payload that is collected */
};

/* A set of kinds.  All that are asked for are ASCII. */
typedef struct {
    uint64_t bits[2];
} KindSet;

static inline bool kind_in(const KindSet *set, uint8_t kind)
{
    return kind < 128 && (set->bits[kind >> 6] >> (kind & 63) & 1);
}

void kinds_add(KindSet *set, const char *kinds);

/* A message that the scanner was asked to tell about. */
typedef struct {
    uint8_t kind;
    int64_t begin; /* where it begins in the chunk that completed it; negative if that was in an earlier one */
    int64_t end;
    const uint8_t *payload; /* of a collected kind; valid until the next scan */
    size_t payload_len;
} Frame;

/* What a scan has found.  One is enough for all scanners that are fed one after the other. */
typedef struct {
    Frame *at;
    size_t len;
    size_t cap;
    uint8_t *part; /* the collected payload of the first message, if it began in an earlier chunk */
} Frames;

void frames_free(Frames *frames);

typedef struct {
    KindSet told; /* the collected ones too */
    KindSet collected;
    uint64_t skip;    /* bytes that the unfinished message lacks, if its header is known */
    uint32_t length;  /* of that message, as its header has it */
    Bytes part;       /* what was collected of it */
    int64_t boundary; /* where in the last chunk its last complete message ended; 0 if none did */
    uint8_t head[HEADER_BYTES];
    uint8_t head_len;
    uint8_t last_kind; /* of the message whose header was seen last; 0 before the first */
    bool has_part;
} Scanner;

typedef enum {
    SCAN_OK,
    SCAN_BROKEN,    /* an impossible length: no chain of messages */
    SCAN_NO_MEMORY, /* nor can it be followed any longer */
} ScanResult;

void scanner_init(Scanner *scanner, const char *told, const char *collected);
void scanner_free(Scanner *scanner);

/* Tell about these kinds too, from the next chunk on. */
void scanner_ask_for_told(Scanner *scanner, const char *kinds);
void scanner_ask_for_collected(Scanner *scanner, const char *kinds);

static inline bool scanner_at_boundary(const Scanner *scanner)
{
    return scanner->skip == 0 && scanner->head_len == 0;
}

/* Walk through a chunk.  If it is broken nothing of it is told. */
ScanResult scanner_feed(Scanner *scanner, const uint8_t *chunk, size_t len, Frames *found);

#endif
