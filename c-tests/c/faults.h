/* faults.h: makes system calls and allocations of the library fail. This program's own definitions of libc's functions
 * come first when libdoorbell.so is bound, so they stand between the two. A fault strikes only
 * - on a thread between faults_begin and faults_end,
 * - calls that come from libdoorbell's code (what libc allocates for itself is left alone),
 * - the k-th such call of the kinds that are asked for, or that one and all after it.
 *
 *     faults_plan((faults){.kinds = FAULTS_MEMORY, .at = 3});
 *     faults_begin(); r = bell_register_fd(...); faults_end();
 *     if (fault.struck) ...
 *
 * In the same way, what the library has allocated and not freed is counted (live_blocks), and a test may look in
 * between: hook_after_wait, hook_before_write, hook_clock_ns, hook_no_rdhup, hook_uring_... */

#ifndef FAULTS_H
#define FAULTS_H

#include "check.h"
#include <dlfcn.h>
#include <link.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

/* Each function, and what it fails with: one error for each of three runs. Those of the manual pages; close and write
 * fail as the header says, and uring_probe as under a seccomp filter: it is the two calls by which io_uring is asked,
 * when a manager is made, if they are forbidden. */
#define FAULTS_LIST(X)                                                                                                 \
    X(memory, ENOMEM, ENOMEM, ENOMEM)                                                                                  \
    X(epoll_create1, EMFILE, ENFILE, ENOMEM)                                                                           \
    X(epoll_ctl, ENOMEM, ENOSPC, ENOMEM)                                                                               \
    X(epoll_wait, EINTR, EINTR, EINTR)                                                                                 \
    X(epoll_pwait2, EINTR, ENOSYS, EPERM)                                                                              \
    X(eventfd, EMFILE, ENFILE, ENOMEM)                                                                                 \
    X(timerfd_create, EMFILE, ENFILE, ENOMEM)                                                                          \
    X(timerfd_settime, ECANCELED, ECANCELED, ECANCELED)                                                                \
    X(pipe2, EMFILE, ENFILE, ENFILE)                                                                                   \
    X(open, EMFILE, ENFILE, ENOENT)                                                                                    \
    X(mmap, ENOMEM, EAGAIN, ENOMEM)                                                                                    \
    X(madvise, EINVAL, ENOMEM, EINVAL)                                                                                 \
    X(poll, ENOMEM, EINTR, ENOMEM)                                                                                     \
    X(ppoll, ENOMEM, EINTR, ENOMEM)                                                                                    \
    X(fstat, ENOMEM, ENOMEM, ENOMEM)                                                                                   \
    X(dup3, EBUSY, EINTR, EBUSY)                                                                                       \
    X(pthread_create, EAGAIN, EAGAIN, EAGAIN)                                                                          \
    X(sched_getcpu, ENOSYS, ENOSYS, ENOSYS)                                                                            \
    X(futex_wait, EINTR, EAGAIN, ENOSYS)                                                                               \
    X(clock_gettime, EINVAL, EPERM, EINVAL)                                                                            \
    X(close, EIO, EDQUOT, ENOSPC)                                                                                      \
    X(write, EPERM, EBADF, EIO)                                                                                        \
    X(uring_setup, EMFILE, ENFILE, ENOMEM)                                                                             \
    X(uring_probe, EPERM, ENOSYS, EPERM)                                                                               \
    X(uring_register, ENOMEM, ENOMEM, ENOMEM)                                                                          \
    X(uring_enter, EAGAIN, EINTR, EBADR)

enum {
#define FAULTS_NAME(name, a, b, c) FAULT_##name,
    FAULTS_LIST(FAULTS_NAME)
#undef FAULTS_NAME
        FAULT_KINDS
};
#define FAULTS_OF(name) (1u << FAULT_##name)
#define FAULTS_MEMORY FAULTS_OF(memory)
#define FAULTS_ALL_CALLS (((1u << FAULT_KINDS) - 1) & ~FAULTS_MEMORY)

static const char *const fault_names[] = {
#define FAULTS_NAME(name, a, b, c) #name,
    FAULTS_LIST(FAULTS_NAME)
#undef FAULTS_NAME
};

