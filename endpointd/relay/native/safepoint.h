/* What a session is doing, told from the messages of both directions: the twin of relay/safepoint.py, where the reasons are.
 *
 * One thing is left to Python: what a statement that speaks of synchronous_commit or client_min_messages relaxes.  Such
 * statements are kept (`texts`) until somebody has looked at them and says what they relax (`relaxed`).
 */
#ifndef ENDPOINTD_SAFEPOINT_H
#define ENDPOINTD_SAFEPOINT_H

#include "block.h"
#include "scan.h"

/* What the client waits for: the kinds of the messages that a ReadyForQuery answers, the oldest first. */
typedef struct {
    uint8_t *heap; /* when there are more than fit here */
    uint32_t begin;
    uint32_t len;
    uint32_t cap;
    uint8_t few[12];
} Outstanding;

/* A statement to be looked at. */
typedef struct Text Text;
struct Text {
    Text *next;
    size_t len;
    uint8_t bytes[];
};

enum { TEXTS_BYTES_MAX = 1 << 18 }; /* that nobody has looked at yet, beyond which a client is not read */

typedef enum { DOING_IDLE, DOING_IN_TRANSACTION, DOING_BUSY } Doing;

typedef struct {
    Scanner client;
    Scanner server;
    Outstanding outstanding;
    Block block;
    Text *texts; /* the oldest first */
    Text *texts_last;
    size_t texts_bytes;
    int cancels;
    uint8_t status; /* of the last ReadyForQuery */
    uint8_t relaxed;
    bool is_watched;
    bool may_end_block;
    uint32_t swallowed; /* Syncs that nothing answers, and that whoever expects answers has not been told of */
    bool swallowed_behind_first; /* which is answered */
    bool copying_in;
    bool unsynced;
    bool only_flushed; /* since all that the client had begun was closed it has said nothing but Flush */
    bool is_in_doubt;
    bool is_streaming;
    bool client_terminated;
    bool server_said_goodbye;
} SafePoint;

#define NOT_WATCHED (-1)
#define CONFIRMED INT64_MIN

/* *watch*: NOT_WATCHED, or what the client is known to have relaxed (RELAXES_*). */
void safepoint_init(SafePoint *point, int watch);
void safepoint_free(SafePoint *point);

/* Have what becomes of statements among the frames of what the server sent: ParseComplete, BindComplete, CloseComplete, and
 * CommandComplete with its tag. */
void safepoint_tell_statements(SafePoint *point);

void safepoint_cancel_begins(SafePoint *point);
void safepoint_cancel_ended(SafePoint *point);

/* Note what the client relaxes; return what is new. */
unsigned safepoint_relaxes(SafePoint *point, unsigned relaxed);

/* Take the oldest statement that is to be looked at, which is the caller's to free; NULL if there is none. */
Text *safepoint_take_text(SafePoint *point);

/* A text with these bytes; NULL: there is no memory. */
Text *text_of(Slice statement);

ScanResult safepoint_client_sent(SafePoint *point, const uint8_t *chunk, size_t len, Frames *scratch);

/* *unconfirmed*: where in the chunk what the client may have ends, if a commit in it is not confirmed or in doubt (negative if
 * that was in an earlier chunk); else CONFIRMED. */
ScanResult safepoint_server_sent(SafePoint *point, const uint8_t *chunk, size_t len, Frames *scratch, int64_t *unconfirmed);

Doing safepoint_doing(const SafePoint *point);

static inline bool safepoint_may_have_committed(const SafePoint *point)
{
    return point->may_end_block && !point->is_streaming;
}

#endif
