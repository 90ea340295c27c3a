#define _GNU_SOURCE 1
/* When do timeouts fire, in which order, how often, and when not? */
#include "check.h"
#include <sys/mman.h>

/* Waits for `handle` alone. */
static bell_event next_of(bell_t *bell, bell_handle handle)
{
    bell_event e = next_event(bell);
    CHECK_EQ(e.handle, handle);
    return e;
}

/* ---- never early ---- */

static void no_sample_is_early(void)
{
    static const int64_t delays[] = {0, 1, 999, US(1), US(50), US(999), MS(1), MS(1) + 1, US(1500), US(3100), MS(10)};
    bell_t *bell = make_bell(1, 0);
    int64_t best = INT64_MAX;
    for (uint32_t clock = BELL_CLOCK_MONOTONIC; clock <= BELL_CLOCK_REAL; clock++) {
        if (clock != BELL_CLOCK_MONOTONIC && !has_feature(BELL_FEATURE_CLOCKS)) {
            CHECK_EQ(bell_now(clock), BELL_E_UNSUPPORTED);
            continue;
        }
        for (int i = 0; i < rounds(220); i++) {
            bell_timeout_spec spec = timeout_spec(0, to_poll());
            bell_handle handle;
            bell_event e;
            int64_t late;
            spec.clock = clock;
            spec.user_data = 0xABCD;
            spec.deadline_ns = bell_now(clock) + delays[i % 11];
            CHECK_OK(bell_register_timeout(bell, &spec, &handle));
            e = next_of(bell, handle);
            late = bell_now(clock) - spec.deadline_ns;
            CHECK_GE(late, 0);
            if (delays[i % 11] > 0 && late < best)
                best = late;
            CHECK_EQ(e.ready, BELL_TIMEOUT);
            CHECK_EQ(e.data, 1);
            CHECK_EQ(e.status, 0);
            CHECK_EQ(e.user_data, 0xABCD);
            CHECK_EQ(bell_unregister(bell, handle, 0), BELL_FIRED);
        }
    }
    fprintf(stderr, "  best lateness %lld ns\n", (long long)best);
    if (!slow())
        CHECK_LE(best, MS(2)); /* the best of many, on any machine */
    check_clean(bell);
}

static void the_clocks_are_those_of_the_system(void)
{
    clockid_t ids[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME};
    for (uint32_t clock = 0; clock < 3; clock++) {
        struct timespec a, b;
        int64_t now;
        if (clock > 0 && !has_feature(BELL_FEATURE_CLOCKS))
            continue;
        clock_gettime(ids[clock], &a);
        now = bell_now(clock);
        clock_gettime(ids[clock], &b);
        CHECK_GE(now, (int64_t)a.tv_sec * 1000000000 + a.tv_nsec);
        CHECK_LE(now, (int64_t)b.tv_sec * 1000000000 + b.tv_nsec);
    }
    CHECK_EQ(bell_now(3), -EINVAL);
    CHECK_EQ(bell_now(UINT32_MAX), -EINVAL);
}

/* Nobody else ends this sleep: the kernel is told when, by each clock. */
static void a_deadline_of_each_clock_ends_a_sleep_without_end(void)
{
    for (uint32_t clock = 0; clock < 3; clock++) {
        bell_t *bell = make_bell(1, 0);
        bell_event e = {0};
        bell_handle h;
        if (clock > 0 && !has_feature(BELL_FEATURE_CLOCKS)) {
            check_clean(bell);
            continue;
        }
        bell_timeout_spec spec = timeout_spec(bell_now(clock) + MS(5), to_poll());
        spec.clock = clock;
        CHECK_OK(bell_register_timeout(bell, &spec, &h));
        CHECK_EQ(bell_poll(bell, 0, &e, 1, BELL_NEVER), 1);
        CHECK_EQ(e.handle, h);
        CHECK_GE(bell_now(clock), spec.deadline_ns);
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
        check_clean(bell);
    }
}

static void zero_fires_at_once_and_once(void)
{
    bell_t *bell = make_bell(1, 0);
    int64_t deadlines[] = {0, 1, now_ns()};
    for (int i = 0; i < 3; i++) {
        bell_event e;
        bell_handle handle = set_timeout(bell, deadlines[i], to_poll());
        CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 1);
        CHECK_EQ(e.handle, handle);
        CHECK_EQ(e.ready, BELL_TIMEOUT);
        CHECK_LE(expect_quiet(bell, MS(5)), 3); /* museum 46: no spin afterwards */
        CHECK_EQ(bell_unregister(bell, handle, 0), BELL_FIRED);
    }
    check_clean(bell);
}

static void the_far_future_is_silent(void)
{
    bell_t *bell = make_bell(1, 0);
    int64_t far[] = {1LL << 62, INT64_MAX - 1, INT64_MAX - 2, BELL_NEVER, 1LL << 55, SEC(2147483648LL),
                     SEC(4294967296LL), now_ns() + MS(2147483648LL), now_ns() + MS(4294967296LL)};
    enum { N = sizeof far / sizeof *far };
    bell_handle handles[N], near;
    uint64_t waits;
    int64_t deadline = -1;
    for (int i = 0; i < N; i++)
        handles[i] = set_timeout(bell, far[i], to_poll());
    waits = stats_of(bell).kernel_waits;
    expect_quiet(bell, MS(20));
    CHECK_LE(stats_of(bell).kernel_waits - waits, 5);
    for (int i = 0; i < N; i++) {
        CHECK_OK(bell_timeout_get(bell, handles[i], &deadline));
        CHECK_EQ(deadline, far[i]);
    }
    CHECK_OK(bell_next_deadline(bell, 0, &deadline));
    CHECK_GT(deadline, now_ns() + SEC(3600));
    /* And it does not delay the near. */
    near = set_timeout(bell, now_ns() + MS(5), to_poll());
    next_of(bell, near);
    CHECK_OK(bell_unregister(bell, near, 0));
    for (int i = 0; i < N; i++)
        CHECK_EQ(bell_unregister(bell, handles[i], 0), far[i] == BELL_NEVER ? BELL_FIRED : BELL_CANCELLED);
    /* A wait as long as time itself is no error. */
    near = set_timeout(bell, now_ns() + MS(1), to_poll());
    bell_event e;
    AWAIT(bell_poll(bell, 0, &e, 1, INT64_MAX - 1) == 1);
    CHECK_OK(bell_unregister(bell, near, 0));
    check_clean(bell);
}

