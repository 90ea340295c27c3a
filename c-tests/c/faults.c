/* The k-th system call, the k-th allocation of each call of the library fails, once and from there on, for k = 1, 2
 * and so on until none is left. Each time: a documented code, nothing has changed, nothing leaks, and the same call
 * succeeds when the cause is gone. And each error that the header documents for want of something was met. */
#define _GNU_SOURCE
#include "faults.h"
#include <sys/wait.h>

/* What a call is tried in. `l`: where news of what the call makes lands. */
typedef struct world {
    bell_t *bell;
    int fd, other, file, epoll_like; /* `fd` is watched in a full world, `other` is not */
    bell_handle poll, slot, timeout, user, queue;
    landing l;
    bell_handle made, made_too;
    bell_handle handles[3];
    bell_t *made_bell;
    bell_event event;
    uint64_t ticket;
    int ended;
    int crowd[50];
    bell_handle crowd_handles[50];
} world;

typedef struct scenario {
    const char *name;
    void (*prepare)(world *, int);
    int32_t (*attempt)(world *, int); /* the call; no check in it, for it is made under faults */
    void (*works)(world *, int);      /* the call succeeded: so it must have done what it says; then undone */
    const int32_t *documented, *provoked;
    uint32_t spared; /* kinds of faults that this one is not about */
    int keeps_fds;   /* what was made before the failure serves the next attempt; it goes with the manager */
} scenario;

#define CODES(...) (const int32_t[]){__VA_ARGS__, 0}

static uint64_t fault_points, fault_runs, leaks;
static uint32_t seen_errors[64];
static int seen_count;

static void see(int32_t code)
{
    for (int i = 0; i < seen_count; i++)
        if ((int32_t)seen_errors[i] == code)
            return;
    CHECK_LT(seen_count, 64);
    seen_errors[seen_count++] = (uint32_t)code;
}

static int seen(int32_t code)
{
    for (int i = 0; i < seen_count; i++)
        if ((int32_t)seen_errors[i] == code)
            return 1;
    return 0;
}

static int is_in(const int32_t *codes, int32_t code)
{
    for (; codes && *codes; codes++)
        if (*codes == code)
            return 1;
    return 0;
}

/* ---- worlds ---- */

enum { BARE, EMPTY, FULL, WORLDS };

static void world_open(world *w, int kind)
{
    char path[] = P_tmpdir "/doorbell-XXXXXX";
    memset(w, 0, sizeof *w);
    w->fd = make_eventfd();
    w->other = make_eventfd();
    w->file = mkostemp(path, O_CLOEXEC);
    CHECK(w->file >= 0);
    CHECK_EQ(unlink(path), 0);
    if (kind == BARE)
        return;
    w->bell = make_bell_ghc(1, 0);
    if (kind == EMPTY)
        return;
    w->poll = watch(w->bell, w->fd, BELL_READ, BELL_ONESHOT, to_poll());
    w->slot = watch(w->bell, w->fd, BELL_READ, BELL_ONESHOT, to_slot());
    w->timeout = set_timeout(w->bell, BELL_NEVER - 1, to_poll());
    w->user = make_user(w->bell, to_poll());
    w->queue = make_queue(w->bell, NULL);
}

