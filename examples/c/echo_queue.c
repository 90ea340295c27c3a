/* Echo server, driven by a thread of the library: the news of all connections goes into one queue, and a few workers
 * take it from there.
 *
 * Mode ONESHOT: a connection is silent from its news until it is armed again, so that no two workers ever serve the
 * same one. It waits for bytes to read, or, while some are left to be written, for room. Who is silent for long is hung
 * up on. */
#define _GNU_SOURCE
#include "common.h"
#include <pthread.h>

#define WORKERS 4
#define MOST_CONNECTIONS 10000

struct connection {
    uint32_t interest;
    struct echo echo;
};

static struct options options;
static bell_t *bell;
static bell_handle queue, stop, listening;
static int listener;
static struct connection *connections[MOST_CONNECTIONS]; /* by fd; each belongs to the worker that has its news */

static bell_target to_queue(void)
{
    return (bell_target){.kind = BELL_TARGET_QUEUE, .queue = queue};
}

static void accept_all(void)
{
    int fd;
    while ((fd = accept_from(listener)) >= 0) {
        struct connection *c = fd < MOST_CONNECTIONS ? calloc(1, sizeof *c) : NULL;
        if (!c) {
            close(fd);
            continue;
        }
        connections[fd] = c;
        bell_fd_spec spec = {
            .size = sizeof spec,
            .fd = fd,
            .interest = c->interest = BELL_READ,
            .mode = BELL_ONESHOT,
            .flags = BELL_FD_DEADLINE,
            .deadline_ns = from_now(options.idle_ns),
            .user_data = (uint64_t)fd,
            .target = to_queue(),
        };
        /* Another worker may have its first news before we have its handle; so we keep none, the events tell it. */
        bell_handle handle;
        must("bell_register_fd", bell_register_fd(bell, &spec, &handle));
    }
    must("bell_rearm", bell_rearm(bell, listening, NULL, BELL_NEVER));
}

static void hang_up(int fd, bell_handle handle)
{
    must("bell_unregister", bell_unregister(bell, handle, 0)); /* before the fd is closed */
    free(connections[fd]);
    connections[fd] = NULL;
    close(fd); /* last: from here on the number may be another worker's */
}

static void serve(int fd, bell_handle handle, uint32_t ready)
{
    struct connection *c = connections[fd];
    const uint32_t was = c->interest, interest = ready == BELL_TIMEOUT ? 0 : echo(&c->echo, fd);
    if (!interest) {
        hang_up(fd, handle);
        return;
    }
    const int64_t deadline = from_now(options.idle_ns);
    c->interest = interest;
    /* From the moment that it is armed `c` may be another worker's, but for its handle, which is only a number. */
    if (interest == was) {
        must("bell_rearm", bell_rearm(bell, handle, NULL, deadline));
    } else {
        must("bell_modify", bell_modify(bell, handle, interest, BELL_ONESHOT));
        bell_update_timeout(bell, handle, deadline);
    }
}

static void *work(void *argument)
{
    for (;;) {
        bell_event event;
        const int32_t n = bell_queue_wait(bell, queue, &event, 1, BELL_NEVER);
        if (n == -EINTR)
            continue;
        must("bell_queue_wait", n);
        if (event.handle == stop) {
            bell_post(bell, stop, 1); /* for the next worker */
            return argument;
        }
        if (event.handle == listening)
            accept_all();
        else
            serve((int)event.user_data, event.handle, event.ready);
    }
}

int main(int argc, char **argv)
{
    options = read_options(argc, argv);
    listener = listen_on(options.port);
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);

    bell_config config;
    must("bell_config_init", bell_config_init(&config, sizeof config));
    config.threads = 1;
    must("bell_create", bell_create(&config, &bell));
    must("bell_queue_create", bell_queue_create(bell, 0, NULL, &queue));
    const bell_target target = to_queue();
    must("bell_register_user", bell_register_user(bell, 0, &target, 0, &stop));
    bell_fd_spec spec = {
        .size = sizeof spec,
        .fd = listener,
        .interest = BELL_READ,
        .mode = BELL_ONESHOT,
        .target = target,
    };
    must("bell_register_fd", bell_register_fd(bell, &spec, &listening));

    pthread_t workers[WORKERS];
    for (int i = 0; i < WORKERS; i++)
        need("pthread_create", -pthread_create(&workers[i], NULL, work, NULL));
    int number;
    sigwait(&signals, &number);
    must("bell_post", bell_post(bell, stop, 1));
    for (int i = 0; i < WORKERS; i++)
        pthread_join(workers[i], NULL);
    must("bell_destroy", bell_destroy(bell, 0));
    for (int fd = 0; fd < MOST_CONNECTIONS; fd++) {
        if (connections[fd])
            close(fd);
        free(connections[fd]);
    }
    close(listener);
    return 0;
}
