#include "end.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

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

void end_init(End *end, Pair *pair, int fd)
{
    memset(end, 0, sizeof *end);
    end->pair = pair;
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

/* Park *parts* without their first *sent* bytes, behind what is parked already. */
static bool park(End *end, const struct iovec *parts, int count, size_t sent)
{
    size_t total = 0;
    for (int i = 0; i < count; i++)
        total += parts[i].iov_len;
    size_t len = end->out_len;
    uint8_t *out = malloc(len + total - sent);
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

bool end_write(End *end, const struct iovec *parts, int count)
{
    size_t total = 0;
    for (int i = 0; i < count; i++)
        total += parts[i].iov_len;
    if (total == 0 || end_is_closed(end) || end->is_broken || end->says_no_more || end->is_closing)
        return true;
    size_t sent = 0;
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
    end->says_no_more = true;
    if (end->out_len == 0)
        all_is_sent(end);
}

void end_close(End *end)
{
    if (end_is_closed(end))
        return;
    end->is_closing = true;
    if (end->out_len == 0)
        end_close_now(end);
}

void end_close_now(End *end)
{
    deadlines_remove(end);
    forget_parked(end);
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
    if (end->epoll_fd >= 0)
        epoll_ctl(end->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    end->fd = -1;
    return fd;
}
