/* check.h: what the C tests of Doorbell share. Header only; needs doorbell.h, -ldoorbell, -pthread.
 *
 *     static void wakes_a_reader(void) { CHECK_EQ(bell_poll(bell, 0, &e, 1, SEC(10)), 1); }
 *     int main(void) { RUN(wakes_a_reader); return 0; }
 *
 * A program exits with 0 (passed), 1 (a check failed, or a question hung) or 77 (skipped). Checks stay on in release
 * builds, may be used on any thread, and print both values. Define _GNU_SOURCE before the first include. */

#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#error "define _GNU_SOURCE in the first line of the test"
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <doorbell.h>

/* ---- the backend ----
 *
 * With -DBELL_TEST_IO_URING every manager is asked for io_uring (`make c-tests-uring`), if the kernel here has it. */

#ifdef BELL_TEST_IO_URING
static inline int32_t create_with_io_uring(const bell_config *config, bell_t **out)
{
    bell_config changed;
    if (config && ((uintptr_t)config % _Alignof(bell_config) != 0 || config->size != sizeof changed))
        return bell_create(config, out); /* about misuse */
    if (config)
        changed = *config;
    else
        bell_config_init(&changed, sizeof changed);
    changed.flags |= BELL_IO_URING;
    return bell_create(&changed, out);
}
#define bell_create create_with_io_uring
#endif

static inline int on_io_uring(void)
{
#ifdef BELL_TEST_IO_URING
    return 1;
#else
    return 0;
#endif
}

/* For questions that make no sense there. */
static inline int left_out_on_io_uring(const char *why)
{
    if (on_io_uring())
        fprintf(stderr, "  left out: %s\n", why);
    return on_io_uring();
}

/* ---- checks ---- */

static const char *check_question = "(before the first question)";

static inline void check_fail(const char *file, int line, const char *what, long long a, long long b)
{
    fprintf(stderr, "%s:%d: in %s: %s\n  left  %lld (0x%llx)", file, line, check_question, what, a, (unsigned long long)a);
    if (a < 0 && a >= INT32_MIN)
        fprintf(stderr, " \"%s\"", bell_strerror((int32_t)a));
    fprintf(stderr, "\n  right %lld (0x%llx)", b, (unsigned long long)b);
    if (b < 0 && b >= INT32_MIN)
        fprintf(stderr, " \"%s\"", bell_strerror((int32_t)b));
    fprintf(stderr, "\n");
    fflush(NULL);
    _exit(1);
}

static inline void check_true(const char *file, int line, const char *what, int holds)
{
    if (holds)
        return;
    fprintf(stderr, "%s:%d: in %s: does not hold: %s (errno is %d, \"%s\")\n", file, line, check_question, what, errno,
            strerror(errno));
    fflush(NULL);
    _exit(1);
}

static inline int32_t check_ok(const char *file, int line, const char *what, int32_t result)
{
    if (result >= 0)
        return result;
    fprintf(stderr, "%s:%d: in %s: %s failed: %d \"%s\"\n", file, line, check_question, what, result,
            bell_strerror(result));
    fflush(NULL);
    _exit(1);
}

#define CHECK(x) check_true(__FILE__, __LINE__, #x, !!(x))
/* The value of a call of the library that must not fail. */
#define CHECK_OK(call) check_ok(__FILE__, __LINE__, #call, (call))

