/* A pool of two threads takes batches of news from one queue; the idle timeouts are objects of their own, and land in the
 * same queue.
 *
 * A connection's news may reach one thread while the other still serves the same connection, so that each connection has
 * a lock; and an event that a thread took before the other closed the connection is known by its handle. */
#define _GNU_SOURCE
#include "server.h"

#include <errno.h>
#include <unistd.h>

#define THREADS 2
#define BATCH 64

static bell_handle queue, listening;
static pthread_mutex_t accept_lock = PTHREAD_MUTEX_INITIALIZER;

void queue_prepare(struct server *server, bell_config *config)
{
    (void)server;
    (void)config; /* one shard; the threads that wait for the queue drive it in turn */
}

static void accept_all(struct server *server)
{
    const bell_target target = { .kind = BELL_TARGET_QUEUE, .queue = queue };
    int fd;
    while ((fd = accept_client(server)) >= 0) {
        struct connection *c = connection_take(server, fd);
        pthread_mutex_lock(&c->lock); /* its first news may come before its handle is known */
        c->interest = BELL_READ;
        c->last_ns = bell_now(BELL_CLOCK_MONOTONIC);
        bell_fd_spec spec = {
            .size = sizeof spec,
            .fd = fd,
            .interest = server->mode == BELL_EDGE ? BELL_READ | BELL_WRITE : BELL_READ,
            .mode = server->mode,
            .user_data = (uintptr_t)c,
            .target = target,
        };
        must("bell_register_fd", bell_register_fd(server->bell, &spec, &c->handle));
        bell_timeout_spec idle = {
            .size = sizeof idle,
            .deadline_ns = c->last_ns + server->idle_ns,
            .user_data = (uintptr_t)c,
            .target = target,
        };
        must("bell_register_timeout", bell_register_timeout(server->bell, &idle, &c->timeout));
        pthread_mutex_unlock(&c->lock);
    }
}

static void close_connection(struct server *server, struct connection *c)
{
    bell_unregister(server->bell, c->handle, 0);
    bell_unregister(server->bell, c->timeout, 0);
    c->handle = c->timeout = 0;
    close(c->fd);
}

/* The timeout of `c` fired. True if the connection was idle for so long; else it spoke meanwhile. */
static bool is_idle(struct server *server, struct connection *c)
{
    const int64_t deadline = c->last_ns + server->idle_ns;
    if (bell_now(BELL_CLOCK_MONOTONIC) >= deadline)
        return true;
    bell_rearm(server->bell, c->timeout, NULL, deadline);
    return false;
}

static void serve(struct server *server, struct connection *c, const bell_event *event)
{
    uint32_t interest = BELL_READ;
    bool ended = false;
    pthread_mutex_lock(&c->lock);
    if (event->handle == c->timeout) {
        ended = is_idle(server, c);
        atomic_fetch_add(&server->idle_closed, ended);
    } else if (event->handle == c->handle) {
        switch (echo(server, c, event->ready)) {
        case ECHOED_ALL: break;
        case ECHO_BLOCKED: interest = BELL_WRITE; break;
        case ECHO_ENDED: ended = true; break;
        }
        c->last_ns = bell_now(BELL_CLOCK_MONOTONIC);
        /* BELL_FIRED: it is on its way to is_idle, in some thread. */
        if (!ended)
            bell_update_timeout(server->bell, c->timeout, c->last_ns + server->idle_ns);
        if (!ended && server->mode == BELL_ONESHOT) {
            if (interest == c->interest)
                bell_rearm(server->bell, c->handle, NULL, BELL_NEVER);
            else
                bell_modify(server->bell, c->handle, c->interest = interest, BELL_ONESHOT);
        }
    }
    if (ended)
        close_connection(server, c);
    pthread_mutex_unlock(&c->lock);
    if (ended)
        connection_give(server, c);
}

static void *pool_thread(void *argument)
{
    struct server *server = argument;
    bell_event events[BATCH];
    int32_t n;
    while ((n = bell_queue_wait(server->bell, queue, events, BATCH, BELL_NEVER)) >= 0 || n == -EINTR) {
        for (int32_t i = 0; i < n; i++) {
            if (events[i].user_data) {
                serve(server, (struct connection *)(uintptr_t)events[i].user_data, &events[i]);
                continue;
            }
            pthread_mutex_lock(&accept_lock);
            accept_all(server);
            if (server->mode == BELL_ONESHOT)
                bell_rearm(server->bell, listening, NULL, BELL_NEVER);
            pthread_mutex_unlock(&accept_lock);
        }
    }
    if (n != BELL_E_CLOSED && n != BELL_E_STALE && n != BELL_E_CANCELLED)
        must("bell_queue_wait", n);
    return NULL;
}

void queue_run(struct server *server)
{
    must("bell_queue_create", bell_queue_create(server->bell, 0, NULL, &queue));
    bell_fd_spec spec = {
        .size = sizeof spec,
        .fd = server->listener,
        .interest = BELL_READ,
        .mode = server->mode,
        .target = { .kind = BELL_TARGET_QUEUE, .queue = queue },
    };
    must("bell_register_fd", bell_register_fd(server->bell, &spec, &listening));

    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        must("pthread_create", -pthread_create(&threads[i], NULL, pool_thread, server));
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}
