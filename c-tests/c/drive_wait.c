/* Driving by those who wait: no library threads, no bell_poll. Whoever waits leads, the others follow. */
#define _GNU_SOURCE
#include "check.h"
#include <sched.h>

enum { WAITERS = 8 };

static uint32_t random_below(uint32_t limit)
{
    static uint64_t x = 88172645463325252u;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return (uint32_t)(x >> 33) % limit;
}

/* 0 to n-1 in random order. */
static void shuffle(int *order, int n)
{
    for (int i = 0; i < n; i++) {
        int k = (int)random_below((uint32_t)i + 1);
        order[i] = order[k];
        order[k] = i;
    }
}

static uint32_t mode(void)
{
    /* With io_uring the ring moves with who drives, and an edge that is not drained yet is told again. */
    return has_edge() && !on_io_uring() ? BELL_EDGE : BELL_ONESHOT;
}

/* Waits on one side of a slot, arming first where the mode needs it. */
static int32_t await_ready(bell_t *bell, bell_handle h, uint32_t direction, int64_t deadline_ns)
{
    if (mode() == BELL_ONESHOT) {
        int32_t armed = bell_rearm(bell, h, NULL, BELL_NEVER);
        if (armed < 0)
            return armed;
    }
    return bell_slot_wait(bell, h, direction, deadline_ns, 0);
}

/* ---- one thread ---- */

static void *write_slowly(void *argument)
{
    int fd = *(int *)argument;
    for (int i = 0; i < 200; i++) {
        put_byte(fd);
        if (i % 10 == 0)
            sched_yield();
    }
    return NULL;
}

static void can_one_thread_wait_without_any_other_driver(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    make_sockets(fds);
    bell_handle h = watch(bell, fds[0], BELL_READ, mode(), to_slot());
    pthread_t writer = start_thread(write_slowly, &fds[1]);
    for (int got = 0; got < 200;) {
        char text[16];
        ssize_t n = read(fds[0], text, sizeof text);
        if (n > 0) {
            got += (int)n;
            continue;
        }
        CHECK(n < 0 && errno == EAGAIN);
        CHECK_HAS(CHECK_OK(await_ready(bell, h, BELL_READ, now_ns() + PATIENCE)), BELL_READ);
    }
    join_thread(writer);
    CHECK_OK(bell_unregister(bell, h, 0));
    close_pair(fds);
    check_clean(bell);
}

static void do_timeouts_fire_for_a_lone_waiter(void)
{
    bell_t *bell = make_bell(1, 0);
    for (int i = 0; i < rounds(50); i++) {
        int64_t deadline = now_ns() + US(100 * i);
        bell_handle h = set_timeout(bell, deadline, to_slot());
        CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_TIMEOUT);
        CHECK_GE(now_ns(), deadline);
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    }
    check_clean(bell);
}

static void is_the_deadline_of_a_wait_never_early_and_0_only_a_look(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    make_sockets(fds);
    bell_handle h = watch(bell, fds[0], BELL_READ, mode(), to_slot());
    static const int64_t waits[] = {1, 1000, 999999, 1000000, 1000001, 3100000};
    for (int i = 0; i < rounds(60); i++) {
        int64_t deadline = now_ns() + waits[i % 6];
        CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, deadline, 0), -ETIMEDOUT);
        CHECK_GE(now_ns(), deadline);
        CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, 0, 0), -ETIMEDOUT);
        CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, 1, 0), -ETIMEDOUT);
    }
    put_byte(fds[1]);
    CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
    bell_handle user = make_user(bell, to_slot());
    bell_event e;
    CHECK_EQ(bell_post(bell, user, 1), 0);
    CHECK_EQ(bell_poll(bell, 0, &e, 1, SEC(10)), 0);
    CHECK_EQ(bell_slot_wait(bell, user, BELL_READ, 0, 0), BELL_USER); /* a look finds news that is there */
    CHECK_OK(bell_unregister(bell, user, 0));
    CHECK_OK(bell_unregister(bell, h, 0));
    close_pair(fds);
    check_clean(bell);
}

static void does_level_check_see_what_was_not_drained(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    make_sockets(fds);
    bell_handle h = watch(bell, fds[0], BELL_READ, mode(), to_slot());
    put_byte(fds[1]);
    CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
    /* The byte is still there, its news is taken. */
    if (has_edge())
        CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, now_ns() + MS(2), 0), -ETIMEDOUT);
    CHECK_HAS(CHECK_OK(bell_slot_wait(bell, h, BELL_READ, now_ns() + PATIENCE, BELL_LEVEL_CHECK)), BELL_READ);
    CHECK_EQ(drain_fd(fds[0]), 1);
    CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, now_ns() + MS(2), BELL_LEVEL_CHECK), -ETIMEDOUT);
    CHECK_OK(bell_unregister(bell, h, 0));
    close_pair(fds);
    check_clean(bell);
}

/* ---- ping-pong of many ---- */

typedef struct duel {
    bell_t *bell;
    bell_handle handle;
    int fds[2]; /* 0: waits by the library; 1: waits by poll(2) */
    int rounds;
    uint64_t sum;
} duel;

