/* Transaction pooling: many clients take turns at few servers.  A thread of its own (reactor.h), beside that of the relay engine.
 *
 * A client has a server from the first message of a transaction until everything is answered and no transaction is open; one
 * that leaves state in its session has it from then on (it is pinned).
 */
#ifndef ENDPOINTD_POOLER_H
#define ENDPOINTD_POOLER_H

#include "pair.h"
#include "statements.h"
#include "suspect.h"

enum {
    POOL_READ_BYTES = 1 << 16,
    POOL_ARENA_BYTES = 1 << 15,
    POOL_PARTS_MAX = 64,
};

/* What the owner is to be told, beyond what pair.h has.  The first is told first. */
enum {
    NEWS_QUESTION = 1 << 9, /* of a client: what of its statement? */
    NEWS_PINNED = 1 << 10,
    NEWS_WAITED_TOO_LONG = 1 << 11,
    NEWS_LIMIT = 1 << 12,       /* the client wants more than is given to one */
    NEWS_SERVER_GONE = 1 << 13, /* of a server: it is closed */
    NEWS_WANTS_SERVER = 1 << 14, /* of a pool */
};

/* Why the engine itself pins a session; the other reasons are Python's. */
enum { PINNED_LONG_STATEMENT = 1 };

typedef struct Pooler Pooler;
typedef struct Pool Pool;
typedef struct PoolServer PoolServer;
typedef struct PoolClient PoolClient;

/* The kinds of parties. */
enum { PARTY_POOL, PARTY_SERVER, PARTY_CLIENT };

typedef struct {
    uint64_t waits;   /* how often a client had to wait for a server */
    uint64_t waited_ms;
    uint64_t parses;  /* that were passed on, or made for a server that lacked one */
    uint64_t evicted; /* statements */
} PoolCounts;

struct Pool {
    Party party;
    Pooler *pooler;
    PoolServer *idle_first; /* whoever came last: it is given out next */
    PoolServer *idle_last;
    PoolClient *waiting_first;
    PoolClient *waiting_last;
    uint32_t servers; /* all of them */
    uint32_t idle;
    uint32_t waiting;
    uint32_t parties; /* clients and servers of which something is left: they know it */
    uint32_t clients;
    uint32_t pinned; /* of these: they keep their servers */
    uint32_t dialled; /* asked for, and not there yet */
    uint32_t asked;   /* of these, what the owner has not been told of */
    uint32_t size_max;
    uint32_t idle_min;
    uint32_t statements_max; /* at one server */
    int64_t wait_max_ms;
    int64_t idle_max_ms;
    int64_t age_max_ms;
    PoolCounts counts;
    bool is_closed;
};

struct PoolServer {
    Party party;
    End end;
    Pool *pool;
    PoolClient *client;
    PoolServer *next; /* idle ones */
    PoolServer *previous;
    PreparedStatements prepared;
    Scanner scanner; /* while it settles */
    uint64_t unnamed_of; /* whose unnamed statement it has */
    uint32_t unnamed_serial;
    int cancels;
    int64_t since_ms;
    int64_t idle_since_ms;
    bool is_idle;
    bool is_paused;
    bool is_retired;   /* it is closed when its client lets go of it */
    bool was_cancelled;
    bool is_settling;  /* it was cancelled, and has not shown yet that this is over */
    bool forgets;      /* what it has of names is not certain */
    bool is_told_to_end; /* when it has done what it was asked */
    bool is_dead;
};

/* An answer that is expected: of a Parse, Bind or Close, the tag of a statement that forgets others, or the end of what a Query
 * or Sync answers. */
typedef struct {
    uint8_t kind;
    bool is_swallowed; /* the client does not know that it was asked for */
    bool is_flipped;   /* a Close that stands for the client's Parse */
    bool is_risky;     /* the end of answers that names depend on */
    uint8_t forgets;   /* the tag that the client is to be given, or that ends what pins it: Forgetting */
    uint32_t serial;   /* of a Parse of the client's */
    uint32_t name_hash; /* of the name that this one gave */
    Statement *statement;
    NamedStatement *closed; /* by the client, a list; they are there again if the server does not come to it */
} Expected;

typedef struct {
    Expected *at;
    uint32_t begin;
    uint32_t len;
    uint32_t cap;
    uint32_t ends;    /* that are still to come */
    uint32_t risky;   /* ends of answers, still to come, that names depend on */
    bool is_risky;    /* what was said since the last Sync is such */
} ExpectedAnswers;

struct PoolClient {
    Party party;
    End end;
    Pool *pool;
    PoolServer *server;
    SafePoint point;
    Bytes in;      /* what it said and nobody has been given yet */
    uint64_t skip; /* bytes of its message that are passed on as they come */
    Bytes tail; /* see Pair */
    Names names;
    ExpectedAnswers expected;
    uint8_t *unnamed; /* the body of the Parse of its unnamed statement */
    uint32_t unnamed_len;
    uint32_t unnamed_cap;
    uint32_t unnamed_serial;
    uint32_t serial;
    bool has_unnamed;
    bool unnamed_is_new; /* it was prepared since the last Sync */
    uint64_t to_server_bytes;
    uint64_t to_client_bytes;
    uint64_t transactions; /* how often it was given a server */
    PoolClient *next; /* waiting ones */
    PoolClient *previous;
    int64_t waiting_since_ms;
    struct PoolForgetting *forgetting; /* poolforgets.h; NULL: nothing of that kind was said */
    uint8_t pinned; /* why first */
    uint8_t pin_told; /* what the owner is to be told of that */
    bool pins_since_discard; /* it has said something that pins since it last said DISCARD ALL */
    bool unnamed_pins;       /* its unnamed statement does, whenever it is executed */
    bool outlasts_discard; /* it is pinned by something too that DISCARD ALL does not undo */
    bool is_waiting;
    bool is_asking; /* what of its statement */
    bool may_redefine; /* it has discarded its statements, or tried to */
    bool has_changed_schema; /* in the transaction that is open */
    bool has_executed;  /* since its last Sync */
    bool is_open;       /* it has said something of the extended protocol since its last Sync */
    bool is_skipped;    /* and that failed: the server does nothing before the next Sync */
    bool drops;         /* what is skipped is given to nobody */
    bool needs_answers; /* what it says next depends on what became of what it said before the last Sync */
    bool needs_more;   /* in holds a part of a message */
    bool is_cancelled; /* while it waited: what it has said, up to the next answer, is refused */
    bool is_told_cancelled; /* and an answer is still to come, of what it said before a Flush */
    uint8_t refused;   /* the kind of the message that is refused */
    bool is_mid_message;
    bool is_pausing;
    bool is_paused;
    bool is_stopped;
    bool is_dropped;
    bool is_gone;
};

