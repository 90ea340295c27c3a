/* The load of the demo, and its witness: it knows nothing of Doorbell (plain epoll), sends messages over N connections and
 * compares every byte that comes back.
 *
 *     load port=P [connections=N] [seconds=S] [active=A] [idle_ms=I] [quick=1]
 *
 * It prints a line for each phase, and waits for a line on its standard input before the next one:
 *   connected  all connections are open
 *   measured   `active` messages at a time went round all connections for so many seconds, and all echoes are back
 *   idle       (not with quick=1) some connections sent much and read nothing for a while; then one in a hundred fell
 *              silent and had to be closed by the server, not too early, while all others stayed open
 * and a line "progress ..." every quarter of a second. */
#define _GNU_SOURCE
#include "common.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define SHORTEST 64
#define LONGEST 200
#define BULK_BYTES (8u << 20)
#define BULK_PEERS 16
#define CONNECTING_AT_ONCE 256
#define PER_SOURCE_ADDRESS 20000 /* of the 28,000 ephemeral ports */
#define PATIENCE_NS (3 * NS_PER_S)
#define CHUNK (64 * 1024)

enum state { NEW, CONNECTING, OPEN, CLOSED };

struct peer {
    int fd;
    enum state state;
    bool busy; /* a message is under way */
    bool bad;  /* with a byte that was not ours */
    bool bulk; /* has sent much at a time */
    bool idle; /* silent on purpose */
    uint32_t sequence, length, sent, received;
    int64_t last_sent_ns, last_received_ns, closed_ns;
};

static struct peer *peers;
static uint32_t peer_count, open_count, connecting, in_flight, next_peer;
static int epoll_fd;
static bool sending, measuring;
static unsigned long long trips, lost, bytes_echoed, failed_connects;
static unsigned long long progress_trips; /* all trips, also of other phases */
static char buffer[CHUNK], expected[CHUNK];

/* --- latencies: 32 steps for each power of two, so at most 3 % off --- */

#define STEPS 32
static unsigned long long histogram[64 * STEPS];
static int64_t latency_max_ns;

static void record(int64_t ns)
{
    const uint64_t v = ns < STEPS ? STEPS : (uint64_t)ns;
    const int shift = 63 - __builtin_clzll(v) - 5;
    histogram[shift * STEPS + (int)(v >> shift) - STEPS]++;
    if (ns > latency_max_ns)
        latency_max_ns = ns;
}

/* The latency, rounded up, that `share` of the round trips did not exceed. */
static int64_t percentile_us(double share)
{
    unsigned long long total = 0, seen = 0;
    for (int i = 0; i < 64 * STEPS; i++)
        total += histogram[i];
    for (int i = 0; i < 64 * STEPS; i++) {
        seen += histogram[i];
        if (total && (double)seen >= share * (double)total)
            return ((((int64_t)(i % STEPS) + STEPS + 1) << (i / STEPS)) + 999) / 1000;
    }
    return 0;
}

/* --- messages: their bytes follow from the connection, the number of the message and the place --- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static void content(const struct peer *p, uint32_t offset, char *out, uint32_t n)
{
    const uint64_t key = (uint64_t)(p - peers) << 40 | (uint64_t)p->sequence << 20;
    while (n > 0) {
        const uint64_t word = mix(key + offset / 8 + 1);
        uint32_t skip = offset % 8, take = 8 - skip < n ? 8 - skip : n;
        memcpy(out, (const char *)&word + skip, take);
        out += take;
        offset += take;
        n -= take;
    }
}

/* --- a connection --- */

static void message_ends(struct peer *p, bool echoed)
{
    p->busy = false;
    in_flight--;
    progress_trips++;
    if (!echoed || p->bad)
        lost++;
    else if (measuring)
        trips++;
}

static void closed(struct peer *p)
{
    if (p->state == CONNECTING) {
        connecting--;
        failed_connects++;
    } else {
        open_count--;
    }
    p->state = CLOSED;
    p->closed_ns = now_ns();
    close(p->fd);
    if (p->busy)
        message_ends(p, false);
}

static void push(struct peer *p)
{
    while (p->state == OPEN && p->busy && p->sent < p->length) {
        const uint32_t n = p->length - p->sent < CHUNK ? p->length - p->sent : CHUNK;
        content(p, p->sent, buffer, n);
        const ssize_t written = write(p->fd, buffer, n);
        if (written < 0) {
            if (errno != EAGAIN)
                closed(p);
            return;
        }
        p->sent += (uint32_t)written;
    }
}

static void start_message(struct peer *p, uint32_t length)
{
    p->sequence++;
    p->length = length ? length : SHORTEST + (uint32_t)(mix((uint64_t)(p - peers) << 32 | p->sequence) % (LONGEST - SHORTEST + 1));
    p->sent = p->received = 0;
    p->busy = true;
    p->bad = false;
    in_flight++;
    p->last_sent_ns = now_ns();
    push(p);
}

