/* Doorbell, through its shared object and its C header, as include/doorbell.h says. */
#include "common.h"

#include <doorbell.h>

#define BATCH 1024

static int32_t must(const char *what, int32_t result)
{
    if (result < 0) {
        fprintf(stderr, "%s: %s\n", what, bell_strerror(result));
        exit(1);
    }
    return result;
}
#define BELL(call) must(#call, call)

/* BELL_IO_URING in variants of that name. */
static uint32_t backend;

static bell_t *create(uint32_t shards, uint32_t threads)
{
    bell_config config;
    BELL(bell_config_init(&config, sizeof config));
    config.flags = backend;
    config.shards = shards;
    config.threads = threads;
    bell_t *bell;
    BELL(bell_create(&config, &bell));
    return bell;
}

static bell_handle watch_fd(bell_t *bell, int fd, uint32_t shard, bell_target target)
{
    bell_handle handle;
    const bell_fd_spec spec = { .size = sizeof spec, .fd = fd, .interest = BELL_READ, .mode = BELL_EDGE,
                                .shard = shard, .user_data = (uint64_t)fd, .target = target };
    BELL(bell_register_fd(bell, &spec, &handle));
    return handle;
}
static const bell_target to_poll = { .kind = BELL_TARGET_POLL };
static const bell_target to_slot = { .kind = BELL_TARGET_SLOT };
static bell_target to_queue(bell_t *bell)
{
    bell_target target = { .kind = BELL_TARGET_QUEUE };
    BELL(bell_queue_create(bell, 0, NULL, &target.queue));
    return target;
}

static bell_event events[BATCH];

static bell_handle arm(bell_t *bell, int64_t deadline, uint32_t flags, bell_target target)
{
    bell_handle handle;
    const bell_timeout_spec spec = { .size = sizeof spec, .flags = flags, .deadline_ns = deadline, .target = target,
                                     .user_data = (uint64_t)deadline };
    BELL(bell_register_timeout(bell, &spec, &handle));
    return handle;
}

static void w1_poll(void)
{
    struct w1 w = w1_make();
    bell_t *bell = create(1, 0);
    for (int i = 0; i < w.n; i++)
        watch_fd(bell, w.fds[i], 0, to_poll);
    w1_kick(&w);
    for (;;) {
        const int n = BELL(bell_poll(bell, 0, events, BATCH, BELL_NEVER));
        for (int i = 0; i < n; i++)
            if (w1_event(&w, (int)events[i].user_data))
                return;
    }
}

static void w1_poll_io_uring(void)
{
    backend = BELL_IO_URING;
    w1_poll();
}

static void w1_queue(void)
{
    struct w1 w = w1_make();
    bell_t *bell = create(1, 0);
    const bell_target target = to_queue(bell);
    for (int i = 0; i < w.n; i++)
        watch_fd(bell, w.fds[i], 0, target);
    w1_kick(&w);
    for (;;) {
        const int n = BELL(bell_queue_wait(bell, target.queue, events, BATCH, BELL_NEVER));
        for (int i = 0; i < n; i++)
            if (w1_event(&w, (int)events[i].user_data))
                return;
    }
}

/* A runtime that peeks at the slots of those who wait, after each turn; nobody sleeps. */
static void w1_slot(void)
{
    struct w1 w = w1_make();
    bell_t *bell = create(1, 0);
    bell_handle *handles = calloc(w.n, sizeof *handles);
    for (int i = 0; i < w.n; i++)
        handles[i] = watch_fd(bell, w.fds[i], 0, to_slot);
    bell_slot **waiting = calloc(w.a, sizeof *waiting);
    for (int i = 0; i < w.a; i++)
        BELL(bell_slot_map(bell, handles[w1_active(&w, i)], &waiting[i]));
    w1_kick(&w);
    for (;;) {
        BELL(bell_poll(bell, 0, NULL, 0, BELL_NEVER));
        for (int i = 0; i < w.a; i++)
            if (bell_slot_take(&waiting[i]->rd) && w1_event(&w, w.fds[w1_active(&w, i)]))
                return;
    }
}

/* Beside each event its registration's idle deadline moves later. */
static void w1t_poll(void)
{
    struct w1 w = w1_make();
    bell_t *bell = create(1, 0);
    int64_t deadline = bell_now(BELL_CLOCK_MONOTONIC) + 60 * NS;
    for (int i = 0; i < w.n; i++) {
        bell_handle handle;
        const bell_fd_spec spec = { .size = sizeof spec, .fd = w.fds[i], .interest = BELL_READ, .mode = BELL_EDGE,
                                    .flags = BELL_FD_DEADLINE, .deadline_ns = deadline,
                                    .user_data = (uint64_t)w.fds[i], .target = to_poll };
        BELL(bell_register_fd(bell, &spec, &handle));
    }
    w1_kick(&w);
    for (;;) {
        const int n = BELL(bell_poll(bell, 0, events, BATCH, BELL_NEVER));
        for (int i = 0; i < n; i++) {
            bell_update_timeout(bell, events[i].handle, ++deadline);
            if (w1_event(&w, (int)events[i].user_data))
                return;
        }
    }
}

