/* bell_pollable_fd: a shard inside another event loop, readable exactly when a turn would find something. */
#define _GNU_SOURCE
#include "check.h"
#include <sched.h>
#include <sys/epoll.h>
#include <sys/select.h>

static int pollable(bell_t *bell)
{
    int fd = CHECK_OK(bell_pollable_fd(bell, 0));
    CHECK_EQ(bell_pollable_fd(bell, 0), fd);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    return fd;
}

static int readable(int fd)
{
    return !!(looks_ready(fd, POLLIN) & POLLIN);
}

static void await_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    CHECK_EQ(poll(&p, 1, 60000), 1);
    CHECK_EQ(p.revents, POLLIN);
}

static void stays_unreadable(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    CHECK_EQ(poll(&p, 1, ms), 0);
}

/* One turn that does not wait finds exactly one event. */
static bell_event turn_finds_one(bell_t *bell)
{
    bell_event e;
    CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 1);
    return e;
}

static void is_it_readable_for_fds(void)
{
    bell_t *bell = make_bell(1, 0);
    int outer = pollable(bell), source = make_eventfd();
    CHECK_EQ(readable(outer), 0);
    bell_handle h = watch(bell, source, BELL_READ, BELL_ONESHOT, to_poll());
    stays_unreadable(outer, 2);
    for (int i = 0; i < rounds(200); i++) {
        CHECK_EQ(eventfd_write(source, 1), 0);
        await_readable(outer);
        bell_event e = turn_finds_one(bell);
        CHECK_EQ(e.handle, h);
        CHECK_EQ(e.ready, BELL_READ);
        CHECK_EQ(readable(outer), 0); /* still ready, but disarmed */
        CHECK_EQ(drain_fd(source), 8);
        CHECK_EQ(bell_rearm(bell, h, NULL, BELL_NEVER), 0);
        CHECK_EQ(readable(outer), 0);
    }
    CHECK_EQ(eventfd_write(source, 1), 0);
    await_readable(outer);
    CHECK_OK(bell_unregister(bell, h, 0)); /* the news is gone with its registration */
    for (int turns = 0; readable(outer); turns++) {
        bell_event e;
        CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 0);
        CHECK_LT(turns, 2);
    }
    CHECK_EQ(close(source), 0);
    check_clean(bell);
}

static void is_it_readable_as_long_as_a_level_fd_is(void)
{
    bell_t *bell = make_bell(1, 0);
    int outer = pollable(bell), source = make_eventfd();
    bell_handle h = watch(bell, source, BELL_READ, BELL_LEVEL, to_poll());
    CHECK_EQ(readable(outer), 0);
    CHECK_EQ(eventfd_write(source, 1), 0);
    for (int i = 0; i < 10; i++) {
        await_readable(outer);
        CHECK_EQ(turn_finds_one(bell).handle, h);
    }
    CHECK_EQ(drain_fd(source), 8);
    for (int turns = 0; readable(outer); turns++) { /* it learns only by looking that there is nothing any more */
        bell_event e;
        CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 0);
        CHECK_LT(turns, 2);
    }
    stays_unreadable(outer, 5);
    CHECK_EQ(eventfd_write(source, 1), 0);
    await_readable(outer);
    CHECK_EQ(turn_finds_one(bell).handle, h);
    CHECK_OK(bell_unregister(bell, h, 0));
    CHECK_EQ(close(source), 0);
    check_clean(bell);
}

static void is_it_readable_for_news_of_other_targets(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    int outer = pollable(bell), source = make_eventfd();
    bell_handle h = watch(bell, source, BELL_READ, BELL_ONESHOT, to_slot());
    for (int i = 0; i < rounds(50); i++) {
        CHECK_EQ(eventfd_write(source, 1), 0);
        await_readable(outer);
        CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 0);
        CHECK_EQ(bell_slot_consume(bell, h, BELL_READ), BELL_READ);
        CHECK_EQ(readable(outer), 0);
        CHECK_EQ(drain_fd(source), 8);
        CHECK_EQ(bell_rearm(bell, h, NULL, BELL_NEVER), 0);
    }
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    CHECK_EQ(close(source), 0);
    check_clean(bell);
}

