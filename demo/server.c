/* An echo server on Doorbell, in three ways: server poll | slots | queue [connections=N] [idle_ms=N]
 *
 * It prints a line with its port, then answers a line "stats" on its standard input by a line of counters, "verify" by
 * what the library finds wrong with itself, and "quit" (or the end of the input) by ending. */
#define _GNU_SOURCE
#include "server.h"
#include "common.h"

#include <errno.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define SPARE_FDS 64     /* standard streams, the listener, the library's own */
#define WITH_POLL2 1000u /* connections: poll(2) looks at all of them at each wait */

static const struct way {
    const char *name;
    void (*prepare)(struct server *, bell_config *);
    void (*run)(struct server *);
} ways[] = {
    { "poll", poll_prepare, poll_run },
    { "slots", slots_prepare, slots_run },
    { "queue", queue_prepare, queue_run },
};

static struct server server;
static size_t heap_before, resident_before;

int32_t must(const char *what, int32_t result)
{
    if (result < 0) {
        fprintf(stderr, "server: %s: %s\n", what, bell_strerror(result));
        _exit(1);
    }
    return result;
}

static size_t heap_bytes(void)
{
    const struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static size_t resident_bytes(void)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file) {
        if (fscanf(file, "%*u %lu", &pages) != 1)
            pages = 0;
        fclose(file);
    }
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

int accept_client(struct server *s)
{
    int fd;
    while ((fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0 || errno == EINTR ||
           errno == ECONNABORTED) {
        if (fd < 0)
            continue;
        if (atomic_fetch_add(&s->open, 1) < s->capacity) {
            const int yes = 1;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
            return fd;
        }
        atomic_fetch_sub(&s->open, 1);
        close(fd); /* full */
    }
    if (errno != EAGAIN)
        fprintf(stderr, "server: accept: %s\n", strerror(errno));
    return -1;
}

static struct connection *free_connections;
static pthread_mutex_t free_lock = PTHREAD_MUTEX_INITIALIZER;

struct connection *connection_take(struct server *s, int fd)
{
    pthread_mutex_lock(&free_lock);
    struct connection *c = free_connections;
    if (c)
        free_connections = c->next_free;
    pthread_mutex_unlock(&free_lock);
    if (!c) {
        c = calloc(1, sizeof *c);
        if (!c)
            must("calloc", -ENOMEM);
        pthread_mutex_init(&c->lock, NULL);
        c->server = s;
    }
    c->fd = fd;
    return c;
}

void connection_give(struct server *s, struct connection *c)
{
    free(c->rest);
    c->rest = NULL;
    c->rest_start = c->rest_end = 0;
    c->ending = false;
    pthread_mutex_lock(&free_lock);
    c->next_free = free_connections;
    free_connections = c;
    pthread_mutex_unlock(&free_lock);
    atomic_fetch_sub(&s->open, 1);
}

enum echoed echo(struct server *s, struct connection *c, uint32_t ready)
{
    char buffer[16 * 1024];
    c->ending |= (ready & (BELL_RDHUP | BELL_HUP | BELL_ERR)) != 0;
    for (;;) {
        while (c->rest) {
            const ssize_t n = write(c->fd, c->rest + c->rest_start, c->rest_end - c->rest_start);
            if (n < 0)
                return errno == EAGAIN ? ECHO_BLOCKED : ECHO_ENDED;
            c->rest_start += (size_t)n;
            if (c->rest_start == c->rest_end) {
                free(c->rest);
                c->rest = NULL;
            }
        }
        const ssize_t n = read(c->fd, buffer, sizeof buffer);
        if (n <= 0)
            return n < 0 && errno == EAGAIN ? ECHOED_ALL : ECHO_ENDED;
        ssize_t written = write(c->fd, buffer, (size_t)n);
        if (written < 0 && errno != EAGAIN)
            return ECHO_ENDED;
        if (written < n) {
            written = written < 0 ? 0 : written;
            c->rest = malloc((size_t)(n - written));
            if (!c->rest)
                return ECHO_ENDED;
            memcpy(c->rest, buffer + written, (size_t)(n - written));
            c->rest_start = 0;
            c->rest_end = (size_t)(n - written);
            atomic_fetch_add(&s->write_waits, 1);
            continue;
        }
        /* A short read has emptied the socket, unless the end of the stream was reported: that comes as a read of 0. */
        if ((size_t)n < sizeof buffer && !c->ending)
            return ECHOED_ALL;
    }
}

static void print_stats(void)
{
    bell_counters k = { .size = sizeof k };
    must("bell_stats", bell_stats(server.bell, BELL_SHARD_ANY, &k));
    printf("stats open=%u idle_closed=%u write_waits=%lu heap=%lld resident=%lld", atomic_load(&server.open),
           atomic_load(&server.idle_closed), atomic_load(&server.write_waits),
           (long long)heap_bytes() - (long long)heap_before, (long long)resident_bytes() - (long long)resident_before);
    printf(" fds=%llu bell_heap=%llu events=%llu coalesced=%llu kernel_waits=%llu ctl_calls=%llu ctl_errors=%llu",
           (unsigned long long)k.fds, (unsigned long long)k.heap_bytes, (unsigned long long)k.events,
           (unsigned long long)k.coalesced, (unsigned long long)k.kernel_waits, (unsigned long long)k.ctl_calls,
           (unsigned long long)k.ctl_errors);
    printf(" wakes=%llu handovers=%llu stale=%llu spurious=%llu", (unsigned long long)k.wakes_sent,
           (unsigned long long)k.handovers, (unsigned long long)k.stale_dropped, (unsigned long long)k.spurious);
    printf(" armed=%llu moved=%llu fired=%llu cancelled=%llu late_max_us=%llu\n", (unsigned long long)k.timers_armed,
           (unsigned long long)k.timers_moved, (unsigned long long)k.timers_fired,
           (unsigned long long)k.timers_cancelled, (unsigned long long)k.late_max_ns / 1000);
}

/* The counters may be read by any thread, so this one need not know how the others wait. */
static void *control(void *unused)
{
    char line[64];
    while (fgets(line, sizeof line, stdin) && strcmp(line, "quit\n") != 0) {
        if (strcmp(line, "stats\n") == 0)
            print_stats();
        else if (strcmp(line, "verify\n") == 0)
            printf("verify disagreements=%d\n", must("bell_verify", bell_verify(server.bell)));
    }
    must("bell_destroy", bell_destroy(server.bell, BELL_FORCE));
    return unused;
}

static int listen_on_loopback(int *port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof address;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 65535) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &length) != 0)
        must("listen", -errno);
    *port = ntohs(address.sin_port);
    return fd;
}