struct Pooler {
    Reactor reactor;
    int64_t now_ms; /* as of the last look */
    int64_t tick_at_ms;
    Frames frames;
    Statements statements;
    Verdicts verdicts;
    struct iovec parts[POOL_PARTS_MAX]; /* what is about to be sent */
    int parts_len;
    size_t arena_len;
    End *to;
    Buffer sealed; /* by TLS, of whoever says something */
    Buffer plain;
    uint8_t arena[POOL_ARENA_BYTES];
    uint8_t buffer[POOL_READ_BYTES];
};

/* Returns NULL and errno. */
Pooler *pooler_open(void);
void pooler_close(Pooler *pooler);

/* The rest: between reactor_enter and reactor_leave. */

/* Each returns 0 and errno if it cannot be done: then the descriptor is the caller's still. */
uint64_t pooler_add_pool(Pooler *pooler);
uint64_t pooler_add_client(Pooler *pooler, Pool *pool, Socket socket, int watch, Slice rest);
uint64_t pooler_add_server(Pooler *pooler, Pool *pool, Socket socket, bool is_paused);

/* Receive in plaintext what is there now, valid until the next time.  Nothing: *end->has_ended* says whether there ever will be
 * more, and *end->is_broken* whether that end is none. */
size_t pooler_receive(Pooler *pooler, End *end, uint8_t **data);

/* What is to be sent to an end, in as few calls as may be.  The bytes of *emit* must stay until the next flush. */
void emit_begin(Pooler *pooler, End *to);
void emit(Pooler *pooler, const void *bytes, size_t len);
void emit_copy(Pooler *pooler, const void *bytes, size_t len);
bool emit_flush(Pooler *pooler);

/* Pools and servers: pool.c. */

/* Give the client a server, now or as soon as its turn has come; return whether it has one. */
bool pool_attach(PoolClient *client);
/* Take the server of a client that is at a safe point. */
void pool_detach(PoolClient *client);
/* Close the server of a client that is not. */
void pool_abandon(PoolClient *client);
void pool_stop_waiting(PoolClient *client);
/* Give what is idle to who waits, and ask for more servers if that does not do. */
void pool_serve(Pool *pool);
void pool_tick(Pool *pool, int64_t now_ms);
void pool_close(Pool *pool);
void pool_dial_failed(Pool *pool);
/* Nothing is left of one of its clients or servers. */
void pool_bury(Pool *pool, Party *party);
/* Bury it, if it is closed and nothing is left of them. */
void pool_settle(Pool *pool);
void pool_server_serve(PoolServer *server);
/* Close it; its client, if it has one, is told. */
void pool_server_kill(PoolServer *server);
void pool_server_retire(PoolServer *server);
/* Have it end when it has done what it was asked, whatever comes of that. */
void pool_server_let_end(PoolServer *server);
void pool_server_pause(PoolServer *server, bool is_paused);
void pool_server_cancel_begins(PoolServer *server);
void pool_server_cancel_ended(PoolServer *server, bool is_over);
void pool_server_free(PoolServer *server);

/* Clients: poolclient.c, poolserverside.c. */
void pool_client_serve(PoolClient *client);
void pool_client_stop(PoolClient *client, uint32_t why);
/* Go on with what it said: it has a server now, or its statement was looked at. */
void pool_client_go_on(PoolClient *client);
/* Move nothing more of it. */
void pool_client_halt(PoolClient *client);
int64_t pool_client_waited_ms(const PoolClient *client);
void pool_client_pause(PoolClient *client);
void pool_client_resume(PoolClient *client);
/* Close the server of one that is paused. */
void pool_client_close_server(PoolClient *client);
void pool_client_drop(PoolClient *client, Slice farewell);
void pool_client_settle(PoolClient *client);
void pool_client_free(PoolClient *client);
/* Refuse what it waits for a server with; nothing if it does not wait. */
void pool_client_cancel_waiting(PoolClient *client);
Facts pool_client_facts(const PoolClient *client);
/* The statement that it asks about; empty if it asks no more. */
Slice pool_client_question(const PoolClient *client);
/* Whether it is at a safe point, and what follows from that. */
void pool_client_look(PoolClient *client);
void pool_client_from_server(PoolClient *client, uint8_t *data, size_t len);

/* Expected answers: poolserverside.c. */
bool expect(PoolClient *client, Expected answer);
/* The server has swallowed Syncs, as COPY does: nothing answers them. */
void expected_swallowed(PoolClient *client);
void expected_clear(PoolClient *client);

#endif
