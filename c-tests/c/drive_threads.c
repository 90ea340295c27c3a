/* Driving by the library's own threads: they deliver, and are neither seen nor heard otherwise. */
#define _GNU_SOURCE
#include "check.h"
#include <limits.h>
#include <sched.h>
#include <sys/syscall.h>

enum { MOST = 64 };

/* The ids of the threads of this process. */
static int list_tasks(int *ids)
{
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;
    int n = 0;
    CHECK(dir != NULL);
    while ((entry = readdir(dir)))
        if (entry->d_name[0] != '.' && n < MOST)
            ids[n++] = atoi(entry->d_name);
    closedir(dir);
    return n;
}

static int count_tasks(void)
{
    int ids[MOST];
    return list_tasks(ids);
}

/* The threads that are there now and not among `before`. */
static int new_tasks(const int *before, int n_before, int *ids)
{
    int all[MOST], n = list_tasks(all), found = 0;
    for (int i = 0; i < n; i++) {
        int known = 0;
        for (int k = 0; k < n_before; k++)
            known |= before[k] == all[i];
        if (!known)
            ids[found++] = all[i];
    }
    return found;
}

static uint32_t mode(void)
{
    return has_edge() ? BELL_EDGE : BELL_ONESHOT;
}

static uint32_t puts_total, dones;

static void recording_putmvar(int32_t capability, void *stable_ptr)
{
    fake_try_putmvar(capability, stable_ptr);
    add(&puts_total, 1);
}

static void recording_thread_done(void)
{
    add(&dones, 1);
}

static bell_t *make_recording_bell(uint32_t threads)
{
    bell_ghc_ops ghc = {.size = sizeof ghc,
                        .try_putmvar = recording_putmvar,
                        .thread_done = recording_thread_done};
    bell_config config;
    bell_t *bell = NULL;
    CHECK_OK(bell_config_init(&config, sizeof config));
    config.threads = threads;
    config.ghc = &ghc; /* copied: it may go away */
    CHECK_OK(bell_create(&config, &bell));
    memset(&ghc, 0, sizeof ghc);
    return bell;
}

/* ---- each target, with 1 and with 2 threads ---- */

static void slots_are_filled(uint32_t threads)
{
    bell_t *bell = make_bell(0, threads);
    int fds[2];
    make_sockets(fds);
    bell_fd_spec spec = fd_spec(fds[0], BELL_READ, mode(), to_slot());
    bell_handle h;
    bell_slot *slot;
    spec.shard = threads - 1;
    CHECK_OK(bell_register_fd(bell, &spec, &h));
    CHECK_EQ(bell_slot_map(bell, h, &slot), 0);
    for (int i = 0; i < rounds(1000); i++) {
        put_byte(fds[1]);
        if (i % 2)
            CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
        else {
            AWAIT(load(&slot->rd) & BELL_READ); /* the memory alone tells it */
            CHECK_EQ(bell_slot_take(&slot->rd), BELL_READ);
        }
        CHECK_EQ(drain_fd(fds[0]), 1);
        if (mode() == BELL_ONESHOT)
            CHECK_EQ(bell_rearm(bell, h, NULL, BELL_NEVER), 0);
    }
    CHECK_OK(bell_unregister(bell, h, 0));
    for (int i = 0; i < rounds(50); i++) {
        int64_t deadline = now_ns() + US(i * 50);
        bell_handle t = set_timeout(bell, deadline, to_slot());
        CHECK_EQ(bell_slot_wait(bell, t, BELL_READ, now_ns() + PATIENCE, 0), BELL_TIMEOUT);
        CHECK_GE(now_ns(), deadline);
        CHECK_EQ(bell_unregister(bell, t, 0), BELL_FIRED);
    }
    close_pair(fds);
    check_clean(bell);
}

static void do_library_threads_fill_slots(void)
{
    slots_are_filled(1);
    slots_are_filled(2);
}

