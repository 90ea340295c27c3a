/* doorbell-check: does Doorbell work on this machine, what can it do here, and what does it cost?
 *
 * Prints version, features and limits, asks every target, mode, clock and way of closing once (about a second in all),
 * then measures. Exit code: 0 all is well, 1 something failed, 2 it was called in a wrong way. */
#define _GNU_SOURCE
#include <doorbell.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/eventfd.h>
#include <sys/syscall.h>
#endif

#define MS(n) ((int64_t)(n) * 1000000)
#define PATIENCE MS(2000)
#define LENGTH(array) (sizeof(array) / sizeof *(array))

static int json;

/* ---- a question: NULL is yes, else what was wrong; SKIPPED... if it cannot be asked here ---- */

typedef const char *answer;
static const char SKIPPED[] = "skipped: ";
static const char *asking = "before the first question";

__attribute__((format(printf, 1, 2))) static answer wrong(const char *format, ...)
{
    static char text[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return text;
}

#define SKIP(why) return "skipped: " why
#define EXPECT(condition, ...)             \
    do {                                   \
        if (!(condition))                  \
            return wrong(__VA_ARGS__);     \
    } while (0)
/* A call of the library that must succeed; its result stays in `got`. */
#define CALL(call)                                                                   \
    do {                                                                             \
        int32_t code = (call);                                                       \
        if (code < 0)                                                                \
            return wrong("%s: %s", #call, bell_strerror(code));                      \
    } while (0)
#define SYSTEM(call)                                                                 \
    do {                                                                             \
        if ((call) < 0)                                                              \
            return wrong("%s: %s", #call, strerror(errno));                          \
    } while (0)

static void hangs(int signal)
{
    /* Only what is async-signal-safe. */
    (void)signal;
    const char *parts[] = { "doorbell-check: no end of: ", asking, "\n" };
    for (size_t i = 0; i < LENGTH(parts); i++)
        if (write(2, parts[i], strlen(parts[i])) < 0)
            break;
    _exit(1);
}

/* ---- what the questions share ---- */

static bell_t *bell;
static uint64_t features;

static int has(uint64_t feature)
{
    return (features & feature) != 0;
}

static bell_fd_spec watch(int fd, uint32_t interest, uint32_t mode, bell_target target)
{
    bell_fd_spec spec;
    memset(&spec, 0, sizeof spec);
    spec.size = sizeof spec;
    spec.fd = fd;
    spec.interest = interest;
    spec.mode = mode;
    spec.user_data = 42;
    spec.target = target;
    return spec;
}

static bell_timeout_spec timeout_at(uint32_t clock, int64_t deadline, bell_target target)
{
    bell_timeout_spec spec;
    memset(&spec, 0, sizeof spec);
    spec.size = sizeof spec;
    spec.clock = clock;
    spec.deadline_ns = deadline;
    spec.target = target;
    return spec;
}

static bell_target target_of(uint32_t kind)
{
    bell_target target;
    memset(&target, 0, sizeof target);
    target.kind = kind;
    return target;
}

static answer make_pipe(int fds[2])
{
    SYSTEM(pipe(fds));
    for (int i = 0; i < 2; i++) {
        SYSTEM(fcntl(fds[i], F_SETFL, O_NONBLOCK));
        SYSTEM(fcntl(fds[i], F_SETFD, FD_CLOEXEC));
    }
    return NULL;
}

static answer put_byte(int fd)
{
    EXPECT(write(fd, "!", 1) == 1, "write to a pipe: %s", strerror(errno));
    return NULL;
}

static answer take_byte(int fd)
{
    char byte;
    EXPECT(read(fd, &byte, 1) == 1, "read from a pipe: %s", strerror(errno));
    return NULL;
}

/* One turn that has to bring one event. */
static answer next_event(bell_event *event)
{
    int32_t n = bell_poll(bell, 0, event, 1, PATIENCE);
    EXPECT(n == 1, "bell_poll returned %d (%s), expected one event", n, n < 0 ? bell_strerror(n) : "no event came");
    return NULL;
}

/* Until a word has the bits, for at most PATIENCE. */
static answer drive_until(uint32_t *word, uint32_t bits)
{
    for (int64_t end = bell_now(BELL_CLOCK_MONOTONIC) + PATIENCE; bell_now(BELL_CLOCK_MONOTONIC) < end;) {
        if (__atomic_load_n(word, __ATOMIC_ACQUIRE) & bits)
            return NULL;
        CALL(bell_poll(bell, 0, NULL, 0, MS(100)));
    }
    return wrong("the word is 0x%x, bits 0x%x never came", __atomic_load_n(word, __ATOMIC_ACQUIRE), bits);
}

#define PASS_ON(question)                \
    do {                                 \
        answer passed_on = (question);   \
        if (passed_on)                   \
            return passed_on;            \
    } while (0)

/* Runs `ask` with a pipe, which is closed whatever comes out. */
static answer with_pipe(answer (*ask)(int fds[2]))
{
    int fds[2];
    PASS_ON(make_pipe(fds));
    answer said = ask(fds);
    close(fds[0]);
    close(fds[1]);
    return said;
}

/* ---- identity ---- */

static answer versions_agree(void)
{
    EXPECT(bell_abi_version() >> 16 == BELL_ABI_MAJOR, "the library has ABI %u.%u, the header of this program %u.%u",
           bell_abi_version() >> 16, bell_abi_version() & 0xffff, BELL_ABI_MAJOR, BELL_ABI_MINOR);
    const struct {
        uint32_t id;
        size_t size;
    } layouts[] = { { BELL_LAYOUT_CONFIG, sizeof(bell_config) },     { BELL_LAYOUT_TARGET, sizeof(bell_target) },
                    { BELL_LAYOUT_FD_SPEC, sizeof(bell_fd_spec) },   { BELL_LAYOUT_TIMEOUT_SPEC, sizeof(bell_timeout_spec) },
                    { BELL_LAYOUT_EVENT, sizeof(bell_event) },       { BELL_LAYOUT_SLOT, sizeof(bell_slot) },
                    { BELL_LAYOUT_COUNTERS, sizeof(bell_counters) }, { BELL_LAYOUT_GHC_OPS, sizeof(bell_ghc_ops) } };
    for (size_t i = 0; i < LENGTH(layouts); i++) {
        uint32_t size = 0;
        CALL(bell_layout(layouts[i].id, &size, NULL));
        EXPECT(size == layouts[i].size, "struct %u has %u bytes in the library, %zu in the header", layouts[i].id, size,
               layouts[i].size);
    }
    return NULL;
}

/* ---- targets ---- */

static answer poll_target(int fds[2])
{
    bell_handle h;
    bell_fd_spec spec = watch(fds[0], BELL_READ, BELL_ONESHOT, target_of(BELL_TARGET_POLL));
    CALL(bell_register_fd(bell, &spec, &h));
    PASS_ON(put_byte(fds[1]));
    bell_event e;
    PASS_ON(next_event(&e));
    EXPECT(e.handle == h && e.user_data == 42 && e.ready == BELL_READ, "the event is of 0x%" PRIx64 ", ready 0x%x",
           e.handle, e.ready);
    CALL(bell_unregister(bell, h, BELL_SYNC));
    return NULL;
}

static answer slot_target(int fds[2])
{
    bell_handle h;
    bell_slot *slot;
    bell_fd_spec spec = watch(fds[0], BELL_READ, BELL_ONESHOT, target_of(BELL_TARGET_SLOT));
    CALL(bell_register_fd(bell, &spec, &h));
    CALL(bell_slot_map(bell, h, &slot));
    PASS_ON(put_byte(fds[1]));
    int32_t ready = bell_slot_wait(bell, h, BELL_READ, bell_now(BELL_CLOCK_MONOTONIC) + PATIENCE, 0);
    EXPECT(ready == (int32_t)BELL_READ, "bell_slot_wait returned %d (%s)", ready, bell_strerror(ready));
    CALL(bell_rearm(bell, h, NULL, BELL_NEVER));
    PASS_ON(drive_until(&slot->rd, BELL_READ));
    CALL(bell_unregister(bell, h, BELL_SYNC));
    return NULL;
}

static answer futex_target(int fds[2])
{
    bell_handle h;
    uint32_t word = 0;
    bell_target target = target_of(BELL_TARGET_FUTEX);
    target.word = &word;
    bell_fd_spec spec = watch(fds[0], BELL_READ, BELL_ONESHOT, target);
    CALL(bell_register_fd(bell, &spec, &h));
    PASS_ON(put_byte(fds[1]));
    answer said = drive_until(&word, BELL_READ);
    CALL(bell_unregister(bell, h, BELL_SYNC)); /* before the word is gone */
    return said;
}

static answer rings(int fds[2], int wake_fd, int readable, uint32_t flags)
{
    bell_handle h;
    bell_target target = target_of(BELL_TARGET_WAKE_FD);
    target.fd = wake_fd;
    target.flags = flags;
    bell_fd_spec spec = watch(fds[0], BELL_READ, BELL_ONESHOT, target);
    CALL(bell_register_fd(bell, &spec, &h));
    PASS_ON(put_byte(fds[1]));
    CALL(bell_poll(bell, 0, NULL, 0, PATIENCE));
    struct pollfd p = { .fd = readable, .events = POLLIN };
    int n = poll(&p, 1, 0);
    CALL(bell_unregister(bell, h, BELL_SYNC));
    EXPECT(n == 1, "nothing was written");
    return NULL;
}

static answer wake_fd_byte(int fds[2])
{
    int wake[2];
    PASS_ON(make_pipe(wake));
    answer said = rings(fds, wake[1], wake[0], BELL_WAKE_BYTE);
    close(wake[0]);
    close(wake[1]);
    return said;
}

static answer wake_fd_eventfd(int fds[2])
{
#ifdef __linux__
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    SYSTEM(fd);
    answer said = rings(fds, fd, fd, 0);
    close(fd);
    return said;
#else
    (void)fds;
    SKIP("this system has no eventfd");
#endif
}

static answer queue_target(int fds[2])
{
    bell_handle queue, h;
    CALL(bell_queue_create(bell, 0, NULL, &queue));
    bell_target target = target_of(BELL_TARGET_QUEUE);
    target.queue = queue;
    bell_fd_spec spec = watch(fds[0], BELL_READ, BELL_ONESHOT, target);
    CALL(bell_register_fd(bell, &spec, &h));
    PASS_ON(put_byte(fds[1]));
    bell_event e;
    int32_t n = bell_queue_wait(bell, queue, &e, 1, bell_now(BELL_CLOCK_MONOTONIC) + PATIENCE);
    EXPECT(n == 1 && e.handle == h && e.ready == BELL_READ, "bell_queue_wait returned %d", n);
    CALL(bell_unregister(bell, h, BELL_SYNC));
    CALL(bell_queue_destroy(bell, queue, 0));
    return NULL;
}

/* GHC's runtime is not here: something that writes down what it is told takes its place. */
static struct {
    int capability;
    void *stable_ptr;
    int calls;
} put;

static void record_putmvar(int capability, void *stable_ptr)
{
    put.capability = capability;
    put.stable_ptr = stable_ptr;
    put.calls++;
}

static answer mvar_target(int fds[2])
{
    bell_ghc_ops ops = { .size = sizeof ops, .try_putmvar = record_putmvar };
    bell_config config;
    CALL(bell_config_init(&config, sizeof config));
    config.ghc = &ops;
    bell_t *own;
    CALL(bell_create(&config, &own));
    bell_target target = target_of(BELL_TARGET_MVAR);
    target.stable_ptr = &put;
    target.capability = 3;
    bell_fd_spec spec = watch(fds[0], BELL_READ, BELL_ONESHOT, target);
    bell_handle h;
    CALL(bell_register_fd(own, &spec, &h));
    PASS_ON(put_byte(fds[1]));
    CALL(bell_poll(own, 0, NULL, 0, PATIENCE));
    int32_t whose = bell_unregister(own, h, BELL_SYNC);
    CALL(bell_destroy(own, 0));
    EXPECT(put.calls == 1 && put.capability == 3 && put.stable_ptr == &put, "hs_try_putmvar was called %d times", put.calls);
    EXPECT(whose == BELL_FIRED, "bell_unregister returned %d after the delivery", whose);
    return NULL;
}

/* ---- modes ---- */

static answer mode_edge(int fds[2])
{
    bell_handle h;
    bell_event e;
    bell_fd_spec spec = watch(fds[0], BELL_READ, BELL_EDGE, target_of(BELL_TARGET_POLL));
    int32_t code = bell_register_fd(bell, &spec, &h);
    if (!has(BELL_FEATURE_EDGE)) {
        EXPECT(code == BELL_E_UNSUPPORTED, "bell_register_fd returned %d without the feature", code);
        SKIP("this backend has no edges, and says so");
    }
    CALL(code);
    for (int i = 0; i < 2; i++) {
        PASS_ON(put_byte(fds[1]));
        PASS_ON(next_event(&e));
        PASS_ON(take_byte(fds[0]));
    }
    CALL(bell_unregister(bell, h, BELL_SYNC));
    return NULL;
}

static answer mode_oneshot(int fds[2])
{
    bell_handle h;
    bell_event e;
    bell_fd_spec spec = watch(fds[0], BELL_READ, BELL_ONESHOT, target_of(BELL_TARGET_POLL));
    CALL(bell_register_fd(bell, &spec, &h));
    PASS_ON(put_byte(fds[1]));
    PASS_ON(next_event(&e));
    int32_t n = bell_poll(bell, 0, &e, 1, 0);
    EXPECT(n == 0, "a second event without bell_rearm");
    CALL(bell_rearm(bell, h, NULL, BELL_NEVER));
    PASS_ON(next_event(&e));
    CALL(bell_unregister(bell, h, BELL_SYNC));
    return NULL;
}

static answer mode_level(int fds[2])
{
    bell_handle h;
    bell_event e;
    bell_fd_spec spec = watch(fds[0], BELL_READ, BELL_LEVEL, target_of(BELL_TARGET_POLL));
    CALL(bell_register_fd(bell, &spec, &h));
    PASS_ON(put_byte(fds[1]));
    PASS_ON(next_event(&e));
    PASS_ON(next_event(&e));
    PASS_ON(take_byte(fds[0]));
    int32_t n = bell_poll(bell, 0, &e, 1, 0);
    EXPECT(n == 0, "an event of an empty pipe");
    CALL(bell_unregister(bell, h, BELL_SYNC));
    return NULL;
}

static answer a_deadline_of_an_fd(int fds[2])
{
    bell_handle h;
    bell_event e;
    bell_fd_spec spec = watch(fds[0], BELL_READ, BELL_ONESHOT, target_of(BELL_TARGET_POLL));
    spec.flags = BELL_FD_DEADLINE;
    spec.deadline_ns = bell_now(BELL_CLOCK_MONOTONIC) + MS(2);
    CALL(bell_register_fd(bell, &spec, &h));
    PASS_ON(next_event(&e));
    EXPECT(e.ready == BELL_TIMEOUT, "ready is 0x%x", e.ready);
    EXPECT(bell_now(BELL_CLOCK_MONOTONIC) >= spec.deadline_ns, "too early");
    CALL(bell_unregister(bell, h, BELL_SYNC));
    return NULL;
}

/* ---- timeouts ---- */

static answer times_out(uint32_t clock)
{
    int64_t now = bell_now(clock);
    bell_timeout_spec spec = timeout_at(clock, (now < 0 ? 0 : now) + MS(5), target_of(BELL_TARGET_POLL));
    bell_handle h;
    int32_t code = bell_register_timeout(bell, &spec, &h);
    if (clock != BELL_CLOCK_MONOTONIC && !has(BELL_FEATURE_CLOCKS)) {
        EXPECT(code == BELL_E_UNSUPPORTED, "bell_register_timeout returned %d without the feature", code);
        SKIP("this build has no timeouts of that clock, and says so");
    }
    CALL(code);
    bell_event e;
    PASS_ON(next_event(&e));
    EXPECT(e.handle == h && e.ready == BELL_TIMEOUT && e.data == 1, "ready is 0x%x", e.ready);
    EXPECT(bell_now(clock) >= spec.deadline_ns, "too early, by %" PRId64 " ns", spec.deadline_ns - bell_now(clock));
    CALL(bell_unregister(bell, h, BELL_SYNC));
    return NULL;
}

static answer monotonic_timeout(void)
{
    return times_out(BELL_CLOCK_MONOTONIC);
}
static answer boot_timeout(void)
{
    return times_out(BELL_CLOCK_BOOT);
}
static answer real_timeout(void)
{
    return times_out(BELL_CLOCK_REAL);
}

static answer cancelled_timeout(void)
{
    bell_handle h;
    bell_timeout_spec spec =
        timeout_at(BELL_CLOCK_MONOTONIC, bell_now(BELL_CLOCK_MONOTONIC) + MS(60000), target_of(BELL_TARGET_POLL));
    CALL(bell_register_timeout(bell, &spec, &h));
    CALL(bell_update_timeout(bell, h, spec.deadline_ns + 1));
    int32_t whose = bell_unregister(bell, h, BELL_SYNC);
    EXPECT(whose == (int32_t)BELL_CANCELLED, "bell_unregister returned %d", whose);
    whose = bell_unregister(bell, h, 0);
    EXPECT(whose == BELL_E_STALE, "bell_unregister of a handle that is gone returned %d", whose);
    return NULL;
}

/* ---- user events, waking, nesting, closing, forking ---- */

static answer user_event(void)
{
    bell_handle h;
    bell_target target = target_of(BELL_TARGET_POLL);
    CALL(bell_register_user(bell, 0, &target, 42, &h));
    CALL(bell_post(bell, h, 1));
    CALL(bell_post(bell, h, 4));
    bell_event e;
    PASS_ON(next_event(&e));
    EXPECT(e.ready == BELL_USER && e.data == 5, "ready 0x%x, bits 0x%" PRIx64, e.ready, e.data);
    CALL(bell_unregister(bell, h, BELL_SYNC));
    return NULL;
}

static void *wake_it(void *unused)
{
    (void)unused;
    return (void *)(intptr_t)bell_wake(bell, 0);
}

static answer a_thread_wakes_a_sleeper(void)
{
    pthread_t thread;
    int64_t start = bell_now(BELL_CLOCK_MONOTONIC);
    int failed = pthread_create(&thread, NULL, wake_it, NULL);
    EXPECT(!failed, "pthread_create: %s", strerror(failed));
    int32_t n = bell_poll(bell, 0, NULL, 0, PATIENCE);
    int64_t slept = bell_now(BELL_CLOCK_MONOTONIC) - start;
    void *code;
    pthread_join(thread, &code);
    EXPECT((intptr_t)code == 0, "bell_wake returned %d", (int)(intptr_t)code);
    EXPECT(n == 0, "bell_poll returned %d", n);
    EXPECT(slept < PATIENCE, "it slept on");
    return NULL;
}

static answer nested(int fds[2])
{
    int32_t fd = bell_pollable_fd(bell, 0);
    if (!has(BELL_FEATURE_POLLABLE)) {
        EXPECT(fd == BELL_E_UNSUPPORTED, "bell_pollable_fd returned %d without the feature", fd);
        SKIP("this backend has no pollable fd, and says so");
    }
    CALL(fd);
    bell_handle h;
    bell_event e;
    bell_fd_spec spec = watch(fds[0], BELL_READ, BELL_ONESHOT, target_of(BELL_TARGET_POLL));
    CALL(bell_register_fd(bell, &spec, &h));
    CALL(bell_poll(bell, 0, NULL, 0, 0));
    PASS_ON(put_byte(fds[1]));
    struct pollfd p = { .fd = fd, .events = POLLIN };
    int n = poll(&p, 1, (int)(PATIENCE / MS(1)));
    EXPECT(n == 1, "the pollable fd is not readable");
    n = bell_poll(bell, 0, &e, 1, 0);
    EXPECT(n == 1, "bell_poll found %d events behind a readable fd", n);
    CALL(bell_unregister(bell, h, BELL_SYNC));
    return NULL;
}

static answer closed(void)
{
    int fds[2];
    PASS_ON(make_pipe(fds));
    bell_handle h;
    bell_event e;
    bell_fd_spec spec = watch(fds[0], BELL_READ, BELL_ONESHOT, target_of(BELL_TARGET_POLL));
    CALL(bell_register_fd(bell, &spec, &h));
    CALL(bell_close_fd(bell, fds[0]));
    close(fds[1]);
    PASS_ON(next_event(&e));
    EXPECT(e.handle == h && (e.ready & BELL_CLOSED), "ready is 0x%x", e.ready);
    EXPECT(fcntl(fds[0], F_GETFD) < 0, "the fd is open still");
    CALL(bell_unregister(bell, h, BELL_SYNC));
    return NULL;
}

/* In the child. The exit code says which step failed. */
static int forked_child(int fds[2], bell_handle h)
{
    bell_event e;
    if (bell_poll(bell, 0, &e, 1, 0) != BELL_E_FORKED)
        return 1;
    if (bell_after_fork_child(bell, 0) < 0)
        return 2;
    if (write(fds[1], "!", 1) != 1 || bell_poll(bell, 0, &e, 1, PATIENCE) != 1 || e.handle != h)
        return 3;
    return 0;
}

static answer forked(int fds[2])
{
    static const char *const steps[] = { "", "a call in the child was not refused", "bell_after_fork_child failed",
                                         "the child did not hear of its fd" };
    bell_handle h;
    bell_fd_spec spec = watch(fds[0], BELL_READ, BELL_ONESHOT, target_of(BELL_TARGET_POLL));
    CALL(bell_register_fd(bell, &spec, &h));
    fflush(NULL);
    pid_t child = fork();
    SYSTEM(child);
    if (child == 0) {
        alarm(10); /* alarms are not inherited */
        _exit(forked_child(fds, h));
    }
    int status;
    while (waitpid(child, &status, 0) < 0)
        EXPECT(errno == EINTR, "waitpid: %s", strerror(errno));
    EXPECT(WIFEXITED(status), "the child was killed by signal %d", WTERMSIG(status));
    EXPECT(WEXITSTATUS(status) == 0, "%s", WEXITSTATUS(status) < (int)LENGTH(steps) ? steps[WEXITSTATUS(status)] : "?");
    /* The byte lies in the pipe of both: the parent's set is whole. */
    bell_event e;
    PASS_ON(next_event(&e));
    CALL(bell_unregister(bell, h, BELL_SYNC));
    return NULL;
}

static answer sound(void)
{
    int32_t wrong_ones = bell_verify(bell);
    EXPECT(wrong_ones == 0, "bell_verify found %d disagreements", wrong_ones);
    return NULL;
}

static const struct question {
    const char *name;
    answer (*alone)(void);
    answer (*with_pipe)(int fds[2]);
} questions[] = {
    { "library and header agree", versions_agree, NULL },
    { "target POLL", NULL, poll_target },
    { "target SLOT", NULL, slot_target },
    { "target FUTEX", NULL, futex_target },
    { "target WAKE_FD, an eventfd", NULL, wake_fd_eventfd },
    { "target WAKE_FD, a pipe", NULL, wake_fd_byte },
    { "target QUEUE", NULL, queue_target },
    { "target MVAR", NULL, mvar_target },
    { "mode EDGE", NULL, mode_edge },
    { "mode ONESHOT", NULL, mode_oneshot },
    { "mode LEVEL", NULL, mode_level },
    { "deadline of an fd", NULL, a_deadline_of_an_fd },
    { "timeout, monotonic clock", monotonic_timeout, NULL },
    { "timeout, boot clock", boot_timeout, NULL },
    { "timeout, real clock", real_timeout, NULL },
    { "timeout, moved and cancelled", cancelled_timeout, NULL },
    { "user event", user_event, NULL },
    { "wake by another thread", a_thread_wakes_a_sleeper, NULL },
    { "closing a watched fd", closed, NULL },
    { "fork", NULL, forked },
    { "pollable fd", NULL, nested },
    { "verify", sound, NULL },
};

/* ---- measuring ---- */

enum { SAMPLES = 31 };
static int meter_fds[2];
static bell_handle meter_handle;
static bell_t *peer;

typedef int32_t step(uint32_t times);

static int32_t m_look(uint32_t times)
{
    int32_t code = 0;
    for (uint32_t i = 0; i < times && code >= 0; i++)
        code = bell_poll(bell, 0, NULL, 0, 0);
    return code;
}

static int32_t m_wait(uint32_t times)
{
    char byte;
    bell_event e;
    for (uint32_t i = 0; i < times; i++) {
        if (write(meter_fds[1], "!", 1) != 1)
            return -errno;
        int32_t n = bell_poll(bell, 0, &e, 1, PATIENCE);
        if (n != 1)
            return n < 0 ? n : -EIO;
        if (read(meter_fds[0], &byte, 1) != 1)
            return -errno;
        if (!has(BELL_FEATURE_EDGE) && (n = bell_rearm(bell, meter_handle, NULL, BELL_NEVER)) < 0)
            return n;
    }
    return 0;
}

static int32_t m_rearm(uint32_t times)
{
    int32_t code = 0;
    for (uint32_t i = 0; i < times && code >= 0; i++)
        code = bell_rearm(bell, meter_handle, NULL, BELL_NEVER);
    return code;
}

static int32_t m_register(uint32_t times)
{
    bell_fd_spec spec =
        watch(meter_fds[0], BELL_READ, has(BELL_FEATURE_EDGE) ? BELL_EDGE : BELL_ONESHOT, target_of(BELL_TARGET_POLL));
    for (uint32_t i = 0; i < times; i++) {
        bell_handle h;
        int32_t code = bell_register_fd(bell, &spec, &h);
        if (code >= 0)
            code = bell_unregister(bell, h, 0);
        if (code < 0)
            return code;
    }
    return 0;
}

static int32_t m_timeout(uint32_t times)
{
    bell_timeout_spec spec =
        timeout_at(BELL_CLOCK_MONOTONIC, bell_now(BELL_CLOCK_MONOTONIC) + MS(60000), target_of(BELL_TARGET_POLL));
    for (uint32_t i = 0; i < times; i++) {
        bell_handle h;
        int32_t code = bell_register_timeout(bell, &spec, &h);
        if (code >= 0)
            code = bell_unregister(bell, h, 0);
        if (code < 0)
            return code;
    }
    return 0;
}

static int32_t m_move(uint32_t times)
{
    int64_t later = bell_now(BELL_CLOCK_MONOTONIC) + MS(60000);
    int32_t code = 0;
    for (uint32_t i = 0; i < times && code >= 0; i++)
        code = bell_update_timeout(bell, meter_handle, later + i);
    return code;
}

static int32_t m_post(uint32_t times)
{
    bell_event e;
    int32_t code = 0;
    for (uint32_t i = 0; i < times && code >= 0; i++) {
        code = bell_post(bell, meter_handle, 1);
        if (code >= 0 && (code = bell_poll(bell, 0, &e, 1, PATIENCE)) == 0)
            code = -EIO;
    }
    return code;
}

static int peer_ends;

static void *answer_wakes(void *unused)
{
    (void)unused;
    while (bell_poll(peer, 0, NULL, 0, PATIENCE) >= 0 && !__atomic_load_n(&peer_ends, __ATOMIC_ACQUIRE))
        bell_wake(bell, 0);
    return NULL;
}

static int32_t m_wake(uint32_t times)
{
    int32_t code = 0;
    /* There and back is two. */
    for (uint32_t i = 0; i < times && code >= 0; i += 2) {
        code = bell_wake(peer, 0);
        if (code >= 0)
            code = bell_poll(bell, 0, NULL, 0, PATIENCE);
    }
    return code;
}

static int order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of SAMPLES averages, in nanoseconds; an error is negative. */
static double median_ns(step *run, uint32_t times)
{
    double samples[SAMPLES];
    for (int i = -1; i < SAMPLES; i++) { /* the first one warms up */
        int64_t start = bell_now(BELL_CLOCK_MONOTONIC);
        int32_t code = run(times);
        if (code < 0)
            return code;
        if (i >= 0)
            samples[i] = (double)(bell_now(BELL_CLOCK_MONOTONIC) - start) / times;
    }
    qsort(samples, SAMPLES, sizeof *samples, order);
    return samples[SAMPLES / 2];
}

static double measure_fd(step *run, uint32_t times, uint32_t mode)
{
    bell_fd_spec spec = watch(meter_fds[0], BELL_READ, mode, target_of(BELL_TARGET_POLL));
    int32_t code = bell_register_fd(bell, &spec, &meter_handle);
    if (code < 0)
        return code;
    double ns = median_ns(run, times);
    bell_unregister(bell, meter_handle, BELL_SYNC);
    return ns;
}

static double measure_wait(void)
{
    return measure_fd(m_wait, 200, has(BELL_FEATURE_EDGE) ? BELL_EDGE : BELL_ONESHOT);
}
static double measure_rearm(void)
{
    return measure_fd(m_rearm, 500, BELL_ONESHOT);
}
static double measure_look(void)
{
    return median_ns(m_look, 500);
}
static double measure_register(void)
{
    return median_ns(m_register, 200);
}
static double measure_timeout(void)
{
    return median_ns(m_timeout, 500);
}

static double measure_move(void)
{
    bell_timeout_spec spec = timeout_at(BELL_CLOCK_MONOTONIC, BELL_NEVER, target_of(BELL_TARGET_POLL));
    int32_t code = bell_register_timeout(bell, &spec, &meter_handle);
    if (code < 0)
        return code;
    double ns = median_ns(m_move, 1000);
    bell_unregister(bell, meter_handle, BELL_SYNC);
    return ns;
}

static double measure_post(void)
{
    bell_target target = target_of(BELL_TARGET_POLL);
    int32_t code = bell_register_user(bell, 0, &target, 0, &meter_handle);
    if (code < 0)
        return code;
    double ns = median_ns(m_post, 300);
    bell_unregister(bell, meter_handle, BELL_SYNC);
    return ns;
}

static double measure_wake(void)
{
    pthread_t thread;
    int32_t code = bell_create(NULL, &peer);
    if (code < 0)
        return code;
    int failed = pthread_create(&thread, NULL, answer_wakes, NULL);
    if (failed) {
        bell_destroy(peer, 0);
        return -failed;
    }
    double ns = median_ns(m_wake, 100);
    __atomic_store_n(&peer_ends, 1, __ATOMIC_RELEASE);
    bell_wake(peer, 0);
    pthread_join(thread, NULL);
    bell_destroy(peer, 0);
    bell_poll(bell, 0, NULL, 0, 0); /* the last wake, if there was one */
    return ns;
}

static const struct meter {
    const char *name, *what;
    double (*measure)(void);
} meters[] = {
    { "look", "bell_poll that finds nothing and does not wait", measure_look },
    { "wait", "a byte through a pipe: write, bell_poll, read", measure_wait },
    { "post", "bell_post, and bell_poll that takes it", measure_post },
    { "wake", "bell_wake to another thread until it runs", measure_wake },
    { "register", "bell_register_fd and bell_unregister", measure_register },
    { "rearm", "bell_rearm of an fd in mode ONESHOT", measure_rearm },
    { "timeout", "bell_register_timeout and bell_unregister", measure_timeout },
    { "move", "bell_update_timeout to a later time", measure_move },
};

/* ---- what this machine allows ---- */

static const struct {
    uint64_t bit;
    const char *name;
} feature_names[] = {
    { BELL_FEATURE_EDGE, "edge" },         { BELL_FEATURE_EXCLUSIVE, "exclusive" },
    { BELL_FEATURE_POLLABLE, "pollable" }, { BELL_FEATURE_NANOSECONDS, "nanoseconds" },
    { BELL_FEATURE_CLOCKS, "clocks" },     { BELL_FEATURE_FUTEX, "futex" },
};

static const char *backend_name(void)
{
    return has(BELL_FEATURE_EPOLL)    ? "epoll"
           : has(BELL_FEATURE_POLL)   ? "poll"
           : has(BELL_FEATURE_KQUEUE) ? "kqueue"
                                      : "unknown";
}

/* The number in a file of one number; -1: there is no such file. */
static long long number_in(const char *path)
{
    FILE *file = fopen(path, "re");
    long long n = -1;
    if (file) {
        if (fscanf(file, "%lld", &n) != 1)
            n = -1;
        fclose(file);
    }
    return n;
}

/* "yes", or why not. The calls are asked with arguments that they refuse, if they get that far. */
static const char *has_epoll_pwait2(void)
{
#if defined(__linux__) && defined(SYS_epoll_pwait2)
    if (syscall(SYS_epoll_pwait2, -1, NULL, 0, NULL, NULL, 0) < 0 && errno != ENOSYS && errno != EPERM)
        return "yes";
    return errno == EPERM ? "forbidden" : "no";
#else
    return "no";
#endif
}

static const char *has_io_uring(void)
{
#if defined(__linux__) && defined(SYS_io_uring_setup)
    if (syscall(SYS_io_uring_setup, 0, NULL) < 0 && errno != ENOSYS && errno != EPERM)
        return "yes";
    return errno == EPERM ? "forbidden" : "no";
#else
    return "no";
#endif
}

/* ---- output ---- */

/* Nothing here needs more escapes: names of ours, of the system, and texts of errors. */
static void json_text(const char *text)
{
    putchar('"');
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            printf("\\%c", *c);
        else if (*c < 0x20)
            printf("\\u%04x", *c);
        else
            putchar(*c);
    }
    putchar('"');
}

static void fact_text(const char *name, const char *text)
{
    if (json) {
        printf("  \"%s\": ", name);
        json_text(text);
        puts(",");
    } else {
        printf("  %-22s %s\n", name, text);
    }
}

/* A number, or -1: unknown; RLIM_INFINITY is given as -2. */
static void fact_number(const char *name, long long n)
{
    if (json)
        n < 0 ? printf("  \"%s\": %s,\n", name, n == -2 ? "\"unlimited\"" : "null") : printf("  \"%s\": %lld,\n", name, n);
    else
        n < 0 ? printf("  %-22s %s\n", name, n == -2 ? "unlimited" : "unknown") : printf("  %-22s %lld\n", name, n);
}

static long long limit(rlim_t n)
{
    return n == RLIM_INFINITY ? -2 : (long long)n;
}

static void print_facts(void)
{
    char text[256] = "";
    snprintf(text, sizeof text, "%u.%u", bell_abi_version() >> 16, bell_abi_version() & 0xffff);
    fact_text("version", bell_version());
    fact_text("abi", text);
    fact_text("backend", backend_name());
    if (json)
        fputs("  \"features\": [", stdout);
    text[0] = 0;
    for (size_t i = 0; i < LENGTH(feature_names); i++) {
        if (has(feature_names[i].bit)) {
            if (json)
                printf("%s\"%s\"", text[0] ? ", " : "", feature_names[i].name);
            if (text[0])
                strcat(text, " ");
            strcat(text, feature_names[i].name);
        }
    }
    if (json)
        puts("],");
    else
        fact_text("features", text);
    struct utsname system;
    if (uname(&system) == 0) {
        snprintf(text, sizeof text, "%.64s %.64s %.64s", system.sysname, system.release, system.machine);
        fact_text("system", text);
    }
    struct rlimit fds;
    if (getrlimit(RLIMIT_NOFILE, &fds) == 0) {
        fact_number("fd_limit", limit(fds.rlim_cur));
        fact_number("fd_limit_hard", limit(fds.rlim_max));
    }
#ifdef __linux__
    fact_number("max_user_watches", number_in("/proc/sys/fs/epoll/max_user_watches"));
    fact_text("epoll_pwait2", has_epoll_pwait2());
    fact_text("io_uring", has_io_uring());
    fact_number("io_uring_disabled", number_in("/proc/sys/kernel/io_uring_disabled"));
#endif
}

static void print_answer(int first, const char *name, answer said)
{
    int skipped = said && strncmp(said, SKIPPED, strlen(SKIPPED)) == 0;
    const char *result = !said ? "ok" : skipped ? "skipped" : "failed";
    const char *why = skipped ? said + strlen(SKIPPED) : said;
    if (json) {
        printf("%s\n    {\"name\": \"%s\", \"result\": \"%s\"", first ? "" : ",", name, result);
        if (why) {
            fputs(", \"why\": ", stdout);
            json_text(why);
        }
        putchar('}');
    } else {
        printf("  %-30s %s%s%s\n", name, skipped || !said ? result : "FAILED", why ? ": " : "", why ? why : "");
    }
}

/* Returns how many failed. */
static int ask_all(void)
{
    int failed = 0;
    for (size_t i = 0; i < LENGTH(questions); i++) {
        const struct question *q = &questions[i];
        asking = q->name;
        /* A manager for each, so that one that failed does not make others fail. */
        int32_t code = bell_create(NULL, &bell);
        answer said;
        if (code < 0) {
            said = wrong("bell_create: %s", bell_strerror(code));
        } else {
            said = q->alone ? q->alone() : with_pipe(q->with_pipe);
            code = bell_destroy(bell, 0);
            if (!said && code < 0)
                said = wrong("bell_destroy: %s", bell_strerror(code));
        }
        print_answer(i == 0, q->name, said);
        failed += said && strncmp(said, SKIPPED, strlen(SKIPPED)) != 0;
    }
    return failed;
}

/* Returns how many failed. */
static int measure_all(void)
{
    int failed = 0;
    for (size_t i = 0; i < LENGTH(meters); i++) {
        const struct meter *m = &meters[i];
        asking = m->what;
        int32_t code = bell_create(NULL, &bell);
        double ns = code;
        if (code >= 0) {
            answer no_pipe = make_pipe(meter_fds);
            ns = no_pipe ? -EMFILE : m->measure();
            if (!no_pipe) {
                close(meter_fds[0]);
                close(meter_fds[1]);
            }
            bell_destroy(bell, 0);
        }
        if (json) {
            printf("%s\n    {\"name\": \"%s\", \"what\": \"%s\", ", i ? "," : "", m->name, m->what);
            ns < 0 ? printf("\"error\": \"%s\"}", bell_strerror((int32_t)ns)) : printf("\"ns\": %.1f}", ns);
        } else if (ns < 0) {
            printf("  %-50s FAILED: %s\n", m->what, bell_strerror((int32_t)ns));
        } else {
            printf("  %-50s %9.0f\n", m->what, ns);
        }
        failed += ns < 0;
    }
    return failed;
}

static void usage(FILE *to)
{
    fputs("Usage: doorbell-check [--json] [--no-measure]\n"
          "Does Doorbell work on this machine, what can it do here, and what does it cost?\n"
          "\n"
          "  --json         print one JSON object, for machines\n"
          "  --no-measure   do not measure\n"
          "  --help         print this and exit\n"
          "  --version      print the version of the library and exit\n"
          "\n"
          "Exit code: 0 all is well, 1 something failed, 2 wrong arguments.\n",
          to);
}

int main(int argc, char **argv)
{
    int measure = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            json = 1;
        } else if (strcmp(argv[i], "--no-measure") == 0) {
            measure = 0;
        } else if (strcmp(argv[i], "--help") == 0) {
            usage(stdout);
            return 0;
        } else if (strcmp(argv[i], "--version") == 0) {
            printf("doorbell-check %s\n", bell_version());
            return 0;
        } else {
            fprintf(stderr, "doorbell-check: unknown argument '%s'; try 'doorbell-check --help'\n", argv[i]);
            return 2;
        }
    }
    signal(SIGALRM, hangs);
    alarm(60);
    int32_t code = bell_features(&features);
    if (code < 0) {
        fprintf(stderr, "doorbell-check: bell_features: %s\n", bell_strerror(code));
        return 1;
    }
    puts(json ? "{" : "This machine");
    print_facts();
    fputs(json ? "  \"checks\": [" : "\nChecks\n", stdout);
    int failed = ask_all();
    if (json)
        fputs("\n  ],\n  \"measured\": [", stdout);
    else if (measure)
        printf("\nCosts, in nanoseconds (median of %d)\n", SAMPLES);
    if (measure)
        failed += measure_all();
    if (json)
        printf("%s],\n  \"failed\": %d\n}\n", measure ? "\n  " : "", failed);
    else if (failed)
        printf("\n%d failed\n", failed);
    else
        puts("\nAll is well.");
    if (fflush(stdout) != 0) {
        fprintf(stderr, "doorbell-check: standard output: %s\n", strerror(errno));
        return 1;
    }
    return failed ? 1 : 0;
}
