/* Museum E: timers. */
#define _GNU_SOURCE
#include "museum.h"

/* mio#1614, smol#109: less than a millisecond became 0 and spun. calloop#142: a millisecond was added to all. */
static void museum_039_short_times_are_kept_without_spinning(void)
{
    static const int64_t times[] = {0, 1, US(999), MS(1), MS(1) + 1, US(3100)};
    for (int i = 0; i < 6; i++) {
        bell_t *bell = make_bell(1, 0);
        int64_t best = INT64_MAX, enough = has_feature(BELL_FEATURE_NANOSECONDS) && !slow() ? US(900) : INT64_MAX;
        /* On a busy machine a good one may take a while to come. */
        for (int k = 0; k < rounds(20) || (best >= enough && k < 2000); k++) {
            bell_event e;
            int64_t deadline = now_ns() + times[i];
            uint64_t waits = stats_of(bell).kernel_waits;
            bell_handle h = set_timeout(bell, deadline, to_poll());
            int32_t n = bell_poll(bell, 0, &e, 1, SEC(10));
            int64_t late = now_ns() - deadline;
            CHECK_EQ(n, 1);
            CHECK_GE(late, 0); /* never early */
            CHECK_LE(stats_of(bell).kernel_waits - waits, 2);
            best = late < best ? late : best;
            CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
        }
        fprintf(stderr, "  %" PRId64 " ns: %" PRId64 " ns late at best\n", times[i], best);
        CHECK_LT(best, enough); /* no millisecond is added */
        check_clean(bell);
    }
}

/* mio#1657, tokio#3551, golang#36202: what overflows fired at once, or ended the process. */
static void museum_040_times_at_the_borders_neither_fire_nor_overflow(void)
{
    static const int64_t far[] = {MS(INT32_MAX) - 1, MS(INT32_MAX) + 1, MS((int64_t)1 << 32), INT64_MAX / 2,
                                  (int64_t)1 << 62, INT64_MAX - 2, BELL_NEVER - 1};
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    bell_handle h[16];
    int64_t deadline;
    int n = 0;
    for (int i = 0; i < 7; i++)
        for (uint32_t clock = 0; clock < (has_feature(BELL_FEATURE_CLOCKS) ? 2u : 1u); clock++) {
            int64_t now = bell_now(clock);
            bell_timeout_spec spec = timeout_spec(far[i] > BELL_NEVER - 1 - now ? far[i] : now + far[i], to_poll());
            spec.clock = clock;
            CHECK_OK(bell_register_timeout(bell, &spec, &h[n]));
            CHECK_EQ(bell_poll(bell, 0, &e, 1, US(200)), 0);
            CHECK_EQ(bell_timeout_get(bell, h[n++], &deadline), 0);
            CHECK_EQ(deadline, spec.deadline_ns);
        }
    bell_handle never = set_timeout(bell, BELL_NEVER, to_poll()), zero = set_timeout(bell, 0, to_poll());
    CHECK_EQ(next_event(bell).handle, zero);
    expect_quiet(bell, MS(2));
    CHECK_EQ(bell_update_timeout(bell, never, 0), 0); /* it was never armed, and can be */
    CHECK_EQ(next_event(bell).handle, never);
    for (int i = 0; i < n; i++)
        CHECK_EQ(bell_unregister(bell, h[i], 0), BELL_CANCELLED);
    CHECK_EQ(bell_unregister(bell, never, 0), BELL_FIRED);
    CHECK_EQ(bell_unregister(bell, zero, 0), BELL_FIRED);
    check_clean(bell);
}

/* nodejs#22149, tokio#8334: after so many days of uptime intervals died, wheels wrapped. The clock starts just before
 * each power of two of seconds, and time passes as it is waited for. */
static void museum_041_every_uptime_is_as_good_as_another(void)
{
    for (int bit = 0; bit < 33; bit++) {
        hook_clock_ns = SEC((int64_t)1 << bit) - MS(500);
        bell_t *bell = make_bell(1, 0);
        bell_event e;
        int64_t start = hook_clock_ns;
        bell_timeout_spec spec = timeout_spec(start + MS(100), to_poll());
        bell_handle once = set_timeout(bell, start + MS(450), to_poll()), periodic;
        spec.period_ns = MS(100);
        CHECK_OK(bell_register_timeout(bell, &spec, &periodic));
        for (int i = 1, seen = 0; i <= 10; i++) {
            int32_t n = bell_poll(bell, 0, &e, 1, BELL_NEVER);
            CHECK_EQ(n, 1);
            if (e.handle == once) {
                CHECK_EQ(hook_clock_ns, start + MS(450));
                CHECK_EQ(seen++, 0);
                i--;
            } else {
                CHECK_EQ(hook_clock_ns, start + MS(100) * i); /* to the nanosecond */
                CHECK_EQ(e.data, 1);
            }
        }
        CHECK_EQ(bell_unregister(bell, once, 0), BELL_FIRED);
        CHECK_EQ(bell_unregister(bell, periodic, 0), BELL_CANCELLED);
        check_clean(bell);
    }
    hook_clock_ns = 0;
}

