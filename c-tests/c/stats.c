#define _GNU_SOURCE 1
/* Do the counters, the self-check and the small questions tell the truth? */
#include "check.h"

#include <sys/resource.h>

static void live_things_are_counted(void)
{
    bell_t *bell = make_bell(2, 0);
    bell_counters all, shard[2];
    bell_handle fd, timeout, user, queue;
    bell_timeout_spec spec = timeout_spec(BELL_NEVER, to_slot());
    int fds[2];
    make_sockets(fds);
    all = stats_of(bell);
    CHECK_EQ(all.shards, 2);
    CHECK_EQ(all.fds + all.timeouts + all.users + all.queues + all.waiters, 0);
    fd = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
    spec.shard = 1;
    CHECK_OK(bell_register_timeout(bell, &spec, &timeout));
    user = make_user(bell, to_slot());
    CHECK_OK(bell_queue_create(bell, 1, NULL, &queue));
    all = stats_of(bell);
    CHECK_EQ(all.fds, 1);
    CHECK_EQ(all.timeouts, 1);
    CHECK_EQ(all.users, 1);
    CHECK_EQ(all.queues, 1);
    for (uint32_t s = 0; s < 2; s++) {
        shard[s] = (bell_counters){.size = sizeof shard[s]};
        CHECK_OK(bell_stats(bell, s, &shard[s]));
        CHECK_EQ(shard[s].shards, 1);
        CHECK_EQ(shard[s].fds, s == 0);
        CHECK_EQ(shard[s].timeouts, s == 1);
        CHECK_EQ(shard[s].users, s == 0);
    }
    CHECK_GT(all.heap_bytes, 0);
    CHECK_OK(bell_unregister(bell, fd, 0));
    CHECK_OK(bell_unregister(bell, timeout, 0));
    CHECK_OK(bell_unregister(bell, user, 0));
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    close_pair(fds);
    check_clean(bell);
}

static void bad_questions_are_refused(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_counters c = {.size = sizeof c};
    uint32_t size = 1, align = 2;
    CHECK_EQ(bell_stats(bell, 1, &c), -EINVAL);
    CHECK_EQ(bell_stats(bell, BELL_SHARD_CURRENT_CPU - 1, &c), -EINVAL);
    CHECK_EQ(bell_stats(bell, 0, NULL), -EINVAL);
    c.size = 3;
    CHECK_EQ(bell_stats(bell, 0, &c), BELL_E_ABI);
    CHECK_EQ(c.size, 3);
    CHECK_EQ(bell_layout(0, &size, &align), -EINVAL);
    CHECK_EQ(bell_layout(9, &size, &align), -EINVAL);
    CHECK_EQ(bell_layout(UINT32_MAX, NULL, NULL), -EINVAL);
    CHECK_EQ(size, 1);
    CHECK_EQ(align, 2);
    CHECK_EQ(bell_features(NULL), -EINVAL);
    check_clean(bell);
    CHECK_EQ(bell_verify(bell), BELL_E_STALE);
    CHECK_EQ(bell_dump(bell, 2), BELL_E_STALE);
    c.size = sizeof c;
    CHECK_EQ(bell_stats(bell, 0, &c), BELL_E_STALE);
}

static void kernel_waits_and_events_are_counted(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_counters before = stats_of(bell), after;
    bell_handle handle;
    bell_event e;
    int fds[2];
    make_sockets(fds);
    for (int i = 0; i < 7; i++)
        CHECK_EQ(bell_poll(bell, 0, &e, 1, US(10)), 0);
    after = stats_of(bell);
    CHECK_GE(after.kernel_waits - before.kernel_waits, 7);
    CHECK_LE(after.kernel_waits - before.kernel_waits, 14);
    CHECK_EQ(after.events, before.events);
    handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
    for (int i = 0; i < 5; i++) {
        put_byte(fds[1]);
        turn(bell);
        drain_fd(fds[0]);
        CHECK_OK(bell_rearm(bell, handle, NULL, BELL_NEVER));
    }
    CHECK_EQ(stats_of(bell).events - before.events, 5);
    CHECK_EQ(stats_of(bell).stale_dropped, 0);
    CHECK_EQ(stats_of(bell).ctl_errors, 0);
    CHECK_OK(bell_unregister(bell, handle, 0));
    close_pair(fds);
    check_clean(bell);
}

