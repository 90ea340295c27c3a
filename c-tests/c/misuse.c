/* Every documented error of every function, provoked; after each, nothing has changed. */
#define _GNU_SOURCE
#include "every_call.h"

/* ---- nothing has changed ---- */

static void same_things(const char *file, int line, bell_t *bell, const bell_counters *before)
{
    bell_counters now = {.size = sizeof now};
    check_ok(file, line, "bell_stats", bell_stats(bell, BELL_SHARD_ANY, &now));
    check_true(file, line, "as many fds as before", now.fds == before->fds);
    check_true(file, line, "as many timeouts as before", now.timeouts == before->timeouts);
    check_true(file, line, "as many users as before", now.users == before->users);
    check_true(file, line, "as many queues as before", now.queues == before->queues);
    check_true(file, line, "as many waiters as before", now.waiters == before->waiters);
}

/* The call gives this error, and the live things are as many as before. */
#define REFUSED(bell, call, error)                                                                                     \
    do {                                                                                                               \
        bell_counters refused_before = stats_of(bell);                                                                 \
        CHECK_EQ(call, error);                                                                                         \
        same_things(__FILE__, __LINE__, bell, &refused_before);                                                        \
    } while (0)
/* One of two. */
#define REFUSED_AS(bell, call, error, other)                                                                           \
    do {                                                                                                               \
        bell_counters refused_before = stats_of(bell);                                                                 \
        int32_t refused_r = (call);                                                                                    \
        if (refused_r != (other))                                                                                      \
            CHECK_EQ(refused_r, error);                                                                                \
        same_things(__FILE__, __LINE__, bell, &refused_before);                                                        \
    } while (0)

static uint64_t random_bits(void)
{
    static uint64_t x = 88172645463325252u;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return x * 0x2545F4914F6CDD1Du;
}

/* A manager with one live thing of each kind. */
typedef struct things {
    bell_t *bell;
    int fd;
    bell_handle fd_slot, fd_poll, timeout, user, queue, user_slot;
} things;

static things open_things(void)
{
    things t = {.bell = make_bell_ghc(1, 0), .fd = make_eventfd()};
    t.fd_slot = watch(t.bell, t.fd, BELL_READ, BELL_ONESHOT, to_slot());
    t.fd_poll = watch(t.bell, t.fd, BELL_READ, BELL_ONESHOT, to_poll());
    t.timeout = set_timeout(t.bell, BELL_NEVER - 1, to_poll());
    t.user = make_user(t.bell, to_poll());
    t.user_slot = make_user(t.bell, to_slot());
    t.queue = make_queue(t.bell, NULL);
    return t;
}

