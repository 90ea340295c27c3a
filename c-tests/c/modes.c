#define _GNU_SOURCE 1
/* Which news does each mode tell to each target, and how often? */
#include "check.h"

#include <netinet/in.h>
#include <netinet/tcp.h>

static const uint32_t MODES[] = {BELL_EDGE, BELL_ONESHOT, BELL_LEVEL};
static const char *const MODE_NAMES[] = {"EDGE", "ONESHOT", "LEVEL"};

/* What registering must answer. */
static int32_t expected(uint32_t mode, int kind)
{
    if (mode == BELL_LEVEL && kind != LAND_POLL && kind != LAND_QUEUE)
        return -EINVAL;
    if (mode != BELL_ONESHOT && kind == LAND_MVAR)
        return -EINVAL;
    if (mode == BELL_EDGE && !has_edge())
        return BELL_E_UNSUPPORTED;
    return 0;
}

/* Runs `question` for every combination that works, with a fresh manager. */
static void for_each_combination(void (*question)(landing *, uint32_t mode))
{
    for (int m = 0; m < 3; m++)
        for (int kind = 0; kind < LAND_KINDS; kind++) {
            landing l;
            bell_t *bell;
            if (expected(MODES[m], kind) != 0)
                continue;
            fprintf(stderr, "  %s to %s\n", MODE_NAMES[m], landing_name(kind));
            bell = make_bell_ghc(1, 0);
            landing_open(&l, kind, bell);
            question(&l, MODES[m]);
            landing_close(&l);
            check_clean(bell);
        }
}

static void end(landing *l)
{
    int32_t answer = CHECK_OK(bell_unregister(l->bell, l->handle, BELL_SYNC));
    CHECK(answer == BELL_CANCELLED || answer == BELL_FIRED);
    CHECK_EQ(bell_unregister(l->bell, l->handle, 0), BELL_E_STALE);
}

static void expect(landing *l, uint32_t bits)
{
    pump(l->bell, l, 1);
    CHECK_GE(l->count, 1);
    if (landing_shows_bits(l))
        CHECK_HAS(l->ready, bits);
}

static void expect_once(landing *l, uint32_t bits)
{
    expect(l, bits);
    CHECK_EQ(l->count, 1);
    landing_forget(l);
}

static void expect_nothing(landing *l)
{
    for (int i = 0; i < 3; i++)
        pump(l->bell, l, 1);
    CHECK_EQ(l->count, 0);
    CHECK_EQ(l->ready, 0);
}

static void which_combinations_are_refused_and_how(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    int fds[2];
    make_sockets(fds);
    for (int m = 0; m < 3; m++)
        for (int kind = 0; kind < LAND_KINDS; kind++) {
            landing l;
            bell_fd_spec spec;
            bell_handle handle = 77;
            int32_t want = expected(MODES[m], kind), got;
            landing_open(&l, kind, bell);
            spec = fd_spec(fds[0], BELL_READ, MODES[m], l.target);
            got = bell_register_fd(bell, &spec, &handle);
            fprintf(stderr, "  %s to %s: %d\n", MODE_NAMES[m], landing_name(kind), got);
            if (kind == LAND_MVAR && MODES[m] == BELL_EDGE && !has_edge())
                CHECK(got == -EINVAL || got == BELL_E_UNSUPPORTED); /* both are true */
            else
                CHECK_EQ(got, want);
            if (got < 0) {
                CHECK_EQ(handle, 77);
                CHECK_EQ(stats_of(bell).fds, 0);
            } else {
                CHECK_OK(bell_unregister(bell, handle, BELL_SYNC));
            }
            CHECK_EQ(l.mvar.puts, 0); /* refused or cancelled: the StablePtr is the caller's */
            landing_close(&l);
        }
    close_pair(fds);
    check_clean(bell);
}

