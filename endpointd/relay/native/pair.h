/* Two ends, joined, and what is known of the session: the twin of relay/asyncio_engine.py (Pair). */
#ifndef ENDPOINTD_PAIR_H
#define ENDPOINTD_PAIR_H

#include "reactor.h"
#include "safepoint.h"

typedef struct Engine Engine;

/* What an owner is to be told of a pair.  The first is told first. */
enum {
    NEWS_TEXT = 1 << 0, /* statements to be looked at */
    NEWS_STREAMING = 1 << 1,
    NEWS_PAUSED = 1 << 2,
    NEWS_CLIENT_ENDED = 1 << 3,
    NEWS_CLIENT_NOT_UNDERSTOOD = 1 << 4,
    NEWS_SERVER_ENDED = 1 << 5,
    NEWS_COMMIT_UNCONFIRMED = 1 << 6,
    NEWS_COMMIT_IN_DOUBT = 1 << 7,
    NEWS_GONE = 1 << 8, /* nothing of the client's connection is left */
};

typedef struct {
    Party party;
    Engine *engine;
    End client;
    End server;
    SafePoint point;
    Bytes tail; /* the beginning of a message of the server's, so that last words can be put between two messages */
    uint64_t to_server_bytes;
    uint64_t to_client_bytes;
    bool client_is_mid_message;
    bool is_pausing;
    bool is_paused;
    bool is_stopped;
    bool is_dropped;
    bool is_gone; /* NEWS_GONE was told */
    bool keeps_server;
    bool goodbye_is_known; /* the server was told that the client says no more */
} Pair;

typedef struct {
    uint64_t to_server_bytes;
    uint64_t to_client_bytes;
    uint64_t held_bytes;
    Doing doing;
    bool is_awaited;
    bool is_streaming;
    bool may_have_committed;
    bool client_terminated;
    bool client_has_ended;
    bool server_said_goodbye;
} Facts;

/* An owner's words; see relay/engine.py. */
void pair_start(Pair *pair, Slice welcome, Slice server_rest, Slice client_rest);
void pair_pause(Pair *pair);
void pair_resume(Pair *pair);
void pair_halt(Pair *pair);
void pair_drop(Pair *pair, Slice farewell);
void pair_close_server(Pair *pair);
int pair_take_server(Pair *pair); /* -1 if it has to go */
Facts pair_facts(const Pair *pair);

/* Tell of a statement that waits to be looked at; the party may have waited for that. */
Telling tell_text(Reactor *reactor, Party *party, SafePoint *point, Text **text);

/* See Trade. */
void pair_serve(Party *party);
Telling pair_tell(Reactor *reactor, Party *party, uint32_t news, uint64_t *number, Text **text);
void pair_settle(Party *party);
void pair_free(Party *party);

#endif