/* All still work as they should; then they are taken down. */
static void close_things(things *t)
{
    bell_event e;
    int seen = 0;
    check_verified(t->bell);
    CHECK_EQ(eventfd_write(t->fd, 1), 0);
    CHECK_EQ(bell_post(t->bell, t->user, 1), 0);
    CHECK_EQ(bell_post(t->bell, t->user_slot, 1), 0);
    CHECK_EQ(bell_update_timeout(t->bell, t->timeout, 0), 0);
    for (int i = 0; i < 3; i++) {
        e = next_event(t->bell);
        seen |= e.handle == t->fd_poll && e.ready == BELL_READ      ? 1
                : e.handle == t->timeout && e.ready == BELL_TIMEOUT ? 2
                : e.handle == t->user && e.ready == BELL_USER       ? 4
                                                                    : 8;
    }
    CHECK_EQ(seen, 7);
    CHECK_EQ(bell_slot_wait(t->bell, t->fd_slot, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
    CHECK_EQ(bell_slot_wait(t->bell, t->user_slot, BELL_READ, now_ns() + PATIENCE, 0), BELL_USER);
    CHECK_EQ(bell_queue_drain(t->bell, t->queue, &e, 1), 0);
    CHECK_EQ(bell_unregister(t->bell, t->fd_slot, 0), BELL_FIRED);
    CHECK_EQ(bell_unregister(t->bell, t->fd_poll, 0), BELL_FIRED);
    CHECK_EQ(bell_unregister(t->bell, t->timeout, 0), BELL_FIRED);
    CHECK_OK(bell_unregister(t->bell, t->user, 0));
    CHECK_OK(bell_unregister(t->bell, t->user_slot, 0));
    CHECK_EQ(bell_queue_destroy(t->bell, t->queue, 0), BELL_FIRED);
    CHECK_EQ(close(t->fd), 0);
    check_clean(t->bell);
}

/* ---- what is not a manager ---- */

static void is_no_manager(bell_t *bell)
{
    for (int i = 0; i < ALL_CALLS; i++) {
        int32_t r = every_call(i, bell, 1ULL << 58 | 1);
        if (r != BELL_E_STALE)
            fprintf(stderr, "  call %d of %p\n", i, (void *)bell);
        CHECK_EQ(r, BELL_E_STALE);
    }
}

typedef struct caller {
    bell_t **bell;
    uint32_t *round, *calls;
    uint32_t seed;
} caller;

/* Any call, until the manager is gone; then the next manager. */
static void *call_until_it_is_gone(void *argument)
{
    caller *c = argument;
    for (uint32_t round = 1; round; round++) {
        uint32_t now;
        int32_t r = 0;
        while ((now = load(c->round)) < round)
            sched_yield();
        if (now == UINT32_MAX)
            return NULL;
        bell_t *bell = __atomic_load_n(c->bell, __ATOMIC_ACQUIRE);
        while (r != BELL_E_STALE) {
            /* Not those that write to stderr, fork or destroy; nor those that a stale handle makes look the same. */
            static const int some[] = {0, 1, 2, 4, 5, 12, 18, 23, 26, 28, 29};
            c->seed = c->seed * 1664525 + 1013904223;
            r = every_call(some[(c->seed >> 16) % (sizeof some / sizeof *some)], bell, 1ULL << 58 | 1);
            add(c->calls, 1);
        }
    }
    return NULL;
}

static void may_any_call_race_with_destroy(void)
{
    enum { CALLERS = 3 };
    bell_t *bell = NULL;
    uint32_t round = 0, calls = 0;
    caller callers[CALLERS];
    pthread_t threads[CALLERS];
    for (uint32_t i = 0; i < CALLERS; i++) {
        callers[i] = (caller){&bell, &round, &calls, i};
        threads[i] = start_thread(call_until_it_is_gone, &callers[i]);
    }
    for (uint32_t i = 1; i <= (uint32_t)rounds(300); i++) {
        uint32_t before = load(&calls);
        __atomic_store_n(&bell, make_bell(1 + i % 2, 0), __ATOMIC_RELEASE);
        store(&round, i);
        AWAIT(load(&calls) - before > 8);
        CHECK_EQ(bell_destroy(bell, BELL_FORCE), 0);
    }
    store(&round, UINT32_MAX);
    for (int i = 0; i < CALLERS; i++)
        join_thread(threads[i]);
}

static void is_garbage_not_taken_for_a_manager(void)
{
    static uint64_t words[64];
    things t = open_things(); /* one is alive, so that there is something to be mistaken for */
    int on_stack = 0;
    uintptr_t good = (uintptr_t)t.bell;
    is_no_manager(NULL);
    is_no_manager((bell_t *)1);
    is_no_manager((bell_t *)&on_stack);
    is_no_manager((bell_t *)words);
    is_no_manager((bell_t *)UINTPTR_MAX);
    is_no_manager((bell_t *)(uintptr_t)is_no_manager);
    for (int bit = 0; bit < (int)sizeof good * 8; bit++)
        is_no_manager((bell_t *)(good ^ ((uintptr_t)1 << bit)));
    is_no_manager((bell_t *)(good + 1));
    is_no_manager((bell_t *)(good - 1));
    for (int i = 0; i < rounds(2000); i++)
        is_no_manager((bell_t *)(uintptr_t)(random_bits() | 1ULL << 63));
    close_things(&t);
}

static void is_a_destroyed_manager_gone_for_good(void)
{
    enum { GENERATIONS = 300 };
    static bell_t *old[GENERATIONS];
    for (int i = 0; i < GENERATIONS; i++) {
        old[i] = make_bell(1, 0);
        for (int k = 0; k < i; k++)
            CHECK(old[k] != old[i]); /* a number is not used again */
        if (i > 0)
            CHECK_EQ(bell_wake(old[i - 1], 0), BELL_E_STALE); /* the new one does not answer to it */
        CHECK_EQ(bell_destroy(old[i], i % 2 ? BELL_FORCE : 0), 0);
        if (i < 3)
            is_no_manager(old[i]);
        CHECK_EQ(bell_destroy(old[i], 0), BELL_E_STALE);
    }
    things t = open_things();
    for (int i = 0; i < GENERATIONS; i += 10)
        is_no_manager(old[i]);
    REFUSED(t.bell, bell_destroy(t.bell, 2), -EINVAL);
    REFUSED(t.bell, bell_destroy(t.bell, UINT32_MAX), -EINVAL);
    REFUSED(t.bell, bell_after_fork_parent(t.bell), -EINVAL);
    REFUSED(t.bell, bell_after_fork_child(t.bell, 0), -EINVAL);
    close_things(&t);
}

/* ---- functions without a manager ---- */

static void are_errors_of_the_plain_functions_as_documented(void)
{
    uint32_t size = 7, align = 7, words[4];
    CHECK_EQ(bell_layout(0, &size, &align), -EINVAL);
    CHECK_EQ(bell_layout(9, &size, &align), -EINVAL);
    CHECK_EQ(bell_layout(UINT32_MAX, &size, &align), -EINVAL);
    CHECK_EQ(size, 7);
    CHECK_EQ(align, 7);
    CHECK_EQ(bell_layout(BELL_LAYOUT_EVENT, NULL, NULL), 0);
    CHECK_EQ(bell_layout(BELL_LAYOUT_EVENT, &size, NULL), 0);
    CHECK_EQ(size, sizeof(bell_event));
    CHECK_EQ(bell_layout(BELL_LAYOUT_EVENT, (uint32_t *)((char *)words + 1), NULL), -EINVAL);
    CHECK_EQ(bell_features(NULL), -EINVAL);
    CHECK_EQ(bell_features((uint64_t *)((char *)words + 1)), -EINVAL);
    CHECK_EQ(bell_now(3), -EINVAL);
    CHECK_EQ(bell_now(UINT32_MAX), -EINVAL);
    for (uint32_t clock = 0; clock < 3; clock++)
        if (clock == 0 || has_feature(BELL_FEATURE_CLOCKS))
            CHECK_GT(bell_now(clock), 0);
    for (int32_t i = -6000; i < 100; i++)
        CHECK(bell_strerror(i) != NULL && bell_strerror(i)[0] != 0);
    CHECK(bell_strerror(INT32_MIN)[0] != 0);
    CHECK(bell_strerror(INT32_MAX)[0] != 0);
}

static void are_configs_refused_as_documented(void)
{
    struct {
        bell_config config;
        uint64_t tail[2];
    } big;
    bell_config c;
    bell_t *out = (bell_t *)1;
    int fds = live_fds();
    char raw[2 * sizeof c];
    memset(&c, 0xAA, sizeof c);
    CHECK_EQ(bell_config_init(NULL, sizeof c), -EINVAL);
    CHECK_EQ(bell_config_init(&c, 0), BELL_E_ABI);
    CHECK_EQ(bell_config_init(&c, 4), BELL_E_ABI);
    CHECK_EQ(bell_config_init(&c, sizeof c - 1), BELL_E_ABI);
    CHECK_EQ(c.size, 0xAAAAAAAAu); /* nothing is written then */
    CHECK_EQ(bell_config_init((bell_config *)(raw + 1), sizeof c), -EINVAL);
    CHECK_EQ(bell_config_init(&c, sizeof c), 0);
    CHECK_EQ(c.size, sizeof c);
    const bell_config good = c;
    CHECK_EQ(bell_create(NULL, NULL), -EINVAL);
    CHECK_EQ(bell_create(&c, NULL), -EINVAL);
    CHECK_EQ(bell_create(&c, (bell_t **)(raw + 1)), -EINVAL);
    memcpy(raw + 1, &good, sizeof good);
    CHECK_EQ(bell_create((bell_config *)(raw + 1), &out), -EINVAL);
#define BAD_CONFIG(change, error)                                                                                      \
    do {                                                                                                               \
        c = good;                                                                                                      \
        change;                                                                                                        \
        CHECK_EQ(bell_create(&c, &out), error);                                                                        \
        CHECK(out == (bell_t *)1);                                                                                     \
        CHECK_EQ(live_fds(), fds);                                                                                     \
    } while (0)
    BAD_CONFIG(c.size = 0, BELL_E_ABI);
    BAD_CONFIG(c.size = 4, BELL_E_ABI);
    BAD_CONFIG(c.size = sizeof c - 1, BELL_E_ABI);
    BAD_CONFIG(c.flags = BELL_IO_URING << 1, -EINVAL);
    BAD_CONFIG(c.flags = 1u << 31, -EINVAL);
    BAD_CONFIG(c.shards = 256, -EINVAL);
    BAD_CONFIG(c.shards = UINT32_MAX, -EINVAL);
    BAD_CONFIG(c.threads = 256, -EINVAL);
    BAD_CONFIG(c.threads = UINT32_MAX, -EINVAL);
    BAD_CONFIG((c.threads = 2, c.shards = 3), -EINVAL);
    BAD_CONFIG((c.threads = 2, c.shards = 1), -EINVAL);
    BAD_CONFIG(c.max_events = 65537, -EINVAL);
    BAD_CONFIG(c.reserved0 = 1, -EINVAL);
    BAD_CONFIG(c.slack_ns = UINT64_MAX, -EINVAL);
    for (int i = 0; i < 4; i++)
        BAD_CONFIG(c.reserved[i] = 1, -EINVAL);
    bell_ghc_ops ops = {.size = sizeof ops, .try_putmvar = fake_try_putmvar}, bad_ops;
#define BAD_OPS(change, error)                                                                                         \
    do {                                                                                                               \
        bad_ops = ops;                                                                                                 \
        change;                                                                                                        \
        BAD_CONFIG(c.ghc = &bad_ops, error);                                                                           \
    } while (0)
    BAD_OPS(bad_ops.try_putmvar = NULL, -EINVAL);
    BAD_OPS(bad_ops.reserved = 1, -EINVAL);
    BAD_OPS(bad_ops.size = 0, BELL_E_ABI);
    BAD_OPS(bad_ops.size = 4, BELL_E_ABI);
    BAD_OPS(bad_ops.size = sizeof ops - 1, BELL_E_ABI);
    BAD_CONFIG(c.ghc = (bell_ghc_ops *)(raw + 1), -EINVAL);
    /* A newer caller's bigger struct is taken when what we do not know is zero. */
    memset(&big, 0, sizeof big);
    big.config = good;
    big.config.size = sizeof good + 8;
    big.tail[0] = 1;
    CHECK_EQ(bell_create(&big.config, &out), -E2BIG);
    CHECK(out == (bell_t *)1);
    big.tail[0] = 0;
    big.tail[1] = 1; /* beyond what it says */
    CHECK_EQ(bell_create(&big.config, &out), 0);
    check_clean(out);
}

/* ---- specs ---- */

static int32_t try_fd(bell_t *bell, const bell_fd_spec *spec)
{
    bell_handle h = 77, handles[1] = {77};
    int32_t status[1] = {1};
    int32_t r = bell_register_fd(bell, spec, &h);
    if (r < 0) {
        CHECK_EQ(h, 77); /* outputs are written on success only */
        if (spec->size == sizeof *spec) { /* a batch says the same of it */
            CHECK_EQ(bell_register_fd_batch(bell, spec, 1, handles, status), 0);
            CHECK_EQ(status[0], r);
            CHECK_EQ(handles[0], 0);
        }
    }
    return r;
}

static void are_fd_specs_refused_as_documented(void)
{
    things t = open_things();
    bell_t *bell = t.bell;
    int fds[2], blocking[2], closed;
    uint32_t words[2] = {0};
    char raw[2 * sizeof(bell_fd_spec)];
    bell_handle h = 77;
    make_sockets(fds);
    CHECK(pipe2(blocking, O_CLOEXEC) == 0);
    closed = dup(fds[0]);
    CHECK_EQ(close(closed), 0);
    const bell_fd_spec good = fd_spec(fds[0], BELL_READ, BELL_ONESHOT, to_poll());
    bell_fd_spec s;
#define BAD_FD(change, error)                                                                                          \
    do {                                                                                                               \
        s = good;                                                                                                      \
        change;                                                                                                        \
        REFUSED(bell, try_fd(bell, &s), error);                                                                        \
    } while (0)
#define BAD_FD_AS(change, error, other)                                                                                \
    do {                                                                                                               \
        s = good;                                                                                                      \
        change;                                                                                                        \
        REFUSED_AS(bell, try_fd(bell, &s), error, other);                                                              \
    } while (0)
    REFUSED(bell, bell_register_fd(bell, NULL, &h), -EINVAL);
    REFUSED(bell, bell_register_fd(bell, &good, NULL), -EINVAL);
    REFUSED(bell, bell_register_fd(bell, &good, (bell_handle *)(raw + 1)), -EINVAL);
    memcpy(raw + 1, &good, sizeof good);
    REFUSED(bell, bell_register_fd(bell, (bell_fd_spec *)(raw + 1), &h), -EINVAL);
    CHECK_EQ(h, 77);
    BAD_FD(s.size = 0, BELL_E_ABI);
    BAD_FD(s.size = 4, BELL_E_ABI);
    BAD_FD(s.size = sizeof s - 1, BELL_E_ABI);
    BAD_FD(s.fd = -1, -EBADF);
    BAD_FD(s.fd = INT32_MIN, -EBADF);
    BAD_FD(s.fd = INT32_MAX, -EBADF);
    BAD_FD(s.fd = 1 << 24, -EBADF);
    BAD_FD(s.fd = closed, -EBADF);
    BAD_FD(s.interest = 0, -EINVAL);
    for (int bit = 4; bit < 32; bit++)
        BAD_FD(s.interest |= 1u << bit, -EINVAL);
    BAD_FD(s.mode = 0, -EINVAL);
    BAD_FD(s.mode = 4, -EINVAL);
    BAD_FD(s.mode = UINT32_MAX, -EINVAL);
    for (int bit = 4; bit < 32; bit++)
        BAD_FD(s.flags |= 1u << bit, -EINVAL);
    BAD_FD((s.flags = BELL_AUTO_RELEASE, s.mode = BELL_LEVEL), -EINVAL);
    BAD_FD_AS((s.flags = BELL_AUTO_RELEASE, s.mode = BELL_EDGE), -EINVAL, has_edge() ? -EINVAL : BELL_E_UNSUPPORTED);
    BAD_FD_AS(s.flags = BELL_FD_EXCLUSIVE, -EINVAL,
              has_feature(BELL_FEATURE_EXCLUSIVE) ? -EINVAL : BELL_E_UNSUPPORTED);
    if (!has_edge())
        BAD_FD(s.mode = BELL_EDGE, BELL_E_UNSUPPORTED);
    BAD_FD(s.shard = 1, -EINVAL);
    BAD_FD(s.shard = 255, -EINVAL);
    BAD_FD(s.shard = 0xfffffffdu, -EINVAL);
    BAD_FD((s.flags = BELL_FD_DEADLINE, s.deadline_ns = -1), -EINVAL);
    BAD_FD((s.flags = BELL_FD_DEADLINE, s.deadline_ns = INT64_MIN), -EINVAL);
    /* targets */
    BAD_FD(s.target = (bell_target){0}, -EINVAL);
    BAD_FD(s.target.kind = 7, -EINVAL);
    BAD_FD(s.target.kind = UINT32_MAX, -EINVAL);
    BAD_FD((s.mode = BELL_LEVEL, s.target = to_slot()), -EINVAL);
    BAD_FD((s.mode = BELL_LEVEL, s.target = to_futex(words)), -EINVAL);
    BAD_FD((s.mode = BELL_LEVEL, s.target = to_eventfd(t.fd)), -EINVAL);
    BAD_FD(s.target = to_futex(NULL), -EINVAL);
    for (int i = 1; i < 4; i++)
        BAD_FD(s.target = to_futex((uint32_t *)((char *)words + i)), -EINVAL);
    BAD_FD(s.target = to_eventfd(-1), -EBADF);
    BAD_FD(s.target = to_eventfd(closed), -EBADF);
    BAD_FD(s.target = to_byte(closed), -EBADF);
    BAD_FD(s.target = to_byte(blocking[1]), -EINVAL);
    BAD_FD((s.target = to_eventfd(t.fd), s.target.flags = 2), -EINVAL);
    BAD_FD((s.target = to_eventfd(t.fd), s.target.flags = 1u << 31 | 1), -EINVAL);
    BAD_FD_AS(s.target = to_queue(0), BELL_E_STALE, -EINVAL);
    BAD_FD(s.target = to_queue(t.queue + 1), BELL_E_STALE);
    BAD_FD_AS(s.target = to_queue(t.user), -EINVAL, BELL_E_STALE);
    BAD_FD_AS(s.target = to_queue(t.fd_poll), -EINVAL, BELL_E_STALE);
    fake_mvar mvar = {0};
    BAD_FD((s.target = to_mvar(&mvar, 0), s.mode = BELL_LEVEL), -EINVAL);
    BAD_FD_AS((s.target = to_mvar(&mvar, 0), s.mode = BELL_EDGE), -EINVAL, has_edge() ? -EINVAL : BELL_E_UNSUPPORTED);
    /* fields that a kind does not use */
    BAD_FD(s.target.flags = BELL_WAKE_BYTE, -EINVAL);
    BAD_FD(s.target.fd = 1, -EINVAL);
    BAD_FD(s.target.capability = 1, -EINVAL);
    BAD_FD(s.target.word = words, -EINVAL);
    BAD_FD(s.target.stable_ptr = words, -EINVAL);
    BAD_FD(s.target.queue = t.queue, -EINVAL);
    BAD_FD((s.target = to_slot(), s.target.word = words), -EINVAL);
    BAD_FD((s.target = to_futex(words), s.target.fd = 1), -EINVAL);
    BAD_FD((s.target = to_eventfd(t.fd), s.target.word = words), -EINVAL);
    BAD_FD((s.target = to_queue(t.queue), s.target.stable_ptr = words), -EINVAL);
    BAD_FD((s.target = to_mvar(&mvar, 0), s.target.queue = t.queue), -EINVAL);
    BAD_FD((s.target = to_mvar(&mvar, 0), s.target.flags = BELL_WAKE_BYTE), -EINVAL);
    /* The targets stayed the caller's: each may be used now, and gets exactly one delivery. */
    CHECK_EQ(mvar.puts, 0);
    CHECK_EQ(words[0], 0);
    bell_handle m = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_mvar(&mvar, 2));
    bell_handle f = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_futex(words));
    put_byte(fds[1]);
    turn(bell);
    CHECK_EQ(mvar.puts, 1);
    CHECK_EQ(words[0], BELL_SEQ | BELL_READ);
    CHECK_EQ(words[1], 0);
    CHECK_EQ(bell_unregister(bell, m, 0), BELL_FIRED);
    CHECK_EQ(bell_unregister(bell, f, BELL_SYNC), BELL_FIRED);
    /* A longer struct is taken when its tail is zero. */
    struct {
        bell_fd_spec spec;
        uint64_t tail[2];
    } big = {.spec = good, .tail = {1, 1}};
    big.spec.size = sizeof good + 8;
    REFUSED(bell, bell_register_fd(bell, &big.spec, &h), -E2BIG);
    big.tail[0] = 0;
    CHECK_EQ(bell_register_fd(bell, &big.spec, &h), 0);
    CHECK_EQ(next_event(bell).handle, h);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    close_pair(fds);
    close_pair(blocking);
    close_things(&t);
}