static void modify_refuses_what_registering_refuses(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    int fds[2];
    make_sockets(fds);
    for (int m = 0; m < 3; m++)
        for (int kind = 0; kind < LAND_KINDS; kind++) {
            landing l;
            int32_t want = expected(MODES[m], kind), got;
            landing_open(&l, kind, bell);
            landing_watch(&l, fds[0], BELL_READ, BELL_ONESHOT);
            got = bell_modify(bell, l.handle, BELL_READ, MODES[m]);
            if (kind == LAND_MVAR && MODES[m] == BELL_EDGE && !has_edge())
                CHECK(got == -EINVAL || got == BELL_E_UNSUPPORTED);
            else
                CHECK_EQ(got, want);
            put_byte(fds[1]); /* refused: still armed as it was; taken: armed anew */
            expect(&l, BELL_READ);
            drain_fd(fds[0]);
            landing_end(&l);
        }
    close_pair(fds);
    check_clean(bell);
}

static void modes_and_bits_that_do_not_exist_are_refused(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    make_sockets(fds);
    CHECK_EQ(try_watch(bell, fds[0], BELL_READ, 0, to_poll()), -EINVAL);
    CHECK_EQ(try_watch(bell, fds[0], BELL_READ, 4, to_poll()), -EINVAL);
    CHECK_EQ(try_watch(bell, fds[0], 0, BELL_ONESHOT, to_poll()), -EINVAL);
    CHECK_EQ(try_watch(bell, fds[0], BELL_HUP, BELL_ONESHOT, to_poll()), -EINVAL);
    CHECK_EQ(try_watch(bell, fds[0], BELL_READ | BELL_ERR, BELL_ONESHOT, to_poll()), -EINVAL);
    CHECK_EQ(try_watch(bell, fds[0], BELL_READ | BELL_TIMEOUT, BELL_ONESHOT, to_poll()), -EINVAL);
    CHECK_EQ(try_watch(bell, fds[0], 0x80000000U, BELL_ONESHOT, to_poll()), -EINVAL);
    CHECK_EQ(try_watch(bell, fds[0], BELL_READ, BELL_ONESHOT, (bell_target){.kind = BELL_TARGET_NONE}), -EINVAL);
    CHECK_EQ(try_watch(bell, fds[0], BELL_READ, BELL_ONESHOT, (bell_target){.kind = 7}), -EINVAL);
    CHECK_EQ(try_watch(bell, -1, BELL_READ, BELL_ONESHOT, to_poll()), -EBADF);
    CHECK_EQ(stats_of(bell).fds, 0);
    close_pair(fds);
    CHECK_EQ(try_watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll()), -EBADF);
    check_clean(bell);
}

static void mvar_needs_the_entry_points_of_ghc(void)
{
    bell_t *bell = make_bell(1, 0);
    fake_mvar mvar = {0};
    int fds[2];
    make_sockets(fds);
    CHECK_EQ(try_watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_mvar(&mvar, 0)), BELL_E_UNSUPPORTED);
    close_pair(fds);
    check_clean(bell);
    CHECK_EQ(mvar.puts, 0);
}

static void poll_is_refused_where_a_library_thread_drives(void)
{
    bell_t *bell = make_bell(1, 1);
    int fds[2];
    make_sockets(fds);
    CHECK_EQ(try_watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll()), BELL_E_UNSUPPORTED);
    close_pair(fds);
    check_clean(bell);
}

static void before(landing *l, uint32_t mode)
{
    int fds[2];
    make_sockets(fds);
    put_byte(fds[1]);
    landing_watch(l, fds[0], BELL_READ, mode);
    expect(l, BELL_READ);
    end(l);
    close_pair(fds);
}

static void news_from_before_registering_is_told(void)
{
    for_each_combination(before);
}

static void after(landing *l, uint32_t mode)
{
    int fds[2];
    make_sockets(fds);
    landing_watch(l, fds[0], BELL_READ, mode);
    expect_nothing(l);
    put_byte(fds[1]);
    expect(l, BELL_READ);
    if (landing_shows_bits(l))
        CHECK_LACKS(l->ready, ~(uint32_t)BELL_READ);
    end(l);
    close_pair(fds);
}

