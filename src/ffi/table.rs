//! Which managers are alive in this process: what makes a `bell_t*` a number that can be checked.
//!
//! The number is serial << 9 | place << 1 | 1. It is odd, so it is no address of anything; the serial never comes
//! again, so a destroyed manager is told from the one that took its place.
//!
//! A call pins the manager. The pins of a place are counters, each with the serial beside the count in one word:
//!
//! ```text
//!  63     24 | 23   | 22  0
//!  serial    | open | calls inside
//! ```
//! | who | step |
//! |---|---|
//! | `insert` | publishes the manager, then writes its serial to all counters |
//! | a call | adds 1; what it read tells whether the serial was there: if not, takes the 1 back, STALE |
//! | `remove` | takes the serial away from all, then waits until all counts are 0 |
//!
//! Both are read-modify-writes of one word, so a call either counts before the serial goes, and is waited for, or finds
//! it gone. A stale number may count in the place of another manager for a moment; that only lets it wait.
use super::bell_t;
use crate::error::{Error, Result};
use crate::manager::Manager;
use crate::sync::StaticU64 as AtomicU64;
use std::ptr;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

const PLACES: usize = 256;
const FREE: u64 = 0;
/// Being created, or being destroyed.
const BUSY: u64 = 2;

struct Entry {
    /// The number while the manager lives: who changes it from that to `BUSY` destroys.
    tag: AtomicU64,
    manager: AtomicPtr<Manager>,
    /// Several, each with a cache line, so that threads on many CPUs do not fight for one.
    pins: [Pins; LINES],
}

/// With 8, each call of 64 threads waited for two lines of others: a fifth more for an event with a moved deadline
/// (`make sim-scale`).
const LINES: usize = 64;

#[repr(align(64))]
struct Pins(AtomicU64);

/// Where serial and open begin in a counter.
const SERIAL_AT: u32 = 23;
const COUNT: u64 = (1 << SERIAL_AT) - 1;

/// What a counter holds above the count while this manager lives.
fn opened(serial: u64) -> u64 {
    serial << 1 | 1
}

static TABLE: [Entry; PLACES] = [const {
    Entry {
        tag: AtomicU64::new(FREE),
        manager: AtomicPtr::new(ptr::null_mut()),
        pins: [const { Pins(AtomicU64::new(0)) }; LINES],
    }
}; PLACES];
static SERIAL: AtomicU64 = AtomicU64::new(1);

#[inline]
fn entry(bell: *mut bell_t) -> (&'static Entry, u64) {
    let tag = bell.addr() as u64;
    (&TABLE[(tag >> 1) as usize % PLACES], tag)
}

/// The manager, held: `remove` waits for the pin. Async-signal-safe.
#[inline]
pub fn with_pin<R>(bell: *mut bell_t, f: impl FnOnce(&Manager) -> Result<R>) -> Result<R> {
    let (entry, tag) = entry(bell);
    if tag & 1 == 0 {
        return Err(Error::STALE);
    }
    // Stacks of different threads are pages apart; with the guard page an odd number of them, for all usual sizes.
    let here = 0u8;
    let Pins(pins) = &entry.pins[((&raw const here).addr() >> 12) % LINES];
    let result = if pins.fetch_add(1, Acquire) >> SERIAL_AT == opened(tag >> 9) {
        // SAFETY: the manager is published before its serial, and freed by who has taken the serial away and then waited
        // for the pin.
        f(unsafe { &*entry.manager.load(Relaxed) })
    } else {
        Err(Error::STALE)
    };
    pins.fetch_sub(1, Release);
    result
}

impl Entry {
    fn is_pinned(&self) -> bool {
        self.pins.iter().any(|p| p.0.load(Acquire) & COUNT > 0)
    }
    /// No calls are inside, or they do not exist here.
    fn unpin_all(&self) {
        self.pins.iter().for_each(|p| _ = p.0.fetch_and(!COUNT, Relaxed));
    }
    fn open(&self, serial: u64) {
        self.pins.iter().for_each(|p| _ = p.0.fetch_add(opened(serial) << SERIAL_AT, Release));
    }
    fn close(&self) {
        self.pins.iter().for_each(|p| _ = p.0.fetch_and(COUNT, AcqRel));
    }
}

/// For a forked child, which has one thread.
pub fn with_mut(bell: *mut bell_t, f: impl FnOnce(&mut Manager) -> Result<i32>) -> Result<i32> {
    // In the parent there may be others inside: their pins are not ours to take away.
    with_pin(bell, |m| if m.is_forked() { Ok(()) } else { Err(Error::INVAL) })?;
    let (entry, _) = entry(bell);
    // Threads of the parent that were inside do not exist here.
    entry.unpin_all();
    // SAFETY: as in `with_pin`; and exclusive, because the function's contract says that the child has one thread.
    unsafe { entry.manager.load(Relaxed).as_mut() }.ok_or(Error::STALE).and_then(f)
}

pub fn insert(make: impl FnOnce() -> Result<Box<Manager>>) -> Result<*mut bell_t> {
    super::silence_own_panics();
    let serial = SERIAL.fetch_add(1, Relaxed);
    // Starting elsewhere each time keeps a place free as long as possible.
    let places = (0..PLACES).map(|i| (i + serial as usize) % PLACES);
    let free = |p: &usize| TABLE[*p].tag.compare_exchange(FREE, BUSY, AcqRel, Relaxed).is_ok();
    let place = places.into_iter().find(free).ok_or(Error::FULL)?;
    let entry = &TABLE[place];
    match make() {
        Ok(manager) => {
            let tag = serial << 9 | (place as u64) << 1 | 1;
            entry.manager.store(Box::into_raw(manager), Relaxed);
            entry.open(serial);
            entry.tag.store(tag, Release);
            Ok(ptr::without_provenance_mut(tag as usize))
        }
        Err(e) => {
            entry.tag.store(FREE, Release);
            Err(e)
        }
    }
}

#[cfg(doorbell_sim)]
pub fn forget(bell: *mut bell_t) {
    let (entry, tag) = entry(bell);
    if entry.tag.compare_exchange(tag, BUSY, AcqRel, Relaxed).is_ok() {
        entry.close();
        entry.unpin_all();
        entry.tag.store(FREE, Release);
    }
}

pub fn remove(bell: *mut bell_t, force: bool) -> Result<()> {
    with_pin(bell, |m| m.begin_destroy(force))?;
    let (entry, tag) = entry(bell);
    entry.tag.compare_exchange(tag, BUSY, AcqRel, Relaxed).map_err(|_| Error::STALE)?;
    entry.close();
    // SAFETY: the tag is ours now, so nobody else frees the manager.
    let m = unsafe { entry.manager.load(Relaxed).as_ref() }.ok_or(Error::STALE)?;
    // `begin_destroy` has woken all who sleep inside. In a forked child they do not exist.
    let forked = m.is_forked();
    while !forked && entry.is_pinned() {
        if !m.is_sound() {
            m.alarm();
        }
        crate::sync::thread::yield_now();
    }
    let manager = entry.manager.swap(ptr::null_mut(), AcqRel);
    // SAFETY: made by `Box::into_raw` in `insert`; the tag was ours to take, so nobody else frees it.
    unsafe { Box::from_raw(manager) }.finish_destroy();
    if forked {
        entry.unpin_all();
    }
    entry.tag.store(FREE, Release);
    Ok(())
}
