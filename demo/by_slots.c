/* One thread for each connection, written as if reads and writes blocked: a call that would block waits on the slot of
 * the connection's registration.
 *
 * The threads exist before the first client, with small stacks, so that we know beforehand how many the system allows. */
#define _GNU_SOURCE
#include "common.h"
#include "server.h"

#include <errno.h>
#include <limits.h>
#include <sys/prctl.h>
#include <unistd.h>

#define STACK_BYTES (64 * 1024)

static struct connection **idle_threads; /* a stack of those without a client */
static uint32_t idle_thread_count;
static pthread_mutex_t idle_lock = PTHREAD_MUTEX_INITIALIZER;

/* Waits until the connection may be readable, or writable. False: give it up. */
static bool wait_on(struct connection *c, uint32_t direction)
{
    struct server *server = c->server;
    const int64_t deadline = bell_now(BELL_CLOCK_MONOTONIC) + server->idle_ns;
    if (server->mode == BELL_ONESHOT) {
        if (direction == c->interest) {
            bell_rearm(server->bell, c->handle, NULL, BELL_NEVER);
        } else {
            c->interest = direction;
            bell_modify(server->bell, c->handle, direction, BELL_ONESHOT);
        }
    }
    int32_t news;
    while ((news = bell_slot_wait(server->bell, c->handle, direction, deadline, 0)) == -EINTR)
        ;
    if (news == -ETIMEDOUT)
        atomic_fetch_add(&server->idle_closed, 1);
    if (news < 0)
        return false;
    c->ending |= (news & (BELL_RDHUP | BELL_HUP | BELL_ERR)) != 0;
    return true;
}

static void converse(struct connection *c)
{
    char buffer[4096];
    ssize_t n;
    while (wait_on(c, BELL_READ)) {
        do {
            n = read(c->fd, buffer, sizeof buffer);
            if (n < 0 && errno == EAGAIN)
                break;
            if (n <= 0)
                return;
            for (ssize_t written = 0, w; written < n; written += w) {
                while ((w = write(c->fd, buffer + written, (size_t)(n - written))) < 0) {
                    if (errno != EAGAIN)
                        return;
                    atomic_fetch_add(&c->server->write_waits, 1);
                    if (!wait_on(c, BELL_WRITE))
                        return;
                }
            }
            /* A short read has emptied the socket, unless the end of the stream was reported: that comes as a read of 0. */
        } while (n == sizeof buffer || c->ending);
    }
}

static void *connection_thread(void *argument)
{
    struct connection *c = argument;
    struct server *server = c->server;
    for (;;) {
        while (sem_wait(&c->accepted) != 0)
            ;
        if (c->fd < 0)
            return NULL;
        c->interest = BELL_READ;
        c->ending = false;
        bell_fd_spec spec = {
            .size = sizeof spec,
            .fd = c->fd,
            .interest = server->mode == BELL_EDGE ? BELL_READ | BELL_WRITE : BELL_READ,
            .mode = server->mode,
            .target = { .kind = BELL_TARGET_SLOT },
        };
        must("bell_register_fd", bell_register_fd(server->bell, &spec, &c->handle));
        converse(c);
        bell_unregister(server->bell, c->handle, 0);
        close(c->fd);

        pthread_mutex_lock(&idle_lock);
        idle_threads[idle_thread_count++] = c;
        pthread_mutex_unlock(&idle_lock);
        atomic_fetch_sub(&server->open, 1);
    }
    return NULL;
}

/* Since Linux 6.16 a process has a futex hash of its own, by default of 16 buckets on a machine with two CPUs. With 10,000
 * threads asleep each wake walks a list of hundreds: 20,000 round trips per second instead of 56,000 (measured on 6.18). */
static void enlarge_futex_hash(uint32_t sleepers)
{
#ifndef PR_FUTEX_HASH
#define PR_FUTEX_HASH 78
#define PR_FUTEX_HASH_SET_SLOTS 1
#endif
    unsigned long buckets = 16;
    while (buckets < sleepers)
        buckets *= 2;
    prctl(PR_FUTEX_HASH, PR_FUTEX_HASH_SET_SLOTS, buckets, 0, 0); /* older kernels need it not, and refuse it */
}

void slots_prepare(struct server *server, bell_config *config)
{
    /* No library threads: one of the waiting threads drives. With one (config->threads = 1) the throughput was the same:
     * of 10,000 waiters the one that drives seldom is the one whose news comes. */
    config->threads = 0;
    enlarge_futex_hash(server->capacity);
    idle_threads = calloc(server->capacity, sizeof *idle_threads);
    pthread_t *threads = calloc(server->capacity, sizeof *threads);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES > PTHREAD_STACK_MIN ? STACK_BYTES : PTHREAD_STACK_MIN);
    int error = 0;
    while (!error && idle_thread_count < server->capacity) {
        struct connection *c = calloc(1, sizeof *c);
        c->server = server;
        sem_init(&c->accepted, 0, 0);
        error = pthread_create(&threads[idle_thread_count], &attributes, connection_thread, c);
        if (!error)
            idle_threads[idle_thread_count++] = c;
    }
    if (error) {
        fprintf(stderr, "server: %u threads, not %u: %s\n", idle_thread_count, server->capacity, strerror(error));
        /* Some end again: whatever ran out is needed for other things too. */
        server->capacity = idle_thread_count - (idle_thread_count + 15) / 16;
        while (idle_thread_count > server->capacity) {
            struct connection *c = idle_threads[--idle_thread_count];
            c->fd = -1;
            sem_post(&c->accepted);
            pthread_join(threads[idle_thread_count], NULL);
        }
    }
    pthread_attr_destroy(&attributes);
    free(threads);
}

void slots_run(struct server *server)
{
    bell_handle listening;
    bell_fd_spec spec = {
        .size = sizeof spec,
        .fd = server->listener,
        .interest = BELL_READ,
        .mode = server->mode,
        .target = { .kind = BELL_TARGET_SLOT },
    };
    must("bell_register_fd", bell_register_fd(server->bell, &spec, &listening));
    for (;;) {
        int fd;
        while ((fd = accept_client(server)) >= 0) {
            pthread_mutex_lock(&idle_lock);
            struct connection *c = idle_threads[--idle_thread_count];
            pthread_mutex_unlock(&idle_lock);
            c->fd = fd;
            sem_post(&c->accepted);
        }
        if (server->mode == BELL_ONESHOT)
            bell_rearm(server->bell, listening, NULL, BELL_NEVER);
        const int32_t news = bell_slot_wait(server->bell, listening, BELL_READ, BELL_NEVER, 0);
        if (news == BELL_E_CLOSED || news == BELL_E_STALE || (news > 0 && news & BELL_CLOSED))
            return;
        if (news != -EINTR)
            must("bell_slot_wait", news);
    }
}