#define CHECK_COMPARE(a, op, b)                                                                                        \
    do {                                                                                                               \
        long long check_a = (long long)(a), check_b = (long long)(b);                                                  \
        if (!(check_a op check_b))                                                                                     \
            check_fail(__FILE__, __LINE__, #a " " #op " " #b, check_a, check_b);                                       \
    } while (0)
#define CHECK_EQ(a, b) CHECK_COMPARE(a, ==, b)
#define CHECK_NE(a, b) CHECK_COMPARE(a, !=, b)
#define CHECK_GE(a, b) CHECK_COMPARE(a, >=, b)
#define CHECK_GT(a, b) CHECK_COMPARE(a, >, b)
#define CHECK_LE(a, b) CHECK_COMPARE(a, <=, b)
#define CHECK_LT(a, b) CHECK_COMPARE(a, <, b)
/* All bits of `mask` are in `bits`; none is. */
#define CHECK_HAS(bits, mask) CHECK_EQ((bits) & (mask), (mask))
#define CHECK_LACKS(bits, mask) CHECK_EQ((bits) & (mask), 0)

/* Ends the whole program. */
#define SKIP(reason)                                                                                                   \
    do {                                                                                                               \
        fprintf(stderr, "skipped: %s\n", (reason));                                                                    \
        fflush(NULL);                                                                                                  \
        _exit(77);                                                                                                     \
    } while (0)

/* ---- the machine ---- */

/* Under valgrind or a sanitizer. */
static inline int slow(void)
{
    const char *value = getenv("BELL_TEST_SLOW");
    return value && !strcmp(value, "1");
}

/* BELL_TEST_TIMES: so many times longer than usual. */
static inline int times(void)
{
    const char *value = getenv("BELL_TEST_TIMES");
    int n = value ? atoi(value) : 1;
    return n > 0 ? n : 1;
}

/* How often a loop runs: `n` times, or a fiftieth of it when everything is slow. */
static inline int rounds(int n)
{
    return slow() ? (n + 49) / 50 : n * times();
}

#define US(n) ((int64_t)(n) * 1000)
#define MS(n) ((int64_t)(n) * 1000000)
#define SEC(n) ((int64_t)(n) * 1000000000)
/* As long as a test waits for something that must come. */
#define PATIENCE SEC(60)

static inline int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* For loops that wait for something another thread does: yields the CPU, and fails when it takes too long. */
static inline void check_spin(const char *file, int line, const char *what, int64_t started)
{
    struct timespec short_while = {0, 50000};
    if (now_ns() - started > PATIENCE)
        check_true(file, line, what, 0);
    nanosleep(&short_while, NULL);
}

/* Waits until `x` holds. */
#define AWAIT(x)                                                                                                       \
    do {                                                                                                               \
        int64_t await_started = now_ns();                                                                              \
        while (!(x))                                                                                                   \
            check_spin(__FILE__, __LINE__, "comes true: " #x, await_started);                                          \
    } while (0)

static inline int live_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return -1;
    int n = 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 3; /* ".", ".." and the folder itself */
}

static inline int has_feature(uint64_t bits)
{
    uint64_t features = 0;
    CHECK_OK(bell_features(&features));
    if (on_io_uring()) /* what the manager can do, not the build */
        features &= ~(BELL_FEATURE_EPOLL | BELL_FEATURE_EXCLUSIVE | BELL_FEATURE_POLLABLE);
    return (features & bits) == bits;
}

static inline int has_edge(void)
{
    return has_feature(BELL_FEATURE_EDGE);
}

/* ---- fds ---- */

static inline void set_nonblocking(int fd)
{
    CHECK(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0);
}

static inline void make_sockets(int fds[2])
{
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
}

static inline void make_pipe(int fds[2])
{
    CHECK(pipe2(fds, O_NONBLOCK | O_CLOEXEC) == 0);
}

static inline int make_eventfd(void)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static inline void close_pair(int fds[2])
{
    CHECK(close(fds[0]) == 0);
    CHECK(close(fds[1]) == 0);
}

static inline void put_byte(int fd)
{
    CHECK_EQ(write(fd, "x", 1), 1);
}

/* Reads until EAGAIN or the end; how many bytes there were. */
static inline long drain_fd(int fd)
{
    char buffer[4096];
    long total = 0;
    ssize_t n;
    while ((n = read(fd, buffer, sizeof buffer)) > 0)
        total += n;
    CHECK(n == 0 || errno == EAGAIN || errno == ECONNRESET);
    return total;
}

/* Writes until EAGAIN; how many bytes went in. */
static inline long fill_fd(int fd)
{
    static const char buffer[4096];
    long total = 0;
    ssize_t n;
    while ((n = write(fd, buffer, sizeof buffer)) > 0)
        total += n;
    CHECK(n < 0 && errno == EAGAIN);
    return total;
}

/* What poll(2) says of `fd` now. */
static inline int looks_ready(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};
    CHECK(poll(&p, 1, 0) >= 0);
    return p.revents;
}

/* ---- threads ---- */

static inline pthread_t start_thread(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, body, argument), 0);
    return thread;
}

static inline void *join_thread(pthread_t thread)
{
    void *result;
    CHECK_EQ(pthread_join(thread, &result), 0);
    return result;
}

static inline uint32_t thread_id(void)
{
    return (uint32_t)syscall(SYS_gettid);
}