/* The same with a timeout for each, whose deadline is the caller's word: moved by a store. */
static void w1t_shared(void)
{
    struct connection {
        int fd;
        int64_t idle_until;
    };
    struct w1 w = w1_make();
    bell_t *bell = create(1, 0);
    struct connection *connections = calloc(w.n, sizeof *connections);
    int64_t deadline = bell_now(BELL_CLOCK_MONOTONIC) + 60 * NS;
    for (int i = 0; i < w.n; i++) {
        struct connection *c = &connections[i];
        bell_handle handle;
        const bell_fd_spec spec = { .size = sizeof spec, .fd = w.fds[i], .interest = BELL_READ, .mode = BELL_EDGE,
                                    .user_data = (uint64_t)(uintptr_t)c, .target = to_poll };
        c->fd = w.fds[i];
        BELL(bell_register_fd(bell, &spec, &handle));
        BELL(bell_share_deadline(bell, arm(bell, deadline, 0, to_poll), &c->idle_until));
    }
    w1_kick(&w);
    for (;;) {
        const int n = BELL(bell_poll(bell, 0, events, BATCH, BELL_NEVER));
        for (int i = 0; i < n; i++) {
            struct connection *c = (struct connection *)(uintptr_t)events[i].user_data;
            __atomic_store_n(&c->idle_until, ++deadline, __ATOMIC_RELAXED);
            if (w1_event(&w, c->fd))
                return;
        }
    }
}

static void w2_slot_in(bell_t *bell)
{
    struct w2 w = w2_make(true);
    const bell_handle h = watch_fd(bell, w.fd, 0, to_slot);
    do {
        w2_ping(&w);
        while (!w2_read(&w))
            BELL(bell_slot_wait(bell, h, BELL_READ, BELL_NEVER, 0));
    } while (!w2_pong(&w));
}
static void w2_slot(void) { w2_slot_in(create(1, 0)); }
static void w2_threads(void) { w2_slot_in(create(0, 1)); }
static void w2_poll(void)
{
    struct w2 w = w2_make(true);
    bell_t *bell = create(1, 0);
    watch_fd(bell, w.fd, 0, to_poll);
    do {
        w2_ping(&w);
        while (!w2_read(&w))
            BELL(bell_poll(bell, 0, events, BATCH, BELL_NEVER));
    } while (!w2_pong(&w));
}
static void w2_queue(void)
{
    struct w2 w = w2_make(true);
    bell_t *bell = create(1, 0);
    const bell_target target = to_queue(bell);
    watch_fd(bell, w.fd, 0, target);
    do {
        w2_ping(&w);
        while (!w2_read(&w))
            BELL(bell_queue_wait(bell, target.queue, events, BATCH, BELL_NEVER));
    } while (!w2_pong(&w));
}

static void w3(bool batch)
{
    const int block = opt("block"), n = opt("n");
    int *fds = make_eventfds(n, 0);
    bell_t *bell = create(1, 0);
    bell_handle *handles = calloc(block, sizeof *handles);
    int32_t *status = calloc(block, sizeof *status);
    bell_fd_spec *specs = calloc(n, sizeof *specs);
    for (int i = 0; i < n; i++)
        specs[i] = (bell_fd_spec){ .size = sizeof *specs, .fd = fds[i], .interest = BELL_READ, .mode = BELL_EDGE,
                                   .target = to_poll };
    const long blocks = opt("events") / block;
    struct watch watch;
    for (long b = -blocks / 8; b < blocks; b++) {
        if (b == 0)
            watch_start(&watch);
        const bell_fd_spec *at = specs + (b + blocks) % (n / block) * block;
        if (batch) {
            BELL(bell_register_fd_batch(bell, at, block, handles, status));
            if (backend)
                BELL(bell_poll(bell, 0, events, BATCH, 0)); /* only now the kernel watches them */
            BELL(bell_unregister_batch(bell, handles, block, 0, status));
        } else {
            for (int i = 0; i < block; i++)
                BELL(bell_register_fd(bell, &at[i], &handles[i]));
            for (int i = 0; i < block; i++)
                BELL(bell_unregister(bell, handles[i], 0));
        }
    }
    watch_stop(&watch, blocks * block);
}
static void w3_single(void) { w3(false); }
static void w3_batch(void) { w3(true); }
static void w3_batch_io_uring(void)
{
    backend = BELL_IO_URING;
    w3(true);
}

