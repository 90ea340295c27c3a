#define _GNU_SOURCE 1
/* Does a queue keep order, merge, bound, ring and share as it says? */
#include "check.h"
#include <sys/resource.h>

enum { N = 8 };

static void news_comes_in_the_order_of_first_readiness(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL), handles[N];
    static const int order[N] = {3, 7, 0, 5, 1, 6, 2, 4};
    int fds[N][2];
    bell_event e[N * 2];
    for (int i = 0; i < N; i++) {
        make_sockets(fds[i]);
        handles[i] = watch(bell, fds[i][0], BELL_READ, BELL_ONESHOT, to_queue(queue));
    }
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) {
            put_byte(fds[order[i]][1]);
            turn(bell);
        }
        CHECK_EQ(bell_queue_drain(bell, queue, e, N * 2), N);
        for (int i = 0; i < N; i++) {
            CHECK_EQ(e[i].handle, handles[order[i]]);
            CHECK_EQ(e[i].user_data, fds[order[i]][0]);
            CHECK_EQ(e[i].ready, BELL_READ);
            drain_fd(fds[i][0]);
            CHECK_OK(bell_rearm(bell, handles[order[i]], NULL, BELL_NEVER));
        }
        CHECK_EQ(bell_queue_drain(bell, queue, e, N * 2), 0);
    }
    for (int i = 0; i < N; i++) {
        CHECK_EQ(bell_unregister(bell, handles[i], 0), BELL_CANCELLED);
        close_pair(fds[i]);
    }
    CHECK_EQ(bell_queue_destroy(bell, queue, 0), BELL_FIRED); /* there was no doorbell */
    check_clean(bell);
}

static void undrained_news_merges_and_keeps_its_place(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL), user = make_user(bell, to_queue(queue)), other = make_user(bell, to_queue(queue));
    bell_timeout_spec spec = timeout_spec(1, to_queue(queue));
    bell_handle periodic;
    bell_counters before, after;
    bell_event e[4];
    before = stats_of(bell);
    for (uint32_t i = 0; i < 10; i++) {
        CHECK_EQ(bell_post(bell, user, 1U << i), 0);
        turn(bell);
        if (i == 0) {
            CHECK_EQ(bell_post(bell, other, 1), 0);
            turn(bell);
        }
    }
    after = stats_of(bell);
    CHECK_EQ(after.coalesced - before.coalesced, 9);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 4), 2);
    CHECK_EQ(e[0].handle, user);
    CHECK_EQ(e[0].ready, BELL_USER);
    CHECK_EQ(e[0].data, 0x3FF);
    CHECK_EQ(e[1].handle, other);
    /* Expirations add up. */
    spec.deadline_ns = now_ns();
    spec.period_ns = MS(1);
    CHECK_OK(bell_register_timeout(bell, &spec, &periodic));
    for (int i = 0; i < 5; i++) {
        int64_t until = spec.deadline_ns + i * MS(1);
        while (now_ns() < until) {
        }
        turn(bell);
    }
    CHECK_EQ(bell_queue_drain(bell, queue, e, 4), 1);
    CHECK_EQ(e[0].handle, periodic);
    CHECK_EQ(e[0].ready, BELL_TIMEOUT);
    CHECK_GE(e[0].data, 5);
    CHECK_LE((int64_t)e[0].data - 1, (now_ns() - spec.deadline_ns) / MS(1));
    CHECK_OK(bell_unregister(bell, periodic, 0));
    CHECK_OK(bell_unregister(bell, user, 0));
    CHECK_OK(bell_unregister(bell, other, 0));
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    check_clean(bell);
}

static void edge_news_merges_its_bits(void)
{
    bell_t *bell;
    bell_handle queue, handle;
    bell_event e[4];
    int fds[2];
    if (!has_edge())
        return;
    bell = make_bell(1, 0);
    queue = make_queue(bell, NULL);
    make_sockets(fds);
    fill_fd(fds[0]);
    handle = watch(bell, fds[0], BELL_READ | BELL_WRITE, BELL_EDGE, to_queue(queue));
    put_byte(fds[1]);
    turn(bell);
    drain_fd(fds[0]);
    drain_fd(fds[1]);
    turn(bell);
    CHECK(shutdown(fds[1], SHUT_WR) == 0);
    turn(bell);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 4), 1);
    CHECK_EQ(e[0].handle, handle);
    CHECK_EQ(e[0].ready, BELL_READ | BELL_WRITE | BELL_RDHUP);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 4), 0);
    CHECK_OK(bell_unregister(bell, handle, 0));
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    close_pair(fds);
    check_clean(bell);
}

