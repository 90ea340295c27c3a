/* Fds as they are found in nature: terminals, timers, processes, files in change, fifos, sockets. */
#define _GNU_SOURCE
#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <termios.h>

/* The next event is this handle's, and tells all of `bits`. */
static bell_event expect(bell_t *bell, bell_handle h, uint32_t bits)
{
    bell_event e = next_event(bell);
    CHECK_EQ(e.handle, h);
    CHECK_HAS(e.ready, bits);
    CHECK_LACKS(e.ready, BELL_TIMEOUT | BELL_USER | BELL_CLOSED | BELL_CANCELLED);
    return e;
}

static void again(bell_t *bell, bell_handle h)
{
    CHECK_EQ(bell_rearm(bell, h, NULL, BELL_NEVER), 0);
}

static void make_folder(char *path, size_t size)
{
    const char *base = getenv("TMPDIR");
    snprintf(path, size, "%s/doorbell-XXXXXX", base && *base ? base : P_tmpdir);
    CHECK(mkdtemp(path) != NULL);
}

/* ---- terminals ---- */

enum { PTY_BYTES = 100000 };

static int open_pty(int *slave)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct termios raw;
    CHECK(master >= 0);
    CHECK(grantpt(master) == 0);
    CHECK(unlockpt(master) == 0);
    *slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    CHECK(*slave >= 0);
    CHECK(tcgetattr(*slave, &raw) == 0);
    cfmakeraw(&raw);
    CHECK(tcsetattr(*slave, TCSANOW, &raw) == 0);
    set_nonblocking(master);
    return master;
}

static void *write_and_hang_up(void *argument)
{
    int fd = *(int *)argument;
    static char text[1000];
    for (int left = PTY_BYTES; left > 0;) {
        ssize_t n = write(fd, text, left < 1000 ? (size_t)left : 1000);
        CHECK(n > 0);
        left -= (int)n;
    }
    CHECK_EQ(close(fd), 0);
    return NULL;
}

static void pty_in_mode(uint32_t mode)
{
    bell_t *bell = make_bell(1, 0);
    int slave, master = open_pty(&slave), ended = 0, hang_ups = 0;
    long total = 0;
    bell_handle h = watch(bell, master, BELL_READ, mode, to_poll());
    pthread_t writer = start_thread(write_and_hang_up, &slave);
    while (!ended) {
        bell_event e = next_event(bell);
        char text[700];
        ssize_t n;
        CHECK_EQ(e.handle, h);
        CHECK_NE(e.ready & (BELL_READ | BELL_HUP), 0);
        hang_ups += !!(e.ready & BELL_HUP);
        while ((n = read(master, text, sizeof text)) > 0)
            total += n;
        ended = n == 0 || errno == EIO; /* the other side is gone */
        /* Linux: a read that finds nothing says EIO too if bytes and the end came just after it looked. They are
         * there then (met with poll(2) alone, 1 of 24,000). */
        while (ended && (n = read(master, text, sizeof text)) > 0)
            total += n;
        if (!ended) {
            CHECK_EQ(errno, EAGAIN);
            if (mode == BELL_ONESHOT)
                again(bell, h);
        }
    }
    CHECK_EQ(total, PTY_BYTES);
    join_thread(writer);
    /* The end was read before it was told: it is told still. Over io_uring a registration that stays armed may tell
     * first of bytes that have been read since (BELL_IO_URING in the header). */
    for (int stale = 0; hang_ups == 0; stale++) {
        CHECK_LE(stale, on_io_uring() && mode != BELL_ONESHOT ? 1 : 0);
        if (mode == BELL_ONESHOT)
            again(bell, h);
        hang_ups = !!(expect(bell, h, 0).ready & BELL_HUP);
    }
    CHECK_OK(bell_unregister(bell, h, 0));
    CHECK_EQ(close(master), 0);
    check_clean(bell);
}

static void museum_067_are_all_bytes_of_a_terminal_read_before_its_end(void)
{
    for (int i = 0; i < rounds(10); i++) {
        pty_in_mode(BELL_ONESHOT);
        pty_in_mode(BELL_LEVEL);
        if (has_edge())
            pty_in_mode(BELL_EDGE);
    }
}