static void w4(void)
{
    const long n = opt("n");
    bell_t *bell = create(1, 0);
    bell_handle *timers = calloc(n, sizeof *timers);
    uint64_t random = 1;
    const int64_t base = now_ns();
    int64_t begun = cpu_ns();
    for (long i = 0; i < n; i++)
        timers[i] = arm(bell, base + (w4_far_ms(n) + (int64_t)(random_next(&random) % 1000)) * 1000000,
                        BELL_AUTO_RELEASE, to_poll);
    for (long i = 0; i < n; i += 2)
        BELL(bell_unregister(bell, timers[i], 0));
    for (long i = 1; i < n; i += 4)
        BELL(bell_update_timeout(bell, timers[i],
                                 base + (w4_far_ms(n) + (int64_t)(random_next(&random) % 1000)) * 1000000));
    int64_t cpu = cpu_ns() - begun;
    w4_await(n, base);
    begun = cpu_ns();
    for (long fired = 0; fired < n - n / 2;)
        fired += BELL(bell_poll(bell, 0, events, BATCH, 0));
    w4_print(n, cpu + cpu_ns() - begun);
}

static void w4m(void)
{
    const long n = opt("n"), moves = opt("events");
    bell_t *bell = create(1, 0);
    bell_handle *timers = calloc(n, sizeof *timers);
    int64_t now = now_ns();
    for (long i = 0; i < n; i++)
        timers[i] = arm(bell, now + 60 * NS, 0, to_poll);
    struct watch watch;
    for (long i = -moves / 8; i < moves; i++) {
        if (i == 0)
            watch_start(&watch);
        if ((i & 63) == 0)
            now = bell_now(BELL_CLOCK_MONOTONIC); /* as a turn of a loop would */
        BELL(bell_update_timeout(bell, timers[(i + moves) % n], now + 60 * NS));
    }
    watch_stop(&watch, moves);
}

static void *sleeping_driver(void *bell)
{
    while (BELL(bell_poll(bell, 0, events, BATCH, BELL_NEVER)) >= 0)
        ;
    return NULL;
}
static void w5(void)
{
    const int fd = make_eventfds(1, 0)[0];
    bell_t *bell = create(1, 0);
    pthread_t thread;
    pthread_create(&thread, NULL, sleeping_driver, bell);
    const long pairs = opt("events");
    struct watch watch;
    for (long i = -pairs / 8; i < pairs; i++) {
        if (i == 0)
            watch_start(&watch);
        BELL(bell_unregister(bell, watch_fd(bell, fd, 0, to_poll), 0));
    }
    watch_stop(&watch, pairs);
}

static void w6_fds(bell_t *bell, bell_target target)
{
    const int n = opt("n");
    int *fds = make_eventfds(n, 0);
    const long before = heap_bytes();
    for (int i = 0; i < n; i++)
        watch_fd(bell, fds[i], 0, target);
    printf("bytes %.2f\n", (double)(heap_bytes() - before) / n);
}
static void w6_poll(void) { w6_fds(create(1, 0), to_poll); }
static void w6_slot(void) { w6_fds(create(1, 0), to_slot); }
static void w6_queue(void)
{
    bell_t *bell = create(1, 0);
    w6_fds(bell, to_queue(bell));
}
/* With the target that has a word of its own; `poll` keeps a place in the list of ready ones besides. */
static void w6_timeouts(bell_target target)
{
    const int n = opt("n");
    bell_t *bell = create(1, 0);
    const int64_t now = now_ns();
    const long before = heap_bytes();
    for (int i = 0; i < n; i++)
        arm(bell, now + 60 * NS + i * 1000, 0, target);
    printf("bytes %.2f\n", (double)(heap_bytes() - before) / n);
}
static void w6_timeouts_poll(void) { w6_timeouts(to_poll); }
static void w6_timeouts_slot(void) { w6_timeouts(to_slot); }
static void w6_timeouts_futex(void)
{
    static uint32_t word;
    w6_timeouts((bell_target){ .kind = BELL_TARGET_FUTEX, .word = &word });
}