static void *echo_by_slot(void *argument)
{
    duel *d = argument;
    unsigned char c;
    for (int got = 0; got < d->rounds;) {
        ssize_t n = read(d->fds[0], &c, 1);
        if (n == 1) {
            got++;
            d->sum += c;
            c = (unsigned char)~c;
            CHECK_EQ(write(d->fds[0], &c, 1), 1);
            continue;
        }
        CHECK(n < 0 && errno == EAGAIN);
        CHECK_HAS(CHECK_OK(await_ready(d->bell, d->handle, BELL_READ, now_ns() + PATIENCE)), BELL_READ);
    }
    return NULL;
}

static void *ask_by_poll(void *argument)
{
    duel *d = argument;
    for (int i = 0; i < d->rounds; i++) {
        struct pollfd p = {.fd = d->fds[1], .events = POLLIN};
        unsigned char c = (unsigned char)(i * 7), answer;
        d->sum += c;
        CHECK_EQ(write(d->fds[1], &c, 1), 1);
        CHECK_EQ(poll(&p, 1, 60000), 1);
        CHECK_EQ(read(d->fds[1], &answer, 1), 1);
        CHECK_EQ(answer, (unsigned char)~c);
    }
    return NULL;
}

static void duels(uint32_t shards, int count)
{
    bell_t *bell = make_bell(shards, 0);
    duel waiting[WAITERS], asking[WAITERS];
    pthread_t threads[2 * WAITERS];
    for (int i = 0; i < count; i++) {
        waiting[i] = (duel){.bell = bell, .rounds = rounds(2000)};
        make_sockets(waiting[i].fds);
        bell_fd_spec spec = fd_spec(waiting[i].fds[0], BELL_READ, mode(), to_slot());
        spec.shard = (uint32_t)i % shards;
        CHECK_OK(bell_register_fd(bell, &spec, &waiting[i].handle));
        asking[i] = waiting[i];
    }
    for (int i = 0; i < count; i++) {
        threads[2 * i] = start_thread(echo_by_slot, &waiting[i]);
        threads[2 * i + 1] = start_thread(ask_by_poll, &asking[i]);
    }
    for (int i = 0; i < 2 * count; i++)
        join_thread(threads[i]);
    for (int i = 0; i < count; i++) {
        CHECK_EQ(waiting[i].sum, asking[i].sum);
        CHECK_OK(bell_unregister(bell, waiting[i].handle, 0));
        close_pair(waiting[i].fds);
    }
    check_clean(bell);
}

static void do_8_waiters_of_one_shard_play_ping_pong_with_8_writers(void)
{
    duels(1, WAITERS);
}

static void do_waiters_of_several_shards_play_ping_pong(void)
{
    duels(3, WAITERS);
}

/* ---- leaders and followers come and go ---- */

typedef struct waiter {
    bell_t *bell;
    bell_handle handle;
    uint32_t direction;
    int64_t deadline_ns;
    int fds[2];
    pthread_t thread;
    uint32_t done;
    int32_t result;
    int64_t returned_ns;
} waiter;

static void *wait_once(void *argument)
{
    waiter *w = argument;
    w->result = bell_slot_wait(w->bell, w->handle, w->direction, w->deadline_ns, 0);
    w->returned_ns = now_ns();
    store(&w->done, 1);
    return NULL;
}

/* Eight registrations of eight socketpairs of one shard, freshly armed. */
static void open_waiters(bell_t *bell, waiter *w)
{
    for (int i = 0; i < WAITERS; i++) {
        w[i] = (waiter){.bell = bell, .direction = BELL_READ, .deadline_ns = BELL_NEVER};
        make_sockets(w[i].fds);
        w[i].handle = watch(bell, w[i].fds[0], BELL_READ, mode(), to_slot());
    }
}

static void start_waiters(waiter *w, int n)
{
    for (int i = 0; i < n; i++) {
        store(&w[i].done, 0);
        w[i].thread = start_thread(wait_once, &w[i]);
    }
}

static void close_waiters(waiter *w)
{
    for (int i = 0; i < WAITERS; i++) {
        int32_t r = bell_unregister(w[i].bell, w[i].handle, BELL_SYNC);
        CHECK(r >= 0 || r == BELL_E_STALE);
        close_pair(w[i].fds);
    }
}

static void do_waiters_leave_in_any_order(void)
{
    bell_t *bell = make_bell(1, 0);
    waiter w[WAITERS];
    int order[WAITERS];
    open_waiters(bell, w);
    for (int round = 0; round < rounds(150); round++) {
        start_waiters(w, WAITERS);
        if (round % 2)
            AWAIT(stats_of(bell).waiters == WAITERS);
        shuffle(order, WAITERS);
        for (int i = 0; i < WAITERS; i++) {
            put_byte(w[order[i]].fds[1]);
            if (round % 3)
                AWAIT(load(&w[order[i]].done)); /* this one alone must come, whoever leads */
        }
        for (int i = 0; i < WAITERS; i++) {
            join_thread(w[i].thread);
            CHECK_EQ(w[i].result, BELL_READ);
            CHECK_EQ(drain_fd(w[i].fds[0]), 1);
            if (mode() == BELL_ONESHOT)
                CHECK_EQ(bell_rearm(bell, w[i].handle, NULL, BELL_NEVER), 0);
        }
        CHECK_EQ(stats_of(bell).waiters, 0);
    }
    close_waiters(w);
    check_clean(bell);
}

