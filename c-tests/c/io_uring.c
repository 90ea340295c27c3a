/* The backend io_uring: what it alone has to answer for. All the other programs ask it too: `make c-tests-uring`. */
#define _GNU_SOURCE
#ifndef BELL_TEST_IO_URING
#define BELL_TEST_IO_URING 1
#endif
#include "check.h"
#include <sys/resource.h>
#include <sys/wait.h>


/* The peer of a socket sees its end. */
static int has_ended(int peer)
{
    return (looks_ready(peer, POLLIN | POLLRDHUP) & POLLRDHUP) != 0;
}

static void what_it_cannot_do_is_refused(void)
{
    uint64_t features;
    bell_t *bell = make_bell(2, 0);
    int fd = make_eventfd();
    bell_fd_spec spec = fd_spec(fd, BELL_READ, BELL_EDGE, to_poll());
    bell_handle h = 7;
    spec.flags = BELL_FD_EXCLUSIVE;
    CHECK_OK(bell_features(&features));
    CHECK_HAS(features, BELL_FEATURE_IO_URING);
    CHECK_EQ(bell_register_fd(bell, &spec, &h), BELL_E_UNSUPPORTED);
    CHECK_EQ(h, 7);
    CHECK_EQ(bell_pollable_fd(bell, 0), BELL_E_UNSUPPORTED);
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

/* ---- who drives ---- */

typedef struct relay {
    bell_t *bell;
    int fd;
    bell_handle handle;
} relay;

static void *poll_once(void *argument)
{
    relay *r = argument;
    CHECK_EQ(next_event(r->bell).handle, r->handle);
    CHECK_EQ(drain_fd(r->fd), 8);
    return NULL;
}

/* Each new driver gets a ring of its own; those before have ended, or have not. */
static void nothing_is_lost_when_the_driver_changes(void)
{
    const uint32_t modes[] = {BELL_EDGE, BELL_ONESHOT, BELL_LEVEL};
    for (int m = 0; m < 3; m++) {
        relay r = {.bell = make_bell(1, 0), .fd = make_eventfd()};
        int idle[20];
        for (int i = 0; i < 20; i++)
            watch(r.bell, idle[i] = make_eventfd(), BELL_READ, modes[i % 3], to_poll());
        r.handle = watch(r.bell, r.fd, BELL_READ, modes[m], to_poll());
        for (int i = 0; i < 50; i++) {
            CHECK_EQ(eventfd_write(r.fd, 1), 0);
            if (i % 2)
                join_thread(start_thread(poll_once, &r));
            else
                poll_once(&r);
            if (modes[m] == BELL_ONESHOT)
                CHECK_EQ(bell_rearm(r.bell, r.handle, NULL, BELL_NEVER), 0);
        }
        expect_quiet(r.bell, MS(1));
        check_verified(r.bell);
        CHECK_EQ(stats_of(r.bell).fds, 21);
        for (int i = 0; i < 20; i++)
            CHECK_EQ(bell_close_fd(r.bell, idle[i]), 0);
        CHECK_EQ(bell_close_fd(r.bell, r.fd), 0);
        CHECK_EQ(bell_destroy(r.bell, 0), 0);
    }
}

static void *wait_for_both(void *argument)
{
    relay *r = argument;
    for (int i = 0; i < 200;) {
        CHECK_EQ(bell_slot_wait(r->bell, r->handle, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
        i += drain_fd(r->fd) == 8; /* 0: an edge told again, because the ring has moved */
    }
    return NULL;
}

/* Whoever waits drives, and hands over: the ring goes with it. */
static void waiters_drive_in_turn(void)
{
    enum { N = 4 };
    relay r[N];
    pthread_t threads[N];
    bell_t *bell = make_bell(1, 0);
    for (int i = 0; i < N; i++) {
        r[i] = (relay){.bell = bell, .fd = make_eventfd()};
        r[i].handle = watch(bell, r[i].fd, BELL_READ, BELL_EDGE, to_slot());
        threads[i] = start_thread(wait_for_both, &r[i]);
    }
    for (int round = 0; round < 200; round++)
        for (int i = 0; i < N; i++) {
            CHECK_EQ(eventfd_write(r[i].fd, 1), 0);
            AWAIT(looks_ready(r[i].fd, POLLIN) == 0);
        }
    for (int i = 0; i < N; i++) {
        join_thread(threads[i]);
        CHECK_EQ(bell_close_fd(bell, r[i].fd), 0);
    }
    CHECK_EQ(bell_destroy(bell, 0), 0);
}

/* ---- closing: an armed poll holds its file open ---- */

typedef struct sleeper {
    bell_t *bell;
    uint32_t thread, returned;
} sleeper;

static void *sleep_in_poll(void *argument)
{
    sleeper *s = argument;
    bell_event e;
    store(&s->thread, thread_id());
    CHECK_EQ(bell_poll(s->bell, 0, &e, 1, BELL_NEVER), 0);
    store(&s->returned, 1);
    return NULL;
}

/* All ways to close; the peer must see it when the call has returned. `driver`: a caller who drives; he leaves his sleep for the
 * news of a close, and the promise is for while he sleeps. */
static void close_and_look(bell_t *bell, int turns, uint32_t *driver)
{
    for (int way = 0; way < 3; way++)
        for (int mode = BELL_EDGE; mode <= BELL_ONESHOT; mode++) {
            int32_t status;
            int fds[2];
            make_sockets(fds);
            bell_handle h = watch(bell, fds[0], BELL_READ, (uint32_t)mode, to_slot());
            if (turns)
                turn(bell);
            if (driver)
                AWAIT(is_asleep(driver));
            if (way == 2) {
                CHECK_EQ(bell_unregister_batch(bell, &h, 1, 0, &status), 1);
                CHECK_EQ(status, BELL_CANCELLED);
                CHECK_EQ(close(fds[0]), 0);
            } else if (way == 1) {
                CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
                CHECK_EQ(close(fds[0]), 0);
            } else {
                CHECK_EQ(bell_close_fd(bell, fds[0]), 0);
                CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
            }
            CHECK(has_ended(fds[1]));
            CHECK_EQ(close(fds[1]), 0);
        }
}

static void museum_013_a_closed_file_is_closed_when_the_call_returns(void)
{
    /* By the driver. */
    bell_t *bell = make_bell(1, 0);
    close_and_look(bell, 1, NULL);
    /* While the driver sleeps. */
    for (int i = 0; i < 20; i++) {
        sleeper s = {.bell = bell};
        pthread_t thread = start_thread(sleep_in_poll, &s);
        AWAIT(is_asleep(&s.thread));
        close_and_look(bell, 0, &s.thread);
        CHECK_EQ(bell_wake(bell, 0), 0);
        join_thread(thread);
    }
    check_clean(bell);
    /* With a library thread, whatever it is at. */
    bell = make_bell(1, 1);
    for (int i = 0; i < 200; i++)
        close_and_look(bell, 0, NULL);
    check_clean(bell);
}

/* The kernel works off some twenty things at a time, and letting go of the file is behind them all. */
static void a_file_is_let_go_of_behind_a_hundred_events(void)
{
    enum { N = 100 };
    bell_t *bell = make_bell(1, 0);
    int event = make_eventfd(), fds[2], copies[N];
    make_sockets(fds);
    bell_handle h = watch(bell, fds[0], BELL_PRI, BELL_ONESHOT, to_poll());
    for (int i = 0; i < N; i++) {
        CHECK_GE(copies[i] = dup(event), 0);
        watch(bell, copies[i], BELL_READ, BELL_ONESHOT, to_poll());
    }
    turn(bell);
    CHECK_EQ(eventfd_write(event, 1), 0);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    CHECK_EQ(close(fds[0]), 0);
    CHECK(has_ended(fds[1]));
    for (int left = N; left > 0;) {
        bell_event e[N];
        left -= CHECK_OK(bell_poll(bell, 0, e, N, PATIENCE));
    }
    CHECK_EQ(bell_destroy(bell, 0), 0);
    for (int i = 0; i < N; i++)
        CHECK_EQ(close(copies[i]), 0);
    CHECK_EQ(close(event), 0);
    CHECK_EQ(close(fds[1]), 0);
}

/* By its deadline, which leaves the kernel's poll standing; the news is told straight, waits in a list, or is written. */
static void a_registration_that_releases_itself_lets_go_of_its_file(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL);
    for (int way = 0; way < 5; way++) {
        static uint32_t words[2];
        int fds[2];
        bell_handle h;
        bell_event e;
        make_sockets(fds);
        bell_fd_spec spec = fd_spec(fds[0], BELL_PRI, BELL_ONESHOT,
                                    way < 2 ? to_poll() : way < 4 ? to_queue(queue) : to_futex(&words[0]));
        spec.flags = BELL_FD_DEADLINE | BELL_AUTO_RELEASE;
        spec.deadline_ns = BELL_NEVER;
        CHECK_EQ(bell_register_fd(bell, &spec, &h), 0);
        turn(bell);
        CHECK_EQ(bell_update_timeout(bell, h, 0), 0);
        switch (way) {
        case 0: /* straight to the array */
            CHECK_EQ(next_event(bell).ready, BELL_TIMEOUT);
            break;
        case 1: /* taken from the list */
            CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), 0);
            CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 1);
            break;
        case 2:
            turn(bell);
            CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), 1);
            break;
        case 3:
            CHECK_EQ(bell_queue_wait(bell, queue, &e, 1, now_ns() + PATIENCE), 1);
            break;
        default:
            turn(bell);
            CHECK_EQ(bell_slot_take(&words[0]), BELL_TIMEOUT);
        }
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_E_STALE);
        CHECK_EQ(close(fds[0]), 0);
        CHECK(has_ended(fds[1]));
        CHECK_EQ(close(fds[1]), 0);
    }
    /* Told again, to another target, which nobody needs to look at. */
    int fds[2];
    bell_handle h;
    static uint32_t word;
    make_sockets(fds);
    bell_fd_spec spec = fd_spec(fds[0], BELL_PRI, BELL_ONESHOT, to_queue(queue));
    spec.flags = BELL_FD_DEADLINE | BELL_AUTO_RELEASE;
    spec.deadline_ns = now_ns();
    CHECK_EQ(bell_register_fd(bell, &spec, &h), 0);
    turn(bell);
    bell_target other = to_futex(&word);
    CHECK_EQ(bell_retarget(bell, h, &other), BELL_CANCELLED);
    CHECK_EQ(bell_slot_take(&word), BELL_TIMEOUT);
    CHECK_EQ(close(fds[0]), 0);
    CHECK(has_ended(fds[1]));
    CHECK_EQ(close(fds[1]), 0);
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    check_clean(bell);
}

