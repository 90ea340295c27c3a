#define _GNU_SOURCE 1
/* What becomes of those who wait for an fd that is closed, by us or behind our back? */
#include "check.h"

#include <sys/mman.h>

static void every_target_is_told_closed(void)
{
    uint32_t modes[] = {BELL_ONESHOT, BELL_LEVEL, BELL_EDGE};
    bell_t *bell = make_bell_ghc(1, 0);
    landing l[LAND_KINDS * 3];
    uint32_t mode_of[LAND_KINDS * 3];
    int n = 0, fds[2];
    uint64_t ticket = 0;
    make_sockets(fds);
    for (int m = 0; m < (has_edge() ? 3 : 2); m++)
        for (int kind = 0; kind < LAND_KINDS; kind++) {
            if (modes[m] == BELL_LEVEL && kind != LAND_POLL && kind != LAND_QUEUE)
                continue;
            if (modes[m] != BELL_ONESHOT && kind == LAND_MVAR)
                continue;
            landing_open(&l[n], kind, bell);
            landing_watch(&l[n], fds[0], BELL_READ, modes[m]);
            mode_of[n++] = modes[m];
        }
    CHECK_EQ(bell_close_begin(bell, fds[0], &ticket), 0);
    pump_all(bell, l, n);
    for (int i = 0; i < 3; i++)
        pump(bell, l, n);
    for (int i = 0; i < n; i++) {
        bell_target again = l[i].target;
        fprintf(stderr, "  %s mode %u\n", landing_name(l[i].kind), mode_of[i]);
        CHECK_EQ(l[i].count, 1);
        if (landing_shows_bits(&l[i]))
            CHECK_EQ(l[i].ready, BELL_CLOSED);
        if (l[i].kind == LAND_SLOT) { /* the bit stays, in both words, and is told to whoever looks */
            CHECK_HAS(load(&l[i].slot->rd), BELL_CLOSED);
            CHECK_HAS(load(&l[i].slot->wr), BELL_CLOSED);
            CHECK_HAS(bell_slot_consume(bell, l[i].handle, BELL_READ), BELL_CLOSED);
            CHECK_HAS(bell_slot_consume(bell, l[i].handle, BELL_READ), BELL_CLOSED);
            CHECK_HAS(bell_slot_wait(bell, l[i].handle, BELL_WRITE, BELL_NEVER, 0), BELL_CLOSED);
        }
        CHECK_EQ(bell_rearm(bell, l[i].handle, &again, BELL_NEVER), BELL_E_CLOSED);
    }
    CHECK(close(fds[0]) == 0);
    CHECK_EQ(bell_close_end(bell, fds[0], ticket), 0);
    for (int i = 0; i < n; i++) {
        int32_t answer;
        landing_forget(&l[i]);
        CHECK_EQ(bell_rearm(bell, l[i].handle, &l[i].target, BELL_NEVER), BELL_E_CLOSED);
        answer = CHECK_OK(bell_unregister(bell, l[i].handle, BELL_SYNC));
        if (mode_of[i] == BELL_ONESHOT)
            CHECK_EQ(answer, BELL_FIRED);
    }
    pump(bell, l, n);
    for (int i = 0; i < n; i++) {
        if (l[i].kind != LAND_QUEUE && l[i].kind != LAND_SLOT)
            CHECK_EQ(l[i].count, 0);
        CHECK_LE(l[i].mvar.puts, 1);
        landing_close(&l[i]);
    }
    CHECK(close(fds[1]) == 0);
    check_clean(bell);
}

static void news_that_waits_is_merged_with_closed(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL), in_queue, in_slot;
    bell_event e[4];
    bell_slot *slot;
    int fds[2];
    make_sockets(fds);
    in_queue = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_queue(queue));
    in_slot = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
    CHECK_OK(bell_slot_map(bell, in_slot, &slot));
    put_byte(fds[1]);
    turn(bell);
    CHECK_OK(bell_close_fd(bell, fds[0]));
    turn(bell);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 4), 1);
    CHECK_EQ(e[0].handle, in_queue);
    CHECK_HAS(e[0].ready, BELL_READ | BELL_CLOSED);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 4), 0);
    CHECK_EQ(bell_slot_take(&slot->rd), BELL_READ | BELL_CLOSED);
    CHECK_EQ(bell_slot_take(&slot->rd), BELL_CLOSED);
    CHECK_EQ(bell_slot_take(&slot->wr), BELL_CLOSED);
    CHECK_OK(bell_unregister(bell, in_queue, 0));
    CHECK_OK(bell_unregister(bell, in_slot, 0));
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    CHECK(close(fds[1]) == 0);
    check_clean(bell);
}

