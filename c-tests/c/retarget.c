/* retarget: what the old target has shown to nobody reaches the new one, once and unchanged; nothing else does. */
#define _GNU_SOURCE
#include "check.h"

enum { TO_POLL, TO_QUEUE, TO_SLOT, TO_FUTEX, TARGETS };

typedef struct place {
    bell_t *bell;
    bell_handle queue, other;
    uint32_t word;
} place;

static place open_place(void)
{
    place p = {.bell = make_bell(1, 0)};
    p.queue = make_queue(p.bell, NULL);
    p.other = make_queue(p.bell, NULL);
    return p;
}

static void close_place(place *p)
{
    CHECK_OK(bell_queue_destroy(p->bell, p->queue, BELL_SYNC));
    CHECK_OK(bell_queue_destroy(p->bell, p->other, BELL_SYNC));
    check_clean(p->bell);
}

static bell_target target_of(place *p, int kind)
{
    switch (kind) {
    case TO_POLL: return to_poll();
    case TO_QUEUE: return to_queue(p->other);
    case TO_SLOT: return to_slot();
    default: store(&p->word, 0); return to_futex(&p->word);
    }
}

/* The news is at the target now, without another turn: its bits and, where the target shows it, its data. */
static void has_landed(place *p, int kind, bell_handle handle, uint32_t ready, uint64_t data)
{
    bell_event e[2] = {0};
    switch (kind) {
    case TO_POLL:
        CHECK_EQ(bell_poll(p->bell, 0, e, 2, 0), 1);
        break;
    case TO_QUEUE:
        CHECK_EQ(bell_queue_drain(p->bell, p->other, e, 2), 1);
        break;
    case TO_SLOT:
        CHECK_EQ(bell_slot_consume(p->bell, handle, BELL_READ), (int32_t)ready);
        CHECK_EQ(bell_slot_consume(p->bell, handle, BELL_READ), 0);
        return;
    default:
        CHECK_EQ(load(&p->word) & 0x3FF, ready);
        return;
    }
    CHECK_EQ(e[0].handle, handle);
    CHECK_EQ(e[0].ready, ready);
    CHECK_EQ(e[0].data, data);
    CHECK_EQ(e[0].status, 0);
}

/* Turns without room for the news of POLL. */
static void collect(place *p)
{
    CHECK_EQ(bell_poll(p->bell, 0, NULL, 0, 0), 0);
}

static void unseen_readiness_goes_along_though_the_fd_is_dry_again(void)
{
    for (int from = TO_POLL; from <= TO_QUEUE; from++)
        for (int to = 0; to < TARGETS; to++) {
            place p = open_place();
            bell_target target = target_of(&p, to);
            int fds[2];
            make_sockets(fds);
            bell_handle h = watch(p.bell, fds[0], BELL_READ, BELL_ONESHOT, from == TO_POLL ? to_poll() : to_queue(p.queue));
            put_byte(fds[1]);
            collect(&p);
            CHECK_EQ(drain_fd(fds[0]), 1);
            CHECK_EQ(bell_retarget(p.bell, h, &target), BELL_CANCELLED);
            has_landed(&p, to, h, BELL_READ, 0);
            CHECK_EQ(bell_queue_drain(p.bell, p.queue, &(bell_event){0}, 1), 0);
            /* It has been delivered, and is not armed. */
            put_byte(fds[1]);
            expect_quiet(p.bell, MS(1));
            CHECK_EQ(bell_unregister(p.bell, h, BELL_SYNC), BELL_FIRED);
            close_pair(fds);
            close_place(&p);
        }
}

static void an_unseen_deadline_goes_along(void)
{
    for (int of_fd = 0; of_fd < 2; of_fd++)
        for (int to = 0; to < TARGETS; to++) {
            place p = open_place();
            bell_target target = target_of(&p, to);
            bell_handle h;
            int fds[2];
            make_sockets(fds);
            if (of_fd) {
                bell_fd_spec spec = fd_spec(fds[0], BELL_READ, BELL_ONESHOT, to_queue(p.queue));
                spec.flags = BELL_FD_DEADLINE;
                spec.deadline_ns = 0;
                CHECK_OK(bell_register_fd(p.bell, &spec, &h));
            } else {
                h = set_timeout(p.bell, 0, to_queue(p.queue));
            }
            collect(&p);
            CHECK_EQ(bell_retarget(p.bell, h, &target), BELL_CANCELLED);
            has_landed(&p, to, h, BELL_TIMEOUT, of_fd ? 0 : 1);
            CHECK_EQ(stats_of(p.bell).timers_armed, 1); /* told, not armed again */
            CHECK_EQ(bell_unregister(p.bell, h, BELL_SYNC), BELL_FIRED);
            close_pair(fds);
            close_place(&p);
        }
}

static void a_periodic_timeout_keeps_the_ticks_that_nobody_has_seen(void)
{
    for (int to = 0; to < TARGETS; to++) {
        place p = open_place();
        bell_target target = target_of(&p, to);
        bell_timeout_spec spec = timeout_spec(0, to_queue(p.queue));
        bell_handle h;
        spec.deadline_ns = now_ns() - MS(1);
        spec.period_ns = (int64_t)3600 * 1000 * 1000 * 1000;
        CHECK_OK(bell_register_timeout(p.bell, &spec, &h));
        collect(&p);
        CHECK_EQ(bell_retarget(p.bell, h, &target), BELL_CANCELLED);
        has_landed(&p, to, h, BELL_TIMEOUT, 1);
        CHECK_EQ(bell_timeout_get(p.bell, h, &(int64_t){0}), 0);
        CHECK_EQ(bell_unregister(p.bell, h, BELL_SYNC), BELL_CANCELLED);
        close_place(&p);
    }
}

