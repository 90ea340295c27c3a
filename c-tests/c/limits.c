/* At the limits: no fds left, no threads left, too many managers, fds that the kernel cannot poll, very many fds. */
#define _GNU_SOURCE
#include "check.h"
#include <grp.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

static struct rlimit normal;

/* Lowers the limit so that exactly `n` more fds can be opened. */
static void leave_fds(int n)
{
    struct rlimit limit = normal;
    rlim_t number = 0;
    for (; n > 0 || fcntl((int)number, F_GETFD) >= 0; number++)
        if (fcntl((int)number, F_GETFD) < 0)
            n--;
    limit.rlim_cur = number;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static void leave_all_fds(void)
{
    CHECK(setrlimit(RLIMIT_NOFILE, &normal) == 0);
}

static int count_tasks(void)
{
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;
    int n = 0;
    CHECK(dir != NULL);
    while ((entry = readdir(dir)))
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void same_live_things(bell_t *bell, const bell_counters *before)
{
    bell_counters c = stats_of(bell);
    CHECK_EQ(c.fds, before->fds);
    CHECK_EQ(c.timeouts, before->timeouts);
    CHECK_EQ(c.users, before->users);
    CHECK_EQ(c.queues, before->queues);
    CHECK_EQ(c.waiters, before->waiters);
}

enum { ENOUGH = 64 };

/* ---- no fds left ---- */

static void create_with_few_fds(uint32_t shards, uint32_t threads)
{
    int fds = live_fds(), tasks = count_tasks();
    for (int k = 0;; k++) {
        bell_config config;
        bell_t *bell = (bell_t *)1;
        CHECK_LT(k, ENOUGH);
        CHECK_OK(bell_config_init(&config, sizeof config));
        config.shards = shards;
        config.threads = threads;
        leave_fds(k);
        int32_t r = bell_create(&config, &bell);
        leave_all_fds();
        if (r == 0) {
            fprintf(stderr, "  %u shards, %u threads: %d fds are enough\n", shards, threads, k);
            check_clean(bell);
            AWAIT(count_tasks() == tasks);
            CHECK_EQ(live_fds(), fds);
            return;
        }
        CHECK_EQ(r, -EMFILE);
        CHECK(bell == (bell_t *)1);
        CHECK_EQ(live_fds(), fds);
        AWAIT(count_tasks() == tasks);
    }
}

static void does_create_fail_cleanly_without_fds(void)
{
    create_with_few_fds(1, 0);
    create_with_few_fds(3, 0);
    create_with_few_fds(2, 2);
    create_with_few_fds(4, 4);
}

/* Calls `attempt` with 0, 1, 2, ... fds left until it succeeds; each failure must leave everything as it was. */
static int32_t succeed_at_last(bell_t *bell, int32_t (*attempt)(bell_t *bell, void *argument), void *argument)
{
    int fds = live_fds();
    bell_counters before = stats_of(bell);
    for (int k = 0;; k++) {
        CHECK_LT(k, ENOUGH);
        leave_fds(k);
        int32_t r = attempt(bell, argument);
        leave_all_fds();
        if (r >= 0) {
            fprintf(stderr, "  %d fds are enough\n", k);
            return r;
        }
        CHECK_EQ(r, -EMFILE);
        CHECK_EQ(live_fds(), fds);
        same_live_things(bell, &before);
        check_verified(bell);
    }
}

static int32_t attempt_pollable(bell_t *bell, void *argument)
{
    return bell_pollable_fd(bell, *(uint32_t *)argument);
}

static void does_pollable_fd_fail_cleanly_without_fds(void)
{
    if (!has_feature(BELL_FEATURE_POLLABLE))
        return;
    bell_t *bell = make_bell(2, 0);
    for (uint32_t s = 0; s < 2; s++) {
        int32_t fd = succeed_at_last(bell, attempt_pollable, &s);
        CHECK_EQ(bell_wake(bell, s), 0);
        CHECK_EQ(looks_ready(fd, POLLIN), POLLIN);
        CHECK_EQ(bell_poll(bell, s, NULL, 0, 0), 0);
        CHECK_EQ(looks_ready(fd, POLLIN), 0);
    }
    check_clean(bell);
}

static int32_t attempt_queue_fd(bell_t *bell, void *argument)
{
    return bell_queue_fd(bell, *(bell_handle *)argument);
}

static void does_queue_fd_fail_cleanly_without_fds(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    bell_handle queue = make_queue(bell, NULL), user = make_user(bell, to_queue(queue));
    int32_t fd = succeed_at_last(bell, attempt_queue_fd, &queue);
    CHECK_EQ(bell_queue_fd(bell, queue), fd);
    CHECK_EQ(looks_ready(fd, POLLIN), 0);
    CHECK_EQ(bell_post(bell, user, 1), 0);
    turn(bell);
    CHECK_EQ(looks_ready(fd, POLLIN), POLLIN);
    CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), 1);
    CHECK_EQ(e.handle, user);
    CHECK_EQ(looks_ready(fd, POLLIN), 0);
    CHECK_OK(bell_unregister(bell, user, 0));
    CHECK_EQ(bell_queue_destroy(bell, queue, 0), BELL_FIRED);
    check_clean(bell);
}

