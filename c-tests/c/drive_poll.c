/* Driving by bell_poll: the caller makes the turns. */
#define _GNU_SOURCE
#include "check.h"
#include <sched.h>

static uint32_t shard_of(bell_handle handle)
{
    return (uint32_t)(handle >> 50) & 0xff; /* as documented at bell_handle */
}

static uint32_t random_below(uint32_t limit)
{
    static __thread uint64_t x;
    if (x == 0)
        x = (uint64_t)(uintptr_t)&x ^ 0x9E3779B97F4A7C15u;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return (uint32_t)(x >> 33) % limit;
}

static bell_handle watch_on(bell_t *bell, uint32_t shard, int fd, uint32_t mode, bell_target target)
{
    bell_fd_spec spec = fd_spec(fd, BELL_READ, mode, target);
    bell_handle handle = 0;
    spec.shard = shard;
    spec.user_data = (uint64_t)fd;
    CHECK_OK(bell_register_fd(bell, &spec, &handle));
    return handle;
}

/* ---- echo ---- */

enum { PAIRS = 200 };
typedef struct echo_pair {
    int fds[2]; /* 0 asks, 1 answers */
    bell_handle handles[2];
    uint32_t rounds_left;
    uint64_t sent, received, sent_sum, received_sum;
} echo_pair;

static void ask(echo_pair *p)
{
    unsigned char text[700];
    uint32_t n = 1 + random_below(sizeof text);
    for (uint32_t i = 0; i < n; i++) {
        text[i] = (unsigned char)random_below(256);
        p->sent_sum += text[i];
    }
    CHECK_EQ(write(p->fds[0], text, n), n);
    p->sent += n;
    p->rounds_left--;
}

static void echo_in_mode(uint32_t mode, uint32_t capacity)
{
    static echo_pair pairs[PAIRS];
    bell_t *bell = make_bell(1, 0);
    bell_event events[256];
    int open_pairs = PAIRS;
    memset(pairs, 0, sizeof pairs);
    for (uint64_t i = 0; i < PAIRS; i++) {
        make_sockets(pairs[i].fds);
        pairs[i].rounds_left = (uint32_t)rounds(100);
        for (uint64_t side = 0; side < 2; side++) {
            bell_fd_spec spec = fd_spec(pairs[i].fds[side], BELL_READ, mode, to_poll());
            spec.user_data = i * 2 + side;
            CHECK_OK(bell_register_fd(bell, &spec, &pairs[i].handles[side]));
        }
        ask(&pairs[i]);
    }
    int64_t last_news = now_ns();
    while (open_pairs > 0) {
        int32_t n = CHECK_OK(bell_poll(bell, 0, events, capacity, SEC(1)));
        CHECK_LE(n, capacity);
        if (n > 0)
            last_news = now_ns();
        CHECK_LT(now_ns() - last_news, PATIENCE);
        for (int32_t k = 0; k < n; k++) {
            CHECK_LT(events[k].user_data, 2 * PAIRS);
            echo_pair *p = &pairs[events[k].user_data / 2];
            int side = (int)(events[k].user_data & 1);
            unsigned char text[1024];
            ssize_t got;
            CHECK_EQ(events[k].handle, p->handles[side]);
            CHECK_HAS(events[k].ready, BELL_READ);
            CHECK_LACKS(events[k].ready, BELL_HUP | BELL_ERR | BELL_RDHUP | BELL_CLOSED | BELL_TIMEOUT | BELL_USER);
            CHECK_EQ(events[k].status, 0);
            CHECK_EQ(events[k].data, 0);
            while ((got = read(p->fds[side], text, sizeof text)) > 0) {
                if (side == 1) {
                    CHECK_EQ(write(p->fds[1], text, (size_t)got), got);
                    continue;
                }
                p->received += (uint64_t)got;
                for (ssize_t i = 0; i < got; i++)
                    p->received_sum += text[i];
            }
            CHECK(got < 0 && errno == EAGAIN);
            if (side == 0 && p->received == p->sent) {
                if (p->rounds_left > 0)
                    ask(p);
                else
                    open_pairs--, p->received = 0; /* counted once */
            }
            if (mode == BELL_ONESHOT)
                CHECK_EQ(bell_rearm(bell, p->handles[side], NULL, BELL_NEVER), 0);
        }
    }
    for (int i = 0; i < PAIRS; i++) {
        CHECK_EQ(pairs[i].received_sum, pairs[i].sent_sum);
        for (int side = 0; side < 2; side++)
            CHECK_GE(bell_unregister(bell, pairs[i].handles[side], 0), 0);
        close_pair(pairs[i].fds);
    }
    check_clean(bell);
}

