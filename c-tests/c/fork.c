/* fork: the child is refused until it says so, takes over what it wants, and never touches the parent's kernel set. */
#define _GNU_SOURCE
#include "every_call.h"
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

enum { TRAFFIC = 4 };

static uint32_t mode(void)
{
    return has_edge() ? BELL_EDGE : BELL_ONESHOT;
}

/* Runs `body` in a child and expects it to end well. */
static pid_t in_child(void (*body)(void *), void *argument)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(slow() ? 300 : 50); /* alarms are not inherited */
        body(argument);
        _exit(0);
    }
    return child;
}

static void child_ends_well(pid_t child)
{
    int status;
    pid_t ended;
    while ((ended = waitpid(child, &status, 0)) < 0 && errno == EINTR)
        ;
    CHECK_EQ(ended, child);
    CHECK_EQ(status, 0);
}

/* ---- traffic in the parent ---- */

typedef struct traffic {
    bell_t *bell;
    int fds[TRAFFIC][2];
    bell_handle handles[TRAFFIC];
    pthread_t threads[TRAFFIC];
    uint32_t rounds[TRAFFIC];
    uint32_t stop;
} traffic;

typedef struct lane {
    traffic *traffic;
    int number;
} lane;

static void *keep_busy(void *argument)
{
    lane *l = argument;
    traffic *t = l->traffic;
    int i = l->number;
    while (!load(&t->stop)) {
        char c;
        put_byte(t->fds[i][1]);
        while (read(t->fds[i][0], &c, 1) != 1) {
            CHECK(errno == EAGAIN);
            if (mode() == BELL_ONESHOT)
                CHECK_EQ(bell_rearm(t->bell, t->handles[i], NULL, BELL_NEVER), 0);
            CHECK_HAS(CHECK_OK(bell_slot_wait(t->bell, t->handles[i], BELL_READ, now_ns() + PATIENCE, 0)), BELL_READ);
        }
        /* Also some that come and go, so that a fork meets changes under way. */
        bell_handle timeout = set_timeout(t->bell, now_ns() + US(20), to_slot());
        if (t->rounds[i] % 4 == 0)
            CHECK_EQ(bell_slot_wait(t->bell, timeout, BELL_READ, now_ns() + PATIENCE, 0), BELL_TIMEOUT);
        CHECK_OK(bell_unregister(t->bell, timeout, 0));
        if (t->rounds[i] % 4 == 1) {
            bell_handle h = watch(t->bell, t->fds[i][1], BELL_READ, BELL_ONESHOT, to_slot());
            CHECK_EQ(bell_unregister(t->bell, h, BELL_SYNC), BELL_CANCELLED);
        }
        add(&t->rounds[i], 1);
    }
    return NULL;
}

static lane lanes[TRAFFIC];

static void start_traffic(traffic *t, bell_t *bell)
{
    memset(t, 0, sizeof *t);
    t->bell = bell;
    for (int i = 0; i < TRAFFIC; i++) {
        make_sockets(t->fds[i]);
        t->handles[i] = watch(bell, t->fds[i][0], BELL_READ, mode(), to_slot());
        lanes[i] = (lane){t, i};
    }
    for (int i = 0; i < TRAFFIC; i++)
        t->threads[i] = start_thread(keep_busy, &lanes[i]);
    for (int i = 0; i < TRAFFIC; i++)
        AWAIT(load(&t->rounds[i]) > 0);
}

/* Every lane makes another ten rounds. */
static void traffic_goes_on(traffic *t)
{
    uint32_t before[TRAFFIC];
    for (int i = 0; i < TRAFFIC; i++)
        before[i] = load(&t->rounds[i]);
    for (int i = 0; i < TRAFFIC; i++)
        AWAIT(load(&t->rounds[i]) > before[i] + (slow() ? 2 : 10));
}

static void stop_traffic(traffic *t)
{
    traffic_goes_on(t);
    store(&t->stop, 1);
    for (int i = 0; i < TRAFFIC; i++)
        join_thread(t->threads[i]);
    check_verified(t->bell);
    CHECK_EQ(stats_of(t->bell).fds, TRAFFIC);
    for (int i = 0; i < TRAFFIC; i++) {
        CHECK_OK(bell_unregister(t->bell, t->handles[i], 0));
        close_pair(t->fds[i]);
    }
}

/* ---- refused until told ---- */

typedef struct family {
    bell_t *bell;
    bell_handle handle, timeout, user, queue;
    int fd, fds_before;
    int prepared;
    uint32_t flags;
    int pollable;
    uint32_t *shared;
} family;

static void every_call_is_refused(void *argument)
{
    family *f = argument;
    for (int i = 0; i < CALLS_THAT_USE; i++) {
        int32_t r = every_call(i, f->bell, f->handle);
        if (r != BELL_E_FORKED)
            fprintf(stderr, "  call %d\n", i);
        CHECK_EQ(r, BELL_E_FORKED);
    }
    CHECK_EQ(bell_after_fork_parent(f->bell), BELL_E_FORKED);
    CHECK_EQ(bell_destroy(f->bell, f->flags), 0); /* the one that works; it delivers nothing */
    CHECK_EQ(bell_destroy(f->bell, f->flags), BELL_E_STALE);
    CHECK_EQ(bell_wake(f->bell, 0), BELL_E_STALE);
    bell_t *own = make_bell(1, 0); /* a new one is free of all that */
    set_timeout(own, 0, to_poll());
    CHECK_EQ(next_event(own).ready, BELL_TIMEOUT);
    CHECK_EQ(bell_destroy(own, 0), 0);
}