static void capacity_bounds_a_drain_and_loses_nothing(void)
{
    enum { MANY = 1000 };
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL);
    static bell_handle handles[MANY];
    bell_event e[64];
    int told = 0;
    for (int i = 0; i < MANY; i++) {
        bell_target target = to_queue(queue);
        CHECK_OK(bell_register_user(bell, 0, &target, (uint64_t)i, &handles[i]));
    }
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(bell_post(bell, handles[i], 1), 0);
    turn(bell);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 0), 0);
    CHECK_EQ(bell_queue_drain(bell, queue, NULL, 1), -EINVAL);
    for (uint32_t capacity = 1; told < MANY; capacity = capacity % 63 + 1) {
        int32_t n;
        memset(e, 0xEE, sizeof e);
        n = CHECK_OK(bell_queue_drain(bell, queue, e, capacity));
        CHECK_EQ(n, MANY - told < (int)capacity ? MANY - told : (int)capacity);
        CHECK_EQ(e[n].handle, 0xEEEEEEEEEEEEEEEEULL); /* and not one more */
        for (int i = 0; i < n; i++) {
            CHECK_EQ(e[i].ready, BELL_USER);
            CHECK_LT(e[i].user_data, MANY);
            CHECK_NE(handles[e[i].user_data], 0);
            CHECK_OK(bell_unregister(bell, handles[e[i].user_data], 0));
            handles[e[i].user_data] = 0;
        }
        told += n;
    }
    CHECK_EQ(bell_queue_drain(bell, queue, e, 64), 0);
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    check_clean(bell);
}

/* ---- the doorbell ---- */

/* Rings once when news comes into the empty queue, and again only after it was drained empty. */
static void ring(int kind)
{
    bell_t *bell = make_bell_ghc(1, 0);
    landing l; /* the doorbell */
    bell_handle queue, users[3];
    bell_event e[4];
    landing_open(&l, kind, bell);
    queue = make_queue(bell, &l.target);
    for (int i = 0; i < 3; i++)
        users[i] = make_user(bell, to_queue(queue));
    for (int round = 0; round < 5; round++) {
        landing_look(&l);
        CHECK_EQ(l.count, 0);
        for (int i = 0; i < 3; i++) {
            CHECK_EQ(bell_post(bell, users[i], 1), 0);
            turn(bell);
            landing_look(&l);
            CHECK_EQ(l.count, 1);
        }
        if (kind == LAND_FUTEX)
            CHECK_NE(l.ready & BELL_NEWS, 0); /* something that bell_slot_take sees */
        CHECK_EQ(bell_queue_drain(bell, queue, e, 2), 2); /* not empty yet */
        CHECK_EQ(bell_post(bell, users[0], 1), 0);
        turn(bell);
        landing_look(&l);
        CHECK_EQ(l.count, 1);
        CHECK_EQ(bell_queue_drain(bell, queue, e, 4), 2);
        CHECK_EQ(bell_queue_drain(bell, queue, e, 4), 0);
        turn(bell);
        landing_look(&l);
        CHECK_EQ(l.count, 1);
        landing_forget(&l);
        if (kind == LAND_MVAR) { /* has rung: the StablePtr is consumed */
            CHECK_EQ(bell_retarget(bell, queue, &l.target), BELL_FIRED);
        }
    }
    for (int i = 0; i < 3; i++)
        CHECK_OK(bell_unregister(bell, users[i], 0));
    if (kind == LAND_MVAR) {
        CHECK_EQ(bell_queue_destroy(bell, queue, BELL_SYNC), BELL_CANCELLED); /* armed anew, not rung: ours */
        CHECK_EQ(l.mvar.puts, 5);
    } else {
        CHECK_OK(bell_queue_destroy(bell, queue, BELL_SYNC));
    }
    l.kind = LAND_POLL; /* nothing of the landing's own queue is to be destroyed */
    for (int i = 0; i < 2; i++)
        if (l.fds[i] >= 0)
            CHECK(close(l.fds[i]) == 0);
    check_clean(bell);
}

static void a_futex_doorbell_rings_once_for_each_filling(void) { ring(LAND_FUTEX); }
static void an_eventfd_doorbell_rings_once_for_each_filling(void) { ring(LAND_EVENTFD); }
static void a_pipe_doorbell_rings_once_for_each_filling(void) { ring(LAND_BYTE); }
static void an_mvar_doorbell_rings_once_for_each_filling(void) { ring(LAND_MVAR); }

