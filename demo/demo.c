/* Runs the echo server in each of its ways against the load, shows a live line, then a table. `demo --help` tells more. */
#define _GNU_SOURCE
#include "common.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAYS 3
#define SPARE_FDS 64
#define REPLY_MS 15000 /* the longest silence of a child */
#define CONNECTIONS_UNDER_STRACE 1000

static const char *const names[WAYS] = { "poll", "slots", "queue" };
static const char *const headings[WAYS] = { "by bell_poll", "by slots", "by a queue" };

struct child {
    pid_t pid;
    int in, out;
    size_t length;
    char text[8192]; /* read, and not yet handed out as a line */
};

struct result {
    long long connections, trips, rate, lost, echoed, p50_us, p99_us, max_us;
    long long silent, closed, early, wrongly, starved, late_us;
    long long heap, bell_heap, resident, write_waits; /* of the server */
    long long waits, kernel_waits, ctl_calls, wakes, handovers, moved; /* in the measured seconds */
    long long armed, fired, disagreements, left_open; /* until the end */
    bool traced;
    double per_wait, per_wait_io, per_wait_kernel, per_wait_futex; /* system calls */
};

static const char *folder; /* where the programs are */
static bool on_terminal, failed, tracing;
static long long seconds, active, idle_ms;

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("%sdemo: ", on_terminal ? "\r\033[K" : "");
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    failed = true;
}

/* --- children and their lines --- */

/* Starts a program; `speaks_on` is the fd on which it writes its lines. */
static bool start(struct child *child, int speaks_on, char **arguments)
{
    int to[2], from[2];
    memset(child, 0, sizeof *child);
    fflush(stdout);
    if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0 || (child->pid = fork()) < 0) {
        fail("%s: %s", arguments[0], strerror(errno));
        return false;
    }
    if (child->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(to[0], STDIN_FILENO);
        dup2(from[1], speaks_on);
        execvp(arguments[0], arguments);
        perror(arguments[0]);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    child->in = to[1];
    child->out = from[0];
    return true;
}

static bool start_program(struct child *child, const char *program, const char *first, ...)
{
    char path[4096], text[8][64], *arguments[10] = { path };
    snprintf(path, sizeof path, "%s/%s", folder, program);
    va_list list;
    va_start(list, first);
    int n = 0;
    for (const char *format = first; format; format = va_arg(list, const char *)) {
        snprintf(text[n], sizeof text[n], format, strchr(format, '%') ? va_arg(list, long long) : 0ll);
        arguments[n + 1] = text[n];
        n++;
    }
    va_end(list);
    return start(child, STDOUT_FILENO, arguments);
}

/* The next line without its end; false at the end of the child, or if it is silent for too long. */
static bool next_line(struct child *child, char *line, size_t size)
{
    for (;;) {
        char *end = memchr(child->text, '\n', child->length);
        if (end) {
            const size_t n = (size_t)(end - child->text);
            snprintf(line, size, "%.*s", (int)n, child->text);
            child->length -= n + 1;
            memmove(child->text, end + 1, child->length);
            return true;
        }
        struct pollfd ready = { .fd = child->out, .events = POLLIN };
        if (poll(&ready, 1, REPLY_MS) <= 0 || child->length == sizeof child->text)
            return false;
        const ssize_t n = read(child->out, child->text + child->length, sizeof child->text - child->length);
        if (n <= 0)
            return false;
        child->length += (size_t)n;
    }
}

static bool ask(struct child *child, const char *request, char *line, size_t size)
{
    return write(child->in, request, strlen(request)) > 0 && next_line(child, line, size);
}

/* Waits for the end of a child, and hastens it after a while. False if it did not end well. */
static bool finish(struct child *child)
{
    int status = 0;
    if (child->pid <= 0)
        return false;
    close(child->in);
    for (int i = 0; i < 500; i++) {
        if (waitpid(child->pid, &status, WNOHANG) == child->pid) {
            close(child->out);
            return WIFEXITED(status) && WEXITSTATUS(status) == 0;
        }
        usleep(10000);
    }
    kill(child->pid, SIGKILL);
    waitpid(child->pid, &status, 0);
    close(child->out);
    return false;
}

/* --- the live line --- */

