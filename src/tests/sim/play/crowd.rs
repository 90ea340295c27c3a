//! Crowds: several threads wait at one queue, or for slots of one shard, with little room, while news comes, deadlines
//! pass, signals come, and the queue or a slot ends under them. Then faults are off and all run who can; nobody may
//! sleep beside what has come.
use super::*;
use std::rc::Rc;

/// No more sleep at once, those of steps that are no crowds not counted.
const MOST: usize = 8;

fn asleep_at(here: impl Fn(&Wait) -> bool) -> usize {
    p().waits.iter().flatten().filter(|w| here(w)).count()
}

/// Until when a library thread rests that has met a shortage.
fn shortage() -> Option<i64> {
    let waits = |thread: usize| p().waits.get(thread).copied().flatten().is_some();
    let rests = |(thread, state): (usize, &sched::Block)| match state {
        sched::Block::Futex { until, .. } if *until < sched::END_OF_TIME && !waits(thread) => Some(*until),
        _ => None,
    };
    sched::states().iter().enumerate().find_map(rests).filter(|_| p().config.library_threads > 0)
}

/// Faults off, and everybody runs until all sleep, while no time passes but what a library thread needs to come back.
/// False: a rule was broken.
fn rest() -> bool {
    let faulty = std::mem::replace(&mut p().config.faulty, false);
    with(|w| w.faulty = false);
    let mut all_sleep = sched::run(20_000);
    for _ in 0..8 {
        let Some(end) = shortage().filter(|_| all_sleep) else { break };
        with(|w| w.advance(end));
        all_sleep = sched::run(20_000);
    }
    if !all_sleep {
        violation(format!("twenty thousand switches, and no rest: {:?} {:?}", sched::states(), p().waits));
    }
    p().config.faulty = faulty;
    all_sleep && !sched::has_violation()
}

fn start(job: impl FnOnce() + 'static) -> usize {
    sched::spawn(Box::new(job))
}

/// Runs the others for a moment, or until they sleep.
fn meanwhile(rng: &mut Rng) {
    sched::run(if rng.chance(250) { 200 } else { 1 + rng.below(24) });
}

/// Until when one of a crowd waits: some of the deadlines are the same, and soon.
fn end(rng: &mut Rng) -> i64 {
    let now = with(|w| w.time);
    rng.pick(&[NEVER, NEVER, NEVER, now.saturating_add(1_000), now.saturating_add(1_000_000)])
}

fn members(q: usize) -> Vec<usize> {
    p().live().filter(|i| p().reg(*i).aim == Aim::Queue(q)).collect()
}

/// Something happens to who waits at this shard or at its queue, other than news.
fn disturb(rng: &mut Rng, shard: usize, queue: Option<usize>, waiters: &[usize], ends: &[i64]) {
    match rng.below(8) {
        0 | 1 => {
            // The deadline of one of them, to the nanosecond.
            let at = rng.pick(ends);
            if at != NEVER {
                with(|w| w.advance(at.max(w.time)));
                env("advance to", 0, at);
            }
        }
        2 | 3 => sched::interrupt(rng.pick(waiters)),
        4 => {
            start(move || wake_shard(shard));
        }
        5 | 6 if queue.is_some() => {
            let most = rng.pick(&[1, 1, 64]);
            start(move || _ = queue.map(|q| drain(q, most)));
        }
        _ => {
            let (most, timeout) = (rng.pick(&[1, 64]), rng.pick(&[0, 0, 1_000, NEVER]));
            // No more than one sleeps there.
            if timeout == 0 || asleep_at(|w| matches!(w, Wait::Poll(_))) == 0 {
                start(move || _ = poll(shard, most, timeout));
            }
        }
    }
}

