/* No library: the system calls themselves. The floor, and what every other peer is compared with. */
#include "common.h"

#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#define BATCH 1024

/* W1 without waiting for anything: the reads and writes alone. */
static void w1_floor(void)
{
    struct w1 w = w1_make();
    w1_kick(&w);
    for (;;)
        for (int i = 0; i < w.a; i++)
            if (w1_event(&w, w.fds[w1_active(&w, i)]))
                return;
}

static int epoll_with(const int *fds, int n, uint32_t events)
{
    const int epoll = MUST(epoll_create1(EPOLL_CLOEXEC));
    for (int i = 0; i < n; i++)
        MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &(struct epoll_event){ events, { .fd = fds[i] } }));
    return epoll;
}

static void w1_loop(struct w1 *w, uint32_t flags)
{
    const int epoll = epoll_with(w->fds, w->n, EPOLLIN | flags);
    struct epoll_event events[BATCH];
    for (;;) {
        const int n = MUST(epoll_wait(epoll, events, BATCH, -1));
        for (int i = 0; i < n; i++) {
            if (w1_event(w, events[i].data.fd))
                return;
            if (flags == EPOLLONESHOT)
                MUST(epoll_ctl(epoll, EPOLL_CTL_MOD, events[i].data.fd,
                               &(struct epoll_event){ EPOLLIN | EPOLLONESHOT, { .fd = events[i].data.fd } }));
        }
    }
}
static void w1_with(uint32_t flags)
{
    struct w1 w = w1_make();
    w1_kick(&w);
    w1_loop(&w, flags);
}
static void w1_lt(void) { w1_with(0); }
static void w1_et(void) { w1_with(EPOLLET); }
static void w1_oneshot(void) { w1_with(EPOLLONESHOT); }

/* An idle deadline moved on every event: a store, as one who writes his own loop does it. */
static void w1t_et(void)
{
    struct w1 w = w1_make();
    w1_kick(&w);
    const int epoll = epoll_with(w.fds, w.n, EPOLLIN | EPOLLET);
    struct epoll_event events[BATCH];
    int64_t *deadline = calloc(w.fds[w.n - 1] + 1, sizeof *deadline);
    int64_t tick = 60 * NS;
    for (;;) {
        const int n = MUST(epoll_wait(epoll, events, BATCH, 60000));
        for (int i = 0; i < n; i++) {
            deadline[events[i].data.fd] = ++tick;
            if (w1_event(&w, events[i].data.fd))
                return;
        }
    }
}

static void w2_read_blocking(void)
{
    struct w2 w = w2_make(false);
    do
        w2_ping(&w);
    while (w2_read(&w) && !w2_pong(&w));
}

static void w2_epoll(void)
{
    struct w2 w = w2_make(true);
    const int epoll = epoll_with(&w.fd, 1, EPOLLIN | EPOLLET);
    struct epoll_event events[BATCH];
    do {
        w2_ping(&w);
        while (!w2_read(&w))
            MUST(epoll_wait(epoll, events, BATCH, -1));
    } while (!w2_pong(&w));
}

/* A thread that waits in the kernel and hands over to the one that wants the news. */
struct dispatcher {
    int epoll;
    uint32_t word; /* 1: news, 2: somebody sleeps */
    int bell;
};
static void *dispatch_futex(void *arg)
{
    struct dispatcher *d = arg;
    struct epoll_event events[BATCH];
    for (;;) {
        MUST(epoll_wait(d->epoll, events, BATCH, -1));
        if (__atomic_exchange_n(&d->word, 1, __ATOMIC_SEQ_CST) == 2)
            syscall(SYS_futex, &d->word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
    }
}
static void *dispatch_eventfd(void *arg)
{
    struct dispatcher *d = arg;
    struct epoll_event events[BATCH];
    for (;;) {
        MUST(epoll_wait(d->epoll, events, BATCH, -1));
        eventfd_write(d->bell, 1);
    }
}
static void await_futex(struct dispatcher *d)
{
    while (__atomic_exchange_n(&d->word, 0, __ATOMIC_SEQ_CST) != 1) {
        uint32_t zero = 0;
        if (__atomic_compare_exchange_n(&d->word, &zero, 2, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            syscall(SYS_futex, &d->word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 2, NULL);
    }
}
static void w2_dispatcher(void *(*dispatch)(void *))
{
    struct w2 w = w2_make(true);
    struct dispatcher d = { .epoll = epoll_with(&w.fd, 1, EPOLLIN | EPOLLET), .bell = MUST(eventfd(0, EFD_CLOEXEC)) };
    pthread_t thread;
    pthread_create(&thread, NULL, dispatch, &d);
    do {
        w2_ping(&w);
        while (!w2_read(&w)) {
            if (dispatch == dispatch_futex) {
                await_futex(&d);
            } else {
                eventfd_t value;
                MUST(eventfd_read(d.bell, &value));
            }
        }
    } while (!w2_pong(&w));
}
static void w2_dispatcher_futex(void) { w2_dispatcher(dispatch_futex); }
static void w2_dispatcher_eventfd(void) { w2_dispatcher(dispatch_eventfd); }

/* W3: registered and unregistered in blocks. */
static void w3_ctl(void)
{
    const int block = opt("block"), n = opt("n");
    int *fds = make_eventfds(n, 0);
    const int epoll = MUST(epoll_create1(EPOLL_CLOEXEC));
    const long blocks = opt("events") / block;
    struct watch watch;
    for (long b = -blocks / 8; b < blocks; b++) {
        if (b == 0)
            watch_start(&watch);
        const int *at = fds + (b + blocks) % (n / block) * block;
        for (int i = 0; i < block; i++)
            MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, at[i], &(struct epoll_event){ EPOLLIN | EPOLLET, { .fd = at[i] } }));
        for (int i = 0; i < block; i++)
            MUST(epoll_ctl(epoll, EPOLL_CTL_DEL, at[i], NULL));
    }
    watch_stop(&watch, blocks * block);
}

/* W5: another thread registers and unregisters while the loop sleeps. */
static void *sleeping_loop(void *arg)
{
    struct epoll_event events[BATCH];
    while (epoll_wait((int)(intptr_t)arg, events, BATCH, -1) >= 0)
        ;
    return NULL;
}
static void w5_ctl(void)
{
    int *fds = make_eventfds(1, 0);
    const int epoll = MUST(epoll_create1(EPOLL_CLOEXEC));
    pthread_t thread;
    pthread_create(&thread, NULL, sleeping_loop, (void *)(intptr_t)epoll);
    const long events = opt("events");
    struct watch watch;
    for (long i = -events / 8; i < events; i++) {
        if (i == 0)
            watch_start(&watch);
        MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[0], &(struct epoll_event){ EPOLLIN | EPOLLET, { .fd = fds[0] } }));
        MUST(epoll_ctl(epoll, EPOLL_CTL_DEL, fds[0], NULL));
    }
    watch_stop(&watch, events);
}