static void is_it_readable_for_timeouts_of_each_clock(void)
{
    bell_t *bell = make_bell(1, 0);
    int outer = pollable(bell);
    for (uint32_t clock = 0; clock < (has_feature(BELL_FEATURE_CLOCKS) ? 3u : 1u); clock++)
        for (int i = 0; i < rounds(30); i++) {
            bell_timeout_spec spec = timeout_spec(bell_now(clock) + US(i * 200), to_poll());
            bell_handle h;
            spec.clock = clock;
            CHECK_OK(bell_register_timeout(bell, &spec, &h));
            if (i == 29)
                CHECK(readable(outer) == 0 || bell_now(clock) >= spec.deadline_ns);
            await_readable(outer);
            CHECK_GE(bell_now(clock), spec.deadline_ns);
            bell_event e = turn_finds_one(bell);
            CHECK_EQ(e.handle, h);
            CHECK_EQ(e.ready, BELL_TIMEOUT);
            CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
            CHECK_EQ(readable(outer), 0);
        }
    stays_unreadable(outer, 5);
    check_clean(bell);
}

static void is_it_readable_for_a_timeout_that_was_there_before_it(void)
{
    bell_t *bell = make_bell(1, 0);
    int64_t deadline = now_ns() + MS(5);
    bell_handle h = set_timeout(bell, deadline, to_poll());
    bell_handle past = set_timeout(bell, 0, to_poll());
    int outer = pollable(bell);
    await_readable(outer);
    CHECK_EQ(turn_finds_one(bell).handle, past);
    await_readable(outer);
    CHECK_GE(now_ns(), deadline);
    CHECK_EQ(turn_finds_one(bell).handle, h);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    CHECK_EQ(bell_unregister(bell, past, 0), BELL_FIRED);
    CHECK_EQ(readable(outer), 0);
    check_clean(bell);
}

static void does_it_follow_a_deadline_that_moves(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    int outer = pollable(bell), empty_turns = 0;
    for (int i = 0; i < rounds(20); i++) {
        int64_t deadline = now_ns() + MS(10);
        bell_handle h = set_timeout(bell, now_ns() + SEC(1000), to_poll());
        CHECK_EQ(bell_update_timeout(bell, h, now_ns() + MS(1)), 0);
        CHECK_EQ(bell_update_timeout(bell, h, deadline), 0);
        for (;;) { /* a deadline that moved or went may cost one empty turn each */
            await_readable(outer);
            int32_t n = CHECK_OK(bell_poll(bell, 0, &e, 1, 0));
            if (n == 1)
                break;
            CHECK_LE(++empty_turns, 2 * (i + 1));
        }
        CHECK_GE(now_ns(), deadline);
        CHECK_EQ(e.handle, h);
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
        h = set_timeout(bell, now_ns() + MS(1), to_poll());
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    }
    fprintf(stderr, "  %d empty turns\n", empty_turns);
    check_clean(bell);
}

static void is_it_readable_for_posts_and_wakes(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    int outer = pollable(bell);
    bell_handle h = make_user(bell, to_poll());
    CHECK_EQ(readable(outer), 0);
    for (int i = 0; i < rounds(300); i++) {
        if (i % 2) {
            CHECK_EQ(bell_post(bell, h, 1), 0);
            CHECK_EQ(bell_post(bell, h, 2), 0);
            CHECK_EQ(readable(outer), 1);
            e = turn_finds_one(bell);
            CHECK_EQ(e.handle, h);
            CHECK_EQ(e.data, 3);
        } else {
            CHECK_EQ(bell_wake(bell, 0), 0);
            CHECK_EQ(bell_wake(bell, 0), 0);
            CHECK_EQ(readable(outer), 1);
            CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 0);
        }
        CHECK_EQ(readable(outer), 0);
    }
    CHECK_OK(bell_unregister(bell, h, 0));
    check_clean(bell);
}

