/* What the three programs of the demo share: options and replies of the form name=value, the clock, the fd limit. */
#ifndef DEMO_COMMON_H
#define DEMO_COMMON_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define NS_PER_MS 1000000ll
#define NS_PER_S 1000000000ll

static inline int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

/* The number after `name=` in a line like "stats open=3 heap=800"; `otherwise` if it is not there. */
static inline long long number_in(const char *line, const char *name, long long otherwise)
{
    const size_t length = strlen(name);
    for (const char *at = line; (at = strstr(at, name)); at += length)
        if ((at == line || at[-1] == ' ') && at[length] == '=')
            return strtoll(at + length + 1, NULL, 10);
    return otherwise;
}

/* The number of an argument `name=value`. */
static inline long long option(char **arguments, const char *name, long long otherwise)
{
    for (; *arguments; arguments++)
        otherwise = number_in(*arguments, name, otherwise);
    return otherwise;
}

/* Raises the soft limit of open files to the hard one, and says how many that allows. */
static inline long long raise_fd_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 1024;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur == RLIM_INFINITY ? 1 << 30 : (long long)limit.rlim_cur;
}

#endif