static void a_doorbell_says_whose_it_is(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    fake_mvar a = {0}, b = {0};
    bell_target target = to_mvar(&a, 0);
    bell_handle queue = make_queue(bell, &target), user = make_user(bell, to_queue(queue));
    bell_event e;
    target = to_mvar(&b, 0);
    CHECK_EQ(bell_retarget(bell, queue, &target), BELL_CANCELLED); /* `a` was not rung */
    CHECK_EQ(bell_post(bell, user, 1), 0);
    turn(bell);
    CHECK_EQ(a.puts, 0);
    CHECK_EQ(b.puts, 1);
    CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), 1);
    CHECK_EQ(bell_post(bell, user, 1), 0); /* nothing to ring: it just waits in the queue */
    turn(bell);
    CHECK_EQ(b.puts, 1);
    CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), 1);
    target = (bell_target){.kind = BELL_TARGET_NONE};
    CHECK_EQ(bell_retarget(bell, queue, &target), BELL_FIRED);
    CHECK_EQ(bell_post(bell, user, 1), 0);
    turn(bell);
    CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), 1);
    target = to_mvar(&a, 0);
    CHECK_OK(bell_retarget(bell, queue, &target));
    CHECK_OK(bell_unregister(bell, user, 0));
    CHECK_EQ(bell_queue_destroy(bell, queue, 0), BELL_CANCELLED);
    CHECK_EQ(a.puts + b.puts, 1);
    check_clean(bell);
}

/* A consumer of MVars gives a new one after each ring: news may have come in between. */
static void a_doorbell_that_comes_late_rings_at_once(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    fake_mvar mvar = {0};
    uint32_t word = 0;
    bell_handle queue = make_queue(bell, NULL), user = make_user(bell, to_queue(queue));
    bell_target target = to_mvar(&mvar, 0);
    bell_event e;
    CHECK_EQ(bell_post(bell, user, 1), 0);
    turn(bell);
    CHECK_EQ(bell_retarget(bell, queue, &target), BELL_FIRED); /* there was none */
    CHECK_EQ(mvar.puts, 1);
    target = to_futex(&word);
    CHECK_EQ(bell_retarget(bell, queue, &target), BELL_FIRED); /* the MVAR is spent */
    CHECK_HAS(load(&word), BELL_READ);
    CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), 1);
    store(&word, 0);
    CHECK_EQ(bell_retarget(bell, queue, &target), BELL_CANCELLED);
    CHECK_EQ(load(&word), 0); /* nothing is there */
    CHECK_OK(bell_unregister(bell, user, 0));
    CHECK_EQ(bell_queue_destroy(bell, queue, BELL_SYNC), BELL_CANCELLED);
    CHECK_EQ(mvar.puts, 1);
    check_clean(bell);
}

static void bad_queues_are_refused(void)
{
    bell_t *bell = make_bell(2, 0);
    bell_handle queue = make_queue(bell, NULL), handle = 9, user = make_user(bell, to_slot());
    bell_target refused[] = {to_poll(), to_slot(), to_queue(queue), {.kind = 9}};
    bell_target futex, eventfd_gone = to_eventfd(-1), none = {.kind = BELL_TARGET_NONE};
    uint32_t word[2] = {0};
    fake_mvar mvar = {0};
    bell_target with_mvar = to_mvar(&mvar, 0);
    bell_event e;
    int blocking;
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(bell_queue_create(bell, 0, &refused[i], &handle), -EINVAL);
        CHECK_EQ(bell_retarget(bell, queue, &refused[i]), -EINVAL);
    }
    futex = to_futex((uint32_t *)(void *)((char *)word + 2));
    CHECK_EQ(bell_queue_create(bell, 0, &futex, &handle), -EINVAL);
    CHECK_EQ(bell_queue_create(bell, 0, &eventfd_gone, &handle), -EBADF);
    blocking = eventfd(0, EFD_CLOEXEC);
    eventfd_gone = to_eventfd(blocking);
    CHECK_EQ(bell_queue_create(bell, 0, &eventfd_gone, &handle), -EINVAL);
    CHECK(close(blocking) == 0);
    CHECK_EQ(bell_queue_create(bell, 0, &with_mvar, &handle), BELL_E_UNSUPPORTED);
    CHECK_EQ(bell_queue_create(bell, 2, NULL, &handle), -EINVAL);
    CHECK_EQ(bell_queue_create(bell, 0, NULL, NULL), -EINVAL);
    CHECK_EQ(handle, 9);
    CHECK_EQ(stats_of(bell).queues, 1);
    CHECK_EQ(bell_retarget(bell, queue, &none), BELL_FIRED);
    CHECK_EQ(bell_rearm(bell, queue, NULL, BELL_NEVER), -EINVAL);
    CHECK_EQ(bell_queue_drain(bell, user, &e, 1), -EINVAL);
    CHECK_EQ(bell_queue_wait(bell, user, &e, 1, 0), -EINVAL);
    CHECK_EQ(bell_queue_fd(bell, user), -EINVAL);
    CHECK_EQ(bell_queue_destroy(bell, user, 0), -EINVAL);
    CHECK_EQ(bell_queue_destroy(bell, queue, 2), -EINVAL);
    CHECK_EQ(bell_queue_wait(bell, queue, NULL, 1, 0), -EINVAL);
    CHECK_EQ(bell_queue_wait(bell, queue, &e, 0, 0), -EINVAL);
    CHECK_EQ(bell_queue_wait(bell, queue, &e, 1, -1), -EINVAL);
    CHECK_OK(bell_unregister(bell, user, 0));
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    CHECK_EQ(bell_queue_destroy(bell, queue, 0), BELL_E_STALE);
    CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), BELL_E_STALE);
    CHECK_EQ(bell_queue_wait(bell, queue, &e, 1, 0), BELL_E_STALE);
    CHECK_EQ(bell_queue_fd(bell, queue), BELL_E_STALE);
    check_clean(bell);
}

