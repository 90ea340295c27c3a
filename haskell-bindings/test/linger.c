/* Keeps a process that has left hs_exit alive for 50 ms. */
#include <stdlib.h>
#include <time.h>

static void wait_50_ms(void)
{
    struct timespec t = {.tv_nsec = 50000000};
    nanosleep(&t, NULL);
}

void linger(void)
{
    atexit(wait_50_ms);
}
