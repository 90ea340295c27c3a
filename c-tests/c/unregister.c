#define _GNU_SOURCE 1
/* Who owns the target after bell_unregister, and does anybody still touch it? */
#include "check.h"

#include <sys/mman.h>

/* ---- answers ---- */

static void an_fd_answers_by_its_state(void)
{
    for (int kind = 0; kind < LAND_KINDS; kind++) {
        bell_t *bell = make_bell_ghc(1, 0);
        landing l;
        int fds[2];
        fprintf(stderr, "  %s\n", landing_name(kind));
        make_sockets(fds);
        landing_open(&l, kind, bell);

        landing_watch(&l, fds[0], BELL_READ, BELL_ONESHOT); /* armed */
        CHECK_EQ(bell_unregister(bell, l.handle, 0), BELL_CANCELLED);
        CHECK_EQ(bell_unregister(bell, l.handle, 0), BELL_E_STALE);
        CHECK_EQ(bell_unregister(bell, l.handle, BELL_SYNC), BELL_E_STALE);

        put_byte(fds[1]);
        turn(bell);
        CHECK_EQ(l.mvar.puts, 0);
        CHECK_EQ(load(&l.word) & BELL_NEWS, 0);

        landing_watch(&l, fds[0], BELL_READ, BELL_ONESHOT); /* delivered */
        pump(bell, &l, 1);
        CHECK_EQ(l.count, 1);
        CHECK_EQ(bell_unregister(bell, l.handle, BELL_SYNC), BELL_FIRED);

        landing_watch(&l, fds[0], BELL_READ, BELL_ONESHOT); /* armed again */
        pump(bell, &l, 1);
        drain_fd(fds[0]);
        landing_rearm(&l, BELL_NEVER);
        CHECK_EQ(bell_unregister(bell, l.handle, BELL_SYNC), BELL_CANCELLED);

        if (has_edge() && kind != LAND_MVAR) { /* armed as long as it lives */
            put_byte(fds[1]);
            landing_watch(&l, fds[0], BELL_READ, BELL_EDGE);
            pump(bell, &l, 1);
            CHECK_EQ(bell_unregister(bell, l.handle, BELL_SYNC), BELL_CANCELLED);
            CHECK_EQ(bell_unregister(bell, l.handle, 0), BELL_E_STALE);
        }
        landing_close(&l);
        close_pair(fds);
        check_clean(bell);
    }
}

static void a_timeout_answers_by_its_state(void)
{
    for (int kind = 0; kind < LAND_KINDS; kind++) {
        bell_t *bell = make_bell_ghc(1, 0);
        landing l;
        bell_timeout_spec spec;
        bell_handle handle;
        landing_open(&l, kind, bell);
        landing_bind(&l, set_timeout(bell, now_ns() + SEC(3600), l.target));
        CHECK_EQ(bell_unregister(bell, l.handle, 0), BELL_CANCELLED);
        CHECK_EQ(bell_unregister(bell, l.handle, 0), BELL_E_STALE);
        landing_bind(&l, set_timeout(bell, 0, l.target));
        pump_all(bell, &l, 1);
        CHECK_EQ(bell_unregister(bell, l.handle, 0), BELL_FIRED);
        landing_bind(&l, set_timeout(bell, BELL_NEVER, l.target)); /* not armed */
        CHECK_EQ(bell_unregister(bell, l.handle, 0), kind == LAND_MVAR ? BELL_CANCELLED : BELL_FIRED);
        if (kind != LAND_MVAR) {
            spec = timeout_spec(now_ns(), l.target);
            spec.period_ns = SEC(3600);
            CHECK_OK(bell_register_timeout(bell, &spec, &handle));
            landing_bind(&l, handle);
            landing_forget(&l);
            pump_all(bell, &l, 1);
            CHECK_EQ(bell_unregister(bell, handle, 0), BELL_CANCELLED);
        }
        landing_close(&l);
        check_clean(bell);
    }
}

static void a_user_event_answers_by_its_state(void)
{
    for (int kind = 0; kind < LAND_KINDS; kind++) {
        bell_t *bell = make_bell_ghc(1, 0);
        landing l;
        landing_open(&l, kind, bell);
        landing_bind(&l, make_user(bell, l.target));
        CHECK_EQ(bell_unregister(bell, l.handle, BELL_SYNC), BELL_CANCELLED); /* never posted */
        CHECK_EQ(bell_unregister(bell, l.handle, BELL_SYNC), BELL_E_STALE);
        CHECK_EQ(l.mvar.puts, 0);
        landing_bind(&l, make_user(bell, l.target));
        CHECK_OK(bell_post(bell, l.handle, 1));
        pump_all(bell, &l, 1);
        if (kind == LAND_MVAR)
            CHECK_EQ(bell_unregister(bell, l.handle, BELL_SYNC), BELL_FIRED);
        else
            CHECK_OK(bell_unregister(bell, l.handle, BELL_SYNC));
        landing_close(&l);
        check_clean(bell);
    }
}

