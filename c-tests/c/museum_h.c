/* Museum H: hang-ups, errors and loops that are busy with nothing. */
#define _GNU_SOURCE
#include "museum.h"
#include <sys/resource.h>

/* What a poisoned manager holds is not freed: it cannot be trusted. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

/* libuv#3671, nodejs#11307: armed, and nobody there to take it. */
static void museum_066_news_that_nobody_takes_keeps_nobody_busy(void)
{
    const uint32_t modes[] = {BELL_ONESHOT, BELL_LEVEL, BELL_EDGE};
    for (int mode = 0; mode < (has_edge() ? 3 : 2); mode++)
        for (int gone = 0; gone < 2; gone++) {
            bell_t *bell = make_bell(1, 1);
            bell_handle queue = make_queue(bell, NULL);
            int fds[2];
            make_sockets(fds);
            put_byte(fds[1]);
            if (gone)
                CHECK_EQ(close(fds[1]), 0); /* HUP as well */
            bell_handle h = watch(bell, fds[0], BELL_READ | BELL_WRITE, modes[mode], to_queue(queue));
            AWAIT(stats_of(bell).events >= 1);
            uint64_t waits = stats_of(bell).kernel_waits;
            struct timespec while_nothing_happens = {0, 30000000};
            nanosleep(&while_nothing_happens, NULL); /* what must not come cannot be awaited */
            CHECK_LE(stats_of(bell).kernel_waits - waits, 2);
            CHECK_OK(bell_unregister(bell, h, 0));
            CHECK_EQ(bell_queue_destroy(bell, queue, 0), BELL_FIRED);
            CHECK_EQ(close(fds[0]), 0);
            if (!gone)
                CHECK_EQ(close(fds[1]), 0);
            check_clean(bell);
        }
}

/* libevent#379: POLLNVAL at each poll, for ever. epoll forgets the fd without a word. */
static void museum_069_an_fd_closed_behind_our_back_is_told_once_or_forgotten(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    int fd = make_eventfd(), told = 0;
    bell_handle h = watch(bell, fd, BELL_READ, BELL_LEVEL, to_poll());
    CHECK_EQ(close(fd), 0);
    uint64_t waits = stats_of(bell).kernel_waits;
    for (int i = 0; i < 5; i++)
        if (bell_poll(bell, 0, &e, 1, MS(2)) == 1) {
            CHECK_EQ(e.handle, h);
            CHECK_EQ(e.ready, BELL_CLOSED);
            CHECK_EQ(e.status, -EBADF);
            told++;
        }
    /* io_uring tells it if it has not seen the fd before. If it had, the file would be open still. */
    CHECK_EQ(told, has_feature(BELL_FEATURE_POLL) || on_io_uring() ? 1 : 0);
    CHECK_LE(stats_of(bell).kernel_waits - waits, 12);
    CHECK_OK(bell_unregister(bell, h, 0));
    check_clean(bell);
}

/* cpython gh-156333: somebody closed the self-pipe, and its end was news without end. */
static void museum_070_a_library_whose_fds_are_closed_says_so_and_does_not_spin(void)
{
    own_fds own;
    bell_event e;
    bell_t *bell = make_bell_and_see_fds(0, &own);
    /* the bell: what wakes */
    int waker = own_fd_of(&own, has_feature(BELL_FEATURE_EPOLL) || on_io_uring() ? "eventfd" : "pipe");
    CHECK_GE(waker, 0);
    CHECK_EQ(close(waker), 0);
    uint64_t waits = stats_of(bell).kernel_waits;
    for (int i = 0; i < 4; i++) {
        int32_t r = bell_poll(bell, 0, &e, 1, MS(3));
        CHECK(r == 0 || r == -EBADF);
        if (has_feature(BELL_FEATURE_POLL))
            CHECK_EQ(r, -EBADF);
    }
    CHECK_LE(stats_of(bell).kernel_waits - waits, 10);
    /* all that it has */
    for (int i = 0; i < own.n; i++)
        if (own.fds[i] != waker)
            CHECK_EQ(close(own.fds[i]), 0);
    CHECK_EQ(bell_poll(bell, 0, &e, 1, MS(3)), -EBADF);
    CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), on_io_uring() ? 0 : -EBADF); /* a look that asks nobody */
    CHECK_EQ(try_watch(bell, 0, BELL_READ, BELL_ONESHOT, to_slot()) < 0, !has_feature(BELL_FEATURE_POLL));
    CHECK_EQ(bell_destroy(bell, 0), 0);
    /* A library thread cannot return an error: the manager is poisoned, so that every call tells. */
    bell = make_bell_and_see_fds(1, &own);
    uint32_t word = 0;
    bell_timeout_spec often = timeout_spec(0, to_futex(&word)); /* so that the thread does not sleep on what is gone */
    bell_handle h;
    often.period_ns = MS(1);
    CHECK_OK(bell_register_timeout(bell, &often, &h));
    AWAIT(load(&word));
    for (int i = 0; i < own.n; i++)
        CHECK_EQ(close(own.fds[i]), 0);
    if (!left_out_on_io_uring("a thread that has registered its ring does not need the number")) {
        AWAIT(bell_unregister(bell, 0, 0) == BELL_E_POISONED);
        CHECK_EQ(bell_wake(bell, 0), BELL_E_POISONED);
    }
    CHECK_EQ(bell_destroy(bell, 0), 0);
}

static double cpu_seconds(void)
{
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* Linux d9ec7330: an expired timeout looped in the kernel for ever. Does this one come back? */
static void museum_071_timeouts_of_next_to_nothing_come_back(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    double before = cpu_seconds();
    for (int i = 0; i < rounds(2000); i++) {
        CHECK_EQ(bell_poll(bell, 0, &e, 1, 1 + i % 50), 0);
        bell_handle h = set_timeout(bell, now_ns() + i % 50, to_poll());
        CHECK_EQ(bell_poll(bell, 0, &e, 1, BELL_NEVER), 1);
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    }
    if (!slow())
        CHECK(cpu_seconds() - before < 10);
    check_clean(bell);
}

int main(void)
{
    RUN(museum_066_news_that_nobody_takes_keeps_nobody_busy);
    RUN(museum_069_an_fd_closed_behind_our_back_is_told_once_or_forgotten);
    RUN(museum_070_a_library_whose_fds_are_closed_says_so_and_does_not_spin);
    RUN(museum_071_timeouts_of_next_to_nothing_come_back);
    return 0;
}