static void futex_words_are_filled(uint32_t threads)
{
    bell_t *bell = make_bell(0, threads);
    uint32_t word = 0, deliveries = 0;
    bell_target target = to_futex(&word);
    bell_handle h;
    CHECK_OK(bell_register_user(bell, threads - 1, &target, 0, &h));
    for (int i = 0; i < rounds(1000); i++) {
        uint32_t before = load(&word);
        CHECK_EQ(bell_post(bell, h, 1), 0);
        AWAIT(load(&word) & BELL_USER);
        deliveries += (load(&word) - before) / BELL_SEQ;
        CHECK_EQ(bell_slot_take(&word), BELL_USER);
    }
    CHECK_EQ(deliveries, rounds(1000));
    CHECK_OK(bell_unregister(bell, h, BELL_SYNC));
    for (int i = 0; i < rounds(50); i++) {
        int64_t deadline = now_ns() + US(i * 50);
        word = 0;
        h = set_timeout(bell, deadline, to_futex(&word));
        AWAIT(load(&word));
        CHECK_GE(now_ns(), deadline);
        CHECK_EQ(bell_slot_take(&word), BELL_TIMEOUT);
        CHECK_EQ(bell_unregister(bell, h, BELL_SYNC), BELL_FIRED);
    }
    check_clean(bell);
}

static void do_library_threads_fill_futex_words(void)
{
    futex_words_are_filled(1);
    futex_words_are_filled(2);
}

static void wake_fds_are_written(uint32_t threads)
{
    bell_t *bell = make_bell(0, threads);
    int wake = make_eventfd(), bytes[2], source = make_eventfd();
    make_pipe(bytes);
    bell_handle a = watch(bell, source, BELL_READ, BELL_ONESHOT, to_eventfd(wake));
    bell_handle b = watch(bell, source, BELL_READ, BELL_ONESHOT, to_byte(bytes[1]));
    for (int i = 0; i < rounds(500); i++) {
        CHECK_EQ(eventfd_write(source, 1), 0);
        struct pollfd p[2] = {{.fd = wake, .events = POLLIN}, {.fd = bytes[0], .events = POLLIN}};
        CHECK_EQ(poll(&p[0], 1, 60000), 1);
        CHECK_EQ(poll(&p[1], 1, 60000), 1);
        eventfd_t value = 0;
        CHECK_EQ(eventfd_read(wake, &value), 0);
        CHECK_EQ(value, 1);
        CHECK_EQ(drain_fd(bytes[0]), 1);
        CHECK_EQ(drain_fd(source), 8);
        CHECK_EQ(bell_rearm(bell, a, NULL, BELL_NEVER), 0);
        CHECK_EQ(bell_rearm(bell, b, NULL, BELL_NEVER), 0);
    }
    CHECK_EQ(bell_unregister(bell, a, BELL_SYNC), BELL_CANCELLED);
    CHECK_EQ(bell_unregister(bell, b, BELL_SYNC), BELL_CANCELLED);
    CHECK_EQ(close(wake), 0);
    CHECK_EQ(close(source), 0);
    close_pair(bytes);
    check_clean(bell);
}

static void do_library_threads_write_wake_fds(void)
{
    wake_fds_are_written(1);
    wake_fds_are_written(2);
}

