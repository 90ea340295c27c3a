/* model.h: the world of fds, what is registered in it, and what may be seen of it. For fuzz.c. */
#ifndef FUZZ_MODEL_H
#define FUZZ_MODEL_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <doorbell.h>

enum { HEAD = 2, STEP = 6, MOST_STEPS = 80, MOST_BYTES = HEAD + STEP * MOST_STEPS };
enum { LIMIT_SECONDS = 30 };

/* ---- shared with the process that watches ---- */

typedef struct shared {
    uint64_t execs, calls, failures, drawn;
    uint32_t size;
    uint8_t program[MOST_BYTES];
    uint8_t covered[1 << 13]; /* bits: (function, result, mode, target) */
} shared;

static shared *common;
static int verbose;
static int careful; /* bell_verify after each call */

static void say(const char *format, ...)
{
    va_list arguments;
    if (!verbose)
        return;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("fuzz: ", stderr);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    fflush(NULL);
#ifdef FUZZ_LIBFUZZER
    abort();
#else
    _exit(1);
#endif
}

static uint64_t hash_bytes(const void *bytes, size_t n)
{
    uint64_t h = 0xcbf29ce484222325;
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3;
    return h;
}

/* `function` is a literal of the caller: its text counts. */
static void cover(const char *function, int32_t result, uint32_t mode, uint32_t target)
{
    int32_t key[3] = {result > 0 && result != BELL_CANCELLED && result != BELL_FIRED ? 1 : result, (int32_t)mode,
                      (int32_t)target};
    uint64_t h = hash_bytes(function, strlen(function)) * 31 + hash_bytes(key, sizeof key);
    uint32_t bit = (uint32_t)((h ^ h >> 29) % (sizeof common->covered * 8));
    common->covered[bit / 8] |= (uint8_t)(1 << bit % 8);
}

/* ---- the world: fds under numbers that nobody else gets ---- */

enum { EVENT_A, EVENT_B, PIPE_READ, PIPE_WRITE, SOCK_A, SOCK_B, SOCK_C, SOCK_D, A_FILE, NEVER_OPEN, SPOTS };
enum { BASE = 200 };
static const int peers[SPOTS] = {EVENT_A, EVENT_B, PIPE_WRITE, PIPE_READ, SOCK_B, SOCK_A, SOCK_D, SOCK_C, -1, -1};

typedef struct spot {
    int open, is_event; /* an eventfd: from the beginning, or since it was opened anew */
    int file;
    int closing; /* bell_close_begin was called */
    int ghostly; /* closed behind the library's back while it was watched */
    int in_pair; /* what the program began with: its peer, if that is in one too, is the other end */
    uint64_t ticket;
    uint32_t now; /* what poll(2) said last, as BELL_* bits */
} spot;
static spot world[SPOTS];

static int number(int s)
{
    return BASE + s;
}

static int moved(int fd, int s)
{
    if (fd < 0 || dup3(fd, number(s), O_CLOEXEC) < 0)
        fail("the world cannot be made: %s", strerror(errno));
    close(fd);
    world[s].open = 1;
    return s;
}

static void open_event(int s)
{
    world[moved(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), s)].is_event = 1;
}

static void make_world(void)
{
    static const int small = 4096;
    int p[2];
    memset(world, 0, sizeof world);
    open_event(EVENT_A);
    open_event(EVENT_B);
    if (pipe2(p, O_NONBLOCK | O_CLOEXEC) != 0)
        fail("pipe2: %s", strerror(errno));
    moved(p[0], PIPE_READ);
    moved(p[1], PIPE_WRITE);
    fcntl(number(PIPE_WRITE), F_SETPIPE_SZ, small);
    for (int s = SOCK_A; s <= SOCK_C; s += 2) {
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, p) != 0)
            fail("socketpair: %s", strerror(errno));
        for (int i = 0; i < 2; i++) {
            setsockopt(p[i], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
            moved(p[i], s + i);
        }
    }
    world[moved(memfd_create("fuzz", MFD_CLOEXEC), A_FILE)].file = 1;
    for (int s = PIPE_READ; s <= SOCK_D; s++)
        world[s].in_pair = 1;
}