typedef struct timeout_attempt {
    uint32_t clock;
    uint32_t word;
    bell_handle handle;
} timeout_attempt;

static int32_t attempt_timeout(bell_t *bell, void *argument)
{
    timeout_attempt *a = argument;
    bell_timeout_spec spec = timeout_spec(bell_now(a->clock) + MS(1), to_futex(&a->word));
    bell_handle h = 77;
    spec.clock = a->clock;
    int32_t r = bell_register_timeout(bell, &spec, &h);
    if (r < 0)
        CHECK_EQ(h, 77);
    a->handle = h;
    return r;
}

static void do_timeouts_of_other_clocks_fail_cleanly_without_fds(void)
{
    for (uint32_t clock = 0; clock < (has_feature(BELL_FEATURE_CLOCKS) ? 3u : 1u); clock++) {
        bell_t *bell = make_bell(1, 0);
        timeout_attempt a = {.clock = clock};
        CHECK_EQ(succeed_at_last(bell, attempt_timeout, &a), 0);
        for (int64_t start = now_ns(); !load(&a.word);) {
            CHECK_LT(now_ns() - start, PATIENCE);
            CHECK_EQ(bell_poll(bell, 0, NULL, 0, MS(100)), 0);
        }
        CHECK_EQ(load(&a.word), BELL_SEQ | BELL_TIMEOUT);
        CHECK_EQ(bell_unregister(bell, a.handle, BELL_SYNC), BELL_FIRED);
        check_clean(bell);
    }
}

static void is_verify_honest_when_it_cannot_look(void)
{
    bell_t *bell = make_bell(1, 0);
    leave_fds(0);
    int32_t r = bell_verify(bell);
    leave_all_fds();
    CHECK(r == -EMFILE || r == 0); /* 0: it needs no fd to look */
    if (has_feature(BELL_FEATURE_EPOLL))
        CHECK_EQ(r, -EMFILE);
    check_clean(bell);
}

static void does_traffic_go_on_without_fds(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    make_sockets(fds);
    leave_fds(0);
    for (int i = 0; i < 100; i++) {
        bell_handle h = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
        bell_handle t = set_timeout(bell, now_ns() + US(100), to_slot());
        put_byte(fds[1]);
        CHECK_EQ(next_event(bell).handle, h);
        CHECK_EQ(drain_fd(fds[0]), 1);
        CHECK_EQ(bell_slot_wait(bell, t, BELL_READ, now_ns() + PATIENCE, 0), BELL_TIMEOUT);
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
        CHECK_EQ(bell_unregister(bell, t, 0), BELL_FIRED);
    }
    leave_all_fds();
    close_pair(fds);
    check_clean(bell);
}

/* ---- 256 managers ---- */