static void an_edge_costs_no_change_of_the_kernels_set(void)
{
    bell_t *bell;
    bell_handle handle;
    uint64_t ctl;
    int fds[2];
    if (!has_edge())
        return;
    bell = make_bell(1, 0);
    make_sockets(fds);
    handle = watch(bell, fds[0], BELL_READ, BELL_EDGE, to_slot());
    ctl = stats_of(bell).ctl_calls;
    CHECK_GE(ctl, 1);
    for (int i = 0; i < rounds(1000); i++) {
        put_byte(fds[1]);
        CHECK_EQ(bell_slot_wait(bell, handle, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
        drain_fd(fds[0]);
        CHECK_EQ(bell_slot_wait(bell, handle, BELL_READ, 0, 0), -ETIMEDOUT);
    }
    CHECK_EQ(stats_of(bell).ctl_calls, ctl);
    CHECK_EQ(stats_of(bell).events, rounds(1000)); /* each byte was news, and nothing else */
    CHECK_OK(bell_unregister(bell, handle, 0));
    CHECK_EQ(stats_of(bell).ctl_calls, ctl + 1);
    close_pair(fds);
    check_clean(bell);
}

static void a_oneshot_costs_one_change_for_each_arming(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle handle;
    uint64_t ctl;
    int fds[2], n = rounds(500);
    if (!has_feature(BELL_FEATURE_EPOLL)) {
        CHECK_OK(bell_destroy(bell, 0));
        return;
    }
    make_sockets(fds);
    handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
    ctl = stats_of(bell).ctl_calls;
    for (int i = 0; i < n; i++) {
        put_byte(fds[1]);
        CHECK_EQ(bell_slot_wait(bell, handle, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
        drain_fd(fds[0]);
        CHECK_OK(bell_rearm(bell, handle, NULL, BELL_NEVER));
    }
    CHECK_EQ(stats_of(bell).ctl_calls - ctl, n);
    CHECK_OK(bell_unregister(bell, handle, 0));
    close_pair(fds);
    check_clean(bell);
}

static void refusals_of_the_kernel_are_counted(void)
{
    bell_t *bell = make_bell(1, 0);
    char name[] = "/tmp/doorbell-stats-XXXXXX";
    int file = mkstemp(name), fds[2];
    bell_handle handle;
    bell_fd_spec spec;
    CHECK(file >= 0 && unlink(name) == 0);
    if (has_feature(BELL_FEATURE_EPOLL)) {
        CHECK_EQ(try_watch(bell, file, BELL_READ, BELL_ONESHOT, to_poll()), -EPERM);
        CHECK_GE(stats_of(bell).ctl_errors, 1);
    }
    make_sockets(fds);
    close_pair(fds);
    CHECK_EQ(try_watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll()), -EBADF);
    CHECK_EQ(stats_of(bell).fds, 0);
    spec = fd_spec(file, BELL_READ, BELL_ONESHOT, to_poll());
    spec.flags = BELL_FD_ALWAYS_READY;
    CHECK_OK(bell_register_fd(bell, &spec, &handle));
    CHECK_HAS(next_event(bell).ready, BELL_READ);
    check_verified(bell);
    CHECK_OK(bell_unregister(bell, handle, 0));
    CHECK(close(file) == 0);
    check_clean(bell);
}

typedef struct sleeper {
    bell_t *bell;
    bell_handle handle;
    uint32_t id;
} sleeper;

static void *sleep_on_slot(void *argument)
{
    sleeper *s = argument;
    store(&s->id, thread_id());
    CHECK_GT(bell_slot_wait(s->bell, s->handle, BELL_READ, now_ns() + PATIENCE, 0), 0);
    return NULL;
}

static void wakes_are_sent_only_to_sleepers(void)
{
    bell_t *bell = make_bell(1, 1);
    sleeper s = {.bell = bell};
    bell_counters before, after;
    pthread_t t;
    int fds[2];
    make_sockets(fds);
    s.handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
    t = start_thread(sleep_on_slot, &s);
    AWAIT(stats_of(bell).waiters == 1 && is_asleep(&s.id));
    before = stats_of(bell);
    put_byte(fds[1]); /* the driver wakes the waiter */
    join_thread(t);
    AWAIT(stats_of(bell).events > before.events);
    after = stats_of(bell);
    CHECK_GE(after.wakes_sent - before.wakes_sent, 1);
    before = after;
    CHECK_OK(bell_rearm(bell, s.handle, NULL, BELL_NEVER)); /* unread: told at once, and nobody sleeps on the word */
    AWAIT(stats_of(bell).events > before.events);
    after = stats_of(bell);
    CHECK_GE(after.wakes_elided - before.wakes_elided, 1);
    CHECK_OK(bell_unregister(bell, s.handle, BELL_SYNC));
    close_pair(fds);
    check_clean(bell);
}

static void merged_news_is_counted(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle queue = make_queue(bell, NULL), user = make_user(bell, to_queue(queue));
    bell_event e;
    for (int i = 0; i < 6; i++) {
        CHECK_EQ(bell_post(bell, user, 1), 0);
        turn(bell);
    }
    CHECK_EQ(stats_of(bell).coalesced, 5);
    CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), 1);
    CHECK_EQ(bell_post(bell, user, 1), 0);
    turn(bell);
    CHECK_EQ(stats_of(bell).coalesced, 5);
    CHECK_OK(bell_unregister(bell, user, 0));
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    check_clean(bell);
}

static void timers_are_counted(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_counters c;
    bell_handle a = set_timeout(bell, now_ns() + SEC(1000), to_slot()), b = set_timeout(bell, 0, to_slot()), d;
    bell_fd_spec spec;
    int fds[2];
    CHECK_EQ(stats_of(bell).timers_armed, 2);
    CHECK_EQ(bell_update_timeout(bell, a, now_ns() + SEC(2000)), 0);
    CHECK_EQ(bell_update_timeout(bell, a, now_ns() + SEC(500)), 0);
    turn(bell);
    c = stats_of(bell);
    CHECK_EQ(c.timers_moved, 2);
    CHECK_EQ(c.timers_fired, 1);
    CHECK_EQ(c.timers_cancelled, 0);
    CHECK_OK(bell_rearm(bell, b, NULL, now_ns() + MS(1)));
    CHECK_EQ(stats_of(bell).timers_armed, 3);
    CHECK_OK(bell_slot_wait(bell, b, BELL_READ, 0, 0)); /* the first */
    CHECK_EQ(bell_slot_wait(bell, b, BELL_READ, now_ns() + PATIENCE, 0), BELL_TIMEOUT);
    c = stats_of(bell);
    CHECK_EQ(c.timers_fired, 2);
    CHECK_GE(c.late_sum_ns, c.late_max_ns);
    CHECK_GE(c.late_max_ns, 1);
    CHECK_OK(bell_unregister(bell, a, 0));
    CHECK_OK(bell_unregister(bell, b, 0));
    CHECK_EQ(stats_of(bell).timers_cancelled, 1);
    /* A deadline that readiness made pointless. */
    make_sockets(fds);
    spec = fd_spec(fds[0], BELL_READ, BELL_ONESHOT, to_slot());
    spec.flags = BELL_FD_DEADLINE;
    spec.deadline_ns = now_ns() + SEC(1000);
    CHECK_OK(bell_register_fd(bell, &spec, &d));
    CHECK_EQ(stats_of(bell).timers_armed, 4);
    put_byte(fds[1]);
    turn(bell);
    CHECK_EQ(stats_of(bell).timers_cancelled, 2);
    CHECK_EQ(stats_of(bell).timers_fired, 2);
    CHECK_OK(bell_unregister(bell, d, 0));
    CHECK_EQ(stats_of(bell).timers_cancelled, 2);
    close_pair(fds);
    check_clean(bell);
}

static void verify_finds_what_was_done_behind_our_back(void)
{
    if (!has_feature(BELL_FEATURE_EPOLL))
        return;
    for (int how = 0; how < 3; how++) {
        bell_t *bell = make_bell(1, 0);
        bell_handle handle, bystander;
        int fds[2], other[2], copy = -1;
        make_sockets(fds);
        make_sockets(other);
        bystander = watch(bell, other[1], BELL_READ, BELL_ONESHOT, to_slot());
        handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
        CHECK_EQ(bell_verify(bell), 0);
        if (how == 2)
            copy = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
        if (how == 0)
            CHECK_EQ(dup3(other[0], fds[0], O_CLOEXEC), fds[0]); /* another file under the number */
        else
            CHECK(close(fds[0]) == 0); /* gone; with `copy` it stays in the kernel's set */
        fprintf(stderr, "  how %d: %d\n", how, bell_verify(bell));
        CHECK_GE(bell_verify(bell), 1);
        CHECK_OK(bell_unregister(bell, handle, BELL_SYNC));
        turn(bell);
        CHECK_EQ(bell_verify(bell), 0); /* mended by unregistering */
        CHECK_OK(bell_unregister(bell, bystander, 0));
        if (how == 0)
            CHECK(close(fds[0]) == 0);
        if (copy >= 0)
            CHECK(close(copy) == 0);
        CHECK(close(fds[1]) == 0);
        close_pair(other);
        check_clean(bell);
    }
}

static int dump_lines(bell_t *bell)
{
    FILE *file = tmpfile();
    char line[2000];
    int lines = 0;
    CHECK(file != NULL);
    CHECK_OK(bell_dump(bell, fileno(file)));
    rewind(file);
    while (fgets(line, sizeof line, file)) {
        CHECK(strchr(line, '\n') != NULL); /* whole lines */
        CHECK_GT(strlen(line), 1);
        lines++;
    }
    fclose(file);
    return lines;
}

static void dump_has_a_line_for_each_live_thing(void)
{
    enum { N = 50 };
    bell_t *bell = make_bell(1, 0);
    bell_handle handles[N * 3], queue;
    int fds[2], empty = dump_lines(bell);
    make_sockets(fds);
    CHECK_GE(empty, 1);
    for (int i = 0; i < N; i++) {
        handles[i * 3] = watch(bell, fds[i % 2], BELL_READ, BELL_ONESHOT, to_slot());
        handles[i * 3 + 1] = set_timeout(bell, now_ns() + SEC(1000), to_poll());
        handles[i * 3 + 2] = make_user(bell, to_slot());
    }
    queue = make_queue(bell, NULL);
    CHECK_GE(dump_lines(bell), empty + N * 3 + 1);
    CHECK_LE(dump_lines(bell), empty + N * 3 + 1 + 10); /* and hardly more */
    for (int i = 0; i < N * 3; i++)
        CHECK_OK(bell_unregister(bell, handles[i], 0));
    CHECK_OK(bell_queue_destroy(bell, queue, 0));
    CHECK_EQ(dump_lines(bell), empty);
    CHECK_EQ(bell_dump(bell, -1), -EBADF);
    close_pair(fds);
    check_clean(bell);
}

static void an_edge_slot_costs_few_bytes(void)
{
    enum { N = 5000, BYTES = 96, MORE_ON_IO_URING = 28 };
    struct rlimit limit;
    static int fds[N];
    static bell_handle handles[N];
    bell_t *bell;
    uint64_t before, used;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_cur < N + 100) {
        struct rlimit more = {N + 100, limit.rlim_max < N + 100 ? N + 100 : limit.rlim_max};
        if (setrlimit(RLIMIT_NOFILE, &more) != 0) {
            fprintf(stderr, "  too few fds here\n");
            return;
        }
    }
    bell = make_bell(1, 0);
    for (int i = 0; i < N; i++)
        fds[i] = make_eventfd();
    before = stats_of(bell).heap_bytes;
    for (int i = 0; i < N; i++)
        handles[i] = watch(bell, fds[i], BELL_READ, has_edge() ? BELL_EDGE : BELL_ONESHOT, to_slot());
    used = stats_of(bell).heap_bytes - before;
    fprintf(stderr, "  %" PRIu64 " bytes, %.1f for each\n", used, (double)used / N);
    if (has_edge())
        CHECK_LE(used, (uint64_t)N * (BYTES + (on_io_uring() ? MORE_ON_IO_URING : 0)));
    CHECK_GT(used, N * sizeof(bell_slot)); /* the slots at least are counted */
    for (int i = 0; i < N; i++) {
        CHECK_OK(bell_unregister(bell, handles[i], 0));
        CHECK(close(fds[i]) == 0);
    }
    before = stats_of(bell).heap_bytes;
    for (int i = 0; i < 2000; i++) { /* used places are used again */
        int fd = make_eventfd();
        CHECK_OK(bell_unregister(bell, watch(bell, fd, BELL_READ, BELL_ONESHOT, to_slot()), 0));
        CHECK(close(fd) == 0);
    }
    CHECK_LE(stats_of(bell).heap_bytes, before);
    check_clean(bell);
}

