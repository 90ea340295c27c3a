/* What is rarely asked: refusals in the middle of a life, more listeners than one delivery holds, calls that meet in
 * unlikely moments. A question is here if nothing else runs a line of the library. */
#define _GNU_SOURCE
#include "faults.h"
#include <malloc.h>
#include <sys/wait.h>

enum { MANY = 40 }; /* more than are delivered under one lock */

static void are_empty_batches_fine(void)
{
    bell_t *bell = make_bell(1, 0);
    CHECK_EQ(bell_register_fd_batch(bell, NULL, 0, NULL, NULL), 0);
    CHECK_EQ(bell_rearm_batch(bell, NULL, 0, NULL), 0);
    CHECK_EQ(bell_unregister_batch(bell, NULL, 0, 0, NULL), 0);
    check_clean(bell);
}

static void is_a_target_that_does_not_go_with_the_rest_refused_and_nothing_changed(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    fake_mvar mvar = {0};
    bell_event e;
    int fd = make_eventfd();
    const bell_target slot = to_slot(), poll = to_poll(), mv = to_mvar(&mvar, 0);
    bell_handle level = watch(bell, fd, BELL_READ, BELL_LEVEL, to_poll());
    CHECK_EQ(bell_rearm(bell, level, &slot, BELL_NEVER), -EINVAL);
    CHECK_EQ(bell_retarget(bell, level, &slot), -EINVAL);
    CHECK_EQ(eventfd_write(fd, 1), 0);
    CHECK_EQ(next_event(bell).handle, level);
    CHECK_EQ(bell_unregister(bell, level, 0), BELL_CANCELLED);

    bell_timeout_spec periodic = timeout_spec(now_ns(), to_poll());
    periodic.period_ns = SEC(1000);
    bell_handle t;
    CHECK_EQ(bell_register_timeout(bell, &periodic, &t), 0);
    CHECK_EQ(bell_rearm(bell, t, &mv, now_ns()), -EINVAL);
    CHECK_EQ(bell_retarget(bell, t, &mv), -EINVAL);
    e = next_event(bell);
    CHECK_EQ(e.handle, t);
    CHECK_EQ(bell_unregister(bell, t, 0), BELL_CANCELLED);

    /* An MVAR that was delivered is nobody's: arming again needs a new one. */
    t = set_timeout(bell, 0, mv);
    turn(bell);
    CHECK_EQ(mvar.puts, 1);
    CHECK_EQ(bell_rearm(bell, t, NULL, 0), -EINVAL);
    CHECK_EQ(bell_rearm(bell, t, &mv, 0), 0);
    turn(bell);
    CHECK_EQ(mvar.puts, 2);
    CHECK_EQ(bell_unregister(bell, t, 0), BELL_FIRED);

    bell_handle queue = make_queue(bell, NULL);
    CHECK_EQ(bell_retarget(bell, queue, &poll), -EINVAL);
    CHECK_EQ(bell_retarget(bell, queue, &mv), BELL_FIRED);
    CHECK_EQ(bell_queue_destroy(bell, queue, 0), BELL_CANCELLED);
    CHECK_EQ(mvar.puts, 2);
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

/* The kernel forbids to change those: arming one again finds it armed. */
static void does_an_exclusive_one_go_on_when_it_is_armed_again(void)
{
    if (!has_feature(BELL_FEATURE_EXCLUSIVE))
        return;
    bell_t *bell = make_bell(1, 0);
    int fd = make_eventfd();
    bell_fd_spec spec = fd_spec(fd, BELL_READ, BELL_EDGE, to_poll());
    bell_handle h;
    spec.flags |= BELL_FD_EXCLUSIVE;
    spec.shard = 0;
    CHECK_EQ(bell_register_fd(bell, &spec, &h), 0);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(eventfd_write(fd, 1), 0);
        CHECK_EQ(next_event(bell).handle, h);
        CHECK_EQ(drain_fd(fd), 8);
        CHECK_EQ(bell_rearm(bell, h, NULL, BELL_NEVER), 0);
        expect_quiet(bell, 0);
    }
    CHECK_EQ(bell_rearm(bell, h, NULL, now_ns()), 0);
    CHECK_EQ(next_event(bell).ready, BELL_TIMEOUT);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

static void does_a_forked_child_go_on_with_an_exclusive_one(void)
{
    if (!has_feature(BELL_FEATURE_EXCLUSIVE))
        return;
    bell_t *bell = make_bell(1, 0);
    int fd = make_eventfd(), status;
    bell_fd_spec spec = fd_spec(fd, BELL_READ, BELL_EDGE, to_poll());
    bell_handle h;
    spec.flags |= BELL_FD_EXCLUSIVE;
    spec.shard = 0;
    CHECK_EQ(bell_register_fd(bell, &spec, &h), 0);
    CHECK_EQ(bell_before_fork(bell), 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(50);
        CHECK_EQ(bell_after_fork_child(bell, 0), 0);
        check_verified(bell);
        CHECK_EQ(eventfd_write(fd, 1), 0);
        CHECK_EQ(next_event(bell).handle, h);
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
        check_clean(bell);
        _exit(0);
    }
    CHECK_EQ(bell_after_fork_parent(bell), 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

/* A pipe whose reader is gone: the write raises SIGPIPE, which would end the process. */
static void is_sigpipe_held_back(void)
{
    for (int pending_before = 0; pending_before < 2; pending_before++) {
        bell_t *bell = make_bell(1, 0);
        int ends[2];
        sigset_t pipe, now;
        CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
        sigemptyset(&pipe);
        sigaddset(&pipe, SIGPIPE);
        make_pipe(ends);
        bell_handle t = set_timeout(bell, 0, to_byte(ends[1]));
        CHECK_EQ(close(ends[0]), 0);
        if (pending_before) {
            CHECK_EQ(pthread_sigmask(SIG_BLOCK, &pipe, NULL), 0);
            CHECK_EQ(raise(SIGPIPE), 0);
        }
        turn(bell); /* and lives on */
        CHECK_EQ(bell_unregister(bell, t, BELL_SYNC), BELL_FIRED);
        CHECK_EQ(sigpending(&now), 0);
        CHECK_EQ(sigismember(&now, SIGPIPE), pending_before); /* the program's own one is not eaten */
        CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &now), 0);
        CHECK_EQ(sigismember(&now, SIGPIPE), pending_before);
        if (pending_before) {
            CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR); /* drops it */
            CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &pipe, NULL), 0);
        }
        CHECK_EQ(close(ends[1]), 0);
        check_clean(bell);
    }
}