static void nothing_new_is_watched_between_begin_and_end(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    fake_mvar mvar = {0};
    uint64_t ticket = 0, other = 0;
    bell_handle handle;
    int fds[2];
    make_sockets(fds);
    handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
    CHECK_EQ(bell_close_begin(bell, fds[0], &ticket), 0);
    CHECK_EQ(try_watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll()), BELL_E_CLOSED);
    CHECK_EQ(try_watch(bell, fds[0], BELL_WRITE, BELL_ONESHOT, to_mvar(&mvar, 0)), BELL_E_CLOSED);
    CHECK_EQ(bell_rearm(bell, handle, NULL, BELL_NEVER), BELL_E_CLOSED);
    CHECK_EQ(bell_modify(bell, handle, BELL_WRITE, BELL_ONESHOT), BELL_E_CLOSED);
    CHECK_EQ(bell_update_timeout(bell, handle, now_ns()), BELL_E_CLOSED);
    CHECK_EQ(bell_close_begin(bell, fds[0], &other), BELL_E_CLOSED);
    CHECK_EQ(bell_close_fd(bell, fds[0]), BELL_E_CLOSED);
    CHECK(fcntl(fds[0], F_GETFD) >= 0); /* refused: so it was not closed */
    CHECK_EQ(bell_close_end(bell, fds[0], ticket + 1), BELL_E_STALE);
    CHECK_EQ(bell_close_end(bell, fds[1], ticket), BELL_E_STALE);
    CHECK_EQ(try_watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll()), BELL_E_CLOSED); /* still under way */
    CHECK_EQ(bell_close_end(bell, fds[0], ticket), 0);
    CHECK_EQ(bell_close_end(bell, fds[0], ticket), BELL_E_STALE);
    CHECK_OK(bell_unregister(bell, handle, 0));
    CHECK_EQ(mvar.puts, 0);
    /* Nobody closed it after all: it may be watched again. */
    handle = watch(bell, fds[0], BELL_WRITE, BELL_ONESHOT, to_poll());
    CHECK_EQ(next_event(bell).handle, handle);
    CHECK_OK(bell_unregister(bell, handle, 0));
    close_pair(fds);
    check_clean(bell);
}

static void bad_numbers_are_refused(void)
{
    bell_t *bell = make_bell(1, 0);
    uint64_t ticket = 0;
    int fds[2];
    make_sockets(fds);
    CHECK_EQ(bell_close_begin(bell, -1, &ticket), -EBADF);
    CHECK_EQ(bell_close_begin(bell, 1 << 24, &ticket), -EBADF);
    CHECK_EQ(bell_close_begin(bell, INT32_MAX, &ticket), -EBADF);
    CHECK_EQ(bell_close_begin(bell, INT32_MIN, &ticket), -EBADF);
    CHECK_EQ(bell_close_begin(bell, fds[0], NULL), -EINVAL);
    CHECK_EQ(bell_close_end(bell, -1, 1), -EBADF);
    CHECK_EQ(bell_close_end(bell, 1 << 24, 1), -EBADF);
    CHECK_EQ(bell_close_end(bell, fds[0], 1), BELL_E_STALE);
    CHECK_EQ(bell_close_fd(bell, -1), -EBADF);
    CHECK_EQ(bell_close_fd(bell, 1 << 24), -EBADF);
    /* An fd that nobody watches is closed all the same; one that is not open says what close(2) says. */
    CHECK_EQ(bell_close_fd(bell, fds[0]), 0);
    CHECK_EQ(fcntl(fds[0], F_GETFD), -1);
    CHECK_EQ(bell_close_fd(bell, fds[0]), -EBADF);
    CHECK_EQ(bell_close_fd(bell, fds[0]), -EBADF);
    CHECK_OK(bell_close_fd(bell, fds[1]));
    check_clean(bell);
}