/* What another call than the turn puts into the list of `bell_poll`. */
static void is_it_readable_for_a_close_and_for_news_of_an_old_target(void)
{
    bell_t *bell = make_bell(1, 0);
    int outer = pollable(bell);
    for (int way = 0; way < 2; way++) {
        int source = make_eventfd();
        uint64_t ticket;
        bell_handle h = watch(bell, source, BELL_READ, BELL_EDGE, to_poll());
        CHECK_EQ(readable(outer), 0);
        if (way)
            CHECK_EQ(bell_close_fd(bell, source), 0);
        else {
            CHECK_EQ(bell_close_begin(bell, source, &ticket), 0);
            CHECK_EQ(close(source), 0);
            CHECK_EQ(bell_close_end(bell, source, ticket), 0);
        }
        CHECK_EQ(readable(outer), 1);
        CHECK_EQ(turn_finds_one(bell).ready, BELL_CLOSED);
        CHECK_EQ(readable(outer), 0);
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    }
    bell_handle queue = make_queue(bell, NULL);
    int source = make_eventfd();
    bell_target poll_target = to_poll();
    bell_handle h = watch(bell, source, BELL_READ, BELL_EDGE, to_queue(queue));
    CHECK_EQ(eventfd_write(source, 1), 0);
    turn(bell);
    CHECK_EQ(readable(outer), 0);
    CHECK_EQ(bell_retarget(bell, h, &poll_target), BELL_CANCELLED);
    CHECK_EQ(readable(outer), 1);
    CHECK_EQ(turn_finds_one(bell).ready, BELL_READ);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    CHECK_EQ(close(source), 0);
    check_clean(bell);
}

static void is_it_readable_while_news_is_left_over(void)
{
    enum { MANY = 20 };
    bell_t *bell = make_bell(1, 0);
    int outer = pollable(bell), fds[MANY];
    bell_handle h[MANY];
    for (int i = 0; i < MANY; i++) {
        fds[i] = make_eventfd();
        h[i] = i % 3 == 0   ? watch(bell, fds[i], BELL_READ, BELL_ONESHOT, to_poll())
               : i % 3 == 1 ? make_user(bell, to_poll())
                            : set_timeout(bell, 0, to_poll());
        if (i % 3 == 0)
            CHECK_EQ(eventfd_write(fds[i], 1), 0);
        if (i % 3 == 1)
            CHECK_EQ(bell_post(bell, h[i], 1), 0);
    }
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(readable(outer), 1);
        turn_finds_one(bell); /* room for one at a time */
    }
    CHECK_EQ(readable(outer), 0);
    for (int i = 0; i < MANY; i++) {
        CHECK_OK(bell_unregister(bell, h[i], 0));
        CHECK_EQ(close(fds[i]), 0);
    }
    check_clean(bell);
}

/* ---- a whole program in the loop of another ---- */

enum { PAIRS = 20 };
typedef enum outer_loop { BY_EPOLL, BY_EPOLL_EDGE, BY_POLL, BY_SELECT } outer_loop;

static void outer_wait(outer_loop how, int epoll, int fd)
{
    if (how == BY_EPOLL || how == BY_EPOLL_EDGE) {
        struct epoll_event e;
        CHECK_EQ(epoll_wait(epoll, &e, 1, 60000), 1);
    } else if (how == BY_POLL) {
        await_readable(fd);
    } else {
        struct timeval patience = {.tv_sec = 60};
        fd_set set;
        FD_ZERO(&set);
        FD_SET(fd, &set);
        CHECK_EQ(select(fd + 1, &set, NULL, NULL, &patience), 1);
    }
}

