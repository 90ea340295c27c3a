/* What the C examples share, little of it about Doorbell: sockets, and giving up. */
#ifndef EXAMPLES_COMMON_H
#define EXAMPLES_COMMON_H

#include <doorbell.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECONDS(n) ((n) * INT64_C(1000000000))

/* A deadline. */
static inline int64_t from_now(int64_t ns)
{
    return bell_now(BELL_CLOCK_MONOTONIC) + ns;
}

/* The result of a call of Doorbell that cannot fail unless the system is out of something. */
static inline int32_t must(const char *what, int32_t result)
{
    if (result >= 0)
        return result;
    fprintf(stderr, "%s: %s\n", what, bell_strerror(result));
    exit(1);
}

/* The result of a system call, likewise. */
static inline int need(const char *what, int result)
{
    if (result >= 0)
        return result;
    perror(what);
    exit(1);
}

/* Prints how the program is used, and ends it: well if that was asked for. */
static inline void usage(char **argv, const char *arguments)
{
    const int asked = argv[1] && !strcmp(argv[1], "--help");
    fprintf(asked ? stdout : stderr, "usage: %s %s\n", argv[0], arguments);
    exit(asked ? 0 : 2);
}

/* A whole number from `least` to `most`, or -1. */
static inline long number_argument(const char *text, long least, long most)
{
    char *end = NULL;
    const long n = text ? strtol(text, &end, 10) : -1;
    return text && end != text && !*end && n >= least && n <= most ? n : -1;
}

/* For the echo servers. */
struct options {
    uint16_t port;
    int64_t idle_ns; /* a connection that is silent for so long is ended */
};

static inline struct options read_options(int argc, char **argv)
{
    const long port = argc > 1 ? number_argument(argv[1], 0, 65535) : -1;
    const long idle_ms = argc > 2 ? number_argument(argv[2], 1, 1000000000) : 60000;
    if (port < 0 || idle_ms < 0 || argc > 3)
        usage(argv, "PORT [IDLE_MILLISECONDS]    (port 0: any free one). Talk to it by: nc 127.0.0.1 PORT");
    return (struct options){(uint16_t)port, idle_ms * (SECONDS(1) / 1000)};
}

/* A non-blocking listening socket on 127.0.0.1. Says on standard output where it listens. */
static inline int listen_on(uint16_t port)
{
    const int fd = need("socket", socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    need("bind", bind(fd, (struct sockaddr *)&address, size));
    need("listen", listen(fd, 1024));
    need("getsockname", getsockname(fd, (struct sockaddr *)&address, &size));
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

/* -1 when there is no client to be had just now. With no fd left the client is turned away: else it would stay, and the
 * listener ready, and the server busy with nothing. One thread at a time. */
static inline int accept_from(int listener)
{
    static int spare = -1;
    if (spare < 0)
        spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
    for (;;) {
        const int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0 || (errno != EMFILE && errno != ENFILE) || spare < 0)
            return fd;
        close(spare);
        const int turned_away = accept(listener, NULL, NULL);
        if (turned_away >= 0)
            close(turned_away);
        spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (turned_away < 0) /* EMFILE is said even if no client is there */
            return -1;
    }
}

/* What a connection has sent and not got back yet. */
struct echo {
    char bytes[4096];
    size_t begin, end;
};

/* Reads once and writes once, without waiting. Returns what to wait for: BELL_READ, or BELL_WRITE if some is left; 0
 * when the conversation is over. */
static inline uint32_t echo(struct echo *e, int fd)
{
    if (e->begin == e->end) {
        const ssize_t n = read(fd, e->bytes, sizeof e->bytes);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return 0;
        e->begin = 0;
        e->end = n > 0 ? (size_t)n : 0;
    }
    if (e->begin < e->end) {
        const ssize_t n = send(fd, e->bytes + e->begin, e->end - e->begin, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return 0;
        e->begin += n > 0 ? (size_t)n : 0;
    }
    return e->begin < e->end ? BELL_WRITE : BELL_READ;
}

#endif