typedef struct traffic {
    bell_t *bell;
    uint32_t stop, told, threaded;
} traffic;

static void *drive(void *argument)
{
    traffic *t = argument;
    bell_event e[8];
    while (!load(&t->stop)) {
        int32_t n = CHECK_OK(bell_poll(t->bell, 0, e, 8, BELL_NEVER));
        add(&t->told, (uint32_t)n);
    }
    return NULL;
}

static void *change(void *argument)
{
    traffic *t = argument;
    for (int i = 0; i < rounds(1500); i++) {
        int fds[2];
        make_sockets(fds);
        uint32_t mode = i % 2 ? BELL_EDGE : BELL_ONESHOT;
        bell_handle h = watch(t->bell, fds[0], BELL_READ, mode, i % 3 || t->threaded ? to_slot() : to_poll());
        put_byte(fds[1]);
        if (i % 3 || t->threaded)
            CHECK_EQ(bell_slot_wait(t->bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
        if (i % 5 == 0)
            CHECK_EQ(bell_rearm(t->bell, h, NULL, BELL_NEVER), 0);
        if (i % 2) {
            CHECK_EQ(bell_close_fd(t->bell, fds[0]), 0);
            CHECK_OK(bell_unregister(t->bell, h, 0));
        } else {
            CHECK_OK(bell_unregister(t->bell, h, i % 4 ? BELL_SYNC : 0));
            CHECK_EQ(close(fds[0]), 0);
        }
        if (t->threaded)
            CHECK(has_ended(fds[1]));
        else
            AWAIT(has_ended(fds[1]));
        CHECK_EQ(close(fds[1]), 0);
    }
    return NULL;
}

static void other_threads_register_unregister_and_close_in_traffic(void)
{
    for (uint32_t threads = 0; threads < 2; threads++) {
        traffic t = {.bell = make_bell(1, threads), .threaded = threads};
        pthread_t driver = threads ? pthread_self() : start_thread(drive, &t), changers[3];
        for (int i = 0; i < 3; i++)
            changers[i] = start_thread(change, &t);
        for (int i = 0; i < 3; i++)
            join_thread(changers[i]);
        if (!threads) {
            store(&t.stop, 1);
            CHECK_EQ(bell_wake(t.bell, 0), 0);
            join_thread(driver);
        }
        CHECK_EQ(stats_of(t.bell).fds, 0);
        check_clean(t.bell);
    }
}

/* The kernel's sleep ends for what is told to nobody, too: data that is not urgent, a change by another thread. */
static void a_sleep_that_tells_nothing_goes_on(void)
{
    sleeper s = {.bell = make_bell(1, 0)};
    int fds[2];
    make_sockets(fds);
    watch(s.bell, fds[0], BELL_PRI, BELL_ONESHOT, to_poll());
    pthread_t thread = start_thread(sleep_in_poll, &s);
    for (int i = 0; i < 20; i++) {
        AWAIT(is_asleep(&s.thread));
        put_byte(fds[1]);
        CHECK_EQ(drain_fd(fds[0]), 1);
        AWAIT(is_asleep(&s.thread));
        bell_handle other = watch(s.bell, fds[1], BELL_PRI, BELL_ONESHOT, to_poll());
        CHECK_OK(bell_unregister(s.bell, other, 0));
    }
    CHECK_EQ(load(&s.returned), 0);
    CHECK_EQ(bell_wake(s.bell, 0), 0);
    join_thread(thread);
    CHECK_EQ(bell_close_fd(s.bell, fds[0]), 0);
    CHECK_EQ(close(fds[1]), 0);
    CHECK_EQ(bell_destroy(s.bell, 0), 0);
}

/* ---- overflow ---- */

/* The kernel's queue has 4096 places, and 10,000 want one at once. */
static void more_is_told_at_once_than_the_queue_holds(void)
{
    enum { N = 10000 };
    static bell_handle handles[N];
    static unsigned char told[N];
    static int fds[N];
    const struct rlimit more = {N + 100, N + 100};
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_cur < N + 100 && setrlimit(RLIMIT_NOFILE, &more) != 0) {
        fprintf(stderr, "  too few fds here\n");
        return;
    }
    for (int mode = BELL_EDGE; mode <= BELL_ONESHOT; mode++) {
        bell_t *bell = make_bell(1, 0);
        bell_event e[64];
        int event = make_eventfd(), left = N;
        memset(told, 0, sizeof told);
        for (int i = 0; i < N; i++) {
            bell_fd_spec spec;
            CHECK((fds[i] = dup(event)) >= 0);
            spec = fd_spec(fds[i], BELL_READ, (uint32_t)mode, to_poll());
            spec.user_data = (uint64_t)i;
            CHECK_OK(bell_register_fd(bell, &spec, &handles[i]));
        }
        expect_quiet(bell, 0);
        CHECK_EQ(eventfd_write(event, 1), 0);
        while (left > 0) {
            int32_t n = CHECK_OK(bell_poll(bell, 0, e, 64, PATIENCE));
            CHECK_GT(n, 0);
            for (int32_t i = 0; i < n; i++) {
                CHECK_EQ(e[i].ready, BELL_READ);
                CHECK_EQ(e[i].handle, handles[e[i].user_data]);
                if (mode == BELL_ONESHOT)
                    CHECK_EQ(told[e[i].user_data], 0);
                left -= !told[e[i].user_data];
                told[e[i].user_data] = 1;
            }
        }
        CHECK_EQ(bell_destroy(bell, 0), 0);
        for (int i = 0; i < N; i++)
            CHECK_EQ(close(fds[i]), 0);
        CHECK_EQ(close(event), 0);
    }
}

/* ---- fork ---- */

static void a_child_takes_over_and_the_parent_goes_on(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2], status;
    make_sockets(fds);
    bell_handle h = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
    turn(bell);
    for (int reset = 0; reset < 2; reset++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), BELL_E_FORKED);
            CHECK_EQ(bell_after_fork_child(bell, reset ? BELL_FORK_RESET : 0), 0);
            if (reset)
                h = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
            turn(bell);
            put_byte(fds[1]);
            CHECK_EQ(next_event(bell).handle, h);
            CHECK_EQ(drain_fd(fds[0]), 1);
            CHECK_OK(bell_unregister(bell, h, 0));
            if (reset)
                check_clean(bell);
            _exit(0);
        }
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
        /* The child's byte was ours too: a one-shot may have been told. */
        bell_event e;
        if (bell_poll(bell, 0, &e, 1, 0) == 1)
            CHECK_EQ(bell_rearm(bell, h, NULL, BELL_NEVER), 0);
        expect_quiet(bell, MS(1));
        put_byte(fds[1]);
        CHECK_EQ(next_event(bell).handle, h);
        CHECK_EQ(drain_fd(fds[0]), 1);
        CHECK_EQ(bell_rearm(bell, h, NULL, BELL_NEVER), 0);
    }
    /* A child that only destroys its copy harms nobody. */
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK_EQ(bell_destroy(bell, 0), 0);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    put_byte(fds[1]);
    CHECK_EQ(next_event(bell).handle, h);
    CHECK_EQ(drain_fd(fds[0]), 1);
    CHECK_OK(bell_unregister(bell, h, 0));
    check_clean(bell);
    close_pair(fds);
}