static void queue_fd_is_readable_as_long_as_there_is_news(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL), users[2];
    bell_event e;
    int fd;
    for (int i = 0; i < 2; i++)
        users[i] = make_user(bell, to_queue(queue));
    CHECK_EQ(bell_post(bell, users[0], 1), 0); /* news from before the fd was asked for */
    turn(bell);
    fd = CHECK_OK(bell_queue_fd(bell, queue));
    CHECK_EQ(bell_queue_fd(bell, queue), fd);
    CHECK(looks_ready(fd, POLLIN) & POLLIN);
    CHECK_HAS(fcntl(fd, F_GETFD), FD_CLOEXEC);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), 1);
        CHECK(!(looks_ready(fd, POLLIN) & POLLIN));
        CHECK_EQ(bell_post(bell, users[0], 1), 0);
        CHECK_EQ(bell_post(bell, users[1], 1), 0);
        turn(bell);
        CHECK(looks_ready(fd, POLLIN) & POLLIN);
        CHECK(looks_ready(fd, POLLIN) & POLLIN); /* nobody reads it */
        CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), 1);
        CHECK(looks_ready(fd, POLLIN) & POLLIN); /* one is left */
    }
    CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), 1);
    CHECK(!(looks_ready(fd, POLLIN) & POLLIN));
    /* Unregistering the only news empties it too. */
    CHECK_EQ(bell_post(bell, users[0], 1), 0);
    turn(bell);
    CHECK(looks_ready(fd, POLLIN) & POLLIN);
    CHECK_OK(bell_unregister(bell, users[0], 0));
    CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), 0);
    CHECK(!(looks_ready(fd, POLLIN) & POLLIN));
    CHECK_OK(bell_unregister(bell, users[1], 0));
    CHECK_OK(bell_queue_destroy(bell, queue, BELL_SYNC)); /* the fd goes with it: RUN counts */
    check_clean(bell);
}

static void a_queue_in_use_is_not_destroyed(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL), other = make_queue(bell, NULL), handles[3];
    bell_target target = to_queue(other);
    bell_event e;
    int fds[2];
    make_sockets(fds);
    handles[0] = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_queue(queue));
    handles[1] = set_timeout(bell, BELL_NEVER, to_queue(queue));
    handles[2] = make_user(bell, to_queue(queue));
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(bell_queue_destroy(bell, queue, i % 2 ? BELL_SYNC : 0), BELL_E_BUSY);
        if (i == 1)
            CHECK_OK(bell_retarget(bell, handles[i], &target));
        else
            CHECK_OK(bell_unregister(bell, handles[i], 0));
    }
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    CHECK_EQ(try_watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_queue(queue)), BELL_E_STALE);
    CHECK_OK(bell_rearm(bell, handles[1], NULL, 0));
    turn(bell);
    CHECK_EQ(bell_queue_drain(bell, other, &e, 1), 1);
    CHECK_EQ(e.handle, handles[1]);
    CHECK_OK(bell_unregister(bell, handles[1], 0));
    CHECK_OK(bell_queue_destroy(bell, other, 0));
    close_pair(fds);
    check_clean(bell);
}