static void queues_are_filled(uint32_t threads)
{
    enum { SOURCES = 10 };
    bell_t *bell = make_bell(0, threads);
    uint32_t doorbell = 0;
    bell_target target = to_futex(&doorbell);
    bell_handle queue, h[SOURCES];
    int fds[SOURCES];
    CHECK_OK(bell_queue_create(bell, 0, &target, &queue));
    for (int i = 0; i < SOURCES; i++) {
        fds[i] = make_eventfd();
        bell_fd_spec spec = fd_spec(fds[i], BELL_READ, BELL_ONESHOT, to_queue(queue));
        spec.shard = (uint32_t)i % threads; /* the shards of both threads feed one queue */
        spec.user_data = (uint64_t)i;
        CHECK_OK(bell_register_fd(bell, &spec, &h[i]));
    }
    for (int round = 0; round < rounds(300); round++) {
        for (int i = 0; i < SOURCES; i++)
            CHECK_EQ(eventfd_write(fds[i], 1), 0);
        int seen = 0;
        while (seen != (1 << SOURCES) - 1) {
            bell_event events[3];
            int32_t n = CHECK_OK(bell_queue_wait(bell, queue, events, 3, now_ns() + PATIENCE));
            CHECK(n >= 1 && n <= 3);
            for (int32_t k = 0; k < n; k++) {
                CHECK_EQ(events[k].ready, BELL_READ);
                CHECK_EQ(events[k].handle, h[events[k].user_data]);
                CHECK_EQ(seen >> events[k].user_data & 1, 0);
                seen |= 1 << events[k].user_data;
            }
        }
        for (int i = 0; i < SOURCES; i++) {
            CHECK_EQ(drain_fd(fds[i]), 8);
            CHECK_EQ(bell_rearm(bell, h[i], NULL, BELL_NEVER), 0);
        }
    }
    CHECK_HAS(load(&doorbell), BELL_READ); /* it has rung */
    for (int i = 0; i < SOURCES; i++) {
        CHECK_EQ(bell_unregister(bell, h[i], 0), BELL_CANCELLED);
        CHECK_EQ(close(fds[i]), 0);
    }
    CHECK_OK(bell_queue_destroy(bell, queue, BELL_SYNC));
    check_clean(bell);
}

static void do_library_threads_fill_queues(void)
{
    queues_are_filled(1);
    queues_are_filled(2);
}

static void mvars_are_put(uint32_t threads)
{
    enum { MVARS = 200 };
    static fake_mvar mvars[MVARS];
    bell_handle h[MVARS];
    int source = make_eventfd();
    memset(mvars, 0, sizeof mvars);
    store(&puts_total, 0);
    store(&dones, 0);
    bell_t *bell = make_recording_bell(threads);
    CHECK_EQ(eventfd_write(source, 1), 0);
    for (int i = 0; i < MVARS; i++) {
        if (i % 2) {
            bell_fd_spec spec = fd_spec(source, BELL_READ, BELL_ONESHOT, to_mvar(&mvars[i], i));
            spec.shard = (uint32_t)i / 2 % threads;
            CHECK_OK(bell_register_fd(bell, &spec, &h[i]));
        } else {
            bell_timeout_spec spec = timeout_spec(now_ns() + US(10 * i), to_mvar(&mvars[i], i));
            spec.shard = (uint32_t)i / 2 % threads;
            CHECK_OK(bell_register_timeout(bell, &spec, &h[i]));
        }
    }
    AWAIT(load(&puts_total) == MVARS);
    for (int i = 0; i < MVARS; i++) {
        CHECK_EQ(load(&mvars[i].puts), 1);
        CHECK_EQ(mvars[i].capability, i);
        CHECK_EQ(bell_unregister(bell, h[i], 0), BELL_FIRED);
    }
    /* Those that are armed when the manager ends are consumed as well; each thread says good-bye once. */
    memset(mvars, 0, sizeof mvars);
    CHECK_EQ(drain_fd(source), 8);
    for (int i = 0; i < MVARS; i++)
        h[i] = i % 2 ? set_timeout(bell, BELL_NEVER - 1, to_mvar(&mvars[i], i))
                     : watch(bell, source, BELL_READ, BELL_ONESHOT, to_mvar(&mvars[i], i));
    CHECK_EQ(bell_unregister(bell, h[7], 0), BELL_CANCELLED);
    CHECK_EQ(load(&dones), 0);
    check_verified(bell);
    CHECK_EQ(bell_destroy(bell, 0), 0);
    for (int i = 0; i < MVARS; i++)
        CHECK_EQ(load(&mvars[i].puts), i != 7);
    CHECK_EQ(load(&dones), threads);
    CHECK_EQ(close(source), 0);
}

