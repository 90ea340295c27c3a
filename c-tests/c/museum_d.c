/* Museum D: cancelling against delivering, and memory of the caller's. */
#define _GNU_SOURCE
#include "museum.h"

static struct {
    bell_t *bell;
    bell_handle old, fresh;
    int old_fd, new_fd, done;
} paused;

/* The driver has decided to write to the old target, and has not written yet. */
static void change_owner(int fd)
{
    if (fd != paused.old_fd || paused.done++)
        return;
    CHECK_EQ(bell_unregister(paused.bell, paused.old, 0), BELL_FIRED);
    paused.fresh = set_timeout(paused.bell, BELL_NEVER - 1, to_eventfd(paused.new_fd));
    CHECK_EQ(paused.fresh >> 26, paused.old >> 26);
}

/* libevent#104: the target was looked up again after the lock was released, and was another by then. */
static void museum_030_a_delivery_goes_where_it_was_meant_to_go(void)
{
    bell_t *bell = make_bell(1, 0);
    memset(&paused, 0, sizeof paused);
    paused.bell = bell;
    paused.old_fd = make_eventfd(), paused.new_fd = make_eventfd();
    paused.old = set_timeout(bell, 0, to_eventfd(paused.old_fd));
    hook_before_write = change_owner;
    CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), 0);
    hook_before_write = NULL;
    CHECK_EQ(paused.done, 1);
    CHECK_EQ(looks_ready(paused.old_fd, POLLIN), POLLIN);
    CHECK_EQ(looks_ready(paused.new_fd, POLLIN), 0);
    CHECK_EQ(bell_unregister(bell, paused.fresh, BELL_SYNC), BELL_CANCELLED);
    CHECK_EQ(close(paused.old_fd), 0);
    CHECK_EQ(close(paused.new_fd), 0);
    check_clean(bell);
}

/* Heily/libkqueue: deleting against copying out. Cancel, fire and free at once. */
static void museum_032_a_timeout_cancelled_while_it_fires_leaves_its_word_alone_afterwards(void)
{
    for (uint32_t threads = 0; threads < 2; threads++) {
        bell_t *bell = make_bell(1, threads);
        for (int i = 0; i < rounds(10000); i++) {
            uint32_t *word = malloc(sizeof *word);
            *word = 0;
            bell_handle h = set_timeout(bell, now_ns() + (int64_t)(museum_random() % 20000), to_futex(word));
            if (!threads)
                CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), 0);
            else
                for (volatile uint64_t spin = museum_random() % 3000; spin > 0; spin--)
                    ;
            int32_t answer = CHECK_OK(bell_unregister(bell, h, BELL_SYNC));
            CHECK_EQ(load(word), answer == BELL_FIRED ? BELL_SEQ | BELL_TIMEOUT : 0);
            memset(word, 0xAA, sizeof *word);
            free(word);
        }
        check_clean(bell);
    }
}

/* seastar#2571: destroyed with tasks queued; one was freed twice. */
static void museum_034_destroying_with_news_queued_ends_each_once(void)
{
    enum { MANY = 100 };
    static fake_mvar mvars[MANY], unarmed;
    for (int turns = 0; turns < 2; turns++) {
        bell_t *bell = make_bell_ghc(1, 0);
        uint32_t words[MANY] = {0};
        int fd = make_eventfd();
        memset(mvars, 0, sizeof mvars);
        unarmed = (fake_mvar){0};
        set_timeout(bell, BELL_NEVER, to_mvar(&unarmed, 1)); /* its StablePtr must not be left behind either */
        bell_handle queue = make_queue(bell, NULL);
        for (int i = 0; i < MANY; i++) {
            watch(bell, fd, BELL_READ, BELL_ONESHOT, to_queue(queue));
            watch(bell, fd, BELL_READ, BELL_ONESHOT, to_mvar(&mvars[i], 1));
            watch(bell, fd, BELL_READ, BELL_ONESHOT, to_futex(&words[i]));
            bell_handle user = make_user(bell, to_queue(queue));
            CHECK_EQ(bell_post(bell, user, 1), 0);
        }
        CHECK_EQ(eventfd_write(fd, 1), 0);
        if (turns)
            CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), 0);
        CHECK_EQ(bell_destroy(bell, 0), 0);
        CHECK_EQ(unarmed.puts, 1);
        for (int i = 0; i < MANY; i++) {
            CHECK_EQ(mvars[i].puts, 1);
            CHECK_EQ(load(&words[i]), BELL_SEQ | (turns ? BELL_READ : BELL_CLOSED));
        }
        CHECK_EQ(close(fd), 0);
    }
    CHECK_EQ(live_blocks, 0);
}

/* ---- 37: every call in every state ---- */

enum { LIVE, TOLD, CLOSING, GONE, DESTROYED, STATES };
static const char *const state_names[] = {"live", "told", "closing", "unregistered", "destroyed"};

enum { MODIFY, REARM, RETARGET, UPDATE, GET, MAP, CONSUME, WAIT, UNREGISTER, CALLS };
static const char *const call_names[] = {"modify", "rearm",   "retarget", "update",    "get",
                                         "map",    "consume", "wait",     "unregister"};

