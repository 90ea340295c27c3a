//! The reference model: what was asked, since when, and what may therefore be told. It knows nothing of how the library
//! works; what it holds against the library is the manual (`include/doorbell.h`) and what the simulated kernel knows.
use super::kernel::{ERR, HUP, IN, OUT, PRI, RDHUP};
use super::sched::{violation, with};
use crate::abi::*;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    Fd,
    Timeout,
    User,
}

/// A target, as the model gave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aim {
    Poll,
    Slot(usize),
    Futex(usize),
    WakeFd(i32, u64),
    Queue(usize),
    /// `None`: it was delivered.
    Mvar(Option<usize>),
}

pub struct Reg {
    pub what: What,
    pub handle: u64,
    pub data: u64,
    pub shard: usize,
    pub fd: i32,
    /// Of the file that the fd meant.
    pub life: u64,
    pub wants: u32,
    /// With those that a modify has replaced, as long as news of them may lie undrained.
    pub wanted: u32,
    pub mode: u32,
    pub aim: Aim,
    pub auto: bool,
    pub always: bool,
    pub exclusive: bool,
    /// The instant since which bits count.
    pub since: u64,
    /// When it was told last, or armed; what of the fd was true then.
    pub told: u64,
    pub at_arm: u32,
    /// Deliveries that may still come; it is certainly armed, or told and not seen.
    pub credits: u32,
    pub sure: bool,
    /// Its words, or its wake fd's count, when it was armed.
    pub mark: u64,
    pub closed: bool,
    /// Its number was closed behind the library's back.
    pub wild: bool,
    /// Then: what was ever true of what the number has meant.
    pub last: u32,
    pub deadline: i64,
    /// Address of the word where it is, if it is shared.
    pub word: usize,
    pub clock: usize,
    pub period: i64,
    pub slack: i64,
    /// Counts armings of all registrations.
    pub order: u64,
    pub posted: u64,
    pub undelivered_posts: bool,
    /// By which drain it was told last, if it was not armed since.
    pub drained: u64,
    /// A deadline had passed when it was moved: its news may lie undrained.
    pub lapsed: bool,
    /// Its mode was changed when it may have been told, and nobody knows if it still has a deadline.
    pub vague: bool,
    /// Seen since the last settling began.
    pub seen: bool,
    /// A call on it is under way in some thread.
    pub busy: u32,
    /// By a call that replaces its target.
    pub alone: bool,
    /// Calls made before this was unregistered may still tell of it.
    pub ended: u64,
    /// For runs with threads, where nobody knows what exactly has happened when: what was ever asked of it, from before
    /// the call that asks on.
    pub ever: Ever,
}

#[derive(Clone, Copy)]
pub struct Ever {
    /// The instant before it was registered, and the count of the player's doings.
    pub tick: u64,
    pub serial: u64,
    pub wants: u32,
    pub earliest: i64,
    pub arms: u64,
    pub heard: u64,
    pub shots: bool,
    /// It had another target, or was disarmed, or was modified.
    pub changed: bool,
}

impl Reg {
    /// A call that may arm it begins.
    pub fn arming(&mut self, deadline: i64, changed: bool) {
        self.ever.arms += 1;
        self.ever.earliest = self.ever.earliest.min(deadline);
        self.ever.changed |= changed;
    }
    /// It was armed. `drained`: as it was before the call; else it has been told in the meantime.
    pub fn forget_drain(&mut self, drained: u64) {
        if self.drained == drained {
            self.drained = 0;
        }
    }
    pub fn is_listed(&self) -> bool {
        matches!(self.aim, Aim::Poll | Aim::Queue(_))
    }
    pub fn is_one_shot(&self) -> bool {
        match self.what {
            What::Fd => self.mode == BELL_ONESHOT,
            What::Timeout => self.period == 0,
            What::User => false,
        }
    }
}

/// Kernel bits as the interface names them.
pub fn ready_bits(mask: u32) -> u32 {
    let pairs =
        [(IN, BELL_READ), (OUT, BELL_WRITE), (PRI, BELL_PRI), (RDHUP, BELL_RDHUP), (HUP, BELL_HUP), (ERR, BELL_ERR)];
    pairs.iter().filter(|(k, _)| mask & k != 0).fold(0, |b, (_, r)| b | r)
}

/// What a registration with this interest may be told.
pub fn wants(interest: u32) -> u32 {
    let implied = if interest & BELL_READ != 0 { BELL_RDHUP } else { 0 };
    interest | implied | BELL_HUP | BELL_ERR
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stable {
    /// The library has it.
    Given,
    /// It was handed over by the library.
    Put,
    /// It is the caller's again.
    Back,
}

/// Words for the target FUTEX. One that is dead must not be touched any more.
pub struct Words {
    pub words: Vec<Box<AtomicU32>>,
    free: Vec<usize>,
    dead: Vec<usize>,
}

const DEAD: u32 = 0xdead_0000;

impl Words {
    pub fn new() -> Words {
        Words { words: Vec::new(), free: Vec::new(), dead: Vec::new() }
    }
    pub fn take(&mut self) -> usize {
        let i = self.free.pop().unwrap_or_else(|| {
            self.words.push(Box::new(AtomicU32::new(0)));
            self.words.len() - 1
        });
        self.words[i].store(0, SeqCst);
        i
    }
    pub fn at(&self, i: usize) -> &AtomicU32 {
        &self.words[i]
    }
    /// It could be unmapped now.
    pub fn kill(&mut self, i: usize) {
        self.words[i].store(DEAD, SeqCst);
        self.dead.push(i);
        if self.dead.len() > 32 {
            self.check();
            self.free.append(&mut self.dead);
        }
    }
    pub fn check(&self) {
        for i in &self.dead {
            let now = self.words[*i].load(SeqCst);
            if now != DEAD {
                violation(format!("word {i} was touched after a synchronous unregister: {now:#x}"));
            }
        }
    }
}

/// What was true of an fd at some instant since then, as the interface names it. 0: it means another file by now.
pub fn true_since(fd: i32, life: u64, tick: u64) -> Option<u32> {
    with(|w| match w.file_of(fd) {
        Ok(file) if w.files[file as usize].life == life => Some(ready_bits(w.true_since(file, tick))),
        _ => None,
    })
}
pub fn true_now(fd: i32, life: u64) -> Option<u32> {
    with(|w| match w.file_of(fd) {
        Ok(file) if w.files[file as usize].life == life => Some(ready_bits(w.mask(file))),
        _ => None,
    })
}
pub fn arrived_since(fd: i32, life: u64, tick: u64) -> u32 {
    with(|w| match w.file_of(fd) {
        Ok(file) if w.files[file as usize].life == life => ready_bits(w.arrived_since(file, tick)),
        _ => 0,
    })
}