static void do_200_socketpairs_get_their_bytes_back_in_mode_oneshot(void)
{
    echo_in_mode(BELL_ONESHOT, 256);
}

static void do_200_socketpairs_get_their_bytes_back_in_mode_level(void)
{
    echo_in_mode(BELL_LEVEL, 256);
}

static void do_200_socketpairs_get_their_bytes_back_in_mode_edge(void)
{
    if (has_edge())
        echo_in_mode(BELL_EDGE, 256);
}

static void do_200_socketpairs_get_their_bytes_back_in_small_bites(void)
{
    echo_in_mode(BELL_LEVEL, 3);
    echo_in_mode(BELL_ONESHOT, 1);
    if (has_edge())
        echo_in_mode(BELL_EDGE, 1);
}

/* ---- capacity ---- */

enum { MANY = 64 };

static void does_each_of_many_come_once_with_capacity_1(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[MANY], seen[MANY] = {0};
    bell_handle handles[MANY];
    uint32_t modes[2] = {BELL_ONESHOT, BELL_EDGE};
    for (int m = 0; m < 1 + has_edge(); m++) {
        memset(seen, 0, sizeof seen);
        for (int i = 0; i < MANY; i++) {
            fds[i] = make_eventfd();
            bell_fd_spec spec = fd_spec(fds[i], BELL_READ, modes[m], to_poll());
            spec.user_data = (uint64_t)i;
            CHECK_OK(bell_register_fd(bell, &spec, &handles[i]));
            CHECK_EQ(eventfd_write(fds[i], 1), 0);
        }
        for (int i = 0; i < MANY; i++) {
            bell_event e = next_event(bell);
            CHECK_LT(e.user_data, MANY);
            CHECK_EQ(e.ready, BELL_READ);
            seen[e.user_data]++;
        }
        for (int i = 0; i < MANY; i++)
            CHECK_EQ(seen[i], 1);
        expect_quiet(bell, MS(20));
        for (int i = 0; i < MANY; i++) {
            CHECK_OK(bell_unregister(bell, handles[i], 0));
            CHECK_EQ(close(fds[i]), 0);
        }
    }
    check_clean(bell);
}

static void do_all_that_stay_ready_get_their_turn_with_capacity_1(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[MANY], seen[MANY + 1] = {0};
    bell_handle handles[MANY];
    for (int i = 0; i < MANY; i++) {
        fds[i] = make_eventfd();
        bell_fd_spec spec = fd_spec(fds[i], BELL_READ, BELL_LEVEL, to_poll());
        spec.user_data = (uint64_t)i;
        CHECK_OK(bell_register_fd(bell, &spec, &handles[i]));
        CHECK_EQ(eventfd_write(fds[i], 1), 0);
    }
    /* All are ready all the time; a timeout that comes later must get through as well. */
    bell_timeout_spec late = timeout_spec(0, to_poll());
    late.user_data = MANY;
    bell_handle timeout = 0;
    for (int i = 0; i < MANY * 10; i++) {
        if (i == MANY * 2)
            CHECK_OK(bell_register_timeout(bell, &late, &timeout));
        bell_event e = next_event(bell);
        CHECK_LE(e.user_data, MANY);
        seen[e.user_data]++;
        if (i == MANY * 2 - 1)
            for (int k = 0; k < MANY; k++)
                CHECK_GE(seen[k], 1);
        if (i == MANY * 5)
            CHECK_EQ(seen[MANY], 1);
    }
    for (int i = 0; i < MANY; i++)
        CHECK_GE(seen[i], 5); /* ten would be perfectly fair */
    CHECK_EQ(seen[MANY], 1);
    CHECK_EQ(bell_unregister(bell, timeout, 0), BELL_FIRED);
    for (int i = 0; i < MANY; i++) {
        CHECK_OK(bell_unregister(bell, handles[i], 0));
        CHECK_EQ(close(fds[i]), 0);
    }
    check_clean(bell);
}

static void does_news_that_finds_no_room_stay_for_the_next_call(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_event events[4];
    bell_handle h[3];
    int seen = 0;
    for (int i = 0; i < 3; i++)
        h[i] = make_user(bell, to_poll());
    for (int i = 0; i < 3; i++)
        CHECK_EQ(bell_post(bell, h[i], 1u << i), 0);
    CHECK_EQ(bell_poll(bell, 0, events, 2, SEC(10)), 2);
    CHECK_EQ(bell_poll(bell, 0, events + 2, 2, SEC(10)), 1);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(events[i].ready, BELL_USER);
        for (int k = 0; k < 3; k++)
            if (events[i].handle == h[k]) {
                CHECK_EQ(events[i].data, 1u << k);
                seen |= 1 << k;
            }
    }
    CHECK_EQ(seen, 7);
    for (int i = 0; i < 3; i++)
        CHECK_OK(bell_unregister(bell, h[i], 0));
    check_clean(bell);
}

