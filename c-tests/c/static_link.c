/* The static library: a program that is linked with libdoorbell.a creates, plays ping-pong and destroys. */
#define _GNU_SOURCE
#include "check.h"

static void does_the_static_library_play_ping_pong(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    bell_handle h[2];
    make_sockets(fds);
    for (int i = 0; i < 2; i++)
        h[i] = watch(bell, fds[i], BELL_READ, BELL_ONESHOT, to_poll());
    put_byte(fds[0]);
    for (int i = 0; i < rounds(1000); i++) {
        int turn = (i + 1) % 2;
        bell_event e = next_event(bell);
        CHECK_EQ(e.handle, h[turn]);
        CHECK_EQ(e.ready, BELL_READ);
        CHECK_EQ(drain_fd(fds[turn]), 1);
        put_byte(fds[turn]);
        CHECK_EQ(bell_rearm(bell, h[turn], NULL, BELL_NEVER), 0);
    }
    for (int i = 0; i < 2; i++)
        CHECK_OK(bell_unregister(bell, h[i], 0));
    close_pair(fds);
    check_clean(bell);
}

static void does_the_static_library_run_threads(void)
{
    bell_t *bell = make_bell(0, 1);
    bell_handle h = set_timeout(bell, now_ns() + MS(1), to_slot());
    CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_TIMEOUT);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    check_clean(bell);
}

static void is_the_static_library_of_the_version_of_the_header(void)
{
    CHECK_EQ(bell_abi_version() >> 16, BELL_ABI_MAJOR);
    CHECK_GE(bell_abi_version() & 0xffff, BELL_ABI_MINOR);
}

int main(void)
{
    RUN(is_the_static_library_of_the_version_of_the_header);
    RUN(does_the_static_library_play_ping_pong);
    RUN(does_the_static_library_run_threads);
    return 0;
}