typedef struct faults {
    uint32_t kinds;
    int at;       /* strikes the at-th call, from 1 */
    int for_ever; /* and all after it */
    int variant;  /* 0 to 2: which of the errors */
    int error;    /* if not 0: this error for all */
    int met, struck, last;
    int on;
} faults;

static __thread faults fault;

/* Called in place of a failure: the call itself goes on. */
static void (*hook_at_call)(void);
/* Called on the driver's thread when the kernel has reported something and the library has not looked at it yet. */
static void (*hook_after_wait)(void);
/* Called before each write of the library. */
static void (*hook_before_write)(int fd);
/* If not 0: the time of every clock, as the library is told. A wait that finds nothing takes no time, and this clock
 * goes on by as much as was to be waited. */
static int64_t hook_clock_ns;
static int64_t hook_longest_wait_ns;
/* A kernel that does not know RDHUP, as gVisor once. */
static int hook_no_rdhup;
/* What io_uring_setup does not know: these flags (EINVAL); it does not tell these features. */
static uint32_t hook_uring_unknown_flags, hook_uring_no_features;

static uint32_t live_blocks; /* allocated by the library, not freed */
static uintptr_t library_from, library_to;

/* These run before the sanitizers are ready. */
#define FAULTS_PLAIN __attribute__((no_sanitize_address, no_sanitize_undefined, noinline))

static inline void faults_plan(faults f)
{
    fault = f;
}

static inline void faults_begin(void)
{
    fault.on = 1;
}

static inline void faults_end(void)
{
    fault.on = 0;
}

static FAULTS_PLAIN int from_library(const void *caller)
{
    return (uintptr_t)caller - library_from < library_to - library_from;
}

static FAULTS_PLAIN int strikes(int kind, const void *caller)
{
    static const int errors[][3] = {
#define FAULTS_ERRORS(name, a, b, c) {a, b, c},
        FAULTS_LIST(FAULTS_ERRORS)
#undef FAULTS_ERRORS
    };
    if (!fault.on || !(fault.kinds & 1u << kind) || !from_library(caller))
        return 0;
    fault.met++;
    /* The kernel tells once that it has lost completions. */
    int once = !fault.for_ever || (kind == FAULT_uring_enter && errors[kind][fault.variant] == EBADR);
    if (fault.met < fault.at || (once && fault.met > fault.at))
        return 0;
    fault.struck++;
    fault.last = kind;
    if (hook_at_call) {
        int on = fault.on;
        fault.on = 0;
        hook_at_call();
        fault.on = on;
        return 0;
    }
    errno = fault.error ? fault.error : errors[kind][fault.variant];
    return 1;
}

#define CALLER __builtin_return_address(0)

/* ---- the functions behind ours ---- */

static FAULTS_PLAIN void faults_next(void *pointer, const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    memcpy(pointer, &found, sizeof found);
}

#define NEXT(name)                                                                                                     \
    static __typeof__(name) *next_##name;                                                                              \
    if (!next_##name)                                                                                                  \
    faults_next(&next_##name, #name)

static int faults_find_library(struct dl_phdr_info *info, size_t size, void *wanted)
{
    uintptr_t from = UINTPTR_MAX, to = 0;
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type == PT_LOAD) {
            uintptr_t at = info->dlpi_addr + p->p_vaddr;
            from = at < from ? at : from;
            to = at + p->p_memsz > to ? at + p->p_memsz : to;
        }
    }
    if ((uintptr_t)wanted < from || (uintptr_t)wanted >= to)
        return 0;
    library_from = from;
    library_to = to;
    return 1;
}

static __attribute__((constructor)) void faults_start(void)
{
    if (!dl_iterate_phdr(faults_find_library, dlsym(RTLD_DEFAULT, "bell_version")))
        abort();
}

/* ---- memory ---- */

/* For whoever allocates before the functions behind ours are found. */
static char faults_early[8192] __attribute__((aligned(64)));
static size_t faults_early_used;
static volatile int faults_finding; /* volatile: to the compiler, dlsym does not come back here */

static FAULTS_PLAIN void *faults_early_block(size_t size)
{
    size_t at = (faults_early_used + 63) / 64 * 64;
    if (at + size > sizeof faults_early)
        return NULL;
    faults_early_used = at + size;
    return faults_early + at;
}