/* Each number has a place, and there are more fds tomorrow: but not eight times as many. */
static void the_table_of_fds_grows_by_an_eighth(void)
{
    bell_t *bell = make_bell(1, 0);
    int fd = make_eventfd(), high = fcntl(fd, F_DUPFD_CLOEXEC, 5000), next = fcntl(fd, F_DUPFD_CLOEXEC, high + 1);
    CHECK_GE(high, 5000);
    CHECK_GE(next, high + 1);
    watch(bell, high, BELL_READ, BELL_ONESHOT, to_poll());
    uint64_t before = stats_of(bell).heap_bytes;
    watch(bell, next, BELL_READ, BELL_ONESHOT, to_poll());
    CHECK_LE(stats_of(bell).heap_bytes - before, (uint64_t)high / 4 * 24);
    CHECK_EQ(bell_close_fd(bell, high), 0);
    CHECK_EQ(bell_close_fd(bell, next), 0);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(bell_destroy(bell, 0), 0);
}

int main(void)
{
    bell_config config;
    bell_t *bell;
    const char *preload = getenv("LD_PRELOAD");
    if (preload && strstr(preload, "vgpreload"))
        SKIP("valgrind lets no other thread run while one waits in io_uring_enter");
    CHECK_OK(bell_config_init(&config, sizeof config));
    int32_t r = bell_create(&config, &bell);
    if (r == BELL_E_UNSUPPORTED || r == -EPERM)
        SKIP("no io_uring here");
    CHECK_EQ(r, 0);
    CHECK_EQ(bell_destroy(bell, 0), 0);
    RUN(what_it_cannot_do_is_refused);
    RUN(the_table_of_fds_grows_by_an_eighth);
    RUN(nothing_is_lost_when_the_driver_changes);
    RUN(waiters_drive_in_turn);
    RUN(museum_013_a_closed_file_is_closed_when_the_call_returns);
    RUN(a_file_is_let_go_of_behind_a_hundred_events);
    RUN(a_registration_that_releases_itself_lets_go_of_its_file);
    RUN(other_threads_register_unregister_and_close_in_traffic);
    RUN(a_sleep_that_tells_nothing_goes_on);
    RUN(more_is_told_at_once_than_the_queue_holds);
    RUN(a_child_takes_over_and_the_parent_goes_on);
    return 0;
}