/* ---- targets ---- */

enum { WORDS = 256, WAKES = 6, THINGS = 160, EVENTS = 64 };

static uint32_t words[WORDS], word_frozen[WORDS];
static uint8_t word_is_frozen[WORDS];
static int words_used;

static uint32_t puts_of[WORDS]; /* a StablePtr is the address of one of these */
static uint8_t mvar_given[WORDS]; /* 1: the library's, 2: given back */
static int mvars_used;

static int wake_fds[WAKES][2]; /* the first four are eventfds, the others pipes: read end, write end */
static uint8_t wake_taken[WAKES];

typedef struct binding {
    uint32_t kind;
    int at;    /* of words, puts_of, wake_fds; the queue among things */
    int spent; /* an MVAR that was filled */
    bell_slot *slot;
    uint32_t rd, wr; /* what was seen */
} binding;

/* ---- things: registrations, timeouts, user events, queues ---- */

enum { FD = 1, TIMEOUT = 2, USER = 4, QUEUE = 8, ANY = 15 };
enum { NO, YES, MAYBE };

typedef struct thing {
    int kind, live;
    bell_handle handle;
    binding to; /* of a queue: its doorbell */
    /* Will something be delivered, or has it been without anybody seeing it? */
    int armed, blurred;
    uint32_t arms;
    /* fds */
    int spot, closed, mixed;
    uint32_t interest, mode, flags, asked, truth, dirty;
    /* With io_uring, which notes readiness when it comes and not when it is asked: what was true before the last news,
     * and may have been noted behind it. */
    uint32_t past;
    /* deadlines: as set last, and the earliest since something was seen */
    int64_t deadline, due, period, slack;
    uint32_t clock;
    int64_t *word; /* where the deadline is kept, if it is shared: of one that is armed until it fires */
    /* Is the deadline still there? Who knows: an eventfd, or a slot with older news, does not tell that it was the
     * deadline; and one that passes between a delivery of LEVEL and the next drain is dropped. */
    int vague;
    /* user events: bits posted and not seen; all ever */
    uint32_t owed, posted;
    /* queues: how many registrations have it as target; what bell_queue_fd has told, or 0 */
    int used, queue_fd;
    uint64_t seen; /* deliveries that the model has seen */
    uint32_t told; /* the same in programs with a second thread, by whoever got them */
    int32_t answer; /* of bell_unregister */
} thing;

static thing things[THINGS];
static int things_made;

static bell_t *bell, *dead_bell;
static uint32_t shards;
static int loose;   /* a second thread is inside */
static int threads; /* the second threads are the library's */
static int one_event; /* bell_config.max_events is 1 */
static int io_uring;  /* every manager is asked for BELL_IO_URING */
static uint64_t features;
static int in_child; /* of a program that has forked */
static int ghosts_stay; /* a file of a ghost lives on in the parent, so the kernel may keep it in its set */
static int in_batches; /* fds are registered by bell_register_fd_batch */
static int64_t slack_of_all; /* bell_config.slack_ns */
static int pollable[2]; /* what bell_pollable_fd has told of each shard, or 0 */
static int is_idle_turn; /* it has told that the turn would find nothing */

static int is_listed(const binding *b)
{
    return b->kind == BELL_TARGET_POLL || b->kind == BELL_TARGET_QUEUE;
}

static int is_ghostly(const thing *t)
{
    return t->kind == FD && world[t->spot].ghostly;
}

static int is_exact(const thing *t)
{
    return !loose && !is_ghostly(t);
}

static int index_of(const thing *t)
{
    return (int)(t - things);
}

static void fake_try_putmvar(int32_t capability, void *stable_ptr)
{
    uint32_t *puts = stable_ptr;
    (void)capability;
    __atomic_add_fetch(puts, 1, __ATOMIC_ACQ_REL);
}

static uint32_t load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static int64_t now_ns(uint32_t clock)
{
    return bell_now(clock);
}

static uint32_t wants(uint32_t interest)
{
    return interest | BELL_HUP | BELL_ERR | (interest & BELL_READ ? BELL_RDHUP : 0);
}

