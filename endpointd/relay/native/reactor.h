/* A thread that serves parties, woken by one epoll, and what its owner's thread says to it in between.
 *
 * One mutex guards everything.  The owner holds it for microseconds at a time; the reactor's thread holds it while it works, and
 * lets an owner who waits in between two parties.  What the owner has to be told stands in a list until it is asked for; a
 * descriptor says that there is something in it.
 */
#ifndef ENDPOINTD_REACTOR_H
#define ENDPOINTD_REACTOR_H

#include <pthread.h>
#include <stdatomic.h>

#include "end.h"

typedef struct Reactor Reactor;
typedef struct Text Text;

/* Whatever has a handle and ends; the first member of what it is. */
struct Party {
    uint64_t handle; /* 0: it was never let in */
    uint8_t kind;    /* which of those that the reactor has */
    uint32_t news;   /* what the owner is to be told; the first bit is told first */
    bool has_news;   /* stands in the list of those who have */
    bool is_ready;   /* stands in the list of those who can go on */
    bool is_buried;
    Party *next_news;
    Party *next_ready;
    Party *next_buried;
};

/* What became of one of a party's news when it was its turn. */
typedef enum { TOLD, TOLD_IN_PART, NOTHING_TO_TELL } Telling;

/* What the parties of a reactor are. */
typedef struct {
    const char *name; /* of the thread */
    /* How long at most until *turned* is called again while there are parties; 0: only when something happens. */
    int tick_ms;
    /* Do what can be done now. */
    void (*serve)(Party *party);
    /* What goes with one of its news, which is told now, and again if that was only a part.  *text* is the owner's to free. */
    Telling (*tell)(Reactor *reactor, Party *party, uint32_t news, uint64_t *number, Text **text);
    /* Bury it, if it is over and nobody has to be told any more. */
    void (*settle)(Party *party);
    void (*free)(Party *party);
    /* What is done behind each turn; NULL: nothing. */
    void (*turned)(Reactor *reactor);
} Trade;

struct Reactor {
    const Trade *trade;
    pthread_mutex_t mutex;
    pthread_cond_t owner_left;
    atomic_int owners_waiting;
    pthread_t thread;
    bool is_running;
    bool is_closing;
    bool is_asleep; /* or about to be: whoever has work for it wakes it */
    int epoll_fd;
    int wake_fd;
    int news_fd;
    Party **parties; /* by the lower half of their handles */
    uint32_t parties_len;
    uint32_t parties_cap;
    uint32_t *free_places;
    uint32_t free_len;
    uint32_t generation;
    Party *news_first;
    Party *news_last;
    Party *ready_first;
    Party *ready_last;
    Party *buried; /* freed when no event can speak of them any more */
    Deadlines heard_out;
    Deadlines lingering;
};

enum {
    READS_PER_TURN = 8,        /* of one end, before others have their turn */
    HELD_BYTES_MAX = 1 << 16, /* of a message of a server's; a longer one is passed on as it comes */
};

/* Make something of so many bytes whose first member is a reactor; all others are zero.  NULL and errno if that cannot be done. */
void *reactor_new(size_t size, const Trade *trade);

/* End the thread, free all parties and close everything. */
void reactor_close(Reactor *reactor);

bool reactor_try_enter(Reactor *reactor);
void reactor_enter(Reactor *reactor);
void reactor_leave(Reactor *reactor);

/* The rest: between enter and leave. */

/* Make sure that there is a thread, and a place for one more.  False and errno if there is none. */
bool reactor_prepare(Reactor *reactor);

/* Have epoll tell of an end, whose party need not be in yet.  False and errno. */
bool reactor_watch(Reactor *reactor, End *end);

/* Let a party in; give it a handle. */
void reactor_admit(Reactor *reactor, Party *party);

/* NULL if nothing is left of it. */
Party *reactor_find(const Reactor *reactor, uint64_t handle);

/* Take one thing that the owner is to be told; 0 if there is none. */
uint32_t reactor_take_news(Reactor *reactor, uint64_t *handle, uint64_t *number, Text **text);

/* For parties. */
void reactor_tell(Reactor *reactor, Party *party, uint32_t news);
void reactor_ready(Reactor *reactor, Party *party);
void reactor_bury(Reactor *reactor, Party *party);

/* Close an end when all is sent, or its time is over. */
void reactor_let_leave(Reactor *reactor, End *end);

/* Say goodbye at an end, hear the peer out for a moment, and close it. */
void reactor_let_finish(Reactor *reactor, End *end);

int64_t reactor_now_ms(void);

#endif