static void is_a_terminal_hung_up_with_bytes_left_still_readable(void)
{
    bell_t *bell = make_bell(1, 0);
    int slave, master = open_pty(&slave);
    char text[8];
    CHECK_EQ(write(slave, "abcdef", 6), 6);
    CHECK_EQ(close(slave), 0);
    bell_handle h = watch(bell, master, BELL_READ, BELL_ONESHOT, to_poll());
    expect(bell, h, BELL_READ);
    CHECK_EQ(read(master, text, 4), 4); /* a part */
    again(bell, h);
    expect(bell, h, BELL_READ | BELL_HUP);
    CHECK_EQ(read(master, text, 4), 2);
    again(bell, h);
    expect(bell, h, BELL_HUP);
    CHECK(read(master, text, 4) < 0 && errno == EIO);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    CHECK_EQ(close(master), 0);
    check_clean(bell);
}

/* ---- fds that the kernel makes readable by itself ---- */

static void does_a_timerfd_become_readable(void)
{
    bell_t *bell = make_bell(1, 0);
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    uint64_t expirations = 0;
    CHECK(fd >= 0);
    bell_handle h = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_poll());
    for (int i = 0; i < rounds(50); i++) {
        struct itimerspec t = {.it_value.tv_nsec = 1000000};
        int64_t start = now_ns();
        CHECK(timerfd_settime(fd, 0, &t, NULL) == 0);
        expect(bell, h, BELL_READ);
        CHECK_GE(now_ns() - start, MS(1));
        CHECK_EQ(read(fd, &expirations, 8), 8);
        CHECK_EQ(expirations, 1);
        again(bell, h);
    }
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    CHECK_EQ(close(fd), 0);
    check_clean(bell);
}

static void does_a_signalfd_become_readable(void)
{
    bell_t *bell = make_bell(1, 0);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, &old), 0);
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    CHECK(fd >= 0);
    bell_handle h = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_poll());
    for (int i = 0; i < rounds(50); i++) {
        struct signalfd_siginfo info;
        CHECK_EQ(raise(SIGUSR2), 0);
        expect(bell, h, BELL_READ);
        CHECK_EQ(read(fd, &info, sizeof info), (int)sizeof info);
        CHECK_EQ(info.ssi_signo, SIGUSR2);
        again(bell, h);
    }
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
    check_clean(bell);
}

static void does_a_pidfd_tell_the_end_of_a_process(void)
{
    bell_t *bell = make_bell(1, 0);
    int gate[2], status;
    char c;
    make_pipe(gate);
    CHECK_EQ(fcntl(gate[0], F_SETFL, 0), 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(gate[1]);
        _exit(read(gate[0], &c, 1) == 0 ? 7 : 1); /* lives until the parent closes its end */
    }
    int fd = (int)syscall(SYS_pidfd_open, child, 0);
    if (fd < 0) {
        fprintf(stderr, "  no pidfd here\n");
    } else {
        bell_handle h = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_poll());
        expect_quiet(bell, MS(5));
        CHECK_EQ(close(gate[1]), 0);
        gate[1] = -1;
        expect(bell, h, BELL_READ);
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
        CHECK_EQ(close(fd), 0);
    }
    if (gate[1] >= 0)
        CHECK_EQ(close(gate[1]), 0);
    CHECK_EQ(close(gate[0]), 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    check_clean(bell);
}

static void does_inotify_tell_of_a_new_file(void)
{
    bell_t *bell = make_bell(1, 0);
    char folder[256], path[300], text[4096];
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    make_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/file", folder);
    CHECK(fd >= 0);
    CHECK(inotify_add_watch(fd, folder, IN_CREATE) >= 0);
    bell_handle h = watch(bell, fd, BELL_READ, BELL_ONESHOT, to_poll());
    expect_quiet(bell, MS(2));
    int file = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(file >= 0);
    expect(bell, h, BELL_READ);
    CHECK_GT(read(fd, text, sizeof text), 0);
    again(bell, h);
    expect_quiet(bell, MS(2));
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
    CHECK_EQ(close(file), 0);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(rmdir(folder), 0);
    check_clean(bell);
}

/* ---- fifos ---- */

