/* Under a seccomp filter: with calls denied that a sandbox may deny, and with nothing allowed but what the library is
 * documented to call. */
#define _GNU_SOURCE
#include "check.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#define ARCHITECTURE 0
#endif

/* ---- the system calls of the library, on Linux ----
 *
 * | call | for what | who can do without it |
 * |---|---|---|
 * | epoll_create1, epoll_ctl, epoll_wait (epoll_pwait), eventfd2 | backend epoll: a shard | nobody |
 * | epoll_pwait2 | sleeps to the nanosecond | denied (ENOSYS, EPERM): ppoll and epoll_wait |
 * | ppoll, pipe2 | backend poll; ppoll also in place of epoll_pwait2 | |
 * | dup3 | a new set (ghosts; io_uring: another driver) | who closes no fd behind the library's back |
 * | timerfd_create, timerfd_settime | clocks BOOT and REAL; bell_pollable_fd | who uses neither |
 * | timerfd_gettime | is it still ours, before one of these is closed | denied: it is closed |
 * | eventfd2 | bell_queue_fd | who does not call it |
 * | read, write | wakes; fds of queues; WAKE_FD | nobody |
 * | sendto, rt_sigpending, rt_sigtimedwait | WAKE_FD with BELL_WAKE_BYTE | who does not use it |
 * | futex | locks, slots, queues | nobody |
 * | poll | BELL_LEVEL_CHECK; LEVEL | who uses neither |
 * | fcntl, fstat (newfstatat) | is a target's fd open, does it block; backend poll: can it be polled | nobody |
 * | close | own fds; bell_close_fd | nobody |
 * | openat | bell_verify, bell_dump: /proc/thread-self/fdinfo | who calls neither |
 * | mmap, munmap, madvise, mprotect, mremap, brk | memory, the mark of a fork, stacks of threads | nobody |
 * | clone3 (clone), rt_sigprocmask, prctl, set_robust_list, rseq, exit, gettid | library threads | who has none |
 * | sched_yield | bell_destroy, while others are inside | |
 * | clock_gettime, getcpu | the clock, BELL_SHARD_CURRENT_CPU, where the vDSO does not serve | |
 * | getpid | instead of MADV_WIPEONFORK, before Linux 4.14 | |
 *
 * With BELL_IO_URING also io_uring_setup, io_uring_enter and io_uring_register, and epoll_create1 and epoll_ctl only
 * for fds that are neither sockets, pipes nor eventfds and the like. Without it io_uring is not used. */
static const int library_calls[] = {
    SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_eventfd2, SYS_ppoll, SYS_pipe2, SYS_dup3,
    SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_gettime, SYS_read, SYS_write, SYS_sendto,
    SYS_rt_sigpending, SYS_rt_sigtimedwait, SYS_futex, SYS_fcntl, SYS_fstat, SYS_newfstatat, SYS_close, SYS_openat,
    SYS_mmap, SYS_munmap, SYS_madvise, SYS_mprotect, SYS_mremap, SYS_brk, SYS_clone, SYS_clone3, SYS_rt_sigprocmask,
    SYS_prctl, SYS_set_robust_list, SYS_rseq, SYS_exit, SYS_gettid, SYS_sched_yield, SYS_clock_gettime, SYS_getcpu,
    SYS_getpid,
#ifdef SYS_epoll_wait
    SYS_epoll_wait,
#endif
#ifdef SYS_poll
    SYS_poll,
#endif
#ifdef SYS_epoll_pwait2
    SYS_epoll_pwait2,
#endif
#ifdef BELL_TEST_IO_URING
    SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register,
#endif
};

/* What this program itself calls meanwhile: its fds, its child, its end; what a sanitizer does for each thread. */
static const int own_calls[] = {
    SYS_socketpair, SYS_dup, SYS_wait4, SYS_exit_group,
#ifdef __SANITIZE_ADDRESS__
    SYS_sigaltstack, SYS_sched_getaffinity,
#endif
};

static int fits_in_here(void)
{
    const char *preload = getenv("LD_PRELOAD");
    return ARCHITECTURE != 0 && !(preload && strstr(preload, "vgpreload")); /* valgrind makes calls of its own */
}

static struct sock_filter program[256];
static unsigned short program_length;

static void add_instruction(struct sock_filter instruction)
{
    CHECK_LT(program_length, 256);
    program[program_length++] = instruction;
}

/* Answers `action` to these calls. */
static void add_calls(const int *calls, size_t n, uint32_t action)
{
    for (size_t i = 0; i < n; i++) {
        add_instruction((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i], 0, 1));
        add_instruction((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action));
    }
}

static void begin_filter(void)
{
    program_length = 0;
    add_instruction((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)));
    add_instruction((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0));
    add_instruction((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
    add_instruction((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)));
}

