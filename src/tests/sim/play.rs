//! A player: draws steps, makes the calls and the world's doings, and holds every answer against the model.
//!
//! A step is one call of the C interface, one doing of the world (a write, a close, time that passes, ...) or one look
//! at everything. Its arguments come from its own salt, so a step means the same whatever other steps are left out;
//! that is what makes a failing list of steps shrink.
mod crowd;

use super::kernel::{FAULTS, Fault, Object, Rng, World};
use super::model::*;
use super::sched::{self, violation, with};
use super::{Step, TEXT_FD};
use crate::abi::*;
use crate::backend::Backend;
use crate::ffi::{bell_t, drive::*, fds::*, life::*, ops::*, queues::*, slots::*, timeouts::*};
use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::SeqCst;

const EBADF: i32 = -libc::EBADF;
const EPERM: i32 = -libc::EPERM;
const EINVAL: i32 = -libc::EINVAL;
const EINTR: i32 = -libc::EINTR;
const ETIMEDOUT: i32 = -libc::ETIMEDOUT;
const NEVER: i64 = BELL_NEVER;
const MOST_REGS: usize = 40;
const EPOLL: bool = Backend::EDGE;

macro_rules! steps {
    ($($name:ident $weight:literal)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Op { $($name),* }
        /// How often each is drawn, before a seed has its preferences.
        pub const OPS: &[(Op, u32)] = &[$((Op::$name, $weight)),*];
    };
}
steps! {
    Open 6 Write 14 Read 12 Drain 6 Dup 1 Hold 1 LetGo 1 Shut 1 Flag 2 Stir 2 Advance 8 Jump 1
    CloseApi 3 CloseBegin 1 CloseEnd 2 CloseBehind 1 CloseInCtl 1
    RegFd 10 RegTimeout 6 RegUser 2 Unregister 8 Rearm 10 Modify 4 Retarget 3 Update 6 Get 1
    Post 4 Wake 2 Poll 24 Consume 5 SlotWait 3
    QueueCreate 1 QueueDrain 6 QueueWait 2 QueueDestroy 1 QueueFd 1 Doorbell 1
    Pollable 1 NextDeadline 1 Verify 2 Settle 3 Misuse 2 Fork 1 Chase 4 Overtake 4
    QueueCrowd 0 SlotCrowd 0 Share 0 Store 0
}

pub struct Config {
    pub seed: u64,
    /// Threads that make calls; 0: one alone, which sees all.
    pub threads: usize,
    pub shards: u32,
    pub library_threads: u32,
    pub max_events: u32,
    pub slack: i64,
    pub faulty: bool,
    /// There were faults in this run, if not now.
    pub chaos: bool,
    /// Several threads wait at one queue, or for slots of one shard.
    pub crowds: bool,
}

struct QueueModel {
    handle: u64,
    shard: usize,
    live: bool,
    /// Somebody is about to destroy it.
    ending: bool,
    doorbell: Option<Aim>,
    /// Which drain or wait was the last that began.
    looked: u64,
}

/// What a call under way may wait for.
#[derive(Clone, Copy, Debug)]
enum Wait {
    Poll(usize),
    Slot(usize, u32, usize),
    Queue(usize, usize),
}

pub struct Player {
    pub world: Box<World>,
    pub config: Config,
    bell: *mut bell_t,
    fds: Vec<i32>,
    held: Vec<u32>,
    closing: Vec<(i32, u64)>,
    /// Closes by the library: until when they were under way.
    closes: Vec<(i32, u64)>,
    regs: Vec<Option<Reg>>,
    queues: Vec<QueueModel>,
    words: Words,
    /// Those of shared deadlines, and how often one was moved by a store.
    deadline_words: Vec<Box<AtomicI64>>,
    stores: u64,
    stable: Vec<Stable>,
    handles: HashSet<u64>,
    serial: u64,
    orders: u64,
    /// Counts drains of queues, and waits for them.
    looks: u64,
    /// Wake fds of registrations that ended synchronously, and what they counted.
    spent: Vec<(i32, u64, u64)>,
    woken: [bool; 4],
    /// Shards that somebody drives, or has driven since the last news came.
    driven: [bool; 4],
    destroying: bool,
    /// The shard that the call under way drives.
    driving: usize,
    /// By thread of the scheduler: what its job waits for.
    waits: Vec<Option<Wait>>,
    /// By caller: the scheduler's thread that has its call.
    callers: Vec<Option<usize>>,
    polling: bool,
    nested: [bool; 4],
    pub trace: Option<Vec<String>>,
    pub settled: u64,
    pub forks: u64,
    parent: Vec<(u32, u64, Vec<super::kernel::Entry>)>,
}

thread_local! {
    static PLAYER: Cell<*mut Player> = const { Cell::new(ptr::null_mut()) };
}
fn p() -> &'static mut Player {
    // SAFETY: set by `play` as long as the player lives; no reference is kept across a call that may switch.
    unsafe { &mut *PLAYER.get() }
}

unsafe extern "C" fn put_mvar(_: i32, ptr: *mut c_void) {
    let id = ptr.addr() - 1;
    match p().stable.get(id).copied() {
        Some(Stable::Given) => p().stable[id] = Stable::Put,
        other => violation(format!("StablePtr {id} was put although it is {other:?}")),
    }
}

/// What the call that is made next may wait for.
fn waits_for(wait: Option<Wait>) {
    if sched::in_thread() {
        let me = sched::current();
        if p().waits.len() <= me {
            p().waits.resize(me + 1, None);
        }
        p().waits[me] = wait;
    }
}

/// One call of the interface. Returns its result and how many faults it met.
fn api(name: impl FnOnce() -> String, f: impl FnOnce(*mut bell_t) -> i32) -> (i32, u64) {
    let alone = p().config.threads == 0;
    let faulty = p().config.faulty;
    let before = with(|w| {
        (w.in_call, w.call_still) = (0, 0);
        w.faulty = faulty;
        w.hit
    });
    let r = f(p().bell);
    waits_for(None);
    let hit = with(|w| {
        if alone {
            w.faulty = false;
        }
        w.hit - before
    });
    let close_in_ctl_left = with(|w| w.close_in_ctl.take());
    if let Some(fd) = close_in_ctl_left {
        p().fds.push(fd); // nobody came by to close it
    }
    if r == BELL_E_POISONED {
        violation(format!("{}: the manager is poisoned: a panic inside", name()));
    } else if p().trace.is_some() {
        let text = name();
        p().say(|| format!("{text} = {r}{}", if hit > 0 { format!(" ({hit} faults)") } else { String::new() }));
    }
    (r, hit)
}

impl Player {
    pub fn new(config: Config, world: Box<World>, trace: bool) -> Player {
        Player {
            world,
            config,
            bell: ptr::null_mut(),
            fds: Vec::new(),
            held: Vec::new(),
            closing: Vec::new(),
            closes: Vec::new(),
            regs: Vec::new(),
            queues: Vec::new(),
            words: Words::new(),
            deadline_words: Vec::new(),
            stores: 0,
            stable: Vec::new(),
            handles: HashSet::new(),
            serial: 0,
            orders: 0,
            looks: 0,
            spent: Vec::new(),
            woken: [false; 4],
            driven: [false; 4],
            destroying: false,
            driving: 0,
            waits: Vec::new(),
            callers: Vec::new(),
            polling: false,
            nested: [false; 4],
            trace: trace.then(Vec::new),
            settled: 0,
            forks: 0,
            parent: Vec::new(),
        }
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        if let Some(t) = &mut self.trace {
            t.push(text());
        }
    }

    fn alone(&self) -> bool {
        self.config.threads == 0
    }

