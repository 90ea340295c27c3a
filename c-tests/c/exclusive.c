/* BELL_FD_EXCLUSIVE: one listening socket, several shards, each event for one of them. */
#define _GNU_SOURCE
#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>

enum { CONNECTIONS = 200 };

static int make_listener(struct sockaddr_in *address)
{
    socklen_t length = sizeof *address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CHECK(bind(fd, (struct sockaddr *)address, sizeof *address) == 0);
    CHECK(listen(fd, 128) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)address, &length) == 0);
    return fd;
}

static int make_connection(const struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    CHECK(connect(fd, (const struct sockaddr *)address, sizeof *address) == 0);
    return fd;
}

static bell_fd_spec exclusive_spec(int fd, uint32_t shard)
{
    bell_fd_spec spec = fd_spec(fd, BELL_READ, BELL_EDGE, to_poll());
    spec.flags = BELL_FD_EXCLUSIVE;
    spec.shard = shard;
    spec.user_data = shard;
    return spec;
}

static int32_t try_spec(bell_t *bell, const bell_fd_spec *spec)
{
    bell_handle h = 0;
    int32_t r = bell_register_fd(bell, spec, &h);
    CHECK_EQ(r >= 0, h != 0);
    return r;
}

typedef struct acceptor {
    bell_t *bell;
    uint32_t shard;
    int listener;
    uint32_t accepted, events, stop;
    uint32_t *total;
} acceptor;