static void end_filter(uint32_t otherwise)
{
    add_instruction((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, otherwise));
    const struct sock_fprog filter = {program_length, program};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
        _exit(77); /* a sandbox within a sandbox that forbids it */
}

static void deny(int call, int error)
{
    begin_filter();
    add_calls(&call, 1, SECCOMP_RET_ERRNO | (uint32_t)error);
    end_filter(SECCOMP_RET_ALLOW);
}

static void say_which(int signal_number, siginfo_t *info, void *context)
{
    char text[64];
    (void)signal_number, (void)context;
    int n = snprintf(text, sizeof text, "  system call %d is not on the list\n", info->si_syscall);
    if (write(2, text, (size_t)n) != n)
        _exit(2);
    _exit(1);
}

/* As killing, but it says what for. */
static void allow_only_the_list(void)
{
    const struct sigaction action = {.sa_sigaction = say_which, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSYS, &action, NULL) == 0);
    begin_filter();
    add_calls(library_calls, sizeof library_calls / sizeof *library_calls, SECCOMP_RET_ALLOW);
    add_calls(own_calls, sizeof own_calls / sizeof *own_calls, SECCOMP_RET_ALLOW);
    end_filter(SECCOMP_RET_TRAP);
}

/* Runs `body` in a child of its own: filters stay for life. */
static void in_child(void (*body)(void *), void *argument)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(slow() ? 300 : 50);
        body(argument);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        fprintf(stderr, "  left out: no filter can be set here\n");
        return;
    }
    CHECK_EQ(status, 0);
}

/* ---- everything ---- */

typedef struct denied {
    int call, error;
    int clocks, pollable; /* what is not to be had then */
} denied;

static void *wait_for_slot(void *argument)
{
    bell_handle *h = argument;
    bell_t *bell = (bell_t *)(uintptr_t)h[0];
    CHECK_EQ(bell_slot_wait(bell, h[1], BELL_READ, now_ns() + PATIENCE, 0), BELL_USER);
    return NULL;
}

/* A dup keeps the file open, and its events come under a number that is gone: a new set is made. */
static void make_a_ghost(bell_t *bell)
{
    int fds[2];
    make_sockets(fds);
    int keeper = dup(fds[0]);
    CHECK_GE(keeper, 0);
    bell_handle h = watch(bell, fds[0], BELL_READ, has_edge() ? BELL_EDGE : BELL_ONESHOT, to_slot());
    CHECK_EQ(close(fds[0]), 0);
    CHECK_OK(bell_unregister(bell, h, 0));
    for (int i = 0; i < 40; i++) {
        put_byte(fds[1]);
        CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), 0);
        CHECK_EQ(drain_fd(keeper), 1);
    }
    if (has_edge() && !on_io_uring())
        CHECK_GE(stats_of(bell).rebuilds, 1);
    CHECK_EQ(close(keeper), 0);
    CHECK_EQ(close(fds[1]), 0);
}