static FAULTS_PLAIN int faults_is_early(const void *block)
{
    return (uintptr_t)block - (uintptr_t)faults_early < sizeof faults_early;
}

#define NEXT_MEMORY(name, early)                                                                                       \
    static __typeof__(name) *next_##name;                                                                              \
    if (!next_##name) {                                                                                                \
        if (faults_finding)                                                                                            \
            return early;                                                                                              \
        faults_finding = 1;                                                                                            \
        faults_next(&next_##name, #name);                                                                              \
        faults_finding = 0;                                                                                            \
    }

static FAULTS_PLAIN void *faults_count(void *block, const void *caller)
{
    if (block && from_library(caller))
        __atomic_fetch_add(&live_blocks, 1, __ATOMIC_RELAXED);
    return block;
}

FAULTS_PLAIN void *malloc(size_t size)
{
    const void *caller = CALLER;
    NEXT_MEMORY(malloc, faults_early_block(size))
    return strikes(FAULT_memory, caller) ? NULL : faults_count(next_malloc(size), caller);
}

FAULTS_PLAIN void *calloc(size_t n, size_t size)
{
    const void *caller = CALLER;
    NEXT_MEMORY(calloc, faults_early_block(n * size))
    return strikes(FAULT_memory, caller) ? NULL : faults_count(next_calloc(n, size), caller);
}

FAULTS_PLAIN void free(void *block)
{
    const void *caller = CALLER;
    if (!block || faults_is_early(block))
        return;
    NEXT_MEMORY(free, )
    if (from_library(caller))
        __atomic_fetch_sub(&live_blocks, 1, __ATOMIC_RELAXED);
    next_free(block);
}

FAULTS_PLAIN void *realloc(void *block, size_t size)
{
    const void *caller = CALLER;
    if (faults_is_early(block)) {
        void *moved = malloc(size);
        size_t room = sizeof faults_early - (size_t)((char *)block - faults_early);
        if (moved)
            memcpy(moved, block, size < room ? size : room);
        return moved;
    }
    NEXT_MEMORY(realloc, NULL)
    if (strikes(FAULT_memory, caller))
        return NULL;
    void *moved = next_realloc(block, size);
    if (!block)
        faults_count(moved, caller);
    return moved;
}

FAULTS_PLAIN int posix_memalign(void **out, size_t align, size_t size)
{
    const void *caller = CALLER;
    NEXT_MEMORY(posix_memalign, ENOMEM)
    if (strikes(FAULT_memory, caller))
        return ENOMEM;
    int r = next_posix_memalign(out, align, size);
    if (r == 0)
        faults_count(*out, caller);
    return r;
}

FAULTS_PLAIN void *aligned_alloc(size_t align, size_t size)
{
    const void *caller = CALLER;
    NEXT_MEMORY(aligned_alloc, NULL)
    return strikes(FAULT_memory, caller) ? NULL : faults_count(next_aligned_alloc(align, size), caller);
}

/* ---- system calls ---- */

#define FAULTS_CALL(result, name, parameters, arguments)                                                               \
    FAULTS_PLAIN result name parameters                                                                                \
    {                                                                                                                  \
        NEXT(name);                                                                                                    \
        return strikes(FAULT_##name, CALLER) ? -1 : next_##name arguments;                                             \
    }

FAULTS_CALL(int, epoll_create1, (int flags), (flags))
FAULTS_CALL(int, eventfd, (unsigned int count, int flags), (count, flags))
FAULTS_CALL(int, timerfd_create, (clockid_t clock, int flags), (clock, flags))
FAULTS_CALL(int, timerfd_settime, (int fd, int flags, const struct itimerspec *new, struct itimerspec *old),
            (fd, flags, new, old))
FAULTS_CALL(int, pipe2, (int ends[2], int flags), (ends, flags))
FAULTS_CALL(int, madvise, (void *at, size_t size, int advice), (at, size, advice))
FAULTS_CALL(int, poll, (struct pollfd *list, nfds_t n, int ms), (list, n, ms))
FAULTS_CALL(int, dup3, (int old, int new, int flags), (old, new, flags))
FAULTS_CALL(int, sched_getcpu, (void), ())

/* What a wait of the library has come to. */
static FAULTS_PLAIN long faults_waited(long n, int64_t asked_ns)
{
    if (n > 0 && hook_after_wait)
        hook_after_wait();
    if (n == 0 && hook_clock_ns && asked_ns > 0) {
        hook_clock_ns += asked_ns;
        hook_longest_wait_ns = asked_ns > hook_longest_wait_ns ? asked_ns : hook_longest_wait_ns;
    }
    return n;
}

FAULTS_PLAIN int epoll_wait(int epoll, struct epoll_event *events, int n, int ms)
{
    NEXT(epoll_wait);
    if (!from_library(CALLER))
        return next_epoll_wait(epoll, events, n, ms);
    if (strikes(FAULT_epoll_wait, CALLER))
        return -1;
    int found = next_epoll_wait(epoll, events, n, hook_clock_ns && ms > 0 ? 0 : ms);
    return (int)faults_waited(found, (int64_t)ms * 1000000);
}

FAULTS_PLAIN int ppoll(struct pollfd *list, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
    static const struct timespec none;
    int64_t ns = timeout ? (int64_t)timeout->tv_sec * 1000000000 + timeout->tv_nsec : -1;
    NEXT(ppoll);
    if (!from_library(CALLER))
        return next_ppoll(list, n, timeout, mask);
    if (strikes(FAULT_ppoll, CALLER))
        return -1;
    if (hook_no_rdhup)
        for (nfds_t i = 0; i < n; i++)
            list[i].events &= ~POLLRDHUP;
    return (int)faults_waited(next_ppoll(list, n, hook_clock_ns && ns > 0 ? &none : timeout, mask), ns);
}

FAULTS_PLAIN int clock_gettime(clockid_t clock, struct timespec *time)
{
    NEXT(clock_gettime);
    if (strikes(FAULT_clock_gettime, CALLER))
        return -1;
    if (!hook_clock_ns || !from_library(CALLER))
        return next_clock_gettime(clock, time);
    time->tv_sec = hook_clock_ns / 1000000000;
    time->tv_nsec = hook_clock_ns % 1000000000;
    return 0;
}

FAULTS_PLAIN ssize_t write(int fd, const void *bytes, size_t n)
{
    NEXT(write);
    if (strikes(FAULT_write, CALLER))
        return -1;
    if (hook_before_write && from_library(CALLER))
        hook_before_write(fd);
    return next_write(fd, bytes, n);
}

/* Taking out is what the kernel does not refuse for want of anything. */
FAULTS_PLAIN int epoll_ctl(int epoll, int what, int fd, struct epoll_event *event)
{
    struct epoll_event less;
    NEXT(epoll_ctl);
    if (hook_no_rdhup && event) {
        less = *event;
        less.events &= ~(uint32_t)EPOLLRDHUP;
        event = &less;
    }
    return what != EPOLL_CTL_DEL && strikes(FAULT_epoll_ctl, CALLER) ? -1 : next_epoll_ctl(epoll, what, fd, event);
}

/* The fd is gone, whatever close(2) says. */
FAULTS_PLAIN int close(int fd)
{
    NEXT(close);
    int struck = strikes(FAULT_close, CALLER), error = errno;
    int r = next_close(fd);
    if (!struck || r < 0)
        return r;
    errno = error;
    return -1;
}

FAULTS_PLAIN int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *),
                                void *argument)
{
    NEXT(pthread_create);
    return strikes(FAULT_pthread_create, CALLER) ? EAGAIN : next_pthread_create(thread, attributes, body, argument);
}