/* ---- more listeners than one delivery holds ---- */

static uint32_t words[MANY];
static bell_handle handles[MANY];

/* MANY registrations of one fd, each with a word of its own. */
static void crowd(bell_t *bell, int fd)
{
    for (int i = 0; i < MANY; i++) {
        words[i] = 0;
        handles[i] = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_futex(&words[i]));
    }
}

static void crowd_was_told(bell_t *bell, uint32_t bits)
{
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(load(&words[i]), bits | BELL_SEQ); /* once */
        CHECK_EQ(bell_unregister(bell, handles[i], BELL_SYNC), BELL_FIRED);
    }
}

static void are_all_of_many_told_of_a_close(void)
{
    bell_t *bell = make_bell(1, 0);
    uint64_t ticket;
    for (int how = 0; how < 2; how++) {
        int fd = make_eventfd();
        crowd(bell, fd);
        if (how) {
            CHECK_EQ(bell_close_fd(bell, fd), 0);
        } else {
            CHECK_EQ(bell_close_begin(bell, fd, &ticket), 0);
            CHECK_EQ(close(fd), 0);
            CHECK_EQ(bell_close_end(bell, fd, ticket), 0);
        }
        crowd_was_told(bell, BELL_CLOSED);
    }
    check_clean(bell);
}

/* The fd was closed behind the library's back, and its number means another file: the newcomer is watched, and those
 * of the old one are told. */
static void are_all_of_many_told_that_their_number_means_another_file(void)
{
    bell_t *bell = make_bell(1, 0);
    int fd = make_eventfd(), other = make_eventfd();
    crowd(bell, fd);
    CHECK_EQ(dup3(other, fd, O_CLOEXEC), fd);
    bell_handle h = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_poll());
    CHECK_EQ(eventfd_write(other, 1), 0);
    CHECK_EQ(next_event(bell).handle, h);
    if (has_feature(BELL_FEATURE_EPOLL)) {
        crowd_was_told(bell, BELL_CLOSED);
    } else { /* poll(2) knows numbers only: to it that is the same fd */
        turn(bell);
        crowd_was_told(bell, BELL_READ);
    }
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(close(other), 0);
    check_clean(bell);
}

static void are_all_of_many_told_of_an_fd_closed_behind_our_back(void)
{
    bell_t *bell = make_bell(1, 0);
    int fd = make_eventfd();
    crowd(bell, fd);
    CHECK_EQ(close(fd), 0);
    turn(bell);
    /* epoll says nothing of it: the next call that touches the list finds out. */
    if (has_feature(BELL_FEATURE_EPOLL))
        CHECK_EQ(bell_rearm(bell, handles[0], NULL, BELL_NEVER), -EBADF);
    turn(bell);
    for (int i = 0; i < MANY; i++)
        CHECK_OK(bell_unregister(bell, handles[i], BELL_SYNC));
    if (has_feature(BELL_FEATURE_POLL))
        for (int i = 0; i < MANY; i++)
            CHECK_EQ(words[i], BELL_CLOSED | BELL_SEQ);
    check_clean(bell);
}

static void are_all_of_many_always_ready_told_in_one_turn(void)
{
    bell_t *bell = make_bell(1, 0);
    char path[] = P_tmpdir "/doorbell-XXXXXX";
    int file = mkostemp(path, O_CLOEXEC);
    CHECK(file >= 0);
    CHECK_EQ(unlink(path), 0);
    for (int i = 0; i < MANY; i++) {
        bell_fd_spec spec = fd_spec(file, BELL_READ, BELL_ONESHOT, to_futex(&words[i]));
        spec.flags |= BELL_FD_ALWAYS_READY;
        words[i] = 0;
        CHECK_EQ(bell_register_fd(bell, &spec, &handles[i]), 0);
    }
    CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), 0);
    crowd_was_told(bell, BELL_READ);
    CHECK_EQ(close(file), 0);
    check_clean(bell);
}

/* ---- unlikely moments ---- */

static bell_t *here;
static int number;
static uint32_t word;
static bell_handle late;

static void register_it(void)
{
    hook_at_call = NULL;
    late = watch(here, number, BELL_READ, BELL_ONESHOT, to_futex(&word));
}

/* bell_close_fd has lifted its mark, and has not closed yet. */
static void is_who_comes_between_mark_and_close_told(void)
{
    for (int dup_lives = 0; dup_lives < 2; dup_lives++) {
        int other = -1;
        here = make_bell(1, 0);
        word = 0;
        number = make_eventfd();
        if (dup_lives)
            other = fcntl(number, F_DUPFD_CLOEXEC, 0);
        hook_at_call = register_it;
        faults_plan((faults){.kinds = FAULTS_OF(close), .at = 1});
        faults_begin();
        int32_t r = bell_close_fd(here, number);
        faults_end();
        faults_plan((faults){0});
        CHECK_EQ(r, 0);
        CHECK(!hook_at_call);
        turn(here);
        CHECK_EQ(load(&word), BELL_CLOSED | BELL_SEQ);
        if (dup_lives) {
            CHECK_EQ(eventfd_write(other, 1), 0);
            turn(here);
            CHECK_EQ(load(&word), BELL_CLOSED | BELL_SEQ);
            CHECK_EQ(close(other), 0);
        }
        CHECK_EQ(bell_unregister(here, late, BELL_SYNC), BELL_FIRED);
        check_clean(here);
    }
}