static void are_mvars_refused_without_the_functions_of_ghc(void)
{
    bell_t *bell = make_bell(1, 0);
    int fd = make_eventfd();
    fake_mvar mvar = {0};
    bell_target target = to_mvar(&mvar, 0);
    bell_timeout_spec timeout = timeout_spec(0, target);
    bell_handle h = 77, live = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_slot());
    REFUSED(bell, try_watch(bell, fd, BELL_READ, BELL_ONESHOT, target), BELL_E_UNSUPPORTED);
    REFUSED(bell, bell_register_timeout(bell, &timeout, &h), BELL_E_UNSUPPORTED);
    REFUSED(bell, bell_register_user(bell, 0, &target, 0, &h), BELL_E_UNSUPPORTED);
    REFUSED(bell, bell_queue_create(bell, 0, &target, &h), BELL_E_UNSUPPORTED);
    REFUSED(bell, bell_retarget(bell, live, &target), BELL_E_UNSUPPORTED);
    REFUSED(bell, bell_rearm(bell, live, &target, BELL_NEVER), BELL_E_UNSUPPORTED);
    CHECK_EQ(h, 77);
    CHECK_EQ(bell_unregister(bell, live, 0), BELL_CANCELLED);
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
    CHECK_EQ(mvar.puts, 0);
}