static void echo_inside(outer_loop how)
{
    bell_t *bell = make_bell(1, 0);
    int fds[PAIRS][2], outer = pollable(bell), epoll = epoll_create1(EPOLL_CLOEXEC), open_pairs = PAIRS;
    int left[PAIRS], ticks = 0, empty = 0;
    bell_handle h[PAIRS][2];
    struct epoll_event watched = {.events = EPOLLIN | (how == BY_EPOLL_EDGE ? EPOLLET : 0)};
    CHECK(epoll >= 0);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, outer, &watched) == 0);
    for (int i = 0; i < PAIRS; i++) {
        make_sockets(fds[i]);
        left[i] = rounds(100);
        for (int side = 0; side < 2; side++) {
            bell_fd_spec spec = fd_spec(fds[i][side], BELL_READ, BELL_ONESHOT, to_poll());
            spec.user_data = (uint64_t)i * 2 + (uint64_t)side;
            CHECK_OK(bell_register_fd(bell, &spec, &h[i][side]));
        }
        put_byte(fds[i][0]);
    }
    bell_handle ticker = set_timeout(bell, now_ns(), to_poll());
    while (open_pairs > 0 || ticks < 20) {
        bell_event events[7];
        int32_t n, found = 0;
        outer_wait(how, epoll, outer);
        do { /* an edge is told once: turn until nothing is found */
            n = CHECK_OK(bell_poll(bell, 0, events, 7, 0));
            found += n;
            for (int32_t k = 0; k < n; k++) {
                if (events[k].handle == ticker) {
                    ticks++;
                    CHECK_EQ(bell_rearm(bell, ticker, NULL, now_ns() + MS(1)), 0);
                    continue;
                }
                int i = (int)(events[k].user_data / 2), side = (int)(events[k].user_data % 2);
                CHECK_EQ(drain_fd(fds[i][side]), 1);
                if (side == 1 || --left[i] > 0)
                    put_byte(fds[i][side]);
                else
                    open_pairs--;
                CHECK_EQ(bell_rearm(bell, h[i][side], NULL, BELL_NEVER), 0);
            }
        } while (n > 0 && how == BY_EPOLL_EDGE);
        empty += found == 0;
    }
    fprintf(stderr, "  %d wake-ups found nothing\n", empty);
    CHECK_LE(empty, 20 + rounds(100)); /* of some thousands */
    CHECK_OK(bell_unregister(bell, ticker, 0));
    for (int i = 0; i < PAIRS; i++) {
        for (int side = 0; side < 2; side++)
            CHECK_OK(bell_unregister(bell, h[i][side], 0));
        close_pair(fds[i]);
    }
    CHECK_EQ(close(epoll), 0);
    check_clean(bell);
}

static void does_it_work_inside_epoll(void)
{
    echo_inside(BY_EPOLL);
}

static void does_it_work_inside_edge_triggered_epoll(void)
{
    echo_inside(BY_EPOLL_EDGE);
}

static void does_it_work_inside_poll(void)
{
    echo_inside(BY_POLL);
}

static void does_it_work_inside_select(void)
{
    echo_inside(BY_SELECT);
}

/* ---- others change something while the outer loop sleeps ---- */

typedef struct changer {
    bell_t *bell;
    int what;
    bell_handle handle;
    int fd;
} changer;

static void *change_from_outside(void *argument)
{
    changer *c = argument;
    for (int i = 0; i < 20; i++) /* give the other a chance to fall asleep; either order must do */
        sched_yield();
    switch (c->what) {
    case 0: CHECK_EQ(bell_wake(c->bell, 0), 0); break;
    case 1:
        c->handle = make_user(c->bell, to_poll());
        CHECK_EQ(bell_post(c->bell, c->handle, 1), 0);
        break;
    case 2: c->handle = set_timeout(c->bell, now_ns() + US(300), to_poll()); break;
    case 3: c->handle = set_timeout(c->bell, 0, to_poll()); break;
    default:
        CHECK_EQ(eventfd_write(c->fd, 1), 0);
        c->handle = watch(c->bell, c->fd, BELL_READ, BELL_ONESHOT, to_poll());
    }
    return NULL;
}

static void does_the_outer_loop_wake_for_what_other_threads_do(void)
{
    bell_t *bell = make_bell(1, 0);
    int outer = pollable(bell), fd = make_eventfd();
    bell_handle far = set_timeout(bell, now_ns() + SEC(1000), to_poll());
    for (int i = 0; i < rounds(200); i++) {
        changer c = {.bell = bell, .what = i % 5, .fd = fd};
        bell_event e;
        pthread_t thread = start_thread(change_from_outside, &c);
        int64_t start = now_ns();
        int32_t n;
        do {
            await_readable(outer);
            n = CHECK_OK(bell_poll(bell, 0, &e, 1, 0));
            CHECK_LT(now_ns() - start, PATIENCE);
        } while (n == 0 && c.what != 0);
        join_thread(thread);
        CHECK_EQ(n, c.what != 0);
        if (n) {
            CHECK_EQ(e.handle, c.handle);
            CHECK_OK(bell_unregister(bell, c.handle, 0));
        }
        drain_fd(fd);
        for (int turns = 0; readable(outer); turns++) {
            CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 0);
            CHECK_LT(turns, 2);
        }
    }
    CHECK_EQ(bell_unregister(bell, far, 0), BELL_CANCELLED);
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

