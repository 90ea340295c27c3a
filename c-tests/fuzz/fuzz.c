/* fuzz.c: bytes become a program of calls of the C ABI, checked against a model.
 *
 *     fuzz PATH...              replays files, and the files in folders
 *     fuzz --random SEED N      N programs drawn from SEED (0: from the clock; the seed is printed)
 *     fuzz --seconds S          programs drawn for S seconds
 *     fuzz --corpus FOLDER N    of N programs, those that together reach most are written to FOLDER: at most 96
 *     fuzz --show FILE          replays one file and prints its calls
 *     fuzz --io-uring ...       the same with io_uring; ends with 77 if there is none
 *
 * A program is two bytes that choose the manager (`run_program` says how), then six bytes for each call: which, and what with. So every string
 * is a program, and one that fails is shrunk by leaving calls out. Programs run in a forked worker: whatever ends it
 * (a check, a sanitizer, a hang) is a failure of the program that it was at. LLVMFuzzerTestOneInput is there for who
 * has libFuzzer: clang -DFUZZ_LIBFUZZER -fsanitize=fuzzer,address.
 *
 * The model knows what is registered, and believes nothing but what a user can see: return codes, words, counts of
 * eventfds, events, and what poll(2) says of the fds. In programs with a second thread it does not know the order of
 * what happens, and asks only what holds in every order. */
#define _GNU_SOURCE 1
#include "calls.h"

/* ---- a program ---- */

static void (*const doers[])(void) = {do_register_fd, do_register_timeout, do_register_user, do_queue_create, do_rearm,
                                      do_modify, do_retarget, do_unregister, do_batch, do_update_timeout, do_post,
                                      do_slot, do_queue, do_poll, do_settle, do_world, do_close, do_invalid, do_look};
/* How many of 256. */
static const uint8_t weights[] = {36, 18, 9, 7, 20, 7, 11, 16, 5, 8, 11, 8, 13, 26, 5, 36, 7, 9, 4};

static uint32_t stop_helper;

/* The second thread: drives shard 0 by hand. */
static void *helper(void *unused)
{
    bell_event events[4];
    while (!load(&stop_helper)) {
        int32_t r = bell_poll(bell, 0, events, 4, 1000000);
        if (r == BELL_E_CLOSED || r == BELL_E_STALE)
            break; /* bell_destroy with BELL_FORCE */
        if (r < 0 && r != BELL_E_BUSY)
            MUST("bell_poll of the second thread", r, 0);
        if (r > 0)
            take_events(events, r, BELL_TARGET_POLL, 0);
    }
    return unused;
}

static void settle_ghosts(void)
{
    for (int s = 0; s < SPOTS; s++) {
        int left = 0;
        for (thing *t = things; t < things + things_made; t++)
            left += t->live && t->kind == FD && t->spot == s;
        if (!left)
            world[s].ghostly = 0;
    }
}

static int lowest_fd(void)
{
    int fd = fcntl(0, F_DUPFD_CLOEXEC, 0);
    close(fd);
    return fd;
}

static uint64_t open_fds(void)
{
    uint64_t mask = 0;
    for (int fd = 0; fd < 64; fd++)
        mask |= (uint64_t)(fcntl(fd, F_GETFD) >= 0) << fd;
    return mask;
}

static void forget_all(void)
{
    for (thing *t = things; t < things + things_made; t++)
        if (t->live) {
            t->live = 0;
            t->to.spent = t->to.kind == BELL_TARGET_MVAR && load(&puts_of[t->to.at]);
            let_go(&t->to, 1);
        }
    for (int s = 0; s < SPOTS; s++)
        world[s].closing = world[s].ghostly = 0;
}