static void museum_060_is_every_call_refused_in_the_child_and_does_destroy_work(void)
{
    static traffic t;
    bell_t *bell = make_bell(1, 0);
    int wake = make_eventfd(), source = make_eventfd();
    bell_handle armed = watch(bell, source, BELL_READ, BELL_ONESHOT, to_eventfd(wake));
    bell_handle timeout = set_timeout(bell, now_ns() + SEC(1000), to_eventfd(wake));
    start_traffic(&t, bell);
    for (int i = 0; i < rounds(40); i++) {
        family f = {.bell = bell, .handle = armed, .flags = i % 2 ? BELL_FORCE : 0};
        child_ends_well(in_child(every_call_is_refused, &f));
        traffic_goes_on(&t);
    }
    CHECK_EQ(looks_ready(wake, POLLIN), 0); /* no child delivered CLOSED to it */
    CHECK_EQ(bell_unregister(bell, armed, BELL_SYNC), BELL_CANCELLED);
    CHECK_EQ(bell_unregister(bell, timeout, BELL_SYNC), BELL_CANCELLED);
    stop_traffic(&t);
    CHECK_EQ(close(wake), 0);
    CHECK_EQ(close(source), 0);
    check_clean(bell);
}

/* ---- taking over ---- */

static void use_manager(bell_t *bell)
{
    int fds[2];
    make_sockets(fds);
    bell_handle slot = watch(bell, fds[0], BELL_READ, mode(), to_slot());
    bell_handle polled = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
    for (int i = 0; i < 20; i++) {
        put_byte(fds[1]);
        CHECK_EQ(bell_slot_wait(bell, slot, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
        bell_event e = next_event(bell);
        CHECK_EQ(e.handle, polled);
        CHECK_EQ(e.ready, BELL_READ);
        CHECK_EQ(drain_fd(fds[0]), 1);
        CHECK_EQ(bell_rearm(bell, polled, NULL, BELL_NEVER), 0);
        if (mode() == BELL_ONESHOT)
            CHECK_EQ(bell_rearm(bell, slot, NULL, BELL_NEVER), 0);
    }
    int64_t deadline = now_ns() + US(500);
    bell_handle t = set_timeout(bell, deadline, to_poll());
    CHECK_EQ(next_event(bell).handle, t);
    CHECK_GE(now_ns(), deadline);
    CHECK_EQ(bell_unregister(bell, t, 0), BELL_FIRED);
    CHECK_OK(bell_unregister(bell, slot, BELL_SYNC));
    CHECK_OK(bell_unregister(bell, polled, 0));
    close_pair(fds);
}

static void take_over(void *argument)
{
    family *f = argument;
    CHECK_EQ(bell_after_fork_child(f->bell, 0), 0);
    CHECK_EQ(stats_of(f->bell).waiters, 0);
    /* What the parent registered is here: its handles are valid, its fd is watched by a kernel object of ours. */
    CHECK_GE(stats_of(f->bell).fds, TRAFFIC + 1);
    CHECK_EQ(eventfd_write(f->fd, 1), 0);
    bell_event e;
    do
        e = next_event(f->bell);
    while (e.handle == f->timeout); /* whichever is first */
    CHECK_EQ(e.handle, f->handle);
    CHECK_EQ(e.ready, BELL_READ);
    CHECK_EQ(drain_fd(f->fd), 8);
    CHECK_EQ(bell_rearm(f->bell, f->handle, NULL, BELL_NEVER), 0);
    CHECK_EQ(bell_update_timeout(f->bell, f->timeout, BELL_NEVER - 1) & ~BELL_FIRED, 0);
    CHECK_EQ(bell_rearm(f->bell, f->timeout, NULL, 0), 0);
    e = next_event(f->bell);
    CHECK_EQ(e.handle, f->timeout);
    CHECK_EQ(bell_post(f->bell, f->user, 6), 0);
    int32_t n;
    while ((n = bell_queue_drain(f->bell, f->queue, &e, 1)) == 0)
        CHECK_EQ(bell_poll(f->bell, 0, NULL, 0, SEC(10)), 0);
    CHECK_EQ(n, 1);
    CHECK_EQ(e.handle, f->user);
    CHECK_EQ(e.data, 6);
    use_manager(f->bell);
    check_verified(f->bell);
    CHECK_OK(bell_unregister(f->bell, f->handle, BELL_SYNC));
    CHECK_EQ(bell_destroy(f->bell, 0), 0);
}

static void does_a_prepared_child_take_everything_over(void)
{
    static traffic t;
    bell_t *bell = make_bell(1, 0);
    family f = {.bell = bell};
    start_traffic(&t, bell);
    f.timeout = set_timeout(bell, BELL_NEVER - 1, to_poll());
    f.queue = make_queue(bell, NULL);
    f.user = make_user(bell, to_queue(f.queue));
    for (int i = 0; i < rounds(200); i++) {
        f.fd = make_eventfd(); /* one description each, so that the child's byte is not the parent's */
        f.handle = watch(bell, f.fd, BELL_READ, BELL_ONESHOT, to_poll());
        CHECK_EQ(bell_before_fork(bell), 0);
        pid_t child = in_child(take_over, &f);
        CHECK_EQ(bell_after_fork_parent(bell), 0);
        if (i % 10 == 0)
            traffic_goes_on(&t);
        child_ends_well(child);
        drain_fd(f.fd);
        bell_unregister(bell, f.handle, BELL_SYNC);
        CHECK_EQ(close(f.fd), 0);
    }
    stop_traffic(&t);
    CHECK_EQ(bell_unregister(bell, f.timeout, 0), BELL_CANCELLED);
    CHECK_OK(bell_unregister(bell, f.user, 0));
    CHECK_EQ(bell_queue_destroy(bell, f.queue, 0), BELL_FIRED);
    check_clean(bell);
}

/* A shard's clocks that the kernel does not sleep by: the child sets its own alarms before it sleeps. */
typedef struct other_clocks {
    bell_t *bell;
    bell_handle timeouts[2];
} other_clocks;

static void sleeps_by_other_clocks(void *argument)
{
    other_clocks *o = argument;
    uint32_t fired = 0;
    CHECK_EQ(bell_after_fork_child(o->bell, 0), 0);
    while (fired != 3) {
        bell_event e;
        CHECK_EQ(bell_poll(o->bell, 0, &e, 1, PATIENCE), 1); /* by the alarm, not when its patience ends */
        CHECK_EQ(e.ready, BELL_TIMEOUT);
        fired |= e.handle == o->timeouts[0] ? 1 : 2;
    }
}

static void does_the_child_sleep_by_every_clock(void)
{
    bell_t *bell = make_bell(1, 0);
    other_clocks o = {.bell = bell};
    for (int i = 0; i < 2; i++) {
        struct timespec now;
        bell_timeout_spec spec = timeout_spec(0, to_poll());
        spec.clock = i ? BELL_CLOCK_REAL : BELL_CLOCK_BOOT;
        CHECK_EQ(clock_gettime(i ? CLOCK_REALTIME : CLOCK_BOOTTIME, &now), 0);
        spec.deadline_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec + SEC(1);
        CHECK_EQ(bell_register_timeout(bell, &spec, &o.timeouts[i]), 0);
    }
    CHECK_EQ(bell_before_fork(bell), 0);
    pid_t child = in_child(sleeps_by_other_clocks, &o);
    CHECK_EQ(bell_after_fork_parent(bell), 0);
    child_ends_well(child);
    for (int i = 0; i < 2; i++)
        CHECK_OK(bell_unregister(bell, o.timeouts[i], 0));
    check_clean(bell);
}

static void take_over_or_reset(void *argument)
{
    family *f = argument;
    int32_t r = bell_after_fork_child(f->bell, 0);
    if (r == BELL_E_BUSY) {
        CHECK_EQ(bell_stats(f->bell, 0, &(bell_counters){.size = sizeof(bell_counters)}), BELL_E_FORKED);
        CHECK_EQ(bell_after_fork_child(f->bell, BELL_FORK_RESET), 0);
        CHECK_EQ(stats_of(f->bell).fds, 0);
        CHECK_EQ(bell_unregister(f->bell, f->handle, 0), BELL_E_STALE);
    } else {
        CHECK_EQ(r, 0);
        CHECK_GE(stats_of(f->bell).fds, TRAFFIC);
        CHECK_EQ(bell_rearm(f->bell, f->handle, NULL, BELL_NEVER), 0);
        add(f->shared, 1);
    }
    use_manager(f->bell);
    check_verified(f->bell);
    CHECK_EQ(bell_destroy(f->bell, 0), 0);
}

static void reset_at_once(void *argument)
{
    family *f = argument;
    bell_counters c;
    CHECK_EQ(bell_after_fork_child(f->bell, BELL_FORK_RESET), 0);
    c = stats_of(f->bell);
    CHECK_EQ(c.fds, 0);
    CHECK_EQ(c.timeouts, 0);
    CHECK_EQ(c.users, 0);
    CHECK_EQ(c.queues, 0);
    CHECK_EQ(c.waiters, 0);
    CHECK_EQ(bell_unregister(f->bell, f->handle, 0), BELL_E_STALE);
    CHECK_EQ(bell_unregister(f->bell, f->timeout, 0), BELL_E_STALE);
    CHECK_EQ(bell_after_fork_child(f->bell, BELL_FORK_RESET), -EINVAL); /* once is enough */
    expect_quiet(f->bell, MS(2));
    use_manager(f->bell);
    check_clean(f->bell);
}

static void can_an_unprepared_child_take_over_or_reset(void)
{
    static traffic t;
    bell_t *bell = make_bell(1, 0);
    uint32_t *taken = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int source = make_eventfd(), wake = make_eventfd();
    CHECK(taken != MAP_FAILED);
    family f = {.bell = bell, .shared = taken};
    f.handle = watch(bell, source, BELL_READ, BELL_ONESHOT, to_eventfd(wake));
    f.timeout = set_timeout(bell, BELL_NEVER - 1, to_eventfd(wake));
    start_traffic(&t, bell);
    for (int i = 0; i < rounds(150); i++) {
        child_ends_well(in_child(i % 3 ? take_over_or_reset : reset_at_once, &f));
        if (i % 10 == 0)
            traffic_goes_on(&t);
    }
    fprintf(stderr, "  %u of %d could take over\n", load(taken), rounds(150) * 2 / 3);
    CHECK_EQ(bell_unregister(bell, f.timeout, BELL_SYNC), BELL_CANCELLED);
    CHECK_EQ(bell_unregister(bell, f.handle, BELL_SYNC), BELL_CANCELLED);
    stop_traffic(&t);
    /* A child's destroy after it took over delivers CLOSED, also to fds that it shares; the reset delivers nothing. */
    CHECK_EQ(munmap(taken, 4096), 0);
    CHECK_EQ(close(source), 0);
    CHECK_EQ(close(wake), 0);
    check_clean(bell);
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

typedef struct all_kinds {
    bell_t *bell;
    int fd, wake;
    bell_handle handles[4];
} all_kinds;

static void make_all_kinds(all_kinds *k)
{
    k->handles[0] = watch(k->bell, k->fd, BELL_READ, BELL_ONESHOT, to_eventfd(k->wake));
    k->handles[1] = set_timeout(k->bell, BELL_NEVER - 1, to_eventfd(k->wake));
    k->handles[2] = make_user(k->bell, to_eventfd(k->wake));
    CHECK_OK(bell_queue_create(k->bell, 0, NULL, &k->handles[3]));
}

/* Resets again and again, each time in a child of the last: all handles of all generations differ. */
static void resets_and_makes_its_own(void *argument)
{
    all_kinds mine = *(all_kinds *)argument;
    static bell_handle known[64];
    static int n, depth;
    for (int i = 0; i < 4; i++)
        known[n++] = mine.handles[i];
    CHECK_EQ(bell_after_fork_child(mine.bell, BELL_FORK_RESET), 0);
    make_all_kinds(&mine);
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < 4; j++)
            CHECK(known[i] != mine.handles[j]);
        CHECK_EQ(known[i] >> 58 == 3 ? bell_queue_destroy(mine.bell, known[i], 0) : bell_unregister(mine.bell, known[i], 0),
                 BELL_E_STALE);
        if (known[i] >> 58 == 4)
            CHECK_EQ(bell_post(mine.bell, known[i], 1), BELL_E_STALE);
    }
    check_verified(mine.bell);
    CHECK_EQ(stats_of(mine.bell).fds, 1);
    CHECK_EQ(bell_post(mine.bell, mine.handles[2], 1), 0);
    CHECK_EQ(eventfd_write(mine.fd, 1), 0);
    turn(mine.bell);
    CHECK_EQ(stats_of(mine.bell).events, 2);
    if (depth++ < 3)
        child_ends_well(in_child(resets_and_makes_its_own, &mine));
    CHECK_EQ(bell_destroy(mine.bell, 0), 0);
}

static void does_no_handle_of_the_parent_name_anything_after_a_reset(void)
{
    all_kinds k = {.bell = make_bell(1, 0), .fd = make_eventfd(), .wake = make_eventfd()};
    make_all_kinds(&k);
    child_ends_well(in_child(resets_and_makes_its_own, &k));
    for (int i = 0; i < 3; i++)
        CHECK_EQ(bell_unregister(k.bell, k.handles[i], BELL_SYNC), BELL_CANCELLED);
    CHECK_OK(bell_queue_destroy(k.bell, k.handles[3], BELL_SYNC));
    CHECK_EQ(close(k.fd), 0);
    CHECK_EQ(close(k.wake), 0);
    check_clean(k.bell);
}

static void is_short_of_fds_until_it_is_not(void *argument)
{
    all_kinds *k = argument;
    struct rlimit all, few;
    int failures = 0;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &all), 0);
    for (few = all, few.rlim_cur = 0;; few.rlim_cur++) {
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
        int32_t r = bell_after_fork_child(k->bell, 0);
        if (r == 0)
            break;
        CHECK_EQ(r, -EMFILE);
        failures++;
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &all), 0);
        CHECK_EQ(count_tasks(), 1);
        CHECK_EQ(bell_unregister(k->bell, k->handles[0], 0), BELL_E_FORKED);
        CHECK_EQ(bell_after_fork_child(k->bell, 2), -EINVAL);
    }
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &all), 0);
    CHECK_GE(failures, 5);
    check_verified(k->bell);
    CHECK_EQ(stats_of(k->bell).fds, 1);
    CHECK_EQ(eventfd_write(k->fd, 1), 0);
    if (count_tasks() == 1)
        turn(k->bell);
    AWAIT(stats_of(k->bell).events == 1); /* the eventfd that rings is the parent's too */
    CHECK_EQ(bell_unregister(k->bell, k->handles[0], BELL_SYNC), BELL_FIRED);
    for (int i = 1; i < 3; i++)
        CHECK_EQ(bell_unregister(k->bell, k->handles[i], BELL_SYNC), BELL_CANCELLED);
    CHECK_EQ(bell_destroy(k->bell, 0), 0);
}