static void the_reused_number_is_new_and_old_handles_hear_nothing_of_it(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    landing old[LAND_KINDS], fresh;
    int fds[2], again[2];
    make_sockets(fds);
    for (int kind = 0; kind < LAND_KINDS; kind++) {
        landing_open(&old[kind], kind, bell);
        landing_watch(&old[kind], fds[0], BELL_READ, BELL_ONESHOT);
    }
    make_sockets(again);
    CHECK_OK(bell_close_fd(bell, fds[0]));
    pump_all(bell, old, LAND_KINDS);
    for (int kind = 0; kind < LAND_KINDS; kind++)
        landing_forget(&old[kind]);
    CHECK_EQ(dup3(again[0], fds[0], O_CLOEXEC), fds[0]);
    landing_open(&fresh, LAND_QUEUE, bell);
    landing_watch(&fresh, fds[0], BELL_READ, BELL_ONESHOT);
    check_verified(bell);
    put_byte(again[1]);
    for (int i = 0; i < 3; i++) {
        pump(bell, old, LAND_KINDS);
        landing_look(&fresh);
    }
    CHECK_EQ(fresh.count, 1);
    CHECK_EQ(fresh.ready, BELL_READ);
    for (int kind = 0; kind < LAND_KINDS; kind++) {
        CHECK_EQ(old[kind].count, 0);
        CHECK_EQ(bell_rearm(bell, old[kind].handle, &old[kind].target, BELL_NEVER), BELL_E_CLOSED);
        CHECK_EQ(landing_end(&old[kind]), BELL_FIRED);
    }
    landing_rearm(&fresh, BELL_NEVER); /* the old ones going away has not touched it */
    pump(bell, &fresh, 1);
    CHECK_EQ(fresh.count, 2);
    landing_end(&fresh);
    CHECK_OK(bell_close_fd(bell, fds[0]));
    close_pair(again);
    CHECK(close(fds[1]) == 0);
    check_clean(bell);
}

typedef struct sleeper {
    bell_t *bell;
    bell_handle handle;
    int how; /* 0 bell_poll, 1 bell_slot_wait, 2 bell_queue_wait */
    uint32_t id;
    bell_event event;
    int32_t result;
} sleeper;

static void *sleep_for_news(void *argument)
{
    sleeper *s = argument;
    store(&s->id, thread_id());
    if (s->how == 0) {
        do
            s->result = bell_poll(s->bell, 0, &s->event, 1, PATIENCE);
        while (s->result == 0);
    } else if (s->how == 1) {
        s->result = bell_slot_wait(s->bell, s->handle, BELL_READ, now_ns() + PATIENCE, 0);
        s->event.ready = (uint32_t)s->result;
        s->event.handle = s->handle;
    } else {
        s->result = bell_queue_wait(s->bell, s->handle, &s->event, 1, now_ns() + PATIENCE);
    }
    return NULL;
}

static void sleepers_of_every_kind_wake(void)
{
    for (int threads = 0; threads < 2; threads++)
        for (int how = threads ? 1 : 0; how < 3; how++)
            for (int round = 0; round < rounds(50); round++) {
                bell_t *bell = make_bell(1, (uint32_t)threads);
                bell_handle queue = make_queue(bell, NULL), handle;
                bell_target targets[] = {to_poll(), to_slot(), to_queue(queue)};
                sleeper s = {.bell = bell, .how = how};
                pthread_t t;
                int fds[2];
                make_sockets(fds);
                handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, targets[how]);
                s.handle = how == 2 ? queue : handle;
                t = start_thread(sleep_for_news, &s);
                if (round % 2 && how > 0)
                    AWAIT(stats_of(bell).waiters == 1);
                else if (round % 2)
                    AWAIT(is_asleep(&s.id));
                CHECK_EQ(bell_close_fd(bell, fds[0]), 0);
                join_thread(t);
                CHECK_GE(s.result, 1);
                CHECK_EQ(s.event.ready, BELL_CLOSED);
                CHECK_EQ(s.event.handle, handle);
                CHECK_EQ(bell_unregister(bell, handle, BELL_SYNC), BELL_FIRED);
                CHECK_OK(bell_queue_destroy(bell, queue, 0));
                CHECK(close(fds[1]) == 0);
                check_clean(bell);
            }
}

/* GHC#21969, museum 17: registering and waiting on one thread while another closes the fd. */
typedef struct race {
    bell_t *bell;
    pthread_barrier_t start, end;
    int fd, rounds;
    int refused, ready, closed;
    uint32_t tried; /* in how many rounds it has registered, or was refused */
} race;

