#include "reactor.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum {
    EVENTS_MAX = 256,
    HEAR_OUT_MS = 1000, /* wire/link.py: HEAR_OUT_S, LINGER_S */
    LINGER_MS = 5000,
};

int64_t reactor_now_ms(void)
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

bool reactor_try_enter(Reactor *reactor)
{
    return pthread_mutex_trylock(&reactor->mutex) == 0;
}

void reactor_enter(Reactor *reactor)
{
    atomic_fetch_add(&reactor->owners_waiting, 1);
    pthread_mutex_lock(&reactor->mutex);
    atomic_fetch_sub(&reactor->owners_waiting, 1);
}

void reactor_leave(Reactor *reactor)
{
    bool has_work = reactor->ready_first != NULL || reactor->is_closing;
    if (has_work && reactor->is_asleep) {
        reactor->is_asleep = false;
        poke(reactor->wake_fd);
    }
    pthread_cond_signal(&reactor->owner_left);
    pthread_mutex_unlock(&reactor->mutex);
}

/* Let an owner in who waits: a mutex that is given back and taken again at once would not. */
static void let_owner_in(Reactor *reactor)
{
    while (atomic_load(&reactor->owners_waiting) > 0)
        pthread_cond_wait(&reactor->owner_left, &reactor->mutex);
}

/* Parties */

static bool make_place(Reactor *reactor)
{
    if (reactor->free_len > 0 || reactor->parties_len < reactor->parties_cap)
        return true;
    uint32_t cap = reactor->parties_cap ? reactor->parties_cap * 2 : 64;
    Party **parties = realloc(reactor->parties, cap * sizeof(Party *));
    if (parties == NULL)
        return false;
    reactor->parties = parties;
    uint32_t *places = realloc(reactor->free_places, cap * sizeof *places);
    if (places == NULL)
        return false;
    reactor->free_places = places;
    reactor->parties_cap = cap;
    return true;
}

bool reactor_watch(Reactor *reactor, End *end)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = end};
    if (epoll_ctl(reactor->epoll_fd, EPOLL_CTL_ADD, end->fd, &event) != 0)
        return false;
    end->epoll_fd = reactor->epoll_fd;
    return true;
}

void reactor_admit(Reactor *reactor, Party *party)
{
    uint32_t place = reactor->free_len > 0 ? reactor->free_places[--reactor->free_len] : reactor->parties_len++;
    reactor->parties[place] = party;
    if (++reactor->generation == 0)
        reactor->generation = 1;
    party->handle = (uint64_t)reactor->generation << 32 | place;
}

Party *reactor_find(const Reactor *reactor, uint64_t handle)
{
    uint32_t place = (uint32_t)handle;
    Party *party = place < reactor->parties_len ? reactor->parties[place] : NULL;
    return party != NULL && party->handle == handle ? party : NULL;
}

void reactor_bury(Reactor *reactor, Party *party)
{
    if (party->is_buried)
        return;
    if (party->handle != 0) {
        uint32_t place = (uint32_t)party->handle;
        reactor->parties[place] = NULL;
        reactor->free_places[reactor->free_len++] = place;
    }
    party->is_buried = true;
    party->next_buried = reactor->buried;
    reactor->buried = party;
}

static void empty_graveyard(Reactor *reactor)
{
    while (reactor->buried != NULL) {
        Party *party = reactor->buried;
        reactor->buried = party->next_buried;
        reactor->trade->free(party);
    }
}

void reactor_ready(Reactor *reactor, Party *party)
{
    if (party->is_ready || party->is_buried)
        return;
    party->is_ready = true;
    party->next_ready = NULL;
    if (reactor->ready_first == NULL)
        reactor->ready_first = party;
    else
        reactor->ready_last->next_ready = party;
    reactor->ready_last = party;
}

/* Ends that go */

void reactor_let_leave(Reactor *reactor, End *end)
{
    if (end->is_broken)
        end_close_now(end);
    end_close(end);
    if (!end_is_closed(end))
        deadlines_add(&reactor->lingering, end, reactor_now_ms() + LINGER_MS);
}

void reactor_let_finish(Reactor *reactor, End *end)
{
    if (end->has_ended || end->is_broken || end_is_closed(end)) {
        reactor_let_leave(reactor, end);
        return;
    }
    end->is_finishing = true;
    end_say_no_more(end);
    deadlines_add(&reactor->heard_out, end, reactor_now_ms() + HEAR_OUT_MS);
}

static void give_up(Reactor *reactor, Deadlines *list)
{
    while (list->first != NULL && list->first->deadline_ms <= reactor_now_ms()) {
        End *end = list->first;
        deadlines_remove(end);
        if (end->is_closing)
            end_close_now(end);
        else
            reactor_let_leave(reactor, end);
        reactor->trade->settle(end->party);
    }
}

/* News */

void reactor_tell(Reactor *reactor, Party *party, uint32_t news)
{
    party->news |= news;
    if (party->has_news || party->news == 0)
        return;
    party->has_news = true;
    party->next_news = NULL;
    if (reactor->news_first == NULL) {
        reactor->news_first = party;
        poke(reactor->news_fd);
    } else {
        reactor->news_last->next_news = party;
    }
    reactor->news_last = party;
}