static void is_the_257th_manager_refused(void)
{
    enum { MOST = 256 };
    static bell_t *bells[MOST + 1];
    if (normal.rlim_cur < 2500) {
        fprintf(stderr, "  left out: too few fds are allowed here\n");
        return;
    }
    for (int round = 0; round < 3; round++) {
        bell_t *none = (bell_t *)1;
        for (int i = 0; i < MOST; i++) {
            CHECK_EQ(bell_create(NULL, &bells[i]), 0);
            for (int k = 0; k < i; k++)
                CHECK(bells[k] != bells[i]);
        }
        int fds = live_fds();
        CHECK_EQ(bell_create(NULL, &none), BELL_E_FULL);
        CHECK(none == (bell_t *)1);
        CHECK_EQ(live_fds(), fds);
        CHECK_EQ(bell_wake(bells[0], 0), 0);
        CHECK_EQ(bell_wake(bells[MOST - 1], 0), 0);
        /* One goes, one may come. */
        bell_t *old = bells[100];
        check_clean(old);
        CHECK_EQ(bell_create(NULL, &bells[100]), 0);
        CHECK(bells[100] != old);
        CHECK_EQ(bell_wake(old, 0), BELL_E_STALE);
        CHECK_EQ(bell_create(NULL, &none), BELL_E_FULL);
        for (int i = 0; i < MOST; i++) { /* forwards, backwards, and by a stride that visits all */
            int k = round == 0 ? i : round == 1 ? MOST - 1 - i : i * 37 % MOST;
            CHECK_EQ(bell_destroy(bells[k], 0), 0);
        }
    }
}

/* ---- batches ---- */

static void is_a_batch_of_more_than_2_to_the_20_refused(void)
{
    enum { TOO_MANY = (1 << 20) + 1 };
    bell_t *bell = make_bell(1, 0);
    int fd = make_eventfd();
    bell_fd_spec *specs = calloc(TOO_MANY, sizeof *specs);
    bell_handle *handles = calloc(TOO_MANY, sizeof *handles);
    int32_t *status = calloc(TOO_MANY, sizeof *status);
    CHECK(specs && handles && status);
    specs[0] = fd_spec(fd, BELL_READ, BELL_ONESHOT, to_poll());
    CHECK_EQ(bell_register_fd_batch(bell, specs, TOO_MANY, handles, status), -EINVAL);
    CHECK_EQ(handles[0], 0);
    CHECK_EQ(stats_of(bell).fds, 0);
    handles[0] = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_poll());
    CHECK_EQ(bell_rearm_batch(bell, handles, TOO_MANY, status), -EINVAL);
    CHECK_EQ(bell_unregister_batch(bell, handles, TOO_MANY, 0, status), -EINVAL);
    CHECK_EQ(bell_unregister_batch(bell, handles, UINT32_MAX, 0, status), -EINVAL);
    CHECK_EQ(stats_of(bell).fds, 1);
    /* The greatest that is allowed: one good, the rest each refused. */
    CHECK_EQ(bell_unregister_batch(bell, handles, TOO_MANY - 1, BELL_SYNC, status), 1);
    CHECK_EQ(status[0], BELL_CANCELLED);
    CHECK_EQ(status[1], BELL_E_STALE);
    CHECK_EQ(status[TOO_MANY - 2], BELL_E_STALE);
    free(specs);
    free(handles);
    free(status);
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

/* ---- no threads left ---- */

static int create_as_nobody(void)
{
    struct rlimit none = {0, 0};
    bell_config config;
    bell_t *bell = (bell_t *)1;
    if (geteuid() == 0 && (setgroups(0, NULL) != 0 || setgid(65534) != 0 || setuid(65534) != 0))
        return 77;
    if (setrlimit(RLIMIT_NPROC, &none) != 0 || prctl(PR_SET_DUMPABLE, 1) != 0)
        return 77; /* dumpable: else /proc/self would be root's */
    int fds = live_fds();
    CHECK_OK(bell_config_init(&config, sizeof config));
    config.threads = 3;
    CHECK_EQ(bell_create(&config, &bell), -EAGAIN);
    CHECK(bell == (bell_t *)1);
    CHECK_EQ(live_fds(), fds);
    CHECK_EQ(count_tasks(), 1);
    bell = make_bell(3, 0); /* without threads it can be had */
    check_clean(bell);
    return 0;
}

static void does_create_fail_cleanly_without_threads(void)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60);
        _exit(create_as_nobody());
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        fprintf(stderr, "  left out: the limit cannot be set here\n");
    else
        CHECK_EQ(WEXITSTATUS(status), 0);
}

/* ---- what the kernel cannot poll ---- */

