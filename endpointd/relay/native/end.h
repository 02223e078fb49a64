/* One end of a connection: a non-blocking socket, and what it was sent and has not taken yet.  The twin of wire/link.py (Link). */
#ifndef ENDPOINTD_END_H
#define ENDPOINTD_END_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "tls.h"

typedef struct Party Party;
typedef struct End End;
typedef struct Deadlines Deadlines;

struct End {
    Party *party; /* whose it is */
    Tls *tls;     /* if it is spoken */
    uint8_t *out; /* parked: what the kernel did not take */
    uint32_t out_begin;
    uint32_t out_len;
    int fd;         /* -1 once it is closed */
    int epoll_fd;   /* that watches it; -1 if none does */
    bool can_read;  /* as far as is known; epoll tells edges */
    bool hangs_up;  /* epoll saw the peer's end: a short read proves nothing any more */
    bool is_gone;   /* epoll saw that both directions are over: a reset */
    bool has_ended; /* the peer will say no more */
    bool is_broken; /* nothing can be said to it either */
    bool says_no_more;
    bool is_shut;      /* and the peer was told so */
    bool is_finishing; /* what it still says is heard and ignored, until it ends */
    bool is_closing;   /* it is closed as soon as all is sent */
    Deadlines *among;  /* when it is given up, if it is leaving */
    End *next;
    End *previous;
    int64_t deadline_ms;
};

/* Ends that are leaving, the one whose time is over first in front: all have the same time. */
struct Deadlines {
    End *first;
    End *last;
};

void deadlines_add(Deadlines *list, End *end, int64_t deadline_ms);
void deadlines_remove(End *end);

/* What an end is made of: a non-blocking descriptor, and OpenSSL's connection if TLS is spoken. */
typedef struct {
    int fd;
    SSL *ssl;
} Socket;

void end_init(End *end, Party *party, int fd);

/* Send, or park what is not taken.  Of an end that is broken or has said all this is nothing.  False: it broke. */
bool end_write(End *end, const struct iovec *parts, int count);

/* Take what came from the network out of TLS, into *plain*, and send what TLS has to answer. */
TlsState end_open(End *end, const uint8_t *chunk, size_t len, Buffer *plain);

/* Send what is parked, and do what was to be done behind it.  False: it broke. */
bool end_flush(End *end);

/* Say that no more will come, behind what is parked. */
void end_say_no_more(End *end);

/* Close as soon as all is sent; at once if there is nothing. */
void end_close(End *end);

void end_close_now(End *end);

/* Have nothing to do with the descriptor any more, nor with TLS, and return it. */
int end_give_away(End *end);

static inline bool end_is_closed(const End *end)
{
    return end->fd < 0;
}

#endif
