/* What a program does that has just found the library: it waits for a pipe. */
#include <doorbell.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
    bell_t *bell;
    bell_handle handle;
    bell_event event;
    int fds[2];
    if (bell_abi_version() >> 16 != BELL_ABI_MAJOR || bell_create(NULL, &bell) < 0 || pipe(fds) < 0)
        return 1;
    bell_fd_spec spec = {.size = sizeof spec, .fd = fds[0], .interest = BELL_READ, .mode = BELL_ONESHOT,
                         .user_data = 42, .target = {.kind = BELL_TARGET_POLL}};
    if (bell_register_fd(bell, &spec, &handle) < 0 || write(fds[1], "x", 1) != 1 ||
        bell_poll(bell, 0, &event, 1, BELL_NEVER) != 1 || event.user_data != 42 || event.ready != BELL_READ)
        return 1;
    printf("doorbell %s\n", bell_version());
    return bell_unregister(bell, handle, 0) != BELL_FIRED || bell_destroy(bell, 0) != 0;
}