static void what_is_not_a_registration_is_refused(void)
{
    bell_t *bell = make_bell(1, 0), *other = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL), handle;
    int fds[2];
    make_sockets(fds);
    handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
    CHECK_EQ(bell_unregister(bell, queue, 0), -EINVAL);
    CHECK_EQ(bell_unregister(bell, handle, 2), -EINVAL);
    CHECK_EQ(bell_unregister(bell, handle, UINT32_MAX), -EINVAL);
    CHECK_EQ(bell_unregister(bell, 0, 0), BELL_E_STALE);
    CHECK_EQ(bell_unregister(bell, UINT64_MAX, 0), BELL_E_STALE);
    CHECK_EQ(bell_unregister(bell, handle + 1, 0), BELL_E_STALE);         /* another generation */
    CHECK_EQ(bell_unregister(bell, handle + (1ULL << 26), 0), BELL_E_STALE); /* another index */
    CHECK_EQ(bell_unregister(bell, handle + (1ULL << 50), 0), BELL_E_STALE); /* another shard */
    CHECK_EQ(bell_unregister(NULL, handle, 0), BELL_E_STALE);
    CHECK_EQ(bell_unregister(bell, handle, 0), BELL_CANCELLED);
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    CHECK_EQ(bell_unregister(bell, queue, 0), BELL_E_STALE);
    close_pair(fds);
    check_clean(other);
    check_clean(bell);
    CHECK_EQ(bell_unregister(bell, handle, 0), BELL_E_STALE);
}

/* ---- races ---- */

enum { BY_WRITE, BY_TIMEOUT, BY_POST };

typedef struct race {
    bell_t *bell;
    pthread_barrier_t start, end;
    landing l;
    int how, rounds, fds[2];
    uint32_t flags;
    int32_t answer;
    /* The driver's. */
    uint32_t stop, turns, seen;
    bell_handle seen_handle;
} race;

static void *race_driver(void *argument)
{
    race *r = argument;
    bell_event e[8];
    while (!load(&r->stop)) {
        int32_t n = CHECK_OK(bell_poll(r->bell, 0, e, 8, MS(100)));
        for (int i = 0; i < n; i++) {
            CHECK_EQ(e[i].handle, __atomic_load_n(&r->l.handle, __ATOMIC_ACQUIRE));
            add(&r->seen, 1);
        }
        if (r->l.kind == LAND_QUEUE) {
            n = CHECK_OK(bell_queue_drain(r->bell, r->l.target.queue, e, 8));
            for (int i = 0; i < n; i++) {
                CHECK_EQ(e[i].handle, __atomic_load_n(&r->l.handle, __ATOMIC_ACQUIRE));
                add(&r->seen, 1);
            }
        }
        add(&r->turns, 1);
    }
    return NULL;
}

static void *race_firer(void *argument)
{
    race *r = argument;
    for (int i = 0; i < r->rounds; i++) {
        pthread_barrier_wait(&r->start);
        for (volatile int spin = 0; spin < i % 7 * 200; spin++) {
        }
        if (r->how == BY_WRITE) {
            put_byte(r->fds[1]);
        } else if (r->how == BY_POST) {
            int32_t result = bell_post(r->bell, r->l.handle, 1);
            CHECK(result == 0 || result == BELL_E_STALE);
        }
        pthread_barrier_wait(&r->end);
    }
    return NULL;
}

static void race_unregister(int kind, int how)
{
    race *r = calloc(1, sizeof *r);
    pthread_t driver, firer;
    int cancelled = 0, fired = 0;
    CHECK(r != NULL);
    r->bell = make_bell_ghc(1, 0);
    r->how = how;
    r->rounds = rounds(10000);
    landing_open(&r->l, kind, r->bell);
    make_sockets(r->fds);
    CHECK_EQ(pthread_barrier_init(&r->start, NULL, 2), 0);
    CHECK_EQ(pthread_barrier_init(&r->end, NULL, 2), 0);
    driver = start_thread(race_driver, r);
    firer = start_thread(race_firer, r);
    for (int i = 0; i < r->rounds; i++) {
        bell_handle handle = 0;
        uint32_t turns, news;
        int32_t answer;
        /* The driver compares its events with the handle, so it must be known before there can be any. */
        if (how == BY_WRITE)
            handle = watch(r->bell, r->fds[0], BELL_READ, BELL_ONESHOT, r->l.target);
        else if (how == BY_POST)
            handle = make_user(r->bell, r->l.target);
        else
            handle = set_timeout(r->bell, BELL_NEVER, r->l.target);
        __atomic_store_n(&r->l.handle, handle, __ATOMIC_RELEASE);
        if (how == BY_TIMEOUT)
            CHECK_OK(bell_rearm(r->bell, handle, kind == LAND_MVAR ? &r->l.target : NULL, now_ns() + US(i % 50)));
        pthread_barrier_wait(&r->start);
        for (volatile int spin = 0; spin < i % 61 * 100; spin++) {
        }
        answer = CHECK_OK(bell_unregister(r->bell, handle, BELL_SYNC));
        pthread_barrier_wait(&r->end);
        /* One whole turn, begun after the unregistering: whatever was to come has come. */
        turns = load(&r->turns);
        AWAIT(bell_wake(r->bell, 0) == 0 && load(&r->turns) - turns >= 2);
        landing_forget(&r->l);
        if (kind != LAND_QUEUE)
            landing_look(&r->l);
        news = kind == LAND_POLL || kind == LAND_QUEUE ? load(&r->seen) : r->l.count;
        if (kind == LAND_FUTEX)
            news = (r->l.ready & BELL_NEWS) != 0; /* CANCELLED is no news */
        if (answer == BELL_CANCELLED) {
            CHECK_EQ(news, 0);
            cancelled++;
        } else {
            CHECK_EQ(answer, BELL_FIRED);
            CHECK_EQ(news, 1);
            fired++;
        }
        store(&r->seen, 0);
        drain_fd(r->fds[0]);
    }
    fprintf(stderr, "  cancelled %d, fired %d\n", cancelled, fired);
    join_thread(firer);
    store(&r->stop, 1);
    CHECK_OK(bell_wake(r->bell, 0));
    join_thread(driver);
    landing_close(&r->l);
    close_pair(r->fds);
    pthread_barrier_destroy(&r->start);
    pthread_barrier_destroy(&r->end);
    check_clean(r->bell);
    free(r);
}

