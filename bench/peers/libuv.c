/* libuv, as its guide says: handles embedded in the caller's structs, uv_run. */
#include "common.h"

#include <uv.h>

static struct w1 w1;

static void w1_ready(uv_poll_t *poll, int status, int events)
{
    (void)status, (void)events;
    uv_os_fd_t fd;
    uv_fileno((uv_handle_t *)poll, &fd);
    if (w1_event(&w1, fd))
        uv_stop(poll->loop);
}
static void w1_run(void)
{
    w1 = w1_make();
    uv_loop_t *loop = uv_default_loop();
    uv_poll_t *poll = calloc(w1.n, sizeof *poll);
    for (int i = 0; i < w1.n; i++) {
        MUST(uv_poll_init(loop, &poll[i], w1.fds[i]));
        MUST(uv_poll_start(&poll[i], UV_READABLE, w1_ready));
    }
    w1_kick(&w1);
    uv_run(loop, UV_RUN_DEFAULT);
}

struct connection {
    uv_poll_t poll;
    uv_timer_t idle;
};
static void idle_fired(uv_timer_t *timer)
{
    (void)timer;
    die("an idle timeout fired");
}
static void w1t_ready(uv_poll_t *poll, int status, int events)
{
    struct connection *c = (struct connection *)poll;
    uv_timer_again(&c->idle);
    w1_ready(poll, status, events);
}
static void w1t_run(void)
{
    w1 = w1_make();
    uv_loop_t *loop = uv_default_loop();
    struct connection *c = calloc(w1.n, sizeof *c);
    for (int i = 0; i < w1.n; i++) {
        MUST(uv_poll_init(loop, &c[i].poll, w1.fds[i]));
        MUST(uv_poll_start(&c[i].poll, UV_READABLE, w1t_ready));
        uv_timer_init(loop, &c[i].idle);
        uv_timer_start(&c[i].idle, idle_fired, 60000, 60000);
    }
    w1_kick(&w1);
    uv_run(loop, UV_RUN_DEFAULT);
}

static struct w2 w2;
static void w2_ready(uv_poll_t *poll, int status, int events)
{
    (void)status, (void)events;
    if (!w2_read(&w2))
        return;
    if (w2_pong(&w2))
        uv_stop(poll->loop);
    else
        w2_ping(&w2);
}
static void w2_loop(void)
{
    w2 = w2_make(true);
    uv_poll_t poll;
    MUST(uv_poll_init(uv_default_loop(), &poll, w2.fd));
    MUST(uv_poll_start(&poll, UV_READABLE, w2_ready));
    w2_ping(&w2);
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}

/* A loop thread hands over to the waiter by a semaphore. */
static uv_sem_t readable;
static void w2_signal(uv_poll_t *poll, int status, int events)
{
    (void)poll, (void)status, (void)events;
    if (w2_read(&w2))
        uv_sem_post(&readable);
}
static void run_loop(void *loop) { uv_run(loop, UV_RUN_DEFAULT); }
static void w2_semaphore(void)
{
    w2 = w2_make(true);
    uv_poll_t poll;
    uv_sem_init(&readable, 0);
    MUST(uv_poll_init(uv_default_loop(), &poll, w2.fd));
    MUST(uv_poll_start(&poll, UV_READABLE, w2_signal));
    uv_thread_t thread;
    uv_thread_create(&thread, run_loop, uv_default_loop());
    do {
        w2_ping(&w2);
        uv_sem_wait(&readable);
    } while (!w2_pong(&w2));
}

static void nothing(uv_poll_t *poll, int status, int events) { (void)poll, (void)status, (void)events; }

/* uv_poll_start takes effect when the loop is about to wait, so it turns once for each block. */
static void w3_run(void)
{
    const int block = opt("block"), n = opt("n");
    int *fds = make_eventfds(n, 0);
    uv_loop_t *loop = uv_default_loop();
    uv_poll_t *poll = calloc(n, sizeof *poll);
    const long blocks = opt("events") / block;
    struct watch watch;
    for (long b = -blocks / 8; b < blocks; b++) {
        if (b == 0)
            watch_start(&watch);
        const int at = (b + blocks) % (n / block) * block;
        for (int i = at; i < at + block; i++) {
            MUST(uv_poll_init(loop, &poll[i], fds[i]));
            MUST(uv_poll_start(&poll[i], UV_READABLE, nothing));
        }
        uv_run(loop, UV_RUN_NOWAIT);
        for (int i = at; i < at + block; i++)
            uv_close((uv_handle_t *)&poll[i], NULL);
        uv_run(loop, UV_RUN_NOWAIT);
    }
    watch_stop(&watch, blocks * block);
}