typedef struct sleeper {
    bell_t *bell;
    uint32_t id;
    int64_t fired_at, deadline;
} sleeper;

static void *sleep_long(void *argument)
{
    sleeper *s = argument;
    bell_event e;
    store(&s->id, thread_id());
    CHECK_EQ(bell_poll(s->bell, 0, &e, 1, SEC(30)), 1);
    s->fired_at = now_ns();
    return NULL;
}

/* tokio#3190, golang#44868: an earlier timer did not wake the sleeper. */
static void museum_043_an_earlier_timer_wakes_the_sleeper(void)
{
    int64_t best = INT64_MAX;
    for (int i = 0; i < rounds(20); i++) {
        sleeper s = {.bell = make_bell(1, 0)};
        bell_handle far = set_timeout(s.bell, now_ns() + SEC(20), to_poll());
        pthread_t thread = start_thread(sleep_long, &s);
        if (i % 2)
            AWAIT(is_asleep(&s.id));
        s.deadline = now_ns() + MS(1);
        bell_handle h = set_timeout(s.bell, s.deadline, to_poll());
        join_thread(thread);
        CHECK_GE(s.fired_at, s.deadline);
        CHECK_LT(s.fired_at - s.deadline, SEC(10));
        best = s.fired_at - s.deadline < best ? s.fired_at - s.deadline : best;
        CHECK_EQ(bell_unregister(s.bell, h, 0), BELL_FIRED);
        CHECK_EQ(bell_unregister(s.bell, far, 0), BELL_CANCELLED);
        check_clean(s.bell);
    }
    CHECK_LT(best, MS(50));
}

/* libevent#1727: the earliest was taken away by another thread. */
static void museum_044_the_earliest_is_taken_away_under_a_sleeper(void)
{
    for (int i = 0; i < rounds(20); i++) {
        sleeper s = {.bell = make_bell(1, 0)};
        s.deadline = now_ns() + MS(8);
        bell_handle first = set_timeout(s.bell, now_ns() + MS(4), to_poll());
        bell_handle next = set_timeout(s.bell, s.deadline, to_poll());
        pthread_t thread = start_thread(sleep_long, &s);
        AWAIT(is_asleep(&s.id));
        uint64_t waits = stats_of(s.bell).kernel_waits;
        int32_t answer = CHECK_OK(bell_unregister(s.bell, first, 0));
        join_thread(thread);
        if (answer == BELL_CANCELLED && s.fired_at >= s.deadline) {
            CHECK_LE(stats_of(s.bell).kernel_waits - waits, 2); /* one turn in vain */
            CHECK_EQ(bell_unregister(s.bell, next, 0), BELL_FIRED);
        } else { /* it had fired already, on a slow machine */
            CHECK_EQ(answer, BELL_FIRED);
            CHECK_OK(bell_unregister(s.bell, next, 0));
        }
        check_clean(s.bell);
    }
}

static int64_t jump_ns;

static void jump(void)
{
    hook_clock_ns += jump_ns;
    jump_ns = 0;
}

/* libevent 9443868d, tokio#8342: after a suspend the stored deadline is past, and a relative sleep is too long. */
static void museum_045_a_jump_of_the_clock_fires_what_is_overdue_and_nothing_early(void)
{
    hook_clock_ns = SEC(1000);
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    bell_handle old = set_timeout(bell, hook_clock_ns + SEC(1800), to_poll());
    hook_clock_ns += SEC(3600);
    bell_handle fresh = set_timeout(bell, hook_clock_ns + SEC(5), to_poll());
    CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 1);
    CHECK_EQ(e.handle, old);
    int64_t start = hook_clock_ns;
    CHECK_EQ(bell_poll(bell, 0, &e, 1, BELL_NEVER), 1);
    CHECK_EQ(e.handle, fresh);
    CHECK_EQ(hook_clock_ns, start + SEC(5));
    /* and while it waits: woken by an fd, an hour later than it thinks */
    int fd = make_eventfd();
    bell_handle h = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_slot());
    CHECK_EQ(bell_update_timeout(bell, old, hook_clock_ns + SEC(600)), BELL_FIRED);
    CHECK_EQ(bell_rearm(bell, old, NULL, hook_clock_ns + SEC(600)), 0);
    CHECK_EQ(eventfd_write(fd, 1), 0);
    jump_ns = SEC(3600);
    hook_after_wait = jump;
    CHECK_EQ(bell_poll(bell, 0, &e, 1, BELL_NEVER), 1);
    hook_after_wait = NULL;
    CHECK_EQ(e.handle, old);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    CHECK_EQ(bell_unregister(bell, old, 0), BELL_FIRED);
    CHECK_EQ(bell_unregister(bell, fresh, 0), BELL_FIRED);
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
    hook_clock_ns = 0;
}