static void do_waiters_time_out_while_others_stay(void)
{
    bell_t *bell = make_bell(1, 0);
    waiter w[WAITERS];
    open_waiters(bell, w);
    for (int round = 0; round < rounds(30); round++) {
        int64_t start = now_ns();
        for (int i = 0; i < WAITERS; i++)
            w[i].deadline_ns = i == round % WAITERS ? BELL_NEVER : start + US(random_below(15000));
        start_waiters(w, WAITERS);
        for (int i = 0; i < WAITERS; i++) {
            if (i == round % WAITERS)
                continue;
            join_thread(w[i].thread);
            CHECK_EQ(w[i].result, -ETIMEDOUT);
            CHECK_GE(w[i].returned_ns, w[i].deadline_ns);
            CHECK_LT(w[i].returned_ns - start, PATIENCE);
        }
        waiter *last = &w[round % WAITERS];
        CHECK_EQ(load(&last->done), 0);
        put_byte(last->fds[1]);
        join_thread(last->thread);
        CHECK_EQ(last->result, BELL_READ);
        CHECK_EQ(drain_fd(last->fds[0]), 1);
        if (mode() == BELL_ONESHOT)
            CHECK_EQ(bell_rearm(bell, last->handle, NULL, BELL_NEVER), 0);
    }
    close_waiters(w);
    check_clean(bell);
}

static void do_the_others_go_on_when_a_waiter_is_unregistered(void)
{
    for (int round = 0; round < rounds(60); round++) {
        bell_t *bell = make_bell(1, 0);
        waiter w[WAITERS];
        int order[WAITERS];
        open_waiters(bell, w);
        start_waiters(w, WAITERS);
        AWAIT(stats_of(bell).waiters == WAITERS);
        shuffle(order, WAITERS);
        for (int i = 0; i < WAITERS / 2; i++) {
            waiter *gone = &w[order[i]];
            CHECK_EQ(bell_unregister(bell, gone->handle, round % 2 ? BELL_SYNC : 0), BELL_CANCELLED);
            join_thread(gone->thread);
            CHECK_EQ(gone->result, BELL_E_CANCELLED);
        }
        for (int i = WAITERS / 2; i < WAITERS; i++)
            CHECK_EQ(load(&w[order[i]].done), 0);
        for (int i = WAITERS / 2; i < WAITERS; i++) {
            put_byte(w[order[i]].fds[1]);
            join_thread(w[order[i]].thread);
            CHECK_EQ(w[order[i]].result, BELL_READ);
        }
        close_waiters(w);
        check_clean(bell);
    }
}

typedef struct leader {
    bell_t *bell;
    bell_handle handle;
    uint32_t thread;
} leader;

static void *wait_until_it_goes(void *argument)
{
    leader *l = argument;
    store(&l->thread, thread_id());
    CHECK_EQ(bell_slot_wait(l->bell, l->handle, BELL_READ, now_ns() + PATIENCE, 0), BELL_E_CANCELLED);
    return NULL;
}

/* It sleeps in the kernel and not on its word, whatever it waits for. */
static void does_a_lone_waiter_find_out_that_what_it_waits_for_goes(void)
{
    bell_t *bell = make_bell(1, 0);
    int fd = make_eventfd();
    static uint32_t word;
    bell_target other = to_futex(&word);
    for (int way = 0; way < 6; way++) {
        leader l = {.bell = bell};
        switch (way / 2) {
        case 0: l.handle = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_slot()); break;
        case 1: l.handle = set_timeout(bell, BELL_NEVER - 1, to_slot()); break;
        default: l.handle = make_user(bell, to_slot());
        }
        pthread_t thread = start_thread(wait_until_it_goes, &l);
        AWAIT(stats_of(bell).waiters == 1);
        AWAIT(is_asleep(&l.thread));
        if (way % 2) {
            CHECK_EQ(bell_retarget(bell, l.handle, &other), BELL_CANCELLED);
            join_thread(thread);
        }
        CHECK_EQ(bell_unregister(bell, l.handle, 0), BELL_CANCELLED);
        if (way % 2 == 0)
            join_thread(thread);
    }
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

static void ignore_signal(int number)
{
    (void)number;
}

static void does_a_signal_end_only_the_wait_of_its_thread(void)
{
    struct sigaction action = {.sa_handler = ignore_signal}; /* no SA_RESTART */
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    for (int round = 0; round < rounds(30); round++) {
        bell_t *bell = make_bell(1, 0);
        waiter w[WAITERS];
        int order[WAITERS];
        open_waiters(bell, w);
        start_waiters(w, WAITERS);
        AWAIT(stats_of(bell).waiters == WAITERS);
        shuffle(order, WAITERS);
        for (int i = 0; i < WAITERS / 2; i++) {
            waiter *hit = &w[order[i]];
            int64_t start = now_ns();
            /* It may be counted and not asleep yet: again until it is. */
            while (!load(&hit->done)) {
                CHECK_EQ(pthread_kill(hit->thread, SIGUSR1), 0);
                CHECK_LT(now_ns() - start, PATIENCE);
                sched_yield();
            }
            join_thread(hit->thread);
            CHECK_EQ(hit->result, -EINTR);
        }
        for (int i = WAITERS / 2; i < WAITERS; i++)
            CHECK_EQ(load(&w[order[i]].done), 0);
        for (int i = WAITERS / 2; i < WAITERS; i++) {
            put_byte(w[order[i]].fds[1]);
            join_thread(w[order[i]].thread);
            CHECK_EQ(w[order[i]].result, BELL_READ);
        }
        close_waiters(w);
        check_clean(bell);
    }
    signal(SIGUSR1, SIG_DFL);
}