static void bad_timeouts_are_refused(void)
{
    bell_t *bell = make_bell_ghc(2, 0);
    bell_timeout_spec good = timeout_spec(now_ns(), to_poll()), s;
    fake_mvar mvar = {0};
    bell_handle handle = 99;
    int64_t deadline = 98;
    int fds[2];
    CHECK_EQ(bell_register_timeout(bell, NULL, &handle), -EINVAL);
    CHECK_EQ(bell_register_timeout(bell, &good, NULL), -EINVAL);
#define REFUSED(change, code)                                                                                          \
    do {                                                                                                               \
        s = good;                                                                                                      \
        change;                                                                                                        \
        CHECK_EQ(bell_register_timeout(bell, &s, &handle), code);                                                      \
    } while (0)
    REFUSED(s.clock = 3, -EINVAL);
    REFUSED(s.flags = BELL_FD_DEADLINE, -EINVAL);
    REFUSED(s.flags = 0x80, -EINVAL);
    REFUSED(s.shard = 2, -EINVAL);
    REFUSED(s.deadline_ns = -1, -EINVAL);
    REFUSED(s.deadline_ns = INT64_MIN, -EINVAL);
    REFUSED(s.period_ns = -1, -EINVAL);
    REFUSED(s.period_ns = (1LL << 62) + 1, -EINVAL);
    REFUSED(s.slack_ns = -1, -EINVAL);
    REFUSED(s.slack_ns = (1LL << 62) + 1, -EINVAL);
    REFUSED(s.target.kind = BELL_TARGET_NONE, -EINVAL);
    REFUSED((s.period_ns = 1, s.flags = BELL_AUTO_RELEASE), -EINVAL);
    REFUSED((s.period_ns = 1, s.target = to_mvar(&mvar, 0)), -EINVAL);
    REFUSED(s.size = 4, BELL_E_ABI);
#undef REFUSED
    CHECK_EQ(handle, 99);
    CHECK_EQ(mvar.puts, 0);
    CHECK_EQ(stats_of(bell).timeouts, 0);
    CHECK_OK(bell_register_timeout(bell, &good, &handle));
    CHECK_EQ(bell_update_timeout(bell, handle, -1), -EINVAL);
    CHECK_EQ(bell_rearm(bell, handle, NULL, -1), -EINVAL);
    CHECK_EQ(bell_timeout_get(bell, handle, NULL), -EINVAL);
    CHECK_OK(bell_unregister(bell, handle, 0));
    CHECK_EQ(bell_update_timeout(bell, handle, 1), BELL_E_STALE);
    CHECK_EQ(bell_timeout_get(bell, handle, &deadline), BELL_E_STALE);
    CHECK_EQ(deadline, 98);
    handle = make_queue(bell, NULL);
    CHECK_EQ(bell_update_timeout(bell, handle, 1), -EINVAL);
    CHECK_EQ(bell_timeout_get(bell, handle, &deadline), -EINVAL);
    CHECK_OK(bell_queue_destroy(bell, handle, 0));
    handle = make_user(bell, to_slot());
    CHECK_EQ(bell_update_timeout(bell, handle, 1), -EINVAL);
    CHECK_EQ(bell_timeout_get(bell, handle, &deadline), -EINVAL);
    CHECK_OK(bell_unregister(bell, handle, 0));
    CHECK_EQ(bell_next_deadline(bell, 2, &deadline), -EINVAL);
    CHECK_EQ(bell_next_deadline(bell, 0, NULL), -EINVAL);
    make_sockets(fds);
    close_pair(fds);
    check_clean(bell);
}

/* ---- order ---- */

static void museum_053_equal_deadlines_fire_in_the_order_of_arming(void)
{
    int n = rounds(10000);
    bell_t *bell = make_bell(1, 0);
    bell_handle *handles = calloc((size_t)n, sizeof *handles);
    int64_t deadline = now_ns() + MS(slow() ? 500 : 100);
    bell_event e[128];
    int told = 0;
    CHECK(handles != NULL);
    for (int i = 0; i < n; i++) {
        bell_timeout_spec spec = timeout_spec(deadline, to_poll());
        spec.user_data = (uint64_t)i;
        CHECK_OK(bell_register_timeout(bell, &spec, &handles[i]));
    }
    while (told < n) {
        int32_t got = CHECK_OK(bell_poll(bell, 0, e, 128, SEC(10)));
        CHECK(got == 0 || now_ns() >= deadline);
        for (int i = 0; i < got; i++)
            CHECK_EQ(e[i].user_data, told++);
    }
    for (int i = 0; i < n; i++)
        CHECK_EQ(bell_unregister(bell, handles[i], 0), BELL_FIRED);
    free(handles);
    check_clean(bell);
}

static void different_deadlines_fire_in_their_order(void)
{
    int n = rounds(10000);
    bell_t *bell = make_bell(1, 0);
    bell_handle *handles = calloc((size_t)n, sizeof *handles);
    int64_t base = now_ns() - SEC(1), last = 0;
    uint32_t random = 12345;
    bell_event e[128];
    int told = 0;
    CHECK(handles != NULL);
    for (int i = 0; i < n; i++) {
        bell_timeout_spec spec;
        random = random * 1664525 + 1013904223;
        spec = timeout_spec(base + random % 1000000, to_poll());
        spec.user_data = (uint64_t)spec.deadline_ns;
        CHECK_OK(bell_register_timeout(bell, &spec, &handles[i]));
    }
    for (int i = 0; i < n; i += 3) { /* a third of them moved: they sort by where they are now */
        CHECK_OK(bell_update_timeout(bell, handles[i], base + (i % 2 ? 2000000 : 0) + i));
    }
    while (told < n) {
        int32_t got = CHECK_OK(bell_poll(bell, 0, e, 128, SEC(10)));
        CHECK_GT(got, 0);
        for (int i = 0; i < got; i++, told++) {
            int64_t deadline = (int64_t)e[i].user_data;
            for (int k = 0; k < n; k += 3)
                if (handles[k] == e[i].handle)
                    deadline = base + (k % 2 ? 2000000 : 0) + k;
            CHECK_GE(deadline, last);
            last = deadline;
        }
    }
    CHECK_EQ(stats_of(bell).timers_fired, n);
    for (int i = 0; i < n; i++)
        CHECK_EQ(bell_unregister(bell, handles[i], 0), BELL_FIRED);
    free(handles);
    check_clean(bell);
}

/* ---- moving ---- */

static void a_moved_deadline_is_the_one_that_counts(void)
{
    bell_t *bell = make_bell(1, 0);
    for (int i = 0; i < rounds(100); i++) {
        int64_t start = now_ns(), first = start + MS(4), moved, got = 0;
        bell_handle handle = set_timeout(bell, first, to_poll());
        switch (i % 4) {
        case 0: moved = start + MS(8); break;  /* later */
        case 1: moved = start + MS(1); break;  /* earlier */
        case 2: moved = first; break;          /* the same */
        default: moved = 0; break;             /* now */
        }
        CHECK_EQ(bell_update_timeout(bell, handle, moved), 0);
        CHECK_OK(bell_timeout_get(bell, handle, &got));
        CHECK_EQ(got, moved);
        if (i % 8 >= 4) { /* there and back */
            CHECK_EQ(bell_update_timeout(bell, handle, start + SEC(100)), 0);
            CHECK_EQ(bell_update_timeout(bell, handle, moved), 0);
        }
        CHECK_EQ(next_of(bell, handle).data, 1);
        CHECK_GE(now_ns(), moved);
        expect_quiet(bell, i % 10 == 0 ? MS(10) : 0); /* not once more at the old one */
        CHECK_EQ(bell_update_timeout(bell, handle, now_ns() + MS(1)), BELL_FIRED);
        expect_quiet(bell, i % 10 == 0 ? MS(3) : 0); /* which changed nothing */
        CHECK_OK(bell_timeout_get(bell, handle, &got));
        CHECK_EQ(got, BELL_NEVER);
        CHECK_EQ(bell_unregister(bell, handle, 0), BELL_FIRED);
    }
    check_clean(bell);
}