static void a_poll_event_is_either_returned_or_cancelled(void) { race_unregister(LAND_POLL, BY_WRITE); }
static void a_futex_is_either_written_or_cancelled(void) { race_unregister(LAND_FUTEX, BY_WRITE); }
static void an_eventfd_is_either_written_or_cancelled(void) { race_unregister(LAND_EVENTFD, BY_WRITE); }
static void a_pipe_is_either_written_or_cancelled(void) { race_unregister(LAND_BYTE, BY_WRITE); }
static void a_queue_is_either_filled_or_cancelled(void) { race_unregister(LAND_QUEUE, BY_WRITE); }
static void museum_035_an_mvar_is_either_put_or_cancelled(void) { race_unregister(LAND_MVAR, BY_WRITE); }
static void a_timeout_to_poll_either_fires_or_is_cancelled(void) { race_unregister(LAND_POLL, BY_TIMEOUT); }
static void a_timeout_to_futex_either_fires_or_is_cancelled(void) { race_unregister(LAND_FUTEX, BY_TIMEOUT); }
static void a_timeout_to_queue_either_fires_or_is_cancelled(void) { race_unregister(LAND_QUEUE, BY_TIMEOUT); }
static void a_timeout_to_mvar_either_fires_or_is_cancelled(void) { race_unregister(LAND_MVAR, BY_TIMEOUT); }
static void a_post_to_mvar_is_either_put_or_cancelled(void) { race_unregister(LAND_MVAR, BY_POST); }

enum { CONTENDERS = 4 };

typedef struct contest {
    bell_t *bell;
    pthread_barrier_t start;
    bell_handle *handles;
    int n;
} contest;

static void *contend(void *argument)
{
    contest *c = argument;
    intptr_t won = 0;
    pthread_barrier_wait(&c->start);
    for (int i = 0; i < c->n; i++) {
        int32_t answer = bell_unregister(c->bell, c->handles[i], i % 2 ? BELL_SYNC : 0);
        CHECK(answer == BELL_CANCELLED || answer == BELL_E_STALE);
        won += answer == BELL_CANCELLED;
    }
    return (void *)won;
}

static void one_of_many_who_unregister_at_once_is_answered(void)
{
    contest c = {.bell = make_bell(1, 0), .n = rounds(5000)};
    pthread_t threads[CONTENDERS];
    intptr_t won = 0;
    int fds[2];
    make_sockets(fds);
    c.handles = calloc((size_t)c.n, sizeof *c.handles);
    CHECK(c.handles != NULL);
    for (int i = 0; i < c.n; i++)
        c.handles[i] = i % 2 ? watch(c.bell, fds[i / 2 % 2], BELL_READ, BELL_ONESHOT, to_slot())
                             : set_timeout(c.bell, now_ns() + SEC(3600), to_poll());
    CHECK_EQ(pthread_barrier_init(&c.start, NULL, CONTENDERS), 0);
    for (int i = 0; i < CONTENDERS; i++)
        threads[i] = start_thread(contend, &c);
    for (int i = 0; i < CONTENDERS; i++)
        won += (intptr_t)join_thread(threads[i]);
    CHECK_EQ(won, c.n);
    pthread_barrier_destroy(&c.start);
    free(c.handles);
    close_pair(fds);
    check_clean(c.bell);
}

/* ---- BELL_SYNC ---- */

enum { WRITERS = 4 };

typedef struct storm {
    bell_t *bell;
    int fds[WRITERS][2];
    uint32_t stop, next;
} storm;

static void *write_storm(void *argument)
{
    storm *s = argument;
    int *fds = s->fds[add(&s->next, 1)];
    while (!load(&s->stop)) {
        for (int i = 0; i < 8; i++)
            put_byte(fds[1]);
        drain_fd(fds[0]);
    }
    return NULL;
}

static void *drive_storm(void *argument)
{
    storm *s = argument;
    bell_event e;
    while (!load(&s->stop))
        CHECK_EQ(bell_poll(s->bell, 0, &e, 1, MS(100)), 0);
    return NULL;
}