static inline uint32_t load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline uint32_t add(uint32_t *word, uint32_t value)
{
    return __atomic_fetch_add(word, value, __ATOMIC_ACQ_REL);
}

/* Whether the thread that stored its thread_id there sleeps in the kernel now. Makes the interesting order of events likely;
 * no test may depend on it. */
static inline int is_asleep(const uint32_t *id)
{
    char path[64], line[512], *state;
    FILE *file;
    if (load(id) == 0)
        return 0;
    snprintf(path, sizeof path, "/proc/self/task/%u/stat", load(id));
    file = fopen(path, "re");
    if (!file)
        return 1; /* it has ended */
    state = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
    fclose(file);
    return state && state[1] == ' ' && state[2] == 'S';
}

/* ---- GHC's side of an MVar, as far as the library sees it ---- */

/* A StablePtr is the address of one of these. */
typedef struct fake_mvar {
    uint32_t puts; /* how often it was consumed: more than once would crash a real program */
    int32_t capability;
} fake_mvar;

static inline void fake_try_putmvar(int32_t capability, void *stable_ptr)
{
    fake_mvar *mvar = stable_ptr;
    mvar->capability = capability;
    add(&mvar->puts, 1);
}

/* ---- makers ---- */

static inline bell_t *make_bell_full(uint32_t shards, uint32_t threads, int with_ghc)
{
    static const bell_ghc_ops ghc = {.size = sizeof ghc, .try_putmvar = fake_try_putmvar};
    bell_config config;
    bell_t *bell = NULL;
    CHECK_OK(bell_config_init(&config, sizeof config));
    config.shards = shards;
    config.threads = threads;
    config.ghc = with_ghc ? &ghc : NULL;
    CHECK_OK(bell_create(&config, &bell));
    CHECK(bell != NULL);
    return bell;
}

static inline bell_t *make_bell(uint32_t shards, uint32_t threads)
{
    return make_bell_full(shards, threads, 0);
}

/* One that takes targets MVAR made by `to_mvar`. */
static inline bell_t *make_bell_ghc(uint32_t shards, uint32_t threads)
{
    return make_bell_full(shards, threads, 1);
}

static inline bell_target to_poll(void)
{
    return (bell_target){.kind = BELL_TARGET_POLL};
}

static inline bell_target to_slot(void)
{
    return (bell_target){.kind = BELL_TARGET_SLOT};
}

static inline bell_target to_futex(uint32_t *word)
{
    return (bell_target){.kind = BELL_TARGET_FUTEX, .word = word};
}

static inline bell_target to_eventfd(int fd)
{
    return (bell_target){.kind = BELL_TARGET_WAKE_FD, .fd = fd};
}

/* A pipe or socket that gets one byte. */
static inline bell_target to_byte(int fd)
{
    return (bell_target){.kind = BELL_TARGET_WAKE_FD, .flags = BELL_WAKE_BYTE, .fd = fd};
}

static inline bell_target to_queue(bell_handle queue)
{
    return (bell_target){.kind = BELL_TARGET_QUEUE, .queue = queue};
}

static inline bell_target to_mvar(fake_mvar *mvar, int32_t capability)
{
    return (bell_target){.kind = BELL_TARGET_MVAR, .stable_ptr = mvar, .capability = capability};
}

/* On shard 0. */
static inline bell_fd_spec fd_spec(int fd, uint32_t interest, uint32_t mode, bell_target target)
{
    return (bell_fd_spec){.size = sizeof(bell_fd_spec), .fd = fd, .interest = interest, .mode = mode, .target = target};
}

/* One-shot, monotonic, on shard 0. */
static inline bell_timeout_spec timeout_spec(int64_t deadline_ns, bell_target target)
{
    return (bell_timeout_spec){.size = sizeof(bell_timeout_spec), .deadline_ns = deadline_ns, .target = target};
}

/* Registers an fd on shard 0, with its number as user_data. */
static inline bell_handle watch(bell_t *bell, int fd, uint32_t interest, uint32_t mode, bell_target target)
{
    bell_fd_spec spec = fd_spec(fd, interest, mode, target);
    bell_handle handle = 0;
    spec.user_data = (uint64_t)fd;
    CHECK_OK(bell_register_fd(bell, &spec, &handle));
    CHECK(handle > 0 && handle < (1ULL << 62));
    return handle;
}