static void does_a_timeout_fire_for_a_follower_while_another_leads(void)
{
    bell_t *bell = make_bell(1, 0);
    waiter w[WAITERS], t = {.bell = bell, .direction = BELL_READ, .deadline_ns = BELL_NEVER};
    open_waiters(bell, w);
    start_waiters(w, WAITERS);
    AWAIT(stats_of(bell).waiters == WAITERS);
    for (int round = 0; round < rounds(100); round++) {
        int64_t deadline = now_ns() + US(random_below(3000));
        t.handle = set_timeout(bell, deadline, to_slot());
        start_waiters(&t, 1);
        join_thread(t.thread);
        CHECK_EQ(t.result, BELL_TIMEOUT);
        CHECK_GE(t.returned_ns, deadline);
        CHECK_LT(t.returned_ns - deadline, PATIENCE);
        CHECK_EQ(bell_unregister(bell, t.handle, 0), BELL_FIRED);
    }
    /* The same for a deadline that an fd's registration has. */
    bell_fd_spec spec = fd_spec(w[0].fds[1], BELL_READ, BELL_ONESHOT, to_slot());
    spec.flags = BELL_FD_DEADLINE;
    spec.deadline_ns = now_ns() + MS(3);
    CHECK_OK(bell_register_fd(bell, &spec, &t.handle));
    start_waiters(&t, 1);
    join_thread(t.thread);
    CHECK_EQ(t.result, BELL_TIMEOUT);
    CHECK_GE(t.returned_ns, spec.deadline_ns);
    CHECK_EQ(bell_unregister(bell, t.handle, 0), BELL_FIRED);
    for (int i = 0; i < WAITERS; i++) {
        CHECK_EQ(load(&w[i].done), 0);
        put_byte(w[i].fds[1]);
    }
    for (int i = 0; i < WAITERS; i++) {
        join_thread(w[i].thread);
        CHECK_EQ(w[i].result, BELL_READ);
    }
    close_waiters(w);
    check_clean(bell);
}

static void do_posts_reach_followers(void)
{
    bell_t *bell = make_bell(1, 0);
    waiter w[WAITERS];
    int order[WAITERS];
    for (int i = 0; i < WAITERS; i++)
        w[i] = (waiter){.bell = bell,
                        .direction = BELL_READ,
                        .deadline_ns = BELL_NEVER,
                        .handle = make_user(bell, to_slot())};
    for (int round = 0; round < rounds(100); round++) {
        start_waiters(w, WAITERS);
        if (round % 2)
            AWAIT(stats_of(bell).waiters == WAITERS);
        shuffle(order, WAITERS);
        for (int i = 0; i < WAITERS; i++)
            CHECK_EQ(bell_post(bell, w[order[i]].handle, 1), 0);
        for (int i = 0; i < WAITERS; i++) {
            join_thread(w[i].thread);
            CHECK_EQ(w[i].result, BELL_USER);
        }
    }
    for (int i = 0; i < WAITERS; i++)
        CHECK_OK(bell_unregister(bell, w[i].handle, 0));
    check_clean(bell);
}

static void do_a_reader_and_a_writer_wait_on_one_slot(void)
{
    for (int round = 0; round < rounds(50); round++) {
        bell_t *bell = make_bell(1, 0);
        int fds[2];
        make_sockets(fds);
        long filled = fill_fd(fds[0]);
        waiter r = {.bell = bell, .direction = BELL_READ, .deadline_ns = BELL_NEVER}, w = r;
        w.direction = BELL_WRITE;
        r.handle = w.handle = watch(bell, fds[0], BELL_READ | BELL_WRITE, mode(), to_slot());
        start_waiters(&r, 1);
        start_waiters(&w, 1);
        AWAIT(stats_of(bell).waiters == 2);
        if (round % 2)
            put_byte(fds[1]);
        else
            CHECK_EQ(drain_fd(fds[1]), filled);
        waiter *first = round % 2 ? &r : &w, *second = round % 2 ? &w : &r;
        join_thread(first->thread);
        CHECK_HAS(first->result, first->direction);
        CHECK_EQ(load(&second->done), 0);
        if (mode() == BELL_ONESHOT)
            CHECK_EQ(bell_rearm(bell, r.handle, NULL, BELL_NEVER), 0);
        if (round % 2) {
            drain_fd(fds[0]);
            CHECK_EQ(drain_fd(fds[1]), filled);
            /* Arming again while the byte was there may have taken the one delivery for reading. */
            if (mode() == BELL_ONESHOT)
                CHECK_EQ(bell_rearm(bell, r.handle, NULL, BELL_NEVER), 0);
        } else
            put_byte(fds[1]);
        int64_t start = now_ns();
        while (!load(&second->done)) {
            CHECK_LT(now_ns() - start, PATIENCE);
            sched_yield();
            if (mode() == BELL_ONESHOT) /* WRITE is ready all the time and uses up each arming */
                CHECK_EQ(bell_rearm(bell, r.handle, NULL, BELL_NEVER), 0);
        }
        join_thread(second->thread);
        CHECK_HAS(second->result, second->direction);
        CHECK_OK(bell_unregister(bell, r.handle, 0));
        close_pair(fds);
        check_clean(bell);
    }
}