static void *register_and_wait(void *argument)
{
    race *r = argument;
    for (int i = 0; i < r->rounds; i++) {
        bell_fd_spec spec;
        bell_handle handle;
        int32_t result;
        pthread_barrier_wait(&r->start);
        spec = fd_spec(r->fd, BELL_READ, i % 3 && has_edge() ? BELL_EDGE : BELL_ONESHOT, to_slot());
        result = bell_register_fd(r->bell, &spec, &handle);
        store(&r->tried, (uint32_t)i + 1);
        if (result == 0) {
            result = bell_slot_wait(r->bell, handle, BELL_READ, now_ns() + PATIENCE, 0);
            CHECK_GT(result, 0);
            CHECK_LACKS(result, ~(int32_t)(BELL_READ | BELL_CLOSED));
            if (result & BELL_CLOSED)
                r->closed++;
            else
                r->ready++;
            CHECK_OK(bell_unregister(r->bell, handle, i % 2 ? BELL_SYNC : 0));
        } else {
            CHECK(result == BELL_E_CLOSED || result == -EBADF);
            r->refused++;
        }
        pthread_barrier_wait(&r->end);
    }
    return NULL;
}

static void museum_017_registering_races_closing(void)
{
    for (int threads = 0; threads < 2; threads++) {
        race r = {.rounds = rounds(10000)};
        pthread_t t;
        r.bell = make_bell(1, (uint32_t)threads);
        CHECK_EQ(pthread_barrier_init(&r.start, NULL, 2), 0);
        CHECK_EQ(pthread_barrier_init(&r.end, NULL, 2), 0);
        t = start_thread(register_and_wait, &r);
        for (int i = 0; i < r.rounds; i++) {
            int fds[2];
            make_sockets(fds);
            r.fd = fds[0];
            pthread_barrier_wait(&r.start);
            for (volatile int spin = 0; spin < i % 64 * 100; spin++) {
            }
            if (i % 8 == 7) /* else a busy machine may let the close be first each time */
                AWAIT(load(&r.tried) == (uint32_t)i + 1);
            if (i % 4 == 0)
                put_byte(fds[1]);
            CHECK_EQ(bell_close_fd(r.bell, fds[0]), 0);
            pthread_barrier_wait(&r.end);
            CHECK(close(fds[1]) == 0);
        }
        join_thread(t);
        fprintf(stderr, "  threads %d: refused %d, ready %d, closed %d\n", threads, r.refused, r.ready, r.closed);
        CHECK_EQ(r.refused + r.ready + r.closed, r.rounds);
        CHECK_GT(r.closed, 0);
        /* Nothing was closed behind our back. But bell_close_fd lets go of the number before its close(2), and who has
         * registered in between and drives may see that before the call ends. epoll says nothing of it. */
        if (has_feature(BELL_FEATURE_EPOLL) && !on_io_uring())
            CHECK_EQ(stats_of(r.bell).ghosts, 0);
        CHECK_LE(stats_of(r.bell).ghosts, (uint64_t)r.closed);
        pthread_barrier_destroy(&r.start);
        pthread_barrier_destroy(&r.end);
        check_clean(r.bell);
    }
}

static void *unregister_now(void *argument)
{
    race *r = argument;
    for (int i = 0; i < r->rounds; i++) {
        bell_handle handle = watch(r->bell, r->fd, BELL_READ, BELL_ONESHOT, to_slot());
        pthread_barrier_wait(&r->start);
        for (volatile int spin = 0; spin < i % 32 * 20; spin++) {
        }
        CHECK_OK(bell_unregister(r->bell, handle, 0));
        pthread_barrier_wait(&r->end);
        pthread_barrier_wait(&r->end);
    }
    return NULL;
}

/* The fd leaves the kernel's set before bell_close_fd closes it, also when somebody is just unregistering it; else the dup
 * would keep a ghost there. */
typedef struct stranger {
    bell_t *bell;
    uint32_t rounds;
} stranger;

static void *open_and_close(void *argument)
{
    stranger *s = argument;
    for (uint32_t i = 0; i < s->rounds; i++) {
        int fd = make_eventfd();
        bell_handle h = 0;
        bell_fd_spec spec = fd_spec(fd, BELL_READ, BELL_ONESHOT, to_slot());
        CHECK_EQ(bell_register_fd(s->bell, &spec, &h), 0);
        CHECK_EQ(eventfd_write(fd, 1), 0);
        CHECK_HAS(CHECK_OK(bell_slot_wait(s->bell, h, BELL_READ, now_ns() + PATIENCE, 0)), BELL_READ);
        CHECK_EQ(bell_close_fd(s->bell, fd), 0);
        CHECK_EQ(bell_unregister(s->bell, h, 0), BELL_FIRED);
    }
    return NULL;
}