static void may_taking_over_be_repeated_when_it_has_failed(void)
{
    for (uint32_t threads = 0; threads < 3; threads += 2) {
        all_kinds k = {.bell = make_bell(2, threads), .fd = make_eventfd(), .wake = make_eventfd()};
        await_threads(k.bell, threads);
        make_all_kinds(&k);
        /* Deadlines of other clocks need fds of their own in the child. */
        bell_timeout_spec spec = {.size = sizeof spec, .deadline_ns = BELL_NEVER - 1, .target = to_eventfd(k.wake)};
        bell_handle others[2];
        for (uint32_t i = 0; i < 2; i++) {
            spec.clock = i ? BELL_CLOCK_REAL : BELL_CLOCK_BOOT;
            spec.shard = i;
            CHECK_OK(bell_register_timeout(k.bell, &spec, &others[i]));
        }
        CHECK_EQ(bell_before_fork(k.bell), 0);
        pid_t child = in_child(is_short_of_fds_until_it_is_not, &k);
        CHECK_EQ(bell_after_fork_parent(k.bell), 0);
        child_ends_well(child);
        for (int i = 0; i < 3; i++)
            CHECK_OK(bell_unregister(k.bell, k.handles[i], BELL_SYNC));
        for (int i = 0; i < 2; i++)
            CHECK_OK(bell_unregister(k.bell, others[i], BELL_SYNC));
        CHECK_OK(bell_queue_destroy(k.bell, k.handles[3], BELL_SYNC));
        CHECK_EQ(close(k.fd), 0);
        CHECK_EQ(close(k.wake), 0);
        check_clean(k.bell);
    }
}

