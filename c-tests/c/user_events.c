#define _GNU_SOURCE 1
/* Does what bell_post and bell_wake announce arrive, merged, visible, and from anywhere? */
#include "check.h"

static void every_target_gets_the_post(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    landing l[LAND_KINDS];
    for (int kind = 0; kind < LAND_KINDS; kind++) {
        bell_handle handle = 0;
        landing_open(&l[kind], kind, bell);
        CHECK_OK(bell_register_user(bell, 0, &l[kind].target, 1000 + (uint64_t)kind, &handle));
        landing_bind(&l[kind], handle);
    }
    pump(bell, l, LAND_KINDS);
    for (int kind = 0; kind < LAND_KINDS; kind++)
        CHECK_EQ(l[kind].count, 0);
    for (uint32_t round = 1; round <= 3; round++) {
        for (int kind = 0; kind < LAND_KINDS; kind++)
            CHECK_EQ(bell_post(bell, l[kind].handle, round), 0);
        pump_all(bell, l, LAND_KINDS);
        pump(bell, l, LAND_KINDS);
        for (int kind = 0; kind < LAND_KINDS; kind++) {
            CHECK_EQ(l[kind].count, 1);
            if (landing_shows_bits(&l[kind]))
                CHECK_EQ(l[kind].ready, BELL_USER);
            if (kind == LAND_POLL || kind == LAND_QUEUE) {
                CHECK_EQ(l[kind].data, round);
                CHECK_EQ(l[kind].user_data, 1000 + kind);
            }
            landing_forget(&l[kind]);
            if (kind == LAND_MVAR) /* the others need no arming */
                landing_rearm(&l[kind], BELL_NEVER);
        }
    }
    for (int kind = 0; kind < LAND_KINDS; kind++)
        landing_end(&l[kind]);
    check_clean(bell);
}

static void the_library_threads_deliver_posts(void)
{
    bell_t *bell = make_bell_ghc(2, 2);
    for (int kind = 1; kind < LAND_KINDS; kind++)
        for (uint32_t shard = 0; shard < 2; shard++) {
            landing l;
            bell_handle handle;
            landing_open(&l, kind, bell);
            CHECK_OK(bell_register_user(bell, shard, &l.target, 0, &handle));
            landing_bind(&l, handle);
            for (int i = 0; i < 20; i++) {
                CHECK_EQ(bell_post(bell, handle, 1), 0);
                AWAIT((landing_look(&l), l.count > 0));
                CHECK_EQ(l.count, 1);
                landing_forget(&l);
                if (kind == LAND_MVAR)
                    landing_rearm(&l, BELL_NEVER);
            }
            landing_end(&l);
        }
    check_clean(bell);
}

static void posts_merge_their_bits(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL), polled = make_user(bell, to_poll()), queued = make_user(bell, to_queue(queue));
    bell_event e[4];
    for (int i = 0; i < 32; i++) {
        CHECK_EQ(bell_post(bell, polled, 1U << i), 0);
        CHECK_EQ(bell_post(bell, queued, 1U << i), 0);
    }
    e[0] = next_event(bell);
    CHECK_EQ(e[0].handle, polled);
    CHECK_EQ(e[0].ready, BELL_USER);
    CHECK_EQ(e[0].data, UINT32_MAX);
    expect_quiet(bell, MS(2));
    CHECK_EQ(bell_queue_drain(bell, queue, e, 4), 1);
    CHECK_EQ(e[0].handle, queued);
    CHECK_EQ(e[0].data, UINT32_MAX);
    for (uint32_t bits = 1; bits < 8; bits *= 2) { /* in the list of news, where each turn brings it */
        CHECK_EQ(bell_post(bell, polled, bits), 0);
        CHECK_EQ(bell_post(bell, queued, bits), 0);
        CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), 0);
    }
    CHECK_EQ(next_event(bell).data, 7);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 4), 1);
    CHECK_EQ(e[0].data, 7);
    CHECK_EQ(bell_post(bell, polled, 0), 0); /* no bits, but news all the same */
    e[0] = next_event(bell);
    CHECK_EQ(e[0].ready, BELL_USER);
    CHECK_EQ(e[0].data, 0);
    CHECK_OK(bell_unregister(bell, polled, 0));
    CHECK_OK(bell_unregister(bell, queued, 0));
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    check_clean(bell);
}

