/* A thread pool: several workers wait on one queue. A job comes to the queue by a call (a user event that is posted),
 * or when an fd is ready. The workers also drive: whichever waits turns the shard for the others.
 *
 * The program on top prints size and checksum (FNV-1a, 64 bits) of each file whose name it reads:
 *     find . -name '*.c' | thread_pool 4
 * `kill -USR1` makes it say how far it is. Exit code: 0, 1 if a file could not be read, 2 usage. */
#define _GNU_SOURCE
#include "common.h"
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

/* ---- the pool ---- */

#define MOST_WORKERS 64

/* What is posted with a user event: is it for once, or will it be posted again? */
enum { ONCE = 1, AGAIN = 2 };

struct job {
    void (*run)(struct job *job); /* may free the job, or hand it in again */
};

static bell_t *bell;
static bell_handle queue, stop;
static pthread_t workers[MOST_WORKERS];
static long worker_count;

/* An event that makes some worker run `job`, each time it is posted; posts that nobody has seen yet count once. */
static bell_handle pool_event(struct job *job)
{
    const bell_target target = {.kind = BELL_TARGET_QUEUE, .queue = queue};
    bell_handle handle;
    must("bell_register_user", bell_register_user(bell, 0, &target, (uintptr_t)job, &handle));
    return handle;
}

/* `job` will be run by some worker, soon. */
static void pool_run(struct job *job)
{
    must("bell_post", bell_post(bell, pool_event(job), ONCE));
}

/* `job` will be run by some worker when `fd` can be read; a regular file always can. */
static void pool_run_when_readable(struct job *job, int fd)
{
    bell_fd_spec spec = {
        .size = sizeof spec,
        .fd = fd,
        .interest = BELL_READ,
        .mode = BELL_ONESHOT,
        .flags = BELL_AUTO_RELEASE | BELL_FD_ALWAYS_READY,
        .user_data = (uintptr_t)job,
        .target = {.kind = BELL_TARGET_QUEUE, .queue = queue},
    };
    bell_handle handle;
    must("bell_register_fd", bell_register_fd(bell, &spec, &handle));
}

static void *work(void *argument)
{
    for (;;) {
        bell_event event;
        const int32_t n = bell_queue_wait(bell, queue, &event, 1, BELL_NEVER);
        if (n == -EINTR)
            continue;
        must("bell_queue_wait", n);
        if (event.handle == stop) {
            bell_post(bell, stop, AGAIN); /* for the next worker */
            return argument;
        }
        if (event.ready == BELL_USER && event.data == ONCE) /* the registration of an fd has freed itself */
            must("bell_unregister", bell_unregister(bell, event.handle, 0));
        struct job *job = (struct job *)(uintptr_t)event.user_data;
        job->run(job);
    }
}

static void pool_open(void)
{
    must("bell_create", bell_create(NULL, &bell));
    must("bell_queue_create", bell_queue_create(bell, 0, NULL, &queue));
    stop = pool_event(NULL);
}

static void pool_start(long n)
{
    for (worker_count = 0; worker_count < n; worker_count++)
        need("pthread_create", -pthread_create(&workers[worker_count], NULL, work, NULL));
}

/* Tells the workers to leave; jobs that are in the queue already are run first. May be called by a job. */
static void pool_stop(void)
{
    must("bell_post", bell_post(bell, stop, AGAIN));
}

static void pool_join(void)
{
    for (long i = 0; i < worker_count; i++)
        pthread_join(workers[i], NULL);
    must("bell_destroy", bell_destroy(bell, 0));
}

/* ---- the program ---- */

struct file {
    struct job job;
    char name[];
};

static atomic_long unfinished = 1, done, failed; /* the reading of names is unfinished too */
static bell_handle progress;

static void finish(void)
{
    if (atomic_fetch_sub(&unfinished, 1) == 1)
        pool_stop();
}

static void checksum(struct job *job)
{
    struct file *file = (struct file *)job;
    uint64_t sum = UINT64_C(0xcbf29ce484222325), size = 0;
    unsigned char bytes[65536];
    const int fd = open(file->name, O_RDONLY | O_CLOEXEC);
    ssize_t n = -1;
    while (fd >= 0 && (n = read(fd, bytes, sizeof bytes)) > 0) {
        size += (uint64_t)n;
        for (ssize_t i = 0; i < n; i++)
            sum = (sum ^ bytes[i]) * UINT64_C(0x100000001b3);
    }
    if (n < 0)
        fprintf(stderr, "%s: %s\n", file->name, strerror(errno));
    else
        printf("%016" PRIx64 " %10" PRIu64 " %s\n", sum, size, file->name);
    if (fd >= 0)
        close(fd);
    free(file);
    atomic_fetch_add(n < 0 ? &failed : &done, 1);
    finish();
}

static void add_file(const char *name, size_t length)
{
    struct file *file = malloc(sizeof *file + length + 1);
    if (!file)
        must("malloc", -ENOMEM);
    file->job.run = checksum;
    memcpy(file->name, name, length);
    file->name[length] = 0;
    atomic_fetch_add(&unfinished, 1);
    pool_run(&file->job);
}

/* Runs when standard input is readable; on one worker at a time. A queue is served in order, so what is handed in here
 * is begun before we read on, and the queue cannot grow without bound. */
static void read_names(struct job *job)
{
    static char bytes[8192];
    static size_t length;
    const ssize_t n = read(0, bytes + length, sizeof bytes - length);
    length += n > 0 ? (size_t)n : 0;
    char *name = bytes, *end;
    while ((end = memchr(name, '\n', (size_t)(bytes + length - name)))) {
        if (end > name)
            add_file(name, (size_t)(end - name));
        name = end + 1;
    }
    length = (size_t)(bytes + length - name);
    memmove(bytes, name, length);
    if (n > 0 && length < sizeof bytes) {
        pool_run_when_readable(job, 0);
        return;
    }
    if (length > 0)
        add_file(bytes, length);
    finish();
}

static void report(struct job *job)
{
    (void)job;
    fprintf(stderr, "%ld done, %ld failed\n", atomic_load(&done), atomic_load(&failed));
}

static struct job read_job = {read_names}, report_job = {report};

/* bell_post is async-signal-safe. */
static void on_signal(int number)
{
    (void)number;
    bell_post(bell, progress, AGAIN);
}

int main(int argc, char **argv)
{
    const long n = argc == 2 ? number_argument(argv[1], 1, MOST_WORKERS) : -1;
    if (n < 0)
        usage(argv, "WORKERS <NAMES    (1 to 64 workers; one file name in each line)");
    pool_open();
    progress = pool_event(&report_job);
    const struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    pool_start(n);
    pool_run_when_readable(&read_job, 0);
    pool_join();
    return atomic_load(&failed) > 0;
}
