/* Echo server, driven by the caller: one thread, and a loop around bell_poll as in any event loop.
 *
 * Mode LEVEL: the news of a connection comes again for as long as it is ready. Each connection waits for one thing at
 * a time: for bytes to read, or, while some are left to be written, for room. Who is silent for long is hung up on. */
#define _GNU_SOURCE
#include "common.h"

#define MOST_CONNECTIONS 10000
#define BATCH 256

struct connection {
    bell_handle handle;
    uint32_t interest;
    struct echo echo;
};

static struct options options;
static bell_t *bell;
static bell_handle stop;
static struct connection *connections[MOST_CONNECTIONS]; /* by fd */

/* bell_post may be called by signal handlers, and is not lost when nobody waits yet. */
static void on_signal(int number)
{
    bell_post(bell, stop, (uint32_t)number);
}

static void accept_all(int listener)
{
    int fd;
    while ((fd = accept_from(listener)) >= 0) {
        struct connection *c = fd < MOST_CONNECTIONS ? calloc(1, sizeof *c) : NULL;
        if (!c) {
            close(fd);
            continue;
        }
        connections[fd] = c;
        c->interest = BELL_READ;
        bell_fd_spec spec = {
            .size = sizeof spec,
            .fd = fd,
            .interest = BELL_READ,
            .mode = BELL_LEVEL,
            .flags = BELL_FD_DEADLINE,
            .deadline_ns = from_now(options.idle_ns),
            .user_data = (uint64_t)fd,
            .target = {.kind = BELL_TARGET_POLL},
        };
        must("bell_register_fd", bell_register_fd(bell, &spec, &c->handle));
    }
}

static void hang_up(int fd)
{
    must("bell_unregister", bell_unregister(bell, connections[fd]->handle, 0)); /* before the fd is closed */
    close(fd);
    free(connections[fd]);
    connections[fd] = NULL;
}

static void serve(int fd, uint32_t ready)
{
    struct connection *c = connections[fd];
    const uint32_t interest = ready == BELL_TIMEOUT ? 0 : echo(&c->echo, fd);
    if (!interest) {
        hang_up(fd);
        return;
    }
    if (interest != c->interest)
        must("bell_modify", bell_modify(bell, c->handle, interest, BELL_LEVEL));
    c->interest = interest;
    /* Later than before: that costs a store, no system call. */
    must("bell_update_timeout", bell_update_timeout(bell, c->handle, from_now(options.idle_ns)));
}

int main(int argc, char **argv)
{
    options = read_options(argc, argv);
    const int listener = listen_on(options.port);
    must("bell_create", bell_create(NULL, &bell));

    const bell_target poll = {.kind = BELL_TARGET_POLL};
    must("bell_register_user", bell_register_user(bell, 0, &poll, 0, &stop));
    const struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);

    bell_handle listening;
    bell_fd_spec spec = {
        .size = sizeof spec,
        .fd = listener,
        .interest = BELL_READ,
        .mode = BELL_LEVEL,
        .target = poll,
    };
    must("bell_register_fd", bell_register_fd(bell, &spec, &listening));

    for (int stopping = 0; !stopping;) {
        bell_event events[BATCH];
        const int32_t n = bell_poll(bell, 0, events, BATCH, BELL_NEVER);
        if (n != -EINTR)
            must("bell_poll", n);
        for (int32_t i = 0; i < n; i++) {
            if (events[i].handle == stop)
                stopping = 1;
            else if (events[i].handle == listening)
                accept_all(listener);
            else
                serve((int)events[i].user_data, events[i].ready);
        }
    }
    for (int fd = 0; fd < MOST_CONNECTIONS; fd++)
        if (connections[fd])
            hang_up(fd);
    must("bell_destroy", bell_destroy(bell, 0));
    close(listener);
    return 0;
}