static void use_everything(const denied *d)
{
    bell_t *bell = make_bell_ghc(1, 0);
    landing all[LAND_KINDS];
    int fds[2];
    bell_event e;
    make_sockets(fds);
    for (int kind = 0; kind < LAND_KINDS; kind++) {
        landing_open(&all[kind], kind, bell);
        landing_watch(&all[kind], fds[0], BELL_READ, BELL_ONESHOT);
    }
    put_byte(fds[1]);
    pump_all(bell, all, LAND_KINDS);
    for (int kind = 0; kind < LAND_KINDS; kind++)
        CHECK_EQ(landing_end(&all[kind]), BELL_FIRED);
    /* waits, to the nanosecond */
    bell_handle level = watch(bell, fds[0], BELL_READ, BELL_LEVEL, to_poll());
    CHECK_EQ(next_event(bell).handle, level);
    CHECK_EQ(next_event(bell).handle, level);
    CHECK_EQ(bell_unregister(bell, level, BELL_SYNC), BELL_CANCELLED);
    bell_handle slot = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
    CHECK_EQ(bell_slot_wait(bell, slot, BELL_READ, now_ns() + PATIENCE, BELL_LEVEL_CHECK), BELL_READ);
    CHECK_EQ(drain_fd(fds[0]), 1);
    for (uint32_t clock = 0; clock < (has_feature(BELL_FEATURE_CLOCKS) ? 3u : 1u); clock++) {
        bell_timeout_spec spec = timeout_spec(bell_now(clock) + US(300), to_slot());
        bell_handle t = 0;
        spec.clock = clock;
        int32_t r = bell_register_timeout(bell, &spec, &t);
        if (clock > 0 && d && d->clocks) {
            CHECK_EQ(r, -d->error);
            check_verified(bell);
            continue;
        }
        CHECK_OK(r);
        CHECK_EQ(bell_slot_wait(bell, t, BELL_READ, now_ns() + PATIENCE, 0), BELL_TIMEOUT);
        CHECK_GE(bell_now(clock), spec.deadline_ns);
        CHECK_EQ(bell_unregister(bell, t, BELL_SYNC), BELL_FIRED);
    }
    CHECK_EQ(bell_poll(bell, 0, &e, 1, US(200)), 0);
    /* queues */
    bell_handle queue = make_queue(bell, NULL), user = make_user(bell, to_queue(queue));
    CHECK_OK(bell_queue_fd(bell, queue));
    CHECK_EQ(bell_post(bell, user, 7), 0);
    CHECK_EQ(bell_queue_wait(bell, queue, &e, 1, now_ns() + PATIENCE), 1);
    CHECK_EQ(e.data, 7);
    CHECK_EQ(bell_unregister(bell, user, 0), BELL_CANCELLED);
    CHECK_EQ(bell_queue_destroy(bell, queue, BELL_SYNC), BELL_FIRED);
    /* others */
    if (has_feature(BELL_FEATURE_POLLABLE)) {
        bell_handle far = set_timeout(bell, BELL_NEVER - 1, to_poll());
        int32_t r = bell_pollable_fd(bell, 0);
        if (d && d->pollable)
            CHECK_EQ(r, -d->error);
        else
            CHECK_OK(r);
        CHECK_EQ(bell_wake(bell, 0), 0);
        CHECK_EQ(bell_poll(bell, 0, &e, 1, BELL_NEVER), 0);
        CHECK_EQ(bell_unregister(bell, far, 0), BELL_CANCELLED);
    }
    bell_handle waited[] = {(uintptr_t)bell, make_user(bell, to_slot())};
    pthread_t thread = start_thread(wait_for_slot, waited);
    CHECK_EQ(bell_post(bell, waited[1], 1), 0);
    join_thread(thread);
    CHECK_OK(bell_unregister(bell, waited[1], BELL_SYNC));
    make_a_ghost(bell);
    check_verified(bell);
    CHECK_EQ(bell_dump(bell, fds[1]), 0);
    CHECK_GT(drain_fd(fds[0]), 0);
    /* library threads, on each CPU's shard */
    bell_t *threaded = make_bell(2, 2);
    bell_fd_spec spec = fd_spec(fds[0], BELL_READ, BELL_ONESHOT, to_slot());
    bell_handle h;
    spec.shard = BELL_SHARD_CURRENT_CPU;
    CHECK_OK(bell_register_fd(threaded, &spec, &h));
    put_byte(fds[1]);
    CHECK_EQ(bell_slot_wait(threaded, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
    CHECK_EQ(drain_fd(fds[0]), 1);
    CHECK_EQ(bell_unregister(threaded, h, BELL_SYNC), BELL_FIRED);
    check_clean(threaded);
    /* a child */
    int status;
    CHECK_EQ(bell_before_fork(bell), 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK_EQ(bell_after_fork_child(bell, 0), 0);
        CHECK_EQ(bell_rearm(bell, slot, NULL, BELL_NEVER), 0);
        put_byte(fds[1]);
        CHECK_EQ(bell_slot_wait(bell, slot, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
        CHECK_EQ(bell_destroy(bell, 0), 0);
        _exit(0);
    }
    CHECK_EQ(bell_after_fork_parent(bell), 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_EQ(bell_unregister(bell, slot, 0), BELL_CANCELLED); /* poll(2) told of its news, so it is armed as it was */
    CHECK_EQ(bell_close_fd(bell, fds[0]), 0);
    CHECK_EQ(close(fds[1]), 0);
    check_clean(bell);
}

static void all_under_the_list(void *argument)
{
    (void)argument;
    allow_only_the_list();
    use_everything(NULL);
}

static void are_the_documented_system_calls_enough(void)
{
    use_everything(NULL); /* it works at all */
    in_child(all_under_the_list, NULL);
}

static void call_what_is_not_on_the_list(void *argument)
{
    (void)argument;
    allow_only_the_list();
    syscall(SYS_getppid);
}

/* Else the test above would show nothing. */
static void does_the_filter_bite(void)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        call_what_is_not_on_the_list(NULL);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && (WEXITSTATUS(status) == 1 || WEXITSTATUS(status) == 77));
}

static void all_with_a_call_denied(void *argument)
{
    const denied *d = argument;
    deny(d->call, d->error);
    use_everything(d);
}

static void does_all_work_with_what_can_be_done_without_denied(void)
{
    static denied list[] = {
#ifdef SYS_epoll_pwait2
        {.call = SYS_epoll_pwait2, .error = ENOSYS},
        {.call = SYS_epoll_pwait2, .error = EPERM},
#endif
#if defined SYS_io_uring_setup && !defined BELL_TEST_IO_URING
        {.call = SYS_io_uring_setup, .error = EPERM},
        {.call = SYS_io_uring_setup, .error = ENOSYS},
#endif
        {.call = SYS_timerfd_gettime, .error = EPERM},
        {.call = SYS_timerfd_gettime, .error = ENOSYS},
        {.call = SYS_timerfd_create, .error = EPERM, .clocks = 1, .pollable = 1},
        {.call = SYS_timerfd_create, .error = ENOSYS, .clocks = 1, .pollable = 1},
        {.call = SYS_getcpu, .error = ENOSYS},
        {.call = SYS_madvise, .error = EPERM},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        in_child(all_with_a_call_denied, &list[i]);
}

static void create_with_a_call_denied(void *argument)
{
    const denied *d = argument;
    bell_config config;
    int fds = live_fds();
    CHECK_OK(bell_config_init(&config, sizeof config));
    deny(d->call, d->error);
    for (uint32_t threads = 0; threads < 3; threads++) {
        bell_t *bell = (bell_t *)1;
        config.threads = threads;
        CHECK_EQ(bell_create(&config, &bell), -d->error);
        CHECK(bell == (bell_t *)1);
        CHECK_EQ(live_fds(), fds);
    }
}

static void is_it_told_when_what_must_be_there_is_denied(void)
{
    static denied epoll[] = {{.call = SYS_epoll_create1, .error = EPERM}, {.call = SYS_epoll_create1, .error = ENOSYS},
                             {.call = SYS_eventfd2, .error = EPERM},      {.call = SYS_eventfd2, .error = ENOSYS},
                             {.call = SYS_epoll_ctl, .error = EPERM}},
                  poll[] = {{.call = SYS_pipe2, .error = EPERM}, {.call = SYS_pipe2, .error = ENOSYS}};
    if (left_out_on_io_uring("asked below"))
        return;
    if (has_feature(BELL_FEATURE_EPOLL))
        for (size_t i = 0; i < sizeof epoll / sizeof *epoll; i++)
            in_child(create_with_a_call_denied, &epoll[i]);
    else
        for (size_t i = 0; i < sizeof poll / sizeof *poll; i++)
            in_child(create_with_a_call_denied, &poll[i]);
}

/* Each of the three calls alone; the usual backend is there all the same. */
static void create_with_io_uring_denied(void *argument)
{
    const denied *d = argument;
    bell_config config;
    int fds = live_fds();
    CHECK_OK(bell_config_init(&config, sizeof config));
    deny(d->call, d->error);
    for (uint32_t threads = 0; threads < 3; threads++) {
        bell_t *bell = (bell_t *)1;
        config.flags = BELL_IO_URING;
        config.threads = threads;
        int32_t r = bell_create(&config, &bell);
        CHECK_EQ(r, d->error == ENOSYS || !has_feature(BELL_FEATURE_IO_URING) ? BELL_E_UNSUPPORTED : -d->error);
        CHECK(bell == (bell_t *)1);
        CHECK_EQ(live_fds(), fds);
        if (on_io_uring())
            continue;
        config.flags = 0;
        CHECK_OK(bell_create(&config, &bell));
        CHECK_OK(bell_destroy(bell, 0));
    }
}

static void is_io_uring_refused_where_it_is_forbidden(void)
{
#ifdef SYS_io_uring_setup
    static denied calls[] = {
        {.call = SYS_io_uring_setup, .error = EPERM},    {.call = SYS_io_uring_setup, .error = ENOSYS},
        {.call = SYS_io_uring_enter, .error = EPERM},    {.call = SYS_io_uring_enter, .error = ENOSYS},
        {.call = SYS_io_uring_register, .error = EPERM}, {.call = SYS_io_uring_register, .error = ENOSYS},
    };
    bell_config config;
    bell_t *bell;
    CHECK_OK(bell_config_init(&config, sizeof config));
    config.flags = BELL_IO_URING;
    int32_t r = bell_create(&config, &bell);
    if (r == 0)
        CHECK_OK(bell_destroy(bell, 0));
    else
        fprintf(stderr, "  this kernel says %d by itself\n", r);
    for (size_t i = r == 0 ? 0 : 6; i < sizeof calls / sizeof *calls; i++)
        in_child(create_with_io_uring_denied, &calls[i]);
#endif
}

int main(void)
{
    if (!fits_in_here())
        SKIP("valgrind makes system calls of its own, or the architecture is not known here");
    RUN(does_the_filter_bite);
    RUN(are_the_documented_system_calls_enough);
    RUN(does_all_work_with_what_can_be_done_without_denied);
    RUN(is_it_told_when_what_must_be_there_is_denied);
    RUN(is_io_uring_refused_where_it_is_forbidden);
    return 0;
}
