/* Museum F: limits and errors. The k-th failure of everything is in faults.c. */
#define _GNU_SOURCE
#include "museum.h"

static void *create_in_vain(void *argument)
{
    static const int errors[] = {ENOSYS, EMFILE, ENFILE, ENOMEM};
    uint32_t first = has_feature(BELL_FEATURE_EPOLL) ? FAULTS_OF(epoll_create1)
                     : on_io_uring()                 ? FAULTS_OF(eventfd)
                                                     : FAULTS_OF(pipe2);
    (void)argument;
    for (int i = 0; i < rounds(400); i++) {
        bell_t *bell = (bell_t *)1;
        faults_plan((faults){.kinds = first, .at = 1, .error = errors[i % 4]});
        faults_begin();
        int32_t r = bell_create(NULL, &bell);
        faults_end();
        CHECK_EQ(r, -errors[i % 4]);
        CHECK(bell == (bell_t *)1);
    }
    return NULL;
}

/* golang/go#22606: another thread saw -ENOSYS as the number of the epoll instance. */
static void museum_055_a_create_that_fails_harms_no_other_thread(void)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        threads[i] = start_thread(create_in_vain, NULL);
    for (int i = 0; i < rounds(100); i++) {
        bell_event e;
        bell_t *bell = make_bell(1, 0);
        bell_handle h = set_timeout(bell, 0, to_poll());
        CHECK_EQ(bell_poll(bell, 0, &e, 1, SEC(10)), 1);
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
        CHECK_EQ(bell_destroy(bell, 0), 0);
    }
    for (int i = 0; i < 4; i++)
        join_thread(threads[i]);
    CHECK_EQ(live_blocks, 0);
}

/* php-src#23805: the limit of watches, and a file that cannot be watched, were one error. */
static void museum_057_no_room_and_cannot_be_polled_are_two_errors(void)
{
    bell_t *bell = make_bell(1, 0);
    char path[] = P_tmpdir "/doorbell-XXXXXX";
    int fd = make_eventfd(), file = mkostemp(path, O_CLOEXEC);
    bell_fd_spec spec = fd_spec(fd, BELL_READ, BELL_ONESHOT, to_poll());
    bell_handle h = 77;
    CHECK(file >= 0 && unlink(path) == 0);
    CHECK_EQ(try_watch(bell, file, BELL_READ, BELL_ONESHOT, to_poll()), -EPERM);
    if (has_feature(BELL_FEATURE_EPOLL)) {
        faults_plan((faults){.kinds = FAULTS_OF(epoll_ctl), .at = 1, .error = ENOSPC});
        faults_begin();
        int32_t r = bell_register_fd(bell, &spec, &h);
        faults_end();
        CHECK_EQ(r, -ENOSPC);
        CHECK_EQ(h, 77);
        CHECK_EQ(stats_of(bell).fds, 0);
        check_verified(bell);
    }
    CHECK_EQ(bell_register_fd(bell, &spec, &h), 0); /* there is room again */
    CHECK_EQ(eventfd_write(fd, 1), 0);
    CHECK_EQ(next_event(bell).handle, h);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(close(file), 0);
    check_clean(bell);
}

/* libuv be2ddacb9: the error of clock_gettime was passed over, and a wild number was the time. */
static void museum_059_a_clock_that_cannot_be_read_is_told(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    const faults broken = {.kinds = FAULTS_OF(clock_gettime), .at = 1, .for_ever = 1, .error = EPERM};
    bell_handle h = set_timeout(bell, now_ns() + US(100), to_slot());
    for (int i = 0; i < 3; i++) {
        faults_plan(broken);
        faults_begin();
        int64_t now = bell_now(BELL_CLOCK_MONOTONIC);
        int32_t polled = bell_poll(bell, 0, &e, 1, MS(5));
        int32_t waited = bell_slot_wait(bell, h, BELL_READ, now_ns() + SEC(1), 0);
        faults_end();
        CHECK_EQ(now, -EPERM);
        CHECK_EQ(polled, -EPERM);
        CHECK_EQ(waited, -EPERM);
    }
    check_verified(bell);
    CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_TIMEOUT); /* nothing is lost */
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    check_clean(bell);
}

int main(void)
{
    RUN(museum_055_a_create_that_fails_harms_no_other_thread);
    RUN(museum_057_no_room_and_cannot_be_polled_are_two_errors);
    RUN(museum_059_a_clock_that_cannot_be_read_is_told);
    return 0;
}