/* Museum 29: the word's page goes away as soon as bell_unregister has returned. */
static void museum_029_the_word_may_be_unmapped_at_once_in_a_storm(void)
{
    uint32_t mode = has_edge() ? BELL_EDGE : BELL_ONESHOT;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int library_drives = 0; library_drives < 2; library_drives++) {
        storm s = {.bell = make_bell(1, (uint32_t)library_drives)};
        pthread_t writers[WRITERS], driver = 0;
        int with_news = 0;
        for (int i = 0; i < WRITERS; i++)
            make_sockets(s.fds[i]);
        for (int i = 0; i < WRITERS; i++)
            writers[i] = start_thread(write_storm, &s);
        if (!library_drives)
            driver = start_thread(drive_storm, &s);
        for (int i = 0; i < rounds(3000); i++) {
            uint32_t *words = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            bell_handle handles[WRITERS];
            int32_t status[WRITERS];
            CHECK(words != MAP_FAILED);
            for (int k = 0; k < WRITERS; k++)
                handles[k] = watch(s.bell, s.fds[k][0], BELL_READ, k % 2 ? mode : BELL_ONESHOT, to_futex(&words[k]));
            if (i % 4 == 0)
                AWAIT(load(&words[0]) != 0);
            for (volatile int spin = 0; spin < i % 16 * 100; spin++) {
            }
            if (i % 2) {
                CHECK_EQ(bell_unregister_batch(s.bell, handles, WRITERS, BELL_SYNC, status), WRITERS);
            } else {
                for (int k = 0; k < WRITERS; k++)
                    status[k] = bell_unregister(s.bell, handles[k], BELL_SYNC);
            }
            for (int k = 0; k < WRITERS; k++) {
                CHECK(status[k] == BELL_CANCELLED || status[k] == BELL_FIRED);
                if (k % 2 == 0) /* one-shot: told exactly when it says so */
                    CHECK_EQ((load(&words[k]) & BELL_NEWS) != 0, status[k] == BELL_FIRED);
                with_news += (load(&words[k]) & BELL_NEWS) != 0;
            }
            CHECK(munmap(words, page) == 0);
        }
        CHECK_GT(with_news, 0);
        store(&s.stop, 1);
        for (int i = 0; i < WRITERS; i++)
            join_thread(writers[i]);
        if (!library_drives) {
            CHECK_OK(bell_wake(s.bell, 0));
            join_thread(driver);
        }
        for (int i = 0; i < WRITERS; i++)
            close_pair(s.fds[i]);
        check_clean(s.bell);
    }
}

/* The number of the wake fd is somebody else's right after. */
static void the_wake_fd_may_be_closed_and_reused_at_once_in_a_storm(void)
{
    uint32_t mode = has_edge() ? BELL_EDGE : BELL_ONESHOT;
    storm s = {.bell = make_bell(1, 1)};
    pthread_t writers[WRITERS];
    int stranger = make_eventfd(), number = make_eventfd();
    for (int i = 0; i < WRITERS; i++)
        make_sockets(s.fds[i]);
    for (int i = 0; i < WRITERS; i++)
        writers[i] = start_thread(write_storm, &s);
    for (int i = 0; i < rounds(3000); i++) {
        bell_handle handle;
        uint64_t value;
        int mine = make_eventfd();
        CHECK_EQ(dup3(mine, number, O_CLOEXEC), number);
        CHECK(close(mine) == 0);
        handle = watch(s.bell, s.fds[i % WRITERS][0], BELL_READ, mode, to_eventfd(number));
        if (i % 4 == 0)
            AWAIT(looks_ready(number, POLLIN));
        CHECK_OK(bell_unregister(s.bell, handle, BELL_SYNC));
        CHECK_EQ(dup3(stranger, number, O_CLOEXEC), number);
        CHECK_EQ(read(stranger, &value, 8), -1);
    }
    CHECK(!looks_ready(stranger, POLLIN));
    store(&s.stop, 1);
    for (int i = 0; i < WRITERS; i++)
        join_thread(writers[i]);
    for (int i = 0; i < WRITERS; i++)
        close_pair(s.fds[i]);
    CHECK(close(stranger) == 0);
    CHECK(close(number) == 0);
    check_clean(s.bell);
}

static void the_driver_itself_may_unregister_in_sync(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    for (int i = 0; i < rounds(2000); i++) {
        landing l;
        int fds[2];
        make_sockets(fds);
        landing_open(&l, i % LAND_KINDS, bell);
        landing_watch(&l, fds[0], BELL_READ, BELL_ONESHOT);
        if (i % 2)
            put_byte(fds[1]);
        pump(bell, &l, 1);
        CHECK_EQ(l.count, i % 2);
        CHECK_EQ(landing_end(&l), i % 2 ? BELL_FIRED : BELL_CANCELLED);
        close_pair(fds);
    }
    check_clean(bell);
}

typedef struct locked {
    bell_t *bell;
    pthread_mutex_t mutex;
    uint32_t stop, told;
} locked;

static void *consume_under_a_lock(void *argument)
{
    locked *k = argument;
    bell_event e;
    while (!load(&k->stop)) {
        int32_t n = CHECK_OK(bell_poll(k->bell, 0, &e, 1, MS(100)));
        pthread_mutex_lock(&k->mutex);
        if (n == 1)
            add(&k->told, 1);
        pthread_mutex_unlock(&k->mutex);
    }
    return NULL;
}

