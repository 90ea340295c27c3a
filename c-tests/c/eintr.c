/* Signals at about 1 kHz during traffic: -EINTR is told to those who wait, and nothing else changes. */
#define _GNU_SOURCE
#include "check.h"
#include <sched.h>

enum { PAIRS = 4, MOST_TARGETS = 16 };

static void count_signal(int number)
{
    static uint32_t seen;
    (void)number;
    add(&seen, 1);
}

/* A thread that sends SIGUSR1 to the threads of a list, all each millisecond. */
typedef struct kicker {
    pthread_t targets[MOST_TARGETS];
    int n;
    uint32_t stop;
    pthread_t thread;
} kicker;

static void *kick(void *argument)
{
    kicker *k = argument;
    struct timespec ms = {0, 1000000};
    while (!load(&k->stop)) {
        for (int i = 0; i < k->n; i++)
            CHECK_EQ(pthread_kill(k->targets[i], SIGUSR1), 0);
        nanosleep(&ms, NULL);
    }
    return NULL;
}

static void start_kicking(kicker *k)
{
    struct sigaction action = {.sa_handler = count_signal}; /* no SA_RESTART: every sleep ends */
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    store(&k->stop, 0);
    k->thread = start_thread(kick, k);
}

/* Must come before the targets are joined. */
static void stop_kicking(kicker *k)
{
    store(&k->stop, 1);
    join_thread(k->thread);
}

static uint32_t mode(void)
{
    return has_edge() ? BELL_EDGE : BELL_ONESHOT;
}

/* ---- driving by bell_poll ---- */

static void is_bell_poll_interrupted_and_nothing_lost(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[PAIRS][2];
    bell_handle h[PAIRS], timeout = 0;
    uint64_t sent = 0, received = 0;
    int64_t deadline = 0;
    uint32_t interrupted = 0, timeouts = 0;
    kicker k = {.targets = {pthread_self()}, .n = 1};
    for (uint64_t i = 0; i < PAIRS; i++) {
        make_sockets(fds[i]);
        bell_fd_spec spec = fd_spec(fds[i][0], BELL_READ, BELL_ONESHOT, to_poll());
        spec.user_data = i;
        CHECK_OK(bell_register_fd(bell, &spec, &h[i]));
    }
    start_kicking(&k);
    int64_t start = now_ns();
    for (int round = 0; now_ns() - start < MS(1000) || timeouts < 20; round++) {
        bell_event events[PAIRS + 1];
        CHECK_LT(now_ns() - start, PATIENCE);
        if (timeout == 0) {
            bell_timeout_spec spec = timeout_spec(deadline = now_ns() + US(round % 7 * 700), to_poll());
            spec.user_data = PAIRS;
            CHECK_OK(bell_register_timeout(bell, &spec, &timeout));
        }
        if (round % 16 == 0) /* mostly it sleeps, so that signals hit the sleep */
            for (int i = 0; i < PAIRS; i++)
                if (write(fds[i][1], "x", 1) == 1)
                    sent++;
        int32_t n = bell_poll(bell, 0, events, PAIRS + 1, round % 2 ? BELL_NEVER : MS(5));
        if (n == -EINTR) {
            interrupted++;
            continue;
        }
        CHECK_OK(n);
        for (int32_t i = 0; i < n; i++) {
            if (events[i].user_data == PAIRS) {
                CHECK_EQ(events[i].handle, timeout);
                CHECK_EQ(events[i].ready, BELL_TIMEOUT);
                CHECK_GE(now_ns(), deadline);
                CHECK_EQ(bell_unregister(bell, timeout, 0), BELL_FIRED);
                timeout = 0;
                timeouts++;
                continue;
            }
            CHECK_EQ(events[i].ready, BELL_READ);
            char text[256];
            ssize_t got;
            while ((got = read(fds[events[i].user_data][0], text, sizeof text)) > 0)
                received += (uint64_t)got;
            CHECK_EQ(bell_rearm(bell, events[i].handle, NULL, BELL_NEVER), 0);
        }
    }
    stop_kicking(&k);
    for (int64_t end = now_ns() + PATIENCE; received < sent;) {
        bell_event e;
        CHECK_LT(now_ns(), end);
        int32_t n = bell_poll(bell, 0, &e, 1, SEC(1));
        if (n == 1 && e.user_data < PAIRS)
            received += (uint64_t)drain_fd(fds[e.user_data][0]);
        else
            CHECK(n >= 0 || n == -EINTR); /* the last signal may still be under way */
    }
    fprintf(stderr, "  %u times interrupted, %u timeouts, %" PRIu64 " bytes\n", interrupted, timeouts, received);
    CHECK_EQ(received, sent);
    CHECK_GT(interrupted, 0);
    if (timeout)
        CHECK_OK(bell_unregister(bell, timeout, 0));
    for (int i = 0; i < PAIRS; i++) {
        CHECK_OK(bell_unregister(bell, h[i], 0));
        close_pair(fds[i]);
    }
    check_clean(bell);
}