static void is_undelivered_news_of_an_unregistered_handle_withdrawn(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_event events[4];
    bell_handle h[3];
    for (int i = 0; i < 3; i++)
        h[i] = make_user(bell, to_poll());
    for (int i = 0; i < 3; i++)
        CHECK_EQ(bell_post(bell, h[i], 1), 0);
    CHECK_EQ(bell_poll(bell, 0, events, 1, SEC(10)), 1);
    for (int i = 0; i < 3; i++)
        CHECK_OK(bell_unregister(bell, h[i], 0));
    expect_quiet(bell, MS(20));
    check_clean(bell);
}

static void does_capacity_0_deliver_to_other_targets_and_keep_the_news_of_poll(void)
{
    bell_t *bell = make_bell(1, 0);
    uint32_t word = 0;
    bell_handle slot = make_user(bell, to_slot());
    bell_handle futex = set_timeout(bell, 0, to_futex(&word));
    CHECK_EQ(bell_post(bell, slot, 1), 0);
    for (int64_t t = now_ns(); !load(&word) && now_ns() - t < PATIENCE;)
        CHECK_EQ(bell_poll(bell, 0, NULL, 0, MS(100)), 0);
    CHECK_EQ(bell_slot_take(&word), BELL_TIMEOUT);
    CHECK_EQ(bell_slot_consume(bell, slot, BELL_READ), BELL_USER);
    bell_handle poll = make_user(bell, to_poll());
    CHECK_EQ(bell_post(bell, poll, 5), 0);
    CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), 0);
    CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), 0);
    bell_event e = next_event(bell);
    CHECK_EQ(e.handle, poll);
    CHECK_EQ(e.data, 5);
    CHECK_OK(bell_unregister(bell, poll, 0));
    CHECK_OK(bell_unregister(bell, slot, 0));
    CHECK_EQ(bell_unregister(bell, futex, BELL_SYNC), BELL_FIRED);
    check_clean(bell);
}

/* ---- time ---- */

static void does_timeout_0_not_wait(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    int64_t start = now_ns();
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 0);
    CHECK_LT(now_ns() - start, SEC(20));
    check_clean(bell);
}

static void is_a_timeout_of_bell_poll_never_early(void)
{
    static const int64_t waits[] = {1, 999, 1000, 999999, 1000000, 1000001, 3100000, 20000000};
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    for (int round = 0; round < rounds(20); round++)
        for (size_t i = 0; i < sizeof waits / sizeof waits[0]; i++) {
            int64_t start = now_ns();
            CHECK_EQ(bell_poll(bell, 0, &e, 1, waits[i]), 0);
            CHECK_GE(now_ns() - start, waits[i]);
        }
    check_clean(bell);
}

static void museum_094_is_a_huge_timeout_not_taken_for_a_short_one(void)
{
    static const int64_t waits[] = {INT64_MAX, INT64_MAX - 1, (int64_t)1 << 62, SEC((int64_t)1 << 31),
                                    MS(((int64_t)1 << 31) - 1), MS((int64_t)1 << 31), MS((int64_t)1 << 32)};
    bell_t *bell = make_bell(1, 0);
    for (size_t i = 0; i < sizeof waits / sizeof waits[0]; i++) {
        int64_t deadline = now_ns() + MS(20);
        bell_event e;
        bell_handle h = set_timeout(bell, deadline, to_poll());
        CHECK_EQ(bell_poll(bell, 0, &e, 1, waits[i]), 1); /* 0 would be too early */
        CHECK_GE(now_ns(), deadline);
        CHECK_EQ(e.handle, h);
        CHECK_EQ(e.ready, BELL_TIMEOUT);
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    }
    check_clean(bell);
}

/* ---- waking ---- */

typedef struct sleeper {
    bell_t *bell;
    uint32_t returns;   /* how often its bell_poll returned 0 */
    uint32_t stop;
    uint64_t payload;   /* plain memory, published by bell_wake */
    uint64_t seen;
} sleeper;

static void *sleep_for_ever(void *argument)
{
    sleeper *s = argument;
    while (!load(&s->stop)) {
        bell_event e;
        int32_t n = bell_poll(s->bell, 0, &e, 1, BELL_NEVER);
        if (n == BELL_E_BUSY)
            continue;
        CHECK_EQ(n, 0);
        s->seen = s->payload;
        add(&s->returns, 1);
    }
    return NULL;
}