static void posts_while_an_mvar_is_spent_are_kept(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    fake_mvar first = {0}, second = {0}, third = {0};
    bell_handle user = make_user(bell, to_mvar(&first, 0));
    bell_target target = to_mvar(&second, 0);
    CHECK_EQ(bell_post(bell, user, 1), 0);
    turn(bell);
    CHECK_EQ(first.puts, 1);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(bell_post(bell, user, 2), 0);
    turn(bell);
    CHECK_EQ(first.puts, 1);
    CHECK_EQ(bell_rearm(bell, user, NULL, BELL_NEVER), -EINVAL);
    CHECK_EQ(bell_rearm(bell, user, &target, now_ns()), -EINVAL);
    CHECK_OK(bell_rearm(bell, user, &target, BELL_NEVER));
    turn(bell);
    CHECK_EQ(second.puts, 1); /* the kept ones, once */
    target = to_mvar(&third, 0);
    CHECK_OK(bell_rearm(bell, user, &target, BELL_NEVER));
    turn(bell);
    CHECK_EQ(third.puts, 0);
    CHECK_EQ(bell_unregister(bell, user, 0), BELL_CANCELLED);
    check_clean(bell);
    CHECK_EQ(first.puts + second.puts + third.puts, 2);
}

/* Drained from neither the old queue nor lost: a new target takes over what the old one has not shown. */
static void a_new_target_gets_the_posts_that_nobody_has_seen(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL), user = make_user(bell, to_queue(queue));
    bell_target target = to_poll();
    bell_event e;
    CHECK_EQ(bell_post(bell, user, 4), 0);
    turn(bell);
    CHECK_OK(bell_rearm(bell, user, &target, BELL_NEVER));
    CHECK_EQ(bell_post(bell, user, 1), 0);
    CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), 0);
    e = next_event(bell);
    CHECK_EQ(e.handle, user);
    CHECK_EQ(e.data, 5);
    CHECK_OK(bell_unregister(bell, user, 0));
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    check_clean(bell);
}

/* The driver sleeps while the posts are kept: arming must wake it. */
static void kept_posts_reach_a_driver_that_sleeps(void)
{
    bell_t *bell = make_bell_ghc(1, 1);
    fake_mvar mvars[3] = {{0}};
    bell_handle user = make_user(bell, to_mvar(&mvars[0], 0));
    for (int round = 0; round < 2; round++) {
        bell_target target = to_mvar(&mvars[round + 1], 0);
        uint64_t waits;
        CHECK_EQ(bell_post(bell, user, 1), 0);
        AWAIT(load(&mvars[round].puts) == 1);
        waits = stats_of(bell).kernel_waits;
        CHECK_EQ(bell_post(bell, user, 1), 0); /* kept, once the driver has looked and sleeps again */
        AWAIT(stats_of(bell).kernel_waits > waits);
        CHECK_OK(bell_rearm(bell, user, &target, BELL_NEVER));
        AWAIT(load(&mvars[round + 1].puts) == 1);
        target = to_mvar(&mvars[round + 1], 0);
        if (round == 0) {
            mvars[1].puts = 0;
            CHECK_OK(bell_rearm(bell, user, &target, BELL_NEVER));
        }
    }
    CHECK_EQ(bell_unregister(bell, user, BELL_SYNC), BELL_FIRED);
    check_clean(bell);
}

