#include "pooler.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    EVENTS_MAX = 256,
    TICK_MS = 250,
};

static void poke(int fd)
{
    ssize_t written = write(fd, &(uint64_t){1}, sizeof(uint64_t));
    (void)written; /* it is full only if it was poked already */
}

static void unpoke(int fd)
{
    uint64_t count;
    ssize_t taken = read(fd, &count, sizeof count);
    (void)taken;
}

/* Coming in and going out: as in loop.c */

bool pooler_try_enter(Pooler *pooler)
{
    return pthread_mutex_trylock(&pooler->mutex) == 0;
}

void pooler_enter(Pooler *pooler)
{
    atomic_fetch_add(&pooler->owners_waiting, 1);
    pthread_mutex_lock(&pooler->mutex);
    atomic_fetch_sub(&pooler->owners_waiting, 1);
}

void pooler_leave(Pooler *pooler)
{
    if ((pooler->ready_first != NULL || pooler->is_closing) && pooler->is_asleep) {
        pooler->is_asleep = false;
        poke(pooler->wake_fd);
    }
    pthread_cond_signal(&pooler->owner_left);
    pthread_mutex_unlock(&pooler->mutex);
}

static void let_owner_in(Pooler *pooler)
{
    while (atomic_load(&pooler->owners_waiting) > 0)
        pthread_cond_wait(&pooler->owner_left, &pooler->mutex);
}

/* Parties */

static bool make_place(Pooler *pooler)
{
    if (pooler->free_len > 0 || pooler->parties_len < pooler->parties_cap)
        return true;
    uint32_t cap = pooler->parties_cap ? pooler->parties_cap * 2 : 64;
    Party **parties = realloc(pooler->parties, cap * sizeof(Party *));
    if (parties == NULL)
        return false;
    pooler->parties = parties;
    uint32_t *places = realloc(pooler->free_places, cap * sizeof *places);
    if (places == NULL)
        return false;
    pooler->free_places = places;
    pooler->parties_cap = cap;
    return true;
}

static void enter_party(Pooler *pooler, Party *party)
{
    uint32_t place = pooler->free_len > 0 ? pooler->free_places[--pooler->free_len] : pooler->parties_len++;
    pooler->parties[place] = party;
    if (++pooler->generation == 0)
        pooler->generation = 1;
    party->handle = (uint64_t)pooler->generation << 32 | place;
}

Party *pooler_find(const Pooler *pooler, uint64_t handle)
{
    uint32_t place = (uint32_t)handle;
    Party *party = place < pooler->parties_len ? pooler->parties[place] : NULL;
    return party != NULL && party->handle == handle ? party : NULL;
}

void pooler_bury(Pooler *pooler, Party *party)
{
    if (party->is_buried)
        return;
    uint32_t place = (uint32_t)party->handle;
    pooler->parties[place] = NULL;
    pooler->free_places[pooler->free_len++] = place;
    party->is_buried = true;
    party->next_buried = pooler->buried;
    pooler->buried = party;
}

static void free_party(Party *party)
{
    switch (party->kind) {
    case PARTY_CLIENT:
        pool_client_free((PoolClient *)party);
        break;
    case PARTY_SERVER:
        pool_server_free((PoolServer *)party);
        break;
    default:
        free(party);
    }
}

static void empty_graveyard(Pooler *pooler)
{
    while (pooler->buried != NULL) {
        Party *party = pooler->buried;
        pooler->buried = party->next_buried;
        free_party(party);
    }
}

bool pooler_watch(Pooler *pooler, Party *party)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = party};
    if (epoll_ctl(pooler->epoll_fd, EPOLL_CTL_ADD, party->end.fd, &event) != 0)
        return false;
    party->end.epoll_fd = pooler->epoll_fd;
    return true;
}

static bool start_thread(Pooler *pooler);

/* Return a party of *size* bytes that has a place and, if it has a descriptor, is watched. */
static Party *add_party(Pooler *pooler, size_t size, int kind, Socket socket)
{
    Party *party = calloc(1, size);
    if (party == NULL || !make_place(pooler) || !start_thread(pooler)) {
        free(party);
        return NULL;
    }
    end_init(&party->end, NULL, socket.fd);
    party->kind = kind;
    Tls *tls = socket.ssl != NULL ? tls_prepare(&pooler->sealed) : NULL;
    if ((socket.ssl != NULL && tls == NULL) || (socket.fd >= 0 && !pooler_watch(pooler, party))) {
        int why = errno;
        tls_free(tls);
        free(party);
        errno = why;
        return NULL;
    }
    if (tls != NULL) { /* last, because it cannot be taken back */
        party->end.tls = tls;
        tls_take(tls, socket.ssl);
    }
    enter_party(pooler, party);
    return party;
}