/* What registering says, with the handle forgotten: for refusals. */
static inline int32_t try_watch(bell_t *bell, int fd, uint32_t interest, uint32_t mode, bell_target target)
{
    bell_fd_spec spec = fd_spec(fd, interest, mode, target);
    bell_handle handle = 0;
    int32_t result = bell_register_fd(bell, &spec, &handle);
    CHECK((result >= 0) == (handle != 0)); /* outputs are written on success only */
    return result;
}

static inline bell_handle set_timeout(bell_t *bell, int64_t deadline_ns, bell_target target)
{
    bell_timeout_spec spec = timeout_spec(deadline_ns, target);
    bell_handle handle = 0;
    CHECK_OK(bell_register_timeout(bell, &spec, &handle));
    CHECK(handle > 0 && handle < (1ULL << 62));
    return handle;
}

static inline bell_handle make_user(bell_t *bell, bell_target target)
{
    bell_handle handle = 0;
    CHECK_OK(bell_register_user(bell, 0, &target, 0, &handle));
    return handle;
}

static inline bell_handle make_queue(bell_t *bell, const bell_target *doorbell)
{
    bell_handle handle = 0;
    CHECK_OK(bell_queue_create(bell, 0, doorbell, &handle));
    return handle;
}

/* ---- driving ---- */

/* The next event of shard 0; fails if none comes. */
static inline bell_event next_event(bell_t *bell)
{
    bell_event event;
    int64_t limit = now_ns() + PATIENCE;
    while (now_ns() < limit) {
        memset(&event, 0xEE, sizeof event);
        int32_t n = bell_poll(bell, 0, &event, 1, SEC(1));
        if (n == 1)
            return event;
        CHECK_EQ(n, 0);
    }
    CHECK(!"an event came in time");
    return event;
}

/* Until each of the library's threads has begun to wait. Before a fork: one that still begins allocates, and the allocator
 * of AddressSanitizer, locked by a thread that is not there, is of no use to the child. */
static inline void await_threads(bell_t *bell, uint32_t threads)
{
    for (uint32_t shard = 0; shard < threads; shard++) {
        bell_counters c = {.size = sizeof c};
        for (int64_t begun = now_ns(); CHECK_OK(bell_stats(bell, shard, &c)), c.kernel_waits == 0;)
            check_spin(__FILE__, __LINE__, "a library thread waits", begun);
    }
}

/* Turns shard 0 for `ns`, and expects no event of a target POLL. Returns how many turns that took. */
static inline int expect_quiet(bell_t *bell, int64_t ns)
{
    bell_event event = {0};
    int64_t end = now_ns() + ns, now;
    int turns = 0;
    do {
        now = now_ns();
        int32_t n = bell_poll(bell, 0, &event, 1, end > now ? end - now : 0);
        if (n != 0)
            fprintf(stderr, "unexpected: handle %#" PRIx64 " ready %#x status %d data %" PRIu64 "\n", event.handle,
                    event.ready, event.status, event.data);
        CHECK_EQ(n, 0);
        turns++;
    } while (now < end);
    return turns;
}

/* Turns shard 0 without waiting, for targets other than POLL; enough turns for whatever is ready by now. */
static inline void turn(bell_t *bell)
{
    bell_event event;
    for (int i = 0; i < 3; i++)
        CHECK_EQ(bell_poll(bell, 0, &event, 1, 0), 0);
}

static inline bell_counters stats_of(bell_t *bell)
{
    bell_counters counters = {.size = sizeof counters};
    CHECK_OK(bell_stats(bell, BELL_SHARD_ANY, &counters));
    return counters;
}

/* Nothing disagrees; tells what does. */
static inline void check_verified(bell_t *bell)
{
    int32_t found = CHECK_OK(bell_verify(bell));
    if (found != 0)
        bell_dump(bell, 2);
    CHECK_EQ(found, 0);
}

/* Nothing is left and nothing disagrees; then the manager is ended. */
static inline void check_clean(bell_t *bell)
{
    check_verified(bell);
    bell_counters c = stats_of(bell);
    CHECK_EQ(c.fds, 0);
    CHECK_EQ(c.timeouts, 0);
    CHECK_EQ(c.users, 0);
    CHECK_EQ(c.queues, 0);
    CHECK_EQ(c.waiters, 0);
    CHECK_OK(bell_destroy(bell, 0));
}

