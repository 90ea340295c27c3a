//! Which managers are alive in this process: what makes a `bell_t*` a number that can be checked.
//!
//! The number is serial << 9 | place << 1 | 1. It is odd, so it is no address of anything; the serial never comes
//! again, so a destroyed manager is told from the one that took its place. An entry's tag is that number while the
//! manager lives.
use super::bell_t;
use crate::error::{Error, Result};
use crate::manager::Manager;
use std::ptr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64};

const PLACES: usize = 256;
const FREE: u64 = 0;
/// Being created, or being destroyed.
const BUSY: u64 = 2;

struct Entry {
    tag: AtomicU64,
    manager: AtomicPtr<Manager>,
    /// Calls inside. Several counters, each with a cache line, so that threads on many
    /// CPUs do not fight for one.
    pins: [Pins; LINES],
}

const LINES: usize = 8;

#[repr(align(64))]
struct Pins(AtomicU32);

static TABLE: [Entry; PLACES] = [const {
    Entry {
        tag: AtomicU64::new(FREE),
        manager: AtomicPtr::new(ptr::null_mut()),
        pins: [const { Pins(AtomicU32::new(0)) }; LINES],
    }
}; PLACES];
static SERIAL: AtomicU64 = AtomicU64::new(1);

fn entry(bell: *mut bell_t) -> Result<(&'static Entry, u64)> {
    let tag = bell.addr() as u64;
    let entry = &TABLE[(tag >> 1) as usize % PLACES];
    if tag & 1 == 0 || entry.tag.load(Acquire) != tag {
        return Err(Error::STALE);
    }
    Ok((entry, tag))
}

/// The manager, held: `remove` waits for the pin. Async-signal-safe.
pub fn with_pin<R>(bell: *mut bell_t, f: impl FnOnce(&Manager) -> Result<R>) -> Result<R> {
    let (entry, tag) = entry(bell)?;
    // Stacks of different threads are pages apart.
    let here = 0u8;
    let Pins(pins) = &entry.pins[((&raw const here).addr() >> 14) % LINES];
    pins.fetch_add(1, SeqCst);
    // Again, now that a destroyer would see the pin.
    let result = if entry.tag.load(SeqCst) == tag {
        // SAFETY: the tag is published after the pointer, and taken away before the manager is freed, which waits for
        // the pin.
        unsafe { entry.manager.load(Relaxed).as_ref() }.ok_or(Error::STALE).and_then(f)
    } else {
        Err(Error::STALE)
    };
    pins.fetch_sub(1, Release);
    result
}

impl Entry {
    fn is_pinned(&self) -> bool {
        self.pins.iter().any(|p| p.0.load(SeqCst) > 0)
    }
    fn unpin_all(&self) {
        self.pins.iter().for_each(|p| p.0.store(0, Relaxed));
    }
}

/// For a forked child, which has one thread.
pub fn with_mut(bell: *mut bell_t, f: impl FnOnce(&mut Manager) -> Result<i32>) -> Result<i32> {
    let (entry, _) = entry(bell)?;
    // In the parent there may be others inside: their pins are not ours to take away.
    with_pin(bell, |m| if m.is_forked() { Ok(()) } else { Err(Error::INVAL) })?;
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
    if let Ok((entry, _)) = entry(bell) {
        entry.unpin_all();
        entry.tag.store(FREE, Release);
    }
}

pub fn remove(bell: *mut bell_t, force: bool) -> Result<()> {
    with_pin(bell, |m| m.begin_destroy(force))?;
    let (entry, tag) = entry(bell)?;
    entry.tag.compare_exchange(tag, BUSY, SeqCst, Relaxed).map_err(|_| Error::STALE)?;
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