/* Museum 31: libevent's blocking event_del held a lock that the callback wanted. */
static void museum_031_a_lock_that_the_consumer_needs_may_be_held(void)
{
    locked k = {.bell = make_bell(1, 0)};
    pthread_t consumer;
    int fds[2];
    CHECK_EQ(pthread_mutex_init(&k.mutex, NULL), 0);
    make_sockets(fds);
    consumer = start_thread(consume_under_a_lock, &k);
    for (int i = 0; i < rounds(5000); i++) {
        bell_handle handle;
        pthread_mutex_lock(&k.mutex);
        handle = watch(k.bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
        put_byte(fds[1]);
        for (volatile int spin = 0; spin < i % 32 * 200; spin++) {
        }
        CHECK_OK(bell_unregister(k.bell, handle, BELL_SYNC));
        drain_fd(fds[0]);
        pthread_mutex_unlock(&k.mutex);
    }
    store(&k.stop, 1);
    CHECK_OK(bell_wake(k.bell, 0));
    join_thread(consumer);
    pthread_mutex_destroy(&k.mutex);
    close_pair(fds);
    check_clean(k.bell);
}

/* ---- nothing afterwards ---- */

static void news_without_room_is_not_returned_after_unregistering(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle handles[4];
    bell_event e[4];
    int fds[2];
    make_sockets(fds);
    put_byte(fds[1]);
    for (int i = 0; i < 4; i++)
        handles[i] = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
    CHECK_EQ(bell_poll(bell, 0, e, 1, SEC(10)), 1); /* three are told and wait for room */
    for (int i = 0; i < 4; i++)
        if (handles[i] != e[0].handle) {
            CHECK_OK(bell_unregister(bell, handles[i], 0));
            handles[i] = 0;
        }
    expect_quiet(bell, MS(5));
    for (int i = 0; i < 4; i++)
        if (handles[i])
            CHECK_EQ(bell_unregister(bell, handles[i], 0), BELL_FIRED);
    close_pair(fds);
    check_clean(bell);
}

static void news_in_a_queue_is_not_drained_after_unregistering(void)
{
    bell_t *bell = make_bell(1, 0);
    int bells = make_eventfd(), fds[5][2];
    bell_target doorbell = to_eventfd(bells);
    bell_handle queue = make_queue(bell, &doorbell), handles[5];
    bell_event e[8];
    uint64_t rung;
    for (int i = 0; i < 5; i++) {
        make_sockets(fds[i]);
        handles[i] = watch(bell, fds[i][0], BELL_READ, BELL_ONESHOT, to_queue(queue));
    }
    for (int i = 0; i < 5; i++) {
        put_byte(fds[i][1]);
        turn(bell);
    }
    /* The first, one in the middle, the last. */
    for (int i = 0; i < 5; i += 2)
        CHECK_OK(bell_unregister(bell, handles[i], 0));
    CHECK_EQ(bell_queue_drain(bell, queue, e, 8), 2);
    CHECK_EQ(e[0].handle, handles[1]);
    CHECK_EQ(e[1].handle, handles[3]);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 8), 0);
    /* The only entry: the queue is empty then, and its bell rings anew for the next. */
    CHECK_EQ(read(bells, &rung, 8), 8);
    CHECK_OK(bell_rearm(bell, handles[1], NULL, BELL_NEVER));
    turn(bell);
    CHECK_OK(bell_unregister(bell, handles[1], 0));
    CHECK_EQ(bell_queue_wait(bell, queue, e, 8, 0), -ETIMEDOUT);
    CHECK_EQ(read(bells, &rung, 8), 8);
    CHECK_OK(bell_rearm(bell, handles[3], NULL, BELL_NEVER));
    turn(bell);
    CHECK_EQ(read(bells, &rung, 8), 8);
    CHECK_EQ(bell_queue_drain(bell, queue, e, 8), 1);
    CHECK_EQ(e[0].handle, handles[3]);
    CHECK_OK(bell_unregister(bell, handles[3], 0));
    CHECK_OK(bell_queue_destroy(bell, queue, BELL_SYNC));
    for (int i = 0; i < 5; i++)
        close_pair(fds[i]);
    CHECK(close(bells) == 0);
    check_clean(bell);
}

static void a_level_registration_drained_once_is_gone_too(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL), in_queue, polled;
    bell_event e[8];
    int fds[2];
    make_sockets(fds);
    put_byte(fds[1]);
    in_queue = watch(bell, fds[0], BELL_READ, BELL_LEVEL, to_queue(queue));
    polled = watch(bell, fds[0], BELL_READ, BELL_LEVEL, to_poll());
    CHECK_EQ(next_event(bell).handle, polled);
    AWAIT((bell_poll(bell, 0, e, 1, 0), bell_queue_drain(bell, queue, e, 8) == 1));
    CHECK_OK(bell_unregister(bell, in_queue, 0));
    CHECK_OK(bell_unregister(bell, polled, 0));
    CHECK_EQ(bell_queue_drain(bell, queue, e, 8), 0);
    expect_quiet(bell, MS(5));
    CHECK_EQ(bell_queue_drain(bell, queue, e, 8), 0);
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    close_pair(fds);
    check_clean(bell);
}

static void a_post_or_a_timeout_that_waits_in_a_queue_is_dropped(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL);
    bell_handle user = make_user(bell, to_queue(queue)), timeout = set_timeout(bell, 0, to_queue(queue));
    bell_event e[4];
    CHECK_OK(bell_post(bell, user, 1));
    turn(bell);
    CHECK_OK(bell_unregister(bell, user, 0));
    CHECK_EQ(bell_unregister(bell, timeout, 0), BELL_CANCELLED); /* nobody has seen it */
    CHECK_EQ(bell_queue_drain(bell, queue, e, 4), 0);
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    check_clean(bell);
}