static void news_from_after_registering_is_told(void)
{
    for_each_combination(after);
}

static void repeated(landing *l, uint32_t mode)
{
    int fds[2];
    make_sockets(fds);
    landing_watch(l, fds[0], BELL_READ, mode);
    put_byte(fds[1]);
    if (mode == BELL_ONESHOT) {
        expect_once(l, BELL_READ);
        put_byte(fds[1]);
        expect_nothing(l); /* disarmed */
        for (int i = 0; i < 3; i++) {
            landing_rearm(l, BELL_NEVER);
            expect_once(l, BELL_READ); /* unread data counts for each arming */
            expect_nothing(l);
        }
        drain_fd(fds[0]);
        landing_rearm(l, BELL_NEVER);
        expect_nothing(l);
        put_byte(fds[1]);
        expect_once(l, BELL_READ);
    } else if (mode == BELL_EDGE) {
        expect_once(l, BELL_READ);
        expect_nothing(l); /* unread, but nothing new */
        for (int i = 0; i < 3; i++) {
            put_byte(fds[1]);
            expect_once(l, BELL_READ);
            expect_nothing(l);
        }
        drain_fd(fds[0]);
        expect_nothing(l);
        put_byte(fds[1]);
        expect_once(l, BELL_READ);
    } else {
        for (int i = 0; i < 4; i++) {
            expect(l, BELL_READ); /* unread */
            landing_forget(l);
        }
        drain_fd(fds[0]);
        /* A queue may hold news from before the drain; POLL looks anew. */
        if (l->kind == LAND_QUEUE)
            pump(l->bell, l, 1), landing_forget(l);
        expect_nothing(l);
        put_byte(fds[1]);
        expect(l, BELL_READ);
        landing_forget(l);
        expect(l, BELL_READ);
        drain_fd(fds[0]);
    }
    end(l);
    close_pair(fds);
}

static void each_mode_repeats_itself_as_it_promised(void)
{
    for_each_combination(repeated);
}

static void hup(landing *l, uint32_t mode)
{
    int fds[2];
    make_pipe(fds);
    landing_watch(l, fds[0], BELL_READ, mode);
    expect_nothing(l);
    CHECK(close(fds[1]) == 0);
    expect(l, BELL_HUP);
    landing_forget(l);
    if (mode == BELL_ONESHOT) {
        expect_nothing(l); /* HUP cannot be masked in the kernel: a disarmed one must be silent all the same */
        landing_rearm(l, BELL_NEVER);
        expect_once(l, BELL_HUP);
    } else if (mode == BELL_EDGE) {
        expect_nothing(l);
    } else {
        expect(l, BELL_HUP);
    }
    end(l);
    CHECK(close(fds[0]) == 0);
}

static void hup_is_told_unasked(void)
{
    for_each_combination(hup);
}

static void err(landing *l, uint32_t mode)
{
    int fds[2];
    make_pipe(fds);
    fill_fd(fds[1]);
    landing_watch(l, fds[1], BELL_WRITE, mode);
    expect_nothing(l);
    CHECK(close(fds[0]) == 0); /* the write end of a pipe without a reader: POLLERR */
    expect(l, BELL_ERR);
    end(l);
    CHECK(close(fds[1]) == 0);
}

static void err_is_told_unasked(void)
{
    for_each_combination(err);
}

static void rdhup(landing *l, uint32_t mode)
{
    int fds[2];
    make_sockets(fds);
    landing_watch(l, fds[0], BELL_READ, mode); /* READ implies RDHUP */
    CHECK(shutdown(fds[1], SHUT_WR) == 0);
    expect(l, BELL_READ | BELL_RDHUP);
    if (landing_shows_bits(l))
        CHECK_LACKS(l->ready, BELL_HUP | BELL_ERR);
    end(l);
    close_pair(fds);
}