/* In a forked child the manager is refused until it is adopted. Or it is ended as it is, and nobody is told. */
static void adopt(int how, int prepared)
{
    static uint32_t words_before[WORDS], puts_before[WORDS];
    bell_event e;
    bell_handle h = 77;
    bell_counters c = {.size = sizeof c};
    bell_fd_spec spec = {.size = sizeof spec, .fd = number(EVENT_A), .interest = BELL_READ, .mode = BELL_ONESHOT,
                         .target = {.kind = BELL_TARGET_SLOT}};
    MUST("bell_poll", bell_poll(bell, 0, &e, 1, 0), BELL_E_FORKED);
    MUST("bell_register_fd", bell_register_fd(bell, &spec, &h), BELL_E_FORKED);
    MUST("bell_close_fd", bell_close_fd(bell, number(NEVER_OPEN)), BELL_E_FORKED);
    MUST("bell_wake", bell_wake(bell, 0), BELL_E_FORKED);
    MUST("bell_stats", bell_stats(bell, 0, &c), BELL_E_FORKED);
    MUST("bell_verify", bell_verify(bell), BELL_E_FORKED);
    MUST("bell_before_fork", bell_before_fork(bell), BELL_E_FORKED);
    for (thing *t = things; t < things + things_made; t++)
        if (t->live && t->kind == QUEUE)
            MUST("bell_queue_drain", bell_queue_drain(bell, t->handle, &e, 1), BELL_E_FORKED);
        else if (t->live) {
            MUST("bell_unregister", bell_unregister(bell, t->handle, BELL_SYNC), BELL_E_FORKED);
            MUST("bell_rearm", bell_rearm(bell, t->handle, NULL, BELL_NEVER), BELL_E_FORKED);
        }
    if (how == 3) {
        memcpy(words_before, words, sizeof words);
        memcpy(puts_before, puts_of, sizeof puts_of);
        MUST("bell_destroy", bell_destroy(bell, 0), 0);
        MUST("bell_destroy", bell_destroy(bell, 0), BELL_E_STALE);
        if (memcmp(words_before, words, sizeof words) || memcmp(puts_before, puts_of, sizeof puts_of))
            fail("bell_destroy in a child that has not adopted the manager has told something");
        for (int i = 0; i < WAKES; i++)
            if (is_readable(wake_fds[i][0]))
                fail("bell_destroy in a child that has not adopted the manager has written to a wake fd");
        _exit(0);
    }
    int32_t r = bell_after_fork_child(bell, how == 2 ? BELL_FORK_RESET : 0);
    say("/* forked%s; the child: */ bell_after_fork_child(bell, %d) = %d", prepared ? ", prepared" : "", how == 2, r);
    MUST("bell_after_fork_child", r, 0);
    MUST("bell_after_fork_child", bell_after_fork_child(bell, 0), -EINVAL);
    cover("bell_after_fork_child", r, (uint32_t)how, (uint32_t)prepared);
    in_child = 1;
    memset(pollable, 0, sizeof pollable);
    for (int s = 0; s < SPOTS; s++)
        world[s].in_pair = 0; /* the parent has both ends */
    for (thing *t = things; t < things + things_made; t++)
        t->queue_fd = 0;
    if (how == 2)
        forget_all();
    observe();
}

static void empty_wakes(void)
{
    uint64_t count;
    for (int i = 0; i < WAKES; i++)
        while (read(wake_fds[i][0], &count, 8) > 0)
            ;
}

/* The child goes on with the program; the parent waits for its end, and goes on too: the child has done nothing to its
 * manager, though whatever it likes to the fds that both have. */
static void do_fork(int how, int prepared)
{
    int status;
    empty_wakes(); /* of earlier programs */
    if (prepared) {
        MUST("bell_before_fork", bell_before_fork(bell), 0);
        MUST("bell_before_fork", bell_before_fork(bell), BELL_E_BUSY);
    }
    fflush(NULL);
    pid_t child = fork();
    if (child < 0)
        fail("fork: %s", strerror(errno));
    if (child == 0) {
        alarm(LIMIT_SECONDS / 2);
        adopt(how, prepared);
        return;
    }
    waitpid(child, &status, 0);
    if (status != 0)
        fail("the forked child ended with %#x", (unsigned)status);
    say("/* the parent goes on */");
    if (prepared)
        MUST("bell_after_fork_parent", bell_after_fork_parent(bell), 0);
    MUST("bell_after_fork_parent", bell_after_fork_parent(bell), -EINVAL);
    empty_wakes(); /* of the child */
    for (int s = 0; s < SPOTS && io_uring; s++)
        world[s].in_pair = 0; /* the kernel lets go of the child's ring by and by */
    for (thing *t = things; t < things + things_made; t++)
        t->truth = UINT32_MAX;
    look_at_world();
}