/* A delivery that takes its time. */
static uint32_t inside, go_on;

static void slow_putmvar(int32_t capability, void *stable_ptr)
{
    (void)capability;
    store(&inside, 1);
    while (!load(&go_on))
        sched_yield();
    add(stable_ptr, 1);
}

static bell_t *make_slow_bell(void)
{
    static const bell_ghc_ops ghc = {.size = sizeof ghc, .try_putmvar = slow_putmvar};
    bell_config config;
    bell_t *bell;
    CHECK_OK(bell_config_init(&config, sizeof config));
    config.shards = 1;
    config.ghc = &ghc;
    CHECK_OK(bell_create(&config, &bell));
    store(&inside, 0);
    store(&go_on, 0);
    return bell;
}

static void *poll_once(void *bell)
{
    return (void *)(intptr_t)bell_poll(bell, 0, NULL, 0, 0);
}

static uint32_t forker;
static void *prepare_fork(void *bell)
{
    store(&forker, thread_id());
    CHECK_EQ(bell_before_fork(bell), 0);
    CHECK_EQ(load(&go_on), 1); /* not before the delivery is over */
    CHECK_EQ(bell_after_fork_parent(bell), 0);
    return NULL;
}

static void does_a_fork_wait_for_the_delivery_that_is_under_way(void)
{
    bell_t *bell = make_slow_bell();
    uint32_t puts = 0;
    bell_handle t = set_timeout(bell, 0, (bell_target){.kind = BELL_TARGET_MVAR, .stable_ptr = &puts});
    pthread_t driver = start_thread(poll_once, bell);
    AWAIT(load(&inside));
    forker = 0;
    pthread_t other = start_thread(prepare_fork, bell);
    AWAIT(is_asleep(&forker));
    store(&go_on, 1);
    join_thread(other);
    CHECK_EQ((intptr_t)join_thread(driver), 0);
    CHECK_EQ(load(&puts), 1);
    CHECK_EQ(bell_unregister(bell, t, BELL_SYNC), BELL_FIRED);
    check_clean(bell);
}

typedef struct unregisterer {
    bell_t *bell;
    bell_handle handle;
    int batch;
    uint32_t id;
} unregisterer;

static void *unregister_in_sync(void *argument)
{
    unregisterer *u = argument;
    int32_t status = 0;
    store(&u->id, thread_id());
    if (u->batch)
        CHECK_EQ(bell_unregister_batch(u->bell, &u->handle, 1, BELL_SYNC, &status), 1);
    else
        status = bell_unregister(u->bell, u->handle, BELL_SYNC);
    CHECK_EQ(load(&go_on), 1); /* not before the delivery is over */
    CHECK_EQ(status, BELL_FIRED);
    return NULL;
}

static void does_unregistering_in_sync_wait_for_the_delivery_that_is_under_way(void)
{
    for (int batch = 0; batch < 2; batch++) {
        unregisterer u = {.bell = make_slow_bell(), .batch = batch};
        uint32_t puts = 0;
        u.handle = set_timeout(u.bell, 0, (bell_target){.kind = BELL_TARGET_MVAR, .stable_ptr = &puts});
        pthread_t driver = start_thread(poll_once, u.bell);
        AWAIT(load(&inside));
        pthread_t other = start_thread(unregister_in_sync, &u);
        AWAIT(is_asleep(&u.id));
        store(&go_on, 1);
        join_thread(other);
        CHECK_EQ((intptr_t)join_thread(driver), 0);
        CHECK_EQ(load(&puts), 1);
        check_clean(u.bell);
    }
}

/* ---- what the system refuses ---- */

/* The fault of a library thread, from its first news on: each of its waits is refused. */
static faults *of_the_thread;

static void refuse_all_waits(void)
{
    hook_after_wait = NULL;
    faults_plan((faults){.kinds = FAULTS_OF(epoll_wait) | FAULTS_OF(epoll_pwait2) | FAULTS_OF(ppoll) | FAULTS_OF(poll) |
                                  FAULTS_OF(uring_enter),
                         .at = 1,
                         .for_ever = 1,
                         .error = ENOMEM});
    of_the_thread = &fault;
    faults_begin();
}

/* A library thread has nobody to tell: it tries again after 1 ms, 2, 4 .. 100, and goes on when there is enough. */
static void does_a_library_thread_that_meets_a_shortage_pause_and_go_on(void)
{
    enum { TURNS = 9 };
    bell_t *bell = make_bell(1, 1);
    static uint32_t word;
    word = 0;
    int fd = make_eventfd();
    bell_handle h = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_futex(&word));
    hook_after_wait = refuse_all_waits;
    int64_t start = now_ns();
    CHECK_EQ(eventfd_write(fd, 1), 0);
    AWAIT(load(&word) & BELL_READ);
    uint64_t before = stats_of(bell).kernel_waits; /* the first that is refused may be among them */
    AWAIT(stats_of(bell).kernel_waits >= before + TURNS);
    CHECK_GE(now_ns() - start, MS((1 << (TURNS - 2)) - 1));
    __atomic_store_n(&of_the_thread->on, 0, __ATOMIC_RELEASE);
    CHECK_EQ(bell_rearm(bell, h, NULL, BELL_NEVER), 0);
    AWAIT(load(&word) >= 2 * BELL_SEQ);
    CHECK_EQ(bell_unregister(bell, h, BELL_SYNC), BELL_FIRED);
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

static struct {
    bell_t *bell;
    int fds[MANY];
    uint64_t tickets[MANY];
} closing;

static void close_them(void)
{
    hook_after_wait = NULL;
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(bell_close_begin(closing.bell, closing.fds[i], &closing.tickets[i]), 0);
}

