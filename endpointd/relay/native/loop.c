#include "loop.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_MAX = 256 };

int64_t engine_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

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

/* Coming in and going out */

bool engine_try_enter(Engine *engine)
{
    return pthread_mutex_trylock(&engine->mutex) == 0;
}

void engine_enter(Engine *engine)
{
    atomic_fetch_add(&engine->owners_waiting, 1);
    pthread_mutex_lock(&engine->mutex);
    atomic_fetch_sub(&engine->owners_waiting, 1);
}

void engine_leave(Engine *engine)
{
    bool has_work = engine->ready_first != NULL || engine->is_closing;
    if (has_work && engine->is_asleep) {
        engine->is_asleep = false;
        poke(engine->wake_fd);
    }
    pthread_cond_signal(&engine->owner_left);
    pthread_mutex_unlock(&engine->mutex);
}

/* Let an owner in who waits: a mutex that is given back and taken again at once would not. */
static void let_owner_in(Engine *engine)
{
    while (atomic_load(&engine->owners_waiting) > 0)
        pthread_cond_wait(&engine->owner_left, &engine->mutex);
}

/* Pairs */

static bool make_place(Engine *engine)
{
    if (engine->free_len > 0 || engine->pairs_len < engine->pairs_cap)
        return true;
    uint32_t cap = engine->pairs_cap ? engine->pairs_cap * 2 : 64;
    Pair **pairs = realloc(engine->pairs, cap * sizeof *pairs);
    if (pairs == NULL)
        return false;
    engine->pairs = pairs;
    uint32_t *places = realloc(engine->free_places, cap * sizeof *places);
    if (places == NULL)
        return false;
    engine->free_places = places;
    engine->pairs_cap = cap;
    return true;
}

static bool watch_end(Engine *engine, End *end)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = end};
    if (epoll_ctl(engine->epoll_fd, EPOLL_CTL_ADD, end->fd, &event) != 0)
        return false;
    end->epoll_fd = engine->epoll_fd;
    return true;
}

/* Leave an end to the caller again. */
static void forget_end(Engine *engine, End *end)
{
    if (end->epoll_fd >= 0)
        epoll_ctl(engine->epoll_fd, EPOLL_CTL_DEL, end->fd, NULL);
    end->fd = -1;
}

/* Have two sockets be a pair's ends; if that cannot be done they are nobody's. */
static bool take_sockets(Engine *engine, Pair *pair, Socket client, Socket server)
{
    end_init(&pair->client, pair, client.fd);
    end_init(&pair->server, pair, server.fd);
    if (!watch_end(engine, &pair->client) || !watch_end(engine, &pair->server))
        return false;
    /* Last, because it cannot be taken back. */
    Tls *client_tls = NULL, *server_tls = NULL;
    if ((client.ssl != NULL && (client_tls = tls_prepare(&engine->sealed)) == NULL) ||
        (server.ssl != NULL && (server_tls = tls_prepare(&engine->sealed)) == NULL)) {
        tls_free(client_tls);
        errno = ENOMEM;
        return false;
    }
    pair->client.tls = client_tls;
    pair->server.tls = server_tls;
    if (client_tls != NULL)
        tls_take(client_tls, client.ssl);
    if (server_tls != NULL)
        tls_take(server_tls, server.ssl);
    return true;
}

static bool start_thread(Engine *engine);

uint64_t engine_add(Engine *engine, Socket client, Socket server, int watch, bool keeps_server, Slice server_rest,
                    Slice client_rest)
{
    Pair *pair = calloc(1, sizeof *pair);
    if (pair == NULL || !make_place(engine) || !start_thread(engine)) {
        free(pair);
        return 0;
    }
    pair->engine = engine;
    pair->keeps_server = keeps_server;
    safepoint_init(&pair->point, watch);
    if (!take_sockets(engine, pair, client, server)) {
        int why = errno;
        /* An event may be on its way already: it has to find a pair. */
        forget_end(engine, &pair->client);
        forget_end(engine, &pair->server);
        pair->is_buried = true;
        pair->next_buried = engine->buried;
        engine->buried = pair;
        errno = why;
        return 0;
    }
    uint32_t place = engine->free_len > 0 ? engine->free_places[--engine->free_len] : engine->pairs_len++;
    engine->pairs[place] = pair;
    if (++engine->generation == 0)
        engine->generation = 1;
    pair->handle = (uint64_t)engine->generation << 32 | place;
    pair_start(pair, server_rest, client_rest);
    return pair->handle;
}

Pair *engine_find(const Engine *engine, uint64_t handle)
{
    uint32_t place = (uint32_t)handle;
    Pair *pair = place < engine->pairs_len ? engine->pairs[place] : NULL;
    return pair != NULL && pair->handle == handle ? pair : NULL;
}

void engine_bury(Engine *engine, Pair *pair)
{
    if (pair->is_buried)
        return;
    uint32_t place = (uint32_t)pair->handle;
    engine->pairs[place] = NULL;
    engine->free_places[engine->free_len++] = place;
    pair->is_buried = true;
    pair->next_buried = engine->buried;
    engine->buried = pair;
}

static void empty_graveyard(Engine *engine)
{
    while (engine->buried != NULL) {
        Pair *pair = engine->buried;
        engine->buried = pair->next_buried;
        pair_free(pair);
    }
}

void engine_ready(Engine *engine, Pair *pair)
{
    if (pair->is_ready)
        return;
    pair->is_ready = true;
    pair->next_ready = NULL;
    if (engine->ready_first == NULL)
        engine->ready_first = pair;
    else
        engine->ready_last->next_ready = pair;
    engine->ready_last = pair;
}

