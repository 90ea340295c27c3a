#define _GNU_SOURCE 1
/* Does a slot tell each piece of news to one waiter, in its direction, and when does a wait end? */
#include "check.h"

#include <sys/mman.h>

static void the_two_words_are_independent(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_slot *slot = NULL;
    bell_handle handle;
    uint32_t rd, wr; /* as they start: the counts may be those of an earlier use of the place */
    int fds[2];
    make_sockets(fds);
    fill_fd(fds[0]);
    handle = watch(bell, fds[0], BELL_READ | BELL_WRITE, BELL_ONESHOT, to_slot());
    CHECK_EQ(bell_slot_map(bell, handle, &slot), 0);
    CHECK(slot != NULL && (uintptr_t)slot % 4 == 0);
    turn(bell);
    rd = load(&slot->rd);
    wr = load(&slot->wr);
    CHECK_EQ(rd & (BELL_SEQ - 1), 0);
    CHECK_EQ(wr & (BELL_SEQ - 1), 0);
    put_byte(fds[1]);
    turn(bell);
    CHECK_EQ(load(&slot->rd) & (BELL_SEQ - 1), BELL_READ);
    CHECK_EQ(load(&slot->wr), wr);
    CHECK_EQ(bell_slot_consume(bell, handle, BELL_WRITE), 0);
    CHECK_EQ(bell_slot_consume(bell, handle, BELL_READ), BELL_READ);
    CHECK_EQ(bell_slot_consume(bell, handle, BELL_READ), 0);
    CHECK_EQ(load(&slot->rd), rd + BELL_SEQ); /* one delivery was counted */
    drain_fd(fds[0]);
    drain_fd(fds[1]);
    CHECK_OK(bell_rearm(bell, handle, NULL, BELL_NEVER));
    turn(bell);
    CHECK_EQ(load(&slot->rd), rd + BELL_SEQ);
    CHECK_EQ(bell_slot_take(&slot->wr), BELL_WRITE);
    CHECK_EQ(bell_slot_take(&slot->wr), 0);
    CHECK_EQ(load(&slot->wr), wr + BELL_SEQ);
    /* Both. */
    put_byte(fds[1]);
    CHECK_OK(bell_rearm(bell, handle, NULL, BELL_NEVER));
    turn(bell);
    CHECK_EQ(bell_slot_take(&slot->rd), BELL_READ);
    CHECK_EQ(bell_slot_take(&slot->wr), BELL_WRITE);
    /* HUP is of interest to both directions. */
    CHECK(close(fds[1]) == 0);
    CHECK_OK(bell_rearm(bell, handle, NULL, BELL_NEVER));
    turn(bell);
    CHECK_HAS(bell_slot_take(&slot->rd), BELL_HUP | BELL_RDHUP);
    CHECK_EQ(load(&slot->wr) & (BELL_HUP | BELL_RDHUP), BELL_HUP);
    CHECK_HAS(bell_slot_wait(bell, handle, BELL_WRITE, BELL_NEVER, 0), BELL_HUP);
    CHECK_EQ(bell_unregister(bell, handle, 0), BELL_FIRED);
    CHECK_HAS(load(&slot->rd), BELL_CANCELLED); /* a late reader sees bits, never a fault */
    CHECK_HAS(load(&slot->wr), BELL_CANCELLED);
    CHECK(close(fds[0]) == 0);
    check_clean(bell);
}