static void moving_to_never_silences_and_back_revives(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle handle = set_timeout(bell, now_ns() + MS(2), to_poll());
    int64_t deadline;
    CHECK_EQ(bell_update_timeout(bell, handle, BELL_NEVER), 0);
    CHECK_OK(bell_timeout_get(bell, handle, &deadline));
    CHECK_EQ(deadline, BELL_NEVER);
    expect_quiet(bell, MS(6));
    CHECK_OK(bell_rearm(bell, handle, NULL, now_ns() + MS(1)));
    next_of(bell, handle);
    CHECK_OK(bell_unregister(bell, handle, 0));
    check_clean(bell);
}

static void rearming_fires_again(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    for (int kind = 0; kind < LAND_KINDS; kind++) {
        landing l;
        landing_open(&l, kind, bell);
        landing_bind(&l, set_timeout(bell, 0, l.target));
        for (int i = 1; i <= 5; i++) {
            int64_t deadline = now_ns() + MS(1), got;
            pump_all(bell, &l, 1);
            CHECK_EQ(l.count, 1);
            landing_forget(&l);
            pump(bell, &l, 1);
            CHECK_EQ(l.count, 0);
            deadline = now_ns() + MS(1);
            landing_rearm(&l, deadline);
            CHECK_OK(bell_timeout_get(bell, l.handle, &got));
            CHECK_EQ(got, deadline);
            pump_all(bell, &l, 1);
            CHECK_GE(now_ns(), deadline);
            CHECK_EQ(l.count, 1);
            landing_forget(&l);
            landing_rearm(&l, 0);
        }
        pump_all(bell, &l, 1);
        CHECK_EQ(landing_end(&l), BELL_FIRED);
    }
    check_clean(bell);
}

static void rearming_before_it_fired_moves_it(void)
{
    bell_t *bell = make_bell(1, 0);
    int64_t later = now_ns() + MS(8);
    bell_handle handle = set_timeout(bell, now_ns() + MS(2), to_poll());
    CHECK_OK(bell_rearm(bell, handle, NULL, later));
    CHECK_EQ(next_of(bell, handle).data, 1);
    CHECK_GE(now_ns(), later);
    CHECK_OK(bell_rearm(bell, handle, NULL, BELL_NEVER));
    expect_quiet(bell, MS(5));
    CHECK_OK(bell_unregister(bell, handle, 0));
    check_clean(bell);
}

/* ---- an fd or its deadline ---- */

static bell_handle watch_until(bell_t *bell, int fd, uint32_t mode, bell_target target, int64_t deadline_ns)
{
    bell_fd_spec spec = fd_spec(fd, BELL_READ, mode, target);
    bell_handle handle;
    spec.flags = BELL_FD_DEADLINE;
    spec.deadline_ns = deadline_ns;
    CHECK_OK(bell_register_fd(bell, &spec, &handle));
    return handle;
}

static void a_deadline_that_passes_is_told_alone(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    uint32_t modes[] = {BELL_ONESHOT, BELL_LEVEL, BELL_EDGE};
    for (int m = 0; m < (has_edge() ? 3 : 2); m++)
        for (int kind = 0; kind < LAND_KINDS; kind++) {
            landing l;
            int64_t deadline;
            int fds[2];
            if (modes[m] == BELL_LEVEL && kind != LAND_POLL && kind != LAND_QUEUE)
                continue;
            if (modes[m] != BELL_ONESHOT && kind == LAND_MVAR)
                continue;
            make_sockets(fds);
            landing_open(&l, kind, bell);
            deadline = now_ns() + MS(2);
            landing_bind(&l, watch_until(bell, fds[0], modes[m], l.target, deadline));
            pump_all(bell, &l, 1);
            CHECK_GE(now_ns(), deadline);
            pump_for(bell, &l, 1, MS(2));
            CHECK_EQ(l.count, 1);
            if (landing_shows_bits(&l))
                CHECK_EQ(l.ready, BELL_TIMEOUT);
            CHECK_EQ(bell_timeout_get(bell, l.handle, &deadline), 0);
            CHECK_EQ(deadline, BELL_NEVER);
            landing_forget(&l);
            put_byte(fds[1]);
            pump(bell, &l, 1);
            if (modes[m] == BELL_ONESHOT) { /* the deadline was its one delivery */
                CHECK_EQ(l.count, 0);
                landing_rearm(&l, BELL_NEVER);
                pump(bell, &l, 1);
                CHECK_EQ(l.count, 1);
            } else {
                CHECK_GE(l.count, 1);
            }
            if (landing_shows_bits(&l))
                CHECK_EQ(l.ready, BELL_READ);
            landing_end(&l);
            close_pair(fds);
        }
    check_clean(bell);
}

static void readiness_comes_first_and_the_deadline_no_more(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    for (int kind = 0; kind < LAND_KINDS; kind++) {
        landing l;
        int64_t deadline = now_ns() + MS(4);
        int fds[2];
        make_sockets(fds);
        put_byte(fds[1]);
        landing_open(&l, kind, bell);
        landing_bind(&l, watch_until(bell, fds[0], BELL_ONESHOT, l.target, deadline));
        pump(bell, &l, 1);
        CHECK_EQ(l.count, 1);
        while (now_ns() < deadline + MS(2))
            pump_for(bell, &l, 1, MS(2));
        CHECK_EQ(l.count, 1);
        if (landing_shows_bits(&l))
            CHECK_EQ(l.ready, BELL_READ);
        CHECK_EQ(bell_update_timeout(bell, l.handle, now_ns()), BELL_FIRED);
        CHECK_EQ(landing_end(&l), BELL_FIRED);
        close_pair(fds);
    }
    CHECK_EQ(stats_of(bell).timers_fired, 0);
    check_clean(bell);
}

/* Museum 21. */
static void museum_021_readiness_wins_a_tie(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    for (int kind = 0; kind < LAND_KINDS; kind++)
        for (int past = 0; past < 2; past++) {
            landing l;
            int64_t deadline = past ? 0 : now_ns() + MS(1);
            int fds[2];
            make_sockets(fds);
            put_byte(fds[1]);
            landing_open(&l, kind, bell);
            landing_bind(&l, watch_until(bell, fds[0], BELL_ONESHOT, l.target, deadline));
            while (now_ns() <= deadline) {
            }
            for (int i = 0; i < 3; i++) /* both are due at the first look */
                pump(bell, &l, 1);
            CHECK_EQ(l.count, 1);
            if (landing_shows_bits(&l))
                CHECK_EQ(l.ready, BELL_READ);
            landing_end(&l);
            close_pair(fds);
        }
    check_clean(bell);
}

