/* Fills the two large input structs on the C stack: one call from Haskell, nothing allocated there. */
#include <doorbell.h>

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