static void the_wrong_target_and_the_wrong_words_are_refused(void)
{
    bell_t *bell = make_bell_ghc(1, 0);
    bell_slot *slot = (bell_slot *)&bell;
    bell_handle handle;
    int fds[2];
    make_sockets(fds);
    for (int kind = 0; kind < LAND_KINDS; kind++) {
        landing l;
        if (kind == LAND_SLOT)
            continue;
        landing_open(&l, kind, bell);
        landing_watch(&l, fds[0], BELL_READ, BELL_ONESHOT);
        CHECK_EQ(bell_slot_map(bell, l.handle, &slot), -EINVAL);
        CHECK(slot == (bell_slot *)&bell);
        CHECK_EQ(bell_slot_consume(bell, l.handle, BELL_READ), -EINVAL);
        CHECK_EQ(bell_slot_wait(bell, l.handle, BELL_READ, BELL_NEVER, 0), -EINVAL);
        CHECK_EQ(landing_end(&l), BELL_CANCELLED);
    }
    handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
    CHECK_EQ(bell_slot_map(bell, handle, NULL), -EINVAL);
    CHECK_EQ(bell_slot_consume(bell, handle, 0), -EINVAL);
    CHECK_EQ(bell_slot_consume(bell, handle, BELL_READ | BELL_WRITE), -EINVAL);
    CHECK_EQ(bell_slot_consume(bell, handle, BELL_PRI), -EINVAL);
    CHECK_EQ(bell_slot_wait(bell, handle, BELL_PRI, 0, 0), -EINVAL);
    CHECK_EQ(bell_slot_wait(bell, handle, BELL_READ | BELL_WRITE, 0, 0), -EINVAL);
    CHECK_EQ(bell_slot_wait(bell, handle, BELL_READ, -1, 0), -EINVAL);
    CHECK_EQ(bell_slot_wait(bell, handle, BELL_READ, 0, 2), -EINVAL);
    CHECK_EQ(bell_slot_wait(bell, handle, BELL_READ, 0, UINT32_MAX), -EINVAL);
    CHECK_OK(bell_unregister(bell, handle, 0));
    CHECK_EQ(bell_slot_map(bell, handle, &slot), BELL_E_STALE);
    CHECK_EQ(bell_slot_consume(bell, handle, BELL_READ), BELL_E_STALE);
    CHECK_EQ(bell_slot_wait(bell, handle, BELL_READ, BELL_NEVER, 0), BELL_E_STALE);
    close_pair(fds);
    check_clean(bell);
}

static void deadline_zero_only_looks(void)
{
    bell_t *bell = make_bell(1, 0);
    bell_handle user = make_user(bell, to_slot());
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(bell_slot_wait(bell, user, BELL_READ, 0, 0), -ETIMEDOUT);
        CHECK_EQ(bell_slot_wait(bell, user, BELL_READ, now_ns(), 0), -ETIMEDOUT);
        CHECK_EQ(bell_post(bell, user, 1), 0);
        turn(bell);
        CHECK_EQ(bell_slot_wait(bell, user, BELL_READ, 0, 0), BELL_USER);
    }
    CHECK_EQ(bell_slot_wait(bell, user, BELL_READ, 0, 0), -ETIMEDOUT);
    CHECK_OK(bell_unregister(bell, user, 0));
    check_clean(bell);
}

