/* An echo server on Doorbell: what its three ways of waiting share. Read by_poll.c first. */
#ifndef DEMO_SERVER_H
#define DEMO_SERVER_H

#include <doorbell.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct server {
    bell_t *bell;
    int listener;             /* a listening, non-blocking socket */
    uint32_t mode;            /* BELL_EDGE, or BELL_ONESHOT where the library has no edges */
    uint32_t capacity;        /* the most connections at a time */
    int64_t idle_ns;          /* a connection that says nothing for so long is closed */
    atomic_uint open;         /* connections now */
    atomic_uint idle_closed;  /* connections closed because they were idle */
    atomic_ulong write_waits; /* writes that would have blocked */
};

/* One connection. It is never given back to malloc, only taken again for another client: a thread that still holds an
 * event of the old client then sees a `handle` that is not the event's. */
struct connection {
    int fd;
    bool ending;         /* RDHUP, HUP or ERR was reported: read up to the end */
    uint32_t interest;   /* what its ONESHOT registration waits for; unused with EDGE */
    bell_handle handle;  /* its registration, 0 when it is closed */
    char *rest;          /* read, and not written yet, because the peer does not read */
    size_t rest_start, rest_end;
    struct connection *next_free;

    bell_handle timeout;  /* by_queue.c: its idle timeout */
    int64_t last_ns;      /* by_queue.c: when it last said something */
    pthread_mutex_t lock; /* by_queue.c */
    sem_t accepted;       /* by_slots.c */
    struct server *server;
};

/* The ways. `prepare` runs before the first client and may lower `capacity`; `run` returns when the manager is destroyed. */
void poll_prepare(struct server *server, bell_config *config);
void poll_run(struct server *server);
void slots_prepare(struct server *server, bell_config *config);
void slots_run(struct server *server);
void queue_prepare(struct server *server, bell_config *config);
void queue_run(struct server *server);

/* Accepts one client: a non-blocking fd, or -1 when there is no more. */
int accept_client(struct server *server);

struct connection *connection_take(struct server *server, int fd);
void connection_give(struct server *server, struct connection *c);

/* Echoes as much as there is, without blocking. */
enum echoed { ECHOED_ALL, ECHO_BLOCKED, ECHO_ENDED };
enum echoed echo(struct server *server, struct connection *c, uint32_t ready);

/* Ends the program if `result` is an error of the library. */
int32_t must(const char *what, int32_t result);

#endif