    fn live(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.regs.len()).filter(|i| self.regs[*i].as_ref().is_some_and(|r| r.ended == 0 && r.handle != 0))
    }
    fn pick_reg(&self, rng: &mut Rng, which: impl Fn(&Reg) -> bool) -> Option<usize> {
        let n = self.regs.len();
        let start = rng.below(n);
        (0..n).map(|i| (i + start) % n).find(|i| {
            self.regs[*i]
                .as_ref()
                .is_some_and(|r| r.ended == 0 && r.handle != 0 && (self.alone() || !r.alone && r.busy == 0) && which(r))
        })
    }
    /// As above, also while other threads make calls on it; but none that give it another target.
    fn pick_shared(&self, rng: &mut Rng, which: impl Fn(&Reg) -> bool) -> Option<usize> {
        let n = self.regs.len();
        let start = rng.below(n);
        (0..n)
            .map(|i| (i + start) % n)
            .find(|i| self.regs[*i].as_ref().is_some_and(|r| r.ended == 0 && r.handle != 0 && !r.alone && which(r)))
    }
    fn reg(&mut self, i: usize) -> &mut Reg {
        self.regs[i].as_mut().expect("a live registration")
    }
    fn pick_fd(&mut self, rng: &mut Rng) -> Option<i32> {
        while !self.fds.is_empty() {
            let i = rng.below(self.fds.len());
            if self.world.is_open(self.fds[i]) && !self.world.is_ours(self.fds[i]) {
                return Some(self.fds[i]);
            }
            self.fds.swap_remove(i);
        }
        None
    }
    fn pick_queue(&self, rng: &mut Rng) -> Option<usize> {
        let n = self.queues.len();
        let start = rng.below(n);
        (0..n).map(|i| (i + start) % n).find(|i| self.queues[*i].live)
    }
    fn is_closing(&self, fd: i32) -> bool {
        self.closing.iter().any(|(f, _)| *f == fd)
    }

    /// The deliveries that an observer from outside can count.
    fn count(&self, r: &Reg) -> u64 {
        match r.aim {
            Aim::Slot(0) => r.mark,
            Aim::Slot(at) => {
                // SAFETY: mapped until the manager is destroyed.
                let slot = unsafe { &*ptr::with_exposed_provenance::<[std::sync::atomic::AtomicU32; 2]>(at) };
                (slot[0].load(SeqCst) / BELL_SEQ) as u64 + (slot[1].load(SeqCst) / BELL_SEQ) as u64
            }
            Aim::Futex(i) => (self.words.at(i).load(SeqCst) / BELL_SEQ) as u64,
            Aim::WakeFd(fd, life) => self.wake_count(fd, life),
            Aim::Mvar(Some(id)) => (self.stable[id] == Stable::Put) as u64,
            _ => 0,
        }
    }
    fn wake_count(&self, fd: i32, life: u64) -> u64 {
        match self.world.file_of(fd) {
            Ok(file) if self.world.files[file as usize].life == life => self.world.event_count(file),
            _ => 0,
        }
    }
    /// Has a target that is not a list been told since it was armed?
    fn is_told(&self, r: &Reg) -> bool {
        !r.is_listed() && self.count(r) != r.mark
    }

    /// Writes down what the words say since the last look.
    fn observe(&mut self) {
        if !self.alone() {
            return;
        }
        for i in 0..self.regs.len() {
            let Some(r) = &self.regs[i] else { continue };
            if r.ended != 0 || r.handle == 0 || r.is_listed() {
                continue;
            }
            let count = self.count(r);
            if count == r.mark {
                continue;
            }
            let n = count.wrapping_sub(r.mark);
            let (one_shot, auto, closed, life, fd) = (r.is_one_shot(), r.auto, r.closed, r.life, r.fd);
            let both_words = matches!(r.aim, Aim::Slot(_));
            // One delivery may touch both words; a close, or the end of a slot, is one more.
            let most = (r.credits as u64) * (1 + both_words as u64) + 2 * (auto && both_words) as u64;
            if self.alone() && one_shot && n > most && !closed && !r.wild && r.order != 0 {
                violation(format!("{:?} {:#x}: told {n} times, armed {} times", r.what, r.handle, r.credits));
            }
            let (tick, now) = with(|w| (w.tick, w.read_clock(0)));
            let r = self.reg(i);
            let plain = r.what == What::Timeout && r.period == 0 && r.clock == 0 && r.order != 0;
            if plain && r.deadline != NEVER && now < r.deadline {
                violation(format!("{:?} {:#x}: told at {now}, due at {}", r.what, r.handle, r.deadline));
            }
            r.mark = count;
            r.seen = true;
            r.at_arm = 0;
            r.told = tick;
            r.undelivered_posts = false;
            if r.what == What::Timeout && r.period > 0 && r.deadline != NEVER {
                r.lapsed = true; // a word does not tell how many
                let now = with(|w| w.highest(r.clock));
                let missed = now.saturating_sub(r.deadline).max(0) / r.period + 1;
                r.deadline = r.deadline.saturating_add(r.period.saturating_mul(missed)).min(NEVER - 1);
            }
            if r.what == What::Timeout && r.period == 0
                || r.deadline != NEVER && with(|w| w.read_clock(0)) >= r.deadline
            {
                if one_shot {
                    r.deadline = NEVER;
                } else if r.what == What::Fd {
                    // Or it was told something else, and the deadline waits for a turn.
                    (r.deadline, r.vague) = (NEVER, true);
                }
            }
            if one_shot {
                // With another target meanwhile: it may have been told what the old one had not shown.
                r.credits = if r.order == 0 { r.credits } else { 0 };
                r.sure = false;
                r.deadline = NEVER;
            }
            if let Aim::Mvar(_) = r.aim {
                r.aim = Aim::Mvar(None);
                r.mark = 0;
            }
            let _ = (life, fd);
            if auto && one_shot && !closed {
                self.retire(i, true);
            }
        }
    }

    /// Frees what belonged to a registration that has ended.
    fn retire(&mut self, i: usize, sync: bool) {
        let Some(r) = &mut self.regs[i] else { return };
        let aim = r.aim;
        self.serial += 1;
        r.ended = self.serial;
        self.drop_aim(aim, sync);
        if self.alone() {
            self.regs[i] = None;
        }
    }
    fn drop_aim(&mut self, aim: Aim, sync: bool) {
        match aim {
            Aim::Futex(word) if sync => self.words.kill(word),
            Aim::WakeFd(fd, life) if sync && self.world.life_of(fd) == life => {
                let count = self.wake_count(fd, life);
                self.spent.push((fd, life, count));
                if self.spent.len() > 4 {
                    self.check_spent();
                    let (fd, life, _) = self.spent.swap_remove(0);
                    if self.world.life_of(fd) == life {
                        let _ = self.world.close(fd);
                    }
                }
            }
            _ => {}
        }
    }
    fn check_spent(&self) {
        for (fd, life, count) in &self.spent {
            if self.world.life_of(*fd) == *life && self.wake_count(*fd, *life) != *count {
                violation(format!("wake fd {fd} was written after a synchronous unregister"));
            }
        }
    }

    /// Something for news to land on.
    fn aim(&mut self, rng: &mut Rng, what: What, mode: u32, period: i64) -> Aim {
        let threaded = self.config.library_threads > 0;
        let listed = what == What::Fd && mode == BELL_LEVEL;
        loop {
            match rng.below(if listed { 2 } else { 7 }) {
                0 if !threaded => return Aim::Poll,
                0 | 1 => {
                    if let Some(q) = self.pick_queue(rng) {
                        return Aim::Queue(q);
                    }
                    if !threaded {
                        return Aim::Poll;
                    }
                    return Aim::Slot(0);
                }
                2 => return Aim::Poll,
                3 => return Aim::Slot(0),
                4 => return Aim::Futex(self.words.take()),
                5 => {
                    if let Ok(fd) = self.world.eventfd(0) {
                        let life = self.world.life_of(fd);
                        return Aim::WakeFd(fd, life);
                    }
                }
                _ => {
                    if !(what == What::Fd && mode == BELL_EDGE || period > 0) {
                        self.stable.push(Stable::Given);
                        return Aim::Mvar(Some(self.stable.len() - 1));
                    }
                }
            }
        }
    }
    fn give_back(&mut self, aim: Aim) {
        match aim {
            Aim::Mvar(Some(id)) => {
                if self.stable[id] == Stable::Put {
                    violation(format!("StablePtr {id} was put by a call that failed"));
                }
                self.stable[id] = Stable::Back;
            }
            Aim::Futex(w) => {
                if self.words.at(w).load(SeqCst) != 0 {
                    violation(format!("word {w} was touched by a call that failed"));
                }
                self.words.kill(w);
            }
            Aim::WakeFd(fd, _) => drop(self.world.close(fd)),
            _ => {}
        }
    }
    /// A target that a registration has no more. `cancelled`: it is the caller's; `None`: nobody says.
    fn replaced(&mut self, aim: Aim, cancelled: Option<bool>, sync: bool) {
        if let Aim::Mvar(Some(id)) = aim {
            let put = self.stable[id] == Stable::Put;
            match cancelled {
                Some(true) if put => violation(format!("StablePtr {id}: CANCELLED, yet it was put")),
                Some(false) if !put && (self.alone() || sync) => {
                    violation(format!("StablePtr {id}: FIRED, yet it was not put"))
                }
                _ => {}
            }
            if !put && cancelled != Some(false) && (self.alone() || cancelled.is_some()) {
                self.stable[id] = Stable::Back;
            }
        }
        self.drop_aim(aim, sync && self.alone());
    }

    fn target(&self, aim: Aim) -> bell_target {
        let mut t = bell_target {
            kind: BELL_TARGET_POLL,
            flags: 0,
            fd: 0,
            capability: 0,
            word: ptr::null_mut(),
            stable_ptr: ptr::null_mut(),
            queue: 0,
        };
        match aim {
            Aim::Poll => {}
            Aim::Slot(_) => t.kind = BELL_TARGET_SLOT,
            Aim::Futex(w) => (t.kind, t.word) = (BELL_TARGET_FUTEX, self.words.at(w).as_ptr()),
            Aim::WakeFd(fd, _) => (t.kind, t.fd) = (BELL_TARGET_WAKE_FD, fd),
            Aim::Queue(q) => (t.kind, t.queue) = (BELL_TARGET_QUEUE, self.queues[q].handle),
            Aim::Mvar(id) => {
                t.kind = BELL_TARGET_MVAR;
                t.stable_ptr = ptr::without_provenance_mut(id.unwrap_or(0) + 1);
            }
        }
        t
    }

    fn new_reg(&mut self, what: What, aim: Aim) -> usize {
        let i = match self.regs.iter().position(|r| r.is_none()) {
            Some(i) => i,
            None => {
                self.regs.push(None);
                self.regs.len() - 1
            }
        };
        self.serial += 1;
        self.orders += 1;
        let data = self.serial << 10 | i as u64;
        self.regs[i] = Some(Reg {
            what,
            handle: 0,
            data,
            shard: 0,
            fd: -1,
            life: 0,
            wants: 0,
            wanted: 0,
            mode: 0,
            aim,
            auto: false,
            always: false,
            exclusive: false,
            since: with(|w| w.tick),
            told: with(|w| w.tick),
            at_arm: 0,
            credits: 1,
            sure: true,
            mark: 0,
            closed: false,
            wild: false,
            last: 0,
            deadline: NEVER,
            word: 0,
            clock: 0,
            period: 0,
            slack: self.config.slack,
            order: self.orders,
            posted: 0,
            undelivered_posts: false,
            drained: 0,
            lapsed: false,
            vague: false,
            seen: false,
            busy: 0,
            alone: false,
            ended: 0,
            ever: Ever {
                tick: with(|w| w.tick),
                serial: self.serial,
                wants: 0,
                earliest: NEVER,
                arms: 1,
                heard: 0,
                shots: what != What::User,
                changed: false,
            },
        });
        i
    }

    /// The call that made it has come back with a handle.
    fn made(&mut self, i: usize, handle: u64) {
        if !self.handles.insert(handle) {
            violation(format!("handle {handle:#x} was given out twice"));
        }
        let r = self.reg(i);
        if r.handle != 0 && r.handle != handle {
            violation(format!("news came under {:#x}, the call returned {handle:#x}", r.handle));
        }
        r.handle = handle;
        r.shard = (handle >> 50) as u8 as usize;
        if let Aim::Slot(_) = r.aim {
            let mut slot = ptr::null_mut();
            // SAFETY: the pointer is ours.
            let r = unsafe { bell_slot_map(self.bell, handle, &mut slot) };
            if r == 0 {
                let at = slot.expose_provenance();
                // Unless another thread has given it another target meanwhile.
                if self.reg(i).aim == Aim::Slot(0) {
                    self.reg(i).aim = Aim::Slot(at);
                }
            } else if self.alone() {
                violation(format!("bell_slot_map: {r}"));
            }
            // Told before we could look: no, nobody drove.
            let count = self.count(self.regs[i].as_ref().expect("there"));
            let alone = self.alone();
            let r = self.reg(i);
            r.mark = count;
            r.sure &= alone; // others may have driven meanwhile
        }
    }

    fn armed(&mut self, i: usize, drained: u64) {
        self.orders += 1;
        let (tick, order) = (with(|w| w.tick), self.orders);
        let r = self.reg(i);
        if !(r.is_listed() && r.credits > 0) {
            r.since = tick;
            r.wanted = r.wants;
        }
        r.wanted |= r.wants;
        r.order = order;
        r.credits += 1;
        r.sure = true;
        r.forget_drain(drained);
        r.told = tick;
        if r.what == What::Fd {
            r.at_arm = true_now(r.fd, r.life).unwrap_or(0);
        }
    }
}

/// News from `bell_poll` or a queue.
fn see(events: &[bell_event], queue: Option<usize>, began: u64) {
    let alone = p().alone();
    let mut last: Option<(u64, i64, usize, usize)> = None;
    for e in events {
        let i = (e.user_data & 1023) as usize;
        p().say(|| format!("    event {:#x} ready={:#x} status={} data={}", e.handle, e.ready, e.status, e.data));
        let found = p().regs.get(i).and_then(|r| r.as_ref()).filter(|r| r.data == e.user_data);
        let Some(r) = found else {
            return violation(format!("stale news: {:#x} user_data {:#x}", e.handle, e.user_data));
        };
        if r.ended != 0 && r.ended <= began {
            return violation(format!("news of {:#x}, which was unregistered before", e.handle));
        }
        if r.handle != 0 && r.handle != e.handle {
            return violation(format!("news of {:#x} under handle {:#x}", r.handle, e.handle));
        }
        let there = match r.aim {
            Aim::Poll => queue.is_none(),
            Aim::Queue(q) => queue == Some(q),
            _ => false,
        };
        if !there && alone {
            return violation(format!("{:#x}: target {:?}, seen at queue {queue:?}", e.handle, r.aim));
        }
        if alone {
            judge(r, e);
        } else {
            judge_roughly(r, e);
            p().reg(i).ever.heard += (e.ready & BELL_CLOSED == 0) as u64;
        }
        let r = p().reg(i);
        if r.what == What::Timeout && r.period == 0 && r.slack == 0 && r.order != 0 {
            let this = (r.order, r.deadline, r.shard, r.clock);
            if let Some(before) = last.filter(|b| (b.2, b.3) == (this.2, this.3)) {
                if alone && this.0 < before.0 && this.1 <= before.1 {
                    violation(format!("timeouts out of order: deadline {} after {}", this.1, before.1));
                }
            }
            last = Some(this);
        }
        let tick = with(|w| w.tick);
        let looks = p().looks;
        let r = p().reg(i);
        r.seen = true;
        r.drained = looks;
        r.undelivered_posts = false;
        if r.is_one_shot() && e.ready != BELL_CLOSED {
            r.credits = r.credits.saturating_sub(1);
            r.sure = false;
            r.vague |= r.credits > 0;
            r.deadline = NEVER;
        }
        if r.what == What::Fd {
            if e.ready & BELL_TIMEOUT != 0 && r.mode != BELL_ONESHOT {
                r.deadline = NEVER;
            }
            r.sure &= e.status == 0;
            if e.ready & BELL_CLOSED != 0 {
                (r.closed, r.sure, r.credits) = (true, false, 0);
                r.deadline = NEVER;
            }
            r.at_arm = 0;
            r.told = tick;
            r.since = tick;
            r.wanted = r.wants;
        } else if r.what == What::Timeout && r.period > 0 {
            if !r.lapsed {
                r.deadline = r.deadline.saturating_add(r.period.saturating_mul(e.data as i64)).min(NEVER - 1);
            }
        }
        if r.auto && r.is_one_shot() {
            p().retire(i, false);
        }
    }
    for e in events {
        if let Some(r) = p().regs[(e.user_data & 1023) as usize].as_mut().filter(|r| r.data == e.user_data) {
            // Before it was set back, perhaps.
            let now = with(|w| w.highest(r.clock));
            r.lapsed &= r.period > 0;
            if r.lapsed && r.deadline <= now {
                // How many of the expirations were from before it was moved, nobody knows.
                let missed = (now - r.deadline) / r.period + 1;
                r.deadline = r.deadline.saturating_add(r.period.saturating_mul(missed)).min(NEVER - 1);
            }
        }
    }
}

/// May this registration be told this?
fn judge(r: &Reg, e: &bell_event) {
    let wrong = |what: &str| {
        violation(format!(
            "{:?} {:#x} fd {}: {what}: ready {:#x} status {} data {}",
            r.what, r.handle, r.fd, e.ready, e.status, e.data
        ))
    };
    match r.what {
        What::Fd => {
            let bits = e.ready & !(BELL_TIMEOUT | BELL_CLOSED);
            if e.ready == 0 {
                wrong("no bit");
            }
            if r.wild {
                // (A queue's fd is the user's to watch.)
                let timer = |w: &mut World| w.file_of(r.fd).is_ok_and(|f| matches!(w.object(f), Object::Timer { .. }));
                if !EPOLL
                    && p().config.shards == 1
                    && with(timer)
                    && e.ready & BELL_CLOSED == 0
                    && bits & !(r.last | BELL_ERR) != 0
                {
                    wrong("news of the library's own timer");
                }
                return;
            }
            if e.ready & BELL_CLOSED != 0 && !r.closed {
                wrong("CLOSED, and nobody has closed it");
            }
            if e.ready & BELL_CLOSED == 0 && r.credits == 0 && r.mode == BELL_ONESHOT {
                wrong("not armed");
            }
            let by_fault = e.status != 0 && p().config.chaos;
            if e.status != 0 && !by_fault && !(r.closed && e.ready & BELL_CLOSED != 0) {
                wrong("a status without a reason");
            }
            if bits & !r.wanted != 0 {
                wrong("a bit that was not asked for");
            }
            if e.ready & BELL_TIMEOUT != 0
                && with(|w| w.read_clock(0)) < r.deadline
                && r.deadline != NEVER
                && !r.lapsed
                && !r.vague
            {
                wrong("early");
            }
            let real = if by_fault { bits & !BELL_ERR } else { bits };
            if real != 0 && !r.always && !r.closed {
                match true_since(r.fd, r.life, r.since) {
                    Some(was) if real & !was == 0 => {}
                    Some(was) => wrong(&format!("bits that were never true (were {was:#x})")),
                    None => wrong("of a file that is gone"),
                }
            }
        }
        What::Timeout => {
            if e.ready != BELL_TIMEOUT || e.status != 0 {
                wrong("not a timeout's news");
            }
            let now = with(|w| w.read_clock(r.clock));
            if r.credits == 0 && r.period == 0 {
                wrong("not armed");
            }
            if r.period == 0 {
                if e.data != 1 && r.credits < 2 {
                    wrong("not one expiration");
                }
                if now < r.deadline && r.deadline != NEVER && r.credits < 2 && !p().jumped_back(r.clock) {
                    wrong(&format!("early: {} of {}", now, r.deadline));
                }
            } else if e.data == 0 {
                wrong("no expiration");
            } else if !p().jumped_back(r.clock) && !r.lapsed {
                let last = r.deadline.saturating_add(r.period.saturating_mul(e.data as i64 - 1));
                if last > now && last < NEVER - 1 {
                    wrong(&format!("more expirations than periods: {} at {now}", r.deadline));
                }
            }
        }
        What::User => {
            if e.ready != BELL_USER || e.status != 0 {
                wrong("not a user event's news");
            }
            if e.data & !r.posted != 0 {
                wrong(&format!("bits that nobody posted ({:#x})", r.posted));
            }
        }
    }
}

