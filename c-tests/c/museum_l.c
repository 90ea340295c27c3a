/* Museum L and M: shutting down; calling back in. */
#define _GNU_SOURCE
#include "museum.h"

enum { WAITERS = 8, CANCELLERS = 2 };

typedef struct crowd {
    bell_t *bell;
    bell_handle users[WAITERS];
    uint32_t inside, words[CANCELLERS];
} crowd;

typedef struct member {
    crowd *crowd;
    int number;
} member;

static void *wait_until_the_end(void *argument)
{
    member *m = argument;
    crowd *c = m->crowd;
    add(&c->inside, 1);
    CHECK_EQ(bell_slot_wait(c->bell, c->users[m->number], BELL_READ, BELL_NEVER, 0), BELL_E_CLOSED);
    return NULL;
}

static void *cancel_until_the_end(void *argument)
{
    member *m = argument;
    crowd *c = m->crowd;
    add(&c->inside, 1);
    for (;;) {
        /* The manager may be destroyed during a BELL_SYNC; other calls must not run then. So only that one. */
        int32_t r = bell_unregister(c->bell, 1, BELL_SYNC);
        if (r == BELL_E_STALE && bell_wake(c->bell, 0) == BELL_E_STALE)
            return NULL;
        CHECK_EQ(r, BELL_E_STALE); /* no such handle */
    }
}

/* tokio#2903, seastar#3182: shutting down waited for somebody who waited for the shutdown. */
static void museum_083_destroying_frees_everybody_inside(void)
{
    for (int i = 0; i < rounds(60); i++) {
        crowd c = {.bell = make_bell(1, i % 2 ? 1 : 0)};
        member members[WAITERS + CANCELLERS];
        pthread_t threads[WAITERS + CANCELLERS];
        for (int k = 0; k < WAITERS; k++)
            c.users[k] = make_user(c.bell, to_slot());
        for (int k = 0; k < WAITERS + CANCELLERS; k++) {
            members[k] = (member){&c, k};
            threads[k] = start_thread(k < WAITERS ? wait_until_the_end : cancel_until_the_end, &members[k]);
        }
        AWAIT(load(&c.inside) == WAITERS + CANCELLERS && stats_of(c.bell).waiters == WAITERS);
        CHECK_EQ(bell_destroy(c.bell, 0), BELL_E_BUSY);
        CHECK_EQ(bell_destroy(c.bell, BELL_FORCE), 0);
        for (int k = 0; k < WAITERS + CANCELLERS; k++)
            join_thread(threads[k]);
    }
}

/* libevent 1cd8830d: the list was changed by whoever was told from it. */
static void museum_088_everything_may_be_done_between_two_pieces_of_a_drain(void)
{
    enum { THINGS = 40 };
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL), things[THINGS] = {0};
    int fds[THINGS];
    uint64_t told = 0;
    for (int i = 0; i < THINGS; i++) {
        fds[i] = make_eventfd();
        CHECK_EQ(eventfd_write(fds[i], 1), 0);
    }
    for (int i = 0; i < rounds(20000); i++) {
        bell_event e;
        int k = (int)(museum_random() % THINGS);
        bell_target target = museum_random() % 2 ? to_poll() : to_queue(queue);
        switch (museum_random() % 8) {
        case 0:
            if (!things[k])
                things[k] = watch(bell, fds[k], BELL_READ, museum_random() % 2 ? BELL_ONESHOT : BELL_LEVEL, target);
            break;
        case 1:
            if (!things[k])
                things[k] = set_timeout(bell, now_ns() + (int64_t)(museum_random() % 3000), target);
            break;
        case 2:
            if (!things[k]) {
                things[k] = make_user(bell, target);
                CHECK_EQ(bell_post(bell, things[k], 1), 0);
            }
            break;
        case 3:
            if (things[k]) {
                CHECK_OK(bell_unregister(bell, things[k], museum_random() % 2 ? BELL_SYNC : 0));
                things[k] = 0;
            }
            break;
        case 4:
            if (things[k])
                CHECK_OK(bell_rearm(bell, things[k], NULL, BELL_NEVER));
            break;
        case 5: CHECK_EQ(bell_wake(bell, 0), 0); break;
        case 6:
            if (bell_poll(bell, 0, &e, 1, 0) == 1) {
                int live = 0;
                for (int n = 0; n < THINGS; n++)
                    live |= things[n] == e.handle;
                CHECK(live);
                told++;
            }
            break;
        default:
            if (bell_queue_drain(bell, queue, &e, 1) == 1) {
                int live = 0;
                for (int n = 0; n < THINGS; n++)
                    live |= things[n] == e.handle;
                CHECK(live);
                told++;
            }
        }
        if (i % 1000 == 0)
            check_verified(bell);
    }
    CHECK_GT(told, (uint64_t)rounds(20000) / 100);
    for (int i = 0; i < THINGS; i++) {
        if (things[i])
            CHECK_OK(bell_unregister(bell, things[i], 0));
        CHECK_EQ(close(fds[i]), 0);
    }
    CHECK_EQ(bell_queue_destroy(bell, queue, 0), BELL_FIRED);
    check_clean(bell);
}

int main(void)
{
    RUN(museum_083_destroying_frees_everybody_inside);
    RUN(museum_088_everything_may_be_done_between_two_pieces_of_a_drain);
    return 0;
}