/* ---- waiting ---- */

static void a_wait_never_gives_up_early(void)
{
    for (uint32_t threads = 0; threads < 2; threads++) {
        bell_t *bell = make_bell(1, threads);
        bell_handle queue = make_queue(bell, NULL), user = make_user(bell, to_queue(queue));
        bell_event e;
        for (int i = 0; i < rounds(100); i++) {
            int64_t deadline = now_ns() + US(i * 20);
            CHECK_EQ(bell_queue_wait(bell, queue, &e, 1, deadline), -ETIMEDOUT);
            CHECK_GE(now_ns(), deadline);
        }
        CHECK_EQ(bell_queue_wait(bell, queue, &e, 1, 0), -ETIMEDOUT);
        CHECK_EQ(bell_post(bell, user, 1), 0);
        CHECK_EQ(bell_queue_wait(bell, queue, &e, 1, now_ns() + PATIENCE), 1);
        CHECK_EQ(e.handle, user);
        CHECK_OK(bell_unregister(bell, user, 0));
        CHECK_OK(bell_queue_destroy(bell, queue, 0));
        check_clean(bell);
    }
}

enum { CROWD = 4 };

typedef struct crowd {
    bell_t *bell;
    bell_handle queue;
    pthread_barrier_t meeting;
    int rounds;
    uint32_t told, cancelled;
    int32_t result;
} crowd;

/* Takes one piece and meets the others: if one thread took all, or one piece woke nobody, they never meet. */
static void *take_one_and_meet(void *argument)
{
    crowd *c = argument;
    for (int i = 0; i < c->rounds; i++) {
        bell_event e;
        CHECK_EQ(bell_queue_wait(c->bell, c->queue, &e, 1, now_ns() + PATIENCE), 1);
        CHECK_EQ(e.ready, BELL_USER);
        pthread_barrier_wait(&c->meeting);
    }
    return NULL;
}

/* Museum 80. Brought by one of them, by a library thread, and by who drives another shard. */
static void museum_080_k_pieces_of_news_reach_k_threads(void)
{
    for (int how = 0; how < 3; how++) {
        crowd c = {.bell = make_bell(how == 2 ? 2 : 1, how == 1), .rounds = rounds(1000)};
        bell_handle users[CROWD];
        pthread_t t[CROWD];
        c.queue = make_queue(c.bell, NULL);
        CHECK_EQ(pthread_barrier_init(&c.meeting, NULL, CROWD + 1), 0);
        for (int i = 0; i < CROWD; i++) {
            bell_target target = to_queue(c.queue);
            CHECK_OK(bell_register_user(c.bell, how == 2, &target, 0, &users[i]));
            t[i] = start_thread(take_one_and_meet, &c);
        }
        for (int i = 0; i < c.rounds; i++) {
            if (i % 2)
                AWAIT(stats_of(c.bell).waiters == CROWD); /* all sleep; else the news is first */
            for (int k = 0; k < CROWD; k++)
                CHECK_EQ(bell_post(c.bell, users[k], 1), 0);
            if (how == 2)
                CHECK_EQ(bell_poll(c.bell, 1, NULL, 0, 0), 0);
            pthread_barrier_wait(&c.meeting);
        }
        for (int i = 0; i < CROWD; i++)
            join_thread(t[i]);
        for (int i = 0; i < CROWD; i++)
            CHECK_OK(bell_unregister(c.bell, users[i], BELL_SYNC));
        CHECK_OK(bell_queue_destroy(c.bell, c.queue, BELL_SYNC));
        pthread_barrier_destroy(&c.meeting);
        check_clean(c.bell);
    }
}

static void *take_until_cancelled(void *argument)
{
    crowd *c = argument;
    for (;;) {
        bell_event e[8];
        int32_t n = bell_queue_wait(c->bell, c->queue, e, 8, now_ns() + PATIENCE);
        if (n == BELL_E_CANCELLED || n == BELL_E_STALE || n == BELL_E_CLOSED) {
            __atomic_store_n(&c->result, n, __ATOMIC_RELAXED);
            add(&c->cancelled, 1);
            return NULL;
        }
        CHECK_GE(n, 1);
        for (int i = 0; i < n; i++)
            add(&c->told, (uint32_t)e[i].data);
    }
}

/* Sleeps of all other threads. */
static long sleeps_of_others(void)
{
    struct rusage all, mine;
    CHECK_EQ(getrusage(RUSAGE_SELF, &all), 0);
    CHECK_EQ(getrusage(RUSAGE_THREAD, &mine), 0);
    return all.ru_nvcsw - mine.ru_nvcsw;
}

