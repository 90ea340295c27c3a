/* calls.h: for each function of the library, what six bytes make of its arguments and what it may answer; for
 * fuzz.c. */
#ifndef FUZZ_CALLS_H
#define FUZZ_CALLS_H

#include "model.h"

/* One registration of an fd: what is asked, what may be answered. NULL: there is no place for more. */
static thing *prepare_fd(bell_fd_spec *spec, binding *b, codes *wrong)
{
    static const uint8_t interests[] = {1, 1, 1, 2, 3, 1, 9, 2, 3, 4, 8, 15, 1, 3, 1, 2};
    static const uint8_t modes[] = {BELL_ONESHOT, BELL_ONESHOT, BELL_EDGE, BELL_LEVEL};
    thing *t = new_thing(FD);
    if (!t)
        return NULL;
    t->spot = step[1] % SPOTS;
    t->interest = t->asked = interests[step[2] % 16];
    t->mode = modes[step[2] / 16 % 4];
    t->flags = (step[4] % 4 == 0 ? BELL_FD_DEADLINE : 0) | (step[4] / 4 % 4 == 0 ? BELL_AUTO_RELEASE : 0) |
               (step[4] / 16 % 16 == 0 ? BELL_FD_EXCLUSIVE : 0) |
               ((t->spot == A_FILE) == (step[4] / 64 != 0) ? BELL_FD_ALWAYS_READY : 0);
    if (t->mode != BELL_ONESHOT && step[5] % 8)
        t->flags &= ~(uint32_t)BELL_AUTO_RELEASE;
    if (t->mode != BELL_EDGE && step[5] % 8)
        t->flags &= ~(uint32_t)BELL_FD_EXCLUSIVE;
    *spec = (bell_fd_spec){.size = sizeof *spec, .fd = number(t->spot), .interest = t->interest, .mode = t->mode,
                           .flags = t->flags, .shard = pick_shard(step[5]), .user_data = (uint64_t)things_made,
                           .target = pick_target(step[3], b)};
    if (t->flags & BELL_FD_DEADLINE)
        spec->deadline_ns = pick_time(step[5] / 8, BELL_CLOCK_MONOTONIC);
    spot *s = &world[t->spot];
    int ordinary = 0, exclusive = 0, here = 0, leaving = 0;
    for (thing *o = things; o < things + things_made; o++)
        if (o->live && o->kind == FD && o->spot == t->spot && !o->closed) {
            int is = !!(o->flags & BELL_FD_EXCLUSIVE);
            /* Its last news may be in the hands of the second thread, which has not come to tell. */
            leaving |= loose && o->flags & BELL_AUTO_RELEASE;
            exclusive += is;
            ordinary += !is;
            here += is && (o->handle >> 50 & 255) == spec->shard;
        }
    judge(wrong, t->mode, b->kind);
    if (!is_shard(spec->shard) || (t->flags & BELL_AUTO_RELEASE && t->mode != BELL_ONESHOT))
        or_else(wrong, -EINVAL);
    if (t->flags & BELL_FD_EXCLUSIVE) {
        if (t->mode != BELL_EDGE || spec->shard >= shards)
            or_else(wrong, -EINVAL);
        if (!(features & BELL_FEATURE_EXCLUSIVE) || io_uring)
            or_else(wrong, BELL_E_UNSUPPORTED);
        if (ordinary || here)
            or_else(wrong, BELL_E_BUSY);
        if (t->interest & BELL_PRI)
            or_else(wrong, -EINVAL); /* epoll's EPOLLEXCLUSIVE */
    } else if (exclusive)
        or_else(wrong, BELL_E_BUSY);
    if (leaving && wrong->n == 1 && wrong->code[0] == BELL_E_BUSY)
        or_else(wrong, 0);
    if (!s->open)
        or_else(wrong, -EBADF);
    if (s->closing)
        or_else(wrong, BELL_E_CLOSED);
    if (s->file && s->open && !(t->flags & BELL_FD_ALWAYS_READY && !(t->flags & BELL_FD_EXCLUSIVE)))
        or_else(wrong, -EPERM);
    if (s->ghostly)
        *wrong = *CODES(0, -EBADF, -EINVAL, -EPERM, -ENOENT, BELL_E_CLOSED, BELL_E_BUSY, BELL_E_UNSUPPORTED);
    take_resource(b);
    /* In the list before the call: a second thread may have its event before it returns. */
    t->truth = s->now;
    t->due = t->deadline = t->flags & BELL_FD_DEADLINE ? spec->deadline_ns : BELL_NEVER;
    t->arms = 1;
    t->armed = YES;
    t->dirty = 1;
    things_made++;
    return t;
}

static void say_fd(const char *call, const thing *t, const bell_fd_spec *spec, const binding *b, int32_t r)
{
    say("%s(bell, {fd %d, interest %#x, mode %u, flags %#x, shard %d, deadline %" PRId64 ", target %s %d}, &h%d) = %d",
        call, spec->fd, spec->interest, spec->mode, spec->flags, (int)spec->shard, spec->deadline_ns,
        target_names[b->kind], b->at, index_of(t), r);
    cover(call, r, t->mode | t->flags << 8, b->kind);
}

static void is_registered(thing *t, const binding *b, bell_handle handle)
{
    take_handle(t, handle);
    bind_to(t, b);
}

/* Of different fds, so that what one is answered does not hang on the others. */
static void do_register_fd_batch(void)
{
    enum { MOST = 3 };
    const uint8_t *whole = step;
    uint8_t part[STEP];
    bell_fd_spec specs[MOST];
    binding b[MOST];
    codes wrong[MOST] = {0};
    thing *of[MOST];
    bell_handle handles[MOST] = {77, 77, 77};
    int32_t status[MOST] = {99, 99, 99}, good = 0;
    uint32_t n = 0, wanted = 1 + whole[4] % MOST;
    while (n < wanted) {
        for (int i = 0; i < STEP; i++)
            part[i] = (uint8_t)(whole[i] + n * (i == 1 ? 1 : 7));
        step = part;
        of[n] = prepare_fd(&specs[n], &b[n], &wrong[n]);
        step = whole;
        if (!of[n])
            break;
        n++;
    }
    int32_t r = bell_register_fd_batch(bell, specs, n, handles, status);
    for (uint32_t i = 0; i < n; i++) {
        say_fd("bell_register_fd_batch", of[i], &specs[i], &b[i], status[i]);
        good += status[i] == 0;
        if (!is_accepted("bell_register_fd_batch", status[i], &wrong[i])) {
            if (handles[i] != 0)
                fail("bell_register_fd_batch wrote handle %#" PRIx64 " beside an error", handles[i]);
            unbind_unused(&b[i]);
            of[i]->kind = 0; /* its place stays empty */
        } else
            is_registered(of[i], &b[i], handles[i]);
    }
    MUST("bell_register_fd_batch", r, good);
}

static void do_register_fd(void)
{
    bell_fd_spec spec;
    binding b;
    codes wrong = {0};
    bell_handle handle = 77;
    if (in_batches) {
        do_register_fd_batch();
        return;
    }
    thing *t = prepare_fd(&spec, &b, &wrong);
    if (!t)
        return;
    int32_t r = bell_register_fd(bell, &spec, &handle);
    say_fd("bell_register_fd", t, &spec, &b, r);
    if (!is_accepted("bell_register_fd", r, &wrong)) {
        if (handle != 77)
            fail("bell_register_fd failed and wrote the handle");
        unbind_unused(&b);
        things_made--;
        return;
    }
    is_registered(t, &b, handle);
}

