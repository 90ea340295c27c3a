/* Runs a command, and starts it anew when a file changes:
 *     supervise notes.md style.css -- make
 * SIGTERM or SIGINT stops the command and then us.
 *
 * pidfd, signalfd and inotify are ordinary fds to Doorbell: no SIGCHLD, no handlers, one loop. When files change, the
 * command is stopped once they have been quiet for 100 ms. A command that does not end within 3 s of SIGTERM is killed.
 * Exit code: 0 stopped by a signal, 1 something failed, 2 usage. */
#define _GNU_SOURCE
#include "common.h"
#include <libgen.h>
#include <limits.h>
#include <spawn.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define QUIET (SECONDS(1) / 10)
#define GRACE SECONDS(3)

extern char **environ;

static bell_t *bell;
static char **command;
static pid_t child; /* 0: none is running */
static int child_fd = -1;
static bell_handle child_ended, quiet, grace;
static int changed, start_anew, stopping;

static bell_handle watch(int fd)
{
    bell_handle handle;
    bell_fd_spec spec = {
        .size = sizeof spec,
        .fd = fd,
        .interest = BELL_READ,
        .mode = BELL_LEVEL,
        .target = {.kind = BELL_TARGET_POLL},
    };
    must("bell_register_fd", bell_register_fd(bell, &spec, &handle));
    return handle;
}

/* A timeout that is not armed: bell_rearm arms it, and may move it later. */
static bell_handle timer(void)
{
    bell_handle handle;
    bell_timeout_spec spec = {
        .size = sizeof spec,
        .deadline_ns = BELL_NEVER,
        .target = {.kind = BELL_TARGET_POLL},
    };
    must("bell_register_timeout", bell_register_timeout(bell, &spec, &handle));
    return handle;
}

static void arm(bell_handle timeout, int64_t delay_ns)
{
    must("bell_rearm", bell_rearm(bell, timeout, NULL, from_now(delay_ns)));
}

static void start(void)
{
    /* The signals that we have blocked for the signalfd are the child's to get. A process group of its own, so that
     * what it starts is stopped with it. */
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setsigmask(&attributes, &none);
    const int error = posix_spawnp(&child, command[0], NULL, &attributes, command, environ);
    posix_spawnattr_destroy(&attributes);
    if (error) {
        fprintf(stderr, "supervise: %s: %s\n", command[0], strerror(error));
        exit(1);
    }
    child_fd = (int)syscall(SYS_pidfd_open, child, 0); /* readable when the child has ended; Linux 5.3 */
    if (child_fd < 0)
        kill(-child, SIGKILL);
    need("pidfd_open", child_fd);
    child_ended = watch(child_fd);
    start_anew = 0;
    fprintf(stderr, "supervise: %s runs as %d\n", command[0], (int)child);
}

static void stop(void)
{
    kill(-child, SIGTERM); /* not waited for yet, so the number is still the child's */
    arm(grace, GRACE);
}

static void reap(void)
{
    int status;
    waitpid(child, &status, 0);
    must("bell_unregister", bell_unregister(bell, child_ended, 0));
    close(child_fd);
    child = 0;
    must("bell_rearm", bell_rearm(bell, grace, NULL, BELL_NEVER));
    if (WIFEXITED(status))
        fprintf(stderr, "supervise: %s ended with %d\n", command[0], WEXITSTATUS(status));
    else
        fprintf(stderr, "supervise: %s was ended by signal %d\n", command[0], WTERMSIG(status));
    if (start_anew && !stopping)
        start();
}

/* Editors replace files: so their folders are watched, for their names. */
static int watch_folder(int notify, const char *file)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", file);
    const int folder = inotify_add_watch(notify, dirname(copy), IN_CLOSE_WRITE | IN_MOVED_TO);
    return need(file, folder);
}

static int is_watched(const struct inotify_event *event, char **files, const int *folders, int n)
{
    for (int i = 0; i < n; i++) {
        char copy[PATH_MAX];
        snprintf(copy, sizeof copy, "%s", files[i]);
        if (folders[i] == event->wd && event->len > 0 && !strcmp(basename(copy), event->name))
            return 1;
    }
    return 0;
}

static int read_changes(int notify, char **files, const int *folders, int n)
{
    _Alignas(struct inotify_event) char bytes[4096];
    const ssize_t size = read(notify, bytes, sizeof bytes);
    int found = 0;
    for (ssize_t at = 0; at < size;) {
        const struct inotify_event *event = (const struct inotify_event *)(bytes + at);
        if (is_watched(event, files, folders, n)) {
            if (!changed++)
                fprintf(stderr, "supervise: %s changed\n", event->name);
            found = 1;
        }
        at += (ssize_t)(sizeof *event + event->len);
    }
    return found;
}

int main(int argc, char **argv)
{
    int n = 0; /* files */
    while (n + 1 < argc && strcmp(argv[n + 1], "--") && strcmp(argv[1], "--help"))
        n++;
    command = argv + n + 2;
    if (n < 1 || n + 2 >= argc)
        usage(argv, "FILE ... -- COMMAND [ARGUMENT ...]");
    char **files = argv + 1;

    must("bell_create", bell_create(NULL, &bell));
    const int notify = need("inotify_init1", inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    int folders[argc];
    for (int i = 0; i < n; i++)
        folders[i] = watch_folder(notify, files[i]);
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    const int signals = need("signalfd", signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC));
    const bell_handle file_changed = watch(notify), signal_came = watch(signals);
    quiet = timer();
    grace = timer();
    start();

    while (!stopping || child) {
        bell_event events[8];
        const int32_t got = bell_poll(bell, 0, events, 8, BELL_NEVER);
        if (got != -EINTR) /* as after SIGSTOP and SIGCONT */
            must("bell_poll", got);
        for (int32_t i = 0; i < got; i++) {
            if (events[i].handle == child_ended) {
                reap();
            } else if (events[i].handle == signal_came) {
                struct signalfd_siginfo info;
                if (read(signals, &info, sizeof info) == sizeof info && !stopping++ && child)
                    stop();
            } else if (events[i].handle == file_changed) {
                if (read_changes(notify, files, folders, n))
                    arm(quiet, QUIET);
            } else if (events[i].handle == quiet && !stopping) {
                changed = 0;
                if (!child)
                    start();
                else if (!start_anew++)
                    stop();
            } else if (events[i].handle == grace && child) {
                kill(-child, SIGKILL);
            }
        }
    }
    must("bell_destroy", bell_destroy(bell, 0));
    close(signals);
    close(notify);
    return 0;
}
