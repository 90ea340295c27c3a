/* Loading and unloading at run time. The library's path is the argument; this program is not linked with it. */
#define _GNU_SOURCE
#include <doorbell.h>
/* check.h asks it for texts; here there is no library to ask. */
#define bell_strerror(error) "(the library is not linked)"
#include "check.h"
#undef bell_strerror
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/stat.h>

static const char *library_path;

#define FUNCTIONS(X)                                                                                                   \
    X(bell_abi_version) X(bell_version) X(bell_strerror) X(bell_create) X(bell_config_init) X(bell_destroy)           \
    X(bell_register_timeout) X(bell_register_fd) X(bell_slot_wait) X(bell_unregister) X(bell_now) X(bell_poll)        \
    X(bell_verify) X(bell_wake)

typedef struct library {
    void *handle;
#define DECLARE(name) __typeof__(&name) name;
    FUNCTIONS(DECLARE)
#undef DECLARE
} library;

static library load_library(const char *path)
{
    library l;
    l.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!l.handle)
        fprintf(stderr, "  dlopen: %s\n", dlerror());
    CHECK(l.handle != NULL);
#define FIND(name)                                                                                                     \
    *(void **)&l.name = dlsym(l.handle, #name);                                                                        \
    CHECK(l.name != NULL);
    FUNCTIONS(FIND)
#undef FIND
    return l;
}

static int count_tasks(void)
{
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;
    int n = 0;
    CHECK(dir != NULL);
    while ((entry = readdir(dir)))
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static bell_t *make(library *l, uint32_t threads)
{
    bell_config config;
    bell_t *bell = NULL;
    CHECK_EQ(l->bell_config_init(&config, sizeof config), 0);
    config.threads = threads;
    CHECK_EQ(l->bell_create(&config, &bell), 0);
    return bell;
}

static void use(library *l, bell_t *bell)
{
    bell_handle h = 0, t = 0;
    int fds[2];
    make_sockets(fds);
    bell_fd_spec fd = fd_spec(fds[0], BELL_READ, BELL_ONESHOT, to_slot());
    bell_timeout_spec timeout = timeout_spec(now_ns() + US(100), to_slot());
    CHECK_EQ(l->bell_register_fd(bell, &fd, &h), 0);
    CHECK_EQ(l->bell_register_timeout(bell, &timeout, &t), 0);
    put_byte(fds[1]);
    CHECK_EQ(l->bell_slot_wait(bell, h, BELL_READ, now_ns() + PATIENCE, 0), BELL_READ);
    CHECK_EQ(l->bell_slot_wait(bell, t, BELL_READ, now_ns() + PATIENCE, 0), BELL_TIMEOUT);
    CHECK_GE(now_ns(), timeout.deadline_ns);
    CHECK_EQ(l->bell_verify(bell), 0);
    CHECK_EQ(l->bell_unregister(bell, h, BELL_SYNC), BELL_FIRED);
    CHECK_EQ(l->bell_unregister(bell, t, BELL_SYNC), BELL_FIRED);
    close_pair(fds);
}

typedef struct user {
    library *library;
    bell_t *bell;
    uint32_t used, leave;
} user;

static void *use_then_outlive(void *argument)
{
    user *u = argument;
    use(u->library, u->bell);
    store(&u->used, 1);
    AWAIT(load(&u->leave)); /* until after dlclose: what it keeps for itself is torn down only then */
    return NULL;
}

static void museum_082_may_a_thread_that_used_the_library_end_after_dlclose(void)
{
    int tasks = count_tasks();
    int fds = live_fds();
    for (int i = 0; i < rounds(100); i++) {
        library l = load_library(library_path);
        CHECK_EQ(l.bell_abi_version() >> 16, BELL_ABI_MAJOR);
        CHECK(l.bell_version()[0] != 0 && l.bell_strerror(-EINVAL)[0] != 0);
        user u = {.library = &l, .bell = make(&l, (uint32_t)i % 3)};
        pthread_t thread = start_thread(use_then_outlive, &u);
        AWAIT(load(&u.used));
        use(&l, u.bell);
        CHECK_EQ(l.bell_destroy(u.bell, 0), 0);
        CHECK_EQ(l.bell_wake(u.bell, 0), BELL_E_STALE);
        CHECK_EQ(dlclose(l.handle), 0);
        store(&u.leave, 1);
        join_thread(thread);
        AWAIT(count_tasks() == tasks);
        CHECK_EQ(live_fds(), fds);
    }
}

/* Two copies in one process know nothing of each other. */
static void do_two_copies_not_conflict(void)
{
    char path[64], buffer[65536];
    ssize_t n;
    int from = open(library_path, O_RDONLY | O_CLOEXEC), copy = memfd_create("copy", MFD_CLOEXEC);
    CHECK(from >= 0);
    CHECK(copy >= 0);
    while ((n = read(from, buffer, sizeof buffer)) > 0)
        CHECK_EQ(write(copy, buffer, (size_t)n), n);
    CHECK_EQ(n, 0);
    CHECK_EQ(close(from), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", copy);
    library a = load_library(library_path), b = load_library(path);
    CHECK(a.bell_create != b.bell_create);
    bell_t *in_a = make(&a, 1), *in_b = make(&b, 1);
    use(&a, in_a);
    use(&b, in_b);
    CHECK_EQ(a.bell_destroy(in_a, 0), 0);
    use(&b, in_b);
    CHECK_EQ(dlclose(a.handle), 0);
    use(&b, in_b);
    CHECK_EQ(b.bell_destroy(in_b, 0), 0);
    CHECK_EQ(dlclose(b.handle), 0);
    CHECK_EQ(close(copy), 0);
}

/* RTLD_LOCAL keeps its names out of the process, and it brings no allocator or runtime of its own into it. */
static void does_the_library_keep_its_names_to_itself(void)
{
    void *before = dlsym(RTLD_DEFAULT, "malloc");
    library l = load_library(library_path);
    CHECK(dlsym(RTLD_DEFAULT, "bell_create") == NULL);
    CHECK(dlsym(RTLD_DEFAULT, "malloc") == before);
    CHECK(dlsym(l.handle, "rust_eh_personality") == NULL);
    CHECK(dlsym(l.handle, "hs_try_putmvar") == NULL);
    CHECK_EQ(dlclose(l.handle), 0);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        SKIP("no path of the library was given");
    library_path = argv[1];
    if (dlopen(library_path, RTLD_NOW | RTLD_NOLOAD))
        SKIP("the library is loaded already: link this program without it");
    RUN(museum_082_may_a_thread_that_used_the_library_end_after_dlclose);
    RUN(do_two_copies_not_conflict);
    RUN(does_the_library_keep_its_names_to_itself);
    return 0;
}