/* What was there before works as ever; then it is taken down. */
static void world_close(world *w)
{
    if (w->bell && w->queue) {
        int told = 0;
        bell_event e;
        CHECK_EQ(eventfd_write(w->fd, 1), 0);
        CHECK_EQ(bell_post(w->bell, w->user, 1), 0);
        CHECK_EQ(bell_update_timeout(w->bell, w->timeout, 0), 0);
        for (int i = 0; i < 3; i++) {
            e = next_event(w->bell);
            told |= e.handle == w->poll ? 1 : e.handle == w->timeout ? 2 : e.handle == w->user ? 4 : 8;
        }
        CHECK_EQ(told, 7);
        CHECK_EQ(bell_slot_wait(w->bell, w->slot, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
        CHECK_EQ(bell_unregister(w->bell, w->poll, 0), BELL_FIRED);
        CHECK_EQ(bell_unregister(w->bell, w->slot, 0), BELL_FIRED);
        CHECK_EQ(bell_unregister(w->bell, w->timeout, 0), BELL_FIRED);
        CHECK_EQ(bell_unregister(w->bell, w->user, 0), BELL_CANCELLED);
        CHECK_EQ(bell_queue_destroy(w->bell, w->queue, 0), BELL_FIRED);
    }
    if (w->bell)
        check_clean(w->bell);
    CHECK_EQ(close(w->fd), 0);
    if (w->other >= 0)
        CHECK_EQ(close(w->other), 0);
    CHECK_EQ(close(w->file), 0);
}

typedef struct snapshot {
    int fds;
    bell_counters c;
} snapshot;

static snapshot look(world *w)
{
    snapshot s = {.fds = live_fds()};
    if (w->bell)
        s.c = stats_of(w->bell);
    return s;
}

static void same(world *w, const snapshot *before, int keeps_fds)
{
    snapshot now = look(w);
    if (!keeps_fds)
        CHECK_EQ(now.fds, before->fds);
    CHECK_EQ(now.c.fds, before->c.fds);
    CHECK_EQ(now.c.timeouts, before->c.timeouts);
    CHECK_EQ(now.c.users, before->c.users);
    CHECK_EQ(now.c.queues, before->c.queues);
    CHECK_EQ(now.c.waiters, before->c.waiters);
    if (w->bell)
        check_verified(w->bell);
}

/* ---- the sweep ---- */

/* One run. Returns how many faults struck. */
static int strike(const scenario *s, int argument, int kind, faults plan)
{
    world w;
    int fds = live_fds();
    uint32_t blocks = live_blocks;
    world_open(&w, kind);
    if (s->prepare)
        s->prepare(&w, argument);
    snapshot before = look(&w);
    faults_plan(plan);
    int32_t r = s->attempt(&w, argument);
    faults_end();
    int struck = fault.struck, last = fault.last;
    faults_plan((faults){0});
    fault_points += struck > 0;
    fault_runs++;
    if (r < 0) {
        see(r);
        if (!struck || !is_in(s->documented, r))
            fprintf(stderr, "  %s(%#x) in world %d, %s %d%s variant %d (struck %d, last by %s) says %d\n", s->name,
                    (unsigned)argument, kind, plan.kinds == FAULTS_MEMORY ? "allocation" : "call", plan.at,
                    plan.for_ever ? " and all after" : "", plan.variant, struck, fault_names[last], r);
        CHECK(struck);
        CHECK(is_in(s->documented, r));
        same(&w, &before, s->keeps_fds);
        r = s->attempt(&w, argument);
        if (r < 0)
            fprintf(stderr, "  again, without faults: %s(%#x)\n", s->name, (unsigned)argument);
        CHECK_OK(r);
    }
    if (s->works)
        s->works(&w, argument);
    world_close(&w);
    if (live_fds() != fds || live_blocks != blocks) { /* counted, and told at the end */
        leaks++;
        fprintf(stderr, "  %s(%#x) in world %d, %s %d%s leaks\n", s->name, (unsigned)argument, kind,
                plan.kinds == FAULTS_MEMORY ? "allocation" : "call", plan.at, plan.for_ever ? " and all after" : "");
    }
    return struck;
}

/* Clocks do not fail, nor do timers that are there: museum_059 asks what if. */
#define CALLS_OF_A_SWEEP (FAULTS_ALL_CALLS & ~FAULTS_OF(clock_gettime) & ~FAULTS_OF(timerfd_settime))

static void sweep(const scenario *s, int argument, int kind)
{
    const uint32_t kinds[] = {FAULTS_MEMORY, CALLS_OF_A_SWEEP};
    if (getenv("FAULTS_TELL"))
        fprintf(stderr, "    %s(%#x) world %d\n", s->name, (unsigned)argument, kind);
    for (int i = 0; i < 2; i++)
        for (int variant = 0; variant < (i ? 3 : 1); variant++)
            for (int for_ever = 0; for_ever < 2; for_ever++)
                for (int at = 1;; at++) {
                    faults plan = {.kinds = kinds[i] & ~s->spared, .at = at, .for_ever = for_ever, .variant = variant};
                    CHECK_LT(at, 200);
                    if (!strike(s, argument, kind, plan))
                        break;
                }
}

static void sweep_all_worlds(const scenario *s, int argument)
{
    sweep(s, argument, EMPTY);
    sweep(s, argument, FULL);
}

/* Each of these was met since the last time. */
static void provoked(const scenario *s)
{
    for (const int32_t *code = s->provoked; code && *code; code++) {
        if (!seen(*code))
            fprintf(stderr, "  %s never said %d (%s)\n", s->name, *code, bell_strerror(*code));
        CHECK(seen(*code));
    }
    seen_count = 0;
}

/* ---- create, destroy ---- */

static int32_t create(world *w, int how)
{
    static const bell_ghc_ops ghc = {.size = sizeof ghc, .try_putmvar = fake_try_putmvar};
    bell_config config = {.size = sizeof config};
    config.shards = how == 1 ? 3 : 0;
    config.threads = how == 2 ? 2 : 0;
    config.ghc = how == 3 ? &ghc : NULL;
    w->made_bell = (bell_t *)1;
    faults_begin();
    int32_t r = bell_create(how == 0 ? NULL : &config, &w->made_bell);
    faults_end();
    if (r < 0)
        CHECK(w->made_bell == (bell_t *)1);
    return r;
}

static void created(world *w, int how)
{
    (void)how;
    CHECK_EQ(bell_wake(w->made_bell, 0), 0);
    check_clean(w->made_bell);
}

static void museum_056_does_create_fail_cleanly(void)
{
    const int32_t *codes = on_io_uring()
        ? CODES(-EMFILE, -ENFILE, -ENOMEM, -EAGAIN, -EPERM, BELL_E_UNSUPPORTED)
        : CODES(-EMFILE, -ENFILE, -ENOMEM, -EAGAIN, -ENOSPC);
    const scenario s = {"bell_create", NULL, create, created, codes,
                        has_feature(BELL_FEATURE_EPOLL) ? codes : CODES(-EMFILE, -ENFILE, -ENOMEM, -EAGAIN),
                        /* A thread that was started can only be ended by waking it, and that is a write. */
                        FAULTS_OF(write), 0};
    for (int how = 0; how < 4; how++)
        sweep(&s, how, BARE);
    provoked(&s);
}

static void busy(world *w, int how)
{
    static fake_mvar mvar;
    static uint32_t word;
    mvar = (fake_mvar){0};
    word = 0;
    if (!w->queue)
        return;
    bell_target doorbell = to_mvar(&mvar, 1), futex = to_futex(&word);
    CHECK_OK(bell_retarget(w->bell, w->queue, how ? &doorbell : &futex));
    for (int i = 0; i < 40; i++) { /* more than one batch */
        set_timeout(w->bell, BELL_NEVER - 1, to_futex(&word));
        watch(w->bell, w->fd, BELL_READ, BELL_ONESHOT, i % 2 ? to_queue(w->queue) : to_futex(&word));
    }
}

static int32_t destroy(world *w, int how)
{
    if (!w->bell)
        return 0;
    faults_begin();
    int32_t r = bell_destroy(w->bell, how ? BELL_FORCE : 0);
    faults_end();
    return r;
}

static void destroyed(world *w, int how)
{
    (void)how;
    CHECK_EQ(bell_wake(w->bell, 0), BELL_E_STALE);
    w->bell = NULL;
}

static void does_destroy_always_succeed(void)
{
    const scenario s = {"bell_destroy", busy, destroy, destroyed, NULL, NULL, 0, 0};
    sweep_all_worlds(&s, 0);
    sweep_all_worlds(&s, 1);
}

/* ---- registering fds ---- */

enum { DEADLINE = 1 << 8, SECOND = 1 << 9, FILE_ = 1 << 10, RELEASE = 1 << 11, EXCLUSIVE = 1 << 12, CURRENT = 1 << 13 };

static void open_landing(world *w, int how)
{
    landing_open(&w->l, how >> 4 & 15, w->bell);
}

static bell_fd_spec spec_of(world *w, int how)
{
    bell_fd_spec spec = fd_spec(how & SECOND ? w->fd : how & FILE_ ? w->file : w->other, BELL_READ, (uint32_t)how & 3,
                                w->l.target);
    spec.flags = (how & DEADLINE ? BELL_FD_DEADLINE : 0) | (how & FILE_ ? BELL_FD_ALWAYS_READY : 0) |
                 (how & RELEASE ? BELL_AUTO_RELEASE : 0) | (how & EXCLUSIVE ? BELL_FD_EXCLUSIVE : 0);
    spec.deadline_ns = how & DEADLINE ? BELL_NEVER - 1 : 0;
    spec.shard = how & CURRENT ? BELL_SHARD_CURRENT_CPU : how & EXCLUSIVE ? 0 : BELL_SHARD_ANY;
    return spec;
}

static int32_t register_fd(world *w, int how)
{
    bell_fd_spec spec = spec_of(w, how);
    w->made = 77;
    faults_begin();
    int32_t r = bell_register_fd(w->bell, &spec, &w->made);
    faults_end();
    if (r < 0) {
        CHECK_EQ(w->made, 77);
        CHECK_EQ(w->l.mvar.puts, 0);
    }
    return r;
}

/* Makes its fd ready: one delivery. Those of a full world that watch the same fd are kept out of it. */
static void tells_once(world *w, int how)
{
    int fd = how & SECOND ? w->fd : w->other;
    landing_bind(&w->l, w->made);
    if (!(how & SECOND)) {
        if (!(how & FILE_))
            CHECK_EQ(eventfd_write(fd, 1), 0);
        pump_all(w->bell, &w->l, 1);
        if ((how & 3) != BELL_LEVEL) /* that is told as long as it holds */
            CHECK_EQ(w->l.count, 1);
        CHECK_EQ(drain_fd(w->other), how & FILE_ ? 0 : 8);
    }
    int32_t answer = bell_unregister(w->bell, w->made, BELL_SYNC);
    if (how & RELEASE && !(how & SECOND))
        CHECK_EQ(answer, BELL_E_STALE);
    else
        CHECK_EQ(answer, (how & 3) == BELL_ONESHOT && !(how & SECOND) ? BELL_FIRED : BELL_CANCELLED);
    landing_close(&w->l);
}

/* io_uring: a file is shown to an epoll. */
#define REGISTER_ERRORS (on_io_uring() ? CODES(-ENOMEM, -ENOSPC, -EMFILE, -ENFILE) : CODES(-ENOMEM, -ENOSPC))
/* A target WAKE_FD is looked at by fcntl and fstat; ENOMEM is what they may lack. */

static int goes_with(int mode, int kind)
{
    if (mode == BELL_EDGE && !has_edge())
        return 0;
    if (mode == BELL_LEVEL)
        return kind == LAND_POLL || kind == LAND_QUEUE;
    return kind != LAND_MVAR || mode == BELL_ONESHOT;
}

static const int32_t *register_provokes(void)
{
    static const int32_t both[] = {-ENOMEM, -ENOSPC, 0}, memory[] = {-ENOMEM, 0};
    /* poll(2) has no list in the kernel that could be full. */
    return has_feature(BELL_FEATURE_EPOLL) ? both : memory;
}

static void does_registering_an_fd_fail_cleanly(void)
{
    const scenario s = {"bell_register_fd", open_landing, register_fd, tells_once, REGISTER_ERRORS, NULL, 0, 0};
    const scenario must = {.name = s.name, .provoked = register_provokes()};
    for (int kind = 0; kind < LAND_KINDS; kind++)
        for (int mode = BELL_EDGE; mode <= BELL_LEVEL; mode++) {
            int how = mode | kind << 4;
            if (!goes_with(mode, kind))
                continue;
            sweep_all_worlds(&s, how);
            sweep(&s, how | DEADLINE, EMPTY);
            sweep(&s, how | SECOND | DEADLINE, FULL);
            if (mode == BELL_ONESHOT)
                sweep(&s, how | RELEASE, EMPTY);
            if (mode == BELL_ONESHOT || kind == LAND_POLL)
                sweep_all_worlds(&s, how | FILE_);
        }
    sweep(&s, BELL_ONESHOT | CURRENT, EMPTY);
    if (has_feature(BELL_FEATURE_EXCLUSIVE) && !on_io_uring())
        sweep_all_worlds(&s, BELL_EDGE | EXCLUSIVE);
    provoked(&must);
}

static int32_t register_batch(world *w, int how)
{
    bell_fd_spec specs[3] = {spec_of(w, how), spec_of(w, how), spec_of(w, how)};
    int32_t status[3], first = 0;
    faults_begin();
    int32_t good = bell_register_fd_batch(w->bell, specs, 3, w->handles, status);
    faults_end();
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(status[i] < 0, w->handles[i] == 0);
        good -= status[i] == 0;
        first = first ? first : status[i];
    }
    CHECK_EQ(good, 0);
    if (first < 0)
        for (int i = 0; i < 3; i++)
            if (w->handles[i])
                CHECK_EQ(bell_unregister(w->bell, w->handles[i], 0), BELL_CANCELLED);
    return first;
}

static void all_three(world *w, int how)
{
    int32_t status[3];
    (void)how;
    CHECK_EQ(bell_unregister_batch(w->bell, w->handles, 3, BELL_SYNC, status), 3);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(status[i], BELL_CANCELLED);
    landing_close(&w->l);
}

static void does_a_batch_fail_cleanly(void)
{
    const scenario s = {"bell_register_fd_batch", open_landing, register_batch, all_three, REGISTER_ERRORS,
                        register_provokes(), 0, 0};
    sweep_all_worlds(&s, BELL_ONESHOT | LAND_SLOT << 4 | DEADLINE);
    sweep_all_worlds(&s, BELL_ONESHOT | LAND_QUEUE << 4);
    provoked(&s);
}

/* ---- changing ---- */

/* An armed registration of `other` with the landing; the second landing is what it may be given. */
static landing second;

static void watch_other(world *w, int how)
{
    open_landing(w, how);
    landing_watch(&w->l, w->other, BELL_READ, BELL_ONESHOT);
    w->made = w->l.handle;
    landing_open(&second, how >> 12 & 15, w->bell);
}

static void watch_other_told(world *w, int how)
{
    watch_other(w, how);
    CHECK_EQ(eventfd_write(w->other, 1), 0);
    pump_all(w->bell, &w->l, 1);
    CHECK_EQ(w->l.count, 1);
    CHECK_EQ(drain_fd(w->other), 8);
    landing_forget(&w->l);
}

/* It is armed, with the landing: one delivery. */
static void tells_there(world *w, landing *l)
{
    if (l != &w->l) {
        landing_close(&w->l);
        landing_bind(l, w->made);
    }
    CHECK_EQ(eventfd_write(w->other, 1), 0);
    pump_all(w->bell, l, 1);
    CHECK_EQ(l->count, 1);
    CHECK_EQ(drain_fd(w->other), 8);
    CHECK_EQ(bell_unregister(w->bell, w->made, BELL_SYNC), BELL_FIRED);
    landing_close(l);
}

static int32_t modify(world *w, int how)
{
    (void)how;
    faults_begin();
    int32_t r = bell_modify(w->bell, w->made, BELL_READ | BELL_PRI, BELL_ONESHOT);
    faults_end();
    return r;
}

static void modified(world *w, int how)
{
    (void)how;
    landing_close(&second);
    tells_there(w, &w->l);
}

static void does_modify_fail_cleanly(void)
{
    const scenario armed = {"bell_modify", watch_other, modify, modified, CODES(-ENOMEM, -ENOSPC),
                            has_feature(BELL_FEATURE_EPOLL) ? CODES(-ENOMEM, -ENOSPC) : NULL, 0, 0};
    scenario told = armed;
    told.prepare = watch_other_told;
    for (int kind = 0; kind < LAND_MVAR; kind++) {
        sweep_all_worlds(&armed, kind << 4);
        sweep_all_worlds(&told, kind << 4);
    }
    provoked(&armed);
}

enum { WITH_TARGET = 1 << 16, WITH_DEADLINE = 1 << 17 };

static int32_t rearm(world *w, int how)
{
    faults_begin();
    int32_t r = bell_rearm(w->bell, w->made, how & WITH_TARGET ? &second.target : NULL,
                           how & WITH_DEADLINE ? BELL_NEVER - 1 : BELL_NEVER);
    faults_end();
    CHECK_EQ(w->l.mvar.puts, w->l.seen_puts); /* the old target is untouched, and so is the new one */
    CHECK_EQ(second.mvar.puts, 0);
    return r;
}

static void rearmed(world *w, int how)
{
    if (!(how & WITH_TARGET))
        landing_close(&second);
    tells_there(w, how & WITH_TARGET ? &second : &w->l);
}

static void does_rearm_of_an_fd_fail_cleanly(void)
{
    const scenario armed = {"bell_rearm", watch_other, rearm, rearmed, CODES(-ENOMEM, -ENOSPC),
                            has_feature(BELL_FEATURE_EPOLL) ? CODES(-ENOMEM, -ENOSPC) : CODES(-ENOMEM), 0, 0};
    scenario told = armed;
    told.prepare = watch_other_told;
    for (int kind = 0; kind < LAND_KINDS; kind++)
        for (int other = 0; other < LAND_KINDS; other++) {
            int how = kind << 4 | other << 12;
            sweep(&armed, how | WITH_TARGET, FULL);
            sweep(&told, how | WITH_TARGET | WITH_DEADLINE, EMPTY);
            if (other == LAND_POLL && kind != LAND_MVAR) {
                sweep_all_worlds(&armed, how | WITH_DEADLINE);
                sweep_all_worlds(&told, how);
            }
        }
    provoked(&armed);
}

static int32_t rearm_batch(world *w, int how)
{
    int32_t status = 77;
    (void)how;
    faults_begin();
    int32_t r = bell_rearm_batch(w->bell, &w->made, 1, &status);
    faults_end();
    CHECK_EQ(r, status == 0);
    return status;
}

static void does_a_batch_of_rearms_fail_cleanly(void)
{
    const scenario s = {"bell_rearm_batch", watch_other_told, rearm_batch, rearmed, CODES(-ENOMEM, -ENOSPC),
                        has_feature(BELL_FEATURE_EPOLL) ? CODES(-ENOMEM, -ENOSPC) : NULL, 0, 0};
    sweep_all_worlds(&s, 0);
    provoked(&s);
}

static int32_t retarget(world *w, int how)
{
    (void)how;
    faults_begin();
    int32_t r = bell_retarget(w->bell, w->made, &second.target);
    faults_end();
    return r;
}

static void retargeted(world *w, int how)
{
    (void)how;
    tells_there(w, &second);
}

static void retarget_to_second(world *w, int how)
{
    watch_other(w, how);
}

/* Told, but nobody has seen it: the new target is to be told. */
static void watch_other_unseen(world *w, int how)
{
    watch_other(w, how);
    CHECK_EQ(eventfd_write(w->other, 1), 0);
    CHECK_EQ(bell_poll(w->bell, 0, NULL, 0, 0), 0);
}

/* The second landing gets what the first had and did not show; it may have got it already. */
static void moved_news_comes(world *w)
{
    landing_close(&w->l);
    second.handle = w->made;
    if (second.kind == LAND_SLOT) {
        CHECK_GT(bell_slot_wait(w->bell, w->made, BELL_READ, now_ns() + PATIENCE, 0), 0);
        return;
    }
    pump_all(w->bell, &second, 1);
    CHECK_EQ(second.count, 1);
}

static void news_moved(world *w, int how)
{
    (void)how;
    moved_news_comes(w);
    CHECK_EQ(drain_fd(w->other), 8);
    CHECK_EQ(bell_unregister(w->bell, w->made, BELL_SYNC), BELL_FIRED);
    landing_close(&second);
}

static void does_retarget_of_an_fd_fail_cleanly(void)
{
    const scenario s = {"bell_retarget", retarget_to_second, retarget, retargeted, CODES(-ENOMEM),
                        CODES(-ENOMEM), 0, 0};
    scenario unseen = s;
    unseen.prepare = watch_other_unseen;
    unseen.works = news_moved;
    unseen.spared = FAULTS_OF(write); /* the caller's own wake fd: what refuses it is the caller's business */
    for (int kind = 0; kind < LAND_KINDS; kind++)
        for (int other = 0; other < LAND_KINDS; other++)
            sweep(&s, kind << 4 | other << 12, other % 2 ? EMPTY : FULL);
    /* With ERR, if the kernel does not take it back: never in silence. */
    for (int other = 0; other < LAND_KINDS; other++) {
        sweep(&unseen, LAND_POLL << 4 | other << 12, FULL);
        sweep(&unseen, LAND_QUEUE << 4 | other << 12, FULL);
    }
    provoked(&s);
}

/* ---- closing ---- */

static void to_be_closed(world *w, int how)
{
    if (how)
        w->made = watch(w->bell, w->other, BELL_READ, BELL_ONESHOT, to_slot());
}

static int32_t close_begin(world *w, int how)
{
    (void)how;
    w->ticket = 77;
    faults_begin();
    int32_t r = bell_close_begin(w->bell, w->other, &w->ticket);
    faults_end();
    if (r < 0)
        CHECK_EQ(w->ticket, 77);
    return r;
}

static void closing_began(world *w, int how)
{
    CHECK_EQ(try_watch(w->bell, w->other, BELL_READ, BELL_ONESHOT, to_poll()), BELL_E_CLOSED);
    CHECK_EQ(close(w->other), 0);
    CHECK_EQ(bell_close_end(w->bell, w->other, w->ticket), 0);
    w->other = -1;
    if (how) {
        CHECK_EQ(bell_slot_consume(w->bell, w->made, BELL_READ), BELL_CLOSED);
        CHECK_EQ(bell_unregister(w->bell, w->made, 0), BELL_FIRED);
    }
}

static void does_close_begin_fail_cleanly(void)
{
    const scenario s = {"bell_close_begin", to_be_closed, close_begin, closing_began, CODES(-ENOMEM),
                        CODES(-ENOMEM), 0, 0};
    sweep(&s, 0, EMPTY);
    sweep_all_worlds(&s, 1);
    provoked(&s);
}

static void are_errors_of_close_told_and_is_the_fd_gone(void)
{
    static const int errors[] = {EIO, ENOSPC, EDQUOT, EINTR};
    for (int i = 0; i < 4; i++)
        for (int watched = 0; watched < 2; watched++) {
            world w;
            world_open(&w, FULL);
            to_be_closed(&w, watched);
            snapshot before = look(&w);
            faults_plan((faults){.kinds = FAULTS_OF(close), .at = 1, .error = errors[i]});
            faults_begin();
            int32_t r = bell_close_fd(w.bell, w.other);
            faults_end();
            CHECK_EQ(fault.struck, 1);
            fault_points++;
            CHECK_EQ(r, errors[i] == EINTR ? 0 : -errors[i]);
            CHECK(fcntl(w.other, F_GETFD) < 0);
            /* The number may be used again at once. */
            int again = dup(w.fd);
            CHECK_EQ(again, w.other);
            bell_handle h = watch(w.bell, again, BELL_READ, BELL_ONESHOT, to_poll());
            CHECK_EQ(bell_unregister(w.bell, h, 0), BELL_CANCELLED);
            before.fds++; /* `again` is there, `other` is not, and so on: what follows counts them */
            CHECK_EQ(close(again), 0);
            w.other = -1;
            if (watched) {
                CHECK_EQ(bell_slot_consume(w.bell, w.made, BELL_READ), BELL_CLOSED);
                CHECK_EQ(bell_unregister(w.bell, w.made, 0), BELL_FIRED);
            }
            world_close(&w);
        }
}

/* ---- timeouts ---- */

enum { PERIOD = 1 << 8, SLACK = 1 << 9, TO_RELEASE = 1 << 10 };

static int32_t register_timeout(world *w, int how)
{
    bell_timeout_spec spec = timeout_spec(bell_now((uint32_t)how & 3) + SEC(1000), w->l.target);
    spec.clock = (uint32_t)how & 3;
    spec.period_ns = how & PERIOD ? SEC(1000) : 0;
    spec.slack_ns = how & SLACK ? 5 : 0;
    spec.flags = how & TO_RELEASE ? BELL_AUTO_RELEASE : 0;
    w->made = 77;
    faults_begin();
    int32_t r = bell_register_timeout(w->bell, &spec, &w->made);
    faults_end();
    if (r < 0)
        CHECK_EQ(w->made, 77);
    return r;
}

static void fires_once(world *w, int how)
{
    landing_bind(&w->l, w->made);
    CHECK_EQ(bell_update_timeout(w->bell, w->made, bell_now((uint32_t)how & 3)), 0);
    pump_all(w->bell, &w->l, 1);
    CHECK_EQ(w->l.count, 1);
    CHECK_EQ(bell_unregister(w->bell, w->made, BELL_SYNC),
             how & TO_RELEASE ? BELL_E_STALE : how & PERIOD ? BELL_CANCELLED : BELL_FIRED);
    landing_close(&w->l);
}

static int clocks(void)
{
    return has_feature(BELL_FEATURE_CLOCKS) ? 3 : 1;
}

static void does_registering_a_timeout_fail_cleanly(void)
{
    /* Other clocks need a timerfd, and epoll an entry for it: what those lack is told as it is. */
    const scenario s = {"bell_register_timeout", open_landing, register_timeout, fires_once,
                        CODES(-ENOMEM, -EMFILE, -ENFILE, -ENOSPC),
                        has_feature(BELL_FEATURE_EPOLL) ? CODES(-ENOMEM, -EMFILE, -ENFILE, -ENOSPC)
                                                        : CODES(-ENOMEM, -EMFILE, -ENFILE), 0, 0};
    for (int kind = 0; kind < LAND_KINDS; kind++)
        for (int clock = 0; clock < clocks(); clock++) {
            int how = clock | kind << 4;
            sweep_all_worlds(&s, how);
            if (kind != LAND_MVAR)
                sweep(&s, how | PERIOD, EMPTY);
            sweep(&s, how | SLACK | TO_RELEASE, EMPTY);
        }
    provoked(&s);
}

static void set_by_clock(world *w, int how)
{
    bell_timeout_spec spec = timeout_spec(BELL_NEVER, to_slot());
    open_landing(w, how);
    spec.clock = (uint32_t)how & 3;
    spec.target = w->l.target;
    CHECK_OK(bell_register_timeout(w->bell, &spec, &w->made));
}

static int32_t update_timeout(world *w, int how)
{
    faults_begin();
    int32_t r = bell_update_timeout(w->bell, w->made, bell_now((uint32_t)how & 3) + SEC(1000));
    faults_end();
    if (r < 0) {
        int64_t deadline = 0;
        CHECK_OK(bell_timeout_get(w->bell, w->made, &deadline));
        CHECK_EQ(deadline, BELL_NEVER);
    }
    return r;
}

static int64_t shared_deadline;

static int32_t share_deadline(world *w, int how)
{
    (void)how;
    shared_deadline = 77;
    faults_begin();
    int32_t r = bell_share_deadline(w->bell, w->made, &shared_deadline);
    faults_end();
    CHECK_EQ(shared_deadline, r < 0 ? 77 : BELL_NEVER);
    return r;
}

static void rearm_timeout_second(world *w, int how)
{
    set_by_clock(w, how);
    landing_open(&second, how >> 12 & 15, w->bell);
}

static int32_t rearm_timeout(world *w, int how)
{
    faults_begin();
    int32_t r = bell_rearm(w->bell, w->made, &second.target, bell_now((uint32_t)how & 3) + SEC(1000));
    faults_end();
    return r;
}

static void fires_at_second(world *w, int how)
{
    landing_close(&w->l);
    w->l = second;
    if (w->l.kind == LAND_FUTEX) { /* a word must stay where it is: so once more */
        CHECK_OK(bell_retarget(w->bell, w->made, &(bell_target){.kind = BELL_TARGET_FUTEX, .word = &w->l.word}));
    } else if (w->l.kind == LAND_MVAR) {
        bell_target here = to_mvar(&w->l.mvar, 3);
        CHECK_EQ(bell_retarget(w->bell, w->made, &here), BELL_CANCELLED);
    }
    fires_once(w, how & 3);
}

static void unseen_timeout(world *w, int how)
{
    bell_timeout_spec spec = timeout_spec(0, to_slot());
    open_landing(w, how);
    spec.target = w->l.target;
    CHECK_OK(bell_register_timeout(w->bell, &spec, &w->made));
    CHECK_EQ(bell_poll(w->bell, 0, NULL, 0, 0), 0);
    landing_open(&second, how >> 12 & 15, w->bell);
}

static void unseen_moved(world *w, int how)
{
    (void)how;
    moved_news_comes(w);
    CHECK_EQ(bell_unregister(w->bell, w->made, BELL_SYNC), BELL_FIRED);
    landing_close(&second);
}

static void does_changing_a_timeout_fail_cleanly(void)
{
    const int32_t *codes = CODES(-ENOMEM, -EMFILE, -ENFILE, -ENOSPC);
    const int32_t *all = has_feature(BELL_FEATURE_EPOLL) ? codes : CODES(-ENOMEM, -EMFILE, -ENFILE);
    const scenario update = {"bell_update_timeout", set_by_clock, update_timeout, fires_once, codes, all, 0, 0};
    const scenario share = {"bell_share_deadline", set_by_clock, share_deadline, fires_once, codes, all, 0, 0};
    const scenario arm = {"bell_rearm of a timeout", rearm_timeout_second, rearm_timeout, fires_at_second, codes, all,
                          0, 0};
    const scenario unseen = {"bell_retarget of a timeout", unseen_timeout, retarget, unseen_moved, CODES(-ENOMEM),
                             CODES(-ENOMEM), FAULTS_OF(write), 0};
    for (int clock = 0; clock < clocks(); clock++)
        for (int kind = 0; kind < LAND_KINDS; kind++)
            sweep_all_worlds(&update, clock | kind << 4);
    provoked(&update);
    for (int clock = 0; clock < clocks(); clock++)
        sweep(&share, clock | LAND_POLL << 4, EMPTY);
    provoked(&share);
    for (int clock = 0; clock < clocks(); clock++)
        for (int kind = 0; kind < LAND_KINDS; kind++)
            sweep(&arm, clock | kind << 12, EMPTY);
    provoked(&arm);
    for (int kind = 0; kind < LAND_KINDS; kind++) {
        sweep_all_worlds(&unseen, LAND_POLL << 4 | kind << 12);
        sweep(&unseen, LAND_QUEUE << 4 | kind << 12, EMPTY);
    }
    provoked(&unseen);
}

static void watch_for_deadline(world *w, int how)
{
    (void)how;
    w->made = watch(w->bell, w->other, BELL_READ, BELL_ONESHOT, to_slot());
}

static int32_t give_deadline(world *w, int how)
{
    (void)how;
    faults_begin();
    int32_t r = bell_update_timeout(w->bell, w->made, BELL_NEVER - 1);
    faults_end();
    return r;
}

static void has_deadline(world *w, int how)
{
    (void)how;
    CHECK_EQ(bell_update_timeout(w->bell, w->made, 0), 0);
    CHECK_EQ(bell_slot_wait(w->bell, w->made, BELL_READ, now_ns() + PATIENCE, 0), BELL_TIMEOUT);
    CHECK_EQ(bell_unregister(w->bell, w->made, 0), BELL_FIRED);
}

static void does_giving_an_fd_a_deadline_fail_cleanly(void)
{
    const scenario s = {"bell_update_timeout of an fd", watch_for_deadline, give_deadline, has_deadline, CODES(-ENOMEM),
                        CODES(-ENOMEM), 0, 0};
    sweep_all_worlds(&s, 0);
    provoked(&s);
}

/* ---- user events ---- */

static int32_t register_user(world *w, int how)
{
    (void)how;
    w->made = 77;
    faults_begin();
    int32_t r = bell_register_user(w->bell, 0, &w->l.target, 5, &w->made);
    faults_end();
    if (r < 0)
        CHECK_EQ(w->made, 77);
    return r;
}

static void is_posted(world *w, int how)
{
    (void)how;
    landing_bind(&w->l, w->made);
    CHECK_EQ(bell_post(w->bell, w->made, 1), 0);
    pump_all(w->bell, &w->l, 1);
    CHECK_EQ(w->l.count, 1);
    CHECK_OK(bell_unregister(w->bell, w->made, BELL_SYNC));
    landing_close(&w->l);
}

static void does_registering_a_user_event_fail_cleanly(void)
{
    const scenario s = {"bell_register_user", open_landing, register_user, is_posted, CODES(-ENOMEM),
                        CODES(-ENOMEM), 0, 0};
    for (int kind = 0; kind < LAND_KINDS; kind++)
        sweep_all_worlds(&s, kind << 4);
    provoked(&s);
}

/* ---- queues ---- */

static int32_t queue_create(world *w, int how)
{
    w->made = 77;
    faults_begin();
    int32_t r = bell_queue_create(w->bell, 0, how ? &w->l.target : NULL, &w->made);
    faults_end();
    if (r < 0)
        CHECK_EQ(w->made, 77);
    return r;
}

static void queue_works(world *w, int how)
{
    bell_event e;
    bell_handle user = make_user(w->bell, to_queue(w->made));
    CHECK_EQ(bell_post(w->bell, user, 3), 0);
    CHECK_EQ(bell_queue_wait(w->bell, w->made, &e, 1, now_ns() + PATIENCE), 1);
    CHECK_EQ(e.handle, user);
    CHECK_EQ(e.data, 3);
    landing_look(&w->l);
    CHECK_EQ(w->l.count, how ? 1 : 0);
    CHECK_OK(bell_unregister(w->bell, user, 0));
    CHECK_OK(bell_queue_destroy(w->bell, w->made, BELL_SYNC));
    landing_close(&w->l);
}

static void queue_with_user(world *w, int how)
{
    (void)how;
    w->made = make_queue(w->bell, NULL);
    w->made_too = make_user(w->bell, to_queue(w->made));
    if (how) {
        CHECK_EQ(bell_post(w->bell, w->made_too, 1), 0);
        CHECK_EQ(bell_poll(w->bell, 0, NULL, 0, 0), 0);
    }
}

static int32_t queue_fd(world *w, int how)
{
    (void)how;
    faults_begin();
    int32_t r = bell_queue_fd(w->bell, w->made);
    faults_end();
    return r;
}

static void queue_fd_works(world *w, int how)
{
    bell_event e;
    int fd = CHECK_OK(bell_queue_fd(w->bell, w->made));
    CHECK_EQ(looks_ready(fd, POLLIN), how ? POLLIN : 0);
    CHECK_EQ(bell_post(w->bell, w->made_too, 1), 0);
    CHECK_EQ(bell_poll(w->bell, 0, NULL, 0, 0), 0);
    CHECK_EQ(looks_ready(fd, POLLIN), POLLIN);
    CHECK_EQ(bell_queue_drain(w->bell, w->made, &e, 1), 1);
    CHECK_EQ(looks_ready(fd, POLLIN), 0);
    CHECK_OK(bell_unregister(w->bell, w->made_too, 0));
    CHECK_OK(bell_queue_destroy(w->bell, w->made, BELL_SYNC));
}

static int32_t retarget_doorbell(world *w, int how)
{
    (void)how;
    faults_begin();
    int32_t r = bell_retarget(w->bell, w->made, &w->l.target);
    faults_end();
    return r;
}

static void queue_and_landing(world *w, int how)
{
    open_landing(w, how);
    w->made = make_queue(w->bell, NULL);
}

static void do_queues_fail_cleanly(void)
{
    const scenario s = {"bell_queue_create", open_landing, queue_create, queue_works, CODES(-ENOMEM),
                        CODES(-ENOMEM), 0, 0};
    /* Its fd is an eventfd: it exists, so a refused write or read is not for want of anything. */
    const scenario fd = {"bell_queue_fd", queue_with_user, queue_fd, queue_fd_works, CODES(-EMFILE, -ENFILE, -ENOMEM),
                         CODES(-EMFILE, -ENFILE, -ENOMEM), FAULTS_OF(write), 0};
    const scenario door = {"bell_retarget of a queue", queue_and_landing, retarget_doorbell, queue_works,
                           CODES(-ENOMEM), NULL, 0, 0};
    static const int doorbells[] = {LAND_FUTEX, LAND_EVENTFD, LAND_BYTE, LAND_MVAR};
    sweep_all_worlds(&s, 0);
    for (int i = 0; i < 4; i++)
        sweep_all_worlds(&s, doorbells[i] << 4);
    provoked(&s);
    sweep_all_worlds(&fd, 0);
    sweep_all_worlds(&fd, 1);
    provoked(&fd);
    for (int i = 0; i < 4; i++)
        sweep_all_worlds(&door, doorbells[i] << 4);
    provoked(&door);
}

/* ---- looking ---- */

static int32_t verify(world *w, int how)
{
    (void)how;
    faults_begin();
    int32_t r = bell_verify(w->bell);
    faults_end();
    return r;
}

static int32_t dump(world *w, int how)
{
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    (void)how;
    faults_begin();
    int32_t r = bell_dump(w->bell, fd);
    faults_end();
    close(fd);
    return r;
}

static int32_t stats(world *w, int how)
{
    bell_counters c = {.size = sizeof c};
    (void)how;
    faults_begin();
    int32_t r = bell_stats(w->bell, BELL_SHARD_ANY, &c);
    faults_end();
    return r;
}

static int32_t halves_of_fork(world *w, int how)
{
    (void)how;
    faults_begin();
    int32_t r = bell_before_fork(w->bell);
    if (r == 0)
        r = bell_after_fork_parent(w->bell);
    faults_end();
    return r;
}

static void do_looking_and_preparing_a_fork_fail_cleanly(void)
{
    const int epoll = has_feature(BELL_FEATURE_EPOLL);
    const scenario look = {"bell_verify", NULL, verify, NULL, CODES(-EMFILE, -ENFILE, -ENOENT, -ENOMEM),
                           epoll ? CODES(-EMFILE, -ENFILE, -ENOENT, -ENOMEM) : CODES(-ENOMEM), 0, 0};
    const scenario tell = {"bell_dump", NULL, dump, NULL,
                           CODES(-EMFILE, -ENFILE, -ENOENT, -ENOMEM, -EPERM, -EBADF, -EIO),
                           CODES(-ENOMEM, -EPERM, -EBADF, -EIO), 0, 0};
    const scenario count = {"bell_stats", NULL, stats, NULL, NULL, NULL, 0, 0};
    const scenario halves = {"bell_before_fork", NULL, halves_of_fork, NULL, CODES(-ENOMEM), CODES(-ENOMEM), 0, 0};
    sweep_all_worlds(&look, 0);
    provoked(&look);
    sweep_all_worlds(&tell, 0);
    provoked(&tell);
    sweep_all_worlds(&count, 0);
    sweep_all_worlds(&halves, 0);
    provoked(&halves);
}

/* ---- driving ---- */

enum { FROM_FD, FROM_EDGE, FROM_LEVEL, FROM_FILE, FROM_TIMEOUT, FROM_POST, FROM_DEADLINE, SOURCES };

/* One piece of news for the landing is on its way. */
static void news_on_its_way(world *w, int how)
{
    int source = how & 15;
    bell_fd_spec spec;
    open_landing(w, how);
    spec = fd_spec(source == FROM_FILE ? w->file : w->other, BELL_READ, BELL_ONESHOT, w->l.target);
    switch (source) {
    case FROM_TIMEOUT: w->made = set_timeout(w->bell, now_ns(), w->l.target); break;
    case FROM_POST: w->made = make_user(w->bell, w->l.target); CHECK_EQ(bell_post(w->bell, w->made, 1), 0); break;
    case FROM_DEADLINE:
        spec.flags = BELL_FD_DEADLINE;
        spec.deadline_ns = now_ns();
        CHECK_OK(bell_register_fd(w->bell, &spec, &w->made));
        break;
    default:
        spec.mode = source == FROM_EDGE ? BELL_EDGE : source == FROM_LEVEL ? BELL_LEVEL : BELL_ONESHOT;
        spec.flags = source == FROM_FILE ? BELL_FD_ALWAYS_READY : 0;
        CHECK_OK(bell_register_fd(w->bell, &spec, &w->made));
        CHECK_EQ(eventfd_write(w->other, 1), 0);
    }
    landing_bind(&w->l, w->made);
}

static int32_t drive(world *w, int how)
{
    int32_t r;
    (void)how;
    faults_begin();
    switch (w->l.kind) {
    case LAND_POLL: r = bell_poll(w->bell, 0, &w->event, 1, MS(2)); break;
    case LAND_SLOT: r = bell_slot_wait(w->bell, w->made, BELL_READ, BELL_NEVER - 1, 0); break;
    case LAND_QUEUE: r = bell_queue_wait(w->bell, w->l.target.queue, &w->event, 1, BELL_NEVER - 1); break;
    default: r = bell_poll(w->bell, 0, NULL, 0, MS(2)); break;
    }
    faults_end();
    return r;
}

static void news_has_come(world *w, int how)
{
    int source = how & 15;
    if (w->l.kind == LAND_POLL || w->l.kind == LAND_QUEUE) {
        CHECK_EQ(w->event.handle, w->made);
        CHECK_NE(w->event.ready, 0);
        CHECK_LACKS(w->event.ready, BELL_ERR | BELL_CLOSED);
    } else if (w->l.kind != LAND_SLOT) {
        landing_look(&w->l);
        CHECK_EQ(w->l.count, 1);
    }
    int lives_on = source == FROM_EDGE || source == FROM_LEVEL || (source == FROM_POST && w->l.kind != LAND_MVAR);
    CHECK_EQ(bell_unregister(w->bell, w->made, BELL_SYNC), lives_on ? BELL_CANCELLED : BELL_FIRED);
    if (source != FROM_TIMEOUT && source != FROM_POST && source != FROM_DEADLINE)
        CHECK_EQ(drain_fd(w->other), 8);
    landing_close(&w->l);
}

static void is_no_news_lost_when_driving_fails(void)
{
    /* Writes: to the caller's own wake fd; what refuses them is the caller's business. */
    const scenario s = {"driving", news_on_its_way, drive, news_has_come, CODES(-EINTR, -ENOMEM), NULL,
                        FAULTS_OF(write), 0};
    for (int source = 0; source < SOURCES; source++)
        for (int kind = 0; kind < LAND_KINDS; kind++) {
            int mode = source == FROM_EDGE ? BELL_EDGE : source == FROM_LEVEL ? BELL_LEVEL : BELL_ONESHOT;
            if (goes_with(mode, kind))
                sweep_all_worlds(&s, source | kind << 4);
        }
    const scenario must = {.name = s.name, .provoked = CODES(-EINTR)};
    provoked(&must);
}

/* LEVEL: told once, still ready; the next drain must tell it again. */
static void level_told(world *w, int how)
{
    news_on_its_way(w, FROM_LEVEL | (how << 4));
    CHECK_EQ(drive(w, 0), 1);
    memset(&w->event, 0, sizeof w->event);
}

static void level_again(world *w, int how)
{
    (void)how;
    news_has_come(w, FROM_LEVEL);
}

static int32_t drain(world *w, int how)
{
    (void)how;
    faults_begin();
    int32_t r = bell_queue_drain(w->bell, w->l.target.queue, &w->event, 1);
    faults_end();
    if (r == 0) /* put off to the next turn, but not lost */
        r = bell_queue_wait(w->bell, w->l.target.queue, &w->event, 1, now_ns() + PATIENCE);
    return r;
}

static void is_a_level_told_again_when_looking_fails(void)
{
    /* What the kernel refuses is told: museum_058. (With io_uring the first that it may refuse is fstat.) */
    const uint32_t told = FAULTS_OF(epoll_ctl) | FAULTS_OF(fstat);
    const scenario s = {"driving LEVEL again", level_told, drive, level_again, CODES(-EINTR, -ENOMEM), NULL, told, 0};
    const scenario d = {"bell_queue_drain", level_told, drain, level_again, NULL, NULL, told, 0};
    sweep_all_worlds(&s, LAND_POLL);
    sweep_all_worlds(&s, LAND_QUEUE);
    sweep_all_worlds(&d, LAND_QUEUE);
    seen_count = 0;
}

static int32_t quiet_turn(world *w, int how)
{
    faults_begin();
    int32_t r = bell_poll(w->bell, 0, how & 1 ? &w->event : NULL, how & 1, how & 2 ? MS(1) : 0);
    faults_end();
    return r;
}

static int32_t wait_in_vain(world *w, int how)
{
    faults_begin();
    int32_t r = how == 2 ? bell_queue_wait(w->bell, w->made, &w->event, 1, now_ns() + US(200))
                         : bell_slot_wait(w->bell, w->made, BELL_READ, now_ns() + US(200), how ? BELL_LEVEL_CHECK : 0);
    faults_end();
    return r == -ETIMEDOUT ? 0 : r;
}

static void something_to_wait_for(world *w, int how)
{
    w->made = how == 2 ? make_queue(w->bell, NULL) : watch(w->bell, w->other, BELL_READ, BELL_ONESHOT, to_slot());
}

static void nothing_came(world *w, int how)
{
    if (how == 2)
        CHECK_EQ(bell_queue_destroy(w->bell, w->made, 0), BELL_FIRED);
    else
        CHECK_EQ(bell_unregister(w->bell, w->made, 0), BELL_CANCELLED);
}

static void do_waits_without_news_fail_cleanly(void)
{
    /* epoll allocates nothing for a wait, poll(2) does. */
    const scenario turn = {"bell_poll", NULL, quiet_turn, NULL, CODES(-EINTR, -ENOMEM),
                           has_feature(BELL_FEATURE_EPOLL) ? CODES(-EINTR) : CODES(-EINTR, -ENOMEM), 0, 0};
    const scenario wait = {"bell_slot_wait, bell_queue_wait", something_to_wait_for, wait_in_vain, nothing_came,
                           CODES(-EINTR, -ENOMEM), CODES(-EINTR, -ENOMEM), 0, 0};
    for (int how = 0; how < 4; how++)
        sweep_all_worlds(&turn, how);
    provoked(&turn);
    for (int how = 0; how < 3; how++)
        sweep_all_worlds(&wait, how);
    provoked(&wait);
}

/* ---- io_uring ---- */

/* The ring is another thread's, so a driver needs a new one; that shall fail. */
static void *turn_elsewhere(void *bell)
{
    turn(bell);
    return NULL;
}

static void driven_elsewhere(world *w, int how)
{
    join_thread(start_thread(turn_elsewhere, w->bell));
    news_on_its_way(w, how);
}

static void does_a_new_driver_fail_cleanly(void)
{
    const scenario s = {"driving by another thread", driven_elsewhere, drive, news_has_come,
                        /* EBUSY: dup3's, for a number that somebody opens just now, which the ring's is not. */
                        CODES(-EINTR, -ENOMEM, -EMFILE, -ENFILE, -EAGAIN, -EBUSY), NULL,
                        FAULTS_OF(write) | FAULTS_OF(uring_probe), 0};
    const scenario must = {.name = s.name, .provoked = CODES(-ENOMEM, -EMFILE, -ENFILE)};
    if (!on_io_uring())
        return;
    for (int kind = 0; kind < LAND_KINDS; kind++)
        if (kind != LAND_MVAR)
            sweep_all_worlds(&s, FROM_EDGE | kind << 4);
    provoked(&must);
}

enum { CROWD = 50 };

/* A registration among many fds that have news: the kernel works off a part of that in one entry. */
static void crowded(world *w, int how)
{
    watch_other(w, how);
    for (int i = 0; i < CROWD; i++) {
        w->crowd[i] = make_eventfd();
        w->crowd_handles[i] = watch(w->bell, w->crowd[i], BELL_READ, BELL_ONESHOT, to_slot());
    }
    turn(w->bell);
    for (int i = 0; i < CROWD; i++)
        CHECK_EQ(eventfd_write(w->crowd[i], 1), 0);
}

static int32_t leave(world *w, int how)
{
    (void)how;
    faults_begin();
    int32_t r = bell_unregister(w->bell, w->made, 0);
    faults_end();
    return r;
}

/* What could not be submitted is submitted by the next turn: the file is let go, and who has news is told. */
static void has_left(world *w, int how)
{
    (void)how;
    CHECK_EQ(bell_unregister(w->bell, w->made, 0), BELL_E_STALE);
    turn(w->bell);
    CHECK_EQ(stats_of(w->bell).events, CROWD);
    for (int i = 0; i < CROWD; i++) {
        CHECK_EQ(bell_unregister(w->bell, w->crowd_handles[i], 0), BELL_FIRED);
        CHECK_EQ(close(w->crowd[i]), 0);
    }
}

static void does_leaving_succeed_when_the_cancel_cannot_be_submitted(void)
{
    const scenario s = {"bell_unregister", crowded, leave, has_left, NULL, NULL, 0, 0};
    if (on_io_uring())
        for (int mode = BELL_EDGE; mode <= BELL_ONESHOT; mode++)
            sweep(&s, mode, EMPTY);
}

/* The set has a place for each number; here the numbers are high. */
static void does_a_high_number_fail_cleanly(void)
{
    int low[200];
    for (int timer = 0; timer < 2; timer++)
        for (int at = 1, struck = 1; struck; at++) {
            bell_t *bell = make_bell(1, 0);
            int fd = make_eventfd(), high = fcntl(fd, F_DUPFD_CLOEXEC, 5000);
            bell_fd_spec spec = fd_spec(high, BELL_READ, BELL_ONESHOT, to_poll());
            bell_timeout_spec timeout = {.size = sizeof timeout, .clock = BELL_CLOCK_BOOT, .target = to_poll()};
            bell_handle h = 7;
            CHECK_GE(high, 5000);
            for (int i = 0; i < 200; i++)
                CHECK_GE(low[i] = dup(fd), 0);
            for (int again = 0; again < 2; again++) {
                faults_plan(again ? (faults){0} : (faults){.kinds = FAULTS_MEMORY, .at = at});
                faults_begin();
                int32_t r = timer ? bell_register_timeout(bell, &timeout, &h) : bell_register_fd(bell, &spec, &h);
                faults_end();
                if (!again) {
                    struck = fault.struck;
                    fault_points += struck > 0;
                }
                if (r == 0)
                    break;
                CHECK(!again);
                CHECK_EQ(r, -ENOMEM);
                CHECK(struck);
                CHECK_EQ(h, 7);
                CHECK_EQ(stats_of(bell).fds + stats_of(bell).timeouts, 0);
            }
            for (int i = 0; i < 200; i++)
                CHECK_EQ(close(low[i]), 0);
            CHECK_EQ(eventfd_write(fd, 1), 0);
            CHECK_EQ(next_event(bell).handle, h);
            CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
            CHECK_EQ(close(high), 0);
            CHECK_EQ(close(fd), 0);
            check_clean(bell);
        }
    faults_plan((faults){0});
}

/* Linux 6.1 to 6.5 has the ring with an array of indices; what is older, or lacks a feature, is refused. */
static void does_an_older_kernel_do_or_is_it_refused(void)
{
    enum { NO_SQARRAY = 1 << 16, DEFER_TASKRUN = 1 << 13, NODROP = 1 << 1 };
    bell_t *bell = (bell_t *)1;
    int fds = live_fds();
    if (!on_io_uring())
        return;
    hook_uring_unknown_flags = DEFER_TASKRUN;
    CHECK_EQ(bell_create(NULL, &bell), BELL_E_UNSUPPORTED);
    hook_uring_unknown_flags = 0;
    hook_uring_no_features = NODROP;
    CHECK_EQ(bell_create(NULL, &bell), BELL_E_UNSUPPORTED);
    hook_uring_no_features = 0;
    CHECK(bell == (bell_t *)1);
    CHECK_EQ(live_fds(), fds);
    hook_uring_unknown_flags = NO_SQARRAY;
    world w;
    world_open(&w, FULL);
    news_on_its_way(&w, FROM_EDGE);
    CHECK_EQ(drive(&w, 0), 1);
    news_has_come(&w, FROM_EDGE);
    world_close(&w);
    hook_uring_unknown_flags = 0;
}

static void does_a_level_check_tell_of_a_closed_fd(void)
{
    world w;
    world_open(&w, FULL);
    something_to_wait_for(&w, 0);
    CHECK_EQ(close(w.other), 0);
    CHECK_EQ(bell_slot_wait(w.bell, w.made, BELL_READ, now_ns() + SEC(1), BELL_LEVEL_CHECK), -EBADF);
    CHECK_EQ(stats_of(w.bell).waiters, 0);
    w.other = -1;
    CHECK_OK(bell_unregister(w.bell, w.made, 0));
    world_close(&w);
}

static void do_followers_fail_cleanly(void)
{
    /* A library thread drives, so these sleep on a word. */
    for (int memory = 0; memory < 2; memory++)
        for (int variant = 0; variant < 3; variant++)
            for (int at = 1;; at++) {
                bell_t *bell = make_bell(1, 1);
                bell_event e;
                bell_handle queue = make_queue(bell, NULL), h = make_user(bell, to_slot());
                uint32_t kinds = memory ? FAULTS_MEMORY : FAULTS_OF(futex_wait);
                faults_plan((faults){.kinds = kinds, .at = at, .variant = variant});
                faults_begin();
                int32_t a = bell_slot_wait(bell, h, BELL_READ, now_ns() + US(100), 0);
                int32_t b = bell_queue_wait(bell, queue, &e, 1, now_ns() + US(100));
                faults_end();
                int struck = fault.struck;
                fault_points += struck > 0;
                int32_t codes[] = {a, b};
                for (int i = 0; i < 2; i++)
                    CHECK(codes[i] == -ETIMEDOUT || (struck && codes[i] == (memory ? -ENOMEM : -EINTR)));
                if (memory && struck)
                    CHECK(a == -ENOMEM || b == -ENOMEM);
                CHECK_EQ(stats_of(bell).waiters, 0);
                CHECK_EQ(bell_post(bell, h, 1), 0);
                CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_USER);
                CHECK_OK(bell_unregister(bell, h, 0));
                CHECK_OK(bell_queue_destroy(bell, queue, 0));
                check_clean(bell);
                if (!struck)
                    break;
            }
}