static int is_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void look_at_world(void)
{
    struct pollfd p[SPOTS];
    for (int s = 0; s < SPOTS; s++)
        p[s] = (struct pollfd){.fd = world[s].open ? number(s) : -1, .events = POLLIN | POLLOUT | POLLPRI | POLLRDHUP};
    poll(p, SPOTS, 0);
    for (int s = 0; s < SPOTS; s++) {
        short r = p[s].revents;
        world[s].now = (r & POLLIN ? BELL_READ : 0) | (r & POLLOUT ? BELL_WRITE : 0) | (r & POLLPRI ? BELL_PRI : 0) |
                       (r & POLLRDHUP ? BELL_RDHUP : 0) | (r & POLLHUP ? BELL_HUP : 0) | (r & POLLERR ? BELL_ERR : 0);
    }
    for (thing *t = things; t < things + things_made; t++)
        if (t->live && t->kind == FD)
            t->truth |= world[t->spot].now;
}

/* An fd was closed that no registration watches any more: its file must be gone, so the peer sees the end. */
static void is_let_go(int s)
{
    spot *w = &world[s], *peer = &world[peers[s] < 0 ? s : peers[s]];
    struct pollfd p = {.fd = number(peers[s])};
    int was = w->in_pair && peer->in_pair && peer->open && !w->ghostly;
    w->in_pair = 0;
    /* A second thread in bell_poll may let go of it in its next turn; poll(2) holds its files while it sleeps. */
    if (!was || (loose && (!threads || features & BELL_FEATURE_POLL)))
        return;
    poll(&p, 1, 0);
    if (!(p.revents & (s == PIPE_READ ? POLLERR : POLLHUP)))
        fail("%d is closed, and its peer %d does not see it (poll says %#x): its file is still held", number(s), p.fd,
             (unsigned)p.revents);
}

/* ---- results ---- */

typedef struct codes {
    int n;
    int32_t code[12];
} codes;

static void or_else(codes *c, int32_t code)
{
    c->code[c->n++] = code;
}

static void check_code(const char *call, int32_t got, const codes *c)
{
    __atomic_add_fetch(&common->calls, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < c->n; i++)
        if (c->code[i] == got)
            return;
    fprintf(stderr, "fuzz: %s returned %d (%s); the model says", call, got, bell_strerror(got));
    for (int i = 0; i < c->n; i++)
        fprintf(stderr, "%s %d (%s)", i ? " or" : "", c->code[i], bell_strerror(c->code[i]));
    fputc('\n', stderr);
    fail("wrong result of %s", call);
}

#define CODES(...)                                                                                                     \
    (&(codes){(int)(sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t)), {__VA_ARGS__}})
#define MUST(call, got, ...) check_code(call, got, CODES(__VA_ARGS__))

/* ---- what is seen ---- */

static void freeze_word(int at)
{
    word_frozen[at] = load(&words[at]);
    word_is_frozen[at] = 1;
}

/* The target is the caller's again, or used up. `untouched`: nobody may touch it from here on. */
static void let_go(binding *b, int untouched)
{
    if (b->kind == BELL_TARGET_FUTEX && untouched)
        freeze_word(b->at);
    if (b->kind == BELL_TARGET_WAKE_FD && !loose)
        wake_taken[b->at] = 0;
    if (b->kind == BELL_TARGET_MVAR && !loose && !b->spent) {
        if (load(&puts_of[b->at]) != 0)
            fail("MVAR %d was filled, yet it was given back", b->at);
        mvar_given[b->at] = 2;
    }
    if (b->kind == BELL_TARGET_QUEUE)
        things[b->at].used--;
    b->kind = BELL_TARGET_NONE;
}

static void is_gone(thing *t)
{
    t->live = 0;
    free(t->word);
    t->word = NULL;
    let_go(&t->to, !loose);
}