static void do_register_timeout(void)
{
    static const int64_t spans[] = {0, 0, 0, 0, 0, 10000, 150000, 1LL << 62};
    thing *t = new_thing(TIMEOUT);
    codes wrong = {0};
    binding b;
    bell_handle handle = 77;
    if (!t)
        return;
    t->clock = step[4] % 4 == 3 && features & BELL_FEATURE_CLOCKS ? step[4] / 4 % 3 : BELL_CLOCK_MONOTONIC;
    t->period = spans[step[2] % 8];
    int64_t slack = spans[step[2] / 8 % 8];
    t->slack = slack > slack_of_all ? slack : slack_of_all;
    t->flags = step[4] / 16 % 4 == 0 ? BELL_AUTO_RELEASE : 0;
    bell_timeout_spec spec = {.size = sizeof spec, .clock = t->clock, .flags = t->flags, .shard = pick_shard(step[5]),
                              .deadline_ns = pick_time(step[1], t->clock), .period_ns = t->period,
                              .slack_ns = slack, .user_data = (uint64_t)things_made,
                              .target = pick_target(step[3], &b)};
    judge(&wrong, 0, b.kind);
    if (!is_shard(spec.shard) || (t->period && (t->flags || b.kind == BELL_TARGET_MVAR)))
        or_else(&wrong, -EINVAL);
    take_resource(&b);
    t->deadline = t->due = spec.deadline_ns;
    t->armed = spec.deadline_ns != BELL_NEVER;
    t->arms = (uint32_t)t->armed;
    things_made++;
    int32_t r = bell_register_timeout(bell, &spec, &handle);
    say("bell_register_timeout(bell, {clock %u, deadline %" PRId64 ", period %" PRId64 ", slack %" PRId64
        ", flags %#x, shard %d, target %s %d}, &h%d) = %d", spec.clock, spec.deadline_ns, spec.period_ns, spec.slack_ns,
        spec.flags, (int)spec.shard, target_names[b.kind], b.at, index_of(t), r);
    cover("bell_register_timeout", r, (t->period > 0) | (t->slack > 0) << 1 | t->flags << 2 | t->clock << 8, b.kind);
    if (!is_accepted("bell_register_timeout", r, &wrong)) {
        if (handle != 77)
            fail("bell_register_timeout failed and wrote the handle");
        unbind_unused(&b);
        things_made--;
        return;
    }
    take_handle(t, handle);
    bind_to(t, &b);
}

static void do_register_user(void)
{
    thing *t = new_thing(USER);
    codes wrong = {0};
    binding b;
    bell_handle handle = 77;
    if (!t)
        return;
    bell_target target = pick_target(step[3], &b);
    uint32_t shard = pick_shard(step[5]);
    judge(&wrong, 0, b.kind);
    if (!is_shard(shard))
        or_else(&wrong, -EINVAL);
    take_resource(&b);
    t->armed = YES;
    t->arms = 1;
    things_made++;
    int32_t r = bell_register_user(bell, shard, &target, (uint64_t)index_of(t), &handle);
    say("bell_register_user(bell, %d, target %s %d, &h%d) = %d", (int)shard, target_names[b.kind], b.at, index_of(t),
        r);
    cover("bell_register_user", r, 0, b.kind);
    if (!is_accepted("bell_register_user", r, &wrong)) {
        unbind_unused(&b);
        things_made--;
        return;
    }
    take_handle(t, handle);
    bind_to(t, &b);
}

static int is_doorbell(uint32_t kind)
{
    return kind == BELL_TARGET_FUTEX || kind == BELL_TARGET_WAKE_FD || kind == BELL_TARGET_MVAR;
}

static void do_queue_create(void)
{
    thing *t = new_thing(QUEUE);
    codes wrong = {0};
    binding b = {0};
    bell_handle handle = 77;
    bell_target target;
    int with = step[2] % 2;
    if (!t)
        return;
    if (with) {
        target = pick_target(step[3], &b);
        if (!is_doorbell(b.kind))
            or_else(&wrong, -EINVAL);
    }
    uint32_t shard = pick_shard(step[5]);
    if (!is_shard(shard))
        or_else(&wrong, -EINVAL);
    take_resource(&b);
    things_made++;
    int32_t r = bell_queue_create(bell, shard, with ? &target : NULL, &handle);
    say("bell_queue_create(bell, %d, doorbell %s %d, &h%d) = %d", (int)shard, target_names[b.kind], b.at, index_of(t),
        r);
    cover("bell_queue_create", r, 0, b.kind);
    if (!is_accepted("bell_queue_create", r, &wrong)) {
        unbind_unused(&b);
        things_made--;
        return;
    }
    take_handle(t, handle);
    t->to = b;
}

static void do_rearm(void)
{
    bell_handle handle;
    codes wrong = {0};
    binding b = {0};
    bell_target target;
    int with = step[2] % 4 == 0;
    thing *t = pick(step[1], FD | TIMEOUT | USER, &handle);
    int64_t deadline = t && t->kind == FD && step[4] % 4 ? BELL_NEVER : pick_time(step[4], t ? t->clock : 0);
    if (t && t->kind == USER && step[4] % 8)
        deadline = BELL_NEVER;
    if (with)
        target = pick_target(step[3], &b);
    if (with)
        take_resource(&b);
    int32_t r = bell_rearm(bell, handle, with ? &target : NULL, deadline);
    say("bell_rearm(bell, h%d, %s, %" PRId64 ") = %d", t ? index_of(t) : -1, with ? target_names[b.kind] : "NULL",
        deadline, r);
    if (is_refused("bell_rearm", r, t, FD | TIMEOUT | USER, handle)) {
        if (with)
            unbind_unused(&b);
        return;
    }
    cover("bell_rearm", r, (uint32_t)t->kind << 8 | t->mode | (uint32_t)with << 4, with ? b.kind : t->to.kind);
    if (with)
        judge(&wrong, t->mode, b.kind);
    else if (t->to.kind == BELL_TARGET_MVAR && (t->to.spent || loose))
        or_else(&wrong, -EINVAL);
    if (t->kind == FD && t->closed)
        or_else(&wrong, BELL_E_CLOSED);
    if (t->kind == TIMEOUT && with && t->period && b.kind == BELL_TARGET_MVAR)
        or_else(&wrong, -EINVAL);
    if (t->kind == USER && deadline != BELL_NEVER)
        or_else(&wrong, -EINVAL);
    if (wrong.n && loose)
        or_else(&wrong, 0);
    if (is_ghostly(t))
        wrong = *CODES(0, -EBADF, BELL_E_CLOSED, -EINVAL, BELL_E_UNSUPPORTED, -EPERM);
    if (!is_accepted("bell_rearm", r, &wrong)) {
        if (with)
            unbind_unused(&b);
        return;
    }
    if (with) {
        let_go(&t->to, !loose);
        bind_to(t, &b);
        t->armed = NO; /* unseen news went with the old target */
        t->blurred = 0;
        t->mixed = 1;
    }
    if (t->kind == TIMEOUT && deadline == BELL_NEVER && !t->word) {
        t->armed = is_listed(&t->to) && t->armed != NO ? MAYBE : NO;
        t->deadline = BELL_NEVER;
        t->mixed = 1;
        return;
    }
    arm(t);
    set_deadline(t, deadline);
}