static void does_each_piece_of_news_end_one_of_several_waits_on_a_word(void)
{
    bell_t *bell = make_bell(1, 0);
    waiter w[WAITERS];
    bell_handle h = make_user(bell, to_slot());
    for (int round = 0; round < rounds(30); round++) {
        for (int i = 0; i < WAITERS; i++)
            w[i] = (waiter){.bell = bell, .direction = BELL_READ, .deadline_ns = BELL_NEVER, .handle = h};
        start_waiters(w, WAITERS);
        for (int left = WAITERS; left > 0; left--) {
            int done = 0;
            CHECK_EQ(bell_post(bell, h, 1), 0);
            int64_t start = now_ns();
            while (done < WAITERS - left + 1) {
                CHECK_LT(now_ns() - start, PATIENCE);
                done = 0;
                for (int i = 0; i < WAITERS; i++)
                    done += (int)load(&w[i].done);
            }
            CHECK_EQ(done, WAITERS - left + 1);
        }
        for (int i = 0; i < WAITERS; i++) {
            join_thread(w[i].thread);
            CHECK_EQ(w[i].result, BELL_USER);
        }
    }
    CHECK_OK(bell_unregister(bell, h, 0));
    check_clean(bell);
}

/* ---- queues as pools of workers ---- */

enum { SOURCES = 32, WORKERS = 4 };
typedef struct pool {
    bell_t *bell;
    bell_handle queue, stop;
    int fds[SOURCES][2];
    bell_handle handles[SOURCES];
    uint32_t bytes, sum;
    uint32_t inside[SOURCES];
    uint32_t batches;
} pool;

static void *work(void *argument)
{
    pool *p = argument;
    for (;;) {
        bell_event events[4];
        int32_t n = CHECK_OK(bell_queue_wait(p->bell, p->queue, events, 4, now_ns() + PATIENCE));
        CHECK(n >= 1 && n <= 4);
        add(&p->batches, 1);
        int stopped = 0;
        for (int32_t i = 0; i < n; i++) {
            if (events[i].handle == p->stop) {
                CHECK_EQ(events[i].ready, BELL_USER);
                stopped = 1;
                continue;
            }
            uint64_t k = events[i].user_data;
            unsigned char text[64];
            ssize_t got;
            CHECK_LT(k, SOURCES);
            CHECK_EQ(events[i].handle, p->handles[k]);
            CHECK_EQ(add(&p->inside[k], 1), 0); /* it is ours alone until we arm it again */
            while ((got = read(p->fds[k][0], text, sizeof text)) > 0)
                for (ssize_t j = 0; j < got; j++) {
                    add(&p->bytes, 1);
                    add(&p->sum, text[j]);
                }
            CHECK(got < 0 && errno == EAGAIN);
            add(&p->inside[k], UINT32_MAX);
            CHECK_EQ(bell_rearm(p->bell, p->handles[k], NULL, BELL_NEVER), 0);
        }
        if (stopped) {
            CHECK_EQ(bell_post(p->bell, p->stop, 1), 0); /* the next worker, please */
            return NULL;
        }
    }
}

static void open_pool(pool *p, bell_t *bell)
{
    bell_target target;
    memset(p, 0, sizeof *p);
    p->bell = bell;
    p->queue = make_queue(bell, NULL);
    target = to_queue(p->queue);
    p->stop = make_user(bell, target);
    for (uint64_t i = 0; i < SOURCES; i++) {
        make_sockets(p->fds[i]);
        bell_fd_spec spec = fd_spec(p->fds[i][0], BELL_READ, BELL_ONESHOT, target);
        spec.user_data = i;
        CHECK_OK(bell_register_fd(bell, &spec, &p->handles[i]));
    }
}

static void close_pool(pool *p)
{
    CHECK_EQ(bell_queue_destroy(p->bell, p->queue, 0), BELL_E_BUSY);
    for (int i = 0; i < SOURCES; i++) {
        CHECK_OK(bell_unregister(p->bell, p->handles[i], 0));
        close_pair(p->fds[i]);
    }
    CHECK_OK(bell_unregister(p->bell, p->stop, 0));
    CHECK_EQ(bell_queue_destroy(p->bell, p->queue, 0), BELL_FIRED);
}

static void feed_pool(pool *p, uint32_t count)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        unsigned char c = (unsigned char)random_below(256);
        int fd = p->fds[random_below(SOURCES)][1];
        int64_t start = now_ns();
        while (write(fd, &c, 1) != 1) {
            CHECK(errno == EAGAIN);
            CHECK_LT(now_ns() - start, PATIENCE);
            sched_yield();
        }
        sum += c;
        if (i % 64 == 0)
            AWAIT(load(&p->bytes) + 200 > i);
    }
    AWAIT(load(&p->bytes) == count);
    CHECK_EQ(load(&p->sum), sum);
}

static void do_4_threads_share_a_queue(void)
{
    static pool p;
    pthread_t workers[WORKERS];
    open_pool(&p, make_bell(1, 0));
    for (int i = 0; i < WORKERS; i++)
        workers[i] = start_thread(work, &p);
    feed_pool(&p, (uint32_t)rounds(20000));
    CHECK_EQ(bell_post(p.bell, p.stop, 1), 0);
    for (int i = 0; i < WORKERS; i++)
        join_thread(workers[i]);
    close_pool(&p);
    check_clean(p.bell);
}

