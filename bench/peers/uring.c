/* io_uring by liburing, as its manual pages and io_uring_setup(2) advise for one thread: multishot polls,
 * SINGLE_ISSUER with DEFER_TASKRUN, a registered ring. */
#include "common.h"

#include <liburing.h>

#define BATCH 1024

static struct io_uring ring_make(void)
{
    struct io_uring ring;
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
        .cq_entries = 4 * BATCH,
    };
    if ((errno = -io_uring_queue_init_params(BATCH, &ring, &params)))
        die("io_uring_queue_init_params");
    io_uring_register_ring_fd(&ring);
    return ring;
}
static struct io_uring_sqe *next_sqe(struct io_uring *ring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    if (!sqe) {
        MUST(io_uring_submit(ring));
        sqe = io_uring_get_sqe(ring);
    }
    return sqe;
}
static void watch_fd(struct io_uring *ring, int fd)
{
    struct io_uring_sqe *sqe = next_sqe(ring);
    io_uring_prep_poll_multishot(sqe, fd, POLLIN);
    io_uring_sqe_set_data64(sqe, fd);
}
static void forget_fd(struct io_uring *ring, int fd)
{
    struct io_uring_sqe *sqe = next_sqe(ring);
    io_uring_prep_poll_remove(sqe, fd);
    io_uring_sqe_set_data64(sqe, 0);
}

static void w1(void)
{
    struct w1 w = w1_make();
    struct io_uring ring = ring_make();
    for (int i = 0; i < w.n; i++)
        watch_fd(&ring, w.fds[i]);
    MUST(io_uring_submit(&ring));
    w1_kick(&w);
    for (;;) {
        MUST(io_uring_submit_and_wait(&ring, 1));
        struct io_uring_cqe *cqes[BATCH];
        const unsigned n = io_uring_peek_batch_cqe(&ring, cqes, BATCH);
        for (unsigned i = 0; i < n; i++) {
            const int fd = (int)io_uring_cqe_get_data64(cqes[i]);
            if (!(cqes[i]->flags & IORING_CQE_F_MORE))
                watch_fd(&ring, fd); /* the kernel ended it: ask again */
            if (w1_event(&w, fd))
                return;
        }
        io_uring_cq_advance(&ring, n);
    }
}

static void w2(void)
{
    struct w2 w = w2_make(true);
    struct io_uring ring = ring_make();
    watch_fd(&ring, w.fd);
    MUST(io_uring_submit(&ring));
    do {
        w2_ping(&w);
        while (!w2_read(&w)) {
            MUST(io_uring_submit_and_wait(&ring, 1));
            io_uring_cq_advance(&ring, io_uring_cq_ready(&ring));
        }
    } while (!w2_pong(&w));
}

static void w3(void)
{
    const int block = opt("block"), n = opt("n");
    int *fds = make_eventfds(n, 0);
    struct io_uring ring = ring_make();
    const long blocks = opt("events") / block;
    struct watch watch;
    for (long b = -blocks / 8; b < blocks; b++) {
        if (b == 0)
            watch_start(&watch);
        const int *at = fds + (b + blocks) % (n / block) * block;
        for (int i = 0; i < block; i++)
            watch_fd(&ring, at[i]);
        MUST(io_uring_submit(&ring));
        for (int i = 0; i < block; i++)
            forget_fd(&ring, at[i]);
        MUST(io_uring_submit_and_wait(&ring, 2 * block));
        io_uring_cq_advance(&ring, io_uring_cq_ready(&ring));
    }
    watch_stop(&watch, blocks * block);
}

static void w7(void)
{
    struct w7 w = w7_make();
    struct io_uring ring = ring_make();
    do {
        int64_t left = W7_NS;
        w.due = now_ns() + left;
        do {
            struct __kernel_timespec t = { left / NS, left % NS };
            struct io_uring_cqe *cqe;
            io_uring_wait_cqe_timeout(&ring, &cqe, &t);
        } while ((left = w.due - now_ns()) > 0);
    } while (!w7_fired(&w));
}

int main(int argc, char **argv)
{
    static const struct row rows[] = {
        { "w1", "multishot", w1 }, { "w2", "multishot", w2 }, { "w3", "batch", w3 }, { "w7", "wait", w7 }, { 0 },
    };
    return run_row(argc, argv, rows);
}