/// The same among threads: what was never asked, or never true, cannot be told.
fn judge_roughly(r: &Reg, e: &bell_event) {
    let wrong = |what: &str| {
        violation(format!(
            "{:?} {:#x} fd {}: {what}: ready {:#x} status {} data {}",
            r.what, r.handle, r.fd, e.ready, e.status, e.data
        ))
    };
    if e.ready == 0 {
        wrong("no bit");
    }
    if e.ready & BELL_TIMEOUT != 0 && !p().jumped_back(r.clock) && with(|w| w.read_clock(r.clock)) < r.ever.earliest {
        wrong("early");
    }
    if r.ever.shots && e.ready & BELL_CLOSED == 0 && r.ever.heard >= r.ever.arms {
        wrong(&format!("told more often than armed ({} times)", r.ever.arms));
    }
    match r.what {
        What::Fd => {
            if r.wild {
                return;
            }
            let closed = p().was_closed(r);
            if e.ready & BELL_CLOSED != 0 && !closed {
                wrong("CLOSED, and nobody has closed it");
            }
            let by_fault = e.status != 0 && p().config.chaos;
            if e.status != 0 && !by_fault && !closed {
                wrong("a status without a reason");
            }
            let bits = e.ready & !(BELL_TIMEOUT | BELL_CLOSED) & !(if by_fault { BELL_ERR } else { 0 });
            if bits & !r.ever.wants != 0 {
                wrong("a bit that was not asked for");
            }
            if !r.always && !closed {
                match true_since(r.fd, r.life, r.ever.tick) {
                    Some(was) if bits & !was == 0 => {}
                    Some(was) => wrong(&format!("bits that were never true (were {was:#x})")),
                    None => wrong("of a file that is gone"),
                }
            }
        }
        What::Timeout if e.ready != BELL_TIMEOUT || e.status != 0 => wrong("not a timeout's news"),
        What::User if e.ready != BELL_USER || e.status != 0 => wrong("not a user event's news"),
        What::User if e.data & !r.posted != 0 => wrong(&format!("bits that nobody posted ({:#x})", r.posted)),
        _ => {}
    }
}

impl Player {
    /// Was a close of its fd under way since it was registered?
    fn was_closed(&self, r: &Reg) -> bool {
        r.closed || self.closes.iter().any(|(fd, until)| *fd == r.fd && *until >= r.ever.serial)
    }
    fn close_begins(&mut self, fd: i32) {
        self.closes.retain(|(f, until)| *f != fd || *until == u64::MAX);
        self.closes.push((fd, u64::MAX));
    }
    fn close_ends(&mut self, fd: i32) {
        self.serial += 1;
        let now = self.serial;
        if let Some(close) = self.closes.iter_mut().find(|(f, until)| *f == fd && *until == u64::MAX) {
            close.1 = now;
        }
    }

    fn jumped_back(&self, clock: usize) -> bool {
        clock != 0
    }

    /// What it must be told soon, if anything.
    fn is_due(&self, r: &Reg) -> bool {
        if r.wild || r.closed || r.ended != 0 || r.handle == 0 || r.busy != 0 {
            return false;
        }
        // A refused change of the kernel's set is told as ERR, and the next arming is the caller's.
        let refused = self.config.chaos && r.what == What::Fd && r.mode == BELL_EDGE && !r.is_listed();
        if refused || !r.sure && (r.is_one_shot() || r.what == What::Fd) {
            return false;
        }
        if let Aim::Mvar(None) = r.aim {
            return false;
        }
        let late = |clock: usize| {
            let now = self.world.read_clock(clock);
            r.deadline < sched::END_OF_TIME && r.deadline.saturating_add(r.slack) <= now
        };
        match r.what {
            What::Timeout => late(r.clock),
            What::User => r.undelivered_posts,
            What::Fd => {
                if late(0) {
                    return true;
                }
                let Some(now) = true_now(r.fd, r.life) else { return false };
                let now = now & r.wants;
                match r.mode {
                    BELL_EDGE if r.exclusive => false,
                    BELL_EDGE if r.always => false,
                    BELL_EDGE => now & (arrived_since(r.fd, r.life, r.told + 1) | r.at_arm) != 0,
                    _ => now != 0,
                }
            }
        }
    }
}

/// Before the only thread sleeps: is it right to?
fn before_sleep(until: i64) {
    let me = p();
    let shard = me.driving;
    if me.polling && me.woken[shard] {
        violation("a wake was lost: bell_poll sleeps".to_owned());
    }
    let time = with(|w| w.time);
    let alarm = with(|w| w.next_timer());
    let wakes = until.min(alarm);
    me.observe();
    for i in me.live() {
        let Some(r) = me.regs[i].as_ref().filter(|r| r.shard == shard) else { continue };
        if me.polling && r.aim == Aim::Poll && r.sure && me.is_due(r) && !me.config.chaos {
            violation(format!("sleeps, although {:?} {:#x} fd {} is due", r.what, r.handle, r.fd));
        }
        let pending = r.deadline < sched::END_OF_TIME
            && r.sure
            && r.aim != Aim::Mvar(None)
            && !r.wild
            && !r.closed
            && r.busy == 0;
        let known = if r.is_listed() { me.polling && r.aim == Aim::Poll } else { r.period == 0 };
        if pending && known {
            let due = r.deadline.saturating_add(r.slack).min(NEVER - 1);
            let due = due.saturating_sub(with(|w| w.ahead[r.clock]));
            let told_unseen = r.is_listed() && due.saturating_sub(r.slack) <= time;
            if !told_unseen && wakes > due.max(time).saturating_add(with(|w| w.grain)) && !me.config.chaos {
                violation(format!(
                    "sleeps until {wakes}, {:?} {:#x} is due at {due}, time is {time}",
                    r.what, r.handle
                ));
            }
        }
    }
}

// ---- the steps

/// Plays the steps; false as soon as a rule is broken.
pub fn play(player: &mut Player, steps: &[Step]) -> usize {
    let world: *mut World = &mut *player.world;
    PLAYER.set(player);
    sched::enter(world);
    sched::seed(player.config.seed, 250);
    sched::take_violation();
    sched::before_sleep((player.config.threads == 0).then_some(before_sleep));
    let mut played = 0;
    if create() {
        for step in steps {
            p().say(|| format!("{:?} {:#x}", step.op, step.salt));
            one(step);
            played += 1;
            if p().alone() {
                p().observe();
            }
            if sched::has_violation() {
                break;
            }
        }
        if !sched::has_violation() {
            finish();
        }
    }
    if sched::has_violation() {
        sched::abandon();
        crate::ffi::forget_manager(p().bell);
    }
    played
}

fn create() -> bool {
    let c = &p().config;
    let ghc = bell_ghc_ops {
        size: size_of::<bell_ghc_ops>() as u32,
        reserved: 0,
        try_putmvar: Some(put_mvar),
        thread_done: None,
    };
    let config = bell_config {
        size: size_of::<bell_config>() as u32,
        flags: 0,
        shards: c.shards,
        threads: c.library_threads,
        max_events: c.max_events,
        reserved0: 0,
        slack_ns: c.slack as u64,
        ghc: &ghc,
        reserved: [0; 4],
    };
    loop {
        let mut bell = ptr::null_mut();
        let fds = with(|w| w.open_numbers().count());
        // SAFETY: pointers of ours.
        let (r, hit) = api(|| "bell_create".to_owned(), |_| unsafe { bell_create(&config, &mut bell) });
        if r == 0 {
            p().bell = bell;
            return true;
        }
        if hit == 0 && p().alone() {
            violation(format!("bell_create: {r}"));
            return false;
        }
        let now = with(|w| w.open_numbers().count());
        if now != fds {
            violation(format!("bell_create failed ({r}) and left {} fds", now - fds));
            return false;
        }
    }
}

fn one(step: &Step) {
    let mut rng = Rng(step.salt);
    let me = p();
    me.world.rng = Rng(step.salt ^ 0x5bd1_e995);
    if me.alone() {
        return act(step.op, &mut rng);
    }
    sched::seed(step.salt, 250);
    let caller = rng.below(me.config.threads);
    if me.callers.len() <= caller {
        me.callers.resize(caller + 1, None);
    }
    let free = me.callers[caller].is_none_or(|t| !sched::is_busy(t));
    let (op, salt) = (step.op, step.salt);
    if (op as u8) < Op::CloseApi as u8 || matches!(op, Op::CloseBehind | Op::QueueCreate) {
        // The world's doings; and one that must not be seen half done, because the model names queues by their order.
        if op != Op::QueueCreate || sched::busy() == 0 {
            act(op, &mut rng);
        }
    } else if free
        && !matches!(
            op,
            Op::Chase
                | Op::Overtake
                | Op::Settle
                | Op::Verify
                | Op::Fork
                | Op::CloseInCtl
                | Op::QueueDestroy
                | Op::QueueCrowd
                | Op::SlotCrowd
        )
    {
        me.callers[caller] = Some(sched::spawn(Box::new(move || act(op, &mut Rng(salt)))));
    } else if rng.chance(100) {
        sched::interrupt(rng.below(8));
    }
    if op == Op::Chase {
        chase(&mut rng);
    } else if op == Op::Overtake {
        overtake(&mut rng);
    } else if op == Op::QueueCrowd {
        crowd::at_queue(&mut rng);
    } else if op == Op::SlotCrowd {
        crowd::at_slots(&mut rng);
    } else if op == Op::Settle {
        quiet();
    } else {
        sched::run(1 + rng.below(30));
    }
}

/// Two that have no call under way.
fn two_callers() -> Option<[usize; 2]> {
    let n = p().config.threads;
    p().callers.resize(n.max(p().callers.len()), None);
    let mut callers = (0..n).filter(|c| p().callers[*c].is_none_or(|t| !sched::is_busy(t)));
    Some([callers.next()?, callers.next()?])
}

/// An fd is ready, the driver is about to be told; meanwhile it is emptied, and somebody arms it again.
fn overtake(rng: &mut Rng) {
    let ready = |r: &Reg| {
        let one_shot = r.what == What::Fd && r.mode == BELL_ONESHOT && r.sure && !r.wild && !r.closed;
        // Not a wake fd that is watched, too: what it counts is the library's doing alone.
        one_shot && p().fds.contains(&r.fd) && true_now(r.fd, r.life).is_some_and(|now| now & r.wants != 0)
    };
    let Some(i) = p().pick_reg(rng, ready) else { return };
    let Some([first, second]) = two_callers() else { return };
    let (shard, fd, handle) = (p().reg(i).shard, p().reg(i).fd, p().reg(i).handle);
    p().callers[first] = Some(sched::spawn(Box::new(move || _ = poll(shard, 64, 0))));
    sched::run(1 + rng.below(12));
    with(|w| {
        for _ in 0..100 {
            let _ = w.read(fd, 4096);
            let _ = w.write(fd, 4096);
        }
    });
    let salt = rng.next();
    let is_free =
        move || p().regs[i].as_ref().is_some_and(|r| r.handle == handle && r.ended == 0 && r.busy == 0 && !r.alone);
    if is_free() {
        // Asked again: it may be a while until the job begins.
        let rearms = move || {
            if is_free() {
                rearm_one(i, &mut Rng(salt));
            }
        };
        p().callers[second] = Some(sched::spawn(Box::new(rearms)));
    }
    sched::run(1 + rng.below(30));
}

/// A timeout is made to fire, and somebody unregisters it synchronously while its delivery may be under way.
fn chase(rng: &mut Rng) {
    let outside = |r: &Reg| matches!(r.aim, Aim::Futex(_) | Aim::WakeFd(..) | Aim::Mvar(Some(_)));
    let Some(i) = p().pick_reg(rng, |r| r.what == What::Timeout && r.period == 0 && outside(r)) else { return };
    let Some([first, second]) = two_callers() else { return };
    let (handle, shard) = (p().reg(i).handle, p().reg(i).shard);
    p().reg(i).arming(0, true);
    p().reg(i).busy += 1; // nobody but us
    let fires = move || {
        api(|| format!("bell_update_timeout({handle:#x}, 0)"), |b| bell_update_timeout(b, handle, 0));
        if let Some(r) = p().regs[i].as_mut().filter(|r| r.handle == handle) {
            r.busy -= 1;
            (r.deadline, r.lapsed, r.vague, r.sure) = (0, true, true, false);
        }
        poll(shard, 64, 0);
    };
    p().callers[first] = Some(sched::spawn(Box::new(fires)));
    sched::run(1 + rng.below(25));
    let is_there = move || p().regs[i].as_ref().is_some_and(|r| r.handle == handle && r.ended == 0 && !r.alone);
    if is_there() {
        let ends = move || {
            if is_there() {
                unregister_one(i, true);
            }
        };
        p().callers[second] = Some(sched::spawn(Box::new(ends)));
    }
    sched::run(1 + rng.below(30));
}

/// Faults off, and everybody runs until all sleep: then each must be right to.
fn quiet() {
    let faulty = std::mem::replace(&mut p().config.faulty, false);
    with(|w| w.faulty = false);
    for round in 0..=40 {
        if !sched::run(20_000) {
            if !sched::has_violation() {
                violation(format!(
                    "twenty thousand switches, and somebody still runs: {:?} {:?} time {}",
                    sched::states(),
                    p().waits,
                    with(|w| w.time)
                ));
            }
            return;
        }
        let next = sched::next_end().min(with(|w| w.next_timer()));
        // Never right after time went on: who was due then has not run.
        if next > sched::END_OF_TIME || round == 40 {
            break;
        }
        // A library thread that rests after a shortage shall come back, whatever fires each microsecond meanwhile.
        let least = if p().config.library_threads > 0 { 1_000 << round.min(14) } else { 0 };
        with(|w| w.advance(next.max(w.time.saturating_add(least))));
    }
    forget_drivers();
    check_sleepers(true);
    if !any_wild() {
        agree();
    }
    // Nobody makes a call now that began before these ended.
    if sched::busy() == 0 {
        for i in 0..p().regs.len() {
            if p().regs[i].as_ref().is_some_and(|r| r.ended != 0 && r.busy == 0) {
                p().regs[i] = None;
            }
        }
    }
    p().words.check();
    p().check_spent();
    p().settled += 1;
    p().config.faulty = faulty;
}

fn forget_drivers() {
    p().driven = [p().config.library_threads > 0; 4];
}