static void do_library_threads_put_mvars_and_say_when_they_are_done(void)
{
    mvars_are_put(1);
    mvars_are_put(2);
}

/* ---- what does not go with library threads ---- */

static void are_bell_poll_and_its_targets_refused(void)
{
    for (uint32_t threads = 1; threads <= 2; threads++) {
        bell_t *bell = make_bell(threads, threads); /* shards may be said: the same number */
        bell_event e;
        bell_handle h = 0;
        bell_target poll = to_poll();
        bell_timeout_spec spec = timeout_spec(now_ns() + SEC(100), poll);
        int fd = make_eventfd();
        for (uint32_t s = 0; s < threads; s++) {
            CHECK_EQ(bell_poll(bell, s, &e, 1, 0), BELL_E_BUSY);
            CHECK_EQ(bell_poll(bell, s, &e, 1, BELL_NEVER), BELL_E_BUSY);
            CHECK_EQ(bell_pollable_fd(bell, s), BELL_E_UNSUPPORTED);
            CHECK_EQ(bell_wake(bell, s), 0);
        }
        CHECK_EQ(bell_poll(bell, threads, &e, 1, 0), -EINVAL);
        CHECK_EQ(try_watch(bell, fd, BELL_READ, BELL_ONESHOT, poll), BELL_E_UNSUPPORTED);
        CHECK_EQ(try_watch(bell, fd, BELL_READ, BELL_LEVEL, poll), BELL_E_UNSUPPORTED);
        CHECK_EQ(bell_register_timeout(bell, &spec, &h), BELL_E_UNSUPPORTED);
        CHECK_EQ(bell_register_user(bell, 0, &poll, 0, &h), BELL_E_UNSUPPORTED);
        CHECK_EQ(h, 0);
        h = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_slot());
        CHECK_EQ(bell_retarget(bell, h, &poll), BELL_E_UNSUPPORTED);
        CHECK_EQ(bell_rearm(bell, h, &poll, BELL_NEVER), BELL_E_UNSUPPORTED);
        CHECK_EQ(eventfd_write(fd, 1), 0);
        CHECK_EQ(bell_slot_wait(bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
        CHECK_EQ(close(fd), 0);
        check_clean(bell);
    }
}

/* ---- signals ---- */

static uint32_t signals_seen, signals_on_ours;
static int ours[MOST], n_ours;

static void record_thread(int number)
{
    int tid = (int)syscall(SYS_gettid);
    (void)number;
    add(&signals_seen, 1);
    for (int i = 0; i < n_ours; i++)
        if (ours[i] == tid)
            add(&signals_on_ours, 1);
}

static void *take_signals(void *argument)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGVTALRM);
    sigaddset(&set, SIGPROF);
    CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &set, NULL), 0);
    AWAIT(load(argument));
    return NULL;
}

static uint64_t blocked_signals(int tid)
{
    char path[64], line[256];
    unsigned long long bits = 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
    FILE *f = fopen(path, "r");
    CHECK(f != NULL);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "SigBlk: %llx", &bits) == 1)
            break;
    fclose(f);
    return bits;
}