uint64_t pooler_add_pool(Pooler *pooler)
{
    Pool *pool = (Pool *)add_party(pooler, sizeof *pool, PARTY_POOL, (Socket){.fd = -1});
    if (pool == NULL)
        return 0;
    pool->pooler = pooler;
    return pool->party.handle;
}

uint64_t pooler_add_client(Pooler *pooler, Pool *pool, Socket socket, int watch, Slice rest)
{
    uint8_t *in = NULL;
    if (rest.len > 0 && (in = malloc(rest.len)) == NULL)
        return 0;
    PoolClient *client = (PoolClient *)add_party(pooler, sizeof *client, PARTY_CLIENT, socket);
    if (client == NULL) {
        free(in);
        return 0;
    }
    client->pool = pool;
    pool->clients++;
    safepoint_init(&client->point, watch);
    safepoint_tell_extended(&client->point);
    if (in != NULL) {
        memcpy(in, rest.at, rest.len);
        client->in = in;
        client->in_len = client->in_cap = rest.len;
    }
    client->party.end.can_read = true;
    pooler_ready(pooler, &client->party);
    return client->party.handle;
}

uint64_t pooler_add_server(Pooler *pooler, Pool *pool, Socket socket, bool is_paused)
{
    PoolServer *server = (PoolServer *)add_party(pooler, sizeof *server, PARTY_SERVER, socket);
    if (server == NULL)
        return 0;
    server->pool = pool;
    server->is_paused = is_paused;
    server->since_ms = server->idle_since_ms = engine_now_ms();
    pool->servers++;
    if (pool->dialled > 0)
        pool->dialled--;
    pooler_ready(pooler, &server->party);
    return server->party.handle;
}

void pooler_ready(Pooler *pooler, Party *party)
{
    if (party->is_ready || party->is_buried)
        return;
    party->is_ready = true;
    party->next_ready = NULL;
    if (pooler->ready_first == NULL)
        pooler->ready_first = party;
    else
        pooler->ready_last->next_ready = party;
    pooler->ready_last = party;
}

/* News */

void pooler_tell(Pooler *pooler, Party *party, uint32_t news)
{
    party->news |= news;
    if (party->has_news || party->news == 0)
        return;
    party->has_news = true;
    party->next_news = NULL;
    if (pooler->news_first == NULL) {
        pooler->news_first = party;
        poke(pooler->news_fd);
    } else {
        pooler->news_last->next_news = party;
    }
    pooler->news_last = party;
}

static Text *text_of(Slice slice)
{
    Text *text = malloc(sizeof *text + slice.len);
    if (text == NULL)
        return NULL;
    text->next = NULL;
    text->len = slice.len;
    if (slice.len > 0)
        memcpy(text->bytes, slice.at, slice.len);
    return text;
}

/* What goes with the news of a party. */
static void details(Pooler *pooler, Party *party, uint32_t news, uint64_t *number, Text **text)
{
    if (news == NEWS_WANTS_SERVER) {
        *number = ((Pool *)party)->asked;
        ((Pool *)party)->asked = 0;
    } else if (news == NEWS_TEXT) {
        *text = safepoint_take_text(&((PoolClient *)party)->point);
        pooler_ready(pooler, party);
    } else if (news == NEWS_QUESTION) {
        *text = text_of(pool_client_question((PoolClient *)party));
    } else if (party->kind == PARTY_CLIENT) {
        const PoolClient *client = (const PoolClient *)party;
        *number = news == NEWS_PINNED ? client->pinned : client->server != NULL ? client->server->party.handle : 0;
    }
}

static void settle(Party *party)
{
    if (party->kind == PARTY_CLIENT)
        pool_client_settle((PoolClient *)party);
    else if (party->kind == PARTY_SERVER && ((PoolServer *)party)->is_dead && !party->is_ready && !party->has_news &&
             end_is_closed(&party->end))
        pooler_bury(((PoolServer *)party)->pool->pooler, party);
}