/// All sleep: each must be right to. `time_went_on`: so far that no deadline is due any more.
fn check_sleepers(time_went_on: bool) {
    let states = sched::states();
    let mut asleep = Vec::new();
    for (thread, state) in states.iter().enumerate() {
        let wait = p().waits.get(thread).copied().flatten();
        match (state, wait) {
            (sched::Block::Idle | sched::Block::Ready, _) => {}
            (sched::Block::Lock(_), _) => violation(format!("deadlock: a thread waits for a lock, {wait:?}")),
            (_, None) if p().config.library_threads > 0 && matches!(state, sched::Block::Kernel { .. }) => {}
            // It has met a shortage, and rests.
            (sched::Block::Futex { until, .. }, None)
                if p().config.library_threads > 0 && *until < sched::END_OF_TIME => {}
            (_, None) => violation("a call that does not wait for news does not end".to_owned()),
            (_, Some(w)) => asleep.push((*state, w)),
        }
    }
    let threaded = p().config.library_threads > 0;
    for (_, wait) in &asleep {
        let shard = match wait {
            Wait::Poll(s) | Wait::Slot(_, _, s) | Wait::Queue(_, s) => *s,
        };
        let here = |w: &Wait| matches!(w, Wait::Poll(s) | Wait::Slot(_, _, s) | Wait::Queue(_, s) if *s == shard);
        let drives = |(state, w): &(sched::Block, Wait)| here(w) && matches!(state, sched::Block::Kernel { .. });
        if !threaded && !asleep.iter().any(drives) {
            violation(format!("{wait:?}: all who wait at shard {shard} sleep, and nobody drives"));
        }
        match *wait {
            Wait::Poll(shard) if p().woken[shard] => violation("a wake was lost: bell_poll sleeps".to_owned()),
            Wait::Slot(i, direction, _) => {
                let Some(Reg { aim: Aim::Slot(at), ended: 0, .. }) = p().regs[i].as_ref() else {
                    violation("a waiter sleeps for a slot that is gone".to_owned());
                    continue;
                };
                if *at == 0 {
                    continue;
                }
                // SAFETY: mapped until the manager is destroyed.
                let slot = unsafe { &*ptr::with_exposed_provenance::<[std::sync::atomic::AtomicU32; 2]>(*at) };
                let bits = slot[(direction == BELL_WRITE) as usize].load(SeqCst);
                if bits & BELL_NEWS != 0 {
                    violation(format!("a waiter sleeps beside its news: {bits:#x}"));
                }
            }
            Wait::Queue(q, _) if !p().queues[q].live => {
                violation("a waiter sleeps at a queue that is gone".to_owned());
            }
            Wait::Queue(q, _) => {
                // What is LEVEL and was drained is looked at again by the next call, not by one that sleeps already.
                let looked = p().queues[q].looked;
                let level = |r: &Reg| r.what == What::Fd && r.mode == BELL_LEVEL && r.aim == Aim::Queue(q);
                let again = |r: &Reg| level(r) && r.drained >= looked;
                let again: Vec<u64> = p().live().map(|i| &*p().reg(i)).filter(|r| again(r)).map(|r| r.handle).collect();
                let news = drain(q, 64) as usize;
                let now = p().looks;
                // That look may find that somebody has closed its fd, which is told to all of that number; or that it
                // is ready, was armed again since, and only the kernel knows, because nobody drives its shard.
                let unseen = |r: &Reg| level(r) && r.shard != shard && !p().driven[r.shard];
                let excused = |r: &Reg| again.contains(&r.handle) || r.wild || unseen(r);
                let found = p().live().map(|i| &*p().reg(i)).filter(|r| r.drained == now && excused(r));
                if news > found.count() {
                    violation("a waiter sleeps beside its queue's news".to_owned());
                }
            }
            Wait::Poll(_) => {}
        }
        for i in p().live().collect::<Vec<_>>() {
            let Some(r) = p().regs[i].as_ref() else { continue };
            let waited_for = match *wait {
                Wait::Poll(_) => r.aim == Aim::Poll && r.shard == shard,
                Wait::Slot(at, direction, _) => at == i && direction == BELL_READ,
                Wait::Queue(q, _) => r.aim == Aim::Queue(q) && (r.shard == shard || p().driven[r.shard]),
            };
            if waited_for && r.undelivered_posts && r.busy == 0 {
                violation(format!("{wait:?} sleeps, and what was posted to {:#x} has not come", r.handle));
            }
            let plain = r.what != What::User && !r.is_listed() && r.is_one_shot() && r.sure;
            // Time may have passed between a look at the clock and the sleep, which is then that much too long.
            let late = !time_went_on && r.deadline.saturating_add(r.slack) <= with(|w| w.read_clock(r.clock));
            if r.shard == shard && plain && !p().is_told(r) && p().is_due(r) && !late {
                violation(format!(
                    "{:?} {:#x} fd {} {:?} is due, and its driver sleeps: {states:?} clocks {:?} alarm {}",
                    r.what,
                    r.handle,
                    r.fd,
                    r.aim,
                    [0, 1, 2].map(|c| with(|w| w.true_clock(c))),
                    with(|w| w.next_timer())
                ));
            }
        }
    }
}

/// The end of a run with threads: destroying wakes all who are inside.
fn finish_threads() {
    quiet();
    if sched::has_violation() {
        return;
    }
    let bell = p().bell;
    let result = std::rc::Rc::new(Cell::new(i32::MIN));
    let answer = result.clone();
    p().config.faulty = false;
    p().words.check();
    with(|w| w.mute = p().serial % 3 == 0);
    if p().config.crowds {
        crowd::before_the_end(&mut Rng(p().config.seed));
    }
    p().destroying = true;
    sched::spawn(Box::new(move || answer.set(bell_destroy(bell, BELL_FORCE))));
    for _ in 0..100 {
        if sched::run(20_000) || sched::has_violation() {
            break;
        }
    }
    if sched::has_violation() {
        return;
    }
    if result.get() != 0 || sched::busy() > 0 {
        return violation(format!(
            "bell_destroy: {}, and {} threads are left inside: {:?}",
            result.get(),
            sched::busy(),
            sched::states()
        ));
    }
    gone(bell);
}

fn env(name: &str, fd: i32, result: impl std::fmt::Debug) {
    p().say(|| format!("  {name}({fd}) = {result:?}"));
}

fn act(op: Op, rng: &mut Rng) {
    match op {
        Op::Open => open(rng),
        Op::Write | Op::Read | Op::Drain | Op::Shut | Op::Flag | Op::Stir | Op::Dup | Op::Hold => {
            let Some(fd) = p().pick_fd(rng) else { return open(rng) };
            doing(op, fd, rng);
        }
        Op::LetGo => {
            // After a fork the parent's sets are watched, and its files shall stay.
            if p().forks > 0 {
                return;
            }
            if let Some(file) = p().held.pop() {
                with(|w| w.let_go(file));
            }
        }
        Op::Advance => {
            let by = rng.pick(&[0, 1, 999, 1_000_000, 1_000_000_000, 3_600_000_000_000]) * (1 + rng.below(3) as i64);
            with(|w| w.advance(w.time.saturating_add(by).min(1 << 62)));
            env("advance", 0, by);
        }
        Op::Jump => {
            let clock = 1 + rng.below(2);
            let by: i64 = rng.pick(&[1_000_000, 3_600_000_000_000, -5_000_000_000]);
            let by = if clock == 1 { by.abs() } else { by };
            with(|w| w.jump(clock, by));
            env("jump", clock as i32, by);
        }
        Op::CloseApi | Op::CloseBegin | Op::CloseEnd | Op::CloseBehind | Op::CloseInCtl => close(op, rng),
        Op::RegFd => register_fd(rng),
        Op::RegTimeout => register_timeout(rng, None),
        Op::RegUser => register_user(rng),
        Op::Unregister => unregister(rng),
        Op::Rearm => rearm(rng),
        Op::Modify => modify(rng),
        Op::Retarget => retarget(rng),
        Op::Update => update(rng),
        Op::Get => get(rng),
        Op::Post => post(rng),
        Op::Wake => wake(rng),
        Op::Poll => {
            let shard = rng.below(p().config.shards as usize);
            let timeout = rng.pick(&[0, 0, 0, 1, 1_000_000, 2_000_000_000, NEVER]);
            let most = rng.pick(&[0, 1, 2, 64, 64, 64]);
            poll(shard, most, timeout);
        }
        Op::Consume => consume(rng),
        Op::SlotWait => slot_wait(rng),
        Op::QueueCreate => queue_create(rng),
        Op::QueueDrain => {
            if let Some(q) = p().pick_queue(rng) {
                drain(q, rng.pick(&[1, 2, 64]));
            }
        }
        Op::QueueWait => queue_wait(rng),
        Op::QueueDestroy => queue_destroy(rng),
        Op::QueueFd => {
            if let Some(q) = p().pick_queue(rng) {
                let handle = p().queues[q].handle;
                let (r, hit) = api(|| format!("bell_queue_fd({q})"), |b| bell_queue_fd(b, handle));
                if r < 0 && hit == 0 && p().alone() {
                    violation(format!("bell_queue_fd: {r}"));
                }
            }
        }
        Op::Doorbell => doorbell(rng),
        Op::Pollable => {
            let shard = rng.below(p().config.shards as usize);
            let (r, hit) = api(|| format!("bell_pollable_fd({shard})"), |b| bell_pollable_fd(b, shard as u32));
            if r >= 0 {
                p().nested[shard] = true;
            } else if hit == 0 && EPOLL && p().config.library_threads == 0 {
                violation(format!("bell_pollable_fd: {r}"));
            }
        }
        Op::NextDeadline => {
            let shard = rng.below(p().config.shards as usize);
            let mut at = 0;
            // SAFETY: a pointer of ours.
            api(|| "bell_next_deadline".to_owned(), |b| unsafe { bell_next_deadline(b, shard as u32, &mut at) });
        }
        Op::Verify => verify(),
        Op::Settle => settle(),
        Op::Misuse => misuse(rng),
        Op::Fork => fork(rng),
        Op::Chase | Op::Overtake | Op::QueueCrowd | Op::SlotCrowd => {}
        Op::Share => share(rng),
        Op::Store => store(rng),
    }
}

fn open(rng: &mut Rng) {
    if p().fds.len() > 24 {
        return;
    }
    let room = rng.pick(&[1, 4, 4096]);
    let made: Vec<i32> = with(|w| match rng.below(10) {
        0..4 => w.pipe(room).map(Vec::from),
        4..7 => w.pair(room).map(Vec::from),
        7..9 => w.eventfd(rng.next() % 2).map(|f| vec![f]),
        _ => if rng.chance(500) { w.regular() } else { w.null() }.map(|f| vec![f]),
    })
    .unwrap_or_default();
    env("open", made.first().copied().unwrap_or(-1), &made);
    p().fds.extend(made);
}

fn doing(op: Op, fd: i32, rng: &mut Rng) {
    match op {
        Op::Write => {
            let n = 1 + rng.next() % 5;
            env("write", fd, with(|w| w.write(fd, n)));
        }
        Op::Read => {
            let n = 1 + rng.below(5);
            env("read", fd, with(|w| w.read(fd, n)));
        }
        Op::Drain => env(
            "drain",
            fd,
            with(|w| {
                let mut n = 0;
                while n < 100 && w.read(fd, 4096).is_ok_and(|n| n > 0) {
                    n += 1;
                }
                n
            }),
        ),
        Op::Shut => env("shut", fd, with(|w| w.shut(fd))),
        Op::Flag => {
            let (urgent, on) = (rng.chance(500), rng.chance(600));
            env("flag", fd, with(|w| w.flag(fd, urgent, on)));
        }
        Op::Stir => {
            with(|w| {
                w.count_fault(Fault::Spurious);
                if let Ok(file) = w.file_of(fd) {
                    w.stir(file);
                }
            });
            env("stir", fd, ());
        }
        Op::Dup => {
            if p().fds.len() < 24 {
                let made = with(|w| w.dup(fd));
                env("dup", fd, made);
                p().fds.extend(made.ok());
            }
        }
        _ => {
            let file = with(|w| w.file_of(fd));
            if let (Ok(file), true) = (file, p().held.len() < 8) {
                with(|w| w.hold(file));
                p().held.push(file);
                env("hold", fd, ());
            }
        }
    }
}

/// Everything registered under a number: its file is not what it was.
fn gone_wild(fd: i32) {
    // Also of those whose `bell_register_fd` is under way.
    for r in p().regs.iter_mut().flatten().filter(|r| r.ended == 0) {
        if r.fd == fd && !r.closed && r.what == What::Fd {
            r.wild = true;
            let (since, life) = (r.since, r.life);
            r.last |= with(|w| {
                let since = if w.life_of(fd) == life { since } else { 0 };
                w.file_of(fd).map_or(0, |f| ready_bits(w.true_since(f, since)))
            });
        }
    }
}

fn close(op: Op, rng: &mut Rng) {
    if op == Op::CloseEnd {
        if p().closing.is_empty() {
            return;
        }
        let at = rng.below(p().closing.len());
        let (fd, ticket) = p().closing.swap_remove(at);
        let (r, _) = api(|| format!("bell_close_end({fd})"), |b| bell_close_end(b, fd, ticket));
        p().close_ends(fd);
        if r != 0 && p().alone() {
            violation(format!("bell_close_end: {r}"));
        }
        return;
    }
    let Some(fd) = p().pick_fd(rng) else { return };
    if p().is_closing(fd) {
        return;
    }
    match op {
        Op::CloseBehind => {
            // Seldom, and by a user who has watched it: the others close what nobody watches.
            gone_wild(fd);
            p().fds.retain(|f| *f != fd);
            env("close", fd, with(|w| w.close(fd)));
            if rng.chance(300) && p().alone() {
                // The number may become that of the library's own timer.
                let clock = 1 + rng.below(2);
                register_timeout(rng, Some(clock));
            }
        }
        Op::CloseInCtl => {
            gone_wild(fd);
            p().fds.retain(|f| *f != fd);
            with(|w| w.close_in_ctl = Some(fd));
            let again = rng.pick(&[Op::Rearm, Op::Modify, Op::RegFd, Op::Unregister, Op::Poll]);
            act(again, rng);
            if let Some(fd) = with(|w| w.close_in_ctl.take()) {
                p().fds.push(fd);
            }
        }
        Op::CloseApi => {
            let watched = watchers(fd);
            p().close_begins(fd);
            let (r, hit) = api(|| format!("bell_close_fd({fd})"), |b| bell_close_fd(b, fd));
            p().close_ends(fd);
            if r == 0 {
                p().fds.retain(|f| *f != fd);
                closed(&watched);
            } else if hit == 0 && p().alone() {
                violation(format!("bell_close_fd: {r}"));
            }
        }
        _ => {
            let watched = watchers(fd);
            let mut ticket = 0;
            p().close_begins(fd);
            // SAFETY: a pointer of ours.
            let (r, hit) =
                api(|| format!("bell_close_begin({fd})"), |b| unsafe { bell_close_begin(b, fd, &mut ticket) });
            if r == 0 {
                p().closing.push((fd, ticket));
                closed(&watched);
                p().fds.retain(|f| *f != fd);
                env("close", fd, with(|w| w.close(fd)));
            } else {
                p().close_ends(fd);
                if hit == 0 && p().alone() {
                    violation(format!("bell_close_begin: {r}"));
                }
            }
        }
    }
}