/* ---- waking ---- */

typedef struct sleeper {
    bell_t *bell;
    uint32_t id, awake;
} sleeper;

static void *sleep_in_poll(void *argument)
{
    sleeper *s = argument;
    store(&s->id, thread_id());
    CHECK_EQ(bell_poll(s->bell, 0, NULL, 0, BELL_NEVER), 0);
    store(&s->awake, 1);
    return NULL;
}

static void museum_074_is_a_wake_that_fails_told_and_the_next_one_heard(void)
{
    static const int errors[] = {EBADF, EPERM};
    for (int i = 0; i < 2; i++)
        for (int post = 0; post < 2; post++) {
            sleeper s = {.bell = make_bell(1, 0)};
            bell_counters before;
            uint32_t word = 0;
            bell_handle user = make_user(s.bell, to_futex(&word));
            pthread_t thread = start_thread(sleep_in_poll, &s);
            AWAIT(is_asleep(&s.id));
            before = stats_of(s.bell);
            for (int k = 0; k < 3; k++) { /* each is told, not only the first */
                faults_plan((faults){.kinds = FAULTS_OF(write), .at = 1, .for_ever = 1, .error = errors[i]});
                faults_begin();
                int32_t r = post ? bell_post(s.bell, user, 1) : bell_wake(s.bell, 0);
                faults_end();
                CHECK_GE(fault.struck, 1);
                CHECK_EQ(r, -errors[i]);
                fault_points++;
            }
            CHECK_EQ(load(&s.awake), 0);
            CHECK_EQ(stats_of(s.bell).users, before.users);
            CHECK_EQ(post ? bell_post(s.bell, user, 2) : bell_wake(s.bell, 0), 0);
            AWAIT(load(&s.awake));
            join_thread(thread);
            CHECK_EQ(load(&word), post ? BELL_SEQ | BELL_USER : 0);
            CHECK_OK(bell_unregister(s.bell, user, BELL_SYNC));
            check_clean(s.bell);
        }
}