static int make_file(void)
{
    const char *base = getenv("TMPDIR");
    char path[256];
    snprintf(path, sizeof path, "%s/doorbell-XXXXXX", base && *base ? base : P_tmpdir);
    int fd = mkostemp(path, O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(write(fd, "text", 4), 4);
    return fd;
}

static bell_fd_spec always_spec(int fd, uint32_t mode, bell_target target)
{
    bell_fd_spec spec = fd_spec(fd, BELL_READ | BELL_WRITE, mode, target);
    spec.flags = BELL_FD_ALWAYS_READY;
    return spec;
}

static void is_a_regular_file_refused(void)
{
    bell_t *bell = make_bell(1, 0);
    int fd = make_file();
    CHECK_EQ(try_watch(bell, fd, BELL_READ, BELL_ONESHOT, to_poll()), -EPERM);
    CHECK_EQ(try_watch(bell, fd, BELL_READ, BELL_LEVEL, to_poll()), -EPERM);
    CHECK_EQ(try_watch(bell, fd, BELL_WRITE, BELL_ONESHOT, to_slot()), -EPERM);
    if (has_edge())
        CHECK_EQ(try_watch(bell, fd, BELL_READ, BELL_EDGE, to_poll()), -EPERM);
    CHECK_EQ(stats_of(bell).fds, 0);
    expect_quiet(bell, MS(2));
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

static void always_ready_works(int fd)
{
    bell_t *bell = make_bell(1, 0);
    const uint32_t both = BELL_READ | BELL_WRITE;
    bell_handle h = 0;
    bell_event e;

    bell_fd_spec spec = always_spec(fd, BELL_ONESHOT, to_poll());
    CHECK_OK(bell_register_fd(bell, &spec, &h));
    for (int i = 0; i < 5; i++) { /* one delivery for each arming */
        e = next_event(bell);
        CHECK_EQ(e.handle, h);
        CHECK_EQ(e.ready, both);
        expect_quiet(bell, MS(2));
        CHECK_EQ(bell_rearm(bell, h, NULL, BELL_NEVER), 0);
    }
    check_verified(bell);
    CHECK_EQ(next_event(bell).handle, h);
    CHECK_EQ(bell_modify(bell, h, BELL_WRITE, BELL_ONESHOT), 0);
    e = next_event(bell);
    CHECK_EQ(e.handle, h);
    CHECK_EQ(e.ready, BELL_WRITE);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);

    spec = always_spec(fd, BELL_LEVEL, to_poll());
    CHECK_OK(bell_register_fd(bell, &spec, &h));
    for (int i = 0; i < 5; i++) { /* again and again */
        e = next_event(bell);
        CHECK_EQ(e.handle, h);
        CHECK_EQ(e.ready, both);
    }
    CHECK_OK(bell_unregister(bell, h, 0));
    expect_quiet(bell, MS(2));

    if (has_edge()) {
        spec = always_spec(fd, BELL_EDGE, to_poll());
        CHECK_OK(bell_register_fd(bell, &spec, &h));
        e = next_event(bell);
        CHECK_EQ(e.handle, h);
        CHECK_EQ(e.ready, both);
        expect_quiet(bell, MS(2)); /* it never stops being ready, so there is no second edge */
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    }

    spec = always_spec(fd, BELL_ONESHOT, to_slot());
    CHECK_OK(bell_register_fd(bell, &spec, &h));
    CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
    CHECK_EQ(bell_slot_wait(bell, h, BELL_WRITE, now_ns() + PATIENCE, 0), BELL_WRITE);
    CHECK_EQ(bell_unregister(bell, h, BELL_SYNC), BELL_FIRED);

    bell_handle queue = make_queue(bell, NULL);
    spec = always_spec(fd, BELL_LEVEL, to_queue(queue));
    CHECK_OK(bell_register_fd(bell, &spec, &h));
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(bell_queue_wait(bell, queue, &e, 1, now_ns() + PATIENCE), 1);
        CHECK_EQ(e.handle, h);
        CHECK_EQ(e.ready, both);
    }
    CHECK_OK(bell_unregister(bell, h, 0));
    CHECK_EQ(bell_queue_drain(bell, queue, &e, 1), 0);
    CHECK_EQ(bell_queue_destroy(bell, queue, 0), BELL_FIRED);

    spec = always_spec(fd, BELL_ONESHOT, to_poll()); /* ready at once, so a deadline that has passed loses */
    spec.flags |= BELL_FD_DEADLINE | BELL_AUTO_RELEASE;
    spec.deadline_ns = now_ns() - 1;
    CHECK_OK(bell_register_fd(bell, &spec, &h));
    e = next_event(bell);
    CHECK_EQ(e.handle, h);
    CHECK_HAS(e.ready, both);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_E_STALE);
    check_clean(bell);
}