static long fired;
static void count_fired(uv_timer_t *timer)
{
    (void)timer;
    fired++;
}
static void w4_run(void)
{
    const long n = opt("n");
    uv_loop_t *loop = uv_default_loop();
    uv_timer_t *timers = calloc(n, sizeof *timers);
    uint64_t random = 1;
    const int64_t base = now_ns();
    uv_update_time(loop);
    int64_t begun = cpu_ns();
    for (long i = 0; i < n; i++) {
        uv_timer_init(loop, &timers[i]);
        uv_timer_start(&timers[i], count_fired, w4_far_ms(n) + random_next(&random) % 1000, 0);
    }
    for (long i = 0; i < n; i += 2)
        uv_timer_stop(&timers[i]);
    for (long i = 1; i < n; i += 4)
        uv_timer_start(&timers[i], count_fired, w4_far_ms(n) + random_next(&random) % 1000, 0);
    int64_t cpu = cpu_ns() - begun;
    w4_await(n, base);
    begun = cpu_ns();
    while (fired < n - n / 2)
        uv_run(loop, UV_RUN_NOWAIT);
    w4_print(n, cpu + cpu_ns() - begun);
}

static void w4m_run(void)
{
    const long n = opt("n"), events = opt("events");
    uv_loop_t *loop = uv_default_loop();
    uv_timer_t *timers = calloc(n, sizeof *timers);
    for (long i = 0; i < n; i++) {
        uv_timer_init(loop, &timers[i]);
        uv_timer_start(&timers[i], idle_fired, 60000, 60000);
    }
    struct watch watch;
    for (long i = -events / 8; i < events; i++) {
        if (i == 0)
            watch_start(&watch);
        if ((i & 63) == 0)
            uv_update_time(loop); /* as a turn of the loop would */
        uv_timer_again(&timers[(i + events) % n]);
    }
    watch_stop(&watch, events);
}

/* W5: only the loop's thread may touch its handles, so it is asked and says when it is done. */
static struct {
    uv_async_t wake;
    uv_poll_t poll;
    int fd;
    bool add;
    uv_sem_t done;
} request;
static void closed(uv_handle_t *handle)
{
    (void)handle;
    uv_sem_post(&request.done);
}
static void serve_request(uv_async_t *wake)
{
    if (request.add) {
        MUST(uv_poll_init(wake->loop, &request.poll, request.fd));
        MUST(uv_poll_start(&request.poll, UV_READABLE, nothing));
        uv_sem_post(&request.done);
    } else {
        uv_close((uv_handle_t *)&request.poll, closed);
    }
}
static void w5_run(void)
{
    request.fd = make_eventfds(1, 0)[0];
    uv_async_init(uv_default_loop(), &request.wake, serve_request);
    uv_sem_init(&request.done, 0);
    uv_thread_t thread;
    uv_thread_create(&thread, run_loop, uv_default_loop());
    const long events = opt("events");
    struct watch watch;
    for (long i = -events / 8; i < events; i++) {
        if (i == 0)
            watch_start(&watch);
        for (int add = 1; add >= 0; add--) {
            request.add = add;
            uv_async_send(&request.wake);
            uv_sem_wait(&request.done);
        }
    }
    watch_stop(&watch, events);
}

static void w6_fds(void)
{
    const int n = opt("n");
    int *fds = make_eventfds(n, 0);
    uv_loop_t *loop = uv_default_loop();
    const long before = heap_bytes();
    uv_poll_t *poll = calloc(n, sizeof *poll);
    for (int i = 0; i < n; i++) {
        MUST(uv_poll_init(loop, &poll[i], fds[i]));
        MUST(uv_poll_start(&poll[i], UV_READABLE, nothing));
    }
    uv_run(loop, UV_RUN_NOWAIT);
    printf("bytes %.2f\n", (double)(heap_bytes() - before) / n);
}
static void w6_timeouts(void)
{
    const int n = opt("n");
    uv_loop_t *loop = uv_default_loop();
    const long before = heap_bytes();
    uv_timer_t *timers = calloc(n, sizeof *timers);
    for (int i = 0; i < n; i++) {
        uv_timer_init(loop, &timers[i]);
        uv_timer_start(&timers[i], count_fired, 60000 + i, 0);
    }
    printf("bytes %.2f\n", (double)(heap_bytes() - before) / n);
}

/* A timer of libuv counts whole milliseconds: 1 is the shortest that is not too short. */
static struct w7 w7;
static void w7_timer(uv_timer_t *timer)
{
    if (w7_fired(&w7)) {
        uv_stop(timer->loop);
        return;
    }
    uv_update_time(timer->loop);
    w7.due = now_ns() + W7_NS;
    uv_timer_start(timer, w7_timer, 1, 0);
}
static void w7_run(void)
{
    w7 = w7_make();
    uv_timer_t timer;
    uv_timer_init(uv_default_loop(), &timer);
    uv_update_time(uv_default_loop());
    w7.due = now_ns() + W7_NS;
    uv_timer_start(&timer, w7_timer, 1, 0);
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}

int main(int argc, char **argv)
{
    static const struct row rows[] = {
        { "w1", "loop", w1_run },            { "w1t", "loop", w1t_run }, { "w2", "loop", w2_loop },
        { "w2", "semaphore", w2_semaphore }, { "w3", "loop", w3_run },   { "w4", "loop", w4_run },
        { "w4m", "loop", w4m_run },          { "w5", "async", w5_run },  { "w6", "fds", w6_fds },
        { "w6", "timeouts", w6_timeouts },   { "w7", "loop", w7_run },   { 0 },
    };
    return run_row(argc, argv, rows);
}
