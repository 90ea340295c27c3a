/* Museum C: one-shot and edge, and the wake-ups that were lost. */
#define _GNU_SOURCE
#include "museum.h"

/* smol-rs/smol#134: two waited for one direction, one was woken. tokio#8054: writes kept a reader from going on. */
static void museum_018_both_of_one_direction_are_told_and_writers_do_not_starve_readers(void)
{
    bell_t *bell = make_bell(1, 0);
    uint32_t words[2] = {0};
    int fds[2];
    char byte;
    make_sockets(fds);
    bell_handle a = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_futex(&words[0]));
    bell_handle b = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_futex(&words[1]));
    put_byte(fds[1]);
    turn(bell);
    CHECK_EQ(load(&words[0]), BELL_SEQ | BELL_READ);
    CHECK_EQ(load(&words[1]), BELL_SEQ | BELL_READ);
    CHECK_EQ(drain_fd(fds[0]), 1);
    CHECK_EQ(bell_unregister(bell, a, BELL_SYNC), BELL_FIRED);
    CHECK_EQ(bell_unregister(bell, b, BELL_SYNC), BELL_FIRED);
    /* A writer that is always ready, and a reader with one byte now and then, on one fd and one shard. */
    bell_handle queue = make_queue(bell, NULL);
    bell_handle writer = watch(bell, fds[0], BELL_WRITE, BELL_LEVEL, to_queue(queue));
    bell_handle reader = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
    for (int i = 0; i < rounds(500); i++) {
        bell_event e;
        put_byte(fds[1]);
        CHECK_EQ(bell_slot_wait(bell, reader, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
        CHECK_EQ(read(fds[0], &byte, 1), 1);
        CHECK_EQ(bell_rearm(bell, reader, NULL, BELL_NEVER), 0);
        CHECK_EQ(bell_queue_wait(bell, queue, &e, 1, now_ns() + PATIENCE), 1);
        CHECK_EQ(e.handle, writer);
    }
    CHECK_OK(bell_unregister(bell, reader, 0));
    CHECK_OK(bell_unregister(bell, writer, 0));
    CHECK_EQ(bell_queue_destroy(bell, queue, 0), BELL_FIRED);
    close_pair(fds);
    check_clean(bell);
}

typedef struct changer {
    bell_t *bell;
    bell_handle handle;
    uint32_t stop, turns;
} changer;

static void *poll_on(void *argument)
{
    changer *c = argument;
    while (!load(&c->stop)) {
        CHECK_EQ(bell_poll(c->bell, 0, NULL, 0, SEC(1)), 0);
        add(&c->turns, 1);
    }
    return NULL;
}

/* bugzilla.kernel.org 205933: EPOLL_CTL_MOD against epoll_wait on an fd that is always ready. */
static void museum_022_every_rearm_is_heard_while_another_thread_waits(void)
{
    int fd = make_eventfd();
    changer c = {.bell = make_bell(1, 0)};
    CHECK_EQ(eventfd_write(fd, 1), 0);
    uint32_t word = 0;
    c.handle = watch(c.bell, fd, BELL_READ, BELL_ONESHOT, to_futex(&word));
    pthread_t thread = start_thread(poll_on, &c);
    for (int i = 1; i <= rounds(20000); i++) {
        int64_t start = now_ns();
        while (load(&word) / BELL_SEQ != (uint32_t)i)
            CHECK_LT(now_ns() - start, PATIENCE);
        if (i % 2)
            CHECK_EQ(bell_rearm(c.bell, c.handle, NULL, BELL_NEVER), 0);
        else
            CHECK_EQ(bell_modify(c.bell, c.handle, BELL_READ, BELL_ONESHOT), 0);
    }
    store(&c.stop, 1);
    CHECK_EQ(bell_wake(c.bell, 0), 0);
    join_thread(thread);
    CHECK_OK(bell_unregister(c.bell, c.handle, BELL_SYNC));
    CHECK_EQ(close(fd), 0);
    check_clean(c.bell);
}

/* nginx a4eddea71, ticket 2367: a kernel without RDHUP, and the end of the stream was waited for in vain. */
static void museum_025_the_end_of_a_stream_is_seen_without_rdhup(void)
{
    const uint32_t modes[] = {BELL_ONESHOT, BELL_LEVEL, BELL_EDGE};
    if (left_out_on_io_uring("a kernel with io_uring has RDHUP"))
        return;
    hook_no_rdhup = 1;
    for (int i = 0; i < (has_edge() ? 3 : 2); i++) {
        bell_t *bell = make_bell(1, 0);
        int fds[2];
        char c;
        make_sockets(fds);
        bell_handle h = watch(bell, fds[0], BELL_READ, modes[i], to_poll());
        expect_quiet(bell, 0);
        CHECK_EQ(shutdown(fds[1], SHUT_WR), 0);
        bell_event e = next_event(bell);
        CHECK_EQ(e.handle, h);
        CHECK_HAS(e.ready, BELL_READ);
        CHECK_LACKS(e.ready, BELL_RDHUP);
        CHECK_EQ(read(fds[0], &c, 1), 0);
        CHECK_OK(bell_unregister(bell, h, 0));
        close_pair(fds);
        CHECK_EQ(bell_destroy(bell, 0), 0);
    }
    hook_no_rdhup = 0;
}

/* libevent 9f9e259f: Linux 3.2 lost edges of Unix sockets. Does this kernel keep them? */
static void museum_026_a_unix_socket_tells_every_edge(void)
{
    if (!has_edge())
        return;
    static const int kinds[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    for (int kind = 0; kind < 3; kind++) {
        bell_t *bell = make_bell(1, 0);
        int fds[2];
        CHECK(socketpair(AF_UNIX, kinds[kind] | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
        bell_handle h = watch(bell, fds[0], BELL_READ, BELL_EDGE, to_slot());
        for (int i = 0; i < rounds(1000); i++) {
            put_byte(fds[1]);
            CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
            CHECK_EQ(drain_fd(fds[0]), 1);
        }
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
        close_pair(fds);
        check_clean(bell);
    }
}

int main(void)
{
    RUN(museum_018_both_of_one_direction_are_told_and_writers_do_not_starve_readers);
    RUN(museum_022_every_rearm_is_heard_while_another_thread_waits);
    RUN(museum_025_the_end_of_a_stream_is_seen_without_rdhup);
    RUN(museum_026_a_unix_socket_tells_every_edge);
    return 0;
}