FAULTS_PLAIN void *mmap(void *at, size_t size, int access, int flags, int fd, off_t offset)
{
    NEXT(mmap);
    return strikes(FAULT_mmap, CALLER) ? MAP_FAILED : next_mmap(at, size, access, flags, fd, offset);
}

FAULTS_PLAIN void *mmap64(void *at, size_t size, int access, int flags, int fd, off64_t offset)
{
    NEXT(mmap64);
    return strikes(FAULT_mmap, CALLER) ? MAP_FAILED : next_mmap64(at, size, access, flags, fd, offset);
}

FAULTS_PLAIN int fstat(int fd, struct stat *out)
{
    NEXT(fstat);
    return strikes(FAULT_fstat, CALLER) ? -1 : next_fstat(fd, out);
}

FAULTS_PLAIN int fstat64(int fd, struct stat64 *out)
{
    NEXT(fstat64);
    return strikes(FAULT_fstat, CALLER) ? -1 : next_fstat64(fd, out);
}

FAULTS_PLAIN int open(const char *path, int flags, ...)
{
    NEXT(open);
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return strikes(FAULT_open, CALLER) ? -1 : next_open(path, flags, mode);
}

FAULTS_PLAIN int open64(const char *path, int flags, ...)
{
    NEXT(open64);
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return strikes(FAULT_open, CALLER) ? -1 : next_open64(path, flags, mode);
}