static void *accept_on_shard(void *argument)
{
    acceptor *a = argument;
    while (!load(&a->stop)) {
        bell_event e;
        int32_t n = CHECK_OK(bell_poll(a->bell, a->shard, &e, 1, BELL_NEVER));
        if (n == 0)
            continue;
        CHECK_EQ(e.user_data, a->shard);
        CHECK_EQ(e.ready, BELL_READ);
        a->events++;
        int fd;
        while ((fd = accept4(a->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
            CHECK_EQ(write(fd, "!", 1), 1);
            a->accepted++;
            add(a->total, 1);
            CHECK_EQ(close(fd), 0); /* last: the client counts when it sees the end */
        }
        CHECK(errno == EAGAIN);
    }
    return NULL;
}

static void is_each_connection_accepted_once_by_two_shards(void)
{
    if (!has_feature(BELL_FEATURE_EXCLUSIVE))
        return;
    enum { SHARDS = 2 };
    struct sockaddr_in address;
    bell_t *bell = make_bell(SHARDS, 0);
    int listener = make_listener(&address);
    bell_handle h[SHARDS];
    acceptor acceptors[SHARDS];
    pthread_t threads[SHARDS];
    uint32_t total = 0;
    for (uint32_t s = 0; s < SHARDS; s++) {
        bell_fd_spec spec = exclusive_spec(listener, s);
        CHECK_OK(bell_register_fd(bell, &spec, &h[s]));
        CHECK_EQ(h[s] >> 50 & 0xff, s);
        acceptors[s] = (acceptor){.bell = bell, .shard = s, .listener = listener, .total = &total};
    }
    check_verified(bell);
    for (uint32_t s = 0; s < SHARDS; s++)
        threads[s] = start_thread(accept_on_shard, &acceptors[s]);
    int n = rounds(CONNECTIONS);
    for (int i = 0; i < n; i++) {
        char c = 0;
        int fd = make_connection(&address);
        CHECK_EQ(read(fd, &c, 1), 1); /* accepted */
        CHECK_EQ(c, '!');
        CHECK_EQ(read(fd, &c, 1), 0);
        CHECK_EQ(close(fd), 0);
    }
    CHECK_EQ(load(&total), n);
    for (uint32_t s = 0; s < SHARDS; s++) {
        store(&acceptors[s].stop, 1);
        CHECK_EQ(bell_wake(bell, s), 0);
        join_thread(threads[s]);
        fprintf(stderr, "  shard %u: %u events, %u accepted\n", s, acceptors[s].events, acceptors[s].accepted);
    }
    CHECK_EQ(acceptors[0].accepted + acceptors[1].accepted, n);
    for (uint32_t s = 0; s < SHARDS; s++)
        CHECK_EQ(bell_unregister(bell, h[s], 0), BELL_CANCELLED);
    CHECK_EQ(close(listener), 0);
    check_clean(bell);
}

static void does_the_other_shard_take_over_when_one_is_unregistered(void)
{
    if (!has_feature(BELL_FEATURE_EXCLUSIVE))
        return;
    struct sockaddr_in address;
    bell_t *bell = make_bell(2, 0);
    int listener = make_listener(&address);
    bell_fd_spec first = exclusive_spec(listener, 0), second = exclusive_spec(listener, 1);
    bell_handle a, b;
    bell_event e;
    CHECK_OK(bell_register_fd(bell, &first, &a));
    CHECK_OK(bell_register_fd(bell, &second, &b));
    CHECK_EQ(bell_unregister(bell, a, BELL_SYNC), BELL_CANCELLED);
    check_verified(bell);
    int fd = make_connection(&address);
    CHECK_EQ(bell_poll(bell, 1, &e, 1, SEC(30)), 1);
    CHECK_EQ(e.handle, b);
    CHECK_EQ(e.ready, BELL_READ);
    CHECK_EQ(bell_poll(bell, 0, &e, 1, 0), 0);
    int accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(accepted >= 0);
    CHECK_EQ(close(accepted), 0);
    CHECK_EQ(close(fd), 0);
    /* And the shard may come back. */
    CHECK_OK(bell_register_fd(bell, &first, &a));
    CHECK_EQ(bell_unregister(bell, b, 0), BELL_CANCELLED);
    fd = make_connection(&address);
    CHECK_EQ(bell_poll(bell, 0, &e, 1, SEC(30)), 1);
    CHECK_EQ(e.handle, a);
    CHECK_EQ(bell_unregister(bell, a, 0), BELL_CANCELLED);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(close(listener), 0);
    check_clean(bell);
}

static void are_exclusive_and_ordinary_registrations_of_one_fd_refused(void)
{
    if (!has_feature(BELL_FEATURE_EXCLUSIVE))
        return;
    struct sockaddr_in address;
    bell_t *bell = make_bell(2, 0);
    int listener = make_listener(&address);
    bell_fd_spec spec = exclusive_spec(listener, 0);
    bell_handle h, ordinary;
    bell_event e;
    CHECK_OK(bell_register_fd(bell, &spec, &h));
    CHECK_EQ(try_spec(bell, &spec), BELL_E_BUSY); /* two on one shard */
    CHECK_EQ(try_watch(bell, listener, BELL_READ, BELL_EDGE, to_poll()), BELL_E_BUSY);
    CHECK_EQ(try_watch(bell, listener, BELL_READ, BELL_ONESHOT, to_slot()), BELL_E_BUSY);
    CHECK_EQ(stats_of(bell).fds, 1);
    check_verified(bell);
    CHECK_EQ(bell_modify(bell, h, BELL_READ | BELL_WRITE, BELL_EDGE), BELL_E_BUSY);
    CHECK_EQ(bell_modify(bell, h, BELL_READ, BELL_ONESHOT), BELL_E_BUSY);
    int fd = make_connection(&address); /* it works on */
    CHECK_EQ(bell_poll(bell, 0, &e, 1, SEC(30)), 1);
    CHECK_EQ(e.handle, h);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    ordinary = watch(bell, listener, BELL_READ, BELL_ONESHOT, to_poll());
    CHECK_EQ(try_spec(bell, &spec), BELL_E_BUSY);
    spec.shard = 1;
    CHECK_EQ(try_spec(bell, &spec), BELL_E_BUSY);
    CHECK_EQ(stats_of(bell).fds, 1);
    e = next_event(bell);
    CHECK_EQ(e.handle, ordinary);
    CHECK_EQ(bell_unregister(bell, ordinary, 0), BELL_FIRED);
    CHECK_OK(bell_register_fd(bell, &spec, &h));
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(close(listener), 0);
    check_clean(bell);
}

static void does_exclusive_take_edge_and_a_shard_by_number_only(void)
{
    if (!has_feature(BELL_FEATURE_EXCLUSIVE))
        return;
    struct sockaddr_in address;
    bell_t *bell = make_bell(2, 0);
    int listener = make_listener(&address);
    bell_fd_spec spec = exclusive_spec(listener, 0);
    spec.mode = BELL_ONESHOT;
    CHECK_EQ(try_spec(bell, &spec), -EINVAL);
    spec.mode = BELL_LEVEL;
    CHECK_EQ(try_spec(bell, &spec), -EINVAL);
    spec = exclusive_spec(listener, BELL_SHARD_ANY);
    CHECK_EQ(try_spec(bell, &spec), -EINVAL);
    spec = exclusive_spec(listener, BELL_SHARD_CURRENT_CPU);
    CHECK_EQ(try_spec(bell, &spec), -EINVAL);
    spec = exclusive_spec(listener, 2);
    CHECK_EQ(try_spec(bell, &spec), -EINVAL);
    spec = exclusive_spec(listener, 0);
    spec.flags |= BELL_AUTO_RELEASE;
    CHECK_EQ(try_spec(bell, &spec), -EINVAL);
    CHECK_EQ(close(listener), 0);
    check_clean(bell);
}

static void does_close_fd_tell_both_shards(void)
{
    if (!has_feature(BELL_FEATURE_EXCLUSIVE))
        return;
    for (int slots = 0; slots < 2; slots++) {
        struct sockaddr_in address;
        bell_t *bell = make_bell(2, 0);
        int listener = make_listener(&address);
        bell_handle h[2];
        for (uint32_t s = 0; s < 2; s++) {
            bell_fd_spec spec = exclusive_spec(listener, s);
            if (slots)
                spec.target = to_slot();
            CHECK_OK(bell_register_fd(bell, &spec, &h[s]));
        }
        CHECK_EQ(bell_close_fd(bell, listener), 0);
        CHECK(fcntl(listener, F_GETFD) < 0 && errno == EBADF);
        for (uint32_t s = 0; s < 2; s++) {
            bell_event e = {0};
            if (slots)
                CHECK_EQ(bell_slot_wait(bell, h[s], BELL_READ, now_ns() + PATIENCE, 0), BELL_CLOSED);
            else {
                CHECK_EQ(bell_poll(bell, s, &e, 1, SEC(30)), 1);
                CHECK_EQ(e.handle, h[s]);
                CHECK_EQ(e.ready, BELL_CLOSED);
            }
            CHECK_OK(bell_unregister(bell, h[s], 0));
        }
        check_clean(bell);
    }
}

/* The kernel tells an edge once, and must not be asked again about such an fd. */
static void is_unseen_news_kept_when_it_is_armed_with_another_target(void)
{
    if (!has_feature(BELL_FEATURE_EXCLUSIVE))
        return;
    bell_t *bell = make_bell(1, 0);
    int fd = make_eventfd();
    uint32_t word = 0;
    bell_target other = to_futex(&word);
    bell_fd_spec spec = exclusive_spec(fd, 0);
    bell_handle h;
    spec.flags |= BELL_FD_DEADLINE;
    spec.deadline_ns = 0;
    CHECK_EQ(bell_register_fd(bell, &spec, &h), 0);
    CHECK_EQ(eventfd_write(fd, 1), 0);
    CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), 0); /* there is no room for the news, which waits */
    CHECK_EQ(bell_rearm(bell, h, &other, BELL_NEVER), 0);
    CHECK_EQ(bell_slot_take(&word), BELL_READ);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

static void is_exclusive_refused_where_it_cannot_be_done(void)
{
    if (has_feature(BELL_FEATURE_EXCLUSIVE))
        return;
    struct sockaddr_in address;
    bell_t *bell = make_bell(2, 0);
    int listener = make_listener(&address);
    bell_fd_spec spec = exclusive_spec(listener, 0);
    CHECK_EQ(try_spec(bell, &spec), BELL_E_UNSUPPORTED);
    bell_handle h = watch(bell, listener, BELL_READ, BELL_ONESHOT, to_poll());
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    CHECK_EQ(close(listener), 0);
    check_clean(bell);
}

int main(void)
{
    RUN(is_each_connection_accepted_once_by_two_shards);
    RUN(does_the_other_shard_take_over_when_one_is_unregistered);
    RUN(are_exclusive_and_ordinary_registrations_of_one_fd_refused);
    RUN(does_exclusive_take_edge_and_a_shard_by_number_only);
    RUN(does_close_fd_tell_both_shards);
    RUN(is_unseen_news_kept_when_it_is_armed_with_another_target);
    RUN(is_exclusive_refused_where_it_cannot_be_done);
    return 0;
}