/* ---- Doorbell in Doorbell ---- */

static void nested_in(uint32_t mode)
{
    bell_t *inner = make_bell(1, 0), *outer = make_bell(1, 0);
    int source = make_eventfd();
    bell_handle in = watch(outer, pollable(inner), BELL_READ, mode, to_poll());
    bell_handle user = make_user(inner, to_poll());
    for (int i = 0; i < rounds(100); i++) {
        bell_handle h = 0;
        bell_event e;
        int64_t deadline = now_ns() + US(i * 20);
        if (i % 3 == 0)
            CHECK_EQ(bell_post(inner, user, 7), 0);
        else if (i % 3 == 1)
            h = set_timeout(inner, deadline, to_poll());
        else {
            CHECK_EQ(eventfd_write(source, 1), 0);
            h = watch(inner, source, BELL_READ, BELL_ONESHOT, to_poll());
        }
        int32_t n;
        do { /* in mode LEVEL the last round's look may be told once more */
            e = next_event(outer);
            CHECK_EQ(e.handle, in);
            CHECK_EQ(e.ready, BELL_READ);
            n = CHECK_OK(bell_poll(inner, 0, &e, 1, 0));
            if (n)
                CHECK_EQ(bell_poll(inner, 0, &(bell_event){0}, 1, 0), 0);
            if (mode == BELL_ONESHOT)
                CHECK_EQ(bell_rearm(outer, in, NULL, BELL_NEVER), 0);
        } while (n == 0);
        CHECK_EQ(e.handle, h ? h : user);
        if (i % 3 == 1)
            CHECK_GE(now_ns(), deadline);
        if (h)
            CHECK_EQ(bell_unregister(inner, h, 0), BELL_FIRED);
        drain_fd(source);
    }
    CHECK_OK(bell_unregister(inner, user, 0));
    CHECK_OK(bell_unregister(outer, in, 0));
    CHECK_EQ(close(source), 0);
    check_clean(inner);
    check_clean(outer);
}

static void can_one_manager_watch_another(void)
{
    nested_in(BELL_ONESHOT);
    nested_in(BELL_LEVEL);
    if (has_edge())
        nested_in(BELL_EDGE);
}

static void is_a_circle_refused(void)
{
    bell_t *bell = make_bell(1, 0);
    int fd = pollable(bell), epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event watched = {.events = EPOLLIN};
    CHECK(epoll >= 0);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &watched) == 0);
    CHECK_EQ(try_watch(bell, epoll, BELL_READ, BELL_ONESHOT, to_poll()), -ELOOP);
    CHECK_EQ(stats_of(bell).fds, 0);
    CHECK_EQ(close(epoll), 0);
    check_clean(bell);
}

/* ---- the fd stays the same ---- */