static void are_timeout_specs_refused_as_documented(void)
{
    things t = open_things();
    bell_t *bell = t.bell;
    bell_handle h = 77;
    uint32_t words[2] = {0};
    char raw[2 * sizeof(bell_timeout_spec)];
    fake_mvar mvar = {0};
    const int64_t most = (int64_t)1 << 62;
    const bell_timeout_spec good = timeout_spec(1, to_poll());
    bell_timeout_spec s;
#define BAD_TIMEOUT(change, error)                                                                                     \
    do {                                                                                                               \
        s = good;                                                                                                      \
        change;                                                                                                        \
        REFUSED(bell, bell_register_timeout(bell, &s, &h), error);                                                     \
        CHECK_EQ(h, 77);                                                                                               \
    } while (0)
    REFUSED(bell, bell_register_timeout(bell, NULL, &h), -EINVAL);
    REFUSED(bell, bell_register_timeout(bell, &good, NULL), -EINVAL);
    REFUSED(bell, bell_register_timeout(bell, &good, (bell_handle *)(raw + 1)), -EINVAL);
    memcpy(raw + 1, &good, sizeof good);
    REFUSED(bell, bell_register_timeout(bell, (bell_timeout_spec *)(raw + 1), &h), -EINVAL);
    BAD_TIMEOUT(s.size = 0, BELL_E_ABI);
    BAD_TIMEOUT(s.size = 4, BELL_E_ABI);
    BAD_TIMEOUT(s.size = sizeof s - 1, BELL_E_ABI);
    BAD_TIMEOUT(s.clock = 3, -EINVAL);
    BAD_TIMEOUT(s.clock = UINT32_MAX, -EINVAL);
    for (int bit = 0; bit < 32; bit++)
        if (1u << bit != BELL_AUTO_RELEASE)
            BAD_TIMEOUT(s.flags = 1u << bit, -EINVAL);
    BAD_TIMEOUT(s.shard = 1, -EINVAL);
    BAD_TIMEOUT(s.shard = 0xfffffffdu, -EINVAL);
    BAD_TIMEOUT(s.deadline_ns = -1, -EINVAL);
    BAD_TIMEOUT(s.deadline_ns = INT64_MIN, -EINVAL);
    BAD_TIMEOUT(s.period_ns = -1, -EINVAL);
    BAD_TIMEOUT(s.period_ns = most + 1, -EINVAL);
    BAD_TIMEOUT(s.slack_ns = -1, -EINVAL);
    BAD_TIMEOUT(s.slack_ns = most + 1, -EINVAL);
    BAD_TIMEOUT((s.flags = BELL_AUTO_RELEASE, s.period_ns = 1000), -EINVAL);
    BAD_TIMEOUT((s.target = to_mvar(&mvar, 0), s.period_ns = 1000), -EINVAL);
    BAD_TIMEOUT(s.target = (bell_target){0}, -EINVAL);
    BAD_TIMEOUT(s.target.kind = 7, -EINVAL);
    BAD_TIMEOUT(s.target.fd = 3, -EINVAL);
    BAD_TIMEOUT(s.target = to_futex(NULL), -EINVAL);
    BAD_TIMEOUT(s.target = to_futex((uint32_t *)((char *)words + 2)), -EINVAL);
    BAD_TIMEOUT(s.target = to_eventfd(-1), -EBADF);
    BAD_TIMEOUT(s.target = to_queue(t.queue + 1), BELL_E_STALE);
    if (!has_feature(BELL_FEATURE_CLOCKS))
        for (uint32_t clock = 1; clock < 3; clock++)
            BAD_TIMEOUT(s.clock = clock, BELL_E_UNSUPPORTED);
    expect_quiet(bell, MS(2)); /* none of them fires */
    /* The limits themselves are good. */
    s = good;
    s.deadline_ns = BELL_NEVER - 1;
    s.period_ns = s.slack_ns = most;
    CHECK_EQ(bell_register_timeout(bell, &s, &h), 0);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    struct {
        bell_timeout_spec spec;
        uint64_t tail[2];
    } big = {.spec = good, .tail = {1, 1}};
    big.spec.size = sizeof good + 8;
    REFUSED(bell, bell_register_timeout(bell, &big.spec, &h), -E2BIG);
    big.tail[0] = 0;
    CHECK_EQ(bell_register_timeout(bell, &big.spec, &h), 0);
    CHECK_EQ(next_event(bell).handle, h);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    CHECK_EQ(mvar.puts, 0);
    close_things(&t);
}

/* ---- the small arguments ---- */