static void do_modify(void)
{
    static const uint8_t interests[] = {1, 2, 3, 1, 9, 15, 4, 0};
    static const uint8_t modes[] = {BELL_ONESHOT, BELL_ONESHOT, BELL_EDGE, BELL_LEVEL, BELL_ONESHOT, BELL_EDGE, 0, 4};
    bell_handle handle;
    codes wrong = {0};
    thing *t = pick(step[1], FD, &handle);
    uint32_t interest = interests[step[2] % 8], mode = modes[step[3] % 8];
    int32_t r = bell_modify(bell, handle, interest, mode);
    say("bell_modify(bell, h%d, %#x, %u) = %d", t ? index_of(t) : -1, interest, mode, r);
    if (!interest || !mode || mode > 3) {
        MUST("bell_modify", r, -EINVAL);
        return;
    }
    if (is_refused("bell_modify", r, t, FD, handle))
        return;
    cover("bell_modify", r, t->mode | mode << 4, t->to.kind);
    judge(&wrong, mode, t->to.kind);
    if (t->to.kind == BELL_TARGET_MVAR && (t->to.spent || loose))
        or_else(&wrong, -EINVAL);
    if (t->flags & BELL_FD_EXCLUSIVE)
        or_else(&wrong, BELL_E_BUSY);
    if (t->flags & BELL_AUTO_RELEASE && mode != BELL_ONESHOT)
        or_else(&wrong, -EINVAL);
    if (t->closed)
        or_else(&wrong, BELL_E_CLOSED);
    if (wrong.n && loose)
        or_else(&wrong, 0);
    if (is_ghostly(t))
        wrong = *CODES(0, -EBADF, BELL_E_CLOSED, -EINVAL, BELL_E_UNSUPPORTED, BELL_E_BUSY);
    if (!is_accepted("bell_modify", r, &wrong))
        return;
    t->interest = interest;
    t->asked |= interest;
    if (t->mode != mode)
        t->mixed = 1;
    /* Unseen news of the old mode may be there. */
    if (is_listed(&t->to) && t->mode != BELL_ONESHOT)
        t->armed = YES;
    /* Unseen news of an arming took its deadline with it. */
    if (is_listed(&t->to) && t->mode == BELL_ONESHOT && t->armed != NO)
        t->vague = 1;
    t->mode = mode;
    arm(t);
}

static void do_retarget(void)
{
    bell_handle handle;
    codes wrong = {0};
    binding b;
    thing *t = pick(step[1], ANY, &handle);
    bell_target target = pick_target(step[3], &b);
    if (t && t->kind == QUEUE && step[2] % 4 == 0) {
        memset(&target, 0, sizeof target);
        memset(&b, 0, sizeof b);
    }
    take_resource(&b);
    int32_t r = bell_retarget(bell, handle, &target);
    say("bell_retarget(bell, h%d, %s %d) = %d", t ? index_of(t) : -1, target_names[b.kind], b.at, r);
    if (is_refused("bell_retarget", r, t, ANY, handle)) {
        unbind_unused(&b);
        return;
    }
    cover("bell_retarget", r, (uint32_t)t->kind << 8 | t->mode | t->to.kind << 4, b.kind);
    if (t->kind == QUEUE) {
        if (b.kind != BELL_TARGET_NONE && !is_doorbell(b.kind)) {
            MUST("bell_retarget", r, -EINVAL);
            unbind_unused(&b);
            return;
        }
        int had = t->to.kind != BELL_TARGET_NONE, fired = t->to.kind == BELL_TARGET_MVAR && load(&puts_of[t->to.at]);
        if (loose && t->to.kind == BELL_TARGET_MVAR)
            MUST("bell_retarget", r, BELL_CANCELLED, BELL_FIRED);
        else
            MUST("bell_retarget", r, had && !fired ? BELL_CANCELLED : BELL_FIRED);
        t->to.spent = fired;
        let_go(&t->to, !loose);
        t->to = b;
        return;
    }
    judge(&wrong, t->mode, b.kind);
    if (t->kind == FD && t->closed)
        or_else(&wrong, BELL_E_CLOSED);
    if (t->kind == TIMEOUT && t->period && b.kind == BELL_TARGET_MVAR)
        or_else(&wrong, -EINVAL);
    if (r < 0) {
        if (loose || is_ghostly(t))
            or_else(&wrong, BELL_E_CLOSED);
        check_code("bell_retarget", r, &wrong);
        unbind_unused(&b);
        return;
    }
    if (wrong.n && is_exact(t))
        check_code("bell_retarget", r, &wrong);
    int sure = t->period && t->deadline != BELL_NEVER;
    if (t->kind != TIMEOUT)
        sure = t->kind == FD ? t->mode != BELL_ONESHOT : !t->to.spent;
    if (t->kind == USER)
        t->armed = !t->to.spent;
    if (t->to.kind == BELL_TARGET_MVAR && is_exact(t)) /* armed or not: whose StablePtr is it? */
        MUST("bell_retarget", r, t->to.spent ? BELL_FIRED : BELL_CANCELLED);
    else if (!is_exact(t) || (!sure && t->armed == MAYBE) || (t->kind == TIMEOUT && t->period && !sure))
        MUST("bell_retarget", r, BELL_CANCELLED, BELL_FIRED);
    else
        MUST("bell_retarget", r, sure || t->armed == YES ? BELL_CANCELLED : BELL_FIRED);
    let_go(&t->to, !loose);
    t->mixed = 1;
    bind_to(t, &b);
}

/* The answer of an unregister. */
static void check_answer(thing *t, int32_t r, uint32_t flags)
{
    int either = !is_exact(t), cancelled = t->armed == YES;
    if (t->kind == FD && t->mode != BELL_ONESHOT && !t->closed)
        cancelled = 1;
    else if (t->kind == USER)
        cancelled = !t->to.spent;
    else if (t->kind == TIMEOUT && t->period) {
        cancelled = t->deadline != BELL_NEVER;
        either |= !cancelled && is_listed(&t->to);
    } else
        either |= t->armed == MAYBE;
    if (t->to.kind == BELL_TARGET_MVAR && !loose) {
        /* Armed or not, and closed behind the library's back or not: whose StablePtr is it? One of this batch may have
         * told that the fd is gone. */
        t->to.spent = load(&puts_of[t->to.at]) != 0;
        either = 0;
        cancelled = !t->to.spent;
    }
    cover("bell_unregister", r, (uint32_t)t->kind << 8 | t->mode | (uint32_t)t->closed << 4 | flags << 5, t->to.kind);
    if (either)
        MUST("bell_unregister", r, BELL_CANCELLED, BELL_FIRED);
    else
        MUST("bell_unregister", r, cancelled ? BELL_CANCELLED : BELL_FIRED);
    t->answer = r;
    free(t->word); /* the registration has ended */
    t->word = NULL;
    if (loose && flags & BELL_SYNC && !t->mixed && !t->closed && !is_ghostly(t) &&
        (t->kind == FD ? t->mode == BELL_ONESHOT : t->kind == TIMEOUT && !t->period)) {
        int shown = 1;
        uint64_t n = t->seen;
        if (t->to.kind == BELL_TARGET_FUTEX)
            n += load(&words[t->to.at]) / BELL_SEQ - t->to.rd;
        else if (t->to.kind == BELL_TARGET_MVAR)
            n = load(&puts_of[t->to.at]);
        else
            shown = 0;
        /* An MVAR is given back unfilled, armed or not. */
        if (shown && r == BELL_CANCELLED && n + 1 > (t->to.kind == BELL_TARGET_MVAR ? 1 : t->arms))
            fail("h%d: armed %u times, told %" PRIu64 " times, yet cancelled", index_of(t), t->arms, n);
        if (shown && r == BELL_FIRED && t->arms == 1 && n != 1)
            fail("h%d: fired, but told %" PRIu64 " times", index_of(t), n);
        if (t->to.kind == BELL_TARGET_MVAR && r == BELL_CANCELLED)
            mvar_given[t->to.at] = 2;
    }
    t->live = 0;
    let_go(&t->to, !loose || flags & BELL_SYNC);
}

