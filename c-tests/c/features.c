/* bell_features: each bit against what the call that it is about really answers. */
#define _GNU_SOURCE
#include "check.h"
#include <linux/futex.h>

/* What a call must return, by a bit. */
static int32_t by_bit(uint64_t bit, int32_t result)
{
    return has_feature(bit) ? result : BELL_E_UNSUPPORTED;
}

static void is_one_backend_named(void)
{
    uint64_t bits = 0;
    CHECK_EQ(bell_features(&bits), 0);
    fprintf(stderr, "  features %#" PRIx64 "\n", bits);
    bits &= BELL_FEATURE_EPOLL | BELL_FEATURE_POLL | BELL_FEATURE_KQUEUE;
    CHECK(bits != 0);
    CHECK_EQ(bits & (bits - 1), 0);
}

static void is_edge_taken_if_and_only_if_the_bit_is_there(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    make_pipe(fds);
    int32_t expected = by_bit(BELL_FEATURE_EDGE, 0);
    CHECK_EQ(try_watch(bell, fds[0], BELL_READ, BELL_EDGE, to_poll()), expected);
    CHECK_EQ(bell_destroy(bell, BELL_FORCE), 0);
    close_pair(fds);
}

static void is_exclusive_taken_if_and_only_if_the_bit_is_there(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    bell_handle h;
    make_sockets(fds);
    bell_fd_spec spec = fd_spec(fds[0], BELL_READ, BELL_EDGE, to_poll());
    spec.flags = BELL_FD_EXCLUSIVE;
    spec.shard = 0;
    CHECK_EQ(bell_register_fd(bell, &spec, &h), by_bit(BELL_FEATURE_EXCLUSIVE, 0));
    CHECK_EQ(bell_destroy(bell, BELL_FORCE), 0);
    close_pair(fds);
}

static void is_there_a_pollable_fd_if_and_only_if_the_bit_is_there(void)
{
    bell_t *bell = make_bell(1, 0);
    int32_t fd = bell_pollable_fd(bell, 0);
    if (has_feature(BELL_FEATURE_POLLABLE)) {
        CHECK(!looks_ready(CHECK_OK(fd), POLLIN));
        bell_handle h = make_user(bell, to_poll());
        CHECK_EQ(bell_post(bell, h, 1), 0);
        CHECK(looks_ready(fd, POLLIN));
    } else {
        CHECK_EQ(fd, BELL_E_UNSUPPORTED);
    }
    CHECK_EQ(bell_destroy(bell, BELL_FORCE), 0);
}

static void do_timeouts_follow_other_clocks_if_and_only_if_the_bit_is_there(void)
{
    bell_t *bell = make_bell(1, 0);
    for (uint32_t clock = BELL_CLOCK_BOOT; clock <= BELL_CLOCK_REAL; clock++) {
        bell_handle h;
        bell_timeout_spec spec = timeout_spec(0, to_poll());
        spec.clock = clock;
        CHECK_EQ(bell_register_timeout(bell, &spec, &h), by_bit(BELL_FEATURE_CLOCKS, 0));
        if (has_feature(BELL_FEATURE_CLOCKS))
            CHECK_EQ(next_event(bell).handle, h);
    }
    CHECK_EQ(bell_destroy(bell, BELL_FORCE), 0);
}

/* One sleep of a fifth of a millisecond that ends before a whole one has passed is enough: counting in milliseconds it
 * would be rounded up. */
static void does_a_sleep_end_within_a_millisecond_if_the_bit_is_there(void)
{
    if (!has_feature(BELL_FEATURE_NANOSECONDS) || slow())
        return;
    bell_t *bell = make_bell(1, 0);
    int64_t best = SEC(1);
    for (int i = 0; i < 1000 && best >= US(900); i++) {
        int64_t start = now_ns();
        CHECK_EQ(bell_poll(bell, 0, NULL, 0, US(200)), 0);
        int64_t slept = now_ns() - start;
        CHECK_GE(slept, US(200));
        if (slept < best)
            best = slept;
    }
    fprintf(stderr, "  the best of the sleeps took %lld us\n", (long long)(best / 1000));
    CHECK_LT(best, US(900));
    CHECK_EQ(bell_destroy(bell, BELL_FORCE), 0);
}

typedef struct sleeper {
    uint32_t *word;
    uint32_t id;
} sleeper;

/* A runtime that parks its thread itself, by the protocol of the words. */
static void *park(void *argument)
{
    sleeper *s = argument;
    store(&s->id, thread_id());
    for (;;) {
        uint32_t seen = load(s->word);
        if (seen & BELL_NEWS)
            return NULL;
        uint32_t waiting = seen | BELL_WAITER;
        if (__atomic_compare_exchange_n(s->word, &seen, waiting, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            syscall(SYS_futex, s->word, FUTEX_WAIT_PRIVATE, waiting, NULL, NULL, 0);
    }
}

static void is_a_thread_woken_that_sleeps_on_the_word_itself_if_the_bit_is_there(void)
{
    if (!has_feature(BELL_FEATURE_FUTEX))
        return;
    bell_t *bell = make_bell(1, 0);
    uint32_t word = 0;
    bell_slot *slot;
    bell_handle user = make_user(bell, to_futex(&word)), timeout = set_timeout(bell, BELL_NEVER, to_slot());
    CHECK_EQ(bell_slot_map(bell, timeout, &slot), 0);
    sleeper sleepers[2] = { { .word = &word }, { .word = &slot->rd } };
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        threads[i] = start_thread(park, &sleepers[i]);
        while (!is_asleep(&sleepers[i].id))
            sched_yield();
    }
    CHECK_EQ(bell_post(bell, user, 1), 0);
    CHECK_OK(bell_update_timeout(bell, timeout, 0));
    turn(bell);
    for (int i = 0; i < 2; i++)
        join_thread(threads[i]);
    CHECK_OK(bell_unregister(bell, user, BELL_SYNC));
    CHECK_EQ(bell_destroy(bell, BELL_FORCE), 0);
}

int main(void)
{
    RUN(is_one_backend_named);
    RUN(is_edge_taken_if_and_only_if_the_bit_is_there);
    RUN(is_exclusive_taken_if_and_only_if_the_bit_is_there);
    RUN(is_there_a_pollable_fd_if_and_only_if_the_bit_is_there);
    RUN(do_timeouts_follow_other_clocks_if_and_only_if_the_bit_is_there);
    RUN(does_a_sleep_end_within_a_millisecond_if_the_bit_is_there);
    RUN(is_a_thread_woken_that_sleeps_on_the_word_itself_if_the_bit_is_there);
    return 0;
}