static int32_t pollable(world *w, int how)
{
    (void)how;
    faults_begin();
    int32_t r = bell_pollable_fd(w->bell, 0);
    faults_end();
    return r;
}

static void wake_pending(world *w, int how)
{
    if (how)
        CHECK_EQ(bell_wake(w->bell, 0), 0);
}

static void pollable_works(world *w, int how)
{
    int fd = CHECK_OK(bell_pollable_fd(w->bell, 0));
    if (how) { /* the wake from before shows */
        CHECK_EQ(looks_ready(fd, POLLIN), POLLIN);
        CHECK_EQ(bell_poll(w->bell, 0, NULL, 0, 0), 0);
    }
    bell_handle t = set_timeout(w->bell, now_ns() + US(100), to_slot());
    AWAIT(looks_ready(fd, POLLIN));
    CHECK_EQ(bell_poll(w->bell, 0, NULL, 0, 0), 0);
    CHECK_EQ(looks_ready(fd, POLLIN), 0);
    CHECK_EQ(bell_unregister(w->bell, t, 0), BELL_FIRED);
}

static void does_pollable_fd_fail_cleanly(void)
{
    /* With a deadline in the world, it also needs a timer and an entry for it. */
    const scenario s = {"bell_pollable_fd", wake_pending, pollable, pollable_works,
                        CODES(-EMFILE, -ENFILE, -ENOMEM, -ENOSPC, -EPERM, -EBADF, -EIO),
                        CODES(-EMFILE, -ENFILE, -ENOMEM, -ENOSPC, -EPERM, -EBADF), 0, 1};
    if (!has_feature(BELL_FEATURE_POLLABLE))
        return;
    sweep_all_worlds(&s, 0);
    sweep_all_worlds(&s, 1);
    provoked(&s);
}