static void rdhup_is_told_to_readers(void)
{
    for_each_combination(rdhup);
}

static void rdhup_alone(landing *l, uint32_t mode)
{
    int fds[2];
    make_sockets(fds);
    landing_watch(l, fds[0], BELL_RDHUP, mode);
    put_byte(fds[1]);
    expect_nothing(l); /* data is not what it asked for */
    CHECK(shutdown(fds[1], SHUT_WR) == 0);
    expect(l, BELL_RDHUP);
    if (landing_shows_bits(l))
        CHECK_LACKS(l->ready, BELL_READ | BELL_WRITE);
    end(l);
    close_pair(fds);
}

static void rdhup_may_be_asked_for_alone(void)
{
    for_each_combination(rdhup_alone);
}

static void writable(landing *l, uint32_t mode)
{
    int fds[2];
    make_sockets(fds);
    fill_fd(fds[0]);
    landing_watch(l, fds[0], BELL_WRITE, mode);
    expect_nothing(l);
    put_byte(fds[1]);
    expect_nothing(l); /* readable, which it did not ask */
    drain_fd(fds[1]);
    expect(l, BELL_WRITE);
    if (landing_shows_bits(l))
        CHECK_LACKS(l->ready, ~(uint32_t)BELL_WRITE);
    end(l);
    close_pair(fds);
}

static void writability_is_told(void)
{
    for_each_combination(writable);
}

static void reader(landing *l, uint32_t mode)
{
    int fds[2];
    make_sockets(fds);
    landing_watch(l, fds[0], BELL_READ, mode); /* writable all the time */
    expect_nothing(l);
    CHECK(shutdown(fds[0], SHUT_WR) == 0); /* our own half: not the peer's */
    expect_nothing(l);
    end(l);
    close_pair(fds);
}

static void readers_are_not_told_of_writability(void)
{
    for_each_combination(reader);
}

static void both(landing *l, uint32_t mode)
{
    int fds[2];
    make_sockets(fds);
    put_byte(fds[1]);
    landing_watch(l, fds[0], BELL_READ | BELL_WRITE, mode);
    expect(l, BELL_READ | BELL_WRITE); /* one event carries both */
    if (mode != BELL_LEVEL)
        CHECK_EQ(l->count, 1);
    end(l);
    close_pair(fds);
}

static void two_interests_are_told_together(void)
{
    for_each_combination(both);
}

/* A pair of connected TCP sockets; 0 if the machine has no loopback. */
static int make_tcp(int fds[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0)
        return 0;
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1)) {
        close(listener);
        return 0;
    }
    CHECK(getsockname(listener, (struct sockaddr *)&address, &length) == 0);
    fds[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(connect(fds[1], (struct sockaddr *)&address, length) == 0);
    fds[0] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK(fds[0] >= 0);
    CHECK(close(listener) == 0);
    set_nonblocking(fds[1]);
    return 1;
}

static void urgent(landing *l, uint32_t mode)
{
    int fds[2];
    if (!make_tcp(fds)) {
        fprintf(stderr, "  no TCP here\n");
        return;
    }
    landing_watch(l, fds[0], BELL_PRI, mode);
    put_byte(fds[1]);
    AWAIT(looks_ready(fds[0], POLLIN));
    expect_nothing(l); /* ordinary data */
    CHECK_EQ(send(fds[1], "!", 1, MSG_OOB), 1);
    AWAIT(looks_ready(fds[0], POLLPRI) & POLLPRI);
    expect(l, BELL_PRI);
    if (landing_shows_bits(l))
        CHECK_LACKS(l->ready, BELL_READ | BELL_WRITE);
    end(l);
    close_pair(fds);
}

static void urgent_data_is_told_to_those_who_asked(void)
{
    for_each_combination(urgent);
}

