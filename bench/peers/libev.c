/* libev, as its manual says: watchers embedded in the caller's structs, ev_run. */
#include "common.h"

#include <ev.h>
#include <semaphore.h>

static struct w1 w1;

static void w1_ready(struct ev_loop *loop, ev_io *io, int revents)
{
    (void)revents;
    if (w1_event(&w1, io->fd))
        ev_break(loop, EVBREAK_ALL);
}
static void w1_run(void)
{
    w1 = w1_make();
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    ev_io *io = calloc(w1.n, sizeof *io);
    for (int i = 0; i < w1.n; i++) {
        ev_io_init(&io[i], w1_ready, w1.fds[i], EV_READ);
        ev_io_start(loop, &io[i]);
    }
    w1_kick(&w1);
    ev_run(loop, 0);
}

struct connection {
    ev_io io;
    ev_timer idle;
};
static void idle_fired(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)loop, (void)timer, (void)revents;
    die("an idle timeout fired");
}
static void w1t_ready(struct ev_loop *loop, ev_io *io, int revents)
{
    struct connection *c = (struct connection *)io;
    ev_timer_again(loop, &c->idle);
    w1_ready(loop, io, revents);
}
static void w1t_run(void)
{
    w1 = w1_make();
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    struct connection *c = calloc(w1.n, sizeof *c);
    for (int i = 0; i < w1.n; i++) {
        ev_io_init(&c[i].io, w1t_ready, w1.fds[i], EV_READ);
        ev_io_start(loop, &c[i].io);
        ev_timer_init(&c[i].idle, idle_fired, 0, 60);
        ev_timer_again(loop, &c[i].idle);
    }
    w1_kick(&w1);
    ev_run(loop, 0);
}

static struct w2 w2;
static void w2_ready(struct ev_loop *loop, ev_io *io, int revents)
{
    (void)io, (void)revents;
    if (!w2_read(&w2))
        return;
    if (w2_pong(&w2))
        ev_break(loop, EVBREAK_ALL);
    else
        w2_ping(&w2);
}
static void w2_loop(void)
{
    w2 = w2_make(true);
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    ev_io io;
    ev_io_init(&io, w2_ready, w2.fd, EV_READ);
    ev_io_start(loop, &io);
    w2_ping(&w2);
    ev_run(loop, 0);
}

/* A loop thread hands over to the waiter by a condition variable. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news = PTHREAD_COND_INITIALIZER;
static int readable;
static void w2_signal(struct ev_loop *loop, ev_io *io, int revents)
{
    (void)loop, (void)io, (void)revents;
    if (!w2_read(&w2))
        return;
    pthread_mutex_lock(&lock);
    readable++;
    pthread_mutex_unlock(&lock);
    pthread_cond_signal(&news);
}
static void *run_loop(void *loop)
{
    ev_run(loop, 0);
    return NULL;
}
static void w2_condvar(void)
{
    w2 = w2_make(true);
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    ev_io io;
    ev_io_init(&io, w2_signal, w2.fd, EV_READ);
    ev_io_start(loop, &io);
    pthread_t thread;
    pthread_create(&thread, NULL, run_loop, loop);
    do {
        w2_ping(&w2);
        pthread_mutex_lock(&lock);
        while (!readable)
            pthread_cond_wait(&news, &lock);
        readable--;
        pthread_mutex_unlock(&lock);
    } while (!w2_pong(&w2));
}

static void nothing(struct ev_loop *loop, ev_io *io, int revents) { (void)loop, (void)io, (void)revents; }

/* ev_io_start takes effect when the loop is about to wait, so it turns once for each block. */
static void w3_run(void)
{
    const int block = opt("block"), n = opt("n");
    int *fds = make_eventfds(n, 0);
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    ev_io *io = calloc(n, sizeof *io);
    for (int i = 0; i < n; i++)
        ev_io_init(&io[i], nothing, fds[i], EV_READ);
    const long blocks = opt("events") / block;
    struct watch watch;
    for (long b = -blocks / 8; b < blocks; b++) {
        if (b == 0)
            watch_start(&watch);
        ev_io *at = io + (b + blocks) % (n / block) * block;
        for (int i = 0; i < block; i++)
            ev_io_start(loop, &at[i]);
        ev_run(loop, EVRUN_NOWAIT);
        for (int i = 0; i < block; i++)
            ev_io_stop(loop, &at[i]);
        ev_run(loop, EVRUN_NOWAIT);
    }
    watch_stop(&watch, blocks * block);
}