/* ---- driving by waiters, or by library threads ---- */

typedef struct side {
    bell_t *bell;
    bell_handle handle;
    int fd;
    int rounds;
    int asks;
    uint64_t sum;
    uint32_t interrupted;
    uint32_t timeouts;
    uint32_t finished;
    uint32_t leave; /* it stays alive until then: it can be sent signals */
} side;

static void await_byte(side *s)
{
    for (;;) {
        /* Every other wait has a deadline, so that lateness and earliness show. */
        int64_t deadline = s->sum % 2 ? now_ns() + PATIENCE : now_ns() + MS(3);
        if (mode() == BELL_ONESHOT)
            CHECK_EQ(bell_rearm(s->bell, s->handle, NULL, BELL_NEVER), 0);
        int32_t r = bell_slot_wait(s->bell, s->handle, BELL_READ, deadline, 0);
        if (r == -EINTR) {
            s->interrupted++;
        } else if (r == -ETIMEDOUT) {
            CHECK_GE(now_ns(), deadline);
        } else {
            CHECK_EQ(r, BELL_READ);
            return;
        }
        char c;
        if (recv(s->fd, &c, 1, MSG_PEEK) == 1)
            return;
    }
}

static void *play_side(void *argument)
{
    side *s = argument;
    for (int i = 0; i < s->rounds; i++) {
        unsigned char c = (unsigned char)i;
        if (s->asks) {
            CHECK_EQ(write(s->fd, &c, 1), 1);
            s->sum += c;
        }
        ssize_t n;
        while ((n = read(s->fd, &c, 1)) < 0) {
            CHECK(errno == EAGAIN);
            await_byte(s);
        }
        CHECK_EQ(n, 1);
        CHECK_EQ(c, (unsigned char)i);
        if (!s->asks) {
            s->sum += c;
            CHECK_EQ(write(s->fd, &c, 1), 1);
        }
        if (i % 50 == 49) {
            int64_t deadline = now_ns() + US(1500);
            bell_handle t = set_timeout(s->bell, deadline, to_slot());
            int32_t r;
            while ((r = bell_slot_wait(s->bell, t, BELL_READ, BELL_NEVER, 0)) == -EINTR)
                s->interrupted++;
            CHECK_EQ(r, BELL_TIMEOUT);
            CHECK_GE(now_ns(), deadline);
            CHECK_EQ(bell_unregister(s->bell, t, 0), BELL_FIRED);
            s->timeouts++;
        }
    }
    store(&s->finished, 1);
    while (!load(&s->leave))
        sched_yield();
    return NULL;
}