/* Where nobody else drives, the one who has driven takes it, and calls the next to drive. */
static void one_piece_of_news_wakes_one_waiter(void)
{
    enum { WAITERS = 64 };
    for (uint32_t threads = 0; threads < 2; threads++) {
        crowd c = {.bell = make_bell(1, threads)};
        pthread_t t[WAITERS];
        int n = rounds(300);
        c.queue = make_queue(c.bell, NULL);
        bell_handle user = make_user(c.bell, to_queue(c.queue));
        for (int i = 0; i < WAITERS; i++)
            t[i] = start_thread(take_until_cancelled, &c);
        AWAIT(stats_of(c.bell).waiters == WAITERS);
        CHECK_EQ(bell_post(c.bell, user, 1), 0); /* also those that were about to sleep do now */
        AWAIT(load(&c.told) == 1 && stats_of(c.bell).waiters == WAITERS);
        long before = sleeps_of_others();
        for (int i = 0; i < n; i++) {
            CHECK_EQ(bell_post(c.bell, user, 1), 0);
            AWAIT(load(&c.told) == (uint32_t)i + 2 && stats_of(c.bell).waiters == WAITERS);
        }
        double each = (double)(sleeps_of_others() - before) / n;
        fprintf(stderr, "  %s: %.1f sleeps for each piece of news, %d wait\n",
                threads ? "a library thread drives" : "who waits drives", each, WAITERS);
        /* Two, with a few at locks. */
        CHECK_LT(each, 8);
        CHECK_OK(bell_unregister(c.bell, user, BELL_SYNC));
        CHECK_OK(bell_queue_destroy(c.bell, c.queue, BELL_SYNC));
        for (int i = 0; i < WAITERS; i++)
            join_thread(t[i]);
        CHECK_EQ(c.cancelled, WAITERS);
        check_clean(c.bell);
    }
}

static void waiters_are_told_when_the_queue_goes(void)
{
    for (uint32_t threads = 0; threads < 2; threads++) {
        bell_t *bell = make_bell(1, threads);
        for (int i = 0; i < rounds(200); i++) {
            crowd c = {.bell = bell, .queue = make_queue(bell, NULL)};
            pthread_t t[CROWD];
            for (int k = 0; k < CROWD; k++)
                t[k] = start_thread(take_until_cancelled, &c);
            AWAIT(stats_of(bell).waiters == CROWD);
            CHECK_OK(bell_queue_destroy(bell, c.queue, i % 2 ? BELL_SYNC : 0));
            for (int k = 0; k < CROWD; k++)
                join_thread(t[k]);
            CHECK_EQ(c.cancelled, CROWD);
            CHECK_EQ(c.result, BELL_E_CANCELLED);
        }
        check_clean(bell);
    }
}

static void waiters_are_told_when_the_manager_ends(void)
{
    for (uint32_t threads = 0; threads < 2; threads++)
        for (int i = 0; i < rounds(50); i++) {
            crowd c = {.bell = make_bell(1, threads)};
            pthread_t t[CROWD];
            c.queue = make_queue(c.bell, NULL);
            for (int k = 0; k < CROWD; k++)
                t[k] = start_thread(take_until_cancelled, &c);
            AWAIT(stats_of(c.bell).waiters == CROWD);
            CHECK_EQ(bell_destroy(c.bell, 0), BELL_E_BUSY);
            CHECK_OK(bell_destroy(c.bell, BELL_FORCE));
            for (int k = 0; k < CROWD; k++)
                join_thread(t[k]);
            CHECK_EQ(c.cancelled, CROWD);
            CHECK_EQ(c.result, BELL_E_CLOSED);
        }
}

/* Several post, several take: every timeout's expiration is told to exactly one. */
static void several_consumers_lose_and_double_nothing(void)
{
    for (uint32_t threads = 0; threads < 2; threads++) {
        crowd c = {.bell = make_bell(1, threads)};
        pthread_t t[CROWD];
        uint32_t total = 0;
        c.queue = make_queue(c.bell, NULL);
        for (int k = 0; k < CROWD; k++)
            t[k] = start_thread(take_until_cancelled, &c);
        for (int i = 0; i < rounds(5000); i++) {
            bell_timeout_spec spec = timeout_spec(i % 2 ? 0 : now_ns() + US(i % 30), to_queue(c.queue));
            bell_handle handle;
            spec.flags = BELL_AUTO_RELEASE;
            CHECK_OK(bell_register_timeout(c.bell, &spec, &handle));
            total++;
        }
        AWAIT(load(&c.told) == total);
        AWAIT(stats_of(c.bell).timeouts == 0);
        CHECK_OK(bell_queue_destroy(c.bell, c.queue, BELL_SYNC));
        for (int k = 0; k < CROWD; k++)
            join_thread(t[k]);
        CHECK_EQ(c.told, total);
        check_clean(c.bell);
    }
}