static void layouts_are_those_of_the_header(void)
{
    struct {
        uint32_t id, size, align;
    } known[] = {
        {BELL_LAYOUT_CONFIG, sizeof(bell_config), _Alignof(bell_config)},
        {BELL_LAYOUT_TARGET, sizeof(bell_target), _Alignof(bell_target)},
        {BELL_LAYOUT_FD_SPEC, sizeof(bell_fd_spec), _Alignof(bell_fd_spec)},
        {BELL_LAYOUT_TIMEOUT_SPEC, sizeof(bell_timeout_spec), _Alignof(bell_timeout_spec)},
        {BELL_LAYOUT_EVENT, sizeof(bell_event), _Alignof(bell_event)},
        {BELL_LAYOUT_SLOT, sizeof(bell_slot), _Alignof(bell_slot)},
        {BELL_LAYOUT_COUNTERS, sizeof(bell_counters), _Alignof(bell_counters)},
        {BELL_LAYOUT_GHC_OPS, sizeof(bell_ghc_ops), _Alignof(bell_ghc_ops)},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t size = 0, align = 0;
        CHECK_EQ(bell_layout(known[i].id, &size, &align), 0);
        CHECK_EQ(size, known[i].size);
        CHECK_EQ(align, known[i].align);
        CHECK_EQ(bell_layout(known[i].id, NULL, NULL), 0);
        size = align = 0;
        CHECK_EQ(bell_layout(known[i].id, &size, NULL), 0);
        CHECK_EQ(bell_layout(known[i].id, NULL, &align), 0);
        CHECK_EQ(size, known[i].size);
        CHECK_EQ(align, known[i].align);
    }
    CHECK_EQ(sizeof(bell_event), 32);
    CHECK_EQ(sizeof(bell_slot), 8);
}