/* ---- batches ---- */

static void a_batch_answers_for_each(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL), handles[7];
    int32_t status[7];
    int fds[2];
    make_sockets(fds);
    put_byte(fds[1]);
    handles[0] = watch(bell, fds[1], BELL_READ, BELL_ONESHOT, to_poll()); /* armed */
    handles[1] = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll()); /* delivered */
    CHECK_EQ(next_event(bell).handle, handles[1]);
    handles[2] = handles[0]; /* twice */
    handles[3] = queue;
    handles[4] = 0;
    handles[5] = set_timeout(bell, now_ns() + SEC(3600), to_slot());
    handles[6] = make_user(bell, to_slot());
    for (int sync = 0; sync < 2; sync++) {
        memset(status, 0x55, sizeof status);
        if (sync == 0) { /* refused: nothing is done */
            CHECK_EQ(bell_unregister_batch(bell, handles, 7, 2, status), -EINVAL);
            CHECK_EQ(bell_unregister_batch(bell, handles, (1 << 20) + 1, 0, status), -EINVAL);
            CHECK_EQ(bell_unregister_batch(bell, NULL, 7, 0, status), -EINVAL);
            CHECK_EQ(bell_unregister_batch(bell, handles, 7, 0, NULL), -EINVAL);
            CHECK_EQ(status[0], 0x55555555);
            CHECK_EQ(stats_of(bell).fds, 2);
            continue;
        }
        CHECK_EQ(bell_unregister_batch(bell, handles, 7, BELL_SYNC, status), 4);
        CHECK_EQ(status[0], BELL_CANCELLED);
        CHECK_EQ(status[1], BELL_FIRED);
        CHECK_EQ(status[2], BELL_E_STALE);
        CHECK_EQ(status[3], -EINVAL);
        CHECK_EQ(status[4], BELL_E_STALE);
        CHECK_EQ(status[5], BELL_CANCELLED);
        CHECK_EQ(status[6], BELL_CANCELLED);
    }
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    close_pair(fds);
    check_clean(bell);
}

/* ---- auto-release ---- */

static void auto_release_frees_by_delivery(void)
{
    int kinds[] = {LAND_POLL, LAND_FUTEX, LAND_EVENTFD, LAND_BYTE, LAND_QUEUE, LAND_MVAR};
    for (int k = 0; k < 6; k++)
        for (int timeout = 0; timeout < 2; timeout++) {
            bell_t *bell = make_bell_ghc(1, 0);
            bell_handle first = 0;
            int fds[2];
            landing l;
            fprintf(stderr, "  %s %s\n", landing_name(kinds[k]), timeout ? "timeout" : "fd");
            make_sockets(fds);
            landing_open(&l, kinds[k], bell);
            for (int round = 0; round < 100; round++) {
                landing_forget(&l);
                if (timeout) {
                    bell_timeout_spec spec = timeout_spec(0, l.target);
                    spec.flags = BELL_AUTO_RELEASE;
                    CHECK_OK(bell_register_timeout(bell, &spec, &l.handle));
                } else {
                    bell_fd_spec spec = fd_spec(fds[0], BELL_READ, BELL_ONESHOT, l.target);
                    spec.flags = BELL_AUTO_RELEASE;
                    CHECK_OK(bell_register_fd(bell, &spec, &l.handle));
                    CHECK_EQ(stats_of(bell).fds, 1);
                    put_byte(fds[1]);
                }
                CHECK_NE(l.handle, first);
                first = round == 0 ? l.handle : first;
                pump_all(bell, &l, 1);
                CHECK_EQ(l.count, 1);
                CHECK_EQ(bell_unregister(bell, l.handle, 0), BELL_E_STALE);
                CHECK_EQ(bell_rearm(bell, l.handle, NULL, BELL_NEVER), BELL_E_STALE);
                CHECK_EQ(stats_of(bell).fds + stats_of(bell).timeouts, 0);
                drain_fd(fds[0]);
            }
            check_verified(bell);
            put_byte(fds[1]);
            pump(bell, &l, 1);
            CHECK_EQ(l.count, 1);
            landing_close(&l);
            close_pair(fds);
            check_clean(bell);
        }
}

static void auto_release_is_cancelled_like_any_other_before(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    bell_handle handle;
    bell_fd_spec spec;
    fake_mvar mvar = {0};
    int fds[2];
    make_sockets(fds);
    spec = fd_spec(fds[0], BELL_READ, BELL_ONESHOT, to_mvar(&mvar, 0));
    spec.flags = BELL_AUTO_RELEASE;
    CHECK_OK(bell_register_fd(bell, &spec, &handle));
    CHECK_EQ(bell_unregister(bell, handle, BELL_SYNC), BELL_CANCELLED);
    CHECK_EQ(mvar.puts, 0);
    /* Only for what is delivered once. */
    spec = fd_spec(fds[0], BELL_READ, BELL_LEVEL, to_poll());
    spec.flags = BELL_AUTO_RELEASE;
    CHECK_EQ(bell_register_fd(bell, &spec, &handle), -EINVAL);
    if (has_edge()) {
        spec.mode = BELL_EDGE;
        CHECK_EQ(bell_register_fd(bell, &spec, &handle), -EINVAL);
    }
    close_pair(fds);
    check_clean(bell);
}