uint32_t pooler_take_news(Pooler *pooler, uint64_t *handle, uint64_t *number, Text **text)
{
    for (Party *party; (party = pooler->news_first) != NULL;) {
        uint32_t news = party->news & -party->news; /* the first */
        *text = NULL;
        *number = 0;
        *handle = party->handle;
        if (news != 0)
            details(pooler, party, news, number, text);
        if (news != NEWS_TEXT || ((PoolClient *)party)->point.texts == NULL)
            party->news &= ~news;
        if (party->news == 0) {
            party->has_news = false;
            pooler->news_first = party->next_news;
            settle(party);
        }
        if (news != 0 && (news != NEWS_TEXT || *text != NULL))
            return news;
    }
    unpoke(pooler->news_fd);
    return 0;
}

/* Receiving */

static size_t decrypt(Pooler *pooler, End *end, size_t len, uint8_t **data)
{
    TlsState state = end_open(end, pooler->buffer, len, &pooler->plain);
    *data = pooler->plain.bytes;
    if (state != TLS_GOES_ON) {
        end->can_read = true; /* so that it is asked once more, and the end is told */
        end->has_ended = true;
        end->is_broken = end->is_broken || state == TLS_BROKEN;
    }
    return pooler->plain.len;
}

size_t pooler_receive(Pooler *pooler, End *end, uint8_t **data)
{
    *data = pooler->buffer;
    while (!end->has_ended || end->tls == NULL) {
        ssize_t len = recv(end->fd, pooler->buffer, sizeof pooler->buffer, MSG_DONTWAIT);
        if (len < 0 && errno == EINTR)
            continue;
        if (len > 0) {
            /* Less than there was room for was all there was, unless the end stands behind it. */
            end->can_read = len == sizeof pooler->buffer || end->hangs_up || end->is_broken;
            if (end->tls == NULL)
                return (size_t)len;
            size_t plain = decrypt(pooler, end, (size_t)len, data);
            if (plain > 0)
                return plain;
            if (end->can_read)
                continue;
            return 0;
        }
        end->can_read = false;
        bool is_nothing_now = len < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
        if (!is_nothing_now || end->is_broken)
            end->has_ended = true;
        /* TLS that ends without its own goodbye: anybody on the way could have made that end. */
        if (end->has_ended && (len < 0 || end->tls != NULL))
            end->is_broken = true;
        return 0;
    }
    end->can_read = false;
    return 0;
}

/* Sending */

void emit_begin(Pooler *pooler, End *to)
{
    pooler->to = to;
    pooler->parts_len = 0;
    pooler->arena_len = 0;
}

bool emit_flush(Pooler *pooler)
{
    bool is_sent = end_write(pooler->to, pooler->parts, pooler->parts_len);
    pooler->parts_len = 0;
    pooler->arena_len = 0;
    return is_sent;
}

void emit(Pooler *pooler, const void *bytes, size_t len)
{
    if (len == 0)
        return;
    if (pooler->parts_len > 0) {
        struct iovec *last = &pooler->parts[pooler->parts_len - 1];
        if ((const uint8_t *)last->iov_base + last->iov_len == bytes) {
            last->iov_len += len;
            return;
        }
    }
    if (pooler->parts_len == POOL_PARTS_MAX)
        emit_flush(pooler);
    pooler->parts[pooler->parts_len++] = (struct iovec){.iov_base = (void *)bytes, .iov_len = len};
}

void emit_copy(Pooler *pooler, const void *bytes, size_t len)
{
    if (pooler->arena_len + len > POOL_ARENA_BYTES || pooler->parts_len == POOL_PARTS_MAX)
        emit_flush(pooler);
    if (len > POOL_ARENA_BYTES) {
        emit(pooler, bytes, len);
        emit_flush(pooler);
        return;
    }
    uint8_t *at = pooler->arena + pooler->arena_len;
    memcpy(at, bytes, len);
    pooler->arena_len += len;
    emit(pooler, at, len);
}

/* The thread */

static int timeout_ms(const Pooler *pooler)
{
    return pooler->ready_first != NULL || pooler->is_closing ? 0 : pooler->parties_len > pooler->free_len ? TICK_MS : -1;
}

static void serve(Party *party)
{
    if (party->kind == PARTY_CLIENT)
        pool_client_serve((PoolClient *)party);
    else if (party->kind == PARTY_SERVER)
        pool_server_serve((PoolServer *)party);
    else
        pool_serve((Pool *)party);
    settle(party);
}

static void give_up(Deadlines *list, int64_t now_ms)
{
    while (list->first != NULL && list->first->deadline_ms <= now_ms) {
        Party *party = (Party *)list->first;
        deadlines_remove(list->first);
        if (party->kind == PARTY_CLIENT)
            pool_client_give_up((PoolClient *)party);
        else
            end_close_now(&party->end);
        settle(party);
    }
}