int main(int argc, char **argv)
{
    const struct way *way = NULL;
    for (size_t i = 0; argc > 1 && i < sizeof ways / sizeof *ways; i++)
        if (strcmp(argv[1], ways[i].name) == 0)
            way = &ways[i];
    if (!way) {
        fprintf(stderr, "usage: server poll|slots|queue [connections=N] [idle_ms=N] [threads=N] [traceable=1]\n");
        return 2;
    }
    if (bell_abi_version() >> 16 != BELL_ABI_MAJOR) {
        fprintf(stderr, "server: compiled for another version of the library\n");
        return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    signal(SIGPIPE, SIG_IGN);
    if (option(argv, "traceable", 0))
        prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);

    uint64_t features;
    must("bell_features", bell_features(&features));
    const bool edges = features & BELL_FEATURE_EDGE;
    const long long limit = raise_fd_limit() - SPARE_FDS;
    const long long wanted = option(argv, "connections", 10000);
    server.mode = edges ? BELL_EDGE : BELL_ONESHOT;
    server.capacity = (uint32_t)(wanted < limit ? wanted : limit);
    if (features & BELL_FEATURE_POLL && server.capacity > WITH_POLL2)
        server.capacity = WITH_POLL2;
    server.idle_ns = option(argv, "idle_ms", 5000) * NS_PER_MS;

    heap_before = heap_bytes();
    resident_before = resident_bytes();
    bell_config config;
    must("bell_config_init", bell_config_init(&config, sizeof config));
    way->prepare(&server, &config);
    config.threads = (uint32_t)option(argv, "threads", config.threads);
    must("bell_create", bell_create(&config, &server.bell));
    int port;
    server.listener = listen_on_loopback(&port);
    printf("ready port=%d connections=%u edges=%d epoll=%d\n", port, server.capacity, edges,
           (features & BELL_FEATURE_EPOLL) != 0);

    pthread_t thread;
    must("pthread_create", -pthread_create(&thread, NULL, control, NULL));
    way->run(&server);
    pthread_join(thread, NULL);
    return 0;
}