/// Several wait for one queue. Its news comes from its own shard and from others.
pub fn at_queue(rng: &mut Rng) {
    if !rest() {
        return;
    }
    if p().queues.iter().filter(|q| q.live).count() < 2 && rng.chance(500) {
        queue_create(rng);
    }
    let Some(q) = p().pick_queue(rng) else { return queue_create(rng) };
    let home = p().queues[q].shard;
    let shards = p().config.shards as usize;
    while members(q).len() < 2 + rng.below(3) && p().live().count() < MOST_REGS {
        let made = members(q).len();
        register_user_for(rng, Aim::Queue(q), |rng| rng.below(shards));
        if members(q).len() == made {
            break; // a shortage
        }
    }
    let crowd = 1 + rng.below(4);
    let room = asleep_at(|w| matches!(w, Wait::Queue(..)));
    let (mut waiters, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..crowd.min(MOST.saturating_sub(room)) {
        let (room, until) = (rng.pick(&[1, 1, 1, 2, 64]), end(rng));
        waiters.push(start(move || wait_for_queue(q, room, until)));
        ends.push(until);
        meanwhile(rng);
    }
    if waiters.is_empty() {
        // All are there already, and some of them may come back now.
        waiters.push(rng.below(8));
        ends.push(NEVER);
    }
    let most = if rng.chance(500) { 2 } else { 4 };
    for _ in 0..1 + rng.below(most) {
        if rng.chance(200) {
            disturb(rng, home, Some(q), &waiters, &ends);
            meanwhile(rng);
        }
        let all = members(q);
        let Some(&i) = all.get(rng.below(all.len())) else { break };
        let (handle, what, shard) = (p().reg(i).handle, p().reg(i).what, p().reg(i).shard);
        let (salt, ending) = (rng.next(), rng.chance(60));
        let is_free =
            move || p().regs[i].as_ref().is_some_and(|r| r.handle == handle && r.ended == 0 && r.busy == 0 && !r.alone);
        // Asked when the job begins: another thread may have ended it by then.
        match what {
            // Its news may be what somebody was called for.
            _ if ending => start(move || {
                if is_free() {
                    unregister_one(i, salt % 2 == 0);
                }
            }),
            What::User => start(move || {
                if is_free() {
                    post_to(i, &mut Rng(salt));
                }
            }),
            What::Timeout => start(move || {
                if is_free() {
                    update_to(i, 0, &mut Rng(salt));
                }
            }),
            What::Fd => {
                let fd = p().reg(i).fd;
                if p().fds.contains(&fd) {
                    doing(rng.pick(&[Op::Stir, Op::Write, Op::Read]), fd, rng);
                }
                continue;
            }
        };
        meanwhile(rng);
        if shard != home && p().config.library_threads == 0 && rng.chance(400) {
            start(move || _ = poll(shard, 64, 0));
            meanwhile(rng);
        }
    }
    if rng.chance(150) {
        disturb(rng, home, Some(q), &waiters, &ends);
    }
    if rng.chance(60) {
        return end_queue(q, rng);
    }
    if rest() && drive_others(home) {
        check_sleepers(false);
    }
}

/// What was posted at shards where nobody waits is brought. False: a rule was broken.
fn drive_others(home: usize) -> bool {
    forget_drivers();
    for shard in (0..p().config.shards as usize).filter(|s| *s != home) {
        if p().config.library_threads > 0 {
            continue;
        }
        let result = Rc::new(Cell::new(i32::MIN));
        let answer = result.clone();
        // Of a driver with little room one turn may not bring all.
        let turns =
            if p().config.max_events == 0 { 1 } else { 1 + p().live().count() / p().config.max_events as usize };
        start(move || (0..turns).for_each(|_| answer.set(poll(shard, 64, 0))));
        if !rest() {
            return false;
        }
        p().driven[shard] = result.get() >= 0;
    }
    // Turns there may have called some here.
    rest()
}

/// It loses its members, and is destroyed while some sleep, and others come.
fn end_queue(q: usize, rng: &mut Rng) {
    if !rest() {
        return;
    }
    for i in members(q) {
        if p().reg(i).busy == 0 {
            unregister_one(i, rng.chance(500));
        }
    }
    for _ in 0..rng.below(3) {
        start(move || wait_for_queue(q, 1, NEVER));
        meanwhile(rng);
    }
    start(move || destroy_queue(q));
    for _ in 0..rng.below(2) {
        start(move || wait_for_queue(q, 1, NEVER));
        meanwhile(rng);
    }
    if rest() {
        forget_drivers();
        check_sleepers(false);
    }
}

/// Several wait for slots of one shard, some for the same, one perhaps for a queue.
pub fn at_slots(rng: &mut Rng) {
    if !rest() {
        return;
    }
    let shard = rng.below(p().config.shards as usize);
    let slots = |which: &dyn Fn(&Reg) -> bool| -> Vec<usize> {
        let all = p().live().filter(|i| matches!(p().reg(*i).aim, Aim::Slot(at) if at != 0));
        all.filter(|i| p().reg(*i).shard == shard && p().reg(*i).busy == 0 && which(p().reg(*i))).collect()
    };
    let wanted = 1 + rng.below(3);
    while slots(&|r| r.what == What::User).len() < wanted && p().live().count() < MOST_REGS {
        let made = slots(&|_| true).len();
        register_user_for(rng, Aim::Slot(0), |_| shard);
        if slots(&|_| true).len() == made {
            break; // a shortage
        }
    }
    let mut all = slots(&|r| r.what == What::User || r.what == What::Timeout && r.period == 0);
    let first = rng.below(all.len());
    all.rotate_left(first);
    all.truncate(3);
    if all.is_empty() {
        return;
    }
    let room = asleep_at(|w| matches!(w, Wait::Slot(..)));
    let (mut waiters, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..(2 + rng.below(3)).min(MOST.saturating_sub(room)) {
        let (i, until) = (rng.pick(&all), end(rng));
        let handle = p().reg(i).handle;
        waiters.push(start(move || {
            if p().regs[i].as_ref().is_some_and(|r| r.handle == handle && r.ended == 0) {
                wait_for_slot(i, BELL_READ, until, false);
            }
        }));
        ends.push(until);
        meanwhile(rng);
    }
    let beside = p().pick_queue(rng).filter(|q| p().queues[*q].shard == shard);
    if let Some(q) = beside.filter(|_| rng.chance(300) && asleep_at(|w| matches!(w, Wait::Queue(..))) < MOST) {
        waiters.push(start(move || wait_for_queue(q, 1, NEVER)));
        ends.push(NEVER);
        meanwhile(rng);
    }
    if waiters.is_empty() {
        waiters.push(rng.below(8));
        ends.push(NEVER);
    }
    for _ in 0..1 + rng.below(4) {
        if rng.chance(200) {
            disturb(rng, shard, None, &waiters, &ends);
            meanwhile(rng);
        }
        let (i, salt, ending) = (rng.pick(&all), rng.next(), rng.chance(60));
        let Some(r) = p().regs[i].as_ref().filter(|r| r.ended == 0) else { continue };
        let (handle, what) = (r.handle, r.what);
        start(move || {
            let there = p().regs[i].as_ref().filter(|r| r.handle == handle && r.ended == 0 && r.busy == 0 && !r.alone);
            match what {
                _ if there.is_none() => {}
                _ if ending => unregister_one(i, salt % 2 == 0),
                What::User => post_to(i, &mut Rng(salt)),
                _ => update_to(i, 0, &mut Rng(salt)),
            }
        });
        meanwhile(rng);
    }
    if rest() {
        forget_drivers();
        check_sleepers(false);
    }
}

/// The manager is about to be destroyed: some sleep at a queue, and some are just coming.
pub fn before_the_end(rng: &mut Rng) {
    for _ in 0..rng.below(4) {
        let Some(q) = p().pick_queue(rng) else { return };
        start(move || wait_for_queue(q, 1, NEVER));
        meanwhile(rng);
    }
}