static void does_the_fd_survive_a_rebuild_for_ghosts(void)
{
    if (!has_edge())
        return;
    bell_t *bell = make_bell(1, 0);
    int outer = pollable(bell), fds[2], kept, source = make_eventfd();
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event watched = {.events = EPOLLIN}, got;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, outer, &watched) == 0);
    bell_handle other = watch(bell, source, BELL_READ, BELL_ONESHOT, to_poll());
    make_sockets(fds);
    bell_handle h = watch(bell, fds[0], BELL_READ, BELL_EDGE, to_poll());
    kept = dup(fds[0]);
    CHECK(kept >= 0);
    CHECK_EQ(close(fds[0]), 0); /* behind the library's back; the dup keeps the ghost alive */
    CHECK_OK(bell_unregister(bell, h, 0));
    for (int i = 0; i < 10000 && stats_of(bell).rebuilds == 0; i++) {
        put_byte(fds[1]);
        CHECK_EQ(bell_poll(bell, 0, &(bell_event){0}, 1, 0), 0);
        drain_fd(kept);
    }
    bell_counters c = stats_of(bell);
    fprintf(stderr, "  %" PRIu64 " ghosts, %" PRIu64 " stale events, %" PRIu64 " rebuilds\n", c.ghosts, c.stale_dropped,
            c.rebuilds);
    CHECK_GE(c.ghosts, 1);
    CHECK_EQ(c.rebuilds, 1);
    check_verified(bell);
    CHECK_EQ(bell_pollable_fd(bell, 0), outer);
    CHECK_EQ(readable(outer), 0);
    put_byte(fds[1]); /* the ghost is laid */
    CHECK_EQ(epoll_wait(epoll, &got, 1, 5), 0);
    for (int i = 0; i < 3; i++) {
        bell_handle t = i == 1 ? set_timeout(bell, now_ns() + MS(1), to_poll()) : 0;
        if (i == 0)
            CHECK_EQ(eventfd_write(source, 1), 0);
        if (i == 2)
            CHECK_EQ(bell_wake(bell, 0), 0);
        CHECK_EQ(epoll_wait(epoll, &got, 1, 60000), 1);
        bell_event e = {0};
        CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), i != 2);
        CHECK_EQ(e.handle, i == 0 ? other : t);
        CHECK_EQ(readable(outer), 0);
        if (t)
            CHECK_EQ(bell_unregister(bell, t, 0), BELL_FIRED);
    }
    CHECK_EQ(bell_unregister(bell, other, 0), BELL_FIRED);
    CHECK_EQ(close(kept), 0);
    CHECK_EQ(close(fds[1]), 0);
    CHECK_EQ(close(source), 0);
    CHECK_EQ(close(epoll), 0);
    check_clean(bell);
}

static void has_each_shard_its_own(void)
{
    bell_t *bell = make_bell(3, 0);
    int fds[3];
    for (uint32_t s = 0; s < 3; s++)
        fds[s] = CHECK_OK(bell_pollable_fd(bell, s));
    CHECK(fds[0] != fds[1] && fds[1] != fds[2] && fds[0] != fds[2]);
    CHECK_EQ(bell_wake(bell, 1), 0);
    CHECK_EQ(readable(fds[0]), 0);
    CHECK_EQ(readable(fds[1]), 1);
    CHECK_EQ(readable(fds[2]), 0);
    CHECK_EQ(bell_poll(bell, 1, NULL, 0, 0), 0);
    CHECK_EQ(readable(fds[1]), 0);
    CHECK_EQ(bell_pollable_fd(bell, 3), -EINVAL);
    check_clean(bell);
}

static void is_it_unsupported_where_it_cannot_be(void)
{
    bell_t *bell = make_bell(0, 1);
    CHECK_EQ(bell_pollable_fd(bell, 0), BELL_E_UNSUPPORTED);
    check_clean(bell);
    if (has_feature(BELL_FEATURE_POLLABLE))
        return;
    bell = make_bell(1, 0);
    CHECK_EQ(bell_pollable_fd(bell, 0), BELL_E_UNSUPPORTED);
    check_clean(bell);
}

int main(void)
{
    RUN(is_it_unsupported_where_it_cannot_be);
    if (!has_feature(BELL_FEATURE_POLLABLE)) {
        fprintf(stderr, "this backend has no pollable fd: that was all\n");
        return 0;
    }
    RUN(is_it_readable_for_fds);
    RUN(is_it_readable_as_long_as_a_level_fd_is);
    RUN(is_it_readable_for_news_of_other_targets);
    RUN(is_it_readable_for_timeouts_of_each_clock);
    RUN(is_it_readable_for_a_timeout_that_was_there_before_it);
    RUN(does_it_follow_a_deadline_that_moves);
    RUN(is_it_readable_for_posts_and_wakes);
    RUN(is_it_readable_for_a_close_and_for_news_of_an_old_target);
    RUN(is_it_readable_while_news_is_left_over);
    RUN(does_it_work_inside_epoll);
    RUN(does_it_work_inside_edge_triggered_epoll);
    RUN(does_it_work_inside_poll);
    RUN(does_it_work_inside_select);
    RUN(does_the_outer_loop_wake_for_what_other_threads_do);
    RUN(can_one_manager_watch_another);
    RUN(is_a_circle_refused);
    RUN(does_the_fd_survive_a_rebuild_for_ghosts);
    RUN(has_each_shard_its_own);
    return 0;
}