static void are_user_events_and_queues_refused_as_documented(void)
{
    things t = open_things();
    bell_t *bell = t.bell;
    bell_target none = {0}, poll = to_poll(), slot = to_slot(), queue = to_queue(t.queue), bad = to_futex(NULL);
    bell_handle h = 77;
    bell_event e;
    union {
        uint64_t align;
        char bytes[2 * sizeof(bell_target)];
    } raw;
    memcpy(raw.bytes + 1, &slot, sizeof slot);
    REFUSED(bell, bell_register_user(bell, 0, NULL, 0, &h), -EINVAL);
    REFUSED(bell, bell_register_user(bell, 0, &slot, 0, NULL), -EINVAL);
    REFUSED(bell, bell_register_user(bell, 0, &slot, 0, (bell_handle *)(raw.bytes + 1)), -EINVAL);
    REFUSED(bell, bell_register_user(bell, 0, (bell_target *)(raw.bytes + 1), 0, &h), -EINVAL);
    REFUSED(bell, bell_register_user(bell, 1, &slot, 0, &h), -EINVAL);
    REFUSED(bell, bell_register_user(bell, 0xfffffffdu, &slot, 0, &h), -EINVAL);
    REFUSED(bell, bell_register_user(bell, 0, &none, 0, &h), -EINVAL);
    REFUSED(bell, bell_register_user(bell, 0, &bad, 0, &h), -EINVAL);
    REFUSED(bell, bell_queue_create(bell, 0, NULL, NULL), -EINVAL);
    REFUSED(bell, bell_queue_create(bell, 0, NULL, (bell_handle *)(raw.bytes + 1)), -EINVAL);
    REFUSED(bell, bell_queue_create(bell, 1, NULL, &h), -EINVAL);
    REFUSED(bell, bell_queue_create(bell, 0xfffffffdu, NULL, &h), -EINVAL);
    REFUSED(bell, bell_queue_create(bell, 0, &poll, &h), -EINVAL);
    REFUSED(bell, bell_queue_create(bell, 0, &slot, &h), -EINVAL);
    REFUSED(bell, bell_queue_create(bell, 0, &queue, &h), -EINVAL);
    REFUSED(bell, bell_queue_create(bell, 0, &bad, &h), -EINVAL);
    bad = to_eventfd(-1);
    REFUSED(bell, bell_queue_create(bell, 0, &bad, &h), -EBADF);
    CHECK_EQ(h, 77);
    REFUSED(bell, bell_queue_drain(bell, t.queue, NULL, 1), -EINVAL);
    REFUSED(bell, bell_queue_drain(bell, t.queue, (bell_event *)(raw.bytes + 1), 1), -EINVAL);
    REFUSED(bell, bell_queue_wait(bell, t.queue, NULL, 1, 0), -EINVAL);
    REFUSED(bell, bell_queue_wait(bell, t.queue, &e, 0, 0), -EINVAL);
    REFUSED(bell, bell_queue_wait(bell, t.queue, &e, 1, -1), -EINVAL);
    REFUSED(bell, bell_queue_wait(bell, t.queue, &e, 1, INT64_MIN), -EINVAL);
    REFUSED(bell, bell_queue_destroy(bell, t.queue, 2), -EINVAL);
    h = make_user(bell, queue);
    REFUSED(bell, bell_queue_destroy(bell, t.queue, 0), BELL_E_BUSY);
    REFUSED(bell, bell_queue_destroy(bell, t.queue, BELL_SYNC), BELL_E_BUSY);
    CHECK_EQ(bell_post(bell, h, 8), 0);
    turn(bell);
    CHECK_EQ(bell_queue_drain(bell, t.queue, &e, 1), 1);
    CHECK_EQ(e.handle, h);
    CHECK_EQ(bell_unregister(bell, h, 0) & ~(BELL_FIRED | BELL_CANCELLED), 0);
    REFUSED(bell, bell_retarget(bell, t.queue, &poll), -EINVAL);
    REFUSED(bell, bell_retarget(bell, t.queue, &slot), -EINVAL);
    REFUSED(bell, bell_retarget(bell, t.queue, &queue), -EINVAL);
    CHECK_EQ(bell_retarget(bell, t.queue, &none), BELL_FIRED); /* there was none, and none it stays */
    close_things(&t);
}

static void are_the_driving_functions_refused_as_documented(void)
{
    things t = open_things();
    bell_t *bell = t.bell;
    union {
        uint64_t align;
        char bytes[128];
    } raw;
    bell_event e;
    int64_t deadline = 77;
    static const uint32_t shards[] = {1, 254, 255, 256, 0xfffffffdu, BELL_SHARD_CURRENT_CPU, BELL_SHARD_ANY};
    for (int i = 0; i < 7; i++) {
        REFUSED(bell, bell_poll(bell, shards[i], &e, 1, 0), -EINVAL);
        REFUSED(bell, bell_wake(bell, shards[i]), -EINVAL);
        REFUSED(bell, bell_next_deadline(bell, shards[i], &deadline), -EINVAL);
        if (has_feature(BELL_FEATURE_POLLABLE))
            REFUSED(bell, bell_pollable_fd(bell, shards[i]), -EINVAL);
        bell_counters c = {.size = sizeof c};
        if (shards[i] != BELL_SHARD_ANY)
            REFUSED(bell, bell_stats(bell, shards[i], &c), -EINVAL);
    }
    REFUSED(bell, bell_poll(bell, 0, NULL, 1, 0), -EINVAL);
    REFUSED(bell, bell_poll(bell, 0, (bell_event *)(raw.bytes + 1), 1, 0), -EINVAL);
    REFUSED(bell, bell_poll(bell, 0, &e, 1, -1), -EINVAL);
    REFUSED(bell, bell_poll(bell, 0, &e, 1, INT64_MIN), -EINVAL);
    REFUSED(bell, bell_next_deadline(bell, 0, NULL), -EINVAL);
    REFUSED(bell, bell_next_deadline(bell, 0, (int64_t *)(raw.bytes + 1)), -EINVAL);
    CHECK_EQ(deadline, 77);
    bell_counters c = {.size = 0};
    REFUSED(bell, bell_stats(bell, 0, NULL), -EINVAL);
    REFUSED(bell, bell_stats(bell, 0, (bell_counters *)(raw.bytes + 1)), -EINVAL);
    REFUSED(bell, bell_stats(bell, 0, &c), BELL_E_ABI);
    c.size = 4;
    REFUSED(bell, bell_stats(bell, 0, &c), BELL_E_ABI);
    c.size = sizeof c - 1;
    REFUSED(bell, bell_stats(bell, 0, &c), BELL_E_ABI);
    REFUSED(bell, bell_dump(bell, -1), -EBADF);
    REFUSED(bell, bell_dump(bell, 1 << 20), -EBADF);
    close_things(&t);
}