/* ---- shards ---- */

static void registrations_of_several_shards_share_a_queue(void)
{
    enum { SHARDS = 3 };
    for (int library_drives = 0; library_drives < 2; library_drives++) {
        bell_t *bell = make_bell(SHARDS, library_drives ? SHARDS : 0);
        bell_handle queue, handles[SHARDS];
        int fds[SHARDS][2], seen = 0;
        bell_event e[8];
        CHECK_OK(bell_queue_create(bell, 1, NULL, &queue));
        for (uint32_t s = 0; s < SHARDS; s++) {
            bell_fd_spec spec;
            make_sockets(fds[s]);
            spec = fd_spec(fds[s][0], BELL_READ, BELL_ONESHOT, to_queue(queue));
            spec.shard = s;
            spec.user_data = s;
            CHECK_OK(bell_register_fd(bell, &spec, &handles[s]));
            CHECK_EQ(handles[s] >> 50 & 0xFF, s);
        }
        for (int round = 0; round < rounds(200); round++) {
            for (int s = 0; s < SHARDS; s++)
                put_byte(fds[s][1]);
            for (seen = 0; seen != 7;) {
                int32_t n;
                if (!library_drives)
                    for (uint32_t s = 0; s < SHARDS; s++)
                        CHECK_OK(bell_poll(bell, s, NULL, 0, 0));
                n = bell_queue_wait(bell, queue, e, 8, now_ns() + PATIENCE);
                CHECK_GE(n, 1);
                for (int i = 0; i < n; i++) {
                    CHECK_EQ(e[i].handle, handles[e[i].user_data]);
                    CHECK_EQ(seen >> e[i].user_data & 1, 0);
                    seen |= 1 << e[i].user_data;
                    drain_fd(fds[e[i].user_data][0]);
                    CHECK_OK(bell_rearm(bell, e[i].handle, NULL, BELL_NEVER));
                }
            }
        }
        for (int s = 0; s < SHARDS; s++) {
            CHECK_EQ(bell_unregister(bell, handles[s], BELL_SYNC), BELL_CANCELLED);
            close_pair(fds[s]);
        }
        CHECK_OK(bell_queue_destroy(bell, queue, BELL_SYNC));
        check_clean(bell);
    }
}

static void any_shard_means_the_queues_own(void)
{
    bell_t *bell = make_bell(3, 0);
    bell_handle queue, handle;
    bell_event e;
    int fds[2];
    CHECK_OK(bell_queue_create(bell, 2, NULL, &queue));
    for (int i = 0; i < 5; i++) {
        bell_fd_spec spec;
        make_sockets(fds);
        spec = fd_spec(fds[0], BELL_READ, BELL_ONESHOT, to_queue(queue));
        spec.shard = BELL_SHARD_ANY;
        CHECK_OK(bell_register_fd(bell, &spec, &handle));
        CHECK_EQ(handle >> 50 & 0xFF, 2);
        put_byte(fds[1]);
        CHECK_EQ(bell_queue_wait(bell, queue, &e, 1, now_ns() + PATIENCE), 1); /* the waiter drives that shard */
        CHECK_EQ(e.handle, handle);
        CHECK_OK(bell_unregister(bell, handle, 0));
        close_pair(fds);
    }
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    check_clean(bell);
}

/* ---- LEVEL ---- */