/* ---- what has no result that could tell ---- */

/* Arming again after one of several was told, and giving the rest of a list to the kernel when its first one goes. */
static void museum_058_are_those_left_told_when_the_kernel_refuses(void)
{
    for (int error = 0; error < 2; error++)
        for (int unregister = 0; unregister < 2; unregister++) {
            world w;
            bell_event e;
            int code = error ? ENOSPC : ENOMEM;
            world_open(&w, EMPTY);
            bell_handle writer = watch(w.bell, w.other, BELL_WRITE, BELL_ONESHOT, to_poll());
            CHECK_EQ(next_event(w.bell).handle, writer); /* so that it may wait for nothing */
            bell_handle first = watch(w.bell, w.other, BELL_READ, BELL_ONESHOT, to_poll());
            bell_handle last = watch(w.bell, w.other, BELL_PRI, BELL_ONESHOT, to_poll());
            CHECK_EQ(eventfd_write(w.other, 1), 0);
            uint32_t kinds = FAULTS_OF(epoll_ctl) | FAULTS_OF(fstat);
            faults_plan((faults){.kinds = kinds, .at = 1, .for_ever = 1, .error = code});
            if (unregister) {
                faults_begin();
                CHECK_EQ(bell_unregister(w.bell, first, 0), BELL_CANCELLED);
                faults_end();
            } else {
                faults_begin();
                int32_t n = bell_poll(w.bell, 0, &e, 1, SEC(1));
                faults_end();
                CHECK_EQ(n, 1);
                CHECK_EQ(e.handle, first);
                CHECK_EQ(e.ready, BELL_READ);
            }
            if (has_feature(BELL_FEATURE_EPOLL) || on_io_uring()) { /* poll(2) has nothing to refuse */
                CHECK_GE(fault.struck, 1);
                fault_points++;
                e = next_event(w.bell);
                CHECK_EQ(e.handle, last);
                CHECK_EQ(e.ready, BELL_ERR);
                CHECK_EQ(e.status, -code);
                CHECK_EQ(bell_rearm(w.bell, last, NULL, BELL_NEVER), 0); /* the cause is gone */
            }
            check_verified(w.bell);
            expect_quiet(w.bell, MS(1));
            if (!unregister)
                CHECK_EQ(bell_unregister(w.bell, first, 0), BELL_FIRED);
            CHECK_EQ(bell_unregister(w.bell, last, 0), BELL_CANCELLED);
            CHECK_EQ(bell_unregister(w.bell, writer, 0), BELL_FIRED);
            CHECK_EQ(drain_fd(w.other), 8);
            world_close(&w);
        }
}

