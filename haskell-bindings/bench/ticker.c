/* Writes the time, in nanoseconds of CLOCK_MONOTONIC, to an fd, again and again, from a thread that GHC does not know. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

struct job {
    int fd, count, us;
};

static void *tick(void *arg)
{
    struct job job = *(struct job *)arg;
    free(arg);
    for (int i = 0; i < job.count; i++) {
        /* Not in step with the runtime's time slices. */
        struct timespec pause = {.tv_nsec = 1000L * (job.us + job.us * (i * 37 % 50) / 50)};
        nanosleep(&pause, NULL);
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        int64_t ns = now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
        if (write(job.fd, &ns, sizeof ns) != sizeof ns)
            break;
    }
    return NULL;
}

void bench_ticker(int fd, int count, int us)
{
    struct job *job = malloc(sizeof *job);
    *job = (struct job){fd, count, us};
    pthread_t thread;
    pthread_create(&thread, NULL, tick, job);
    pthread_detach(thread);
}

/* How often the threads of the process gave up the CPU by themselves. */
int64_t bench_switches(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nvcsw;
}