static void do_slot_waiters_and_queue_waiters_mix(void)
{
    static pool p;
    enum { DUELS = 3 };
    pthread_t workers[WORKERS], threads[2 * DUELS];
    duel waiting[DUELS], asking[DUELS];
    bell_t *bell = make_bell(1, 0);
    open_pool(&p, bell);
    for (int i = 0; i < DUELS; i++) {
        waiting[i] = (duel){.bell = bell, .rounds = rounds(1500)};
        make_sockets(waiting[i].fds);
        waiting[i].handle = watch(bell, waiting[i].fds[0], BELL_READ, mode(), to_slot());
        asking[i] = waiting[i];
    }
    for (int i = 0; i < WORKERS; i++)
        workers[i] = start_thread(work, &p);
    for (int i = 0; i < DUELS; i++) {
        threads[2 * i] = start_thread(echo_by_slot, &waiting[i]);
        threads[2 * i + 1] = start_thread(ask_by_poll, &asking[i]);
    }
    feed_pool(&p, (uint32_t)rounds(5000));
    for (int i = 0; i < 2 * DUELS; i++)
        join_thread(threads[i]);
    CHECK_EQ(bell_post(p.bell, p.stop, 1), 0);
    for (int i = 0; i < WORKERS; i++)
        join_thread(workers[i]);
    for (int i = 0; i < DUELS; i++) {
        CHECK_EQ(waiting[i].sum, asking[i].sum);
        CHECK_OK(bell_unregister(bell, waiting[i].handle, 0));
        close_pair(waiting[i].fds);
    }
    close_pool(&p);
    check_clean(bell);
}

typedef struct queue_waiter {
    bell_t *bell;
    bell_handle queue;
    int64_t deadline_ns;
    int32_t result;
    int64_t returned_ns;
} queue_waiter;

static void *wait_for_queue(void *argument)
{
    queue_waiter *q = argument;
    bell_event e;
    q->result = bell_queue_wait(q->bell, q->queue, &e, 1, q->deadline_ns);
    q->returned_ns = now_ns();
    return NULL;
}

static void does_queue_wait_end_by_deadline_and_by_destruction(void)
{
    bell_t *bell = make_bell(1, 0);
    for (int round = 0; round < rounds(50); round++) {
        queue_waiter q = {.bell = bell, .queue = make_queue(bell, NULL), .deadline_ns = now_ns() + US(500)}, other = q;
        bell_event e;
        CHECK_EQ(bell_queue_wait(bell, q.queue, &e, 1, 0), -ETIMEDOUT);
        wait_for_queue(&q);
        CHECK_EQ(q.result, -ETIMEDOUT);
        CHECK_GE(q.returned_ns, q.deadline_ns);
        q.deadline_ns = other.deadline_ns = BELL_NEVER;
        pthread_t a = start_thread(wait_for_queue, &q), b = start_thread(wait_for_queue, &other);
        AWAIT(stats_of(bell).waiters == 2);
        CHECK_EQ(bell_queue_destroy(bell, q.queue, round % 2 ? BELL_SYNC : 0), BELL_FIRED);
        join_thread(a);
        join_thread(b);
        CHECK_EQ(q.result, BELL_E_CANCELLED);
        CHECK_EQ(other.result, BELL_E_CANCELLED);
        CHECK_EQ(bell_queue_wait(bell, q.queue, &e, 1, BELL_NEVER), BELL_E_STALE);
    }
    check_clean(bell);
}

static void does_a_queue_waiter_that_leads_hear_of_news_from_another_shard(void)
{
    bell_t *bell = make_bell(2, 0);
    for (int round = 0; round < rounds(30); round++) {
        queue_waiter leads = {.bell = bell, .queue = make_queue(bell, NULL), .deadline_ns = BELL_NEVER}, passes = leads;
        bell_target target = to_queue(leads.queue);
        bell_handle user;
        CHECK_OK(bell_register_user(bell, 1, &target, 0, &user));
        pthread_t leader = start_thread(wait_for_queue, &leads);
        AWAIT(stats_of(bell).waiters == 1);
        if (round % 2) { /* a second waiter comes and goes meanwhile */
            passes.deadline_ns = now_ns() + US(200);
            wait_for_queue(&passes);
            CHECK_EQ(passes.result, -ETIMEDOUT);
        }
        CHECK_EQ(bell_post(bell, user, 1), 0);
        CHECK_EQ(bell_poll(bell, 1, NULL, 0, SEC(10)), 0); /* delivered here, for who sleeps on shard 0 */
        join_thread(leader);
        CHECK_EQ(leads.result, 1);
        CHECK_OK(bell_unregister(bell, user, 0));
        CHECK_EQ(bell_queue_destroy(bell, leads.queue, 0), BELL_FIRED);
    }
    check_clean(bell);
}

/* ---- bell_poll and waiters on one shard ---- */