static void a_drain_looks_again_at_what_the_last_one_told(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL), handles[3];
    int fds[3][2];
    bell_event e[8];
    for (int i = 0; i < 3; i++) {
        make_sockets(fds[i]);
        handles[i] = watch(bell, fds[i][0], BELL_READ, BELL_LEVEL, to_queue(queue));
    }
    CHECK_EQ(bell_queue_drain(bell, queue, e, 8), 0);
    put_byte(fds[0][1]);
    put_byte(fds[2][1]);
    turn(bell);
    for (int i = 0; i < 5; i++) { /* unread: told by each drain, with no turn in between */
        CHECK_EQ(bell_queue_drain(bell, queue, e, 8), 2);
        CHECK(e[0].handle != e[1].handle);
        for (int k = 0; k < 2; k++)
            CHECK(e[k].handle == handles[0] || e[k].handle == handles[2]);
    }
    drain_fd(fds[0][0]);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 8), 1);
    CHECK_EQ(e[0].handle, handles[2]);
    drain_fd(fds[2][0]);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 8), 0);
    turn(bell);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 8), 0);
    /* And news that comes later comes. */
    for (int i = 0; i < 3; i++) {
        put_byte(fds[i][1]);
        CHECK_EQ(bell_queue_wait(bell, queue, e, 8, now_ns() + PATIENCE), 1);
        CHECK_EQ(e[0].handle, handles[i]);
        drain_fd(fds[i][0]);
    }
    /* An empty capacity looks at nothing and loses nothing. */
    put_byte(fds[1][1]);
    turn(bell);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 0), 0);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 8), 1);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 0), 0);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 8), 1);
    CHECK_EQ(e[0].handle, handles[1]);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(bell_unregister(bell, handles[i], 0));
        close_pair(fds[i]);
    }
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    check_clean(bell);
}

static void a_level_registration_nobody_drains_does_not_spin_the_driver(void)
{
    bell_t *bell = make_bell(1, 1);
    bell_handle queue = make_queue(bell, NULL), handle;
    int fds[2];
    bell_event e;
    uint64_t waits;
    make_sockets(fds);
    handle = watch(bell, fds[0], BELL_READ, BELL_LEVEL, to_queue(queue));
    put_byte(fds[1]);
    AWAIT(bell_queue_drain(bell, queue, &e, 1) == 1);
    waits = stats_of(bell).kernel_waits;
    usleep(50000); /* a span to count in, not to synchronise */
    CHECK_LE(stats_of(bell).kernel_waits - waits, 10);
    CHECK_EQ(bell_queue_wait(bell, queue, &e, 1, now_ns() + PATIENCE), 1);
    CHECK_OK(bell_unregister(bell, handle, BELL_SYNC));
    CHECK_OK(bell_queue_destroy(bell, queue, BELL_SYNC));
    close_pair(fds);
    check_clean(bell);
}

/* Armed by hand between two drains, it is in the kernel when the second drain looks at it and tells it. */
static void a_drain_leaves_nothing_in_the_kernel_that_was_armed_in_between(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL), level;
    bell_event e[2];
    int fds[2];
    make_sockets(fds);
    level = watch(bell, fds[0], BELL_READ, BELL_LEVEL, to_queue(queue));
    put_byte(fds[1]);
    turn(bell);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(bell_queue_drain(bell, queue, e, 2), 1);
        check_verified(bell);
        CHECK_OK(bell_rearm(bell, level, NULL, BELL_NEVER));
        check_verified(bell);
    }
    CHECK_EQ(bell_queue_drain(bell, queue, e, 2), 1);
    CHECK_OK(bell_unregister(bell, level, 0));
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    close_pair(fds);
    check_clean(bell);
}

int main(void)
{
    RUN(news_comes_in_the_order_of_first_readiness);
    RUN(undrained_news_merges_and_keeps_its_place);
    RUN(edge_news_merges_its_bits);
    RUN(capacity_bounds_a_drain_and_loses_nothing);
    RUN(a_futex_doorbell_rings_once_for_each_filling);
    RUN(an_eventfd_doorbell_rings_once_for_each_filling);
    RUN(a_pipe_doorbell_rings_once_for_each_filling);
    RUN(an_mvar_doorbell_rings_once_for_each_filling);
    RUN(a_doorbell_says_whose_it_is);
    RUN(a_doorbell_that_comes_late_rings_at_once);
    RUN(bad_queues_are_refused);
    RUN(queue_fd_is_readable_as_long_as_there_is_news);
    RUN(a_queue_in_use_is_not_destroyed);
    RUN(a_wait_never_gives_up_early);
    RUN(museum_080_k_pieces_of_news_reach_k_threads);
    RUN(one_piece_of_news_wakes_one_waiter);
    RUN(waiters_are_told_when_the_queue_goes);
    RUN(waiters_are_told_when_the_manager_ends);
    RUN(several_consumers_lose_and_double_nothing);
    RUN(registrations_of_several_shards_share_a_queue);
    RUN(any_shard_means_the_queues_own);
    RUN(a_drain_looks_again_at_what_the_last_one_told);
    RUN(a_level_registration_nobody_drains_does_not_spin_the_driver);
    RUN(a_drain_leaves_nothing_in_the_kernel_that_was_armed_in_between);
    return 0;
}