static void are_changes_refused_as_documented(void)
{
    things t = open_things();
    bell_t *bell = t.bell;
    bell_target none = {0}, futex = to_futex(NULL), closed = to_eventfd(-1), stale = to_queue(t.queue + 1);
    bell_target unused = to_poll(), slot = to_slot();
    union {
        uint64_t align;
        char bytes[2 * sizeof(bell_target)];
    } raw;
    int64_t deadline = 77;
    bell_slot *mapped = (bell_slot *)&raw;
    bell_handle handles[2] = {t.fd_poll, t.timeout};
    int32_t status[2];
    unused.word = (uint32_t *)&raw;
    memcpy(raw.bytes + 1, &slot, sizeof slot);

    REFUSED(bell, bell_modify(bell, t.fd_poll, 0, BELL_ONESHOT), -EINVAL);
    REFUSED(bell, bell_modify(bell, t.fd_poll, 16, BELL_ONESHOT), -EINVAL);
    REFUSED(bell, bell_modify(bell, t.fd_poll, BELL_READ | 1u << 31, BELL_ONESHOT), -EINVAL);
    REFUSED(bell, bell_modify(bell, t.fd_poll, BELL_READ, 0), -EINVAL);
    REFUSED(bell, bell_modify(bell, t.fd_poll, BELL_READ, 4), -EINVAL);
    REFUSED(bell, bell_modify(bell, t.fd_slot, BELL_READ, BELL_LEVEL), -EINVAL); /* LEVEL does not go with SLOT */
    if (!has_edge())
        REFUSED(bell, bell_modify(bell, t.fd_poll, BELL_READ, BELL_EDGE), BELL_E_UNSUPPORTED);

    bell_handle all[] = {t.fd_poll, t.fd_slot, t.timeout, t.user};
    for (int i = 0; i < 4; i++) {
        int64_t when = i < 2 ? BELL_NEVER : i == 2 ? BELL_NEVER - 1 : BELL_NEVER;
        REFUSED(bell, bell_rearm(bell, all[i], &none, when), -EINVAL);
        REFUSED(bell, bell_rearm(bell, all[i], &futex, when), -EINVAL);
        REFUSED(bell, bell_rearm(bell, all[i], &closed, when), -EBADF);
        REFUSED(bell, bell_rearm(bell, all[i], &stale, when), BELL_E_STALE);
        REFUSED(bell, bell_rearm(bell, all[i], &unused, when), -EINVAL);
        REFUSED(bell, bell_rearm(bell, all[i], (bell_target *)(raw.bytes + 1), when), -EINVAL);
        REFUSED(bell, bell_rearm(bell, all[i], NULL, -1), -EINVAL);
        REFUSED(bell, bell_rearm(bell, all[i], NULL, INT64_MIN), -EINVAL);
        REFUSED(bell, bell_retarget(bell, all[i], NULL), -EINVAL);
        REFUSED(bell, bell_retarget(bell, all[i], &none), -EINVAL);
        REFUSED(bell, bell_retarget(bell, all[i], &futex), -EINVAL);
        REFUSED(bell, bell_retarget(bell, all[i], &closed), -EBADF);
        REFUSED(bell, bell_retarget(bell, all[i], &stale), BELL_E_STALE);
        REFUSED(bell, bell_retarget(bell, all[i], &unused), -EINVAL);
        REFUSED(bell, bell_retarget(bell, all[i], (bell_target *)(raw.bytes + 1)), -EINVAL);
        REFUSED(bell, bell_unregister(bell, all[i], 2), -EINVAL);
        REFUSED(bell, bell_unregister(bell, all[i], UINT32_MAX), -EINVAL);
    }
    REFUSED(bell, bell_rearm(bell, t.user, NULL, 1), -EINVAL); /* a user event has no deadline */
    REFUSED(bell, bell_update_timeout(bell, t.timeout, -1), -EINVAL);
    REFUSED(bell, bell_update_timeout(bell, t.fd_poll, INT64_MIN), -EINVAL);
    REFUSED(bell, bell_timeout_get(bell, t.timeout, NULL), -EINVAL);
    REFUSED(bell, bell_timeout_get(bell, t.timeout, (int64_t *)(raw.bytes + 1)), -EINVAL);
    CHECK_EQ(bell_timeout_get(bell, t.timeout, &deadline), 0);
    CHECK_EQ(deadline, BELL_NEVER - 1);
    CHECK_EQ(bell_timeout_get(bell, t.fd_poll, &deadline), 0);
    CHECK_EQ(deadline, BELL_NEVER);
    bell_timeout_spec periodic = timeout_spec(BELL_NEVER, to_poll());
    bell_handle ticks;
    periodic.period_ns = 1000;
    CHECK_EQ(bell_register_timeout(bell, &periodic, &ticks), 0);
    deadline = 77;
    REFUSED(bell, bell_share_deadline(bell, ticks, &deadline), -EINVAL);
    REFUSED(bell, bell_share_deadline(bell, t.timeout, NULL), -EINVAL);
    REFUSED(bell, bell_share_deadline(bell, t.timeout, (int64_t *)(raw.bytes + 4)), -EINVAL);
    CHECK_EQ(deadline, 77);
    CHECK_EQ(bell_unregister(bell, ticks, 0), BELL_FIRED);

    REFUSED(bell, bell_slot_map(bell, t.fd_slot, NULL), -EINVAL);
    REFUSED(bell, bell_slot_map(bell, t.fd_slot, (bell_slot **)(raw.bytes + 1)), -EINVAL);
    static const uint32_t directions[] = {0, 3, 4, 8, 1u << 31, UINT32_MAX};
    for (int i = 0; i < 6; i++) {
        REFUSED(bell, bell_slot_consume(bell, t.fd_slot, directions[i]), -EINVAL);
        REFUSED(bell, bell_slot_wait(bell, t.fd_slot, directions[i], 0, 0), -EINVAL);
    }
    REFUSED(bell, bell_slot_wait(bell, t.fd_slot, BELL_READ, -1, 0), -EINVAL);
    REFUSED(bell, bell_slot_wait(bell, t.fd_slot, BELL_READ, INT64_MIN, 0), -EINVAL);
    REFUSED(bell, bell_slot_wait(bell, t.fd_slot, BELL_READ, 0, 2), -EINVAL);
    REFUSED(bell, bell_slot_wait(bell, t.fd_slot, BELL_READ, 0, UINT32_MAX), -EINVAL);
    bell_handle not_slots[] = {t.fd_poll, t.timeout, t.user, t.queue};
    for (int i = 0; i < 4; i++) {
        REFUSED(bell, bell_slot_map(bell, not_slots[i], &mapped), -EINVAL);
        REFUSED(bell, bell_slot_consume(bell, not_slots[i], BELL_READ), -EINVAL);
        REFUSED(bell, bell_slot_wait(bell, not_slots[i], BELL_READ, BELL_NEVER, 0), -EINVAL);
    }
    CHECK(mapped == (bell_slot *)&raw);

    REFUSED(bell, bell_register_fd_batch(bell, NULL, 1, handles, status), -EINVAL);
    REFUSED(bell, bell_register_fd_batch(bell, &(bell_fd_spec){0}, 1, NULL, status), -EINVAL);
    REFUSED(bell, bell_register_fd_batch(bell, &(bell_fd_spec){0}, 1, handles, NULL), -EINVAL);
    REFUSED(bell, bell_rearm_batch(bell, NULL, 1, status), -EINVAL);
    REFUSED(bell, bell_rearm_batch(bell, handles, 1, NULL), -EINVAL);
    REFUSED(bell, bell_rearm_batch(bell, handles, (1u << 20) + 1, status), -EINVAL);
    REFUSED(bell, bell_unregister_batch(bell, NULL, 1, 0, status), -EINVAL);
    REFUSED(bell, bell_unregister_batch(bell, handles, 1, 0, NULL), -EINVAL);
    REFUSED(bell, bell_unregister_batch(bell, handles, 2, 2, status), -EINVAL);
    REFUSED(bell, bell_unregister_batch(bell, handles, (1u << 20) + 1, 0, status), -EINVAL);
    REFUSED(bell, bell_unregister_batch(bell, (bell_handle *)(raw.bytes + 1), 1, 0, status), -EINVAL);
    CHECK_EQ(handles[0], t.fd_poll);
    close_things(&t);
}