static void run_program(const uint8_t *bytes, size_t size)
{
    static const bell_ghc_ops ghc = {.size = sizeof ghc, .try_putmvar = fake_try_putmvar};
    static uint8_t op_of[256];
    static uint64_t mask;
    bell_config config;
    pthread_t thread;
    if (!op_of[255]) {
        size_t i = 0;
        for (size_t op = 0; op < sizeof weights; op++)
            for (int n = 0; n < weights[op] && i < 256; n++)
                op_of[i++] = (uint8_t)op;
        if (i != 256 || op_of[255] != sizeof weights - 1)
            fail("the weights are not 256 together");
    }
    if (!wake_fds[0][1]) {
        signal(SIGPIPE, SIG_IGN);
        bell_features(&features);
        for (int i = 0; i < WAKES; i++)
            if (i < 4)
                wake_fds[i][0] = wake_fds[i][1] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
            else if (pipe2(wake_fds[i], O_NONBLOCK | O_CLOEXEC) != 0)
                fail("pipe2: %s", strerror(errno));
        bell_create(NULL, &dead_bell);
        bell_destroy(dead_bell, 0);
    }
    if (size < HEAD + STEP)
        return;
    if (size > MOST_BYTES)
        size = MOST_BYTES;
    int lowest = lowest_fd();
    if (mask == 0)
        mask = open_fds();
    make_world();
    for (int i = 0; i < things_made; i++)
        free(things[i].word);
    memset(things, 0, sizeof things[0] * (size_t)(things_made ? things_made : 1));
    memset(words, 0, sizeof words);
    memset(word_is_frozen, 0, sizeof word_is_frozen);
    memset(puts_of, 0, sizeof puts_of);
    memset(mvar_given, 0, sizeof mvar_given);
    memset(wake_taken, 0, sizeof wake_taken);
    things_made = words_used = mvars_used = 0;
    memset(pollable, 0, sizeof pollable);
    shards = bytes[0] % 4 == 0 ? 2 : 1;
    threads = bytes[1] % 16 == 1;
    loose = bytes[1] % 16 < 2;
    bell_config_init(&config, sizeof config);
    config.shards = shards;
    in_batches = bytes[1] / 16 == 13;
    config.slack_ns = slack_of_all = bytes[1] / 16 == 15 ? 150000 : 0;
    config.threads = threads ? shards : 0;
    one_event = bytes[0] % 32 < 4;
    config.max_events = (uint32_t)one_event;
    config.ghc = &ghc;
    config.flags = io_uring ? BELL_IO_URING : 0;
    int32_t r = bell_create(&config, &bell);
    say("bell_create({shards %u, threads %u, max_events %u, slack_ns %d%s}, &bell) = %d%s", shards, config.threads,
        config.max_events, (int)config.slack_ns, io_uring ? ", flags BELL_IO_URING" : "", r,
        loose && !threads ? " /* and a thread that polls shard 0 */" : "");
    MUST("bell_create", r, 0);
    stop_helper = 0;
    if (loose && !threads && pthread_create(&thread, NULL, helper, NULL) != 0)
        fail("pthread_create");
    look_at_world();
    size_t steps = (size - HEAD) / STEP;
    int forks = bytes[1] / 16 == 14 && !loose;
    for (size_t i = 0; i < steps; i++) {
        if (forks && i == steps / 2)
            do_fork(bytes[0] / 32 % 4, bytes[0] / 128); /* 3: not adopted, 2: reset, else taken over */
        step = bytes + HEAD + STEP * i;
        doers[op_of[step[0]]]();
        observe();
        settle_ghosts();
        if (careful || i % 8 == 7)
            verify();
    }
    do_settle();
    for (int s = 0; s < SPOTS; s++)
        if (world[s].closing)
            MUST("bell_close_end", bell_close_end(bell, number(s), world[s].ticket), 0);
    int tidy = bytes[0] & 64;
    if (loose && !threads && tidy) {
        __atomic_store_n(&stop_helper, 1, __ATOMIC_RELEASE);
        MUST("bell_wake", bell_wake(bell, 0), 0);
        pthread_join(thread, NULL);
    }
    if (tidy) {
        static const uint8_t zeros[STEP];
        step = zeros;
        for (thing *t = things; t < things + things_made; t++)
            if (t->live && t->kind != QUEUE)
                unregister(t, t->handle, BELL_SYNC), observe(); /* which may tell others that the fd is gone */
        for (thing *t = things; t < things + things_made; t++)
            if (t->live && t->kind == QUEUE) {
                r = bell_queue_destroy(bell, t->handle, BELL_SYNC);
                if (loose)
                    MUST("bell_queue_destroy", r, BELL_CANCELLED, BELL_FIRED, BELL_E_BUSY);
                else
                    MUST("bell_queue_destroy", r, BELL_CANCELLED, BELL_FIRED);
                t->to.spent = r == BELL_FIRED;
                t->live = 0;
                let_go(&t->to, 1);
            }
        observe();
        verify();
    }
    r = bell_destroy(bell, loose ? BELL_FORCE : 0);
    say("bell_destroy(bell, %u) = %d", loose, r);
    MUST("bell_destroy", r, 0);
    MUST("bell_destroy", bell_destroy(bell, 0), BELL_E_STALE);
    if (loose && !threads && !tidy)
        pthread_join(thread, NULL);
    /* Every StablePtr is consumed, or was given back. */
    for (int i = 0; i < mvars_used && i < WORDS; i++)
        if (mvar_given[i] == 1 && load(&puts_of[i]) != 1 && !loose)
            fail("MVAR %d was filled %u times when all was over", i, load(&puts_of[i]));
    for (thing *t = things; t < things + things_made; t++) {
        int one_shot = (t->kind == FD && t->mode == BELL_ONESHOT) || (t->kind == TIMEOUT && !t->period);
        if (loose && one_shot && !t->mixed && !t->closed && t->answer == BELL_CANCELLED &&
            t->told + 1 > (t->arms ? t->arms : 1)) /* an MVAR is given back also when it was never armed */
            fail("h%d: armed %u times, told %u times, yet cancelled", index_of(t), t->arms, t->told);
        if (loose && one_shot && !t->mixed && !t->closed && t->told > t->arms)
            fail("h%d: armed %u times, told %u times", index_of(t), t->arms, t->told);
        if (t->live && t->kind == FD && t->armed == YES && t->to.kind == BELL_TARGET_FUTEX && !loose &&
            !is_ghostly(t) && !(load(&words[t->to.at]) & BELL_CLOSED))
            fail("h%d was armed when the manager ended, and its word has no BELL_CLOSED: %#x", index_of(t),
                 load(&words[t->to.at]));
        t->live = 0;
    }
    observe();
    for (int s = 0; s < SPOTS; s++)
        if (world[s].open)
            close(number(s));
    if (lowest_fd() != lowest)
        fail("fd %d is left over", lowest);
    if (common->execs % 16 == 0 && open_fds() != mask)
        fail("fds are left over: %#" PRIx64 ", before %#" PRIx64, open_fds(), mask);
    if (in_child) {
        fflush(NULL);
        _exit(0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static shared alone;
    if (!common)
        common = &alone;
    run_program(bytes, size);
    common->execs++;
    return 0;
}

#ifndef FUZZ_LIBFUZZER
/* ---- programs from a seed ---- */

static uint64_t state;

static uint64_t draw(void) /* splitmix64 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* Half of the programs keep to a few functions, which go deeper. */
static uint32_t draw_program(uint8_t *bytes, uint64_t seed)
{
    uint8_t few[8];
    state = seed;
    uint32_t steps = 4 + (uint32_t)(draw() % (MOST_STEPS - 4)), kinds = draw() % 2 ? 3 + (uint32_t)(draw() % 6) : 0;
    uint32_t size = HEAD + STEP * steps;
    for (uint32_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(draw() >> 24);
    for (uint32_t i = 0; i < kinds; i++)
        few[i] = i == 0 ? (uint8_t)(draw() % weights[0]) : (uint8_t)draw(); /* always some fds */
    for (uint32_t i = 0; kinds && i < steps; i++)
        bytes[HEAD + STEP * i] = few[draw() % kinds];
    return size;
}

/* ---- whoever watches ---- */

static void run_here(const uint8_t *bytes, uint32_t size)
{
    memcpy(common->program, bytes, size);
    common->size = size;
    alarm(LIMIT_SECONDS);
    LLVMFuzzerTestOneInput(common->program, size);
}

/* In a child of its own: does it fail? `quiet`: without a word. */
static int fails(const uint8_t *bytes, uint32_t size, int quiet, int tries)
{
    for (int i = 0; i < tries; i++) {
        int status;
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            careful = 1;
            if (quiet) {
                int null = open("/dev/null", O_WRONLY);
                dup2(null, 2);
                close(null);
            }
            run_here(bytes, size);
            exit(0);
        }
        waitpid(child, &status, 0);
        if (status != 0)
            return 1;
    }
    return 0;
}

static uint32_t shrink(uint8_t *bytes, uint32_t size, int tries)
{
    uint8_t less[MOST_BYTES];
    for (uint32_t chunk = (size - HEAD) / STEP / 2; chunk >= 1; chunk /= 2)
        for (uint32_t at = 0; HEAD + STEP * (at + chunk) <= size;) {
            uint32_t from = HEAD + STEP * at, to = from + STEP * chunk;
            memcpy(less, bytes, from);
            memcpy(less + from, bytes + to, size - to);
            if (fails(less, size - (to - from), 1, tries)) {
                size -= to - from;
                memcpy(bytes, less, size);
            } else
                at += chunk;
        }
    return size;
}

static void write_program(const char *folder, const char *prefix, const uint8_t *bytes, uint32_t size, char *path)
{
    snprintf(path, 512, "%s/%s%016" PRIx64, folder, prefix, hash_bytes(bytes, size));
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0)
        fail("%s cannot be written", path);
}

/* The program in `common` has ended the worker. */
static void report(const char *from, int status)
{
    static uint8_t bytes[MOST_BYTES];
    uint32_t size = common->size;
    uint64_t execs = common->execs, calls = common->calls;
    char path[512];
    memcpy(bytes, common->program, size);
    if (WIFSIGNALED(status))
        fprintf(stderr, "fuzz: ended by signal %d (%s)%s\n", WTERMSIG(status), strsignal(WTERMSIG(status)),
                WTERMSIG(status) == SIGALRM ? ": a hang" : "");
    int tries = bytes[1] % 16 < 2 ? 20 : 2;
    int again = !(WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) && fails(bytes, size, 1, tries);
    if (again)
        size = shrink(bytes, size, tries);
    else
        fprintf(stderr, "fuzz: not shrunk: a hang, or it did not happen again\n");
    write_program(".", "failed-", bytes, size, path);
    fprintf(stderr, "fuzz: FAILED: %s%s; %u calls are left of it, in %s:\n", io_uring ? "--io-uring, " : "", from,
            (size - HEAD) / STEP, path);
    verbose = 1;
    fails(bytes, size, 0, again ? tries : 1);
    verbose = 0;
    common->execs = execs;
    common->calls = calls;
    common->failures++;
}

typedef struct source {
    /* A seed and how many, or until when; else a file. */
    uint64_t seed, to;
    int64_t until;
    const char *path;
} source;

static int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* What the worker does; it stays alive for all programs, unless one fails. */
static void work(const source *s)
{
    uint8_t bytes[MOST_BYTES];
    if (s->path) {
        FILE *file = fopen(s->path, "rb");
        if (!file)
            fail("%s cannot be read", s->path);
        uint32_t size = (uint32_t)fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        run_here(bytes, size);
        return;
    }
    int64_t said = clock_ns();
    while (common->drawn < s->to && (s->until == 0 || clock_ns() < s->until)) {
        uint32_t size = draw_program(bytes, s->seed + common->drawn++);
        run_here(bytes, size);
        if (clock_ns() - said > 10000000000) {
            said = clock_ns();
            printf("fuzz: %" PRIu64 " programs, %" PRIu64 " calls\n", common->execs, common->calls);
            fflush(stdout);
        }
    }
}

static void watch(const source *s)
{
    char from[600];
    common->drawn = 0;
    for (int again = 1; again && common->failures < 5;) {
        int status;
        fflush(NULL);
        common->size = 0;
        pid_t child = fork();
        if (child == 0) {
            work(s);
            exit(0);
        }
        waitpid(child, &status, 0);
        again = status != 0 && !s->path;
        if (status == 0)
            continue;
        if (s->path)
            snprintf(from, sizeof from, "%s", s->path);
        else
            snprintf(from, sizeof from, "seed %" PRIu64, s->seed + common->drawn - 1);
        if (common->size == 0) {
            fprintf(stderr, "fuzz: the worker ended with %#x outside of a program\n", (unsigned)status);
            common->failures++;
            return;
        }
        report(from, status);
    }
}

static uint64_t files;

static void replay(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0)
        fail("%s: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode)) {
        struct dirent **entries;
        int n = scandir(path, &entries, NULL, alphasort);
        for (int i = 0; i < n; i++) {
            char inside[1024];
            snprintf(inside, sizeof inside, "%s/%s", path, entries[i]->d_name);
            if (entries[i]->d_name[0] != '.')
                replay(inside);
            free(entries[i]);
        }
        free(entries);
        return;
    }
    files++;
    watch(&(source){.path = path});
}