static world *modified_world;

static uint32_t modified_mode;

static void modify_it(void)
{
    hook_after_wait = NULL;
    CHECK_OK(bell_modify(modified_world->bell, modified_world->made, BELL_PRI, modified_mode));
}

/* The kernel has reported, and nobody asks for that any more when the library looks. */
static void is_news_that_nobody_wants_any_more_counted(void)
{
    if (!has_feature(BELL_FEATURE_EPOLL))
        return; /* the other backends see to it themselves */
    for (modified_mode = BELL_EDGE; modified_mode <= BELL_ONESHOT; modified_mode++) {
        world w;
        world_open(&w, EMPTY);
        modified_world = &w;
        w.made = watch(w.bell, w.other, BELL_READ, modified_mode, to_poll());
        CHECK_EQ(eventfd_write(w.other, 1), 0);
        hook_after_wait = modify_it;
        turn(w.bell);
        CHECK(hook_after_wait == NULL);
        CHECK_EQ(stats_of(w.bell).spurious, 1);
        CHECK_OK(bell_modify(w.bell, w.made, BELL_READ, modified_mode));
        CHECK_EQ(next_event(w.bell).handle, w.made);
        CHECK_EQ(stats_of(w.bell).spurious, 1);
        CHECK_EQ(bell_unregister(w.bell, w.made, 0), modified_mode == BELL_ONESHOT ? BELL_FIRED : BELL_CANCELLED);
        world_close(&w);
    }
}

