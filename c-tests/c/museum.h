/* museum.h: what the tests of the museum share. Each is named after an entry of a list of real bugs of other libraries;
 * MUSEUM.md says which entry is tested where. */

#ifndef MUSEUM_H
#define MUSEUM_H

#include "faults.h"
#include <sys/wait.h>

/* EDGE where there is such a thing. */
static inline uint32_t edge_mode(void)
{
    return has_edge() ? BELL_EDGE : BELL_ONESHOT;
}

/* A new eventfd under a number that was just given back. */
static inline void open_eventfd_at(int number)
{
    int fd = make_eventfd();
    if (fd != number) {
        CHECK_EQ(dup3(fd, number, O_CLOEXEC), number);
        CHECK_EQ(close(fd), 0);
    }
}

static inline int is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

/* What `/proc/self/fd/<fd>` points to. */
static inline void fd_kind(int fd, char *out, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, out, size - 1);
    out[n > 0 ? n : 0] = 0;
}

/* The fds that bell_create made: those that are open after it and were not before. */
typedef struct own_fds {
    int n, fds[16];
} own_fds;

static inline bell_t *make_bell_and_see_fds(uint32_t threads, own_fds *own)
{
    unsigned char before[1024];
    for (int fd = 0; fd < 1024; fd++)
        before[fd] = (unsigned char)is_open(fd);
    bell_t *bell = make_bell(1, threads);
    own->n = 0;
    for (int fd = 0; fd < 1024 && own->n < 16; fd++)
        if (!before[fd] && is_open(fd))
            own->fds[own->n++] = fd;
    CHECK_GE(own->n, 2);
    return bell;
}

/* The one whose name contains `kind`; -1 if there is none. */
static inline int own_fd_of(const own_fds *own, const char *kind)
{
    char name[128];
    for (int i = 0; i < own->n; i++) {
        fd_kind(own->fds[i], name, sizeof name);
        if (strstr(name, kind))
            return own->fds[i];
    }
    return -1;
}

/* A child that keeps a copy of every fd that is open now. */
static inline pid_t start_holder(int release[2])
{
    CHECK(pipe2(release, O_CLOEXEC) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char c;
        CHECK_EQ(close(release[1]), 0);
        _exit(read(release[0], &c, 1) == 0 ? 0 : 1);
    }
    return child;
}

static inline void end_holder(pid_t child, int release[2])
{
    int status;
    CHECK_EQ(close(release[1]), 0);
    CHECK_EQ(close(release[0]), 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

/* Whether the kernel's set of some epoll of ours has an entry with this cookie. */
static inline int kernel_knows(bell_handle handle)
{
    DIR *dir = opendir("/proc/self/fdinfo");
    struct dirent *entry;
    int found = 0;
    CHECK(dir != NULL);
    while ((entry = readdir(dir))) {
        char path[300], line[256];
        snprintf(path, sizeof path, "/proc/self/fdinfo/%s", entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "re");
        while (file && fgets(line, sizeof line, file)) {
            const char *data = strstr(line, "data:");
            if (!strncmp(line, "tfd:", 4) && data && strtoull(data + 5, NULL, 16) == handle)
                found++;
        }
        if (file)
            fclose(file);
    }
    closedir(dir);
    return found;
}

static inline uint64_t museum_random(void)
{
    static uint64_t x = 0x9E3779B97F4A7C15u;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return x;
}

#endif
