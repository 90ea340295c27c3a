/* Museum B: duplicates and open file descriptions. */
#define _GNU_SOURCE
#include "museum.h"

/* joyent/libuv#1099: a closed socket went on reporting through its duplicate. */
static void museum_011_a_duplicate_of_what_was_closed_wakes_nobody(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    make_sockets(fds);
    fill_fd(fds[0]);
    int duplicate = dup(fds[0]);
    bell_handle h = watch(bell, fds[0], BELL_WRITE, edge_mode(), to_slot());
    CHECK_EQ(bell_close_fd(bell, fds[0]), 0);
    check_verified(bell); /* the kernel's set is empty */
    drain_fd(fds[1]);
    CHECK_HAS(looks_ready(duplicate, POLLOUT), POLLOUT);
    CHECK_LE(expect_quiet(bell, MS(20)), 2);
    CHECK_EQ(stats_of(bell).stale_dropped, 0);
    CHECK_EQ(bell_slot_consume(bell, h, BELL_WRITE), BELL_CLOSED);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    CHECK_EQ(close(duplicate), 0);
    CHECK_EQ(close(fds[1]), 0);
    check_clean(bell);
}

/* libuv#4323: taking out was put off, and the fd was closed first. */
static void museum_013_after_unregister_the_kernel_set_is_clean_already(void)
{
    bell_t *bell = make_bell(1, 0);
    for (int i = 0; i < 20; i++) {
        int fds[2];
        make_sockets(fds);
        int duplicate = dup(fds[0]);
        bell_handle h = watch(bell, fds[0], BELL_READ, edge_mode(), to_poll());
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
        if (has_feature(BELL_FEATURE_EPOLL))
            CHECK_EQ(kernel_knows(h), 0);
        CHECK_EQ(close(fds[0]), 0); /* were it still in, the duplicate would keep it there */
        check_verified(bell);
        put_byte(fds[1]);
        expect_quiet(bell, 0);
        CHECK_EQ(stats_of(bell).stale_dropped, 0);
        CHECK_EQ(close(duplicate), 0);
        CHECK_EQ(close(fds[1]), 0);
    }
    check_clean(bell);
}

/* libev 4.22: entries that cannot be removed. The set is made anew, and nobody else notices. */
static void museum_014_a_set_made_anew_keeps_everybody_as_he_was(void)
{
    enum { OTHERS = 20 };
    bell_t *bell = make_bell(1, 0);
    int fds[2], others[OTHERS];
    bell_handle h[OTHERS];
    bell_event e;
    make_sockets(fds);
    for (int i = 0; i < OTHERS; i++) { /* every other one has been told, and is silent */
        others[i] = make_eventfd();
        h[i] = watch(bell, others[i], BELL_READ, BELL_ONESHOT, to_poll());
        if (i % 2) {
            CHECK_EQ(eventfd_write(others[i], 1), 0);
            CHECK_EQ(next_event(bell).handle, h[i]);
        }
    }
    bell_handle edge = watch(bell, others[0], BELL_READ, edge_mode(), to_slot());
    bell_handle ghost = watch(bell, fds[0], BELL_READ, edge_mode(), to_poll());
    int keeper = dup(fds[0]);
    CHECK_EQ(close(fds[0]), 0);
    CHECK_OK(bell_unregister(bell, ghost, 0));
    uint64_t stale = stats_of(bell).stale_dropped;
    for (int i = 0; i < 1000; i++) {
        put_byte(fds[1]);
        CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 0);
        CHECK_EQ(drain_fd(keeper), 1);
    }
    bell_counters c = stats_of(bell);
    if (has_edge() && !on_io_uring()) { /* poll(2) and io_uring know no ghosts */
        CHECK_EQ(c.ghosts, 1);
        CHECK_EQ(c.rebuilds, 1);
        CHECK_GE(c.stale_dropped - stale, 1);
    }
    CHECK_LE(c.stale_dropped - stale, 32);
    check_verified(bell);
    expect_quiet(bell, MS(2)); /* the silent ones are silent still */
    for (int i = 0; i < OTHERS; i += 2) {
        CHECK_EQ(eventfd_write(others[i], 1), 0);
        CHECK_EQ(next_event(bell).handle, h[i]);
    }
    CHECK_EQ(bell_slot_consume(bell, edge, BELL_READ), BELL_READ);
    for (int i = 1; i < OTHERS; i += 2) {
        CHECK_EQ(bell_rearm(bell, h[i], NULL, BELL_NEVER), 0);
        CHECK_EQ(next_event(bell).handle, h[i]);
    }
    for (int i = 0; i < OTHERS; i++)
        CHECK_EQ(bell_unregister(bell, h[i], 0), BELL_FIRED);
    CHECK_OK(bell_unregister(bell, edge, 0));
    for (int i = 0; i < OTHERS; i++)
        CHECK_EQ(close(others[i]), 0);
    CHECK_EQ(close(keeper), 0);
    CHECK_EQ(close(fds[1]), 0);
    check_clean(bell);
}

