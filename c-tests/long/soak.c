/* Soak: every fd the limit allows is watched, some are busy, registrations and fds come and go, children are forked and
 * executed every second, signals come at 1 kHz. Descriptors and memory must stay flat, nothing may be lost, and a
 * still library must not wake.
 *
 *     soak [seconds]        600 unless told
 *
 * Its last line is for machines. Exit code 0: all held. */
#define _GNU_SOURCE
#include "../c/check.h"
#include <spawn.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>

enum { LANES = 4, BUSY = 64, SPARE = 1 };

typedef struct lane {
    bell_t *bell;
    int number;
    uint32_t stop;
    uint64_t sent, got, timeouts, refused;
    int fds[BUSY];
    bell_handle handles[BUSY];
} lane;

static lane lanes[LANES];
static uint64_t ticks;

static void tick(int number)
{
    (void)number;
    __atomic_fetch_add(&ticks, 1, __ATOMIC_RELAXED);
}

static uint32_t mode_of(int i)
{
    return has_edge() && i % 2 ? BELL_EDGE : BELL_ONESHOT;
}

/* At the limit, an fd may have to wait until a child has been made. */
static int eventfd_soon(lane *l)
{
    for (;;) {
        int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (fd >= 0)
            return fd;
        CHECK(errno == EMFILE);
        l->refused++;
        sched_yield();
    }
}

static void wait_for(lane *l, int i)
{
    uint64_t value;
    while (read(l->fds[i], &value, 8) != 8) {
        CHECK(errno == EAGAIN || errno == EINTR);
        if (errno == EINTR)
            continue;
        int32_t r = bell_slot_wait(l->bell, l->handles[i], BELL_READ, now_ns() + PATIENCE, 0);
        CHECK(r == -EINTR || r > 0);
        if (r > 0 && mode_of(i) == BELL_ONESHOT)
            CHECK_EQ(bell_rearm(l->bell, l->handles[i], NULL, BELL_NEVER), 0);
    }
    l->got += value;
}

static void come_and_go(lane *l, int i, unsigned n)
{
    int32_t r = n % 3 ? bell_close_fd(l->bell, l->fds[i]) : 0;
    CHECK_EQ(r, 0);
    r = bell_unregister(l->bell, l->handles[i], n % 2 ? BELL_SYNC : 0);
    CHECK(r == BELL_CANCELLED || r == BELL_FIRED);
    if (n % 3 == 0)
        CHECK_EQ(close(l->fds[i]), 0);
    l->fds[i] = eventfd_soon(l);
    l->handles[i] = watch(l->bell, l->fds[i], BELL_READ, mode_of(i), to_slot());
}

static void *live(void *argument)
{
    lane *l = argument;
    unsigned random = (unsigned)l->number + 1;
    for (unsigned n = 0; !load(&l->stop); n++) {
        random = random * 1664525 + 1013904223;
        int i = (int)(random >> 16) % BUSY;
        uint64_t one = 1;
        CHECK_EQ(write(l->fds[i], &one, 8), 8);
        l->sent++;
        wait_for(l, i);
        if (n % 16 == 0)
            come_and_go(l, i, n / 16);
        if (n % 8 == 0) {
            int64_t deadline = now_ns() + US(random % 2000);
            bell_handle t = set_timeout(l->bell, deadline, to_slot());
            if (n % 64 == 0) {
                int32_t r;
                while ((r = bell_slot_wait(l->bell, t, BELL_READ, now_ns() + PATIENCE, 0)) == -EINTR)
                    ;
                CHECK_EQ(r, BELL_TIMEOUT);
                CHECK_GE(now_ns(), deadline);
                l->timeouts++;
            }
            CHECK_OK(bell_unregister(l->bell, t, 0));
        }
    }
    return NULL;
}

static long resident_kb(void)
{
    long pages = 0, all = 0;
    FILE *f;
    while (!(f = fopen("/proc/self/statm", "re")))
        CHECK_EQ(errno, EMFILE); /* a lane has taken the last one, for a moment */
    CHECK_EQ(fscanf(f, "%ld %ld", &all, &pages), 2);
    fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* A child that takes the library over and uses it, and one that becomes another program. */
static void have_children(bell_t *bell)
{
    int status;
    pid_t child;
    CHECK_EQ(bell_before_fork(bell), 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60);
        /* It has room: the lanes' fds are its own now. */
        for (int i = 0; i < BUSY; i++)
            close(lanes[0].fds[i]);
        if (bell_after_fork_child(bell, 0) != 0)
            _exit(1);
        bell_handle t = 0;
        bell_timeout_spec spec = timeout_spec(now_ns() + MS(1), to_slot());
        if (bell_register_timeout(bell, &spec, &t) != 0)
            _exit(2);
        if (bell_slot_wait(bell, t, BELL_READ, now_ns() + PATIENCE, 0) != BELL_TIMEOUT)
            _exit(3);
        _exit(bell_destroy(bell, BELL_FORCE) == 0 ? 0 : 4);
    }
    CHECK_EQ(bell_after_fork_parent(bell), 0);
    while (waitpid(child, &status, 0) < 0)
        CHECK(errno == EINTR);
    CHECK_EQ(status, 0);
    char *words[] = {"true", NULL}, *nothing[] = {NULL};
    CHECK_EQ(posix_spawn(&child, "/bin/true", NULL, NULL, words, nothing), 0);
    while (waitpid(child, &status, 0) < 0)
        CHECK(errno == EINTR);
    CHECK_EQ(status, 0);
}