static void unregister(thing *t, bell_handle handle, uint32_t flags)
{
    int32_t r = bell_unregister(bell, handle, flags);
    say("bell_unregister(bell, h%d, %u) = %d", t ? index_of(t) : -1, flags, r);
    if (flags > 1) {
        MUST("bell_unregister", r, -EINVAL);
        return;
    }
    if (is_refused("bell_unregister", r, t, FD | TIMEOUT | USER, handle)) {
        if (t && t->kind != QUEUE)
            t->live = 0;
        return;
    }
    check_answer(t, r, flags);
}

static void do_unregister(void)
{
    bell_handle handle;
    thing *t = pick(step[1], FD | TIMEOUT | USER, &handle);
    unregister(t, handle, step[2] == 255 ? 2 : step[2] % 2);
}

static void do_batch(void)
{
    bell_handle handles[3] = {0};
    thing *of[3];
    int32_t status[3] = {99, 99, 99}, good = 0, r;
    uint32_t n = step[4] % 4, flags = step[5] / 128;
    int again = step[5] % 2;
    for (uint32_t i = 0; i < n; i++)
        of[i] = pick(step[1 + i], FD | (again ? 0 : TIMEOUT | USER), &handles[i]);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < i; j++)
            if (handles[i] == handles[j])
                return;
    if (again)
        r = bell_rearm_batch(bell, handles, n, status);
    else
        r = bell_unregister_batch(bell, handles, n, flags, status);
    say("bell_%s_batch(bell, {%d, ...}, %u) = %d", again ? "rearm" : "unregister", n && of[0] ? index_of(of[0]) : -1, n,
        r);
    for (uint32_t i = 0; i < n; i++) {
        thing *t = of[i];
        good += status[i] >= 0;
        if (again) {
            if (status[i] != 0 || !t)
                continue;
            if (t->kind == TIMEOUT && !t->word) {
                t->armed = is_listed(&t->to) && t->armed != NO ? MAYBE : NO;
                t->deadline = BELL_NEVER;
                t->mixed = 1;
            } else {
                arm(t);
                set_deadline(t, BELL_NEVER);
            }
        } else if (!is_refused("bell_unregister_batch", status[i], t, FD | TIMEOUT | USER, handles[i]))
            check_answer(t, status[i], flags);
        else if (t && t->kind != QUEUE)
            t->live = 0;
    }
    MUST("bell_..._batch", r, good);
    cover(again ? "bell_rearm_batch" : "bell_unregister_batch", r, n, flags);
}

/* The deadline in a word of ours from now on; then a store there. */
static void do_share_deadline(thing *t, bell_handle handle)
{
    int64_t *word = malloc(sizeof *word);
    if (!word)
        exit(1);
    *word = 77;
    int32_t r = bell_share_deadline(bell, handle, word);
    say("bell_share_deadline(bell, h%d, word) = %d", t ? index_of(t) : -1, r);
    if (is_refused("bell_share_deadline", r, t, TIMEOUT, handle)) {
        free(word);
        return;
    }
    cover("bell_share_deadline", r, (uint32_t)t->armed, t->to.kind);
    MUST("bell_share_deadline", r, t->period ? -EINVAL : 0);
    if (r != 0) {
        if (*word != 77)
            fail("bell_share_deadline failed and wrote the word");
        free(word);
        return;
    }
    if (is_exact(t) && !t->word && t->deadline != BELL_NEVER && *word != t->deadline)
        fail("h%d is shared at %" PRId64 ", not %" PRId64, index_of(t), *word, t->deadline);
    if (t->armed == NO && t->deadline == BELL_NEVER && !t->word) {
        t->armed = YES;
        t->arms++;
    }
    t->mixed = 1;
    free(t->word); /* which is not read any more */
    t->word = word;
}

static void do_store_deadline(thing *t, int64_t deadline)
{
    say("*word of h%d = %" PRId64, index_of(t), deadline);
    __atomic_store_n(t->word, deadline, __ATOMIC_RELAXED);
    if (t->armed == NO)
        return; /* means nothing */
    t->mixed = 1;
    if (deadline < t->due)
        t->due = deadline;
    if (deadline > t->deadline || t->armed == MAYBE)
        t->deadline = deadline;
    else
        t->vague |= deadline < t->deadline; /* may be seen when the time before has come, or at once */
    cover("store", deadline < t->deadline, (uint32_t)t->armed, t->to.kind);
}

static void do_update_timeout(void)
{
    bell_handle handle;
    thing *t = pick(step[1], FD | TIMEOUT, &handle);
    if (step[3] % 8 == 6) {
        if (t && t->word && step[3] % 16 == 14)
            do_store_deadline(t, pick_time(step[2], t->clock));
        else
            do_share_deadline(t, handle);
        return;
    }
    int64_t deadline = pick_time(step[2], t ? t->clock : 0), got = 77;
    int32_t r;
    if (step[3] % 2) {
        r = bell_timeout_get(bell, handle, &got);
        say("bell_timeout_get(bell, h%d) = %d, %" PRId64, t ? index_of(t) : -1, r, got);
        if (is_refused("bell_timeout_get", r, t, FD | TIMEOUT, handle))
            return;
        MUST("bell_timeout_get", r, 0);
        cover("bell_timeout_get", got == BELL_NEVER, (uint32_t)t->kind << 8 | t->mode, t->to.kind);
        if (!is_exact(t) || t->period || (got == BELL_NEVER && (is_listed(&t->to) || t->armed == MAYBE)))
            return;
        int armed = t->kind == TIMEOUT ? t->armed != NO : !t->closed && (t->mode != BELL_ONESHOT || t->armed != NO);
        if (t->vague || (armed && t->word && got == *t->word))
            return;
        if (got != (armed ? t->deadline : BELL_NEVER))
            fail("bell_timeout_get of h%d tells %" PRId64 ", not %" PRId64, index_of(t), got,
                 armed ? t->deadline : BELL_NEVER);
        return;
    }
    r = bell_update_timeout(bell, handle, deadline);
    say("bell_update_timeout(bell, h%d, %" PRId64 ") = %d", t ? index_of(t) : -1, deadline, r);
    if (is_refused("bell_update_timeout", r, t, FD | TIMEOUT, handle))
        return;
    cover("bell_update_timeout", r, (uint32_t)t->kind << 8 | t->mode, t->to.kind);
    int one_shot = t->kind == FD ? t->mode == BELL_ONESHOT : !t->period;
    if (!is_exact(t))
        MUST("bell_update_timeout", r, 0, BELL_FIRED, BELL_E_CLOSED);
    else if (t->kind == FD && t->closed)
        MUST("bell_update_timeout", r, BELL_E_CLOSED);
    else if (one_shot && (t->armed == MAYBE || (t->armed == YES && is_listed(&t->to))))
        MUST("bell_update_timeout", r, 0, BELL_FIRED);
    else if (one_shot && t->armed == NO && (t->kind == FD || t->deadline != BELL_NEVER || t->word))
        MUST("bell_update_timeout", r, BELL_FIRED);
    else
        MUST("bell_update_timeout", r, 0);
    if (r != 0)
        return;
    set_deadline(t, deadline);
    t->blurred |= is_listed(&t->to) && (!one_shot || t->armed == MAYBE);
    if (t->kind == TIMEOUT) {
        if (t->armed == NO)
            t->arms++;
        else if (loose)
            t->arms++; /* who knows */
        t->mixed |= deadline == BELL_NEVER;
        t->armed = deadline != BELL_NEVER || t->word ? YES : t->blurred ? MAYBE : NO;
        if (t->period && deadline == BELL_NEVER)
            t->deadline = BELL_NEVER;
    }
}

