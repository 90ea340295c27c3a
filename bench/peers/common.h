/* What every C peer of the benchmark shares: options, clocks, the fds of each row, and how results are printed.
 *
 * A peer is a program: `peer ROW VARIANT name=value...`. It does one row once and prints lines `name value`, which
 * run.py reads. It exits with 77 when it has no such row. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000ll

__attribute__((noreturn)) static inline void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}
#define MUST(call) \
    ({ \
        __auto_type must_r = (call); \
        if (must_r < 0) \
            die(#call); \
        must_r; \
    })

static int opt_count;
static char **opt_list;

/* The option `name=number`. */
static inline long opt(const char *name)
{
    const size_t len = strlen(name);
    for (int i = 0; i < opt_count; i++)
        if (!strncmp(opt_list[i], name, len) && opt_list[i][len] == '=')
            return atol(opt_list[i] + len + 1);
    fprintf(stderr, "option %s= is missing\n", name);
    exit(1);
}

static inline int64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * NS + t.tv_nsec;
}
static inline int64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }
static inline int64_t cpu_ns(void) { return clock_ns(CLOCK_THREAD_CPUTIME_ID); }

struct watch {
    int64_t begun;
    struct rusage before;
};
static inline void watch_start(struct watch *w)
{
    getrusage(RUSAGE_SELF, &w->before);
    w->begun = now_ns();
}
static inline double cpu_of(const struct rusage *r)
{
    return (r->ru_utime.tv_sec + r->ru_stime.tv_sec) * 1e9 + (r->ru_utime.tv_usec + r->ru_stime.tv_usec) * 1e3;
}
/* Prints what each of `count` took, in time and in CPU time of all threads, and their context switches. */
static inline void watch_stop(struct watch *w, long count)
{
    const int64_t took = now_ns() - w->begun;
    struct rusage after;
    getrusage(RUSAGE_SELF, &after);
    printf("ns %.3f\n", (double)took / count);
    printf("cpu_ns %.3f\n", (cpu_of(&after) - cpu_of(&w->before)) / count);
    printf("voluntary_switches %.6f\n", (double)(after.ru_nvcsw - w->before.ru_nvcsw) / count);
    printf("forced_switches %.6f\n", (double)(after.ru_nivcsw - w->before.ru_nivcsw) / count);
}

/* Bytes of heap in use, small blocks and mapped ones. */
static inline long heap_bytes(void)
{
    const struct mallinfo2 m = mallinfo2();
    return (long)(m.uordblks + m.hblkhd);
}

static inline int *make_eventfds(int n, unsigned value)
{
    int *fds = malloc(sizeof *fds * n);
    for (int i = 0; i < n; i++)
        fds[i] = MUST(eventfd(value, EFD_NONBLOCK | EFD_CLOEXEC));
    return fds;
}

/* W1: n eventfds are watched, `a` of them are active: each event reads its eventfd and writes it full again. */
struct w1 {
    int n, a;
    int *fds;
    long left, events;
    bool measuring;
    struct watch watch;
};

static inline struct w1 w1_make(void)
{
    struct w1 w = { .n = opt("n"), .a = opt("a"), .events = opt("events"), .left = opt("warm") };
    w.fds = make_eventfds(w.n, 0);
    return w;
}
/* The i-th active fd's place among all: spread evenly. */
static inline int w1_active(const struct w1 *w, int i) { return (int)((long)i * w->n / w->a); }

static inline void w1_kick(const struct w1 *w)
{
    for (int i = 0; i < w->a; i++)
        MUST(eventfd_write(w->fds[w1_active(w, i)], 1));
}

/* The work that an event allows. True: enough. */
static inline bool w1_event(struct w1 *w, int fd)
{
    uint64_t value;
    if (read(fd, &value, sizeof value) != sizeof value)
        die("read");
    value = 1;
    if (write(fd, &value, sizeof value) != sizeof value)
        die("write");
    if (--w->left > 0)
        return false;
    if (w->measuring) {
        watch_stop(&w->watch, w->events);
        return true;
    }
    w->measuring = true;
    w->left = w->events;
    watch_start(&w->watch);
    return false;
}

/* W2: ping-pong over a socket pair. The other side is the same for every peer: a thread that blocks in read. */
static inline void *w2_echo(void *arg)
{
    const int fd = (int)(intptr_t)arg;
    char byte;
    while (read(fd, &byte, 1) == 1)
        if (write(fd, &byte, 1) != 1)
            break;
    return NULL;
}