static void events_carry_their_handle_and_user_data(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL), handles[2];
    bell_target targets[2] = {to_poll(), to_queue(queue)};
    bell_event e;
    int fds[2];
    make_sockets(fds);
    for (int i = 0; i < 2; i++) {
        bell_fd_spec spec = fd_spec(fds[0], BELL_READ, BELL_ONESHOT, targets[i]);
        spec.user_data = UINT64_MAX - (uint64_t)i;
        CHECK_OK(bell_register_fd(bell, &spec, &handles[i]));
    }
    CHECK_NE(handles[0], handles[1]);
    put_byte(fds[1]);
    e = next_event(bell);
    CHECK_EQ(e.handle, handles[0]);
    CHECK_EQ(e.user_data, UINT64_MAX);
    CHECK_EQ(e.ready, BELL_READ);
    CHECK_EQ(e.status, 0);
    CHECK_EQ(e.data, 0);
    turn(bell);
    CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), 1);
    CHECK_EQ(e.handle, handles[1]);
    CHECK_EQ(e.user_data, UINT64_MAX - 1);
    CHECK_EQ(e.ready, BELL_READ);
    CHECK_EQ(e.status, 0);
    CHECK_EQ(e.data, 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(bell_unregister(bell, handles[i], 0), BELL_FIRED);
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    close_pair(fds);
    check_clean(bell);
}

static void the_same_number_is_never_a_handle_twice(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    bell_handle last = 0;
    make_sockets(fds);
    for (int i = 0; i < rounds(20000); i++) {
        bell_handle h = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
        CHECK_NE(h, last);
        last = h;
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_E_STALE);
    }
    close_pair(fds);
    check_clean(bell);
}

static void an_mvar_is_consumed_exactly_once(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    fake_mvar first = {0}, second = {0}, third = {0};
    bell_target target = to_mvar(&first, 5);
    bell_handle handle;
    int fds[2];
    make_sockets(fds);
    handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, target);
    for (int i = 0; i < 3; i++) {
        put_byte(fds[1]);
        turn(bell);
        CHECK_EQ(first.puts, 1);
    }
    CHECK_EQ(first.capability, 5);
    /* The delivered StablePtr is gone: arming needs a new one. */
    CHECK_EQ(bell_rearm(bell, handle, NULL, BELL_NEVER), -EINVAL);
    turn(bell);
    CHECK_EQ(first.puts, 1);
    drain_fd(fds[0]);
    target = to_mvar(&second, -1);
    CHECK_OK(bell_rearm(bell, handle, &target, BELL_NEVER));
    turn(bell);
    CHECK_EQ(second.puts, 0);
    /* Armed again before it was delivered: `second` belongs to the caller again. */
    target = to_mvar(&third, 7);
    CHECK_OK(bell_rearm(bell, handle, &target, BELL_NEVER));
    put_byte(fds[1]);
    turn(bell);
    CHECK_EQ(second.puts, 0);
    CHECK_EQ(third.puts, 1);
    CHECK_EQ(third.capability, 7);
    CHECK_EQ(bell_unregister(bell, handle, 0), BELL_FIRED);
    close_pair(fds);
    check_clean(bell);
    CHECK_EQ(first.puts + second.puts + third.puts, 2);
}