static void do_post(void)
{
    bell_handle handle;
    thing *t = pick(step[1], USER, &handle);
    uint32_t bits = 1u << step[2] % 32;
    int32_t r = bell_post(bell, handle, bits);
    say("bell_post(bell, h%d, %#x) = %d", t ? index_of(t) : -1, bits, r);
    if (is_refused("bell_post", r, t, USER, handle))
        return;
    MUST("bell_post", r, 0);
    cover("bell_post", r, 0, t->to.kind);
    t->owed |= bits;
    t->posted |= bits;
    t->dirty = 1;
}

static void do_slot(void)
{
    bell_handle handle;
    thing *t = pick(step[1], FD | TIMEOUT | USER, &handle);
    uint32_t direction = step[2] % 16 == 15 ? 3 : step[2] % 2 ? BELL_READ : BELL_WRITE, there = 0, flags = 0;
    int wait = step[3] % 4 == 0;
    int32_t r;
    /* Mostly one that has a slot. */
    for (int i = 0; i < things_made && !(t && t->to.kind == BELL_TARGET_SLOT) && step[1] < 220; i++)
        if (things[i].live && things[i].kind != QUEUE && things[i].to.kind == BELL_TARGET_SLOT) {
            t = &things[i];
            handle = t->handle;
        }
    int has = t && t->kind != QUEUE && t->to.kind == BELL_TARGET_SLOT && t->to.slot;
    uint32_t *word = has ? direction == BELL_READ ? &t->to.slot->rd : &t->to.slot->wr : NULL;
    if (has)
        there = load(word) & (BELL_NEWS | BELL_CLOSED | BELL_CANCELLED);
    if (wait) {
        flags = step[4] % 4 == 0 ? BELL_LEVEL_CHECK : 0;
        r = bell_slot_wait(bell, handle, direction, step[5] % 2 ? 0 : now_ns(0) + 20000, flags);
    } else
        r = bell_slot_consume(bell, handle, direction);
    say("bell_slot_%s(bell, h%d, %u, %u) = %d", wait ? "wait" : "consume", t ? index_of(t) : -1, direction, flags, r);
    cover(wait ? "bell_slot_wait" : "bell_slot_consume", r, direction, t ? t->to.kind : 99);
    if (direction == 3) {
        MUST("bell_slot_...", r, -EINVAL);
        return;
    }
    if (is_refused("bell_slot_...", r, t, FD | TIMEOUT | USER, handle))
        return;
    if (t->to.kind != BELL_TARGET_SLOT) {
        MUST("bell_slot_...", r, -EINVAL);
        return;
    }
    int always = t->kind == FD && world[t->spot].file;
    if (has && is_exact(t) && !always && there && !flags)
        MUST("bell_slot_...", r, (int32_t)there);
    else if (is_exact(t) && !wait && !always)
        MUST("bell_slot_consume", r, 0);
    else if (r <= 0 && !(r == 0 && !wait))
        MUST("bell_slot_wait", r, -ETIMEDOUT, flags ? -EBADF : -ETIMEDOUT,
             t->flags & BELL_AUTO_RELEASE ? BELL_E_CANCELLED : -ETIMEDOUT);
    observe();
    if (has && !loose) { /* what was consumed is not there any more */
        t->to.rd &= load(&t->to.slot->rd) | ~(uint32_t)BELL_NEWS;
        t->to.wr &= load(&t->to.slot->wr) | ~(uint32_t)BELL_NEWS;
    }
}

static void drain(thing *q, uint32_t capacity, int wait)
{
    bell_event events[EVENTS];
    uint32_t live = 0;
    int32_t r;
    int told = q->queue_fd && !loose ? is_readable(q->queue_fd) : -1, levels = 0;
    if (wait)
        r = bell_queue_wait(bell, q->handle, events, capacity, step[5] % 2 ? 0 : now_ns(0) + 20000);
    else
        r = bell_queue_drain(bell, q->handle, events, capacity);
    say("bell_queue_%s(bell, h%d, events, %u) = %d", wait ? "wait" : "drain", index_of(q), capacity, r);
    cover(wait ? "bell_queue_wait" : "bell_queue_drain", r, capacity > 3 ? 3 : capacity, q->to.kind);
    for (thing *t = things; t < things + things_made; t++)
        if (t->live && t->kind != QUEUE && t->to.kind == BELL_TARGET_QUEUE && t->to.at == index_of(q)) {
            live++;
            levels += t->mode == BELL_LEVEL; /* which only drains look at */
        }
    if (told == 1 && capacity && r <= 0)
        fail("the queue's fd is readable, and there is no news");
    if (told == 0 && !wait && !levels && r > 0)
        fail("there is news, and the queue's fd was not readable");
    if (r < 0 || (wait && capacity == 0))
        MUST("bell_queue_wait", r, wait ? capacity ? -ETIMEDOUT : -EINVAL : 0);
    if (r == 0 && wait)
        fail("bell_queue_wait returned 0");
    if (r > (int32_t)capacity || (!loose && r > (int32_t)live))
        fail("a queue of %u registrations gave %d events for %u places", live, r, capacity);
    take_events(events, r, BELL_TARGET_QUEUE, index_of(q));
}

static void do_queue(void)
{
    static const uint8_t capacities[] = {0, 1, 2, 64};
    bell_handle handle;
    thing *q = pick(step[1], QUEUE, &handle);
    bell_event e;
    int32_t r;
    switch (step[2] % 8) {
    case 0: case 1: case 2: case 3:
        if (q && q->kind == QUEUE) {
            drain(q, capacities[step[3] % 4], step[2] % 8 == 3);
            break;
        }
        r = bell_queue_drain(bell, handle, &e, 1);
        say("bell_queue_drain(bell, not a queue) = %d", r);
        is_refused("bell_queue_drain", r, q, QUEUE, handle);
        break;
    case 4:
        r = bell_queue_fd(bell, handle);
        say("bell_queue_fd(bell, h%d) = %d", q ? index_of(q) : -1, r);
        if (is_refused("bell_queue_fd", r, q, QUEUE, handle))
            break;
        if (r < 0 || (q->queue_fd && r != q->queue_fd))
            fail("bell_queue_fd gave %d, before it gave %d", r, q->queue_fd);
        q->queue_fd = r;
        break;
    default:
        r = bell_queue_destroy(bell, handle, step[3] % 2);
        say("bell_queue_destroy(bell, h%d, %u) = %d", q ? index_of(q) : -1, step[3] % 2, r);
        if (is_refused("bell_queue_destroy", r, q, QUEUE, handle))
            break;
        cover("bell_queue_destroy", r, step[3] % 2, q->to.kind);
        int filled = q->to.kind == BELL_TARGET_MVAR && load(&puts_of[q->to.at]);
        if (loose) {
            if (r == BELL_E_BUSY)
                break;
            MUST("bell_queue_destroy", r, BELL_FIRED, BELL_CANCELLED);
        } else if (q->used) {
            MUST("bell_queue_destroy", r, BELL_E_BUSY);
            break;
        } else
            MUST("bell_queue_destroy", r,
                 q->to.kind == BELL_TARGET_NONE || filled ? BELL_FIRED : BELL_CANCELLED);
        q->live = 0;
        q->to.spent = filled;
        let_go(&q->to, !loose || step[3] % 2);
    }
}