/* Of `n` programs, writes those that together reach most; at each step the one that adds most. */
static void make_corpus(const char *folder, uint64_t n)
{
    enum { KEPT = 1024, FILES = 96, BYTES = sizeof common->covered };
    static uint64_t seeds[KEPT];
    static uint8_t reach[KEPT][BYTES], all[BYTES];
    int kept = 0, written = 0;
    uint8_t bytes[MOST_BYTES];
    char path[512];
    for (uint64_t seed = 1; seed <= n && kept < KEPT; seed++) {
        int fresh = 0;
        memset(common->covered, 0, BYTES);
        run_here(bytes, draw_program(bytes, seed));
        for (int i = 0; i < BYTES; i++) {
            fresh |= common->covered[i] & ~all[i];
            all[i] |= common->covered[i];
        }
        if (fresh) {
            seeds[kept] = seed;
            memcpy(reach[kept++], common->covered, BYTES);
        }
    }
    memset(common->covered, 0, BYTES);
    for (; written < FILES; written++) {
        int best = -1, most = 0;
        for (int k = 0; k < kept; k++) {
            int gain = 0;
            for (int i = 0; i < BYTES; i++)
                gain += __builtin_popcount(reach[k][i] & (uint8_t)~common->covered[i]);
            if (gain > most) {
                most = gain;
                best = k;
            }
        }
        if (best < 0)
            break;
        for (int i = 0; i < BYTES; i++)
            common->covered[i] |= reach[best][i];
        write_program(folder, "", bytes, draw_program(bytes, seeds[best]), path);
    }
    printf("fuzz: %d programs written\n", written);
}

