#include "tls.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* OpenSSL's numbers, the same since 1.1.0 (SSL_get_error(3), BIO_ctrl(3), BIO_should_retry(3), BIO_get_new_index(3)). */
enum {
    SSL_ERROR_WANT_READ = 2,
    SSL_ERROR_ZERO_RETURN = 6,
    BIO_CTRL_FLUSH = 11,
    BIO_FLAGS_READ_RETRY = 0x01 | 0x08,
    BIO_TYPE_SOURCE_SINK = 0x0400,
    RECORD_BYTES_MAX = 1 << 14,
};

typedef struct bio_st BIO;
typedef struct bio_method_st BIO_METHOD;

/* Every function that is used: what it returns, its name, what it takes. */
#define OPENSSL_FUNCTIONS(FUNCTION)                                                                                             \
    FUNCTION(int, SSL_read, (SSL *, void *, int))                                                                              \
    FUNCTION(int, SSL_write, (SSL *, const void *, int))                                                                       \
    FUNCTION(int, SSL_pending, (const SSL *))                                                                                  \
    FUNCTION(int, SSL_get_error, (const SSL *, int))                                                                           \
    FUNCTION(int, SSL_shutdown, (SSL *))                                                                                       \
    FUNCTION(int, SSL_up_ref, (SSL *))                                                                                         \
    FUNCTION(void, SSL_free, (SSL *))                                                                                          \
    FUNCTION(void, SSL_set_bio, (SSL *, BIO *, BIO *))                                                                         \
    FUNCTION(BIO *, SSL_get_rbio, (const SSL *))                                                                               \
    FUNCTION(BIO *, SSL_get_wbio, (const SSL *))                                                                               \
    FUNCTION(void *, SSL_get_ex_data, (const SSL *, int))                                                                      \
    FUNCTION(int, BIO_up_ref, (BIO *))                                                                                         \
    FUNCTION(int, SSL_set_ex_data, (SSL *, int, void *))                                                                       \
    FUNCTION(void, ERR_clear_error, (void))                                                                                    \
    FUNCTION(int, BIO_get_new_index, (void))                                                                                   \
    FUNCTION(BIO_METHOD *, BIO_meth_new, (int, const char *))                                                                  \
    FUNCTION(int, BIO_meth_set_read, (BIO_METHOD *, int (*)(BIO *, char *, int)))                                              \
    FUNCTION(int, BIO_meth_set_write, (BIO_METHOD *, int (*)(BIO *, const char *, int)))                                       \
    FUNCTION(int, BIO_meth_set_ctrl, (BIO_METHOD *, long (*)(BIO *, int, long, void *)))                                       \
    FUNCTION(BIO *, BIO_new, (const BIO_METHOD *))                                                                             \
    FUNCTION(int, BIO_free, (BIO *))                                                                                           \
    FUNCTION(void, BIO_set_data, (BIO *, void *))                                                                              \
    FUNCTION(void *, BIO_get_data, (BIO *))                                                                                    \
    FUNCTION(void, BIO_set_init, (BIO *, int))                                                                                 \
    FUNCTION(void, BIO_set_flags, (BIO *, int))                                                                                \
    FUNCTION(void, BIO_clear_flags, (BIO *, int))

#define DECLARE(result, name, arguments) result(*name) arguments;
static struct {
    OPENSSL_FUNCTIONS(DECLARE)
} openssl;

static BIO_METHOD *method;

struct Tls {
    SSL *ssl; /* NULL until it is taken */
    BIO *bio; /* until then */
    BIO *their_in; /* what it read from and wrote to before */
    BIO *their_out;
    void *their_object;
    const uint8_t *in; /* what came and OpenSSL has not read yet */
    size_t in_len;
    Buffer *sealed;
    bool said_goodbye;
};

void buffer_free(Buffer *buffer)
{
    free(buffer->bytes);
    memset(buffer, 0, sizeof *buffer);
}

/* Make room for so many bytes more. */
static bool buffer_reserve(Buffer *buffer, size_t more)
{
    if (buffer->cap - buffer->len >= more)
        return true;
    size_t cap = buffer->cap ? buffer->cap : 1 << 15;
    while (cap - buffer->len < more)
        cap *= 2;
    uint8_t *grown = realloc(buffer->bytes, cap);
    if (grown == NULL)
        return false;
    buffer->bytes = grown;
    buffer->cap = cap;
    return true;
}

/* What OpenSSL reads from and writes to */

static int bio_read(BIO *bio, char *data, int size)
{
    Tls *tls = openssl.BIO_get_data(bio);
    openssl.BIO_clear_flags(bio, BIO_FLAGS_READ_RETRY);
    if (tls->in_len == 0) {
        openssl.BIO_set_flags(bio, BIO_FLAGS_READ_RETRY);
        return -1;
    }
    size_t taken = (size_t)size < tls->in_len ? (size_t)size : tls->in_len;
    memcpy(data, tls->in, taken);
    tls->in += taken;
    tls->in_len -= taken;
    return (int)taken;
}