static void start_next(void)
{
    for (uint32_t tried = 0; tried < peer_count; tried++) {
        struct peer *p = &peers[next_peer];
        next_peer = next_peer + 1 < peer_count ? next_peer + 1 : 0;
        if (p->state == OPEN && !p->busy && !p->idle) {
            start_message(p, 0);
            return;
        }
    }
}

static void pull(struct peer *p)
{
    for (;;) {
        const ssize_t n = read(p->fd, buffer, sizeof buffer);
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN)
                closed(p);
            return;
        }
        bytes_echoed += (unsigned long long)n;
        p->last_received_ns = now_ns();
        uint32_t ours = p->busy ? p->sent - p->received : 0;
        if ((uint64_t)n > ours) { /* more than was sent */
            if (!p->busy)
                lost++;
            p->bad = true;
        } else {
            ours = (uint32_t)n;
        }
        content(p, p->received, expected, ours);
        if (memcmp(buffer, expected, ours) != 0)
            p->bad = true;
        p->received += ours;
        if (p->busy && p->received == p->length) {
            if (measuring)
                record(p->last_received_ns - p->last_sent_ns);
            message_ends(p, true);
            if (sending)
                start_next();
        }
    }
}

static void connect_next(uint16_t port)
{
    static uint32_t i;
    if (i == peer_count)
        return;
    struct peer *p = &peers[i];
    /* Ports run out after some 28,000 connections from one address to one port: 127.0.0.0/8 has more addresses. */
    struct sockaddr_in from = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + i / PER_SOURCE_ADDRESS) };
    const struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port) };
    const int yes = 1;
    p->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (p->fd < 0) {
        perror("load: socket");
        exit(1);
    }
    setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (i >= PER_SOURCE_ADDRESS) {
        setsockopt(p->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
        if (bind(p->fd, (struct sockaddr *)&from, sizeof from) != 0)
            perror("load: bind");
    }
    i++;
    connecting++;
    p->state = CONNECTING;
    if (connect(p->fd, (const struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS) {
        closed(p);
        return;
    }
    struct epoll_event e = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = p };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, p->fd, &e) != 0) {
        perror("load: epoll_ctl");
        exit(1);
    }
}

static void connected(struct peer *p)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        closed(p);
        return;
    }
    connecting--;
    open_count++;
    p->state = OPEN;
    p->last_sent_ns = now_ns();
}

/* --- phases --- */

static void report_progress(const char *phase)
{
    static int64_t last_ns;
    static unsigned long long last_trips;
    const int64_t now = now_ns();
    if (now - last_ns < NS_PER_S / 4)
        return;
    if (last_ns)
        printf("progress %s connections=%u rate=%lld lost=%llu p99_us=%lld\n", phase, open_count,
               (long long)((double)(progress_trips - last_trips) * 1e9 / (double)(now - last_ns)), lost,
               (long long)percentile_us(0.99));
    last_ns = now;
    last_trips = progress_trips;
}