static void does_bell_wake_end_a_wait_without_end(void)
{
    sleeper s = {.bell = make_bell(1, 0)};
    pthread_t thread = start_thread(sleep_for_ever, &s);
    uint32_t wakes = (uint32_t)rounds(5000);
    for (uint32_t i = 0; i < wakes; i++) {
        uint32_t before = load(&s.returns);
        int64_t start = now_ns();
        s.payload = i + 1;
        if (i == wakes - 1)
            store(&s.stop, 1);
        CHECK_EQ(bell_wake(s.bell, 0), 0);
        while (load(&s.returns) == before) {
            CHECK_LT(now_ns() - start, PATIENCE);
            sched_yield();
        }
        if (load(&s.returns) == before + 1)
            CHECK_EQ(s.seen, i + 1);
    }
    join_thread(thread);
    check_clean(s.bell);
}

static void does_a_wake_before_the_wait_end_that_wait_and_no_more(void)
{
    bell_t *bell = make_bell(2, 0);
    bell_event e;
    for (int i = 0; i < rounds(200); i++) {
        for (int k = 0; k <= i % 3; k++)
            CHECK_EQ(bell_wake(bell, 0), 0);
        CHECK_EQ(bell_poll(bell, 0, &e, 1, BELL_NEVER), 0);
        /* What several calls left over is at most one more return each; then it sleeps again. */
        int returns = 0;
        for (;;) {
            int64_t start = now_ns();
            CHECK_EQ(bell_poll(bell, 0, &e, 1, MS(1)), 0);
            if (now_ns() - start >= MS(1))
                break;
            CHECK_LE(++returns, i % 3);
        }
    }
    CHECK_EQ(bell_wake(bell, 1), 0); /* another shard's wake is not ours */
    int64_t start = now_ns();
    CHECK_EQ(bell_poll(bell, 0, &e, 1, MS(5)), 0);
    CHECK_GE(now_ns() - start, MS(5));
    CHECK_EQ(bell_poll(bell, 1, &e, 1, BELL_NEVER), 0);
    check_clean(bell);
}

static bell_t *signal_bell;
static bell_handle signal_user;
static uint32_t signal_result;

static void wake_and_post(int number)
{
    (void)number;
    signal_result |= (uint32_t)bell_wake(signal_bell, 0);
    signal_result |= (uint32_t)bell_post(signal_bell, signal_user, 4);
}

static void may_a_signal_handler_wake_and_post(void)
{
    bell_t *bell = make_bell(1, 0);
    struct sigaction action = {.sa_handler = wake_and_post};
    signal_bell = bell;
    signal_user = make_user(bell, to_poll());
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    for (int i = 0; i < rounds(500); i++) {
        CHECK_EQ(raise(SIGUSR1), 0);
        CHECK_EQ(signal_result, 0);
        bell_event e = next_event(bell);
        CHECK_EQ(e.handle, signal_user);
        CHECK_EQ(e.ready, BELL_USER);
        CHECK_EQ(e.data, 4);
    }
    signal(SIGUSR1, SIG_DFL);
    CHECK_OK(bell_unregister(bell, signal_user, 0));
    check_clean(bell);
}

/* ---- one driver for each shard ---- */

static void museum_089_is_a_second_thread_in_bell_poll_told_busy(void)
{
    sleeper s = {.bell = make_bell(2, 0)};
    pthread_t thread = start_thread(sleep_for_ever, &s);
    bell_event e;
    int32_t n;
    int64_t start = now_ns();
    /* Whoever is first inside wins; the sleeper tries again until it is. */
    while ((n = bell_poll(s.bell, 0, &e, 1, 0)) == 0) {
        CHECK_LT(now_ns() - start, PATIENCE);
        sched_yield();
    }
    CHECK_EQ(n, BELL_E_BUSY);
    CHECK_EQ(bell_poll(s.bell, 0, &e, 1, SEC(1)), BELL_E_BUSY);
    CHECK_EQ(bell_poll(s.bell, 1, &e, 1, 0), 0);
    store(&s.stop, 1);
    CHECK_EQ(bell_wake(s.bell, 0), 0);
    join_thread(thread);
    CHECK_EQ(bell_poll(s.bell, 0, &e, 1, 0), 0);
    check_clean(s.bell);
}

/* ---- registering while another thread sleeps in the kernel ---- */

typedef struct registrar {
    bell_t *bell;
    uint32_t done; /* how many of its pieces of news came */
} registrar;

