/* Foreign threads that live shortly: the library keeps nothing for them and needs nothing from them. */
#define _GNU_SOURCE
#include "check.h"

enum { AT_ONCE = 8, REGISTRATIONS = 16 };

static uint32_t mode(void)
{
    return has_edge() ? BELL_EDGE : BELL_ONESHOT;
}

static void *live_shortly(void *argument)
{
    bell_t *bell = argument;
    int fds[2];
    make_sockets(fds);
    bell_handle h = watch(bell, fds[0], BELL_READ, mode(), to_slot());
    bell_handle t = set_timeout(bell, now_ns() + US(50), to_slot());
    put_byte(fds[1]);
    CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
    CHECK_EQ(bell_slot_wait(bell, t, BELL_READ, now_ns() + PATIENCE, 0), BELL_TIMEOUT);
    CHECK_OK(bell_unregister(bell, h, 0));
    CHECK_EQ(bell_unregister(bell, t, BELL_SYNC), BELL_FIRED);
    close_pair(fds);
    return NULL;
}

static void lives(uint32_t library_threads)
{
    bell_t *bell = make_bell(0, library_threads);
    uint64_t heap_early = 0;
    int lives = rounds(2000) / AT_ONCE;
    for (int i = 0; i < lives; i++) {
        pthread_t threads[AT_ONCE];
        for (int k = 0; k < AT_ONCE; k++)
            threads[k] = start_thread(live_shortly, bell);
        for (int k = 0; k < AT_ONCE; k++)
            join_thread(threads[k]);
        if (i == lives / 2)
            heap_early = stats_of(bell).heap_bytes;
    }
    uint64_t heap = stats_of(bell).heap_bytes;
    fprintf(stderr, "  heap %" PRIu64 " bytes half-way, %" PRIu64 " at the end\n", heap_early, heap);
    CHECK_LE(heap, 2 * heap_early + 4096); /* nothing is kept for each thread that was */
    check_clean(bell);
}

static void do_2000_short_lived_threads_wait_and_vanish(void)
{
    lives(0);
}

static void do_2000_short_lived_threads_wait_for_library_threads(void)
{
    lives(2);
}

/* ---- registrations that outlive their makers ---- */

typedef struct estate {
    bell_t *bell;
    int fds[REGISTRATIONS][2];
    bell_handle slots[REGISTRATIONS];
    bell_handle polled;
    bell_handle timeout;
    bell_handle queue;
    bell_handle user;
} estate;

static void *register_and_die(void *argument)
{
    estate *e = argument;
    for (int i = 0; i < REGISTRATIONS; i++) {
        make_sockets(e->fds[i]);
        e->slots[i] = watch(e->bell, e->fds[i][0], BELL_READ, mode(), to_slot());
    }
    e->timeout = set_timeout(e->bell, now_ns() + MS(1), to_slot());
    e->queue = make_queue(e->bell, NULL);
    e->user = make_user(e->bell, to_queue(e->queue));
    e->polled = make_user(e->bell, to_poll());
    /* It has also driven: a leader of yesterday must not be waited for. */
    CHECK_EQ(bell_slot_wait(e->bell, e->slots[0], BELL_READ, now_ns() + US(10), 0), -ETIMEDOUT);
    return NULL;
}

static void do_registrations_outlive_the_thread_that_made_them(void)
{
    for (int round = 0; round < rounds(100); round++) {
        estate e = {.bell = make_bell(1, 0)};
        bell_event event;
        join_thread(start_thread(register_and_die, &e));
        CHECK_EQ(stats_of(e.bell).fds, REGISTRATIONS);
        CHECK_EQ(stats_of(e.bell).waiters, 0);
        CHECK_EQ(bell_slot_wait(e.bell, e.timeout, BELL_READ, now_ns() + PATIENCE, 0), BELL_TIMEOUT);
        for (int i = 0; i < REGISTRATIONS; i++) {
            put_byte(e.fds[i][1]);
            CHECK_EQ(bell_slot_wait(e.bell, e.slots[i], BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
        }
        CHECK_EQ(bell_post(e.bell, e.user, 9), 0);
        CHECK_EQ(bell_queue_wait(e.bell, e.queue, &event, 1, now_ns() + PATIENCE), 1);
        CHECK_EQ(event.handle, e.user);
        CHECK_EQ(event.data, 9);
        CHECK_EQ(bell_post(e.bell, e.polled, 3), 0);
        event = next_event(e.bell);
        CHECK_EQ(event.handle, e.polled);
        for (int i = 0; i < REGISTRATIONS; i++) {
            CHECK_OK(bell_unregister(e.bell, e.slots[i], 0));
            close_pair(e.fds[i]);
        }
        CHECK_EQ(bell_unregister(e.bell, e.timeout, 0), BELL_FIRED);
        CHECK_OK(bell_unregister(e.bell, e.user, 0));
        CHECK_OK(bell_unregister(e.bell, e.polled, 0));
        CHECK_EQ(bell_queue_destroy(e.bell, e.queue, 0), BELL_FIRED);
        check_clean(e.bell);
    }
}

static void *create_and_die(void *argument)
{
    estate *e = argument;
    e->bell = make_bell(1, 0);
    register_and_die(e);
    return NULL;
}

static void *destroy_and_die(void *argument)
{
    estate *e = argument;
    CHECK_EQ(bell_destroy(e->bell, 0), 0);
    return NULL;
}

static void may_one_thread_create_and_another_destroy(void)
{
    for (int round = 0; round < rounds(100); round++) {
        estate e = {0};
        join_thread(start_thread(create_and_die, &e));
        put_byte(e.fds[1][1]);
        CHECK_EQ(bell_slot_wait(e.bell, e.slots[1], BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
        join_thread(start_thread(destroy_and_die, &e));
        CHECK_EQ(bell_wake(e.bell, 0), BELL_E_STALE);
        for (int i = 0; i < REGISTRATIONS; i++)
            close_pair(e.fds[i]);
    }
}

/* ---- a thread for each turn ---- */

static void *turn_once(void *argument)
{
    bell_t *bell = argument;
    bell_event e = next_event(bell);
    CHECK_EQ(e.ready, BELL_READ);
    CHECK_EQ(drain_fd((int)e.user_data), 1);
    CHECK_EQ(bell_rearm(bell, e.handle, NULL, BELL_NEVER), 0);
    return NULL;
}

static void may_each_turn_be_made_by_a_new_thread(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    make_sockets(fds);
    bell_handle h = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
    for (int i = 0; i < rounds(1000); i++) {
        put_byte(fds[1]);
        join_thread(start_thread(turn_once, bell));
    }
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    close_pair(fds);
    check_clean(bell);
}

int main(void)
{
    RUN(do_2000_short_lived_threads_wait_and_vanish);
    RUN(do_2000_short_lived_threads_wait_for_library_threads);
    RUN(do_registrations_outlive_the_thread_that_made_them);
    RUN(may_one_thread_create_and_another_destroy);
    RUN(may_each_turn_be_made_by_a_new_thread);
    return 0;
}