static long fired;
static void count_fired(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)loop, (void)timer, (void)revents;
    fired++;
}
static void w4_run(void)
{
    const long n = opt("n");
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    ev_timer *timers = calloc(n, sizeof *timers);
    uint64_t random = 1;
    const int64_t base = now_ns();
    ev_now_update(loop);
    int64_t begun = cpu_ns();
    for (long i = 0; i < n; i++) {
        ev_timer_init(&timers[i], count_fired, (w4_far_ms(n) + random_next(&random) % 1000) * 1e-3, 0);
        ev_timer_start(loop, &timers[i]);
    }
    for (long i = 0; i < n; i += 2)
        ev_timer_stop(loop, &timers[i]);
    for (long i = 1; i < n; i += 4) {
        ev_timer_stop(loop, &timers[i]);
        ev_timer_set(&timers[i], (w4_far_ms(n) + random_next(&random) % 1000) * 1e-3, 0);
        ev_timer_start(loop, &timers[i]);
    }
    int64_t cpu = cpu_ns() - begun;
    w4_await(n, base);
    begun = cpu_ns();
    while (fired < n - n / 2)
        ev_run(loop, EVRUN_NOWAIT);
    w4_print(n, cpu + cpu_ns() - begun);
}

static void w4m_run(void)
{
    const long n = opt("n"), events = opt("events");
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    ev_timer *timers = calloc(n, sizeof *timers);
    for (long i = 0; i < n; i++) {
        ev_timer_init(&timers[i], idle_fired, 0, 60);
        ev_timer_again(loop, &timers[i]);
    }
    struct watch watch;
    for (long i = -events / 8; i < events; i++) {
        if (i == 0)
            watch_start(&watch);
        if ((i & 63) == 0)
            ev_now_update(loop); /* as a turn of the loop would */
        ev_timer_again(loop, &timers[(i + events) % n]);
    }
    watch_stop(&watch, events);
}

/* W5: only the loop's thread may touch its watchers, so it is asked and says when it is done. */
static struct {
    ev_async wake;
    ev_io io;
    bool add;
    sem_t done;
} request;
static void serve_request(struct ev_loop *loop, ev_async *wake, int revents)
{
    (void)wake, (void)revents;
    if (request.add)
        ev_io_start(loop, &request.io);
    else
        ev_io_stop(loop, &request.io);
    sem_post(&request.done);
}
static void w5_run(void)
{
    int *fds = make_eventfds(1, 0);
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    ev_io_init(&request.io, nothing, fds[0], EV_READ);
    ev_async_init(&request.wake, serve_request);
    ev_async_start(loop, &request.wake);
    sem_init(&request.done, 0, 0);
    pthread_t thread;
    pthread_create(&thread, NULL, run_loop, loop);
    const long events = opt("events");
    struct watch watch;
    for (long i = -events / 8; i < events; i++) {
        if (i == 0)
            watch_start(&watch);
        for (int add = 1; add >= 0; add--) {
            request.add = add;
            ev_async_send(loop, &request.wake);
            sem_wait(&request.done);
        }
    }
    watch_stop(&watch, events);
}

static void w6_fds(void)
{
    const int n = opt("n");
    int *fds = make_eventfds(n, 0);
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    const long before = heap_bytes();
    ev_io *io = calloc(n, sizeof *io);
    for (int i = 0; i < n; i++) {
        ev_io_init(&io[i], nothing, fds[i], EV_READ);
        ev_io_start(loop, &io[i]);
    }
    ev_run(loop, EVRUN_NOWAIT);
    printf("bytes %.2f\n", (double)(heap_bytes() - before) / n);
}
static void w6_timeouts(void)
{
    const int n = opt("n");
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    const long before = heap_bytes();
    ev_timer *timers = calloc(n, sizeof *timers);
    for (int i = 0; i < n; i++) {
        ev_timer_init(&timers[i], count_fired, 60 + i * 1e-6, 0);
        ev_timer_start(loop, &timers[i]);
    }
    printf("bytes %.2f\n", (double)(heap_bytes() - before) / n);
}

static struct w7 w7;
static void w7_timer(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)revents;
    if (w7_fired(&w7)) {
        ev_break(loop, EVBREAK_ALL);
        return;
    }
    ev_now_update(loop);
    w7.due = now_ns() + W7_NS;
    ev_timer_set(timer, W7_NS * 1e-9, 0);
    ev_timer_start(loop, timer);
}
static void w7_run(void)
{
    w7 = w7_make();
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    ev_timer timer;
    ev_now_update(loop);
    w7.due = now_ns() + W7_NS;
    ev_timer_init(&timer, w7_timer, W7_NS * 1e-9, 0);
    ev_timer_start(loop, &timer);
    ev_run(loop, 0);
}

int main(int argc, char **argv)
{
    static const struct row rows[] = {
        { "w1", "loop", w1_run },         { "w1t", "loop", w1t_run }, { "w2", "loop", w2_loop },
        { "w2", "condvar", w2_condvar },  { "w3", "loop", w3_run },   { "w4", "loop", w4_run },
        { "w4m", "loop", w4m_run },       { "w5", "async", w5_run },  { "w6", "fds", w6_fds },
        { "w6", "timeouts", w6_timeouts }, { "w7", "loop", w7_run },  { 0 },
    };
    return run_row(argc, argv, rows);
}