static void a_deadline_serves_as_idle_timeout(void)
{
    bell_t *bell = make_bell(1, 0);
    uint32_t modes[] = {BELL_LEVEL, BELL_EDGE};
    for (int m = 0; m < (has_edge() ? 2 : 1); m++) {
        int fds[2], reads = 0;
        int64_t idle = MS(slow() ? 900 : 300), deadline = now_ns() + idle, got;
        bell_handle handle;
        make_sockets(fds);
        handle = watch_until(bell, fds[0], modes[m], to_poll(), deadline);
        for (int i = 0; i < 30; i++) {
            bell_event e;
            put_byte(fds[1]);
            e = next_of(bell, handle);
            CHECK_EQ(e.ready, BELL_READ);
            drain_fd(fds[0]);
            reads++;
            deadline = now_ns() + idle;
            CHECK_EQ(bell_update_timeout(bell, handle, deadline), 0);
            CHECK_OK(bell_timeout_get(bell, handle, &got));
            CHECK_EQ(got, deadline);
            if (i % 10 == 0)
                expect_quiet(bell, idle / 20);
        }
        CHECK_EQ(reads, 30);
        CHECK_EQ(next_of(bell, handle).ready, BELL_TIMEOUT);
        CHECK_GE(now_ns(), deadline);
        expect_quiet(bell, MS(5));
        /* It is still watched, and may get a deadline again, or lose it. */
        CHECK_EQ(bell_update_timeout(bell, handle, now_ns() + MS(1)), 0);
        CHECK_EQ(next_of(bell, handle).ready, BELL_TIMEOUT);
        CHECK_EQ(bell_update_timeout(bell, handle, now_ns() + MS(2)), 0);
        CHECK_EQ(bell_update_timeout(bell, handle, BELL_NEVER), 0);
        expect_quiet(bell, MS(6));
        put_byte(fds[1]);
        CHECK_EQ(next_of(bell, handle).ready, BELL_READ);
        CHECK_OK(bell_unregister(bell, handle, 0));
        close_pair(fds);
    }
    check_clean(bell);
}

static void rearming_an_fd_gives_it_a_new_deadline_or_none(void)
{
    bell_t *bell = make_bell(1, 0);
    int64_t deadline;
    int fds[2];
    bell_handle handle;
    make_sockets(fds);
    handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
    CHECK_OK(bell_timeout_get(bell, handle, &deadline));
    CHECK_EQ(deadline, BELL_NEVER);
    for (int i = 0; i < 5; i++) {
        int64_t until = now_ns() + MS(2);
        CHECK_OK(bell_rearm(bell, handle, NULL, until));
        CHECK_OK(bell_timeout_get(bell, handle, &deadline));
        CHECK_EQ(deadline, until);
        CHECK_EQ(next_of(bell, handle).ready, BELL_TIMEOUT);
        CHECK_GE(now_ns(), until);
    }
    CHECK_OK(bell_rearm(bell, handle, NULL, now_ns() + MS(2)));
    CHECK_OK(bell_rearm(bell, handle, NULL, BELL_NEVER));
    expect_quiet(bell, MS(6));
    CHECK_EQ(bell_unregister(bell, handle, 0), BELL_CANCELLED);
    close_pair(fds);
    check_clean(bell);
}

/* ---- other threads ---- */

typedef struct sleeper {
    bell_t *bell;
    int64_t woke;
    uint32_t id;
    bell_event event;
} sleeper;

static void *poll_for_ever(void *argument)
{
    sleeper *s = argument;
    int32_t n;
    store(&s->id, thread_id());
    while ((n = bell_poll(s->bell, 0, &s->event, 1, BELL_NEVER)) == 0) {
    }
    s->woke = now_ns();
    CHECK_EQ(n, 1);
    return NULL;
}

/* Museum 43. */
static void a_sleeping_driver_notices_an_earlier_deadline(void)
{
    bell_t *bell = make_bell(1, 0);
    for (int i = 0; i < rounds(200); i++) {
        bell_handle far = i % 2 ? set_timeout(bell, now_ns() + SEC(3600), to_poll()) : 0, near;
        sleeper s = {.bell = bell};
        pthread_t t = start_thread(poll_for_ever, &s);
        int64_t deadline;
        if (i % 3 == 0)
            AWAIT(is_asleep(&s.id));
        deadline = now_ns() + (i % 5 == 0 ? 0 : MS(1));
        if (i % 4 == 1) { /* by moving the far one */
            near = far;
            CHECK_EQ(bell_update_timeout(bell, near, deadline), 0);
            far = 0;
        } else {
            near = set_timeout(bell, deadline, to_poll());
        }
        join_thread(t); /* or it hangs */
        CHECK_EQ(s.event.handle, near);
        CHECK_GE(s.woke, deadline);
        CHECK_EQ(bell_unregister(bell, near, 0), BELL_FIRED);
        if (far)
            CHECK_EQ(bell_unregister(bell, far, 0), BELL_CANCELLED);
    }
    check_clean(bell);
}

/* Museum 44. */
static void cancelling_the_earliest_leaves_the_next_exact(void)
{
    bell_t *bell = make_bell(1, 0);
    for (int i = 0; i < rounds(100); i++) {
        sleeper s = {.bell = bell};
        uint64_t waits = stats_of(bell).kernel_waits, used;
        int64_t deadline = now_ns() + MS(6);
        bell_handle first = set_timeout(bell, now_ns() + MS(3), to_poll()), second = set_timeout(bell, deadline, to_poll());
        pthread_t t = start_thread(poll_for_ever, &s);
        int32_t answer;
        if (i % 2)
            AWAIT(is_asleep(&s.id));
        answer = bell_unregister(bell, first, 0);
        join_thread(t);
        if (answer == BELL_CANCELLED) {
            CHECK_EQ(s.event.handle, second);
            CHECK_GE(s.woke, deadline);
            used = stats_of(bell).kernel_waits - waits;
            CHECK_LE(used, 4); /* the sleep, a look at the cancelled one's time, and the real end */
        } else { /* we were too slow */
            CHECK_EQ(answer, BELL_FIRED);
            CHECK_EQ(s.event.handle, first);
        }
        CHECK_OK(bell_unregister(bell, second, 0));
    }
    check_clean(bell);
}

static void the_library_threads_fire_too(void)
{
    bell_t *bell = make_bell_ghc(2, 2);
    landing l[LAND_KINDS];
    for (int kind = 1; kind < LAND_KINDS; kind++) {
        bell_timeout_spec spec;
        bell_handle handle;
        int64_t deadline;
        landing_open(&l[kind], kind, bell);
        for (uint32_t shard = 0; shard < 2; shard++) {
            spec = timeout_spec(BELL_NEVER, l[kind].target);
            spec.shard = shard;
            CHECK_OK(bell_register_timeout(bell, &spec, &handle));
            landing_bind(&l[kind], handle);
            landing_forget(&l[kind]);
            deadline = now_ns() + MS(2); /* armed only now: nothing can come before we look */
            CHECK_EQ(bell_update_timeout(bell, handle, deadline), 0);
            AWAIT((landing_look(&l[kind]), l[kind].count > 0));
            CHECK_GE(now_ns(), deadline);
            CHECK_EQ(l[kind].count, 1);
            CHECK_EQ(bell_unregister(bell, handle, BELL_SYNC), BELL_FIRED);
        }
        landing_close(&l[kind]);
    }
    check_clean(bell);
}

/* ---- periodic ---- */