static void modify_changes_what_is_asked(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    bell_handle handle;
    int fds[2];
    make_sockets(fds);
    handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
    expect_quiet(bell, 0);
    CHECK_OK(bell_modify(bell, handle, BELL_WRITE, BELL_ONESHOT));
    e = next_event(bell);
    CHECK_EQ(e.ready, BELL_WRITE);
    put_byte(fds[1]);
    expect_quiet(bell, MS(2)); /* disarmed */
    CHECK_OK(bell_modify(bell, handle, BELL_READ, BELL_LEVEL));
    for (int i = 0; i < 3; i++)
        CHECK_EQ(next_event(bell).ready, BELL_READ);
    drain_fd(fds[0]);
    expect_quiet(bell, MS(2));
    CHECK_EQ(bell_modify(bell, handle, 0, BELL_LEVEL), -EINVAL);
    CHECK_EQ(bell_modify(bell, handle, BELL_READ, 0), -EINVAL);
    put_byte(fds[1]);
    CHECK_EQ(next_event(bell).ready, BELL_READ); /* as before the refusals */
    if (has_edge()) {
        CHECK_OK(bell_modify(bell, handle, BELL_READ, BELL_EDGE));
        CHECK_EQ(next_event(bell).ready, BELL_READ); /* readiness that is there counts */
        expect_quiet(bell, MS(2));
    } else {
        CHECK_EQ(bell_modify(bell, handle, BELL_READ, BELL_EDGE), BELL_E_UNSUPPORTED);
    }
    CHECK_OK(bell_unregister(bell, handle, 0));
    CHECK_EQ(bell_modify(bell, handle, BELL_READ, BELL_ONESHOT), BELL_E_STALE);
    close_pair(fds);
    check_clean(bell);
}

static void edge_can_be_rearmed_by_hand(void)
{
    bell_t *bell;
    bell_handle handle;
    int fds[2];
    if (!has_edge())
        return;
    bell = make_bell(1, 0);
    make_sockets(fds);
    put_byte(fds[1]);
    handle = watch(bell, fds[0], BELL_READ, BELL_EDGE, to_poll());
    CHECK_EQ(next_event(bell).ready, BELL_READ);
    expect_quiet(bell, MS(2));
    CHECK_OK(bell_rearm(bell, handle, NULL, BELL_NEVER));
    CHECK_EQ(next_event(bell).ready, BELL_READ);
    CHECK_EQ(bell_unregister(bell, handle, 0), BELL_CANCELLED);
    close_pair(fds);
    check_clean(bell);
}

/* Its user may have freed what user_data means at the first event. */
static void what_released_itself_is_not_told_again_though_it_was_armed_twice(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_event e[4];
    bell_handle handle;
    int fds[2];
    make_sockets(fds);
    bell_fd_spec spec = fd_spec(fds[0], BELL_WRITE, BELL_ONESHOT, to_poll());
    spec.flags = BELL_AUTO_RELEASE;
    CHECK_OK(bell_register_fd(bell, &spec, &handle));
    CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), 0); /* the news finds no room */
    CHECK_OK(bell_rearm(bell, handle, NULL, BELL_NEVER));
    CHECK_EQ(bell_poll(bell, 0, e, 4, 0), 1);
    CHECK_EQ(e[0].handle, handle);
    CHECK_EQ(bell_unregister(bell, handle, 0), BELL_E_STALE);
    expect_quiet(bell, MS(2));
    close_pair(fds);
    check_clean(bell);
}

int main(void)
{
    RUN(which_combinations_are_refused_and_how);
    RUN(modify_refuses_what_registering_refuses);
    RUN(modes_and_bits_that_do_not_exist_are_refused);
    RUN(mvar_needs_the_entry_points_of_ghc);
    RUN(poll_is_refused_where_a_library_thread_drives);
    RUN(news_from_before_registering_is_told);
    RUN(news_from_after_registering_is_told);
    RUN(each_mode_repeats_itself_as_it_promised);
    RUN(hup_is_told_unasked);
    RUN(err_is_told_unasked);
    RUN(rdhup_is_told_to_readers);
    RUN(rdhup_may_be_asked_for_alone);
    RUN(writability_is_told);
    RUN(readers_are_not_told_of_writability);
    RUN(two_interests_are_told_together);
    RUN(urgent_data_is_told_to_those_who_asked);
    RUN(events_carry_their_handle_and_user_data);
    RUN(the_same_number_is_never_a_handle_twice);
    RUN(an_mvar_is_consumed_exactly_once);
    RUN(modify_changes_what_is_asked);
    RUN(edge_can_be_rearmed_by_hand);
    RUN(what_released_itself_is_not_told_again_though_it_was_armed_twice);
    return 0;
}