static void waiters_play(uint32_t library_threads)
{
    bell_t *bell = make_bell(0, library_threads);
    side sides[2 * PAIRS];
    int fds[PAIRS][2];
    pthread_t threads[2 * PAIRS];
    kicker k = {.n = 2 * PAIRS};
    uint32_t interrupted = 0;
    for (int i = 0; i < 2 * PAIRS; i++) {
        if (i % 2 == 0)
            make_sockets(fds[i / 2]);
        sides[i] = (side){.bell = bell, .fd = fds[i / 2][i % 2], .asks = i % 2, .rounds = rounds(1500)};
        bell_fd_spec spec = fd_spec(sides[i].fd, BELL_READ, mode(), to_slot());
        spec.shard = BELL_SHARD_ANY;
        CHECK_OK(bell_register_fd(bell, &spec, &sides[i].handle));
    }
    for (int i = 0; i < 2 * PAIRS; i++)
        k.targets[i] = threads[i] = start_thread(play_side, &sides[i]);
    start_kicking(&k);
    for (int i = 0; i < 2 * PAIRS; i++)
        AWAIT(load(&sides[i].finished));
    stop_kicking(&k);
    for (int i = 0; i < 2 * PAIRS; i++) {
        store(&sides[i].leave, 1);
        join_thread(threads[i]);
        interrupted += sides[i].interrupted;
    }
    fprintf(stderr, "  %u times interrupted\n", interrupted);
    for (int i = 0; i < 2 * PAIRS; i++) {
        CHECK_EQ(sides[i].sum, sides[i ^ 1].sum);
        CHECK_OK(bell_unregister(bell, sides[i].handle, 0));
    }
    for (int i = 0; i < PAIRS; i++)
        close_pair(fds[i]);
    check_clean(bell);
}

static void are_waiters_that_drive_interrupted_and_nothing_lost(void)
{
    waiters_play(0);
}

static void are_waiters_of_library_threads_interrupted_and_nothing_lost(void)
{
    waiters_play(1);
    waiters_play(2);
}

static void is_queue_wait_interrupted_and_nothing_lost(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL);
    kicker k = {.targets = {pthread_self()}, .n = 1};
    uint32_t interrupted = 0;
    start_kicking(&k);
    for (int i = 0; i < rounds(400); i++) {
        int64_t deadline = now_ns() + US(i % 30 * 100);
        bell_handle t = set_timeout(bell, deadline, to_queue(queue));
        bell_event e;
        int32_t n;
        while ((n = bell_queue_wait(bell, queue, &e, 1, BELL_NEVER)) == -EINTR)
            interrupted++;
        CHECK_EQ(n, 1);
        CHECK_EQ(e.handle, t);
        CHECK_EQ(e.ready, BELL_TIMEOUT);
        CHECK_EQ(e.data, 1);
        CHECK_GE(now_ns(), deadline);
        CHECK_EQ(bell_unregister(bell, t, 0), BELL_FIRED);
    }
    stop_kicking(&k);
    fprintf(stderr, "  %u times interrupted\n", interrupted);
    CHECK_EQ(bell_queue_destroy(bell, queue, 0), BELL_FIRED);
    check_clean(bell);
}

/* ---- a signal on the heels of a wake ---- */

typedef struct sleeper {
    bell_t *bell;
    bell_handle user;
    uint32_t woken, posted, interrupted, stop;
} sleeper;

static void *sleep_and_count(void *argument)
{
    sleeper *s = argument;
    while (!load(&s->stop)) {
        bell_event e;
        int32_t n = bell_poll(s->bell, 0, &e, 1, BELL_NEVER);
        if (n == -EINTR)
            add(&s->interrupted, 1);
        else if (n == 0)
            add(&s->woken, 1);
        else {
            CHECK_EQ(n, 1);
            CHECK_EQ(e.handle, s->user);
            CHECK_EQ(e.ready, BELL_USER);
            add(&s->posted, 1);
        }
    }
    return NULL;
}