/* ---- landings: one place for news of any kind, looked at the same way ---- */

enum { LAND_POLL, LAND_SLOT, LAND_FUTEX, LAND_EVENTFD, LAND_BYTE, LAND_QUEUE, LAND_MVAR, LAND_KINDS };

static inline const char *landing_name(int kind)
{
    static const char *const names[] = {"POLL", "SLOT", "FUTEX", "WAKE_FD eventfd", "WAKE_FD byte", "QUEUE", "MVAR"};
    return names[kind];
}

/* Must stay where it is while it is registered. */
typedef struct landing {
    int kind;
    bell_t *bell;
    bell_handle handle;
    bell_target target;
    uint32_t word;
    int fds[2];
    fake_mvar mvar;
    bell_slot *slot;
    uint32_t seen_rd, seen_wr, seen_puts;
    /* What came since landing_forget. */
    uint32_t count; /* deliveries; merged ones count once */
    uint32_t ready; /* where the kind shows it */
    uint64_t data, user_data;
    int32_t status;
} landing;

static inline int landing_shows_bits(const landing *l)
{
    return l->kind == LAND_POLL || l->kind == LAND_SLOT || l->kind == LAND_FUTEX || l->kind == LAND_QUEUE;
}

static inline void landing_open(landing *l, int kind, bell_t *bell)
{
    memset(l, 0, sizeof *l);
    l->kind = kind;
    l->bell = bell;
    l->fds[0] = l->fds[1] = -1;
    switch (kind) {
    case LAND_POLL: l->target = to_poll(); break;
    case LAND_SLOT: l->target = to_slot(); break;
    case LAND_FUTEX: l->target = to_futex(&l->word); break;
    case LAND_EVENTFD: l->fds[0] = make_eventfd(); l->target = to_eventfd(l->fds[0]); break;
    case LAND_BYTE: make_pipe(l->fds); l->target = to_byte(l->fds[1]); break;
    case LAND_QUEUE: l->target = to_queue(make_queue(bell, NULL)); break;
    default: l->target = to_mvar(&l->mvar, 3); break;
    }
}

static inline void landing_bind(landing *l, bell_handle handle)
{
    l->handle = handle;
    if (l->kind == LAND_SLOT) {
        CHECK_OK(bell_slot_map(l->bell, handle, &l->slot));
        l->seen_rd = load(&l->slot->rd) / BELL_SEQ;
        l->seen_wr = load(&l->slot->wr) / BELL_SEQ;
    } else if (l->kind == LAND_FUTEX) { /* what an earlier registration left in the word is no news of this one */
        l->seen_rd = load(&l->word) / BELL_SEQ;
        __atomic_fetch_and(&l->word, ~(uint32_t)(BELL_SEQ - 1), __ATOMIC_ACQ_REL);
    }
}

/* Registers an fd with the landing as its target. */
static inline void landing_watch(landing *l, int fd, uint32_t interest, uint32_t mode)
{
    landing_bind(l, watch(l->bell, fd, interest, mode, l->target));
}

/* Arms again; an MVAR needs its target again. */
static inline void landing_rearm(landing *l, int64_t deadline_ns)
{
    CHECK_OK(bell_rearm(l->bell, l->handle, l->kind == LAND_MVAR ? &l->target : NULL, deadline_ns));
}

static inline void landing_forget(landing *l)
{
    l->count = l->ready = 0;
    l->data = l->user_data = 0;
    l->status = 0;
}

static inline void landing_event(landing *l, const bell_event *e)
{
    CHECK_EQ(e->handle, l->handle);
    CHECK_NE(e->ready, 0);
    l->count++;
    l->ready |= e->ready;
    l->data += e->data;
    l->user_data = e->user_data;
    l->status = e->status;
}

/* Deliveries and bits of a word since the last look. */
static inline uint32_t landing_word(landing *l, uint32_t *word, uint32_t *seen)
{
    uint32_t was = *seen;
    uint32_t now = load(word) / BELL_SEQ;
    *seen = now;
    l->ready |= bell_slot_take(word);
    return (now - was) & (UINT32_MAX / BELL_SEQ);
}