static void the_bits_of_an_unseen_post_go_along(void)
{
    for (int to = 0; to < TARGETS; to++) {
        place p = open_place();
        bell_target target = target_of(&p, to);
        bell_handle h = make_user(p.bell, to_queue(p.queue));
        CHECK_EQ(bell_post(p.bell, h, 4), 0);
        collect(&p);
        CHECK_EQ(bell_post(p.bell, h, 1), 0);
        CHECK_EQ(bell_retarget(p.bell, h, &target), BELL_CANCELLED);
        if (to != TO_POLL)
            collect(&p);
        has_landed(&p, to, h, BELL_USER, 5);
        CHECK_OK(bell_unregister(p.bell, h, BELL_SYNC));
        close_place(&p);
    }
}

static void what_was_seen_does_not_come_again(void)
{
    for (int to = 0; to < TARGETS; to++) {
        place p = open_place();
        bell_target target = target_of(&p, to);
        int fds[2];
        bell_event e;
        make_sockets(fds);
        bell_handle h = watch(p.bell, fds[0], BELL_READ, BELL_ONESHOT, to_queue(p.queue));
        bell_handle timeout = set_timeout(p.bell, 0, to_queue(p.queue));
        put_byte(fds[1]);
        collect(&p);
        CHECK_EQ(bell_queue_drain(p.bell, p.queue, &e, 1), 1);
        CHECK_EQ(bell_queue_drain(p.bell, p.queue, &e, 1), 1);
        uint64_t events = stats_of(p.bell).events;
        CHECK_EQ(bell_retarget(p.bell, h, &target), BELL_FIRED);
        CHECK_EQ(bell_retarget(p.bell, timeout, &target), BELL_FIRED);
        expect_quiet(p.bell, MS(1));
        CHECK_EQ(stats_of(p.bell).events, events);
        CHECK_EQ(bell_unregister(p.bell, h, BELL_SYNC), BELL_FIRED);
        CHECK_EQ(bell_unregister(p.bell, timeout, BELL_SYNC), BELL_FIRED);
        close_pair(fds);
        close_place(&p);
    }
}

/* Drained, a LEVEL registration waits for its consumer's next drain; the consumer is another one now. */
static void a_drained_level_registration_goes_on_with_its_new_consumer(void)
{
    for (int from = TO_POLL; from <= TO_QUEUE; from++)
        for (int to = TO_POLL; to <= TO_QUEUE; to++) {
            place p = open_place();
            bell_target target = target_of(&p, to);
            bell_event e;
            int fds[2];
            make_sockets(fds);
            bell_handle h = watch(p.bell, fds[0], BELL_READ, BELL_LEVEL, from == TO_POLL ? to_poll() : to_queue(p.queue));
            put_byte(fds[1]);
            if (from == TO_POLL) {
                CHECK_EQ(bell_poll(p.bell, 0, &e, 1, PATIENCE), 1);
            } else {
                collect(&p);
                CHECK_EQ(bell_queue_drain(p.bell, p.queue, &e, 1), 1);
            }
            CHECK_EQ(bell_retarget(p.bell, h, &target), BELL_CANCELLED);
            for (int i = 0; i < 3; i++)
                has_landed(&p, to, h, BELL_READ, 0);
            CHECK_EQ(drain_fd(fds[0]), 1);
            CHECK_EQ(bell_unregister(p.bell, h, BELL_SYNC), BELL_CANCELLED);
            close_pair(fds);
            close_place(&p);
        }
}

static void an_unseen_auto_release_is_told_and_released(void)
{
    for (int of_fd = 0; of_fd < 2; of_fd++) {
        place p = open_place();
        bell_target target = target_of(&p, TO_FUTEX);
        bell_handle h;
        int fds[2];
        make_sockets(fds);
        put_byte(fds[1]);
        if (of_fd) {
            bell_fd_spec spec = fd_spec(fds[0], BELL_READ, BELL_ONESHOT, to_queue(p.queue));
            spec.flags = BELL_AUTO_RELEASE;
            CHECK_OK(bell_register_fd(p.bell, &spec, &h));
        } else {
            bell_timeout_spec spec = timeout_spec(0, to_queue(p.queue));
            spec.flags = BELL_AUTO_RELEASE;
            CHECK_OK(bell_register_timeout(p.bell, &spec, &h));
        }
        collect(&p);
        CHECK_EQ(bell_retarget(p.bell, h, &target), BELL_CANCELLED);
        has_landed(&p, TO_FUTEX, h, of_fd ? BELL_READ : BELL_TIMEOUT, 0);
        CHECK_EQ(bell_unregister(p.bell, h, 0), BELL_E_STALE);
        CHECK_EQ(stats_of(p.bell).fds + stats_of(p.bell).timeouts, 0);
        close_pair(fds);
        close_place(&p);
    }
}

int main(void)
{
    RUN(unseen_readiness_goes_along_though_the_fd_is_dry_again);
    RUN(an_unseen_deadline_goes_along);
    RUN(a_periodic_timeout_keeps_the_ticks_that_nobody_has_seen);
    RUN(the_bits_of_an_unseen_post_go_along);
    RUN(what_was_seen_does_not_come_again);
    RUN(a_drained_level_registration_goes_on_with_its_new_consumer);
    RUN(an_unseen_auto_release_is_told_and_released);
    return 0;
}
