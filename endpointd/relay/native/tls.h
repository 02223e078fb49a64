/* TLS behind the handshake: the connection that wire/tls.py made, moved here when its pair is.
 *
 * The functions are those of the very library that Python's ssl module is linked with, found when the engine is made: a connection
 * of one OpenSSL is nothing to another one, and no headers are needed.  OpenSSL reads from what came last and writes to a buffer that all
 * connections share, so none keeps more than OpenSSL itself does.
 */
#ifndef ENDPOINTD_TLS_H
#define ENDPOINTD_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

typedef struct ssl_st SSL; /* OpenSSL's */

typedef struct {
    uint8_t *bytes;
    size_t len;
    size_t cap;
} Buffer;

void buffer_free(Buffer *buffer);

/* Find OpenSSL behind *library*, which is loaded already; NULL: the program itself.  Return NULL, or what is missing. */
const char *tls_load(const char *library);

typedef struct Tls Tls;

/* Make ready for a connection, which will write to *sealed*.  NULL if that cannot be done. */
Tls *tls_prepare(Buffer *sealed);

/* Take a connection whose handshake is over.  The caller gives up its own hold of it later, and uses it no more. */
void tls_take(Tls *tls, SSL *ssl);
void tls_free(Tls *tls);

/* Give a connection back to whoever had it, and still has a hold of it: it reads and writes where it did before. */
void tls_give_back(Tls *tls);

/* Each returns what is to be sent, valid until the next call of any connection that shares the buffer. */
bool tls_seal(Tls *tls, const struct iovec *parts, int count, struct iovec *sealed);
struct iovec tls_goodbye(Tls *tls);

typedef enum {
    TLS_GOES_ON,
    TLS_ENDED,  /* the peer says no more, by close_notify */
    TLS_BROKEN, /* nothing will be understood any more; the answer says why */
} TlsState;

/* Put into *plain* all that a chunk of the network has completed, and into *answer* what is to be sent because of it. */
TlsState tls_open(Tls *tls, const uint8_t *chunk, size_t len, Buffer *plain, struct iovec *answer);

#endif