FAULTS_PLAIN long syscall(long number, ...)
{
    enum { FUTEX_COMMAND = 127, FUTEX_WAIT_BITSET = 9 };
    NEXT(syscall);
    long a[6];
    va_list more;
    va_start(more, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(more, long);
    va_end(more);
#ifdef SYS_epoll_pwait2
    if (number == SYS_epoll_pwait2) {
        static const struct timespec none;
        const struct timespec *timeout;
        memcpy(&timeout, &a[3], sizeof timeout);
        if (strikes(FAULT_epoll_pwait2, CALLER))
            return -1;
        int64_t ns = (int64_t)timeout->tv_sec * 1000000000 + timeout->tv_nsec;
        if (hook_clock_ns) {
            timeout = &none;
            memcpy(&a[3], &timeout, sizeof timeout);
        }
        return faults_waited(next_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]), ns);
    }
#endif
#ifdef SYS_io_uring_enter
    enum { UNREGISTER_EVENTFD = 5 };
    if (number == SYS_io_uring_setup) {
        uint32_t *params; /* struct io_uring_params: the third are the flags, the sixth the features */
        memcpy(&params, &a[1], sizeof params);
        if (strikes(FAULT_uring_setup, CALLER))
            return -1;
        if (params[2] & hook_uring_unknown_flags) {
            errno = EINVAL;
            return -1;
        }
        long fd = next_syscall(number, a[0], a[1]);
        params[5] &= ~hook_uring_no_features;
        return fd;
    }
    if (number == SYS_io_uring_register &&
        strikes(a[1] == UNREGISTER_EVENTFD ? FAULT_uring_probe : FAULT_uring_register, CALLER))
        return -1;
    if (number == SYS_io_uring_enter && strikes(a[3] == 0 ? FAULT_uring_probe : FAULT_uring_enter, CALLER))
        return -1;
    if (number == SYS_io_uring_enter && a[2] > 0 && hook_clock_ns) {
        struct argument {
            uint64_t mask;
            uint32_t mask_size, min_wait;
            uint64_t time;
        } *asked, now;
        static const struct timespec none;
        struct timespec *timeout;
        memcpy(&asked, &a[4], sizeof asked);
        now = *asked;
        memcpy(&timeout, &now.time, sizeof timeout);
        if (timeout) {
            /* What is to be submitted first: a call that does both does not say that its time was up. */
            long n = a[1] ? next_syscall(number, a[0], a[1], 0L, a[3] & ~8L, 0L, 0L) : 0;
            now.time = (uintptr_t)&none;
            long r = next_syscall(number, a[0], 0L, a[2], a[3], &now, a[5]);
            if (r < 0 && errno == ETIME) {
                faults_waited(0, (int64_t)timeout->tv_sec * 1000000000 + timeout->tv_nsec);
                errno = ETIME;
            } else if (r >= 0) {
                faults_waited(1, 0);
            }
            return n > 0 ? n : r;
        }
    }
    if (number == SYS_io_uring_enter) {
        long n = next_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
        if (n >= 0)
            faults_waited(1, 0);
        return n;
    }
#endif
#ifdef SYS_fstat
    if (number == SYS_fstat && strikes(FAULT_fstat, CALLER))
        return -1;
#endif
    if (number == SYS_futex && (a[1] & FUTEX_COMMAND) == FUTEX_WAIT_BITSET && strikes(FAULT_futex_wait, CALLER))
        return -1;
    return next_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

#endif