static void a_period_does_not_drift_and_merges_what_was_missed(void)
{
    bell_t *bell = make_bell(1, 0);
    int64_t period = MS(2), first = now_ns() + MS(2);
    bell_timeout_spec spec = timeout_spec(first, to_poll());
    bell_handle handle;
    uint64_t count = 0;
    spec.period_ns = period;
    CHECK_OK(bell_register_timeout(bell, &spec, &handle));
    for (int i = 0; i < 50; i++) {
        bell_event e = next_of(bell, handle);
        int64_t now = now_ns(), next;
        CHECK_EQ(e.ready, BELL_TIMEOUT);
        CHECK_GE(e.data, 1);
        count += e.data;
        /* The n-th expiration is not before first + (n - 1) * period, and none is left out. */
        CHECK_GE(now, first + (int64_t)(count - 1) * period);
        CHECK_OK(bell_timeout_get(bell, handle, &next));
        CHECK_EQ((next - first) % period, 0);
        if (i % 10 == 9) { /* miss some */
            int64_t until = first + (int64_t)(count + 4) * period;
            while (now_ns() < until) {
            }
            e = next_of(bell, handle);
            CHECK_GE(e.data, 5);
            count += e.data;
            CHECK_GE(now_ns(), first + (int64_t)(count - 1) * period);
        }
    }
    CHECK_EQ(bell_unregister(bell, handle, 0), BELL_CANCELLED);
    expect_quiet(bell, 3 * period);
    check_clean(bell);
}

static void periods_reach_every_target(void)
{
    bell_t *bell = make_bell(1, 0);
    for (int kind = 0; kind < LAND_MVAR; kind++) {
        landing l;
        bell_timeout_spec spec;
        int64_t first = now_ns();
        landing_open(&l, kind, bell);
        spec = timeout_spec(first, l.target);
        spec.period_ns = MS(1);
        CHECK_OK(bell_register_timeout(bell, &spec, &l.handle));
        landing_bind(&l, l.handle);
        for (uint32_t i = 0; i < 5; i++) {
            uint32_t before = l.count;
            while (l.count == before)
                pump_for(bell, &l, 1, MS(2));
            CHECK_GE(now_ns(), first + MS(1) * i);
        }
        if (landing_shows_bits(&l))
            CHECK_EQ(l.ready, BELL_TIMEOUT);
        if (kind == LAND_QUEUE || kind == LAND_POLL)
            CHECK_LE((int64_t)l.data - 1, (now_ns() - first) / MS(1));
        CHECK_EQ(bell_unregister(bell, l.handle, BELL_SYNC), BELL_CANCELLED);
        landing_look(&l);
        landing_forget(&l);
        pump_for(bell, &l, 1, MS(3));
        CHECK_EQ(l.count, 0);
        landing_close(&l);
    }
    check_clean(bell);
}

static void a_long_missed_period_of_a_nanosecond_ends(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_timeout_spec spec = timeout_spec(1, to_poll());
    bell_handle handle;
    bell_event e;
    spec.period_ns = 1;
    CHECK_OK(bell_register_timeout(bell, &spec, &handle));
    CHECK_EQ(bell_poll(bell, 0, &e, 1, SEC(10)), 1);
    CHECK_GE(e.data, 1000);
    CHECK_LE((int64_t)e.data, now_ns());
    CHECK_EQ(bell_unregister(bell, handle, 0), BELL_CANCELLED);
    spec.period_ns = 1LL << 62;
    spec.deadline_ns = 0;
    CHECK_OK(bell_register_timeout(bell, &spec, &handle));
    CHECK_EQ(next_of(bell, handle).data, 1);
    expect_quiet(bell, MS(2));
    CHECK_EQ(bell_unregister(bell, handle, 0), BELL_CANCELLED);
    check_clean(bell);
}

static void a_moved_period_goes_on_from_there(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_timeout_spec spec = timeout_spec(now_ns() + SEC(3600), to_poll());
    bell_handle handle;
    int64_t start;
    spec.period_ns = MS(2);
    CHECK_OK(bell_register_timeout(bell, &spec, &handle));
    start = now_ns() + MS(3);
    CHECK_EQ(bell_update_timeout(bell, handle, start), 0);
    next_of(bell, handle);
    CHECK_GE(now_ns(), start);
    CHECK_EQ(bell_update_timeout(bell, handle, now_ns() + SEC(3600)), 0); /* periodic ones stay armed */
    expect_quiet(bell, MS(6));
    CHECK_EQ(bell_unregister(bell, handle, 0), BELL_CANCELLED);
    check_clean(bell);
}

/* ---- slack ---- */

static void slack_shares_wake_ups(int by_config)
{
    enum { N = 1000 };
    static bell_handle handles[N];
    static int64_t deadlines[N];
    bell_config config;
    bell_t *bell;
    bell_counters c;
    int64_t start, window = MS(20), slack = MS(100);
    int told = 0;
    CHECK_OK(bell_config_init(&config, sizeof config));
    config.slack_ns = by_config ? (uint64_t)slack : 0;
    CHECK_OK(bell_create(&config, &bell));
    start = now_ns() + MS(50);
    for (int i = 0; i < N; i++) {
        bell_timeout_spec spec = timeout_spec(start + window * ((i * 7) % N) / N, to_poll());
        spec.slack_ns = by_config ? 0 : slack;
        spec.user_data = (uint64_t)i;
        deadlines[i] = spec.deadline_ns;
        CHECK_OK(bell_register_timeout(bell, &spec, &handles[i]));
    }
    while (told < N) {
        bell_event e[N];
        int32_t n = CHECK_OK(bell_poll(bell, 0, e, N, SEC(10)));
        int64_t now = now_ns();
        for (int i = 0; i < n; i++)
            CHECK_GE(now, deadlines[e[i].user_data]);
        told += n;
    }
    c = stats_of(bell);
    fprintf(stderr, "  %" PRIu64 " waits for %d timeouts\n", c.kernel_waits, N);
    CHECK_LE(c.kernel_waits, 20);
    CHECK_EQ(c.timers_fired, N);
    for (int i = 0; i < N; i++)
        CHECK_EQ(bell_unregister(bell, handles[i], 0), BELL_FIRED);
    check_clean(bell);
}

static void slack_of_a_timeout_shares_wake_ups(void) { slack_shares_wake_ups(0); }
static void slack_of_the_manager_shares_wake_ups(void) { slack_shares_wake_ups(1); }

/* Museum 39: no rounding down to a busy loop. */
static void a_short_sleep_takes_few_waits(void)
{
    static const int64_t delays[] = {1, US(999), MS(1), MS(1) + 1, US(3100)};
    bell_t *bell = make_bell(1, 0);
    for (int i = 0; i < 5; i++) {
        uint64_t best = UINT64_MAX;
        for (int k = 0; k < 10; k++) {
            uint64_t waits = stats_of(bell).kernel_waits;
            bell_handle handle = set_timeout(bell, now_ns() + delays[i], to_poll());
            next_of(bell, handle);
            waits = stats_of(bell).kernel_waits - waits;
            best = waits < best ? waits : best;
            CHECK_OK(bell_unregister(bell, handle, 0));
        }
        CHECK_LE(best, 2);
    }
    check_clean(bell);
}

/* ---- targets, queries, memory ---- */

static void every_target_gets_the_timeout(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    landing l[LAND_KINDS];
    int64_t deadline = now_ns() + MS(5);
    for (int kind = 0; kind < LAND_KINDS; kind++) {
        landing_open(&l[kind], kind, bell);
        landing_bind(&l[kind], set_timeout(bell, deadline, l[kind].target));
    }
    pump_all(bell, l, LAND_KINDS);
    CHECK_GE(now_ns(), deadline);
    for (int kind = 0; kind < LAND_KINDS; kind++) {
        CHECK_EQ(l[kind].count, 1);
        if (landing_shows_bits(&l[kind]))
            CHECK_EQ(l[kind].ready, BELL_TIMEOUT);
        if (kind == LAND_POLL || kind == LAND_QUEUE)
            CHECK_EQ(l[kind].data, 1);
        if (kind == LAND_MVAR)
            CHECK_EQ(l[kind].mvar.capability, 3);
        CHECK_EQ(landing_end(&l[kind]), BELL_FIRED);
    }
    check_clean(bell);
}