static void features_and_versions_fit_together(void)
{
    uint64_t bits = 0;
    int major = -1, minor = -1, patch = -1;
    const uint64_t known = BELL_FEATURE_EDGE | BELL_FEATURE_EXCLUSIVE | BELL_FEATURE_POLLABLE | BELL_FEATURE_NANOSECONDS |
                           BELL_FEATURE_CLOCKS | BELL_FEATURE_FUTEX | BELL_FEATURE_EPOLL | BELL_FEATURE_POLL |
                           BELL_FEATURE_KQUEUE | BELL_FEATURE_IO_URING;
    CHECK_EQ(bell_features(&bits), 0);
    fprintf(stderr, "  features %#" PRIx64 "\n", bits);
    CHECK_LACKS(bits, ~known);
    if (bits & BELL_FEATURE_POLL)
        CHECK_LACKS(bits, BELL_FEATURE_EDGE | BELL_FEATURE_EXCLUSIVE | BELL_FEATURE_POLLABLE);
    if (bits & BELL_FEATURE_EPOLL)
        CHECK_HAS(bits, BELL_FEATURE_EDGE | BELL_FEATURE_EXCLUSIVE | BELL_FEATURE_POLLABLE | BELL_FEATURE_CLOCKS);
    CHECK_EQ(bell_abi_version(), BELL_ABI_MAJOR << 16 | BELL_ABI_MINOR);
    CHECK_EQ(sscanf(bell_version(), "%d.%d.%d", &major, &minor, &patch), 3);
    CHECK(major >= 0 && minor >= 0 && patch >= 0);
    CHECK(bell_version() == bell_version());
}