int main(int argc, char **argv)
{
    long seconds = argc > 1 ? atol(argv[1]) : 600;
    if (argc > 2 || seconds < 10) {
        fprintf(stderr, "usage: soak [seconds]   at least 10; 600 unless told\n");
        return 2;
    }
    struct rlimit limit;
    int inherited = live_fds();
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_max < limit.rlim_cur)
        limit.rlim_cur = limit.rlim_max;
    else if (limit.rlim_max <= 100000)
        limit.rlim_cur = limit.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);

    bell_t *bell = make_bell(2, 2);
    for (int l = 0; l < LANES; l++) {
        lanes[l].bell = bell;
        lanes[l].number = l;
        for (int i = 0; i < BUSY; i++) {
            lanes[l].fds[i] = make_eventfd();
            lanes[l].handles[i] = watch(bell, lanes[l].fds[i], BELL_READ, mode_of(i), to_slot());
        }
    }
    /* All the others are watched too, and silent. */
    int *silent = calloc(limit.rlim_cur, sizeof *silent), silents = 0, spare[SPARE];
    bell_handle *silent_handles = calloc(limit.rlim_cur, sizeof *silent_handles);
    CHECK(silent && silent_handles);
    for (int i = 0; i < SPARE; i++)
        spare[i] = make_eventfd();
    for (int fd; (fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) >= 0; silents++) {
        silent[silents] = fd;
        silent_handles[silents] = watch(bell, fd, BELL_READ, mode_of(silents), to_slot());
    }
    CHECK(errno == EMFILE);
    for (int i = 0; i < SPARE; i++)
        CHECK_EQ(close(spare[i]), 0);

    struct sigaction act = {.sa_handler = tick};
    struct itimerval khz = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    CHECK_EQ(sigaction(SIGALRM, &act, NULL), 0);
    pthread_t threads[LANES];
    for (int l = 0; l < LANES; l++)
        threads[l] = start_thread(live, &lanes[l]);
    CHECK_EQ(setitimer(ITIMER_REAL, &khz, NULL), 0);

    int64_t begin = now_ns(), next = begin + SEC(1);
    int fds_first = 0, fds_now = 0, fds_min = 1 << 30, fds_max = 0;
    long rss_first = 0, rss_now = 0, forks = 0;
    while (now_ns() < begin + SEC(seconds)) {
        struct timespec rest = {0, 10000000};
        nanosleep(&rest, NULL);
        if (now_ns() < next)
            continue;
        next += SEC(1);
        have_children(bell);
        forks += 2;
        rss_now = resident_kb();
        long passed = (long)((now_ns() - begin) / SEC(1));
        if (passed >= 5 && !rss_first) /* warm */
            rss_first = rss_now;
        bell_counters c = stats_of(bell);
        fds_now = (int)c.fds;
        if (!fds_first)
            fds_first = fds_now;
        fds_min = fds_now < fds_min ? fds_now : fds_min;
        fds_max = fds_now > fds_max ? fds_now : fds_max;
        if (passed % 10 == 0)
            fprintf(stderr, "%4ld s of %ld: fds %d, events %" PRIu64 ", resident %ld kB, forks %ld, signals %" PRIu64 "\n",
                    passed, seconds, fds_now, c.events, rss_now, forks, __atomic_load_n(&ticks, __ATOMIC_RELAXED));
    }
    CHECK_EQ(setitimer(ITIMER_REAL, &off, NULL), 0);
    for (int l = 0; l < LANES; l++)
        store(&lanes[l].stop, 1);
    uint64_t sent = 0, got = 0, timeouts = 0, refused = 0;
    for (int l = 0; l < LANES; l++) {
        join_thread(threads[l]);
        sent += lanes[l].sent;
        got += lanes[l].got;
        timeouts += lanes[l].timeouts;
        refused += lanes[l].refused;
    }
    check_verified(bell);

    /* A still library sleeps. */
    struct timespec still = {5, 0};
    uint64_t waits = stats_of(bell).kernel_waits;
    nanosleep(&still, NULL);
    uint64_t idle_wakeups = stats_of(bell).kernel_waits - waits;
    uint64_t events = stats_of(bell).events, ghosts = stats_of(bell).ghosts;
    long drift = rss_now - rss_first;

    for (int i = 0; i < silents; i++) {
        CHECK_EQ(bell_unregister(bell, silent_handles[i], 0), BELL_CANCELLED);
        CHECK_EQ(close(silent[i]), 0);
    }
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < BUSY; i++) {
            CHECK_OK(bell_unregister(bell, lanes[l].handles[i], BELL_SYNC));
            CHECK_EQ(close(lanes[l].fds[i]), 0);
        }
    check_clean(bell);
    CHECK_EQ(live_fds(), inherited);

    /* The lanes come and go: a few fds of each may be between the two at the moment of counting. */
    int flat = fds_max - fds_min <= 2 * LANES;
    int held = got == sent && flat && drift < 2048 && idle_wakeups == 0 && ghosts == 0 && sent > 0 && timeouts > 0;
    printf("soak: seconds=%ld fds=%d fds_drift=%d events=%" PRIu64 " lost=%" PRIu64 " timeouts=%" PRIu64
           " forks=%ld signals=%" PRIu64 " emfile=%" PRIu64 " rss_drift_kb=%ld idle_wakeups=%" PRIu64 " %s\n",
           seconds, fds_now, fds_max - fds_min, events, sent - got, timeouts, forks, ticks, refused, drift, idle_wakeups,
           held ? "holds" : "FAILED");
    return held ? 0 : 1;
}