fn watchers(fd: i32) -> Vec<usize> {
    let all: Vec<usize> = p().live().collect();
    all.into_iter()
        .filter(|i| {
            let r = p().reg(*i);
            r.what == What::Fd && r.fd == fd && !r.closed
        })
        .collect()
}

/// Its registrations must have been told, or have it in their lists.
fn closed(watched: &[usize]) {
    for i in watched {
        if p().regs[*i].as_ref().is_none_or(|r| r.ended != 0) {
            continue;
        }
        let told = p().regs[*i].as_ref().is_some_and(|r| p().is_told(r));
        let me = p();
        let r = me.reg(*i);
        (r.closed, r.sure) = (true, false);
        r.deadline = NEVER;
        let spent = matches!(r.aim, Aim::Mvar(None));
        if me.alone() && !told && !spent {
            let r = me.reg(*i);
            if !r.is_listed() && !r.wild {
                violation(format!("{:#x} was not told that its fd {} was closed", r.handle, r.fd));
            }
        }
        if me.alone() && me.reg(*i).auto && !me.reg(*i).is_listed() {
            me.retire(*i, true);
        }
    }
}

fn register_fd(rng: &mut Rng) {
    if p().live().count() >= MOST_REGS {
        return unregister(rng);
    }
    let Some(fd) = p().pick_fd(rng) else { return open(rng) };
    let fd = if rng.chance(20) { fd + 40 } else { fd };
    let mode = if EPOLL || rng.chance(30) {
        rng.pick(&[BELL_EDGE, BELL_ONESHOT, BELL_ONESHOT, BELL_LEVEL])
    } else {
        rng.pick(&[BELL_ONESHOT, BELL_LEVEL])
    };
    let interest = rng.pick(&[BELL_READ, BELL_READ, BELL_WRITE, BELL_READ | BELL_WRITE, BELL_PRI, BELL_RDHUP]);
    let aim = p().aim(rng, What::Fd, mode, 0);
    let i = p().new_reg(What::Fd, aim);
    let always = rng.chance(300);
    let auto = mode == BELL_ONESHOT && rng.chance(150);
    let with_deadline = rng.chance(250);
    let deadline = if with_deadline { deadline(rng, 0) } else { NEVER };
    let shard = if rng.chance(500) { BELL_SHARD_ANY } else { rng.below(p().config.shards as usize) as u32 };
    let life = with(|w| w.life_of(fd));
    let data = p().reg(i).data;
    let flags = always as u32 * BELL_FD_ALWAYS_READY
        | auto as u32 * BELL_AUTO_RELEASE
        | with_deadline as u32 * BELL_FD_DEADLINE;
    let spec = bell_fd_spec {
        size: size_of::<bell_fd_spec>() as u32,
        fd,
        interest,
        mode,
        flags,
        shard,
        user_data: data,
        deadline_ns: if with_deadline { deadline } else { 0 },
        target: p().target(aim),
    };
    let kind = with(|w| {
        w.file_of(fd).map_or(0, |f| match w.object(f) {
            _ if w.is_ours(fd) => 0,
            Object::Regular => 1,
            Object::Null => 2,
            _ => 3,
        })
    });
    let unpollable = kind == 1 || kind == 2 && EPOLL;
    {
        let r = p().reg(i);
        (r.fd, r.life, r.mode, r.auto, r.deadline) = (fd, life, mode, auto, deadline);
        r.wants = wants(interest);
        (r.ever.wants, r.ever.earliest, r.ever.shots) = (r.wants, deadline, mode == BELL_ONESHOT);
        r.wanted = r.wants;
        r.always = unpollable;
        r.at_arm = true_now(fd, life).unwrap_or(0);
        r.wild = kind == 0;
    }
    let odd = with(|w| w.is_ours(fd))
        || p().live().any(|j| {
            let r = p().reg(j);
            r.what == What::Fd && r.fd == fd && !r.closed && (r.life != life || r.wild)
        });
    let closing = p().is_closing(fd);
    let mut handle = 0;
    let text = || {
        format!(
            "bell_register_fd(fd {fd}, interest {interest:#x}, mode {mode}, flags {flags}, {aim:?}, deadline {deadline})"
        )
    };
    let before = snapshot(rng);
    // SAFETY: pointers of ours.
    let (r, hit) = api(text, |b| unsafe { bell_register_fd(b, &spec, &mut handle) });
    same(before, r, "bell_register_fd");
    let expected = if mode == BELL_EDGE && !EPOLL {
        BELL_E_UNSUPPORTED
    } else if closing {
        BELL_E_CLOSED
    } else if kind == 0 {
        EBADF
    } else if unpollable && !always {
        EPERM
    } else {
        0
    };
    let wild = with(|w| w.life_of(fd)) != life;
    if p().alone() && hit == 0 && !odd && !wild && r != expected {
        violation(format!("bell_register_fd(fd {fd}) returned {r}, expected {expected}"));
    }
    if r == 0 {
        if wild {
            p().reg(i).wild = true;
        }
        if odd && !EPOLL {
            // poll(2) knows numbers only: this one goes on with what was asked for the file that is gone.
            p().reg(i).wild = true;
        }
        p().made(i, handle);
    } else {
        p().regs[i] = None;
        p().give_back(aim);
    }
}

fn deadline(rng: &mut Rng, clock: usize) -> i64 {
    let now = with(|w| w.true_clock(clock));
    match rng.below(8) {
        0 => 0,
        1 => now,
        2 => NEVER - 1,
        3 => now.saturating_add(1),
        _ => {
            let by = rng.pick(&[1_000, 1_000_000, 1_000_000_000, 60_000_000_000, 5_184_000_000_000_000]);
            now.saturating_add(by + rng.below(5) as i64).min(NEVER - 1)
        }
    }
}

fn register_timeout(rng: &mut Rng, clock: Option<usize>) {
    if p().live().count() >= MOST_REGS {
        return unregister(rng);
    }
    let period = if rng.chance(250) { rng.pick(&[1_000, 1_000_000, 1_000_000_000]) } else { 0 };
    let aim = p().aim(rng, What::Timeout, 0, period);
    let i = p().new_reg(What::Timeout, aim);
    let drawn = if rng.chance(200) { 1 + rng.below(2) } else { 0 };
    let clock = clock.unwrap_or(drawn);
    let deadline = if rng.chance(30) { NEVER } else { deadline(rng, clock) };
    let auto = period == 0 && rng.chance(200);
    let slack = if rng.chance(200) { rng.pick(&[1, 1_000_000]) } else { 0 };
    let spec = bell_timeout_spec {
        size: size_of::<bell_timeout_spec>() as u32,
        clock: clock as u32,
        flags: auto as u32 * BELL_AUTO_RELEASE,
        shard: rng.below(p().config.shards as usize) as u32,
        deadline_ns: deadline,
        period_ns: period,
        slack_ns: slack,
        user_data: p().reg(i).data,
        target: p().target(aim),
    };
    {
        let most = p().config.slack;
        let r = p().reg(i);
        (r.clock, r.deadline, r.period, r.auto, r.slack) = (clock, deadline, period, auto, slack.max(most));
        (r.ever.earliest, r.ever.shots, r.ever.changed) = (deadline, period == 0, deadline == NEVER);
        if deadline == NEVER {
            (r.credits, r.sure) = (0, false);
        }
    }
    let mut handle = 0;
    let text = || {
        format!(
            "bell_register_timeout(clock {clock}, deadline {deadline}, period {period}, slack {slack}, auto {auto}, {aim:?})"
        )
    };
    let before = snapshot(rng);
    // SAFETY: pointers of ours.
    let (r, hit) = api(text, |b| unsafe { bell_register_timeout(b, &spec, &mut handle) });
    same(before, r, "bell_register_timeout");
    if r == 0 {
        p().made(i, handle);
    } else {
        if hit == 0 && p().alone() {
            violation(format!("bell_register_timeout: {r}"));
        }
        p().regs[i] = None;
        p().give_back(aim);
    }
}

fn register_user(rng: &mut Rng) {
    if p().live().count() >= MOST_REGS {
        return unregister(rng);
    }
    let aim = p().aim(rng, What::User, 0, 0);
    register_user_for(rng, aim, |rng| rng.below(p().config.shards as usize));
}

fn register_user_for(rng: &mut Rng, aim: Aim, shard: impl FnOnce(&mut Rng) -> usize) {
    let i = p().new_reg(What::User, aim);
    let target = p().target(aim);
    let shard = shard(rng) as u32;
    let data = p().reg(i).data;
    let mut handle = 0;
    let before = snapshot(rng);
    // SAFETY: pointers of ours.
    let (r, hit) = api(
        || format!("bell_register_user({aim:?})"),
        |b| unsafe { bell_register_user(b, shard, &target, data, &mut handle) },
    );
    same(before, r, "bell_register_user");
    if r == 0 {
        p().made(i, handle);
    } else {
        if hit == 0 && p().alone() {
            violation(format!("bell_register_user: {r}"));
        }
        p().regs[i] = None;
        p().give_back(aim);
    }
}

/// Of a registration whose target is the library's: what must `bell_unregister` or `bell_retarget` say of it?
fn ownership(r: &Reg) -> Option<i32> {
    if r.wild || !p().alone() {
        return None;
    }
    let told = p().is_told(r);
    let cancelled = Some(BELL_CANCELLED as i32);
    match (r.what, r.aim) {
        (What::User, Aim::Mvar(None)) => Some(BELL_FIRED),
        (What::User, Aim::Mvar(_)) if told => Some(BELL_FIRED),
        (What::User, _) => cancelled,
        (_, Aim::Mvar(None)) => Some(BELL_FIRED),
        (_, Aim::Mvar(Some(_))) => Some(if told { BELL_FIRED } else { BELL_CANCELLED as i32 }),
        (What::Timeout, _) if r.period > 0 => (r.deadline != NEVER).then_some(BELL_CANCELLED as i32),
        (What::Fd, _) if r.mode != BELL_ONESHOT && !r.closed => cancelled,
        _ if r.closed => None,
        // Fired, or shared when it was silent, and so armed until then.
        _ if r.word != 0 && r.credits == 0 && !told => None,
        _ if r.is_listed() && r.sure => cancelled,
        _ if r.is_listed() && r.credits == 0 => Some(BELL_FIRED),
        _ if r.is_listed() => None,
        (_, Aim::WakeFd(..)) => None,
        _ if !told && !r.sure && r.credits > 0 => None,
        _ => Some(if told || r.credits == 0 { BELL_FIRED } else { BELL_CANCELLED as i32 }),
    }
}

fn unregister(rng: &mut Rng) {
    let Some(i) = p().pick_shared(rng, |_| true) else { return };
    unregister_one(i, rng.chance(600));
}

fn unregister_one(i: usize, sync: bool) {
    let (handle, aim) = (p().reg(i).handle, p().reg(i).aim);
    let expected = ownership(p().reg(i));
    p().reg(i).busy += 1;
    let (r, _) = api(|| format!("bell_unregister({handle:#x}, {sync})"), |b| bell_unregister(b, handle, sync as u32));
    if p().regs[i].is_none() {
        return;
    }
    p().reg(i).busy -= 1;
    let auto = p().reg(i).auto;
    if r == BELL_E_STALE && (p().reg(i).ended != 0 || p().reg(i).busy > 0) {
        return; // another thread was faster
    }
    if r == BELL_E_STALE && auto && (!p().alone() || p().reg(i).wild) {
        return p().retire(i, false);
    }
    if r != BELL_CANCELLED as i32 && r != BELL_FIRED {
        return violation(format!("bell_unregister({handle:#x}): {r}"));
    }
    if expected.is_some_and(|e| e != r) {
        let reg = p().reg(i);
        violation(format!(
            "bell_unregister({handle:#x}) returned {r}, expected {expected:?}: {:?} {:?} credits {} sure {}",
            reg.what, reg.aim, reg.credits, reg.sure
        ));
    }
    if let (false, true, Aim::Futex(word)) = (p().alone(), sync, aim) {
        let reg = p().reg(i);
        let once = reg.ever.shots && reg.ever.arms == 1 && !reg.ever.changed && reg.busy == 0 && reg.what != What::User;
        let (wild, told) = (reg.wild, p().words.at(word).load(SeqCst) / BELL_SEQ);
        if once && !wild && !p().was_closed(p().reg(i)) && (r == BELL_FIRED) != (told == 1) {
            violation(format!("bell_unregister({handle:#x}): {r}, and its word was told {told} times"));
        }
    }
    if let Aim::Mvar(_) = aim {
        let one_shot_told = p().reg(i).is_one_shot() || p().reg(i).what == What::User;
        if one_shot_told {
            p().replaced(aim, Some(r == BELL_CANCELLED as i32), sync);
        }
    }
    p().retire(i, sync);
    // The handle is dead for good.
    let (again, _) = api(|| "again".to_owned(), |b| bell_unregister(b, handle, 0));
    if again != BELL_E_STALE {
        violation(format!("bell_unregister({handle:#x}) twice: {again}"));
    }
}