/* Looks for news of a kind other than POLL; does not drive. */
static inline void landing_look(landing *l)
{
    bell_event events[8];
    uint64_t value;
    char bytes[64];
    uint32_t rd, wr;
    switch (l->kind) {
    case LAND_POLL:
        break;
    case LAND_SLOT:
        rd = landing_word(l, &l->slot->rd, &l->seen_rd);
        wr = landing_word(l, &l->slot->wr, &l->seen_wr);
        l->count += rd > wr ? rd : wr;
        break;
    case LAND_FUTEX:
        l->count += landing_word(l, &l->word, &l->seen_rd);
        break;
    case LAND_EVENTFD:
        if (read(l->fds[0], &value, 8) == 8)
            l->count += (uint32_t)value;
        break;
    case LAND_BYTE: {
        ssize_t n = read(l->fds[0], bytes, sizeof bytes);
        l->count += n > 0 ? (uint32_t)n : 0;
        break;
    }
    case LAND_QUEUE: {
        int32_t n = CHECK_OK(bell_queue_drain(l->bell, l->target.queue, events, 8));
        for (int i = 0; i < n; i++)
            landing_event(l, &events[i]);
        break;
    }
    default:
        l->count += load(&l->mvar.puts) - l->seen_puts;
        l->seen_puts = load(&l->mvar.puts);
        break;
    }
}

/* Turns shard 0 and hands everything that comes to its landing. News for nobody is a failure. */
static inline void pump_for(bell_t *bell, landing *landings, int n, int64_t timeout_ns)
{
    bell_event events[64];
    for (int t = 0; t < 2; t++) {
        int32_t got = CHECK_OK(bell_poll(bell, 0, events, 64, t == 0 ? timeout_ns : 0));
        for (int i = 0; i < got; i++) {
            int k = 0;
            while (k < n && !(landings[k].kind == LAND_POLL && landings[k].handle == events[i].handle))
                k++;
            CHECK_LT(k, n);
            landing_event(&landings[k], &events[i]);
        }
    }
    for (int k = 0; k < n; k++)
        landing_look(&landings[k]);
}

static inline void pump(bell_t *bell, landing *landings, int n)
{
    pump_for(bell, landings, n, 0);
}

/* Pumps until every landing got something. */
static inline void pump_all(bell_t *bell, landing *landings, int n)
{
    int64_t limit = now_ns() + PATIENCE;
    for (;;) {
        int missing = -1;
        pump_for(bell, landings, n, MS(5));
        for (int k = 0; k < n; k++)
            if (landings[k].count == 0)
                missing = k;
        if (missing < 0)
            return;
        if (now_ns() > limit)
            fprintf(stderr, "landing %d (%s) got nothing\n", missing, landing_name(landings[missing].kind));
        CHECK_LE(now_ns(), limit);
    }
}

/* Frees what the landing holds; it must be the target of nothing any more. */
static inline void landing_close(landing *l)
{
    if (l->kind == LAND_QUEUE)
        CHECK_OK(bell_queue_destroy(l->bell, l->target.queue, BELL_SYNC));
    for (int i = 0; i < 2; i++)
        if (l->fds[i] >= 0)
            CHECK(close(l->fds[i]) == 0);
}

/* Unregisters and closes. */
static inline int32_t landing_end(landing *l)
{
    int32_t answer = CHECK_OK(bell_unregister(l->bell, l->handle, BELL_SYNC));
    CHECK(answer == BELL_CANCELLED || answer == BELL_FIRED);
    landing_close(l);
    return answer;
}

/* ---- running ---- */

static inline void check_hung(int signal_number)
{
    (void)signal_number;
    static const char text[] = "a question hung; the last name printed above is its name\n";
    if (write(2, text, sizeof text - 1) < 0)
        _exit(1);
    _exit(1);
}

/* BELL_TEST_ONLY=name asks one question alone, BELL_TEST_ONLY=start* those that begin so. */
static inline void check_run(const char *name, void (*question)(void))
{
    const char *only = getenv("BELL_TEST_ONLY");
    int fds = live_fds();
    size_t start = only ? strcspn(only, "*") : 0;
    if (only && (only[start] ? strncmp(only, name, start) : strcmp(only, name)))
        return;
    fprintf(stderr, "%s\n", name);
    fflush(stderr);
    check_question = name;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGALRM, check_hung);
    alarm(slow() ? 1000 : 100 * (unsigned)times());
    question();
    alarm(0);
    /* A question gives back every fd that it or the library opened. */
    CHECK_EQ(live_fds(), fds);
}

#define RUN(question) check_run(#question, question)

#endif