static void tick(Pooler *pooler)
{
    pooler->now_ms = engine_now_ms();
    if (pooler->now_ms < pooler->tick_at_ms)
        return;
    pooler->tick_at_ms = pooler->now_ms + TICK_MS;
    give_up(&pooler->heard_out, pooler->now_ms);
    give_up(&pooler->lingering, pooler->now_ms);
    for (uint32_t i = 0; i < pooler->parties_len; i++)
        if (pooler->parties[i] != NULL && pooler->parties[i]->kind == PARTY_POOL)
            pool_tick((Pool *)pooler->parties[i], pooler->now_ms);
}

static void heard(Party *party, uint32_t events)
{
    if (end_is_closed(&party->end) || party->is_buried)
        return;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        party->end.can_read = true;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        party->end.hangs_up = true;
    serve(party);
}

static void serve_ready(Pooler *pooler)
{
    Party *last = pooler->ready_last;
    for (bool is_last = pooler->ready_first == NULL; !is_last;) {
        Party *party = pooler->ready_first;
        is_last = party == last;
        pooler->ready_first = party->next_ready;
        party->is_ready = false;
        if (!party->is_buried)
            serve(party);
        let_owner_in(pooler);
    }
}

static void *run(void *argument)
{
    Pooler *pooler = argument;
    struct epoll_event events[EVENTS_MAX];
    pthread_mutex_lock(&pooler->mutex);
    while (!pooler->is_closing) {
        let_owner_in(pooler);
        if (pooler->ready_first == NULL)
            empty_graveyard(pooler);
        int timeout = timeout_ms(pooler);
        pooler->is_asleep = true;
        pthread_mutex_unlock(&pooler->mutex);
        int count = epoll_wait(pooler->epoll_fd, events, EVENTS_MAX, timeout);
        pthread_mutex_lock(&pooler->mutex);
        pooler->is_asleep = false;
        for (int i = 0; i < count; i++) {
            let_owner_in(pooler);
            if (events[i].data.ptr == NULL)
                unpoke(pooler->wake_fd);
            else
                heard(events[i].data.ptr, events[i].events);
        }
        serve_ready(pooler);
        tick(pooler);
    }
    pthread_mutex_unlock(&pooler->mutex);
    return NULL;
}

static bool start_thread(Pooler *pooler)
{
    if (pooler->is_running)
        return true;
    sigset_t all, before;
    sigfillset(&all); /* signals are the owner's business */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&pooler->thread, NULL, run, pooler);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pooler->is_running = error == 0;
    errno = error;
    return pooler->is_running;
}

/* Its life */

Pooler *pooler_open(void)
{
    Pooler *pooler = calloc(1, sizeof *pooler);
    if (pooler == NULL)
        return NULL;
    pthread_mutex_init(&pooler->mutex, NULL);
    pthread_cond_init(&pooler->owner_left, NULL);
    pooler->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    pooler->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pooler->news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (pooler->epoll_fd < 0 || pooler->wake_fd < 0 || pooler->news_fd < 0 ||
        epoll_ctl(pooler->epoll_fd, EPOLL_CTL_ADD, pooler->wake_fd, &event) != 0) {
        int why = errno;
        pooler_close(pooler);
        errno = why;
        return NULL;
    }
    return pooler;
}

void pooler_close(Pooler *pooler)
{
    if (pooler->is_running) {
        pooler_enter(pooler);
        pooler->is_closing = true;
        pooler_leave(pooler);
        pthread_join(pooler->thread, NULL);
    }
    empty_graveyard(pooler);
    for (uint32_t i = 0; i < pooler->parties_len; i++)
        if (pooler->parties[i] != NULL)
            free_party(pooler->parties[i]);
    int descriptors[] = {pooler->epoll_fd, pooler->wake_fd, pooler->news_fd};
    for (size_t i = 0; i < sizeof descriptors / sizeof *descriptors; i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
    frames_free(&pooler->frames);
    buffer_free(&pooler->sealed);
    buffer_free(&pooler->plain);
    statements_free(&pooler->statements);
    verdicts_free(&pooler->verdicts);
    free(pooler->parties);
    free(pooler->free_places);
    pthread_cond_destroy(&pooler->owner_left);
    pthread_mutex_destroy(&pooler->mutex);
    free(pooler);
}