static void *register_many(void *argument)
{
    registrar *r = argument;
    for (int i = 0; i < rounds(300); i++) {
        uint32_t before = load(&r->done);
        int fd = make_eventfd();
        bell_handle h = 0;
        if (i % 3 == 0) {
            bell_fd_spec spec = fd_spec(fd, BELL_READ, BELL_ONESHOT, to_poll());
            spec.user_data = (uint64_t)(uintptr_t)r;
            CHECK_EQ(eventfd_write(fd, 1), 0);
            CHECK_OK(bell_register_fd(r->bell, &spec, &h));
        } else if (i % 3 == 1) {
            bell_timeout_spec spec = timeout_spec(now_ns() + US(200), to_poll());
            spec.user_data = (uint64_t)(uintptr_t)r;
            CHECK_OK(bell_register_timeout(r->bell, &spec, &h));
        } else {
            bell_target poll = to_poll();
            CHECK_OK(bell_register_user(r->bell, 0, &poll, (uint64_t)(uintptr_t)r, &h));
            CHECK_EQ(bell_post(r->bell, h, 1), 0);
        }
        AWAIT(load(&r->done) == before + 1);
        CHECK_OK(bell_unregister(r->bell, h, 0));
        CHECK_EQ(close(fd), 0);
    }
    return NULL;
}

static void *drive_until_stopped(void *argument)
{
    sleeper *s = argument;
    while (!load(&s->stop)) {
        bell_event events[8];
        int32_t n = CHECK_OK(bell_poll(s->bell, 0, events, 8, BELL_NEVER));
        for (int32_t i = 0; i < n; i++)
            add(&((registrar *)(uintptr_t)events[i].user_data)->done, 1);
    }
    return NULL;
}

static void does_a_sleeping_driver_see_what_others_register(void)
{
    enum { REGISTRARS = 4 };
    sleeper s = {.bell = make_bell(1, 0)};
    registrar registrars[REGISTRARS];
    pthread_t threads[REGISTRARS], driver = start_thread(drive_until_stopped, &s);
    for (int i = 0; i < REGISTRARS; i++) {
        registrars[i] = (registrar){.bell = s.bell};
        threads[i] = start_thread(register_many, &registrars[i]);
    }
    for (int i = 0; i < REGISTRARS; i++)
        join_thread(threads[i]);
    store(&s.stop, 1);
    CHECK_EQ(bell_wake(s.bell, 0), 0);
    join_thread(driver);
    check_clean(s.bell);
}

static void *set_a_near_timeout(void *argument)
{
    sleeper *s = argument;
    bell_event e;
    while (bell_poll(s->bell, 0, &e, 1, 0) != BELL_E_BUSY)
        sched_yield();
    set_timeout(s->bell, now_ns() + MS(2), to_poll());
    return NULL;
}

static void does_an_earlier_deadline_shorten_a_sleep_under_way(void)
{
    for (int i = 0; i < rounds(50); i++) {
        sleeper s = {.bell = make_bell(1, 0)};
        bell_handle far = set_timeout(s.bell, now_ns() + SEC(3000), to_poll());
        pthread_t thread = start_thread(set_a_near_timeout, &s);
        bell_event e;
        int32_t n;
        int64_t start = now_ns();
        while ((n = bell_poll(s.bell, 0, &e, 1, SEC(2000))) == BELL_E_BUSY)
            CHECK_LT(now_ns() - start, PATIENCE);
        CHECK_EQ(n, 1);
        CHECK_LT(now_ns() - start, PATIENCE);
        CHECK_EQ(e.ready, BELL_TIMEOUT);
        CHECK_NE(e.handle, far);
        join_thread(thread);
        CHECK_EQ(bell_unregister(s.bell, far, 0), BELL_CANCELLED);
        CHECK_EQ(bell_unregister(s.bell, e.handle, 0), BELL_FIRED);
        check_clean(s.bell);
    }
}

/* ---- bell_next_deadline ---- */

static int64_t next_deadline(bell_t *bell, uint32_t shard)
{
    int64_t deadline = -1;
    CHECK_EQ(bell_next_deadline(bell, shard, &deadline), 0);
    return deadline;
}