static void seen(thing *t, uint32_t n, uint32_t bits)
{
    int one_shot = (t->kind == FD && t->mode == BELL_ONESHOT) || (t->kind == TIMEOUT && t->period == 0);
    int64_t now = now_ns(t->clock);
    say("    # h%d: %u deliver%s, bits %#x", index_of(t), n, n == 1 ? "y" : "ies", bits);
    if (!t->live)
        fail("h%d is gone, yet its target was told", index_of(t));
    int was_blurred = t->blurred;
    t->seen += n;
    if (loose)
        return;
    if (t->armed == NO && !is_ghostly(t) && (one_shot || t->closed))
        fail("h%d was not armed, yet its target was told (bits %#x)", index_of(t), bits);
    if (n > 1 && one_shot && !is_ghostly(t))
        fail("h%d was told %u times for one arming", index_of(t), n);
    if (is_idle_turn && (t->kind == USER || bits & ~(uint32_t)BELL_TIMEOUT)) /* time may pass in between */
        fail("h%d was told %#x by a turn that bell_pollable_fd did not tell of", index_of(t), bits);
    if (bits & BELL_TIMEOUT && now < t->due)
        fail("h%d: a deadline fired %" PRId64 " ns early", index_of(t), t->due - now);
    if (t->kind == FD && t->to.kind != BELL_TARGET_WAKE_FD && t->to.kind != BELL_TARGET_MVAR) {
        if (io_uring)
            look_at_world(); /* a turn may let go of a file, whose peer is told of it by the same turn */
        uint32_t may = (wants(t->asked) & (t->truth | t->past)) | BELL_TIMEOUT | (t->closed ? BELL_CLOSED : 0);
        if (bits & ~may && !is_ghostly(t))
            fail("h%d was told bits %#x that were not true (true were %#x)", index_of(t), bits & ~may, may);
        if (t->closed && !(bits & BELL_CLOSED) && !is_ghostly(t))
            fail("h%d is closed and was told %#x without BELL_CLOSED", index_of(t), bits);
    }
    cover("told", (int32_t)bits, t->mode | (uint32_t)t->kind << 8, t->to.kind);
    if (t->to.kind == BELL_TARGET_MVAR)
        t->to.spent = 1;
    if (t->kind == FD) {
        if (io_uring && t->mode != BELL_ONESHOT)
            t->past = t->truth | (one_event ? t->past : 0);
        t->truth = world[t->spot].now;
        t->asked = t->interest;
        t->dirty = 0;
        t->vague |= t->mode == BELL_LEVEL ||
                    (t->mode == BELL_EDGE && (t->to.kind == BELL_TARGET_WAKE_FD || t->to.kind == BELL_TARGET_SLOT));
        if (t->mode == BELL_ONESHOT || bits & (BELL_TIMEOUT | BELL_CLOSED)) {
            if (was_blurred)
                t->vague = 1;
            else
                t->deadline = BELL_NEVER;
        }
    }
    if (one_shot || t->closed)
        t->armed = t->blurred ? MAYBE : NO;
    t->blurred = 0;
    if (t->kind == USER && t->to.kind != BELL_TARGET_POLL && t->to.kind != BELL_TARGET_QUEUE)
        t->owed = 0;
    if (!t->period)
        t->due = was_blurred && t->due < t->deadline ? t->due : t->deadline;
    else if (t->deadline != BELL_NEVER) { /* the next one: not before `due`, not after `deadline` */
        t->due += t->period < BELL_NEVER - t->due && !was_blurred ? t->period : 0;
        t->deadline = t->period < BELL_NEVER - now ? now + t->period : BELL_NEVER - 1;
        t->vague |= was_blurred;
    }
    if (t->flags & BELL_AUTO_RELEASE)
        is_gone(t);
}

