/* Museum A: stale events, numbers and handles used again. */
#define _GNU_SOURCE
#include "museum.h"
#include <sys/resource.h>

/* What happens between the kernel's report and the library's look at it. */
static struct {
    bell_t *bell;
    int fd, done;
    bell_handle old, fresh;
    bell_target target;
} between;

static void replace_registration(void)
{
    if (between.done)
        return;
    between.done = 1;
    CHECK_EQ(bell_unregister(between.bell, between.old, BELL_SYNC), BELL_CANCELLED);
    CHECK_EQ(close(between.fd), 0);
    open_eventfd_at(between.fd);
    between.fresh = watch(between.bell, between.fd, BELL_READ, BELL_ONESHOT, between.target);
}

/* golang/go#59545: an event that was on its way met the entry's next owner. */
static void museum_001_an_event_on_its_way_does_not_reach_the_next_owner_of_the_entry(void)
{
    const bell_target targets[] = {to_slot(), to_poll()};
    if (left_out_on_io_uring("nobody can come in between: src/tests/backend.rs asks it"))
        return;
    for (int i = 0; i < 2; i++) {
        bell_t *bell = make_bell(1, 0);
        bell_event e;
        int fd = make_eventfd();
        bell_handle old = watch(bell, fd, BELL_READ, BELL_ONESHOT, targets[i]);
        CHECK_EQ(eventfd_write(fd, 1), 0);
        memset(&between, 0, sizeof between);
        between.bell = bell, between.fd = fd, between.old = old, between.target = targets[i];
        hook_after_wait = replace_registration;
        CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 0);
        hook_after_wait = NULL;
        CHECK(between.done);
        CHECK_EQ(between.fresh >> 26, old >> 26); /* the same entry, */
        CHECK_NE(between.fresh, old);             /* another generation */
        expect_quiet(bell, MS(2));
        if (i == 0)
            CHECK_EQ(bell_slot_consume(bell, between.fresh, BELL_READ), 0);
        if (has_feature(BELL_FEATURE_EPOLL))
            CHECK_EQ(stats_of(bell).stale_dropped, 1);
        CHECK_EQ(eventfd_write(fd, 1), 0); /* and the new one works */
        if (i == 0)
            CHECK_EQ(bell_slot_wait(bell, between.fresh, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
        else
            CHECK_EQ(next_event(bell).handle, between.fresh);
        CHECK_EQ(bell_unregister(bell, between.fresh, 0), BELL_FIRED);
        CHECK_EQ(close(fd), 0);
        check_clean(bell);
    }
}

/* creytiv/re#266: two in one batch; while the first is handled, the second is closed and its number used again. */
static void museum_002_the_second_of_a_batch_may_be_closed_while_the_first_is_handled(void)
{
    for (int how = 0; how < 2; how++) {
        bell_t *bell = make_bell(1, 0);
        int fds[2] = {make_eventfd(), make_eventfd()};
        bell_handle h[2];
        for (int i = 0; i < 2; i++) {
            h[i] = watch(bell, fds[i], BELL_READ, BELL_ONESHOT, to_poll());
            CHECK_EQ(eventfd_write(fds[i], 1), 0);
        }
        bell_event first = next_event(bell); /* room for one: the other waits */
        int second = first.handle == h[0];
        CHECK_EQ(first.handle, h[!second]);
        CHECK_EQ(bell_unregister(bell, h[second], 0), BELL_CANCELLED);
        CHECK_EQ(how ? bell_close_fd(bell, fds[second]) : close(fds[second]), 0);
        open_eventfd_at(fds[second]);
        bell_handle fresh = watch(bell, fds[second], BELL_READ, BELL_ONESHOT, to_poll());
        expect_quiet(bell, MS(2));
        CHECK_EQ(eventfd_write(fds[second], 1), 0);
        CHECK_EQ(next_event(bell).handle, fresh);
        CHECK_EQ(bell_unregister(bell, fresh, 0), BELL_FIRED);
        CHECK_EQ(bell_unregister(bell, h[!second], 0), BELL_FIRED);
        CHECK_EQ(close(fds[0]), 0);
        CHECK_EQ(close(fds[1]), 0);
        check_clean(bell);
    }
}

/* moonbitlang/async#571: another process keeps the pipe; its news woke whoever had the number next. */
static void museum_003_a_pipe_kept_by_a_child_does_not_wake_the_next_owner_of_its_number(void)
{
    for (int behind = 0; behind < 2; behind++) {
        bell_t *bell = make_bell(1, 0);
        bell_event e;
        int fds[2], release[2];
        uint64_t waits;
        make_pipe(fds);
        bell_handle h = watch(bell, fds[0], BELL_READ, edge_mode(), to_slot());
        pid_t holder = start_holder(release);
        CHECK_EQ(behind ? close(fds[0]) : bell_close_fd(bell, fds[0]), 0);
        open_eventfd_at(fds[0]);
        if (behind)
            CHECK_OK(bell_unregister(bell, h, 0));
        bell_handle fresh = watch(bell, fds[0], BELL_READ, edge_mode(), to_poll());
        if (!behind)
            CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
        waits = stats_of(bell).kernel_waits;
        for (int i = 0; i < 100; i++) {
            put_byte(fds[1]);
            CHECK_EQ(bell_poll(bell, 0, &e, 1, US(100)), 0);
        }
        CHECK_LE(stats_of(bell).kernel_waits - waits, 300); /* each news at most one wake-up, and then they end */
        CHECK_EQ(eventfd_write(fds[0], 1), 0);
        e = next_event(bell);
        CHECK_EQ(e.handle, fresh);
        CHECK_EQ(e.ready, BELL_READ);
        CHECK_OK(bell_unregister(bell, fresh, 0));
        end_holder(holder, release);
        CHECK_EQ(close(fds[0]), 0);
        CHECK_EQ(close(fds[1]), 0);
        check_clean(bell);
    }
}

/* twisted#12681, cpython#88968: "registered already" was remembered by number, so the new file was not watched. */
static void museum_004_a_number_reused_behind_our_back_is_armed_again(void)
{
    const uint32_t modes[] = {BELL_ONESHOT, BELL_LEVEL, BELL_EDGE};
    for (int i = 0; i < (has_edge() ? 3 : 2); i++) {
        bell_t *bell = make_bell(1, 0);
        int fd = make_eventfd();
        bell_handle old = watch(bell, fd, BELL_READ, modes[i], to_poll());
        CHECK_EQ(close(fd), 0);
        open_eventfd_at(fd);
        CHECK_EQ(eventfd_write(fd, 1), 0);
        bell_handle fresh = watch(bell, fd, BELL_READ, modes[i], to_poll());
        int told = 0;
        for (int turns = 0; turns < 4 && told < 1; turns++) {
            bell_event e;
            if (bell_poll(bell, 0, &e, 1, MS(50)) == 1)
                told += e.handle == fresh && e.ready & BELL_READ;
        }
        CHECK_EQ(told, 1);
        CHECK_OK(bell_unregister(bell, old, 0));
        check_verified(bell);
        CHECK_OK(bell_unregister(bell, fresh, 0));
        CHECK_EQ(close(fd), 0);
        check_clean(bell);
    }
}

/* tokio-rs/mio#172, tokio-rs/tokio#6133: a name that comes again. That it wraps is met in the simulator. */
static void museum_006_an_entry_used_again_and_again_never_gives_a_name_twice(void)
{
    bell_t *bell = make_bell(1, 0);
    int fd = make_eventfd();
    bell_handle last = 0;
    CHECK_EQ(eventfd_write(fd, 1), 0);
    for (int i = 0; i < rounds(100000); i++) {
        bell_handle h = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_slot());
        if (last) {
            CHECK_EQ(h >> 26, last >> 26);
            CHECK_GT(h, last);
            CHECK_EQ(bell_slot_consume(bell, last, BELL_READ), BELL_E_STALE);
        }
        if (i % 3 == 0)
            CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), 0);
        CHECK_EQ(bell_slot_consume(bell, h, BELL_READ), i % 3 == 0 ? BELL_READ : 0);
        CHECK_EQ(bell_unregister(bell, h, 0), i % 3 == 0 ? BELL_FIRED : BELL_CANCELLED);
        last = h;
    }
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