static void museum_052_does_a_waiter_that_drives_make_way_for_bell_poll(void)
{
    bell_t *bell = make_bell(1, 0);
    waiter w[WAITERS];
    int source = make_eventfd();
    open_waiters(bell, w);
    bell_handle polled = watch(bell, source, BELL_READ, BELL_ONESHOT, to_poll());
    for (int round = 0; round < rounds(100); round++) {
        int n = 1 + round % WAITERS;
        start_waiters(w, n);
        AWAIT(stats_of(bell).waiters == (uint64_t)n);
        CHECK_EQ(eventfd_write(source, 1), 0); /* who leads sees it first, and must leave it for us */
        bell_event e = next_event(bell);
        CHECK_EQ(e.handle, polled);
        CHECK_EQ(e.ready, BELL_READ);
        CHECK_EQ(drain_fd(source), 8);
        CHECK_EQ(bell_rearm(bell, polled, NULL, BELL_NEVER), 0);
        /* A turn that waits while they wait too, and ends by its own time. */
        int64_t start = now_ns();
        int32_t polls = 0;
        do {
            CHECK_EQ(bell_poll(bell, 0, &e, 1, MS(1)), 0);
            CHECK_LT(++polls, 100);
        } while (now_ns() - start < MS(1));
        /* We are gone: one of them must lead again, all get their news. */
        for (int i = 0; i < n; i++) {
            CHECK_EQ(load(&w[i].done), 0);
            put_byte(w[i].fds[1]);
            join_thread(w[i].thread);
            CHECK_EQ(w[i].result, BELL_READ);
            CHECK_EQ(drain_fd(w[i].fds[0]), 1);
            if (mode() == BELL_ONESHOT)
                CHECK_EQ(bell_rearm(bell, w[i].handle, NULL, BELL_NEVER), 0);
        }
    }
    CHECK_OK(bell_unregister(bell, polled, 0));
    CHECK_EQ(close(source), 0);
    close_waiters(w);
    check_clean(bell);
}

typedef struct poller {
    bell_t *bell;
    uint32_t stop, turns;
} poller;

static void *poll_for_ever(void *argument)
{
    poller *p = argument;
    bell_event e;
    while (!load(&p->stop)) {
        CHECK_EQ(bell_poll(p->bell, 0, &e, 1, BELL_NEVER), 0);
        add(&p->turns, 1);
    }
    return NULL;
}

static void do_waiters_get_news_while_another_thread_is_in_bell_poll(void)
{
    bell_t *bell = make_bell(1, 0);
    waiter w[WAITERS];
    poller p = {.bell = bell};
    bell_event e;
    open_waiters(bell, w);
    for (int round = 0; round < rounds(50); round++) {
        store(&p.stop, 0);
        pthread_t thread;
        if (round % 2) {
            start_waiters(w, WAITERS);
            thread = start_thread(poll_for_ever, &p);
        } else {
            thread = start_thread(poll_for_ever, &p);
            start_waiters(w, WAITERS);
        }
        AWAIT(stats_of(bell).waiters == WAITERS);
        for (int i = 0; i < WAITERS; i++) {
            put_byte(w[i].fds[1]);
            if (i == WAITERS / 2) { /* the poller leaves, the rest drive themselves */
                store(&p.stop, 1);
                CHECK_EQ(bell_wake(bell, 0), 0);
                join_thread(thread);
            }
            join_thread(w[i].thread);
            CHECK_EQ(w[i].result, BELL_READ);
            CHECK_EQ(drain_fd(w[i].fds[0]), 1);
            if (mode() == BELL_ONESHOT)
                CHECK_EQ(bell_rearm(bell, w[i].handle, NULL, BELL_NEVER), 0);
        }
        CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 0);
    }
    close_waiters(w);
    check_clean(bell);
}

/* bell_wake is for bell_poll. That a waiter happens to drive when it comes must not use it up. */
static void does_a_wake_while_a_waiter_drives_end_the_next_bell_poll(void)
{
    bell_t *bell = make_bell(1, 0);
    waiter w[WAITERS];
    open_waiters(bell, w);
    for (int round = 0; round < rounds(40); round++) {
        uint64_t waits = stats_of(bell).kernel_waits;
        start_waiters(w, 1);
        AWAIT(stats_of(bell).kernel_waits > waits); /* it leads */
        CHECK_EQ(bell_wake(bell, 0), 0);
        if (round % 2) /* let it notice */
            for (int i = 0; i < 50; i++)
                sched_yield();
        int64_t start = now_ns();
        CHECK_EQ(bell_poll(bell, 0, NULL, 0, SEC(5)), 0);
        CHECK_LT(now_ns() - start, SEC(5));
        CHECK_EQ(load(&w[0].done), 0);
        put_byte(w[0].fds[1]);
        join_thread(w[0].thread);
        CHECK_EQ(w[0].result, BELL_READ);
        CHECK_EQ(drain_fd(w[0].fds[0]), 1);
        if (mode() == BELL_ONESHOT)
            CHECK_EQ(bell_rearm(bell, w[0].handle, NULL, BELL_NEVER), 0);
    }
    close_waiters(w);
    check_clean(bell);
}

static void does_news_for_poll_not_keep_a_waiter_spinning(void)
{
    bell_t *bell = make_bell(1, 0);
    int level = make_eventfd(), fds[2];
    make_sockets(fds);
    CHECK_EQ(eventfd_write(level, 1), 0);
    bell_handle l = watch(bell, level, BELL_READ, BELL_LEVEL, to_poll());
    bell_handle h = watch(bell, fds[0], BELL_READ, mode(), to_slot());
    uint64_t before = stats_of(bell).kernel_waits;
    CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, now_ns() + MS(200), 0), -ETIMEDOUT);
    CHECK_LE(stats_of(bell).kernel_waits - before, 50);
    bell_event e = next_event(bell);
    CHECK_EQ(e.handle, l);
    CHECK_EQ(e.ready, BELL_READ);
    CHECK_OK(bell_unregister(bell, l, 0));
    CHECK_OK(bell_unregister(bell, h, 0));
    CHECK_EQ(close(level), 0);
    close_pair(fds);
    check_clean(bell);
}