/* What the kernel has told of fds that are closed before anybody looks at it: no reason to make its object anew. */
static void is_late_news_of_closed_fds_taken_for_that_of_ghosts(void)
{
    if (left_out_on_io_uring("nobody can come in between: it reports and looks in one"))
        return;
    bell_t *bell = make_bell(1, 0);
    bell_handle handles[MANY];
    bell_event e[MANY];
    closing.bell = bell;
    for (int i = 0; i < MANY; i++) {
        closing.fds[i] = make_eventfd();
        CHECK_EQ(eventfd_write(closing.fds[i], 1), 0);
        handles[i] = watch(bell, closing.fds[i], BELL_READ, BELL_ONESHOT, to_poll());
    }
    hook_after_wait = close_them;
    for (int told = 0; told < MANY;) {
        int n = CHECK_OK(bell_poll(bell, 0, e, MANY, SEC(1)));
        for (int i = 0; i < n; i++)
            CHECK_EQ(e[i].ready, BELL_CLOSED);
        told += n;
    }
    CHECK(hook_after_wait == NULL);
    turn(bell);
    CHECK_EQ(stats_of(bell).ghosts, 0);
    CHECK_EQ(stats_of(bell).rebuilds, 0);
    if (has_feature(BELL_FEATURE_EPOLL))
        CHECK_EQ(stats_of(bell).stale_dropped, MANY);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(close(closing.fds[i]), 0);
        CHECK_EQ(bell_close_end(bell, closing.fds[i], closing.tickets[i]), 0);
        CHECK_EQ(bell_unregister(bell, handles[i], 0), BELL_FIRED);
    }
    check_clean(bell);
}

static int read_error; /* the next read of the library fails with this */

FAULTS_PLAIN ssize_t read(int fd, void *bytes, size_t n)
{
    NEXT(read);
    if (!read_error || !from_library(CALLER))
        return next_read(fd, bytes, n);
    errno = read_error;
    read_error = 0;
    return -1;
}

/* On epoll bell_verify reads what the kernel has. */
static void is_a_list_that_cannot_be_read_told(void)
{
    bell_t *bell = make_bell(1, 0);
    int fd = make_eventfd();
    bell_handle h = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_poll());
    read_error = EIO;
    CHECK_EQ(bell_verify(bell), has_feature(BELL_FEATURE_EPOLL) ? -EIO : 0);
    read_error = EINTR;
    CHECK_EQ(bell_verify(bell), 0);
    read_error = 0;
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

/* A file that lives on under another number and cannot be taken out of the kernel's set is got rid of by a new set. If
 * that cannot be had, the old one goes on serving, and it is tried again. */
static void does_a_set_that_cannot_be_made_anew_go_on_serving(void)
{
    if (!has_feature(BELL_FEATURE_EPOLL))
        return;
    for (int variant = 0; variant < 2; variant++)
        for (int at = 1;; at++) {
            bell_t *bell = make_bell(1, 0);
            bell_event e;
            int fds[2], other = make_eventfd();
            make_sockets(fds);
            int outer = CHECK_OK(bell_pollable_fd(bell, 0));
            bell_timeout_spec spec = timeout_spec(BELL_NEVER - 2, to_slot());
            bell_handle boot, h = watch(bell, other, BELL_READ, BELL_ONESHOT, to_poll());
            spec.clock = BELL_CLOCK_BOOT;
            CHECK_EQ(bell_register_timeout(bell, &spec, &boot), 0);
            bell_handle ghost = watch(bell, fds[0], BELL_READ, BELL_EDGE, to_poll());
            int keeper = dup(fds[0]), struck = 0;
            CHECK_EQ(close(fds[0]), 0);
            CHECK_OK(bell_unregister(bell, ghost, 0));
            faults_plan((faults){.kinds = FAULTS_OF(epoll_create1) | FAULTS_OF(epoll_ctl) | FAULTS_OF(dup3),
                                 .at = at,
                                 .variant = variant});
            for (int i = 0; i < 100 && stats_of(bell).rebuilds == 0; i++) {
                put_byte(fds[1]);
                faults_begin();
                int32_t n = bell_poll(bell, 0, &e, 1, 0);
                faults_end();
                CHECK_EQ(drain_fd(keeper), 1);
                if (n == 1) { /* there is a new set, and it has no room for this one: which is told so */
                    struck = fault.struck;
                    CHECK_EQ(e.handle, h);
                    CHECK_EQ(e.ready, BELL_ERR);
                    CHECK_EQ(e.status, variant ? -ENOSPC : -ENOMEM);
                    CHECK_EQ(bell_rearm(bell, h, NULL, BELL_NEVER), 0);
                }
                if (n != 1)
                    CHECK_EQ(n, 0);
                if (fault.struck > struck) {
                    struck = fault.struck;
                    check_verified(bell);
                    CHECK_EQ(eventfd_write(other, 1), 0);
                    AWAIT(looks_ready(outer, POLLIN));
                    CHECK_EQ(next_event(bell).handle, h);
                    CHECK_EQ(drain_fd(other), 8);
                    CHECK_EQ(bell_rearm(bell, h, NULL, BELL_NEVER), 0);
                }
            }
            faults_plan((faults){0});
            CHECK_EQ(stats_of(bell).rebuilds, 1);
            check_verified(bell);
            CHECK_EQ(eventfd_write(other, 1), 0);
            AWAIT(looks_ready(outer, POLLIN));
            CHECK_EQ(next_event(bell).handle, h);
            CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
            /* The timer of another clock is watched by the new set. */
            CHECK_EQ(bell_update_timeout(bell, boot, bell_now(BELL_CLOCK_BOOT) + MS(1)), 0);
            CHECK_EQ(bell_slot_wait(bell, boot, BELL_READ, now_ns() + PATIENCE, 0), BELL_TIMEOUT);
            CHECK_EQ(bell_unregister(bell, boot, 0), BELL_FIRED);
            close_pair((int[2]){keeper, fds[1]});
            CHECK_EQ(close(other), 0);
            check_clean(bell);
            if (!struck)
                break;
        }
}