static void do_fifos_tell_when_the_other_side_is_gone(void)
{
    bell_t *bell = make_bell(1, 0);
    char folder[256], path[300], text[8];
    make_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/fifo", folder);
    CHECK(mkfifo(path, 0600) == 0);

    /* The writer goes: first its bytes, then the end. */
    int r = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), w = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    CHECK(r >= 0);
    CHECK(w >= 0);
    bell_handle h = watch(bell, r, BELL_READ, BELL_ONESHOT, to_poll());
    expect_quiet(bell, MS(2));
    CHECK_EQ(write(w, "ab", 2), 2);
    CHECK_EQ(close(w), 0);
    expect(bell, h, BELL_READ);
    CHECK_EQ(read(r, text, sizeof text), 2);
    again(bell, h);
    expect(bell, h, BELL_HUP);
    CHECK_EQ(read(r, text, sizeof text), 0);
    /* A new writer comes: it is a fifo again. */
    w = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    CHECK(w >= 0);
    again(bell, h);
    expect_quiet(bell, MS(2));
    CHECK_EQ(write(w, "c", 1), 1);
    bell_event e = expect(bell, h, BELL_READ);
    CHECK_LACKS(e.ready, BELL_HUP);
    CHECK_EQ(read(r, text, sizeof text), 1);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);

    /* The reader goes while the fifo is full: writing would fail at once. */
    fill_fd(w);
    h = watch(bell, w, BELL_WRITE, BELL_ONESHOT, to_poll());
    expect_quiet(bell, MS(2));
    CHECK_EQ(close(r), 0);
    expect(bell, h, BELL_ERR);
    CHECK(write(w, "x", 1) < 0 && errno == EPIPE);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    CHECK_EQ(close(w), 0);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(rmdir(folder), 0);
    check_clean(bell);
}

/* ---- sockets ---- */

static int make_socket(int type, struct sockaddr_in *address)
{
    socklen_t length = sizeof *address;
    int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CHECK(bind(fd, (struct sockaddr *)address, sizeof *address) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)address, &length) == 0);
    return fd;
}

static int begin_connect(const struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) != 0)
        CHECK(errno == EINPROGRESS || errno == ECONNREFUSED);
    return fd;
}

static int socket_error(int fd)
{
    int error = -1;
    socklen_t length = sizeof error;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0);
    return error;
}

/* A TCP connection over 127.0.0.1: fds[0] connected to fds[1]. */
static void make_tcp(int fds[2])
{
    struct sockaddr_in address;
    int listener = make_socket(SOCK_STREAM, &address);
    struct pollfd p = {.fd = listener, .events = POLLIN};
    CHECK(listen(listener, 8) == 0);
    fds[0] = begin_connect(&address);
    CHECK_EQ(poll(&p, 1, 60000), 1);
    fds[1] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK(fds[1] >= 0);
    p = (struct pollfd){.fd = fds[0], .events = POLLOUT};
    CHECK_EQ(poll(&p, 1, 60000), 1);
    CHECK_EQ(close(listener), 0);
}

static void do_listening_and_connecting_sockets_tell(void)
{
    bell_t *bell = make_bell(1, 0);
    struct sockaddr_in address;
    int listener = make_socket(SOCK_STREAM, &address);
    CHECK(listen(listener, 8) == 0);
    bell_handle l = watch(bell, listener, BELL_READ, BELL_ONESHOT, to_poll());
    expect_quiet(bell, MS(2));
    for (int i = 0; i < rounds(50); i++) {
        int client = begin_connect(&address), seen = 0;
        bell_handle c = watch(bell, client, BELL_WRITE, BELL_ONESHOT, to_poll());
        while (seen != 3) {
            bell_event e = next_event(bell);
            if (e.handle == l) {
                CHECK_EQ(e.ready, BELL_READ);
                seen |= 1;
            } else {
                CHECK_EQ(e.handle, c);
                CHECK_EQ(e.ready, BELL_WRITE);
                seen |= 2;
            }
        }
        CHECK_EQ(socket_error(client), 0);
        int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        CHECK(server >= 0);
        again(bell, l);
        CHECK_EQ(bell_unregister(bell, c, 0), BELL_FIRED);
        CHECK_EQ(close(client), 0);
        CHECK_EQ(close(server), 0);
    }
    CHECK_EQ(bell_unregister(bell, l, 0), BELL_CANCELLED);
    CHECK_EQ(close(listener), 0);
    check_clean(bell);
}