enum { MANY = 40 };
static int to_close;

static void close_it(void)
{
    if (to_close >= 0)
        CHECK_EQ(close(to_close), 0);
    to_close = -1;
}

/* More than one batch is to be told that the fd was closed behind our back, and the rest of them cannot be noted. */
static void are_all_told_when_there_is_no_memory_to_put_some_off(void)
{
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        world w;
        uint32_t words[MANY] = {0}, word = 0;
        bell_handle h[MANY], first;
        uint32_t blocks = live_blocks;
        world_open(&w, EMPTY);
        for (int i = 0; i < MANY; i++)
            h[i] = watch(w.bell, w.other, BELL_PRI, BELL_ONESHOT, to_futex(&words[i]));
        first = watch(w.bell, w.other, BELL_READ, BELL_ONESHOT, to_futex(&word));
        turn(w.bell); /* the list of poll(2) has its memory */
        CHECK_EQ(eventfd_write(w.other, 1), 0);
        to_close = w.other;
        hook_after_wait = close_it;
        faults_plan((faults){.kinds = FAULTS_MEMORY, .at = 1, .for_ever = for_ever});
        faults_begin();
        int32_t r = 0;
        for (int i = 0; i < 3 && r == 0; i++)
            r = bell_poll(w.bell, 0, NULL, 0, 0);
        faults_end();
        hook_after_wait = NULL;
        CHECK(r == 0 || (r == -ENOMEM && fault.struck));
        fault_points += fault.struck > 0;
        faults_plan((faults){0});
        CHECK_EQ(to_close, -1);
        w.other = -1;
        turn(w.bell);
        CHECK_EQ(load(&word), 2 * BELL_SEQ | BELL_READ | BELL_CLOSED);
        for (int i = 0; i < MANY; i++) {
            CHECK_EQ(load(&words[i]), BELL_SEQ | BELL_CLOSED);
            CHECK_EQ(bell_unregister(w.bell, h[i], BELL_SYNC), BELL_FIRED);
        }
        CHECK_OK(bell_unregister(w.bell, first, BELL_SYNC));
        world_close(&w);
        CHECK_EQ(live_blocks, blocks);
    }
}

/* ---- fork ---- */

typedef struct answer {
    uint32_t struck, errors[8];
} answer;

static const int32_t after_fork_codes[] = {-EMFILE, -ENFILE, -ENOMEM, -EAGAIN, -ENOSPC, -EPERM, BELL_E_UNSUPPORTED, 0};

static void child(world *w, int reset, int threads, faults plan, answer *out)
{
    uint32_t word = 0;
    int fds = live_fds();
    faults_plan(plan);
    faults_begin();
    int32_t r = bell_after_fork_child(w->bell, reset ? BELL_FORK_RESET : 0);
    faults_end();
    faults struck = fault;
    out->struck = (uint32_t)struck.struck;
    faults_plan((faults){0});
    if (r < 0) {
        if (!is_in(after_fork_codes, r) || !struck.struck)
            fprintf(stderr, "  reset %d threads %d at %d last by %s says %d\n", reset, threads, plan.at,
                    fault_names[struck.last], r);
        CHECK(struck.struck);
        CHECK(is_in(after_fork_codes, r));
        for (int i = 0; after_fork_codes[i]; i++)
            out->errors[i] |= after_fork_codes[i] == r;
        CHECK_EQ(bell_verify(w->bell), BELL_E_FORKED);
        CHECK_OK(bell_after_fork_child(w->bell, reset ? BELL_FORK_RESET : 0)); /* "the call may be repeated" */
    }
    check_verified(w->bell);
    CHECK_EQ(stats_of(w->bell).fds, reset ? 0 : 1);
    if (reset)
        w->made = watch(w->bell, w->other, BELL_READ, BELL_ONESHOT, to_slot());
    CHECK_EQ(eventfd_write(w->other, 1), 0);
    int32_t news = bell_slot_wait(w->bell, w->made, BELL_READ, now_ns() + PATIENCE, 0);
    if (news == BELL_ERR) { /* the kernel refused this one, and it is told */
        CHECK(r == 0 && struck.struck && !reset);
        CHECK_EQ(bell_rearm(w->bell, w->made, NULL, BELL_NEVER), 0);
        news = bell_slot_wait(w->bell, w->made, BELL_READ, now_ns() + PATIENCE, 0);
    }
    CHECK_EQ(news, BELL_READ);
    CHECK_EQ(drain_fd(w->other), 8);
    bell_handle t = set_timeout(w->bell, 0, to_futex(&word));
    if (!threads)
        CHECK_EQ(bell_poll(w->bell, 0, NULL, 0, 0), 0);
    AWAIT(load(&word) == (BELL_SEQ | BELL_TIMEOUT));
    CHECK_EQ(bell_unregister(w->bell, t, BELL_SYNC), BELL_FIRED);
    CHECK_EQ(bell_unregister(w->bell, w->made, 0), BELL_FIRED);
    CHECK_LE(live_fds(), fds);
    CHECK_OK(bell_destroy(w->bell, 0));
}

/* The fork comes in the middle of a delivery: what is torn cannot be taken over, and says so. */
static bell_t *torn;
static pid_t torn_child;

static void fork_in_the_middle(int fd)
{
    (void)fd;
    hook_before_write = NULL;
    torn_child = fork();
    CHECK(torn_child >= 0);
    if (torn_child == 0) {
        bell_event e;
        alarm(slow() ? 300 : 50);
        CHECK_EQ(bell_after_fork_child(torn, 0), BELL_E_BUSY);
        CHECK_EQ(bell_wake(torn, 0), BELL_E_FORKED);
        CHECK_EQ(bell_after_fork_child(torn, 0), BELL_E_BUSY);
        CHECK_EQ(bell_after_fork_child(torn, BELL_FORK_RESET), 0);
        CHECK_EQ(stats_of(torn).timeouts, 0);
        bell_handle h = set_timeout(torn, 0, to_poll());
        CHECK_EQ(bell_poll(torn, 0, &e, 1, 0), 1);
        CHECK_EQ(e.handle, h);
        CHECK_EQ(bell_destroy(torn, 0), 0);
        _exit(0);
    }
}