/* nginx c108f04e8: a timer in the past while the clock stands still. */
static void museum_046_a_clock_that_stands_still_does_not_spin(void)
{
    hook_clock_ns = SEC(5000);
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    bell_handle h = set_timeout(bell, hook_clock_ns - 1, to_poll());
    bell_handle future = set_timeout(bell, hook_clock_ns + 1, to_poll());
    CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 1);
    CHECK_EQ(e.handle, h);
    uint64_t waits = stats_of(bell).kernel_waits;
    for (int i = 0; i < 10; i++)
        CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 0);
    CHECK_EQ(stats_of(bell).kernel_waits - waits, 10); /* one look for each call */
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    CHECK_EQ(bell_unregister(bell, future, 0), BELL_CANCELLED);
    check_clean(bell);
    hook_clock_ns = 0;
}

/* libuv#922: a wait that was capped at 32 bits used its old timeout again. */
static void museum_047_sixty_days_are_waited_for_at_once(void)
{
    const int64_t days = SEC(86400);
    hook_clock_ns = SEC(77);
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    int64_t deadline = hook_clock_ns + 60 * days + 1;
    bell_handle h = set_timeout(bell, deadline, to_poll());
    hook_longest_wait_ns = 0;
    uint64_t waits = stats_of(bell).kernel_waits;
    CHECK_EQ(bell_poll(bell, 0, &e, 1, BELL_NEVER), 1);
    CHECK_EQ(e.handle, h);
    CHECK_GE(hook_clock_ns, deadline);
    CHECK_LE(hook_clock_ns - deadline, MS(1));
    CHECK_LE(stats_of(bell).kernel_waits - waits, 2);
    CHECK_GE(hook_longest_wait_ns, 60 * days);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    check_clean(bell);
    hook_clock_ns = 0;
}

/* twisted#9780, #1232: later was ignored, earlier fired twice. */
static void museum_049_a_moved_timer_fires_once_at_the_last_time_that_was_accepted(void)
{
    hook_clock_ns = SEC(10);
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    bell_handle h = set_timeout(bell, hook_clock_ns + MS(10), to_poll());
    for (int i = 0; i < rounds(2000); i++) {
        int64_t last = 0;
        CHECK_OK(bell_rearm(bell, h, NULL, hook_clock_ns + MS(10)));
        for (int k = 0; k < 4; k++) { /* earlier, later, the same */
            last = hook_clock_ns + MS(1) + (int64_t)(museum_random() % 20) * MS(1);
            CHECK_EQ(bell_update_timeout(bell, h, last), 0);
        }
        CHECK_EQ(bell_poll(bell, 0, &e, 1, BELL_NEVER), 1);
        CHECK_EQ(e.handle, h);
        CHECK_EQ(hook_clock_ns, last);
        CHECK_EQ(bell_update_timeout(bell, h, last + MS(5)), BELL_FIRED);
        CHECK_EQ(bell_poll(bell, 0, &e, 1, MS(50)), 0); /* it is over, and says so */
    }
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    check_clean(bell);
    hook_clock_ns = 0;
}

int main(void)
{
    RUN(museum_039_short_times_are_kept_without_spinning);
    RUN(museum_040_times_at_the_borders_neither_fire_nor_overflow);
    RUN(museum_041_every_uptime_is_as_good_as_another);
    RUN(museum_043_an_earlier_timer_wakes_the_sleeper);
    RUN(museum_044_the_earliest_is_taken_away_under_a_sleeper);
    RUN(museum_045_a_jump_of_the_clock_fires_what_is_overdue_and_nothing_early);
    RUN(museum_046_a_clock_that_stands_still_does_not_spin);
    RUN(museum_047_sixty_days_are_waited_for_at_once);
    RUN(museum_049_a_moved_timer_fires_once_at_the_last_time_that_was_accepted);
    return 0;
}