static void is_a_refused_connection_told_as_writable_with_an_error(void)
{
    bell_t *bell = make_bell(1, 0);
    struct sockaddr_in address;
    int closed = make_socket(SOCK_STREAM, &address); /* bound, but nobody listens */
    for (int i = 0; i < rounds(20); i++) {
        int fd = begin_connect(&address);
        bell_handle h = watch(bell, fd, BELL_WRITE, BELL_ONESHOT, to_poll());
        bell_event e = expect(bell, h, BELL_WRITE);
        CHECK_NE(e.ready & (BELL_ERR | BELL_HUP), 0);
        if (e.ready & BELL_ERR)
            CHECK(e.status == 0 || e.status == -ECONNREFUSED);
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
        CHECK_EQ(close(fd), 0);
    }
    /* The error is still the owner's to fetch: the library did not eat it. */
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0 && errno == EINPROGRESS) {
        bell_handle h = watch(bell, fd, BELL_WRITE, BELL_ONESHOT, to_poll());
        expect(bell, h, BELL_WRITE | BELL_ERR);
        CHECK_EQ(socket_error(fd), ECONNREFUSED);
        CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    }
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(close(closed), 0);
    check_clean(bell);
}

static void is_the_end_of_a_stream_told_with_what_is_left_to_read(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    char text[8];
    make_tcp(fds);
    bell_handle h = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
    expect_quiet(bell, MS(2));
    CHECK_EQ(write(fds[1], "ab", 2), 2);
    bell_event e = expect(bell, h, BELL_READ);
    CHECK_LACKS(e.ready, BELL_RDHUP | BELL_HUP | BELL_ERR);
    CHECK_EQ(shutdown(fds[1], SHUT_WR), 0);
    again(bell, h);
    /* READ asks for RDHUP too. The bytes may come before the end does. */
    for (int i = 0; !(e.ready & BELL_RDHUP); i++) {
        CHECK_LT(i, 100);
        e = expect(bell, h, BELL_READ);
        again(bell, h);
    }
    CHECK_LACKS(e.ready, BELL_HUP | BELL_ERR);
    CHECK_EQ(read(fds[0], text, sizeof text), 2);
    CHECK_EQ(read(fds[0], text, sizeof text), 0);
    CHECK_EQ(shutdown(fds[0], SHUT_WR), 0);
    for (int i = 0; !(e.ready & BELL_HUP); i++) { /* now both directions are closed */
        CHECK_LT(i, 100);
        e = expect(bell, h, BELL_READ);
        again(bell, h);
    }
    CHECK_OK(bell_unregister(bell, h, 0));
    close_pair(fds);
    check_clean(bell);
}