static void auto_release_is_freed_by_closing_and_by_its_deadline(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    for (int how = 0; how < 2; how++) {
        bell_handle handle;
        bell_fd_spec spec;
        fake_mvar mvar = {0};
        int fds[2];
        make_sockets(fds);
        spec = fd_spec(fds[0], BELL_READ, BELL_ONESHOT, to_mvar(&mvar, 0));
        spec.flags = BELL_AUTO_RELEASE | BELL_FD_DEADLINE;
        spec.deadline_ns = how ? BELL_NEVER : now_ns();
        CHECK_OK(bell_register_fd(bell, &spec, &handle));
        if (how)
            CHECK_OK(bell_close_fd(bell, fds[0]));
        turn(bell);
        CHECK_EQ(mvar.puts, 1);
        CHECK_EQ(bell_unregister(bell, handle, BELL_SYNC), BELL_E_STALE);
        if (!how)
            CHECK(close(fds[0]) == 0);
        CHECK(close(fds[1]) == 0);
    }
    check_clean(bell);
}

/* ---- retarget ---- */

static void retarget_says_who_owns_the_old_target(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    fake_mvar old = {0}, fresh = {0};
    bell_target target;
    bell_handle handle, queue = make_queue(bell, NULL);
    uint32_t word = 0;
    int fds[2];
    make_sockets(fds);
    handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_mvar(&old, 0));
    target = to_futex(&word);
    CHECK_EQ(bell_retarget(bell, handle, &target), BELL_CANCELLED); /* `old` is ours again */
    put_byte(fds[1]);
    turn(bell);
    CHECK_EQ(old.puts, 0);
    CHECK_HAS(load(&word), BELL_READ);
    CHECK_EQ(load(&word) / BELL_SEQ, 1);
    target = to_mvar(&fresh, 0);
    CHECK_EQ(bell_retarget(bell, handle, &target), BELL_FIRED); /* delivered; and this does not arm */
    turn(bell);
    CHECK_EQ(fresh.puts, 0);
    /* Refusals change nothing. */
    target = (bell_target){.kind = BELL_TARGET_NONE};
    CHECK_EQ(bell_retarget(bell, handle, &target), -EINVAL);
    target = to_queue(queue + 1);
    CHECK_EQ(bell_retarget(bell, handle, &target), BELL_E_STALE);
    target = to_futex((uint32_t *)((char *)&word + 1));
    CHECK_EQ(bell_retarget(bell, handle, &target), -EINVAL);
    target = to_eventfd(-1);
    CHECK_EQ(bell_retarget(bell, handle, &target), -EBADF);
    target = to_mvar(&fresh, 0);
    CHECK_OK(bell_rearm(bell, handle, &target, BELL_NEVER));
    turn(bell);
    CHECK_EQ(fresh.puts, 1);
    CHECK_EQ(bell_unregister(bell, handle, 0), BELL_FIRED);
    CHECK_EQ(bell_retarget(bell, handle, &target), BELL_E_STALE);
    /* A mode that cannot have the target. */
    handle = watch(bell, fds[0], BELL_READ, BELL_LEVEL, to_queue(queue));
    target = to_slot();
    CHECK_EQ(bell_retarget(bell, handle, &target), -EINVAL);
    target = to_mvar(&old, 0);
    CHECK_EQ(bell_retarget(bell, handle, &target), -EINVAL);
    target = to_poll();
    CHECK_OK(bell_retarget(bell, handle, &target));
    CHECK_OK(bell_queue_destroy(bell, queue, 0)); /* it is nobody's target any more */
    CHECK_OK(bell_unregister(bell, handle, 0));
    CHECK_EQ(old.puts, 0);
    close_pair(fds);
    check_clean(bell);
}

static void retarget_works_for_timeouts_and_user_events(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    fake_mvar a = {0}, b = {0}, c = {0}, d = {0};
    bell_handle timeout = set_timeout(bell, now_ns() + SEC(3600), to_mvar(&a, 0));
    bell_handle user = make_user(bell, to_mvar(&b, 0));
    bell_target target = to_mvar(&c, 0);
    CHECK_EQ(bell_retarget(bell, timeout, &target), BELL_CANCELLED);
    CHECK_OK(bell_update_timeout(bell, timeout, 0));
    target = to_mvar(&d, 0);
    CHECK_EQ(bell_retarget(bell, user, &target), BELL_CANCELLED);
    CHECK_OK(bell_post(bell, user, 1));
    turn(bell);
    CHECK_EQ(a.puts, 0);
    CHECK_EQ(b.puts, 0);
    CHECK_EQ(c.puts, 1);
    CHECK_EQ(d.puts, 1);
    target = to_mvar(&a, 0);
    CHECK_EQ(bell_retarget(bell, timeout, &target), BELL_FIRED);
    /* Not armed, but never filled either: the StablePtr is the caller's again. */
    target = to_mvar(&b, 0);
    CHECK_EQ(bell_retarget(bell, timeout, &target), BELL_CANCELLED);
    CHECK_EQ(bell_unregister(bell, timeout, 0), BELL_CANCELLED);
    CHECK_EQ(bell_unregister(bell, user, 0), BELL_FIRED);
    timeout = set_timeout(bell, BELL_NEVER, to_mvar(&a, 0));
    CHECK_EQ(bell_unregister(bell, timeout, 0), BELL_CANCELLED);
    check_clean(bell);
    CHECK_EQ(a.puts + b.puts, 0);
}