struct kernel_timespec {
    int64_t sec, nsec;
};
static void w7_pwait2(void)
{
    struct w7 w = w7_make();
    const int epoll = MUST(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event events[BATCH];
    do {
        int64_t left = W7_NS;
        w.due = now_ns() + left;
        do {
            const struct kernel_timespec t = { left / NS, left % NS };
            MUST(syscall(SYS_epoll_pwait2, epoll, events, BATCH, &t, NULL, 8));
        } while ((left = w.due - now_ns()) > 0);
    } while (!w7_fired(&w));
}
static void w7_pwait2_exact(void)
{
    MUST(prctl(PR_SET_TIMERSLACK, 1));
    w7_pwait2();
}
static void w7_wait(void)
{
    struct w7 w = w7_make();
    const int epoll = MUST(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event events[BATCH];
    do {
        w.due = now_ns() + W7_NS;
        MUST(epoll_wait(epoll, events, BATCH, 1));
    } while (!w7_fired(&w));
}
static void w7_timerfd(void)
{
    struct w7 w = w7_make();
    const int fd = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    const int epoll = epoll_with(&fd, 1, EPOLLIN);
    struct epoll_event events[BATCH];
    uint64_t expirations;
    do {
        w.due = now_ns() + W7_NS;
        const struct itimerspec at = { .it_value = { w.due / NS, w.due % NS } };
        MUST(timerfd_settime(fd, TFD_TIMER_ABSTIME, &at, NULL));
        MUST(epoll_wait(epoll, events, BATCH, -1));
        MUST(read(fd, &expirations, sizeof expirations));
    } while (!w7_fired(&w));
}

/* W8: threads, each with a poller of its own and its share of the fds; or all on one. */
struct w8_thread {
    pthread_t id;
    int epoll;
    long done;
};
static void *w8_run(void *arg)
{
    struct w8_thread *t = arg;
    struct epoll_event events[64];
    long done = 0;
    uint64_t value;
    for (;;) {
        const int n = MUST(epoll_wait(t->epoll, events, 64, -1));
        for (int i = 0; i < n; i++) {
            if (read(events[i].data.fd, &value, 8) == 8 && eventfd_write(events[i].data.fd, 1) == 0)
                done++;
        }
        __atomic_store_n(&t->done, done, __ATOMIC_RELAXED);
    }
}
static void w8(bool shared)
{
    const int threads = opt("threads"), n = opt("n"), a = opt("a");
    struct w8_thread *t = calloc(threads, sizeof *t);
    int *fds = make_eventfds(n, 0);
    for (int i = 0; i < threads; i++)
        t[i].epoll = shared && i > 0 ? t[0].epoll : epoll_with(NULL, 0, 0);
    for (int i = 0; i < n; i++)
        MUST(epoll_ctl(t[i % threads].epoll, EPOLL_CTL_ADD, fds[i],
                       &(struct epoll_event){ EPOLLIN | EPOLLET, { .fd = fds[i] } }));
    for (int i = 0; i < a; i++)
        eventfd_write(fds[(long)i * (n / a) + i % threads], 1);
    for (int i = 0; i < threads; i++)
        pthread_create(&t[i].id, NULL, w8_run, &t[i]);
    w8_measure(threads, &t[0].done, sizeof *t);
}
static void w8_each(void) { w8(false); }
static void w8_shared(void) { w8(true); }

int main(int argc, char **argv)
{
    static const struct row rows[] = {
        { "w1", "floor", w1_floor },
        { "w1", "lt", w1_lt },
        { "w1", "et", w1_et },
        { "w1", "oneshot", w1_oneshot },
        { "w1t", "et", w1t_et },
        { "w2", "read", w2_read_blocking },
        { "w2", "epoll", w2_epoll },
        { "w2", "dispatcher-futex", w2_dispatcher_futex },
        { "w2", "dispatcher-eventfd", w2_dispatcher_eventfd },
        { "w3", "ctl", w3_ctl },
        { "w5", "ctl", w5_ctl },
        { "w7", "epoll_wait", w7_wait },
        { "w7", "pwait2", w7_pwait2 },
        { "w7", "pwait2-exact", w7_pwait2_exact },
        { "w7", "timerfd", w7_timerfd },
        { "w8", "each", w8_each },
        { "w8", "shared", w8_shared },
        { 0 },
    };
    return run_row(argc, argv, rows);
}