static void turn(const char *phase, int timeout_ms)
{
    static struct epoll_event events[1024];
    const int n = epoll_wait(epoll_fd, events, 1024, timeout_ms);
    for (int i = 0; i < n; i++) {
        struct peer *p = events[i].data.ptr;
        if (p->state == CONNECTING && (events[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
            connected(p);
        if (p->state == OPEN && (events[i].events & EPOLLOUT))
            push(p);
        if (p->state == OPEN && (events[i].events & ~(uint32_t)EPOLLOUT))
            pull(p);
    }
    report_progress(phase);
}

/* Waits for the outstanding echoes, for as long as any byte still comes. */
static void collect(const char *phase)
{
    sending = false;
    unsigned long long before = bytes_echoed;
    int64_t give_up = now_ns() + PATIENCE_NS;
    while (in_flight > 0 && now_ns() < give_up) {
        turn(phase, 10);
        if (bytes_echoed != before) {
            before = bytes_echoed;
            give_up = now_ns() + PATIENCE_NS;
        }
    }
    if (in_flight > 0)
        fprintf(stderr, "load: %u echoes did not come within %lld s\n", in_flight, PATIENCE_NS / NS_PER_S);
    for (uint32_t i = 0; i < peer_count; i++)
        if (peers[i].busy)
            message_ends(&peers[i], false);
}

static void start_sending(uint32_t active)
{
    sending = true;
    for (uint32_t i = 0; i < active; i++)
        start_next();
}

static void await_go_ahead(void)
{
    char line[16];
    if (!fgets(line, sizeof line, stdin))
        exit(1);
}

/* Some connections send all that the sockets take, and read nothing until nobody can write any more. */
static void bulk(void)
{
    const uint32_t count = peer_count < BULK_PEERS ? peer_count : BULK_PEERS, step = peer_count / count;
    for (uint32_t i = 0; i < count; i++) {
        struct peer *p = &peers[i * step];
        p->bulk = true;
        if (p->state == OPEN)
            start_message(p, BULK_BYTES);
    }
    for (uint32_t quiet = 0; quiet < 10;) {
        usleep(5000);
        quiet++;
        for (uint32_t i = 0; i < count; i++) {
            struct peer *p = &peers[i * step];
            const uint32_t before = p->sent;
            push(p);
            if (p->sent != before)
                quiet = 0;
        }
    }
    for (uint32_t i = 0; i < count; i++)
        if (peers[i * step].state == OPEN)
            pull(&peers[i * step]);
    collect("bulk");
}

/* One in a hundred falls silent, and must be closed after `idle_ns` of silence; the others speak on and must stay. */
static void idle(uint32_t active, int64_t idle_ns)
{
    const uint32_t step = peer_count < 100 ? peer_count : 100;
    uint32_t silent = 0, gone = 0, early = 0, wrongly = 0, starved = 0;
    int64_t latest_ns = 0;
    for (uint32_t i = step / 2; i < peer_count; i += step) {
        /* After a bulk the server still hears of acknowledgements, so that its silence begins we do not know when. */
        struct peer *p = &peers[i + (peers[i].bulk && i + 1 < peer_count)];
        if (p->state == OPEN) {
            p->idle = true;
            silent++;
        }
    }
    const int64_t end = now_ns() + idle_ns + 2 * NS_PER_S;
    start_sending(active);
    while (now_ns() < end && open_count > peer_count - silent)
        turn("idle", 10);
    collect("idle");
    for (uint32_t i = 0; i < peer_count; i++) {
        const struct peer *p = &peers[i];
        if (p->state == CLOSED && !p->idle) { /* rightly closed, if we were too slow for its turn to come */
            if (p->closed_ns - (p->last_sent_ns > p->last_received_ns ? p->last_sent_ns : p->last_received_ns) < idle_ns)
                wrongly++;
            else
                starved++;
        }
        if (p->state == CLOSED && p->idle) {
            const int64_t late = p->closed_ns - p->last_received_ns - idle_ns;
            gone++;
            early += p->closed_ns < p->last_sent_ns + idle_ns;
            latest_ns = late > latest_ns ? late : latest_ns;
        }
    }
    printf("idle silent=%u closed=%u early=%u wrongly=%u starved=%u late_us=%lld connections=%u lost=%llu echoed=%llu\n", silent, gone, early,
           wrongly, starved, (long long)(latest_ns / 1000), open_count, lost, bytes_echoed);
}

int main(int argc, char **argv)
{
    (void)argc;
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    signal(SIGPIPE, SIG_IGN);
    const uint16_t port = (uint16_t)option(argv, "port", 0);
    const double seconds = (double)option(argv, "seconds", 5);
    peer_count = (uint32_t)option(argv, "connections", 10000);
    uint32_t active = (uint32_t)option(argv, "active", 128);
    active = active < peer_count ? active : peer_count;
    if (port == 0 || peer_count == 0 || (long long)peer_count > raise_fd_limit() - 16) {
        fprintf(stderr, "usage: load port=P [connections=N] [seconds=S] [active=A] [idle_ms=I] [quick=1]\n");
        return 2;
    }
    peers = calloc(peer_count, sizeof *peers);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!peers || epoll_fd < 0) {
        perror("load");
        return 1;
    }

    const int64_t began = now_ns();
    int64_t give_up = began + 10 * NS_PER_S;
    while (open_count + failed_connects < peer_count && now_ns() < give_up) {
        for (uint32_t before = UINT32_MAX; connecting < CONNECTING_AT_ONCE && before != connecting;) {
            before = connecting;
            connect_next(port);
        }
        turn("connect", 10);
    }
    printf("connected connections=%u took_us=%lld\n", open_count, (long long)((now_ns() - began) / 1000));
    await_go_ahead();

    measuring = true;
    const int64_t start = now_ns();
    start_sending(active);
    while (now_ns() < start + (int64_t)(seconds * 1e9) && in_flight > 0)
        turn("measure", 10);
    const int64_t stop = now_ns();
    const unsigned long long trips_in_time = trips;
    collect("measure");
    measuring = false;
    printf("measured connections=%u trips=%llu rate=%lld lost=%llu echoed=%llu p50_us=%lld p99_us=%lld max_us=%lld\n", open_count, trips,
           (long long)((double)trips_in_time * 1e9 / (double)(stop - start)), lost, bytes_echoed,
           (long long)percentile_us(0.50), (long long)percentile_us(0.99), (long long)(latency_max_ns / 1000));
    await_go_ahead();

    if (!option(argv, "quick", 0)) {
        bulk();
        idle(active, option(argv, "idle_ms", 5000) * NS_PER_MS);
        await_go_ahead();
    }
    for (uint32_t i = 0; i < peer_count; i++)
        if (peers[i].state == OPEN)
            close(peers[i].fd);
    return 0;
}