/* Targets that can be looked at. */
static void observe(void)
{
    for (thing *t = things; t < things + things_made; t++) {
        binding *b = &t->to;
        uint32_t n = 0, bits = 0, w, wr;
        uint64_t count = 0;
        if (!t->live || t->kind == QUEUE)
            continue;
        switch (b->kind) {
        case BELL_TARGET_FUTEX:
            w = load(&words[b->at]);
            if (w / BELL_SEQ == b->rd)
                break;
            n = w / BELL_SEQ - b->rd;
            bits = bell_slot_take(&words[b->at]);
            b->rd += n;
            break;
        case BELL_TARGET_SLOT:
            if (loose || !b->slot)
                break;
            w = load(&b->slot->rd);
            wr = load(&b->slot->wr);
            if (w / BELL_SEQ == b->rd / BELL_SEQ && wr / BELL_SEQ == b->wr / BELL_SEQ)
                break;
            n = (w - b->rd) / BELL_SEQ > (wr - b->wr) / BELL_SEQ ? (w - b->rd) / BELL_SEQ : (wr - b->wr) / BELL_SEQ;
            bits = ((w & ~b->rd) | (wr & ~b->wr)) & (BELL_NEWS | BELL_CLOSED | BELL_CANCELLED);
            b->rd = w;
            b->wr = wr;
            break;
        case BELL_TARGET_WAKE_FD:
            if (b->at < 4) {
                if (read(wake_fds[b->at][0], &count, 8) == 8)
                    n = (uint32_t)count;
            } else {
                char bytes[64];
                ssize_t got = read(wake_fds[b->at][0], bytes, sizeof bytes);
                n = got > 0 ? (uint32_t)got : 0;
            }
            break;
        case BELL_TARGET_MVAR:
            n = b->spent ? 0 : load(&puts_of[b->at]);
            if (n)
                b->spent = loose;
            break;
        default:
            break;
        }
        if (n)
            seen(t, n, bits);
    }
    for (int i = 0; i < words_used; i++)
        if (word_is_frozen[i] && load(&words[i]) != word_frozen[i])
            fail("word %d was touched after it was given back: %#x, now %#x", i, word_frozen[i], load(&words[i]));
    for (int i = 0; i < mvars_used; i++) {
        uint32_t puts = load(&puts_of[i]);
        if (puts > (mvar_given[i] == 1))
            fail("MVAR %d was filled %u times, owner %d", i, puts, mvar_given[i]);
    }
}

static void take_events(const bell_event *events, int32_t n, uint32_t kind, int queue)
{
    for (int32_t i = 0; i < n; i++) {
        const bell_event *e = &events[i];
        thing *t = &things[e->user_data % THINGS];
        say("    # event h%d ready %#x status %d data %" PRIu64, (int)e->user_data, e->ready, e->status, e->data);
        if (e->user_data >= (uint64_t)things_made)
            fail("an event with user_data %" PRIu64 " that nobody gave", e->user_data);
        if (e->ready == 0)
            fail("an event of h%d without a ready bit", index_of(t));
        if (loose) {
            __atomic_add_fetch(&t->told, 1, __ATOMIC_RELAXED);
            continue;
        }
        if (!t->live)
            fail("an event of h%d, which is gone", index_of(t));
        if (t->handle != e->handle)
            fail("an event of h%d with another handle", index_of(t));
        if (t->to.kind != kind || (kind == BELL_TARGET_QUEUE && t->to.at != queue))
            fail("an event of h%d came out of another target", index_of(t));
        for (int32_t j = 0; j < i && kind == BELL_TARGET_QUEUE; j++)
            if (events[j].handle == e->handle)
                fail("h%d is twice in one drain", index_of(t));
        if (t->kind == TIMEOUT && (e->ready != BELL_TIMEOUT || e->data == 0))
            fail("a timeout told ready %#x, data %" PRIu64, e->ready, e->data);
        if (t->kind == USER && (e->ready != BELL_USER || e->data & ~(uint64_t)t->posted))
            fail("a user event told ready %#x, data %#" PRIx64 ", posted was %#x", e->ready, e->data, t->posted);
        t->owed &= ~(uint32_t)e->data;
        seen(t, 1, e->ready);
    }
}

/* ---- choices ---- */

static const uint8_t *step;

static thing *new_thing(int kind)
{
    if (things_made == THINGS)
        return NULL;
    thing *t = &things[things_made];
    memset(t, 0, sizeof *t);
    t->kind = kind;
    t->deadline = t->due = BELL_NEVER;
    t->slack = slack_of_all;
    return t;
}

/* The handle of something new: no other has or had it. */
static void take_handle(thing *t, bell_handle handle)
{
    for (thing *o = things; o < things + things_made; o++)
        if (o != t && o->handle == handle)
            fail("h%d has handle %#" PRIx64 ", which h%d has or had", index_of(t), handle, index_of(o));
    if (handle == 0 || handle >> 62)
        fail("h%d has handle %#" PRIx64, index_of(t), handle);
    t->handle = handle;
    t->live = 1;
}