fn rearm(rng: &mut Rng) {
    if let Some(i) = p().pick_reg(rng, |_| true) {
        rearm_one(i, rng);
    }
}

fn rearm_one(i: usize, rng: &mut Rng) {
    let (handle, what, mode, period) = (p().reg(i).handle, p().reg(i).what, p().reg(i).mode, p().reg(i).period);
    let old = p().reg(i).aim;
    let spent = old == Aim::Mvar(None) || p().is_told(p().reg(i)) && matches!(old, Aim::Mvar(_));
    // Of several threads, none could say who owns the old one.
    let fresh = (spent || rng.chance(100) && p().alone()).then(|| p().aim(rng, what, mode, period));
    let clock = p().reg(i).clock;
    let deadline = match what {
        What::Fd if rng.chance(700) => NEVER,
        What::User => NEVER,
        _ => deadline(rng, clock),
    };
    let target = fresh.map(|a| p().target(a));
    let pointer = target.as_ref().map_or(ptr::null(), ptr::from_ref);
    let before = snapshot(rng);
    let drained = p().reg(i).drained;
    p().reg(i).busy += 1;
    p().reg(i).alone = true;
    p().reg(i).arming(deadline, fresh.is_some());
    let mark = p().count(p().reg(i));
    let _ = mark;
    // SAFETY: null or a target of ours.
    let (r, hit) = api(
        || format!("bell_rearm({handle:#x}, {fresh:?}, {deadline})"),
        |b| unsafe { bell_rearm(b, handle, pointer, deadline) },
    );
    if p().regs[i].is_none() {
        return;
    }
    p().reg(i).busy -= 1;
    // As in `retarget`.
    p().reg(i).alone = r == 0 && matches!(fresh, Some(Aim::Slot(_)));
    same(before, r, "bell_rearm");
    let (wild, closed, auto, always) = (p().reg(i).wild, p().reg(i).closed, p().reg(i).auto, p().reg(i).always);
    if r == 0 {
        if let Some(new) = fresh {
            p().replaced(old, None, false);
            p().reg(i).aim = new;
            if let Aim::Slot(_) = new {
                let mut slot = ptr::null_mut();
                // SAFETY: a pointer of ours.
                unsafe { bell_slot_map(p().bell, handle, &mut slot) };
                p().reg(i).alone = false;
                p().reg(i).aim = Aim::Slot(slot.expose_provenance());
            }
            let alone = p().alone();
            let r = p().reg(i);
            r.credits = 0;
            r.undelivered_posts &= alone; // the old one may have been told
        }
        let count = if p().alone() { p().count(p().reg(i)) } else { mark };
        p().armed(i, drained);
        let r = p().reg(i);
        r.mark = if always && !r.is_listed() { r.mark } else { count };
        if fresh.is_some() {
            r.mark = if matches!(r.aim, Aim::Slot(_)) { count } else { 0 };
        }
        r.seen = false;
        r.order = 0;
        let now = with(|w| w.true_clock(r.clock));
        r.vague |= what == What::Fd && (r.lapsed || r.deadline <= now || deadline <= now);
        r.lapsed |= r.deadline <= now;
        r.deadline = deadline;
        if what == What::Timeout && deadline == NEVER {
            (r.credits, r.sure) = (r.credits - 1, false);
        }
    } else {
        if let Some(new) = fresh {
            p().give_back(new);
        }
        let excuse = hit > 0 || wild || closed && r == BELL_E_CLOSED || auto && r == BELL_E_STALE || !p().alone();
        if !excuse {
            violation(format!("bell_rearm({handle:#x}): {r}"));
        }
        if r == BELL_E_STALE && auto && wild {
            p().retire(i, false);
        }
    }
}

fn modify(rng: &mut Rng) {
    let Some(i) = p().pick_shared(rng, |r| r.what == What::Fd) else { return };
    let (handle, aim, auto) = (p().reg(i).handle, p().reg(i).aim, p().reg(i).auto);
    let interest = rng.pick(&[BELL_READ, BELL_WRITE, BELL_READ | BELL_WRITE, BELL_PRI]);
    let mode = rng.pick(&[BELL_EDGE, BELL_ONESHOT, BELL_LEVEL]);
    let before = snapshot(rng);
    let (mark, drained) = (p().count(p().reg(i)), p().reg(i).drained);
    p().reg(i).busy += 1;
    p().reg(i).arming(NEVER, true);
    p().reg(i).ever.wants |= wants(interest);
    p().reg(i).ever.shots &= mode == BELL_ONESHOT;
    let (r, hit) =
        api(|| format!("bell_modify({handle:#x}, {interest:#x}, {mode})"), |b| bell_modify(b, handle, interest, mode));
    if p().regs[i].is_none() {
        return;
    }
    p().reg(i).busy -= 1;
    same(before, r, "bell_modify");
    let (wild, closed) = (p().reg(i).wild, p().reg(i).closed);
    let told_mvar = matches!(aim, Aim::Mvar(_)) && (aim == Aim::Mvar(None) || p().is_told(p().reg(i)));
    let listed = p().reg(i).is_listed();
    let expected = if closed {
        BELL_E_CLOSED
    } else if mode == BELL_LEVEL && !listed || told_mvar || mode == BELL_EDGE && matches!(aim, Aim::Mvar(_)) {
        EINVAL
    } else if mode == BELL_EDGE && !EPOLL {
        BELL_E_UNSUPPORTED
    } else if auto && mode != BELL_ONESHOT {
        EINVAL
    } else {
        0
    };
    if p().alone() && hit == 0 && !wild && r != expected && !(auto && r == BELL_E_STALE) {
        violation(format!("bell_modify({handle:#x}): {r}, expected {expected}"));
    }
    if r == 0 {
        let count = if p().alone() { p().count(p().reg(i)) } else { mark };
        let now = with(|w| w.true_clock(0));
        let alone = p().alone();
        let r = p().reg(i);
        let spent =
            r.mode == BELL_LEVEL && r.deadline <= now || r.mode == BELL_ONESHOT && r.is_listed() || r.vague || !alone;
        if spent {
            (r.lapsed, r.vague) = (true, true);
            r.deadline = NEVER;
        }
        (r.wants, r.mode) = (wants(interest), mode);
        r.seen = false;
        p().armed(i, drained);
        let r = p().reg(i);
        if !r.always {
            r.mark = count;
        }
    } else if r == BELL_E_STALE && auto && wild {
        p().retire(i, false);
    }
}

fn retarget(rng: &mut Rng) {
    let Some(i) = p().pick_reg(rng, |r| !r.wild) else { return };
    let (handle, what, mode, period) = (p().reg(i).handle, p().reg(i).what, p().reg(i).mode, p().reg(i).period);
    let old = p().reg(i).aim;
    let new = p().aim(rng, what, mode, period);
    let target = p().target(new);
    let (expected, drained) = (ownership(p().reg(i)), p().reg(i).drained);
    p().reg(i).busy += 1;
    p().reg(i).alone = true;
    p().reg(i).arming(NEVER, true);
    let mark = p().count(p().reg(i));
    let _ = mark;
    let before = snapshot(rng);
    // SAFETY: a target of ours.
    let (r, hit) =
        api(|| format!("bell_retarget({handle:#x}, {new:?})"), |b| unsafe { bell_retarget(b, handle, &target) });
    if p().regs[i].is_none() {
        return;
    }
    same(before, r, "bell_retarget");
    p().reg(i).busy -= 1;
    // Or until its slot is known: the next target shall not be taken for it.
    p().reg(i).alone = r >= 0 && matches!(new, Aim::Slot(_));
    if r >= 0 {
        let unsure = what == What::Fd && hit > 0;
        if expected.is_some_and(|e| e != r && what != What::Fd && what != What::Timeout) && !unsure {
            violation(format!("bell_retarget({handle:#x}) returned {r}, expected {expected:?}"));
        }
        p().replaced(old, Some(r == BELL_CANCELLED as i32), false);
        p().reg(i).aim = new;
        p().reg(i).forget_drain(drained);
        p().reg(i).mark = 0;
        p().reg(i).order = 0;
        p().reg(i).vague |= what == What::Fd && matches!(old, Aim::Poll | Aim::Queue(_));
        if let Aim::Slot(_) = new {
            let mut slot = ptr::null_mut();
            // SAFETY: a pointer of ours.
            let mapped = unsafe { bell_slot_map(p().bell, handle, &mut slot) };
            p().reg(i).alone = false;
            if mapped == BELL_E_STALE && p().reg(i).auto {
                return p().retire(i, false); // what its old target has not shown was told to the new one
            }
            p().reg(i).aim = Aim::Slot(slot.expose_provenance());
            p().reg(i).mark = p().count(p().reg(i));
            p().reg(i).sure &= p().alone(); // others may have driven meanwhile
        }
        let (chaos, result) = (p().config.chaos, r);
        // News that lay unseen is told to the new target: what is armed is not certain.
        let r = p().reg(i);
        let refused = chaos && r.what == What::Fd && r.mode == BELL_EDGE;
        r.sure =
            r.sure && !refused && matches!(old, Aim::Slot(_) | Aim::Futex(_) | Aim::WakeFd(..) | Aim::Mvar(Some(_)));
        r.credits += 1;
        r.sure &= result == BELL_CANCELLED as i32 || p().alone();
        let r = p().reg(i);
        if r.period > 0 && r.deadline <= with(|w| w.highest(r.clock)) {
            let missed = (with(|w| w.highest(r.clock)) - r.deadline) / r.period + 1;
            r.deadline = r.deadline.saturating_add(r.period.saturating_mul(missed)).min(NEVER - 1);
            r.lapsed = true;
        }
        if r.what == What::User {
            r.undelivered_posts = false;
        }
    } else {
        p().give_back(new);
        let closed = p().reg(i).closed && r == BELL_E_CLOSED;
        if p().alone() && hit == 0 && !closed && !(p().reg(i).auto && r == BELL_E_STALE) {
            violation(format!("bell_retarget({handle:#x}): {r}"));
        }
    }
}

fn update(rng: &mut Rng) {
    let Some(i) = p().pick_shared(rng, |r| r.what != What::User) else { return };
    let clock = p().reg(i).clock;
    let deadline = if rng.chance(150) { NEVER } else { deadline(rng, clock) };
    update_to(i, deadline, rng);
}

fn update_to(i: usize, deadline: i64, rng: &mut Rng) {
    let handle = p().reg(i).handle;
    let before = snapshot(rng);
    p().reg(i).busy += 1;
    p().reg(i).arming(deadline, deadline == NEVER);
    let (r, hit) =
        api(|| format!("bell_update_timeout({handle:#x}, {deadline})"), |b| bell_update_timeout(b, handle, deadline));
    if p().regs[i].is_none() {
        return;
    }
    p().reg(i).busy -= 1;
    same(before, r, "bell_update_timeout");
    let me = p();
    me.orders += 1;
    let order = me.orders;
    let reg = me.reg(i);
    let now = with(|w| w.true_clock(reg.clock));
    reg.vague |= reg.what == What::Fd && (reg.lapsed || reg.deadline <= now || deadline <= now);
    reg.lapsed |= reg.deadline <= now;
    if r == 0 {
        if reg.what == What::Timeout && deadline == NEVER {
            reg.sure = false;
        } else if reg.what == What::Timeout {
            if reg.is_listed() {
                reg.credits += 1;
            } else {
                reg.credits = 1;
            }
            reg.sure = true;
        }
        let _ = order;
        (reg.deadline, reg.order) = (deadline, 0);
    } else if r != BELL_FIRED && r != BELL_E_CLOSED && hit == 0 && p().alone() && !p().reg(i).wild && !p().reg(i).auto {
        violation(format!("bell_update_timeout({handle:#x}): {r}"));
    } else if r == BELL_E_CLOSED && p().alone() && !p().reg(i).closed && !p().reg(i).wild {
        violation(format!("bell_update_timeout({handle:#x}): CLOSED"));
    }
}

fn share(rng: &mut Rng) {
    let Some(i) = p().pick_reg(rng, |r| r.what == What::Timeout) else { return };
    let (handle, period, auto) = (p().reg(i).handle, p().reg(i).period, p().reg(i).auto);
    // Kept as long as the player: another thread may end the registration while a step is at it.
    p().deadline_words.push(Box::new(AtomicI64::new(77)));
    let Some(word) = p().deadline_words.last() else { return };
    let at = word.as_ptr();
    let before = snapshot(rng);
    p().reg(i).busy += 1;
    let (r, hit) = api(|| format!("bell_share_deadline({handle:#x})"), |b| bell_share_deadline(b, handle, at));
    if p().regs[i].is_none() {
        return;
    }
    p().reg(i).busy -= 1;
    same(before, r, "bell_share_deadline");
    if r == 0 {
        let told = p().is_told(p().reg(i));
        let reg = p().reg(i);
        let first = reg.word == 0;
        reg.word = at.expose_provenance();
        let there = word.load(SeqCst);
        let sure = p().alone() && !told && !p().reg(i).is_listed() && p().reg(i).sure;
        if sure && first && there != p().reg(i).deadline {
            violation(format!("bell_share_deadline({handle:#x}): {there}, expected {}", p().reg(i).deadline));
        }
    } else if word.load(SeqCst) != 77 {
        violation(format!("bell_share_deadline({handle:#x}): {r}, and the word was written"));
    } else if !(period > 0 && r == EINVAL) && hit == 0 && p().alone() && !auto {
        violation(format!("bell_share_deadline({handle:#x}): {r}"));
    }
}

/// The owner of a shared deadline moves it, where it is certain that it has not fired: later; or earlier, which may be
/// seen when the time before has come.
fn store(rng: &mut Rng) {
    let Some(i) = p().pick_reg(rng, |r| r.word != 0 && r.deadline != NEVER) else { return };
    let r = p().reg(i);
    let (at, now, clock) = (r.word, r.deadline, r.clock);
    let ahead = now > with(|w| w.highest(clock));
    let seen = p().alone() && !p().reg(i).is_listed() && p().reg(i).sure && !p().is_told(p().reg(i));
    if !ahead && !seen {
        return;
    }
    let new = deadline(rng, clock);
    env("store", i as i32, new);
    // SAFETY: a word of `deadline_words`.
    unsafe { (*ptr::with_exposed_provenance::<AtomicI64>(at)).store(new, SeqCst) };
    p().stores += 1;
    let r = p().reg(i);
    r.order = 0;
    if new >= r.deadline {
        r.deadline = new;
    } else {
        r.ever.earliest = r.ever.earliest.min(new);
        r.credits += 1;
        if rng.chance(500) {
            update_to(i, deadline(rng, clock), rng);
        }
    }
}