struct w2 {
    int fd;
    long left, events;
    bool measuring;
    struct watch watch;
};

static inline struct w2 w2_make(int nonblocking)
{
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    pthread_t echo;
    pthread_create(&echo, NULL, w2_echo, (void *)(intptr_t)pair[1]);
    pthread_detach(echo);
    if (nonblocking) {
        int on = 1;
        MUST(ioctl(pair[0], FIONBIO, &on));
    }
    return (struct w2){ .fd = pair[0], .left = opt("warm"), .events = opt("events") };
}
static inline void w2_ping(struct w2 *w)
{
    if (write(w->fd, "x", 1) != 1)
        die("write");
}
/* A pong was read. True: enough. */
static inline bool w2_pong(struct w2 *w)
{
    if (--w->left > 0)
        return false;
    if (w->measuring) {
        watch_stop(&w->watch, w->events);
        return true;
    }
    w->measuring = true;
    w->left = w->events;
    watch_start(&w->watch);
    return false;
}
static inline bool w2_read(struct w2 *w)
{
    char byte;
    const ssize_t n = read(w->fd, &byte, 1);
    if (n < 0 && errno == EAGAIN)
        return false;
    if (n != 1)
        die("read");
    return true;
}

/* W4: n timeouts at random within a second from `base`; half of them are cancelled, a quarter moved, the rest fire.
 * The CPU time of the thread counts, so that waiting for the deadlines does not. */
static inline uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}
/* Milliseconds from now at which the first may fire: later than the longest that any peer takes to arm them all. */
static inline long w4_far_ms(long n) { return 200 + n / 400; }
/* Sleeps until the last one is due, which does not count. */
static inline void w4_await(long n, int64_t base)
{
    const int64_t left = base + (w4_far_ms(n) + 1010) * 1000000 - now_ns();
    if (left > 0)
        usleep(left / 1000);
}
static inline double w4_operations(long n) { return n + n / 2 + n / 4 + (n - n / 2); }

static inline void w4_print(long n, int64_t cpu) { printf("ns %.3f\n", cpu / w4_operations(n)); }

/* W7: `events` timeouts of 100 us, one after the other; how late each was. */
#define W7_NS 100000ll
struct w7 {
    int64_t *late;
    int n, events;
    int64_t due;
};
static inline struct w7 w7_make(void)
{
    struct w7 w = { .events = (int)opt("events") };
    w.late = malloc(sizeof *w.late * w.events);
    return w;
}
static inline int compare_i64(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}
/* It fired. True: enough. */
static inline bool w7_fired(struct w7 *w)
{
    w->late[w->n++] = now_ns() - w->due;
    if (w->n < w->events)
        return false;
    qsort(w->late, w->n, sizeof *w->late, compare_i64);
    long early = 0;
    for (int i = 0; i < w->n; i++)
        early += w->late[i] < 0;
    printf("ns %" PRId64 "\np99_ns %" PRId64 "\nearly %ld\n", w->late[w->n / 2], w->late[w->n * 99 / 100], early);
    return true;
}

/* W8: each thread counts what it has done, `stride` bytes from the one before; all of them for `ms` milliseconds. */
static inline long w8_total(int threads, const long *done, size_t stride)
{
    long total = 0;
    for (int i = 0; i < threads; i++)
        total += __atomic_load_n((const long *)((const char *)done + i * stride), __ATOMIC_RELAXED);
    return total;
}
static inline void w8_measure(int threads, const long *done, size_t stride)
{
    usleep(50000);
    const long before = w8_total(threads, done, stride);
    struct watch watch;
    watch_start(&watch);
    usleep(opt("ms") * 1000);
    watch_stop(&watch, w8_total(threads, done, stride) - before);
}

struct row {
    const char *row, *variant;
    void (*run)(void);
};

static inline int run_row(int argc, char **argv, const struct row *rows)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s ROW VARIANT name=value...\n", argv[0]);
        return 2;
    }
    opt_count = argc - 3;
    opt_list = argv + 3;
    for (; rows->run; rows++)
        if (!strcmp(rows->row, argv[1]) && !strcmp(rows->variant, argv[2])) {
            rows->run();
            fflush(stdout);
            _exit(0); /* threads that still wait need no goodbye */
        }
    fprintf(stderr, "%s has no row %s %s\n", argv[0], argv[1], argv[2]);
    return 77;
}
#endif