/* A clock never fails; a filter may forbid it. */
static int32_t asks_for_the_time(bell_t *bell, bell_handle slot, bell_handle queue, int how)
{
    bell_event e;
    switch (how) {
    case 0: return bell_poll(bell, 0, &e, 1, US(300));
    case 1: return bell_poll(bell, 0, &e, 1, 0);
    case 2: return bell_slot_wait(bell, slot, BELL_READ, now_ns() + US(300), 0);
    default: return bell_queue_wait(bell, queue, &e, 1, now_ns() + US(300));
    }
}

static void is_a_clock_that_cannot_be_read_told_by_whoever_waits(void)
{
    for (int how = 0; how < 16; how++)
        for (int for_ever = 0; for_ever < 2; for_ever++)
            for (int at = 1;; at++) {
                bell_t *bell = make_bell(1, 0);
                bell_event e;
                int fd = make_eventfd();
                bell_handle queue = make_queue(bell, NULL), slot = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_slot());
                bell_handle t = set_timeout(bell, now_ns() + SEC(1000), to_poll());
                if (how & 4)
                    CHECK_EQ(bell_wake(bell, 0), 0); /* one turn more, in which the time is looked at again */
                if (how & 8) { /* a kernel without epoll_pwait2 */
                    faults_plan((faults){.kinds = FAULTS_OF(epoll_pwait2), .at = 1, .error = ENOSYS});
                    faults_begin();
                    CHECK_EQ(bell_slot_wait(bell, slot, BELL_READ, now_ns() + US(10), 0), -ETIMEDOUT);
                    faults_end();
                }
                faults_plan(
                    (faults){.kinds = FAULTS_OF(clock_gettime), .at = at, .for_ever = for_ever, .error = EPERM});
                faults_begin();
                int32_t r = asks_for_the_time(bell, slot, queue, how & 3);
                faults_end();
                int struck = fault.struck;
                faults_plan((faults){0});
                CHECK(r == 0 || r == -ETIMEDOUT || (struck && r == -EPERM));
                CHECK_EQ(stats_of(bell).waiters, 0);
                check_verified(bell);
                CHECK_EQ(bell_update_timeout(bell, t, 0), 0);
                e = next_event(bell);
                CHECK_EQ(e.handle, t);
                CHECK_EQ(bell_unregister(bell, t, 0), BELL_FIRED);
                CHECK_EQ(bell_unregister(bell, slot, 0), BELL_CANCELLED);
                CHECK_EQ(bell_queue_destroy(bell, queue, 0), BELL_FIRED);
                CHECK_EQ(close(fd), 0);
                check_clean(bell);
                if (!struck)
                    break;
            }
}

static void is_a_clock_that_this_system_refuses_told_when_it_is_asked_for(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_timeout_spec spec = timeout_spec(1, to_poll());
    bell_handle h;
    spec.clock = BELL_CLOCK_BOOT;
    faults_plan((faults){.kinds = FAULTS_OF(clock_gettime), .at = 1, .error = EPERM});
    faults_begin();
    int32_t r = bell_register_timeout(bell, &spec, &h);
    faults_end();
    faults_plan((faults){0});
    CHECK_EQ(r, -EPERM);
    check_clean(bell);
}

/* The kernel's timer that would wake for it cannot be set: the deadline stays where it was. */
static void does_a_deadline_that_cannot_be_moved_stay(void)
{
    const int nested = has_feature(BELL_FEATURE_POLLABLE), clocks = has_feature(BELL_FEATURE_CLOCKS);
    for (int how = 0; how < 3; how++) {
        if (how < 2 ? !nested : !clocks)
            continue;
        bell_t *bell = make_bell(1, 0);
        int fd = make_eventfd();
        int64_t was = how == 2 ? bell_now(BELL_CLOCK_BOOT) + SEC(1000) : now_ns() + SEC(1000), is;
        bell_handle h;
        if (how < 2)
            CHECK_OK(bell_pollable_fd(bell, 0));
        if (how == 0) {
            bell_fd_spec spec = fd_spec(fd, BELL_READ, BELL_ONESHOT, to_poll());
            spec.flags |= BELL_FD_DEADLINE;
            spec.deadline_ns = was;
            CHECK_EQ(bell_register_fd(bell, &spec, &h), 0);
        } else {
            bell_timeout_spec spec = timeout_spec(was, to_poll());
            spec.clock = how == 2 ? BELL_CLOCK_BOOT : BELL_CLOCK_MONOTONIC;
            CHECK_EQ(bell_register_timeout(bell, &spec, &h), 0);
        }
        faults_plan((faults){.kinds = FAULTS_OF(timerfd_settime), .at = 1, .error = EPERM});
        faults_begin();
        int32_t r = bell_update_timeout(bell, h, was - SEC(500));
        faults_end();
        CHECK_GE(fault.struck, 1);
        faults_plan((faults){0});
        CHECK_EQ(r, -EPERM);
        CHECK_EQ(bell_timeout_get(bell, h, &is), 0);
        CHECK_EQ(is, was);
        check_verified(bell);
        CHECK_EQ(bell_update_timeout(bell, h, 0), 0);
        bell_event e = next_event(bell);
        CHECK_EQ(e.handle, h);
        CHECK_EQ(e.ready, BELL_TIMEOUT);
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
        CHECK_EQ(close(fd), 0);
        check_clean(bell);
    }
}

static void is_a_user_event_without_memory_for_its_new_target_as_before(void)
{
    for (int rearm = 0; rearm < 2; rearm++) {
        bell_t *bell = make_bell(1, 0);
        uint32_t told = 0;
        const bell_target poll = to_poll();
        bell_handle h = make_user(bell, to_futex(&told));
        faults_plan((faults){.kinds = FAULTS_MEMORY, .at = 1});
        faults_begin();
        int32_t r = rearm ? bell_rearm(bell, h, &poll, BELL_NEVER) : bell_retarget(bell, h, &poll);
        faults_end();
        faults_plan((faults){0});
        CHECK_EQ(r, -ENOMEM);
        CHECK_EQ(bell_post(bell, h, 1), 0);
        turn(bell);
        CHECK_EQ(told, BELL_USER | BELL_SEQ);
        CHECK_EQ(bell_unregister(bell, h, BELL_SYNC), BELL_CANCELLED);
        check_clean(bell);
    }
}

