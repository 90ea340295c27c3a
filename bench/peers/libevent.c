/* libevent, as its book says: events assigned in the caller's structs, EV_PERSIST, event_base_dispatch. */
#include "common.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <event2/thread.h>

static struct w1 w1;
static struct event_base *base;

static void w1_ready(evutil_socket_t fd, short what, void *arg)
{
    (void)what, (void)arg;
    if (w1_event(&w1, fd))
        event_base_loopbreak(base);
}
static void w1_run(void)
{
    w1 = w1_make();
    base = event_base_new();
    struct event *events = calloc(w1.n, sizeof *events);
    for (int i = 0; i < w1.n; i++) {
        event_assign(&events[i], base, w1.fds[i], EV_READ | EV_PERSIST, w1_ready, NULL);
        MUST(event_add(&events[i], NULL));
    }
    w1_kick(&w1);
    event_base_dispatch(base);
}

static const struct timeval idle = { 60, 0 };

/* A persistent event with a timeout moves it whenever it becomes ready. */
static void w1t_ready(evutil_socket_t fd, short what, void *arg)
{
    if (what & EV_TIMEOUT)
        die("an idle timeout fired");
    w1_ready(fd, what, arg);
}
static void w1t_run(void)
{
    w1 = w1_make();
    base = event_base_new();
    struct event *events = calloc(w1.n, sizeof *events);
    for (int i = 0; i < w1.n; i++) {
        event_assign(&events[i], base, w1.fds[i], EV_READ | EV_PERSIST, w1t_ready, NULL);
        MUST(event_add(&events[i], &idle));
    }
    w1_kick(&w1);
    event_base_dispatch(base);
}

static struct w2 w2;
static void w2_ready(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what, (void)arg;
    if (!w2_read(&w2))
        return;
    if (w2_pong(&w2))
        event_base_loopbreak(base);
    else
        w2_ping(&w2);
}
static void w2_loop(void)
{
    w2 = w2_make(true);
    base = event_base_new();
    struct event event;
    event_assign(&event, base, w2.fd, EV_READ | EV_PERSIST, w2_ready, NULL);
    MUST(event_add(&event, NULL));
    w2_ping(&w2);
    event_base_dispatch(base);
}

static void nothing(evutil_socket_t fd, short what, void *arg) { (void)fd, (void)what, (void)arg; }

static void w3_run(void)
{
    const int block = opt("block"), n = opt("n");
    int *fds = make_eventfds(n, 0);
    base = event_base_new();
    struct event *events = calloc(n, sizeof *events);
    for (int i = 0; i < n; i++)
        event_assign(&events[i], base, fds[i], EV_READ | EV_PERSIST, nothing, NULL);
    const long blocks = opt("events") / block;
    struct watch watch;
    for (long b = -blocks / 8; b < blocks; b++) {
        if (b == 0)
            watch_start(&watch);
        struct event *at = events + (b + blocks) % (n / block) * block;
        for (int i = 0; i < block; i++)
            MUST(event_add(&at[i], NULL));
        for (int i = 0; i < block; i++)
            MUST(event_del(&at[i]));
    }
    watch_stop(&watch, blocks * block);
}

static long fired;
static void count_fired(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what, (void)arg;
    fired++;
}
static struct timeval in_ms(long ms) { return (struct timeval){ ms / 1000, ms % 1000 * 1000 }; }
static void w4_run(void)
{
    const long n = opt("n");
    base = event_base_new();
    struct event *timers = calloc(n, sizeof *timers);
    uint64_t random = 1;
    const int64_t begin = now_ns();
    int64_t begun = cpu_ns();
    for (long i = 0; i < n; i++) {
        evtimer_assign(&timers[i], base, count_fired, NULL);
        const struct timeval t = in_ms(w4_far_ms(n) + random_next(&random) % 1000);
        evtimer_add(&timers[i], &t);
    }
    for (long i = 0; i < n; i += 2)
        evtimer_del(&timers[i]);
    for (long i = 1; i < n; i += 4) {
        const struct timeval t = in_ms(w4_far_ms(n) + random_next(&random) % 1000);
        evtimer_add(&timers[i], &t);
    }
    int64_t cpu = cpu_ns() - begun;
    w4_await(n, begin);
    begun = cpu_ns();
    while (fired < n - n / 2)
        event_base_loop(base, EVLOOP_NONBLOCK);
    w4_print(n, cpu + cpu_ns() - begun);
}