static void is_a_torn_state_refused_to_the_child(void)
{
    int status, fd = make_eventfd();
    torn = make_bell(1, 0);
    bell_handle h = set_timeout(torn, 0, to_eventfd(fd));
    hook_before_write = fork_in_the_middle;
    CHECK_EQ(bell_poll(torn, 0, NULL, 0, 0), 0);
    CHECK_EQ(waitpid(torn_child, &status, 0), torn_child);
    CHECK_EQ(status, 0);
    CHECK_EQ(drain_fd(fd), 8); /* the parent's delivery, and only that */
    CHECK_EQ(bell_unregister(torn, h, BELL_SYNC), BELL_FIRED);
    CHECK_EQ(close(fd), 0);
    /* Halves that do not pair. */
    CHECK_EQ(bell_before_fork(torn), 0);
    CHECK_EQ(bell_before_fork(torn), BELL_E_BUSY);
    CHECK_EQ(bell_after_fork_parent(torn), 0);
    CHECK_EQ(bell_after_fork_parent(torn), -EINVAL);
    check_clean(torn);
}

static void does_taking_over_in_a_child_fail_cleanly(void)
{
    /* Writes: poll(2) must be rung to see a change, and a bell that is broken is told of by waiting and waking only. */
    const uint32_t kinds[] = {FAULTS_MEMORY, CALLS_OF_A_SWEEP & ~FAULTS_OF(write)};
    answer *out = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(out != MAP_FAILED);
    for (int threads = 0; threads < 2; threads++)
        for (int reset = 0; reset < 2; reset++)
            for (int i = 0; i < 2; i++)
                for (int variant = 0; variant < (i ? 3 : 1); variant++)
                    for (int for_ever = 0; for_ever < 2; for_ever++)
                        for (int at = 1;; at++) {
                            world w;
                            int status;
                            CHECK_LT(at, 100);
                            if (getenv("FAULTS_TELL"))
                                fprintf(stderr, "    threads %d reset %d kinds %d variant %d for ever %d at %d\n",
                                        threads, reset, i, variant, for_ever, at);
                            world_open(&w, BARE);
                            w.bell = make_bell(threads ? 0 : 2, (uint32_t)threads);
                            await_threads(w.bell, (uint32_t)threads);
                            w.made = watch(w.bell, w.other, BELL_READ, BELL_ONESHOT, to_slot());
                            CHECK_EQ(bell_before_fork(w.bell), 0);
                            pid_t pid = fork();
                            CHECK(pid >= 0);
                            if (pid == 0) {
                                alarm(slow() ? 300 : 50);
                                faults plan = {.kinds = kinds[i], .at = at, .for_ever = for_ever, .variant = variant};
                                child(&w, reset, threads, plan, out);
                                _exit(0);
                            }
                            CHECK_EQ(bell_after_fork_parent(w.bell), 0);
                            CHECK_EQ(waitpid(pid, &status, 0), pid);
                            CHECK_EQ(status, 0);
                            fault_points += out->struck > 0;
                            fault_runs++;
                            int32_t answer = CHECK_OK(bell_unregister(w.bell, w.made, 0));
                            if (!threads) /* whose thread hears what the child does to the eventfd that both have */
                                CHECK_EQ(answer, BELL_CANCELLED);
                            world_close(&w);
                            if (!out->struck)
                                break;
                        }
    for (int i = 0; i < 4; i++) {
        if (!out->errors[i])
            fprintf(stderr, "  bell_after_fork_child never said %d\n", after_fork_codes[i]);
        CHECK(out->errors[i]);
    }
    CHECK_EQ(munmap(out, 4096), 0);
}

/* ---- forks and signals at every point where the library calls out ---- */

static world *here;
static bell_handle posted;
static uint32_t posted_word, handled;

static void post_and_wake(int signal_number)
{
    int before = errno;
    (void)signal_number;
    CHECK_EQ(bell_post(here->bell, posted, 1), 0);
    CHECK_EQ(bell_wake(here->bell, 0), 0);
    CHECK_GT(bell_now(BELL_CLOCK_MONOTONIC), 0);
    handled++;
    errno = before;
}

static void raise_signal(void)
{
    CHECK_EQ(raise(SIGUSR1), 0);
}

/* The child finds the manager as another thread may have left it. It never returns into the call it came from. */
static void fork_here(void)
{
    int status;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(slow() ? 300 : 50);
        hook_at_call = NULL;
        faults_plan((faults){0});
        int32_t r = bell_after_fork_child(here->bell, 0);
        if (r == BELL_E_BUSY)
            r = bell_after_fork_child(here->bell, BELL_FORK_RESET);
        CHECK_EQ(r, 0);
        bell_handle h = set_timeout(here->bell, 0, to_slot());
        CHECK_EQ(bell_slot_wait(here->bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_TIMEOUT);
        CHECK_EQ(bell_unregister(here->bell, h, BELL_SYNC), BELL_FIRED);
        check_verified(here->bell);
        CHECK_EQ(bell_destroy(here->bell, BELL_FORCE), 0);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
}

static void happens_at_every_call(const scenario *s, int argument, void (*what)(void))
{
    for (int at = 1;; at++) {
        world w;
        world_open(&w, FULL);
        here = &w;
        posted_word = handled = 0;
        posted = make_user(w.bell, to_futex(&posted_word));
        s->prepare(&w, argument);
        hook_at_call = what;
        faults_plan((faults){.kinds = FAULTS_MEMORY | FAULTS_ALL_CALLS, .at = at});
        int32_t r = s->attempt(&w, argument);
        int struck = fault.struck;
        hook_at_call = NULL;
        faults_plan((faults){0});
        if (r == 0 && w.l.kind == LAND_POLL && s->attempt == drive) /* the wake has ended it before the news */
            r = drive(&w, argument);
        CHECK_OK(r);
        fault_points += struck > 0;
        s->works(&w, argument);
        if (handled) {
            turn(w.bell);
            CHECK_EQ(bell_slot_take(&posted_word), BELL_USER); /* nothing that was posted is lost */
        }
        CHECK_EQ(bell_unregister(w.bell, posted, BELL_SYNC), BELL_CANCELLED);
        world_close(&w);
        if (!struck)
            return;
    }
}

static void at_every_point(void (*what)(void))
{
    const scenario some[] = {
        {.name = "register", .prepare = open_landing, .attempt = register_fd, .works = tells_once},
        {.name = "rearm", .prepare = watch_other_told, .attempt = rearm, .works = rearmed},
        {.name = "retarget", .prepare = watch_other_unseen, .attempt = retarget, .works = news_moved},
        {.name = "timeout", .prepare = open_landing, .attempt = register_timeout, .works = fires_once},
        {.name = "user", .prepare = open_landing, .attempt = register_user, .works = is_posted},
        {.name = "close", .prepare = to_be_closed, .attempt = close_begin, .works = closing_began},
        {.name = "drive", .prepare = news_on_its_way, .attempt = drive, .works = news_has_come},
    };
    const int arguments[] = {BELL_ONESHOT | LAND_SLOT << 4 | DEADLINE, LAND_QUEUE << 4 | LAND_POLL << 12 | WITH_TARGET,
                             LAND_POLL << 4 | LAND_QUEUE << 12,        BELL_CLOCK_BOOT | LAND_FUTEX << 4,
                             LAND_SLOT << 4,                           1,
                             FROM_FD | LAND_POLL << 4};
    for (int i = 0; i < 7; i++) {
        fprintf(stderr, "  %s\n", some[i].name);
        happens_at_every_call(&some[i], arguments[i], what);
    }
    for (int kind = LAND_SLOT; kind < LAND_KINDS; kind++) {
        if (what == fork_here && (kind == LAND_EVENTFD || kind == LAND_BYTE))
            continue; /* parent and child share the wake fd, and both write to it */
        fprintf(stderr, "  drive to %s\n", landing_name(kind));
        happens_at_every_call(&some[6], FROM_FD | kind << 4, what);
    }
}

static void may_a_signal_come_at_every_point(void)
{
    const struct sigaction action = {.sa_handler = post_and_wake}, normal = {.sa_handler = SIG_DFL};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    at_every_point(raise_signal);
    CHECK(sigaction(SIGUSR1, &normal, NULL) == 0);
}

static void may_a_fork_come_at_every_point(void)
{
    at_every_point(fork_here);
}

int main(void)
{
    const char *preload = getenv("LD_PRELOAD");
    if (preload && strstr(preload, "vgpreload"))
        SKIP("valgrind puts its own allocator where this program has its");
    RUN(museum_056_does_create_fail_cleanly);
    RUN(does_destroy_always_succeed);
    RUN(does_registering_an_fd_fail_cleanly);
    RUN(does_a_batch_fail_cleanly);
    RUN(does_modify_fail_cleanly);
    RUN(does_rearm_of_an_fd_fail_cleanly);
    RUN(does_a_batch_of_rearms_fail_cleanly);
    RUN(does_retarget_of_an_fd_fail_cleanly);
    RUN(does_close_begin_fail_cleanly);
    RUN(are_errors_of_close_told_and_is_the_fd_gone);
    RUN(does_registering_a_timeout_fail_cleanly);
    RUN(does_changing_a_timeout_fail_cleanly);
    RUN(does_giving_an_fd_a_deadline_fail_cleanly);
    RUN(does_registering_a_user_event_fail_cleanly);
    RUN(do_queues_fail_cleanly);
    RUN(do_looking_and_preparing_a_fork_fail_cleanly);
    RUN(is_no_news_lost_when_driving_fails);
    RUN(is_a_level_told_again_when_looking_fails);
    RUN(do_waits_without_news_fail_cleanly);
    RUN(does_a_new_driver_fail_cleanly);
    RUN(does_leaving_succeed_when_the_cancel_cannot_be_submitted);
    RUN(does_a_high_number_fail_cleanly);
    RUN(does_an_older_kernel_do_or_is_it_refused);
    RUN(does_a_level_check_tell_of_a_closed_fd);
    RUN(do_followers_fail_cleanly);
    RUN(museum_074_is_a_wake_that_fails_told_and_the_next_one_heard);
    RUN(does_pollable_fd_fail_cleanly);
    RUN(museum_058_are_those_left_told_when_the_kernel_refuses);
    RUN(is_news_that_nobody_wants_any_more_counted);
    RUN(are_all_told_when_there_is_no_memory_to_put_some_off);
    RUN(is_a_torn_state_refused_to_the_child);
    RUN(does_taking_over_in_a_child_fail_cleanly);
    RUN(may_a_signal_come_at_every_point);
    RUN(may_a_fork_come_at_every_point);
    fprintf(stderr, "fault_points=%" PRIu64 " runs=%" PRIu64 " leaks=%" PRIu64 "\n", fault_points, fault_runs, leaks);
    CHECK_EQ(leaks, 0);
    return 0;
}