static void only_unregister(void)
{
    if (!between.done++)
        CHECK_EQ(bell_unregister(between.bell, between.old, BELL_SYNC), BELL_CANCELLED);
}

/* CVE-2024-27308: the kernel's cookie was a pointer, and was followed after its end. */
static void museum_007_the_kernel_holds_a_handle_and_its_news_is_dropped_after_the_end(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    int fd = make_eventfd();
    if (left_out_on_io_uring("nobody can come in between: src/tests/backend.rs asks it")) {
        CHECK_EQ(close(fd), 0);
        check_clean(bell);
        return;
    }
    bell_handle h = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_poll());
    if (has_feature(BELL_FEATURE_EPOLL))
        CHECK_EQ(kernel_knows(h), 1);
    CHECK_EQ(eventfd_write(fd, 1), 0);
    memset(&between, 0, sizeof between);
    between.bell = bell, between.old = h;
    hook_after_wait = only_unregister;
    CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 0);
    hook_after_wait = NULL;
    CHECK(between.done);
    if (has_feature(BELL_FEATURE_EPOLL)) {
        CHECK_EQ(stats_of(bell).stale_dropped, 1);
        CHECK_EQ(kernel_knows(h), 0);
    }
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

/* tokio-rs/tokio#3014: memory was given back a page too many. Slabs keep theirs; the model says who lives. */
static void museum_009_freeing_at_random_frees_nobody_else(void)
{
    enum { MOST = 10000 };
    static bell_handle live[MOST], dead[MOST];
    static uint32_t words[MOST];
    int most = rounds(MOST), alive = 0;
    bell_t *bell = make_bell(1, 0);
    memset(words, 0, sizeof words);
    for (int i = 0; i < most; i++, alive++)
        live[i] = make_user(bell, to_futex(&words[i]));
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < most; i++) {
            if (museum_random() % 2)
                continue;
            if (live[i]) {
                CHECK_EQ(bell_unregister(bell, live[i], 0), BELL_CANCELLED);
                dead[i] = live[i], live[i] = 0, alive--;
            } else {
                live[i] = make_user(bell, to_futex(&words[i])), alive++;
            }
        }
        CHECK_EQ(stats_of(bell).users, alive);
        for (int i = 0; i < most; i++) {
            if (live[i])
                CHECK_EQ(bell_post(bell, live[i], 1), 0);
            if (dead[i])
                CHECK_EQ(bell_post(bell, dead[i], 1), BELL_E_STALE);
        }
        CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), 0);
        for (int i = 0; i < most; i++)
            CHECK_EQ(bell_slot_take(&words[i]), live[i] ? BELL_USER : 0);
    }
    for (int i = 0; i < most; i++)
        if (live[i])
            CHECK_EQ(bell_unregister(bell, live[i], BELL_SYNC), BELL_CANCELLED);
    check_clean(bell);
}