static void museum_085_do_signals_never_reach_library_threads(void)
{
    int before[MOST], n_before = list_tasks(before);
    sigset_t set, mask_before, mask_after;
    struct sigaction action = {.sa_handler = record_thread, .sa_flags = SA_RESTART};
    static const int numbers[3] = {SIGUSR1, SIGVTALRM, SIGPROF};
    uint32_t stop = 0;
    sigemptyset(&mask_before);
    sigemptyset(&mask_after);
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, &mask_before), 0);
    bell_t *bell = make_bell(0, 2);
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, &mask_after), 0);
    for (int s = 1; s < 65; s++)
        CHECK_EQ(sigismember(&mask_after, s), sigismember(&mask_before, s));
    n_ours = new_tasks(before, n_before, ours);
    CHECK_EQ(n_ours, 2);
    for (int i = 0; i < n_ours && !slow(); i++) { /* valgrind keeps the masks of threads to itself */
        uint64_t bits = blocked_signals(ours[i]);
        for (int s = 1; s <= 64; s++) /* 32 and 33 belong to glibc, which lets nobody block them */
            if (s != SIGKILL && s != SIGSTOP && s != 32 && s != 33)
                CHECK_EQ((bits >> (s - 1)) & 1, 1);
    }
    sigemptyset(&set);
    for (int i = 0; i < 3; i++) {
        sigaddset(&set, numbers[i]);
        CHECK_EQ(sigaction(numbers[i], &action, NULL), 0);
    }
    /* Blocked here, so that the kernel must look for another thread; one volunteers. */
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
    pthread_t volunteer = start_thread(take_signals, &stop);
    uint32_t word = 0;
    for (int i = 0; i < rounds(10000); i++) {
        if (i % 100 == 0) {
            word = 0;
            bell_handle h = set_timeout(bell, now_ns(), to_futex(&word));
            AWAIT(load(&word));
            CHECK_EQ(bell_unregister(bell, h, BELL_SYNC), BELL_FIRED);
        }
        CHECK_EQ(kill(getpid(), numbers[i % 3]), 0);
    }
    AWAIT(load(&signals_seen) > 0);
    store(&stop, 1);
    join_thread(volunteer);
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, &mask_before, NULL), 0);
    fprintf(stderr, "  %u handlers ran\n", load(&signals_seen));
    CHECK_EQ(load(&signals_on_ours), 0);
    for (int i = 0; i < 3; i++)
        signal(numbers[i], SIG_DFL);
    check_clean(bell);
}

/* ---- names, and the end ---- */

static void read_name(int tid, char *name, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/comm", tid);
    FILE *f = fopen(path, "r");
    CHECK(f != NULL);
    CHECK(fgets(name, (int)size, f) != NULL);
    name[strcspn(name, "\n")] = 0;
    fclose(f);
}

static void do_library_threads_have_names_of_their_own(void)
{
    int before[MOST], n_before = list_tasks(before), ids[MOST];
    char mine[64], theirs[64];
    bell_t *bell = make_bell(0, 2);
    read_name(getpid(), mine, sizeof mine);
    CHECK_EQ(new_tasks(before, n_before, ids), 2);
    for (int i = 0; i < 2; i++) {
        int64_t start = now_ns();
        do { /* a thread may name itself after bell_create has returned */
            read_name(ids[i], theirs, sizeof theirs);
            CHECK_LT(now_ns() - start, PATIENCE);
        } while (!strcmp(mine, theirs));
        fprintf(stderr, "  \"%s\"\n", theirs);
        CHECK(strstr(theirs, "bell") != NULL);
    }
    check_clean(bell);
}

static void do_library_threads_end_at_destroy(void)
{
    int before = count_tasks();
    for (int i = 0; i < rounds(200); i++) {
        uint32_t threads = 1 + (uint32_t)i % 4;
        bell_t *bell = make_bell(0, threads);
        CHECK_EQ(count_tasks(), before + (int)threads);
        if (i % 3 == 0) {
            int source = make_eventfd();
            uint32_t word = 0;
            CHECK_EQ(eventfd_write(source, 1), 0);
            watch(bell, source, BELL_READ, mode(), to_futex(&word));
            set_timeout(bell, now_ns() + US(20), to_futex(&word));
            CHECK_EQ(bell_destroy(bell, i % 2 ? BELL_FORCE : 0), 0);
            CHECK_EQ(close(source), 0);
        } else
            CHECK_EQ(bell_destroy(bell, 0), 0);
        /* Joined; the kernel may list it for a moment longer. */
        AWAIT(count_tasks() == before);
    }
}

typedef struct inside {
    bell_t *bell;
    bell_handle handle;
    int queue;
    int32_t result;
} inside;

static void *be_inside(void *argument)
{
    inside *w = argument;
    bell_event e;
    w->result = w->queue ? bell_queue_wait(w->bell, w->handle, &e, 1, BELL_NEVER)
                         : bell_slot_wait(w->bell, w->handle, BELL_READ, BELL_NEVER, 0);
    return NULL;
}