/* ---- destroy ---- */

static void destroy_tells_closed_to_whoever_is_armed(void)
{
    for (uint32_t threads = 0; threads < 2; threads++) {
        enum { N = 20 };
        bell_t *bell = make_bell_ghc(1, threads);
        fake_mvar armed[N] = {{0}}, delivered = {0}, timeout = {0}, user = {0}, ring = {0};
        bell_target doorbell = to_mvar(&ring, 0);
        uint32_t word = 0;
        int fds[2], wake = make_eventfd();
        uint64_t value = 0;
        make_sockets(fds);
        put_byte(fds[1]);
        watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_mvar(&delivered, 0));
        if (threads)
            AWAIT(load(&delivered.puts) == 1);
        else
            turn(bell);
        CHECK_EQ(delivered.puts, 1);
        for (int i = 0; i < N; i++)
            watch(bell, fds[1], BELL_READ, BELL_ONESHOT, to_mvar(&armed[i], 0));
        set_timeout(bell, now_ns() + SEC(3600), to_mvar(&timeout, 0));
        make_user(bell, to_mvar(&user, 0));
        make_queue(bell, &doorbell);
        watch(bell, fds[1], BELL_READ, BELL_ONESHOT, to_futex(&word));
        watch(bell, fds[1], BELL_READ, BELL_ONESHOT, to_eventfd(wake));
        CHECK_OK(bell_destroy(bell, 0));
        for (int i = 0; i < N; i++)
            CHECK_EQ(armed[i].puts, 1);
        CHECK_EQ(timeout.puts, 1);
        CHECK_EQ(user.puts, 1);
        CHECK_EQ(delivered.puts, 1);
        CHECK_EQ(ring.puts, 1);
        CHECK_HAS(word, BELL_CLOSED);
        CHECK_EQ(read(wake, &value, 8), 8);
        CHECK_EQ(value, 1);
        CHECK_EQ(bell_destroy(bell, 0), BELL_E_STALE);
        CHECK(fcntl(fds[0], F_GETFD) >= 0); /* the fds stay the caller's */
        close_pair(fds);
        CHECK(close(wake) == 0);
    }
}

/* Museum 34 and 87: what was told but not fetched. */
static void museum_087_destroy_with_undrained_news_ends(void)
{
    for (int i = 0; i < rounds(200); i++) {
        bell_t *bell = make_bell(1, 0);
        bell_handle queue = make_queue(bell, NULL), handles[8];
        bell_event e;
        int fds[2];
        make_sockets(fds);
        put_byte(fds[1]);
        for (int k = 0; k < 8; k++)
            handles[k] = watch(bell, fds[0], BELL_READ, k % 3 ? BELL_ONESHOT : BELL_LEVEL,
                               k % 2 ? to_poll() : to_queue(queue));
        CHECK_EQ(bell_poll(bell, 0, &e, 1, SEC(10)), 1);
        CHECK_OK(bell_unregister(bell, handles[i % 8], 0));
        CHECK_OK(bell_destroy(bell, 0));
        close_pair(fds);
    }
}

int main(void)
{
    RUN(an_fd_answers_by_its_state);
    RUN(a_timeout_answers_by_its_state);
    RUN(a_user_event_answers_by_its_state);
    RUN(what_is_not_a_registration_is_refused);
    RUN(one_of_many_who_unregister_at_once_is_answered);
    RUN(a_poll_event_is_either_returned_or_cancelled);
    RUN(a_futex_is_either_written_or_cancelled);
    RUN(an_eventfd_is_either_written_or_cancelled);
    RUN(a_pipe_is_either_written_or_cancelled);
    RUN(a_queue_is_either_filled_or_cancelled);
    RUN(museum_035_an_mvar_is_either_put_or_cancelled);
    RUN(a_timeout_to_poll_either_fires_or_is_cancelled);
    RUN(a_timeout_to_futex_either_fires_or_is_cancelled);
    RUN(a_timeout_to_queue_either_fires_or_is_cancelled);
    RUN(a_timeout_to_mvar_either_fires_or_is_cancelled);
    RUN(a_post_to_mvar_is_either_put_or_cancelled);
    RUN(museum_029_the_word_may_be_unmapped_at_once_in_a_storm);
    RUN(the_wake_fd_may_be_closed_and_reused_at_once_in_a_storm);
    RUN(the_driver_itself_may_unregister_in_sync);
    RUN(museum_031_a_lock_that_the_consumer_needs_may_be_held);
    RUN(news_without_room_is_not_returned_after_unregistering);
    RUN(news_in_a_queue_is_not_drained_after_unregistering);
    RUN(a_level_registration_drained_once_is_gone_too);
    RUN(a_post_or_a_timeout_that_waits_in_a_queue_is_dropped);
    RUN(a_batch_answers_for_each);
    RUN(auto_release_frees_by_delivery);
    RUN(auto_release_is_cancelled_like_any_other_before);
    RUN(auto_release_is_freed_by_closing_and_by_its_deadline);
    RUN(retarget_says_who_owns_the_old_target);
    RUN(retarget_works_for_timeouts_and_user_events);
    RUN(destroy_tells_closed_to_whoever_is_armed);
    RUN(museum_087_destroy_with_undrained_news_ends);
    return 0;
}