static int bio_write(BIO *bio, const char *data, int size)
{
    Buffer *sealed = ((Tls *)openssl.BIO_get_data(bio))->sealed;
    if (size < 0 || !buffer_reserve(sealed, (size_t)size))
        return -1;
    memcpy(sealed->bytes + sealed->len, data, (size_t)size);
    sealed->len += (size_t)size;
    return size;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

const char *tls_load(const char *library)
{
    if (method != NULL)
        return NULL;
    void *handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
    if (handle == NULL)
        return "the library";
#define FIND(result, name, arguments)                                                                                          \
    *(void **)&openssl.name = dlsym(handle, #name);                                                                            \
    if (openssl.name == NULL)                                                                                                  \
        return #name;
    OPENSSL_FUNCTIONS(FIND)
    method = openssl.BIO_meth_new(openssl.BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "endpointd relay");
    if (method == NULL)
        return "memory";
    openssl.BIO_meth_set_read(method, bio_read);
    openssl.BIO_meth_set_write(method, bio_write);
    openssl.BIO_meth_set_ctrl(method, bio_ctrl);
    return NULL;
}

Tls *tls_prepare(Buffer *sealed)
{
    Tls *tls = method != NULL ? calloc(1, sizeof *tls) : NULL;
    if (tls == NULL)
        return NULL;
    tls->bio = openssl.BIO_new(method);
    if (tls->bio == NULL) {
        free(tls);
        return NULL;
    }
    tls->sealed = sealed;
    openssl.BIO_set_data(tls->bio, tls);
    openssl.BIO_set_init(tls->bio, 1);
    return tls;
}

void tls_take(Tls *tls, SSL *ssl)
{
    openssl.SSL_up_ref(ssl);
    tls->their_in = openssl.SSL_get_rbio(ssl);
    tls->their_out = openssl.SSL_get_wbio(ssl);
    tls->their_object = openssl.SSL_get_ex_data(ssl, 0);
    openssl.BIO_up_ref(tls->their_in);
    openssl.BIO_up_ref(tls->their_out);
    openssl.SSL_set_bio(ssl, tls->bio, tls->bio);
    openssl.SSL_set_ex_data(ssl, 0, NULL); /* the Python object, which is about to go */
    tls->ssl = ssl;
    tls->bio = NULL;
}

void tls_free(Tls *tls)
{
    if (tls == NULL)
        return;
    openssl.SSL_free(tls->ssl);
    openssl.BIO_free(tls->bio);
    openssl.BIO_free(tls->their_in);
    openssl.BIO_free(tls->their_out);
    free(tls);
}

void tls_give_back(Tls *tls)
{
    openssl.SSL_set_bio(tls->ssl, tls->their_in, tls->their_out);
    openssl.SSL_set_ex_data(tls->ssl, 0, tls->their_object);
    tls->their_in = tls->their_out = NULL;
    tls_free(tls);
}

static void begin(Tls *tls)
{
    openssl.ERR_clear_error(); /* of this thread, whoever left them */
    tls->sealed->len = 0;
}

static struct iovec said(const Tls *tls)
{
    return (struct iovec){.iov_base = tls->sealed->bytes, .iov_len = tls->sealed->len};
}

bool tls_seal(Tls *tls, const struct iovec *parts, int count, struct iovec *sealed)
{
    begin(tls);
    for (int i = 0; i < count; i++) {
        const uint8_t *at = parts[i].iov_base;
        for (size_t left = parts[i].iov_len; left > 0;) {
            int taken = openssl.SSL_write(tls->ssl, at, (int)(left < RECORD_BYTES_MAX ? left : RECORD_BYTES_MAX));
            if (taken <= 0)
                return false;
            at += taken;
            left -= (size_t)taken;
        }
    }
    *sealed = said(tls);
    return true;
}

struct iovec tls_goodbye(Tls *tls)
{
    begin(tls);
    if (!tls->said_goodbye) {
        tls->said_goodbye = true;
        openssl.SSL_shutdown(tls->ssl); /* the peer may have much to say before it says it too: nobody waits for that */
        openssl.ERR_clear_error();
    }
    return said(tls);
}

TlsState tls_open(Tls *tls, const uint8_t *chunk, size_t len, Buffer *plain, struct iovec *answer)
{
    TlsState state = TLS_GOES_ON;
    begin(tls);
    tls->in = chunk;
    tls->in_len = len;
    plain->len = 0;
    for (;;) {
        if (!buffer_reserve(plain, RECORD_BYTES_MAX)) {
            state = TLS_BROKEN;
            break;
        }
        int count = openssl.SSL_read(tls->ssl, plain->bytes + plain->len, RECORD_BYTES_MAX);
        if (count > 0) {
            plain->len += (size_t)count;
            if (tls->in_len == 0 && openssl.SSL_pending(tls->ssl) == 0)
                break; /* it would only be asked to say that there is no more */
            continue;
        }
        int error = openssl.SSL_get_error(tls->ssl, count);
        if (error != SSL_ERROR_WANT_READ)
            state = error == SSL_ERROR_ZERO_RETURN ? TLS_ENDED : TLS_BROKEN;
        break;
    }
    tls->in = NULL;
    tls->in_len = 0;
    openssl.ERR_clear_error();
    *answer = said(tls);
    return state;
}