/* News */

void engine_tell(Engine *engine, Pair *pair, unsigned news)
{
    pair->news |= (uint16_t)news;
    if (pair->has_news)
        return;
    pair->has_news = true;
    pair->next_news = NULL;
    if (engine->news_first == NULL) {
        engine->news_first = pair;
        poke(engine->news_fd);
    } else {
        engine->news_last->next_news = pair;
    }
    engine->news_last = pair;
}

unsigned engine_take_news(Engine *engine, uint64_t *handle, Text **text)
{
    *text = NULL;
    for (Pair *pair; (pair = engine->news_first) != NULL;) {
        unsigned news = pair->news & -(unsigned)pair->news; /* the first */
        *handle = pair->handle;
        if (news == NEWS_TEXT) {
            *text = safepoint_take_text(&pair->point);
            engine_ready(engine, pair); /* it may have waited for that */
        }
        if (news != NEWS_TEXT || pair->point.texts == NULL)
            pair->news &= (uint16_t)~news;
        if (pair->news == 0) {
            pair->has_news = false;
            engine->news_first = pair->next_news;
            pair_settle(pair);
        }
        if (news != 0 && (news != NEWS_TEXT || *text != NULL))
            return news;
    }
    unpoke(engine->news_fd);
    return 0;
}

/* The thread */

static int timeout_ms(const Engine *engine)
{
    if (engine->ready_first != NULL || engine->is_closing)
        return 0;
    const End *first = engine->heard_out.first, *other = engine->lingering.first;
    if (first == NULL || (other != NULL && other->deadline_ms < first->deadline_ms))
        first = other;
    if (first == NULL)
        return -1;
    int64_t left = first->deadline_ms - engine_now_ms();
    return left > 0 ? (int)left + 1 : 0;
}

static void give_up(Deadlines *list)
{
    while (list->first != NULL && list->first->deadline_ms <= engine_now_ms()) {
        End *end = list->first;
        deadlines_remove(end);
        pair_give_up(end);
    }
}

static void serve_end(End *end, uint32_t events)
{
    if (end_is_closed(end) || end->pair->is_buried)
        return;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        end->can_read = true;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        end->hangs_up = true;
    if (events & (EPOLLHUP | EPOLLERR))
        end->is_gone = true;
    pair_serve(end->pair);
}

/* Serve those who were ready, each once: whoever is again has its turn after the next events. */
static void serve_ready(Engine *engine)
{
    Pair *last = engine->ready_last;
    for (bool is_last = engine->ready_first == NULL; !is_last;) {
        Pair *pair = engine->ready_first;
        is_last = pair == last;
        engine->ready_first = pair->next_ready;
        pair->is_ready = false;
        pair_serve(pair);
        let_owner_in(engine);
    }
}

static void *run(void *argument)
{
    Engine *engine = argument;
    struct epoll_event events[EVENTS_MAX];
    pthread_mutex_lock(&engine->mutex);
    while (!engine->is_closing) {
        let_owner_in(engine);
        empty_graveyard(engine);
        int timeout = timeout_ms(engine);
        engine->is_asleep = true;
        pthread_mutex_unlock(&engine->mutex);
        int count = epoll_wait(engine->epoll_fd, events, EVENTS_MAX, timeout);
        pthread_mutex_lock(&engine->mutex);
        engine->is_asleep = false;
        for (int i = 0; i < count; i++) {
            let_owner_in(engine);
            if (events[i].data.ptr == NULL)
                unpoke(engine->wake_fd);
            else
                serve_end(events[i].data.ptr, events[i].events);
        }
        serve_ready(engine);
        give_up(&engine->heard_out);
        give_up(&engine->lingering);
    }
    pthread_mutex_unlock(&engine->mutex);
    return NULL;
}

static bool start_thread(Engine *engine)
{
    if (engine->is_running)
        return true;
    sigset_t all, before;
    sigfillset(&all); /* signals are the owner's business */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&engine->thread, NULL, run, engine);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    engine->is_running = error == 0;
    if (engine->is_running)
        pthread_setname_np(engine->thread, "endpointd relay");
    errno = error;
    return engine->is_running;
}

/* Its life */

Engine *engine_open(void)
{
    Engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL)
        return NULL;
    pthread_mutex_init(&engine->mutex, NULL);
    pthread_cond_init(&engine->owner_left, NULL);
    engine->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    engine->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    engine->news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (engine->epoll_fd < 0 || engine->wake_fd < 0 || engine->news_fd < 0 ||
        epoll_ctl(engine->epoll_fd, EPOLL_CTL_ADD, engine->wake_fd, &event) != 0) {
        int why = errno;
        engine_close(engine);
        errno = why;
        return NULL;
    }
    return engine;
}

void engine_close(Engine *engine)
{
    if (engine->is_running) {
        engine_enter(engine);
        engine->is_closing = true;
        engine_leave(engine);
        pthread_join(engine->thread, NULL);
    }
    for (uint32_t i = 0; i < engine->pairs_len; i++)
        if (engine->pairs[i] != NULL)
            pair_free(engine->pairs[i]);
    empty_graveyard(engine);
    int descriptors[] = {engine->epoll_fd, engine->wake_fd, engine->news_fd};
    for (size_t i = 0; i < sizeof descriptors / sizeof *descriptors; i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
    frames_free(&engine->frames);
    buffer_free(&engine->sealed);
    buffer_free(&engine->plain);
    free(engine->pairs);
    free(engine->free_places);
    pthread_cond_destroy(&engine->owner_left);
    pthread_mutex_destroy(&engine->mutex);
    free(engine);
}
