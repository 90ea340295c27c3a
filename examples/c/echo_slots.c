/* Echo server, driven by whoever waits: a thread for each connection, written as if read and write blocked.
 *
 * A thread that finds nothing to read waits on the slot of its registration. One of the threads that wait turns the
 * shard for all of them until its own news comes; there is no loop and no thread of the library's. Mode EDGE: one
 * registration for the life of a connection, and no system call to wait but the sleep itself. */
#define _GNU_SOURCE
#include "common.h"
#include <pthread.h>

struct connection {
    int fd;
    bell_handle handle;
    struct connection *next, **link; /* in the list of those that are open */
};

static struct options options;
static bell_t *bell;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t all_gone = PTHREAD_COND_INITIALIZER;
static struct connection *open_connections;

static bell_handle watch(int fd, uint32_t interest)
{
    bell_handle handle;
    bell_fd_spec spec = {
        .size = sizeof spec,
        .fd = fd,
        .interest = interest,
        .mode = BELL_EDGE,
        .target = {.kind = BELL_TARGET_SLOT},
    };
    must("bell_register_fd", bell_register_fd(bell, &spec, &handle));
    return handle;
}

/* Sleeps until there is news. Is it worth another try? Not if the deadline passed, or the fd was closed. */
static int wait_for(bell_handle handle, uint32_t direction, int64_t deadline_ns)
{
    int32_t news;
    while ((news = bell_slot_wait(bell, handle, direction, deadline_ns, 0)) == -EINTR)
        ;
    return news > 0 && !(news & BELL_CLOSED);
}

static ssize_t read_some(struct connection *c, char *bytes, size_t size)
{
    ssize_t n;
    while ((n = read(c->fd, bytes, size)) < 0 && errno == EAGAIN)
        if (!wait_for(c->handle, BELL_READ, from_now(options.idle_ns)))
            return -1;
    return n;
}

static int write_all(struct connection *c, const char *bytes, size_t size)
{
    while (size > 0) {
        const ssize_t n = send(c->fd, bytes, size, MSG_NOSIGNAL);
        if (n >= 0) {
            bytes += n;
            size -= (size_t)n;
        } else if (errno != EAGAIN || !wait_for(c->handle, BELL_WRITE, from_now(options.idle_ns))) {
            return 0;
        }
    }
    return 1;
}

static void hang_up(struct connection *c)
{
    must("bell_unregister", bell_unregister(bell, c->handle, 0)); /* before the fd is closed */
    pthread_mutex_lock(&lock);
    close(c->fd);
    if (c->next)
        c->next->link = c->link;
    *c->link = c->next;
    free(c);
    if (!open_connections)
        pthread_cond_signal(&all_gone);
    pthread_mutex_unlock(&lock);
}

static void *converse(void *argument)
{
    struct connection *c = argument;
    char bytes[4096];
    ssize_t n;
    while ((n = read_some(c, bytes, sizeof bytes)) > 0 && write_all(c, bytes, (size_t)n))
        ;
    hang_up(c);
    return NULL;
}

static void *accept_all(void *argument)
{
    const int listener = *(int *)argument;
    const bell_handle handle = watch(listener, BELL_READ);
    do {
        int fd;
        while ((fd = accept_from(listener)) >= 0) {
            struct connection *c = malloc(sizeof *c);
            *c = (struct connection){.fd = fd, .handle = watch(fd, BELL_READ | BELL_WRITE)};
            pthread_mutex_lock(&lock);
            c->next = open_connections;
            c->link = &open_connections;
            if (c->next)
                c->next->link = &c->next;
            open_connections = c;
            pthread_mutex_unlock(&lock);
            pthread_t thread;
            if (pthread_create(&thread, NULL, converse, c) == 0)
                pthread_detach(thread);
            else
                hang_up(c);
        }
    } while (wait_for(handle, BELL_READ, BELL_NEVER));
    must("bell_unregister", bell_unregister(bell, handle, 0));
    return NULL;
}

int main(int argc, char **argv)
{
    options = read_options(argc, argv);
    int listener = listen_on(options.port);
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* the threads inherit it, so only we are told */
    must("bell_create", bell_create(NULL, &bell));
    pthread_t acceptor;
    if (pthread_create(&acceptor, NULL, accept_all, &listener) != 0)
        return 1;

    int number;
    sigwait(&signals, &number);
    must("bell_close_fd", bell_close_fd(bell, listener)); /* who waits on it is told CLOSED */
    pthread_join(acceptor, NULL);
    pthread_mutex_lock(&lock);
    for (struct connection *c = open_connections; c; c = c->next)
        shutdown(c->fd, SHUT_RDWR); /* its thread reads the end, and leaves */
    while (open_connections)
        pthread_cond_wait(&all_gone, &lock);
    pthread_mutex_unlock(&lock);
    must("bell_destroy", bell_destroy(bell, 0));
    return 0;
}