static void show(int way, const char *line)
{
    static int64_t last_ns;
    if (!on_terminal && now_ns() < last_ns + NS_PER_S)
        return;
    last_ns = now_ns();
    char phase[16] = "";
    sscanf(line, "progress %15s", phase);
    if (tracing)
        strcpy(phase, "strace");
    printf("%s%-12s %-7s %6lld open %7lld round trips/s  p99 %5.1f ms  lost %lld%s", on_terminal ? "\r\033[K" : "",
           headings[way], phase, number_in(line, "connections", 0), number_in(line, "rate", 0),
           (double)number_in(line, "p99_us", 0) / 1000, number_in(line, "lost", 0), on_terminal ? "" : "\n");
    fflush(stdout);
}

/* Shows progress until the load says how a phase ended. */
static bool phase(int way, struct child *load, const char *name, char *line, size_t size)
{
    while (next_line(load, line, size)) {
        if (strncmp(line, "progress ", 9) == 0)
            show(way, line);
        else if (strncmp(line, name, strlen(name)) == 0)
            return true;
    }
    fail("%s: the load ended, or was silent for %d s, in the phase \"%s\"", headings[way], REPLY_MS / 1000, name);
    return false;
}

/* --- one run --- */

/* The server may still be accepting and registering the last connections: waits until it has them and its listener. */
static void settle(struct child *server, long long opened, char *stats, size_t size)
{
    for (int i = 0; i < 200 && ask(server, "stats\n", stats, size) && number_in(stats, "fds", 0) < opened + 1; i++)
        usleep(10000);
}

static bool run(int way, long long connections, struct result *r, struct child *server, struct child *load)
{
    char line[2048], before[2048], after[2048];
    if (!start_program(server, "server", names[way], "connections=%lld", connections, "idle_ms=%lld", idle_ms, NULL))
        return false;
    if (!next_line(server, line, sizeof line)) {
        fail("%s: the server did not start", headings[way]);
        return false;
    }
    const long long capacity = number_in(line, "connections", 0);
    if (capacity < connections)
        printf("%s: %lld connections, not %lld: %s\n", headings[way], capacity, connections,
               number_in(line, "epoll", 1) ? "the system allows the server no more" : "the library was built with poll(2)");
    if (!start_program(load, "load", "port=%lld", number_in(line, "port", 0), "connections=%lld", capacity, "seconds=%lld", seconds,
                       "active=%lld", active, "idle_ms=%lld", idle_ms, NULL))
        return false;

    if (!phase(way, load, "connected", line, sizeof line))
        return false;
    const long long opened = number_in(line, "connections", 0);
    if (opened != capacity)
        fail("%s: %lld connections were made, not %lld", headings[way], opened, capacity);
    settle(server, opened, before, sizeof before);
    if (write(load->in, "go\n", 3) != 3 || !phase(way, load, "measured", line, sizeof line) ||
        !ask(server, "stats\n", after, sizeof after)) {
        fail("%s: the server or the load is gone", headings[way]);
        return false;
    }
    r->connections = number_in(line, "connections", 0);
    r->trips = number_in(line, "trips", 0);
    r->rate = number_in(line, "rate", 0);
    r->p50_us = number_in(line, "p50_us", 0);
    r->p99_us = number_in(line, "p99_us", 0);
    r->max_us = number_in(line, "max_us", 0);
    r->heap = number_in(after, "heap", 0) / (opened ? opened : 1);
    r->bell_heap = number_in(after, "bell_heap", 0) / (opened ? opened : 1);
    r->resident = number_in(after, "resident", 0) / (opened ? opened : 1);
#define MEASURED(name) (number_in(after, name, 0) - number_in(before, name, 0))
    r->waits = MEASURED("events");
    r->kernel_waits = MEASURED("kernel_waits");
    r->ctl_calls = MEASURED("ctl_calls");
    r->wakes = MEASURED("wakes");
    r->handovers = MEASURED("handovers");
    r->moved = MEASURED("moved");
#undef MEASURED

    if (write(load->in, "go\n", 3) != 3 || !phase(way, load, "idle", line, sizeof line))
        return false;
    r->lost = number_in(line, "lost", 0);
    r->echoed = number_in(line, "echoed", 0);
    r->silent = number_in(line, "silent", 0);
    r->closed = number_in(line, "closed", 0);
    r->early = number_in(line, "early", 0);
    r->wrongly = number_in(line, "wrongly", 0);
    r->starved = number_in(line, "starved", 0);
    r->late_us = number_in(line, "late_us", 0);
    if (!ask(server, "verify\n", line, sizeof line) || !ask(server, "stats\n", after, sizeof after)) {
        fail("%s: the server does not answer", headings[way]);
        return false;
    }
    r->disagreements = number_in(line, "disagreements", -1);
    r->write_waits = number_in(after, "write_waits", 0);
    r->armed = number_in(after, "armed", 0);
    r->fired = number_in(after, "fired", 0);

    if (write(load->in, "go\n", 3) != 3 || !finish(load))
        fail("%s: the load did not end well", headings[way]);
    load->pid = 0;
    for (int i = 0; i < 200 && ask(server, "stats\n", after, sizeof after); i++) {
        r->left_open = number_in(after, "open", 0);
        if (r->left_open == 0)
            break;
        usleep(10000);
    }
    if (r->left_open)
        fail("%s: the server still has %lld connections after all clients have left", headings[way], r->left_open);
    const bool ended = finish(server);
    server->pid = 0;
    if (!ended)
        fail("%s: the server did not end well", headings[way]);
    return true;
}