static thing *find_live(bell_handle handle)
{
    for (thing *t = things; t < things + things_made; t++)
        if (t->live && t->handle == handle)
            return t;
    return NULL;
}

/* A handle: mostly of something alive of the wanted kinds; sometimes of another kind, of something gone, or none. */
static thing *pick(uint8_t choice, int kinds, bell_handle *handle)
{
    int found = 0;
    static const uint64_t garbage[] = {0, 1, UINT64_MAX, INT64_MAX, 1ULL << 62, 1ULL << 58, 5ULL << 58, 15ULL << 58};
    if (choice >= 244) {
        *handle = garbage[choice % 8];
        return NULL;
    }
    if (choice >= 228 && things_made) { /* another generation, index, shard, kind; or any, also what is gone */
        static const int bits[] = {0, 26, 50, 58, 61, 25, 49, 63};
        thing *t = &things[step[5] % things_made];
        *handle = choice >= 236 ? t->handle ^ 1ULL << bits[choice % 8] : t->handle;
        return find_live(*handle);
    }
    for (thing *t = things; t < things + things_made; t++)
        found += t->live && t->kind & kinds;
    if (found) {
        found = choice % found;
        for (thing *t = things; t < things + things_made; t++)
            if (t->live && t->kind & kinds && found-- == 0) {
                *handle = t->handle;
                return t;
            }
    }
    *handle = 0;
    return NULL;
}

/* What a handle that is not one of the wanted kinds is answered. */
static int is_refused(const char *call, int32_t got, const thing *t, int kinds, bell_handle handle)
{
    if (t && t->kind & kinds) {
        if (got == BELL_E_STALE && loose && t->flags & BELL_AUTO_RELEASE)
            return 1;
        return 0;
    }
    if (t) {
        MUST(call, got, -EINVAL, threads ? BELL_E_UNSUPPORTED : -EINVAL);
    } else {
        for (thing *gone = things; gone < things + things_made; gone++)
            if (gone->handle == handle && gone->kind & kinds && !threads)
                MUST(call, got, BELL_E_STALE);
        MUST(call, got, BELL_E_STALE, -EINVAL, threads ? BELL_E_UNSUPPORTED : BELL_E_STALE);
    }
    cover(call, got, 0, 99);
    return 1;
}

static int64_t pick_time(uint8_t choice, uint32_t clock)
{
    int64_t now = now_ns(clock);
    switch (choice % 10) {
    case 0: return 0;
    case 1: return now - 1000000;
    case 2: return now;
    case 3: return now + 20000;
    case 4: return now + 100000;
    case 5: return now + 300000;
    case 6: return now + 3600000000000;
    case 7: return BELL_NEVER - 1;
    default: return BELL_NEVER;
    }
}

static uint32_t pick_shard(uint8_t choice)
{
    static const uint32_t all[] = {0, 0, 1, BELL_SHARD_ANY, BELL_SHARD_ANY, BELL_SHARD_CURRENT_CPU, 0, 254};
    return all[choice % 8];
}

static int is_shard(uint32_t shard)
{
    return shard < shards || shard >= BELL_SHARD_CURRENT_CPU;
}

/* A target. Its resource is taken by `take_resource`, when the call has succeeded. */
static bell_target pick_target(uint8_t choice, binding *b)
{
    static const uint8_t kinds[] = {BELL_TARGET_POLL,    BELL_TARGET_POLL,  BELL_TARGET_SLOT,  BELL_TARGET_FUTEX,
                                    BELL_TARGET_WAKE_FD, BELL_TARGET_QUEUE, BELL_TARGET_QUEUE, BELL_TARGET_MVAR};
    bell_target t = {.kind = kinds[choice % 8]};
    memset(b, 0, sizeof *b);
    if (t.kind == BELL_TARGET_WAKE_FD) {
        int first = choice & 64 ? 4 : 0, last = choice & 64 ? WAKES : 4;
        b->at = -1;
        for (int i = first; i < last; i++)
            if (!wake_taken[i])
                b->at = i;
        if (b->at < 0)
            t.kind = BELL_TARGET_FUTEX;
        else {
            uint64_t count;
            while (!loose && read(wake_fds[b->at][0], &count, 8) > 0)
                ;
            t.fd = wake_fds[b->at][1];
            t.flags = b->at >= 4 ? BELL_WAKE_BYTE : 0;
        }
    }
    if (t.kind == BELL_TARGET_QUEUE) {
        bell_handle handle;
        thing *q = pick(choice / 8 % 32, QUEUE, &handle);
        if (q) {
            t.queue = handle;
            b->at = index_of(q);
        } else
            t.kind = BELL_TARGET_POLL;
    }
    if (t.kind == BELL_TARGET_FUTEX) {
        b->at = words_used % WORDS;
        t.word = &words[b->at];
    }
    if (t.kind == BELL_TARGET_MVAR) {
        b->at = mvars_used % WORDS;
        t.stable_ptr = &puts_of[b->at];
    }
    b->kind = t.kind;
    return t;
}

