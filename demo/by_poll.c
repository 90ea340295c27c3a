/* One thread, one loop: bell_poll hands out the news of all connections.
 *
 * The idle timeout is the deadline of the connection's own registration: there is no second object to keep, and moving
 * it later at every message costs a store. */
#define _GNU_SOURCE
#include "server.h"

#include <errno.h>
#include <unistd.h>

#define BATCH 1024

void poll_prepare(struct server *server, bell_config *config)
{
    (void)server;
    (void)config; /* the defaults: one shard, driven by whoever calls bell_poll */
}

static void accept_all(struct server *server)
{
    int fd;
    while ((fd = accept_client(server)) >= 0) {
        struct connection *c = connection_take(server, fd);
        c->interest = BELL_READ;
        bell_fd_spec spec = {
            .size = sizeof spec,
            .fd = fd,
            /* Edges are reported once each, so that it costs nothing to be told of both. */
            .interest = server->mode == BELL_EDGE ? BELL_READ | BELL_WRITE : BELL_READ,
            .mode = server->mode,
            .flags = BELL_FD_DEADLINE,
            .deadline_ns = bell_now(BELL_CLOCK_MONOTONIC) + server->idle_ns,
            .user_data = (uintptr_t)c,
            .target = { .kind = BELL_TARGET_POLL },
        };
        must("bell_register_fd", bell_register_fd(server->bell, &spec, &c->handle));
    }
}

static void close_connection(struct server *server, struct connection *c)
{
    bell_unregister(server->bell, c->handle, 0);
    close(c->fd);
    connection_give(server, c);
}

/* Nothing more can be done without waiting: for bytes to read, or for room to write. */
static void wait_on(struct server *server, struct connection *c, uint32_t interest)
{
    const int64_t deadline = bell_now(BELL_CLOCK_MONOTONIC) + server->idle_ns;
    if (server->mode == BELL_EDGE) {
        bell_update_timeout(server->bell, c->handle, deadline);
    } else if (interest == c->interest) {
        bell_rearm(server->bell, c->handle, NULL, deadline);
    } else {
        c->interest = interest;
        bell_modify(server->bell, c->handle, interest, BELL_ONESHOT);
        bell_update_timeout(server->bell, c->handle, deadline);
    }
}

static void serve(struct server *server, struct connection *c, uint32_t ready)
{
    if (ready == BELL_TIMEOUT) {
        atomic_fetch_add(&server->idle_closed, 1);
        close_connection(server, c);
        return;
    }
    switch (echo(server, c, ready)) {
    case ECHOED_ALL: wait_on(server, c, BELL_READ); break;
    case ECHO_BLOCKED: wait_on(server, c, BELL_WRITE); break;
    case ECHO_ENDED: close_connection(server, c); break;
    }
}

void poll_run(struct server *server)
{
    bell_handle listening;
    bell_fd_spec spec = {
        .size = sizeof spec,
        .fd = server->listener,
        .interest = BELL_READ,
        .mode = server->mode,
        .target = { .kind = BELL_TARGET_POLL },
    };
    must("bell_register_fd", bell_register_fd(server->bell, &spec, &listening));

    static bell_event events[BATCH];
    int32_t n;
    while ((n = bell_poll(server->bell, 0, events, BATCH, BELL_NEVER)) >= 0 || n == -EINTR) {
        for (int32_t i = 0; i < n; i++) {
            if (events[i].handle != listening) {
                serve(server, (struct connection *)(uintptr_t)events[i].user_data, events[i].ready);
                continue;
            }
            accept_all(server);
            if (server->mode == BELL_ONESHOT)
                bell_rearm(server->bell, listening, NULL, BELL_NEVER);
        }
    }
    if (n != BELL_E_CLOSED && n != BELL_E_STALE)
        must("bell_poll", n);
}