static void does_next_deadline_tell_the_earliest(void)
{
    bell_t *bell = make_bell(2, 0);
    int64_t base = now_ns() + SEC(1000);
    int fd = make_eventfd();
    CHECK_EQ(next_deadline(bell, 0), BELL_NEVER);
    bell_handle a = set_timeout(bell, base + 100, to_poll());
    CHECK_EQ(next_deadline(bell, 0), base + 100);
    CHECK_EQ(next_deadline(bell, 1), BELL_NEVER);
    bell_handle b = set_timeout(bell, base + 50, to_slot());
    CHECK_EQ(next_deadline(bell, 0), base + 50);
    bell_handle c = set_timeout(bell, base + 70, to_poll());
    CHECK_EQ(next_deadline(bell, 0), base + 50);
    bell_fd_spec spec = fd_spec(fd, BELL_READ, BELL_ONESHOT, to_poll());
    spec.flags = BELL_FD_DEADLINE;
    spec.deadline_ns = base + 20;
    bell_handle f = 0;
    CHECK_OK(bell_register_fd(bell, &spec, &f));
    CHECK_EQ(next_deadline(bell, 0), base + 20);
    CHECK_EQ(bell_update_timeout(bell, c, base + 10), 0);
    CHECK_EQ(next_deadline(bell, 0), base + 10);
    CHECK_EQ(bell_unregister(bell, c, 0), BELL_CANCELLED);
    CHECK_EQ(next_deadline(bell, 0), base + 20);
    CHECK_EQ(bell_update_timeout(bell, f, BELL_NEVER), 0);
    int64_t told = next_deadline(bell, 0);
    CHECK(told == base + 20 || told == base + 50); /* moved later: the old value may still be told */
    CHECK_EQ(bell_unregister(bell, f, 0), BELL_CANCELLED);
    CHECK_EQ(next_deadline(bell, 0), base + 50);
    CHECK_EQ(bell_unregister(bell, b, 0), BELL_CANCELLED);
    CHECK_EQ(bell_unregister(bell, a, 0), BELL_CANCELLED);
    CHECK_EQ(next_deadline(bell, 0), BELL_NEVER);
    bell_handle unarmed = set_timeout(bell, BELL_NEVER, to_poll());
    CHECK_EQ(next_deadline(bell, 0), BELL_NEVER);
    CHECK_GE(bell_unregister(bell, unarmed, 0), 0);
    if (has_feature(BELL_FEATURE_CLOCKS)) {
        bell_timeout_spec real = timeout_spec(bell_now(BELL_CLOCK_REAL) + SEC(5), to_poll());
        bell_handle r = 0;
        real.clock = BELL_CLOCK_REAL;
        CHECK_OK(bell_register_timeout(bell, &real, &r));
        CHECK_EQ(next_deadline(bell, 0), BELL_NEVER); /* it tells the monotonic ones */
        CHECK_EQ(bell_unregister(bell, r, 0), BELL_CANCELLED);
    }
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

/* ---- other targets ---- */

static void is_news_for_other_targets_delivered_in_the_same_turn_with_0_returned(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    bell_event e;
    uint32_t word = 0;
    fake_mvar mvar = {0};
    int wake = make_eventfd(), bytes[2], sources[5];
    make_pipe(bytes);
    bell_handle queue = make_queue(bell, NULL), h[5];
    bell_target targets[5] = {to_slot(), to_futex(&word), to_byte(bytes[1]), to_queue(queue), to_mvar(&mvar, 3)};
    for (int i = 0; i < 5; i++) {
        sources[i] = make_eventfd();
        h[i] = watch(bell, sources[i], BELL_READ, BELL_ONESHOT, targets[i]);
    }
    bell_handle user = make_user(bell, to_eventfd(wake));
    CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 0);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(eventfd_write(sources[i], 1), 0);
    CHECK_EQ(bell_post(bell, user, 1), 0);
    CHECK_EQ(bell_poll(bell, 0, &e, 1, SEC(30)), 0);
    /* One turn takes up to 1024 kernel events, so all six were in it. */
    CHECK_EQ(bell_slot_consume(bell, h[0], BELL_READ), BELL_READ);
    CHECK_EQ(bell_slot_take(&word), BELL_READ);
    CHECK_EQ(drain_fd(bytes[0]), 1);
    CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), 1);
    CHECK_EQ(e.handle, h[3]);
    CHECK_EQ(e.ready, BELL_READ);
    CHECK_EQ(load(&mvar.puts), 1);
    CHECK_EQ(mvar.capability, 3);
    eventfd_t value = 0;
    CHECK_EQ(eventfd_read(wake, &value), 0);
    CHECK_EQ(value, 1);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(bell_unregister(bell, h[i], BELL_SYNC), BELL_FIRED);
        CHECK_EQ(close(sources[i]), 0);
    }
    CHECK_GE(bell_unregister(bell, user, BELL_SYNC), 0);
    CHECK_EQ(bell_queue_destroy(bell, queue, 0), BELL_FIRED);
    close_pair(bytes);
    CHECK_EQ(close(wake), 0);
    check_clean(bell);
}

/* ---- shards ---- */

typedef struct shard_driver {
    bell_t *bell;
    uint32_t shard;
    uint32_t stop;
    uint32_t bytes;
} shard_driver;

static void *drive_shard(void *argument)
{
    shard_driver *d = argument;
    while (!load(&d->stop)) {
        bell_event events[16];
        int32_t n = CHECK_OK(bell_poll(d->bell, d->shard, events, 16, BELL_NEVER));
        for (int32_t i = 0; i < n; i++) {
            char text[256];
            ssize_t got;
            CHECK_EQ(shard_of(events[i].handle), d->shard);
            while ((got = read((int)events[i].user_data, text, sizeof text)) > 0) {
                CHECK_EQ(write((int)events[i].user_data, text, (size_t)got), got);
                add(&d->bytes, (uint32_t)got);
            }
            CHECK(got < 0 && errno == EAGAIN);
            CHECK_EQ(bell_rearm(d->bell, events[i].handle, NULL, BELL_NEVER), 0);
        }
    }
    return NULL;
}