static void museum_024_is_a_wake_not_lost_when_a_signal_comes_right_after_it(void)
{
    struct sigaction action = {.sa_handler = count_signal};
    sleeper s = {.bell = make_bell(1, 0)};
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    s.user = make_user(s.bell, to_poll());
    pthread_t thread = start_thread(sleep_and_count, &s);
    for (int i = 0; i < rounds(3000); i++) {
        uint32_t woken = load(&s.woken), posted = load(&s.posted);
        int post = i % 2;
        CHECK_EQ(post ? bell_post(s.bell, s.user, 1) : bell_wake(s.bell, 0), 0);
        CHECK_EQ(pthread_kill(thread, SIGUSR1), 0);
        int64_t start = now_ns();
        while (post ? load(&s.posted) == posted : load(&s.woken) == woken) {
            CHECK_LT(now_ns() - start, PATIENCE);
            sched_yield();
        }
    }
    store(&s.stop, 1);
    CHECK_EQ(bell_wake(s.bell, 0), 0);
    join_thread(thread);
    fprintf(stderr, "  %u times interrupted\n", s.interrupted);
    CHECK_EQ(s.posted, rounds(3000) / 2);
    CHECK_OK(bell_unregister(s.bell, s.user, 0));
    /* Nothing is left over: at most one turn ends early, the next sleeps its time. */
    for (int early = 0;;) {
        bell_event e;
        int64_t start = now_ns();
        CHECK_EQ(bell_poll(s.bell, 0, &e, 1, MS(3)), 0);
        if (now_ns() - start >= MS(3))
            break;
        CHECK_LE(++early, 1);
    }
    check_clean(s.bell);
}

static bell_t *raised_bell;

static void wake_from_handler(int number)
{
    (void)number;
    bell_wake(raised_bell, 0);
}

/* The handler runs between the caller's last look and its sleep, or during it: the wake must count either way. */
static void does_a_wake_in_the_handler_end_the_interrupted_wait_or_the_next(void)
{
    struct sigaction action = {.sa_handler = wake_from_handler};
    kicker k = {.targets = {pthread_self()}, .n = 1};
    bell_event e;
    raised_bell = make_bell(1, 0);
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    k.thread = start_thread(kick, &k);
    for (int i = 0; i < rounds(300); i++) {
        int32_t n = bell_poll(raised_bell, 0, &e, 1, BELL_NEVER);
        if (n == -EINTR)
            n = bell_poll(raised_bell, 0, &e, 1, BELL_NEVER); /* returns at once: the wake is there */
        CHECK(n == 0 || n == -EINTR);
    }
    stop_kicking(&k);
    signal(SIGUSR1, SIG_IGN);
    check_clean(raised_bell);
}

typedef struct interrupted {
    bell_t *bell;
    uint32_t thread;
} interrupted;

static void *poll_until_woken(void *argument)
{
    interrupted *i = argument;
    bell_event e;
    store(&i->thread, thread_id());
    CHECK_EQ(bell_poll(i->bell, 0, &e, 1, BELL_NEVER), 0); /* and not -EINTR */
    int64_t start = now_ns();
    CHECK_EQ(bell_poll(i->bell, 0, &e, 1, MS(1)), 0); /* the wake was told: this one sleeps */
    CHECK_GE(now_ns() - start, MS(1));
    return NULL;
}

static void is_a_wake_from_the_handler_told_by_the_call_that_the_signal_ends(void)
{
    struct sigaction action = {.sa_handler = wake_from_handler};
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    for (int round = 0; round < 20; round++) {
        interrupted i = {.bell = make_bell(1, 0)};
        raised_bell = i.bell;
        pthread_t thread = start_thread(poll_until_woken, &i);
        AWAIT(is_asleep(&i.thread));
        CHECK_EQ(pthread_kill(thread, SIGUSR1), 0);
        join_thread(thread);
        check_clean(i.bell);
    }
}

int main(void)
{
    RUN(is_bell_poll_interrupted_and_nothing_lost);
    RUN(are_waiters_that_drive_interrupted_and_nothing_lost);
    RUN(are_waiters_of_library_threads_interrupted_and_nothing_lost);
    RUN(is_queue_wait_interrupted_and_nothing_lost);
    RUN(museum_024_is_a_wake_not_lost_when_a_signal_comes_right_after_it);
    RUN(does_a_wake_in_the_handler_end_the_interrupted_wait_or_the_next);
    RUN(is_a_wake_from_the_handler_told_by_the_call_that_the_signal_ends);
    return 0;
}