static void a_wait_never_gives_up_early(void)
{
    static const int64_t delays[] = {1, 999, US(1), US(100), US(999), MS(1), MS(1) + 1, MS(3)};
    for (uint32_t threads = 0; threads < 2; threads++) {
        bell_t *bell = make_bell(1, threads);
        int fds[2];
        bell_handle handle;
        make_sockets(fds);
        handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
        for (int i = 0; i < rounds(160); i++) {
            int64_t deadline = now_ns() + delays[i % 8];
            CHECK_EQ(bell_slot_wait(bell, handle, BELL_READ, deadline, 0), -ETIMEDOUT);
            CHECK_GE(now_ns(), deadline);
        }
        /* News before the deadline; none is lost by the time-outs before it. */
        put_byte(fds[1]);
        CHECK_EQ(bell_slot_wait(bell, handle, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
        CHECK_EQ(bell_unregister(bell, handle, 0), BELL_FIRED);
        close_pair(fds);
        check_clean(bell);
    }
}

/* ---- the loop of the header, over a busy socket ---- */

typedef struct stream {
    int fd;
    uint64_t total, sum;
} stream;

static void *write_stream(void *argument)
{
    stream *s = argument;
    uint32_t random = 99;
    uint64_t left = s->total;
    unsigned char buffer[7000];
    while (left > 0) {
        size_t n, done = 0;
        random = random * 1664525 + 1013904223;
        n = 1 + (random >> 8) % sizeof buffer;
        if (n > left)
            n = left;
        for (size_t i = 0; i < n; i++)
            s->sum += buffer[i] = (unsigned char)(random >> (i % 24));
        while (done < n) {
            ssize_t w = write(s->fd, buffer + done, n - done);
            if (w < 0) {
                struct pollfd p = {.fd = s->fd, .events = POLLOUT};
                CHECK_EQ(errno, EAGAIN);
                CHECK(poll(&p, 1, 60000) == 1);
            } else {
                done += (size_t)w;
            }
        }
        left -= n;
        if (random >> 28 == 0) {
            struct timespec pause = {0, 20000};
            nanosleep(&pause, NULL); /* so that the reader catches up and sleeps */
        }
    }
    CHECK(shutdown(s->fd, SHUT_WR) == 0);
    return NULL;
}

static void read_stream(uint32_t threads, uint32_t mode, size_t chunk)
{
    bell_t *bell = make_bell(1, threads);
    stream s = {.total = (uint64_t)rounds(2000000)};
    uint64_t got = 0, sum = 0;
    unsigned char buffer[65536];
    int fds[2], waits = 0;
    ssize_t n;
    bell_handle handle;
    pthread_t writer;
    make_sockets(fds);
    s.fd = fds[1];
    handle = watch(bell, fds[0], BELL_READ, mode, to_slot());
    writer = start_thread(write_stream, &s);
    for (;;) {
        int32_t result;
        while ((n = read(fds[0], buffer, chunk)) > 0) {
            got += (uint64_t)n;
            for (ssize_t i = 0; i < n; i++)
                sum += buffer[i];
        }
        if (n == 0)
            break;
        CHECK_EQ(errno, EAGAIN);
        waits++;
        result = bell_slot_wait(bell, handle, BELL_READ, BELL_NEVER, 0);
        CHECK_GT(result, 0);
        if (mode == BELL_ONESHOT)
            CHECK_OK(bell_rearm(bell, handle, NULL, BELL_NEVER));
    }
    join_thread(writer);
    fprintf(stderr, "  threads %u mode %u chunk %zu: %d waits\n", threads, mode, chunk, waits);
    CHECK_EQ(got, s.total);
    CHECK_EQ(sum, s.sum);
    CHECK_OK(bell_unregister(bell, handle, BELL_SYNC));
    close_pair(fds);
    check_clean(bell);
}

static void the_loop_of_the_header_reads_every_byte(void)
{
    for (uint32_t threads = 0; threads < 2; threads++)
        for (int m = 0; m < (has_edge() ? 2 : 1); m++) {
            read_stream(threads, m ? BELL_EDGE : BELL_ONESHOT, 65536);
            read_stream(threads, m ? BELL_EDGE : BELL_ONESHOT, 512);
        }
}

/* A reader and a writer thread wait for the two directions of one registration. */
typedef struct echo {
    bell_t *bell;
    bell_handle handle;
    int fd;
    uint64_t total, done;
} echo;

static void *echo_read(void *argument)
{
    echo *e = argument;
    char buffer[8192];
    ssize_t n;
    for (;;) {
        while ((n = read(e->fd, buffer, sizeof buffer)) > 0)
            e->done += (uint64_t)n;
        if (n == 0)
            return NULL;
        CHECK_EQ(errno, EAGAIN);
        CHECK_GT(bell_slot_wait(e->bell, e->handle, BELL_READ, BELL_NEVER, 0), 0);
    }
}

static void *echo_write(void *argument)
{
    echo *e = argument;
    static const char buffer[8192];
    while (e->done < e->total) {
        ssize_t n = write(e->fd, buffer, sizeof buffer);
        if (n > 0) {
            e->done += (uint64_t)n;
        } else {
            CHECK_EQ(errno, EAGAIN);
            CHECK_GT(bell_slot_wait(e->bell, e->handle, BELL_WRITE, BELL_NEVER, 0), 0);
        }
    }
    CHECK(shutdown(e->fd, SHUT_WR) == 0);
    return NULL;
}

/* Museum 18: a flood of one direction never blocks the other. */
static void reader_and_writer_of_one_registration_do_not_steal(void)
{
    if (!has_edge())
        return;
    for (uint32_t threads = 0; threads < 2; threads++) {
        bell_t *bell = make_bell(1, threads);
        uint64_t total = (uint64_t)rounds(8000000);
        int fds[2];
        echo e[4]; /* read and write at each end */
        pthread_t t[4];
        make_sockets(fds);
        for (int i = 0; i < 4; i++) {
            e[i] = (echo){.bell = bell, .fd = fds[i / 2], .total = total};
            e[i].handle = i % 2 ? e[i - 1].handle : watch(bell, fds[i / 2], BELL_READ | BELL_WRITE, BELL_EDGE, to_slot());
        }
        for (int i = 0; i < 4; i++)
            t[i] = start_thread(i % 2 ? echo_write : echo_read, &e[i]);
        for (int i = 0; i < 4; i++)
            join_thread(t[i]);
        CHECK_EQ(e[0].done, e[3].done);
        CHECK_EQ(e[2].done, e[1].done);
        for (int i = 0; i < 4; i += 2)
            CHECK_EQ(bell_unregister(bell, e[i].handle, BELL_SYNC), BELL_CANCELLED);
        close_pair(fds);
        check_clean(bell);
    }
}

/* ---- several waiters ---- */

typedef struct crowd {
    bell_t *bell;
    bell_handle handle;
    uint32_t woken, stop;
    int rearm_fd; /* -1: a user event */
} crowd;

static void *wait_in_crowd(void *argument)
{
    crowd *c = argument;
    for (;;) {
        int32_t result = bell_slot_wait(c->bell, c->handle, BELL_READ, BELL_NEVER, 0);
        if (result == BELL_E_CANCELLED || result == BELL_E_STALE)
            return NULL;
        CHECK_GT(result, 0);
        CHECK_LACKS(result, ~(int32_t)(BELL_USER | BELL_READ));
        if (c->rearm_fd >= 0) {
            char byte;
            CHECK_EQ(read(c->rearm_fd, &byte, 1), 1);
            CHECK_OK(bell_rearm(c->bell, c->handle, NULL, BELL_NEVER));
        }
        add(&c->woken, 1);
    }
}

static void each_piece_of_news_ends_one_wait(void)
{
    for (uint32_t threads = 0; threads < 2; threads++)
        for (int by_fd = 0; by_fd < 2; by_fd++)
            for (int n = 1; n <= 3; n++) {
                crowd c = {.bell = make_bell(1, threads), .rearm_fd = -1};
                pthread_t t[3];
                int fds[2];
                make_sockets(fds);
                if (by_fd) {
                    c.rearm_fd = fds[0];
                    c.handle = watch(c.bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
                } else {
                    c.handle = make_user(c.bell, to_slot());
                }
                for (int i = 0; i < n; i++)
                    t[i] = start_thread(wait_in_crowd, &c);
                AWAIT(stats_of(c.bell).waiters == (uint64_t)n);
                for (uint32_t i = 1; i <= (uint32_t)rounds(500); i++) {
                    if (by_fd)
                        put_byte(fds[1]);
                    else
                        CHECK_EQ(bell_post(c.bell, c.handle, 1), 0);
                    AWAIT(load(&c.woken) >= i);
                    CHECK_EQ(load(&c.woken), i); /* one, not all */
                }
                CHECK_OK(bell_unregister(c.bell, c.handle, BELL_SYNC));
                for (int i = 0; i < n; i++)
                    join_thread(t[i]);
                CHECK_EQ(c.woken, rounds(500));
                close_pair(fds);
                check_clean(c.bell);
            }
}

/* ---- ends of a wait ---- */

typedef struct sleeper {
    bell_t *bell;
    bell_handle handle;
    uint32_t direction, id;
    int32_t result;
} sleeper;

static void *sleep_on_slot(void *argument)
{
    sleeper *s = argument;
    store(&s->id, thread_id());
    s->result = bell_slot_wait(s->bell, s->handle, s->direction, now_ns() + PATIENCE, 0);
    return NULL;
}

static void a_sleeper_is_told_when_it_is_unregistered(void)
{
    for (uint32_t threads = 0; threads < 2; threads++) {
        bell_t *bell = make_bell(1, threads);
        for (int i = 0; i < rounds(300); i++) {
            int fds[2];
            bell_handle handle;
            sleeper s[2];
            pthread_t t[2];
            make_sockets(fds);
            fill_fd(fds[0]);
            handle = watch(bell, fds[0], BELL_READ | BELL_WRITE, i % 2 && has_edge() ? BELL_EDGE : BELL_ONESHOT, to_slot());
            for (int k = 0; k < 2; k++) {
                s[k] = (sleeper){.bell = bell, .handle = handle, .direction = k ? BELL_WRITE : BELL_READ};
                t[k] = start_thread(sleep_on_slot, &s[k]);
            }
            if (i % 3)
                AWAIT(stats_of(bell).waiters == 2);
            CHECK_EQ(bell_unregister(bell, handle, i % 2 ? BELL_SYNC : 0), BELL_CANCELLED);
            for (int k = 0; k < 2; k++) {
                join_thread(t[k]);
                if (i % 3)
                    CHECK_EQ(s[k].result, BELL_E_CANCELLED);
                else /* it may have come too late */
                    CHECK(s[k].result == BELL_E_CANCELLED || s[k].result == BELL_E_STALE);
            }
            close_pair(fds);
        }
        check_clean(bell);
    }
}

/* With its first news: the slot is nobody's any more, and the other word hears no more of it. */
static void sleepers_on_both_words_end_when_a_registration_releases_itself(void)
{
    bell_t *bell = make_bell(1, 1);
    for (int i = 0; i < rounds(100); i++) {
        int fds[2];
        bell_handle handle;
        sleeper s[2];
        pthread_t t[2];
        make_sockets(fds);
        if (i % 2) {
            bell_fd_spec spec = fd_spec(fds[0], BELL_READ, BELL_ONESHOT, to_slot());
            spec.flags = BELL_AUTO_RELEASE;
            CHECK_OK(bell_register_fd(bell, &spec, &handle));
        } else {
            bell_timeout_spec spec = timeout_spec(now_ns() + SEC(1000), to_slot());
            spec.flags = BELL_AUTO_RELEASE;
            CHECK_OK(bell_register_timeout(bell, &spec, &handle));
        }
        for (int k = 0; k < 2; k++) {
            s[k] = (sleeper){.bell = bell, .handle = handle, .direction = k ? BELL_WRITE : BELL_READ};
            t[k] = start_thread(sleep_on_slot, &s[k]);
        }
        AWAIT(stats_of(bell).waiters == 2);
        if (i % 2)
            put_byte(fds[1]);
        else
            CHECK_OK(bell_update_timeout(bell, handle, 0));
        for (int k = 0; k < 2; k++) {
            join_thread(t[k]);
            CHECK_EQ(s[k].result, BELL_E_CANCELLED);
        }
        CHECK_EQ(bell_unregister(bell, handle, 0), BELL_E_STALE);
        close_pair(fds);
    }
    check_clean(bell);
}

static void a_sleeper_is_told_when_the_manager_ends(void)
{
    for (uint32_t threads = 0; threads < 2; threads++)
        for (int i = 0; i < rounds(100); i++) {
            bell_t *bell = make_bell(1, threads);
            int fds[2];
            sleeper s[3];
            pthread_t t[3];
            make_sockets(fds);
            for (int k = 0; k < 3; k++) {
                s[k] = (sleeper){.bell = bell, .direction = BELL_READ};
                s[k].handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
                t[k] = start_thread(sleep_on_slot, &s[k]);
            }
            AWAIT(stats_of(bell).waiters == 3);
            CHECK_EQ(bell_destroy(bell, 0), BELL_E_BUSY);
            CHECK_EQ(bell_destroy(bell, BELL_FORCE), 0);
            for (int k = 0; k < 3; k++) {
                join_thread(t[k]);
                CHECK_EQ(s[k].result, BELL_E_CLOSED);
            }
            close_pair(fds);
        }
}

static void nothing(int signal_number)
{
    (void)signal_number;
}

static void a_signal_ends_a_wait(void)
{
    struct sigaction action = {.sa_handler = nothing}, old;
    CHECK(sigaction(SIGUSR2, &action, &old) == 0);
    for (uint32_t threads = 0; threads < 2; threads++) {
        bell_t *bell = make_bell(1, threads);
        sleeper s = {.bell = bell, .direction = BELL_READ, .handle = make_user(bell, to_slot())};
        pthread_t t = start_thread(sleep_on_slot, &s);
        AWAIT(stats_of(bell).waiters == 1 && is_asleep(&s.id));
        CHECK_EQ(pthread_kill(t, SIGUSR2), 0);
        /* The signal may have come just before the sleep: then only the next one ends it. */
        for (int64_t start = now_ns(); pthread_tryjoin_np(t, NULL) != 0;) {
            check_spin(__FILE__, __LINE__, "the wait ended", start);
            if (stats_of(bell).waiters == 1 && is_asleep(&s.id))
                pthread_kill(t, SIGUSR2);
        }
        CHECK_EQ(s.result, -EINTR);
        CHECK_OK(bell_unregister(bell, s.handle, 0));
        check_clean(bell);
    }
    CHECK(sigaction(SIGUSR2, &old, NULL) == 0);
}

/* ---- the flag ---- */

static void level_check_asks_the_kernel_first(void)
{
    uint32_t mode = has_edge() ? BELL_EDGE : BELL_ONESHOT;
    for (uint32_t threads = 0; threads < 2; threads++) {
        bell_t *bell = make_bell(1, threads);
        bell_handle handle;
        int fds[2];
        make_sockets(fds);
        put_byte(fds[1]);
        handle = watch(bell, fds[0], BELL_READ | BELL_WRITE, mode, to_slot());
        CHECK_HAS(bell_slot_wait(bell, handle, BELL_READ, BELL_NEVER, 0), BELL_READ);
        /* Unread, told, and nothing new: a plain wait would sleep. */
        CHECK_EQ(bell_slot_wait(bell, handle, BELL_READ, now_ns() + MS(3), 0), -ETIMEDOUT);
        for (int i = 0; i < 3; i++)
            CHECK_EQ(bell_slot_wait(bell, handle, BELL_READ, BELL_NEVER, BELL_LEVEL_CHECK), BELL_READ);
        CHECK_HAS(bell_slot_wait(bell, handle, BELL_WRITE, BELL_NEVER, BELL_LEVEL_CHECK), BELL_WRITE);
        drain_fd(fds[0]);
        CHECK_EQ(bell_slot_wait(bell, handle, BELL_READ, now_ns() + MS(3), BELL_LEVEL_CHECK), -ETIMEDOUT);
        CHECK(shutdown(fds[1], SHUT_WR) == 0);
        CHECK_HAS(bell_slot_wait(bell, handle, BELL_READ, BELL_NEVER, BELL_LEVEL_CHECK), BELL_READ | BELL_RDHUP);
        CHECK_OK(bell_unregister(bell, handle, BELL_SYNC));
        close_pair(fds);
        check_clean(bell);
    }
}

/* ---- memory ---- */

/* Museum 27: with BELL_AUTO_RELEASE nobody can unregister after the delivery, so the word must be free with it. */
static void museum_027_a_futex_word_may_be_unmapped_once_it_was_told(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    bell_t *bell = make_bell(1, 1);
    int fds[2];
    make_sockets(fds);
    for (int i = 0; i < rounds(5000); i++) {
        uint32_t *word = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        bell_fd_spec spec;
        bell_handle handle;
        CHECK(word != MAP_FAILED);
        if (i % 2)
            store(word, BELL_WAITER); /* so that the library has somebody to wake after its write */
        spec = fd_spec(fds[0], BELL_READ, BELL_ONESHOT, to_futex(word));
        spec.flags = BELL_AUTO_RELEASE;
        CHECK_OK(bell_register_fd(bell, &spec, &handle));
        put_byte(fds[1]);
        while (!(load(word) & BELL_READ)) {
        }
        CHECK_LACKS(load(word), BELL_WAITER);
        CHECK(munmap(word, page) == 0);
        drain_fd(fds[0]);
    }
    AWAIT(stats_of(bell).fds == 0);
    close_pair(fds);
    check_clean(bell);
}

/* The address stays readable after unregistering, and another registration may live there. */
static void slot_memory_stays_mapped_until_destroy(void)
{
    bell_t *bell = make_bell(1, 0);
    int n = rounds(5000), fds[2];
    bell_slot **slots = calloc((size_t)n, sizeof *slots);
    bell_handle *handles = calloc((size_t)n, sizeof *handles);
    uint32_t bits = 0;
    CHECK(slots && handles);
    make_sockets(fds);
    for (int i = 0; i < n; i++) {
        handles[i] = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
        CHECK_OK(bell_slot_map(bell, handles[i], &slots[i]));
        CHECK(i == 0 || slots[i] != slots[i - 1]);
    }
    for (int i = 0; i < n; i++) {
        bell_slot *again;
        CHECK_OK(bell_slot_map(bell, handles[i], &again));
        CHECK(again == slots[i]); /* slots do not move */
        CHECK_OK(bell_unregister(bell, handles[i], 0));
    }
    for (int i = 0; i < n; i++)
        bits |= load(&slots[i]->rd) | load(&slots[i]->wr);
    CHECK_LACKS(bits, BELL_NEWS);
    free(slots);
    free(handles);
    close_pair(fds);
    check_clean(bell);
}

/* A fresh registration in a used place starts without news. */
static void a_new_slot_starts_empty(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    make_sockets(fds);
    for (int i = 0; i < 200; i++) {
        bell_handle handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot());
        bell_slot *slot;
        CHECK_OK(bell_slot_map(bell, handle, &slot));
        CHECK_EQ(load(&slot->rd) & (BELL_SEQ - 1), 0);
        CHECK_EQ(load(&slot->wr) & (BELL_SEQ - 1), 0);
        put_byte(fds[1]);
        turn(bell);
        CHECK_EQ(load(&slot->rd) & (BELL_SEQ - 1), BELL_READ);
        drain_fd(fds[0]);
        CHECK_EQ(bell_unregister(bell, handle, 0), BELL_FIRED); /* with news that nobody took */
    }
    close_pair(fds);
    check_clean(bell);
}

typedef struct retargeted {
    bell_t *bell;
    bell_handle handle;
    int32_t result;
} retargeted;

static void *wait_for_what_goes_elsewhere(void *argument)
{
    retargeted *r = argument;
    r->result = bell_slot_wait(r->bell, r->handle, BELL_READ, BELL_NEVER, 0);
    return NULL;
}

/* The slot goes back to the manager: whoever sleeps on it must not take the news of its next owner. */
static void a_sleeper_is_told_when_the_news_goes_elsewhere(void)
{
    for (int threads = 0; threads < 2; threads++)
        for (int i = 0; i < rounds(100); i++) {
            bell_t *bell = make_bell(1, (uint32_t)threads);
            uint32_t word = 0;
            bell_target elsewhere = to_futex(&word);
            int fds[2];
            make_sockets(fds);
            retargeted r = {.bell = bell, .handle = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_slot())};
            pthread_t t = start_thread(wait_for_what_goes_elsewhere, &r);
            AWAIT(stats_of(bell).waiters == 1);
            if (i % 2)
                CHECK_EQ(bell_retarget(bell, r.handle, &elsewhere), BELL_CANCELLED);
            else
                CHECK_EQ(bell_rearm(bell, r.handle, &elsewhere, BELL_NEVER), 0);
            join_thread(t);
            CHECK_EQ(r.result, BELL_E_CANCELLED);
            put_byte(fds[1]);
            if (!threads)
                turn(bell);
            AWAIT(load(&word) & BELL_READ);
            CHECK_EQ(bell_unregister(bell, r.handle, BELL_SYNC), BELL_FIRED);
            close_pair(fds);
            check_clean(bell);
        }
}

int main(void)
{
    RUN(the_two_words_are_independent);
    RUN(the_wrong_target_and_the_wrong_words_are_refused);
    RUN(deadline_zero_only_looks);
    RUN(a_wait_never_gives_up_early);
    RUN(the_loop_of_the_header_reads_every_byte);
    RUN(reader_and_writer_of_one_registration_do_not_steal);
    RUN(each_piece_of_news_ends_one_wait);
    RUN(a_sleeper_is_told_when_it_is_unregistered);
    RUN(sleepers_on_both_words_end_when_a_registration_releases_itself);
    RUN(a_sleeper_is_told_when_the_manager_ends);
    RUN(a_signal_ends_a_wait);
    RUN(level_check_asks_the_kernel_first);
    RUN(museum_027_a_futex_word_may_be_unmapped_once_it_was_told);
    RUN(slot_memory_stays_mapped_until_destroy);
    RUN(a_new_slot_starts_empty);
    RUN(a_sleeper_is_told_when_the_news_goes_elsewhere);
    return 0;
}