/* Threads that know nothing of each other get each other's numbers, some the moment they are free. */
static void a_number_that_another_thread_has_just_closed_is_not_refused(void)
{
    enum { STRANGERS = 4 };
    for (uint32_t threads = 0; threads < 2; threads++) {
        stranger s = {.bell = make_bell(1, threads), .rounds = (uint32_t)rounds(5000)};
        pthread_t all[STRANGERS];
        for (int i = 0; i < STRANGERS; i++)
            all[i] = start_thread(open_and_close, &s);
        for (int i = 0; i < STRANGERS; i++)
            join_thread(all[i]);
        CHECK_EQ(stats_of(s.bell).ghosts, 0);
        check_clean(s.bell);
    }
}

static void unregistering_races_closing(void)
{
    race r = {.rounds = rounds(20000)};
    int fds[2], copy;
    pthread_t t;
    r.bell = make_bell(1, 0);
    make_sockets(fds);
    copy = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
    r.fd = fds[0];
    CHECK_EQ(pthread_barrier_init(&r.start, NULL, 2), 0);
    CHECK_EQ(pthread_barrier_init(&r.end, NULL, 2), 0);
    t = start_thread(unregister_now, &r);
    for (int i = 0; i < r.rounds; i++) {
        pthread_barrier_wait(&r.start);
        for (volatile int spin = 0; spin < i % 37 * 20; spin++) {
        }
        CHECK_EQ(bell_close_fd(r.bell, r.fd), 0);
        pthread_barrier_wait(&r.end);
        CHECK_EQ(stats_of(r.bell).ghosts, 0);
        CHECK_EQ(dup3(copy, r.fd, O_CLOEXEC), r.fd);
        pthread_barrier_wait(&r.end);
    }
    join_thread(t);
    pthread_barrier_destroy(&r.start);
    pthread_barrier_destroy(&r.end);
    close_pair(fds);
    CHECK(close(copy) == 0);
    check_clean(r.bell);
}

/* F1: epoll goes on reporting a closed fd while a dup of it is open. */
static void a_dup_that_stays_open_is_not_heard(void)
{
    uint32_t modes[] = {BELL_ONESHOT, BELL_LEVEL, BELL_EDGE};
    for (int m = 0; m < (has_edge() ? 3 : 2); m++) {
        bell_t *bell = make_bell(1, 0);
        bell_handle handle;
        uint64_t waits;
        int fds[2], copy;
        make_sockets(fds);
        copy = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
        handle = watch(bell, fds[0], BELL_READ, modes[m], to_poll());
        CHECK_EQ(bell_close_fd(bell, fds[0]), 0);
        CHECK_EQ(next_event(bell).ready, BELL_CLOSED);
        check_verified(bell);
        waits = stats_of(bell).kernel_waits;
        put_byte(fds[1]); /* `copy` is readable now */
        CHECK_HAS(looks_ready(copy, POLLIN), POLLIN);
        expect_quiet(bell, MS(50));
        CHECK_LE(stats_of(bell).kernel_waits - waits, 10);
        CHECK_OK(bell_unregister(bell, handle, 0));
        expect_quiet(bell, MS(20));
        CHECK(close(copy) == 0);
        CHECK(close(fds[1]) == 0);
        check_clean(bell);
    }
}

/* A plain close(2) of a watched fd, then the number used anew and watched anew. `turn_between`: the library has a chance
 * to notice. poll(2) alone cannot tell the new file from the old one when nothing happened in between. */