static int has_io_uring(void)
{
    bell_config config;
    bell_t *with;
    bell_config_init(&config, sizeof config);
    config.flags = BELL_IO_URING;
    return bell_features(&features) == 0 && features & BELL_FEATURE_IO_URING && bell_create(&config, &with) == 0 &&
           bell_destroy(with, 0) == 0;
}

int main(int argc, char **argv)
{
    common = mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (common == MAP_FAILED)
        return 1;
    for (int i = 1; i < argc; i++) {
        source s = {.to = UINT64_MAX};
        if (!strcmp(argv[i], "--random") && i + 2 < argc) {
            s.seed = strtoull(argv[i + 1], NULL, 0);
            s.to = strtoull(argv[i + 2], NULL, 0);
            i += 2;
        } else if (!strcmp(argv[i], "--seconds") && i + 1 < argc) {
            s.until = clock_ns() + atoll(argv[++i]) * 1000000000;
        } else if (!strcmp(argv[i], "--corpus") && i + 2 < argc) {
            make_corpus(argv[i + 1], strtoull(argv[i + 2], NULL, 0));
            i += 2;
            continue;
        } else if (!strcmp(argv[i], "--io-uring")) {
            if (!has_io_uring())
                return puts("fuzz: skipped: no io_uring here"), 77;
            io_uring = 1;
            continue;
        } else if (!strcmp(argv[i], "--show") && i + 1 < argc) {
            verbose = 1;
            replay(argv[++i]);
            continue;
        } else {
            replay(argv[i]);
            continue;
        }
        if (s.seed == 0)
            s.seed = (uint64_t)time(NULL) * 1000003;
        printf("fuzz: seed %" PRIu64 "\n", s.seed);
        watch(&s);
    }
    uint64_t covered = 0;
    for (size_t i = 0; i < sizeof common->covered; i++)
        covered += (uint64_t)__builtin_popcount(common->covered[i]);
    printf("fuzz: execs=%" PRIu64 " calls=%" PRIu64 " corpus=%" PRIu64 " reached=%" PRIu64 " failures=%" PRIu64 "\n",
           common->execs, common->calls, files, covered, common->failures);
    return common->failures != 0;
}
#endif
