/* Doorbell inside a libuv loop. See nested.h. */
#define _GNU_SOURCE
#include "nested.h"
#include <uv.h>

static void on_readable(uv_poll_t *watcher, int status, int events)
{
    (void)events;
    if (status < 0) {
        fprintf(stderr, "uv_poll: %s\n", uv_strerror(status));
        exit(1);
    }
    if (!nested_turn(watcher->data))
        uv_stop(watcher->loop);
}

/* A timer of libuv's own, to show that its loop runs. */
static void on_timer(uv_timer_t *timer)
{
    (void)timer;
    printf("libuv's timer\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc != 1)
        usage(argv, "    (reads standard input to its end)");
    struct nested nested;
    nested_open(&nested);

    uv_loop_t *loop = uv_default_loop();
    uv_poll_t watcher = {.data = &nested};
    need("uv_poll_init", uv_poll_init(loop, &watcher, nested.fd));
    need("uv_poll_start", uv_poll_start(&watcher, UV_READABLE, on_readable));
    uv_timer_t timer;
    uv_timer_init(loop, &timer);
    uv_timer_start(&timer, on_timer, 250, 250);
    uv_run(loop, UV_RUN_DEFAULT);

    uv_close((uv_handle_t *)&watcher, NULL);
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(loop, UV_RUN_DEFAULT); /* lets libuv finish closing */
    uv_loop_close(loop);
    nested_close(&nested);
    return 0;
}