static void must_an_idle_child_be_able_to_take_over(void)
{
    /* Nobody was inside: then there is no reason for BUSY, with or without preparation. */
    for (int i = 0; i < rounds(30); i++) {
        bell_t *bell = make_bell(2, 0);
        int source = make_eventfd();
        family f = {.bell = bell, .fd = source};
        f.handle = watch(bell, source, BELL_READ, BELL_ONESHOT, to_poll());
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(50);
            CHECK_EQ(bell_after_fork_child(bell, 0), 0);
            CHECK_EQ(eventfd_write(source, 1), 0);
            CHECK_EQ(next_event(bell).handle, f.handle);
            use_manager(bell);
            CHECK_EQ(bell_unregister(bell, f.handle, 0), BELL_FIRED);
            check_clean(bell);
            _exit(0);
        }
        child_ends_well(child);
        CHECK_EQ(next_event(bell).handle, f.handle); /* the byte is shared, and the parent still watches */
        CHECK_EQ(bell_unregister(bell, f.handle, 0), BELL_FIRED);
        CHECK_EQ(close(source), 0);
        check_clean(bell);
    }
}

/* What cannot be taken over is told, however much it is, and the rest is taken over. */
static void does_the_child_take_over_the_rest_when_many_fds_are_closed(void)
{
    enum { GONE = 200 };
    static uint32_t words[GONE];
    int fds[GONE], source = make_eventfd();
    bell_t *bell = make_bell(1, 0);
    memset(words, 0, sizeof words);
    for (int i = 0; i < GONE; i++) {
        fds[i] = make_eventfd();
        watch(bell, fds[i], BELL_READ, BELL_ONESHOT, to_futex(&words[i]));
    }
    bell_handle h = watch(bell, source, BELL_READ, BELL_ONESHOT, to_poll());
    for (int i = 0; i < GONE; i++)
        CHECK_EQ(close(fds[i]), 0); /* behind the library's back */
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(50);
        CHECK_EQ(bell_after_fork_child(bell, 0), 0);
        CHECK_EQ(eventfd_write(source, 1), 0);
        CHECK_EQ(next_event(bell).handle, h);
        turn(bell);
        for (int i = 0; i < GONE; i++)
            CHECK_HAS(load(&words[i]), BELL_CLOSED);
        CHECK_EQ(bell_destroy(bell, 0), 0);
        _exit(0);
    }
    child_ends_well(child);
    CHECK_EQ(bell_destroy(bell, 0), 0);
    CHECK_EQ(close(source), 0);
}