static void is_a_reset_connection_an_error(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    make_tcp(fds);
    bell_handle h = watch(bell, fds[0], BELL_READ, BELL_ONESHOT, to_poll());
    CHECK(setsockopt(fds[1], SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
    CHECK_EQ(close(fds[1]), 0);
    expect(bell, h, BELL_READ | BELL_ERR | BELL_HUP);
    CHECK_EQ(socket_error(fds[0]), ECONNRESET);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    CHECK_EQ(close(fds[0]), 0);
    check_clean(bell);
}

static void does_a_full_stream_become_writable(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    make_tcp(fds);
    long sent = fill_fd(fds[0]), got = 0;
    bell_handle h = watch(bell, fds[0], BELL_WRITE, BELL_ONESHOT, to_poll());
    expect_quiet(bell, MS(2));
    while (got < sent) {
        struct pollfd p = {.fd = fds[1], .events = POLLIN};
        CHECK_EQ(poll(&p, 1, 60000), 1);
        got += drain_fd(fds[1]);
    }
    bell_event e = expect(bell, h, BELL_WRITE);
    CHECK_EQ(e.ready, BELL_WRITE);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    close_pair(fds);
    check_clean(bell);
}

static void is_urgent_data_told_to_those_who_ask(void)
{
    bell_t *bell = make_bell(1, 0);
    int fds[2];
    char text[8];
    make_tcp(fds);
    bell_handle urgent = watch(bell, fds[0], BELL_PRI, BELL_ONESHOT, to_poll());
    turn(bell); /* the kernel watches it now: what comes is told by who has sent it, and not by a look */
    CHECK_EQ(write(fds[1], "n", 1), 1);
    struct pollfd p = {.fd = fds[0], .events = POLLIN};
    CHECK_EQ(poll(&p, 1, 60000), 1);
    expect_quiet(bell, MS(2)); /* ordinary data is not urgent */
    CHECK_EQ(send(fds[1], "!", 1, MSG_OOB), 1);
    bell_event e = expect(bell, urgent, BELL_PRI);
    CHECK_EQ(e.ready, BELL_PRI);
    CHECK_EQ(recv(fds[0], text, 1, MSG_OOB), 1);
    CHECK_EQ(text[0], '!');
    CHECK_EQ(bell_unregister(bell, urgent, 0), BELL_FIRED);
    /* Who asks for both is told what is there. */
    CHECK_EQ(drain_fd(fds[0]), 1);
    bell_handle both = watch(bell, fds[0], BELL_PRI | BELL_READ, BELL_ONESHOT, to_poll());
    turn(bell);
    CHECK_EQ(write(fds[1], "n", 1), 1);
    e = expect(bell, both, BELL_READ);
    CHECK_EQ(e.ready, BELL_READ);
    CHECK_EQ(bell_unregister(bell, both, 0), BELL_FIRED);
    /* The word for it is the reading one. */
    bell_handle slot = watch(bell, fds[0], BELL_PRI | BELL_READ, BELL_ONESHOT, to_slot());
    CHECK_EQ(send(fds[1], "?", 1, MSG_OOB), 1);
    int32_t bits = 0;
    for (int i = 0; i < 100 && !(bits & BELL_PRI); i++) {
        bits = CHECK_OK(bell_slot_wait(bell, slot, BELL_READ, now_ns() + PATIENCE, 0));
        again(bell, slot);
    }
    CHECK_HAS(bits, BELL_PRI);
    CHECK_OK(bell_unregister(bell, slot, 0));
    close_pair(fds);
    check_clean(bell);
}

static void do_datagrams_tell_each_side(void)
{
    bell_t *bell = make_bell(1, 0);
    struct sockaddr_in here, there;
    int a = make_socket(SOCK_DGRAM, &here), b = make_socket(SOCK_DGRAM, &there);
    char text[8];
    bell_handle reads = watch(bell, b, BELL_READ, BELL_ONESHOT, to_poll());
    bell_handle writes = watch(bell, a, BELL_WRITE, BELL_ONESHOT, to_poll());
    bell_event e = expect(bell, writes, BELL_WRITE);
    CHECK_EQ(e.ready, BELL_WRITE);
    expect_quiet(bell, MS(2));
    for (int i = 0; i < rounds(50); i++) {
        CHECK_EQ(sendto(a, "abc", 3, 0, (struct sockaddr *)&there, sizeof there), 3);
        e = expect(bell, reads, BELL_READ);
        CHECK_EQ(e.ready, BELL_READ);
        CHECK_EQ(recv(b, text, sizeof text, 0), 3);
        again(bell, reads);
    }
    CHECK_EQ(sendto(a, "", 0, 0, (struct sockaddr *)&there, sizeof there), 0); /* an empty one is news too */
    expect(bell, reads, BELL_READ);
    CHECK_EQ(recv(b, text, sizeof text, 0), 0);
    CHECK_EQ(bell_unregister(bell, reads, 0), BELL_FIRED);
    CHECK_EQ(bell_unregister(bell, writes, 0), BELL_FIRED);
    /* Nobody is there any more: the answer to a datagram is an error. */
    CHECK_EQ(close(b), 0);
    CHECK(connect(a, (struct sockaddr *)&there, sizeof there) == 0);
    bell_handle h = watch(bell, a, BELL_READ, BELL_ONESHOT, to_poll());
    CHECK_EQ(send(a, "abc", 3, 0), 3);
    expect(bell, h, BELL_ERR);
    CHECK_EQ(socket_error(a), ECONNREFUSED);
    CHECK_EQ(bell_unregister(bell, h, 0), BELL_FIRED);
    CHECK_EQ(close(a), 0);
    check_clean(bell);
}

int main(void)
{
    RUN(museum_067_are_all_bytes_of_a_terminal_read_before_its_end);
    RUN(is_a_terminal_hung_up_with_bytes_left_still_readable);
    RUN(does_a_timerfd_become_readable);
    RUN(does_a_signalfd_become_readable);
    RUN(does_a_pidfd_tell_the_end_of_a_process);
    RUN(does_inotify_tell_of_a_new_file);
    RUN(do_fifos_tell_when_the_other_side_is_gone);
    RUN(do_listening_and_connecting_sockets_tell);
    RUN(is_a_refused_connection_told_as_writable_with_an_error);
    RUN(is_the_end_of_a_stream_told_with_what_is_left_to_read);
    RUN(is_a_reset_connection_an_error);
    RUN(does_a_full_stream_become_writable);
    RUN(is_urgent_data_told_to_those_who_ask);
    RUN(do_datagrams_tell_each_side);
    return 0;
}
