#include "end.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* Beyond which a peer is cut off that makes TLS say more, by requests for new keys, and reads nothing (wire/link.py). */
enum { UNASKED_BYTES_MAX = 1 << 19 };

void deadlines_add(Deadlines *list, End *end, int64_t deadline_ms)
{
    deadlines_remove(end);
    end->among = list;
    end->deadline_ms = deadline_ms;
    end->next = NULL;
    end->previous = list->last;
    if (list->last != NULL)
        list->last->next = end;
    else
        list->first = end;
    list->last = end;
}

void deadlines_remove(End *end)
{
    Deadlines *list = end->among;
    if (list == NULL)
        return;
    if (end->previous != NULL)
        end->previous->next = end->next;
    else
        list->first = end->next;
    if (end->next != NULL)
        end->next->previous = end->previous;
    else
        list->last = end->previous;
    end->among = NULL;
}

void end_init(End *end, Party *party, int fd)
{
    memset(end, 0, sizeof *end);
    end->party = party;
    end->fd = fd;
    end->epoll_fd = -1;
}

static void forget_parked(End *end)
{
    free(end->out);
    end->out = NULL;
    end->out_begin = end->out_len = 0;
}

static bool broke(End *end)
{
    end->is_broken = true;
    end->can_read = true; /* it may have said why before; reading finds out */
    forget_parked(end);
    if (end->is_closing)
        end_close_now(end);
    return false;
}

static bool would_block(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK;
}

static size_t length_of(const struct iovec *parts, int count)
{
    size_t total = 0;
    for (int i = 0; i < count; i++)
        total += parts[i].iov_len;
    return total;
}

/* Park *parts* without their first *sent* bytes, behind what is parked already. */
static bool park(End *end, const struct iovec *parts, int count, size_t sent)
{
    size_t len = end->out_len;
    uint8_t *out = malloc(len + length_of(parts, count) - sent);
    if (out == NULL)
        return false;
    if (len > 0)
        memcpy(out, end->out + end->out_begin, len);
    for (int i = 0; i < count; i++) {
        size_t skipped = sent < parts[i].iov_len ? sent : parts[i].iov_len;
        sent -= skipped;
        if (parts[i].iov_len > skipped)
            memcpy(out + len, (const uint8_t *)parts[i].iov_base + skipped, parts[i].iov_len - skipped);
        len += parts[i].iov_len - skipped;
    }
    free(end->out);
    end->out = out;
    end->out_begin = 0;
    end->out_len = (uint32_t)len;
    return true;
}

/* Send or park what goes over the wire. */
static bool put(End *end, const struct iovec *parts, int count)
{
    size_t total = length_of(parts, count), sent = 0;
    if (total == 0)
        return true;
    if (end->out_len == 0) {
        struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count};
        ssize_t taken;
        do
            taken = sendmsg(end->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (taken < 0 && errno == EINTR);
        if (taken < 0 && !would_block())
            return broke(end);
        sent = taken > 0 ? (size_t)taken : 0;
    }
    /* A short write means that the socket is full: epoll tells when there is room. */
    return sent == total || park(end, parts, count, sent) || broke(end);
}

static bool may_say(const End *end)
{
    return !end_is_closed(end) && !end->is_broken && !end->says_no_more && !end->is_closing;
}

bool end_write(End *end, const struct iovec *parts, int count)
{
    if (length_of(parts, count) == 0 || !may_say(end))
        return true;
    if (end->tls == NULL)
        return put(end, parts, count);
    struct iovec sealed;
    return tls_seal(end->tls, parts, count, &sealed) ? put(end, &sealed, 1) : broke(end);
}

TlsState end_open(End *end, const uint8_t *chunk, size_t len, Buffer *plain)
{
    struct iovec answer;
    TlsState state = tls_open(end->tls, chunk, len, plain, &answer);
    if (may_say(end) && answer.iov_len > 0 && (!put(end, &answer, 1) || end->out_len > UNASKED_BYTES_MAX))
        return TLS_BROKEN;
    return state;
}

static void say_goodbye(End *end)
{
    if (end->tls == NULL || !may_say(end))
        return;
    struct iovec goodbye = tls_goodbye(end->tls);
    put(end, &goodbye, 1);
}

static void all_is_sent(End *end)
{
    forget_parked(end);
    if (end->says_no_more && !end->is_shut) {
        end->is_shut = true;
        shutdown(end->fd, SHUT_WR);
    }
    if (end->is_closing)
        end_close_now(end);
}

bool end_flush(End *end)
{
    while (end->out_len > 0) {
        ssize_t taken = send(end->fd, end->out + end->out_begin, end->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (taken < 0 && errno == EINTR)
            continue;
        if (taken < 0)
            return would_block() || broke(end);
        end->out_begin += (uint32_t)taken;
        end->out_len -= (uint32_t)taken;
        if (end->out_len == 0)
            all_is_sent(end);
    }
    return true;
}

void end_say_no_more(End *end)
{
    if (end_is_closed(end) || end->says_no_more)
        return;
    say_goodbye(end);
    end->says_no_more = true;
    if (end->out_len == 0)
        all_is_sent(end);
}

void end_close(End *end)
{
    if (end_is_closed(end))
        return;
    say_goodbye(end);
    end->is_closing = true;
    if (end->out_len == 0)
        end_close_now(end);
}

void end_close_now(End *end)
{
    deadlines_remove(end);
    forget_parked(end);
    tls_free(end->tls);
    end->tls = NULL;
    if (end_is_closed(end))
        return;
    /* To close it is not enough: somebody else may have a descriptor of the same socket, and epoll watches sockets. */
    if (end->epoll_fd >= 0)
        epoll_ctl(end->epoll_fd, EPOLL_CTL_DEL, end->fd, NULL);
    close(end->fd);
    end->fd = -1;
}

int end_give_away(End *end)
{
    int fd = end->fd;
    if (end->tls != NULL)
        tls_give_back(end->tls);
    end->tls = NULL;
    if (end->epoll_fd >= 0)
        epoll_ctl(end->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    end->fd = -1;
    return fd;
}