static void do_several_shards_work_side_by_side(void)
{
    enum { SHARDS = 4, EACH = 8 };
    bell_t *bell = make_bell(SHARDS, 0);
    shard_driver drivers[SHARDS];
    pthread_t threads[SHARDS];
    int pairs[SHARDS][EACH][2];
    bell_handle handles[SHARDS][EACH];
    uint32_t sent[SHARDS] = {0};
    for (uint32_t s = 0; s < SHARDS; s++) {
        drivers[s] = (shard_driver){.bell = bell, .shard = s};
        threads[s] = start_thread(drive_shard, &drivers[s]);
        for (int i = 0; i < EACH; i++) {
            make_sockets(pairs[s][i]);
            handles[s][i] = watch_on(bell, s, pairs[s][i][1], BELL_ONESHOT, to_poll());
            CHECK_EQ(shard_of(handles[s][i]), s);
        }
    }
    for (int round = 0; round < rounds(2000); round++)
        for (uint32_t s = 0; s < SHARDS; s++) {
            int fd = pairs[s][round % EACH][0];
            struct pollfd p = {.fd = fd, .events = POLLIN};
            char c = (char)round;
            CHECK_EQ(write(fd, &c, 1), 1);
            CHECK_EQ(poll(&p, 1, 60000), 1);
            c = (char)~c;
            CHECK_EQ(read(fd, &c, 1), 1);
            CHECK_EQ(c, (char)round);
            sent[s]++;
        }
    for (uint32_t s = 0; s < SHARDS; s++) {
        bell_counters c = {.size = sizeof c};
        CHECK_EQ(bell_stats(bell, s, &c), 0);
        CHECK_EQ(c.fds, EACH);
        CHECK_EQ(c.shards, 1);
        store(&drivers[s].stop, 1);
        CHECK_EQ(bell_wake(bell, s), 0);
        join_thread(threads[s]);
        CHECK_EQ(drivers[s].bytes, sent[s]);
        for (int i = 0; i < EACH; i++) {
            CHECK_OK(bell_unregister(bell, handles[s][i], 0));
            close_pair(pairs[s][i]);
        }
    }
    CHECK_EQ(stats_of(bell).shards, SHARDS);
    check_clean(bell);
}

static void does_shard_any_spread_over_the_shards(void)
{
    enum { SHARDS = 4, FDS = 64 };
    bell_t *bell = make_bell(SHARDS, 0);
    int fds[FDS], count[SHARDS] = {0}, timeouts[SHARDS] = {0};
    bell_handle handles[FDS], timers[FDS];
    for (int i = 0; i < FDS; i++) {
        fds[i] = make_eventfd();
        handles[i] = watch_on(bell, BELL_SHARD_ANY, fds[i], BELL_ONESHOT, to_slot());
        CHECK_LT(shard_of(handles[i]), SHARDS);
        count[shard_of(handles[i])]++;
    }
    for (int i = 0; i < FDS; i++) {
        bell_timeout_spec far = timeout_spec(BELL_NEVER - 1, to_slot());
        far.shard = BELL_SHARD_ANY;
        CHECK_OK(bell_register_timeout(bell, &far, &timers[i]));
        CHECK_LT(shard_of(timers[i]), SHARDS);
        timeouts[shard_of(timers[i])]++;
    }
    for (int s = 0; s < SHARDS; s++) {
        fprintf(stderr, "  shard %d: %d fds, %d timeouts\n", s, count[s], timeouts[s]);
        CHECK_GE(count[s], FDS / SHARDS / 2);
        CHECK_GE(timeouts[s], FDS / SHARDS / 2);
    }
    for (int i = 0; i < FDS; i++) {
        CHECK_EQ(bell_unregister(bell, handles[i], 0), BELL_CANCELLED);
        CHECK_EQ(bell_unregister(bell, timers[i], 0), BELL_CANCELLED);
        CHECK_EQ(close(fds[i]), 0);
    }
    check_clean(bell);
}