/* ---- a wake pending at the fork ---- */

static void is_calm_after_fork(void *argument)
{
    family *f = argument;
    CHECK_EQ(bell_after_fork_child(f->bell, 0), 0);
    CHECK_LE(expect_quiet(f->bell, MS(50)), 5);
    CHECK_EQ(bell_wake(f->bell, 0), 0);
    CHECK_EQ(bell_poll(f->bell, 0, NULL, 0, BELL_NEVER), 0);
    CHECK_EQ(bell_destroy(f->bell, 0), 0);
}

static void museum_062_does_a_wake_that_was_pending_not_spin_the_child(void)
{
    for (int i = 0; i < rounds(20); i++) {
        family f = {.bell = make_bell(1, 0)};
        for (int k = 0; k <= i % 3; k++)
            CHECK_EQ(bell_wake(f.bell, 0), 0);
        CHECK_EQ(bell_before_fork(f.bell), 0);
        pid_t child = in_child(is_calm_after_fork, &f);
        CHECK_EQ(bell_after_fork_parent(f.bell), 0);
        child_ends_well(child);
        CHECK_EQ(bell_poll(f.bell, 0, NULL, 0, BELL_NEVER), 0); /* the parent's wake is still there */
        check_clean(f.bell);
    }
}

static void does_a_post_that_was_pending_reach_the_parent(void)
{
    family f = {.bell = make_bell(1, 0)};
    bell_handle user = make_user(f.bell, to_poll());
    CHECK_EQ(bell_post(f.bell, user, 12), 0);
    CHECK_EQ(bell_before_fork(f.bell), 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(50);
        CHECK_EQ(bell_after_fork_child(f.bell, 0), 0);
        CHECK_EQ(bell_post(f.bell, user, 1), 0);
        bell_event e = next_event(f.bell);
        CHECK_EQ(e.handle, user);
        CHECK_HAS(e.data, 1);
        expect_quiet(f.bell, MS(5));
        CHECK_EQ(bell_destroy(f.bell, 0), 0);
        _exit(0);
    }
    CHECK_EQ(bell_after_fork_parent(f.bell), 0);
    child_ends_well(child);
    bell_event e = next_event(f.bell);
    CHECK_EQ(e.handle, user);
    CHECK_EQ(e.data, 12);
    CHECK_OK(bell_unregister(f.bell, user, 0));
    check_clean(f.bell);
}

/* ---- library threads ---- */