static void w4m_with(const struct timeval *t)
{
    const long n = opt("n"), events = opt("events");
    struct event *timers = calloc(n, sizeof *timers);
    for (long i = 0; i < n; i++) {
        evtimer_assign(&timers[i], base, nothing, NULL);
        evtimer_add(&timers[i], t);
    }
    struct watch watch;
    for (long i = -events / 8; i < events; i++) {
        if (i == 0)
            watch_start(&watch);
        evtimer_add(&timers[(i + events) % n], t);
    }
    watch_stop(&watch, events);
}
static void w4m_run(void)
{
    base = event_base_new();
    w4m_with(&idle);
}
static void w4m_common(void)
{
    base = event_base_new();
    w4m_with(event_base_init_common_timeout(base, &idle));
}

static void *run_loop(void *arg)
{
    (void)arg;
    event_base_loop(base, EVLOOP_NO_EXIT_ON_EMPTY);
    return NULL;
}
static void w5_run(void)
{
    evthread_use_pthreads();
    base = event_base_new();
    struct event event;
    event_assign(&event, base, make_eventfds(1, 0)[0], EV_READ | EV_PERSIST, nothing, NULL);
    pthread_t thread;
    pthread_create(&thread, NULL, run_loop, NULL);
    const long events = opt("events");
    struct watch watch;
    for (long i = -events / 8; i < events; i++) {
        if (i == 0)
            watch_start(&watch);
        MUST(event_add(&event, NULL));
        MUST(event_del(&event));
    }
    watch_stop(&watch, events);
}

static void w6_fds(void)
{
    const int n = opt("n");
    int *fds = make_eventfds(n, 0);
    base = event_base_new();
    const long before = heap_bytes();
    struct event *events = calloc(n, sizeof *events);
    for (int i = 0; i < n; i++) {
        event_assign(&events[i], base, fds[i], EV_READ | EV_PERSIST, nothing, NULL);
        MUST(event_add(&events[i], NULL));
    }
    printf("bytes %.2f\n", (double)(heap_bytes() - before) / n);
}
static void w6_timeouts(void)
{
    const int n = opt("n");
    base = event_base_new();
    const long before = heap_bytes();
    struct event *timers = calloc(n, sizeof *timers);
    for (int i = 0; i < n; i++) {
        evtimer_assign(&timers[i], base, nothing, NULL);
        const struct timeval t = in_ms(60000 + i);
        evtimer_add(&timers[i], &t);
    }
    printf("bytes %.2f\n", (double)(heap_bytes() - before) / n);
}

static struct w7 w7;
static struct event w7_event;
static const struct timeval w7_time = { 0, W7_NS / 1000 };
static void w7_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what, (void)arg;
    if (w7_fired(&w7)) {
        event_base_loopbreak(base);
        return;
    }
    w7.due = now_ns() + W7_NS;
    evtimer_add(&w7_event, &w7_time);
}
static void w7_with(int flags)
{
    w7 = w7_make();
    struct event_config *config = event_config_new();
    event_config_set_flag(config, flags);
    base = event_base_new_with_config(config);
    evtimer_assign(&w7_event, base, w7_timer, NULL);
    w7.due = now_ns() + W7_NS;
    evtimer_add(&w7_event, &w7_time);
    event_base_dispatch(base);
}
static void w7_run(void) { w7_with(0); }
static void w7_precise(void) { w7_with(EVENT_BASE_FLAG_PRECISE_TIMER); }

int main(int argc, char **argv)
{
    static const struct row rows[] = {
        { "w1", "loop", w1_run },          { "w1t", "loop", w1t_run },          { "w2", "loop", w2_loop },
        { "w3", "loop", w3_run },          { "w4", "loop", w4_run },            { "w4m", "loop", w4m_run },
        { "w4m", "common", w4m_common },   { "w5", "locked", w5_run },          { "w6", "fds", w6_fds },
        { "w6", "timeouts", w6_timeouts }, { "w7", "loop", w7_run },            { "w7", "precise", w7_precise },
        { 0 },
    };
    return run_row(argc, argv, rows);
}
