/* every_call.h: every function that takes a manager, by number, with arguments that would do. For programs that ask what
 * each of them says of a manager that it must refuse. */
#ifndef EVERY_CALL_H
#define EVERY_CALL_H

#include "check.h"

/* The first ones; behind them bell_after_fork_parent, bell_after_fork_child and bell_destroy, which may be allowed. */
enum { CALLS_THAT_USE = 33, ALL_CALLS = 36 };

static inline int32_t every_call(int number, bell_t *bell, bell_handle h)
{
    bell_event event;
    bell_slot *slot;
    int64_t deadline;
    bell_handle out;
    int32_t status;
    uint64_t ticket;
    bell_target target = to_slot();
    bell_fd_spec spec = fd_spec(0, BELL_READ, BELL_ONESHOT, target);
    bell_timeout_spec timeout = timeout_spec(0, target);
    bell_counters counters = {.size = sizeof counters};
    switch (number) {
    case 0: return bell_poll(bell, 0, &event, 1, 0);
    case 1: return bell_wake(bell, 0);
    case 2: return bell_next_deadline(bell, 0, &deadline);
    case 3: return bell_pollable_fd(bell, 0);
    case 4: return bell_register_fd(bell, &spec, &out);
    case 5: return bell_register_fd_batch(bell, &spec, 1, &out, &status);
    case 6: return bell_modify(bell, h, BELL_READ, BELL_ONESHOT);
    case 7: return bell_rearm(bell, h, NULL, BELL_NEVER);
    case 8: return bell_rearm_batch(bell, &h, 1, &status);
    case 9: return bell_retarget(bell, h, &target);
    case 10: return bell_unregister(bell, h, 0);
    case 11: return bell_unregister_batch(bell, &h, 1, 0, &status);
    case 12: return bell_close_begin(bell, 1000, &ticket);
    case 13: return bell_close_end(bell, 1000, 1);
    case 14: return bell_close_fd(bell, 1000);
    case 15: return bell_slot_map(bell, h, &slot);
    case 16: return bell_slot_consume(bell, h, BELL_READ);
    case 17: return bell_slot_wait(bell, h, BELL_READ, 0, 0);
    case 18: return bell_queue_create(bell, 0, NULL, &out);
    case 19: return bell_queue_drain(bell, h, &event, 1);
    case 20: return bell_queue_wait(bell, h, &event, 1, 0);
    case 21: return bell_queue_fd(bell, h);
    case 22: return bell_queue_destroy(bell, h, 0);
    case 23: return bell_register_timeout(bell, &timeout, &out);
    case 24: return bell_update_timeout(bell, h, 1);
    case 25: return bell_timeout_get(bell, h, &deadline);
    case 26: return bell_register_user(bell, 0, &target, 0, &out);
    case 27: return bell_post(bell, h, 1);
    case 28: return bell_stats(bell, 0, &counters);
    case 29: return bell_verify(bell);
    case 30: return bell_dump(bell, 2);
    case 31: return bell_share_deadline(bell, h, &deadline);
    case 32: return bell_before_fork(bell);
    case 33: return bell_after_fork_parent(bell);
    case 34: return bell_after_fork_child(bell, 0);
    default: return bell_destroy(bell, BELL_FORCE);
    }
}

#endif