static void are_the_closing_functions_refused_as_documented(void)
{
    things t = open_things();
    bell_t *bell = t.bell;
    union {
        uint64_t align;
        char bytes[32];
    } raw;
    uint64_t ticket = 77, other = 77;
    int fd = make_eventfd(), unused = make_eventfd();
    CHECK_EQ(close(unused), 0);
    REFUSED(bell, bell_close_begin(bell, fd, NULL), -EINVAL);
    REFUSED(bell, bell_close_begin(bell, fd, (uint64_t *)(raw.bytes + 1)), -EINVAL);
    static const int32_t bad[] = {-1, INT32_MIN, 1 << 24, INT32_MAX};
    for (int i = 0; i < 4; i++) {
        REFUSED(bell, bell_close_begin(bell, bad[i], &ticket), -EBADF);
        REFUSED(bell, bell_close_end(bell, bad[i], 1), -EBADF);
        REFUSED(bell, bell_close_fd(bell, bad[i]), -EBADF);
    }
    CHECK_EQ(ticket, 77);
    REFUSED(bell, bell_close_end(bell, fd, 0), BELL_E_STALE);
    REFUSED(bell, bell_close_end(bell, fd, 77), BELL_E_STALE);
    REFUSED(bell, bell_close_fd(bell, unused), -EBADF); /* from close(2) itself */
    bell_handle h = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_poll());
    CHECK_EQ(bell_close_begin(bell, fd, &ticket), 0);
    REFUSED(bell, bell_close_begin(bell, fd, &other), BELL_E_CLOSED);
    REFUSED(bell, bell_close_fd(bell, fd), BELL_E_CLOSED);
    CHECK_EQ(other, 77);
    CHECK(fcntl(fd, F_GETFD) >= 0); /* it was not closed */
    REFUSED(bell, try_watch(bell, fd, BELL_READ, BELL_ONESHOT, to_poll()), BELL_E_CLOSED);
    REFUSED(bell, bell_rearm(bell, h, NULL, BELL_NEVER), BELL_E_CLOSED);
    REFUSED(bell, bell_modify(bell, h, BELL_READ, BELL_ONESHOT), BELL_E_CLOSED);
    REFUSED(bell, bell_update_timeout(bell, h, 1), BELL_E_CLOSED);
    REFUSED(bell, bell_close_end(bell, fd, ticket + 1), BELL_E_STALE);
    REFUSED(bell, bell_close_end(bell, fd + 1, ticket), BELL_E_STALE);
    bell_event e = next_event(bell);
    CHECK_EQ(e.handle, h);
    CHECK_EQ(e.ready, BELL_CLOSED);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(bell_close_end(bell, fd, ticket), 0);
    REFUSED(bell, bell_close_end(bell, fd, ticket), BELL_E_STALE); /* once is enough */
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    REFUSED(bell, bell_unregister(bell, h, 0), BELL_E_STALE);
    close_things(&t);
}

/* ---- handles ---- */

enum { HANDLE_CALLS = 18 };

/* Every function that takes a handle. The allowed answers to a bad one are STALE, and -EINVAL for one of another kind. */
static int32_t call_with(int number, bell_t *bell, bell_handle h)
{
    bell_event event;
    bell_slot *slot;
    int64_t deadline;
    int32_t status = 1;
    bell_target target = to_slot();
    switch (number) {
    case 0: return bell_modify(bell, h, BELL_READ, BELL_ONESHOT);
    case 1: return bell_rearm(bell, h, NULL, BELL_NEVER);
    case 2: return bell_retarget(bell, h, &target);
    case 3: return bell_unregister(bell, h, 0);
    case 4: return bell_unregister(bell, h, BELL_SYNC);
    case 5: return bell_slot_map(bell, h, &slot);
    case 6: return bell_slot_consume(bell, h, BELL_READ);
    case 7: return bell_slot_wait(bell, h, BELL_WRITE, BELL_NEVER, 0);
    case 8: return bell_queue_drain(bell, h, &event, 1);
    case 9: return bell_queue_wait(bell, h, &event, 1, BELL_NEVER);
    case 10: return bell_queue_fd(bell, h);
    case 11: return bell_queue_destroy(bell, h, 0);
    case 12: return bell_update_timeout(bell, h, 1);
    case 13: return bell_timeout_get(bell, h, &deadline);
    case 14: return bell_post(bell, h, 1);
    case 15: return bell_share_deadline(bell, h, &deadline);
    case 16: CHECK_EQ(bell_rearm_batch(bell, &h, 1, &status), 0); return status;
    default: CHECK_EQ(bell_unregister_batch(bell, &h, 1, BELL_SYNC, &status), 0); return status;
    }
}

static void is_no_handle(bell_t *bell, bell_handle h)
{
    for (int i = 0; i < HANDLE_CALLS; i++) {
        int32_t r = call_with(i, bell, h);
        if (r == -EINVAL)
            continue;
        if (r != BELL_E_STALE)
            fprintf(stderr, "  call %d with %#" PRIx64 "\n", i, h);
        CHECK_EQ(r, BELL_E_STALE);
    }
}

static int is_one_of(const things *t, bell_handle h)
{
    return h == t->fd_slot || h == t->fd_poll || h == t->timeout || h == t->user || h == t->user_slot || h == t->queue;
}

static void are_invented_handles_refused(void)
{
    things t = open_things();
    bell_handle live[] = {t.fd_slot, t.fd_poll, t.timeout, t.user, t.user_slot, t.queue};
    bell_counters before = stats_of(t.bell);
    is_no_handle(t.bell, 0);
    is_no_handle(t.bell, UINT64_MAX);
    for (int i = 0; i < rounds(100000); i++) {
        bell_handle h = random_bits();
        if (i % 4 == 1)
            h = (h & 0x3ffffff) | (h >> 40 & 7) << 26 | (1 + h % 5) << 58; /* a plausible one */
        if (i % 4 == 2)
            h = (h & 3) | (h >> 40 & 7) << 26 | (h >> 20 & 1) << 50 | (1 + h % 5) << 58;
        if (!is_one_of(&t, h))
            is_no_handle(t.bell, h);
    }
    for (int i = 0; i < 6; i++) {
        for (int bit = 0; bit < 64; bit++) /* near misses */
            if (!is_one_of(&t, live[i] ^ (bell_handle)1 << bit))
                is_no_handle(t.bell, live[i] ^ (bell_handle)1 << bit);
        if (!is_one_of(&t, live[i] + (1u << 26)))
            is_no_handle(t.bell, live[i] + (1u << 26));
        is_no_handle(t.bell, live[i] - 1);
        is_no_handle(t.bell, live[i] + 1);
    }
    same_things(__FILE__, __LINE__, t.bell, &before);
    close_things(&t);
}