uint32_t reactor_take_news(Reactor *reactor, uint64_t *handle, uint64_t *number, Text **text)
{
    for (Party *party; (party = reactor->news_first) != NULL;) {
        uint32_t news = party->news & -party->news; /* the first */
        *handle = party->handle;
        *number = 0;
        *text = NULL;
        Telling telling = news != 0 ? reactor->trade->tell(reactor, party, news, number, text) : NOTHING_TO_TELL;
        if (telling != TOLD_IN_PART)
            party->news &= ~news;
        if (party->news == 0) {
            party->has_news = false;
            reactor->news_first = party->next_news;
            reactor->trade->settle(party);
        }
        if (telling != NOTHING_TO_TELL)
            return news;
    }
    unpoke(reactor->news_fd);
    return 0;
}

/* The thread */

/* How long it may sleep. */
static int timeout_ms(const Reactor *reactor)
{
    if (reactor->ready_first != NULL || reactor->is_closing)
        return 0;
    bool ticks = reactor->trade->tick_ms > 0 && reactor->parties_len > reactor->free_len;
    int64_t timeout = ticks ? reactor->trade->tick_ms : -1;
    const End *leaving[] = {reactor->heard_out.first, reactor->lingering.first};
    for (size_t i = 0; i < sizeof leaving / sizeof *leaving; i++) {
        if (leaving[i] == NULL)
            continue;
        int64_t left = leaving[i]->deadline_ms - reactor_now_ms();
        left = left > 0 ? left + 1 : 0;
        if (timeout < 0 || left < timeout)
            timeout = left;
    }
    return (int)timeout;
}

static void serve(Reactor *reactor, Party *party)
{
    reactor->trade->serve(party);
    reactor->trade->settle(party);
}

static void heard(Reactor *reactor, End *end, uint32_t events)
{
    if (end_is_closed(end) || end->party->is_buried)
        return;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        end->can_read = true;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        end->hangs_up = true;
    if (events & (EPOLLHUP | EPOLLERR))
        end->is_gone = true;
    serve(reactor, end->party);
}

/* Serve those who were ready, each once: whoever is again has its turn after the next events. */
static void serve_ready(Reactor *reactor)
{
    Party *last = reactor->ready_last;
    for (bool is_last = reactor->ready_first == NULL; !is_last;) {
        Party *party = reactor->ready_first;
        is_last = party == last;
        reactor->ready_first = party->next_ready;
        party->is_ready = false;
        if (!party->is_buried)
            serve(reactor, party);
        let_owner_in(reactor);
    }
}

static void *run(void *argument)
{
    Reactor *reactor = argument;
    struct epoll_event events[EVENTS_MAX];
    pthread_mutex_lock(&reactor->mutex);
    while (!reactor->is_closing) {
        let_owner_in(reactor);
        if (reactor->ready_first == NULL) /* one of these may be buried */
            empty_graveyard(reactor);
        int timeout = timeout_ms(reactor);
        reactor->is_asleep = true;
        pthread_mutex_unlock(&reactor->mutex);
        int count = epoll_wait(reactor->epoll_fd, events, EVENTS_MAX, timeout);
        pthread_mutex_lock(&reactor->mutex);
        reactor->is_asleep = false;
        for (int i = 0; i < count; i++) {
            let_owner_in(reactor);
            if (events[i].data.ptr == NULL)
                unpoke(reactor->wake_fd);
            else
                heard(reactor, events[i].data.ptr, events[i].events);
        }
        serve_ready(reactor);
        give_up(reactor, &reactor->heard_out);
        give_up(reactor, &reactor->lingering);
        if (reactor->trade->turned != NULL)
            reactor->trade->turned(reactor);
    }
    pthread_mutex_unlock(&reactor->mutex);
    return NULL;
}

static bool start_thread(Reactor *reactor)
{
    if (reactor->is_running)
        return true;
    sigset_t all, before;
    sigfillset(&all); /* signals are the owner's business */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&reactor->thread, NULL, run, reactor);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    reactor->is_running = error == 0;
    if (reactor->is_running)
        pthread_setname_np(reactor->thread, reactor->trade->name);
    errno = error;
    return reactor->is_running;
}

bool reactor_prepare(Reactor *reactor)
{
    return make_place(reactor) && start_thread(reactor);
}

/* Its life */

void *reactor_new(size_t size, const Trade *trade)
{
    Reactor *reactor = calloc(1, size);
    if (reactor == NULL)
        return NULL;
    reactor->trade = trade;
    pthread_mutex_init(&reactor->mutex, NULL);
    pthread_cond_init(&reactor->owner_left, NULL);
    reactor->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    reactor->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    reactor->news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (reactor->epoll_fd >= 0 && reactor->wake_fd >= 0 && reactor->news_fd >= 0 &&
        epoll_ctl(reactor->epoll_fd, EPOLL_CTL_ADD, reactor->wake_fd, &event) == 0)
        return reactor;
    int why = errno;
    reactor_close(reactor);
    free(reactor);
    errno = why;
    return NULL;
}

void reactor_close(Reactor *reactor)
{
    if (reactor->is_running) {
        reactor_enter(reactor);
        reactor->is_closing = true;
        reactor_leave(reactor);
        pthread_join(reactor->thread, NULL);
    }
    empty_graveyard(reactor);
    for (uint32_t i = 0; i < reactor->parties_len; i++)
        if (reactor->parties[i] != NULL)
            reactor->trade->free(reactor->parties[i]);
    int descriptors[] = {reactor->epoll_fd, reactor->wake_fd, reactor->news_fd};
    for (size_t i = 0; i < sizeof descriptors / sizeof *descriptors; i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
    free(reactor->parties);
    free(reactor->free_places);
    pthread_cond_destroy(&reactor->owner_left);
    pthread_mutex_destroy(&reactor->mutex);
}