/* Another thread may hold the table of queues when the process forks: here it is this one. */
static void fork_with_the_table_held(void)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(50);
        hook_at_call = NULL;
        faults_plan((faults){0});
        CHECK_EQ(bell_after_fork_child(here, 0), BELL_E_BUSY);
        CHECK_EQ(bell_after_fork_child(here, BELL_FORK_RESET), 0);
        bell_handle queue = make_queue(here, NULL);
        CHECK_EQ(bell_queue_destroy(here, queue, 0), BELL_FIRED);
        check_clean(here);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

static void does_a_child_start_anew_when_the_table_of_queues_is_held(void)
{
    bell_handle queue;
    here = make_bell(1, 0);
    hook_at_call = fork_with_the_table_held;
    faults_plan((faults){.kinds = FAULTS_MEMORY, .at = 1});
    faults_begin();
    int32_t r = bell_queue_create(here, 0, NULL, &queue);
    faults_end();
    CHECK_EQ(fault.struck, 1);
    hook_at_call = NULL;
    faults_plan((faults){0});
    CHECK_EQ(r, 0);
    CHECK_EQ(bell_queue_destroy(here, queue, 0), BELL_FIRED);
    check_clean(here);
}

/* poll(2) copies what it watches; epoll has nothing to copy. */
static void is_a_wait_without_memory_for_many_told(void)
{
    for (int at = 1;; at++) {
        bell_t *bell = make_bell(1, 0);
        int fds[MANY];
        for (int i = 0; i < MANY; i++) {
            fds[i] = make_eventfd();
            handles[i] = watch(bell, fds[i], BELL_READ, BELL_ONESHOT, to_poll());
        }
        faults_plan((faults){.kinds = FAULTS_MEMORY, .at = at});
        faults_begin();
        int32_t r = bell_poll(bell, 0, NULL, 0, 0);
        faults_end();
        int struck = fault.struck;
        faults_plan((faults){0});
        CHECK_EQ(r, struck ? -ENOMEM : 0);
        CHECK_EQ(eventfd_write(fds[MANY - 1], 1), 0);
        CHECK_EQ(next_event(bell).handle, handles[MANY - 1]);
        for (int i = 0; i < MANY; i++) {
            CHECK_OK(bell_unregister(bell, handles[i], 0));
            CHECK_EQ(close(fds[i]), 0);
        }
        check_clean(bell);
        if (!struck)
            break;
    }
}

/* Of a manager that is nested: the wait fails, and so does ringing for what is left to tell. */
static void is_a_turn_whose_bell_is_broken_too_told(void)
{
    if (!has_feature(BELL_FEATURE_POLLABLE))
        return;
    bell_t *bell = make_bell(1, 0);
    uint32_t told = 0;
    bell_handle user = make_user(bell, to_futex(&told));
    int outer = CHECK_OK(bell_pollable_fd(bell, 0));
    CHECK_EQ(bell_post(bell, user, 1), 0);
    faults_plan((faults){.kinds = FAULTS_OF(epoll_wait) | FAULTS_OF(epoll_pwait2) | FAULTS_OF(write),
                         .at = 1,
                         .for_ever = 1,
                         .error = EIO});
    faults_begin();
    int32_t r = bell_poll(bell, 0, NULL, 0, 0);
    faults_end();
    CHECK_GE(fault.struck, 2);
    faults_plan((faults){0});
    CHECK_EQ(r, -EIO);
    turn(bell);
    CHECK_EQ(load(&told), BELL_USER | BELL_SEQ);
    CHECK_EQ(looks_ready(outer, POLLIN), 0);
    CHECK_EQ(bell_unregister(bell, user, BELL_SYNC), BELL_CANCELLED);
    check_clean(bell);
}

typedef struct slot_sleeper {
    bell_t *bell;
    bell_handle handle;
    uint32_t id;
} slot_sleeper;

static void *wait_for_slot(void *argument)
{
    slot_sleeper *s = argument;
    store(&s->id, thread_id());
    return (void *)(intptr_t)bell_slot_wait(s->bell, s->handle, BELL_READ, BELL_NEVER, 0);
}

/* bell_poll asks a waiter that drives to make way, and cannot wake it. */
static void is_a_waiter_that_cannot_be_asked_to_make_way_told(void)
{
    slot_sleeper s = {.bell = make_bell(1, 0)};
    s.handle = make_user(s.bell, to_slot());
    pthread_t thread = start_thread(wait_for_slot, &s);
    AWAIT(stats_of(s.bell).waiters == 1 && is_asleep(&s.id));
    faults_plan((faults){.kinds = FAULTS_OF(write), .at = 1, .for_ever = 1, .error = EBADF});
    faults_begin();
    int32_t r = bell_poll(s.bell, 0, NULL, 0, SEC(100));
    faults_end();
    faults_plan((faults){0});
    CHECK_EQ(r, -EBADF);
    CHECK_EQ(bell_post(s.bell, s.handle, 1), 0);
    CHECK_EQ((intptr_t)join_thread(thread), BELL_USER);
    CHECK_EQ(bell_unregister(s.bell, s.handle, 0), BELL_CANCELLED);
    check_clean(s.bell);
}

