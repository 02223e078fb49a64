/* The relay engine: moves the bytes of pairs, in a thread of its own (reactor.h). */
#ifndef ENDPOINTD_ENGINE_H
#define ENDPOINTD_ENGINE_H

#include "pair.h"

enum { READ_BYTES = 1 << 16 };

struct Engine {
    Reactor reactor;
    Frames frames;
    Buffer sealed; /* by TLS, of whoever says something */
    Buffer plain;
    uint8_t buffer[READ_BYTES];
};

/* Returns NULL and errno. */
Engine *engine_open(void);

void engine_close(Engine *engine);

/* The rest: between reactor_enter and reactor_leave. */

/* Give the client *welcome*, and move bytes between two sockets, which are the engine's from then on.  0 and errno if that cannot be
 * done: then they are the caller's still, and nothing was said. */
uint64_t engine_add(Engine *engine, Socket client, Socket server, int watch, bool keeps_server, Slice welcome,
                    Slice server_rest, Slice client_rest);

/* NULL if nothing is left of it. */
static inline Pair *engine_find(const Engine *engine, uint64_t handle)
{
    return (Pair *)reactor_find(&engine->reactor, handle);
}

#endif