static void has_threads_again(void *argument)
{
    family *f = argument;
    uint32_t word = 0;
    CHECK_EQ(count_tasks(), 1);
    CHECK_EQ(bell_after_fork_child(f->bell, 0), 0);
    CHECK_EQ(count_tasks(), 3);
    int64_t deadline = now_ns() + MS(1);
    bell_handle h = set_timeout(f->bell, deadline, to_futex(&word));
    AWAIT(load(&word));
    CHECK_GE(now_ns(), deadline);
    CHECK_EQ(bell_unregister(f->bell, h, BELL_SYNC), BELL_FIRED);
    CHECK_EQ(eventfd_write(f->fd, 1), 0);
    CHECK_EQ(bell_slot_wait(f->bell, f->handle, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
    CHECK_EQ(bell_destroy(f->bell, 0), 0);
    AWAIT(count_tasks() == 1);
}

static void do_library_threads_start_again_in_the_child(void)
{
    static traffic t;
    family f = {.bell = make_bell(0, 2)};
    await_threads(f.bell, 2);
    start_traffic(&t, f.bell);
    for (int i = 0; i < rounds(50); i++) {
        f.fd = make_eventfd();
        bell_fd_spec spec = fd_spec(f.fd, BELL_READ, BELL_ONESHOT, to_slot());
        spec.shard = (uint32_t)i % 2;
        CHECK_OK(bell_register_fd(f.bell, &spec, &f.handle));
        CHECK_EQ(bell_before_fork(f.bell), 0);
        pid_t child = in_child(has_threads_again, &f);
        CHECK_EQ(bell_after_fork_parent(f.bell), 0);
        child_ends_well(child);
        CHECK_EQ(bell_slot_wait(f.bell, f.handle, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
        CHECK_EQ(bell_unregister(f.bell, f.handle, BELL_SYNC), BELL_FIRED);
        CHECK_EQ(close(f.fd), 0);
    }
    stop_traffic(&t);
    check_clean(f.bell);
}

static void destroys_threadless(void *argument)
{
    family *f = argument;
    CHECK_EQ(bell_poll(f->bell, 0, NULL, 0, 0), BELL_E_FORKED);
    CHECK_EQ(bell_destroy(f->bell, 0), 0); /* must not wait for threads that are not here */
    CHECK_EQ(count_tasks(), 1);
}

static void does_destroy_in_the_child_not_wait_for_the_parents_threads(void)
{
    for (int i = 0; i < rounds(30); i++) {
        family f = {.bell = make_bell(0, 3)};
        await_threads(f.bell, 3);
        child_ends_well(in_child(destroys_threadless, &f));
        bell_handle h = set_timeout(f.bell, now_ns() + US(100), to_slot());
        CHECK_EQ(bell_slot_wait(f.bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_TIMEOUT);
        CHECK_EQ(bell_unregister(f.bell, h, 0), BELL_FIRED);
        check_clean(f.bell);
    }
}

/* ---- forked in the middle of bell_post and bell_wake ---- */

typedef struct poster {
    bell_t *bell;
    bell_handle user;
    uint32_t stop;
    uint32_t posts;
} poster;

static void *post_all_the_time(void *argument)
{
    poster *p = argument;
    while (!load(&p->stop)) {
        CHECK_EQ(bell_post(p->bell, p->user, 1), 0);
        CHECK_EQ(bell_wake(p->bell, 0), 0);
        add(&p->posts, 1);
    }
    return NULL;
}

static void takes_over_posts(void *argument)
{
    poster *p = argument;
    int32_t r = bell_after_fork_child(p->bell, 0);
    if (r == BELL_E_BUSY)
        r = bell_after_fork_child(p->bell, BELL_FORK_RESET);
    else { /* whatever a thread of the parent was about to do: a post of ours arrives */
        CHECK_EQ(bell_slot_consume(p->bell, p->user, BELL_READ) & ~BELL_USER, 0);
        for (int i = 0; i < 3; i++) {
            CHECK_EQ(bell_post(p->bell, p->user, 1), 0);
            CHECK_EQ(bell_slot_wait(p->bell, p->user, BELL_READ, now_ns() + SEC(20), 0), BELL_USER);
        }
    }
    CHECK_EQ(r, 0);
    use_manager(p->bell);
    CHECK_EQ(bell_destroy(p->bell, 0), 0);
}

static void destroys_posts(void *argument)
{
    poster *p = argument;
    CHECK_EQ(bell_post(p->bell, p->user, 1), BELL_E_FORKED);
    CHECK_EQ(bell_destroy(p->bell, 0), 0);
}

static void may_the_fork_come_in_the_middle_of_a_post(void)
{
    poster p = {.bell = make_bell(1, 0)};
    pthread_t threads[TRAFFIC];
    p.user = make_user(p.bell, to_slot());
    for (int i = 0; i < TRAFFIC; i++)
        threads[i] = start_thread(post_all_the_time, &p);
    AWAIT(load(&p.posts) > 100);
    for (int i = 0; i < rounds(300); i++) {
        int prepared = i % 3 == 2; /* posting is no change that is held off: it may be met half-way all the same */
        if (prepared)
            CHECK_EQ(bell_before_fork(p.bell), 0);
        pid_t child = in_child(i % 3 ? takes_over_posts : destroys_posts, &p);
        if (prepared)
            CHECK_EQ(bell_after_fork_parent(p.bell), 0);
        child_ends_well(child);
        CHECK_EQ(bell_slot_wait(p.bell, p.user, BELL_READ, now_ns() + PATIENCE, 0), BELL_USER);
    }
    store(&p.stop, 1);
    for (int i = 0; i < TRAFFIC; i++)
        join_thread(threads[i]);
    CHECK_OK(bell_unregister(p.bell, p.user, BELL_SYNC));
    check_clean(p.bell);
}

/* ---- the pollable fd ---- */

static void asks_for_its_own_fd(void *argument)
{
    family *f = argument;
    CHECK_EQ(bell_after_fork_child(f->bell, 0), 0);
    int fd = CHECK_OK(bell_pollable_fd(f->bell, 0));
    CHECK_EQ(looks_ready(fd, POLLIN), 0);
    CHECK_EQ(bell_wake(f->bell, 0), 0);
    CHECK_EQ(looks_ready(fd, POLLIN), POLLIN);
    CHECK_EQ(bell_poll(f->bell, 0, NULL, 0, 0), 0);
    CHECK_EQ(looks_ready(fd, POLLIN), 0);
    int64_t deadline = now_ns() + MS(2);
    bell_handle h = set_timeout(f->bell, deadline, to_poll());
    struct pollfd p = {.fd = fd, .events = POLLIN};
    CHECK_EQ(poll(&p, 1, 60000), 1);
    CHECK_GE(now_ns(), deadline);
    CHECK_EQ(next_event(f->bell).handle, h);
    CHECK_EQ(bell_destroy(f->bell, 0), 0);
    CHECK_LE(live_fds(), f->fds_before); /* nothing of the parent's is left (valgrind closes some of its own) */
}

static void is_the_pollable_fd_asked_for_again(void)
{
    if (!has_feature(BELL_FEATURE_POLLABLE))
        return;
    int fds = live_fds();
    family f = {.bell = make_bell(1, 0), .fds_before = fds};
    f.pollable = CHECK_OK(bell_pollable_fd(f.bell, 0));
    for (int i = 0; i < rounds(30); i++) {
        CHECK_EQ(bell_before_fork(f.bell), 0);
        pid_t child = in_child(asks_for_its_own_fd, &f);
        CHECK_EQ(bell_after_fork_parent(f.bell), 0);
        child_ends_well(child);
        CHECK_EQ(bell_pollable_fd(f.bell, 0), f.pollable);
        CHECK_EQ(looks_ready(f.pollable, POLLIN), 0); /* the child's wakes and timeouts are not ours */
        bell_handle h = set_timeout(f.bell, now_ns() + MS(1), to_poll());
        struct pollfd p = {.fd = f.pollable, .events = POLLIN};
        CHECK_EQ(poll(&p, 1, 60000), 1);
        CHECK_EQ(next_event(f.bell).handle, h);
        CHECK_EQ(bell_unregister(f.bell, h, 0), BELL_FIRED);
    }
    check_clean(f.bell);
}

/* ---- fds ---- */

static void counts_its_fds(void *argument)
{
    family *f = argument;
    CHECK_EQ(bell_after_fork_child(f->bell, 0), 0);
    use_manager(f->bell);
    CHECK_EQ(bell_destroy(f->bell, 0), 0);
    CHECK_LE(live_fds(), f->fds_before); /* valgrind closes some of its own */
}

static void destroys_and_counts(void *argument)
{
    family *f = argument;
    CHECK_EQ(bell_destroy(f->bell, 0), 0);
    CHECK_LE(live_fds(), f->fds_before); /* valgrind closes some of its own */
}

static void does_the_child_leak_no_fd(void)
{
    int fds = live_fds();
    family f = {.bell = make_bell(3, 0), .fds_before = fds};
    if (has_feature(BELL_FEATURE_CLOCKS))
        for (uint32_t clock = 0; clock < 3; clock++) {
            bell_timeout_spec spec = timeout_spec(bell_now(clock) + SEC(1000), to_slot());
            bell_handle h;
            spec.clock = clock;
            CHECK_OK(bell_register_timeout(f.bell, &spec, &h));
        }
    CHECK_OK(bell_queue_fd(f.bell, make_queue(f.bell, NULL)));
    child_ends_well(in_child(counts_its_fds, &f));
    child_ends_well(in_child(destroys_and_counts, &f));
    CHECK_EQ(bell_destroy(f.bell, 0), 0);
}

/* ---- an alarm that another thread makes in the middle of fork(2), which copies the fds before the memory ---- */

enum { SHARDS = 32, STRANGERS = 100 };

typedef struct alarmist {
    bell_t *bell;
    uint32_t set;
    int adopts;
} alarmist;

static void *sets_first_alarms(void *argument)
{
    alarmist *a = argument;
    for (uint32_t shard = 0; shard < SHARDS; shard++)
        for (int i = 0; i < 2; i++) {
            uint32_t clock = i ? BELL_CLOCK_BOOT : BELL_CLOCK_REAL;
            bell_timeout_spec spec = timeout_spec(bell_now(clock) + SEC(1000), to_slot());
            bell_handle h;
            spec.clock = clock;
            spec.shard = shard;
            CHECK_OK(bell_register_timeout(a->bell, &spec, &h));
            add(&a->set, 1);
        }
    return NULL;
}

/* The manager ends in the child, and what the child has opened is still open. */
static void ends_without(alarmist *a, const int *strangers, int n)
{
    if (a->adopts) {
        int32_t r = bell_after_fork_child(a->bell, 0);
        if (r == BELL_E_BUSY)
            r = bell_after_fork_child(a->bell, BELL_FORK_RESET);
        CHECK_EQ(r, 0);
        use_manager(a->bell);
    }
    CHECK_EQ(bell_destroy(a->bell, 0), 0);
    for (int i = 0; i < n; i++)
        CHECK_EQ(close(strangers[i]), 0);
}

static int opens_something(int which)
{
    struct itimerspec often = {.it_value = {.tv_sec = 1000}, .it_interval = {.tv_sec = 1000}};
    int fd = which == 0 ? make_eventfd() : timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    CHECK(fd >= 0);
    if (which == 2)
        CHECK_EQ(timerfd_settime(fd, 0, &often, NULL), 0);
    return fd;
}

static void opens_files_where_the_alarms_would_be(void *argument)
{
    int fds[STRANGERS];
    for (int i = 0; i < STRANGERS; i++)
        fds[i] = opens_something(i % 3);
    ends_without(argument, fds, STRANGERS);
}

static void is_an_alarm_made_during_fork_not_closed_in_place_of_another_file(void)
{
    if (!has_feature(BELL_FEATURE_CLOCKS))
        return;
    for (int i = 0; i < rounds(100); i++) {
        alarmist a = {.bell = make_bell(SHARDS, 0), .adopts = i % 2};
        pthread_t thread = start_thread(sets_first_alarms, &a);
        while (load(&a.set) < (uint32_t)i % SHARDS)
            ;
        pid_t child = in_child(opens_files_where_the_alarms_would_be, &a);
        join_thread(thread);
        child_ends_well(child);
        CHECK_EQ(bell_destroy(a.bell, 0), 0);
    }
}

static void has_other_files_where_the_alarms_would_be(void *argument)
{
    int fds[STRANGERS], n = 0;
    struct itimerspec t;
    for (int fd = 0; fd < 1024; fd++)
        if (timerfd_gettime(fd, &t) == 0) {
            CHECK_EQ(close(fd), 0);
            CHECK_EQ(opens_something(n % 3), fd);
            fds[n++] = fd;
        }
    CHECK_EQ(n, 2 * SHARDS);
    ends_without(argument, fds, n);
}

/* As above, by hand and each time: to the child it looks the same. */
static void is_an_alarm_that_the_child_does_not_have_not_closed(void)
{
    if (!has_feature(BELL_FEATURE_CLOCKS))
        return;
    alarmist a = {.bell = make_bell(SHARDS, 0)};
    sets_first_alarms(&a);
    for (a.adopts = 0; a.adopts < 2; a.adopts++)
        child_ends_well(in_child(has_other_files_where_the_alarms_would_be, &a));
    CHECK_EQ(bell_destroy(a.bell, 0), 0);
}

static void is_every_fd_of_the_library_closed_by_exec(void)
{
    char before[1024] = {0};
    for (int fd = 0; fd < 1024; fd++)
        before[fd] = fcntl(fd, F_GETFD) >= 0;
    bell_t *bell = make_bell(3, 0), *threaded = make_bell(0, 2);
    bell_handle queue = make_queue(bell, NULL);
    CHECK_OK(bell_queue_fd(bell, queue));
    if (has_feature(BELL_FEATURE_POLLABLE))
        CHECK_OK(bell_pollable_fd(bell, 1));
    if (has_feature(BELL_FEATURE_CLOCKS))
        for (uint32_t clock = 0; clock < 3; clock++) {
            bell_timeout_spec spec = timeout_spec(bell_now(clock) + SEC(1000), to_slot());
            bell_handle h;
            spec.clock = clock;
            CHECK_OK(bell_register_timeout(bell, &spec, &h));
            CHECK_OK(bell_register_timeout(threaded, &spec, &h));
        }
    int found = 0;
    for (int fd = 0; fd < 1024; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (flags < 0 || before[fd])
            continue;
        found++;
        CHECK(flags & FD_CLOEXEC);
    }
    fprintf(stderr, "  %d fds of the library\n", found);
    CHECK_GT(found, 0);
    CHECK_EQ(bell_destroy(bell, 0), 0);
    CHECK_EQ(bell_destroy(threaded, 0), 0);
}

/* ---- pairing ---- */

static void are_the_halves_told_when_they_do_not_pair(void)
{
    bell_t *bell = make_bell(1, 0);
    CHECK_EQ(bell_after_fork_parent(bell), -EINVAL);
    CHECK_EQ(bell_after_fork_child(bell, 0), -EINVAL); /* this is no child */
    CHECK_EQ(bell_after_fork_child(bell, BELL_FORK_RESET), -EINVAL);
    CHECK_EQ(bell_after_fork_child(bell, 2), -EINVAL);
    CHECK_EQ(bell_before_fork(bell), 0);
    CHECK_EQ(bell_after_fork_child(bell, 0), -EINVAL);
    CHECK_EQ(bell_after_fork_parent(bell), 0); /* the fork failed, say */
    CHECK_EQ(bell_after_fork_parent(bell), -EINVAL);
    use_manager(bell);
    check_clean(bell);
    CHECK_EQ(bell_before_fork(bell), BELL_E_STALE);
    CHECK_EQ(bell_after_fork_parent(bell), BELL_E_STALE);
    CHECK_EQ(bell_after_fork_child(bell, 0), BELL_E_STALE);
}

static void has_grandchildren(void *argument)
{
    family *f = argument;
    CHECK_EQ(bell_after_fork_child(f->bell, 4), -EINVAL);
    CHECK_EQ(bell_after_fork_child(f->bell, 0), 0);
    CHECK_EQ(bell_after_fork_child(f->bell, 0), -EINVAL); /* a child no more */
    CHECK_EQ(bell_after_fork_parent(f->bell), -EINVAL);
    use_manager(f->bell);
    pid_t grandchild = fork();
    CHECK(grandchild >= 0);
    if (grandchild == 0) {
        alarm(50);
        CHECK_EQ(bell_wake(f->bell, 0), BELL_E_FORKED);
        CHECK_EQ(bell_after_fork_child(f->bell, 0), 0);
        use_manager(f->bell);
        CHECK_EQ(bell_destroy(f->bell, 0), 0);
        _exit(0);
    }
    child_ends_well(grandchild);
    use_manager(f->bell);
    CHECK_EQ(bell_destroy(f->bell, 0), 0);
}

static void may_a_child_fork_again(void)
{
    for (int i = 0; i < rounds(20); i++) {
        family f = {.bell = make_bell(1, 0)};
        if (i % 2)
            CHECK_EQ(bell_before_fork(f.bell), 0);
        pid_t child = in_child(has_grandchildren, &f);
        if (i % 2)
            CHECK_EQ(bell_after_fork_parent(f.bell), 0);
        child_ends_well(child);
        use_manager(f.bell);
        check_clean(f.bell);
    }
}

static void *sits_inside(void *argument)
{
    bell_event e;
    int32_t r;
    do
        r = bell_poll(argument, 0, &e, 1, BELL_NEVER);
    while (r == BELL_E_BUSY); /* the other thread is looking whether this one is inside */
    CHECK_EQ(r, BELL_E_CLOSED);
    return NULL;
}

/* It once forgot who was inside, and bell_destroy waited for ever. */
static void the_child_half_in_a_parent_is_refused_and_touches_nothing(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_event e;
    pthread_t thread = start_thread(sits_inside, bell);
    AWAIT(bell_poll(bell, 0, &e, 1, 0) == BELL_E_BUSY);
    CHECK_EQ(bell_after_fork_child(bell, 0), -EINVAL);
    CHECK_EQ(bell_after_fork_child(bell, BELL_FORK_RESET), -EINVAL);
    CHECK_EQ(bell_destroy(bell, 0), BELL_E_BUSY);
    CHECK_OK(bell_destroy(bell, BELL_FORCE));
    join_thread(thread);
}

int main(void)
{
    RUN(museum_060_is_every_call_refused_in_the_child_and_does_destroy_work);
    RUN(does_a_prepared_child_take_everything_over);
    RUN(does_the_child_sleep_by_every_clock);
    RUN(can_an_unprepared_child_take_over_or_reset);
    RUN(does_no_handle_of_the_parent_name_anything_after_a_reset);
    RUN(may_taking_over_be_repeated_when_it_has_failed);
    RUN(must_an_idle_child_be_able_to_take_over);
    RUN(does_the_child_take_over_the_rest_when_many_fds_are_closed);
    RUN(museum_062_does_a_wake_that_was_pending_not_spin_the_child);
    RUN(does_a_post_that_was_pending_reach_the_parent);
    RUN(do_library_threads_start_again_in_the_child);
    RUN(does_destroy_in_the_child_not_wait_for_the_parents_threads);
    RUN(may_the_fork_come_in_the_middle_of_a_post);
    RUN(is_the_pollable_fd_asked_for_again);
    RUN(does_the_child_leak_no_fd);
    RUN(is_an_alarm_made_during_fork_not_closed_in_place_of_another_file);
    RUN(is_an_alarm_that_the_child_does_not_have_not_closed);
    RUN(is_every_fd_of_the_library_closed_by_exec);
    RUN(are_the_halves_told_when_they_do_not_pair);
    RUN(may_a_child_fork_again);
    RUN(the_child_half_in_a_parent_is_refused_and_touches_nothing);
    return 0;
}