static void poll_once(uint32_t shard, uint32_t capacity, int64_t timeout)
{
    bell_event events[EVENTS];
    is_idle_turn = !loose && timeout == 0 && pollable[shard] && !is_readable(pollable[shard]);
    int32_t r = bell_poll(bell, shard, events, capacity, timeout);
    say("bell_poll(bell, %u, events, %u, %" PRId64 ") = %d", shard, capacity, timeout, r);
    cover("bell_poll", r, capacity > 3 ? 3 : capacity, timeout > 0);
    if (r < 0) {
        if (!loose || r != BELL_E_BUSY)
            MUST("bell_poll", r, 0);
        return;
    }
    __atomic_add_fetch(&common->calls, 1, __ATOMIC_RELAXED);
    if (r > (int32_t)capacity)
        fail("bell_poll wrote %d events for %u places", r, capacity);
    observe();
    take_events(events, r, BELL_TARGET_POLL, 0);
    is_idle_turn = 0;
}

static void do_poll(void)
{
    static const uint8_t capacities[] = {0, 1, 2, 64, 64, 64, 64, 3};
    poll_once(step[1] % shards, capacities[step[2] % 8], step[3] % 8 == 0 ? 30000 : 0);
}

static void verify(void)
{
    if (ghosts_stay)
        return;
    for (thing *t = things; t < things + things_made; t++)
        if (t->live && (is_ghostly(t) || (t->kind == FD && !world[t->spot].open)))
            return;
    int32_t r = bell_verify(bell);
    /* While another thread drives, an event that it holds may be of before the last arming: the kernel is armed then,
     * and the registry does not know until the next event. */
    if (loose && r >= 0)
        return;
    if (r != 0)
        bell_dump(bell, 2);
    MUST("bell_verify", r, 0);
    bell_counters c = {.size = sizeof c};
    uint64_t live[9] = {0};
    MUST("bell_stats", bell_stats(bell, BELL_SHARD_ANY, &c), 0);
    for (thing *t = things; t < things + things_made; t++)
        live[t->kind] += (uint64_t)t->live;
    if (c.fds != live[FD] || c.timeouts != live[TIMEOUT] || c.users != live[USER] || c.queues != live[QUEUE] ||
        c.waiters)
        fail("alive are %d fds, %d timeouts, %d users, %d queues, %d waiters; the model has %d, %d, %d, %d, 0",
             (int)c.fds, (int)c.timeouts, (int)c.users, (int)c.queues, (int)c.waiters, (int)live[FD],
             (int)live[TIMEOUT], (int)live[USER], (int)live[QUEUE]);
}

/* Two turns of each shard (more, if one takes a single event) and two drains of each queue: then everything that is
 * ready and armed has been told. */
static void do_settle(void)
{
    uint64_t before[THINGS];
    uint8_t owed[THINGS];
    if (loose)
        return;
    say("/* whatever is ready and armed must be told now */");
    look_at_world();
    for (int i = 0; i < things_made; i++) {
        thing *t = &things[i];
        before[i] = t->seen;
        owed[i] = 0;
        if (!t->live || t->kind == QUEUE || is_ghostly(t) || t->to.spent)
            continue;
        int due = !t->vague && t->deadline < BELL_NEVER - t->slack && t->deadline + t->slack <= now_ns(t->clock);
        uint32_t ready = t->kind == FD ? wants(t->interest) & world[t->spot].now : 0;
        if (t->kind == FD && world[t->spot].file)
            ready &= BELL_READ | BELL_WRITE;
        if (t->kind == TIMEOUT)
            owed[i] = due && t->armed == YES;
        else if (t->kind == USER)
            owed[i] = t->owed != 0;
        else if (t->closed)
            owed[i] = t->armed == YES;
        else if (t->mode == BELL_ONESHOT)
            owed[i] = t->armed == YES && (due || ready);
        else if (t->mode == BELL_LEVEL)
            owed[i] = !!ready;
        else
            owed[i] = t->dirty && ready & BELL_READ;
    }
    for (int round = 0; round < (one_event ? 16 : 2); round++) {
        for (uint32_t s = 0; s < shards; s++)
            poll_once(s, EVENTS, 0);
        for (thing *q = things; q < things + things_made; q++)
            if (q->live && q->kind == QUEUE)
                drain(q, EVENTS, 0);
        observe();
    }
    for (int i = 0; i < things_made; i++) {
        thing *t = &things[i];
        if (owed[i] && t->seen == before[i])
            fail("h%d is ready and armed, and two turns have not told it", i);
        if (t->live && t->kind == USER && is_listed(&t->to) && t->owed)
            fail("h%d: the posted bits %#x were lost", i, t->owed);
    }
}

static void is_written(int s)
{
    for (thing *t = things; t < things + things_made; t++)
        if (t->live && t->kind == FD && t->spot == s)
            t->dirty = 1;
}

static void do_world(void)
{
    static const char bytes[4096];
    char buffer[4096];
    int s = step[1] % NEVER_OPEN, peer = peers[s], r = 0;
    spot *w = &world[s];
    const uint64_t one = 1, full = UINT64_MAX - 1;
    const char *what = "nothing";
    if (!w->open) {
        if (step[2] % 4 == 0 && s != A_FILE && !w->closing) {
            what = "open_anew";
            w->is_event = 0;
            open_event(s);
        }
    } else
        switch (step[2] % 16) {
        case 0: case 1: case 2: case 3: case 4: case 5:
            what = "write";
            r = (int)(w->is_event ? write(number(s), &one, 8) : write(number(s), bytes, 1));
            if (r > 0 && (w->is_event || peer >= 0))
                is_written(w->is_event ? s : peer);
            break;
        case 6: case 7: case 8: case 9: case 10:
            what = "drain";
            while (s != A_FILE && read(number(s), buffer, sizeof buffer) > 0)
                r++;
            break;
        case 11:
            what = "fill";
            if (w->is_event && write(number(s), &full, 8) == 8)
                is_written(s);
            while (!w->is_event && s != A_FILE && write(number(s), bytes, sizeof bytes) > 0)
                if (peer >= 0)
                    is_written(peer);
            break;
        case 12:
            what = "shut down";
            if (s >= SOCK_A && s <= SOCK_D && shutdown(number(s), SHUT_WR) == 0)
                is_written(peer);
            break;
        case 13:
            if (step[3] % 4 || loose)
                break;
            what = "close behind the library's back";
            for (thing *t = things; t < things + things_made; t++)
                if (t->live && t->kind == FD && t->spot == s && !t->closed)
                    w->ghostly = 1, ghosts_stay |= in_child;
            close(number(s));
            w->open = w->is_event = w->file = 0;
            is_let_go(s);
            break;
        default:
            break;
        }
    say("/* %s %d: %d */", what, number(s), r);
    look_at_world();
}