static void bad_posts_are_refused(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle user = make_user(bell, to_poll()), queue = make_queue(bell, NULL), fd, timeout, handle = 5;
    bell_target target = to_poll(), none = {.kind = BELL_TARGET_NONE};
    int fds[2];
    make_sockets(fds);
    fd = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
    timeout = set_timeout(bell, BELL_NEVER, to_poll());
    CHECK_EQ(bell_post(bell, fd, 1), -EINVAL);
    CHECK_EQ(bell_post(bell, queue, 1), -EINVAL);
    CHECK_EQ(bell_post(bell, timeout, 1), -EINVAL);
    CHECK_EQ(bell_post(bell, 0, 1), BELL_E_STALE);
    CHECK_EQ(bell_post(bell, UINT64_MAX, 1), BELL_E_STALE);
    CHECK_EQ(bell_post(NULL, user, 1), BELL_E_STALE);
    CHECK_EQ(bell_register_user(bell, 0, NULL, 0, &handle), -EINVAL);
    CHECK_EQ(bell_register_user(bell, 0, &none, 0, &handle), -EINVAL);
    CHECK_EQ(bell_register_user(bell, 1, &target, 0, &handle), -EINVAL);
    CHECK_EQ(bell_register_user(bell, 0, &target, 0, NULL), -EINVAL);
    CHECK_EQ(handle, 5);
    CHECK_EQ(bell_modify(bell, user, BELL_READ, BELL_ONESHOT), -EINVAL);
    CHECK_OK(bell_unregister(bell, user, 0));
    CHECK_EQ(bell_post(bell, user, 1), BELL_E_STALE);
    expect_quiet(bell, MS(2));
    CHECK_OK(bell_unregister(bell, fd, 0));
    CHECK_OK(bell_unregister(bell, timeout, 0));
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    close_pair(fds);
    check_clean(bell);
    CHECK_EQ(bell_post(bell, user, 1), BELL_E_STALE);
    CHECK_EQ(bell_wake(bell, 0), BELL_E_STALE);
}

/* ---- the payload ---- */

typedef struct mail {
    bell_t *bell;
    bell_handle user;
    uint64_t letters[4]; /* plain memory: the post must publish it */
    int rounds;
    uint32_t next_writer, read_back;
} mail;

static void *post_letters(void *argument)
{
    mail *m = argument;
    uint32_t me = add(&m->next_writer, 1);
    for (int i = 1; i <= m->rounds; i++) {
        while (me == 0 && __atomic_load_n(&m->read_back, __ATOMIC_ACQUIRE) + 1 < (uint32_t)i) {
        }
        __atomic_store_n(&m->letters[me], (uint64_t)i, __ATOMIC_RELAXED);
        CHECK_EQ(bell_post(m->bell, m->user, 1U << me), 0);
    }
    return NULL;
}

/* Museum 75: also through a post that merged with another. */
static void museum_075_what_was_written_before_a_post_is_seen(void)
{
    mail m = {.bell = make_bell(1, 0), .rounds = rounds(20000)};
    uint64_t seen[4] = {0};
    pthread_t writers[4];
    m.user = make_user(m.bell, to_poll());
    for (int i = 0; i < 4; i++)
        writers[i] = start_thread(post_letters, &m);
    for (;;) {
        bell_event e = next_event(m.bell);
        int done = 0;
        for (int i = 0; i < 4; i++) {
            uint64_t letter = __atomic_load_n(&m.letters[i], __ATOMIC_RELAXED);
            if (e.data >> i & 1) {
                CHECK_GT(letter, 0);
                CHECK_GE(letter, seen[i]);
            }
            /* The first writer posts anew only when its last letter was read: none may be lost. */
            if (i == 0 && e.data & 1) {
                CHECK_EQ(letter, seen[0] + 1);
                store(&m.read_back, (uint32_t)letter);
            }
            if (e.data >> i & 1)
                seen[i] = letter;
            done += seen[i] == (uint64_t)m.rounds;
        }
        if (done == 4)
            break; /* the last post of each writer has been told with its letter */
    }
    for (int i = 0; i < 4; i++)
        join_thread(writers[i]);
    CHECK_OK(bell_unregister(m.bell, m.user, 0));
    check_clean(m.bell);
}

/* ---- signals ---- */

static bell_t *signal_bell;
static bell_handle signal_user;
static uint32_t signal_count, signal_errors;