static void is_a_regular_file_always_ready_for_those_who_ask(void)
{
    int fd = make_file();
    always_ready_works(fd);
    CHECK_EQ(close(fd), 0);
}

static void is_dev_null_always_ready_for_those_who_ask(void)
{
    bell_t *bell = make_bell(1, 0);
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    int32_t r = try_watch(bell, fd, BELL_WRITE, BELL_ONESHOT, to_poll());
    if (has_feature(BELL_FEATURE_EPOLL))
        CHECK_EQ(r, -EPERM);
    else
        CHECK(r == -EPERM || r == 0); /* poll(2) takes it, and says that it is always ready */
    CHECK_EQ(bell_destroy(bell, 0), 0);
    always_ready_works(fd);
    CHECK_EQ(close(fd), 0);
}

/* It is ready to be read and written. An event without a ready bit would tell nothing. */
static void is_an_always_ready_file_silent_about_what_files_do_not_have(void)
{
    bell_t *bell = make_bell(1, 0);
    int fd = make_file();
    bell_fd_spec spec = always_spec(fd, BELL_ONESHOT, to_poll());
    bell_handle h;
    spec.interest = BELL_PRI | BELL_RDHUP;
    CHECK_OK(bell_register_fd(bell, &spec, &h));
    expect_quiet(bell, MS(2));
    CHECK_OK(bell_rearm(bell, h, NULL, BELL_NEVER));
    expect_quiet(bell, MS(2));
    CHECK_OK(bell_modify(bell, h, BELL_READ | BELL_PRI, BELL_ONESHOT));
    CHECK_EQ(next_event(bell).ready, BELL_READ);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

static void does_always_ready_change_nothing_for_what_can_be_polled(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    make_sockets(fds);
    bell_fd_spec spec = fd_spec(fds[0], BELL_READ, BELL_ONESHOT, to_poll());
    bell_handle h;
    spec.flags = BELL_FD_ALWAYS_READY;
    CHECK_OK(bell_register_fd(bell, &spec, &h));
    expect_quiet(bell, MS(5));
    put_byte(fds[1]);
    CHECK_EQ(next_event(bell).handle, h);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    close_pair(fds);
    check_clean(bell);
}

static void is_a_closed_file_that_was_always_ready_told(void)
{
    bell_t *bell = make_bell(1, 0);
    int fd = make_file();
    bell_fd_spec spec = always_spec(fd, BELL_ONESHOT, to_poll());
    bell_handle h;
    CHECK_OK(bell_register_fd(bell, &spec, &h));
    next_event(bell);
    CHECK_EQ(bell_rearm(bell, h, NULL, BELL_NEVER), 0);
    CHECK_EQ(bell_close_fd(bell, fd), 0);
    bell_event e = next_event(bell);
    CHECK_EQ(e.handle, h);
    CHECK_HAS(e.ready, BELL_CLOSED);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    check_clean(bell);
}

static void can_a_foreign_epoll_fd_be_watched(void)
{
    bell_t *bell = make_bell(1, 0);
    int epoll = epoll_create1(EPOLL_CLOEXEC), source = make_eventfd();
    struct epoll_event watched = {.events = EPOLLIN};
    CHECK(epoll >= 0);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, source, &watched) == 0);
    bell_handle h = watch(bell, epoll, BELL_READ, BELL_ONESHOT, to_poll());
    for (int i = 0; i < 10; i++) {
        expect_quiet(bell, MS(1));
        CHECK_EQ(eventfd_write(source, 1), 0);
        bell_event e = next_event(bell);
        CHECK_EQ(e.handle, h);
        CHECK_EQ(e.ready, BELL_READ);
        CHECK_EQ(drain_fd(source), 8);
        CHECK_EQ(bell_rearm(bell, h, NULL, BELL_NEVER), 0);
    }
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    CHECK_EQ(close(source), 0);
    CHECK_EQ(close(epoll), 0);
    check_clean(bell);
}

/* ---- very many fds ---- */