/* Who drives, and who waits for that one: as text. */
static void are_followers_told_of(void)
{
    slot_sleeper s[3] = {{0}};
    pthread_t threads[3];
    char text[4096] = "";
    int ends[2];
    bell_t *bell = make_bell(1, 0);
    make_pipe(ends);
    for (int i = 0; i < 3; i++) {
        s[i].bell = bell;
        s[i].handle = make_user(bell, to_slot());
        threads[i] = start_thread(wait_for_slot, &s[i]);
    }
    AWAIT(stats_of(bell).waiters == 3 && is_asleep(&s[0].id) && is_asleep(&s[1].id) && is_asleep(&s[2].id));
    CHECK_EQ(bell_dump(bell, ends[1]), 0);
    CHECK_GT(read(ends[0], text, sizeof text - 1), 0);
    if (!strstr(text, "driver=Waiter inside=3 followers=2"))
        fprintf(stderr, "%s", text);
    CHECK(strstr(text, "driver=Waiter inside=3 followers=2"));
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(bell_post(bell, s[i].handle, 1), 0);
        CHECK_EQ((intptr_t)join_thread(threads[i]), BELL_USER);
        CHECK_EQ(bell_unregister(bell, s[i].handle, 0), BELL_CANCELLED);
    }
    close_pair(ends);
    check_clean(bell);
}

/* ---- ending what somebody is inside of ---- */

static uint32_t yields;

FAULTS_PLAIN int sched_yield(void)
{
    NEXT(sched_yield);
    if (from_library(CALLER))
        add(&yields, 1);
    return next_sched_yield();
}

static void *destroy(void *bell)
{
    return (void *)(intptr_t)bell_destroy(bell, BELL_FORCE);
}

int32_t bell_test_panic(bell_t *bell) __attribute__((weak));

/* What a poisoned manager holds is not freed, because it cannot be trusted: no leak to the sanitizer. */
void __lsan_disable(void) __attribute__((weak));
void __lsan_enable(void) __attribute__((weak));

static void does_destroy_wait_for_a_delivery(void)
{
    for (int poisoned = 0; poisoned < (bell_test_panic ? 2 : 1); poisoned++) {
        if (poisoned && __lsan_disable)
            __lsan_disable();
        bell_t *bell = make_slow_bell();
        if (poisoned && __lsan_enable)
            __lsan_enable();
        uint32_t puts = 0;
        bell_handle t = set_timeout(bell, 0, (bell_target){.kind = BELL_TARGET_MVAR, .stable_ptr = &puts});
        pthread_t driver = start_thread(poll_once, bell);
        AWAIT(load(&inside));
        if (poisoned)
            CHECK_EQ(bell_test_panic(bell), BELL_E_POISONED);
        store(&yields, 0);
        pthread_t ender = start_thread(destroy, bell);
        AWAIT(load(&yields) > 2);
        CHECK_EQ(bell_unregister(bell, t, 0), BELL_E_STALE);
        CHECK_EQ(bell_destroy(bell, BELL_FORCE), BELL_E_STALE);
        store(&go_on, 1);
        CHECK_EQ((intptr_t)join_thread(ender), 0);
        join_thread(driver);
        CHECK_EQ(load(&puts), 1);
    }
}

/* ---- what it says of itself ---- */

#ifdef __GLIBC__
static int64_t heap_of_the_process(void)
{
    struct mallinfo2 m = mallinfo2();
    return (int64_t)(m.uordblks + m.hblkhd);
}

/* `bell_counters.heap_bytes` against what malloc says, for each kind of thing. A block has up to 24 bytes beside what
 * was asked for. */
static void is_the_heap_as_large_as_it_says(void)
{
    enum { N = 3000, FDS = 400, KINDS = 9 };
    static const char *const kinds[KINDS] = {"fds to SLOT",       "fds to POLL", "fds to QUEUE", "timeouts to FUTEX",
                                             "periodic timeouts", "user events", "queues",       "a high fd",
                                             "fds of their own"};
    static bell_handle made[N];
    static int copies[FDS];
    static uint32_t told;
    if (slow())
        return; /* the sanitizer's malloc does not say */
    for (int kind = 0; kind < KINDS; kind++) {
        bell_t *bell = make_bell(1, 0);
        int fd = make_eventfd(), high = fcntl(fd, F_DUPFD_CLOEXEC, 1000), n = kind == 7 ? 1 : kind == 8 ? FDS : N;
        CHECK_GE(high, 1000);
        for (int i = 0; kind == 8 && i < FDS; i++)
            CHECK_GE(copies[i] = fcntl(fd, F_DUPFD_CLOEXEC, 0), 0);
        bell_handle queue = make_queue(bell, NULL);
        int64_t says = (int64_t)stats_of(bell).heap_bytes, is = heap_of_the_process();
        for (int i = 0; i < n; i++) {
            bell_timeout_spec spec = timeout_spec(BELL_NEVER - 2, to_futex(&told));
            spec.period_ns = kind == 4 ? 1 : 0;
            switch (kind) {
            case 0: made[i] = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_slot()); break;
            case 1: made[i] = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_poll()); break;
            case 2: made[i] = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_queue(queue)); break;
            case 3:
            case 4: CHECK_EQ(bell_register_timeout(bell, &spec, &made[i]), 0); break;
            case 5: made[i] = make_user(bell, to_futex(&told)); break;
            case 6: made[i] = make_queue(bell, NULL); break;
            default:
                made[i] = watch(bell, kind == 8 ? copies[i] : high, BELL_READ, BELL_ONESHOT, to_futex(&told));
                break;
            }
        }
        says = (int64_t)stats_of(bell).heap_bytes - says;
        is = heap_of_the_process() - is;
        fprintf(stderr, "  %s: says %" PRId64 ", is %" PRId64 "\n", kinds[kind], says, is);
        CHECK_GT(is, 0);
        if (kind < 7)
            CHECK_LE(is, 200 * N); /* no place stays empty */
        CHECK_LE(says, is + is / 16);
        CHECK_GE(says, is - is / (kind == 4 || kind == 6 || kind == 7 ? 6 : 16)); /* those are small blocks, or few */
        for (int i = 0; i < n; i++)
            CHECK_OK(kind == 6 ? bell_queue_destroy(bell, made[i], 0) : bell_unregister(bell, made[i], 0));
        CHECK_EQ(bell_queue_destroy(bell, queue, 0), BELL_FIRED);
        for (int i = 0; kind == 8 && i < FDS; i++)
            CHECK_EQ(close(copies[i]), 0);
        CHECK_EQ(close(fd), 0);
        CHECK_EQ(close(high), 0);
        check_clean(bell);
    }
}
#endif

