/* Doorbell inside another event loop, for in_libuv.c and in_glib.c: the part that does not depend on which one.
 *
 * The shard's pollable fd is readable whenever a turn of the shard would find something. The outer loop watches that
 * one fd and calls nested_turn when it is readable: everything that Doorbell watches comes through.
 *
 * What is watched here: standard input, a timeout each quarter of a second, and a post of another thread. At the end of
 * the input it is over. */
#ifndef EXAMPLES_NESTED_H
#define EXAMPLES_NESTED_H

#include "common.h"
#include <pthread.h>

struct nested {
    bell_t *bell;
    int fd; /* for the outer loop */
    bell_handle input, tick, posted;
    pthread_t poster;
};

static void *post_once(void *argument)
{
    struct nested *nested = argument;
    must("bell_post", bell_post(nested->bell, nested->posted, 1));
    return NULL;
}

static void nested_open(struct nested *nested)
{
    must("bell_create", bell_create(NULL, &nested->bell));
    const bell_target poll = {.kind = BELL_TARGET_POLL};
    bell_fd_spec input = {
        .size = sizeof input,
        .fd = 0,
        .interest = BELL_READ,
        .mode = BELL_LEVEL,
        .flags = BELL_FD_ALWAYS_READY, /* input from a file */
        .target = poll,
    };
    must("bell_register_fd", bell_register_fd(nested->bell, &input, &nested->input));
    bell_timeout_spec tick = {
        .size = sizeof tick,
        .deadline_ns = from_now(SECONDS(1) / 4),
        .period_ns = SECONDS(1) / 4,
        .target = poll,
    };
    must("bell_register_timeout", bell_register_timeout(nested->bell, &tick, &nested->tick));
    must("bell_register_user", bell_register_user(nested->bell, 0, &poll, 0, &nested->posted));
    nested->fd = must("bell_pollable_fd", bell_pollable_fd(nested->bell, 0));
    need("pthread_create", -pthread_create(&nested->poster, NULL, post_once, nested));
}

/* Takes what there is, without waiting. 0 when the input has ended. */
static int nested_turn(struct nested *nested)
{
    bell_event events[16];
    /* One turn is enough: what is left keeps the fd readable, and the outer loop has its own work to do in between. */
    const int32_t n = bell_poll(nested->bell, 0, events, 16, 0);
    if (n != -EINTR)
        must("bell_poll", n);
    int open = 1;
    for (int32_t i = 0; i < n; i++) {
        if (events[i].handle == nested->input) {
            char bytes[256];
            const ssize_t got = read(0, bytes, sizeof bytes);
            printf("input: %zd bytes\n", got);
            open = got > 0;
        } else if (events[i].handle == nested->tick) {
            printf("tick\n");
        } else {
            printf("posted by another thread\n");
        }
    }
    fflush(stdout);
    return open;
}

static void nested_close(struct nested *nested)
{
    pthread_join(nested->poster, NULL);
    must("bell_destroy", bell_destroy(nested->bell, 0)); /* when the outer loop watches its fd no more */
}

#endif