static void do_all_fds_that_the_process_may_have_work_at_once(void)
{
    enum { MOST = 15000, TURN = 4096 };
    static int fds[MOST];
    static bell_fd_spec specs[MOST];
    static bell_handle handles[MOST];
    static int32_t status[MOST];
    static unsigned char seen[MOST];
    static bell_event events[TURN];
    int n = (int)normal.rlim_cur - live_fds() - 16, most = slow() ? 1000 : MOST;
    bell_t *bell = make_bell(1, 0);
    n = n > most ? most : n;
    fprintf(stderr, "  %d fds\n", n);
    for (int i = 0; i < n; i++) {
        fds[i] = make_eventfd();
        specs[i] = fd_spec(fds[i], BELL_READ, BELL_ONESHOT, to_poll());
        specs[i].user_data = (uint64_t)i;
    }
    CHECK_EQ(bell_register_fd_batch(bell, specs, (uint32_t)n, handles, status), n);
    CHECK_EQ(stats_of(bell).fds, n);
    for (int round = 0; round < 3; round++) {
        memset(seen, 0, sizeof seen);
        for (int i = 0; i < n; i++)
            CHECK_EQ(eventfd_write(fds[i], 1), 0);
        for (int got = 0; got < n;) {
            int32_t found = CHECK_OK(bell_poll(bell, 0, events, TURN, SEC(30)));
            CHECK_GT(found, 0);
            for (int32_t k = 0; k < found; k++) {
                CHECK_LT(events[k].user_data, n);
                CHECK_EQ(events[k].ready, BELL_READ);
                CHECK_EQ(events[k].handle, handles[events[k].user_data]);
                CHECK_EQ(seen[events[k].user_data]++, 0);
            }
            got += found;
        }
        expect_quiet(bell, MS(1));
        for (int i = 0; i < n; i++)
            CHECK_EQ(drain_fd(fds[i]), 8);
        CHECK_EQ(bell_rearm_batch(bell, handles, (uint32_t)n, status), n);
    }
    check_verified(bell);
    CHECK_EQ(bell_unregister_batch(bell, handles, (uint32_t)n, BELL_SYNC, status), n);
    for (int i = 0; i < n; i++) {
        CHECK_EQ(status[i], BELL_CANCELLED);
        CHECK_EQ(close(fds[i]), 0);
    }
    check_clean(bell);
}

/* No event comes for it, so each wait is answered by a look. */
static void is_an_edge_of_a_regular_file_news_for_every_wait(void)
{
    if (!has_edge())
        return;
    bell_t *bell = make_bell(1, 0);
    int fd = make_file();
    bell_fd_spec spec = always_spec(fd, BELL_EDGE, to_slot());
    bell_handle h;
    CHECK_OK(bell_register_fd(bell, &spec, &h));
    for (int i = 0; i < 3; i++)
        CHECK_HAS(CHECK_OK(bell_slot_wait(bell, h, BELL_READ, now_ns() + SEC(5), 0)), BELL_READ);
    CHECK_OK(bell_unregister(bell, h, 0));
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

int main(void)
{
    CHECK(getrlimit(RLIMIT_NOFILE, &normal) == 0);
    normal.rlim_cur = normal.rlim_max > 20000 ? 20000 : normal.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &normal) == 0);
    RUN(does_create_fail_cleanly_without_fds);
    RUN(does_pollable_fd_fail_cleanly_without_fds);
    RUN(does_queue_fd_fail_cleanly_without_fds);
    RUN(do_timeouts_of_other_clocks_fail_cleanly_without_fds);
    RUN(is_verify_honest_when_it_cannot_look);
    RUN(does_traffic_go_on_without_fds);
    RUN(is_the_257th_manager_refused);
    RUN(is_a_batch_of_more_than_2_to_the_20_refused);
    RUN(does_create_fail_cleanly_without_threads);
    RUN(is_a_regular_file_refused);
    RUN(is_a_regular_file_always_ready_for_those_who_ask);
    RUN(is_dev_null_always_ready_for_those_who_ask);
    RUN(is_an_always_ready_file_silent_about_what_files_do_not_have);
    RUN(does_always_ready_change_nothing_for_what_can_be_polled);
    RUN(is_a_closed_file_that_was_always_ready_told);
    RUN(can_a_foreign_epoll_fd_be_watched);
    RUN(do_all_fds_that_the_process_may_have_work_at_once);
    RUN(is_an_edge_of_a_regular_file_news_for_every_wait);
    return 0;
}