fn get(rng: &mut Rng) {
    let Some(i) = p().pick_shared(rng, |r| r.what != What::User) else { return };
    let handle = p().reg(i).handle;
    let mut at = 0;
    // SAFETY: a pointer of ours.
    let (r, _) = api(|| format!("bell_timeout_get({handle:#x})"), |b| unsafe { bell_timeout_get(b, handle, &mut at) });
    if p().alone() && r == 0 {
        let reg = p().reg(i);
        let spent = reg.aim == Aim::Mvar(None);
        let known =
            !spent && !reg.wild && !reg.vague && !reg.is_listed() && reg.period == 0 && !p().is_told(p().reg(i));
        let reg = p().reg(i);
        if known && at != reg.deadline && reg.sure && reg.word == 0 {
            violation(format!("bell_timeout_get({handle:#x}): {at}, expected {}", reg.deadline));
        }
    }
}

fn post(rng: &mut Rng) {
    if let Some(i) = p().pick_reg(rng, |r| r.what == What::User) {
        post_to(i, rng);
    }
}

fn post_to(i: usize, rng: &mut Rng) {
    let handle = p().reg(i).handle;
    let bits = 1u32 << rng.below(8);
    p().reg(i).posted |= bits as u64;
    p().reg(i).undelivered_posts = true;
    let (r, hit) = api(|| format!("bell_post({handle:#x}, {bits:#x})"), |b| bell_post(b, handle, bits));
    if r != 0 && hit == 0 && p().alone() {
        violation(format!("bell_post({handle:#x}): {r}"));
    }
    if let Some(reg) = p().regs[i].as_mut().filter(|reg| r != 0 && reg.handle == handle && !p().alone()) {
        reg.undelivered_posts = false;
    }
}

fn wake(rng: &mut Rng) {
    wake_shard(rng.below(p().config.shards as usize));
}

fn wake_shard(shard: usize) {
    // Before the call: the poll that it ends may come back first.
    let before = std::mem::replace(&mut p().woken[shard], true);
    let (r, hit) = api(|| format!("bell_wake({shard})"), |b| bell_wake(b, shard as u32));
    if r < 0 {
        p().woken[shard] = before;
    }
    if r == 0 {
    } else if hit == 0 && p().alone() {
        violation(format!("bell_wake: {r}"));
    }
}

const NO_EVENT: bell_event = bell_event { handle: 0, user_data: 0, ready: 0, status: 0, data: 0 };

/// How many it gave.
pub fn poll(shard: usize, most: usize, timeout: i64) -> i32 {
    let mut events = [NO_EVENT; 64];
    p().driving = shard;
    p().polling = true;
    with(|w| w.idle = false);
    let began = p().serial;
    let out = events.as_mut_ptr();
    let start = with(|w| w.true_clock(0));
    // SAFETY: 64 events of ours.
    waits_for(Some(Wait::Poll(shard)));
    let (r, hit) = api(
        || format!("bell_poll({shard}, {most}, {timeout})"),
        |b| unsafe { bell_poll(b, shard as u32, out, most as u32, timeout) },
    );
    p().polling = false;
    let alone = p().alone();
    if r >= 0 {
        if r as usize > most {
            violation(format!("bell_poll gave {r} of {most}"));
            return r;
        }
        if r == 0 && alone && timeout != 0 && timeout != NEVER && !p().woken[shard] {
            let stats = with(|w| w.true_clock(0)) - start;
            let _ = stats;
        }
        p().woken[shard] = false;
        see(&events[..r as usize], None, began);
    } else if alone && !(r == EINTR && (with(|w| w.idle) || hit > 0)) && hit == 0 {
        violation(format!("bell_poll: {r}"));
    }
    r
}

fn looks_at(q: usize) {
    p().looks += 1;
    p().queues[q].looked = p().looks;
}

fn drain(q: usize, most: usize) -> i32 {
    looks_at(q);
    let mut events = [NO_EVENT; 64];
    let handle = p().queues[q].handle;
    let began = p().serial;
    let out = events.as_mut_ptr();
    // SAFETY: 64 events of ours.
    let (r, _) =
        api(|| format!("bell_queue_drain({q}, {most})"), |b| unsafe { bell_queue_drain(b, handle, out, most as u32) });
    if r < 0 {
        if p().queues[q].live && p().alone() {
            violation(format!("bell_queue_drain: {r}"));
        }
        return 0;
    }
    let members = p().live().filter(|i| p().reg(*i).aim == Aim::Queue(q)).count();
    if p().alone() && r as usize > members {
        violation(format!("a queue of {members} registrations gave {r} pieces of news"));
    }
    see(&events[..r as usize], Some(q), began);
    r
}

fn queue_wait(rng: &mut Rng) {
    let Some(q) = p().pick_queue(rng) else { return };
    let until = match rng.below(4) {
        0 => 0,
        1 => NEVER,
        _ => with(|w| w.time).saturating_add(1_000_000),
    };
    let room = if p().config.crowds { rng.pick(&[1, 1, 2, 64]) } else { 64 };
    wait_for_queue(q, room, until);
}

fn wait_for_queue(q: usize, room: usize, until: i64) {
    let mut events = [NO_EVENT; 64];
    let handle = p().queues[q].handle;
    let began = p().serial;
    p().driving = p().queues[q].shard;
    with(|w| w.idle = false);
    let out = events.as_mut_ptr();
    let home = p().queues[q].shard;
    waits_for(Some(Wait::Queue(q, home)));
    looks_at(q);
    // SAFETY: 64 events of ours.
    let (r, hit) = api(
        || format!("bell_queue_wait({q}, {room}, {until})"),
        |b| unsafe { bell_queue_wait(b, handle, out, room as u32, until) },
    );
    if r > room as i32 {
        return violation(format!("bell_queue_wait gave {r} of {room}"));
    }
    if r > 0 {
        return see(&events[..r as usize], Some(q), began);
    }
    let gone = !p().alone() && (p().queues[q].ending || p().destroying);
    let ended = matches!(r, BELL_E_STALE | BELL_E_CANCELLED) && gone || r == BELL_E_CLOSED && p().destroying;
    let interrupted = r == EINTR && (with(|w| w.idle) || !p().alone());
    if !(r == ETIMEDOUT && is_over(until) || interrupted || ended) && hit == 0 {
        violation(format!("bell_queue_wait: {r}"));
    }
}

fn is_over(until: i64) -> bool {
    until != NEVER && with(|w| w.time) >= until
}

fn consume(rng: &mut Rng) {
    let Some(i) = p().pick_shared(rng, |r| matches!(r.aim, Aim::Slot(_) | Aim::Futex(_) | Aim::WakeFd(..))) else {
        return;
    };
    let handle = p().reg(i).handle;
    p().observe();
    if p().regs[i].is_none() {
        return;
    }
    match p().reg(i).aim {
        Aim::Slot(_) => {
            let direction = rng.pick(&[BELL_READ, BELL_WRITE]);
            let (r, _) = api(
                || format!("bell_slot_consume({handle:#x}, {direction})"),
                |b| bell_slot_consume(b, handle, direction),
            );
            taken(i, r);
        }
        Aim::Futex(w) => {
            let got = p().words.at(w).fetch_and(!BELL_NEWS, SeqCst) & (BELL_NEWS | BELL_CLOSED | BELL_CANCELLED);
            taken(i, got as i32);
        }
        Aim::WakeFd(fd, life) => {
            if with(|w| w.life_of(fd)) == life {
                let _ = with(|w| w.read(fd, 8));
                let alone = p().alone();
                let r = p().reg(i);
                r.mark = 0;
                r.sure &= alone; // what was counted there is forgotten
            }
        }
        _ => {}
    }
}

/// Whoever is alone has seen it in the word.
fn posts_taken(i: usize, bits: i32) {
    if let Some(r) = p().regs[i].as_mut().filter(|_| !p().alone() && bits > 0 && bits as u32 & BELL_USER != 0) {
        r.undelivered_posts = false;
    }
}

/// Bits from a word.
fn taken(i: usize, bits: i32) {
    posts_taken(i, bits);
    if bits < 0 {
        if p().alone() {
            violation(format!("bell_slot_consume: {bits}"));
        }
        return;
    }
    let bits = bits as u32;
    let Some(r) = p().regs[i].as_ref() else { return };
    if r.wild || !p().alone() || r.what != What::Fd || r.always {
        return;
    }
    if bits & BELL_CLOSED != 0 && !r.closed {
        violation(format!("{:#x}: CLOSED, and nobody has closed it", r.handle));
    }
    let real = bits & !(BELL_TIMEOUT | BELL_CLOSED | BELL_CANCELLED) & !(if p().config.chaos { BELL_ERR } else { 0 });
    // Words gather: what they hold may be from earlier armings.
    if let (Some(was), false) = (true_since(r.fd, r.life, 0), r.closed) {
        if real & !was != 0 {
            violation(format!("{:#x} fd {}: bits {real:#x} that were never true", r.handle, r.fd));
        }
    }
}

fn slot_wait(rng: &mut Rng) {
    let Some(i) = p().pick_shared(rng, |r| matches!(r.aim, Aim::Slot(_))) else { return };
    let direction = rng.pick(&[BELL_READ, BELL_WRITE]);
    let until = match rng.below(4) {
        0 => 0,
        1 => NEVER,
        _ => with(|w| w.time).saturating_add(1_000_000),
    };
    let check = rng.chance(200);
    p().observe();
    if p().regs[i].is_some() {
        wait_for_slot(i, direction, until, check);
    }
}

fn wait_for_slot(i: usize, direction: u32, until: i64, check: bool) {
    let handle = p().reg(i).handle;
    p().driving = p().reg(i).shard;
    with(|w| w.idle = false);
    let text = || format!("bell_slot_wait({handle:#x}, {direction}, {until}, {check})");
    let shard = p().reg(i).shard;
    waits_for(Some(Wait::Slot(i, direction, shard)));
    let (r, hit) = api(text, |b| bell_slot_wait(b, handle, direction, until, check as u32));
    if r > 0 {
        if !check {
            taken(i, r);
        }
        return posts_taken(i, r);
    }
    let Some(reg) = p().regs[i].as_ref().filter(|r| r.handle == handle) else { return };
    let alone = p().alone();
    // It has ended, or has another target.
    let gone = !alone && (reg.ended != 0 || reg.busy > 0 || reg.ever.changed || p().destroying);
    let excused = r == ETIMEDOUT && is_over(until)
        || r == EINTR && (with(|w| w.idle) || !alone)
        || gone && matches!(r, BELL_E_STALE | BELL_E_CANCELLED | EINVAL)
        || r == BELL_E_CLOSED && p().destroying
        || reg.auto && matches!(r, BELL_E_STALE | BELL_E_CANCELLED)
        || check && (reg.wild || reg.closed) && r == EBADF;
    if !excused && hit == 0 {
        violation(format!("bell_slot_wait({handle:#x}): {r}"));
    }
}

fn queue_create(rng: &mut Rng) {
    if p().queues.iter().filter(|q| q.live).count() > 3 {
        return;
    }
    let shard = rng.below(p().config.shards as usize);
    let mut handle = 0;
    let before = snapshot(rng);
    // SAFETY: pointers of ours.
    let (r, hit) = api(
        || "bell_queue_create".to_owned(),
        |b| unsafe { bell_queue_create(b, shard as u32, ptr::null(), &mut handle) },
    );
    same(before, r, "bell_queue_create");
    if r == 0 {
        p().queues.push(QueueModel { handle, shard, live: true, ending: false, doorbell: None, looked: 0 });
        if !p().handles.insert(handle) {
            violation(format!("handle {handle:#x} was given out twice"));
        }
    } else if hit == 0 && p().alone() {
        violation(format!("bell_queue_create: {r}"));
    }
}

fn doorbell(rng: &mut Rng) {
    let Some(q) = p().pick_queue(rng) else { return };
    let handle = p().queues[q].handle;
    p().stable.push(Stable::Given);
    let id = p().stable.len() - 1;
    let aim = Aim::Mvar(Some(id));
    let target = p().target(aim);
    // SAFETY: a target of ours.
    let (r, _) = api(|| format!("bell_retarget(queue {q})"), |b| unsafe { bell_retarget(b, handle, &target) });
    let old = p().queues[q].doorbell;
    if r < 0 {
        return p().give_back(aim);
    }
    if let Some(old) = old {
        p().replaced(old, Some(r == BELL_CANCELLED as i32), false);
    } else if r != BELL_FIRED && p().alone() {
        violation(format!("bell_retarget of a queue without a doorbell: {r}"));
    }
    p().queues[q].doorbell = Some(aim);
}

fn queue_destroy(rng: &mut Rng) {
    if let Some(q) = p().pick_queue(rng) {
        destroy_queue(q);
    }
}

fn destroy_queue(q: usize) {
    let handle = p().queues[q].handle;
    p().queues[q].ending = true;
    let members = p().live().filter(|i| p().reg(*i).aim == Aim::Queue(q)).count();
    let (r, _) = api(|| format!("bell_queue_destroy({q})"), |b| bell_queue_destroy(b, handle, BELL_SYNC));
    if p().alone() && (r < 0) != (members > 0) {
        violation(format!("bell_queue_destroy with {members} registrations: {r}"));
    }
    p().queues[q].ending = r >= 0;
    if r >= 0 {
        p().queues[q].live = false;
        if let Some(old) = p().queues[q].doorbell.take() {
            p().replaced(old, Some(r == BELL_CANCELLED as i32), true);
        }
    }
}

// ---- looking at everything