static void w7_poll(void)
{
    struct w7 w = w7_make();
    bell_t *bell = create(1, 0);
    const bell_handle timer = arm(bell, BELL_NEVER, 0, to_poll);
    do {
        w.due = now_ns() + W7_NS;
        BELL(bell_rearm(bell, timer, NULL, w.due));
        while (BELL(bell_poll(bell, 0, events, BATCH, BELL_NEVER)) == 0)
            ;
    } while (!w7_fired(&w));
}
static void w7_threads(void)
{
    struct w7 w = w7_make();
    bell_t *bell = create(0, 1);
    const bell_handle timer = arm(bell, BELL_NEVER, 0, to_slot);
    do {
        w.due = now_ns() + W7_NS;
        BELL(bell_rearm(bell, timer, NULL, w.due));
        BELL(bell_slot_wait(bell, timer, BELL_READ, BELL_NEVER, 0));
    } while (!w7_fired(&w));
}
/* How many of `events` timeouts, a thousand at a time at random within a millisecond, fire early. */
static void w7_early(void)
{
    const long all = opt("events");
    bell_t *bell = create(1, 0);
    uint64_t random = 1;
    long early = 0, fired = 0;
    while (fired < all) {
        const int64_t base = now_ns();
        for (int i = 0; i < 1000; i++)
            arm(bell, base + (int64_t)(random_next(&random) % 1000000), BELL_AUTO_RELEASE, to_poll);
        for (int left = 1000; left > 0;) {
            const int n = BELL(bell_poll(bell, 0, events, BATCH, BELL_NEVER));
            const int64_t now = now_ns();
            for (int i = 0; i < n; i++)
                early += (int64_t)events[i].user_data > now;
            left -= n;
            fired += n;
        }
    }
    printf("early %ld\n", early);
}

/* W8: threads on one manager, each polling a shard of its own; or all of them waiting for one queue of one shard. */
struct w8_thread {
    pthread_t id;
    bell_t *bell;
    uint32_t shard;
    bell_handle queue;
    long done;
};
static void *w8_run(void *arg)
{
    struct w8_thread *t = arg;
    bell_event mine[64];
    long done = 0;
    uint64_t value;
    for (;;) {
        const int n = t->queue ? BELL(bell_queue_wait(t->bell, t->queue, mine, 64, BELL_NEVER))
                               : BELL(bell_poll(t->bell, t->shard, mine, 64, BELL_NEVER));
        for (int i = 0; i < n; i++)
            if (read((int)mine[i].user_data, &value, 8) == 8 && eventfd_write((int)mine[i].user_data, 1) == 0)
                done++;
        __atomic_store_n(&t->done, done, __ATOMIC_RELAXED);
    }
    return NULL;
}
static void w8(bool shared)
{
    const int threads = opt("threads"), n = opt("n"), a = opt("a");
    struct w8_thread *t = calloc(threads, sizeof *t);
    int *fds = make_eventfds(n, 0);
    bell_t *bell = create(shared ? 1 : threads, 0);
    const bell_target target = shared ? to_queue(bell) : to_poll;
    for (int i = 0; i < n; i++)
        watch_fd(bell, fds[i], shared ? 0 : i % threads, target);
    for (int i = 0; i < a; i++)
        eventfd_write(fds[(long)i * (n / a) + i % threads], 1);
    for (int i = 0; i < threads; i++) {
        t[i] = (struct w8_thread){ .bell = bell, .shard = i, .queue = target.queue };
        pthread_create(&t[i].id, NULL, w8_run, &t[i]);
    }
    w8_measure(threads, &t[0].done, sizeof *t);
}
static void w8_shards(void) { w8(false); }
static void w8_queue(void) { w8(true); }

int main(int argc, char **argv)
{
    static const struct row rows[] = {
        { "w1", "poll", w1_poll },
        { "w1", "poll-io_uring", w1_poll_io_uring },
        { "w1", "queue", w1_queue },
        { "w1", "slot", w1_slot },
        { "w1t", "poll", w1t_poll },
        { "w1t", "shared", w1t_shared },
        { "w2", "slot", w2_slot },
        { "w2", "poll", w2_poll },
        { "w2", "queue", w2_queue },
        { "w2", "threads", w2_threads },
        { "w3", "single", w3_single },
        { "w3", "batch", w3_batch },
        { "w3", "batch-io_uring", w3_batch_io_uring },
        { "w4", "poll", w4 },
        { "w4m", "poll", w4m },
        { "w5", "direct", w5 },
        { "w6", "fds-poll", w6_poll },
        { "w6", "fds-slot", w6_slot },
        { "w6", "fds-queue", w6_queue },
        { "w6", "timeouts-poll", w6_timeouts_poll },
        { "w6", "timeouts-slot", w6_timeouts_slot },
        { "w6", "timeouts-futex", w6_timeouts_futex },
        { "w7", "poll", w7_poll },
        { "w7", "threads", w7_threads },
        { "w7", "early", w7_early },
        { "w8", "shards", w8_shards },
        { "w8", "queue", w8_queue },
        { 0 },
    };
    return run_row(argc, argv, rows);
}
