/* The engine: one thread that moves the bytes of all pairs, and what its owner's thread says to it in between.
 *
 * One mutex guards everything.  The owner holds it for microseconds at a time; the engine's thread holds it while it works, and
 * lets an owner who waits in between two pairs.  What the owner has to be told stands in a list until it is asked for; a
 * descriptor says that there is something in it.
 */
#ifndef ENDPOINTD_LOOP_H
#define ENDPOINTD_LOOP_H

#include <pthread.h>
#include <stdatomic.h>

#include "pair.h"

enum { READ_BYTES = 1 << 16 };

struct Engine {
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
    Pair **pairs; /* by the lower half of their handles */
    uint32_t pairs_len;
    uint32_t pairs_cap;
    uint32_t *free_places;
    uint32_t free_len;
    uint32_t generation;
    Pair *news_first;
    Pair *news_last;
    Pair *ready_first;
    Pair *ready_last;
    Pair *buried; /* freed when no event can speak of them any more */
    Deadlines heard_out;
    Deadlines lingering;
    Frames frames;
    Buffer sealed; /* by TLS, of whoever says something */
    Buffer plain;
    uint8_t buffer[READ_BYTES];
};

/* Returns NULL and errno. */
Engine *engine_open(void);

/* End the thread and close everything. */
void engine_close(Engine *engine);

bool engine_try_enter(Engine *engine);
void engine_enter(Engine *engine);
void engine_leave(Engine *engine);

/* The rest: between enter and leave. */

/* What an end is made of: a non-blocking descriptor, and OpenSSL's connection if TLS is spoken. */
typedef struct {
    int fd;
    SSL *ssl;
} Socket;

/* Move bytes between two sockets, which are the engine's from then on.  0 and errno if that cannot be done: then they are the
 * caller's still. */
uint64_t engine_add(Engine *engine, Socket client, Socket server, int watch, bool keeps_server, Slice server_rest,
                    Slice client_rest);

/* NULL if nothing is left of it. */
Pair *engine_find(const Engine *engine, uint64_t handle);

/* Take one thing that the owner is to be told; 0 if there is none.  *text* is set for NEWS_TEXT, and the owner's to free. */
unsigned engine_take_news(Engine *engine, uint64_t *handle, Text **text);

/* For pairs. */
void engine_tell(Engine *engine, Pair *pair, unsigned news);
void engine_ready(Engine *engine, Pair *pair);
void engine_bury(Engine *engine, Pair *pair);
int64_t engine_now_ms(void);

#endif