/* What is armed when the manager ends rings once more, and what has been told does not. */
static void does_destroy_ring_what_is_armed_and_nothing_else(void)
{
    bell_t *bell = make_bell(1, 0);
    int fd = make_eventfd(), bells[4];
    uint32_t told[4] = {0};
    for (int i = 0; i < 4; i++)
        bells[i] = make_eventfd();
    watch(bell, fd, BELL_READ, BELL_ONESHOT, to_eventfd(bells[0]));
    watch(bell, fd, BELL_WRITE, BELL_ONESHOT, to_eventfd(bells[1]));
    set_timeout(bell, BELL_NEVER - 2, to_eventfd(bells[2]));
    set_timeout(bell, 0, to_eventfd(bells[3]));
    watch(bell, fd, BELL_READ, BELL_ONESHOT, to_futex(&told[0]));
    watch(bell, fd, BELL_WRITE, BELL_ONESHOT, to_futex(&told[1]));
    set_timeout(bell, BELL_NEVER - 2, to_futex(&told[2]));
    set_timeout(bell, 0, to_futex(&told[3]));
    turn(bell);
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(looks_ready(bells[i], POLLIN), i % 2 ? POLLIN : 0);
        if (i % 2)
            CHECK_EQ(drain_fd(bells[i]), 8);
        CHECK_EQ(told[i], i == 0 || i == 2 ? 0 : (i == 1 ? BELL_WRITE : BELL_TIMEOUT) | BELL_SEQ);
    }
    CHECK_EQ(bell_destroy(bell, BELL_FORCE), 0);
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(looks_ready(bells[i], POLLIN), i % 2 ? 0 : POLLIN);
        CHECK_EQ(told[i], (i % 2 ? (i == 1 ? BELL_WRITE : BELL_TIMEOUT) : BELL_CLOSED) | BELL_SEQ);
        CHECK_EQ(close(bells[i]), 0);
    }
    CHECK_EQ(close(fd), 0);
}

/* ---- where it is put ---- */

#ifdef __linux__
static void does_current_cpu_mean_the_cpu_of_the_caller(void)
{
    enum { SHARDS = 3 };
    cpu_set_t all, one;
    CHECK_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    bell_t *bell = make_bell(SHARDS, 0);
    uint32_t expected[SHARDS] = {0};
    bell_handle h[CPU_SETSIZE];
    int n = 0;
    for (int cpu = 0; cpu < 8; cpu++) {
        if (!CPU_ISSET(cpu, &all))
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        CHECK_EQ(sched_setaffinity(0, sizeof one, &one), 0);
        bell_timeout_spec spec = timeout_spec(BELL_NEVER, to_slot());
        spec.shard = BELL_SHARD_CURRENT_CPU;
        CHECK_EQ(bell_register_timeout(bell, &spec, &h[n++]), 0);
        expected[cpu % SHARDS]++;
    }
    CHECK_EQ(sched_setaffinity(0, sizeof all, &all), 0);
    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        bell_counters c = {.size = sizeof c};
        CHECK_OK(bell_stats(bell, shard, &c));
        CHECK_EQ(c.timeouts, expected[shard]);
    }
    while (n > 0)
        CHECK_OK(bell_unregister(bell, h[--n], 0));
    check_clean(bell);
}
#endif

int main(void)
{
    const char *preload = getenv("LD_PRELOAD");
    if (preload && strstr(preload, "vgpreload"))
        SKIP("valgrind puts its own allocator where this program has its");
    RUN(are_empty_batches_fine);
    RUN(is_a_target_that_does_not_go_with_the_rest_refused_and_nothing_changed);
    RUN(does_an_exclusive_one_go_on_when_it_is_armed_again);
    RUN(does_a_forked_child_go_on_with_an_exclusive_one);
    RUN(is_sigpipe_held_back);
    RUN(are_all_of_many_told_of_a_close);
    RUN(are_all_of_many_told_that_their_number_means_another_file);
    RUN(are_all_of_many_told_of_an_fd_closed_behind_our_back);
    RUN(are_all_of_many_always_ready_told_in_one_turn);
    RUN(is_who_comes_between_mark_and_close_told);
    RUN(does_a_fork_wait_for_the_delivery_that_is_under_way);
    RUN(does_unregistering_in_sync_wait_for_the_delivery_that_is_under_way);
    RUN(does_a_library_thread_that_meets_a_shortage_pause_and_go_on);
    RUN(is_late_news_of_closed_fds_taken_for_that_of_ghosts);
    RUN(is_a_list_that_cannot_be_read_told);
    RUN(does_a_set_that_cannot_be_made_anew_go_on_serving);
    RUN(is_a_clock_that_cannot_be_read_told_by_whoever_waits);
    RUN(is_a_clock_that_this_system_refuses_told_when_it_is_asked_for);
    RUN(does_a_deadline_that_cannot_be_moved_stay);
    RUN(is_a_user_event_without_memory_for_its_new_target_as_before);
    RUN(does_a_child_start_anew_when_the_table_of_queues_is_held);
    RUN(is_a_wait_without_memory_for_many_told);
    RUN(is_a_turn_whose_bell_is_broken_too_told);
    RUN(is_a_waiter_that_cannot_be_asked_to_make_way_told);
    RUN(are_followers_told_of);
    RUN(does_destroy_wait_for_a_delivery);
    RUN(does_destroy_ring_what_is_armed_and_nothing_else);
#ifdef __linux__
    RUN(does_current_cpu_mean_the_cpu_of_the_caller);
#endif
#ifdef __GLIBC__
    RUN(is_the_heap_as_large_as_it_says);
#endif
    return 0;
}
