/* A bug inside the library: every call says so, nothing is printed, nobody sleeps on, and bell_destroy still works. The
 * bug is made by bell_test_panic, which only a library built for the tests has (feature test-hooks). */
#define _GNU_SOURCE
#include "check.h"

int32_t bell_test_panic(bell_t *bell) __attribute__((weak));

/* What a poisoned manager holds is not freed: it cannot be trusted. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

/* Panics with stderr in a pipe; returns how many bytes were printed. */
static long panic_quietly(bell_t *bell)
{
    int out[2], before = dup(2);
    char text[256];
    CHECK_EQ(pipe2(out, O_NONBLOCK | O_CLOEXEC), 0);
    CHECK_EQ(dup2(out[1], 2), 2);
    int32_t result = bell_test_panic(bell);
    CHECK_EQ(dup2(before, 2), 2);
    CHECK_EQ(close(before), 0);
    CHECK_EQ(result, BELL_E_POISONED);
    long n = read(out[0], text, sizeof text);
    close_pair(out);
    return n < 0 ? 0 : n;
}

static void is_a_bug_told_by_every_call_and_not_printed(void)
{
    bell_t *bell = make_bell(2, 0), *other = make_bell(1, 0);
    int fds[2];
    make_sockets(fds);
    bell_handle h = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot()), queue = make_queue(bell, NULL), made;
    bell_handle user = make_user(bell, to_slot());
    bell_slot *slot;
    bell_counters counters = {.size = sizeof counters};
    bell_event e;
    bell_fd_spec spec = fd_spec(fds[1], BELL_READ, BELL_ONESHOT, to_poll());
    int64_t t;
    uint64_t ticket;
    CHECK_EQ(panic_quietly(bell), 0);
    CHECK_EQ(bell_register_fd(bell, &spec, &made), BELL_E_POISONED);
    CHECK_EQ(bell_rearm(bell, h, NULL, BELL_NEVER), BELL_E_POISONED);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_E_POISONED);
    CHECK_EQ(bell_poll(bell, 0, &e, 1, BELL_NEVER), BELL_E_POISONED);
    CHECK_EQ(bell_wake(bell, 0), BELL_E_POISONED);
    CHECK_EQ(bell_post(bell, user, 1), BELL_E_POISONED);
    CHECK_EQ(bell_slot_map(bell, h, &slot), BELL_E_POISONED);
    CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, BELL_NEVER, 0), BELL_E_POISONED);
    CHECK_EQ(bell_queue_wait(bell, queue, &e, 1, BELL_NEVER), BELL_E_POISONED);
    CHECK_EQ(bell_next_deadline(bell, 0, &t), BELL_E_POISONED);
    CHECK_EQ(bell_close_begin(bell, fds[0], &ticket), BELL_E_POISONED);
    CHECK_EQ(bell_stats(bell, BELL_SHARD_ANY, &counters), BELL_E_POISONED);
    CHECK_EQ(bell_verify(bell), BELL_E_POISONED);
    CHECK_EQ(bell_before_fork(bell), BELL_E_POISONED);
    CHECK_EQ(bell_wake(other, 0), 0); /* its neighbour is sound */
    CHECK_EQ(bell_destroy(bell, 0), 0);
    CHECK_EQ(bell_destroy(bell, 0), BELL_E_STALE);
    close_pair(fds);
    check_clean(other);
}

typedef struct sleeper {
    bell_t *bell;
    bell_handle handle;
    int how;
    int32_t result;
} sleeper;

static void *sleep_until_told(void *argument)
{
    sleeper *s = argument;
    bell_event e;
    do
        s->result = s->how == 0   ? bell_poll(s->bell, 1, &e, 1, BELL_NEVER)
                    : s->how == 1 ? bell_slot_wait(s->bell, s->handle, BELL_READ, BELL_NEVER, 0)
                                  : bell_queue_wait(s->bell, s->handle, &e, 1, BELL_NEVER);
    while (s->result == 0);
    return NULL;
}

static void does_a_bug_wake_whoever_sleeps(void)
{
    for (int threads = 0; threads < 2; threads++)
        for (int i = 0; i < rounds(50); i++) {
            bell_t *bell = make_bell(2, threads ? 2 : 0);
            int fds[2];
            make_sockets(fds);
            bell_handle h = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
            sleeper s[3] = {{.bell = bell, .how = 0},
                            {.bell = bell, .how = 1, .handle = h},
                            {.bell = bell, .how = 2, .handle = make_queue(bell, NULL)}};
            pthread_t t[3];
            for (int k = threads; k < 3; k++)
                t[k] = start_thread(sleep_until_told, &s[k]);
            if (i % 2)
                AWAIT(stats_of(bell).waiters == 2);
            CHECK_EQ(panic_quietly(bell), 0);
            for (int k = threads; k < 3; k++) {
                join_thread(t[k]);
                CHECK_EQ(s[k].result, BELL_E_POISONED);
            }
            CHECK_EQ(bell_destroy(bell, 0), 0);
            close_pair(fds);
        }
}

int main(void)
{
    if (!bell_test_panic)
        SKIP("this library has no bell_test_panic");
    RUN(is_a_bug_told_by_every_call_and_not_printed);
    RUN(does_a_bug_wake_whoever_sleeps);
    return 0;
}