fn dump() -> String {
    with(|w| w.text = Some(Vec::new()));
    let bell = p().bell;
    bell_dump(bell, TEXT_FD);
    with(|w| String::from_utf8(w.text.take().unwrap_or_default()).unwrap_or_default())
}
/// Now and then, before a call: a call that fails must leave all as it is.
fn snapshot(rng: &mut Rng) -> Option<String> {
    (p().alone() && p().config.faulty && rng.chance(100)).then(dump)
}
fn same(before: Option<String>, r: i32, what: &str) {
    let Some(before) = before.filter(|_| r < 0) else { return };
    let after = dump();
    if before != after && !p().live().any(|i| p().reg(i).wild) {
        let differ = before.lines().zip(after.lines()).find(|(a, b)| a != b);
        violation(format!("{what} failed ({r}) and has changed something: {differ:?}"));
    }
}

fn any_wild() -> bool {
    p().live().any(|i| {
        let r = p().reg(i);
        r.wild && !r.closed
    })
}

fn verify() {
    if p().alone() && !any_wild() {
        agree();
    }
}
/// The kernel's set and the registry.
fn agree() {
    let bell = p().bell;
    let wrong = bell_verify(bell);
    if wrong != 0 {
        let text = dump();
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("wrong")).collect();
        violation(format!("bell_verify: {wrong}: {}", lines.join("; ")));
    }
}

/// Faults off, and two turns for each shard: what was due must have been told.
fn settle() {
    if !p().alone() {
        return;
    }
    let faulty = std::mem::replace(&mut p().config.faulty, false);
    p().observe();
    let all: Vec<usize> = p().live().collect();
    let due: Vec<usize> = all.into_iter().filter(|i| p().is_due(p().reg(*i))).collect();
    let now = with(|w| w.read_clock(0));
    // Of these readiness alone is not enough.
    let late = |r: &Reg| {
        r.what == What::Fd && r.mode != BELL_ONESHOT && r.is_listed() && !r.vague && !r.lapsed && {
            r.deadline < sched::END_OF_TIME && r.deadline.saturating_add(r.slack) <= now
        }
    };
    let late: Vec<(usize, u64)> = due.iter().filter(|i| late(p().reg(**i))).map(|i| (*i, p().reg(*i).handle)).collect();
    for i in p().live().collect::<Vec<_>>() {
        p().reg(i).seen = false;
    }
    let armed = p().live().count();
    let most = if p().config.max_events == 0 { 1024 } else { p().config.max_events as usize };
    let rounds = 2 + 2 * armed.div_ceil(most);
    for _ in 0..2 {
        for shard in 0..p().config.shards as usize {
            for _ in 0..rounds {
                poll(shard, 64, 0);
                p().observe();
            }
        }
        for q in 0..p().queues.len() {
            if p().queues[q].live {
                drain(q, 64);
            }
        }
    }
    p().settled += 1;
    for i in due {
        let Some(r) = p().regs[i].as_ref() else { continue };
        if !r.seen {
            violation(format!(
                "{:?} {:#x} fd {} mode {} {:?} deadline {} was due, and {rounds} turns have not told it",
                r.what, r.handle, r.fd, r.mode, r.aim, r.deadline
            ));
        }
    }
    for (i, handle) in late {
        let Some(r) = p().regs[i].as_ref().filter(|r| r.handle == handle && r.sure) else { continue };
        if r.deadline != NEVER {
            violation(format!("{handle:#x} fd {} mode {} {:?}: its deadline was not told", r.fd, r.mode, r.aim));
        }
    }
    verify();
    still();
    p().config.faulty = faulty;
}

/// A world where nothing happens wakes nobody: at most two empty wake-ups in a second.
fn still() {
    if with(|w| w.time) > NEVER / 2 {
        return;
    }
    let bell = p().bell;
    // SAFETY: plain numbers.
    let mut before: bell_counters = unsafe { std::mem::zeroed() };
    before.size = size_of::<bell_counters>() as u32;
    let mut after = before;
    let shard = p().settled as usize % p().config.shards as usize;
    // SAFETY: structs of ours.
    unsafe { bell_stats(bell, shard as u32, &mut before) };
    let end = with(|w| w.time) + 1_000_000_000;
    let mut calls = 0;
    while calls < 8 && with(|w| w.time) < end {
        poll(shard, 64, end - with(|w| w.time));
        p().observe();
        calls += 1;
    }
    // SAFETY: as above.
    unsafe { bell_stats(bell, shard as u32, &mut after) };
    let happened = after.events - before.events + after.timers_fired - before.timers_fired + after.stale_dropped
        - before.stale_dropped
        + after.spurious
        - before.spurious;
    let waits = after.kernel_waits - before.kernel_waits;
    // Of each clock the earliest deadline may have been moved later: the old time ends one sleep. The first is among the two.
    let old_times = (after.timers_moved + p().stores).min(2);
    if waits > 2 + old_times + calls + 2 * happened {
        violation(format!("a still world: {waits} waits in a second, {calls} calls, {happened} events"));
    }
}

/// Arguments that no caller should give: a code, and nothing else.
fn misuse(rng: &mut Rng) {
    let handle = match rng.below(3) {
        0 => rng.next(),
        1 => rng.next() >> 2,
        _ => {
            let all = p().live().collect::<Vec<_>>();
            // One bit off may be what another thread is just being given.
            let none = all.is_empty() || !p().alone();
            if none { 7 } else { p().reg(rng.pick(&all)).handle ^ 1 << rng.below(62) }
        }
    };
    if p().handles.contains(&handle) {
        return;
    }
    let (r, _) = match rng.below(6) {
        0 => api(|| format!("bell_unregister({handle:#x})"), |b| bell_unregister(b, handle, 0)),
        // SAFETY: a null target keeps the one there is.
        1 => api(|| format!("bell_rearm({handle:#x})"), |b| unsafe { bell_rearm(b, handle, ptr::null(), NEVER) }),
        2 => api(|| format!("bell_modify({handle:#x})"), |b| bell_modify(b, handle, BELL_READ, BELL_ONESHOT)),
        3 => api(|| format!("bell_post({handle:#x})"), |b| bell_post(b, handle, 1)),
        4 => api(|| format!("bell_update_timeout({handle:#x})"), |b| bell_update_timeout(b, handle, 5)),
        _ => api(|| format!("bell_slot_consume({handle:#x})"), |b| bell_slot_consume(b, handle, BELL_READ)),
    };
    if !matches!(r, BELL_E_STALE | EINVAL) {
        violation(format!("a handle that never was, {handle:#x}: {r}"));
    }
}

/// This process becomes the child; the parent keeps all descriptions, and its sets must stay as they are.
fn fork(_rng: &mut Rng) {
    if !p().alone() || p().forks > 0 || any_wild() || !p().closing.is_empty() {
        return;
    }
    p().forks += 1;
    let files: Vec<u32> = with(|w| {
        let mut files: Vec<u32> = w.open_numbers().filter_map(|fd| w.file_of(fd).ok()).collect();
        files.sort();
        files.dedup();
        files.iter().for_each(|f| w.hold(*f));
        files
    });
    p().parent = with(|w| {
        let epolls = files.iter().filter(|f| matches!(w.object(**f), Object::Epoll(_)));
        epolls.map(|f| (*f, w.files[*f as usize].life, w.entries(*f))).collect()
    });
    // What the kernel does to a page that is marked so.
    for page in with(|w| w.wiped.clone()) {
        // SAFETY: a page of a live manager, used as an atomic word.
        unsafe { (*ptr::with_exposed_provenance::<std::sync::atomic::AtomicU32>(page)).store(0, SeqCst) };
    }
    let bell = p().bell;
    let some = p().live().next().map_or(1 << 58, |i| p().reg(i).handle);
    for r in [bell_wake(bell, 0), bell_unregister(bell, some, 0), bell_verify(bell)] {
        if r != BELL_E_FORKED {
            violation(format!("a call in a forked child: {r}"));
        }
    }
    loop {
        let (r, hit) = api(|| "bell_after_fork_child".to_owned(), |b| bell_after_fork_child(b, 0));
        if r == 0 {
            break;
        }
        if hit == 0 && p().alone() {
            return violation(format!("bell_after_fork_child: {r}"));
        }
    }
    p().woken = [false; 4];
    p().nested = [false; 4];
    check_parent();
}

/// The parent's sets, which it shares with nobody who may edit them.
fn check_parent() {
    for (file, life, entries) in &p().parent {
        let now = with(|w| if w.files[*file as usize].life == *life { w.entries(*file) } else { Vec::new() });
        let gone = entries.iter().find(|e| !now.iter().any(|n| (n.file, n.fd, n.data) == (e.file, e.fd, e.data)));
        if let Some(gone) = gone {
            return violation(format!("the child has taken fd {} out of its parent's set", gone.fd));
        }
        if now.len() > entries.len() {
            return violation("the child has put an fd into its parent's set".to_owned());
        }
    }
}

// ---- the end

fn finish() {
    if p().alone() {
        settle();
        p().check_spent();
        p().words.check();
        check_parent();
        destroy_alone();
    } else {
        finish_threads();
    }
}

fn destroy_alone() {
    if sched::has_violation() {
        return;
    }
    let everything = p().serial % 2 == 0;
    if everything {
        for i in p().live().collect::<Vec<_>>() {
            let handle = p().reg(i).handle;
            let aim = p().reg(i).aim;
            let r = bell_unregister(p().bell, handle, BELL_SYNC);
            if r < 0 && !p().reg(i).auto {
                violation(format!("bell_unregister({handle:#x}) at the end: {r}"));
            }
            if r >= 0 {
                p().replaced(aim, Some(r == BELL_CANCELLED as i32), true);
            }
        }
        // SAFETY: plain numbers.
        let mut stats: bell_counters = unsafe { std::mem::zeroed() };
        stats.size = size_of::<bell_counters>() as u32;
        // SAFETY: a struct of ours.
        unsafe { bell_stats(p().bell, BELL_SHARD_ANY, &mut stats) };
        if (stats.fds, stats.timeouts, stats.users) != (0, 0, 0) {
            violation(format!(
                "all unregistered, and left: {} fds, {} timeouts, {} users",
                stats.fds, stats.timeouts, stats.users
            ));
        }
    }
    let bell = p().bell;
    let (r, _) = api(|| "bell_destroy".to_owned(), |b| bell_destroy(b, 0));
    if r != 0 {
        return violation(format!("bell_destroy: {r}"));
    }
    gone(bell);
}

/// The manager is destroyed: nothing of it is left.
pub fn gone(bell: *mut bell_t) {
    if bell_wake(bell, 0) != BELL_E_STALE {
        violation("a destroyed manager answers".to_owned());
    }
    for (id, state) in p().stable.iter().enumerate() {
        if *state == Stable::Given {
            violation(format!("StablePtr {id} was never put and never given back"));
        }
    }
    let kept: Vec<i32> = with(|w| w.open_numbers().filter(|fd| w.is_ours(*fd)).collect());
    if !kept.is_empty() {
        violation(format!("destroyed, and fds are left: {kept:?}"));
    }
    let wiped = with(|w| w.wiped.len());
    if wiped != 0 {
        violation("destroyed, and its page is left".to_owned());
    }
}

/// Chosen such that no seed of seeds.txt from before there were crowds has one.
const CROWDS: u64 = 0xbe69_9cd4_d8f7_8419;

/// The same of shared deadlines.
const SHARES: u64 = 0x1699_4f39_45a7_c84d;

/// The whole of a run, from its seed.
pub fn configure(seed: u64) -> (Config, Box<World>, Vec<(Op, u32)>) {
    let mut rng = Rng(seed);
    let mut world = Box::new(World::new(rng.next()));
    let shift = 20 + rng.below(42);
    world.time = match rng.below(4) {
        0 => 1,
        1 => (1i64 << shift) - 1 - rng.below(3_000_000) as i64,
        2 => 1i64 << shift,
        _ => rng.pick(&[i32::MAX as i64, u32::MAX as i64, 1_073_000_000]) * 1_000_000 - 500_000,
    };
    world.time = world.time.max(1);
    world.ahead = [0, rng.below(1000) as i64 * 1_000_000_000, 1_700_000_000_000_000_000];
    world.shy_pipes = rng.chance(300);
    world.no_pwait2 = rng.pick(&[0, 0, 0, libc::ENOSYS, libc::EPERM]);
    let faulty = rng.chance(600);
    if faulty {
        for (f, _) in &FAULTS[..Fault::NoAlloc as usize] {
            if rng.chance(500) {
                world.rates[*f as usize] = rng.pick(&[10, 50, 200]);
            }
        }
        if rng.chance(200) {
            world.grain = rng.pick(&[1_000, 4_000_000]);
        }
    }
    let threads = if rng.chance(300) { 2 + rng.below(6) } else { 0 };
    let crowds = threads > 0 && Rng(seed ^ CROWDS).chance(400);
    let shares = Rng(seed ^ SHARES).chance(200);
    let shards = rng.pick(&[1, 1, 2, 3]);
    let library_threads = if threads > 0 && rng.chance(300) { shards } else { 0 };
    // Drawn apart, so that seeds keep their meaning.
    let mut more = Rng(seed ^ 0x6a09_e667_f3bc_c908);
    if more.chance(500) {
        world.lowest_ours = super::kernel::USERS;
    }
    if faulty && more.chance(500) {
        world.rates[Fault::NoAlloc as usize] = more.pick(&[10, 50, 200]);
    }
    let config = Config {
        seed,
        threads,
        shards,
        library_threads,
        max_events: rng.pick(&[1, 2, 8, 64, 64]),
        slack: rng.pick(&[0, 0, 0, 1_000_000]),
        faulty,
        chaos: faulty,
        crowds,
    };
    let weights = OPS
        .iter()
        .map(|(op, w)| {
            let mut w = w * rng.pick(&[1, 4, 4, 4, 8, 16]);
            if rng.chance(80) || matches!(op, Op::Chase | Op::Overtake) && threads == 0 {
                w = 0;
            }
            if matches!(op, Op::CloseBehind | Op::CloseInCtl) && !rng.chance(300) {
                w = 0;
            }
            if crowds && matches!(op, Op::QueueCrowd | Op::SlotCrowd) {
                w = rng.pick(&[4, 16]);
            }
            if shares && matches!(op, Op::Share | Op::Store) {
                w = rng.pick(&[16, 64]);
            }
            (*op, w)
        })
        .collect();
    (config, world, weights)
}