static void reuse_behind_our_back(uint32_t mode, int turn_between, int delivered_before)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle old, fresh;
    bell_event e[8];
    int fds[2], again[2], told = 0;
    int can_tell = turn_between || has_feature(BELL_FEATURE_EPOLL);
    make_sockets(fds);
    make_sockets(again);
    fprintf(stderr, "  mode %u, turn %d, delivered %d\n", mode, turn_between, delivered_before);
    if (delivered_before)
        put_byte(fds[1]);
    old = watch(bell, fds[0], BELL_READ, mode, to_poll());
    if (delivered_before) {
        CHECK_EQ(next_event(bell).handle, old);
        drain_fd(fds[0]);
    }
    CHECK(close(fds[0]) == 0);
    if (turn_between) {
        int32_t n = CHECK_OK(bell_poll(bell, 0, e, 8, 0));
        CHECK_LE(n, 1);
        if (n == 1) {
            CHECK_EQ(e[0].handle, old);
            CHECK_EQ(e[0].ready, BELL_CLOSED);
            CHECK_EQ(e[0].status, -EBADF);
        }
    }
    CHECK_EQ(dup3(again[0], fds[0], O_CLOEXEC), fds[0]);
    fresh = watch(bell, fds[0], BELL_READ, mode, to_poll());
    put_byte(again[1]);
    for (int i = 0; i < 20; i++) {
        int32_t n = CHECK_OK(bell_poll(bell, 0, e, 8, told ? MS(1) : SEC(5)));
        for (int k = 0; k < n; k++)
            if (e[k].handle == fresh) {
                CHECK_EQ(e[k].ready, BELL_READ);
                told++;
            } else {
                CHECK_EQ(e[k].handle, old);
                if (can_tell) {
                    CHECK_EQ(e[k].ready, BELL_CLOSED);
                    CHECK_EQ(e[k].status, -EBADF);
                }
            }
    }
    if (mode == BELL_LEVEL)
        CHECK_GE(told, 1);
    else
        CHECK_EQ(told, 1);
    CHECK_OK(bell_unregister(bell, old, BELL_SYNC));
    /* The old one going away must not take the new one's place in the kernel with it. */
    check_verified(bell);
    drain_fd(fds[0]);
    expect_quiet(bell, MS(2));
    if (mode == BELL_ONESHOT)
        CHECK_OK(bell_rearm(bell, fresh, NULL, BELL_NEVER));
    put_byte(again[1]);
    CHECK_EQ(next_event(bell).handle, fresh);
    CHECK_OK(bell_unregister(bell, fresh, BELL_SYNC));
    close_pair(fds);
    close_pair(again);
    check_clean(bell);
}

static void a_number_reused_behind_our_back_works(void)
{
    uint32_t modes[] = {BELL_ONESHOT, BELL_LEVEL, BELL_EDGE};
    for (int m = 0; m < (has_edge() ? 3 : 2); m++)
        for (int turn_between = 0; turn_between < 2; turn_between++)
            for (int delivered = 0; delivered < 2; delivered++)
                reuse_behind_our_back(modes[m], turn_between, delivered);
}

static void arming_what_was_closed_behind_our_back_says_so(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle handle;
    int fds[2];
    int32_t result;
    make_sockets(fds);
    put_byte(fds[1]);
    handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
    CHECK_EQ(next_event(bell).handle, handle);
    CHECK(close(fds[0]) == 0);
    result = bell_rearm(bell, handle, NULL, BELL_NEVER);
    CHECK_EQ(result, -EBADF);
    CHECK_LE(expect_quiet(bell, MS(20)), 5);
    CHECK_OK(bell_unregister(bell, handle, BELL_SYNC));
    CHECK(close(fds[1]) == 0);
    check_clean(bell);
}

/* More registrations than can be told at once: the next turn goes on, and meanwhile the number is used anew. */
static void what_has_the_number_of_a_closed_fd_is_not_told_with_the_rest(void)
{
    enum { OLD = 40 };
    bell_t *bell = make_bell(1, 0);
    bell_handle old[OLD], fresh;
    uint32_t words[OLD] = {0}, word = 0;
    int fds[2], again[2];
    make_sockets(fds);
    make_sockets(again);
    for (int i = 0; i < OLD; i++)
        old[i] = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_futex(&words[i]));
    CHECK(close(fds[0]) == 0);
    CHECK_OK(bell_unregister(bell, old[0], BELL_SYNC)); /* epoll says EBADF about the others */
    CHECK_EQ(dup3(again[0], fds[0], O_CLOEXEC), fds[0]);
    fresh = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_futex(&word));
    turn(bell);
    turn(bell);
    CHECK_EQ(load(&word), 0);
    put_byte(again[1]);
    turn(bell);
    CHECK_EQ(load(&word) & (BELL_READ | BELL_CLOSED), BELL_READ);
    for (int i = 1; i < OLD; i++) {
        if (has_feature(BELL_FEATURE_EPOLL))
            CHECK_HAS(load(&words[i]), BELL_CLOSED);
        CHECK_OK(bell_unregister(bell, old[i], BELL_SYNC));
    }
    CHECK_EQ(bell_unregister(bell, fresh, BELL_SYNC), BELL_FIRED);
    close_pair(fds);
    close_pair(again);
    check_clean(bell);
}