static void does_destroy_by_force_free_waiters_of_library_threads(void)
{
    enum { WAITERS = 6 };
    for (int round = 0; round < rounds(100); round++) {
        bell_t *bell = make_bell(0, 1 + (uint32_t)round % 2);
        inside w[WAITERS];
        pthread_t threads[WAITERS];
        for (int i = 0; i < WAITERS; i++) {
            w[i] = (inside){.bell = bell, .queue = i % 2};
            w[i].handle = i % 2 ? make_queue(bell, NULL) : set_timeout(bell, BELL_NEVER - 1, to_slot());
            threads[i] = start_thread(be_inside, &w[i]);
        }
        AWAIT(stats_of(bell).waiters == WAITERS);
        CHECK_EQ(bell_destroy(bell, 0), BELL_E_BUSY);
        CHECK_EQ(stats_of(bell).waiters, WAITERS);
        CHECK_EQ(bell_destroy(bell, BELL_FORCE), 0);
        for (int i = 0; i < WAITERS; i++) {
            join_thread(threads[i]);
            CHECK_EQ(w[i].result, BELL_E_CLOSED);
        }
    }
}

typedef struct storm {
    bell_t *bell;
    uint32_t stop;
    uint32_t rounds;
} storm;

static void *come_and_go(void *argument)
{
    storm *s = argument;
    while (!load(&s->stop)) {
        /* The word is on the heap and is freed as soon as it may be. */
        uint32_t *word = calloc(1, sizeof *word);
        int fd = make_eventfd();
        CHECK(word != NULL);
        CHECK_EQ(eventfd_write(fd, 1), 0);
        bell_fd_spec spec = fd_spec(fd, BELL_READ, BELL_ONESHOT, to_futex(word));
        bell_handle h;
        spec.shard = BELL_SHARD_ANY;
        CHECK_OK(bell_register_fd(s->bell, &spec, &h));
        bell_handle t = set_timeout(s->bell, now_ns() + US(1), to_futex(word));
        int32_t a = bell_unregister(s->bell, h, BELL_SYNC), b = bell_unregister(s->bell, t, BELL_SYNC);
        CHECK(a == BELL_FIRED || a == BELL_CANCELLED);
        CHECK(b == BELL_FIRED || b == BELL_CANCELLED);
        CHECK_EQ(!!(load(word) & BELL_READ), a == BELL_FIRED);
        CHECK_EQ(!!(load(word) & BELL_TIMEOUT), b == BELL_FIRED);
        memset(word, 0xDD, sizeof *word);
        free(word);
        CHECK_EQ(close(fd), 0);
        add(&s->rounds, 1);
    }
    return NULL;
}

static void may_words_be_freed_after_unregister_with_sync(void)
{
    enum { THREADS = 4 };
    storm s = {.bell = make_bell(0, 2)};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        threads[i] = start_thread(come_and_go, &s);
    AWAIT(load(&s.rounds) > (uint32_t)rounds(on_io_uring() ? 2000 : 20000));
    store(&s.stop, 1);
    for (int i = 0; i < THREADS; i++)
        join_thread(threads[i]);
    check_clean(s.bell);
}

int main(void)
{
    RUN(do_library_threads_fill_slots);
    RUN(do_library_threads_fill_futex_words);
    RUN(do_library_threads_write_wake_fds);
    RUN(do_library_threads_fill_queues);
    RUN(do_library_threads_put_mvars_and_say_when_they_are_done);
    RUN(are_bell_poll_and_its_targets_refused);
    RUN(museum_085_do_signals_never_reach_library_threads);
    RUN(do_library_threads_have_names_of_their_own);
    RUN(do_library_threads_end_at_destroy);
    RUN(does_destroy_by_force_free_waiters_of_library_threads);
    RUN(may_words_be_freed_after_unregister_with_sync);
    return 0;
}