/* ---- the end ---- */

static void *poll_until_closed(void *argument)
{
    waiter *w = argument;
    bell_event e;
    do
        w->result = bell_poll(w->bell, 0, &e, 1, BELL_NEVER);
    while (w->result == 0);
    store(&w->done, 1);
    return NULL;
}

static void *wait_until_closed(void *argument)
{
    waiter *w = argument;
    bell_event e;
    w->result = bell_queue_wait(w->bell, w->handle, &e, 1, BELL_NEVER);
    store(&w->done, 1);
    return NULL;
}

static void museum_076_does_destroy_by_force_free_8_threads_inside(void)
{
    for (int round = 0; round < rounds(200); round++) {
        bell_t *bell = make_bell(1, 0);
        waiter w[WAITERS], queued = {.bell = bell, .handle = make_queue(bell, NULL)}, polling = {.bell = bell};
        open_waiters(bell, w);
        int with_poll = round % 3 == 0, inside = WAITERS - 1 - with_poll;
        start_waiters(w, inside);
        pthread_t q = start_thread(wait_until_closed, &queued), p = q;
        if (with_poll)
            p = start_thread(poll_until_closed, &polling);
        int await = round % 2;
        if (await)
            AWAIT(stats_of(bell).waiters == (uint64_t)inside + 1);
        int64_t start = now_ns();
        CHECK_EQ(bell_destroy(bell, BELL_FORCE), 0);
        for (int i = 0; i < inside; i++) {
            join_thread(w[i].thread);
            if (w[i].result != BELL_E_STALE || await) /* too late to get in */
                CHECK_EQ(w[i].result, BELL_E_CLOSED);
        }
        join_thread(q);
        if (queued.result != BELL_E_STALE || await)
            CHECK_EQ(queued.result, BELL_E_CLOSED);
        if (with_poll) {
            join_thread(p);
            if (polling.result != BELL_E_STALE)
                CHECK_EQ(polling.result, BELL_E_CLOSED);
        }
        CHECK_LT(now_ns() - start, SEC(slow() ? 60 : 10));
        for (int i = 0; i < WAITERS; i++)
            close_pair(w[i].fds);
        CHECK_EQ(bell_destroy(bell, BELL_FORCE), BELL_E_STALE);
    }
}

static void does_destroy_without_force_refuse_and_change_nothing(void)
{
    for (int round = 0; round < rounds(50); round++) {
        bell_t *bell = make_bell(1, 0);
        waiter w[WAITERS];
        open_waiters(bell, w);
        start_waiters(w, WAITERS);
        AWAIT(stats_of(bell).waiters == WAITERS);
        CHECK_EQ(bell_destroy(bell, 0), BELL_E_BUSY);
        CHECK_EQ(stats_of(bell).fds, WAITERS);
        CHECK_EQ(stats_of(bell).waiters, WAITERS);
        for (int i = 0; i < WAITERS; i++) {
            CHECK_EQ(load(&w[i].done), 0);
            put_byte(w[i].fds[1]);
            join_thread(w[i].thread);
            CHECK_EQ(w[i].result, BELL_READ);
            if (i < WAITERS - 1)
                CHECK_EQ(bell_destroy(bell, 0), BELL_E_BUSY);
        }
        close_waiters(w);
        check_clean(bell);
    }
}

int main(void)
{
    RUN(can_one_thread_wait_without_any_other_driver);
    RUN(do_timeouts_fire_for_a_lone_waiter);
    RUN(is_the_deadline_of_a_wait_never_early_and_0_only_a_look);
    RUN(does_level_check_see_what_was_not_drained);
    RUN(do_8_waiters_of_one_shard_play_ping_pong_with_8_writers);
    RUN(do_waiters_of_several_shards_play_ping_pong);
    RUN(do_waiters_leave_in_any_order);
    RUN(do_waiters_time_out_while_others_stay);
    RUN(do_the_others_go_on_when_a_waiter_is_unregistered);
    RUN(does_a_lone_waiter_find_out_that_what_it_waits_for_goes);
    RUN(does_a_signal_end_only_the_wait_of_its_thread);
    RUN(does_a_timeout_fire_for_a_follower_while_another_leads);
    RUN(do_posts_reach_followers);
    RUN(do_a_reader_and_a_writer_wait_on_one_slot);
    RUN(does_each_piece_of_news_end_one_of_several_waits_on_a_word);
    RUN(do_4_threads_share_a_queue);
    RUN(do_slot_waiters_and_queue_waiters_mix);
    RUN(does_queue_wait_end_by_deadline_and_by_destruction);
    RUN(does_a_queue_waiter_that_leads_hear_of_news_from_another_shard);
    RUN(museum_052_does_a_waiter_that_drives_make_way_for_bell_poll);
    RUN(do_waiters_get_news_while_another_thread_is_in_bell_poll);
    RUN(does_a_wake_while_a_waiter_drives_end_the_next_bell_poll);
    RUN(does_news_for_poll_not_keep_a_waiter_spinning);
    RUN(museum_076_does_destroy_by_force_free_8_threads_inside);
    RUN(does_destroy_without_force_refuse_and_change_nothing);
    return 0;
}