static void every_code_has_words_of_its_own(void)
{
    const char *words[16];
    int n = 0;
    for (int32_t code = BELL_E_STALE; code >= BELL_E_FULL; code--) {
        words[n] = bell_strerror(code);
        CHECK(words[n] != NULL);
        CHECK_GT(strlen(words[n]), 5);
        for (int i = 0; i < n; i++)
            CHECK(strcmp(words[i], words[n]) != 0);
        n++;
    }
    CHECK_EQ(n, 9);
    for (int32_t code = -200; code <= 5; code++) {
        CHECK(bell_strerror(code) != NULL);
        CHECK_GT(strlen(bell_strerror(code)), 0);
    }
    CHECK(strcmp(bell_strerror(-EINVAL), bell_strerror(-EBADF)) != 0);
    CHECK(strcmp(bell_strerror(-ENOMEM), bell_strerror(-ENOSPC)) != 0);
    CHECK(bell_strerror(0) != NULL);
    CHECK(bell_strerror(BELL_FIRED) != NULL);
    CHECK(bell_strerror(INT32_MAX) != NULL);
    CHECK(bell_strerror(INT32_MIN) != NULL);
    CHECK(bell_strerror(-4999) != NULL);
    CHECK(bell_strerror(BELL_E_FULL - 1) != NULL);
    CHECK(bell_strerror(-EINVAL) == bell_strerror(-EINVAL)); /* static */
}

int main(void)
{
    RUN(live_things_are_counted);
    RUN(bad_questions_are_refused);
    RUN(kernel_waits_and_events_are_counted);
    RUN(an_edge_costs_no_change_of_the_kernels_set);
    RUN(a_oneshot_costs_one_change_for_each_arming);
    RUN(refusals_of_the_kernel_are_counted);
    RUN(wakes_are_sent_only_to_sleepers);
    RUN(merged_news_is_counted);
    RUN(timers_are_counted);
    RUN(verify_finds_what_was_done_behind_our_back);
    RUN(dump_has_a_line_for_each_live_thing);
    RUN(an_edge_slot_costs_few_bytes);
    RUN(layouts_are_those_of_the_header);
    RUN(features_and_versions_fit_together);
    RUN(every_code_has_words_of_its_own);
    return 0;
}