typedef struct driver {
    bell_t *bell;
    bell_handle wanted;
    uint32_t got, stop;
} driver;

static void *drive(void *argument)
{
    driver *d = argument;
    while (!load(&d->stop)) {
        bell_event e[16];
        int32_t n = CHECK_OK(bell_poll(d->bell, 0, e, 16, SEC(5)));
        for (int i = 0; i < n; i++) {
            CHECK_EQ(e[i].handle, d->wanted); /* nothing of the ghost, and the disarmed one stays silent */
            add(&d->got, 1);
        }
    }
    return NULL;
}

/* Closed with close(2) while a dup is open: epoll keeps the fd and no epoll_ctl can remove it. */
static void a_ghost_does_not_keep_the_driver_busy(void)
{
    uint32_t modes[] = {BELL_ONESHOT, BELL_LEVEL, BELL_EDGE};
    for (int m = 0; m < (has_edge() ? 3 : 2); m++) {
        bell_t *bell = make_bell(1, 0);
        driver d = {.bell = bell};
        bell_handle ghost, disarmed;
        bell_counters before, after;
        int fds[2], other[2], idle[2], copy;
        pthread_t t;
        make_sockets(fds);
        make_sockets(other);
        make_sockets(idle);
        copy = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
        put_byte(idle[1]);
        disarmed = watch(bell, idle[0], BELL_READ, BELL_ONESHOT, to_poll());
        CHECK_EQ(next_event(bell).handle, disarmed);
        d.wanted = watch(bell, other[0], BELL_READ, BELL_ONESHOT, to_poll());
        ghost = watch(bell, fds[0], BELL_READ, modes[m], to_poll());
        CHECK(close(fds[0]) == 0);
        CHECK_EQ(bell_unregister(bell, ghost, BELL_SYNC), BELL_CANCELLED);
        before = stats_of(bell);
        t = start_thread(drive, &d);
        for (int i = 0; i < rounds(10000); i++) {
            put_byte(fds[1]);
            if (i % 16 == 15)
                drain_fd(copy);
        }
        put_byte(fds[1]); /* stays readable */
        CHECK_EQ(load(&d.got), 0);
        put_byte(other[1]);
        AWAIT(load(&d.got) == 1);
        drain_fd(other[0]);
        CHECK_OK(bell_rearm(bell, d.wanted, NULL, BELL_NEVER));
        put_byte(other[1]);
        AWAIT(load(&d.got) == 2);
        store(&d.stop, 1);
        CHECK_OK(bell_wake(bell, 0));
        join_thread(t);
        after = stats_of(bell);
        fprintf(stderr, "  mode %u: waits %" PRIu64 " stale %" PRIu64 " ghosts %" PRIu64 " rebuilds %" PRIu64 "\n", modes[m],
                after.kernel_waits - before.kernel_waits, after.stale_dropped, after.ghosts, after.rebuilds);
        CHECK_LE(after.kernel_waits - before.kernel_waits, 500);
        CHECK_LE(after.rebuilds, 4);
        if (has_feature(BELL_FEATURE_EPOLL))
            CHECK_GE(after.ghosts, 1);
        check_verified(bell); /* also: the ghost is out of the kernel's set by now, or counted there as known */
        CHECK_EQ(bell_unregister(bell, d.wanted, BELL_SYNC), BELL_FIRED);
        CHECK_EQ(bell_unregister(bell, disarmed, BELL_SYNC), BELL_FIRED);
        CHECK(close(copy) == 0);
        CHECK(close(fds[1]) == 0);
        close_pair(other);
        close_pair(idle);
        check_clean(bell);
    }
}