static void are_handles_stale_after_their_end(void)
{
    things t = open_things();
    bell_handle old[6];
    int fd = make_eventfd();
    for (int round = 0; round < 50; round++) {
        bell_event e;
        bell_timeout_spec spec = timeout_spec(0, to_poll());
        spec.flags = BELL_AUTO_RELEASE;
        old[0] = watch(t.bell, fd, BELL_READ, BELL_ONESHOT, to_slot());
        old[1] = set_timeout(t.bell, BELL_NEVER - 1, to_slot());
        old[2] = make_user(t.bell, to_slot());
        old[3] = make_queue(t.bell, NULL);
        CHECK_OK(bell_register_timeout(t.bell, &spec, &old[4]));
        e = next_event(t.bell); /* it frees itself by its delivery */
        CHECK_EQ(e.handle, old[4]);
        old[5] = watch(t.bell, fd, BELL_READ, BELL_ONESHOT, to_poll());
        CHECK_EQ(bell_unregister(t.bell, old[0], 0), BELL_CANCELLED);
        CHECK_EQ(bell_unregister(t.bell, old[1], BELL_SYNC), BELL_CANCELLED);
        CHECK_OK(bell_unregister(t.bell, old[2], 0));
        CHECK_EQ(bell_queue_destroy(t.bell, old[3], BELL_SYNC), BELL_FIRED);
        CHECK_EQ(bell_unregister(t.bell, old[5], BELL_SYNC), BELL_CANCELLED);
        for (int i = 0; i < 6; i++) {
            is_no_handle(t.bell, old[i]);
            CHECK_EQ(i == 3 ? bell_queue_destroy(t.bell, old[i], 0) : bell_unregister(t.bell, old[i], 0), BELL_E_STALE);
        }
    }
    CHECK_EQ(close(fd), 0);
    close_things(&t);
}

static void are_handles_of_another_manager_refused(void)
{
    enum { MORE = 20 };
    things t = open_things();
    bell_t *other = make_bell(3, 0);
    bell_handle theirs[MORE][4];
    int fd = make_eventfd();
    for (int i = 0; i < MORE; i++) {
        bell_fd_spec spec = fd_spec(fd, BELL_READ, BELL_ONESHOT, to_slot());
        spec.shard = 1;
        CHECK_OK(bell_register_fd(other, &spec, &theirs[i][0]));
        theirs[i][1] = set_timeout(other, BELL_NEVER - 1, to_slot());
        theirs[i][2] = make_user(other, to_slot());
        theirs[i][3] = make_queue(other, NULL);
    }
    bell_counters before = stats_of(t.bell);
    int tried = 0;
    for (int i = 0; i < MORE; i++)
        for (int k = 0; k < 4; k++)
            if (!is_one_of(&t, theirs[i][k])) { /* two managers may use the same numbers for their own */
                is_no_handle(t.bell, theirs[i][k]);
                if (k == 3)
                    CHECK_EQ(try_watch(t.bell, t.fd, BELL_READ, BELL_ONESHOT, to_queue(theirs[i][k])), BELL_E_STALE);
                tried++;
            }
    CHECK_GE(tried, 3 * MORE);
    same_things(__FILE__, __LINE__, t.bell, &before);
    CHECK_EQ(bell_destroy(other, 0), 0);
    CHECK_EQ(close(fd), 0);
    close_things(&t);
}

static void is_each_kind_of_handle_refused_where_another_is_due(void)
{
    things t = open_things();
    bell_t *bell = t.bell;
    bell_event e;
    int64_t deadline = 77;
    int32_t status = 1;
    bell_handle q = t.queue, others[] = {t.timeout, t.user, t.queue}, no_queues[] = {t.fd_poll, t.timeout, t.user};
    for (int i = 0; i < 3; i++) {
        REFUSED(bell, bell_modify(bell, others[i], BELL_READ, BELL_ONESHOT), -EINVAL);
        REFUSED(bell, bell_queue_drain(bell, no_queues[i], &e, 1), -EINVAL);
        REFUSED(bell, bell_queue_wait(bell, no_queues[i], &e, 1, BELL_NEVER), -EINVAL);
        REFUSED(bell, bell_queue_fd(bell, no_queues[i]), -EINVAL);
        REFUSED(bell, bell_queue_destroy(bell, no_queues[i], 0), -EINVAL);
    }
    REFUSED(bell, bell_rearm(bell, q, NULL, BELL_NEVER), -EINVAL);
    REFUSED(bell, bell_unregister(bell, q, 0), -EINVAL);
    REFUSED(bell, bell_unregister(bell, q, BELL_SYNC), -EINVAL);
    REFUSED(bell, bell_unregister_batch(bell, &q, 1, 0, &status), 0);
    CHECK_EQ(status, -EINVAL);
    REFUSED(bell, bell_rearm_batch(bell, &q, 1, &status), 0);
    CHECK_EQ(status, -EINVAL);
    bell_handle no_times[] = {t.user, t.queue}, no_users[] = {t.fd_poll, t.timeout, t.queue};
    REFUSED(bell, bell_share_deadline(bell, t.fd_poll, &deadline), -EINVAL);
    for (int i = 0; i < 2; i++) {
        REFUSED(bell, bell_update_timeout(bell, no_times[i], 1), -EINVAL);
        REFUSED(bell, bell_timeout_get(bell, no_times[i], &deadline), -EINVAL);
        REFUSED(bell, bell_share_deadline(bell, no_times[i], &deadline), -EINVAL);
    }
    CHECK_EQ(deadline, 77);
    for (int i = 0; i < 3; i++)
        REFUSED(bell, bell_post(bell, no_users[i], 1), -EINVAL);
    expect_quiet(bell, MS(2));
    close_things(&t);
}

static void is_a_failed_rearm_without_effect_on_what_is_armed(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    fake_mvar mvar = {0}, second = {0};
    int fd = make_eventfd();
    bell_handle h = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_mvar(&mvar, 1));
    bell_target bad = to_futex(NULL), good = to_mvar(&second, 2);
    REFUSED(bell, bell_rearm(bell, h, &bad, BELL_NEVER), -EINVAL);
    REFUSED(bell, bell_retarget(bell, h, &bad), -EINVAL);
    CHECK_EQ(eventfd_write(fd, 1), 0);
    turn(bell);
    CHECK_EQ(mvar.puts, 1);
    REFUSED(bell, bell_rearm(bell, h, NULL, BELL_NEVER), -EINVAL); /* the MVar is used up */
    turn(bell);
    CHECK_EQ(mvar.puts, 1);
    REFUSED(bell, bell_rearm(bell, h, &bad, BELL_NEVER), -EINVAL);
    CHECK_EQ(bell_rearm(bell, h, &good, BELL_NEVER), 0);
    turn(bell);
    CHECK_EQ(second.puts, 1);
    CHECK_EQ(second.capability, 2);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    CHECK_EQ(mvar.puts, 1);
    /* An fd that was closed behind the library's back cannot be armed, and says so. */
    h = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_poll());
    CHECK_EQ(next_event(bell).handle, h);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(bell_rearm(bell, h, NULL, BELL_NEVER), -EBADF);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    check_clean(bell);
}

int main(void)
{
    RUN(may_any_call_race_with_destroy);
    RUN(is_garbage_not_taken_for_a_manager);
    RUN(is_a_destroyed_manager_gone_for_good);
    RUN(are_errors_of_the_plain_functions_as_documented);
    RUN(are_configs_refused_as_documented);
    RUN(are_fd_specs_refused_as_documented);
    RUN(are_mvars_refused_without_the_functions_of_ghc);
    RUN(are_timeout_specs_refused_as_documented);
    RUN(are_user_events_and_queues_refused_as_documented);
    RUN(are_the_driving_functions_refused_as_documented);
    RUN(are_changes_refused_as_documented);
    RUN(are_the_closing_functions_refused_as_documented);
    RUN(are_invented_handles_refused);
    RUN(are_handles_stale_after_their_end);
    RUN(are_handles_of_another_manager_refused);
    RUN(is_each_kind_of_handle_refused_where_another_is_due);
    RUN(is_a_failed_rearm_without_effect_on_what_is_armed);
    return 0;
}