static void is_closed(int s)
{
    for (thing *t = things; t < things + things_made; t++) {
        if (!t->live || t->kind != FD || t->spot != s || t->closed)
            continue;
        t->closed = 1;
        t->deadline = BELL_NEVER;
        t->blurred = 0;
        t->armed = t->to.kind == BELL_TARGET_MVAR && t->to.spent ? NO : YES;
    }
}

static void do_close(void)
{
    int s = step[1] % SPOTS;
    spot *w = &world[s];
    uint64_t ticket = 77;
    int32_t r;
    if (w->closing && step[2] % 4) {
        if (step[2] % 4 == 3) {
            MUST("bell_close_end", bell_close_end(bell, number(s), w->ticket + 1), BELL_E_STALE);
            MUST("bell_close_begin", bell_close_begin(bell, number(s), &ticket), BELL_E_CLOSED);
            MUST("bell_close_fd", bell_close_fd(bell, number(s)), BELL_E_CLOSED);
            return;
        }
        if (w->open && step[2] % 4 == 1) {
            close(number(s));
            w->open = w->is_event = w->file = 0;
            is_let_go(s);
            look_at_world();
        }
        r = bell_close_end(bell, number(s), w->ticket);
        say("bell_close_end(bell, %d, ticket) = %d", number(s), r);
        MUST("bell_close_end", r, 0);
        MUST("bell_close_end", bell_close_end(bell, number(s), w->ticket), BELL_E_STALE);
        w->closing = 0;
        return;
    }
    if (step[2] % 2) {
        r = bell_close_fd(bell, number(s));
        say("bell_close_fd(bell, %d) = %d", number(s), r);
        MUST("bell_close_fd", r, w->closing ? BELL_E_CLOSED : w->open ? 0 : -EBADF);
        cover("bell_close_fd", r, 0, 0);
        if (w->closing)
            return;
        is_closed(s);
        w->open = w->is_event = w->file = 0;
        is_let_go(s);
    } else {
        r = bell_close_begin(bell, number(s), &ticket);
        say("bell_close_begin(bell, %d, &ticket) = %d", number(s), r);
        MUST("bell_close_begin", r, w->closing ? BELL_E_CLOSED : 0);
        cover("bell_close_begin", r, 0, 0);
        if (r != 0)
            return;
        is_closed(s);
        w->closing = 1;
        w->ticket = ticket;
    }
    look_at_world();
}