/* Nobody unregisters the closed fd: its own registration may hear of it, but the driver must not spin. */
static void a_ghost_that_is_still_registered_does_not_spin(void)
{
    uint32_t modes[] = {BELL_ONESHOT, BELL_EDGE};
    for (int m = 0; m < (has_edge() ? 2 : 1); m++) {
        bell_t *bell = make_bell(1, 0);
        bell_handle ghost;
        bell_event e;
        int fds[2], copy, turns = 0;
        int64_t end;
        make_sockets(fds);
        copy = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
        ghost = watch(bell, fds[0], BELL_READ, modes[m], to_poll());
        CHECK(close(fds[0]) == 0);
        put_byte(fds[1]);
        for (end = now_ns() + MS(50); now_ns() < end; turns++)
            CHECK_OK(bell_poll(bell, 0, &e, 1, MS(10)));
        CHECK_LE(turns, 30);
        CHECK_OK(bell_unregister(bell, ghost, BELL_SYNC));
        CHECK_LE(expect_quiet(bell, MS(20)), 10);
        CHECK(close(copy) == 0);
        CHECK(close(fds[1]) == 0);
        check_clean(bell);
    }
}

/* Too late: the number is closed already when the library hears of it, and the kernel goes on with an edge of a dup
 * that nobody can take out. */
static void the_ghost_of_one_that_was_told_of_its_close_goes(void)
{
    enum { BYTES = 100 };
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    bell_counters c;
    uint64_t ticket;
    int fds[2], copy;
    if (!has_feature(BELL_FEATURE_EPOLL)) {
        check_clean(bell);
        return;
    }
    make_sockets(fds);
    copy = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
    bell_handle ghost = watch(bell, fds[0], BELL_READ, BELL_EDGE, to_poll());
    CHECK_EQ(close(fds[0]), 0);
    CHECK_EQ(bell_close_begin(bell, fds[0], &ticket), 0);
    CHECK_EQ(bell_close_end(bell, fds[0], ticket), 0);
    e = next_event(bell);
    CHECK_EQ(e.handle, ghost);
    CHECK_EQ(e.ready, BELL_CLOSED);
    for (int i = 0; i < BYTES; i++) {
        put_byte(fds[1]);
        CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 0);
    }
    c = stats_of(bell);
    CHECK_EQ(c.ghosts, 1);
    CHECK_EQ(c.rebuilds, 1);
    CHECK_LT(c.stale_dropped, BYTES / 2);
    CHECK_EQ(bell_unregister(bell, ghost, 0), BELL_FIRED);
    CHECK_EQ(close(copy), 0);
    CHECK_EQ(close(fds[1]), 0);
    check_clean(bell);
}

/* Museum 15: the target's memory is gone once the close has been told. */
static void after_the_close_nothing_touches_the_target(void)
{
    long page = sysconf(_SC_PAGESIZE);
    bell_t *bell = make_bell(1, 0);
    for (int i = 0; i < rounds(500); i++) {
        uint32_t *word = mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        bell_handle handle;
        int fds[2], copy;
        CHECK(word != MAP_FAILED);
        make_sockets(fds);
        copy = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
        handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_futex(word));
        CHECK_OK(bell_close_fd(bell, fds[0]));
        turn(bell);
        CHECK_HAS(load(word), BELL_CLOSED);
        CHECK_EQ(bell_unregister(bell, handle, BELL_SYNC), BELL_FIRED);
        CHECK(munmap(word, (size_t)page) == 0);
        put_byte(fds[1]);
        turn(bell);
        CHECK(close(copy) == 0);
        CHECK(close(fds[1]) == 0);
    }
    check_clean(bell);
}

int main(void)
{
    RUN(every_target_is_told_closed);
    RUN(news_that_waits_is_merged_with_closed);
    RUN(nothing_new_is_watched_between_begin_and_end);
    RUN(bad_numbers_are_refused);
    RUN(the_reused_number_is_new_and_old_handles_hear_nothing_of_it);
    RUN(sleepers_of_every_kind_wake);
    RUN(museum_017_registering_races_closing);
    RUN(a_number_that_another_thread_has_just_closed_is_not_refused);
    RUN(unregistering_races_closing);
    RUN(a_dup_that_stays_open_is_not_heard);
    RUN(a_number_reused_behind_our_back_works);
    RUN(arming_what_was_closed_behind_our_back_says_so);
    RUN(what_has_the_number_of_a_closed_fd_is_not_told_with_the_rest);
    RUN(a_ghost_does_not_keep_the_driver_busy);
    RUN(a_ghost_that_is_still_registered_does_not_spin);
    RUN(the_ghost_of_one_that_was_told_of_its_close_goes);
    RUN(after_the_close_nothing_touches_the_target);
    return 0;
}