static void does_shard_current_cpu_take_the_cpu_of_the_caller(void)
{
    enum { SHARDS = 3 };
    bell_t *bell = make_bell(SHARDS, 0);
    cpu_set_t all, one;
    CHECK_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all))
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (sched_setaffinity(0, sizeof one, &one) != 0)
            continue;
        int fd = make_eventfd();
        bell_handle h = watch_on(bell, BELL_SHARD_CURRENT_CPU, fd, BELL_ONESHOT, to_slot()), t = 0, u = 0;
        bell_timeout_spec far = timeout_spec(BELL_NEVER - 1, to_slot());
        bell_target slot = to_slot();
        far.shard = BELL_SHARD_CURRENT_CPU;
        CHECK_EQ(shard_of(h), cpu % SHARDS);
        CHECK_OK(bell_register_timeout(bell, &far, &t));
        CHECK_EQ(shard_of(t), cpu % SHARDS);
        CHECK_OK(bell_register_user(bell, BELL_SHARD_CURRENT_CPU, &slot, 0, &u));
        CHECK_EQ(shard_of(u), cpu % SHARDS);
        CHECK_OK(bell_unregister(bell, h, 0));
        CHECK_OK(bell_unregister(bell, t, 0));
        CHECK_OK(bell_unregister(bell, u, 0));
        CHECK_EQ(close(fd), 0);
    }
    CHECK_EQ(sched_setaffinity(0, sizeof all, &all), 0);
    check_clean(bell);
}

static void does_an_fd_that_is_watched_already_stay_on_its_shard(void)
{
    bell_t *bell = make_bell(4, 0);
    int fd = make_eventfd();
    bell_event e;
    bell_handle first = watch_on(bell, 2, fd, BELL_ONESHOT, to_poll());
    bell_handle again = watch_on(bell, 1, fd, BELL_ONESHOT, to_poll());
    bell_handle any = watch_on(bell, BELL_SHARD_ANY, fd, BELL_ONESHOT, to_slot());
    CHECK_EQ(shard_of(first), 2);
    CHECK_EQ(shard_of(again), 2);
    CHECK_EQ(shard_of(any), 2);
    CHECK_EQ(eventfd_write(fd, 1), 0);
    for (uint32_t s = 0; s < 4; s++)
        if (s != 2)
            CHECK_EQ(bell_poll(bell, s, &e, 1, 0), 0);
    int seen = 0;
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(bell_poll(bell, 2, &e, 1, SEC(30)), 1);
        CHECK_EQ(e.ready, BELL_READ);
        seen |= e.handle == first ? 1 : e.handle == again ? 2 : 4;
    }
    CHECK_EQ(seen, 3);
    CHECK_EQ(bell_slot_consume(bell, any, BELL_READ), BELL_READ);
    CHECK_EQ(bell_unregister(bell, first, 0), BELL_FIRED);
    CHECK_EQ(bell_unregister(bell, again, 0), BELL_FIRED);
    CHECK_EQ(bell_unregister(bell, any, 0), BELL_FIRED);
    bell_handle anew = watch_on(bell, 1, fd, BELL_ONESHOT, to_poll()); /* nobody watches it now: free to move */
    CHECK_EQ(shard_of(anew), 1);
    CHECK_EQ(bell_unregister(bell, anew, 0), BELL_CANCELLED);
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

int main(void)
{
    RUN(do_200_socketpairs_get_their_bytes_back_in_mode_oneshot);
    RUN(do_200_socketpairs_get_their_bytes_back_in_mode_level);
    RUN(do_200_socketpairs_get_their_bytes_back_in_mode_edge);
    RUN(do_200_socketpairs_get_their_bytes_back_in_small_bites);
    RUN(does_each_of_many_come_once_with_capacity_1);
    RUN(do_all_that_stay_ready_get_their_turn_with_capacity_1);
    RUN(does_news_that_finds_no_room_stay_for_the_next_call);
    RUN(is_undelivered_news_of_an_unregistered_handle_withdrawn);
    RUN(does_capacity_0_deliver_to_other_targets_and_keep_the_news_of_poll);
    RUN(does_timeout_0_not_wait);
    RUN(is_a_timeout_of_bell_poll_never_early);
    RUN(museum_094_is_a_huge_timeout_not_taken_for_a_short_one);
    RUN(does_bell_wake_end_a_wait_without_end);
    RUN(does_a_wake_before_the_wait_end_that_wait_and_no_more);
    RUN(may_a_signal_handler_wake_and_post);
    RUN(museum_089_is_a_second_thread_in_bell_poll_told_busy);
    RUN(does_a_sleeping_driver_see_what_others_register);
    RUN(does_an_earlier_deadline_shorten_a_sleep_under_way);
    RUN(does_next_deadline_tell_the_earliest);
    RUN(is_news_for_other_targets_delivered_in_the_same_turn_with_0_returned);
    RUN(do_several_shards_work_side_by_side);
    RUN(does_shard_any_spread_over_the_shards);
    RUN(does_shard_current_cpu_take_the_cpu_of_the_caller);
    RUN(does_an_fd_that_is_watched_already_stay_on_its_shard);
    return 0;
}