static void the_next_deadline_is_told(void)
{
    bell_t *bell = make_bell(2, 0);
    int64_t at = now_ns() + SEC(1000), deadline = 0;
    bell_handle a, b, c;
    bell_timeout_spec spec;
    int fds[2];
    CHECK_OK(bell_next_deadline(bell, 0, &deadline));
    CHECK_EQ(deadline, BELL_NEVER);
    a = set_timeout(bell, at, to_poll());
    CHECK_OK(bell_next_deadline(bell, 0, &deadline));
    CHECK_EQ(deadline, at);
    b = set_timeout(bell, at - SEC(10), to_poll());
    CHECK_OK(bell_next_deadline(bell, 0, &deadline));
    CHECK_EQ(deadline, at - SEC(10));
    make_sockets(fds);
    c = watch_until(bell, fds[0], BELL_ONESHOT, to_poll(), at - SEC(20));
    CHECK_OK(bell_next_deadline(bell, 0, &deadline));
    CHECK_EQ(deadline, at - SEC(20));
    CHECK_OK(bell_next_deadline(bell, 1, &deadline));
    CHECK_EQ(deadline, BELL_NEVER);
    CHECK_OK(bell_unregister(bell, c, 0));
    CHECK_OK(bell_unregister(bell, b, 0));
    CHECK_OK(bell_next_deadline(bell, 0, &deadline));
    CHECK_LE(deadline, at); /* an old value may still be told, a late one never */
    CHECK_OK(bell_unregister(bell, a, 0));
    spec = timeout_spec(at, to_poll());
    spec.shard = 1;
    CHECK_OK(bell_register_timeout(bell, &spec, &a));
    CHECK_OK(bell_next_deadline(bell, 1, &deadline));
    CHECK_EQ(deadline, at);
    CHECK_OK(bell_unregister(bell, a, 0));
    close_pair(fds);
    check_clean(bell);
}

static void a_million_armed_and_cancelled_leave_no_garbage(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle keep[100];
    bell_counters before, after;
    int n = rounds(1000000);
    for (int i = 0; i < 100; i++)
        keep[i] = set_timeout(bell, now_ns() + SEC(3600 + i), to_poll());
    for (int i = 0; i < 1000; i++)
        CHECK_OK(bell_unregister(bell, set_timeout(bell, now_ns() + SEC(1), to_poll()), 0));
    before = stats_of(bell);
    for (int i = 0; i < n; i++) {
        bell_handle handle = set_timeout(bell, 1LL << (40 + i % 20), to_poll());
        if (i % 3 == 0)
            CHECK_OK(bell_update_timeout(bell, handle, 1LL << 61));
        CHECK_EQ(bell_unregister(bell, handle, 0), BELL_CANCELLED);
    }
    after = stats_of(bell);
    CHECK_EQ(after.timeouts, before.timeouts);
    CHECK_LE(after.heap_bytes, before.heap_bytes + 4096);
    CHECK_EQ(after.timers_armed - before.timers_armed, n);
    CHECK_EQ(after.timers_cancelled - before.timers_cancelled, n);
    CHECK_EQ(after.kernel_waits, before.kernel_waits);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(bell_unregister(bell, keep[i], 0), BELL_CANCELLED);
    check_clean(bell);
}

/* Museum 50: cancel, move and fire at the same time. */
typedef struct mixed {
    bell_t *bell;
    bell_handle handles[64];
    uint32_t stop, fired;
} mixed;

static void *move_at_random(void *argument)
{
    mixed *m = argument;
    uint32_t random = 7;
    while (!load(&m->stop)) {
        bell_handle handle;
        int32_t result;
        random = random * 1664525 + 1013904223;
        handle = __atomic_load_n(&m->handles[random >> 26], __ATOMIC_ACQUIRE);
        if (handle == 0)
            continue;
        result = bell_update_timeout(m->bell, handle, now_ns() + (random >> 8) % 100000);
        CHECK(result == 0 || result == BELL_FIRED || result == BELL_E_STALE);
    }
    return NULL;
}

static void *count_fired(void *argument)
{
    mixed *m = argument;
    bell_event e[64];
    while (!load(&m->stop))
        add(&m->fired, (uint32_t)CHECK_OK(bell_poll(m->bell, 0, e, 64, MS(10))));
    return NULL;
}

static void museum_050_moving_cancelling_and_firing_at_once_keep_the_count(void)
{
    mixed m = {.bell = make_bell(1, 0)};
    pthread_t threads[2] = {start_thread(move_at_random, &m), start_thread(count_fired, &m)};
    uint32_t armed = 0, cancelled = 0, fired = 0;
    bell_event e[64];
    int32_t n;
    for (int i = 0; i < rounds(50000); i++) {
        bell_handle *place = &m.handles[i % 64];
        if (*place) {
            bell_handle handle = *place;
            int32_t answer = CHECK_OK(bell_unregister(m.bell, handle, 0));
            cancelled += answer == BELL_CANCELLED;
            fired += answer == BELL_FIRED;
        }
        __atomic_store_n(place, set_timeout(m.bell, now_ns() + i % 100 * 1000, to_poll()), __ATOMIC_RELEASE);
        armed++;
    }
    for (int i = 0; i < 64; i++)
        if (m.handles[i]) {
            int32_t answer = CHECK_OK(bell_unregister(m.bell, m.handles[i], 0));
            cancelled += answer == BELL_CANCELLED;
            fired += answer == BELL_FIRED;
        }
    store(&m.stop, 1);
    CHECK_OK(bell_wake(m.bell, 0));
    for (int i = 0; i < 2; i++)
        join_thread(threads[i]);
    while ((n = CHECK_OK(bell_poll(m.bell, 0, e, 64, 0))) > 0)
        m.fired += (uint32_t)n;
    fprintf(stderr, "  armed %u, cancelled %u, fired %u, returned %u\n", armed, cancelled, fired, m.fired);
    CHECK_EQ(cancelled + fired, armed);
    CHECK_LE(m.fired, fired);
    check_clean(m.bell);
}

/* ---- deadlines in a word of the caller's ---- */

static void store_deadline(int64_t *word, int64_t deadline)
{
    __atomic_store_n(word, deadline, __ATOMIC_RELAXED);
}