/* h2o#1427: a helper process kept the fd alive; its event met freed memory. */
static void museum_015_news_of_a_file_kept_elsewhere_touches_no_freed_target(void)
{
    for (int behind = 0; behind < 2; behind++) {
        bell_t *bell = make_bell(1, 0);
        int fds[2], release[2];
        make_pipe(fds);
        uint32_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(word != MAP_FAILED);
        bell_handle h = watch(bell, fds[0], BELL_READ, edge_mode(), to_futex(word));
        pid_t holder = start_holder(release);
        CHECK_EQ(behind ? close(fds[0]) : bell_close_fd(bell, fds[0]), 0);
        CHECK_OK(bell_unregister(bell, h, BELL_SYNC));
        CHECK_EQ(munmap(word, 4096), 0);
        for (int i = 0; i < 100; i++) {
            put_byte(fds[1]);
            CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), 0);
        }
        end_holder(holder, release);
        CHECK_EQ(close(fds[1]), 0);
        check_clean(bell);
    }
}

typedef struct closer {
    uint32_t fd, stop, closed;
} closer;

static void *close_at_random(void *argument)
{
    closer *c = argument;
    while (!load(&c->stop)) {
        uint32_t fd = __atomic_exchange_n(&c->fd, 0, __ATOMIC_ACQ_REL);
        if (fd) {
            for (volatile uint64_t spin = museum_random() % 2000; spin > 0; spin--)
                ;
            CHECK_EQ(close((int)fd), 0);
            add(&c->closed, 1);
        }
    }
    return NULL;
}

/* libuv#5129: epoll_ctl met a closed fd, and the process was ended. */
static void museum_016_a_close_at_any_moment_gives_a_code_and_ends_nothing(void)
{
    bell_t *bell = make_bell(1, 0);
    closer c = {0};
    pthread_t thread = start_thread(close_at_random, &c);
    for (int i = 0; i < rounds(3000); i++) {
        bell_event e;
        int fd = make_eventfd();
        uint32_t closed = load(&c.closed);
        bell_fd_spec spec = fd_spec(fd, BELL_READ, i % 2 ? BELL_ONESHOT : BELL_LEVEL, to_poll());
        bell_handle h = 0;
        store(&c.fd, (uint32_t)fd);
        int32_t r = bell_register_fd(bell, &spec, &h);
        CHECK(r == 0 || r == -EBADF);
        if (r == 0) {
            r = bell_modify(bell, h, BELL_READ | BELL_WRITE, BELL_ONESHOT);
            CHECK(r == 0 || r == -EBADF || r == BELL_E_CLOSED);
            CHECK_GE(bell_poll(bell, 0, &e, 1, 0), 0);
            r = bell_rearm(bell, h, NULL, BELL_NEVER);
            CHECK(r == 0 || r == -EBADF || r == BELL_E_CLOSED);
            CHECK_OK(bell_unregister(bell, h, 0));
        }
        AWAIT(load(&c.closed) != closed);
    }
    store(&c.stop, 1);
    join_thread(thread);
    expect_quiet(bell, MS(1));
    check_clean(bell);
}

int main(void)
{
    RUN(museum_011_a_duplicate_of_what_was_closed_wakes_nobody);
    RUN(museum_013_after_unregister_the_kernel_set_is_clean_already);
    RUN(museum_014_a_set_made_anew_keeps_everybody_as_he_was);
    RUN(museum_015_news_of_a_file_kept_elsewhere_touches_no_freed_target);
    RUN(museum_016_a_close_at_any_moment_gives_a_code_and_ends_nothing);
    return 0;
}
