/* Museum J: waking. */
#define _GNU_SOURCE
#include "museum.h"
#include <linux/futex.h>

typedef struct sleeper {
    bell_t *bell;
    uint32_t id, awake;
} sleeper;

static void *sleep_in_poll(void *argument)
{
    sleeper *s = argument;
    store(&s->id, thread_id());
    CHECK_EQ(bell_poll(s->bell, 0, NULL, 0, BELL_NEVER), 0);
    store(&s->awake, 1);
    return NULL;
}

/* mio#909, helios#169: the counter of the waker is full, the write is refused, and there is no edge. */
static void museum_073_a_waker_that_is_full_still_wakes(void)
{
    own_fds own;
    sleeper s = {.bell = make_bell_and_see_fds(0, &own)};
    for (int i = 0; i < 5; i++) {
        store(&s.id, 0);
        store(&s.awake, 0);
        pthread_t thread = start_thread(sleep_in_poll, &s);
        AWAIT(is_asleep(&s.id));
        if (has_feature(BELL_FEATURE_EPOLL)) {
            const uint64_t most = UINT64_MAX - 1;
            uint64_t old;
            int waker = own_fd_of(&own, "eventfd");
            CHECK(read(waker, &old, 8) == 8 || errno == EAGAIN);
            CHECK_EQ(write(waker, &most, 8), 8); /* an edge: it looks, finds nothing, and sleeps again */
            AWAIT(is_asleep(&s.id));
        } else {
            for (int k = 0; k < own.n; k++)
                if ((fcntl(own.fds[k], F_GETFL) & O_ACCMODE) == O_WRONLY)
                    for (int n = 0; n < 70000 && write(own.fds[k], "x", 1) == 1; n++)
                        ;
        }
        CHECK_EQ(bell_wake(s.bell, 0), 0);
        AWAIT(load(&s.awake));
        join_thread(thread);
    }
    check_clean(s.bell);
}

typedef struct stray {
    uint32_t *words[2];
    uint32_t stop, wakes;
} stray;

static void *wake_for_nothing(void *argument)
{
    stray *s = argument;
    while (!load(&s->stop)) {
        for (int i = 0; i < 2; i++)
            syscall(SYS_futex, s->words[i], FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
        add(&s->wakes, 1);
    }
    return NULL;
}

/* liburcu feb97797, musl 97c5b5a8: a futex wake that nobody sent was taken for news. */
static void museum_078_stray_wakes_of_a_slot_are_no_news(void)
{
    for (uint32_t threads = 0; threads < 2; threads++) {
        bell_t *bell = make_bell(1, threads);
        bell_slot *slot;
        stray s = {{0}, 0, 0};
        bell_handle h = make_user(bell, to_slot());
        CHECK_OK(bell_slot_map(bell, h, &slot));
        s.words[0] = &slot->rd, s.words[1] = &slot->wr;
        pthread_t thread = start_thread(wake_for_nothing, &s);
        AWAIT(load(&s.wakes) > 10);
        for (int i = 0; i < 5; i++) {
            int64_t deadline = now_ns() + MS(2);
            CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, deadline, 0), -ETIMEDOUT);
            CHECK_GE(now_ns(), deadline);
            CHECK_EQ(bell_post(bell, h, 1), 0);
            CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_USER);
        }
        store(&s.stop, 1);
        join_thread(thread);
        CHECK_OK(bell_unregister(bell, h, BELL_SYNC));
        check_clean(bell);
    }
}

int main(void)
{
    RUN(museum_073_a_waker_that_is_full_still_wakes);
    RUN(museum_078_stray_wakes_of_a_slot_are_no_news);
    return 0;
}