/* --- counting system calls: a short run of its own, because strace slows everything --- */

/* How many threads of the process nobody traces yet; -1 if there is no such process. */
static int untraced_threads(pid_t pid)
{
    char path[300], line[256];
    int untraced = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        return -1;
    for (struct dirent *task; (task = readdir(tasks));) {
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/status", (int)pid, task->d_name);
        FILE *file = task->d_name[0] == '.' ? NULL : fopen(path, "re");
        if (!file)
            continue;
        while (fgets(line, sizeof line, file))
            if (strcmp(line, "TracerPid:\t0\n") == 0)
                untraced++;
        fclose(file);
    }
    closedir(tasks);
    return untraced;
}

static bool is_one_of(const char *name, const char *list)
{
    const char *at = strstr(list, name);
    const size_t n = strlen(name);
    return at && (at == list || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0');
}

/* Adds up the table that strace -c prints: "% time  seconds  usecs/call  calls  [errors]  syscall". */
static void count_syscalls(struct child *strace, long long waits, struct result *r)
{
    char line[512];
    double all = 0, io = 0, kernel = 0, futex = 0;
    while (next_line(strace, line, sizeof line)) {
        double share, time;
        long long per_call, calls;
        if (sscanf(line, "%lf %lf %lld %lld", &share, &time, &per_call, &calls) != 4)
            continue;
        const char *name = strrchr(line, ' ') + 1;
        if (is_one_of(name, "total restart_syscall")) /* the latter are sleeps that strace interrupted by coming */
            continue;
        all += (double)calls;
        if (is_one_of(name, "read write"))
            io += (double)calls;
        else if (is_one_of(name, "epoll_wait epoll_pwait epoll_pwait2 poll ppoll io_uring_enter"))
            kernel += (double)calls;
        else if (is_one_of(name, "futex"))
            futex += (double)calls;
    }
    if (all == 0 || waits == 0)
        return;
    r->traced = true;
    r->per_wait = all / (double)waits;
    r->per_wait_io = io / (double)waits;
    r->per_wait_kernel = kernel / (double)waits;
    r->per_wait_futex = futex / (double)waits;
}

/* Any failure here only leaves the row empty. */
static void trace(int way, long long connections, struct result *r, struct child *server, struct child *load, struct child *strace)
{
    char line[2048], before[2048], after[2048], pid[16];
    if (!start_program(server, "server", names[way], "connections=%lld", connections, "idle_ms=%lld", 30000ll, "traceable=1", NULL) ||
        !next_line(server, line, sizeof line) ||
        !start_program(load, "load", "port=%lld", number_in(line, "port", 0), "connections=%lld", number_in(line, "connections", 0),
                       "seconds=1", "active=%lld", active, "quick=1", NULL) ||
        !phase(way, load, "connected", line, sizeof line))
        return;
    settle(server, number_in(line, "connections", 0), before, sizeof before);
    snprintf(pid, sizeof pid, "%d", (int)server->pid);
    char *arguments[] = { "strace", "-c", "-f", "-p", pid, NULL };
    if (!start(strace, STDERR_FILENO, arguments))
        return;
    for (int i = 0; i < 500 && untraced_threads(server->pid) > 0; i++) {
        if (waitpid(strace->pid, NULL, WNOHANG) == strace->pid) {
            strace->pid = 0;
            return;
        }
        usleep(10000);
    }
    if (!ask(server, "stats\n", before, sizeof before) || write(load->in, "go\n", 3) != 3 ||
        !phase(way, load, "measured", line, sizeof line) || !ask(server, "stats\n", after, sizeof after))
        return;
    kill(strace->pid, SIGINT);
    count_syscalls(strace, number_in(after, "events", 0) - number_in(before, "events", 0), r);
    if (write(load->in, "go\n", 3) != 3)
        return;
}

static bool have_strace(void)
{
    return system("strace -V >/dev/null 2>&1") == 0;
}

/* --- the table --- */

static struct result results[WAYS];

static double ratio(long long a, long long b)
{
    return b ? (double)a / (double)b : 0;
}

static void label(const char *name)
{
    printf("%-44s", name);
}

/* A row of whole numbers; the field `offset` of each way's results. */
static void row(const char *name, size_t offset)
{
    label(name);
    for (int way = 0; way < WAYS; way++)
        printf("%13lld", *(const long long *)((const char *)&results[way] + offset));
    printf("\n");
}

static void row_per_wait(const char *name, size_t offset)
{
    label(name);
    for (int way = 0; way < WAYS; way++)
        printf("%13.4g", ratio(*(const long long *)((const char *)&results[way] + offset), results[way].waits));
    printf("\n");
}

static void row_traced(const char *name, size_t offset)
{
    label(name);
    for (int way = 0; way < WAYS; way++)
        if (results[way].traced)
            printf("%13.2f", *(const double *)((const char *)&results[way] + offset));
        else
            printf("%13s", "-");
    printf("\n");
}

#define ROW(name, field) row(name, offsetof(struct result, field))
#define ROW_PER_WAIT(name, field) row_per_wait(name, offsetof(struct result, field))
#define ROW_TRACED(name, field) row_traced(name, offsetof(struct result, field))

static void table(void)
{
    printf("\n");
    label("");
    for (int way = 0; way < WAYS; way++)
        printf("%13s", headings[way]);
    printf("\n");
    ROW("connections", connections);
    ROW("round trips per second", rate);
    ROW("round trips lost, or with a wrong byte", lost);
    ROW("bytes echoed and compared", echoed);
    ROW("latency in microseconds, p50", p50_us);
    ROW("                         p99", p99_us);
    ROW("                         max", max_us);
    printf("\nMemory of the server, bytes per connection\n");
    ROW("  heap, all in all", heap);
    ROW("  heap, the library's part", bell_heap);
    ROW("  resident, with the stacks of threads", resident);
    printf("\nSystem calls for each wait (one piece of news that was waited for), told by the library\n");
    ROW("  waits while measured", waits);
    ROW_PER_WAIT("  changes of the kernel's set (epoll_ctl)", ctl_calls);
    ROW_PER_WAIT("  waits in the kernel (epoll_wait)", kernel_waits);
    ROW_PER_WAIT("  wakes of a sleeping thread (futex)", wakes);
    printf("and by strace, in a run of its own with %d connections at most\n", CONNECTIONS_UNDER_STRACE);
    ROW_TRACED("  all", per_wait);
    ROW_TRACED("  of them read and write", per_wait_io);
    ROW_TRACED("          waits in the kernel", per_wait_kernel);
    ROW_TRACED("          futex, to wake and to sleep", per_wait_futex);
    printf("\nIdle timeouts (by slots they are the deadlines of bell_slot_wait, which arm nothing)\n");
    ROW("  armed", armed);
    ROW("  moved while measured", moved);
    ROW("  fired", fired);
    ROW("  connections that fell silent", silent);
    ROW("    closed for it", closed);
    ROW("    closed too early", early);
    ROW("    latest, in microseconds", late_us);
    ROW("  others that were closed", wrongly);
    printf("\nChecks\n");
    ROW("  writes that waited for a slow reader", write_waits);
    ROW("  differences from the kernel's list", disagreements);
    printf("\n");
}

static void machine_line(void)
{
    long long connections = results[0].connections, lost = 0, rate = results[0].rate, p99 = 0;
    double ctl = 0;
    for (int way = 0; way < WAYS; way++) {
        const struct result *r = &results[way];
        const double of_way = ratio(r->ctl_calls, r->waits);
        connections = r->connections < connections ? r->connections : connections;
        lost += r->lost;
        rate = r->rate < rate ? r->rate : rate;
        p99 = r->p99_us > p99 ? r->p99_us : p99;
        ctl = of_way > ctl ? of_way : ctl;
    }
    printf("demo: connections=%lld lost=%lld round_trips_per_s=%lld p99_us=%lld epoll_ctl_per_wait=%.4g\n", connections, lost, rate, p99,
           ctl);
}

static void help(void)
{
    printf("usage: demo [connections=N] [seconds=N] [active=N] [idle_ms=N] [strace=0]\n"
           "\n"
           "Runs an echo server on Doorbell against a load from a second process, on loopback, in three ways: one thread in\n"
           "bell_poll, a thread for each connection waiting on its slot, two threads waiting for a queue.\n"
           "\n"
           "  connections  how many (10000, or as many as the limit of open files allows)\n"
           "  seconds      how long each way is measured (5)\n"
           "  active       messages under way at a time (128); they go round all connections\n"
           "  idle_ms      the idle timeout of each connection (5000)\n"
           "  strace=0     do not count system calls by strace\n"
           "\n"
           "CONNECTIONS and SECONDS may also be set in the environment. The exit code is 0 if nothing was lost, every silent\n"
           "connection was closed in time, and no other was.\n");
}

static long long setting(char **arguments, const char *name, const char *variable, long long otherwise)
{
    const char *value = getenv(variable);
    return option(arguments, name, value && *value ? strtoll(value, NULL, 10) : otherwise);
}

static void end(struct child *child)
{
    if (child->pid <= 0)
        return;
    kill(child->pid, SIGKILL);
    finish(child);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        help();
        return 0;
    }
    char *slash = strrchr(argv[0], '/');
    if (slash)
        *slash = '\0';
    folder = slash ? argv[0] : ".";
    on_terminal = isatty(STDOUT_FILENO);
    signal(SIGPIPE, SIG_IGN);

    const long long wanted = setting(argv + 1, "connections", "CONNECTIONS", 10000), limit = raise_fd_limit();
    long long connections = wanted;
    seconds = setting(argv + 1, "seconds", "SECONDS", 5);
    active = option(argv + 1, "active", 128);
    idle_ms = option(argv + 1, "idle_ms", 5000);
    if (connections < 1 || seconds < 1 || active < 1 || idle_ms < 1) {
        help();
        return 2;
    }
    if (connections > limit - SPARE_FDS) {
        connections = limit - SPARE_FDS;
        printf("%lld connections, not %lld: a process may open %lld files here\n", connections, wanted, limit);
    }
    printf("Echo over TCP on loopback: %lld connections, each with an idle timeout of %lld ms.\n", connections, idle_ms);

    printf("%lld messages at a time go round them, every byte of the echoes is compared.\n", active);
    printf("%d ways to wait, some %lld s each.\n\n", WAYS, seconds + idle_ms / 1000 + 2);

    bool any = false;
    for (int way = 0; way < WAYS; way++) {
        struct child server = { 0 }, load = { 0 };
        if (run(way, connections, &results[way], &server, &load))
            any = true;
        else
            failed = true;
        end(&load);
        end(&server);
    }
    if (!any) {
        machine_line();
        return 1;
    }
    if (option(argv + 1, "strace", 1) && have_strace()) {
        tracing = true;
        for (int way = 0; way < WAYS; way++) {
            struct child server = { 0 }, load = { 0 }, strace = { 0 };
            const long long few = connections < CONNECTIONS_UNDER_STRACE ? connections : CONNECTIONS_UNDER_STRACE;
            trace(way, few, &results[way], &server, &load, &strace);
            end(&strace);
            end(&load);
            end(&server);
        }
    }
    if (on_terminal)
        printf("\r\033[K");

    table();
    for (int way = 0; way < WAYS; way++) {
        const struct result *r = &results[way];
        if (r->starved)
            fail("%s: the load was too slow for an idle timeout of %lld ms: %lld connections waited longer for their turn, and were "
                 "closed. Try idle_ms=%lld.",
                 headings[way], idle_ms, r->starved, 4 * idle_ms);
        if (r->lost || r->wrongly || r->early || r->closed != r->silent || r->disagreements || r->trips == 0 || r->silent == 0)
            fail("%s: not as it should be: %lld lost, %lld closed wrongly, %lld too early, %lld of %lld silent ones closed, "
                 "%lld differences",
                 headings[way], r->lost, r->wrongly, r->early, r->closed, r->silent, r->disagreements);
    }
    machine_line();
    return failed;
}