static int64_t load_deadline(const int64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static bell_handle share_timeout(bell_t *bell, int64_t deadline, bell_target target, int64_t *word)
{
    bell_handle handle = set_timeout(bell, deadline, target);
    CHECK_EQ(bell_share_deadline(bell, handle, word), 0);
    CHECK_EQ(*word, deadline);
    return handle;
}

static void a_store_moves_a_shared_deadline(void)
{
    bell_t *bell = make_bell(1, 0);
    for (uint32_t clock = 0; clock < 3; clock++) {
        if (clock > 0 && !has_feature(BELL_FEATURE_CLOCKS))
            continue;
        for (int i = 0; i < rounds(30); i++) {
            int64_t word = 77, got, first = bell_now(clock) + MS(2), moved = first + MS(1 + i % 3);
            bell_timeout_spec spec = timeout_spec(first, to_poll());
            bell_handle handle;
            spec.clock = clock;
            spec.slack_ns = i % 2 ? US(10) : 0;
            CHECK_OK(bell_register_timeout(bell, &spec, &handle));
            CHECK_EQ(bell_share_deadline(bell, handle, &word), 0);
            CHECK_EQ(word, first);
            store_deadline(&word, moved);
            CHECK_OK(bell_timeout_get(bell, handle, &got));
            CHECK_EQ(got, moved);
            CHECK_EQ(next_of(bell, handle).data, 1);
            CHECK_GE(bell_now(clock), moved);
            CHECK_EQ(word, moved); /* the library does not write there by itself */
            /* It has fired: what is stored means nothing, until it is armed again. */
            store_deadline(&word, i % 4 < 2 ? 0 : BELL_NEVER);
            expect_quiet(bell, i % 10 == 0 ? MS(3) : 0);
            CHECK_EQ(bell_update_timeout(bell, handle, 0), BELL_FIRED);
            CHECK_OK(bell_timeout_get(bell, handle, &got));
            CHECK_EQ(got, BELL_NEVER);
            moved = bell_now(clock) + MS(1);
            CHECK_OK(bell_rearm(bell, handle, NULL, moved));
            CHECK_EQ(word, moved);
            next_of(bell, handle);
            CHECK_GE(bell_now(clock), moved);
            CHECK_EQ(bell_unregister(bell, handle, 0), BELL_FIRED);
        }
    }
    check_clean(bell);
}

static void an_earlier_store_is_seen_when_its_old_time_has_come_and_a_call_at_once(void)
{
    bell_t *bell = make_bell(1, 0);
    for (int i = 0; i < rounds(30); i++) {
        int64_t word, soon = now_ns() + MS(2);
        bell_handle handle = share_timeout(bell, soon, to_poll(), &word);
        store_deadline(&word, i % 2 ? 1 : INT64_MIN);
        CHECK_EQ(bell_verify(bell), 0); /* nothing is wrong with that */
        CHECK_EQ(next_of(bell, handle).data, 1);
        CHECK_EQ(bell_unregister(bell, handle, 0), BELL_FIRED);

        handle = share_timeout(bell, now_ns() + SEC(3600), to_poll(), &word);
        sleeper s = {.bell = bell};
        pthread_t t = start_thread(poll_for_ever, &s);
        if (i % 2)
            AWAIT(is_asleep(&s.id));
        if (i % 3)
            store_deadline(&word, now_ns() + MS(1)); /* the driver sleeps on; the key in the heap is an hour later */
        soon = now_ns() + (i % 4 ? MS(1) : 0);
        CHECK_EQ(bell_update_timeout(bell, handle, soon), 0);
        CHECK_EQ(word, soon);
        join_thread(t); /* or it hangs */
        CHECK_EQ(s.event.handle, handle);
        CHECK_GE(s.woke, soon);
        CHECK_EQ(bell_unregister(bell, handle, 0), BELL_FIRED);
    }
    check_clean(bell);
}

static void a_shared_deadline_of_never_is_silent_until_it_is_moved(void)
{
    bell_t *bell = make_bell(1, 0);
    int64_t word, got;
    for (int how = 0; how < 3; how++) {
        bell_handle handle = share_timeout(bell, how == 0 ? BELL_NEVER : now_ns() + MS(1), to_poll(), &word);
        if (how == 1)
            store_deadline(&word, BELL_NEVER);
        else if (how == 2)
            CHECK_EQ(bell_update_timeout(bell, handle, BELL_NEVER), 0);
        CHECK_EQ(word, BELL_NEVER);
        expect_quiet(bell, MS(4));
        CHECK_OK(bell_timeout_get(bell, handle, &got));
        CHECK_EQ(got, BELL_NEVER);
        CHECK_EQ(bell_verify(bell), 0);
        int64_t moved = now_ns() + MS(1);
        CHECK_EQ(bell_update_timeout(bell, handle, moved), 0);
        CHECK_EQ(next_of(bell, handle).data, 1);
        CHECK_GE(now_ns(), moved);
        /* And by an arming anew. */
        CHECK_OK(bell_rearm(bell, handle, NULL, BELL_NEVER));
        CHECK_EQ(word, BELL_NEVER);
        expect_quiet(bell, MS(1));
        CHECK_EQ(bell_update_timeout(bell, handle, 0), 0);
        next_of(bell, handle);
        CHECK_OK(bell_rearm(bell, handle, NULL, BELL_NEVER));
        CHECK_EQ(bell_unregister(bell, handle, 0), BELL_CANCELLED);
    }
    check_clean(bell);
}

static void every_target_is_told_of_a_shared_deadline(void)
{
    bell_t *bell = make_bell(1, 0);
    int64_t words[4], moved[4];
    uint32_t word = 0;
    bell_event e[4];
    bell_handle queue, h[4];
    bell_slot *slot;
    CHECK_OK(bell_queue_create(bell, 0, NULL, &queue));
    bell_target targets[4] = {to_poll(), to_slot(), to_futex(&word), to_queue(queue)};
    for (int i = 0; i < 4; i++) {
        h[i] = share_timeout(bell, now_ns() + US(100), targets[i], &words[i]);
        moved[i] = now_ns() + MS(2);
        store_deadline(&words[i], moved[i]);
    }
    CHECK_OK(bell_slot_map(bell, h[1], &slot));
    int polled = 0;
    int64_t limit = now_ns() + PATIENCE;
    while (!(polled && load(&slot->rd) & BELL_TIMEOUT && load(&word) & BELL_TIMEOUT &&
             bell_queue_drain(bell, queue, e, 4) == 1)) {
        CHECK(now_ns() < limit);
        polled += CHECK_OK(bell_poll(bell, 0, e, 4, MS(1)));
    }
    CHECK_GE(now_ns(), moved[0]);
    CHECK_EQ(polled, 1);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(bell_unregister(bell, h[i], BELL_SYNC), BELL_FIRED);
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    check_clean(bell);
}

/* The page with the word is gone at once: whoever looks there again ends this program. */
static void is_a_shared_deadline_never_read_after_its_registration(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (uint32_t threads = 0; threads < 2; threads++) {
        bell_t *bell = make_bell(1, threads);
        for (int i = 0; i < rounds(3000); i++) {
            int64_t *word = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            CHECK(word != MAP_FAILED);
            uint32_t *told = (uint32_t *)(word + 1);
            bell_timeout_spec spec = timeout_spec(now_ns() + i % 20 * 1000, to_futex(told));
            bell_handle handle;
            spec.flags = i % 3 == 2 ? BELL_AUTO_RELEASE : 0;
            CHECK_OK(bell_register_timeout(bell, &spec, &handle));
            int32_t s = bell_share_deadline(bell, handle, word);
            CHECK(s == 0 || (s == BELL_E_STALE && spec.flags));
            store_deadline(word, now_ns() + i % 7 * 3000);
            if (threads == 0)
                CHECK_EQ(bell_poll(bell, 0, (bell_event[1]){{0}}, 1, i % 10 * 1000), 0);
            int32_t r = bell_unregister(bell, handle, BELL_SYNC);
            CHECK(r == BELL_CANCELLED || r == BELL_FIRED || (r == BELL_E_STALE && spec.flags));
            if (r == BELL_E_STALE)
                AWAIT(load(told) & BELL_TIMEOUT); /* the last touch of all */
            CHECK_EQ(munmap(word, page), 0);
        }
        /* And one that goes with its manager. */
        int64_t *word = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(word != MAP_FAILED);
        uint32_t told = 0;
        share_timeout(bell, now_ns() + MS(1), to_futex(&told), word);
        CHECK_OK(bell_destroy(bell, 0));
        CHECK_EQ(munmap(word, page), 0);
    }
}

static void a_deadline_can_be_shared_at_any_time_and_again(void)
{
    bell_t *bell = make_bell(1, 0);
    int64_t words[2] = {77, 77}, got;
    /* Silent, then shared, then moved. */
    bell_handle handle = set_timeout(bell, BELL_NEVER, to_poll());
    CHECK_EQ(bell_share_deadline(bell, handle, &words[0]), 0);
    CHECK_EQ(words[0], BELL_NEVER);
    CHECK_EQ(bell_update_timeout(bell, handle, now_ns() + MS(1)), 0);
    /* In another word: what is stored in the first means nothing. */
    CHECK_EQ(bell_share_deadline(bell, handle, &words[1]), 0);
    CHECK_EQ(words[1], words[0]);
    store_deadline(&words[0], BELL_NEVER);
    CHECK_OK(bell_timeout_get(bell, handle, &got));
    CHECK_EQ(got, words[1]);
    next_of(bell, handle);
    CHECK_GE(now_ns(), words[1]);
    /* When it has fired. */
    CHECK_EQ(bell_share_deadline(bell, handle, &words[0]), 0);
    CHECK_EQ(words[0], words[1]);
    expect_quiet(bell, MS(1));
    CHECK_EQ(bell_update_timeout(bell, handle, 0), BELL_FIRED);
    CHECK_OK(bell_rearm(bell, handle, NULL, 5));
    CHECK_EQ(words[0], 5);
    next_of(bell, handle);
    CHECK_EQ(bell_unregister(bell, handle, 0), BELL_FIRED);
    /* One that was never shared, and fired. */
    handle = set_timeout(bell, 3, to_poll());
    next_of(bell, handle);
    CHECK_EQ(bell_share_deadline(bell, handle, &words[0]), 0);
    CHECK_EQ(words[0], 3);
    expect_quiet(bell, MS(1));
    CHECK_EQ(bell_update_timeout(bell, handle, 0), BELL_FIRED);
    CHECK_EQ(bell_unregister(bell, handle, 0), BELL_FIRED);
    check_clean(bell);
}

typedef struct shared {
    int64_t words[16];
    uint32_t stop, stores;
} shared;

static void *move_all_later(void *argument)
{
    shared *s = argument;
    while (!load(&s->stop)) {
        int64_t later = now_ns() + MS(1);
        for (int i = 0; i < 16; i++)
            store_deadline(&s->words[i], later + i);
        add(&s->stores, 1);
    }
    return NULL;
}

/* While they are moved all the time none fires, and whoever drives gets on. */
static void do_stores_from_other_threads_hold_nobody_up(void)
{
    shared s = {0};
    bell_t *bell = make_bell(1, 0);
    bell_handle h[16];
    bell_event e[16];
    int told = 0;
    for (int i = 0; i < 16; i++)
        h[i] = share_timeout(bell, now_ns() + SEC(1) + i, to_poll(), &s.words[i]);
    pthread_t threads[2] = {start_thread(move_all_later, &s), start_thread(move_all_later, &s)};
    for (int i = 0; i < rounds(2000); i++) {
        int32_t n = CHECK_OK(bell_poll(bell, 0, e, 16, US(i % 50)));
        for (int k = 0; k < n; k++) {
            /* Both threads were off the CPU for a millisecond. */
            CHECK_EQ(e[k].ready, BELL_TIMEOUT);
            for (int j = 0; j < 16; j++)
                if (h[j] == e[k].handle)
                    CHECK_OK(bell_rearm(bell, h[j], NULL, now_ns() + MS(1)));
        }
        CHECK_EQ(bell_verify(bell), 0);
    }
    AWAIT(load(&s.stores) > 100);
    store(&s.stop, 1);
    for (int i = 0; i < 2; i++)
        join_thread(threads[i]);
    for (int64_t limit = now_ns() + PATIENCE; told < 16 && now_ns() < limit;)
        told += CHECK_OK(bell_poll(bell, 0, e, 16, MS(10)));
    CHECK_EQ(told, 16);
    for (int i = 0; i < 16; i++) {
        CHECK_GE(now_ns(), load_deadline(&s.words[i]));
        CHECK_EQ(bell_unregister(bell, h[i], 0), BELL_FIRED);
    }
    check_clean(bell);
}

int main(void)
{
    RUN(no_sample_is_early);
    RUN(the_clocks_are_those_of_the_system);
    RUN(a_deadline_of_each_clock_ends_a_sleep_without_end);
    RUN(zero_fires_at_once_and_once);
    RUN(the_far_future_is_silent);
    RUN(bad_timeouts_are_refused);
    RUN(museum_053_equal_deadlines_fire_in_the_order_of_arming);
    RUN(different_deadlines_fire_in_their_order);
    RUN(a_moved_deadline_is_the_one_that_counts);
    RUN(moving_to_never_silences_and_back_revives);
    RUN(rearming_fires_again);
    RUN(rearming_before_it_fired_moves_it);
    RUN(a_deadline_that_passes_is_told_alone);
    RUN(readiness_comes_first_and_the_deadline_no_more);
    RUN(museum_021_readiness_wins_a_tie);
    RUN(a_deadline_serves_as_idle_timeout);
    RUN(rearming_an_fd_gives_it_a_new_deadline_or_none);
    RUN(a_sleeping_driver_notices_an_earlier_deadline);
    RUN(cancelling_the_earliest_leaves_the_next_exact);
    RUN(the_library_threads_fire_too);
    RUN(a_period_does_not_drift_and_merges_what_was_missed);
    RUN(periods_reach_every_target);
    RUN(a_long_missed_period_of_a_nanosecond_ends);
    RUN(a_moved_period_goes_on_from_there);
    RUN(slack_of_a_timeout_shares_wake_ups);
    RUN(slack_of_the_manager_shares_wake_ups);
    RUN(a_short_sleep_takes_few_waits);
    RUN(every_target_gets_the_timeout);
    RUN(the_next_deadline_is_told);
    RUN(a_million_armed_and_cancelled_leave_no_garbage);
    RUN(museum_050_moving_cancelling_and_firing_at_once_keep_the_count);
    RUN(a_store_moves_a_shared_deadline);
    RUN(an_earlier_store_is_seen_when_its_old_time_has_come_and_a_call_at_once);
    RUN(a_shared_deadline_of_never_is_silent_until_it_is_moved);
    RUN(every_target_is_told_of_a_shared_deadline);
    RUN(a_deadline_can_be_shared_at_any_time_and_again);
    RUN(is_a_shared_deadline_never_read_after_its_registration);
    RUN(do_stores_from_other_threads_hold_nobody_up);
    return 0;
}