static int32_t call_in_state(int call, bell_t *bell, bell_handle h)
{
    bell_target target = to_slot();
    bell_slot *slot;
    int64_t deadline;
    switch (call) {
    case MODIFY: return bell_modify(bell, h, BELL_READ, BELL_ONESHOT);
    case REARM: return bell_rearm(bell, h, NULL, BELL_NEVER);
    case RETARGET: return bell_retarget(bell, h, &target);
    case UPDATE: return bell_update_timeout(bell, h, BELL_NEVER - 1);
    case GET: return bell_timeout_get(bell, h, &deadline);
    case MAP: return bell_slot_map(bell, h, &slot);
    case CONSUME: return bell_slot_consume(bell, h, BELL_READ);
    case WAIT: return bell_slot_wait(bell, h, BELL_READ, 0, 0);
    default: return bell_unregister(bell, h, 0);
    }
}

/* libuv#2416: a timer was started on a handle that was closing. */
static void museum_037_every_call_has_its_code_in_every_state(void)
{
    static const int32_t of_fd[STATES][CALLS] = {
        [LIVE] = {0, 0, BELL_CANCELLED, 0, 0, 0, 0, -ETIMEDOUT, BELL_CANCELLED},
        [TOLD] = {0, 0, BELL_FIRED, BELL_FIRED, 0, 0, BELL_READ, BELL_READ, BELL_FIRED},
        [CLOSING] = {BELL_E_CLOSED, BELL_E_CLOSED, BELL_E_CLOSED, BELL_E_CLOSED, 0, 0, BELL_CLOSED, BELL_CLOSED,
                     BELL_FIRED},
        [GONE] = {BELL_E_STALE, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE,
                  BELL_E_STALE, BELL_E_STALE},
        [DESTROYED] = {BELL_E_STALE, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE,
                       BELL_E_STALE, BELL_E_STALE},
    };
    static const int32_t of_timeout[STATES][CALLS] = {
        [LIVE] = {-EINVAL, 0, BELL_CANCELLED, 0, 0, 0, 0, -ETIMEDOUT, BELL_CANCELLED},
        [TOLD] = {-EINVAL, 0, BELL_FIRED, BELL_FIRED, 0, 0, BELL_TIMEOUT, BELL_TIMEOUT, BELL_FIRED},
        [GONE] = {-EINVAL, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE,
                  BELL_E_STALE, BELL_E_STALE},
        [DESTROYED] = {BELL_E_STALE, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE, BELL_E_STALE,
                       BELL_E_STALE, BELL_E_STALE},
    };
    for (int timeout = 0; timeout < 2; timeout++)
        for (int state = 0; state < STATES; state++)
            for (int call = 0; call < CALLS; call++) {
                bell_t *bell = make_bell(1, 0);
                int fd = make_eventfd();
                uint64_t ticket = 0;
                if (timeout && state == CLOSING) {
                    CHECK_EQ(bell_destroy(bell, 0), 0);
                    CHECK_EQ(close(fd), 0);
                    continue;
                }
                bell_handle h = timeout ? set_timeout(bell, state == TOLD ? 0 : BELL_NEVER - 1, to_slot())
                                        : watch(bell, fd, BELL_READ, BELL_ONESHOT, to_slot());
                if (state == TOLD) {
                    CHECK_EQ(eventfd_write(fd, 1), 0);
                    CHECK_EQ(bell_poll(bell, 0, NULL, 0, 0), 0);
                } else if (state == CLOSING) {
                    CHECK_EQ(bell_close_begin(bell, fd, &ticket), 0);
                } else if (state == GONE) {
                    CHECK_EQ(bell_unregister(bell, h, 0), BELL_CANCELLED);
                } else if (state == DESTROYED) {
                    CHECK_EQ(bell_destroy(bell, 0), 0);
                }
                int32_t r = call_in_state(call, bell, h);
                int32_t wanted = timeout ? of_timeout[state][call] : of_fd[state][call];
                if (r != wanted)
                    fprintf(stderr, "  %s of %s that is %s\n", call_names[call], timeout ? "a timeout" : "an fd",
                            state_names[state]);
                CHECK_EQ(r, wanted);
                if (state == CLOSING)
                    CHECK_EQ(bell_close_end(bell, fd, ticket), 0);
                if (state != DESTROYED) {
                    if (state != GONE && call != UNREGISTER)
                        CHECK_OK(bell_unregister(bell, h, 0));
                    check_clean(bell);
                }
                CHECK_EQ(close(fd), 0);
            }
}

int main(void)
{
    RUN(museum_030_a_delivery_goes_where_it_was_meant_to_go);
    RUN(museum_032_a_timeout_cancelled_while_it_fires_leaves_its_word_alone_afterwards);
    RUN(museum_034_destroying_with_news_queued_ends_each_once);
    RUN(museum_037_every_call_has_its_code_in_every_state);
    return 0;
}