/* Arguments that nobody may give; each with the one answer of the manual. */
static void do_invalid(void)
{
    static struct { bell_fd_spec spec; uint32_t tail[4]; } big;
    static struct { bell_timeout_spec spec; uint32_t tail[4]; } big_timeout;
    int s = EVENT_A, live = world[s].open && !world[s].closing && !world[s].ghostly;
    bell_fd_spec f = {.size = sizeof f, .fd = number(s), .interest = BELL_READ, .mode = BELL_ONESHOT,
                      .target = {.kind = BELL_TARGET_SLOT}};
    bell_timeout_spec t = {.size = sizeof t, .deadline_ns = 5, .target = {.kind = BELL_TARGET_SLOT}};
    bell_target none = {0}, good = {.kind = BELL_TARGET_SLOT};
    bell_handle h = 77;
    bell_event e;
    bell_counters c = {.size = sizeof c - 8};
    int64_t deadline = 77;
    int32_t r = 0, expect = -EINVAL, status;
    uint32_t word[2] = {0, 0};
    uint32_t a = step[2], which = step[1] % 64;
    bell_t *gone = step[3] % 3 == 0 ? NULL : step[3] % 3 == 1 ? dead_bell : (bell_t *)(uintptr_t)(0x1000 + a);
    int may_be_fd = 1;
    switch (which) {
    case 0: r = bell_register_fd(bell, NULL, &h); break;
    case 1: r = bell_register_fd(bell, &f, NULL); break;
    case 2: f.size = a % sizeof f; r = bell_register_fd(bell, &f, &h); expect = BELL_E_ABI; break;
    case 3: f.size = 5000 + a; r = bell_register_fd(bell, &f, &h); expect = BELL_E_ABI; break;
    case 4: big.spec = f; big.spec.size = sizeof big; big.tail[a % 4] = 1 + a;
            r = bell_register_fd(bell, &big.spec, &h); big.tail[a % 4] = 0; expect = -E2BIG; break;
    case 5: f.interest = 0; r = bell_register_fd(bell, &f, &h); break;
    case 6: f.interest |= 1u << (4 + a % 28); r = bell_register_fd(bell, &f, &h); break;
    case 7: f.mode = 0; r = bell_register_fd(bell, &f, &h); break;
    case 8: f.mode = 4 + a; r = bell_register_fd(bell, &f, &h); break;
    case 9: f.flags = 1u << (4 + a % 28); r = bell_register_fd(bell, &f, &h); break;
    case 10: f.shard = shards + a % 200; r = bell_register_fd(bell, &f, &h); break;
    case 11: f.flags = BELL_FD_DEADLINE; f.deadline_ns = -1 - (int64_t)a; r = bell_register_fd(bell, &f, &h); break;
    case 12: f.target = none; r = bell_register_fd(bell, &f, &h); break;
    case 13: f.target.kind = 7 + a; r = bell_register_fd(bell, &f, &h); break;
    case 14: f.target.flags = 1 + a; r = bell_register_fd(bell, &f, &h); break;
    case 15: f.target.fd = 1 + (int)a; r = bell_register_fd(bell, &f, &h); break;
    case 16: f.target.capability = 1; r = bell_register_fd(bell, &f, &h); break;
    case 17: f.target.word = word; r = bell_register_fd(bell, &f, &h); break;
    case 18: f.target.queue = 1; r = bell_register_fd(bell, &f, &h); break;
    case 19: f.target.stable_ptr = &f; r = bell_register_fd(bell, &f, &h); break;
    case 20: f.target.kind = BELL_TARGET_FUTEX; r = bell_register_fd(bell, &f, &h); break;
    case 21: f.target = (bell_target){.kind = BELL_TARGET_FUTEX, .word = (uint32_t *)((uintptr_t)word + 1 + a % 3)};
             r = bell_register_fd(bell, &f, &h); break;
    case 22: f.target.kind = BELL_TARGET_MVAR; r = bell_register_fd(bell, &f, &h); break;
    case 23: f.target = (bell_target){.kind = BELL_TARGET_WAKE_FD, .fd = a % 2 ? -1 : 3000000};
             r = bell_register_fd(bell, &f, &h); expect = -EBADF; break;
    case 24: f.target = (bell_target){.kind = BELL_TARGET_WAKE_FD, .fd = wake_fds[a % 4][1], .flags = a % 2 ? 1 : 2};
             r = bell_register_fd(bell, &f, &h); break;
    case 25: f.target = (bell_target){.kind = BELL_TARGET_WAKE_FD, .fd = wake_fds[4][a % 2]};
             r = bell_register_fd(bell, &f, &h); break; /* eight bytes into a pipe; its reading end */
    case 26: f.target = (bell_target){.kind = BELL_TARGET_QUEUE, .queue = a % 2 ? 0 : 3ULL << 58 | 5};
             r = bell_register_fd(bell, &f, &h); expect = BELL_E_STALE; break;
    case 27: f.fd = a % 3 == 0 ? -1 - (int)a : a % 3 == 1 ? INT32_MAX : INT32_MIN; f.target = good;
             r = bell_register_fd(bell, &f, &h); expect = -EBADF; break;
    case 28: f.fd = (1 << 24) + (int)a; r = bell_register_fd(bell, &f, &h); expect = -EBADF; break;
    case 29: t.size = a % sizeof t; r = bell_register_timeout(bell, &t, &h); expect = BELL_E_ABI; break;
    case 30: big_timeout.spec = t; big_timeout.spec.size = sizeof big_timeout; big_timeout.tail[a % 4] = 1;
             r = bell_register_timeout(bell, &big_timeout.spec, &h); big_timeout.tail[a % 4] = 0; expect = -E2BIG;
             break;
    case 31: t.clock = 3 + a; r = bell_register_timeout(bell, &t, &h); break;
    case 32: t.flags = a % 2 ? 1u << 31 : 1 + a % 7; r = bell_register_timeout(bell, &t, &h); break;
    case 33: t.deadline_ns = INT64_MIN + a; r = bell_register_timeout(bell, &t, &h); break;
    case 34: t.period_ns = a % 2 ? -1 : (1LL << 62) + 1; r = bell_register_timeout(bell, &t, &h); break;
    case 35: t.slack_ns = a % 2 ? INT64_MIN : INT64_MAX; r = bell_register_timeout(bell, &t, &h); break;
    case 36: t.shard = shards + a % 100; r = bell_register_timeout(bell, &t, &h); break;
    case 37: t.target = none; r = bell_register_timeout(bell, &t, &h); break;
    case 38: r = bell_register_timeout(bell, a % 2 ? NULL : &t, a % 2 ? &h : NULL); break;
    case 39: r = bell_register_user(bell, 0, a % 2 ? NULL : &none, 0, &h); break;
    case 40: r = bell_register_user(bell, shards + a % 100, &good, 0, &h); break;
    case 41: r = bell_queue_create(bell, 0, &good, &h); break;
    case 42: r = bell_queue_create(bell, 0, NULL, NULL); break;
    case 43: r = bell_poll(bell, shards + a, &e, 1, 0); break;
    case 44: r = bell_poll(bell, 0, &e, 1, -1 - (int64_t)a); break;
    case 45: r = bell_poll(bell, 0, NULL, 1 + a, 0); break;
    case 46: r = bell_poll(bell, 0, &e, (1u << 20) + 1 + a, 0); break;
    case 47: r = bell_wake(bell, shards + a); break;
    case 48: r = bell_next_deadline(bell, a % 2 ? shards + a : 0, a % 2 ? &deadline : NULL); break;
    case 49: r = bell_stats(bell, shards + a % 100, &(bell_counters){.size = sizeof c}); break;
    case 50: r = bell_stats(bell, 0, &c); expect = BELL_E_ABI; break;
    case 51: r = bell_stats(bell, 0, NULL); break;
    case 52: r = bell_close_begin(bell, a % 2 ? -1 : 1 << 24, &h); expect = -EBADF; break;
    case 53: r = bell_close_fd(bell, a % 2 ? INT32_MIN : INT32_MAX); expect = -EBADF; break;
    case 54: r = bell_close_begin(bell, number(NEVER_OPEN), NULL); break;
    case 55: r = bell_rearm_batch(bell, NULL, 1 + a, &status); break;
    case 56: r = bell_unregister_batch(bell, &h, (1u << 20) + 1, 0, &status); break;
    case 57: r = bell_unregister_batch(bell, &h, 1, 2 + a, &status); break;
    case 58: r = bell_register_fd_batch(bell, &f, 1, NULL, &status); break;
    case 59: r = bell_destroy(bell, 2 + a); break;
    case 60: r = bell_after_fork_child(bell, a % 2); break;
    case 61: r = bell_layout(100 + a, NULL, NULL); break;
    case 62: r = bell_create(&(bell_config){.size = sizeof(bell_config), .shards = 255 + a}, (bell_t **)&h); break;
    default:
        expect = BELL_E_STALE;
        switch (a % 12) {
        case 0: r = bell_register_fd(gone, &f, &h); break;
        case 1: r = bell_poll(gone, 0, &e, 1, 0); break;
        case 2: r = bell_unregister(gone, 1, 0); break;
        case 3: r = bell_post(gone, 1, 1); break;
        case 4: r = bell_wake(gone, 0); break;
        case 5: r = bell_destroy(gone, BELL_FORCE); break;
        case 6: r = bell_rearm(gone, 1, NULL, 0); break;
        case 7: r = bell_stats(gone, 0, &c); break;
        case 8: r = bell_verify(gone); break;
        case 9: r = bell_slot_wait(gone, 1, BELL_READ, BELL_NEVER, 0); break;
        case 10: r = bell_queue_wait(gone, 1, &e, 1, BELL_NEVER); break;
        default: r = bell_close_fd(gone, number(NEVER_OPEN)); break;
        }
        may_be_fd = 0;
    }
    say("/* invalid call %u (%u) */ = %d", which, a, r);
    cover("invalid", r, which, which == 63 ? a % 12 : 0);
    if (may_be_fd && !live && which <= 28)
        return; /* the fd is not in order either: any of the errors */
    if (r != expect)
        fail("invalid call %u (%u) returned %d (%s), expected %d (%s)", which, a, r, bell_strerror(r), expect,
             bell_strerror(expect));
    if (h != 77 || deadline != 77 || word[0] || word[1])
        fail("invalid call %u wrote something", which);
    common->calls++;
}

static void do_look(void)
{
    int64_t at = 77, earliest = BELL_NEVER;
    uint32_t shard = step[1] % shards;
    int timers = 0, slack = 0;
    switch (step[2] % 8) {
    case 0:
        MUST("bell_wake", bell_wake(bell, shard), 0);
        break;
    case 1: {
        int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
        int32_t r = bell_dump(bell, fd);
        close(fd);
        MUST("bell_dump", r, 0);
        break;
    }
    case 2: {
        int32_t r = bell_pollable_fd(bell, shard);
        say("bell_pollable_fd(bell, %u) = %d", shard, r);
        if (threads || io_uring || !(features & BELL_FEATURE_POLLABLE))
            MUST("bell_pollable_fd", r, BELL_E_UNSUPPORTED);
        else if (r < 0 || (pollable[shard] && r != pollable[shard]))
            fail("bell_pollable_fd gave %d, before it gave %d", r, pollable[shard]);
        else
            pollable[shard] = r;
        break;
    }
    default:
        MUST("bell_next_deadline", bell_next_deadline(bell, shard, &at), 0);
        if (loose)
            break;
        for (thing *t = things; t < things + things_made; t++)
            if (t->live && (t->kind == FD || t->kind == TIMEOUT) && t->clock == BELL_CLOCK_MONOTONIC &&
                (t->handle >> 50 & 255) == shard) {
                timers += t->deadline != BELL_NEVER || t->armed == MAYBE || t->word || is_ghostly(t);
                slack += t->slack > 0;
                if (is_exact(t) && !t->vague && !is_listed(&t->to) && !t->closed && t->armed == YES && !t->period &&
                    t->to.kind != BELL_TARGET_WAKE_FD && t->deadline < earliest)
                    earliest = t->deadline;
            }
        if ((at > earliest && !slack) || (at != BELL_NEVER && !timers))
            fail("bell_next_deadline tells %" PRId64 ", the model's earliest is %" PRId64 " of %d", at, earliest,
                 timers);
        break;
    }
    common->calls++;
}

#endif
