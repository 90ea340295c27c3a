/* The parts that are simpler in C: the large input structs are filled on the C stack, so that one call from Haskell is enough and
 * nothing is allocated there; and the gate before hs_try_putmvar. */
#include <doorbell.h>

#include <HsFFI.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

/* A handle, or a negative error. */
int64_t doorbell_hs_register_fd(bell_t *bell, int32_t fd, uint32_t interest, uint32_t mode, uint32_t flags,
                                uint32_t shard, uint64_t user_data)
{
    bell_fd_spec spec = {
        .size = sizeof spec,
        .fd = fd,
        .interest = interest,
        .mode = mode,
        .flags = flags,
        .shard = shard,
        .user_data = user_data,
        .target = {.kind = BELL_TARGET_POLL},
    };
    bell_handle handle;
    int32_t result = bell_register_fd(bell, &spec, &handle);
    return result < 0 ? result : (int64_t)handle;
}

/* A one-shot timeout that frees itself. A handle, or a negative error. */
int64_t doorbell_hs_register_timeout(bell_t *bell, uint32_t shard, int64_t deadline_ns, uint64_t user_data)
{
    bell_timeout_spec spec = {
        .size = sizeof spec,
        .clock = BELL_CLOCK_MONOTONIC,
        .flags = BELL_AUTO_RELEASE,
        .shard = shard,
        .deadline_ns = deadline_ns,
        .user_data = user_data,
        .target = {.kind = BELL_TARGET_POLL},
    };
    bell_handle handle;
    int32_t result = bell_register_timeout(bell, &spec, &handle);
    return result < 0 ? result : (int64_t)handle;
}

/* The time of CLOCK_MONOTONIC so many microseconds from now, at least 1, at most the last before BELL_NEVER. As bell_now, but it is called so often
 * that the way through the library counts. */
int64_t doorbell_hs_deadline(int64_t us)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t now = t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
    /* 285 years. */
    return us <= 0 ? now : us > INT64_C(9000000000000000) ? BELL_NEVER - 1 : now + us * 1000;
}

/* How often this process is a child of one that used the package: what was made at another count does not work here. A word of memory,
 * so that Haskell looks at it without a call. */
_Atomic uint32_t doorbell_hs_forks;

/* hs_try_putmvar crashes after hs_exit. A manager that is still alive then has threads that know nothing of it, so all puts go through
 * this gate: a C finalizer that hs_exit runs shuts it and waits for those inside. A put that comes later is dropped. */
static atomic_int shut, inside;
static atomic_ullong puts_done;

void doorbell_hs_put(int32_t capability, void *stable_ptr)
{
    atomic_fetch_add(&inside, 1);
    if (!atomic_load(&shut)) {
        hs_try_putmvar(capability, stable_ptr);
        atomic_fetch_add(&puts_done, 1);
    }
    atomic_fetch_sub(&inside, 1);
}

uint64_t doorbell_hs_puts(void)
{
    return atomic_load(&puts_done);
}

/* The finalizer of doorbell_hs_prepare's caller. */
void doorbell_hs_shut(void *unused)
{
    (void)unused;
    atomic_store(&shut, 1);
    while (atomic_load(&inside))
        sched_yield();
}

/* Those inside were threads of the parent. */
static void in_child(void)
{
    atomic_fetch_add(&doorbell_hs_forks, 1);
    atomic_store(&inside, 0);
}

static void prepare(void)
{
    pthread_atfork(NULL, NULL, in_child);
}

/* To be called before any manager is made. */
void doorbell_hs_prepare(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, prepare);
}

/* A manager driven by so many threads of the library, which fill MVars. 0, or a negative error. */
int32_t doorbell_hs_create_threads(uint32_t threads, bell_t **out)
{
    bell_ghc_ops ghc = {.size = sizeof ghc, .try_putmvar = doorbell_hs_put, .thread_done = hs_thread_done};
    bell_config config;
    int32_t result = bell_config_init(&config, sizeof config);
    if (result < 0)
        return result;
    config.threads = threads;
    config.ghc = &ghc;
    return bell_create(&config, out);
}

static bell_target mvar(int32_t capability, void *stable_ptr)
{
    return (bell_target){.kind = BELL_TARGET_MVAR, .capability = capability, .stable_ptr = stable_ptr};
}

/* A one-shot that fills an MVar. It owns the StablePtr when the result is a handle. */
int64_t doorbell_hs_register_fd_mvar(bell_t *bell, int32_t fd, uint32_t interest, int32_t capability, void *stable_ptr)
{
    bell_fd_spec spec = {
        .size = sizeof spec,
        .fd = fd,
        .interest = interest,
        .mode = BELL_ONESHOT,
        .shard = BELL_SHARD_ANY,
        .target = mvar(capability, stable_ptr),
    };
    bell_handle handle;
    int32_t result = bell_register_fd(bell, &spec, &handle);
    return result < 0 ? result : (int64_t)handle;
}

int64_t doorbell_hs_register_timeout_mvar(bell_t *bell, int64_t deadline_ns, int32_t capability, void *stable_ptr)
{
    bell_timeout_spec spec = {
        .size = sizeof spec,
        .clock = BELL_CLOCK_MONOTONIC,
        .flags = BELL_AUTO_RELEASE,
        .shard = BELL_SHARD_ANY,
        .deadline_ns = deadline_ns,
        .target = mvar(capability, stable_ptr),
    };
    bell_handle handle;
    int32_t result = bell_register_timeout(bell, &spec, &handle);
    return result < 0 ? result : (int64_t)handle;
}

int64_t doorbell_hs_register_user_mvar(bell_t *bell, int32_t capability, void *stable_ptr)
{
    bell_target target = mvar(capability, stable_ptr);
    bell_handle handle;
    int32_t result = bell_register_user(bell, BELL_SHARD_ANY, &target, 0, &handle);
    return result < 0 ? result : (int64_t)handle;
}

int32_t doorbell_hs_rearm_mvar(bell_t *bell, bell_handle handle, int32_t capability, void *stable_ptr)
{
    bell_target target = mvar(capability, stable_ptr);
    return bell_rearm(bell, handle, &target, BELL_NEVER);
}