/* mojito-sys#162: numbers that meet in one bucket; one was taken out, and another could not be found any more. */
static void museum_010_numbers_far_apart_and_close_together_are_all_found(void)
{
    enum { MOST = 64 };
    int fds[MOST], n = 0, limit;
    bell_handle handles[MOST];
    bell_t *bell = make_bell(1, 0);
    struct rlimit rlimit;
    CHECK(getrlimit(RLIMIT_NOFILE, &rlimit) == 0);
    limit = rlimit.rlim_cur > 60000 ? 60000 : (int)rlimit.rlim_cur;
    int source = make_eventfd();
    /* around each border of a power of two, and at equal distances */
    for (int border = 64; border < limit && n + 3 < MOST / 2; border *= 2)
        for (int off = -1; off < 2; off++)
            fds[n++] = border + off;
    for (int number = 200; number < limit && n < MOST; number += limit / 24)
        fds[n++] = number + 5;
    for (int i = 0; i < n; i++) {
        if (is_open(fds[i]) || fds[i] >= limit) {
            fds[i] = -1;
            continue;
        }
        int own = make_eventfd();
        CHECK_EQ(dup3(own, fds[i], O_CLOEXEC), fds[i]);
        CHECK_EQ(close(own), 0);
        handles[i] = watch(bell, fds[i], BELL_READ, BELL_ONESHOT, to_poll());
    }
    CHECK_EQ(try_watch(bell, 1 << 24, BELL_READ, BELL_ONESHOT, to_poll()), -EBADF); /* more than there is room for */
    for (int i = 0; i < n; i += 2)
        if (fds[i] >= 0) {
            CHECK_EQ(bell_unregister(bell, handles[i], 0), BELL_CANCELLED);
            CHECK_EQ(close(fds[i]), 0);
        }
    check_verified(bell);
    for (int i = 1; i < n; i += 2)
        if (fds[i] >= 0) {
            CHECK_EQ(eventfd_write(fds[i], 1), 0);
            CHECK_EQ(next_event(bell).handle, handles[i]);
            CHECK_EQ(bell_unregister(bell, handles[i], 0), BELL_FIRED);
            CHECK_EQ(close(fds[i]), 0);
        }
    CHECK_EQ(close(source), 0);
    check_clean(bell);
}

int main(void)
{
    RUN(museum_001_an_event_on_its_way_does_not_reach_the_next_owner_of_the_entry);
    RUN(museum_002_the_second_of_a_batch_may_be_closed_while_the_first_is_handled);
    RUN(museum_003_a_pipe_kept_by_a_child_does_not_wake_the_next_owner_of_its_number);
    RUN(museum_004_a_number_reused_behind_our_back_is_armed_again);
    RUN(museum_006_an_entry_used_again_and_again_never_gives_a_name_twice);
    RUN(museum_007_the_kernel_holds_a_handle_and_its_news_is_dropped_after_the_end);
    RUN(museum_009_freeing_at_random_frees_nobody_else);
    RUN(museum_010_numbers_far_apart_and_close_together_are_all_found);
    return 0;
}