static const char *const target_names[] = {"NONE", "POLL", "SLOT", "FUTEX", "WAKE_FD", "QUEUE", "MVAR"};

/* Takes the resource before the call; `unbind_unused` if that has failed. */
static void take_resource(const binding *b)
{
    if (b->kind == BELL_TARGET_FUTEX) {
        words_used++;
        word_is_frozen[b->at] = 0;
    }
    if (b->kind == BELL_TARGET_MVAR) {
        mvars_used++;
        mvar_given[b->at] = 1;
    }
    if (b->kind == BELL_TARGET_WAKE_FD)
        wake_taken[b->at] = 1;
    if (b->kind == BELL_TARGET_QUEUE)
        things[b->at].used++;
}

static void unbind_unused(binding *b)
{
    let_go(b, 1);
}

static void bind_to(thing *t, const binding *b)
{
    t->to = *b;
    if (b->kind == BELL_TARGET_SLOT && t->kind != QUEUE) {
        int32_t r = bell_slot_map(bell, t->handle, &t->to.slot);
        if (r == BELL_E_STALE && t->flags & BELL_AUTO_RELEASE && (!is_exact(t) || t->armed != NO)) {
            if (loose)
                t->to.slot = NULL;
            else
                is_gone(t); /* it had news to tell */
            return;
        }
        MUST("bell_slot_map", r, 0);
        /* News of the old target may be in it already. */
        t->to.rd = load(&t->to.slot->rd);
        t->to.wr = load(&t->to.slot->wr);
        if (t->to.rd & (BELL_NEWS | BELL_CLOSED))
            t->to.rd = (t->to.rd - BELL_SEQ) & ~(uint32_t)(BELL_NEWS | BELL_CLOSED);
        if (t->to.wr & (BELL_NEWS | BELL_CLOSED))
            t->to.wr = (t->to.wr - BELL_SEQ) & ~(uint32_t)(BELL_NEWS | BELL_CLOSED);
    }
}

/* What a target and a mode are answered. */
static void judge(codes *c, uint32_t mode, uint32_t target)
{
    if (threads && target == BELL_TARGET_POLL)
        or_else(c, BELL_E_UNSUPPORTED);
    if (mode == BELL_LEVEL && target != BELL_TARGET_POLL && target != BELL_TARGET_QUEUE)
        or_else(c, -EINVAL);
    if (mode == BELL_EDGE && target == BELL_TARGET_MVAR)
        or_else(c, -EINVAL);
    if (mode == BELL_EDGE && !(features & BELL_FEATURE_EDGE))
        or_else(c, BELL_E_UNSUPPORTED);
}

static int is_accepted(const char *call, int32_t got, codes *wrong)
{
    if (wrong->n)
        check_code(call, got, wrong);
    else
        MUST(call, got, 0);
    return got == 0;
}

static void arm(thing *t)
{
    t->blurred |= is_listed(&t->to) && t->armed != NO;
    t->armed = YES;
    t->arms++;
    t->dirty |= !(t->flags & BELL_FD_EXCLUSIVE); /* which the kernel does not look at again */
}

static void set_deadline(thing *t, int64_t deadline)
{
    t->deadline = deadline;
    t->vague = 0;
    if (deadline < t->due)
        t->due = deadline;
}

#endif