static void post_from_handler(int signal_number)
{
    int saved = errno;
    (void)signal_number;
    add(&signal_count, 1);
    if (bell_post(signal_bell, signal_user, 4) != 0)
        add(&signal_errors, 1);
    errno = saved;
}

static timer_t start_signals(int signal_number, int64_t period_ns)
{
    struct sigevent how = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = signal_number};
    struct itimerspec when = {{0, period_ns}, {0, period_ns}};
    timer_t timer;
    CHECK(timer_create(CLOCK_MONOTONIC, &how, &timer) == 0);
    CHECK(timer_settime(timer, 0, &when, NULL) == 0);
    return timer;
}

static void a_signal_handler_may_post(void)
{
    struct sigaction action = {.sa_handler = post_from_handler}, old;
    uint32_t told = 0, wanted = slow() ? 20 : 500, last = 0;
    int interrupted = 0, fds[2];
    bell_handle busy;
    timer_t timer;
    signal_bell = make_bell(1, 0);
    signal_user = make_user(signal_bell, to_poll());
    signal_count = signal_errors = 0;
    make_sockets(fds);
    busy = watch(signal_bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
    CHECK(sigaction(SIGUSR1, &action, &old) == 0);
    timer = start_signals(SIGUSR1, MS(1));
    while (told < wanted) {
        bell_event e;
        int32_t n = bell_poll(signal_bell, 0, &e, 1, SEC(60));
        if (n == -EINTR) { /* told to the caller; the post is not lost */
            interrupted++;
            continue;
        }
        CHECK_LE(n, 1);
        CHECK_GE(n, 0);
        if (n == 1) {
            CHECK_EQ(e.handle, signal_user);
            CHECK_EQ(e.ready, BELL_USER);
            CHECK_EQ(e.data, 4);
            told++;
        }
        /* The handler interrupts calls that hold the library's locks, too. */
        for (int i = 0; i < 20; i++) {
            CHECK_OK(bell_rearm(signal_bell, busy, NULL, now_ns() + SEC(1000)));
            last = load(&signal_count);
        }
    }
    CHECK(timer_delete(timer) == 0);
    CHECK(sigaction(SIGUSR1, &old, NULL) == 0);
    fprintf(stderr, "  %u signals, %u events, %d times EINTR\n", last, told, interrupted);
    CHECK_LE(told, load(&signal_count));
    CHECK_EQ(signal_errors, 0);
    CHECK_OK(bell_unregister(signal_bell, busy, 0));
    CHECK_OK(bell_unregister(signal_bell, signal_user, 0));
    close_pair(fds);
    check_clean(signal_bell);
}

/* The signal interrupts the posting thread in the middle of the same post. */
static void a_handler_may_interrupt_a_post(void)
{
    struct sigaction action = {.sa_handler = post_from_handler}, old;
    int64_t end = now_ns() + MS(slow() ? 500 : 300);
    timer_t timer;
    bell_event e;
    uint64_t bits = 0;
    signal_bell = make_bell(1, 1);
    bell_handle queue = make_queue(signal_bell, NULL);
    signal_user = make_user(signal_bell, to_queue(queue));
    signal_count = signal_errors = 0;
    CHECK(sigaction(SIGUSR1, &action, &old) == 0);
    timer = start_signals(SIGUSR1, US(100));
    while (now_ns() < end)
        for (int i = 0; i < 100; i++) {
            CHECK_EQ(bell_post(signal_bell, signal_user, 1), 0);
            if (i % 10 == 0 && bell_queue_drain(signal_bell, queue, &e, 1) == 1)
                bits |= e.data;
        }
    CHECK(timer_delete(timer) == 0);
    CHECK(sigaction(SIGUSR1, &old, NULL) == 0);
    CHECK_EQ(signal_errors, 0);
    CHECK_GT(signal_count, 0);
    AWAIT((bell_queue_drain(signal_bell, queue, &e, 1) == 1 ? (bits |= e.data) : 0, bits == 5));
    CHECK_OK(bell_unregister(signal_bell, signal_user, BELL_SYNC));
    CHECK_OK(bell_queue_destroy(signal_bell, queue, 0));
    check_clean(signal_bell);
}

/* ---- posts to what goes away ---- */

typedef struct vanishing {
    bell_t *bell;
    bell_handle user;
    uint32_t stop, ok, stale;
} vanishing;

static void *post_to_the_vanishing(void *argument)
{
    vanishing *v = argument;
    while (!load(&v->stop)) {
        int32_t result = bell_post(v->bell, __atomic_load_n(&v->user, __ATOMIC_ACQUIRE), 1);
        if (result == 0)
            add(&v->ok, 1);
        else {
            CHECK_EQ(result, BELL_E_STALE);
            add(&v->stale, 1);
        }
    }
    return NULL;
}

static void posting_races_unregistering(void)
{
    for (uint32_t threads = 0; threads < 2; threads++) {
        vanishing v = {.bell = make_bell_ghc(1, threads)};
        static uint32_t words[1024];
        static fake_mvar mvars[1024];
        pthread_t posters[3];
        int wake = make_eventfd(), n = slow() ? 100 : 20000;
        memset(mvars, 0, sizeof mvars);
        v.user = make_user(v.bell, to_slot());
        for (int i = 0; i < 3; i++)
            posters[i] = start_thread(post_to_the_vanishing, &v);
        AWAIT(load(&v.ok) > 0);
        for (int i = 0; i < n; i++) {
            bell_target targets[] = {to_futex(&words[i % 1024]), to_slot(), to_eventfd(wake), to_mvar(&mvars[i % 1024], 0)};
            bell_handle old = v.user, fresh = make_user(v.bell, targets[i % 4]);
            int32_t answer;
            __atomic_store_n(&v.user, fresh, __ATOMIC_RELEASE);
            if (threads == 0)
                turn(v.bell);
            answer = CHECK_OK(bell_unregister(v.bell, old, BELL_SYNC));
            if (i % 4 == 0 && i > 0) { /* `old` was an MVAR: whoever has it now, it was consumed at most once */
                fake_mvar *mvar = &mvars[(i - 1) % 1024];
                CHECK_EQ(mvar->puts, answer == BELL_FIRED);
                mvar->puts = 0;
            }
        }
        store(&v.stop, 1);
        for (int i = 0; i < 3; i++)
            join_thread(posters[i]);
        fprintf(stderr, "  %u posts taken, %u stale\n", v.ok, v.stale);
        CHECK_GT(v.ok, 0);
        CHECK_OK(bell_unregister(v.bell, v.user, BELL_SYNC));
        CHECK(close(wake) == 0);
        check_clean(v.bell);
    }
}

/* ---- bell_wake ---- */

typedef struct sleeper {
    bell_t *bell;
    uint32_t id;
    int32_t result;
    const uint64_t *payload;
    uint64_t seen;
} sleeper;

static void *sleep_once(void *argument)
{
    sleeper *s = argument;
    bell_event e;
    store(&s->id, thread_id());
    s->result = bell_poll(s->bell, 0, &e, 1, BELL_NEVER);
    s->seen = __atomic_load_n(s->payload, __ATOMIC_RELAXED);
    return NULL;
}

static void a_wake_ends_the_wait_with_what_was_written_before(void)
{
    bell_t *bell = make_bell(1, 0);
    uint64_t payload = 0;
    for (int i = 1; i <= rounds(2000); i++) {
        sleeper s = {.bell = bell, .payload = &payload};
        pthread_t t = start_thread(sleep_once, &s);
        if (i % 4 == 0)
            AWAIT(is_asleep(&s.id));
        __atomic_store_n(&payload, (uint64_t)i, __ATOMIC_RELAXED);
        CHECK_EQ(bell_wake(bell, 0), 0);
        join_thread(t);
        CHECK_EQ(s.result, 0);
        CHECK_EQ(s.seen, i);
    }
    check_clean(bell);
}

static void wakes_before_the_wait_end_it_and_merge(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    int64_t start;
    for (int i = 0; i < 10; i++) {
        for (int k = 0; k < 1000; k++)
            CHECK_EQ(bell_wake(bell, 0), 0);
        CHECK_EQ(bell_poll(bell, 0, &e, 1, BELL_NEVER), 0);
        start = now_ns();
        CHECK_EQ(bell_poll(bell, 0, &e, 1, MS(5)), 0);
        CHECK_GE(now_ns() - start, MS(5)); /* nothing is left of the thousand */
    }
    CHECK_EQ(bell_wake(bell, 1), -EINVAL);
    CHECK_EQ(bell_wake(bell, BELL_SHARD_ANY), -EINVAL);
    check_clean(bell);
}

static void a_wake_costs_nothing_where_nobody_sleeps(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle user = make_user(bell, to_poll());
    bell_handle queue = make_queue(bell, NULL);
    bell_event e;
    for (int after_a_wait = 0; after_a_wait < 2; after_a_wait++) {
        bell_counters before, after;
        if (after_a_wait) /* of somebody who has driven meanwhile, and slept */
            CHECK_EQ(bell_queue_wait(bell, queue, &e, 1, now_ns() + MS(1)), -ETIMEDOUT);
        before = stats_of(bell);
        for (int k = 0; k < 1000; k++) {
            CHECK_EQ(bell_wake(bell, 0), 0);
            CHECK_EQ(bell_post(bell, user, 1), 0);
        }
        after = stats_of(bell);
        CHECK_EQ(after.wakes_sent - before.wakes_sent, 0);
        CHECK_GE(after.wakes_elided - before.wakes_elided, 1);
        CHECK_OK(bell_poll(bell, 0, &e, 1, 0));
    }
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    CHECK_OK(bell_unregister(bell, user, 0));
    check_clean(bell);
}

static void a_wake_reaches_its_shard_only(void)
{
    bell_t *bell = make_bell(2, 0);
    bell_event e;
    int64_t start;
    CHECK_EQ(bell_wake(bell, 1), 0);
    start = now_ns();
    CHECK_EQ(bell_poll(bell, 0, &e, 1, MS(5)), 0);
    CHECK_GE(now_ns() - start, MS(5));
    CHECK_EQ(bell_poll(bell, 1, &e, 1, BELL_NEVER), 0);
    check_clean(bell);
}

static void news_comes_with_a_wake(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle user = make_user(bell, to_poll()), fd;
    int fds[2], told = 0;
    make_sockets(fds);
    fd = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
    put_byte(fds[1]);
    CHECK_EQ(bell_post(bell, user, 1), 0);
    CHECK_EQ(bell_wake(bell, 0), 0);
    for (int i = 0; i < 5 && told < 2; i++) { /* a wake does not swallow what is ready beside it */
        bell_event e[4];
        told += CHECK_OK(bell_poll(bell, 0, e, 4, 0));
    }
    CHECK_EQ(told, 2);
    CHECK_OK(bell_unregister(bell, user, 0));
    CHECK_OK(bell_unregister(bell, fd, 0));
    close_pair(fds);
    check_clean(bell);
}

int main(void)
{
    RUN(every_target_gets_the_post);
    RUN(the_library_threads_deliver_posts);
    RUN(posts_merge_their_bits);
    RUN(posts_while_an_mvar_is_spent_are_kept);
    RUN(a_new_target_gets_the_posts_that_nobody_has_seen);
    RUN(kept_posts_reach_a_driver_that_sleeps);
    RUN(bad_posts_are_refused);
    RUN(museum_075_what_was_written_before_a_post_is_seen);
    RUN(a_signal_handler_may_post);
    RUN(a_handler_may_interrupt_a_post);
    RUN(posting_races_unregistering);
    RUN(a_wake_ends_the_wait_with_what_was_written_before);
    RUN(wakes_before_the_wait_end_it_and_merge);
    RUN(a_wake_costs_nothing_where_nobody_sleeps);
    RUN(a_wake_reaches_its_shard_only);
    RUN(news_comes_with_a_wake);
    return 0;
}
